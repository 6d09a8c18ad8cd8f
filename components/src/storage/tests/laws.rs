//! The laws, each a function that takes any storage.

use super::*;

fn value(storage: &Storage, table: Table, key: &str) -> Option<Vec<u8>> {
    storage.get(table, key.as_bytes()).expect("get works").map(|entry| entry.value.to_vec())
}

async fn positions(storage: &Storage, stream: Stream, after: u64, filter: &str) -> Vec<u64> {
    let filters = [Filter::new(filter).expect("a filter")];
    let (records, upto) =
        storage.read(stream, after, &filters, 1000, 1 << 20).await.expect("read works");
    assert_eq!(upto, storage.last_position(stream));
    records.iter().map(|record| record.position).collect()
}

pub(in super::super) async fn a_value_is_read_back(storage: Storage, _clock: Clock) {
    let table = storage.table("a").expect("a table");
    let other = storage.table("b").expect("a table");
    assert_eq!(table, storage.table("a").expect("the same"));
    assert_eq!(value(&storage, table, "k"), None);
    let first = put(&storage, table, "k", b"one").await.expect("put");
    let second = put(&storage, table, "k", b"two").await.expect("put");
    assert!(second > first);
    let entry = storage.get(table, b"k").expect("get").expect("a value");
    assert_eq!((entry.etag, &*entry.value), (second, &b"two"[..]));
    assert_eq!(value(&storage, other, "k"), None);
    let large = vec![7; 30_000];
    put(&storage, table, "large", &large).await.expect("put");
    assert_eq!(value(&storage, table, "large"), Some(large));
    put(&storage, table, "", b"").await.expect("put");
    assert_eq!(value(&storage, table, ""), Some(Vec::new()));
    apply(&storage, |batch| batch.delete(table, b"k", Expect::Any)).await.expect("delete");
    apply(&storage, |batch| batch.delete(table, b"k", Expect::Any)).await.expect("again");
    assert_eq!(value(&storage, table, "k"), None);
    let long = vec![b'x'; KEY_BYTES_MAX + 1];
    let mut batch = Batch::new();
    batch.put(table, &long, Put::default(), Expect::Any);
    let refused = storage.commit(batch, Durability::Durable).expect_err("too long");
    assert_eq!(refused.kind(), Kind::TooLarge);
}

pub(in super::super) async fn conditions_see_what_is_queued(storage: Storage, _clock: Clock) {
    let table = storage.table("a").expect("a table");
    let write = |value: &'static [u8], expect| {
        let mut batch = Batch::new();
        batch.put(table, b"k", Put { value, ..Put::default() }, expect);
        storage.commit(batch, Durability::Durable)
    };
    let first = write(b"1", Expect::Absent).expect("nothing there");
    let refused = write(b"2", Expect::Absent).expect_err("the first one is queued");
    assert_eq!(refused.kind(), Kind::Conflict);
    let etag = first.await.expect("synced").first_etag;
    assert_eq!(write(b"3", Expect::Etag(etag + 9)).expect_err("other").kind(), Kind::Conflict);
    let second = write(b"3", Expect::Etag(etag)).expect("its ETag");
    assert_eq!(write(b"4", Expect::Etag(etag)).expect_err("stale").kind(), Kind::Conflict);
    second.await.expect("synced");
    assert_eq!(value(&storage, table, "k"), Some(b"3".to_vec()));
    // All or nothing, and within a batch the earlier change counts.
    let mut batch = Batch::new();
    batch.put(table, b"new", Put::default(), Expect::Absent);
    batch.delete(table, b"k", Expect::Absent);
    assert!(storage.commit(batch, Durability::Durable).is_err());
    assert_eq!(value(&storage, table, "new"), None);
    let mut batch = Batch::new();
    batch.delete(table, b"k", Expect::Any);
    batch.put(table, b"k", Put { value: b"5", ..Put::default() }, Expect::Absent);
    storage.commit(batch, Durability::Durable).expect("deleted before").await.expect("synced");
    assert_eq!(value(&storage, table, "k"), Some(b"5".to_vec()));
}

pub(in super::super) async fn an_eventual_write_is_read_at_once(storage: Storage, _clock: Clock) {
    let table = storage.table("a").expect("a table");
    let mut batch = Batch::new();
    batch.put(table, b"warm", Put::default(), Expect::Any);
    storage.commit(batch, Durability::Durable).expect("queued").await.expect("synced");
    let mut batch = Batch::new();
    batch.put(table, b"k", Put { value: b"durable", ..Put::default() }, Expect::Any);
    let durable = storage.commit(batch, Durability::Durable).expect("queued");
    let mut batch = Batch::new();
    batch.put(table, b"k", Put { value: b"eventual", ..Put::default() }, Expect::Any);
    let eventual = storage.commit(batch, Durability::Eventual).expect("queued");
    assert_eq!(value(&storage, table, "k"), Some(b"eventual".to_vec()));
    eventual.await.expect("at once");
    durable.await.expect("synced");
    assert_eq!(value(&storage, table, "k"), Some(b"eventual".to_vec()));
}

pub(in super::super) async fn values_expire(storage: Storage, clock: Clock) {
    let table = storage.table("a").expect("a table");
    let write = |ttl_ms| {
        let mut batch = Batch::new();
        batch.put(table, b"k", Put { value: b"v", ttl_ms, content_type: None }, Expect::Absent);
        storage.commit(batch, Durability::Durable)
    };
    let _ = write(Some(1000)).expect("queued").await.expect("synced");
    let entry = storage.get(table, b"k").expect("get").expect("a value");
    assert_eq!(entry.expires_ms, Some(clock.now_ms() + 1000));
    assert!(write(None).is_err());
    clock.advance_ms(1000);
    assert_eq!(value(&storage, table, "k"), None);
    assert!(storage.scan(table, b"", None, 10, 1000).await.expect("scan").is_empty());
    let _ = write(None).expect("expired").await.expect("synced");
    clock.advance_ms(100_000);
    assert_eq!(value(&storage, table, "k"), Some(b"v".to_vec()));
}

pub(in super::super) async fn scans_are_in_order_and_bounded(storage: Storage, _clock: Clock) {
    let table = storage.table("a").expect("a table");
    for key in ["b1", "a1", "a3", "a2", "c"] {
        put(&storage, table, key, &[1; 10]).await.expect("put");
    }
    apply(&storage, |batch| batch.delete(table, b"a2", Expect::Any)).await.expect("delete");
    let keys = async |prefix: &str, after: Option<&str>, entries_max, bytes_max| {
        let after = after.map(str::as_bytes);
        let found = storage.scan(table, prefix.as_bytes(), after, entries_max, bytes_max).await;
        found.expect("scan").iter().map(|(key, _)| text(key)).collect::<Vec<String>>()
    };
    let none: Vec<String> = Vec::new();
    assert_eq!(keys("a", None, 10, 1000).await, ["a1", "a3"]);
    assert_eq!(keys("", Some("a1"), 2, 1000).await, ["a3", "b1"]);
    assert_eq!(keys("", Some("a1"), 9, 13).await, ["a3"]);
    assert_eq!(keys("", Some("c"), 9, 13).await, none);
    assert_eq!(keys("x", None, 9, 13).await, none);
}

pub(in super::super) async fn a_record_is_kept_while_wanted(storage: Storage, _clock: Clock) {
    let stream = storage.stream("s").expect("a stream");
    assert_eq!(append(&storage, stream, "a/0").await.expect("append"), 1);
    apply(&storage, |batch| batch.set_consumer(stream, &consumer("one", "a/+", 0)))
        .await
        .expect("set");
    apply(&storage, |batch| batch.set_consumer(stream, &consumer("two", "a/2", 1)))
        .await
        .expect("set");
    for topic in ["a/1", "b/1", "a/2", "a/3"] {
        append(&storage, stream, topic).await.expect("append");
    }
    assert_eq!(storage.last_position(stream), 5);
    // 1 came before anybody wanted it, 3 nobody wants.
    assert_eq!(positions(&storage, stream, 0, "#").await, [2, 4, 5]);
    assert_eq!(positions(&storage, stream, 2, "a/3").await, [5]);
    apply(&storage, |batch| batch.move_consumer(stream, "one", 2, &[5])).await.expect("move");
    apply(&storage, |batch| batch.move_consumer(stream, "one", 1, &[])).await.expect("no way back");
    let one = storage.consumers(stream).into_iter().find(|consumer| consumer.name == "one");
    let one = one.expect("it is there");
    assert_eq!((one.cursor, one.acknowledged), (2, vec![5]));
    assert_eq!(storage.backlog(stream, "two"), Some((1, 6)));
    apply(&storage, |batch| batch.move_consumer(stream, "one", 5, &[])).await.expect("move");
    assert_eq!(storage.backlog(stream, "one"), Some((0, 0)));
    assert!(positions(&storage, stream, 0, "#").await.contains(&4));
    apply(&storage, |batch| batch.remove_consumer(stream, "two")).await.expect("remove");
    assert_eq!(storage.backlog(stream, "two"), None);
    assert_eq!(storage.consumers(stream).len(), 1);
    assert_eq!(append(&storage, stream, "c").await.expect("append"), 6);
}

pub(in super::super) async fn listeners_are_told_in_order(storage: Storage, _clock: Clock) {
    let stream = storage.stream("s").expect("a stream");
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    storage.on_visible(
        stream,
        Box::new(move |records| {
            for record in records {
                let _ = sender.send(record.position);
            }
        }),
    );
    apply(&storage, |batch| batch.set_consumer(stream, &consumer("one", "a/#", 0)))
        .await
        .expect("set");
    for number in 0..50_u64 {
        let durability = if number % 3 == 0 { Durability::Durable } else { Durability::Eventual };
        let mut batch = Batch::new();
        let topic = if number % 2 == 0 { "a/1" } else { "b/1" };
        batch.append(stream, message(topic, b"x"));
        drop(storage.commit(batch, durability).expect("queued"));
    }
    for expected in 1..=50 {
        assert_eq!(receiver.recv().await, Some(expected));
    }
    assert_eq!(storage.last_position(stream), 50);
}

pub(in super::super) async fn queues_have_an_end(storage: Storage, clock: Clock) {
    let stream = storage.stream("s").expect("a stream");
    let mut dropping = consumer("dropping", "#", 0);
    dropping.limits = limits(1000, Overflow::DropOldest);
    apply(&storage, |batch| batch.set_consumer(stream, &dropping)).await.expect("set");
    for _ in 0..200 {
        apply(&storage, |batch| batch.append(stream, message("t", &[0; 99])))
            .await
            .expect("append");
    }
    let now = storage.consumers(stream).remove(0);
    assert_eq!(now.dropped, 190);
    assert_eq!(now.cursor, 190);
    assert_eq!(storage.backlog(stream, "dropping"), Some((10, 1000)));
    let mut refusing = consumer("refusing", "#", 200);
    refusing.limits = limits(250, Overflow::Refuse);
    apply(&storage, |batch| batch.set_consumer(stream, &refusing)).await.expect("set");
    apply(&storage, |batch| batch.append(stream, message("t", &[0; 99]))).await.expect("append");
    apply(&storage, |batch| batch.append(stream, message("t", &[0; 99]))).await.expect("append");
    let mut batch = Batch::new();
    batch.append(stream, message("t", &[0; 99]));
    let refused = storage.commit(batch, Durability::Durable).expect_err("full");
    assert_eq!(refused.kind(), Kind::Overloaded);
    apply(&storage, |batch| batch.move_consumer(stream, "refusing", 201, &[])).await.expect("move");
    apply(&storage, |batch| batch.append(stream, message("t", &[0; 99])))
        .await
        .expect("room again");
    clock.advance_ms(1);
}

/// Calls `run` for every law with a fresh storage.
macro_rules! laws {
    ($name:ident, $open:expr) => {
        mod $name {
            use super::*;
            $crate::storage::tests::laws::laws! { @ $open,
                a_value_is_read_back conditions_see_what_is_queued an_eventual_write_is_read_at_once
                values_expire scans_are_in_order_and_bounded a_record_is_kept_while_wanted
                listeners_are_told_in_order queues_have_an_end }
        }
    };
    (@ $open:expr, $($law:ident)*) => {
        $(#[tokio::test]
        async fn $law() {
            let clock = Clock::manual(1_700_000_000_000);
            let (storage, _guard) = ($open)(clock.clone());
            $crate::storage::tests::laws::$law(storage, clock).await;
        })*
    };
}
pub(super) use laws;

laws!(memory, |clock: Clock| (Storage::memory(clock, 64 << 20), ()));

#[tokio::test]
async fn memory_is_bounded_by_its_quota() {
    let storage = Storage::memory(Clock::manual(0), 10_000);
    let table = storage.table("a").expect("a table");
    put(&storage, table, "k", &[0; 4000]).await.expect("fits");
    put(&storage, table, "l", &[0; 4000]).await.expect("fits");
    let refused = put(&storage, table, "m", &[0; 4000]).await.expect_err("full");
    assert_eq!(refused.kind(), Kind::Full);
    apply(&storage, |batch| batch.delete(table, b"k", Expect::Any)).await.expect("delete");
    put(&storage, table, "m", &[0; 4000]).await.expect("room again");
}

fn text(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}
