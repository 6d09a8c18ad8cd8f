//! What the figures are compared with: hyper on one thread, answering nothing, or passing a request
//! on to the app and its answer back with no more than a pool of connections.

use crate::Result;
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};

/// Runs a bare server in this process until it is told to end: `bare PORT` or `proxy PORT APP_PORT`.
pub(crate) fn serve(kind: &str, ports: &[String]) -> Result<()> {
    let port =
        |index: usize| -> Result<u16> { Ok(ports.get(index).ok_or("a port is missing")?.parse()?) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminated = signal(SignalKind::terminate())?;
        let serve = async {
            match kind {
                "bare" => empty(port(0)?).await,
                "proxy" => proxy(port(0)?, SocketAddr::from(([127, 0, 0, 1], port(1)?))).await,
                _ => Err(format!("there is no bare server {kind:?}").into()),
            }
        };
        // Ends as a process that counts its instructions must: by returning.
        tokio::select! {
            ended = serve => ended,
            _ = terminated.recv() => Ok(()),
        }
    })
}

async fn empty(port: u16) -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let service = service_fn(|_: Request<Incoming>| async {
            let mut response = Response::new(Empty::<Bytes>::new());
            *response.status_mut() = hyper::StatusCode::NO_CONTENT;
            Ok::<_, std::convert::Infallible>(response)
        });
        let http = hyper::server::conn::http1::Builder::new();
        tokio::spawn(http.serve_connection(TokioIo::new(stream), service));
    }
}

type Pool = Arc<Mutex<Vec<SendRequest<Incoming>>>>;

async fn proxy(port: u16, app: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let pool = Pool::default();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let pool = pool.clone();
        let service = service_fn(move |request| pass_on(pool.clone(), app, request));
        let http = hyper::server::conn::http1::Builder::new();
        tokio::spawn(http.serve_connection(TokioIo::new(stream), service));
    }
}

async fn pass_on(
    pool: Pool,
    app: SocketAddr,
    request: Request<Incoming>,
) -> Result<Response<Incoming>> {
    let kept = pool.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let mut connection = match kept.filter(SendRequest::is_ready) {
        Some(connection) => connection,
        None => {
            let stream = TcpStream::connect(app).await?;
            stream.set_nodelay(true)?;
            let io = TokioIo::new(stream);
            let (sender, connection) = hyper::client::conn::http1::handshake(io).await?;
            tokio::spawn(connection);
            sender
        }
    };
    let response = connection.send_request(request).await?;
    pool.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
    Ok(response)
}
