//! bondgate's sender with a device key at a receiver that admits nobody else: what a stock registration survives, this does.

use std::time::Duration;

use bondgate_proto::sender::Scheduler;
use bondgate_sim::link::{LinkConfig, Loss};
use bondgate_sim::wire::Kind;
use bondgate_sim::world::{Direction, Fault, LinkSpec, Lose, Output, SenderKind, Setup, World};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

const OURS: SenderKind = SenderKind::BondgateKey(Scheduler::Adaptive);
const WITH_MACS: SenderKind = SenderKind::BondgateDataMac(Scheduler::Adaptive);

/// Three cellular-like links with room for the stream on any two.
fn links(loss: f64) -> Vec<LinkSpec> {
    [(25, 8_000_000), (35, 6_000_000), (50, 6_000_000)]
        .map(|(delay_ms, rate)| {
            LinkSpec::both(LinkConfig {
                delay: ms(delay_ms),
                jitter: ms(10),
                loss: Loss::Random(loss),
                ..LinkConfig::with_rate(rate, ms(400))
            })
        })
        .to_vec()
}

fn setup() -> Setup {
    Setup { sender: OURS, links: links(0.0), latency: secs(2), bitrate_bps: 3_000_000, ..Setup::default() }
}

#[test]
fn a_lossy_stream_arrives_whole() {
    for output in [Output::Relay, Output::Forward] {
        for sender in [
            SenderKind::BondgateKey(Scheduler::Adaptive),
            SenderKind::BondgateKey(Scheduler::Stock),
            SenderKind::BondgateDataMac(Scheduler::Adaptive),
            SenderKind::BondgateDataMac(Scheduler::Stock),
        ] {
            let mut world = World::new(Setup { sender, output, links: links(0.02), ..setup() });
            world.run_until_video(secs(3)).run_for(secs(20));
            assert_eq!((world.sessions(), world.sender_links_up()), (1, 3), "{output:?} {sender:?}");
            world.finish().assert_nothing_lost();
        }
    }
}

/// M1, M2, M3 and M4: each lost once, and each lost on every link.
#[test]
fn each_packet_of_the_handshake_may_be_lost() {
    for (direction, kind) in [
        (Direction::Up, Kind::Reg1),
        (Direction::Down, Kind::Reg2),
        (Direction::Up, Kind::Reg2),
        (Direction::Down, Kind::Reg3),
    ] {
        for count in [1, 3] {
            let mut world = World::new(Setup { latency: ms(500), ..setup() });
            world.inflict(Fault::Lose(Lose::next(direction, kind).times(count)));
            world.run_until_video(secs(2)).run_for(secs(3));
            assert_eq!((world.sessions(), world.sender_links_up()), (1, 3), "{direction:?} {kind:?}");
            world.finish().assert_nothing_lost();
        }
    }
}

#[test]
fn all_links_rebinding_at_once_do_not_end_the_session() {
    for output in [Output::Relay, Output::Forward] {
        for (sender, latency) in [(OURS, ms(500)), (OURS, secs(2)), (WITH_MACS, ms(500))] {
            let mut world = World::new(Setup { sender, output, latency, ..setup() });
            world.run_until_video(secs(5)).run_for(secs(5));
            world.reset_gap();
            for _ in 0..3 {
                world.inflict(Fault::RebindAll).run_for(secs(8));
            }
            assert_eq!((world.sessions(), world.sender_links_up()), (1, 3), "{output:?} {latency:?}");
            let report = world.finish();
            report.assert_lawful();
            assert!(report.longest_gap < secs(2), "{output:?} {latency:?}: {report:#?}");
        }
    }
}

/// The process dies and with it its cookie keys.
#[test]
fn a_restarted_receiver_is_joined_again() {
    let setups = [(OURS, Output::Relay), (OURS, Output::Forward), (WITH_MACS, Output::Forward)];
    for (sender, output) in setups {
        let mut world = World::new(Setup { sender, output, ..setup() });
        world.run_until_video(secs(5)).run_for(secs(5));
        world.inflict(Fault::RestartReceiver);
        assert_eq!(world.receiver_table(), (0, 0));
        let all_up = |world: &World| world.receiver_table() == (1, 3) && world.sender_links_up() == 3;
        world.run_until("links admitted again", ms(1500), all_up);
        // The SRT session died with its peer address; the encoder's next one carries on.
        world.run_until_video(secs(8)).run_for(secs(1));
        world.finish().assert_lawful();
    }
}

/// Another start of the sender is another group; the one before is not waited for.
#[test]
fn a_restarted_sender_streams_again() {
    let mut world = World::new(setup());
    world.run_until_video(secs(5)).run_for(secs(3));
    world.inflict(Fault::RestartSender).run_for(secs(15));
    assert_eq!(world.sender_links_up(), 3);
    world.finish().assert_lawful();
}
