//! Nothing that was acknowledged is lost, and nothing is out of order, when the process is killed.
//!
//! Method: one data directory, many rounds. In each, state writes, transactions, publishes over
//! HTTP and over MQTT at QoS 1, an app that takes from a subscription, and a link to a real
//! mosquitto run until SIGKILL at a random moment; the next round begins on what is left. Every
//! acknowledgement is written down here and looked for afterwards.
//! `PILLION_KILL_ROUNDS` sets the number of rounds, `PILLION_SEED` repeats a run.

#![allow(clippy::print_stdout, reason = "the figures of a run are worth a line")]

use pillion_tests::mosquitto::Mosquitto;
use pillion_tests::random::Random;
use pillion_tests::{App, Desk, PATIENCE, Pillion, Request, json, mqtt};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Unacknowledged publishes of one MQTT client.
const MQTT_WINDOW: u32 = 8;

/// What one kill may repeat on one queue: the window in flight, and cursor moves that waited for
/// the next commit.
const DUPLICATES_PER_KILL_MAX: usize = 512;

/// What one writer was told.
#[derive(Debug, Default)]
struct Told {
    /// The number of the last attempt.
    attempted: u32,
    /// Numbers that were acknowledged.
    acknowledged: Vec<u32>,
}

/// Writers by key or topic.
#[derive(Debug, Default, Clone)]
struct Ledger(Arc<Mutex<BTreeMap<String, Told>>>);

impl Ledger {
    fn attempt(&self, name: &str) -> u32 {
        let mut writers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let told = writers.entry(name.to_owned()).or_default();
        told.attempted += 1;
        told.attempted
    }

    fn acknowledged(&self, name: &str, number: u32) {
        let mut writers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        writers.entry(name.to_owned()).or_default().acknowledged.push(number);
    }

    fn each(&self, prefix: &str, mut look: impl FnMut(&str, &Told)) {
        let writers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, told) in writers.iter().filter(|(name, _)| name.starts_with(prefix)) {
            look(name, told);
        }
    }
}

/// What arrived, by topic, in order of arrival.
#[derive(Debug, Default, Clone)]
struct Arrived(Arc<Mutex<BTreeMap<String, Vec<u32>>>>);

impl Arrived {
    fn add(&self, topic: &str, number: u32) {
        let mut topics = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        topics.entry(topic.to_owned()).or_default().push(number);
    }

    /// The first acknowledged number that has not arrived.
    fn missing(
        &self,
        ledger: &Ledger,
        prefix: &str,
        topic_of: impl Fn(&str) -> String,
    ) -> Option<String> {
        let topics = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut missing = None;
        ledger.each(prefix, |name, told| {
            let topic = topic_of(name);
            let arrived: std::collections::BTreeSet<_> =
                topics.get(&topic).into_iter().flatten().collect();
            if let Some(number) = told.acknowledged.iter().find(|n| !arrived.contains(n)) {
                missing.get_or_insert(format!("{number} of {topic}"));
            }
        });
        missing
    }

    fn count(&self) -> usize {
        let topics = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        topics.values().map(Vec::len).sum()
    }

    /// Checks the order of first arrivals; the number of repeated ones.
    fn duplicates(&self) -> usize {
        let topics = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut duplicates = 0;
        for (topic, numbers) in topics.iter() {
            let mut highest = 0;
            let mut seen = std::collections::BTreeSet::new();
            for number in numbers {
                if seen.insert(*number) {
                    assert!(*number > highest, "{topic}: {number} first came after {highest}");
                    highest = *number;
                } else {
                    duplicates += 1;
                }
            }
        }
        duplicates
    }
}

async fn save(port: u16, ledger: Ledger, key: String) {
    loop {
        let number = ledger.attempt(&key);
        let body = format!(r#"[{{"key":"{key}","value":{number}}}]"#);
        match post(port, "/v1.0/state/statestore", body).await {
            Some(204) => ledger.acknowledged(&key, number),
            Some(status) => panic!("save: {status}"),
            None => return,
        }
    }
}

async fn transact(port: u16, ledger: Ledger, key: String) {
    loop {
        let number = ledger.attempt(&key);
        let upsert = |half: &str| {
            format!(
                r#"{{"operation":"upsert","request":{{"key":"{key}-{half}","value":{number}}}}}"#
            )
        };
        let body = format!(r#"{{"operations":[{},{}]}}"#, upsert("a"), upsert("b"));
        match post(port, "/v1.0/state/statestore/transaction", body).await {
            Some(204) => ledger.acknowledged(&key, number),
            Some(status) => panic!("transaction: {status}"),
            None => return,
        }
    }
}

async fn publish(port: u16, ledger: Ledger, topic: String) {
    loop {
        let number = ledger.attempt(&topic);
        match post(port, &format!("/v1.0/publish/pubsub/{topic}"), number.to_string()).await {
            Some(204) => ledger.acknowledged(&topic, number),
            Some(status) => panic!("publish: {status}"),
            None => return,
        }
    }
}

/// The status, or `None` when the connection ended.
async fn post(port: u16, path: &str, body: String) -> Option<u16> {
    let request =
        Request::new(hyper::Method::POST, path).header("content-type", "application/json");
    request.body(body).send(port).await.ok().map(|answer| answer.status)
}

async fn publish_mqtt(address: SocketAddr, ledger: Ledger, topic: String) {
    let Ok((mut sender, mut receiver)) = mqtt::connect(address, &topic, true).await else { return };
    let mut waiting: BTreeMap<u16, u32> = BTreeMap::new();
    loop {
        while waiting.len() < MQTT_WINDOW as usize {
            let number = ledger.attempt(&topic);
            let id = u16::try_from(number % 60_000 + 1).expect("below 65,536");
            waiting.insert(id, number);
            if sender.publish(&topic, id, number.to_string().as_bytes()).await.is_err() {
                return;
            }
        }
        let Ok(packet) = receiver.next_of(4).await else { return };
        let number = waiting.remove(&packet.u16_at(0)).expect("an acknowledgement of a publish");
        ledger.acknowledged(&topic, number);
    }
}

/// Takes everything under `cloud/` from mosquitto for as long as the test runs.
async fn take_from_cloud(address: SocketAddr, arrived: Arrived) {
    let (mut sender, mut receiver) =
        mqtt::connect(address, "the-cloud", false).await.expect("mosquitto runs");
    sender.subscribe("cloud/#", 1).await.expect("mosquitto runs");
    loop {
        let packet = receiver.next_of(3).await.expect("mosquitto runs");
        let (topic, id, payload) = packet.publish();
        let event: serde_json::Value = serde_json::from_slice(payload).expect("an event");
        arrived.add(&topic, number_of(&event));
        if id != 0 {
            sender.puback(id).await.expect("mosquitto runs");
        }
    }
}

fn number_of(event: &serde_json::Value) -> u32 {
    let data = event.get("data").and_then(serde_json::Value::as_u64);
    u32::try_from(data.unwrap_or_else(|| panic!("{event}"))).expect("a small number")
}

fn app_handler(
    arrived: Arrived,
) -> impl Fn(&pillion_tests::Asked) -> hyper::Response<bytes::Bytes> {
    move |asked| match asked.path.as_str() {
        "/dapr/subscribe" => {
            json(200, r#"[{"pubsubname":"pubsub","topic":"kill/#","route":"/take"}]"#)
        }
        "/take" => {
            let event = asked.json();
            arrived.add(event["topic"].as_str().expect("a topic"), number_of(&event));
            json(200, "{}")
        }
        _ => json(404, "{}"),
    }
}

const LINK: &str = "
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: cloud}
spec:
  type: pubsub.mqtt3
  version: v1
  metadata:
  - {name: url, value: 'mqtt://127.0.0.1:PORT'}
  - {name: consumerID, value: gateway}
---
apiVersion: pillion/v1alpha1
kind: Link
metadata: {name: uplink}
spec:
  local: pubsub
  remote: cloud
  up:
  - {filter: 'up/#', mapTo: cloud/}
";

/// Everything that was acknowledged to state writers is there.
async fn check_state(pillion: &Pillion, ledger: &Ledger) {
    let mut wanted = Vec::new();
    for prefix in ["state-", "pair-"] {
        ledger.each(prefix, |name, told| {
            let last = told.acknowledged.last().copied().unwrap_or(0);
            wanted.push((name.to_owned(), last, told.attempted));
        });
    }
    for (name, acknowledged, attempted) in wanted {
        let value = |key: String| async move {
            let answer = pillion.get(&format!("/v1.0/state/statestore/{key}")).await;
            if answer.status == 204 { 0 } else { answer.json().as_u64().expect("a number") as u32 }
        };
        let found = if name.starts_with("pair-") {
            let (a, b) = (value(format!("{name}-a")).await, value(format!("{name}-b")).await);
            assert_eq!(a, b, "{name}: half of a transaction");
            a
        } else {
            value(name.clone()).await
        };
        assert!(
            (acknowledged..=attempted).contains(&found),
            "{name}: {found}, acknowledged {acknowledged}, attempted {attempted}"
        );
    }
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_or_out_of_order() {
    let rounds = std::env::var("PILLION_KILL_ROUNDS").ok().and_then(|text| text.parse().ok());
    let rounds: usize = rounds.unwrap_or(200);
    let mut random = Random::new();
    let (ledger, at_app, at_cloud) = (Ledger::default(), Arrived::default(), Arrived::default());
    let app = App::start(app_handler(at_app.clone())).await;
    let mut mosquitto = Mosquitto::new();
    mosquitto.start().await;
    tokio::spawn(take_from_cloud(mosquitto.address(), at_cloud.clone()));
    let desk = Desk::new()
        .app(&app)
        .resource("link.yaml", &LINK.replace("PORT", &mosquitto.port.to_string()));

    let mut pillion = desk.start().await;
    pillion.has_queue("app/").await;
    pillion.has_queue("link/").await;
    for _ in 0..rounds {
        check_state(&pillion, &ledger).await;
        let mut load = JoinSet::new();
        for worker in 0..3 {
            load.spawn(save(desk.http(), ledger.clone(), format!("state-{worker}")));
            load.spawn(publish(desk.http(), ledger.clone(), format!("kill/http/{worker}")));
            load.spawn(publish_mqtt(desk.mqtt(), ledger.clone(), format!("kill/mqtt/{worker}")));
        }
        load.spawn(transact(desk.http(), ledger.clone(), "pair-0".into()));
        load.spawn(publish(desk.http(), ledger.clone(), "up/0".into()));
        tokio::time::sleep(Duration::from_millis(20 + random.below(180))).await;
        pillion.signal(libc::SIGKILL);
        pillion.ended().await;
        while let Some(worker) = load.join_next().await {
            worker.expect("a worker ends with its connection");
        }
        pillion = desk.start().await;
    }
    check_state(&pillion, &ledger).await;

    let missing = || {
        let at_app = at_app.missing(&ledger, "kill/", str::to_owned);
        at_app.or_else(|| at_cloud.missing(&ledger, "up/", |name| format!("cloud/{name}")))
    };
    // Everything arrives while the process only delivers. It has time as long as something does.
    let (mut arrived, mut since) = (0, Instant::now());
    while let Some(first) = missing() {
        let now = at_app.count() + at_cloud.count();
        if now > arrived {
            (arrived, since) = (now, Instant::now());
        }
        let stalled = since.elapsed() > PATIENCE;
        assert!(!stalled, "{first} was acknowledged and never came; {}", pillion.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut acknowledged = 0;
    ledger.each("", |_, told| acknowledged += told.acknowledged.len());
    let (app_twice, cloud_twice) = (at_app.duplicates(), at_cloud.duplicates());
    println!(
        "{rounds} kills, {acknowledged} acknowledged, none lost, none out of order; \
         twice at the app {app_twice}, in the cloud {cloud_twice}"
    );
    assert!(app_twice <= rounds * DUPLICATES_PER_KILL_MAX, "{app_twice}");
    assert!(cloud_twice <= rounds * DUPLICATES_PER_KILL_MAX, "{cloud_twice}");
}
