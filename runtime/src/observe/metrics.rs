//! Metrics: families of counters, gauges and histograms with labels, as Prometheus reads them.
//!
//! A family is a `static`; a series is made at the first use of its labels and kept. The number of
//! series of a family is bounded, so that unknown paths and topics cannot grow it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub mod families;
pub mod listener;
pub(crate) mod process;

/// Most series of one family; what comes after shares one whose labels are all `other`.
pub const SERIES_MAX: usize = 512;

/// Upper bounds of the latency buckets in milliseconds, as Dapr has them.
pub const LATENCY_BUCKETS_MS: [u32; 34] = [
    1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 25, 30, 40, 50, 65, 80, 100, 130, 160, 200, 250, 300, 400,
    500, 650, 800, 1000, 2000, 5000, 10000, 20000, 50000, 100_000,
];

/// A named set of series of one kind `S`, told apart by labels.
#[derive(Debug)]
pub struct Family<S> {
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    series: Mutex<BTreeMap<LabelValues, Arc<S>>>,
}

/// In the order of the labels.
type LabelValues = Box<[Box<str>]>;

impl<S: Series> Family<S> {
    /// A family without series. `labels` are in alphabetical order.
    pub const fn new(
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> Self {
        Self { name, help, labels, series: Mutex::new(BTreeMap::new()) }
    }

    /// The series of these label values, in the order of the labels. Hot paths keep the `Arc`.
    pub fn with(&self, values: &[&str]) -> Arc<S> {
        debug_assert_eq!(values.len(), self.labels.len(), "{}", self.name);
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let key: LabelValues = values.iter().map(|value| (*value).into()).collect();
        if let Some(found) = series.get(&key) {
            return found.clone();
        }
        let key = if series.len() < SERIES_MAX {
            key
        } else {
            self.labels.iter().map(|_| "other".into()).collect()
        };
        series.entry(key).or_default().clone()
    }

    /// Appends the family in Prometheus' text form; nothing while it has no series.
    pub fn write(&self, out: &mut String) {
        let series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        if series.is_empty() {
            return;
        }
        let _ = writeln!(out, "# HELP {} {}", self.name, self.help);
        let _ = writeln!(out, "# TYPE {} {}", self.name, S::TYPE);
        let mut labels = String::new();
        for (values, one) in series.iter() {
            labels.clear();
            for (label, value) in self.labels.iter().zip(values.iter()) {
                let comma = if labels.is_empty() { "" } else { "," };
                let _ = write!(labels, "{comma}{label}=\"{}\"", escape(value));
            }
            one.write(self.name, &labels, out);
        }
    }
}

/// Label text with the three escapes of Prometheus' text form.
fn escape(value: &str) -> std::borrow::Cow<'_, str> {
    if value.contains(['\\', '"', '\n']) {
        value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n").into()
    } else {
        value.into()
    }
}

/// What a family holds.
pub trait Series: Default {
    /// The word after `# TYPE`.
    const TYPE: &'static str;
    /// Appends the lines of one series.
    fn write(&self, name: &str, labels: &str, out: &mut String);
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn inc(&self) {
        self.add(1);
    }
    /// `by` more.
    pub fn add(&self, by: u64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }
    /// Takes over a total that is counted elsewhere.
    pub fn set(&self, total: u64) {
        self.0.store(total, Ordering::Relaxed);
    }
}

impl Series for Counter {
    const TYPE: &'static str = "counter";
    fn write(&self, name: &str, labels: &str, out: &mut String) {
        let _ = writeln!(out, "{name}{{{labels}}} {}", self.0.load(Ordering::Relaxed));
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Sets it.
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }
    /// Moves it.
    pub fn add(&self, by: i64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }
}

impl Series for Gauge {
    const TYPE: &'static str = "gauge";
    fn write(&self, name: &str, labels: &str, out: &mut String) {
        let _ = writeln!(out, "{name}{{{labels}}} {}", self.0.load(Ordering::Relaxed));
    }
}

/// Latencies in milliseconds.
#[derive(Debug)]
pub struct Histogram {
    buckets: [AtomicU64; LATENCY_BUCKETS_MS.len()],
    count: AtomicU64,
    sum_ns: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: [const { AtomicU64::new(0) }; LATENCY_BUCKETS_MS.len()],
            count: AtomicU64::new(0),
            sum_ns: AtomicU64::new(0),
        }
    }
}

impl Histogram {
    /// One more observation.
    pub fn observe(&self, elapsed: Duration) {
        let ns = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        let bucket = LATENCY_BUCKETS_MS.iter().position(|ms| ns <= u64::from(*ms) * 1_000_000);
        if let Some(slot) = bucket.and_then(|index| self.buckets.get(index)) {
            slot.fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add(ns, Ordering::Relaxed);
    }
}

impl Series for Histogram {
    const TYPE: &'static str = "histogram";
    fn write(&self, name: &str, labels: &str, out: &mut String) {
        let comma = if labels.is_empty() { "" } else { "," };
        let mut below = 0;
        for (bound_ms, slot) in LATENCY_BUCKETS_MS.iter().zip(&self.buckets) {
            below += slot.load(Ordering::Relaxed);
            let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{bound_ms}\"}} {below}");
        }
        let count = self.count.load(Ordering::Relaxed);
        let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {count}");
        let sum_ms = Duration::from_nanos(self.sum_ns.load(Ordering::Relaxed)).as_secs_f64() * 1e3;
        let _ = writeln!(out, "{name}_sum{{{labels}}} {sum_ms}");
        let _ = writeln!(out, "{name}_count{{{labels}}} {count}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_written_as_prometheus_reads_it() {
        let family: Family<Counter> = Family::new("t_total", "a test", &["app_id", "path"]);
        family.with(&["a", "/x\"y"]).add(2);
        let mut out = String::new();
        family.write(&mut out);
        let expected = "# HELP t_total a test\n# TYPE t_total counter\n\
                        t_total{app_id=\"a\",path=\"/x\\\"y\"} 2\n";
        assert_eq!(out, expected);
    }

    #[test]
    fn series_are_bounded() {
        let family: Family<Counter> = Family::new("t_total", "a test", &["topic"]);
        for n in 0..2 * SERIES_MAX {
            family.with(&[&n.to_string()]).inc();
        }
        let mut out = String::new();
        family.write(&mut out);
        assert_eq!(out.lines().count(), 2 + SERIES_MAX + 1);
        assert!(out.contains(&format!("t_total{{topic=\"other\"}} {SERIES_MAX}\n")));
    }
}
