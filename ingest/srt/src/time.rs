//! Time inside the engine: signed microseconds since the endpoint was made.
//!
//! `Instant` enters and leaves at the public surface only. Signed microseconds make the arithmetic of playback
//! times (which may lie before "now", or before the endpoint was made) free of overflow and of panics.

use std::time::{Duration, Instant};

/// Microseconds since the endpoint's origin.
pub(crate) type Micros = i64;

/// "No deadline": later than anything that is ever computed.
pub(crate) const NEVER: Micros = i64::MAX;

/// One millisecond.
pub(crate) const MS: Micros = 1_000;

/// Translates between `Instant` and [`Micros`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    origin: Instant,
}

impl Clock {
    pub(crate) fn new(origin: Instant) -> Self {
        Self { origin }
    }

    pub(crate) fn micros(self, at: Instant) -> Micros {
        match at.checked_duration_since(self.origin) {
            Some(after) => micros(after),
            None => -micros(self.origin.duration_since(at)),
        }
    }

    /// `None` for [`NEVER`].
    pub(crate) fn instant(self, at: Micros) -> Option<Instant> {
        if at == NEVER {
            return None;
        }
        self.origin.checked_add(Duration::from_micros(u64::try_from(at).unwrap_or(0)))
    }
}

/// A duration in microseconds; durations beyond 292 000 years are cut.
pub(crate) fn micros(duration: Duration) -> Micros {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX / 4)
}

/// Back to a duration; negative becomes zero.
pub(crate) fn duration(us: Micros) -> Duration {
    Duration::from_micros(u64::try_from(us).unwrap_or(0))
}

/// Slots that a buffer begins with which keeps packets for so long: one for each millisecond, as a stream of 10 Mb/s
/// needs, and at least 64. A ring is walked through from end to end again and again, so one that is as large as
/// somebody could ever need would be in memory and out of the cache for everybody.
pub(crate) fn slots_for(time: Micros) -> usize {
    usize::try_from(time / MS).unwrap_or(0).clamp(64, 1 << 16).next_power_of_two()
}

/// Rate over sliding half-second windows: what arrived in the last full window, or the part window when that
/// shows more.
#[derive(Debug, Default)]
pub(crate) struct RateMeter {
    window_start: Micros,
    packets: u32,
    bytes: u64,
    packets_per_s: u32,
    bytes_per_s: u64,
}

const RATE_WINDOW: Micros = 500 * MS;

impl RateMeter {
    pub(crate) fn add(&mut self, now: Micros, bytes: usize) {
        let age = now - self.window_start;
        if age >= RATE_WINDOW {
            // After a pause of several windows the old figure says nothing.
            let full = age < 2 * RATE_WINDOW;
            self.packets_per_s = if full { (i64::from(self.packets) * 1_000_000 / age) as u32 } else { 0 };
            self.bytes_per_s = if full { self.bytes * 1_000_000 / age as u64 } else { 0 };
            self.window_start = now;
            self.packets = 0;
            self.bytes = 0;
        }
        self.packets = self.packets.saturating_add(1);
        self.bytes += bytes as u64;
    }

    pub(crate) fn packets_per_s(&self) -> u32 {
        self.packets_per_s.max(self.packets.saturating_mul(2))
    }

    pub(crate) fn bytes_per_s(&self) -> u64 {
        self.bytes_per_s.max(self.bytes * 2)
    }
}

/// Smoothed round-trip time and its mean deviation, in microseconds (7/8 and 3/4 weights; 100 ms and 50 ms
/// before the first sample).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rtt {
    smoothed: Micros,
    variance: Micros,
    sampled: bool,
}

const RTT_MAX: Micros = 60_000 * MS;

impl Default for Rtt {
    fn default() -> Self {
        Self { smoothed: 100 * MS, variance: 50 * MS, sampled: false }
    }
}

impl Rtt {
    pub(crate) fn sample(&mut self, rtt: Micros) {
        let rtt = rtt.clamp(0, RTT_MAX);
        if self.sampled {
            self.variance = (self.variance * 3 + (self.smoothed - rtt).abs()) / 4;
            self.smoothed = (self.smoothed * 7 + rtt) / 8;
        } else {
            *self = Self { smoothed: rtt, variance: rtt / 2, sampled: true };
        }
    }

    /// Takes over what the peer measured.
    pub(crate) fn set(&mut self, rtt: u32, variance: u32) {
        *self = Self {
            smoothed: i64::from(rtt).min(RTT_MAX),
            variance: i64::from(variance).min(RTT_MAX),
            sampled: true,
        };
    }

    pub(crate) fn smoothed(&self) -> Micros {
        self.smoothed
    }

    pub(crate) fn variance(&self) -> Micros {
        self.variance
    }

    pub(crate) fn is_sampled(&self) -> bool {
        self.sampled
    }

    /// When an answer is overdue: RTT + 4 deviations.
    pub(crate) fn timeout(&self) -> Micros {
        self.smoothed + 4 * self.variance
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_goes_both_ways() {
        let origin = Instant::now();
        let clock = Clock::new(origin);
        let later = origin + Duration::from_millis(1500);
        assert_eq!(clock.micros(later), 1_500_000);
        assert_eq!(clock.instant(1_500_000), Some(later));
        assert_eq!(clock.instant(NEVER), None);
        assert_eq!(clock.instant(-5), Some(origin));
    }

    #[test]
    fn first_rtt_sample_replaces_the_guess() {
        let mut rtt = Rtt::default();
        assert_eq!(rtt.timeout(), 300 * MS);
        rtt.sample(40 * MS);
        assert_eq!((rtt.smoothed(), rtt.variance()), (40 * MS, 20 * MS));
        for _ in 0..50 {
            rtt.sample(40 * MS);
        }
        assert!(rtt.timeout() < 41 * MS);
    }

    #[test]
    fn rate_of_a_steady_input() {
        let mut meter = RateMeter::default();
        for i in 0..2000 {
            meter.add(i * MS, 1000);
        }
        assert!((950..=1050).contains(&meter.packets_per_s()), "{}", meter.packets_per_s());
        assert!((950_000..=1_050_000).contains(&meter.bytes_per_s()));
    }
}
