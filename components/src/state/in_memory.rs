//! `state.in-memory`: state that ends with the process.
//!
//! Options:
//! - `bytesMax` (64Mi): most bytes of keys and values; beyond it writes are refused.

use super::stored::Stored;
use super::{Feature, StateStore};
use crate::context::Context;
use crate::error::Result;
use crate::options::Options;
use crate::storage::Storage;
use std::sync::Arc;

/// Bytes of keys and values that a store holds unless told otherwise.
pub const BYTES_MAX_DEFAULT: u64 = 64 << 20;

/// Opens it.
pub fn open(options: &Options, context: &Context) -> Result<Arc<dyn StateStore>> {
    let bytes_max = options.bytes("bytesMax", BYTES_MAX_DEFAULT)?;
    let storage = Storage::memory(context.clock.clone(), bytes_max);
    const FEATURES: &[Feature] = &[
        Feature::Etag,
        Feature::Transactional,
        Feature::Ttl,
        Feature::DeleteWithPrefix,
        Feature::KeysLike,
    ];
    Ok(Arc::new(Stored::open(storage, context, FEATURES)?))
}
