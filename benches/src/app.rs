//! The app that Pillion calls: a thread of this process, so that it shares a clock with the load.

use crate::Result;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

/// Most messages that one measurement numbers.
pub(crate) const MESSAGES_MAX: usize = 1 << 20;

/// What the app subscribes to, beside the rows that publish where nobody listens.
const SUBSCRIPTIONS: &str = r#"[{"pubsubname":"pubsub","topic":"bench/+","route":"/deliver"}]"#;

/// The running app.
pub(crate) struct App {
    pub(crate) address: SocketAddr,
    arrivals: Arc<Arrivals>,
}

/// When message `n` arrived first.
struct Arrivals {
    started: Instant,
    /// Nanoseconds since `started`; 0 is not yet.
    first_ns: Vec<AtomicU64>,
    count: AtomicU64,
}

impl App {
    /// Starts it on a free port.
    pub(crate) fn start() -> Result<Self> {
        let first_ns = std::iter::repeat_with(|| AtomicU64::new(0)).take(MESSAGES_MAX).collect();
        let arrivals =
            Arc::new(Arrivals { started: Instant::now(), first_ns, count: AtomicU64::new(0) });
        let (tell, told) = mpsc::channel();
        let thread_arrivals = arrivals.clone();
        std::thread::Builder::new().name("app".into()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let ended = runtime.map(|runtime| runtime.block_on(serve(thread_arrivals, tell)));
            println!("bench: the app ended: {ended:?}");
        })?;
        Ok(Self { address: told.recv()?, arrivals })
    }

    /// When message `n` arrived.
    pub(crate) fn arrival(&self, n: usize) -> Option<Instant> {
        let ns = self.arrivals.first_ns.get(n)?.load(Ordering::Acquire);
        (ns > 0).then(|| self.arrivals.started + Duration::from_nanos(ns))
    }

    /// Messages that arrived, repetitions included.
    pub(crate) fn arrived(&self) -> u64 {
        self.arrivals.count.load(Ordering::Acquire)
    }

    /// Forgets what arrived, before the next measurement.
    pub(crate) fn forget(&self) {
        for ns in &self.arrivals.first_ns {
            ns.store(0, Ordering::Release);
        }
    }

    /// Waits until nothing arrives any more: a backlog of one measurement would burden the next.
    pub(crate) fn settle(&self) {
        const QUIET: Duration = Duration::from_millis(300);
        const LIMIT: Duration = Duration::from_secs(60);
        let end = Instant::now() + LIMIT;
        let (mut arrived, mut since) = (self.arrived(), Instant::now());
        while since.elapsed() < QUIET && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
            let now = self.arrived();
            if now != arrived {
                (arrived, since) = (now, Instant::now());
            }
        }
    }

    /// Waits until so many messages have arrived since the start; `false` when the time is up.
    pub(crate) fn wait_for(&self, count: u64, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        while self.arrived() < count {
            if Instant::now() >= end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }
}

async fn serve(arrivals: Arc<Arrivals>, tell: mpsc::Sender<SocketAddr>) -> Result<()> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    tell.send(listener.local_addr()?)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let arrivals = arrivals.clone();
        let service = service_fn(move |request| answer(arrivals.clone(), request));
        let http = hyper::server::conn::http1::Builder::new();
        tokio::spawn(http.serve_connection(TokioIo::new(stream), service));
    }
}

async fn answer(
    arrivals: Arc<Arrivals>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let text = match request.uri().path() {
        "/dapr/subscribe" => SUBSCRIPTIONS,
        "/deliver" => {
            let body = request.into_body().collect().await?.to_bytes();
            arrivals.note(&body);
            ""
        }
        "/dapr/config" => {
            let mut response = Response::new(Full::default());
            *response.status_mut() = StatusCode::NOT_FOUND;
            return Ok(response);
        }
        _ => r#"{"from":"app"}"#,
    };
    Ok(Response::new(Full::from(text)))
}

impl Arrivals {
    /// Reads the number out of `…"n":123…`, wherever the envelope has it.
    fn note(&self, body: &[u8]) {
        self.count.fetch_add(1, Ordering::AcqRel);
        let Some(at) = body.windows(4).position(|part| part == b"\"n\":") else { return };
        let digits = body.get(at + 4..).unwrap_or_default();
        let digits = digits.iter().skip_while(|byte| **byte == b' ');
        let number = digits
            .take_while(|byte| byte.is_ascii_digit())
            .fold(0_usize, |number, digit| number * 10 + usize::from(digit - b'0'));
        if let Some(first) = self.first_ns.get(number) {
            let ns = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
            let _ = first.compare_exchange(0, ns, Ordering::AcqRel, Ordering::Acquire);
        }
    }
}
