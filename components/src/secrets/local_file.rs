//! `secretstores.local_file`
use super::SecretStore;
use crate::{error::Result, options::Options};
use std::sync::Arc;
/// Opens it.
pub fn open(_options: &Options) -> Result<Arc<dyn SecretStore>> {
    unimplemented!()
}
