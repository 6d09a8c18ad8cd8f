//! `state.redb`: state in the storage of this process, a table per component name.
//!
//! Options: none. Size, flushing and quota are settings of the storage, not of one store.
//!
//! Writes are durable before they are answered. `consistency: eventual` is answered at once and
//! may be lost by a crash within the storage's `eventualFlushMs`; a write with an ETag, with
//! first-write or in a transaction is durable all the same.

use super::stored::Stored;
use super::{Feature, StateStore};
use crate::context::Context;
use crate::error::Result;
use crate::options::Options;
use std::sync::Arc;

/// Opens it.
pub fn open(_options: &Options, context: &Context) -> Result<Arc<dyn StateStore>> {
    let storage = (context.storage)()?;
    const FEATURES: &[Feature] = &[Feature::Etag, Feature::Transactional, Feature::Ttl];
    Ok(Arc::new(Stored::open(storage, context, FEATURES)?))
}
