//! HTTP/1.1 connections to one address: lent for one exchange each, kept while they are good,
//! closed after idling.
//!
//! A call holds a place from before its connection until its answer's body is gone, so there are
//! never more connections than places. A connection comes back only when both bodies are through
//! (`is_ready`); one that is given up midway is closed.

use super::CallError;
use super::tls::Tls;
use crate::body::Body;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, Uri};
use hyper_util::rt::TokioIo;
use std::error::Error as StdError;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

/// Calls at a time to one address, and so connections to it. The next call waits. As many as one
/// listener takes connections, so that the waiting is at the door.
pub(crate) const CALLS_MAX: usize = 512;
/// Connections kept open without a call. More than the local apps of a gateway call at a time;
/// each costs some 10 KB here and a socket on both sides.
pub(crate) const IDLE_MAX: usize = 32;
/// A connection that saw no call from one sweep to the next is closed, so after one to two of these.
pub(crate) const IDLE_SWEEP: Duration = Duration::from_secs(15);
/// Time for connecting, TLS included.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Read buffer of a connection, and so the largest head of an answer.
const READ_BUFFER_BYTES_MAX: usize = 16 << 10;

/// Where a pool's connections go.
#[derive(Debug)]
pub(crate) struct Address {
    host: String,
    port: u16,
    tls: Option<Tls>,
}

impl Address {
    /// An address; `host` is a name or an address, an IPv6 one with or without brackets.
    pub(crate) fn new(host: &str, port: u16, tls: Option<Tls>) -> Self {
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        Self { host: bare.unwrap_or(host).to_owned(), port, tls }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Connections to one address.
#[derive(Debug)]
pub(crate) struct Pool {
    address: Address,
    places: Semaphore,
    idle: Mutex<Idle>,
}

#[derive(Debug, Default)]
struct Idle {
    /// Last come, first lent: what is not needed grows old at the front.
    kept: Vec<Kept>,
    /// Number of the next sweep.
    sweep: u32,
    /// Runs while anything is kept.
    sweeper: Option<AbortHandle>,
}

#[derive(Debug)]
struct Kept {
    connection: Connection,
    /// Which sweep it will see first.
    since_sweep: u32,
}

type Connection = SendRequest<Body>;

impl Pool {
    /// A pool without connections; `calls_max` calls run at a time, the next ones wait.
    pub(crate) fn new(address: Address, calls_max: usize) -> Arc<Self> {
        let places = Semaphore::new(calls_max.clamp(1, CALLS_MAX));
        Arc::new(Self { address, places, idle: Mutex::default() })
    }

    /// Sends a request whose URI is only path and query, and waits for the answer's head. The place
    /// is given back when the answer's body is gone.
    pub(crate) async fn send(
        self: &Arc<Self>,
        request: Request<Body>,
    ) -> Result<Response<Body>, CallError> {
        // The semaphore is never closed; if it were, the call would go on unlimited.
        let limited = self.places.acquire().await.map(|permit| permit.forget()).is_ok();
        self.exchange(Lease { pool: self.clone(), connection: None, limited }, request).await
    }

    /// The same without waiting for a place: a health check of a busy app is not one more call.
    pub(crate) async fn send_unlimited(
        self: &Arc<Self>,
        request: Request<Body>,
    ) -> Result<Response<Body>, CallError> {
        let lease = Lease { pool: self.clone(), connection: None, limited: false };
        self.exchange(lease, request).await
    }

    async fn exchange(
        &self,
        mut lease: Lease,
        request: Request<Body>,
    ) -> Result<Response<Body>, CallError> {
        if let Some(mut connection) = self.lend() {
            let replay = Replay::of(&request);
            match connection.try_send_request(request).await {
                Ok(response) => return Ok(lease.answer(connection, response)),
                // The connection had died while it idled: either nothing was written and the
                // request is back, or it is one that may be sent twice.
                Err(mut failed) => match failed.take_message().or_else(|| replay?.request()) {
                    Some(again) => return Box::pin(self.exchange_anew(&mut lease, again)).await,
                    None => return Err(CallError::Broken(self.describe(failed.error()))),
                },
            }
        }
        // On the heap: rare, and the future of every call would be larger for it.
        Box::pin(self.exchange_anew(&mut lease, request)).await
    }

    async fn exchange_anew(
        &self,
        lease: &mut Lease,
        request: Request<Body>,
    ) -> Result<Response<Body>, CallError> {
        let mut connection = self.connect().await?;
        match connection.try_send_request(request).await {
            Ok(response) => Ok(lease.answer(connection, response)),
            Err(failed) => Err(CallError::Broken(self.describe(failed.error()))),
        }
    }

    /// Whether a connection can be made; it is closed again at once, because a server that takes
    /// one connection at a time would wait for its first request.
    pub(crate) async fn accepts(&self) -> bool {
        self.connect().await.is_ok()
    }

    async fn connect(&self) -> Result<Connection, CallError> {
        match tokio::time::timeout(CONNECT_TIMEOUT, self.connect_without_limit()).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(CallError::Unreachable(self.describe(&*error))),
            Err(_) => Err(CallError::Unreachable(format!(
                "{}: no connection within {} s",
                self.address,
                CONNECT_TIMEOUT.as_secs()
            ))),
        }
    }

    async fn connect_without_limit(&self) -> Result<Connection, Box<dyn StdError + Send + Sync>> {
        let stream = TcpStream::connect((self.address.host.as_str(), self.address.port)).await?;
        stream.set_nodelay(true)?;
        match &self.address.tls {
            None => Ok(start(stream).await?),
            Some(tls) => Ok(start(tls.connect(&self.address.host, stream).await?).await?),
        }
    }

    fn describe(&self, error: &(dyn StdError + 'static)) -> String {
        let mut text = format!("{}: {error}", self.address);
        let mut source = error.source();
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        text
    }

    /// The connection that was used last and is still good.
    fn lend(&self) -> Option<Connection> {
        let mut idle = self.idle();
        while let Some(Kept { connection, .. }) = idle.kept.pop() {
            if connection.is_ready() {
                return Some(connection);
            }
        }
        None
    }

    fn keep(self: &Arc<Self>, connection: Connection) {
        let mut idle = self.idle();
        if idle.kept.len() >= IDLE_MAX {
            return;
        }
        let since_sweep = idle.sweep;
        idle.kept.push(Kept { connection, since_sweep });
        // A body may be dropped where no runtime is any more.
        if idle.sweeper.is_none()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            idle.sweeper = Some(runtime.spawn(sweep(Arc::downgrade(self))).abort_handle());
        }
    }

    /// Closes what idled since before the last sweep. `false` when nothing is left to look after.
    fn sweep(&self) -> bool {
        let mut idle = self.idle();
        let now = idle.sweep;
        idle.kept.retain(|kept| kept.since_sweep == now && !kept.connection.is_closed());
        idle.sweep = now.wrapping_add(1);
        if idle.kept.is_empty() {
            idle.kept = Vec::new();
            idle.sweeper = None;
        }
        idle.sweeper.is_some()
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
impl Pool {
    pub(crate) fn idle_len(&self) -> usize {
        self.idle().kept.len()
    }

    pub(crate) fn has_live_idle(&self) -> bool {
        self.idle().kept.iter().any(|kept| !kept.connection.is_closed())
    }

    pub(crate) fn is_swept(&self) -> bool {
        self.idle().sweeper.is_some()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let idle = self.idle.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(sweeper) = &idle.sweeper {
            sweeper.abort();
        }
    }
}

async fn sweep(pool: Weak<Pool>) {
    loop {
        tokio::time::sleep(IDLE_SWEEP).await;
        if !pool.upgrade().is_some_and(|pool| pool.sweep()) {
            return;
        }
    }
}

/// Starts HTTP on a fresh stream. The task that drives it ends with the connection, which ends
/// when its [`SendRequest`] is dropped or the peer closes it.
async fn start<S>(stream: S) -> hyper::Result<Connection>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(READ_BUFFER_BYTES_MAX)
        .handshake(TokioIo::new(stream))
        .await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to an app ended");
        }
    });
    Ok(sender)
}

/// A place among the calls and the connection in use. Dropped with the answer's body.
struct Lease {
    pool: Arc<Pool>,
    connection: Option<Connection>,
    limited: bool,
}

impl Lease {
    fn answer(
        &mut self,
        connection: Connection,
        response: Response<hyper::body::Incoming>,
    ) -> Response<Body> {
        let lease = Lease {
            pool: self.pool.clone(),
            connection: Some(connection),
            limited: std::mem::take(&mut self.limited),
        };
        response.map(|incoming| Body::stream(incoming).guarded(lease))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take().filter(SendRequest::is_ready) {
            self.pool.keep(connection);
        }
        if self.limited {
            self.pool.places.add_permits(1);
        }
    }
}

/// The head of a request that may be sent twice: a safe method without a body.
struct Replay {
    method: Method,
    uri: Uri,
    headers: HeaderMap<HeaderValue>,
}

impl Replay {
    fn of(request: &Request<Body>) -> Option<Self> {
        use hyper::body::Body as _;
        let safe = request.method().is_safe() && request.body().is_end_stream();
        safe.then(|| Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            headers: request.headers().clone(),
        })
    }

    fn request(self) -> Option<Request<Body>> {
        let mut request = Request::new(Body::empty());
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.headers_mut() = self.headers;
        Some(request)
    }
}
