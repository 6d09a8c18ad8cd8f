//! The lock suite over every row of the catalogue that needs nothing from outside.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "suite/home.rs"]
mod home;
#[path = "suite/lock.rs"]
#[macro_use]
mod suite;

use home::Home;
use pillion_components::Kind;
use pillion_components::lock::{CATALOGUE, embedded, in_memory};
use pillion_components::options::Options;
use suite::{LOCKS_MAX, Subject};

fn options() -> Options {
    [("locksMax", LOCKS_MAX.to_string())].into_iter().collect()
}

async fn embedded_in(home: Home) -> Subject {
    let context = home.context("lock");
    let store = embedded::open(&options(), &context).unwrap();
    let (clock, again) = (home.clock.clone(), home.clone());
    let reopen = move || {
        let (home, context) = (again.clone(), context.clone());
        let reopened = async move {
            home.restart().await;
            embedded::open(&options(), &context).unwrap()
        };
        Box::pin(reopened) as suite::Reopened
    };
    Subject { store, clock, reopen: Some(Box::new(reopen)), holds: Box::new(home) }
}

async fn over_memory() -> Subject {
    embedded_in(Home::memory()).await
}

async fn on_disk() -> Subject {
    embedded_in(Home::disk()).await
}

async fn without_storage() -> Subject {
    let context = home::context_without_storage("lock");
    let store = in_memory::open(&options(), &context).unwrap();
    Subject { store, clock: context.clock, reopen: None, holds: Box::new(()) }
}

conformance!(embedded_over_memory, crate::over_memory);
conformance!(embedded_on_disk, crate::on_disk);
conformance!(in_memory_without_storage, crate::without_storage);

#[test]
fn every_row_is_under_test() {
    let names: Vec<_> = CATALOGUE.iter().map(|row| row.type_name).collect();
    assert_eq!(names, ["lock.embedded", "lock.in-memory"]);
}

#[tokio::test]
async fn storage_is_asked_for_only_where_something_is_stored() {
    let context = home::context_without_storage("lock");
    let error = embedded::open(&Options::default(), &context).err().unwrap();
    assert_eq!(error.kind(), Kind::Unavailable);
    in_memory::open(&Options::default(), &context).unwrap();
    let none: Options = [("locksMax", "0")].into_iter().collect();
    assert!(in_memory::open(&none, &context).err().unwrap().message().contains("locksMax"));
}
