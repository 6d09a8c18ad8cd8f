//! The storage engine: a write-ahead log in front of a redb tree.
//!
//! Most data on a gateway dies young: a message is delivered, a key overwritten. So what must be
//! durable goes to the log, one padded batch and one fdatasync for everything that waits, and only
//! what is still alive some megabytes later goes to the tree.
//!
//! Laws:
//! - a [`Commit`] that resolved to `Ok` is on disk: an fdatasync that began after its data was
//!   written has returned ([`Durability::Durable`]), or it is in the index and joins the next
//!   batch, at the latest after `eventual_flush_ms` ([`Durability::Eventual`]);
//! - a batch is all or nothing, also across a crash;
//! - batches take effect in the order in which they were committed; a failed one takes everything
//!   queued behind it with it;
//! - a condition is checked against everything queued before it, a read sees only what is
//!   committed or eventual;
//! - no ETag is issued twice by one data directory;
//! - stream positions grow by appends and are never used twice; a consumer moves only forward.
//!
//! Storage is driven from one event loop. Two threads belong to it: one writes and syncs the log,
//! one writes checkpoints and answers range reads.

mod backlog;
mod batch;
mod engine;
mod keys;
mod stream;

pub use batch::{Batch, Commit, Committed, Expect, Put};
pub use engine::KEY_BYTES_MAX;

use crate::env::Clock;
use crate::error::{Error, Kind, Result};
use crate::pubsub::{Message, QueueLimits};
use crate::topic::Filter;
use bytes::Bytes;
use engine::Engine;
use keys::{Bulk, Stored};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use stream::Kept;
use tokio::sync::Notify;

/// Settings of a data directory. The defaults suit a gateway with 128 MB of RAM.
#[derive(Debug, Clone)]
pub struct StorageOptions {
    /// The directory; created if missing, its parents too.
    pub dir: PathBuf,
    /// Size of one log segment in bytes.
    pub segment_bytes: u32,
    /// Number of log segments, at least 3; the last is kept for deletes and acknowledgements.
    pub log_segments: u8,
    /// Most bytes on disk, log and tree together.
    pub quota_bytes: u64,
    /// How long a commit may wait for others to share its sync, in milliseconds.
    pub commit_linger_ms: u32,
    /// Latest time at which an eventual write joins a batch, in milliseconds.
    pub eventual_flush_ms: u32,
    /// Page cache of the tree in bytes.
    pub cache_bytes: u32,
    /// Memory of the index at which a checkpoint starts, in bytes.
    pub index_bytes_max: u32,
    /// Time.
    pub clock: Clock,
}

impl StorageOptions {
    /// The defaults for this directory.
    pub fn new(dir: PathBuf, clock: Clock) -> Self {
        Self {
            dir,
            segment_bytes: 8 << 20,
            log_segments: 4,
            quota_bytes: 1 << 30,
            commit_linger_ms: 0,
            eventual_flush_ms: 1000,
            cache_bytes: 1 << 20,
            index_bytes_max: 2 << 20,
            clock,
        }
    }
}

/// When a commit resolves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// After the sync.
    Durable,
    /// At once.
    Eventual,
}

/// A named set of keys. Copy it freely.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Table(pub(crate) u32);

/// A named sequence of records with consumers. Copy it freely.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stream(pub(crate) u32);

/// A stored value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Issued when it was written.
    pub etag: u64,
    /// When it expires, in milliseconds of [`Clock::now_ms`].
    pub expires_ms: Option<u64>,
    /// Content type given with it.
    pub content_type: Option<Arc<str>>,
    /// The bytes.
    pub value: Bytes,
}

/// A record of a stream.
#[derive(Debug, Clone)]
pub struct Record {
    /// Its place in the stream; the first is 1.
    pub position: u64,
    /// When it was appended, in milliseconds of [`Clock::wall_ms`].
    pub appended_wall_ms: u64,
    /// When it expires, in milliseconds of [`Clock::now_ms`].
    pub expires_ms: Option<u64>,
    /// What was appended.
    pub message: Arc<Message>,
}

/// A durable consumer of a stream: what it wants and how far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consumer {
    /// Unique within the stream.
    pub name: String,
    /// A record is kept while a consumer wants it: one filter matches, its position is above
    /// `cursor`, and it is not in `acknowledged`.
    pub filters: Vec<Filter>,
    /// Everything up to here is done with.
    pub cursor: u64,
    /// Positions above the cursor that are done with too, ascending; at most
    /// [`crate::pubsub::IN_FLIGHT_MAX`].
    pub acknowledged: Vec<u64>,
    /// Ends of its queue.
    pub limits: QueueLimits,
    /// Messages dropped by these ends so far.
    pub dropped: u64,
    /// When somebody last took from it, in milliseconds of [`Clock::now_ms`].
    pub seen_ms: u64,
}

/// Told of records of one stream, in order of position, on the event loop, as they become visible:
/// durable ones after their sync, eventual ones after everything queued before them.
pub type OnVisible = Box<dyn Fn(&[Record]) + Send + Sync>;

/// Numbers of a data directory, for metrics, metadata and health.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// `None` when all is well, else what is wrong and what to do.
    pub unhealthy: Option<String>,
    /// New data is refused with [`crate::Kind::Full`].
    pub full: bool,
    /// Bytes of log and tree on disk.
    pub disk_bytes: u64,
    /// Bytes written to log and tree since the start.
    pub written_bytes: u64,
    /// Syncs of the log since the start.
    pub log_syncs: u64,
    /// Batches written to the log since the start.
    pub log_batches: u64,
    /// Checkpoints finished since the start.
    pub checkpoints: u64,
    /// Memory of the index in bytes.
    pub index_bytes: u64,
}

/// A handle on an open data directory. Cheap to clone.
#[derive(Clone)]
pub struct Storage {
    shared: Arc<Shared>,
}

struct Shared {
    engine: Mutex<Engine>,
    /// Listeners have something to be told.
    told: Arc<Notify>,
    teller: AtomicBool,
}

impl Storage {
    /// Opens or creates a data directory, recovers what a crash left, starts the two threads.
    /// Blocks; called within a tokio runtime, on which one task of storage then lives.
    ///
    /// Errors: `Unavailable` with the holder's pid when another process has the directory.
    pub fn open(_options: StorageOptions) -> Result<Self> {
        Err(Error::new(Kind::Unsupported, "storage on disk is not there yet"))
    }

    /// A storage without a disk: the same laws as far as they do not speak of crashes. What it
    /// holds is bounded by `quota_bytes`. For `state.in-memory`, `pubsub.in-memory` and tests.
    pub fn memory(clock: Clock, quota_bytes: u64) -> Self {
        let shared = Shared {
            engine: Mutex::new(Engine::memory(clock, quota_bytes)),
            told: Arc::new(Notify::new()),
            teller: AtomicBool::new(false),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The table of this name, made if it is new.
    pub fn table(&self, name: &str) -> Result<Table> {
        self.shared.engine().table(name)
    }

    /// The stream of this name, made if it is new.
    pub fn stream(&self, name: &str) -> Result<Stream> {
        self.shared.engine().stream(name)
    }

    /// Checks every condition of the batch now and queues it. Errors at once: `Conflict`, `Full`,
    /// `TooLarge`, `Overloaded`, `Unavailable`.
    pub fn commit(&self, batch: Batch, durability: Durability) -> Result<Commit> {
        let mut engine = self.shared.engine();
        let commit = engine.commit(batch, durability)?;
        let told = engine.has_events();
        drop(engine);
        if told {
            self.shared.told.notify_one();
        }
        Ok(commit)
    }

    /// The visible value of a key: index, log, tree. On the event loop.
    pub fn get(&self, table: Table, key: &[u8]) -> Result<Option<Entry>> {
        let engine = self.shared.engine();
        let Some(Some(stored)) = engine.visible(table, key)? else { return Ok(None) };
        if stored.expires_ms <= engine.clock.now_ms() {
            return Ok(None);
        }
        match &stored.bulk {
            Bulk::Inline(value) => Ok(Some(stored.entry(value.clone()))),
            Bulk::Log(_) => Err(Error::new(Kind::Internal, "a place in the log without a log")),
        }
    }

    /// Keys and values after `after` that begin with `prefix`, at most so many and so large
    /// together (but at least one); on the checkpoint thread.
    pub async fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        entries_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<(Bytes, Entry)>> {
        let engine = self.shared.engine();
        let now_ms = engine.clock.now_ms();
        let mut found = Vec::new();
        let mut bytes = 0;
        let mut after = after.map(Bytes::copy_from_slice);
        while found.len() < entries_max {
            let slots = engine.range(table, prefix, after.as_deref(), entries_max - found.len())?;
            let Some((last, _)) = slots.last() else { break };
            after = Some(last.clone());
            for (key, slot) in slots {
                let Some(Stored { expires_ms, bulk: Bulk::Inline(value), .. }) = &slot else {
                    continue;
                };
                if *expires_ms <= now_ms {
                    continue;
                }
                bytes += key.len() + value.len();
                if bytes > bytes_max && !found.is_empty() {
                    return Ok(found);
                }
                if let Some(stored) = &slot {
                    found.push((key, stored.entry(value.clone())));
                }
            }
        }
        Ok(found)
    }

    /// Consumers of a stream, by name.
    pub fn consumers(&self, stream: Stream) -> Vec<Consumer> {
        let engine = self.shared.engine();
        let Ok(state) = engine.stream_state(stream) else { return Vec::new() };
        state.followers.by_name.values().map(|follower| follower.consumer.clone()).collect()
    }

    /// Messages and bytes that wait for a consumer; `None` if there is none of this name.
    pub fn backlog(&self, stream: Stream, name: &str) -> Option<(u64, u64)> {
        let engine = self.shared.engine();
        let follower = engine.stream_state(stream).ok()?.followers.by_name.get(name)?;
        Some((follower.backlog.records(), follower.backlog.bytes()))
    }

    /// Position of the last visible record, 0 if there never was one.
    pub fn last_position(&self, stream: Stream) -> u64 {
        self.shared.engine().stream_state(stream).map_or(0, |state| state.visible)
    }

    /// Visible records after `after` that match one of `filters` and have not expired, in order,
    /// at most so many and so large together (but at least one), with the position up to which
    /// was looked; on the checkpoint thread.
    pub async fn read(
        &self,
        stream: Stream,
        after: u64,
        filters: &[Filter],
        records_max: usize,
        bytes_max: usize,
    ) -> Result<(Vec<Record>, u64)> {
        let engine = self.shared.engine();
        let now_ms = engine.clock.now_ms();
        let state = engine.stream_state(stream)?;
        let mut found = Vec::<Record>::new();
        let mut bytes = 0;
        for (position, (_, kept)) in state.kept.range(after.saturating_add(1)..=state.visible) {
            let Kept::Inline(record) = kept else { continue };
            if record.expires_ms.is_some_and(|expires_ms| expires_ms <= now_ms)
                || !stream::any_matches(filters, &record.message.topic)
            {
                continue;
            }
            bytes += stream::message_bytes(&record.message);
            if found.len() >= records_max || (bytes > bytes_max && !found.is_empty()) {
                return Ok((found, position - 1));
            }
            found.push(record.clone());
        }
        Ok((found, state.visible.max(after)))
    }

    /// Sets the one listener of a stream. Called within a tokio runtime: the listener is called by
    /// a task of it, never from within a call into storage.
    pub fn on_visible(&self, stream: Stream, listener: OnVisible) {
        if let Ok(state) = self.shared.engine().stream_mut(stream.0) {
            state.listener = Some(Arc::from(listener));
        }
        if !self.shared.teller.swap(true, Ordering::Relaxed) {
            tokio::spawn(tell(Arc::downgrade(&self.shared), Arc::clone(&self.shared.told)));
        }
    }

    /// Numbers for metrics and health.
    pub fn status(&self) -> Status {
        Status { index_bytes: self.shared.engine().index_bytes(), ..Status::default() }
    }

    /// Syncs everything queued, writes a checkpoint if it is cheap, and stops the threads.
    pub async fn close(&self) -> Result<()> {
        Ok(())
    }
}

impl Shared {
    fn engine(&self) -> MutexGuard<'_, Engine> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.told.notify_one();
    }
}

/// Calls the listeners, outside of every lock, until the storage is gone.
async fn tell(shared: Weak<Shared>, told: Arc<Notify>) {
    loop {
        told.notified().await;
        let Some(shared) = shared.upgrade() else { return };
        loop {
            let events = shared.engine().take_events();
            if events.is_empty() {
                break;
            }
            let mut records = Vec::new();
            let mut events = events.into_iter().peekable();
            while let Some((stream, record)) = events.next() {
                records.push(record);
                if events.peek().is_some_and(|(next, _)| *next == stream) {
                    continue;
                }
                let listener = shared
                    .engine()
                    .stream_state(stream)
                    .ok()
                    .and_then(|state| state.listener.clone());
                if let Some(listener) = listener {
                    listener(&records);
                }
                records.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests;
