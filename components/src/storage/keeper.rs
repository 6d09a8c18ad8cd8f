//! The second thread: checkpoints, and reads over ranges of the tree and the log.
//!
//! Jobs run one after the other. A read that knows places in the log was queued before the job
//! that gives their segments back, so the places hold until it has run.

use super::checkpoint::{self, Exact};
use super::disk::Disk;
use super::engine::Below;
use super::format::Meta;
use super::log::Done;
use super::log::segments::Segments;
use super::tree::Tree;
use crate::error::{Error, Kind, Result};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use tokio::sync::oneshot;

/// Room for a checkpoint that only removes, on a disk that is full: a transaction of redb copies
/// the pages on the way to what it changes.
const BALLAST_BYTES_MAX: u64 = 1 << 20;

/// The ballast takes this part of the quota at most.
const BALLAST_PART: u64 = 64;

/// Size of the ballast, in steps of its making.
pub(super) fn ballast_bytes(quota_bytes: u64) -> u64 {
    (quota_bytes / BALLAST_PART).min(BALLAST_BYTES_MAX) / BALLAST_STEP * BALLAST_STEP
}

const BALLAST_STEP: u64 = 16 << 10;
const BALLAST: &str = "ballast";

/// Reads that wait, at most.
const READS_MAX: usize = 1024;

type Read = Box<dyn FnOnce(&Tree, &Segments) + Send>;

/// What the thread is asked to do.
enum Job {
    Checkpoint {
        upto: u64,
    },
    /// Drops what the index let go of, and gives segments back.
    Recycle {
        upto: u64,
        garbage: Box<dyn Any + Send>,
    },
    Sweep {
        now_ms: u64,
    },
    Read(Read),
    /// A last checkpoint, with the numbers that the log only reserves.
    Finish {
        upto: u64,
        exact: Exact,
        answer: oneshot::Sender<Result<Meta>>,
    },
    Stop,
}

/// The way to the thread.
pub(super) struct Keeper {
    jobs: mpsc::Sender<Job>,
    reads: AtomicUsize,
}

impl Keeper {
    /// Starts the thread.
    pub(super) fn start(
        below: Below,
        ballast_bytes: u64,
    ) -> std::io::Result<(Self, JoinHandle<()>)> {
        let (jobs, queue) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("checkpoint".into())
            .stack_size(1 << 20)
            .spawn(move || run(&below, &queue, ballast_bytes))?;
        Ok((Self { jobs, reads: AtomicUsize::new(0) }, thread))
    }

    fn send(&self, job: Job) {
        // The thread ends only when it is told to.
        let _ = self.jobs.send(job);
    }

    pub(super) fn checkpoint(&self, upto: u64) {
        self.send(Job::Checkpoint { upto });
    }

    pub(super) fn recycle(&self, upto: u64, garbage: Box<dyn Any + Send>) {
        self.send(Job::Recycle { upto, garbage });
    }

    pub(super) fn sweep(&self, now_ms: u64) {
        self.send(Job::Sweep { now_ms });
    }

    pub(super) fn stop(&self) {
        self.send(Job::Stop);
    }

    pub(super) fn finish(&self, upto: u64, exact: Exact) -> oneshot::Receiver<Result<Meta>> {
        let (answer, receiver) = oneshot::channel();
        self.send(Job::Finish { upto, exact, answer });
        receiver
    }

    /// Runs `read` on the thread. It is in line when this returns, so that what the caller knows
    /// of places in the log stays true.
    pub(super) fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Tree, &Segments) -> Result<T> + Send + 'static,
    ) -> Result<oneshot::Receiver<Result<T>>> {
        if self.reads.fetch_add(1, Ordering::Relaxed) >= READS_MAX {
            self.reads.fetch_sub(1, Ordering::Relaxed);
            return Err(Error::new(Kind::Overloaded, "too many reads wait: try later"));
        }
        let (answer, receiver) = oneshot::channel();
        self.send(Job::Read(Box::new(move |tree, segments| {
            if !answer.is_closed() {
                let _ = answer.send(read(tree, segments));
            }
        })));
        Ok(receiver)
    }

    /// A read has been answered.
    pub(super) fn read_done(&self) {
        self.reads.fetch_sub(1, Ordering::Relaxed);
    }
}

fn run(below: &Below, queue: &mpsc::Receiver<Job>, ballast_bytes: u64) {
    let (log, tree) = (&below.log, &below.tree);
    let mut random = below.log.segments.store;
    load_ballast(log.disk.as_ref(), ballast_bytes, &mut random);
    for job in queue {
        match job {
            Job::Checkpoint { upto } => {
                let result = checkpoint(below, upto, None);
                if result.is_ok() {
                    load_ballast(log.disk.as_ref(), ballast_bytes, &mut random);
                }
                log.report(Done::Checkpointed { upto, result });
            }
            Job::Recycle { upto, garbage } => {
                drop(garbage);
                log.recycle(upto);
            }
            Job::Sweep { now_ms } => {
                while let Ok(true) = guarded(below, || checkpoint::sweep(tree, now_ms)) {}
            }
            Job::Read(read) => {
                let _ = catch_unwind(AssertUnwindSafe(|| read(tree, &log.segments)));
            }
            Job::Finish { upto, exact, answer } => {
                let _ = answer.send(checkpoint(below, upto, Some(&exact)));
            }
            Job::Stop => return,
        }
    }
}

/// A checkpoint. When the disk is full, the ballast makes room to remove things first.
fn checkpoint(below: &Below, upto: u64, exact: Option<&Exact>) -> Result<Meta> {
    let (log, tree) = (&below.log, &below.tree);
    let all = || checkpoint::run(tree, &log.segments, upto, exact);
    match guarded(below, all) {
        Err(error) if error.kind() == Kind::Full => {
            if log.disk.remove(BALLAST).is_ok() {
                let _ = log.disk.sync_names();
            }
            let _ = guarded(below, || checkpoint::shrink(tree, &log.segments, upto));
            guarded(below, all)
        }
        result => result,
    }
}

/// Runs with a tree that works: after an error it is opened again.
fn guarded<T>(below: &Below, run: impl FnOnce() -> Result<T>) -> Result<T> {
    let result = catch_unwind(AssertUnwindSafe(run))
        .unwrap_or_else(|_| Err(Error::new(Kind::Internal, "tree: redb gave up")));
    if result.is_err()
        && let Err(error) = below.tree.reopen()
    {
        tracing::error!(%error, "the tree could not be opened again");
    }
    result
}

/// Makes the ballast if it is missing: random bytes, because filesystems compress.
fn load_ballast(disk: &dyn Disk, ballast_bytes: u64, random: &mut u64) {
    let whole = |file: &std::sync::Arc<dyn super::disk::DiskFile>| {
        file.len().is_ok_and(|len| len >= ballast_bytes)
    };
    let Ok(file) = disk.open(BALLAST) else { return };
    if whole(&file) {
        return;
    }
    let mut chunk = vec![0; BALLAST_STEP as usize];
    for step in 0..ballast_bytes / BALLAST_STEP {
        for bytes in chunk.chunks_mut(8) {
            *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            for (byte, new) in bytes.iter_mut().zip((*random ^ (*random >> 29)).to_le_bytes()) {
                *byte = new;
            }
        }
        if file.write_all_at(&chunk, step * BALLAST_STEP).is_err() {
            // There is no room for it now.
            let _ = disk.remove(BALLAST);
            return;
        }
    }
    let _ = file.sync();
}
