//! The HTTP door.
//!
//! `server` owns sockets and connections, `request` carries one request from its head to its
//! answer, `route` knows which handler a path belongs to, and one file per building block decodes
//! its requests and encodes its answers.

mod absent;
mod bindings;
mod configuration;
#[cfg(feature = "crypto")]
mod crypto;
mod health;
pub mod invoke;
mod json;
mod lock;
mod measure;
mod metadata;
mod phase;
pub mod publish;
mod request;
mod route;
pub mod secrets;
pub mod server;
pub mod state;

use crate::app::App;
use crate::body::Body;
use crate::error::{Code, Error, Grpc, Result};
use crate::observe::trace::TraceContext;
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Response, StatusCode};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

/// Body could not be read, or is over the limit.
pub const BODY_READ: Code = Code::plain("ERR_BODY_READ", 400, Grpc::InvalidArgument);

/// Longest time for a body that is read whole, so that a slow client does not hold its place.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// One request on its way through the door.
#[derive(Debug)]
pub struct Call {
    /// The app whose listener it arrived at.
    pub app: Arc<App>,
    /// Method, URI, headers. `dapr-api-token` is already gone.
    pub head: Parts,
    /// The body, not read yet.
    pub body: Incoming,
    /// Its trace.
    pub trace: TraceContext,
    /// Most bytes of a body that is read whole.
    pub body_bytes_max: usize,
}

impl Call {
    /// Reads the whole body. Errors: longer than the limit, or the client went away.
    pub async fn read_body(&mut self) -> Result<Bytes> {
        use hyper::body::Body as _;
        if self.body.is_end_stream() {
            return Ok(Bytes::new());
        }
        let limited = Limited::new(&mut self.body, self.body_bytes_max);
        let Ok(collected) = tokio::time::timeout(BODY_TIMEOUT, limited.collect()).await else {
            let seconds = BODY_TIMEOUT.as_secs();
            let message = format!("failed to read request body: no end of it in {seconds} s");
            return Err(Error::new(BODY_READ, message));
        };
        match collected {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => Err(Error::new(
                BODY_READ,
                format!(
                    "failed to read request body: it is larger than {} bytes (--max-body-size)",
                    self.body_bytes_max
                ),
            )),
            Err(error) => {
                Err(Error::new(BODY_READ, format!("failed to read request body: {error}")))
            }
        }
    }

    /// A header's text, if it has one.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.headers.get(name)?.to_str().ok()
    }

    /// Pairs of the query, decoded; of a repeated name all are yielded.
    pub fn query(&self) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
        let query = self.head.uri.query().unwrap_or_default();
        query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (unescape(name), unescape(value))
        })
    }

    /// The first value of a query parameter.
    pub fn query_value(&self, name: &str) -> Option<Cow<'_, str>> {
        self.query().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// Query parameters that begin with `metadata.`, without that prefix; the first of each name.
    pub fn query_metadata(&self) -> Vec<(String, String)> {
        let mut metadata: Vec<(String, String)> = Vec::new();
        for (name, value) in self.query() {
            let Some(key) = name.strip_prefix("metadata.") else { continue };
            if !metadata.iter().any(|(known, _)| known == key) {
                metadata.push((key.to_owned(), value.into_owned()));
            }
        }
        metadata
    }
}

/// Decodes `%XX` and `+` of a query or a path parameter; what is no escape stays as it is.
pub fn unescape(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&first, tail)) = rest.split_first() {
        let hex = |digit: Option<&u8>| digit.and_then(|digit| char::from(*digit).to_digit(16));
        match (first, hex(tail.first()), hex(tail.get(1))) {
            (b'%', Some(high), Some(low)) => {
                decoded.push(u8::try_from(high * 16 + low).unwrap_or_default());
                rest = tail.get(2..).unwrap_or_default();
                continue;
            }
            (b'+', ..) => decoded.push(b' '),
            _ => decoded.push(first),
        }
        rest = tail;
    }
    match String::from_utf8(decoded) {
        Ok(text) => Cow::Owned(text),
        Err(error) => Cow::Owned(String::from_utf8_lossy(error.as_bytes()).into_owned()),
    }
}

/// An answer without a body.
pub fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// An answer with a JSON body.
pub fn json(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::from(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// An error as the contract encodes it.
pub fn error(error: &Error) -> Response<Body> {
    let status = StatusCode::from_u16(error.code().http);
    json(status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), error.to_json())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_decoded_and_odd_ones_kept() {
        for (text, expected) in
            [("a%2Fb", "a/b"), ("a+b", "a b"), ("100%", "100%"), ("%zz", "%zz"), ("%c3%a9", "é")]
        {
            assert_eq!(unescape(text), expected);
        }
    }
}
