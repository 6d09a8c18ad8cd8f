//! Storage against its laws: one suite, run over memory and over a disk.

#![expect(clippy::print_stdout, reason = "tests print their seed and what they measured")]

mod crash;
mod disk;
mod faults;
mod full;
mod laws;
mod model;
mod sim;
mod speed;

use super::*;
use crate::pubsub::{Assurance, Overflow};

/// A seed of `PILLION_SEED`, else a random one; printed, so that a failure can be replayed.
pub(super) fn seed() -> u64 {
    let seed = std::env::var("PILLION_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(crate::env::random_u64);
    println!("PILLION_SEED={seed}");
    seed
}

/// A small generator of random numbers that a seed repeats.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}

pub(super) fn message(topic: &str, payload: &[u8]) -> Arc<Message> {
    Arc::new(Message {
        topic: topic.into(),
        payload: Bytes::copy_from_slice(payload),
        assurance: Assurance::AtLeastOnce,
        ..Message::default()
    })
}

pub(super) fn consumer(name: &str, filter: &str, cursor: u64) -> Consumer {
    Consumer {
        name: name.into(),
        filters: vec![Filter::new(filter).expect("a filter")],
        cursor,
        acknowledged: Vec::new(),
        limits: QueueLimits::default(),
        dropped: 0,
        seen_ms: 0,
    }
}

pub(super) fn limits(bytes_max: u64, overflow: Overflow) -> QueueLimits {
    QueueLimits { backlog_bytes_max: bytes_max, overflow, ..QueueLimits::default() }
}

pub(super) async fn put(storage: &Storage, table: Table, key: &str, value: &[u8]) -> Result<u64> {
    let mut batch = Batch::new();
    batch.put(table, key.as_bytes(), Put { value, ..Put::default() }, Expect::Any);
    Ok(storage.commit(batch, Durability::Durable)?.await?.first_etag)
}

pub(super) async fn append(storage: &Storage, stream: Stream, topic: &str) -> Result<u64> {
    let mut batch = Batch::new();
    batch.append(stream, message(topic, topic.as_bytes()));
    Ok(storage.commit(batch, Durability::Durable)?.await?.first_position)
}

pub(super) async fn apply(storage: &Storage, fill: impl FnOnce(&mut Batch)) -> Result<Committed> {
    let mut batch = Batch::new();
    fill(&mut batch);
    storage.commit(batch, Durability::Durable)?.await
}
