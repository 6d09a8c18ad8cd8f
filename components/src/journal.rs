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
//! - a filter added to a consumer sees messages from then on. That is remembered while the process
//!   lives: after a crash a consumer that was behind may see older ones that others still keep;
//! - one reader per consumer: a later one ends the earlier one, and gets what that one held;
//! - a consumer that is not durable loses its oldest messages at the bound of its queue: counted,
//!   and logged the first time.
//!
//! Fresh records come from memory, as storage reports them; a consumer that falls behind its
//! bounded queue reads on from storage until it has caught up.

mod consumers;
mod queue;
mod reader;
mod routes;
mod slot;
mod state;
mod window;

pub use queue::{LIVE_BYTES_MAX, LIVE_BYTES_MIN, LIVE_BYTES_OF_ALL_MAX, LIVE_RECORDS_MAX};
pub(crate) use reader::Reader;
pub use slot::IN_FLIGHT_BYTES_MAX;

use crate::env::{self, Clock};
use crate::error::{Error, Kind, Result};
use crate::pubsub::{Message, QueueStatus, Subscribe};
use crate::storage::{Batch, Commit, Durability, Record, Storage, Stream};
use crate::topic::{Filter, TOPIC_BYTES_MAX};
use queue::{Budget, Entry};
use slot::Slot;
use state::State;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use tokio::task::AbortHandle;

/// Most consumers of one stream, connected or not.
pub const CONSUMERS_MAX: usize = 10_000;

/// Most filters of one consumer.
pub const FILTERS_MAX: usize = 1024;

/// Longest name of a consumer in bytes: it may be made of a topic and an app's or client's name.
pub const CONSUMER_NAME_BYTES_MAX: usize = TOPIC_BYTES_MAX + 512;

/// How long cursor moves wait for others, to be written together, in milliseconds.
pub const SAVE_LINGER_MS: u64 = 20;

/// Cursor moves of one consumer that are written without waiting longer, so that what storage
/// counts as its backlog is not far from the truth.
const SAVE_AT: usize = 64;

/// How often it is looked for consumers to forget.
const HOUSEKEEPING_MS: u64 = 60_000;

/// A connected consumer is noted as seen at least this often.
const SEEN_MS: u64 = 3_600_000;

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
    housekeeper: OnceLock<AbortHandle>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(housekeeper) = self.housekeeper.get() {
            housekeeper.abort();
        }
    }
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
        let mut state = State::new(storage.last_position(stream));
        for consumer in storage.consumers(stream) {
            let budget = Arc::clone(&state.budget);
            state.add(Slot::new(&consumer.name, true, consumer.limits, budget));
            state.set_filters(&consumer.name, &consumer.filters, 0);
        }
        let (name, state) = (name.to_owned(), Mutex::new(state));
        let housekeeper = OnceLock::new();
        let shared = Shared { storage, stream, clock, name, id_prefix, state, housekeeper };
        let shared = Arc::new(shared);
        let housekeeper = tokio::spawn(consumers::keep_house(Arc::downgrade(&shared)));
        shared.housekeeper.get_or_init(|| housekeeper.abort_handle());
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
        if let Some(stored) = &stored
            && stored.filters == subscribe.filters
            && stored.limits == subscribe.limits
        {
            // Nothing that could be refused: a full disk keeps nobody from what waits.
            shared.save_place(&subscribe.consumer);
            return Ok(reader);
        }
        let saved = match shared.save_consumer(&subscribe.consumer, stored.as_ref()) {
            Ok(commit) => commit.await.map(drop),
            Err(error) => Err(error),
        };
        if let Err(error) = saved {
            if is_new {
                shared.state().remove(&subscribe.consumer);
            }
            return Err(error.context(format_args!("consumer '{}'", subscribe.consumer)));
        }
        Ok(reader)
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
        queues.sort_unstable_by(|left, right| left.consumer.cmp(&right.consumer));
        queues
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records have become visible.
    fn route(self: &Arc<Self>, records: &[Record]) {
        let mut state = self.state();
        let budget = Arc::clone(&state.budget);
        for record in records {
            state.leave_transit(std::slice::from_ref(&record.message));
            state.last_visible = state.last_visible.max(record.position);
            let entry = || self.entry(record, &budget);
            state.deliver(&self.name, &record.message.topic, entry);
        }
        let must_save = std::mem::take(&mut state.passed) && !state.save_is_due;
        state.save_is_due |= must_save;
        drop(state);
        if must_save {
            self.save_soon();
        }
    }

    fn entry(&self, record: &Record, budget: &Arc<Budget>) -> Entry {
        let id = format!("{}{}", self.id_prefix, record.position);
        let times = (record.appended_wall_ms, record.expires_ms);
        Entry::new(record.position, id, times, Arc::clone(&record.message), budget)
    }

    fn deliver_unstored(&self, state: &mut State, message: &Arc<Message>) {
        state.unstored += 1;
        let (number, budget) = (state.unstored, Arc::clone(&state.budget));
        let entry = || {
            let id = format!("{}{:x}-{number}", self.id_prefix, *RUN);
            let expires_ms = |ttl_ms| self.clock.now_ms().saturating_add(ttl_ms);
            let times = (self.clock.wall_ms(), message.ttl_ms.map(expires_ms));
            Entry::new(0, id, times, Arc::clone(message), &budget)
        };
        state.deliver(&self.name, &message.topic, entry);
    }
}

/// Tells ids of messages that were never stored from those of earlier runs.
static RUN: std::sync::LazyLock<u32> =
    std::sync::LazyLock::new(|| u32::try_from(env::random_u64() >> 32).unwrap_or_default());

fn check(subscribe: &Subscribe) -> Result<()> {
    let name_bytes = subscribe.consumer.len();
    if name_bytes == 0 || name_bytes > CONSUMER_NAME_BYTES_MAX {
        let message = format!("name of a consumer: 1 to {CONSUMER_NAME_BYTES_MAX} bytes");
        return Err(Error::new(Kind::Invalid, message));
    }
    check_filters(&subscribe.filters)
}

fn check_filters(filters: &[Filter]) -> Result<()> {
    if filters.len() > FILTERS_MAX {
        let message = format!("{} topic filters: at most {FILTERS_MAX} are allowed", filters.len());
        return Err(Error::new(Kind::TooLarge, message));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
