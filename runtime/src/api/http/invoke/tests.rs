//! Invocation from a caller's socket to the called app's and back: a door with only this API, a
//! fake app behind it, plain HTTP between them. What is expected was recorded from Dapr.

use super::*;
use crate::app::channel::Channel;
use crate::app::channel::pool::{Address, Pool};
use crate::app::fake::FakeApp;
use crate::app::{App, Apps};
use crate::blocks::invoke::Invocation;
use crate::blocks::{PubSubs, SecretStores, StateStores, pubsub, secrets, state};
use crate::observe::trace::TraceContext;
use crate::resources::{Access, ChannelPlan, EndpointPlan, Setting};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use pillion_components::env::Clock;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

const SOON: Duration = Duration::from_secs(10);

/// A door of `caller`, with `blocks` behind it.
struct Door {
    address: SocketAddr,
    pool: Arc<Pool>,
    task: JoinHandle<()>,
}

impl Drop for Door {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Door {
    async fn open(caller: Arc<App>, blocks: Blocks) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let blocks = Arc::new(blocks);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (caller, blocks) = (caller.clone(), blocks.clone());
                let service = service_fn(move |request: Request<Incoming>| {
                    let (caller, blocks) = (caller.clone(), blocks.clone());
                    async move { Ok::<_, Infallible>(answer(caller, &blocks, request).await) }
                });
                let http = hyper::server::conn::http1::Builder::new();
                connections.spawn(http.serve_connection(TokioIo::new(stream), service));
            }
        });
        let pool = Pool::new(Address::new("127.0.0.1", address.port(), None), 64);
        Self { address, pool, task }
    }

    /// A door for `app1` in the namespace `default`, with what `others` holds beside it.
    async fn of_app1(channel: Option<ChannelPlan>, others: Vec<Arc<App>>) -> Self {
        Self::with_endpoints(app("app1", channel, Access::default()), others, Vec::new()).await
    }

    async fn with_endpoints(
        caller: Arc<App>,
        others: Vec<Arc<App>>,
        endpoints: Vec<EndpointPlan>,
    ) -> Self {
        let apps = Arc::new(Apps::default());
        for one in others.into_iter().chain([caller.clone()]) {
            assert!(apps.insert(one));
        }
        let blocks = Blocks {
            notices: Box::new(Vec::new),
            state: state::State::new(StateStores::default(), Clock::system()),
            pubsub: pubsub::Publishing::new(PubSubs::default(), Clock::system()),
            secrets: secrets::Secrets::new(SecretStores::default()),
            configuration: crate::blocks::configuration::Configuration::new(Default::default()),
            locks: crate::blocks::lock::Locks::new(Default::default()),
            bindings: std::sync::Arc::new(crate::blocks::bindings::Bindings::new(
                Default::default(),
            )),
            #[cfg(feature = "crypto")]
            crypto: crate::blocks::crypto::Crypto::new(Default::default()),
            invoke: Invocation::new(apps.clone(), endpoints),
            apps,
            shown: Vec::new(),
            endpoints: Vec::new(),
            clock: Clock::system(),
        };
        Self::open(caller, blocks).await
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        let (head, body) = self.pool.send(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let body = String::from_utf8(body.to_vec()).unwrap();
        Answer { status: head.status.as_u16(), headers: head.headers, body }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(asking("GET", path, &[], "")).await
    }
}

async fn answer(caller: Arc<App>, blocks: &Blocks, request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let text = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
    let trace = TraceContext::from_headers(text("traceparent"), text("tracestate"));
    let call = Call { app: caller, head, body, trace, body_bytes_max: 1 << 20 };
    let path = call.head.uri.path().to_owned();
    match path.trim_start_matches('/').strip_prefix("v1.0/invoke/") {
        Some(rest) => by_path(call, blocks, rest).await,
        None => by_header(call, blocks).await,
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    headers: HeaderMap,
    body: String,
}

impl Answer {
    /// The message of an `ERR_DIRECT_INVOKE` with this status.
    fn error(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{self:?}");
        let body: serde_json::Value = serde_json::from_str(&self.body).unwrap();
        assert_eq!(body["errorCode"], "ERR_DIRECT_INVOKE");
        assert_eq!(self.headers["content-type"], "application/json");
        body["message"].as_str().unwrap().to_owned()
    }
}

fn app(id: &str, channel: Option<ChannelPlan>, access: Access) -> Arc<App> {
    let channel = channel.map(|plan| Arc::new(Channel::new(plan)));
    Arc::new(App::new(id, "default", None, access, channel))
}

fn asking(method: &str, path: &str, headers: &[(&str, &str)], body: &'static str) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Body::from(body)).unwrap()
}

#[tokio::test]
async fn every_method_reaches_the_app_as_it_was_sent() {
    let fake = FakeApp::echo().await;
    let door = Door::of_app1(Some(fake.plan("app1")), Vec::new()).await;
    for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE"] {
        let body = if matches!(method, "POST" | "PUT" | "PATCH") { "{\"a\":1}" } else { "" };
        let path = "/v1.0/invoke/app1/method/echo/x?q=1&q=2&z=%20a";
        let got = door.send(asking(method, path, &[], body)).await;
        assert_eq!((got.status, &*got.body), (200, body), "{method}");
        let seen = fake.last();
        assert_eq!((seen.method.as_str(), seen.uri.to_string()), (method, path[24..].into()));
        assert!(seen.headers.contains_key("traceparent"));
        assert!(!seen.headers.contains_key("content-type"));
        assert!(!seen.headers.contains_key("transfer-encoding"));
    }
    let refused = door.send(asking("BREW", "/v1.0/invoke/app1/method/x", &[], "")).await;
    refused.error(500);
    assert_eq!(fake.requests().len(), 8);
    assert_eq!(fake.connections(), 1);
}

#[tokio::test]
async fn the_app_is_named_by_path_header_or_user() {
    let fake = FakeApp::always(200, "yes").await;
    let door = Door::of_app1(Some(fake.plan("app1")), Vec::new()).await;
    let basic = "Basic ZGFwci1hcHAtaWQ6YXBwMQ==";
    for (path, header, seen) in [
        ("/v1.0/invoke/app1/method/a/b?x=1", ("x-none", ""), "/a/b?x=1"),
        ("/v1.0/invoke/app1.default/method/a", ("x-none", ""), "/a"),
        ("/v1.0/invoke/app1/method", ("x-none", ""), "/"),
        ("/a/b?x=1", ("dapr-app-id", "app1"), "/a/b?x=1"),
        ("/a//b/", ("dapr-app-id", "app1.default"), "/a/b"),
        ("/a/b", ("authorization", basic), "/a/b"),
    ] {
        let got = door.send(asking("GET", path, &[header], "")).await;
        assert_eq!((got.status, &*got.body), (200, "yes"), "{path}");
        assert_eq!(fake.last().uri.to_string(), seen);
        assert!(!fake.last().headers.contains_key("dapr-app-id"));
    }
    assert_eq!(fake.last().headers["authorization"], basic);

    let nobody = "failed getting app id either from the URL path or the header dapr-app-id";
    assert_eq!(door.get("/v1.0/invoke/app1").await.error(404), nobody);
    assert_eq!(door.get("/anything").await.error(404), nobody);
    let other_user = ("authorization", "Basic YWxpY2U6YXBwMQ==");
    let got = door.send(asking("GET", "/anything", &[other_user], "")).await;
    assert_eq!(got.error(404), nobody);
}

#[tokio::test]
async fn what_cannot_be_called_is_told_as_recorded() {
    let lonely = app("lonely", None, Access::default());
    let door = Door::of_app1(None, vec![lonely]).await;
    for (path, message) in [
        ("nobody/method/x", "failed to invoke, id: nobody, err: couldn't find service: nobody"),
        (
            "app1.elsewhere/method/x",
            "failed to invoke, id: app1.elsewhere, err: couldn't find service: app1",
        ),
        ("a.b.c/method/echo", "failed to invoke, id: a.b.c, err: invalid app id a.b.c"),
        (
            "app1/method/echo",
            "failed to invoke, id: app1, err: cannot invoke local endpoint: app channel not \
             initialized",
        ),
        ("lonely/method/x", "failed to invoke, id: lonely, err: app channel is not initialized"),
        (
            "app1/method/echo/a%20b%2Fc%3Fd",
            "failed to invoke, id: app1, err: rpc error: code = InvalidArgument desc = invalid \
             method: method contains forbidden character: \"echo/a b/c?d\"",
        ),
    ] {
        assert_eq!(door.get(&format!("/v1.0/invoke/{path}")).await.error(500), message);
    }
}

#[tokio::test]
async fn any_status_of_the_app_passes() {
    let fake = FakeApp::start(|request: Request<Incoming>| async move {
        let status = request.uri().path().trim_start_matches('/').parse::<u16>().unwrap();
        let answer = Response::builder().status(status).header("location", "/elsewhere");
        answer.body(Body::from("from the app")).unwrap()
    })
    .await;
    let door = Door::of_app1(Some(fake.plan("app1")), Vec::new()).await;
    for status in [200, 201, 204, 302, 304, 400, 401, 403, 404, 418, 500, 503, 599] {
        let got = door.get(&format!("/v1.0/invoke/app1/method/{status}")).await;
        let body = if matches!(status, 204 | 304) { "" } else { "from the app" };
        assert_eq!((got.status, &*got.body), (status, body));
        assert_eq!(got.headers["location"], "/elsewhere");
    }
}

/// Two apps of one process are one hop apart: stamped, with the callee's token, not forwarded.
#[tokio::test]
async fn headers_pass_but_for_those_of_one_hop_and_forged_ones() {
    let fake = FakeApp::start(|_| async {
        let mut answer = Response::new(Body::from("x"));
        for (name, value) in [
            ("connection", "x-hop"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("x-bin-bin", "AA=="),
            ("x-kept", "a"),
        ] {
            answer.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        answer.headers_mut().append("x-kept", HeaderValue::from_static("b"));
        answer
    })
    .await;
    let plan = ChannelPlan { token: Some("calleetoken".into()), ..fake.plan("app2") };
    let door = Door::of_app1(None, vec![app("app2", Some(plan), Access::default())]).await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let request = asking(
        "GET",
        "/v1.0/invoke/app2/method/echo",
        &[
            ("X-One", "1"),
            ("x-two", "a, b"),
            ("x-many", "1"),
            ("x-many", "2"),
            ("Accept", "text/html"),
            ("Authorization", "Bearer t"),
            ("Connection", "X-Hop"),
            ("X-Hop", "1"),
            ("TE", "trailers"),
            ("Upgrade", "h2c"),
            ("dapr-caller-app-id", "forged"),
            ("dapr-callee-app-id", "forged"),
            ("dapr-caller-namespace", "forged"),
            ("destination-app-id", "x"),
            ("X-Bin-bin", "AA=="),
            ("grpc-timeout", "5S"),
            ("X-Forwarded-For", "1.2.3.4"),
            ("traceparent", trace),
            ("tracestate", "a=b"),
            ("baggage", "k=v"),
            ("baggage", "second=1"),
        ],
        "",
    );
    let got = door.send(request).await;
    let mut seen: Vec<_> = fake.last().headers.iter().map(pair).collect();
    seen.sort();
    let traceparent = seen.iter().find(|pair| pair.starts_with("traceparent")).unwrap();
    assert!(traceparent.starts_with(&format!("traceparent: {}", &trace[..36])), "{traceparent}");
    assert!(!traceparent.contains(&trace[36..52]), "the span is ours");
    seen.retain(|pair| !pair.starts_with("traceparent"));
    let host = format!("host: {}", fake.address);
    let expected = [
        "accept: text/html",
        "authorization: Bearer t",
        "baggage: k=v",
        "dapr-api-token: calleetoken",
        "dapr-callee-app-id: app2",
        "dapr-caller-app-id: app1",
        "dapr-caller-namespace: default",
        "dapr-grpc-timeout: 5S",
        &host,
        "tracestate: a=b",
        "x-forwarded-for: 1.2.3.4",
        "x-many: 1",
        "x-many: 2",
        "x-one: 1",
        "x-two: a, b",
    ];
    assert_eq!(seen, expected);

    let mut back: Vec<_> = got.headers.iter().map(pair).collect();
    back.retain(|pair| !pair.starts_with("date"));
    back.sort();
    assert_eq!(back, ["content-length: 1", "x-kept: a", "x-kept: b"]);
}

fn pair((name, value): (&hyper::header::HeaderName, &HeaderValue)) -> String {
    format!("{name}: {}", value.to_str().unwrap())
}

#[tokio::test]
async fn an_app_calls_whom_its_access_names() {
    let fake = FakeApp::always(200, "yes").await;
    let access = Access { invoke: Some(vec!["app2".into()]), ..Access::default() };
    let caller = app("app1", Some(fake.plan("app1")), access);
    let others = vec![
        app("app2", Some(fake.plan("app2")), Access::default()),
        app("app3", Some(fake.plan("app3")), Access::default()),
    ];
    let door = Door::with_endpoints(caller, others, vec![endpoint(&fake, "outside")]).await;
    for allowed in ["app1", "app2", "app2.default"] {
        assert_eq!(door.get(&format!("/v1.0/invoke/{allowed}/method/x")).await.status, 200);
    }
    let url = format!("http://{}", fake.address);
    for denied in ["app3", "app3.default", "outside", &url] {
        let path = format!("/v1.0/invoke/{denied}/method/x");
        let message = door.send(asking("PUT", &path, &[], "")).await.error(403);
        assert!(message.contains("has denied access to id: "), "{message}");
        assert!(message.ends_with(" operation: /x verb: PUT"), "{message}");
    }
    assert_eq!(fake.requests().len(), 3);
}

fn endpoint(fake: &FakeApp, name: &str) -> EndpointPlan {
    EndpointPlan {
        name: name.into(),
        base_url: format!("http://{}/base/", fake.address),
        headers: vec![("X-Fixed".into(), Setting::Text("yes-it-is".into()))],
        secret_store: None,
        scopes: Vec::new(),
    }
}

#[tokio::test]
async fn endpoints_and_urls_are_called_outside() {
    let fake = FakeApp::always(200, "outside").await;
    let hidden = EndpointPlan { scopes: vec!["other".into()], ..endpoint(&fake, "hidden") };
    let broken = EndpointPlan { base_url: "nowhere".into(), ..endpoint(&fake, "broken") };
    let endpoints = vec![endpoint(&fake, "outside"), hidden, broken];
    let caller = app("app1", None, Access::default());
    let door = Door::with_endpoints(caller, Vec::new(), endpoints).await;

    let forged = [("dapr-caller-app-id", "forged"), ("host", "forged")];
    let path = "/v1.0/invoke/outside/method/echo?x=1";
    assert_eq!(door.send(asking("GET", path, &forged, "")).await.body, "outside");
    let seen = fake.last();
    assert_eq!(seen.uri, "/base/echo?x=1");
    assert_eq!(seen.headers["x-fixed"], "yes-it-is");
    assert_eq!(seen.headers["host"], fake.address.to_string());
    assert!(!seen.headers.contains_key("dapr-caller-app-id"));

    let escaped = format!("http%3A%2F%2F{}%2Fb", fake.address);
    for (url, path) in [
        (format!("http://{}", fake.address), "/echo"),
        (format!("http:/{}", fake.address), "/echo"),
        (escaped, "/b/echo"),
    ] {
        let got = door.get(&format!("/v1.0/invoke/{url}/method/echo")).await;
        assert_eq!((got.status, &*got.body), (200, "outside"));
        assert_eq!(fake.last().uri, path);
    }
    assert_eq!(fake.connections(), 2, "one for the endpoint, one for the host called by URL");

    let message = door.get("/v1.0/invoke/hidden/method/x").await.error(500);
    assert!(message.ends_with("couldn't find service: hidden"), "{message}");
    let message = door.get("/v1.0/invoke/broken/method/x").await.error(500);
    assert!(message.contains("\"nowhere\" is not a URL to call"), "{message}");
}

#[tokio::test]
async fn who_asks_for_events_gets_their_headers_unless_the_app_says_otherwise() {
    let fake = FakeApp::start(|request: Request<Incoming>| async move {
        let mut answer = Response::new(Body::from("data: 1\n\n"));
        if request.uri().path() == "/json" {
            let json = HeaderValue::from_static("application/json");
            answer.headers_mut().insert(CONTENT_TYPE, json);
        }
        answer
    })
    .await;
    let door = Door::of_app1(Some(fake.plan("app1")), Vec::new()).await;
    let asks = [("accept", "text/event-stream")];
    let got = door.send(asking("GET", "/v1.0/invoke/app1/method/events", &asks, "")).await;
    assert_eq!(got.headers["content-type"], "text/event-stream");
    assert_eq!(got.headers["cache-control"], "no-cache");
    let got = door.send(asking("GET", "/v1.0/invoke/app1/method/json", &asks, "")).await;
    assert_eq!(got.headers["content-type"], "application/json");
    assert!(!got.headers.contains_key("cache-control"));
    let got = door.get("/v1.0/invoke/app1/method/events").await;
    assert!(!got.headers.contains_key("content-type"));
}

/// Both bodies pass as they come. The caller writes 64 MiB in chunks and reads nothing: it must
/// come to a stop long before the end, because nothing on the way may take it all in. Then it
/// reads, and every byte arrives.
#[tokio::test]
async fn streams_pass_both_ways_in_bounded_memory() {
    const CHUNK: usize = 64 << 10;
    const CHUNKS: usize = 1024;
    /// Four sockets of up to 6 MiB in the kernel, and small buffers of ours.
    const HELD_BYTES_MAX: usize = 32 << 20;

    let fake = FakeApp::echo().await;
    let door = Door::of_app1(Some(fake.plan("app1")), Vec::new()).await;
    let (mut reading, mut writing) = TcpStream::connect(door.address).await.unwrap().into_split();
    let written = Arc::new(AtomicUsize::new(0));
    let writer = tokio::spawn({
        let written = written.clone();
        async move {
            let head = "POST /v1.0/invoke/app1/method/echo HTTP/1.1\r\nhost: x\r\n\
                        transfer-encoding: chunked\r\nconnection: close\r\n\r\n";
            writing.write_all(head.as_bytes()).await.unwrap();
            let mut chunk = format!("{CHUNK:x}\r\n").into_bytes();
            chunk.extend(vec![b'x'; CHUNK]);
            chunk.extend(b"\r\n");
            for _ in 0..CHUNKS {
                writing.write_all(&chunk).await.unwrap();
                written.fetch_add(CHUNK, Ordering::SeqCst);
            }
            writing.write_all(b"0\r\n\r\n").await.unwrap();
            writing
        }
    });
    // Standing still is a state that only time can show: no progress within a tenth of a second.
    let mut before = usize::MAX;
    while before != written.load(Ordering::SeqCst) || before == 0 {
        before = written.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(before <= HELD_BYTES_MAX, "{before} bytes were taken in");
    assert!(!writer.is_finished());

    let mut buffer = vec![0; CHUNK];
    let mut payload = 0;
    loop {
        let read = tokio::time::timeout(SOON, reading.read(&mut buffer)).await.unwrap().unwrap();
        if read == 0 {
            break;
        }
        payload += buffer[..read].iter().filter(|byte| **byte == b'x').count();
    }
    assert_eq!(payload, CHUNK * CHUNKS);
    writer.await.unwrap();
    assert!(fake.last().headers.contains_key("transfer-encoding"));
}

/// A chunk reaches the caller while the app's answer is still open.
#[tokio::test]
async fn a_chunk_is_passed_on_before_the_next_one_comes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (more, mut wanted) = tokio::sync::mpsc::channel::<()>(1);
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = [0; 4096];
        assert!(stream.read(&mut head).await.unwrap() > 0);
        let start = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        stream.write_all(start).await.unwrap();
        for _ in 0..3 {
            stream.write_all(b"5\r\nevent\r\n").await.unwrap();
            wanted.recv().await.unwrap();
        }
        stream.write_all(b"0\r\n\r\n").await.unwrap();
    });
    let plan = ChannelPlan {
        app_id: "app1".into(),
        host: "127.0.0.1".into(),
        port: address.port(),
        tls: false,
        max_concurrency: None,
        token: None,
        health: None,
    };
    let door = Door::of_app1(Some(plan), Vec::new()).await;
    let request = asking("GET", "/v1.0/invoke/app1/method/events", &[], "");
    let mut body = door.pool.send(request).await.unwrap().into_body();
    for _ in 0..3 {
        let frame = tokio::time::timeout(SOON, body.frame()).await.unwrap().unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), Bytes::from_static(b"event"));
        more.send(()).await.unwrap();
    }
    assert!(body.frame().await.is_none());
}

/// A caller that goes away ends the call it made.
#[tokio::test]
async fn a_caller_that_goes_away_is_not_called_for_any_longer() {
    let (gone, mut told) = tokio::sync::mpsc::channel::<()>(1);
    let (arrived, mut arrivals) = tokio::sync::mpsc::channel::<()>(1);
    let fake = FakeApp::start(move |_: Request<Incoming>| {
        let (guard, arrived) = (gone.clone(), arrived.clone());
        async move {
            arrived.send(()).await.unwrap();
            // Dropped with this future, when its connection closes.
            let _guard = Told(guard);
            std::future::pending().await
        }
    })
    .await;
    let door = Door::of_app1(Some(fake.plan("app1")), Vec::new()).await;
    let mut caller = TcpStream::connect(door.address).await.unwrap();
    let request = b"GET /v1.0/invoke/app1/method/x HTTP/1.1\r\nhost: x\r\n\r\n";
    caller.write_all(request).await.unwrap();
    arrivals.recv().await.unwrap();
    drop(caller);
    tokio::time::timeout(SOON, told.recv()).await.unwrap().unwrap();
}

struct Told(tokio::sync::mpsc::Sender<()>);

impl Drop for Told {
    fn drop(&mut self) {
        let _ = self.0.try_send(());
    }
}

#[tokio::test]
async fn an_app_that_is_not_healthy_is_not_called() {
    let fake = FakeApp::always(200, "yes").await;
    let health = crate::resources::HealthPlan {
        path: "/alive".into(),
        interval: SOON,
        timeout: SOON,
        threshold: 1,
    };
    let plan = ChannelPlan { health: Some(health), ..fake.plan("app1") };
    let door = Door::of_app1(Some(plan), Vec::new()).await;
    let message = door.get("/v1.0/invoke/app1/method/x").await.error(500);
    assert_eq!(
        message,
        "failed to invoke, id: app1, err: rpc error: code = Internal desc = app is not in a \
         healthy state"
    );
    assert_eq!(fake.requests().len(), 0);
}
