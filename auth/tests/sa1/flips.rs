//! Every single-bit flip and every truncation of every packet: none is taken.

use crate::rig::*;
use bondgate_auth::sa1::keys::Standing;
use bondgate_auth::sa1::receiver::Unlimited;
use bondgate_auth::sa1::wire::{PACKET_LEN, Refusal, RefusalCode, SHORT_LEN, View};
use bondgate_auth::ticket::{HALF_LEN, ID_LEN, TicketKey};
use std::collections::BTreeMap;

fn flips(packet: &[u8]) -> impl Iterator<Item = (usize, Vec<u8>)> {
    (0..packet.len() * 8).map(|bit| {
        let mut flipped = packet.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        (bit, flipped)
    })
}

fn lengths(packet: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let longer = [packet, &[0]].concat();
    (0..packet.len()).map(|cut| packet[..cut].to_vec()).chain([longer])
}

/// Why each flip of M1 and of M3 is refused, in the receiver's worst case: a living group and a key that needs no clock.
/// Panics if one is taken or answered, be it by a re-challenge.
pub fn reasons_of_flips() -> (BTreeMap<&'static str, u32>, BTreeMap<&'static str, u32>) {
    let keys = keyring(Standing::Active, true);
    let Session { hello, join, .. } = session(&greeting());
    let mut receiver = receiver();
    let (mut of_m1, mut of_m3) = (BTreeMap::new(), BTreeMap::new());
    for (_, flipped) in flips(hello.packet()) {
        let reason = silent(m1(&mut receiver, &flipped, home(), at(20), &keys));
        *of_m1.entry(reason.as_str()).or_default() += 1;
    }
    for (_, flipped) in flips(join.packet()) {
        let taken = receiver.m3(&flipped, home(), at(60), &keys, &mut Unlimited, |_, _| true);
        *of_m3.entry(silent(taken).as_str()).or_default() += 1;
    }
    assert!(m1(&mut receiver, hello.packet(), home(), at(20), &keys).is_ok(), "the filter was not touched");
    proven(m3(&mut receiver, join.packet(), home(), at(60), &keys));
    (of_m1, of_m3)
}

#[test]
fn of_m1_and_m3() {
    let (of_m1, of_m3) = reasons_of_flips();
    // Where each is caught. Left to MAC1 are stream, links, caps and the MAC itself; to MAC3 terms and the MAC itself.
    let expected = [
        ("flags", 3),
        ("gate_epoch", 32),
        ("gate_tag", 485),
        ("listener", 128),
        ("mac1", 480),
        ("magic", 32),
        ("message", 8),
        ("reserved", 864),
        ("type", 16),
        ("version", 16),
    ];
    assert_eq!(of_m1, BTreeMap::from(expected));
    let expected = [
        ("cookie_age", 36),
        ("cookie_epoch", 32),
        ("cookie_mac", 511),
        ("flags", 10),
        ("gate_epoch", 32),
        ("gate_tag", 483),
        ("listener", 128),
        ("mac3", 320),
        ("magic", 32),
        ("message", 16),
        ("reserved", 416),
        ("type", 16),
        ("version", 32),
    ];
    assert_eq!(of_m3, BTreeMap::from(expected));
    assert_eq!((of_m1.values().sum::<u32>(), of_m3.values().sum::<u32>()), (2064, 2064));
    let keys = keyring(Standing::Active, true);
    let Session { hello, join, .. } = session(&greeting());
    for cut in lengths(hello.packet()) {
        assert_eq!(silent(m1(&mut receiver(), &cut, home(), at(20), &keys)).as_str(), "length");
    }
    for cut in lengths(join.packet()) {
        assert_eq!(silent(m3(&mut receiver(), &cut, home(), at(60), &keys)).as_str(), "length");
    }
}

#[test]
fn of_m2() {
    let Session { credentials, hello, m2, join, .. } = session(&greeting());
    assert!(hello.answer(&credentials, &m2, 0).is_ok());
    for (bit, flipped) in flips(&m2) {
        assert!(hello.answer(&credentials, &flipped, 0).is_err(), "bit {bit}");
        assert!(join.answer(&credentials, &flipped, 0).is_err(), "bit {bit}");
    }
    for cut in lengths(&m2) {
        assert!(hello.answer(&credentials, &cut, 0).is_err());
    }
}

/// Flips whose gate tag was made right again, as whoever knows the gate key can: the MACs alone must hold.
#[test]
fn of_m1_and_m3_by_one_who_knows_the_gate_key() {
    let keys = keyring(Standing::Active, true);
    let Session { hello, join, .. } = session(&greeting());
    let gate = siphasher::sip::SipHasher24::new_with_key(&GATE_KEY);
    for bit in 16..PACKET_LEN * 8 {
        for packet in [hello.packet(), join.packet()] {
            let mut flipped = *packet;
            flipped[bit / 8] ^= 1 << (bit % 8);
            let tag = gate.hash(&flipped[2..66]).to_le_bytes();
            flipped[66..74].copy_from_slice(&tag);
            if flipped == *packet {
                continue; // the flip was in the tag
            }
            assert!(m1(&mut receiver(), &flipped, home(), at(20), &keys).is_err(), "bit {bit}");
            assert!(m3(&mut receiver(), &flipped, home(), at(60), &keys).is_err(), "bit {bit}");
        }
    }
}

#[test]
fn of_m4_and_nak() {
    let keys = keyring(Standing::Active, true);
    let Session { credentials, hello, join, m4, .. } = session(&greeting());
    let refusal = Refusal::new(RefusalCode::LinkLimit, 30);
    let nak3 = proven(m3(&mut receiver(), join.packet(), home(), at(60), &keys)).refuse(refusal);
    let nak1 = m1(&mut receiver(), hello.packet(), home(), at(20), &keys).unwrap().refuse(refusal);
    assert_eq!((m4.len(), nak1.len()), (SHORT_LEN, SHORT_LEN));
    for packet in [m4, nak3] {
        assert!(join.confirm(&credentials, &packet).is_ok());
        for (bit, flipped) in flips(&packet) {
            assert!(join.confirm(&credentials, &flipped).is_err(), "bit {bit}");
        }
        for cut in lengths(&packet) {
            assert!(join.confirm(&credentials, &cut).is_err());
        }
    }
    assert!(hello.refused(&credentials, &nak1).is_ok());
    for (bit, flipped) in flips(&nak1) {
        assert!(hello.refused(&credentials, &flipped).is_err(), "bit {bit}");
    }
    for cut in lengths(&nak1) {
        assert!(hello.refused(&credentials, &cut).is_err());
    }
}

/// A stock sender's REG2 with a ticket: the ID is the ticket's, type and length are the packet parser's.
#[test]
fn of_a_stock_ticket() {
    let key = TicketKey::new([3; 32]);
    let half = counting::<HALF_LEN>(1);
    let mut packet = [0; PACKET_LEN];
    packet[..2].copy_from_slice(&[0x92, 0x01]);
    packet[2..130].copy_from_slice(&half);
    packet[130..].copy_from_slice(&key.issue(&half, 100, 1));
    let accepted = |packet: &[u8]| {
        View::new(packet).is_ok_and(|view| {
            let id: [u8; ID_LEN] = view.bytes()[2..].try_into().unwrap();
            view.packet_type() == 0x9201 && key.verify(&id, 100).is_ok()
        })
    };
    assert!(accepted(&packet));
    for (bit, flipped) in flips(&packet) {
        assert!(!accepted(&flipped), "bit {bit}");
    }
    assert!(lengths(&packet).all(|cut| !accepted(&cut)));
    let keys = keyring(Standing::Active, true);
    assert_eq!(silent(m3(&mut receiver(), &packet, home(), at(60), &keys)).as_str(), "magic");
}
