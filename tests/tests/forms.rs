//! The ways to start: what exists in each, and what a wrong start says.
//!
//! Each test runs the real binary as an operator would type it.

use pillion_tests::pillion::{self, TestDir, free_port};
use pillion_tests::tool::{command, words};
use pillion_tests::{App, Desk, Gateway, Pillion, Request, Setup, Tool, json, until};
use std::fs;
use std::path::Path;

const STATE: &str = "
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: statestore}
spec: {type: state.redb, version: v1}
";

const STATE_IN_MEMORY: &str = "
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: statestore}
spec: {type: state.in-memory, version: v1}
";

/// An app that subscribes to nothing and answers every call with what it is called.
async fn named(name: &'static str) -> App {
    App::start(move |asked| match asked.path.as_str() {
        "/dapr/subscribe" => json(200, "[]"),
        path if path.starts_with("/dapr/") => json(404, "{}"),
        _ => json(200, format!(r#"{{"app":"{name}"}}"#)),
    })
    .await
}

/// An app that takes everything of `topic`.
async fn taking(topic: &'static str) -> App {
    App::start(move |asked| match asked.path.as_str() {
        "/dapr/subscribe" => {
            json(200, format!(r#"[{{"pubsubname":"pubsub","topic":"{topic}","route":"/take"}}]"#))
        }
        "/take" => json(200, r#"{"status":"SUCCESS"}"#),
        _ => json(404, "{}"),
    })
    .await
}

/// The events that arrived at `/take`, once there are so many.
async fn taken(app: &App, count: usize) -> Vec<serde_json::Value> {
    until(&format!("event {count}"), || async {
        let events = app.asked().into_iter().filter(|asked| asked.path == "/take");
        let events: Vec<_> = events.map(|asked| asked.json()).collect();
        Some(events).filter(|events| events.len() >= count)
    })
    .await
}

#[tokio::test]
async fn run_announces_what_listens_and_a_line_to_try() {
    let desk = Desk::new();
    let mut pillion = desk.start().await;
    let log = until("the announcement", || async {
        Some(pillion.log()).filter(|log| log.contains("/v1.0/state/statestore/greeting"))
    })
    .await;
    for said in [
        format!("http://127.0.0.1:{}", desk.http()),
        format!("mqtt://{}", desk.mqtt()),
        format!("http://127.0.0.1:{}", pillion.metrics_port),
    ] {
        assert!(log.contains(&said), "{said} is not in\n{log}");
    }
    // Exactly as printed, pasted into a shell.
    let begin = log.find("Try:").expect("a line to try") + "Try:".len();
    let end = log.rfind("statestore/greeting").expect("it ends so") + "statestore/greeting".len();
    let pasted = log.get(begin..end).expect("the lines to try");
    let said = Tool::run(command("sh", ["-ec", pasted])).await.expect_success();
    assert_eq!(said.out, [r#""hello""#], "{pasted}\n{said:?}");
    assert!(pillion.stop().await.success(), "{}", pillion.log());
}

/// In a network of its own, so that the default ports are free.
#[tokio::test]
async fn without_a_single_flag_everything_is_where_the_readme_says() {
    let home = TestDir::new();
    let script = format!(
        r#"
        ip link set lo up
        {binary} & pillion=$!
        for _ in $(seq 500); do curl -sf 127.0.0.1:3500/v1.0/healthz && break; sleep 0.02; done
        curl -sf -X POST 127.0.0.1:3500/v1.0/state/statestore -d '[{{"key":"a","value":1}}]'
        echo "state $(curl -sf 127.0.0.1:3500/v1.0/state/statestore/a)"
        mosquitto_pub -p 1883 -q 1 -r -t t -m kept
        echo "topic $(mosquitto_sub -p 1883 -t t -C 1 -W 5)"
        echo "secret $(curl -sf 127.0.0.1:3500/v1.0/secrets/secrets/SOMETHING)"
        curl -sf 127.0.0.1:9090/metrics | grep -q process_resident_memory_bytes && echo metrics
        ls "$HOME/.local/state/pillion" >/dev/null && echo data
        kill $pillion
        wait $pillion
        echo "exit $?"
        "#,
        binary = pillion::command_words().join(" ")
    );
    let mut unshared = command("unshare", ["--map-root-user", "--net", "bash", "-c", &script]);
    unshared.env("HOME", home.path()).env("SOMETHING", "hidden");
    unshared.env_remove("XDG_STATE_HOME").env_remove("STATE_DIRECTORY");
    let said = Tool::run(unshared).await;
    for line in
        ["state 1", "topic kept", r#"secret {"SOMETHING":"hidden"}"#, "metrics", "data", "exit 0"]
    {
        assert!(said.out.iter().any(|said| said == line), "no '{line}' in\n{said:#?}");
    }
}

/// The port that a joined `pillion run` printed.
async fn joined_port(pillion: &Pillion, app_id: &str) -> u16 {
    let name = format!("HTTP API of {app_id} ");
    until("the port of the joined app", || async {
        let log = pillion.log();
        let line = log.lines().find(|line| line.contains(&name) && line.contains("(joined)"))?;
        let port = line.rsplit_once(':')?.1.split_whitespace().next()?;
        port.parse().ok()
    })
    .await
}

/// A further `pillion run` on the data directory of a desk.
fn run_beside(desk: &Desk, arguments: &str) -> Pillion {
    let mut command = pillion::command(["run", "--data-dir"]);
    command.arg(desk.data_dir());
    // The same port as the first: the rule for the default port.
    command.args(["--dapr-http-port", &desk.http().to_string()]).args(words(arguments));
    Pillion::spawn(command, 0, 0, TestDir::new())
}

#[tokio::test]
async fn a_second_run_joins_the_first() {
    let (one, other) = (taking("shared").await, named("other").await);
    let desk = Desk::new().app(&one).args(["--app-id", "one"]);
    let mut first = desk.start().await;
    let mut second = run_beside(&desk, &format!("--app-id other --app-port {}", other.port));
    second.port = joined_port(&second, "other").await;
    assert_ne!(second.port, first.port, "an app's listener is its identity");
    second.ready("/v1.0/healthz").await;

    // Stores are the same, keys of each app its own, as in Dapr.
    let saved = second.post("/v1.0/state/statestore", r#"[{"key":"k","value":"v"}]"#).await;
    assert_eq!(saved.status, 204, "{saved:?}");
    assert_eq!(second.get("/v1.0/state/statestore/k").await.text(), r#""v""#);
    assert_eq!(first.get("/v1.0/state/statestore/k").await.status, 204, "keys have the app's name");
    // Topics are shared.
    let published = second.post("/v1.0/publish/pubsub/shared", r#"{"from":"other"}"#).await;
    assert_eq!(published.status, 204, "{published:?}");
    assert_eq!(taken(&one, 1).await[0]["data"]["from"], "other");
    // Each can call the other.
    let answer = first.get("/v1.0/invoke/other/method/hello").await;
    assert_eq!((answer.status, answer.json()["app"].clone()), (200, "other".into()), "{answer:?}");
    let answer = second.get("/v1.0/invoke/one/method/dapr/subscribe").await;
    assert_eq!(answer.status, 200, "{answer:?}");

    // It leaves without harm, and its place is free again.
    assert!(second.stop().await.success(), "{}", second.log());
    until("the place of the app that left", || async {
        let answer = first.get("/v1.0/invoke/other/method/hello").await;
        (answer.status == 500).then_some(())
    })
    .await;
    let mut third = run_beside(&desk, &format!("--app-id other --app-port {}", other.port));
    third.port = joined_port(&third, "other").await;
    third.ready("/v1.0/healthz").await;
    assert_eq!(third.get("/v1.0/state/statestore/k").await.text(), r#""v""#);
    // The same id twice is another app.
    let fourth = run_beside(&desk, "--app-id other");
    joined_port(&fourth, "other-2").await;

    // All end with the first.
    assert!(first.stop().await.success(), "{}", first.log());
    assert_eq!(third.ended().await.code(), Some(1), "{}", third.log());
}

#[tokio::test]
async fn the_command_of_a_joined_app_ends_with_the_first_that_is_killed() {
    let desk = Desk::new();
    let mut first = desk.start().await;
    let pid_file = desk.dir().join("pid");
    let mut second = pillion::command(["run", "--data-dir"]);
    second.arg(desk.data_dir()).args(["--app-id", "b", "--"]);
    second.args(["sh", "-c", "echo $$ $DAPR_HTTP_PORT >\"$0\"; exec sleep 300"]).arg(&pid_file);
    let mut second = Pillion::spawn(second, 0, 0, TestDir::new());
    let (pid, port) = until("the command's own words", || async {
        let text = fs::read_to_string(&pid_file).ok()?;
        let (pid, port) = text.trim().split_once(' ')?;
        Some((pid.to_owned(), port.parse::<u16>().ok()?))
    })
    .await;
    let health = Request::new(hyper::Method::GET, "/v1.0/healthz").send(port).await;
    assert_eq!(health.expect("the port in the variable").status, 204);
    first.signal(libc::SIGKILL);
    first.ended().await;
    assert_eq!(second.ended().await.code(), Some(1), "{}", second.log());
    gone(&pid).await;
}

/// Waits until the process is gone; a zombie that nobody reaps is gone too.
async fn gone(pid: &str) {
    until(&format!("the end of process {pid}"), || async {
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return Some(()) };
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z')).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_command_is_started_as_the_app_and_ends_the_process() {
    let app = named("x").await;
    let desk = Desk::new().app(&app).args(["--app-id", "x"]);
    let file = desk.dir().join("variables");
    let script = "env >\"$0.new\"; mv \"$0.new\" \"$0\"; exit 7";
    let desk = desk.command(["sh", "-c", script, &file.display().to_string()]);
    let mut pillion = desk.spawn();
    assert_eq!(pillion.ended().await.code(), Some(7), "{}", pillion.log());
    let text = fs::read_to_string(&file).expect("the command ran");
    for wanted in [
        "APP_ID=x".to_owned(),
        format!("APP_PORT={}", app.port),
        format!("DAPR_HTTP_PORT={}", desk.http()),
        format!("DAPR_HTTP_ENDPOINT=http://127.0.0.1:{}", desk.http()),
        format!("DAPR_METRICS_PORT={}", pillion.metrics_port),
        "APP_PROTOCOL=http".to_owned(),
    ] {
        assert!(text.lines().any(|line| line == wanted), "no {wanted} in\n{text}");
    }
}

#[tokio::test]
async fn a_command_never_outlives_the_process() {
    for signal in [libc::SIGTERM, libc::SIGKILL] {
        let desk = Desk::new();
        let file = desk.dir().join("pid");
        let script = "echo $$ >\"$0.new\"; mv \"$0.new\" \"$0\"; exec sleep 300";
        let desk = desk.command(["sh", "-c", script, &file.display().to_string()]);
        let mut pillion = desk.start().await;
        let pid = until("the command", || async { fs::read_to_string(&file).ok() })
            .await
            .trim()
            .to_owned();
        assert!(Path::new(&format!("/proc/{pid}")).exists());
        pillion.signal(signal);
        let status = pillion.ended().await;
        assert_eq!(status.success(), signal == libc::SIGTERM, "{status} {}", pillion.log());
        gone(&pid).await;
    }
}

const GATEWAY: &str = "
apiVersion: pillion/v1alpha1
kind: Gateway
metadata: {name: box}
spec:
  mqtt: {listen: '127.0.0.1:$MQTT', allowAnonymous: true}
  metrics: {listen: '127.0.0.1:$METRICS'}
---
apiVersion: pillion/v1alpha1
kind: App
metadata: {name: one}
spec:
  listen: {http: '127.0.0.1:$HTTP'}
  token: {secretKeyRef: {name: ONE_TOKEN}}
  channel: {address: 'APP_ONE', token: to-one}
auth: {secretStore: secrets}
---
apiVersion: pillion/v1alpha1
kind: App
metadata: {name: two}
spec:
  listen: {http: '127.0.0.1:TWO'}
  channel: {address: 'APP_TWO'}
  access:
    topics: ['results/#']
    stores: []
    secrets: []
    invoke: []
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: statestore}
spec: {type: state.redb, version: v1}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: pubsub}
spec: {type: pubsub.embedded, version: v1}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: secrets}
spec: {type: secretstores.local.env, version: v1}
---
apiVersion: dapr.io/v1alpha1
kind: Subscription
metadata: {name: sub}
spec: {pubsubname: pubsub, topic: 'results/#', route: /take}
scopes: [one]
";

#[tokio::test]
async fn a_gateway_keeps_its_apps_apart() {
    let (app_one, app_two) = (taking("none").await, named("two").await);
    let two = free_port();
    let text = GATEWAY
        .replace("TWO'", &format!("{two}'"))
        .replace(&format!("APP_{two}"), &app_two.port.to_string())
        .replace("APP_ONE", &app_one.port.to_string());
    let gateway = Gateway::new().resource("all.yaml", &text).env("ONE_TOKEN", "sesame");
    let mut pillion = gateway.start().await;
    let ask =
        |request: Request, port: u16| async move { request.send(port).await.expect("an answer") };
    let get = |path: &str| Request::new(hyper::Method::GET, path);
    let post = |path: &str, body: &'static str| {
        Request::new(hyper::Method::POST, path)
            .header("content-type", "application/json")
            .body(body)
    };

    // The token of app one, on its listener only.
    let state = "/v1.0/state/statestore/a";
    assert_eq!(ask(get(state), gateway.http()).await.status, 401);
    let wrong = get(state).header("dapr-api-token", "sesam");
    assert_eq!(ask(wrong, gateway.http()).await.status, 401);
    let right = get(state).header("dapr-api-token", "sesame");
    assert_eq!(ask(right, gateway.http()).await.status, 204);

    // App two may publish results and nothing else.
    let cases = [
        (post("/v1.0/publish/pubsub/results/x", r#"{"n":1}"#), 204),
        (post("/v1.0/publish/pubsub/sensors/x", "{}"), 403),
        (post("/v1.0/state/statestore", r#"[{"key":"a","value":1}]"#), 403),
        (get(state), 403),
        (get("/v1.0/secrets/secrets/ONE_TOKEN"), 403),
        (get("/v1.0/invoke/one/method/hello"), 403),
        (get("/v1.0/invoke/two/method/hello"), 200),
    ];
    for (request, status) in cases {
        let what = format!("{} {}", request.method, request.path);
        let answer = ask(request, two).await;
        assert_eq!(answer.status, status, "{what}: {}", answer.text());
        if status == 403 {
            assert!(!answer.text().contains("sesame"), "{}", answer.text());
            assert!(answer.json()["errorCode"].is_string(), "{}", answer.text());
        }
    }
    // The event reaches app one, which is shown its token.
    let event = taken(&app_one, 1).await.remove(0);
    assert_eq!((&event["source"], &event["data"]["n"]), (&"two".into(), &1.into()), "{event}");
    let asked = app_one.asked();
    let delivery = asked.iter().find(|asked| asked.path == "/take").expect("it arrived");
    assert_eq!(delivery.header("dapr-api-token"), Some("to-one"), "{delivery:?}");
    assert!(!pillion.log().contains("sesame"), "{}", pillion.log());
    assert!(pillion.stop().await.success(), "{}", pillion.log());
}

#[tokio::test]
async fn daprds_form_needs_no_environment_and_touches_no_disk() {
    // `Setup` runs with an empty environment.
    let mut pillion = Setup::new().resource("state.yaml", STATE_IN_MEMORY).start().await;
    let saved = pillion.post("/v1.0/state/statestore", r#"[{"key":"k","value":1}]"#).await;
    assert_eq!(saved.status, 204, "{saved:?}");
    // Only what is named exists.
    assert_eq!(pillion.post("/v1.0/publish/pubsub/t", "{}").await.status, 404);
    let names: Vec<_> = fs::read_dir(pillion.dir()).expect("it is ours").flatten().collect();
    assert_eq!(names.len(), 1, "only the resources: {names:?}");
    assert!(pillion.stop().await.success(), "{}", pillion.log());
}

#[tokio::test]
async fn a_store_without_a_place_says_how_to_give_it_one() {
    let mut pillion = Setup::new().resource("state.yaml", STATE).spawn();
    assert_eq!(pillion.ended().await.code(), Some(1));
    let log = settled_log(&pillion, "--data-dir").await;
    assert!(log.contains("level=fatal"), "{log}");
}

/// The log once it has this text; what the process wrote last may still be in the pipe.
async fn settled_log(pillion: &Pillion, text: &str) -> String {
    until(&format!("'{text}' in the log of {pillion:?}"), || async {
        Some(pillion.log()).filter(|log| log.contains(text))
    })
    .await
}

#[tokio::test]
async fn one_process_has_a_data_directory() {
    let data = TestDir::new();
    let arguments = ["--data-dir".to_owned(), data.path().display().to_string()];
    let setup = || Setup::new().resource("state.yaml", STATE).args(arguments.clone());
    let mut first = setup().start().await;
    let mut second = setup().spawn();
    assert_eq!(second.ended().await.code(), Some(1), "{}", second.log());
    let log = settled_log(&second, &format!("pid {}", first.pid())).await;
    assert!(log.contains(&arguments[1]), "{log}");
    // The holder is not disturbed, and its end frees the directory.
    let saved = first.post("/v1.0/state/statestore", r#"[{"key":"k","value":1}]"#).await;
    assert_eq!(saved.status, 204, "{saved:?}");
    first.signal(libc::SIGKILL);
    first.ended().await;
    let third = setup().start().await;
    assert_eq!(third.get("/v1.0/state/statestore/k").await.text(), "1");
}

#[tokio::test]
async fn a_wrong_command_line_says_what_to_write() {
    for (arguments, wanted) in [
        ("run --app-prot 1", vec!["--app-prot", "--app-port"]),
        ("--app-id a -dapr-http-prot=1", vec!["-dapr-http-prot", "--dapr-http-port"]),
        ("serv DIR", vec!["serv", "'serve'"]),
        ("serve", vec!["pillion serve DIR"]),
        ("run --app-port=x --mqtt-listen nowhere", vec!["--app-port", "--mqtt-listen"]),
        ("run python3 app.py", vec!["-- python3"]),
    ] {
        let said = Tool::run(pillion::command(words(arguments))).await;
        assert_eq!(said.status.code(), Some(2), "{arguments}: {said:?}");
        let text = said.errors.join("\n");
        for wanted in wanted {
            assert!(text.contains(wanted), "{arguments}: no '{wanted}' in\n{text}");
        }
    }
}

#[tokio::test]
async fn a_taken_port_is_named_with_its_purpose_and_flag() {
    let holder = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = holder.local_addr().expect("bound").to_string();
    let port = taken.rsplit_once(':').expect("an address").1.to_owned();
    for (flag, value, purpose) in [
        ("--dapr-http-port", &port, "HTTP API"),
        ("--metrics-port", &port, "metrics"),
        ("--mqtt-listen", &taken, "MQTT"),
    ] {
        let desk = Desk::new();
        // The later of two is the one that counts.
        let desk = desk.args([flag, value]);
        let mut pillion = desk.spawn();
        assert_eq!(pillion.ended().await.code(), Some(1), "{}", pillion.log());
        let log = settled_log(&pillion, flag).await;
        for wanted in [taken.as_str(), purpose] {
            assert!(log.contains(wanted), "{flag}: no '{wanted}' in\n{log}");
        }
    }
}
