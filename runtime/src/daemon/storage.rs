//! The storage of the process, opened by the first component that stores something.

use crate::observe::metrics::families;
use crate::resources::{DATA_DIR_MISSING, StoragePlan};
use pillion_components::context::OpenStorage;
use pillion_components::env::Clock;
use pillion_components::error::{Error, Kind, Result};
use pillion_components::storage::{Storage, StorageOptions};
use std::sync::{Arc, Mutex, PoisonError};

/// A storage that is opened once, at its first use.
pub(super) struct LazyStorage {
    plan: StoragePlan,
    clock: Clock,
    opened: Mutex<Option<Result<Storage>>>,
}

impl LazyStorage {
    pub(super) fn new(plan: &StoragePlan, clock: Clock) -> Self {
        Self { plan: plan.clone(), clock, opened: Mutex::new(None) }
    }

    /// What components are given.
    pub(super) fn opener(self: &Arc<Self>) -> OpenStorage {
        let this = self.clone();
        Arc::new(move || this.open())
    }

    fn open(&self) -> Result<Storage> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.get_or_insert_with(|| Storage::open(self.options()?)).clone()
    }

    fn options(&self) -> Result<StorageOptions> {
        let plan = &self.plan;
        let Some(dir) = plan.data_dir.clone() else {
            return Err(Error::new(Kind::Invalid, DATA_DIR_MISSING));
        };
        let mut options = StorageOptions::new(dir, self.clock.clone());
        set(&mut options.quota_bytes, plan.quota_bytes);
        set(&mut options.log_segments, plan.log_segments);
        set(&mut options.segment_bytes, plan.segment_bytes);
        set(&mut options.commit_linger_ms, plan.commit_linger_ms);
        set(&mut options.eventual_flush_ms, plan.eventual_flush_ms);
        options.format_max = crate::update::storage_format_max();
        Ok(options)
    }

    fn get(&self) -> Option<Storage> {
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.as_ref()?.as_ref().ok().cloned()
    }

    /// What is wrong with it, if anything is.
    pub(super) fn trouble(&self) -> Option<String> {
        let status = self.get()?.status();
        status.unhealthy.or_else(|| status.full.then(|| "full: new data is refused".to_owned()))
    }

    /// Takes the engine's numbers over into the metrics.
    pub(super) fn record(&self) {
        let Some(storage) = self.get() else { return };
        let status = storage.status();
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        families::STORAGE_WRITTEN.with(&[]).set(status.written_bytes);
        families::STORAGE_SYNCS.with(&[]).set(status.log_syncs);
        families::STORAGE_BATCHES.with(&[]).set(status.log_batches);
        families::STORAGE_CHECKPOINTS.with(&[]).set(status.checkpoints);
        families::STORAGE_DISK.with(&[]).set(signed(status.disk_bytes));
        families::STORAGE_INDEX.with(&[]).set(signed(status.index_bytes));
        families::STORAGE_FULL.with(&[]).set(i64::from(status.full));
        families::STORAGE_UNHEALTHY.with(&[]).set(i64::from(status.unhealthy.is_some()));
    }

    /// Syncs everything and stops the engine's threads.
    pub(super) async fn close(&self) -> Result<()> {
        match self.get() {
            Some(storage) => storage.close().await,
            None => Ok(()),
        }
    }
}

fn set<T>(option: &mut T, wanted: Option<T>) {
    if let Some(wanted) = wanted {
        *option = wanted;
    }
}
