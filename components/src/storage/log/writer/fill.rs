//! Zeros ahead of the batches, so that a commit changes no metadata of a file.
//!
//! The first ones are written before the first batch, the rest while there is nothing else to do.
//! A disk that fills up before all segments are made leaves fewer of them: only what is filled is
//! used, until there is room.

use super::Writer;
use crate::storage::format::{HEADER, PAGE, padded};
use crate::storage::log::{Log, Written};
use std::time::{Duration, Instant};

/// Zeros are written ahead of the batches in steps of this size.
const FILL_BYTES: usize = 256 << 10;

/// How long a filling that failed waits before it is tried again.
pub(super) const FILL_AGAIN: Duration = Duration::from_secs(1);

/// How far a segment has been written; the zeros after that are still to come.
pub(super) fn filled(log: &Log, index: usize) -> usize {
    let len = log.segments.file(index).and_then(|file| file.len()).unwrap_or(0);
    usize::try_from(len).unwrap_or(usize::MAX).min(log.segments.segment_bytes as usize)
}

pub(super) fn is_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}

impl Writer {
    /// Whether a segment is filled, or can be.
    pub(super) fn is_usable(&self, index: usize) -> bool {
        let segment_bytes = self.log.segments.segment_bytes as usize;
        !self.is_fill_stuck || self.filled.get(index).is_some_and(|it| *it >= segment_bytes)
    }

    /// Makes sure of zeros where the next batch goes.
    pub(super) fn prepare(&mut self) -> Written {
        let size = padded(HEADER + self.payload.len());
        let Ok((index, offset, fresh)) = self.place(size) else { return Ok(()) };
        let preamble = if fresh { self.log.queue().preamble.len() } else { 0 };
        let end = offset + padded(size + preamble);
        while end <= self.log.segments.segment_bytes as usize
            && self.filled.get(index).is_some_and(|filled| *filled < end)
        {
            self.fill_step(index)?;
        }
        Ok(())
    }

    pub(super) fn fill_step(&mut self, index: usize) -> Written {
        // Page by page: see `DiskFile::forget_pages`.
        const ZEROS: [u8; PAGE] = [0; PAGE];
        let segment_bytes = self.log.segments.segment_bytes as usize;
        let file = self.log.segments.file(index)?;
        let Some(filled) = self.filled.get_mut(index) else { return Ok(()) };
        let end = (*filled + FILL_BYTES).min(segment_bytes);
        while *filled < end {
            let len = ZEROS.len().min(end - *filled);
            file.write_all_at(ZEROS.get(..len).unwrap_or(&ZEROS), *filled as u64)?;
            *filled += len;
        }
        Ok(())
    }

    /// Fills a little more, while there is nothing else to do.
    pub(super) fn fill_some(&mut self) {
        let segment_bytes = self.log.segments.segment_bytes as usize;
        let active = self.active.unwrap_or(0);
        let mut order = std::iter::once(active).chain(0..self.filled.len());
        let next = order
            .find(|index| self.filled.get(*index).is_some_and(|filled| *filled < segment_bytes));
        let Some(index) = next else {
            self.fill_at = None;
            return;
        };
        let step = self.fill_step(index).and_then(|()| self.log.segments.file(index)?.sync());
        self.is_fill_stuck = step.as_ref().is_err_and(is_full);
        self.fill_at = Some(match step {
            Ok(()) => Instant::now(),
            Err(_) => Instant::now() + FILL_AGAIN,
        });
    }
}
