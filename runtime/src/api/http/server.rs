//! Sockets and connections of the HTTP door.
//!
//! A connection is one task. It speaks HTTP/1.1, or HTTP/2 where the client begins with that
//! (unless `DAPR_HTTP_DISABLE_H2C` is true); a client that asks to upgrade goes on with HTTP/1.1.
//! hyper's own timeout for heads makes a timer for each request and ends connections that merely
//! rest, so the one here watches from outside and costs a request nothing.

#[cfg(feature = "http2")]
mod http2;
#[cfg(not(feature = "http2"))]
#[path = "server/http2_absent.rs"]
mod http2;
mod io;
#[cfg(test)]
mod tests;

use super::phase::{Phase, Waiting};
use super::request::{Service, Shared};
use crate::app::App;
use crate::blocks::Blocks;
use crate::drain::{Drain, RequestExit};
use crate::resources::Limits;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use io::{Io, Stream};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

/// A connection without a request for this long is closed: one that was forgotten must not keep
/// its place for ever. Far above the time for which clients pool connections.
const IDLE_TIMEOUT: Duration = Duration::from_secs(600);

/// Pause after a failed accept: when file descriptors are used up it fails at once, again and
/// again, until a connection ends.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// hyper refuses a smaller read buffer.
const BUFFER_BYTES_MIN: usize = 8192;

/// What every connection of one app's listeners shares.
pub struct Door {
    /// The app that calls here.
    pub app: Arc<App>,
    /// The building blocks.
    pub blocks: Arc<Blocks>,
    /// Limits of bodies, heads and connections.
    pub limits: Limits,
    /// For `POST /v1.0/shutdown`.
    pub request_exit: RequestExit,
}

/// A listening socket.
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A unix socket.
    Unix(UnixListener),
}

impl Listener {
    async fn accept(&self) -> std::io::Result<Stream> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // An answer is written at once; waiting for more would only delay it. A socket
                // that refuses is gone already, which its first read will tell.
                let _ = stream.set_nodelay(true);
                Ok(Stream::Tcp(stream))
            }
            Listener::Unix(listener) => Ok(Stream::Unix(listener.accept().await?.0)),
        }
    }
}

/// Accepts connections until the process drains, then finishes those that are open.
pub async fn serve(listener: Listener, door: Arc<Door>, mut drain: Drain) {
    let places = Arc::new(Semaphore::new(door.limits.connections_max));
    let protocols = Arc::new(Protocols::new(&door.limits));
    let shared = Shared::new(door);
    loop {
        let accepted = async {
            let place = places.clone().acquire_owned().await;
            (listener.accept().await, place)
        };
        let (stream, place) = tokio::select! {
            accepted = accepted => accepted,
            () = drain.started() => return,
        };
        // The semaphore is never closed.
        let Ok(place) = place else { return };
        match stream {
            Ok(stream) => {
                let connection =
                    Connection { shared: shared.clone(), protocols: protocols.clone(), place };
                tokio::spawn(connection.run(stream, drain.clone()));
            }
            Err(error) => {
                tracing::warn!(app_id = &*shared.door().app.id, %error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Settings of the two protocols, made once.
struct Protocols {
    http1: http1::Builder,
    /// `None` when it is turned off.
    http2: Option<http2::Http2>,
}

impl Protocols {
    fn new(limits: &Limits) -> Self {
        let mut http1 = http1::Builder::new();
        http1
            .max_header_size(limits.header_bytes_max)
            .max_buf_size(limits.header_bytes_max.max(BUFFER_BYTES_MIN))
            .header_read_timeout(None);
        Self { http1, http2: http2::Http2::new(limits) }
    }
}

struct Connection {
    shared: Arc<Shared>,
    protocols: Arc<Protocols>,
    /// Given back when the connection ends.
    place: OwnedSemaphorePermit,
}

impl Connection {
    async fn run(self, stream: Stream, mut drain: Drain) {
        let Self { shared, protocols, place: _place } = self;
        let head_timeout = shared.door().limits.header_timeout;
        let phase = Phase::new();
        let mut io = Io::new(stream, phase.clone());
        let service = Service::new(shared, phase.clone());
        let mut watch = Watch::new(&phase, head_timeout);
        if let Some(http2) = &protocols.http2 {
            let begins = tokio::select! {
                begins = io.begins_as_http2() => begins,
                () = watch.overdue() => return,
                () = drain.started() => return,
            };
            match begins {
                Ok(true) => {
                    watch.multiplexed();
                    return http2.serve(io, service, watch, drain).await;
                }
                Ok(false) => {}
                Err(_gone) => return,
            }
        }
        let connection = pin!(protocols.http1.serve_connection(TokioIo::new(io), service));
        converse(connection, http1::Connection::graceful_shutdown, watch, drain).await;
    }
}

/// Drives a connection until it ends, is overdue, or was asked to finish and has. How it ends is
/// the client's business: it went away, or sent what is no HTTP and was told so.
async fn converse<C: Future>(
    mut connection: Pin<&mut C>,
    finish: fn(Pin<&mut C>),
    mut watch: Watch<'_>,
    mut drain: Drain,
) {
    let mut finishing = false;
    loop {
        tokio::select! {
            biased;
            _ = connection.as_mut() => return,
            () = watch.overdue() => return,
            () = drain.started(), if !finishing => {
                finishing = true;
                finish(connection.as_mut());
            }
        }
    }
}

/// Notices that a connection has owed a head, or had nothing to do, for too long.
struct Watch<'a> {
    phase: &'a Phase,
    head_timeout: Duration,
    /// HTTP/2 has frames of its own between requests, so that bytes do not mean a head.
    multiplexed: bool,
    timer: Pin<Box<Sleep>>,
    /// What the timer runs for, and after how many answers.
    running: Option<(Waiting, u32)>,
}

impl<'a> Watch<'a> {
    fn new(phase: &'a Phase, head_timeout: Duration) -> Self {
        Self {
            phase,
            head_timeout,
            multiplexed: false,
            timer: Box::pin(tokio::time::sleep(head_timeout)),
            running: Some((Waiting::Head, 0)),
        }
    }

    fn multiplexed(&mut self) {
        self.multiplexed = true;
    }

    /// Resolves when the connection shall be closed. Cancel safe.
    fn overdue(&mut self) -> impl Future<Output = ()> {
        poll_fn(|cx| self.poll_overdue(cx))
    }

    /// Costs nothing while requests come and go: a timer once set is left to run out, and only
    /// then is it asked whether it still means anything.
    fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let waiting = match self.phase.waiting() {
                Waiting::Head if self.multiplexed => Waiting::Idle,
                waiting => waiting,
            };
            let now = (waiting, self.phase.answered());
            match self.running {
                // A head has begun: it has less time than an idle connection.
                Some((Waiting::Idle, _)) if waiting == Waiting::Head => self.start(now),
                Some(then) => {
                    if self.timer.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                    if then == now && waiting != Waiting::Busy {
                        return Poll::Ready(());
                    }
                    self.running = None;
                }
                None if waiting == Waiting::Busy => return Poll::Pending,
                None => self.start(now),
            }
        }
    }

    fn start(&mut self, waiting: (Waiting, u32)) {
        let time = if waiting.0 == Waiting::Head { self.head_timeout } else { IDLE_TIMEOUT };
        self.timer.as_mut().reset(Instant::now() + time);
        self.running = Some(waiting);
    }
}
