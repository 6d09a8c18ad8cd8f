//! The decisions: conditions, limits, ETags, positions; what is queued, shown, settled.
//!
//! A commit goes through three points. It is *queued*: its conditions are checked and its changes
//! count for every later condition. It is *shown*: readers and listeners see it, an eventual one
//! as soon as every durable one before it is synced. It is *settled*: it is on disk and its values
//! are where the log has them. Without a disk the three fall together.
//!
//! Consumers are decided when they are queued: whether a record is wanted must be known then.

mod check;
mod recover;
mod settle;

use super::batch::{Answer, Batch, Commit, Committed, Operation};
use super::format::{self, Logged, Raw, StateHead};
use super::keys::{Bulk, Keys, NEVER, Place, Slot, Stored};
use super::log::{Class, Log, Move, QUEUE_BYTES_MAX, Queue};
use super::stream::{Follower, StreamState, message_bytes};
use super::tree::Tree;
use super::{Durability, Record, Stream, Table};
use crate::env::Clock;
use crate::error::{Error, Kind, Result};
use bytes::Bytes;
use check::Demand;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use tokio::sync::oneshot;

/// Longest key in bytes.
pub const KEY_BYTES_MAX: usize = 16 * 1024;

/// Most tables and most streams; they are made by configuration, not by requests.
const NAMES_MAX: usize = 256;

/// Longest name of a table or stream in bytes.
const NAME_BYTES_MAX: usize = 256;

/// Values up to here are kept in the index; larger ones are read from the log. A `pread` of a page
/// that the kernel holds costs less than a microsecond, and memory is scarcer.
const INLINE_BYTES_MAX: usize = 256;

/// ETags and positions are reserved on disk in blocks of this size, so that one that was issued
/// and lost is not issued again.
const BLOCK: u64 = 1 << 16;

/// Expired keys that one commit sweeps away, at most: without a disk there is no other moment.
const SWEEP_PER_COMMIT: usize = 8;

/// Commits that wait for their sync, at most.
const COMMITS_MAX: usize = 16 * 1024;

/// What the index stands on.
#[derive(Clone)]
pub(super) struct Below {
    pub(super) log: Arc<Log>,
    pub(super) tree: Arc<Tree>,
}

/// A sequence of numbers of which blocks are reserved on disk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reserved {
    pub(super) next: u64,
    /// Numbers below this are reserved on disk.
    upto: u64,
    /// Numbers below this will be, once what is queued is on disk.
    queued: u64,
}

impl Reserved {
    pub(super) fn unbounded() -> Self {
        Self { next: 1, upto: u64::MAX, queued: u64::MAX }
    }

    pub(super) fn from(next: u64) -> Self {
        Self { next, upto: next, queued: next }
    }

    /// Takes the next number. Answers it and, if it is time, up to where to reserve.
    fn take(&mut self) -> (u64, Option<u64>) {
        let taken = self.next;
        self.next += 1;
        if self.next.saturating_add(BLOCK / 2) <= self.queued {
            return (taken, None);
        }
        self.queued = self.next + BLOCK;
        (taken, Some(self.queued))
    }

    /// Whether every number taken so far is reserved on disk.
    fn is_safe(&self) -> bool {
        self.next <= self.upto
    }
}

/// The state behind the lock.
pub(super) struct Engine {
    pub(super) clock: Clock,
    quota_bytes: u64,
    pub(super) below: Option<Below>,
    pub(super) tables: Vec<(String, Keys)>,
    pub(super) streams: Vec<StreamState>,
    pub(super) etags: Reserved,
    next_commit: u64,
    hlc: u64,
    queue: VecDeque<Entry>,
    /// Entries at the front of the queue that were shown.
    shown: usize,
    /// Records that listeners have not been told of.
    events: VecDeque<(Stream, Record)>,
    /// Keys by expiry, where nothing below the index sweeps.
    expiries: BTreeSet<(u64, u32, Bytes)>,
    /// Last batch that was settled.
    pub(super) sequence: u64,
    /// Bytes of the tree's rows, as of the last checkpoint.
    pub(super) live_bytes: u64,
    /// Why new data is refused.
    pub(super) full: Option<String>,
    /// Why everything is refused.
    pub(super) broken: Option<String>,
    pub(super) closed: bool,
}

/// A queued commit.
struct Entry {
    commit: u64,
    /// Bytes in the log; 0 when it has nothing to sync.
    len: u32,
    /// Waits for its own sync, or for that of what is before it.
    durable: bool,
    changes: Vec<Change>,
    /// Consumers as they were.
    undo: Vec<(u32, String, Option<Follower>)>,
    committed: Committed,
    answer: Option<oneshot::Sender<Result<Committed>>>,
}

/// A change on its way to being visible. Places count from the beginning of the commit.
enum Change {
    Key { table: u32, key: Bytes, slot: Slot },
    Append { stream: u32, record: Record, wanted: Option<Place> },
    ReservedEtags { upto: u64 },
    ReservedPositions { stream: u32, upto: u64 },
}

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
    pub(super) fn memory(clock: Clock, quota_bytes: u64) -> Self {
        Self {
            clock,
            quota_bytes,
            below: None,
            tables: Vec::new(),
            streams: Vec::new(),
            etags: Reserved::unbounded(),
            next_commit: 1,
            hlc: 0,
            queue: VecDeque::new(),
            shown: 0,
            events: VecDeque::new(),
            expiries: BTreeSet::new(),
            sequence: 0,
            live_bytes: 0,
            full: None,
            broken: None,
            closed: false,
        }
    }

    pub(super) fn table(&mut self, name: &str) -> Result<Table> {
        let found = self.tables.iter().position(|(known, _)| known == name);
        let index = match found {
            Some(index) => index,
            None => {
                check::name(name, self.tables.len())?;
                self.tables.push((name.to_owned(), Keys::default()));
                let index = self.tables.len() - 1;
                self.write_name(&Logged::NameTable { id: index as u32, name })?;
                index
            }
        };
        Ok(Table(index as u32))
    }

    pub(super) fn stream(&mut self, name: &str) -> Result<Stream> {
        let found = self.streams.iter().position(|stream| stream.name == name);
        let index = match found {
            Some(index) => index,
            None => {
                check::name(name, self.streams.len())?;
                let positions = match self.below {
                    Some(_) => Reserved::from(1),
                    None => Reserved::unbounded(),
                };
                self.streams.push(StreamState::new(name, positions));
                let index = self.streams.len() - 1;
                self.write_name(&Logged::NameStream { id: index as u32, name })?;
                index
            }
        };
        Ok(Stream(index as u32))
    }

    /// Puts a new name into the log, before anything that uses it.
    fn write_name(&mut self, logged: &Logged<'_>) -> Result<()> {
        if self.below.is_none() {
            return Ok(());
        }
        self.write_preamble();
        self.commit_logged(logged, false).map(drop)
    }

    /// Commits a change of our own.
    fn commit_logged(&mut self, logged: &Logged<'_>, durable: bool) -> Result<Commit> {
        let Some(Below { log, .. }) = self.below.clone() else { return Ok(ready()) };
        let mut queue = log.queue();
        let start = queue.bytes.len();
        logged.encode(&mut queue.bytes);
        let commit = self.enqueue(
            &mut queue,
            start,
            Class::Moves,
            durable,
            Vec::new(),
            Vec::new(),
            Committed::default(),
        );
        log.leave(queue);
        Ok(commit)
    }

    /// Reserves a first block of ETags and positions, so that an eventual write need not wait.
    pub(super) fn reserve(&mut self) -> Result<()> {
        let Some(Below { log, .. }) = self.below.clone() else { return Ok(()) };
        let mut queue = log.queue();
        let start = queue.bytes.len();
        let upto = self.etags.next + BLOCK;
        self.etags.queued = upto;
        let mut changes = vec![Change::ReservedEtags { upto }];
        Logged::ReserveEtags { upto }.encode(&mut queue.bytes);
        for (stream, state) in self.streams.iter_mut().enumerate() {
            let (stream, upto) = (stream as u32, state.positions.next + BLOCK);
            state.positions.queued = upto;
            changes.push(Change::ReservedPositions { stream, upto });
            Logged::ReservePositions { stream, upto }.encode(&mut queue.bytes);
        }
        let committed = Committed::default();
        self.enqueue(&mut queue, start, Class::Moves, false, changes, Vec::new(), committed);
        log.leave(queue);
        Ok(())
    }

    /// Resolves once everything queued so far is on disk.
    pub(super) fn barrier(&mut self) -> Result<Commit> {
        let upto = self.etags.queued;
        self.commit_logged(&Logged::ReserveEtags { upto }, true)
    }

    /// What every segment begins with.
    pub(super) fn write_preamble(&self) {
        let Some(Below { log, .. }) = &self.below else { return };
        let mut queue = log.queue();
        self.encode_preamble(&mut queue.preamble);
    }

    fn encode_preamble(&self, bytes: &mut Vec<u8>) {
        bytes.clear();
        for (id, (name, _)) in self.tables.iter().enumerate() {
            Logged::NameTable { id: id as u32, name }.encode(bytes);
        }
        for (id, stream) in self.streams.iter().enumerate() {
            let id = id as u32;
            Logged::NameStream { id, name: &stream.name }.encode(bytes);
            Logged::ReservePositions { stream: id, upto: stream.positions.queued }.encode(bytes);
        }
        Logged::ReserveEtags { upto: self.etags.queued }.encode(bytes);
    }

    fn keys(&mut self, table: u32) -> Result<&mut Keys> {
        let found = self.tables.get_mut(table as usize);
        found.map(|(_, keys)| keys).ok_or_else(|| check::unknown("table"))
    }

    pub(super) fn stream_state(&self, stream: Stream) -> Result<&StreamState> {
        self.streams.get(stream.0 as usize).ok_or_else(|| check::unknown("stream"))
    }

    pub(super) fn stream_mut(&mut self, stream: u32) -> Result<&mut StreamState> {
        self.streams.get_mut(stream as usize).ok_or_else(|| check::unknown("stream"))
    }

    /// Memory of the index in bytes.
    pub(super) fn index_bytes(&self) -> u64 {
        let keys: usize = self.tables.iter().map(|(_, keys)| keys.bytes()).sum();
        let records: usize = self.streams.iter().map(|stream| stream.kept_bytes).sum();
        (keys + records) as u64
    }

    pub(super) fn commit(&mut self, batch: Batch, durability: Durability) -> Result<Commit> {
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
    fn enqueue(
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

    /// Drops what is beyond the ends of queues: counted, and said once per episode.
    fn end_queues(&mut self, stream: u32, now_ms: u64, log: &mut Vec<u8>) -> Result<()> {
        let to_log = self.below.is_some();
        let state = self.stream_mut(stream)?;
        let mut over = Vec::new();
        for (name, follower) in &mut state.followers.by_name {
            let limits = &follower.consumer.limits;
            match follower.backlog.overflow(now_ms, limits) {
                Some(dropped) => over.push((name.clone(), dropped)),
                None => {
                    follower.dropping &= follower.backlog.bytes() > limits.backlog_bytes_max / 2
                }
            }
        }
        for (name, dropped) in over {
            if to_log {
                let (cursor, records) = (dropped.cursor, dropped.records);
                Logged::DropOldest { stream, name: &name, cursor, records }.encode(log);
            }
            if let Some((before, after)) = state.followers.drop_oldest(&name, dropped) {
                state.free(before, after);
            }
            if let Some(follower) = state.followers.by_name.get_mut(&name)
                && !std::mem::replace(&mut follower.dropping, true)
            {
                let stream = &*state.name;
                let messages = dropped.records;
                tracing::warn!(
                    stream,
                    consumer = name,
                    messages,
                    "queue at its end: oldest dropped"
                );
            }
        }
        Ok(())
    }

    /// Drops what waits too long. Called from time to time.
    pub(super) fn end_old(&mut self) -> Result<()> {
        let now_ms = self.clock.now_ms();
        for stream in 0..self.streams.len() as u32 {
            let mut log = Vec::new();
            self.end_queues(stream, now_ms, &mut log)?;
            if let (Some(Below { log: writer, .. }), false) = (self.below.clone(), log.is_empty()) {
                let mut queue = writer.queue();
                let start = queue.bytes.len();
                queue.bytes.extend_from_slice(&log);
                let committed = Committed::default();
                self.enqueue(
                    &mut queue,
                    start,
                    Class::Moves,
                    false,
                    Vec::new(),
                    Vec::new(),
                    committed,
                );
                writer.leave(queue);
            }
        }
        Ok(())
    }

    /// The next reading of the hybrid logical clock.
    fn tick(&mut self) -> u64 {
        let wall = self.clock.wall_ms() << 16;
        self.hlc = wall.max(self.hlc + 1);
        self.hlc
    }

    /// The visible slot of a key, if the index knows it.
    pub(super) fn visible(&self, table: Table, key: &[u8]) -> Result<Option<&Slot>> {
        let (_, keys) = self.tables.get(table.0 as usize).ok_or_else(|| check::unknown("table"))?;
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
        let (_, keys) = self.tables.get(table.0 as usize).ok_or_else(|| check::unknown("table"))?;
        Ok(keys.range(prefix, after, values_max))
    }
}

fn ready() -> Commit {
    Commit(Answer::Ready(Committed::default()))
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
