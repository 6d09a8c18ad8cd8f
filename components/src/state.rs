//! State stores: keys, values, ETags.
//!
//! Any state store promises:
//! - `get` of a missing or expired key is `None`, not an error;
//! - `set` answers after the value is durable, unless the item asked for eventual consistency;
//! - a value read has the ETag under which it was written; two writes never share one;
//! - with an ETag, `set` and `delete` happen only if it is the stored one, else `Conflict`; an
//!   ETag that this store could never have issued is `InvalidEtag`;
//! - with first-write and no ETag, `set` happens only if there is no value, else `Conflict`;
//! - `delete` of a missing key without an ETag succeeds;
//! - `set` with a TTL of zero or none removes an earlier expiry;
//! - `transact` is all or nothing, also across a crash.
//!
//! Keys arrive with their prefix; the store never learns which app asks.

pub mod in_memory;
pub mod redb;
mod stored;

use crate::context::Context;
use crate::error::{Error, Kind, Result};
use crate::options::Options;
use async_trait::async_trait;
use bytes::Bytes;
use std::sync::Arc;

/// When a write is answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Consistency {
    /// The component's own default; for the embedded store the same as `Strong`.
    #[default]
    Default,
    /// After the value is durable.
    Strong,
    /// At once; a crash may lose what the component's documentation names.
    Eventual,
}

/// What a write without an ETag does to an existing value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Concurrency {
    /// Replace it.
    #[default]
    LastWrite,
    /// Fail with `Conflict`.
    FirstWrite,
}

/// A value with what is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The bytes as they were written.
    pub value: Bytes,
    /// The ETag of this value.
    pub etag: Arc<str>,
    /// When it expires, in milliseconds of [`Clock::wall_ms`]; `None` is never.
    pub expires_ms: Option<u64>,
    /// The content type given with it, if any.
    pub content_type: Option<Arc<str>>,
}

/// A value to write.
#[derive(Debug, Clone, Default)]
pub struct Set {
    /// The whole key, prefix included.
    pub key: String,
    /// The bytes to store; copied, so a slice of a larger buffer is fine.
    pub value: Bytes,
    /// Write only over this ETag.
    pub etag: Option<String>,
    /// What to do without an ETag.
    pub concurrency: Concurrency,
    /// When to answer.
    pub consistency: Consistency,
    /// Time to live in milliseconds; `None` keeps forever.
    pub ttl_ms: Option<u64>,
    /// Content type to keep beside the value.
    pub content_type: Option<String>,
}

/// A key to remove.
#[derive(Debug, Clone, Default)]
pub struct Delete {
    /// The whole key, prefix included.
    pub key: String,
    /// Remove only this ETag.
    pub etag: Option<String>,
    /// When to answer.
    pub consistency: Consistency,
}

/// One step of a transaction.
#[derive(Debug, Clone)]
pub enum Operation {
    /// Write a value.
    Set(Set),
    /// Remove a key.
    Delete(Delete),
}

/// What a store can do, in the words and the order that metadata shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    /// `ETAG`
    Etag,
    /// `TRANSACTIONAL`
    Transactional,
    /// `TTL`
    Ttl,
    /// `QUERY_API`
    QueryApi,
    /// `DELETE_WITH_PREFIX`
    DeleteWithPrefix,
    /// `KEYS_LIKE`
    KeysLike,
}

impl Feature {
    /// The word in metadata.
    pub const fn name(self) -> &'static str {
        match self {
            Feature::Etag => "ETAG",
            Feature::Transactional => "TRANSACTIONAL",
            Feature::Ttl => "TTL",
            Feature::QueryApi => "QUERY_API",
            Feature::DeleteWithPrefix => "DELETE_WITH_PREFIX",
            Feature::KeysLike => "KEYS_LIKE",
        }
    }
}

/// A store of keys and values. The laws stand at the head of this file.
#[async_trait]
pub trait StateStore: Send + Sync {
    /// What this store can do.
    fn features(&self) -> &'static [Feature];

    /// The value of a key.
    async fn get(&self, key: &str) -> Result<Option<Item>>;

    /// Values of several keys, in the order asked for; each may fail alone.
    async fn bulk_get(&self, keys: &[String]) -> Vec<Result<Option<Item>>> {
        let mut items = Vec::with_capacity(keys.len());
        for key in keys {
            items.push(self.get(key).await);
        }
        items
    }

    /// Writes one value.
    async fn set(&self, set: Set) -> Result<()>;

    /// Writes several values, not atomically: the first error is returned, others may be written.
    async fn bulk_set(&self, sets: Vec<Set>) -> Result<()> {
        for set in sets {
            self.set(set).await?;
        }
        Ok(())
    }

    /// Removes one key.
    async fn delete(&self, delete: Delete) -> Result<()>;

    /// Applies all operations or none.
    async fn transact(&self, operations: Vec<Operation>) -> Result<()> {
        let _ = operations;
        Err(Error::new(Kind::Unsupported, "this state store has no transactions"))
    }
}

/// A row of the catalogue: a type name and how to open it.
pub struct Row {
    /// Name as resources write it, `state.…`.
    pub type_name: &'static str,
    /// Opens the store with its settings.
    pub open: fn(&Options, &Context) -> Result<Arc<dyn StateStore>>,
}

/// The state stores there are.
pub const CATALOGUE: &[Row] = &[
    Row { type_name: "state.redb", open: redb::open },
    Row { type_name: "state.in-memory", open: in_memory::open },
];
