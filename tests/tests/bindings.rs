//! Goal: bindings do over HTTP what the contract says, in both directions, and lose nothing.
//!
//! Method: the real binary, with an app, servers and brokers that are real too; it is killed, its
//! targets go away and come back, and names and links try to lead out of a folder.

#[path = "bindings/mqtt.rs"]
mod mqtt;
#[path = "bindings/queue.rs"]
mod queue;

use pillion_tests::pillion::free_port;
use pillion_tests::{Answer, App, Asked, Pillion, Request, Setup, Tool, certificates, json};
use pillion_tests::{tool, until};
use serde_json::{Value, json as value};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

/// A component with settings; `more` is further lines of the resource.
fn component(name: &str, type_name: &str, settings: &[(&str, &str)], more: &str) -> String {
    let mut text = format!(
        "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {{name: {name}}}\n\
         spec:\n  type: {type_name}\n  version: v1\n  metadata:\n"
    );
    for (name, value) in settings {
        text += &format!("  - {{name: {name}, value: {}}}\n", Value::from(*value));
    }
    text + more
}

async fn invoke(pillion: &Pillion, name: &str, body: &Value) -> Answer {
    pillion.post(&format!("/v1.0/bindings/{name}"), body.to_string()).await
}

/// A server that answers what the path says: `/status/N`, else `pong`.
async fn server() -> App {
    App::start(|asked| {
        let path = asked.path.split('?').next().unwrap_or_default();
        match path.strip_prefix("/base/status/").and_then(|status| status.parse().ok()) {
            Some(status) => json(status, "said"),
            None if path == "/base/large" => json(200, vec![b'x'; 3000]),
            None => json(200, "pong"),
        }
    })
    .await
}

fn refused(answer: &Answer, name: &str, why: &str) {
    assert_eq!(answer.status, 500, "{answer:?}");
    let body = answer.json();
    assert_eq!(body["errorCode"], "ERR_INVOKE_OUTPUT_BINDING", "{body}");
    let message = body["message"].as_str().unwrap_or_default();
    let expected = format!("error invoking output binding {name}: {why}");
    assert!(message.starts_with(&expected), "{message}\nnot {expected}");
}

#[tokio::test]
async fn every_status_of_an_output_binding() {
    let target = server().await;
    let url = format!("http://127.0.0.1:{}/base", target.port);
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let web = [("url", &*url), ("maxResponseBodySize", "2000")];
    let pillion = Setup::new()
        .resource("web.yaml", &component("web", "bindings.http", &web, ""))
        .resource("away.yaml", &component("away", "bindings.http", &[("url", &nobody)], ""))
        .resource(
            "hidden.yaml",
            &component("hidden", "bindings.http", &[("url", &url)], "scopes: [other]\n"),
        )
        .resource("in.yaml", &component("in", "bindings.cron", &[("schedule", "@daily")], ""))
        .args(["--max-body-size", "1Ki"])
        .start()
        .await;

    // What the target said comes with the answer, and with the failure.
    let answer = invoke(&pillion, "web", &value!({"operation": "get"})).await;
    assert_eq!((answer.status, &*answer.text()), (200, "pong"), "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("metadata.statuscode"), Some("200"));
    assert_eq!(answer.header("metadata.status"), Some("200 OK"));
    let teapot = |check: &str| value!({"operation": "post", "metadata": {"path": "status/418", "errorIfNot2XX": check}});
    let answer = invoke(&pillion, "web", &teapot("true")).await;
    refused(&answer, "web", "received status code 418");
    assert_eq!(answer.header("metadata.statuscode"), Some("418"));
    let answer = invoke(&pillion, "web", &teapot("no")).await;
    assert_eq!((answer.status, &*answer.text()), (200, "said"), "{answer:?}");

    // Requests that are wrong, each in its way.
    let answer = invoke(&pillion, "web", &value!({"data": 1})).await;
    refused(&answer, "web", "operation field is missing from request");
    let answer = invoke(&pillion, "nowhere", &value!({"operation": "get"})).await;
    refused(&answer, "nowhere", "couldn't find output binding nowhere");
    let answer = invoke(&pillion, "hidden", &value!({"operation": "get"})).await;
    refused(&answer, "hidden", "couldn't find output binding hidden");
    let answer = invoke(&pillion, "in", &value!({"operation": "get"})).await;
    refused(&answer, "in", "couldn't find output binding in");
    let answer = invoke(&pillion, "web", &value!({"operation": "GET"})).await;
    let why = "binding web does not support operation GET. supported operations:create get head";
    refused(&answer, "web", why);
    for body in ["", "{", "[1]", "\"get\"", r#"{"operation": 5}"#, r#"{"metadata": {"a": 1}}"#] {
        let answer = pillion.post("/v1.0/bindings/web", body).await;
        assert_eq!(answer.status, 400, "{body}: {answer:?}");
        assert_eq!(answer.json()["errorCode"], "ERR_MALFORMED_REQUEST", "{body}");
    }
    let large = value!({"operation": "post", "data": "x".repeat(2000)});
    let answer = invoke(&pillion, "web", &large).await;
    assert_eq!((answer.status, &answer.json()["errorCode"]), (400, &"ERR_BODY_READ".into()));
    let request = Request::new(hyper::Method::POST, "/v1.0/bindings/web");
    let request = request.header("baggage", "broken").body(r#"{"operation":"get"}"#);
    assert_eq!(pillion.send(request).await.status, 400);
    let asked = target.asked().len();
    assert_eq!(asked, 3, "no wrong request has reached the target");

    // Targets that cannot be had.
    let answer = invoke(&pillion, "away", &value!({"operation": "get"})).await;
    refused(&answer, "away", "127.0.0.1:");
    let asked = value!({"operation": "get", "metadata": {"path": "/large"}});
    let answer = invoke(&pillion, "web", &asked).await;
    refused(&answer, "web", "the answer is larger than 2000 bytes");
    let asked = value!({"operation": "get", "metadata": {"path": "/a b"}});
    refused(&invoke(&pillion, "web", &asked).await, "web", "the path cannot be sent");

    let answer = pillion.put("/v1.0/bindings/web", r#"{"OPERATION":"get"}"#).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(pillion.get("/v1.0/bindings/web").await.status, 404);

    let metadata = pillion.get("/v1.0/metadata").await.json();
    let shown: BTreeMap<&str, &Value> = metadata["components"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|one| Some((one["name"].as_str()?, &one["capabilities"])))
        .collect();
    assert_eq!(shown["web"], &value!(["OUTPUT_BINDING"]));
    assert_eq!(shown["in"], &value!(["INPUT_BINDING"]));
    assert!(!shown.contains_key("hidden"), "{metadata}");

    let metrics = pillion.metrics().await;
    let labels = |operation, success| {
        format!(
            "dapr_component_output_binding_count{{app_id=\"app1\",component=\"web\",\
             namespace=\"default\",operation=\"{operation}\",success=\"{success}\"}}"
        )
    };
    for (operation, success, count) in
        [("get", true, 2), ("get", false, 2), ("post", true, 1), ("post", false, 1)]
    {
        let line = format!("{} {count}\n", labels(operation, success));
        assert!(metrics.contains(&line), "no {line} in\n{metrics}");
    }
    assert!(metrics.contains("dapr_component_output_binding_latencies_bucket"));
}

#[tokio::test]
async fn every_method_reaches_the_server_as_it_is() {
    let target = server().await;
    let url = format!("http://127.0.0.1:{}/base/", target.port);
    let settings = [("url", &*url), ("securityToken", "s3"), ("securityTokenHeader", "X-Key")];
    let web = component("web", "bindings.http", &settings, "");
    let pillion = Setup::new().resource("web.yaml", &web).start().await;
    for (index, (operation, method, body)) in [
        ("create", "POST", "{\"a\":1}"),
        ("get", "GET", ""),
        ("head", "HEAD", ""),
        ("post", "POST", "{\"a\":1}"),
        ("put", "PUT", "{\"a\":1}"),
        ("patch", "PATCH", "{\"a\":1}"),
        ("delete", "DELETE", ""),
        ("options", "OPTIONS", ""),
        ("trace", "TRACE", ""),
    ]
    .into_iter()
    .enumerate()
    {
        let metadata = value!({
            "path": "/p?q=1", "X-Own": "v", "lower": "no", "Host": "evil", "Content-Length": "99",
        });
        let asked = value!({"operation": operation, "data": {"a": 1}, "metadata": metadata});
        let answer = invoke(&pillion, "web", &asked).await;
        assert_eq!(answer.status, 200, "{operation}: {answer:?}");
        let seen = target.asked_at_least(index + 1).await;
        let seen = seen.last().unwrap_or_else(|| panic!("{operation}"));
        assert_eq!((seen.method.as_str(), &*seen.path), (method, "/base/p?q=1"), "{seen:?}");
        assert_eq!(seen.body, body, "{operation}");
        assert_eq!(seen.header("x-own"), Some("v"));
        assert_eq!(seen.header("x-key"), Some("s3"));
        assert_eq!(seen.header("lower"), None);
        assert_eq!(seen.header("host"), Some(&*format!("127.0.0.1:{}", target.port)));
        let parent = seen.header("traceparent").unwrap_or_default();
        let told = answer.header("traceparent").unwrap_or_default();
        assert_eq!(parent.get(..35), told.get(..35), "one trace");
    }
}

#[tokio::test]
async fn a_server_with_a_certificate_of_its_own_authority() {
    let setup = Setup::new();
    certificates::write(setup.dir()).await;
    let file = |name: &str| setup.dir().join(name).display().to_string();
    let port = free_port();
    let (port_text, ca) = (port.to_string(), file("ca.pem"));
    // Shows what it knows of the client to whoever asks with GET, clients that `ca` signed only.
    let arguments =
        ["s_server", "-accept", &port_text, "-www", "-Verify", "2", "-verify_return_error"];
    let mut command = tool::command("openssl", arguments);
    command.args(["-cert", &file("server.pem"), "-key", &file("server.key"), "-CAfile", &ca]);
    let _server = Tool::start(command);
    until("the server's port", || async {
        tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()
    })
    .await;
    let url = format!("https://localhost:{port}");
    let with = |client: &str| {
        let (certificate, key) = (file(&format!("{client}.pem")), file(&format!("{client}.key")));
        [
            ("url", url.clone()),
            ("MTLSRootCA", ca.clone()),
            ("MTLSClientCert", certificate),
            ("MTLSClientKey", key),
        ]
    };
    let text = |name: &str, settings: &[(&str, String)]| {
        let settings: Vec<_> = settings.iter().map(|(n, v)| (*n, v.as_str())).collect();
        component(name, "bindings.http", &settings, "")
    };
    let (good, stranger) = (text("good", &with("client")), text("stranger", &with("stranger")));
    let web = text("web", &[("url", url.clone())]);
    let pillion = setup
        .resource("good.yaml", &good)
        .resource("stranger.yaml", &stranger)
        .resource("web.yaml", &web)
        .start()
        .await;
    let answer = invoke(&pillion, "good", &value!({"operation": "get"})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.text().contains("device-7"), "{answer:?}");
    for name in ["stranger", "web"] {
        let answer = invoke(&pillion, name, &value!({"operation": "get"})).await;
        refused(&answer, name, "");
    }
}

/// Requests to a path.
fn to<'a>(asked: &'a [Asked], method: &str, path: &str) -> Vec<&'a Asked> {
    asked.iter().filter(|one| one.method.as_str() == method && one.path == path).collect()
}

#[tokio::test]
async fn cron_ticks_for_those_who_want_it() {
    let app = App::start(|asked| match (asked.method.as_str(), asked.path.as_str()) {
        ("OPTIONS", "/every" | "/deep/path") => json(200, ""),
        ("OPTIONS", "/fields") => json(405, ""),
        ("POST", "/fields") => json(503, ""),
        ("POST", "/every" | "/deep/path" | "/certain") => json(200, "{}"),
        _ => json(404, ""),
    })
    .await;
    let cron = |name: &str, settings: &[(&str, &str)], more: &str| {
        component(name, "bindings.cron", settings, more)
    };
    let every = ("schedule", "@every 1s");
    let pillion = Setup::new()
        .app(&app)
        .resource("every.yaml", &cron("every", &[every], ""))
        .resource("fields.yaml", &cron("fields", &[("schedule", "* * * * * *")], ""))
        .resource("routed.yaml", &cron("routed", &[every, ("route", "/deep/path")], ""))
        .resource("unwanted.yaml", &cron("unwanted", &[every], ""))
        .resource("certain.yaml", &cron("certain", &[every, ("direction", "input")], ""))
        .resource("hidden.yaml", &cron("hidden", &[every], "scopes: [other]\n"))
        .start()
        .await;
    let asked = until("two ticks of each", || async {
        let asked = app.asked();
        let ticked = |path: &str| to(&asked, "POST", path).len() >= 2;
        let all = ["/every", "/fields", "/deep/path", "/certain"].into_iter().all(ticked);
        all.then_some(asked)
    })
    .await;
    let tick = to(&asked, "POST", "/every")[0];
    assert!(tick.body.is_empty(), "{tick:?}");
    assert_eq!(tick.header("content-type"), Some("application/json"));
    assert_eq!(tick.header("timezone"), Some("Local"));
    let time = tick.header("readtimeutc").unwrap_or_default();
    assert!(time.starts_with("20") && time.ends_with(" +0000 UTC"), "{time}");
    assert!(tick.header("traceparent").is_some(), "{tick:?}");
    assert_eq!(to(&asked, "OPTIONS", "/unwanted").len(), 1);
    for path in ["/unwanted", "/routed", "/hidden"] {
        assert!(to(&asked, "POST", path).is_empty(), "{path}");
    }
    for path in ["/certain", "/hidden"] {
        assert!(to(&asked, "OPTIONS", path).is_empty(), "{path}: not asked");
    }
    let metrics = pillion.metrics().await;
    for (name, success) in [("every", "true"), ("fields", "false")] {
        let series = format!(
            "dapr_component_input_binding_count{{app_id=\"app1\",component=\"{name}\",\
             namespace=\"default\",success=\"{success}\"}}"
        );
        assert!(metrics.contains(&series), "no {series} in\n{metrics}");
    }
    assert!(metrics.contains("dapr_component_input_binding_latencies_count"));
}

#[tokio::test]
async fn nothing_is_delivered_before_the_app_is_ready_and_while_it_is_not_healthy() {
    let port = free_port();
    let (name, kind) = ("tick", "bindings.cron");
    let text = component(name, kind, &[("schedule", "@every 1s"), ("direction", "input")], "");
    let probed = component("asked", kind, &[("schedule", "@every 1s")], "");
    let port_text = port.to_string();
    let mut pillion = Setup::new()
        .resource("tick.yaml", &text)
        .resource("asked.yaml", &probed)
        .args(["--app-port", &port_text, "--enable-app-health-check"])
        .args(["--app-health-probe-interval", "1", "--app-health-threshold", "1"])
        .spawn();
    pillion.ready("/v1.0/healthz/outbound").await;
    let status = Arc::new(AtomicU16::new(503));
    let told = status.clone();
    let app = App::start_at(port, move |asked| match asked.path.as_str() {
        "/healthz" => json(told.load(Ordering::Relaxed), ""),
        _ => json(200, ""),
    })
    .await;
    // Two failing probes, a second apart: time for a tick that must not come.
    until("two probes", || async {
        (to(&app.asked(), "GET", "/healthz").len() >= 2).then_some(())
    })
    .await;
    assert!(app.asked().iter().all(|asked| asked.path == "/healthz"), "{:?}", app.asked());

    status.store(200, Ordering::Relaxed);
    let ticks = || to(&app.asked(), "POST", "/tick").len();
    let probes = || to(&app.asked(), "OPTIONS", "/asked").len();
    until("a tick", || async { (ticks() > 0 && probes() == 1).then_some(()) }).await;

    status.store(503, Ordering::Relaxed);
    until("the pause", || async {
        pillion.log().contains("events of bindings pause").then_some(())
    })
    .await;
    let (before, checks) = (ticks(), to(&app.asked(), "GET", "/healthz").len());
    until("two more probes", || async {
        (to(&app.asked(), "GET", "/healthz").len() >= checks + 2).then_some(())
    })
    .await;
    assert_eq!(ticks(), before);

    status.store(200, Ordering::Relaxed);
    until("ticks again", || async { (ticks() > before && probes() == 2).then_some(()) }).await;
}

#[tokio::test]
async fn files_are_made_read_listed_and_removed_below_the_root_only() {
    use std::os::unix::fs::symlink;
    let setup = Setup::new();
    let (root, outside) = (setup.dir().join("root"), setup.dir().join("outside"));
    std::fs::create_dir(&outside).expect("a writable directory");
    std::fs::write(outside.join("secret"), "secret").expect("a writable directory");
    let root_text = root.display().to_string();
    let disk = component("disk", "bindings.localstorage", &[("rootPath", &root_text)], "");
    let pillion = setup.resource("disk.yaml", &disk).start().await;
    let ask = |operation: &str, name: &str, data: Value| {
        let asked = value!({"operation": operation, "data": data, "metadata": {"fileName": name}});
        let pillion = &pillion;
        async move { invoke(pillion, "disk", &asked).await }
    };
    let made = ask("create", "a/b.txt", "hello".into()).await;
    assert_eq!((made.status, made.json()), (200, value!({"fileName": "a/b.txt"})));
    assert_eq!(std::fs::read_to_string(root.join("a/b.txt")).expect("a file"), "hello");
    assert_eq!(ask("create", "b64", "aGVsbG8gdGhlcmU=".into()).await.status, 200);
    assert_eq!(ask("get", "b64", Value::Null).await.text(), "hello there");
    assert_eq!(ask("create", "o.json", value!({"n": 1.5})).await.status, 200);
    assert_eq!(ask("get", "/o.json", Value::Null).await.text(), r#"{"n":1.5}"#);
    assert_eq!(ask("create", "o.json", "again".into()).await.status, 200);
    assert_eq!(ask("get", "o.json", Value::Null).await.text(), "again");
    let named = invoke(&pillion, "disk", &value!({"operation": "create", "data": "x"})).await;
    let name = named.json()["fileName"].as_str().expect("a name").to_owned();
    assert_eq!(ask("get", &name, Value::Null).await.text(), "x");
    let listed = ask("list", ".", Value::Null).await.json();
    let mut expected: Vec<String> =
        ["a/b.txt", "b64", "o.json", &name].map(|file| format!("{root_text}/{file}")).into();
    expected.sort();
    let mut listed: Vec<String> = serde_json::from_value(listed).expect("a list");
    listed.sort();
    assert_eq!(listed, expected);
    assert_eq!(
        ask("list", "a", Value::Null).await.json(),
        value!([format!("{root_text}/a/b.txt")])
    );
    assert_eq!(ask("delete", "b64", Value::Null).await.status, 204);
    refused(&ask("delete", "b64", Value::Null).await, "disk", "file not found: ");
    refused(
        &invoke(&pillion, "disk", &value!({"operation": "get"})).await,
        "disk",
        "missing metadata",
    );

    symlink(&outside, root.join("folder")).expect("a link");
    symlink(outside.join("secret"), root.join("file")).expect("a link");
    for name in [
        "../outside/secret",
        "../../../../../../etc/passwd",
        "/etc/passwd",
        "a/../../outside/secret",
        "folder/secret",
        "file",
        "a\u{0}b",
    ] {
        for operation in ["get", "list", "delete"] {
            let answer = ask(operation, name, Value::Null).await;
            // A link itself may be removed; what it leads to stays.
            let is_link = operation == "delete" && name == "file";
            assert!(answer.status == 500 || is_link, "{operation} {name}: {answer:?}");
            assert!(!answer.text().contains("root:"), "{answer:?}");
        }
    }
    refused(&ask("create", "folder/new", "x".into()).await, "disk", "");
    let left: Vec<_> = std::fs::read_dir(&outside).expect("a folder").flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(std::fs::read_to_string(outside.join("secret")).expect("a file"), "secret");
}
