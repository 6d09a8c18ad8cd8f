//! The driver of one direction of a link: awaits, and tells the engine what happened.

use super::engine::{Action, End, Engine, FlowRules, Ticket};
use super::mapping::Mapping;
use crate::drain::Drain;
use crate::observe::metrics::families::{LINK_CONNECTED, LINK_MESSAGES, QUEUE_DROPPED};
use crate::resources::FlowPlan;
use pillion_components::backoff::Backoff;
use pillion_components::env::{self, Clock};
use pillion_components::pubsub::{Assurance, Delivery, Message, PubSub, Subscribe, Subscription};
use pillion_components::{Error, Kind, Result};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Messages between the sources and the driver; what is taken ahead is bounded by the engine.
const ARRIVALS: usize = 8;
/// At shutdown, time for the answers to what was sent, so that it need not be sent again.
const LAST_ANSWERS: Duration = Duration::from_secs(2);
/// Waits between attempts to open a subscription at the source.
const REOPEN_MIN_MS: u64 = 250;
const REOPEN_MAX_MS: u64 = 30_000;

/// Which way the messages go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Up,
    Down,
}

impl Direction {
    const fn name(self) -> &'static str {
        match self {
            Direction::Up => "up",
            Direction::Down => "down",
        }
    }
}

/// One direction of a link.
#[derive(Clone)]
pub(super) struct Way {
    pub(super) link: Arc<str>,
    pub(super) direction: Direction,
    pub(super) flows: Vec<FlowPlan>,
    pub(super) source: Arc<dyn PubSub>,
    pub(super) target: Arc<dyn PubSub>,
    pub(super) clock: Clock,
}

/// What a source tells the driver.
enum FromSource {
    Message(usize, Delivery),
    /// It gives again what was not done with.
    Restarted(usize),
}

/// The driver's handle on one source.
struct Source {
    done: mpsc::UnboundedSender<Done>,
    wanted: watch::Sender<bool>,
    /// How often it began anew: a token is good for one subscription only.
    restarts: u64,
}

/// A token that is done with.
struct Done {
    restarts: u64,
    token: u64,
}

/// Carries until the process drains.
pub(super) async fn run(way: Way, mut drain: Drain) {
    if way.flows.is_empty() {
        return;
    }
    let mut tasks = JoinSet::new();
    let (to_driver, mut arrivals) = mpsc::channel(ARRIVALS);
    let mut sources = Vec::new();
    for (index, flow) in way.flows.iter().enumerate() {
        // Unbounded, but holds at most one token per message in flight.
        let (done, done_tokens) = mpsc::unbounded_channel();
        let wanted = watch::Sender::new(false);
        let feed = Feed {
            index,
            subscribe: way.subscribe(flow),
            source: way.source.clone(),
            link: way.link.clone(),
            to_driver: to_driver.clone(),
            wanted: wanted.subscribe(),
            done: done_tokens,
            restarts: 0,
        };
        tasks.spawn(feed.run());
        sources.push(Source { done, wanted, restarts: 0 });
    }
    drop(to_driver);
    let mut driver = Driver::new(&way, sources);
    tokio::select! {
        () = driver.run(&mut arrivals) => {}
        () = drain.started() => {}
    }
    // Only an answer that is in moves the queue; what is not answered is sent again next time.
    let _ = timeout(LAST_ANSWERS, driver.last_answers()).await;
    drop((driver, arrivals));
    // The sources pass on what was acknowledged and end; one that is stuck is aborted.
    let _ = timeout(LAST_ANSWERS, async { while tasks.join_next().await.is_some() {} }).await;
}

/// Shows whether the remote can be reached, until the process drains.
pub(super) async fn watch(link: &str, remote: &dyn PubSub, mut drain: Drain) {
    let gauge = LINK_CONNECTED.with(&[link]);
    let Some(mut connectivity) = remote.connectivity() else {
        gauge.set(i64::from(remote.reachable().is_ok()));
        return;
    };
    loop {
        let up = *connectivity.borrow_and_update();
        gauge.set(i64::from(up));
        tokio::select! {
            changed = connectivity.changed() => if changed.is_err() { return },
            () = drain.started() => return,
        }
    }
}

impl Way {
    /// The name stays when other flows come and go.
    fn consumer(&self, flow: &FlowPlan) -> String {
        format!("link/{}/{}/{}", self.link, self.direction.name(), flow.filter)
    }

    fn origin(&self) -> Arc<str> {
        format!("link:{}", self.link).into()
    }

    fn subscribe(&self, flow: &FlowPlan) -> Result<Subscribe> {
        let filter = match self.direction {
            Direction::Up => flow.filter.clone(),
            Direction::Down => {
                Mapping::new(flow.map_to.as_deref()).filter_to_remote(&flow.filter)?
            }
        };
        Ok(Subscribe {
            consumer: self.consumer(flow),
            filters: vec![filter],
            durable: true,
            limits: flow.limits.clone(),
            except_origin: Some(self.origin()),
            metadata: Vec::new(),
        })
    }

    /// The message as the target gets it: bytes as published. `None` when it has no name there.
    fn translate(&self, flow: &FlowPlan, message: &Message) -> Option<Message> {
        let mapping = Mapping::new(flow.map_to.as_deref());
        let topic = match self.direction {
            Direction::Up => mapping.to_remote(&message.topic),
            Direction::Down => mapping.to_local(&message.topic)?,
        };
        let assurance = if flow.qos == 0 { Assurance::AtMostOnce } else { Assurance::AtLeastOnce };
        let origin = (self.direction == Direction::Down).then(|| self.origin());
        let mut message = Message { topic, assurance, origin, ..message.clone() };
        // What a component says about its own delivery does not travel.
        message.metadata.retain(|(name, _)| name != "retained");
        Some(message)
    }
}

struct Driver<'a> {
    way: &'a Way,
    engine: Engine,
    window: Window<'a>,
    sources: Vec<Source>,
    delivered: Arc<crate::observe::metrics::Counter>,
}

impl<'a> Driver<'a> {
    fn new(way: &'a Way, sources: Vec<Source>) -> Self {
        let rule = |flow: &FlowPlan| FlowRules { priority: flow.priority, rate: flow.rate };
        let rules: Vec<FlowRules> = way.flows.iter().map(rule).collect();
        let reachable = way.target.connectivity().is_none_or(|up| *up.borrow());
        let engine = Engine::new(&rules, reachable, way.clock.now_ms(), env::random_u64());
        let delivered = LINK_MESSAGES.with(&[way.direction.name(), &way.link]);
        Self { way, engine, window: Window::default(), sources, delivered }
    }

    async fn run(&mut self, arrivals: &mut mpsc::Receiver<FromSource>) {
        let mut connectivity = self.way.target.connectivity();
        loop {
            let wake_ms = self.act();
            let now_ms = self.way.clock.now_ms();
            let pause = wake_ms.map(|ms| Duration::from_millis(ms.saturating_sub(now_ms)));
            tokio::select! {
                (ticket, result) = self.window.next() => self.answered(ticket, result),
                arrival = arrivals.recv() => match arrival {
                    Some(arrival) => self.arrived(arrival),
                    None => return,
                },
                up = changed(&mut connectivity) => self.engine.reachable(up),
                () = sleep(pause.unwrap_or_default()), if pause.is_some() => {}
            }
        }
    }

    /// Does what the engine says; when to ask it again.
    fn act(&mut self) -> Option<u64> {
        let (actions, wake_ms) = self.engine.poll(self.way.clock.now_ms());
        for action in actions {
            match action {
                Action::Send(ticket, message) => self.send(ticket, &message),
                Action::Done { flow, token, end } => self.done(flow, token, end),
            }
        }
        for (index, source) in self.sources.iter().enumerate() {
            let wanted = self.engine.wants(index);
            source.wanted.send_if_modified(|known| std::mem::replace(known, wanted) != wanted);
        }
        wake_ms
    }

    fn send(&mut self, ticket: Ticket, message: &Message) {
        let flow = self.way.flows.get(ticket.flow);
        let answer = match flow.and_then(|flow| self.way.translate(flow, message)) {
            Some(message) => self.way.target.publish(message),
            None => Box::pin(async { Err(Error::new(Kind::Invalid, "outside the flow's prefix")) }),
        };
        self.window.push(ticket, answer);
    }

    fn answered(&mut self, ticket: Ticket, result: Result<()>) {
        if let Err(error) = &result {
            tracing::debug!(
                link = %self.way.link, direction = self.way.direction.name(), %error,
                "a message was not taken"
            );
        }
        let now_ms = self.way.clock.now_ms();
        self.engine.answered(ticket, result.map_err(|error| error.kind()), now_ms);
    }

    fn arrived(&mut self, arrival: FromSource) {
        let now_ms = self.way.clock.now_ms();
        match arrival {
            FromSource::Message(flow, delivery) => {
                self.engine.arrived(flow, delivery.token, delivery.message, now_ms);
            }
            FromSource::Restarted(flow) => {
                self.engine.source_restarted(flow, now_ms);
                if let Some(source) = self.sources.get_mut(flow) {
                    source.restarts += 1;
                }
            }
        }
    }

    fn done(&self, flow: usize, token: u64, end: End) {
        if let Some(source) = self.sources.get(flow) {
            // A source that is gone gives the message again.
            let _ = source.done.send(Done { restarts: source.restarts, token });
        }
        let reason = match end {
            End::Delivered => return self.delivered.inc(),
            End::Refused => "refused",
            End::Expired => "expired",
        };
        let consumer = self.way.flows.get(flow).map(|flow| self.way.consumer(flow));
        let consumer = consumer.unwrap_or_default();
        QUEUE_DROPPED.with(&[&self.way.link, &consumer, reason]).inc();
        tracing::warn!(link = %self.way.link, consumer, reason, "a message was dropped");
    }

    /// Waits for the answers to what was sent.
    async fn last_answers(&mut self) {
        self.engine.reachable(false);
        while !self.window.is_empty() {
            let (ticket, result) = self.window.next().await;
            self.answered(ticket, result);
            self.act();
        }
    }
}

/// The next change; never, for a target that can always be reached. Cancel safe.
async fn changed(connectivity: &mut Option<watch::Receiver<bool>>) -> bool {
    if let Some(watch) = connectivity
        && watch.changed().await.is_ok()
    {
        return *watch.borrow_and_update();
    }
    std::future::pending().await
}

/// Publishes under way, polled in the order in which they were begun: this is what makes their
/// order that of the calls.
#[derive(Default)]
struct Window<'a> {
    answers: VecDeque<(Ticket, PendingAnswer<'a>)>,
}

type PendingAnswer<'a> = Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>;

impl<'a> Window<'a> {
    fn push(&mut self, ticket: Ticket, answer: PendingAnswer<'a>) {
        self.answers.push_back((ticket, answer));
    }

    fn is_empty(&self) -> bool {
        self.answers.is_empty()
    }

    /// The next answer; waits for ever while nothing is under way. Cancel safe.
    async fn next(&mut self) -> (Ticket, Result<()>) {
        poll_fn(|context| {
            for index in 0..self.answers.len() {
                let Some((ticket, answer)) = self.answers.get_mut(index) else { break };
                if let Poll::Ready(result) = answer.as_mut().poll(context) {
                    let ticket = *ticket;
                    self.answers.remove(index);
                    return Poll::Ready((ticket, result));
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// One flow's subscription at the source, in a task of its own because it must take
/// acknowledgements while it waits for messages. Ends when the driver drops its handle.
struct Feed {
    index: usize,
    subscribe: Result<Subscribe>,
    source: Arc<dyn PubSub>,
    link: Arc<str>,
    to_driver: mpsc::Sender<FromSource>,
    wanted: watch::Receiver<bool>,
    done: mpsc::UnboundedReceiver<Done>,
    restarts: u64,
}

impl Feed {
    async fn run(mut self) {
        let subscribe = match self.subscribe.clone() {
            Ok(subscribe) => subscribe,
            Err(error) => {
                tracing::error!(link = %self.link, %error, "a flow cannot be carried");
                return;
            }
        };
        let mut backoff = Backoff::new(REOPEN_MIN_MS, REOPEN_MAX_MS, env::random_u64());
        loop {
            match self.source.subscribe(subscribe.clone()).await {
                Ok(subscription) => {
                    if let Err(error) = self.feed(subscription, &mut backoff).await {
                        tracing::warn!(link = %self.link, %error, "a flow's queue ended");
                    }
                }
                Err(error) => {
                    tracing::warn!(link = %self.link, %error, "a flow's queue cannot be opened");
                }
            }
            tokio::select! {
                () = sleep(Duration::from_millis(backoff.next_ms())) => {}
                () = closed(&mut self.done) => return,
            }
            self.restarts += 1;
            if self.to_driver.send(FromSource::Restarted(self.index)).await.is_err() {
                return;
            }
        }
    }

    /// Passes messages on while they are wanted. `Ok` when the driver is gone.
    async fn feed(
        &mut self,
        mut subscription: Box<dyn Subscription>,
        backoff: &mut Backoff,
    ) -> Result<()> {
        let mut driver_listens = true;
        loop {
            let wanted = driver_listens && *self.wanted.borrow_and_update();
            tokio::select! {
                biased;
                done = self.done.recv() => match done {
                    // A token of a subscription before this one means nothing to it.
                    Some(done) if done.restarts != self.restarts => {}
                    Some(done) => subscription.ack(done.token),
                    None => return Ok(()),
                },
                delivery = subscription.next(), if wanted => {
                    backoff.reset();
                    let message = FromSource::Message(self.index, delivery?);
                    driver_listens = self.to_driver.send(message).await.is_ok();
                }
                // An error means that the driver is gone, which `done` says after its last token.
                _ = self.wanted.changed() => {}
            }
        }
    }
}

/// Resolves when the driver's handle is gone; drops tokens of a subscription that ended.
async fn closed(done: &mut mpsc::UnboundedReceiver<Done>) {
    while done.recv().await.is_some() {}
}
