//! The time of an event: RFC 3339 in the machine's zone, to the second.

use pillion_components::env::local_time;
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
            *last = (second, format(&local_time(second)));
        }
        last.1.clone()
    }
}

fn format(tm: &libc::tm) -> Text {
    use std::fmt::Write as _;
    let mut text = Text::new();
    let (year, month) = (tm.tm_year + 1900, tm.tm_mon + 1);
    let (hour, minute, second) = (tm.tm_hour, tm.tm_min, tm.tm_sec);
    let day = tm.tm_mday;
    let mut written =
        write!(text, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
    let minutes = tm.tm_gmtoff / 60;
    written = written.and(match minutes {
        0 => text.push('Z').map_err(|_| std::fmt::Error),
        _ => {
            let sign = if minutes < 0 { '-' } else { '+' };
            write!(text, "{sign}{:02}:{:02}", minutes.abs() / 60, minutes.abs() % 60)
        }
    });
    debug_assert!(written.is_ok(), "25 bytes hold a time");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tm(offset_s: i64) -> libc::tm {
        // SAFETY: `tm` is numbers and a pointer, for which zero is a value.
        let mut tm: libc::tm = unsafe { std::mem::zeroed() };
        (tm.tm_year, tm.tm_mon, tm.tm_mday) = (126, 0, 31);
        (tm.tm_hour, tm.tm_min, tm.tm_sec) = (23, 59, 59);
        tm.tm_gmtoff = offset_s as _;
        tm
    }

    #[test]
    fn times_carry_their_offset() {
        assert_eq!(format(&tm(0)), "2026-01-31T23:59:59Z");
        assert_eq!(format(&tm(7200)), "2026-01-31T23:59:59+02:00");
        assert_eq!(format(&tm(-12_600)), "2026-01-31T23:59:59-03:30");
    }

    #[test]
    fn a_time_beyond_the_calendar_is_its_end() {
        assert!(format(&local_time(i64::MAX)).starts_with("9999-12-31"));
    }

    #[test]
    fn the_local_time_is_the_same_moment() {
        let text = LocalTime::default().text(1_769_903_999_000);
        let moment: jiff::Timestamp = text.parse().expect("RFC 3339");
        assert_eq!(moment.as_second(), 1_769_903_999);
    }
}
