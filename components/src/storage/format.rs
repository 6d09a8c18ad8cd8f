//! Bytes on disk, version 1: batches of the log, and what is inside them and in the tree.
//!
//! ```text
//! A batch begins at a multiple of 4096 in its segment and ends in zeros up to the next one:
//!
//!   offset  size
//!        0     4  magic "PLG1"
//!        4     4  CRC-32C of all that follows, up to the last record
//!        8     8  store: random, of the data directory; a value cannot pose as a batch
//!       16     8  sequence: 1, 2, 3 … without a gap over all segments
//!       24     8  reading of the clock in milliseconds
//!       32     4  length of the records in bytes
//!       36     …  records: `Logged`, in postcard, one after the other
//!
//! Integers are little endian. The first batch of a segment begins with what must be known even
//! if the tree is lost: names, and up to where ETags and positions are reserved.
//!
//! A state record (in `Logged::Put` and in the tree):     01, StateHead in postcard, the value
//! A stream record (in `Logged::Append` and in the tree): 01, StreamHead in postcard, the payload
//! A consumer (in `Logged::SetConsumer` and in the tree): 01, ConsumerRecord in postcard
//! ```

use super::Record;
use super::backlog::Backlog;
use super::batch::shared_text;
use super::keys::{Bulk, NEVER, Stored};
use super::stream::Follower;
use crate::error::{Error, Kind, Result};
use crate::pubsub::{Assurance, Message, QueueLimits};
use crate::topic::Filter;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Batches begin and end at multiples of this: a page that holds acknowledged data is not written
/// again before its segment is recycled.
pub(super) const PAGE: usize = 4096;

/// Bytes before the records of a batch.
pub(super) const HEADER: usize = 36;

/// Most bytes of a batch, as a segment has no more: a header that says more is damaged, and sums
/// with its length would not fit 32 bits.
pub(super) const BATCH_BYTES_MAX: u32 = 1 << 30;

const MAGIC: [u8; 4] = *b"PLG1";

/// First byte of every record; another one is from a later release.
const RECORD_VERSION: u8 = 1;

/// What a batch says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BatchHead {
    pub(super) store: u64,
    pub(super) sequence: u64,
    pub(super) clock_ms: u64,
    pub(super) len: u32,
}

impl BatchHead {
    /// Bytes of the whole batch, padding included.
    pub(super) fn padded(&self) -> usize {
        padded(HEADER + self.len as usize)
    }

    /// Reads a header; `None` when there is none.
    pub(super) fn parse(bytes: &[u8]) -> Option<(Self, u32)> {
        let (magic, rest) = bytes.split_first_chunk::<4>()?;
        let (crc, rest) = rest.split_first_chunk::<4>()?;
        let (store, rest) = rest.split_first_chunk::<8>()?;
        let (sequence, rest) = rest.split_first_chunk::<8>()?;
        let (clock_ms, rest) = rest.split_first_chunk::<8>()?;
        let (len, _) = rest.split_first_chunk::<4>()?;
        let head = Self {
            store: u64::from_le_bytes(*store),
            sequence: u64::from_le_bytes(*sequence),
            clock_ms: u64::from_le_bytes(*clock_ms),
            len: u32::from_le_bytes(*len),
        };
        let fits = head.len <= BATCH_BYTES_MAX - HEADER as u32;
        (*magic == MAGIC && head.sequence > 0 && fits).then_some((head, u32::from_le_bytes(*crc)))
    }

    /// Completes a batch: `batch` holds room for the header and the records.
    pub(super) fn seal(store: u64, sequence: u64, clock_ms: u64, batch: &mut Vec<u8>) {
        let len = u32::try_from(batch.len() - HEADER).expect("a batch fits a segment");
        batch[..4].copy_from_slice(&MAGIC);
        batch[8..16].copy_from_slice(&store.to_le_bytes());
        batch[16..24].copy_from_slice(&sequence.to_le_bytes());
        batch[24..32].copy_from_slice(&clock_ms.to_le_bytes());
        batch[32..36].copy_from_slice(&len.to_le_bytes());
        let crc = crc32c::crc32c(&batch[8..]);
        batch[4..8].copy_from_slice(&crc.to_le_bytes());
        // Copied, as one call: where code is optimised for size, `resize` was seen to become a loop
        // of single bytes on ARM, and to be a quarter of what a durable save costs.
        batch.extend_from_slice(&[0; PAGE][..padded(batch.len()) - batch.len()]);
    }
}

pub(super) fn padded(len: usize) -> usize {
    len.next_multiple_of(PAGE)
}

/// Whether `batch`, which begins with a header, is whole.
pub(super) fn is_whole(batch: &[u8], head: &BatchHead, crc: u32) -> bool {
    batch.get(8..HEADER + head.len as usize).is_some_and(|covered| crc32c::crc32c(covered) == crc)
}

/// Bytes that postcard writes in one go, not one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Raw<'a>(pub(super) &'a [u8]);

impl Serialize for Raw<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Raw<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <&[u8]>::deserialize(deserializer).map(Raw)
    }
}

/// One change in the log. The order of the variants is their number on disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Logged<'a> {
    /// `record` stands last, so that its place follows from where the change ends.
    Put {
        table: u32,
        #[serde(borrow)]
        key: Raw<'a>,
        #[serde(borrow)]
        record: Raw<'a>,
    },
    Delete {
        table: u32,
        #[serde(borrow)]
        key: Raw<'a>,
    },
    Append {
        stream: u32,
        position: u64,
        #[serde(borrow)]
        record: Raw<'a>,
    },
    SetConsumer {
        stream: u32,
        /// Position of the last append before it.
        last: u64,
        #[serde(borrow)]
        record: Raw<'a>,
    },
    MoveConsumer {
        stream: u32,
        name: &'a str,
        cursor: u64,
        acknowledged: Vec<u64>,
        seen_ms: u64,
    },
    DropOldest {
        stream: u32,
        name: &'a str,
        cursor: u64,
        records: u64,
    },
    RemoveConsumer {
        stream: u32,
        name: &'a str,
    },
    NameTable {
        id: u32,
        name: &'a str,
    },
    NameStream {
        id: u32,
        name: &'a str,
    },
    ReserveEtags {
        upto: u64,
    },
    ReservePositions {
        stream: u32,
        upto: u64,
    },
}

impl Logged<'_> {
    /// Appends the change to `bytes`.
    pub(super) fn encode(&self, bytes: &mut Vec<u8>) {
        encode(self, bytes);
    }
}

/// Goes through the records of a batch. `at` is where a change ends, counted from the first.
pub(super) fn for_each<'a>(
    records: &'a [u8],
    mut visit: impl FnMut(Logged<'a>, usize) -> Result<()>,
) -> Result<()> {
    let mut rest = records;
    while !rest.is_empty() {
        let (logged, after) = postcard::take_from_bytes(rest).map_err(|_| newer("batch"))?;
        rest = after;
        visit(logged, records.len() - rest.len())?;
    }
    Ok(())
}

fn encode<T: Serialize>(value: &T, bytes: &mut Vec<u8>) {
    struct Append<'a>(&'a mut Vec<u8>);
    impl postcard::ser_flavors::Flavor for Append<'_> {
        type Output = ();
        fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
            self.0.push(byte);
            Ok(())
        }
        fn try_extend(&mut self, more: &[u8]) -> postcard::Result<()> {
            self.0.extend_from_slice(more);
            Ok(())
        }
        fn finalize(self) -> postcard::Result<()> {
            Ok(())
        }
    }
    postcard::serialize_with_flavor(value, Append(bytes))
        .expect("these types have lengths and no maps, and a vector takes every byte");
}

fn newer(what: &str) -> Error {
    Error::new(Kind::Corrupted, format!("a {what} is damaged or from a newer release"))
}

fn versioned<'a, T: Deserialize<'a>>(bytes: &'a [u8], what: &str) -> Result<(T, &'a [u8])> {
    match bytes.split_first() {
        Some((&RECORD_VERSION, rest)) => postcard::take_from_bytes(rest).map_err(|_| newer(what)),
        _ => Err(newer(what)),
    }
}

/// What stands before a value. The middle ones are for synchronisation with other stores.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct StateHead<'a> {
    pub(super) etag: u64,
    pub(super) expires_ms: Option<u64>,
    pub(super) content_type: Option<&'a str>,
    /// Hybrid logical clock: Unix milliseconds shifted left by 16, then a counter.
    pub(super) hlc: u64,
    /// The store that wrote it; 0 is this one.
    pub(super) origin: u32,
    /// The key was removed, and others must still hear of it.
    pub(super) tombstone: bool,
    /// Order of changes in this store.
    pub(super) change: u64,
}

/// Appends a state record to `bytes`.
pub(super) fn encode_state(head: &StateHead<'_>, value: &[u8], bytes: &mut Vec<u8>) {
    bytes.push(RECORD_VERSION);
    encode(head, bytes);
    bytes.extend_from_slice(value);
}

/// Reads a state record: its head and its value.
pub(super) fn decode_state(record: &[u8]) -> Result<(StateHead<'_>, &[u8])> {
    versioned(record, "value")
}

/// A state record as the index holds it.
pub(super) fn stored(head: &StateHead<'_>, bulk: Bulk) -> Stored {
    Stored {
        etag: head.etag,
        expires_ms: head.expires_ms.unwrap_or(NEVER),
        content_type: head.content_type.map(shared_text),
        bulk,
    }
}

/// What stands before a payload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct StreamHead<'a> {
    pub(super) topic: &'a str,
    pub(super) appended_wall_ms: u64,
    pub(super) appended_ms: u64,
    pub(super) expires_ms: Option<u64>,
    content_type: Option<&'a str>,
    #[serde(borrow)]
    metadata: Vec<(&'a str, &'a str)>,
    assurance: Assurance,
    retain: bool,
    ttl_ms: Option<u64>,
    origin: Option<&'a str>,
}

/// Appends a stream record to `bytes`.
pub(super) fn encode_record(record: &Record, appended_ms: u64, bytes: &mut Vec<u8>) {
    let message = &record.message;
    bytes.push(RECORD_VERSION);
    encode(
        &StreamHead {
            topic: &message.topic,
            appended_wall_ms: record.appended_wall_ms,
            appended_ms,
            expires_ms: record.expires_ms,
            content_type: message.content_type.as_deref(),
            metadata: message.metadata.iter().map(|(name, value)| (&**name, &**value)).collect(),
            assurance: message.assurance,
            retain: message.retain,
            ttl_ms: message.ttl_ms,
            origin: message.origin.as_deref(),
        },
        bytes,
    );
    bytes.extend_from_slice(&message.payload);
}

/// Reads a stream record: its head and its payload.
pub(super) fn decode_record(record: &[u8]) -> Result<(StreamHead<'_>, &[u8])> {
    versioned(record, "stream record")
}

/// A stream record as readers get it; copies.
pub(super) fn record(position: u64, head: &StreamHead<'_>, payload: &[u8]) -> Record {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    Record {
        position,
        appended_wall_ms: head.appended_wall_ms,
        expires_ms: head.expires_ms,
        message: Arc::new(Message {
            topic: head.topic.into(),
            payload: Bytes::copy_from_slice(payload),
            content_type: head.content_type.map(shared_text),
            metadata: head.metadata.iter().map(owned).collect(),
            assurance: head.assurance,
            retain: head.retain,
            ttl_ms: head.ttl_ms,
            origin: head.origin.map(Arc::from),
        }),
    }
}

#[derive(Serialize, Deserialize)]
struct ConsumerRecord<'a> {
    name: &'a str,
    #[serde(borrow)]
    filters: Vec<&'a str>,
    cursor: u64,
    acknowledged: Vec<u64>,
    limits: QueueLimits,
    dropped: u64,
    seen_ms: u64,
    backlog: Backlog,
}

/// Appends a consumer with its backlog to `bytes`.
pub(super) fn encode_consumer(consumer: &super::Consumer, backlog: &Backlog, bytes: &mut Vec<u8>) {
    bytes.push(RECORD_VERSION);
    encode(
        &ConsumerRecord {
            name: &consumer.name,
            filters: consumer.filters.iter().map(Filter::as_str).collect(),
            cursor: consumer.cursor,
            acknowledged: consumer.acknowledged.clone(),
            limits: consumer.limits.clone(),
            dropped: consumer.dropped,
            seen_ms: consumer.seen_ms,
            backlog: backlog.clone(),
        },
        bytes,
    );
}

/// Reads a consumer with its backlog.
pub(super) fn decode_consumer(bytes: &[u8]) -> Result<Follower> {
    let (record, _): (ConsumerRecord<'_>, _) = versioned(bytes, "consumer")?;
    let filters = record.filters.iter().map(|text| Filter::new(text)).collect::<Result<_>>();
    Ok(Follower {
        consumer: super::Consumer {
            name: record.name.to_owned(),
            filters: filters.map_err(|_| newer("consumer"))?,
            cursor: record.cursor,
            acknowledged: record.acknowledged,
            limits: record.limits,
            dropped: record.dropped,
            seen_ms: record.seen_ms,
        },
        backlog: record.backlog,
        dropping: false,
    })
}

/// Numbers and names of a data directory: one row of the tree.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Meta {
    pub(super) store: u64,
    /// The tree holds every batch up to this one.
    pub(super) sequence: u64,
    pub(super) clock_ms: u64,
    /// The next ETag is at least this.
    pub(super) etags: u64,
    pub(super) tables: Vec<String>,
    /// With the position that the next append gets at least.
    pub(super) streams: Vec<(String, u64)>,
    /// Keys and values in the tree.
    pub(super) live_bytes: u64,
}

impl Meta {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![RECORD_VERSION];
        encode(self, &mut bytes);
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        versioned(bytes, "tree").map(|(meta, _)| meta)
    }

    /// Takes over what a change says of names and reservations; `false` for any other change.
    pub(super) fn learn(&mut self, logged: &Logged<'_>) -> bool {
        match logged {
            Logged::NameTable { id, name } => {
                if self.tables.len() == *id as usize {
                    self.tables.push((*name).to_owned());
                }
            }
            Logged::NameStream { id, name } => {
                if self.streams.len() == *id as usize {
                    self.streams.push(((*name).to_owned(), 1));
                }
            }
            Logged::ReserveEtags { upto } => self.etags = self.etags.max(*upto),
            Logged::ReservePositions { stream, upto } => {
                if let Some((_, next)) = self.streams.get_mut(*stream as usize) {
                    *next = (*next).max(*upto);
                }
            }
            _ => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes of version 1: a change of them needs a new version and a way to read these.
    #[test]
    fn version_1_is_what_it_was() {
        let mut state = Vec::new();
        let head = StateHead {
            etag: 300,
            expires_ms: Some(5),
            content_type: Some("t/x"),
            hlc: 1,
            origin: 0,
            tombstone: false,
            change: 2,
        };
        encode_state(&head, b"value", &mut state);
        let mut batch = vec![0; HEADER];
        Logged::Put { table: 7, key: Raw(b"key"), record: Raw(&state) }.encode(&mut batch);
        Logged::MoveConsumer {
            stream: 1,
            name: "c",
            cursor: 9,
            acknowledged: vec![11],
            seen_ms: 4,
        }
        .encode(&mut batch);
        BatchHead::seal(0x0102_0304_0506_0708, 42, 1000, &mut batch);
        let hex: String = batch[..90].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, GOLDEN);
        assert_eq!(batch.len(), PAGE);
        let (read, crc) = BatchHead::parse(&batch).expect("a header");
        assert!(is_whole(&batch, &read, crc));
        let records = &batch[HEADER..HEADER + read.len as usize];
        let mut seen = 0;
        for_each(records, |logged, end| {
            seen += 1;
            if let Logged::Put { record, .. } = logged {
                assert!(records[..end].ends_with(record.0));
                let (again, value) = decode_state(record.0)?;
                assert_eq!((again, value), (head.clone(), &b"value"[..]));
            }
            Ok(())
        })
        .expect("it reads");
        assert_eq!(seen, 2);
    }

    const GOLDEN: &str = concat!(
        "504c4731103a8b2308070605040302012a00000000000000e80300000000000022000000",
        "0007036b65791301ac0201050103742f780100000276616c7565",
        "0401016309010b04",
        "0000000000000000000000000000000000000000",
    );

    #[test]
    fn bad_bytes_are_errors() {
        for bytes in [&[][..], &[2, 0], &[1], &[1, 0xff, 0xff], &[1, 1, 1, 1, 0xff]] {
            assert!(decode_state(bytes).is_err(), "{bytes:?}");
            assert!(decode_record(bytes).is_err());
            assert!(decode_consumer(bytes).is_err());
            assert!(Meta::decode(bytes).is_err());
        }
        assert!(for_each(&[0xee, 1], |_, _| Ok(())).is_err());
        assert!(BatchHead::parse(&[0; 40]).is_none());
        assert!(BatchHead::parse(b"PLG1").is_none());
    }

    #[test]
    fn a_damaged_length_is_no_header() {
        let mut batch = vec![0; HEADER];
        BatchHead::seal(1, 2, 3, &mut batch);
        let most = BATCH_BYTES_MAX - HEADER as u32;
        for (len, is_header) in
            [(most, true), (most + 1, false), (u32::MAX - 4096, false), (u32::MAX, false)]
        {
            batch[32..36].copy_from_slice(&len.to_le_bytes());
            let parsed = BatchHead::parse(&batch);
            assert_eq!(parsed.is_some(), is_header, "{len}");
            if let Some((head, crc)) = parsed {
                assert_eq!(head.padded(), 1 << 30);
                assert!(!is_whole(&batch, &head, crc));
            }
        }
    }
}
