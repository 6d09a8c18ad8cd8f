//! `bindings.mqtt3`, both ways, with a real mosquitto.

use crate::{component, invoke, refused, to};
use pillion_tests::mosquitto::Mosquitto;
use pillion_tests::{App, Desk, Setup, Tool, json, tool, until};
use serde_json::json as value;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

fn mqtt(broker: &Mosquitto, settings: &[(&str, &str)]) -> String {
    let url = format!("tcp://127.0.0.1:{}", broker.port);
    let own = [("url", &*url), ("topic", "site/t"), ("consumerID", "gateway")];
    component("cloud", "bindings.mqtt3", &[&own, settings].concat(), "")
}

/// An app whose `/cloud` answers the status told.
async fn listener(status: &Arc<AtomicU16>) -> App {
    let told = status.clone();
    App::start(move |asked| match (asked.method.as_str(), asked.path.as_str()) {
        ("OPTIONS", "/cloud") => json(200, ""),
        ("POST", "/cloud") => json(told.load(Ordering::Relaxed), ""),
        _ => json(404, ""),
    })
    .await
}

async fn publish(broker: &Mosquitto, payload: &str) {
    let port = broker.port.to_string();
    let arguments = ["-p", &port, "-q", "1", "-t", "site/t", "-m", payload];
    Tool::run(tool::command("mosquitto_pub", arguments)).await.expect_success();
}

#[tokio::test]
async fn mqtt_messages_go_out() {
    let mut broker = Mosquitto::new();
    broker.start().await;
    let setup = Setup::new().resource("mqtt.yaml", &mqtt(&broker, &[("direction", "output")]));
    let pillion = setup.start().await;
    let port = broker.port.to_string();
    let arguments =
        ["-oL", "mosquitto_sub", "-p", &port, "-t", "site/#", "-q", "1", "-d", "-F", "%t %p"];
    let watch = Tool::start(tool::command("stdbuf", arguments));
    until("the subscription", || async {
        watch.out().iter().any(|line| line.starts_with("Subscribed")).then_some(())
    })
    .await;
    let answer =
        invoke(&pillion, "cloud", &value!({"operation": "create", "data": {"n": 1}})).await;
    assert_eq!(answer.status, 204, "{answer:?}");
    let asked = value!({"operation": "create", "data": "x", "metadata": {"topic": "site/other"}});
    assert_eq!(invoke(&pillion, "cloud", &asked).await.status, 204);
    until("both messages", || async {
        let out = watch.out();
        let has = |line: &str| out.iter().any(|known| known == line);
        (has("site/t {\"n\":1}") && has("site/other \"x\"")).then_some(())
    })
    .await;
    let asked = value!({"operation": "create", "metadata": {"topic": "a/#"}});
    refused(&invoke(&pillion, "cloud", &asked).await, "cloud", "topic 'a/#' has a wildcard");
    broker.stop();
    until("a refusal", || async {
        let answer = invoke(&pillion, "cloud", &value!({"operation": "create"})).await;
        (answer.status == 500).then_some(())
    })
    .await;
    let metadata = pillion.get("/v1.0/metadata").await.json();
    assert_eq!(metadata["components"][0]["capabilities"], value!(["OUTPUT_BINDING"]));
}

/// Goal: a message from a broker stays there until the app took it, whatever happens between.
#[tokio::test]
async fn mqtt_messages_come_in_until_the_app_took_them() {
    let mut broker = Mosquitto::new();
    broker.start().await;
    let status = Arc::new(AtomicU16::new(200));
    let app = listener(&status).await;
    let desk = Desk::new().app(&app).resource("mqtt.yaml", &mqtt(&broker, &[]));
    let mut pillion = desk.start().await;
    let taken = |status: u16| {
        let asked = app.asked();
        let posted = to(&asked, "POST", "/cloud").into_iter();
        let of = posted.filter(|one| one.answered == status);
        of.map(|one| String::from_utf8_lossy(&one.body).into_owned()).collect::<Vec<_>>()
    };
    until("the subscription", || async {
        // A retained message would do, too; this one is gone if nobody is there yet.
        publish(&broker, "hello").await;
        (!taken(200).is_empty()).then_some(())
    })
    .await;
    let asked = app.asked();
    assert_eq!(to(&asked, "POST", "/cloud")[0].header("topic"), Some("site/t"));

    // The app fails: the message is kept, and comes again after a restart.
    status.store(503, Ordering::Relaxed);
    publish(&broker, "one").await;
    publish(&broker, "two").await;
    until("a failure", || async { taken(503).contains(&"one".into()).then_some(()) }).await;
    assert!(!taken(503).contains(&"two".into()), "one after the other");
    pillion.signal(libc::SIGKILL);
    pillion.ended().await;
    publish(&broker, "three").await;
    status.store(200, Ordering::Relaxed);
    let _pillion = desk.start().await;
    until("all of them", || async {
        let taken: Vec<_> = taken(200).into_iter().filter(|body| body != "hello").collect();
        (taken.len() >= 3).then_some(taken)
    })
    .await;
    let mut order: Vec<_> = taken(200).into_iter().filter(|body| body != "hello").collect();
    order.dedup();
    assert_eq!(order, ["one", "two", "three"]);
}

#[tokio::test]
async fn mqtt_messages_are_given_up_where_that_is_asked_for() {
    let mut broker = Mosquitto::new();
    broker.start().await;
    let status = Arc::new(AtomicU16::new(500));
    let app = listener(&status).await;
    let text = mqtt(&broker, &[("backOffMaxRetries", "0"), ("direction", "input")]);
    let pillion = Setup::new().app(&app).resource("mqtt.yaml", &text).start().await;
    let series =
        "pillion_queue_dropped_total{component=\"cloud\",consumer=\"app1\",reason=\"refused\"}";
    until("one given up", || async {
        publish(&broker, "poison").await;
        pillion.metrics().await.contains(series).then_some(())
    })
    .await;
    // The next one is not held up.
    status.store(200, Ordering::Relaxed);
    publish(&broker, "good").await;
    until("the next", || async {
        let asked = app.asked();
        let good = to(&asked, "POST", "/cloud").into_iter().any(|one| one.body == "good");
        good.then_some(())
    })
    .await;
    let asked = to(&app.asked(), "OPTIONS", "/cloud").len();
    assert_eq!(asked, 0, "with a direction the app is not asked");
}
