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

use crate::env::Clock;
use crate::error::Result;
use crate::pubsub::{Message, QueueLimits};
use crate::topic::Filter;
use bytes::Bytes;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

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

/// When a commit resolves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// After the sync.
    Durable,
    /// At once.
    Eventual,
}

/// What must hold of a key for a write to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Nothing.
    Any,
    /// There is no value, or it has expired.
    Absent,
    /// The value has this ETag.
    Etag(u64),
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

/// Changes that take effect together.
#[derive(Debug, Default)]
pub struct Batch {
    #[expect(dead_code)]
    operations: Vec<()>,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }
    /// Writes a value. `ttl_ms` counts from the commit.
    pub fn put(&mut self, _table: Table, _key: &[u8], _put: Put<'_>, _expect: Expect) {
        unimplemented!()
    }
    /// Removes a key.
    pub fn delete(&mut self, _table: Table, _key: &[u8], _expect: Expect) {
        unimplemented!()
    }
    /// Appends a record.
    pub fn append(&mut self, _stream: Stream, _message: Arc<Message>) {
        unimplemented!()
    }
    /// Creates or replaces a consumer.
    pub fn set_consumer(&mut self, _stream: Stream, _consumer: &Consumer) {
        unimplemented!()
    }
    /// Moves a consumer: smaller in the log than replacing it.
    pub fn move_consumer(
        &mut self,
        _stream: Stream,
        _name: &str,
        _cursor: u64,
        _acknowledged: &[u64],
    ) {
        unimplemented!()
    }
    /// Forgets a consumer.
    pub fn remove_consumer(&mut self, _stream: Stream, _name: &str) {
        unimplemented!()
    }
}

/// What [`Batch::put`] writes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Put<'a> {
    /// The bytes; copied.
    pub value: &'a [u8],
    /// Time to live in milliseconds.
    pub ttl_ms: Option<u64>,
    /// Content type to keep with it.
    pub content_type: Option<&'a str>,
}

/// What a commit was given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Committed {
    /// ETag of the first put; the next ones follow it by ones.
    pub first_etag: u64,
    /// Position of the first append; the next ones follow it by ones per stream.
    pub first_position: u64,
}

/// A batch on its way to the disk. Dropping it does not take the batch back.
#[derive(Debug)]
pub struct Commit(());

impl Future for Commit {
    type Output = Result<Committed>;
    fn poll(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Self::Output> {
        unimplemented!()
    }
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
pub struct Storage {}

impl Storage {
    /// Opens or creates a data directory, recovers what a crash left, starts the two threads.
    /// Blocks; called within a tokio runtime, on which one task of storage then lives.
    ///
    /// Errors: `Unavailable` with the holder's pid when another process has the directory.
    pub fn open(_options: StorageOptions) -> Result<Self> {
        unimplemented!()
    }
    /// A storage without a disk: the same laws as far as they do not speak of crashes. What it
    /// holds is bounded by `quota_bytes`. For `state.in-memory`, `pubsub.in-memory` and tests.
    pub fn memory(_clock: Clock, _quota_bytes: u64) -> Self {
        unimplemented!()
    }
    /// The table of this name, made if it is new.
    pub fn table(&self, _name: &str) -> Result<Table> {
        unimplemented!()
    }
    /// The stream of this name, made if it is new.
    pub fn stream(&self, _name: &str) -> Result<Stream> {
        unimplemented!()
    }
    /// Checks every condition of the batch now and queues it. Errors at once: `Conflict`, `Full`,
    /// `TooLarge`, `Overloaded`, `Unavailable`.
    pub fn commit(&self, _batch: Batch, _durability: Durability) -> Result<Commit> {
        unimplemented!()
    }
    /// The visible value of a key: index, log, tree. On the event loop.
    pub fn get(&self, _table: Table, _key: &[u8]) -> Result<Option<Entry>> {
        unimplemented!()
    }
    /// Keys and values after `after` that begin with `prefix`, at most so many and so large
    /// together; on the checkpoint thread.
    pub async fn scan(
        &self,
        _table: Table,
        _prefix: &[u8],
        _after: Option<&[u8]>,
        _entries_max: usize,
        _bytes_max: usize,
    ) -> Result<Vec<(Bytes, Entry)>> {
        unimplemented!()
    }
    /// Consumers of a stream.
    pub fn consumers(&self, _stream: Stream) -> Vec<Consumer> {
        unimplemented!()
    }
    /// Position of the last visible record, 0 if there never was one.
    pub fn last_position(&self, _stream: Stream) -> u64 {
        unimplemented!()
    }
    /// Visible records after `after` that match one of `filters` and have not expired, in order,
    /// at most so many and so large together, with the position up to which was looked; on the
    /// checkpoint thread.
    pub async fn read(
        &self,
        _stream: Stream,
        _after: u64,
        _filters: &[Filter],
        _records_max: usize,
        _bytes_max: usize,
    ) -> Result<(Vec<Record>, u64)> {
        unimplemented!()
    }
    /// Sets the one listener of a stream.
    pub fn on_visible(&self, _stream: Stream, _listener: OnVisible) {
        unimplemented!()
    }
    /// Numbers for metrics and health.
    pub fn status(&self) -> Status {
        unimplemented!()
    }
    /// Syncs everything queued, writes a checkpoint if it is cheap, and stops the threads.
    pub async fn close(&self) -> Result<()> {
        unimplemented!()
    }
}
