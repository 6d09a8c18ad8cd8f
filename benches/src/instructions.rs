//! Instructions per request, counted by valgrind, or by qemu for a binary of another machine: the
//! one figure that a busy machine does not change. Compared with `instructions.toml` and asserted.
//!
//! Each row runs twice with different numbers of requests; the difference leaves start and stop
//! out.

mod built;
mod count;
mod known;

use crate::app::App;
use crate::load::{self, Shape, Target, Until, request};
use crate::pillion::{Place, Process, Scratch, Start};
use crate::rows::{self, Row};
use crate::stats::{Checks, Table, number};
use crate::{Options, Result};
use built::Built;
use count::Counter;
use known::Known;
use std::path::{Path, PathBuf};

/// Requests of the short and of the long run.
const REQUESTS: (usize, usize) = (300, 1500);
/// How far a count may rise above the table.
const TOLERANCE_PERCENT: f64 = 5.0;

/// Of the core that the estimate speaks of: a Cortex-A53 as gateways have it.
const CORE_GHZ: f64 = 1.2;
/// Instructions that such a core does in a cycle. It issues at most two, in order; code that waits
/// for loads and branches as ours does is assumed between these. Assumed, not measured.
const CORE_IPC: (f64, f64) = (0.5, 1.0);

/// Counts every row and compares, or writes the table.
pub(crate) fn measure(options: &Options, binary: &Path, checks: &mut Checks) -> Result<()> {
    let built = Built::of(binary)?;
    let is_ours = built.arch == std::env::consts::ARCH;
    let counter = match Counter::of(built.arch) {
        Ok(counter) => counter,
        // Among other measurements it may be missing; alone it is what was asked for.
        Err(error) if options.is_all() => {
            println!("\nInstructions per request: left out: {error}");
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let mut known = Known::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.toml"))?;
    let app = App::start()?;
    let base_name = if is_ours { "to bare" } else { "to x86_64" };
    let mut head = vec!["instructions per request", "counted", base_name, "in the table", "change"];
    head.extend((!is_ours).then_some("µs, estimated"));
    let mut table = Table::new(&head);
    // The bare servers are this program, which only its own machine runs.
    let (mut empty, mut passed_on) = (None, None);
    if is_ours {
        for (name, kind, base) in [
            ("bare hyper, empty answer", "bare", &mut empty),
            ("bare hyper, passed on", "proxy", &mut passed_on),
        ] {
            let counted = bare(&counter, &app, kind)?;
            *base = Some(counted);
            table.row(vec![name.into(), number(counted), number(1.0), "-".into(), "-".into()]);
        }
    }
    for row in rows::all() {
        let counted = per_request(|requests| count_row(&counter, binary, &app, &row, requests))?;
        let base = match row.key {
            _ if !is_ours => known.x86_64(row.key),
            "invoke" => passed_on,
            _ => empty,
        };
        let before = known.get(&built.section, row.key);
        let or_none = |value: Option<String>| value.unwrap_or_else(|| "-".into());
        let mut cells = vec![
            row.name.into(),
            number(counted),
            or_none(base.map(|base| number(counted / base))),
            or_none(before.map(number)),
            or_none(before.map(|before| format!("{:+.1} %", (counted / before - 1.0) * 100.0))),
        ];
        cells.extend((!is_ours).then(|| estimate(counted)));
        table.row(cells);
        if options.bless {
            known.set(&built.section, row.key, counted);
        } else if let Some(before) = before {
            let limit = before * (1.0 + TOLERANCE_PERCENT / 100.0);
            checks.at_most(format!("{}: instructions", row.name), counted, limit, "");
        }
    }
    table.print(&format!(
        "Instructions per request of {}, user space, over all threads ({})",
        built.section,
        counter.name()
    ));
    if !is_ours {
        println!(
            "  The last column is an estimate: a Cortex-A53 at {CORE_GHZ} GHz that does {} to {} of \
             them in a cycle, which is assumed. The kernel's part of a request comes on top.",
            CORE_IPC.0, CORE_IPC.1
        );
    }
    if options.bless {
        println!("  written to {}", known.write()?.display());
    } else if !known.has(&built.section) {
        println!("  no figures of {} to compare with: write them with --bless", built.section);
    }
    Ok(())
}

/// Time on the core of the estimate, in µs.
fn estimate(instructions: f64) -> String {
    let us = |per_cycle: f64| instructions / (per_cycle * CORE_GHZ * 1e3);
    format!("{:.0}–{:.0}", us(CORE_IPC.1), us(CORE_IPC.0))
}

/// What one request more costs.
fn per_request(mut count: impl FnMut(usize) -> Result<u64>) -> Result<f64> {
    let (short, long) = REQUESTS;
    let more = count(long)?.saturating_sub(count(short)?);
    Ok(more as f64 / (long - short) as f64)
}

/// The same for a bare server, which the answers of the app do not slow down either.
fn bare(counter: &Counter, app: &App, kind: &str) -> Result<f64> {
    per_request(|requests| {
        let counting = Counting::new(counter)?;
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
fn count_row(
    counter: &Counter,
    binary: &Path,
    app: &App,
    row: &Row,
    requests: usize,
) -> Result<u64> {
    let counting = Counting::new(counter)?;
    let dir = counting.scratch.path();
    let pillion = Process::pillion(binary, dir, app.address, counting.start())?;
    let target = row.target(pillion.http);
    // What is read must be there, and the first of everything is not what is counted.
    rows::fill(pillion.http, rows::HOT_KEYS)?;
    // A durable save takes the others along to the log. Without it they would go there a second
    // later, and the slower the machine, the more reads would come from there.
    let last = rows::durable_saves(std::iter::once(rows::HOT_KEYS));
    send(&Target { address: pillion.http, requests: last, status: 204 }, 1)?;
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

/// One process that is counted, in a directory of its own.
struct Counting<'a> {
    counter: &'a Counter,
    under: Vec<String>,
    out: PathBuf,
    scratch: Scratch,
}

impl<'a> Counting<'a> {
    fn new(counter: &'a Counter) -> Result<Self> {
        let scratch = Scratch::new("instructions")?;
        let out = scratch.path().join("count.out");
        Ok(Self { counter, under: counter.words(&out), out, scratch })
    }

    fn start(&self) -> Start<'_> {
        Start { under: &self.under, place: Place::Anywhere }
    }

    /// What was counted, once the process has ended.
    fn total(&self) -> Result<u64> {
        self.counter.total(&self.out)
    }
}
