//! Several receivers behind one port: registration and data find the owner of a group.

use crate::cluster::{Cluster, Spread};
use crate::device::*;
use crate::rig::*;
use bondgate_proto::receiver::{Action, Admission, Command, DropReason, ReceiverConfig, Verdict};

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
            assert!(
                did.contains(&(Action::Steer { addr: from, shard: *owner as u8, proven: false }, vec![]))
            );
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
    rigs[0].receiver.handle_command(now, Command::SetDraining(true), &mut Rig::new().out);
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

/// Whatever the kernel does with the datagrams of registered links, and however it changes its mind, none is lost and each
/// group is in one place.
#[test]
fn links_keep_flowing_however_the_kernel_spreads_them() {
    let mut cluster = Cluster::new(4);
    cluster.spread = Spread::Random;
    let links = |n: u16| -> Vec<_> { (0..4).map(|at| link(100 + 4 * n + at)).collect() };
    let owners: Vec<usize> = (0..12).map(|n| cluster.register(n as u8 + 1, &links(n)).1).collect();
    let (mut seq, mut sent) = (0, 0_u64);
    for spread in
        [Spread::Random, Spread::Hash, Spread::Steered, Spread::Random, Spread::Steered, Spread::Hash]
    {
        cluster.spread = spread;
        // Longer than any entry lives that is not kept alive.
        for _ in 0..20 {
            cluster.advance(ms(2000));
            seq += 1;
            for (n, &owner) in owners.iter().enumerate() {
                for from in links(n as u16) {
                    let (at, verdict, _) = cluster.up(from, &data(seq, 9));
                    assert!(at == owner && matches!(verdict, Verdict::Forward(_)), "{spread:?}: {verdict:?}");
                    let (_, verdict, _) = cluster.up(from, &keepalive(10));
                    assert!(matches!(verdict, Verdict::ToLink(_)), "{spread:?}: {verdict:?}");
                    sent += 2;
                }
            }
        }
        if spread == Spread::Steered {
            let before = cluster.handed_over;
            let _ = cluster.up(link(100), &keepalive(10));
            assert_eq!(cluster.handed_over, before, "steered links arrive where they belong");
            sent += 1;
        }
    }
    assert_eq!(cluster.rigs.iter().map(Rig::groups).sum::<usize>(), 12);
    assert_eq!(cluster.received(), sent + 12 * 5);
    assert!(cluster.handed_over > 1000);
    cluster.check();
}

/// News may be lost: claims are repeated.
#[test]
fn lost_news_are_repeated() {
    let mut cluster = Cluster::new(4);
    cluster.news_lost = 1000;
    let links: Vec<_> = (0..4).map(|n| link(100 + n)).collect();
    let (_, owner) = cluster.register(1, &links);
    cluster.spread = Spread::Steered;
    for _ in 0..10 {
        cluster.advance(ms(2000));
        for &from in &links {
            assert!(matches!(cluster.up(from, &data(1, 9)).1, Verdict::Forward(_)));
        }
    }
    // Every shard but the owner has forgotten the links by now.
    let other = (owner + 1) % 4;
    assert_eq!(cluster.up_at(other, links[0], &data(2, 9)).1, Verdict::Drop(DropReason::NotMember));
    cluster.news_lost = 0;
    cluster.repeat_claims();
    assert!(matches!(cluster.up_at(other, links[0], &data(2, 9)).1, Verdict::Forward(_)));
    // And when the links are gone, so is what was known of them, though nobody is told.
    cluster.news_lost = 1000;
    cluster.advance(ms(60_000));
    assert_eq!(cluster.rigs.iter().map(Rig::groups).sum::<usize>(), 0);
    assert!(cluster.rigs.iter().all(|rig| rig.receiver.poll_timeout().is_none()));
    assert_eq!(cluster.up_at(other, links[0], &data(3, 9)).1, Verdict::Drop(DropReason::NotMember));
    cluster.check();
}

/// Joins with valid tickets from a hundred thousand forged addresses push no living link out of any shard's memory.
#[test]
fn a_flood_of_joins_pushes_out_no_living_link() {
    let config = ReceiverConfig { foreign_max: 16, groups_max: 64, ..ReceiverConfig::default() };
    let mut cluster = Cluster::with(2, &config, Admission::open);
    let victims: Vec<_> = (0..4).map(link).collect();
    let (_, owner) = cluster.register(1, &victims);
    let other = 1 - owner;
    let flooder = half_of(&mut cluster.rigs, owner);
    let flood = reg2(&ticket(&flooder, owner as u8, EPOCH));
    for n in 0..100_000_u32 {
        if n % 1000 == 0 {
            cluster.advance(ms(100));
            for &from in &victims {
                let verdict = cluster.up_at(other, from, &data(n, 9)).1;
                assert!(matches!(verdict, Verdict::Forward(_)), "{n}: {verdict:?}");
            }
        }
        let from = std::net::SocketAddr::from(([198, 51, (n >> 8) as u8, n as u8], 1024 + (n >> 16) as u16));
        let _ = cluster.up_at(other, from.into(), &flood);
    }
    assert!(cluster.handed_over > 1000);
    cluster.check();
}

/// An address goes from one owner's group to another's and back, wherever its datagrams come in.
#[test]
fn an_address_moves_between_owners() {
    for steered in [false, true] {
        let mut cluster = Cluster::new(4);
        cluster.spread = if steered { Spread::Steered } else { Spread::Hash };
        let from = link(100);
        let mut ids: Vec<(Id, usize)> = Vec::new();
        for n in 1..30 {
            let companion = link(200 + u16::from(n));
            let (id, owner) = cluster.register(n, &[companion]);
            if !ids.iter().any(|(_, known)| *known == owner) {
                ids.push((id, owner));
            }
        }
        assert_eq!(ids.len(), 4, "a group on every shard");
        for round in 0..12 {
            let (id, owner) = ids[round % 4];
            // Companions keep their groups alive.
            for n in 1..30 {
                let _ = cluster.up(link(200 + n), &keepalive(10));
            }
            cluster.advance(ms(300));
            let (at, verdict, did) = cluster.up(from, &reg2(&id));
            assert_eq!((at, verdict), (owner, Verdict::Consumed), "round {round}");
            assert_eq!(replies(&did), [(from, reg3())]);
            for n in 0..5 {
                let (at, verdict, _) = cluster.up(from, &data(n, 9));
                assert!(at == owner && matches!(verdict, Verdict::Forward(_)), "round {round}: {verdict:?}");
            }
            // While it talks, nobody's ticket takes it away.
            let (id, _) = ids[(round + 1) % 4];
            assert_eq!(cluster.up(from, &reg2(&id)).1, Verdict::Drop(DropReason::AddressBusy));
            cluster.hear_all();
            let holders = cluster.rigs.iter().filter(|rig| rig.group_of(from).is_some()).count();
            assert_eq!(holders, 1, "one shard has it");
            assert_eq!(cluster.table.get(&from), Some(&(owner as u8)));
        }
        cluster.check();
    }
}

/// A join that reaches its owner round another shard's back leaves two shards with the link; the claim settles it.
#[test]
fn a_claim_settles_who_has_the_link() {
    let mut cluster = Cluster::new(2);
    let from = link(100);
    let (_, first) = cluster.register(1, &[from]);
    let n = (2..=255).find(|&n| cluster.register(n, &[link(200 + u16::from(n))]).1 != first).unwrap();
    let second = 1 - first;
    let id: Id =
        replies(&cluster.up(link(200 + u16::from(n)), &reg1(&probe_id(n))).2)[0].1[2..].try_into().unwrap();
    cluster.advance(ms(300));
    // The second owner gets the join directly.
    assert_eq!(cluster.up_at(second, from, &reg2(&id)).1, Verdict::Consumed);
    cluster.hear_all();
    assert_eq!(cluster.rigs[first].group_of(from), None, "the silent link gave way");
    assert!(matches!(cluster.up_at(first, from, &data(1, 9)).1, Verdict::Forward(_)));
    assert_eq!(cluster.table.get(&from), Some(&(second as u8)));
    // An old claim of the first that comes late changes nothing: the link has just joined and talks.
    let rig = &mut cluster.rigs[second];
    let late = Command::Claimed { addr: from, owner: first as u8, proven: false };
    rig.receiver.handle_command(rig.now, late, &mut rig.out);
    assert!(rig.group_of(from).is_some() && rig.take().is_empty());
    // Claims of nobody, or of ourselves, mean nothing.
    for owner in [second as u8, 2, 255] {
        rig.receiver.handle_command(
            rig.now,
            Command::Claimed { addr: link(999), owner, proven: true },
            &mut rig.out,
        );
    }
    assert_eq!(cluster.up_at(second, link(999), &keepalive(10)).1, Verdict::Drop(DropReason::NotMember));
    cluster.check();
}

/// Two shards that each take the other for the owner, by news that contradict each other, pass a datagram on twice at most.
#[test]
fn a_datagram_is_not_passed_round_for_ever() {
    let mut cluster = Cluster::new(3);
    let from = link(100);
    for at in 0..3 {
        let rig = &mut cluster.rigs[at];
        let owner = (at as u8 + 1) % 3;
        rig.receiver.handle_command(
            rig.now,
            Command::Claimed { addr: from, owner, proven: false },
            &mut rig.out,
        );
    }
    assert_eq!(cluster.up_at(0, from, &data(1, 9)).1, Verdict::Drop(DropReason::HandOffLoop));
    assert_eq!((cluster.handed_over, cluster.dropped(DropReason::HandOffLoop)), (2, 1));
    cluster.check();
}

#[test]
fn a_full_ring_is_counted_once() {
    let mut rigs = shards(2);
    let id = ticket(&half_of(&mut rigs, 1), 1, EPOCH);
    assert_eq!(rigs[0].up(link(5), &reg2(&id)).0, Verdict::HandOff(1));
    let before = *rigs[0].receiver.counters();
    assert_eq!(rigs[0].up(link(5), &data(1, 9)).0, Verdict::HandOff(1));
    rigs[0].receiver.hand_off_failed();
    let after = *rigs[0].receiver.counters();
    assert!(after.is_conserved());
    assert_eq!((after.received, after.handed_off), (before.received + 1, before.handed_off));
    assert_eq!(after.dropped(DropReason::HandOffFull), 1);
}

/// A device's link: whatever shard its messages come in on, it gets in, moves with its NAT, and cannot be led astray.
#[test]
fn devices_register_and_move_on_any_shard() {
    let devices: Vec<u8> = (1..9).collect();
    let mut cluster =
        Cluster::with(4, &ReceiverConfig::default(), || mixed(devices.iter().map(|&n| rules(n))));
    cluster.spread = Spread::Random;
    for &n in &devices {
        let mut device = Device::new(n, &cluster.rigs[0]);
        let mut owners = std::collections::HashSet::new();
        for at in 0..3_u16 {
            // A link, and then the same one from another address.
            for moved in 0..2 {
                let from = link(100 + 10 * u16::from(n) + 2 * at + moved);
                cluster.advance(ms(20));
                let now = cluster.rigs[0].now;
                let hello = device.hello(now, at.into());
                let (_, verdict, did) = cluster.up(from, hello.packet());
                assert_eq!(verdict, Verdict::Consumed);
                let join = device.answer(now, &hello, from, &did);
                let (owner, verdict, did) = cluster.up(from, join.packet());
                assert_eq!(verdict, Verdict::Consumed);
                device.confirmed(&join, &did);
                owners.insert(owner);
                for seq in 0..8 {
                    let (at, verdict, _) = cluster.up(from, &data(seq, 9));
                    assert!(at == owner && matches!(verdict, Verdict::Forward(_)), "{verdict:?}");
                    let forged = reg2(&with_ticket(&half(66), EPOCH));
                    let verdict = cluster.up(from, &forged).1;
                    assert_eq!(verdict, Verdict::Drop(DropReason::AddressBusy));
                }
                // The same join again, from a sender that has not heard the answer, changes nothing.
                assert_eq!(cluster.up(from, join.packet()).1, Verdict::Consumed);
            }
            let left = link(100 + 10 * u16::from(n) + 2 * at);
            assert_eq!(cluster.up(left, &keepalive(10)).1, Verdict::Drop(DropReason::NotMember));
        }
        assert_eq!(owners.len(), 1, "one group");
    }
    cluster.hear_all();
    assert_eq!(cluster.rigs.iter().map(Rig::groups).sum::<usize>(), devices.len());
    assert_eq!(cluster.table.len(), 3 * devices.len());
    cluster.check();
}
