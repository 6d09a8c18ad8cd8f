//! The settings of one component, as its resource wrote them.
//!
//! Dapr calls them metadata: names are matched without case, values are text. A component reads
//! each setting through a typed getter; what is left over at the end is unknown and reported.

use crate::error::{Error, Kind, Result};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Name and text of each setting of one component; secrets are already resolved.
#[derive(Default)]
pub struct Options {
    entries: BTreeMap<String, Entry>,
}

struct Entry {
    value: String,
    was_read: AtomicBool,
}

impl std::fmt::Debug for Options {
    /// Names only: a value may be a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.entries.keys()).finish()
    }
}

impl<N: AsRef<str>, V: Into<String>> FromIterator<(N, V)> for Options {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        let entry = |(name, value): (N, V)| {
            let entry = Entry { value: value.into(), was_read: AtomicBool::new(false) };
            (name.as_ref().to_ascii_lowercase(), entry)
        };
        Self { entries: pairs.into_iter().map(entry).collect() }
    }
}

impl Options {
    /// The text of a setting; an empty text counts as absent.
    pub fn text(&self, name: &str) -> Option<&str> {
        let entry = self.entries.get(&name.to_ascii_lowercase())?;
        entry.was_read.store(true, Ordering::Relaxed);
        Some(entry.value.as_str()).filter(|text| !text.is_empty())
    }

    /// The text of a setting that must be there.
    pub fn required(&self, name: &str) -> Result<&str> {
        self.text(name)
            .ok_or_else(|| Error::new(Kind::Invalid, format!("missing metadata '{name}'")))
    }

    /// A truth value by Dapr's rule: y, yes, true, t, on, 1 are true, anything else is false.
    pub fn truthy(&self, name: &str, default: bool) -> bool {
        self.text(name).map_or(default, is_truthy)
    }

    /// A number between `min` and `max`.
    pub fn number(&self, name: &str, default: u64, min: u64, max: u64) -> Result<u64> {
        let Some(text) = self.text(name) else { return Ok(default) };
        match text.trim().parse::<u64>() {
            Ok(number) if (min..=max).contains(&number) => Ok(number),
            _ => Err(Error::new(
                Kind::Invalid,
                format!("metadata '{name}' is '{text}': write a whole number from {min} to {max}"),
            )),
        }
    }

    /// A size in bytes: `1048576`, `64Ki`, `4Mi`, `1G`.
    pub fn bytes(&self, name: &str, default: u64) -> Result<u64> {
        let Some(text) = self.text(name) else { return Ok(default) };
        parse_bytes(text).ok_or_else(|| {
            Error::new(
                Kind::Invalid,
                format!("metadata '{name}' is '{text}': write a size such as 65536, 64Ki or 4Mi"),
            )
        })
    }

    /// A duration in Go's form: `1h2m3.5s`, `300ms`.
    pub fn duration(&self, name: &str, default: Duration) -> Result<Duration> {
        let Some(text) = self.text(name) else { return Ok(default) };
        parse_duration(text).ok_or_else(|| {
            Error::new(
                Kind::Invalid,
                format!("metadata '{name}' is '{text}': write a duration such as 500ms, 10s or 1h"),
            )
        })
    }

    /// Names of settings that were never asked for, to warn about.
    pub fn unknown(&self) -> Vec<&str> {
        let unread = |entry: &Entry| !entry.was_read.load(Ordering::Relaxed);
        self.entries.iter().filter(|(_, e)| unread(e)).map(|(name, _)| name.as_str()).collect()
    }

    /// Every setting, names in lower case.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries.iter().map(|(name, entry)| (name.as_str(), entry.value.as_str()))
    }
}

/// Dapr's rule for truth values in text.
pub fn is_truthy(text: &str) -> bool {
    ["y", "yes", "true", "t", "on", "1"].iter().any(|word| text.trim().eq_ignore_ascii_case(word))
}

/// A size: digits with an optional suffix `k M G` (thousands) or `Ki Mi Gi` (1024s).
pub fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, suffix) = text.split_at(digits);
    let factor: u64 = match suffix.trim_end_matches('B') {
        "" => 1,
        "k" | "K" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// A duration in Go's form: one or more numbers with units h, m, s, ms, us, µs, ns; `0` alone too.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut seconds = 0.0_f64;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(number_end);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let unit_seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * unit_seconds;
        rest = tail;
    }
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_no_case_and_leftovers_are_known() {
        let options: Options = [("KeyPrefix", "name"), ("colour", "red")].into_iter().collect();
        assert_eq!(options.text("keyprefix"), Some("name"));
        assert_eq!(options.unknown(), ["colour"]);
    }

    #[test]
    fn durations_and_sizes() {
        assert_eq!(parse_duration("1h2m3.5s"), Some(Duration::from_millis(3_723_500)));
        assert_eq!(parse_duration("1h0m0s0ms0\u{3bc}s"), Some(Duration::from_secs(3600)));
        assert_eq!(parse_duration("5"), None);
        assert_eq!(parse_bytes("4Mi"), Some(4 << 20));
        assert_eq!(parse_bytes("16M"), Some(16_000_000));
        assert_eq!(parse_bytes("x"), None);
    }
}
