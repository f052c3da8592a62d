//! Several receivers behind one port: registration and data find the owner of a group.

use crate::rig::*;
use bondgate_proto::receiver::{Action, Command, DropReason, ReceiverConfig, Verdict};

fn shards(n: u8) -> Vec<Rig> {
    (0..n).map(|shard| Rig::with(ReceiverConfig { shard, shards: n, ..ReceiverConfig::default() })).collect()
}

/// Gives a datagram to a shard and follows the hand-off, once.
fn route(
    shards: &mut [Rig],
    at: usize,
    from: bondgate_proto::LinkAddr,
    bytes: &[u8],
) -> (usize, Verdict, Did) {
    let (verdict, did) = shards[at].up(from, bytes);
    let Verdict::HandOff(owner) = verdict else { return (at, verdict, did) };
    assert_ne!(usize::from(owner), at);
    assert!(did.is_empty(), "the owner acts");
    let (verdict, did) = shards[usize::from(owner)].up(from, bytes);
    assert!(!matches!(verdict, Verdict::HandOff(_)), "handed off twice");
    (owner.into(), verdict, did)
}

#[test]
fn every_shard_leads_to_the_same_group() {
    let mut rigs = shards(4);
    let mut owners = std::collections::HashSet::new();
    for h in 0..16 {
        let mut answers = Vec::new();
        for at in 0..4 {
            let (owner, verdict, did) = route(&mut rigs, at, link(at as u16), &reg1(&probe_id(h)));
            assert_eq!(verdict, Verdict::Consumed);
            answers.push((owner, replies(&did)[0].1.clone()));
        }
        answers.dedup();
        assert_eq!(answers.len(), 1, "one owner, one answer");
        let (owner, answer) = &answers[0];
        owners.insert(*owner);
        let id: Id = answer[2..].try_into().unwrap();
        assert_eq!(usize::from(id[130]), *owner, "the ticket names its owner");
        for at in 0..4u16 {
            let from = link(100 + 4 * u16::from(h) + at);
            let (joined, verdict, did) = route(&mut rigs, at.into(), from, &reg2(&id));
            assert_eq!((joined, verdict), (*owner, Verdict::Consumed));
            assert_eq!(replies(&did), [(from, reg3())]);
            assert!(did.contains(&(Action::Steer { addr: from, shard: *owner as u8 }, vec![])));
            for bytes in [data(1, 9), keepalive(10)] {
                let (_, verdict, _) = route(&mut rigs, at.into(), from, &bytes);
                assert!(matches!(verdict, Verdict::Forward(_) | Verdict::ToLink(_)), "{verdict:?}");
            }
        }
    }
    assert_eq!(owners.len(), 4, "groups spread over the shards");
    assert_eq!(rigs.iter().map(Rig::groups).sum::<usize>(), 16);
}

/// A half that the given shard of two owns.
fn half_of(rigs: &mut [Rig], owner: usize) -> Half {
    let n = (0..=255).find(|&n| rigs[owner].up(link(0), &reg1(&probe_id(n))).0 == Verdict::Consumed).unwrap();
    half(n)
}

fn ticket(half: &Half, owner: u8, epoch: u32) -> Id {
    let mut id = [0; 256];
    id[..128].copy_from_slice(half);
    id[128..].copy_from_slice(&bondgate_auth::ticket::TicketKey::new(SECRET).issue(half, epoch, owner));
    id
}

#[test]
fn a_foreign_address_is_forgotten_when_idle_but_not_while_in_use() {
    let mut rigs = shards(2);
    let id = ticket(&half_of(&mut rigs, 1), 1, EPOCH);
    assert_eq!(rigs[0].up(link(5), &reg2(&id)).0, Verdict::HandOff(1));
    for _ in 0..30 {
        rigs[0].advance(ms(5000));
        assert_eq!(rigs[0].up(link(5), &data(1, 9)).0, Verdict::HandOff(1));
    }
    rigs[0].advance(ms(16_100));
    assert_eq!(rigs[0].up(link(5), &data(1, 9)).0, Verdict::Drop(DropReason::NotMember));
    assert_eq!(rigs[0].receiver.poll_timeout(), None);
}

#[test]
fn an_address_that_joins_here_is_not_foreign_any_more() {
    let mut rigs = shards(2);
    let there = ticket(&half_of(&mut rigs, 1), 1, EPOCH);
    let here = ticket(&half_of(&mut rigs, 0), 0, EPOCH);
    assert_eq!(rigs[0].up(link(5), &reg2(&there)).0, Verdict::HandOff(1));
    assert_eq!(rigs[0].up(link(5), &reg2(&here)).0, Verdict::Consumed);
    assert!(matches!(rigs[0].up(link(5), &data(1, 9)).0, Verdict::Forward(_)));
    // And back again, once it is silent here.
    assert_eq!(rigs[0].up(link(5), &reg2(&there)).0, Verdict::Drop(DropReason::AddressBusy));
    rigs[0].advance(ms(300));
    let (verdict, did) = rigs[0].up(link(5), &reg2(&there));
    assert_eq!(verdict, Verdict::HandOff(1));
    assert!(did.contains(&(Action::Unsteer { addr: link(5) }, vec![])));
    assert_eq!(rigs[0].groups(), 0);
    assert_eq!(rigs[0].up(link(5), &data(1, 9)).0, Verdict::HandOff(1));
}

/// Two shards that each think the other is responsible would pass a datagram round for ever.
#[test]
fn a_refused_join_leaves_no_hand_off_loop() {
    let mut rigs = shards(2);
    let there = ticket(&half_of(&mut rigs, 1), 1, EPOCH);
    let here = ticket(&half_of(&mut rigs, 0), 0, EPOCH);
    assert_eq!(rigs[0].up(link(5), &reg2(&there)).0, Verdict::HandOff(1));
    assert_eq!(rigs[1].up(link(5), &reg2(&here)).0, Verdict::HandOff(0));
    let now = rigs[0].now;
    rigs[0].receiver.handle_command(now, Command::Drain, &mut Rig::new().out);
    assert_eq!(rigs[0].up(link(5), &reg2(&here)).0, Verdict::Drop(DropReason::Draining));
    assert_eq!(route(&mut rigs, 1, link(5), &data(1, 9)).1, Verdict::Drop(DropReason::NotMember));
}

#[test]
fn an_unproven_join_does_not_redirect_a_known_address() {
    let mut rigs = shards(3);
    let mut of = |owner: usize| {
        (0..=255).find(|&n| rigs[owner].up(link(0), &reg1(&probe_id(n))).0 == Verdict::Consumed).unwrap()
    };
    let (to_1, to_2) = (of(1), of(2));
    assert_eq!(rigs[0].up(link(5), &reg2(&ticket(&half(to_1), 1, EPOCH))).0, Verdict::HandOff(1));
    assert_eq!(rigs[0].up(link(5), &reg2(&probe_id(to_2))).0, Verdict::HandOff(2), "the owner answers NGP");
    assert_eq!(rigs[0].up(link(5), &data(1, 9)).0, Verdict::HandOff(1));
}

#[test]
fn the_foreign_table_is_bounded() {
    let mut rig = Rig::with(ReceiverConfig { shards: 2, foreign_max: 8, ..ReceiverConfig::default() });
    let n =
        (0..=255).find(|&n| matches!(rig.up(link(0), &reg1(&probe_id(n))).0, Verdict::HandOff(1))).unwrap();
    let id = ticket(&half(n), 1, EPOCH);
    for n in 0..1000 {
        assert_eq!(rig.up(link(n), &reg2(&id)).0, Verdict::HandOff(1));
    }
    let known = (0..1000).filter(|&n| rig.up(link(n), &data(1, 9)).0 == Verdict::HandOff(1)).count();
    assert_eq!(known, 8);
    // Unproven joins do not push out what is known.
    for n in 1000..2000 {
        assert_eq!(rig.up(link(n), &reg2(&probe_id(id[0]))).0, Verdict::HandOff(1));
    }
    let known = (0..1000).filter(|&n| rig.up(link(n), &data(1, 9)).0 == Verdict::HandOff(1)).count();
    assert_eq!(known, 8);
}
