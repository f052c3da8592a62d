//! The rules in force, and how they reach the shards.
//!
//! A [`Policy`] is compiled from the configuration, the keyring, the bans and the countries, immutable, and published whole: shards look at a
//! number once per turn and take the new policy when it has changed. Nothing is locked on the packet path, and no shard
//! ever holds a device's secret.

pub mod explain;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use bondgate_auth::bans::BanSet;
use bondgate_auth::geo::GeoSet;
use bondgate_auth::keyring::Keyring;
use bondgate_auth::prefix::PrefixSet;
use bondgate_auth::sa1::ListenerId;
use bondgate_auth::stream::{Play, StreamPolicy, Strength};
use bondgate_auth::table::KeyTable;
use bondgate_proto::receiver::{Admission, AdmitPolicy, DropReason, Limits, Rate, StockAdmission};

use crate::config::{AuthMode, Config, OutputMode, PlayChoice, StrengthChoice};

/// Who may register, publish and play. Cheap to clone: what is large is shared.
#[derive(Clone, Debug)]
pub struct Policy {
    /// What the SRTLA receiver enforces.
    pub admission: Arc<Admission>,
    /// What stream IDs are held against.
    pub streams: Arc<StreamPolicy>,
    /// Networks named for senders without a key.
    listed: Arc<PrefixSet<()>>,
    /// Names of streams there may be; empty: any.
    served: Arc<[String]>,
}

impl Policy {
    /// The rules of a configuration, without devices, tokens, bans and countries.
    pub fn compile(config: &Config) -> Self {
        let nothing = Self {
            admission: Arc::new(Admission::open()),
            streams: Arc::new(StreamPolicy::open()),
            listed: Arc::default(),
            served: Arc::default(),
        };
        nothing.with_rules(config)
    }

    /// The rules of another configuration for the same devices, tokens, bans and countries: at start and when the configuration
    /// was changed. Everything of it that a policy depends on is read here, but for `[geo]` (see [`Self::with_geo`]).
    #[must_use]
    pub fn with_rules(&self, config: &Config) -> Self {
        let srtla = &config.srtla;
        let listed =
            |prefix_min: u8| srtla.stock_allow.iter().copied().filter(move |c| c.prefix >= prefix_min);
        let stock = match srtla.auth {
            AuthMode::Required => StockAdmission::Never,
            AuthMode::Mixed => StockAdmission::Listed(Arc::new(listed(0).collect())),
            AuthMode::Open => StockAdmission::Anywhere,
        };
        let admission = Admission {
            networks: if srtla.allow.is_empty() {
                AdmitPolicy::Open
            } else {
                AdmitPolicy::Listed(Arc::new(srtla.allow.iter().copied().collect()))
            },
            stock,
            limits: limits(config),
            tenant_groups_max: config.keys.tenant_groups_max,
            data_mac: srtla.data_mac,
            probation: srtla.auth != AuthMode::Open || streams_are_restricted(config),
            ..Admission::clone(&self.admission)
        };
        let served = match config.output.mode {
            OutputMode::Relay => config.relay.streams.as_slice().into(),
            // Names are the server's business.
            OutputMode::Forward => Arc::default(),
        };
        Self {
            admission: Arc::new(admission),
            streams: Arc::new(demands(config).with_keyring_of(&self.streams)),
            listed: Arc::new(listed(1).collect()),
            served,
        }
    }

    /// The same rules for the devices and tokens of `keyring` at the time `wall_ms`. One-time tokens that were seen used stay
    /// used.
    #[must_use]
    pub fn with_keyring(&self, keyring: Option<&Keyring>, wall_ms: u64) -> Self {
        let admission = Admission {
            listener: keyring.map_or(ListenerId([0; 16]), Keyring::listener),
            gate: keyring.map(Keyring::gate_keys),
            keys: Arc::new(keyring.map_or_else(KeyTable::default, |keyring| keyring.compile(wall_ms))),
            ..Admission::clone(&self.admission)
        };
        let tenants = keyring.into_iter().flat_map(Keyring::tenants).map(Into::into);
        let tokens = keyring.into_iter().flat_map(Keyring::token_rules);
        let streams = self.streams.with_keyring(tenants, tokens);
        Self { admission: Arc::new(admission), streams: Arc::new(streams), ..self.clone() }
    }

    /// The same rules with other bans.
    #[must_use]
    pub fn with_bans(&self, bans: BanSet) -> Self {
        let admission = Admission { bans: Arc::new(bans), ..Admission::clone(&self.admission) };
        Self { admission: Arc::new(admission), ..self.clone() }
    }

    /// The same rules for other countries.
    #[must_use]
    pub fn with_geo(&self, geo: Option<Arc<GeoSet>>) -> Self {
        let admission = Admission { geo, ..Admission::clone(&self.admission) };
        Self { admission: Arc::new(admission), ..self.clone() }
    }

    /// Why a caller at the SRT port is met with silence, if so: it shows no key. `srtla.allow` is about registration and not
    /// asked here.
    pub fn drops_plain(&self, ip: IpAddr, wall_ms: u64) -> Option<DropReason> {
        self.admission.bar(ip, false, wall_ms).map(DropReason::from)
    }

    /// Whether a plain SRT session that was let in must end.
    pub fn ends_plain(&self, ip: IpAddr, wall_ms: u64) -> bool {
        self.admission.bar(ip, true, wall_ms).is_some()
    }

    /// Whether there may be a stream of this name.
    pub fn serves(&self, stream: &str) -> bool {
        self.served.is_empty() || self.served.iter().any(|served| served == stream)
    }

    /// The names of streams there may be; empty: any.
    pub fn served(&self) -> &[String] {
        &self.served
    }

    /// Whether an address is named for senders without a key, and not merely admitted with all others.
    pub fn is_listed(&self, ip: IpAddr) -> bool {
        self.listed.contains(ip)
    }
}

fn limits(config: &Config) -> Limits {
    let limits = &config.limits;
    Limits {
        stock_per_source: Rate { per_s: limits.stock_per_source_per_s, burst: limits.stock_per_source_burst },
        stock: Rate { per_s: limits.stock_per_s, burst: limits.stock_burst },
        sa1_per_network: Rate { per_s: limits.sa1_per_network_per_s, burst: limits.sa1_per_network_burst },
    }
}

/// What streams demand.
fn demands(config: &Config) -> StreamPolicy {
    let streams = &config.streams;
    let default = match streams.default {
        StrengthChoice::Auto if config.srtla.auth == AuthMode::Open => Strength::Open,
        StrengthChoice::Auto | StrengthChoice::Sa1 => Strength::Sa1,
        StrengthChoice::Open => Strength::Open,
        StrengthChoice::Cidr => Strength::Cidr,
        StrengthChoice::Token => Strength::Token,
        StrengthChoice::Sa1Token => Strength::Sa1Token,
    };
    let named = [
        (&streams.sa1, Strength::Sa1),
        (&streams.sa1_token, Strength::Sa1Token),
        (&streams.token, Strength::Token),
        (&streams.cidr, Strength::Cidr),
    ];
    let named =
        named.iter().flat_map(|(names, strength)| names.iter().map(|name| (name.as_str().into(), *strength)));
    let play = match streams.play {
        PlayChoice::Open => Play::Open,
        PlayChoice::Token => Play::Token,
    };
    StreamPolicy::new(Some(default), named, play)
}

/// Some stream demands more than nothing.
fn streams_are_restricted(config: &Config) -> bool {
    let streams = &config.streams;
    let lists = [&streams.sa1, &streams.sa1_token, &streams.token, &streams.cidr];
    !matches!(streams.default, StrengthChoice::Auto | StrengthChoice::Open)
        || lists.iter().any(|names| !names.is_empty())
}

/// Where the policy is published.
#[derive(Debug)]
pub struct PolicySlot {
    policy: ArcSwap<Policy>,
    version: AtomicU64,
}

impl PolicySlot {
    /// A slot with the first policy.
    pub fn new(policy: Policy) -> Self {
        Self { policy: ArcSwap::from_pointee(policy), version: AtomicU64::new(0) }
    }

    /// Puts a policy in force.
    pub fn publish(&self, policy: Policy) {
        self.policy.store(Arc::new(policy));
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Goes up with every policy; one load.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The policy in force.
    pub fn load(&self) -> Arc<Policy> {
        self.policy.load_full()
    }
}

/// Milliseconds since 1970, UTC.
pub fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
