//! What a keyring is made of: devices, their keys, gate keys, tokens.

use super::error::KeyringError;
use super::{key_id_text, name};
use crate::cidr::Cidr;
use crate::sa1::KeyId;
use crate::sa1::keys::Standing;
use crate::stream::{TokenHash, TokenId, TokenRule, Wish};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Groups and links a device may have, unless said otherwise.
const GROUPS_MAX: u16 = 4;
const LINKS_MAX: u16 = 16;

/// Bytes that are shown nowhere but in the sealed keyring.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Secret<const N: usize>(#[serde(with = "hexed")] [u8; N]);

impl<const N: usize> Secret<N> {
    pub(super) const fn new(bytes: [u8; N]) -> Self {
        Self(bytes)
    }

    pub(super) const fn bytes(&self) -> &[u8; N] {
        &self.0
    }
}

impl<const N: usize> fmt::Debug for Secret<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("redacted")
    }
}

/// Byte arrays as hexadecimal text.
pub(super) mod hexed {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer, const N: usize>(bytes: &[u8; N], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&crate::keyring::hex(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>, const N: usize>(d: D) -> Result<[u8; N], D::Error> {
        let text = String::deserialize(d)?;
        // The text may be a secret: it is not repeated in the error.
        crate::keyring::from_hex(&text)
            .ok_or_else(|| D::Error::custom(format!("{N} bytes in hexadecimal expected")))
    }
}

/// A gate key and its epoch.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GateSecret {
    pub epoch: u32,
    pub key: Secret<16>,
    pub created_ms: u64,
}

impl GateSecret {
    pub(super) const fn new(epoch: u32, key: [u8; 16], created_ms: u64) -> Self {
        Self { epoch, key: Secret::new(key), created_ms }
    }
}

/// What is known of a device before it has a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewDevice {
    /// Its name.
    pub name: String,
    /// Its owner; empty without tenants.
    pub tenant: String,
    /// Streams it may publish; empty: any of its tenant.
    pub streams: Vec<String>,
    /// Whether it may register without a clock.
    pub clockless: bool,
    /// Groups it may have at once.
    pub groups_max: u16,
    /// Links one of its groups may have.
    pub links_max: u16,
}

impl NewDevice {
    /// A device of no tenant that may publish anything.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            tenant: String::new(),
            streams: Vec::new(),
            clockless: false,
            groups_max: GROUPS_MAX,
            links_max: LINKS_MAX,
        }
    }
}

/// An encoder that may register.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Its owner; empty without tenants.
    pub tenant: String,
    /// Whether it may register.
    pub enabled: bool,
    /// Whether it may register without a clock.
    pub clockless: bool,
    /// Streams it may publish, by their full names; empty: any of its tenant.
    pub streams: Vec<String>,
    /// Groups it may have at once.
    pub groups_max: u16,
    /// Links one of its groups may have.
    pub links_max: u16,
    /// When it was enrolled, milliseconds since 1970.
    pub created_ms: u64,
    /// Its keys, oldest first.
    pub keys: Vec<Key>,
}

impl Device {
    pub(super) fn new(new: NewDevice, now_ms: u64) -> Result<Self, KeyringError> {
        let NewDevice { name, tenant, streams, clockless, groups_max, links_max } = new;
        name::check_device(&name)?;
        if !tenant.is_empty() {
            name::check_tenant(&tenant)?;
        }
        let mut full: Vec<String> = Vec::new();
        for stream in streams {
            let stream = name::full_stream(&tenant, &stream);
            name::check_stream(&stream)?;
            if !full.contains(&stream) {
                full.push(stream);
            }
        }
        if groups_max == 0 || links_max == 0 {
            return Err(KeyringError::Limit("a device needs at least one group and one link"));
        }
        Ok(Self {
            name,
            tenant,
            enabled: true,
            clockless,
            streams: full,
            groups_max,
            links_max,
            created_ms: now_ms,
            keys: Vec::new(),
        })
    }

    pub(super) fn check(&self) -> Result<(), String> {
        let names = name::check_device(&self.name)
            .and_then(|()| if self.tenant.is_empty() { Ok(()) } else { name::check_tenant(&self.tenant) })
            .and_then(|()| self.streams.iter().try_for_each(|stream| name::check_stream(stream)));
        names.map_err(|error| error.to_string())
    }
}

/// How far a key's life has gone, as it is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum KeyState {
    /// In use.
    Active,
    /// Replaced, and good for a while.
    Retiring {
        /// First millisecond since 1970 at which it is no longer good.
        until_ms: u64,
    },
    /// Ended.
    Revoked {
        /// When, milliseconds since 1970.
        at_ms: u64,
    },
}

/// What a key is good for at some moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyStanding {
    /// In use.
    Active,
    /// Replaced, and good for a while.
    Retiring,
    /// Its grace is over; its device is told so.
    Expired,
    /// Ended; its device is met with silence.
    Revoked,
}

impl KeyStanding {
    /// As it is written in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Retiring => "retiring",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

/// A device's key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// Names it.
    #[serde(with = "hexed")]
    pub id: KeyId,
    /// Gone when it has ended.
    pub(super) secret: Option<Secret<32>>,
    /// When it was made, milliseconds since 1970.
    pub created_ms: u64,
    /// How far its life has gone.
    pub state: KeyState,
    /// The epoch of the gate key that was given out with it.
    pub gate_epoch: u32,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({}, {:?}, redacted)", key_id_text(&self.id), self.state)
    }
}

impl Key {
    /// What it is good for now.
    pub fn standing(&self, now_ms: u64) -> KeyStanding {
        match self.state {
            KeyState::Active => KeyStanding::Active,
            KeyState::Retiring { until_ms } if now_ms < until_ms => KeyStanding::Retiring,
            KeyState::Retiring { .. } => KeyStanding::Expired,
            KeyState::Revoked { .. } => KeyStanding::Revoked,
        }
    }

    /// Whether a device can register with it now.
    pub fn is_valid(&self, now_ms: u64) -> bool {
        matches!(self.standing(now_ms), KeyStanding::Active | KeyStanding::Retiring)
    }

    pub(super) fn sa1_standing(&self, now_ms: u64) -> Option<Standing> {
        match self.standing(now_ms) {
            KeyStanding::Active => Some(Standing::Active),
            KeyStanding::Retiring => Some(Standing::Retiring),
            KeyStanding::Expired => Some(Standing::Expired),
            KeyStanding::Revoked => None,
        }
    }

    /// Ends it and forgets the secret.
    pub(super) fn end(&mut self, at_ms: u64) {
        self.state = KeyState::Revoked { at_ms };
        self.secret = None;
    }
}

/// What a new token shall be good for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewToken {
    /// The stream, by its full name.
    pub stream: String,
    /// Publish or play.
    pub scope: Wish,
    /// First millisecond since 1970 at which it is no longer good; `None`: good until revoked.
    pub expires_ms: Option<u64>,
    /// Good for one caller only.
    pub once: bool,
    /// Where it may be used from; empty: anywhere.
    pub from: Vec<Cidr>,
}

/// A token, without the token.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    #[serde(with = "hexed")]
    hash: [u8; 32],
    /// The stream, by its full name.
    pub stream: String,
    #[serde(with = "scope")]
    /// Publish or play.
    pub scope: Wish,
    /// When it was made, milliseconds since 1970.
    pub created_ms: u64,
    /// First millisecond since 1970 at which it is no longer good.
    pub expires_ms: Option<u64>,
    /// Good for one caller only.
    pub once: bool,
    /// When that caller came.
    pub spent_ms: Option<u64>,
    #[serde(with = "networks")]
    /// Where it may be used from; empty: anywhere.
    pub from: Vec<Cidr>,
}

impl Token {
    pub(super) fn new(new: NewToken, hash: TokenHash, now_ms: u64) -> Self {
        let NewToken { stream, scope, expires_ms, once, from } = new;
        Self {
            hash: *hash.bytes(),
            stream,
            scope,
            created_ms: now_ms,
            expires_ms,
            once,
            spent_ms: None,
            from,
        }
    }

    /// What people name it by.
    pub fn id(&self) -> TokenId {
        TokenHash::from_bytes(self.hash).id()
    }

    /// Whether it can still be used by somebody.
    pub fn is_good(&self, now_ms: u64) -> bool {
        self.expires_ms.is_none_or(|expires_ms| now_ms < expires_ms) && self.spent_ms.is_none()
    }

    pub(super) fn rule(&self) -> TokenRule {
        TokenRule {
            hash: TokenHash::from_bytes(self.hash),
            stream: self.stream.as_str().into(),
            scope: self.scope,
            expires_ms: self.expires_ms,
            once: self.once,
            spent: self.spent_ms.is_some(),
            from: self.from.clone(),
        }
    }
}

mod scope {
    use crate::stream::Wish;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
    pub(super) fn serialize<S: Serializer>(wish: &Wish, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(wish.name())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Wish, D::Error> {
        let text = String::deserialize(d)?;
        let known = [Wish::Publish, Wish::Play].into_iter().find(|wish| wish.name() == text);
        known.ok_or_else(|| D::Error::custom("publish or play expected"))
    }
}

mod networks {
    use crate::cidr::Cidr;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(networks: &[Cidr], s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(networks.iter().map(ToString::to_string))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Cidr>, D::Error> {
        let texts = Vec::<String>::deserialize(d)?;
        let read = |text: &String| {
            let (addr, prefix) = text.split_once('/')?;
            Some(Cidr { addr: addr.parse().ok()?, prefix: prefix.parse().ok()? })
        };
        texts.iter().map(read).collect::<Option<_>>().ok_or_else(|| D::Error::custom("networks expected"))
    }
}
