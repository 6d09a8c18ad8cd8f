//! What providers share that hold their keys themselves: a source finds the key of a name, this
//! does the wrapping with it.

use super::keys::{Key, Operation};
use super::{Algorithm, CryptoProvider, Zeroizing};
use crate::error::{Error, Kind, Result};
use async_trait::async_trait;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// RSA operations under way at a time in the whole process. They keep a core busy for some ten to a
/// hundred milliseconds on a gateway, and there are threads for name look-ups among others to leave
/// free.
static SLOW: Semaphore = Semaphore::const_new(1);

/// Finds keys.
#[async_trait]
pub(super) trait Source: Send + Sync + 'static {
    /// The key of this name.
    async fn key(&self, name: &str) -> Result<Arc<Key>>;
}

/// A provider over a source.
struct Local(Box<dyn Source>);

/// The provider over a source.
pub(super) fn provider(source: impl Source) -> Arc<dyn CryptoProvider> {
    Arc::new(Local(Box::new(source)))
}

#[async_trait]
impl CryptoProvider for Local {
    async fn wrap_key(&self, name: &str, algorithm: Algorithm, key: &[u8]) -> Result<Vec<u8>> {
        let kek = self.key(name).await?;
        kek.check(Operation::WrapKey, algorithm)?;
        let key = Zeroizing::new(key.to_vec());
        run(kek, move |kek| kek.wrap(algorithm, &key)).await
    }

    async fn unwrap_key(
        &self,
        name: &str,
        algorithm: Algorithm,
        wrapped: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>> {
        let kek = self.key(name).await?;
        kek.check(Operation::UnwrapKey, algorithm)?;
        let wrapped = wrapped.to_vec();
        run(kek, move |kek| kek.unwrap(algorithm, &wrapped)).await
    }
}

impl Local {
    async fn key(&self, name: &str) -> Result<Arc<Key>> {
        let key = self.0.key(name).await;
        key.map_err(|error| error.context("failed to retrieve the key encryption key"))
    }
}

/// Does the work here, or elsewhere if it is slow.
async fn run<T: Send + 'static>(
    key: Arc<Key>,
    work: impl FnOnce(&Key) -> Result<T> + Send + 'static,
) -> Result<T> {
    if key.is_slow() { blocking(move || work(&key)).await } else { work(&key) }
}

/// Runs what blocks or takes long on a thread for that, one at a time.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let place = SLOW.acquire().await.map_err(|_| ended())?;
    // The place goes along: a caller who gives up does not let the next one start beside this.
    let work = move || {
        let result = work();
        drop(place);
        result
    };
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(ended()))
}

fn ended() -> Error {
    Error::new(Kind::Closed, "the process is ending")
}
