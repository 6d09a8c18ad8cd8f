//! Everything that can refuse a batch; nothing has changed when it does.

use super::{Below, Engine, KEY_BYTES_MAX, NAME_BYTES_MAX, NAMES_MAX};
use crate::error::{Error, Kind, Result};
use crate::pubsub::Overflow;
use crate::storage::batch::{Batch, Expect, Operation};
use crate::storage::format;
use crate::storage::keys::{ENTRY_BYTES, NEVER};
use crate::storage::log::Class;
use crate::storage::stream::{RECORD_BYTES, StreamState, message_bytes};
use crate::storage::{Consumer, Table};

/// Bytes that the head of a change takes in the log, at most.
const HEAD_BYTES: usize = 128;

/// This part of the quota is left for deletes and for what is on its way.
const QUOTA_RESERVE: u64 = 64;

/// What a batch needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Demand {
    /// Bytes in the log, at most.
    pub(super) bytes: usize,
    pub(super) class: Class,
    /// Somebody relies on a condition.
    pub(super) conditional: bool,
    pub(super) only_moves: bool,
}

impl Engine {
    pub(super) fn check(&self, batch: &Batch, now_ms: u64) -> Result<Demand> {
        if self.closed {
            return Err(Error::new(Kind::Closed, "storage is closed"));
        }
        if let Some(broken) = &self.broken {
            return Err(Error::new(Kind::Unavailable, format!("storage is read-only: {broken}")));
        }
        let mut demand =
            Demand { bytes: 0, class: Class::Moves, conditional: false, only_moves: true };
        let mut growth = 0;
        for (index, operation) in batch.operations.iter().enumerate() {
            let before = batch.operations.get(..index).unwrap_or_default();
            demand.only_moves &= matches!(operation, Operation::MoveConsumer { .. });
            let (class, bytes) = match operation {
                Operation::Put { table, key, value, content_type, expect, .. } => {
                    self.check_key(before, *table, key, *expect, now_ms)?;
                    demand.conditional |= *expect != Expect::Any;
                    growth += key.len() + value.len() + ENTRY_BYTES;
                    let text = content_type.as_ref().map_or(0, |text| text.len());
                    (Class::Data, key.len() + value.len() + text)
                }
                Operation::Delete { table, key, expect } => {
                    self.check_key(before, *table, key, *expect, now_ms)?;
                    demand.conditional |= *expect != Expect::Any;
                    (Class::Release, key.len())
                }
                Operation::Append { stream, message } => {
                    let state = self.stream_state(*stream)?;
                    let bytes = message_bytes(message);
                    if check_queues(state, &message.topic, bytes as u64)? {
                        growth += bytes + RECORD_BYTES;
                        let texts = message
                            .metadata
                            .iter()
                            .map(|(name, value)| name.len() + value.len() + 2 * varint_max());
                        let optional = |text: &Option<std::sync::Arc<str>>| {
                            text.as_ref().map_or(0, |text| text.len())
                        };
                        let more = optional(&message.content_type) + optional(&message.origin);
                        (Class::Data, bytes + more + texts.sum::<usize>())
                    } else {
                        (Class::Moves, 0)
                    }
                }
                Operation::SetConsumer { stream, consumer } => {
                    self.stream_state(*stream)?;
                    check_consumer(consumer)?;
                    growth += consumer_bytes(consumer);
                    (Class::Data, consumer_bytes(consumer))
                }
                Operation::MoveConsumer { stream, name, acknowledged, .. } => {
                    self.stream_state(*stream)?;
                    (Class::Moves, name.len() + acknowledged.len() * varint_max())
                }
                Operation::RemoveConsumer { stream, name } => {
                    self.stream_state(*stream)?;
                    (Class::Moves, name.len())
                }
            };
            demand.class = demand.class.max(class);
            demand.bytes += bytes + HEAD_BYTES;
        }
        if demand.class == Class::Data {
            self.check_room(growth as u64)?;
        }
        if let Some(Below { log, .. }) = &self.below
            && demand.bytes > log.commit_bytes_max()
        {
            return Err(Error::new(
                Kind::TooLarge,
                format!("more than {} bytes at once", log.commit_bytes_max()),
            ));
        }
        Ok(demand)
    }

    fn check_room(&self, growth: u64) -> Result<()> {
        if let Some(full) = &self.full {
            return Err(Error::new(Kind::Full, full.clone()));
        }
        let (used, reserve) = match &self.below {
            Some(Below { log, .. }) => {
                let segments = &log.segments;
                let log_bytes = u64::from(segments.segment_bytes) * segments.count() as u64;
                (log_bytes + self.live_bytes, self.quota_bytes / QUOTA_RESERVE)
            }
            None => (0, 0),
        };
        if used + self.index_bytes() + growth > self.quota_bytes.saturating_sub(reserve) {
            return Err(Error::new(
                Kind::Full,
                "the quota is used up: delete or acknowledge something, or raise it",
            ));
        }
        Ok(())
    }

    fn check_key(
        &self,
        before: &[Operation],
        table: Table,
        key: &[u8],
        expect: Expect,
        now_ms: u64,
    ) -> Result<()> {
        if key.len() > KEY_BYTES_MAX {
            return Err(Error::new(
                Kind::TooLarge,
                format!("key of {} bytes: at most {KEY_BYTES_MAX} are allowed", key.len()),
            ));
        }
        let (_, keys) = self.tables.get(table.0 as usize).ok_or_else(|| unknown("table"))?;
        if expect == Expect::Any {
            return Ok(());
        }
        let current = match self.earlier_in_batch(before, table, key, now_ms) {
            Some(etag) => etag,
            None => match keys.latest(key) {
                Some(latest) => latest,
                None => self.in_tree(table, key)?,
            }
            .filter(|(_, expires_ms)| *expires_ms > now_ms)
            .map(|(etag, _)| etag),
        };
        match (expect, current) {
            (Expect::Any, _) | (Expect::Absent, None) => Ok(()),
            (Expect::Etag(expected), Some(etag)) if expected == etag => Ok(()),
            (Expect::Absent, Some(_)) => {
                Err(Error::new(Kind::Conflict, "first-write: there is a value already"))
            }
            (Expect::Etag(_), _) => {
                Err(Error::new(Kind::Conflict, "the ETag is not the one stored: read it again"))
            }
        }
    }

    /// ETag and expiry of a key in the tree.
    fn in_tree(&self, table: Table, key: &[u8]) -> Result<Option<(u64, u64)>> {
        let Some(Below { tree, .. }) = &self.below else { return Ok(None) };
        tree.state(table.0, key, |record| {
            let (head, _) = format::decode_state(record)?;
            Ok((head.etag, head.expires_ms.unwrap_or(NEVER)))
        })
    }

    /// What an earlier change of the same batch leaves of a key: its ETag, or nothing.
    fn earlier_in_batch(
        &self,
        before: &[Operation],
        table: Table,
        key: &[u8],
        now_ms: u64,
    ) -> Option<Option<u64>> {
        let is_put = |operation: &&Operation| matches!(operation, Operation::Put { .. });
        before.iter().enumerate().rev().find_map(|(index, operation)| match operation {
            Operation::Put { table: of, key: other, ttl_ms, .. }
                if *of == table && other == key =>
            {
                let puts = before.iter().take(index).filter(is_put).count() as u64;
                let lives = expires_ms(*ttl_ms, now_ms) > now_ms;
                Some(lives.then_some(self.etags.next + puts))
            }
            Operation::Delete { table: of, key: other, .. } if *of == table && other == key => {
                Some(None)
            }
            _ => None,
        })
    }
}

/// Whether somebody wants the message; an error when one of them refuses more.
fn check_queues(state: &StreamState, topic: &str, bytes: u64) -> Result<bool> {
    let mut wanted = false;
    for follower in state.followers.by_name.values() {
        let consumer = &follower.consumer;
        if !consumer.filters.iter().any(|filter| filter.matches(topic)) {
            continue;
        }
        wanted = true;
        let limits = &consumer.limits;
        if limits.overflow == Overflow::Refuse
            && follower.backlog.bytes() + bytes > limits.backlog_bytes_max
        {
            return Err(Error::new(
                Kind::Overloaded,
                format!("queue '{}' is full and refuses more", consumer.name),
            ));
        }
    }
    Ok(wanted)
}

fn check_consumer(consumer: &Consumer) -> Result<()> {
    if consumer.name.len() > KEY_BYTES_MAX {
        return Err(Error::new(Kind::TooLarge, "the name of the consumer is too long"));
    }
    Ok(())
}

fn consumer_bytes(consumer: &Consumer) -> usize {
    let filters = consumer.filters.iter().map(|filter| filter.as_str().len() + varint_max());
    consumer.name.len() + filters.sum::<usize>() + consumer.acknowledged.len() * varint_max()
}

const fn varint_max() -> usize {
    10
}

pub(super) fn expires_ms(ttl_ms: Option<u64>, now_ms: u64) -> u64 {
    ttl_ms.map_or(NEVER, |ttl_ms| now_ms.saturating_add(ttl_ms))
}

/// Checks the name of a new table or stream.
pub(super) fn name(name: &str, count: usize) -> Result<()> {
    if count >= NAMES_MAX {
        return Err(Error::new(Kind::TooLarge, format!("more than {NAMES_MAX} tables or streams")));
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(Error::new(
            Kind::TooLarge,
            format!("name of {} bytes: at most {NAME_BYTES_MAX} are allowed", name.len()),
        ));
    }
    Ok(())
}

pub(super) fn unknown(what: &str) -> Error {
    Error::new(Kind::Internal, format!("no such {what} in this storage"))
}
