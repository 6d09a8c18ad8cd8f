//! The command line: arguments become a [`Command`].

use crate::resources::Plan;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// What the command line asks for.
#[derive(Debug)]
pub enum Command {
    /// Serve apps until told to stop.
    Serve(Box<Start>),
    /// Check resources and say what is wrong with them.
    Check(Vec<PathBuf>),
    /// Print a text and exit with this code.
    Print(String, i32),
    /// Wait until `GET /v1.0/healthz/outbound` of this port answers 204, at most a minute.
    Wait(u16),
}

/// Which of the forms of serving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `pillion` or `pillion run`: embedded defaults, for a developer at a desk.
    Run,
    /// `pillion serve DIR`: a gateway.
    Gateway,
    /// daprd's flags: exactly what daprd would have.
    Daprd,
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
    /// Keep serving for this long after the signal, or until the app is unhealthy.
    pub block_shutdown: Option<Duration>,
    /// Non-fatal remarks about flags and resources, to log.
    pub warnings: Vec<String>,
}

/// Reads the command line (without the program's name). An error is a text for the terminal:
/// every problem, one a line.
pub fn parse(_arguments: Vec<OsString>) -> Result<Command, String> {
    unimplemented!()
}
