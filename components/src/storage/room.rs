//! Checkpoints on a disk that may be full.
//!
//! What deletes and acknowledges must find room whatever came before, in the tree too. The tree
//! grows with all its blocks or not at all, and when it cannot grow, what only removes goes first,
//! in small transactions. Their room is one of two. As long as there is a ballast, a file that is
//! good for nothing else, the tree may be filled to its last page: the ballast is given up then,
//! and the tree grows by it. Without a ballast, a checkpoint with new data leaves free pages in the
//! tree, or fails. The ballast is made again when there is room.
//!
//! A clean stop gives free pages at the end of the tree back to the filesystem; the next start
//! makes the ballast of them. Where a filesystem compresses, or does not overwrite in place, all this
//! is best effort.

use super::checkpoint::{self, Exact, STEP_REMOVALS};
use super::disk::Disk;
use super::engine::Below;
use super::format::Meta;
use super::tree::GROWTH_MIN;
use crate::error::{Error, Kind, Result};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Bounds of the ballast.
const BALLAST_BYTES_MIN: u64 = 256 << 10;
const BALLAST_BYTES_MAX: u64 = 1 << 20;

/// The ballast takes this part of the quota at most.
const BALLAST_PART: u64 = 64;

const BALLAST_STEP: u64 = 16 << 10;
const BALLAST: &str = "ballast";

/// Rows that a transaction removes from a tree that cannot grow: at first, and by how much fewer
/// when that was too much.
const STEP: usize = 64;
const STEP_PART: usize = 8;

/// Values that do not go before others have, at most: to remove one, what it shares a page with
/// may have to be copied, and that may need a larger piece than there is.
const SKIPS_MAX: usize = 8;

/// How often the tree is made larger for one checkpoint.
const GROWTHS_MAX: usize = 8;

/// Size of the ballast, in steps of its making.
pub(super) fn ballast_bytes(quota_bytes: u64) -> u64 {
    let bytes = (quota_bytes / BALLAST_PART).clamp(BALLAST_BYTES_MIN, BALLAST_BYTES_MAX);
    bytes / BALLAST_STEP * BALLAST_STEP
}

/// What the thread of the checkpoints knows of the disk.
#[derive(Debug)]
pub(super) struct Room {
    ballast_bytes: u64,
    has_ballast: bool,
    random: u64,
    /// The last checkpoint found no room for batches up to here. Without other batches and without
    /// room it would fail again, and write for nothing.
    stuck: Option<u64>,
}

impl Room {
    pub(super) fn new(quota_bytes: u64, random: u64) -> Self {
        Self { ballast_bytes: ballast_bytes(quota_bytes), has_ballast: false, random, stuck: None }
    }

    /// A checkpoint, see [`checkpoint::run`].
    pub(super) fn checkpoint(
        &mut self,
        below: &Below,
        upto: u64,
        exact: Option<&Exact>,
    ) -> Result<Meta> {
        let disk = below.log.disk.as_ref();
        if self.stuck == Some(upto) && disk.room().unwrap_or(u64::MAX) < GROWTH_MIN {
            return Err(Error::new(Kind::Full, "the disk is full"));
        }
        let all = |has_ballast: bool| {
            let run =
                || checkpoint::run(&below.tree, &below.log.segments, upto, exact, !has_ballast);
            attempt(run)
        };
        let mut result = all(self.has_ballast);
        let mut growths = 0;
        while is_full(&result) && growths < GROWTHS_MAX && reopen(below, true) {
            growths += 1;
            result = all(self.has_ballast);
        }
        if is_full(&result) {
            if growths == GROWTHS_MAX {
                reopen(below, false);
            }
            self.shrink(below, upto);
            result = all(self.has_ballast);
        }
        if result.is_err() {
            reopen(below, false);
        } else {
            self.load_ballast(disk);
        }
        self.stuck = is_full(&result).then_some(upto);
        result
    }

    /// Removes what batches up to `upto` let go of.
    fn shrink(&mut self, below: &Below, upto: u64) {
        let disk = below.log.disk.as_ref();
        let mut step = STEP;
        let mut skip = 0;
        let mut may_grow = true;
        loop {
            let run = || checkpoint::shrink(&below.tree, &below.log.segments, upto, step, skip);
            let result = attempt(run);
            if result.is_ok() {
                return;
            }
            if is_full(&result) && step > 1 {
                step /= STEP_PART;
                reopen(below, false);
            } else if is_full(&result) && std::mem::take(&mut may_grow) {
                self.has_ballast = false;
                if disk.remove(BALLAST).is_ok() {
                    let _ = disk.sync_names();
                }
                step = STEP;
                reopen(below, true);
            } else if is_full(&result) && skip < SKIPS_MAX {
                skip += 1;
                reopen(below, false);
            } else {
                reopen(below, false);
                return;
            }
        }
    }

    /// Removes what has expired.
    pub(super) fn sweep(&mut self, below: &Below, now_ms: u64) {
        for step in [STEP_REMOVALS, STEP] {
            loop {
                match attempt(|| checkpoint::sweep(&below.tree, now_ms, step)) {
                    Ok(true) => self.stuck = None,
                    Ok(false) => {
                        self.stuck = None;
                        return;
                    }
                    Err(_) => break,
                }
            }
            reopen(below, false);
        }
    }

    /// Makes the ballast if it is missing: random bytes, because filesystems compress.
    pub(super) fn load_ballast(&mut self, disk: &dyn Disk) {
        if self.has_ballast {
            return;
        }
        let Ok(file) = disk.open(BALLAST) else { return };
        let len = file.len().unwrap_or(0);
        self.has_ballast = len >= self.ballast_bytes;
        if self.has_ballast {
            return;
        }
        if len + disk.room().unwrap_or(u64::MAX) < self.ballast_bytes {
            let _ = disk.remove(BALLAST);
            return;
        }
        let mut chunk = vec![0; BALLAST_STEP as usize];
        for step in 0..self.ballast_bytes / BALLAST_STEP {
            for bytes in chunk.chunks_mut(8) {
                self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let random = (self.random ^ (self.random >> 29)).to_le_bytes();
                for (byte, new) in bytes.iter_mut().zip(random) {
                    *byte = new;
                }
            }
            if file.write_all_at(&chunk, step * BALLAST_STEP).is_err() {
                // There is no room for it now.
                let _ = disk.remove(BALLAST);
                return;
            }
        }
        self.has_ballast = file.sync().is_ok();
    }
}

fn is_full<T>(result: &Result<T>) -> bool {
    result.as_ref().is_err_and(|error| error.kind() == Kind::Full)
}

/// Runs; after an error the tree must be opened again.
fn attempt<T>(run: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(run))
        .unwrap_or_else(|_| Err(Error::new(Kind::Internal, "tree: redb gave up")))
}

/// Opens the tree again. Answers whether it has become larger.
fn reopen(below: &Below, grow: bool) -> bool {
    below.tree.reopen(grow).unwrap_or_else(|error| {
        tracing::error!(%error, "the tree could not be opened again");
        false
    })
}
