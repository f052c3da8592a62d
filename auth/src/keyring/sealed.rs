//! The keyring as bytes on a disk: a header that says what it is, then JSON under ChaCha20-Poly1305.
//!
//! | bytes | content |
//! |---|---|
//! | 0..8 | `BGKEYRNG` |
//! | 8 | version, 1 |
//! | 9..12 | 0 |
//! | 12..20 | name of the seal key: HMAC-SHA-256(key, "bondgate seal key name")[0..8] |
//! | 20..24 | length of what follows the header, big-endian |
//! | 24..36 | nonce, random for every write |
//! | 36.. | ciphertext and tag; the header is authenticated with it |
//!
//! Promises: another file, another version, another key, a cut and a change are told apart in the error; nothing of the
//! contents is believed before the tag was found right.

use super::Keyring;
use crate::sa1::take;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::hmac;
use std::fmt;

const MAGIC: &[u8; 8] = b"BGKEYRNG";
const VERSION: u8 = 1;
const HEADER_LEN: usize = 36;
const NONCE_AT: usize = 24;

/// Why a sealed keyring cannot be opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SealError {
    /// It is something else.
    NotOne,
    /// Written by another version of this program.
    Version(u8),
    /// Shorter than it says.
    Truncated {
        /// How long it is.
        found: usize,
        /// How long it was.
        expected: usize,
    },
    /// Longer than it says.
    Extended,
    /// Sealed under another key.
    OtherKey,
    /// Changed after it was sealed.
    Tampered,
    /// Sealed like this, but no keyring.
    Content(String),
}

impl fmt::Display for SealError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOne => f.write_str("this is no keyring of bondgate's"),
            Self::Version(version) => write!(
                f,
                "the keyring has version {version}, this program knows version {VERSION}; use the program that wrote it"
            ),
            Self::Truncated { found, expected } => {
                write!(f, "the keyring is truncated: {found} of {expected} bytes; restore it from a backup")
            }
            Self::Extended => f.write_str("something was appended to the keyring; restore it from a backup"),
            Self::OtherKey => f.write_str(
                "the keyring is sealed under another key; restore the seal key that it was written with",
            ),
            Self::Tampered => {
                f.write_str("the keyring was changed after it was sealed; restore it from a backup")
            }
            Self::Content(why) => write!(f, "the keyring's contents are not understood: {why}"),
        }
    }
}

impl std::error::Error for SealError {}

fn key_name(seal_key: &[u8; 32]) -> [u8; 8] {
    let key = hmac::Key::new(hmac::HMAC_SHA256, seal_key);
    take(hmac::sign(&key, b"bondgate seal key name").as_ref(), 0)
}

fn cipher(seal_key: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, seal_key).expect("the key has the cipher's length"))
}

impl Keyring {
    /// The keyring sealed under a key of 32 bytes. The nonce must be random for every call.
    ///
    /// # Errors
    /// [`SealError::Content`] when it cannot be written down, which would be a defect.
    pub fn seal(&self, seal_key: &[u8; 32], nonce: [u8; 12]) -> Result<Vec<u8>, SealError> {
        let content = |error: &dyn fmt::Display| SealError::Content(error.to_string());
        let mut body = serde_json::to_vec(self).map_err(|error| content(&error))?;
        let sealed_len = body.len() + CHACHA20_POLY1305.tag_len();
        let sealed_len = u32::try_from(sealed_len).map_err(|error| content(&error))?;
        let mut bytes = Vec::with_capacity(HEADER_LEN + sealed_len as usize);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&[VERSION, 0, 0, 0]);
        bytes.extend_from_slice(&key_name(seal_key));
        bytes.extend_from_slice(&sealed_len.to_be_bytes());
        bytes.extend_from_slice(&nonce);
        let nonce = Nonce::assume_unique_for_key(nonce);
        cipher(seal_key)
            .seal_in_place_append_tag(nonce, Aad::from(&bytes), &mut body)
            .map_err(|error| content(&error))?;
        bytes.append(&mut body);
        Ok(bytes)
    }

    /// Opens what [`Keyring::seal`] made.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn open(bytes: &[u8], seal_key: &[u8; 32]) -> Result<Self, SealError> {
        if !bytes.starts_with(MAGIC) {
            // A file that was cut within its first bytes is still one.
            let cut = !bytes.is_empty() && MAGIC.starts_with(bytes);
            return Err(if cut { truncated(bytes, HEADER_LEN) } else { SealError::NotOne });
        }
        let Some((header, body)) = bytes.split_at_checked(HEADER_LEN) else {
            return Err(truncated(bytes, HEADER_LEN));
        };
        if header[8] != VERSION {
            return Err(SealError::Version(header[8]));
        }
        if take::<8>(header, 12) != key_name(seal_key) {
            return Err(SealError::OtherKey);
        }
        let expected = u32::from_be_bytes(take(header, 20)) as usize;
        if body.len() < expected {
            return Err(truncated(bytes, HEADER_LEN + expected));
        }
        if body.len() > expected {
            return Err(SealError::Extended);
        }
        let nonce = Nonce::assume_unique_for_key(take(header, NONCE_AT));
        let mut body = body.to_vec();
        let plain = cipher(seal_key)
            .open_in_place(nonce, Aad::from(header), &mut body)
            .map_err(|_| SealError::Tampered)?;
        // serde's own message may quote a value, which may be a secret.
        let keyring: Self = serde_json::from_slice(plain)
            .map_err(|error| SealError::Content(format!("not as expected at byte {}", error.column())))?;
        keyring.check().map_err(SealError::Content)?;
        Ok(keyring)
    }
}

fn truncated(bytes: &[u8], expected: usize) -> SealError {
    SealError::Truncated { found: bytes.len(), expected }
}
