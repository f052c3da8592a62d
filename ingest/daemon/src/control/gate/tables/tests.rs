//! The tables say what the policy says.

use super::*;
use crate::config::{AuthMode, Config as Settings};
use bondgate_auth::bans::Ban;

const LISTENERS: Listeners = Listeners { srtla: 5000, srt: Some(9710), shards: 3 };

fn cidr(text: &str) -> Cidr {
    crate::config::cidr::parse(text).unwrap()
}

fn compile(change: impl FnOnce(&mut Settings)) -> Tables {
    let mut config = Settings::default();
    change(&mut config);
    Tables::compile(&Policy::compile(&config), LISTENERS, &Clocks::read())
}

/// The longest match in a list, as the kernel finds it.
fn look(list: &[Entry], ip: &str) -> u64 {
    let address = u128::from_be_bytes(octets(ip.parse().unwrap()));
    list.iter()
        .filter(|(network, _)| {
            let keep = u128::MAX.checked_shl(128 - u32::from(network.prefix_len)).unwrap_or(0);
            address & keep == u128::from_be_bytes(network.address) & keep
        })
        .max_by_key(|(network, _)| network.prefix_len)
        .map_or(0, |(_, value)| *value)
}

#[test]
fn modes_become_flags_and_ports() {
    let tables = compile(|_| {});
    assert_eq!(tables.config.flags, abi::STOCK_NEVER);
    assert_eq!(tables.config.port_kind(5000), Some(PortKind::Srtla));
    assert_eq!(tables.config.port_kind(9710), Some(PortKind::Srt));
    let tables = compile(|config| config.srtla.auth = AuthMode::Open);
    assert_eq!(tables.config.flags, 0);
    let tables = compile(|config| {
        config.srtla.auth = AuthMode::Mixed;
        config.srtla.stock_allow = vec![cidr("192.0.2.0/24"), cidr("2001:db8::/32")];
        config.srtla.allow = vec![cidr("192.0.0.0/16"), cidr("::/0")];
    });
    assert_eq!(tables.config.flags, abi::STOCK_LISTED | abi::CHECK_ALLOW);
    assert_eq!(tables.config.port_kind(9710), None, "players are not concerned by srtla.allow");
    let [_, allow, _, stock] = &tables.lists;
    assert_ne!(look(allow, "192.0.7.7"), 0);
    assert_eq!(look(allow, "198.51.100.1"), 0, "::/0 is not all of IPv4");
    assert_ne!(look(allow, "2001:db8::1"), 0);
    assert_eq!((look(stock, "192.0.2.9"), look(stock, "192.0.3.9"), look(stock, "2001:db8::1")), (1, 0, 1));
}

#[test]
fn every_shard_has_its_own_budget() {
    let tables = compile(|config| config.limits.stock_per_s = 100);
    assert_eq!(
        *tables.config.rate(Budget::StockTotal),
        Rate::per_second(300, 3 * Settings::default().limits.stock_burst)
    );
    assert_eq!(tables.config.rate(Budget::Prefix).interval_ns, 0);
}

#[test]
fn bans_go_where_they_are_looked_for() {
    let policy = Policy::compile(&Settings::default());
    let ban = |text: &str, until_ms, scope| Ban { network: cidr(text), until_ms, scope };
    let clocks = Clocks { wall_ms: 1_000_000, monotonic_ns: 50_000_000_000 };
    let bans = [
        ban("192.0.2.1/32", None, Scope::Everyone),
        ban("192.0.2.2/32", Some(1_002_000), Scope::Everyone),
        ban("192.0.2.3/32", Some(999_999), Scope::Everyone),
        ban("198.51.100.0/24", Some(1_001_000), Scope::Everyone),
        ban("2001:db8:0:1::/64", None, Scope::Everyone),
        ban("2001:db8::7/128", None, Scope::Everyone),
        ban("203.0.113.1/32", None, Scope::Keyless),
    ];
    let policy = policy.with_bans(bans.into_iter().collect());
    let tables = Tables::compile(&policy, LISTENERS, &clocks);
    let single = |ip: &str| tables.bans.get(&abi::ban_key(&octets(ip.parse().unwrap()))).copied();
    assert_eq!(single("192.0.2.1"), Some(FOR_EVER));
    assert_eq!(single("192.0.2.2"), Some(52_000_000_000));
    assert_eq!(single("2001:db8:0:1::99"), Some(FOR_EVER));
    assert_eq!((single("192.0.2.3"), single("203.0.113.1"), tables.bans.len()), (None, None, 3));
    let list = &tables.lists[List::Bans as usize];
    assert_eq!(look(list, "198.51.100.9"), 51_000_000_000);
    assert_eq!((look(list, "2001:db8::7"), look(list, "2001:db8::8")), (FOR_EVER, 0));
    assert_eq!(tables.config.flags & abi::CHECK_BANS, abi::CHECK_BANS);
}

#[test]
fn the_clocks_never_make_an_end_that_means_something_else() {
    let clocks = Clocks { wall_ms: 1_000_000, monotonic_ns: 5 };
    assert_eq!(clocks.monotonic_ns(0), 1);
    assert_eq!(clocks.monotonic_ns(u64::MAX - 1), FOR_EVER - 1);
    assert!(!Clocks::read().is_off());
    assert!(clocks.is_off());
}
