//! `lock.embedded`: locks in the storage of this process, a table per component name.
//!
//! Options:
//! - `locksMax` (1000): most locks held at a time; beyond it `try_lock` is refused.
//!
//! It serves the apps of this process. A lock between gateways needs a store that they share.

use super::LockStore;
use super::stored::Stored;
use crate::context::Context;
use crate::error::Result;
use crate::options::Options;
use std::sync::Arc;

/// Opens it.
pub fn open(options: &Options, context: &Context) -> Result<Arc<dyn LockStore>> {
    let storage = (context.storage)()?;
    Ok(Arc::new(Stored::open(storage, options, context)?))
}
