//! The task of one subscription: takes messages, starts deliveries, acknowledges what is done.

use super::attempt::{PAUSE_MAX, PAUSE_MIN, Step, pause_after};
use super::feed::Feed;
use super::lanes::{Held, Key, Lanes};
use crate::drain::Drain;
use pillion_components::Kind;
use pillion_components::pubsub::{Delivery, Subscription};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{error, warn};

/// Longest pause between two looks whether an app that was away is back.
const AWAY_PAUSE_MAX: Duration = Duration::from_secs(5);

/// What a worker needs besides its subscription.
pub(super) struct Worker {
    pub(super) feed: Arc<Feed>,
    /// The app was asked what it wants: delivery may go on. Until then the queue is only kept open.
    pub(super) settled: watch::Receiver<bool>,
    /// The app can be called.
    pub(super) healthy: watch::Receiver<bool>,
    /// Closed when the subscription ends.
    pub(super) stop: watch::Receiver<()>,
    /// Told when the app answers after it was away.
    pub(super) back: Arc<Notify>,
    pub(super) drain: Drain,
}

/// Why a subscription is no longer served.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// Somebody said so.
    Stopped,
    /// The component ended it.
    Closed,
}

impl Worker {
    /// Serves the subscription until it is stopped or the process drains. What the app was given
    /// is finished and acknowledged first.
    pub(super) async fn run(mut self) {
        let mut pause = PAUSE_MIN;
        loop {
            let opened = tokio::select! {
                biased;
                () = self.drain.started() => return,
                _ = self.stop.changed() => return,
                opened = self.feed.open() => opened,
            };
            match opened {
                Ok(subscription) => {
                    let began = Instant::now();
                    if self.serve(subscription).await == End::Stopped {
                        return;
                    }
                    if began.elapsed() > PAUSE_MAX {
                        pause = PAUSE_MIN;
                    }
                    self.complain("the component ended the subscription, opening it again");
                }
                Err(error) => {
                    self.complain(&format!("the subscription cannot be opened yet: {error}"));
                }
            }
            tokio::select! {
                () = self.drain.started() => return,
                _ = self.stop.changed() => return,
                () = sleep(pause) => pause = (pause * 2).min(PAUSE_MAX),
            }
        }
    }

    async fn serve(&mut self, mut subscription: Box<dyn Subscription>) -> End {
        let mut work = Work::default();
        let end = loop {
            let now = Instant::now();
            work.lanes.wake(now);
            let is_here = *self.settled.borrow() && *self.healthy.borrow();
            let is_active = is_here && work.away_until.is_none_or(|until| until <= now);
            if is_active {
                work.start(&self.feed);
            }
            let wake = if is_active { work.lanes.next_wake() } else { work.away_until };
            tokio::select! {
                biased;
                () = self.drain.started() => break End::Stopped,
                _ = self.stop.changed() => break End::Stopped,
                Some(finished) = work.tasks.join_next_with_id() => {
                    if work.settle(finished, subscription.as_mut()) {
                        self.back.notify_one();
                    }
                }
                changed = self.healthy.changed() => {
                    if changed.is_err() {
                        break End::Stopped;
                    }
                    work.away_until = None;
                }
                changed = self.settled.changed() => {
                    if changed.is_err() {
                        break End::Stopped;
                    }
                }
                () = sleep_until(wake.unwrap_or(now)), if is_here && wake.is_some() => {}
                next = subscription.next(), if is_active && work.lanes.has_room() => match next {
                    Ok(delivery) => work.hold(delivery, self.feed.is_parallel),
                    Err(error) if error.kind() == Kind::Closed => break End::Closed,
                    Err(error) => {
                        self.complain(&format!("no message can be taken now: {error}"));
                        work.pause();
                    }
                },
            }
        };
        while let Some(finished) = work.tasks.join_next_with_id().await {
            work.settle(finished, subscription.as_mut());
        }
        end
    }

    fn complain(&self, what: &str) {
        let plan = &self.feed.plan;
        warn!(app_id = &*self.feed.app.id, pubsub = plan.pubsub, topic = plan.topic, "{what}");
    }
}

/// Messages in hand and deliveries under way.
#[derive(Default)]
struct Work {
    lanes: Lanes,
    tasks: JoinSet<Step>,
    running: HashMap<Id, (Key, Held)>,
    /// Nothing is started or taken before.
    away_until: Option<Instant>,
    away_times: u32,
}

impl Work {
    fn hold(&mut self, delivery: Delivery, is_parallel: bool) {
        let ttl = delivery.message.ttl_ms.map(Duration::from_millis);
        let expires = ttl.and_then(|ttl| Instant::now().checked_add(ttl));
        let lane = if is_parallel { delivery.token } else { 0 };
        let key = (delivery.message.topic.clone(), lane);
        self.lanes.push(key, Held { delivery, failures: 0, expires });
    }

    fn start(&mut self, feed: &Arc<Feed>) {
        while let Some((key, held)) = self.lanes.start() {
            let (feed, message) = (feed.clone(), held.clone());
            let task = self.tasks.spawn(async move { feed.attempt(&message).await });
            self.running.insert(task.id(), (key, held));
        }
    }

    /// Does what a delivery's outcome asks for. Gives whether the app is back after it was away.
    fn settle(
        &mut self,
        finished: Result<(Id, Step), JoinError>,
        subscription: &mut dyn Subscription,
    ) -> bool {
        let (id, step) = match finished {
            Ok((id, step)) => (id, Some(step)),
            Err(error) => {
                error!(%error, "a delivery ended in a fault of ours, the message is kept");
                (error.id(), None)
            }
        };
        let Some((key, mut held)) = self.running.remove(&id) else { return false };
        let now = Instant::now();
        let is_back = self.away_times > 0 && step.is_some_and(|step| step != Step::Away);
        if is_back {
            self.away_times = 0;
        }
        match step.unwrap_or(Step::Again(pause_after(held.failures + 1))) {
            Step::Done => {
                subscription.ack(held.delivery.token);
                self.lanes.done(key, &held);
            }
            Step::Again(pause) => {
                held.failures = held.failures.saturating_add(1);
                self.lanes.again(key, held, now + pause);
            }
            Step::Away => {
                self.lanes.again(key, held, now);
                self.pause();
            }
        }
        is_back
    }

    /// Stands still for a while, longer each time in a row.
    fn pause(&mut self) {
        let now = Instant::now();
        if self.away_until.is_none_or(|until| until <= now) {
            self.away_times = self.away_times.saturating_add(1);
            self.away_until = Some(now + pause_after(self.away_times).min(AWAY_PAUSE_MAX));
        }
    }
}
