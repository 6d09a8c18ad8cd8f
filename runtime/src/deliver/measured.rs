//! Counts of one subscription's deliveries.

use super::feed::Feed;
use crate::observe::metrics::families::{PUBSUB_INGRESS_COUNT, PUBSUB_INGRESS_LATENCY};
use crate::observe::metrics::{Counter, Histogram};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What the app answered: a word of its own or of ours, or an HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Status {
    Word(&'static str),
    Http(u16),
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Status::Word(word) => f.write_str(word),
            Status::Http(status) => write!(f, "{status}"),
        }
    }
}

/// Series made so far; there are as many as outcomes, so that they need no other bound.
#[derive(Debug, Default)]
pub(super) struct Measured {
    series: Mutex<BTreeMap<(&'static str, Status), Series>>,
}

#[derive(Debug)]
struct Series {
    count: Arc<Counter>,
    latency: Arc<Histogram>,
}

impl Feed {
    /// Counts one delivery. `process_status` is `success`, `retry` or `drop`.
    pub(super) fn record(&self, process_status: &'static str, status: Status, elapsed: Duration) {
        let mut all = self.measured.series.lock().unwrap_or_else(PoisonError::into_inner);
        let series = all.entry((process_status, status)).or_insert_with(|| {
            let (app, plan, status) = (&*self.app, &self.plan, status.to_string());
            let labels =
                [&*app.id, &*plan.pubsub, &*app.namespace, process_status, &*status, &*plan.topic];
            Series {
                count: PUBSUB_INGRESS_COUNT.with(&labels),
                latency: PUBSUB_INGRESS_LATENCY.with(&labels),
            }
        });
        series.count.inc();
        series.latency.observe(elapsed);
    }
}
