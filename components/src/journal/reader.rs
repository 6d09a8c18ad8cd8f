//! One open subscription on a stream: asks its slot for the next step and does it.

use super::slot::Step;
use super::{SAVE_AT, Shared, check_filters};
use crate::error::{Error, Kind, Result};
use crate::pubsub::{Delivery, Subscription};
use crate::storage::Record;
use crate::topic::Filter;
use async_trait::async_trait;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::Notify;

/// Most records of one read from storage.
const READ_RECORDS_MAX: usize = 128;

type Reading = Pin<Box<dyn Future<Output = Result<(Vec<Record>, u64)>> + Send>>;

/// The reader of one consumer. Dropping it stops delivery and saves how far it came.
pub(crate) struct Reader {
    shared: Arc<Shared>,
    slot: u32,
    owner: u64,
    notify: Arc<Notify>,
    /// A read on its way. Kept here, so that a `next` that is dropped and called again does not
    /// begin it anew.
    reading: Option<Reading>,
}

impl Reader {
    pub(super) fn new(shared: Arc<Shared>, slot: u32, owner: u64, notify: Arc<Notify>) -> Self {
        Self { shared, slot, owner, notify, reading: None }
    }

    fn step(&self) -> Option<Step> {
        let mut state = self.shared.state();
        let last_visible = state.last_visible;
        state.slot(self.slot)?.step(self.owner, self.shared.clock.now_ms(), last_visible)
    }

    fn read(&self, after: u64, bytes_max: usize) -> Reading {
        let (storage, stream) = (self.shared.storage.clone(), self.shared.stream);
        let filters = self.shared.state().slot(self.slot).map(|slot| slot.filters());
        Box::pin(async move {
            let filters = filters.unwrap_or_default();
            storage.read(stream, after, &filters, READ_RECORDS_MAX, bytes_max).await
        })
    }

    fn is_owner(&self) -> bool {
        let mut state = self.shared.state();
        let open = state.slot(self.slot).and_then(|slot| slot.open.as_ref());
        open.is_some_and(|open| open.owner == self.owner)
    }
}

#[cfg(test)]
impl Reader {
    /// Whether the next fresh message would come from storage.
    pub(super) fn is_behind(&self) -> bool {
        let mut state = self.shared.state();
        state.slot(self.slot).is_some_and(|slot| slot.durable && !slot.takes_live(0))
    }
}

#[async_trait]
impl Subscription for Reader {
    async fn next(&mut self) -> Result<Delivery> {
        // A queue that never runs dry must not keep the event loop from others.
        tokio::task::coop::consume_budget().await;
        loop {
            match self.step() {
                None => return Err(closed()),
                Some(Step::Yield(delivery)) => return Ok(delivery),
                Some(Step::Wait) => self.notify.notified().await,
                Some(Step::Read { after, bytes_max }) => {
                    let reading = match &mut self.reading {
                        Some(reading) => reading,
                        None => {
                            let reading = self.read(after, bytes_max);
                            self.reading.insert(reading)
                        }
                    };
                    let read = reading.await;
                    self.reading = None;
                    let (records, looked_through) = read?;
                    if records.is_empty() && looked_through <= after {
                        // Reading again at once would never end.
                        let message = "storage knows of later records and does not find them";
                        return Err(Error::new(Kind::Corrupted, message));
                    }
                    let shared = &self.shared;
                    let mut state = shared.state();
                    let entry = |record| Arc::new(shared.entry(record, &state.budget));
                    let entries = records.iter().map(entry).collect();
                    if let Some(slot) = state.slot(self.slot) {
                        slot.fill(self.owner, entries, looked_through);
                    }
                }
            }
        }
    }

    fn ack(&mut self, token: u64) {
        let mut state = self.shared.state();
        let last_visible = state.last_visible;
        let Some(slot) = state.slot(self.slot) else { return };
        if !slot.ack(self.owner, token, last_visible) {
            return;
        }
        let unsaved = slot.open.as_ref().map_or(0, |open| open.unsaved);
        let is_first = !std::mem::replace(&mut state.save_is_due, true);
        drop(state);
        if unsaved >= SAVE_AT {
            self.shared.save();
        } else if is_first {
            self.shared.save_soon();
        }
    }

    fn nack(&mut self, token: u64) {
        if let Some(slot) = self.shared.state().slot(self.slot) {
            slot.nack(self.owner, token);
        }
    }

    fn set_filters(&mut self, filters: Vec<Filter>) -> Result<()> {
        check_filters(&filters)?;
        if !self.is_owner() {
            return Err(closed());
        }
        let (name, durable) = {
            let mut state = self.shared.state();
            let Some(slot) = state.slot(self.slot) else { return Err(closed()) };
            let (name, durable) = (Arc::clone(&slot.name), slot.durable);
            let visible = self.shared.storage.last_position(self.shared.stream);
            let since = visible.max(state.last_visible);
            state.set_filters(&name, &filters, since);
            (name, durable)
        };
        // A read on its way looks for what was wanted before.
        self.reading = None;
        if durable {
            // Queued before anything that is published from now on, so it need not be awaited.
            let stored = self.shared.stored(&name);
            drop(self.shared.save_consumer(&name, stored.as_ref())?);
        }
        Ok(())
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let name = {
            let mut state = self.shared.state();
            let Some(slot) = state.slot(self.slot) else { return };
            if slot.open.as_ref().is_none_or(|open| open.owner != self.owner) {
                return;
            }
            let name = Arc::clone(&slot.name);
            if !slot.durable {
                state.remove(&name);
                return;
            }
            name
        };
        self.shared.save_place(&name);
        if let Some((_, slot)) = self.shared.state().find(&name) {
            slot.open = None;
        }
    }
}

fn closed() -> Error {
    Error::new(Kind::Closed, "the subscription was taken over or forgotten")
}
