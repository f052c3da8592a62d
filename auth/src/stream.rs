//! Who may publish or play which stream.
//!
//! A stream demands a strength, a caller proves one, and the greater or equal one passes:
//!
//! | proven by | is worth | passes `open` | `cidr` | `token` | `sa1` | `sa1+token` |
//! |---|---|---|---|---|---|---|
//! | nothing | open | yes | | | | |
//! | an address that is listed | cidr | yes | yes | | | |
//! | a good token | token | yes | yes | yes | | |
//! | a device's registration | sa1 | yes | yes | yes | yes | |
//! | both | sa1+token | yes | yes | yes | yes | yes |
//!
//! Promises:
//!
//! * Nothing but a device's registration is ever worth `sa1`: a stock group never publishes such a stream, whatever its
//!   address and token.
//! * A device publishes its own streams only, whatever the stream demands.
//! * Tokens are known by their SHA-256 alone, and compared in a time that does not depend on where they differ.

use crate::cidr::Cidr;
use crate::keyring::text::{self, Kind, TextError};
use crate::sa1::StreamBind;
use crate::table::DeviceRules;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hint::black_box;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a stream demands and what a caller proves, weakest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Strength {
    /// Nothing. Only for listeners that are open to everybody on purpose.
    Open,
    /// An address listed for stock senders.
    Cidr,
    /// A token in the stream ID.
    Token,
    /// A device's registration.
    Sa1,
    /// A device's registration, and a token.
    Sa1Token,
}

impl Strength {
    /// As it is written in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Cidr => "cidr",
            Self::Token => "token",
            Self::Sa1 => "sa1",
            Self::Sa1Token => "sa1+token",
        }
    }

    /// What is missing of it after so much was proven is what a good token brings.
    fn takes_token(self, proven: Self) -> bool {
        self < Self::Sa1 || proven >= Self::Sa1
    }
}

impl fmt::Display for Strength {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the transport has shown about a caller.
#[derive(Clone, Copy, Debug)]
pub enum Proof<'a> {
    /// A group that a device registered.
    Device {
        /// What the device may do.
        rules: &'a DeviceRules,
        /// What it bound the registration to.
        bind: StreamBind,
    },
    /// A group of a stock sender. `listed`: its address is named for stock senders, not merely admitted with all others.
    Stock {
        /// See above.
        listed: bool,
    },
    /// A caller at the SRT port, without bonding.
    Plain {
        /// As for stock senders.
        listed: bool,
    },
}

/// What the caller wants to do.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Wish {
    /// Send a stream to us.
    Publish,
    /// Receive a stream from us.
    Play,
}

impl Wish {
    /// As it is written in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Play => "play",
        }
    }
}

/// Who may play.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Play {
    /// Everybody.
    Open,
    /// Whoever has a play token for the stream.
    Token,
}

/// Names a token: the first bytes of its SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TokenId(pub [u8; 6]);

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::keyring::hex(&self.0))
    }
}

/// SHA-256 of a token's 20 bytes: all that is kept of it.
#[derive(Clone, Copy)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// The hash of a token's bytes.
    pub fn of(token: &[u8; 20]) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, token).as_ref());
        Self(hash)
    }

    /// The hash of a token as it is presented.
    ///
    /// # Errors
    /// It is no token, or a mistyped one.
    pub fn of_text(token: &str) -> Result<Self, TextError> {
        text::decode(Kind::StreamToken, token).map(|bytes| Self::of(&bytes))
    }

    /// A hash that was stored.
    pub const fn from_bytes(hash: [u8; 32]) -> Self {
        Self(hash)
    }

    /// The hash, to store it.
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// What people name the token by.
    pub fn id(&self) -> TokenId {
        TokenId(crate::sa1::take(&self.0, 0))
    }

    /// Compares in a time that does not depend on where they differ.
    pub fn same(&self, other: &Self) -> bool {
        black_box(self.0.iter().zip(&other.0).fold(0, |differing, (a, b)| differing | (a ^ b))) == 0
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenHash({}...)", self.id())
    }
}

/// What a token is good for.
#[derive(Clone, Debug)]
pub struct TokenRule {
    /// The token.
    pub hash: TokenHash,
    /// The stream, by its full name.
    pub stream: Box<str>,
    /// Publish or play.
    pub scope: Wish,
    /// First millisecond since 1970 at which it is no longer good.
    pub expires_ms: Option<u64>,
    /// Good for one caller only.
    pub once: bool,
    /// Was used, and was good for one caller only.
    pub spent: bool,
    /// Where it may be used from; empty: anywhere.
    pub from: Vec<Cidr>,
}

#[derive(Debug)]
struct Held {
    rule: TokenRule,
    /// Shared by all policies that are made while the process runs, so that a use is never forgotten.
    spent: Arc<AtomicBool>,
}

/// One question to the policy.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// Publish or play.
    pub wish: Wish,
    /// The stream's full name.
    pub stream: &'a str,
    /// The token of the stream ID, if it had one.
    pub token: Option<&'a str>,
    /// What the transport has shown.
    pub proof: Proof<'a>,
    /// Where the caller is.
    pub from: IpAddr,
}

/// A yes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Grant {
    /// The token that was needed, if one was.
    pub token: Option<TokenId>,
    /// That token was good for one caller and is spent by this answer. The keyring should hear of it.
    pub spent: bool,
}

/// A no.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StreamRefusal {
    /// SRT rejection code: 1401 not shown who it is, 1403 known and not allowed, 1404 no such stream.
    pub code: u16,
    /// Constant name of the reason, for counters.
    pub label: &'static str,
    /// One sentence for the log. Not for the caller.
    pub why: String,
}

impl fmt::Display for StreamRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.why, self.code)
    }
}

impl std::error::Error for StreamRefusal {}

const UNAUTHORIZED: u16 = 1401;
const FORBIDDEN: u16 = 1403;
const UNKNOWN: u16 = 1404;

fn refuse<T>(code: u16, label: &'static str, why: impl Into<String>) -> Result<T, StreamRefusal> {
    Err(StreamRefusal { code, label, why: why.into() })
}

/// The rules in force. Immutable but for the marks of spent tokens; shared by all shards. Cheap to clone.
#[derive(Clone, Debug)]
pub struct StreamPolicy {
    default: Option<Strength>,
    named: Arc<HashMap<Box<str>, Strength>>,
    play: Play,
    tenants: Arc<HashSet<Box<str>>>,
    /// By stream.
    tokens: Arc<HashMap<Box<str>, Vec<Held>>>,
}

impl StreamPolicy {
    /// Everybody may publish and play everything. Devices still keep to their own streams.
    pub fn open() -> Self {
        Self::new(Some(Strength::Open), [], Play::Open)
    }

    /// Streams demand what is named for them, all others `default`; without a default there are no others.
    pub fn new(
        default: Option<Strength>,
        named: impl IntoIterator<Item = (Box<str>, Strength)>,
        play: Play,
    ) -> Self {
        let named = Arc::new(named.into_iter().collect());
        Self { default, named, play, tenants: Arc::default(), tokens: Arc::default() }
    }

    /// The same demands, with these tenants, whose names are the first part of their streams' names, and these tokens instead
    /// of those there were. Tokens that were seen used stay used, even if the keyring does not know it yet.
    #[must_use]
    pub fn with_keyring(
        &self,
        tenants: impl IntoIterator<Item = Box<str>>,
        tokens: impl IntoIterator<Item = TokenRule>,
    ) -> Self {
        let mut held: HashMap<Box<str>, Vec<Held>> = HashMap::new();
        for rule in tokens {
            let known = self.tokens.get(&rule.stream).into_iter().flatten();
            let known = known.into_iter().find(|held| held.rule.hash.same(&rule.hash));
            let spent = known.map(|held| Arc::clone(&held.spent)).unwrap_or_default();
            if rule.spent {
                spent.store(true, Ordering::Relaxed);
            }
            held.entry(rule.stream.clone()).or_default().push(Held { rule, spent });
        }
        let tenants = Arc::new(tenants.into_iter().collect());
        Self { tenants, tokens: Arc::new(held), ..self.clone() }
    }

    /// The same demands, with the tenants and tokens of `other`.
    #[must_use]
    pub fn with_keyring_of(self, other: &Self) -> Self {
        Self { tenants: Arc::clone(&other.tenants), tokens: Arc::clone(&other.tokens), ..self }
    }

    /// What publishing the stream demands; `None` when there is no such stream.
    pub fn demand(&self, stream: &str) -> Option<Strength> {
        self.named.get(stream).copied().or(self.default)
    }

    /// The tenant a stream belongs to.
    pub fn tenant_of<'a>(&self, stream: &'a str) -> Option<&'a str> {
        crate::keyring::name::tenant_of(stream).filter(|tenant| self.tenants.contains(*tenant))
    }

    /// Whether somebody who was let in may stay: what the stream demands may have changed since, and what was shown, or the
    /// token that was needed may be gone. One that is used up or has expired meanwhile still does.
    pub fn keeps(&self, wish: Wish, stream: &str, token: Option<&TokenId>, proof: &Proof<'_>) -> bool {
        let tokens = self.tokens.get(stream).into_iter().flatten();
        let has_token = token.is_some_and(|id| tokens.into_iter().any(|held| held.rule.hash.id() == *id));
        if token.is_some() && !has_token {
            return false;
        }
        match wish {
            Wish::Play => has_token || self.play == Play::Open,
            Wish::Publish => match (self.demand(stream), self.proven(stream, proof)) {
                (Some(demand), Ok(proven)) => proven >= demand || (has_token && demand.takes_token(proven)),
                (None, _) | (_, Err(_)) => false,
            },
        }
    }

    /// Decides. To be asked once per caller: a token for one caller is spent by a yes.
    ///
    /// # Errors
    /// Why not.
    pub fn decide(&self, ask: &Ask<'_>, wall_ms: u64) -> Result<Grant, StreamRefusal> {
        match ask.wish {
            Wish::Play => match self.play {
                Play::Open => Ok(Grant { token: None, spent: false }),
                Play::Token => self.redeem(ask, wall_ms),
            },
            Wish::Publish => self.publish(ask, wall_ms),
        }
    }

    fn publish(&self, ask: &Ask<'_>, wall_ms: u64) -> Result<Grant, StreamRefusal> {
        let Some(demand) = self.demand(ask.stream) else {
            return refuse(UNKNOWN, "stream_unknown", "there is no such stream");
        };
        let proven = self.proven(ask.stream, &ask.proof)?;
        if proven >= demand {
            return Ok(Grant { token: None, spent: false });
        }
        if !demand.takes_token(proven) {
            return refuse(
                FORBIDDEN,
                "sa1_required",
                format!("the stream demands {demand}: only a device with a key can publish it"),
            );
        }
        if demand == Strength::Cidr && ask.token.is_none() {
            return refuse(
                UNAUTHORIZED,
                "address",
                format!("{} is not listed for stock senders, and there is no token", ask.from.to_canonical()),
            );
        }
        self.redeem(ask, wall_ms)
    }

    /// What a publisher has proven without a token.
    fn proven(&self, stream: &str, proof: &Proof<'_>) -> Result<Strength, StreamRefusal> {
        Ok(match proof {
            Proof::Device { rules, bind } => {
                self.owns(rules, bind, stream)?;
                Strength::Sa1
            }
            Proof::Stock { listed: true } | Proof::Plain { listed: true } => Strength::Cidr,
            Proof::Stock { listed: false } | Proof::Plain { listed: false } => Strength::Open,
        })
    }

    /// Whether a stream is one of the device's.
    fn owns(&self, rules: &DeviceRules, bind: &StreamBind, stream: &str) -> Result<(), StreamRefusal> {
        let device = &rules.name;
        let tenant = self.tenant_of(stream).unwrap_or_default();
        // A device whose tenant the policy does not know yet is judged by the name alone.
        let own = if rules.tenant.is_empty() {
            tenant.is_empty()
        } else {
            crate::keyring::name::tenant_of(stream) == Some(&rules.tenant)
        };
        if !own {
            return refuse(
                FORBIDDEN,
                "tenant",
                match &*rules.tenant {
                    "" => {
                        format!("device {device} has no tenant, and the stream is one of tenant {tenant}'s")
                    }
                    own => {
                        format!("device {device} belongs to tenant {own}, whose streams are named {own}/...")
                    }
                },
            );
        }
        if !rules.streams.is_empty() && !rules.streams.iter().any(|allowed| **allowed == *stream) {
            return refuse(
                FORBIDDEN,
                "device_stream",
                format!("device {device} may not publish this stream"),
            );
        }
        if !bind.admits(&rules.tenant, stream) {
            return refuse(FORBIDDEN, "bind", format!("device {device} registered for another stream"));
        }
        Ok(())
    }

    /// Whether the caller's token is good for what is asked; marks it if it is for one caller.
    fn redeem(&self, ask: &Ask<'_>, wall_ms: u64) -> Result<Grant, StreamRefusal> {
        let Some(token) = ask.token else {
            let wish = ask.wish.name();
            return refuse(UNAUTHORIZED, "token_missing", format!("a {wish} token is needed"));
        };
        let hash = match TokenHash::of_text(token) {
            Ok(hash) => hash,
            Err(error) => return refuse(UNAUTHORIZED, "token_malformed", format!("the token: {error}")),
        };
        // All tokens of the stream are compared, so that the time says nothing about which it is.
        let mut found = None;
        for held in self.tokens.get(ask.stream).into_iter().flatten() {
            if held.rule.hash.same(&hash) {
                found = Some(held);
            }
        }
        let Some(Held { rule, spent }) = found else {
            return refuse(UNAUTHORIZED, "token_unknown", "the token is not one for this stream");
        };
        let id = hash.id();
        if rule.scope != ask.wish {
            let scope = rule.scope.name();
            return refuse(UNAUTHORIZED, "token_scope", format!("token {id} is a {scope} token"));
        }
        if rule.expires_ms.is_some_and(|expires_ms| wall_ms >= expires_ms) {
            return refuse(UNAUTHORIZED, "token_expired", format!("token {id} has expired"));
        }
        if !rule.from.is_empty() && !rule.from.iter().any(|network| network.contains(ask.from)) {
            let from = ask.from.to_canonical();
            return refuse(UNAUTHORIZED, "token_network", format!("token {id} may not be used from {from}"));
        }
        if rule.once && spent.swap(true, Ordering::Relaxed) {
            return refuse(UNAUTHORIZED, "token_spent", format!("token {id} was used before"));
        }
        Ok(Grant { token: Some(id), spent: rule.once })
    }
}
