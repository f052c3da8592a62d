//! What the programs of the bench and their driver agree on: datagrams of a load, frames around them, when each is due, and
//! how latencies are kept.
//!
//! The generator is an XDP program that the kernel runs over and over; what it does next follows from [`Progress`] alone.
//! Promises: datagram `n` says which it is and when it was due, whatever the receiver does; every frame has its own headers
//! with the right checksums; a flood's sources are the [`Offer::flood_sources`] addresses from [`Offer::flood_first`] on and
//! no others.
//!
//! | map | type | key | value |
//! |---|---|---|---|
//! | [`OFFER`] | array of 1 | 0 | [`Offer`] |
//! | [`SENDERS`] | array | link: all of group 0, then those of group 1, and so on | [`Sender`] |
//! | [`PROGRESS`] | array of 1 | 0 | [`Progress`] |
//! | [`WINDOW`] | array of 1 | 0 | `u64`: latencies count from this number on |
//! | [`LATENCY`] | per-CPU array | [`bucket_of`] | `u64`: how many datagrams |
//! | [`SOFTIRQ`] | per-CPU array of 1 | 0 | [`Softirq`] |
//!
//! A datagram is an SRT data packet:
//!
//! ```text
//!  0  sequence number, message number, timestamp, socket ID     the SRT header
//! 16  magic, group                                              4 + 4 bytes
//! 24  number in the run                                         8
//! 32  intended time, ns since the start of the run              8
//! 40  filler
//! -8  check: a mix of number and intended time                  8
//! ```

use crate::abi::take;

/// Name of the XDP program that offers.
pub const PROGRAM_OFFER: &str = "offer";
/// Name of the socket filter that notes arrivals.
pub const PROGRAM_ARRIVE: &str = "arrive";
/// Names of the programs at the tracepoints of the same names, which time the receiving soft interrupt.
pub const PROGRAMS_SOFTIRQ: [&str; 2] = ["softirq_entry", "softirq_exit"];
/// Name of the map of what to offer.
pub const OFFER: &str = "OFFER";
/// Name of the map of the links' addresses.
pub const SENDERS: &str = "SENDERS";
/// Name of the map of what was offered.
pub const PROGRESS: &str = "PROGRESS";
/// Name of the map of the first number whose latency counts.
pub const WINDOW: &str = "WINDOW";
/// Name of the map of latencies.
pub const LATENCY: &str = "LATENCY";
/// Name of the map of times in soft interrupts.
pub const SOFTIRQ: &str = "SOFTIRQ";

/// Links that can be offered for.
pub const SENDERS_MAX: u32 = 65_536;
/// Bytes before the filler.
pub const HEAD_LEN: usize = 40;
/// Bytes behind the filler.
pub const CHECK_LEN: usize = 8;
/// What a datagram is filled up with.
pub const FILLER: u8 = 0x47;
/// The Ethernet header.
pub const ETHERNET_LEN: usize = 14;
/// Ethernet, IPv4 and UDP headers.
pub const HEADERS_LEN: usize = ETHERNET_LEN + 20 + 8;
/// Length of a registration packet.
pub const REG_LEN: u32 = 258;
/// The data packets of a flood name this run, which is none.
pub const FLOOD_MAGIC: u32 = 0xdead;
/// The vector of the soft interrupt that receives (`NET_RX_SOFTIRQ`).
pub const NET_RX: u32 = 3;
/// Fractions of a nanosecond in intervals: so many bits.
pub const FRACTION_BITS: u32 = 16;

/// What a datagram says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Which group it was sent for.
    pub group: u32,
    /// Its number in the run.
    pub number: u64,
    /// When it was to be sent, in ns since the start of the run.
    pub intended_ns: u64,
}

impl Stamp {
    /// The check at the end of a datagram of the run named by `magic`.
    #[inline(always)]
    pub fn check(&self, magic: u32) -> u64 {
        (self.number ^ ((magic as u64) << 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
            ^ self.intended_ns
            ^ self.group as u64
    }

    /// What comes before the filler; `sequence` is the SRT sequence number.
    #[inline(always)]
    pub fn head(&self, magic: u32, sequence: u32) -> Piece<HEAD_LEN> {
        let mut piece = Piece([0; HEAD_LEN]);
        let head = &mut piece.0;
        head[..4].copy_from_slice(&(sequence & 0x7fff_ffff).to_be_bytes());
        head[4..8].copy_from_slice(&(0xc000_0000 | (sequence & 0x03ff_ffff)).to_be_bytes());
        head[8..12].copy_from_slice(&((self.intended_ns / 1000) as u32).to_be_bytes());
        head[12..16].copy_from_slice(&socket_id(self.group).to_be_bytes());
        head[16..20].copy_from_slice(&magic.to_be_bytes());
        head[20..24].copy_from_slice(&self.group.to_be_bytes());
        head[24..32].copy_from_slice(&self.number.to_be_bytes());
        head[32..].copy_from_slice(&self.intended_ns.to_be_bytes());
        piece
    }

    /// What a head and a check say; `None` if they are not of the run named by `magic`.
    #[inline(always)]
    pub fn read(head: &[u8; HEAD_LEN], check: [u8; CHECK_LEN], magic: u32) -> Option<Self> {
        let stamp = Self {
            group: u32::from_be_bytes(take(head, 20)),
            number: u64::from_be_bytes(take(head, 24)),
            intended_ns: u64::from_be_bytes(take(head, 32)),
        };
        let ours =
            u32::from_be_bytes(take(head, 16)) == magic && u64::from_be_bytes(check) == stamp.check(magic);
        ours.then_some(stamp)
    }
}

/// The SRT socket ID that a group's packets are addressed to.
#[inline(always)]
pub fn socket_id(group: u32) -> u32 {
    0x0b00_0001 + group
}

/// Where a datagram of the load goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its group.
    pub group: u32,
    /// Which of the group's links.
    pub link: u32,
    /// Its SRT sequence number: without gaps in each group.
    pub sequence: u32,
}

impl Place {
    /// Bursts go to the groups in turns, and within a group to its links in turns. Zeros count as one.
    #[inline(always)]
    pub fn of(number: u64, burst: u32, groups: u32, links: u32) -> Self {
        let (burst, groups, links) = (burst.max(1) as u64, groups.max(1) as u64, links.max(1) as u64);
        let (turn, within) = (number / burst, number % burst);
        let round = turn / groups;
        Self {
            group: (turn % groups) as u32,
            link: (round % links) as u32,
            sequence: (round * burst + within) as u32 & 0x7fff_ffff,
        }
    }
}

/// Where a link sends from.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sender {
    /// Its IPv4 address.
    pub address: u32,
    /// Its port.
    pub port: u32,
}

impl Sender {
    /// Its length in the map.
    pub const LEN: usize = 8;

    /// The bytes of the map.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..4].copy_from_slice(&self.address.to_le_bytes());
        bytes[4..].copy_from_slice(&self.port.to_le_bytes());
        bytes
    }
}

/// What a flood is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Flood {
    /// There is none.
    None = 0,
    /// REG1 with IDs that differ.
    Reg1 = 1,
    /// REG2 with IDs that differ.
    Reg2 = 2,
    /// SRT data.
    Data = 3,
    /// Data, REG1 and REG2 in turns.
    Mixed = 4,
}

/// What to offer, and how frames get to the receiver. Frames are made for the longest datagram, load or flood.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// `CLOCK_MONOTONIC` ns that intended times count from.
    pub origin_ns: u64,
    /// `CLOCK_MONOTONIC` ns at which the first datagram is due, and the flood begins.
    pub start_ns: u64,
    /// Time between bursts, in ns and [`FRACTION_BITS`]; 0: as many as possible.
    pub interval: u64,
    /// Time between datagrams of the flood, as `interval`.
    pub flood_interval: u64,
    /// The device that frames leave by.
    pub interface: u32,
    /// Names the run.
    pub magic: u32,
    /// Groups that carry data.
    pub groups: u32,
    /// Links of each group.
    pub links: u32,
    /// Datagrams in a row on one link.
    pub burst: u32,
    /// Length of a datagram of the load, even; 0: no load.
    pub datagram_bytes: u32,
    /// [`Flood`].
    pub flood: u32,
    /// Length of a data packet of the flood, even.
    pub flood_bytes: u32,
    /// First address of the flood.
    pub flood_first: u32,
    /// Addresses of the flood.
    pub flood_sources: u32,
    /// The receiver's IPv4 address.
    pub to: u32,
    /// Its port.
    pub to_port: u32,
    /// The Ethernet header: the receiver's address, the device's own, and the type. The rest is unused.
    pub ethernet: [u8; 16],
}

impl Offer {
    /// Its length in the map.
    pub const LEN: usize = 4 * 8 + 12 * 4 + 16;

    /// The bytes of the map.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let (longs, rest) = bytes.split_at_mut(32);
        let (words, ethernet) = rest.split_at_mut(48);
        let values = [self.origin_ns, self.start_ns, self.interval, self.flood_interval];
        for (chunk, value) in longs.chunks_exact_mut(8).zip(values) {
            chunk.copy_from_slice(&value.to_le_bytes());
        }
        let values = [
            self.interface,
            self.magic,
            self.groups,
            self.links,
            self.burst,
            self.datagram_bytes,
            self.flood,
            self.flood_bytes,
            self.flood_first,
            self.flood_sources,
            self.to,
            self.to_port,
        ];
        for (chunk, value) in words.chunks_exact_mut(4).zip(values) {
            chunk.copy_from_slice(&value.to_le_bytes());
        }
        ethernet.copy_from_slice(&self.ethernet);
        bytes
    }

    /// The interval of so many per second, each of `burst` datagrams; 0 for no limit.
    pub fn interval_of(rate_pps: u64, burst: u32) -> u64 {
        let burst = u128::from(burst.max(1));
        let fractions = (1_000_000_000_u128 << FRACTION_BITS) * burst;
        u64::try_from(fractions.checked_div(u128::from(rate_pps)).unwrap_or(0)).unwrap_or(u64::MAX)
    }

    /// Whether the flood has this address.
    pub fn is_flood_source(&self, address: u32) -> bool {
        self.flood != Flood::None as u32 && address.wrapping_sub(self.flood_first) < self.flood_sources
    }

    /// Length of the longest datagram.
    pub fn longest(&self) -> u32 {
        let flood = if self.flood == Flood::None as u32 { 0 } else { REG_LEN.max(self.flood_bytes) };
        self.datagram_bytes.max(flood)
    }
}

/// What was offered so far.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The next number of the load: so many were sent.
    pub next: u64,
    /// When the next burst is due, in ns and [`FRACTION_BITS`] since the start.
    pub due: u64,
    /// The latest that a datagram was sent after it was due, in ns.
    pub late_ns_max: u64,
    /// Datagrams of the flood that were sent.
    pub flood_sent: u64,
    /// When the next of the flood is due, as `due`.
    pub flood_due: u64,
    /// Datagrams that were sent after the one behind them was due: arrivals that were not single.
    pub behind: u64,
}

impl Progress {
    /// Its length in the map.
    pub const LEN: usize = 48;

    /// From the bytes of the map.
    pub fn from_bytes(bytes: &[u8; Self::LEN]) -> Self {
        let word = |at| u64::from_le_bytes(take(bytes, at));
        Self {
            next: word(0),
            due: word(8),
            late_ns_max: word(16),
            flood_sent: word(24),
            flood_due: word(32),
            behind: word(40),
        }
    }
}

/// What to send next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing is due.
    Nothing,
    /// A datagram of the load, with its intended time in ns since the start of the run.
    Load {
        /// Its number.
        number: u64,
        /// Its time.
        intended_ns: u64,
    },
    /// A datagram of the flood, with its number.
    Flood(u64),
}

impl Progress {
    /// Takes what is due at `now_ns` (`CLOCK_MONOTONIC`); one call, one datagram, the load before the flood.
    #[inline(always)]
    pub fn take(&mut self, offer: &Offer, now_ns: u64) -> Next {
        if now_ns < offer.start_ns {
            return Next::Nothing;
        }
        let elapsed_ns = now_ns - offer.start_ns;
        if offer.datagram_bytes > 0 {
            if offer.interval == 0 {
                let number = self.next;
                self.next = number + 1;
                return Next::Load { number, intended_ns: now_ns - offer.origin_ns };
            }
            let due_ns = self.due >> FRACTION_BITS;
            if due_ns <= elapsed_ns {
                let number = self.next;
                self.next = number + 1;
                if self.next.is_multiple_of(offer.burst.max(1) as u64) {
                    self.due += offer.interval;
                    if self.due >> FRACTION_BITS <= elapsed_ns {
                        self.behind += 1;
                    }
                }
                if elapsed_ns - due_ns > self.late_ns_max {
                    self.late_ns_max = elapsed_ns - due_ns;
                }
                return Next::Load { number, intended_ns: offer.start_ns - offer.origin_ns + due_ns };
            }
        }
        if offer.flood != Flood::None as u32
            && (offer.flood_interval == 0 || self.flood_due >> FRACTION_BITS <= elapsed_ns)
        {
            let number = self.flood_sent;
            self.flood_sent = number + 1;
            self.flood_due += offer.flood_interval;
            return Next::Flood(number);
        }
        Next::Nothing
    }
}

/// Bytes that the verifier lets the program write in words, wherever they are on its stack.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<const N: usize>(pub [u8; N]);

/// A frame to be sent, but for the filler, and for what stands before IPv4: see [`Offer::ethernet`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Front {
    /// The IPv4 header up to the addresses.
    pub ip: Piece<12>,
    /// Its addresses.
    pub addresses: Piece<8>,
    /// The UDP header.
    pub udp: Piece<8>,
    /// The first bytes of the datagram.
    pub head: Piece<HEAD_LEN>,
    /// Its last bytes.
    pub check: Piece<CHECK_LEN>,
    /// Length of the datagram.
    pub datagram_bytes: u32,
}

impl Front {
    /// The whole frame.
    #[cfg(any(test, feature = "testing"))]
    pub fn frame(&self, offer: &Offer) -> std::vec::Vec<u8> {
        let filler = std::vec![FILLER; self.datagram_bytes as usize - HEAD_LEN - CHECK_LEN];
        let pieces = [
            &offer.ethernet[..ETHERNET_LEN],
            &self.ip.0,
            &self.addresses.0,
            &self.udp.0,
            &self.head.0,
            &filler,
            &self.check.0,
        ];
        pieces.concat()
    }
}

/// The words of a sum in ones' complement, each as it is on the wire.
#[inline(always)]
fn words<const N: usize>(piece: &Piece<N>) -> u32 {
    let bytes = &piece.0;
    let mut sum = 0;
    let mut at = 0;
    while at + 1 < N {
        sum += ((bytes[at] as u32) << 8) | bytes[at + 1] as u32;
        at += 2;
    }
    sum
}

/// The checksum of a sum of words.
#[inline(always)]
fn checksum(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

/// A number in which every bit depends on every bit of the given one.
#[inline(always)]
pub fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

impl Offer {
    /// A datagram of the load from a link.
    #[inline(always)]
    pub fn load_front(&self, sender: Sender, stamp: &Stamp, sequence: u32) -> Front {
        let head = stamp.head(self.magic, sequence);
        let check = Piece(stamp.check(self.magic).to_be_bytes());
        self.front(sender, head, check, self.datagram_bytes)
    }

    /// Number `number` of the flood.
    #[inline(always)]
    pub fn flood_front(&self, number: u64) -> Front {
        let kind = match (self.flood == Flood::Mixed as u32, number % 3) {
            (true, 0) => Flood::Data as u32,
            (true, 1) => Flood::Reg1 as u32,
            (true, _) => Flood::Reg2 as u32,
            (false, _) => self.flood,
        };
        let random = mix(number ^ ((self.magic as u64) << 32));
        let sender = Sender {
            address: self.flood_first + (((random >> 32) * self.flood_sources as u64) >> 32) as u32,
            port: 1024 | (random & 0xffff) as u32,
        };
        if kind == Flood::Data as u32 {
            let stamp = Stamp { group: 9, number, intended_ns: 0 };
            let head = stamp.head(FLOOD_MAGIC, number as u32);
            return self.front(sender, head, Piece([FILLER; CHECK_LEN]), self.flood_bytes);
        }
        let mut head = Piece([FILLER; HEAD_LEN]);
        head.0[0] = 0x92;
        head.0[1] = (kind == Flood::Reg2 as u32) as u8;
        head.0[8..16].copy_from_slice(&random.to_be_bytes());
        head.0[16..24].copy_from_slice(&mix(random).to_be_bytes());
        self.front(sender, head, Piece([FILLER; CHECK_LEN]), REG_LEN)
    }

    /// Headers around a datagram.
    #[inline(always)]
    fn front(
        &self,
        sender: Sender,
        head: Piece<HEAD_LEN>,
        check: Piece<CHECK_LEN>,
        datagram_bytes: u32,
    ) -> Front {
        let udp_len = datagram_bytes + 8;
        let mut addresses = Piece([0; 8]);
        addresses.0[..4].copy_from_slice(&sender.address.to_be_bytes());
        addresses.0[4..].copy_from_slice(&self.to.to_be_bytes());
        let mut ip = Piece([0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0]);
        ip.0[2..4].copy_from_slice(&((udp_len + 20) as u16).to_be_bytes());
        let ip_sum = checksum(words(&ip) + words(&addresses));
        ip.0[10..].copy_from_slice(&ip_sum.to_be_bytes());
        let mut udp = Piece([0; 8]);
        udp.0[..2].copy_from_slice(&(sender.port as u16).to_be_bytes());
        udp.0[2..4].copy_from_slice(&(self.to_port as u16).to_be_bytes());
        udp.0[4..6].copy_from_slice(&(udp_len as u16).to_be_bytes());
        let filler_words = (datagram_bytes - HEAD_LEN as u32 - CHECK_LEN as u32) / 2;
        let filler = filler_words * (((FILLER as u32) << 8) | FILLER as u32);
        let sum = words(&addresses) + 17 + udp_len + words(&udp) + words(&head) + words(&check);
        let udp_sum = match checksum(sum + (filler & 0xffff) + (filler >> 16)) {
            // Zero would say that there is none.
            0 => 0xffff,
            sum => sum,
        };
        udp.0[6..].copy_from_slice(&udp_sum.to_be_bytes());
        Front { ip, addresses, udp, head, check, datagram_bytes }
    }
}

/// Value of [`SOFTIRQ`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Softirq {
    /// When the one that is under way began; 0: none is.
    pub since_ns: u64,
    /// Time in those that have ended.
    pub total_ns: u64,
    /// How many have ended.
    pub count: u64,
}

impl Softirq {
    /// Its length in the map.
    pub const LEN: usize = 24;

    /// From the bytes of the map.
    pub fn from_bytes(bytes: &[u8; Self::LEN]) -> Self {
        let word = |at| u64::from_le_bytes(take(bytes, at));
        Self { since_ns: word(0), total_ns: word(8), count: word(16) }
    }
}

const _: () = {
    assert!(size_of::<Offer>() == Offer::LEN && size_of::<Progress>() == Progress::LEN);
    assert!(size_of::<Sender>() == Sender::LEN && size_of::<Softirq>() == Softirq::LEN);
};

/// Bits of a latency that are kept.
const LATENCY_BITS: u32 = 7;
/// Buckets of [`LATENCY`].
pub const LATENCY_BUCKETS: u32 = (64 - LATENCY_BITS + 1) << LATENCY_BITS;

/// The bucket of a latency: exact up to 127 ns, and to less than 0.8 % above.
#[inline(always)]
pub fn bucket_of(ns: u64) -> u32 {
    let mut shift = 0;
    let mut rest = ns;
    // Not `leading_zeros`, which takes the processor of the programs a hundred instructions.
    let mut step = 32;
    while step > 0 {
        if rest >> (step + LATENCY_BITS) > 0 {
            rest >>= step;
            shift += step;
        }
        step /= 2;
    }
    if rest >> LATENCY_BITS == 0 {
        return rest as u32;
    }
    ((shift + 1) << LATENCY_BITS) | (rest as u32 & 0x7f)
}

/// The least latency of a bucket, in ns.
pub fn bucket_ns(bucket: u32) -> u64 {
    let (shift, rest) = (bucket >> LATENCY_BITS, u64::from(bucket & 0x7f));
    match shift {
        0 => rest,
        shift => (1 << LATENCY_BITS | rest) << (shift - 1),
    }
}

#[cfg(test)]
mod tests;
