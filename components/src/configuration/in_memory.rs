//! `configuration.in-memory`: items that end with the process.
//!
//! Options: those of `configuration.embedded`. A topic has to bring its items again after a
//! restart: retained ones do.

use super::stored::{BYTES_MAX_DEFAULT, Stored};
use super::{ConfigurationStore, Opening};
use crate::context::Context;
use crate::options::Options;
use crate::storage::Storage;
use std::sync::Arc;

/// Room for keys, etags and marks beside the items themselves.
const ROOM_BESIDE: u64 = 4;

/// Opens it.
pub fn open<'a>(options: &'a Options, context: &'a Context) -> Opening<'a> {
    Box::pin(async move {
        let bytes_max = options.bytes("bytesMax", BYTES_MAX_DEFAULT)?;
        let storage = Storage::memory(context.clock.clone(), bytes_max.saturating_mul(ROOM_BESIDE));
        let store = Stored::open(storage, options, context).await?;
        Ok(Arc::new(store) as Arc<dyn ConfigurationStore>)
    })
}
