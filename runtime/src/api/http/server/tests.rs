//! Goal: a connection behaves whatever its client does. Method: a listener on port 0 with a store
//! of fixed behaviour behind it, and clients that write bytes to real sockets.

use super::*;
use crate::blocks::{PubSubs, Registered, SecretStores, StateStores};
use crate::blocks::{invoke::Invocation, pubsub::Publishing, secrets::Secrets, state::State};
use crate::drain;
use crate::resources::Access;
use pillion_components::env::Clock;
use pillion_components::options::Options;
use pillion_components::state::{Delete, Feature, Item, Set, StateStore};
use pillion_components::{Error, Kind, Result};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};

/// Each key has its own behaviour.
#[derive(Default)]
struct Fixed {
    entered: Notify,
    go_on: Notify,
}

#[async_trait::async_trait]
impl StateStore for Fixed {
    fn features(&self) -> &'static [Feature] {
        &[]
    }

    async fn get(&self, key: &str) -> Result<Option<Item>> {
        match key {
            "panic" => panic!("asked to"),
            "wait" => {
                self.entered.notify_one();
                self.go_on.notified().await;
                Ok(None)
            }
            "value" => Ok(Some(Item {
                value: "{}".into(),
                etag: "7".into(),
                expires_ms: None,
                content_type: None,
            })),
            _ => Ok(None),
        }
    }

    async fn set(&self, set: Set) -> Result<()> {
        match set.key.as_str() {
            "full" => Err(Error::new(Kind::Full, "no room")),
            "large" => Err(Error::new(Kind::TooLarge, "too much")),
            "busy" => Err(Error::new(Kind::Overloaded, "later")),
            "conflict" => Err(Error::new(Kind::Conflict, "another one")),
            _ => Ok(()),
        }
    }

    async fn delete(&self, _delete: Delete) -> Result<()> {
        Ok(())
    }
}

struct Served {
    address: SocketAddr,
    store: Arc<Fixed>,
    shutdown: drain::Shutdown,
    _exits: mpsc::UnboundedReceiver<drain::Exit>,
}

async fn serve_with(limits: Limits, token: Option<&str>) -> Served {
    let store = Arc::new(Fixed::default());
    let mut stores = StateStores::default();
    stores.insert(Registered {
        name: "s".into(),
        type_name: "state.fixed".into(),
        version: "v1".into(),
        options: Arc::new([("keyPrefix", "none")].into_iter().collect::<Options>()),
        scopes: Vec::new(),
        component: store.clone(),
    });
    let apps = Arc::<crate::app::Apps>::default();
    let app = Arc::new(App::new("app1", "default", token, Access::default(), None));
    app.ready.set_outbound();
    app.ready.set_inbound();
    let blocks = Blocks {
        notices: Box::new(Vec::new),
        apps: apps.clone(),
        state: State::new(stores, Clock::manual(0)),
        pubsub: Publishing::new(PubSubs::default(), Clock::manual(0)),
        secrets: Secrets::new(SecretStores::default()),
        configuration: crate::blocks::configuration::Configuration::new(Default::default()),
        locks: crate::blocks::lock::Locks::new(Default::default()),
        bindings: std::sync::Arc::new(crate::blocks::bindings::Bindings::new(Default::default())),
        #[cfg(feature = "crypto")]
        crypto: crate::blocks::crypto::Crypto::new(Default::default()),
        invoke: Invocation::new(apps, Vec::new()),
        shown: Vec::new(),
        endpoints: Vec::new(),
        clock: Clock::manual(0),
    };
    let (request_exit, exits) = mpsc::unbounded_channel();
    let door = Arc::new(Door { app, blocks: Arc::new(blocks), limits, request_exit });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (shutdown, drain) = drain::channel();
    tokio::spawn(serve(Listener::Tcp(listener), door, drain));
    Served { address, store, shutdown, _exits: exits }
}

impl Served {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Everything the server says to these bytes until it closes.
    async fn told(&self, bytes: &str) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes.as_bytes()).await.unwrap();
        rest(&mut stream).await
    }

    async fn get(&self, path: &str) -> String {
        self.told(&format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).await
    }
}

async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset after the answer is an end as well.
    let _ = stream.read_to_end(&mut bytes).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Reads up to the end of an answer without a body.
async fn head(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(bytes).unwrap()
}

fn status(answer: &str) -> &str {
    answer.get(9..12).unwrap_or(answer)
}

#[tokio::test]
async fn health_is_answered_without_a_trace_and_values_with_one() {
    let served = serve_with(Limits::default(), None).await;
    let answer = served.get("/v1.0/healthz").await;
    assert_eq!(status(&answer), "204");
    assert!(!answer.contains("traceparent"), "{answer}");
    let answer = served.get("/v1.0/state/s/value").await;
    assert_eq!(status(&answer), "200");
    for part in ["traceparent: 00-", "etag: 7\r\n", "content-type: application/json\r\n"] {
        assert!(answer.contains(part), "{answer}");
    }
    assert_eq!(status(&served.get("/v1.0/healthz?appid=zz").await), "500");
    assert_eq!(status(&served.get("//v1.0//healthz/").await), "204");
}

#[tokio::test]
async fn a_caller_without_the_token_is_refused_except_for_health() {
    let served = serve_with(Limits::default(), Some("secret")).await;
    assert_eq!(status(&served.get("/v1.0/healthz").await), "204");
    let refused = served.get("/v1.0/state/s/value").await;
    assert_eq!(status(&refused), "401");
    assert!(refused.ends_with("invalid api token\n"), "{refused}");
    let with = "GET /v1.0/state/s/value HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
                dapr-api-token: secret\r\n\r\n";
    assert_eq!(status(&served.told(with).await), "200");
}

#[tokio::test]
async fn what_a_store_refuses_has_a_status_that_says_why() {
    let served = serve_with(Limits::default(), None).await;
    for (key, expected) in
        [("full", "507"), ("large", "413"), ("busy", "429"), ("conflict", "409"), ("ok", "204")]
    {
        let body = format!("[{{\"key\":\"{key}\",\"value\":1}}]");
        let request = format!(
            "POST /v1.0/state/s HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer = served.told(&request).await;
        assert_eq!(status(&answer), expected, "{answer}");
        assert_eq!(answer.contains("ERR_STATE_SAVE"), expected != "204", "{answer}");
    }
}

#[tokio::test]
async fn a_head_over_the_limit_is_told_so() {
    let served = serve_with(Limits::default(), None).await;
    let long = "x".repeat(Limits::default().header_bytes_max + 1);
    let answer = served.told(&format!("GET /{long} HTTP/1.1\r\nhost: x\r\n\r\n")).await;
    assert_eq!(status(&answer), "431", "{answer}");
    assert_eq!(status(&served.get("/v1.0/healthz").await), "204");
}

#[tokio::test]
async fn a_body_over_the_limit_is_told_so() {
    let limits = Limits { body_bytes_max: 10, ..Limits::default() };
    let served = serve_with(limits, None).await;
    let answer = served
        .told(
            "POST /v1.0/state/s HTTP/1.1\r\nhost: x\r\ncontent-length: 11\r\n\
             connection: close\r\n\r\n[         ]",
        )
        .await;
    assert_eq!(status(&answer), "400", "{answer}");
    assert!(answer.contains("ERR_BODY_READ"), "{answer}");
}

#[tokio::test]
async fn a_panic_ends_one_connection_only() {
    let served = serve_with(Limits::default(), None).await;
    assert_eq!(served.get("/v1.0/state/s/panic").await, "");
    assert_eq!(status(&served.get("/v1.0/healthz").await), "204");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_finish_its_head_is_cut_off() {
    let served = serve_with(Limits::default(), None).await;
    for begun in ["", "G", "GET /v1.0/healthz HTTP/1.1\r\nhost"] {
        assert_eq!(served.told(begun).await, "", "{begun:?}");
    }
    // The same after a request that was answered.
    let mut stream = served.connect().await;
    stream.write_all(b"GET /v1.0/healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert_eq!(status(&head(&mut stream).await), "204");
    let rested = Instant::now();
    stream.write_all(b"GET /").await.unwrap();
    assert_eq!(rest(&mut stream).await, "");
    assert!(rested.elapsed() < IDLE_TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn a_connection_may_rest_between_requests_but_not_for_ever() {
    let served = serve_with(Limits::default(), None).await;
    let mut stream = served.connect().await;
    for _request in 0..3 {
        stream.write_all(b"GET /v1.0/healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        assert_eq!(status(&head(&mut stream).await), "204");
        tokio::time::advance(IDLE_TIMEOUT / 2).await;
    }
    let rested = Instant::now();
    assert_eq!(rest(&mut stream).await, "");
    assert!(rested.elapsed() >= IDLE_TIMEOUT / 2);
}

#[tokio::test]
async fn a_client_may_begin_with_http2() {
    let served = serve_with(Limits::default(), None).await;
    let io = TokioIo::new(served.connect().await);
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(hyper_util::rt::TokioExecutor::new(), io)
            .await
            .unwrap();
    tokio::spawn(connection);
    let request = hyper::Request::get("http://x/v1.0/state/s/value")
        .body(http_body_util::Empty::<bytes::Bytes>::new())
        .unwrap();
    let response = client.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.version(), hyper::Version::HTTP_2);
}

#[tokio::test]
async fn draining_finishes_requests_and_closes_what_rests() {
    let served = serve_with(Limits::default(), None).await;
    let mut resting = served.connect().await;
    resting.write_all(b"GET /v1.0/healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    head(&mut resting).await;
    let mut silent = served.connect().await;
    let mut busy = served.connect().await;
    busy.write_all(b"GET /v1.0/state/s/wait HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    served.store.entered.notified().await;

    served.shutdown.tell();
    assert_eq!(rest(&mut resting).await, "");
    assert_eq!(rest(&mut silent).await, "");
    served.store.go_on.notify_one();
    assert_eq!(status(&rest(&mut busy).await), "204");
    assert!(served.shutdown.drained(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn connections_over_the_limit_wait_for_a_place() {
    let limits = Limits { connections_max: 1, ..Limits::default() };
    let served = serve_with(limits, None).await;
    let mut first = served.connect().await;
    first.write_all(b"GET /v1.0/healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    head(&mut first).await;
    let second = served.get("/v1.0/healthz");
    let mut second = std::pin::pin!(second);
    let waits = tokio::select! {
        biased;
        _ = &mut second => false,
        () = async { for _turn in 0..100 { tokio::task::yield_now().await; } } => true,
    };
    assert!(waits);
    drop(first);
    assert_eq!(status(&second.await), "204");
}
