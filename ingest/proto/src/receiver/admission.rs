//! Who may register: the policy, the clocks and secrets registration needs, and what a group has proven.
//!
//! [`Admission`] is immutable and shared by all shards; a change of policy is another one, brought by
//! [`Command::SetAdmission`](super::Command::SetAdmission).

use super::bucket::Rate;
use super::config::AdmitPolicy;
use super::drops::DropReason;
use super::{CloseReason, LeaveReason};
use bondgate_auth::bans::{Ban, BanSet};
use bondgate_auth::geo::GeoSet;
use bondgate_auth::prefix::PrefixSet;
use bondgate_auth::sa1::keys::GateKeys;
use bondgate_auth::sa1::{KeyId, ListenerId, Now, StreamBind};
use bondgate_auth::table::{DeviceRules, KeyTable};
use bondgate_auth::ticket::TicketKey;
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Instant;

/// The policy of one listener.
#[derive(Clone, Debug)]
pub struct Admission {
    /// Who may register at all. A device outside gets a tagged refusal, a stock sender silence.
    pub networks: AdmitPolicy,
    /// Which senders without a key may register.
    pub stock: StockAdmission,
    /// Who is kept out. Looked at first, and met with silence.
    pub bans: Arc<BanSet>,
    /// From which countries anybody may come, if that is asked. Looked at next, and met with silence.
    pub geo: Option<Arc<GeoSet>>,
    /// What sources may send of registration before anything is proven.
    pub limits: Limits,
    /// Who this receiver is to devices.
    pub listener: ListenerId,
    /// The gate keys; without them the gate tag is not looked at.
    pub gate: Option<GateKeys>,
    /// The devices' keys.
    pub keys: Arc<KeyTable>,
    /// Groups all devices of one tenant may have at once in this shard; 0: as many as they may have one by one.
    pub tenant_groups_max: u16,
    /// Devices that ask for MACs on SRT packets get them. It concerns links that join from now on.
    pub data_mac: bool,
    /// New groups may only shake hands until [`Command::StreamAccepted`](super::Command::StreamAccepted).
    pub probation: bool,
}

impl Admission {
    /// Stock senders from anywhere, no devices, no probation.
    pub fn open() -> Self {
        Self {
            networks: AdmitPolicy::Open,
            stock: StockAdmission::Anywhere,
            bans: Arc::default(),
            geo: None,
            limits: Limits::default(),
            listener: ListenerId([0; 16]),
            gate: None,
            keys: Arc::default(),
            tenant_groups_max: 0,
            data_mac: true,
            probation: false,
        }
    }

    /// The lists name this address for senders without a key. Bans are another question.
    pub fn admits_stock(&self, ip: IpAddr) -> bool {
        self.stock.admits(ip) && self.networks.allows(ip)
    }

    /// The ban that concerns whoever sends from `ip`, with a key or without.
    pub fn ban(&self, ip: IpAddr, has_key: bool, wall_ms: u64) -> Option<Ban> {
        if has_key { self.bans.everyone(ip, wall_ms) } else { self.bans.keyless(ip, wall_ms) }
    }

    /// Why nothing that is sent from `ip` is looked at, if so.
    pub fn bar(&self, ip: IpAddr, has_key: bool, wall_ms: u64) -> Option<Bar> {
        if self.ban(ip, has_key, wall_ms).is_some() {
            Some(Bar::Banned)
        } else if self.geo.as_ref().is_some_and(|geo| !geo.admits(ip)) {
            Some(Bar::Country)
        } else {
            None
        }
    }

    /// The lists name this address for those with a key, or for those without one.
    pub(super) fn admits(&self, ip: IpAddr, has_key: bool) -> bool {
        if has_key { self.networks.allows(ip) } else { self.admits_stock(ip) }
    }

    /// There is something that could keep an address out.
    pub(super) fn has_bars(&self) -> bool {
        !self.bans.is_empty() || self.geo.is_some()
    }
}

/// What keeps out an address, whatever comes from it; of a link that is up also that the lists do not name it any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bar {
    /// It is banned.
    Banned,
    /// It is in a country that may not come in, or nobody knows where.
    Country,
    /// The lists do not name it. Only of links that are up: who asks to register is answered by what it shows.
    NotAdmitted,
}

impl From<Bar> for DropReason {
    fn from(bar: Bar) -> Self {
        match bar {
            Bar::Banned => Self::Banned,
            Bar::Country => Self::Geo,
            Bar::NotAdmitted => Self::NotAdmitted,
        }
    }
}

impl From<Bar> for CloseReason {
    fn from(bar: Bar) -> Self {
        match bar {
            Bar::Banned => Self::Banned,
            Bar::Country => Self::Country,
            Bar::NotAdmitted => Self::NotAdmitted,
        }
    }
}

impl From<Bar> for LeaveReason {
    fn from(bar: Bar) -> Self {
        match bar {
            Bar::Banned => Self::Banned,
            Bar::Country => Self::Country,
            Bar::NotAdmitted => Self::NotAdmitted,
        }
    }
}

/// What sources may send of registration before anything is proven, per shard. The gate enforces the same before a socket
/// sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// REG1 and REG2 without a key, per source (IPv4 address or IPv6 /64). A phone with 16 modems that restarts sends 33
    /// packets at once, and a few of them may share a carrier's NAT.
    pub stock_per_source: Rate,
    /// REG1 and REG2 without a key from all sources together. A third is kept for joins, so that REG1, which anybody can
    /// send, does not keep out who already has a ticket.
    pub stock: Rate,
    /// REG1 and REG2 with a right gate tag, per network of sources (IPv4 /24 or IPv6 /56).
    pub sa1_per_network: Rate,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            stock_per_source: Rate { per_s: 32, burst: 128 },
            stock: Rate { per_s: 6000, burst: 6000 },
            sa1_per_network: Rate { per_s: 500, burst: 2000 },
        }
    }
}

impl Limits {
    /// The part of [`Limits::stock`] that is kept for REG2.
    pub(super) fn stock_join(&self) -> Rate {
        Rate { per_s: self.stock.per_s / 3, burst: self.stock.burst / 3 }
    }

    /// The rest of it.
    pub(super) fn stock_reg1(&self) -> Rate {
        let join = self.stock_join();
        Rate { per_s: self.stock.per_s - join.per_s, burst: self.stock.burst - join.burst }
    }
}

/// Which senders without a key may register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StockAdmission {
    /// None: nothing is sent in answer to anything without gate tag and MAC.
    Never,
    /// Those in these networks.
    Listed(Arc<PrefixSet<()>>),
    /// All that [`Admission::networks`] names.
    Anywhere,
}

impl StockAdmission {
    /// `ip` may register without a key.
    pub fn admits(&self, ip: IpAddr) -> bool {
        *self == Self::Anywhere || self.lists(ip)
    }

    /// `ip` may, and was named.
    pub fn lists(&self, ip: IpAddr) -> bool {
        matches!(self, Self::Listed(networks) if networks.contains(ip))
    }
}

/// The clocks of SA1, read at one moment. All shards should be given the same reading: a cookie of one is checked by
/// another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Clock {
    /// When they were read, on the clock of all other calls.
    pub at: Instant,
    /// Milliseconds of `CLOCK_BOOTTIME`.
    pub boot_ms: u64,
    /// Milliseconds since 1970, UTC.
    pub wall_ms: u64,
}

impl Clock {
    /// What the clocks show at `now`.
    pub fn now(&self, now: Instant) -> Now {
        let since_ms = now.saturating_duration_since(self.at).as_millis() as u64;
        Now { boot_ms: self.boot_ms.saturating_add(since_ms), wall_ms: self.wall_ms.saturating_add(since_ms) }
    }

    /// Takes a new reading. The boot clock never goes back by it.
    pub(super) fn set(&mut self, new: Self) {
        *self = Self { boot_ms: new.boot_ms.max(self.now(new.at).boot_ms), ..new };
    }
}

/// What must not be known outside. The same in all shards of a process.
#[derive(Debug)]
pub struct Secrets {
    /// Makes the tickets of stock senders. To be kept over restarts.
    pub tickets: TicketKey,
    /// Makes SA1's cookies. To be drawn at start and never stored.
    pub cookies: [u8; 32],
    /// Makes SA1's nonces and keys its filters. To be drawn at start and never stored.
    pub nonces: [u8; 16],
}

/// What the sender of a group has shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GroupProof<'a> {
    /// It holds a device key.
    Device {
        /// What the device may do.
        rules: &'a DeviceRules,
        /// What the group was registered for.
        bind: StreamBind,
        /// The key.
        key_id: KeyId,
    },
    /// Nothing.
    Stock {
        /// Its address is on the list of [`StockAdmission::Listed`].
        listed: bool,
    },
}

/// The policy in force, behind a count of references that is this shard's own: shards that count the same thing for
/// every registration would wait for each other.
#[derive(Debug)]
pub(super) struct Current(pub(super) Arc<Admission>);

impl Deref for Current {
    type Target = Admission;

    fn deref(&self) -> &Admission {
        &self.0
    }
}
