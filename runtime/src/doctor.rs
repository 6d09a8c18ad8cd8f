//! `pillion doctor`: looks at a gateway from outside, says what is wrong and what to do.
//!
//! Each group of checks runs on a thread of its own, so that what waits (a name, a broker, a dead
//! disk) waits beside the others, and the whole run ends by [`RUN_MAX`]. Nothing is written but a
//! file without a name, by which a sync is timed; a running service is only asked what anybody may
//! ask, its lock is not touched and its ports are not bound.

mod certificates;
mod clock;
mod cloud;
mod configuration;
mod data;
mod flash;
mod memory;
mod ports;
mod running;
mod scene;
mod service;
mod system;
#[cfg(test)]
mod tests;

use crate::cli::Doctor;
use scene::Scene;
use serde::Serialize;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

/// Time for everything; a check without an answer by then has failed.
const RUN_MAX: Duration = Duration::from_secs(20);

/// Time for reading the resources and finding the running process.
const SCENE_MAX: Duration = Duration::from_secs(5);

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    /// As it should be.
    Ok,
    /// Works, and somebody should look at it.
    Warn,
    /// Does not work, or loses data.
    Fail,
    /// Could not be seen, or was not asked for.
    Skip,
}

/// One line of the report.
#[derive(Debug, Clone, Serialize)]
struct Finding {
    name: String,
    level: Level,
    found: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    advice: String,
}

impl Finding {
    fn new(level: Level, name: &str, found: String, advice: &str) -> Self {
        Self { name: name.into(), level, found, advice: advice.into() }
    }
    fn ok(name: &str, found: String) -> Self {
        Self::new(Level::Ok, name, found, "")
    }
    fn skip(name: &str, found: String) -> Self {
        Self::new(Level::Skip, name, found, "")
    }
    fn warn(name: &str, found: String, advice: &str) -> Self {
        Self::new(Level::Warn, name, found, advice)
    }
    fn fail(name: &str, found: String, advice: &str) -> Self {
        Self::new(Level::Fail, name, found, advice)
    }
}

/// Checks that belong together.
struct Group {
    name: &'static str,
    check: fn(&Arc<Scene>) -> Vec<Finding>,
}

/// Every check, in the order of the report.
const GROUPS: &[Group] = &[
    Group { name: "configuration", check: configuration::check },
    Group { name: "service", check: service::check },
    Group { name: "ports", check: ports::check },
    Group { name: "data", check: data::check },
    Group { name: "flash", check: flash::check },
    Group { name: "memory", check: memory::check },
    Group { name: "clock", check: clock::check },
    Group { name: "names", check: cloud::names },
    Group { name: "cloud", check: cloud::check },
    Group { name: "certificates", check: certificates::check },
];

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    version: &'static str,
    resources: &'a PathBuf,
    data_dir: Option<&'a PathBuf>,
    /// Process id of the running service.
    running: Option<u32>,
    checks: Vec<Line<'a>>,
    ok: usize,
    warn: usize,
    fail: usize,
    skip: usize,
    exit_code: i32,
}

#[derive(Serialize)]
struct Line<'a> {
    group: &'static str,
    #[serde(flatten)]
    finding: &'a Finding,
}

/// Looks at everything: a text for the terminal and an exit code. 0: all is well; 1: something
/// failed; 3: there are warnings only. 2 is left to a command line that is wrong.
pub fn run(asked: Doctor) -> (String, i32) {
    let begun = Instant::now();
    let json = asked.json;
    let dir = asked.dir.clone();
    let Some(scene) = within(SCENE_MAX, move || Scene::new(asked)) else {
        let text = format!("{}: cannot be read within {SCENE_MAX:?}\n", dir.display());
        return (text, 1);
    };
    let scene = Arc::new(scene);
    let findings = examine(&scene, GROUPS, begun + RUN_MAX);
    report(&scene, &findings, json)
}

/// Runs every group and gives their findings in order.
fn examine(
    scene: &Arc<Scene>,
    groups: &'static [Group],
    deadline: Instant,
) -> Vec<(&'static str, Vec<Finding>)> {
    let answer = |group: &'static Group| {
        let scene = scene.clone();
        (group.name, start(move || (group.check)(&scene)))
    };
    let started: Vec<_> = groups.iter().map(answer).collect();
    let wait = |(name, answer): (&'static str, mpsc::Receiver<Vec<Finding>>)| {
        let found = answer.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        let none = |_| {
            let advice = "look for a disk or a network file system that does not answer (dmesg)";
            vec![Finding::fail("answer", format!("none within {RUN_MAX:?}"), advice)]
        };
        (name, found.unwrap_or_else(none))
    };
    started.into_iter().map(wait).collect()
}

fn report(scene: &Scene, findings: &[(&'static str, Vec<Finding>)], json: bool) -> (String, i32) {
    let lines: Vec<Line<'_>> = findings
        .iter()
        .flat_map(|(group, list)| list.iter().map(|finding| Line { group, finding }))
        .collect();
    let count = |level| lines.iter().filter(|line| line.finding.level == level).count();
    let [ok, warn, fail, skip] = [Level::Ok, Level::Warn, Level::Fail, Level::Skip].map(count);
    let exit_code = match (fail, warn) {
        (1.., _) => 1,
        (0, 1..) => 3,
        (0, 0) => 0,
    };
    let mut text = String::new();
    if json {
        let document = Document {
            version: env!("CARGO_PKG_VERSION"),
            resources: &scene.asked.dir,
            data_dir: scene.data_dir.as_ref(),
            running: scene.running.as_ref().map(|running| running.pid),
            checks: lines,
            ok,
            warn,
            fail,
            skip,
            exit_code,
        };
        text = serde_json::to_string_pretty(&document).unwrap_or_default();
        text.push('\n');
        return (text, exit_code);
    }
    for Line { group, finding } in &lines {
        let word = match finding.level {
            Level::Ok => "ok  ",
            Level::Warn => "WARN",
            Level::Fail => "FAIL",
            Level::Skip => "-   ",
        };
        let _ = writeln!(text, "{word} {group}: {}: {}", finding.name, finding.found);
        if !finding.advice.is_empty() {
            let _ = writeln!(text, "       do: {}", finding.advice);
        }
    }
    let _ = writeln!(text, "\n{fail} failed, {warn} warnings, {ok} ok, {skip} not checked");
    (text, exit_code)
}

/// Runs `job` on a thread of its own. One that hangs is left to itself, and ends with the process.
fn start<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> mpsc::Receiver<T> {
    let (tell, told) = mpsc::sync_channel(1);
    let job = move || {
        let _ = tell.send(job());
    };
    // Without a thread the other end is dropped, and nobody waits.
    let _ = std::thread::Builder::new().spawn(job);
    told
}

/// Runs `job` on a thread of its own; `None` when it is not done within `limit`.
fn within<T: Send + 'static>(
    limit: Duration,
    job: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    start(job).recv_timeout(limit).ok()
}

/// Bytes for people: `4.1 GB`.
fn bytes(number: u64) -> String {
    let units =
        [(1_000_000_000_000, "TB"), (1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "KB")];
    match units.into_iter().find(|(unit, _)| number >= *unit) {
        Some((unit, name)) => {
            format!("{}.{} {name}", number / unit, number % unit / (unit / 10))
        }
        None => format!("{number} bytes"),
    }
}
