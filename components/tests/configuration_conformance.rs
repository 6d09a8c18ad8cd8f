//! The configuration suite over every row of the catalogue that needs nothing from outside.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "suite/home.rs"]
mod home;
#[path = "suite/configuration.rs"]
#[macro_use]
mod suite;

use home::Home;
use pillion_components::Kind;
use pillion_components::configuration::{
    CATALOGUE, ConfigurationStore, Source, Write, Written, embedded, in_memory,
};
use pillion_components::options::Options;
use std::sync::Arc;
use suite::{BYTES_MAX, Subject};

fn options(pairs: &[(&str, &str)]) -> Options {
    pairs.iter().copied().collect()
}

async fn embedded_in(home: Home) -> Subject {
    let context = home.context("cfg");
    let store = embedded::open(&options(&[("bytesMax", BYTES_MAX)]), &context).await.unwrap();
    let again = home.clone();
    let reopen = move || {
        let (home, context) = (again.clone(), context.clone());
        let reopened = async move {
            home.restart().await;
            embedded::open(&options(&[("bytesMax", BYTES_MAX)]), &context).await.unwrap()
        };
        Box::pin(reopened) as suite::Reopened
    };
    Subject { store, reopen: Some(Box::new(reopen)), holds: Box::new(home) }
}

async fn over_memory() -> Subject {
    embedded_in(Home::memory()).await
}

async fn on_disk() -> Subject {
    embedded_in(Home::disk()).await
}

async fn without_storage() -> Subject {
    let context = home::context_without_storage("cfg");
    let store = in_memory::open(&options(&[("bytesMax", BYTES_MAX)]), &context).await.unwrap();
    Subject { store, reopen: None, holds: Box::new(()) }
}

conformance!(embedded_over_memory, crate::over_memory);
conformance!(embedded_on_disk, crate::on_disk);
conformance!(in_memory_without_storage, crate::without_storage);

#[test]
fn every_row_is_under_test() {
    let names: Vec<_> = CATALOGUE.iter().map(|row| row.type_name).collect();
    assert_eq!(names, ["configuration.embedded", "configuration.in-memory"]);
}

#[tokio::test]
async fn storage_is_asked_for_only_where_something_is_stored() {
    let context = home::context_without_storage("cfg");
    let error = embedded::open(&Options::default(), &context).await.err().unwrap();
    assert_eq!(error.kind(), Kind::Unavailable);
    in_memory::open(&Options::default(), &context).await.unwrap();
}

/// A file that goes with the test.
struct File(std::path::PathBuf);

impl File {
    fn new() -> Self {
        let name = format!("pillion-items-{}.json", pillion_components::env::uuid());
        Self(std::env::temp_dir().join(name))
    }

    fn write(&self, text: &str) {
        std::fs::write(&self.0, text).unwrap();
    }

    fn options(&self) -> Options {
        options(&[("itemsFile", self.0.to_str().unwrap())])
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

async fn value(store: &Arc<dyn ConfigurationStore>, key: &str) -> Option<String> {
    store.get(&[key.to_owned()]).await.unwrap().remove(key).map(|item| item.value)
}

/// The file says what a store begins with; what has come since from elsewhere stays until the
/// file says something new.
#[tokio::test]
async fn a_file_is_taken_over_where_it_has_changed() {
    let (home, file) = (Home::disk(), File::new());
    let context = home.context("cfg");
    file.write(r#"{"a": "1", "b": {"value": "2", "version": "v7"}, "c": "3"}"#);
    let store = embedded::open(&file.options(), &context).await.unwrap();
    // At once: nobody waits for a disk to read what a file says.
    assert_eq!(value(&store, "a").await.as_deref(), Some("1"));
    let b = store.get(&["b".to_owned()]).await.unwrap().remove("b").unwrap();
    assert_eq!(b.version, "v7");

    let from_elsewhere = |key: &str, value: Option<&str>| Write {
        key: key.to_owned(),
        item: value.map(|value| Written { value: value.to_owned(), ..Written::default() }),
        mark: None,
    };
    store.write(from_elsewhere("a", Some("cloud"))).await.unwrap();
    store.write(from_elsewhere("c", None)).await.unwrap();
    drop(store);
    home.restart().await;
    let store = embedded::open(&file.options(), &context).await.unwrap();
    assert_eq!(value(&store, "a").await.as_deref(), Some("cloud"));
    assert_eq!(value(&store, "c").await, None);
    drop(store);

    file.write(r#"{"a": "1", "b": {"value": "2", "version": "v7"}, "c": "4"}"#);
    home.restart().await;
    let store = embedded::open(&file.options(), &context).await.unwrap();
    assert_eq!(value(&store, "a").await.as_deref(), Some("cloud"));
    assert_eq!(value(&store, "c").await.as_deref(), Some("4"));
    drop(store);

    // What is gone from the file goes, but not what others have changed.
    file.write("{}");
    home.restart().await;
    let store = embedded::open(&file.options(), &context).await.unwrap();
    let left: Vec<_> = store.get(&[]).await.unwrap().into_iter().collect();
    let [(key, item)] = left.as_slice() else { panic!("{left:?}") };
    assert_eq!((key.as_str(), item.value.as_str()), ("a", "cloud"));
    drop(store);
    file.write(r#"{"a": "1"}"#);
    home.restart().await;
    let store = embedded::open(&file.options(), &context).await.unwrap();
    assert_eq!(value(&store, "a").await.as_deref(), Some("1"), "it is new in the file");
}

/// A file larger than one batch, on a log with small segments.
#[tokio::test]
async fn a_large_file_is_taken_over_whole() {
    let (home, file) = (Home::disk(), File::new());
    let items: std::collections::BTreeMap<String, String> =
        (0..40).map(|number| (format!("k{number:02}"), "x".repeat(20_000))).collect();
    file.write(&serde_json::to_string(&items).unwrap());
    let store = embedded::open(&file.options(), &home.context("cfg")).await.unwrap();
    assert_eq!(store.get(&[]).await.unwrap().len(), 40);
    let too_small = options(&[("itemsFile", file.0.to_str().unwrap()), ("bytesMax", "100Ki")]);
    let error = embedded::open(&too_small, &home.context("other")).await.err().unwrap();
    assert_eq!(error.kind(), Kind::TooLarge);
    assert!(error.message().contains("itemsFile"), "{error}");
}

#[tokio::test]
async fn settings_are_checked() {
    let context = home::context_without_storage("cfg");
    let context = &context;
    let source = async |pairs: &[(&str, &str)]| {
        let store = in_memory::open(&options(pairs), context).await;
        store.map(|store| store.source().cloned())
    };
    assert_eq!(source(&[]).await.unwrap(), None);
    let expected = Source { pubsub: "p".to_owned(), topic: "config/site".to_owned() };
    let found = source(&[("pubsubName", "p"), ("topic", "config/site")]).await.unwrap();
    assert_eq!(found, Some(expected));
    for (pairs, named) in [
        (&[("pubsubName", "p")][..], "topic"),
        (&[("topic", "t")][..], "pubsubName"),
        (&[("pubsubName", "p"), ("topic", "t/#")][..], "topic"),
        (&[("pubsubName", "p"), ("topic", "t/")][..], "slash"),
        (&[("itemsFile", "/nowhere.json")][..], "itemsFile"),
        (&[("bytesMax", "much")][..], "bytesMax"),
    ] {
        let error = source(pairs).await.unwrap_err();
        assert!(error.message().contains(named), "{error}");
    }
}
