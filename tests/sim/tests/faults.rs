//! Faults a bonded stream must survive: flapping links, moving addresses, duplication.

use std::time::Duration;

use bondgate_proto::sender::Scheduler;
use bondgate_sim::link::{LinkConfig, Loss};
use bondgate_sim::rng::Rng;
use bondgate_sim::wire::Kind;
use bondgate_sim::world::{Direction, Fault, LinkSpec, Lose, Output, SenderKind, Setup, World};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

const OURS: SenderKind = SenderKind::Bondgate(Scheduler::Adaptive);

/// Three cellular-like links, none lossy, with room for the stream on any two.
fn links() -> Vec<LinkSpec> {
    [(25, 8_000_000), (35, 6_000_000), (50, 6_000_000)]
        .map(|(delay_ms, rate)| {
            LinkSpec::both(LinkConfig {
                delay: ms(delay_ms),
                jitter: ms(10),
                ..LinkConfig::with_rate(rate, ms(400))
            })
        })
        .to_vec()
}

fn setup(sender: SenderKind) -> Setup {
    Setup { sender, links: links(), latency: secs(2), bitrate_bps: 3_000_000, ..Setup::default() }
}

/// One of three links is down 0.2 to 10 s at a time for two minutes.
#[test]
fn one_flapping_link_costs_nothing() {
    for sender in SenderKind::BONDING {
        let mut world = World::new(setup(sender));
        world.run_until_video(secs(10));
        let mut rng = Rng::new(11);
        while world.elapsed() < secs(120) {
            let link = rng.below(3) as usize;
            let down = ms(rng.between(200, 10_000));
            world.flap(link, down).run_for(down + ms(rng.between(1_000, 8_000)));
        }
        assert_eq!(world.sessions(), 1, "{sender:?}");
        let report = world.finish();
        report.assert_nothing_lost();
        assert!(report.longest_gap < ms(500), "{sender:?}: {report:#?}");
    }
}

/// Only one direction of a link dies: acknowledgements stop while data arrives, or the other way round.
#[test]
fn a_link_dead_in_one_direction_costs_nothing() {
    for sender in SenderKind::BONDING {
        for direction in [Direction::Up, Direction::Down] {
            let mut world = World::new(setup(sender));
            world.run_until_video(secs(10)).run_for(secs(3));
            world.inflict(Fault::OneWayDown(0, direction)).run_for(secs(8));
            world.inflict(Fault::LinkUp(0)).run_for(secs(8));
            assert_eq!(world.sessions(), 1, "{sender:?} {direction:?}");
            world.finish().assert_nothing_lost();
        }
    }
}

/// The phone changes networks, the carrier resets its NAT: every address is new in the same instant.
#[test]
fn all_links_rebinding_at_once_do_not_end_the_session() {
    for output in [Output::Relay, Output::Forward] {
        for latency in [ms(500), secs(2)] {
            let mut world = World::new(Setup { output, latency, ..setup(OURS) });
            world.run_until_video(secs(5)).run_for(secs(5));
            world.reset_gap();
            for _ in 0..3 {
                world.inflict(Fault::RebindAll).run_for(secs(8));
            }
            assert_eq!(world.sessions(), 1, "{output:?} {latency:?}");
            assert_eq!(world.sender_links_up(), 3);
            let report = world.finish();
            report.assert_lawful();
            assert!(report.longest_gap < secs(2), "{output:?} {latency:?}: {report:#?}");
        }
    }
}

/// The same with stock senders, which notice nothing for seconds: the receiver follows their data to the new addresses.
#[test]
fn all_links_rebinding_at_once_are_followed_for_stock_senders() {
    for sender in [SenderKind::BelaboxC, SenderKind::IrlRust, SenderKind::Moblin] {
        let mut world = World::new(Setup { latency: ms(500), ..setup(sender) });
        world.run_until_video(secs(10)).run_for(secs(5));
        world.reset_gap();
        for _ in 0..3 {
            world.inflict(Fault::RebindAll).run_for(secs(9));
        }
        assert_eq!(world.sessions(), 1, "{sender:?}");
        let report = world.finish();
        report.assert_lawful();
        assert!(report.longest_gap < secs(2), "{sender:?}: {report:#?}");
    }
}

/// The control experiment: a receiver that does not follow them shows the gaps reported of stock receivers, 4 s and more.
#[test]
fn without_roaming_stock_senders_show_the_reported_gap() {
    for sender in [SenderKind::BelaboxC, SenderKind::IrlRust, SenderKind::Moblin] {
        let mut still = Setup { latency: ms(500), ..setup(sender) };
        still.receiver_config.roaming = false;
        let mut world = World::new(still);
        world.run_until_video(secs(10)).run_for(secs(5));
        world.reset_gap().inflict(Fault::RebindAll).run_for(secs(12));
        let report = world.finish();
        report.assert_lawful();
        assert!((secs(3)..secs(12)).contains(&report.longest_gap), "{sender:?}: {report:#?}");
    }
}

/// One NAT after the other moves, each link every 15 s: nobody should notice.
#[test]
fn links_rebinding_in_turn_cost_nothing() {
    for sender in SenderKind::BONDING {
        let mut world = World::new(setup(sender));
        world.run_until_video(secs(10)).run_for(secs(3));
        for move_number in 0..9 {
            world.inflict(Fault::Rebind(move_number % 3)).run_for(secs(8));
        }
        assert_eq!(world.sessions(), 1, "{sender:?}");
        let (groups, links) = world.receiver_table();
        assert!(groups == 1 && links <= 5, "{sender:?}: {groups} groups, {links} links");
        world.finish().assert_nothing_lost();
    }
}

/// A fifth of everything arrives twice, registration packets included: one group, three links, each payload once.
#[test]
fn duplication_is_idempotent() {
    for sender in SenderKind::BONDING {
        let mut duplicating = setup(sender);
        for link in &mut duplicating.links {
            link.up.duplicate = 0.2;
            link.down.duplicate = 0.2;
        }
        let mut world = World::new(duplicating);
        world.run_until_video(secs(10)).run_for(secs(20));
        assert_eq!(world.receiver_table(), (1, 3), "{sender:?}");
        assert_eq!(world.sessions(), 1);
        let counters = world.host().receiver().counters();
        assert_eq!((counters.groups_opened, counters.links_joined), (1, 3), "{sender:?}: {counters:?}");
        world.finish().assert_nothing_lost();
    }
}

/// Every registration packet arrives twice.
#[test]
fn doubled_registration_is_idempotent() {
    for sender in SenderKind::BONDING {
        let mut doubling = setup(sender);
        for link in &mut doubling.links {
            link.up.duplicate = 1.0;
            link.down.duplicate = 1.0;
        }
        let mut world = World::new(doubling);
        world.run_until_video(secs(10)).run_for(secs(2));
        assert_eq!(world.receiver_table(), (1, 3), "{sender:?}");
        world.finish().assert_nothing_lost();
    }
}

/// Losses on all links that repair must cover: 1, 10 and 30 % with 4 s of latency.
#[test]
fn loss_on_all_links_is_repaired() {
    for sender in [OURS, SenderKind::BelaboxC] {
        for loss in [0.01, 0.1, 0.3] {
            let mut lossy = Setup { latency: secs(4), bitrate_bps: 2_000_000, ..setup(sender) };
            for link in &mut lossy.links {
                link.up.loss = Loss::Random(loss);
                link.down.loss = Loss::Random(loss);
            }
            let mut world = World::new(lossy);
            world.run_until_video(secs(20)).run_for(secs(20));
            world.finish().assert_nothing_lost();
        }
    }
}

/// All links are dead for 3 s, less than the SRT session's patience: the session and the group live on.
#[test]
fn a_short_outage_of_everything_keeps_the_session() {
    let mut world = World::new(setup(OURS));
    world.run_until_video(secs(5)).run_for(secs(5));
    for link in 0..3 {
        world.flap(link, secs(3));
    }
    world.run_for(secs(3)).run_until_video(secs(2)).run_for(secs(5));
    // The table may still hold the addresses of sockets that were given up meanwhile.
    assert_eq!((world.sessions(), world.receiver_table().0, world.sender_links_up()), (1, 1, 3));
    world.finish().assert_lawful();
}

/// Links over IPv6 and IPv4 in one group.
#[test]
fn mixed_address_families_bond() {
    let mut mixed = setup(OURS);
    mixed.links[1].ipv6 = true;
    let mut world = World::new(mixed);
    world.run_until_video(secs(3)).run_for(secs(5));
    assert_eq!(world.receiver_table(), (1, 3));
    let report = world.finish();
    report.assert_nothing_lost();
    assert!(report.link_packets.iter().all(|&packets| packets > 0), "{report:#?}");
}

/// SRT's own handshake is lost at every step once.
#[test]
fn lost_srt_handshakes_are_repeated() {
    for direction in [Direction::Up, Direction::Down] {
        for skip in 0..3 {
            let mut world = World::new(Setup { latency: ms(300), ..setup(OURS) });
            world.inflict(Fault::Lose(Lose::next(direction, Kind::SrtHandshake).after(skip)));
            world.run_until_video(secs(3)).run_for(secs(2));
            assert_eq!(world.sessions(), 1);
            world.finish().assert_nothing_lost();
        }
    }
}

/// The only link moves and the encoder restarts before the moved link has carried much: the answers to its handshake must
/// find the new address.
#[test]
fn a_moved_link_gets_the_answers_of_a_new_session() {
    for output in [Output::Relay, Output::Forward] {
        for pause in [ms(0), ms(20), ms(50), ms(100), ms(300)] {
            let mut world = World::new(Setup {
                output,
                links: vec![LinkConfig::wire(ms(25)).into()],
                latency: ms(300),
                bitrate_bps: 2_000_000,
                ..setup(OURS)
            });
            world.run_until_video(secs(2)).run_for(secs(2));
            world.inflict(Fault::Rebind(0)).run_for(pause).inflict(Fault::RestartEncoder);
            let sessions = world.sessions();
            let what = format!("the new session, {output:?}, {pause:?} after the move");
            world.run_until(&what, secs(3), |world| world.sessions() > sessions);
            world.run_until_video(secs(1));
            world.finish().assert_lawful();
        }
    }
}
