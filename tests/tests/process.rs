//! How the process ends, and how fast and small it begins.
//!
//! Signals and requests end it with what is under way answered and everyone told.

#![allow(clippy::print_stdout, reason = "the figures of a run are worth a line")]

use pillion_tests::pillion::{self, TestDir, free_port};
use pillion_tests::{App, Desk, Pillion, Request, Setup, json, mqtt, until};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// An app whose answer to `/slow` is held until the test lets it go.
async fn slow_app() -> (App, std::sync::mpsc::Sender<()>) {
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let app = App::start_blocking(move |asked| match asked.path.as_str() {
        "/slow" => {
            let held = held.lock().expect("one request at a time");
            let _ = held.recv_timeout(pillion_tests::PATIENCE);
            json(200, r#"{"slow":true}"#)
        }
        "/dapr/subscribe" => json(200, "[]"),
        _ => json(404, "{}"),
    })
    .await;
    (app, release)
}

/// Waits for the end of a stream and gives what came before it.
async fn rest(stream: &mut tokio::net::TcpStream) -> String {
    let mut text = Vec::new();
    let read = tokio::time::timeout(pillion_tests::PATIENCE, stream.read_to_end(&mut text)).await;
    read.expect("the connection is closed in time").expect("closed, not reset");
    String::from_utf8_lossy(&text).into_owned()
}

#[tokio::test]
async fn a_signal_answers_what_is_under_way_and_ends_everything() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let (app, release) = slow_app().await;
        let desk = Desk::new().app(&app).args(["--app-id", "app1"]);
        let mut pillion = desk.start().await;
        pillion.ready("/v1.0/healthz").await;

        // A client that keeps its connection without asking anything.
        let idle = tokio::net::TcpStream::connect(("127.0.0.1", desk.http())).await;
        let mut idle = idle.expect("it listens");
        idle.write_all(b"GET /v1.0/healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("open");
        let mut begin = [0; 12];
        idle.read_exact(&mut begin).await.expect("an answer");
        assert_eq!(&begin, b"HTTP/1.1 204");
        // One that has not asked at all.
        let mut silent =
            tokio::net::TcpStream::connect(("127.0.0.1", desk.http())).await.expect("it listens");
        // A device that is connected.
        let (mut sender, mut receiver) =
            mqtt::connect(desk.mqtt(), "device", true).await.expect("the door is open");
        sender.subscribe("a/#", 1).await.expect("open");
        receiver.next_of(9).await.expect("a SUBACK");
        // A request whose answer is on its way.
        let slow = tokio::spawn({
            let port = desk.http();
            let path = "/v1.0/invoke/app1/method/slow";
            async move { Request::new(hyper::Method::GET, path).send(port).await }
        });
        until("the slow request", || async {
            app.seen().iter().any(|path| path == "/slow").then_some(())
        })
        .await;

        pillion.signal(signal);
        until("the listener's end", || async {
            tokio::net::TcpStream::connect(("127.0.0.1", desk.http())).await.is_err().then_some(())
        })
        .await;
        release.send(()).expect("the app waits");
        let answer = slow.await.expect("no panic").expect("it is answered");
        assert_eq!((answer.status, answer.text()), (200, r#"{"slow":true}"#.into()));
        assert!(receiver.next().await.is_err(), "the device's connection ends");
        rest(&mut idle).await;
        rest(&mut silent).await;
        let status = pillion.ended().await;
        assert_eq!(status.code(), Some(0), "{}", pillion.log());
    }
}

#[tokio::test]
async fn what_takes_too_long_is_not_waited_for() {
    let (app, _release) = slow_app().await;
    let setup = Setup::new().app(&app).args(["--dapr-graceful-shutdown-seconds", "1"]);
    let mut pillion = setup.start().await;
    let port = pillion.port;
    let slow = tokio::spawn(async move {
        Request::new(hyper::Method::GET, "/v1.0/invoke/app1/method/slow").send(port).await
    });
    until("the slow request", || async {
        app.seen().iter().any(|path| path == "/slow").then_some(())
    })
    .await;
    let begun = Instant::now();
    assert_eq!(pillion.stop().await.code(), Some(1), "{}", pillion.log());
    assert!(begun.elapsed() > Duration::from_millis(900), "{:?}", begun.elapsed());
    assert!(slow.await.expect("no panic").is_err());
}

#[tokio::test]
async fn shutdown_over_http() {
    let mut pillion = Setup::new().start().await;
    assert_eq!(pillion.post("/v1.0/shutdown", "").await.status, 204);
    assert_eq!(pillion.ended().await.code(), Some(0), "{}", pillion.log());

    let mut pillion = Setup::new().start().await;
    let forced = Request::new(hyper::Method::POST, "/v1.0/shutdown");
    let forced = forced.header("dapr-force-shutdown", "true");
    assert_eq!(pillion.send(forced).await.status, 204);
    assert_eq!(pillion.ended().await.code(), Some(1), "{}", pillion.log());
}

/// From before exec to the first 204, asked over a fresh connection each time.
fn time_to_ready(desk: &Desk) -> (Duration, Pillion) {
    let mut answer = [0; 12];
    let mut ask = || {
        let mut socket = TcpStream::connect(("127.0.0.1", desk.http())).ok()?;
        socket.write_all(b"GET /v1.0/healthz HTTP/1.1\r\nhost: x\r\n\r\n").ok()?;
        socket.read_exact(&mut answer).ok()?;
        (&answer == b"HTTP/1.1 204").then_some(())
    };
    let begun = Instant::now();
    let pillion = desk.spawn();
    while ask().is_none() {
        assert!(begun.elapsed() < pillion_tests::PATIENCE, "{}", pillion.log());
        std::thread::sleep(Duration::from_micros(500));
    }
    (begun.elapsed(), pillion)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

#[tokio::test]
async fn it_is_ready_in_under_60_ms() {
    const ROUNDS: usize = 5;
    let (mut first, mut later) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let desk = Desk::new();
        let (took, mut pillion) = time_to_ready(&desk);
        first.push(took);
        let saved = pillion.post("/v1.0/state/statestore", r#"[{"key":"k","value":1}]"#).await;
        assert_eq!(saved.status, 204, "{saved:?}");
        pillion.signal(libc::SIGKILL);
        pillion.ended().await;
        later.push(time_to_ready(&desk).0);
    }
    println!("ready after: first start {first:?}, later {later:?}");
    if pillion::is_measured() {
        let limit = Duration::from_millis(60);
        assert!(median(first.clone()) < limit, "first start: {first:?}");
        assert!(median(later.clone()) < limit, "later start: {later:?}");
    }
}

/// `VmRSS` of a process in KiB.
fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("the kernel tells");
    line.split_whitespace().nth(1).and_then(|text| text.parse().ok()).expect("a number")
}

#[tokio::test]
async fn at_rest_it_takes_little_memory() {
    let pillion = Desk::new().start().await;
    // A first request and a first client, so that nothing is measured that never ran.
    assert_eq!(pillion.get("/v1.0/state/statestore/k").await.status, 204);
    let resident = resident_kib(pillion.pid());
    println!("resident at rest: {resident} KiB");
    if pillion::is_measured() {
        assert!(resident <= 8 << 10, "{resident} KiB");
    }
}

#[tokio::test]
async fn a_program_waits_until_it_can_be_called() {
    let port = free_port();
    let waiting = pillion::command(["--wait", "--dapr-http-port", &port.to_string()]);
    let mut waiting = Pillion::spawn(waiting, port, 0, TestDir::new());
    let served = Setup::new().args(["--dapr-http-port", &port.to_string()]).spawn();
    assert!(waiting.ended().await.success(), "{}\n{}", waiting.log(), served.log());
}
