//! Addresses and networks that are kept out for a time or for good.
//!
//! A [`BanSet`] is built from a list of [`Ban`]s and never changes; share it behind an `Arc`. The clock is an argument, so a
//! ban that has run out is none, whether or not somebody has built a new set since. Promises: a lookup is one binary search
//! and allocates nothing; where several bans cover an address, the one that lasts longest counts.
//!
//! A ban has a scope. What an operator bans is kept out altogether ([`Scope::Everyone`]). What is banned for its failures is
//! kept from registering and calling without a key ([`Scope::Keyless`]): behind a carrier's NAT many share one address, and
//! a stranger's guesses must not lock out the device beside him.

use crate::cidr::Cidr;
use crate::prefix::PrefixSet;
use std::fmt;
use std::net::IpAddr;

/// Whom a ban concerns at its addresses.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Scope {
    /// Senders without a key, and plain SRT callers. Devices register, and streams that were accepted go on.
    Keyless,
    /// All, whatever key they hold. What is up is cut.
    Everyone,
}

/// One ban.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ban {
    /// Where.
    pub network: Cidr,
    /// First millisecond since 1970 at which it is over; `None`: never.
    pub until_ms: Option<u64>,
    /// Who.
    pub scope: Scope,
}

/// What never ends.
const FOR_EVER: u64 = u64::MAX;

/// The bans in force.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct BanSet {
    everyone: PrefixSet<u64>,
    keyless: PrefixSet<u64>,
}

impl FromIterator<Ban> for BanSet {
    /// `O(n log n)`. Host bits are ignored.
    fn from_iter<I: IntoIterator<Item = Ban>>(bans: I) -> Self {
        let (mut everyone, mut keyless) = (Vec::new(), Vec::new());
        for ban in bans {
            let list = match ban.scope {
                Scope::Everyone => &mut everyone,
                Scope::Keyless => &mut keyless,
            };
            list.push((ban.network, ban.until_ms.unwrap_or(FOR_EVER)));
        }
        Self { everyone: longest_lasting(everyone), keyless: longest_lasting(keyless) }
    }
}

/// The networks, each with the latest end of its own bans and of those around it, so that the longest match has the answer.
fn longest_lasting(mut networks: Vec<(Cidr, u64)>) -> PrefixSet<u64> {
    // Of a network given twice the last value counts.
    networks.sort_by_key(|(_, until_ms)| *until_ms);
    let own: PrefixSet<u64> = networks.into_iter().collect();
    let mut around: Vec<(Cidr, u64)> = Vec::new();
    own.iter()
        .map(|(network, until_ms)| {
            while around.last().is_some_and(|(outer, _)| !outer.contains(network.addr)) {
                around.pop();
            }
            let until_ms = around.last().map_or(until_ms, |(_, outer)| until_ms.max(*outer));
            around.push((network, until_ms));
            (network, until_ms)
        })
        .collect()
}

fn hit(set: &PrefixSet<u64>, ip: IpAddr, wall_ms: u64, scope: Scope) -> Option<Ban> {
    let (network, until_ms) = set.longest(ip).filter(|(_, until_ms)| wall_ms < *until_ms)?;
    Some(Ban { network, until_ms: (until_ms != FOR_EVER).then_some(until_ms), scope })
}

impl BanSet {
    /// The ban that keeps everybody at `ip` out, if there is one. Its network is the smallest banned one around `ip`; its end
    /// is that of the ban that lasts longest.
    pub fn everyone(&self, ip: IpAddr, wall_ms: u64) -> Option<Ban> {
        hit(&self.everyone, ip, wall_ms, Scope::Everyone)
    }

    /// The ban that keeps out whoever shows no key at `ip`, if there is one.
    pub fn keyless(&self, ip: IpAddr, wall_ms: u64) -> Option<Ban> {
        self.everyone(ip, wall_ms).or_else(|| hit(&self.keyless, ip, wall_ms, Scope::Keyless))
    }

    /// All bans, those that concern everybody first, by address, larger networks first. A network inside another that is
    /// banned longer is given the end of that one. Those that have run out are among them.
    pub fn iter(&self) -> impl Iterator<Item = Ban> {
        let of = |set: &PrefixSet<u64>, scope| {
            set.iter()
                .map(move |(network, until_ms)| Ban {
                    network,
                    until_ms: (until_ms != FOR_EVER).then_some(until_ms),
                    scope,
                })
                .collect::<Vec<_>>()
        };
        of(&self.everyone, Scope::Everyone).into_iter().chain(of(&self.keyless, Scope::Keyless))
    }

    /// How many networks there are.
    pub fn len(&self) -> usize {
        self.everyone.len() + self.keyless.len()
    }

    /// Nobody is banned.
    pub fn is_empty(&self) -> bool {
        self.everyone.is_empty() && self.keyless.is_empty()
    }
}

impl fmt::Debug for BanSet {
    /// There may be 200,000 of them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BanSet({} everyone, {} keyless)", self.everyone.len(), self.keyless.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn ban(addr: &str, prefix: u8, until_ms: Option<u64>, scope: Scope) -> Ban {
        Ban { network: Cidr { addr: ip(addr), prefix }, until_ms, scope }
    }

    #[test]
    fn a_ban_ends_by_the_clock() {
        let set: BanSet = [ban("192.0.2.7", 32, Some(100), Scope::Everyone)].into_iter().collect();
        assert!(set.everyone(ip("192.0.2.7"), 99).is_some());
        assert!(set.everyone(ip("::ffff:192.0.2.7"), 99).is_some(), "one address in two spellings");
        assert!(set.everyone(ip("192.0.2.7"), 100).is_none());
        assert!(set.everyone(ip("192.0.2.8"), 0).is_none());
    }

    #[test]
    fn what_is_for_ever_outlasts_every_clock() {
        let set: BanSet = [ban("192.0.2.0", 24, None, Scope::Everyone)].into_iter().collect();
        let found = set.everyone(ip("192.0.2.7"), u64::MAX - 1).unwrap();
        assert_eq!((found.until_ms, found.network.prefix), (None, 24));
    }

    /// An inner network whose time is over does not open a hole in the outer one.
    #[test]
    fn the_ban_that_lasts_longest_counts() {
        let set: BanSet = [
            ban("10.0.0.0", 8, None, Scope::Everyone),
            ban("10.1.0.0", 16, Some(5), Scope::Everyone),
            ban("10.1.0.0", 16, Some(3), Scope::Everyone),
            ban("10.1.2.3", 32, Some(9), Scope::Everyone),
        ]
        .into_iter()
        .collect();
        assert_eq!(set.len(), 3);
        for addr in ["10.1.2.3", "10.1.9.9", "10.9.9.9"] {
            assert_eq!(set.everyone(ip(addr), 1000).unwrap().until_ms, None, "{addr}");
        }
    }

    #[test]
    fn failures_keep_out_those_without_a_key_only() {
        let set: BanSet = [ban("2001:db8::", 64, Some(9), Scope::Keyless)].into_iter().collect();
        assert!(set.everyone(ip("2001:db8::1"), 0).is_none());
        assert_eq!(set.keyless(ip("2001:db8::1"), 0).unwrap().scope, Scope::Keyless);
        assert!(set.keyless(ip("2001:db8:0:1::1"), 0).is_none());
    }

    fn any_ban() -> impl Strategy<Value = Ban> {
        let v4 =
            (0u32..64, 24u8..=32).prop_map(|(low, prefix)| (IpAddr::V4((0x0A00_0000 + low).into()), prefix));
        let v6 = (0u128..64, 120u8..=128).prop_map(|(low, prefix)| (IpAddr::V6(low.into()), prefix));
        let everywhere = Just((IpAddr::V4(0.into()), 0));
        let scope = prop_oneof![Just(Scope::Everyone), Just(Scope::Keyless)];
        (prop_oneof![8 => v4, 4 => v6, 1 => everywhere], prop::option::of(0u64..20), scope).prop_map(
            |((addr, prefix), until_ms, scope)| Ban { network: Cidr { addr, prefix }, until_ms, scope },
        )
    }

    proptest! {
        /// Against a list that is walked from end to end.
        #[test]
        fn answers_as_a_list_would(bans in prop::collection::vec(any_ban(), 0..40), now in 0u64..25) {
            let set: BanSet = bans.iter().copied().collect();
            let v4 = (0u32..70).map(|low| IpAddr::V4((0x0A00_0000 + low).into()));
            let v6 = (0u128..70).map(|low| IpAddr::V6(low.into()));
            for ip in v4.chain(v6) {
                let longest = |scope: Scope| {
                    bans.iter()
                        .filter(|ban| ban.scope == scope && ban.network.contains(ip))
                        .map(|ban| ban.until_ms.unwrap_or(u64::MAX))
                        .filter(|until_ms| now < *until_ms)
                        .max()
                };
                let (everyone, keyless) = (longest(Scope::Everyone), longest(Scope::Keyless));
                let end = |found: Option<Ban>| found.map(|ban| ban.until_ms.unwrap_or(u64::MAX));
                prop_assert_eq!(end(set.everyone(ip, now)), everyone);
                prop_assert_eq!(end(set.keyless(ip, now)), everyone.or(keyless));
            }
            // What the gate's maps are made of gives the same answers.
            let again: BanSet = set.iter().collect();
            prop_assert_eq!(again, set);
        }
    }
}
