//! Delivery: subscriptions of an app, from the component's queue to the app's answer.

use crate::app::App;
use crate::blocks::Blocks;
use crate::drain::Drain;
use crate::resources::SubscriptionPlan;
use std::sync::Arc;

/// What happens to a message that the app will not take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Redelivery {
    /// One delivery per delivery of the component, as Dapr has it without a policy.
    Once,
    /// 0.5 s to 60 s, ten times, then the dead-letter topic.
    BackOff,
}

/// Runs the subscriptions of one app until the process drains: waits until the app is healthy,
/// asks it for its subscriptions (`GET /dapr/subscribe`, unless `ask` is off), joins them with
/// the declarative ones, and delivers. Pauses while the app is unhealthy.
pub async fn run(
    _app: Arc<App>,
    _blocks: Arc<Blocks>,
    _declarative: Vec<SubscriptionPlan>,
    _ask: bool,
    _redelivery: Redelivery,
    _drain: Drain,
) {
    unimplemented!()
}
