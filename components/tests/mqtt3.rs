//! `pubsub.mqtt3` against a real mosquitto: what it promises while the broker is there, stopped,
//! killed and back again.

#![allow(clippy::print_stdout, reason = "what was measured is shown")]

mod mosquitto;

use mosquitto::{Broker, make_certificates};
use pillion_components::context::Context;
use pillion_components::env::Clock;
use pillion_components::options::Options;
use pillion_components::pubsub::{Delivery, Message, PubSub, Subscribe, Subscription};
use pillion_components::topic::Filter;
use pillion_components::{Error, Kind, Result};
use std::collections::{BTreeMap, VecDeque};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::time::timeout;

/// Longest wait for anything; a test that needs it has failed.
const PATIENCE: Duration = Duration::from_secs(30);

fn open(url: &str, id: &str, more: &[(&str, &str)]) -> Arc<dyn PubSub> {
    let mut pairs = vec![("url", url), ("consumerID", id), ("reconnectMaxInterval", "300ms")];
    pairs.extend_from_slice(more);
    let options: Options = pairs.into_iter().collect();
    let context = Context {
        name: "test".into(),
        app_id: "app".into(),
        clock: Clock::system(),
        storage: Arc::new(|| Err(Error::new(Kind::Unsupported, "no storage in this test"))),
    };
    pillion_components::pubsub::mqtt3::open(&options, &context).expect("it opens")
}

fn message(topic: &str, payload: impl ToString) -> Message {
    Message {
        topic: topic.into(),
        payload: payload.to_string().into_bytes().into(),
        ..Message::default()
    }
}

fn subscribe(consumer: &str, filters: &[&str], durable: bool) -> Subscribe {
    Subscribe {
        consumer: consumer.into(),
        filters: filters.iter().map(|text| Filter::new(text).expect("a filter")).collect(),
        durable,
        limits: pillion_components::pubsub::QueueLimits::default(),
        except_origin: None,
        metadata: Vec::new(),
    }
}

async fn next(subscription: &mut Box<dyn Subscription>) -> Delivery {
    timeout(PATIENCE, subscription.next()).await.expect("in time").expect("a message")
}

fn text(delivery: &Delivery) -> String {
    String::from_utf8_lossy(&delivery.message.payload).into_owned()
}

async fn until_up(component: &Arc<dyn PubSub>, up: bool) {
    let mut watch = component.connectivity().expect("it can be unreachable");
    timeout(PATIENCE, watch.wait_for(|now| *now == up)).await.expect("in time").expect("open");
}

#[tokio::test]
async fn publishes_reach_the_broker_in_the_order_of_calls() {
    let broker = Broker::started();
    let subscriber = broker.subscriber("t/#", 301);
    let component = open(&broker.url(), "publisher", &[]);
    let calls: Vec<_> = (0..300).map(|n| component.publish(message("t/order", n))).collect();
    for result in join(calls).await {
        result.expect("acknowledged");
    }
    let mut kept = message("t/kept", "last");
    kept.metadata.push(("retain".into(), "true".into()));
    component.publish(kept).await.expect("acknowledged");
    let mut expected: Vec<String> = (0..300).map(|n| format!("0 t/order {n}")).collect();
    expected.push("0 t/kept last".into());
    assert_eq!(subscriber.received().await, expected);
    assert_eq!(broker.subscriber("t/kept", 1).received().await, ["1 t/kept last"]);
}

#[tokio::test]
async fn bulk_publish_keeps_order_and_answers_for_each() {
    let broker = Broker::started();
    let subscriber = broker.subscriber("t", 200);
    let component = open(&broker.url(), "publisher", &[("maxPacketBytes", "1Ki")]);
    let mut messages: Vec<Message> = (0..200).map(|n| message("t", n)).collect();
    messages.insert(100, message("t", "x".repeat(2000)));
    let results = component.bulk_publish(messages).await;
    assert_eq!(results.len(), 201);
    for (n, result) in results.into_iter().enumerate() {
        let kind = result.err().map(|error| error.kind());
        assert_eq!(kind, (n == 100).then_some(Kind::TooLarge), "{n}");
    }
    let expected: Vec<String> = (0..200).map(|n| format!("0 t {n}")).collect();
    assert_eq!(subscriber.received().await, expected);
}

#[tokio::test]
async fn without_a_broker_it_opens_refuses_clearly_and_connects_when_there_is_one() {
    let mut broker = Broker::stopped();
    let component = open(&broker.url(), "early", &[]);
    let mut inbox = component.subscribe(subscribe("in", &["t"], true)).await.expect("it opens");
    let error = component.publish(message("t", 1)).await.expect_err("nobody is there");
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    assert!(component.reachable().is_err());
    broker.start();
    until_up(&component, true).await;
    component.reachable().expect("it is there");
    component.publish(message("t", 2)).await.expect("acknowledged");
    assert_eq!(text(&next(&mut inbox).await), "2");
    broker.kill();
    until_up(&component, false).await;
}

/// Publishes numbered messages in a window while the broker is killed and started again and again;
/// what fails is repeated, with everything after it, as a link does. Nobody may wait for ever,
/// nothing may be missing, and no call may reach the broker more than once.
#[tokio::test]
async fn a_publish_that_was_under_way_in_a_cut_fails_once_and_is_not_sent_later() {
    const COUNT: usize = 3000;
    const WINDOW: usize = 32;
    let mut broker = Broker::started();
    let listener = open(&broker.url(), "listener", &[]);
    let mut inbox = listener.subscribe(subscribe("in", &["t"], true)).await.expect("subscribed");
    let publisher = open(&broker.url(), "publisher", &[]);

    let mut calls = vec![0_u32; COUNT];
    let (mut acknowledged, mut cuts) = (0, 0);
    while acknowledged < COUNT {
        until_up(&publisher, true).await;
        let mut window: VecDeque<Call<'_>> = VecDeque::new();
        let mut sent = acknowledged;
        loop {
            while window.len() < WINDOW && sent < COUNT {
                calls[sent] += 1;
                window.push_back(publisher.publish(message("t", sent)));
                sent += 1;
            }
            if cuts < 5 && acknowledged > cuts * COUNT / 6 + 100 && window.len() == WINDOW {
                // Let the window leave, then cut.
                poll_once(&mut window).await;
                cuts += 1;
                broker.stop();
                broker.start();
            }
            poll_once(&mut window).await;
            let Some(first) = window.pop_front() else { break };
            match timeout(PATIENCE, first).await.expect("no call waits for ever") {
                Ok(()) => acknowledged += 1,
                Err(error) => {
                    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
                    for result in join(window.into()).await {
                        assert!(result.is_err(), "a later one must not pass an earlier one");
                    }
                    break;
                }
            }
        }
    }
    assert_eq!(cuts, 5);

    let mut seen = BTreeMap::new();
    let mut first_seen = Vec::new();
    let mut again = 0;
    while seen.len() < COUNT {
        let delivery = next(&mut inbox).await;
        again += usize::from(delivery.again);
        let number: usize = text(&delivery).parse().expect("a number");
        inbox.ack(delivery.token);
        let times = seen.entry(number).or_insert_with(|| {
            first_seen.push(number);
            0_u32
        });
        *times += u32::from(!delivery.again);
    }
    let wrong = first_seen.windows(2).position(|pair| pair[0] > pair[1]);
    let around = wrong.map(|at| &first_seen[at.saturating_sub(3)..(at + 4).min(COUNT)]);
    assert_eq!(around, None, "order of first deliveries");
    for (number, times) in seen {
        assert!(times <= calls[number], "{number} came {times} times, sent {}", calls[number]);
    }
    let calls: u32 = calls.iter().sum();
    println!("{COUNT} messages, {cuts} cuts, {calls} calls, {again} repeated deliveries");
    assert!(calls as usize <= COUNT + cuts * WINDOW);
}

#[tokio::test]
async fn a_durable_subscription_goes_on_where_it_stopped_also_in_a_new_process() {
    let mut broker = Broker::started();
    let component = open(&broker.url(), "device", &[]);
    let mut inbox = component.subscribe(subscribe("in", &["t/+"], true)).await.expect("subscribed");
    for n in 0..5 {
        component.publish(message("t/a", n)).await.expect("acknowledged");
    }
    let first = next(&mut inbox).await;
    let second = next(&mut inbox).await;
    let third = next(&mut inbox).await;
    assert_eq!([text(&first), text(&second), text(&third)], ["0", "1", "2"]);
    inbox.ack(first.token);
    inbox.nack(second.token);
    let second = next(&mut inbox).await;
    assert_eq!((text(&second).as_str(), second.again), ("1", true));
    inbox.ack(second.token);

    // The same process opens it again: what was not acknowledged comes first.
    drop(inbox);
    let mut inbox = component.subscribe(subscribe("in", &["t/+"], true)).await.expect("subscribed");
    let third = next(&mut inbox).await;
    assert_eq!((text(&third).as_str(), third.again), ("2", true));
    inbox.ack(third.token);
    let fourth = next(&mut inbox).await;
    assert_eq!(text(&fourth), "3");

    // A new process, after a restart of the broker. The answer to a publish says that the
    // acknowledgements before it have left.
    component.publish(message("t/a", "5")).await.expect("acknowledged");
    drop((inbox, component));
    broker.publish("t/a", "6");
    broker.stop();
    broker.start();
    let component = open(&broker.url(), "device", &[]);
    until_up(&component, true).await;
    let mut inbox = component.subscribe(subscribe("in", &["t/+"], true)).await.expect("subscribed");
    for expected in ["3", "4", "5", "6"] {
        let delivery = next(&mut inbox).await;
        assert_eq!(text(&delivery), expected);
        inbox.ack(delivery.token);
    }
    assert_eq!(component.queues()[0].consumer, "in");
}

#[tokio::test]
async fn subscriptions_share_the_connection_and_get_what_each_wants() {
    let broker = Broker::started();
    let component = open(&broker.url(), "shared", &[]);
    let mut all = component.subscribe(subscribe("all", &["t/#"], false)).await.expect("subscribed");
    let mut one =
        component.subscribe(subscribe("one", &["t/b", "x"], false)).await.expect("subscribed");
    let mut share = component
        .subscribe(subscribe("share", &["$share/group/s/+"], false))
        .await
        .expect("subscribed");
    for (topic, payload) in [("t/a", "1"), ("x", "2"), ("s/1", "3"), ("t/c", "4")] {
        component.publish(message(topic, payload)).await.expect("acknowledged");
    }
    for (subscription, expected) in
        [(&mut all, vec!["1", "4"]), (&mut one, vec!["2"]), (&mut share, vec!["3"])]
    {
        for payload in expected {
            let delivery = next(subscription).await;
            assert_eq!(text(&delivery), payload);
            subscription.ack(delivery.token);
        }
    }
    // Other filters: the new one sees what comes from now on, the old one is taken back.
    one.set_filters(vec![Filter::new("y").expect("a filter")]).expect("changed");
    let mut probe = component.subscribe(subscribe("probe", &["p"], false)).await.expect("granted");
    component.publish(message("x", "5")).await.expect("acknowledged");
    component.publish(message("y", "6")).await.expect("acknowledged");
    component.publish(message("p", "7")).await.expect("acknowledged");
    assert_eq!(text(&next(&mut probe).await), "7");
    assert_eq!(text(&next(&mut one).await), "6");
    // A second subscription of the name ends the first.
    let _other = component.subscribe(subscribe("one", &["y"], false)).await.expect("subscribed");
    let end = timeout(PATIENCE, one.next()).await.expect("in time");
    assert_eq!(end.expect_err("taken over").kind(), Kind::Closed);
}

/// A broker without a window sends a backlog larger than the queue: nothing is lost, nothing
/// overtakes, memory is bounded, and publishing goes on.
#[tokio::test]
async fn a_backlog_larger_than_the_queue_arrives_whole_and_in_order() {
    const COUNT: usize = 5000;
    let mut broker = Broker::with("allow_anonymous true\nmax_inflight_messages 0\n");
    broker.start();
    let component = open(&broker.url(), "slow", &[]);
    let mut inbox = component.subscribe(subscribe("in", &["t"], true)).await.expect("subscribed");
    broker.publish_lines("t", (0..COUNT).map(|n| n.to_string()));
    component.publish(message("other", "still works")).await.expect("acknowledged");
    let waiting = component.queues()[0].backlog_messages;
    assert!(waiting <= 1024, "{waiting}");
    let mut highest = None;
    while highest != Some(COUNT - 1) {
        let delivery = next(&mut inbox).await;
        let number: usize = text(&delivery).parse().expect("a number");
        let expected = highest.map_or(0, |highest| highest + 1);
        assert!(number <= expected, "{number} before {expected}");
        highest = highest.max(Some(number));
        inbox.ack(delivery.token);
    }
}

#[tokio::test]
async fn tls_checks_the_broker_and_shows_our_certificate() {
    let mut broker = Broker::with(
        "allow_anonymous true\ncafile DIR/ca.pem\ncertfile DIR/server.pem\n\
         keyfile DIR/server.key\nrequire_certificate true\n",
    );
    make_certificates(broker.dir.path());
    broker.start();
    let file = |name: &str| broker.dir.path().join(name).display().to_string();
    let url = format!("ssl://127.0.0.1:{}", broker.port);
    let authority = std::fs::read_to_string(file("ca.pem")).expect("the authority");
    let (certificate, key) = (file("client.pem"), file("client.key"));

    // One setting as text, the others as files.
    let good = [("caCert", authority.as_str()), ("clientCert", &certificate), ("clientKey", &key)];
    let component = open(&url, "trusted", &good);
    component.publish(message("t", 1)).await.expect("acknowledged over TLS");

    for (id, settings) in [("no-certificate", &good[..1]), ("wrong-authority", &good[1..])] {
        let component = open(&url, id, settings);
        let error = component.publish(message("t", 1)).await.expect_err(id);
        assert_eq!(error.kind(), Kind::Unavailable, "{id}: {error}");
        println!("{id}: {error}");
    }
}

#[tokio::test]
async fn a_wrong_password_is_named_and_a_right_one_works() {
    let mut broker = Broker::with("allow_anonymous false\npassword_file DIR/passwords\n");
    let file = broker.dir.path().join("passwords");
    let made = std::process::Command::new("mosquitto_passwd")
        .args(["-b", "-c", &file.display().to_string(), "user", "p:w"])
        .status()
        .expect("mosquitto_passwd runs");
    assert!(made.success());
    broker.start();
    let refused = open(&broker.url(), "a", &[("username", "user"), ("password", "wrong")]);
    let error = refused.publish(message("t", 1)).await.expect_err("refused");
    assert!(error.message().contains("NotAuthorized"), "{error}");
    assert!(!error.message().contains("wrong"), "{error}");
    let url = format!("mqtt://user:p%3Aw@127.0.0.1:{}", broker.port);
    open(&url, "b", &[]).publish(message("t", 1)).await.expect("acknowledged");
}

type Call<'a> = Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>;

/// Polls every call once, in order, so that all of them are under way.
async fn poll_once(calls: &mut VecDeque<Call<'_>>) {
    // One that is ready is polled again later by its owner; it must not be polled twice.
    let mut settled: Vec<Option<Result<()>>> = Vec::new();
    poll_fn(|context| {
        for call in calls.iter_mut() {
            settled.push(match call.as_mut().poll(context) {
                Poll::Ready(result) => Some(result),
                Poll::Pending => None,
            });
        }
        Poll::Ready(())
    })
    .await;
    for (call, result) in calls.iter_mut().zip(settled) {
        if let Some(result) = result {
            *call = Box::pin(std::future::ready(result));
        }
    }
}

/// All results, in the order of the calls.
async fn join(calls: Vec<Call<'_>>) -> Vec<Result<()>> {
    let mut calls: VecDeque<_> = calls.into();
    let mut results = Vec::new();
    poll_once(&mut calls).await;
    for call in calls {
        results.push(timeout(PATIENCE, call).await.expect("in time"));
    }
    results
}
