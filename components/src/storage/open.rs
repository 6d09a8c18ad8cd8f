//! Opening a data directory: tree, then log on top of it, then the threads.

use super::disk::{Directory, Disk};
use super::engine::{Below, Engine};
use super::formats::Formats;
use super::keeper::Keeper;
use super::log::segments::{self, Segments};
use super::log::{self, Log, Pace};
use super::room::{Room, ballast_bytes};
use super::tend::{Progress, tend};
use super::tree::{Opened, Tree, free_name};
use super::{OnDisk, Shared, Storage, StorageOptions};
use crate::error::{Error, Kind, Result};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::sync::Notify;

/// Fewest segments: one to write, one to take over, one kept back.
const SEGMENTS_MIN: usize = 3;

/// Bounds of a segment. Places count in 32 bits, and a batch needs some pages.
const SEGMENT_BYTES_MIN: u64 = 64 << 10;
const SEGMENT_BYTES_MAX: u64 = super::format::BATCH_BYTES_MAX as u64;

/// The log takes this part of the quota at most.
const LOG_PART: u64 = 4;

/// How names of damaged files begin that were kept.
const DAMAGED: &str = "damaged-";

/// Says that the tree was not there, until somebody has read it.
const MISSING: &str = "damaged-tree-is-missing";

impl Storage {
    pub(super) fn open_directory(options: StorageOptions) -> Result<Self> {
        let directory = Directory::open(&options.dir)?;
        Self::open_disk(Arc::new(directory), options)
    }

    /// Opens what is on `disk`.
    pub(super) fn open_disk(disk: Arc<dyn Disk>, options: StorageOptions) -> Result<Self> {
        Formats::here().settle(disk.as_ref(), options.format_max)?;
        let count = usize::from(options.log_segments).max(SEGMENTS_MIN);
        let segment_bytes = u64::from(options.segment_bytes)
            .min(options.quota_bytes / LOG_PART / count as u64)
            .clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX)
            .next_multiple_of(super::format::PAGE as u64);
        let opened = Tree::open(
            Arc::clone(&disk),
            options.cache_bytes as usize,
            crate::env::random_u64() | 1,
        )?;
        let Opened { tree, mut meta, damaged, is_new } = opened;
        let orphaned = if is_new { segments::store_of(disk.as_ref(), count) } else { None };
        if let Some(store) = orphaned {
            // The log goes on without its tree; its batches carry the number.
            meta.store = store;
            tree.put_meta(&meta)?;
            if damaged.is_none() {
                tracing::error!("there is a log but no tree: what was in it is lost");
                disk.open(MISSING)?;
            }
        }
        let files = Segments::open(disk.as_ref(), meta.store, segment_bytes as u32, count)?;
        let told = Arc::new(Notify::new());
        let pace = Pace {
            linger: Duration::from_millis(options.commit_linger_ms.into()),
            eventual_flush: Duration::from_millis(options.eventual_flush_ms.into()),
        };
        let log = Arc::new(Log::new(Arc::clone(&disk), files, Arc::clone(&told), pace));
        let below = Below { log: Arc::clone(&log), tree: Arc::new(tree) };
        let in_tree = meta.sequence;
        let quota_bytes = options.quota_bytes;
        let mut engine = Engine::over(options.clock.clone(), quota_bytes, below.clone(), &meta)?;
        let recovered = log
            .segments
            .recover(in_tree, orphaned.is_none(), |read| engine.replay(read, &mut meta))?;
        engine.replayed(&meta);
        options.clock.not_before(meta.clock_ms);
        for index in &recovered.damaged {
            keep_damaged(disk.as_ref(), *index, in_tree)?;
        }
        engine.write_preamble();
        let active = recovered.active.filter(|_| recovered.damaged.is_empty());
        let next_sequence = recovered.last.max(meta.sequence) + 1;
        let log_thread = log::start(Arc::clone(&log), options.clock, next_sequence, active)?;
        let (keeper, keeper_thread) =
            Keeper::start(below.clone(), Room::new(quota_bytes, meta.store))?;
        engine.reserve()?;
        let progress = Progress::after(in_tree, recovered.bytes);
        let log_bytes = segment_bytes * count as u64;
        let shared = Arc::new(Shared {
            engine: Mutex::new(engine),
            told: Arc::clone(&told),
            tended: AtomicBool::new(true),
            pressed: AtomicBool::new(!recovered.damaged.is_empty()),
            progress: Mutex::new(progress),
            disk: Some(OnDisk {
                below,
                keeper,
                threads: Mutex::new(vec![log_thread, keeper_thread]),
                checkpoint_log_bytes: log_bytes / 2,
                index_bytes_max: options.index_bytes_max.into(),
                fixed_bytes: log_bytes + ballast_bytes(quota_bytes),
                damaged: damage(disk.as_ref())?,
            }),
        });
        let runtime = tokio::runtime::Handle::try_current()
            .map_err(|_| Error::new(Kind::Internal, "storage is opened within a tokio runtime"))?;
        told.notify_one();
        runtime.spawn(tend(Arc::downgrade(&shared), told));
        Ok(Self { shared })
    }
}

/// Copies a damaged segment aside, once.
fn keep_damaged(disk: &dyn Disk, index: usize, sequence: u64) -> Result<()> {
    let names = disk.names()?;
    let name = format!("{DAMAGED}{}-{sequence}", segments::name(index));
    if names.contains(&name) {
        return Ok(());
    }
    tracing::error!(kept = name, "a batch of the log is damaged: the segment is copied aside");
    let partial = free_name(&names, "copying");
    let (from, to) = (disk.open(&segments::name(index))?, disk.open(&partial)?);
    let mut chunk = vec![0; 64 << 10];
    let len = from.len()?;
    let mut offset = 0;
    while offset < len {
        let step = (len - offset).min(chunk.len() as u64);
        let bytes = chunk.get_mut(..step as usize).unwrap_or_default();
        // What cannot be read is zeros in the copy.
        if from.read_exact_at(bytes, offset).is_err() {
            bytes.fill(0);
        }
        to.write_all_at(bytes, offset)?;
        offset += step;
    }
    to.sync()?;
    disk.rename(&partial, &name)?;
    disk.sync_names()?;
    Ok(())
}

/// What is wrong since some start, as long as its files are there.
fn damage(disk: &dyn Disk) -> Result<Option<String>> {
    let mut names = disk.names()?;
    names.retain(|name| name.starts_with(DAMAGED));
    names.sort_unstable();
    Ok((!names.is_empty()).then(|| {
        format!(
            "data was damaged; what was intact is served. Look at these files in the data \
             directory, then remove them: {}",
            names.join(", ")
        )
    }))
}
