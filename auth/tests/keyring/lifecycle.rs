//! Devices, keys, gate keys and tokens from their making to their end.

use crate::*;
use Standing::{Active, Expired, Retiring};
use bondgate_auth::keyring::{KeyStanding, KeyringError};
use bondgate_auth::sa1::keys::{CookieKeys, GateKey, Standing};
use bondgate_auth::sa1::receiver::{Unlimited, Verifier};
use bondgate_auth::sa1::replay::SeenFilter;
use bondgate_auth::sa1::sender::{Greeting, Hello};
use bondgate_auth::sa1::{Flags, KeyId, Now, StreamBind};
use bondgate_auth::stream::TokenHash;

/// The standings of a device's keys in the compiled table at a moment, oldest first; `None`: not in the table.
fn standings(keyring: &Keyring, ids: &[KeyId], at_ms: u64) -> Vec<Option<Standing>> {
    let table = keyring.compile(at_ms);
    ids.iter().map(|id| table.entry(id).map(|entry| entry.key.standing)).collect()
}

#[test]
fn an_enrolled_device_is_in_the_table_with_its_rules() {
    let mut keyring = keyring();
    let new =
        NewDevice { clockless: true, links_max: 3, ..device("pack", "acme", &["cam1", "acme/cam2", "cam1"]) };
    let given = keyring.enroll(new, SERVER, &random(1), NOW).unwrap();
    assert_eq!(
        (given.server.as_str(), given.device.as_str(), given.tenant.as_str()),
        (SERVER, "pack", "acme")
    );
    assert_eq!((given.stream.as_str(), given.bind()), ("", StreamBind::ANY), "two streams: not bound to one");
    assert_eq!(given.gate, Some((1, [0x40; 16])));
    assert_eq!(given.listener, keyring.listener());
    assert_eq!(Provision::parse(&given.to_uri()).unwrap(), given);

    let table = keyring.compile(NOW);
    let entry = table.entry(&given.key_id).unwrap();
    assert_eq!((table.len(), entry.slot, entry.key.clockless_allowed), (1, 0, true));
    assert_eq!((&*entry.rules.name, &*entry.rules.tenant, entry.rules.links_max), ("pack", "acme", 3));
    let streams: Vec<&str> = entry.rules.streams.iter().map(|stream| &**stream).collect();
    assert_eq!(streams, ["acme/cam1", "acme/cam2"]);
    assert!(entry.rules.allows_bind(&StreamBind::of("acme", "acme/cam2")));
    assert!(!entry.rules.allows_bind(&StreamBind::of("acme", "acme/cam3")));

    let bound = keyring.enroll(device("solo", "acme", &["cam9"]), SERVER, &random(2), NOW).unwrap();
    assert_eq!((bound.stream.as_str(), bound.bind()), ("acme/cam9", StreamBind::of("acme", "acme/cam9")));
    assert_eq!(bound.listener, given.listener, "a later device knows the same receiver");
    let elsewhere = keyring.rotate("solo", "[2001:db8::1]:6000", &random(3), NOW, DAY).unwrap();
    assert_eq!(elsewhere.listener, given.listener, "also when the receiver has moved");
    assert_eq!(keyring.server(), "[2001:db8::1]:6000");
}

#[test]
fn what_the_table_holds_is_what_the_device_derives() {
    let mut keyring = keyring();
    let given = Provision::parse(&enroll(&mut keyring, "pack", 1).to_uri()).unwrap();
    let credentials = given.credentials(Flags::NONE);
    let greeting =
        Greeting { group: [1; 16], link_nonce: [2; 16], link_id: 1, links: 1, offered: Flags::NONE, caps: 0 };
    let hello = Hello::new(&credentials, &greeting, NOW);
    let mut receiver = Verifier::new(
        keyring.listener(),
        Some(keyring.gate_keys()),
        CookieKeys::new(&[5; 32], 0),
        SeenFilter::new(&[6; 16], 0),
    );
    let now = Now { boot_ms: 1000, wall_ms: NOW };
    let from = "192.0.2.1:5".parse().unwrap();
    let table = keyring.compile(NOW);
    let accepted = receiver.m1(hello.packet(), from, now, &table, &mut Unlimited);
    assert!(accepted.is_ok(), "{accepted:?}");
}

#[test]
fn a_rotated_key_has_its_grace_and_not_a_millisecond_more() {
    let mut keyring = keyring();
    let first = enroll(&mut keyring, "pack", 1).key_id;
    let second = keyring.rotate("pack", SERVER, &random(2), NOW, DAY).unwrap().key_id;
    assert_eq!(keyring.next_change_ms(NOW), Some(NOW + DAY));
    assert_eq!(standings(&keyring, &[first, second], NOW), [Some(Retiring), Some(Active)]);
    assert_eq!(standings(&keyring, &[first, second], NOW + DAY - 1), [Some(Retiring), Some(Active)]);
    assert_eq!(standings(&keyring, &[first, second], NOW + DAY), [Some(Expired), Some(Active)]);
    assert_eq!(keyring.next_change_ms(NOW + DAY), None);

    // A third key while two are valid: the oldest ends at once.
    let third = keyring.rotate("pack", SERVER, &random(3), NOW + 1, 2 * DAY).unwrap().key_id;
    let all = [first, second, third];
    assert_eq!(standings(&keyring, &all, NOW + 1), [None, Some(Retiring), Some(Active)]);
    assert_eq!(keyring.next_change_ms(NOW + 1), Some(NOW + 1 + 2 * DAY));

    // Without grace the one before is gone, and the one before that keeps what it was promised.
    let fourth = keyring.rotate("pack", SERVER, &random(4), NOW + 2, 0).unwrap().key_id;
    let all = [first, second, third, fourth];
    assert_eq!(standings(&keyring, &all, NOW + 2), [None, Some(Retiring), None, Some(Active)]);
}

#[test]
fn never_more_than_two_valid_keys_and_a_bounded_memory_of_ended_ones() {
    let mut keyring = keyring();
    enroll(&mut keyring, "pack", 0);
    for n in 1..60_u8 {
        let grace = if n % 5 == 0 { 0 } else { DAY };
        let now = NOW + u64::from(n) * if n % 7 == 0 { DAY } else { 1 };
        keyring.rotate("pack", SERVER, &random(n), now, grace).unwrap();
        let keys = &keyring.device("pack").unwrap().keys;
        let valid = keys.iter().filter(|key| key.is_valid(now)).count();
        assert!((1..=2).contains(&valid), "{n}: {keys:?}");
        assert_eq!(keys.last().unwrap().standing(now), KeyStanding::Active);
        assert!(keys.len() <= 10, "{n}: {}", keys.len());
    }
}

#[test]
fn revoked_keys_and_disabled_devices_are_not_in_the_table() {
    let mut keyring = keyring();
    let pack = enroll(&mut keyring, "pack", 1).key_id;
    let other = enroll(&mut keyring, "other", 2).key_id;
    assert_eq!(keyring.revoke(&pack, NOW).unwrap(), "pack");
    assert_eq!(standings(&keyring, &[pack, other], NOW), [None, Some(Active)]);
    assert!(matches!(keyring.revoke(&pack, NOW), Err(KeyringError::NoKey(_))), "twice is a mistake");
    keyring.set_enabled("other", false).unwrap();
    assert!(keyring.compile(NOW).is_empty());
    keyring.set_enabled("other", true).unwrap();
    assert_eq!(standings(&keyring, &[other], NOW), [Some(Active)]);
    keyring.rotate("other", SERVER, &random(3), NOW, DAY).unwrap();
    assert_eq!(keyring.revoke_all("other", NOW), Ok(2));
    assert!(keyring.compile(NOW).is_empty());
    // A device whose keys have all ended gets a new one like any other.
    let again = keyring.rotate("other", SERVER, &random(4), NOW, DAY).unwrap().key_id;
    assert_eq!(standings(&keyring, &[again], NOW), [Some(Active)]);
    keyring.remove("other").unwrap();
    assert!(keyring.compile(NOW).is_empty());
    assert_eq!(keyring.remove("other"), Err(KeyringError::NoDevice("other".into())));
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let mut keyring = keyring();
    enroll(&mut keyring, "pack", 1);
    keyring.enroll(device("solo", "", &["studio/cam"]), SERVER, &random(2), NOW).unwrap();
    keyring.enroll(device("rent", "acme", &[]), SERVER, &random(3), NOW).unwrap();
    let before = keyring.clone();
    for (new, server, n, says) in [
        (NewDevice::named("pack"), SERVER, 9, "key rotate pack"),
        (NewDevice::named("a b"), SERVER, 9, "cannot be a device name"),
        (device("x", "a/b", &[]), SERVER, 9, "cannot be a tenant name"),
        (device("x", "", &["a//b"]), SERVER, 9, "cannot be a stream name"),
        (device("x", "", &["acme/cam1"]), SERVER, 9, "one of tenant acme's"),
        (device("x", "studio", &[]), SERVER, 9, "would own stream studio/cam, which device solo"),
        (NewDevice::named("x"), "gate.example", 9, "the port is missing"),
        (NewDevice { links_max: 0, ..NewDevice::named("x") }, SERVER, 9, "at least one"),
        (NewDevice::named("x"), SERVER, 1, "repeats itself"),
    ] {
        let error = keyring.enroll(new.clone(), server, &random(n), NOW).unwrap_err().to_string();
        assert!(error.contains(says), "{new:?}: {error}");
        assert_eq!(keyring, before);
    }
    assert_eq!(
        keyring.rotate("nobody", SERVER, &random(9), NOW, 0),
        Err(KeyringError::NoDevice("nobody".into()))
    );
    let error = keyring.create_token(token("a b", Wish::Play), &[1; 20], NOW).unwrap_err().to_string();
    assert!(error.starts_with("\"a b\" cannot be a stream name"), "{error}");
    assert_eq!(keyring, before);
}

#[test]
fn every_change_counts_the_generation_up() {
    let mut keyring = keyring();
    let mut last = keyring.generation();
    let mut moved = |keyring: &Keyring, what: &str| {
        assert!(keyring.generation() > last, "{what}");
        last = keyring.generation();
    };
    let key = enroll(&mut keyring, "pack", 1).key_id;
    moved(&keyring, "enroll");
    keyring.rotate("pack", SERVER, &random(2), NOW, DAY).unwrap();
    moved(&keyring, "rotate");
    keyring.revoke(&key, NOW).unwrap();
    moved(&keyring, "revoke");
    keyring.set_enabled("pack", false).unwrap();
    moved(&keyring, "disable");
    keyring.rotate_gate([2; 16], NOW, false).unwrap();
    moved(&keyring, "gate");
    let text =
        keyring.create_token(NewToken { once: true, ..token("cam1", Wish::Publish) }, &[1; 20], NOW).unwrap();
    moved(&keyring, "token");
    let id = TokenHash::of_text(&text).unwrap().id();
    assert!(keyring.spend_token(id, NOW));
    moved(&keyring, "spend");
    assert!(!keyring.spend_token(id, NOW), "once is once");
    assert_eq!(keyring.prune_tokens(NOW).len(), 1);
    moved(&keyring, "prune");
    keyring.create_token(token("cam1", Wish::Publish), &[1; 20], NOW).unwrap();
    moved(&keyring, "token");
    keyring.revoke_token(id).unwrap();
    moved(&keyring, "revoke token");
    keyring.revoke_all("pack", NOW).unwrap();
    moved(&keyring, "revoke all");
    keyring.remove("pack").unwrap();
    moved(&keyring, "remove");
}

#[test]
fn a_gate_key_in_use_is_not_dropped() {
    let mut keyring = keyring();
    let early = enroll(&mut keyring, "early", 1);
    let rotation = keyring.rotate_gate([0x41; 16], NOW, false).unwrap();
    assert_eq!((rotation.epoch, rotation.behind.as_slice()), (2, &["early".to_owned()][..]));
    let late = enroll(&mut keyring, "late", 2);
    assert_eq!(late.gate, Some((2, [0x41; 16])));
    // The device that was provisioned before still passes the gate.
    let gates = keyring.gate_keys();
    let (epoch, key) = early.gate.unwrap();
    assert_eq!(gates.get(epoch).unwrap().tag(&[7; 64]), GateKey::new(epoch, &key).tag(&[7; 64]));
    assert_eq!(keyring.gate_epochs(), (2, Some(1)));
    assert_eq!(keyring.behind_gate(NOW), ["early"]);

    // The next rotation would lock it out.
    assert_eq!(
        keyring.rotate_gate([0x42; 16], NOW, false),
        Err(KeyringError::GateHeld(vec!["early".into()]))
    );
    assert_eq!(keyring.gate_epochs(), (2, Some(1)));
    // With a new key it holds the newest gate key; the old key's grace still holds the old one.
    keyring.rotate("early", SERVER, &random(3), NOW, DAY).unwrap();
    assert!(keyring.rotate_gate([0x42; 16], NOW + DAY - 1, false).is_err());
    let rotation = keyring.rotate_gate([0x42; 16], NOW + DAY, false).unwrap();
    assert_eq!((rotation.epoch, rotation.locked_out.len(), rotation.behind.len()), (3, 0, 2));
    assert!(keyring.gate_keys().get(1).is_none() && keyring.gate_keys().get(2).is_some());

    // Disabled devices do not count; force does it all the same and says whom it locked out.
    keyring.set_enabled("late", false).unwrap();
    let rotation = keyring.rotate_gate([0x43; 16], NOW + DAY, true).unwrap();
    assert_eq!((rotation.locked_out.as_slice(), rotation.behind.len()), (&["early".to_owned()][..], 0));
}

#[test]
fn useless_tokens_are_pruned() {
    let mut keyring = keyring();
    for n in 0..3_u8 {
        let expires_ms = (n > 0).then_some(NOW + u64::from(n));
        keyring.create_token(NewToken { expires_ms, ..token("cam1", Wish::Play) }, &[n; 20], NOW).unwrap();
    }
    assert!(keyring.prune_tokens(NOW).is_empty());
    assert_eq!(keyring.prune_tokens(NOW + 1).len(), 1);
    assert_eq!(keyring.tokens().len(), 2);
    assert_eq!(keyring.create_token(token("cam2", Wish::Play), &[0; 20], NOW), Err(KeyringError::Random));
}

#[test]
fn nothing_shows_a_secret() {
    let mut keyring = keyring();
    let given = enroll(&mut keyring, "pack", 1);
    let token = keyring.create_token(token("cam1", Wish::Publish), &[0xAB; 20], NOW).unwrap();
    let shown = format!("{keyring:?} {:?} {given:?} {:?}", keyring.compile(NOW), keyring.gate_keys());
    let uri = given.to_uri();
    let secret = bondgate_auth::keyring::hex(&given.secret);
    let listed: Vec<String> = given.secret.iter().map(ToString::to_string).collect();
    for hidden in
        [&uri[uri.find("bgg_").unwrap()..], &secret, &listed.join(", "), &token, "4040404040", "64, 64, 64"]
    {
        assert!(!shown.contains(hidden), "{hidden} in {shown}");
    }
    assert!(shown.contains("pack") && shown.contains("cam1"));
}
