//! What every lock store must do, as functions that take any of them.

#![allow(dead_code, unused_macros, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, reason = "tests")]

use pillion_components::Kind;
use pillion_components::env::Clock;
use pillion_components::lock::{LockStore, NAME_BYTES_MAX, Unlock};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// Opens the store again over what it has kept. The one before was dropped.
pub(crate) type Reopen = Box<dyn Fn() -> Reopened + Send + Sync>;

/// What [`Reopen`] gives.
pub(crate) type Reopened = Pin<Box<dyn Future<Output = Arc<dyn LockStore>> + Send>>;

/// A store under test, without locks, with room for [`LOCKS_MAX`].
pub(crate) struct Subject {
    pub(crate) store: Arc<dyn LockStore>,
    /// The store's time.
    pub(crate) clock: Clock,
    pub(crate) reopen: Option<Reopen>,
    /// Kept while the test runs.
    pub(crate) holds: Box<dyn std::any::Any + Send + Sync>,
}

/// `locksMax` of every subject.
pub(crate) const LOCKS_MAX: usize = 20;

const MINUTE: Duration = Duration::from_secs(60);

pub(crate) async fn one_owner_at_a_time_has_a_lock(subject: Subject) {
    let store = &subject.store;
    assert!(store.try_lock("r", "one", MINUTE).await.unwrap());
    assert!(!store.try_lock("r", "two", MINUTE).await.unwrap());
    assert!(!store.try_lock("r", "one", MINUTE).await.unwrap(), "nor twice by its owner");
    assert!(store.try_lock("other", "two", MINUTE).await.unwrap());
    assert_eq!(store.unlock("r", "two").await.unwrap(), Unlock::Foreign);
    assert_eq!(store.unlock("r", "one").await.unwrap(), Unlock::Done);
    assert_eq!(store.unlock("r", "one").await.unwrap(), Unlock::Missing);
    assert!(store.try_lock("r", "two", MINUTE).await.unwrap());
    assert_eq!(store.unlock("r", "one").await.unwrap(), Unlock::Foreign);
}

pub(crate) async fn a_lock_ends_with_its_time(subject: Subject) {
    let store = &subject.store;
    assert!(store.try_lock("r", "one", MINUTE).await.unwrap());
    subject.clock.advance_ms(59_999);
    assert!(!store.try_lock("r", "two", MINUTE).await.unwrap());
    subject.clock.advance_ms(1);
    assert_eq!(store.unlock("r", "one").await.unwrap(), Unlock::Missing);
    assert!(store.try_lock("r", "two", MINUTE).await.unwrap());
    assert_eq!(store.unlock("r", "one").await.unwrap(), Unlock::Foreign);
    // Trying does not prolong.
    assert!(!store.try_lock("r", "two", 10 * MINUTE).await.unwrap());
    subject.clock.advance_ms(60_000);
    assert!(store.try_lock("r", "three", MINUTE).await.unwrap());
}

pub(crate) async fn of_many_at_once_one_gets_it(subject: Subject) {
    for round in 0..20 {
        let mut tries = JoinSet::new();
        for owner in 0..16 {
            let store = subject.store.clone();
            let resource = format!("r{}", round % 3);
            tries.spawn(async move {
                let owner = format!("owner {owner}");
                let got = store.try_lock(&resource, &owner, MINUTE).await.unwrap();
                got.then_some((resource, owner))
            });
        }
        let holders: Vec<_> = tries.join_all().await.into_iter().flatten().collect();
        let [(resource, owner)] = holders.as_slice() else { panic!("{round}: {holders:?}") };
        // It is given back once, however often at a time.
        let mut unlocks = JoinSet::new();
        for _ in 0..4 {
            let (store, resource, owner) = (subject.store.clone(), resource.clone(), owner.clone());
            unlocks.spawn(async move { store.unlock(&resource, &owner).await.unwrap() });
        }
        let answers = unlocks.join_all().await;
        let done = answers.iter().filter(|answer| **answer == Unlock::Done).count();
        assert_eq!(done, 1, "{answers:?}");
    }
}

pub(crate) async fn a_restart_keeps_locks_and_their_time(subject: Subject) {
    let Some(reopen) = &subject.reopen else { return };
    let store = subject.store;
    assert!(store.try_lock("short", "one", MINUTE).await.unwrap());
    assert!(store.try_lock("long", "one", 10 * MINUTE).await.unwrap());
    assert!(store.try_lock("gone", "one", MINUTE).await.unwrap());
    store.unlock("gone", "one").await.unwrap();
    subject.clock.advance_ms(30_000);
    drop(store);
    let store = reopen().await;
    assert!(!store.try_lock("short", "two", MINUTE).await.unwrap());
    assert!(store.try_lock("gone", "two", MINUTE).await.unwrap());
    subject.clock.advance_ms(30_000);
    assert!(store.try_lock("short", "two", MINUTE).await.unwrap());
    assert_eq!(store.unlock("long", "two").await.unwrap(), Unlock::Foreign);
    assert_eq!(store.unlock("long", "one").await.unwrap(), Unlock::Done);
}

pub(crate) async fn locks_are_bounded(subject: Subject) {
    let store = &subject.store;
    let name = |number: usize| format!("r{number}");
    for number in 0..LOCKS_MAX {
        let expiry = if number < 5 { MINUTE } else { 10 * MINUTE };
        assert!(store.try_lock(&name(number), "one", expiry).await.unwrap());
    }
    let refused = store.try_lock("more", "one", MINUTE).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Overloaded);
    assert!(
        !store.try_lock("r1", "two", MINUTE).await.unwrap(),
        "what is held is told all the same"
    );
    assert_eq!(store.unlock("r6", "one").await.unwrap(), Unlock::Done);
    assert!(store.try_lock("more", "one", 10 * MINUTE).await.unwrap());
    assert!(store.try_lock("even more", "one", MINUTE).await.is_err());
    // Those whose time is over make room.
    subject.clock.advance_ms(60_000);
    for number in 0..5 {
        assert!(store.try_lock(&format!("new{number}"), "one", MINUTE).await.unwrap());
    }
    assert!(store.try_lock("even more", "one", MINUTE).await.is_err());
}

pub(crate) async fn names_are_bounded(subject: Subject) {
    let store = &subject.store;
    let (longest, longer) = ("x".repeat(NAME_BYTES_MAX), "x".repeat(NAME_BYTES_MAX + 1));
    assert!(store.try_lock(&longest, &longest, MINUTE).await.unwrap());
    assert_eq!(store.unlock(&longest, &longest).await.unwrap(), Unlock::Done);
    for (resource, owner) in [("", "o"), ("r", ""), (&longer, "o"), ("r", &longer)] {
        let refused = store.try_lock(resource, owner, MINUTE).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::TooLarge);
        assert!(store.unlock(resource, owner).await.is_err());
    }
}

/// One test per case for a provider.
macro_rules! conformance {
    ($provider:ident, $make:path) => {
        mod $provider {
            conformance!(@cases $make;
                one_owner_at_a_time_has_a_lock
                a_lock_ends_with_its_time
                of_many_at_once_one_gets_it
                a_restart_keeps_locks_and_their_time
                locks_are_bounded
                names_are_bounded
            );
        }
    };
    (@cases $make:path; $($case:ident)+) => {
        $(#[tokio::test]
        async fn $case() {
            $crate::suite::$case($make().await).await;
        })+
    };
}
