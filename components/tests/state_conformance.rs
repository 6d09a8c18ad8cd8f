//! The state suite over every row of the catalogue that needs nothing from outside.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "suite/home.rs"]
mod home;
#[path = "suite/state.rs"]
#[macro_use]
mod suite;

use home::Home;
use pillion_components::Kind;
use pillion_components::options::Options;
use pillion_components::state::{StateStore, in_memory, redb};
use std::sync::Arc;
use suite::Subject;

async fn redb_in(home: Home) -> Subject {
    let context = home.context("statestore");
    let store = redb::open(&Options::default(), &context).unwrap();
    let clock = Some(home.clock.clone());
    let again = home.clone();
    let reopen = move || {
        let (home, context) = (again.clone(), context.clone());
        let reopened = async move {
            home.restart().await;
            redb::open(&Options::default(), &context).unwrap()
        };
        Box::pin(reopened) as suite::Reopened
    };
    Subject { store, clock, reopen: Some(Box::new(reopen)), holds: Box::new(home) }
}

async fn over_memory() -> Subject {
    redb_in(Home::memory()).await
}

async fn on_disk() -> Subject {
    redb_in(Home::disk()).await
}

async fn without_storage() -> Subject {
    let context = home::context_without_storage("statestore");
    let store = in_memory::open(&Options::default(), &context).unwrap();
    let clock = Some(context.clock.clone());
    Subject { store, clock, reopen: None, holds: Box::new(()) }
}

conformance!(redb_over_memory, crate::over_memory);
conformance!(redb_on_disk, crate::on_disk);
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
    let context = home::context_without_storage("statestore");
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
