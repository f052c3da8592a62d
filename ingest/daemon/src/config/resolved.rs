//! The configuration in force: plain values, already checked, that the rest of the daemon reads.
//!
//! Promise: a `Config` returned by [`super::load`] has passed every check of [`super::validate`]. `Config::default()`
//! is what an empty file means, and `configs/default.toml` says the same in prose.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use bondgate_auth::geo::Country;
use clap::ValueEnum;

use super::cidr::Cidr;

/// Everything the daemon can be told. Units are in the names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "one field per section of the file; configs/default.toml explains them")]
pub struct Config {
    pub log: Log,
    pub runtime: Runtime,
    pub srtla: Srtla,
    pub keys: Keys,
    pub streams: Streams,
    pub limits: Limits,
    pub bans: Bans,
    pub geo: Geo,
    pub srt: Srt,
    pub output: Output,
    pub relay: Relay,
    pub forward: Forward,
    pub admin: Admin,
    pub gate: Gate,
}

impl Config {
    /// Everybody may register and publish, and nothing is kept on disk: for tests and the demo.
    pub fn open() -> Self {
        let mut config = Self::default();
        config.srtla.auth = AuthMode::Open;
        config.runtime.state_dir = None;
        config
    }
}

/// `[log]`: what is said and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Level, or a comma-separated list `level,target=level`.
    pub level: String,
    /// How a line looks.
    pub format: LogFormat,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// `human` when stderr is a terminal, `json` otherwise.
    Auto,
    /// One readable line per event.
    Human,
    /// One JSON object per event.
    Json,
}

/// `[runtime]`: how the daemon sits on the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runtime {
    /// Number of shards, 1 to 64.
    pub shards: u8,
    /// Pins shard k to core k.
    pub pin_cores: bool,
    /// How packets enter and leave user space.
    pub backend: BackendChoice,
    /// Whether the kernel is told which link belongs to which shard.
    pub steering: SteeringChoice,
    /// Where state that outlives a restart is kept; `None` keeps none.
    pub state_dir: Option<PathBuf>,
    /// Kernel receive buffer asked for each listener, in bytes.
    pub socket_buffer_bytes: usize,
    /// The longest a shard waits for more datagrams once there is one, in microseconds; 0 never.
    pub linger_us: u32,
}

/// How packets enter and leave user space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BackendChoice {
    /// `uring` where the host allows it, `mmsg` otherwise.
    Auto,
    /// `io_uring`; refuses to start where the host does not allow it.
    Uring,
    /// recvmmsg and sendmmsg.
    Mmsg,
}

/// Whether the kernel is told which link belongs to which shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SteeringChoice {
    /// With several shards, where it is possible.
    Auto,
    /// With several shards; refuses to start where it is not possible.
    On,
    /// Never.
    Off,
}

/// `[srtla]`: the SRTLA receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Srtla {
    /// UDP address the links arrive at.
    pub listen: SocketAddr,
    /// Groups at once, per shard.
    pub groups_max: usize,
    /// Links in one group.
    pub links_per_group_max: usize,
    /// A link silent for this long is removed.
    pub link_timeout_ms: u64,
    /// An incomplete SRTLA ACK is sent after this long.
    pub ack_flush_ms: u64,
    /// Who may register.
    pub auth: AuthMode,
    /// Networks from which senders without a key may register when `auth` is `mixed`.
    pub stock_allow: Vec<Cidr>,
    /// Source networks that may register at all; empty is everywhere.
    pub allow: Vec<Cidr>,
    /// Follows a link whose address changed in mid-stream.
    pub roaming: bool,
    /// Devices that ask for MACs on SRT packets get them.
    pub data_mac: bool,
}

/// Who may register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AuthMode {
    /// Devices with a key, nobody else; not a byte in answer to anything else.
    Required,
    /// Devices with a key, and senders without one from `stock_allow`.
    Mixed,
    /// Everybody. `run` refuses it without `--accept-open-ingest`.
    Open,
}

/// `[keys]`: where the secrets of devices are kept, and what devices are told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    /// File with the key that seals the keyring; `None` looks further, see `control::keyring_file`.
    pub seal_key_file: Option<PathBuf>,
    /// `host:port` under which devices reach this receiver; empty until somebody knows.
    pub server: String,
    /// Groups of all devices of a tenant at once, per shard; 0: no limit.
    pub tenant_groups_max: u16,
}

/// `[streams]`: what a publisher or player of a stream has to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Streams {
    /// For streams in none of the lists.
    pub default: StrengthChoice,
    /// Streams that only a device with a key may publish.
    pub sa1: Vec<String>,
    /// Streams that only a device with a key may publish, with the stream's token besides.
    pub sa1_token: Vec<String>,
    /// Streams for which the token is enough.
    pub token: Vec<String>,
    /// Streams for which an address in `srtla.stock_allow` is enough.
    pub cidr: Vec<String>,
    /// What players have to show.
    pub play: PlayChoice,
}

/// What a publisher has to show at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StrengthChoice {
    /// `open` when `srtla.auth` is `open`, `sa1` otherwise.
    Auto,
    /// Nothing; only with `srtla.auth = "open"`.
    Open,
    /// An address in `srtla.stock_allow`.
    Cidr,
    /// The stream's token.
    Token,
    /// A device key.
    Sa1,
    /// A device key and the stream's token.
    #[value(name = "sa1+token")]
    Sa1Token,
}

/// What a player has to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PlayChoice {
    /// Nothing but the stream's name.
    Open,
    /// A play token of the stream.
    Token,
}

/// `[limits]`: what sources may send of registration before anything is proven, per shard. The gate enforces the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Registration packets per second without a key, per IPv4 address or IPv6 /64.
    pub stock_per_source_per_s: u32,
    /// How many of them may come at once after a pause.
    pub stock_per_source_burst: u32,
    /// Registration packets per second without a key, from all sources together.
    pub stock_per_s: u32,
    /// How many of them may come at once after a pause.
    pub stock_burst: u32,
    /// Registration packets per second with a right gate tag, per IPv4 /24 or IPv6 /56.
    pub sa1_per_network_per_s: u32,
    /// How many of them may come at once after a pause.
    pub sa1_per_network_burst: u32,
}

/// `[bans]`: what becomes of addresses that fail to show a right to be here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bans {
    /// Addresses are banned for proven failures; bans of the operator are in force in any case.
    pub automatic: bool,
    /// Failures within `window_s` that make a ban.
    pub strikes: u32,
    /// See `strikes`, in seconds.
    pub window_s: u64,
    /// Length of the first ban in seconds; each further one is twice as long.
    pub first_s: u64,
    /// No automatic ban is longer than this, in seconds; and as long without a failure makes the next one the first again.
    pub max_s: u64,
}

/// `[geo]`: from which countries links and SRT callers may come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Geo {
    /// A database of countries, `.mmdb`; `None` asks no address for its country.
    pub database: Option<PathBuf>,
    /// Only these countries; empty if `block` is meant.
    pub allow: Vec<Country>,
    /// All but these; empty if `allow` is meant.
    pub block: Vec<Country>,
    /// Addresses of no known country.
    pub unknown: UnknownChoice,
    /// Private and local addresses are let in without being asked.
    pub exempt_private: bool,
    /// An older database is warned about; 0: none is.
    pub max_age_days: u16,
}

/// What becomes of addresses of no known country.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum UnknownChoice {
    /// Kept out by `allow`, let in by `block`.
    Auto,
    /// They are let in.
    Allow,
    /// They are kept out.
    Block,
}

/// `[srt]`: our own SRT endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Srt {
    /// UDP address of publishers without bonding and of players.
    pub listen: SocketAddr,
    /// Least latency granted, in milliseconds, both directions.
    pub latency_ms: u64,
    /// SRT connections at once, publishers and players together.
    pub connections_max: usize,
}

/// `[output]`: what becomes of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Which of the two outputs is in force.
    pub mode: OutputMode,
}

/// What becomes of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputMode {
    /// bondgate is the SRT server: it terminates the publisher and serves players.
    Relay,
    /// SRT packets go unmodified to a downstream SRT server.
    Forward,
}

/// `[relay]`: streams of the relay output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relay {
    /// Stream names that may be published; empty admits any name.
    pub streams: Vec<String>,
    /// Name of a stream published or played without stream ID.
    pub default_stream: String,
    /// How long players stay connected after their publisher left.
    pub linger_ms: u64,
    /// Players of one stream at once.
    pub players_per_stream_max: usize,
}

/// `[forward]`: the downstream SRT server of the forward output.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forward {
    /// `host:port`; empty unless the output mode is `forward`.
    pub server: String,
}

/// `[admin]`: metrics and health.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// TCP address (loopback) of the HTTP endpoint; `None` switches it off.
    pub listen: Option<SocketAddr>,
}

/// `[gate]`: the XDP program before the sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gate {
    /// Whether `run` attaches it.
    pub attach: GateAttach,
    /// Network interfaces it is attached to.
    pub interfaces: Vec<String>,
    /// Where in the driver's path.
    pub mode: GateMode,
    /// What is done while it is not there.
    pub on_detach: OnDetach,
    /// Directory on a BPF file system where program, maps and links are pinned.
    pub pin_dir: PathBuf,
    /// Every thread gives up its capabilities once everything is open.
    pub drop_privileges: bool,
}

/// Whether `run` attaches the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GateAttach {
    /// To `interfaces`, if it can be; and it takes over one that was attached by `bondgate xdp attach`.
    Auto,
    /// To `interfaces`, or the daemon does not start.
    On,
    /// Never, and one that is there is left alone.
    Off,
}

/// Where in the driver's path the gate is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GateMode {
    /// `native`, and `generic` where the driver refuses.
    Auto,
    /// In the driver, before a socket buffer exists.
    Native,
    /// In the kernel's receive path, for every driver; slower.
    Generic,
}

/// What is done while the gate is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnDetach {
    /// The application's own checks do.
    App,
    /// Nobody may register; streams that are up go on.
    Closed,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".into(), format: LogFormat::Auto }
    }
}

impl Default for Runtime {
    fn default() -> Self {
        Self {
            shards: 1,
            pin_cores: false,
            backend: BackendChoice::Auto,
            steering: SteeringChoice::Auto,
            state_dir: Some("/var/lib/bondgate".into()),
            socket_buffer_bytes: 8 << 20,
            linger_us: 300,
        }
    }
}

impl Default for Srtla {
    fn default() -> Self {
        Self {
            listen: (Ipv6Addr::UNSPECIFIED, 5000).into(),
            groups_max: 200,
            links_per_group_max: 16,
            link_timeout_ms: 10_000,
            ack_flush_ms: 30,
            auth: AuthMode::Required,
            stock_allow: Vec::new(),
            allow: Vec::new(),
            roaming: true,
            data_mac: true,
        }
    }
}

impl Default for Streams {
    fn default() -> Self {
        Self {
            default: StrengthChoice::Auto,
            sa1: Vec::new(),
            sa1_token: Vec::new(),
            token: Vec::new(),
            cidr: Vec::new(),
            play: PlayChoice::Open,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            stock_per_source_per_s: 32,
            stock_per_source_burst: 128,
            stock_per_s: 6000,
            stock_burst: 6000,
            sa1_per_network_per_s: 500,
            sa1_per_network_burst: 2000,
        }
    }
}

impl Default for Geo {
    fn default() -> Self {
        Self {
            database: None,
            allow: Vec::new(),
            block: Vec::new(),
            unknown: UnknownChoice::Auto,
            exempt_private: true,
            max_age_days: 30,
        }
    }
}

impl Default for Bans {
    fn default() -> Self {
        Self { automatic: true, strikes: 5, window_s: 60, first_s: 60, max_s: 86_400 }
    }
}

impl Default for Srt {
    fn default() -> Self {
        Self { listen: (Ipv6Addr::UNSPECIFIED, 9710).into(), latency_ms: 1000, connections_max: 256 }
    }
}

impl Default for Output {
    fn default() -> Self {
        Self { mode: OutputMode::Relay }
    }
}

impl Default for Relay {
    fn default() -> Self {
        Self {
            streams: Vec::new(),
            default_stream: "live".into(),
            linger_ms: 30_000,
            players_per_stream_max: 32,
        }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: Some((Ipv4Addr::LOCALHOST, 8080).into()) }
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            attach: GateAttach::Auto,
            interfaces: Vec::new(),
            mode: GateMode::Auto,
            on_detach: OnDetach::App,
            pin_dir: "/sys/fs/bpf/bondgate".into(),
            drop_privileges: true,
        }
    }
}
