//! The command line goes through one helper: words and variables in, a command or its error out.

use super::*;
use crate::update::Action;
use std::net::SocketAddr;

fn parse_with(line: &str, variables: &[(&str, &str)]) -> Result<Command, String> {
    let words = line.split_whitespace().map(|word| OsString::from(word.replace('_', " ")));
    let env = |name: &str| {
        variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    };
    parse_in(words.collect(), &env)
}

fn start_with(line: &str, variables: &[(&str, &str)]) -> Start {
    match parse_with(line, variables) {
        Ok(Command::Serve(start)) => *start,
        other => panic!("{line}: {other:?}"),
    }
}

fn start(line: &str) -> Start {
    start_with(line, &[])
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

#[test]
fn nothing_at_all_is_the_developer_s_form() {
    for line in ["", "run"] {
        let start = start(line);
        assert_eq!(start.form, Form::Run);
        let app = &start.plan.apps[0];
        assert_eq!((app.id.as_str(), app.namespace.as_str()), ("app", "default"));
        assert_eq!(app.listen, [address("127.0.0.1:3500")]);
        assert!(app.channel.is_none() && app.api_token.is_none());
        let gateway = &start.plan.gateway;
        assert_eq!(gateway.metrics, Some(address("127.0.0.1:9090")));
        let mqtt = gateway.mqtt.as_ref().expect("a door");
        assert_eq!(mqtt.listen, Some(address("127.0.0.1:1883")));
        assert_eq!((mqtt.pubsub.as_str(), mqtt.allow_anonymous), ("pubsub", true));
        let components: Vec<_> = start.plan.components.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(components, ["secrets", "statestore", "pubsub"]);
        assert_eq!(gateway.storage.data_dir, None, "an empty environment names none");
        assert!(start.ask_config && start.ask_subscriptions);
    }
}

#[test]
fn daprd_s_form_has_what_daprd_has() {
    let start = start("--app-id a -app-port=8080 -dapr-http-port 3501 --enable-metrics=true");
    assert_eq!(start.form, Form::Daprd);
    assert!(start.plan.components.is_empty());
    assert!(start.plan.gateway.mqtt.is_none());
    assert_eq!(start.plan.gateway.metrics, Some(address("0.0.0.0:9090")));
    let app = &start.plan.apps[0];
    assert_eq!(app.listen, [address("0.0.0.0:3501")]);
    let channel = app.channel.as_ref().expect("a channel");
    assert_eq!((&*channel.app_id, channel.host.as_str(), channel.port), ("a", "127.0.0.1", 8080));
    assert_eq!((channel.max_concurrency, channel.health.is_none()), (None, true));
}

#[test]
fn flags_reach_the_plan() {
    let start = start_with(
        "run --app-id x --app-port 81 --app-ssl --app-channel-address localhost \
         --app-max-concurrency 3 --enable-app-health-check --app-health-check-path /h \
         --app-health-probe-interval 2 --app-health-probe-timeout 0 --app-health-threshold 0 \
         --dapr-listen-addresses [::1],127.0.0.1 --metrics-port 0 --max-body-size 16Mi \
         --read-buffer-size 8Ki --dapr-graceful-shutdown-seconds 7 \
         --dapr-block-shutdown-duration 1m --disable-init-endpoints config,subscribe \
         --log-level WARN --log-as-json --log-file /l --enable-api-logging --data-dir /d \
         --mqtt-listen off -- python3 -u app.py",
        &[("DAPR_API_TOKEN", "in"), ("APP_API_TOKEN", "out"), ("NAMESPACE", "ns")],
    );
    let Start { plan, .. } = &start;
    let app = &plan.apps[0];
    assert_eq!(app.listen, [address("[::1]:3500"), address("127.0.0.1:3500")]);
    assert_eq!((app.namespace.as_str(), app.api_token.as_deref()), ("ns", Some("in")));
    assert!(app.configuration.api_logging.enabled);
    let channel = app.channel.as_ref().expect("a channel");
    assert!(channel.tls);
    assert_eq!((channel.max_concurrency, channel.token.as_deref()), (Some(3), Some("out")));
    let health = channel.health.as_ref().expect("a health check");
    assert_eq!(health.interval, Duration::from_secs(2));
    assert_eq!((health.timeout, health.threshold), (Duration::from_millis(500), 3));
    let gateway = &plan.gateway;
    assert!(gateway.mqtt.is_none());
    assert_eq!(gateway.metrics, Some(address("127.0.0.1:0")));
    assert_eq!(gateway.limits.body_bytes_max, 16 << 20);
    assert_eq!(gateway.limits.header_bytes_max, 8 << 10);
    assert_eq!(gateway.limits.drain_timeout, Duration::from_secs(7));
    assert_eq!(gateway.storage.data_dir, Some("/d".into()));
    assert_eq!(start.block_shutdown, Some(Duration::from_secs(60)));
    assert!(!start.ask_config && !start.ask_subscriptions);
    assert_eq!((start.log_level, start.log_as_json), (tracing::Level::WARN, true));
    assert_eq!(start.log_file, Some("/l".into()));
    assert_eq!(start.command, ["python3", "-u", "app.py"]);
}

#[test]
fn launchers_pass_what_they_have() {
    // `_` stands for a blank here.
    let start = start(
        "--app-id a --placement-host-address \"\" --scheduler-host-address=_ --config= \
         --dapr-internal-grpc-port= --enable-mtls=false --app-max-concurrency -1 \
         --enable-profiling false --mode standalone --log-level info",
    );
    assert_eq!(start.warnings, Vec::<String>::new());
    let socket = start_socket();
    assert_eq!(socket, Some(PathBuf::from("/s/dapr-a-http.socket")));
}

fn start_socket() -> Option<PathBuf> {
    start("--app-id a --unix-domain-socket /s").plan.apps.remove(0).unix_socket
}

#[test]
fn what_has_no_effect_is_said() {
    for (line, part) in [
        ("--app-id a --dapr-grpc-port 50005", "the gRPC API is not in this build"),
        ("--app-id a --placement-host-address h:1", "actors are not in this build"),
        ("--app-id a --enable-mtls", "nothing is encrypted"),
        ("--app-id a --max-body-size 0", "may now take all memory"),
    ] {
        let warnings = start(line).warnings;
        assert!(warnings.iter().any(|warning| warning.contains(part)), "{line}: {warnings:?}");
    }
}

#[test]
fn wrong_lines_say_what_to_change() {
    for (line, part) in [
        ("--app-idd a", "unknown flag --app-idd: did you mean --app-id?"),
        ("--app-id a --resource-path x", "did you mean --resources-path?"),
        ("--zzzzzzzzzz", "`pillion help` lists all"),
        ("--app-id", "--app-id has no value: write --app-id ID"),
        ("--app-id a.b", "holds no dot"),
        ("--app-id=", "1 to 128 characters"),
        ("run --app-port x", "--app-port is 'x': write a whole number from 0 to 65535"),
        ("run --app-port 3500", "is also the port of the HTTP API"),
        ("--app-id a --app-port 50001", "is also the port of the gRPC API"),
        ("--app-id a --app-protocol grpc", "over http and https"),
        ("--app-id a --mode kubernetes", "only standalone is supported"),
        ("run --max-body-size big", "write a size such as"),
        ("run --log-level loud", "write debug, info, warn"),
        ("run --enable-metrics=maybe", "write true or false"),
        ("run --dapr-block-shutdown-duration 5", "write a duration"),
        ("run --dapr-listen-addresses example.org", "write IP addresses"),
        ("run --disable-init-endpoints all", "write config, subscribe or both"),
        ("run --app-health-probe-timeout 6000", "longer than --app-health-probe-interval"),
        ("run --mqtt-listen nowhere", "or off"),
        ("run --mqtt-listen 0.0.0.0:1883", "add an MqttUser"),
        ("run --mqtt-listen 9090", "both listen on 127.0.0.1:9090"),
        ("--app-id a --mqtt-listen 1883", "needs a component of type pubsub.embedded"),
        ("run app.py", "comes after --, as pillion run -- app.py"),
        ("run --", "nothing comes after --"),
        ("--app-id a -- x", "write pillion run before --app-id"),
        ("serv x", "did you mean 'serve'?"),
        ("python app.py", "the app's own command comes after --"),
        ("serve", "write pillion serve DIR"),
        (
            concat!("serve ", env!("CARGO_MANIFEST_DIR"), "/src --app-port 5"),
            "means nothing to `pillion serve`",
        ),
        ("check", "write pillion check DIR"),
        ("run --resources-path /does/not/exist", "name a directory of resources"),
        ("run --config /does/not/exist", "/does/not/exist: cannot be read"),
    ] {
        let text = match parse_with(line, &[]) {
            Err(text) => text,
            Ok(Command::Refuse(refusal)) => refusal.text,
            Ok(command) => panic!("{line}: {command:?}"),
        };
        assert!(text.contains(part), "{line}: {text}");
        assert_eq!(text.lines().count(), 1, "{line}: {text}");
    }
    let text = parse_with("run --app-port x --log-level y --nope z", &[]).expect_err("three");
    assert_eq!(text.lines().count(), 3, "{text}");
}

#[test]
fn resources_that_daprd_s_form_cannot_start_with_are_for_the_log() {
    let line = "--app-id a --log-as-json --resources-path /does/not/exist";
    match parse_with(line, &[]) {
        Ok(Command::Refuse(refusal)) => {
            assert_eq!((refusal.app_id.as_str(), refusal.log_as_json), ("a", true));
            assert!(refusal.text.starts_with("/does/not/exist: "), "{}", refusal.text);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn one_job_then_exit() {
    for (line, part) in [
        ("version", "pillion "),
        ("--version", "1.18.3\n"),
        ("--app-id a --version", "1.18.3\n"),
        ("--build-info", "Dapr API 1.18.3"),
        ("help", "--mqtt-listen ADDR|off"),
        ("serve --help", "pillion serve DIR"),
        ("-h", "pillion check DIR"),
        ("help markdown", "| `--mqtt-listen ADDR\\|off` |"),
    ] {
        match parse_with(line, &[]) {
            Ok(Command::Print(text, 0)) => assert!(text.contains(part), "{line}: {text}"),
            other => panic!("{line}: {other:?}"),
        }
    }
    assert!(matches!(parse_with("--wait", &[]), Ok(Command::Wait(3500))));
    assert!(matches!(parse_with("--wait --dapr-http-port 3", &[]), Ok(Command::Wait(3))));
    for (line, is_json) in [("check a b", false), ("check a b --json", true)] {
        let command = parse_with(line, &[]);
        let Ok(Command::Check(paths, json)) = command else { panic!("{line}: {command:?}") };
        assert_eq!((paths.len(), json), (2, is_json), "{line}");
    }
    let Ok(Command::Doctor(asked)) = parse_with("doctor", &[("STATE_DIRECTORY", "/s")]) else {
        panic!("doctor");
    };
    assert_eq!((asked.dir, asked.data_dir), ("/etc/pillion".into(), None));
    assert_eq!((asked.default_data_dir, asked.json), (Some("/s".into()), false));
    let Ok(Command::Doctor(asked)) = parse_with("doctor d --data-dir /x --offline", &[]) else {
        panic!("doctor d");
    };
    assert_eq!((asked.dir, asked.data_dir), ("d".into(), Some("/x".into())));
    assert!(asked.offline);
    for (line, part) in [
        ("doctor a b", "one gateway"),
        ("doctor --app-id x", "--app-id means nothing to `pillion doctor`"),
        ("check a --offline", "--offline means nothing to `pillion check`"),
        ("run --json", "is for pillion check, doctor"),
        ("check a -- b", "no command"),
    ] {
        let error = parse_with(line, &[]).expect_err(line);
        assert!(error.contains(part), "{line}: {error}");
    }
}

#[test]
fn the_data_directory_is_the_first_that_somebody_names() {
    let home: &[(&str, &str)] = &[("HOME", "/h")];
    let xdg: &[(&str, &str)] = &[("HOME", "/h"), ("XDG_STATE_HOME", "/x")];
    let systemd: &[(&str, &str)] = &[("XDG_STATE_HOME", "/x"), ("STATE_DIRECTORY", "/s:/t")];
    for (line, variables, expected) in [
        ("run", home, "/h/.local/state/pillion"),
        ("run", xdg, "/x/pillion"),
        ("run --app-id a", systemd, "/s"),
        ("--app-id a", home, "/h/.local/state/pillion/a"),
        ("--app-id a", xdg, "/x/pillion/a"),
        ("--app-id a", systemd, "/s"),
        ("--app-id a --data-dir /d", systemd, "/d"),
    ] {
        let start = start_with(line, variables);
        assert_eq!(start.plan.gateway.storage.data_dir, Some(expected.into()), "{line}");
    }
    for (name, value) in [("HOME", ""), ("XDG_STATE_HOME", "relative")] {
        let start = start_with("run", &[(name, value)]);
        assert_eq!(start.plan.gateway.storage.data_dir, None, "{name}");
    }
}

#[test]
fn near_names() {
    for (word, expected) in
        [("app-prot", Some("app-port")), ("x", None), ("APP-PORT", Some("app-port"))]
    {
        assert_eq!(closest(word, ["app-id", "app-port"].into_iter()), expected, "{word}");
    }
}

#[test]
fn flags_are_told_once() {
    let mut names: Vec<_> = flags::FLAGS.iter().map(|flag| flag.name).collect();
    names.sort_unstable();
    let all = names.len();
    names.dedup();
    assert_eq!(names.len(), all);
    for (name, _) in flags::WITHOUT_EFFECT {
        assert!(flags::find(name).is_some(), "{name}");
    }
}

#[test]
fn updates_are_asked_for_in_one_way() {
    let env = [("STATE_DIRECTORY", "/var/lib/x")];
    let update = |line: &str| match parse_with(line, &env) {
        Ok(Command::Update(request)) => request,
        other => panic!("{line}: {other:?}"),
    };
    let request = update("update --status");
    assert!(matches!(request.action, Action::Status));
    assert_eq!(request.data_dir, PathBuf::from("/var/lib/x"));
    let request = update("update --revert --data-dir /data");
    assert!(matches!(request.action, Action::Revert));
    assert_eq!(request.data_dir, PathBuf::from("/data"));
    for line in ["update", "update a b", "update a --status", "update --status --revert"] {
        assert!(parse_with(line, &env).expect_err(line).contains("one thing"), "{line}");
    }
    // Without keys nothing is installed: then what is wrong with the resources is said.
    let nowhere = parse_with("update image --config /nowhere", &env).expect_err("no resources");
    assert!(nowhere.contains("--config"), "{nowhere}");
    let elsewhere = parse_with("serve /etc/pillion --revert", &[]).expect_err("not a flag of it");
    assert!(elsewhere.contains("--revert is for pillion update"), "{elsewhere}");
}

/// What is started says what is wrong with its command line; launching only needs to know where
/// the slots are.
#[test]
fn a_launch_finds_the_data_and_judges_nothing() {
    let env = [("STATE_DIRECTORY", "/var/lib/x")];
    let data_dir = |line: &str| match parse_with(line, &env) {
        Ok(Command::Launch { data_dir, arguments }) => {
            assert_eq!(arguments.len(), line.split(' ').count() - 1);
            data_dir.map(|dir| dir.display().to_string())
        }
        other => panic!("{line}: {other:?}"),
    };
    let dir = std::env::temp_dir().join(format!("pillion-cli-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a writable directory");
    let text = "apiVersion: pillion/v1alpha1\nkind: Gateway\nmetadata: {name: g}\n\
                spec: {storage: {dataDir: /in/gateway}, later: {}}\n";
    std::fs::write(dir.join("gateway.yaml"), text).expect("a writable directory");
    let serve = format!("launch serve {}", dir.display());
    assert_eq!(data_dir(&serve).as_deref(), Some("/in/gateway"), "whatever else is in it");
    assert_eq!(data_dir(&format!("{serve} --data-dir /flag")).as_deref(), Some("/flag"));
    assert_eq!(data_dir("launch serve /nowhere").as_deref(), Some("/var/lib/x"));
    assert_eq!(data_dir("launch run --later-flag").as_deref(), Some("/var/lib/x"));
    assert!(parse_with("launch", &env).expect_err("nothing to start").contains("launch serve"));
    let _ = std::fs::remove_dir_all(&dir);
}
