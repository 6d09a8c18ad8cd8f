//! Delivery from a real component (in memory) to a real HTTP server.
//!
//! Each test publishes as an app or a device would and reads what the app was asked, in order.
//! Waits are for requests or for acknowledgements, never for time alone.

use super::attempt::{RETRIES_MAX, Step};
use super::lanes::Held;
use super::*;
use crate::app::Apps;
use crate::app::fake::FakeApp;
use crate::blocks::invoke::Invocation;
use crate::blocks::pubsub::{Publication, Publishing};
use crate::blocks::secrets::Secrets;
use crate::blocks::state::State;
use crate::blocks::{PubSubs, Registered, SecretStores, StateStores};
use crate::body::Body;
use crate::drain::{self, Shutdown};
use crate::observe::trace::TraceContext;
use crate::resources::{Access, RuleWritten};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{HeaderMap, Request, Response, StatusCode};
use pillion_components::context::Context;
use pillion_components::env::Clock;
use pillion_components::options::Options;
use pillion_components::pubsub::{Delivery, Message, PubSub, QueueStatus, in_memory};
use serde_json::Value;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

/// Longest wait for something that is due.
const SOON: Duration = Duration::from_secs(10);

/// What the app was asked.
struct Asked {
    path: String,
    headers: HeaderMap,
    event: Value,
}

impl Asked {
    /// The number that the tests publish as data.
    fn n(&self) -> i64 {
        self.event.pointer("/data/n").and_then(Value::as_i64).unwrap_or(-1)
    }
}

/// The app's answer to the `count`-th request for a path (from 0).
type Answers = fn(path: &str, count: usize) -> (u16, &'static str);

fn all_well(_: &str, _: usize) -> (u16, &'static str) {
    (200, "")
}

/// An app that answers `/dapr/subscribe` with `subscriptions` and events as told. While `gate` has
/// no permits, events wait.
async fn app_at(
    address: SocketAddr,
    subscriptions: &'static str,
    answers: Answers,
    gate: Arc<Semaphore>,
) -> (FakeApp, mpsc::UnboundedReceiver<Asked>) {
    let (tell, told) = mpsc::unbounded_channel();
    let counts = Arc::new(std::sync::Mutex::new(BTreeMap::<String, usize>::new()));
    let app = FakeApp::start_at(address, move |request: Request<Incoming>| {
        let (tell, counts, gate) = (tell.clone(), counts.clone(), gate.clone());
        async move {
            let (head, body) = request.into_parts();
            let path = head.uri.path().to_owned();
            if path == "/dapr/subscribe" {
                let status = if subscriptions.is_empty() { 404 } else { 200 };
                return answer(status, subscriptions);
            }
            let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            let event = serde_json::from_slice(&body).unwrap_or(Value::Null);
            let count = {
                let mut counts = counts.lock().expect("no panic");
                let count = counts.entry(path.clone()).or_default();
                *count += 1;
                *count - 1
            };
            let (status, text) = answers(&path, count);
            let _ = tell.send(Asked { path, headers: head.headers, event });
            let _open = gate.acquire().await;
            answer(status, text)
        }
    })
    .await;
    (app, told)
}

fn answer(status: u16, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
    response
}

struct Rig {
    app: Arc<App>,
    blocks: Arc<Blocks>,
    component: Arc<dyn PubSub>,
    told: mpsc::UnboundedReceiver<Asked>,
    fake: Option<FakeApp>,
    gate: Arc<Semaphore>,
}

/// One run of [`super::run`].
struct Run {
    shutdown: Shutdown,
    task: JoinHandle<()>,
}

impl Run {
    async fn stop(self) {
        assert!(self.shutdown.drained(SOON).await, "drained");
        self.task.await.expect("no panic");
    }
}

impl Rig {
    async fn new(subscriptions: &'static str, answers: Answers) -> Self {
        let gate = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
        let address = ([127, 0, 0, 1], 0).into();
        let (fake, told) = app_at(address, subscriptions, answers, gate.clone()).await;
        let clock = Clock::system();
        let context = Context {
            name: "pubsub".into(),
            app_id: "app1".into(),
            clock: clock.clone(),
            storage: Arc::new(|| {
                Err(pillion_components::Error::new(
                    pillion_components::Kind::Unsupported,
                    "no storage here",
                ))
            }),
        };
        let component = in_memory::open(&Options::default(), &context).expect("a component");
        let mut components = PubSubs::default();
        components.insert(Registered {
            name: "pubsub".into(),
            type_name: "pubsub.in-memory".into(),
            version: "v1".into(),
            options: Arc::new([("protectedTopics", "secret")].into_iter().collect()),
            scopes: Vec::new(),
            component: component.clone(),
        });
        let channel = Arc::new(Channel::new(fake.plan("app1")));
        channel.set_healthy(true);
        let app = App::new("app1", "default", None, Access::default(), Some(channel));
        let apps = Arc::new(Apps::default());
        let blocks = Blocks {
            state: State::new(StateStores::default(), clock.clone()),
            pubsub: Publishing::new(components, clock.clone()),
            secrets: Secrets::new(SecretStores::default()),
            invoke: Invocation::new(apps.clone(), Vec::new()),
            apps,
            shown: Vec::new(),
            endpoints: Vec::new(),
            clock,
        };
        let (app, blocks) = (Arc::new(app), Arc::new(blocks));
        Self { app, blocks, component, told, fake: Some(fake), gate }
    }

    fn channel(&self) -> &Channel {
        self.app.channel.as_ref().expect("the app has a channel")
    }

    async fn run(&self, declarative: &[SubscriptionPlan], redelivery: Redelivery) -> Run {
        let (shutdown, drain) = drain::channel();
        let (app, blocks) = (self.app.clone(), self.blocks.clone());
        self.app.set_subscriptions(Vec::new());
        let task =
            tokio::spawn(super::run(app, blocks, declarative.to_vec(), true, redelivery, drain));
        Run { shutdown, task }
    }

    /// Runs and waits until the queue of each topic is open.
    async fn started(&self, declarative: &[SubscriptionPlan], redelivery: Redelivery) -> Run {
        let run = self.run(declarative, redelivery).await;
        let is_open = |queues: &[QueueStatus]| {
            let active = self.app.subscriptions();
            let is_connected = |topic: &str| {
                let consumer = format!("app/app1/{topic}");
                queues.iter().any(|queue| queue.consumer == consumer && queue.connected)
            };
            !active.is_empty() && active.iter().all(|active| is_connected(&active.plan.topic))
        };
        self.until(is_open).await;
        run
    }

    /// Lets others go on until the queues are so.
    async fn until(&self, wanted: impl Fn(&[QueueStatus]) -> bool) {
        let all = async {
            while !wanted(&self.component.queues()) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(SOON, all).await.expect("queues as wanted");
    }

    /// Waits until nothing is left to deliver.
    async fn drained(&self) {
        self.until(|queues| queues.iter().all(|queue| queue.backlog_messages == 0)).await;
    }

    async fn publish(&self, topic: &str, n: i64) {
        self.publish_with(topic, n, &[]).await;
    }

    async fn publish_with(&self, topic: &str, n: i64, metadata: &[(&str, &str)]) {
        let trace = TraceContext::new();
        let publication = Publication {
            content_type: Some("application/json"),
            metadata: metadata.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
            body: Bytes::from(format!("{{\"n\": {n}}}")),
            trace: &trace,
        };
        let target = self.blocks.pubsub.target(&self.app, "pubsub", topic).expect("a target");
        target.publish(publication).await.expect("published");
    }

    async fn next(&mut self) -> Asked {
        timeout(SOON, self.told.recv()).await.expect("asked in time").expect("an app")
    }

    /// Paths and numbers of the next requests.
    async fn asked(&mut self, count: usize) -> Vec<(String, i64)> {
        let mut asked = Vec::new();
        for _ in 0..count {
            let next = self.next().await;
            asked.push((next.path.clone(), next.n()));
        }
        asked
    }

    fn feed(&self, plan: SubscriptionPlan) -> Feed {
        let channel = self.app.channel.as_ref().expect("the app has a channel");
        let subscription = ActiveSubscription { plan, programmatic: false };
        Feed::new(&self.app, channel, &self.blocks, &subscription, Redelivery::BackOff)
            .expect("a feed")
    }
}

fn plan(topic: &str, route: &str, dead_letter: Option<&str>) -> SubscriptionPlan {
    SubscriptionPlan {
        name: format!("declared-{topic}"),
        pubsub: "pubsub".into(),
        topic: topic.into(),
        route: route.into(),
        rules: Vec::new(),
        dead_letter_topic: dead_letter.map(str::to_owned),
        metadata: Vec::new(),
        scopes: Vec::new(),
    }
}

fn pairs(path: &str, numbers: impl IntoIterator<Item = i64>) -> Vec<(String, i64)> {
    numbers.into_iter().map(|n| (path.to_owned(), n)).collect()
}

#[tokio::test]
async fn messages_of_a_topic_arrive_in_order_as_events() {
    let mut rig = Rig::new("", all_well).await;
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
    let mut rig = Rig::new("", answers).await;
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
    let mut rig = Rig::new("", answers).await;
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
    let mut rig = Rig::new("", all_well).await;
    let plans = [plan("a", "/a", None)];
    let run = rig.started(&plans, Redelivery::Once).await;
    rig.publish_with("a", 1, &[("ttlInSeconds", "0")]).await;
    rig.publish_with("a", 2, &[("ttlInSeconds", "60")]).await;
    assert_eq!(rig.asked(1).await, pairs("/a", [2]));
    run.stop().await;
}

#[tokio::test]
async fn a_queue_fills_while_the_app_is_away_and_empties_in_order() {
    let mut rig = Rig::new("", all_well).await;
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
    let mut rig = Rig::new("", all_well).await;
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
    let mut rig = Rig::new("", all_well).await;
    let run = rig.started(&[plan("a", "/a", Some("graves"))], Redelivery::Once).await;
    let address = rig.fake.take().map(|fake| fake.address).expect("an app");
    // The listener goes with its task.
    while TcpListener::bind(address).await.is_err() {
        tokio::task::yield_now().await;
    }
    rig.publish("a", 1).await;
    rig.publish("a", 2).await;
    let (_fake, told) = app_at(address, "", all_well, rig.gate.clone()).await;
    rig.told = told;
    assert_eq!(rig.asked(2).await, pairs("/a", [1, 2]));
    rig.drained().await;
    run.stop().await;
}

#[tokio::test]
async fn a_restart_goes_on_where_it_stopped() {
    let mut rig = Rig::new("", all_well).await;
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
    let mut rig = Rig::new("", all_well).await;
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
    let mut rig = Rig::new(OWN, all_well).await;
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
    let rig = Rig::new("", answers).await;
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
