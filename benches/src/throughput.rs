//! Latency and CPU time of every door, beside a direct call, a bare server and a bare proxy.

use crate::app::App;
use crate::load::{self, Outcome, Shape, Target, Until, request};
use crate::pillion::{Place, Process, Scratch};
use crate::rows::{self, Row};
use crate::stats::{Checks, Latencies, Table, number};
use crate::{Options, Result, mqtt};
use std::path::Path;
use std::time::Duration;

/// The open loop: requests a second.
const PER_SECOND: u32 = 1000;
/// The open loop: connections.
const CONNECTIONS: usize = 16;
/// Connections of the closed loop in which CPU time is compared.
const CPU_CONNECTIONS: usize = 8;
/// Rounds over all rows in which CPU time is measured; the least of a row counts, because
/// whatever else runs on the machine can only add to it.
const CPU_ROUNDS: u32 = 5;
/// Keys in the store beside the load: 28 MB, more than the tree's page cache.
const STORE_KEYS: usize = 80_000;
/// What a p99 may lie above that of a direct call in the same run.
const P99_ABOVE_DIRECT_MS: f64 = 0.5;
/// What invoke may take at p50 where all share one core, in direct calls.
const INVOKE_P50_RATIO: f64 = 3.0;
/// Durable saves a second beside the load, over so many connections: a checkpoint every few seconds,
/// and far more than flash should bear. As fast as they can, they fill the core by themselves, and
/// what is measured is the queue for it.
const SAVES_BESIDE: Shape = Shape::Open { per_second: 1000, connections: 4 };

const DIRECT: &str = "direct call";
const EMPTY: &str = "bare hyper, empty answer";
const PASSED_ON: &str = "bare hyper, passed on";

const OPEN: Shape = Shape::Open { per_second: PER_SECOND, connections: CONNECTIONS };

/// The processes of one run, all in one place.
struct Bench<'a> {
    options: &'a Options,
    app: &'a App,
    _scratch: Scratch,
    bare: Process,
    proxy: Process,
    pillion: Process,
    rows: Vec<Row>,
}

/// Something to load, and whose CPU time to look at.
struct Case<'b> {
    name: &'static str,
    target: Target,
    process: Option<&'b Process>,
    row: Option<&'b Row>,
}

/// Measures all rows: CPU time, and with `latency` everything else.
pub(crate) fn measure(
    options: &Options,
    binary: &Path,
    latency: bool,
    checks: &mut Checks,
) -> Result<()> {
    let app = App::start()?;
    let bench = Bench::start(options, binary, &app, options.place())?;
    bench.cpu(checks)?;
    if latency {
        let direct_p99 = bench.latency(checks)?;
        bench.mqtt()?;
        bench.beside_writers(direct_p99, checks)?;
    }
    bench.stop()?;
    if latency && options.place() == Place::Apart {
        let bench = Bench::start(options, binary, &app, Place::WithLoad)?;
        bench.one_core(checks)?;
        bench.stop()?;
    }
    Ok(())
}

impl<'a> Bench<'a> {
    fn start(options: &'a Options, binary: &Path, app: &'a App, place: Place) -> Result<Self> {
        let scratch = Scratch::new("throughput")?;
        let bare = Process::bare("bare", None, place)?;
        let proxy = Process::bare("proxy", Some(app.address), place)?;
        let pillion = Process::pillion(binary, scratch.path(), app.address, place)?;
        rows::fill(pillion.http, STORE_KEYS)?;
        Ok(Self { options, app, _scratch: scratch, bare, proxy, pillion, rows: rows::all() })
    }

    fn stop(self) -> Result<()> {
        self.pillion.stop()
    }

    fn cases(&self) -> Vec<Case<'_>> {
        let get =
            |address, status| Target { address, requests: vec![request("GET", "/x", "")], status };
        let bare = |name, target, process| Case { name, target, process, row: None };
        let mut cases = vec![
            bare(DIRECT, get(self.app.address, 200), None),
            bare(EMPTY, get(self.bare.http, 204), Some(&self.bare)),
            bare(PASSED_ON, get(self.proxy.http, 200), Some(&self.proxy)),
        ];
        cases.extend(self.rows.iter().map(|row| Case {
            name: row.name,
            target: row.target(self.pillion.http),
            process: Some(&self.pillion),
            row: Some(row),
        }));
        cases
    }

    /// Loads one case, after what the last one left behind is through. With it the CPU time of a
    /// request in µs.
    fn load(&self, case: &Case<'_>, shape: Shape, duration: Duration) -> Result<(Outcome, f64)> {
        self.app.settle();
        let cpu = || case.process.map_or(Ok(Duration::ZERO), Process::cpu);
        let before = cpu()?;
        let outcome = load::run(&case.target, shape, Until::Time(duration))
            .map_err(|error| format!("{}: {error}", case.name))?;
        // Deliveries that a request caused are part of its cost.
        if case.row.is_some_and(|row| row.waits_for_disk) {
            self.app.settle();
        }
        let spent = cpu()?.saturating_sub(before).as_secs_f64() * 1e6;
        let per_request = spent / outcome.latencies.len().max(1) as f64;
        Ok((outcome, per_request))
    }

    fn cpu(&self, checks: &mut Checks) -> Result<()> {
        let cases = self.cases();
        let shape = Shape::Closed { connections: CPU_CONNECTIONS };
        let mut least = vec![(f64::INFINITY, f64::INFINITY, 0.0_f64); cases.len()];
        for _ in 0..CPU_ROUNDS {
            for (case, (closed_us, open_us, per_second)) in cases.iter().zip(&mut least) {
                if case.process.is_none() {
                    continue;
                }
                let round = self.options.duration() / CPU_ROUNDS;
                let (outcome, us) = self.load(case, shape, round)?;
                *closed_us = closed_us.min(us);
                *per_second = per_second.max(outcome.per_second());
                *open_us = open_us.min(self.load(case, OPEN, round)?.1);
            }
        }
        let of = |name: &str| {
            let index = cases.iter().position(|case| case.name == name);
            index.and_then(|index| least.get(index)).map_or((f64::NAN, f64::NAN), |it| (it.0, it.1))
        };
        let (empty, passed_on) = (of(EMPTY), of(PASSED_ON));
        let mut table = Table::new(&[
            "CPU per request, µs",
            "closed, 8",
            "to bare",
            "1000/s, 16",
            "to bare",
            "requests/s, closed 8",
        ]);
        for (case, (closed, open, per_second)) in cases.iter().zip(&least) {
            if case.process.is_none() {
                continue;
            }
            let is_passed_on =
                case.name == PASSED_ON || case.row.is_some_and(|row| row.key == "invoke");
            let base = if is_passed_on { passed_on } else { empty };
            table.row(vec![
                case.name.into(),
                number(*closed),
                number(closed / base.0),
                number(*open),
                number(open / base.1),
                number(*per_second),
            ]);
            if let Some(limit) = case.row.and_then(|row| row.cpu_ratio_max) {
                let what = format!("{}: CPU to bare hyper", case.name);
                checks.at_most(what, closed / base.0, limit, "x");
            }
        }
        table.print("CPU time of the process over all its threads, least of 5 rounds");
        Ok(())
    }

    /// The p99 of a direct call, to which those of the rows are compared.
    fn latency(&self, checks: &mut Checks) -> Result<f64> {
        let mut table = Table::new(&[
            "latency, ms",
            "1000/s p50",
            "p99",
            "p99.9",
            "closed 1 p50",
            "p99",
            "closed 8 p50",
            "p99",
            "closed 64 p50",
            "p99",
            "req/s",
        ]);
        let mut direct_p99 = f64::NAN;
        for case in self.cases() {
            let (mut open, _) = self.load(&case, OPEN, self.options.duration())?;
            let p99 = open.latencies.p99();
            let mut cells = vec![case.name.to_owned()];
            cells.extend(percentiles(&mut open.latencies));
            for connections in [1, 8, 64] {
                let shape = Shape::Closed { connections };
                let (mut closed, _) = self.load(&case, shape, self.options.duration())?;
                cells.extend([number(closed.latencies.p50()), number(closed.latencies.p99())]);
                if connections == 64 {
                    cells.push(number(closed.per_second()));
                }
            }
            table.row(cells);
            match case.row {
                None if case.name == DIRECT => direct_p99 = p99,
                Some(row) if !row.waits_for_disk => {
                    let what = format!("{}: p99 at 1000/s", row.name);
                    checks.at_most(what, p99, direct_p99 + P99_ABOVE_DIRECT_MS, "ms");
                }
                _ => {}
            }
        }
        table
            .print("Latency: open loop of 1000/s over 16 connections, closed loops of 1, 8 and 64");
        Ok(direct_p99)
    }

    fn mqtt(&self) -> Result<()> {
        let mut table = Table::new(&[
            "MQTT publish, QoS 1",
            "messages/s",
            "p50",
            "p99",
            "p99.9",
            "PUBACK p50",
            "p99",
            "CPU µs",
        ]);
        for (name, rate) in [("1000/s", Some(PER_SECOND)), ("as fast as PUBACKs", None)] {
            self.app.settle();
            let before = self.pillion.cpu()?;
            let duration = self.options.duration();
            let mut outcome = mqtt::run(self.pillion.mqtt, self.app, rate, duration)?;
            let cpu = self.pillion.cpu()?.saturating_sub(before).as_secs_f64() * 1e6;
            let (count, seconds) = (outcome.to_app.len() as f64, outcome.elapsed.as_secs_f64());
            let mut cells = vec![name.to_owned(), number(count / seconds)];
            cells.extend(percentiles(&mut outcome.to_app));
            cells.extend([
                number(outcome.to_puback.p50()),
                number(outcome.to_puback.p99()),
                number(cpu / count),
            ]);
            table.row(cells);
        }
        table.print("Device to app, latency in ms from publish to the app's handler");
        Ok(())
    }

    /// What does not wait for the disk, while others do.
    fn beside_writers(&self, direct_p99: f64, checks: &mut Checks) -> Result<()> {
        let mut table = Table::new(&["beside durable saves", "p50", "p99", "p99.9", "saves/s"]);
        for case in self.cases() {
            let Some(row) = case.row.filter(|row| !row.waits_for_disk) else { continue };
            let (address, duration) = (self.pillion.http, self.options.duration());
            let writers = std::thread::spawn(move || {
                let requests = rows::durable_saves((0..4096).map(|n| n * 7919 % STORE_KEYS));
                let target = Target { address, requests, status: 204 };
                let until = Until::Time(duration + Duration::from_millis(400));
                load::run(&target, SAVES_BESIDE, until)
            });
            let (mut outcome, _) = self.load(&case, OPEN, duration)?;
            let writes = writers.join().map_err(|_| "the writers panicked")??;
            let p99 = outcome.latencies.p99();
            let what = format!("{}: p99 beside durable saves", row.name);
            checks.at_most(what, p99, direct_p99 + P99_ABOVE_DIRECT_MS, "ms");
            let mut cells = vec![row.name.to_owned()];
            cells.extend(percentiles(&mut outcome.latencies));
            cells.push(number(writes.per_second()));
            table.row(cells);
        }
        table.print(
            "1000/s over 16 connections while 4 connections save durably 1000 times a second, ms",
        );
        Ok(())
    }

    /// One connection, and everything on the same core as the load and the app: a small gateway.
    fn one_core(&self, checks: &mut Checks) -> Result<()> {
        let mut table = Table::new(&["one core, one connection", "p50", "p99", "to direct"]);
        let mut direct = f64::NAN;
        for case in self.cases() {
            let shape = Shape::Closed { connections: 1 };
            let (mut outcome, _) = self.load(&case, shape, self.options.duration())?;
            let (p50, p99) = (outcome.latencies.p50(), outcome.latencies.p99());
            if case.name == DIRECT {
                direct = p50;
            }
            table.row(vec![case.name.into(), number(p50), number(p99), number(p50 / direct)]);
            if case.row.is_some_and(|row| row.key == "invoke") {
                let what = "invoke: p50 to a direct call on one core";
                checks.at_most(what, p50 / direct, INVOKE_P50_RATIO, "x");
            }
        }
        table.print("Latency on one core, ms");
        Ok(())
    }
}

fn percentiles(latencies: &mut Latencies) -> [String; 3] {
    [500, 990, 999].map(|per_mille| number(latencies.at(per_mille)))
}
