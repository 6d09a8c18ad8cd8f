//! Speed, memory and flash wear of the release binary, measured beside a bare hyper server.
//!
//! `cargo run --release -p pillion-benches -- [all|latency|cpu|durable|flash|memory|instructions]`
//!
//! Real processes and real sockets. The load comes from this process on the first CPU; what is
//! measured runs on the last one. Numbers of a noisy machine are shown with those of a bare server
//! from the same run and judged as ratios; instructions per request do not flicker and are compared
//! with `instructions.toml`.
#![expect(clippy::print_stdout, reason = "the tables are what this program is for")]

mod app;
mod bare;
mod durable;
mod flash;
mod instructions;
mod load;
mod machine;
mod memory;
mod mqtt;
mod pillion;
mod rows;
mod stats;
mod sys;
mod throughput;

use pillion::Place;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Any error ends the run; its text is for the person at the terminal.
pub(crate) type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

const USAGE: &str = "\
usage: bench [all|latency|cpu|durable|flash|memory|instructions] [options]
  --seconds N   how long each measurement loads (default 5)
  --check       exit with 1 when a measured value is over its limit
  --bless       instructions: write the table instead of comparing with it
  --binary FILE measure this binary; instructions: of another machine too, under emulation
  --no-pin      let the kernel place the processes
Without --binary it is PILLION_BIN, else target/release/pillion, which is built if it is missing.";

/// What to measure and how.
pub(crate) struct Options {
    what: String,
    pub(crate) seconds: u32,
    pub(crate) check: bool,
    pub(crate) bless: bool,
    pin: bool,
    binary: Option<PathBuf>,
}

impl Options {
    /// Where what is measured runs.
    pub(crate) fn place(&self) -> Place {
        if self.pin { Place::Apart } else { Place::Anywhere }
    }

    /// Whether everything is measured that can be.
    pub(crate) fn is_all(&self) -> bool {
        self.what == "all"
    }

    /// How long one measurement loads.
    pub(crate) fn duration(&self) -> Duration {
        Duration::from_secs(u64::from(self.seconds))
    }
}

fn main() -> ExitCode {
    let run = || -> Result<bool> {
        // This binary is its own bare server: `bench serve-bare PORT`.
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        if let Some(kind) = arguments.first().and_then(|first| first.strip_prefix("serve-")) {
            bare::serve(kind, arguments.get(1..).unwrap_or_default())?;
            return Ok(true);
        }
        measure(&options()?)
    };
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn options() -> Result<Options> {
    let mut options = Options {
        what: "all".into(),
        seconds: 5,
        check: false,
        bless: false,
        pin: true,
        binary: None,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--seconds" => {
                let seconds = arguments.next().and_then(|text| text.parse().ok());
                options.seconds = seconds.ok_or("--seconds needs a whole number")?;
            }
            "--binary" => {
                let path = arguments.next().ok_or("--binary needs a file")?;
                let found = PathBuf::from(&path).canonicalize();
                options.binary = Some(found.map_err(|error| format!("{path}: {error}"))?);
            }
            "--check" => options.check = true,
            "--bless" => options.bless = true,
            "--no-pin" => options.pin = false,
            what if !what.starts_with('-') => options.what = what.to_owned(),
            _ => return Err(format!("{argument} is unknown\n{USAGE}").into()),
        }
    }
    if options.seconds == 0 {
        return Err("--seconds must be at least 1".into());
    }
    Ok(options)
}

/// `false` when something is over its limit and `--check` was asked for.
fn measure(options: &Options) -> Result<bool> {
    let binary = match &options.binary {
        Some(binary) => binary.clone(),
        None => pillion::binary()?,
    };
    machine::print(&binary, options)?;
    if options.pin {
        sys::pin(0..1)?;
    }
    let mut checks = stats::Checks::default();
    let all = options.is_all();
    let mut known = false;
    let mut wants = |what: &str| {
        let wanted = all || options.what == what;
        known |= wanted;
        wanted
    };
    let (latency, cpu) = (wants("latency"), wants("cpu"));
    if latency || cpu {
        throughput::measure(options, &binary, latency, &mut checks)?;
    }
    if wants("durable") {
        durable::measure(options, &binary, &mut checks)?;
    }
    if wants("flash") {
        flash::measure(options, &binary, &mut checks)?;
    }
    if wants("memory") {
        memory::measure(options, &binary, &mut checks)?;
    }
    if wants("instructions") {
        instructions::measure(options, &binary, &mut checks)?;
    }
    if !known {
        return Err(format!("nothing is called {:?}\n{USAGE}", options.what).into());
    }
    let within = checks.print();
    Ok(within || !options.check)
}
