//! The log: what must be durable, written by one thread, one sync for everything that waits.
//!
//! Segments have a fixed size, are filled with zeros once and recycled, so that a commit changes
//! no metadata of the file. A batch that does not fit the rest of a segment goes to the next free
//! one. New data leaves the last free segment alone: it is for deletes, cursor moves and
//! acknowledgements, which must find room when nothing else does.
//!
//! A segment whose sync failed is not synced again, because the kernel may have dropped its pages:
//! the batch goes to a fresh one. A second failure in a row makes the log read-only.

pub(super) mod segments;
mod writer;

use super::disk::Disk;
use super::format::{Logged, Meta};
use crate::error::{Error, Kind, Result};
use segments::Segments;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
pub(super) use writer::start;

/// Bytes that may wait for the log thread. A single larger commit is let in when nothing waits.
pub(super) const QUEUE_BYTES_MAX: usize = 4 << 20;

/// A batch takes what waits up to here: larger ones hold up the short commits behind them.
const BATCH_BYTES: usize = 256 << 10;

/// Eventual writes of this size together do not wait for their time.
const EARLY_BYTES: usize = 64 << 10;

/// Moves of consumers wait for another batch to ride along with, but not longer than this: it
/// bounds the duplicates after a crash.
const MOVES_FLUSH: Duration = Duration::from_secs(10);

/// Consumers whose move waits, at most, before they are written without a batch to ride with.
const MOVES_MAX: usize = 1024;

/// What a commit may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    /// Consumers only.
    Moves,
    /// Deletes too.
    Release,
    /// It makes the store larger.
    Data,
}

/// A commit in the queue.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    commit: u64,
    len: usize,
    class: Class,
}

/// The latest move of a consumer.
#[derive(Debug, Default)]
pub(super) struct Move {
    pub(super) cursor: u64,
    pub(super) acknowledged: Vec<u64>,
    pub(super) seen_ms: u64,
}

/// What waits for the log thread, and what it must know.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) bytes: Vec<u8>,
    /// Bytes at the front of `bytes` that were taken.
    taken: usize,
    waiting: VecDeque<Waiting>,
    durable_since: Option<Instant>,
    eventual_since: Option<Instant>,
    moves: BTreeMap<(u32, Box<str>), Move>,
    moves_since: Option<Instant>,
    /// Goes before the first batch of a segment.
    pub(super) preamble: Vec<u8>,
    /// The tree holds batches up to this one, and nobody reads them from the log any more.
    recycle_upto: u64,
    /// The tree cannot grow: who finds no room in the log does not wait for it.
    pub(super) full: bool,
    /// The index is too large: new data waits.
    pub(super) pause: bool,
    stop: bool,
    /// The log thread sleeps.
    asleep: bool,
    /// It knows of eventual writes that have a time, and of moves.
    alarm_eventual: bool,
    alarm_moves: bool,
}

impl Queue {
    pub(super) fn queued_bytes(&self) -> usize {
        self.bytes.len() - self.taken
    }

    /// Puts the commit in line whose changes were just encoded after `start`.
    pub(super) fn push(&mut self, commit: u64, start: usize, class: Class, durable: bool) {
        let len = self.bytes.len() - start;
        self.waiting.push_back(Waiting { commit, len, class });
        let since = if durable { &mut self.durable_since } else { &mut self.eventual_since };
        since.get_or_insert_with(Instant::now);
    }

    /// What waits must not wait for its time.
    pub(super) fn hurry(&mut self) {
        if !self.waiting.is_empty() {
            self.durable_since.get_or_insert_with(Instant::now);
        }
    }

    /// Notes a move that is in no hurry. A later one of the same consumer replaces it.
    pub(super) fn push_move(&mut self, stream: u32, name: Box<str>, latest: Move) {
        self.moves.insert((stream, name), latest);
        self.moves_since.get_or_insert_with(Instant::now);
    }

    /// Forgets a move that a change in the queue says better.
    pub(super) fn forget_move(&mut self, stream: u32, name: &str) {
        self.moves.remove(&(stream, Box::from(name)));
    }

    /// Before the log thread goes to sleep: what it has set its alarm for.
    fn fall_asleep(&mut self) {
        self.asleep = true;
        self.alarm_eventual = self.eventual_since.is_some();
        // The moves ride along with the eventual writes.
        self.alarm_moves = self.alarm_eventual || self.moves_since.is_some();
    }

    /// Waking costs a system call: only what the alarm does not know of is worth it.
    fn wants_wake(&self) -> bool {
        self.asleep
            && (self.durable_since.is_some()
                || self.queued_bytes() >= EARLY_BYTES
                || (self.eventual_since.is_some() && !self.alarm_eventual)
                || (self.moves_since.is_some() && !self.alarm_moves)
                || self.moves.len() >= MOVES_MAX)
    }
}

/// What the log thread reports.
#[derive(Debug)]
pub(super) enum Done {
    /// Commits up to `last` are on disk, one after the other from this place on.
    Written { sequence: u64, segment: u32, at: u32, last: Option<u64>, bytes: u64 },
    /// These commits have failed.
    Failed { commits: Vec<u64>, error: Error, broken: bool },
    /// New data waits for a segment.
    Starved,
    /// A checkpoint up to this batch came to its end.
    Checkpointed { upto: u64, result: Result<Meta> },
}

/// Numbers of the log.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) written: AtomicU64,
    pub(super) syncs: AtomicU64,
    pub(super) batches: AtomicU64,
}

/// How the log thread behaves.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    pub(super) linger: Duration,
    pub(super) eventual_flush: Duration,
}

/// Both ends of the log: the event loop queues and reads, the log thread writes.
pub(super) struct Log {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) segments: Segments,
    queue: Mutex<Queue>,
    work: Condvar,
    done: Mutex<Vec<Done>>,
    pub(super) told: Arc<Notify>,
    pub(super) counters: Counters,
    pace: Pace,
}

impl Log {
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        segments: Segments,
        told: Arc<Notify>,
        pace: Pace,
    ) -> Self {
        Self {
            disk,
            segments,
            queue: Mutex::new(Queue::default()),
            work: Condvar::new(),
            done: Mutex::new(Vec::new()),
            told,
            counters: Counters::default(),
            pace,
        }
    }

    /// Largest commit in bytes: two fit a segment.
    pub(super) fn commit_bytes_max(&self) -> usize {
        self.segments.segment_bytes as usize / 2
    }

    pub(super) fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends a visit to the queue, and wakes the log thread if it has a reason to.
    pub(super) fn leave(&self, queue: MutexGuard<'_, Queue>) {
        let wake = queue.wants_wake();
        drop(queue);
        if wake {
            self.work.notify_one();
        }
    }

    /// Lets the log thread use segments again.
    pub(super) fn recycle(&self, upto: u64) {
        let mut queue = self.queue();
        queue.recycle_upto = queue.recycle_upto.max(upto);
        drop(queue);
        self.work.notify_one();
    }

    /// Tells the log thread whether the tree can grow and the index can.
    pub(super) fn set_room(&self, full: bool, pause: bool) {
        let mut queue = self.queue();
        let changed = queue.full != full || queue.pause != pause;
        queue.full = full;
        queue.pause = pause;
        drop(queue);
        if changed {
            self.work.notify_one();
        }
    }

    /// Everything queued is written, then the thread ends.
    pub(super) fn stop(&self) {
        self.queue().stop = true;
        self.work.notify_one();
    }

    pub(super) fn take_done(&self) -> Vec<Done> {
        std::mem::take(&mut *self.done.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn report(&self, done: Done) {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).push(done);
        self.told.notify_one();
    }

    fn count_write(&self, bytes: usize) {
        self.counters.written.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// Encodes the moves that ride along.
fn encode_moves(moves: &BTreeMap<(u32, Box<str>), Move>, bytes: &mut Vec<u8>) {
    for ((stream, name), latest) in moves {
        Logged::MoveConsumer {
            stream: *stream,
            name,
            cursor: latest.cursor,
            acknowledged: latest.acknowledged.clone(),
            seen_ms: latest.seen_ms,
        }
        .encode(bytes);
    }
}

fn full() -> Error {
    Error::new(Kind::Full, "the disk is full: delete or acknowledge something, or make room")
}

fn broken(error: &std::io::Error) -> Error {
    Error::new(Kind::Unavailable, format!("the log cannot be written: {error}"))
}

/// What happened to a batch.
type Written = Result<(), std::io::Error>;
