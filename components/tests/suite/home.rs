//! A storage for tests, in memory or on disk, that can be ended and opened again.

#![allow(dead_code, clippy::unwrap_used, reason = "tests; each file uses a part")]

use pillion_components::context::Context;
use pillion_components::env::{self, Clock};
use pillion_components::storage::{Storage, StorageOptions};
use pillion_components::{Error, Kind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// Where the clocks of tests begin.
pub(crate) const NOW_MS: u64 = 1_700_000_000_000;

/// A storage that outlives the components over it.
#[derive(Clone)]
pub(crate) struct Home {
    pub(crate) clock: Clock,
    /// Let go of before the directory is removed.
    storage: Arc<Mutex<Option<Storage>>>,
    dir: Option<Arc<Dir>>,
}

/// A directory that goes with the test.
struct Dir(PathBuf);

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Home {
    /// Without a disk: ending it changes nothing.
    pub(crate) fn memory() -> Self {
        let clock = Clock::manual(NOW_MS);
        let storage = Storage::memory(clock.clone(), 64 << 20);
        Self { clock, dir: None, storage: Arc::new(Mutex::new(Some(storage))) }
    }

    /// In a directory of its own, with a log so small that checkpoints happen.
    pub(crate) fn disk() -> Self {
        let dir = std::env::temp_dir().join(format!("pillion-suite-{}", env::uuid()));
        let (clock, dir) = (Clock::manual(NOW_MS), Some(Arc::new(Dir(dir))));
        let home = Self { clock, dir, storage: Arc::default() };
        home.open();
        home
    }

    fn open(&self) {
        let Some(dir) = &self.dir else { return };
        let options = StorageOptions {
            dir: dir.0.clone(),
            segment_bytes: 1 << 20,
            log_segments: 4,
            quota_bytes: 256 << 20,
            commit_linger_ms: 0,
            eventual_flush_ms: 50,
            cache_bytes: 1 << 20,
            index_bytes_max: 256 << 10,
            format_max: None,
            clock: self.clock.clone(),
        };
        *self.storage.lock().unwrap() = Some(Storage::open(options).unwrap());
    }

    /// Ends the storage in good order and opens it again.
    pub(crate) async fn restart(&self) {
        if self.dir.is_none() {
            return;
        }
        let storage = self.storage.lock().unwrap().take();
        if let Some(storage) = storage {
            storage.close().await.unwrap();
        }
        self.open();
    }

    /// For a component of this name.
    pub(crate) fn context(&self, name: &str) -> Context {
        let storage = Arc::clone(&self.storage);
        let open = move || storage.lock().unwrap().clone().ok_or_else(none);
        let (name, app_id, clock) = (name.to_owned(), "app".to_owned(), self.clock.clone());
        Context { name, app_id, clock, storage: Arc::new(open) }
    }
}

/// For a component in a process that has no storage.
pub(crate) fn context_without_storage(name: &str) -> Context {
    let (name, app_id, clock) = (name.to_owned(), "app".to_owned(), Clock::manual(NOW_MS));
    Context { name, app_id, clock, storage: Arc::new(|| Err(none())) }
}

fn none() -> Error {
    Error::new(Kind::Unavailable, "this process has no data directory")
}
