//! What a frame costs in the program, without driver and stack.

use bondgate_ebpf_common::abi::{Budget, CHECK_ALLOW, CHECK_GEO, GEO_ALLOWED, GateKey, List, allow_value};
use bondgate_ebpf_common::bucket::Rate;
use bondgate_ebpf_common::reason::Reason;
use bondgate_ebpf_common::testing::{EPOCHS, FrameSpec, OTHER_PORT, SRTLA_PORT, World, gate_key, sa1, stock};

use crate::kernel::{Kernel, Result};

/// A frame, what becomes of it, and how many ns that may take on a quiet machine.
struct Case {
    name: &'static str,
    frame: Vec<u8>,
    reason: Reason,
    bound_ns: Option<u64>,
}

/// Prefixes in the allowlist.
const PREFIXES: u32 = 100_000;
/// How often each frame is repeated in a round: few enough that some rounds are not interrupted.
const REPEAT: u32 = 10_000;

/// A port that no link has, and the one that they have.
const PORT: u16 = 50_123;
const LINK_PORT: u16 = 40_000;

fn cases() -> Vec<Case> {
    let case = |name, (source, source_port), port, payload, reason, bound_ns| Case {
        name,
        frame: FrameSpec { source_port, ..FrameSpec::new(source, port, payload) }.build(),
        reason,
        bound_ns,
    };
    let (data, listed) = (vec![0x11; 1332], ("10.9.8.20", PORT));
    let (stranger, link) = (("203.0.113.20", PORT), ("198.51.100.10", LINK_PORT));
    let (stranger6, link6) = (("2001:db8:ffff::1", PORT), ("2001:db8:1::10", LINK_PORT));
    let good = sa1(0, &gate_key(EPOCHS[1]));
    let bad = sa1(0, &GateKey::new(EPOCHS[1], &[9; 16]));
    let mut arp = case("not IP", listed, OTHER_PORT, data.clone(), Reason::Other, None);
    arp.frame[12..14].copy_from_slice(&[0x08, 0x06]);
    let unregistered = |name, source, bound_ns| {
        case(name, source, SRTLA_PORT, vec![0x11; 1332], Reason::Unregistered, bound_ns)
    };
    vec![
        arp,
        case("another port", listed, OTHER_PORT, data.clone(), Reason::Other, None),
        unregistered("data from a stranger", stranger, Some(15)),
        unregistered("the same over IPv6", stranger6, Some(15)),
        unregistered("from a port that a link has too", (stranger.0, LINK_PORT), None),
        unregistered("the same over IPv6", (stranger6.0, LINK_PORT), None),
        case("data from a link", link, SRTLA_PORT, data.clone(), Reason::Link, Some(40)),
        case("the same over IPv6", link6, SRTLA_PORT, data, Reason::Link, Some(40)),
        case("registration, not admitted", stranger, SRTLA_PORT, good.clone(), Reason::NotAdmitted, Some(80)),
        case("registration, wrong gate tag", listed, SRTLA_PORT, bad, Reason::Sa1GateTag, Some(200)),
        case("registration, right gate tag", listed, SRTLA_PORT, good, Reason::Sa1, None),
        case("registration without a key", listed, SRTLA_PORT, stock(0), Reason::Stock, None),
        case(
            "the same over its budget",
            ("10.9.8.21", PORT),
            SRTLA_PORT,
            stock(0),
            Reason::StockBudget,
            None,
        ),
    ]
}

/// A full gate: 100,000 prefixes in the allowlist, and in the lists of countries and bans.
fn world() -> World {
    let mut world = World::standard();
    world.config.flags |= CHECK_ALLOW | CHECK_GEO;
    world.config.drop_sample_mask = 1023;
    world.config.pass_sample_mask = 1023;
    world.limit(Budget::Events, Rate::per_second(1000, 100));
    world.limit(Budget::Link, Rate::per_second(20, 100));
    world.limit(Budget::Sa1Source, Rate::per_second(u32::MAX, 100_000));
    world.limit(Budget::StockSource, Rate::per_second(u32::MAX, 100_000));
    world.list_prefix(List::StockAllow, "10.9.8.0/24", 1);
    world
}

/// Networks of different sizes all over IPv4 but 203.0.113.0/24, and 10.9.8.0/24 among them.
fn prefixes(value: u64) -> Vec<([u8; 16], u32, u64)> {
    let mut rng = fastrand::Rng::with_seed(7);
    let mut entries = vec![(bondgate_ebpf_common::testing::address("10.9.8.0"), 96 + 24, value)];
    while entries.len() < PREFIXES as usize {
        let (address, bits) = (rng.u32(0x0b00_0000..0xcb00_0000), rng.u32(16..=28));
        let network = address & (u32::MAX << (32 - bits));
        entries.push((bondgate_ebpf_common::abi::v4_mapped(network.to_be_bytes()), 96 + bits, value));
    }
    entries
}

/// Figures of all cases in ns, best of `rounds`: names, figures and bounds.
pub fn measure(rounds: usize) -> Result<Vec<(&'static str, u64, Option<u64>)>> {
    let mut kernel = Kernel::open()?;
    let mut world = world();
    kernel.maps.install(&world)?;
    world.lists[List::Allow as usize].push(prefixes(allow_value(0))[0]);
    world.lists[List::Geo as usize].push(prefixes(GEO_ALLOWED)[0]);
    kernel.maps.set_list(List::Allow, prefixes(allow_value(0)).into_iter())?;
    kernel.maps.set_list(List::Geo, prefixes(GEO_ALLOWED).into_iter())?;
    let mut cases = cases();
    let mut figures = vec![u64::MAX; cases.len()];
    for case in &mut cases {
        let reason = if case.reason == Reason::StockBudget { Reason::Stock } else { case.reason };
        let verdict = world.decide(&case.frame).reason;
        if verdict != reason {
            return Err(format!("{}: {verdict:?} and not {reason:?}", case.name));
        }
    }
    for _ in 0..rounds {
        for (case, best) in cases.iter().zip(&mut figures) {
            if case.reason == Reason::StockBudget {
                world.limit(Budget::StockTotal, Rate::per_second(1, 1));
                kernel.maps.set_config(&world.config)?;
            }
            let took = kernel.programs.time(&case.frame, REPEAT)?;
            *best = (*best).min(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
            if case.reason == Reason::StockBudget {
                world.limit(Budget::StockTotal, Rate::UNLIMITED);
                kernel.maps.set_config(&world.config)?;
            }
        }
    }
    let counters = kernel.maps.counters()?;
    let enough = u64::from(REPEAT) * rounds as u64 * 9 / 10;
    for case in &cases {
        let packets = counters[case.reason as usize].packets;
        if packets < enough {
            return Err(format!(
                "{}: {packets} of {:?}, so something else was measured",
                case.name, case.reason
            ));
        }
    }
    Ok(cases.iter().zip(figures).map(|(case, figure)| (case.name, figure, case.bound_ns)).collect())
}

/// Figures with their bounds, as text.
pub fn report(figures: &[(&'static str, u64, Option<u64>)]) -> String {
    let line = |(name, figure, bound): &(&str, u64, Option<u64>)| {
        let bound = bound.map_or(String::new(), |bound| format!(" (bound {bound})"));
        format!("{name:<32} {figure:>4} ns{bound}\n")
    };
    figures.iter().map(line).collect()
}
