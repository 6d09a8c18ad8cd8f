//! Bodies of any size: flat memory, lengths, clients that read late or never, and streams that break
//! off where they must.

use crate::{decrypt, encrypt, encrypting, pattern, request, setup};
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::Response;
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use pillion_tests::{PATIENCE, Pillion, Request};
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const SEGMENT: usize = 64 << 10;
const MIB: usize = 1 << 20;

type Error = Box<dyn std::error::Error + Send + Sync>;
type Sent = BoxBody<Bytes, Error>;

/// [`pattern`] as it goes, in pieces of no particular size.
struct Pattern {
    at: u64,
    left: usize,
}

impl Body for Pattern {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let count = self.left.min(30_011);
        if count == 0 {
            return Poll::Ready(None);
        }
        let piece = pattern(self.at, count);
        self.at += count as u64;
        self.left -= count;
        Poll::Ready(Some(Ok(Frame::data(piece.into()))))
    }
}

/// Sends a body as a stream and gives the answer's head once it is there.
async fn stream(pillion: &Pillion, request: Request, body: Sent) -> Response<Incoming> {
    try_stream(pillion, request, body).await.expect("an answer")
}

/// The same where the connection may be broken off while the body is still on its way.
async fn try_stream(
    pillion: &Pillion,
    request: Request,
    body: Sent,
) -> hyper::Result<Response<Incoming>> {
    let tcp = TcpStream::connect(("127.0.0.1", pillion.port)).await.expect("a connection");
    let handshake = http1::handshake(TokioIo::new(tcp)).await;
    let (mut client, connection): (SendRequest<Sent>, _) = handshake.expect("HTTP");
    // Ends when both bodies are through or broken.
    tokio::spawn(connection);
    let mut head = hyper::Request::builder().method(request.method).uri(request.path);
    for (name, value) in &request.headers {
        head = head.header(name, value);
    }
    let request = head.header("host", "localhost").body(body).expect("a request");
    client.send_request(request).await
}

/// Reads until the end, whichever it is.
async fn drain(body: Incoming) -> (Vec<u8>, bool) {
    let (mut body, mut read) = (body, Vec::new());
    loop {
        let frame = tokio::time::timeout(PATIENCE, body.frame()).await.expect("some end");
        match frame {
            Some(Ok(frame)) => read.extend_from_slice(&frame.into_data().unwrap_or_default()),
            Some(Err(_)) => return (read, false),
            None => return (read, true),
        }
    }
}

fn chunked(bytes: Vec<u8>) -> Sent {
    // Without a length known beforehand.
    let pieces = bytes.chunks(10_007).map(Bytes::copy_from_slice).collect::<Vec<_>>();
    struct Pieces(std::vec::IntoIter<Bytes>);
    impl Body for Pieces {
        type Data = Bytes;
        type Error = Infallible;
        fn poll_frame(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.next().map(|piece| Ok(Frame::data(piece))))
        }
    }
    Pieces(pieces.into_iter()).map_err(Into::into).boxed()
}

fn whole(bytes: Vec<u8>) -> Sent {
    Full::new(Bytes::from(bytes)).map_err(Into::into).boxed()
}

/// `VmRSS` in bytes.
fn memory(pillion: &Pillion) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pillion.pid()));
    let status = status.expect("a running process");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("the kernel tells");
    let kib: usize = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("KiB");
    kib * 1024
}

/// 64 MiB through both directions at once: what comes out of the first is what goes into the second.
#[tokio::test]
async fn a_large_stream_needs_little_memory() {
    let pillion = setup().start().await;
    let small = encrypt(&pillion, "sym.b64", "AES", b"x").await;
    assert_eq!(decrypt(&pillion, &small).await.text(), "x");
    let before = memory(&pillion);
    let total = 64 * MIB;
    let plain = Pattern { at: 0, left: total }.map_err(Into::into).boxed();
    let encrypted = stream(&pillion, encrypting("sym.b64", "AES"), plain).await;
    assert_eq!(encrypted.status(), 200);
    let between = encrypted.into_body().map_err(Into::into).boxed();
    let decrypted = stream(&pillion, request("decrypt", &[]), between).await;
    assert_eq!(decrypted.status(), 200);
    let (mut body, mut read, mut most) = (decrypted.into_body(), 0, before);
    while let Some(frame) = body.frame().await {
        let frame = frame.unwrap_or_else(|error| panic!("at {read}: {error}\n{}", pillion.log()));
        let data = frame.into_data().expect("data");
        assert!(data == pattern(read as u64, data.len()), "other bytes at {read}");
        if read % (4 * MIB) + data.len() >= 4 * MIB {
            most = most.max(memory(&pillion));
        }
        read += data.len();
    }
    assert_eq!(read, total);
    let growth = most - before;
    assert!(growth < 8 * MIB, "memory grew by {growth} bytes, from {before}");
}

/// A length that is known goes on, so that a client knows an end from a break.
#[tokio::test]
async fn a_known_length_stays_known() {
    let pillion = setup().start().await;
    for length in [0, 1, SEGMENT, SEGMENT + 1, 5 * SEGMENT - 3] {
        let plain = pattern(0, length);
        let ours = pillion.send(encrypting("sym.b64", "AES").body(plain.clone())).await;
        let told = |answer: &pillion_tests::Answer| {
            answer.header("content-length").and_then(|length| length.parse::<usize>().ok())
        };
        // hyper's client announces no length for an empty body.
        assert!(told(&ours) == Some(ours.body.len()) || length == 0, "{ours:?}");
        let back = decrypt(&pillion, &ours.body).await;
        assert_eq!(told(&back), Some(length));
        assert!(back.body == plain);
        let back = stream(&pillion, request("decrypt", &[]), chunked(ours.body.to_vec())).await;
        assert_eq!(back.headers().get("content-length"), None);
        assert!(drain(back.into_body()).await == (plain, true), "{length}");
    }
}

#[tokio::test]
async fn what_was_changed_on_the_way_breaks_the_stream() {
    let pillion = setup().start().await;
    let plain = pattern(0, 40 * SEGMENT);
    let good = encrypt(&pillion, "sym.b64", "AES", &plain).await;
    let header = good.len() - 40 * (SEGMENT + 16);
    let begin = |segment: usize| header + segment * (SEGMENT + 16);
    let mut flipped = good.clone();
    flipped[begin(20) + 100] ^= 1;
    let mut swapped = good[..begin(20)].to_vec();
    swapped.extend_from_slice(&good[begin(21)..begin(22)]);
    swapped.extend_from_slice(&good[begin(20)..begin(21)]);
    swapped.extend_from_slice(&good[begin(22)..]);
    let mut at_once = good.clone();
    at_once[header] ^= 1;
    for (what, bad, readable) in [
        ("a bit flipped", flipped, 20),
        ("two segments swapped", swapped, 20),
        ("one segment missing", [&good[..begin(20)], &good[begin(21)..]].concat(), 20),
        ("cut between segments", good[..begin(20)].to_vec(), 19),
        ("cut within one", good[..begin(20) + 5_000].to_vec(), 20),
        ("cut within a tag", good[..good.len() - 1].to_vec(), 39),
        ("something behind it", [&good[..], b"x"].concat(), 39),
        ("the first segment changed", at_once, 0),
    ] {
        for (way, body) in [("whole", whole(bad.clone())), ("chunked", chunked(bad))] {
            let answer = try_stream(&pillion, request("decrypt", &[]), body);
            let answer = tokio::time::timeout(PATIENCE, answer).await.expect("an end");
            // Broken off before the client has read anything is broken off as well.
            let Ok(answer) = answer else { continue };
            assert_eq!(answer.status(), 200, "{what}, {way}");
            let (read, complete) = drain(answer.into_body()).await;
            assert!(!complete, "{what}, {way}: a clean end after {} bytes", read.len());
            assert!(read.len() <= readable * SEGMENT, "{what}, {way}: {} bytes", read.len());
            assert!(plain.starts_with(&read), "{what}, {way}: other bytes");
        }
    }
    assert!(pillion.log().contains("crypto vault: a stream is broken off"), "{}", pillion.log());
    assert!(decrypt(&pillion, &good).await.body == plain);
}

/// Sends everything, and only then reads anything, as simple clients do.
async fn send_then_read(pillion: &Pillion, plain: &[u8]) -> Vec<u8> {
    let mut tcp = TcpStream::connect(("127.0.0.1", pillion.port)).await.expect("a connection");
    let head = format!(
        "PUT /v1.0-alpha1/crypto/vault/encrypt HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
         dapr-key-name: sym.b64\r\ndapr-key-wrap-algorithm: AES\r\ncontent-length: {}\r\n\r\n",
        plain.len()
    );
    tcp.write_all(head.as_bytes()).await.expect("an open connection");
    tcp.write_all(plain).await.expect("an open connection");
    let mut answer = Vec::new();
    tcp.read_to_end(&mut answer).await.expect("an answer");
    let end = answer.windows(4).position(|end| end == b"\r\n\r\n").expect("a head") + 4;
    answer.split_off(end)
}

#[tokio::test]
async fn a_client_may_send_everything_before_it_reads() {
    let pillion = setup().start().await;
    let plain = pattern(0, 4 * MIB);
    let sent = tokio::time::timeout(PATIENCE, send_then_read(&pillion, &plain)).await;
    let encrypted = sent.expect("no deadlock");
    assert!(decrypt(&pillion, &encrypted).await.body == plain);
}

/// Whoever never reads, or goes away in the middle, takes nothing from the others for good.
#[tokio::test]
async fn clients_that_never_read_do_not_hold_up_others() {
    let pillion = setup().start().await;
    let plain = pattern(0, 4 * MIB);
    let mut lazy = Vec::new();
    for _ in 0..4 {
        let body = Pattern { at: 0, left: 1 << 40 }.map_err(Into::into).boxed();
        lazy.push(stream(&pillion, encrypting("sym.b64", "AES"), body).await);
    }
    for _ in 0..3 {
        let encrypted = encrypt(&pillion, "sym.b64", "AES", &plain).await;
        assert!(decrypt(&pillion, &encrypted).await.body == plain);
    }
    drop(lazy);
    // Their places are free again.
    let sent = tokio::time::timeout(PATIENCE, send_then_read(&pillion, &plain)).await;
    let encrypted = sent.expect("no deadlock");
    assert!(decrypt(&pillion, &encrypted).await.body == plain);
}

/// What a client has not finished is not finished by us.
#[tokio::test]
async fn a_body_that_breaks_off_is_no_message() {
    let pillion = setup().start().await;
    for verb in ["encrypt", "decrypt"] {
        let mut tcp = TcpStream::connect(("127.0.0.1", pillion.port)).await.expect("a connection");
        let head = format!(
            "PUT /v1.0-alpha1/crypto/vault/{verb} HTTP/1.1\r\nhost: x\r\ndapr-key-name: sym.b64\r\n\
             dapr-key-wrap-algorithm: AES\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        tcp.write_all(head.as_bytes()).await.expect("an open connection");
        let mut part = encrypt(&pillion, "sym.b64", "AES", &pattern(0, 2 * SEGMENT)).await;
        part.truncate(SEGMENT + 500);
        tcp.write_all(format!("{:x}\r\n", part.len()).as_bytes()).await.expect("open");
        tcp.write_all(&part).await.expect("open");
        tcp.write_all(b"\r\n").await.expect("open");
        tcp.shutdown().await.expect("open");
        let mut answer = Vec::new();
        // A reset is as good as an end here.
        let _ = tcp.read_to_end(&mut answer).await;
        assert!(!answer.ends_with(b"0\r\n\r\n"), "{verb}: a clean end");
    }
    encrypt(&pillion, "sym.b64", "AES", b"it still works").await;
}
