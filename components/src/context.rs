//! What a component may ask of the process it lives in.

use crate::env::Clock;
use crate::error::Result;
use crate::storage::Storage;
use std::sync::Arc;

/// Opens the storage of the process, or gives the one already open. The error says why there is
/// none: no data directory, a lock held by another process, a disk that cannot be written.
pub type OpenStorage = Arc<dyn Fn() -> Result<Storage> + Send + Sync>;

/// Handed to every component that is opened.
#[derive(Clone)]
pub struct Context {
    /// The component's name, as its resource gives it.
    pub name: String,
    /// App id of the process, for a client id or consumer name that has no better default.
    pub app_id: String,
    /// Time.
    pub clock: Clock,
    /// Called only by components that store something, so that a process without such a component
    /// touches no directory.
    pub storage: OpenStorage,
}
