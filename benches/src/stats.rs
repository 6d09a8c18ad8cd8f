//! Latencies, tables, limits.

use std::time::Duration;

/// Latencies of one measurement.
#[derive(Debug, Default)]
pub(crate) struct Latencies {
    ns: Vec<u64>,
    sorted: bool,
}

impl Latencies {
    pub(crate) fn add(&mut self, latency: Duration) {
        self.ns.push(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
        self.sorted = false;
    }

    pub(crate) fn len(&self) -> usize {
        self.ns.len()
    }

    /// The latency that so many of a thousand do not exceed, in milliseconds.
    pub(crate) fn at(&mut self, per_mille: usize) -> f64 {
        if !self.sorted {
            self.ns.sort_unstable();
            self.sorted = true;
        }
        let index = (self.ns.len() * per_mille / 1000).min(self.ns.len().saturating_sub(1));
        self.ns.get(index).map_or(f64::NAN, |ns| *ns as f64 / 1e6)
    }

    pub(crate) fn p50(&mut self) -> f64 {
        self.at(500)
    }

    pub(crate) fn p99(&mut self) -> f64 {
        self.at(990)
    }
}

/// A table that aligns its columns: the first to the left, the others to the right.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(titles: &[&str]) -> Self {
        Self { rows: vec![titles.iter().map(|&title| title.to_owned()).collect()] }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    pub(crate) fn print(&self, title: &str) {
        println!("\n{title}");
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.rows {
            let mut line = String::new();
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let padding = " ".repeat(width - cell.chars().count());
                match column {
                    0 => line.extend([cell.as_str(), &padding]),
                    _ => line.extend(["  ", &padding, cell]),
                }
            }
            println!("  {}", line.trim_end());
        }
    }
}

/// What was measured against what is allowed.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    all: Vec<Check>,
}

#[derive(Debug)]
struct Check {
    what: String,
    measured: f64,
    limit: f64,
    unit: &'static str,
    /// At least, not at most.
    floor: bool,
}

impl Checks {
    pub(crate) fn at_most(
        &mut self,
        what: impl Into<String>,
        measured: f64,
        limit: f64,
        unit: &'static str,
    ) {
        self.all.push(Check { what: what.into(), measured, limit, unit, floor: false });
    }

    pub(crate) fn at_least(
        &mut self,
        what: impl Into<String>,
        measured: f64,
        limit: f64,
        unit: &'static str,
    ) {
        self.all.push(Check { what: what.into(), measured, limit, unit, floor: true });
    }

    /// Prints them all; `false` when one is over its limit.
    pub(crate) fn print(&self) -> bool {
        let mut table = Table::new(&["limit", "measured", "allowed", "", ""]);
        let mut all_within = true;
        for check in &self.all {
            let within = if check.floor {
                check.measured >= check.limit
            } else {
                check.measured <= check.limit
            };
            all_within &= within;
            table.row(vec![
                check.what.clone(),
                number(check.measured),
                format!("{} {}", if check.floor { "≥" } else { "≤" }, number(check.limit)),
                check.unit.into(),
                if within { "ok" } else { "OVER" }.into(),
            ]);
        }
        if !self.all.is_empty() {
            table.print("Limits");
        }
        all_within
    }
}

/// A number with three digits that matter.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        _ if !value.is_finite() => "-".into(),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}
