//! Size of the binary, time to ready, and resident memory: idle, after the whole load, and later.

use crate::app::App;
use crate::load::{self, Shape, Until};
use crate::pillion::{Process, Scratch};
use crate::rows;
use crate::stats::{Checks, Table, number};
use crate::{Options, Result, mqtt};
use std::path::Path;
use std::time::Duration;

/// Connections of the load.
const CONNECTIONS: usize = 64;
/// After the start, before idle memory is read.
const SETTLE: Duration = Duration::from_secs(2);
/// Starts of which the time to ready is the median.
const STARTS: usize = 5;

const READY_MS_MAX: f64 = 60.0;
const IDLE_MB_MAX: f64 = 8.0;
const LOADED_MB_MAX: f64 = 20.0;
const LATER_MB_MAX: f64 = 12.0;

/// Measures all of it in one process.
pub(crate) fn measure(options: &Options, binary: &Path, checks: &mut Checks) -> Result<()> {
    let app = App::start()?;
    let mut ready_ms = Vec::new();
    for _ in 0..STARTS {
        let scratch = Scratch::new("start")?;
        let pillion = Process::pillion(binary, scratch.path(), app.address, options.place())?;
        ready_ms.push(pillion.ready_after.as_secs_f64() * 1e3);
        pillion.stop()?;
    }
    ready_ms.sort_by(f64::total_cmp);
    let ready_ms = ready_ms.get(STARTS / 2).copied().unwrap_or(f64::NAN);

    let scratch = Scratch::new("memory")?;
    let pillion = Process::pillion(binary, scratch.path(), app.address, options.place())?;
    let rss_mb = || -> Result<f64> { Ok(pillion.rss()? as f64 / 1e6) };
    std::thread::sleep(SETTLE);
    let idle = rss_mb()?;
    rows::fill(pillion.http, 20_000)?;
    for row in rows::all() {
        let until = Until::Time(options.duration());
        let shape = Shape::Closed { connections: CONNECTIONS };
        load::run(&row.target(pillion.http), shape, until)
            .map_err(|error| format!("{}: {error}", row.name))?;
    }
    mqtt::run(pillion.mqtt, &app, None, options.duration())?;
    let loaded = rss_mb()?;
    // A minute at the default of 5 s.
    let later_after = options.duration() * 12;
    std::thread::sleep(later_after);
    let later = rss_mb()?;
    pillion.stop()?;

    let binary_mb = std::fs::metadata(binary)?.len() as f64 / 1e6;
    let mut table = Table::new(&["size", "", "allowed"]);
    // What is flashed is held to its size by cross/test; this one is for this machine.
    table.row(vec!["binary".into(), format!("{} MB", number(binary_mb)), "-".into()]);
    let mut show = |what: &str, measured: f64, limit: f64, unit: &'static str| {
        table.row(vec![
            what.into(),
            format!("{} {unit}", number(measured)),
            format!("{} {unit}", number(limit)),
        ]);
        checks.at_most(what, measured, limit, unit);
    };
    show("time to ready, median of 5 first starts", ready_ms, READY_MS_MAX, "ms");
    show("resident, idle", idle, IDLE_MB_MAX, "MB");
    show("resident, after the load", loaded, LOADED_MB_MAX, "MB");
    let what = format!("resident, {} s later", later_after.as_secs());
    show(&what, later, LATER_MB_MAX, "MB");
    table.print("Size and memory");
    Ok(())
}
