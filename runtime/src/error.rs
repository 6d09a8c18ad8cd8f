//! The error of the building blocks, and the one place where it gets its codes.
//!
//! Each row of [`Code`] is an error a client can meet: its tag, its HTTP status, its gRPC status,
//! and the reason in its details, as Dapr's contract has them. A block picks the row and writes
//! the message; a door only encodes.

use pillion_components::Kind;
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::fmt;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Canonical gRPC status codes, by their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are gRPC's own")]
pub enum Grpc {
    Canceled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    Unauthenticated = 16,
}

/// One row of the error catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code {
    /// `errorCode` of the JSON body.
    pub tag: &'static str,
    /// HTTP status.
    pub http: u16,
    /// gRPC status.
    pub grpc: Grpc,
    /// `reason` of the `ErrorInfo` in the details; a row without one has no details.
    pub reason: Option<&'static str>,
}

impl Code {
    /// A row without details.
    pub const fn plain(tag: &'static str, http: u16, grpc: Grpc) -> Self {
        Self { tag, http, grpc, reason: None }
    }

    /// A row whose errors carry details.
    pub const fn rich(tag: &'static str, http: u16, grpc: Grpc, reason: &'static str) -> Self {
        Self { tag, http, grpc, reason: Some(reason) }
    }

    /// The same row with another HTTP and gRPC status.
    #[must_use]
    pub const fn with_status(self, http: u16, grpc: Grpc) -> Self {
        Self { http, grpc, ..self }
    }
}

/// The HTTP and gRPC status of a component's error, where a block passes it on.
pub const fn status_of(kind: Kind) -> (u16, Grpc) {
    match kind {
        Kind::Invalid | Kind::InvalidEtag => (400, Grpc::InvalidArgument),
        Kind::NotFound => (404, Grpc::NotFound),
        Kind::Conflict => (409, Grpc::Aborted),
        Kind::TooLarge => (413, Grpc::ResourceExhausted),
        Kind::Full => (507, Grpc::ResourceExhausted),
        Kind::Overloaded => (429, Grpc::ResourceExhausted),
        Kind::Unavailable | Kind::Closed => (503, Grpc::Unavailable),
        Kind::Unsupported => (501, Grpc::Unimplemented),
        Kind::Denied => (403, Grpc::PermissionDenied),
        Kind::Timeout => (504, Grpc::DeadlineExceeded),
        _ => (500, Grpc::Internal),
    }
}

/// What a client is told.
#[derive(Debug, Clone)]
pub struct Error {
    code: Code,
    message: Cow<'static, str>,
    details: Option<Box<Details>>,
}

#[derive(Debug, Clone, Default)]
struct Details {
    /// `None` is written as `null`: Dapr tells an absent map from an empty one.
    metadata: Option<Vec<(&'static str, String)>>,
    resource: Option<(&'static str, String)>,
    violations: Vec<(String, String)>,
    help: Option<(&'static str, &'static str)>,
}

impl Error {
    /// An error of this row that tells the client `message`.
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into(), details: None }
    }

    /// Adds a pair to the `ErrorInfo`'s metadata.
    #[must_use]
    pub fn info(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.details_mut().metadata.get_or_insert_default().push((key, value.into()));
        self
    }

    /// Shows the `ErrorInfo`'s metadata as an empty map instead of `null`.
    #[must_use]
    pub fn empty_info(mut self) -> Self {
        self.details_mut().metadata.get_or_insert_default();
        self
    }

    /// Names the resource in a `ResourceInfo`.
    #[must_use]
    pub fn resource(mut self, kind: &'static str, name: impl Into<String>) -> Self {
        self.details_mut().resource = Some((kind, name.into()));
        self
    }

    /// Names a wrong field in a `BadRequest`.
    #[must_use]
    pub fn violation(mut self, field: impl Into<String>, description: impl Into<String>) -> Self {
        self.details_mut().violations.push((field.into(), description.into()));
        self
    }

    /// Adds a `Help` link.
    #[must_use]
    pub fn help(mut self, description: &'static str, url: &'static str) -> Self {
        self.details_mut().help = Some((description, url));
        self
    }

    fn details_mut(&mut self) -> &mut Details {
        self.details.get_or_insert_default()
    }

    /// The row of the catalogue.
    pub const fn code(&self) -> Code {
        self.code
    }

    /// What to tell the client.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The JSON body: `errorCode`, `message` and, where the row has a reason, `details` in the
    /// order BadRequest or Help, ResourceInfo, ErrorInfo.
    pub fn to_json(&self) -> String {
        let mut body = Map::new();
        body.insert("errorCode".into(), self.code.tag.into());
        body.insert("message".into(), self.message.as_ref().into());
        if let Some(reason) = self.code.reason {
            body.insert("details".into(), self.details_json(reason));
        }
        Value::Object(body).to_string()
    }

    fn details_json(&self, reason: &str) -> Value {
        let empty = Details::default();
        let details = self.details.as_deref().unwrap_or(&empty);
        let mut list = Vec::new();
        if !details.violations.is_empty() {
            let violations: Vec<Value> = details
                .violations
                .iter()
                .map(|(field, text)| json!({"field": field, "description": text}))
                .collect();
            list.push(json!({
                "@type": "type.googleapis.com/google.rpc.BadRequest",
                "field_violations": violations,
            }));
        }
        if let Some((description, url)) = details.help {
            list.push(json!({
                "@type": "type.googleapis.com/google.rpc.Help",
                "links": [{"description": description, "url": url}],
            }));
        }
        if let Some((kind, name)) = &details.resource {
            list.push(json!({
                "@type": "type.googleapis.com/google.rpc.ResourceInfo",
                "resource_type": kind,
                "resource_name": name,
                "owner": "",
                "description": "",
            }));
        }
        let pair = |(key, value): &(&'static str, String)| ((*key).into(), value.as_str().into());
        let object = |pairs: &Vec<_>| Value::Object(pairs.iter().map(pair).collect());
        let metadata = details.metadata.as_ref().map_or(Value::Null, object);
        list.push(json!({
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": reason,
            "domain": "dapr.io",
            "metadata": metadata,
        }));
        Value::Array(list)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.tag, self.message)
    }
}

impl std::error::Error for Error {}
