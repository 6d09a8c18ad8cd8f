//! Shutdown as a value: whoever holds a [`Drain`] delays the exit, and hears when to finish.

use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Held by every task that must finish its work before the process ends.
#[derive(Debug, Clone)]
pub struct Drain {
    told: watch::Receiver<bool>,
    /// Never sent on: the last clone dropped is the event.
    _alive: mpsc::Sender<()>,
}

/// The other end: tells everyone, waits for the last.
#[derive(Debug)]
pub struct Shutdown {
    tell: watch::Sender<bool>,
    alive: mpsc::Receiver<()>,
}

/// How the process is asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Drain, then exit 0.
    Graceful,
    /// At once, with exit code 1.
    Forced,
}

/// Asks the process to end; the daemon listens at the other end.
pub type RequestExit = mpsc::UnboundedSender<Exit>;

/// A new pair.
pub fn channel() -> (Shutdown, Drain) {
    let (tell, told) = watch::channel(false);
    let (alive_sender, alive) = mpsc::channel(1);
    (Shutdown { tell, alive }, Drain { told, _alive: alive_sender })
}

impl Drain {
    /// Resolves when the process begins to shut down; at once if it already has. Cancel safe.
    pub async fn started(&mut self) {
        // An error means that `Shutdown` is gone, which is the same news.
        let _ = self.told.wait_for(|told| *told).await;
    }

    /// Whether the process is shutting down.
    pub fn has_started(&self) -> bool {
        *self.told.borrow()
    }
}

impl Shutdown {
    /// Tells everyone who holds a [`Drain`]; more than once is harmless.
    pub fn tell(&self) {
        self.tell.send_replace(true);
    }

    /// Tells everyone and waits until the last [`Drain`] is dropped. `false` when `limit` ran out.
    pub async fn drained(mut self, limit: Duration) -> bool {
        self.tell();
        tokio::time::timeout(limit, self.alive.recv()).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_last_holder_is_waited_for() {
        let (shutdown, mut drain) = channel();
        let worker = tokio::spawn(async move {
            drain.started().await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        });
        assert!(shutdown.drained(Duration::from_secs(5)).await);
        assert!(worker.is_finished());
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_never_finishes_is_not_waited_for_beyond_the_limit() {
        let (shutdown, _drain) = channel();
        assert!(!shutdown.drained(Duration::from_secs(5)).await);
    }
}
