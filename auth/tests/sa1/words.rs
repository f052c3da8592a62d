//! What errors say, and the corners of the sender that no honest receiver leads into.

use crate::rig::*;
use bondgate_auth::cidr::Cidr;
use bondgate_auth::sa1::keys::Standing;
use bondgate_auth::sa1::sender::Disbelief;
use bondgate_auth::sa1::trailer::TrailerError;
use bondgate_auth::sa1::wire::{LayoutError, View};
use bondgate_auth::ticket::TicketError;

#[test]
fn errors_have_words_of_their_own() {
    let words = [
        Disbelief::Layout(LayoutError::Code).to_string(),
        Disbelief::NotMine.to_string(),
        Disbelief::Mac.to_string(),
        Disbelief::Downgrade.to_string(),
        TrailerError::Shape.to_string(),
        TrailerError::Replayed.to_string(),
        TrailerError::Mac.to_string(),
        TicketError::Format.to_string(),
        TicketError::Epoch.to_string(),
        TicketError::Mac.to_string(),
        LayoutError::Code.to_string(),
    ];
    assert_eq!(words[0], format!("layout: {}", LayoutError::Code));
    let mut unique = words.to_vec();
    unique.sort();
    unique.dedup();
    assert!(unique.len() == words.len() && words.iter().all(|words| words.len() > 3), "{words:?}");
}

#[test]
fn neither_end_of_a_trailer_shows_its_key() {
    let keys = keyring(Standing::Active, false);
    let Session { join, .. } = session(&greeting());
    let joined = proven(m3(&mut receiver(), join.packet(), home(), at(60), &keys));
    let shown = format!("{:?}", joined.link_keys().receiver_ends());
    assert_eq!(shown.matches("redacted").count(), 2, "{shown}");
}

#[test]
fn an_m2_is_known_for_sa1_by_its_magic() {
    let Session { m2, .. } = session(&greeting());
    assert!(View::new(&m2).unwrap().is_sa1());
    let mut stock = m2;
    stock[2] ^= 1;
    assert!(!View::new(&stock).unwrap().is_sa1());
}

/// A confirmation of another link under a tag that fits can only come from a receiver that errs; it is not believed.
#[test]
fn a_confirmation_of_another_link_is_not_ours() {
    let Session { credentials, join, mut m4, .. } = session(&greeting());
    m4[7] ^= 1;
    let hmac = |key: &[u8], parts: &[&[u8]]| {
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key);
        ring::hmac::sign(&key, &parts.concat())
    };
    let prk = hmac(b"srtla-sa1", &[&DEVICE_SECRET]);
    let s2c = hmac(prk.as_ref(), &[b"s2c\x01"]);
    let tag = hmac(s2c.as_ref(), &[b"SA1-M4", &m4[..18], &join.packet()[226..]]);
    m4[18..].copy_from_slice(&tag.as_ref()[..16]);
    assert_eq!(join.confirm(&credentials, &m4), Err(Disbelief::NotMine));
}

#[test]
fn networks_of_both_families() {
    let network = |addr: &str, prefix| Cidr { addr: addr.parse().unwrap(), prefix };
    for (network, addr, inside) in [
        (network("203.0.113.0", 24), "203.0.113.7", true),
        (network("203.0.113.0", 24), "203.0.114.7", false),
        (network("203.0.113.0", 0), "198.51.100.1", true),
        (network("2001:db8::", 32), "2001:db8:ffff::1", true),
        (network("2001:db8::", 33), "2001:db8:8000::1", false),
        (network("2001:db8::", 255), "2001:db8::", true),
        (network("2001:db8::", 0), "203.0.113.7", false),
    ] {
        assert_eq!(network.contains(addr.parse().unwrap()), inside, "{network:?} {addr}");
    }
}
