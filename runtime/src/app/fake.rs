//! An app for tests: a real HTTP server on a port of its own that remembers what it was asked.

use crate::body::Body;
use crate::resources::ChannelPlan;
use hyper::body::Incoming;
use hyper::http::request::Parts;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// The app; dropping it closes its port and its connections.
pub(crate) struct FakeApp {
    pub(crate) address: SocketAddr,
    seen: Arc<Seen>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    requests: Mutex<Vec<Parts>>,
}

impl FakeApp {
    /// Starts an app whose every answer comes from `answer`.
    pub(crate) async fn start<A, F>(answer: A) -> Self
    where
        A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        Self::start_at(([127, 0, 0, 1], 0).into(), answer).await
    }

    /// The same at a port that is known before.
    pub(crate) async fn start_at<A, F>(address: SocketAddr, answer: A) -> Self
    where
        A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let task = tokio::spawn(accept(listener, seen.clone(), answer));
        Self { address, seen, task }
    }

    /// An app that answers with the request's own body.
    pub(crate) async fn echo() -> Self {
        Self::start(|request| async { Response::new(Body::stream(request.into_body())) }).await
    }

    /// An app that always answers with this status and text.
    pub(crate) async fn always(status: u16, text: &'static str) -> Self {
        Self::start(move |_| async move {
            let mut response = Response::new(Body::from(text));
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            response
        })
        .await
    }

    /// The plan of a channel to it.
    pub(crate) fn plan(&self, app_id: &str) -> ChannelPlan {
        ChannelPlan {
            app_id: app_id.into(),
            host: self.address.ip().to_string(),
            port: self.address.port(),
            tls: false,
            max_concurrency: None,
            token: None,
            health: None,
        }
    }

    /// Connections it took so far.
    pub(crate) fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    /// The heads of all requests so far.
    pub(crate) fn requests(&self) -> Vec<Parts> {
        self.seen.requests.lock().unwrap().clone()
    }

    /// The head of the last request.
    pub(crate) fn last(&self) -> Parts {
        self.requests().pop().expect("the app was asked nothing")
    }
}

impl Drop for FakeApp {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept<A, F>(listener: TcpListener, seen: Arc<Seen>, answer: A)
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        seen.connections.fetch_add(1, Ordering::SeqCst);
        let (seen, answer) = (seen.clone(), answer.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let mut head = Request::new(());
            *head.method_mut() = request.method().clone();
            *head.uri_mut() = request.uri().clone();
            *head.headers_mut() = request.headers().clone();
            seen.requests.lock().unwrap().push(head.into_parts().0);
            let answer = answer(request);
            async { Ok::<_, Infallible>(answer.await) }
        });
        let http = hyper::server::conn::http1::Builder::new();
        connections.spawn(http.serve_connection(TokioIo::new(stream), service));
    }
}
