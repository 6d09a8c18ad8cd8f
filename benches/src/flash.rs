//! Bytes to the disk per item, checkpoints included: flash wears out by them.

use crate::app::App;
use crate::load::{self, Shape, Target, Until, request};
use crate::pillion::{Process, Scratch};
use crate::rows::{self, HOT_KEYS};
use crate::stats::{Checks, Table, number};
use crate::{Options, Result};
use std::path::Path;
use std::time::{Duration, Instant};

/// Items at least, whatever `--seconds` says: more than two log halves of lone commits (4096 pages
/// each), so that checkpoints are in the figure as they are in life.
const ITEMS_MIN: usize = 8500;
/// Items for each of `--seconds`, if that is more.
const ITEMS_PER_SECOND: usize = 1700;
/// Keys of the large store.
const RANDOM_KEYS: usize = 200_000;
/// Nothing was written for this long: longer than the flush of eventual writes.
const QUIET: Duration = Duration::from_millis(1500);
/// Longest wait for quiet.
const QUIET_LIMIT: Duration = Duration::from_secs(60);

/// Measures hot keys, random keys and messages, each in a process of its own.
pub(crate) fn measure(options: &Options, binary: &Path, checks: &mut Checks) -> Result<()> {
    let items = ITEMS_MIN.max(ITEMS_PER_SECOND * usize::try_from(options.seconds)?);
    let mut table = Table::new(&["flash", "items", "bytes per item", "KB in all"]);
    let mut show = |what: &str, limit: f64, bytes: u64| {
        let per_item = bytes as f64 / items as f64;
        let total = number(bytes as f64 / 1e3);
        table.row(vec![what.into(), items.to_string(), number(per_item), total]);
        checks.at_most(format!("flash: {what}"), per_item / 1e3, limit, "KB");
    };
    let hot = (0..items).map(|n| n % HOT_KEYS);
    show("durable save over 100 keys", 5.0, saves(options, binary, hot, HOT_KEYS)?);
    // A step that shares no factor with the number of keys visits them all in no order of theirs.
    let random = (1..=items).map(|n| n * 77_747 % RANDOM_KEYS);
    let bytes = saves(options, binary, random, RANDOM_KEYS)?;
    show("durable save over 200,000 keys", 10.0, bytes);
    show("message published, delivered, acknowledged", 5.5, messages(options, binary, items)?);
    table.print("Bytes to the disk per item of 256 bytes, one at a time");
    Ok(())
}

fn saves(
    options: &Options,
    binary: &Path,
    keys: impl Iterator<Item = usize>,
    filled: usize,
) -> Result<u64> {
    let scratch = Scratch::new("flash")?;
    let app = App::start()?;
    let pillion = Process::pillion(binary, scratch.path(), app.address, options.place())?;
    rows::fill(pillion.http, filled)?;
    let before = quiet(&pillion)?;
    let requests = rows::durable_saves(keys);
    let count = Until::Count(requests.len());
    let target = Target { address: pillion.http, requests, status: 204 };
    load::run(&target, Shape::Closed { connections: 1 }, count)?;
    let written = quiet(&pillion)? - before;
    pillion.stop()?;
    Ok(written)
}

fn messages(options: &Options, binary: &Path, count: usize) -> Result<u64> {
    let scratch = Scratch::new("flash")?;
    let app = App::start()?;
    let pillion = Process::pillion(binary, scratch.path(), app.address, options.place())?;
    let before = quiet(&pillion)?;
    let publish = |n| request("POST", "/v1.0/publish/pubsub/bench%2Fhttp", &rows::message(n));
    let target =
        Target { address: pillion.http, requests: (0..count).map(publish).collect(), status: 204 };
    load::run(&target, Shape::Closed { connections: 1 }, Until::Count(count))?;
    if !app.wait_for(u64::try_from(count)?, QUIET_LIMIT) {
        return Err(format!("{} of {count} messages arrived", app.arrived()).into());
    }
    let written = quiet(&pillion)? - before;
    pillion.stop()?;
    Ok(written)
}

/// Bytes written so far, once no more are being written.
fn quiet(pillion: &Process) -> Result<u64> {
    let end = Instant::now() + QUIET_LIMIT;
    let (mut written, mut since) = (pillion.written()?, Instant::now());
    while since.elapsed() < QUIET {
        std::thread::sleep(Duration::from_millis(50));
        let now = pillion.written()?;
        if now != written {
            (written, since) = (now, Instant::now());
        }
        if Instant::now() > end {
            return Err("it never stops writing".into());
        }
    }
    Ok(written)
}
