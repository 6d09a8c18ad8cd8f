//! What only a storage with a disk does: reopening, checkpoints, damage.

use super::sim::SimDisk;
use super::*;
use crate::storage::disk::Disk;

/// A directory that is removed at the end.
pub(super) struct Scratch(pub(super) PathBuf);

impl Scratch {
    pub(super) fn new() -> Self {
        let base =
            std::env::var_os("CARGO_TARGET_TMPDIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let path = base.join(format!("pillion-{}", crate::env::uuid()));
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Small sizes, so that segments are recycled and checkpoints happen.
pub(super) fn small(clock: Clock) -> StorageOptions {
    StorageOptions {
        segment_bytes: 64 << 10,
        quota_bytes: 8 << 20,
        eventual_flush_ms: 20,
        ..StorageOptions::new("", clock)
    }
}

pub(super) fn open(disk: &SimDisk) -> Storage {
    Storage::open_disk(Arc::new(disk.clone()), small(Clock::manual(1_700_000_000_000)))
        .expect("it opens")
}

super::laws::laws!(on_disk, |clock| {
    let scratch = Scratch::new();
    let options = StorageOptions::new(scratch.0.join("below"), clock);
    (Storage::open(options).expect("it opens"), scratch)
});

super::laws::laws!(on_disk_small, |clock| {
    (Storage::open_disk(Arc::new(SimDisk::default()), small(clock)).expect("it opens"), ())
});

async fn checkpointed(storage: &Storage, table: Table) {
    let before = storage.status().checkpoints;
    let mut round = 0;
    while storage.status().checkpoints == before {
        round += 1;
        put(storage, table, "filler", &[round as u8; 3000]).await.expect("put");
    }
}

#[tokio::test]
async fn a_closed_storage_is_found_again() {
    let disk = SimDisk::default();
    for round in 0..5_u64 {
        let storage = open(&disk);
        let (table, stream) = (storage.table("t").expect("t"), storage.stream("s").expect("s"));
        assert_eq!(storage.last_position(stream), 2 * round);
        if round == 0 {
            apply(&storage, |batch| batch.set_consumer(stream, &consumer("c", "#", 0)))
                .await
                .expect("set");
        }
        for old in 0..round {
            let entry = storage.get(table, old.to_string().as_bytes()).expect("get");
            assert_eq!(entry.expect("a value").value, [old as u8; 300][..]);
        }
        let filters = [Filter::new("#").expect("a filter")];
        let (records, _) = storage.read(stream, 0, &filters, 99, 9999).await.expect("read");
        let found: Vec<_> = records.iter().map(|record| record.position).collect();
        assert_eq!(found, (1..=2 * round).collect::<Vec<_>>());
        assert_eq!(storage.backlog(stream, "c").expect("c").0, 2 * round);
        put(&storage, table, &round.to_string(), &[round as u8; 300]).await.expect("put");
        append(&storage, stream, "a").await.expect("append");
        append(&storage, stream, "b").await.expect("append");
        if round % 2 == 0 {
            storage.close().await.expect("close");
            let mut batch = Batch::new();
            batch.delete(table, b"x", Expect::Any);
            let refused = storage.commit(batch, Durability::Durable).expect_err("closed");
            assert_eq!(refused.kind(), Kind::Closed);
        } else {
            storage.close().await.expect("close");
        }
    }
}

#[tokio::test]
async fn values_outlive_many_checkpoints() {
    let disk = SimDisk::default();
    let mut last_etag = 0;
    for round in 0..3_u8 {
        let storage = open(&disk);
        let table = storage.table("t").expect("t");
        for key in 0..300_u32 {
            let value = vec![round; (key % 7) as usize * 100];
            let etag = put(&storage, table, &format!("key-{key}"), &value).await.expect("put");
            assert!(etag > last_etag);
            last_etag = etag;
        }
        apply(&storage, |batch| batch.delete(table, b"key-7", Expect::Any)).await.expect("delete");
        assert!(storage.status().checkpoints > 0);
        for _ in 0..2 {
            for key in (0..300_u32).filter(|key| *key != 7) {
                let entry = storage.get(table, format!("key-{key}").as_bytes()).expect("get");
                let expected = vec![round; (key % 7) as usize * 100];
                assert_eq!(entry.expect("a value").value, expected);
            }
            assert_eq!(storage.get(table, b"key-7").expect("get"), None);
            assert_eq!(scan_all(&storage, table).await.len(), 299);
            checkpointed(&storage, table).await;
            apply(&storage, |batch| batch.delete(table, b"filler", Expect::Any))
                .await
                .expect("delete");
        }
        if round == 1 {
            storage.close().await.expect("close");
        }
    }
}

async fn scan_all(storage: &Storage, table: Table) -> Vec<Bytes> {
    let mut keys = Vec::<Bytes>::new();
    loop {
        let after = keys.last().cloned();
        let more = storage.scan(table, b"", after.as_deref(), 17, 1 << 20).await.expect("scan");
        if more.is_empty() {
            return keys;
        }
        keys.extend(more.into_iter().map(|(key, _)| key));
        assert!(keys.is_sorted());
    }
}

#[tokio::test]
async fn a_backlog_goes_to_the_tree_and_its_space_comes_back() {
    let disk = SimDisk::default();
    let storage = open(&disk);
    let (table, stream) = (storage.table("t").expect("t"), storage.stream("s").expect("s"));
    for (name, filter) in [("all", "#"), ("some", "t/3")] {
        apply(&storage, |batch| batch.set_consumer(stream, &consumer(name, filter, 0)))
            .await
            .expect("set");
    }
    for number in 0..500_u32 {
        let topic = format!("t/{}", number % 10);
        apply(&storage, |batch| batch.append(stream, message(&topic, &[0; 2000])))
            .await
            .expect("append");
    }
    let filters = [Filter::new("#").expect("a filter")];
    let (mut after, mut seen) = (0, 0);
    loop {
        let (records, upto) =
            storage.read(stream, after, &filters, 33, 1 << 20).await.expect("read");
        if records.is_empty() {
            break;
        }
        for record in &records {
            seen += 1;
            assert_eq!(record.position, seen);
        }
        after = upto;
    }
    assert_eq!(seen, 500);
    let mut batch = Batch::new();
    batch.move_consumer(stream, "all", 500, &[]);
    let _ = storage.commit(batch, Durability::Eventual).expect("moved").await;
    // Two: a move that is in no hurry may ride with the batch after the first one began.
    checkpointed(&storage, table).await;
    checkpointed(&storage, table).await;
    let (records, _) = storage.read(stream, 0, &filters, 1000, 1 << 20).await.expect("read");
    assert_eq!(records.len(), 50);
    apply(&storage, |batch| batch.move_consumer(stream, "some", 500, &[])).await.expect("move");
    let used = disk.used();
    for number in 0..3 {
        for _ in 0..500_u32 {
            apply(&storage, |batch| batch.append(stream, message("t/1", &[0; 2000])))
                .await
                .expect("append");
        }
        let end = storage.last_position(stream);
        apply(&storage, |batch| batch.move_consumer(stream, "all", end, &[])).await.expect("move");
        checkpointed(&storage, table).await;
        checkpointed(&storage, table).await;
        assert!(disk.used() <= used + (1 << 20), "round {number}: {} after {used}", disk.used());
    }
    let live = storage.shared.engine().live_bytes;
    assert!(live < 10_000, "{live} bytes are left in the tree");
}

#[tokio::test]
async fn a_second_process_is_refused_with_the_pid() {
    let scratch = Scratch::new();
    let options = || StorageOptions::new(&scratch.0, Clock::manual(0));
    let first = Storage::open(options()).expect("it opens");
    let refused = Storage::open(options()).map(drop).expect_err("held");
    assert_eq!(refused.kind(), Kind::Unavailable);
    assert!(refused.message().contains(&std::process::id().to_string()), "{refused}");
    drop(first);
    Storage::open(options()).expect("free again");
}

#[tokio::test]
async fn expired_values_leave_the_tree() {
    let disk = SimDisk::default();
    let clock = Clock::manual(1_000_000);
    let storage = Storage::open_disk(Arc::new(disk), small(clock.clone())).expect("it opens");
    let table = storage.table("t").expect("t");
    for key in 0..50_u32 {
        apply(&storage, |batch| {
            let put = Put { value: &[0; 500], ttl_ms: Some(1000), content_type: None };
            batch.put(table, &key.to_be_bytes(), put, Expect::Any);
        })
        .await
        .expect("put");
    }
    // The first may have begun before the filler came.
    checkpointed(&storage, table).await;
    checkpointed(&storage, table).await;
    clock.advance_ms(2000);
    let disk = storage.shared.disk.as_ref().expect("it has one");
    disk.keeper.sweep(clock.now_ms());
    let rows = disk.keeper.read(|tree, _| {
        let mut rows = 0;
        tree.scan(0, b"", None, |_, _| {
            rows += 1;
            Ok(true)
        })?;
        Ok((rows, tree.meta()?.live_bytes))
    });
    let (rows, live_bytes) = rows.expect("queued").await.expect("answered").expect("read");
    assert_eq!(rows, 1, "the filler is left");
    assert!(live_bytes < 4000, "{live_bytes}");
}

#[tokio::test]
async fn a_clock_reading_is_a_floor_for_the_next_start() {
    let disk = SimDisk::default();
    let storage = open(&disk);
    let table = storage.table("t").expect("t");
    storage.shared.engine().clock.advance_ms(5000);
    put(&storage, table, "k", b"v").await.expect("put");
    drop(storage);
    let clock = Clock::manual(0);
    let _again = Storage::open_disk(Arc::new(disk), small(clock.clone())).expect("it opens");
    assert!(clock.now_ms() >= 1_700_000_005_000);
}

#[tokio::test]
async fn damage_is_kept_aside_and_the_rest_is_served() {
    let disk = SimDisk::default();
    let storage = open(&disk);
    let table = storage.table("t").expect("t");
    for key in 0..5 {
        put(&storage, table, &key.to_string(), b"v").await.expect("put");
    }
    drop(storage);
    let segment = disk.open("log-0").expect("a segment");
    let mut bytes = vec![0; segment.len().expect("len") as usize];
    segment.read_exact_at(&mut bytes, 0).expect("read");
    // The batch of key 2, wherever it is: not the last one.
    let at = bytes.windows(4).rposition(|window| window == b"PLG1").expect("a batch");
    let at = bytes[..at].windows(4).rposition(|window| window == b"PLG1").expect("a batch");
    let at = bytes[..at].windows(4).rposition(|window| window == b"PLG1").expect("a batch");
    segment.write_all_at(&[0xff; 16], at as u64 + 40).expect("write");
    for _ in 0..2 {
        let storage = open(&disk);
        let table = storage.table("t").expect("t");
        let left = scan_all(&storage, table).await;
        assert_eq!(left.len(), 4, "{left:?}");
        let unhealthy = storage.status().unhealthy.expect("it says so");
        assert!(unhealthy.contains("damaged-log-0"), "{unhealthy}");
        put(&storage, table, "0", b"w").await.expect("it goes on");
    }
    let aside = disk.names().expect("names").into_iter().filter(|name| name.contains("damaged"));
    assert_eq!(aside.count(), 1);
}

#[tokio::test]
async fn a_damaged_tree_is_moved_aside_and_the_log_is_served() {
    let disk = SimDisk::default();
    let storage = open(&disk);
    let (table, other) = (storage.table("t").expect("t"), storage.table("u").expect("u"));
    let etag = put(&storage, other, "k", b"v").await.expect("put");
    checkpointed(&storage, table).await;
    put(&storage, other, "l", b"v").await.expect("put");
    drop(storage);
    let tree = disk.open("tree.redb").expect("the tree");
    tree.write_all_at(&[0xa5; 4096], 0).expect("write");
    let storage = open(&disk);
    let other = storage.table("u").expect("u");
    assert!(storage.get(other, b"l").expect("get").is_some());
    assert!(storage.status().unhealthy.expect("it says so").contains("damaged-tree"));
    assert!(put(&storage, other, "m", b"v").await.expect("put") > etag + 1);
}

#[tokio::test]
async fn a_log_without_its_tree_is_served_and_said() {
    let disk = SimDisk::default();
    let storage = open(&disk);
    let table = storage.table("t").expect("t");
    let etag = put(&storage, table, "k", b"v").await.expect("put");
    drop(storage);
    disk.remove("tree.redb").expect("removed");
    for _ in 0..2 {
        let storage = open(&disk);
        let table = storage.table("t").expect("t");
        assert!(storage.get(table, b"k").expect("get").is_some());
        assert!(storage.status().unhealthy.expect("it says so").contains("missing"));
        assert!(put(&storage, table, "l", b"v").await.expect("put") > etag);
    }
}

/// The log thread set its alarm for the moves, which have more time, and did not hear of the write.
#[tokio::test]
async fn an_eventual_write_is_flushed_in_time_though_moves_wait() {
    let disk = SimDisk::default();
    let storage = open(&disk);
    let (table, stream) = (storage.table("t").expect("t"), storage.stream("s").expect("s"));
    apply(&storage, |batch| batch.set_consumer(stream, &consumer("c", "#", 0))).await.expect("set");
    let first = append(&storage, stream, "a").await.expect("append");
    let mut batch = Batch::new();
    batch.move_consumer(stream, "c", first, &[]);
    storage.commit(batch, Durability::Eventual).expect("moved").await.expect("moved");
    let batches = async |wanted: u64| {
        let started = std::time::Instant::now();
        while storage.status().log_batches < wanted {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            assert!(started.elapsed() < std::time::Duration::from_secs(8), "it is not flushed");
        }
    };
    // Long enough for the thread to have fallen asleep over the move.
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    let before = storage.status().log_batches;
    let mut batch = Batch::new();
    batch.put(table, b"k", Put::default(), Expect::Any);
    storage.commit(batch, Durability::Eventual).expect("queued").await.expect("at once");
    batches(before + 1).await;
    drop(storage);
    let storage = open(&disk);
    let found = storage.consumers(stream).remove(0);
    assert_eq!(found.cursor, first);
}
