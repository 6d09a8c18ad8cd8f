//! `pubsub.embedded`: topics in the storage of this process, a stream per component name.
//!
//! Options:
//! - `durability` (`sync`): `sync` answers a publisher after the disk has the message; `interval`
//!   answers at once, and a crash may lose what the storage's `eventualFlushMs` names.
//! - `backlogBytesMax` (64Mi), `backlogAgeMax` (none), `overflow` (`drop-oldest`, or `refuse`),
//!   `forgetAfter` (720h, 0 is never): the ends of a queue whose subscriber names none.
//! - `consumerID`: accepted; a subscriber names its consumer itself.
//!
//! What no durable subscription wants and is not retained is not stored: it costs no write.

use super::stored::{self, Stored};
use super::{Feature, PubSub, QueueLimits};
use crate::context::Context;
use crate::error::Result;
use crate::options::Options;
use std::sync::Arc;

/// Opens it.
pub fn open(options: &Options, context: &Context) -> Result<Arc<dyn PubSub>> {
    let settings = stored::Settings {
        durability: stored::durability(options)?,
        limits: QueueLimits::from_options(options)?,
        // The quota is the storage's, and much larger.
        queue_bytes_max: u64::MAX,
        features: &[Feature::MessageTtl, Feature::SubscribeWildcards, Feature::BulkPubsub],
    };
    options.text("consumerID");
    let storage = (context.storage)()?;
    Ok(Arc::new(Stored::open(storage, context, settings)?))
}
