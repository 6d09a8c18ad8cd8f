//! The last retained message of each topic, in one table of storage.
//!
//! Key: the topic. Value: one version byte, 1, then in postcard: when it was published (Unix
//! milliseconds), payload, content type, metadata, origin, assurance. Time to live is the
//! storage's.

use super::{Assurance, Delivery, Message};
use crate::env::Clock;
use crate::error::{Error, Kind, Result};
use crate::storage::{Batch, Entry, Expect, Put, Storage, Table};
use crate::topic::Filter;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::sync::Arc;

const VERSION: u8 = 1;

/// Entries and bytes of one read of the table.
const SCAN_ENTRIES_MAX: usize = 128;
const SCAN_BYTES_MAX: usize = 256 << 10;

#[derive(Serialize, Deserialize)]
struct Kept<'a> {
    published_ms: u64,
    #[serde(borrow)]
    payload: &'a [u8],
    #[serde(borrow)]
    content_type: Option<&'a str>,
    metadata: Cow<'a, [(String, String)]>,
    #[serde(borrow)]
    origin: Option<&'a str>,
    assurance: Assurance,
}

/// Retained messages of one component.
pub(super) struct Retained {
    storage: Storage,
    table: Table,
    clock: Clock,
    name: String,
}

impl Retained {
    pub(super) fn open(storage: Storage, name: &str, clock: Clock) -> Result<Self> {
        let table = storage.table(&format!("retained/{name}"))?;
        Ok(Self { storage, table, clock, name: name.to_owned() })
    }

    /// Keeps a message as the last of its topic; one without payload forgets it.
    pub(super) fn add(&self, batch: &mut Batch, message: &Message) {
        let topic = message.topic.as_bytes();
        if message.payload.is_empty() {
            return batch.delete(self.table, topic, Expect::Any);
        }
        let value = encode(message, self.clock.wall_ms());
        let put = Put { value: &value, ttl_ms: message.ttl_ms, content_type: None };
        batch.put(self.table, topic, put, Expect::Any);
    }

    /// Messages of topics that match, in the order of the topics' bytes.
    pub(super) async fn matching(&self, filter: &Filter, max: usize) -> Result<Vec<Delivery>> {
        if filter.is_exact() {
            let entry = self.storage.get(self.table, filter.as_str().as_bytes())?;
            let delivery = entry.and_then(|entry| self.delivery(filter.as_str(), &entry));
            return Ok(delivery.into_iter().take(max).collect());
        }
        let mut found = Vec::new();
        let mut after = None::<Bytes>;
        while found.len() < max {
            let page = self.storage.scan(
                self.table,
                literal_prefix(filter.as_str()).as_bytes(),
                after.as_deref(),
                SCAN_ENTRIES_MAX,
                SCAN_BYTES_MAX,
            );
            let page = page.await?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            let matches = page.iter().filter_map(|(key, entry)| {
                let topic = std::str::from_utf8(key).ok().filter(|topic| filter.matches(topic))?;
                self.delivery(topic, entry)
            });
            found.extend(matches);
        }
        found.truncate(max);
        Ok(found)
    }

    /// How many there are.
    pub(super) async fn count(&self) -> Result<u64> {
        let (mut count, mut after) = (0, None::<Bytes>);
        loop {
            let page = self.storage.scan(
                self.table,
                b"",
                after.as_deref(),
                SCAN_ENTRIES_MAX,
                SCAN_BYTES_MAX,
            );
            let page = page.await?;
            let Some((last, _)) = page.last() else { return Ok(count) };
            count += page.len() as u64;
            after = Some(last.clone());
        }
    }

    fn delivery(&self, topic: &str, entry: &Entry) -> Option<Delivery> {
        let left_ms = |expires_ms: u64| expires_ms.saturating_sub(self.clock.now_ms());
        let ttl_ms = entry.expires_ms.map(left_ms);
        match decode(topic, &entry.value, ttl_ms) {
            Ok((message, published_ms)) => Some(Delivery {
                token: 0,
                id: format!("{}-retained-{}", self.name, entry.etag).into(),
                published_ms,
                again: false,
                message: Arc::new(message),
            }),
            Err(error) => {
                tracing::error!(component = self.name, topic, %error, "a retained message is lost");
                None
            }
        }
    }
}

fn encode(message: &Message, published_ms: u64) -> Vec<u8> {
    let kept = Kept {
        published_ms,
        payload: &message.payload,
        content_type: message.content_type.as_deref(),
        metadata: Cow::Borrowed(&message.metadata),
        origin: message.origin.as_deref(),
        assurance: message.assurance,
    };
    let mut value = Vec::with_capacity(message.payload.len() + 64);
    value.push(VERSION);
    postcard::to_extend(&kept, value).expect("a vector takes any number of bytes")
}

fn decode(topic: &str, value: &[u8], ttl_ms: Option<u64>) -> Result<(Message, u64)> {
    let corrupted = |why: &str| Error::new(Kind::Corrupted, format!("retained message: {why}"));
    let (version, value) = value.split_first().ok_or_else(|| corrupted("it is empty"))?;
    if *version != VERSION {
        return Err(corrupted("it is of a later version"));
    }
    let kept: Kept<'_> =
        postcard::from_bytes(value).map_err(|error| corrupted(&error.to_string()))?;
    let message = Message {
        topic: topic.into(),
        payload: Bytes::copy_from_slice(kept.payload),
        content_type: kept.content_type.map(Arc::from),
        metadata: kept.metadata.into_owned(),
        assurance: kept.assurance,
        retain: true,
        ttl_ms,
        origin: kept.origin.map(Arc::from),
    };
    Ok((message, kept.published_ms))
}

/// What every topic that matches begins with.
fn literal_prefix(filter: &str) -> &str {
    match filter.find(['+', '#']) {
        // `a/#` matches `a` as well.
        Some(at) if filter[at..].starts_with('#') => filter[..at].trim_end_matches('/'),
        Some(at) => &filter[..at],
        None => filter,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_leave_nothing_out() {
        for (filter, prefix) in
            [("a/b/#", "a/b"), ("#", ""), ("a/+/c", "a/"), ("+", ""), ("a", "a"), ("a//#", "a")]
        {
            assert_eq!(literal_prefix(filter), prefix, "{filter}");
        }
    }

    /// The bytes of the first version, as they lie on disks: they must stay readable.
    #[test]
    fn the_format_stays() {
        let message = Message {
            topic: "t".into(),
            payload: Bytes::from_static(b"21.5"),
            content_type: Some("text/plain".into()),
            metadata: vec![("k".to_owned(), "v".to_owned())],
            assurance: Assurance::AtLeastOnce,
            retain: true,
            ttl_ms: None,
            origin: Some("mqtt:s1".into()),
        };
        let bytes = b"\x01\xe8\x07\x0421.5\x01\x0atext/plain\x01\x01k\x01v\x01\x07mqtt:s1\x01";
        assert_eq!(encode(&message, 1000), bytes);
        let (decoded, published_ms) = decode("t", bytes, None).unwrap();
        assert_eq!((published_ms, &*decoded.payload), (1000, b"21.5".as_slice()));
        assert_eq!(decoded.content_type.as_deref(), Some("text/plain"));
        assert_eq!((decoded.metadata, decoded.origin), (message.metadata, message.origin));
        for bad in [b"".as_slice(), b"\x02\x00", b"\x01\xff"] {
            assert_eq!(decode("t", bad, None).unwrap_err().kind(), Kind::Corrupted);
        }
    }
}
