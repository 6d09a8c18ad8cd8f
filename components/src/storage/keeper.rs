//! The second thread: checkpoints, and reads over ranges of the tree and the log.
//!
//! Jobs run one after the other. A read that knows places in the log was queued before the job
//! that gives their segments back, so the places hold until it has run.

use super::checkpoint::Exact;
use super::engine::Below;
use super::format::Meta;
use super::log::Done;
use super::log::segments::Segments;
use super::room::Room;
use super::tree::Tree;
use crate::error::{Error, Kind, Result};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use tokio::sync::oneshot;

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
    pub(super) fn start(below: Below, room: Room) -> std::io::Result<(Self, JoinHandle<()>)> {
        let (jobs, queue) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("checkpoint".into())
            .stack_size(1 << 20)
            .spawn(move || run(&below, &queue, room))?;
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

fn run(below: &Below, queue: &mpsc::Receiver<Job>, mut room: Room) {
    let (log, tree) = (&below.log, &below.tree);
    room.load_ballast(log.disk.as_ref());
    for job in queue {
        match job {
            Job::Checkpoint { upto } => {
                let result = room.checkpoint(below, upto, None);
                log.report(Done::Checkpointed { upto, result });
            }
            Job::Recycle { upto, garbage } => {
                drop(garbage);
                log.recycle(upto);
            }
            Job::Sweep { now_ms } => room.sweep(below, now_ms),
            Job::Read(read) => {
                let _ = catch_unwind(AssertUnwindSafe(|| read(tree, &log.segments)));
            }
            Job::Finish { upto, exact, answer } => {
                let _ = answer.send(room.checkpoint(below, upto, Some(&exact)));
            }
            Job::Stop => return,
        }
    }
}
