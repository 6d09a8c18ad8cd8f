//! Random operations, on storage and on an ordinary map: they must agree, whatever is closed,
//! dropped and opened again in between.

use super::disk::small;
use super::sim::SimDisk;
use super::*;
use std::collections::BTreeMap;

const KEYS: u64 = 40;
const TOPICS: [&str; 4] = ["a/1", "a/2", "b/1", "b/1/c"];
const CONSUMERS: [(&str, &str); 3] = [("all", "#"), ("a", "a/+"), ("one", "b/1")];

#[derive(Debug, Clone)]
struct Value {
    etag: u64,
    expires_ms: Option<u64>,
    bytes: Vec<u8>,
}

#[derive(Default)]
struct Model {
    values: BTreeMap<String, Value>,
    /// Position and topic.
    records: Vec<(u64, &'static str)>,
    consumers: BTreeMap<&'static str, (Filter, u64, Vec<u64>)>,
    last_etag: u64,
}

struct Run {
    random: Random,
    clock: Clock,
    storage: Storage,
    table: Table,
    stream: Stream,
    model: Model,
}

impl Run {
    fn new(storage: Storage, clock: Clock, random: Random, model: Model) -> Self {
        let (table, stream) = (storage.table("t").expect("t"), storage.stream("s").expect("s"));
        Self { random, clock, storage, table, stream, model }
    }

    fn live(&self, key: &str) -> Option<&Value> {
        let now_ms = self.clock.now_ms();
        let value = self.model.values.get(key)?;
        value.expires_ms.is_none_or(|at_ms| at_ms > now_ms).then_some(value)
    }

    fn durability(&mut self) -> Durability {
        match self.random.below(2) {
            0 => Durability::Durable,
            _ => Durability::Eventual,
        }
    }

    async fn step(&mut self) {
        match self.random.below(12) {
            0..=5 => self.write().await,
            6 | 7 => self.append().await,
            8 => self.follow().await,
            9 => self.acknowledge().await,
            10 => self.clock.advance_ms(self.random.below(200)),
            _ => self.compare().await,
        }
    }

    /// A batch of one to three puts and deletes, sometimes with conditions.
    async fn write(&mut self) {
        let mut batch = Batch::new();
        let mut after = self.model.values.clone();
        let mut puts = Vec::new();
        let mut holds = true;
        for _ in 0..=self.random.below(3) {
            let key = format!("key-{}", self.random.below(KEYS));
            if puts.iter().any(|(other, _)| *other == key) {
                continue;
            }
            let known = self.live(&key).map(|value| value.etag);
            let (expect, ok) = match self.random.below(6) {
                0 => (Expect::Absent, known.is_none()),
                1 => match known {
                    Some(etag) => (Expect::Etag(etag), true),
                    None => (Expect::Etag(1), false),
                },
                2 => (Expect::Etag(u64::MAX), false),
                _ => (Expect::Any, true),
            };
            holds &= ok;
            if self.random.below(4) == 0 {
                batch.delete(self.table, key.as_bytes(), expect);
                after.remove(&key);
                puts.push((key, None));
                continue;
            }
            let len = [3, 100, 300, 5000][self.random.below(4) as usize];
            let bytes = vec![self.random.next() as u8; len];
            let ttl_ms = (self.random.below(4) == 0).then(|| 1 + self.random.below(300));
            let put = Put { value: &bytes, ttl_ms, content_type: Some("text/x") };
            batch.put(self.table, key.as_bytes(), put, expect);
            let expires_ms = ttl_ms.map(|ttl_ms| self.clock.now_ms() + ttl_ms);
            puts.push((key, Some(Value { etag: 0, expires_ms, bytes })));
        }
        let durability = self.durability();
        let committed = self.storage.commit(batch, durability);
        assert_eq!(committed.is_ok(), holds, "{:?}", committed.map(drop));
        let Ok(commit) = committed else { return };
        let mut etag = commit.await.expect("synced").first_etag;
        for (key, value) in puts {
            if let Some(mut value) = value {
                assert!(etag > self.model.last_etag);
                self.model.last_etag = etag;
                value.etag = etag;
                etag += 1;
                after.insert(key, value);
            }
        }
        self.model.values = after;
    }

    async fn append(&mut self) {
        let topic = TOPICS[self.random.below(4) as usize];
        let mut batch = Batch::new();
        batch.append(self.stream, message(topic, topic.as_bytes()));
        let durability = self.durability();
        let commit = self.storage.commit(batch, durability).expect("there is room");
        let position = commit.await.expect("synced").first_position;
        let last = self.model.records.last().map_or(0, |(position, _)| *position);
        assert!(position > last);
        self.model.records.push((position, topic));
    }

    async fn follow(&mut self) {
        let (name, filter) = CONSUMERS[self.random.below(3) as usize];
        if self.model.consumers.contains_key(name) {
            if self.random.below(4) == 0 {
                self.model.consumers.remove(name);
                apply(&self.storage, |batch| batch.remove_consumer(self.stream, name))
                    .await
                    .expect("removed");
            }
            return;
        }
        let cursor = self.storage.last_position(self.stream);
        apply(&self.storage, |batch| {
            batch.set_consumer(self.stream, &consumer(name, filter, cursor));
        })
        .await
        .expect("set");
        let filter = Filter::new(filter).expect("a filter");
        self.model.consumers.insert(name, (filter, cursor, Vec::new()));
    }

    /// Positions a consumer still wants.
    fn wanted(&self, name: &str) -> Vec<u64> {
        let Some((filter, cursor, acknowledged)) = self.model.consumers.get(name) else {
            return Vec::new();
        };
        let wants = |(position, topic): &&(u64, &str)| {
            position > cursor && !acknowledged.contains(position) && filter.matches(topic)
        };
        self.model.records.iter().filter(wants).map(|(position, _)| *position).collect()
    }

    async fn acknowledge(&mut self) {
        let (name, _) = CONSUMERS[self.random.below(3) as usize];
        let wanted = self.wanted(name);
        let Some(last) = wanted.get(self.random.below(wanted.len() as u64) as usize) else {
            return;
        };
        let Some((_, cursor, acknowledged)) = self.model.consumers.get_mut(name) else { return };
        if self.random.below(3) == 0 {
            acknowledged.push(*last);
            acknowledged.sort_unstable();
        } else {
            *cursor = *last;
            acknowledged.retain(|position| position > cursor);
        }
        let mut batch = Batch::new();
        batch.move_consumer(self.stream, name, *cursor, acknowledged);
        let durability = self.durability();
        self.storage.commit(batch, durability).expect("moved").await.expect("moved");
    }

    async fn compare(&mut self) {
        let now_ms = self.clock.now_ms();
        let expected: Vec<(String, Value)> = self
            .model
            .values
            .iter()
            .filter(|(_, value)| value.expires_ms.is_none_or(|at_ms| at_ms > now_ms))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        // Durable ones are visible once awaited, so that everything is by now.
        for number in 0..KEYS {
            let key = format!("key-{number}");
            let found = self.storage.get(self.table, key.as_bytes()).expect("get");
            let known = self.live(&key);
            assert_eq!(found.as_ref().map(|entry| entry.etag), known.map(|value| value.etag));
            if let (Some(found), Some(known)) = (found, known) {
                assert_eq!((&*found.value, found.expires_ms), (&*known.bytes, known.expires_ms));
                assert_eq!(found.content_type.as_deref(), Some("text/x"));
            }
        }
        let found = self.storage.scan(self.table, b"key", None, 1000, 1 << 24).await.expect("scan");
        let found: Vec<_> = found.iter().map(|(key, entry)| (&**key, entry.etag)).collect();
        let expected: Vec<_> =
            expected.iter().map(|(key, value)| (key.as_bytes(), value.etag)).collect();
        assert_eq!(found, expected);
        for (name, (filter, cursor, acknowledged)) in &self.model.consumers {
            let filters = [filter.clone()];
            let (records, _) = self
                .storage
                .read(self.stream, *cursor, &filters, 10_000, 1 << 24)
                .await
                .expect("read");
            let found: Vec<u64> = records
                .iter()
                .map(|record| record.position)
                .filter(|position| !acknowledged.contains(position))
                .collect();
            assert_eq!(found, self.wanted(name), "{name}");
            for record in &records {
                assert_eq!(record.message.topic.as_bytes(), &*record.message.payload);
            }
            let (messages, _) = self.storage.backlog(self.stream, name).expect("a consumer");
            assert!(messages > 0 || found.is_empty(), "{name}: none counted of {}", found.len());
        }
    }
}

#[tokio::test]
async fn memory_agrees_with_a_map() {
    let clock = Clock::manual(1_000_000);
    let storage = Storage::memory(clock.clone(), 64 << 20);
    let mut run = Run::new(storage, clock, Random::new(seed()), Model::default());
    for _ in 0..4000 {
        run.step().await;
    }
    run.compare().await;
}

#[tokio::test]
async fn disk_agrees_with_a_map() {
    let disk = SimDisk::default();
    let clock = Clock::manual(1_000_000);
    let open = |clock: &Clock| {
        let options = StorageOptions { eventual_flush_ms: 1, ..small(clock.clone()) };
        Storage::open_disk(Arc::new(disk.clone()), options).expect("it opens")
    };
    let mut run = Run::new(open(&clock), clock.clone(), Random::new(seed()), Model::default());
    for _ in 0..40 {
        for _ in 0..100 {
            run.step().await;
        }
        run.compare().await;
        if run.random.below(4) == 0 {
            if run.random.below(2) == 0 {
                run.storage.close().await.expect("close");
            }
            let Run { random, storage, model, .. } = run;
            drop(storage);
            run = Run::new(open(&clock), clock.clone(), random, model);
            run.compare().await;
        }
    }
    assert!(run.storage.status().unhealthy.is_none());
}
