//! Who follows which keys, and which of them have changed since they looked.
//!
//! A subscription holds keys, not items: the item is read when the change is taken. So a
//! subscriber that is slow or away costs a few names, and ends at the last value in any case.

use super::stored::Items;
use super::{Change, Changes};
use crate::error::{Error, Kind, Result};
use async_trait::async_trait;
use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tokio::sync::Notify;

/// Most open subscriptions of one store.
pub const SUBSCRIPTIONS_MAX: usize = 1024;

/// Most keys that wait for one subscription; beyond it the oldest is left out, and that is logged.
/// A store of the default size can hold more keys, but they would all have to change at once.
pub const PENDING_KEYS_MAX: usize = 4096;

/// The subscriptions of one store.
#[derive(Default)]
pub(super) struct Subscribers {
    slots: Mutex<Vec<Weak<Slot>>>,
}

/// One subscription as its store sees it.
struct Slot {
    /// Empty for every key.
    keys: BTreeSet<String>,
    pending: Mutex<Pending>,
    told: Notify,
}

/// Keys that have changed, each once.
#[derive(Default)]
struct Pending {
    order: VecDeque<Arc<str>>,
    known: BTreeSet<Arc<str>>,
    left_out: u64,
}

impl Subscribers {
    /// A new subscription to these keys of `items`.
    pub(super) fn open(&self, keys: &[String], items: Arc<Items>) -> Result<Box<dyn Changes>> {
        let slot = Arc::new(Slot {
            keys: keys.iter().cloned().collect(),
            pending: Mutex::default(),
            told: Notify::new(),
        });
        let mut slots = self.slots();
        slots.retain(|slot| slot.strong_count() > 0);
        if slots.len() >= SUBSCRIPTIONS_MAX {
            let message = format!("{SUBSCRIPTIONS_MAX} subscriptions are open: end some of them");
            return Err(Error::new(Kind::Overloaded, message));
        }
        slots.push(Arc::downgrade(&slot));
        Ok(Box::new(Following { slot, items }))
    }

    /// Tells everyone who follows the key that it has changed.
    pub(super) fn tell(&self, key: &str) {
        let key: Arc<str> = key.into();
        self.slots().retain(|slot| {
            let Some(slot) = slot.upgrade() else { return false };
            if slot.keys.is_empty() || slot.keys.contains(&*key) {
                slot.pending().add(&key);
                slot.told.notify_one();
            }
            true
        });
    }

    fn slots(&self) -> MutexGuard<'_, Vec<Weak<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pending {
    fn add(&mut self, key: &Arc<str>) {
        if !self.known.insert(key.clone()) {
            return;
        }
        self.order.push_back(key.clone());
        if self.order.len() > PENDING_KEYS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
            self.left_out += 1;
            if self.left_out.is_power_of_two() {
                tracing::error!(
                    key = &*oldest,
                    left_out = self.left_out,
                    "more than {PENDING_KEYS_MAX} changed keys wait for one subscription: the \
                     oldest is left out"
                );
            }
        }
    }

    fn take(&mut self) -> Option<Arc<str>> {
        let key = self.order.pop_front()?;
        self.known.remove(&key);
        Some(key)
    }

    /// Puts a key back that could not be told.
    fn put_back(&mut self, key: Arc<str>) {
        if self.known.insert(key.clone()) {
            self.order.push_front(key);
        }
    }
}

/// The subscriber's end.
struct Following {
    slot: Arc<Slot>,
    items: Arc<Items>,
}

#[async_trait]
impl Changes for Following {
    async fn next(&mut self) -> Result<Change> {
        loop {
            let key = self.slot.pending().take();
            let Some(key) = key else {
                // A change between the look and this line has left its permit.
                self.slot.told.notified().await;
                continue;
            };
            return match self.items.get(&key) {
                Ok(item) => Ok(Change { key: key.as_ref().to_owned(), item }),
                Err(error) => {
                    self.slot.pending().put_back(key);
                    Err(error)
                }
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_waits_once_and_the_queue_has_an_end() {
        let mut pending = Pending::default();
        for number in 0..3 * PENDING_KEYS_MAX {
            let key: Arc<str> = format!("k{number}").into();
            pending.add(&key);
            pending.add(&key);
        }
        assert_eq!(
            (pending.order.len(), pending.known.len()),
            (PENDING_KEYS_MAX, PENDING_KEYS_MAX)
        );
        assert_eq!(pending.left_out, 2 * PENDING_KEYS_MAX as u64);
        let first = pending.take().unwrap();
        assert_eq!(&*first, format!("k{}", 2 * PENDING_KEYS_MAX));
        pending.put_back(first.clone());
        assert_eq!(pending.take(), Some(first));
    }
}
