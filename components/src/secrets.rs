//! Secret stores: named secrets, each a small map of keys to values.
//!
//! Any secret store promises:
//! - `get` of a secret that is not there is an error of kind `NotFound`, unless the store's own
//!   documentation says otherwise (the environment answers an empty value, as Dapr's does);
//! - `bulk_get` returns every secret the store would answer by `get`;
//! - values never appear in an error, a log line or a `Debug` output.

pub mod local_env;
pub mod local_file;

use crate::error::Result;
use crate::options::Options;
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::sync::Arc;

/// One secret: keys and their values.
pub type Secret = BTreeMap<String, String>;

/// A source of secrets.
#[async_trait]
pub trait SecretStore: Send + Sync {
    /// Capabilities as metadata shows them.
    fn capabilities(&self) -> &'static [&'static str] {
        &[]
    }

    /// One secret. `None` where the store answered with nothing at all.
    async fn get(&self, name: &str) -> Result<Option<Secret>>;

    /// Every secret.
    async fn bulk_get(&self) -> Result<BTreeMap<String, Secret>>;
}

/// A row of the catalogue: a type name and how to open it.
pub struct Row {
    /// Name as resources write it, `secretstores.…`.
    pub type_name: &'static str,
    /// Opens the store with its settings.
    pub open: fn(&Options) -> Result<Arc<dyn SecretStore>>,
}

/// The secret stores there are.
pub const CATALOGUE: &[Row] = &[
    Row { type_name: "secretstores.local.env", open: local_env::open },
    Row { type_name: "secretstores.local.file", open: local_file::open },
];
