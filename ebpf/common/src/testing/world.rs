//! A gate without a kernel: maps that are plain collections, and the one that the table is about.

use core::cell::OnceCell;
use core::sync::atomic::{AtomicU64, Ordering};
use std::collections::HashMap;
use std::vec::Vec;

use super::address;
use crate::abi::{
    BUCKETS_MAX, Budget, CHECK_ALLOW, CHECK_BANS, CHECK_GATE_TAG, CHECK_GEO, Config, FOR_EVER, GEO_ALLOWED,
    GEO_REFUSED, GateKey, Link, LinkKey, List, Port, PortKind, STOCK_LISTED, Words, allow_value, ban_key,
    bytes,
};
use crate::bucket::Rate;
use crate::gate::{Lookups, Sink, Verdict, decide};
use crate::reason::Reason;

/// The SRTLA port of [`World::standard`].
pub const SRTLA_PORT: u16 = 5000;
/// Its port of plain SRT.
pub const SRT_PORT: u16 = 9710;
/// A port that is nobody's.
pub const OTHER_PORT: u16 = 9;
/// The epochs of its gate keys.
pub const EPOCHS: [u32; 3] = [6, 7, 8];

/// So slow that no token comes back while a test runs, and three at once.
pub const DRY: Rate = Rate { interval_ns: HOUR_NS, tolerance_ns: 2 * HOUR_NS };
const HOUR_NS: u64 = 3_600_000_000_000;

/// The gate key of an epoch.
pub fn gate_key(epoch: u32) -> GateKey {
    let mut key = [0x5a; 16];
    key[..4].copy_from_slice(&epoch.to_be_bytes());
    GateKey::new(epoch, &key)
}

/// An entry of a list: address, prefix length of 128, value.
pub type ListEntry = ([u8; 16], u32, u64);

/// The maps.
#[derive(Debug)]
pub struct World {
    /// The configuration in force.
    pub config: Config,
    /// Registered links.
    pub links: HashMap<LinkKey, Link>,
    /// Banned addresses, by [`ban_key`].
    pub bans: HashMap<[u8; 16], u64>,
    /// The lists, by [`List`].
    pub lists: [Vec<ListEntry>; List::ALL.len()],
    /// What the clock shows.
    pub now_ns: u64,
    link_buckets: HashMap<LinkKey, AtomicU64>,
    /// Made when the first is asked for.
    buckets: OnceCell<Vec<AtomicU64>>,
}

impl World {
    /// Empty maps: nothing is guarded.
    pub fn empty() -> Self {
        Self {
            config: Config::default(),
            links: HashMap::new(),
            bans: HashMap::new(),
            lists: Default::default(),
            now_ns: HOUR_NS,
            link_buckets: HashMap::new(),
            buckets: OnceCell::new(),
        }
    }

    /// The gate that the table is about: everything is looked at, without budgets.
    pub fn standard() -> Self {
        let mut world = Self::empty();
        let config = &mut world.config;
        config.generation = 1;
        config.seed = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];
        config.ports[0] = Port::new(SRTLA_PORT, PortKind::Srtla);
        config.ports[1] = Port::new(SRT_PORT, PortKind::Srt);
        config.gate_keys = EPOCHS.map(gate_key);
        config.flags = CHECK_BANS | CHECK_ALLOW | CHECK_GEO | STOCK_LISTED | CHECK_GATE_TAG;
        for (link, shard) in [("198.51.100.10", 0), ("2001:db8:1::10", 1), ("203.0.113.10", 2)] {
            world.register(link, 40000, shard);
        }
        for (text, until) in
            [("198.51.100.66", FOR_EVER), ("198.51.100.67", 1), ("2001:db8:1:66::1", FOR_EVER)]
        {
            world.bans.insert(ban_key(&address(text)), until);
        }
        for (list, text, value) in [
            (List::Bans, "198.51.100.96/28", FOR_EVER),
            (List::Bans, "198.51.100.112/28", 1),
            (List::Bans, "2001:db8:1:77::7/128", FOR_EVER),
            (List::Allow, "198.51.100.0/24", allow_value(0)),
            (List::Allow, "192.0.2.0/24", allow_value(1)),
            (List::Allow, "192.0.2.128/25", allow_value(2)),
            (List::Allow, "2001:db8:1::/48", allow_value(0)),
            (List::Allow, "2001:db8:2::/48", allow_value(3)),
            (List::Geo, "198.51.100.0/25", GEO_ALLOWED),
            (List::Geo, "198.51.100.128/26", GEO_REFUSED),
            (List::Geo, "198.51.100.129/32", GEO_ALLOWED),
            (List::Geo, "2001:db8:1::/48", GEO_ALLOWED),
            (List::Geo, "2001:db8:1:8000::/49", GEO_REFUSED),
            (List::StockAllow, "198.51.100.0/26", 1),
            (List::StockAllow, "198.51.100.32/32", 0),
            (List::StockAllow, "198.51.100.192/26", 1),
            (List::StockAllow, "192.0.2.0/24", 1),
            (List::StockAllow, "2001:db8:1:1::/64", 1),
            (List::StockAllow, "2001:db8:2::/48", 1),
        ] {
            world.list_prefix(list, text, value);
        }
        world
    }

    /// The same, changed.
    pub fn standard_with(change: impl FnOnce(&mut Self)) -> Self {
        let mut world = Self::standard();
        change(&mut world);
        world
    }

    /// The verdict on a frame.
    pub fn decide(&self, frame: &[u8]) -> Verdict {
        decide(&frame, &self.config, self, &Keep)
    }

    /// Registers the link of an address and port to [`SRTLA_PORT`].
    pub fn register(&mut self, source: &str, port: u16, shard: u32) {
        let key = LinkKey::new(address(source), port, SRTLA_PORT);
        self.links.insert(key, Link { shard, generation: 1, reg_bucket: 0 });
        self.link_buckets.insert(key, AtomicU64::new(0));
    }

    /// Puts a network, `ADDRESS/BITS`, into a list.
    pub fn list_prefix(&mut self, list: List, text: &str, value: u64) {
        let (network, bits) = text.split_once('/').expect("a network");
        let mut bits: u32 = bits.parse().expect("a prefix length");
        if !network.contains(':') {
            bits += 96;
        }
        self.lists[list as usize].push((address(network), bits, value));
    }

    /// Sets a rate.
    pub fn limit(&mut self, budget: Budget, rate: Rate) {
        self.config.set_rate(budget, rate);
    }

    /// Fills all buckets again.
    pub fn refill(&mut self) {
        for bucket in self.buckets.get().into_iter().flatten().chain(self.link_buckets.values()) {
            bucket.store(0, Ordering::Relaxed);
        }
    }

    /// The buckets that are not full, by index.
    pub fn spent(&self) -> Vec<(u32, u64)> {
        let fill = self.buckets.get().into_iter().flatten().map(|bucket| bucket.load(Ordering::Relaxed));
        (0..).zip(fill).filter(|(_, full_at)| *full_at != 0).collect()
    }
}

/// Keeps the verdict.
struct Keep;

impl Sink for Keep {
    type Output = Verdict;

    fn verdict(&self, reason: Reason, source: Option<&LinkKey>) -> Verdict {
        Verdict { source: source.copied().unwrap_or(LinkKey::ZERO), reason }
    }
}

impl Lookups for World {
    type Bucket = AtomicU64;

    fn now_ns(&self) -> u64 {
        self.now_ns
    }

    fn is_link_port(&self, port: u16) -> bool {
        self.link_buckets.keys().any(|key| key.port() == port)
    }

    fn link(&self, key: &LinkKey) -> Option<&AtomicU64> {
        self.link_buckets.get(key)
    }

    fn ban(&self, key: &Words) -> u64 {
        self.bans.get(&bytes(key)).copied().unwrap_or(0)
    }

    fn list(&self, list: List, address: &Words) -> u64 {
        let address = bytes(address);
        let matches = |(network, bits, _): &&ListEntry| {
            let differing = u128::from_be_bytes(*network) ^ u128::from_be_bytes(address);
            differing.leading_zeros() >= *bits
        };
        let entries = self.lists[list as usize].iter().filter(matches);
        entries.max_by_key(|(_, bits, _)| *bits).map_or(0, |(_, _, value)| *value)
    }

    fn bucket(&self, index: u32) -> Option<&AtomicU64> {
        let fill = || (0..BUCKETS_MAX).map(|_| AtomicU64::new(0)).collect();
        self.buckets.get_or_init(fill).get(index as usize)
    }
}
