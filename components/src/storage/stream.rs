//! One stream in memory: its position, its consumers, and the records that no checkpoint has
//! taken over yet.

use super::backlog::{Backlog, Dropped};
use super::engine::Reserved;
use super::format::{self, Logged};
use super::keys::Place;
use super::{Consumer, Record};
use crate::error::Result;
use crate::pubsub::{IN_FLIGHT_MAX, Message};
use crate::topic::Filter;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Memory that a record in the index costs beside its message.
pub(super) const RECORD_BYTES: usize = 96;

/// A batch that has not been written yet.
pub(super) const UNWRITTEN: u64 = u64::MAX;

/// A record, or where it is.
#[derive(Debug, Clone)]
pub(super) enum Kept {
    Inline(Record),
    Log(Place),
}

/// A durable consumer and what waits for it.
#[derive(Debug, Clone)]
pub(super) struct Follower {
    pub(super) consumer: Consumer,
    pub(super) backlog: Backlog,
    /// Its queue is at its end, and that was said.
    pub(super) dropping: bool,
}

impl Follower {
    fn matches(&self, topic: &str) -> bool {
        self.consumer.filters.iter().any(|filter| filter.matches(topic))
    }

    /// Whether a stored record must stay for this consumer.
    pub(super) fn wants(&self, position: u64, topic: &str) -> bool {
        position > self.consumer.cursor
            && self.consumer.acknowledged.binary_search(&position).is_err()
            && self.matches(topic)
    }

    fn advance(&mut self, cursor: u64) {
        self.consumer.cursor = self.consumer.cursor.max(cursor);
        let cursor = self.consumer.cursor;
        self.consumer.acknowledged.retain(|position| *position > cursor);
        self.backlog.advance(cursor);
    }
}

/// The consumers of a stream: the same rules for the index, for replay and for checkpoints.
#[derive(Debug, Clone, Default)]
pub(super) struct Followers {
    pub(super) by_name: BTreeMap<String, Follower>,
}

impl Followers {
    /// Whether anybody wants a record of this topic that is appended now.
    pub(super) fn any_matches(&self, topic: &str) -> bool {
        self.by_name.values().any(|follower| follower.matches(topic))
    }

    /// Whether a stored record must stay.
    pub(super) fn any_wants(&self, position: u64, topic: &str) -> bool {
        self.by_name.values().any(|follower| follower.wants(position, topic))
    }

    /// Counts an appended record for everybody who wants it. A consumer for which nothing waited
    /// is moved to just before it. Answers whether a queue is beyond its end.
    pub(super) fn count(&mut self, position: u64, topic: &str, bytes: u64, now_ms: u64) -> bool {
        let mut over = false;
        for follower in self.by_name.values_mut().filter(|follower| follower.matches(topic)) {
            if position <= follower.consumer.cursor {
                continue;
            }
            if follower.backlog.is_empty() {
                follower.advance(position - 1);
            }
            let limits = &follower.consumer.limits;
            follower.backlog.add(position, bytes, now_ms, limits);
            over |= follower.backlog.bytes() > limits.backlog_bytes_max;
        }
        over
    }

    /// Creates or replaces. A known consumer keeps its place if the new one is behind it; answers
    /// its cursor before and after.
    pub(super) fn set(&mut self, consumer: Consumer, last: u64, now_ms: u64) -> Option<(u64, u64)> {
        match self.by_name.get_mut(&consumer.name) {
            Some(follower) => {
                let before = std::mem::replace(&mut follower.consumer, consumer);
                let now = &mut follower.consumer;
                now.cursor = now.cursor.max(before.cursor);
                now.dropped = now.dropped.max(before.dropped);
                now.seen_ms = now.seen_ms.max(before.seen_ms);
                now.acknowledged.extend_from_slice(&before.acknowledged);
                tidy(&mut now.acknowledged, now.cursor);
                follower.backlog.advance(now.cursor);
                Some((before.cursor, follower.consumer.cursor))
            }
            None => {
                let mut consumer = consumer;
                consumer.cursor = consumer.cursor.min(last);
                let cursor = consumer.cursor;
                tidy(&mut consumer.acknowledged, cursor);
                let backlog = Backlog::unknown(cursor, last, now_ms);
                self.by_name
                    .insert(consumer.name.clone(), Follower { consumer, backlog, dropping: false });
                None
            }
        }
    }

    /// Moves forward; answers the cursor before and after, or `None` for an unknown name.
    pub(super) fn advance(
        &mut self,
        name: &str,
        cursor: u64,
        acknowledged: &[u64],
        now_ms: u64,
    ) -> Option<(u64, u64)> {
        let follower = self.by_name.get_mut(name)?;
        let before = follower.consumer.cursor;
        follower.consumer.seen_ms = follower.consumer.seen_ms.max(now_ms);
        if cursor >= before {
            follower.consumer.acknowledged.extend_from_slice(acknowledged);
            tidy(&mut follower.consumer.acknowledged, cursor);
            follower.advance(cursor);
        }
        Some((before, follower.consumer.cursor))
    }

    /// Notes that the end of a queue took records from its front.
    pub(super) fn drop_oldest(&mut self, name: &str, dropped: Dropped) -> Option<(u64, u64)> {
        let follower = self.by_name.get_mut(name)?;
        let before = follower.consumer.cursor;
        follower.consumer.dropped += dropped.records;
        follower.advance(dropped.cursor);
        Some((before, follower.consumer.cursor))
    }

    /// Does again what the log says was done to a consumer. Answers the positions between which
    /// records may have become unwanted: after the first, up to the second.
    pub(super) fn replay(&mut self, logged: &Logged<'_>) -> Result<Option<(u64, u64)>> {
        Ok(match logged {
            Logged::SetConsumer { last, record, .. } => {
                let follower = format::decode_consumer(record.0)?;
                let now_ms = follower.consumer.seen_ms;
                self.set(follower.consumer, *last, now_ms)
            }
            Logged::MoveConsumer { name, cursor, acknowledged, seen_ms, .. } => {
                self.advance(name, *cursor, acknowledged, *seen_ms)
            }
            Logged::DropOldest { name, cursor, records, .. } => {
                self.drop_oldest(name, Dropped { cursor: *cursor, records: *records })
            }
            Logged::RemoveConsumer { name, .. } => {
                self.by_name.remove(*name).map(|follower| (follower.consumer.cursor, u64::MAX))
            }
            _ => None,
        })
    }

    /// Every stored record up to here is wanted by nobody.
    pub(super) fn done_upto(&self) -> u64 {
        self.by_name
            .values()
            .filter(|follower| !follower.backlog.is_empty())
            .map(|follower| follower.consumer.cursor)
            .min()
            .unwrap_or(u64::MAX)
    }
}

/// Ascending, without doubles, above the cursor, bounded.
fn tidy(acknowledged: &mut Vec<u64>, cursor: u64) {
    acknowledged.retain(|position| *position > cursor);
    acknowledged.sort_unstable();
    acknowledged.dedup();
    acknowledged.truncate(IN_FLIGHT_MAX);
}

/// Told of visible records; shared so that it can be called without a lock.
pub(super) type Listener = Arc<dyn Fn(&[Record]) + Send + Sync>;

/// One stream in memory.
pub(super) struct StreamState {
    pub(super) name: String,
    pub(super) positions: Reserved,
    /// Last position that was shown.
    pub(super) visible: u64,
    /// Everything above this that is visible and stored is in `kept`.
    pub(super) kept_above: u64,
    /// With the batch that holds it.
    pub(super) kept: BTreeMap<u64, (u64, Kept)>,
    pub(super) kept_bytes: usize,
    pub(super) followers: Followers,
    pub(super) listener: Option<Listener>,
}

impl StreamState {
    pub(super) fn new(name: &str, positions: Reserved) -> Self {
        Self {
            name: name.to_owned(),
            positions,
            visible: 0,
            kept_above: 0,
            kept: BTreeMap::new(),
            kept_bytes: 0,
            followers: Followers::default(),
            listener: None,
        }
    }

    /// Stores a record or replaces what is known of its place.
    pub(super) fn keep(&mut self, position: u64, batch: u64, kept: Kept) {
        self.kept_bytes += kept_bytes(&kept);
        if let Some((_, before)) = self.kept.insert(position, (batch, kept)) {
            self.kept_bytes -= kept_bytes(&before);
        }
    }

    /// Forgets records that nobody wants any more after a consumer went from `before` to `after`.
    pub(super) fn free(&mut self, before: u64, after: u64) {
        if self.kept.is_empty() || before >= after {
            return;
        }
        let done = self.followers.done_upto();
        while let Some(first) = self.kept.first_entry() {
            if *first.key() > done {
                break;
            }
            self.kept_bytes -= kept_bytes(&first.remove().1);
        }
        if after <= done {
            return;
        }
        let followers = &self.followers;
        let freed: Vec<u64> = self
            .kept
            .range(before.saturating_add(1)..=after)
            .filter(|(position, (_, kept))| match kept {
                Kept::Inline(record) => !followers.any_wants(**position, &record.message.topic),
                Kept::Log(_) => false,
            })
            .map(|(position, _)| *position)
            .collect();
        for position in freed {
            if let Some((_, kept)) = self.kept.remove(&position) {
                self.kept_bytes -= kept_bytes(&kept);
            }
        }
    }

    /// Takes a record back that did not reach the disk.
    pub(super) fn forget(&mut self, position: u64) {
        if let Some((_, kept)) = self.kept.remove(&position) {
            self.kept_bytes -= kept_bytes(&kept);
        }
    }

    /// Lets go of records that batches up to `batch` hold.
    pub(super) fn let_go(&mut self, batch: u64) {
        while let Some(first) = self.kept.first_entry() {
            if first.get().0 > batch {
                break;
            }
            self.kept_above = self.kept_above.max(*first.key());
            self.kept_bytes -= kept_bytes(&first.remove().1);
        }
    }
}

fn kept_bytes(kept: &Kept) -> usize {
    match kept {
        Kept::Inline(record) => RECORD_BYTES + message_bytes(&record.message),
        Kept::Log(_) => RECORD_BYTES,
    }
}

/// What a message counts for in queues and quotas.
pub(super) fn message_bytes(message: &Message) -> usize {
    message.topic.len() + message.payload.len()
}

/// Whether a reader asked for this topic.
pub(super) fn any_matches(filters: &[Filter], topic: &str) -> bool {
    filters.iter().any(|filter| filter.matches(topic))
}
