//! Silence for addresses that failed too often.
//!
//! Only failures of *proven* addresses come in here: of somebody who receives what is sent there. What an address can be
//! made to look like by forging it is never held against it. Five failures within a minute silence registration for a
//! minute, then two, and so on up to a day; links that are up are not touched. Devices are never silenced: a stranger behind
//! the same carrier's NAT must not silence them, and whoever saw a join go by could send it with a wrong MAC in the device's
//! name, cookie and all.
//!
//! Promises: a table of fixed size; O(1); an address is silenced for its own failures only, not for another's that
//! happens to share its place.

use super::lanes::source_prefix;
use std::net::IpAddr;
use std::time::{Duration, Instant};

const STRIKES_MAX: u8 = 5;
const WINDOW: Duration = Duration::from_secs(60);
const FIRST: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(24 * 3600);
const SETS: usize = 256;
const WAYS: usize = 4;

#[derive(Clone, Copy)]
struct Entry {
    prefix: [u8; 16],
    strikes: u8,
    /// When the first of the strikes came.
    since: Instant,
    last: Instant,
    until: Option<Instant>,
    /// How often it was silenced already.
    served: u8,
}

/// See the module's comment.
pub(super) struct Penalties {
    sets: Box<[[Option<Entry>; WAYS]]>,
    /// No penalty lasts longer than this.
    last_ends: Option<Instant>,
}

impl Penalties {
    pub(super) fn new() -> Self {
        Self { sets: vec![[None; WAYS]; SETS].into_boxed_slice(), last_ends: None }
    }

    /// Registration without a key from this address is to be met with silence. `hash` is the source's.
    pub(super) fn is_silenced(&self, now: Instant, ip: IpAddr, hash: u32) -> bool {
        if self.last_ends.is_none_or(|end| end <= now) {
            return false;
        }
        let prefix = source_prefix(ip);
        self.sets
            .get(hash as usize % SETS)
            .into_iter()
            .flatten()
            .flatten()
            .any(|entry| entry.prefix == prefix && entry.until.is_some_and(|until| now < until))
    }

    /// Notes a failure of a proven address. `true` when it is silenced from now on.
    pub(super) fn strike(&mut self, now: Instant, ip: IpAddr, hash: u32) -> bool {
        let prefix = source_prefix(ip);
        let Some(set) = self.sets.get_mut(hash as usize % SETS) else { return false };
        let known = set.iter().position(|place| place.is_some_and(|entry| entry.prefix == prefix));
        // The place of the one whose last failure is longest ago, those under penalty last.
        let at = known.or_else(|| {
            let worth = |entry: &Entry| (entry.until.is_some_and(|until| now < until), entry.last);
            (0..WAYS).min_by_key(|&way| set.get(way).and_then(Option::as_ref).map(worth))
        });
        let Some(place) = at.and_then(|way| set.get_mut(way)) else { return false };
        let fresh = Entry { prefix, strikes: 0, since: now, last: now, until: None, served: 0 };
        let entry = match place {
            Some(entry) if known.is_some() => entry,
            _ => place.insert(fresh),
        };
        let quiet_since = entry.until.map_or(entry.last, |until| until.max(entry.last));
        if now.saturating_duration_since(quiet_since) >= LONGEST {
            *entry = Entry { until: entry.until, ..fresh };
        }
        if now.saturating_duration_since(entry.since) >= WINDOW {
            (entry.strikes, entry.since) = (0, now);
        }
        entry.last = now;
        entry.strikes += 1;
        if entry.strikes < STRIKES_MAX {
            return false;
        }
        let term = FIRST.saturating_mul(1 << entry.served.min(20)).min(LONGEST);
        (entry.strikes, entry.since) = (0, now);
        entry.served = entry.served.saturating_add(1);
        entry.until = Some(now + term);
        self.last_ends = self.last_ends.max(entry.until);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(n: u32) -> IpAddr {
        std::net::Ipv4Addr::from(0x0A00_0000 + n).into()
    }

    #[test]
    fn five_failures_a_minute_double_up_to_a_day() {
        let mut penalties = Penalties::new();
        let mut now = Instant::now();
        let mut terms = Vec::new();
        for _ in 0..14 {
            for strike in 1..=5 {
                assert!(!penalties.is_silenced(now, ip(1), 9));
                assert_eq!(penalties.strike(now, ip(1), 9), strike == 5);
                now += Duration::from_secs(1);
            }
            let start = now;
            while penalties.is_silenced(now, ip(1), 9) {
                now += Duration::from_secs(1);
            }
            terms.push((now - start).as_secs() + 1);
        }
        assert_eq!(terms[..4], [60, 120, 240, 480]);
        assert_eq!(terms[11..], [86_400; 3]);
        // A day without a failure and it begins anew.
        now += LONGEST;
        for _ in 0..5 {
            penalties.strike(now, ip(1), 9);
        }
        assert!(penalties.is_silenced(now + Duration::from_secs(59), ip(1), 9));
        assert!(!penalties.is_silenced(now + Duration::from_secs(60), ip(1), 9));
    }

    #[test]
    fn slow_failures_are_forgiven() {
        let mut penalties = Penalties::new();
        let mut now = Instant::now();
        for _ in 0..1000 {
            assert!(!penalties.strike(now, ip(1), 0));
            now += Duration::from_secs(15);
        }
    }

    /// One place for all: nobody is silenced for another's failures, and the worst are remembered longest.
    #[test]
    fn neighbours_in_the_table_are_told_apart() {
        let mut penalties = Penalties::new();
        let now = Instant::now();
        for n in 0..3 {
            assert_eq!((0..5).filter(|_| penalties.strike(now, ip(n), 77)).count(), 1);
        }
        for n in 3..10_000 {
            for _ in 0..3 {
                penalties.strike(now, ip(n), 77);
            }
        }
        let silenced: Vec<u32> = (0..10_000).filter(|&n| penalties.is_silenced(now, ip(n), 77)).collect();
        assert_eq!(silenced, [0, 1, 2]);
    }
}
