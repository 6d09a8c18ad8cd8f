//! What a schedule's text means, and when it comes next. No clock: times go in and come out.
//!
//! A field is a list of `*`, `n`, `a-b`, each with `/step` if wanted; `n/step` goes to the end of
//! the field, `?` is `*`. Months and days of the week have English names of three letters; Sunday
//! is 0 or 7. Where both days are restricted either suffices, as in cron.

use crate::env::local_time;
use crate::error::{Error, Kind, Result};
use crate::options::parse_duration;
use std::time::Duration;

/// A schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule(When);

#[derive(Debug, Clone, PartialEq, Eq)]
enum When {
    Every(Duration),
    Fields(Fields),
}

/// A bit for each value of a field.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Fields {
    second: u64,
    minute: u64,
    hour: u64,
    day: u64,
    month: u64,
    weekday: u64,
    /// Both days are restricted: one of them suffices.
    either_day: bool,
}

/// A field's lowest and highest value and the names of values.
struct Range {
    min: u32,
    max: u32,
    names: &'static [&'static str],
}

const SECOND: Range = Range { min: 0, max: 59, names: &[] };
const MINUTE: Range = SECOND;
const HOUR: Range = Range { min: 0, max: 23, names: &[] };
const DAY: Range = Range { min: 1, max: 31, names: &[] };
const MONTH: Range = Range {
    min: 1,
    max: 12,
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
};
const WEEKDAY: Range =
    Range { min: 0, max: 7, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] };

/// Shortest `@every`; below it, it is this.
const EVERY_MIN: Duration = Duration::from_secs(1);

/// How far ahead a time is looked for: over two leap days with a turn of a century between them.
const LOOK_AHEAD_S: i64 = 9 * 366 * 86_400;

/// A day to look from whether a schedule names any: in 2026.
const SOME_DAY_S: i64 = 1_770_000_000;

const HOUR_S: i64 = 3600;

impl Schedule {
    /// Reads a schedule; the error says which field is wrong.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        let wrong = |why: String| {
            Error::new(Kind::Invalid, format!("metadata 'schedule' is '{text}': {why}"))
        };
        if let Some(period) = text.strip_prefix("@every ") {
            let period = parse_duration(period).filter(|period| !period.is_zero());
            let period = period.ok_or_else(|| wrong("write @every 30s, @every 1h30m".into()))?;
            return Ok(Self(When::Every(period.max(EVERY_MIN))));
        }
        let fields = match text.to_ascii_lowercase().as_str() {
            "@yearly" | "@annually" => "0 0 0 1 1 *",
            "@monthly" => "0 0 0 1 * *",
            "@weekly" => "0 0 0 * * 0",
            "@daily" | "@midnight" => "0 0 0 * * *",
            "@hourly" => "0 0 * * * *",
            other if other.starts_with('@') => {
                let why = "write @every TIME, @yearly, @monthly, @weekly, @daily or @hourly";
                return Err(wrong(why.into()));
            }
            _ => text,
        };
        let fields = Fields::parse(fields).map_err(wrong)?;
        if fields.after(SOME_DAY_S, local_time).is_none() {
            return Err(wrong("no calendar has such a day".into()));
        }
        Ok(Self(When::Fields(fields)))
    }

    /// The time between two events, of an `@every`.
    pub fn period(&self) -> Option<Duration> {
        match self.0 {
            When::Every(period) => Some(period),
            When::Fields(_) => None,
        }
    }

    /// The first Unix second after `after_s` that the fields name, in the machine's zone. `None`
    /// for an `@every`, and where there is none within nine years.
    pub fn after(&self, after_s: i64) -> Option<i64> {
        match &self.0 {
            When::Every(_) => None,
            When::Fields(fields) => fields.after(after_s, local_time),
        }
    }
}

impl Fields {
    fn parse(text: &str) -> Result<Self, String> {
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let (second, rest) = match words.as_slice() {
            [minute, rest @ ..] if rest.len() == 4 => ("0", [&[*minute], rest].concat()),
            [second, rest @ ..] if rest.len() == 5 => (*second, rest.to_vec()),
            _ => return Err(format!("it has {} fields: five, or six with seconds", words.len())),
        };
        let [minute, hour, day, month, weekday] = rest.as_slice() else {
            return Err("it has too few fields".to_owned());
        };
        let is_restricted = |word: &str| !word.starts_with(['*', '?']);
        let weekdays = bits("day of week", weekday, &WEEKDAY)?;
        Ok(Self {
            second: bits("second", second, &SECOND)?,
            minute: bits("minute", minute, &MINUTE)?,
            hour: bits("hour", hour, &HOUR)?,
            day: bits("day of month", day, &DAY)?,
            month: bits("month", month, &MONTH)?,
            // Sunday is 7, too.
            weekday: weekdays | (weekdays >> 7),
            either_day: is_restricted(day) && is_restricted(weekday),
        })
    }

    fn has_day(&self, tm: &libc::tm) -> bool {
        let day = has(self.day, tm.tm_mday);
        let weekday = has(self.weekday, tm.tm_wday);
        let fits = if self.either_day { day || weekday } else { day && weekday };
        fits && has(self.month, tm.tm_mon + 1)
    }

    /// Walks from one candidate to the next, a step as large as cannot miss one: to the next
    /// minute, the next hour, and near the end of a day that does not fit, as zones shift by
    /// less than three hours.
    fn after(&self, after_s: i64, local: impl Fn(i64) -> libc::tm) -> Option<i64> {
        let mut at_s = after_s.checked_add(1)?;
        let end_s = at_s.checked_add(LOOK_AHEAD_S)?;
        while at_s < end_s {
            let tm = local(at_s);
            let in_minute_s = i64::from(tm.tm_sec);
            let in_hour_s = i64::from(tm.tm_min) * 60 + in_minute_s;
            at_s += if !self.has_day(&tm) {
                let hours = i64::from(20 - tm.tm_hour).max(0);
                HOUR_S - in_hour_s + hours * HOUR_S
            } else if !has(self.hour, tm.tm_hour) {
                HOUR_S - in_hour_s
            } else if !has(self.minute, tm.tm_min) {
                (60 - in_minute_s).max(1)
            } else if has(self.second, tm.tm_sec) {
                return Some(at_s);
            } else {
                1
            };
        }
        None
    }
}

fn has(bits: u64, value: i32) -> bool {
    // A leap second, 60, is no second of a schedule.
    u32::try_from(value).is_ok_and(|value| value < 60 && bits & (1 << value) != 0)
}

fn bits(name: &str, text: &str, range: &Range) -> Result<u64, String> {
    let wrong = |part: &str| {
        format!(
            "its {name} '{part}' is none: write {} to {}, *, a-b, lists with a comma, /step",
            range.min, range.max
        )
    };
    let mut bits = 0;
    for part in text.split(',') {
        let (span, step) = match part.split_once('/') {
            Some((span, step)) => (span, step.parse().ok().filter(|step| *step > 0)),
            None => (part, Some(1)),
        };
        let step: usize = step.ok_or_else(|| wrong(part))?;
        let value = |word: &str| range.value(word).ok_or_else(|| wrong(part));
        let (first, last) = match span.split_once('-') {
            Some((first, last)) => (value(first)?, value(last)?),
            None if span == "*" || span == "?" => (range.min, range.max),
            None if part.contains('/') => (value(span)?, range.max),
            None => (value(span)?, value(span)?),
        };
        if first > last {
            return Err(wrong(part));
        }
        for value in (first..=last).step_by(step) {
            bits |= 1_u64 << value;
        }
    }
    Ok(bits)
}

impl Range {
    fn value(&self, word: &str) -> Option<u32> {
        let named = self.names.iter().position(|name| name.eq_ignore_ascii_case(word));
        let named = named.and_then(|index| u32::try_from(index).ok()).map(|index| index + self.min);
        let number = || word.parse().ok();
        named.or_else(number).filter(|value| (self.min..=self.max).contains(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A zone for tests: UTC by jiff, moved by `offset_s(second)`.
    fn zone(second: i64, offset_s: i64) -> libc::tm {
        let moved = jiff::Timestamp::from_second(second + offset_s).unwrap();
        let civil = moved.to_zoned(jiff::tz::TimeZone::UTC).datetime();
        // SAFETY: `tm` is numbers and a pointer, for which zero is a value.
        let mut tm: libc::tm = unsafe { std::mem::zeroed() };
        (tm.tm_mon, tm.tm_mday) = (i32::from(civil.month()) - 1, i32::from(civil.day()));
        (tm.tm_hour, tm.tm_min) = (i32::from(civil.hour()), i32::from(civil.minute()));
        tm.tm_sec = i32::from(civil.second());
        tm.tm_wday = i32::from(civil.weekday().to_sunday_zero_offset());
        tm
    }

    fn utc(second: i64) -> libc::tm {
        zone(second, 0)
    }

    fn at(text: &str) -> i64 {
        text.parse::<jiff::Timestamp>().unwrap().as_second()
    }

    fn next(schedule: &str, after: &str, local: fn(i64) -> libc::tm) -> String {
        let Schedule(When::Fields(fields)) = Schedule::parse(schedule).unwrap() else { panic!() };
        let next = fields.after(at(after), local);
        jiff::Timestamp::from_second(next.unwrap()).unwrap().to_string()
    }

    #[test]
    fn the_next_time_is_the_first_that_fits() {
        for (schedule, after, expected) in [
            ("* * * * *", "2026-01-31T23:59:30Z", "2026-02-01T00:00:00Z"),
            ("* * * * * *", "2026-01-31T23:59:59Z", "2026-02-01T00:00:00Z"),
            ("*/15 * * * * *", "2026-01-31T23:59:31Z", "2026-01-31T23:59:45Z"),
            ("0 12 * * *", "2026-01-31T12:00:00Z", "2026-02-01T12:00:00Z"),
            ("30 3 31 * *", "2026-02-01T00:00:00Z", "2026-03-31T03:30:00Z"),
            ("0 0 29 2 *", "2026-03-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("0 0 29 2 *", "2096-03-01T00:00:00Z", "2104-02-29T00:00:00Z"),
            ("0 9-17/4 * * mon-FRI", "2026-01-30T17:00:00Z", "2026-02-02T09:00:00Z"),
            ("0 0 13 * 5", "2026-02-07T00:00:00Z", "2026-02-13T00:00:00Z"),
            ("0 0 1 * 7", "2026-02-02T00:00:00Z", "2026-02-08T00:00:00Z"),
            ("1/18446744073709551615 0 * * *", "2026-02-02T00:00:00Z", "2026-02-02T00:01:00Z"),
            ("5/20 0 * * ?", "2026-02-02T00:05:00Z", "2026-02-02T00:25:00Z"),
            ("@hourly", "2026-02-02T00:00:00Z", "2026-02-02T01:00:00Z"),
            ("@weekly", "2026-02-02T00:00:00Z", "2026-02-08T00:00:00Z"),
            ("@yearly", "2026-02-02T00:00:00Z", "2027-01-01T00:00:00Z"),
            ("0 0 1 JAN,jul *", "2026-02-02T00:00:00Z", "2026-07-01T00:00:00Z"),
        ] {
            assert_eq!(next(schedule, after, utc), expected, "{schedule} after {after}");
        }
    }

    /// Every second of three days is tried by hand and compared, in zones that shift within them.
    #[test]
    fn walking_misses_no_second() {
        /// An hour forward in the middle of the span, as at the begin of summer time.
        fn forward(second: i64) -> libc::tm {
            zone(second, if second < at("2026-03-29T01:00:00Z") { 3600 } else { 7200 })
        }
        /// Half an hour back, just before midnight.
        fn back(second: i64) -> libc::tm {
            zone(second, if second < at("2026-03-28T23:00:00Z") { 2700 } else { 900 })
        }
        let begin = at("2026-03-28T00:00:00Z");
        for local in [utc, forward, back] {
            for schedule in ["7 13 * * * *", "0 30 2 * * *", "59 59 23 * * *", "30 0 0 29 * *"] {
                let Schedule(When::Fields(fields)) = Schedule::parse(schedule).unwrap() else {
                    panic!()
                };
                let fits = |second: &i64| {
                    let tm = local(*second);
                    fields.has_day(&tm)
                        && has(fields.hour, tm.tm_hour)
                        && has(fields.minute, tm.tm_min)
                        && has(fields.second, tm.tm_sec)
                };
                let by_hand: Vec<i64> = (begin + 1..begin + 3 * 86_400).filter(fits).collect();
                let mut walked = Vec::new();
                let mut after = begin;
                while let Some(next) = fields.after(after, local) {
                    if next >= begin + 3 * 86_400 {
                        break;
                    }
                    walked.push(next);
                    after = next;
                }
                assert_eq!(walked, by_hand, "{schedule}");
            }
        }
    }

    #[test]
    fn every_is_a_period_of_a_second_at_least() {
        let period = |text: &str| Schedule::parse(text).unwrap().period();
        assert_eq!(period("@every 1h30m"), Some(Duration::from_secs(5400)));
        assert_eq!(period("@every 10ms"), Some(EVERY_MIN));
        assert_eq!(period("@daily"), None);
    }

    #[test]
    fn what_is_no_schedule_is_refused_with_its_field() {
        for (text, part) in [
            ("* * * *", "4 fields"),
            ("* * * * * * *", "7 fields"),
            ("60 * * * *", "minute '60'"),
            ("* 24 * * *", "hour '24'"),
            ("* * 0 * *", "day of month '0'"),
            ("* * * foo *", "month 'foo'"),
            ("* * * * 8", "day of week '8'"),
            ("5-1 * * * *", "minute '5-1'"),
            ("*/0 * * * *", "minute '*/0'"),
            ("1,, * * * *", "minute ''"),
            ("0 0 31 2,4 *", "no calendar"),
            ("1/4294967295 0 1 1 * x", "day of week 'x'"),
            ("@often", "@daily"),
            ("@every soon", "@every"),
            ("@every 0s", "@every"),
            ("", "0 fields"),
        ] {
            let error = Schedule::parse(text).unwrap_err();
            assert!(error.message().contains(part), "{text}: {error}");
        }
    }
}
