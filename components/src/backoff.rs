//! How long to wait before trying again: doubling, with jitter, bounded.

/// Waits that double from one try to the next, each shortened at random by up to half so that
/// many gateways do not come back in step.
#[derive(Debug, Clone)]
pub struct Backoff {
    min_ms: u64,
    max_ms: u64,
    next_ms: u64,
    random: u64,
}

impl Backoff {
    /// Waits from `min_ms` up to `max_ms`. The same `seed` gives the same waits.
    pub fn new(min_ms: u64, max_ms: u64, seed: u64) -> Self {
        let min_ms = min_ms.max(1);
        Self { min_ms, max_ms: max_ms.max(min_ms), next_ms: min_ms, random: seed }
    }

    /// The wait before the next try, in milliseconds.
    pub fn next_ms(&mut self) -> u64 {
        let full_ms = self.next_ms;
        self.next_ms = full_ms.saturating_mul(2).min(self.max_ms);
        let half_ms = full_ms / 2;
        full_ms - half_ms + self.random() % (half_ms + 1)
    }

    /// It worked: the next wait is the shortest again.
    pub fn reset(&mut self) {
        self.next_ms = self.min_ms;
    }

    /// A step of SplitMix64: good enough for jitter, and a test can repeat it.
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_stay_within_bounds_and_start_over() {
        let mut backoff = Backoff::new(100, 1_000, 7);
        for full_ms in [100, 200, 400, 800, 1_000, 1_000] {
            let wait_ms = backoff.next_ms();
            assert!((full_ms / 2..=full_ms).contains(&wait_ms), "{wait_ms} of {full_ms}");
        }
        backoff.reset();
        assert!(backoff.next_ms() <= 100);
    }
}
