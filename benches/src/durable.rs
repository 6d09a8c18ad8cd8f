//! What a durable save costs: a lone writer against a bare overwrite with fdatasync on the same
//! filesystem, and many writers that share syncs.

use crate::app::App;
use crate::load::{self, Shape, Target, Until};
use crate::pillion::{Place, Process, Scratch};
use crate::rows::{self, HOT_KEYS, VALUE_BYTES};
use crate::stats::{Checks, Latencies, Table, number};
use crate::{Options, Result, sys};
use pillion_components::context::Context;
use pillion_components::env::Clock;
use pillion_components::options::Options as Settings;
use pillion_components::state::{CATALOGUE, Consistency, Set, StateStore};
use pillion_components::storage::{Storage, StorageOptions};
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Keys in the store before the lone writer starts: over 16 MB.
const STORE_KEYS: usize = 80_000;
/// Writers at a time through the interface of `components`.
const WRITERS: usize = 64;
/// Saves a second they must reach where a sync takes less than [`FAST_SYNC_MS`].
const SAVES_PER_SECOND_MIN: f64 = 30_000.0;
const FAST_SYNC_MS: f64 = 0.5;
/// A page, as the log pads to.
const PAGE: usize = 4096;
/// Size of the preallocated file: two segments of the log.
const BARE_FILE_BYTES: usize = 16 << 20;

/// Measures all three.
pub(crate) fn measure(options: &Options, binary: &Path, checks: &mut Checks) -> Result<()> {
    let scratch = Scratch::new("durable")?;
    let mut bare = overwrite(scratch.path(), options.duration())?;
    let (bare_p50, bare_p99) = (bare.p50(), bare.p99());

    let app = App::start()?;
    let pillion = Process::pillion(binary, scratch.path(), app.address, options.place())?;
    rows::fill(pillion.http, STORE_KEYS)?;
    let saves =
        Target { address: pillion.http, requests: rows::durable_saves(0..HOT_KEYS), status: 204 };
    let until = Until::Time(options.duration());
    let mut lone = load::run(&saves, Shape::Closed { connections: 1 }, until)?;
    let mut many = load::run(&saves, Shape::Closed { connections: WRITERS }, until)?;
    pillion.stop()?;

    // Storage's own threads start here and want room.
    sys::pin(0..sys::cpus())?;
    let (through_components, syncs) = group_commit(&scratch.path().join("components"), options)?;
    if options.place() == Place::Apart {
        sys::pin(0..1)?;
    }

    let mut table =
        Table::new(&["durable, 256 bytes", "p50 ms", "p99 ms", "per second", "per sync"]);
    let rate = |latencies: &Latencies| latencies.len() as f64 / options.duration().as_secs_f64();
    let cell = |value: f64| number(value);
    table.row(vec![
        "bare overwrite of 4 KiB + fdatasync".into(),
        cell(bare_p50),
        cell(bare_p99),
        cell(rate(&bare)),
        "1".into(),
    ]);
    let (p50, p99) = (lone.latencies.p50(), lone.latencies.p99());
    table.row(vec![
        "HTTP, a lone writer".into(),
        cell(p50),
        cell(p99),
        cell(lone.per_second()),
        String::new(),
    ]);
    checks.at_most("durable save: p50 of a lone writer", p50, bare_p50 * 1.5 + 0.3, "ms");
    let (p50, p99) = (many.latencies.p50(), many.latencies.p99());
    let name = "HTTP, 64 writers";
    table.row(vec![name.into(), cell(p50), cell(p99), cell(many.per_second()), String::new()]);
    let mut through = through_components;
    let per_second = rate(&through);
    table.row(vec![
        "components, 64 writers".into(),
        cell(through.p50()),
        cell(through.p99()),
        cell(per_second),
        cell(through.len() as f64 / syncs.max(1) as f64),
    ]);
    if bare_p50 < FAST_SYNC_MS {
        checks.at_least("durable saves of 64 writers", per_second, SAVES_PER_SECOND_MIN, "/s");
    }
    table.print("Durable saves");
    Ok(())
}

/// Overwrites a preallocated file page by page, each with an fdatasync: the floor of a commit.
pub(crate) fn overwrite(dir: &Path, duration: Duration) -> Result<Latencies> {
    let mut file = File::create(dir.join("bare"))?;
    file.write_all(&vec![0; BARE_FILE_BYTES])?;
    file.sync_all()?;
    let page = [0x5a; PAGE];
    let mut latencies = Latencies::default();
    let started = Instant::now();
    for n in 0_u64.. {
        let now = Instant::now();
        if now.duration_since(started) >= duration {
            break;
        }
        let pages = u64::try_from(BARE_FILE_BYTES / PAGE)?;
        file.seek(SeekFrom::Start(n % pages * u64::try_from(PAGE)?))?;
        file.write_all(&page)?;
        file.sync_data()?;
        latencies.add(now.elapsed());
    }
    Ok(latencies)
}

/// Saves by 64 writers at a time through the interface of a state store, and the syncs they took.
fn group_commit(dir: &Path, options: &Options) -> Result<(Latencies, u64)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let clock = Clock::system();
        let storage = Storage::open(StorageOptions {
            dir: dir.to_owned(),
            segment_bytes: 8 << 20,
            log_segments: 4,
            quota_bytes: 1 << 30,
            commit_linger_ms: 0,
            eventual_flush_ms: 1000,
            cache_bytes: 1 << 20,
            index_bytes_max: 8 << 20,
            format_max: None,
            clock: clock.clone(),
        })
        .map_err(|error| error.to_string())?;
        let opened = storage.clone();
        let context = Context {
            name: "statestore".into(),
            app_id: "bench".into(),
            clock,
            storage: Arc::new(move || Ok(opened.clone())),
        };
        let row = CATALOGUE.iter().find(|row| row.type_name == "state.redb");
        let open = row.ok_or("there is no state.redb")?.open;
        let store = open(&Settings::default(), &context).map_err(|error| error.to_string())?;
        let end = Instant::now() + options.duration();
        let before = storage.status().log_syncs;
        let writers: Vec<_> =
            (0..WRITERS).map(|writer| tokio::spawn(write(store.clone(), writer, end))).collect();
        let mut all = Latencies::default();
        for writer in writers {
            for latency in writer.await?? {
                all.add(latency);
            }
        }
        let syncs = storage.status().log_syncs - before;
        storage.close().await.map_err(|error| error.to_string())?;
        Ok((all, syncs))
    })
}

async fn write(
    store: Arc<dyn StateStore>,
    writer: usize,
    end: Instant,
) -> Result<Vec<Duration>, String> {
    let mut latencies = Vec::new();
    let value = bytes::Bytes::from(vec![b'x'; VALUE_BYTES]);
    for n in 0.. {
        let started = Instant::now();
        if started >= end {
            break;
        }
        let set = Set {
            key: format!("k{}", (writer + n * WRITERS) % 10_000),
            value: value.clone(),
            consistency: Consistency::Strong,
            ..Set::default()
        };
        store.set(set).await.map_err(|error| error.to_string())?;
        latencies.push(started.elapsed());
    }
    Ok(latencies)
}
