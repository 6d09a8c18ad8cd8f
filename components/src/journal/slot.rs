//! One consumer: what it wants, what waits for it, what it holds. No I/O: the reader asks for a
//! [`Step`] and does it.

use super::queue::{Budget, Entry, LIVE_BYTES_MAX, LIVE_BYTES_MIN, Queue};
use super::window::Window;
use crate::pubsub::{Assurance, Delivery, Message, QueueLimits};
use crate::topic::Filter;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::Notify;

/// Most bytes that one subscription holds unacknowledged, but always one message. They stay in
/// memory so that a refused one is yielded again without a read.
pub const IN_FLIGHT_BYTES_MAX: usize = 1 << 20;

/// Most bytes of one read from storage, but always one record.
const READ_BYTES_MAX: usize = 256 << 10;

/// Marks tokens of messages that have no place in the stream.
const UNSTORED: u64 = 1 << 63;

/// A filter and the position after which its messages are wanted.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) filter: Filter,
    pub(super) since: u64,
}

/// A consumer, connected or not.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) name: Arc<str>,
    pub(super) durable: bool,
    pub(super) wanted: Vec<Wanted>,
    pub(super) except_origin: Option<Arc<str>>,
    pub(super) limits: QueueLimits,
    /// What all consumers of the stream share.
    budget: Arc<Budget>,
    /// Messages dropped from memory at a bound.
    pub(super) dropped: u64,
    /// Highest position ever yielded to it by this process.
    yielded_through: u64,
    /// There while somebody takes from it.
    pub(super) open: Option<Box<Open>>,
}

/// What exists of a consumer only while it is connected.
#[derive(Debug)]
pub(super) struct Open {
    /// Which subscription it is: a later one under the same name has another number.
    pub(super) owner: u64,
    pub(super) notify: Arc<Notify>,
    queue: Queue,
    held: BTreeMap<u64, Arc<Entry>>,
    held_bytes: usize,
    /// Tokens of held messages to yield again.
    refused: BTreeSet<u64>,
    /// Fresh records come by themselves; otherwise they are read from storage.
    is_live: bool,
    /// Everything up to here is in the queue, held, done with or not wanted; for a live one the
    /// last visible position stands for it.
    read_through: u64,
    window: Window,
    unstored_tokens: u64,
    /// Changes of the window that storage does not know yet.
    pub(super) unsaved: usize,
}

/// What to do to get the next message.
#[derive(Debug)]
pub(super) enum Step {
    Yield(Delivery),
    /// Nothing to yield now; the notify tells when to look again.
    Wait,
    /// Read records after this position, about so many bytes, and hand them to [`Slot::fill`].
    Read {
        after: u64,
        bytes_max: usize,
    },
}

/// What became of a message that was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Offered {
    Taken,
    NotTaken,
    /// Left out for its origin: the cursor may pass it.
    LeftOut,
    /// Something was dropped at a bound, for the first time.
    DroppedFirst,
}

impl Open {
    /// Of a consumer that has everything up to the window's cursor behind it.
    pub(super) fn new(owner: u64, notify: Arc<Notify>, window: Window, visible: u64) -> Self {
        Self {
            owner,
            notify,
            queue: Queue::default(),
            held: BTreeMap::new(),
            held_bytes: 0,
            refused: BTreeSet::new(),
            is_live: window.cursor() >= visible,
            read_through: window.cursor(),
            window,
            unstored_tokens: 0,
            unsaved: 0,
        }
    }

    /// Up to where nothing is open.
    fn through(&self, last_visible: u64) -> u64 {
        let seen = if self.is_live { last_visible } else { 0 };
        let head = self.read_through.max(seen);
        let held = self.held.keys().next().filter(|token| **token < UNSTORED);
        let waits = self.queue.first_position();
        held.into_iter().copied().chain(waits).map(|first| first - 1).fold(head, u64::min)
    }

    fn has_room(&self) -> bool {
        self.window.has_room(self.held.len())
            && (self.held.is_empty() || self.held_bytes < IN_FLIGHT_BYTES_MAX)
    }

    fn release(&mut self, token: u64) -> Option<Arc<Entry>> {
        let entry = self.held.remove(&token)?;
        self.held_bytes -= entry.bytes();
        self.refused.remove(&token);
        Some(entry)
    }
}

impl Slot {
    /// A consumer that nobody takes from and that wants nothing yet.
    pub(super) fn new(name: &str, durable: bool, limits: QueueLimits, budget: Arc<Budget>) -> Self {
        Self {
            name: name.into(),
            durable,
            wanted: Vec::new(),
            except_origin: None,
            limits,
            budget,
            dropped: 0,
            yielded_through: 0,
            open: None,
        }
    }

    /// Whether fresh messages reach it from memory, so that one nobody must keep need not be
    /// stored for it.
    pub(super) fn takes_live(&self, bytes: usize) -> bool {
        self.open
            .as_ref()
            .is_some_and(|open| open.is_live && open.queue.has_room(bytes, self.bytes_max()))
    }

    fn bytes_max(&self) -> usize {
        if self.budget.is_spent() {
            return LIVE_BYTES_MIN;
        }
        // For a durable consumer the limit is on what storage keeps.
        let limit = usize::try_from(self.limits.backlog_bytes_max).unwrap_or(usize::MAX);
        if self.durable { LIVE_BYTES_MAX } else { limit.min(LIVE_BYTES_MAX) }
    }

    /// Whether it leaves out messages of this origin.
    pub(super) fn leaves_out(&self, message: &Message) -> bool {
        self.except_origin.is_some() && self.except_origin == message.origin
    }

    /// Whether it wants a record of this topic, place and origin.
    fn wants(&self, position: u64, message: &Message) -> bool {
        if self.leaves_out(message) {
            return false;
        }
        // Routing and reading match filters already; what is left is since when.
        position == 0
            || self.wanted.iter().all(|wanted| wanted.since < position)
            || self
                .wanted
                .iter()
                .any(|wanted| wanted.since < position && wanted.filter.matches(&message.topic))
    }

    /// A message that one of its filters matches has become visible.
    pub(super) fn offer(&mut self, entry: &Arc<Entry>) -> Offered {
        let wants = self.wants(entry.position, &entry.message);
        let bytes_max = self.bytes_max();
        let Some(open) = &mut self.open else { return Offered::NotTaken };
        // What was read already, or done with in an earlier life, may be reported late.
        let is_late = entry.position <= open.read_through || open.window.is_done(entry.position);
        if !open.is_live || (entry.position > 0 && is_late) {
            return Offered::NotTaken;
        }
        if !wants {
            open.unsaved += usize::from(self.durable);
            return if self.durable { Offered::LeftOut } else { Offered::NotTaken };
        }
        let mut offered = Offered::Taken;
        while !open.queue.has_room(entry.bytes(), bytes_max) {
            if self.durable && entry.position > 0 {
                // From here on storage is the queue.
                open.is_live = false;
                open.read_through = entry.position - 1;
                return Offered::NotTaken;
            }
            self.dropped += 1;
            if self.dropped == 1 {
                offered = Offered::DroppedFirst;
            }
            if self.durable {
                return offered;
            }
            open.queue.pop();
        }
        open.queue.push(Arc::clone(entry));
        open.notify.notify_one();
        offered
    }

    /// What to do next for `owner`; `None` if the consumer is no longer its own.
    pub(super) fn step(&mut self, owner: u64, now_ms: u64, last_visible: u64) -> Option<Step> {
        let open = self.open.as_mut().filter(|open| open.owner == owner)?;
        while let Some(token) = open.refused.pop_first() {
            let Some(entry) = open.held.get(&token).cloned() else { continue };
            if !entry.has_expired(now_ms) {
                return Some(Step::Yield(delivery(token, true, &entry, now_ms)));
            }
            self.ack(owner, token, last_visible);
            return self.step(owner, now_ms, last_visible);
        }
        if !open.has_room() {
            return Some(Step::Wait);
        }
        while let Some(entry) = open.queue.pop() {
            if entry.has_expired(now_ms) {
                open.unsaved += usize::from(self.durable);
                continue;
            }
            let is_stored = entry.position > 0 && self.durable;
            let token = if is_stored {
                entry.position
            } else if entry.message.assurance == Assurance::AtMostOnce {
                0
            } else {
                open.unstored_tokens += 1;
                UNSTORED | open.unstored_tokens
            };
            let again = is_stored && entry.position <= self.yielded_through;
            if token > 0 {
                open.held_bytes += entry.bytes();
                open.held.insert(token, Arc::clone(&entry));
            }
            self.yielded_through = self.yielded_through.max(entry.position);
            return Some(Step::Yield(delivery(token, again, &entry, now_ms)));
        }
        if !self.durable || open.is_live {
            return Some(Step::Wait);
        }
        if open.read_through >= last_visible {
            open.is_live = true;
            return Some(Step::Wait);
        }
        let after = open.read_through;
        let bytes_max = if self.budget.is_spent() { LIVE_BYTES_MIN } else { READ_BYTES_MAX };
        Some(Step::Read { after, bytes_max })
    }

    /// Takes records that were read, and the position up to which was looked.
    pub(super) fn fill(&mut self, owner: u64, entries: Vec<Arc<Entry>>, looked_through: u64) {
        let Some(mut open) = self.open.take_if(|open| open.owner == owner) else { return };
        for entry in entries {
            if entry.position > open.read_through && !open.window.is_done(entry.position) {
                if self.wants(entry.position, &entry.message) {
                    open.queue.push(entry);
                } else {
                    open.unsaved += 1;
                }
            }
        }
        open.read_through = open.read_through.max(looked_through);
        self.open = Some(open);
    }

    /// The message of `token` is done with. Whether the window moved.
    pub(super) fn ack(&mut self, owner: u64, token: u64, last_visible: u64) -> bool {
        let Some(open) = self.open.as_mut().filter(|open| open.owner == owner) else {
            return false;
        };
        let Some(entry) = open.release(token) else { return false };
        if !self.durable || entry.position == 0 {
            return false;
        }
        let through = open.through(last_visible);
        open.window.finish(entry.position, through);
        open.unsaved += 1;
        true
    }

    /// Yield the message of `token` again.
    pub(super) fn nack(&mut self, owner: u64, token: u64) {
        if let Some(open) = self.open.as_mut().filter(|open| open.owner == owner)
            && open.held.contains_key(&token)
        {
            open.refused.insert(token);
        }
    }

    /// Replaces what is wanted; filters that are new see messages after `last_visible`. Answers
    /// the filters that are gone.
    pub(super) fn set_filters(&mut self, filters: &[Filter], last_visible: u64) -> Vec<Filter> {
        let old = std::mem::take(&mut self.wanted);
        for filter in filters {
            if self.wanted.iter().any(|wanted| wanted.filter == *filter) {
                continue;
            }
            let since = old.iter().find(|wanted| wanted.filter == *filter).map(|w| w.since);
            let since = since.unwrap_or(last_visible);
            self.wanted.push(Wanted { filter: filter.clone(), since });
        }
        let gone = |wanted: Wanted| {
            let stays = self.wanted.iter().any(|kept| kept.filter == wanted.filter);
            (!stays).then_some(wanted.filter)
        };
        let gone = old.into_iter().filter_map(gone).collect::<Vec<_>>();
        if !gone.is_empty()
            && let Some(open) = &mut self.open
        {
            let wanted = &self.wanted;
            open.queue.retain(|entry| {
                wanted.iter().any(|wanted| wanted.filter.matches(&entry.message.topic))
            });
            open.unsaved += usize::from(self.durable);
        }
        gone
    }

    pub(super) fn filters(&self) -> Vec<Filter> {
        self.wanted.iter().map(|wanted| wanted.filter.clone()).collect()
    }

    /// Cursor and what is done above it, to be saved.
    pub(super) fn progress(&mut self, last_visible: u64) -> Option<(u64, &[u64])> {
        let open = self.open.as_mut()?;
        let through = open.through(last_visible);
        open.window.advance(through);
        open.unsaved = 0;
        Some((open.window.cursor(), open.window.done()))
    }

    /// How many messages wait in memory or are held, and their bytes.
    pub(super) fn waiting(&self) -> (u64, u64) {
        let waiting = |open: &Open| {
            let messages = open.queue.len() + open.held.len();
            (messages as u64, (open.queue.bytes() + open.held_bytes) as u64)
        };
        self.open.as_deref().map_or((0, 0), waiting)
    }

    /// The window of an open consumer, for the one who takes it over.
    pub(super) fn window(&self) -> Option<Window> {
        self.open.as_ref().map(|open| open.window.clone())
    }
}

fn delivery(token: u64, again: bool, entry: &Entry, now_ms: u64) -> Delivery {
    let mut message = Arc::clone(&entry.message);
    if let Some(expires_ms) = entry.expires_ms {
        // What is left of it; the payload is shared all the same.
        let ttl_ms = Some(expires_ms.saturating_sub(now_ms));
        if message.ttl_ms != ttl_ms {
            message = Arc::new(Message { ttl_ms, ..Message::clone(&message) });
        }
    }
    let (id, published_ms) = (Arc::clone(&entry.id), entry.published_ms);
    Delivery { token, id, published_ms, again, message }
}
