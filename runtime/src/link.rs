//! Links: store-and-forward between a local and a remote pub/sub component.

use crate::drain::Drain;
use crate::resources::LinkPlan;
use pillion_components::env::Clock;
use pillion_components::pubsub::PubSub;
use std::sync::Arc;

/// Carries the topics of one link until the process drains.
pub async fn run(
    _plan: LinkPlan,
    _local: Arc<dyn PubSub>,
    _remote: Arc<dyn PubSub>,
    _clock: Clock,
    _drain: Drain,
) {
}
