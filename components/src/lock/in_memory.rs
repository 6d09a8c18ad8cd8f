//! `lock.in-memory`: locks that end with the process.
//!
//! Options: those of `lock.embedded`.

use super::LockStore;
use super::stored::Stored;
use crate::context::Context;
use crate::error::Result;
use crate::options::Options;
use crate::storage::Storage;
use std::sync::Arc;

/// Bytes of names and owners; the number of locks is bounded besides.
const BYTES_MAX: u64 = 16 << 20;

/// Opens it.
pub fn open(options: &Options, context: &Context) -> Result<Arc<dyn LockStore>> {
    let storage = Storage::memory(context.clock.clone(), BYTES_MAX);
    Ok(Arc::new(Stored::open(storage, options, context)?))
}
