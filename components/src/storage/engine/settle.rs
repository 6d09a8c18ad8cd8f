//! What happens to a commit after it was queued: it is shown, settled, or fails.

use super::{Below, Change, Engine, Entry, SWEEP_PER_COMMIT};
use crate::error::{Error, Result};
use crate::storage::keys::{Bulk, NEVER, Place};
use crate::storage::stream::{Kept, UNWRITTEN};
use crate::storage::{Record, Stream};
use std::collections::VecDeque;

impl Engine {
    /// Without a disk a change takes effect at once.
    pub(super) fn settle_in_memory(&mut self, change: Change) -> Result<()> {
        match change {
            Change::Key { table, key, slot: Some(stored) } => {
                if stored.expires_ms != NEVER {
                    self.expiries.insert((stored.expires_ms, table, key.clone()));
                }
                self.keys(table)?.apply(key, Some(stored));
            }
            Change::Key { table, key, slot: None } => self.keys(table)?.remove(&key),
            Change::Append { stream, record, wanted } => {
                self.show_append(stream, &record, wanted.is_some());
            }
            Change::ReservedEtags { .. } | Change::ReservedPositions { .. } => {}
        }
        Ok(())
    }

    /// Commits up to `last` are in batch `sequence`, from this place on.
    pub(in crate::storage) fn written(
        &mut self,
        sequence: u64,
        segment: u32,
        at: u32,
        last: Option<u64>,
    ) {
        self.sequence = sequence;
        let mut base = Place { segment, offset: at, len: 0 };
        while let Some(front) = self.queue.front()
            && last.is_some_and(|last| front.commit <= last)
        {
            let len = front.len;
            self.settle_front(sequence, base);
            base.offset = base.offset.saturating_add(len);
        }
        self.show_ready();
    }

    /// These commits are not on disk and will not be.
    pub(in crate::storage) fn failed(&mut self, commits: &[u64], error: &Error, broken: bool) {
        if broken && self.broken.is_none() {
            self.broken = Some(error.message().to_owned());
        }
        let queue = std::mem::take(&mut self.queue);
        let shown = std::mem::take(&mut self.shown);
        let mut undo = Vec::new();
        for (index, mut entry) in queue.into_iter().enumerate() {
            if commits.binary_search(&entry.commit).is_err() {
                self.shown += usize::from(index < shown);
                self.queue.push_back(entry);
                continue;
            }
            undo.append(&mut entry.undo);
            if !entry.durable && !entry.changes.is_empty() {
                tracing::error!(%error, "an eventual write is lost");
            }
            self.take_back(&entry);
            if let Some(answer) = entry.answer.take() {
                let _ = answer.send(Err(error.clone()));
            }
        }
        for (stream, name, before) in undo.into_iter().rev() {
            let Ok(state) = self.stream_mut(stream) else { continue };
            match before {
                Some(follower) => state.followers.by_name.insert(name, follower),
                None => state.followers.by_name.remove(&name),
            };
        }
        // What they reserved is reserved again by the next.
        self.etags.queued = self.etags.upto;
        for state in &mut self.streams {
            state.positions.queued = state.positions.upto;
        }
        self.show_ready();
    }

    fn take_back(&mut self, entry: &Entry) {
        for change in &entry.changes {
            match change {
                Change::Key { table, key, .. } => {
                    if let Ok(keys) = self.keys(*table) {
                        keys.unqueue(entry.commit, key);
                    }
                }
                Change::Append { stream, record, .. } => {
                    if let Ok(state) = self.stream_mut(*stream) {
                        state.forget(record.position);
                    }
                }
                Change::ReservedEtags { .. } | Change::ReservedPositions { .. } => {}
            }
        }
    }

    /// Shows what waits for nobody any more.
    pub(super) fn show_ready(&mut self) {
        loop {
            while self.queue.front().is_some_and(|front| front.len == 0) {
                let nowhere = Place { segment: 0, offset: 0, len: 0 };
                self.settle_front(self.sequence, nowhere);
            }
            let Some(entry) = self.queue.get(self.shown).filter(|entry| !entry.durable) else {
                return;
            };
            let appends: Vec<(u32, Record, bool)> = entry
                .changes
                .iter()
                .filter_map(|change| match change {
                    Change::Append { stream, record, wanted } => {
                        Some((*stream, record.clone(), wanted.is_some()))
                    }
                    _ => None,
                })
                .collect();
            self.shown += 1;
            for (stream, record, wanted) in appends {
                self.show_append(stream, &record, wanted);
            }
        }
    }

    fn show_append(&mut self, stream: u32, record: &Record, wanted: bool) {
        let Ok(state) = self.stream_mut(stream) else { return };
        state.visible = record.position;
        if wanted && state.followers.done_upto() < record.position {
            state.keep(record.position, UNWRITTEN, Kept::Inline(record.clone()));
        }
        if state.listener.is_some() {
            self.events.push_back((Stream(stream), record.clone()));
        }
    }

    /// The commit at the front is on disk, or has nothing to be there.
    fn settle_front(&mut self, sequence: u64, base: Place) {
        let Some(mut entry) = self.queue.pop_front() else { return };
        let shown = self.shown > 0;
        self.shown = self.shown.saturating_sub(1);
        let real = |place: &Place| Place {
            segment: base.segment,
            offset: base.offset.saturating_add(place.offset),
            len: place.len,
        };
        for change in std::mem::take(&mut entry.changes) {
            match change {
                Change::Key { table, key, slot } => {
                    let slot = slot.map(|mut stored| {
                        if let Bulk::Log(place) = &mut stored.bulk {
                            *place = real(place);
                        }
                        stored
                    });
                    if let Ok(keys) = self.keys(table) {
                        keys.settle(entry.commit, key, slot);
                    }
                }
                Change::Append { stream, record, wanted } => {
                    if !shown {
                        self.show_append(stream, &record, wanted.is_some());
                    }
                    let Ok(state) = self.stream_mut(stream) else { continue };
                    if let Some(place) = wanted
                        && state.kept.contains_key(&record.position)
                    {
                        state.keep(record.position, sequence, Kept::Log(real(&place)));
                    }
                }
                Change::ReservedEtags { upto } => self.etags.upto = self.etags.upto.max(upto),
                Change::ReservedPositions { stream, upto } => {
                    if let Ok(state) = self.stream_mut(stream) {
                        state.positions.upto = state.positions.upto.max(upto);
                    }
                }
            }
        }
        if let Some(answer) = entry.answer.take() {
            let _ = answer.send(Ok(entry.committed));
        }
    }

    /// What becomes visible from now on belongs to the next checkpoint. Answers the last batch
    /// that belongs to this one.
    pub(in crate::storage) fn cut(&mut self) -> u64 {
        for (_, keys) in &mut self.tables {
            keys.cut();
        }
        self.sequence
    }

    /// Lets go of what the tree has taken over, up to the last cut. The caller drops it where
    /// that may take its time.
    pub(in crate::storage) fn let_go(&mut self, upto: u64) -> Box<dyn std::any::Any + Send> {
        for state in &mut self.streams {
            state.let_go(upto);
        }
        let gone: Vec<_> = self.tables.iter_mut().map(|(_, keys)| keys.let_go()).collect();
        Box::new(gone)
    }

    /// Commits that are queued and not settled.
    #[cfg(test)]
    pub(in crate::storage) fn waiting(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn sweep(&mut self, now_ms: u64) {
        for _ in 0..SWEEP_PER_COMMIT {
            if self.expiries.first().is_none_or(|(expires_ms, ..)| *expires_ms > now_ms) {
                return;
            }
            let Some((expires_ms, table, key)) = self.expiries.pop_first() else { return };
            if let Ok(keys) = self.keys(table)
                && matches!(keys.visible(&key), Some(Some(stored)) if stored.expires_ms == expires_ms)
            {
                keys.remove(&key);
            }
        }
    }

    pub(in crate::storage) fn take_events(&mut self) -> VecDeque<(Stream, Record)> {
        std::mem::take(&mut self.events)
    }

    pub(in crate::storage) fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Makes everything refuse to work, and answers everybody who still waits.
    pub(in crate::storage) fn shut(&mut self) {
        self.closed = true;
        self.queue.clear();
        self.shown = 0;
        if let Some(Below { log, .. }) = &self.below {
            log.stop();
        }
    }
}
