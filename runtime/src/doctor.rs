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
use crate::version::version;
use scene::Scene;
use std::fmt::{Display, Write as _};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Time for everything; a check without an answer by then has failed.
const RUN_MAX: Duration = Duration::from_secs(20);

/// Time for reading the resources and finding the running process.
const SCENE_MAX: Duration = Duration::from_secs(5);

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
#[derive(Debug)]
struct Finding {
    name: String,
    level: Level,
    found: String,
    /// What to do; empty if nothing.
    advice: String,
}

/// What one group found. Texts come unformatted and are put together in one place: with some
/// hundred of them that is half of the size.
#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

/// A text that is written out when it is needed.
type Text<'a> = &'a dyn Display;

impl Findings {
    #[inline(never)]
    fn add(&mut self, level: Level, name: Text<'_>, found: Text<'_>, advice: Text<'_>) {
        let (name, found) = (name.to_string(), found.to_string());
        self.0.push(Finding { name, level, found, advice: advice.to_string() });
    }
    #[inline(never)]
    fn ok(&mut self, name: Text<'_>, found: Text<'_>) {
        self.add(Level::Ok, name, found, &"");
    }
    #[inline(never)]
    fn skip(&mut self, name: Text<'_>, found: Text<'_>) {
        self.add(Level::Skip, name, found, &"");
    }
    #[inline(never)]
    fn warn(&mut self, name: Text<'_>, found: Text<'_>, advice: Text<'_>) {
        self.add(Level::Warn, name, found, advice);
    }
    #[inline(never)]
    fn fail(&mut self, name: Text<'_>, found: Text<'_>, advice: Text<'_>) {
        self.add(Level::Fail, name, found, advice);
    }
}

/// Checks that belong together.
struct Group {
    name: &'static str,
    check: fn(&Arc<Scene>, &mut Findings),
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

/// Looks at everything: a text for the terminal and an exit code. 0: all is well; 1: something
/// failed; 3: there are warnings only. 2 is left to a command line that is wrong.
pub fn run(asked: Doctor) -> (String, i32) {
    let begun = Instant::now();
    let dir = asked.dir.display().to_string();
    let json = asked.json;
    let made = Arc::new(OnceLock::new());
    let place = made.clone();
    let making = start(Box::new(move |_| {
        let _ = place.set(Arc::new(Scene::new(asked)));
    }));
    take(&making, begun + SCENE_MAX, &mut Findings::default());
    let Some(scene) = made.get() else {
        let text = format!("{dir}: cannot be read within {SCENE_MAX:?}");
        let document = || format!("{{\"error\": {}, \"exitCode\": 1}}", quoted(&text));
        return (if json { document() } else { text } + "\n", 1);
    };
    let found = examine(scene, GROUPS, begun + RUN_MAX);
    report(scene, &found, json)
}

/// Runs every group and gives their findings in order.
fn examine(
    scene: &Arc<Scene>,
    groups: &'static [Group],
    deadline: Instant,
) -> Vec<(&'static str, Findings)> {
    let mut started = Vec::new();
    for group in groups {
        let scene = scene.clone();
        started.push((group.name, start(Box::new(move |out| (group.check)(&scene, out)))));
    }
    let mut all = Vec::new();
    for (name, answer) in started {
        let mut found = Findings::default();
        if !take(&answer, deadline, &mut found) {
            let advice = "look for a disk or a network file system that does not answer (dmesg)";
            found.fail(&"answer", &format_args!("none within {RUN_MAX:?}"), &advice);
        }
        all.push((name, found));
    }
    all
}

fn report(scene: &Scene, all: &[(&'static str, Findings)], json: bool) -> (String, i32) {
    const LEVELS: [(Level, &str, &str); 4] = [
        (Level::Ok, "ok", "ok  "),
        (Level::Warn, "warn", "WARN"),
        (Level::Fail, "fail", "FAIL"),
        (Level::Skip, "skip", "-   "),
    ];
    let mut text = String::new();
    let mut counts = [0_u32; LEVELS.len()];
    if json {
        let path = |path: &PathBuf| quoted(&path.to_string_lossy());
        let null = || "null".to_owned();
        let _ = writeln!(
            text,
            "{{\n  \"version\": \"{}\",\n  \"resources\": {},\n  \"dataDir\": {},\n  \
             \"running\": {},\n  \"checks\": [",
            version(),
            path(&scene.asked.dir),
            scene.data_dir.as_ref().map_or_else(null, path),
            scene.running.as_ref().map_or_else(null, |running| running.pid.to_string()),
        );
    }
    let mut comma = "";
    for (group, findings) in all {
        for Finding { name, level, found, advice } in &findings.0 {
            let row = LEVELS.into_iter().zip(&mut counts).find(|((one, ..), _)| one == level);
            let Some(((_, word, shown), count)) = row else { continue };
            *count += 1;
            if json {
                let (name, found) = (quoted(name), quoted(found));
                let _ = write!(
                    text,
                    "{comma}    {{\"group\": \"{group}\", \"name\": {name}, \"level\": \
                     \"{word}\", \"found\": {found}"
                );
                if !advice.is_empty() {
                    let _ = write!(text, ", \"advice\": {}", quoted(advice));
                }
                text.push('}');
                comma = ",\n";
                continue;
            }
            let _ = writeln!(text, "{shown} {group}: {name}: {found}");
            if !advice.is_empty() {
                let _ = writeln!(text, "       do: {advice}");
            }
        }
    }
    let [ok, warn, fail, skip] = counts;
    let exit_code = match (fail, warn) {
        (1.., _) => 1,
        (0, 1..) => 3,
        (0, 0) => 0,
    };
    let _ = match json {
        true => writeln!(
            text,
            "\n  ],\n  \"ok\": {ok},\n  \"warn\": {warn},\n  \"fail\": {fail},\n  \
             \"skip\": {skip},\n  \"exitCode\": {exit_code}\n}}"
        ),
        false => {
            writeln!(text, "\n{fail} failed, {warn} warnings, {ok} ok, {skip} not checked")
        }
    };
    (text, exit_code)
}

/// What a thread does: it adds what it finds.
type Job = Box<dyn FnOnce(&mut Findings) + Send>;

/// Where a thread leaves its findings, and whether it has ended. A channel would be as right, and
/// ten times as large.
#[derive(Default)]
struct Slot {
    content: Mutex<(bool, Option<Findings>)>,
    filled: Condvar,
}

impl Slot {
    fn content(&self) -> MutexGuard<'_, (bool, Option<Findings>)> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread's end of a slot: it has ended when this is dropped, also by a panic.
struct Fill(Arc<Slot>);

impl Drop for Fill {
    fn drop(&mut self) {
        self.0.content().0 = true;
        self.0.filled.notify_one();
    }
}

/// Runs a job on a thread of its own. One that hangs is left to itself, and ends with the process.
fn start(job: Job) -> Arc<Slot> {
    let slot = Arc::new(Slot::default());
    let fill = Fill(slot.clone());
    // Without a thread the slot is told that it has ended.
    let _ = std::thread::Builder::new().spawn(move || {
        let mut out = Findings::default();
        job(&mut out);
        fill.0.content().1 = Some(out);
    });
    slot
}

/// Takes over what a thread found; `false` when it has not ended by then, or by a panic.
fn take(slot: &Slot, deadline: Instant, out: &mut Findings) -> bool {
    let mut content = slot.content();
    while !content.0 {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        let waited = slot.filled.wait_timeout(content, left);
        content = waited.unwrap_or_else(PoisonError::into_inner).0;
    }
    let found = content.1.take();
    let is_whole = found.is_some();
    out.0.extend(found.unwrap_or_default().0);
    is_whole
}

/// A text in JSON, with its quotes.
fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}

/// Bytes for people: `4.1 GB`.
fn bytes(number: u64) -> String {
    let mut unit = 1_000_000_000_000;
    for name in ["TB", "GB", "MB", "KB"] {
        if number >= unit {
            return format!("{}.{} {name}", number / unit, number % unit / (unit / 10));
        }
        unit /= 1000;
    }
    format!("{number} bytes")
}
