//! Keepalives and SRTLA ACKs with trailers.

use crate::device::*;
use crate::rig::*;
use bondgate_auth::sa1::sender::Up;
use bondgate_auth::sa1::trailer::{Opener, Sealer};
use bondgate_proto::receiver::{DropReason, ReceiverConfig, Verdict};
use bondgate_proto::wire::Packet;
use bondgate_proto::{GroupKey, Seq};

fn up() -> (Rig, Device, GroupKey, Sealer, Opener) {
    let mut rig = Rig::admitting(ReceiverConfig::default(), strict([rules(1)]));
    let mut device = Device::new(1, &rig);
    let up = device.join(&mut rig, link(0), 0);
    let group = rig.group_of(link(0)).unwrap();
    let (sealer, opener) = ends(&up);
    (rig, device, group, sealer, opener)
}

fn ends(up: &Up) -> (Sealer, Opener) {
    up.keys.sender_ends()
}

fn sealed(sealer: &mut Sealer, packet: &[u8]) -> Vec<u8> {
    let (bytes, len) = sealer.seal(packet).unwrap();
    bytes[..len].to_vec()
}

#[test]
fn keepalives_are_echoed_under_our_own_trailer() {
    let (mut rig, _, _, mut sealer, mut opener) = up();
    for len in [10, 38, 10] {
        let packet = keepalive(len);
        let bytes = sealed(&mut sealer, &packet);
        let (verdict, did) = rig.up(link(0), &bytes);
        assert_eq!((verdict, replies(&did).len()), (Verdict::Consumed, 1));
        assert_eq!(replies(&did)[0].0, link(0));
        assert_eq!(opener.open(&replies(&did)[0].1), Ok(&packet[..]));
        assert_eq!(rig.up(link(0), &bytes), (Verdict::Drop(DropReason::TrailerReplayed), vec![]));
    }
}

#[test]
fn unsealed_and_forged_keepalives_are_ignored_and_keep_nothing_alive() {
    let (mut rig, _, group, mut sealer, _) = up();
    let good = sealed(&mut sealer, &keepalive(10));
    for step in 0..100 {
        for len in [2, 10, 38, 64] {
            let (verdict, did) = rig.up(link(0), &keepalive(len));
            assert_eq!((verdict, did), (Verdict::Drop(DropReason::TrailerShape), vec![]), "{len}");
        }
        let mut forged = good.clone();
        forged[2 + step % 28] ^= 0x10;
        let (verdict, did) = rig.up(link(0), &forged);
        assert!(matches!(verdict, Verdict::Drop(_)) && did.is_empty(), "{verdict:?}");
        rig.advance(ms(100));
    }
    rig.advance(ms(200));
    assert_eq!(rig.members(group), [], "silent for the link timeout");
}

/// Keepalives that were on their way when the keys changed are taken for two seconds.
#[test]
fn new_keys_replace_old_ones() {
    let (mut rig, mut device, group, mut old_sealer, mut old_opener) = up();
    rig.advance(ms(500));
    let new = device.join(&mut rig, link(0), 0);
    assert_eq!(rig.members(group), [link(0)]);
    let (mut sealer, mut opener) = ends(&new);
    let packet = keepalive(10);
    let (verdict, did) = rig.up(link(0), &sealed(&mut old_sealer, &packet));
    assert_eq!(verdict, Verdict::Consumed);
    let echo = replies(&did)[0].1.clone();
    assert!(old_opener.open(&echo).is_err());
    assert_eq!(opener.open(&echo), Ok(&packet[..]), "answered under the new keys");
    rig.advance(ms(1900));
    let replayed = sealed(&mut old_sealer, &packet);
    assert_eq!(rig.up(link(0), &replayed).0, Verdict::Consumed);
    assert_ne!(rig.up(link(0), &replayed).0, Verdict::Consumed, "once");
    rig.advance(ms(100));
    let late = rig.up(link(0), &sealed(&mut old_sealer, &packet)).0;
    assert_eq!(late, Verdict::Drop(DropReason::TrailerMac));
    assert_eq!(rig.up(link(0), &sealed(&mut sealer, &packet)).0, Verdict::Consumed);
}

/// A moved link begins with new keys and takes none of the old.
#[test]
fn a_moved_link_takes_no_old_trailers() {
    let (mut rig, mut device, _, mut old_sealer, _) = up();
    rig.advance(ms(500));
    let new = device.join(&mut rig, link(5), 0);
    let (mut sealer, _) = ends(&new);
    let verdict = rig.up(link(5), &sealed(&mut old_sealer, &keepalive(10))).0;
    assert_eq!(verdict, Verdict::Drop(DropReason::TrailerMac));
    assert_eq!(rig.up(link(5), &sealed(&mut sealer, &keepalive(10))).0, Verdict::Consumed);
}

/// Full and partial ones.
#[test]
fn acks_carry_trailers() {
    let (mut rig, _, group, _, mut opener) = up();
    rig.open_session(group, link(0), 11, 22, 100);
    let mut seen = Vec::new();
    for seq in 100..123 {
        let did = rig.up(link(0), &data(seq, 22)).1;
        seen.extend(replies(&did));
    }
    seen.extend(replies(&rig.advance(ms(30))));
    let mut numbers = Vec::new();
    for (to, bytes) in &seen {
        assert_eq!(*to, link(0));
        let plain = opener.open(bytes).unwrap();
        let packet = Packet::new(plain).unwrap();
        numbers.push(packet.ack_numbers().unwrap().iter().map(Seq::get).collect::<Vec<_>>());
    }
    assert_eq!(numbers.iter().map(Vec::len).collect::<Vec<_>>(), [10, 10, 3]);
    assert_eq!(numbers.concat(), (100..123).collect::<Vec<u32>>());
}

/// However many forgeries come, a link's budget bounds what they cost, and its telemetry is its own.
#[test]
fn forged_trailers_have_a_budget() {
    let (mut rig, _, _, mut sealer, _) = up();
    let mut forged = sealed(&mut sealer, &keepalive(38));
    forged[57] ^= 1;
    let mut macs = 0;
    for _ in 0..10_000 {
        match rig.up(link(0), &forged).0 {
            Verdict::Drop(DropReason::TrailerMac) => macs += 1,
            verdict => assert_eq!(verdict, Verdict::Drop(DropReason::TrailerBudget)),
        }
    }
    assert_eq!(macs, 200);
    assert!(rig.receiver.snapshot(rig.now).all(|group| group.links[0].telemetry.is_none()));
}
