//! The channel against real sockets: a fake app, or a listener that misbehaves on purpose.

use super::*;
use crate::app::fake::FakeApp;
use crate::app::health;
use crate::drain;
use crate::resources::HealthPlan;
use hyper::body::Incoming;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};

/// Longest that any of these tests waits for what must happen.
const SOON: Duration = Duration::from_secs(10);
const WHOLE_BYTES_MAX: usize = 1 << 20;

fn request(method: Method, path: &str, body: Body) -> Request<Body> {
    Request::builder().method(method).uri(path).body(body).unwrap()
}

fn get(path: &str) -> Request<Body> {
    request(Method::GET, path, Body::empty())
}

async fn whole_call(channel: &Channel, request: Request<Body>) -> Result<Bytes, CallError> {
    Ok(channel.call_whole(request, SOON, WHOLE_BYTES_MAX).await?.into_body())
}

/// Calls of any shape, one after the other, share one connection.
#[tokio::test]
async fn one_connection_serves_calls_in_a_row() {
    let app = FakeApp::echo().await;
    let channel = Channel::new(app.plan("orders"));
    for round in 0..10 {
        assert_eq!(whole_call(&channel, get("/empty")).await.unwrap(), "");
        let text = format!("body {round}");
        let post = request(Method::POST, "/echo", Body::from(text.clone()));
        assert_eq!(whole_call(&channel, post).await.unwrap(), text);
    }
    assert_eq!((app.connections(), app.requests().len()), (1, 20));
    assert_eq!(channel.pool.idle_len(), 1);
}

/// The future of a call is memory per call under way, and is moved a few times.
#[tokio::test]
async fn the_future_of_a_call_stays_small() {
    let channel = Channel::new(plan_at("127.0.0.1:1".parse().unwrap()));
    let bytes = std::mem::size_of_val(&channel.call(get("/")));
    assert!(bytes <= 3200, "{bytes} bytes");
}

#[tokio::test]
async fn host_and_token_are_the_apps_own() {
    let app = FakeApp::always(204, "").await;
    let channel = Channel::new(ChannelPlan { token: Some("secret".into()), ..app.plan("orders") });
    let mut call = get("/x?y=1");
    call.headers_mut().insert(API_TOKEN, HeaderValue::from_static("the caller's"));
    call.headers_mut().insert(HOST, HeaderValue::from_static("the caller's"));
    let answer = channel.call(call).await.unwrap();
    assert_eq!(answer.status(), StatusCode::NO_CONTENT);
    let seen = app.last();
    assert_eq!(seen.uri, "/x?y=1");
    assert_eq!(seen.headers[API_TOKEN], "secret");
    assert_eq!(seen.headers[HOST], app.address.to_string());
    assert_eq!(seen.headers.get_all(HOST).iter().count(), 1);
}

/// An answer that is given up midway takes its connection along; the next call gets a new one.
#[tokio::test]
async fn a_connection_with_an_unread_answer_is_not_lent_again() {
    let text: &'static str = "x".repeat(4 << 20).leak();
    let app = FakeApp::always(200, text).await;
    let channel = Channel::new(app.plan("orders"));
    drop(channel.call(get("/a")).await.unwrap());
    assert_eq!(channel.pool.idle_len(), 0);
    let answer = channel.call_whole(get("/b"), SOON, 8 << 20).await.unwrap();
    assert_eq!(answer.body().len(), text.len());
    assert_eq!(app.connections(), 2);
}

/// A server that keeps the connection after its first answer and drops it as soon as the next
/// request arrives: the worst moment, when nobody can know whether the request was acted on.
async fn drops_the_second_request() -> (std::net::SocketAddr, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let tell = tell.clone();
            tokio::spawn(async move {
                let mut stream = stream;
                let first = read_head(&mut stream).await;
                let _ = tell.send(first);
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
                let second = read_head(&mut stream).await;
                let _ = tell.send(second);
            });
        }
    });
    (address, told)
}

async fn read_head(stream: &mut TcpStream) -> String {
    let mut read = Vec::new();
    while !read.windows(4).any(|end| end == b"\r\n\r\n") {
        if stream.read_buf(&mut read).await.unwrap_or(0) == 0 {
            break;
        }
    }
    String::from_utf8_lossy(&read).lines().next().unwrap_or_default().to_owned()
}

fn plan_at(address: std::net::SocketAddr) -> ChannelPlan {
    ChannelPlan {
        app_id: "orders".into(),
        host: address.ip().to_string(),
        port: address.port(),
        tls: false,
        max_concurrency: None,
        token: None,
        health: None,
    }
}

#[tokio::test]
async fn a_safe_call_on_a_dying_connection_is_sent_once_more() {
    let (address, mut told) = drops_the_second_request().await;
    let channel = Channel::new(plan_at(address));
    assert_eq!(whole_call(&channel, get("/1")).await.unwrap(), "ok");
    assert_eq!(whole_call(&channel, get("/2")).await.unwrap(), "ok");
    let mut lines = Vec::new();
    while let Ok(line) = told.try_recv() {
        lines.push(line);
    }
    assert_eq!(lines, ["GET /1 HTTP/1.1", "GET /2 HTTP/1.1", "GET /2 HTTP/1.1"]);
}

#[tokio::test]
async fn a_call_with_effects_on_a_dying_connection_is_not_sent_again() {
    let (address, mut told) = drops_the_second_request().await;
    let channel = Channel::new(plan_at(address));
    assert_eq!(whole_call(&channel, get("/1")).await.unwrap(), "ok");
    let post = request(Method::POST, "/2", Body::from("once"));
    let error = whole_call(&channel, post).await.unwrap_err();
    assert!(matches!(&error, CallError::Broken(_)), "{error:?}");
    assert_eq!(told.recv().await.unwrap(), "GET /1 HTTP/1.1");
    assert_eq!(told.recv().await.unwrap(), "POST /2 HTTP/1.1");
    assert!(told.try_recv().is_err());
}

/// A connection closed while it idled is noticed; even a call with effects goes to a new one.
#[tokio::test]
async fn a_connection_that_closed_while_idle_costs_no_call() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            read_head(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        }
    });
    let channel = Channel::new(plan_at(address));
    for _ in 0..5 {
        let post = request(Method::POST, "/", Body::empty());
        assert_eq!(whole_call(&channel, post).await.unwrap(), "ok");
        tokio::time::timeout(SOON, async {
            while channel.pool.has_live_idle() {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
    }
}

/// Connections that nobody needs are closed, and then nothing wakes up any more.
#[tokio::test]
async fn idle_connections_are_closed() {
    let app = FakeApp::echo().await;
    let channel = Channel::new(app.plan("orders"));
    let answers: Vec<_> = [
        channel.call(get("/1")).await.unwrap(),
        channel.call(get("/2")).await.unwrap(),
        channel.call(get("/3")).await.unwrap(),
    ]
    .into();
    drop(answers);
    assert_eq!(channel.pool.idle_len(), 3);
    tokio::time::pause();
    tokio::time::sleep(pool::IDLE_SWEEP * 2 + Duration::from_secs(1)).await;
    assert_eq!(channel.pool.idle_len(), 0);
    assert!(!channel.pool.is_swept());
}

/// With `max_concurrency: 2` the third call reaches the app only after a body was read to its end.
#[tokio::test]
async fn a_place_is_held_until_the_answers_body_is_gone() {
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let arrived = Arc::new(Notify::new());
    let app = {
        let (running, most, arrived) = (running.clone(), most.clone(), arrived.clone());
        FakeApp::start(move |_: Request<Incoming>| {
            most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            arrived.notify_one();
            async { Response::new(Body::from("answer")) }
        })
        .await
    };
    let plan = ChannelPlan { max_concurrency: Some(2), ..app.plan("orders") };
    let channel = Arc::new(Channel::new(plan));
    let (first, second) = (channel.call(get("/1")).await.unwrap(), channel.call(get("/2")).await);
    let third = tokio::spawn({
        let channel = channel.clone();
        async move { whole_call(&channel, get("/3")).await }
    });
    // Whatever the third call does without a place, it does while the paths below go on.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(app.requests().len(), 2);
    running.fetch_sub(1, Ordering::SeqCst);
    drop(first);
    assert_eq!(tokio::time::timeout(SOON, third).await.unwrap().unwrap().unwrap(), "answer");
    assert_eq!(app.requests().len(), 3);
    assert_eq!(most.load(Ordering::SeqCst), 2);
    drop(second);
}

/// Calls given up while they wait or run leave their places behind.
#[tokio::test]
async fn a_call_that_is_given_up_gives_its_place_back() {
    let app = FakeApp::start(|request: Request<Incoming>| async move {
        if request.uri().path() == "/never" {
            std::future::pending::<()>().await;
        }
        Response::new(Body::from("answer"))
    })
    .await;
    let plan = ChannelPlan { max_concurrency: Some(1), ..app.plan("orders") };
    let channel = Channel::new(plan);
    for _ in 0..3 {
        let shortly = Duration::from_millis(20);
        let error = channel.call_whole(get("/never"), shortly, WHOLE_BYTES_MAX).await.unwrap_err();
        assert_eq!(error, CallError::Timeout);
    }
    assert_eq!(whole_call(&channel, get("/")).await.unwrap(), "answer");
}

#[tokio::test]
async fn an_answer_over_the_limit_is_refused() {
    let app = FakeApp::always(200, "0123456789").await;
    let channel = Channel::new(app.plan("orders"));
    let error = channel.call_whole(get("/"), SOON, 9).await.unwrap_err();
    assert_eq!(error, CallError::TooLarge(StatusCode::OK, 9));
    assert!(channel.call_whole(get("/"), SOON, 10).await.is_ok());
}

#[tokio::test]
async fn a_port_without_a_server_is_said_by_name() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = Channel::new(plan_at(address)).call(get("/")).await.unwrap_err();
    let CallError::Unreachable(text) = error else { panic!("{error:?}") };
    assert!(text.contains(&address.to_string()) && text.contains("refused"), "{text}");
}

/// The port is polled until it answers; without a health check the app then counts as healthy.
#[tokio::test]
async fn an_app_that_comes_late_is_waited_for() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let channel = Arc::new(Channel::new(plan_at(address)));
    let (_shutdown, drain) = drain::channel();
    let watching = tokio::spawn(health::watch(channel.clone(), drain));
    let mut healthy = channel.healthy();
    assert!(!*healthy.borrow());
    let _app = TcpListener::bind(address).await.unwrap();
    tokio::time::timeout(SOON, healthy.wait_for(|now| *now)).await.unwrap().unwrap();
    watching.await.unwrap();
}

/// One success makes the app healthy, `threshold` failures in a row unhealthy, and only then are
/// calls refused.
#[tokio::test]
async fn health_follows_the_probes() {
    let status = Arc::new(AtomicU16::new(500));
    let app = {
        let status = status.clone();
        FakeApp::start(move |_: Request<Incoming>| {
            let status = status.load(Ordering::SeqCst);
            async move { Response::builder().status(status).body(Body::from("alive?")).unwrap() }
        })
        .await
    };
    let probing = HealthPlan {
        path: "/alive".into(),
        interval: Duration::from_millis(5),
        timeout: SOON,
        threshold: 3,
    };
    let plan = ChannelPlan {
        health: Some(probing),
        token: Some("t".into()),
        max_concurrency: Some(1),
        ..app.plan("orders")
    };
    let channel = Arc::new(Channel::new(plan));
    let (shutdown, drain) = drain::channel();
    let watching = tokio::spawn(health::watch(channel.clone(), drain));
    let mut healthy = channel.healthy();
    assert_eq!(channel.call(get("/")).await.unwrap_err(), CallError::Unhealthy);

    status.store(299, Ordering::SeqCst);
    tokio::time::timeout(SOON, healthy.wait_for(|now| *now)).await.unwrap().unwrap();
    let busy = channel.call(get("/")).await.unwrap();
    assert_eq!(app.requests()[0].uri, "/alive");
    assert_eq!(app.requests()[0].headers[API_TOKEN], "t");

    // The only place is taken, and probes go on all the same.
    let before = app.requests().len();
    status.store(503, Ordering::SeqCst);
    tokio::time::timeout(SOON, healthy.wait_for(|now| !*now)).await.unwrap().unwrap();
    assert!(app.requests().len() >= before + 3);
    assert_eq!(channel.call(get("/")).await.unwrap_err(), CallError::Unhealthy);
    drop(busy);

    assert!(shutdown.drained(SOON).await);
    watching.await.unwrap();
}

/// An app that speaks TLS with a certificate of its own making is called; the same certificate
/// does not do for an address outside.
#[tokio::test]
async fn an_apps_certificate_is_not_checked_and_one_outside_is() {
    use rustls_pki_types::pem::PemObject;
    use rustls_pki_types::{CertificateDer, PrivateKeyDer};
    let certificate = CertificateDer::from_pem_slice(CERTIFICATE.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(KEY.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut head = [0; 1024];
            if stream.read(&mut head).await.unwrap_or(0) > 0 {
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                stream.write_all(answer).await.unwrap();
            }
        }
    });
    let channel = Channel::new(ChannelPlan { tls: true, ..plan_at(address) });
    assert!(channel.port_accepts().await);
    assert_eq!(whole_call(&channel, get("/")).await.unwrap(), "ok");

    let outside = Address::new("127.0.0.1", address.port(), Some(Tls::to_outside()));
    let error = pool::Pool::new(outside, 1).send(get("/")).await.unwrap_err();
    let CallError::Unreachable(text) = error else { panic!("{error:?}") };
    assert!(text.contains("certificate"), "{text}");
}

/// Made for this test; it protects nothing.
const KEY: &str = "\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgs2XqW03H3O3jvo8p
u4vc6TFoe3ts31QQUBocyFZWht2hRANCAAS7OmX4u/Bhs5aRvnffHu8oqRlZ8n1h
6sdCTJdLe+CWE2TN4RxS5THT3jCDKBhkEiwoMspZU3tHUVoCq6dOttY9
-----END PRIVATE KEY-----";

const CERTIFICATE: &str = "\
-----BEGIN CERTIFICATE-----
MIIBfTCCASOgAwIBAgIUcJI+1oHzMe13NAXt/ZZe1O5JIa0wCgYIKoZIzj0EAwIw
EzERMA8GA1UEAwwIdGVzdC1hcHAwIBcNMjYxMTI0MjA1OTI3WhgPMjEyNjEwMzEy
MDU5MjdaMBMxETAPBgNVBAMMCHRlc3QtYXBwMFkwEwYHKoZIzj0CAQYIKoZIzj0D
AQcDQgAEuzpl+LvwYbOWkb533x7vKKkZWfJ9YerHQkyXS3vglhNkzeEcUuUx094w
gygYZBIsKDLKWVN7R1FaAqunTrbWPaNTMFEwHQYDVR0OBBYEFPRQGv9ypKsECcXw
rg12PfAqtpXvMB8GA1UdIwQYMBaAFPRQGv9ypKsECcXwrg12PfAqtpXvMA8GA1Ud
EwEB/wQFMAMBAf8wCgYIKoZIzj0EAwIDSAAwRQIgJ4u94sKU2WWkCBn52J6Zeo3P
FDOPam7MEvhcnGx60o8CIQC4qLUZEqfjmQJuHFlT9WzXaSBOZUhPsBd021DOj11u
pw==
-----END CERTIFICATE-----";
