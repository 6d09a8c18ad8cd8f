//! The keys of one table in memory: what changed since the last checkpoint, and what is queued.
//!
//! A map with an order, because scans need one and because a hash map of this size stalls the
//! event loop when it grows.

use super::Entry;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

/// Memory that an entry costs beside its key and value: nodes, counters, slots. Estimated from the
/// sizes of the types and a B-tree that is two thirds full.
pub(super) const ENTRY_BYTES: usize = 240;

/// No expiry.
pub(super) const NEVER: u64 = u64::MAX;

/// Where bytes lie in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) segment: u32,
    pub(super) offset: u32,
    pub(super) len: u32,
}

/// The bytes of a value, or where they are.
#[derive(Debug, Clone)]
pub(super) enum Bulk {
    Inline(Bytes),
    Log(Place),
}

/// A value with what decisions need to know of it.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) etag: u64,
    pub(super) expires_ms: u64,
    pub(super) content_type: Option<Arc<str>>,
    pub(super) bulk: Bulk,
}

impl Stored {
    pub(super) fn entry(&self, value: Bytes) -> Entry {
        Entry {
            etag: self.etag,
            expires_ms: (self.expires_ms != NEVER).then_some(self.expires_ms),
            content_type: self.content_type.clone(),
            value,
        }
    }

    fn bytes(&self) -> usize {
        match &self.bulk {
            Bulk::Inline(value) => value.len(),
            Bulk::Log(_) => 0,
        }
    }
}

/// What the index knows of a key; `None` is a deletion that hides what is in the tree.
pub(super) type Slot = Option<Stored>;

/// The last queued change of a key.
#[derive(Debug)]
struct Queued {
    /// The commit it belongs to.
    commit: u64,
    /// ETag and expiry after it; `None` when it is a deletion.
    after: Option<(u64, u64)>,
    /// The last eventual change, which is visible before its sync.
    eventual: Option<(u64, Slot)>,
}

/// The keys of one table.
#[derive(Debug, Default)]
pub(super) struct Keys {
    /// Applied since the last checkpoint began.
    young: BTreeMap<Bytes, Slot>,
    /// Applied before that and not yet let go.
    old: BTreeMap<Bytes, Slot>,
    queued: BTreeMap<Bytes, Queued>,
    /// Memory of young and old.
    young_bytes: usize,
    old_bytes: usize,
}

impl Keys {
    pub(super) fn bytes(&self) -> usize {
        self.young_bytes + self.old_bytes
    }

    /// The visible slot, if the index knows one.
    pub(super) fn visible(&self, key: &[u8]) -> Option<&Slot> {
        if !self.queued.is_empty()
            && let Some(Queued { eventual: Some((_, slot)), .. }) = self.queued.get(key)
        {
            return Some(slot);
        }
        self.young.get(key).or_else(|| self.old.get(key))
    }

    /// ETag and expiry after everything queued, if the index knows the key.
    pub(super) fn latest(&self, key: &[u8]) -> Option<Option<(u64, u64)>> {
        if !self.queued.is_empty()
            && let Some(queued) = self.queued.get(key)
        {
            return Some(queued.after);
        }
        let slot = self.young.get(key).or_else(|| self.old.get(key))?;
        Some(slot.as_ref().map(|stored| (stored.etag, stored.expires_ms)))
    }

    /// Notes a change that waits for its sync. An eventual one is visible before that; `value` is
    /// its value, if the slot says only where it will be.
    pub(super) fn queue(
        &mut self,
        commit: u64,
        key: &Bytes,
        slot: &Slot,
        value: Option<Bytes>,
        eventual: bool,
    ) {
        let after = slot.as_ref().map(|stored| (stored.etag, stored.expires_ms));
        let shown = eventual.then(|| {
            let mut slot = slot.clone();
            if let (Some(stored), Some(value)) = (&mut slot, value) {
                stored.bulk = Bulk::Inline(value);
            }
            (commit, slot)
        });
        match self.queued.get_mut(key) {
            Some(queued) => {
                queued.commit = commit;
                queued.after = after;
                if shown.is_some() {
                    queued.eventual = shown;
                }
            }
            None => {
                self.queued.insert(key.clone(), Queued { commit, after, eventual: shown });
            }
        }
    }

    /// Makes a change visible whose sync is done.
    pub(super) fn settle(&mut self, commit: u64, key: Bytes, slot: Slot) {
        self.unqueue(commit, &key);
        self.apply(key, slot);
    }

    /// Forgets a queued change.
    pub(super) fn unqueue(&mut self, commit: u64, key: &Bytes) {
        if let Some(queued) = self.queued.get_mut(key) {
            if queued.commit <= commit {
                self.queued.remove(key);
            } else if queued.eventual.as_ref().is_some_and(|(of, _)| *of <= commit) {
                queued.eventual = None;
            }
        }
    }

    /// Sets what is visible. With nothing below the index, a deletion leaves nothing behind.
    pub(super) fn apply(&mut self, key: Bytes, slot: Slot) {
        self.young_bytes += slot_bytes(&key, &slot);
        let key_len = key.len();
        if let Some(before) = self.young.insert(key, slot) {
            self.young_bytes -= key_len + ENTRY_BYTES + before.map_or(0, |stored| stored.bytes());
        }
    }

    /// Removes a key without a trace, for an index with nothing below it.
    pub(super) fn remove(&mut self, key: &[u8]) {
        if let Some((key, slot)) = self.young.remove_entry(key) {
            self.young_bytes -= slot_bytes(&key, &slot);
        }
    }

    /// What is applied from now on belongs to the next checkpoint.
    pub(super) fn cut(&mut self) {
        if self.old.is_empty() {
            self.old = std::mem::take(&mut self.young);
            self.old_bytes = std::mem::take(&mut self.young_bytes);
        } else {
            self.old.append(&mut self.young);
            self.old_bytes += std::mem::take(&mut self.young_bytes);
        }
    }

    /// Lets go of what was applied before the last cut. The caller drops it where that may take
    /// its time.
    pub(super) fn let_go(&mut self) -> BTreeMap<Bytes, Slot> {
        self.old_bytes = 0;
        std::mem::take(&mut self.old)
    }

    /// Visible slots after `after` with `prefix`, in order, until so many of them hold a value.
    pub(super) fn range(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        values_max: usize,
    ) -> Vec<(Bytes, Slot)> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let range = (from, Bound::Unbounded);
        let mut young = self.young.range::<[u8], _>(range).peekable();
        let mut old = self.old.range::<[u8], _>(range).peekable();
        let mut queued = self
            .queued
            .range::<[u8], _>(range)
            .filter_map(|(key, queued)| Some((key, &queued.eventual.as_ref()?.1)))
            .peekable();
        let mut found = Vec::new();
        let mut values = 0;
        while values < values_max {
            let next = [young.peek(), old.peek(), queued.peek()]
                .into_iter()
                .flatten()
                .map(|(key, _)| *key)
                .min();
            let Some(key) = next.filter(|key| key.starts_with(prefix)) else { break };
            let mut take = None;
            if let Some((_, slot)) = old.next_if(|(other, _)| *other == key) {
                take = Some(slot);
            }
            if let Some((_, slot)) = young.next_if(|(other, _)| *other == key) {
                take = Some(slot);
            }
            if let Some((_, slot)) = queued.next_if(|(other, _)| *other == key) {
                take = Some(slot);
            }
            let Some(slot) = take else { break };
            values += usize::from(slot.is_some());
            found.push((key.clone(), slot.clone()));
        }
        found
    }
}

fn slot_bytes(key: &Bytes, slot: &Slot) -> usize {
    key.len() + ENTRY_BYTES + slot.as_ref().map_or(0, Stored::bytes)
}
