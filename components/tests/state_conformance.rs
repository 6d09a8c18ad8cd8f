//! The state suite over every row of the catalogue that needs nothing from outside.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "suite/state.rs"]
#[macro_use]
mod suite;

use pillion_components::context::Context;
use pillion_components::env::Clock;
use pillion_components::options::Options;
use pillion_components::state::{StateStore, in_memory, redb};
use pillion_components::storage::Storage;
use pillion_components::{Error, Kind};
use std::sync::Arc;
use suite::Subject;

fn context(clock: &Clock, storage: Option<Storage>) -> Context {
    let open = move || storage.clone().ok_or_else(|| Error::new(Kind::Unavailable, "none"));
    Context {
        name: "statestore".to_owned(),
        app_id: "app".to_owned(),
        clock: clock.clone(),
        storage: Arc::new(open),
    }
}

fn subject(
    clock: Clock,
    open: impl Fn() -> Arc<dyn StateStore> + Send + Sync + 'static,
) -> Subject {
    Subject { store: open(), clock: Some(clock), reopen: Some(Box::new(open)), holds: Box::new(()) }
}

async fn over_memory() -> Subject {
    let clock = Clock::manual(1_700_000_000_000);
    let context = context(&clock, Some(Storage::memory(clock.clone(), 64 << 20)));
    subject(clock, move || redb::open(&Options::default(), &context).unwrap())
}

async fn without_storage() -> Subject {
    let clock = Clock::manual(1_700_000_000_000);
    let context = context(&clock, None);
    let open = move || in_memory::open(&Options::default(), &context).unwrap();
    Subject { reopen: None, ..subject(clock, open) }
}

conformance!(redb_over_memory, crate::over_memory);
conformance!(in_memory_without_storage, crate::without_storage);

#[tokio::test]
async fn features_are_those_that_metadata_shows() {
    let names = |store: Arc<dyn StateStore>| {
        store.features().iter().map(|feature| feature.name()).collect::<Vec<_>>()
    };
    assert_eq!(names(over_memory().await.store), ["ETAG", "TRANSACTIONAL", "TTL"]);
    let expected = ["ETAG", "TRANSACTIONAL", "TTL", "DELETE_WITH_PREFIX", "KEYS_LIKE"];
    assert_eq!(names(without_storage().await.store), expected);
}

/// A process without storage says so when a store needs it, and an in-memory one never asks.
#[tokio::test]
async fn storage_is_asked_for_only_where_something_is_stored() {
    let context = context(&Clock::system(), None);
    let error = redb::open(&Options::default(), &context).err().unwrap();
    assert_eq!(error.kind(), Kind::Unavailable);
    in_memory::open(&Options::default(), &context).unwrap();
    let small: Options = [("bytesMax", "4Ki")].into_iter().collect();
    let store = in_memory::open(&small, &context).unwrap();
    let set = pillion_components::state::Set {
        key: "k".to_owned(),
        value: vec![0; 8192].into(),
        ..Default::default()
    };
    let refused = store.set(set).await.unwrap_err().kind();
    assert!(matches!(refused, Kind::Full | Kind::TooLarge), "{refused:?}");
}
