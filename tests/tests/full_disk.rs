//! A disk that is really full: a small tmpfs.
//!
//! What makes the store larger is refused, each door in its own words; what makes it smaller works;
//! a kill is survived; and it heals by itself when there is room. Needs root, or sudo without a
//! password, to mount.

#![allow(clippy::print_stdout, reason = "the figures of a run are worth a line")]

use pillion_tests::pillion::TestDir;
use pillion_tests::tool::{command, words};
use pillion_tests::{Desk, Pillion, Request, Tool, mqtt};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Size of the disk.
const DISK_MIB: usize = 16;

/// What something else has on it.
const OTHERS_MIB: usize = 5;

/// Size of a value.
const VALUE_BYTES: usize = 24 << 10;

/// A small tmpfs, unmounted at the end.
struct SmallDisk(TestDir);

/// Runs a command as root.
async fn as_root(arguments: &[&str]) {
    // SAFETY: it only reads the process's user id.
    let is_root = unsafe { libc::geteuid() } == 0;
    let said = if is_root {
        Tool::run(command(arguments[0], &arguments[1..])).await
    } else {
        Tool::run(command("sudo", [&["-n"], arguments].concat())).await
    };
    assert!(
        said.status.success(),
        "this test mounts a small disk: run it as root, or as a user whose sudo asks for no \
         password ({arguments:?}: {said:?})"
    );
}

impl SmallDisk {
    async fn mount() -> Self {
        let dir = TestDir::new();
        let options = format!("size={DISK_MIB}m,mode=1777");
        let path = dir.path().display().to_string();
        as_root(&["mount", "-t", "tmpfs", "-o", &options, "tmpfs", &path]).await;
        Self(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn others(&self) -> PathBuf {
        self.path().join("others")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmount = |program: &str, arguments: &[&str]| {
            let mut command = command(program, arguments);
            command.arg(self.path()).status().is_ok_and(|status| status.success())
        };
        // Lazily: a killed process may still be on its way out.
        let _ = unmount("umount", &["-l"]) || unmount("sudo", &["-n", "umount", "-l"]);
    }
}

/// Small segments, so that the disk and not the log is what is full.
const GATEWAY: &str = "
apiVersion: pillion/v1alpha1
kind: Gateway
metadata: {name: box}
spec:
  storage: {segmentBytes: 1Mi}
  limits: {bodyBytesMax: 128Ki}
";

/// A value that no compression makes smaller, and that tells whose it is.
fn value(number: usize) -> String {
    let mut state = number as u64 + 1;
    let mut text = format!("{number}-");
    while text.len() < VALUE_BYTES {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text.push_str(&format!("{state:016x}"));
    }
    text
}

async fn save(pillion: &Pillion, number: usize) -> pillion_tests::Answer {
    let body = format!(r#"[{{"key":"k{number}","value":"{}"}}]"#, value(number));
    pillion.post("/v1.0/state/statestore", body).await
}

async fn check_all(pillion: &Pillion, saved: &[usize]) {
    for number in saved {
        let answer = pillion.get(&format!("/v1.0/state/statestore/k{number}")).await;
        let is_there = answer.status == 200 && answer.text() == format!("\"{}\"", value(*number));
        assert!(is_there, "k{number}: {} {:.200}\n{}", answer.status, answer.text(), pillion.log());
    }
}

/// Saves until it is refused; gives the numbers that were accepted.
async fn fill(pillion: &Pillion, from: usize) -> Vec<usize> {
    let mut saved = Vec::new();
    let mut refusals = 0;
    let begun = Instant::now();
    for number in from.. {
        let answer = save(pillion, number).await;
        match answer.status {
            204 => {
                saved.push(number);
                refusals = 0;
            }
            507 => {
                assert_eq!(answer.json()["errorCode"], "ERR_STATE_SAVE", "{}", answer.text());
                assert!(answer.text().contains("full"), "{}", answer.text());
                // A checkpoint that is under way may still make room.
                refusals += 1;
                if refusals == 40 {
                    return saved;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            other => panic!("{other}: {}\n{}", answer.text(), pillion.log()),
        }
        assert!(begun.elapsed() < 2 * pillion_tests::PATIENCE, "never full");
    }
    saved
}

fn mosquitto(program: &str, desk: &Desk, arguments: &str) -> std::process::Command {
    let mut command = command(program, ["-p", &desk.mqtt().port().to_string()]);
    command.args(words(arguments));
    command
}

#[tokio::test]
async fn a_full_disk_refuses_what_is_new_and_lets_go_of_what_is_old() {
    let disk = SmallDisk::mount().await;
    fs::write(disk.others(), vec![7; OTHERS_MIB << 20]).expect("there is room for that");
    let desk = Desk::new().data(disk.path().join("data")).resource("gateway.yaml", GATEWAY);
    let mut pillion = desk.start().await;

    // Somebody who is away, with something in the queue.
    let session = "-i sleeper -c -q 1 -t queue/#";
    Tool::run(mosquitto("mosquitto_sub", &desk, &format!("{session} -E"))).await.expect_success();
    for number in 0..20 {
        let path = "/v1.0/publish/pubsub/queue/a?metadata.rawPayload=true";
        let request = Request::new(hyper::Method::POST, path).body(format!("before-{number}"));
        assert_eq!(pillion.send(request).await.status, 204);
    }

    let mut saved = fill(&pillion, 0).await;
    assert!(saved.len() * VALUE_BYTES > 2 << 20, "only {} values", saved.len());
    println!("full after {} values of {} KiB", saved.len(), VALUE_BYTES >> 10);
    told_in_metadata(&pillion, &mut saved).await;
    check_all(&pillion, &saved).await;

    // Every door refuses, in its own words.
    let payload = "x".repeat(VALUE_BYTES);
    let answer = pillion.post("/v1.0/publish/pubsub/queue/a", format!("\"{payload}\"")).await;
    assert_eq!(answer.status, 507, "{}", answer.text());
    assert_eq!(answer.json()["errorCode"], "ERR_PUBSUB_PUBLISH_MESSAGE", "{}", answer.text());
    let publish = format!("-q 1 -t queue/a -m {payload}");
    let five = Tool::run(mosquitto("mosquitto_pub", &desk, &format!("-V mqttv5 {publish}"))).await;
    assert!(format!("{five:?}").contains("Quota exceeded"), "{five:?}");
    // 3.1.1 has no word for it: no acknowledgement, and the connection ends.
    let (mut sender, mut receiver) =
        mqtt::connect(desk.mqtt(), "old", true).await.expect("the door is open");
    sender.publish("queue/a", 1, payload.as_bytes()).await.expect("open");
    assert!(receiver.next().await.is_err(), "an acknowledgement of what was not stored");

    // What was accepted survives a kill.
    pillion.signal(libc::SIGKILL);
    pillion.ended().await;
    pillion = desk.start().await;
    check_all(&pillion, &saved).await;

    // Acknowledgements work: the queue empties.
    let taken = format!("{session} -C 20 -W 10");
    let taken = Tool::run(mosquitto("mosquitto_sub", &desk, &taken)).await.expect_success();
    let expected: Vec<_> = (0..20).map(|number| format!("before-{number}")).collect();
    assert_eq!(taken.out, expected);
    // Deletes work, and are as durable as ever.
    let (mut kept, mut deleted) = (Vec::new(), Vec::new());
    for (index, number) in saved.drain(..).enumerate() {
        if index % 2 == 0 { deleted.push(number) } else { kept.push(number) }
    }
    saved = kept;
    for number in &deleted {
        let answer = pillion.delete(&format!("/v1.0/state/statestore/k{number}")).await;
        assert_eq!(answer.status, 204, "{}\n{}", answer.text(), pillion.log());
    }
    pillion.signal(libc::SIGKILL);
    pillion.ended().await;
    pillion = desk.start().await;
    check_all(&pillion, &saved).await;
    for number in &deleted {
        let answer = pillion.get(&format!("/v1.0/state/statestore/k{number}")).await;
        assert_eq!(answer.status, 204, "k{number} is back");
    }
    let again = format!("{session} -W 1");
    let again = Tool::run(mosquitto("mosquitto_sub", &desk, &again)).await;
    // Cursor moves ride along with later commits: the last ones may have been lost by the kill.
    assert!(expected.ends_with(&again.out), "{again:?}");

    // The deletes made room: it heals without a restart.
    healed(&pillion, 100_000, "after deletes").await;
    saved.push(100_000);
    // Full again; then somebody else makes room.
    saved.extend(fill(&pillion, 200_000).await);
    fs::remove_file(disk.others()).expect("it is ours");
    healed(&pillion, 300_000, "after others made room").await;
    saved.push(300_000);
    check_all(&pillion, &saved).await;
    assert!(pillion.stop().await.success(), "{}", pillion.log());
    pillion = desk.start().await;
    check_all(&pillion, &saved).await;
    assert!(!pillion.log().contains("panicked"), "{}", pillion.log());
}

/// Waits until metadata tells that the disk is full, which a last checkpoint may still put off.
async fn told_in_metadata(pillion: &Pillion, saved: &mut Vec<usize>) {
    let begun = Instant::now();
    for number in 500_000.. {
        let metadata = pillion.get("/v1.0/metadata").await.json();
        let told = metadata["extended"]["pillionStorage"].as_str().unwrap_or_default();
        if told.contains("full") {
            return;
        }
        assert!(begun.elapsed() < pillion_tests::PATIENCE, "{metadata}");
        if save(pillion, number).await.status == 204 {
            saved.push(number);
        }
    }
}

/// Waits until a value is accepted again.
async fn healed(pillion: &Pillion, number: usize, why: &str) {
    let begun = Instant::now();
    loop {
        let answer = save(pillion, number).await;
        if answer.status == 204 {
            return;
        }
        assert_eq!(answer.status, 507, "{}", answer.text());
        let waited = begun.elapsed();
        assert!(waited < pillion_tests::PATIENCE, "still full {why}\n{}", pillion.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
