//! Service invocation, and every path that no other API knows.

mod headers;
mod path;
#[cfg(test)]
mod tests;

use super::Call;
use crate::app::App;
use crate::blocks::Blocks;
use crate::blocks::invoke::{DIRECT_INVOKE, failed};
use crate::body::Body;
use crate::error::{Error, Grpc, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hyper::body::Body as _;
use hyper::header::{ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, Version};
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream");
const NO_CACHE: HeaderValue = HeaderValue::from_static("no-cache");

/// `ANY /v1.0/invoke/{id}/method/{path…}`; `rest` is what follows `invoke/`, not decoded, from
/// the request's own path (double slashes still in it).
pub(super) fn by_path<'a>(
    call: Call,
    blocks: &'a Blocks,
    rest: &'a str,
) -> impl Future<Output = Response<Body>> + Send + 'a {
    // All that need not wait happens here, so that the future is small: it is memory per call.
    let outgoing = if let Some(id) = app_in_headers(&call.head.headers) {
        by_own_path(call, id)
    } else {
        match path::split(rest) {
            Some((id, method)) => Outgoing::new(call, id, method),
            None => Err(nobody()),
        }
    };
    send(outgoing, blocks)
}

/// Any other path: the header `dapr-app-id` or basic authentication names the app, else 404.
pub(super) fn by_header(
    call: Call,
    blocks: &Blocks,
) -> impl Future<Output = Response<Body>> + Send + '_ {
    let outgoing = match app_in_headers(&call.head.headers) {
        Some(id) => by_own_path(call, id),
        None => Err(nobody()),
    };
    send(outgoing, blocks)
}

fn by_own_path(call: Call, id: String) -> Result<Outgoing<'static>> {
    let uri = call.head.uri.clone();
    Outgoing::new(call, id.into(), uri.path())
}

/// The app that headers name: `dapr-app-id`, else basic authentication with that user.
fn app_in_headers(headers: &HeaderMap) -> Option<String> {
    if let Some(id) = headers.get(headers::APP_ID) {
        return id.to_str().ok().filter(|id| !id.is_empty()).map(Into::into);
    }
    let credentials = headers.get(AUTHORIZATION)?.as_bytes().strip_prefix(b"Basic ")?;
    let decoded = BASE64.decode(credentials.trim_ascii()).ok()?;
    let (user, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    (user == "dapr-app-id" && !password.is_empty()).then(|| password.into())
}

fn nobody() -> Error {
    Error::new(
        DIRECT_INVOKE.with_status(404, Grpc::NotFound),
        "failed getting app id either from the URL path or the header dapr-app-id",
    )
}

/// A request ready to be sent.
struct Outgoing<'a> {
    caller: Arc<App>,
    id: Cow<'a, str>,
    request: Request<Body>,
    wants_events: bool,
}

impl<'a> Outgoing<'a> {
    /// What the callee shall get, or the answer when there is no such call.
    fn new(call: Call, id: Cow<'a, str>, method: &str) -> Result<Self> {
        let Call { app, mut head, body, trace, .. } = call;
        let refuse = |why: &dyn fmt::Display| failed(&id, why);
        if !is_standard(&head.method) {
            return Err(refuse(&format_args!("the method {} cannot be invoked", head.method)));
        }
        head.uri = path::target(method, head.uri.query()).map_err(|why| refuse(&why))?;
        let wants_events = head.headers.get(ACCEPT) == Some(&EVENT_STREAM);
        let body_bytes = body.size_hint().exact();
        headers::to_callee(&mut head.headers, &trace, body_bytes);
        // What the server put there (an upgrade, say) is no business of the next hop.
        head.extensions.clear();
        head.version = Version::HTTP_11;
        let body = if body_bytes == Some(0) { Body::empty() } else { Body::stream(body) };
        Ok(Self { caller: app, id, request: Request::from_parts(head, body), wants_events })
    }
}

async fn send(outgoing: Result<Outgoing<'_>>, blocks: &Blocks) -> Response<Body> {
    let Outgoing { caller, id, request, wants_events } = match outgoing {
        Ok(outgoing) => outgoing,
        Err(refusal) => return super::error(&refusal),
    };
    match blocks.invoke.call(&caller, &id, request).await {
        Ok(mut response) => {
            headers::to_caller(response.headers_mut());
            *response.version_mut() = Version::HTTP_11;
            if wants_events {
                as_events(response.headers_mut());
            }
            response
        }
        Err(error) => super::error(&error),
    }
}

/// The methods there are for apps; CONNECT would turn the connection into something else.
fn is_standard(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET
            | Method::HEAD
            | Method::POST
            | Method::PUT
            | Method::DELETE
            | Method::OPTIONS
            | Method::TRACE
            | Method::PATCH
    )
}

/// Who asks for events gets their headers, unless the app says otherwise. Nothing is needed for
/// flushing: each chunk is sent as it comes.
fn as_events(headers: &mut HeaderMap) {
    let content_type = headers.entry(CONTENT_TYPE).or_insert(EVENT_STREAM);
    if content_type.as_bytes().starts_with(EVENT_STREAM.as_bytes()) {
        headers.entry(CACHE_CONTROL).or_insert(NO_CACHE);
    }
}
