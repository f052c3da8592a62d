//! Budgets of registration: what is paid before a MAC is computed or an answer sent.
//!
//! SA1's lanes are those of the specification (5.3): each is fed by what was proven before, so that whoever lacks a proof
//! cannot empty the lane of those who have it. Stock registration has lanes of its own. Together they are the crypto
//! budget of a core. Promises: O(1), all memory is taken when the receiver or a policy is made; sources share a table of
//! fixed size under a keyed hash, so that nobody can choose whose bucket to empty.

use super::admission::{Admission, Limits};
use super::bucket::{Bucket, Rate};
use super::table::KeyHash;
use super::time::Time;
use bondgate_auth::sa1::KeyId;
use bondgate_auth::sa1::receiver::{Budget, Lane};
use bondgate_auth::table::KeyTable;
use std::net::{IpAddr, SocketAddr};

/// Buckets for sources in each table.
const SOURCES: usize = 4096;

/// The rates of the lanes that [`Limits`] does not set. Those without "per" are of the whole shard; together with
/// [`Limits::stock`] they are the shard's crypto budget, 20,000 MACs per second.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LaneRates {
    /// MAC1, per key. Sixteen links in a blackout say hello once a second each, and thrice in their first second.
    pub hello_per_key: Rate,
    /// MAC1.
    pub hello: Rate,
    /// Cookies.
    pub cookie: Rate,
    /// MAC3 with a good cookie, per source (IPv4 address or IPv6 /64).
    pub join_per_source: Rate,
    /// MAC3 with a good cookie.
    pub join: Rate,
    /// MAC3 without a good cookie, per key.
    pub rechallenge_per_key: Rate,
    /// MAC3 without a good cookie.
    pub rechallenge: Rate,
    /// Links that join, move or renew their keys, per key; refusal 8 beyond.
    pub changes_per_key: Rate,
    /// REG2 repeated because no join came.
    pub reg2_repeat: Rate,
}

impl Default for LaneRates {
    fn default() -> Self {
        let rate = |per_s, burst| Rate { per_s, burst };
        Self {
            hello_per_key: rate(20, 64),
            hello: rate(5000, 2500),
            cookie: rate(4000, 2000),
            join_per_source: rate(50, 200),
            join: rate(4000, 2000),
            rechallenge_per_key: rate(10, 20),
            rechallenge: rate(1000, 500),
            changes_per_key: rate(20, 64),
            reg2_repeat: rate(20, 64),
        }
    }
}

/// The lanes of one shard.
pub(super) struct Lanes {
    rates: LaneRates,
    limits: Limits,
    keys: Vec<KeyLanes>,
    hello: Bucket,
    cookie: Bucket,
    join: Bucket,
    rechallenge: Bucket,
    stock_reg1: Bucket,
    stock_join: Bucket,
    reg2_repeat: Bucket,
    joins: Box<[Bucket]>,
    stock: Box<[Bucket]>,
    sa1_networks: Box<[Bucket]>,
}

#[derive(Clone, Copy)]
struct KeyLanes {
    hello: Bucket,
    rechallenge: Bucket,
    changes: Bucket,
}

/// A kind of stock registration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stock {
    Reg1,
    Join,
    Repeat,
}

impl Lanes {
    pub(super) fn new(rates: LaneRates, admission: &Admission, now: Time) -> Self {
        let limits = admission.limits;
        let full = Bucket::full(now);
        let sources = || vec![full; SOURCES].into_boxed_slice();
        let mut lanes = Self {
            rates,
            limits,
            keys: Vec::new(),
            hello: full,
            cookie: full,
            join: full,
            rechallenge: full,
            stock_reg1: full,
            stock_join: full,
            reg2_repeat: full,
            joins: sources(),
            stock: sources(),
            sa1_networks: sources(),
        };
        lanes.renumber(&admission.keys, now);
        lanes
    }

    /// Other limits: what is in the buckets stays, as far as it fits.
    pub(super) fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Another table of keys: their numbers mean others now, and all begin with full buckets.
    pub(super) fn renumber(&mut self, keys: &KeyTable, now: Time) {
        let full =
            KeyLanes { hello: Bucket::full(now), rechallenge: Bucket::full(now), changes: Bucket::full(now) };
        self.keys.clear();
        self.keys.resize(keys.len(), full);
    }

    /// What SA1 pays from for one datagram.
    pub(super) fn purse<'a>(&'a mut self, keys: &'a KeyTable, source: Source, now: Time) -> Purse<'a> {
        Purse { lanes: self, keys, source, now }
    }

    /// A link of this key joins, moves or renews its keys.
    pub(super) fn change(&mut self, key_slot: u32, now: Time) -> bool {
        let rate = self.rates.changes_per_key;
        self.keys.get_mut(key_slot as usize).is_some_and(|key| key.changes.take(rate, now))
    }

    /// A stock registration from this source.
    pub(super) fn stock_source(&mut self, source: u32, now: Time) -> bool {
        take_of(&mut self.stock, source, self.limits.stock_per_source, now)
    }

    /// A stock registration, from whomever.
    pub(super) fn stock(&mut self, kind: Stock, now: Time) -> bool {
        match kind {
            Stock::Reg1 => self.stock_reg1.take(self.limits.stock_reg1(), now),
            Stock::Join => self.stock_join.take(self.limits.stock_join(), now),
            Stock::Repeat => self.reg2_repeat.take(self.rates.reg2_repeat, now),
        }
    }
}

fn take_of(buckets: &mut [Bucket], source: u32, rate: Rate, now: Time) -> bool {
    let place = source as usize % SOURCES;
    buckets.get_mut(place).is_some_and(|bucket| bucket.take(rate, now))
}

/// The lanes as SA1's verification sees them. The network pays first, so that those beside a device cannot empty its key's
/// bucket from one place; then the narrow bucket before the wide one, so that one key or source alone cannot empty what
/// all share.
pub(super) struct Purse<'a> {
    lanes: &'a mut Lanes,
    keys: &'a KeyTable,
    source: Source,
    now: Time,
}

impl Budget for Purse<'_> {
    fn take(&mut self, lane: Lane, _from: SocketAddr, key_id: KeyId) -> bool {
        let Self { lanes, keys, source, now } = self;
        let (rates, now) = (&lanes.rates, *now);
        // What has the gate tag is either a hello or a join, whose cookie is looked at first.
        if matches!(lane, Lane::Hello | Lane::Cookie)
            && !take_of(&mut lanes.sa1_networks, source.network, lanes.limits.sa1_per_network, now)
        {
            return false;
        }
        let key = keys.entry(&key_id).and_then(|entry| lanes.keys.get_mut(entry.slot as usize));
        match lane {
            Lane::Hello => {
                key.is_some_and(|key| key.hello.take(rates.hello_per_key, now))
                    && lanes.hello.take(rates.hello, now)
            }
            Lane::Cookie => lanes.cookie.take(rates.cookie, now),
            Lane::Join => {
                take_of(&mut lanes.joins, source.host, rates.join_per_source, now)
                    && lanes.join.take(rates.join, now)
            }
            Lane::Rechallenge => {
                key.is_some_and(|key| key.rechallenge.take(rates.rechallenge_per_key, now))
                    && lanes.rechallenge.take(rates.rechallenge, now)
            }
        }
    }
}

/// What counts as one source: an IPv4 address, or the /64 of an IPv6 address.
pub(super) fn source_prefix(ip: IpAddr) -> [u8; 16] {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => {
            let mut octets = ip.octets();
            octets[8..].fill(0);
            octets
        }
    }
}

/// What counts as one network of sources: an IPv4 /24 or an IPv6 /56.
fn network_prefix(ip: IpAddr) -> [u8; 16] {
    let mut prefix = source_prefix(ip);
    match ip.to_canonical() {
        IpAddr::V4(_) => prefix[15] = 0,
        IpAddr::V6(_) => prefix[7] = 0,
    }
    prefix
}

/// Where a datagram came from, as keyed hashes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source {
    /// Of [`source_prefix`].
    pub host: u32,
    /// Of the network around it.
    pub network: u32,
}

impl Source {
    pub(super) fn of(hasher: &KeyHash, ip: IpAddr) -> Self {
        Self { host: source_hash(hasher, ip), network: hasher.of(&network_prefix(ip)) }
    }
}

/// The keyed hash of a source.
pub(super) fn source_hash(hasher: &KeyHash, ip: IpAddr) -> u32 {
    hasher.of(&source_prefix(ip))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_source_is_an_ipv4_address_or_a_64() {
        let same = |a, b| source_prefix(ip(a)) == source_prefix(ip(b));
        assert!(same("192.0.2.1", "::ffff:192.0.2.1") && !same("192.0.2.1", "192.0.2.2"));
        assert!(same("2001:db8::1", "2001:db8::ffff:1") && !same("2001:db8::1", "2001:db8:0:1::1"));
        let same = |a, b| network_prefix(ip(a)) == network_prefix(ip(b));
        assert!(same("192.0.2.1", "::ffff:192.0.2.254") && !same("192.0.2.1", "192.0.3.1"));
        assert!(same("2001:db8::1", "2001:db8:0:ff::1") && !same("2001:db8::1", "2001:db8:0:100::1"));
    }

    #[test]
    fn the_crypto_budget_is_20_000_per_second() {
        let (rates, stock) = (LaneRates::default(), Limits::default());
        assert_eq!(
            (stock.stock_reg1(), stock.stock_join()),
            (Rate { per_s: 4000, burst: 4000 }, Rate { per_s: 2000, burst: 2000 })
        );
        let lanes = [rates.hello, rates.cookie, rates.join, rates.rechallenge, stock.stock];
        assert_eq!(lanes.iter().map(|rate| rate.per_s).sum::<u32>(), 20_000);
    }

    /// Whoever empties one lane leaves the others full, and one source leaves room for others.
    #[test]
    fn lanes_are_apart() {
        let now = Time::any();
        let keys = KeyTable::default();
        let mut lanes = Lanes::new(LaneRates::default(), &Admission::open(), now);
        let from = SocketAddr::from(([192, 0, 2, 1], 5000));
        let take = |lanes: &mut Lanes, lane, host| {
            lanes.purse(&keys, Source { host, network: host }, now).take(lane, from, [0; 8])
        };
        let all =
            |lanes: &mut Lanes, lane, source| (0..100_000).filter(|_| take(lanes, lane, source)).count();
        assert_eq!(all(&mut lanes, Lane::Hello, 1), 0, "no key, no bucket");
        assert_eq!(all(&mut lanes, Lane::Cookie, 1), 0, "the network's bucket is empty");
        assert_eq!(all(&mut lanes, Lane::Cookie, 2), 2000);
        assert_eq!(all(&mut lanes, Lane::Join, 1), 200);
        assert_eq!(all(&mut lanes, Lane::Join, 2), 200);
        assert_eq!((0..1000).filter(|_| lanes.stock_source(7, now)).count(), 128);
        assert_eq!((0..9000).filter(|_| lanes.stock(Stock::Reg1, now)).count(), 4000);
        assert!(lanes.stock_source(8, now) && lanes.stock(Stock::Join, now));
        assert!(!lanes.change(0, now), "no such key");
    }
}
