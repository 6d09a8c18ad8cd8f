//! Configuration and locks as an app meets them: every status and error of the contract (§0.2,
//! §7.2, §7.3), and what holds when the process is killed.
//!
//! Method: the real binary with `configuration.embedded` and `lock.embedded`; items arrive over a
//! topic, from an MQTT client that was acknowledged, from an app or over a link from a mosquitto.
//! `PILLION_SEED` repeats a run, `PILLION_CONFIGURATION_ROUNDS` sets the number of kills.

#![allow(clippy::print_stdout, reason = "what a run met is worth a line")]

use pillion_tests::mosquitto::Mosquitto;
use pillion_tests::pillion::free_port;
use pillion_tests::random::Random;
use pillion_tests::{Answer, App, Desk, Pillion, Request, Setup, json, mqtt, until};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// Stores that both apps of a process would see; topics `config/…` of the default pub/sub feed one.
const STORES: &str = "
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: cfg}
spec:
  type: configuration.embedded
  version: v1
  metadata:
  - {name: pubsubName, value: pubsub}
  - {name: topic, value: config}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: lock}
spec: {type: lock.embedded, version: v1}
";

/// The same without anything on disk, for daprd's form.
fn stores_in_memory() -> String {
    format!(
        "{}---\napiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {{name: pubsub}}\n\
         spec: {{type: pubsub.in-memory, version: v1}}\n",
        STORES.replace(".embedded", ".in-memory")
    )
}

async fn app(status: u16) -> App {
    App::start(move |asked| {
        let is_update = asked.path.starts_with("/configuration/");
        json(if is_update { status } else { 404 }, "")
    })
    .await
}

/// The updates among what an app was asked: path and body.
fn updates(app: &App) -> Vec<(String, Value)> {
    let asked = app.asked();
    let updates = asked.iter().filter(|asked| asked.path.starts_with("/configuration/"));
    updates.map(|asked| (asked.path.clone(), asked.json())).collect()
}

async fn updates_at_least(app: &App, count: usize) -> Vec<(String, Value)> {
    until(&format!("update {count} to the app"), || async {
        Some(updates(app)).filter(|updates| updates.len() >= count)
    })
    .await
}

async fn publish(pillion: &Pillion, key: &str, value: &str) {
    let path = format!("/v1.0/publish/pubsub/config/{key}?metadata.rawPayload=true");
    let answer = pillion.post(&path, value.to_owned()).await;
    assert_eq!(answer.status, 204, "{answer:?}\n{}", pillion.log());
}

async fn items(pillion: &Pillion, query: &str) -> Value {
    let answer = pillion.get(&format!("/v1.0/configuration/cfg{query}")).await;
    match answer.status {
        200 => answer.json(),
        204 => json!({}),
        _ => panic!("{answer:?}\n{}", pillion.log()),
    }
}

/// Waits until a key has this value; gives its version.
async fn becomes(pillion: &Pillion, key: &str, value: &str) -> u64 {
    until(&format!("{key}={value}\n{}", pillion.log()), || async {
        let item = &items(pillion, &format!("?key={key}")).await[key];
        let version = item["version"].as_str().and_then(|version| version.parse().ok());
        version.filter(|_| item["value"] == value)
    })
    .await
}

async fn subscribe(pillion: &Pillion, query: &str) -> String {
    let answer = pillion.get(&format!("/v1.0/configuration/cfg/subscribe{query}")).await;
    assert_eq!(answer.status, 200, "{answer:?}\n{}", pillion.log());
    answer.json()["id"].as_str().expect("an id").to_owned()
}

async fn unsubscribe(pillion: &Pillion, id: &str) -> Answer {
    pillion.get(&format!("/v1.0/configuration/cfg/{id}/unsubscribe")).await
}

fn is_error(answer: &Answer, status: u16, code: &str, message: &str) {
    let body = answer.json();
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/json"), "{answer:?}");
    assert_eq!((&body["errorCode"], &body["message"]), (&json!(code), &json!(message)));
}

async fn lock(pillion: &Pillion, resource: &str, owner: &str, seconds: u32) -> bool {
    let body = json!({"resourceId": resource, "lockOwner": owner, "expiryInSeconds": seconds});
    let answer = pillion.post("/v1.0-alpha1/lock/lock", body.to_string()).await;
    assert_eq!(answer.status, 200, "{answer:?}\n{}", pillion.log());
    answer.json()["success"].as_bool().expect("a truth value")
}

async fn unlock(pillion: &Pillion, resource: &str, owner: &str) -> u64 {
    let body = json!({"resourceId": resource, "lockOwner": owner});
    let answer = pillion.post("/v1.0-alpha1/unlock/lock", body.to_string()).await;
    assert_eq!(answer.status, 200, "{answer:?}\n{}", pillion.log());
    answer.json()["status"].as_u64().expect("a number")
}

#[tokio::test]
async fn what_is_wrong_with_configuration_is_told() {
    let without = Setup::new().start().await;
    const NONE: &str = "configuration stores not configured";
    for path in ["cfg", "cfg/subscribe", "cfg/x/unsubscribe"] {
        let answer = without.get(&format!("/v1.0/configuration/{path}")).await;
        is_error(&answer, 500, "ERR_CONFIGURATION_STORE_NOT_CONFIGURED", NONE);
    }
    // Scoped to another app, as well as there is none at all.
    let elsewhere = stores_in_memory().replace("spec:", "scopes: [other]\nspec:");
    let scoped = Setup::new().resource("r.yaml", &elsewhere).start().await;
    let answer = scoped.get("/v1.0/configuration/cfg").await;
    is_error(&answer, 500, "ERR_CONFIGURATION_STORE_NOT_CONFIGURED", NONE);

    let pillion = Setup::new().resource("r.yaml", &stores_in_memory()).start().await;
    for path in ["zz?key=a", "zz/subscribe", "zz/x/unsubscribe", "lock", "z+z%2F"] {
        let store = path.split(['/', '?']).next().unwrap_or_default();
        let store = store.replace('+', " ").replace("%2F", "/");
        let answer = pillion.get(&format!("/v1.0/configuration/{path}")).await;
        let message = format!("configuration store {store} not found");
        is_error(&answer, 400, "ERR_CONFIGURATION_STORE_NOT_FOUND", &message);
    }
    for version in ["v1.0", "v1.0-alpha1"] {
        let answer = pillion.get(&format!("/{version}/configuration/cfg/subscribe?key=a")).await;
        let message = "app channel is not initialized. cannot subscribe to configuration updates";
        is_error(&answer, 500, "ERR_APP_CHANNEL_NIL", message);
        let answer = pillion.get(&format!("/{version}/configuration/cfg/zzz/unsubscribe")).await;
        assert_eq!(answer.status, 500);
        let message = "failed to unsubscribe to configuration request zzz: subscription with id \
                       zzz does not exist";
        assert_eq!(answer.json(), json!({ "message": message }));
        for query in ["", "?key=", "?key=none&metadata.x=y", &format!("?key={}", "k".repeat(600))] {
            let answer = pillion.get(&format!("/{version}/configuration/cfg{query}")).await;
            assert_eq!((answer.status, answer.body.len()), (204, 0), "{query}: {answer:?}");
        }
    }
    // What is no route is invocation without an app id.
    for (method, path) in [
        ("POST", "/v1.0/configuration/cfg"),
        ("GET", "/v1.0-alpha2/configuration/cfg"),
        ("GET", "/v1.0/configuration/cfg/x"),
        ("GET", "/v1.0/lock/lock"),
        ("POST", "/v1.0/lock/lock"),
        ("PUT", "/v1.0-alpha1/unlock/lock"),
    ] {
        let request = Request::new(method.parse().expect("a method"), path);
        let answer = pillion.send(request).await;
        let code = &answer.json()["errorCode"];
        assert_eq!((answer.status, code), (404, &json!("ERR_DIRECT_INVOKE")), "{method} {path}");
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_lock_is_told() {
    const LOCK: &str = "/v1.0-alpha1/lock";
    const UNLOCK: &str = "/v1.0-alpha1/unlock";
    let whole = |resource: &str, owner: &str, expiry: Value| {
        json!({"resourceId": resource, "lockOwner": owner, "expiryInSeconds": expiry}).to_string()
    };
    let good = whole("r", "o", json!(30));
    let without = Setup::new().start().await;
    for verb in [LOCK, UNLOCK] {
        let answer = without.post(&format!("{verb}/lock"), good.clone()).await;
        is_error(&answer, 500, "ERR_LOCK_STORE_NOT_CONFIGURED", "lock store is not configured");
    }

    let pillion = Setup::new().resource("r.yaml", &stores_in_memory()).start().await;
    const MALFORMED: &str = "ERR_MALFORMED_REQUEST";
    let no_resource = "ResourceId is empty in lock store lock";
    let no_owner = "LockOwner is empty in lock store lock";
    let no_expiry = "ExpiryInSeconds is not positive in lock store lock";
    for (verb, body, message) in [
        (LOCK, whole("", "o", json!(30)), no_resource),
        (LOCK, whole("r", "", json!(30)), no_owner),
        (LOCK, whole("", "", json!(30)), no_resource),
        (LOCK, whole("r", "o", json!(0)), no_expiry),
        (LOCK, whole("r", "o", json!(-1)), no_expiry),
        (LOCK, whole("", "", json!(null)), no_expiry),
        (LOCK, String::new(), no_expiry),
        (UNLOCK, whole("", "o", json!(null)), no_resource),
        (UNLOCK, whole("r", "", json!(null)), no_owner),
        (UNLOCK, "{}".to_owned(), no_resource),
        (UNLOCK, String::new(), no_resource),
    ] {
        let answer = pillion.post(&format!("{verb}/lock"), body.clone()).await;
        is_error(&answer, 400, MALFORMED, message);
    }
    for (verb, body) in [
        (LOCK, "{"),
        (LOCK, "[]"),
        (LOCK, r#"["r","o",30]"#),
        (LOCK, r#"{"resourceId":1}"#),
        (LOCK, r#"{"resourceId":"r","lockOwner":"o","expiryInSeconds":1.5}"#),
        (UNLOCK, "nonsense"),
    ] {
        let answer = pillion.post(&format!("{verb}/lock"), body).await;
        assert_eq!((answer.status, &answer.json()["errorCode"]), (400, &json!(MALFORMED)));
        let message = answer.json()["message"].as_str().unwrap_or_default().to_owned();
        assert!(message.starts_with("failed deserializing HTTP body: "), "{message}");
    }
    for verb in [LOCK, UNLOCK] {
        let answer = pillion.post(&format!("{verb}/zz"), good.clone()).await;
        is_error(&answer, 400, "ERR_LOCK_STORE_NOT_FOUND", "lock store zz not found");
    }
    let illegal = "input key/keyPrefix 'a||b' can't contain '||'";
    let answer = pillion.post(&format!("{LOCK}/lock"), whole("a||b", "o", json!(1))).await;
    is_error(&answer, 500, "ERR_TRY_LOCK", &format!("failed to try acquiring lock: {illegal}"));
    let answer = pillion.post(&format!("{UNLOCK}/lock"), whole("a||b", "o", json!(1))).await;
    is_error(&answer, 500, "ERR_UNLOCK", &format!("failed to release lock: {illegal}"));
    let long = "x".repeat(2000);
    let answer = pillion.post(&format!("{LOCK}/lock"), whole("r", &long, json!(1))).await;
    let text = "a lock's owner of 2000 bytes: 1 to 1024 are allowed";
    is_error(&answer, 413, "ERR_TRY_LOCK", &format!("failed to try acquiring lock: {text}"));
}

/// The forms that protobuf has in JSON, and the four answers.
#[tokio::test]
async fn a_lock_is_taken_and_given_back() {
    let pillion = Setup::new().resource("r.yaml", &stores_in_memory()).start().await;
    let snake = r#"{"resource_id":"r","lock_owner":"o","expiry_in_seconds":"30","storeName":"x"}"#;
    let answer = pillion.post("/v1.0-alpha1/lock/lock", snake).await;
    assert_eq!((answer.status, answer.text().trim()), (200, r#"{"success":true}"#));
    let answer = pillion.post("/v1.0-alpha1/lock/lock", snake).await;
    assert_eq!((answer.status, answer.text().trim()), (200, r#"{"success":false}"#));
    assert_eq!(unlock(&pillion, "r", "p").await, 2);
    let answer = pillion.post("/v1.0-alpha1/unlock/lock", snake).await;
    assert_eq!((answer.status, answer.text().trim()), (200, r#"{"status":0}"#));
    assert_eq!(unlock(&pillion, "r", "o").await, 1);

    assert!(lock(&pillion, "short", "o", 1).await);
    let begun = Instant::now();
    until("the end of a lock", || async { lock(&pillion, "short", "p", 30).await.then_some(()) })
        .await;
    assert!(begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());
    assert_eq!(unlock(&pillion, "short", "o").await, 2);
}

/// Two apps of one process: each has locks of its own, unless the prefix is a common one.
#[tokio::test]
async fn apps_share_locks_where_the_prefix_says_so() {
    let two = free_port();
    let store = |name: &str, prefix: &str| {
        format!(
            "---\napiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {{name: {name}}}\nspec:\n  \
             type: lock.in-memory\n  version: v1\n  metadata:\n  - {{name: keyPrefix, value: \
             '{prefix}'}}\n"
        )
    };
    let resources = format!(
        "apiVersion: pillion/v1alpha1\nkind: App\nmetadata: {{name: one}}\nspec: {{listen: {{http: \
         '127.0.0.1:$HTTP'}}}}\n---\napiVersion: pillion/v1alpha1\nkind: App\nmetadata: {{name: \
         two}}\nspec: {{listen: {{http: '127.0.0.1:{two}'}}}}\n{}{}{}{}",
        store("appid", "appid"),
        store("byname", "NAME"),
        store("none", "none"),
        store("text", "common"),
    );
    let pillion = pillion_tests::Gateway::new().resource("r.yaml", &resources).start().await;
    let body = r#"{"resourceId":"r","lockOwner":"o","expiryInSeconds":30}"#;
    for (name, apart) in [("appid", true), ("byname", false), ("none", false), ("text", false)] {
        let path = format!("/v1.0-alpha1/lock/{name}");
        let mut got = Vec::new();
        for port in [pillion.port, two] {
            let request = Request::new(hyper::Method::POST, &path).body(body);
            let answer = request.send(port).await.expect("an answer");
            got.push(answer.json()["success"].as_bool());
        }
        assert_eq!(got, [Some(true), Some(apart)], "{name}");
    }
}

#[tokio::test]
async fn an_app_is_told_what_it_has_subscribed_to() {
    let app = app(200).await;
    let setup = Setup::new().resource("r.yaml", &stores_in_memory()).app(&app);
    let pillion = setup.start().await;
    publish(&pillion, "before", "1").await;
    becomes(&pillion, "before", "1").await;
    let some = subscribe(&pillion, "?key=a&key=b").await;
    publish(&pillion, "a", "1").await;
    publish(&pillion, "other", "1").await;
    publish(&pillion, "b", "2").await;
    let told = updates_at_least(&app, 2).await;
    let expected = |id: &str, key: &str, value: &str, body: &Value| {
        assert_eq!(body["id"], id);
        assert_eq!(body["items"][key]["value"], value);
        assert!(body["items"][key]["version"].as_str().is_some_and(|text| !text.is_empty()));
        assert_eq!(body["items"].as_object().map(serde_json::Map::len), Some(1));
    };
    assert_eq!(told[0].0, "/configuration/cfg/a");
    expected(&some, "a", "1", &told[0].1);
    assert_eq!(told[1].0, "/configuration/cfg/b");
    expected(&some, "b", "2", &told[1].1);

    // A deleted key is told as an empty item, and is not there any more.
    publish(&pillion, "a", "").await;
    let told = updates_at_least(&app, 3).await;
    assert_eq!(told[2].1, json!({"id": some, "items": {"a": {}}}));
    assert_eq!(items(&pillion, "?key=a").await, json!({}));

    // An event of an app stands for its data; odd keys find their way.
    let answer = pillion.post("/v1.0/publish/pubsub/config/a", r#"{"n": 2.50}"#).await;
    assert_eq!(answer.status, 204);
    let told = updates_at_least(&app, 4).await;
    expected(&some, "a", r#"{"n": 2.50}"#, &told[3].1);
    assert_eq!(unsubscribe(&pillion, &some).await.json(), json!({"ok": true}));
    assert_eq!(unsubscribe(&pillion, &some).await.status, 500);
    let all = subscribe(&pillion, "").await;
    publish(&pillion, "deep/odd%20key", "x").await;
    let told = updates_at_least(&app, 5).await;
    assert_eq!(told[4].0, "/configuration/cfg/deep/odd%20key");
    expected(&all, "deep/odd key", "x", &told[4].1);
    // Writing the same again is no change; one after it shows that nothing came between.
    publish(&pillion, "deep/odd%20key", "x").await;
    publish(&pillion, "last", "1").await;
    let told = updates_at_least(&app, 6).await;
    assert_eq!((told.len(), told[5].0.as_str()), (6, "/configuration/cfg/last"));

    let metrics = pillion.metrics().await;
    let has = |line: &str| assert!(metrics.contains(line), "{line}\n{metrics}");
    let labels = |operation: &str, success: bool| {
        format!(
            "{{app_id=\"app1\",component=\"cfg\",namespace=\"default\",operation=\"{operation}\",\
             success=\"{success}\"}}"
        )
    };
    has(&format!("dapr_component_configuration_count{} 2\n", labels("subscribe", true)));
    has(&format!("dapr_component_configuration_count{} 1\n", labels("unsubscribe", true)));
    has(&format!("dapr_component_configuration_count{} 1\n", labels("unsubscribe", false)));
    has("dapr_component_configuration_latencies_bucket{app_id=\"app1\",component=\"cfg\"");
    has("pillion_configuration_fed_total{component=\"cfg\",outcome=\"unchanged\"} 1\n");
    let metadata = pillion.get("/v1.0/metadata").await.json();
    let components = metadata["components"].as_array().expect("components");
    let cfg = json!({"name": "cfg", "type": "configuration.in-memory", "version": "v1"});
    assert!(components.contains(&cfg), "{components:?}");
}

/// An answer is an answer; an app that is not there is told when it is back, of the last value.
#[tokio::test]
async fn an_app_that_is_away_is_told_the_last_value_when_it_is_back() {
    let first = app(500).await;
    let port = first.port;
    let setup = Setup::new().resource("r.yaml", &stores_in_memory()).app(&first);
    let pillion = setup.start().await;
    let id = subscribe(&pillion, "?key=a").await;
    for value in ["1", "2"] {
        publish(&pillion, "a", value).await;
        becomes(&pillion, "a", value).await;
        let count = if value == "1" { 1 } else { 2 };
        let told = updates_at_least(&first, count).await;
        assert_eq!((told.len(), &told[count - 1].1["items"]["a"]["value"]), (count, &json!(value)));
    }
    until("the complaint", || async {
        let log = pillion.log();
        log.contains("error sending configuration item to application, status 500").then_some(())
    })
    .await;
    drop(first);
    for number in 3..20 {
        publish(&pillion, "a", &number.to_string()).await;
        becomes(&pillion, "a", &number.to_string()).await;
    }
    let back = App::start_at(port, |_| json(200, "")).await;
    let told = until("the last value", || async {
        let told = updates(&back);
        told.last().is_some_and(|(_, body)| body["items"]["a"]["value"] == "19").then_some(told)
    })
    .await;
    // The one on its way when the app went, and the last.
    assert!(told.len() <= 2, "{told:?}");
    assert!(told.iter().all(|(_, body)| body["id"] == *id), "{told:?}");
}

#[tokio::test]
async fn the_oldest_of_too_many_subscriptions_ends() {
    let app = app(200).await;
    let setup = Setup::new().resource("r.yaml", &stores_in_memory()).app(&app);
    let pillion = setup.start().await;
    let mut ids = Vec::new();
    for _ in 0..66 {
        ids.push(subscribe(&pillion, "?key=a").await);
    }
    publish(&pillion, "a", "1").await;
    let told = updates_at_least(&app, 64).await;
    let mut told: Vec<_> = told.iter().filter_map(|(_, body)| body["id"].as_str()).collect();
    told.sort_unstable();
    let mut expected: Vec<_> = ids[2..].iter().map(String::as_str).collect();
    expected.sort_unstable();
    assert_eq!(told, expected);
    assert_eq!(unsubscribe(&pillion, &ids[1]).await.status, 500);
    assert_eq!(unsubscribe(&pillion, &ids[2]).await.status, 200);
}

/// Items and their versions outlive the process; a subscription is the app's to make again.
#[tokio::test]
async fn a_kill_keeps_items_and_ends_subscriptions() {
    let updated = Arc::new(AtomicU16::new(0));
    let app = app(200).await;
    let desk = Desk::new().resource("r.yaml", STORES).app(&app);
    let mut pillion = desk.spawn();
    pillion.ready("/v1.0/healthz").await;
    pillion.has_queue("configuration/cfg").await;
    let (mut device, mut answers) = mqtt::connect(desk.mqtt(), "device", true).await.expect("door");
    let mut put = async |key: &str, value: &str| {
        let id = 1 + updated.fetch_add(1, Ordering::Relaxed);
        device.publish(&format!("config/{key}"), id, value.as_bytes()).await.expect("the door");
        answers.next_of(4).await.expect("a PUBACK");
    };
    put("a", "1").await;
    put("gone", "1").await;
    put("gone", "").await;
    let version = becomes(&pillion, "a", "1").await;
    let old = subscribe(&pillion, "?key=a").await;
    put("a", "2").await;
    assert_eq!(updates_at_least(&app, 1).await[0].1["id"], old);

    pillion.signal(libc::SIGKILL);
    pillion.ended().await;
    let mut pillion = desk.spawn();
    pillion.ready("/v1.0/healthz").await;
    let later = becomes(&pillion, "a", "2").await;
    assert!(later > version);
    let all = items(&pillion, "").await;
    assert_eq!(all.as_object().map(serde_json::Map::len), Some(1), "{all}");
    // As with Dapr, nobody is told until the app has subscribed again.
    publish(&pillion, "a", "3").await;
    assert!(becomes(&pillion, "a", "3").await > later);
    assert_eq!(unsubscribe(&pillion, &old).await.status, 500);
    let new = subscribe(&pillion, "?key=a").await;
    publish(&pillion, "a", "4").await;
    let told = updates_at_least(&app, 2).await;
    assert_eq!((told.len(), &told[1].1["id"]), (2, &json!(new)));
    assert_eq!(told[1].1["items"]["a"]["value"], "4");
    assert_eq!(pillion.stop().await.code(), Some(0));
}

/// A counter of the metrics, 0 where it has not been counted yet.
fn counted(metrics: &str, outcome: &str) -> u64 {
    let name =
        format!("pillion_configuration_fed_total{{component=\"cfg\",outcome=\"{outcome}\"}} ");
    let value = metrics.lines().find_map(|line| line.strip_prefix(&name));
    value.map_or(0, |value| value.parse().expect("a number"))
}

/// A device counts up at QoS 1 while the process is killed again and again. No reader ever sees the
/// count go back, every acknowledged number arrives, and what comes again after a kill is known and
/// not written again: not even for a moment does an old value replace a new one.
#[tokio::test]
async fn a_feed_through_kills_never_goes_back() {
    let rounds = std::env::var("PILLION_CONFIGURATION_ROUNDS").ok();
    let rounds = rounds.and_then(|rounds| rounds.parse().ok()).unwrap_or(8_u32);
    let mut random = Random::new();
    let desk = Desk::new().resource("r.yaml", STORES);
    let (mut sent, mut again) = (0_u64, 0_u64);
    // The last value and version that a reader saw.
    let mut seen = (0_u64, 0_u64);
    for round in 0..=rounds {
        let mut pillion = desk.start().await;
        pillion.has_queue("configuration/cfg").await;
        let look = async || {
            let item = &items(&pillion, "?key=n").await["n"];
            let number =
                |name: &str| item[name].as_str().map_or(0, |text| text.parse().unwrap_or(0));
            (number("value"), number("version"))
        };
        let (seen_before, sent_before) = (seen.0, sent);
        until(&format!("{sent_before}\n{}", pillion.log()), || async {
            let now = look().await;
            assert!(now.0 >= seen.0 && now.1 >= seen.1, "{now:?} after {seen:?}");
            (now.0 == sent_before).then_some(())
        })
        .await;
        seen = look().await;
        let metrics = pillion.metrics().await;
        let written = counted(&metrics, "written");
        let missing = sent_before - seen_before;
        assert!(written <= missing, "{written} written, {missing} were missing");
        again += counted(&metrics, "again");
        if round == rounds {
            break;
        }
        let (mut device, mut answers) =
            mqtt::connect(desk.mqtt(), "device", true).await.expect("the door");
        for _ in 0..20 + random.below(100) {
            sent += 1;
            let id = u16::try_from(1 + sent % 60_000).expect("a packet id");
            let value = sent.to_string();
            device.publish("config/n", id, value.as_bytes()).await.expect("the door");
            answers.next_of(4).await.expect("a PUBACK");
            if random.below(8) == 0 {
                let now = look().await;
                assert!(now.0 >= seen.0 && now.1 >= seen.1, "{now:?} after {seen:?}");
                seen = now;
            }
        }
        if random.below(2) == 0 {
            // What is read at the next start was written by now, but not all of it acknowledged.
            until("the last number", || async { (look().await.0 == sent).then_some(()) }).await;
            seen = look().await;
        }
        pillion.signal(libc::SIGKILL);
        pillion.ended().await;
    }
    println!("{sent} sent, {again} came again after {rounds} kills");
}

#[tokio::test]
async fn a_lock_is_held_across_a_kill_and_ends_with_its_time() {
    let desk = Desk::new().resource("r.yaml", STORES);
    let mut pillion = desk.start().await;
    assert!(lock(&pillion, "long", "one", 600).await);
    assert!(lock(&pillion, "back", "one", 600).await);
    assert_eq!(unlock(&pillion, "back", "one").await, 0);
    let begun = Instant::now();
    assert!(lock(&pillion, "short", "one", 3).await);
    pillion.signal(libc::SIGKILL);
    pillion.ended().await;

    let mut pillion = desk.start().await;
    assert!(!lock(&pillion, "long", "two", 600).await);
    assert!(!lock(&pillion, "long", "one", 600).await);
    assert!(lock(&pillion, "back", "two", 600).await);
    until("the end of a lock", || async { lock(&pillion, "short", "two", 60).await.then_some(()) })
        .await;
    assert!(begun.elapsed() >= Duration::from_millis(2_900), "{:?}", begun.elapsed());
    assert_eq!(unlock(&pillion, "long", "two").await, 2);
    assert_eq!(unlock(&pillion, "long", "one").await, 0);
    assert_eq!(pillion.stop().await.code(), Some(0));
    let pillion = desk.start().await;
    assert_eq!(unlock(&pillion, "short", "two").await, 0);
    assert_eq!(unlock(&pillion, "long", "one").await, 1);
}

/// The cloud keeps configuration as retained messages; a link brings it down, also what changed
/// while the link was down. A store may also follow a broker elsewhere by itself.
#[tokio::test]
async fn a_link_feeds_a_store_from_the_cloud() {
    let mut cloud = Mosquitto::new();
    cloud.start().await;
    let link = format!(
        "{STORES}---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {{name: cloud}}
spec:
  type: pubsub.mqtt3
  version: v1
  metadata:
  - {{name: url, value: 'mqtt://127.0.0.1:{}'}}
  - {{name: consumerID, value: site1}}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {{name: direct}}
spec:
  type: configuration.embedded
  version: v1
  metadata:
  - {{name: pubsubName, value: cloud}}
  - {{name: topic, value: site1/other}}
---
apiVersion: pillion/v1alpha1
kind: Link
metadata: {{name: down}}
spec:
  local: pubsub
  remote: cloud
  down: [{{filter: 'config/#', mapTo: 'site1/'}}]
",
        cloud.port
    );
    let desk = Desk::new().resource("r.yaml", &link);
    let pillion = desk.start().await;
    let publish = async |topic: &str, value: &str| {
        let port = cloud.port.to_string();
        let arguments = ["-p", &port, "-q", "1", "-r", "-t", topic, "-m", value];
        let command = pillion_tests::tool::command("mosquitto_pub", arguments);
        pillion_tests::Tool::run(command).await.expect_success();
    };
    publish("site1/config/rate", "10").await;
    let first = becomes(&pillion, "rate", "10").await;
    drop(pillion);
    publish("site1/config/rate", "20").await;
    publish("site1/other/name", "gateway 1").await;
    let pillion = desk.start().await;
    assert!(becomes(&pillion, "rate", "20").await > first);
    until(&format!("the direct one\n{}", pillion.log()), || async {
        let answer = pillion.get("/v1.0/configuration/direct").await;
        (answer.status == 200 && answer.json()["name"]["value"] == "gateway 1").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_feed_from_nowhere_is_told_at_the_start() {
    let resources = STORES.replace("value: pubsub}", "value: pubsbu}");
    let desk = Desk::new().resource("r.yaml", &resources);
    let mut pillion = desk.spawn();
    assert_ne!(pillion.ended().await.code(), Some(0));
    // Its last words may still be in the pipe.
    until("the reason", || async {
        let log = pillion.log();
        let is_told = log.contains("no pub/sub component is called 'pubsbu'");
        (is_told && log.contains("did you mean 'pubsub'?")).then_some(())
    })
    .await;
}
