use super::*;
use core::mem::offset_of;

fn address(text: &str) -> [u8; 16] {
    match text.parse::<std::net::IpAddr>().unwrap() {
        std::net::IpAddr::V4(v4) => v4_mapped(v4.octets()),
        std::net::IpAddr::V6(v6) => v6.octets(),
    }
}

#[test]
fn keys_and_values_survive_their_bytes() {
    let key = LinkKey::new(address("192.0.2.7"), 0x1234, 0x5678);
    assert_eq!(key.to_bytes()[12..], [192, 0, 2, 7, 0x12, 0x34, 0x56, 0x78]);
    assert_eq!(LinkKey::from_bytes(&key.to_bytes()), key);
    assert_eq!((key.address(), key.port(), key.dest_port()), (address("192.0.2.7"), 0x1234, 0x5678));
    let link = Link { shard: 3, generation: 0x0102_0304, reg_bucket: 5 << 40 };
    assert_eq!(Link::from_bytes(&link.to_bytes()), link);
}

#[test]
fn config_is_laid_out_as_the_program_reads_it() {
    let mut config = Config { generation: 1, seed: [2, 3], flags: 4, ..Config::default() };
    config.set_rate(Budget::Events, Rate { interval_ns: 5, tolerance_ns: 6 });
    config.gate_keys[2] = GateKey::new(7, &[8; 16]);
    config.ports[0] = Port::new(5000, PortKind::Srtla);
    config.drop_sample_mask = 9;
    config.pass_sample_mask = 10;
    let bytes = config.to_bytes();
    let word = |at: usize| u64::from_le_bytes(take(&bytes, at));
    let half = |at: usize| u32::from_le_bytes(take(&bytes, at));
    assert_eq!([word(0), word(8), word(16)], [1, 2, 3]);
    let events = offset_of!(Config, rates) + 16 * Budget::Events as usize;
    assert_eq!([word(events), word(events + 8)], [5, 6]);
    let gate = offset_of!(Config, gate_keys) + 2 * 24;
    assert_eq!([word(gate), word(gate + 8)], [0x0808_0808_0808_0808; 2]);
    assert_eq!([half(gate + 16), half(gate + 20)], [7, 1]);
    let ports = offset_of!(Config, ports);
    assert_eq!(half(ports), 5000 + (1 << 16));
    assert_eq!(half(offset_of!(Config, flags)), 4);
    assert_eq!(half(offset_of!(Config, drop_sample_mask)), 9);
    assert_eq!(half(offset_of!(Config, pass_sample_mask)), 10);
}

#[test]
fn ports_end_at_the_first_gap() {
    let mut config = Config::default();
    assert_eq!(config.port_kind(0), None, "an unused entry is not port 0");
    config.ports[0] = Port::new(5000, PortKind::Srtla);
    config.ports[1] = Port::new(9710, PortKind::Srt);
    config.ports[3] = Port::new(1, PortKind::Srt);
    assert_eq!(config.port_kind(5000), Some(PortKind::Srtla));
    assert_eq!(config.port_kind(9710), Some(PortKind::Srt));
    assert_eq!(config.port_kind(1), None);
    assert_eq!(config.port_kind(0), None);
}

#[test]
fn sources_are_cut_at_their_prefix() {
    for (from, to_site, to_subscriber) in [
        ("203.0.113.77", "203.0.113.0", "203.0.113.77"),
        ("2001:db8:1:2ff:3:4:5:6", "2001:db8:1:200::", "2001:db8:1:2ff::"),
        ("::ffff:0:203.0.113.77", "::", "::"),
        ("::203.0.113.77", "::", "::"),
        ("0:0:1:0:0:ffff:cb00:714d", "0:0:1::", "0:0:1::"),
    ] {
        let from = address(from);
        assert_eq!(bytes(&words(&from)), from);
        assert_eq!(bytes(&site(&words(&from))), address(to_site));
        assert_eq!(ban_key(&from), address(to_subscriber));
    }
}

#[test]
fn buckets_do_not_overlap() {
    let ends =
        [Budget::Prefix, Budget::Sa1Source, Budget::StockSource].map(|b| (b.bucket(0), b.bucket(u16::MAX)));
    assert_eq!(ends[0].0, BUCKETS_EACH);
    assert!(ends.windows(2).all(|pair| pair[0].1 + 1 == pair[1].0), "{ends:?}");
    assert_eq!(ends[2].1 + 1, BUCKETS_MAX);
    assert_ne!(Budget::StockTotal.bucket(9), Budget::Events.bucket(9));
    assert!(Budget::Events.bucket(9) < BUCKETS_EACH);
}

#[test]
fn events_of_no_reason_are_none() {
    let mut bytes = [0; Event::LEN];
    bytes[24] = Reason::Geo as u8;
    assert_eq!(Event::from_bytes(&bytes).unwrap().reason(), Some(Reason::Geo));
    bytes[24] = Reason::ALL.len() as u8;
    assert_eq!(Event::from_bytes(&bytes), None);
    assert_eq!(Event::from_bytes(&bytes[1..]), None);
}

#[test]
fn reasons_have_names_of_their_own() {
    for (index, reason) in Reason::ALL.into_iter().enumerate() {
        assert_eq!(Reason::from_index(index as u8), Some(reason));
        assert!(Reason::ALL.iter().filter(|other| other.name() == reason.name()).count() == 1, "{reason:?}");
    }
}
