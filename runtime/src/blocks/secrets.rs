//! Secrets.

use super::SecretStores;

/// The block.
pub struct Secrets {}

impl Secrets {
    /// Secrets of these stores.
    pub fn new(_stores: SecretStores) -> Self {
        Self {}
    }
}
