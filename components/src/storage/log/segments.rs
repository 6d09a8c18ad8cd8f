//! The files of the log: which batches each holds, reading them, finding damage.

use crate::error::Result;
use crate::storage::disk::{Disk, DiskFile};
use crate::storage::format::{self, BatchHead, HEADER, PAGE};
use crate::storage::keys::Place;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A segment whose first bytes, so many, are zeros has never been used. (A lost first page alone
/// does not hide what is behind it.)
const UNUSED_BYTES: usize = 16 * PAGE;

/// What a segment holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::storage) struct Span {
    /// Sequence of the first batch; 0 when the segment is free.
    pub(in crate::storage) first: u64,
    pub(in crate::storage) last: u64,
    /// Where the next batch goes.
    pub(in crate::storage) end: u32,
    /// A write or sync of this batch failed here: pages may be gone from the kernel, so that
    /// nothing is synced here again before all of it is in the tree. 0 when nothing failed.
    pub(in crate::storage) failed: u64,
}

impl Span {
    pub(in crate::storage) fn is_free(&self) -> bool {
        self.first == 0 && self.failed == 0
    }
}

/// The files of the log.
#[derive(Debug)]
pub(in crate::storage) struct Segments {
    pub(in crate::storage) store: u64,
    pub(in crate::storage) segment_bytes: u32,
    files: Vec<Arc<dyn DiskFile>>,
    spans: Mutex<Vec<Span>>,
}

/// A whole batch that was read.
pub(in crate::storage) struct Read<'a> {
    pub(in crate::storage) head: BatchHead,
    pub(in crate::storage) segment: u32,
    /// Where in the segment the records begin.
    pub(in crate::storage) at: u32,
    pub(in crate::storage) records: &'a [u8],
}

impl Read<'_> {
    /// The place of the last `len` bytes before `end`, which counts from the first record.
    pub(in crate::storage) fn place(&self, end: usize, len: usize) -> Place {
        let offset = (self.at as usize + end).saturating_sub(len);
        Place { segment: self.segment, offset: offset as u32, len: len as u32 }
    }
}

/// What a start found.
#[derive(Debug, Default)]
pub(in crate::storage) struct Recovered {
    /// Segments in which a batch is missing or bad, with good ones behind it.
    pub(in crate::storage) damaged: Vec<usize>,
    /// The last batch.
    pub(in crate::storage) last: u64,
    /// The segment that holds it.
    pub(in crate::storage) active: Option<usize>,
    /// Bytes of the segments that hold something.
    pub(in crate::storage) bytes: u64,
}

/// The number of the data directory as the first whole batch says it.
pub(in crate::storage) fn store_of(disk: &dyn Disk, count: usize) -> Option<u64> {
    (0..count).find_map(|index| {
        let file = disk.open(&name(index)).ok()?;
        let mut page = vec![0; PAGE];
        file.read_exact_at(&mut page, 0).ok()?;
        let (head, crc) = BatchHead::parse(&page)?;
        page.resize(head.padded().min(usize::try_from(file.len().ok()?).ok()?), 0);
        file.read_exact_at(&mut page, 0).ok()?;
        format::is_whole(&page, &head, crc).then_some(head.store)
    })
}

/// What was found in one segment.
#[derive(Debug, Default)]
struct Walked {
    span: Span,
    /// Pages that hold no batch stand before a batch of a later sequence.
    damaged: bool,
}

pub(in crate::storage) fn name(index: usize) -> String {
    format!("log-{index}")
}

impl Segments {
    /// Opens the files, makes those that are missing. Their names are not synced yet.
    pub(in crate::storage) fn open(
        disk: &dyn Disk,
        store: u64,
        segment_bytes: u32,
        count: usize,
    ) -> io::Result<Self> {
        let files: Vec<_> =
            (0..count).map(|index| disk.open(&name(index))).collect::<io::Result<_>>()?;
        for file in &files {
            file.forget_pages();
        }
        Ok(Self { store, segment_bytes, spans: Mutex::new(vec![Span::default(); count]), files })
    }

    pub(in crate::storage) fn file(&self, index: usize) -> io::Result<&Arc<dyn DiskFile>> {
        self.files.get(index).ok_or_else(|| io::Error::other("no such log segment"))
    }

    pub(in crate::storage) fn count(&self) -> usize {
        self.files.len()
    }

    pub(in crate::storage) fn spans(&self) -> MutexGuard<'_, Vec<Span>> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what a place names, in place of what is in `bytes`.
    pub(in crate::storage) fn read(&self, place: Place, bytes: &mut Vec<u8>) -> io::Result<()> {
        bytes.resize(place.len as usize, 0);
        self.file(place.segment as usize)?.read_exact_at(bytes, u64::from(place.offset))
    }

    /// Looks through the segments after a start, notes what they hold, and visits every whole
    /// batch after `from` in order. `is_strict` says that the tree is the one of this log, so that
    /// the first batch must follow it.
    ///
    /// Batches up to `from` are not needed: a segment that holds no others is not read.
    pub(in crate::storage) fn recover(
        &self,
        from: u64,
        is_strict: bool,
        mut visit: impl FnMut(&Read<'_>) -> Result<()>,
    ) -> Result<Recovered> {
        let mut firsts = Vec::new();
        let mut buffer = Vec::new();
        for index in 0..self.count() {
            match self.first(index, &mut buffer) {
                First::Unused => {}
                First::Batch(first) => firsts.push((first, index)),
                // Torn or damaged: only a look at all of it tells.
                First::Unknown => firsts.push((u64::MAX, index)),
            }
        }
        firsts.sort_unstable();
        let mut recovered = Recovered { last: from, ..Recovered::default() };
        for (order, (first, index)) in firsts.iter().enumerate() {
            let next = firsts.get(order + 1).map(|(next, _)| *next);
            if *first != u64::MAX && next.is_some_and(|next| next <= from + 1) {
                continue;
            }
            let walked = self.walk(*index, u32::MAX, from, &mut buffer, |_| Ok(()))?;
            if walked.damaged {
                recovered.damaged.push(*index);
            }
            if walked.span.last > from
                && let Some(span) = self.spans().get_mut(*index)
            {
                recovered.bytes += u64::from(walked.span.end);
                *span = walked.span;
            }
        }
        let mut gap_before = None;
        let last = &mut recovered.last;
        let active = &mut recovered.active;
        self.visit(from, u64::MAX, |read| {
            if read.head.sequence > *last + 1 && (*last > 0 || is_strict) {
                gap_before = gap_before.or(Some(read.segment as usize));
            }
            *last = read.head.sequence;
            *active = Some(read.segment as usize);
            visit(read)
        })?;
        if let Some(segment) = gap_before
            && recovered.damaged.is_empty()
        {
            recovered.damaged.push(segment);
        }
        Ok(recovered)
    }

    /// Visits whole batches after `from` up to `upto`, in order, each once.
    pub(in crate::storage) fn visit(
        &self,
        from: u64,
        upto: u64,
        mut visit: impl FnMut(&Read<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut order: Vec<(usize, Span)> = self.spans().iter().copied().enumerate().collect();
        order.retain(|(_, span)| span.first > 0 && span.last > from && span.first <= upto);
        order.sort_unstable_by_key(|(_, span)| span.first);
        let mut buffer = Vec::new();
        let mut last = from;
        for (index, span) in order {
            self.walk(index, span.end, from, &mut buffer, |read| {
                if read.head.sequence > last && read.head.sequence <= upto {
                    last = read.head.sequence;
                    visit(read)?;
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    fn first(&self, index: usize, buffer: &mut Vec<u8>) -> First {
        let Ok(file) = self.file(index) else { return First::Unused };
        let len = file.len().unwrap_or(0);
        if len == 0 {
            return First::Unused;
        }
        if let Some(head) = self.batch(file.as_ref(), 0, len, buffer) {
            return First::Batch(head.sequence);
        }
        buffer.clear();
        buffer.resize(UNUSED_BYTES.min(usize::try_from(len).unwrap_or(UNUSED_BYTES)), 0);
        match file.read_exact_at(buffer, 0) {
            Ok(()) if buffer.iter().all(|byte| *byte == 0) => First::Unused,
            _ => First::Unknown,
        }
    }

    /// The batch at `offset`, whole, in `buffer`.
    fn batch(
        &self,
        file: &dyn DiskFile,
        offset: u64,
        end: u64,
        buffer: &mut Vec<u8>,
    ) -> Option<BatchHead> {
        // What is there already need not be zeroed: it is read over.
        buffer.resize(PAGE, 0);
        if offset + PAGE as u64 > end {
            return None;
        }
        file.read_exact_at(buffer, offset).ok()?;
        let (head, crc) = BatchHead::parse(buffer)?;
        let padded = head.padded();
        if head.store != self.store || offset + padded as u64 > end {
            return None;
        }
        if padded > PAGE {
            buffer.resize(padded, 0);
            file.read_exact_at(buffer.get_mut(PAGE..)?, offset + PAGE as u64).ok()?;
        }
        format::is_whole(buffer, &head, crc).then_some(head)
    }

    /// Goes through one segment page by page, over what is torn or damaged. Batches of a lower
    /// sequence than one before them are left from an earlier use.
    fn walk(
        &self,
        index: usize,
        end: u32,
        from: u64,
        buffer: &mut Vec<u8>,
        mut visit: impl FnMut(&Read<'_>) -> Result<()>,
    ) -> Result<Walked> {
        let file = self.file(index)?;
        let end = file.len()?.min(u64::from(end));
        let mut walked = Walked::default();
        let mut offset = 0;
        let mut bad_since = None;
        while offset < end {
            let Some(head) = self.batch(file.as_ref(), offset, end, buffer) else {
                bad_since = bad_since.or(Some(offset));
                offset += PAGE as u64;
                continue;
            };
            let next = offset + head.padded() as u64;
            if head.sequence > walked.span.last {
                if bad_since.is_some()
                    || (walked.span.last > 0 && head.sequence > walked.span.last + 1)
                {
                    // Old batches behind a torn beginning are no news; new ones are damage.
                    walked.damaged |= head.sequence > from;
                    bad_since = None;
                }
                if walked.span.first == 0 {
                    walked.span.first = head.sequence;
                }
                walked.span.last = head.sequence;
                walked.span.end = u32::try_from(next).unwrap_or(u32::MAX);
                let at = u32::try_from(offset).unwrap_or(u32::MAX).saturating_add(HEADER as u32);
                let records = buffer.get(HEADER..HEADER + head.len as usize).unwrap_or_default();
                visit(&Read { head, segment: index as u32, at, records })?;
            } else {
                bad_since = bad_since.or(Some(offset));
            }
            offset = next;
        }
        Ok(walked)
    }
}

enum First {
    Unused,
    Batch(u64),
    Unknown,
}
