//! The layout of SA1's packets: reading is strict (every must-be-zero byte is checked), writing always gives what
//! reading accepts. No MAC is looked at here (spec 3).

use super::keys::GateKey;
use super::{Flags, GroupNonce, KeyId, LinkNonce, ListenerId, Nonce, SUITE, StreamBind, VERSION, take};
use std::fmt;

/// Length of M1, M2 and M3.
pub const PACKET_LEN: usize = 258;
/// What of them is under the MAC.
pub const SIGNED_LEN: usize = 226;
/// Length of a confirmation (M4) and of a refusal.
pub const SHORT_LEN: usize = 34;
/// What of them comes before the tag.
pub const HEAD_LEN: usize = 18;
/// The first bytes of a sender half.
pub const MAGIC: [u8; 4] = *b"SLA1";

/// Packet type of M1.
pub const REG1: u16 = 0x9200;
/// Packet type of M2 and M3.
pub const REG2: u16 = 0x9201;
/// Packet type of M4.
pub const REG3: u16 = 0x9202;
/// Packet type of a refusal.
pub const REG_NAK: u16 = 0x9212;

// Offsets in a packet are offsets in the ID plus 2.
const HALF_AT: usize = 2;
const BLOCK_AT: usize = 130;
const REST_AT: usize = 194;
const GATE_AT: usize = 64;

/// Why bytes are not the packet they were read as.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LayoutError {
    /// Wrong length.
    Length,
    /// Wrong packet type.
    Type,
    /// The sender half does not begin with [`MAGIC`]: a stock ID.
    Magic,
    /// Another version or suite.
    Version,
    /// The message number does not go with the packet type.
    Message,
    /// A flag that is not defined, or accepted without being offered.
    Flags,
    /// A byte that must be zero is not.
    Reserved,
    /// A code that is not defined.
    Code,
}

impl LayoutError {
    /// A short name for counters.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Length => "length",
            Self::Type => "type",
            Self::Magic => "magic",
            Self::Version => "version",
            Self::Message => "message",
            Self::Flags => "flags",
            Self::Reserved => "reserved",
            Self::Code => "code",
        }
    }
}

impl fmt::Display for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::error::Error for LayoutError {}

/// The message number in a sender half.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Message {
    /// In M1, and in an M2 that answers it.
    Hello,
    /// In M3, and in an M2 that answers it (a re-challenge).
    Join,
}

impl Message {
    const fn wire(self) -> u8 {
        match self {
            Self::Hello => 1,
            Self::Join => 3,
        }
    }
}

/// The sender half (spec 3.2), without its gate tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SenderHalf {
    /// Which message it was made for.
    pub message: Message,
    /// What the sender offers.
    pub offered: Flags,
    /// The device key.
    pub key_id: KeyId,
    /// The group.
    pub group: GroupNonce,
    /// The hello.
    pub link_nonce: LinkNonce,
    /// The sender's stable number for this modem.
    pub link_id: u32,
    /// Which gate key made the gate tag.
    pub gate_epoch: u32,
    /// The sender's clock in milliseconds since 1970, 0 without one.
    pub sender_time_ms: u64,
    /// The receiver it is meant for.
    pub listener: ListenerId,
    /// The stream it is meant for.
    pub bind: StreamBind,
    /// How many links the sender means to bring.
    pub links: u16,
    /// The sender's version, for statistics.
    pub caps: u16,
}

impl SenderHalf {
    /// Reads the 128 bytes.
    ///
    /// # Errors
    /// Everything the layout forbids. The gate tag is not looked at.
    pub fn parse(half: &[u8; 128]) -> Result<Self, LayoutError> {
        if half[..4] != MAGIC {
            return Err(LayoutError::Magic);
        }
        if half[4] != VERSION || half[5] != SUITE {
            return Err(LayoutError::Version);
        }
        let message = match half[6] {
            1 => Message::Hello,
            3 => Message::Join,
            _ => return Err(LayoutError::Message),
        };
        let offered = Flags::from_bits(half[7]).ok_or(LayoutError::Flags)?;
        zero(&half[116..])?;
        Ok(Self {
            message,
            offered,
            key_id: take(half, 8),
            group: take(half, 16),
            link_nonce: take(half, 32),
            link_id: u32::from_be_bytes(take(half, 48)),
            gate_epoch: u32::from_be_bytes(take(half, 52)),
            sender_time_ms: u64::from_be_bytes(take(half, 56)),
            listener: ListenerId(take(half, 72)),
            bind: StreamBind(take(half, 88)),
            links: u16::from_be_bytes(take(half, 112)),
            caps: u16::from_be_bytes(take(half, 114)),
        })
    }

    /// Writes the 128 bytes with the tag of this gate key, whose epoch must be [`Self::gate_epoch`].
    pub fn emit(&self, gate: &GateKey) -> [u8; 128] {
        let mut half = [0; 128];
        half[..4].copy_from_slice(&MAGIC);
        half[4..8].copy_from_slice(&[VERSION, SUITE, self.message.wire(), self.offered.bits()]);
        half[8..16].copy_from_slice(&self.key_id);
        half[16..32].copy_from_slice(&self.group);
        half[32..48].copy_from_slice(&self.link_nonce);
        half[48..52].copy_from_slice(&self.link_id.to_be_bytes());
        half[52..56].copy_from_slice(&self.gate_epoch.to_be_bytes());
        half[56..64].copy_from_slice(&self.sender_time_ms.to_be_bytes());
        let tag = gate.tag(&half[..GATE_AT]);
        half[64..72].copy_from_slice(&tag);
        half[72..88].copy_from_slice(&self.listener.0);
        half[88..112].copy_from_slice(&self.bind.0);
        half[112..114].copy_from_slice(&self.links.to_be_bytes());
        half[114..116].copy_from_slice(&self.caps.to_be_bytes());
        half
    }
}

/// What a receiver tells a sender about itself in a challenge (spec 3.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Terms {
    /// Most links per group.
    pub links_max: u16,
    /// How often the sender should send a keepalive, in milliseconds.
    pub keepalive_ms: u16,
    /// How long the cookie is good, in seconds.
    pub cookie_ttl_s: u16,
    /// Reserved; 0, and not looked at.
    pub limits: u16,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            links_max: 16,
            keepalive_ms: 1000,
            cookie_ttl_s: (super::COOKIE_AGE_MS_MAX / 1000) as u16,
            limits: 0,
        }
    }
}

/// Bytes 128..192 of the ID in M2, sent back in M3 (spec 3.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Challenge {
    /// What the receiver accepts of what was offered.
    pub accepted: Flags,
    /// Which cookie key made the cookie.
    pub cookie_epoch: u32,
    /// The receiver's clock in milliseconds since 1970.
    pub server_time_ms: u64,
    /// The receiver's nonce.
    pub nonce: Nonce,
    /// Proof that what comes back with it came from the address it went to.
    pub cookie: [u8; 16],
    /// What the receiver says about itself.
    pub terms: Terms,
}

impl Challenge {
    fn parse(block: &[u8], offered: Flags) -> Result<Self, LayoutError> {
        if block[0] != VERSION || block[1] != SUITE {
            return Err(LayoutError::Version);
        }
        if block[2] != 2 {
            return Err(LayoutError::Message);
        }
        let accepted = Flags::from_bits(block[3]).ok_or(LayoutError::Flags)?;
        if !offered.both(Flags::ACCEPTABLE).contains(accepted) {
            return Err(LayoutError::Flags);
        }
        zero(&block[56..])?;
        Ok(Self {
            accepted,
            cookie_epoch: u32::from_be_bytes(take(block, 4)),
            server_time_ms: u64::from_be_bytes(take(block, 8)),
            nonce: Nonce(take(block, 16)),
            cookie: take(block, 32),
            terms: Terms {
                links_max: u16::from_be_bytes(take(block, 48)),
                keepalive_ms: u16::from_be_bytes(take(block, 50)),
                cookie_ttl_s: u16::from_be_bytes(take(block, 52)),
                limits: u16::from_be_bytes(take(block, 54)),
            },
        })
    }

    fn emit(&self) -> [u8; 64] {
        let mut block = [0; 64];
        block[..4].copy_from_slice(&[VERSION, SUITE, 2, self.accepted.bits()]);
        block[4..8].copy_from_slice(&self.cookie_epoch.to_be_bytes());
        block[8..16].copy_from_slice(&self.server_time_ms.to_be_bytes());
        block[16..32].copy_from_slice(&self.nonce.0);
        block[32..48].copy_from_slice(&self.cookie);
        block[48..50].copy_from_slice(&self.terms.links_max.to_be_bytes());
        block[50..52].copy_from_slice(&self.terms.keepalive_ms.to_be_bytes());
        block[52..54].copy_from_slice(&self.terms.cookie_ttl_s.to_be_bytes());
        block[54..56].copy_from_slice(&self.terms.limits.to_be_bytes());
        block
    }
}

/// A datagram of a registration's length.
#[derive(Clone, Copy, Debug)]
pub struct View<'a>(&'a [u8; PACKET_LEN]);

impl<'a> View<'a> {
    /// Checks the length.
    ///
    /// # Errors
    /// [`LayoutError::Length`].
    pub fn new(datagram: &'a [u8]) -> Result<Self, LayoutError> {
        datagram.try_into().map(Self).map_err(|_| LayoutError::Length)
    }

    /// All of it.
    pub const fn bytes(&self) -> &'a [u8; PACKET_LEN] {
        self.0
    }

    /// The packet type.
    pub const fn packet_type(&self) -> u16 {
        u16::from_be_bytes([self.0[0], self.0[1]])
    }

    /// The sender half.
    pub fn half(&self) -> [u8; 128] {
        take(self.0, HALF_AT)
    }

    /// The MAC at the end.
    pub fn mac(&self) -> [u8; 32] {
        take(self.0, SIGNED_LEN)
    }

    /// Whether the sender half carries SA1's magic, of whatever version.
    pub fn is_sa1(&self) -> bool {
        self.0[HALF_AT..HALF_AT + 4] == MAGIC
    }

    /// Key ID and gate epoch, which keep their place in every version (spec 6).
    pub fn invariants(&self) -> (KeyId, u32) {
        (take(self.0, HALF_AT + 8), u32::from_be_bytes(take(self.0, HALF_AT + 52)))
    }

    /// Whether the gate tag is right under this key.
    pub fn gate_ok(&self, gate: &GateKey) -> bool {
        let tag: [u8; 8] = take(self.0, HALF_AT + GATE_AT);
        u64::from_ne_bytes(tag) == u64::from_ne_bytes(gate.tag(&self.0[HALF_AT..HALF_AT + GATE_AT]))
    }

    /// Reads an M1.
    ///
    /// # Errors
    /// Everything the layout forbids.
    pub fn m1(&self) -> Result<SenderHalf, LayoutError> {
        if self.packet_type() != REG1 {
            return Err(LayoutError::Type);
        }
        let half = SenderHalf::parse(&self.half())?;
        if half.message != Message::Hello {
            return Err(LayoutError::Message);
        }
        zero(&self.0[BLOCK_AT..SIGNED_LEN])?;
        Ok(half)
    }

    /// Reads an M2. Its sender half is an M1's or, in a re-challenge, an M3's.
    ///
    /// # Errors
    /// Everything the layout forbids.
    pub fn m2(&self) -> Result<(SenderHalf, Challenge), LayoutError> {
        if self.packet_type() != REG2 {
            return Err(LayoutError::Type);
        }
        let half = SenderHalf::parse(&self.half())?;
        let challenge = Challenge::parse(&self.0[BLOCK_AT..REST_AT], half.offered)?;
        zero(&self.0[REST_AT..SIGNED_LEN])?;
        Ok((half, challenge))
    }

    /// Reads an M3.
    ///
    /// # Errors
    /// Everything the layout forbids.
    pub fn m3(&self) -> Result<(SenderHalf, Challenge), LayoutError> {
        let (half, challenge) = self.m2()?;
        if half.message == Message::Join { Ok((half, challenge)) } else { Err(LayoutError::Message) }
    }
}

/// Builds an M1 without its MAC.
pub(crate) fn hello(half: &[u8; 128]) -> [u8; PACKET_LEN] {
    let mut packet = [0; PACKET_LEN];
    packet[..HALF_AT].copy_from_slice(&REG1.to_be_bytes());
    packet[HALF_AT..BLOCK_AT].copy_from_slice(half);
    packet
}

/// Builds an M2 or M3 without its MAC.
pub(crate) fn challenge_or_join(half: &[u8; 128], challenge: &Challenge) -> [u8; PACKET_LEN] {
    let mut packet = [0; PACKET_LEN];
    packet[..HALF_AT].copy_from_slice(&REG2.to_be_bytes());
    packet[HALF_AT..BLOCK_AT].copy_from_slice(half);
    packet[BLOCK_AT..REST_AT].copy_from_slice(&challenge.emit());
    packet
}

/// Why a sender whose MAC was right is refused (spec 7).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RefusalCode {
    /// The key is past its life.
    KeyExpired = 2,
    /// The tenant is locked down.
    Lockdown = 3,
    /// Not from this address.
    Address = 4,
    /// Not this stream.
    Stream = 5,
    /// No room for another group.
    GroupLimit = 6,
    /// No room for another link in the group.
    LinkLimit = 7,
    /// Too many attempts.
    RateLimited = 8,
    /// Version or suite not spoken here.
    Version = 9,
    /// The receiver is about to stop.
    Draining = 10,
    /// The key demands a clock that is right within 90 s.
    ClockRequired = 11,
}

impl RefusalCode {
    /// All codes.
    pub const ALL: [Self; 10] = [
        Self::KeyExpired,
        Self::Lockdown,
        Self::Address,
        Self::Stream,
        Self::GroupLimit,
        Self::LinkLimit,
        Self::RateLimited,
        Self::Version,
        Self::Draining,
        Self::ClockRequired,
    ];
}

/// A refusal (spec 3.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// Why.
    pub code: RefusalCode,
    /// When to try again, in seconds, 0 for no advice; with [`RefusalCode::Version`] the versions spoken.
    pub detail: [u8; 4],
}

impl Refusal {
    /// A refusal with advice when to try again, in seconds.
    pub const fn new(code: RefusalCode, retry_after_s: u32) -> Self {
        Self { code, detail: retry_after_s.to_be_bytes() }
    }

    /// The refusal that names the versions and suites spoken: lowest and highest of each.
    pub const fn version() -> Self {
        Self { code: RefusalCode::Version, detail: [VERSION, VERSION, SUITE, SUITE] }
    }

    /// When to try again, in seconds.
    pub const fn retry_after_s(&self) -> Option<u32> {
        match self.code {
            RefusalCode::Version => None,
            _ => Some(u32::from_be_bytes(self.detail)),
        }
    }

    /// Bytes 0..18 of the packet.
    pub fn head(&self) -> [u8; HEAD_LEN] {
        let mut head = [0; HEAD_LEN];
        head[..2].copy_from_slice(&REG_NAK.to_be_bytes());
        head[2..4].copy_from_slice(&[VERSION, self.code as u8]);
        head[4..8].copy_from_slice(&self.detail);
        head
    }
}

/// A confirmation, M4 (spec 3.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Confirmation {
    /// The key still is good but about to be replaced.
    pub key_retiring: bool,
    /// The link that was joined.
    pub link_id: u32,
    /// The receiver's number for it.
    pub link_handle: u16,
}

impl Confirmation {
    /// Bytes 0..18 of the packet.
    pub fn head(&self) -> [u8; HEAD_LEN] {
        let mut head = [0; HEAD_LEN];
        head[..2].copy_from_slice(&REG3.to_be_bytes());
        head[2..4].copy_from_slice(&[VERSION, u8::from(self.key_retiring)]);
        head[4..8].copy_from_slice(&self.link_id.to_be_bytes());
        head[8..10].copy_from_slice(&self.link_handle.to_be_bytes());
        head
    }
}

/// A REG3 or `REG_NAK` of SA1's length, tag not checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Short {
    /// M4.
    Confirmation(Confirmation),
    /// Tagged `REG_NAK`.
    Refusal(Refusal),
}

impl Short {
    /// Reads a datagram: what it says, what the tag is over, the tag.
    ///
    /// # Errors
    /// Everything the layout forbids.
    pub fn parse(datagram: &[u8]) -> Result<(Self, [u8; HEAD_LEN], [u8; 16]), LayoutError> {
        let packet: &[u8; SHORT_LEN] = datagram.try_into().map_err(|_| LayoutError::Length)?;
        let packet_type = u16::from_be_bytes(take(packet, 0));
        if packet_type != REG3 && packet_type != REG_NAK {
            return Err(LayoutError::Type);
        }
        if packet[2] != VERSION {
            return Err(LayoutError::Version);
        }
        zero(&packet[10..HEAD_LEN])?;
        let code = packet[3];
        let short = if packet_type == REG3 {
            if code > 1 {
                return Err(LayoutError::Code);
            }
            Self::Confirmation(Confirmation {
                key_retiring: code == 1,
                link_id: u32::from_be_bytes(take(packet, 4)),
                link_handle: u16::from_be_bytes(take(packet, 8)),
            })
        } else {
            zero(&packet[8..10])?;
            let code =
                RefusalCode::ALL.into_iter().find(|known| *known as u8 == code).ok_or(LayoutError::Code)?;
            Self::Refusal(Refusal { code, detail: take(packet, 4) })
        };
        Ok((short, take(packet, 0), take(packet, HEAD_LEN)))
    }
}

/// Head and tag as one packet.
pub(crate) fn short(head: &[u8; HEAD_LEN], tag: &[u8; 16]) -> [u8; SHORT_LEN] {
    let mut packet = [0; SHORT_LEN];
    packet[..HEAD_LEN].copy_from_slice(head);
    packet[HEAD_LEN..].copy_from_slice(tag);
    packet
}

fn zero(bytes: &[u8]) -> Result<(), LayoutError> {
    if bytes.iter().all(|&b| b == 0) { Ok(()) } else { Err(LayoutError::Reserved) }
}
