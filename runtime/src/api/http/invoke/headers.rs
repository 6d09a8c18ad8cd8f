//! Which headers pass from the caller to the callee and back.

use crate::observe::trace::TraceContext;
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING,
};

/// Names the app to call; never passed on.
pub(super) const APP_ID: HeaderName = HeaderName::from_static("dapr-app-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const BAGGAGE: HeaderName = HeaderName::from_static("baggage");

/// What happens to a request's header.
enum Fate {
    Keep,
    Drop,
    /// Its name gets `dapr-` in front, so that no framework of the callee takes it for its own.
    Rename,
}

/// Leaves what the callee shall see, and adds the trace. `body_bytes` is how long the body is, if
/// that is known: only then may the request say so.
pub(super) fn to_callee(headers: &mut HeaderMap, trace: &TraceContext, body_bytes: Option<u64>) {
    drop_named_by_connection(headers);
    let mut others = Vec::new();
    for name in headers.keys() {
        match fate(name.as_str()) {
            Fate::Keep => {}
            Fate::Drop => others.push((name.clone(), false)),
            Fate::Rename => others.push((name.clone(), true)),
        }
    }
    for (name, renamed) in others {
        if renamed {
            rename(headers, &name);
        }
        headers.remove(name);
    }
    if body_bytes.is_none() {
        headers.remove(CONTENT_LENGTH);
    }
    if let Ok(traceparent) = HeaderValue::from_str(&trace.traceparent()) {
        headers.insert(TRACEPARENT, traceparent);
    }
    if trace.state().is_none() {
        headers.remove(TRACESTATE);
    }
    if headers.get_all(BAGGAGE).iter().nth(1).is_some()
        && let Some(first) = headers.get(BAGGAGE).cloned()
    {
        headers.insert(BAGGAGE, first);
    }
}

/// Leaves what the caller shall see of an answer. A length stays: the body passes unchanged.
pub(super) fn to_caller(headers: &mut HeaderMap) {
    drop_named_by_connection(headers);
    let drops = |name: &&HeaderName| is_of_one_hop(name.as_str()) || is_binary(name.as_str());
    let dropped: Vec<HeaderName> = headers.keys().filter(drops).cloned().collect();
    if dropped.contains(&TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    }
    for name in dropped {
        headers.remove(name);
    }
}

fn fate(name: &str) -> Fate {
    match name {
        _ if is_of_one_hop(name) || is_binary(name) => Fate::Drop,
        // `expect` was answered by our own server when it began to read the body.
        "dapr-app-id" | "destination-app-id" | "dapr-api-token" | "expect" => Fate::Drop,
        _ if name.starts_with("grpc-") => Fate::Rename,
        _ => Fate::Keep,
    }
}

/// Headers that speak about one connection only.
fn is_of_one_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
    )
}

/// Names that gRPC keeps for binary values.
fn is_binary(name: &str) -> bool {
    name.ends_with("-bin")
}

/// `Connection` may name further headers that are not to be passed on.
fn drop_named_by_connection(headers: &mut HeaderMap) {
    if !headers.contains_key(CONNECTION) {
        return;
    }
    let values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let named: Vec<HeaderName> = values
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    headers.remove(CONNECTION);
}

/// Copies the values of a header to its name with `dapr-` in front.
fn rename(headers: &mut HeaderMap, name: &HeaderName) {
    let Ok(renamed) = HeaderName::from_bytes(["dapr-", name.as_str()].concat().as_bytes()) else {
        return;
    };
    let values: Vec<HeaderValue> = headers.get_all(name).iter().cloned().collect();
    headers.remove(&renamed);
    for value in values {
        headers.append(&renamed, value);
    }
}
