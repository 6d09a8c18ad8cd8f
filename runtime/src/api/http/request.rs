//! One request from its head to its answer: route, token, trace, handler, metrics.

use super::measure::{Measure, method_label};
use super::phase::{Phase, UnderWay};
use super::route::{Kind, Route};
use super::server::Door;
use super::{
    Call, absent, bindings, configuration, empty, health, invoke, lock, metadata, publish, route,
    secrets, state,
};
use crate::app::App;
use crate::body::Body;
use crate::error::{Code, Error, Grpc};
use crate::observe::trace::TraceContext;
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

const API_TOKEN: HeaderName = HeaderName::from_static("dapr-api-token");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const BAGGAGE: HeaderName = HeaderName::from_static("baggage");

/// A request that is wrong whatever API it asks for.
const BAD_REQUEST: Code = Code::plain("ERR_BAD_REQUEST", 400, Grpc::InvalidArgument);

/// What the requests of one listener share.
pub(super) struct Shared {
    door: Arc<Door>,
    measure: Measure,
}

impl Shared {
    pub(super) fn new(door: Arc<Door>) -> Arc<Self> {
        let measure = Measure::new(door.app.id.clone());
        Arc::new(Self { door, measure })
    }

    pub(super) fn door(&self) -> &Door {
        &self.door
    }
}

/// Answers the requests of one connection.
pub(super) struct Service {
    shared: Arc<Shared>,
    phase: Arc<Phase>,
}

impl Service {
    pub(super) fn new(shared: Arc<Shared>, phase: Arc<Phase>) -> Self {
        Self { shared, phase }
    }
}

impl hyper::service::Service<Request<Incoming>> for Service {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, request: Request<Incoming>) -> Answer {
        let under_way = self.phase.begin();
        let started = Instant::now();
        if is_plain_health(&request) {
            let response = health::all(&self.shared.door.app, None);
            let took = started.elapsed();
            self.shared.measure.record(Kind::Health, "GET", response.status(), took);
            return Answer::Ready(Some(response));
        }
        let shared = self.shared.clone();
        Answer::Later(Box::pin(async move {
            let response = answer(&shared, request, started).await;
            keep_while_streaming(response, under_way)
        }))
    }
}

/// The probe that comes every few seconds for ever: answered without a task's worth of work.
fn is_plain_health(request: &Request<Incoming>) -> bool {
    let uri = request.uri();
    request.method() == Method::GET && uri.path() == "/v1.0/healthz" && uri.query().is_none()
}

fn keep_while_streaming(response: Response<Body>, under_way: UnderWay) -> Response<Body> {
    if response.body().is_whole() {
        return response;
    }
    response.map(|body| body.guarded(under_way))
}

/// An answer at hand, or one that is being made. Boxed, so that memory for a handler is taken
/// while it runs and a resting connection stays small.
pub(super) enum Answer {
    Ready(Option<Response<Body>>),
    Later(Pin<Box<dyn Future<Output = Response<Body>> + Send>>),
}

impl Future for Answer {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            Answer::Ready(response) => match response.take() {
                Some(response) => Poll::Ready(Ok(response)),
                None => Poll::Pending,
            },
            Answer::Later(future) => future.as_mut().poll(cx).map(Ok),
        }
    }
}

async fn answer(shared: &Shared, request: Request<Incoming>, started: Instant) -> Response<Body> {
    let (mut head, body) = request.into_parts();
    // Cheap: the parts of a URI are counted references.
    let uri: Uri = head.uri.clone();
    let method = method_label(&head.method);
    let path = route::clean(uri.path());
    let route = route::find(&head.method, &path);
    let traced = !path.starts_with("/v1.0/healthz");
    let echo = traced.then(|| TraceHeaders::of(&head.headers));
    let trace = match &echo {
        Some(headers) => headers.context(),
        None => TraceContext::new(),
    };
    let traceparent = trace.traceparent();

    let mut response = match admit(&shared.door.app, &mut head, route.kind) {
        Some(refused) => refused,
        None => {
            let limits = &shared.door.limits;
            let app = shared.door.app.clone();
            let call = Call { app, head, body, trace, body_bytes_max: limits.body_bytes_max };
            dispatch(&shared.door, call, route, &uri).await
        }
    };

    if response.status() == StatusCode::NOT_MODIFIED {
        // It tells about a body that the client has already.
        response.headers_mut().remove(CONTENT_TYPE);
    }
    if let Some(echo) = echo {
        echo.write(&traceparent, response.headers_mut());
    }
    shared.measure.record(route.kind, method, response.status(), started.elapsed());
    response
}

/// Checks what concerns every route and takes the token away; an answer is a refusal.
fn admit(app: &App, head: &mut Parts, kind: Kind) -> Option<Response<Body>> {
    if let Some(token) = &app.api_token
        && !matches!(kind, Kind::Health | Kind::HealthOutbound)
    {
        let given = head.headers.remove(API_TOKEN);
        if !given.is_some_and(|given| same_text(given.as_bytes(), token.as_bytes())) {
            return Some(wrong_token());
        }
    }
    let baggage = head.headers.get(BAGGAGE)?;
    if baggage.to_str().is_ok_and(is_baggage) {
        return None;
    }
    let error = Error::new(BAD_REQUEST, "invalid request: the baggage header is malformed");
    Some(super::error(&error))
}

/// Compares in a time that does not tell how much of a guess was right.
fn same_text(given: &[u8], expected: &[u8]) -> bool {
    let differ = given.iter().zip(expected).fold(0, |differ, (a, b)| differ | (a ^ b));
    given.len() == expected.len() && differ == 0
}

fn wrong_token() -> Response<Body> {
    let mut response = Response::new(Body::from(Bytes::from_static(b"invalid api token\n")));
    *response.status_mut() = StatusCode::UNAUTHORIZED;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

/// W3C baggage as far as it concerns us: members `key=value`, properties after `;`.
fn is_baggage(text: &str) -> bool {
    text.split(',').all(|member| {
        let pair = member.split(';').next().unwrap_or_default();
        pair.split_once('=').is_some_and(|(key, _)| {
            let key = key.trim();
            !key.is_empty() && key.bytes().all(|b| b.is_ascii_graphic())
        })
    })
}

/// The caller's trace headers, which its answer carries again.
struct TraceHeaders {
    traceparent: Option<HeaderValue>,
    tracestate: Option<HeaderValue>,
    baggage: Option<HeaderValue>,
}

impl TraceHeaders {
    fn of(headers: &HeaderMap) -> Self {
        Self {
            traceparent: headers.get(TRACEPARENT).cloned(),
            tracestate: headers.get(TRACESTATE).cloned(),
            baggage: headers.get(BAGGAGE).cloned(),
        }
    }

    fn context(&self) -> TraceContext {
        let text = |value: &Option<HeaderValue>| {
            value.as_ref().and_then(|value| value.to_str().ok()).map(str::to_owned)
        };
        match (text(&self.traceparent), text(&self.tracestate)) {
            (None, _) => TraceContext::new(),
            (parent, state) => TraceContext::from_headers(parent.as_deref(), state.as_deref()),
        }
    }

    /// What a handler has set itself stays.
    fn write(self, traceparent: &str, headers: &mut HeaderMap) {
        let ours = HeaderValue::from_str(traceparent).ok();
        let state = self.traceparent.and(self.tracestate);
        for (name, value) in [(TRACEPARENT, ours), (TRACESTATE, state), (BAGGAGE, self.baggage)] {
            if let Some(value) = value {
                headers.entry(name).or_insert(value);
            }
        }
    }
}

async fn dispatch(door: &Door, call: Call, route: Route<'_>, uri: &Uri) -> Response<Body> {
    let blocks = &*door.blocks;
    match route.kind {
        Kind::Health => {
            let wanted = call.query_value("appid");
            health::all(&call.app, wanted.as_deref())
        }
        Kind::HealthOutbound => health::outbound(&call.app),
        Kind::Metadata => metadata::get(&call.app, blocks),
        Kind::MetadataPut => metadata::put(call, route.name).await,
        Kind::Shutdown => shutdown(door, &call),
        Kind::StateSave => state::save(call, blocks, route.name).await,
        Kind::StateGet => state::get(call, blocks, route.name, route.rest).await,
        Kind::StateDelete => state::delete(call, blocks, route.name, route.rest).await,
        Kind::StateBulkGet => state::bulk_get(call, blocks, route.name).await,
        Kind::StateTransaction => state::transaction(call, blocks, route.name).await,
        Kind::StateQuery => state::query(&call, blocks, route.name),
        Kind::SecretGet => secrets::get(call, blocks, route.name, route.rest).await,
        Kind::SecretBulkGet => secrets::bulk_get(call, blocks, route.name).await,
        Kind::Configuration => configuration::answer(call, blocks, route.name, route.rest).await,
        Kind::Lock => lock::try_lock(call, blocks, route.name).await,
        Kind::Unlock => lock::unlock(call, blocks, route.name).await,
        Kind::Binding => bindings::invoke(call, blocks, route.name).await,
        Kind::Publish => publish::one(call, blocks, route.rest).await,
        Kind::BulkPublish => publish::bulk(call, blocks, route.rest).await,
        Kind::Invoke => invoke::by_path(call, blocks, route::after_invoke(uri.path())).await,
        Kind::Unknown => invoke::by_header(call, blocks).await,
        #[cfg(feature = "crypto")]
        Kind::Crypto => super::crypto::put(call, blocks, route.name, route.rest).await,
        absent => absent::answer(&call.app, absent, route.name),
    }
}

/// Time between the answer and a forced exit, for the answer to leave.
const FORCED_EXIT_DELAY: std::time::Duration = std::time::Duration::from_millis(100);

fn shutdown(door: &Door, call: &Call) -> Response<Body> {
    use crate::drain::Exit;
    use pillion_components::options::is_truthy;
    let exit = door.request_exit.clone();
    // A send fails only when the daemon has left its loop already.
    if call.header("dapr-force-shutdown").is_some_and(is_truthy) {
        tokio::spawn(async move {
            tokio::time::sleep(FORCED_EXIT_DELAY).await;
            let _ = exit.send(Exit::Forced);
        });
    } else {
        let _ = exit.send(Exit::Graceful);
    }
    empty(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn baggage_is_a_list_of_pairs() {
        for (text, expected) in
            [("k=v", true), ("a=1;p, b=2", true), ("a", false), ("=v", false), ("", false)]
        {
            assert_eq!(is_baggage(text), expected, "{text}");
        }
    }

    #[test]
    fn a_token_is_the_same_text() {
        assert!(same_text(b"abc", b"abc"));
        assert!(!same_text(b"abd", b"abc"));
        assert!(!same_text(b"ab", b"abc"));
        assert!(!same_text(b"", b"abc"));
    }
}
