//! The one error of this crate: what a caller can do about it, and what a person should read.

use std::borrow::Cow;
use std::fmt;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller can do about an error. Doors choose status codes by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// The request itself is wrong; the same request will fail again.
    Invalid,
    /// The named thing does not exist.
    NotFound,
    /// The ETag given is not the one stored, or a first write found a value.
    Conflict,
    /// The ETag given is no ETag of this store.
    InvalidEtag,
    /// Larger than a named limit.
    TooLarge,
    /// A quota or the disk is full; deletes and acknowledgements still work.
    Full,
    /// A queue or rate limit is reached; later may work.
    Overloaded,
    /// The other side or the disk cannot be reached now.
    Unavailable,
    /// This component does not do that.
    Unsupported,
    /// The rights of the caller do not allow it.
    Denied,
    /// The time allowed has passed.
    Timeout,
    /// The component is closing or closed.
    Closed,
    /// Stored data is damaged.
    Corrupted,
    /// Anything else.
    Internal,
}

impl Kind {
    /// Whether the same request may succeed later without anybody changing it.
    pub const fn is_retryable(self) -> bool {
        matches!(self, Kind::Overloaded | Kind::Unavailable | Kind::Timeout | Kind::Full)
    }
}

/// What a build without the feature `tls` answers where TLS is asked for.
pub const WITHOUT_TLS: &str =
    "this build has no TLS: install the package pillion, or build with the feature tls";

/// What a build without the feature `crypto` answers where a crypto component is asked for.
pub const WITHOUT_CRYPTO: &str =
    "this build has no cryptography: install the package pillion, or build with the feature crypto";

/// A kind, a message for the person who called, and where it came from.
///
/// The message says what to change and never carries a secret.
#[derive(Debug, Clone)]
pub struct Error {
    kind: Kind,
    message: Cow<'static, str>,
}

impl Error {
    /// An error of `kind` that tells the caller `message`.
    pub fn new(kind: Kind, message: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, message: message.into() }
    }

    /// What the caller can do.
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// What to tell the caller.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Puts where it happened before the message: `context: message`.
    #[must_use]
    pub fn context(self, context: impl fmt::Display) -> Self {
        Self { kind: self.kind, message: format!("{context}: {}", self.message).into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        use std::io::ErrorKind as Io;
        let kind = match error.kind() {
            Io::StorageFull | Io::QuotaExceeded => Kind::Full,
            Io::TimedOut => Kind::Timeout,
            Io::NotFound => Kind::NotFound,
            Io::PermissionDenied => Kind::Denied,
            _ => Kind::Unavailable,
        };
        Self::new(kind, error.to_string())
    }
}
