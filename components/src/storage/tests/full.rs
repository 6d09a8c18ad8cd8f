//! A disk that is full, in many orders of events: filled until it refuses, deleted from, killed,
//! stopped, opened again, filled by somebody else. Whatever the order, nothing acknowledged is
//! lost, what is deleted makes room, and the storage takes new data again.

use super::sim::SimDisk;
use super::*;
use std::collections::BTreeMap;
use std::time::Duration;

const SEGMENT_BYTES: u32 = 256 << 10;

/// Values from here on are told apart by their first bytes.
const VALUE_BYTES_MAX: u64 = 24 << 10;

/// Commits that only release, between two checkpoints that go through: the last segment holds 64.
const RELEASES_MAX: usize = 40;

/// Tries until a save must be taken again.
const TRIES: u32 = 3000;

fn open(disk: &SimDisk) -> Storage {
    let options = StorageOptions {
        segment_bytes: SEGMENT_BYTES,
        quota_bytes: 64 << 20,
        eventual_flush_ms: 20,
        ..StorageOptions::new("", Clock::manual(1_000_000))
    };
    Storage::open_disk(Arc::new(disk.clone()), options).expect("it opens, full or not")
}

/// Time for the threads, which know no paused clock, and for what waits for a time.
async fn pause() {
    std::thread::sleep(Duration::from_millis(1));
    tokio::time::sleep(Duration::from_secs(1)).await;
}

struct Run {
    disk: SimDisk,
    storage: Option<Storage>,
    random: Random,
    /// What was acknowledged.
    values: BTreeMap<String, Vec<u8>>,
    /// Positions that the consumer has not acknowledged.
    queue: Vec<u64>,
    next: u64,
    /// All values are as large, and each has its own key; 0 for any size.
    fixed_bytes: u64,
    story: Vec<String>,
}

impl Run {
    /// With a log that is whole, and somebody who is away.
    async fn start(disk: SimDisk, mut random: Random) -> Self {
        let fixed_bytes = [0, 0, 3000, 9000, VALUE_BYTES_MAX, 60_000][random.below(6) as usize];
        let storage = Some(open(&disk));
        let (values, queue, story) = Default::default();
        let run = Self { disk, storage, random, values, queue, next: 0, fixed_bytes, story };
        let (storage, _, stream) = run.parts();
        apply(storage, |batch| batch.set_consumer(stream, &consumer("c", "#", 0)))
            .await
            .expect("set");
        while run.disk.names_bytes("log-").iter().any(|bytes| *bytes < SEGMENT_BYTES as usize) {
            pause().await;
        }
        run
    }

    fn parts(&self) -> (&Storage, Table, Stream) {
        let storage = self.storage.as_ref().expect("it is open");
        (storage, storage.table("t").expect("t"), storage.stream("s").expect("s"))
    }

    fn value(&mut self) -> Vec<u8> {
        let len = match self.random.below(4) {
            _ if self.fixed_bytes > 0 => self.fixed_bytes,
            0 => 8 + self.random.below(600),
            1 => 8 + self.random.below(5000),
            _ => 8 + self.random.below(VALUE_BYTES_MAX),
        };
        self.next += 1;
        let mut value = vec![self.next as u8; len as usize];
        value[..8].copy_from_slice(&self.next.to_be_bytes());
        value
    }

    /// One save or one message; whether it was taken.
    async fn save(&mut self) -> bool {
        let value = self.value();
        let appends = self.random.below(4) == 0;
        let is_fixed = self.fixed_bytes > 0;
        let appends = appends && !is_fixed;
        let key = match is_fixed {
            true => format!("k{}", self.next),
            false => format!("k{}", self.random.below(400)),
        };
        let (storage, table, stream) = self.parts();
        let result = if appends {
            apply(storage, |batch| batch.append(stream, message("t", &value))).await
        } else {
            let put = Put { value: &value, ..Put::default() };
            apply(storage, |batch| batch.put(table, key.as_bytes(), put, Expect::Any)).await
        };
        match result {
            Ok(committed) if appends => self.queue.push(committed.first_position),
            Ok(_) => drop(self.values.insert(key, value)),
            Err(error) => {
                assert_eq!(error.kind(), Kind::Full, "{error}");
                return false;
            }
        }
        true
    }

    /// Until it refuses, and goes on refusing.
    async fn fill(&mut self) {
        let (mut taken, mut refused) = (0, 0);
        while refused < 5 {
            if self.save().await {
                taken += 1;
                refused = 0;
            } else {
                refused += 1;
                pause().await;
            }
            assert!(taken < 5000, "never full: {:?}", self.story);
        }
        self.story.push(format!("filled: {taken}"));
    }

    /// Deletes most, and acknowledges.
    async fn release(&mut self) {
        let keep = self.random.below(4);
        let mut keys: Vec<String> = self.values.keys().cloned().collect();
        let stride = 1 + self.random.below(3) as usize;
        let is_half = self.fixed_bytes > 0 && self.random.below(2) == 0;
        let kept = |index: usize| match is_half {
            true => index.is_multiple_of(2),
            false => stride * index % 10 < keep as usize,
        };
        let mut index = 0;
        keys.retain(|_| {
            index += 1;
            !kept(index)
        });
        if self.random.below(2) == 0 {
            keys.reverse();
        }
        let drains = self.random.below(4) > 0 || keys.len() < 20;
        self.story.push(format!(
            "deletes {} of {}, drains {drains} ({})",
            keys.len(),
            self.values.len(),
            self.queue.len()
        ));
        if drains && self.random.below(2) == 0 {
            self.drain().await;
        }
        for some in keys.chunks(keys.len().div_ceil(RELEASES_MAX).max(1)) {
            let (storage, table, _) = self.parts();
            apply(storage, |batch| {
                some.iter().for_each(|key| batch.delete(table, key.as_bytes(), Expect::Any));
            })
            .await
            .unwrap_or_else(|error| panic!("deletes work: {error}: {:?}", self.story));
            some.iter().for_each(|key| drop(self.values.remove(key)));
            match self.random.below(40) {
                0 => self.kill(),
                1 => pause().await,
                _ => {}
            }
        }
        if drains {
            self.drain().await;
        }
    }

    async fn drain(&mut self) {
        let (storage, _, stream) = self.parts();
        let last = storage.last_position(stream);
        apply(storage, |batch| batch.move_consumer(stream, "c", last, &[]))
            .await
            .unwrap_or_else(|error| panic!("acknowledgements work: {error}: {:?}", self.story));
        self.queue.clear();
    }

    fn kill(&mut self) {
        self.story.push("killed".into());
        self.storage = None;
        self.storage = Some(open(&self.disk));
    }

    async fn stop(&mut self) {
        self.story.push("stopped".into());
        let storage = self.storage.take().expect("it is open");
        // What a last checkpoint finds no room for stays in the log.
        let _ = storage.close().await;
        drop(storage);
        self.storage = Some(open(&self.disk));
    }

    /// Until a save is taken and a checkpoint goes through.
    async fn heal(&mut self, why: &str) {
        let before = self.parts().0.status().checkpoints;
        for tries in 0..TRIES {
            let (storage, table, _) = self.parts();
            match put(storage, table, "new", &[0; 3000]).await {
                Ok(_) => {
                    self.values.insert("new".into(), vec![0; 3000]);
                    if self.parts().0.status().checkpoints > before {
                        self.story.push(format!("healed {why} after {tries}"));
                        return;
                    }
                }
                Err(error) => {
                    assert_eq!(error.kind(), Kind::Full, "{error}");
                    pause().await;
                }
            }
        }
        panic!(
            "still full {why}; room for {} bytes, tree {:?}: {:?}",
            self.disk.room(),
            self.disk.names_bytes("tree"),
            self.story
        );
    }

    async fn check(&self) {
        let (storage, table, stream) = self.parts();
        // The tree finds its pages whatever else is on the disk.
        assert!(self.disk.holes("tree.redb") == 0, "{:?}", self.story);
        for (key, value) in &self.values {
            let found = storage.get(table, key.as_bytes()).expect("get");
            let found = found.unwrap_or_else(|| panic!("{key} is lost: {:?}", self.story));
            assert!(found.value == value[..], "{key} is another: {:?}", self.story);
        }
        let found = storage.scan(table, b"", None, 9999, 1 << 30).await.expect("scan");
        assert!(
            found.iter().map(|(key, _)| &**key).eq(self.values.keys().map(String::as_bytes)),
            "other keys than were saved: {:?}",
            self.story
        );
        let filters = [Filter::new("#").expect("a filter")];
        let from = storage.consumers(stream).first().expect("the consumer").cursor;
        let (records, _) =
            storage.read(stream, from, &filters, 10_000, 1 << 30).await.expect("read");
        let found: Vec<u64> = records.iter().map(|record| record.position).collect();
        assert_eq!(found, self.queue, "{:?}", self.story);
    }

    async fn round(&mut self) {
        self.fill().await;
        for _ in 0..self.random.below(3) {
            match self.random.below(4) {
                0 => self.kill(),
                1 => self.stop().await,
                2 => pause().await,
                _ => self.check().await,
            }
        }
        if self.random.below(4) == 0 {
            // Somebody else makes room.
            let room = self.disk.capacity();
            self.disk.set_capacity(Some(room + (3 << 20)));
            self.heal("after others made room").await;
            return self.check().await;
        }
        self.release().await;
        match self.random.below(4) {
            0 => self.kill(),
            1 => self.stop().await,
            _ => {}
        }
        self.heal("after deletes").await;
        self.check().await;
    }
}

async fn orders(is_lazy: bool, seeds: u64) {
    let first = seed();
    for seed in first..first.saturating_add(seeds) {
        let mut random = Random::new(seed);
        let disk = SimDisk::default();
        if is_lazy {
            disk.set_lazy();
        }
        // The log, the ballast, and what is for the tree.
        let log = 4 * SEGMENT_BYTES as usize;
        let room = (2 << 20) + random.below(6 << 20) as usize;
        disk.set_capacity(Some(log + (1 << 20) + room));
        let mut run = Run::start(disk, random).await;
        run.story.push(format!("PILLION_SEED={seed}, {} KiB for the tree", room >> 10));
        for _ in 0..2 + run.random.below(3) {
            run.round().await;
        }
        run.stop().await;
        run.check().await;
        println!("{}", run.story.join("; "));
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_heals_in_any_order_of_events() {
    orders(false, 12).await;
}

/// A filesystem that cannot reserve room: what is for the tree is written.
#[tokio::test(start_paused = true)]
async fn a_full_disk_that_cannot_reserve_heals() {
    orders(true, 6).await;
}

/// A tree that cannot grow by doubling grows by what there is.
#[tokio::test(start_paused = true)]
async fn all_of_a_disk_is_used() {
    let disk = SimDisk::default();
    let room = 11 << 20;
    disk.set_capacity(Some(4 * SEGMENT_BYTES as usize + (1 << 20) + room));
    let mut run = Run::start(disk, Random::new(1)).await;
    run.fixed_bytes = 3000;
    run.fill().await;
    let bytes: usize = run.values.values().map(Vec::len).sum();
    // A page holds one such value; a page is kept for each of the log's, which is not recycled.
    assert!(bytes > room / 4096 * 3000 * 8 / 10, "{bytes} bytes in {room}");
    run.check().await;
}
