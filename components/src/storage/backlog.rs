//! How much waits for one consumer, in coarse buckets.
//!
//! One entry per record would cost more than the records. A bucket says how many records and bytes
//! there are up to a position; oldest are dropped a bucket at a time, and a cursor inside a bucket
//! takes its share of it. Empty is exact: no bucket is left once the cursor is at the last record.

use crate::pubsub::QueueLimits;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Parts of `backlog_bytes_max` and `backlog_age_max_ms` that make one bucket.
const PARTS: u64 = 64;

/// Most buckets of a consumer; beyond it neighbours are merged.
const BUCKETS_MAX: usize = 2 * PARTS as usize;

/// Records that wait, up to a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Bucket {
    after: u64,
    last: u64,
    records: u64,
    bytes: u64,
    oldest_ms: u64,
    newest_ms: u64,
}

/// What was taken from the front of a backlog.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Dropped {
    pub(super) cursor: u64,
    pub(super) records: u64,
}

/// The buckets of one consumer, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Backlog {
    buckets: VecDeque<Bucket>,
    bytes: u64,
    records: u64,
}

impl Backlog {
    /// Of a consumer that starts below records of which it is not known how many it wants.
    pub(super) fn unknown(after: u64, last: u64, now_ms: u64) -> Self {
        let mut backlog = Self::default();
        if after < last {
            backlog.buckets.push_back(Bucket {
                after,
                last,
                records: 0,
                bytes: 0,
                oldest_ms: now_ms,
                newest_ms: now_ms,
            });
        }
        backlog
    }

    pub(super) fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn records(&self) -> u64 {
        self.records
    }

    /// Adds a record at the end.
    pub(super) fn add(&mut self, position: u64, bytes: u64, now_ms: u64, limits: &QueueLimits) {
        self.bytes += bytes;
        self.records += 1;
        let bytes_max = limits.backlog_bytes_max / PARTS;
        let span_max_ms = limits.backlog_age_max_ms.map_or(u64::MAX, |age_ms| age_ms / PARTS);
        let after = match self.buckets.back_mut() {
            Some(last)
                if last.bytes + bytes <= bytes_max
                    && now_ms.saturating_sub(last.oldest_ms) <= span_max_ms =>
            {
                last.last = position;
                last.records += 1;
                last.bytes += bytes;
                last.newest_ms = now_ms;
                return;
            }
            Some(last) => last.last,
            None => position.saturating_sub(1),
        };
        self.buckets.push_back(Bucket {
            after,
            last: position,
            records: 1,
            bytes,
            oldest_ms: now_ms,
            newest_ms: now_ms,
        });
        if self.buckets.len() > BUCKETS_MAX {
            self.merge();
        }
    }

    /// Takes off everything up to `cursor`.
    pub(super) fn advance(&mut self, cursor: u64) {
        while let Some(front) = self.buckets.front_mut() {
            if front.last > cursor {
                if front.after < cursor {
                    front.take_share(cursor);
                }
                break;
            }
            self.buckets.pop_front();
        }
        self.bytes = self.buckets.iter().map(|bucket| bucket.bytes).sum();
        self.records = self.buckets.iter().map(|bucket| bucket.records).sum();
    }

    /// Drops oldest buckets until the limits hold again; the newest bucket stays unless it is too
    /// old as a whole.
    pub(super) fn overflow(&mut self, now_ms: u64, limits: &QueueLimits) -> Option<Dropped> {
        let mut dropped = None::<Dropped>;
        while let Some(front) = self.buckets.front().copied() {
            let too_many = self.bytes > limits.backlog_bytes_max && self.buckets.len() > 1;
            let too_old = limits
                .backlog_age_max_ms
                .is_some_and(|age_ms| front.newest_ms.saturating_add(age_ms) < now_ms);
            if !too_many && !too_old {
                break;
            }
            self.buckets.pop_front();
            self.bytes = self.bytes.saturating_sub(front.bytes);
            self.records = self.records.saturating_sub(front.records);
            let sum = dropped.get_or_insert_default();
            sum.cursor = front.last;
            sum.records += front.records;
        }
        dropped
    }

    fn merge(&mut self) {
        let mut merged = VecDeque::with_capacity(BUCKETS_MAX);
        while let Some(mut bucket) = self.buckets.pop_front() {
            if let Some(next) = self.buckets.pop_front() {
                bucket.last = next.last;
                bucket.records += next.records;
                bucket.bytes += next.bytes;
                bucket.newest_ms = next.newest_ms;
            }
            merged.push_back(bucket);
        }
        self.buckets = merged;
    }
}

impl Bucket {
    /// Records are taken to lie evenly between the ends of the bucket.
    fn take_share(&mut self, cursor: u64) {
        let span = u128::from(self.last - self.after);
        let left = u128::from(self.last - cursor);
        let share =
            |whole: u64| u64::try_from((u128::from(whole) * left).div_ceil(span)).unwrap_or(whole);
        self.records = share(self.records);
        self.bytes = share(self.bytes);
        self.after = cursor;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(bytes_max: u64) -> QueueLimits {
        QueueLimits { backlog_bytes_max: bytes_max, ..QueueLimits::default() }
    }

    #[test]
    fn empty_is_exact_and_the_rest_is_shared_out() {
        let mut backlog = Backlog::default();
        for position in 1..=100 {
            backlog.add(position, 10, 0, &limits(1 << 20));
        }
        assert_eq!((backlog.records(), backlog.bytes()), (100, 1000));
        backlog.advance(50);
        assert_eq!((backlog.records(), backlog.bytes()), (50, 500));
        backlog.advance(99);
        assert!(!backlog.is_empty());
        backlog.advance(100);
        assert!(backlog.is_empty());
    }

    #[test]
    fn oldest_go_first_and_buckets_stay_few() {
        let mut backlog = Backlog::default();
        let limits = limits(1000);
        for position in 1..=100_000 {
            backlog.add(position, 10, 0, &limits);
            if let Some(dropped) = backlog.overflow(0, &limits) {
                assert!(position - dropped.cursor >= 90);
            }
            assert!(backlog.bytes() <= 1000 && backlog.buckets.len() <= BUCKETS_MAX);
        }
        assert!(backlog.records() >= 90);
    }

    #[test]
    fn the_too_old_are_dropped() {
        let limits = QueueLimits { backlog_age_max_ms: Some(640), ..QueueLimits::default() };
        let mut backlog = Backlog::default();
        for position in 1..=100 {
            backlog.add(position, 1, position * 10, &limits);
        }
        let dropped = backlog.overflow(1000, &limits).expect("some are too old");
        assert!((30..=36).contains(&dropped.records), "{dropped:?}");
        assert_eq!(backlog.overflow(1000, &limits), None);
    }
}
