//! A power cut loses what was not synced, which a kill cannot show: the page cache survives it.
//!
//! Method: the system calls of an update and of a trial. What gets a name was synced before it got
//! it, and every name is synced before the next step begins.

use crate::site::{STAND_IN, Site, path};
use pillion_tests::{Tool, until};
use std::collections::BTreeSet;
use std::fs;

/// What a line of `strace -y` says.
enum Step {
    Written(String),
    Synced(String),
    Renamed(String, String),
    Child,
}

fn steps(trace: &str) -> Vec<Step> {
    let step = |line: &str| {
        let (call, rest) = line.split_once('(')?;
        if !line.contains(") = ") || line.contains(") = -1") {
            return None;
        }
        let file = || Some(rest.split_once('<')?.1.split_once('>')?.0.to_owned());
        let mut names = rest.split('"').skip(1).step_by(2).map(str::to_owned);
        match call {
            "write" | "pwrite64" => file().map(Step::Written),
            "fsync" | "fdatasync" => file().map(Step::Synced),
            "rename" => Some(Step::Renamed(names.next()?, names.next()?)),
            "clone" | "clone3" | "vfork" => Some(Step::Child),
            _ => None,
        }
    };
    trace.lines().filter_map(step).collect()
}

fn parent(name: &str) -> String {
    name.rsplit_once('/').expect("a whole name").0.to_owned()
}

/// Checks the order; gives the names that were made.
fn check(trace: &str) -> Vec<String> {
    let (mut dirty, mut unsynced) = (BTreeSet::new(), BTreeSet::new());
    let mut names = Vec::new();
    for step in steps(trace) {
        match step {
            Step::Written(file) => drop(dirty.insert(file)),
            Step::Synced(file) => {
                dirty.remove(&file);
                unsynced.remove(&file);
            }
            Step::Renamed(from, to) => {
                assert!(!dirty.contains(&from), "{from} is renamed before it is synced\n{trace}");
                let dir = parent(&to);
                let others: Vec<_> = unsynced.iter().filter(|one| **one != dir).collect();
                assert!(others.is_empty(), "{to} is named before {others:?} is synced\n{trace}");
                unsynced.insert(dir);
                names.push(to);
            }
            Step::Child => assert!(unsynced.is_empty(), "a child before {unsynced:?}\n{trace}"),
        }
    }
    assert!(unsynced.is_empty(), "{unsynced:?} is not synced at the end\n{trace}");
    names
}

#[tokio::test]
async fn every_step_is_on_the_medium_before_the_next() {
    let site = Site::with("20s", "60s");
    let trace = site.gateway.dir().join("trace");
    let calls = "trace=write,pwrite64,fsync,fdatasync,rename,clone,clone3,vfork";
    let strace = ["strace", "-D", "-q", "-y", "-s", "0", "-e", calls, "-o", path(&trace)];
    // The traced process may be gone before the last lines are in the file.
    let traced = async |last: &str| {
        until(last, || async {
            let text = fs::read_to_string(&trace).unwrap_or_default();
            text.contains(last).then_some(text)
        })
        .await
    };
    let image = site.workshop.image(&site.workshop.stand_in(STAND_IN, "0.2.0", "works"));
    // A trial that is replaced is the longest way.
    site.update(&[path(&image)]).await.expect_success();
    Tool::run(site.update_command(&strace, &[path(&image)])).await.expect_success();
    let names = check(&traced("+++ exited with 0 +++").await);
    let short: Vec<_> =
        names.iter().map(|name| name.rsplit_once("slots/").expect("slots").1).collect();
    assert_eq!(short, ["state", "state-2", "a/pillion", "state", "state-2"]);

    fs::remove_file(&trace).expect("a trace");
    let mut pillion = site.launch_under(&strace);
    site.told("READY=1").await;
    pillion.signal(libc::SIGKILL);
    pillion.ended().await;
    let names = check(&traced("+++ killed by SIGKILL +++").await);
    assert_eq!(names.len(), 2, "the start is counted before it is made: {names:?}");
}
