//! The consumers of one stream in memory, and who gets a message.

use super::queue::{Budget, Entry};
use super::routes::Routes;
use super::slot::{Offered, Slot};
use crate::pubsub::{Assurance, Message};
use crate::topic::Filter;
use std::collections::HashMap;
use std::sync::Arc;

/// Buckets, by topic, in which messages on their way through storage are counted.
const TRANSIT_BUCKETS: usize = 64;

/// Everything behind the journal's lock.
pub(super) struct State {
    pub(super) slots: Vec<Option<Slot>>,
    pub(super) by_name: HashMap<Arc<str>, u32>,
    pub(super) routes: Routes,
    pub(super) last_visible: u64,
    /// Messages given to storage and not yet visible, by topic: a later one of the topic must not
    /// overtake them.
    pub(super) in_transit: [u32; TRANSIT_BUCKETS],
    pub(super) owners: u64,
    pub(super) unstored: u64,
    pub(super) save_is_due: bool,
    /// A cursor may move although nobody acknowledged.
    pub(super) passed: bool,
    pub(super) budget: Arc<Budget>,
    /// Scratch for routing.
    matched: Vec<u32>,
}

impl State {
    pub(super) fn new(last_visible: u64) -> Self {
        Self {
            slots: Vec::new(),
            by_name: HashMap::new(),
            routes: Routes::default(),
            last_visible,
            in_transit: [0; TRANSIT_BUCKETS],
            owners: 0,
            unstored: 0,
            save_is_due: false,
            passed: false,
            budget: Arc::default(),
            matched: Vec::new(),
        }
    }

    pub(super) fn find(&mut self, name: &str) -> Option<(u32, &mut Slot)> {
        let id = *self.by_name.get(name)?;
        Some((id, self.slots.get_mut(id as usize)?.as_mut()?))
    }

    pub(super) fn slot(&mut self, id: u32) -> Option<&mut Slot> {
        self.slots.get_mut(id as usize)?.as_mut()
    }

    pub(super) fn add(&mut self, slot: Slot) {
        let free = self.slots.iter().position(Option::is_none);
        let id = free.unwrap_or(self.slots.len());
        self.by_name.insert(Arc::clone(&slot.name), u32::try_from(id).unwrap_or(u32::MAX));
        if free.is_none() {
            self.slots.push(None);
        }
        self.slots[id] = Some(slot);
    }

    /// Removes a consumer from memory and ends its reader.
    pub(super) fn remove(&mut self, name: &str) -> Option<Slot> {
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

    pub(super) fn set_filters(&mut self, name: &str, filters: &[Filter], since: u64) {
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
    pub(super) fn must_store(
        &mut self,
        messages: &[Arc<Message>],
        with_more: bool,
    ) -> Option<bool> {
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

    /// Hands a message to everybody who listens to it. `entry` is called if there is anybody.
    pub(super) fn deliver(&mut self, stream: &str, topic: &str, entry: impl Fn() -> Entry) {
        let mut matched = std::mem::take(&mut self.matched);
        self.routes.collect(topic, &mut matched);
        let mut shared = None;
        for id in &matched {
            let Some(slot) = self.slot(*id).filter(|slot| slot.open.is_some()) else { continue };
            let entry = shared.get_or_insert_with(|| Arc::new(entry()));
            match slot.offer(entry) {
                Offered::DroppedFirst => {
                    let consumer = &*slot.name;
                    tracing::warn!(stream, consumer, "queue is full: oldest messages are dropped");
                }
                Offered::LeftOut => self.passed = true,
                Offered::Taken | Offered::NotTaken => {}
            }
        }
        self.matched = matched;
    }

    pub(super) fn enter_transit(&mut self, messages: &[Arc<Message>]) {
        for message in messages {
            self.in_transit[bucket(&message.topic)] += 1;
        }
    }

    pub(super) fn leave_transit(&mut self, messages: &[Arc<Message>]) {
        for message in messages {
            let count = &mut self.in_transit[bucket(&message.topic)];
            *count = count.saturating_sub(1);
        }
    }
}

/// FNV-1a of the topic: spreads a handful of topics well enough, in a few nanoseconds.
fn bucket(topic: &str) -> usize {
    let hash = topic.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    (hash ^ (hash >> 32)) as usize % TRANSIT_BUCKETS
}
