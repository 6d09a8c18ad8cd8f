//! The thread of the log.

mod fill;

use super::segments::Span;
use super::{
    BATCH_BYTES, Class, Done, EARLY_BYTES, Log, MOVES_FLUSH, MOVES_MAX, Queue, Written, broken,
    encode_moves, full,
};
use crate::env::Clock;
use crate::storage::format::{BatchHead, HEADER, padded};
use fill::{FILL_AGAIN, filled, is_full};
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Buffers beyond this are given back after use.
const BUFFER_KEEP_BYTES: usize = 2 * BATCH_BYTES;

/// Starts the thread; `next_sequence` is that of the next batch, `active` the segment to go on
/// with.
pub(in crate::storage) fn start(
    log: Arc<Log>,
    clock: Clock,
    next_sequence: u64,
    active: Option<usize>,
) -> std::io::Result<JoinHandle<()>> {
    let writer = Writer {
        filled: (0..log.segments.count()).map(|index| filled(&log, index)).collect(),
        log,
        clock,
        next_sequence,
        active,
        names_synced: false,
        fill_at: Some(Instant::now()),
        is_fill_stuck: false,
        payload: Vec::new(),
        batch: Vec::new(),
        broken: None,
        is_starved: false,
    };
    std::thread::Builder::new().name("log".into()).stack_size(256 << 10).spawn(move || writer.run())
}

struct Writer {
    log: Arc<Log>,
    clock: Clock,
    next_sequence: u64,
    active: Option<usize>,
    filled: Vec<usize>,
    names_synced: bool,
    /// When to go on filling segments; `None` when all are.
    fill_at: Option<Instant>,
    /// There was no room for more zeros: only what is filled can be used.
    is_fill_stuck: bool,
    payload: Vec<u8>,
    batch: Vec<u8>,
    broken: Option<String>,
    /// It was said that there is no room.
    is_starved: bool,
}

/// What to do next.
enum Step {
    Write { commits: Vec<u64> },
    Fail { commits: Vec<u64> },
    Fill,
    Stop,
}

impl Writer {
    fn run(mut self) {
        loop {
            match self.next_step() {
                Step::Write { commits } => self.write(commits),
                Step::Fail { commits } => {
                    self.log.report(Done::Failed { commits, error: full(), broken: false });
                }
                Step::Fill => self.fill_some(),
                Step::Stop => return,
            }
        }
    }

    fn next_step(&mut self) -> Step {
        let log = Arc::clone(&self.log);
        let mut queue = log.queue();
        loop {
            self.recycle(&mut queue);
            let now = Instant::now();
            if self.is_fill_stuck && self.fill_at.is_some_and(|at| at <= now) {
                return Step::Fill;
            }
            let due = self.due(&queue, now);
            if due.is_some_and(|due| due <= now) {
                match self.take(&mut queue) {
                    Some(Step::Fail { commits }) => {
                        if self.is_fill_stuck && !std::mem::replace(&mut self.is_starved, true) {
                            log.report(Done::Starved);
                        }
                        return Step::Fail { commits };
                    }
                    Some(step) => {
                        self.is_starved = false;
                        return step;
                    }
                    None => {}
                }
                // There is no room; somebody makes some and says so.
                if !std::mem::replace(&mut self.is_starved, true) {
                    log.report(Done::Starved);
                }
                let fill_at = self.fill_at.filter(|_| self.is_fill_stuck);
                queue = wait(&log, queue, fill_at.map(|at| at.saturating_duration_since(now)));
                continue;
            }
            if queue.stop {
                return Step::Stop;
            }
            if self.broken.is_none() && self.fill_at.is_some_and(|at| at <= now) {
                return Step::Fill;
            }
            let until = [due, self.fill_at].into_iter().flatten().min();
            queue = wait(&log, queue, until.map(|until| until.saturating_duration_since(now)));
        }
    }

    /// When something of the queue must be written.
    fn due(&self, queue: &Queue, now: Instant) -> Option<Instant> {
        if queue.waiting.is_empty() && queue.moves.is_empty() {
            return None;
        }
        let at_once = queue.stop
            || queue.queued_bytes() >= EARLY_BYTES
            || queue.moves.len() >= MOVES_MAX
            || self.broken.is_some();
        let pace = &self.log.pace;
        [
            at_once.then_some(now),
            queue.durable_since.map(|since| since + pace.linger),
            queue.eventual_since.map(|since| since + pace.eventual_flush),
            queue.moves_since.map(|since| since + MOVES_FLUSH),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Takes the next batch out of the queue; `None` when there is no room for it now.
    fn take(&mut self, queue: &mut Queue) -> Option<Step> {
        let mut class = Class::Moves;
        let mut len = 0;
        let mut count = 0;
        for waiting in &queue.waiting {
            if count > 0 && len + waiting.len > BATCH_BYTES {
                break;
            }
            let larger = class.max(waiting.class);
            if count > 0 && larger == Class::Data && class != Class::Data {
                break;
            }
            class = larger;
            len += waiting.len;
            count += 1;
        }
        let moves_len: usize = queue
            .moves
            .iter()
            .map(|((_, name), latest)| name.len() + 32 + 10 * latest.acknowledged.len())
            .sum();
        let size = padded(HEADER + len + moves_len);
        let may_wait = self.broken.is_none() && !queue.stop && !self.is_fill_stuck;
        if !self.has_room(size, queue.preamble.len(), class)
            || (class == Class::Data && queue.pause && may_wait && !queue.full)
        {
            if !queue.full && may_wait {
                return None;
            }
            return self.give_up(queue, class);
        }
        let end = queue.taken + len;
        self.payload.clear();
        self.payload.extend_from_slice(queue.bytes.get(queue.taken..end).unwrap_or_default());
        queue.taken = end;
        let commits = queue.waiting.drain(..count).map(|waiting| waiting.commit).collect();
        encode_moves(&queue.moves, &mut self.payload);
        queue.moves.clear();
        queue.moves_since = None;
        tidy(queue);
        Some(Step::Write { commits })
    }

    /// Nothing makes room for what waits: whoever needs it is told. Conditions of later commits
    /// were checked against the earlier ones, so they go together; moves depend on nobody.
    fn give_up(&mut self, queue: &mut Queue, class: Class) -> Option<Step> {
        // Moves wait for room, unless there are no segments to have it.
        let is_over = queue.stop || self.is_fill_stuck;
        if class == Class::Moves && !is_over {
            return None;
        }
        let mut commits = Vec::new();
        let mut kept = Vec::new();
        let mut at = queue.taken;
        for waiting in std::mem::take(&mut queue.waiting) {
            let end = at + waiting.len;
            if waiting.class == Class::Moves && !is_over {
                kept.extend_from_slice(queue.bytes.get(at..end).unwrap_or_default());
                queue.waiting.push_back(waiting);
            } else {
                commits.push(waiting.commit);
            }
            at = end;
        }
        if queue.stop {
            queue.moves.clear();
        }
        queue.bytes = kept;
        queue.taken = 0;
        tidy(queue);
        Some(Step::Fail { commits })
    }

    fn has_room(&self, size: usize, preamble: usize, class: Class) -> bool {
        let spans = self.log.segments.spans();
        let free = spans.iter().enumerate();
        let free = free.filter(|(index, span)| span.is_free() && self.is_usable(*index)).count();
        let kept_back = usize::from(class == Class::Data);
        let rest = self.active.map_or(0, |active| {
            let end = match self.filled.get(active) {
                Some(filled) if self.is_fill_stuck => *filled,
                _ => self.log.segments.segment_bytes as usize,
            };
            end.saturating_sub(spans.get(active).map_or(end, |span| span.end as usize))
        });
        let fresh = padded(size + preamble) <= self.log.segments.segment_bytes as usize;
        (size <= rest && free >= kept_back) || (fresh && free > kept_back)
    }

    fn recycle(&self, queue: &mut Queue) {
        let mut spans = self.log.segments.spans();
        for (index, span) in spans.iter_mut().enumerate() {
            let last = span.last.max(span.failed);
            if last > 0 && last <= queue.recycle_upto && self.active != Some(index) {
                *span = Span::default();
            }
        }
    }

    fn write(&mut self, mut commits: Vec<u64>) {
        if self.broken.is_none() && self.prepare().is_err_and(|error| is_full(&error)) {
            // No harm is done: the disk filled up before all segments were made.
            self.is_fill_stuck = true;
            self.fill_at = Some(Instant::now() + FILL_AGAIN);
            let log = Arc::clone(&self.log);
            if let Some(Step::Fail { commits: more }) = self.give_up(&mut log.queue(), Class::Data)
            {
                commits.extend(more);
            }
            log.report(Done::Failed { commits, error: full(), broken: false });
            return;
        }
        let mut written = match &self.broken {
            Some(_) => Err(std::io::Error::other("it failed before")),
            None => self.write_batch(),
        };
        if self.broken.is_none()
            && let Err(error) = &written
        {
            tracing::error!(%error, "a write or sync of the log failed: going on in a fresh segment");
            self.retire();
            written = self.write_batch();
        }
        match written {
            Ok((segment, at)) => {
                let sequence = self.next_sequence;
                self.next_sequence += 1;
                self.log.counters.batches.fetch_add(1, Ordering::Relaxed);
                let bytes = self.batch.len() as u64;
                let last = commits.last().copied();
                self.log.report(Done::Written { sequence, segment, at, last, bytes });
            }
            Err(error) => {
                self.retire();
                let text = self.broken.get_or_insert_with(|| error.to_string()).clone();
                let error = broken(&std::io::Error::other(text));
                self.log.report(Done::Failed { commits, error, broken: true });
            }
        }
        if self.batch.capacity() > BUFFER_KEEP_BYTES {
            self.batch = Vec::new();
            self.payload = Vec::new();
        }
    }

    /// Writes the payload as the next batch. Answers its segment and where the payload begins.
    fn write_batch(&mut self) -> Result<(u32, u32), std::io::Error> {
        let size = padded(HEADER + self.payload.len());
        let (index, offset, fresh) = self.place(size)?;
        self.batch.clear();
        self.batch.resize(HEADER, 0);
        if fresh {
            self.log.segments.file(index)?.forget_pages();
            let queue = self.log.queue();
            self.batch.extend_from_slice(&queue.preamble);
        }
        let at = offset + self.batch.len();
        self.batch.extend_from_slice(&self.payload);
        let (store, clock_ms) = (self.log.segments.store, self.clock.now_ms());
        BatchHead::seal(store, self.next_sequence, clock_ms, &mut self.batch);
        let end = offset + self.batch.len();
        if end > self.log.segments.segment_bytes as usize {
            return Err(std::io::Error::other("a batch is larger than a segment"));
        }
        self.active = Some(index);
        self.sync_batch(index, offset, end)?;
        if let Some(span) = self.log.segments.spans().get_mut(index) {
            if span.first == 0 {
                span.first = self.next_sequence;
            }
            span.last = self.next_sequence;
            span.end = u32::try_from(end).unwrap_or(u32::MAX);
        }
        Ok((index as u32, at as u32))
    }

    fn sync_batch(&mut self, index: usize, offset: usize, end: usize) -> Written {
        if !self.names_synced {
            self.log.disk.sync_names()?;
            self.names_synced = true;
        }
        while self.filled.get(index).is_some_and(|filled| *filled < end) {
            self.fill_step(index)?;
        }
        let file = self.log.segments.file(index)?;
        file.write_all_at(&self.batch, offset as u64)?;
        self.log.count_write(self.batch.len());
        file.sync()?;
        self.log.counters.syncs.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Where a batch of this size goes: on in the active segment, or to a fresh one.
    fn place(&self, size: usize) -> Result<(usize, usize, bool), std::io::Error> {
        let spans = self.log.segments.spans();
        if let Some(active) = self.active
            && let Some(span) = spans.get(active)
            && span.failed == 0
            && span.end as usize + size <= self.log.segments.segment_bytes as usize
            && (!self.is_fill_stuck
                || self.filled.get(active).is_some_and(|it| span.end as usize + size <= *it))
        {
            return Ok((active, span.end as usize, span.first == 0));
        }
        // The one that is filled furthest: at a first start that is the first.
        let free = spans.iter().enumerate();
        let free = free.filter(|(index, span)| span.is_free() && self.is_usable(*index));
        free.min_by_key(|(index, _)| {
            let filled = self.filled.get(*index).copied().unwrap_or(0);
            (std::cmp::Reverse(filled), *index)
        })
        .map(|(index, _)| (index, 0, true))
        .ok_or_else(|| std::io::Error::other("no free segment is left"))
    }

    fn retire(&mut self) {
        if let Some(active) = self.active.take()
            && let Some(span) = self.log.segments.spans().get_mut(active)
        {
            span.failed = self.next_sequence;
        }
    }
}

fn wait<'a>(
    log: &'a Log,
    mut queue: MutexGuard<'a, Queue>,
    at_most: Option<Duration>,
) -> MutexGuard<'a, Queue> {
    use std::sync::PoisonError;
    queue.fall_asleep();
    let mut queue = match at_most {
        Some(at_most) => {
            log.work.wait_timeout(queue, at_most).unwrap_or_else(PoisonError::into_inner).0
        }
        None => log.work.wait(queue).unwrap_or_else(PoisonError::into_inner),
    };
    queue.asleep = false;
    queue
}

/// After something was taken: times, memory.
fn tidy(queue: &mut Queue) {
    if queue.waiting.is_empty() {
        queue.durable_since = None;
        queue.eventual_since = None;
        queue.bytes.clear();
        queue.taken = 0;
        if queue.bytes.capacity() > BUFFER_KEEP_BYTES {
            queue.bytes.shrink_to(BUFFER_KEEP_BYTES);
        }
    } else if queue.taken > queue.bytes.len() / 2 {
        queue.bytes.drain(..queue.taken);
        queue.taken = 0;
    }
}
