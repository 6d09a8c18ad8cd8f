//! `configuration.embedded`: items in the storage of this process, a table per component name.
//!
//! Options:
//! - `itemsFile` (none): path of a JSON file with items, read when the store opens: `{"key":
//!   "value"}` or `{"key": {"value": "…", "version": "…", "metadata": {…}}}`. What has changed in the
//!   file since it was read last is taken over, a key that is gone from it as well; what has not
//!   changed there leaves alone what a topic has brought since.
//! - `pubsubName` and `topic` (none): a message on `{topic}/{key}` of that component writes the
//!   key, one without a payload deletes it. A link that carries such topics down feeds the store
//!   from the cloud.
//! - `bytesMax` (1Mi): most bytes of all items; what does not fit is refused, counted and logged.

use super::stored::Stored;
use super::{ConfigurationStore, Opening};
use crate::context::Context;
use crate::options::Options;
use std::sync::Arc;

/// Opens it.
pub fn open<'a>(options: &'a Options, context: &'a Context) -> Opening<'a> {
    Box::pin(async move {
        let storage = (context.storage)()?;
        let store = Stored::open(storage, options, context).await?;
        Ok(Arc::new(store) as Arc<dyn ConfigurationStore>)
    })
}
