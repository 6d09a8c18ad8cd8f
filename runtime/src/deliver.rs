//! Delivery: subscriptions of an app, from the component's queue to the app's answer.
//!
//! [`run`] keeps the list of subscriptions: those of resources, whose queues open at once and fill
//! while the app is still away, and those the app tells when it is asked. Each has a worker
//! (`worker`), which holds messages in lanes (`lanes`: order within a topic, topics side by side),
//! makes events of them (`event`) and delivers them (`attempt`). [`inputs`] does the same for
//! input bindings.

mod ask;
mod attempt;
mod event;
mod feed;
pub mod inputs;
mod lanes;
mod measured;
mod worker;

use crate::app::channel::Channel;
use crate::app::{ActiveSubscription, App};
use crate::blocks::Blocks;
use crate::drain::Drain;
use crate::resources::SubscriptionPlan;
use feed::Feed;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tracing::{error, info};
use worker::Worker;

/// What happens to a message that the app will not take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Redelivery {
    /// One delivery, as Dapr has it without a policy: then the dead-letter topic. Where none is
    /// named there would be no end but loss or standstill: then as with back-off.
    Once,
    /// 0.5 s to 60 s, ten times, then the dead-letter topic, else a built-in one.
    BackOff,
}

/// Runs the subscriptions of one app until the process drains: waits until the app is healthy,
/// asks it for its subscriptions (`GET /dapr/subscribe`, unless `ask` is off), joins them with
/// the declarative ones, and delivers. Pauses while the app is unhealthy, and asks again when it
/// is back: it may be a newer version of itself.
pub async fn run(
    app: Arc<App>,
    blocks: Arc<Blocks>,
    declarative: Vec<SubscriptionPlan>,
    ask: bool,
    redelivery: Redelivery,
    mut drain: Drain,
) {
    let Some(channel) = app.channel.clone() else { return };
    if !blocks.pubsub.is_any_visible(&app) {
        return;
    }
    let is_for_app = |plan: &SubscriptionPlan| {
        plan.scopes.is_empty() || plan.scopes.iter().any(|id| **id == *app.id)
    };
    let declarative: Vec<_> = declarative.into_iter().filter(is_for_app).collect();
    let mut asked = Vec::new();
    let settled = watch::Sender::new(false);
    let mut running = Running {
        app: app.clone(),
        channel: channel.clone(),
        blocks,
        redelivery,
        settled,
        back: Arc::new(Notify::new()),
        drain: drain.clone(),
        workers: BTreeMap::new(),
    };
    running.apply(merged(&asked, &declarative), false).await;
    let mut healthy = channel.healthy();
    loop {
        if !becomes(&mut healthy, true, &mut drain).await {
            break;
        }
        if ask {
            let answer = tokio::select! {
                answer = ask::subscriptions(&app.id, &channel) => answer,
                () = drain.started() => break,
            };
            asked = answer.unwrap_or(asked);
        }
        let active = running.apply(merged(&asked, &declarative), true).await;
        app.set_subscriptions(active);
        running.settled.send_replace(true);
        let back = running.back.clone();
        tokio::select! {
            goes_on = becomes(&mut healthy, false, &mut drain) => {
                if !goes_on {
                    break;
                }
                info!(app_id = &*app.id, "the app is not healthy: deliveries pause");
                // Until it has been asked again: it may come back with other routes.
                running.settled.send_replace(false);
            }
            () = back.notified() => info!(app_id = &*app.id, "the app is back"),
        }
    }
    running.stop().await;
}

/// Waits for the app's health to be so. `false` when the process drains.
async fn becomes(healthy: &mut watch::Receiver<bool>, wanted: bool, drain: &mut Drain) -> bool {
    tokio::select! {
        changed = healthy.wait_for(|healthy| *healthy == wanted) => changed.is_ok(),
        () = drain.started() => false,
    }
}

/// The app's own subscriptions, and the declared ones for what it does not name; of two for the
/// same topic the first counts.
fn merged(asked: &[SubscriptionPlan], declarative: &[SubscriptionPlan]) -> Vec<ActiveSubscription> {
    let own = asked.iter().map(|plan| (plan, true));
    let declared = declarative.iter().map(|plan| (plan, false));
    let mut seen = BTreeSet::new();
    own.chain(declared)
        .filter(|(plan, _)| seen.insert((&plan.pubsub, &plan.topic)))
        .map(|(plan, programmatic)| ActiveSubscription { plan: plan.clone(), programmatic })
        .collect()
}

/// The workers of one app.
struct Running {
    app: Arc<App>,
    channel: Arc<Channel>,
    blocks: Arc<Blocks>,
    redelivery: Redelivery,
    settled: watch::Sender<bool>,
    back: Arc<Notify>,
    drain: Drain,
    /// By component and topic.
    workers: BTreeMap<(String, String), Handle>,
}

/// A worker under way. Dropping `stop` ends it.
struct Handle {
    plan: SubscriptionPlan,
    stop: watch::Sender<()>,
    task: JoinHandle<()>,
}

impl Handle {
    /// Ends the worker and waits until what it gave to the app is finished.
    async fn end(self) {
        drop(self.stop);
        if let Err(error) = self.task.await {
            error!(%error, "a subscription ended in a fault of ours");
        }
    }
}

impl Running {
    /// Starts what is new, ends what is gone, leaves alone what stays. Gives what is running.
    ///
    /// `is_final` is false while the app may still replace what resources declare: what cannot
    /// be started is not worth a word yet.
    async fn apply(
        &mut self,
        wanted: Vec<ActiveSubscription>,
        is_final: bool,
    ) -> Vec<ActiveSubscription> {
        self.end_all_but(&wanted).await;
        let mut active = Vec::with_capacity(wanted.len());
        for subscription in wanted {
            let plan = &subscription.plan;
            let key = (plan.pubsub.clone(), plan.topic.clone());
            if !self.workers.contains_key(&key) {
                match self.start(&subscription) {
                    Ok(handle) => {
                        self.workers.insert(key, handle);
                    }
                    Err(why) => {
                        if is_final {
                            self.refuse(plan, &why);
                        }
                        continue;
                    }
                }
            }
            active.push(subscription);
        }
        active
    }

    async fn end_all_but(&mut self, wanted: &[ActiveSubscription]) {
        let is_wanted = |plan: &SubscriptionPlan| wanted.iter().any(|other| other.plan == *plan);
        let all = std::mem::take(&mut self.workers);
        let (kept, gone) = all.into_iter().partition(|(_, handle)| is_wanted(&handle.plan));
        self.workers = kept;
        for ((pubsub, topic), handle) in gone {
            let app_id = &*self.app.id;
            info!(
                app_id,
                pubsub, topic, "subscription ends; its queue stays until it is forgotten"
            );
            handle.end().await;
        }
    }

    fn start(&self, subscription: &ActiveSubscription) -> Result<Handle, String> {
        let feed =
            Feed::new(&self.app, &self.channel, &self.blocks, subscription, self.redelivery)?;
        let (stop, stopped) = watch::channel(());
        let worker = Worker {
            feed: Arc::new(feed),
            settled: self.settled.subscribe(),
            healthy: self.channel.healthy(),
            stop: stopped,
            back: self.back.clone(),
            drain: self.drain.clone(),
        };
        Ok(Handle { plan: subscription.plan.clone(), stop, task: tokio::spawn(worker.run()) })
    }

    fn refuse(&self, plan: &SubscriptionPlan, why: &str) {
        error!(
            app_id = &*self.app.id,
            pubsub = plan.pubsub,
            topic = plan.topic,
            "subscription {} is not started: {why}",
            if plan.name.is_empty() { "of the app" } else { &plan.name }
        );
    }

    async fn stop(self) {
        for (_, handle) in self.workers {
            handle.end().await;
        }
    }
}

#[cfg(test)]
mod tests;
