//! What stock senders do and a receiver has to live with: one test per known habit.

use crate::rig::*;
use bondgate_proto::LinkAddr;
use bondgate_proto::receiver::{Action, DropReason, LeaveReason, Notice, ReceiverConfig, Verdict};

/// Every stock sender opens with REG2 under an ID nobody knows, on every link, repeatedly. The Rust sender takes the answer
/// as RTT probe, Moblin needs exactly one: none of the first answers may fall to a rate limit.
#[test]
fn t01_probe_with_unknown_id_is_answered_ngp_on_every_link() {
    let mut rig = Rig::new();
    for round in 0..3 {
        for n in 0..600 {
            let (verdict, did) = rig.up(link(n), &reg2(&probe_id(n as u8)));
            assert_eq!(
                (verdict, replies(&did)),
                (Verdict::Consumed, vec![(link(n), ngp())]),
                "round {round}"
            );
        }
        rig.advance(ms(1000));
    }
    assert_eq!(rig.groups(), 0);
    assert_eq!(rig.receiver.counters().ngp_sent, 1800);
}

#[test]
fn t01_the_ngp_budget_is_finite() {
    let mut rig = Rig::new();
    let rate = rig.receiver.config().ngp_rate;
    for n in 0..rate.burst {
        assert_eq!(rig.up(link(n as u16), &reg2(&probe_id(1))).0, Verdict::Consumed);
    }
    assert_eq!(rig.up(link(9), &reg2(&probe_id(1))).0, Verdict::Drop(DropReason::NgpBudget));
    rig.advance(ms(1));
    assert_eq!(rig.up(link(9), &reg2(&probe_id(1))).0, Verdict::Consumed, "two per millisecond come back");
}

/// Repeated REG1, REG1 from another link, REG1 with an old receiver half inside: one answer, byte for byte.
#[test]
fn t02_reg1_has_one_answer() {
    let mut rig = Rig::new();
    let id = probe_id(7);
    let mut old_full_id = with_ticket(&half(7), EPOCH - 1);
    let answer = replies(&rig.up(link(0), &reg1(&id)).1)[0].1.clone();
    assert_eq!(answer.len(), 258);
    assert_eq!(answer[..2], [0x92, 0x01]);
    assert_eq!(answer[2..130], id[..128]);
    for (from, id) in [(link(0), id), (link(1), id), (link(2), old_full_id), (link(0), old_full_id)] {
        let (verdict, did) = rig.up(from, &reg1(&id));
        assert_eq!(verdict, Verdict::Consumed);
        assert_eq!(replies(&did), [(from, answer.clone())]);
    }
    assert_eq!(rig.groups(), 0, "REG1 makes no group");
    // A member of the living group asks: the stored ID, whatever epoch it is by now.
    rig.register(&half(7), &[link(0), link(1)]);
    rig.receiver.handle_command(
        rig.now,
        bondgate_proto::receiver::Command::SetEpoch(EPOCH + 1),
        &mut rig.out,
    );
    assert_eq!(replies(&rig.up(link(0), &reg1(&id)).1), [(link(0), answer.clone())]);
    old_full_id[255] ^= 1;
    assert_eq!(replies(&rig.up(link(5), &reg1(&old_full_id)).1), [(link(5), answer)]);
}

/// REG1 from an address that belongs to a living group: the sender was restarted on the same port.
#[test]
fn t02_reg1_from_a_member_moves_the_address_when_the_join_comes() {
    let mut rig = Rig::new();
    let old = rig.register(&half(1), &[link(0)]);
    rig.feed(link(0), &data(5, 99));
    rig.advance(ms(250));
    let (_, did) = rig.up(link(0), &reg1(&probe_id(2)));
    let id: Id = replies(&did)[0].1[2..].try_into().unwrap();
    assert_eq!(rig.group_of(link(0)), Some(old), "nothing moves before the join");
    let (verdict, did) = rig.up(link(0), &reg2(&id));
    assert_eq!(verdict, Verdict::Consumed);
    let new = rig.group_of(link(0)).unwrap();
    assert_ne!(new, old);
    assert_eq!(rig.groups(), 1, "the old group had no other live link");
    assert!(did.contains(&(Action::CloseForwarder(old), vec![])));
    let left = notices(&did).into_iter().any(|notice| {
        matches!(notice, Notice::LinkLeft { group, addr, reason: LeaveReason::Moved, .. } if group == old && addr == link(0))
    });
    assert!(left);
    assert_eq!(rig.down(old, &srt_ack(1, 6, 1)), Verdict::Drop(DropReason::NoGroup));
}

#[test]
fn t02_a_group_with_another_live_link_outlives_the_move() {
    let mut rig = Rig::new();
    let old = rig.register(&half(1), &[link(0), link(1)]);
    rig.feed(link(1), &data(5, 99));
    rig.advance(ms(300));
    rig.register(&half(2), &[link(0)]);
    assert_eq!(rig.members(old), [link(1)]);
    assert_ne!(rig.group_of(link(0)), Some(old));
}

/// Anybody with a ticket of their own can forge a join from a stranger's address; a talking link does not move.
#[test]
fn t02_a_talking_link_is_not_stolen() {
    let mut rig = Rig::new();
    let mine = rig.register(&half(1), &[link(0)]);
    rig.feed(link(0), &data(5, 99));
    rig.advance(ms(249));
    let forged = reg2(&with_ticket(&half(66), EPOCH));
    assert_eq!(rig.up(link(0), &forged).0, Verdict::Drop(DropReason::AddressBusy));
    assert_eq!(rig.group_of(link(0)), Some(mine));
    assert_eq!(rig.groups(), 1);
}

/// Rust and Moblin open a new socket for every reconnect and never say goodbye to the old one.
#[test]
fn t03_a_full_group_gives_up_its_longest_silent_link() {
    let config = ReceiverConfig { links_per_group_max: 3, ..ReceiverConfig::default() };
    let mut rig = Rig::with(config);
    let group = rig.register(&half(1), &[link(0), link(1), link(2)]);
    rig.advance(ms(1000));
    rig.feed(link(0), &keepalive(10));
    rig.feed(link(2), &keepalive(10));
    let (verdict, did) = rig.up(link(3), &reg2(&with_ticket(&half(1), EPOCH)));
    assert_eq!(verdict, Verdict::Consumed);
    assert_eq!(replies(&did), [(link(3), reg3())]);
    assert_eq!(rig.members(group), [link(0), link(3), link(2)]);
    assert_eq!(rig.receiver.counters().links_evicted, 1);
    assert_eq!(rig.up(link(1), &data(1, 2)).0, Verdict::Drop(DropReason::NotMember));
}

/// 2, 10, 38 bytes and any other length come back as they are, to where they came from.
#[test]
fn t04_keepalives_of_any_length_are_echoed_unchanged() {
    let config = ReceiverConfig {
        keepalive_rate: bondgate_proto::receiver::Rate { per_s: 20, burst: 2000 },
        ..ReceiverConfig::default()
    };
    let mut rig = Rig::with(config);
    rig.register(&half(1), &[link(0), link(1)]);
    let key = rig.link_key(link(1));
    for len in [2, 10, 38].into_iter().chain(2..=256) {
        let (verdict, did) = rig.up(link(1), &keepalive(len));
        assert_eq!(verdict, Verdict::ToLink(key), "the caller sends these very bytes back");
        assert!(did.is_empty());
    }
    assert_eq!(rig.receiver.link_addr(key), Some(link(1)));
    assert_eq!(rig.up(link(2), &keepalive(10)).0, Verdict::Drop(DropReason::NotMember), "members only");
}

#[test]
fn t04_the_keepalive_budget_is_per_link() {
    let mut rig = Rig::new();
    rig.register(&half(1), &[link(0), link(1)]);
    for _ in 0..20 {
        assert!(matches!(rig.up(link(0), &keepalive(10)).0, Verdict::ToLink(_)));
    }
    assert_eq!(rig.up(link(0), &keepalive(10)).0, Verdict::Drop(DropReason::KeepaliveBudget));
    assert!(matches!(rig.up(link(1), &keepalive(10)).0, Verdict::ToLink(_)));
    rig.advance(ms(50));
    assert!(matches!(rig.up(link(0), &keepalive(10)).0, Verdict::ToLink(_)));
}

/// Rust senders probe a stalled link with copies; retransmissions take any link; links overtake each other.
#[test]
fn t05_copies_and_reordering_between_links_are_all_forwarded_and_acknowledged() {
    let mut rig = Rig::new();
    let group = rig.register(&half(1), &[link(0), link(1)]);
    rig.open_session(group, link(0), 11, 22, 1000);
    let mut acked = [Vec::new(), Vec::new()];
    for i in 0..20u32 {
        for (n, seq) in [(0, 1000 + i), (1, 1000 + (i * 7) % 20)] {
            let (verdict, did) = rig.up(link(n), &data(seq, 22));
            assert_eq!(verdict, Verdict::Forward(group));
            for (to, bytes) in replies(&did) {
                assert_eq!(to, link(n), "an SRTLA ACK goes only to the link it describes");
                assert_eq!(bytes.len(), 44);
                acked[n as usize].push(bytes);
            }
        }
    }
    let expected = |first: u32, step: u32| {
        let mut all = vec![0x9100_0000];
        all.extend((first..first + 10).map(|i| 1000 + (i * step) % 20));
        words(&all)
    };
    assert_eq!(acked, [vec![expected(0, 1), expected(10, 1)], vec![expected(0, 7), expected(10, 7)]]);
}

/// With N links an encoder answers each ACK up to 2N times; handshakes come over several links and repeatedly.
#[test]
fn t06_control_copies_and_repeated_handshakes_are_forwarded_without_a_second_session() {
    let mut rig = Rig::new();
    let group = rig.register(&half(1), &[link(0), link(1), link(2)]);
    for n in [0, 1, 2, 0] {
        assert_eq!(rig.up(link(n), &induction(11)).0, Verdict::Forward(group));
    }
    for n in [2, 1, 0] {
        assert_eq!(rig.up(link(n), &conclusion(11, 100)).0, Verdict::Forward(group));
    }
    let _ = rig.down(group, &conclusion_answer(11, 22));
    for n in [0, 1, 2, 0, 1, 2] {
        let (verdict, did) = rig.up(link(n), &control(6, 1, 22));
        assert_eq!((verdict, did.len()), (Verdict::Forward(group), 0));
    }
    assert_eq!(
        rig.up(link(1), &induction(11)).1,
        [],
        "a late copy of the same induction is not a new session"
    );
    assert_eq!(rig.receiver.counters().sessions_replaced, 0);
}

/// The CERALIVE sender pads small control packets with zeros to 32 bytes.
#[test]
fn t07_padded_control_packets_are_forwarded_and_understood() {
    let mut rig = Rig::new();
    let group = rig.register(&half(1), &[link(0), link(1)]);
    rig.open_session(group, link(0), 11, 22, 100);
    let mut padded = control(6, 1, 22);
    padded.resize(32, 0);
    assert_eq!(rig.up(link(1), &padded).0, Verdict::Forward(group));
    assert_eq!(rig.one_link(group, &control(1, 0, 11)), Some(link(1)), "it moved the newest source");
    let mut padded_keepalive = keepalive(2);
    padded_keepalive.resize(32, 0);
    assert_eq!(rig.up(link(0), &padded_keepalive).0, Verdict::ToLink(rig.link_key(link(0))));
}

/// Moblin can pad payloads with null packets: original and retransmission differ in length.
#[test]
fn t08_retransmissions_of_another_length_are_forwarded() {
    let mut rig = Rig::new();
    let group = rig.register(&half(1), &[link(0)]);
    for len in [16, 17, 188 + 16, 1316 + 16, 1456 + 16, 1500] {
        let mut packet = data(100, 22);
        packet.resize(len, 0xFF);
        assert_eq!(rig.up(link(0), &packet).0, Verdict::Forward(group));
    }
    let mut jumbo = data(100, 22);
    jumbo.resize(1501, 0xFF);
    assert_eq!(rig.up(link(0), &jumbo).0, Verdict::Drop(DropReason::Oversize));
}

/// Two modems behind one carrier NAT: same IP, other port. Different groups behind one IP are just as normal.
#[test]
fn t09_links_and_groups_behind_one_ip() {
    let at = |port: u16| LinkAddr::new(format!("203.0.113.9:{port}").parse().unwrap());
    let mut rig = Rig::new();
    let mut groups = Vec::new();
    for g in 0..4u16 {
        let links: Vec<LinkAddr> = (0..16).map(|n| at(1000 + 16 * g + n)).collect();
        let group = rig.register(&half(g as u8), &links);
        assert_eq!(rig.members(group), links);
        groups.push(group);
    }
    for (g, group) in groups.iter().enumerate() {
        assert_eq!(rig.up(at(1000 + 16 * g as u16 + 5), &data(1, 0)).0, Verdict::Forward(*group));
    }
}

/// BELABOX sends nothing on an idle link but a keepalive each 1 to 2 s; several of them may be lost in a row.
#[test]
fn t10_an_idle_link_with_sparse_keepalives_stays() {
    let mut rig = Rig::new();
    let group = rig.register(&half(1), &[link(0), link(1)]);
    for _ in 0..5 {
        rig.advance(ms(9_900));
        rig.feed(link(0), &keepalive(2));
        assert!(rig.members(group).contains(&link(0)));
    }
    assert_eq!(rig.members(group), [link(0)], "the link that said nothing at all is gone");
}

/// Timestamps in keepalives are relative to nothing: they must not matter.
#[test]
fn t11_keepalive_timestamps_do_not_matter() {
    let mut rig = Rig::new();
    rig.register(&half(1), &[link(0)]);
    for stamp in [u64::MAX, 0, 1 << 63, 5] {
        let mut bytes = vec![0x90, 0x00];
        bytes.extend(stamp.to_be_bytes());
        assert!(matches!(rig.up(link(0), &bytes).0, Verdict::ToLink(_)));
    }
}

/// The irlserver C++ sender leaves the last 128 bytes zero, and nothing promises more than that of the first.
#[test]
fn t12_ids_of_low_entropy() {
    let mut rig = Rig::new();
    for (n, filler) in [0x00, 0xFF, b'A'].into_iter().enumerate() {
        let from = link(n as u16);
        let mut id = [0; 256];
        id[..128].fill(filler);
        assert_eq!(replies(&rig.up(from, &reg2(&id)).1), [(from, ngp())]);
        rig.register(&half(filler), &[from]);
    }
    assert_eq!(rig.groups(), 3);
}

/// The encoder restarts its SRT session inside a living group: the old session ends first, its late packets are not taken
/// for the new one, and nothing of it is acknowledged.
#[test]
fn t13_encoder_restart_inside_a_living_group() {
    let mut rig = Rig::new();
    let group = rig.register(&half(1), &[link(0), link(1)]);
    rig.open_session(group, link(0), 11, 22, 1_000_000);
    for seq in 0..5 {
        rig.feed(link(0), &data(1_000_000 + seq, 22));
    }
    // A handshake that may be forged ends nothing; one that shows the server's cookie does.
    assert_eq!(rig.up(link(1), &induction(12)), (Verdict::Forward(group), vec![]));
    rig.feed(link(1), &conclusion(12, 50));
    assert_eq!(rig.receiver.counters().sessions_replaced, 0, "no cookie was given yet");
    assert_eq!(rig.down(group, &handshake(1, 12, 0, 12)), Verdict::ToLink(rig.link_key(link(1))));
    rig.feed(link(0), &data(1_000_005, 22));
    let (verdict, did) = rig.up(link(1), &conclusion(12, 50));
    assert_eq!(verdict, Verdict::Forward(group));
    let shutdown = words(&[0x8005_0000, 0, 777, 22, 0]);
    assert_eq!(did[0], (Action::SendDownstream { group }, shutdown));
    assert_eq!(notices(&did), [Notice::SessionReplaced { group }]);
    assert!(
        replies(&rig.advance(ms(30))).is_empty(),
        "the old session's packets are not acknowledged any more"
    );
    // Late packets of the old session do not spoil the new one, which begins with a lower number.
    rig.feed(link(0), &data(1_000_006, 22));
    let _ = rig.down(group, &conclusion_answer(12, 33));
    assert_eq!(rig.one_link(group, &control(1, 0, 12)), Some(link(1)));
    rig.feed(link(0), &data(50, 33));
    assert_eq!(rig.one_link(group, &control(1, 0, 12)), Some(link(0)), "the new numbers are plausible");
    assert_eq!(rig.up(link(1), &data(1_000_007, 22)).0, Verdict::Drop(DropReason::ForeignSocket));
    assert_eq!(rig.one_link(group, &control(1, 0, 12)), Some(link(0)), "old data attracts no return traffic");
    assert_eq!(rig.up(link(0), &induction(11)).1, [], "a late copy of the old induction ends nothing");
    assert_eq!(rig.receiver.counters().sessions_replaced, 1);
    assert_eq!(rig.groups(), 1);
}

#[test]
fn t13_a_restart_after_the_receiver_was_restarted_too_still_ends_the_old_session() {
    let mut rig = Rig::new();
    let group = rig.register(&half(1), &[link(0)]);
    // No handshake seen: the session is learned from its data.
    rig.feed(link(0), &data(500, 22));
    rig.feed(link(0), &induction(12));
    let _ = rig.down(group, &handshake(1, 12, 0, 12));
    let (_, did) = rig.up(link(0), &conclusion(12, 100));
    assert_eq!(did[0], (Action::SendDownstream { group }, words(&[0x8005_0000, 0, 777, 22, 0])));
}

/// The receiver saw nothing of the handshake but its end: the server's word counts too.
#[test]
fn t13_the_server_may_replace_a_session() {
    let mut rig = Rig::new();
    let group = rig.register(&half(1), &[link(0)]);
    rig.open_session(group, link(0), 11, 22, 100);
    let _ = rig.receiver.handle_downlink(rig.now, group, &conclusion_answer(12, 33), &mut rig.out);
    let did = rig.take();
    assert_eq!(did[0], (Action::SendDownstream { group }, words(&[0x8005_0000, 0, 777, 22, 0])));
    assert_eq!(rig.up(link(0), &data(100, 33)).0, Verdict::Forward(group));
}
