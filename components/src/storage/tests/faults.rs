//! A disk that fails: EIO and ENOSPC at every n-th write and sync, and one that is full.

use super::disk::small;
use super::sim::{Faults, SimDisk};
use super::*;
use std::collections::BTreeMap;
use std::io;

const COMMITS: u32 = 120;

fn open(disk: &SimDisk) -> Result<Storage> {
    Storage::open_disk(Arc::new(disk.clone()), small(Clock::manual(1_000_000)))
}

/// Versions of each key that may be there: the last acknowledged one or a later one.
type Known = BTreeMap<String, (u32, u32)>;

/// Writes while `faults` come, and notes what was acknowledged. Nothing may hang or panic.
async fn work(disk: &SimDisk, known: &mut Known, random: &mut Random) -> Result<()> {
    let storage = open(disk)?;
    let (table, stream) = (storage.table("t")?, storage.stream("s")?);
    let all = consumer("c", "#", 0);
    apply(&storage, |batch| batch.set_consumer(stream, &all)).await?;
    for number in 1..=COMMITS {
        let key = format!("k{}", random.below(10));
        let value = [&number.to_be_bytes()[..], &vec![0; random.below(6000) as usize]].concat();
        let entry = known.entry(key.clone()).or_default();
        let mut batch = Batch::new();
        batch.put(table, key.as_bytes(), Put { value: &value, ..Put::default() }, Expect::Any);
        batch.append(stream, message("t", &number.to_be_bytes()));
        match storage.commit(batch, Durability::Durable) {
            Ok(commit) => {
                entry.1 = number;
                if commit.await.is_ok() {
                    entry.0 = number;
                }
            }
            Err(error) => assert!(
                matches!(error.kind(), Kind::Full | Kind::Unavailable | Kind::Overloaded),
                "{error}"
            ),
        }
        check(&storage, table, known);
    }
    let last = storage.last_position(stream);
    apply(&storage, |batch| batch.move_consumer(stream, "c", last, &[])).await?;
    storage.close().await
}

fn version(storage: &Storage, table: Table, key: &str) -> Option<u32> {
    match storage.get(table, key.as_bytes()) {
        Ok(Some(entry)) => Some(u32::from_be_bytes(*entry.value.first_chunk().expect("four"))),
        Ok(None) => Some(0),
        // A read may say that it cannot, but not a wrong thing.
        Err(_) => None,
    }
}

fn check(storage: &Storage, table: Table, known: &Known) {
    for (key, (acknowledged, last)) in known {
        if let Some(found) = version(storage, table, key) {
            assert!(
                found >= *acknowledged && found <= *last,
                "{key}: {found}, not {acknowledged}..={last}"
            );
        }
    }
}

async fn survive(kind: io::ErrorKind, times: u64) {
    let seed = seed();
    let dry = SimDisk::default();
    work(&dry, &mut Known::new(), &mut Random::new(seed)).await.expect("no faults");
    let calls = dry.writes();
    let mut broken = 0;
    let mut at = 0;
    while at < calls {
        let disk = SimDisk::default();
        disk.fail(Some(Faults { kind, after: at, times }));
        let mut known = Known::new();
        broken += u32::from(work(&disk, &mut known, &mut Random::new(seed)).await.is_err());
        disk.fail(None);
        let storage = open(&disk).expect("a start without faults");
        assert_eq!(storage.status().unhealthy, None, "fault at {at}");
        let table = storage.table("t").expect("t");
        check(&storage, table, &known);
        put(&storage, table, "new", b"new!").await.expect("it works again");
        // Every one of the first calls, then every few.
        at += if at < 40 { 1 } else { 1 + Random::new(seed ^ at).below(15) };
    }
    println!("{kind:?} x {times}: {broken} runs of {calls} calls did not end well");
}

#[tokio::test(start_paused = true)]
async fn an_io_error_loses_nothing() {
    survive(io::ErrorKind::Other, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_broken_disk_loses_nothing() {
    survive(io::ErrorKind::Other, u64::MAX).await;
}

#[tokio::test(start_paused = true)]
async fn no_space_once_loses_nothing() {
    survive(io::ErrorKind::StorageFull, 3).await;
}

#[tokio::test(start_paused = true)]
async fn no_space_for_good_loses_nothing() {
    survive(io::ErrorKind::StorageFull, u64::MAX).await;
}

/// A failed sync is not repeated on the same segment, and what waited is acknowledged all the same.
#[tokio::test(start_paused = true)]
async fn a_failed_sync_goes_to_a_fresh_segment() {
    let disk = SimDisk::default();
    let storage = open(&disk).expect("it opens");
    let table = storage.table("t").expect("t");
    put(&storage, table, "a", b"1").await.expect("put");
    // The zeros and the ballast are written meanwhile; one of the next calls is the batch.
    for round in 0..2_u64 {
        disk.fail(Some(Faults { kind: io::ErrorKind::Other, after: round, times: 1 }));
        let _ = put(&storage, table, "b", b"2").await;
    }
    disk.fail(None);
    put(&storage, table, "c", b"3").await.expect("put");
    drop(storage);
    let storage = open(&disk).expect("it opens");
    for key in ["a", "c"] {
        assert!(storage.get(table, key.as_bytes()).expect("get").is_some());
    }
}

/// Saves are refused, deletes and acknowledgements work, a restart works, and when there is room
/// it heals.
#[tokio::test(start_paused = true)]
async fn a_full_disk_refuses_new_data_and_heals() {
    let disk = SimDisk::default();
    // The last segment holds what is deleted and acknowledged here.
    let open = |disk: &SimDisk| {
        let options =
            StorageOptions { segment_bytes: 256 << 10, ..small(Clock::manual(1_000_000)) };
        Storage::open_disk(Arc::new(disk.clone()), options)
    };
    let mut storage = open(&disk).expect("it opens");
    let (table, stream) = (storage.table("t").expect("t"), storage.stream("s").expect("s"));
    apply(&storage, |batch| batch.set_consumer(stream, &consumer("c", "#", 0))).await.expect("set");
    // Until the zeros are there.
    while disk.names_bytes("log-").iter().any(|bytes| *bytes < 256 << 10) {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    for _ in 0..40 {
        apply(&storage, |batch| batch.append(stream, message("t", &[0; 2000])))
            .await
            .expect("room");
    }
    disk.set_capacity(Some(disk.used() + (200 << 10)));
    let mut written = 0_u32;
    let refused = loop {
        let value = [written as u8; 3000];
        match put(&storage, table, &written.to_string(), &value).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 5000, "it must be full some time");
    };
    assert_eq!(refused.kind(), Kind::Full, "{refused}");
    assert!(storage.status().full && storage.status().unhealthy.is_some());
    // The last segment is theirs: 16 batches of a page, of which each round takes six.
    const DELETES: u32 = 5;
    for round in 0..2 {
        for key in (round * DELETES)..(round * DELETES + DELETES) {
            apply(&storage, |batch| {
                batch.delete(table, key.to_string().as_bytes(), Expect::Any);
            })
            .await
            .expect("deletes work");
            assert_eq!(storage.get(table, key.to_string().as_bytes()).expect("get"), None);
        }
        apply(&storage, |batch| batch.move_consumer(stream, "c", 10 + round as u64, &[]))
            .await
            .expect("acknowledgements work");
        drop(storage);
        storage = open(&disk).expect("a restart while it is full");
        for key in (round * DELETES + DELETES)..written {
            let entry = storage.get(table, key.to_string().as_bytes()).expect("get");
            assert_eq!(entry.expect("it is there").value, [key as u8; 3000][..]);
        }
    }
    disk.set_capacity(None);
    let mut tries = 0;
    while let Err(error) = put(&storage, table, "new", &[0; 3000]).await {
        assert_eq!(error.kind(), Kind::Full, "{error}");
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        tries += 1;
        assert!(tries < 1000, "it heals by itself");
    }
    storage.close().await.expect("close");
    let storage = open(&disk).expect("it opens");
    assert_eq!(storage.status().unhealthy, None);
    assert!(storage.get(table, b"new").expect("get").is_some());
}

/// Deletes alone make room again, without anybody making the disk larger.
#[tokio::test(start_paused = true)]
async fn deleting_makes_room_under_a_quota() {
    let disk = SimDisk::default();
    let mut options = small(Clock::manual(1_000_000));
    options.quota_bytes = 2 << 20;
    let storage = Storage::open_disk(Arc::new(disk.clone()), options).expect("it opens");
    let table = storage.table("t").expect("t");
    let mut written = 0_u32;
    while put(&storage, table, &written.to_string(), &[0; 3000]).await.is_ok() {
        written += 1;
    }
    assert!((300..700).contains(&written), "{written}");
    for key in 0..written {
        apply(&storage, |batch| batch.delete(table, key.to_string().as_bytes(), Expect::Any))
            .await
            .expect("deletes work");
    }
    let mut tries = 0;
    while put(&storage, table, "new", &[0; 3000]).await.is_err() {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        tries += 1;
        assert!(tries < 10_000, "there is room again");
    }
    assert!(disk.used() < 6 << 20);
}

/// The disk is full before the log has all its segments: saves are refused, nothing breaks.
#[tokio::test(start_paused = true)]
async fn a_disk_that_is_full_at_the_first_start_heals() {
    for room in [1100, 1300, 1500, 1700, 1900] {
        let disk = SimDisk::default();
        disk.set_capacity(Some(room << 10));
        let Ok(storage) = open(&disk) else { continue };
        let table = storage.table("t").expect("t");
        let mut written = Vec::new();
        for number in 0..200_u32 {
            if put(&storage, table, &number.to_string(), &[number as u8; 3000]).await.is_ok() {
                written.push(number);
            }
        }
        disk.set_capacity(None);
        let mut tries = 0;
        while put(&storage, table, "new", &[0; 3000]).await.is_err() {
            std::thread::sleep(std::time::Duration::from_millis(10));
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            tries += 1;
            assert!(tries < 1000, "it heals by itself with {room} KiB");
        }
        drop(storage);
        let storage = open(&disk).expect("it opens");
        for number in written {
            let entry = storage.get(table, number.to_string().as_bytes()).expect("get");
            assert_eq!(entry.expect("it is there").value, [number as u8; 3000][..]);
        }
    }
}
