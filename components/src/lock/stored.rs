//! Locks over [`Storage`]: what `lock.embedded` and `lock.in-memory` share.
//!
//! One table: the resource is the key, the owner the value, and the time to live is the storage's.

use super::{LockStore, Unlock};
use crate::context::Context;
use crate::error::{Error, Kind, Result};
use crate::options::Options;
use crate::storage::{Batch, Durability, Expect, Put, Storage, Table};
use async_trait::async_trait;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Locks that a store holds at a time unless told otherwise.
pub const LOCKS_MAX_DEFAULT: u64 = 1000;

/// Bounds of `locksMax`.
const LOCKS_MAX_MOST: u64 = 100_000;

/// Longest name of a resource with its prefix, and of an owner, in bytes.
pub const NAME_BYTES_MAX: usize = 1024;

/// Entries and bytes of one read of the table.
const SCAN_ENTRIES_MAX: usize = 256;
const SCAN_BYTES_MAX: usize = 256 << 10;

/// Says that the locks have not been counted yet.
const UNCOUNTED: usize = usize::MAX;

/// A lock store in one table of a storage.
pub(super) struct Stored {
    storage: Storage,
    table: Table,
    locks_max: usize,
    /// Locks held, or more: those whose time is over are taken off when the bound is reached.
    held_at_most: AtomicUsize,
}

impl Stored {
    pub(super) fn open(storage: Storage, options: &Options, context: &Context) -> Result<Self> {
        let locks_max = options.number("locksMax", LOCKS_MAX_DEFAULT, 1, LOCKS_MAX_MOST)?;
        let locks_max = usize::try_from(locks_max).unwrap_or(usize::MAX - 1);
        let table = storage.table(&format!("lock/{}", context.name))?;
        Ok(Self { storage, table, locks_max, held_at_most: AtomicUsize::new(UNCOUNTED) })
    }

    /// Whether one more lock may be held.
    async fn has_room(&self) -> Result<bool> {
        if self.held_at_most.load(Ordering::Relaxed) < self.locks_max {
            return Ok(true);
        }
        let held = self.count().await?;
        self.held_at_most.store(held, Ordering::Relaxed);
        Ok(held < self.locks_max)
    }

    /// Locks whose time is not over.
    async fn count(&self) -> Result<usize> {
        let mut held = 0;
        let mut after = None;
        loop {
            let page = self.storage.scan(
                self.table,
                b"",
                after.as_deref(),
                SCAN_ENTRIES_MAX,
                SCAN_BYTES_MAX,
            );
            let page = page.await?;
            let Some((last, _)) = page.last() else { return Ok(held) };
            held += page.len();
            after = Some(last.clone());
        }
    }

    fn released(&self) {
        let less = |held: usize| (held != UNCOUNTED).then(|| held.saturating_sub(1));
        let _ = self.held_at_most.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }
}

#[async_trait]
impl LockStore for Stored {
    async fn try_lock(&self, resource: &str, owner: &str, expiry: Duration) -> Result<bool> {
        check(resource, "resource")?;
        check(owner, "owner")?;
        if self.storage.get(self.table, resource.as_bytes())?.is_some() {
            return Ok(false);
        }
        if !self.has_room().await? {
            let message = format!("{} locks are held: give some back", self.locks_max);
            return Err(Error::new(Kind::Overloaded, message));
        }
        let ttl_ms = u64::try_from(expiry.as_millis()).unwrap_or(u64::MAX).max(1);
        let put = Put { value: owner.as_bytes(), ttl_ms: Some(ttl_ms), content_type: None };
        let mut batch = Batch::new();
        batch.put(self.table, resource.as_bytes(), put, Expect::Absent);
        // Another one may be on its way to the disk: the condition sees it, the read above did not.
        let committed = match self.storage.commit(batch, Durability::Durable) {
            Ok(commit) => commit.await,
            Err(error) => Err(error),
        };
        match committed {
            Ok(_) => {
                let more = |held: usize| (held != UNCOUNTED).then(|| held.saturating_add(1));
                let _ = self.held_at_most.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
                Ok(true)
            }
            Err(error) if error.kind() == Kind::Conflict => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn unlock(&self, resource: &str, owner: &str) -> Result<Unlock> {
        check(resource, "resource")?;
        check(owner, "owner")?;
        let Some(entry) = self.storage.get(self.table, resource.as_bytes())? else {
            return Ok(Unlock::Missing);
        };
        if entry.value != owner.as_bytes() {
            return Ok(Unlock::Foreign);
        }
        let mut batch = Batch::new();
        batch.delete(self.table, resource.as_bytes(), Expect::Etag(entry.etag));
        let committed = match self.storage.commit(batch, Durability::Durable) {
            Ok(commit) => commit.await,
            Err(error) => Err(error),
        };
        match committed {
            Ok(_) => {
                self.released();
                Ok(Unlock::Done)
            }
            // Its time ran out, or another call gave it back, since it was looked at.
            Err(error) if error.kind() == Kind::Conflict => Ok(Unlock::Missing),
            Err(error) => Err(error),
        }
    }
}

fn check(name: &str, what: &str) -> Result<()> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        let bytes = name.len();
        let message =
            format!("a lock's {what} of {bytes} bytes: 1 to {NAME_BYTES_MAX} are allowed");
        return Err(Error::new(Kind::TooLarge, message));
    }
    Ok(())
}
