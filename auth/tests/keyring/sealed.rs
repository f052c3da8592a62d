//! The sealed form: what was sealed comes back; every change, cut and wrong key is noticed and named.

use crate::*;
use bondgate_auth::keyring::SealError;

const KEY: [u8; 32] = [0x11; 32];

fn full() -> Keyring {
    let mut keyring = keyring();
    keyring.enroll(device("pack", "acme", &["cam1"]), SERVER, &random(1), NOW).unwrap();
    keyring.rotate("pack", SERVER, &random(2), NOW, DAY).unwrap();
    keyring.rotate("pack", SERVER, &random(3), NOW, DAY).unwrap();
    keyring.rotate_gate([9; 16], NOW, false).unwrap();
    let new = NewToken {
        expires_ms: Some(NOW + DAY),
        once: true,
        from: vec![bondgate_auth::cidr::Cidr { addr: "2001:db8::".parse().unwrap(), prefix: 32 }],
        ..token("acme/cam1", Wish::Play)
    };
    keyring.create_token(new, &[7; 20], NOW).unwrap();
    keyring
}

#[test]
fn what_was_sealed_comes_back() {
    for keyring in [keyring(), full()] {
        let sealed = keyring.seal(&KEY, [1; 12]).unwrap();
        assert_eq!(Keyring::open(&sealed, &KEY).unwrap(), keyring);
        assert_ne!(keyring.seal(&KEY, [2; 12]).unwrap(), sealed);
    }
}

#[test]
fn nothing_of_it_can_be_read() {
    let sealed = full().seal(&KEY, [1; 12]).unwrap();
    let text = String::from_utf8_lossy(&sealed);
    for word in ["pack", "acme", "devices", "secret", SERVER] {
        assert!(!text.contains(word), "{word}");
    }
}

#[test]
fn every_flipped_bit_and_every_cut_is_noticed() {
    let sealed = full().seal(&KEY, [1; 12]).unwrap();
    for bit in 0..sealed.len() * 8 {
        let mut changed = sealed.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let error = Keyring::open(&changed, &KEY).unwrap_err();
        match bit / 8 {
            0..8 => assert_eq!(error, SealError::NotOne),
            8 => assert!(matches!(error, SealError::Version(_)), "{error}"),
            12..20 => assert_eq!(error, SealError::OtherKey),
            20..24 => assert!(matches!(error, SealError::Truncated { .. } | SealError::Extended), "{error}"),
            _ => assert_eq!(error, SealError::Tampered),
        }
    }
    for length in 1..sealed.len() {
        let error = Keyring::open(&sealed[..length], &KEY).unwrap_err();
        assert!(matches!(error, SealError::Truncated { found, .. } if found == length), "{length}: {error}");
    }
    assert_eq!(Keyring::open(&[&sealed[..], b"x"].concat(), &KEY), Err(SealError::Extended));
    assert_eq!(Keyring::open(b"", &KEY), Err(SealError::NotOne));
    assert_eq!(Keyring::open(&sealed, &[0x12; 32]), Err(SealError::OtherKey));
}

#[test]
fn errors_say_what_to_do() {
    let sealed = full().seal(&KEY, [1; 12]).unwrap();
    let mut later = sealed.clone();
    later[8] = 2;
    for (bytes, key, says) in [
        (&later[..], KEY, "has version 2, this program knows version 1"),
        (&sealed, [0; 32], "sealed under another key; restore the seal key"),
        (&sealed[..50], KEY, "truncated: 50 of"),
        (b"[srtla]", KEY, "no keyring"),
    ] {
        let error = Keyring::open(bytes, &key).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn slots_of_a_compiled_keyring_are_dense() {
    let mut keyring = keyring();
    for n in 0..500_u32 {
        let mut bytes = [3; 40];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        keyring.enroll(NewDevice::named(&format!("d{n}")), SERVER, &bytes, NOW).unwrap();
    }
    let sealed = keyring.seal(&KEY, [1; 12]).unwrap();
    let read = Keyring::open(&sealed, &KEY).unwrap();
    let table = read.compile(NOW);
    assert_eq!(table.len(), 500);
    let slots: std::collections::BTreeSet<u32> =
        read.devices().iter().map(|device| table.entry(&device.keys[0].id).unwrap().slot).collect();
    assert_eq!(slots.into_iter().collect::<Vec<_>>(), (0..500).collect::<Vec<_>>(), "slots are dense");
}
