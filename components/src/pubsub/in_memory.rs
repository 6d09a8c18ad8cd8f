//! `pubsub.in-memory`: topics that end with the process.
//!
//! Options:
//! - `bytesMax` (64Mi): most bytes that wait for durable subscriptions and are retained; beyond it
//!   publishers are refused.
//! - `backlogBytesMax` (64Mi, but at most a quarter of `bytesMax`), `backlogAgeMax`, `overflow`,
//!   `forgetAfter`, `consumerID`: as in `pubsub.embedded`.
//!
//! Durable subscriptions are kept while the process lives. It has no time to live of its own, as
//! Dapr's has not: an event says in its envelope when it expires.

use super::stored::{self, Stored};
use super::{Feature, PubSub, QueueLimits};
use crate::context::Context;
use crate::error::Result;
use crate::options::Options;
use crate::storage::{Durability, Storage};
use std::sync::Arc;

/// Bytes of messages that a component holds unless told otherwise.
pub const BYTES_MAX_DEFAULT: u64 = 64 << 20;

/// So many absent subscribers may fill their queues before publishers are refused.
const QUEUES_FULL_AT_ONCE: u64 = 4;

/// Opens it.
pub fn open(options: &Options, context: &Context) -> Result<Arc<dyn PubSub>> {
    let bytes_max = options.bytes("bytesMax", BYTES_MAX_DEFAULT)?;
    let settings = stored::Settings {
        durability: Durability::Durable,
        limits: QueueLimits::from_options(options)?,
        queue_bytes_max: bytes_max / QUEUES_FULL_AT_ONCE,
        features: &[Feature::SubscribeWildcards],
    };
    options.text("consumerID");
    let storage = Storage::memory(context.clock.clone(), bytes_max);
    Ok(Arc::new(Stored::open(storage, context, settings)?))
}
