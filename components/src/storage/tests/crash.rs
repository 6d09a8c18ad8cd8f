//! Power cuts at every write and sync.
//!
//! A storage works on a disk that remembers everything. Each commit writes its number, so that an
//! image tells up to which commit it goes; it must be exactly the state after that commit, with
//! everything in it that was acknowledged before the cut. Some images go on working and are cut
//! once more.

use super::disk::small;
use super::sim::SimDisk;
use super::*;
use std::collections::BTreeMap;

const COMMITS: u64 = 400;
const COMMITS_AGAIN: u64 = 12;

/// One commit of the workload, and what it changed.
#[derive(Clone)]
struct Done {
    /// Event by which it was acknowledged as durable; `usize::MAX` when it was not.
    acknowledged: usize,
    /// Event before which nothing was given to anybody.
    given: usize,
    etags: u64,
    position: u64,
    values: Vec<(String, Option<Vec<u8>>)>,
    topic: Option<&'static str>,
}

#[derive(Clone, Default)]
struct History {
    done: Vec<Done>,
    /// Cursor of the consumer, and by which event it was asked for.
    moves: Vec<(usize, u64)>,
}

fn reopen(disk: &SimDisk) -> Storage {
    Storage::open_disk(Arc::new(disk.clone()), small(Clock::manual(1_000_000))).expect("it opens")
}

async fn work(disk: &SimDisk, history: &mut History, commits: u64, random: &mut Random) {
    let storage = reopen(disk);
    let (table, stream) = (storage.table("t").expect("t"), storage.stream("s").expect("s"));
    if storage.consumers(stream).is_empty() {
        apply(&storage, |batch| batch.set_consumer(stream, &consumer("c", "a/#", 0)))
            .await
            .expect("set");
    }
    let mut waiting = Vec::new();
    for _ in 0..commits {
        let number = history.done.len() as u64 + 1;
        let mut batch = Batch::new();
        let mut values = vec![("n".to_owned(), Some(number.to_be_bytes().to_vec()))];
        for _ in 0..random.below(3) {
            let key = format!("k{}", random.below(30));
            let len = [5, 400, 3000][random.below(3) as usize];
            let value = (random.below(5) > 0).then(|| vec![number as u8; len]);
            values.push((key, value));
        }
        for (key, value) in &values {
            match value {
                Some(value) => {
                    let put = Put { value, ..Put::default() };
                    batch.put(table, key.as_bytes(), put, Expect::Any);
                }
                None => batch.delete(table, key.as_bytes(), Expect::Any),
            }
        }
        let topic = [None, Some("a/1"), Some("b/1")][random.below(3) as usize];
        if let Some(topic) = topic {
            batch.append(stream, message(topic, &number.to_be_bytes()));
        }
        let durable = random.below(3) > 0;
        let durability = if durable { Durability::Durable } else { Durability::Eventual };
        let commit = storage.commit(batch, durability).expect("there is room");
        let puts = values.iter().filter(|(_, value)| value.is_some()).count() as u64;
        let index = history.done.len();
        history.done.push(Done {
            acknowledged: usize::MAX,
            given: usize::MAX,
            etags: puts,
            position: 0,
            values,
            topic,
        });
        waiting.push((index, durable, commit));
        if random.below(3) > 0 {
            for (index, durable, commit) in waiting.drain(..) {
                let committed = commit.await.expect("synced");
                let done = &mut history.done[index];
                done.etags += committed.first_etag;
                done.position = committed.first_position;
                done.given = disk.now();
                if durable {
                    done.acknowledged = disk.now();
                }
            }
            let last = storage.last_position(stream);
            if random.below(4) == 0 && last > 20 {
                let mut batch = Batch::new();
                batch.move_consumer(stream, "c", last - 20, &[]);
                history.moves.push((disk.now(), last - 20));
                storage.commit(batch, Durability::Eventual).expect("moved").await.expect("moved");
            }
        }
    }
    for (index, _, commit) in waiting {
        let committed = commit.await.expect("synced");
        history.done[index].etags += committed.first_etag;
        history.done[index].position = committed.first_position;
        history.done[index].given = disk.now();
    }
    // Segments were recycled.
    assert!(commits < COMMITS || storage.status().checkpoints >= 4);
    if random.below(2) == 0 {
        storage.close().await.expect("close");
    }
}

/// Checks an image after a cut before event `at`. Answers the history that is true from now on.
async fn verify(image: &SimDisk, history: &History, at: usize) -> History {
    let storage = reopen(image);
    assert_eq!(storage.status().unhealthy, None);
    let (table, stream) = (storage.table("t").expect("t"), storage.stream("s").expect("s"));
    let number = storage
        .get(table, b"n")
        .expect("get")
        .map_or(0, |entry| u64::from_be_bytes(entry.value[..].try_into().expect("eight bytes")));
    let (kept, lost) = history.done.split_at(number as usize);
    for (index, done) in lost.iter().enumerate() {
        assert!(done.acknowledged > at, "commit {} of {number} is lost", index + 1 + kept.len());
    }
    let mut expected = BTreeMap::new();
    for (key, value) in kept.iter().flat_map(|done| &done.values) {
        match value {
            Some(value) => expected.insert(key.clone().into_bytes(), value.clone()),
            None => expected.remove(key.as_bytes()),
        };
    }
    let found = storage.scan(table, b"", None, 1000, 1 << 24).await.expect("scan");
    let found: BTreeMap<_, _> =
        found.into_iter().map(|(key, entry)| (key.to_vec(), entry.value.to_vec())).collect();
    assert!(found == expected, "the state is not that after commit {number}");
    // The stream holds what its consumer wants, in order, and nothing that was not kept.
    let consumer = storage.consumers(stream).into_iter().next();
    let filters = [Filter::new("#").expect("a filter")];
    let (records, _) = storage.read(stream, 0, &filters, 10_000, 1 << 24).await.expect("read");
    // 0 is from an earlier check.
    let found: Vec<u64> = records.iter().map(payload).filter(|number| *number > 0).collect();
    let wanted: Vec<u64> = (1..=number)
        .filter(|number| history.done[*number as usize - 1].topic == Some("a/1"))
        .collect();
    assert!(found.is_sorted() && found.iter().all(|number| wanted.contains(number)));
    if let Some(consumer) = &consumer {
        let asked = history.moves.iter().map(|(_, cursor)| *cursor).max().unwrap_or(0);
        // It may stand just before the first record it has not seen, too.
        let first = records.iter().map(|record| record.position).find(|it| *it > consumer.cursor);
        assert!(consumer.cursor <= asked || first.is_none_or(|first| consumer.cursor < first));
        let position = |number: u64| {
            records.iter().find(|record| payload(record) == number).map(|it| it.position)
        };
        for number in &wanted {
            let known = history.done[*number as usize - 1].position;
            if known > consumer.cursor {
                assert_eq!(position(*number), Some(known), "record of {number} is lost");
            }
        }
    } else {
        assert_eq!(number, 0);
    }
    // Nothing that was given to anybody is given again.
    let given = history.done.iter().filter(|done| done.given <= at);
    let last_etag = given.clone().map(|done| done.etags).max().unwrap_or(0);
    let last_position = given.map(|done| done.position).max().unwrap_or(0);
    let mut batch = Batch::new();
    batch.put(table, b"new", Put::default(), Expect::Any);
    batch.append(stream, message("a/new", &[0; 8]));
    let commit = storage.commit(batch, Durability::Eventual).expect("there is room");
    let committed = commit.await.expect("synced");
    assert!(committed.first_etag >= last_etag, "an ETag is issued twice");
    assert!(committed.first_position > last_position, "a position is issued twice");
    apply(&storage, |batch| {
        batch.delete(table, b"new", Expect::Any);
        let all = Consumer { cursor: committed.first_position, ..super::consumer("c", "a/#", 0) };
        batch.set_consumer(stream, &all);
    })
    .await
    .expect("it works");
    let mut history = History { done: kept.to_vec(), moves: Vec::new() };
    history.moves.push((0, committed.first_position));
    for done in &mut history.done {
        done.acknowledged = 0;
        done.given = 0;
    }
    if kept.is_empty() {
        history.done.clear();
    }
    history
}

fn payload(record: &Record) -> u64 {
    u64::from_be_bytes(record.message.payload[..].try_into().expect("eight bytes"))
}

async fn cuts(seed: u64, images: u64) {
    let mut random = Random::new(seed);
    let disk = SimDisk::remembering();
    let mut history = History::default();
    work(&disk, &mut history, COMMITS, &mut random).await;
    let mut cuts = disk.cuts();
    let events = cuts.len() as u64;
    for image in 0..images {
        let at = (image * events / images) as usize;
        let after = cuts.cut(at, &mut random);
        let mut history = verify(&after, &history, at).await;
        if random.below(4) > 0 {
            continue;
        }
        let from = after.now();
        work(&after, &mut history, COMMITS_AGAIN, &mut random).await;
        let mut again = after.cuts();
        // Only after what the check itself did: it wrote what the history does not know.
        let at = from + random.below((again.len() - from) as u64 + 1) as usize;
        let twice = again.cut(at, &mut random);
        verify(&twice, &history, at).await;
    }
    println!("{images} images over {events} events");
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_by_a_power_cut() {
    cuts(seed(), 1500).await;
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_by_another_power_cut() {
    cuts(seed(), 1500).await;
}
