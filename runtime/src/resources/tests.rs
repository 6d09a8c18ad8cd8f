//! Resources go through one helper: files in a directory, a form, an environment; out come the
//! plan, the problems and the warnings.

mod gateway;

use super::Form;
use super::*;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A directory that goes away with the test.
struct Directory(PathBuf);

impl Directory {
    fn with(files: &[(&str, &str)]) -> Self {
        let path =
            std::env::temp_dir().join(format!("pillion-{}", pillion_components::env::uuid()));
        std::fs::create_dir_all(&path).expect("a directory for the test");
        for (name, text) in files {
            std::fs::write(path.join(name), text).expect("a file for the test");
        }
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn env(name: &str) -> Option<String> {
    let value = match name {
        "SET" => "from-env",
        "HASH" => "$7$101$c2FsdA==$aGFzaA==",
        "DAPR_API_TOKEN" => "secret",
        _ => return None,
    };
    Some(value.into())
}

fn read_in(form: Form, path: &Path) -> (Plan, Vec<String>, Vec<String>) {
    let report = Report::default();
    let app = AppPlan { id: "app1".into(), ..AppPlan::default() };
    let gateway = Gateway { name: "box".into(), ..Gateway::default() };
    let wanted = Wanted {
        form,
        resources: vec![path.to_owned()],
        configs: Vec::new(),
        app: (form != Form::Gateway).then_some(app),
        defaults: Vec::new(),
        gateway,
        flags: GatewayFlags::default(),
    };
    let plan = plan(wanted, &env, &report);
    let (problems, warnings) = report.into_parts();
    let relative = |texts: Vec<String>| {
        let prefix = format!("{}/", path.display());
        texts.into_iter().map(|text| text.replace(&prefix, "")).collect::<Vec<_>>()
    };
    (plan, relative(problems), relative(warnings))
}

fn read(form: Form, text: &str) -> (Plan, Vec<String>, Vec<String>) {
    let directory = Directory::with(&[("r.yaml", text)]);
    read_in(form, &directory.0)
}

/// One file, one problem: its line and a part of its text.
fn check_problem(text: &str, line: usize, part: &str) {
    let (_, problems, _) = read(Form::Gateway, text);
    let [problem] = problems.as_slice() else { panic!("{text}\ngave {problems:#?}") };
    assert!(problem.starts_with(&format!("r.yaml:{line}: ")), "{problem}\nof {text}");
    assert!(problem.contains(part), "{problem}\nhas no '{part}'");
}

fn component(name: &str, type_name: &str, rest: &str) -> String {
    format!(
        "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {{name: {name}}}\n\
         spec:\n  type: {type_name}\n{rest}---\n"
    )
}

fn ours(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: pillion/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n{spec}---\n"
    )
}

#[test]
fn a_component_is_read_with_every_kind_of_value() {
    let settings = "  version: v1\n  ignoreErrors: true\n  initTimeout: 1m\n  metadata:\n\
        \x20 - {name: a, value: text}\n  - {name: b, value: 5}\n  - {name: c, value: true}\n\
        \x20 - {name: d, value: [1, {e: x}]}\n  - {name: f, envRef: SET}\n\
        \x20 - {name: g, secretKeyRef: {name: s}}\n  - {name: h, secretKeyRef: {name: s, key: k}}\n\
        \x20 - {name: i, value: '{appID}/{namespace}'}\n\
        auth: {secretStore: keys}\nscopes: [app1]\n";
    let text = component("store", "state.redb", settings)
        + &component("keys", "secretstores.local.env", "");
    let (plan, problems, warnings) = read(Form::Run, &text);
    assert_eq!((problems, warnings), (vec![], vec![]));
    let names: Vec<_> = plan.components.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["keys", "store"], "secret stores come first");
    let store = &plan.components[1];
    assert!(store.origin.ends_with("r.yaml:2"), "{}", store.origin);
    assert_eq!(store.init_timeout, Duration::from_secs(60));
    assert!(store.ignore_errors);
    assert_eq!(store.scopes, ["app1"]);
    let options = store
        .options(|name, key| Ok::<_, ()>(format!("{name}.{key}")))
        .expect("every secret has an answer");
    for (name, expected) in [
        ("a", "text"),
        ("b", "5"),
        ("c", "true"),
        ("d", "[1,{\"e\":\"x\"}]"),
        ("f", "from-env"),
        ("g", "s.s"),
        ("h", "s.k"),
        ("i", "app1/default.app1"),
    ] {
        assert_eq!(options.text(name), Some(expected), "{name}");
    }
}

#[test]
fn bad_components_are_told_with_their_line() {
    let c = component;
    for (text, line, part) in [
        (c("a", "state.redis", ""), 5, "known are state.redb, state.in-memory"),
        (c("a", "conversation.echo", ""), 5, "pubsub.embedded"),
        (c("a", "state.redb", "  version: v2\n"), 6, "only v1 is known"),
        (c("a", "state.redb", "  initTimeout: 5\n"), 6, "a duration such as"),
        (c("a", "state.redb", "  ignoreErrors: maybe\n"), 6, "write true or false"),
        (c("a", "state.redb", "  metadata: 5\n"), 6, "is a number: write a list"),
        (c("a", "state.redb", "  metadata:\n  - {value: x}\n"), 7, "name is missing"),
        (
            c("a", "state.redb", "  metadata:\n  - name: x\n    value: '1'\n  - name: X\n"),
            9,
            "twice",
        ),
        (
            c("a", "state.redb", "  metadata:\n  - name: x\n    secretKeyRef: {name: s}\n"),
            8,
            "add auth.secretStore",
        ),
        (c("a", "state.redb", "  metadata:\n  - name: x\n    value: '{podName}'\n"), 8, "POD_NAME"),
        (
            c(
                "a",
                "state.redb",
                "  metadata:\n  - name: x\n    secretKeyRef: {name: s}\nauth:\n  secretStore: nope\n",
            ),
            10,
            "no secret store is called 'nope'",
        ),
        (
            c(
                "a",
                "secretstores.local.file",
                "  metadata:\n  - {name: x, secretKeyRef: {name: s}}\nauth: {secretStore: a}\n",
            ),
            8,
            "use another store",
        ),
        (c("a", "state.redb", "") + &c("a", "state.in-memory", ""), 9, "duplicate definition of"),
        (
            "apiVersion: dapr.io/v1alpha1\nkind: Component\nspec: {type: state.redb}\n".into(),
            1,
            "metadata is missing",
        ),
        (
            "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: a}\n".into(),
            1,
            "spec is missing",
        ),
        ("a: 1\nb: [\n".into(), 3, "not valid YAML"),
        ("a: 1\na: 2\n".into(), 2, "twice"),
    ] {
        check_problem(&text, line, part);
    }
}

#[test]
fn every_problem_of_every_file_is_listed() {
    let directory = Directory::with(&[
        ("a.yaml", &component("one", "state.nope", "  initTimeout: x\n")),
        ("b.yml", "x: [\n"),
        ("c.yaml", &ours("Gateway", "g", "  storrage: {}\n  mqtt: {listen: here}\n")),
        ("ignored.txt", "x: [\n"),
    ]);
    std::fs::create_dir(directory.0.join("below")).expect("a directory below");
    std::fs::write(directory.0.join("below/d.yaml"), "x: [\n").expect("a file below");
    let (_, problems, _) = read_in(Form::Gateway, &directory.0);
    let places: Vec<_> = problems.iter().map(|p| p.split(": ").next().unwrap_or("")).collect();
    assert_eq!(
        places,
        ["b.yml:2", "a.yaml:6", "c.yaml:6", "c.yaml:5", "a.yaml:5", "c.yaml:6"],
        "{problems:#?}"
    );
    assert!(problems[3].contains("did you mean 'storage'?"), "{problems:#?}");
}

#[test]
fn not_utf8_and_no_directory() {
    let directory = Directory::with(&[]);
    std::fs::write(directory.0.join("r.yaml"), b"a: 1\nb: \xff\n").expect("a file");
    let (_, problems, _) = read_in(Form::Gateway, &directory.0);
    assert_eq!(problems, ["r.yaml:2: not UTF-8: save the file as UTF-8"]);
    let (_, problems, _) = read_in(Form::Gateway, &directory.0.join("none"));
    assert!(problems[0].contains("name a directory of resources"), "{problems:?}");
}

#[test]
fn duplicates_in_daprd_s_form_are_told_in_its_words() {
    let text = component("a", "state.redb", "  version: v1\n")
        + &component("a", "state.in-memory", "  version: v1\n")
        + &component("b", "state.redb", "scopes: [other]\n")
        + &component("b", "state.redb", "");
    let (_, problems, _) = read(Form::Daprd, &text);
    assert_eq!(
        problems,
        ["failed to load components: duplicate definition of Component \
          name a (state.in-memory/v1) with existing a (state.redb/v1)"]
    );
}

#[test]
fn what_is_for_others_is_left_out() {
    let text = component("theirs", "state.redis", "scopes: [other]\n")
        + &component("odd", "state.redis", "  ignoreErrors: true\n")
        + "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n---\njust: a map\n---\n"
        + "apiVersion: dapr.io/v1alpha1\nkind: MCPServer\nmetadata: {name: m}\n";
    let (plan, problems, warnings) = read(Form::Daprd, &text);
    assert_eq!(problems, Vec::<String>::new());
    assert!(plan.components.is_empty());
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("Ignoring error processing component: process component odd"));
}

#[test]
fn namespaces_are_kept_apart() {
    let text = "apiVersion: dapr.io/v1alpha1\nkind: Component\n\
                metadata: {name: a, namespace: other}\nspec: {type: state.redb}\n";
    let directory = Directory::with(&[("r.yaml", text)]);
    for (namespace, expected) in [(None, 1), (Some("ours"), 0), (Some("other"), 1)] {
        let report = Report::default();
        let wanted = Wanted {
            form: Form::Gateway,
            resources: vec![directory.0.clone()],
            configs: Vec::new(),
            app: None,
            defaults: Vec::new(),
            gateway: Gateway::default(),
            flags: GatewayFlags::default(),
        };
        let env = |name: &str| namespace.filter(|_| name == "NAMESPACE").map(String::from);
        assert_eq!(plan(wanted, &env, &report).components.len(), expected, "{namespace:?}");
    }
}

#[test]
fn variables_that_belong_to_the_process_cannot_be_read() {
    let text =
        component("a", "state.redb", "  metadata:\n  - name: x\n    envRef: DAPR_API_TOKEN\n");
    let (plan, problems, warnings) = read(Form::Daprd, &text);
    assert_eq!(problems, Vec::<String>::new());
    assert!(warnings[0].starts_with("r.yaml:8: "), "{warnings:?}");
    let options =
        plan.components[0].options(|_, _| Ok::<_, ()>(String::new())).expect("no secrets");
    assert_eq!(options.text("x"), None);
}

#[test]
fn subscriptions_of_both_versions() {
    let text = component("pubsub", "pubsub.in-memory", "")
        + "apiVersion: dapr.io/v2alpha1\nkind: Subscription\nmetadata: {name: one}\nspec:\n\
           \x20 pubsubname: pubsub\n  topic: a\n  routes:\n    rules:\n\
           \x20   - {match: event.type == \"x\", path: /x}\n    default: /a\n\
           \x20 deadLetterTopic: dead\n  metadata: {rawPayload: \"true\"}\n---\n\
           apiVersion: dapr.io/v1alpha1\nkind: Subscription\nmetadata: {name: two}\n\
           spec: {pubsubname: pubsub, topic: b, route: /b}\n---\n\
           apiVersion: dapr.io/v1alpha1\nkind: Subscription\nmetadata: {name: three}\n\
           spec: {pubsubname: pubsub, topic: c, route: /c}\nscopes: [other]\n";
    let (plan, problems, warnings) = read(Form::Daprd, &text);
    assert_eq!((problems, warnings), (vec![], vec![]));
    let [one, two] = plan.subscriptions.as_slice() else { panic!("{:?}", plan.subscriptions) };
    assert_eq!(
        one.rules,
        [RuleWritten { matches: "event.type == \"x\"".into(), path: "/x".into() }]
    );
    assert_eq!((one.route.as_str(), one.dead_letter_topic.as_deref()), ("/a", Some("dead")));
    assert_eq!(one.metadata, [("rawPayload".into(), "true".into())]);
    assert_eq!((two.topic.as_str(), two.route.as_str()), ("b", "/b"));
}

#[test]
fn bad_subscriptions_and_endpoints() {
    let s = |version: &str, spec: &str| {
        component("pubsub", "pubsub.in-memory", "")
            + &format!(
                "apiVersion: dapr.io/{version}\nkind: Subscription\nmetadata: {{name: s}}\nspec:\n{spec}"
            )
    };
    let e = |spec: &str| {
        format!(
            "apiVersion: dapr.io/v1alpha1\nkind: HTTPEndpoint\nmetadata: {{name: e}}\nspec:\n{spec}"
        )
    };
    for (text, line, part) in [
        (s("v1alpha1", "  topic: a\n  route: /\n"), 10, "pubsubname is missing"),
        (
            s("v1alpha1", "  topic: a\n  route: /\n  pubsubname: pubsup\n"),
            13,
            "did you mean 'pubsub'?",
        ),
        (s("v1alpha1", "  topic: 'a/#/b'\n  route: /\n  pubsubname: pubsub\n"), 11, "topic filter"),
        (
            s("v2alpha1", "  topic: a\n  routes: {}\n  pubsubname: pubsub\n"),
            12,
            "say where messages go",
        ),
        (e("  baseUrl: ftp://x\n"), 5, "begin it with http://"),
        (e("  headers: []\n"), 4, "baseUrl is missing"),
    ] {
        check_problem_lenient(&text, line, part);
    }
}

/// As `check_problem`, but the place of a missing key is its mapping, whose first line counts.
fn check_problem_lenient(text: &str, line: usize, part: &str) {
    let (_, problems, _) = read(Form::Gateway, text);
    let [problem] = problems.as_slice() else { panic!("{text}\ngave {problems:#?}") };
    let places = [format!("r.yaml:{line}: "), format!("r.yaml:{}: ", line + 1)];
    assert!(places.iter().any(|place| problem.starts_with(place)), "{problem}\nof {text}");
    assert!(problem.contains(part), "{problem}\nhas no '{part}'");
}

#[test]
fn our_kinds_are_strict() {
    let o = ours;
    let door = component("pubsub", "pubsub.embedded", "");
    let both = component("pubsub", "pubsub.embedded", "") + &component("cloud", "pubsub.mqtt3", "");
    for (text, line, part) in [
        (o("Gatway", "g", "  x: 1\n"), 2, "write Gateway, App, MqttUser or Link"),
        ("apiVersion: pillion/v2\nkind: App\n".into(), 1, "write pillion/v1alpha1"),
        (o("Gateway", "g", "  Storage: {}\n"), 5, "did you mean 'storage'?"),
        (o("Gateway", "g", "  storage:\n    quotaBytes: lots\n"), 6, "write a size from"),
        (o("Gateway", "g", "  storage: {logSegments: 1}\n"), 5, "a whole number from 3 to 64"),
        (o("Gateway", "g", "  metrics:\n    listen: nowhere:x\n"), 6, "write an address as"),
        (o("Gateway", "g", "  mqtt: {}\n"), 5, "needs a component of type pubsub.embedded"),
        (
            door.clone() + &o("Gateway", "g", "  mqtt:\n    pubsub: other\n"),
            12,
            "no pubsub.embedded is called 'other'",
        ),
        (
            door.clone() + &o("Gateway", "g", "  mqtt: {listen: '0.0.0.0:1883'}\n"),
            11,
            "add an MqttUser",
        ),
        (
            o("Gateway", "g", "  x1: {}\n").replace("  x1: {}\n", "")
                + &o("Gateway", "h", "  limits: {}\n"),
            8,
            "a second Gateway",
        ),
        (o("App", "a.b", "  listen: {http: 3500}\n"), 3, "no dot"),
        (o("App", "a", "  channel: {protocol: grpc, address: 80}\n"), 5, "http or https"),
        (
            o("App", "a", "  channel: {protocol: http}\n"),
            5,
            "is missing: write the app's host:port",
        ),
        (o("App", "a", "  health: {path: /x}\n"), 5, "needs spec.channel"),
        (o("App", "a", "  listen: {http: 'x'}\n"), 5, "or unix:/path"),
        (o("App", "a", "  configuration: none\n"), 5, "no Configuration is called 'none'"),
        (o("App", "a", "  token: {envRef: APP_API_TOKEN}\n"), 5, "resources may not read"),
        (o("App", "a", "  token: {envRef: NONE}\n"), 5, "'NONE' is not set"),
        (o("App", "a", "  token: ''\n"), 5, "is empty: give it a value"),
        (
            o("Gateway", "g", "  storage: {segmentBytes: 1Mi, quotaBytes: 64Mi}\n"),
            5,
            "holds two of the largest",
        ),
        (
            o("Gateway", "g", "  storage: {segmentBytes: 8Mi, quotaBytes: 32Mi}\n"),
            5,
            "the log alone takes 33554432",
        ),
        (o("App", "a", "  access: {stores: [s]}\n"), 5, "no state store is called 's'"),
        (o("App", "a", "  access: {topics: ['a#']}\n"), 5, "topic filter"),
        (o("App", "a", "  quota: 5\n"), 5, "unknown key 'spec.quota'"),
        (
            o("App", "a", "  listen: {http: 3501}\n") + &o("App", "a", "  listen: {http: 3502}\n"),
            9,
            "a second App is called 'a'",
        ),
        (
            o("App", "a", "  listen: {http: 3501}\n")
                + &o("App", "b", "  listen: {http: '0.0.0.0:3501'}\n"),
            11,
            "both listen on 0.0.0.0:3501",
        ),
        (o("MqttUser", "u", "  passwordHash: plain\n"), 5, "mosquitto_passwd"),
        (o("MqttUser", "u", "  publish: []\n"), 4, "passwordHash is missing"),
        (
            both.clone()
                + &o("Link", "l", "  local: pubsub\n  remote: clout\n  up: [{filter: a}]\n"),
            18,
            "did you mean 'cloud'?",
        ),
        (
            both.clone()
                + &o("Link", "l", "  local: pubsub\n  remote: pubsub\n  up: [{filter: a}]\n"),
            18,
            "the same component",
        ),
        (
            both.clone() + &o("Link", "l", "  local: pubsub\n  remote: cloud\n"),
            17,
            "say what flows",
        ),
        (
            both.clone()
                + &o(
                    "Link",
                    "l",
                    "  local: pubsub\n  remote: cloud\n  up:\n  - {filter: 'a/#'}\n  - filter: 'b/#'\n    mapTo: c/\n  down: [{filter: c/b/x}]\n",
                ),
            21,
            "overlap on the remote side",
        ),
        (
            both.clone()
                + &o(
                    "Link",
                    "l",
                    "  local: pubsub\n  remote: cloud\n  up: [{filter: 'a/#'}]\n  down: [{filter: a/x, mapTo: b/}]\n",
                ),
            19,
            "overlap on the local side",
        ),
        (
            both.clone()
                + &o(
                    "Link",
                    "l",
                    "  local: pubsub\n  remote: cloud\n  up: [{filter: '+/x', mapTo: site}]\n",
                ),
            19,
            "end it with /",
        ),
        (
            both + &o(
                "Link",
                "l",
                "  local: pubsub\n  remote: cloud\n  up: [{filter: x, qos: 2}]\n",
            ),
            19,
            "from 0 to 1",
        ),
    ] {
        check_problem(&text, line, part);
    }
}

#[test]
fn scopes_of_secrets() {
    let scope = |allowed_by_default, allowed: &[&str], denied: &[&str]| SecretScope {
        store: "s".into(),
        allowed_by_default,
        allowed: allowed.iter().map(|name| (*name).into()).collect(),
        denied: denied.iter().map(|name| (*name).into()).collect(),
    };
    assert!(scope(true, &[], &[]).allows("x"));
    assert!(!scope(true, &[], &["x"]).allows("x"));
    assert!(!scope(true, &["y"], &[]).allows("x"));
    assert!(scope(false, &["x"], &["x"]).allows("x"));
    assert!(!scope(false, &[], &[]).allows("x"));
}

#[test]
fn tokens_of_the_environment_are_for_apps_without_their_own() {
    let text = ours("App", "a", "  listen: {http: 1}\n  token: t\n")
        + &ours("App", "b", "  listen: {http: 2}\n");
    let (plan, problems, _) = read(Form::Gateway, &text);
    assert_eq!(problems, Vec::<String>::new());
    let tokens: Vec<_> = plan.apps.iter().map(|app| app.api_token.as_deref()).collect();
    assert_eq!(tokens, [Some("t"), Some("secret")]);
}

#[test]
fn templates_know_the_gateway_s_name() {
    let text = component("a", "state.redb", "  metadata: [{name: x, value: '{appID}'}]\n")
        + &ours("Gateway", "north", "  limits: {}\n");
    let (plan, _, warnings) = read(Form::Gateway, &text);
    let options =
        plan.components[0].options(|_, _| Ok::<_, ()>(String::new())).expect("no secrets");
    assert_eq!(options.text("x"), Some("north"));
    assert!(warnings[0].contains("nobody can use this gateway"), "{warnings:?}");
}

/// Example files with bytes changed, cut out and doubled at random: whatever comes of it, it is a
/// plan or a list of problems, each with a place.
#[test]
fn damaged_files_are_told_not_feared() {
    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    let mut texts = Vec::new();
    for directory in ["dev", "examples", "gateway"] {
        for entry in std::fs::read_dir(configs.join(directory)).expect("the directory") {
            let path = entry.expect("an entry").path();
            if path.is_file() {
                texts.push(std::fs::read(path).expect("a file"));
            }
        }
    }
    let seed = pillion_components::env::random_u64();
    // Shown when the test fails.
    #[allow(clippy::print_stdout)]
    {
        println!("seed {seed}");
    }
    let mut state = seed;
    let mut random = |below: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap_or(0) % below.max(1)
    };
    let directory = Directory::with(&[]);
    let pieces: [&[u8]; 10] =
        [b"- ", b": ", b"\n", b"  ", b"[", b"{", b"&a ", b"*a", b"\xff", b"---\n"];
    for _ in 0..500 {
        let mut text = texts[random(texts.len())].clone();
        for _ in 0..=random(4) {
            let at = random(text.len());
            let end = (at + random(40)).min(text.len());
            match random(3) {
                0 => drop(text.drain(at..end)),
                1 => text.extend_from_within(at..end),
                _ => drop(text.splice(at..at, pieces[random(pieces.len())].iter().copied())),
            }
        }
        std::fs::write(directory.0.join("r.yaml"), &text).expect("a file");
        let (_, problems, _) = read_in(Form::Gateway, &directory.0);
        for problem in problems {
            let has_place = problem.starts_with("r.yaml:") || problem.starts_with("Gateway: ");
            assert!(has_place || problem.starts_with("and more"), "{problem}");
        }
    }
}

mod feeding;
