//! SRT packets with trailers.

use crate::device::*;
use crate::rig::*;
use bondgate_auth::sa1::Flags;
use bondgate_auth::sa1::data::{DataOpener, DataSealer};
use bondgate_auth::sa1::trailer::TRAILER_LEN;
use bondgate_proto::receiver::{
    Admission, Command, DropReason, GroupSnapshot, ReceiverConfig, SealedCopy, Verdict,
};
use bondgate_proto::{GroupKey, LinkAddr};
use std::sync::Arc;

const ENCODER: u32 = 11;
const SERVER: u32 = 22;

/// Both ends of one link at the device.
type Ends = (DataSealer, DataOpener);

fn rig() -> (Rig, Device) {
    let rig = Rig::admitting(ReceiverConfig::default(), mixed([rules(1)]));
    let mut device = Device::new(1, &rig);
    device.offered = device.offered.with(Flags::DATA_MAC);
    (rig, device)
}

/// A device with this many links, with a session.
fn up(links: u32) -> (Rig, Device, GroupKey, Vec<Ends>) {
    let (mut rig, mut device) = rig();
    let mut ends: Vec<Ends> = (0..links)
        .map(|n| {
            let up = device.join(&mut rig, link(n as u16), n);
            assert!(up.accepted.contains(Flags::DATA_MAC));
            up.keys.sender_data_ends()
        })
        .collect();
    let group = rig.group_of(link(0)).unwrap();
    let sealed = [induction(ENCODER), conclusion(ENCODER, 100)].map(|packet| seal(&mut ends[0].0, &packet));
    for packet in sealed {
        assert_eq!(rig.up(link(0), &packet).0, Verdict::Forward(group));
    }
    (rig, device, group, ends)
}

fn seal(sealer: &mut DataSealer, packet: &[u8]) -> Vec<u8> {
    let mut sealed = [packet, &[0; TRAILER_LEN]].concat();
    assert!(sealer.seal(&mut sealed));
    sealed
}

/// What goes to which link with a trailer, and how many go without.
fn down(rig: &mut Rig, group: GroupKey, packet: &[u8]) -> (Verdict, Vec<(LinkAddr, Vec<u8>)>, usize) {
    let Rig { receiver, out, now } = rig;
    let verdict = receiver.handle_downlink(*now, group, packet, out);
    let mut sealed = Vec::new();
    let mut copy = SealedCopy::new(packet);
    receiver.sealed_copies(*now, verdict, &mut copy, |to, bytes| sealed.push((to, bytes.to_vec())));
    let plain = match verdict {
        Verdict::FanOut(group) => {
            receiver.live_links(*now, group).filter(|(link, _)| !receiver.seals_data(*link)).count()
        }
        Verdict::ToLink(link) => usize::from(!receiver.seals_data(link)),
        _ => 0,
    };
    (verdict, sealed, plain)
}

#[test]
fn what_is_sealed_passes_once_without_its_trailer() {
    let (mut rig, _, group, mut ends) = up(2);
    for seq in 100..140 {
        let n = seq as usize % 2;
        let packet = data(seq, SERVER);
        let sealed = seal(&mut ends[n].0, &packet);
        assert_eq!(rig.up(link(n as u16), &sealed).0, Verdict::Forward(group));
        assert_eq!(rig.receiver.forwarded_len(), packet.len());
        let again = rig.up(link(n as u16), &sealed);
        assert_eq!(again, (Verdict::Drop(DropReason::TrailerReplayed), vec![]));
    }
    let ack = control(6, 3, SERVER);
    let sealed = seal(&mut ends[1].0, &ack);
    assert_eq!(rig.up(link(1), &sealed).0, Verdict::Forward(group));
    assert_eq!(rig.receiver.forwarded_len(), ack.len());
}

#[test]
fn every_flip_is_refused_and_changes_nothing() {
    let (mut rig, _, group, mut ends) = up(1);
    let before: Vec<GroupSnapshot> = rig.receiver.snapshot(rig.now).collect();
    for packet in [data(100, SERVER), srt_ack(1, 100, SERVER)] {
        let sealed = seal(&mut ends[0].0, &packet);
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let (verdict, did) = rig.up(link(0), &flipped);
            assert!(matches!(verdict, Verdict::Drop(_)) && did.is_empty(), "bit {bit}: {verdict:?}");
        }
        let (verdict, did) = rig.up(link(0), &packet);
        assert!(matches!(verdict, Verdict::Drop(_)) && did.is_empty(), "without a trailer: {verdict:?}");
        let after: Vec<GroupSnapshot> = rig.receiver.snapshot(rig.now).collect();
        assert_eq!(format!("{before:?}"), format!("{after:?}"));
    }
    let good = seal(&mut ends[0].0, &data(100, SERVER));
    assert_eq!(rig.up(link(0), &good).0, Verdict::Forward(group));
}

#[test]
fn nothing_of_another_link_or_direction_is_taken() {
    let (mut rig, _, group, mut ends) = up(2);
    // Its counter is one that link 0 has not seen.
    let sealed = [98, 99, 100].map(|seq| seal(&mut ends[1].0, &data(seq, SERVER)))[2].clone();
    assert_eq!(rig.up(link(0), &sealed).0, Verdict::Drop(DropReason::TrailerMac));
    assert_eq!(rig.up(link(1), &sealed).0, Verdict::Forward(group));
    let (verdict, copies, _) = down(&mut rig, group, &srt_ack(1, 100, ENCODER));
    assert_eq!((verdict, copies.len()), (Verdict::FanOut(group), 2));
    for (to, copy) in copies {
        let reflected = rig.up(to, &copy).0;
        assert!(
            matches!(reflected, Verdict::Drop(DropReason::TrailerMac | DropReason::TrailerReplayed)),
            "{reflected:?}"
        );
    }
}

#[test]
fn forgeries_keep_no_link_alive() {
    let (mut rig, _, group, mut ends) = up(1);
    let mut forged = seal(&mut ends[0].0, &data(100, SERVER));
    forged[20] ^= 1;
    for _ in 0..100 {
        assert_eq!(rig.up(link(0), &forged).0, Verdict::Drop(DropReason::TrailerMac));
        rig.advance(ms(100));
    }
    rig.advance(ms(200));
    assert_eq!(rig.members(group), [], "silent for the link timeout");
}

#[test]
fn late_packets_are_taken_within_the_window() {
    let (mut rig, _, group, mut ends) = up(1);
    let sealed: Vec<_> = (100..1200).map(|seq| seal(&mut ends[0].0, &data(seq, SERVER))).collect();
    assert_eq!(rig.up(link(0), &sealed[1099]).0, Verdict::Forward(group));
    for (at, late) in sealed[..1099].iter().enumerate().rev() {
        let expected = match at {
            76.. => Verdict::Forward(group),
            _ => Verdict::Drop(DropReason::TrailerReplayed),
        };
        assert_eq!(rig.up(link(0), late).0, expected, "{at}");
    }
}

#[test]
fn each_link_gets_return_traffic_under_its_own_key() {
    let (mut rig, _, group, mut ends) = up(3);
    for number in 1..20 {
        let ack = srt_ack(number, 100, ENCODER);
        let (verdict, copies, plain) = down(&mut rig, group, &ack);
        assert_eq!((verdict, copies.len(), plain), (Verdict::FanOut(group), 3, 0));
        for (n, (to, copy)) in copies.iter().enumerate() {
            assert_eq!(*to, link(n as u16));
            assert!(ends[(n + 1) % 3].1.open(copy).is_err());
            assert_eq!(ends[n].1.open(copy), Ok(&ack[..]));
        }
    }
    let newest = seal(&mut ends[2].0, &data(100, SERVER));
    assert_eq!(rig.up(link(2), &newest).0, Verdict::Forward(group));
    let other = control(6, 1, ENCODER);
    let (verdict, copies, plain) = down(&mut rig, group, &other);
    assert!(matches!(verdict, Verdict::ToLink(_)) && copies.len() == 1 && plain == 0, "{verdict:?}");
    assert_eq!(copies[0].0, link(2));
    assert_eq!(ends[2].1.open(&copies[0].1), Ok(&other[..]));
}

/// Links of one group need not have agreed on the same.
#[test]
fn a_link_without_gets_its_packets_as_they_are() {
    let (mut rig, mut device, group, mut ends) = up(1);
    device.offered = Flags::NONE;
    let up = device.join(&mut rig, link(1), 1);
    assert_eq!(up.accepted, Flags::NONE);
    let ack = srt_ack(1, 100, ENCODER);
    let (verdict, copies, plain) = down(&mut rig, group, &ack);
    assert_eq!((verdict, copies.len(), plain), (Verdict::FanOut(group), 1, 1));
    assert_eq!(ends[0].1.open(&copies[0].1), Ok(&ack[..]));
    let packet = data(100, SERVER);
    assert_eq!(rig.up(link(1), &packet).0, Verdict::Forward(group));
    assert_eq!(rig.receiver.forwarded_len(), packet.len());
}

#[test]
fn what_has_no_room_for_a_trailer_is_dropped_and_counted() {
    let (mut rig, _, group, mut ends) = up(1);
    let newest = seal(&mut ends[0].0, &data(100, SERVER));
    assert_eq!(rig.up(link(0), &newest).0, Verdict::Forward(group));
    for (kind, body_len, fits) in [(3, 1436, true), (3, 1440, false), (6, 1436, true), (6, 1440, false)] {
        let mut packet = control(kind, 0, ENCODER);
        packet.resize(16 + body_len, 0);
        let (verdict, copies, _) = down(&mut rig, group, &packet);
        assert_eq!(copies.len(), usize::from(fits), "{kind} {body_len}: {verdict:?}");
        assert_eq!(verdict == Verdict::Drop(DropReason::TrailerRoom), !fits);
        if let [(_, copy)] = &copies[..] {
            assert_eq!((copy.len(), ends[0].1.open(copy)), (1472, Ok(&packet[..])));
        }
    }
}

/// New keys while data flow: what was sealed under the old ones is taken for two seconds, once.
#[test]
fn new_keys_lose_nothing() {
    let (mut rig, mut device, group, mut old) = up(1);
    let mut seq = 100;
    let mut send = |rig: &mut Rig, sealer: &mut DataSealer| {
        seq += 1;
        rig.up(link(0), &seal(sealer, &data(seq, SERVER))).0
    };
    let late = seal(&mut old[0].0, &data(100, SERVER));
    assert_eq!(send(&mut rig, &mut old[0].0), Verdict::Forward(group));
    rig.advance(ms(1));
    let (mut sealer, mut opener) = device.join(&mut rig, link(0), 0).keys.sender_data_ends();
    for _ in 0..19 {
        assert_eq!(send(&mut rig, &mut old[0].0), Verdict::Forward(group));
        assert_eq!(send(&mut rig, &mut sealer), Verdict::Forward(group));
        rig.advance(ms(100));
    }
    assert_eq!(rig.up(link(0), &late).0, Verdict::Forward(group), "in another order, and still once");
    assert!(matches!(rig.up(link(0), &late).0, Verdict::Drop(_)));
    let (_, copies, _) = down(&mut rig, group, &srt_ack(1, 100, ENCODER));
    assert!(old[0].1.open(&copies[0].1).is_err() && opener.open(&copies[0].1).is_ok());
    rig.advance(ms(100));
    assert_eq!(send(&mut rig, &mut old[0].0), Verdict::Drop(DropReason::TrailerMac));
    assert_eq!(send(&mut rig, &mut sealer), Verdict::Forward(group));
}

/// A join that is repeated when its link is gone would have its keys count from 0 again. With GMAC that gives them away.
#[test]
fn a_join_of_a_link_that_is_gone_brings_no_keys_back() {
    let config = ReceiverConfig { link_timeout: ms(3000), ..ReceiverConfig::default() };
    for (renewed, flags) in [(false, Flags::DATA_MAC), (true, Flags::DATA_MAC), (false, Flags::NONE)] {
        let mut rig = Rig::admitting(config.clone(), mixed([rules(1)]));
        let mut device = Device::new(1, &rig);
        device.offered = flags;
        let join = device.ask(&mut rig, link(0), 0);
        assert_eq!(rig.up(link(0), join.packet()).0, Verdict::Consumed);
        assert_eq!(rig.up(link(0), join.packet()).0, Verdict::Consumed, "repeated while the link is there");
        if renewed {
            rig.advance(ms(1));
            device.join(&mut rig, link(0), 0);
        }
        rig.advance(ms(3500));
        assert_eq!(rig.group_of(link(0)), None);
        let verdict = rig.up(link(0), join.packet()).0;
        let expected =
            if flags == Flags::NONE { Verdict::Consumed } else { Verdict::Drop(DropReason::Sa1Old) };
        assert_eq!(verdict, expected, "{flags:?}");
        rig.advance(ms(1));
        device.join(&mut rig, link(0), 0);
        assert!(rig.group_of(link(0)).is_some(), "another one does");
    }
}

#[test]
fn the_policy_may_say_no_and_changes_nothing_that_is() {
    let (mut rig, mut device, group, mut ends) = up(1);
    let policy = Admission { data_mac: false, ..mixed([rules(1)]) };
    rig.receiver.handle_command(rig.now, Command::SetAdmission(Arc::new(policy)), &mut rig.out);
    rig.out.drain(|_, _| {});
    let up = device.join(&mut rig, link(1), 1);
    assert_eq!(up.accepted, Flags::KEEPALIVE_MAC.with(Flags::ACK_MAC));
    assert_eq!(rig.up(link(1), &data(100, SERVER)).0, Verdict::Forward(group));
    let sealed = seal(&mut ends[0].0, &data(101, SERVER));
    assert_eq!(rig.up(link(0), &sealed).0, Verdict::Forward(group));
    assert_eq!(rig.up(link(0), &data(102, SERVER)).0, Verdict::Drop(DropReason::TrailerMac));
}
