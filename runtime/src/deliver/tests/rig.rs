//! One app, one component and what the app was asked.

use crate::app::channel::Channel;
use crate::app::fake::FakeApp;
use crate::app::{ActiveSubscription, App, Apps};
use crate::blocks::invoke::Invocation;
use crate::blocks::pubsub::{Publication, Publishing};
use crate::blocks::secrets::Secrets;
use crate::blocks::state::State;
use crate::blocks::{Blocks, PubSubs, Registered, SecretStores, StateStores};
use crate::body::Body;
use crate::deliver::Redelivery;
use crate::deliver::feed::Feed;
use crate::drain::{self, Shutdown};
use crate::observe::trace::TraceContext;
use crate::resources::{Access, SubscriptionPlan};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{HeaderMap, Request, Response, StatusCode};
use pillion_components::context::Context;
use pillion_components::env::Clock;
use pillion_components::options::Options;
use pillion_components::pubsub::{PubSub, QueueStatus, in_memory};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Longest wait for something that is due.
const SOON: Duration = Duration::from_secs(10);

/// What the app was asked.
pub(super) struct Asked {
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) event: Value,
}

impl Asked {
    /// The number that the tests publish as data.
    pub(super) fn n(&self) -> i64 {
        self.event.pointer("/data/n").and_then(Value::as_i64).unwrap_or(-1)
    }
}

/// The app's answer to the `count`-th request for a path (from 0).
pub(super) type Answers = fn(path: &str, count: usize) -> (u16, &'static str);

/// What the app answers to its `count`-th `/dapr/subscribe` (from 0); empty is a 404.
pub(super) type Own = fn(count: usize) -> &'static str;

pub(super) fn no_list(_: usize) -> &'static str {
    ""
}

pub(super) fn all_well(_: &str, _: usize) -> (u16, &'static str) {
    (200, "")
}

/// An app that answers `/dapr/subscribe` and events as told. While `gate` has
/// no permits, events wait.
pub(super) async fn app_at(
    address: SocketAddr,
    own: Own,
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
            let count = {
                let mut counts = counts.lock().expect("no panic");
                let count = counts.entry(path.clone()).or_default();
                *count += 1;
                *count - 1
            };
            if path == "/dapr/subscribe" {
                let list = own(count);
                return answer(if list.is_empty() { 404 } else { 200 }, list);
            }
            let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            let event = serde_json::from_slice(&body).unwrap_or(Value::Null);
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

pub(super) struct Rig {
    pub(super) app: Arc<App>,
    blocks: Arc<Blocks>,
    pub(super) component: Arc<dyn PubSub>,
    pub(super) told: mpsc::UnboundedReceiver<Asked>,
    pub(super) fake: Option<FakeApp>,
    pub(super) gate: Arc<Semaphore>,
}

/// One run of [`super::run`].
pub(super) struct Run {
    pub(super) shutdown: Shutdown,
    task: JoinHandle<()>,
}

impl Run {
    pub(super) async fn stop(self) {
        assert!(self.shutdown.drained(SOON).await, "drained");
        self.task.await.expect("no panic");
    }
}

impl Rig {
    pub(super) async fn new(own: Own, answers: Answers) -> Self {
        let gate = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
        let address = ([127, 0, 0, 1], 0).into();
        let (fake, told) = app_at(address, own, answers, gate.clone()).await;
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
            notices: Box::new(Vec::new),
            state: State::new(StateStores::default(), clock.clone()),
            pubsub: Publishing::new(components, clock.clone()),
            secrets: Secrets::new(SecretStores::default()),
            configuration: crate::blocks::configuration::Configuration::new(Default::default()),
            locks: crate::blocks::lock::Locks::new(Default::default()),
            bindings: std::sync::Arc::new(crate::blocks::bindings::Bindings::new(
                Default::default(),
            )),
            #[cfg(feature = "crypto")]
            crypto: crate::blocks::crypto::Crypto::new(Default::default()),
            invoke: Invocation::new(apps.clone(), Vec::new()),
            apps,
            shown: Vec::new(),
            endpoints: Vec::new(),
            clock,
        };
        let (app, blocks) = (Arc::new(app), Arc::new(blocks));
        Self { app, blocks, component, told, fake: Some(fake), gate }
    }

    pub(super) fn channel(&self) -> &Channel {
        self.app.channel.as_ref().expect("the app has a channel")
    }

    pub(super) async fn run(
        &self,
        declarative: &[SubscriptionPlan],
        redelivery: Redelivery,
    ) -> Run {
        let (shutdown, drain) = drain::channel();
        let (app, blocks) = (self.app.clone(), self.blocks.clone());
        self.app.set_subscriptions(Vec::new());
        let task = tokio::spawn(crate::deliver::run(
            app,
            blocks,
            declarative.to_vec(),
            true,
            redelivery,
            drain,
        ));
        Run { shutdown, task }
    }

    /// Runs and waits until the queue of each topic is open.
    pub(super) async fn started(
        &self,
        declarative: &[SubscriptionPlan],
        redelivery: Redelivery,
    ) -> Run {
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
    pub(super) async fn until(&self, wanted: impl Fn(&[QueueStatus]) -> bool) {
        let all = async {
            while !wanted(&self.component.queues()) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(SOON, all).await.expect("queues as wanted");
    }

    /// Waits until nothing is left to deliver.
    pub(super) async fn drained(&self) {
        self.until(|queues| queues.iter().all(|queue| queue.backlog_messages == 0)).await;
    }

    pub(super) async fn publish(&self, topic: &str, n: i64) {
        self.publish_with(topic, n, &[]).await;
    }

    pub(super) async fn publish_with(&self, topic: &str, n: i64, metadata: &[(&str, &str)]) {
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

    /// How often the app was asked for its subscriptions.
    pub(super) fn asked_for_list(&self) -> usize {
        let requests = self.fake.as_ref().map(FakeApp::requests).unwrap_or_default();
        requests.iter().filter(|head| head.uri.path() == "/dapr/subscribe").count()
    }

    pub(super) async fn next(&mut self) -> Asked {
        timeout(SOON, self.told.recv()).await.expect("asked in time").expect("an app")
    }

    /// Paths and numbers of the next requests.
    pub(super) async fn asked(&mut self, count: usize) -> Vec<(String, i64)> {
        let mut asked = Vec::new();
        for _ in 0..count {
            let next = self.next().await;
            asked.push((next.path.clone(), next.n()));
        }
        asked
    }

    pub(super) fn feed(&self, plan: SubscriptionPlan) -> Feed {
        let channel = self.app.channel.as_ref().expect("the app has a channel");
        let subscription = ActiveSubscription { plan, programmatic: false };
        Feed::new(&self.app, channel, &self.blocks, &subscription, Redelivery::BackOff)
            .expect("a feed")
    }
}

pub(super) fn plan(topic: &str, route: &str, dead_letter: Option<&str>) -> SubscriptionPlan {
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

pub(super) fn pairs(path: &str, numbers: impl IntoIterator<Item = i64>) -> Vec<(String, i64)> {
    numbers.into_iter().map(|n| (path.to_owned(), n)).collect()
}
