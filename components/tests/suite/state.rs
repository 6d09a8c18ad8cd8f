//! What every state store must do, as functions that take any of them.
//!
//! A test file of a store says `#[path = "suite/state.rs"] #[macro_use] mod suite;` and
//! `conformance!(name, crate::open);`, where `open` is an async function that makes a [`Subject`]
//! with an empty store. What a store does not offer by its features is skipped.

#![allow(dead_code, unused_macros, reason = "each test file uses a part")]
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "tests; a seed is shown on failure")]

use bytes::Bytes;
use pillion_components::env::{self, Clock};
use pillion_components::state::{
    Concurrency, Consistency, Delete, Feature, Operation, Set, StateStore,
};
use pillion_components::{Kind, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;

/// Opens the store again over what it has kept, where it keeps anything. The one before was
/// dropped.
pub(crate) type Reopen = Box<dyn Fn() -> Reopened + Send + Sync>;

/// What [`Reopen`] gives.
pub(crate) type Reopened = Pin<Box<dyn Future<Output = Arc<dyn StateStore>> + Send>>;

/// A store under test.
pub(crate) struct Subject {
    pub(crate) store: Arc<dyn StateStore>,
    /// The store's time, where a test can move it.
    pub(crate) clock: Option<Clock>,
    pub(crate) reopen: Option<Reopen>,
    /// Kept while the test runs: a directory, a server.
    pub(crate) holds: Box<dyn std::any::Any + Send + Sync>,
}

impl Subject {
    fn has(&self, feature: Feature) -> bool {
        self.store.features().contains(&feature)
    }

    async fn value(&self, key: &str) -> Option<String> {
        let item = self.store.get(key).await.expect("a read");
        item.map(|item| String::from_utf8(item.value.to_vec()).expect("text"))
    }

    async fn etag(&self, key: &str) -> String {
        self.store.get(key).await.expect("a read").expect("a value").etag.to_string()
    }
}

fn set(key: &str, value: &str) -> Set {
    Set { key: key.to_owned(), value: Bytes::from(value.to_owned()), ..Set::default() }
}

fn delete(key: &str) -> Delete {
    Delete { key: key.to_owned(), ..Delete::default() }
}

fn kind(result: Result<()>) -> Option<Kind> {
    result.err().map(|error| error.kind())
}

pub(crate) async fn a_value_is_read_as_it_was_written(subject: Subject) {
    let store = &subject.store;
    assert!(store.get("missing").await.unwrap().is_none());
    let large = "x".repeat(100_000);
    let rows =
        [("app||a", "1"), ("app||empty", ""), ("app||ü/ b", "\u{0}\u{1F600}"), ("l", &large)];
    for (key, value) in rows {
        store.set(set(key, value)).await.unwrap();
        assert_eq!(subject.value(key).await.as_deref(), Some(value), "{key}");
    }
    store.set(set("app||a", "2")).await.unwrap();
    assert_eq!(subject.value("app||a").await.as_deref(), Some("2"));
    assert!(subject.value("app||").await.is_none() && subject.value("app").await.is_none());
    let item = store.get("app||a").await.unwrap().unwrap();
    assert_eq!((item.expires_ms, item.content_type), (None, None));
    let typed = Set { content_type: Some("text/plain".to_owned()), ..set("typed", "x") };
    store.set(typed).await.unwrap();
    let item = store.get("typed").await.unwrap().unwrap();
    assert_eq!(item.content_type.as_deref(), Some("text/plain"));
}

pub(crate) async fn a_deleted_key_is_missing(subject: Subject) {
    let store = &subject.store;
    store.delete(delete("never there")).await.unwrap();
    store.set(set("k", "1")).await.unwrap();
    store.delete(delete("k")).await.unwrap();
    assert!(subject.value("k").await.is_none());
    store.delete(delete("k")).await.unwrap();
    store.set(set("k", "2")).await.unwrap();
    assert_eq!(subject.value("k").await.as_deref(), Some("2"));
}

pub(crate) async fn no_two_writes_share_an_etag(subject: Subject) {
    let mut seen = BTreeSet::new();
    for round in 0..20 {
        for key in ["a", "b"] {
            if round % 5 == 4 {
                subject.store.delete(delete(key)).await.unwrap();
            }
            subject.store.set(set(key, "same")).await.unwrap();
            assert!(seen.insert(subject.etag(key).await), "{round}");
            assert!(!seen.insert(subject.etag(key).await), "a read changes nothing");
        }
    }
}

pub(crate) async fn an_etag_guards_a_write(subject: Subject) {
    if !subject.has(Feature::Etag) {
        return;
    }
    let store = &subject.store;
    let with = |etag: &str, value: &str| Set { etag: Some(etag.to_owned()), ..set("k", value) };
    assert_eq!(kind(store.set(with("1", "x")).await), Some(Kind::Conflict));
    store.set(set("k", "1")).await.unwrap();
    let first = subject.etag("k").await;
    store.set(with(&first, "2")).await.unwrap();
    let second = subject.etag("k").await;
    let error = store.set(with(&first, "3")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    for part in ["key=k", &format!("current={second}"), &format!("expect={first}")] {
        assert!(error.message().contains(part), "{error}");
    }
    for odd in ["abc", "-1", " ", "99999999999999999999999"] {
        let refused = kind(store.set(with(odd, "4")).await);
        assert!(matches!(refused, Some(Kind::Conflict | Kind::InvalidEtag)), "{odd}: {refused:?}");
    }
    assert_eq!(subject.value("k").await.as_deref(), Some("2"));
    store.set(with("", "5")).await.unwrap();
    assert_eq!(subject.value("k").await.as_deref(), Some("5"));

    let guarded = |etag: &str| Delete { etag: Some(etag.to_owned()), ..delete("k") };
    assert_eq!(kind(store.delete(guarded(&second)).await), Some(Kind::Conflict));
    store.delete(guarded(&subject.etag("k").await)).await.unwrap();
    assert_eq!(kind(store.delete(guarded(&second)).await), Some(Kind::Conflict));
}

pub(crate) async fn of_two_first_writers_one_wins(subject: Subject) {
    if !subject.has(Feature::Etag) {
        return;
    }
    let first = |value: &str| Set { concurrency: Concurrency::FirstWrite, ..set("k", value) };
    let (left, right) =
        tokio::join!(subject.store.set(first("left")), subject.store.set(first("right")));
    assert_ne!(left.is_ok(), right.is_ok());
    assert_eq!(left.and(right).unwrap_err().kind(), Kind::Conflict);
    // With an ETag, the ETag decides.
    let etag = Some(subject.etag("k").await);
    subject.store.set(Set { etag, ..first("third") }).await.unwrap();
    assert_eq!(subject.value("k").await.as_deref(), Some("third"));
}

pub(crate) async fn of_two_writers_with_one_etag_one_wins(subject: Subject) {
    if !subject.has(Feature::Etag) {
        return;
    }
    subject.store.set(set("k", "0")).await.unwrap();
    let etag = Some(subject.etag("k").await);
    let with = |value: &str| Set { etag: etag.clone(), ..set("k", value) };
    let (left, right) =
        tokio::join!(subject.store.set(with("left")), subject.store.set(with("right")));
    assert_eq!((kind(left), kind(right)), (None, Some(Kind::Conflict)));
    assert_eq!(subject.value("k").await.as_deref(), Some("left"));
}

pub(crate) async fn a_value_ends_with_its_time(subject: Subject) {
    let (Some(clock), true) = (&subject.clock, subject.has(Feature::Ttl)) else { return };
    let store = &subject.store;
    let lives = |key: &str, ttl_ms| Set { ttl_ms, ..set(key, "1") };
    for key in ["short", "renewed", "kept", "zero"] {
        store.set(lives(key, Some(1_000))).await.unwrap();
    }
    store.set(lives("renewed", Some(5_000))).await.unwrap();
    store.set(lives("kept", None)).await.unwrap();
    store.set(lives("zero", Some(0))).await.unwrap();
    let item = store.get("short").await.unwrap().unwrap();
    assert_eq!(item.expires_ms, Some(clock.wall_ms() + 1_000));
    assert_eq!(store.get("zero").await.unwrap().unwrap().expires_ms, None);
    clock.advance_ms(999);
    assert_eq!(subject.value("short").await.as_deref(), Some("1"));
    clock.advance_ms(1);
    assert!(subject.value("short").await.is_none());
    for key in ["renewed", "kept", "zero"] {
        assert!(subject.value(key).await.is_some(), "{key}");
    }
    let keys = ["short", "kept"].map(str::to_owned);
    let items = store.bulk_get(&keys).await;
    assert!(items[0].as_ref().unwrap().is_none() && items[1].as_ref().unwrap().is_some());
    // What has expired is no value: its ETag is gone and a first write may come.
    let first = Set { concurrency: Concurrency::FirstWrite, ..set("short", "2") };
    store.set(first).await.unwrap();
    assert_eq!(subject.value("short").await.as_deref(), Some("2"));
}

pub(crate) async fn bulk_reads_keep_the_order_asked_for(subject: Subject) {
    let sets = (0..300).map(|n| set(&format!("k{n}"), &n.to_string())).collect();
    subject.store.bulk_set(sets).await.unwrap();
    let keys = (0..301).rev().map(|n| format!("k{n}")).collect::<Vec<_>>();
    let items = subject.store.bulk_get(&keys).await;
    assert_eq!(items.len(), 301);
    assert!(items[0].as_ref().unwrap().is_none());
    for (item, n) in items[1..].iter().zip((0..300).rev()) {
        assert_eq!(item.as_ref().unwrap().as_ref().unwrap().value, n.to_string());
    }
    assert!(subject.store.bulk_get(&[]).await.is_empty());
    subject.store.bulk_set(Vec::new()).await.unwrap();
}

pub(crate) async fn a_bulk_write_says_what_was_refused(subject: Subject) {
    if !subject.has(Feature::Etag) {
        return;
    }
    subject.store.set(set("b", "old")).await.unwrap();
    let bad = Set { etag: Some("424242".to_owned()), ..set("b", "new") };
    let result = subject.store.bulk_set(vec![set("a", "1"), bad]).await;
    assert_eq!(kind(result), Some(Kind::Conflict));
    assert_eq!(subject.value("a").await.as_deref(), Some("1"));
    assert_eq!(subject.value("b").await.as_deref(), Some("old"));
}

pub(crate) async fn a_transaction_is_all_or_nothing(subject: Subject) {
    if !subject.has(Feature::Transactional) {
        let refused = kind(subject.store.transact(vec![Operation::Set(set("k", "1"))]).await);
        assert_eq!(refused, Some(Kind::Unsupported));
        return;
    }
    let store = &subject.store;
    store.transact(Vec::new()).await.unwrap();
    store.set(set("gone", "1")).await.unwrap();
    store
        .transact(vec![
            Operation::Set(set("a", "1")),
            Operation::Delete(delete("gone")),
            Operation::Set(set("twice", "1")),
            Operation::Delete(delete("twice")),
            Operation::Set(set("twice", "3")),
        ])
        .await
        .unwrap();
    assert_eq!(subject.value("a").await.as_deref(), Some("1"));
    assert!(subject.value("gone").await.is_none());
    assert_eq!(subject.value("twice").await.as_deref(), Some("3"));

    let wrong = |etag: &str| Set { etag: Some(etag.to_owned()), ..set("twice", "4") };
    for (etag, concurrency) in [("313131", Concurrency::LastWrite), ("", Concurrency::FirstWrite)] {
        let refused = Set { concurrency, ..wrong(etag) };
        let operations = vec![
            Operation::Set(set("a", "2")),
            Operation::Set(set("new", "2")),
            Operation::Delete(delete("a")),
            Operation::Set(refused),
        ];
        let error = store.transact(operations).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Conflict);
        assert!(etag.is_empty() || error.message().contains("key=twice"), "{error}");
        assert_eq!(subject.value("a").await.as_deref(), Some("1"));
        assert!(subject.value("new").await.is_none());
        assert_eq!(subject.value("twice").await.as_deref(), Some("3"));
    }
    let right = Set { etag: Some(subject.etag("twice").await), ..set("twice", "5") };
    store.transact(vec![Operation::Set(right)]).await.unwrap();
    assert_eq!(subject.value("twice").await.as_deref(), Some("5"));
}

pub(crate) async fn what_was_answered_is_there_after_a_restart(subject: Subject) {
    let Some(reopen) = &subject.reopen else { return };
    subject.store.set(set("a", "1")).await.unwrap();
    subject.store.set(set("b", "1")).await.unwrap();
    subject.store.delete(delete("b")).await.unwrap();
    let etag = subject.etag("a").await;
    drop(subject.store);
    let again = reopen().await;
    let item = again.get("a").await.unwrap().unwrap();
    assert_eq!((&*item.value, &*item.etag), (b"1".as_slice(), &*etag));
    assert!(again.get("b").await.unwrap().is_none());
    again.set(Set { etag: Some(etag), ..set("a", "2") }).await.unwrap();
}

/// Random writes, deletes, transactions and time, held against a map.
pub(crate) async fn a_store_is_a_map(subject: Subject) {
    let mut seed = env::random_u64();
    println!("seed {seed}");
    let mut pick = move |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % below
    };
    let mut map = BTreeMap::<String, String>::new();
    for step in 0..1_000 {
        let key = format!("app||{}", pick(12));
        let value = step.to_string();
        let consistency =
            [Consistency::Default, Consistency::Strong, Consistency::Eventual][pick(3)];
        match pick(5) {
            0..2 => {
                subject.store.set(Set { consistency, ..set(&key, &value) }).await.unwrap();
                map.insert(key, value);
            }
            2 => {
                subject.store.delete(Delete { consistency, ..delete(&key) }).await.unwrap();
                map.remove(&key);
            }
            3 if subject.has(Feature::Etag) => {
                let guarded = match subject.store.get(&key).await.unwrap() {
                    Some(item) => Set { etag: Some(item.etag.to_string()), ..set(&key, &value) },
                    None => Set { concurrency: Concurrency::FirstWrite, ..set(&key, &value) },
                };
                subject.store.set(Set { consistency, ..guarded }).await.unwrap();
                map.insert(key, value);
            }
            _ if subject.has(Feature::Transactional) => {
                let other = format!("app||{}", pick(12));
                let operations =
                    vec![Operation::Set(set(&key, &value)), Operation::Delete(delete(&other))];
                subject.store.transact(operations).await.unwrap();
                map.insert(key, value);
                map.remove(&other);
            }
            _ => {}
        }
        let key = format!("app||{}", pick(12));
        assert_eq!(subject.value(&key).await, map.get(&key).cloned(), "step {step}");
    }
}

/// One test per case for a provider.
macro_rules! conformance {
    ($provider:ident, $make:path) => {
        mod $provider {
            conformance!(@cases $make;
                a_value_is_read_as_it_was_written
                a_deleted_key_is_missing
                no_two_writes_share_an_etag
                an_etag_guards_a_write
                of_two_first_writers_one_wins
                of_two_writers_with_one_etag_one_wins
                a_value_ends_with_its_time
                bulk_reads_keep_the_order_asked_for
                a_bulk_write_says_what_was_refused
                a_transaction_is_all_or_nothing
                what_was_answered_is_there_after_a_restart
                a_store_is_a_map
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
