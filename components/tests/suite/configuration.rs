//! What every configuration store that can be written must do, as functions that take any of them.

#![allow(dead_code, unused_macros, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, reason = "tests")]

use pillion_components::Kind;
use pillion_components::configuration::{
    Change, Changes, ConfigurationStore, ITEM_BYTES_MAX, KEY_BYTES_MAX, PENDING_KEYS_MAX, Write,
    Written,
};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// Opens the store again over what it has kept. The one before was dropped.
pub(crate) type Reopen = Box<dyn Fn() -> Reopened + Send + Sync>;

/// What [`Reopen`] gives.
pub(crate) type Reopened = Pin<Box<dyn Future<Output = Arc<dyn ConfigurationStore>> + Send>>;

/// A store under test, empty, with room for [`BYTES_MAX`] bytes.
pub(crate) struct Subject {
    pub(crate) store: Arc<dyn ConfigurationStore>,
    pub(crate) reopen: Option<Reopen>,
    /// Kept while the test runs.
    pub(crate) holds: Box<dyn std::any::Any + Send + Sync>,
}

/// `bytesMax` of every subject.
pub(crate) const BYTES_MAX: &str = "256Ki";

fn written(value: &str) -> Option<Written> {
    Some(Written { value: value.to_owned(), ..Written::default() })
}

fn write(key: &str, item: Option<Written>) -> Write {
    Write { key: key.to_owned(), item, mark: None }
}

async fn set(store: &Arc<dyn ConfigurationStore>, key: &str, value: &str) -> bool {
    store.write(write(key, written(value))).await.unwrap()
}

async fn delete(store: &Arc<dyn ConfigurationStore>, key: &str) -> bool {
    store.write(write(key, None)).await.unwrap()
}

/// Keys and values of what a `get` found.
async fn values(store: &Arc<dyn ConfigurationStore>, keys: &[&str]) -> Vec<(String, String)> {
    let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
    let found = store.get(&keys).await.unwrap();
    found.into_iter().map(|(key, item)| (key, item.value)).collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

async fn next(changes: &mut Box<dyn Changes>) -> (String, Option<String>) {
    let next = tokio::time::timeout(Duration::from_secs(10), changes.next());
    let Change { key, item } = next.await.expect("a change in time").unwrap();
    (key, item.map(|item| item.value))
}

/// Whether nothing is told now: a change is there as soon as its write has answered. One that is
/// there is gone then.
async fn is_quiet(changes: &mut Box<dyn Changes>) -> bool {
    use std::task::Poll;
    let mut next = changes.next();
    std::future::poll_fn(|cx| Poll::Ready(next.as_mut().poll(cx).is_pending())).await
}

fn change(key: &str, value: Option<&str>) -> (String, Option<String>) {
    (key.to_owned(), value.map(str::to_owned))
}

pub(crate) async fn items_are_read_by_key_or_all(subject: Subject) {
    let store = &subject.store;
    assert_eq!(values(store, &[]).await, pairs(&[]));
    for (key, value) in [("b", "2"), ("a", "1"), ("ü/ x", "")] {
        assert!(set(store, key, value).await);
    }
    assert_eq!(values(store, &[]).await, pairs(&[("a", "1"), ("b", "2"), ("ü/ x", "")]));
    let some = &["b", "missing", "", "b"];
    assert_eq!(values(store, some).await, pairs(&[("b", "2")]));
    assert_eq!(values(store, &["missing"]).await, pairs(&[]));
    assert!(delete(store, "b").await && !delete(store, "b").await);
    assert_eq!(values(store, &["b"]).await, pairs(&[]));
}

pub(crate) async fn all_of_many_are_read(subject: Subject) {
    let keys: Vec<String> = (0..300).map(|number| format!("k{number:03}")).collect();
    for key in &keys {
        assert!(set(&subject.store, key, key).await);
    }
    let found: Vec<String> = subject.store.get(&[]).await.unwrap().into_keys().collect();
    assert_eq!(found, keys);
}

pub(crate) async fn versions_grow_unless_they_are_given(subject: Subject) {
    let Subject { mut store, reopen, holds: _holds } = subject;
    let mut last = 0_u64;
    for round in 0..6 {
        if round == 3
            && let Some(reopen) = &reopen
        {
            drop(store);
            store = reopen().await;
        }
        for key in ["a", "b"] {
            assert!(set(&store, key, &round.to_string()).await);
            let item = store.get(&[key.to_owned()]).await.unwrap().remove(key).unwrap();
            let version: u64 = item.version.parse().unwrap();
            assert!(version > last, "{version} after {last}");
            last = version;
        }
    }
    let metadata = BTreeMap::from([("unit".to_owned(), "K".to_owned())]);
    for version in ["v1", ""] {
        let item = Written {
            value: "x".to_owned(),
            version: Some(version.to_owned()),
            metadata: metadata.clone(),
        };
        assert!(store.write(write("a", Some(item))).await.unwrap());
        let item = store.get(&["a".to_owned()]).await.unwrap().remove("a").unwrap();
        assert_eq!((item.version.as_str(), &item.metadata), (version, &metadata));
    }
}

pub(crate) async fn changes_are_told_in_order(subject: Subject) {
    let store = &subject.store;
    set(store, "before", "1").await;
    let mut all = store.subscribe(&[]).await.unwrap();
    let mut some = store.subscribe(&["b".to_owned(), "c".to_owned()]).await.unwrap();
    for (key, value) in [("a", "1"), ("b", "2"), ("c", "3")] {
        set(store, key, value).await;
    }
    for (key, value) in [("a", "1"), ("b", "2"), ("c", "3")] {
        assert_eq!(next(&mut all).await, change(key, Some(value)));
    }
    for (key, value) in [("b", "2"), ("c", "3")] {
        assert_eq!(next(&mut some).await, change(key, Some(value)));
    }
    delete(store, "c").await;
    assert_eq!(next(&mut all).await, change("c", None));
    assert_eq!(next(&mut some).await, change("c", None));
    delete(store, "a").await;
    assert!(is_quiet(&mut some).await);
    drop(some);
    set(store, "b", "4").await;
    assert_eq!(next(&mut all).await, change("a", None));
    assert_eq!(next(&mut all).await, change("b", Some("4")));
    assert!(is_quiet(&mut all).await);
}

pub(crate) async fn a_change_wakes_one_who_waits(subject: Subject) {
    let store = subject.store.clone();
    let mut changes = store.subscribe(&[]).await.unwrap();
    let waiting = tokio::spawn(async move { next(&mut changes).await });
    tokio::task::yield_now().await;
    set(&store, "k", "1").await;
    assert_eq!(waiting.await.unwrap(), change("k", Some("1")));
}

pub(crate) async fn changes_not_taken_are_one_and_the_last_counts(subject: Subject) {
    let store = &subject.store;
    let mut changes = store.subscribe(&[]).await.unwrap();
    for round in 0..100 {
        set(store, "a", &round.to_string()).await;
        set(store, "b", &round.to_string()).await;
    }
    assert_eq!(next(&mut changes).await, change("a", Some("99")));
    set(store, "a", "100").await;
    assert_eq!(next(&mut changes).await, change("b", Some("99")));
    assert_eq!(next(&mut changes).await, change("a", Some("100")));
    assert!(is_quiet(&mut changes).await);
}

/// A subscriber that was away while everything changed ends at what there is.
pub(crate) async fn however_much_changes_the_last_values_are_told(subject: Subject) {
    let store = &subject.store;
    let keys: Vec<String> = (0..PENDING_KEYS_MAX + 200).map(|n| format!("k{n:04}")).collect();
    let mut all = store.subscribe(&[]).await.unwrap();
    let mut one = store.subscribe(&keys[1..2]).await.unwrap();
    for key in &keys {
        set(store, key, "1").await;
    }
    set(store, &keys[0], "2").await;
    let expected: BTreeMap<String, String> = keys
        .iter()
        .map(|key| {
            let value = match key {
                key if *key == keys[0] => "2",
                key if *key == keys[1] => "3",
                _ => "1",
            };
            (key.clone(), value.to_owned())
        })
        .collect();
    let mut told = BTreeMap::new();
    while told != expected {
        let (key, value) = next(&mut all).await;
        told.insert(key, value.unwrap());
        if told.len() == keys.len() / 2 {
            set(store, &keys[1], "3").await;
        }
    }
    assert_eq!(next(&mut one).await, change(&keys[1], Some("3")));
    assert!(is_quiet(&mut one).await);
}

pub(crate) async fn what_is_there_already_is_no_change(subject: Subject) {
    let store = &subject.store;
    let item = |version: Option<&str>, unit: &str| {
        Some(Written {
            value: "x".to_owned(),
            version: version.map(str::to_owned),
            metadata: BTreeMap::from([("unit".to_owned(), unit.to_owned())]),
        })
    };
    assert!(store.write(write("k", item(None, "K"))).await.unwrap());
    let before = store.get(&[]).await.unwrap();
    let mut changes = store.subscribe(&[]).await.unwrap();
    assert!(!store.write(write("k", item(None, "K"))).await.unwrap());
    assert!(!delete(store, "missing").await);
    assert!(is_quiet(&mut changes).await);
    assert_eq!(store.get(&[]).await.unwrap(), before);
    for other in [item(None, "C"), item(Some("v1"), "C"), item(Some("v2"), "C")] {
        assert!(store.write(write("k", other)).await.unwrap());
    }
}

pub(crate) async fn a_mark_is_kept_with_its_write(subject: Subject) {
    let Subject { mut store, reopen, holds: _holds } = subject;
    assert_eq!(store.mark().await.unwrap(), None);
    let marked = |key: &str, value: &str, mark: &str| Write {
        mark: Some(mark.to_owned()),
        ..write(key, written(value))
    };
    store.write(marked("a", "1", "m-1")).await.unwrap();
    assert_eq!(store.mark().await.unwrap().as_deref(), Some("m-1"));
    set(&store, "a", "2").await;
    assert_eq!(store.mark().await.unwrap().as_deref(), Some("m-1"));
    let refused = marked("k".repeat(KEY_BYTES_MAX + 1).as_str(), "1", "m-2");
    assert!(store.write(refused).await.is_err());
    assert_eq!(store.mark().await.unwrap().as_deref(), Some("m-1"));
    store.write(Write { item: None, ..marked("a", "", "m-3") }).await.unwrap();
    if let Some(reopen) = &reopen {
        drop(store);
        store = reopen().await;
    }
    assert_eq!(store.mark().await.unwrap().as_deref(), Some("m-3"));
    assert_eq!(values(&store, &[]).await, pairs(&[]));
}

pub(crate) async fn items_are_kept_across_a_restart(subject: Subject) {
    let Some(reopen) = &subject.reopen else { return };
    let store = subject.store;
    let mut changes = store.subscribe(&[]).await.unwrap();
    for key in ["a", "b", "c"] {
        set(&store, key, key).await;
        next(&mut changes).await;
    }
    delete(&store, "b").await;
    let before = store.get(&[]).await.unwrap();
    drop((store, changes));
    let store = reopen().await;
    assert_eq!(store.get(&[]).await.unwrap(), before);
    let mut changes = store.subscribe(&[]).await.unwrap();
    assert!(is_quiet(&mut changes).await, "what was there before is not told");
}

pub(crate) async fn bounds_are_kept(subject: Subject) {
    let store = &subject.store;
    let kind = |result: pillion_components::Result<bool>| result.unwrap_err().kind();
    for key in ["", &"k".repeat(KEY_BYTES_MAX + 1)] {
        assert_eq!(kind(store.write(write(key, written("x"))).await), Kind::Invalid);
        assert_eq!(values(store, &[key, "x"]).await, pairs(&[]));
    }
    let longest = "k".repeat(KEY_BYTES_MAX);
    assert!(set(store, &longest, "x").await);
    let large = "x".repeat(ITEM_BYTES_MAX);
    assert_eq!(kind(store.write(write("large", written(&large))).await), Kind::TooLarge);
    // 256 KiB hold four items of nearly 64 KiB, not five; what shrinks and goes always fits.
    let large = "x".repeat(ITEM_BYTES_MAX - 1024);
    for number in 0..4 {
        assert!(set(store, &format!("large{number}"), &large).await);
    }
    assert_eq!(kind(store.write(write("large4", written(&large))).await), Kind::TooLarge);
    assert!(set(store, "large0", "small").await);
    assert!(set(store, "large4", &large).await);
    assert_eq!(kind(store.write(write("large0", written(&large))).await), Kind::TooLarge);
    assert!(delete(store, "large4").await);
    assert!(set(store, "large0", &large).await);
    // Small ones cost something as well.
    let mut small = 0;
    while store.write(write(&format!("s{small}"), written(""))).await.is_ok() {
        small += 1;
        assert!(small < 1024, "no end of small items");
    }
}

/// One test per case for a provider.
macro_rules! conformance {
    ($provider:ident, $make:path) => {
        mod $provider {
            conformance!(@cases $make;
                items_are_read_by_key_or_all
                all_of_many_are_read
                versions_grow_unless_they_are_given
                changes_are_told_in_order
                a_change_wakes_one_who_waits
                changes_not_taken_are_one_and_the_last_counts
                however_much_changes_the_last_values_are_told
                what_is_there_already_is_no_change
                a_mark_is_kept_with_its_write
                items_are_kept_across_a_restart
                bounds_are_kept
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
