//! The `pillion` binary.

use pillion::cli::{self, Command};
use pillion::update::{self, Next};
use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(start(std::env::args_os().skip(1).collect()))
}

fn start(arguments: Vec<OsString>) -> u8 {
    match cli::parse(arguments) {
        Ok(command) => run(command),
        Err(problems) => {
            let _ = writeln!(std::io::stderr(), "{problems}");
            2
        }
    }
}

fn run(command: Command) -> u8 {
    match command {
        Command::Serve(start) => pillion::daemon::run(*start),
        Command::Refuse(refusal) => pillion::daemon::refuse(&refusal),
        Command::Check(paths, json) => {
            let (text, code) = if json { cli::check_as_json(&paths) } else { cli::check(&paths) };
            print(&text, code)
        }
        #[cfg(feature = "doctor")]
        Command::Doctor(asked) => {
            let (text, code) = pillion::doctor::run(asked);
            print(&text, code)
        }
        #[cfg(not(feature = "doctor"))]
        Command::Doctor(_) => unreachable!("the command line refuses it"),
        Command::Update(request) => update::run(&request),
        Command::Launch { data_dir, arguments } => {
            match update::launch(data_dir.as_deref(), &arguments) {
                Next::Here => start(arguments),
                Next::Exit(code) => code,
            }
        }
        Command::Wait(port) => pillion::daemon::wait(port),
        Command::Print(text, code) => print(&text, code),
    }
}

/// A closed standard output is no reason to panic.
fn print(text: &str, code: i32) -> u8 {
    let _ = std::io::stdout().write_all(text.as_bytes());
    u8::try_from(code).unwrap_or(1)
}
