//! Whatever is sent, there is a clear answer or a clean end of that one connection; the process
//! goes on, and what others were told is accepted arrives.
//!
//! Random cases print their seed; `PILLION_SEED` repeats them.

use pillion_tests::pillion::{self, TestDir};
use pillion_tests::random::Random;
use pillion_tests::{App, Desk, Gateway, Pillion, Request, Tool, json, mqtt, until};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Sends bytes, half-closes if asked to, and gives what came until the other side closed.
async fn exchange(door: SocketAddr, bytes: &[u8], half_close: bool) -> Vec<u8> {
    let mut stream = TcpStream::connect(door).await.expect("it listens");
    // It may be closed before everything is sent, which is an answer too.
    let _ = stream.write_all(bytes).await;
    if half_close {
        let _ = stream.shutdown().await;
    }
    let mut answer = Vec::new();
    let read = tokio::time::timeout(pillion_tests::PATIENCE, stream.read_to_end(&mut answer));
    let ended = read.await.unwrap_or_else(|_| {
        panic!("still open after {:?}: {}", pillion_tests::PATIENCE, bytes.escape_ascii())
    });
    // A reset ends it as well.
    drop(ended);
    answer
}

/// An app that takes `kept` and counts.
async fn keeping_app() -> App {
    App::start(|asked| match asked.path.as_str() {
        "/dapr/subscribe" => {
            json(200, r#"[{"pubsubname":"pubsub","topic":"kept","route":"/take"}]"#)
        }
        "/take" => json(200, "{}"),
        _ => json(404, "{}"),
    })
    .await
}

/// What a test does around its bad input: a message that must arrive before and after each.
struct Witness {
    app: App,
    sent: usize,
}

impl Witness {
    async fn check(&mut self, pillion: &Pillion, desk: &Desk) {
        self.sent += 1;
        let number = self.sent.to_string();
        if self.sent.is_multiple_of(2) {
            let answer = pillion.post("/v1.0/publish/pubsub/kept", number).await;
            assert_eq!(answer.status, 204, "{answer:?}\n{}", pillion.log());
        } else {
            let (mut sender, mut receiver) = mqtt::connect(desk.mqtt(), "witness", true)
                .await
                .unwrap_or_else(|error| panic!("{error}\n{}", pillion.log()));
            sender.publish("kept", 1, number.as_bytes()).await.expect("open");
            receiver.next_of(4).await.expect("a PUBACK");
        }
        assert!(!pillion.log().contains("panicked"), "{}", pillion.log());
    }

    /// Everything arrived, in order.
    async fn finish(self, mut pillion: Pillion) {
        let numbers = until("every message", || async {
            let taken = self.app.asked().into_iter().filter(|asked| asked.path == "/take");
            let numbers: Vec<_> = taken.map(|asked| asked.json()["data"].as_u64()).collect();
            Some(numbers).filter(|numbers| numbers.len() >= self.sent)
        })
        .await;
        let expected: Vec<_> = (1..=self.sent as u64).map(Some).collect();
        assert_eq!(numbers, expected, "{}", pillion.log());
        assert!(!pillion.log().contains("panicked"), "{}", pillion.log());
        assert!(pillion.stop().await.success(), "{}", pillion.log());
    }
}

async fn begin() -> (Desk, Pillion, Witness) {
    let app = keeping_app().await;
    let desk = Desk::new().app(&app);
    let mut pillion = desk.start().await;
    pillion.ready("/v1.0/healthz").await;
    (desk, pillion, Witness { app, sent: 0 })
}

fn http(desk: &Desk) -> SocketAddr {
    ([127, 0, 0, 1], desk.http()).into()
}

#[tokio::test]
async fn wrong_resources_are_told_all_at_once_with_file_and_line() {
    let dir = TestDir::new();
    let write = |name: &str, text: &[u8]| {
        fs::write(dir.path().join(name), text).expect("a writable file");
    };
    write("a.yaml", b"apiVersion: pillion/v1alpha1\nkind: App\nmetadata:\n  name: [one\n");
    write(
        "b.yaml",
        b"apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: s}\nspec:\n  \
          type: state.redbb\n  version: v1\n",
    );
    write(
        "c.yaml",
        b"apiVersion: pillion/v1alpha1\nkind: Gateway\nmetadata: {name: g}\nspec:\n  storage:\n    \
          quotaByte: 1Gi\n  limits:\n    bodyBytesMax: lots\n",
    );
    write("d.yaml", b"apiVersion: pillion/v1alpha1\nkind: App\nmetadata: {name: \xff}\n");
    write(
        "e.yaml",
        b"apiVersion: pillion/v1alpha1\nkind: Link\nmetadata: {name: l}\nspec:\n  local: here\n  \
          remote: there\n  up: [{filter: 'a/#/b'}]\n",
    );
    let path = dir.path().display().to_string();
    for arguments in [vec!["check", &path], vec!["serve", &path]] {
        let said = Tool::run(pillion::command(&arguments)).await;
        assert!(!said.status.success() && said.status.code().is_some(), "{said:?}");
        let text = [said.out, said.errors].concat().join("\n");
        for wanted in [
            "a.yaml:5",
            "b.yaml:5",
            "state.redb",
            "c.yaml:6",
            "quotaBytes",
            "c.yaml:8",
            "d.yaml:3",
            "e.yaml:5",
            "e.yaml:6",
            "e.yaml:7",
        ] {
            assert!(text.contains(wanted), "{arguments:?}: no '{wanted}' in\n{text}");
        }
        assert!(!text.contains("panicked"), "{text}");
    }
    // daprd's form says the same as a fatal log line.
    let arguments = ["--app-id", "a", "--resources-path", &path];
    let said = Tool::run(pillion::command(arguments)).await;
    let text = [said.out, said.errors].concat().join("\n");
    assert_eq!(said.status.code(), Some(1), "{text}");
    assert!(text.contains("level=fatal") && text.contains("a.yaml:5"), "{text}");
}

/// Resources of the examples with bytes changed, cut and doubled.
#[tokio::test]
async fn damaged_resources_never_end_the_checker_badly() {
    const ROUNDS: usize = 60;
    let mut random = Random::new();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    let mut files: Vec<PathBuf> = Vec::new();
    for folder in ["gateway", "dev", "tour/resources"] {
        let entries = fs::read_dir(examples.join(folder)).expect("the examples").flatten();
        files.extend(entries.map(|entry| entry.path()));
    }
    files.sort();
    for _ in 0..ROUNDS {
        let file = &files[random.below(files.len() as u64) as usize];
        let mut text = fs::read(file).expect("an example");
        for _ in 0..=random.below(8) {
            let at = random.below(text.len() as u64) as usize;
            let rest = text.len() - at;
            match random.below(4) {
                0 => text[at] = random.below(256) as u8,
                1 => text.insert(at, b"{}[]:-&*!|>'\"%@`\n\t #,?"[random.below(22) as usize]),
                2 => drop(text.drain(at..at + random.below(rest as u64 + 1) as usize)),
                _ => text.extend_from_within(at..at + random.below(rest.min(200) as u64) as usize),
            }
            if text.is_empty() {
                text.push(b'x');
            }
        }
        let dir = TestDir::new();
        fs::write(dir.path().join("x.yaml"), &text).expect("a writable file");
        let arguments = ["check".to_owned(), dir.path().display().to_string()];
        let said = Tool::run(pillion::command(arguments)).await;
        let shown = String::from_utf8_lossy(&text);
        let code = said.status.code();
        assert!(code == Some(0) || code == Some(1), "{}\n{shown}\n{said:?}", file.display());
        if code == Some(1) {
            let problem = said.out.iter().any(|line| line.contains("x.yaml:"));
            let whole = said.out.iter().any(|line| !line.trim().is_empty());
            assert!(problem || whole, "{}\n{shown}\n{said:?}", file.display());
        }
    }
}

#[tokio::test]
async fn malformed_json_changes_nothing() {
    let (desk, pillion, mut witness) = begin().await;
    let saved = pillion.post("/v1.0/state/statestore", r#"[{"key":"k","value":1}]"#).await;
    assert_eq!(saved.status, 204, "{saved:?}");
    let deep = format!("{}1{}", "[".repeat(20_000), "]".repeat(20_000));
    let deep_value = format!(r#"[{{"key":"deep","value":{deep}}}]"#);
    let bodies = [
        "",
        "{",
        "[{\"key\":\"k\",\"value\":2}",
        "[{\"key\":\"k\",\"value\":2}]]",
        "[{\"key\":7}]",
        "{\"key\":\"k\",\"value\":2}",
        "\u{feff}[]",
        "[{\"key\":\"k\",\"value\":\"\u{1}\"}]",
        "nonsense",
        &deep,
        &deep_value,
    ];
    for path in [
        "/v1.0/state/statestore",
        "/v1.0/state/statestore/bulk",
        "/v1.0/state/statestore/transaction",
        "/v1.0/publish/bulk/pubsub/kept",
    ] {
        for body in bodies {
            let answer = pillion.post(path, body.to_owned()).await;
            let shown: String = body.chars().take(60).collect();
            // Some are nothing to do, as in Dapr; the deep value is one, if an odd one.
            assert!(answer.status < 500, "{path} {shown}: {answer:?}");
            if answer.status >= 400 {
                assert!(answer.json()["errorCode"].is_string(), "{path} {shown}: {answer:?}");
            }
        }
        witness.check(&pillion, &desk).await;
    }
    let value = pillion.get("/v1.0/state/statestore/k").await;
    assert_eq!((value.status, value.text()), (200, "1".into()));
    witness.finish(pillion).await;
}

#[tokio::test]
async fn oversized_bodies_heads_and_topics_are_refused() {
    let (desk, pillion, mut witness) = begin().await;
    let too_large = vec![b'x'; (4 << 20) + 1];
    for path in ["/v1.0/publish/pubsub/kept", "/v1.0/state/statestore"] {
        let request = Request::new(hyper::Method::POST, path).body(too_large.clone());
        // It may be answered, and the rest not read, before everything is sent.
        if let Ok(answer) = request.send(desk.http()).await {
            // The codes are Dapr's, the words ours.
            let code = if path.contains("publish") {
                "ERR_PUBSUB_PUBLISH_MESSAGE"
            } else {
                "ERR_BODY_READ"
            };
            assert_eq!(answer.json()["errorCode"], code, "{path}: {}", answer.text());
            assert!(answer.text().contains("--max-body-size"), "{path}: {}", answer.text());
        }
        witness.check(&pillion, &desk).await;
    }
    // The same without a length at the front.
    let mut chunked = b"POST /v1.0/publish/pubsub/kept HTTP/1.1\r\nhost: x\r\n\
        connection: close\r\ntransfer-encoding: chunked\r\n\r\n"
        .to_vec();
    for _ in 0..80 {
        chunked.extend(b"10000\r\n");
        chunked.resize(chunked.len() + 0x10000, b'x');
        chunked.extend(b"\r\n");
    }
    let answer = exchange(http(&desk), &chunked, false).await;
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 500"), "{}", answer.escape_ascii());
    witness.check(&pillion, &desk).await;

    let head = format!("GET /v1.0/healthz HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(100_000));
    let answer = exchange(http(&desk), head.as_bytes(), false).await;
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431"), "{}", answer.escape_ascii());
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(500));
    let answer = exchange(http(&desk), many.as_bytes(), false).await;
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431"), "{}", answer.escape_ascii());
    witness.check(&pillion, &desk).await;

    // A topic of 1 KiB is one, a longer or deeper one is none.
    let good = format!("/v1.0/publish/pubsub/{}", "t".repeat(1024));
    assert_eq!(pillion.post(&good, "1").await.status, 204);
    for topic in ["t".repeat(1025), "t/".repeat(200), "a/%23/b".into(), "a%00b".into()] {
        let answer = pillion.post(&format!("/v1.0/publish/pubsub/{topic}"), "1").await;
        assert!((400..500).contains(&answer.status), "{}: {}", answer.status, answer.text());
        assert!(answer.json()["errorCode"].is_string(), "{}", answer.text());
    }
    witness.check(&pillion, &desk).await;
    witness.finish(pillion).await;
}

#[tokio::test]
async fn what_is_no_http_is_answered_or_closed() {
    let (desk, pillion, mut witness) = begin().await;
    let mut cases: Vec<Vec<u8>> = [
        &b"\r\n\r\n\r\n"[..],
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET  /  HTTP/1.1\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /%zz/%f HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        b"GET /v1.0/state/statestore/%ff%fe HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        b"POST /v1.0/publish/pubsub/kept HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1.0/publish/pubsub/kept HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999999999999\r\n\r\n",
        b"POST /v1.0/publish/pubsub/kept HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"POST /v1.0/publish/pubsub/kept HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\n",
        b"POST /v1.0/publish/pubsub/kept HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip\r\n\r\n",
        b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
        b"GET / HTTP/1.1\r\n: empty\r\n\r\n",
        b"CONNECT example.org:443 HTTP/1.1\r\nhost: example.org:443\r\nconnection: close\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        b"GET http://elsewhere/v1.0/healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00",
    ]
    .map(<[u8]>::to_vec)
    .into();
    let mut random = Random::new();
    for _ in 0..100 {
        let length = random.below(400) as usize;
        cases.push((0..length).map(|_| random.below(256) as u8).collect());
    }
    for (index, case) in cases.iter().enumerate() {
        let answer = exchange(http(&desk), case, true).await;
        let is_http = answer.starts_with(b"HTTP/1.1 ");
        let is_http2 = case.starts_with(b"PRI ");
        assert!(answer.is_empty() || is_http || is_http2, "{}", answer.escape_ascii());
        // A body that cannot be read is Dapr's error 500 of publish.
        let text = String::from_utf8_lossy(&answer);
        let is_publish = text.contains("ERR_PUBSUB_PUBLISH_MESSAGE");
        assert!(!text.starts_with("HTTP/1.1 5") || is_publish, "{text}");
        if index % 20 == 0 {
            witness.check(&pillion, &desk).await;
        }
    }
    witness.finish(pillion).await;
}

/// A CONNECT of this protocol level with this keep alive.
fn connect_packet(level: u8, keep_alive_s: u8) -> Vec<u8> {
    let mut packet = vec![0x10, 0, 0, 4, b'M', b'Q', b'T', b'T', level, 2, 0, keep_alive_s];
    if level == 5 {
        packet.push(0);
    }
    packet.extend([0, 3, b'b', b'a', b'd']);
    packet[1] = u8::try_from(packet.len() - 2).expect("a short packet");
    packet
}

fn publish_packet(topic: &str, payload: usize, head: u8, level: u8) -> Vec<u8> {
    let properties = usize::from(level == 5);
    let id = if head & 6 == 0 { 0 } else { 2 };
    let mut length = 2 + topic.len() + id + properties + payload;
    let mut packet = vec![head];
    loop {
        let low = u8::try_from(length & 0x7f).expect("seven bits");
        length >>= 7;
        packet.push(if length > 0 { low | 0x80 } else { low });
        if length == 0 {
            break;
        }
    }
    packet.extend(u16::try_from(topic.len()).expect("a short topic").to_be_bytes());
    packet.extend(topic.as_bytes());
    if id > 0 {
        packet.extend([0, 7]);
    }
    packet.extend(vec![0; properties]);
    packet.resize(packet.len() + payload, b'x');
    packet
}

#[tokio::test]
async fn wrong_packets_get_their_reason_and_a_clean_end() {
    let (desk, pillion, mut witness) = begin().await;
    // What follows a good CONNECT, and the reason of MQTT 5's DISCONNECT. 3.1.1 only closes.
    type Case = (&'static str, Vec<u8>, Vec<u8>, &'static [u8]);
    let cases: Vec<Case> = vec![
        ("a second CONNECT", connect_packet(4, 0), connect_packet(5, 0), &[0x82]),
        ("packet type 0", vec![0, 0], vec![0, 0], &[0x81]),
        ("reserved flags", vec![0xC1, 0], vec![0xC1, 0], &[0x81]),
        (
            "a length without end",
            vec![0x30, 0xff, 0xff, 0xff, 0xff, 0xff],
            vec![0x30, 0xff, 0xff, 0xff, 0xff, 0xff],
            &[0x81],
        ),
        (
            "a wildcard in a topic name",
            publish_packet("a/#", 1, 0x32, 4),
            publish_packet("a/#", 1, 0x32, 5),
            &[0x90, 0x81],
        ),
        ("QoS 3", publish_packet("a", 1, 0x36, 4), publish_packet("a", 1, 0x36, 5), &[0x81]),
        (
            "a packet larger than allowed",
            publish_packet("a", 300 << 10, 0x32, 4),
            publish_packet("a", 300 << 10, 0x32, 5),
            &[0x95],
        ),
        ("no filter in SUBSCRIBE", vec![0x82, 2, 0, 1], vec![0x82, 3, 0, 1, 0], &[0x82, 0x81]),
        (
            "a topic that is no UTF-8",
            vec![0x30, 5, 0, 2, 0xff, 0xfe, b'x'],
            vec![0x30, 6, 0, 2, 0xff, 0xfe, 0, b'x'],
            &[0x81],
        ),
        (
            "a packet of the server's",
            vec![0x90, 3, 0, 1, 0],
            vec![0x90, 4, 0, 1, 0, 0],
            &[0x82, 0x81],
        ),
    ];
    for (what, four, five, reasons) in &cases {
        let mut bytes = connect_packet(4, 0);
        bytes.extend(four);
        let answer = exchange(desk.mqtt(), &bytes, false).await;
        assert_eq!(answer.get(..4), Some(&[0x20, 2, 0, 0][..]), "{what}: no CONNACK");
        assert_eq!(answer.len(), 4, "{what}: {}", answer.escape_ascii());

        let mut bytes = connect_packet(5, 0);
        bytes.extend(five);
        let answer = exchange(desk.mqtt(), &bytes, false).await;
        assert_eq!(answer.first(), Some(&0x20), "{what}: no CONNACK");
        let connack = 2 + usize::from(answer.get(1).copied().unwrap_or(0));
        let disconnect = answer.get(connack..).unwrap_or_default();
        // Where everything that was sent is not read, a reset may overtake it.
        if !disconnect.is_empty() || five.len() < 1000 {
            assert_eq!(disconnect.first(), Some(&0xE0), "{what}: {}", answer.escape_ascii());
            let reason = disconnect.get(2).copied().unwrap_or(0);
            assert!(reasons.contains(&reason), "{what}: reason {reason:#x}");
        }
        witness.check(&pillion, &desk).await;
    }
    // A version that there is not.
    for level in [0, 3, 6, 255] {
        let answer = exchange(desk.mqtt(), &connect_packet(level, 0), false).await;
        assert!(answer.first() == Some(&0x20) && answer.get(3) != Some(&0), "{level}: {answer:?}");
    }
    // One that promises to be heard every second and is not.
    for level in [4, 5] {
        let begun = Instant::now();
        let answer = exchange(desk.mqtt(), &connect_packet(level, 1), false).await;
        let took = begun.elapsed();
        assert!(took > Duration::from_millis(1400), "{level}: {took:?}");
        if level == 5 {
            assert!(
                answer.ends_with(&[0xE0, 1, 0x8D]) || answer.ends_with(&[0xE0, 2, 0x8D, 0]),
                "{answer:?}"
            );
        }
    }
    witness.finish(pillion).await;
}

#[tokio::test]
async fn garbage_on_the_mqtt_port() {
    let (desk, pillion, mut witness) = begin().await;
    let mut random = Random::new();
    for round in 0..200 {
        // Pure garbage, or garbage after a CONNECT, or a good packet with a byte changed.
        let mut bytes = match random.below(3) {
            0 => Vec::new(),
            level => connect_packet(3 + level as u8, 0),
        };
        match random.below(2) {
            0 => {
                let length = random.below(300);
                bytes.extend((0..length).map(|_| random.below(256) as u8));
            }
            _ => {
                bytes.extend(publish_packet("a/b", 20, 0x32, 5));
                bytes.extend([0x82, 9, 0, 1, 0, 0, 3, b'a', b'/', b'#', 1]);
                let at = random.below(bytes.len() as u64) as usize;
                bytes[at] = random.below(256) as u8;
            }
        }
        exchange(desk.mqtt(), &bytes, true).await;
        if round % 20 == 0 {
            witness.check(&pillion, &desk).await;
        }
    }
    // An HTTP client that mistook the port.
    exchange(desk.mqtt(), b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", true).await;
    witness.check(&pillion, &desk).await;
    witness.finish(pillion).await;
}

const IMPATIENT: &str = "
apiVersion: pillion/v1alpha1
kind: Gateway
metadata: {name: box}
spec:
  limits: {headerTimeout: 1s, connectionsMax: 8}
  mqtt: {listen: '127.0.0.1:$MQTT', allowAnonymous: true}
  metrics: {listen: '127.0.0.1:$METRICS'}
---
apiVersion: pillion/v1alpha1
kind: App
metadata: {name: app}
spec: {listen: {http: '127.0.0.1:$HTTP'}}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: pubsub}
spec: {type: pubsub.embedded, version: v1}
";

/// A number of the metrics.
fn metric(text: &str, name: &str) -> f64 {
    let line = text.lines().find(|line| line.starts_with(&format!("{name} ")));
    let value = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
    value.unwrap_or_else(|| panic!("no {name} in\n{text}"))
}

#[tokio::test]
async fn a_head_that_never_ends_is_cut_off() {
    let gateway = Gateway::new().resource("all.yaml", IMPATIENT);
    let mut pillion = gateway.start().await;
    let door = SocketAddr::from(([127, 0, 0, 1], gateway.http()));
    let before = metric(&pillion.metrics().await, "process_open_fds");
    // As many as there are places, each with a byte now and then, so that it is never silent.
    let mut slow = tokio::task::JoinSet::new();
    for number in 0..8 {
        slow.spawn(async move {
            let begun = Instant::now();
            let mut stream = TcpStream::connect(door).await.expect("it listens");
            let head = if number % 2 == 0 { "GET /v1.0/healthz HTTP/1.1\r\nx: " } else { "P" };
            stream.write_all(head.as_bytes()).await.expect("open");
            let mut byte = [0];
            loop {
                let waited =
                    tokio::time::timeout(Duration::from_millis(100), stream.read(&mut byte)).await;
                match waited {
                    Ok(Ok(0) | Err(_)) => return begun.elapsed(),
                    // An answer that says so.
                    Ok(Ok(_)) => {}
                    Err(_) => {
                        if stream.write_all(b"y").await.is_err() {
                            return begun.elapsed();
                        }
                    }
                }
                assert!(begun.elapsed() < pillion_tests::PATIENCE, "never cut off");
            }
        });
    }
    while let Some(took) = slow.join_next().await {
        let took = took.expect("no panic");
        assert!(took > Duration::from_millis(900), "{took:?}");
    }
    // The places are free again.
    assert_eq!(pillion.get("/v1.0/healthz").await.status, 204);

    // A client that vanishes in the middle of a body; one that closes its half and waits.
    for _ in 0..20 {
        let mut stream = TcpStream::connect(door).await.expect("it listens");
        let part =
            b"POST /v1.0/publish/pubsub/t HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nhalf";
        stream.write_all(part).await.expect("open");
        drop(stream);
        let whole = b"GET /v1.0/healthz HTTP/1.1\r\nhost: x\r\n\r\n";
        // There are few places, and a slow machine takes a moment to see who has gone.
        until("an answer to the one that waits", || async {
            exchange(door, whole, true).await.starts_with(b"HTTP/1.1 204").then_some(())
        })
        .await;
    }
    // Nothing of them stays.
    until("the file descriptors of those that are gone", || async {
        (metric(&pillion.metrics().await, "process_open_fds") <= before + 1.0).then_some(())
    })
    .await;
    assert!(pillion.stop().await.success(), "{}", pillion.log());
}

#[tokio::test]
async fn a_client_that_never_says_who_it_is_is_cut_off() {
    let (desk, pillion, mut witness) = begin().await;
    let mut silent = Vec::new();
    for bytes in [&b""[..], b"\x10", b"\x10\x20\x00\x04MQ"] {
        let door = desk.mqtt();
        silent.push(tokio::spawn(async move {
            let begun = Instant::now();
            exchange(door, bytes, false).await;
            begun.elapsed()
        }));
    }
    witness.check(&pillion, &desk).await;
    for one in silent {
        let took = one.await.expect("it was cut off");
        assert!(took < Duration::from_secs(15), "{took:?}");
    }
    witness.check(&pillion, &desk).await;
    witness.finish(pillion).await;
}
