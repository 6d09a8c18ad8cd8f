//! A checkpoint: reads batches from the log and brings what they leave into the tree.
//!
//! It is the replay of the log, into the tree instead of the index: the last value of each changed
//! key, the records that somebody still wants, the consumers, and with them, in one durable
//! transaction, the sequence up to which this holds. What is too much for one transaction goes
//! ahead in steps that are not durable alone: a crash between them leaves the tree as it was.

mod release;

use super::format::{self, Logged, Meta};
use super::keys::Place;
use super::log::segments::{Read, Segments};
use super::stream::Followers;
use super::tree::{
    CONSUMERS, EXPIRIES, META, RECORDS, STATE, Tree, position_of, record_key, state_key, wrong,
};
use crate::error::{Error, Kind, Result};
use redb::{ReadableTable, Table, WriteTransaction};
use release::leave_room;
pub(super) use release::{shrink, sweep};
use std::collections::{BTreeMap, BTreeSet};

/// Changes that are gathered before a step is written.
const STEP_CHANGES: usize = 16 * 1024;

/// Rows that one step removes from the tree.
pub(super) const STEP_REMOVALS: usize = 4096;

/// Above this size the tree writes down its free pages, so that opening it after a crash does not
/// walk through all of it.
const QUICK_REPAIR_BYTES: u64 = 16 << 20;

/// What a row of the tree costs beside key and value, about.
const ROW_BYTES: u64 = 16;

/// What the tree shall hold exactly, where the log only reserves: at a clean end.
#[derive(Debug, Clone, Default)]
pub(super) struct Exact {
    pub(super) etags: u64,
    /// The next position of each stream.
    pub(super) positions: Vec<u64>,
}

/// Brings batches up to `upto` into the tree. Answers the new meta row. With `leaves_room` it fails
/// when there is no room to remove things afterwards.
pub(super) fn run(
    tree: &Tree,
    segments: &Segments,
    upto: u64,
    exact: Option<&Exact>,
    leaves_room: bool,
) -> Result<Meta> {
    let mut pass = Pass::load(tree, segments)?;
    let from = pass.meta.sequence;
    segments.visit(from, upto, |read| {
        pass.take(read)?;
        if pass.changes() >= STEP_CHANGES { pass.write(None) } else { Ok(()) }
    })?;
    pass.meta.sequence = pass.meta.sequence.max(upto);
    if let Some(exact) = exact {
        pass.meta.etags = exact.etags;
        for ((_, next), exact) in pass.meta.streams.iter_mut().zip(&exact.positions) {
            *next = *exact;
        }
    }
    while pass.freed.len() > STEP_REMOVALS || pass.has_more_removals {
        pass.write(None)?;
    }
    pass.write(Some(Last::Sequence { leaves_room }))?;
    Ok(pass.meta)
}

/// What the last step of a pass writes besides.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    Sequence { leaves_room: bool },
    Shrink,
}

/// One pass over a stretch of the log.
struct Pass<'a> {
    tree: &'a Tree,
    /// [`Tree::reopened`] as the pass began.
    reopened: u64,
    segments: &'a Segments,
    meta: Meta,
    /// By key of the tree, so that they are written in its order. `None` is a removal.
    keys: BTreeMap<Vec<u8>, Option<Place>>,
    appends: Vec<(u32, u64, Place)>,
    followers: BTreeMap<u32, Followers>,
    changed: BTreeSet<(u32, String)>,
    /// Stretches of streams that a consumer is done with: first and last position.
    freed: Vec<(u32, u64, u64)>,
    has_more_removals: bool,
    /// Records that one transaction removes.
    removals_max: usize,
}

impl<'a> Pass<'a> {
    fn load(tree: &'a Tree, segments: &'a Segments) -> Result<Self> {
        let reopened = tree.reopened();
        let mut followers = BTreeMap::<u32, Followers>::new();
        for (stream, follower) in tree.consumers()? {
            let of_stream = followers.entry(stream).or_default();
            of_stream.by_name.insert(follower.consumer.name.clone(), follower);
        }
        Ok(Self {
            tree,
            reopened,
            segments,
            meta: tree.meta()?,
            keys: BTreeMap::new(),
            appends: Vec::new(),
            followers,
            changed: BTreeSet::new(),
            freed: Vec::new(),
            has_more_removals: false,
            removals_max: STEP_REMOVALS,
        })
    }

    fn changes(&self) -> usize {
        self.keys.len() + self.appends.len()
    }

    fn take(&mut self, read: &Read<'_>) -> Result<()> {
        self.meta.clock_ms = self.meta.clock_ms.max(read.head.clock_ms);
        format::for_each(read.records, |logged, end| {
            self.change(&logged, |len| read.place(end, len))
        })
    }

    fn change(&mut self, logged: &Logged<'_>, place: impl Fn(usize) -> Place) -> Result<()> {
        match logged {
            Logged::Put { table, key, record } => {
                let place = place(record.0.len());
                self.keys.insert(state_key(*table, key.0), Some(place));
                let (head, _) = format::decode_state(record.0)?;
                self.meta.etags = self.meta.etags.max(head.etag + 1);
            }
            Logged::Delete { table, key } => {
                self.keys.insert(state_key(*table, key.0), None);
            }
            Logged::Append { stream, position, record } => {
                self.appends.push((*stream, *position, place(record.0.len())));
                let (head, payload) = format::decode_record(record.0)?;
                let bytes = (head.topic.len() + payload.len()) as u64;
                let followers = self.followers.entry(*stream).or_default();
                followers.count(*position, head.topic, bytes, head.appended_ms);
                for (name, follower) in &followers.by_name {
                    if follower.consumer.filters.iter().any(|filter| filter.matches(head.topic)) {
                        self.changed.insert((*stream, name.clone()));
                    }
                }
                if let Some((_, next)) = self.meta.streams.get_mut(*stream as usize) {
                    *next = (*next).max(position + 1);
                }
            }
            logged if self.meta.learn(logged) => {}
            logged => {
                let Some((stream, name)) = consumer_of(logged)? else { return Ok(()) };
                let followers = self.followers.entry(stream).or_default();
                if let Some((before, after)) = followers.replay(logged)? {
                    self.freed.push((stream, before.saturating_add(1), after));
                }
                self.changed.insert((stream, name));
            }
        }
        Ok(())
    }

    /// Writes what was gathered: as a step, or as the durable end.
    fn write(&mut self, last: Option<Last>) -> Result<()> {
        let keys = std::mem::take(&mut self.keys);
        let appends = std::mem::take(&mut self.appends);
        let (tree, reopened) = (self.tree, self.reopened);
        let mut run = |transaction: &WriteTransaction| {
            if tree.reopened() != reopened {
                // A reader opened it, and what this pass had written so far may be gone.
                return Err(Error::new(Kind::Unavailable, "the tree was opened again meanwhile"));
            }
            self.write_keys(transaction, &keys)?;
            self.write_appends(transaction, &appends)?;
            self.remove_freed(transaction)?;
            if matches!(last, Some(Last::Sequence { .. })) {
                self.write_consumers(transaction)?;
            }
            put_meta_if(transaction, &self.meta, last.is_some())?;
            match last {
                Some(Last::Sequence { leaves_room: true }) => leave_room(transaction),
                _ => Ok(()),
            }
        };
        match last {
            Some(_) => write(tree, run),
            None => tree.with(|database| {
                let mut transaction = database.begin_write().map_err(wrong)?;
                transaction.set_durability(redb::Durability::None).map_err(wrong)?;
                run(&transaction)?;
                transaction.commit().map_err(wrong)
            }),
        }
    }

    fn write_keys(
        &mut self,
        transaction: &WriteTransaction,
        keys: &BTreeMap<Vec<u8>, Option<Place>>,
    ) -> Result<()> {
        let mut states = transaction.open_table(STATE).map_err(wrong)?;
        let mut expiries = transaction.open_table(EXPIRIES).map_err(wrong)?;
        let mut record = Vec::new();
        for (key, place) in keys {
            let before = match place {
                Some(place) => {
                    self.segments.read(*place, &mut record)?;
                    if let Some(expires_ms) = format::decode_state(&record)?.0.expires_ms {
                        let row = expiry_key(expires_ms, key);
                        expiries.insert(&*row, &[][..]).map_err(wrong)?;
                    }
                    self.meta.live_bytes += row_bytes(key, &record);
                    states.insert(&**key, &*record).map_err(wrong)?
                }
                None => {
                    record.clear();
                    states.remove(&**key).map_err(wrong)?
                }
            };
            let Some(before) = before else { continue };
            let before = before.value();
            self.meta.live_bytes = self.meta.live_bytes.saturating_sub(row_bytes(key, before));
            let gone = format::decode_state(before)?.0.expires_ms;
            let stays = match place {
                Some(_) => format::decode_state(&record)?.0.expires_ms,
                None => None,
            };
            if let Some(gone) = gone.filter(|_| gone != stays) {
                expiries.remove(&*expiry_key(gone, key)).map_err(wrong)?;
            }
        }
        Ok(())
    }

    fn write_appends(
        &mut self,
        transaction: &WriteTransaction,
        appends: &[(u32, u64, Place)],
    ) -> Result<()> {
        let mut records = transaction.open_table(RECORDS).map_err(wrong)?;
        let mut record = Vec::new();
        let mut done = BTreeMap::new();
        for (stream, position, place) in appends {
            let Some(followers) = self.followers.get(stream) else { continue };
            if *position <= *done.entry(*stream).or_insert_with(|| followers.done_upto()) {
                continue;
            }
            self.segments.read(*place, &mut record)?;
            if followers.any_wants(*position, format::decode_record(&record)?.0.topic) {
                let key = record_key(*stream, *position);
                if records.insert(&key[..], &*record).map_err(wrong)?.is_none() {
                    self.meta.live_bytes += row_bytes(&key, &record);
                }
            }
        }
        Ok(())
    }

    /// Removes a bounded number of records that nobody wants any more.
    fn remove_freed(&mut self, transaction: &WriteTransaction) -> Result<()> {
        let mut records = transaction.open_table(RECORDS).map_err(wrong)?;
        let (mut left, removals_max) = (STEP_REMOVALS, self.removals_max);
        let mut remaining = Vec::new();
        for (stream, first, last) in std::mem::take(&mut self.freed) {
            if left == 0 {
                remaining.push((stream, first, last));
                continue;
            }
            let followers = self.followers.entry(stream).or_default();
            let (seen, removed) = remove_records(
                &mut records,
                stream,
                first,
                last,
                (left, removals_max),
                |it, record| Ok(!followers.any_wants(it, format::decode_record(record)?.0.topic)),
            )?;
            self.meta.live_bytes = self.meta.live_bytes.saturating_sub(removed);
            match seen {
                Some(seen) => {
                    left = 0;
                    remaining.push((stream, seen.saturating_add(1), last));
                }
                None => left = left.saturating_sub(1),
            }
        }
        self.has_more_removals = !remaining.is_empty();
        self.freed = remaining;
        Ok(())
    }

    fn write_consumers(&mut self, transaction: &WriteTransaction) -> Result<()> {
        let mut consumers = transaction.open_table(CONSUMERS).map_err(wrong)?;
        let mut record = Vec::new();
        for (stream, name) in std::mem::take(&mut self.changed) {
            let key = state_key(stream, name.as_bytes());
            let followers = self.followers.entry(stream).or_default();
            match followers.by_name.get(&name) {
                Some(follower) => {
                    record.clear();
                    format::encode_consumer(&follower.consumer, &follower.backlog, &mut record);
                    consumers.insert(&*key, &*record).map_err(wrong)?;
                }
                None => {
                    consumers.remove(&*key).map_err(wrong)?;
                }
            }
        }
        Ok(())
    }
}

/// Removes records of a stretch, looking at so many and removing so many at most. Answers where it
/// stopped early, and the bytes removed.
fn remove_records(
    records: &mut Table<'_, &'static [u8], &'static [u8]>,
    stream: u32,
    first: u64,
    last: u64,
    (looks_max, removals_max): (usize, usize),
    mut is_done: impl FnMut(u64, &[u8]) -> Result<bool>,
) -> Result<(Option<u64>, u64)> {
    if first > last {
        return Ok((None, 0));
    }
    let (from, end) = (record_key(stream, first), record_key(stream, last));
    let mut gone = Vec::new();
    let mut looks = 0;
    let mut seen = None;
    for row in records.range::<&[u8]>(&from[..]..=&end[..]).map_err(wrong)? {
        let (key, record) = row.map_err(wrong)?;
        let position = position_of(key.value());
        if is_done(position, record.value())? {
            gone.push(position);
        }
        looks += 1;
        if looks >= looks_max || gone.len() >= removals_max {
            seen = Some(position);
            break;
        }
    }
    let mut bytes = 0;
    for position in gone {
        let key = record_key(stream, position);
        if let Some(record) = records.remove(&key[..]).map_err(wrong)? {
            bytes += row_bytes(&key, record.value());
        }
    }
    Ok((seen, bytes))
}

fn consumer_of(logged: &Logged<'_>) -> Result<Option<(u32, String)>> {
    Ok(match logged {
        Logged::SetConsumer { stream, record, .. } => {
            Some((*stream, format::decode_consumer(record.0)?.consumer.name))
        }
        Logged::MoveConsumer { stream, name, .. }
        | Logged::DropOldest { stream, name, .. }
        | Logged::RemoveConsumer { stream, name } => Some((*stream, (*name).to_owned())),
        _ => None,
    })
}

/// One durable transaction.
fn write(tree: &Tree, run: impl FnOnce(&WriteTransaction) -> Result<()>) -> Result<()> {
    let quick_repair = tree.file_bytes() > QUICK_REPAIR_BYTES;
    tree.with(|database| {
        let mut transaction = database.begin_write().map_err(wrong)?;
        transaction.set_quick_repair(quick_repair);
        run(&transaction)?;
        transaction.commit().map_err(wrong)
    })
}

fn put_meta_if(transaction: &WriteTransaction, meta: &Meta, wanted: bool) -> Result<()> {
    if wanted { put_meta(transaction, meta) } else { Ok(()) }
}

fn put_meta(transaction: &WriteTransaction, meta: &Meta) -> Result<()> {
    let mut table = transaction.open_table(META).map_err(wrong)?;
    table.insert(&[][..], &*meta.encode()).map_err(wrong)?;
    Ok(())
}

fn expiry_key(expires_ms: u64, key: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(8 + key.len());
    row.extend_from_slice(&expires_ms.to_be_bytes());
    row.extend_from_slice(key);
    row
}

fn row_bytes(key: &[u8], record: &[u8]) -> u64 {
    (key.len() + record.len()) as u64 + ROW_BYTES
}
