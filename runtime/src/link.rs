//! Links: store-and-forward between a local and a remote pub/sub component.
//!
//! A link has two directions and each is the same: durable queues at the source, one per flow, and
//! a target that acknowledges. [`engine`] decides what is sent, repeated and forgotten; [`carry`]
//! drives it. Up, the queues are the local component's, so what waits for the cloud is on our
//! disk. Down, they are the remote's, and a message is acknowledged to it after our commit.
//!
//! What a flow took from the remote carries the origin `link:{name}`, which the same link's way up
//! leaves out.

mod carry;
mod engine;
mod mapping;

use crate::drain::Drain;
use crate::resources::LinkPlan;
use carry::{Direction, Way};
use pillion_components::env::Clock;
use pillion_components::pubsub::PubSub;
use std::sync::Arc;

/// Carries the topics of one link until the process drains.
pub async fn run(
    plan: LinkPlan,
    local: Arc<dyn PubSub>,
    remote: Arc<dyn PubSub>,
    clock: Clock,
    drain: Drain,
) {
    let way = |direction, source: &Arc<dyn PubSub>, target: &Arc<dyn PubSub>| Way {
        link: plan.name.as_str().into(),
        direction,
        flows: match direction {
            Direction::Up => plan.up.clone(),
            Direction::Down => plan.down.clone(),
        },
        source: source.clone(),
        target: target.clone(),
        clock: clock.clone(),
    };
    let up = way(Direction::Up, &local, &remote);
    let down = way(Direction::Down, &remote, &local);
    tokio::join!(
        carry::run(up, drain.clone()),
        carry::run(down, drain.clone()),
        carry::watch(&plan.name, &*remote, drain.clone()),
    );
}
