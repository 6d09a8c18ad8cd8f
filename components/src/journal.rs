//! Durable streams: messages in order, and consumers that take them.
//!
//! One stream serves a whole component, not one topic: a consumer is a set of filters, a cursor
//! and a window of acknowledgements, so a million topics cost nothing and `#` is one cursor.
//!
//! Laws, beside those of [`crate::storage`]:
//! - a message that a durable consumer wants, and whose publisher wants to be sure, is on disk
//!   before its publisher is answered, and reaches consumers after that;
//! - consumers see the messages of a topic in the order in which they were published, stored or
//!   not;
//! - what no durable consumer wants is not stored: it goes to those who listen and is gone. The
//!   same holds for a message sent at most once while every durable consumer that wants it is
//!   connected and keeps up;
//! - a cursor moves only forward and only by acknowledgement (or because a record has expired, or
//!   came from the origin that the consumer leaves out); acknowledgements may come in any order
//!   within [`IN_FLIGHT_MAX`](crate::pubsub::IN_FLIGHT_MAX);
//! - a refused message is yielded again before any later one that was not yielded yet;
//! - cursor moves are written together and eventually: a crash yields again at most what was in
//!   flight and what was acknowledged within [`SAVE_LINGER_MS`] and the storage's flush;
//! - one reader per consumer: a later one ends the earlier one, and gets what that one held;
//! - a consumer that is not durable loses its oldest messages at the bound of its queue: counted,
//!   and logged the first time.
//!
//! Fresh records come from memory, as storage reports them; a consumer that falls behind its
//! bounded queue reads on from storage until it has caught up.

mod queue;
mod reader;
mod routes;
mod slot;
mod window;

pub use queue::{LIVE_BYTES_MAX, LIVE_RECORDS_MAX};
pub use slot::IN_FLIGHT_BYTES_MAX;

use crate::env::{self, Clock};
use crate::error::{Error, Kind, Result};
use crate::pubsub::{Assurance, Message, QueueStatus, Subscribe};
use crate::storage::{Batch, Commit, Consumer, Durability, Record, Storage, Stream};
use queue::Entry;
pub(crate) use reader::Reader;
use routes::Routes;
use slot::{Offered, Open, Slot};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::Notify;
use window::Window;

/// Most consumers of one stream, connected or not.
pub const CONSUMERS_MAX: usize = 10_000;

/// Most filters of one consumer.
pub const FILTERS_MAX: usize = 1024;

/// Longest name of a consumer in bytes.
pub const CONSUMER_NAME_BYTES_MAX: usize = 512;

/// How long cursor moves wait for others, to be written together, in milliseconds.
pub const SAVE_LINGER_MS: u64 = 20;

/// Cursor moves of one consumer that are written without waiting longer, so that what storage
/// counts as its backlog is not far from the truth.
const SAVE_AT: usize = 64;

/// Buckets, by topic, in which messages on their way through storage are counted.
const TRANSIT_BUCKETS: usize = 64;

/// A stream with its consumers. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Journal(Arc<Shared>);

struct Shared {
    storage: Storage,
    stream: Stream,
    clock: Clock,
    name: String,
    /// Before the position in a message's id.
    id_prefix: String,
    state: Mutex<State>,
}

struct State {
    slots: Vec<Option<Slot>>,
    by_name: HashMap<Arc<str>, u32>,
    routes: Routes,
    last_visible: u64,
    /// Messages given to storage and not yet visible, by topic: a later one of the topic must not
    /// overtake them.
    in_transit: [u32; TRANSIT_BUCKETS],
    owners: u64,
    unstored: u64,
    save_is_due: bool,
    /// Scratch for routing.
    matched: Vec<u32>,
}

/// Messages on their way through storage. Dropping it does not take them back.
pub(crate) struct InTransit {
    shared: Arc<Shared>,
    commit: Commit,
    messages: Vec<Arc<Message>>,
}

impl InTransit {
    /// Waits until they are as durable as was asked.
    pub(crate) async fn stored(self) -> Result<()> {
        let result = self.commit.await;
        if result.is_err() {
            // They will never become visible.
            self.shared.state().leave_transit(&self.messages);
        }
        result.map(drop)
    }
}

impl Journal {
    /// The stream `name` of a storage. `id_prefix` goes before the number in a message's id and is
    /// the same at every start over the same storage.
    pub(crate) fn open(
        storage: Storage,
        name: &str,
        id_prefix: String,
        clock: Clock,
    ) -> Result<Self> {
        let stream = storage.stream(name)?;
        let mut state = State {
            slots: Vec::new(),
            by_name: HashMap::new(),
            routes: Routes::default(),
            last_visible: storage.last_position(stream),
            in_transit: [0; TRANSIT_BUCKETS],
            owners: 0,
            unstored: 0,
            save_is_due: false,
            matched: Vec::new(),
        };
        for consumer in storage.consumers(stream) {
            state.add(Slot {
                name: consumer.name.as_str().into(),
                durable: true,
                wanted: Vec::new(),
                except_origin: None,
                limits: consumer.limits,
                dropped: 0,
                yielded_through: 0,
                open: None,
            });
            state.set_filters(&consumer.name, &consumer.filters, 0);
        }
        let name = name.to_owned();
        let shared =
            Arc::new(Shared { storage, stream, clock, name, id_prefix, state: Mutex::new(state) });
        let listener = Arc::downgrade(&shared);
        shared.storage.on_visible(
            stream,
            Box::new(move |records| {
                if let Some(shared) = Weak::upgrade(&listener) {
                    shared.route(records);
                }
            }),
        );
        Ok(Self(shared))
    }

    /// Sends messages on their way, in order. `batch` holds what must be stored with them.
    /// `None` if nothing had to be stored: they are with those who listen.
    ///
    /// `durability` is for messages whose publisher wants to be sure.
    pub(crate) fn send(
        &self,
        messages: &[Arc<Message>],
        batch: Option<Batch>,
        durability: Durability,
    ) -> Result<Option<InTransit>> {
        let shared = &self.0;
        let durability = {
            let mut state = shared.state();
            match state.must_store(messages, batch.is_some()) {
                None => {
                    for message in messages {
                        shared.deliver_unstored(&mut state, message);
                    }
                    return Ok(None);
                }
                Some(must_sync) => {
                    // Before the commit: it may report them as visible at once.
                    state.enter_transit(messages);
                    if must_sync { durability } else { Durability::Eventual }
                }
            }
        };
        let mut batch = batch.unwrap_or_default();
        for message in messages {
            batch.append(shared.stream, Arc::clone(message));
        }
        match shared.storage.commit(batch, durability) {
            Ok(commit) => {
                let shared = Arc::clone(shared);
                Ok(Some(InTransit { shared, commit, messages: messages.to_vec() }))
            }
            Err(error) => {
                shared.state().leave_transit(messages);
                Err(error)
            }
        }
    }

    /// Opens a consumer; a durable one is made, or found by its name and changed to what is asked.
    pub(crate) async fn subscribe(&self, subscribe: Subscribe) -> Result<Reader> {
        check(&subscribe)?;
        let shared = &self.0;
        let stored = if subscribe.durable { shared.stored(&subscribe.consumer) } else { None };
        let (reader, is_new) = shared.open_consumer(&subscribe, stored.as_ref())?;
        if !subscribe.durable {
            return Ok(reader);
        }
        let has_changed = stored.as_ref().is_none_or(|stored| {
            stored.filters != subscribe.filters || stored.limits != subscribe.limits
        });
        let durability = if has_changed { Durability::Durable } else { Durability::Eventual };
        let saved = match shared.save_consumer(&subscribe.consumer, stored.as_ref(), durability) {
            Ok(commit) => commit.await.map(drop),
            Err(error) => Err(error),
        };
        match saved {
            Ok(()) => Ok(reader),
            Err(error) => {
                if is_new {
                    shared.state().remove(&subscribe.consumer);
                }
                Err(error.context(format_args!("consumer '{}'", subscribe.consumer)))
            }
        }
    }

    /// Forgets a consumer and what waits for it; ends its reader. Unknown ones are forgotten
    /// already.
    pub(crate) async fn forget(&self, consumer: &str) -> Result<()> {
        let shared = &self.0;
        let removed = shared.state().remove(consumer);
        if removed.is_some_and(|slot| slot.durable) {
            let mut batch = Batch::new();
            batch.remove_consumer(shared.stream, consumer);
            shared.storage.commit(batch, Durability::Durable)?.await?;
        }
        Ok(())
    }

    /// Every consumer, in the order of their names.
    pub(crate) fn queues(&self) -> Vec<QueueStatus> {
        let stored = self.0.storage.consumers(self.0.stream);
        let stored = stored.into_iter().map(|consumer| (consumer.name.clone(), consumer));
        let stored = stored.collect::<HashMap<_, _>>();
        let state = self.0.state();
        let status = |slot: &Slot| {
            let stored = stored.get(&*slot.name);
            let waiting = stored.and_then(|_| self.0.storage.backlog(self.0.stream, &slot.name));
            let (backlog_messages, backlog_bytes) = waiting.unwrap_or_else(|| slot.waiting());
            QueueStatus {
                consumer: slot.name.to_string(),
                connected: slot.open.is_some(),
                backlog_messages,
                backlog_bytes,
                dropped_messages: slot.dropped + stored.map_or(0, |stored| stored.dropped),
            }
        };
        let mut queues = state.slots.iter().flatten().map(status).collect::<Vec<_>>();
        queues.sort_by(|left, right| left.consumer.cmp(&right.consumer));
        queues
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records have become visible.
    fn route(&self, records: &[Record]) {
        let mut state = self.state();
        for record in records {
            state.leave_transit(std::slice::from_ref(&record.message));
            state.last_visible = state.last_visible.max(record.position);
            let entry = || self.entry(record);
            state.deliver(&self.name, &record.message.topic, entry);
        }
    }

    fn entry(&self, record: &Record) -> Entry {
        Entry {
            position: record.position,
            id: format!("{}{}", self.id_prefix, record.position).into(),
            published_ms: record.appended_wall_ms,
            expires_ms: record.expires_ms,
            message: Arc::clone(&record.message),
        }
    }

    fn deliver_unstored(&self, state: &mut State, message: &Arc<Message>) {
        state.unstored += 1;
        let (number, now_ms) = (state.unstored, self.clock.now_ms());
        let entry = || Entry {
            position: 0,
            id: format!("{}{:x}-{number}", self.id_prefix, *RUN).into(),
            published_ms: self.clock.wall_ms(),
            expires_ms: message.ttl_ms.map(|ttl_ms| now_ms.saturating_add(ttl_ms)),
            message: Arc::clone(message),
        };
        state.deliver(&self.name, &message.topic, entry);
    }

    fn stored(&self, consumer: &str) -> Option<Consumer> {
        self.storage.consumers(self.stream).into_iter().find(|stored| stored.name == consumer)
    }

    /// Makes or finds the slot of a consumer and gives it a reader. Whether the slot is new.
    fn open_consumer(
        self: &Arc<Self>,
        subscribe: &Subscribe,
        stored: Option<&Consumer>,
    ) -> Result<(Reader, bool)> {
        let name = &*subscribe.consumer;
        let mut state = self.state();
        let known = state.by_name.get(name).and_then(|id| state.slots[*id as usize].as_ref());
        if known.is_some_and(|slot| slot.durable && !subscribe.durable) {
            let message = format!("consumer '{name}' is a durable one: unsubscribe it first");
            return Err(Error::new(Kind::Invalid, message));
        }
        let window = known.filter(|slot| slot.durable).and_then(Slot::window);
        let is_new = !(subscribe.durable && known.is_some());
        if is_new {
            state.remove(name);
            if state.by_name.len() >= CONSUMERS_MAX {
                let message = format!("{CONSUMERS_MAX} consumers are open or remembered");
                return Err(Error::new(Kind::Overloaded, message));
            }
            state.add(Slot {
                name: name.into(),
                durable: subscribe.durable,
                wanted: Vec::new(),
                except_origin: None,
                limits: subscribe.limits.clone(),
                dropped: 0,
                yielded_through: 0,
                open: None,
            });
        }
        // Listeners are told a moment later than readers see.
        let visible = self.storage.last_position(self.stream).max(state.last_visible);
        let window = window.unwrap_or_else(|| match stored {
            Some(stored) => Window::new(stored.cursor, &stored.acknowledged),
            None => Window::new(visible, &[]),
        });
        // A new consumer starts after what is visible, so none of its filters needs a start.
        state.set_filters(name, &subscribe.filters, if is_new { 0 } else { visible });
        state.owners += 1;
        let (owner, notify) = (state.owners, Arc::new(Notify::new()));
        let Some((id, slot)) = state.find(name) else {
            return Err(Error::new(Kind::Internal, "a consumer just added is gone"));
        };
        slot.except_origin.clone_from(&subscribe.except_origin);
        slot.limits.clone_from(&subscribe.limits);
        let open = Open::new(owner, Arc::clone(&notify), window, visible);
        if let Some(earlier) = slot.open.replace(Box::new(open)) {
            earlier.notify.notify_one();
        }
        Ok((Reader::new(Arc::clone(self), id, owner, notify), is_new))
    }

    /// Writes all of a durable consumer as it is now.
    fn save_consumer(
        &self,
        name: &str,
        stored: Option<&Consumer>,
        durability: Durability,
    ) -> Result<Commit> {
        let consumer = {
            let mut state = self.state();
            let last_visible = state.last_visible;
            let Some((_, slot)) = state.find(name) else {
                return Err(Error::new(Kind::Closed, "the consumer was forgotten meanwhile"));
            };
            let (filters, limits) = (slot.filters(), slot.limits.clone());
            let progress = slot.progress(last_visible);
            let (cursor, acknowledged) = progress.map_or_else(
                || {
                    stored
                        .map_or((last_visible, Vec::new()), |s| (s.cursor, s.acknowledged.clone()))
                },
                |(cursor, done)| (cursor, done.to_vec()),
            );
            let dropped = stored.map_or(0, |stored| stored.dropped);
            let (name, seen_ms) = (name.to_owned(), self.clock.now_ms());
            Consumer { name, filters, cursor, acknowledged, limits, dropped, seen_ms }
        };
        let mut batch = Batch::new();
        batch.set_consumer(self.stream, &consumer);
        self.storage.commit(batch, durability)
    }

    /// Writes the moves of every consumer that has some.
    fn save(&self) {
        let mut batch = Batch::new();
        let mut saved = Vec::new();
        {
            let mut state = self.state();
            state.save_is_due = false;
            let last_visible = state.last_visible;
            for slot in state.slots.iter_mut().flatten() {
                if !slot.durable || slot.open.as_ref().is_none_or(|open| open.unsaved == 0) {
                    continue;
                }
                let name = Arc::clone(&slot.name);
                if let Some((cursor, done)) = slot.progress(last_visible) {
                    batch.move_consumer(self.stream, &name, cursor, done);
                    saved.push(name);
                }
            }
        }
        if saved.is_empty() {
            return;
        }
        if let Err(error) = self.storage.commit(batch, Durability::Eventual) {
            // They go with the next acknowledgement; until then a crash means duplicates.
            tracing::warn!(stream = self.name, %error, "cursors of consumers were not saved");
            let mut state = self.state();
            for name in saved {
                if let Some(open) = state.find(&name).and_then(|(_, slot)| slot.open.as_mut()) {
                    open.unsaved += 1;
                }
            }
        }
    }

    /// Has [`save`](Self::save) called soon. The task lives for the linger only and holds nothing.
    fn save_soon(self: &Arc<Self>) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return self.save() };
        let shared = Arc::downgrade(self);
        runtime.spawn(async move {
            tokio::time::sleep(Duration::from_millis(SAVE_LINGER_MS)).await;
            if let Some(shared) = shared.upgrade() {
                shared.save();
            }
        });
    }
}

impl State {
    fn find(&mut self, name: &str) -> Option<(u32, &mut Slot)> {
        let id = *self.by_name.get(name)?;
        Some((id, self.slots.get_mut(id as usize)?.as_mut()?))
    }

    fn slot(&mut self, id: u32) -> Option<&mut Slot> {
        self.slots.get_mut(id as usize)?.as_mut()
    }

    fn add(&mut self, slot: Slot) {
        let free = self.slots.iter().position(Option::is_none);
        let id = free.unwrap_or(self.slots.len());
        self.by_name.insert(Arc::clone(&slot.name), u32::try_from(id).unwrap_or(u32::MAX));
        if free.is_none() {
            self.slots.push(None);
        }
        self.slots[id] = Some(slot);
    }

    /// Removes a consumer from memory and ends its reader.
    fn remove(&mut self, name: &str) -> Option<Slot> {
        let id = self.by_name.remove(name)?;
        let slot = self.slots.get_mut(id as usize)?.take()?;
        for wanted in &slot.wanted {
            self.routes.remove(&wanted.filter, id);
        }
        if let Some(open) = &slot.open {
            open.notify.notify_one();
        }
        Some(slot)
    }

    fn set_filters(&mut self, name: &str, filters: &[crate::topic::Filter], since: u64) {
        let Some((id, slot)) = self.find(name) else { return };
        let gone = slot.set_filters(filters, since);
        for filter in &gone {
            self.routes.remove(filter, id);
        }
        for filter in filters {
            self.routes.insert(filter, id);
        }
    }

    /// Whether these messages must go through storage, and if so whether with a sync. `with_more`:
    /// something else is stored with them.
    fn must_store(&mut self, messages: &[Arc<Message>], with_more: bool) -> Option<bool> {
        let (mut must_store, mut must_sync) = (with_more, false);
        let mut matched = std::mem::take(&mut self.matched);
        for message in messages {
            let wants_to_be_sure = message.assurance == Assurance::AtLeastOnce;
            must_sync |= with_more && wants_to_be_sure;
            must_store |= self.in_transit[bucket(&message.topic)] > 0;
            self.routes.collect(&message.topic, &mut matched);
            for id in &matched {
                let Some(Some(slot)) = self.slots.get(*id as usize) else { continue };
                if !slot.durable || slot.leaves_out(message) {
                    continue;
                }
                let bytes = message.topic.len() + message.payload.len();
                must_store |= wants_to_be_sure || !slot.takes_live(bytes);
                must_sync |= wants_to_be_sure;
            }
        }
        self.matched = matched;
        must_store.then_some(must_sync)
    }

    /// Hands a message to everybody who wants it. `entry` is called if there is anybody.
    fn deliver(&mut self, stream: &str, topic: &str, entry: impl FnOnce() -> Entry) {
        let mut matched = std::mem::take(&mut self.matched);
        self.routes.collect(topic, &mut matched);
        let mut open = matched
            .iter()
            .filter(|id| {
                self.slots
                    .get(**id as usize)
                    .is_some_and(|slot| slot.as_ref().is_some_and(|slot| slot.open.is_some()))
            })
            .copied()
            .peekable();
        if open.peek().is_some() {
            let ids = open.collect::<Vec<_>>();
            let entry = entry();
            for id in ids {
                let Some(slot) = self.slot(id) else { continue };
                if slot.offer(&entry) == Offered::DroppedFirst {
                    let consumer = &*slot.name;
                    tracing::warn!(stream, consumer, "queue is full: oldest messages are dropped");
                }
            }
        }
        self.matched = matched;
    }

    fn enter_transit(&mut self, messages: &[Arc<Message>]) {
        for message in messages {
            self.in_transit[bucket(&message.topic)] += 1;
        }
    }

    fn leave_transit(&mut self, messages: &[Arc<Message>]) {
        for message in messages {
            let count = &mut self.in_transit[bucket(&message.topic)];
            *count = count.saturating_sub(1);
        }
    }
}

/// Tells ids of messages that were never stored from those of earlier runs.
static RUN: std::sync::LazyLock<u32> =
    std::sync::LazyLock::new(|| u32::try_from(env::random_u64() >> 32).unwrap_or_default());

/// FNV-1a of the topic: spreads a handful of topics well enough, in a few nanoseconds.
fn bucket(topic: &str) -> usize {
    let hash = topic.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    (hash ^ (hash >> 32)) as usize % TRANSIT_BUCKETS
}

fn check(subscribe: &Subscribe) -> Result<()> {
    let name_bytes = subscribe.consumer.len();
    if name_bytes == 0 || name_bytes > CONSUMER_NAME_BYTES_MAX {
        let message = format!("name of a consumer: 1 to {CONSUMER_NAME_BYTES_MAX} bytes");
        return Err(Error::new(Kind::Invalid, message));
    }
    check_filters(&subscribe.filters)
}

fn check_filters(filters: &[crate::topic::Filter]) -> Result<()> {
    if filters.len() > FILTERS_MAX {
        let message = format!("{} topic filters: at most {FILTERS_MAX} are allowed", filters.len());
        return Err(Error::new(Kind::TooLarge, message));
    }
    Ok(())
}
