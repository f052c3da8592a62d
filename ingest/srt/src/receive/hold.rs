//! Reorder hold: how long a gap may stay open before it is called a loss.
//!
//! On a bonded session most "gaps" are packets still under way on a slower link. Two observations decide:
//!
//! * the **spread**: how late packets have lately arrived behind a later number (p99 of the late ones, plus a
//!   margin, forgotten over seconds). A gap older than the spread is a loss;
//! * the **paths**: a number that every recently active path has passed cannot be under way any more if paths keep
//!   order. Then only the spread seen *within* one path is waited for (nothing, on paths that keep order).
//!
//! A plain connection that never reorders has no hold at all: its gaps are reported at once.

use crate::seq::Seq;
use crate::time::{MS, Micros};

/// Paths told apart; more share these.
const PATHS: usize = 16;
/// A path that has delivered nothing for this long is not waited for.
const PATH_ACTIVE: Micros = 1_000 * MS;
/// Hold with several paths before anything was measured, and the least hold where reordering was seen.
const HOLD_MIN: Micros = 10 * MS;
/// Weight of one sample in the histogram; halved every [`DECAY`], so one sample is remembered for 7 s.
const WEIGHT: u32 = 64;
const DECAY: Micros = 1_000 * MS;
/// Holds are aligned to this, so that gaps of the same time are scanned together.
const GRID: Micros = 4 * MS;

/// Decaying histogram of lateness, 1 ms to 4 s, eight buckets per octave.
#[derive(Debug)]
struct Spread {
    counts: [u32; BUCKETS],
    total: u32,
    decayed_at: Micros,
    p99: Micros,
}

const BUCKETS: usize = 80;

fn bucket(lateness: Micros) -> usize {
    let ms = (lateness / MS).clamp(0, 4095) as usize;
    if ms < 8 {
        return ms;
    }
    let octave = ms.ilog2() as usize;
    8 + (octave - 3) * 8 + (ms >> (octave - 3)) - 8
}

/// Upper end of a bucket.
fn bucket_end(index: usize) -> Micros {
    let ms = if index < 8 { index + 1 } else { (index % 8 + 9) << (index / 8 - 1) };
    ms as Micros * MS
}

impl Spread {
    fn new(now: Micros) -> Self {
        Self { counts: [0; BUCKETS], total: 0, decayed_at: now, p99: 0 }
    }

    fn add(&mut self, now: Micros, lateness: Micros) {
        self.decay(now);
        let index = bucket(lateness);
        self.counts[index] += WEIGHT;
        self.total += WEIGHT;
        // Upwards at once, downwards when it decays.
        if bucket_end(index) > self.p99 {
            self.refresh();
        }
    }

    fn decay(&mut self, now: Micros) {
        if now - self.decayed_at < DECAY {
            return;
        }
        let periods = ((now - self.decayed_at) / DECAY).min(31) as u32;
        self.decayed_at = now;
        self.total = 0;
        for count in &mut self.counts {
            *count >>= periods;
            self.total += *count;
        }
        self.refresh();
    }

    fn refresh(&mut self) {
        let mut above = self.total / 100;
        self.p99 = 0;
        if self.total == 0 {
            return;
        }
        for (index, count) in self.counts.iter().enumerate().rev() {
            if *count > above {
                self.p99 = bucket_end(index);
                return;
            }
            above -= *count;
        }
    }

    /// Wait that covers p99 with a margin of an eighth; `None` when nothing was late lately.
    fn wait(&mut self, now: Micros) -> Option<Micros> {
        self.decay(now);
        (self.total > 0).then_some((self.p99 + self.p99 / 8).max(HOLD_MIN))
    }
}

#[derive(Clone, Copy, Debug)]
struct Path {
    highest: Seq,
    seen_at: Micros,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct ReorderHold {
    any: Spread,
    within: Spread,
    paths: [Option<Path>; PATHS],
    /// Numbers before this one have been passed by all active paths.
    floor: Seq,
    hold_max: Micros,
    /// Hold of the last gap.
    last: Micros,
}

impl ReorderHold {
    pub(crate) fn new(now: Micros, isn: Seq, latency: Micros) -> Self {
        Self {
            any: Spread::new(now),
            within: Spread::new(now),
            paths: [None; PATHS],
            floor: isn,
            hold_max: (latency / 3).max(HOLD_MIN),
            last: 0,
        }
    }

    /// A packet arrived over `path`. Returns whether an earlier arrival of the same path was ahead of it.
    pub(crate) fn arrived(&mut self, now: Micros, path: u8, seq: Seq) -> bool {
        let slot = &mut self.paths[usize::from(path) % PATHS];
        match slot {
            None => {
                *slot = Some(Path { highest: seq, seen_at: now });
                false
            }
            Some(path) => {
                path.seen_at = now;
                let behind = seq.is_before(path.highest);
                path.highest = path.highest.later(seq);
                behind
            }
        }
    }

    /// A first transmission came `lateness` after a later number.
    pub(crate) fn late(&mut self, now: Micros, lateness: Micros, within_path: bool) {
        self.any.add(now, lateness);
        if within_path {
            self.within.add(now, lateness);
        }
    }

    fn active(&self, now: Micros) -> impl Iterator<Item = &Path> {
        self.paths.iter().flatten().filter(move |path| now - path.seen_at < PATH_ACTIVE)
    }

    /// The hold for a gap found now.
    pub(crate) fn hold(&mut self, now: Micros) -> Micros {
        let several = self.active(now).nth(1).is_some();
        let least = if several { HOLD_MIN } else { 0 };
        self.last = self.any.wait(now).unwrap_or(least).min(self.hold_max);
        self.last
    }

    /// The hold of the last gap.
    pub(crate) fn last(&self) -> Micros {
        self.last
    }

    /// When a gap found at `now` becomes a loss, unless all paths pass it earlier.
    pub(crate) fn loss_at(&mut self, now: Micros) -> Micros {
        match self.hold(now) {
            0 => now,
            hold => align(now + hold),
        }
    }

    /// Numbers that all active paths have passed since the last call, as `(from, floor, when to report them)`.
    pub(crate) fn passed(&mut self, now: Micros) -> Option<(Seq, Seq, Micros)> {
        let floor = self.active(now).map(|path| path.highest).reduce(Seq::earlier)?;
        if !self.floor.is_before(floor) {
            return None;
        }
        let from = std::mem::replace(&mut self.floor, floor);
        let due_at = match self.within.wait(now) {
            None => now,
            Some(wait) => align(now + wait.min(self.hold_max)),
        };
        Some((from, floor, due_at))
    }
}

fn align(at: Micros) -> Micros {
    at.div_euclid(GRID) * GRID + GRID
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_cover_their_values() {
        for ms in 0..4096 {
            let end = bucket_end(bucket(ms * MS));
            assert!(end > ms * MS && end <= (ms + 1 + ms / 8) * MS, "{ms} ms in a bucket up to {end}");
        }
        assert!(bucket(Micros::MAX) < BUCKETS);
    }

    #[test]
    fn no_reordering_no_hold() {
        let mut hold = ReorderHold::new(0, Seq::new(0), 1_000 * MS);
        for i in 0..100 {
            hold.arrived(i * MS, 0, Seq::new(i as u32));
        }
        assert_eq!(hold.loss_at(100 * MS), 100 * MS);
    }

    #[test]
    fn hold_follows_the_spread_and_forgets_it() {
        let mut hold = ReorderHold::new(0, Seq::new(0), 1_000 * MS);
        for i in 0..1000 {
            hold.late(i * MS, i % 40 * MS, true);
        }
        let now = 1000 * MS;
        assert!((39 * MS..=52 * MS).contains(&hold.hold(now)), "{}", hold.hold(now));
        hold.late(now, 900 * MS, true);
        assert!(hold.hold(now) < 60 * MS, "one outlier in a thousand is not p99");
        assert_eq!(hold.hold(now + 40_000 * MS), 0);
        let mut tight = ReorderHold::new(0, Seq::new(0), 90 * MS);
        tight.late(0, 80 * MS, false);
        assert_eq!(tight.hold(0), 30 * MS);
    }

    #[test]
    fn what_every_path_passed_is_lost_at_once() {
        let mut hold = ReorderHold::new(0, Seq::new(0), 1_000 * MS);
        hold.arrived(0, 1, Seq::new(10));
        hold.arrived(0, 2, Seq::new(4));
        hold.late(0, 50 * MS, false);
        assert!(hold.loss_at(0) >= 50 * MS);
        assert_eq!(hold.passed(0), Some((Seq::new(0), Seq::new(4), 0)));
        assert_eq!(hold.passed(0), None);
        hold.arrived(MS, 2, Seq::new(12));
        assert_eq!(hold.passed(MS), Some((Seq::new(4), Seq::new(10), MS)));
        // A path that went silent is not waited for.
        hold.arrived(2_000 * MS, 1, Seq::new(30));
        assert_eq!(hold.passed(2_000 * MS).map(|(_, floor, _)| floor), Some(Seq::new(30)));
        // Paths that reorder themselves are given their own spread.
        hold.late(2_000 * MS, 20 * MS, true);
        hold.arrived(2_001 * MS, 1, Seq::new(40));
        let (_, _, due_at) = hold.passed(2_001 * MS).unwrap();
        assert!(due_at >= 2_021 * MS);
    }
}
