//! What honest peers do: register, move, come back, have no clock, rotate keys.

use crate::rig::*;
use bondgate_auth::sa1::keys::{CookieKeys, DeviceKey, DeviceKeys, GateKey, GateKeys, Standing};
use bondgate_auth::sa1::receiver::{Placement, Reject, Unlimited, Verifier};
use bondgate_auth::sa1::sender::{Greeting, Hello, Outcome};
use bondgate_auth::sa1::wire::{LayoutError, Refusal, RefusalCode, Short, Terms};
use bondgate_auth::sa1::{Flags, ListenerId, Now, StreamBind};

#[test]
fn both_sides_agree_on_everything() {
    let keys = keyring(Standing::Active, false);
    let mut receiver = receiver();
    let device = device(&DEVICE_SECRET);
    let hello = Hello::new(&device, &greeting(), at(0).wall_ms);
    let heard = m1(&mut receiver, hello.packet(), home(), at(20), &keys).unwrap();
    assert_eq!((heard.claims().key_id, heard.claims().group, heard.claims().link_id), (KEY_ID, GROUP, 5));
    assert!(heard.claims().bind.admits("acme", "cam1") && !heard.claims().bind.admits("acme", "cam2"));
    let m2 = challenge(&mut receiver, &heard, at(20));
    assert_eq!(m2.len(), hello.packet().len(), "no amplification");
    assert_eq!(m2[2..130], hello.packet()[2..130], "stock senders compare the sender half");
    let join = hello.answer(&device, &m2, at(40).wall_ms).unwrap();
    let joined = proven(m3(&mut receiver, join.packet(), home(), at(60), &keys));
    assert_eq!(joined.from(), home());
    assert_eq!(joined.claims().accepted, BOTH_MACS, "the data MAC was offered, and is not wanted here");
    let Ok(Outcome::Up(up)) = join.confirm(&device, &joined.confirm(77)) else { panic!("not up") };
    assert_eq!((up.confirmation.link_id, up.confirmation.link_handle), (5, 77));
    assert!(!up.confirmation.key_retiring);
    assert_eq!((up.accepted, up.nonce, up.terms), (BOTH_MACS, joined.claims().nonce, Terms::default()));
    assert_eq!(up.keys, joined.link_keys());
    let (mut seal, mut open) = up.keys.sender_ends();
    let (mut seal_back, mut open_there) = joined.link_keys().receiver_ends();
    let keepalive = [0x90, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    let (sealed, len) = seal.seal(&keepalive).unwrap();
    assert_eq!(open_there.open(&sealed[..len]).unwrap(), keepalive);
    let (sealed, len) = seal_back.seal(&keepalive).unwrap();
    assert_eq!(open.open(&sealed[..len]).unwrap(), keepalive);
}

#[test]
fn a_retiring_key_is_told_and_an_expired_one_refused() {
    let device = device(&DEVICE_SECRET);
    let Session { join, hello, .. } = session(&greeting());
    let retiring = keyring(Standing::Retiring, false);
    let m4 = proven(m3(&mut receiver(), join.packet(), home(), at(60), &retiring)).confirm(1);
    let Ok(Outcome::Up(up)) = join.confirm(&device, &m4) else { panic!("not up") };
    assert!(up.confirmation.key_retiring);

    let expired = keyring(Standing::Expired, false);
    let rejected = m3(&mut receiver(), join.packet(), home(), at(60), &expired).unwrap_err();
    assert_eq!(rejected.reason, Reject::KeyExpired);
    let refusal = Refusal::new(RefusalCode::KeyExpired, 0);
    assert_eq!(join.confirm(&device, &rejected.answer.unwrap()), Ok(Outcome::Refused(refusal)));
    let rejected = m1(&mut receiver(), hello.packet(), home(), at(60), &expired).unwrap_err();
    assert_eq!(rejected.reason, Reject::KeyExpired);
    assert_eq!(hello.refused(&device, &rejected.answer.unwrap()), Ok(refusal));
}

#[test]
fn every_refusal_reaches_hello_and_join() {
    let keys = keyring(Standing::Active, false);
    let Session { credentials, hello, join, .. } = session(&greeting());
    for code in RefusalCode::ALL {
        let refusal =
            if code == RefusalCode::Version { Refusal::version() } else { Refusal::new(code, 0x0102_0304) };
        let heard = m1(&mut receiver(), hello.packet(), home(), at(20), &keys).unwrap();
        assert_eq!(heard.from(), home());
        assert_eq!(hello.refused(&credentials, &heard.refuse(refusal)), Ok(refusal));
        let joined = proven(m3(&mut receiver(), join.packet(), home(), at(60), &keys));
        assert_eq!(join.confirm(&credentials, &joined.refuse(refusal)), Ok(Outcome::Refused(refusal)));
        assert_eq!(
            refusal.retry_after_s(),
            if code == RefusalCode::Version { None } else { Some(0x0102_0304) }
        );
    }
}

#[test]
fn cookie_age() {
    let keys = keyring(Standing::Active, false);
    let Session { join, .. } = session(&greeting());
    // The challenge was issued at 20 ms.
    for (age_ms, good) in [(0, true), (1, true), (30_000, true), (30_001, false), (31_000, false)] {
        let result = m3(&mut receiver(), join.packet(), home(), at(20 + age_ms), &keys);
        if good {
            proven(result);
        } else {
            // Its clock is right, so it is challenged anew rather than dropped.
            assert_eq!(rechallenged(result).1, Reject::CookieAge, "{age_ms}");
        }
    }
    let result = m3(&mut receiver(), join.packet(), home(), at(19), &keys);
    assert_eq!(rechallenged(result).1, Reject::CookieAge, "from the future");
}

#[test]
fn cookie_epochs_turn() {
    let keys = keyring(Standing::Active, false);
    let device = device(&DEVICE_SECRET);
    let mut receiver = receiver();
    // The epoch ends 110 s after the start: issued 1 s before, back 1 s after.
    let hello = Hello::new(&device, &greeting(), at(109_000).wall_ms);
    let heard = m1(&mut receiver, hello.packet(), home(), at(109_000), &keys).unwrap();
    let m2 = challenge(&mut receiver, &heard, at(109_000));
    let join = hello.answer(&device, &m2, at(109_500).wall_ms).unwrap();
    proven(m3(&mut receiver, join.packet(), home(), at(111_000), &keys));
    proven(m3(&mut receiver, join.packet(), home(), at(139_000), &keys));
    // Two epochs on, the key is gone.
    let result = receiver.m3(join.packet(), home(), at(230_000), &keys, &mut Unlimited, |_, _| true);
    assert_eq!(rechallenged(result).1, Reject::CookieEpoch);
    // A clock that goes back (it must not) gives the old keys again, and nothing worse.
    proven(m3(&mut receiver, join.packet(), home(), at(111_000), &keys));
}

#[test]
fn shards_of_one_process_take_each_others_cookies() {
    let keys = keyring(Standing::Active, false);
    let Session { join, .. } = session(&greeting());
    let later = Verifier::new(
        listener(),
        Some(GateKeys::new(GateKey::new(GATE_EPOCH, &GATE_KEY))),
        CookieKeys::new(&COOKIE_SECRET, 0),
        seen(),
    );
    let mut other_shard = later;
    proven(m3(&mut other_shard, join.packet(), home(), at(60), &keys));
}

#[test]
fn a_moved_link_is_challenged_anew_and_replaces_itself() {
    let keys = keyring(Standing::Active, false);
    let mut receiver = receiver();
    let Session { credentials, join, m2, .. } = session(&greeting());
    let first = proven(m3(&mut receiver, join.packet(), home(), at(60), &keys));
    let link = Some((first.claims().nonce, home()));
    assert_eq!(first.placement(None), Placement::New);
    assert_eq!(first.placement(link), Placement::Repeated);

    // The NAT moves the link: the same join from another port.
    let (heard, why) = rechallenged(m3(&mut receiver, join.packet(), elsewhere(), at(1000), &keys));
    assert_eq!((why, heard.from()), (Reject::CookieMac, elsewhere()));
    let again = receiver.challenge(&heard, at(1000), &[1; 10], BOTH_MACS, Terms::default());
    assert_eq!(join.answer(&credentials, &m2, 0).unwrap().map(|_| ()), None, "answered already");
    let second = join.answer(&credentials, &again, at(1020).wall_ms).unwrap().unwrap();
    let moved = proven(m3(&mut receiver, second.packet(), elsewhere(), at(1040), &keys));
    assert_eq!(moved.placement(link), Placement::Moved);
    assert_ne!(moved.link_keys(), first.link_keys());
    let link = Some((moved.claims().nonce, elsewhere()));
    assert_eq!(moved.placement(link), Placement::Repeated);
    // The old join, replayed from the old address, does not drag it back.
    let replayed = proven(m3(&mut receiver, join.packet(), home(), at(1100), &keys));
    assert_eq!(replayed.placement(link), Placement::Old);
    assert_eq!(moved.placement(Some((first.claims().nonce, elsewhere()))), Placement::Renewed);
    assert_eq!(moved.placement(Some((moved.claims().nonce, home()))), Placement::Old);
}

#[test]
fn a_restarted_receiver_challenges_anew() {
    let keys = keyring(Standing::Active, false);
    let Session { credentials, join, .. } = session(&greeting());
    let gate = GateKeys::new(GateKey::new(GATE_EPOCH, &GATE_KEY));
    let mut restarted =
        Verifier::new(listener(), Some(gate), CookieKeys::new(&[0xDD; 32], at(5000).boot_ms), seen());
    let (heard, why) = rechallenged(m3(&mut restarted, join.packet(), home(), at(5000), &keys));
    assert_eq!(why, Reject::CookieMac);
    let m2 = challenge(&mut restarted, &heard, at(5000));
    let join = join.answer(&credentials, &m2, at(5020).wall_ms).unwrap().unwrap();
    proven(m3(&mut restarted, join.packet(), home(), at(5040), &keys));
}

#[test]
fn an_old_join_is_stale_unless_its_group_lives_or_its_key_may_be_clockless() {
    let Session { join, .. } = session(&greeting());
    let late = at(200_000);
    let strict = keyring(Standing::Active, false);
    assert_eq!(silent(m3(&mut receiver(), join.packet(), home(), late, &strict)), Reject::Stale);
    let mut asked = None;
    let lives = |key: [u8; 8], group: &[u8; 16]| {
        asked = Some((key, *group));
        true
    };
    rechallenged(receiver().m3(join.packet(), home(), late, &strict, &mut Unlimited, lives));
    assert_eq!(asked, Some((KEY_ID, GROUP)));
    rechallenged(m3(&mut receiver(), join.packet(), home(), late, &keyring(Standing::Active, true)));
}

#[test]
fn clocks() {
    let device = device(&DEVICE_SECRET);
    let (strict, lenient) = (keyring(Standing::Active, false), keyring(Standing::Active, true));
    let wall = at(0).wall_ms;
    let clockless = Greeting { offered: Flags::CLOCKLESS.with(BOTH_MACS), ..greeting() };
    for (what, greeting, time, good) in [
        ("right", greeting(), wall, true),
        ("90 s behind", greeting(), wall - 90_000, true),
        ("90 s ahead", greeting(), wall + 90_000, true),
        ("more behind", greeting(), wall - 90_001, false),
        ("more ahead", greeting(), wall + 90_001, false),
        ("none", greeting(), 0, false),
        ("the end of time", greeting(), u64::MAX, false),
        ("right, but the device does not trust it", clockless, wall, false),
        ("none, and says so", clockless, 0, false),
    ] {
        let hello = Hello::new(&device, &greeting, time);
        let result = m1(&mut receiver(), hello.packet(), home(), at(0), &strict);
        if good {
            result.unwrap();
        } else {
            let rejected = result.unwrap_err();
            assert_eq!(rejected.reason, Reject::Clock, "{what}");
            let refusal = hello.refused(&device, &rejected.answer.unwrap()).unwrap();
            assert_eq!(refusal, Refusal::new(RefusalCode::ClockRequired, 0));
        }
        // A key that allows it registers with any clock, through to the end: the cookie alone is the freshness.
        let mut receiver = receiver();
        let heard = m1(&mut receiver, hello.packet(), home(), at(0), &lenient).unwrap();
        let m2 = challenge(&mut receiver, &heard, at(0));
        let join = hello.answer(&device, &m2, time).unwrap();
        let joined = proven(m3(&mut receiver, join.packet(), home(), at(20), &lenient));
        assert_eq!(joined.claims().accepted, BOTH_MACS);
    }
}

#[test]
fn gate_keys_rotate() {
    let keys = keyring(Standing::Active, false);
    let key = |epoch: u32| GateKey::new(epoch, &[epoch as u8; 16]);
    let knock = |gate: Option<GateKeys>, epoch: u32| {
        let mut device = device(&DEVICE_SECRET);
        device.gate = key(epoch);
        let hello = Hello::new(&device, &greeting(), START.wall_ms);
        let mut receiver = receiver();
        receiver.set_gate(gate);
        m1(&mut receiver, hello.packet(), home(), START, &keys).map(|_| ()).map_err(|r| r.reason)
    };
    let gate = GateKeys::new(key(7));
    assert_eq!((knock(Some(gate), 7), knock(Some(gate), 8)), (Ok(()), Err(Reject::GateEpoch)));
    let announced = gate.announce(key(8));
    assert_eq!((knock(Some(announced), 7), knock(Some(announced), 8)), (Ok(()), Ok(())));
    let rotated = announced.rotate(key(8));
    assert_eq!((knock(Some(rotated), 7), knock(Some(rotated), 8)), (Ok(()), Ok(())));
    let rotated = rotated.rotate(key(9));
    assert_eq!(knock(Some(rotated), 7), Err(Reject::GateEpoch));
    assert_eq!((knock(Some(rotated), 8), knock(Some(rotated), 9)), (Ok(()), Ok(())));
    assert_eq!(knock(Some(GateKeys::new(GateKey::new(9, &[1; 16]))), 9), Err(Reject::GateTag));
    assert_eq!(knock(None, 1234), Ok(()), "gate off");
    // A key that rotates at the sender between hello and join does not break the cookie.
    let mut credentials = device(&DEVICE_SECRET);
    let Session { hello, m2, .. } = session(&greeting());
    credentials.gate = key(8);
    let join = hello.answer(&credentials, &m2, at(40).wall_ms).unwrap();
    proven(m3(&mut receiver(), join.packet(), home(), at(60), &keys));
}

#[test]
fn a_later_version_is_told_what_is_spoken_if_its_mac_is_right() {
    let keys = keyring(Standing::Active, false);
    let Session { credentials, hello, .. } = session(&greeting());
    for (offset, value) in [(6, 2), (7, 2), (6, 0)] {
        let mut later = *hello.packet();
        later[offset] = value;
        assert_eq!(
            silent(m1(&mut receiver(), &later, home(), at(0), &keys)),
            Reject::Layout(LayoutError::Version)
        );
        resign_m1(&mut later);
        let rejected = m1(&mut receiver(), &later, home(), at(0), &keys).unwrap_err();
        assert_eq!(rejected.reason, Reject::Layout(LayoutError::Version));
        let answer = rejected.answer.expect("answered");
        let (short, ..) = Short::parse(&answer).unwrap();
        assert_eq!(short, Short::Refusal(Refusal { code: RefusalCode::Version, detail: [1, 1, 1, 1] }));
        assert!(hello.refused(&credentials, &answer).is_err(), "bound to another hello");
    }
}

/// Gate tag and MAC1 anew, as a sender of a later version would make them; written without the crate's own functions.
fn resign_m1(packet: &mut [u8; 258]) {
    let gate = siphasher::sip::SipHasher24::new_with_key(&GATE_KEY);
    let tag = gate.hash(&packet[2..66]).to_le_bytes();
    packet[66..74].copy_from_slice(&tag);
    let hmac = |key: &[u8], data: &[&[u8]]| {
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key);
        let mut context = ring::hmac::Context::with_key(&key);
        for part in data {
            context.update(part);
        }
        context.sign()
    };
    let prk = hmac(b"srtla-sa1", &[&DEVICE_SECRET]);
    let c2s = hmac(prk.as_ref(), &[b"c2s\x01"]);
    let mac = hmac(c2s.as_ref(), &[b"SA1-M1", &packet[..226]]);
    packet[226..].copy_from_slice(mac.as_ref());
}

#[test]
fn names_bind() {
    assert_ne!(ListenerId::of("a", &INSTANCE), ListenerId::of("b", &INSTANCE));
    assert_ne!(ListenerId::of("a", &INSTANCE), ListenerId::of("a", &KEY_ID));
    assert!(StreamBind::ANY.admits("any", "thing"));
    assert_ne!(StreamBind::of("ab", "c"), StreamBind::of("a", "bc"));
}

#[test]
fn reasons_have_names_of_their_own() {
    let names: std::collections::HashSet<_> = Reject::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(names.len(), Reject::ALL.len());
    assert!(Reject::ALL.iter().all(|reason| reason.to_string() == reason.as_str()));
}

#[test]
fn debug_shows_no_secret() {
    let Session { credentials, join, .. } = session(&greeting());
    let keys = keyring(Standing::Active, false);
    let joined = proven(m3(&mut receiver(), join.packet(), home(), at(60), &keys)).link_keys();
    let key: &DeviceKey = &keys[&KEY_ID];
    let shown = format!("{credentials:?} {key:?} {joined:?} {:?}", receiver());
    assert!(shown.contains("DeviceKeys(redacted)") && shown.contains("LinkKeys(redacted)"), "{shown}");
    assert_eq!(format!("{:?}", DeviceKeys::derive(&[1; 32])), "DeviceKeys(redacted)");
    let Now { boot_ms, .. } = START;
    assert!(!shown.contains("[64, 65, 66") && boot_ms > 0);
}
