//! How fast and how sparing it is. Not a test that can fail by itself: prints a table.
//!
//! `cargo test --release -p pillion-components --lib storage::tests::speed -- --ignored --nocapture`
//! writes below `PILLION_BENCH_DIR`, or the temporary directory: never measure on a tmpfs.

use super::*;
use std::os::unix::fs::FileExt;
use std::time::Instant;

const VALUE: [u8; 256] = [7; 256];

struct Bench {
    storage: Storage,
    table: Table,
    dir: PathBuf,
}

impl Bench {
    fn open() -> Self {
        let base =
            std::env::var_os("PILLION_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let dir = base.join(format!("pillion-speed-{}", crate::env::uuid()));
        let storage = Storage::open(StorageOptions::new(&dir, Clock::system())).expect("it opens");
        let table = storage.table("state").expect("a table");
        Self { storage, table, dir }
    }

    async fn save(&self, key: u64) {
        let mut batch = Batch::new();
        let key = format!("app||key-{key:08}");
        let put = Put { value: &VALUE, ttl_ms: None, content_type: Some("application/json") };
        batch.put(self.table, key.as_bytes(), put, Expect::Any);
        self.storage.commit(batch, Durability::Durable).expect("queued").await.expect("synced");
    }

    async fn fill(&self, keys: u64) {
        for chunk in 0..keys.div_ceil(500) {
            let mut batch = Batch::new();
            for key in chunk * 500..(chunk + 1) * 500 {
                let key = format!("app||key-{key:08}");
                let put =
                    Put { value: &VALUE, ttl_ms: None, content_type: Some("application/json") };
                batch.put(self.table, key.as_bytes(), put, Expect::Any);
            }
            self.storage.commit(batch, Durability::Durable).expect("queued").await.expect("synced");
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Bytes that this process caused to be written to disks.
fn write_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/io").expect("Linux");
    let line = text.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.expect("it is there").parse().expect("a number")
}

fn rss_kb() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.trim().split(' ').next());
    number.expect("it is there").parse().expect("a number")
}

fn percentile(times_us: &mut [f64], part: f64) -> f64 {
    times_us.sort_by(f64::total_cmp);
    times_us[((times_us.len() - 1) as f64 * part) as usize]
}

async fn lone(bench: &Bench, count: u64, mut key: impl FnMut() -> u64) -> (f64, f64) {
    let before = write_bytes();
    let mut times = Vec::new();
    for _ in 0..count {
        let key = key();
        let started = Instant::now();
        bench.save(key).await;
        times.push(started.elapsed().as_secs_f64() * 1e6);
    }
    let bytes = (write_bytes() - before) as f64 / count as f64;
    (percentile(&mut times, 0.5), bytes)
}

fn bare(dir: &std::path::Path) -> f64 {
    let file = std::fs::File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .open(dir.join("bare"))
        .expect("a file");
    file.write_all_at(&vec![0; 8 << 20], 0).expect("write");
    file.sync_all().expect("sync");
    let mut times = Vec::new();
    for page in 0..1000 {
        let started = Instant::now();
        file.write_all_at(&[1; 4096], page * 4096).expect("write");
        file.sync_data().expect("sync");
        times.push(started.elapsed().as_secs_f64() * 1e6);
    }
    percentile(&mut times, 0.5)
}

#[tokio::test]
#[ignore = "a measurement"]
async fn measure() {
    let started = Instant::now();
    let bench = Arc::new(Bench::open());
    println!("open of a new directory      {:8.1} ms", started.elapsed().as_secs_f64() * 1e3);
    let started = Instant::now();
    bench.save(0).await;
    println!("its first durable save       {:8.1} ms", started.elapsed().as_secs_f64() * 1e3);
    println!("RSS                          {:8} KB", rss_kb());
    let mut random = Random::new(1);

    // The zeros of the log are written once and counted to nobody.
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    let bare_us = bare(&bench.dir);
    println!("bare 4 KiB + fdatasync   p50 {bare_us:8.1} us");
    let mut next = 0;
    let (p50, bytes) = lone(&bench, 10_000, || {
        next = (next + 1) % 100;
        next
    })
    .await;
    println!("lone save, 100 hot keys  p50 {p50:8.1} us, {bytes:8.0} bytes each");

    bench.fill(200_000).await;
    println!("RSS with 200,000 keys        {:8} KB", rss_kb());
    let (p50, bytes) = lone(&bench, 20_000, || random.below(200_000)).await;
    println!("lone save, 200,000 keys  p50 {p50:8.1} us, {bytes:8.0} bytes each");
    println!("bare 4 KiB + fdatasync   p50 {:8.1} us", bare(&bench.dir));

    for (name, keys) in [("100 hot", 100_u64), ("200,000 random", 200_000)] {
        let started = Instant::now();
        let before = bench.storage.status();
        let mut tasks = Vec::new();
        const EACH: u64 = 4000;
        for writer in 0..64 {
            let bench = Arc::clone(&bench);
            tasks.push(tokio::spawn(async move {
                let mut random = Random::new(writer);
                for _ in 0..EACH {
                    bench.save(random.below(keys)).await;
                }
            }));
        }
        for task in tasks {
            task.await.expect("it works");
        }
        let seconds = started.elapsed().as_secs_f64();
        let status = bench.storage.status();
        println!(
            "64 writers, {name:15}  {:8.0} /s, {} syncs, {} checkpoints, RSS {} KB",
            (64 * EACH) as f64 / seconds,
            status.log_syncs - before.log_syncs,
            status.checkpoints - before.checkpoints,
            rss_kb(),
        );
    }

    let started = Instant::now();
    const GETS: u64 = 1_000_000;
    bench.save(5).await;
    for _ in 0..GETS {
        std::hint::black_box(bench.storage.get(bench.table, b"app||key-00000005").expect("get"));
    }
    let each = started.elapsed().as_secs_f64() * 1e9 / GETS as f64;
    println!("get of a hot key             {each:8.0} ns");
    let started = Instant::now();
    for number in 0..100_000_u64 {
        let key = format!("app||key-{:08}", random.below(200_000));
        std::hint::black_box(bench.storage.get(bench.table, key.as_bytes()).expect("get"));
        let _ = number;
    }
    println!("get of a random key          {:8.0} ns", started.elapsed().as_secs_f64() * 1e9 / 1e5);
    let started = Instant::now();
    for number in 0..100_000_u64 {
        let key = format!("app||key-{:08}", number % 100);
        loop {
            let mut batch = Batch::new();
            let put = Put { value: &VALUE, ..Put::default() };
            batch.put(bench.table, key.as_bytes(), put, Expect::Any);
            match bench.storage.commit(batch, Durability::Eventual) {
                Ok(commit) => break commit.await.map(|_| ()).expect("at once"),
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(1)).await,
            }
        }
        if number % 64 == 0 {
            tokio::task::yield_now().await;
        }
    }
    println!("eventual save                {:8.0} ns", started.elapsed().as_secs_f64() * 1e9 / 1e5);

    while bench.storage.shared.engine().waiting() > 0 {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }

    // Publish, deliver, acknowledge, one after the other.
    let stream = bench.storage.stream("s").expect("a stream");
    apply(&bench.storage, |batch| batch.set_consumer(stream, &consumer("c", "#", 0)))
        .await
        .expect("set");
    let before = write_bytes();
    let started = Instant::now();
    const MESSAGES: u64 = 10_000;
    for _ in 0..MESSAGES {
        let position =
            append(&bench.storage, stream, "sensors/1/temperature").await.expect("append");
        let mut batch = Batch::new();
        batch.move_consumer(stream, "c", position, &[]);
        bench.storage.commit(batch, Durability::Eventual).expect("moved").await.expect("moved");
    }
    println!(
        "message, acknowledged        {:8.1} us, {:8.0} bytes each",
        started.elapsed().as_secs_f64() * 1e6 / MESSAGES as f64,
        (write_bytes() - before) as f64 / MESSAGES as f64
    );
    let started = Instant::now();
    bench.storage.close().await.expect("close");
    println!("close                        {:8.1} ms", started.elapsed().as_secs_f64() * 1e3);
    println!("disk                         {:8} KB", bench.storage.status().disk_bytes >> 10);
}
