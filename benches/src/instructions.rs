//! Instructions per request, counted by valgrind: the one figure that a busy machine does not
//! change. Compared with `instructions.toml` and asserted.
//!
//! Each row runs twice with different numbers of requests; the difference leaves start and stop
//! out.

use crate::app::App;
use crate::load::{self, Shape, Target, Until, request};
use crate::pillion::{Place, Process, Scratch, Start};
use crate::rows::{self, Row};
use crate::stats::{Checks, Table, number};
use crate::{Options, Result};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Requests of the short and of the long run.
const REQUESTS: (usize, usize) = (300, 1500);
/// How far a count may rise above the table.
const TOLERANCE_PERCENT: f64 = 5.0;

/// Counts every row and compares, or writes the table.
pub(crate) fn measure(options: &Options, binary: &Path, checks: &mut Checks) -> Result<()> {
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("\nInstructions per request: left out, valgrind is not installed");
        return Ok(());
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.toml");
    let mut known = Known::read(&path)?;
    let app = App::start()?;
    let bare = |kind| bare(&app, kind);
    let (empty, passed_on) = (bare("bare")?, bare("proxy")?);
    let mut table =
        Table::new(&["instructions per request", "counted", "to bare", "in the table", "change"]);
    for (name, counted) in
        [("bare hyper, empty answer", empty), ("bare hyper, passed on", passed_on)]
    {
        table.row(vec![name.into(), number(counted), number(1.0), "-".into(), "-".into()]);
    }
    for row in rows::all() {
        let counted = per_request(|requests| count_row(binary, &app, &row, requests))?;
        let base = if row.key == "invoke" { passed_on } else { empty };
        let before = known.get(row.key);
        table.row(vec![
            row.name.into(),
            number(counted),
            number(counted / base),
            before.map_or("-".into(), number),
            before
                .map_or("-".into(), |before| format!("{:+.1} %", (counted / before - 1.0) * 100.0)),
        ]);
        if options.bless {
            known.set(row.key, counted);
        } else if let Some(before) = before {
            let limit = before * (1.0 + TOLERANCE_PERCENT / 100.0);
            checks.at_most(format!("{}: instructions", row.name), counted, limit, "");
        }
    }
    table.print("Instructions per request, user space, over all threads (valgrind)");
    if !options.bless && !known.sections.contains_key(&known.here) {
        println!("  no figures of {} to compare with: write them with --bless", known.here);
    }
    if options.bless {
        known.write(&path)?;
        println!("  written to {}", path.display());
    }
    Ok(())
}

/// What one request more costs.
fn per_request(mut count: impl FnMut(usize) -> Result<u64>) -> Result<f64> {
    let (short, long) = REQUESTS;
    let more = count(long)?.saturating_sub(count(short)?);
    Ok(more as f64 / (long - short) as f64)
}

/// The same for a bare server, which the answers of the app do not slow down either.
fn bare(app: &App, kind: &str) -> Result<f64> {
    per_request(|requests| {
        let scratch = Scratch::new("instructions")?;
        let counting = Counting::below(scratch.path());
        let process = Process::bare(kind, Some(app.address), counting.start())?;
        let status = if kind == "proxy" { 200 } else { 204 };
        let requests_sent = vec![request("GET", "/x", "")];
        let target = Target { address: process.http, requests: requests_sent, status };
        send(&target, requests)?;
        process.stop()?;
        counting.total()
    })
}

/// Instructions of a whole process that answers so many requests one after the other.
fn count_row(binary: &Path, app: &App, row: &Row, requests: usize) -> Result<u64> {
    let scratch = Scratch::new("instructions")?;
    let counting = Counting::below(scratch.path());
    let pillion = Process::pillion(binary, scratch.path(), app.address, counting.start())?;
    let target = row.target(pillion.http);
    // What is read must be there, and the first of everything is not what is counted.
    rows::fill(pillion.http, rows::HOT_KEYS)?;
    send(&target, rows::HOT_KEYS).map_err(|error| format!("{}: {error}", row.name))?;
    send(&target, requests)?;
    app.settle();
    pillion.stop()?;
    counting.total()
}

fn send(target: &Target, count: usize) -> Result<()> {
    load::run(target, Shape::Closed { connections: 1 }, Until::Count(count))?;
    Ok(())
}

/// A process under valgrind.
struct Counting {
    under: Vec<String>,
    out: PathBuf,
}

impl Counting {
    fn below(dir: &Path) -> Self {
        let out = dir.join("cachegrind.out");
        let under = [
            "valgrind",
            "-q",
            "--log-file=/dev/null",
            "--tool=cachegrind",
            "--cache-sim=no",
            &format!("--cachegrind-out-file={}", out.display()),
        ];
        Self { under: under.map(str::to_owned).into(), out }
    }

    fn start(&self) -> Start<'_> {
        Start { under: &self.under, place: Place::Anywhere }
    }

    /// What it counted, once the process has ended.
    fn total(&self) -> Result<u64> {
        let text = fs::read_to_string(&self.out)?;
        let summary = text.lines().rev().find_map(|line| line.strip_prefix("summary:"));
        let total = summary.and_then(|rest| rest.split_whitespace().next());
        Ok(total.ok_or("valgrind wrote no summary")?.parse()?)
    }
}

/// The table: a section per architecture and compiler, a line per row. Another compiler makes other
/// code, so its counts say nothing about a change of ours.
struct Known {
    sections: BTreeMap<String, BTreeMap<String, f64>>,
    /// The section of this machine.
    here: String,
}

/// Such as `x86_64.rustc-1_95`.
fn section_here() -> Result<String> {
    let output = Command::new("rustc").arg("--version").output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.split_whitespace().nth(1).ok_or("rustc tells no version")?;
    let mut numbers = version.split('.');
    let (major, minor) = (numbers.next().unwrap_or("0"), numbers.next().unwrap_or("0"));
    Ok(format!("{}.rustc-{major}_{minor}", std::env::consts::ARCH))
}

impl Known {
    fn read(path: &Path) -> Result<Self> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error.into()),
        };
        let mut sections: BTreeMap<String, BTreeMap<String, f64>> = BTreeMap::new();
        let mut section = String::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                section = name.to_owned();
            } else if let Some((key, value)) = line.split_once('=') {
                let value = value.trim().parse().map_err(|_| {
                    format!("{}:{}: not a number: {line}", path.display(), index + 1)
                })?;
                sections.entry(section.clone()).or_default().insert(key.trim().to_owned(), value);
            }
        }
        Ok(Self { sections, here: section_here()? })
    }

    fn get(&self, key: &str) -> Option<f64> {
        self.sections.get(&self.here)?.get(key).copied()
    }

    fn set(&mut self, key: &str, value: f64) {
        let section = self.sections.entry(self.here.clone()).or_default();
        section.insert(key.to_owned(), value.round());
    }

    fn write(&self, path: &Path) -> Result<()> {
        let mut text = String::from(
            "# Instructions per request of the release build, by valgrind. Written by\n\
             # `cargo run --release -p pillion-benches -- instructions --bless`.\n",
        );
        for (section, rows) in &self.sections {
            writeln!(text, "\n[{section}]")?;
            for (key, value) in rows {
                writeln!(text, "{key} = {value}")?;
            }
        }
        Ok(fs::write(path, text)?)
    }
}
