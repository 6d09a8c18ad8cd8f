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

/// How often queues are looked through for what is too old, and the tree for what has expired.
const TICK: Duration = Duration::from_secs(30);

/// How long a checkpoint that failed waits before it is tried again: doubled up to the last.
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_secs(8);

/// The index may grow to this many times the size at which a checkpoint starts; then new data
/// waits for the checkpoint.
const INDEX_GROWTH_MAX: u64 = 4;

/// Where checkpoints stand.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) running: bool,
    /// Bytes that were written to the log since the last one began.
    pub(super) log_bytes: u64,
    /// The tree holds batches up to this one.
    pub(super) upto: u64,
    /// The last one failed: how long the next waits.
    pub(super) again: Option<Duration>,
    pub(super) finished: u64,
    /// What the last one failed of.
    pub(super) error: Option<String>,
}

/// Runs until the storage is gone.
pub(super) async fn tend(shared: Weak<Shared>, told: Arc<Notify>) {
    let mut wait = TICK;
    loop {
        let told = tokio::time::timeout(wait, told.notified()).await;
        let Some(shared) = shared.upgrade() else { return };
        if told.is_err() {
            shared.tick();
        }
        wait = shared.advance(told.is_err());
        shared.tell();
    }
}

impl Shared {
    /// Takes reports, starts a checkpoint if it is time. Answers when to come again.
    fn advance(&self, may_retry: bool) -> Duration {
        let Some(disk) = &self.disk else { return TICK };
        let mut engine = self.engine();
        let mut progress = self.progress();
        for done in disk.below.log.take_done() {
            match done {
                Done::Written { sequence, segment, at, last, bytes } => {
                    engine.written(sequence, segment, at, last);
                    progress.log_bytes += bytes;
                }
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
                            let again = progress.again.map_or(AGAIN, |again| again * 2);
                            progress.again = Some(again.min(AGAIN_MAX));
                        }
                    }
                }
            }
        }
        let index_bytes = engine.index_bytes();
        let due = match progress.again {
            Some(_) => may_retry,
            None => {
                progress.log_bytes >= disk.checkpoint_log_bytes
                    || index_bytes >= disk.index_bytes_max
                    || self.pressed.swap(false, Ordering::Relaxed)
            }
        };
        if due && !progress.running && engine.sequence > progress.upto {
            self.start_checkpoint(&mut engine, &mut progress);
        }
        let pause = progress.running && index_bytes >= disk.index_bytes_max * INDEX_GROWTH_MAX;
        disk.below.log.set_room(engine.full.is_some(), pause);
        match progress.again {
            Some(again) if !progress.running => again,
            _ => TICK,
        }
    }

    fn start_checkpoint(&self, engine: &mut Engine, progress: &mut Progress) {
        let Some(disk) = &self.disk else { return };
        let upto = engine.cut();
        progress.running = true;
        progress.log_bytes = 0;
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
