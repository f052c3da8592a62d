//! Two adaptive choices, as plain arithmetic: how long to linger for more datagrams, and when a listener should merge.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

/// Below this rate nothing is gained by waiting.
const RATE_OFF: f64 = 1_500.0;
/// From this rate on the backend lingers.
const RATE_ON: f64 = 2_000.0;
/// The shortest linger that pays for itself, microseconds.
const LINGER_US_MIN: u32 = 100;
/// The rate is estimated once in so many turns.
const TURNS_PER_ESTIMATE: u32 = 32;

/// How long a receive waits for further datagrams after the first, from the rate seen lately.
#[derive(Debug)]
pub(crate) struct Linger {
    us_max: u32,
    /// Datagrams per wake-up aimed at.
    aim: f64,
    us: u32,
    turns: u32,
    datagrams: u64,
    since: Option<Instant>,
}

impl Linger {
    pub(crate) fn new(us_max: u32, datagrams_aim: u32) -> Linger {
        Linger { us_max, aim: datagrams_aim.into(), us: 0, turns: 0, datagrams: 0, since: None }
    }

    /// Notes a turn that brought so many datagrams.
    pub(crate) fn observe(&mut self, now: Instant, datagrams: usize) {
        self.turns += 1;
        self.datagrams += datagrams as u64;
        if self.us_max == 0 || self.turns < TURNS_PER_ESTIMATE {
            return;
        }
        if let Some(since) = self.since {
            let seconds = now.saturating_duration_since(since).as_secs_f64().max(1e-6);
            let rate = self.datagrams as f64 / seconds;
            let threshold = if self.us > 0 { RATE_OFF } else { RATE_ON };
            self.us = if rate < threshold {
                0
            } else {
                ((self.aim * 1e6 / rate) as u32).clamp(LINGER_US_MIN.min(self.us_max), self.us_max)
            };
        }
        self.since = Some(now);
        self.turns = 0;
        self.datagrams = 0;
    }

    /// Microseconds to linger, 0 for not at all.
    pub(crate) fn us(&self) -> u32 {
        self.us
    }
}

/// Datagrams per decision about merging.
const GRO_WINDOW: u32 = 2048;
/// Bits of the sketch that counts distinct peers of a turn.
const SKETCH_BITS: u32 = 256;
/// Windows to stay off after merging was tried and found nothing, at first and at most.
const BACKOFF_MIN: u32 = 8;
const BACKOFF_MAX: u32 = 4096;

/// When a listener should receive merged (`UDP_GRO`): while off, when a turn brings more than two datagrams per
/// distinct peer; while on, as long as at least 1.3 datagrams come per receive. A fruitless try is repeated ever
/// more rarely.
#[derive(Debug, Clone)]
pub(crate) struct GroPolicy {
    on: bool,
    sketch: [u64; SKETCH_BITS as usize / 64],
    turn_datagrams: u32,
    datagrams: u32,
    peers: u32,
    receives: u32,
    backoff: u32,
    windows_left: u32,
}

impl Default for GroPolicy {
    fn default() -> Self {
        GroPolicy {
            on: false,
            sketch: [0; SKETCH_BITS as usize / 64],
            turn_datagrams: 0,
            datagrams: 0,
            peers: 0,
            receives: 0,
            backoff: BACKOFF_MIN,
            windows_left: 0,
        }
    }
}

impl GroPolicy {
    /// Notes one receive of `datagrams` datagrams from `from`.
    pub(crate) fn observe(&mut self, from: SocketAddr, datagrams: usize) {
        let ip = match from.ip() {
            IpAddr::V4(ip) => u64::from(ip.to_bits()),
            IpAddr::V6(ip) => ip.to_bits() as u64 ^ (ip.to_bits() >> 64) as u64,
        };
        let hash = (ip ^ u64::from(from.port()) << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56;
        self.sketch[(hash / 64) as usize] |= 1 << (hash % 64);
        self.turn_datagrams += datagrams as u32;
        self.receives += 1;
    }

    /// Ends a turn; `Some(on)` when the listener should switch.
    pub(crate) fn end_turn(&mut self) -> Option<bool> {
        if self.turn_datagrams == 0 {
            return None;
        }
        let marks: u32 = self.sketch.iter().map(|word| word.count_ones()).sum();
        // A sketch more than half full does not tell any more: then every datagram counts as a peer of its own.
        self.peers += if marks > SKETCH_BITS / 2 { self.turn_datagrams } else { marks };
        self.datagrams += self.turn_datagrams;
        self.sketch = [0; SKETCH_BITS as usize / 64];
        self.turn_datagrams = 0;
        if self.datagrams < GRO_WINDOW {
            return None;
        }
        let (datagrams, peers, receives) = (self.datagrams, self.peers, self.receives);
        self.datagrams = 0;
        self.peers = 0;
        self.receives = 0;
        if self.on {
            if u64::from(datagrams) * 10 >= u64::from(receives) * 13 {
                self.backoff = BACKOFF_MIN;
                return None;
            }
            self.on = false;
            self.windows_left = self.backoff;
            self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
            return Some(false);
        }
        self.windows_left = self.windows_left.saturating_sub(1);
        if self.windows_left == 0 && datagrams > peers * 2 {
            self.on = true;
            return Some(true);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn linger_at(linger: &mut Linger, now: &mut Instant, rate: u64) -> u32 {
        for _ in 0..TURNS_PER_ESTIMATE * 2 {
            *now += Duration::from_nanos(10 * 1_000_000_000 / rate);
            linger.observe(*now, 10);
        }
        linger.us()
    }

    #[test]
    fn lingers_by_rate_with_hysteresis() {
        let mut linger = Linger::new(300, 16);
        let mut now = Instant::now();
        assert_eq!(linger_at(&mut linger, &mut now, 100), 0);
        assert_eq!(linger_at(&mut linger, &mut now, 1_700), 0);
        assert_eq!(linger_at(&mut linger, &mut now, 3_000), 300);
        assert_eq!(linger_at(&mut linger, &mut now, 1_700), 300);
        let at_100k = linger_at(&mut linger, &mut now, 100_000);
        assert!((150..=165).contains(&at_100k), "{at_100k}");
        assert_eq!(linger_at(&mut linger, &mut now, 1_000_000), 100);
        assert_eq!(linger_at(&mut linger, &mut now, 1_400), 0);
    }

    #[test]
    fn limits_of_the_linger_are_kept() {
        let mut now = Instant::now();
        assert_eq!(linger_at(&mut Linger::new(0, 16), &mut now, 100_000), 0);
        assert_eq!(linger_at(&mut Linger::new(50, 16), &mut now, 5_000), 50);
    }

    /// Feeds turns of `peers` peers with `each` receives of `merged` datagrams; returns the switches.
    fn turns(policy: &mut GroPolicy, turns: usize, peers: u16, each: usize, merged: usize) -> Vec<bool> {
        let mut switches = Vec::new();
        for _ in 0..turns {
            for peer in 0..peers {
                for _ in 0..each {
                    policy.observe(SocketAddr::from(([127, 0, 0, 1], 1000 + peer)), merged);
                }
            }
            switches.extend(policy.end_turn());
        }
        switches
    }

    #[test]
    fn merges_for_a_few_fat_peers_only() {
        let mut policy = GroPolicy::default();
        assert_eq!(turns(&mut policy, 500, 64, 1, 1), []);
        assert_eq!(turns(&mut policy, 100, 1000, 3, 1), []);
        assert_eq!(turns(&mut policy, 40, 4, 16, 1), [true]);
        assert_eq!(turns(&mut policy, 500, 4, 1, 16), []);
        assert_eq!(turns(&mut policy, 50, 64, 1, 1), [false]);
    }

    #[test]
    fn a_fruitless_try_is_repeated_ever_more_rarely() {
        let mut policy = GroPolicy::default();
        let first = turns(&mut policy, 1000, 1, 64, 1).len();
        let second = turns(&mut policy, 1000, 1, 64, 1).len();
        assert!(first >= 4 && second < first, "{first} then {second} switches");
    }
}
