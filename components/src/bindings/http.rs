//! `bindings.http`: calls of one HTTP server.
//!
//! Settings:
//! - `url` (required): what every call begins with, `http://` or `https://`
//! - `errorIfNot2XX` (true): an answer outside 200–299 is an error; also for one call
//! - `responseTimeout` (60s), `maxResponseBodySize` (16Mi): a longer or larger answer is an error.
//!   Dapr waits for ever and takes 100 Mi: more than a gateway has
//! - `MTLSRootCA`, `MTLSClientCert`, `MTLSClientKey`: PEM text or a file
//! - `securityToken`, `securityTokenHeader`: a header for every call
//!
//! Operations are the methods in lower case; `create` is `post`. Of a call's metadata `path` goes
//! behind the URL, and what begins with a capital letter is a header. An answer's metadata are
//! `statusCode`, `status` and the answer's headers. Redirects are answers like any other.

use super::{Answer, Ends, Failure, Opening, OutputBinding, Pairs, Request};
use crate::error::{Error, Kind, Result};
use crate::http::{ClientTls, HttpAnswer, HttpClient, HttpRequest, HttpTarget};
use crate::options::{Options, is_truthy};
use async_trait::async_trait;
use std::sync::Arc;
use std::time::Duration;

/// Default of `responseTimeout`: longer than any proxy waits.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);
/// Default of `maxResponseBodySize`: it is held in memory whole.
const RESPONSE_BYTES_MAX: u64 = 16 << 20;

/// Operations and their methods; whether the data goes along.
const METHODS: &[(&str, &str, bool)] = &[
    ("create", "POST", true),
    ("get", "GET", false),
    ("head", "HEAD", false),
    ("post", "POST", true),
    ("put", "PUT", true),
    ("patch", "PATCH", true),
    ("delete", "DELETE", false),
    ("options", "OPTIONS", false),
    ("trace", "TRACE", false),
];
const OPERATIONS: &[&str] =
    &["create", "get", "head", "post", "put", "patch", "delete", "options", "trace"];

const JSON: &str = "application/json; charset=utf-8";

pub(super) fn open(opening: &Opening<'_>) -> Result<Ends> {
    let options = opening.options;
    // TLS 1.3 has no renegotiation, and ours does none in 1.2.
    options.text("MTLSRenegotiation");
    let url = options.required("url")?.trim_end_matches('/');
    let client = (opening.http)(HttpTarget { url, tls: tls(options)? })
        .map_err(|error| error.context("metadata 'url'"))?;
    let token = match (options.text("securityToken"), options.text("securityTokenHeader")) {
        (Some(token), Some(header)) => Some((header.to_owned(), token.to_owned())),
        (None, None) => None,
        _ => {
            let message = "metadata 'securityToken' and 'securityTokenHeader' go together";
            return Err(Error::new(Kind::Invalid, message));
        }
    };
    let answer_bytes_max = options.bytes("maxResponseBodySize", RESPONSE_BYTES_MAX)?;
    let http = Http {
        client,
        token,
        error_if_not_2xx: options.truthy("errorIfNot2XX", true),
        timeout: options.duration("responseTimeout", RESPONSE_TIMEOUT)?,
        answer_bytes_max: usize::try_from(answer_bytes_max).unwrap_or(usize::MAX),
    };
    Ok((None, Some(Arc::new(http))))
}

#[cfg(feature = "tls")]
fn tls(options: &Options) -> Result<Option<ClientTls>> {
    use crate::tls::{Names, config};
    let names =
        Names { authorities: "MTLSRootCA", certificate: "MTLSClientCert", key: "MTLSClientKey" };
    let named = [names.authorities, names.certificate, names.key];
    // Without any of its own it shares the settings that the process has.
    if named.iter().all(|name| options.text(name).is_none()) {
        return Ok(None);
    }
    config(options, &names).map(Arc::new).map(Some)
}

#[cfg(not(feature = "tls"))]
#[allow(clippy::unnecessary_wraps, reason = "stands in for one that reads certificates")]
fn tls(_options: &Options) -> Result<Option<ClientTls>> {
    Ok(None)
}

struct Http {
    client: Arc<dyn HttpClient>,
    token: Option<(String, String)>,
    error_if_not_2xx: bool,
    timeout: Duration,
    answer_bytes_max: usize,
}

#[async_trait]
impl OutputBinding for Http {
    fn operations(&self) -> &'static [&'static str] {
        OPERATIONS
    }

    async fn invoke(&self, request: Request) -> Result<Answer, Failure> {
        let known = METHODS.iter().find(|(operation, ..)| *operation == request.operation);
        let Some((_, method, has_body)) = known else {
            let message = format!("http has no method for {}", request.operation);
            return Err(Error::new(Kind::Unsupported, message).into());
        };
        let must_be_2xx = request.get("errorIfNot2XX").map_or(self.error_if_not_2xx, is_truthy);
        let sent = HttpRequest {
            method,
            below: below(request.get("path").unwrap_or_default()),
            headers: self.headers(&request, *has_body),
            body: has_body.then(|| request.data.clone()),
            timeout: self.timeout,
            answer_bytes_max: self.answer_bytes_max,
        };
        let answer = self.client.send(sent).await?;
        let metadata = metadata(&answer);
        if must_be_2xx && !(200..300).contains(&answer.status) {
            let message = format!("received status code {}", answer.status);
            return Err(Failure { error: Error::new(kind(answer.status), message), metadata });
        }
        Ok(Answer { data: Some(answer.body), metadata })
    }
}

impl Http {
    fn headers(&self, request: &Request, has_body: bool) -> Pairs {
        let is_header = |(name, _): &&(String, String)| {
            name.starts_with(char::is_uppercase)
                || ["traceparent", "tracestate"].contains(&name.as_str())
        };
        let mut headers: Pairs = request.metadata.iter().filter(is_header).cloned().collect();
        let mut default = |name: &str, value: &str| {
            if !headers.iter().any(|(known, _)| known.eq_ignore_ascii_case(name)) {
                headers.push((name.to_owned(), value.to_owned()));
            }
        };
        default("accept", JSON);
        if has_body {
            default("content-type", JSON);
        }
        if let Some((name, token)) = &self.token {
            headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
            headers.push((name.clone(), token.clone()));
        }
        headers
    }
}

/// A path with one slash at its beginning; an empty one stays empty.
fn below(path: &str) -> String {
    match path.trim_start_matches('/') {
        "" => String::new(),
        path => format!("/{path}"),
    }
}

/// Whether the same call may be taken later.
fn kind(status: u16) -> Kind {
    match status {
        408 | 429 | 500.. => Kind::Unavailable,
        _ => Kind::Invalid,
    }
}

fn metadata(answer: &HttpAnswer) -> Pairs {
    let status = format!("{} {}", answer.status, answer.reason);
    let own = [("statusCode", answer.status.to_string()), ("status", status)];
    let own = own.into_iter().map(|(name, value)| (name.to_owned(), value));
    own.chain(answer.headers.iter().cloned()).collect()
}
