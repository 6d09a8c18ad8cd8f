//! Random numbers of a printed seed, so that a failure can be run again.

/// xorshift64*: enough for choices in tests.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// The seed of `PILLION_SEED`, else one of the clock; printed.
    #[expect(
        clippy::print_stdout,
        reason = "the test's own output is where the seed is looked for"
    )]
    pub fn new() -> Self {
        let given = std::env::var("PILLION_SEED").ok().and_then(|text| text.parse().ok());
        let seed = given.unwrap_or_else(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            now.map_or(1, |since| since.as_nanos() as u64)
        });
        println!("PILLION_SEED={seed}");
        Self(seed | 1)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % bound
    }
}

impl Default for Random {
    fn default() -> Self {
        Self::new()
    }
}
