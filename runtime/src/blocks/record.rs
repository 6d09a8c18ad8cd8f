//! Counts and times of calls to one component, per app, operation and outcome.

use crate::app::App;
use crate::observe::metrics::{Counter, Family, Histogram};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The two families that a kind of component is recorded in; both have the labels `app_id`,
/// `component`, `namespace`, `operation`, `success`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Families {
    pub(super) count: &'static Family<Counter>,
    pub(super) latency: &'static Family<Histogram>,
}

/// The series of one component, found without building label texts. There are as many rows as
/// apps times operations times outcomes.
pub(super) struct Recorder {
    families: Families,
    component: Arc<str>,
    apps: Mutex<BTreeMap<Arc<str>, Vec<Row>>>,
}

struct Row {
    operation: &'static str,
    success: bool,
    count: Arc<Counter>,
    latency: Arc<Histogram>,
}

impl Recorder {
    pub(super) fn new(families: Families, component: Arc<str>) -> Self {
        Self { families, component, apps: Mutex::default() }
    }

    /// One more call.
    pub(super) fn record(&self, app: &App, operation: &'static str, success: bool, took: Duration) {
        let mut apps = self.apps.lock().unwrap_or_else(PoisonError::into_inner);
        if !apps.contains_key(&app.id) {
            apps.insert(app.id.clone(), Vec::new());
        }
        let Some(rows) = apps.get_mut(&app.id) else { return };
        let wanted = |row: &&Row| row.operation == operation && row.success == success;
        if let Some(row) = rows.iter().find(wanted) {
            row.observe(took);
            return;
        }
        let outcome = if success { "true" } else { "false" };
        let labels = [&*app.id, &*self.component, &*app.namespace, operation, outcome];
        let row = Row {
            operation,
            success,
            count: self.families.count.with(&labels),
            latency: self.families.latency.with(&labels),
        };
        row.observe(took);
        rows.push(row);
    }
}

impl Row {
    fn observe(&self, took: Duration) {
        self.count.inc();
        self.latency.observe(took);
    }
}
