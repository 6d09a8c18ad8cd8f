//! Reading: a key on the event loop, ranges on the checkpoint thread.

use super::format;
use super::keys::{Bulk, NEVER, Slot};
use super::log::segments::Segments;
use super::stream::{Kept, any_matches, message_bytes};
use super::tree::{Query, Tree};
use super::{Entry, OnDisk, Record, Storage, Stream, Table};
use crate::error::{Error, Kind, Result};
use crate::topic::Filter;
use bytes::Bytes;
use tokio::sync::oneshot;

/// Records of the index that one step of a read looks at.
const LOOKS: usize = 256;

impl Storage {
    /// The visible value of a key: index, log, tree. On the event loop.
    pub fn get(&self, table: Table, key: &[u8]) -> Result<Option<Entry>> {
        let engine = self.shared.engine();
        let now_ms = engine.clock.now_ms();
        match engine.visible(table, key)? {
            Some(None) => return Ok(None),
            Some(Some(stored)) if stored.expires_ms <= now_ms => return Ok(None),
            Some(Some(stored)) => {
                let value = match &stored.bulk {
                    Bulk::Inline(value) => value.clone(),
                    // Under the lock: no segment is given back meanwhile.
                    Bulk::Log(place) => {
                        let mut value = vec![0; place.len as usize];
                        self.disk()?.below.log.segments.read(*place, &mut value)?;
                        Bytes::from(value)
                    }
                };
                return Ok(Some(stored.entry(value)));
            }
            None => {}
        }
        drop(engine);
        let Some(disk) = &self.shared.disk else { return Ok(None) };
        let found = disk.below.tree.state(table.0, key, entry)?;
        Ok(found.filter(|entry| entry.expires_ms.is_none_or(|at_ms| at_ms > now_ms)))
    }

    fn disk(&self) -> Result<&OnDisk> {
        let missing = || Error::new(Kind::Internal, "a place in the log without a log");
        self.shared.disk.as_ref().ok_or_else(missing)
    }

    /// Keys and values after `after` that begin with `prefix`, at most so many and so large
    /// together (but at least one); on the checkpoint thread.
    pub async fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        entries_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<(Bytes, Entry)>> {
        let mut scan = Scan {
            table,
            prefix: Bytes::copy_from_slice(prefix),
            after: after.map(Bytes::copy_from_slice),
            entries_max,
            bytes_max,
            now_ms: 0,
            bytes: 0,
            found: Vec::new(),
            is_done: entries_max == 0,
        };
        while !scan.is_done {
            let job = {
                let engine = self.shared.engine();
                scan.now_ms = engine.clock.now_ms();
                let more = scan.entries_max - scan.found.len();
                let slots = engine.range(table, prefix, scan.after.as_deref(), more)?;
                let values = slots.iter().filter(|(_, slot)| slot.is_some()).count();
                let end = slots.last().filter(|_| values == more).map(|(key, _)| key.clone());
                let Some(disk) = &self.shared.disk else {
                    drop(engine);
                    scan.without_tree(slots, end)?;
                    continue;
                };
                disk.keeper.read(move |tree, segments| {
                    scan.step(slots, end, tree, segments)?;
                    Ok(scan)
                })?
            };
            scan = self.answer(job).await?;
        }
        Ok(scan.found)
    }

    async fn answer<T>(&self, job: oneshot::Receiver<Result<T>>) -> Result<T> {
        let _done = ReadDone(self);
        job.await.unwrap_or_else(|_| Err(Error::new(Kind::Closed, "storage is closed")))
    }

    /// Visible records after `after` that match one of `filters` and have not expired, in order,
    /// at most so many and so large together (but at least one), with the position up to which
    /// was looked; on the checkpoint thread.
    pub async fn read(
        &self,
        stream: Stream,
        after: u64,
        filters: &[Filter],
        records_max: usize,
        bytes_max: usize,
    ) -> Result<(Vec<Record>, u64)> {
        let mut found = Vec::new();
        let mut after = after;
        let mut bytes_left = bytes_max;
        loop {
            let records_left = records_max.saturating_sub(found.len());
            let job = {
                let engine = self.shared.engine();
                let state = engine.stream_state(stream)?;
                let visible = state.visible;
                if after >= visible || records_left == 0 {
                    return Ok((found, after));
                }
                let now_ms = engine.clock.now_ms();
                let filters = filters.to_vec();
                let in_tree = state.kept_above.min(visible);
                let is_first = found.is_empty();
                if after < in_tree {
                    let Some(disk) = &self.shared.disk else { return Ok((found, visible)) };
                    disk.keeper.read(move |tree, _| {
                        tree.records(&Query {
                            stream: stream.0,
                            after,
                            upto: in_tree,
                            filters: &filters,
                            records_max: records_left,
                            bytes_max: bytes_left,
                            is_first,
                            now_ms,
                        })
                    })?
                } else {
                    let range = state.kept.range(after.saturating_add(1)..=visible);
                    let kept: Vec<(u64, Kept)> = range
                        .take(LOOKS)
                        .map(|(position, (_, kept))| (*position, kept.clone()))
                        .collect();
                    let upto = match kept.last() {
                        Some((last, _)) if kept.len() == LOOKS => *last,
                        _ => visible,
                    };
                    let select = Select { filters, records_left, bytes_left, is_first, now_ms };
                    match &self.shared.disk {
                        None => {
                            drop(engine);
                            let (more, looked) = select.run(kept, upto, None)?;
                            after = looked;
                            let is_end = looked < upto;
                            bytes_left = bytes_left.saturating_sub(sum(&more));
                            found.extend(more);
                            if is_end {
                                return Ok((found, after));
                            }
                            continue;
                        }
                        Some(disk) => disk
                            .keeper
                            .read(move |_, segments| select.run(kept, upto, Some(segments)))?,
                    }
                }
            };
            let (more, looked) = self.answer(job).await?;
            let progress = looked > after;
            after = looked;
            bytes_left = bytes_left.saturating_sub(sum(&more));
            found.extend(more);
            if !progress || bytes_left == 0 {
                return Ok((found, after));
            }
        }
    }
}

/// Counts a read as answered, also when its caller went away.
struct ReadDone<'a>(&'a Storage);

impl Drop for ReadDone<'_> {
    fn drop(&mut self) {
        if let Some(disk) = &self.0.shared.disk {
            disk.keeper.read_done();
        }
    }
}

fn sum(records: &[Record]) -> usize {
    records.iter().map(|record| message_bytes(&record.message)).sum()
}

fn entry(record: &[u8]) -> Result<Entry> {
    let (head, value) = format::decode_state(record)?;
    Ok(format::stored(&head, Bulk::Inline(Bytes::new())).entry(Bytes::copy_from_slice(value)))
}

/// Records of the index that a reader wants.
struct Select {
    filters: Vec<Filter>,
    records_left: usize,
    bytes_left: usize,
    is_first: bool,
    now_ms: u64,
}

impl Select {
    fn run(
        &self,
        kept: Vec<(u64, Kept)>,
        upto: u64,
        segments: Option<&Segments>,
    ) -> Result<(Vec<Record>, u64)> {
        let mut found = Vec::new();
        let mut bytes = 0;
        let mut buffer = Vec::new();
        for (position, kept) in kept {
            let record = match (kept, segments) {
                (Kept::Inline(record), _) => record,
                (Kept::Log(place), Some(segments)) => {
                    segments.read(place, &mut buffer)?;
                    let (head, payload) = format::decode_record(&buffer)?;
                    if !any_matches(&self.filters, head.topic) {
                        continue;
                    }
                    format::record(position, &head, payload)
                }
                (Kept::Log(_), None) => continue,
            };
            let expired = record.expires_ms.is_some_and(|at_ms| at_ms <= self.now_ms);
            if expired || !any_matches(&self.filters, &record.message.topic) {
                continue;
            }
            bytes += message_bytes(&record.message);
            let is_first = self.is_first && found.is_empty();
            if found.len() >= self.records_left || (bytes > self.bytes_left && !is_first) {
                return Ok((found, position - 1));
            }
            found.push(record);
        }
        Ok((found, upto))
    }
}

/// A scan on its way.
struct Scan {
    table: Table,
    prefix: Bytes,
    after: Option<Bytes>,
    entries_max: usize,
    bytes_max: usize,
    now_ms: u64,
    bytes: usize,
    found: Vec<(Bytes, Entry)>,
    is_done: bool,
}

impl Scan {
    /// Goes on with what the index said, up to `end` if it said only a part, over the tree.
    fn step(
        &mut self,
        slots: Vec<(Bytes, Slot)>,
        end: Option<Bytes>,
        tree: &Tree,
        segments: &Segments,
    ) -> Result<()> {
        let mut slots = slots.into_iter().peekable();
        let (prefix, after) = (self.prefix.clone(), self.after.clone());
        let is_beyond = |key: &[u8]| end.as_ref().is_some_and(|end| key > &**end);
        tree.scan(self.table.0, &prefix, after.as_deref(), |key, record| {
            while let Some((index_key, slot)) = slots.next_if(|(index_key, _)| **index_key < *key) {
                self.take(index_key, slot, Some(segments))?;
            }
            if self.is_done || is_beyond(key) {
                return Ok(false);
            }
            match slots.next_if(|(index_key, _)| **index_key == *key) {
                Some((key, slot)) => self.take(key, slot, Some(segments))?,
                None => {
                    let entry = entry(record)?;
                    self.add(Bytes::copy_from_slice(key), entry);
                }
            }
            Ok(!self.is_done)
        })?;
        for (key, slot) in slots {
            self.take(key, slot, Some(segments))?;
        }
        self.end_step(end);
        Ok(())
    }

    fn without_tree(&mut self, slots: Vec<(Bytes, Slot)>, end: Option<Bytes>) -> Result<()> {
        for (key, slot) in slots {
            self.take(key, slot, None)?;
        }
        self.end_step(end);
        Ok(())
    }

    fn end_step(&mut self, end: Option<Bytes>) {
        self.is_done |= end.is_none() || self.found.len() >= self.entries_max;
        self.after = end;
    }

    fn take(&mut self, key: Bytes, slot: Slot, segments: Option<&Segments>) -> Result<()> {
        let Some(stored) = slot.filter(|_| !self.is_done) else { return Ok(()) };
        let value = match (&stored.bulk, segments) {
            (Bulk::Inline(value), _) => value.clone(),
            (Bulk::Log(place), Some(segments)) => {
                let mut value = vec![0; place.len as usize];
                segments.read(*place, &mut value)?;
                Bytes::from(value)
            }
            (Bulk::Log(_), None) => return Ok(()),
        };
        self.add(key, stored.entry(value));
        Ok(())
    }

    fn add(&mut self, key: Bytes, entry: Entry) {
        if entry.expires_ms.unwrap_or(NEVER) <= self.now_ms {
            return;
        }
        self.bytes += key.len() + entry.value.len();
        if self.found.len() >= self.entries_max
            || (self.bytes > self.bytes_max && !self.found.is_empty())
        {
            self.is_done = true;
            return;
        }
        self.found.push((key, entry));
    }
}
