//! The SRT engine under a link's faults, alone and behind bonded links.

use std::time::Duration;

use bondgate_proto::sender::Scheduler;
use bondgate_sim::link::{LinkConfig, Loss};
use bondgate_sim::world::{LinkSpec, Output, Report, SenderKind, Setup, World};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

/// Plain SRT over one link: 10 Mb/s for 30 s.
fn plain(link: LinkSpec, latency: Duration) -> Report {
    let mut world = World::new(Setup {
        sender: SenderKind::Plain,
        links: vec![link],
        latency,
        bitrate_bps: 10_000_000,
        ..Setup::default()
    });
    world.run_until_video(secs(5)).run_for(secs(30));
    assert_eq!(world.sessions(), 1);
    world.finish()
}

/// 40 ms of RTT with these losses.
fn lossy(up: f64, down: f64) -> LinkSpec {
    let wire = |loss| LinkConfig { loss: Loss::Random(loss), ..LinkConfig::wire(ms(20)) };
    LinkSpec { up: wire(up), down: wire(down), ipv6: false }
}

#[test]
fn two_percent_loss_is_repaired_at_little_cost() {
    let report = plain(lossy(0.02, 0.02), ms(200));
    report.assert_nothing_lost();
    assert!(report.retransmissions_per_100() < 2.5, "{report:#?}");
}

/// 400 ms is enough when data are lost, 600 ms when acknowledgements and loss reports are lost as well.
#[test]
fn ten_percent_loss_is_repaired_at_little_cost() {
    for (down, latency) in [(0.0, ms(400)), (0.1, ms(600))] {
        let report = plain(lossy(0.1, down), latency);
        report.assert_nothing_lost();
        assert!(report.retransmissions_per_100() < 13.0, "{report:#?}");
    }
}

/// 10 to 50 ms random delay without loss, where stock libsrt sends 105 of 100 packets again.
#[test]
fn reordering_is_not_taken_for_loss() {
    let report =
        plain(LinkConfig { jitter: ms(40), reorder: true, ..LinkConfig::wire(ms(10)) }.into(), ms(400));
    report.assert_nothing_lost();
    assert!(report.retransmissions_per_100() < 5.0, "{:.1}: {report:#?}", report.retransmissions_per_100());
}

/// Links that are ordered in themselves but 10, 30 and 60 ms long: the overtaking happens between them.
#[test]
fn links_of_different_delay_are_not_taken_for_loss() {
    for output in [Output::Relay, Output::Forward] {
        for sender in SenderKind::BONDING {
            let link = |delay_ms| LinkConfig { jitter: ms(10), ..LinkConfig::wire(ms(delay_ms)) }.into();
            let mut world = World::new(Setup {
                sender,
                output,
                links: vec![link(10), link(30), link(60)],
                latency: ms(600),
                bitrate_bps: 6_000_000,
                ..Setup::default()
            });
            world.run_until_video(secs(6)).run_for(secs(20));
            let report = world.finish();
            report.assert_nothing_lost();
            let per_100 = report.retransmissions_per_100();
            assert!(per_100 < 5.0, "{sender:?} {output:?}: {per_100:.1}: {report:#?}");
        }
    }
}

#[test]
fn duplicates_and_reordering_together() {
    let link = LinkConfig {
        jitter: ms(30),
        reorder: true,
        duplicate: 0.2,
        loss: Loss::Random(0.01),
        ..LinkConfig::wire(ms(20))
    };
    plain(link.into(), ms(500)).assert_nothing_lost();
}

/// The 31-bit sequence space wraps in mid-stream, with loss around it.
#[test]
fn the_sequence_space_wraps() {
    let lossy = LinkConfig { loss: Loss::Random(0.03), jitter: ms(5), ..LinkConfig::wire(ms(20)) };
    let wrap_at = 0x7fff_ffff_u32 - 1500;
    for sender in SenderKind::BONDING.into_iter().chain([SenderKind::Plain]) {
        let mut world = World::new(Setup {
            sender,
            links: vec![lossy.clone().into(); 2],
            latency: ms(800),
            bitrate_bps: 4_000_000,
            initial_seq: Some(wrap_at),
            ..Setup::default()
        });
        world.run_until_video(secs(6)).run_for(secs(15));
        assert_eq!(world.sessions(), 1, "{sender:?}");
        let report = world.finish();
        report.assert_nothing_lost();
        assert!(report.accepted > 3000, "the wrap was passed");
    }
}

/// Delivery keeps the source's rhythm: every payload `latency` after it was handed over, give or take the measured
/// one-way delay.
#[test]
fn delivery_keeps_time() {
    let mut world = World::new(Setup {
        sender: SenderKind::Bondgate(Scheduler::Adaptive),
        links: vec![LinkConfig { jitter: ms(20), reorder: true, ..LinkConfig::wire(ms(30)) }.into(); 3],
        latency: ms(500),
        ..Setup::default()
    });
    world.run_until_video(secs(3)).run_for(secs(20));
    let report = world.finish();
    report.assert_nothing_lost();
    assert!(report.latency_max.saturating_sub(report.latency_p50) < ms(30), "{report:#?}");
    assert!(report.latency_p50 >= ms(500) && report.latency_p99 < ms(600), "{report:#?}");
}

/// An hour and a quarter of slow stream: SRT's 32-bit microsecond timestamps wrap after 71 min 35 s.
#[test]
fn timestamps_wrap_after_71_minutes() {
    let mut world = World::new(Setup {
        sender: SenderKind::Plain,
        links: vec![LinkConfig { loss: Loss::Random(0.01), ..LinkConfig::wire(ms(20)) }.into()],
        latency: ms(300),
        bitrate_bps: 60_000,
        payload_len: 188,
        ..Setup::default()
    });
    world.run_until_video(secs(5)).run_for(secs(75 * 60));
    assert_eq!(world.sessions(), 1);
    let report = world.finish();
    report.assert_nothing_lost();
    assert!(report.longest_gap < ms(500), "{report:#?}");
}
