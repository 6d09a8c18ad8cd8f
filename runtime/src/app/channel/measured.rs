//! Metrics of the calls to one app, with the series at hand.

use crate::observe::metrics::families::{HTTP_CLIENT_COMPLETED, HTTP_CLIENT_LATENCY};
use crate::observe::metrics::{Counter, Histogram};
use hyper::{Method, StatusCode};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Paths of one app that have series of their own; later ones share those of `other`. A path may
/// hold an id, and a family has a bound that all apps share.
const PATHS_MAX: usize = 32;
/// The label of paths beyond [`PATHS_MAX`].
const OTHER: &str = "other";

/// What was measured at one app.
#[derive(Debug, Default)]
pub(super) struct Measured {
    by_path: Mutex<HashMap<Box<str>, Vec<Series>>>,
}

#[derive(Debug)]
struct Series {
    method: Method,
    status: StatusCode,
    completed: Arc<Counter>,
    latency: Arc<Histogram>,
}

impl Measured {
    /// One call was answered with this status.
    pub(super) fn record(
        &self,
        app_id: &str,
        method: &Method,
        path: &str,
        status: StatusCode,
        elapsed: Duration,
    ) {
        let mut by_path = self.by_path.lock().unwrap_or_else(PoisonError::into_inner);
        let path =
            if by_path.len() < PATHS_MAX || by_path.contains_key(path) { path } else { OTHER };
        if !by_path.contains_key(path) {
            by_path.insert(path.into(), Vec::new());
        }
        let Some(all) = by_path.get_mut(path) else { return };
        let known = |one: &&Series| one.status == status && one.method == *method;
        if let Some(series) = all.iter().find(known) {
            series.completed.inc();
            series.latency.observe(elapsed);
            return;
        }
        let labels = [app_id, method.as_str(), path, status.as_str()];
        let completed = HTTP_CLIENT_COMPLETED.with(&labels);
        let latency = HTTP_CLIENT_LATENCY.with(&labels);
        completed.inc();
        latency.observe(elapsed);
        // Methods an app is called with are few, statuses at most 500: bounded by the caller's
        // checks and by HTTP.
        all.push(Series { method: method.clone(), status, completed, latency });
    }
}
