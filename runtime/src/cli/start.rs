//! Flags and environment of the three forms of serving become a [`Start`].

use super::flags::WITHOUT_EFFECT;
use super::values::Arguments;
use super::{Command, Form, Refusal, Start};
use crate::resources::{
    self, ADDRESS_FORM, AppPlan, ChannelPlan, ComponentPlan, Environment, Gateway, GatewayFlags,
    HealthPlan, Report, Setting, Wanted, parse_address, parse_ip,
};
use pillion_components::WITHOUT_TLS;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// Port of the HTTP API.
pub(super) const HTTP_PORT: u16 = 3500;
/// Port of the gRPC API, which an app may not have either.
const GRPC_PORT: u16 = 50001;
/// Port of the metrics.
const METRICS_PORT: u16 = 9090;
/// Port of the developer's MQTT door.
const MQTT_PORT: u16 = 1883;

/// Default of `--app-binding-options-timeout`.
const BINDING_PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// Reads everything else: flags, environment, resources.
pub(super) fn start(
    form: Form,
    arguments: Arguments,
    env: Environment<'_>,
    report: &Report,
) -> Option<Command> {
    let env = &|name: &str| env(name).filter(|value| !value.is_empty());
    arguments.check_form(form, report);
    let directories = positional(form, &arguments, report);
    refuse_what_would_be_wrong(&arguments, report);
    warn_of_what_has_no_effect(&arguments, report);
    let app = (form != Form::Gateway).then(|| app(form, &arguments, env, report));
    let app_id = app.as_ref().map(|app| app.id.clone());

    let log_level =
        arguments.parsed("log-level", report, "debug, info, warn, error or fatal", |text| {
            resources::LEVELS.iter().find(|(word, _)| word.eq_ignore_ascii_case(text)).map(|l| l.1)
        });
    let log_as_json = arguments.switch("log-as-json", report);
    let log_file = arguments.text("log-file").map(PathBuf::from);
    let api_logging = arguments.switch("enable-api-logging", report);
    let data_dir = arguments.text("data-dir").map(PathBuf::from);
    let (ask_config, ask_subscriptions) = init_endpoints(&arguments, report);
    let binding_probe_timeout =
        arguments.duration("app-binding-options-timeout", report).unwrap_or(BINDING_PROBE_TIMEOUT);
    let block_shutdown = arguments.duration("dapr-block-shutdown-duration", report);

    let name = app_id.clone().unwrap_or_else(|| host_name().unwrap_or_else(|| "gateway".into()));
    let metrics_ip = if form == Form::Daprd { Ipv4Addr::UNSPECIFIED } else { Ipv4Addr::LOCALHOST };
    let gateway = Gateway {
        name: name.clone(),
        metrics: Some((metrics_ip, METRICS_PORT).into()),
        ..Gateway::default()
    };
    let wanted = Wanted {
        form,
        resources: directories,
        configs: arguments.texts("config").map(PathBuf::from).collect(),
        app,
        defaults: if form == Form::Run { embedded_components() } else { Vec::new() },
        gateway,
        flags: gateway_flags(form, &arguments, metrics_ip.into(), report),
    };
    let has_metrics_flags = wanted.flags.metrics.is_some();
    // Wrong flags are told at once with wrong resources, but on the terminal.
    let flags_are_fine = report.is_clean();
    let mut plan = resources::plan(wanted, env, report);
    if !report.is_clean() {
        if form != Form::Daprd || !flags_are_fine {
            return None;
        }
        let (app_id, log_as_json) = (name, log_as_json.unwrap_or(false));
        let mut problems = report.take_problems();
        // Scripts wait for these words right behind the log's own.
        problems.sort_by_key(|problem| !problem.starts_with("failed to load components: "));
        let text = problems.join("\n");
        return Some(Command::Refuse(Box::new(Refusal { app_id, log_as_json, log_file, text })));
    }

    if let (Some(enabled), Some(app)) = (api_logging, plan.apps.first_mut()) {
        app.configuration.api_logging.enabled = enabled;
    }
    if plan.apps.iter().any(|app| app.configuration.api_logging.enabled) {
        report.warning("API logging is asked for: this build writes no line for each API call");
    }
    let unwanted = plan.apps.first().is_some_and(|app| !app.configuration.metrics_enabled);
    if form != Form::Gateway && unwanted && !has_metrics_flags {
        plan.gateway.metrics = None;
    }
    let storage = &mut plan.gateway.storage;
    storage.data_dir = data_dir
        .or(storage.data_dir.take())
        .or_else(|| default_data_dir(if form == Form::Daprd { app_id } else { None }, env));
    let logging = &plan.gateway.logging;
    Some(Command::Serve(Box::new(Start {
        form,
        log_level: log_level.or(logging.level).unwrap_or(tracing::Level::INFO),
        log_as_json: log_as_json.or(logging.json).unwrap_or(false),
        log_file: log_file.or_else(|| logging.file.clone()),
        plan,
        command: arguments.command.unwrap_or_default(),
        ask_config,
        ask_subscriptions,
        binding_probe_timeout,
        block_shutdown,
        warnings: report.take_warnings(),
    })))
}

/// The directories of resources; anything else that is no flag is refused.
fn positional(form: Form, arguments: &Arguments, report: &Report) -> Vec<PathBuf> {
    let words = &arguments.positional;
    if form == Form::Gateway {
        if words.len() != 1 {
            report.problem("serve needs one directory: write pillion serve DIR");
        }
        if arguments.command.is_some() {
            report.problem("serve starts no command: say where apps are in App resources");
        }
        return words.iter().map(PathBuf::from).collect();
    }
    for word in words {
        report.problem(format!(
            "'{word}' is no flag: the app's own command comes after --, as pillion run -- {word}"
        ));
    }
    let has_command = arguments.command.as_ref().map(|command| !command.is_empty());
    match (form, has_command) {
        (Form::Daprd, Some(_)) => {
            report.problem("daprd's form starts no command: write pillion run before --app-id");
        }
        (_, Some(false)) => report.problem("nothing comes after --: write the app's command there"),
        _ => {}
    }
    let flags = ["resources-path", "components-path"];
    flags.iter().flat_map(|flag| arguments.texts(flag)).map(PathBuf::from).collect()
}

/// What must not be ignored in silence.
fn refuse_what_would_be_wrong(arguments: &Arguments, report: &Report) {
    if let Some(mode) = arguments.text("mode").filter(|m| !m.eq_ignore_ascii_case("standalone")) {
        report.problem(format!("--mode is '{mode}': only standalone is supported, leave it out"));
    }
    let _ = arguments.duration("actors-disseminate-timeout", report);
    let _ = arguments.number("scheduler-job-streams", report, 0..=u32::MAX);
}

fn warn_of_what_has_no_effect(arguments: &Arguments, report: &Report) {
    for (name, why) in WITHOUT_EFFECT {
        // `false` and `0` ask for nothing.
        if arguments.text(name).is_some_and(|text| !["false", "0", "0s"].contains(&text)) {
            report.warning(format!("--{name}: {why}"));
        }
    }
}

fn app(form: Form, arguments: &Arguments, env: Environment<'_>, report: &Report) -> AppPlan {
    let id = arguments.text("app-id").unwrap_or(if form == Form::Run { "app" } else { "" });
    if let Some(wrong) = resources::wrong_app_id(id) {
        report.problem(format!("--app-id is '{id}': {wrong}"));
    }
    let port = arguments.number("dapr-http-port", report, 0..=u16::MAX).unwrap_or(HTTP_PORT);
    let unix_socket = arguments
        .text("unix-domain-socket")
        .map(|directory| PathBuf::from(directory).join(format!("dapr-{id}-http.socket")));
    let listen = match unix_socket {
        Some(_) => Vec::new(),
        None => listen_addresses(form, arguments, report).map(|ip| (ip, port).into()).collect(),
    };
    let app_port = arguments.number("app-port", report, 0..=u16::MAX).filter(|port| *port > 0);
    let grpc_port = arguments.number("dapr-grpc-port", report, 0..=u16::MAX).unwrap_or(GRPC_PORT);
    if let Some(app_port) = app_port {
        if app_port == port && unix_socket.is_none() {
            let text = "is also the port of the HTTP API: change it or --dapr-http-port";
            report.problem(format!("--app-port {app_port} {text}"));
        } else if app_port == grpc_port && form == Form::Daprd {
            let text = "is also the port of the gRPC API: change it or --dapr-grpc-port";
            report.problem(format!("--app-port {app_port} {text}"));
        }
    }
    let channel = channel(id, app_port, arguments, env, report);
    AppPlan {
        id: id.into(),
        namespace: env("NAMESPACE").unwrap_or_else(|| "default".into()),
        listen,
        unix_socket,
        api_token: env("DAPR_API_TOKEN"),
        channel,
        ..AppPlan::default()
    }
}

fn listen_addresses(
    form: Form,
    arguments: &Arguments,
    report: &Report,
) -> impl Iterator<Item = IpAddr> {
    let mut addresses = Vec::new();
    for text in arguments.list("dapr-listen-addresses") {
        match parse_ip(text) {
            Some(ip) if !addresses.contains(&ip) => addresses.push(ip),
            Some(_) => {}
            None => report.problem(format!(
                "--dapr-listen-addresses has '{text}': write IP addresses with commas between"
            )),
        }
    }
    if addresses.is_empty() {
        let all = Ipv4Addr::UNSPECIFIED;
        addresses.push(if form == Form::Daprd { all } else { Ipv4Addr::LOCALHOST }.into());
    }
    addresses.into_iter()
}

/// The channel to the app, read even without a port so that every problem is told.
fn channel(
    id: &str,
    port: Option<u16>,
    arguments: &Arguments,
    env: Environment<'_>,
    report: &Report,
) -> Option<ChannelPlan> {
    let protocol = arguments.text("app-protocol").unwrap_or("http").to_ascii_lowercase();
    if !["http", "https"].contains(&protocol.as_str()) {
        report.problem(format!(
            "--app-protocol is '{protocol}': this build calls apps over http and https"
        ));
    }
    let tls = protocol == "https" || arguments.switch("app-ssl", report) == Some(true);
    if tls && cfg!(not(feature = "tls")) {
        report.problem(format!("the app's protocol asks for TLS: {WITHOUT_TLS}"));
    }
    let host = arguments.text("app-channel-address").unwrap_or("127.0.0.1");
    let host = parse_ip(host).map_or_else(|| host.to_owned(), |ip| ip.to_string());
    let concurrency = arguments.number("app-max-concurrency", report, -1..=i64::from(u32::MAX));
    let max_concurrency = concurrency.filter(|n| *n > 0).and_then(|n| usize::try_from(n).ok());
    let health = health(arguments, report);
    let token = env("APP_API_TOKEN");
    Some(ChannelPlan { app_id: id.into(), host, port: port?, tls, max_concurrency, token, health })
}

/// The health check; 0 stands for a default, as in daprd.
fn health(arguments: &Arguments, report: &Report) -> Option<HealthPlan> {
    let default = resources::default_health();
    let wanted = arguments.switch("enable-app-health-check", report).unwrap_or(false);
    let number = |name| arguments.number(name, report, 0..=86_400_000).filter(|n: &u32| *n > 0);
    let seconds = number("app-health-probe-interval").map(|n| Duration::from_secs(n.into()));
    let ms = number("app-health-probe-timeout").map(|n| Duration::from_millis(n.into()));
    let threshold = number("app-health-threshold");
    let plan = HealthPlan {
        path: arguments.text("app-health-check-path").map_or(default.path, Into::into),
        interval: seconds.unwrap_or(default.interval),
        timeout: ms.unwrap_or(default.timeout),
        threshold: threshold.unwrap_or(default.threshold),
    };
    if plan.timeout > plan.interval {
        report.problem(
            "--app-health-probe-timeout is longer than --app-health-probe-interval: shorten it",
        );
    }
    wanted.then_some(plan)
}

fn gateway_flags(
    form: Form,
    arguments: &Arguments,
    metrics_ip: IpAddr,
    report: &Report,
) -> GatewayFlags {
    let port = arguments.number("metrics-port", report, 0..=u16::MAX);
    let form_of_ip = "an IP address";
    let ip = arguments.parsed("metrics-listen-address", report, form_of_ip, parse_ip);
    let metrics = match arguments.switch("enable-metrics", report) {
        Some(false) => Some(None),
        enabled => (enabled.is_some() || port.is_some() || ip.is_some()).then(|| {
            Some(SocketAddr::from((ip.unwrap_or(metrics_ip), port.unwrap_or(METRICS_PORT))))
        }),
    };
    let seconds = arguments.number("dapr-graceful-shutdown-seconds", report, 0..=86_400);
    GatewayFlags {
        mqtt: arguments.parsed("mqtt-listen", report, format!("{ADDRESS_FORM}, or off"), |text| {
            if text == "off" { Some(None) } else { parse_address(text).map(Some) }
        }),
        mqtt_default: (form == Form::Run).then(|| (Ipv4Addr::LOCALHOST, MQTT_PORT).into()),
        metrics,
        body_bytes_max: body_bytes_max(arguments, report),
        header_bytes_max: header_bytes_max(arguments, report),
        drain_timeout: seconds.map(Duration::from_secs),
    }
}

fn body_bytes_max(arguments: &Arguments, report: &Report) -> Option<usize> {
    let old = arguments.number("dapr-http-max-request-size", report, -1..=1 << 20);
    let old = old.and_then(|megabytes: i64| usize::try_from(megabytes).ok()).map(|mb| mb << 20);
    let bytes = arguments.bytes("max-body-size", report).or(old)?;
    if bytes == 0 {
        report.warning("--max-body-size is 0: a single body may now take all memory");
        return Some(usize::MAX);
    }
    Some(bytes)
}

fn header_bytes_max(arguments: &Arguments, report: &Report) -> Option<usize> {
    let old = arguments.number("dapr-http-read-buffer-size", report, -1..=1 << 20);
    let old = old.and_then(|kilobytes: i64| usize::try_from(kilobytes).ok()).map(|kb| kb << 10);
    arguments.bytes("read-buffer-size", report).or(old).filter(|bytes| *bytes > 0)
}

/// Whether to ask the app for its configuration, and for its subscriptions.
fn init_endpoints(arguments: &Arguments, report: &Report) -> (bool, bool) {
    let list = arguments.list("disable-init-endpoints");
    for word in &list {
        if !["config", "subscribe"].contains(word) {
            report.problem(format!(
                "--disable-init-endpoints has '{word}': write config, subscribe or both"
            ));
        }
    }
    (!list.contains(&"config"), !list.contains(&"subscribe"))
}

/// What `pillion run` has without a single resource.
fn embedded_components() -> Vec<ComponentPlan> {
    let component = |name: &str, type_name: &str| ComponentPlan {
        origin: "built in".into(),
        name: name.into(),
        type_name: type_name.into(),
        version: "v1".into(),
        settings: Vec::<(String, Setting)>::new(),
        ignore_errors: false,
        init_timeout: resources::INIT_TIMEOUT,
        scopes: Vec::new(),
        secret_store: None,
    };
    vec![
        component("secrets", "secretstores.local.env"),
        component("statestore", "state.redb"),
        component("pubsub", "pubsub.embedded"),
    ]
}

/// Where to store if nobody says: systemd's directory, else the user's.
pub(super) fn default_data_dir(app_id: Option<String>, env: Environment<'_>) -> Option<PathBuf> {
    if let Some(list) = env("STATE_DIRECTORY") {
        return list.split(':').next().map(PathBuf::from);
    }
    let absolute = |path: &PathBuf| path.is_absolute();
    let state = env("XDG_STATE_HOME").map(PathBuf::from).filter(absolute);
    let home = || env("HOME").map(PathBuf::from).filter(absolute);
    let state = state.or_else(|| Some(home()?.join(".local/state")))?;
    let shared = state.join("pillion");
    Some(match app_id {
        Some(id) => shared.join(id),
        None => shared,
    })
}

/// The machine's name.
fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}
