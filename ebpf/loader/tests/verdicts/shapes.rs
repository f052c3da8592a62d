//! Generated gates and frames: mostly right, with something odd about each, so that every check is reached.

use bondgate_ebpf_common::abi::{
    self, Budget, CHECK_ALLOW, CHECK_BANS, CHECK_GATE_TAG, CHECK_GEO, FOR_EVER, GEO_UNKNOWN_REFUSED, GateKey,
    Link, LinkKey, List, Port, PortKind, STOCK_LISTED, STOCK_NEVER,
};
use bondgate_ebpf_common::bucket::Rate;
use bondgate_ebpf_common::testing::{
    DRY, EPOCHS, Extension, FrameSpec, OTHER_PORT, SRT_PORT, SRTLA_PORT, World, gate_key, sa1_with, stock,
};
use fastrand::Rng;

/// Where frames come from: few enough that they meet what the maps name.
fn source(rng: &mut Rng) -> String {
    match rng.u8(..10) {
        0..5 => format!("198.51.{}.{}", rng.u8(100..102), rng.u8(..)),
        5..9 => format!("2001:db8:{:x}:{:x}::{:x}", rng.u8(1..3), rng.u16(..4) << rng.u8(0..14), rng.u8(..4)),
        _ => format!("::ffff:198.51.100.{}", rng.u8(..)),
    }
}

fn network(rng: &mut Rng) -> String {
    match rng.u8(..20) {
        0 => "::/0".to_owned(),
        1 => "0.0.0.0/0".to_owned(),
        2..11 => format!("198.51.{}.{}/{}", rng.u8(100..102), rng.u8(..), rng.u8(20..=32)),
        _ => {
            let subnet = rng.u16(..4) << rng.u8(0..14);
            format!("2001:db8:{:x}:{subnet:x}::{:x}/{}", rng.u8(1..3), rng.u8(..4), rng.u8(40..=128))
        }
    }
}

/// A gate.
pub fn world(rng: &mut Rng) -> World {
    let mut world = World::standard();
    let config = &mut world.config;
    config.seed = [rng.u64(..), rng.u64(..)];
    for flag in
        [CHECK_BANS, CHECK_ALLOW, CHECK_GEO, GEO_UNKNOWN_REFUSED, STOCK_NEVER, STOCK_LISTED, CHECK_GATE_TAG]
    {
        if rng.u8(..4) == 0 {
            config.flags ^= flag;
        }
    }
    if rng.u8(..8) == 0 {
        config.ports.swap(0, 1);
    }
    if rng.u8(..8) == 0 {
        config.ports[2] = Port::new(OTHER_PORT, PortKind::Srtla);
    }
    if rng.u8(..4) == 0 {
        config.gate_keys[rng.usize(..3)].used = 0;
    }
    for budget in [Budget::Link, Budget::Prefix, Budget::Sa1Source, Budget::StockSource, Budget::StockTotal] {
        if rng.bool() {
            let burst = rng.u64(1..if budget == Budget::Link { 4 } else { 200 });
            let rate = Rate { tolerance_ns: (burst - 1) * DRY.interval_ns, ..DRY };
            world.limit(budget, rate);
        }
    }
    for list in List::ALL {
        if rng.bool() {
            world.lists[list as usize].clear();
        }
        for _ in 0..rng.u8(..60) {
            let text = network(rng);
            let value = match list {
                List::Bans => *rng.choice(&[0, 1, FOR_EVER, FOR_EVER]).unwrap_or(&0),
                List::Allow => {
                    let slot = rng.u16(..5);
                    *rng.choice(&[0, abi::allow_value(0), abi::allow_value(slot)]).unwrap_or(&0)
                }
                List::Geo => rng.u64(..4),
                List::StockAllow => rng.u64(..2),
            };
            // The same network twice: in a trie the later one stays.
            let mut fresh = World::empty();
            fresh.list_prefix(list, &text, value);
            let (address, bits, value) = fresh.lists[list as usize][0];
            let keep = |x: &[u8; 16]| u128::from_be_bytes(*x).checked_shr(128 - bits).unwrap_or(0);
            world.lists[list as usize]
                .retain(|(other, other_bits, _)| *other_bits != bits || keep(other) != keep(&address));
            world.lists[list as usize].push((address, bits, value));
        }
    }
    for _ in 0..rng.u8(..40) {
        let text = source(rng);
        world.register(&text, 40000 + rng.u16(..2), 1);
        let until = *rng.choice(&[1, FOR_EVER]).unwrap_or(&1);
        let banned = source(rng);
        world.bans.insert(abi::ban_key(&bondgate_ebpf_common::testing::address(&banned)), until);
    }
    debug_assert!(world.links.iter().all(|(key, link)| {
        LinkKey::from_bytes(&key.to_bytes()) == *key && Link::from_bytes(&link.to_bytes()) == *link
    }));
    world
}

fn payload(rng: &mut Rng) -> Vec<u8> {
    let kind = rng.u8(..2);
    let epoch = if rng.u8(..8) == 0 { rng.u32(..12) } else { EPOCHS[rng.usize(..3)] };
    let mut payload = match rng.u8(..16) {
        0..7 => sa1_with(kind, &gate_key(epoch), |packet| {
            if rng.u8(..6) == 0 {
                packet[6 + rng.usize(..3)] = rng.u8(..4);
            }
            packet[18..50].fill_with(|| rng.u8(..));
        }),
        7 => sa1_with(kind, &GateKey::new(epoch, &[rng.u8(..); 16]), |_| {}),
        8..12 => stock(kind),
        12 => vec![0x92, rng.u8(..)],
        13 => vec![0x90, 0, 1, 2, 3, 4, 5, 6, 7, 8],
        14 => vec![rng.u8(..); rng.usize(..4)],
        _ => vec![rng.u8(..0x80); rng.usize(16..1400)],
    };
    match rng.u8(..24) {
        0 => payload.push(0),
        1 => {
            payload.pop();
        }
        2 if !payload.is_empty() => {
            let at = rng.usize(..payload.len());
            payload[at] ^= 1 << rng.u8(..8);
        }
        3 if payload.len() > 74 => payload[rng.usize(..74)] = rng.u8(..),
        _ => {}
    }
    payload
}

/// A frame of at least 14 bytes.
pub fn frame(rng: &mut Rng) -> Vec<u8> {
    let port = match rng.u8(..16) {
        0 => OTHER_PORT,
        1 | 2 => SRT_PORT,
        _ => SRTLA_PORT,
    };
    let mut spec = FrameSpec::new(&source(rng), port, payload(rng));
    if spec.source.is_ipv6() && spec.source.to_canonical().is_ipv4() {
        spec.dest = "2001:2::1".parse().unwrap_or(spec.dest);
    }
    // Some from a port that no link has.
    spec.source_port += rng.u16(..3);
    if rng.u8(..6) == 0 {
        let kinds = [0x8100, 0x88a8, 0x9100];
        spec.vlans = (0..rng.u8(..4)).map(|_| kinds[rng.usize(..3)]).collect();
    }
    if rng.u8(..4) == 0 {
        spec.option_words = rng.u8(..=10);
    }
    if rng.u8(..4) == 0 {
        let kinds = [0, 43, 44, 50, 51, 58, 59, 60, 135, 139, 140];
        let extension = |rng: &mut Rng| Extension {
            kind: kinds[rng.usize(..kinds.len())],
            len: rng.u8(..) >> rng.u8(2..9).min(7),
        };
        spec.extensions = (0..rng.u8(..9)).map(|_| extension(rng)).collect();
    }
    if rng.u8(..12) == 0 {
        spec.fragment = Some((if rng.bool() { 0 } else { rng.u16(..0x2000) }, rng.bool()));
    }
    spec.padding = if rng.u8(..6) == 0 { rng.usize(..40) } else { 0 };
    let network_at = spec.network_at();
    let mut frame = spec.build();
    match rng.u8(..16) {
        // Something in the headers.
        0 | 1 => {
            let end = frame.len().min(network_at + 70);
            for _ in 0..rng.u8(1..3) {
                let at = rng.usize(12..end);
                frame[at] = if rng.bool() { rng.u8(..) } else { frame[at] ^ 1 << rng.u8(..8) };
            }
        }
        2 => frame.truncate(rng.usize(14..=frame.len())),
        3 => frame.truncate(rng.usize(14..=frame.len().min(network_at + 80))),
        // A length that is a little wrong.
        4 => {
            let at = network_at + *rng.choice(&[2, 4, 24, 44]).unwrap_or(&2) + 1;
            if let Some(byte) = frame.get_mut(at) {
                *byte = byte.wrapping_add(rng.u8(..5).wrapping_sub(2));
            }
        }
        _ => {}
    }
    frame.truncate(3000);
    frame
}
