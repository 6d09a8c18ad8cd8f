//! `bindings.cron`: an event at the times of a schedule.
//!
//! Settings:
//! - `schedule` (required): five fields (minute, hour, day of month, month, day of week), six with
//!   seconds before them, `@every 90s`, or `@yearly`, `@monthly`, `@weekly`, `@daily`, `@hourly`.
//!   [`schedule`](self::Schedule) has the rules of the fields.
//!
//! Fields are read on the machine's clock in its zone, `@every` counts elapsed time from the
//! opening of the source, whatever the clock does. Nothing is made up for:
//! - a time that passes while the app is busy with the event before it, away or not healthy has no
//!   event;
//! - where the clock is set forward, by a network or after a sleep, times that lie more than
//!   [`LATE_MAX`] back have none;
//! - where it is set back by up to [`BACK_MAX`] no time comes twice; by more, the times that come
//!   again do. The hour that the end of summer time repeats comes twice as well, the one that its
//!   begin leaves out does not come.
//!
//! An event has no data; its metadata are `readTimeUTC` and `timeZone`, as in Dapr.

mod schedule;

pub use schedule::Schedule;

use super::{Ends, Event, InputBinding, Opening, Source};
use crate::env::Clock;
use crate::error::Result;
use async_trait::async_trait;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Longest sleep before the clock is looked at again: it may have been set meanwhile.
const LOOK: Duration = Duration::from_secs(30);
/// A time that is noticed later than this has passed.
pub const LATE_MAX: Duration = Duration::from_secs(60);
/// A clock set back by up to this much is one being corrected.
pub const BACK_MAX: Duration = Duration::from_secs(300);

pub(super) fn open(opening: &Opening<'_>) -> Result<Ends> {
    let schedule = Schedule::parse(opening.options.required("schedule")?)?;
    let cron = Cron { schedule: Arc::new(schedule), clock: opening.context.clock.clone() };
    Ok((Some(Arc::new(cron)), None))
}

struct Cron {
    schedule: Arc<Schedule>,
    clock: Clock,
}

#[async_trait]
impl InputBinding for Cron {
    async fn read(&self, _reader: &str) -> Result<Box<dyn Source>> {
        Ok(Box::new(Ticks::new(self.schedule.clone(), self.clock.clone())))
    }
}

/// One reader's events.
struct Ticks {
    schedule: Arc<Schedule>,
    clock: Clock,
    /// The last time of an `@every`.
    every_from: Instant,
    /// The last time of the fields, or when they began to count, in Unix seconds.
    after_s: i64,
    /// What comes after it, looked for once.
    next_s: Option<i64>,
}

#[async_trait]
impl Source for Ticks {
    async fn next(&mut self) -> Result<Event> {
        match self.schedule.period() {
            Some(period) => self.every(period).await,
            None => self.fields().await,
        }
        Ok(Event { metadata: self.metadata(), ..Event::default() })
    }
}

impl Ticks {
    fn new(schedule: Arc<Schedule>, clock: Clock) -> Self {
        let (every_from, after_s) = (Instant::now(), seconds(&clock));
        Self { schedule, clock, every_from, after_s, next_s: None }
    }

    async fn every(&mut self, period: Duration) {
        // What has passed meanwhile is left out, and the beat is kept.
        let passed = self.every_from.elapsed().as_nanos() / period.as_nanos().max(1);
        let beats = u32::try_from(passed).unwrap_or(u32::MAX).saturating_add(1);
        let next = self.every_from + period.saturating_mul(beats);
        tokio::time::sleep_until(next).await;
        self.every_from = next;
    }

    async fn fields(&mut self) {
        // Whatever passed while nobody asked is not made up for.
        let now_s = seconds(&self.clock);
        if self.after_s < now_s - 1 {
            self.begin_after(now_s - 1);
        }
        loop {
            let now_s = seconds(&self.clock);
            if now_s + whole(BACK_MAX) < self.after_s {
                self.begin_after(now_s);
            }
            if self.next_s.is_none() {
                self.next_s = self.schedule.after(self.after_s);
            }
            let Some(next_s) = self.next_s else {
                // Beyond the calendar, where a clock that is set may not stay.
                tokio::time::sleep(LOOK).await;
                continue;
            };
            if now_s >= next_s {
                let is_late = now_s - next_s > whole(LATE_MAX);
                self.begin_after(if is_late { now_s } else { next_s });
                if is_late {
                    continue;
                }
                return;
            }
            let left_ms = next_s.saturating_mul(1000).saturating_sub(wall_ms(&self.clock));
            let left = Duration::from_millis(u64::try_from(left_ms).unwrap_or(0));
            tokio::time::sleep(left.min(LOOK)).await;
        }
    }

    fn begin_after(&mut self, second: i64) {
        self.after_s = second;
        self.next_s = None;
    }

    fn metadata(&self) -> super::Pairs {
        vec![
            ("readTimeUTC".to_owned(), go_time(self.clock.wall_ms())),
            ("timeZone".to_owned(), "Local".to_owned()),
        ]
    }
}

fn wall_ms(clock: &Clock) -> i64 {
    i64::try_from(clock.wall_ms()).unwrap_or(i64::MAX)
}

fn seconds(clock: &Clock) -> i64 {
    wall_ms(clock) / 1000
}

fn whole(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

/// A time as Go writes it: `2026-01-31 23:59:59.999 +0000 UTC`.
fn go_time(unix_ms: u64) -> String {
    let text = crate::env::rfc3339_utc(unix_ms).replace('T', " ");
    format!("{} +0000 UTC", text.trim_end_matches('Z'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(schedule: &str, clock: &Clock) -> Ticks {
        Ticks::new(Arc::new(Schedule::parse(schedule).unwrap()), clock.clone())
    }

    /// Moves a manual clock along with tokio's paused one.
    fn run(clock: &Clock) -> tokio::task::JoinHandle<()> {
        let clock = clock.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(100)).await;
                clock.advance_ms(100);
            }
        })
    }

    /// A minute's begin.
    const BEGIN_MS: u64 = 1_769_904_000_000;

    #[tokio::test(start_paused = true)]
    async fn every_keeps_its_beat_and_leaves_out_what_passed() {
        let mut ticks = ticks("@every 10s", &Clock::manual(0));
        let begun = Instant::now();
        for expected_s in [10, 20] {
            ticks.next().await.unwrap();
            assert_eq!(begun.elapsed(), Duration::from_secs(expected_s));
        }
        tokio::time::sleep(Duration::from_secs(35)).await;
        ticks.next().await.unwrap();
        assert_eq!(begun.elapsed(), Duration::from_secs(60));
    }

    #[tokio::test(start_paused = true)]
    async fn fields_follow_the_wall_clock() {
        let clock = Clock::manual(BEGIN_MS + 500);
        let moving = run(&clock);
        let mut ticks = ticks("*/20 * * * * *", &clock);
        for expected_s in [20, 40, 60] {
            let event = ticks.next().await.unwrap();
            let at_ms = clock.wall_ms() - BEGIN_MS;
            assert!((expected_s * 1000..expected_s * 1000 + 300).contains(&at_ms), "{at_ms}");
            assert_eq!(event.token, 0);
            assert!(event.metadata[0].1.ends_with(" +0000 UTC"), "{event:?}");
        }
        moving.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_set_forward_makes_up_for_nothing() {
        let clock = Clock::manual(BEGIN_MS);
        let moving = run(&clock);
        let mut ticks = ticks("30 * * * * *", &clock);
        ticks.next().await.unwrap();
        // A year and a bit passes at once while it waits, and again while nobody asks: one event
        // at the next time, not half a million.
        let jump_ms = 400 * 86_400_000 + 20_000;
        let jump = async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            clock.advance_ms(jump_ms);
            clock.wall_ms()
        };
        let (event, jumped_ms) = tokio::join!(ticks.next(), jump);
        event.unwrap();
        // At 55 s of a minute, so that the next time is 35 s away.
        let waited_ms = clock.wall_ms() - jumped_ms;
        assert!((34_000..36_000).contains(&waited_ms), "{waited_ms}");
        clock.advance_ms(jump_ms);
        let jumped_ms = clock.wall_ms();
        ticks.next().await.unwrap();
        let waited_ms = clock.wall_ms() - jumped_ms;
        assert!((39_000..41_000).contains(&waited_ms), "{waited_ms}");
        moving.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_set_back_a_little_repeats_nothing_and_by_much_does() {
        for (back_ms, expected_ms) in [(70_000, 120_000), (3_600_000, 60_000)] {
            let clock = Clock::manual(BEGIN_MS);
            let mut ticks = ticks("30 * * * * *", &clock);
            // A manual clock goes forward only: this one stands for one that was set back.
            let now_ms = clock.wall_ms();
            let moving = run(&clock);
            ticks.next().await.unwrap();
            ticks.begin_after(ticks.after_s + i64::from(back_ms / 1000));
            let (passed_ms, begun) = (clock.wall_ms() - now_ms, Instant::now());
            assert!((30_000..31_000).contains(&passed_ms), "{passed_ms}");
            ticks.next().await.unwrap();
            let waited_ms = u64::try_from(begun.elapsed().as_millis()).unwrap();
            assert!(waited_ms.abs_diff(expected_ms) < 1_500, "{back_ms}: {waited_ms}");
            moving.abort();
        }
    }

    #[test]
    fn times_are_written_as_go_writes_them() {
        assert_eq!(go_time(1_769_903_999_999), "2026-01-31 23:59:59.999 +0000 UTC");
    }
}
