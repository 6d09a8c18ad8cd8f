//! The HTTP client that components are lent: the connections of service invocation.

use super::outside::{Host, Url};
use crate::app::channel::tls::Tls;
use crate::app::channel::{CallError, whole};
use crate::body::Body;
use async_trait::async_trait;
use bytes::Bytes;
use hyper::ext::ReasonPhrase;
use hyper::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use hyper::http::uri::PathAndQuery;
use hyper::{Method, Request, Response, Uri};
use pillion_components::http::{HttpAnswer, HttpClient, HttpRequest, HttpTarget};
use pillion_components::{Error, Kind, Result, WITHOUT_TLS};
use std::sync::Arc;

/// Calls at a time of one component; the next one waits, within its own time.
const CALLS_MAX: usize = 32;

/// Headers that belong to the connection.
const CONNECTION: [&str; 10] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// A client of this target; see [`HttpClient`].
pub fn open(target: HttpTarget<'_>) -> Result<Arc<dyn HttpClient>> {
    let url = Url::parse(target.url).map_err(|why| Error::new(Kind::Invalid, why))?;
    if url.secure && cfg!(not(feature = "tls")) {
        return Err(Error::new(Kind::Unsupported, WITHOUT_TLS));
    }
    let tls = target.tls.map_or_else(Tls::to_outside, Tls::with);
    Ok(Arc::new(Client { host: url.host_by(tls, CALLS_MAX), path: url.path.into() }))
}

struct Client {
    host: Host,
    /// Without a slash at its end.
    path: Box<str>,
}

#[async_trait]
impl HttpClient for Client {
    async fn send(&self, request: HttpRequest) -> Result<HttpAnswer> {
        let (timeout, bytes_max) = (request.timeout, request.answer_bytes_max);
        let request = self.request(request)?;
        let exchange = async {
            let answer = self.host.pool.send(request).await?;
            whole(answer, bytes_max).await
        };
        match tokio::time::timeout(timeout, exchange).await {
            Ok(Ok(answer)) => Ok(told(answer)),
            Ok(Err(error)) => Err(failed(&error)),
            Err(_) => Err(Error::new(Kind::Timeout, format!("no answer within {timeout:?}"))),
        }
    }
}

impl Client {
    fn request(&self, sent: HttpRequest) -> Result<Request<Body>> {
        let invalid = |text: String| Error::new(Kind::Invalid, text);
        let path = match format!("{}{}", self.path, sent.below) {
            path if path.starts_with('/') => path,
            path => format!("/{path}"),
        };
        let path = PathAndQuery::try_from(path)
            .map_err(|error| invalid(format!("the path cannot be sent: {error}")))?;
        let method = Method::from_bytes(sent.method.as_bytes());
        let method = method.map_err(|error| invalid(format!("{}: {error}", sent.method)))?;
        let mut request = Request::new(sent.body.map_or_else(Body::empty, Body::from));
        *request.method_mut() = method;
        *request.uri_mut() = Uri::from(path);
        let headers = request.headers_mut();
        for (name, value) in &sent.headers {
            let header = HeaderName::from_bytes(name.as_bytes()).ok();
            let header = header.zip(HeaderValue::from_str(value).ok());
            let fit = header.filter(|(name, _)| !CONNECTION.contains(&name.as_str()));
            if let Some((name, value)) = fit {
                headers.insert(name, value);
            }
        }
        headers.insert(HOST, self.host.name.clone());
        Ok(request)
    }
}

fn failed(error: &CallError) -> Error {
    match error {
        CallError::Timeout => Error::new(Kind::Timeout, "no answer in time"),
        CallError::Unreachable(text) | CallError::Broken(text) => {
            Error::new(Kind::Unavailable, text.clone())
        }
        CallError::TooLarge(..) => Error::new(Kind::TooLarge, error.to_string()),
        CallError::Unhealthy => Error::new(Kind::Unavailable, error.to_string()),
    }
}

fn told(answer: Response<Bytes>) -> HttpAnswer {
    let (head, body) = answer.into_parts();
    let own = head.extensions.get::<ReasonPhrase>().map(ReasonPhrase::as_bytes);
    let reason = match own {
        Some(words) => String::from_utf8_lossy(words).into_owned(),
        None => head.status.canonical_reason().unwrap_or_default().to_owned(),
    };
    let mut headers = Vec::with_capacity(head.headers.len());
    for name in head.headers.keys() {
        // The length stays: of an answer to `HEAD` it is news.
        if name.as_str() == "content-length" || !CONNECTION.contains(&name.as_str()) {
            headers.push((name.to_string(), joined(&head.headers, name)));
        }
    }
    HttpAnswer { status: head.status.as_u16(), reason, headers, body }
}

/// The values of one header.
fn joined(headers: &HeaderMap, name: &HeaderName) -> String {
    let mut text = String::new();
    for value in headers.get_all(name) {
        if !text.is_empty() {
            text.push_str(", ");
        }
        text.push_str(&String::from_utf8_lossy(value.as_bytes()));
    }
    text
}
