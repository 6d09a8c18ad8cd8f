//! Queueing a batch: ETags and positions are given, consumers moved, everything encoded.

use super::check::Demand;
use super::{COMMITS_MAX, Change, Engine, Entry, INLINE_BYTES_MAX, check, ready};
use crate::error::{Error, Kind, Result};
use crate::storage::batch::{Answer, Batch, Commit, Committed, Operation};
use crate::storage::format::{self, Logged, Raw, StateHead};
use crate::storage::keys::{Bulk, NEVER, Place, Stored};
use crate::storage::log::{Class, Log, Move, QUEUE_BYTES_MAX, Queue};
use crate::storage::stream::{Follower, message_bytes};
use crate::storage::{Durability, Record};
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Where changes are encoded: behind what is queued for the log.
struct Out<'a> {
    queue: &'a mut Queue,
    start: usize,
    changes: Vec<Change>,
    undo: Vec<(u32, String, Option<Follower>)>,
    scratch: &'a mut Vec<u8>,
}

impl Out<'_> {
    fn put(&mut self, logged: &Logged<'_>) {
        logged.encode(&mut self.queue.bytes);
    }

    /// The place of the last `len` bytes, counted from the beginning of the commit.
    fn place(&self, len: usize) -> Place {
        let offset = self.queue.bytes.len().saturating_sub(self.start + len);
        Place { segment: 0, offset: offset as u32, len: len as u32 }
    }
}

impl Engine {
    pub(in crate::storage) fn commit(
        &mut self,
        batch: Batch,
        durability: Durability,
    ) -> Result<Commit> {
        let now_ms = self.clock.now_ms();
        self.sweep(now_ms);
        let demand = self.check(&batch, now_ms)?;
        match self.below.clone() {
            Some(below) => self.commit_to_log(&below.log, batch, durability, &demand, now_ms),
            None => {
                let mut no_log = Queue::default();
                let mut scratch = Vec::new();
                let mut out = Out {
                    queue: &mut no_log,
                    start: 0,
                    changes: Vec::new(),
                    undo: Vec::new(),
                    scratch: &mut scratch,
                };
                let mut committed = Committed::default();
                for operation in batch.operations {
                    self.apply(operation, now_ms, &mut committed, &mut out)?;
                }
                self.next_commit += 1;
                for change in out.changes {
                    self.settle_in_memory(change)?;
                }
                Ok(Commit(Answer::Ready(committed)))
            }
        }
    }

    fn commit_to_log(
        &mut self,
        log: &Arc<Log>,
        batch: Batch,
        durability: Durability,
        demand: &Demand,
        now_ms: u64,
    ) -> Result<Commit> {
        let mut queue = log.queue();
        let queued = queue.queued_bytes();
        if self.queue.len() >= COMMITS_MAX
            || (queued > 0 && queued + demand.bytes > QUEUE_BYTES_MAX)
        {
            return Err(Error::new(Kind::Overloaded, "too much waits for the disk: try later"));
        }
        if demand.only_moves && durability == Durability::Eventual {
            for operation in batch.operations {
                self.move_later(operation, now_ms, &mut queue)?;
            }
            log.leave(queue);
            return Ok(ready());
        }
        let start = queue.bytes.len();
        let mut scratch = Vec::new();
        let mut out = Out {
            queue: &mut queue,
            start,
            changes: Vec::with_capacity(batch.operations.len()),
            undo: Vec::new(),
            scratch: &mut scratch,
        };
        let mut committed = Committed::default();
        for operation in batch.operations {
            self.apply(operation, now_ms, &mut committed, &mut out)?;
        }
        let Out { changes, undo, .. } = out;
        let safe = self.etags.is_safe()
            && changes.iter().all(|change| match change {
                Change::Append { stream, .. } => {
                    self.streams.get(*stream as usize).is_none_or(|state| state.positions.is_safe())
                }
                _ => true,
            });
        let is_empty = queue.bytes.len() == start;
        let durable =
            !safe || (!is_empty && (durability == Durability::Durable || demand.conditional));
        let commit =
            self.enqueue(&mut queue, start, demand.class, durable, changes, undo, committed);
        log.leave(queue);
        Ok(commit)
    }

    #[expect(clippy::too_many_arguments, reason = "one step of a commit, lifted out")]
    pub(super) fn enqueue(
        &mut self,
        queue: &mut Queue,
        start: usize,
        class: Class,
        durable: bool,
        changes: Vec<Change>,
        undo: Vec<(u32, String, Option<Follower>)>,
        committed: Committed,
    ) -> Commit {
        let commit = self.next_commit;
        self.next_commit += 1;
        let len = queue.bytes.len() - start;
        if changes.iter().any(|change| {
            matches!(change, Change::ReservedEtags { .. } | Change::ReservedPositions { .. })
        }) {
            self.encode_preamble(&mut queue.preamble);
        }
        if len > 0 {
            queue.push(commit, start, class, durable);
        } else if durable {
            // Its reservation is queued before it and must not wait for the eventual flush.
            queue.hurry();
        }
        for change in &changes {
            if let Change::Key { table, key, slot } = change
                && let Some((_, keys)) = self.tables.get_mut(*table as usize)
            {
                let value = slot.as_ref().and_then(|stored| inline(&stored.bulk, queue, start));
                keys.queue(commit, key, slot, value, !durable);
            }
        }
        let (answer, waiting) = if durable {
            let (sender, receiver) = oneshot::channel();
            (Some(sender), Answer::Waiting(receiver))
        } else {
            (None, Answer::Ready(committed))
        };
        let len = len as u32;
        self.queue.push_back(Entry { commit, len, durable, changes, undo, committed, answer });
        self.show_ready();
        Commit(waiting)
    }

    /// Gives ETag or position, moves consumers, encodes.
    fn apply(
        &mut self,
        operation: Operation,
        now_ms: u64,
        committed: &mut Committed,
        out: &mut Out<'_>,
    ) -> Result<()> {
        let to_log = self.below.is_some();
        match operation {
            Operation::Put { table, key, value, ttl_ms, content_type, expect: _ } => {
                let (etag, reserve) = self.etags.take();
                if let Some(upto) = reserve {
                    out.put(&Logged::ReserveEtags { upto });
                    out.changes.push(Change::ReservedEtags { upto });
                }
                if committed.first_etag == 0 {
                    committed.first_etag = etag;
                }
                let expires_ms = check::expires_ms(ttl_ms, now_ms);
                let mut bulk = Bulk::Inline(value.clone());
                if to_log {
                    let head = StateHead {
                        etag,
                        expires_ms: (expires_ms != NEVER).then_some(expires_ms),
                        content_type: content_type.as_deref(),
                        hlc: self.tick(),
                        origin: 0,
                        tombstone: false,
                        change: self.next_commit,
                    };
                    out.scratch.clear();
                    format::encode_state(&head, &value, out.scratch);
                    let record = Raw(out.scratch);
                    Logged::Put { table: table.0, key: Raw(&key), record }
                        .encode(&mut out.queue.bytes);
                    if value.len() > INLINE_BYTES_MAX {
                        bulk = Bulk::Log(out.place(value.len()));
                    }
                }
                let stored = Stored { etag, expires_ms, content_type, bulk };
                out.changes.push(Change::Key { table: table.0, key, slot: Some(stored) });
            }
            Operation::Delete { table, key, expect: _ } => {
                if to_log {
                    out.put(&Logged::Delete { table: table.0, key: Raw(&key) });
                }
                out.changes.push(Change::Key { table: table.0, key, slot: None });
            }
            Operation::Append { stream, message } => {
                let appended_wall_ms = self.clock.wall_ms();
                let state = self.stream_mut(stream.0)?;
                let (position, reserve) = state.positions.take();
                if let Some(upto) = reserve {
                    out.put(&Logged::ReservePositions { stream: stream.0, upto });
                    out.changes.push(Change::ReservedPositions { stream: stream.0, upto });
                }
                if committed.first_position == 0 {
                    committed.first_position = position;
                }
                let wanted = state.followers.any_matches(&message.topic);
                let expires_ms = message.ttl_ms.map(|ttl_ms| now_ms.saturating_add(ttl_ms));
                let bytes = message_bytes(&message) as u64;
                let record = Record { position, appended_wall_ms, expires_ms, message };
                let mut place = Place { segment: 0, offset: 0, len: 0 };
                if wanted && to_log {
                    out.scratch.clear();
                    format::encode_record(&record, now_ms, out.scratch);
                    let len = out.scratch.len();
                    Logged::Append { stream: stream.0, position, record: Raw(out.scratch) }
                        .encode(&mut out.queue.bytes);
                    place = out.place(len);
                }
                let topic = Arc::clone(&record.message);
                let wanted = wanted.then_some(place);
                out.changes.push(Change::Append { stream: stream.0, record, wanted });
                if wanted.is_some() && state.followers.count(position, &topic.topic, bytes, now_ms)
                {
                    self.end_queues(stream.0, now_ms, &mut out.queue.bytes)?;
                }
            }
            Operation::SetConsumer { stream, mut consumer } => {
                consumer.seen_ms = consumer.seen_ms.max(now_ms);
                let state = self.stream_mut(stream.0)?;
                let last = state.positions.next - 1;
                let before = state.followers.by_name.get(&consumer.name).cloned();
                let name = consumer.name.clone();
                if to_log {
                    out.scratch.clear();
                    format::encode_consumer(&consumer, &Default::default(), out.scratch);
                    let record = Raw(out.scratch);
                    Logged::SetConsumer { stream: stream.0, last, record }
                        .encode(&mut out.queue.bytes);
                    out.undo.push((stream.0, name, before));
                }
                if let Some((before, after)) = state.followers.set(*consumer, last, now_ms) {
                    state.free(before, after);
                }
            }
            Operation::MoveConsumer { stream, name, cursor, acknowledged } => {
                let state = self.stream_mut(stream.0)?;
                let cursor = cursor.min(state.positions.next - 1);
                let moved = state.followers.advance(&name, cursor, &acknowledged, now_ms);
                if let Some((before, after)) = moved {
                    state.free(before, after);
                    if to_log {
                        out.put(&Logged::MoveConsumer {
                            stream: stream.0,
                            name: &name,
                            cursor,
                            acknowledged: acknowledged.into_vec(),
                            seen_ms: now_ms,
                        });
                    }
                }
            }
            Operation::RemoveConsumer { stream, name } => {
                let state = self.stream_mut(stream.0)?;
                if let Some(follower) = state.followers.by_name.remove(&*name) {
                    state.free(follower.consumer.cursor, u64::MAX);
                    if to_log {
                        out.put(&Logged::RemoveConsumer { stream: stream.0, name: &name });
                        out.queue.forget_move(stream.0, &name);
                        out.undo.push((stream.0, name.into(), Some(follower)));
                    }
                }
            }
        }
        Ok(())
    }

    /// A move that is in no hurry: it takes effect now and rides along with another batch.
    fn move_later(&mut self, operation: Operation, now_ms: u64, queue: &mut Queue) -> Result<()> {
        let Operation::MoveConsumer { stream, name, cursor, acknowledged } = operation else {
            return Ok(());
        };
        let state = self.stream_mut(stream.0)?;
        let cursor = cursor.min(state.positions.next - 1);
        let moved = state.followers.advance(&name, cursor, &acknowledged, now_ms);
        let Some((before, after)) = moved else { return Ok(()) };
        state.free(before, after);
        if let Some(follower) = state.followers.by_name.get(&*name) {
            let consumer = &follower.consumer;
            let latest = Move {
                cursor: consumer.cursor,
                acknowledged: consumer.acknowledged.clone(),
                seen_ms: now_ms,
            };
            queue.push_move(stream.0, name, latest);
        }
        Ok(())
    }

    /// The next reading of the hybrid logical clock.
    fn tick(&mut self) -> u64 {
        let wall = self.clock.wall_ms() << 16;
        self.hlc = wall.max(self.hlc + 1);
        self.hlc
    }
}

/// The bytes of a value that was just encoded, for readers who come before its sync.
fn inline(bulk: &Bulk, queue: &Queue, start: usize) -> Option<Bytes> {
    match bulk {
        Bulk::Inline(_) => None,
        Bulk::Log(place) => {
            let from = start + place.offset as usize;
            queue.bytes.get(from..from + place.len as usize).map(Bytes::copy_from_slice)
        }
    }
}
