//! Which failures become a ban, and for how long.
//!
//! Only proven failures come in here, of somebody who receives what is sent to the address; what an address can be made to
//! look like by forging it is never held against it. So many of them within so long make a ban, each further ban lasts
//! twice as long, and after a quiet time the next one is the first again. How often a network was banned is remembered
//! with its ban and so outlives a restart; single failures are not.
//!
//! Promises: memory is bounded; O(1) per failure, but for the rare clearing; an address pays for its own failures only (an
//! IPv6 address for those of its /64, the least a subscriber has).

use std::collections::HashMap;
use std::net::IpAddr;

use bondgate_auth::cidr::Cidr;

use super::list::{BanList, Origin, Record};
use crate::config::resolved::Bans;

/// Addresses with failures that are remembered at once.
const SUSPECTS_MAX: usize = 65_536;

#[derive(Clone, Copy)]
struct Suspect {
    strikes: u32,
    /// When the first of them came.
    since_ms: u64,
}

/// Counts failures.
#[derive(Default)]
pub struct Ladder {
    suspects: HashMap<IpAddr, Suspect>,
}

/// What is banned for failures of `ip`.
pub fn source(ip: IpAddr) -> Cidr {
    match ip.to_canonical() {
        ip @ IpAddr::V4(_) => Cidr { addr: ip, prefix: 32 },
        IpAddr::V6(ip) => Cidr { addr: IpAddr::V6((ip.to_bits() & (u128::MAX << 64)).into()), prefix: 64 },
    }
}

impl Ladder {
    /// A proven failure at `ip`: the ban it leads to, if it was one too many. `list` knows the bans there were.
    pub fn strike(&mut self, ip: IpAddr, now_ms: u64, rules: &Bans, list: &BanList) -> Option<Record> {
        let (network, window_ms) = (source(ip), rules.window_s.saturating_mul(1000));
        if self.suspects.len() >= SUSPECTS_MAX && !self.suspects.contains_key(&network.addr) {
            self.clear(now_ms, window_ms);
        }
        let fresh = Suspect { strikes: 0, since_ms: now_ms };
        let suspect = self.suspects.entry(network.addr).or_insert(fresh);
        // A clock that was set back begins a new window too.
        if now_ms.checked_sub(suspect.since_ms).is_none_or(|age_ms| age_ms >= window_ms) {
            *suspect = fresh;
        }
        suspect.strikes += 1;
        let strikes = suspect.strikes;
        if strikes < rules.strikes {
            return None;
        }
        self.suspects.remove(&network.addr);
        let max_ms = rules.max_s.saturating_mul(1000);
        let before = list.failures_of(network).filter(|record| {
            record.until_ms.is_some_and(|until_ms| now_ms < until_ms.saturating_add(max_ms))
        });
        let times = before.map_or(0, |record| record.times).saturating_add(1);
        let doubled = 1_u64.checked_shl(times.min(64) - 1).unwrap_or(u64::MAX);
        let term_ms = rules.first_s.saturating_mul(1000).saturating_mul(doubled).min(max_ms);
        let until_ms =
            now_ms.saturating_add(term_ms).max(before.and_then(|record| record.until_ms).unwrap_or(0));
        let note = format!("{strikes} proven failures");
        Some(Record {
            network,
            until_ms: Some(until_ms),
            since_ms: now_ms,
            origin: Origin::Failures,
            times,
            note,
        })
    }

    /// Makes room: those whose window is over go, and if that is not enough, the oldest.
    fn clear(&mut self, now_ms: u64, window_ms: u64) {
        self.suspects.retain(|_, suspect| now_ms.saturating_sub(suspect.since_ms) < window_ms);
        let over = self.suspects.len().saturating_sub(SUSPECTS_MAX * 3 / 4);
        if over > 0 {
            let mut ages: Vec<(u64, IpAddr)> =
                self.suspects.iter().map(|(ip, suspect)| (suspect.since_ms, *ip)).collect();
            ages.sort_unstable();
            for (_, ip) in ages.into_iter().take(over) {
                self.suspects.remove(&ip);
            }
        }
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
        let (mut ladder, mut list, rules) = (Ladder::default(), BanList::default(), Bans::default());
        let mut now_ms = 1_800_000_000_000;
        let mut terms_s = Vec::new();
        for _ in 0..14 {
            for strike in 1..=5 {
                let made = ladder.strike(ip(1), now_ms, &rules, &list);
                assert_eq!(made.is_some(), strike == 5);
                if let Some(record) = made {
                    terms_s.push((record.until_ms.unwrap() - now_ms) / 1000);
                    now_ms = record.until_ms.unwrap();
                    list.put(record).unwrap();
                } else {
                    now_ms += 1000;
                }
            }
        }
        assert_eq!(terms_s[..4], [60, 120, 240, 480]);
        assert_eq!(terms_s[11..], [86_400; 3]);
        // A day without a failure and it begins anew.
        now_ms += 86_400_000;
        let made = (0..5).find_map(|_| ladder.strike(ip(1), now_ms, &rules, &list)).unwrap();
        assert_eq!((made.until_ms, made.times), (Some(now_ms + 60_000), 1));
    }

    #[test]
    fn slow_failures_are_forgiven() {
        let (mut ladder, list, rules) = (Ladder::default(), BanList::default(), Bans::default());
        for n in 0..1000 {
            assert!(ladder.strike(ip(1), 15_000 * n, &rules, &list).is_none());
        }
    }

    #[test]
    fn nobody_pays_for_another_and_there_is_room_for_the_latest() {
        let (mut ladder, list, rules) = (Ladder::default(), BanList::default(), Bans::default());
        for n in 0..200_000 {
            for _ in 0..3 {
                assert!(ladder.strike(ip(n), u64::from(n), &rules, &list).is_none());
            }
        }
        assert!(ladder.suspects.len() <= SUSPECTS_MAX);
        let made: Vec<_> =
            (0..2).filter_map(|_| ladder.strike(ip(199_999), 200_000, &rules, &list)).collect();
        assert_eq!(made.len(), 1);
        assert_eq!(made[0].network, Cidr { addr: ip(199_999), prefix: 32 });
    }

    #[test]
    fn an_ipv6_subscriber_is_a_64() {
        let (mut ladder, list, rules) = (Ladder::default(), BanList::default(), Bans::default());
        let made: Vec<_> = (0..5)
            .filter_map(|n| ladder.strike(format!("2001:db8::{n}:1").parse().unwrap(), 0, &rules, &list))
            .collect();
        assert_eq!(made[0].network.to_string(), "2001:db8::/64");
        let mapped = source("::ffff:192.0.2.1".parse().unwrap());
        assert_eq!(mapped.to_string(), "192.0.2.1/32");
    }
}
