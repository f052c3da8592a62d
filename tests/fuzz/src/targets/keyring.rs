//! What people type or copy, and what lies on the disk: key texts, provisioning URIs, the sealed keyring.

use bondgate_auth::keyring::text::{Kind, TextError, decode, encode};
use bondgate_auth::keyring::{Keyring, Provision, SealError};
use bondgate_auth::sa1::Flags;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

const SEAL_KEY: [u8; 32] = [0x11; 32];
const HEADER_LEN: usize = 36;
const NOW: u64 = 1_800_000_000_000;

/// A text is of one kind at most; what is read is written again, in the standard form; the checksum notices a character that
/// changed.
pub fn key_text(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let taken = [
            is_taken::<40>(Kind::DeviceKey, text),
            is_taken::<20>(Kind::GateKey, text),
            is_taken::<20>(Kind::StreamToken, text),
            is_taken::<16>(Kind::Listener, text),
        ];
        assert!(taken.iter().filter(|taken| **taken).count() <= 1, "{text:?} is of two kinds");
    }
    // The input as a payload, and one character of its text changed.
    let mut payload = [0; 40];
    for (to, from) in payload.iter_mut().zip(data) {
        *to = *from;
    }
    let text = encode(Kind::DeviceKey, &payload);
    assert_eq!(decode(Kind::DeviceKey, &text), Ok(payload));
    let (place, other) = (data.first().copied().unwrap_or(0), data.last().copied().unwrap_or(0));
    let place = 4 + usize::from(place) % (text.len() - 4);
    let other = char::from(b"0123456789abcdefghjkmnpqrstvwxyz"[usize::from(other) % 32]);
    let changed: String = text.char_indices().map(|(at, c)| if at == place { other } else { c }).collect();
    if changed != text {
        assert_eq!(decode::<40>(Kind::DeviceKey, &changed), Err(TextError::Mistyped));
    }
}

fn is_taken<const N: usize>(kind: Kind, text: &str) -> bool {
    match decode::<N>(kind, text) {
        Ok(payload) => {
            let (prefix, digits) = text.trim_ascii().split_at(4);
            let standard = prefix.to_ascii_lowercase()
                + &digits.to_ascii_lowercase().replace(['i', 'l'], "1").replace('o', "0");
            assert_eq!(encode(kind, &payload), standard);
            true
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            false
        }
    }
}

/// What is read is written again and read as the same; it is printable, and never shown with its secret.
pub fn provision(data: &[u8]) {
    let Ok(uri) = std::str::from_utf8(data) else { return };
    match Provision::parse(uri) {
        Ok(provision) => {
            let written = provision.to_uri();
            assert!(written.bytes().all(|byte| byte.is_ascii_graphic()), "{written:?}");
            assert_eq!(Provision::parse(&written).as_ref(), Ok(&provision), "{written:?}");
            assert_eq!(provision.credentials(Flags::NONE).bind, provision.bind());
            let secret = encode(Kind::DeviceKey, &[&provision.key_id[..], &provision.secret].concat());
            assert!(written.ends_with(&secret) && !format!("{provision:?}").contains(&secret[17..]));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Raw bytes are opened only if they are what was sealed, whatever the input made of it. JSON under a good seal is refused, or is a
/// keyring that can be used and sealed again.
pub fn sealed(data: &[u8]) {
    let Some((&kind, rest)) = data.split_first() else { return };
    let bytes = if kind & 1 == 0 { rest.to_vec() } else { seal(rest) };
    match Keyring::open(&bytes, &SEAL_KEY) {
        Ok(keyring) => {
            let nonce = bytes[24..HEADER_LEN].try_into().expect("12 bytes");
            let again = keyring.seal(&SEAL_KEY, nonce).expect("what was opened can be sealed");
            assert_eq!(Keyring::open(&again, &SEAL_KEY).as_ref(), Ok(&keyring));
            keyring.compile(NOW);
            assert!(keyring.next_change_ms(NOW).is_none_or(|at_ms| at_ms > NOW));
            assert!(keyring.token_rules().count() == keyring.tokens().len());
            assert!(Keyring::open(&bytes, &[0x12; 32]) == Err(SealError::OtherKey), "another key opens it");
            let mut bent = bytes;
            let at = HEADER_LEN + usize::from(kind) % (bent.len() - HEADER_LEN);
            bent[at] ^= 1;
            assert_eq!(Keyring::open(&bent, &SEAL_KEY), Err(SealError::Tampered));
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            let genuine = matches!(error, SealError::Content(_));
            assert!(kind & 1 == 0 || genuine, "what was sealed just now: {error}");
        }
    }
}

/// Any bytes under a good seal, computed apart from the crate.
fn seal(plain: &[u8]) -> Vec<u8> {
    let hmac_key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &SEAL_KEY);
    let name = ring::hmac::sign(&hmac_key, b"bondgate seal key name");
    let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &SEAL_KEY).expect("32 bytes"));
    let len = (plain.len() as u32 + 16).to_be_bytes();
    let header = [&b"BGKEYRNG\x01\0\0\0"[..], &name.as_ref()[..8], &len, &[1; 12]].concat();
    let mut body = plain.to_vec();
    let nonce = Nonce::assume_unique_for_key([1; 12]);
    key.seal_in_place_append_tag(nonce, Aad::from(&header), &mut body).expect("short enough");
    [header, body].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seeds;

    /// The seeds are still of the form in use: some of each target are taken.
    #[test]
    fn seeds_are_taken() {
        let taken = |target: &str, is_taken: fn(&[u8]) -> bool| {
            seeds::load(target).expect("seeds").iter().filter(|seed| is_taken(seed)).count()
        };
        let opens = |seed: &[u8]| {
            let bytes = if seed[0] & 1 == 0 { seed[1..].to_vec() } else { seal(&seed[1..]) };
            Keyring::open(&bytes, &SEAL_KEY).is_ok()
        };
        let text = |seed: &[u8]| {
            std::str::from_utf8(seed).is_ok_and(|text| decode::<40>(Kind::DeviceKey, text).is_ok())
        };
        let uri = |seed: &[u8]| std::str::from_utf8(seed).is_ok_and(|uri| Provision::parse(uri).is_ok());
        assert_eq!((taken("sealed", opens), taken("key_text", text), taken("provision", uri)), (3, 6, 3));
    }
}
