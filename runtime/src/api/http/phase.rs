//! What a connection waits for, known from outside its protocol.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// A new connection owes the head of a request; after an answer it is idle until bytes come, and
/// then owes the rest of a head again.
#[derive(Debug)]
pub(super) struct Phase {
    under_way: AtomicU32,
    head_begun: AtomicBool,
    answered: AtomicU32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waiting {
    /// For the rest of a request's head.
    Head,
    /// For nothing: between requests.
    Idle,
    /// For a handler, or for its answer to be read.
    Busy,
}

/// Held while a request is handled and its answer streams.
#[derive(Debug)]
pub(super) struct UnderWay(Arc<Phase>);

impl Phase {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            under_way: AtomicU32::new(0),
            head_begun: AtomicBool::new(true),
            answered: AtomicU32::new(0),
        })
    }

    /// A request's head is complete.
    pub(super) fn begin(self: &Arc<Self>) -> UnderWay {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        self.head_begun.store(false, Ordering::Relaxed);
        UnderWay(self.clone())
    }

    pub(super) fn waiting(&self) -> Waiting {
        if self.under_way.load(Ordering::Relaxed) > 0 {
            Waiting::Busy
        } else if self.head_begun.load(Ordering::Relaxed) {
            Waiting::Head
        } else {
            Waiting::Idle
        }
    }

    /// Requests finished, to tell one waiting from the next.
    pub(super) fn answered(&self) -> u32 {
        self.answered.load(Ordering::Relaxed)
    }

    /// The client sent something.
    pub(super) fn bytes_came(&self) {
        if self.under_way.load(Ordering::Relaxed) == 0 {
            self.head_begun.store(true, Ordering::Relaxed);
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
        self.0.answered.fetch_add(1, Ordering::Relaxed);
    }
}
