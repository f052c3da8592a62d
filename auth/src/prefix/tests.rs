use super::*;
use proptest::prelude::*;

fn cidr(text: &str) -> Cidr {
    let (addr, prefix) = text.split_once('/').unwrap();
    Cidr { addr: addr.parse().unwrap(), prefix: prefix.parse().unwrap() }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn set(networks: &[(&str, u32)]) -> PrefixSet {
    networks.iter().map(|(network, value)| (cidr(network), *value)).collect()
}

fn shown(set: &PrefixSet) -> Vec<String> {
    set.iter().map(|(network, value)| format!("{network}={value}")).collect()
}

#[test]
fn the_longest_network_answers() {
    let set = set(&[
        ("0.0.0.0/0", 1),
        ("10.0.0.0/8", 2),
        ("10.1.0.0/16", 3),
        ("10.1.2.3/32", 4),
        ("255.255.255.255/32", 5),
        ("2001:db8::/32", 6),
        ("2001:db8::1/128", 7),
    ]);
    for (addr, value) in [
        ("0.0.0.0", Some(1)),
        ("9.255.255.255", Some(1)),
        ("10.0.0.0", Some(2)),
        ("10.1.2.2", Some(3)),
        ("10.1.2.3", Some(4)),
        ("10.1.2.4", Some(3)),
        ("10.255.255.255", Some(2)),
        ("11.0.0.0", Some(1)),
        ("255.255.255.254", Some(1)),
        ("255.255.255.255", Some(5)),
        ("::ffff:10.1.2.3", Some(4)),
        ("2001:db8::", Some(6)),
        ("2001:db8::1", Some(7)),
        ("2001:db8::2", Some(6)),
        ("2001:db9::", None),
        ("::", None),
        ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", None),
    ] {
        assert_eq!(set.longest(ip(addr)).map(|(_, value)| value), value, "{addr}");
        assert_eq!(set.contains(ip(addr)), value.is_some(), "{addr}");
    }
    assert_eq!((set.len(), set.v4_len(), set.v6_len()), (7, 5, 2));
    assert_eq!(set.longest(ip("10.1.9.9")).unwrap().0, cidr("10.1.0.0/16"));
    assert!(set.memory_bytes() > 0);
}

#[test]
fn an_empty_set_answers_nothing() {
    let set = PrefixSet::<u32>::default();
    assert!(set.is_empty() && set.aggregated().is_empty());
    assert!(!set.contains(ip("0.0.0.0")) && !set.contains(ip("::")));
    assert_eq!(set.memory_bytes(), 0);
}

#[test]
fn doubles_host_bits_and_overlong_prefixes() {
    let set = set(&[
        ("10.0.0.9/8", 1),
        ("10.0.0.0/8", 2),
        ("192.0.2.1/99", 3),
        ("::1/200", 4),
        ("::ffff:192.0.2.2/32", 5),
    ]);
    assert_eq!(shown(&set), ["10.0.0.0/8=2", "192.0.2.1/32=3", "192.0.2.2/32=5", "::1/128=4"]);
}

#[test]
fn aggregates() {
    for (networks, expected) in [
        (&[("10.0.0.0/9", 1), ("10.128.0.0/9", 1)][..], &["10.0.0.0/8=1"][..]),
        (&[("10.0.0.0/9", 1), ("10.128.0.0/9", 2)], &["10.0.0.0/9=1", "10.128.0.0/9=2"]),
        // Neighbours, but not halves of one network.
        (&[("10.128.0.0/9", 1), ("11.0.0.0/9", 1)], &["10.128.0.0/9=1", "11.0.0.0/9=1"]),
        (&[("10.0.0.0/8", 1), ("10.1.0.0/16", 1)], &["10.0.0.0/8=1"]),
        (&[("10.0.0.0/8", 1), ("10.1.0.0/16", 2), ("10.1.1.0/24", 2)], &["10.0.0.0/8=1", "10.1.0.0/16=2"]),
        // The halves hide what the whole said.
        (&[("0.0.0.0/0", 9), ("0.0.0.0/1", 1), ("128.0.0.0/1", 1)], &["0.0.0.0/0=1"]),
        // An exception inside the halves stays one.
        (&[("::/1", 1), ("8000::/1", 1), ("2001:db8::/32", 2)], &["::/0=1", "2001:db8::/32=2"]),
        (&[("0.0.0.0/0", 1), ("::/0", 1)], &["0.0.0.0/0=1", "::/0=1"]),
    ] {
        assert_eq!(shown(&set(networks).aggregated()), expected, "{networks:?}");
    }
    let hosts: PrefixSet<()> = (0..=255).map(|last| cidr(&format!("192.0.2.{last}/32"))).collect();
    assert_eq!(
        hosts.aggregated().iter().map(|(network, ())| network).collect::<Vec<_>>(),
        [cidr("192.0.2.0/24")]
    );
}

/// The longest network of a list, found by looking at each; of equals the last.
fn naive(networks: &[(Cidr, u32)], ip: IpAddr) -> Option<u32> {
    let best = networks.iter().filter(|(network, _)| network.contains(ip));
    best.max_by_key(|(network, _)| network.prefix.min(128)).map(|(_, value)| *value)
}

/// Networks close together, so that they nest and touch, and some anywhere.
fn networks() -> impl Strategy<Value = Vec<(Cidr, u32)>> {
    let v4 = prop_oneof![
        (0_u32..64).prop_map(|low| 0x0a00_0000 | low << 2),
        any::<u32>(),
        Just(0),
        Just(u32::MAX)
    ];
    let v4 = (v4, prop_oneof![24_u8..=32, 0_u8..=32])
        .prop_map(|(bits, prefix)| Cidr { addr: Ipv4Addr::from_bits(bits).into(), prefix });
    let v6 =
        prop_oneof![(0_u128..64).prop_map(|low| 0x2001_0db8 << 96 | low), any::<u128>(), Just(u128::MAX)];
    let v6 = (v6, prop_oneof![120_u8..=128, 0_u8..=128])
        .prop_map(|(bits, prefix)| Cidr { addr: Ipv6Addr::from_bits(bits).into(), prefix });
    proptest::collection::vec((prop_oneof![v4, v6], 0_u32..4), 0..40)
}

/// The edges of every network, and addresses beside them.
fn probes(networks: &[(Cidr, u32)]) -> Vec<IpAddr> {
    let mut probes =
        vec![ip("0.0.0.0"), ip("255.255.255.255"), ip("::"), ip("10.0.0.77"), ip("2001:db8::77")];
    for (network, _) in networks {
        match network.addr.to_canonical() {
            IpAddr::V4(addr) => {
                let first = addr.to_bits().network(network.prefix);
                let last = first.last(network.prefix);
                let edges = [first, last, first.wrapping_sub(1), last.wrapping_add(1)];
                probes.extend(edges.map(|bits| IpAddr::from(Ipv4Addr::from_bits(bits))));
            }
            IpAddr::V6(addr) => {
                let first = addr.to_bits().network(network.prefix);
                let last = first.last(network.prefix);
                let edges = [first, last, first.wrapping_sub(1), last.wrapping_add(1)];
                probes.extend(edges.map(|bits| IpAddr::from(Ipv6Addr::from_bits(bits))));
            }
        }
    }
    probes
}

proptest! {
    #[test]
    fn agrees_with_a_walk_over_the_list(networks in networks()) {
        let set: PrefixSet = networks.iter().copied().collect();
        let fewer = set.aggregated();
        for ip in probes(&networks) {
            let expected = naive(&networks, ip);
            let found = set.longest(ip);
            prop_assert_eq!(found.map(|(_, value)| value), expected, "{}", ip);
            prop_assert!(found.is_none_or(|(network, _)| network.contains(ip)));
            prop_assert_eq!(fewer.longest(ip).map(|(_, value)| value), expected, "aggregated, {}", ip);
        }
        prop_assert!(fewer.len() <= set.len());
        prop_assert_eq!(&fewer.aggregated(), &fewer, "nothing is left to do");
    }

    #[test]
    fn lists_what_went_in(networks in networks()) {
        let set: PrefixSet = networks.iter().copied().collect();
        let listed: Vec<_> = set.iter().collect();
        prop_assert_eq!(listed.len(), set.len());
        prop_assert!(listed.is_sorted_by_key(|(network, _)| (network.addr, network.prefix)));
        prop_assert_eq!(&listed.iter().copied().collect::<PrefixSet>(), &set);
        for (network, _) in &networks {
            prop_assert!(set.contains(network.addr));
        }
    }
}
