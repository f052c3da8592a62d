//! Token buckets.
//!
//! Promise: over any interval at most `burst + rate * interval` tokens are given; integer arithmetic, no drift.

use std::time::Instant;

/// A rate and a burst.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// Tokens per second.
    pub per_s: u32,
    /// Tokens that may be taken at once after a pause.
    pub burst: u32,
}

/// The fill level of one bucket; the [`Rate`] is kept by the owner, once for all buckets of a class.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    nano_tokens: u64,
    filled_at: Instant,
}

const NANO: u64 = 1_000_000_000;

impl Bucket {
    pub(super) fn full(rate: Rate, now: Instant) -> Self {
        Self { nano_tokens: u64::from(rate.burst) * NANO, filled_at: now }
    }

    /// Takes one token if there is one.
    pub(super) fn take(&mut self, rate: Rate, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.filled_at);
        if !elapsed.is_zero() {
            let elapsed_ns = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
            let earned = elapsed_ns.saturating_mul(u64::from(rate.per_s));
            self.nano_tokens = self.nano_tokens.saturating_add(earned).min(u64::from(rate.burst) * NANO);
            self.filled_at = now;
        }
        match self.nano_tokens.checked_sub(NANO) {
            Some(rest) => {
                self.nano_tokens = rest;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn burst_then_rate() {
        let rate = Rate { per_s: 20, burst: 5 };
        let start = Instant::now();
        let mut bucket = Bucket::full(rate, start);
        let taken = |bucket: &mut Bucket, now| (0..100).filter(|_| bucket.take(rate, now)).count();
        assert_eq!(taken(&mut bucket, start), 5);
        assert_eq!(taken(&mut bucket, start + Duration::from_millis(49)), 0);
        assert_eq!(taken(&mut bucket, start + Duration::from_millis(50)), 1);
        assert_eq!(taken(&mut bucket, start + Duration::from_hours(1000)), 5, "capped at the burst");
        assert_eq!(taken(&mut bucket, start), 0, "a clock that went back gives nothing");
    }
}
