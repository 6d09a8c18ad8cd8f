//! Configuration over [`Storage`]: what `configuration.embedded` and `configuration.in-memory`
//! share.
//!
//! One table. The first byte of a key says what it is:
//!
//! ```text
//! i KEY   an item: version byte 1, then in postcard: value, version (optional), metadata
//! f KEY   CRC-32C and length of the item as the items file last had it, 4 bytes each, little endian
//! m       the mark of the last write that had one
//! ```
//!
//! The version of an item that has none of its own is the ETag of its record.

use super::changes::Subscribers;
use super::{Changes, ConfigurationStore, Item, KEY_BYTES_MAX, Source, Write, Written, items_file};
use crate::context::Context;
use crate::error::{Error, Kind, Result};
use crate::options::Options;
use crate::storage::{Batch, Durability, Entry, Expect, Put, Storage, Table};
use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes of all items that a store holds unless told otherwise.
pub const BYTES_MAX_DEFAULT: u64 = 1 << 20;

/// Most bytes of one item: value, version and metadata.
pub const ITEM_BYTES_MAX: usize = 64 << 10;

/// What an item counts besides its own bytes, so that many small ones have an end too.
pub const ITEM_OVERHEAD_BYTES: u64 = 128;

/// Entries and bytes of one read of the table.
const SCAN_ENTRIES_MAX: usize = 128;
const SCAN_BYTES_MAX: usize = 256 << 10;

/// Bytes of the items file that go into one batch: well below what a small log takes.
const FILE_BATCH_BYTES: usize = 32 << 10;

/// Keys that a read takes before it lets others run: a point read may touch the disk.
const READS_PER_TURN: usize = 64;

const VERSION: u8 = 1;
const ITEM: u8 = b'i';
const FROM_FILE: u8 = b'f';
const MARK: &[u8] = b"m";

#[derive(Serialize, Deserialize)]
struct Record<'a> {
    value: &'a str,
    version: Option<&'a str>,
    metadata: Cow<'a, BTreeMap<String, String>>,
}

/// A configuration store in one table of a storage.
pub(super) struct Stored {
    items: Arc<Items>,
    subscribers: Subscribers,
    source: Option<Source>,
    bytes_max: u64,
    /// Bytes of all items; counted at the first write.
    used_bytes: Mutex<Option<u64>>,
}

/// The items themselves; subscriptions read them too.
pub(super) struct Items {
    storage: Storage,
    table: Table,
}

impl Stored {
    pub(super) async fn open(
        storage: Storage,
        options: &Options,
        context: &Context,
    ) -> Result<Self> {
        let bytes_max = options.bytes("bytesMax", BYTES_MAX_DEFAULT)?;
        let source = Source::from_options(options)?;
        let table = storage.table(&format!("configuration/{}", context.name))?;
        let items = Arc::new(Items { storage, table });
        if let Some(path) = options.text("itemsFile") {
            items.take_over(items_file::read(path)?, bytes_max).await?;
        }
        let (subscribers, used_bytes) = (Subscribers::default(), Mutex::new(None));
        Ok(Self { items, subscribers, source, bytes_max, used_bytes })
    }

    /// Whether the item may take the place of the one before; the error says why not.
    async fn check_room(&self, before: u64, after: u64) -> Result<()> {
        let known = *self.used_bytes();
        let used = match known {
            Some(used) => used,
            None => {
                let counted = self.items.bytes().await?;
                *self.used_bytes() = Some(counted);
                counted
            }
        };
        let needed = used.saturating_sub(before).saturating_add(after);
        if after > before && needed > self.bytes_max {
            return Err(full(self.bytes_max));
        }
        Ok(())
    }

    fn used_bytes(&self) -> MutexGuard<'_, Option<u64>> {
        self.used_bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl ConfigurationStore for Stored {
    async fn get(&self, keys: &[String]) -> Result<BTreeMap<String, Item>> {
        if keys.is_empty() {
            return self.items.all().await;
        }
        let mut found = BTreeMap::new();
        for (turn, keys) in keys.chunks(READS_PER_TURN).enumerate() {
            if turn > 0 {
                tokio::task::yield_now().await;
            }
            for key in keys {
                if let Some(item) = self.items.get(key)? {
                    found.insert(key.clone(), item);
                }
            }
        }
        Ok(found)
    }

    async fn subscribe(&self, keys: &[String]) -> Result<Box<dyn Changes>> {
        self.subscribers.open(keys, self.items.clone())
    }

    fn source(&self) -> Option<&Source> {
        self.source.as_ref()
    }

    async fn write(&self, write: Write) -> Result<bool> {
        let Write { key, item, mark } = write;
        check_key(&key)?;
        let items = &*self.items;
        let at = place(ITEM, &key);
        let record = item.as_ref().map(encode).transpose()?;
        let before = items.storage.get(items.table, &at)?;
        if before.as_ref().map(|entry| &*entry.value) == record.as_deref() {
            return Ok(false);
        }
        let before = before.map_or(0, |entry| cost(&key, &entry.value));
        let after = record.as_ref().map_or(0, |record| cost(&key, record));
        self.check_room(before, after).await?;

        let mut batch = Batch::new();
        match &record {
            Some(record) => batch.put(items.table, &at, put(record), Expect::Any),
            None => batch.delete(items.table, &at, Expect::Any),
        }
        if let Some(mark) = &mark {
            batch.put(items.table, MARK, put(mark.as_bytes()), Expect::Any);
        }
        items.storage.commit(batch, Durability::Durable)?.await?;
        if let Some(used) = &mut *self.used_bytes() {
            *used = used.saturating_sub(before).saturating_add(after);
        }
        self.subscribers.tell(&key);
        Ok(true)
    }

    async fn mark(&self) -> Result<Option<String>> {
        let entry = self.items.storage.get(self.items.table, MARK)?;
        Ok(entry.map(|entry| String::from_utf8_lossy(&entry.value).into_owned()))
    }
}

impl Items {
    pub(super) fn get(&self, key: &str) -> Result<Option<Item>> {
        // A longer key was never written.
        if check_key(key).is_err() {
            return Ok(None);
        }
        let entry = self.storage.get(self.table, &place(ITEM, key))?;
        entry.map(|entry| decode(&entry)).transpose()
    }

    /// A page of keys, each with its place; empty at the end.
    pub(super) async fn keys(&self, after: Option<&[u8]>) -> Result<Vec<(Bytes, Arc<str>)>> {
        let page = self.page(ITEM, after).await?;
        let key = |(at, entry): (Bytes, Entry)| {
            let key = Arc::from(named(&(at.clone(), entry))?.0);
            Some((at, key))
        };
        Ok(page.into_iter().filter_map(key).collect())
    }

    async fn all(&self) -> Result<BTreeMap<String, Item>> {
        let mut items = BTreeMap::new();
        self.each(|key, entry| {
            items.insert(key.to_owned(), decode(entry)?);
            Ok(())
        })
        .await?;
        Ok(items)
    }

    /// Bytes of all items, as `bytesMax` counts them.
    async fn bytes(&self) -> Result<u64> {
        let mut bytes = 0_u64;
        self.each(|key, entry| {
            bytes = bytes.saturating_add(cost(key, &entry.value));
            Ok(())
        })
        .await?;
        Ok(bytes)
    }

    async fn each(&self, mut look: impl FnMut(&str, &Entry) -> Result<()> + Send) -> Result<()> {
        let mut after = None::<Bytes>;
        loop {
            let page = self.page(ITEM, after.as_deref()).await?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(last.clone());
            for (key, entry) in page.iter().filter_map(named) {
                look(key, entry)?;
            }
        }
    }

    async fn page(&self, what: u8, after: Option<&[u8]>) -> Result<Vec<(Bytes, Entry)>> {
        self.storage.scan(self.table, &[what], after, SCAN_ENTRIES_MAX, SCAN_BYTES_MAX).await
    }

    /// Makes the changes that the file has seen since it was taken over last.
    async fn take_over(&self, items: BTreeMap<String, Written>, bytes_max: u64) -> Result<()> {
        let (mut batch, mut batch_bytes, mut bytes) = (Batch::new(), 0, 0_u64);
        for (key, written) in &items {
            let record =
                encode(written).map_err(|error| error.context(format_args!("key '{key}'")))?;
            bytes = bytes.saturating_add(cost(key, &record));
            if bytes > bytes_max {
                return Err(full(bytes_max).context("itemsFile"));
            }
            let (at, stamp) = (place(FROM_FILE, key), stamp(&record));
            let known = self.storage.get(self.table, &at)?;
            if known.is_some_and(|entry| *entry.value == stamp) {
                continue;
            }
            batch.put(self.table, &at, put(&stamp), Expect::Any);
            batch.put(self.table, &place(ITEM, key), put(&record), Expect::Any);
            batch_bytes += record.len() + key.len();
            if batch_bytes >= FILE_BATCH_BYTES {
                self.storage.commit(std::mem::take(&mut batch), Durability::Durable)?.await?;
                batch_bytes = 0;
            }
        }
        self.storage.commit(batch, Durability::Durable)?.await?;
        self.let_go(&items).await
    }

    /// Removes what the file once had and has no more, unless somebody else has changed it since.
    async fn let_go(&self, items: &BTreeMap<String, Written>) -> Result<()> {
        let mut after = None::<Bytes>;
        loop {
            let page = self.page(FROM_FILE, after.as_deref()).await?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(last.clone());
            let mut batch = Batch::new();
            let gone = page.iter().filter_map(named).filter(|(key, _)| !items.contains_key(*key));
            for (key, entry) in gone {
                let at = place(ITEM, key);
                let current = self.storage.get(self.table, &at)?;
                if current.is_some_and(|current| *entry.value == stamp(&current.value)) {
                    batch.delete(self.table, &at, Expect::Any);
                }
                batch.delete(self.table, &place(FROM_FILE, key), Expect::Any);
            }
            self.storage.commit(batch, Durability::Durable)?.await?;
        }
    }
}

/// The key of an entry, without the byte that says what it is.
fn named((at, entry): &(Bytes, Entry)) -> Option<(&str, &Entry)> {
    Some((std::str::from_utf8(at.get(1..)?).ok()?, entry))
}

fn put(value: &[u8]) -> Put<'_> {
    Put { value, ..Put::default() }
}

fn place(what: u8, key: &str) -> Vec<u8> {
    let mut at = Vec::with_capacity(key.len() + 1);
    at.push(what);
    at.extend_from_slice(key.as_bytes());
    at
}

fn cost(key: &str, record: &[u8]) -> u64 {
    (key.len() + record.len()) as u64 + ITEM_OVERHEAD_BYTES
}

fn stamp(record: &[u8]) -> [u8; 8] {
    let length = u32::try_from(record.len()).unwrap_or(u32::MAX);
    (u64::from(crc32c::crc32c(record)) | u64::from(length) << 32).to_le_bytes()
}

fn check_key(key: &str) -> Result<()> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        let message = format!("a key of {} bytes: 1 to {KEY_BYTES_MAX} are allowed", key.len());
        return Err(Error::new(Kind::Invalid, message));
    }
    Ok(())
}

fn full(bytes_max: u64) -> Error {
    let message = format!("the items would be larger than {bytes_max} bytes: raise bytesMax");
    Error::new(Kind::TooLarge, message)
}

fn encode(written: &Written) -> Result<Vec<u8>> {
    let Written { value, version, metadata } = written;
    let record = Record { value, version: version.as_deref(), metadata: Cow::Borrowed(metadata) };
    let mut bytes = Vec::with_capacity(value.len() + 32);
    bytes.push(VERSION);
    let bytes = postcard::to_extend(&record, bytes).expect("a vector takes any number of bytes");
    if bytes.len() > ITEM_BYTES_MAX {
        let message = format!("an item of {} bytes: at most {ITEM_BYTES_MAX}", bytes.len());
        return Err(Error::new(Kind::TooLarge, message));
    }
    Ok(bytes)
}

fn decode(entry: &Entry) -> Result<Item> {
    let corrupted = |why: &str| Error::new(Kind::Corrupted, format!("configuration item: {why}"));
    let (version, bytes) = entry.value.split_first().ok_or_else(|| corrupted("it is empty"))?;
    if *version != VERSION {
        return Err(corrupted("it is of a later version"));
    }
    let record: Record<'_> =
        postcard::from_bytes(bytes).map_err(|error| corrupted(&error.to_string()))?;
    Ok(Item {
        value: record.value.to_owned(),
        version: record.version.map_or_else(|| entry.etag.to_string(), str::to_owned),
        metadata: record.metadata.into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a release has written must be read by the next one.
    #[test]
    fn the_format_of_an_item_is_as_drawn() {
        let written = Written {
            value: "on".to_owned(),
            version: Some("v1".to_owned()),
            metadata: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
        };
        let bytes = encode(&written).unwrap();
        assert_eq!(bytes, b"\x01\x02on\x01\x02v1\x01\x01a\x01b");
        let entry = |value: &[u8]| Entry {
            etag: 7,
            expires_ms: None,
            content_type: None,
            value: Bytes::copy_from_slice(value),
        };
        let item = decode(&entry(&bytes)).unwrap();
        assert_eq!((item.value.as_str(), item.version.as_str()), ("on", "v1"));
        assert_eq!(item.metadata, written.metadata);
        assert_eq!(decode(&entry(b"\x01\x02on\x00\x00")).unwrap().version, "7");
        for bad in [b"".as_slice(), b"\x02\x00", b"\x01\xff"] {
            assert_eq!(decode(&entry(bad)).unwrap_err().kind(), Kind::Corrupted);
        }
    }
}
