//! Crypto providers: keys by name that never leave their component. What an app encrypts is
//! encrypted with a key of its own, made for it; a provider only wraps and unwraps such keys.
//!
//! Any provider promises:
//! - what `wrap_key` made of a key, `unwrap_key` turns into the same key again, under the same name
//!   and algorithm, after a restart too;
//! - a wrapped key that was changed, or wrapped under another name or algorithm, is an error, never
//!   another key;
//! - a name without a key is an error of kind `NotFound`; a key that may not do what is asked, or is
//!   not of the algorithm's kind, is an error of kind `Invalid` or `Denied`;
//! - a key replaced at its source is used from the next call on, or from the next refresh where the
//!   component says so;
//! - slow arithmetic (RSA) and reading of files happen off the event loop, a bounded number at a time;
//! - keys appear in no error, log line or `Debug` output, and their memory is cleared.

mod jwk;
pub mod jwks;
mod keys;
mod local;
pub mod local_storage;
mod pem;

use crate::error::Result;
use crate::options::Options;
use async_trait::async_trait;
use std::pin::Pin;
use std::sync::Arc;
pub use zeroize::Zeroizing;

/// How a key is wrapped, by the names of RFC 7518 and the numbers of the encryption scheme
/// `dapr.io/enc/v1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the standard's")]
pub enum Algorithm {
    A256Kw = 1,
    A128CbcNoPad = 2,
    A192CbcNoPad = 3,
    A256CbcNoPad = 4,
    RsaOaep256 = 5,
}

impl Algorithm {
    const ALL: [Self; 5] = [
        Self::A256Kw,
        Self::A128CbcNoPad,
        Self::A192CbcNoPad,
        Self::A256CbcNoPad,
        Self::RsaOaep256,
    ];

    /// By its name or an alias, in capitals.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "AES" => Some(Self::A256Kw),
            "RSA" => Some(Self::RsaOaep256),
            name => Self::ALL.into_iter().find(|one| one.name() == name),
        }
    }

    /// By its number.
    pub fn from_number(number: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|one| u64::from(one.number()) == number)
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::A256Kw => "A256KW",
            Self::A128CbcNoPad => "A128CBC-NOPAD",
            Self::A192CbcNoPad => "A192CBC-NOPAD",
            Self::A256CbcNoPad => "A256CBC-NOPAD",
            Self::RsaOaep256 => "RSA-OAEP-256",
        }
    }

    /// Its number.
    pub const fn number(self) -> u8 {
        self as u8
    }
}

/// A source of keys that wraps other keys.
#[async_trait]
pub trait CryptoProvider: Send + Sync {
    /// Capabilities as metadata shows them.
    fn capabilities(&self) -> &'static [&'static str] {
        &[]
    }

    /// Wraps `key` with the key of this name.
    async fn wrap_key(&self, name: &str, algorithm: Algorithm, key: &[u8]) -> Result<Vec<u8>>;

    /// The key that was wrapped with the key of this name.
    async fn unwrap_key(
        &self,
        name: &str,
        algorithm: Algorithm,
        wrapped: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>>;
}

/// Gets documents over HTTP and HTTPS, for components that read their keys from elsewhere. The
/// caller bounds the time.
#[async_trait]
pub trait Fetch: Send + Sync {
    /// The body of a 200 answer to `GET url`. Errors: another status, no answer, more than
    /// `bytes_max` bytes.
    async fn get(&self, url: &str, bytes_max: usize) -> Result<Vec<u8>>;
}

/// A component that is being opened.
pub type Opening<'a> = Pin<Box<dyn Future<Output = Result<Arc<dyn CryptoProvider>>> + Send + 'a>>;

/// A row of the catalogue: a type name and how to open it.
pub struct Row {
    /// Name as resources write it, `crypto.…`.
    pub type_name: &'static str,
    /// Opens the provider with its settings.
    pub open: for<'a> fn(&'a Options, Arc<dyn Fetch>) -> Opening<'a>,
}

/// The crypto providers there are.
pub const CATALOGUE: &[Row] = &[
    Row { type_name: "crypto.dapr.jwks", open: jwks::open },
    Row { type_name: "crypto.dapr.localstorage", open: local_storage::open },
];
