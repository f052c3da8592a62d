//! The receivers that are compared speak the same protocol, and the harness measures them: the same script for both, and
//! short runs whose books must balance. Nothing here depends on speed.

mod script;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use bondgate_bench::receiver::Programs;
use bondgate_bench::row::Row;
use bondgate_bench::run::{self, Run};
use bondgate_bench::scenario::{Auth, Flood, FloodKind, Kind, Receiver, Scenario};
use bondgate_bench::senders;
use bondgate_bench::topology::{Kind as TopologyKind, SinkKind};
use bondgate_tests::harness::{Need, SRT, Suite};
use bondgate_tests::scene::Scene;

fn main() -> ExitCode {
    // They share a processor, and the harness spins on it.
    let mut suite = Suite::from_args(1);
    suite
        .test("conformance::baseline", &[], |scene| script::play(scene, &programs()?, &Receiver::baseline()));
    suite
        .test("conformance::bondgate", &[], |scene| script::play(scene, &programs()?, &Receiver::bondgate()));
    suite.test("run::smoke_on_loopback", &[], smoke);
    suite.test("run::losses_on_purpose", &[], losses);
    suite.test("run::device_keys", &[], device_keys);
    suite.test("run::flood", &[], flood);
    suite.test("run::search", &[], search);
    suite.test("run::null_sink_in_namespaces", &[Need::Namespaces], null_sink);
    suite.test("run::generator", &[Need::Namespaces, Need::Bpf], generator);
    suite.test("run::flood_at_the_gate", &[Need::Namespaces, Need::Bpf], flood_at_the_gate);
    suite.test("run::relay", &[], relay);
    suite.test("run::relay_of_libsrt", &[SRT], relay_of_libsrt);
    suite.test("run::peer_that_does_not_exist", &[], no_such_peer);
    suite.run()
}

fn programs() -> Result<Programs> {
    Ok(Programs {
        bondgate: bondgate_tests::bondgate::binary()?.to_owned(),
        baseline: PathBuf::from(env!("CARGO_BIN_EXE_bondgate-baseline")),
    })
}

fn short(name: &str) -> Scenario {
    Scenario {
        name: name.into(),
        topology: TopologyKind::Loopback,
        warm_up_ms: 100,
        measure_ms: 500,
        rounds: 1,
        ..Scenario::default()
    }
}

fn go(scenario: &Scenario) -> Result<Run> {
    scenario.check()?;
    run::run(scenario, &programs()?, |_| {})
}

/// What must hold for every trial with a counting sink at a rate that anything can bear.
fn expect_balance(row: &Row) -> Result<()> {
    ensure!(row.sent > 100, "{} datagrams are no load", row.sent);
    ensure!(row.harness_lost == 0, "the harness lost {}", row.harness_lost);
    ensure!(row.lost == Some(0), "{:?} of {} lost by {}", row.lost, row.sent, row.receiver);
    ensure!(
        row.srtla_acks > 0 && row.srtla_acked >= row.sent / 2,
        "{} numbers acknowledged",
        row.srtla_acked
    );
    ensure!(row.process_ns.is_some_and(|ns| ns > 0.0), "it cannot have cost nothing");
    Ok(())
}

fn smoke(_: &Scene) -> Result<()> {
    let run = go(&Scenario::load("smoke")?)?;
    ensure!(run.rows.len() == 2 && run.comparisons.len() == 1);
    for row in &run.rows {
        expect_balance(row)?;
        ensure!(row.duplicates == Some(0) && row.srt_acks > 0 && row.latency.is_some());
    }
    let dir = tempfile::tempdir()?;
    let folder = run::save(&run, dir.path())?;
    let kept =
        |run: &Run| run.rows.iter().map(|row| (row.receiver.clone(), row.sent, row.lost)).collect::<Vec<_>>();
    ensure!(kept(&run::load(&folder)?) == kept(&run));
    Ok(())
}

fn losses(_: &Scene) -> Result<()> {
    let scenario = Scenario { loss_percent: 20.0, duplicate_percent: 10.0, links: 4, ..short("losses") };
    for row in go(&scenario)?.rows {
        expect_balance(&row)?;
        ensure!(row.duplicates > Some(0), "copies pass, and are counted");
    }
    Ok(())
}

fn device_keys(_: &Scene) -> Result<()> {
    let scenario = Scenario {
        auth: Auth::Sa1,
        groups: 6,
        links: 2,
        receivers: vec![Receiver::bondgate()],
        ..short("device-keys")
    };
    go(&scenario)?.rows.iter().try_for_each(expect_balance)
}

fn flood(_: &Scene) -> Result<()> {
    for kind in [FloodKind::Reg1, FloodKind::Reg2, FloodKind::Data] {
        let flood = Flood { kind, rate_pps: 2000, sources: 8 };
        let scenario =
            Scenario { flood: Some(flood), receivers: vec![Receiver::bondgate()], ..short("flood") };
        for row in go(&scenario)?.rows {
            expect_balance(&row)?;
            ensure!(row.flood_sent > 500, "{kind:?}: {}", row.flood_sent);
            let dropped: u64 = row.drops.iter().map(|(_, count)| count).sum();
            ensure!(kind == FloodKind::Reg1 || dropped > 0, "{kind:?}: nothing was dropped");
        }
    }
    Ok(())
}

/// Finds something between bounds that anything can bear, and measures at half of it.
fn search(_: &Scene) -> Result<()> {
    let scenario = Scenario {
        kind: Kind::Search,
        search_pps: [1000, 2000],
        receivers: vec![Receiver::baseline()],
        ..short("search")
    };
    let run = go(&scenario)?;
    let [(name, 0, found)] = &run.searches[..] else { anyhow::bail!("one search, not {:?}", run.searches) };
    ensure!(name == "baseline" && found.zero_loss_pps.is_some_and(|rate| rate >= 1000.0), "{found:?}");
    ensure!(run.rows.iter().all(|row| row.offered_pps <= 1000.0));
    Ok(())
}

/// What a device throws away is counted datagram by datagram, segmented or not.
fn null_sink(_: &Scene) -> Result<()> {
    for (burst, senders) in
        [(1, senders::Kind::Sockets), (8, senders::Kind::Sockets), (1, senders::Kind::Raw)]
    {
        let scenario = Scenario {
            topology: TopologyKind::Veth,
            senders,
            sink: SinkKind::Null,
            groups: 3,
            links: 2,
            burst,
            rate_pps: 8000,
            srt_ack_ms: 0,
            ..short("null-sink")
        };
        for row in go(&scenario)?.rows {
            ensure!(row.lost.is_none() && row.harness_lost == 0);
            let (sent, delivered) = (row.sent_pps, row.delivered_pps);
            ensure!(
                (sent - delivered).abs() < 0.1 * sent,
                "{}: {sent} sent, {delivered} counted",
                row.receiver
            );
        }
    }
    Ok(())
}

/// The generator inside the kernel: each datagram arrives once, from the link it was registered for, and is timed.
fn generator(_: &Scene) -> Result<()> {
    let scenario = Scenario {
        topology: TopologyKind::Veth,
        senders: senders::Kind::Bpf,
        groups: 3,
        links: 2,
        rate_pps: 3000,
        ..short("generator")
    };
    for row in go(&scenario)?.rows {
        expect_balance(&row)?;
        ensure!(row.sent.abs_diff(1500) < 150, "{} of about 1500 were offered", row.sent);
        ensure!(row.duplicates == Some(0) && row.srt_acks > 0, "{row:?}");
        ensure!(row.generator_behind.is_some(), "what did not leave alone is counted");
        let latency = row.latency.clone().unwrap_or_default();
        ensure!(latency.p50_us > 1.0 && latency.p50_us <= latency.max_us, "{latency:?}");
    }
    Ok(())
}

/// A flood of the same generator ends in the gate, and the stream beside it does not notice.
fn flood_at_the_gate(_: &Scene) -> Result<()> {
    let gate = Receiver { gate: true, ..Receiver::bondgate() };
    let scenario = Scenario {
        topology: TopologyKind::Veth,
        senders: senders::Kind::Bpf,
        rate_pps: 2000,
        flood: Some(Flood { kind: FloodKind::Mixed, rate_pps: 30_000, sources: 100_000 }),
        receivers: vec![gate.clone(), Receiver { name: "in-peace".into(), flooded: false, ..gate }],
        ..short("flood-at-the-gate")
    };
    let rows = go(&scenario)?.rows;
    rows.iter().try_for_each(expect_balance)?;
    let [flooded, in_peace] = &rows[..] else { anyhow::bail!("two rows, not {}", rows.len()) };
    ensure!(flooded.flood_sent > 10_000 && in_peace.flood_sent == 0, "{}", flooded.flood_sent);
    let dropped: u64 = flooded.gate_drops.iter().map(|(_, count)| count).sum();
    ensure!(
        dropped == flooded.flood_sent,
        "{} of the flood, {dropped} dropped in the gate: {:?}",
        flooded.flood_sent,
        flooded.gate_drops
    );
    ensure!(flooded.drops.is_empty(), "nothing came as far as user space: {:?}", flooded.drops);
    Ok(())
}

/// Three streams with two players each: every payload reaches both.
fn relay(_: &Scene) -> Result<()> {
    let scenario = Scenario {
        kind: Kind::Relay,
        groups: 3,
        players: 2,
        rate_pps: 900,
        receivers: vec![Receiver::bondgate()],
        ..short("relay")
    };
    for row in go(&scenario)?.rows {
        ensure!(row.sent > 100 && row.harness_lost == 0 && row.process_ns.is_some(), "{row:?}");
        ensure!(row.lost == Some(0) && row.duplicates == Some(0), "{:?} of {} lost", row.lost, row.sent);
    }
    Ok(())
}

fn relay_of_libsrt(_: &Scene) -> Result<()> {
    let program = "srt-live-transmit".to_owned();
    let receiver = Receiver { name: program.clone(), program, ..Receiver::bondgate() };
    let scenario = Scenario {
        kind: Kind::Relay,
        groups: 2,
        rate_pps: 600,
        receivers: vec![receiver],
        ..short("libsrt")
    };
    for row in go(&scenario)?.rows {
        ensure!(row.sent > 100 && row.harness_lost == 0, "{} sent, {} refused", row.sent, row.harness_lost);
        ensure!(row.lost.is_none() && row.mbps_per_cpu.is_some(), "{row:?}");
    }
    Ok(())
}

fn no_such_peer(_: &Scene) -> Result<()> {
    let peer = Receiver::peer("/nonexistent/receiver {listen} {target}")?;
    let error = go(&Scenario { receivers: vec![peer], ..short("peer") }).err();
    let text = error.map_or_else(String::new, |error| format!("{error:#}"));
    ensure!(text.contains("/nonexistent/receiver"), "{text:?} names the program");
    Ok(())
}
