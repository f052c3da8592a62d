//! Registration with a key against a receiver that takes keys, on a virtual clock: under loss, moves and restarts.

mod sender_support;

use std::time::Instant;

use bondgate_auth::sa1::Flags;
use bondgate_auth::sa1::keys::Standing;
use bondgate_auth::sa1::wire::{Refusal, RefusalCode};
use bondgate_proto::sender::{
    LinkState, Registration, Sa1Mode, Scheduler, SenderConfig, SenderNotice, WallClock,
};
use bondgate_proto::wire::PacketType;
use sender_support::sa1::{WALL_MS, key};
use sender_support::*;

/// One way 20 ms: every round trip is 40 ms.
const RTT_MS: u64 = 40;

fn world(mode: Sa1Mode) -> World {
    World::with_key(mode, Manners::Sa1, 5)
}

fn three_links(world: &mut World) {
    for _ in 0..3 {
        world.add_link(Path::new(RTT_MS / 2));
    }
}

/// Time until a link is live and until all three are, in ms.
fn times(mut world: World) -> (u64, u64) {
    three_links(&mut world);
    let first = world.run_until_true(20 * S, |w| w.live() >= 1).expect("never up") / MS;
    let all = world.run_until_true(20 * S, |w| w.live() == 3).expect("not all links joined") / MS;
    assert_eq!(world.receiver.groups_with_members(), 1, "the links are split over groups");
    assert_eq!(world.sender.registration(), Registration::Sa1);
    assert_eq!(world.sender.counters().downgrades, 0);
    (first, first + all)
}

/// Streaming for two seconds over links of 20, 30 and 40 ms one way.
fn streaming(scheduler: Scheduler, mbps: f64) -> World {
    let config = SenderConfig { scheduler, ..SenderConfig::default() };
    let mut world = World::with_this_key(key(Sa1Mode::Require, Instant::now()), config, Manners::Sa1, 11);
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
    assert_eq!(
        world.receiver.sa1.bad_trailers, 0,
        "the two sides' keys differ for no longer than a round trip"
    );
    world.lost_payloads()
}

const BOTH: [Scheduler; 2] = [Scheduler::Stock, Scheduler::Adaptive];

#[test]
fn without_loss_all_links_are_up_after_two_round_trips() {
    let (first, all) = times(world(Sa1Mode::Require));
    assert!(first <= 2 * RTT_MS + 2 && all == first, "{first} {all}");
    // The other links begin when the first M2 has come.
    let (first, all) = times(world(Sa1Mode::Prefer));
    assert!(first <= 2 * RTT_MS + 2 && all <= 3 * RTT_MS + 2, "{first} {all}");
}

#[test]
fn any_one_lost_datagram_costs_200_ms_on_its_link() {
    for (what, up) in [
        (PacketType::Reg1, true),
        (PacketType::Reg2, false),
        (PacketType::Reg2, true),
        (PacketType::Reg3, false),
    ] {
        for link in 0..3 {
            let mut world = world(Sa1Mode::Require);
            world.drop_rule = lose_nth(what, up, Some(link), 0);
            let (first, all) = times(world);
            assert!(first <= 2 * RTT_MS + 2, "{what:?} up {up} {link}: {first}");
            assert!((200..=200 + 2 * RTT_MS + 2).contains(&all), "{what:?} up {up} {link}: {all}");
        }
    }
}

#[test]
fn any_two_lost_datagrams_are_repaired() {
    for mode in [Sa1Mode::Require, Sa1Mode::Prefer] {
        for a in 0..16 {
            for b in a + 1..24 {
                let mut world = world(mode);
                let mut seen = 0;
                world.drop_rule = Box::new(move |_, _, _, _| {
                    seen += 1;
                    seen == a + 1 || seen == b + 1
                });
                let (first, all) = times(world);
                assert!(first <= 1000, "{mode:?} {a} {b}: up after {first} ms");
                assert!(all <= 2000, "{mode:?} {a} {b}: all up after {all} ms");
            }
        }
    }
}

#[test]
fn a_satellite_round_trip_is_awaited() {
    for mode in [Sa1Mode::Require, Sa1Mode::Prefer] {
        let mut world = world(mode);
        for _ in 0..3 {
            world.add_link(Path::new(300));
        }
        let all = world.run_until_true(10 * S, |w| w.live() == 3).expect("never up") / MS;
        assert!(all <= 2500, "{mode:?}: {all}");
        world.run_for(10 * S);
        assert_eq!((world.live(), world.rebinds), (3, 0), "{mode:?}");
    }
}

#[test]
fn every_hello_is_another() {
    let mut world = world(Sa1Mode::Require);
    world.receiver.is_down = true;
    three_links(&mut world);
    let mut seen = std::collections::HashSet::new();
    let (sent, times) = (std::rc::Rc::new(std::cell::RefCell::new(Vec::new())), world.sent_reg1.len());
    let log = sent.clone();
    world.drop_rule = Box::new(move |_, _, up, bytes| {
        if up {
            log.borrow_mut().push(bytes.to_vec());
        }
        true
    });
    world.run_for(30 * S);
    assert_eq!(sent.borrow().len() + times, world.sent_reg1.len(), "nothing but M1");
    for m1 in sent.borrow().iter() {
        assert!(seen.insert(m1[34..50].to_vec()), "a link nonce came twice");
        assert_eq!(m1[18..34], sent.borrow()[0][18..34], "one group nonce");
    }
    assert!(seen.len() < 3 * 55, "{} in 30 s", seen.len());
    world.receiver.is_down = false;
    world.drop_rule = Box::new(|_, _, _, _| false);
    let up = world.run_until_true(5 * S, |w| w.live() == 3).expect("never up") / MS;
    assert!(up <= 1200, "{up}");
}

#[test]
fn keepalives_have_trailers_and_pass_carriers_that_eat_tiny_packets() {
    let mut world = world(Sa1Mode::Require);
    world.drop_rule = Box::new(|_, _, _, bytes| bytes.len() < 32);
    three_links(&mut world);
    world.run_for(30 * S);
    assert_eq!(world.live(), 3);
    assert!(world.receiver.sa1.keepalives > 80, "{}", world.receiver.sa1.keepalives);
    assert_eq!(world.receiver.sa1.bad_trailers, 0);
    let quiet = world.notices.iter().all(|(_, n)| !matches!(n, SenderNotice::LinkSuspect { .. }));
    assert!(quiet, "{:?}", world.notices);
    assert_eq!(world.stats(0).rtt.unwrap().as_millis(), u128::from(RTT_MS));
}

/// The same as without a key, and one round trip (80 ms on the longest link) for the cookie.
#[test]
fn all_nat_bindings_move_at_once() {
    for scheduler in BOTH {
        for mbps in [0.5, 3.0, 12.0] {
            let mut world = streaming(scheduler, mbps);
            let moved_us = world.now_us;
            (0..3).for_each(|link| world.move_nat(link));
            world.run_for(3 * S);
            let gap_ms = world.longest_gap_us(moved_us, world.now_us) / MS;
            assert!(gap_ms <= 500 + 80, "{scheduler:?} {mbps} Mb/s: {gap_ms} ms without video");
            assert_eq!((world.live(), world.rebinds), (3, 0), "the same sockets serve");
            assert_eq!(world.receiver.sa1.sources().len(), 3, "the links moved and did not multiply");
            assert_eq!(finish(&mut world), 0, "{scheduler:?} {mbps}");
        }
    }
}

#[test]
fn all_sockets_die_at_once() {
    for scheduler in BOTH {
        let mut world = streaming(scheduler, 3.0);
        let died_us = world.now_us;
        (0..3).for_each(|link| world.kill_socket(link));
        world.run_for(4 * S);
        let gap_ms = world.longest_gap_us(died_us, world.now_us) / MS;
        assert!(gap_ms <= 1300 + 80, "{scheduler:?}: {gap_ms} ms without video");
        assert_eq!(world.live(), 3);
        assert_eq!(world.receiver.sa1.sources().len(), 3);
        assert_eq!(finish(&mut world), 0);
    }
}

#[test]
fn a_restarted_receiver_is_joined_again() {
    for scheduler in BOTH {
        for wait_s in [0, 200] {
            let mut world = streaming(scheduler, 4.0);
            world.run_for(wait_s * S);
            world.receiver.forget_groups();
            let restarted_us = world.now_us;
            world.run_for(2 * S);
            assert_eq!(world.live(), 3);
            let gap_ms = world.longest_gap_us(restarted_us, world.now_us) / MS;
            assert!(gap_ms <= 450 + 80, "{scheduler:?}: {gap_ms} ms without video");
            assert_eq!(finish(&mut world), 0);
        }
    }
}

#[test]
fn a_black_holed_link_costs_no_gap_and_comes_back() {
    for victim in 0..3 {
        let mut world = streaming(Scheduler::Adaptive, 6.0);
        let hole_us = world.now_us;
        world.path(victim).blackhole = true;
        world.run_for(6 * S);
        assert_ne!(world.stats(victim).state, LinkState::Live);
        world.path(victim).blackhole = false;
        let back = world.run_until_true(2 * S, |w| w.stats(victim).state == LinkState::Live).unwrap();
        assert!(back <= 1300 * MS, "{back}");
        world.run_for(2 * S);
        let gap_ms = world.longest_gap_us(hole_us, world.now_us) / MS;
        assert!(gap_ms <= 450, "link {victim}: {gap_ms}");
        assert_eq!(finish(&mut world), 0, "link {victim}");
    }
}

/// While a link that works is asked again, each packet of that handshake may be lost; its data flow on.
#[test]
fn a_needless_suspicion_with_losses_harms_nothing() {
    for (what, up) in [
        (PacketType::Reg1, true),
        (PacketType::Reg2, false),
        (PacketType::Reg2, true),
        (PacketType::Reg3, false),
    ] {
        let mut world = streaming(Scheduler::Adaptive, 6.0);
        let (from_us, index, now) = (world.now_us, world.stats(0).index, world.now());
        world.sender.handle_send_error(now, index);
        world.drop_rule = lose_nth(what, up, Some(0), 0);
        world.run_for(5 * S);
        assert_eq!((world.live(), world.rebinds), (3, 0), "{what:?} {up}");
        assert!(world.longest_gap_us(from_us, world.now_us) <= 200 * MS);
        world.stop_encoder();
        world.run_for(2 * S);
        // Until M4 comes the receiver has new keys and the sender the old ones.
        assert!(world.receiver.sa1.bad_trailers <= 3, "{}", world.receiver.sa1.bad_trailers);
        assert_eq!(world.lost_payloads(), 0);
    }
}

#[test]
fn a_key_about_to_be_replaced_is_told_once() {
    let mut world = world(Sa1Mode::Require);
    three_links(&mut world);
    world.run_for(S);
    let told =
        |w: &World| w.notices.iter().filter(|(_, n)| matches!(n, SenderNotice::KeyRetiring { .. })).count();
    assert_eq!(told(&world), 0);
    world.receiver.sa1.set_key(Some(Standing::Retiring));
    for link in 0..3 {
        world.move_nat(link);
        world.run_for(3 * S);
    }
    assert_eq!((world.live(), told(&world)), (3, 1));
}

fn refusals(world: &World) -> Vec<RefusalCode> {
    let cause = |notice: &SenderNotice| match notice {
        SenderNotice::Refused { cause, .. } => cause.map(|cause| cause.code),
        _ => None,
    };
    world.notices.iter().filter_map(|(_, notice)| cause(notice)).collect()
}

#[test]
fn a_refusal_that_stays_stops_the_sender() {
    for mode in [Sa1Mode::Require, Sa1Mode::Prefer] {
        for refusal in [
            Refusal::new(RefusalCode::KeyExpired, 1),
            Refusal::new(RefusalCode::Stream, 0),
            Refusal::version(),
        ] {
            let mut world = world(mode);
            world.receiver.sa1.refuse_hello = Some(refusal);
            three_links(&mut world);
            world.run_for(S);
            assert_eq!(world.sender.stopped_by(), Some(refusal));
            let sent = (world.sent_reg1.len(), world.sent_reg2.len());
            world.run_for(60 * S);
            assert_eq!((world.sent_reg1.len(), world.sent_reg2.len()), sent, "{mode:?} {refusal:?}");
            assert_eq!((world.live(), world.sender.counters().downgrades), (0, 0));
            assert!(world.sender.poll_timeout().is_none(), "nothing is left to do");
        }
    }
}

#[test]
fn a_refusal_that_passes_is_waited_for() {
    for code in
        [RefusalCode::Lockdown, RefusalCode::GroupLimit, RefusalCode::RateLimited, RefusalCode::Draining]
    {
        for is_join in [false, true] {
            let mut world = world(Sa1Mode::Require);
            let refusal = Some(Refusal::new(code, 7));
            let receiver = &mut world.receiver.sa1;
            *(if is_join { &mut receiver.refuse_join } else { &mut receiver.refuse_hello }) = refusal;
            three_links(&mut world);
            world.run_for(6 * S);
            assert_eq!(refusals(&world), [code; 3], "each link was refused and waits");
            assert_eq!(world.rebinds, 0);
            assert_eq!(world.sender.stopped_by(), None);
            (world.receiver.sa1.refuse_hello, world.receiver.sa1.refuse_join) = (None, None);
            let up = world.run_until_true(2 * S, |w| w.live() == 3).expect("never up") / MS;
            assert!(up >= 1000, "not before the 7 s are over");
        }
    }
}

/// The third link is one too many: the two others are not concerned.
#[test]
fn a_link_that_is_not_wanted_is_left_out() {
    for code in [RefusalCode::Address, RefusalCode::LinkLimit] {
        let mut world = world(Sa1Mode::Require);
        world.add_link(Path::new(20));
        world.add_link(Path::new(20));
        world.run_for(S);
        world.receiver.sa1.refuse_join = Some(Refusal::new(code, 0));
        world.add_link(Path::new(20));
        world.start_encoder(3.0);
        world.run_for(30 * S);
        assert_eq!((world.live(), world.rebinds), (2, 0));
        assert_eq!(refusals(&world), [code], "it is not tried again at once");
        assert_eq!(world.stats(2).state, LinkState::Idle);
        assert_eq!(world.stats(2).sent_packets, 0);
        world.receiver.sa1.refuse_join = None;
        world.run_for(32 * S);
        assert_eq!(world.live(), 3, "it is tried again after a minute");
    }
}

/// A link that streams is challenged anew after a hiccup and refused: what it has it keeps.
#[test]
fn a_refusal_does_not_end_the_links_that_are_up() {
    let mut world = streaming(Scheduler::Adaptive, 4.0);
    world.receiver.sa1.refuse_hello = Some(Refusal::new(RefusalCode::Stream, 0));
    let (index, now) = (world.stats(0).index, world.now());
    world.sender.handle_send_error(now, index);
    // No proof of life comes in time.
    world.drop_rule =
        Box::new(|_, link, up, bytes| link == 0 && !up && kind(bytes) != Some(PacketType::RegNak));
    world.run_for(5 * S);
    assert_eq!(refusals(&world), [RefusalCode::Stream]);
    assert!(world.sender.stopped_by().is_some());
    assert!(world.live() >= 2 && world.sender.is_up());
    assert_eq!(finish(&mut world), 0);
}

#[test]
fn a_key_that_demands_a_clock_gets_one() {
    for wall_ms in [0, WALL_MS - 3_600_000] {
        let mut key = key(Sa1Mode::Require, Instant::now());
        key.clock.wall_ms = wall_ms;
        let mut world = World::with_this_key(key, SenderConfig::default(), Manners::Sa1, 5);
        three_links(&mut world);
        world.run_for(S);
        assert_eq!(refusals(&world), [RefusalCode::ClockRequired; 3]);
        let at = world.now();
        world.sender.set_clock(WallClock { at, wall_ms: WALL_MS + world.now_us / MS });
        world.run_for(2 * S);
        assert_eq!(world.live(), 3);
    }
}

#[test]
fn flags_that_are_not_accepted_are_done_without_unless_required() {
    for accept in [Flags::NONE, Flags::KEEPALIVE_MAC, Flags::ACK_MAC] {
        for required in [Flags::NONE, Flags::KEEPALIVE_MAC, Flags::ACK_MAC] {
            let mut key = key(Sa1Mode::Require, Instant::now());
            key.credentials.required = required;
            let mut world = World::with_this_key(key, SenderConfig::default(), Manners::Sa1, 5);
            world.receiver.sa1.accept = accept;
            three_links(&mut world);
            world.run_for(S);
            if !accept.contains(required) {
                assert_eq!((world.live(), world.sender.is_registered()), (0, false));
                continue;
            }
            world.start_encoder(4.0);
            world.run_for(10 * S);
            assert_eq!((world.live(), world.rebinds), (3, 0));
            assert_eq!(
                world.sender.counters().dropped_for(bondgate_proto::sender::SenderDropReason::Unproven),
                0
            );
            assert!(world.sender.links().map(|link| link.acked_packets).sum::<u64>() > 3000);
            assert_eq!(finish(&mut world), 0);
        }
    }
}
