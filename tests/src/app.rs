//! An app: an HTTP server whose answers the test decides and whose requests it can look at.

use crate::until;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Response};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A request that the app was asked.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Method.
    pub method: Method,
    /// Path and query as they came.
    pub path: String,
    /// Names in lower case and values.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Bytes,
    /// The status it was answered with.
    pub answered: u16,
}

impl Asked {
    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON; panics with the body if it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// An answer with a JSON content type.
pub fn json(status: u16, body: impl Into<Bytes>) -> Response<Bytes> {
    let response = Response::builder().status(status).header("content-type", "application/json");
    response.body(body.into()).expect("a status between 100 and 999")
}

/// A running app. Dropping it stops it.
pub struct App {
    /// The port it listens on.
    pub port: u16,
    log: Arc<Mutex<Vec<Asked>>>,
    seen: Arc<Mutex<Vec<String>>>,
    server: JoinHandle<()>,
}

type Handler = dyn Fn(&Asked) -> Response<Bytes> + Send + Sync;

/// What the connections of an app share.
#[derive(Clone)]
struct Shared {
    handler: Arc<Handler>,
    /// The handler may block: it gets a thread of its own.
    is_blocking: bool,
    log: Arc<Mutex<Vec<Asked>>>,
    seen: Arc<Mutex<Vec<String>>>,
}

impl App {
    /// Starts an app on a free port that answers what `handler` says.
    pub async fn start(
        handler: impl Fn(&Asked) -> Response<Bytes> + Send + Sync + 'static,
    ) -> Self {
        Self::start_at(0, handler).await
    }

    /// Starts an app on this port.
    pub async fn start_at(
        port: u16,
        handler: impl Fn(&Asked) -> Response<Bytes> + Send + Sync + 'static,
    ) -> Self {
        Self::open(port, Arc::new(handler), false).await
    }

    /// Starts an app on a free port whose handler may wait for something, on a thread of its own.
    pub async fn start_blocking(
        handler: impl Fn(&Asked) -> Response<Bytes> + Send + Sync + 'static,
    ) -> Self {
        Self::open(0, Arc::new(handler), true).await
    }

    async fn open(port: u16, handler: Arc<Handler>, is_blocking: bool) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("a free port");
        let port = listener.local_addr().expect("a bound listener").port();
        let shared = Shared { handler, is_blocking, log: Arc::default(), seen: Arc::default() };
        let (log, seen) = (shared.log.clone(), shared.seen.clone());
        let server = tokio::spawn(serve(listener, shared));
        Self { port, log, seen, server }
    }

    /// Paths it was asked so far, those that are not answered yet included.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Everything it was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What it was asked once that are `count` requests in all, or `limit` has passed.
    pub async fn asked_within(&self, count: usize, limit: Duration) -> Vec<Asked> {
        let begun = Instant::now();
        until("requests to the app", || async {
            let over = begun.elapsed() >= limit;
            Some(self.asked()).filter(|asked| asked.len() >= count || over)
        })
        .await
    }

    /// Waits until it was asked `count` requests in all, and returns them.
    pub async fn asked_at_least(&self, count: usize) -> Vec<Asked> {
        until(&format!("request {count} to the app"), || async {
            Some(self.asked()).filter(|asked| asked.len() >= count)
        })
        .await
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(listener: TcpListener, shared: Shared) {
    // Connections end with the app.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let shared = shared.clone();
        let service = service_fn(move |request| answer(request, shared.clone()));
        connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

async fn answer(
    request: hyper::Request<Incoming>,
    shared: Shared,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let text =
        |value: &hyper::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let mut asked = Asked {
        method: head.method,
        path: head.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
        headers: head.headers.iter().map(|(n, v)| (n.to_string(), text(v))).collect(),
        body,
        answered: 0,
    };
    shared.seen.lock().unwrap_or_else(PoisonError::into_inner).push(asked.path.clone());
    let response = if shared.is_blocking {
        let (handler, asked) = (shared.handler.clone(), asked.clone());
        let answered = tokio::task::spawn_blocking(move || handler(&asked)).await;
        answered.unwrap_or_else(|panic| json(500, panic.to_string()))
    } else {
        (shared.handler)(&asked)
    };
    asked.answered = response.status().as_u16();
    shared.log.lock().unwrap_or_else(PoisonError::into_inner).push(asked);
    Ok(response.map(Full::new))
}
