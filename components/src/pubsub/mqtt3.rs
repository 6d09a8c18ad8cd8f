//! `pubsub.mqtt3`
use super::PubSub;
use crate::{context::Context, error::Result, options::Options};
use std::sync::Arc;
/// Opens it.
pub fn open(_options: &Options, _context: &Context) -> Result<Arc<dyn PubSub>> {
    unimplemented!()
}
