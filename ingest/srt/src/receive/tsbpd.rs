//! Timestamp-based delivery: when a packet is due.
//!
//! Playback time = base + timestamp + latency + drift, where base is the arrival of the CONCLUSION minus its
//! timestamp. Timestamps are 32 bits of microseconds and wrap after 71 min 35 s; they are unwrapped against the
//! expected peer time, which tolerates half the range either way (libsrt: a window of 30 s around the wrap).
//!
//! Drift: in windows of 10 s the fastest first transmission shows where the peer's clock stands; queues only
//! ever delay, so the minimum is deaf to them. Moves above 5 ms are followed, at most 20 ms per window.

use crate::time::{MS, Micros, NEVER};

const WINDOW: Micros = 10_000 * MS;
const WINDOW_SAMPLES: u32 = 100;
const DEAD_BAND: Micros = 5 * MS;
const STEP: Micros = 20 * MS;
/// A packet due later than latency plus this carries a senseless timestamp and must not block those after it.
const AHEAD_MAX: Micros = 5_000 * MS;

/// See the module.
#[derive(Debug)]
pub(crate) struct Tsbpd {
    base: Micros,
    latency: Micros,
    drift: Micros,
    window_end: Micros,
    window_min: Micros,
    samples: u32,
}

impl Tsbpd {
    /// From the arrival of a handshake packet and its timestamp.
    pub(crate) fn new(arrived_at: Micros, timestamp: u32, latency: Micros) -> Self {
        Self {
            base: arrived_at - Micros::from(timestamp),
            latency,
            drift: 0,
            window_end: arrived_at + WINDOW,
            window_min: NEVER,
            samples: 0,
        }
    }

    pub(crate) fn latency(&self) -> Micros {
        self.latency
    }

    pub(crate) fn drift(&self) -> Micros {
        self.drift
    }

    /// The peer's time of `timestamp`, unwrapped.
    fn unwrap(&self, now: Micros, timestamp: u32) -> i64 {
        let expected = now - self.base - self.drift;
        expected + i64::from(timestamp.wrapping_sub(expected as u32) as i32)
    }

    /// When a packet with this timestamp is due, and its unwrapped source time.
    pub(crate) fn due(&self, now: Micros, timestamp: u32) -> (Micros, i64) {
        let source_us = self.unwrap(now, timestamp);
        let due_at = self.base + self.drift + source_us + self.latency;
        (due_at.min(now + self.latency + AHEAD_MAX), source_us)
    }

    /// A packet sent for the first time has arrived.
    pub(crate) fn observe(&mut self, now: Micros, source_us: i64) {
        self.window_min = self.window_min.min(now - self.base - source_us);
        self.samples += 1;
        if now < self.window_end || self.samples < WINDOW_SAMPLES {
            return;
        }
        let off = self.window_min - self.drift;
        if off.abs() > DEAD_BAND {
            self.drift += off.clamp(-STEP, STEP);
        }
        self.window_end = now + WINDOW;
        self.window_min = NEVER;
        self.samples = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Micros = 1_000_000;

    #[test]
    fn due_is_base_plus_timestamp_plus_latency() {
        let tsbpd = Tsbpd::new(10 * S, 1_000, 120 * MS);
        assert_eq!(tsbpd.due(10 * S, 1_000), (10 * S + 120 * MS, 1_000));
        assert_eq!(tsbpd.due(11 * S, 1_000 + 900_000), (10 * S + 900_000 + 120 * MS, 901_000));
    }

    #[test]
    fn timestamps_wrap_after_71_minutes() {
        let wrap: i64 = 1 << 32;
        let tsbpd = Tsbpd::new(0, 0, S);
        for source in [wrap - 30 * S, wrap - 1, wrap, wrap + 1, wrap + 30 * S, 3 * wrap + 5] {
            for delay in [0, 40 * MS, 20 * S] {
                let (due_at, unwrapped) = tsbpd.due(source + delay, source as u32);
                assert_eq!(unwrapped, source);
                assert_eq!(due_at, source + S);
            }
        }
    }

    #[test]
    fn a_senseless_timestamp_is_due_soon() {
        let tsbpd = Tsbpd::new(0, 0, S);
        let (due_at, _) = tsbpd.due(S, 2_000_000_000);
        assert_eq!(due_at, S + S + AHEAD_MAX);
    }

    #[test]
    fn a_drifting_clock_is_followed_for_hours_across_wraps() {
        for ppm in [-300i64, 300] {
            let mut tsbpd = Tsbpd::new(0, 0, 120 * MS);
            let mut local = 0;
            for i in 0..(3 * 3600 * 50) {
                let source = i * 20 * MS;
                let jitter = (i * 7919) % 30 * MS;
                local = source + source * ppm / 1_000_000 + jitter;
                let (due_at, unwrapped) = tsbpd.due(local, source as u32);
                assert_eq!(unwrapped, source);
                let ahead = due_at - (local - jitter);
                assert!((100 * MS..=140 * MS).contains(&ahead), "{ppm} ppm: {ahead} us ahead at {i}");
                tsbpd.observe(local, unwrapped);
            }
            assert!((tsbpd.drift() - local * ppm / 1_000_000).abs() < 20 * MS);
        }
    }
}
