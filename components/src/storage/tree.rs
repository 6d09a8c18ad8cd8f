//! The tree: what is older than the log. One redb file, `tree.redb`, written by checkpoints only.
//!
//! ```text
//!   table      key                                   value
//!   state      table u32 BE, key                     state record
//!   expiries   expiry u64 BE, table u32 BE, key      nothing
//!   records    stream u32 BE, position u64 BE        stream record
//!   consumers  stream u32 BE, name                   consumer
//!   meta       nothing                               Meta: the sequence up to which all this holds
//! ```
//!
//! Records are drawn in `format.rs`. Space of what was removed is used again by later checkpoints,
//! and given back to the filesystem where it lies at the end of the file.
//!
//! The file has no holes where the filesystem can reserve room: it grows with all its blocks or
//! not at all. redb picks pages anywhere in it, and a page without a block would find a full disk
//! in the middle of a commit, one of deletes too. redb doubles a file that is too small; where
//! that is too much, [`Tree::reopen`] makes it larger by what there is.

mod backend;

use super::Record;
use super::disk::{Disk, DiskFile};
use super::format::{self, Meta};
use super::stream::{Follower, any_matches};
use crate::error::{Error, Kind, Result};
use crate::topic::Filter;
use backend::{Backend, reserve};
use redb::{Database, ReadableDatabase, TableDefinition};
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

pub(super) type Definition = TableDefinition<'static, &'static [u8], &'static [u8]>;
pub(super) const STATE: Definition = TableDefinition::new("state");
pub(super) const EXPIRIES: Definition = TableDefinition::new("expiries");
pub(super) const RECORDS: Definition = TableDefinition::new("records");
pub(super) const CONSUMERS: Definition = TableDefinition::new("consumers");
pub(super) const META: Definition = TableDefinition::new("meta");

const NAME: &str = "tree.redb";
/// Under this name a tree is made, so that a crash while it is made leaves no half of one.
const NAME_NEW: &str = "tree.new";

/// Size of a page of redb.
const PAGE: u64 = 4096;

/// Least growth of the file that is worth opening it again.
pub(super) const GROWTH_MIN: u64 = 64 << 10;

/// Records that one read looks at, at most: others wait meanwhile.
const LOOKS_MAX: usize = 4096;

/// The tree and the file below it.
#[derive(Debug)]
pub(super) struct Tree {
    disk: Arc<dyn Disk>,
    file: Arc<dyn DiskFile>,
    cache_bytes: usize,
    /// Taken out only while it is opened again after an I/O error.
    database: RwLock<Option<Database>>,
    /// How often it was.
    reopened: AtomicU64,
    pub(super) written: Arc<AtomicU64>,
}

/// A tree that was opened, and the name under which a damaged one was kept.
pub(super) struct Opened {
    pub(super) tree: Tree,
    pub(super) meta: Meta,
    pub(super) damaged: Option<String>,
    /// There was no tree, or only a damaged one.
    pub(super) is_new: bool,
}

impl Tree {
    /// Opens the tree, or makes an empty one for `store`. A damaged one is moved aside.
    pub(super) fn open(disk: Arc<dyn Disk>, cache_bytes: usize, store: u64) -> Result<Opened> {
        let names = disk.names()?;
        let written = Arc::new(AtomicU64::new(0));
        let mut damaged = None;
        if names.iter().any(|name| name == NAME) {
            // Holes are from an earlier release, or a copy. Without room for them it must do.
            let file = disk.open(NAME)?;
            if let Err(error) = file.len().and_then(|len| file.reserve(len)) {
                tracing::debug!(%error, "there may be holes in the tree");
            }
            let whole =
                catch_unwind(AssertUnwindSafe(|| open_file(&disk, NAME, cache_bytes, &written)))
                    .unwrap_or_else(|_| Err(Error::new(Kind::Corrupted, "redb gave up on it")))
                    .and_then(|database| Ok((read_meta(&database)?, database)));
            match whole {
                Ok((meta, database)) => {
                    let database = RwLock::new(Some(database));
                    let reopened = AtomicU64::new(0);
                    let tree = Tree { disk, file, cache_bytes, database, reopened, written };
                    return Ok(Opened { tree, meta, damaged, is_new: false });
                }
                Err(error) if error.kind() == Kind::Corrupted => {
                    let aside = free_name(&names, "damaged-tree");
                    tracing::error!(%error, kept = aside, "the tree is damaged: moved aside");
                    disk.rename(NAME, &aside)?;
                    disk.sync_names()?;
                    damaged = Some(aside);
                }
                Err(error) => return Err(error.context("opening the tree")),
            }
        }
        if names.iter().any(|name| name == NAME_NEW) {
            disk.remove(NAME_NEW)?;
        }
        let meta = Meta { store, etags: 1, ..Meta::default() };
        let database = open_file(&disk, NAME_NEW, cache_bytes, &written)?;
        let write = database.begin_write().map_err(wrong)?;
        for definition in [STATE, EXPIRIES, RECORDS, CONSUMERS] {
            write.open_table(definition).map_err(wrong)?;
        }
        write.open_table(META).map_err(wrong)?.insert(&[][..], &*meta.encode()).map_err(wrong)?;
        write.commit().map_err(wrong)?;
        disk.rename(NAME_NEW, NAME)?;
        disk.sync_names()?;
        let file = disk.open(NAME)?;
        let database = RwLock::new(Some(database));
        let reopened = AtomicU64::new(0);
        let tree = Tree { disk, file, cache_bytes, database, reopened, written };
        Ok(Opened { tree, meta, damaged, is_new: true })
    }

    /// Runs with the open database.
    pub(super) fn with<T>(&self, run: impl FnOnce(&Database) -> Result<T>) -> Result<T> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        match &*database {
            Some(database) => run(database),
            None => Err(Error::new(Kind::Unavailable, "the tree could not be opened again")),
        }
    }

    /// Opens the file again: after an I/O error redb refuses every write until then. What was not
    /// durable is gone. With `grow` the file becomes larger meanwhile, if there is room: redb takes
    /// a file that is longer than it left it. Answers whether it did.
    pub(super) fn reopen(&self, grow: bool) -> Result<bool> {
        self.open_again(&mut self.database.write().unwrap_or_else(PoisonError::into_inner), grow)
    }

    fn open_again(&self, database: &mut Option<Database>, grow: bool) -> Result<bool> {
        *database = None;
        self.reopened.fetch_add(1, Ordering::Relaxed);
        let has_grown = grow && self.grow();
        let again = open_file(&self.disk, NAME, self.cache_bytes, &self.written)?;
        *database = Some(again);
        Ok(has_grown)
    }

    /// Makes the file larger: doubled at most, by half of what is free at most.
    fn grow(&self) -> bool {
        let (Ok(room), Ok(len)) = (self.disk.room(), self.file.len()) else { return false };
        let growth = len.min((room / 2).max(GROWTH_MIN)) / PAGE * PAGE;
        growth > 0
            && room >= GROWTH_MIN
            && reserve(self.disk.as_ref(), self.file.as_ref(), len + growth)
                .and_then(|()| self.file.sync())
                .is_ok()
    }

    /// How often the file was opened again: steps that are not durable alone are gone with it.
    pub(super) fn reopened(&self) -> u64 {
        self.reopened.load(Ordering::Relaxed)
    }

    pub(super) fn file_bytes(&self) -> u64 {
        self.file.len().unwrap_or(0)
    }

    /// Reads a state record. After an I/O error redb refuses to read as well until it is opened
    /// again; whoever comes first does that.
    pub(super) fn state<T>(
        &self,
        table: u32,
        key: &[u8],
        read: impl Fn(&[u8]) -> Result<T>,
    ) -> Result<Option<T>> {
        let read = |database: &Database| {
            let transaction = database.begin_read().map_err(wrong)?;
            let states = transaction.open_table(STATE).map_err(wrong)?;
            let found = states.get(&*state_key(table, key)).map_err(wrong)?;
            found.map(|record| read(record.value())).transpose()
        };
        match self.with(read) {
            Err(error) if error.kind() == Kind::Unavailable => {}
            found => return found,
        }
        // Read under the lock: the next write may fail as well.
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        match database.as_ref().map(read) {
            Some(Err(error)) if error.kind() == Kind::Unavailable => {}
            None => {}
            Some(found) => return found,
        }
        self.open_again(&mut database, false)?;
        database.as_ref().map_or(Ok(None), read)
    }

    /// Visits state records whose key is above `after` and begins with `prefix`, while `visit`
    /// says so.
    pub(super) fn scan(
        &self,
        table: u32,
        prefix: &[u8],
        after: Option<&[u8]>,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<bool>,
    ) -> Result<()> {
        let whole_prefix = state_key(table, prefix);
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(state_key(table, after)),
            _ => Bound::Included(whole_prefix.clone()),
        };
        let from = from.as_ref().map(Vec::as_slice);
        self.with(|database| {
            let transaction = database.begin_read().map_err(wrong)?;
            let states = transaction.open_table(STATE).map_err(wrong)?;
            for row in states.range::<&[u8]>((from, Bound::Unbounded)).map_err(wrong)? {
                let (key, record) = row.map_err(wrong)?;
                let key = key.value();
                if !key.starts_with(&whole_prefix) {
                    break;
                }
                if !visit(key.get(4..).unwrap_or_default(), record.value())? {
                    break;
                }
            }
            Ok(())
        })
    }

    /// Records in `after < position <= upto` that match and have not expired, at most so many and
    /// so large; with the position up to which was looked.
    pub(super) fn records(&self, query: &Query<'_>) -> Result<(Vec<Record>, u64)> {
        let mut found = Vec::new();
        let mut bytes = 0;
        let mut looks = 0;
        let from = record_key(query.stream, query.after.saturating_add(1));
        let end = record_key(query.stream, query.upto);
        self.with(|database| {
            let transaction = database.begin_read().map_err(wrong)?;
            let records = transaction.open_table(RECORDS).map_err(wrong)?;
            if query.after >= query.upto {
                return Ok((found, query.upto));
            }
            for row in records.range::<&[u8]>(&from[..]..=&end[..]).map_err(wrong)? {
                let (key, record) = row.map_err(wrong)?;
                let position = position_of(key.value());
                looks += 1;
                if looks > LOOKS_MAX {
                    return Ok((found, position - 1));
                }
                let (head, payload) = format::decode_record(record.value())?;
                let expired = head.expires_ms.is_some_and(|at_ms| at_ms <= query.now_ms);
                if expired || !any_matches(query.filters, head.topic) {
                    continue;
                }
                bytes += head.topic.len() + payload.len();
                let enough = found.len() >= query.records_max
                    || (bytes > query.bytes_max && !(query.is_first && found.is_empty()));
                if enough {
                    return Ok((found, position - 1));
                }
                found.push(format::record(position, &head, payload));
            }
            Ok((found, query.upto))
        })
    }

    /// Every consumer, with its stream.
    pub(super) fn consumers(&self) -> Result<Vec<(u32, Follower)>> {
        self.with(|database| {
            let transaction = database.begin_read().map_err(wrong)?;
            let consumers = transaction.open_table(CONSUMERS).map_err(wrong)?;
            let mut found = Vec::new();
            for row in consumers.range::<&[u8]>(..).map_err(wrong)? {
                let (key, record) = row.map_err(wrong)?;
                let stream = key.value().first_chunk::<4>().copied().unwrap_or_default();
                found.push((u32::from_be_bytes(stream), format::decode_consumer(record.value())?));
            }
            Ok(found)
        })
    }

    /// Position of the last record of a stream, 0 if there is none.
    pub(super) fn last_record(&self, stream: u32) -> Result<u64> {
        let (from, end) = (record_key(stream, 0), record_key(stream, u64::MAX));
        self.with(|database| {
            let transaction = database.begin_read().map_err(wrong)?;
            let records = transaction.open_table(RECORDS).map_err(wrong)?;
            let mut range = records.range::<&[u8]>(&from[..]..=&end[..]).map_err(wrong)?;
            let last = range.next_back().transpose().map_err(wrong)?;
            Ok(last.map_or(0, |(key, _)| position_of(key.value())))
        })
    }

    pub(super) fn put_meta(&self, meta: &Meta) -> Result<()> {
        self.with(|database| {
            let write = database.begin_write().map_err(wrong)?;
            write
                .open_table(META)
                .map_err(wrong)?
                .insert(&[][..], &*meta.encode())
                .map_err(wrong)?;
            write.commit().map_err(wrong)
        })
    }

    pub(super) fn meta(&self) -> Result<Meta> {
        self.with(read_meta)
    }
}

/// Which records to read.
pub(super) struct Query<'a> {
    pub(super) stream: u32,
    pub(super) after: u64,
    pub(super) upto: u64,
    pub(super) filters: &'a [Filter],
    pub(super) records_max: usize,
    pub(super) bytes_max: usize,
    /// One record is let through however large it is.
    pub(super) is_first: bool,
    pub(super) now_ms: u64,
}

fn open_file(
    disk: &Arc<dyn Disk>,
    name: &str,
    cache_bytes: usize,
    written: &Arc<AtomicU64>,
) -> Result<Database> {
    let backend =
        Backend { disk: Arc::clone(disk), file: disk.open(name)?, written: Arc::clone(written) };
    let mut builder = redb::Builder::new();
    builder.set_cache_size(cache_bytes);
    builder.create_with_backend(backend).map_err(wrong)
}

fn read_meta(database: &Database) -> Result<Meta> {
    let transaction = database.begin_read().map_err(wrong)?;
    let missing = || Error::new(Kind::Corrupted, "the tree has no meta row");
    let table = transaction.open_table(META).map_err(|error| match error {
        redb::TableError::TableDoesNotExist(_) => missing(),
        error => wrong(error),
    })?;
    let row = table.get(&[][..]).map_err(wrong)?;
    Meta::decode(row.ok_or_else(missing)?.value())
}

/// `name`, or `name` with the first number that is free.
pub(super) fn free_name(names: &[String], name: &str) -> String {
    let taken = |candidate: &String| names.contains(candidate);
    std::iter::once(name.to_owned())
        .chain((2..).map(|number| format!("{name}-{number}")))
        .find(|candidate| !taken(candidate))
        .unwrap_or_else(|| name.to_owned())
}

pub(super) fn state_key(table: u32, key: &[u8]) -> Vec<u8> {
    let mut whole = Vec::with_capacity(4 + key.len());
    whole.extend_from_slice(&table.to_be_bytes());
    whole.extend_from_slice(key);
    whole
}

pub(super) fn record_key(stream: u32, position: u64) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&stream.to_be_bytes());
    key[4..].copy_from_slice(&position.to_be_bytes());
    key
}

pub(super) fn position_of(key: &[u8]) -> u64 {
    key.last_chunk::<8>().map_or(0, |position| u64::from_be_bytes(*position))
}

/// An error of redb in our words.
pub(super) fn wrong(error: impl Into<redb::Error>) -> Error {
    match error.into() {
        // So it says that a file is not one of its own.
        redb::Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
            Error::new(Kind::Corrupted, format!("tree: {error}"))
        }
        redb::Error::Io(error) => Error::from(error).context("tree"),
        redb::Error::PreviousIo => Error::new(Kind::Unavailable, "tree: an earlier write failed"),
        redb::Error::Corrupted(text) => Error::new(Kind::Corrupted, format!("tree: {text}")),
        error => Error::new(Kind::Internal, format!("tree: {error}")),
    }
}
