//! Downlink traffic: which links it goes to and what it may cost.

use crate::rig::*;
use bondgate_proto::receiver::{DropReason, ReceiverConfig, Verdict};

#[test]
fn ack_and_nak_go_to_every_live_link_the_rest_to_the_newest_source() {
    let mut rig = Rig::new();
    let group = rig.register(&half(1), &[link(0), link(1), link(2)]);
    rig.open_session(group, link(0), 11, 22, 100);
    for (n, seq) in [(0, 99), (2, 100), (1, 101), (1, 102)] {
        rig.feed(link(n), &data(seq, 22));
    }
    let all = vec![link(0), link(1), link(2)];
    assert_eq!(rig.fan_out(group, &srt_ack(1, 101, 11)), all);
    assert_eq!(rig.fan_out(group, &srt_light_ack(101, 11)), all);
    assert_eq!(rig.fan_out(group, &srt_nak(&[100], 11)), all);
    for one in [
        control(1, 0, 11),
        control(5, 0, 11),
        control(6, 3, 11),
        control(7, 3, 11),
        conclusion_answer(11, 22),
        data(5, 11),
    ] {
        assert_eq!(rig.one_link(group, &one), Some(link(1)));
    }
}

#[test]
fn keepalives_do_not_move_the_newest_source() {
    let mut rig = Rig::new();
    let group = rig.register(&half(1), &[link(0), link(1)]);
    rig.open_session(group, link(0), 11, 22, 100);
    rig.feed(link(1), &keepalive(10));
    rig.feed(link(1), &reg2(&with_ticket(&half(1), EPOCH)));
    assert_eq!(rig.one_link(group, &control(1, 0, 11)), Some(link(0)));
}

#[test]
fn implausible_packets_are_forwarded_but_do_not_attract_return_traffic() {
    let mut rig = Rig::new();
    let group = rig.register(&half(1), &[link(0), link(1)]);
    rig.open_session(group, link(0), 11, 22, 100);
    rig.feed(link(0), &data(100, 22));
    assert_eq!(rig.up(link(1), &data(1_000_000, 22)).0, Verdict::Forward(group));
    assert_eq!(rig.one_link(group, &control(1, 0, 11)), Some(link(0)));
    // A session whose numbers really jumped is followed after a while.
    for seq in 2_000_000..2_000_100 {
        rig.feed(link(1), &data(seq, 22));
    }
    assert_eq!(rig.one_link(group, &control(1, 0, 11)), Some(link(1)));
}

#[test]
fn the_number_wrap_is_plausible() {
    let mut rig = Rig::new();
    let group = rig.register(&half(1), &[link(0), link(1)]);
    rig.open_session(group, link(0), 11, 22, 0x7FFF_FFF0);
    for (i, seq) in (0x7FFF_FFF0u32..0x8000_0010).enumerate() {
        let from = link(i as u16 % 2);
        rig.feed(from, &data(seq & 0x7FFF_FFFF, 22));
        assert_eq!(rig.one_link(group, &control(1, 0, 11)), Some(from));
    }
}

#[test]
fn links_silent_for_three_seconds_get_no_copies() {
    let mut rig = Rig::new();
    let group = rig.register(&half(1), &[link(0), link(1)]);
    rig.open_session(group, link(0), 11, 22, 100);
    rig.feed(link(1), &data(100, 22));
    rig.feed(link(0), &data(101, 22));
    rig.advance(ms(3000));
    rig.feed(link(1), &keepalive(2));
    assert_eq!(rig.fan_out(group, &srt_ack(1, 101, 11)), [link(0), link(1)]);
    rig.advance(ms(1));
    assert_eq!(rig.fan_out(group, &srt_ack(1, 101, 11)), [link(1)]);
    assert_eq!(
        rig.one_link(group, &control(1, 0, 11)),
        Some(link(1)),
        "the newest source is stale, this one is not"
    );
    rig.advance(ms(3000));
    assert_eq!(rig.down(group, &srt_ack(1, 101, 11)), Verdict::Drop(DropReason::NoLiveLink));
    assert_eq!(
        rig.one_link(group, &control(5, 0, 11)),
        Some(link(0)),
        "one packet to a link that may be dead"
    );
    rig.advance(ms(10_000));
    assert_eq!(rig.down(group, &control(5, 0, 11)), Verdict::Drop(DropReason::NoLiveLink));
}

#[test]
fn the_newest_source_is_inherited_when_its_link_goes() {
    let mut rig = Rig::new();
    let group = rig.register(&half(1), &[link(0), link(1), link(2)]);
    rig.open_session(group, link(0), 11, 22, 100);
    rig.feed(link(2), &data(101, 22));
    rig.advance(ms(100));
    rig.feed(link(1), &data(102, 22));
    rig.advance(ms(9_900));
    rig.feed(link(2), &keepalive(2));
    rig.advance(ms(1));
    rig.feed(link(0), &keepalive(2));
    rig.advance(ms(300));
    assert_eq!(rig.members(group), [link(0), link(2)]);
    assert_eq!(rig.one_link(group, &control(1, 0, 11)), Some(link(2)), "by SRT, not by keepalive");
}

/// A ticket can be shown from a forged address, so what a link is sent is bound to what it carries.
#[test]
fn a_link_that_carries_nothing_is_not_a_reflection_target() {
    let mut rig = Rig::new();
    let group = rig.register(&half(1), &[link(0), link(1)]);
    rig.open_session(group, link(0), 11, 22, 0);
    let nak: Vec<u32> = (0..300).map(|n| 2 * n).collect();
    let nak = srt_nak(&nak, 11);
    let mut sent = 0;
    let mut came = 0;
    for seq in 0..5_000 {
        rig.feed(link(0), &data(seq, 22));
        if seq % 100 == 0 {
            came += 2;
            rig.feed(link(1), &keepalive(2));
        }
        if rig.fan_out(group, &nak).contains(&link(1)) {
            sent += nak.len();
        }
        rig.advance(ms(2));
    }
    assert!(sent <= 258 + came, "{sent}");
    // As soon as it carries data it is served again.
    rig.feed(link(1), &data(5_000, 22));
    assert!(rig.fan_out(group, &nak).contains(&link(1)));
}

#[test]
fn saved_credit_is_capped() {
    let config = ReceiverConfig { credit_cap_bytes: 10_000, ..ReceiverConfig::default() };
    let mut rig = Rig::with(config);
    let group = rig.register(&half(1), &[link(0)]);
    rig.open_session(group, link(0), 11, 22, 0);
    for seq in 0..1000 {
        rig.feed(link(0), &data(seq, 22));
    }
    let ack = srt_ack(1, 5, 11);
    let mut sent = 0;
    while rig.down(group, &ack) == Verdict::FanOut(group) {
        sent += ack.len();
    }
    assert!((9_000..=10_000).contains(&sent), "{sent}");
    assert_eq!(rig.down(group, &ack), Verdict::Drop(DropReason::NoCredit));
    assert_eq!(rig.down(group, &conclusion_answer(11, 22)), Verdict::Drop(DropReason::NoCredit));
}

#[test]
fn the_path_of_the_last_forward_is_known() {
    let mut rig = Rig::new();
    let group = rig.register(&half(1), &[link(0), link(1)]);
    assert_eq!(rig.receiver.last_link(), None);
    assert_eq!(rig.up(link(1), &data(1, 9)).0, Verdict::Forward(group));
    let last = rig.receiver.last_link().unwrap();
    assert_eq!((rig.receiver.link_addr(last), rig.receiver.link_index(last)), (Some(link(1)), Some(1)));
}

/// Once the server has accepted a handshake, nothing passes that is for another socket.
#[test]
fn packets_for_other_sockets_do_not_pass() {
    let mut rig = Rig::new();
    let group = rig.register(&half(1), &[link(0), link(1)]);
    rig.open_session(group, link(0), 11, 22, 100);
    let foreign = Verdict::Drop(DropReason::ForeignSocket);
    for odd in [data(100, 23), data(100, 0), control(6, 1, 23), control(5, 0, 0), srt_ack(1, 100, 23)] {
        assert_eq!(rig.up(link(1), &odd).0, foreign);
        assert_eq!(rig.down(group, &odd), foreign);
    }
    assert_eq!(rig.up(link(1), &handshake(0xFFFF_FFFF, 11, 100, 23)).0, foreign);
    for good in [data(100, 22), control(5, 0, 22), induction(11), induction(77), conclusion(77, 5)] {
        assert_eq!(rig.up(link(0), &good).0, Verdict::Forward(group));
    }
    for good in [control(5, 0, 11), handshake(1, 77, 0, 77), handshake(1002, 5, 0, 77)] {
        assert_eq!(rig.one_link(group, &good), Some(link(0)));
    }
    assert_eq!(rig.down(group, &control(1, 0, 77)), foreign, "77 only knocks");
}
