//! Messages become items, once and in order, whatever is repeated.

#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::drain;
use async_trait::async_trait;
use bytes::Bytes;
use pillion_components::configuration::{self, Changes, Item};
use pillion_components::context::Context;
use pillion_components::env::Clock;
use pillion_components::options::Options;
use pillion_components::pubsub::{self, Assurance};
use std::collections::BTreeMap;
use std::sync::Mutex;

fn context(name: &str) -> Context {
    let none = || Err(Error::new(Kind::Unavailable, "no storage in this test"));
    Context {
        name: name.to_owned(),
        app_id: "app".to_owned(),
        clock: Clock::manual(1_700_000_000_000),
        storage: Arc::new(none),
    }
}

async fn store() -> Arc<dyn ConfigurationStore> {
    configuration::in_memory::open(&Options::default(), &context("cfg")).await.unwrap()
}

fn broker() -> Arc<dyn PubSub> {
    pubsub::in_memory::open(&Options::default(), &context("pubsub")).unwrap()
}

fn feed(store: &Arc<dyn ConfigurationStore>, pubsub: &Arc<dyn PubSub>) -> Feed {
    let source = Source { pubsub: "pubsub".to_owned(), topic: "config/site".to_owned() };
    Feed::new("cfg".into(), store.clone(), source, pubsub.clone()).unwrap()
}

fn message(key: &str, payload: &str) -> Message {
    Message {
        topic: format!("config/site/{key}").into(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        ..Message::default()
    }
}

/// Waits for a value; the test's time ends if it does not come.
async fn becomes(store: &Arc<dyn ConfigurationStore>, key: &str, value: Option<&str>) -> Item {
    let wait = async {
        loop {
            let found = store.get(&[key.to_owned()]).await.unwrap().remove(key);
            if found.as_ref().map(|item| item.value.as_str()) == value {
                return found.unwrap_or_default();
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.expect("the value in time")
}

#[tokio::test]
async fn messages_of_the_topic_become_items() {
    let (store, pubsub) = (store().await, broker());
    let kept = Message { retain: true, ..message("kept", "from before") };
    pubsub.publish(kept).await.unwrap();
    let (end, drain) = drain::channel();
    let running = tokio::spawn(feed(&store, &pubsub).run(drain));
    becomes(&store, "kept", Some("from before")).await;

    pubsub.publish(message("a/b", "1")).await.unwrap();
    let first = becomes(&store, "a/b", Some("1")).await;
    pubsub.publish(message("a/b", "2")).await.unwrap();
    let second = becomes(&store, "a/b", Some("2")).await;
    let number = |item: &Item| item.version.parse::<u64>().unwrap();
    assert!(number(&second) > number(&first), "{first:?} {second:?}");

    let metadata = [("version", "v7"), ("unit", "K"), ("rawPayload", "true"), ("ce_id", "1")];
    let metadata = metadata.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let told = Message { metadata: metadata.into(), ..message("told", "300") };
    pubsub.publish(told).await.unwrap();
    let item = becomes(&store, "told", Some("300")).await;
    assert_eq!(item.version, "v7");
    assert_eq!(item.metadata, BTreeMap::from([("unit".to_owned(), "K".to_owned())]));

    // What is no item is passed over, and what comes after it is taken.
    let bad = Message { payload: Bytes::from_static(b"\xff"), ..message("bad", "") };
    pubsub.publish(bad).await.unwrap();
    pubsub.publish(Message { topic: "config/site".into(), ..message("", "x") }).await.unwrap();
    let large = "x".repeat(configuration::ITEM_BYTES_MAX);
    pubsub.publish(message("large", &large)).await.unwrap();
    pubsub.publish(message("a/b", "")).await.unwrap();
    becomes(&store, "a/b", None).await;
    let quick = Message { assurance: Assurance::AtMostOnce, ..message("quick", "1") };
    pubsub.publish(quick).await.unwrap();
    becomes(&store, "quick", Some("1")).await;
    let all: Vec<_> = store.get(&[]).await.unwrap().into_keys().collect();
    assert_eq!(all, ["kept", "quick", "told"]);

    assert!(end.drained(Duration::from_secs(10)).await);
    running.await.unwrap();

    // It keeps its place while nobody runs it.
    pubsub.publish(message("later", "1")).await.unwrap();
    let (_end, drain) = drain::channel();
    let running = tokio::spawn(feed(&store, &pubsub).run(drain));
    becomes(&store, "later", Some("1")).await;
    running.abort();
}

/// A store whose writes fail a few times.
struct Failing {
    inner: Arc<dyn ConfigurationStore>,
    failures: Mutex<u32>,
}

#[async_trait]
impl ConfigurationStore for Failing {
    async fn get(&self, keys: &[String]) -> Result<BTreeMap<String, Item>> {
        self.inner.get(keys).await
    }

    async fn subscribe(&self, keys: &[String]) -> Result<Box<dyn Changes>> {
        self.inner.subscribe(keys).await
    }

    async fn write(&self, write: Write) -> Result<bool> {
        {
            let mut failures = self.failures.lock().unwrap();
            if *failures > 0 {
                *failures -= 1;
                return Err(Error::new(Kind::Full, "no room now"));
            }
        }
        self.inner.write(write).await
    }

    async fn mark(&self) -> Result<Option<String>> {
        self.inner.mark().await
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_cannot_be_written_now_is_written_later_and_in_order() {
    let failing = Failing { inner: store().await, failures: Mutex::new(3) };
    let (store, pubsub): (Arc<dyn ConfigurationStore>, _) = (Arc::new(failing), broker());
    let mut changes = store.subscribe(&[]).await.unwrap();
    let (_end, drain) = drain::channel();
    let running = tokio::spawn(feed(&store, &pubsub).run(drain));
    // Not stored before somebody wants it.
    while pubsub.queues().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for (key, value) in [("a", "1"), ("b", "2"), ("c", "3")] {
        pubsub.publish(message(key, value)).await.unwrap();
    }
    for key in ["a", "b", "c"] {
        assert_eq!(changes.next().await.unwrap().key, key);
    }
    running.abort();
}

/// After a crash the last messages come again: they are known by their names.
#[tokio::test]
async fn an_old_message_that_comes_again_does_not_undo_a_later_one() {
    let (store, pubsub) = (store().await, broker());
    let feed = feed(&store, &pubsub);
    let delivery = |number: u64, value: &str| Delivery {
        token: number,
        id: format!("pubsub-1a2b-{number}").into(),
        published_ms: 0,
        again: false,
        message: Arc::new(message("k", value)),
    };
    let mut mark = store.mark().await.unwrap().unwrap_or_default();
    for (number, value) in [(9, "old"), (10, "new")] {
        feed.take(&delivery(number, value), &mut mark).await.unwrap();
    }
    // As it begins after a restart.
    let mut mark = store.mark().await.unwrap().unwrap();
    assert_eq!(mark, "pubsub-1a2b-10");
    let mut changes = store.subscribe(&[]).await.unwrap();
    for (number, value) in [(9, "old"), (10, "new"), (11, "newer")] {
        let outcome = feed.try_take(&delivery(number, value), &mut mark).await.unwrap();
        let expected = if number == 11 { Outcome::Written } else { Outcome::Again };
        assert_eq!(outcome, expected);
    }
    let change = changes.next().await.unwrap();
    assert_eq!(change.item.unwrap().value, "newer");
    // Another data directory counts from one again, under another name.
    let other = Delivery { id: "pubsub-ffff-1".into(), ..delivery(1, "moved") };
    assert_eq!(feed.try_take(&other, &mut mark).await.unwrap(), Outcome::Written);
    assert_eq!(feed.try_take(&delivery(0, "moved"), &mut mark).await.unwrap(), Outcome::Unchanged);
}

#[test]
fn an_event_stands_for_its_data() {
    let event = |data: &str| {
        format!(r#"{{"specversion":"1.0","id":"1","source":"s","type":"t","x":1{data}}}"#)
    };
    for (payload, expected) in [
        ("plain".to_owned(), Some("plain")),
        (r#"{"specversion":"1.0"}"#.to_owned(), Some(r#"{"specversion":"1.0"}"#)),
        ("[1]".to_owned(), Some("[1]")),
        (event(r#","data":"text \u00e9""#), Some("text é")),
        (event(r#","data":{"n":2.50}"#), Some(r#"{"n":2.50}"#)),
        (event(r#","data":12345678901234567890"#), Some("12345678901234567890")),
        (event(r#","data":null"#), None),
        (event(r#","data":"""#), None),
        (event(""), None),
        (event(r#","data_base64":"b24=""#), Some("on")),
        (String::new(), None),
    ] {
        assert_eq!(value(payload.as_bytes()).unwrap().as_deref(), expected, "{payload}");
    }
    assert!(value(event(r#","data_base64":"?""#).as_bytes()).is_err());
    assert!(value(event(r#","data_base64":"/w==""#).as_bytes()).is_err());
}

#[test]
fn names_of_one_series_are_in_order() {
    for (id, mark, expected) in [
        ("p-x-5", "p-x-5", true),
        ("p-x-4", "p-x-5", true),
        ("p-x-6", "p-x-5", false),
        ("p-x-10", "p-x-9", false),
        ("p-y-1", "p-x-5", false),
        ("", "", false),
        ("abc", "abc", false),
        ("p-x-5", "", false),
    ] {
        assert_eq!(is_taken(id, mark), expected, "{id} {mark}");
    }
}
