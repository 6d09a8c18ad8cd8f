//! The decisions: conditions, limits, ETags, positions; what is queued, visible, settled.
//!
//! A commit goes through three points. It is *queued*: its conditions are checked and its changes
//! count for every later condition. It is *shown*: readers and listeners see it, an eventual one
//! as soon as every durable one before it is synced. It is *settled*: it is on disk and its values
//! are where the log has them. Without a disk the three fall together.

use super::batch::{Answer, Batch, Commit, Committed, Expect, Operation};
use super::keys::{Bulk, Keys, NEVER, Slot, Stored};
use super::stream::{Kept, StreamState, message_bytes};
use super::{Durability, Record, Stream, Table};
use crate::env::Clock;
use crate::error::{Error, Kind, Result};
use crate::pubsub::Overflow;
use bytes::Bytes;
use std::collections::{BTreeSet, VecDeque};

/// Longest key in bytes.
pub const KEY_BYTES_MAX: usize = 16 * 1024;

/// Most tables and most streams; they are made by configuration, not by requests.
const NAMES_MAX: usize = 1024;

/// Expired keys that one commit sweeps away, at most: without a disk there is no other moment.
const SWEEP_PER_COMMIT: usize = 8;

/// The state behind the lock.
pub(super) struct Engine {
    pub(super) clock: Clock,
    quota_bytes: u64,
    pub(super) tables: Vec<(String, Keys)>,
    pub(super) streams: Vec<StreamState>,
    next_etag: u64,
    next_commit: u64,
    /// Records that listeners have not been told of.
    events: VecDeque<(Stream, Record)>,
    /// Keys by expiry, where nothing below the index sweeps.
    expiries: BTreeSet<(u64, u32, Bytes)>,
}

/// A change on its way to being visible.
enum Change {
    Key { table: u32, key: Bytes, slot: Slot },
    Append { stream: u32, record: Record, wanted: bool },
}

impl Engine {
    pub(super) fn memory(clock: Clock, quota_bytes: u64) -> Self {
        Self {
            clock,
            quota_bytes,
            tables: Vec::new(),
            streams: Vec::new(),
            next_etag: 1,
            next_commit: 1,
            events: VecDeque::new(),
            expiries: BTreeSet::new(),
        }
    }

    pub(super) fn table(&mut self, name: &str) -> Result<Table> {
        let found = self.tables.iter().position(|(known, _)| known == name);
        let index = match found {
            Some(index) => index,
            None if self.tables.len() >= NAMES_MAX => return Err(too_many_names()),
            None => {
                self.tables.push((name.to_owned(), Keys::default()));
                self.tables.len() - 1
            }
        };
        u32::try_from(index).map(Table).map_err(|_| too_many_names())
    }

    pub(super) fn stream(&mut self, name: &str) -> Result<Stream> {
        let found = self.streams.iter().position(|stream| stream.name == name);
        let index = match found {
            Some(index) => index,
            None if self.streams.len() >= NAMES_MAX => return Err(too_many_names()),
            None => {
                self.streams.push(StreamState::new(name));
                self.streams.len() - 1
            }
        };
        u32::try_from(index).map(Stream).map_err(|_| too_many_names())
    }

    fn keys(&mut self, table: u32) -> Result<&mut Keys> {
        let found = self.tables.get_mut(table as usize);
        found.map(|(_, keys)| keys).ok_or_else(|| unknown("table"))
    }

    pub(super) fn stream_state(&self, stream: Stream) -> Result<&StreamState> {
        self.streams.get(stream.0 as usize).ok_or_else(|| unknown("stream"))
    }

    pub(super) fn stream_mut(&mut self, stream: u32) -> Result<&mut StreamState> {
        self.streams.get_mut(stream as usize).ok_or_else(|| unknown("stream"))
    }

    /// Memory of the index in bytes.
    pub(super) fn index_bytes(&self) -> u64 {
        let keys: usize = self.tables.iter().map(|(_, keys)| keys.bytes()).sum();
        let records: usize = self.streams.iter().map(|stream| stream.kept_bytes).sum();
        (keys + records) as u64
    }

    pub(super) fn commit(&mut self, batch: Batch, _durability: Durability) -> Result<Commit> {
        let now_ms = self.clock.now_ms();
        self.sweep(now_ms);
        self.check(&batch, now_ms)?;
        let mut committed = Committed::default();
        let commit = self.next_commit;
        self.next_commit += 1;
        for operation in batch.operations {
            let change = self.apply(operation, now_ms, &mut committed)?;
            if let Some(change) = change {
                self.settle(commit, change)?;
            }
        }
        Ok(Commit(Answer::Ready(committed)))
    }

    /// Everything that can refuse a batch; nothing has changed when it does.
    fn check(&self, batch: &Batch, now_ms: u64) -> Result<()> {
        let mut growth = 0;
        let mut puts = 0;
        for (index, operation) in batch.operations.iter().enumerate() {
            match operation {
                Operation::Put { table, key, value, expect, .. } => {
                    check_key(key)?;
                    let before = batch.operations.get(..index).unwrap_or_default();
                    self.check_expect(before, *table, key, *expect, now_ms)?;
                    growth += key.len() + value.len() + super::keys::ENTRY_BYTES;
                    puts += 1;
                }
                Operation::Delete { table, key, expect } => {
                    check_key(key)?;
                    let before = batch.operations.get(..index).unwrap_or_default();
                    self.check_expect(before, *table, key, *expect, now_ms)?;
                }
                Operation::Append { stream, message } => {
                    let state = self.stream_state(*stream)?;
                    let bytes = message_bytes(message);
                    if check_queues(state, &message.topic, bytes as u64)? {
                        growth += bytes + super::stream::RECORD_BYTES;
                        puts += 1;
                    }
                }
                Operation::SetConsumer { stream, .. }
                | Operation::MoveConsumer { stream, .. }
                | Operation::RemoveConsumer { stream, .. } => {
                    self.stream_state(*stream)?;
                }
            }
        }
        if puts > 0 && self.index_bytes() + growth as u64 > self.quota_bytes {
            return Err(Error::new(
                Kind::Full,
                "the quota is used up: delete or acknowledge something, or raise it",
            ));
        }
        Ok(())
    }

    fn check_expect(
        &self,
        before: &[Operation],
        table: Table,
        key: &[u8],
        expect: Expect,
        now_ms: u64,
    ) -> Result<()> {
        let (_, keys) = self.tables.get(table.0 as usize).ok_or_else(|| unknown("table"))?;
        if expect == Expect::Any {
            return Ok(());
        }
        let current = match self.earlier_in_batch(before, table, key, now_ms) {
            Some(etag) => etag,
            None => keys
                .latest(key)
                .flatten()
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
                Some(lives.then_some(self.next_etag + puts))
            }
            Operation::Delete { table: of, key: other, .. } if *of == table && other == key => {
                Some(None)
            }
            _ => None,
        })
    }

    /// Gives ETag or position, moves consumers.
    fn apply(
        &mut self,
        operation: Operation,
        now_ms: u64,
        committed: &mut Committed,
    ) -> Result<Option<Change>> {
        match operation {
            Operation::Put { table, key, value, ttl_ms, content_type, expect: _ } => {
                let etag = self.next_etag;
                self.next_etag += 1;
                if committed.first_etag == 0 {
                    committed.first_etag = etag;
                }
                let expires_ms = expires_ms(ttl_ms, now_ms);
                let stored = Stored { etag, expires_ms, content_type, bulk: Bulk::Inline(value) };
                Ok(Some(Change::Key { table: table.0, key, slot: Some(stored) }))
            }
            Operation::Delete { table, key, expect: _ } => {
                Ok(Some(Change::Key { table: table.0, key, slot: None }))
            }
            Operation::Append { stream, message } => {
                let appended_wall_ms = self.clock.wall_ms();
                let state = self.stream_mut(stream.0)?;
                let position = state.next;
                state.next += 1;
                if committed.first_position == 0 {
                    committed.first_position = position;
                }
                let wanted = state.followers.any_matches(&message.topic);
                if wanted {
                    let bytes = message_bytes(&message) as u64;
                    state.followers.count(position, &message.topic, bytes, now_ms);
                }
                let expires_ms = message.ttl_ms.map(|ttl_ms| now_ms.saturating_add(ttl_ms));
                let record = Record { position, appended_wall_ms, expires_ms, message };
                Ok(Some(Change::Append { stream: stream.0, record, wanted }))
            }
            Operation::SetConsumer { stream, consumer } => {
                let state = self.stream_mut(stream.0)?;
                state.followers.set(*consumer, state.next - 1, now_ms);
                Ok(None)
            }
            Operation::MoveConsumer { stream, name, cursor, acknowledged } => {
                let state = self.stream_mut(stream.0)?;
                let cursor = cursor.min(state.next - 1);
                let moved = state.followers.advance(&name, cursor, &acknowledged, now_ms);
                if let Some((before, after)) = moved {
                    state.free(before, after);
                }
                Ok(None)
            }
            Operation::RemoveConsumer { stream, name } => {
                let state = self.stream_mut(stream.0)?;
                if let Some(follower) = state.followers.by_name.remove(&*name) {
                    state.free(follower.consumer.cursor, u64::MAX);
                }
                Ok(None)
            }
        }
    }

    fn settle(&mut self, commit: u64, change: Change) -> Result<()> {
        match change {
            Change::Key { table, key, slot: Some(stored) } => {
                if stored.expires_ms != NEVER {
                    self.expiries.insert((stored.expires_ms, table, key.clone()));
                }
                self.keys(table)?.settle(commit, key, Some(stored));
            }
            Change::Key { table, key, slot: None } => {
                let keys = self.keys(table)?;
                keys.unqueue(commit, &key);
                keys.remove(&key);
            }
            Change::Append { stream, record, wanted } => {
                let state = self.stream_mut(stream)?;
                state.visible = record.position;
                let listened = state.listener.is_some();
                if wanted {
                    state.keep(record.position, commit, Kept::Inline(record.clone()));
                    let now_ms = self.clock.now_ms();
                    self.end_queues(stream, now_ms)?;
                }
                if listened {
                    self.events.push_back((Stream(stream), record));
                }
            }
        }
        Ok(())
    }

    /// Drops what is beyond the ends of queues: counted, and said once per episode.
    pub(super) fn end_queues(&mut self, stream: u32, now_ms: u64) -> Result<()> {
        let state = self.stream_mut(stream)?;
        let mut over = Vec::new();
        for (name, follower) in &mut state.followers.by_name {
            let limits = &follower.consumer.limits;
            if let Some(dropped) = follower.backlog.overflow(now_ms, limits) {
                over.push((name.clone(), dropped));
            }
        }
        for (name, dropped) in over {
            if let Some((before, after)) = state.followers.drop_oldest(&name, dropped) {
                tracing::warn!(
                    stream = state.name,
                    consumer = name,
                    dropped = dropped.records,
                    "queue is at its end: oldest messages dropped"
                );
                state.free(before, after);
            }
        }
        Ok(())
    }

    fn sweep(&mut self, now_ms: u64) {
        for _ in 0..SWEEP_PER_COMMIT {
            let Some((expires_ms, ..)) = self.expiries.first() else { return };
            if *expires_ms > now_ms {
                return;
            }
            let Some((expires_ms, table, key)) = self.expiries.pop_first() else { return };
            if let Ok(keys) = self.keys(table)
                && matches!(keys.visible(&key), Some(Some(stored)) if stored.expires_ms == expires_ms)
            {
                keys.remove(&key);
            }
        }
    }

    /// The visible slot of a key, if the index knows it.
    pub(super) fn visible(&self, table: Table, key: &[u8]) -> Result<Option<&Slot>> {
        let (_, keys) = self.tables.get(table.0 as usize).ok_or_else(|| unknown("table"))?;
        Ok(keys.visible(key))
    }

    /// Visible slots of keys after `after` with `prefix`, in order.
    pub(super) fn range(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        values_max: usize,
    ) -> Result<Vec<(Bytes, Slot)>> {
        let (_, keys) = self.tables.get(table.0 as usize).ok_or_else(|| unknown("table"))?;
        Ok(keys.range(prefix, after, values_max))
    }

    pub(super) fn take_events(&mut self) -> VecDeque<(Stream, Record)> {
        std::mem::take(&mut self.events)
    }

    pub(super) fn has_events(&self) -> bool {
        !self.events.is_empty()
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

fn check_key(key: &[u8]) -> Result<()> {
    if key.len() > KEY_BYTES_MAX {
        return Err(Error::new(
            Kind::TooLarge,
            format!("key of {} bytes: at most {KEY_BYTES_MAX} are allowed", key.len()),
        ));
    }
    Ok(())
}

fn expires_ms(ttl_ms: Option<u64>, now_ms: u64) -> u64 {
    ttl_ms.map_or(NEVER, |ttl_ms| now_ms.saturating_add(ttl_ms))
}

fn unknown(what: &str) -> Error {
    Error::new(Kind::Internal, format!("no such {what} in this storage"))
}

fn too_many_names() -> Error {
    Error::new(Kind::TooLarge, format!("more than {NAMES_MAX} tables or streams"))
}
