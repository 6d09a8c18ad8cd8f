//! The table of flags. Parsing, help and the README's table follow from it.

use super::Form;
use std::fmt::Write as _;

/// A flag.
#[derive(Debug)]
pub(super) struct Flag {
    /// Name without dashes.
    pub(super) name: &'static str,
    /// Name of its value; empty for one that is on by being there.
    pub(super) value: &'static str,
    /// What holds without it, for people.
    default: &'static str,
    /// What it is for. Empty for flags that daprd has and that are taken without effect; they are
    /// left out of the help.
    meaning: &'static str,
    /// In which forms it may be given.
    forms: u8,
}

const RUN: u8 = 1;
const GATEWAY: u8 = 2;
const DAPRD: u8 = 4;
const APP: u8 = RUN | DAPRD;
const ALL: u8 = RUN | GATEWAY | DAPRD;
/// `check` and `doctor`, which look and exit.
const TOOLS: u8 = 8;
const UPDATE: u8 = 16;

const fn flag(
    name: &'static str,
    value: &'static str,
    default: &'static str,
    forms: u8,
    meaning: &'static str,
) -> Flag {
    Flag { name, value, default, meaning, forms }
}

/// Every flag.
#[rustfmt::skip]
pub(super) const FLAGS: &[Flag] = &[
    // Ours.
    flag("data-dir", "DIR", "see below", ALL, "where to store"),
    flag("mqtt-listen", "ADDR|off", "run: 127.0.0.1:1883, else off", ALL, "the MQTT door"),
    // The app.
    flag("app-id", "ID", "app", APP, "identity of the app; without a command it selects daprd's form"),
    flag("app-port", "PORT", "none", APP, "port of the app; without one it only calls"),
    flag("app-protocol", "http|https", "http", APP, "how the app is called"),
    flag("app-ssl", "", "false", APP, "the same as --app-protocol https"),
    flag("app-channel-address", "HOST", "127.0.0.1", APP, "host of the app"),
    flag("app-max-concurrency", "N", "-1", APP, "most calls into the app at a time, -1 is no limit"),
    flag("enable-app-health-check", "", "false", APP, "ask the app whether it is healthy"),
    flag("app-health-check-path", "PATH", "/healthz", APP, "what it is asked"),
    flag("app-health-probe-interval", "SECONDS", "5", APP, "how often"),
    flag("app-health-probe-timeout", "MS", "500", APP, "time for its answer"),
    flag("app-health-threshold", "N", "3", APP, "failures in a row that make it unhealthy"),
    flag("disable-init-endpoints", "LIST", "none", APP, "of config, subscribe: what not to ask the app at the start"),
    // Listeners.
    flag("dapr-http-port", "PORT", "3500", APP, "the HTTP API"),
    flag("dapr-listen-addresses", "LIST", "run: 127.0.0.1, else all", APP, "addresses of the HTTP API"),
    flag("unix-domain-socket", "DIR", "none", APP, "listen on a socket in DIR instead of a port"),
    flag("enable-metrics", "", "true", ALL, "serve Prometheus metrics"),
    flag("metrics-port", "PORT", "9090", ALL, "their port"),
    flag("metrics-listen-address", "ADDR", "127.0.0.1, daprd's form 0.0.0.0", ALL, "their address"),
    // Resources.
    flag("resources-path", "DIR", "none", APP, "directory of resources, may be repeated"),
    flag("components-path", "DIR", "none", APP, "old name of --resources-path"),
    flag("config", "FILE", "none", APP, "Configuration, may be repeated; later ones come over earlier ones"),
    // Logs.
    flag("log-level", "LEVEL", "info", ALL, "debug, info, warn, error or fatal"),
    flag("log-as-json", "", "false", ALL, "JSON lines instead of logfmt"),
    flag("log-file", "FILE", "standard output", ALL, "where logs go"),
    flag("enable-api-logging", "", "from --config", APP, "a log line for each API call"),
    // Limits and end.
    flag("max-body-size", "SIZE", "4Mi", ALL, "largest body, 0 is no limit"),
    flag("read-buffer-size", "SIZE", "4Ki", ALL, "largest head of a request"),
    flag("dapr-http-max-request-size", "MB", "4", APP, "old form of --max-body-size"),
    flag("dapr-http-read-buffer-size", "KB", "4", APP, "old form of --read-buffer-size"),
    flag("dapr-graceful-shutdown-seconds", "N", "5", ALL, "time to finish after a signal"),
    flag("dapr-block-shutdown-duration", "TIME", "none", ALL, "go on serving for this long after a signal, or until the app is unhealthy"),
    // pillion update.
    flag("restart", "", "false", UPDATE, "tell the service to end, so that its manager starts the update"),
    flag("status", "", "", UPDATE, "show what is confirmed, on trial, and decided last"),
    flag("revert", "", "", UPDATE, "confirm again what was confirmed before"),
    // One job, then exit.
    flag("json", "", "false", TOOLS, "one JSON document instead of lines"),
    flag("offline", "", "false", TOOLS, "doctor: ask nobody outside this machine"),
    flag("wait", "", "", ALL, "wait until the instance on --dapr-http-port is ready, then exit"),
    flag("version", "", "", ALL, "print the version of Dapr's API and exit"),
    flag("build-info", "", "", ALL, "print what this build is and exit"),
    flag("help", "", "", ALL, "print this and exit"),
    // Known to daprd; here they change nothing, and say so if they ask for something.
    flag("dapr-grpc-port", "PORT", "50001", APP, ""),
    flag("dapr-public-port", "PORT", "none", APP, ""),
    flag("dapr-public-listen-address", "ADDR", "", APP, ""),
    flag("dapr-internal-grpc-port", "PORT", "", APP, ""),
    flag("dapr-internal-grpc-listen-address", "ADDR", "", APP, ""),
    flag("placement-host-address", "LIST", "", APP, ""),
    flag("scheduler-host-address", "LIST", "", APP, ""),
    flag("scheduler-job-streams", "N", "3", APP, ""),
    flag("actors-disseminate-timeout", "TIME", "30s", APP, ""),
    flag("allowed-origins", "LIST", "", APP, ""),
    flag("enable-profiling", "", "false", APP, ""),
    flag("profile-port", "PORT", "7777", APP, ""),
    flag("app-binding-options-timeout", "TIME", "3s", APP, ""),
    flag("hot-reload-reconcile-interval", "TIME", "0", APP, ""),
    flag("enable-mtls", "", "false", APP, ""),
    flag("sentry-address", "ADDR", "", APP, ""),
    flag("control-plane-address", "ADDR", "", APP, ""),
    flag("control-plane-trust-domain", "NAME", "localhost", APP, ""),
    flag("control-plane-namespace", "NAME", "default", APP, ""),
    flag("sentry-request-jwt-audiences", "LIST", "", APP, ""),
    flag("mode", "standalone", "standalone", APP, ""),
    flag("disable-builtin-k8s-secret-store", "", "false", APP, ""),
    flag("actors-service", "TEXT", "", APP, ""),
    flag("reminders-service", "TEXT", "", APP, ""),
];

/// What is missing when a flag of daprd's asks for something that this build does not do.
pub(super) const WITHOUT_EFFECT: &[(&str, &str)] = &[
    ("dapr-grpc-port", "the gRPC API is not in this build: only HTTP is served"),
    ("dapr-public-port", "the public listener is not in this build: health is on the HTTP port"),
    ("dapr-internal-grpc-port", "calls between gateways are not in this build"),
    ("dapr-internal-grpc-listen-address", "calls between gateways are not in this build"),
    ("placement-host-address", "actors are not in this build"),
    ("scheduler-host-address", "jobs are not in this build"),
    ("allowed-origins", "CORS is not in this build: browsers get no leave for other origins"),
    ("enable-profiling", "profiles are not in this build"),
    ("hot-reload-reconcile-interval", "resources are read at the start and on SIGHUP only"),
    ("enable-mtls", "calls between gateways are not in this build, nothing is encrypted for them"),
    ("sentry-address", "calls between gateways are not in this build"),
    ("components-path", "write --resources-path"),
    ("dapr-http-max-request-size", "write --max-body-size"),
    ("dapr-http-read-buffer-size", "write --read-buffer-size"),
];

impl Flag {
    /// Whether it is on by being there.
    pub(super) const fn is_switch(&self) -> bool {
        self.value.is_empty()
    }

    /// Whether it is for serving, in whatever form; others are for one tool.
    pub(super) const fn is_for_serving(&self) -> bool {
        self.forms & ALL != 0
    }

    /// Whether it may be given in a form.
    pub(super) const fn is_for(&self, form: Form) -> bool {
        let bit = match form {
            Form::Run => RUN,
            Form::Gateway => GATEWAY,
            Form::Daprd => DAPRD,
        };
        self.forms & bit != 0
    }

    fn shown(&self) -> String {
        let space = if self.is_switch() { "" } else { " " };
        format!("--{}{space}{}", self.name, self.value)
    }

    /// What it is for, as words for people.
    pub(super) fn forms_shown(&self) -> &'static str {
        match self.forms {
            APP => "run, daprd",
            TOOLS => "check, doctor",
            UPDATE => "update",
            _ => "all",
        }
    }
}

/// The flag of this name.
pub(super) fn find(name: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| flag.name == name)
}

/// What `pillion help` prints.
pub(super) fn help() -> String {
    let mut out = String::from(HEAD);
    for flag in FLAGS.iter().filter(|flag| !flag.meaning.is_empty()) {
        let (shown, meaning) = (flag.shown(), flag.meaning);
        let _ = write!(out, "  {shown:<38} {meaning}");
        let _ = match flag.default {
            "" => writeln!(out),
            default => writeln!(out, " [{default}]"),
        };
    }
    out.push_str("\nTaken from daprd without effect:\n");
    let mut line = String::from(" ");
    for flag in FLAGS.iter().filter(|flag| flag.meaning.is_empty()) {
        if line.len() + flag.name.len() > 96 {
            let _ = writeln!(out, "{line}");
            line = String::from(" ");
        }
        let _ = write!(line, " {}", flag.name);
    }
    let _ = writeln!(out, "{line}");
    out.push_str(TAIL);
    out
}

const HEAD: &str = "\
Pillion gives every app on a gateway Dapr's building blocks behind a localhost API.

  pillion [run] [flags] [-- COMMAND...]  at a desk: embedded stores and MQTT; COMMAND is the app
  pillion serve DIR [flags]              a gateway: what the resources in DIR say
  pillion --app-id ID [flags]            in place of daprd: what the named resources say
  pillion launch serve DIR [flags]       the same as a service that is updated; see update
  pillion check DIR... [--json]          say everything that is wrong with resources
  pillion doctor [DIR] [--offline] [--json]  look at a gateway (/etc/pillion), say what to do
  pillion update IMAGE [--restart]       check a signed image and put it into a slot, on trial;
                                         --config DIR has the Gateway [/etc/pillion]
  pillion update --status | --revert     show the slots; go back to what was confirmed before
  pillion version | help [markdown]

Flags, as --flag VALUE, --flag=VALUE, -flag VALUE or -flag=VALUE:
";

const TAIL: &str = "
Data goes to --data-dir, else a Gateway's dataDir, else $STATE_DIRECTORY (systemd), else
$XDG_STATE_HOME/pillion, else $HOME/.local/state/pillion; in daprd's form the last two have the app
id below them. Nothing is written unless a component stores.

Exit codes: check: 0 is well, 1 has problems. doctor: 0 all is well, 1 something failed, 3 there are
warnings only. All: 2 is a wrong command line.

The environment: DAPR_API_TOKEN is asked of callers, APP_API_TOKEN is shown to the app, NAMESPACE is
the namespace.
";

/// The flags as a table for the README.
pub(super) fn markdown() -> String {
    let mut out = String::from("| Flag | Default | Meaning | Forms |\n|---|---|---|---|\n");
    for flag in FLAGS.iter().filter(|flag| !flag.meaning.is_empty()) {
        let shown = flag.shown().replace('|', "\\|");
        let (default, meaning, forms) = (flag.default, flag.meaning, flag.forms_shown());
        let _ = writeln!(out, "| `{shown}` | {default} | {meaning} | {forms} |");
    }
    out
}
