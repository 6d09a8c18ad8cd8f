//! Time and randomness. Everything else takes them from here, so that a test can set them.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A clock that never runs backwards and counts elapsed time even when nobody has set the date.
///
/// A gateway may have no clock chip and starts in 1970 until the network sets its date. So there
/// are two readings. [`now_ms`](Clock::now_ms) is for deadlines: it starts at the system's time or
/// at the last persisted reading, whichever is later, and from then on follows the monotonic
/// clock. [`wall_ms`](Clock::wall_ms) is for people: what the system says the date is.
#[derive(Debug, Clone)]
pub struct Clock(Arc<Source>);

#[derive(Debug)]
enum Source {
    System { started: Instant, base_ms: AtomicU64 },
    Manual { now_ms: AtomicU64 },
}

impl Clock {
    /// The clock of this machine.
    pub fn system() -> Self {
        Self(Arc::new(Source::System {
            started: Instant::now(),
            base_ms: AtomicU64::new(system_ms()),
        }))
    }

    /// A clock that stands at `now_ms` until [`advance_ms`](Clock::advance_ms) moves it.
    pub fn manual(now_ms: u64) -> Self {
        Self(Arc::new(Source::Manual { now_ms: AtomicU64::new(now_ms) }))
    }

    /// Milliseconds for deadlines: close to Unix time, never less than an earlier reading, here or
    /// in a process before this one.
    pub fn now_ms(&self) -> u64 {
        match &*self.0 {
            Source::System { started, base_ms } => {
                let elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
                base_ms.load(Ordering::Relaxed).saturating_add(elapsed_ms)
            }
            Source::Manual { now_ms } => now_ms.load(Ordering::Relaxed),
        }
    }

    /// Unix milliseconds as the system knows them, for people and other machines.
    pub fn wall_ms(&self) -> u64 {
        match &*self.0 {
            Source::System { .. } => system_ms(),
            Source::Manual { now_ms } => now_ms.load(Ordering::Relaxed),
        }
    }

    /// Makes [`now_ms`](Clock::now_ms) at least `persisted_ms`, a reading that an earlier process
    /// wrote down. Called once, when storage opens.
    pub fn not_before(&self, persisted_ms: u64) {
        let behind_ms = persisted_ms.saturating_sub(self.now_ms());
        self.advance_ms(behind_ms);
    }

    /// Moves the clock forward. With a manual clock this is how time passes.
    pub fn advance_ms(&self, by_ms: u64) {
        match &*self.0 {
            Source::System { base_ms, .. } => base_ms.fetch_add(by_ms, Ordering::Relaxed),
            Source::Manual { now_ms } => now_ms.fetch_add(by_ms, Ordering::Relaxed),
        };
    }
}

fn system_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Unix milliseconds as RFC 3339 in UTC, with milliseconds: `2026-01-31T23:59:59.999Z`.
pub fn rfc3339_utc(unix_ms: u64) -> String {
    let ms = i64::try_from(unix_ms).unwrap_or(i64::MAX);
    match jiff::Timestamp::from_millisecond(ms) {
        Ok(time) => format!("{time:.3}"),
        Err(_) => String::from("9999-12-31T23:59:59.999Z"),
    }
}

/// The machine's local time at a Unix second; the last day of 9999 beyond the calendar. The C
/// library knows the zone: `TZ`, else `/etc/localtime`.
pub fn local_time(second: i64) -> libc::tm {
    // SAFETY: `tm` is numbers and a pointer, for which zero is a value.
    let mut tm: libc::tm = unsafe { std::mem::zeroed() };
    // 32 bits on 32-bit targets with musl, of which the C library is told so too.
    #[allow(deprecated, reason = "the name stays when the type grows")]
    let second = second as libc::time_t;
    // SAFETY: both pointers are to values of this frame; localtime_r keeps neither.
    let known = unsafe { !libc::localtime_r(&raw const second, &raw mut tm).is_null() };
    if !known {
        (tm.tm_year, tm.tm_mon, tm.tm_mday) = (9999 - 1900, 11, 31);
    }
    tm
}

/// A random (version 4) UUID in its usual text form.
pub fn uuid() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// 64 random bits, for trace ids, jitter and salts of tables; not for keys.
///
/// The system is asked once per thread, for the seed of a SplitMix64: every request takes several
/// of these, and a system call costs more than the rest of its trace.
pub fn random_u64() -> u64 {
    thread_local! {
        static STATE: Cell<u64> = Cell::new({
            let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
            high.rotate_left(17) ^ low
        });
    }
    let next = STATE.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
    STATE.set(next);
    let mixed = (next ^ (next >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_persisted_reading_is_a_floor() {
        let clock = Clock::manual(1_000);
        clock.not_before(500);
        assert_eq!(clock.now_ms(), 1_000);
        clock.not_before(7_000);
        assert_eq!(clock.now_ms(), 7_000);
    }

    #[test]
    fn times_for_people_are_rfc3339() {
        assert_eq!(rfc3339_utc(1_769_903_999_999), "2026-01-31T23:59:59.999Z");
    }
}
