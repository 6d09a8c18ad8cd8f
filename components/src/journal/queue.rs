//! Messages that wait in memory for one subscription.

use crate::pubsub::Message;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Most messages that wait in memory for one subscription. A durable one that falls further behind
/// goes on from storage; one that is not loses its oldest.
pub const LIVE_RECORDS_MAX: usize = 1024;

/// Most bytes of them, but always room for one message. Messages are shared between the
/// subscriptions that wait for them, so this bounds what the slowest one keeps alive.
pub const LIVE_BYTES_MAX: usize = 1 << 20;

/// Most bytes that all subscriptions of one stream keep alive together. Beyond it each of them has
/// only [`LIVE_BYTES_MIN`]: a thousand slow ones must not take the gateway's memory.
pub const LIVE_BYTES_OF_ALL_MAX: usize = 16 << 20;

/// What a subscription may keep whatever the others do.
pub const LIVE_BYTES_MIN: usize = 16 << 10;

/// Bytes of messages that are in memory for the subscriptions of a stream, each counted once.
#[derive(Debug, Default)]
pub(super) struct Budget(AtomicUsize);

impl Budget {
    pub(super) fn is_spent(&self) -> bool {
        self.0.load(Ordering::Relaxed) > LIVE_BYTES_OF_ALL_MAX
    }
}

/// A message in memory; the subscriptions that wait for it or hold it share it.
#[derive(Debug)]
pub(super) struct Entry {
    /// Place in the stream; 0 for a message that was never stored.
    pub(super) position: u64,
    /// Stable name of the message.
    pub(super) id: Arc<str>,
    pub(super) published_ms: u64,
    /// In milliseconds of [`crate::env::Clock::now_ms`].
    pub(super) expires_ms: Option<u64>,
    pub(super) message: Arc<Message>,
    budget: Arc<Budget>,
}

impl Entry {
    /// A message at its place, with its name. When it was published and when it expires follow.
    pub(super) fn new(
        position: u64,
        id: String,
        times: (u64, Option<u64>),
        message: Arc<Message>,
        budget: &Arc<Budget>,
    ) -> Self {
        let (published_ms, expires_ms) = times;
        let budget = Arc::clone(budget);
        let entry = Self { position, id: id.into(), published_ms, expires_ms, message, budget };
        entry.budget.0.fetch_add(entry.bytes(), Ordering::Relaxed);
        entry
    }

    pub(super) fn bytes(&self) -> usize {
        self.message.topic.len() + self.message.payload.len()
    }

    pub(super) fn has_expired(&self, now_ms: u64) -> bool {
        self.expires_ms.is_some_and(|expires_ms| expires_ms <= now_ms)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.budget.0.fetch_sub(self.bytes(), Ordering::Relaxed);
    }
}

/// First in, first out, with a count of its bytes.
#[derive(Debug, Default)]
pub(super) struct Queue {
    entries: VecDeque<Arc<Entry>>,
    bytes: usize,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether `bytes` more stay within the bounds.
    pub(super) fn has_room(&self, bytes: usize, bytes_max: usize) -> bool {
        self.entries.is_empty()
            || (self.entries.len() < LIVE_RECORDS_MAX && self.bytes + bytes <= bytes_max)
    }

    pub(super) fn push(&mut self, entry: Arc<Entry>) {
        self.bytes += entry.bytes();
        self.entries.push_back(entry);
    }

    pub(super) fn pop(&mut self) -> Option<Arc<Entry>> {
        let entry = self.entries.pop_front()?;
        self.bytes -= entry.bytes();
        if self.entries.is_empty() && self.entries.capacity() > LIVE_RECORDS_MAX / 16 {
            // A burst is over: give its memory back.
            self.entries = VecDeque::new();
        }
        Some(entry)
    }

    /// Place of the oldest stored message that waits.
    pub(super) fn first_position(&self) -> Option<u64> {
        self.entries.iter().map(|entry| entry.position).find(|position| *position > 0)
    }

    /// Keeps the entries that are still wanted.
    pub(super) fn retain(&mut self, wanted: impl Fn(&Entry) -> bool) {
        self.entries.retain(|entry| wanted(entry));
        self.bytes = self.entries.iter().map(|entry| entry.bytes()).sum();
    }
}
