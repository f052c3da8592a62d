//! Links that move, die and come back under a running stream, on a virtual clock.

mod sender_support;

use bondgate_proto::sender::{LinkState, Scheduler, SenderNotice};
use bondgate_proto::wire::PacketType;
use sender_support::*;

/// Three links of 20, 30 and 40 ms one way, streaming for two seconds.
fn streaming(scheduler: Scheduler, manners: Manners, mbps: f64) -> World {
    let mut world = World::new(scheduler, manners, 11);
    for delay in [20, 30, 40] {
        world.add_link(Path::new(delay));
    }
    world.run_for(500 * MS);
    assert_eq!(world.live(), 3);
    world.start_encoder(mbps);
    world.run_for(2 * S);
    world
}

/// Stops the encoder, lets retransmissions finish, and returns how many payloads never arrived.
fn finish(world: &mut World) -> u64 {
    world.stop_encoder();
    world.run_for(2 * S);
    world.lost_payloads()
}

const BOTH: [Scheduler; 2] = [Scheduler::Stock, Scheduler::Adaptive];

#[test]
fn all_nat_bindings_move_at_once() {
    for scheduler in BOTH {
        for manners in [Manners::Stock, Manners::Idempotent] {
            for mbps in [0.5, 3.0, 12.0] {
                let mut world = streaming(scheduler, manners, mbps);
                let moved_us = world.now_us;
                (0..3).for_each(|link| world.move_nat(link));
                world.run_for(3 * S);
                let gap_ms = world.longest_gap_us(moved_us, world.now_us) / MS;
                assert!(gap_ms <= 500, "{scheduler:?} {manners:?} {mbps} Mb/s: {gap_ms} ms without video");
                assert_eq!(world.live(), 3);
                assert_eq!(world.rebinds, 0, "the same sockets serve");
                assert_eq!(finish(&mut world), 0, "{scheduler:?} {manners:?} {mbps}");
            }
        }
    }
}

#[test]
fn all_sockets_die_at_once() {
    for scheduler in BOTH {
        let mut world = streaming(scheduler, Manners::Stock, 3.0);
        let died_us = world.now_us;
        (0..3).for_each(|link| world.kill_socket(link));
        world.run_for(4 * S);
        let gap_ms = world.longest_gap_us(died_us, world.now_us) / MS;
        assert!(gap_ms <= 1300, "{scheduler:?}: {gap_ms} ms without video");
        assert_eq!(world.live(), 3);
        assert_eq!(finish(&mut world), 0);
    }
}

#[test]
fn send_errors_bring_a_fresh_socket_without_waiting() {
    let mut world = streaming(Scheduler::Adaptive, Manners::Stock, 3.0);
    world.kill_socket(0);
    let index = world.stats(0).index;
    for _ in 0..3 {
        let now = world.now();
        world.sender.handle_send_error(now, index);
        assert_ne!(world.stats(0).state, LinkState::Live, "no more data on it");
    }
    let back = world.run_until_true(S, |w| w.stats(0).state == LinkState::Live).expect("not back") / MS;
    assert!(back <= 60, "{back}");
    assert_eq!(finish(&mut world), 0);
}

#[test]
fn one_black_holed_link_costs_no_gap_and_is_used_again_after_its_return() {
    for scheduler in BOTH {
        for victim in 0..3 {
            let mut world = streaming(scheduler, Manners::Stock, 6.0);
            let hole_us = world.now_us;
            world.path(victim).blackhole = true;
            let left = world
                .run_until_true(S, |w| w.stats(victim).state != LinkState::Live)
                .unwrap_or_else(|| panic!("{scheduler:?} link {victim} is still trusted"));
            // Four round trips (up to 320 ms) after the next packet; a link with nothing but probes gets one each 180 ms.
            assert!(left <= 520 * MS, "{scheduler:?} link {victim}: {left}");
            world.run_for(6 * S - left);
            assert_ne!(world.stats(victim).state, LinkState::Live);
            assert!(world.notices.iter().any(|(_, n)| matches!(n, SenderNotice::LinkLost { .. })));
            world.path(victim).blackhole = false;
            let returned_us = world.now_us;
            let back = world.run_until_true(2 * S, |w| w.stats(victim).state == LinkState::Live).unwrap();
            assert!(back <= 1200 * MS, "{back}");
            let sent = world.stats(victim).sent_packets;
            world.run_for(3 * S);
            assert!(world.stats(victim).sent_packets > sent + 10, "{scheduler:?}: never used again");
            let gap_ms = world.longest_gap_us(hole_us, returned_us + 3 * S) / MS;
            // With the only used link gone there is nothing to see until it is suspected.
            assert!(gap_ms <= 450, "{scheduler:?} link {victim}: {gap_ms}");
            assert_eq!(finish(&mut world), 0, "{scheduler:?} link {victim}");
        }
    }
}

#[test]
fn a_way_up_that_dies_alone_is_noticed_although_acks_keep_coming_down() {
    let mut world = streaming(Scheduler::Adaptive, Manners::Stock, 6.0);
    world.drop_rule = Box::new(|_, link, up, _| up && link == 0);
    let left = world.run_until_true(S, |w| w.stats(0).state != LinkState::Live);
    assert!(left.is_some_and(|us| us <= 450 * MS), "{left:?}");
    world.run_for(3 * S);
    assert_eq!(finish(&mut world), 0);
}

#[test]
fn a_flapping_link_loses_nothing() {
    let mut world = streaming(Scheduler::Adaptive, Manners::Stock, 6.0);
    for _ in 0..8 {
        world.path(1).blackhole = true;
        world.run_for(1300 * MS);
        world.path(1).blackhole = false;
        world.run_for(1700 * MS);
    }
    assert_eq!(world.live(), 3);
    assert_eq!(finish(&mut world), 0);
}

#[test]
fn fresh_sockets_are_asked_for_with_growing_pauses_and_not_needed_to_come_back() {
    let mut world = streaming(Scheduler::Adaptive, Manners::Idempotent, 3.0);
    world.obeys_rebind = false;
    (0..3).for_each(|link| world.path(link).blackhole = true);
    world.run_for(24 * S);
    assert!(world.rebinds <= 3 * 6, "{} requests in 24 s", world.rebinds);
    (0..3).for_each(|link| world.path(link).blackhole = false);
    let back = world.run_until_true(3 * S, |w| w.live() == 3).expect("not back") / MS;
    assert!(back <= 1100, "{back}");
}

#[test]
fn a_quiet_group_stays_up_and_lossy_keepalives_do_not_lose_links() {
    let mut world = World::new(Scheduler::Adaptive, Manners::Stock, 3);
    for _ in 0..3 {
        let mut path = Path::new(40).loss(0.1);
        path.loss_down = 0.1;
        world.add_link(path);
    }
    world.run_for(60 * S);
    assert_eq!(world.live(), 3);
    let lost = world.notices.iter().filter(|(_, n)| matches!(n, SenderNotice::LinkLost { .. })).count();
    assert!(lost <= 1, "{lost} links given up in a minute of 10 % loss");
    let rtt = world.stats(0).rtt.unwrap();
    assert!(rtt.as_millis().abs_diff(80) <= 2, "{rtt:?}");
}

#[test]
fn an_idle_link_may_lose_two_questions_in_a_row() {
    let mut world = World::new(Scheduler::Adaptive, Manners::Stock, 3);
    world.add_link(Path::new(40));
    world.run_for(1500 * MS);
    let mut left = 2;
    world.drop_rule = Box::new(move |_, _, up, bytes| {
        let is_lost = up && left > 0 && kind(bytes) == Some(PacketType::Keepalive);
        left -= u32::from(is_lost);
        is_lost
    });
    world.run_for(5 * S);
    let suspected = world.notices.iter().any(|(_, n)| matches!(n, SenderNotice::LinkSuspect { .. }));
    assert!(!suspected, "{:?}", world.notices);
    world.drop_rule = Box::new(|_, _, up, bytes| up && kind(bytes) == Some(PacketType::Keepalive));
    world.run_for(2 * S);
    assert_eq!(world.live(), 0, "a third one is too many");
}

/// The only other link has just lost its questions, but no data: it is tried before the busy one is given up.
#[test]
fn a_suspect_link_is_tried_as_soon_as_the_live_one_swallows_data() {
    let mut world = World::new(Scheduler::Adaptive, Manners::Stock, 5);
    world.add_link(Path::new(20));
    world.add_link(Path::new(100));
    world.run_for(500 * MS);
    world.start_encoder(3.0);
    world.run_for(2 * S);
    world.drop_rule = Box::new(|_, link, up, _| !up && link == 1);
    world.run_until_true(4 * S, |w| w.stats(1).state == LinkState::Suspect).expect("not suspect");
    let (hole_us, sent) = (world.now_us, world.stats(1).sent_packets);
    world.path(0).blackhole = true;
    world.run_for(200 * MS);
    assert_eq!(world.stats(0).state, LinkState::Live, "not yet given up");
    assert!(world.stats(1).sent_packets > sent, "the suspect link is not tried");
    world.drop_rule = Box::new(|_, _, _, _| false);
    world.run_for(2 * S);
    let gap_ms = world.longest_gap_us(hole_us, world.now_us) / MS;
    assert!(gap_ms <= 450, "{gap_ms} ms without video");
    assert_eq!(finish(&mut world), 0);
}

#[test]
fn the_encoder_sees_each_ack_once() {
    for scheduler in BOTH {
        let mut world = streaming(scheduler, Manners::Stock, 3.0);
        world.run_for(3 * S);
        assert!(world.acks_at_encoder > 400, "{}", world.acks_at_encoder);
        assert_eq!(world.ack_copies_at_encoder, 0);
    }
}

#[test]
fn a_new_session_with_a_lower_first_number_is_followed() {
    for scheduler in BOTH {
        let mut world = streaming(scheduler, Manners::Stock, 6.0);
        let mut induction = vec![0u8; 64];
        induction[0..2].copy_from_slice(&0x8000u16.to_be_bytes());
        induction[16..20].copy_from_slice(&4u32.to_be_bytes());
        induction[36..40].copy_from_slice(&1u32.to_be_bytes());
        let now = world.now();
        let verdict = world.sender.handle_local(now, &induction, &mut world.out);
        assert!(matches!(verdict, bondgate_proto::sender::SenderVerdict::ToLink(_)));
        assert!(world.sender.links().all(|l| l.in_flight_packets == 0), "nothing of the old session counts");
        assert_eq!(world.sender.counters().inductions, 1);
    }
}

/// The encoder was restarted while its handshake took another way (or was lost on us): only its data shows it.
#[test]
fn a_restarted_encoder_is_noticed_without_its_induction() {
    let in_flight = |w: &World| w.sender.links().map(|l| l.in_flight_packets).sum::<u32>();
    let send = |w: &mut World, seq: bondgate_proto::Seq, flags: u32, socket_id: u32| {
        let mut bytes = vec![0u8; 16 + PAYLOAD];
        bytes[0..4].copy_from_slice(&seq.get().to_be_bytes());
        bytes[4..8].copy_from_slice(&(0xC000_0001 | flags).to_be_bytes());
        bytes[12..16].copy_from_slice(&socket_id.to_be_bytes());
        let now = w.now();
        let verdict = w.sender.handle_local(now, &bytes, &mut w.out);
        assert!(matches!(verdict, bondgate_proto::sender::SenderVerdict::ToLink(_)));
    };
    for scheduler in BOTH {
        let mut world = streaming(scheduler, Manners::Stock, 6.0);
        let old = world.first_seq.add(5);
        let before = in_flight(&world);
        assert!(before > 10, "{before}");
        send(&mut world, old, 0x0400_0000, 0);
        assert_eq!(
            in_flight(&world),
            before,
            "{scheduler:?}: a late repair of what has arrived is no new session"
        );
        // Lower numbers, by chance to the same socket ID.
        for i in 0..30 {
            send(&mut world, old.add(i), 0, 0);
        }
        assert_eq!(in_flight(&world), 30, "{scheduler:?}: the new packets count, the old ones do not");
        // Higher numbers to another socket.
        for i in 0..20 {
            send(&mut world, old.add(100 + i), 0, 77);
        }
        assert_eq!(in_flight(&world), 20, "{scheduler:?}");
    }
}
