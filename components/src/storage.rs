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
mod checkpoint;
mod disk;
mod engine;
mod format;
mod formats;
mod keeper;
mod keys;
mod log;
mod open;
mod read;
mod room;
mod stream;
mod tend;
mod tree;

pub use batch::{Batch, Commit, Committed, Expect, Put};
pub use engine::KEY_BYTES_MAX;
pub use formats::{Formats, format_of};

use crate::env::Clock;
use crate::error::{Kind, Result};
use crate::pubsub::{Message, QueueLimits};
use crate::topic::Filter;
use bytes::Bytes;
use checkpoint::Exact;
use engine::{Below, Engine};
use keeper::Keeper;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use tend::{Progress, tend};
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
    /// Newest format to write, for a release on trial; `None` is the newest of this build
    /// ([`Formats`]).
    pub format_max: Option<u32>,
    /// Time.
    pub clock: Clock,
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
    /// The task has something to do: reports of the threads, or listeners to tell.
    told: Arc<Notify>,
    /// There is a task.
    tended: AtomicBool,
    /// A checkpoint is asked for.
    pressed: AtomicBool,
    progress: Mutex<Progress>,
    disk: Option<OnDisk>,
}

/// What a storage with a disk has besides.
struct OnDisk {
    below: Below,
    keeper: Keeper,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Bytes of the log after which a checkpoint starts.
    checkpoint_log_bytes: u64,
    index_bytes_max: u64,
    /// Bytes of the files that keep their size.
    fixed_bytes: u64,
    /// What a start found damaged.
    damaged: Option<String>,
}

impl StorageOptions {
    /// The defaults, for this directory: a log of 4 segments of 8 MiB, 1 GiB in all, no linger,
    /// eventual writes within a second, 1 MiB of page cache, 2 MiB of index.
    pub fn new(dir: impl Into<PathBuf>, clock: Clock) -> Self {
        Self {
            dir: dir.into(),
            segment_bytes: 8 << 20,
            log_segments: 4,
            quota_bytes: 1 << 30,
            commit_linger_ms: 0,
            eventual_flush_ms: 1000,
            cache_bytes: 1 << 20,
            index_bytes_max: 2 << 20,
            format_max: None,
            clock,
        }
    }
}

impl Storage {
    /// Opens or creates a data directory, recovers what a crash left, starts the two threads.
    /// Blocks; called within a tokio runtime, on which one task of storage then lives.
    ///
    /// Errors: `Unavailable` with the holder's pid when another process has the directory;
    /// `Unsupported` when a newer release has written it, which changes nothing in it.
    pub fn open(options: StorageOptions) -> Result<Self> {
        Self::open_directory(options)
    }

    /// A storage without a disk: the same laws as far as they do not speak of crashes. What it
    /// holds is bounded by `quota_bytes`. For `state.in-memory`, `pubsub.in-memory` and tests.
    pub fn memory(clock: Clock, quota_bytes: u64) -> Self {
        let shared = Shared {
            engine: Mutex::new(Engine::memory(clock, quota_bytes)),
            told: Arc::new(Notify::new()),
            tended: AtomicBool::new(false),
            pressed: AtomicBool::new(false),
            progress: Mutex::new(Progress::default()),
            disk: None,
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
        let result = engine.commit(batch, durability);
        let told = engine.has_events();
        drop(engine);
        if let Err(error) = &result
            && error.kind() == Kind::Full
            && self.shared.disk.is_some()
        {
            // What was deleted counts once it is gone from the tree.
            self.shared.pressed.store(true, Ordering::Relaxed);
            self.shared.told.notify_one();
        } else if told {
            self.shared.told.notify_one();
        }
        result
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

    /// Names of consumers of which nobody has taken for longer than their `forget_after_ms`. Who
    /// knows that one is connected keeps it: moving or setting a consumer says that it was seen.
    pub fn stale_consumers(&self, stream: Stream) -> Vec<String> {
        let engine = self.shared.engine();
        let now_ms = engine.clock.now_ms();
        let Ok(state) = engine.stream_state(stream) else { return Vec::new() };
        let is_stale = |consumer: &Consumer| {
            let after_ms = consumer.limits.forget_after_ms?;
            (consumer.seen_ms.saturating_add(after_ms) < now_ms).then(|| consumer.name.clone())
        };
        state.followers.by_name.values().filter_map(|it| is_stale(&it.consumer)).collect()
    }

    /// Position of the last visible record, 0 if there never was one.
    pub fn last_position(&self, stream: Stream) -> u64 {
        self.shared.engine().stream_state(stream).map_or(0, |state| state.visible)
    }

    /// Largest batch in bytes, `None` without a disk. Larger ones are `TooLarge`.
    pub fn batch_bytes_max(&self) -> Option<usize> {
        self.shared.disk.as_ref().map(|disk| disk.below.log.commit_bytes_max())
    }

    /// Sets the one listener of a stream. Called within a tokio runtime: the listener is called by
    /// a task of it, never from within a call into storage.
    pub fn on_visible(&self, stream: Stream, listener: OnVisible) {
        if let Ok(state) = self.shared.engine().stream_mut(stream.0) {
            state.listener = Some(Arc::from(listener));
        }
        if !self.shared.tended.swap(true, Ordering::Relaxed) {
            tokio::spawn(tend(Arc::downgrade(&self.shared), Arc::clone(&self.shared.told)));
        }
    }

    /// Numbers for metrics and health.
    pub fn status(&self) -> Status {
        let engine = self.shared.engine();
        let mut status = Status {
            unhealthy: engine
                .broken
                .as_ref()
                .map(|broken| format!("storage is read-only until a restart: {broken}")),
            full: engine.full.is_some(),
            index_bytes: engine.index_bytes(),
            ..Status::default()
        };
        drop(engine);
        let Some(disk) = &self.shared.disk else { return status };
        let log = &disk.below.log;
        let tree = &disk.below.tree;
        let progress = self.shared.progress();
        status.unhealthy =
            status.unhealthy.or(progress.error.clone()).or_else(|| disk.damaged.clone());
        status.checkpoints = progress.finished;
        drop(progress);
        let count = |number: &std::sync::atomic::AtomicU64| number.load(Ordering::Relaxed);
        status.disk_bytes = disk.fixed_bytes + tree.file_bytes();
        status.written_bytes = count(&log.counters.written) + count(&tree.written);
        status.log_syncs = count(&log.counters.syncs);
        status.log_batches = count(&log.counters.batches);
        status
    }

    /// Syncs everything queued, writes a checkpoint, and stops the threads. Later calls are
    /// refused with `Closed`; the directory is free for another once the last handle is gone.
    pub async fn close(&self) -> Result<()> {
        let Some(disk) = &self.shared.disk else {
            self.shared.engine().closed = true;
            return Ok(());
        };
        let barrier = {
            let mut engine = self.shared.engine();
            if std::mem::replace(&mut engine.closed, true) {
                return Ok(());
            }
            engine.barrier()?
        };
        let synced = barrier.await.map(drop);
        let finished = {
            let engine = self.shared.engine();
            let exact = Exact {
                etags: engine.etags.next,
                positions: engine.streams.iter().map(|stream| stream.positions.next).collect(),
            };
            disk.keeper.finish(engine.sequence, exact)
        };
        // The log has it all: a checkpoint that fails now is made at the next start.
        if let Ok(Err(error)) = finished.await {
            tracing::warn!(%error, "no checkpoint at the end");
        }
        self.shared.engine().shut();
        self.shared.join();
        synced
    }
}

impl Shared {
    fn engine(&self) -> MutexGuard<'_, Engine> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the threads; what is queued is written before.
    fn join(&self) {
        let Some(disk) = &self.disk else { return };
        disk.below.log.stop();
        disk.keeper.stop();
        let threads =
            std::mem::take(&mut *disk.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            let _ = thread.join();
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.join();
        self.told.notify_one();
    }
}

#[cfg(test)]
mod tests;
