//! State over [`Storage`]: what `state.redb` and `state.in-memory` share.
//!
//! A key of the store is a key of one table; the ETag is the decimal text of the storage's. A text
//! that is no number was never issued, so it is a mismatch like any other wrong ETag, as Dapr's
//! in-memory and PostgreSQL stores have it.

use super::{Concurrency, Consistency, Delete, Feature, Item, Operation, Set, StateStore};
use crate::context::Context;
use crate::env::Clock;
use crate::error::{Error, Kind, Result};
use crate::storage::{Batch, Commit, Durability, Entry, Expect, Put, Storage, Table};
use async_trait::async_trait;

/// Keys that a bulk read takes before it lets others run: a point read may touch the disk.
const READS_PER_TURN: usize = 64;

/// A state store in one table of a storage.
pub(super) struct Stored {
    storage: Storage,
    table: Table,
    clock: Clock,
    features: &'static [Feature],
}

impl Stored {
    pub(super) fn open(
        storage: Storage,
        context: &Context,
        features: &'static [Feature],
    ) -> Result<Self> {
        let table = storage.table(&format!("state/{}", context.name))?;
        Ok(Self { storage, table, clock: context.clock.clone(), features })
    }

    /// Queues one write. Its conditions are checked now; the commit tells when it is durable.
    fn queue(&self, operation: &Operation) -> Result<Commit> {
        let mut batch = Batch::new();
        let durability = self.add(&mut batch, operation)?;
        self.storage.commit(batch, durability).map_err(|error| self.explain(error, operation))
    }

    /// Adds one write to a batch and says how durable it must be.
    fn add(&self, batch: &mut Batch, operation: &Operation) -> Result<Durability> {
        let expect = expected(operation).map_err(|error| self.explain(error, operation))?;
        let consistency = match operation {
            Operation::Set(set) => {
                let put = Put {
                    value: &set.value,
                    ttl_ms: set.ttl_ms.filter(|ttl_ms| *ttl_ms > 0),
                    content_type: set.content_type.as_deref(),
                };
                batch.put(self.table, set.key.as_bytes(), put, expect);
                set.consistency
            }
            Operation::Delete(delete) => {
                batch.delete(self.table, delete.key.as_bytes(), expect);
                delete.consistency
            }
        };
        // A condition that held must not be undone by a crash: others may have acted on it.
        let is_eventual = consistency == Consistency::Eventual && expect == Expect::Any;
        Ok(if is_eventual { Durability::Eventual } else { Durability::Durable })
    }

    fn item(&self, entry: Entry) -> Item {
        let left_ms = |expires_ms: u64| expires_ms.saturating_sub(self.clock.now_ms());
        let wall_ms = |expires_ms| self.clock.wall_ms().saturating_add(left_ms(expires_ms));
        Item {
            value: entry.value,
            etag: entry.etag.to_string().into(),
            expires_ms: entry.expires_ms.map(wall_ms),
            content_type: entry.content_type,
        }
    }

    /// Says of a conflict which key and which ETag it was about.
    fn explain(&self, error: Error, operation: &Operation) -> Error {
        if error.kind() != Kind::Conflict {
            return error;
        }
        let key = operation_key(operation);
        let current = self.storage.get(self.table, key.as_bytes()).ok().flatten();
        match (operation_etag(operation), current) {
            (None, _) => Error::new(Kind::Conflict, "item already exists and no etag was passed"),
            (Some(etag), Some(entry)) => mismatch(key, Some(entry.etag), etag),
            (Some(etag), None) => mismatch(key, None, etag),
        }
    }

    /// Finds the operation of a refused transaction whose condition does not hold. The condition
    /// may have failed on a write that is still queued; then the first conditional one is named.
    fn explain_all(&self, error: Error, operations: &[Operation]) -> Error {
        let conditional = || {
            operations.iter().filter_map(|operation| match expected(operation) {
                Ok(Expect::Any) | Err(_) => None,
                Ok(expect) => Some((operation, expect)),
            })
        };
        let fails = |(operation, expect): &(&Operation, Expect)| {
            let key = operation_key(operation).as_bytes();
            let etag = self.storage.get(self.table, key).ok().flatten().map(|entry| entry.etag);
            match expect {
                Expect::Any => false,
                Expect::Absent => etag.is_some(),
                Expect::Etag(expected) => etag != Some(*expected),
            }
        };
        match conditional().find(fails).or_else(|| conditional().next()) {
            Some((operation, _)) => self.explain(error, operation),
            None => error,
        }
    }
}

#[async_trait]
impl StateStore for Stored {
    fn features(&self) -> &'static [Feature] {
        self.features
    }

    async fn get(&self, key: &str) -> Result<Option<Item>> {
        let entry = self.storage.get(self.table, key.as_bytes())?;
        Ok(entry.map(|entry| self.item(entry)))
    }

    async fn bulk_get(&self, keys: &[String]) -> Vec<Result<Option<Item>>> {
        let mut items = Vec::with_capacity(keys.len());
        for turn in keys.chunks(READS_PER_TURN) {
            if !items.is_empty() {
                tokio::task::yield_now().await;
            }
            for key in turn {
                items.push(self.get(key).await);
            }
        }
        items
    }

    async fn set(&self, set: Set) -> Result<()> {
        self.queue(&Operation::Set(set))?.await.map(drop)
    }

    /// Writes are queued one after the other up to the first that is refused, and share syncs.
    async fn bulk_set(&self, sets: Vec<Set>) -> Result<()> {
        let mut queued = Vec::with_capacity(sets.len());
        let mut result = Ok(());
        for set in sets {
            match self.queue(&Operation::Set(set)) {
                Ok(commit) => queued.push(commit),
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        for commit in queued {
            result = result.and(commit.await.map(drop));
        }
        result
    }

    async fn delete(&self, delete: Delete) -> Result<()> {
        self.queue(&Operation::Delete(delete))?.await.map(drop)
    }

    async fn transact(&self, operations: Vec<Operation>) -> Result<()> {
        if operations.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::new();
        for operation in &operations {
            self.add(&mut batch, operation)?;
        }
        let commit = self
            .storage
            .commit(batch, Durability::Durable)
            .map_err(|error| self.explain_all(error, &operations))?;
        drop(operations);
        commit.await.map(drop)
    }
}

/// What must hold for a write to happen. An empty ETag counts as none.
fn expected(operation: &Operation) -> Result<Expect> {
    match (operation_etag(operation), operation) {
        (Some(etag), _) => match etag.parse() {
            Ok(etag) => Ok(Expect::Etag(etag)),
            Err(_) => Err(Error::new(Kind::Conflict, "not an etag of this store")),
        },
        (None, Operation::Set(set)) if set.concurrency == Concurrency::FirstWrite => {
            Ok(Expect::Absent)
        }
        (None, _) => Ok(Expect::Any),
    }
}

fn operation_key(operation: &Operation) -> &str {
    match operation {
        Operation::Set(set) => &set.key,
        Operation::Delete(delete) => &delete.key,
    }
}

fn operation_etag(operation: &Operation) -> Option<&str> {
    let etag = match operation {
        Operation::Set(set) => set.etag.as_deref(),
        Operation::Delete(delete) => delete.etag.as_deref(),
    };
    etag.filter(|etag| !etag.is_empty())
}

fn mismatch(key: &str, current: Option<u64>, expected: &str) -> Error {
    let message = match current {
        Some(etag) => {
            format!("state etag not match for key={key}: current={etag}, expect={expected}")
        }
        None => format!("state not exist or expired for key={key}"),
    };
    Error::new(Kind::Conflict, message)
}
