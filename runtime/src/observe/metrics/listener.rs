//! The metrics listener: every path answers with every family, as Dapr's does.

use super::{families, process};
use crate::body::Body;
use crate::drain::Drain;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Most scrapers connected at a time; the next waits in the kernel's queue.
pub const CONNECTIONS_MAX: usize = 16;

/// Time for a request's head, and between two requests of a connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);

/// Pause after `accept` failed, which it does when file descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Takes over totals that are counted elsewhere, just before they are written out.
pub type Refresh = Arc<dyn Fn() + Send + Sync>;

/// Answers scrapes until the process drains.
pub async fn serve(listener: TcpListener, refresh: Refresh, mut drain: Drain) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = async {
            let permit = permits.clone().acquire_owned().await;
            (listener.accept().await, permit)
        };
        tokio::select! {
            () = drain.started() => return,
            (socket, permit) = accepted => match socket {
                Ok((socket, _)) => {
                    let refresh = refresh.clone();
                    tokio::spawn(async move {
                        answer(socket, refresh).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!("metrics: accept failed: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

async fn answer(socket: TcpStream, refresh: Refresh) {
    let service = service_fn(|_: Request<hyper::body::Incoming>| {
        let refresh = refresh.clone();
        async move { Ok::<_, Infallible>(scrape(&refresh)) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(16 << 10)
        .serve_connection(TokioIo::new(socket), service)
        .await;
    if let Err(error) = served {
        tracing::debug!("metrics: connection ended: {error}");
    }
}

fn scrape(refresh: &Refresh) -> Response<Body> {
    refresh();
    let mut text = String::with_capacity(16 << 10);
    families::write_all(&mut text);
    process::write(&mut text);
    let mut response = Response::new(Body::from(text));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
