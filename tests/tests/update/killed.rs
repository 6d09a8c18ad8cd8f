//! A kill at every step of an update: at each system call that changes something, one after the
//! other, until the run comes through. After each, what the service manager starts works, and the
//! update can be done again.
//!
//! Method: strace kills the process at the n-th call of one kind, so that nothing in the product
//! knows of it. What runs under strace is the updater, or the launcher, never the release.

use crate::site::{STAND_IN, Site, base, path, serves, version};
use pillion_tests::{Tool, until};
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::ExitStatus;

/// Calls that change something, or begin to; in groups that are tried side by side, because a test
/// waits for the disk most of the time.
const CALLS: [&[&str]; 3] = [
    &["openat"],
    &["write", "fsync"],
    &["mkdir", "rename", "unlink", "fchmod", "flock", "bind", "clone3", "vfork", "execve"],
];

/// Far above what any run makes of one of these.
const STEPS_MAX: usize = 200;

fn strace(call: &str, what: &str, step: usize) -> Vec<String> {
    // Detached, so that the process is our child and not strace's.
    let words = ["strace", "-D", "-qqq", "-o", "/dev/null", "-e"].map(str::to_owned);
    let inject =
        [format!("trace={call}"), "-e".into(), format!("inject={call}:{what}:when={step}")];
    words.into_iter().chain(inject).collect()
}

fn words(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

fn was_killed(status: ExitStatus) -> bool {
    status.signal() == Some(libc::SIGKILL)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a writable directory");
    for entry in fs::read_dir(from).expect("a directory").flatten() {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        match from.is_dir() {
            true => copy(&from, &to),
            false => drop(fs::copy(from, to).expect("a copy")),
        }
    }
}

/// Runs one kind of kill for every group of calls; gives the number of kills.
async fn side_by_side(run: impl AsyncFn(&[&str]) -> usize) -> usize {
    let [one, two, three] = CALLS;
    let [one, two, three] = [one, two, three].map(|calls| Box::pin(run(calls)));
    let (one, two, three) = tokio::join!(one, two, three);
    one + two + three
}

#[tokio::test]
#[allow(clippy::print_stdout, reason = "the figures of a run are worth a line")]
async fn the_updater_is_killed_at_every_step() {
    let kills = side_by_side(the_updater_is_killed).await;
    println!("{kills} kills of the updater");
    assert!(kills > 40, "{kills}");
}

async fn the_updater_is_killed(calls: &[&str]) -> usize {
    let site = Site::new();
    let slots = site.gateway.data().join("slots");
    // An earlier update is confirmed, so that there is something to lose.
    site.install(&site.workshop.release("0.2.0", "1")).await;
    let mut pillion = site.up().await;
    site.subscribe().await;
    site.store("before").await;
    site.shows("0.2.0 was confirmed").await;
    pillion.stop().await;
    let kept = site.gateway.dir().join("kept");
    copy(&slots, &kept);

    let image = site.workshop.image(&site.workshop.stand_in(STAND_IN, "0.3.0", "works"));
    let mut kills = 0;
    for call in calls {
        for step in 1..STEPS_MAX {
            fs::remove_dir_all(&slots).expect("slots");
            copy(&kept, &slots);
            let strace = strace(call, "signal=SIGKILL", step);
            let output = Tool::run(site.update_command(&words(&strace), &[path(&image)])).await;
            if !was_killed(output.status) {
                output.expect_success();
                break;
            }
            kills += 1;
            // Whatever it left: the old one starts, or the new one on trial.
            let mut pillion = site.launch();
            site.told("READY=1").await;
            let exe = fs::read_link(format!("/proc/{}/exe", pillion.pid())).expect("it runs");
            let is_old = exe.ends_with("slots/a/pillion");
            assert!(is_old || site.runs("b"), "{call} {step}: {}", pillion.log());
            pillion.signal(libc::SIGKILL);
            pillion.ended().await;
            site.is_gone("b").await;
            site.update(&[path(&image)]).await.expect_success();
            assert!(site.status().await.contains("on trial, 3 starts left"), "{call} {step}");
        }
    }
    fs::remove_dir_all(&slots).expect("slots");
    copy(&kept, &slots);
    let pillion = site.up().await;
    assert_eq!(version(&pillion).await, "0.2.0");
    site.has(&["before"]).await;
    kills
}

#[tokio::test]
#[allow(clippy::print_stdout, reason = "the figures of a run are worth a line")]
async fn the_launcher_is_killed_at_every_step_of_a_roll_back() {
    let kills = side_by_side(async |calls| {
        let site = Site::new();
        let fails = site.workshop.stand_in(STAND_IN, "0.2.0", "exits");
        the_launcher_is_killed(&site, &fails, "dapr initialized", calls).await
    })
    .await;
    println!("{kills} kills of the launcher until a roll-back is done");
    assert!(kills > 40, "{kills}");
}

#[tokio::test]
#[allow(clippy::print_stdout, reason = "the figures of a run are worth a line")]
async fn the_launcher_is_killed_at_every_step_of_a_confirmation() {
    let kills = side_by_side(async |calls| {
        let site = Site::with("20s", "400ms");
        let works = site.workshop.release("0.2.0", "1");
        the_launcher_is_killed(&site, &works, "0.2.0 is confirmed", calls).await
    })
    .await;
    println!("{kills} kills of the launcher until a release is confirmed");
    assert!(kills > 30, "{kills}");
}

/// Kills the launcher at every step of a trial of `binary`, after which the log says `end`.
async fn the_launcher_is_killed(site: &Site, binary: &[u8], end: &str, calls: &[&str]) -> usize {
    let slots = site.gateway.data().join("slots");
    let mut pillion = site.up().await;
    site.subscribe().await;
    site.store("before").await;
    pillion.stop().await;
    site.install(binary).await;
    let kept = site.gateway.dir().join("kept");
    copy(&slots, &kept);
    let mut kills = 0;
    for call in calls {
        for step in 1..STEPS_MAX {
            fs::remove_dir_all(&slots).expect("slots");
            copy(&kept, &slots);
            let strace = strace(call, "signal=SIGKILL", step);
            let mut pillion = site.launch_under(&words(&strace));
            // The launcher is killed, or everything that it writes down is written. On a busy machine
            // a release may be silent for too long in so short a probation: then the base serves.
            let mut status = None;
            until(&format!("the end of step {call} {step}"), || {
                status = pillion.try_ended();
                let log = pillion.log();
                let over = log.contains(end) || log.matches("dapr initialized").count() > 1;
                std::future::ready((status.is_some() || over).then_some(()))
            })
            .await;
            let killed = status.is_some_and(was_killed);
            pillion.signal(libc::SIGKILL);
            pillion.ended().await;
            site.is_gone("a").await;
            if !killed {
                break;
            }
            kills += 1;
            let mut pillion = site.up().await;
            let version = version(&pillion).await;
            assert!(version == "0.2.0" || version == base(), "{version}");
            pillion.signal(libc::SIGKILL);
            pillion.ended().await;
            site.is_gone("a").await;
        }
    }
    let mut pillion = site.up().await;
    site.has(&["before"]).await;
    pillion.stop().await;
    kills
}

/// A disk that takes nothing: no update is half done, and no trial is started that could not be
/// counted.
#[tokio::test]
async fn on_a_full_disk_everything_stays_as_it_is() {
    let site = Site::new();
    let image = site.workshop.image(&site.workshop.release("0.2.0", "1"));
    for step in [1, 2, 20] {
        let strace = strace("write", "error=ENOSPC", step);
        let output = Tool::run(site.update_command(&words(&strace), &[path(&image)])).await;
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(output.errors.join("\n").contains("No space left"), "{output:?}");
        let left: Vec<_> =
            site.snapshot().into_keys().filter(|name| name.contains("pillion")).collect();
        let left = left.iter().filter(|name| name.ends_with("/pillion") || name.ends_with(".new"));
        assert_eq!(left.count(), 0, "something is left");
    }
    site.update(&[path(&image)]).await.expect_success();
    let strace = strace("write", "error=ENOSPC", 1);
    let mut pillion = site.launch_under(&words(&strace));
    pillion.ready("/v1.0/healthz/outbound").await;
    assert_eq!(version(&pillion).await, base(), "{}", pillion.log());
    assert!(site.status().await.contains("on trial, 3 starts left"), "{}", pillion.log());
    pillion.stop().await;
    serves(&site.up().await, "0.2.0").await;
}
