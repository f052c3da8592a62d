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

/// A named set of links and the payload rate asked of it.
struct Case {
    name: &'static str,
    links: Vec<LinkConfig>,
    bitrate_bps: u64,
}

fn cases() -> Vec<Case> {
    let narrow =
        |rate_bps| LinkConfig { delay: ms(40), jitter: ms(15), ..LinkConfig::with_rate(rate_bps, ms(300)) };
    vec![
        Case { name: "3 x lte good", links: vec![LinkConfig::lte_good(); 3], bitrate_bps: 8_000_000 },
        Case {
            name: "5g + lte crowded + lte moving",
            links: vec![LinkConfig::five_g(), LinkConfig::lte_crowded(), LinkConfig::lte_moving()],
            bitrate_bps: 6_000_000,
        },
        Case {
            name: "wifi + satellite",
            links: vec![LinkConfig::wifi(), LinkConfig::satellite()],
            bitrate_bps: 5_000_000,
        },
        Case {
            name: "lte crowded + moving + low orbit",
            links: vec![LinkConfig::lte_crowded(), LinkConfig::lte_moving(), LinkConfig::low_orbit()],
            bitrate_bps: 5_000_000,
        },
        // 4.5 Mb/s of payload through 5.5 Mb/s of links: nothing may be wasted, the weak one must not be flooded.
        Case {
            name: "3 + 2 + 0.5 Mb/s",
            links: vec![narrow(3_000_000), narrow(2_000_000), narrow(500_000)],
            bitrate_bps: 4_500_000,
        },
    ]
}

fn with_loss(link: &LinkConfig, extra: f64) -> LinkSpec {
    let up_loss = if extra > 0.0 { Loss::Random(link.loss.mean() + extra) } else { link.loss };
    // The downlink of such links is rarely the narrow side.
    let down = LinkConfig { rate_bps: None, ..link.clone() };
    LinkSpec { up: LinkConfig { loss: up_loss, ..link.clone() }, down, ipv6: false }
}

/// 20 s of steady stream. Goodput counts from the first payload offered.
fn steady(case: &Case, sender: SenderKind, extra_loss: f64) -> Report {
    let mut world = World::new(Setup {
        seed: 42,
        sender,
        links: case.links.iter().map(|link| with_loss(link, extra_loss)).collect(),
        latency: ms(1500),
        bitrate_bps: case.bitrate_bps,
        ..Setup::default()
    });
    world.run_for(ms(22_000));
    world.finish()
}

/// The same with the first link down for 3 s every 8 s.
fn flapping(case: &Case, sender: SenderKind) -> Report {
    let mut world = World::new(Setup {
        seed: 43,
        sender,
        links: case.links.iter().map(|link| with_loss(link, 0.0)).collect(),
        latency: ms(1500),
        bitrate_bps: case.bitrate_bps / 2,
        ..Setup::default()
    });
    world.run_for(ms(6000));
    for _ in 0..3 {
        world.inflict(Fault::LinkDown(0)).run_for(ms(3000)).inflict(Fault::LinkUp(0)).run_for(ms(5000));
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
        "{scenario:<46} {sender:<10} {:>7.2} {:>7.2} {:>7} {:>7} {:>7} {:>3} {:>12}",
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
        "# {title}\n# Written by the simulator (BLESS=1); latency 1500 ms. goodput: payloads offered that arrived in time;\n\
         # retx: retransmissions per 100 packets; p50, p99: accept-to-delivery; gap: longest at the sink; ses: SRT\n\
         # sessions; share: data packets per link in percent.\n\
         {:<46} {:<10} {:>7} {:>7} {:>7} {:>7} {:>7} {:>3} {:>12}\n",
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
    let mut table = header("Goodput of a steady stream, 20 s");
    for case in cases() {
        for (loss_name, loss) in [("", 0.0), (" + 2 % loss", 0.02), (" + 10 % loss", 0.10)] {
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
