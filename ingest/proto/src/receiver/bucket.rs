//! Token buckets.
//!
//! Kept as the moment at which the bucket will be full again: eight bytes. Promise: over any interval at most
//! `burst + rate * interval` tokens are given; integer arithmetic, and what it rounds it rounds down.

use super::time::Time;

/// A rate and a burst.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// Tokens per second.
    pub per_s: u32,
    /// Tokens that may be taken at once after a pause.
    pub burst: u32,
}

impl Rate {
    /// What one token takes to come back, and a whole bucket, in nanoseconds.
    fn refill_ns(self) -> (u64, u64) {
        let token_ns = match self.per_s {
            // Never, as far as anybody will see.
            0 => (1 << 62) / u64::from(self.burst.max(1)),
            per_s => NANO.div_ceil(u64::from(per_s)),
        };
        (token_ns, token_ns * u64::from(self.burst))
    }
}

/// The fill level of one bucket; the [`Rate`] is kept by the owner, once for all buckets of a class.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    full_at: Time,
}

const NANO: u64 = 1_000_000_000;

impl Bucket {
    pub(super) fn full(now: Time) -> Self {
        Self { full_at: now }
    }

    /// Takes one token if there is one.
    pub(super) fn take(&mut self, rate: Rate, now: Time) -> bool {
        let (token_ns, bucket_ns) = rate.refill_ns();
        // Under a rate that was changed a bucket is at most empty.
        let missing_ns = self.full_at.since_ns(now).min(bucket_ns);
        let is_there = missing_ns + token_ns <= bucket_ns;
        self.full_at = now.plus_ns(if is_there { missing_ns + token_ns } else { missing_ns });
        is_there
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn taken(bucket: &mut Bucket, rate: Rate, now: Time) -> usize {
        (0..10_000).filter(|_| bucket.take(rate, now)).count()
    }

    #[test]
    fn burst_then_rate() {
        let rate = Rate { per_s: 20, burst: 5 };
        let start = Time::any();
        let mut bucket = Bucket::full(start);
        assert_eq!(taken(&mut bucket, rate, start), 5);
        assert_eq!(taken(&mut bucket, rate, start + Duration::from_millis(49)), 0);
        assert_eq!(taken(&mut bucket, rate, start + Duration::from_millis(50)), 1);
        assert_eq!(taken(&mut bucket, rate, start + Duration::from_hours(1000)), 5, "capped at the burst");
        assert_eq!(taken(&mut bucket, rate, start), 0, "a clock that went back gives nothing");
    }

    #[test]
    fn rates_that_do_not_divide_a_second_give_less_not_more() {
        let rate = Rate { per_s: 6000, burst: 7 };
        let start = Time::any();
        let mut bucket = Bucket::full(start);
        let times = (0..100_000).map(|step| start + Duration::from_micros(100 * step));
        let all = times.filter(|now| bucket.take(rate, *now)).count();
        assert!((59_990..=60_007).contains(&all), "{all} in ten seconds");
    }

    #[test]
    fn a_rate_that_is_changed_counts_from_what_is_there() {
        let (slow, fast) = (Rate { per_s: 1, burst: 100 }, Rate { per_s: 1000, burst: 50 });
        let start = Time::any();
        let mut bucket = Bucket::full(start);
        assert_eq!(taken(&mut bucket, slow, start), 100);
        assert_eq!(taken(&mut bucket, fast, start), 0);
        assert_eq!(taken(&mut bucket, fast, start + Duration::from_millis(10)), 10);
        let mut bucket = Bucket::full(start);
        assert_eq!(taken(&mut bucket, Rate { per_s: 0, burst: 3 }, start), 3);
        assert_eq!(taken(&mut bucket, Rate { per_s: 0, burst: 3 }, start + Duration::from_hours(1000)), 0);
        assert_eq!(taken(&mut bucket, Rate { per_s: 5, burst: 0 }, start + Duration::from_hours(1000)), 0);
    }
}
