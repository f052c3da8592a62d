//! The policy as the gate's maps have it.
//!
//! Promise: what the gate drops the application would discard too. Where the two cannot say the same the gate lets pass: bans of
//! senders without a key (it would have to tell them from others first), and a port of plain SRT while `srtla.allow` is set, which
//! concerns registration only.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use bondgate_auth::bans::Scope;
use bondgate_auth::cidr::Cidr;
use bondgate_auth::geo::GeoSet;
use bondgate_auth::prefix::PrefixSet;
use bondgate_ebpf::{Entry, Network};
use bondgate_ebpf_common::abi::{self, BANS_MAX, Budget, Config, FOR_EVER, GateKey, List, Port, PortKind};
use bondgate_ebpf_common::bucket::Rate;
use bondgate_proto::receiver::{AdmitPolicy, StockAdmission};
use rustix::time::{ClockId, clock_gettime};

use crate::policy::{Policy, wall_ms};

/// Of dropped frames of one reason, one in so many is sampled.
const DROPS_PER_EVENT: u32 = 64;
/// Of passed frames.
const PASSES_PER_EVENT: u32 = 1024;
/// Samples per second, so that a flood does not cost by being watched.
const EVENTS_PER_S: u32 = 20_000;
/// Registration packets of one registered link: it repeats its registration now and then, and all of them when it restarts.
const LINK_REGISTRATIONS: Rate = Rate::per_second(64, 128);

/// What the gate has to know besides the policy.
#[derive(Clone, Copy, Debug)]
pub struct Listeners {
    /// Our port of links.
    pub srtla: u16,
    /// Our port of plain SRT.
    pub srt: Option<u16>,
    /// How many shards there are: their budgets add up.
    pub shards: u8,
}

/// What belongs into the maps.
#[derive(Debug)]
pub struct Tables {
    /// Without its generation and seed.
    pub config: Config,
    /// The lists, by [`List`]; those that are not looked at are empty. Countries are in [`Self::geo`].
    pub lists: [Vec<Entry>; List::ALL.len()],
    /// Bans of single addresses.
    pub bans: HashMap<[u8; 16], u64>,
    /// Countries; the list of them is long, and seldom another: see [`countries`].
    pub geo: Option<Arc<GeoSet>>,
}

/// The entries of [`List::Geo`].
pub fn countries(table: &PrefixSet<bool>) -> Vec<Entry> {
    entries(table, |admitted| if admitted { abi::GEO_ALLOWED } else { abi::GEO_REFUSED })
}

/// How the wall clock and the kernel's monotonic clock stand to each other.
#[derive(Clone, Copy, Debug)]
pub struct Clocks {
    wall_ms: u64,
    monotonic_ns: u64,
}

impl Clocks {
    /// Reads both.
    pub fn read() -> Self {
        let now = clock_gettime(ClockId::Monotonic);
        let monotonic_ns = u64::try_from(now.tv_sec)
            .unwrap_or(0)
            .saturating_mul(1_000_000_000)
            .saturating_add(now.tv_nsec as u64);
        Self { wall_ms: wall_ms(), monotonic_ns }
    }

    /// The wall clock was set meanwhile.
    pub fn is_off(&self) -> bool {
        let now = Self::read();
        let wall_ms = now.wall_ms as i64 - self.wall_ms as i64;
        let monotonic_ms = (now.monotonic_ns / 1_000_000) as i64 - (self.monotonic_ns / 1_000_000) as i64;
        wall_ms.abs_diff(monotonic_ms) > 1000
    }

    /// A moment of the wall clock on the monotonic clock; at least 1, for 0 means nothing.
    fn monotonic_ns(&self, at_ms: u64) -> u64 {
        let ahead = i128::from(at_ms) - i128::from(self.wall_ms);
        let at = i128::from(self.monotonic_ns) + ahead * 1_000_000;
        u64::try_from(at.max(1)).unwrap_or(FOR_EVER - 1).min(FOR_EVER - 1)
    }
}

/// An address as the maps have it.
pub fn octets(ip: IpAddr) -> [u8; 16] {
    match ip.to_canonical() {
        IpAddr::V4(ip) => abi::v4_mapped(ip.octets()),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// A network as the maps have it.
fn network(cidr: Cidr) -> Network {
    match cidr.addr.to_canonical() {
        IpAddr::V4(ip) => Network { address: abi::v4_mapped(ip.octets()), prefix_len: 96 + cidr.prefix },
        IpAddr::V6(ip) => Network { address: ip.octets(), prefix_len: cidr.prefix },
    }
}

/// The entries of a list. IPv6 networks that cover the place where the maps have IPv4 do not mean it.
fn entries<V: Copy>(set: &PrefixSet<V>, value: impl Fn(V) -> u64) -> Vec<Entry> {
    let mut entries: Vec<Entry> = set.iter().map(|(cidr, of)| (network(cidr), value(of))).collect();
    let v4_mapped = abi::v4_mapped([0; 4]);
    let everything_v4 = Network { address: v4_mapped, prefix_len: 96 };
    let covers_v4 = entries.iter().any(|(network, _)| {
        let keep = u128::MAX.checked_shl(128 - u32::from(network.prefix_len)).unwrap_or(0);
        network.prefix_len < 96
            && u128::from_be_bytes(v4_mapped) & keep == u128::from_be_bytes(network.address) & keep
    });
    if covers_v4 && !entries.iter().any(|(network, _)| *network == everything_v4) {
        entries.push((everything_v4, 0));
    }
    entries
}

/// The rate of the application's bucket, of which every shard has one.
fn rate(of: bondgate_proto::receiver::Rate, shards: u8) -> Rate {
    let all = |number: u32| number.saturating_mul(u32::from(shards));
    // No token ever is no limit to the maps; it is then left to the application to say no.
    Rate::per_second(all(of.per_s), all(of.burst))
}

impl Tables {
    /// The tables of a policy.
    pub fn compile(policy: &Policy, listeners: Listeners, clocks: &Clocks) -> Self {
        let admission = &policy.admission;
        let mut config = Config {
            drop_sample_mask: DROPS_PER_EVENT - 1,
            pass_sample_mask: PASSES_PER_EVENT - 1,
            ..Config::default()
        };
        let limits = &admission.limits;
        config.set_rate(Budget::Events, Rate::per_second(EVENTS_PER_S, EVENTS_PER_S / 4));
        config.set_rate(Budget::Link, LINK_REGISTRATIONS);
        config.set_rate(Budget::StockSource, rate(limits.stock_per_source, listeners.shards));
        config.set_rate(Budget::StockTotal, rate(limits.stock, listeners.shards));
        config.set_rate(Budget::Sa1Source, rate(limits.sa1_per_network, listeners.shards));
        if let Some(keys) = &admission.gate {
            config.flags |= abi::CHECK_GATE_TAG;
            for (place, key) in config.gate_keys.iter_mut().zip(keys.iter()) {
                *place = GateKey::new(key.epoch(), key.bytes());
            }
        }
        let mut lists: [Vec<Entry>; List::ALL.len()] = Default::default();
        if let AdmitPolicy::Listed(networks) = &admission.networks {
            config.flags |= abi::CHECK_ALLOW;
            lists[List::Allow as usize] = entries(&networks.aggregated(), |()| abi::allow_value(0));
        }
        match &admission.stock {
            StockAdmission::Never => config.flags |= abi::STOCK_NEVER,
            StockAdmission::Listed(networks) => {
                config.flags |= abi::STOCK_LISTED;
                lists[List::StockAllow as usize] = entries(&networks.aggregated(), |()| 1);
            }
            StockAdmission::Anywhere => {}
        }
        let (bans, banned_networks) = bans(policy, clocks);
        if !banned_networks.is_empty() {
            config.flags |= abi::CHECK_BANS;
            lists[List::Bans as usize] = banned_networks;
        }
        if let Some(geo) = &admission.geo {
            config.flags |= abi::CHECK_GEO;
            if !geo.rules().admit_unknown {
                config.flags |= abi::GEO_UNKNOWN_REFUSED;
            }
        }
        let srt = listeners.srt.filter(|_| config.flags & abi::CHECK_ALLOW == 0);
        let ports =
            std::iter::once((listeners.srtla, PortKind::Srtla)).chain(srt.map(|port| (port, PortKind::Srt)));
        for (place, (number, kind)) in config.ports.iter_mut().zip(ports) {
            *place = Port::new(number, kind);
        }
        Self { config, lists, bans, geo: admission.geo.clone() }
    }
}

/// Bans of single addresses and of networks, with their ends.
fn bans(policy: &Policy, clocks: &Clocks) -> (HashMap<[u8; 16], u64>, Vec<Entry>) {
    let (mut single, mut networks) = (HashMap::new(), Vec::new());
    for ban in policy.admission.bans.iter().filter(|ban| ban.scope == Scope::Everyone) {
        if ban.until_ms.is_some_and(|until_ms| until_ms <= clocks.wall_ms) {
            continue;
        }
        let until = ban.until_ms.map_or(FOR_EVER, |until_ms| clocks.monotonic_ns(until_ms));
        let is_single = match ban.network.addr.to_canonical() {
            IpAddr::V4(_) => ban.network.prefix == 32,
            IpAddr::V6(_) => ban.network.prefix == 64,
        };
        if is_single && single.len() < BANS_MAX as usize {
            single.insert(octets(ban.network.addr), until);
        } else {
            networks.push((ban.network, until));
        }
    }
    (single, entries(&networks.into_iter().collect(), |until| until))
}

#[cfg(test)]
mod tests;
