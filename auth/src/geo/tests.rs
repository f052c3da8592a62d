use super::*;
use proptest::prelude::*;

fn cidr(text: &str) -> Cidr {
    let (addr, prefix) = text.split_once('/').unwrap();
    Cidr { addr: addr.parse().unwrap(), prefix: prefix.parse().unwrap() }
}

fn country(text: &str) -> Country {
    Country::parse(text).unwrap()
}

fn rules(countries: CountryRule, admit_unknown: bool) -> GeoRules {
    GeoRules { countries, admit_unknown, exempt_private: true }
}

fn world() -> PrefixSet<Country> {
    [
        ("203.0.113.0/25", "DE"),
        ("203.0.113.128/25", "FR"),
        ("198.51.100.0/24", "US"),
        ("2001:db8::/32", "DE"),
        ("2001:db8:ff00::/40", "US"),
        ("10.1.0.0/16", "US"),
    ]
    .into_iter()
    .map(|(network, name)| (cidr(network), country(name)))
    .collect()
}

#[test]
fn a_country_is_two_capital_letters() {
    assert_eq!(country("DE").to_string(), "DE");
    for text in ["", "D", "de", "DEU", "D1", "Ä", "ÄÖ", "D "] {
        assert_eq!(Country::parse(text), None, "{text:?}");
    }
}

#[test]
fn allow_block_and_the_unknown() {
    let allow = || CountryRule::Allow(vec![country("DE"), country("FR")]);
    let block = || CountryRule::Block(vec![country("US")]);
    for (rule, admit_unknown, addr, admitted, shown) in [
        (allow(), false, "203.0.113.1", true, "DE (203.0.113.0/25), named: admitted"),
        (allow(), false, "::ffff:203.0.113.200", true, "FR (203.0.113.128/25), named: admitted"),
        (allow(), true, "198.51.100.1", false, "US (198.51.100.0/24), not named: blocked"),
        (allow(), false, "192.0.2.1", false, "country unknown: blocked"),
        (allow(), true, "192.0.2.1", true, "country unknown: admitted"),
        (block(), true, "203.0.113.1", true, "DE (203.0.113.0/25), not named: admitted"),
        (block(), true, "2001:db8:ff00::1", false, "US (2001:db8:ff00::/40), named: blocked"),
        (block(), false, "2001:db9::1", false, "country unknown: blocked"),
        (block(), true, "10.1.2.3", true, "private or local, not asked for a country: admitted"),
        (allow(), false, "127.0.0.1", true, "private or local, not asked for a country: admitted"),
        (allow(), false, "fe80::1", true, "private or local, not asked for a country: admitted"),
    ] {
        let set = GeoSet::new(world(), rules(rule, admit_unknown));
        let ip = addr.parse().unwrap();
        let finding = set.look(ip);
        assert_eq!((finding.to_string().as_str(), set.admits(ip)), (shown, admitted), "{addr}");
    }
}

#[test]
fn private_addresses_can_be_asked_too() {
    let rules = GeoRules { exempt_private: false, ..rules(CountryRule::Block(vec![country("US")]), false) };
    let set = GeoSet::new(world(), rules);
    assert_eq!(set.look("10.1.2.3".parse().unwrap()).country(), Some(country("US")));
    assert!(!set.admits("10.1.2.3".parse().unwrap()));
    assert_eq!(set.look("127.0.0.1".parse().unwrap()).country(), None);
    assert!(!set.admits("127.0.0.1".parse().unwrap()));
    assert_eq!(set.networks().len(), 6);
    assert!(!set.rules().exempt_private);
}

#[test]
fn the_table_for_the_gate_is_small() {
    let set = GeoSet::new(world(), rules(CountryRule::Allow(vec![country("DE"), country("FR")]), true));
    let shown: Vec<String> =
        set.gate_networks().iter().map(|(network, admitted)| format!("{network} {admitted}")).collect();
    // Only what differs from the unknown is left; the private network needs no exception then.
    assert_eq!(shown, ["0.0.0.0/0 true", "198.51.100.0/24 false", "::/0 true", "2001:db8:ff00::/40 false"]);
}

fn any_country() -> impl Strategy<Value = Country> {
    prop_oneof![Just("DE"), Just("FR"), Just("US")].prop_map(country)
}

/// Networks around the private ones, and anywhere.
fn any_network() -> impl Strategy<Value = Cidr> {
    let v4 = prop_oneof![any::<u32>(), (0_u32..8).prop_map(|n| 0x0a00_0000 | n << 21), Just(0x7f00_0001)];
    let v4 =
        (v4, 0_u8..=32).prop_map(|(bits, prefix)| Cidr { addr: Ipv4Addr::from_bits(bits).into(), prefix });
    let v6 = prop_oneof![any::<u128>(), (0_u128..8).prop_map(|n| 0xfc << 120 | n << 117), Just(1)];
    let v6 =
        (v6, 0_u8..=128).prop_map(|(bits, prefix)| Cidr { addr: Ipv6Addr::from_bits(bits).into(), prefix });
    prop_oneof![v4, v6]
}

proptest! {
    #[test]
    fn the_gate_says_the_same(
        networks in proptest::collection::vec((any_network(), any_country()), 0..24),
        named in proptest::collection::vec(any_country(), 0..3),
        (allow, admit_unknown, exempt_private) in any::<(bool, bool, bool)>(),
        others in proptest::collection::vec(any_network(), 16),
    ) {
        let countries = if allow { CountryRule::Allow(named) } else { CountryRule::Block(named) };
        let probes: Vec<IpAddr> = networks.iter().map(|(network, _)| *network).chain(others).chain(private_networks())
            .map(|network| network.addr).collect();
        let set = GeoSet::new(networks.into_iter().collect(), GeoRules { countries, admit_unknown, exempt_private });
        let table = set.gate_networks();
        for ip in probes {
            prop_assert_eq!(table.longest(ip).map(|(_, admitted)| admitted), Some(set.admits(ip)), "{}", ip);
        }
    }
}
