//! What every pub/sub component must do, as functions that take any of them.
//!
//! A test file of a component says `#[path = "suite/pubsub.rs"] #[macro_use] mod suite;` and
//! `conformance!(name, crate::open);`, where `open` is an async function that makes a [`Subject`]
//! on which no other case runs. What a component does not offer by its flags is skipped.
//!
//! That nothing comes is shown by what comes next, not by waiting.

#![allow(dead_code, unused_macros, reason = "each test file uses a part")]
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "tests; a seed is shown on failure")]

use bytes::Bytes;
use pillion_components::env::{self, Clock};
use pillion_components::pubsub::{
    Assurance, Delivery, Feature, IN_FLIGHT_MAX, Message, Overflow, PubSub, QueueLimits, Subscribe,
    Subscription,
};
use pillion_components::topic::Filter;
use pillion_components::{Kind, Result};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// Longest wait for something that must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What a component offers beyond the laws for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offer {
    /// Acknowledgements out of order are remembered when a subscription is opened again.
    RemembersAcks,
    /// A refused message comes before later ones of its topic.
    NacksInOrder,
    /// `except_origin` is honoured.
    LeavesOutOrigin,
    /// `retained` answers, and an empty payload forgets.
    Retained,
    /// `limits` of a subscription are honoured and counted.
    QueueLimits,
    /// `queues` lists subscriptions.
    Queues,
    /// Messages have a stable id.
    Ids,
    /// A new filter sees only what is published from then on.
    FiltersFromNow,
}

/// Everything there is to offer.
pub(crate) const ALL: &[Offer] = &[
    Offer::RemembersAcks,
    Offer::NacksInOrder,
    Offer::LeavesOutOrigin,
    Offer::Retained,
    Offer::QueueLimits,
    Offer::Queues,
    Offer::Ids,
    Offer::FiltersFromNow,
];

/// Opens the component again over what it has stored, where it stores anything. The one before was
/// dropped.
pub(crate) type Reopen = Box<dyn Fn() -> Reopened + Send + Sync>;

/// What [`Reopen`] gives.
pub(crate) type Reopened = Pin<Box<dyn Future<Output = Arc<dyn PubSub>> + Send>>;

/// A component under test.
pub(crate) struct Subject {
    pub(crate) pubsub: Arc<dyn PubSub>,
    pub(crate) offers: &'static [Offer],
    /// The component's time, where a test can move it.
    pub(crate) clock: Option<Clock>,
    pub(crate) reopen: Option<Reopen>,
    /// Kept while the test runs: a directory, a broker.
    pub(crate) holds: Box<dyn std::any::Any + Send + Sync>,
}

impl Subject {
    fn offers(&self, offer: Offer) -> bool {
        self.offers.contains(&offer)
    }

    async fn subscribe(&self, subscribe: Subscribe) -> Box<dyn Subscription> {
        self.pubsub.subscribe(subscribe).await.expect("a subscription")
    }

    async fn publish(&self, topic: &str, payload: impl ToString) {
        self.pubsub.publish(message(topic, payload)).await.expect("a publish");
    }
}

pub(crate) fn message(topic: &str, payload: impl ToString) -> Message {
    Message { topic: topic.into(), payload: Bytes::from(payload.to_string()), ..Message::default() }
}

pub(crate) fn filters(texts: &[&str]) -> Vec<Filter> {
    texts.iter().map(|text| Filter::new(text).expect("a filter")).collect()
}

pub(crate) fn live(consumer: &str, texts: &[&str]) -> Subscribe {
    Subscribe {
        consumer: consumer.to_owned(),
        filters: filters(texts),
        durable: false,
        limits: QueueLimits::default(),
        except_origin: None,
        metadata: Vec::new(),
    }
}

pub(crate) fn durable(consumer: &str, texts: &[&str]) -> Subscribe {
    Subscribe { durable: true, ..live(consumer, texts) }
}

pub(crate) async fn next(subscription: &mut Box<dyn Subscription>) -> Delivery {
    result(subscription).await.expect("a delivery")
}

async fn result(subscription: &mut Box<dyn Subscription>) -> Result<Delivery> {
    tokio::time::timeout(PATIENCE, subscription.next()).await.expect("an answer in time")
}

pub(crate) fn text(delivery: &Delivery) -> &str {
    std::str::from_utf8(&delivery.message.payload).expect("text")
}

/// The next message, acknowledged.
async fn take(subscription: &mut Box<dyn Subscription>) -> String {
    let delivery = next(subscription).await;
    subscription.ack(delivery.token);
    text(&delivery).to_owned()
}

async fn take_all(subscription: &mut Box<dyn Subscription>, count: usize) -> Vec<String> {
    let mut texts = Vec::with_capacity(count);
    for _ in 0..count {
        texts.push(take(subscription).await);
    }
    texts
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

/// Whether `next` has nothing to give at once.
async fn is_idle(subscription: &mut Box<dyn Subscription>) -> bool {
    tokio::select! {
        biased;
        _ = subscription.next() => false,
        () = std::future::ready(()) => true,
    }
}

pub(crate) async fn messages_of_a_topic_come_in_order(subject: Subject) {
    let mut subscription = subject.subscribe(live("order", &["order/+"])).await;
    for number in 0..100 {
        subject.publish(&format!("order/{}", number % 3), number).await;
    }
    let mut by_topic = BTreeMap::<String, Vec<usize>>::new();
    for _ in 0..100 {
        let delivery = next(&mut subscription).await;
        let number = text(&delivery).parse().expect("a number");
        by_topic.entry(delivery.message.topic.to_string()).or_default().push(number);
        subscription.ack(delivery.token);
    }
    assert_eq!(by_topic.len(), 3);
    assert!(by_topic.values().all(|numbers| numbers.is_sorted()), "{by_topic:?}");
}

pub(crate) async fn filters_choose_and_overlap_gives_one_copy(subject: Subject) {
    if !subject.pubsub.features().contains(&Feature::SubscribeWildcards) {
        return;
    }
    let texts = ["wild/a/#", "wild/+/x", "wild/b"];
    let mut subscription = subject.subscribe(live("wild", &texts)).await;
    for topic in ["wild/a", "wild/a/x", "wild/c/x", "wild/c/y", "wild/b", "wild/b/z", "wilder"] {
        subject.publish(topic, topic).await;
    }
    subject.publish("wild/b", "end").await;
    let taken = take_all(&mut subscription, 5).await;
    assert_eq!(taken, ["wild/a", "wild/a/x", "wild/c/x", "wild/b", "end"]);
}

pub(crate) async fn every_subscription_gets_its_copy(subject: Subject) {
    let mut left = subject.subscribe(live("copy-left", &["copy"])).await;
    let mut right = subject.subscribe(durable("copy-right", &["copy"])).await;
    for number in 0..10 {
        subject.publish("copy", number).await;
    }
    assert_eq!(take_all(&mut left, 10).await, numbers(0..10));
    assert_eq!(take_all(&mut right, 10).await, numbers(0..10));
}

pub(crate) async fn a_durable_subscription_goes_on_where_it_stopped(subject: Subject) {
    let asked = durable("goes-on", &["goes/on"]);
    let mut subscription = subject.subscribe(asked.clone()).await;
    for number in 0..5 {
        subject.publish("goes/on", number).await;
    }
    assert_eq!(take_all(&mut subscription, 2).await, numbers(0..2));
    let third = next(&mut subscription).await;
    assert_eq!(text(&third), "2");
    drop(subscription);
    for number in 5..8 {
        subject.publish("goes/on", number).await;
    }
    let mut subscription = subject.subscribe(asked).await;
    let again = next(&mut subscription).await;
    assert_eq!(text(&again), "2");
    if subject.offers(Offer::Ids) {
        assert_eq!(again.id, third.id);
        assert!(!again.id.is_empty() && !third.again && again.again);
    }
    subscription.ack(again.token);
    assert_eq!(take_all(&mut subscription, 5).await, numbers(3..8));
}

pub(crate) async fn a_durable_subscription_survives_its_component(subject: Subject) {
    let Some(reopen) = &subject.reopen else { return };
    let asked = durable("survives", &["survives/#"]);
    let mut subscription = subject.subscribe(asked.clone()).await;
    for number in 0..20 {
        subject.publish(&format!("survives/{}", number % 2), number).await;
    }
    assert_eq!(take_all(&mut subscription, 7).await, numbers(0..7));
    drop((subscription, subject.pubsub));
    let again = reopen().await;
    for number in 20..25 {
        again.publish(message("survives/0", number)).await.unwrap();
    }
    let mut subscription = again.subscribe(asked).await.unwrap();
    assert_eq!(take_all(&mut subscription, 18).await, numbers(7..25));
}

pub(crate) async fn acknowledgements_may_come_out_of_order(subject: Subject) {
    let asked = durable("acks", &["acks"]);
    let mut subscription = subject.subscribe(asked.clone()).await;
    for number in 0..20 {
        subject.publish("acks", number).await;
    }
    let mut deliveries = Vec::new();
    for _ in 0..20 {
        deliveries.push(next(&mut subscription).await);
    }
    for delivery in deliveries.iter().rev().step_by(2) {
        subscription.ack(delivery.token);
    }
    subscription.ack(u64::MAX - 1);
    drop(subscription);
    let mut subscription = subject.subscribe(asked).await;
    subject.publish("acks", "end").await;
    let mut left = Vec::new();
    while left.last().is_none_or(|text| text != "end") {
        left.push(take(&mut subscription).await);
    }
    let expected = if subject.offers(Offer::RemembersAcks) { 10 } else { left.len() - 1 };
    let mut numbers = (0..20).step_by(2).map(|n| n.to_string()).collect::<Vec<_>>();
    numbers.push("end".to_owned());
    assert!(numbers.iter().all(|number| left.contains(number)), "{left:?}");
    assert_eq!(left.len(), expected + 1, "{left:?}");
}

pub(crate) async fn a_window_holds_so_many_and_no_more(subject: Subject) {
    let mut held = subject.subscribe(durable("window", &["window"])).await;
    let mut probe = subject.subscribe(live("window-probe", &["window"])).await;
    for number in 0..IN_FLIGHT_MAX + 10 {
        subject.publish("window", number).await;
        assert_eq!(take(&mut probe).await, number.to_string());
    }
    let mut tokens = Vec::new();
    for number in 0..IN_FLIGHT_MAX {
        let delivery = next(&mut held).await;
        assert_eq!(text(&delivery), number.to_string());
        tokens.push(delivery.token);
    }
    assert!(is_idle(&mut held).await);
    for token in tokens {
        held.ack(token);
    }
    assert_eq!(take_all(&mut held, 10).await, numbers(IN_FLIGHT_MAX..IN_FLIGHT_MAX + 10));
}

pub(crate) async fn a_refused_message_comes_again(subject: Subject) {
    for (name, asked) in
        [("nack/d", durable("nack-d", &["nack/d"])), ("nack/l", live("nack-l", &["nack/l"]))]
    {
        let mut subscription = subject.subscribe(asked).await;
        for number in 0..4 {
            subject.publish(name, number).await;
        }
        let first = next(&mut subscription).await;
        let second = next(&mut subscription).await;
        subscription.nack(second.token);
        subscription.nack(first.token);
        subscription.nack(u64::MAX - 1);
        if subject.offers(Offer::NacksInOrder) {
            let again = next(&mut subscription).await;
            assert!(again.again && again.id == first.id, "{again:?}");
            subscription.ack(again.token);
            assert_eq!(take_all(&mut subscription, 3).await, numbers(1..4));
        } else {
            let mut texts = Vec::new();
            while texts.len() < 4 {
                let text = take(&mut subscription).await;
                if !texts.contains(&text) {
                    texts.push(text);
                }
            }
        }
    }
}

pub(crate) async fn a_second_subscription_takes_over(subject: Subject) {
    for asked in [durable("over-d", &["over"]), live("over-l", &["over"])] {
        let mut first = subject.subscribe(asked.clone()).await;
        subject.publish("over", "before").await;
        assert_eq!(text(&next(&mut first).await), "before");
        let mut second = subject.subscribe(asked.clone()).await;
        assert_eq!(result(&mut first).await.unwrap_err().kind(), Kind::Closed);
        assert_eq!(result(&mut first).await.unwrap_err().kind(), Kind::Closed);
        if asked.durable {
            assert_eq!(take(&mut second).await, "before");
        }
        drop(first);
        subject.publish("over", "after").await;
        assert_eq!(take(&mut second).await, "after");
    }
}

pub(crate) async fn a_waiting_subscription_hears_that_it_is_taken_over(subject: Subject) {
    let mut first = subject.subscribe(durable("waits", &["waits"])).await;
    let waiting = tokio::spawn(async move { first.next().await.map(drop) });
    tokio::task::yield_now().await;
    let mut second = subject.subscribe(durable("waits", &["waits"])).await;
    let ended = tokio::time::timeout(PATIENCE, waiting).await.expect("an answer in time");
    assert_eq!(ended.expect("no panic").unwrap_err().kind(), Kind::Closed);
    subject.publish("waits", 1).await;
    assert_eq!(take(&mut second).await, "1");
}

pub(crate) async fn a_forgotten_consumer_begins_anew(subject: Subject) {
    let asked = durable("forget", &["forget"]);
    let mut subscription = subject.subscribe(asked.clone()).await;
    subject.publish("forget", "old").await;
    assert_eq!(text(&next(&mut subscription).await), "old");
    subject.pubsub.unsubscribe("forget").await.unwrap();
    assert_eq!(result(&mut subscription).await.unwrap_err().kind(), Kind::Closed);
    drop(subscription);
    subject.publish("forget", "missed").await;
    subject.pubsub.unsubscribe("forget").await.unwrap();
    let mut subscription = subject.subscribe(asked).await;
    subject.publish("forget", "new").await;
    assert_eq!(take(&mut subscription).await, "new");
}

pub(crate) async fn what_is_not_durable_misses_what_it_is_away_for(subject: Subject) {
    let asked = live("away", &["away"]);
    let subscription = subject.subscribe(asked.clone()).await;
    subject.publish("away", "seen by nobody").await;
    drop(subscription);
    subject.publish("away", "missed").await;
    let mut subscription = subject.subscribe(asked).await;
    subject.publish("away", "new").await;
    assert_eq!(take(&mut subscription).await, "new");
}

pub(crate) async fn own_messages_are_left_out(subject: Subject) {
    if !subject.offers(Offer::LeavesOutOrigin) {
        return;
    }
    let own = Some(Arc::<str>::from("mqtt:me"));
    for asked in [durable("own-d", &["own"]), live("own-l", &["own"])] {
        let asked = Subscribe { except_origin: own.clone(), ..asked };
        let mut subscription = subject.subscribe(asked.clone()).await;
        let origins = [own.clone(), None, Some("mqtt:other".into()), own.clone()];
        for (number, origin) in origins.into_iter().enumerate() {
            let message = Message { origin, ..message("own", number) };
            subject.pubsub.publish(message).await.unwrap();
        }
        assert_eq!(take_all(&mut subscription, 1).await, numbers(1..2));
        drop(subscription);
        let mut subscription = subject.subscribe(asked.clone()).await;
        subject.publish("own", 9).await;
        if asked.durable {
            assert_eq!(take(&mut subscription).await, "2");
        }
        assert_eq!(take(&mut subscription).await, "9");
    }
}

pub(crate) async fn the_last_retained_message_is_kept(subject: Subject) {
    if !subject.offers(Offer::Retained) {
        return;
    }
    let mut reopen = subject.reopen.as_ref();
    let mut subscription = subject.subscribe(live("retained", &["retained/#"])).await;
    for (topic, payload) in [
        ("retained/a", "1"),
        ("retained/b/c", "2"),
        ("retained/a", "3"),
        ("retained/d", "4"),
        ("retained/d", ""),
    ] {
        let message = Message {
            retain: true,
            content_type: Some("text/plain".into()),
            metadata: vec![("unit".to_owned(), "C".to_owned())],
            ..message(topic, payload)
        };
        subject.pubsub.publish(message).await.unwrap();
    }
    subject.publish("retained/a", "not kept").await;
    assert_eq!(take_all(&mut subscription, 6).await, ["1", "2", "3", "4", "", "not kept"]);
    drop(subscription);
    let mut components = vec![subject.pubsub];
    while let Some(pubsub) = components.pop() {
        let texts = async |filter: &str, max: usize| {
            let filter = Filter::new(filter).unwrap();
            let kept = pubsub.retained(&filter, max).await.unwrap();
            kept.iter().map(|kept| text(kept).to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(texts("retained/#", 10).await, ["3", "2"]);
        assert_eq!(texts("retained/+", 10).await, ["3"]);
        assert_eq!(texts("retained/b/c", 10).await, ["2"]);
        assert_eq!(texts("+/b/#", 10).await, ["2"]);
        assert_eq!(texts("retained/d", 10).await, Vec::<String>::new());
        assert_eq!(texts("#", 1).await, ["3"]);
        let kept = pubsub.retained(&Filter::new("retained/a").unwrap(), 1).await.unwrap();
        assert_eq!(kept[0].message.content_type.as_deref(), Some("text/plain"));
        assert_eq!(kept[0].message.metadata, [("unit".to_owned(), "C".to_owned())]);
        assert!(kept[0].message.retain && kept[0].token == 0 && !kept[0].id.is_empty());
        drop(pubsub);
        if let Some(reopen) = reopen.take() {
            components.push(reopen().await);
        }
    }
}

pub(crate) async fn what_has_expired_is_not_delivered(subject: Subject) {
    let Some(clock) = subject.clock.clone() else { return };
    if !subject.pubsub.features().contains(&Feature::MessageTtl) {
        return;
    }
    let mut subscription = subject.subscribe(durable("ttl", &["ttl"])).await;
    let mut probe = subject.subscribe(live("ttl-probe", &["ttl"])).await;
    for (number, ttl_ms) in [Some(1_000), Some(60_000), None].into_iter().enumerate() {
        let message = Message { ttl_ms, retain: number == 0, ..message("ttl", number) };
        subject.pubsub.publish(message).await.unwrap();
    }
    clock.advance_ms(400);
    assert_eq!(next(&mut probe).await.message.ttl_ms, Some(600));
    clock.advance_ms(700);
    let second = next(&mut subscription).await;
    assert_eq!((text(&second), second.message.ttl_ms), ("1", Some(58_900)));
    subscription.ack(second.token);
    assert_eq!(take(&mut subscription).await, "2");
    if subject.offers(Offer::Retained) {
        let kept = subject.pubsub.retained(&Filter::new("ttl").unwrap(), 1).await.unwrap();
        assert!(kept.is_empty(), "{kept:?}");
    }
}

pub(crate) async fn bulk_answers_one_by_one_and_keeps_order(subject: Subject) {
    let mut subscription = subject.subscribe(durable("bulk", &["bulk"])).await;
    let mut messages = (0..50).map(|number| message("bulk", number)).collect::<Vec<_>>();
    messages.insert(20, message("bulk/#", "not a topic"));
    let results = subject.pubsub.bulk_publish(messages).await;
    assert_eq!(results.len(), 51);
    for (index, result) in results.iter().enumerate() {
        match result {
            Ok(()) => assert_ne!(index, 20),
            Err(error) => assert_eq!((index, error.kind()), (20, Kind::Invalid)),
        }
    }
    assert_eq!(take_all(&mut subscription, 50).await, numbers(0..50));
    assert!(subject.pubsub.bulk_publish(Vec::new()).await.is_empty());
}

pub(crate) async fn filters_can_be_replaced(subject: Subject) {
    for asked in [durable("set-d", &["set/a", "set/b"]), live("set-l", &["set/a", "set/b"])] {
        let mut keeper = subject.subscribe(durable("set-keeper", &["set/#"])).await;
        let mut subscription = subject.subscribe(asked.clone()).await;
        subject.publish("set/a", "a1").await;
        assert_eq!(text(&next(&mut subscription).await), "a1");
        subject.publish("set/c", "c before").await;
        subject.publish("set/b", "b dropped").await;
        let seen = take_all(&mut keeper, 3).await;
        assert_eq!(seen, ["a1", "c before", "b dropped"]);
        subscription.set_filters(filters(&["set/a", "set/c"])).unwrap();
        subject.publish("set/b", "b after").await;
        subject.publish("set/c", "c after").await;
        subject.publish("set/a", "a2").await;
        let delivery = next(&mut subscription).await;
        if subject.offers(Offer::FiltersFromNow) {
            assert_eq!(text(&delivery), "c after");
        }
        subscription.ack(delivery.token);
        assert_eq!(take(&mut subscription).await, "a2");
        drop(subscription);
        if asked.durable {
            // Its place was kept: what it held comes again, what it never wanted does not.
            let asked = Subscribe { filters: filters(&["set/a", "set/c"]), ..asked };
            let mut subscription = subject.subscribe(asked).await;
            assert_eq!(take(&mut subscription).await, "a1");
            subject.publish("set/a", "a3").await;
            assert_eq!(take(&mut subscription).await, "a3");
        }
        subject.pubsub.unsubscribe("set-keeper").await.unwrap();
    }
}

pub(crate) async fn a_topic_with_wildcards_cannot_be_published_to(subject: Subject) {
    for topic in ["", "a/+", "#"] {
        let error = subject.pubsub.publish(message(topic, 1)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{topic:?}");
    }
}

pub(crate) async fn less_sure_messages_keep_their_place_in_a_topic(subject: Subject) {
    let assurance = |number: usize| {
        if number.is_multiple_of(3) { Assurance::AtLeastOnce } else { Assurance::AtMostOnce }
    };
    let mut both = [durable("sure-d", &["sure"]), live("sure-l", &["sure"])].into_iter();
    let (Some(d), Some(l)) = (both.next(), both.next()) else { return };
    let mut durable = subject.subscribe(d).await;
    let mut live = subject.subscribe(l).await;
    // Not awaited one by one: later ones are sent while earlier ones wait for their sync.
    let pubsub = &subject.pubsub;
    let mut publishes = (0..60)
        .map(|number| {
            let message = Message { assurance: assurance(number), ..message("sure", number) };
            Box::pin(pubsub.publish(message))
        })
        .collect::<Vec<_>>();
    std::future::poll_fn(|cx| {
        publishes.retain_mut(|publish| match publish.as_mut().poll(cx) {
            std::task::Poll::Ready(result) => {
                result.expect("a publish");
                false
            }
            std::task::Poll::Pending => true,
        });
        if publishes.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    assert_eq!(take_all(&mut live, 60).await, numbers(0..60));
    assert_eq!(take_all(&mut durable, 60).await, numbers(0..60));
}

pub(crate) async fn a_less_sure_message_waits_for_who_is_away(subject: Subject) {
    if !subject.offers(Offer::RemembersAcks) {
        return;
    }
    drop(subject.subscribe(durable("qos0", &["qos0"])).await);
    for number in 0..3 {
        let message = Message { assurance: Assurance::AtMostOnce, ..message("qos0", number) };
        subject.pubsub.publish(message).await.unwrap();
    }
    let mut subscription = subject.subscribe(durable("qos0", &["qos0"])).await;
    assert_eq!(take_all(&mut subscription, 3).await, numbers(0..3));
}

pub(crate) async fn a_queue_ends_where_its_limits_say(subject: Subject) {
    if !subject.offers(Offer::QueueLimits) {
        return;
    }
    let limits = QueueLimits { backlog_bytes_max: 10_000, ..QueueLimits::default() };
    let oldest = Subscribe { limits: limits.clone(), ..durable("ends-oldest", &["ends/oldest"]) };
    drop(subject.subscribe(oldest.clone()).await);
    let payload = "x".repeat(100);
    for number in 0..1_000 {
        subject.publish("ends/oldest", format!("{number:03}{payload}")).await;
    }
    let mut subscription = subject.subscribe(oldest).await;
    let first = take(&mut subscription).await[..3].parse::<usize>().unwrap();
    assert!((900..990).contains(&first), "{first}");
    for number in first + 1..1_000 {
        assert!(take(&mut subscription).await.starts_with(&format!("{number:03}")));
    }
    let queues = subject.pubsub.queues();
    let queue = queues.iter().find(|queue| queue.consumer == "ends-oldest").unwrap();
    assert_eq!(queue.dropped_messages, first as u64);

    let limits = QueueLimits { overflow: Overflow::Refuse, ..limits };
    let refuse = Subscribe { limits, ..durable("ends-refuse", &["ends/refuse"]) };
    drop(subject.subscribe(refuse.clone()).await);
    let mut taken = 0;
    let error = loop {
        match subject.pubsub.publish(message("ends/refuse", &payload)).await {
            Ok(()) => taken += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), Kind::Overloaded, "{error}");
    assert!((80..=90).contains(&taken), "{taken}");
    let mut subscription = subject.subscribe(refuse).await;
    take_all(&mut subscription, taken).await;
    drop(subscription);
    subject.publish("ends/refuse", "room again").await;
}

pub(crate) async fn a_subscription_that_falls_behind_catches_up(subject: Subject) {
    const COUNT: usize = 3_000;
    let mut subscription = subject.subscribe(durable("behind", &["behind/#"])).await;
    for chunk in numbers(0..COUNT).chunks(500) {
        let messages = chunk.iter().map(|number| message("behind/x", number)).collect();
        for result in subject.pubsub.bulk_publish(messages).await {
            result.unwrap();
        }
    }
    assert_eq!(take_all(&mut subscription, COUNT).await, numbers(0..COUNT));
    subject.publish("behind/x", "live again").await;
    assert_eq!(take(&mut subscription).await, "live again");
    if subject.offers(Offer::Queues) {
        drop(subscription);
        let queues = subject.pubsub.queues();
        let queue = queues.iter().find(|queue| queue.consumer == "behind").unwrap();
        assert_eq!((queue.connected, queue.backlog_messages), (false, 0), "{queue:?}");
    }
}

pub(crate) async fn a_slow_listener_loses_its_oldest(subject: Subject) {
    if !subject.offers(Offer::Queues) {
        return;
    }
    const COUNT: usize = 3_000;
    let mut slow = subject.subscribe(live("slow", &["slow"])).await;
    let mut probe = subject.subscribe(live("slow-probe", &["slow"])).await;
    for number in 0..COUNT {
        subject.publish("slow", number).await;
        assert_eq!(take(&mut probe).await, number.to_string());
    }
    let first = take(&mut slow).await.parse::<usize>().unwrap();
    assert!(first > 0);
    assert_eq!(take_all(&mut slow, COUNT - first - 1).await, numbers(first + 1..COUNT));
    let queues = subject.pubsub.queues();
    let dropped = |name: &str| {
        let queue = queues.iter().find(|queue| queue.consumer == name);
        queue.map(|queue| (queue.connected, queue.dropped_messages))
    };
    assert_eq!(dropped("slow"), Some((true, first as u64)));
    assert_eq!(dropped("slow-probe"), Some((true, 0)));
}

pub(crate) async fn a_next_that_is_dropped_loses_nothing(subject: Subject) {
    let mut subscription = subject.subscribe(durable("cancel", &["cancel"])).await;
    drop(subscription);
    for number in 0..300 {
        subject.publish("cancel", number).await;
    }
    subscription = subject.subscribe(durable("cancel", &["cancel"])).await;
    let mut taken = Vec::new();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while taken.len() < 300 {
        assert!(tokio::time::Instant::now() < deadline, "after {}", taken.len());
        let delivery = tokio::select! {
            biased;
            delivery = subscription.next() => delivery.unwrap(),
            () = tokio::task::yield_now() => continue,
        };
        subscription.ack(delivery.token);
        taken.push(text(&delivery).to_owned());
    }
    assert_eq!(taken, numbers(0..300));
}

/// Publishes, takes, acknowledges, refuses, goes away and comes back at random, and holds that
/// against what must be: first deliveries of a topic in order, nothing acknowledged comes again
/// in the same process, nothing that was published is missing.
pub(crate) async fn a_long_random_life(subject: Subject) {
    if !subject.offers(Offer::RemembersAcks) {
        return;
    }
    let mut seed = env::random_u64();
    println!("seed {seed}");
    let mut pick = move |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % below
    };
    let asked = durable("random", &["random/+"]);
    let mut subscription = Some(subject.subscribe(asked.clone()).await);
    let mut held = Vec::<Delivery>::new();
    let (mut published, mut done) = (0_usize, std::collections::BTreeSet::new());
    // Topic i carries the numbers i, i + 3, i + 6, …: the next that is new.
    let mut seen = [0_usize, 1, 2];
    let mut note = |delivery: &Delivery, done: &std::collections::BTreeSet<usize>| {
        let number = text(delivery).parse::<usize>().unwrap();
        assert!(!done.contains(&number), "{number} was acknowledged and comes again");
        if number >= seen[number % 3] {
            assert_eq!(number, seen[number % 3], "it overtook an earlier one of its topic");
            seen[number % 3] = number + 3;
        } else {
            assert!(delivery.again, "{number} came before and does not say so");
        }
        number
    };
    for _ in 0..3_000 {
        match (pick(10), &mut subscription) {
            (0..4, _) => {
                let topic = format!("random/{}", published % 3);
                subject.publish(&topic, published).await;
                published += 1;
            }
            (4..7, Some(open)) if done.len() + held.len() < published && held.len() < 100 => {
                let delivery = next(open).await;
                note(&delivery, &done);
                held.push(delivery);
            }
            (7, Some(open)) if !held.is_empty() => {
                let delivery = held.swap_remove(pick(held.len()));
                done.insert(text(&delivery).parse::<usize>().unwrap());
                open.ack(delivery.token);
            }
            (8, Some(open)) if !held.is_empty() => {
                open.nack(held.swap_remove(pick(held.len())).token);
            }
            (9, open) if pick(5) == 0 => {
                held.clear();
                *open = None;
            }
            (_, open @ None) => *open = Some(subject.subscribe(asked.clone()).await),
            _ => {}
        }
    }
    let mut open = match subscription {
        Some(open) => open,
        None => subject.subscribe(asked).await,
    };
    for delivery in held {
        open.nack(delivery.token);
    }
    while done.len() < published {
        let delivery = next(&mut open).await;
        done.insert(note(&delivery, &done));
        open.ack(delivery.token);
    }
}

/// One test per case for a provider.
macro_rules! conformance {
    ($provider:ident, $make:path) => {
        mod $provider {
            conformance!(@cases $make;
                messages_of_a_topic_come_in_order
                filters_choose_and_overlap_gives_one_copy
                every_subscription_gets_its_copy
                a_durable_subscription_goes_on_where_it_stopped
                a_durable_subscription_survives_its_component
                acknowledgements_may_come_out_of_order
                a_window_holds_so_many_and_no_more
                a_refused_message_comes_again
                a_second_subscription_takes_over
                a_waiting_subscription_hears_that_it_is_taken_over
                a_forgotten_consumer_begins_anew
                what_is_not_durable_misses_what_it_is_away_for
                own_messages_are_left_out
                the_last_retained_message_is_kept
                what_has_expired_is_not_delivered
                bulk_answers_one_by_one_and_keeps_order
                filters_can_be_replaced
                a_topic_with_wildcards_cannot_be_published_to
                less_sure_messages_keep_their_place_in_a_topic
                a_less_sure_message_waits_for_who_is_away
                a_queue_ends_where_its_limits_say
                a_subscription_that_falls_behind_catches_up
                a_slow_listener_loses_its_oldest
                a_next_that_is_dropped_loses_nothing
                a_long_random_life
            );
        }
    };
    (@cases $make:path; $($case:ident)+) => {
        $(#[tokio::test]
        async fn $case() {
            $crate::suite::$case($make().await).await;
        })+
    };
}
