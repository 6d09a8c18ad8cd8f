//! Counts and times of requests, per route, method and status.

use super::route::{KINDS, Kind};
use crate::observe::metrics::families::{HTTP_SERVER_LATENCY, HTTP_SERVER_REQUESTS};
use crate::observe::metrics::{Counter, Histogram};
use hyper::{Method, StatusCode};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Series kept at hand per route; a called app may answer any status with any method, and what is
/// over this bound is looked up in the family each time.
const ROWS_MAX: usize = 64;

/// The series of one app's listener, found without building label texts.
pub(super) struct Measure {
    app_id: Arc<str>,
    routes: Box<[Mutex<Vec<Row>>]>,
}

#[derive(Clone)]
struct Row {
    method: &'static str,
    status: StatusCode,
    count: Arc<Counter>,
    latency: Arc<Histogram>,
}

impl Measure {
    pub(super) fn new(app_id: Arc<str>) -> Self {
        Self { app_id, routes: (0..KINDS).map(|_| Mutex::default()).collect() }
    }

    /// One more request answered.
    pub(super) fn record(
        &self,
        kind: Kind,
        method: &'static str,
        status: StatusCode,
        took: Duration,
    ) {
        let Some(rows) = self.routes.get(kind as usize) else { return };
        let mut rows = rows.lock().unwrap_or_else(PoisonError::into_inner);
        let known = rows.iter().find(|row| row.status == status && row.method == method);
        if let Some(row) = known {
            row.observe(took);
            return;
        }
        let labels = [&*self.app_id, method, kind.template(), status.as_str()];
        let row = Row {
            method,
            status,
            count: HTTP_SERVER_REQUESTS.with(&labels),
            latency: HTTP_SERVER_LATENCY.with(&labels),
        };
        row.observe(took);
        if rows.len() < ROWS_MAX {
            rows.push(row);
        }
    }
}

impl Row {
    fn observe(&self, took: Duration) {
        self.count.inc();
        self.latency.observe(took);
    }
}

/// The method as a label: a client may invent methods, a label may not grow with them.
pub(super) fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::PATCH => "PATCH",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        Method::CONNECT => "CONNECT",
        Method::TRACE => "TRACE",
        _ => "other",
    }
}
