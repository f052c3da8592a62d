//! What an attacker can do with packets that were seen, keys that are his own, or none.

use crate::rig::*;
use bondgate_auth::sa1::keys::{CookieKeys, DeviceKey, DeviceKeys, GateKey, GateKeys, Standing};
use bondgate_auth::sa1::receiver::{Budget, Joining, Lane, Reject, Verifier, cookie_age_is_good};
use bondgate_auth::sa1::sender::{Disbelief, Greeting, Hello, Outcome};
use bondgate_auth::sa1::wire::{LayoutError, PACKET_LEN, Refusal, RefusalCode, Terms, View};
use bondgate_auth::sa1::{Flags, KeyId, ListenerId, Nonce, StreamBind, address_bytes};
use proptest::prelude::*;
use std::net::SocketAddr;

fn other_session() -> Session {
    session(&Greeting {
        group: counting(0x12),
        link_nonce: counting(0x11),
        link_id: 6,
        links: 2,
        caps: 9,
        ..greeting()
    })
}

#[test]
fn a_hello_is_answered_once() {
    let keys = keyring(Standing::Active, false);
    let mut receiver = receiver();
    let Session { hello, .. } = session(&greeting());
    assert!(m1(&mut receiver, hello.packet(), home(), at(20), &keys).is_ok());
    for (from, ms) in [(home(), 20), (elsewhere(), 30), (home(), 59_000)] {
        assert_eq!(silent(m1(&mut receiver, hello.packet(), from, at(ms), &keys)), Reject::Replayed);
    }
    // When the filter has forgotten it, its time is over.
    let late = m1(&mut receiver, hello.packet(), home(), at(200_000), &keys).unwrap_err();
    assert_eq!(late.reason, Reject::Clock);
}

#[test]
fn a_cookie_is_worth_nothing_at_another_address() {
    let keys = keyring(Standing::Active, false);
    let Session { join, .. } = session(&greeting());
    for from in ["203.0.113.7:40001", "203.0.113.8:40000", "[2001:db8::7]:40000", "[::203.0.113.7]:40000"] {
        let from: SocketAddr = from.parse().unwrap();
        let (heard, why) = rechallenged(m3(&mut receiver(), join.packet(), from, at(60), &keys));
        assert_eq!((why, heard.from()), (Reject::CookieMac, from));
    }
    // A dual-stack socket shows IPv4 peers as mapped addresses: the same peer.
    let mapped: SocketAddr = "[::ffff:203.0.113.7]:40000".parse().unwrap();
    proven(m3(&mut receiver(), join.packet(), mapped, at(60), &keys));
    assert_eq!(address_bytes(mapped), address_bytes(home()));
}

/// Whoever owns a key but cannot read what is sent to the victim gets nowhere with the victim's address, whatever he
/// puts together from what he received himself.
#[test]
fn a_key_owner_cannot_join_a_victim() {
    let keys = keyring(Standing::Active, true);
    let mut receiver = receiver();
    let Session { join, m2, credentials, hello, .. } = session(&greeting());
    let victim = elsewhere();
    let own_cookie = hello.answer(&credentials, &m2, at(40).wall_ms).unwrap();
    for packet in [join.packet(), own_cookie.packet()] {
        let (heard, _) = rechallenged(m3(&mut receiver, packet, victim, at(60), &keys));
        // The challenge goes to the victim, and is no longer than what was sent.
        assert_eq!(heard.from(), victim);
        assert_eq!(challenge(&mut receiver, &heard, at(60)).len(), packet.len());
    }
}

#[test]
fn another_listener_does_not_take_it() {
    let keys = keyring(Standing::Active, true);
    let Session { hello, join, .. } = session(&greeting());
    let mut other = receiver_named(ListenerId::of("other.example:5000", &INSTANCE));
    assert_eq!(silent(m1(&mut other, hello.packet(), home(), at(20), &keys)), Reject::Listener);
    assert_eq!(silent(m3(&mut other, join.packet(), home(), at(60), &keys)), Reject::Listener);
}

/// Swaps any field between the packets of two honest sessions of one device.
#[test]
fn splices_of_two_sessions() {
    let keys = keyring(Standing::Active, true);
    let (one, two) = (session(&greeting()), other_session());
    let fields = [
        (6, 1),
        (7, 1),
        (8, 8),
        (16, 16),
        (32, 16),
        (48, 4),
        (52, 4),
        (56, 8),
        (64, 8),
        (72, 16),
        (88, 24),
        (112, 2),
        (114, 2),
        (0, 128),
        (131, 1),
        (132, 4),
        (136, 8),
        (144, 16),
        (160, 16),
        (176, 8),
        (128, 64),
        (224, 32),
    ];
    let mut tried = 0;
    for (at_id, len) in fields {
        let range = at_id + 2..at_id + 2 + len;
        let splice = |a: &[u8; PACKET_LEN], b: &[u8; PACKET_LEN]| {
            let mut spliced = *a;
            spliced[range.clone()].copy_from_slice(&b[range.clone()]);
            (spliced != *a && spliced != *b).then_some(spliced)
        };
        for (a, b) in [(&one, &two), (&two, &one)] {
            if let Some(packet) = splice(a.hello.packet(), b.hello.packet()) {
                tried += 1;
                silent(m1(&mut receiver(), &packet, home(), at(20), &keys));
            }
            if let Some(packet) = splice(a.join.packet(), b.join.packet()) {
                tried += 1;
                silent(m3(&mut receiver(), &packet, home(), at(60), &keys));
            }
            if let Some(packet) = splice(&a.m2, &b.m2) {
                tried += 1;
                assert!(a.hello.answer(&a.credentials, &packet, 0).is_err(), "{range:?}");
            }
        }
    }
    assert_eq!(tried, 56, "fields in which the sessions differ");
    assert_eq!(one.hello.answer(&one.credentials, &two.m2, 0).unwrap_err(), Disbelief::NotMine);
    assert_eq!(one.join.confirm(&one.credentials, &two.m4), Err(Disbelief::Mac));
}

#[test]
fn reflections() {
    let keys = keyring(Standing::Active, true);
    let Session { credentials, hello, m2, join, m4, .. } = session(&greeting());
    let mut receiver = receiver();
    // Every packet to every reader that is not meant for it, as it is and with the other packet type.
    for packet in [hello.packet(), &m2, join.packet()] {
        for packet_type in [0x00, 0x01, 0x02, 0x12] {
            let mut packet = *packet;
            packet[1] = packet_type;
            if packet != *hello.packet() {
                silent(m1(&mut receiver, &packet, home(), at(60), &keys));
            }
            if packet != *join.packet() {
                silent(m3(&mut receiver, &packet, home(), at(60), &keys));
            }
            if packet != m2 {
                assert!(hello.answer(&credentials, &packet, 0).is_err());
                assert!(join.answer(&credentials, &packet, 0).is_err());
            }
            assert!(join.confirm(&credentials, &packet).is_err());
        }
    }
    // A re-challenge echoes a join's half; sent back to the receiver it is a join but for its MAC.
    let (heard, _) = rechallenged(m3(&mut receiver, join.packet(), elsewhere(), at(60), &keys));
    let again = challenge(&mut receiver, &heard, at(60));
    assert_eq!(silent(m3(&mut receiver, &again, elsewhere(), at(60), &keys)), Reject::Mac3);
    // A refusal of a join is no confirmation, and a confirmation no refusal.
    let mut turned = m4;
    turned[1] = 0x12;
    assert!(join.confirm(&credentials, &turned).is_err());
    assert!(hello.refused(&credentials, &m4).is_err());
    let nak = proven(m3(&mut receiver, join.packet(), home(), at(60), &keys))
        .refuse(Refusal::new(RefusalCode::Draining, 0));
    assert_eq!(hello.refused(&credentials, &nak), Err(Disbelief::Mac), "bound to the join");
}

#[test]
fn flags_cannot_be_taken_away() {
    let keys = keyring(Standing::Active, true);
    let Session { mut credentials, hello, m2, join, .. } = session(&greeting());
    // On the wire: offered, accepted.
    for (packet, at_id) in [(*hello.packet(), 7), (*join.packet(), 7), (*join.packet(), 131)] {
        let mut stripped = packet;
        stripped[at_id + 2] = 0;
        silent(m1(&mut receiver(), &stripped, home(), at(20), &keys));
        silent(m3(&mut receiver(), &stripped, home(), at(60), &keys));
    }
    let mut stripped = m2;
    stripped[133] = 0;
    assert_eq!(hello.answer(&credentials, &stripped, 0).unwrap_err(), Disbelief::Mac);
    // By the receiver itself.
    let mut receiver = receiver();
    let heard = m1(&mut receiver, hello.packet(), home(), at(20), &keys).unwrap();
    let weak = receiver.challenge(&heard, at(20), &RANDOM, Flags::KEEPALIVE_MAC, Terms::default());
    assert_eq!(hello.answer(&credentials, &weak, 0).unwrap_err(), Disbelief::Downgrade);
    credentials.required = Flags::KEEPALIVE_MAC;
    assert!(hello.answer(&credentials, &weak, 0).is_ok());
    // More accepted than offered is no layout of ours.
    let mut more = m2;
    more[133] = 0b1000;
    assert_eq!(hello.answer(&credentials, &more, 0).unwrap_err(), Disbelief::Layout(LayoutError::Flags));
}

#[test]
fn foreign_keys() {
    let keys = keyring(Standing::Active, true);
    let (mut stranger, mut unknown) = (device(&[9; 32]), device(&DEVICE_SECRET));
    unknown.key_id = [0; 8];
    stranger.required = Flags::NONE;
    let knock = |hello: &Hello| silent(m1(&mut receiver(), hello.packet(), home(), at(0), &keys));
    assert_eq!(knock(&Hello::new(&stranger, &greeting(), at(0).wall_ms)), Reject::Mac1);
    assert_eq!(knock(&Hello::new(&unknown, &greeting(), at(0).wall_ms)), Reject::UnknownKey);
    let Session { hello, m2, join, m4, .. } = session(&greeting());
    assert_eq!(hello.answer(&stranger, &m2, 0).unwrap_err(), Disbelief::Mac);
    assert_eq!(join.confirm(&stranger, &m4), Err(Disbelief::Mac));
    // Right cookie, wrong MAC3: only a device that shares its challenge with a stranger gets there.
    let hello = Hello::new(&stranger, &greeting(), at(0).wall_ms);
    let lax = Keys::from([(
        KEY_ID,
        DeviceKey { keys: DeviceKeys::derive(&[9; 32]), standing: Standing::Active, clockless_allowed: true },
    )]);
    let mut receiver = receiver();
    let heard = m1(&mut receiver, hello.packet(), home(), at(0), &lax).unwrap();
    let m2 = challenge(&mut receiver, &heard, at(0));
    let join = hello.answer(&stranger, &m2, 0).unwrap();
    assert_eq!(silent(m3(&mut receiver, join.packet(), home(), at(10), &keys)), Reject::Mac3);
    assert_eq!(silent(m3(&mut receiver, join.packet(), home(), at(10), &Keys::new())), Reject::UnknownKey);
}

/// Counts what was paid, and refuses one lane.
struct Purse {
    paid: Vec<Lane>,
    empty: Option<Lane>,
}

impl Budget for Purse {
    fn take(&mut self, lane: Lane, _: SocketAddr, key_id: KeyId) -> bool {
        assert_eq!(key_id, KEY_ID);
        if self.empty == Some(lane) {
            return false;
        }
        self.paid.push(lane);
        true
    }
}

/// What costs nothing comes first: no MAC is paid for what layout, listener or gate can refuse, one at most for what
/// the cookie can.
#[test]
fn cheap_before_dear() {
    let keys = keyring(Standing::Active, true);
    let Session { hello, join, .. } = session(&greeting());
    let pay = |packet: &[u8], from: SocketAddr, empty: Option<Lane>, is_m3: bool| {
        let mut purse = Purse { paid: Vec::new(), empty };
        let reason = if is_m3 {
            let result = receiver().m3(packet, from, at(60), &keys, &mut purse, |_, _| true);
            result.map(|joining| matches!(joining, Joining::Proven(_))).map_err(|r| r.reason)
        } else {
            receiver().m1(packet, from, at(20), &keys, &mut purse).map(|_| true).map_err(|r| r.reason)
        };
        (reason, purse.paid)
    };
    assert_eq!(pay(hello.packet(), home(), None, false), (Ok(true), vec![Lane::Hello]));
    assert_eq!(pay(join.packet(), home(), None, true), (Ok(true), vec![Lane::Cookie, Lane::Join]));
    assert_eq!(
        pay(join.packet(), elsewhere(), None, true),
        (Ok(false), vec![Lane::Cookie, Lane::Rechallenge])
    );
    for lane in [Lane::Hello, Lane::Cookie, Lane::Join] {
        let (packet, is_m3) =
            if lane == Lane::Hello { (hello.packet(), false) } else { (join.packet(), true) };
        assert_eq!(pay(packet, home(), Some(lane), is_m3).0, Err(Reject::Budget(lane)));
    }
    let (reason, paid) = pay(join.packet(), elsewhere(), Some(Lane::Rechallenge), true);
    assert_eq!((reason, paid), (Err(Reject::Budget(Lane::Rechallenge)), vec![Lane::Cookie]));
    for (packet, is_m3) in [(hello.packet(), false), (join.packet(), true)] {
        for byte in (0..128).filter(|byte| !(88..116).contains(byte)) {
            let mut flipped = *packet;
            flipped[2 + byte] ^= 1;
            assert_eq!(pay(&flipped, home(), None, is_m3).1, [], "byte {byte}");
        }
    }
}

#[test]
fn expired_cookies_cost_one_mac() {
    let keys = keyring(Standing::Active, true);
    let Session { join, .. } = session(&greeting());
    let mut purse = Purse { paid: Vec::new(), empty: None };
    let result = receiver().m3(join.packet(), home(), at(40_000), &keys, &mut purse, |_, _| true);
    assert_eq!(rechallenged(result).1, Reject::CookieAge);
    assert_eq!(purse.paid, [Lane::Rechallenge]);
}

proptest! {
    /// Random bytes of any length, and random bytes under a right head, are met with silence.
    #[test]
    fn noise_is_met_with_silence(
        noise in prop::collection::vec(any::<u8>(), 0..600),
        body in prop::collection::vec(any::<u8>(), 252),
        join: bool,
    ) {
        let keys = keyring(Standing::Active, true);
        let mut receiver = receiver();
        let head: &[u8] = if join { b"\x92\x01SLA1\x01\x01\x03" } else { b"\x92\x00SLA1\x01\x01\x01" };
        let headed = [head, &body[..PACKET_LEN - head.len()]].concat();
        for packet in [&noise, &headed] {
            silent(m1(&mut receiver, packet, home(), at(0), &keys));
            silent(m3(&mut receiver, packet, home(), at(0), &keys));
        }
    }

    /// Registration with arbitrary contents succeeds, and what the receiver read is what the sender wrote.
    #[test]
    fn what_is_written_is_read(
        secret: [u8; 32], group: [u8; 16], link_nonce: [u8; 16], link_id: u32, links: u16, caps: u16,
        offered in 0u8..32, bind: [u8; 24], random: [u8; 10], boot_ms in 0..(1u64 << 48) - 31_000,
        wall_ms in 1..u64::MAX / 2, late_ms in 0u64..=30_000, port: u16, ip: u128,
    ) {
        let from = SocketAddr::from((ip.to_be_bytes(), port));
        let now = bondgate_auth::sa1::Now { boot_ms, wall_ms };
        let later = bondgate_auth::sa1::Now { boot_ms: boot_ms + late_ms, wall_ms };
        let key = DeviceKey { keys: DeviceKeys::derive(&secret), standing: Standing::Active, clockless_allowed: true };
        let keys = Keys::from([(KEY_ID, key)]);
        let mut sender = device(&secret);
        sender.bind = StreamBind(bind);
        sender.required = Flags::NONE;
        let offered = Flags::from_bits(offered).unwrap();
        let greeting = Greeting { group, link_nonce, link_id, links, offered, caps };
        let gate = GateKeys::new(GateKey::new(GATE_EPOCH, &GATE_KEY));
        let mut receiver = Verifier::new(listener(), Some(gate), CookieKeys::new(&COOKIE_SECRET, 0), seen());
        let hello = Hello::new(&sender, &greeting, wall_ms);
        let heard = m1(&mut receiver, hello.packet(), from, now, &keys).unwrap();
        let m2 = receiver.challenge(&heard, now, &random, BOTH_MACS, Terms::default());
        let (_, sent) = View::new(&m2).unwrap().m2().unwrap();
        prop_assert_eq!(sent.nonce, Nonce::issue(boot_ms, &random));
        prop_assert_eq!(sent.nonce.issued_ms(), boot_ms);
        let join = hello.answer(&sender, &m2, wall_ms).unwrap();
        let joined = proven(m3(&mut receiver, join.packet(), from, later, &keys));
        let said = joined.claims().sender;
        prop_assert_eq!((said.group, said.link_nonce, said.link_id), (group, link_nonce, link_id));
        prop_assert_eq!((said.links, said.caps, said.offered, said.bind), (links, caps, offered, StreamBind(bind)));
        prop_assert_eq!(joined.claims().accepted, offered.both(BOTH_MACS));
        let Ok(Outcome::Up(up)) = join.confirm(&sender, &joined.confirm(9)) else { panic!("not up") };
        prop_assert_eq!(up.keys, joined.link_keys());
    }

    /// The age check against plain arithmetic in wider integers.
    #[test]
    fn cookie_age_arithmetic(issued in 0..1u64 << 48, now: u64, near in -40_000i64..40_000) {
        for now in [now, issued.saturating_add_signed(near)] {
            let age = i128::from(now) - i128::from(issued);
            prop_assert_eq!(cookie_age_is_good(issued, now), (0..=30_000).contains(&age));
        }
    }
}
