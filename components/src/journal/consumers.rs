//! Consumers of a stream as storage knows them: made, found, saved, forgotten.

use super::reader::Reader;
use super::slot::{Open, Slot};
use super::window::Window;
use super::{CONSUMERS_MAX, HOUSEKEEPING_MS, SAVE_LINGER_MS, SEEN_MS, Shared};
use crate::error::{Error, Kind, Result};
use crate::pubsub::Subscribe;
use crate::storage::{Batch, Commit, Consumer, Durability};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::Notify;

impl Shared {
    pub(super) fn stored(&self, consumer: &str) -> Option<Consumer> {
        self.storage.consumers(self.stream).into_iter().find(|stored| stored.name == consumer)
    }

    /// Makes or finds the slot of a consumer and gives it a reader. Whether the slot is new.
    pub(super) fn open_consumer(
        self: &Arc<Self>,
        subscribe: &Subscribe,
        stored: Option<&Consumer>,
    ) -> Result<(Reader, bool)> {
        let name = &*subscribe.consumer;
        let mut state = self.state();
        let known = state.find(name).map(|(_, slot)| (slot.durable, slot.window()));
        let (is_known_durable, window) = known.unwrap_or((false, None));
        if is_known_durable && !subscribe.durable {
            let message = format!("consumer '{name}' is a durable one: unsubscribe it first");
            return Err(Error::new(Kind::Invalid, message));
        }
        let is_new = !is_known_durable;
        if is_new {
            state.remove(name);
            if state.by_name.len() >= CONSUMERS_MAX {
                let message = format!("{CONSUMERS_MAX} consumers are open or remembered");
                return Err(Error::new(Kind::Overloaded, message));
            }
            let (limits, budget) = (subscribe.limits.clone(), Arc::clone(&state.budget));
            state.add(Slot::new(name, subscribe.durable, limits, budget));
        }
        // Listeners are told a moment later than readers see.
        let visible = self.storage.last_position(self.stream).max(state.last_visible);
        let window = window.filter(|_| !is_new).unwrap_or_else(|| match stored {
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

    /// Writes all of a durable, connected consumer as it is now.
    pub(super) fn save_consumer(&self, name: &str, stored: Option<&Consumer>) -> Result<Commit> {
        let gone = || Error::new(Kind::Closed, "the consumer was forgotten meanwhile");
        let consumer = {
            let mut state = self.state();
            let last_visible = state.last_visible;
            let (_, slot) = state.find(name).ok_or_else(gone)?;
            let (filters, limits) = (slot.filters(), slot.limits.clone());
            let (cursor, done) = slot.progress(last_visible).ok_or_else(gone)?;
            let acknowledged = done.to_vec();
            let dropped = stored.map_or(0, |stored| stored.dropped);
            let (name, seen_ms) = (name.to_owned(), self.clock.now_ms());
            Consumer { name, filters, cursor, acknowledged, limits, dropped, seen_ms }
        };
        let mut batch = Batch::new();
        batch.set_consumer(self.stream, &consumer);
        self.storage.commit(batch, Durability::Durable)
    }

    /// Writes how far one consumer is, and that somebody takes from it.
    pub(super) fn save_place(&self, name: &str) {
        self.save_those(|slot| *slot.name == *name);
    }

    /// Writes the moves of every consumer that has some.
    pub(super) fn save(&self) {
        self.state().save_is_due = false;
        self.save_those(|slot| slot.open.as_ref().is_some_and(|open| open.unsaved > 0));
    }

    fn save_those(&self, chosen: impl Fn(&Slot) -> bool) {
        let mut batch = Batch::new();
        let mut saved = Vec::new();
        {
            let mut state = self.state();
            let last_visible = state.last_visible;
            for slot in state.slots.iter_mut().flatten() {
                if !slot.durable || !chosen(slot) {
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
    pub(super) fn save_soon(self: &Arc<Self>) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return self.save() };
        let shared = Arc::downgrade(self);
        runtime.spawn(async move {
            tokio::time::sleep(Duration::from_millis(SAVE_LINGER_MS)).await;
            if let Some(shared) = shared.upgrade() {
                shared.save();
            }
        });
    }

    /// Notes who is still there, and forgets consumers that stay away for longer than their queue
    /// is kept.
    pub(super) fn keep_house(&self) {
        self.save();
        let now_ms = self.clock.now_ms();
        let away_ms = |stored: &Consumer| now_ms.saturating_sub(stored.seen_ms);
        let mut batch = Batch::new();
        for stored in self.storage.consumers(self.stream) {
            let is_open = {
                let mut state = self.state();
                state.find(&stored.name).is_some_and(|(_, slot)| slot.open.is_some())
            };
            let Some(forget_after_ms) = stored.limits.forget_after_ms else { continue };
            if is_open {
                // Often enough that a crash does not make it look long gone.
                if away_ms(&stored) >= SEEN_MS.min(forget_after_ms / 4) {
                    self.save_place(&stored.name);
                }
            } else if away_ms(&stored) >= forget_after_ms {
                let backlog = self.storage.backlog(self.stream, &stored.name);
                let (messages, bytes) = backlog.unwrap_or_default();
                let consumer = &*stored.name;
                tracing::warn!(
                    stream = self.name,
                    consumer,
                    messages,
                    bytes,
                    "nobody took from this queue for its forgetAfter: it is forgotten"
                );
                self.state().remove(&stored.name);
                batch.remove_consumer(self.stream, &stored.name);
            }
        }
        if !batch.is_empty()
            && let Err(error) = self.storage.commit(batch, Durability::Eventual)
        {
            tracing::warn!(stream = self.name, %error, "consumers were not forgotten");
        }
    }
}

/// Keeps house until the stream is closed.
pub(super) async fn keep_house(shared: Weak<Shared>) {
    loop {
        tokio::time::sleep(Duration::from_millis(HOUSEKEEPING_MS)).await;
        let Some(shared) = shared.upgrade() else { return };
        shared.keep_house();
    }
}
