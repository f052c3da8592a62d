//! A sender with a key among forgeries, and before receivers that do not speak SA1.

mod sender_support;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bondgate_auth::sa1::wire::{Refusal, RefusalCode};
use bondgate_proto::Seq;
use bondgate_proto::sender::{
    LinkState, Registration, Sa1Mode, SenderAction, SenderDropReason, SenderNotice, SenderVerdict,
};
use bondgate_proto::wire::{PacketType, emit_ack};
use sender_support::*;

const UNPROVEN: SenderVerdict = SenderVerdict::Drop(SenderDropReason::Unproven);

fn world(mode: Sa1Mode, manners: Manners) -> World {
    World::with_key(mode, manners, 5)
}

fn three_links(world: &mut World) {
    for _ in 0..3 {
        world.add_link(Path::new(20));
    }
}

/// What the sender says to a datagram on link 0, and whether it had anything to say.
fn tell(world: &mut World, bytes: &[u8]) -> SenderVerdict {
    let (index, now) = (world.stats(0).index, world.now());
    let verdict = world.sender.handle_link(now, index, bytes, &mut world.out);
    if verdict == UNPROVEN {
        assert!(world.out.is_empty(), "an unproven packet drew an answer");
    }
    verdict
}

/// Runs a world with one link until the receiver's first packet of this kind, which does not arrive, and returns it.
fn intercept(refuse: bool, kind_wanted: PacketType) -> (World, Vec<u8>) {
    let mut world = world(Sa1Mode::Require, Manners::Sa1);
    world.receiver.sa1.refuse_join = refuse.then(|| Refusal::new(RefusalCode::Draining, 3));
    let caught = Rc::new(RefCell::new(None));
    let catcher = caught.clone();
    world.drop_rule = Box::new(move |_, _, up, bytes| {
        let is_it = !up && kind(bytes) == Some(kind_wanted);
        if is_it {
            catcher.borrow_mut().get_or_insert_with(|| bytes.to_vec());
        }
        is_it
    });
    world.add_link(Path::new(20));
    world.run_until_true(S, |_| caught.borrow().is_some()).expect("the receiver is silent");
    let bytes = caught.borrow_mut().take();
    (world, bytes.unwrap_or_default())
}

/// Every single bit of M2, M4 and a refusal, and every other length.
#[test]
fn no_flipped_or_cut_answer_is_believed() {
    for (refuse, kind_wanted) in
        [(false, PacketType::Reg2), (false, PacketType::Reg3), (true, PacketType::RegNak)]
    {
        let (mut world, genuine) = intercept(refuse, kind_wanted);
        let state = world.stats(0).state;
        for bit in 0..genuine.len() * 8 {
            let mut bytes = genuine.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(tell(&mut world, &bytes), SenderVerdict::ToLink(world.stats(0).index));
            assert!(world.out.is_empty(), "{kind_wanted:?} bit {bit}");
        }
        for len in 0..genuine.len() {
            let _ = tell(&mut world, &genuine[..len]);
            assert!(world.out.is_empty(), "{kind_wanted:?} cut to {len}");
        }
        let mut longer = genuine.clone();
        longer.push(0);
        let _ = tell(&mut world, &longer);
        assert!(world.out.is_empty());
        assert_eq!((world.stats(0).state, world.sender.counters().refusals), (state, 0));
        assert_eq!(tell(&mut world, &genuine), SenderVerdict::Consumed, "the genuine one is");
        assert!(!world.out.is_empty());
        if kind_wanted == PacketType::Reg3 {
            assert_eq!(world.stats(0).state, LinkState::Live);
        }
    }
}

/// A genuine answer of the same receiver to the same key, but to another hello or join.
#[test]
fn no_answer_to_something_else_is_believed() {
    for (refuse, kind_wanted) in
        [(false, PacketType::Reg2), (false, PacketType::Reg3), (true, PacketType::RegNak)]
    {
        let (_, foreign) = intercept(refuse, kind_wanted);
        let mut world = World::with_this_key(
            bondgate_proto::sender::Sa1Config {
                entropy: [99; 32],
                ..sa1::key(Sa1Mode::Require, std::time::Instant::now())
            },
            bondgate_proto::sender::SenderConfig::default(),
            Manners::Sa1,
            5,
        );
        world.drop_rule = Box::new(move |_, _, up, bytes| !up && kind(bytes) == Some(kind_wanted));
        world.add_link(Path::new(20));
        world.run_for(100 * MS);
        assert_eq!(tell(&mut world, &foreign), UNPROVEN, "{kind_wanted:?}");
    }
}

/// What stock receivers and forgers say, to a sender that registers and to one that streams.
#[test]
fn require_ignores_whatever_carries_no_tag() {
    let mut stock = Vec::new();
    for word in [0x9202u16, 0x9210, 0x9211, 0x9212, 0x9000, 0x9100, 0x9200, 0x9201] {
        for len in [2, 10, 32, 34, 38, 44, 58, 64, 258] {
            let mut bytes = vec![0u8; len];
            bytes[..2].copy_from_slice(&word.to_be_bytes());
            stock.push(bytes);
        }
    }
    // Not registered: the receiver is away.
    let mut world = world(Sa1Mode::Require, Manners::Sa1);
    world.receiver.is_down = true;
    three_links(&mut world);
    world.run_for(100 * MS);
    for bytes in &stock {
        assert_ne!(tell(&mut world, bytes), SenderVerdict::ToLocal);
    }
    assert!(!world.sender.is_registered() && !world.sender.is_up());
    assert!(world.sender.links().all(|link| link.state == LinkState::Joining));
    // Streaming.
    world.receiver.is_down = false;
    world.run_for(2 * S);
    world.start_encoder(4.0);
    world.run_for(S);
    let (from_us, notices) = (world.now_us, world.notices.len());
    for bytes in &stock {
        if !matches!(bytes[..2], [0x92, 0x00]) {
            assert_eq!(tell(&mut world, bytes), UNPROVEN, "{bytes:02x?}");
        }
        world.run_for(20 * MS);
    }
    assert_eq!((world.live(), world.rebinds, world.notices.len()), (3, 0, notices));
    assert!(world.longest_gap_us(from_us, world.now_us) <= 100 * MS);
}

/// Forged echoes and acknowledgements keep no dead link alive and acknowledge nothing.
#[test]
fn forged_proofs_of_life_are_ignored() {
    let mut world = world(Sa1Mode::Require, Manners::Sa1);
    three_links(&mut world);
    world.run_for(500 * MS);
    world.start_encoder(6.0);
    world.run_for(2 * S);
    let seen = Rc::new(RefCell::new(Vec::new()));
    let log = seen.clone();
    world.drop_rule = Box::new(move |_, link, _, bytes| {
        if link == 0 && bytes.len() < 300 {
            log.borrow_mut().push(bytes.to_vec());
        }
        link == 0
    });
    let acked = world.stats(0).acked_packets;
    let mut seq = world.first_seq;
    for _ in 0..600 {
        world.run_for(MS);
        // An observer echoes each keepalive as it is and without its trailer, and acknowledges all there may be.
        let heard: Vec<Vec<u8>> = seen.borrow_mut().drain(..).collect();
        for bytes in heard.iter().filter(|bytes| bytes[0] == 0x90) {
            assert_eq!(tell(&mut world, bytes), UNPROVEN, "reflected");
            assert_eq!(tell(&mut world, &bytes[..38]), UNPROVEN, "as stock receivers echo");
        }
        let numbers: Vec<Seq> = (0..10).map(|i| seq.add(i)).collect();
        seq = seq.add(10);
        let mut buf = [0; 64];
        let ack = emit_ack(&numbers, &mut buf).unwrap().to_vec();
        assert_eq!(tell(&mut world, &ack), UNPROVEN);
    }
    assert_ne!(world.stats(0).state, LinkState::Live);
    assert_eq!(world.stats(0).acked_packets, acked);
}

/// The receiver's own keepalive echoes and ACKs, once more.
#[test]
fn replayed_trailers_are_ignored() {
    let mut world = world(Sa1Mode::Require, Manners::Sa1);
    three_links(&mut world);
    world.start_encoder(6.0);
    let seen = Rc::new(RefCell::new(Vec::new()));
    let log = seen.clone();
    world.drop_rule = Box::new(move |_, link, up, bytes| {
        if !up && link == 0 && matches!(bytes.first(), Some(0x90 | 0x91)) {
            log.borrow_mut().push(bytes.to_vec());
        }
        false
    });
    world.run_for(3 * S);
    let heard: Vec<Vec<u8>> = seen.borrow_mut().drain(..).collect();
    assert!(heard.len() > 20, "{}", heard.len());
    world.run_for(100 * MS);
    for bytes in heard {
        assert_eq!(tell(&mut world, &bytes), UNPROVEN);
    }
}

#[test]
fn require_never_registers_with_a_stock_receiver() {
    for manners in [Manners::Stock, Manners::Idempotent] {
        let mut world = world(Sa1Mode::Require, manners);
        three_links(&mut world);
        world.start_encoder(2.0);
        world.run_for(60 * S);
        assert!(!world.sender.is_registered() && !world.sender.is_up());
        assert_eq!(world.sender.counters().downgrades, 0);
        assert_eq!(world.receiver.groups_with_members(), 0);
        assert_eq!(world.refused, world.encoded, "not one packet left");
        assert!(world.receiver.got.is_empty());
    }
}

#[test]
fn prefer_streams_into_a_stock_receiver_and_says_so() {
    for manners in [Manners::Stock, Manners::Idempotent] {
        let mut world = world(Sa1Mode::Prefer, manners);
        three_links(&mut world);
        let up = world.run_until_true(S, |w| w.live() == 3).expect("never up") / MS;
        assert!(up <= 2 * 40 + 2, "as quick as a stock registration: {up}");
        assert_eq!(world.sender.registration(), Registration::Downgraded);
        assert_eq!(world.sender.counters().downgrades, 1);
        let downgrades = world.notices.iter().filter(|(_, n)| matches!(n, SenderNotice::Downgraded { .. }));
        assert_eq!(downgrades.count(), 1);
        world.start_encoder(6.0);
        world.run_for(5 * S);
        (0..3).for_each(|link| world.move_nat(link));
        world.run_for(3 * S);
        assert_eq!((world.live(), world.receiver.groups_with_members()), (3, 1));
        world.stop_encoder();
        world.run_for(2 * S);
        assert_eq!(world.lost_payloads(), 0);
        // It restarts: the group is opened anew, with the key first.
        world.start_encoder(6.0);
        world.receiver.forget_groups();
        world.run_for(3 * S);
        assert_eq!((world.live(), world.receiver.groups_with_members()), (3, 1));
    }
}

#[test]
fn prefer_survives_any_lost_datagram_before_a_stock_receiver() {
    for manners in [Manners::Stock, Manners::Idempotent] {
        for a in 0..12 {
            for b in a..16 {
                let mut world = world(Sa1Mode::Prefer, manners);
                let mut seen = 0;
                world.drop_rule = Box::new(move |_, _, _, _| {
                    seen += 1;
                    seen == a + 1 || seen == b + 1
                });
                three_links(&mut world);
                let all = world.run_until_true(10 * S, |w| w.live() == 3).expect("not all up") / MS;
                assert!(all <= 2500, "{manners:?} {a} {b}: {all}");
                assert_eq!(world.receiver.groups_with_members(), 1);
                assert_eq!(world.sender.counters().downgrades, 1);
            }
        }
    }
}

/// Once the receiver has shown that it has the key, no stock answer counts any more; nor does its silence ever.
#[test]
fn prefer_does_not_downgrade_before_a_receiver_of_keys() {
    let mut w = world(Sa1Mode::Prefer, Manners::Sa1);
    let hello = Rc::new(RefCell::new(Vec::new()));
    let log = hello.clone();
    w.drop_rule = Box::new(move |_, _, up, bytes| {
        if up && kind(bytes) == Some(PacketType::Reg1) {
            *log.borrow_mut() = bytes.to_vec();
        }
        false
    });
    three_links(&mut w);
    w.run_for(S);
    assert_eq!((w.live(), w.sender.registration()), (3, Registration::Sa1));
    // An M1 is under way again.
    w.move_nat(0);
    w.path(0).blackhole = true;
    w.run_for(2 * S);
    let mut forged = hello.borrow().clone();
    forged[1] = 1;
    forged[130..].fill(0xA7);
    assert_eq!(tell(&mut w, &forged), UNPROVEN);
    assert_eq!(w.sender.registration(), Registration::Sa1);

    // Our key is not known there.
    let mut w = world(Sa1Mode::Prefer, Manners::Sa1);
    w.receiver.sa1.set_key(None);
    three_links(&mut w);
    w.run_for(60 * S);
    assert_eq!((w.live(), w.sender.registration()), (0, Registration::Undecided));
    // Forged REG3, NGP and refusals do not bring a downgrade about; only the echo of an M1 does.
    for word in [0x9202u16, 0x9210, 0x9211, 0x9212] {
        let _ = tell(&mut w, &word.to_be_bytes());
        w.act();
        w.run_for(2 * S);
    }
    assert_eq!((w.live(), w.sender.counters().downgrades), (0, 0));
    assert!(!w.sender.is_registered());
}

#[test]
fn a_downgraded_sender_finds_a_receiver_of_keys_in_place_of_the_old_one() {
    let mut world = world(Sa1Mode::Prefer, Manners::Stock);
    three_links(&mut world);
    world.run_for(S);
    assert_eq!(world.sender.registration(), Registration::Downgraded);
    world.receiver.forget_groups();
    world.receiver.manners = Manners::Sa1;
    let up = world.run_until_true(60 * S, |w| w.live() == 3 && w.sender.registration() == Registration::Sa1);
    assert!(up.expect("never") <= 15 * S, "{up:?}");
}

/// Random, mutated, repeated and reordered datagrams of both sides, from every mode: no panic, no lost count, no growth.
#[test]
fn no_storm_of_datagrams_confuses_the_count() {
    for (seed, mode) in [(1, Sa1Mode::Require), (2, Sa1Mode::Prefer), (3, Sa1Mode::Prefer)] {
        let manners = if seed == 3 { Manners::Stock } else { Manners::Sa1 };
        let mut world = world(mode, manners);
        let seen = Rc::new(RefCell::new(Vec::<Vec<u8>>::new()));
        let log = seen.clone();
        world.drop_rule = Box::new(move |_, _, _, bytes| {
            let mut log = log.borrow_mut();
            if log.len() < 200 {
                log.push(bytes.to_vec());
            }
            false
        });
        three_links(&mut world);
        world.start_encoder(2.0);
        let mut rng = Rng(seed);
        for _ in 0..4000 {
            world.run_for(MS);
            let mut bytes = {
                let seen = seen.borrow();
                seen.get(rng.next() as usize % seen.len().max(1)).cloned().unwrap_or_default()
            };
            for _ in 0..rng.next() % 4 {
                if !bytes.is_empty() {
                    let at = rng.next() as usize % bytes.len().min(300);
                    bytes[at] = rng.next() as u8;
                }
            }
            if rng.chance(0.1) {
                bytes.truncate(rng.next() as usize % 300);
            }
            let slot = rng.next() as usize % 3;
            let (index, now) = (world.stats(slot).index, world.now());
            let _ = world.sender.handle_link(now, index, &bytes, &mut world.out);
            world.out.drain(|action| {
                if let SenderAction::Send { bytes, .. } = action {
                    assert!(bytes.len() <= 1500);
                }
            });
            assert!(world.sender.counters().is_conserved());
            let due = world.sender.poll_timeout();
            assert!(due.is_none_or(|at| at < now + Duration::from_secs(3700)));
        }
        world.drop_rule = Box::new(|_, _, _, _| false);
        world.run_for(20 * S);
        assert_eq!(world.live(), 3, "{mode:?}: it recovers");
    }
}
