//! Turns of the connections: all of them together handle a round of packets, then everything else
//! that can run has its turn.
//!
//! A burst of QoS 0 messages costs its publishers nothing, and the short queues of those who get
//! them would run over before they are scheduled once.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Packets of a round: a quarter of what the queue of a connected subscriber holds, since two
/// rounds may pass before it has its turn.
const ROUND: usize = 256;

/// The current round. Everything happens on one thread; the atomics are for the type's sake.
#[derive(Debug, Default)]
pub(super) struct Round {
    handled: AtomicUsize,
    number: AtomicUsize,
}

impl Round {
    /// One packet was handled.
    pub(super) fn count(&self) {
        self.handled.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether no more may be handled in this round.
    pub(super) fn is_over(&self) -> bool {
        self.handled.load(Ordering::Relaxed) >= ROUND
    }

    /// Waits for the next round. Whoever comes back first from a turn of everything begins it, so
    /// it does not matter if one who waits goes away.
    pub(super) async fn over(&self) {
        let number = self.number.load(Ordering::Relaxed);
        tokio::task::yield_now().await;
        if self.number.load(Ordering::Relaxed) == number {
            self.number.fetch_add(1, Ordering::Relaxed);
            self.handled.store(0, Ordering::Relaxed);
        }
    }
}
