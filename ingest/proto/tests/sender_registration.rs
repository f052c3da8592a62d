//! Registration of the sender with stock and idempotent receivers, under every single loss, on a virtual clock.

mod sender_support;

use bondgate_proto::sender::{LinkState, Scheduler, SenderNotice};
use bondgate_proto::wire::PacketType;
use sender_support::*;

/// One way 20 ms: every round trip is 40 ms.
const RTT_MS: u64 = 40;

fn world(manners: Manners) -> World {
    World::new(Scheduler::Adaptive, manners, 5)
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
    (first, first + all)
}

#[test]
fn without_loss_all_links_are_up_after_two_round_trips() {
    for manners in [Manners::Stock, Manners::Idempotent] {
        let (first, all) = times(world(manners));
        assert!(first <= 2 * RTT_MS + 2 && all <= 2 * RTT_MS + 2, "{manners:?}: {first} {all}");
    }
}

#[test]
fn a_lost_reg1_costs_250_ms() {
    for manners in [Manners::Stock, Manners::Idempotent] {
        let mut world = world(manners);
        world.drop_rule = lose_nth(PacketType::Reg1, true, None, 0);
        let (first, all) = times(world);
        assert!(first <= 250 + 2 * RTT_MS + 2 && all <= first + 2, "{manners:?}: {first} {all}");
    }
}

#[test]
fn a_lost_reg2_answer_costs_250_ms_and_with_stock_receivers_a_refusal_and_a_fresh_socket() {
    let mut w = world(Manners::Idempotent);
    w.drop_rule = lose_nth(PacketType::Reg2, false, None, 0);
    let (first, all) = times(w);
    assert!(first <= 250 + 2 * RTT_MS + 2 && all <= first + 2, "{first} {all}");

    let mut w = world(Manners::Stock);
    w.drop_rule = lose_nth(PacketType::Reg2, false, None, 0);
    let (first, all) = times(w);
    // 250 ms until REG1 is repeated, one round trip for the refusal, two on the next link.
    assert!(first <= 250 + 3 * RTT_MS + 2, "{first}");
    assert!(all <= first + 2 * RTT_MS, "the refused link joins from a fresh socket: {all}");
}

#[test]
fn a_lost_join_or_reg3_delays_that_link_by_200_ms_only() {
    for manners in [Manners::Stock, Manners::Idempotent] {
        for link in 0..3 {
            // The first REG2 of links 1 and 2 is their probe, the next their join.
            for (what, up, nth) in
                [(PacketType::Reg2, true, usize::from(link > 0)), (PacketType::Reg3, false, 0)]
            {
                let mut world = world(manners);
                world.drop_rule = lose_nth(what, up, Some(link), nth);
                let (first, all) = times(world);
                assert!(first <= 2 * RTT_MS + 2, "{manners:?} {what:?} {link}: {first}");
                assert!(
                    (200..=200 + 2 * RTT_MS + 2).contains(&all),
                    "{manners:?} {what:?} {link}: all after {all}"
                );
            }
        }
    }
}

#[test]
fn any_single_lost_datagram_is_repaired_quickly() {
    for manners in [Manners::Stock, Manners::Idempotent] {
        for nth in 0..30 {
            let mut world = world(manners);
            let mut seen = 0;
            world.drop_rule = Box::new(move |_, _, _, _| {
                seen += 1;
                seen == nth + 1
            });
            let (first, all) = times(world);
            assert!(first <= 250 + 3 * RTT_MS + 2, "{manners:?} datagram {nth}: up after {first} ms");
            assert!(all <= 250 + 5 * RTT_MS + 2, "{manners:?} datagram {nth}: all up after {all} ms");
        }
    }
}

#[test]
fn any_two_lost_datagrams_are_repaired() {
    for manners in [Manners::Stock, Manners::Idempotent] {
        for a in 0..16 {
            for b in a + 1..24 {
                let mut world = world(manners);
                let mut seen = 0;
                world.drop_rule = Box::new(move |_, _, _, _| {
                    seen += 1;
                    seen == a + 1 || seen == b + 1
                });
                let (first, all) = times(world);
                assert!(first <= 1000, "{manners:?} {a} {b}: up after {first} ms");
                assert!(all <= 2500, "{manners:?} {a} {b}: all up after {all} ms");
            }
        }
    }
}

#[test]
fn one_link_alone_gets_a_fresh_socket_when_a_stock_receiver_refuses_the_repetition() {
    let mut world = world(Manners::Stock);
    world.drop_rule = lose_nth(PacketType::Reg2, false, None, 0);
    world.add_link(Path::new(RTT_MS / 2));
    let up = world.run_until_true(5 * S, |w| w.live() == 1).expect("never up") / MS;
    assert!(up <= 250 + 3 * RTT_MS + 5, "{up}");
    assert_eq!(world.rebinds, 1);
}

#[test]
fn a_dead_first_link_does_not_hold_up_the_others() {
    for manners in [Manners::Stock, Manners::Idempotent] {
        let mut world = world(manners);
        let mut dead = Path::new(20);
        dead.blackhole = true;
        world.add_link(dead);
        world.add_link(Path::new(20));
        world.add_link(Path::new(20));
        let up = world.run_until_true(5 * S, |w| w.live() == 2).expect("never up") / MS;
        assert!(up <= 500 + 2 * RTT_MS + 2, "the probes showed that others work: {up}");
        // The dead link wakes up.
        world.path(0).blackhole = false;
        let joined =
            world.run_until_true(3 * S, |w| w.live() == 3).expect("the woken link never joined") / MS;
        assert!(joined <= 1000 + 2 * RTT_MS, "{joined}");
    }
}

#[test]
fn a_satellite_round_trip_is_not_mistaken_for_refusals() {
    let mut world = world(Manners::Stock);
    for _ in 0..3 {
        world.add_link(Path::new(300));
    }
    let all = world.run_until_true(10 * S, |w| w.live() == 3).expect("never up") / MS;
    assert!(all <= 2500, "{all}");
    world.run_for(5 * S);
    assert_eq!(world.live(), 3);
    assert_eq!(world.receiver.groups_with_members(), 1);
}

#[test]
fn an_absent_receiver_is_found_within_three_seconds_of_its_return() {
    for manners in [Manners::Stock, Manners::Idempotent] {
        let mut world = world(manners);
        world.receiver.is_down = true;
        three_links(&mut world);
        world.run_for(30 * S);
        assert!(world.sent_reg1.len() < 60, "{} REG1 in 30 s", world.sent_reg1.len());
        world.receiver.is_down = false;
        let up = world.run_until_true(5 * S, |w| w.live() == 3).expect("never up") / MS;
        assert!(up <= 3000, "{manners:?}: {up}");
    }
}

#[test]
fn links_added_later_join_by_reg2_alone() {
    let mut world = world(Manners::Stock);
    world.add_link(Path::new(20));
    world.run_for(S);
    let reg1 = world.sent_reg1.len();
    world.add_link(Path::new(20));
    let up = world.run_until_true(S, |w| w.live() == 2).expect("never joined") / MS;
    assert!(up <= RTT_MS + 1, "{up}");
    assert_eq!(world.sent_reg1.len(), reg1);
}

#[test]
fn registration_moves_on_when_its_link_is_removed() {
    let mut world = world(Manners::Stock);
    world.drop_rule = lose_nth(PacketType::Reg1, true, Some(0), 0);
    three_links(&mut world);
    let index = world.stats(0).index;
    let now = world.now();
    world.sender.remove_link(now, index, &mut world.out);
    world.act();
    let up = world.run_until_true(S, |w| w.live() == 2).expect("never up") / MS;
    assert!(up <= 2 * RTT_MS + 2, "{up}");
}

#[test]
fn an_idempotent_receiver_that_restarted_is_joined_by_the_old_id_without_reg1() {
    let mut world = world(Manners::Idempotent);
    three_links(&mut world);
    world.run_for(S);
    world.start_encoder(4.0);
    world.run_for(2 * S);
    let reg1 = world.sent_reg1.len();
    world.receiver.forget_groups();
    let restarted_us = world.now_us;
    world.run_for(2 * S);
    assert_eq!(world.live(), 3);
    assert_eq!(world.sent_reg1.len(), reg1, "the old ID was enough");
    let gap = world.longest_gap_us(restarted_us, world.now_us) / MS;
    assert!(gap <= 450, "{gap} ms without video");
    world.stop_encoder();
    world.run_for(2 * S);
    assert_eq!(world.lost_payloads(), 0);
}

#[test]
fn a_stock_receiver_that_restarted_gets_reg1_as_soon_as_it_says_ngp() {
    let mut world = world(Manners::Stock);
    three_links(&mut world);
    world.run_for(S);
    world.start_encoder(4.0);
    world.run_for(2 * S);
    world.receiver.forget_groups();
    let restarted_us = world.now_us;
    world.run_for(3 * S);
    assert_eq!(world.live(), 3);
    assert!(world.notices.iter().any(|(_, n)| matches!(n, SenderNotice::GroupLost { .. })));
    assert_eq!(world.receiver.groups_with_members(), 1);
    let gap = world.longest_gap_us(restarted_us, world.now_us) / MS;
    assert!(gap <= 600, "{gap} ms without video");
    world.stop_encoder();
    world.run_for(2 * S);
    assert_eq!(world.lost_payloads(), 0);
}

#[test]
fn a_receiver_away_for_three_seconds_is_found_again() {
    for manners in [Manners::Stock, Manners::Idempotent] {
        let mut world = world(manners);
        three_links(&mut world);
        world.run_for(S);
        world.start_encoder(4.0);
        world.run_for(2 * S);
        world.receiver.is_down = true;
        world.receiver.forget_groups();
        world.run_for(3 * S);
        world.receiver.is_down = false;
        let up = world.run_until_true(3 * S, |w| w.live() == 3).expect("never up") / MS;
        assert!(up <= 1500, "{manners:?}: {up}");
        assert_eq!(world.receiver.groups_with_members(), 1);
    }
}

#[test]
fn stray_refusals_and_ngps_do_not_shake_a_running_group() {
    let mut world = world(Manners::Stock);
    three_links(&mut world);
    world.run_for(S);
    world.start_encoder(4.0);
    world.run_for(S);
    let (reg1, index) = (world.sent_reg1.len(), world.stats(1).index);
    for word in [0x9210u16, 0x9212, 0x9211, 0x9300, 0xA001, 0xBEEF] {
        let now = world.now();
        let verdict = world.sender.handle_link(now, index, &word.to_be_bytes(), &mut world.out);
        assert_eq!(verdict, bondgate_proto::sender::SenderVerdict::Consumed);
        world.act();
        world.run_for(500 * MS);
    }
    assert_eq!((world.sent_reg1.len(), world.rebinds), (reg1, 0));
    assert!(world.sender.links().all(|l| l.state == LinkState::Live));
}

#[test]
fn a_reg2_with_another_first_half_is_not_adopted() {
    let mut world = world(Manners::Stock);
    world.receiver.is_down = true;
    let link = world.add_link(Path::new(20));
    let index = world.stats(link).index;
    let mut foreign = [0xAA; 258];
    foreign[..2].copy_from_slice(&0x9201u16.to_be_bytes());
    let now = world.now();
    let verdict = world.sender.handle_link(now, index, &foreign, &mut world.out);
    assert!(matches!(verdict, bondgate_proto::sender::SenderVerdict::Drop(_)));
    assert!(!world.sender.is_registered());
}
