//! The command line: arguments become a [`Command`].

mod flags;
mod start;
#[cfg(test)]
mod tests;
mod update;
mod values;

use crate::DAPR_VERSION;
pub use crate::resources::Form;
use crate::resources::{self, Environment, Gateway, Plan, Report, Wanted, closest};
use crate::update::Request;
use crate::version::version;
use pillion_components::storage::Formats;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;
use values::Arguments;

/// What the command line asks for.
#[derive(Debug)]
pub enum Command {
    /// Serve apps until told to stop.
    Serve(Box<Start>),
    /// In daprd's form resources are wrong: log the text as fatal and exit with 1. Scripts wait for
    /// such a line in the log.
    Refuse(Box<Refusal>),
    /// Check resources and say what is wrong with them, as JSON or not; see [`check`].
    Check(Vec<PathBuf>, bool),
    /// Look at a gateway and say what to do.
    Doctor(Doctor),
    /// Print a text and exit with this code.
    Print(String, i32),
    /// Put an update into a slot, or show the slots.
    Update(Request),
    /// Start what is confirmed, or try what is on trial.
    Launch {
        /// Where the service stores, if that is known.
        data_dir: Option<PathBuf>,
        /// The command line of what is started.
        arguments: Vec<OsString>,
    },
    /// Wait until `GET /v1.0/healthz/outbound` of this port answers 204, at most a minute.
    Wait(u16),
}

/// Everything that serving needs to know.
#[derive(Debug)]
pub struct Start {
    /// The form.
    pub form: Form,
    /// What shall be there; flags are already in it.
    pub plan: Plan,
    /// The app's own command line, if it is started by us.
    pub command: Vec<OsString>,
    /// Log level.
    pub log_level: tracing::Level,
    /// Logs as JSON instead of logfmt.
    pub log_as_json: bool,
    /// Logs go to this file instead of standard output.
    pub log_file: Option<PathBuf>,
    /// App calls to leave out at the start: `GET /dapr/config`, `GET /dapr/subscribe`.
    pub ask_config: bool,
    /// See `ask_config`.
    pub ask_subscriptions: bool,
    /// Time for the app to say whether it wants the events of an input binding.
    pub binding_probe_timeout: Duration,
    /// Keep serving for this long after the signal, or until the app is unhealthy.
    pub block_shutdown: Option<Duration>,
    /// Non-fatal remarks about flags and resources, to log.
    pub warnings: Vec<String>,
}

/// What `pillion doctor` was asked for.
#[derive(Debug, Clone)]
pub struct Doctor {
    /// Directory of resources.
    pub dir: PathBuf,
    /// `--data-dir`.
    pub data_dir: Option<PathBuf>,
    /// Where the service stores if neither flag nor resource says.
    pub default_data_dir: Option<PathBuf>,
    /// One JSON document instead of lines.
    pub json: bool,
    /// Ask nobody outside this machine.
    pub offline: bool,
}

/// What daprd's form cannot start with.
#[derive(Debug)]
pub struct Refusal {
    /// App id, for the log.
    pub app_id: String,
    /// Logs as JSON instead of logfmt.
    pub log_as_json: bool,
    /// Logs go to this file instead of standard output.
    pub log_file: Option<PathBuf>,
    /// Every problem, one a line; `Fatal error from runtime: ` belongs before it.
    pub text: String,
}

/// Reads the command line (without the program's name). An error is a text for the terminal:
/// every problem, one a line.
pub fn parse(arguments: Vec<OsString>) -> Result<Command, String> {
    parse_in(arguments, &|name| std::env::var(name).ok())
}

/// Checks resources as `pillion serve` would read them: a text for the terminal and an exit code.
pub fn check(paths: &[PathBuf]) -> (String, i32) {
    let (plan, problems, warnings) = checked(paths);
    let mut text = String::new();
    for warning in &warnings {
        let _ = writeln!(text, "warning: {warning}");
    }
    for problem in &problems {
        let _ = writeln!(text, "{problem}");
    }
    if problems.is_empty() {
        let _ = writeln!(
            text,
            "ok: {} apps, {} components, {} subscriptions, {} links",
            plan.apps.len(),
            plan.components.len(),
            plan.subscriptions.len(),
            plan.links.len()
        );
    }
    (text, i32::from(!problems.is_empty()))
}

/// The same as one JSON document: `problems` and `warnings`, lists of texts.
pub fn check_as_json(paths: &[PathBuf]) -> (String, i32) {
    let (_, problems, warnings) = checked(paths);
    let code = i32::from(!problems.is_empty());
    let list = |texts: &[String]| serde_json::to_string_pretty(texts).unwrap_or_default();
    let (problems, warnings) = (list(&problems), list(&warnings));
    let text = format!("{{\"problems\": {problems},\n\"warnings\": {warnings}}}\n");
    (text, code)
}

fn checked(paths: &[PathBuf]) -> (Plan, Vec<String>, Vec<String>) {
    let report = Report::default();
    let wanted = Wanted::served(paths.to_vec(), Gateway::default());
    let plan = resources::plan(wanted, &|name| std::env::var(name).ok(), &report);
    let (problems, warnings) = report.into_parts();
    (plan, problems, warnings)
}

const SUBCOMMANDS: [&str; 8] =
    ["run", "serve", "launch", "check", "doctor", "update", "version", "help"];

fn parse_in(mut arguments: Vec<OsString>, env: Environment<'_>) -> Result<Command, String> {
    let report = Report::default();
    let first = arguments.first().and_then(|first| first.to_str()).unwrap_or_default();
    let subcommand = SUBCOMMANDS.into_iter().find(|name| *name == first);
    if subcommand.is_some() {
        arguments.remove(0);
    } else if !first.is_empty() && !first.starts_with('-') {
        return Err(unknown_subcommand(first));
    }
    if subcommand == Some("launch") {
        return update::launch(arguments, env);
    }
    let arguments = values::split(arguments, &report);
    let command = match subcommand {
        _ if arguments.has("help") => Some(Command::Print(flags::help(), 0)),
        Some("help") => Some(help(&arguments)),
        Some("version") => Some(Command::Print(build_info(), 0)),
        Some("check") => check_command(&arguments, &report),
        Some("doctor") => doctor_command(&arguments, env, &report),
        Some("update") => update::update(&arguments, env, &report),
        subcommand => serve(subcommand, arguments, env, &report),
    };
    match command {
        Some(command) if report.is_clean() => Ok(command),
        _ => Err(report.into_parts().0.join("\n")),
    }
}

fn unknown_subcommand(word: &str) -> String {
    match closest(word, SUBCOMMANDS.into_iter()) {
        Some(near) => format!("unknown command '{word}': did you mean '{near}'?"),
        None => format!(
            "unknown command '{word}': write one of {}; the app's own command comes after --",
            SUBCOMMANDS.join(", ")
        ),
    }
}

fn help(arguments: &Arguments) -> Command {
    let is_table = arguments.positional.iter().any(|word| word == "markdown");
    Command::Print(if is_table { flags::markdown() } else { flags::help() }, 0)
}

fn check_command(arguments: &Arguments, report: &Report) -> Option<Command> {
    arguments.check_tool("check", &["json"], report);
    if arguments.positional.is_empty() {
        report.problem("check needs a directory: write pillion check DIR");
    }
    let paths = arguments.positional.iter().map(PathBuf::from).collect();
    Some(Command::Check(paths, arguments.switch("json", report).unwrap_or(false)))
}

fn doctor_command(arguments: &Arguments, env: Environment<'_>, report: &Report) -> Option<Command> {
    if cfg!(not(feature = "doctor")) {
        report.problem(
            "this build has no doctor: install the package pillion, or build with the feature doctor",
        );
        return None;
    }
    arguments.check_tool("doctor", &["json", "offline", "data-dir"], report);
    let dir = match arguments.positional.as_slice() {
        [] => update::CONFIG_DIR,
        [dir] => dir.as_str(),
        _ => {
            report.problem("doctor looks at one gateway: write pillion doctor DIR");
            return None;
        }
    };
    let env = &|name: &str| env(name).filter(|value| !value.is_empty());
    Some(Command::Doctor(Doctor {
        dir: dir.into(),
        data_dir: arguments.text("data-dir").map(PathBuf::from),
        default_data_dir: update::service_data_dir(env),
        json: arguments.switch("json", report).unwrap_or(false),
        offline: arguments.switch("offline", report).unwrap_or(false),
    }))
}

fn serve(
    subcommand: Option<&str>,
    arguments: Arguments,
    env: Environment<'_>,
    report: &Report,
) -> Option<Command> {
    let form = match subcommand {
        Some("serve") => Form::Gateway,
        None if arguments.has("app-id") => Form::Daprd,
        _ => Form::Run,
    };
    if arguments.switch("version", report) == Some(true) {
        return Some(Command::Print(format!("{DAPR_VERSION}\n"), 0));
    }
    if arguments.switch("build-info", report) == Some(true) {
        return Some(Command::Print(build_info(), 0));
    }
    if arguments.switch("wait", report) == Some(true) {
        let port = arguments.number("dapr-http-port", report, 1..=u16::MAX);
        return Some(Command::Wait(port.unwrap_or(start::HTTP_PORT)));
    }
    start::start(form, arguments, env, report)
}

/// What this build is, in one line. An update reads it of the binary that it brings.
fn build_info() -> String {
    let (version, arch, formats) = (version(), std::env::consts::ARCH, Formats::here());
    let features = [
        ("tls", cfg!(feature = "tls")),
        ("http2", cfg!(feature = "http2")),
        ("doctor", cfg!(feature = "doctor")),
        ("bindings", cfg!(feature = "bindings")),
        ("crypto", cfg!(feature = "crypto")),
    ];
    let mut with = String::from("with state, pub/sub, MQTT");
    features.iter().filter(|(_, is_there)| *is_there).for_each(|(name, _)| {
        let _ = write!(with, ", {name}");
    });
    format!(
        "pillion {version} (Dapr API {DAPR_VERSION}, {arch}, {with}; storage format {formats})\n"
    )
}
