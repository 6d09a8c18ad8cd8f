//! Keeps the number of retained messages within `retained_max`.
//!
//! Counting reads all of them, so it is done rarely: what a count leaves room for is handed out,
//! one for each message that is retained, whether its topic is new or not. Only when nothing is
//! left is it looked whether the topic is new, and counted again.

use super::Door;
use crate::broker::packet::Version;
use pillion_components::pubsub::Message;
use pillion_components::topic::Filter;
use pillion_components::{Error, Kind, Result};
use std::sync::atomic::{AtomicU64, Ordering};

/// Shortest time between two counts.
const COUNT_EVERY_MS: u64 = 10_000;

/// What is left of `retained_max`, as far as known.
#[derive(Debug, Default)]
pub(super) struct Room {
    left: AtomicU64,
    counted_ms: AtomicU64,
}

impl Room {
    fn take(&self) -> bool {
        let less = |left: u64| left.checked_sub(1);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }
}

impl Door {
    /// Counts what is retained.
    pub(super) async fn count_retained(&self) -> Result<()> {
        self.room.counted_ms.store(self.clock.now_ms(), Ordering::Relaxed);
        let count = self.pubsub.retained_count().await?.unwrap_or(0);
        // Records of sessions have a bound of their own.
        let count = count.saturating_sub(self.sessions().persistent() as u64);
        let left = u64::from(self.limits.retained_max).saturating_sub(count);
        self.room.left.store(left, Ordering::Relaxed);
        Ok(())
    }

    /// Publishes a message that is to be retained. One that there is no room for is refused in
    /// MQTT 5; 3.1.1 has no word for that, so there it is published and not retained.
    pub(super) async fn publish_retained(
        &self,
        mut message: Message,
        version: Version,
    ) -> Result<()> {
        if !self.room.take() && !self.finds_room(&message.topic).await? {
            self.count_dropped("retained-max");
            if version == Version::V5 {
                return Err(Error::new(Kind::Overloaded, "too many retained messages"));
            }
            message.retain = false;
        }
        self.pubsub.publish(message).await
    }

    async fn finds_room(&self, topic: &str) -> Result<bool> {
        if !self.pubsub.retained(&Filter::new(topic)?, 1).await?.is_empty() {
            return Ok(true);
        }
        let counted_ms = self.room.counted_ms.load(Ordering::Relaxed);
        if self.clock.now_ms().saturating_sub(counted_ms) >= COUNT_EVERY_MS {
            self.count_retained().await?;
        }
        Ok(self.room.take())
    }
}
