//! The decisions: conditions, limits, ETags, positions; what is queued, shown, settled.
//!
//! A commit goes through three points. It is *queued*: its conditions are checked and its changes
//! count for every later condition. It is *shown*: readers and listeners see it, an eventual one
//! as soon as every durable one before it is synced. It is *settled*: it is on disk and its values
//! are where the log has them. Without a disk the three fall together.
//!
//! Consumers are decided when they are queued: whether a record is wanted must be known then.

mod check;
mod commit;
mod queues;
mod recover;
mod settle;

use super::batch::{Answer, Commit, Committed};
use super::format::Logged;
use super::keys::{Keys, Place, Slot};
use super::log::{Class, Log};
use super::stream::{Follower, StreamState};
use super::tree::Tree;
use super::{Record, Stream, Table};
use crate::env::Clock;
use crate::error::Result;
use bytes::Bytes;
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
