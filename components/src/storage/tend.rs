//! The task of storage on the event loop: it takes what the threads report, tells listeners, and
//! decides when a checkpoint begins.

use super::Shared;
use super::engine::Engine;
use super::log::Done;
use crate::error::Kind;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How often queues are looked through for what is too old, and the tree for what has expired.
const TICK: Duration = Duration::from_secs(30);

/// How long a checkpoint that failed waits before it is tried again: doubled up to the last.
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_secs(8);

/// Checkpoints because of a quota that is used up come at most this often: each costs writes.
const PRESSED: Duration = Duration::from_secs(1);

/// The index may grow to this many times the size at which a checkpoint starts; then new data
/// waits for the checkpoint.
const INDEX_GROWTH_MAX: u64 = 2;

/// Where checkpoints stand.
#[derive(Debug, Default)]
pub(super) struct Progress {
    running: bool,
    /// Bytes that were written to the log since the last one began.
    pub(super) log_bytes: u64,
    /// The tree holds batches up to this one.
    pub(super) upto: u64,
    is_starved: bool,
    started: Option<Instant>,
    /// The last one failed: how long the next waits, and until when.
    again: Option<(Duration, Instant)>,
    pub(super) finished: u64,
    /// What the last one failed of.
    pub(super) error: Option<String>,
}

impl Progress {
    /// Of a storage whose log holds so many bytes above this batch.
    pub(super) fn after(upto: u64, log_bytes: u64) -> Self {
        Self { log_bytes, upto, ..Self::default() }
    }

    /// The last one is long enough ago for one that is only asked for.
    fn is_rested(&self) -> bool {
        self.started.is_none_or(|started| started.elapsed() >= PRESSED)
    }
}

/// Runs until the storage is gone.
pub(super) async fn tend(shared: Weak<Shared>, told: Arc<Notify>) {
    let mut until = Instant::now() + TICK;
    let mut next_tick = until;
    loop {
        let _ = tokio::time::timeout_at(until, told.notified()).await;
        let Some(shared) = shared.upgrade() else { return };
        // Times are kept however often there is something else to do.
        let now = Instant::now();
        if now >= next_tick {
            next_tick = now + TICK;
            shared.tick();
        }
        until = shared.advance(now).map_or(next_tick, |until| until.min(next_tick));
        shared.tell();
    }
}

impl Shared {
    /// Takes reports, starts a checkpoint if it is time. Answers when to come again, if it knows.
    fn advance(&self, now: Instant) -> Option<Instant> {
        let disk = self.disk.as_ref()?;
        let mut engine = self.engine();
        let mut progress = self.progress();
        for done in disk.below.log.take_done() {
            match done {
                Done::Written { sequence, segment, at, last, bytes } => {
                    engine.written(sequence, segment, at, last);
                    progress.log_bytes += bytes;
                }
                Done::Starved => progress.is_starved = true,
                Done::Failed { commits, error, broken } => engine.failed(&commits, &error, broken),
                Done::Checkpointed { upto, result } => {
                    progress.running = false;
                    match result {
                        Ok(meta) => {
                            engine.live_bytes = meta.live_bytes;
                            engine.full = None;
                            progress.again = None;
                            progress.error = None;
                            progress.upto = upto;
                            progress.finished += 1;
                            let garbage = engine.let_go(upto);
                            disk.keeper.recycle(upto, garbage);
                        }
                        Err(error) => {
                            if progress.error.is_none() {
                                tracing::error!(%error, "a checkpoint failed; it is tried again");
                            }
                            let text = match error.kind() {
                                Kind::Full => "the disk is full: delete or acknowledge something, \
                                               or make room"
                                    .to_owned(),
                                _ => format!("the tree cannot be written: {error}"),
                            };
                            progress.error = Some(text.clone());
                            engine.full = Some(text);
                            let wait = progress.again.map_or(AGAIN, |(wait, _)| wait * 2);
                            let wait = wait.min(AGAIN_MAX);
                            progress.again = Some((wait, now + wait));
                        }
                    }
                }
            }
        }
        let index_bytes = engine.index_bytes();
        let pressed = self.pressed.load(Ordering::Relaxed);
        let due = match progress.again {
            Some((_, at)) => now >= at,
            None => {
                progress.log_bytes >= disk.checkpoint_log_bytes
                    || index_bytes >= disk.index_bytes_max
                    || progress.is_starved
                    || (pressed && progress.is_rested())
            }
        };
        if due && !progress.running && engine.sequence > progress.upto {
            self.start_checkpoint(&mut engine, &mut progress);
        }
        let pause = progress.running && index_bytes >= disk.index_bytes_max * INDEX_GROWTH_MAX;
        disk.below.log.set_room(engine.full.is_some(), pause);
        match progress.again {
            Some((_, at)) if !progress.running => Some(at),
            None if pressed && !progress.running && engine.sequence > progress.upto => {
                progress.started.map(|started| started + PRESSED)
            }
            _ => None,
        }
    }

    fn start_checkpoint(&self, engine: &mut Engine, progress: &mut Progress) {
        let Some(disk) = &self.disk else { return };
        let upto = engine.cut();
        progress.running = true;
        progress.log_bytes = 0;
        progress.is_starved = false;
        progress.started = Some(Instant::now());
        self.pressed.store(false, Ordering::Relaxed);
        disk.keeper.checkpoint(upto);
    }

    /// What time alone changes.
    fn tick(&self) {
        let mut engine = self.engine();
        if engine.end_old().is_err() || engine.closed {
            return;
        }
        if let Some(disk) = &self.disk {
            disk.keeper.sweep(engine.clock.now_ms());
        }
    }

    /// Calls the listeners, outside of every lock.
    fn tell(&self) {
        loop {
            let events = self.engine().take_events();
            if events.is_empty() {
                return;
            }
            let mut records = Vec::new();
            let mut events = events.into_iter().peekable();
            while let Some((stream, record)) = events.next() {
                records.push(record);
                if events.peek().is_some_and(|(next, _)| *next == stream) {
                    continue;
                }
                let listener = self
                    .engine()
                    .stream_state(stream)
                    .ok()
                    .and_then(|state| state.listener.clone());
                if let Some(listener) = listener {
                    listener(&records);
                }
                records.clear();
            }
        }
    }
}
