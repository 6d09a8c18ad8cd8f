//! What the process tells about itself: metrics, logs, traces.

use pillion_tests::{App, Asked, Desk, Request, Setup, Tool, json, tool, until};

const TOPICS: &str = "
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: pubsub}
spec: {type: pubsub.in-memory, version: v1}
";

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

async fn app() -> App {
    App::start(|asked| match asked.path.as_str() {
        "/dapr/subscribe" => json(200, r#"[{"pubsubname":"pubsub","topic":"t","route":"/take"}]"#),
        "/take" | "/called" => json(200, "{}"),
        _ => json(404, "{}"),
    })
    .await
}

/// The first request to this path, once it came.
async fn asked_for(app: &App, path: &str) -> Asked {
    until(path, || async { app.asked().into_iter().find(|asked| asked.path == path) }).await
}

#[tokio::test]
async fn metrics_have_a_port_of_their_own() {
    let desk = Desk::new();
    let pillion = desk.start().await;
    let saved = pillion.post("/v1.0/state/statestore", r#"[{"key":"k","value":1}]"#).await;
    assert_eq!(saved.status, 204, "{saved:?}");
    let port = desk.mqtt().port().to_string();
    let published = ["-p", &port, "-q", "1", "-t", "t", "-m", "m"];
    Tool::run(tool::command("mosquitto_pub", published)).await.expect_success();
    let text = pillion.metrics().await;
    for name in [
        "process_resident_memory_bytes",
        "process_cpu_seconds_total",
        "process_open_fds",
        "dapr_http_server_request_count",
        "dapr_component_state_count",
    ] {
        assert!(text.contains(&format!("\n{name}")), "no {name} in\n{text}");
    }
    // Prometheus' text form: every line is a comment or `name{labels} number`.
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
        assert!(value.parse::<f64>().is_ok() || value == "+Inf", "{line}");
        assert!(series.starts_with(|c: char| c.is_ascii_alphabetic()), "{line}");
    }
    // The API's port has none.
    assert_ne!(pillion.get("/metrics").await.status, 200);
}

#[tokio::test]
async fn logs_as_json_are_json_lines() {
    let app = app().await;
    let setup = Setup::new().app(&app).resource("topics.yaml", TOPICS);
    let mut pillion = setup.args(["--log-as-json", "--log-level", "debug"]).start().await;
    assert_eq!(pillion.post("/v1.0/publish/pubsub/t", "{}").await.status, 204);
    app.asked_at_least(2).await;
    assert!(pillion.stop().await.success());
    let log = until("the last line", || async {
        Some(pillion.log()).filter(|log| log.contains("shutdown gracefully"))
    })
    .await;
    for line in log.lines() {
        let line: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        for key in ["time", "level", "msg", "app_id", "scope", "type", "ver"] {
            assert!(line[key].is_string(), "no {key} in {line}");
        }
    }
}

#[tokio::test]
async fn a_trace_is_carried_through_every_hop() {
    let app = app().await;
    let pillion = Setup::new().app(&app).resource("topics.yaml", TOPICS).start().await;
    let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    let traced = |method: hyper::Method, path: &str| {
        let request = Request::new(method, path).header("traceparent", &parent);
        request.header("tracestate", "vendor=1").header("content-type", "application/json")
    };
    let same_trace = |text: Option<&str>| {
        let text = text.expect("a traceparent");
        assert!(text.starts_with(&format!("00-{TRACE}-")) && text.ends_with("-01"), "{text}");
        assert_ne!(text, parent, "a hop has a span of its own");
    };

    let path = "/v1.0/invoke/app1/method/called";
    let answer = pillion.send(traced(hyper::Method::POST, path).body("{}")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let path = "/v1.0/publish/pubsub/t";
    let answer = pillion.send(traced(hyper::Method::POST, path).body(r#"{"n":1}"#)).await;
    assert_eq!(answer.status, 204, "{answer:?}");

    let called = asked_for(&app, "/called").await;
    same_trace(called.header("traceparent"));
    assert_eq!(called.header("tracestate"), Some("vendor=1"));
    let delivered = asked_for(&app, "/take").await;
    same_trace(delivered.header("traceparent"));
    let event = delivered.json();
    same_trace(event["traceparent"].as_str());
    assert_eq!(event["tracestate"], "vendor=1", "{event}");
    assert_eq!(event["traceid"], event["traceparent"], "{event}");

    // Without one, every answer begins a trace.
    let answer = pillion.get("/v1.0/metadata").await;
    let begun = answer.header("traceparent").expect("a traceparent");
    assert_eq!(begun.len(), 55, "{begun}");
}
