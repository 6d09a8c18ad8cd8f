//! Who follows which keys, and which of them have changed since they looked.
//!
//! A subscription holds keys, not items: the item is read when the change is taken. So a
//! subscriber that is slow or away costs a few names, and ends at the last value in any case. When
//! too many names wait they are let go, and every item is told instead, a page at a time.

use super::stored::Items;
use super::{Change, Changes};
use crate::error::{Error, Kind, Result};
use async_trait::async_trait;
use bytes::Bytes;
use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tokio::sync::Notify;

/// Most open subscriptions of one store.
pub const SUBSCRIPTIONS_MAX: usize = 256;

/// Most changed keys that wait for one subscription: 50 KB of names. Beyond it every item is told
/// anew; of keys that were deleted meanwhile the subscription does not hear.
pub const PENDING_KEYS_MAX: usize = 1024;

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
    /// Every item is to be told: those after this place, once the names above are.
    rest: Option<After>,
}

/// Where a reading of every item goes on; `None` is the beginning.
type After = Option<Bytes>;

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
            if slot.follows(&key) {
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
    fn follows(&self, key: &str) -> bool {
        self.keys.is_empty() || self.keys.contains(key)
    }

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
        if self.order.len() > PENDING_KEYS_MAX {
            tracing::warn!(
                "more than {PENDING_KEYS_MAX} changed keys wait for one subscription: every item is \
                 told instead, but not which keys were deleted"
            );
            *self = Self { rest: Some(None), ..Self::default() };
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

impl Following {
    fn tell(&self, key: Arc<str>) -> Result<Change> {
        match self.items.get(&key) {
            Ok(item) => Ok(Change { key: key.as_ref().to_owned(), item }),
            Err(error) => {
                self.slot.pending().put_back(key);
                Err(error)
            }
        }
    }

    /// Adds a page of keys to those that wait.
    async fn read_on(&self, after: After) -> Result<()> {
        let page = self.items.keys(after.as_deref()).await?;
        let mut pending = self.slot.pending();
        if pending.rest.as_ref() != Some(&after) {
            // It begins anew.
            return Ok(());
        }
        pending.rest = page.last().map(|(at, _)| Some(at.clone()));
        for (_, key) in page.into_iter().filter(|(_, key)| self.slot.follows(key)) {
            pending.add(&key);
        }
        Ok(())
    }
}

#[async_trait]
impl Changes for Following {
    async fn next(&mut self) -> Result<Change> {
        loop {
            let (key, rest) = {
                let mut pending = self.slot.pending();
                (pending.take(), pending.rest.clone())
            };
            match (key, rest) {
                (Some(key), _) => return self.tell(key),
                (None, Some(after)) => self.read_on(after).await?,
                // A change between the look and this line has left its permit.
                (None, None) => self.slot.told.notified().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_waits_once_and_the_queue_has_an_end() {
        let mut pending = Pending::default();
        let key = |number: usize| Arc::<str>::from(format!("k{number}"));
        for number in 0..PENDING_KEYS_MAX {
            pending.add(&key(number));
            pending.add(&key(number));
        }
        assert_eq!((pending.order.len(), pending.known.len()), (1024, 1024));
        assert_eq!(pending.take(), Some(key(0)));
        pending.put_back(key(0));
        assert_eq!((pending.take(), pending.take()), (Some(key(0)), Some(key(1))));
        assert_eq!(pending.rest, None);
        for number in [0, 1, PENDING_KEYS_MAX] {
            pending.add(&key(number));
        }
        assert_eq!((pending.order.len(), pending.known.len()), (0, 0));
        assert_eq!(pending.rest, Some(None));
    }
}
