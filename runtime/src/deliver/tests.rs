//! Delivery from a real component (in memory) to a real HTTP server.
//!
//! Each test publishes as an app or a device would and reads what the app was asked, in order.
//! Waits are for requests or for acknowledgements, never for time alone.

mod rig;

use super::attempt::{RETRIES_MAX, Step};
use super::lanes::Held;
use super::*;
use crate::resources::RuleWritten;
use pillion_components::pubsub::{Delivery, Message, QueueStatus};
use rig::{Rig, all_well, app_at, no_list, pairs, plan};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

#[tokio::test]
async fn messages_of_a_topic_arrive_in_order_as_events() {
    let mut rig = Rig::new(no_list, all_well).await;
    let run = rig.started(&[plan("a", "/a", None)], Redelivery::BackOff).await;
    for n in 0..50 {
        rig.publish_with("a", n, &[("k", "v")]).await;
    }
    let first = rig.next().await;
    assert_eq!((first.path.as_str(), first.n()), ("/a", 0));
    for (name, value) in
        [("content-type", "application/cloudevents+json"), ("pubsubname", "pubsub"), ("k", "v")]
    {
        assert_eq!(first.headers.get(name).and_then(|v| v.to_str().ok()), Some(value), "{name}");
    }
    assert!(first.headers.contains_key("traceparent"));
    assert_eq!(first.event.get("specversion"), Some(&"1.0".into()));
    assert_eq!(rig.asked(49).await, pairs("/a", 1..50));
    rig.drained().await;
    run.stop().await;
}

#[tokio::test]
async fn a_failing_message_is_delivered_again_before_later_ones_of_its_topic() {
    fn answers(path: &str, count: usize) -> (u16, &'static str) {
        match (path, count) {
            ("/all", 0) => (500, ""),
            ("/all", 3) => (200, r#"{"status":"RETRY"}"#),
            _ => (200, ""),
        }
    }
    let mut rig = Rig::new(no_list, answers).await;
    let run = rig.started(&[plan("t/+", "/all", None)], Redelivery::BackOff).await;
    rig.publish("t/a", 1).await;
    assert_eq!(rig.asked(1).await, pairs("/all", [1]));
    rig.publish("t/a", 2).await;
    rig.publish("t/b", 3).await;
    // The other topic goes on, the same topic waits.
    assert_eq!(rig.asked(3).await, pairs("/all", [3, 1, 2]));
    assert_eq!(rig.asked(1).await, pairs("/all", [2]));
    rig.drained().await;
    run.stop().await;
}

#[tokio::test]
async fn what_the_app_will_not_have_becomes_a_dead_letter() {
    fn answers(path: &str, _: usize) -> (u16, &'static str) {
        match path {
            "/drop" => (200, r#"{"status":"DROP"}"#),
            "/gone" => (404, ""),
            "/fail" => (500, "no"),
            _ => (200, ""),
        }
    }
    let mut rig = Rig::new(no_list, answers).await;
    let plans = [
        plan("drop", "/drop", Some("graves")),
        plan("gone", "/gone", Some("graves")),
        plan("fail", "/fail", Some("graves")),
        plan("lost", "/drop", None),
        plan("graves", "/graves", None),
    ];
    let run = rig.started(&plans, Redelivery::Once).await;
    for (n, topic) in [(1, "drop"), (2, "gone"), (3, "fail")] {
        rig.publish(topic, n).await;
        assert_eq!(rig.next().await.n(), n);
        let buried = rig.next().await;
        assert_eq!((buried.path.as_str(), buried.n()), ("/graves", n));
        assert_eq!(buried.event.get("topic"), Some(&topic.into()), "the original event");
    }
    rig.publish("lost", 4).await;
    assert_eq!(rig.asked(1).await, pairs("/drop", [4]));
    rig.drained().await;
    run.stop().await;
}

#[tokio::test]
async fn an_expired_event_is_not_delivered() {
    let mut rig = Rig::new(no_list, all_well).await;
    let plans = [plan("a", "/a", None)];
    let run = rig.started(&plans, Redelivery::Once).await;
    rig.publish_with("a", 1, &[("ttlInSeconds", "0")]).await;
    rig.publish_with("a", 2, &[("ttlInSeconds", "60")]).await;
    assert_eq!(rig.asked(1).await, pairs("/a", [2]));
    run.stop().await;
}

#[tokio::test]
async fn a_queue_fills_while_the_app_is_away_and_empties_in_order() {
    let mut rig = Rig::new(no_list, all_well).await;
    let run = rig.started(&[plan("a", "/a", None)], Redelivery::BackOff).await;
    rig.channel().set_healthy(false);
    for n in 0..300 {
        rig.publish("a", n).await;
    }
    rig.until(|queues| queues.iter().any(|queue| queue.backlog_messages == 300)).await;
    assert!(rig.told.try_recv().is_err());
    rig.channel().set_healthy(true);
    assert_eq!(rig.asked(300).await, pairs("/a", 0..300));
    rig.drained().await;
    run.stop().await;
}

#[tokio::test]
async fn the_queue_of_a_declared_subscription_fills_before_the_app_is_there() {
    let mut rig = Rig::new(no_list, all_well).await;
    rig.channel().set_healthy(false);
    let run = rig.run(&[plan("a", "/a", None)], Redelivery::BackOff).await;
    rig.until(|queues| !queues.is_empty()).await;
    rig.publish("a", 1).await;
    rig.channel().set_healthy(true);
    assert_eq!(rig.asked(1).await, pairs("/a", [1]));
    run.stop().await;
}

#[tokio::test]
async fn a_message_that_finds_no_app_waits_and_is_not_counted() {
    let mut rig = Rig::new(no_list, all_well).await;
    let run = rig.started(&[plan("a", "/a", Some("graves"))], Redelivery::Once).await;
    let address = rig.fake.take().map(|fake| fake.address).expect("an app");
    // The listener goes with its task.
    while TcpListener::bind(address).await.is_err() {
        tokio::task::yield_now().await;
    }
    rig.publish("a", 1).await;
    rig.publish("a", 2).await;
    let (_fake, told) = app_at(address, no_list, all_well, rig.gate.clone()).await;
    rig.told = told;
    assert_eq!(rig.asked(2).await, pairs("/a", [1, 2]));
    rig.drained().await;
    run.stop().await;
}

#[tokio::test]
async fn a_restart_goes_on_where_it_stopped() {
    let mut rig = Rig::new(no_list, all_well).await;
    let plans = [plan("a", "/a", None)];
    let run = rig.started(&plans, Redelivery::BackOff).await;
    rig.publish("a", 1).await;
    assert_eq!(rig.asked(1).await, pairs("/a", [1]));
    run.stop().await;
    rig.publish("a", 2).await;
    rig.publish("a", 3).await;
    let run = rig.started(&plans, Redelivery::BackOff).await;
    assert_eq!(rig.asked(2).await, pairs("/a", [2, 3]));
    rig.drained().await;
    run.stop().await;
}

#[tokio::test]
async fn what_is_with_the_app_is_finished_before_the_end() {
    let mut rig = Rig::new(no_list, all_well).await;
    let plans = [plan("a", "/a", None)];
    let run = rig.started(&plans, Redelivery::BackOff).await;
    rig.gate.forget_permits(Semaphore::MAX_PERMITS);
    rig.publish("a", 1).await;
    rig.publish("a", 2).await;
    assert_eq!(rig.asked(1).await, pairs("/a", [1]));
    run.shutdown.tell();
    tokio::task::yield_now().await;
    rig.gate.add_permits(1000);
    run.stop().await;
    assert!(rig.told.try_recv().is_err(), "nothing is started while draining");
    let run = rig.started(&plans, Redelivery::BackOff).await;
    assert_eq!(rig.asked(1).await, pairs("/a", [2]), "the first was acknowledged");
    run.stop().await;
}

#[tokio::test]
async fn the_apps_own_subscriptions_come_first_and_unfit_ones_are_left_out() {
    const OWN: &str = r#"[
        {"pubsubname":"pubsub","topic":"a","route":"/own"},
        {"pubsubname":"nowhere","topic":"a","route":"/x"},
        {"pubsubname":"pubsub","topic":"secret","route":"/x"},
        {"pubsubname":"pubsub","topic":"r","routes":{"rules":[{"match":"true","path":"/x"}]}}]"#;
    let mut rig = Rig::new(|_| OWN, all_well).await;
    let ruled = SubscriptionPlan {
        rules: vec![RuleWritten { matches: "true".into(), path: "/x".into() }],
        ..plan("q", "/q", None)
    };
    let elsewhere = SubscriptionPlan { scopes: vec!["app2".into()], ..plan("c", "/c", None) };
    let plans = [plan("a", "/declared", None), plan("b", "/b", None), ruled, elsewhere];
    let run = rig.started(&plans, Redelivery::BackOff).await;
    let active: Vec<_> = rig
        .app
        .subscriptions()
        .into_iter()
        .map(|active| (active.plan.topic, active.plan.route, active.programmatic))
        .collect();
    assert_eq!(active, [("a".into(), "/own".into(), true), ("b".into(), "/b".into(), false)]);
    rig.publish("a", 1).await;
    assert_eq!(rig.asked(1).await, pairs("/own", [1]));
    rig.publish("b", 2).await;
    assert_eq!(rig.asked(1).await, pairs("/b", [2]));
    run.stop().await;
}

#[tokio::test]
async fn an_app_that_took_nothing_ten_times_fills_the_built_in_dead_letters() {
    fn answers(_: &str, _: usize) -> (u16, &'static str) {
        (500, "no")
    }
    let rig = Rig::new(no_list, answers).await;
    let feed = rig.feed(plan("a", "/a", None));
    let message = Message { topic: "a".into(), payload: "on".into(), ..Message::default() };
    let delivery = Delivery {
        token: 1,
        id: "1".into(),
        published_ms: 0,
        again: false,
        message: Arc::new(message),
    };
    let mut held = Held { delivery, failures: 0, expires: None };
    assert_eq!(feed.attempt(&held).await, Step::Again(Duration::from_millis(500)));
    held.failures = RETRIES_MAX;
    assert_eq!(feed.attempt(&held).await, Step::Done);
    let is_there = |queue: &QueueStatus| {
        queue.consumer == "dead-letter/app1" && !queue.connected && queue.backlog_messages == 1
    };
    assert!(rig.component.queues().iter().any(is_there), "{:?}", rig.component.queues());
}

#[tokio::test]
async fn an_app_that_is_back_is_asked_again() {
    const OLD: &str = r#"[{"pubsubname":"pubsub","topic":"a","route":"/a"},
        {"pubsubname":"pubsub","topic":"b","route":"/b"}]"#;
    const NEW: &str = r#"[{"pubsubname":"pubsub","topic":"a","route":"/a"},
        {"pubsubname":"pubsub","topic":"b","route":"/b/2"}]"#;
    let own = |count| match count {
        0 => OLD,
        // It answers before its routes are there: no reason to forget what it wanted.
        1 => "",
        _ => NEW,
    };
    let mut rig = Rig::new(own, all_well).await;
    let run = rig.started(&[], Redelivery::BackOff).await;
    for (n, route) in [(1, "/b"), (2, "/b"), (3, "/b/2")] {
        if n > 1 {
            rig.channel().set_healthy(false);
            let asked = rig.asked_for_list();
            rig.publish("a", n).await;
            rig.publish("b", n).await;
            tokio::task::yield_now().await;
            rig.channel().set_healthy(true);
            rig.until(|_| rig.asked_for_list() > asked).await;
        } else {
            rig.publish("a", n).await;
            rig.publish("b", n).await;
        }
        let mut asked = rig.asked(2).await;
        asked.sort();
        assert_eq!(asked, [("/a".to_owned(), n), (route.to_owned(), n)]);
        rig.drained().await;
    }
    run.stop().await;
}

#[tokio::test]
async fn a_subscription_may_ask_for_no_order() {
    let mut rig = Rig::new(no_list, all_well).await;
    let parallel = SubscriptionPlan {
        metadata: vec![("parallel".into(), "true".into())],
        ..plan("a", "/a", None)
    };
    let run = rig.started(&[parallel], Redelivery::BackOff).await;
    rig.gate.forget_permits(Semaphore::MAX_PERMITS);
    for n in 0..3 {
        rig.publish("a", n).await;
    }
    let mut asked = rig.asked(3).await;
    asked.sort();
    assert_eq!(asked, pairs("/a", 0..3), "none waited for another's answer");
    rig.gate.add_permits(1000);
    rig.drained().await;
    run.stop().await;
}
