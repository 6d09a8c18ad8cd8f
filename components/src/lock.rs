//! Locks: names that one owner at a time holds for a while.
//!
//! Any lock store promises:
//! - `try_lock` gives the lock to the owner if nobody holds it, the owner itself included: a lock
//!   is not taken twice and not prolonged;
//! - it answers `true` after the lock is durable: the holder still has it after a crash and restart
//!   of the store, until its time is over;
//! - the time is elapsed time, counted from the answer at the latest; setting the date changes
//!   nothing;
//! - `unlock` gives back what its owner holds, and nothing else; a lock whose time is over does not
//!   exist;
//! - a lock that was given back or whose time is over can be taken at once.
//!
//! Resources arrive with their prefix; the store never learns which app asks.

pub mod embedded;
pub mod in_memory;
mod stored;

use crate::context::Context;
use crate::error::Result;
use crate::options::Options;
use async_trait::async_trait;
use std::sync::Arc;
use std::time::Duration;

pub use stored::{LOCKS_MAX_DEFAULT, NAME_BYTES_MAX};

/// What became of an `unlock`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unlock {
    /// The lock is free.
    Done,
    /// Nobody held it.
    Missing,
    /// Somebody else holds it.
    Foreign,
}

/// A store of locks. The laws stand at the head of this file.
#[async_trait]
pub trait LockStore: Send + Sync {
    /// Takes the lock of `resource` for `owner`. `false` when it is held.
    async fn try_lock(&self, resource: &str, owner: &str, expiry: Duration) -> Result<bool>;

    /// Gives the lock back.
    async fn unlock(&self, resource: &str, owner: &str) -> Result<Unlock>;
}

/// A row of the catalogue: a type name and how to open it.
pub struct Row {
    /// Name as resources write it, `lock.…`.
    pub type_name: &'static str,
    /// Opens the store with its settings.
    pub open: fn(&Options, &Context) -> Result<Arc<dyn LockStore>>,
}

/// The lock stores there are.
pub const CATALOGUE: &[Row] = &[
    Row { type_name: "lock.embedded", open: embedded::open },
    Row { type_name: "lock.in-memory", open: in_memory::open },
];
