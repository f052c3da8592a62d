//! SA1, authenticated registration: the packets REG1, REG2 and REG3 of stock length and type, with MACs inside.
//!
//! The specification is `docs/registration-auth.md`; comments here name its sections as "spec 4.2". Promises:
//!
//! * Pure: bytes, keys, time and randomness are arguments. Nothing is allocated for a packet.
//! * The receiver keeps nothing of a hello (M1) but a few bits of a bounded filter; only a join (M3) whose cookie came
//!   back from the address it was sent to yields a [`receiver::ProvenJoin`].
//! * Whatever is read is checked in the order of cost: layout, listener, gate tag, budgets, MACs.
//! * One [`receiver::Reject`] per cause, and silence unless a MAC was right.
//!
//! [`wire`] is the layout, [`keys`] the derivations, [`receiver`] and [`sender`] the two sides, [`replay`] what they
//! remember, [`trailer`] the MACs on keepalives and SRTLA ACKs once a link is up, [`data`] those on SRT packets.

pub mod data;
pub mod keys;
pub mod receiver;
pub mod replay;
pub mod sender;
pub mod trailer;
pub mod wire;

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// Protocol version (spec 3.1).
pub const VERSION: u8 = 1;
/// Suite 1: HMAC-SHA-256, HKDF-SHA-256, SipHash-2-4 (spec 3.1).
pub const SUITE: u8 = 1;
/// How long a cookie is good after it was issued, in milliseconds (spec 4.3).
pub const COOKIE_AGE_MS_MAX: u64 = 30_000;
/// Life of a cookie key, in milliseconds (spec 4.3).
pub const COOKIE_EPOCH_MS: u64 = 120_000;
/// How far a sender's clock may be off, either way, in milliseconds (spec 5.1).
pub const CLOCK_SKEW_MS_MAX: u64 = 90_000;

/// Names a device key: 8 random bytes without meaning.
pub type KeyId = [u8; 8];
/// Names a group together with the key ID: 16 random bytes drawn when a sender starts.
pub type GroupNonce = [u8; 16];
/// 16 random bytes drawn for every hello.
pub type LinkNonce = [u8; 16];

/// What both sides know a receiver by (spec 2.3).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ListenerId(pub [u8; 16]);

impl ListenerId {
    /// The ID of a listener with this public name at the instance with this key ID.
    pub fn of(public_name: &str, instance: &KeyId) -> Self {
        let mut hash = ring::digest::Context::new(&ring::digest::SHA256);
        hash.update(public_name.as_bytes());
        hash.update(&[0]);
        hash.update(instance);
        Self(take(hash.finish().as_ref(), 0))
    }
}

/// Which stream a registration is for (spec 2.4).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct StreamBind(pub [u8; 24]);

impl StreamBind {
    /// Any stream the key may publish.
    pub const ANY: Self = Self([0; 24]);

    /// This stream and no other.
    pub fn of(tenant: &str, stream: &str) -> Self {
        let mut hash = ring::digest::Context::new(&ring::digest::SHA256);
        hash.update(tenant.as_bytes());
        hash.update(&[0]);
        hash.update(stream.as_bytes());
        Self(take(hash.finish().as_ref(), 0))
    }

    /// Whether a registration bound like this may carry the stream. What the key may publish is another question.
    pub fn admits(&self, tenant: &str, stream: &str) -> bool {
        *self == Self::ANY || *self == Self::of(tenant, stream)
    }
}

/// What a sender offers and a receiver accepts (spec 3.4).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Flags(u8);

impl Flags {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// MACs on keepalives.
    pub const KEEPALIVE_MAC: Self = Self(1);
    /// MACs on SRTLA ACKs.
    pub const ACK_MAC: Self = Self(2);
    /// MACs on SRT packets, data and control.
    pub const DATA_MAC: Self = Self(4);
    /// The sender's clock is not to be relied on.
    pub const CLOCKLESS: Self = Self(8);
    /// Resumption. Reserved: this version never accepts it.
    pub const RESUME: Self = Self(16);
    /// What this version's receiver can accept.
    pub const ACCEPTABLE: Self = Self(7);

    /// Flags of a wire byte; `None` when an undefined bit is set.
    pub const fn from_bits(bits: u8) -> Option<Self> {
        if bits & !31 == 0 { Some(Self(bits)) } else { None }
    }

    /// The wire byte.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Whether all of `other` is in here.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// What is in either.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in here and not in `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// What is in both.
    #[must_use]
    pub const fn both(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Flags({:#07b})", self.0)
    }
}

/// The receiver's clocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Now {
    /// Milliseconds of a clock that never goes back and goes on in suspend (`CLOCK_BOOTTIME`), the same on every shard.
    pub boot_ms: u64,
    /// Milliseconds since 1970, UTC.
    pub wall_ms: u64,
}

/// The receiver's nonce: issue time (48 bits of [`Now::boot_ms`]) and 10 random bytes (spec 3.3). Ordered by issue time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Nonce(pub [u8; 16]);

impl Nonce {
    /// A nonce issued now.
    pub fn issue(boot_ms: u64, random: &[u8; 10]) -> Self {
        let mut nonce = [0; 16];
        nonce[..6].copy_from_slice(&boot_ms.to_be_bytes()[2..]);
        nonce[6..].copy_from_slice(random);
        Self(nonce)
    }

    /// When it was issued, on the issuer's boot clock.
    pub fn issued_ms(&self) -> u64 {
        u64::from_be_bytes(take(&self.0, 0)) >> 16
    }
}

/// An address as the cookie binds it: 16 bytes (IPv4 as IPv4-mapped IPv6) and the port (spec 4.3).
pub fn address_bytes(from: SocketAddr) -> [u8; 18] {
    let ip = match from.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let mut bytes = [0; 18];
    bytes[..16].copy_from_slice(&ip.octets());
    bytes[16..].copy_from_slice(&from.port().to_be_bytes());
    bytes
}

/// `N` bytes from a constant offset of a field of known length.
pub(crate) fn take<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}
