//! The maps of the BPF programs: names, keys, values and how many.
//!
//! Keys are bytes as they are on the wire; values are words of the machine (the programs are little-endian) in structures
//! without padding, and every structure converts itself to and from the bytes of its map. Addresses are 16 bytes, IPv4 as
//! v4-mapped IPv6, so that one map serves both families.
//!
//! | map | type | key | value |
//! |---|---|---|---|
//! | [`GLOBALS`] | array of 1 | 0 | [`Globals`] |
//! | [`LINKS`] | hash | [`LinkKey`] | [`Link`] |
//! | [`BANS`] | hash | [`ban_key`] | `u64`: `CLOCK_MONOTONIC` ns at which it ends |
//! | [`LISTS`] | array of maps | [`List`] | LPM trie: [`prefix_key`] to a `u64`, see [`List`] |
//! | [`BUCKETS`] | array | [`Budget`]'s range | `u64`, see [`crate::bucket`] |
//! | [`COUNTERS`] | per-CPU array | [`Reason`], then [`Stat`] | [`Count`] |
//! | [`EVENTS`] | ring buffer | | [`Event`] |
//! | [`SOCKETS`] | socket array | shard | socket of the `SO_REUSEPORT` group |
//!
//! [`Globals`] is all that every frame needs, for one lookup. To change the configuration write it twice, first with the new one
//! beside the one in force, then with the new one in force: [`Globals::set_spare`], [`Globals::switch`]. To change a list fill a new trie and put it into
//! [`LISTS`]. Neither is ever seen half done.
//!
//! [`Globals`] has the bit of every source port that a key in [`LINKS`] has. It is asked first, since most of a flood comes from
//! other ports and a bit costs less to ask for than a link. Set a bit before the link is inserted, clear it when the last one
//! with this port is gone: a bit too many costs a few ns, one too few would drop a link's frames.

use crate::bucket::Rate;
use crate::reason::Reason;

/// Name of the XDP program.
pub const PROGRAM_GATE: &str = "gate";
/// Name of the `sk_reuseport` program.
pub const PROGRAM_STEER: &str = "steer";

/// Name of the map of what every frame needs.
pub const GLOBALS: &str = "GLOBALS";
/// Name of the map of registered links.
pub const LINKS: &str = "LINKS";
/// Name of the map of banned addresses.
pub const BANS: &str = "BANS";
/// Name of the map of prefix lists.
pub const LISTS: &str = "LISTS";
/// Name of the map of token buckets.
pub const BUCKETS: &str = "BUCKETS";
/// Name of the map of counters.
pub const COUNTERS: &str = "COUNTERS";
/// Name of the ring buffer of events.
pub const EVENTS: &str = "EVENTS";
/// Name of the map of the shards' sockets.
pub const SOCKETS: &str = "SOCKETS";

/// Links at once.
pub const LINKS_MAX: u32 = 65_536;
/// Words of the links' source ports in [`Globals`].
pub const LINK_PORTS_MAX: usize = 65_536 / 64;
/// Banned addresses at once; banned networks are in [`List::Bans`].
pub const BANS_MAX: u32 = 65_536;
/// Prefixes in one list, as the declaration of the inner maps has it. A list may be made larger or smaller.
pub const PREFIXES_MAX: u32 = 262_144;
/// Bytes of the ring buffer.
pub const EVENTS_BYTES: u32 = 262_144;
/// Shards that links can be steered to.
pub const SHARDS_MAX: u32 = 256;
/// Ports that can be guarded.
pub const PORTS_MAX: usize = 8;
/// Gate keys: the previous, the current and the announced.
pub const GATE_KEYS_MAX: usize = 3;

/// The prefix lists, by index in [`LISTS`]. The value 0 is the same as no entry: with it a longer prefix takes an address
/// out of a shorter one.
///
/// IPv4 networks are `::ffff:a.b.c.d/96+n`. An IPv6 prefix that covers `::ffff:0:0/96` (`::/0` does) would take in all of
/// IPv4; whoever writes one also writes `::ffff:0:0/96` with the value 0, unless that has an entry of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u32)]
pub enum List {
    /// Banned networks: `CLOCK_MONOTONIC` ns at which the ban ends, [`FOR_EVER`] if it does not.
    Bans = 0,
    /// Networks that may register: [`allow_value`].
    Allow = 1,
    /// Countries: [`GEO_ALLOWED`] or [`GEO_REFUSED`]; no entry is an unknown country.
    Geo = 2,
    /// Networks that may register without a key: 1.
    StockAllow = 3,
}

impl List {
    /// All lists, by index.
    pub const ALL: [Self; 4] = [Self::Bans, Self::Allow, Self::Geo, Self::StockAllow];
}

/// A ban without end.
pub const FOR_EVER: u64 = u64::MAX;
/// In [`List::Geo`]: of a country that may register.
pub const GEO_ALLOWED: u64 = 1;
/// In [`List::Geo`]: of a country that may not.
pub const GEO_REFUSED: u64 = 2;

const LISTED: u64 = 1 << 63;

/// Value of an entry of [`List::Allow`]: listed, and with `slot` other than 0 with the bucket of this number in the range of
/// [`Budget::Prefix`].
pub const fn allow_value(slot: u16) -> u64 {
    LISTED | slot as u64
}

/// Key of an LPM trie: prefix length in bits in the machine's order, then the address.
pub fn prefix_key(address: &[u8; 16], prefix_len: u32) -> [u8; 20] {
    let mut key = [0; 20];
    key[..4].copy_from_slice(&prefix_len.to_le_bytes());
    key[4..].copy_from_slice(address);
    key
}

/// An address as four words of memory, each with four bytes of the wire in their order: what the program moves about, since
/// the verifier's machine has no cheap way to move bytes.
pub type Words = [u32; 4];

const V4_MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

/// An IPv4 address as 16 bytes.
pub const fn v4_mapped(a: [u8; 4]) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a[0], a[1], a[2], a[3]]
}

/// The words of an IPv4 address.
#[inline(always)]
pub(crate) const fn v4_words(address: [u8; 4]) -> Words {
    [0, 0, V4_MAPPED, u32::from_ne_bytes(address)]
}

/// The words of 16 bytes.
#[inline(always)]
pub const fn words(a: &[u8; 16]) -> Words {
    [
        u32::from_ne_bytes([a[0], a[1], a[2], a[3]]),
        u32::from_ne_bytes([a[4], a[5], a[6], a[7]]),
        u32::from_ne_bytes([a[8], a[9], a[10], a[11]]),
        u32::from_ne_bytes([a[12], a[13], a[14], a[15]]),
    ]
}

/// The 16 bytes of an address.
pub fn bytes(words: &Words) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (chunk, word) in bytes.chunks_exact_mut(4).zip(words) {
        chunk.copy_from_slice(&word.to_ne_bytes());
    }
    bytes
}

/// The address is IPv4.
#[inline(always)]
pub(crate) const fn is_v4(words: &Words) -> bool {
    words[0] | words[1] == 0 && words[2] == V4_MAPPED
}

/// Key of [`BANS`]: an IPv4 address, or the /64 of an IPv6 address (the least a subscriber has). Bans of anything longer or
/// shorter belong in [`List::Bans`].
pub fn ban_key(address: &[u8; 16]) -> [u8; 16] {
    bytes(&subscriber(&words(address)))
}

/// An IPv4 address itself, the /64 of an IPv6 address.
#[inline(always)]
pub(crate) const fn subscriber(w: &Words) -> Words {
    if is_v4(w) { *w } else { [w[0], w[1], 0, 0] }
}

/// The /24 of an IPv4 address, the /56 of an IPv6 address.
#[inline(always)]
pub(crate) const fn site(w: &Words) -> Words {
    const THREE_BYTES: u32 = u32::from_ne_bytes([0xff, 0xff, 0xff, 0]);
    if is_v4(w) { [0, 0, w[2], w[3] & THREE_BYTES] } else { [w[0], w[1] & THREE_BYTES, 0, 0] }
}

/// Key of [`LINKS`]: whose datagrams, to which of our ports. Address, source port and our port as they are on the wire, kept
/// as five words of memory.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LinkKey {
    words: [u32; 5],
}

impl LinkKey {
    /// Its length in the map.
    pub const LEN: usize = 20;

    /// Nobody's.
    pub const ZERO: Self = Self { words: [0; 5] };

    /// A key from what addresses look like elsewhere.
    pub const fn new(address: [u8; 16], port: u16, dest_port: u16) -> Self {
        let (from, to) = (port.to_be_bytes(), dest_port.to_be_bytes());
        Self::from_words(words(&address), u32::from_ne_bytes([from[0], from[1], to[0], to[1]]))
    }

    /// From the words of an address, and the two ports as they begin a UDP header.
    #[inline(always)]
    pub(crate) const fn from_words(a: Words, ports: u32) -> Self {
        Self { words: [a[0], a[1], a[2], a[3], ports] }
    }

    /// The words of the source address.
    #[inline(always)]
    pub const fn address_words(&self) -> Words {
        let [a, b, c, d, _] = self.words;
        [a, b, c, d]
    }

    /// Source address.
    pub fn address(&self) -> [u8; 16] {
        bytes(&self.address_words())
    }

    /// Source port.
    #[inline(always)]
    pub const fn port(&self) -> u16 {
        let [a, b, ..] = self.words[4].to_ne_bytes();
        u16::from_be_bytes([a, b])
    }

    /// Our port.
    #[inline(always)]
    pub const fn dest_port(&self) -> u16 {
        let [.., a, b] = self.words[4].to_ne_bytes();
        u16::from_be_bytes([a, b])
    }

    /// The bytes of the map.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        for (chunk, word) in bytes.chunks_exact_mut(4).zip(self.words) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    /// From the bytes of the map.
    pub fn from_bytes(bytes: &[u8; Self::LEN]) -> Self {
        Self { words: [0, 4, 8, 12, 16].map(|at| u32::from_ne_bytes(take(bytes, at))) }
    }
}

impl core::fmt::Debug for LinkKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let address = core::net::Ipv6Addr::from(self.address()).to_canonical();
        write!(f, "{address} port {} to port {}", self.port(), self.dest_port())
    }
}

/// Value of [`LINKS`].
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Link {
    /// The shard that owns the link's group, and the index of its socket.
    pub shard: u32,
    /// Whatever the writer wants, to tell its entries from those of a predecessor.
    pub generation: u32,
    /// Bucket of the link's registration packets; 0 when written.
    pub reg_bucket: u64,
}

impl Link {
    /// Its length in the map.
    pub const LEN: usize = 16;

    /// The bytes of the map.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..4].copy_from_slice(&self.shard.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.generation.to_le_bytes());
        bytes[8..].copy_from_slice(&self.reg_bucket.to_le_bytes());
        bytes
    }

    /// From the bytes of the map.
    pub fn from_bytes(bytes: &[u8; Self::LEN]) -> Self {
        Self {
            shard: u32::from_le_bytes(take(bytes, 0)),
            generation: u32::from_le_bytes(take(bytes, 4)),
            reg_bucket: u64::from_le_bytes(take(bytes, 8)),
        }
    }
}

/// What a guarded port carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum PortKind {
    /// SRTLA: all checks.
    Srtla,
    /// Plain SRT: fragments, bans, allowlist and geo only.
    Srt,
}

/// A guarded port in [`Config::ports`].
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Port {
    /// Its number.
    pub number: u16,
    /// 0: this entry is not used; 1: SRTLA; 2: SRT.
    pub kind: u16,
}

impl Port {
    /// A guarded port.
    pub const fn new(number: u16, kind: PortKind) -> Self {
        let kind = match kind {
            PortKind::Srtla => 1,
            PortKind::Srt => 2,
        };
        Self { number, kind }
    }

    /// What it carries, if the entry is used.
    #[inline(always)]
    pub const fn kind(self) -> Option<PortKind> {
        match self.kind {
            1 => Some(PortKind::Srtla),
            2 => Some(PortKind::Srt),
            _ => None,
        }
    }
}

/// A gate key in [`Config::gate_keys`].
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct GateKey {
    /// The key as two little-endian words, as `SipHash` defines it.
    pub key: [u64; 2],
    /// Its epoch.
    pub epoch: u32,
    /// 0: this entry is not used.
    pub used: u32,
}

impl GateKey {
    /// The key of an epoch.
    pub fn new(epoch: u32, key: &[u8; 16]) -> Self {
        let key = [u64::from_le_bytes(take(key, 0)), u64::from_le_bytes(take(key, 8))];
        Self { key, epoch, used: 1 }
    }
}

impl core::fmt::Debug for GateKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "GateKey(epoch {}, used {}, redacted)", self.epoch, self.used)
    }
}

/// The budgets: index in [`Config::rates`], and which part of [`BUCKETS`] has its buckets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u32)]
pub enum Budget {
    /// Registration packets of one registered link; the bucket is in [`Link`].
    Link = 0,
    /// Registrations from one entry of the allowlist; the entry says which bucket.
    Prefix = 1,
    /// Registrations with a gate tag from one source (/24, /56).
    Sa1Source = 2,
    /// Registrations without a key from one source (/32, /64).
    StockSource = 3,
    /// Registrations without a key altogether.
    StockTotal = 4,
    /// Events.
    Events = 5,
}

/// How many budgets there are.
pub const BUDGETS: usize = 6;
/// Buckets of one budget.
pub const BUCKETS_EACH: u32 = 65_536;
/// Buckets in all. Sources share them by a keyed hash: nothing is inserted or evicted, and nobody can choose whose bucket
/// he shares.
pub const BUCKETS_MAX: u32 = 4 * BUCKETS_EACH;

impl Budget {
    /// Index in [`BUCKETS`] of bucket number `slot` of this budget.
    #[inline(always)]
    pub const fn bucket(self, slot: u16) -> u32 {
        let range = match self {
            Self::Prefix => 1,
            Self::Sa1Source => 2,
            Self::StockSource => 3,
            // One bucket each; that of `Link` is never looked for here.
            Self::Link | Self::StockTotal | Self::Events => return self as u32,
        };
        range * BUCKETS_EACH + slot as u32
    }
}

/// [`Config::flags`]: look at [`List::Bans`].
pub const CHECK_BANS: u32 = 1;
/// [`Config::flags`]: nobody registers who is not in [`List::Allow`].
pub const CHECK_ALLOW: u32 = 1 << 1;
/// [`Config::flags`]: look at [`List::Geo`].
pub const CHECK_GEO: u32 = 1 << 2;
/// [`Config::flags`]: unknown countries are refused.
pub const GEO_UNKNOWN_REFUSED: u32 = 1 << 3;
/// [`Config::flags`]: nobody registers without a key.
pub const STOCK_NEVER: u32 = 1 << 4;
/// [`Config::flags`]: only who is in [`List::StockAllow`] registers without a key.
pub const STOCK_LISTED: u32 = 1 << 5;
/// [`Config::flags`]: registrations that look like SA1 need the right gate tag.
pub const CHECK_GATE_TAG: u32 = 1 << 6;

/// One of the two in [`Globals`]. All zeros guards nothing: everything passes untouched.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Config {
    /// Version of the policy it was compiled from; nothing depends on it.
    pub generation: u64,
    /// Random, drawn when the maps are made: decides which sources share a bucket.
    pub seed: [u64; 2],
    /// The budgets, by [`Budget`].
    pub rates: [Rate; BUDGETS],
    /// The gate keys.
    pub gate_keys: [GateKey; GATE_KEYS_MAX],
    /// The guarded ports. The first entry that is not used ends the list.
    pub ports: [Port; PORTS_MAX],
    /// [`CHECK_BANS`] and so on.
    pub flags: u32,
    /// Of the frames dropped for one reason on one CPU, one in `drop_sample_mask + 1` becomes an event. A power of two less
    /// one; `u32::MAX` for none but the first.
    pub drop_sample_mask: u32,
    /// The same for frames for our ports that pass.
    pub pass_sample_mask: u32,
    /// 0.
    pub reserved: u32,
}

/// Value of [`GLOBALS`].
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Globals {
    configs: [Config; 2],
    /// Its lowest bit says which of them is in force.
    active: u64,
    link_ports: [u64; LINK_PORTS_MAX],
}

impl Globals {
    /// Its length in the map.
    pub const LEN: usize = 2 * Config::LEN + 8 + 8 * LINK_PORTS_MAX;

    /// Puts a configuration beside the one in force.
    pub fn set_spare(now: &mut [u8; Self::LEN], config: &Config) {
        let spare = 1 - (now[2 * Config::LEN] & 1);
        let at = usize::from(spare) * Config::LEN;
        now[at..at + Config::LEN].copy_from_slice(&config.to_bytes());
    }

    /// Puts the configuration beside the one in force into its place.
    pub fn switch(now: &mut [u8; Self::LEN]) {
        now[2 * Config::LEN] ^= 1;
    }

    /// Sets or clears the bit of a link's source port.
    pub fn set_link_port(now: &mut [u8; Self::LEN], port: u16, value: bool) {
        let at = 2 * Config::LEN + 8 + usize::from(port / 8);
        let bit = 1 << (port & 7);
        now[at] = if value { now[at] | bit } else { now[at] & !bit };
    }

    /// Clears the bits of all source ports.
    pub fn clear_link_ports(now: &mut [u8; Self::LEN]) {
        now[2 * Config::LEN + 8..].fill(0);
    }

    /// Whether a source port's bit is set.
    pub fn has_link_port(now: &[u8; Self::LEN], port: u16) -> bool {
        now[2 * Config::LEN + 8 + usize::from(port / 8)] >> (port & 7) & 1 != 0
    }

    /// A link may have this source port.
    #[inline(always)]
    pub const fn is_link_port(&self, port: u16) -> bool {
        self.link_ports[(port >> 6) as usize] >> (port & 63) & 1 != 0
    }

    /// The bytes of the configuration in force.
    pub fn in_force_of(now: &[u8; Self::LEN]) -> [u8; Config::LEN] {
        take(now, usize::from(now[2 * Config::LEN] & 1) * Config::LEN)
    }

    /// The configuration in force.
    #[inline(always)]
    pub const fn in_force(&self) -> &Config {
        &self.configs[(self.active & 1) as usize]
    }
}

impl Config {
    /// Its length in the map.
    pub const LEN: usize = size_of::<Self>();

    /// The rate of a budget.
    #[inline(always)]
    pub const fn rate(&self, budget: Budget) -> &Rate {
        &self.rates[budget as usize]
    }

    /// Sets the rate of a budget.
    pub const fn set_rate(&mut self, budget: Budget, rate: Rate) {
        self.rates[budget as usize] = rate;
    }

    /// What the port carries, if it is guarded.
    #[inline(always)]
    pub fn port_kind(&self, number: u16) -> Option<PortKind> {
        for port in &self.ports {
            let kind = port.kind()?;
            if port.number == number {
                return Some(kind);
            }
        }
        None
    }

    /// The bytes of the map.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let mut out = Writer { bytes: &mut bytes, at: 0 };
        out.put(self.generation.to_le_bytes());
        self.seed.iter().for_each(|word| out.put(word.to_le_bytes()));
        for rate in &self.rates {
            out.put(rate.interval_ns.to_le_bytes());
            out.put(rate.tolerance_ns.to_le_bytes());
        }
        for gate in &self.gate_keys {
            gate.key.iter().for_each(|word| out.put(word.to_le_bytes()));
            out.put(gate.epoch.to_le_bytes());
            out.put(gate.used.to_le_bytes());
        }
        for port in &self.ports {
            out.put(port.number.to_le_bytes());
            out.put(port.kind.to_le_bytes());
        }
        for word in [self.flags, self.drop_sample_mask, self.pass_sample_mask, self.reserved] {
            out.put(word.to_le_bytes());
        }
        bytes
    }
}

/// Appends to an array of the right length.
struct Writer<'a> {
    bytes: &'a mut [u8; Config::LEN],
    at: usize,
}

impl Writer<'_> {
    fn put<const N: usize>(&mut self, word: [u8; N]) {
        self.bytes[self.at..self.at + N].copy_from_slice(&word);
        self.at += N;
    }
}

/// Further indices of [`COUNTERS`], behind the reasons. Their bytes stay 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u32)]
pub enum Stat {
    /// Events written.
    Events = Reason::ALL.len() as u32,
    /// Events not written because their budget was spent.
    EventsOverBudget,
    /// Events not written because the ring buffer was full.
    EventsLost,
}

/// Length of [`COUNTERS`].
pub const COUNTERS_MAX: u32 = Stat::EventsLost as u32 + 1;

/// Value of [`COUNTERS`], one per CPU.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Count {
    /// Frames.
    pub packets: u64,
    /// Bytes of the frames, link layer included.
    pub bytes: u64,
}

impl Count {
    /// Its length in the map.
    pub const LEN: usize = 16;

    /// From the bytes of the map.
    pub fn from_bytes(bytes: &[u8; Self::LEN]) -> Self {
        Self { packets: u64::from_le_bytes(take(bytes, 0)), bytes: u64::from_le_bytes(take(bytes, 8)) }
    }
}

/// What is written into [`EVENTS`]: a frame that stands for several.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// The source, and for which port: zeros when the verdict came before they were read.
    pub source: LinkKey,
    /// How many frames it stands for: the sample mask and one.
    pub weight: u32,
    /// [`Reason`].
    pub reason: u32,
    /// Bytes of the frame.
    pub len: u32,
}

impl Event {
    /// Its length in the ring buffer.
    pub const LEN: usize = 32;

    /// From the bytes of the ring buffer; `None` if they are not an event.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::LEN] = bytes.try_into().ok()?;
        let event = Self {
            source: LinkKey::from_bytes(&take(bytes, 0)),
            weight: u32::from_le_bytes(take(bytes, 20)),
            reason: u32::from_le_bytes(take(bytes, 24)),
            len: u32::from_le_bytes(take(bytes, 28)),
        };
        event.reason().map(|_| event)
    }

    /// Its reason.
    pub fn reason(&self) -> Option<Reason> {
        u8::try_from(self.reason).ok().and_then(Reason::from_index)
    }
}

/// The `N` bytes at `at`, which the caller knows to be there.
#[inline(always)]
pub(crate) fn take<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    if let Some(found) = bytes.get(at..at + N) {
        out.copy_from_slice(found);
    }
    out
}

const _: () = {
    assert!(size_of::<LinkKey>() == LinkKey::LEN);
    assert!(size_of::<Link>() == Link::LEN && core::mem::offset_of!(Link, reg_bucket) == 8);
    assert!(size_of::<Count>() == Count::LEN);
    assert!(size_of::<Event>() == Event::LEN);
    // No padding: the fields' sizes add up.
    assert!(Config::LEN == 8 + 16 + BUDGETS * 16 + GATE_KEYS_MAX * 24 + PORTS_MAX * 4 + 16);
    assert!(size_of::<Globals>() == Globals::LEN);
    assert!(Stat::Events as usize == Reason::ALL.len());
};

#[cfg(test)]
mod tests;
