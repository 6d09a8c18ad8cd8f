//! The MQTT door, judged by clients that nobody here wrote: mosquitto's and paho's.
//!
//! The scripts for paho lie in `tests/paho`; each prints `ok` or what failed.

use pillion_tests::tool::{command, python, words};
use pillion_tests::{App, Desk, Gateway, Tool, certificates, json, tool, until};
use std::net::SocketAddr;
use std::path::Path;

/// 3.1.1 and 5 as mosquitto's clients call them.
const VERSIONS: [&str; 2] = ["mqttv311", "mqttv5"];

/// `mosquitto_pub` to the door.
async fn publish(door: SocketAddr, arguments: &str) -> tool::Output {
    Tool::run(client("mosquitto_pub", door, arguments)).await
}

fn client(program: &str, door: SocketAddr, arguments: &str) -> std::process::Command {
    // Lines come as they are written, not when a buffer is full.
    let mut command = command("stdbuf", ["-oL", program, "-h"]);
    command.arg(door.ip().to_string()).args(["-p", &door.port().to_string()]);
    command.args(words(arguments));
    command
}

/// `mosquitto_sub`, subscribed; messages are lines `= topic qos retain payload`.
async fn subscribe(door: SocketAddr, arguments: &str) -> Tool {
    let mut command = client("mosquitto_sub", door, arguments);
    let tool = Tool::start({
        command.args(["-d", "-F", "= %t %q %r %p"]);
        command
    });
    until("a SUBACK", || async {
        tool.out().iter().any(|line| line.starts_with("Subscribed")).then_some(())
    })
    .await;
    tool
}

/// The messages, once there are so many.
async fn messages(tool: &Tool, count: usize) -> Vec<String> {
    until(&format!("message {count} of {tool:?}"), || async {
        let out = tool.out();
        let found: Vec<_> =
            out.iter().filter_map(|line| line.strip_prefix("= ")).map(str::to_owned).collect();
        Some(found).filter(|found| found.len() >= count)
    })
    .await
}

/// Runs a script of `tests/paho`.
async fn paho(script: &str, door: SocketAddr, arguments: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("paho").join(script);
    let mut python = python(&path);
    python.arg(door.port().to_string()).args(words(arguments));
    let said = Tool::run(python).await.expect_success();
    assert_eq!(said.out.last().map(String::as_str), Some("ok"), "{said:?}");
    said.out
}

#[tokio::test]
async fn every_qos_of_both_versions() {
    let desk = Desk::new();
    let pillion = desk.start().await;
    for version in VERSIONS {
        for qos in 0..=2 {
            let topic = format!("q/{version}/{qos}");
            let taker =
                subscribe(desk.mqtt(), &format!("-V {version} -q {qos} -t {topic} -C 3")).await;
            // One line, one message, over one connection.
            let line = format!("-V {version} -q {qos} -t {topic} -l");
            let giver = client("mosquitto_pub", desk.mqtt(), &line);
            let giver = Tool::start_with(giver, "1\n22\n333\n".into());
            giver.ended().await.expect_success();
            let expected: Vec<_> =
                ["1", "22", "333"].map(|text| format!("{topic} {qos} 0 {text}")).into();
            assert_eq!(messages(&taker, 3).await, expected, "{}", pillion.log());
            taker.ended().await.expect_success();
        }
    }
}

#[tokio::test]
async fn wildcards_reach_what_they_say() {
    let desk = Desk::new();
    let _pillion = desk.start().await;
    let last = "-t end";
    let mut takers = Vec::new();
    for (filter, expected) in [
        ("a/+/c", vec!["a/b/c", "a//c"]),
        ("a/#", vec!["a", "a/b", "a/b/c", "a//c"]),
        ("+", vec!["a"]),
        ("+/+", vec!["a/b", "/b"]),
        ("#", vec!["a", "a/b", "a/b/c", "a//c", "/b"]),
    ] {
        let taker = subscribe(desk.mqtt(), &format!("-q 1 -t {filter} {last}")).await;
        takers.push((filter, expected, taker));
    }
    for topic in ["a", "a/b", "a/b/c", "a//c", "/b", "end"] {
        publish(desk.mqtt(), &format!("-q 1 -t {topic} -m x")).await.expect_success();
    }
    for (filter, mut expected, taker) in takers {
        expected.push("end");
        let expected: Vec<_> = expected.iter().map(|topic| format!("{topic} 1 0 x")).collect();
        let mut got = messages(&taker, expected.len()).await;
        // Overlapping subscriptions may bring a message once for each; ours bring it once.
        got.dedup();
        assert_eq!(got, expected, "{filter}");
    }
}

#[tokio::test]
async fn retained_messages_survive_a_kill() {
    let desk = Desk::new();
    let mut pillion = desk.start().await;
    for (topic, text) in [("r/1", "one"), ("r/2", "two"), ("r/2", "newer"), ("r/3", "three")] {
        publish(desk.mqtt(), &format!("-q 1 -r -t {topic} -m {text}")).await.expect_success();
    }
    // An empty one takes it away.
    publish(desk.mqtt(), "-q 1 -r -n -t r/3").await.expect_success();
    // One that is not retained changes nothing.
    publish(desk.mqtt(), "-q 1 -t r/1 -m passing").await.expect_success();
    for round in ["before", "after a kill", "after an end"] {
        for version in VERSIONS {
            let taker = subscribe(desk.mqtt(), &format!("-V {version} -q 1 -t r/# -t done")).await;
            publish(desk.mqtt(), "-q 1 -t done -m x").await.expect_success();
            let mut got = messages(&taker, 3).await;
            got.sort();
            assert_eq!(got, ["done 1 0 x", "r/1 1 1 one", "r/2 1 1 newer"], "{round} {version}");
        }
        pillion.signal(if round == "before" { libc::SIGKILL } else { libc::SIGTERM });
        pillion.ended().await;
        pillion = desk.start().await;
    }
}

const USERS: &str = "
apiVersion: pillion/v1alpha1
kind: Gateway
metadata: {name: box}
spec:
  mqtt: {listen: '127.0.0.1:$MQTT'}
  metrics: {listen: '127.0.0.1:$METRICS'}
---
apiVersion: pillion/v1alpha1
kind: App
metadata: {name: app}
spec: {listen: {http: '127.0.0.1:$HTTP'}}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: pubsub}
spec: {type: pubsub.embedded, version: v1}
---
apiVersion: pillion/v1alpha1
kind: MqttUser
metadata: {name: joe}
spec:
  passwordHash: HASH
  publish: ['devices/%c/#']
  subscribe: ['commands/%u/+', 'devices/%c/#']
";

#[tokio::test]
async fn users_have_passwords_and_rights() {
    let gateway = Gateway::new();
    // The hash as mosquitto's own tool writes it.
    let file = gateway.dir().join("passwords").display().to_string();
    let written =
        Tool::run(command("mosquitto_passwd", ["-c", "-b", &file, "joe", "secret"])).await;
    written.expect_success();
    let text = std::fs::read_to_string(&file).expect("it was written");
    let hash = text.trim().strip_prefix("joe:").expect("a line of joe");
    let gateway = gateway.resource("all.yaml", &USERS.replace("HASH", hash));
    let pillion = gateway.start().await;
    let door = gateway.mqtt();
    for version in VERSIONS {
        let joe = format!("-V {version} -i d1 -u joe -P secret");
        for (who, why) in [
            (format!("-V {version} -i d1 -u joe -P wrong"), "a wrong password"),
            (format!("-V {version} -i d1 -u joe"), "no password"),
            (format!("-V {version} -i d1 -u eve -P secret"), "an unknown user"),
            (format!("-V {version} -i d1"), "no name"),
        ] {
            let said = publish(door, &format!("{who} -q 1 -t devices/d1/x -m x")).await;
            assert!(!said.status.success(), "{version}: {why} came in: {said:?}");
        }
        let taker = format!(
            "-V {version} -i taker -u joe -P secret -q 1 -t commands/joe/x -t devices/taker/#"
        );
        let taker = subscribe(door, &taker).await;
        publish(door, &format!("{joe} -q 1 -t devices/d1/x -m mine")).await.expect_success();
        // What it may not publish goes nowhere; MQTT 5 says so.
        let said = publish(door, &format!("{joe} -q 1 -t devices/taker/x -m stolen")).await;
        if version == "mqttv5" {
            assert!(format!("{said:?}").contains("Not authorized"), "{said:?}");
        }
        let own = format!("-V {version} -i taker2 -u joe -P secret -q 1 -t devices/taker/x -m no");
        publish(door, &own).await;
        let refused = format!("-V {version} -i d1 -u joe -P secret -q 1 -t devices/# -W 3");
        let refused = Tool::run(client("mosquitto_sub", door, &refused)).await;
        let denied = format!("{refused:?}");
        assert!(denied.contains("denied"), "{denied}");
        // Its own topics still come.
        let post = hyper::Method::POST;
        let path = "/v1.0/publish/pubsub/commands/joe/x?metadata.rawPayload=true";
        let answer = pillion.send(pillion_tests::Request::new(post, path).body("go")).await;
        assert_eq!(answer.status, 204, "{answer:?}");
        assert_eq!(messages(&taker, 1).await, ["commands/joe/x 1 0 go"], "{version}");
    }
}

const TLS: &str = "
apiVersion: pillion/v1alpha1
kind: Gateway
metadata: {name: box}
spec:
  mqtt:
    listen: 'off'
    tls:
      listen: '127.0.0.1:$MQTT'
      certificate: $DIR/server.pem
      key: $DIR/server.key
      clientCa: $DIR/ca.pem
  metrics: {listen: '127.0.0.1:$METRICS'}
---
apiVersion: pillion/v1alpha1
kind: App
metadata: {name: app}
spec: {listen: {http: '127.0.0.1:$HTTP'}}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: pubsub}
spec: {type: pubsub.embedded, version: v1}
---
apiVersion: pillion/v1alpha1
kind: MqttUser
metadata: {name: device-7}
spec: {publish: ['tls/#'], subscribe: ['tls/#']}
";

#[tokio::test]
async fn tls_with_certificates_of_both_sides() {
    let gateway = Gateway::new();
    certificates::write(gateway.dir()).await;
    let dir = gateway.dir().display().to_string();
    let gateway = gateway.resource("all.yaml", TLS);
    let _pillion = gateway.start().await;
    let door = gateway.mqtt();
    let trust = format!("--cafile {dir}/ca.pem");
    let shown = format!("{trust} --cert {dir}/client.pem --key {dir}/client.key");
    for version in VERSIONS {
        let taker = subscribe(door, &format!("-V {version} {shown} -q 1 -t tls/#")).await;
        let giver = format!("-V {version} {shown} -q 1 -t tls/{version} -m secret");
        publish(door, &giver).await.expect_success();
        assert_eq!(messages(&taker, 1).await, [format!("tls/{version} 1 0 secret")]);
        for (why, options) in [
            ("another authority's server", format!("--cafile {dir}/other.pem")),
            ("no certificate", trust.clone()),
            (
                "another authority's client",
                format!("{trust} --cert {dir}/stranger.pem --key {dir}/stranger.key"),
            ),
            ("no TLS", String::new()),
        ] {
            let giver = format!("-V {version} {options} -q 1 -t tls/x -m x");
            let said = publish(door, &giver).await;
            assert!(!said.status.success(), "{version}: {why}: {said:?}");
        }
    }
}

#[tokio::test]
async fn paho_publishes_and_receives() {
    let desk = Desk::new();
    let _pillion = desk.start().await;
    let (four, five) =
        (paho("messages.py", desk.mqtt(), "4"), paho("messages.py", desk.mqtt(), "5"));
    tokio::join!(four, five);
}

#[tokio::test]
async fn paho_leaves_wills() {
    let desk = Desk::new();
    let _pillion = desk.start().await;
    tokio::join!(paho("will.py", desk.mqtt(), "4"), paho("will.py", desk.mqtt(), "5"));
}

#[tokio::test]
async fn a_persistent_session_keeps_what_came_while_it_was_away() {
    const COUNT: usize = 40;
    let desk = Desk::new();
    let mut pillion = desk.start().await;
    for version in ["4", "5"] {
        paho("session.py", desk.mqtt(), &format!("{version} join")).await;
    }
    let lines = |from: usize, to: usize| (from..to).map(|n| format!("{n}\n")).collect::<String>();
    for half in [0, COUNT / 2] {
        let giver = client("mosquitto_pub", desk.mqtt(), "-q 1 -t sleep/on -l");
        let giver = Tool::start_with(giver, lines(half, half + COUNT / 2));
        giver.ended().await.expect_success();
        pillion.signal(libc::SIGKILL);
        pillion.ended().await;
        pillion = desk.start().await;
    }
    let mut expected: Vec<_> = (0..COUNT).map(|n| format!("sleep/on 1 {n}")).collect();
    expected.push("ok".into());
    for version in ["4", "5"] {
        let got = paho("session.py", desk.mqtt(), &format!("{version} collect {COUNT}")).await;
        assert_eq!(got, expected, "version {version}");
        paho("session.py", desk.mqtt(), &format!("{version} leave")).await;
    }
    assert!(pillion.stop().await.success(), "{}", pillion.log());
}

#[tokio::test]
async fn devices_and_apps_share_a_topic_in_one_order() {
    const COUNT: usize = 30;
    let app = App::start(|asked| match asked.path.as_str() {
        "/dapr/subscribe" => {
            json(200, r#"[{"pubsubname":"pubsub","topic":"one/#","route":"/take"}]"#)
        }
        "/take" => json(200, "{}"),
        _ => json(404, "{}"),
    })
    .await;
    let desk = Desk::new().app(&app);
    let mut pillion = desk.start().await;
    pillion.ready("/v1.0/healthz").await;
    let device = subscribe(desk.mqtt(), "-V mqttv5 -q 1 -t one/topic").await;
    // In turn, each after the acknowledgement of the one before.
    let (mut sender, mut receiver) =
        pillion_tests::mqtt::connect(desk.mqtt(), "d", true).await.expect("the door is open");
    for n in 0..COUNT {
        let text = format!(r#"{{"n":{n}}}"#);
        if n % 2 == 0 {
            let id = u16::try_from(n + 1).expect("a small number");
            sender.publish("one/topic", id, text.as_bytes()).await.expect("open");
            receiver.next_of(4).await.expect("a PUBACK");
        } else {
            let path = "/v1.0/publish/pubsub/one/topic";
            let answer = pillion.post(path, text).await;
            assert_eq!(answer.status, 204, "{answer:?}");
        }
    }
    let events = until("every event", || async {
        let events = app.asked().into_iter().filter(|asked| asked.path == "/take");
        let events: Vec<_> = events.map(|asked| asked.json()).collect();
        Some(events).filter(|events| events.len() >= COUNT)
    })
    .await;
    let at_device = messages(&device, COUNT).await;
    let mut ids = std::collections::BTreeSet::new();
    for (n, event) in events.iter().enumerate() {
        assert_eq!(event["data"]["n"], n, "{event}");
        assert_eq!(event["topic"], "one/topic", "{event}");
        assert_eq!(event["specversion"], "1.0", "{event}");
        assert!(ids.insert(event["id"].as_str().expect("an id").to_owned()), "{event}");
        // The device gets its own kind as it was sent, an app's as the envelope.
        let line = &at_device[n];
        let payload = line.strip_prefix("one/topic 1 0 ").unwrap_or_else(|| panic!("{line}"));
        let payload: serde_json::Value = serde_json::from_str(payload).expect("JSON");
        if n % 2 == 0 {
            assert_eq!(payload["n"], n, "{line}");
        } else {
            assert_eq!(&payload, event);
        }
    }
    // Other payloads of devices, as the design says.
    for (options, key, expected) in [
        ("-m plain", "data", "plain"),
        ("-D publish content-type text/x-unit -m 21C", "data", "21C"),
    ] {
        let before = app.asked().len();
        publish(desk.mqtt(), &format!("-V mqttv5 -q 1 -t one/other {options}")).await;
        let asked = app.asked_at_least(before + 1).await;
        let event = asked.last().expect("it arrived").json();
        assert_eq!(event[key], expected, "{event}");
        let of_type = if options.contains("content-type") { "text/x-unit" } else { "text/plain" };
        assert_eq!(event["datacontenttype"], of_type, "{event}");
    }
    let before = app.asked().len();
    sender.publish("one/other", 999, &[0xff, 0xfe]).await.expect("open");
    let asked = app.asked_at_least(before + 1).await;
    assert_eq!(asked.last().expect("it arrived").json()["data_base64"], "//4=");
}
