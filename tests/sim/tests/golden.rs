//! Golden tables of simulated goodput: every scheduler over several sets of links, with and without extra loss.
//!
//! The worlds are deterministic, so the table is compared byte by byte with the committed one. A change of a core that
//! moves a figure shows as a difference in review; `BLESS=1 cargo test -p bondgate-sim --test golden` writes the table
//! anew. The figures are of this simulator's links, not of a network.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use bondgate_proto::sender::Scheduler;
use bondgate_sim::link::{LinkConfig, Loss};
use bondgate_sim::rng::Rng;
use bondgate_sim::world::{Fault, LinkSpec, Report, SenderKind, Setup, World};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const SENDERS: [(&str, SenderKind); 5] = [
    ("adaptive", SenderKind::Bondgate(Scheduler::Adaptive)),
    ("stock", SenderKind::Bondgate(Scheduler::Stock)),
    ("belabox-c", SenderKind::BelaboxC),
    ("irl-rust", SenderKind::IrlRust),
    ("moblin", SenderKind::Moblin),
];

/// A named set of links, the payload rate asked of it and the SRT latency it gets.
struct Case {
    name: &'static str,
    links: Vec<LinkConfig>,
    bitrate_bps: u64,
    latency: Duration,
}

fn cases() -> Vec<Case> {
    let narrow =
        |rate_bps| LinkConfig { delay: ms(40), jitter: ms(15), ..LinkConfig::with_rate(rate_bps, ms(300)) };
    let case = |name, links: &[LinkConfig], bitrate_bps, latency_ms| Case {
        name,
        links: links.to_vec(),
        bitrate_bps,
        latency: ms(latency_ms),
    };
    let (crowded, moving) = (LinkConfig::lte_crowded(), LinkConfig::lte_moving());
    vec![
        case(
            "3 x lte good",
            &[LinkConfig::lte_good(), LinkConfig::lte_good(), LinkConfig::lte_good()],
            8_000_000,
            500,
        ),
        case(
            "5g + lte crowded + moving",
            &[LinkConfig::five_g(), crowded.clone(), moving.clone()],
            6_000_000,
            600,
        ),
        case("wifi + satellite", &[LinkConfig::wifi(), LinkConfig::satellite()], 5_000_000, 1500),
        case("lte crowded + moving + low orbit", &[crowded, moving, LinkConfig::low_orbit()], 5_000_000, 800),
        // 4.5 Mb/s of payload through 5.5 Mb/s of links: nothing may be wasted, the weak one must not be flooded.
        case("3 + 2 + 0.5 Mb/s", &[narrow(3_000_000), narrow(2_000_000), narrow(500_000)], 4_500_000, 600),
    ]
}

fn with_loss(link: &LinkConfig, extra: f64) -> LinkSpec {
    let up_loss = if extra > 0.0 { Loss::Random(link.loss.mean() + extra) } else { link.loss };
    // The downlink of such links is rarely the narrow side.
    let down = LinkConfig { rate_bps: None, ..link.clone() };
    LinkSpec { up: LinkConfig { loss: up_loss, ..link.clone() }, down, ipv6: false }
}

fn world(seed: u64, case: &Case, sender: SenderKind, extra_loss: f64, bitrate_bps: u64) -> World {
    World::new(Setup {
        seed,
        sender,
        links: case.links.iter().map(|link| with_loss(link, extra_loss)).collect(),
        latency: case.latency,
        bitrate_bps,
        ..Setup::default()
    })
}

/// A steady stream, 12 s from the start of the programs.
fn steady(case: &Case, sender: SenderKind, extra_loss: f64) -> Report {
    let mut world = world(42, case, sender, extra_loss, case.bitrate_bps);
    world.run_for(ms(12_000));
    world.finish()
}

/// Half the rate, with the first link down for 3 s of every 8 s.
fn flapping(case: &Case, sender: SenderKind) -> Report {
    let mut world = world(43, case, sender, 0.0, case.bitrate_bps / 2);
    world.run_for(ms(5000));
    for _ in 0..2 {
        world.inflict(Fault::LinkDown(0)).run_for(ms(3000)).inflict(Fault::LinkUp(0)).run_for(ms(5000));
    }
    world.finish()
}

/// 2.5 Mb/s over three links whose rates change each second between 0.3 and 4 Mb/s, as on a walk through a city.
fn varying(seed: u64, sender: SenderKind) -> Report {
    let mut rng = Rng::new(seed);
    let mut spec = || {
        let rate = rng.between(300, 4_000) * 1000;
        let delay = ms(rng.between(20, 60));
        let up = LinkConfig {
            delay,
            jitter: ms(20),
            loss: Loss::Random(0.005),
            ..LinkConfig::with_rate(rate, ms(500))
        };
        LinkSpec { down: LinkConfig { rate_bps: None, ..up.clone() }, up, ipv6: false }
    };
    let mut world = World::new(Setup {
        seed,
        sender,
        links: vec![spec(), spec(), spec()],
        latency: ms(1000),
        bitrate_bps: 2_500_000,
        ..Setup::default()
    });
    for _ in 0..15 {
        for link in 0..3 {
            world.inflict(Fault::SetLink(link, Box::new(spec())));
        }
        world.run_for(ms(1000));
    }
    world.finish()
}

fn row(table: &mut String, scenario: &str, sender: &str, report: &Report) {
    let share: Vec<String> = {
        let total = report.link_packets.iter().sum::<u64>().max(1);
        report.link_packets.iter().map(|&p| format!("{}", (p * 100 + total / 2) / total)).collect()
    };
    writeln!(
        table,
        "{scenario:<44} {sender:<10} {:>7.2} {:>7.2} {:>7} {:>7} {:>7} {:>3} {:>12}",
        report.goodput_percent(),
        report.retransmissions_per_100(),
        report.latency_p50.as_millis(),
        report.latency_p99.as_millis(),
        report.longest_gap.as_millis(),
        report.sessions,
        share.join("/"),
    )
    .expect("writing to a string");
}

fn header(title: &str) -> String {
    format!(
        "# {title}\n# Written by the simulator (BLESS=1). goodput: share of the payloads offered that arrived in time, in percent;\n\
         # retx: retransmissions per 100 packets; p50, p99: accept-to-delivery; gap: longest at the sink; ses: SRT\n\
         # sessions; share: data packets per link in percent.\n\
         {:<44} {:<10} {:>7} {:>7} {:>7} {:>7} {:>7} {:>3} {:>12}\n",
        "scenario", "sender", "goodput", "retx", "p50 ms", "p99 ms", "gap ms", "ses", "share"
    )
}

fn compare(name: &str, table: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden").join(name);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, table).expect("the golden table can be written");
        return;
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    for (number, (want, got)) in committed.lines().zip(table.lines()).enumerate() {
        assert_eq!(want, got, "{name}:{} moved; if that is meant, run with BLESS=1 and review", number + 1);
    }
    assert_eq!(committed.lines().count(), table.lines().count(), "{name} has another number of rows");
}

#[test]
fn steady_goodput_is_as_committed() {
    let mut table = header("Goodput of a steady stream, 12 s");
    for case in cases() {
        for (loss_name, loss) in [("", 0.0), (" + 5 % loss", 0.05)] {
            for (name, sender) in SENDERS {
                let report = steady(&case, sender, loss);
                report.assert_lawful();
                row(&mut table, &format!("{}{loss_name}", case.name), name, &report);
            }
        }
    }
    compare("steady.txt", &table);
}

#[test]
fn flapping_goodput_is_as_committed() {
    let mut table = header("Goodput at half the rate while the first link is down 3 s of every 8 s");
    for case in cases() {
        for (name, sender) in SENDERS {
            let report = flapping(&case, sender);
            report.assert_lawful();
            row(&mut table, case.name, name, &report);
        }
    }
    compare("flapping.txt", &table);
}

#[test]
fn varying_goodput_is_as_committed() {
    let mut table = header("Goodput over links whose rate changes each second");
    for walk in 1..=4 {
        for (name, sender) in SENDERS {
            let report = varying(walk, sender);
            report.assert_lawful();
            row(&mut table, &format!("walk {walk}"), name, &report);
        }
    }
    compare("varying.txt", &table);
}
