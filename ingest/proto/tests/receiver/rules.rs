//! The receiver's own promises, one test each.

use crate::rig::*;
use bondgate_proto::LinkAddr;
use bondgate_proto::receiver::{
    Action, Actions, Admission, AdmitPolicy, Cidr, CloseReason, Command, DropReason, GroupProof, Limits,
    Notice, PrefixSet, Rate, ReceiverConfig, StockAdmission, Verdict,
};
use std::sync::Arc;

#[test]
fn r01_a_hundred_thousand_reg1_leave_no_trace() {
    let unlimited = Rate { per_s: 1_000_000, burst: 1_000_000 };
    let limits = Limits { stock: unlimited, ..Limits::default() };
    let config = ReceiverConfig { ngp_rate: unlimited, ..ReceiverConfig::default() };
    let mut rig = Rig::admitting(config, Admission { limits, ..Admission::open() });
    for n in 0..100_000u32 {
        let mut id = [0; 256];
        id[..4].copy_from_slice(&n.to_be_bytes());
        let from = LinkAddr::new((std::net::Ipv4Addr::from(0x0A00_0000 + n), 5000).into());
        rig.feed(from, &reg2(&id));
        assert_eq!(rig.up(from, &reg1(&id)).0, Verdict::Consumed);
    }
    assert_eq!(rig.groups(), 0);
    rig.register(&half(1), &[link(0), link(1), link(2)]);
    rig.advance(ms(900));
    let repeated = rig.receiver.counters().reg2_repeated as usize;
    assert!(repeated > 0 && repeated <= rig.receiver.config().pending_max, "{repeated}");
}

#[test]
fn r02_no_refusal_is_ever_sent() {
    let config = ReceiverConfig { groups_max: 2, links_per_group_max: 2, ..ReceiverConfig::default() };
    let mut rig = Rig::with(config);
    let mut dice = Dice(3);
    let mut seen = 0;
    for step in 0..20_000u32 {
        let from = link(dice.below(12) as u16);
        let h = half(dice.below(5) as u8);
        let bytes = match dice.below(6) {
            0 => reg1(&probe_id(h[0])),
            1 => reg2(&with_ticket(&h, EPOCH)),
            2 => reg2(&probe_id(h[0])),
            3 => keepalive(10),
            _ => data(step, 7),
        };
        let mut did = rig.up(from, &bytes).1;
        did.extend(rig.advance(ms(dice.below(400) as u64)));
        for (_, bytes) in replies(&did) {
            let head = u16::from_be_bytes([bytes[0], bytes[1]]);
            assert!(matches!(head, 0x9100 | 0x9201 | 0x9202 | 0x9211), "{head:04x}");
            seen |= 1 << [0x9100, 0x9201, 0x9202, 0x9211].iter().position(|&known| known == head).unwrap();
        }
    }
    assert_eq!(seen, 0b1111, "every kind of reply occurred");
}

#[test]
fn r03_reg2_is_repeated_once_after_150_ms_if_no_join_came() {
    let mut rig = Rig::new();
    // A sender that did not probe has not earned a second answer.
    rig.feed(link(0), &reg1(&probe_id(1)));
    assert!(rig.advance(ms(10_000)).is_empty());
    rig.feed(link(0), &reg2(&probe_id(2)));
    let (_, did) = rig.up(link(0), &reg1(&probe_id(1)));
    let answer = replies(&did)[0].clone();
    let start = rig.now;
    let did = rig.advance_timed(ms(10_000));
    assert_eq!(did.len(), 1);
    assert_eq!(did[0], (start + ms(150), Action::Reply { to: link(0) }, answer.1.clone()));
    assert_eq!(rig.receiver.poll_timeout(), None);
    // With a join in time there is no repetition; a link that says REG1 twice gets one.
    rig.feed(link(0), &reg2(&probe_id(2)));
    rig.feed(link(0), &reg1(&probe_id(1)));
    rig.advance(ms(100));
    rig.feed(link(0), &reg1(&probe_id(1)));
    rig.advance(ms(100));
    rig.feed(link(0), &reg2(&answer.1[2..].try_into().unwrap()));
    rig.feed(link(0), &keepalive(2));
    assert!(replies(&rig.advance(ms(5000))).is_empty());
    assert_eq!(rig.receiver.counters().reg2_repeated, 1);
}

#[test]
fn r04_reg3_is_repeated_to_silent_members_only() {
    let mut rig = Rig::new();
    rig.register(&half(1), &[link(0), link(1), link(2)]);
    let start = rig.now;
    rig.advance(ms(500));
    rig.feed(link(0), &keepalive(2));
    rig.feed(link(1), &data(5, 9));
    let mut times = [const { Vec::new() }; 3];
    for (at, action, bytes) in rig.advance_timed(ms(9_000)) {
        for (number, times) in times.iter_mut().enumerate() {
            if action == (Action::Reply { to: link(number as u16) }) && bytes == reg3() {
                times.push(at - start);
            }
        }
    }
    let [alive, carried, silent] = times;
    assert!(alive.is_empty(), "a keepalive says that the link knows of its registration");
    assert_eq!(silent, [ms(1000), ms(2000), ms(3000), ms(4000), ms(5000)]);
    assert_eq!(carried, [ms(2000), ms(3000), ms(4000), ms(5000), ms(6000)], "never while it is talking");
}

#[test]
fn r04_a_join_repeated_by_its_sender_is_answered_again() {
    let mut rig = Rig::new();
    let group = rig.register(&half(1), &[link(0)]);
    rig.advance(ms(900));
    let (verdict, did) = rig.up(link(0), &reg2(&with_ticket(&half(1), EPOCH)));
    assert_eq!((verdict, replies(&did)), (Verdict::Consumed, vec![(link(0), reg3())]));
    assert_eq!(rig.members(group), [link(0)]);
    assert!(rig.advance(ms(999)).is_empty(), "the silence counts from the last answer");
    assert_eq!(replies(&rig.advance(ms(1))), [(link(0), reg3())]);
}

#[test]
fn r05_ghost_groups_give_way_when_the_table_is_full() {
    let config = ReceiverConfig { groups_max: 3, ..ReceiverConfig::default() };
    let mut rig = Rig::with(config);
    let carrying = rig.register(&half(1), &[link(0)]);
    rig.feed(link(0), &data(1, 9));
    rig.advance(ms(10));
    let ghost = rig.register(&half(2), &[link(1)]);
    rig.advance(ms(10));
    let younger = rig.register(&half(3), &[link(2)]);
    let (_, did) = rig.up(link(3), &reg2(&with_ticket(&half(4), EPOCH)));
    assert!(notices(&did).contains(&Notice::GroupClosed { group: ghost, reason: CloseReason::Evicted }));
    assert_eq!(rig.members(carrying), [link(0)]);
    assert_eq!(rig.members(younger), [link(2)]);
    // Groups that all carry data are never pushed out while they have links.
    rig.feed(link(2), &data(1, 9));
    rig.feed(link(3), &data(1, 9));
    let (verdict, did) = rig.up(link(4), &reg2(&with_ticket(&half(5), EPOCH)));
    assert_eq!((verdict, did), (Verdict::Drop(DropReason::GroupTableFull), vec![]));
}

#[test]
fn r05_a_group_lingers_after_its_last_link() {
    let mut rig = Rig::new();
    let carried = rig.register(&half(1), &[link(0)]);
    rig.feed(link(0), &data(1, 9));
    let ghost = rig.register(&half(2), &[link(1)]);
    let start = rig.now;
    let closed: Vec<_> = rig
        .advance_timed(ms(60_000))
        .into_iter()
        .filter_map(|(at, action, _)| match action {
            Action::Notice(Notice::GroupClosed { group, reason }) => Some((at - start, group, reason)),
            Action::CloseForwarder(group) => Some((at - start, group, CloseReason::Timeout)),
            _ => None,
        })
        .collect();
    // 10.1 s for the links, then 5 s for the ghost (no forwarder to close) and 30 s for the other.
    assert_eq!(
        closed,
        [
            (ms(15_100), ghost, CloseReason::Timeout),
            (ms(40_100), carried, CloseReason::Timeout),
            (ms(40_100), carried, CloseReason::Timeout),
        ]
    );
    assert_eq!(rig.receiver.poll_timeout(), None, "nothing is left to wait for");
}

#[test]
fn r05_a_link_that_comes_back_finds_its_group_and_forwarder() {
    let mut rig = Rig::new();
    let group = rig.register(&half(1), &[link(0)]);
    let (_, did) = rig.up(link(0), &data(1, 9));
    assert!(did.contains(&(Action::OpenForwarder(group), vec![])));
    rig.advance(ms(30_000));
    assert!(rig.members(group).is_empty());
    let (_, did) = rig.up(link(7), &reg2(&with_ticket(&half(1), EPOCH)));
    assert_eq!(replies(&did), [(link(7), reg3())]);
    assert_eq!(rig.group_of(link(7)), Some(group));
    let (verdict, did) = rig.up(link(7), &data(2, 9));
    assert_eq!((verdict, did), (Verdict::Forward(group), vec![]), "the same forwarder is still open");
    let mut heard = 0;
    for _ in 0..10 {
        rig.advance(ms(9_000));
        heard += u32::from(matches!(rig.up(link(7), &keepalive(2)).0, Verdict::ToLink(_)));
    }
    assert_eq!((heard, rig.groups()), (10, 1), "the linger time was called off");
}

#[test]
fn r06_a_restarted_receiver_takes_its_senders_back_in_one_round_trip() {
    let mut rig = Rig::new();
    rig.register(&half(1), &[link(0), link(1)]);
    let mut rig = rig.restarted();
    for n in [0, 1] {
        let (verdict, did) = rig.up(link(n), &reg2(&with_ticket(&half(1), EPOCH)));
        assert_eq!((verdict, replies(&did)), (Verdict::Consumed, vec![(link(n), reg3())]));
    }
    assert_eq!(rig.groups(), 1);
}

#[test]
fn r07_a_change_of_epoch_does_not_split_a_group() {
    let mut rig = Rig::new();
    let group = rig.register(&half(1), &[link(0)]);
    for (n, epoch) in [(1, EPOCH + 1), (2, EPOCH + 2), (3, EPOCH + 50)] {
        rig.receiver.handle_command(rig.now, Command::SetEpoch(epoch), &mut rig.out);
        rig.feed(link(0), &keepalive(2));
        // The old ID keeps working while the group lives, and REG1 answers with it.
        let (_, did) = rig.up(link(n), &reg2(&with_ticket(&half(1), EPOCH)));
        assert_eq!(replies(&did), [(link(n), reg3())]);
        assert_eq!(replies(&rig.up(link(9), &reg1(&probe_id(1))).1)[0].1[2..], with_ticket(&half(1), EPOCH));
        // So does a ticket of the present epoch, should somebody hold one.
        let (_, did) = rig.up(link(n + 10), &reg2(&with_ticket(&half(1), epoch)));
        assert_eq!(replies(&did), [(link(n + 10), reg3())]);
    }
    assert_eq!(rig.groups(), 1);
    assert_eq!(rig.members(group).len(), 7);
    // Once the group is gone the old ID is an unknown one.
    rig.advance(ms(60_000));
    assert_eq!(replies(&rig.up(link(0), &reg2(&with_ticket(&half(1), EPOCH))).1), [(link(0), ngp())]);
}

#[test]
fn r08_a_forged_ticket_joins_nothing() {
    let mut rig = Rig::new();
    let group = rig.register(&half(1), &[link(0)]);
    for bit in [0usize, 1023, 1024, 1030, 1040, 1055, 1056, 1087, 1500, 1800, 2047] {
        let mut id = with_ticket(&half(1), EPOCH);
        id[bit / 8] ^= 0x80 >> (bit % 8);
        let (_, did) = rig.up(link(5), &reg2(&id));
        assert_eq!(replies(&did), [(link(5), ngp())], "bit {bit}");
    }
    assert_eq!(rig.members(group), [link(0)]);
    assert_eq!(rig.groups(), 1);
}

#[test]
fn r09_partial_acks_are_flushed_after_30_ms_and_never_padded() {
    let mut rig = Rig::new();
    rig.register(&half(1), &[link(0), link(1)]);
    rig.feed(link(0), &data(100, 9));
    rig.advance(ms(20));
    rig.feed(link(0), &data(101, 9));
    rig.feed(link(1), &data(102, 9));
    let start = rig.now;
    let did: Vec<_> = rig
        .advance_timed(ms(100))
        .into_iter()
        .map(|(at, action, bytes)| (at - start, action, bytes))
        .collect();
    assert_eq!(
        did,
        [
            (ms(10), Action::Reply { to: link(0) }, words(&[0x9100_0000, 100, 101])),
            (ms(30), Action::Reply { to: link(1) }, words(&[0x9100_0000, 102])),
        ]
    );
    // Ten packets at once leave nothing to flush.
    let mut acks = Vec::new();
    for seq in 200..210 {
        acks.extend(replies(&rig.up(link(0), &data(seq, 9)).1));
    }
    assert_eq!(acks.len(), 1);
    assert_eq!(acks[0].1.len(), 44);
    assert!(rig.receiver.poll_timeout().is_none_or(|due| due - rig.now > ms(30)), "and no deadline");
    assert!(rig.advance(ms(100)).is_empty());
}

#[test]
fn r10_everything_of_srtla_that_is_not_the_senders_is_swallowed() {
    let mut rig = Rig::new();
    let group = rig.register(&half(1), &[link(0)]);
    for head in (0x9000..=0xFFFFu32).filter(|head| !matches!(head, 0x9000 | 0x9200 | 0x9201)) {
        let mut bytes = vec![0; 40];
        bytes[..2].copy_from_slice(&(head as u16).to_be_bytes());
        let (verdict, did) = rig.up(link(0), &bytes);
        assert_eq!((verdict, did.len()), (Verdict::Drop(DropReason::UnexpectedSrtla), 0), "{head:04x}");
        assert_eq!(rig.down(group, &bytes), Verdict::Drop(DropReason::UnexpectedSrtla), "{head:04x}");
    }
}

/// SRT's user-defined type shares SRTLA's range; as key refresh it must pass in both directions.
#[test]
fn r10_key_refresh_of_an_encrypted_stream_passes() {
    let mut rig = Rig::new();
    let group = rig.register(&half(1), &[link(0)]);
    rig.open_session(group, link(0), 11, 22, 100);
    let mut request = words(&[0xFFFF_0003, 0, 777, 22]);
    request.resize(16 + 56, 1);
    assert_eq!(rig.up(link(0), &request).0, Verdict::Forward(group));
    let mut answer = words(&[0xFFFF_0004, 0, 777, 11]);
    answer.resize(16 + 56, 1);
    assert_eq!(rig.one_link(group, &answer), Some(link(0)));
    assert_eq!(
        rig.up(link(0), &words(&[0xFFFF_0005, 0, 777, 22])).0,
        Verdict::Drop(DropReason::UnexpectedSrtla)
    );
}

#[test]
fn r11_runts_are_dropped_in_both_directions_and_hurt_nobody() {
    let mut rig = Rig::new();
    let group = rig.register(&half(1), &[link(0)]);
    for len in 0..16 {
        for first in [0x00, 0x80, 0x8F] {
            let bytes = vec![first; len];
            assert_eq!(rig.up(link(0), &bytes).0, Verdict::Drop(DropReason::Runt));
            assert_eq!(rig.down(group, &bytes), Verdict::Drop(DropReason::Runt));
        }
    }
    assert_eq!(rig.up(link(0), &data(1, 9)).0, Verdict::Forward(group), "the group lives on");
}

#[test]
fn r12_registration_packets_must_have_their_length() {
    let mut rig = Rig::new();
    let full = reg2(&with_ticket(&half(1), EPOCH));
    for len in (2..=300).filter(|&len| len != 258) {
        for kind in [0x00, 0x01] {
            let mut bytes = full.clone();
            bytes.resize(len, 0);
            bytes[1] = kind;
            assert_eq!(rig.up(link(0), &bytes).0, Verdict::Drop(DropReason::BadLength), "{len}");
        }
    }
    assert_eq!(rig.groups(), 0);
}

#[test]
fn r13_admission_policy_covers_registration() {
    let networks: Arc<PrefixSet<()>> = Arc::new(
        [
            Cidr { addr: "192.0.2.1".parse().unwrap(), prefix: 32 },
            Cidr { addr: "2001:db8::".parse().unwrap(), prefix: 32 },
        ]
        .into_iter()
        .collect(),
    );
    let named = Admission { networks: AdmitPolicy::Listed(networks.clone()), ..Admission::open() };
    let listed = Admission { stock: StockAdmission::Listed(networks), ..Admission::open() };
    for (admission, listed) in [(named, false), (listed, true)] {
        covers_registration(admission, listed);
    }
}

fn covers_registration(admission: Admission, listed: bool) {
    let mut rig = Rig::admitting(ReceiverConfig::default(), admission);
    let group = rig.register(&half(1), &[link(0), LinkAddr::new("[2001:db8:1::5]:9".parse().unwrap())]);
    assert_eq!(rig.receiver.group_proof(group), Some(GroupProof::Stock { listed }));
    assert_eq!(rig.receiver.group_addr(group), Some("2001:db8:1::5".parse().unwrap()));
    let outside = LinkAddr::new("192.0.2.77:5000".parse().unwrap());
    for bytes in [reg1(&probe_id(1)), reg2(&probe_id(1)), reg2(&with_ticket(&half(1), EPOCH))] {
        let (verdict, did) = rig.up(outside, &bytes);
        assert_eq!((verdict, did), (Verdict::Drop(DropReason::NotAdmitted), vec![]));
    }
}

#[test]
fn r14_one_link_in_both_spellings_of_ipv4() {
    let mut rig = Rig::new();
    let plain = LinkAddr::new("192.0.2.1:5000".parse().unwrap());
    let mapped = LinkAddr::new("[::ffff:192.0.2.1]:5000".parse().unwrap());
    let group = rig.register(&half(1), &[plain]);
    assert_eq!(rig.up(mapped, &data(1, 9)).0, Verdict::Forward(group));
    let v6: Vec<LinkAddr> =
        ["[2001:db8::1]:5000", "[2001:db8::1]:5001", "[2001:db8::2]:5000", "[fe80::1%3]:5000"]
            .map(|text| LinkAddr::new(text.parse().unwrap()))
            .to_vec();
    let group = rig.register(&half(2), &v6);
    assert_eq!(rig.members(group), v6);
}

#[test]
fn r15_draining_opens_no_group_but_serves_the_living() {
    let mut rig = Rig::new();
    let group = rig.register(&half(1), &[link(0)]);
    rig.receiver.handle_command(rig.now, Command::SetDraining(true), &mut rig.out);
    assert_eq!(rig.up(link(5), &reg1(&probe_id(2))).0, Verdict::Drop(DropReason::Draining));
    assert_eq!(rig.up(link(5), &reg2(&with_ticket(&half(2), EPOCH))).0, Verdict::Drop(DropReason::Draining));
    assert_eq!(rig.up(link(1), &reg1(&probe_id(1))).0, Verdict::Consumed);
    assert_eq!(rig.up(link(1), &reg2(&with_ticket(&half(1), EPOCH))).0, Verdict::Consumed);
    assert_eq!(rig.members(group), [link(0), link(1)]);
}

#[test]
fn r16_closing_a_group_says_all_there_is_to_undo() {
    let config = ReceiverConfig { shards: 2, ..ReceiverConfig::default() };
    // A half that shard 0 of 2 owns.
    let mut rig = Rig::with(config);
    let n = (0..=255).find(|&n| rig.up(link(0), &reg1(&probe_id(n))).0 == Verdict::Consumed).unwrap();
    let group = rig.register(&half(n), &[link(0), link(1)]);
    rig.feed(link(0), &data(1, 9));
    rig.receiver.handle_command(rig.now, Command::CloseGroup(group), &mut rig.out);
    let did: Vec<Action> = rig
        .take()
        .into_iter()
        .map(|(action, _)| action)
        .filter(|a| !matches!(a, Action::Notice(_)))
        .collect();
    assert_eq!(
        did,
        [Action::Unsteer { addr: link(0) }, Action::Unsteer { addr: link(1) }, Action::CloseForwarder(group)]
    );
    assert_eq!((rig.groups(), rig.receiver.poll_timeout()), (0, None));
    assert_eq!(rig.up(link(0), &data(2, 9)).0, Verdict::Drop(DropReason::NotMember));
    rig.receiver.handle_command(rig.now, Command::CloseGroup(group), &mut rig.out);
    assert!(rig.take().is_empty(), "an old key closes nothing");
}

#[test]
fn r17_without_room_for_actions_nothing_changes_and_timers_wait() {
    let mut rig = Rig::new();
    let group = rig.register(&half(1), &[link(0)]);
    let open = rig.up(link(0), &data(1, 9));
    assert_eq!(open.1, [(Action::OpenForwarder(group), vec![])]);
    let mut none = Actions::with_capacity(0, 0);
    for (bytes, reason) in [
        (reg1(&probe_id(3)), DropReason::ActionsFull),
        (reg2(&with_ticket(&half(3), EPOCH)), DropReason::ActionsFull),
    ] {
        assert_eq!(rig.receiver.handle_uplink(rig.now, link(5), &bytes, &mut none), Verdict::Drop(reason));
    }
    assert_eq!(rig.groups(), 1);
    let late = rig.now + ms(60_000);
    rig.receiver.handle_timeout(late, &mut none);
    assert_eq!(rig.members(group), [link(0)], "the link is removed when somebody can be told");
    assert!(rig.receiver.poll_timeout().unwrap() <= late);
    assert!(rig.advance(ms(60_000)).contains(&(Action::CloseForwarder(group), vec![])));
}

#[test]
fn r17_a_forwarder_that_could_not_be_opened_is_asked_for_again() {
    let mut rig = Rig::new();
    let group = rig.register(&half(1), &[link(0)]);
    let mut none = Actions::with_capacity(0, 0);
    assert_eq!(rig.receiver.handle_uplink(rig.now, link(0), &data(1, 9), &mut none), Verdict::Forward(group));
    assert_eq!(none.overflowed(), 1);
    assert_eq!(rig.up(link(0), &data(2, 9)).1, [(Action::OpenForwarder(group), vec![])]);
    assert_eq!(rig.up(link(0), &data(3, 9)).1, []);
}

#[test]
fn r18_keys_of_the_gone_name_nobody() {
    let mut rig = Rig::new();
    let group = rig.register(&half(1), &[link(0)]);
    let key = rig.link_key(link(0));
    assert_eq!((rig.receiver.link_addr(key), rig.receiver.link_index(key)), (Some(link(0)), Some(0)));
    rig.advance(ms(120_000));
    let again = rig.register(&half(1), &[link(1)]);
    assert_eq!(again.index(), group.index());
    assert_ne!(again, group);
    assert_eq!((rig.receiver.link_addr(key), rig.receiver.link_index(key)), (None, None));
    assert_eq!(rig.receiver.live_links(rig.now, group).count(), 0);
    assert_eq!(rig.down(group, &srt_ack(1, 1, 1)), Verdict::Drop(DropReason::NoGroup));
}
