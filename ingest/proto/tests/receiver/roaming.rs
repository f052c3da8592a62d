//! Links that change their address without saying so.

use crate::rig::*;
use bondgate_proto::GroupKey;
use bondgate_proto::receiver::{Actions, Command, DropReason, Notice, ReceiverConfig, Verdict};

fn streaming(rig: &mut Rig) -> GroupKey {
    let group = rig.register(&half(1), &[link(0), link(1)]);
    rig.open_session(group, link(0), 11, 22, 1000);
    for seq in 1000..1100 {
        rig.feed(link(0), &data(seq, 22));
        rig.feed(link(1), &data(seq, 22));
    }
    group
}

#[test]
fn data_from_a_new_address_is_followed_at_once() {
    let mut rig = Rig::new();
    let group = streaming(&mut rig);
    let (verdict, did) = rig.up(link(30), &data(1100, 22));
    assert_eq!(verdict, Verdict::Forward(group));
    assert!(
        notices(&did)
            .iter()
            .any(|n| matches!(n, Notice::LinkJoined { addr, roamed: true, .. } if *addr == link(30)))
    );
    assert!(replies(&did).is_empty(), "no registration packet was asked for");
    assert!(matches!(rig.up(link(30), &keepalive(10)).0, Verdict::ToLink(_)), "now it is a member");
    assert_eq!(rig.receiver.counters().links_roamed, 1);
    // Without room to tell about it nothing is adopted.
    let verdict =
        rig.receiver.handle_uplink(rig.now, link(31), &data(1101, 22), &mut Actions::with_capacity(0, 0));
    assert_eq!(verdict, Verdict::Drop(DropReason::NotMember));
}

#[test]
fn all_links_rebound_at_once_the_stream_goes_on() {
    let mut rig = Rig::new();
    let group = streaming(&mut rig);
    rig.advance(ms(700));
    let mut acknowledged = 0;
    for seq in 1100..1400 {
        let from = link(30 + (seq % 2) as u16);
        let (verdict, did) = rig.up(from, &data(seq, 22));
        assert_eq!(verdict, Verdict::Forward(group));
        for (to, bytes) in replies(&did).into_iter().chain(replies(&rig.advance(ms(2)))) {
            if bytes == reg3() {
                continue; // the old addresses are silent and might have missed theirs
            }
            assert!([link(30), link(31)].contains(&to));
            acknowledged += (bytes.len() - 4) / 4;
        }
    }
    acknowledged +=
        replies(&rig.advance(ms(30))).iter().map(|(_, bytes)| (bytes.len() - 4) / 4).sum::<usize>();
    assert_eq!(acknowledged, 300, "every packet is acknowledged to the new addresses");
    let newest = rig.one_link(group, &control(1, 0, 11)).unwrap();
    assert!([link(30), link(31)].contains(&newest));
    rig.advance(ms(2500));
    assert!(rig.fan_out(group, &srt_ack(1, 1400, 11)).starts_with(&[link(30), link(31)]));
}

#[test]
fn a_link_on_probation_gets_no_more_than_it_brought_and_copies_only() {
    let mut rig = Rig::new();
    let group = streaming(&mut rig);
    let needed = u32::from(rig.receiver.config().probation_packets);
    let mut brought = 0;
    let mut got = 0;
    let mut copies = 0;
    for seq in 0..needed {
        rig.advance(ms(1));
        let packet = data(1100 + seq, 22)[..40].to_vec();
        brought += packet.len();
        got += replies(&rig.up(link(30), &packet).1).iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
        for _ in 0..10 {
            let ack = srt_ack(1, 1100, 11);
            if rig.fan_out(group, &ack).contains(&link(30)) {
                got += ack.len();
            }
        }
        let answer = control(1, 0, 11);
        let to = rig.fan_out(group, &answer);
        assert!(
            to.iter().any(|&to| to != link(30)),
            "what belongs to one link still goes to the newest source"
        );
        if to.contains(&link(30)) {
            got += answer.len();
            copies += 1;
        }
        assert!(got <= brought, "{got} > {brought}");
    }
    assert!(copies > 0, "and, within its credit, to where that source may have moved");
    rig.feed(link(30), &data(1100 + needed, 22));
    assert_eq!(rig.one_link(group, &control(1, 0, 11)), Some(link(30)), "enough plausible packets");
}

#[test]
fn a_join_ends_probation() {
    let mut rig = Rig::new();
    let group = streaming(&mut rig);
    rig.feed(link(30), &data(1100, 22));
    let (_, did) = rig.up(link(30), &reg2(&with_ticket(&half(1), EPOCH)));
    assert_eq!(replies(&did), [(link(30), reg3())]);
    rig.feed(link(30), &data(1101, 22));
    assert_eq!(rig.one_link(group, &control(1, 0, 11)), Some(link(30)));
}

#[test]
fn what_does_not_fit_is_not_adopted() {
    let mut rig = Rig::new();
    let group = streaming(&mut rig);
    let far = 1099 + rig.receiver.config().seq_window + 1;
    for bytes in [
        data(1100, 23),
        data(1100, 0),
        data(far, 22),
        data(0x7FFF_0000, 22),
        control(6, 1, 22),
        control(1, 0, 22),
        keepalive(10),
        induction(11),
    ] {
        assert_eq!(rig.up(link(30), &bytes).0, Verdict::Drop(DropReason::NotMember));
    }
    assert_eq!(
        rig.up(link(30), &data(1099 + rig.receiver.config().seq_window, 22)).0,
        Verdict::Forward(group)
    );
}

#[test]
fn an_ambiguous_socket_id_is_not_followed() {
    let mut rig = Rig::new();
    streaming(&mut rig);
    let other = rig.register(&half(2), &[link(9)]);
    rig.open_session(other, link(9), 12, 22, 1000);
    rig.feed(link(9), &data(1000, 22));
    assert_eq!(rig.up(link(30), &data(1100, 22)).0, Verdict::Drop(DropReason::NotMember));
    // When one of the two is gone, the other is unique again.
    rig.receiver.handle_command(rig.now, Command::CloseGroup(other), &mut rig.out);
    assert!(matches!(rig.up(link(30), &data(1100, 22)).0, Verdict::Forward(_)));
}

#[test]
fn groups_that_closed_leave_no_socket_id_behind() {
    let config = ReceiverConfig { groups_max: 2, ..ReceiverConfig::default() };
    let mut rig = Rig::with(config);
    for _ in 0..10 {
        let group = streaming(&mut rig);
        rig.receiver.handle_command(rig.now, Command::CloseGroup(group), &mut rig.out);
        rig.take();
        assert_eq!(rig.up(link(30), &data(1100, 22)).0, Verdict::Drop(DropReason::NotMember));
    }
    let group = streaming(&mut rig);
    assert_eq!(rig.up(link(30), &data(1100, 22)).0, Verdict::Forward(group));
}

#[test]
fn only_a_dead_link_gives_way_to_a_roaming_one() {
    let config = ReceiverConfig { links_per_group_max: 2, ..ReceiverConfig::default() };
    let mut rig = Rig::with(config);
    let group = streaming(&mut rig);
    rig.advance(ms(2000));
    rig.feed(link(1), &data(1100, 22));
    assert_eq!(rig.up(link(30), &data(1100, 22)).0, Verdict::Drop(DropReason::NotMember));
    rig.advance(ms(1001));
    assert_eq!(rig.up(link(30), &data(1100, 22)).0, Verdict::Forward(group));
    assert_eq!(rig.members(group), [link(30), link(1)]);
}

#[test]
fn roaming_can_be_switched_off() {
    let config = ReceiverConfig { roaming: false, ..ReceiverConfig::default() };
    let mut rig = Rig::with(config);
    streaming(&mut rig);
    assert_eq!(rig.up(link(30), &data(1100, 22)).0, Verdict::Drop(DropReason::NotMember));
}
