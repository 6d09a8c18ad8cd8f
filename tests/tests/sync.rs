//! No acknowledgement leaves before an fdatasync that began after its data was written, and new
//! files have their directory synced.
//!
//! Method: the real binary under strace; one client, one request at a time, each with a marker in
//! its data. In the trace, the marker's write to the log must be followed by an fdatasync of that
//! file that begins and returns before the answer is written to the socket. A kill cannot show
//! this: the page cache survives it.

use pillion_tests::pillion::{Pillion, TestDir};
use pillion_tests::{Desk, mqtt};
use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

const ITEMS: usize = 40;

const CALLS: &str = "openat,read,readv,recvfrom,recvmsg,write,writev,pwrite64,pwritev,fdatasync,\
                     fsync,sendto,sendmsg";

/// One system call of the trace: where it began and ended, as line numbers.
#[derive(Debug)]
struct Call {
    name: String,
    /// Arguments and result.
    text: String,
    begun: usize,
    ended: usize,
}

impl Call {
    /// The path that strace shows for the first argument.
    fn path(&self) -> &str {
        self.text.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map_or("", |p| p.0)
    }

    fn is_sync(&self) -> bool {
        matches!(self.name.as_str(), "fdatasync" | "fsync") && self.text.ends_with("= 0")
    }

    fn is_file_write(&self) -> bool {
        matches!(self.name.as_str(), "pwrite64" | "write" | "pwritev" | "writev")
            && self.path().starts_with('/')
    }

    fn is_socket_read(&self) -> bool {
        matches!(self.name.as_str(), "read" | "readv" | "recvfrom" | "recvmsg")
            && self.path().contains("TCP")
    }

    fn is_socket_write(&self) -> bool {
        matches!(self.name.as_str(), "write" | "writev" | "sendto" | "sendmsg")
            && self.path().contains("TCP")
    }
}

/// Calls in the order of their ends. A call that another thread interrupts comes in two lines:
/// `… <unfinished ...>` and `<... name resumed>…`.
fn parse(trace: &str) -> Vec<Call> {
    let mut unfinished: BTreeMap<&str, (String, String, usize)> = BTreeMap::new();
    let mut calls = Vec::new();
    for (line, text) in trace.lines().enumerate() {
        let Some((pid, rest)) = text.split_once(char::is_whitespace) else { continue };
        let rest = rest.trim_start();
        if let Some(resumed) = rest.strip_prefix("<... ") {
            let Some((name, begun_text, begun)) = unfinished.remove(pid) else { continue };
            let tail = resumed.split_once("resumed>").map_or("", |(_, tail)| tail);
            calls.push(Call { name, text: begun_text + tail, begun, ended: line });
        } else if let Some((name, arguments)) = rest.split_once('(') {
            match arguments.strip_suffix("<unfinished ...>") {
                Some(arguments) => {
                    unfinished.insert(pid, (name.into(), arguments.into(), line));
                }
                None => calls.push(Call {
                    name: name.into(),
                    text: arguments.into(),
                    begun: line,
                    ended: line,
                }),
            }
        }
    }
    calls
}

/// The marker comes in, is written to a file, the file is synced by a call that began after that,
/// and only then the first answer goes out: anything else is told.
fn check_order(calls: &[Call], marker: &str, answer: &str) -> Result<(), String> {
    let find = |what: &str, matches: &dyn Fn(&Call) -> bool| {
        calls.iter().find(|call| matches(call)).ok_or_else(|| format!("{marker} was never {what}"))
    };
    let received = find("received", &|call| call.is_socket_read() && call.text.contains(marker))?;
    let answered = find("answered", &|call| {
        call.is_socket_write() && call.text.contains(answer) && call.ended > received.ended
    })?;
    let written = find("written", &|call| call.is_file_write() && call.text.contains(marker))?;
    let synced = find("synced", &|call| {
        call.is_sync() && call.path() == written.path() && call.begun > written.ended
    })?;
    if synced.ended < answered.begun {
        return Ok(());
    }
    Err(format!("answered before the sync:\n{answered:?}\n{written:?}\n{synced:?}"))
}

/// A file that is made in the data directory is followed by a sync of the directory, before the
/// first answer.
fn check_directory(calls: &[Call], data: &str, marker: &str) {
    let first = calls
        .iter()
        .find(|call| call.is_file_write() && call.text.contains(marker))
        .expect("the first marker was written");
    let made: Vec<&Call> = calls
        .iter()
        .filter(|call| call.name == "openat" && call.text.contains("O_CREAT"))
        .filter(|call| call.text.contains("/log-") && call.text.contains(data))
        .filter(|call| call.ended < first.begun)
        .collect();
    assert!(!made.is_empty(), "no log segment was made in {data}");
    for call in made {
        let synced = calls.iter().any(|sync| {
            sync.is_sync()
                && sync.path() == data
                && sync.begun > call.ended
                && sync.ended < first.begun
        });
        assert!(synced, "{data} was not synced after {call:?}");
    }
}

#[tokio::test]
async fn an_acknowledgement_leaves_after_the_sync() {
    let desk = Desk::new();
    let trace_path = desk.dir().join("trace");
    let mut command = Command::new("strace");
    command.args(["-f", "-yy", "-s", "8192", "-o", &trace_path.display().to_string()]);
    command.args(["-e", &format!("trace={CALLS}")]);
    command.args(desk.command_line());
    let port = desk.http();
    let mut pillion = Pillion::spawn(command, port, 0, TestDir::new());
    pillion.ready("/v1.0/healthz/outbound").await;

    // A durable consumer, so that publishes are stored.
    let (mut device, mut answers) =
        mqtt::connect(desk.mqtt(), "archive", false).await.expect("the door is open");
    device.subscribe("kept/#", 1).await.expect("the door is open");
    answers.next_of(9).await.expect("a SUBACK");
    device.send(0xe0, &[]).await.expect("the door is open");
    let (mut device, mut answers) =
        mqtt::connect(desk.mqtt(), "device", true).await.expect("the door is open");

    let marker = |what: &str, number: usize| format!("{what}-marker-{number:03}-end");
    for number in 0..ITEMS {
        let body = format!(r#"[{{"key":"k{number}","value":"{}"}}]"#, marker("state", number));
        let saved = pillion.post("/v1.0/state/statestore", body).await;
        assert_eq!(saved.status, 204, "{}", pillion.log());
        let body = format!("\"{}\"", marker("publish", number));
        let published = pillion.post("/v1.0/publish/pubsub/kept/a", body).await;
        assert_eq!(published.status, 204, "{}", pillion.log());
        let id = u16::try_from(number + 1).expect("a small number");
        let payload = marker("mqtt", number);
        device.publish("kept/b", id, payload.as_bytes()).await.expect("the door is open");
        assert_eq!(answers.next_of(4).await.expect("a PUBACK").u16_at(0), id);
    }
    let eventual =
        r#"[{"key":"e","value":"eventual-marker-end","options":{"consistency":"eventual"}}]"#;
    assert_eq!(pillion.post("/v1.0/state/statestore", eventual).await.status, 204);
    // SIGTERM to strace's child: strace ends when the traced process does.
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", pillion.pid()));
    let child: i32 = children.expect("strace runs").trim().parse().expect("one child");
    // SAFETY: kill takes numbers only; the child lives as long as strace, which has not ended.
    unsafe { libc::kill(child, libc::SIGTERM) };
    pillion.ended().await;

    let calls = parse(&fs::read_to_string(&trace_path).expect("strace wrote its trace"));
    for number in 0..ITEMS {
        check_order(&calls, &marker("state", number), "HTTP/1.1 204").unwrap();
        check_order(&calls, &marker("publish", number), "HTTP/1.1 204").unwrap();
        check_order(&calls, &marker("mqtt", number), "@\\2").unwrap();
    }
    // The same look at a save that asked for less finds that it was answered first.
    check_order(&calls, "eventual-marker-end", "HTTP/1.1 204").unwrap_err();
    check_directory(&calls, &desk.data_dir().display().to_string(), &marker("state", 0));
}
