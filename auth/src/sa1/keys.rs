//! Keys and what is computed with them (spec 2 and 4). Every derivation is here, every MAC of the handshake too.
//!
//! Promises: comparisons of MACs take the same time wherever they differ; `Debug` shows no key.

use super::wire::{HEAD_LEN, PACKET_LEN, SIGNED_LEN};
use super::{COOKIE_EPOCH_MS, Flags, GroupNonce, KeyId, LinkNonce, Nonce, address_bytes, take};
use ring::{hkdf, hmac};
use siphasher::sip::SipHasher24;
use std::fmt;
use std::hint::black_box;
use std::net::SocketAddr;

const SALT: &[u8] = b"srtla-sa1";
const LABEL_LEN: usize = 6;

/// Which MAC of the handshake (spec 4.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Label {
    M1,
    M2,
    M3,
}

impl Label {
    const fn bytes(self) -> &'static [u8; LABEL_LEN] {
        match self {
            Self::M1 => b"SA1-M1",
            Self::M2 => b"SA1-M2",
            Self::M3 => b"SA1-M3",
        }
    }
}

/// The three keys of one device, derived from its 256-bit secret (spec 2.1). The secret itself is not kept.
pub struct DeviceKeys {
    to_receiver: hmac::Key,
    to_sender: hmac::Key,
    session: hmac::Key,
}

impl DeviceKeys {
    /// HKDF-SHA-256 of the device secret.
    pub fn derive(secret: &[u8; 32]) -> Self {
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, SALT).extract(secret);
        let key = |info: &[u8]| {
            hmac::Key::from(
                prk.expand(&[info], hmac::HMAC_SHA256).expect("one hash length is within HKDF's limit"),
            )
        };
        Self { to_receiver: key(b"c2s"), to_sender: key(b"s2c"), session: key(b"ses") }
    }

    fn of(&self, label: Label) -> &hmac::Key {
        match label {
            Label::M1 | Label::M3 => &self.to_receiver,
            Label::M2 => &self.to_sender,
        }
    }

    /// Writes the MAC of a registration packet into its last 32 bytes.
    pub(crate) fn sign(&self, label: Label, packet: &mut [u8; PACKET_LEN]) {
        let tag = mac(self.of(label), &[label.bytes(), &packet[..SIGNED_LEN]]);
        packet[SIGNED_LEN..].copy_from_slice(&tag);
    }

    /// Whether the last 32 bytes of a registration packet are its MAC.
    pub(crate) fn verify(&self, label: Label, packet: &[u8; PACKET_LEN]) -> bool {
        let mut signed = [0; LABEL_LEN + SIGNED_LEN];
        signed[..LABEL_LEN].copy_from_slice(label.bytes());
        signed[LABEL_LEN..].copy_from_slice(&packet[..SIGNED_LEN]);
        hmac::verify(self.of(label), &signed, &packet[SIGNED_LEN..]).is_ok()
    }

    /// Tag of a confirmation (M4), bound to the MAC of the join it answers (spec 3.5).
    pub(crate) fn confirm_tag(&self, head: &[u8; HEAD_LEN], mac3: &[u8; 32]) -> [u8; 16] {
        take(&mac(&self.to_sender, &[b"SA1-M4", head, mac3]), 0)
    }

    /// Tag of a refusal, bound to the MAC of the hello or join it answers (spec 3.6).
    pub(crate) fn refusal_tag(&self, head: &[u8; HEAD_LEN], request_mac: &[u8; 32]) -> [u8; 16] {
        take(&mac(&self.to_sender, &[b"SA1-NK", head, request_mac]), 0)
    }

    /// The keys of one link (spec 2.2).
    pub(crate) fn link(&self, group: &GroupNonce, link: &LinkNonce, nonce: &Nonce, link_id: u32) -> LinkKeys {
        let root = hmac_key(&mac(&self.session, &[b"SA1-L", group, link, &nonce.0, &link_id.to_be_bytes()]));
        LinkKeys { to_receiver: mac(&root, &[b"c2s"]), to_sender: mac(&root, &[b"s2c"]) }
    }
}

impl fmt::Debug for DeviceKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DeviceKeys(redacted)")
    }
}

/// The keys of one link, one per direction (spec 2.2). Both sides derive the same.
#[derive(Clone, PartialEq, Eq)]
pub struct LinkKeys {
    pub(crate) to_receiver: [u8; 32],
    pub(crate) to_sender: [u8; 32],
}

impl fmt::Debug for LinkKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LinkKeys(redacted)")
    }
}

/// A listener's 128-bit gate key: a filter all its devices share, not an authenticator (spec 4.1).
#[derive(Clone, Copy)]
pub struct GateKey {
    epoch: u32,
    bytes: [u8; 16],
    key: SipHasher24,
}

impl GateKey {
    /// The key of an epoch.
    pub fn new(epoch: u32, key: &[u8; 16]) -> Self {
        Self { epoch, bytes: *key, key: SipHasher24::new_with_key(key) }
    }

    /// Its epoch.
    pub const fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The key itself, for a filter that works elsewhere. It is all devices' of the listener, and no secret of any of them.
    pub const fn bytes(&self) -> &[u8; 16] {
        &self.bytes
    }

    /// SipHash-2-4 of the first 64 bytes of an ID, little-endian as it is defined.
    pub fn tag(&self, id_head: &[u8]) -> [u8; 8] {
        self.key.hash(id_head).to_le_bytes()
    }
}

impl fmt::Debug for GateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GateKey(epoch {}, redacted)", self.epoch)
    }
}

/// The gate keys a receiver knows: at most one epoch before, the current, and one ahead (spec 4.1).
#[derive(Clone, Copy, Debug)]
pub struct GateKeys([Option<GateKey>; 3]);

impl GateKeys {
    /// The key in force.
    pub const fn new(current: GateKey) -> Self {
        Self([None, Some(current), None])
    }

    /// Accepts this key too, before it is in force.
    #[must_use]
    pub const fn announce(self, next: GateKey) -> Self {
        Self([self.0[0], self.0[1], Some(next)])
    }

    /// Puts `next` in force. The key that was in force stays good until the next rotation.
    #[must_use]
    pub const fn rotate(self, next: GateKey) -> Self {
        Self([self.0[1], Some(next), None])
    }

    /// All keys that are accepted, at most three.
    pub fn iter(&self) -> impl Iterator<Item = &GateKey> {
        self.0.iter().flatten()
    }

    /// The key of an epoch, if known.
    pub fn get(&self, epoch: u32) -> Option<&GateKey> {
        self.iter().find(|key| key.epoch == epoch)
    }
}

/// The keys that make cookies (spec 4.3): a new one every two minutes, the last one kept.
///
/// All shards of one process share the secret and the clock and so agree without talking. The secret is drawn at start
/// and never stored: after a restart old cookies are wrong and are answered with new ones.
pub struct CookieKeys {
    root: hmac::Key,
    current: (u32, hmac::Key),
    previous: (u32, hmac::Key),
}

impl CookieKeys {
    /// Takes 32 random bytes and the boot clock.
    pub fn new(secret: &[u8; 32], boot_ms: u64) -> Self {
        let root = hmac_key(secret);
        let epoch = epoch_at(boot_ms);
        let (current, previous) = pair(&root, epoch);
        Self { root, current, previous }
    }

    /// Derives the keys of the epoch it is now, if that changed.
    pub(crate) fn turn(&mut self, boot_ms: u64) {
        let epoch = epoch_at(boot_ms);
        if epoch != self.current.0 {
            (self.current, self.previous) = pair(&self.root, epoch);
        }
    }

    pub(crate) fn epoch(&self) -> u32 {
        self.current.0
    }

    fn key(&self, epoch: u32) -> Option<&hmac::Key> {
        [&self.current, &self.previous].into_iter().find(|(e, _)| *e == epoch).map(|(_, key)| key)
    }

    /// Whether cookies of this epoch can be checked.
    pub(crate) fn knows(&self, epoch: u32) -> bool {
        self.key(epoch).is_some()
    }

    /// The cookie for an address and a sender half; `None` when the epoch's key is gone.
    pub(crate) fn cookie(&self, epoch: u32, input: &CookieInput<'_>) -> Option<[u8; 16]> {
        let key = self.key(epoch)?;
        let half = input.half;
        Some(take(
            &mac(
                key,
                &[
                    b"SA1-CK",
                    &address_bytes(input.from),
                    &half[0..6],
                    &half[7..56],
                    &half[72..128],
                    &input.nonce.0,
                    &input.server_time_ms.to_be_bytes(),
                    &[input.accepted.bits()],
                ],
            ),
            0,
        ))
    }
}

impl fmt::Debug for CookieKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CookieKeys(epoch {}, redacted)", self.current.0)
    }
}

/// What a cookie binds.
pub(crate) struct CookieInput<'a> {
    pub from: SocketAddr,
    pub half: &'a [u8; 128],
    pub nonce: Nonce,
    pub server_time_ms: u64,
    pub accepted: Flags,
}

const fn epoch_at(boot_ms: u64) -> u32 {
    (boot_ms / COOKIE_EPOCH_MS) as u32
}

fn pair(root: &hmac::Key, epoch: u32) -> ((u32, hmac::Key), (u32, hmac::Key)) {
    let derive = |epoch: u32| (epoch, hmac_key(&mac(root, &[b"SA1-CE", &epoch.to_be_bytes()])));
    (derive(epoch), derive(epoch.wrapping_sub(1)))
}

/// How good a key still is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// In use.
    Active,
    /// Still good; the device should take its next key. Confirmations say so.
    Retiring,
    /// No longer good. The device is told, because its MAC shows that it once was.
    Expired,
}

/// A device key as the receiver's table holds it. A revoked key is not in the table.
#[derive(Debug)]
pub struct DeviceKey {
    /// The derived keys.
    pub keys: DeviceKeys,
    /// How good the key still is.
    pub standing: Standing,
    /// Whether the device may register without a clock (spec 5.1).
    pub clockless_allowed: bool,
}

/// A table of device keys.
pub trait Keyring {
    /// The key of this ID, unless unknown or revoked.
    fn device(&self, key_id: KeyId) -> Option<&DeviceKey>;
}

impl<S: std::hash::BuildHasher> Keyring for std::collections::HashMap<KeyId, DeviceKey, S> {
    fn device(&self, key_id: KeyId) -> Option<&DeviceKey> {
        self.get(&key_id)
    }
}

pub(crate) fn hmac_key(bytes: &[u8; 32]) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, bytes)
}

/// HMAC of all parts, one behind the other: 256 bytes at most, which nothing here exceeds. In one piece ring is a sixth
/// faster.
pub(crate) fn mac(key: &hmac::Key, parts: &[&[u8]]) -> [u8; 32] {
    let mut input = [0; 256];
    let mut len = 0;
    for part in parts {
        input[len..len + part.len()].copy_from_slice(part);
        len += part.len();
    }
    take(hmac::sign(key, &input[..len]).as_ref(), 0)
}

/// Compares truncated MACs in a time that does not depend on where they differ.
pub(crate) fn same_tag(a: [u8; 16], b: [u8; 16]) -> bool {
    black_box(u128::from_ne_bytes(a) ^ u128::from_ne_bytes(b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sa1::COOKIE_AGE_MS_MAX;
    use crate::sa1::receiver::cookie_age_is_good;

    /// Every millisecond of an epoch, at the first epochs, where a clock of 48 bits ends, and where the epoch's 32 bits do: while a
    /// cookie is young enough, its epoch is this one or the last.
    #[test]
    fn a_cookie_never_outlives_its_key() {
        let last = u64::from(u32::MAX);
        for epoch in [0, 1, (1 << 48) / COOKIE_EPOCH_MS - 1, last - 1, last, last + 1] {
            for issued_ms in epoch * COOKIE_EPOCH_MS..(epoch + 1) * COOKIE_EPOCH_MS {
                for age_ms in [0, 1, COOKIE_AGE_MS_MAX - 1, COOKIE_AGE_MS_MAX] {
                    let epochs_on = epoch_at(issued_ms + age_ms).wrapping_sub(epoch_at(issued_ms));
                    assert!(epochs_on <= 1, "issued at {issued_ms}, {age_ms} ms ago");
                }
            }
            let mut keys = CookieKeys::new(&[1; 32], epoch * COOKIE_EPOCH_MS);
            let this = epoch as u32;
            assert_eq!(keys.epoch(), this);
            for (epochs_on, known) in [(0, true), (1, true), (2, false)] {
                keys.turn((epoch + epochs_on) * COOKIE_EPOCH_MS);
                assert_eq!(keys.knows(this), known, "{epochs_on} epochs later");
            }
        }
    }

    /// Every age from before the issue to after the end, at every place where the numbers could wrap.
    #[test]
    fn cookie_ages_at_every_edge() {
        for base in
            [0, 1, 30_000, 1 << 31, 1 << 32, (1 << 48) - 30_001, (1 << 48) - 1, 1 << 48, u64::MAX - 30_003]
        {
            for age_ms in 0..=30_002 {
                assert_eq!(cookie_age_is_good(base, base + age_ms), age_ms <= 30_000, "{base} {age_ms}");
                assert!(
                    age_ms == 0 || !cookie_age_is_good(base + age_ms, base),
                    "{base}, {age_ms} from the future"
                );
            }
        }
        for (issued_ms, now_ms) in
            [(0, u64::MAX), (u64::MAX, 0), (u64::MAX, u64::MAX - 1), ((1 << 48) - 1, 1 << 63)]
        {
            assert!(!cookie_age_is_good(issued_ms, now_ms));
        }
        // A nonce keeps 48 bits. Beyond them, in 8,900 years, a cookie is no good: closed, not open.
        let beyond = (1 << 48) + 5;
        let nonce = Nonce::issue(beyond, &[0; 10]);
        assert!(nonce.issued_ms() == 5 && !cookie_age_is_good(nonce.issued_ms(), beyond));
    }
}
