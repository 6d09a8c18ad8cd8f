//! The time of an event: RFC 3339 in the machine's zone, to the second.

use jiff::Timestamp;
use jiff::tz::{Offset, TimeZone};
use std::sync::{Mutex, PoisonError};

/// RFC 3339 without a fraction: `2026-01-31T23:59:59+01:00`.
pub(crate) type Text = heapless::String<32>;

/// Formats times; the text of a second is made once.
#[derive(Debug, Default)]
pub(crate) struct LocalTime {
    last: Mutex<(i64, Text)>,
}

impl LocalTime {
    /// The text of a Unix time; `Z` where the zone is UTC or not known.
    pub(crate) fn text(&self, unix_ms: u64) -> Text {
        let second = i64::try_from(unix_ms / 1000).unwrap_or(i64::MAX);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.0 != second || last.1.is_empty() {
            *last = (second, format_in(&TimeZone::system(), second));
        }
        last.1.clone()
    }
}

fn format_in(zone: &TimeZone, second: i64) -> Text {
    let time = Timestamp::from_second(second).unwrap_or(Timestamp::MAX);
    let zoned = time.to_zoned(zone.clone());
    let pattern =
        if zoned.offset() == Offset::UTC { "%Y-%m-%dT%H:%M:%SZ" } else { "%Y-%m-%dT%H:%M:%S%:z" };
    let mut text = Text::new();
    let written =
        std::fmt::Write::write_fmt(&mut text, format_args!("{}", zoned.strftime(pattern)));
    debug_assert!(written.is_ok(), "25 bytes hold a time");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_carry_their_offset() {
        assert_eq!(format_in(&TimeZone::UTC, 1_769_903_999), "2026-01-31T23:59:59Z");
        let east = TimeZone::fixed(jiff::tz::offset(2));
        assert_eq!(format_in(&east, 1_769_903_999), "2026-02-01T01:59:59+02:00");
    }

    #[test]
    fn a_time_beyond_the_calendar_is_its_end() {
        assert!(format_in(&TimeZone::UTC, i64::MAX).starts_with("9999-12-"));
    }
}
