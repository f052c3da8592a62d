//! SRTLA's own packets: keepalives, acknowledgements, registration.
//!
//! Promise: [`Packet`] holds at least 2 bytes whose first word is 0x9000 or more; every accessor answers `None` when the
//! length is not the one the wire format asks for. Emitting needs no allocation and says `None` when the buffer is short.

use super::{be16, be32, be64};
use crate::Seq;

/// Length of a group ID in bytes.
pub const ID_LEN: usize = bondgate_auth::ticket::ID_LEN;
/// Length of each half of a group ID in bytes.
pub const HALF_LEN: usize = bondgate_auth::ticket::HALF_LEN;
/// Exact length of REG1 and REG2 on the wire: type and group ID. Moblin refuses any other length.
pub const REG_LEN: usize = 2 + ID_LEN;
/// Length short control replies (REG3, NGP) are padded to with zeros: some carrier NATs eat 2-byte UDP payloads, and
/// every known sender accepts 32 bytes.
pub const SHORT_PADDED_LEN: usize = 32;
/// Length of a keepalive that carries a timestamp (Moblin).
pub const TIMESTAMPED_KEEPALIVE_LEN: usize = 10;
/// Length of a keepalive that carries link telemetry (irlserver and CERALIVE senders).
pub const EXTENDED_KEEPALIVE_LEN: usize = 38;
/// Length of the SRTLA ACK header: type and 16 zero bits.
pub const ACK_HEADER_LEN: usize = 4;

const TELEMETRY_MAGIC: u16 = 0xC01F;
const TELEMETRY_VERSION: u16 = 0x0001;

/// The first 16-bit word of an SRTLA packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum PacketType {
    /// 0x9000, both directions.
    Keepalive,
    /// 0x9100, receiver to sender: the last data packets received on that link.
    Ack,
    /// 0x9200, sender to receiver: "make me a group".
    Reg1,
    /// 0x9201, both directions: the full ID down, a join request up.
    Reg2,
    /// 0x9202, receiver to sender: "you are joined".
    Reg3,
    /// 0x9210, receiver to sender: refusal. Our receiver never sends it (it hurts every stock sender).
    RegErr,
    /// 0x9211, receiver to sender: "no such group".
    RegNgp,
    /// 0x9212, declared by BELABOX, sent and handled by nobody.
    RegNak,
    /// 0x9300, `OpenIRL` receiver to SRT server statistics; never valid from a sender.
    Stats,
    /// 0xA000, client-IP request, declared in the `IRLToolkit` lineage only.
    CipRequest,
    /// 0xA001, client-IP response.
    CipResponse,
    /// Anything else from 0x9000 up.
    Unknown(u16),
}

impl PacketType {
    /// The type of a first word, `None` below 0x9000 (that is SRT).
    pub const fn from_word(word: u16) -> Option<Self> {
        Some(match word {
            0x9000 => Self::Keepalive,
            0x9100 => Self::Ack,
            0x9200 => Self::Reg1,
            0x9201 => Self::Reg2,
            0x9202 => Self::Reg3,
            0x9210 => Self::RegErr,
            0x9211 => Self::RegNgp,
            0x9212 => Self::RegNak,
            0x9300 => Self::Stats,
            0xA000 => Self::CipRequest,
            0xA001 => Self::CipResponse,
            ..0x9000 => return None,
            other => Self::Unknown(other),
        })
    }

    /// The first word on the wire.
    pub const fn word(self) -> u16 {
        match self {
            Self::Keepalive => 0x9000,
            Self::Ack => 0x9100,
            Self::Reg1 => 0x9200,
            Self::Reg2 => 0x9201,
            Self::Reg3 => 0x9202,
            Self::RegErr => 0x9210,
            Self::RegNgp => 0x9211,
            Self::RegNak => 0x9212,
            Self::Stats => 0x9300,
            Self::CipRequest => 0xA000,
            Self::CipResponse => 0xA001,
            Self::Unknown(word) => word,
        }
    }
}

/// A group ID: 128 bytes chosen by the sender, 128 bytes chosen by the receiver.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct GroupId(pub [u8; ID_LEN]);

impl GroupId {
    /// Joins two halves.
    pub fn from_halves(sender_half: &[u8; HALF_LEN], receiver_half: &[u8; HALF_LEN]) -> Self {
        let mut id = [0; ID_LEN];
        id[..HALF_LEN].copy_from_slice(sender_half);
        id[HALF_LEN..].copy_from_slice(receiver_half);
        Self(id)
    }

    /// Bytes 0..=127, chosen by the sender and echoed unchanged by the receiver.
    pub fn sender_half(&self) -> &[u8; HALF_LEN] {
        split_id(&self.0).0
    }

    /// Bytes 128..=255, chosen by the receiver.
    pub fn receiver_half(&self) -> &[u8; HALF_LEN] {
        split_id(&self.0).1
    }
}

impl std::fmt::Debug for GroupId {
    /// The first four bytes only: whoever knows the rest can join the group.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GroupId({:08x}..)", be32(&self.0, 0))
    }
}

fn split_id(id: &[u8; ID_LEN]) -> (&[u8; HALF_LEN], &[u8; HALF_LEN]) {
    const EMPTY: &[u8; HALF_LEN] = &[0; HALF_LEN];
    (id.first_chunk().unwrap_or(EMPTY), id.last_chunk().unwrap_or(EMPTY))
}

/// A view over an SRTLA packet: at least 2 bytes, first word 0x9000 or more.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    bytes: &'a [u8],
    kind: PacketType,
}

impl<'a> Packet<'a> {
    /// `None` unless `bytes` start with a word of 0x9000 or more.
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        let word = bytes.first_chunk().map(|word| u16::from_be_bytes(*word))?;
        Some(Self { bytes, kind: PacketType::from_word(word)? })
    }

    /// The packet type. Says nothing about the length being right.
    pub const fn kind(&self) -> PacketType {
        self.kind
    }

    /// The whole datagram.
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The group ID of a REG1 or REG2 of exactly [`REG_LEN`] bytes.
    pub fn group_id(&self) -> Option<&'a [u8; ID_LEN]> {
        match self.kind {
            PacketType::Reg1 | PacketType::Reg2 => self.bytes.get(2..)?.try_into().ok(),
            _ => None,
        }
    }

    /// The sequence numbers of an SRTLA ACK of at least 4 bytes; trailing bytes that fill no word are ignored, as
    /// BELABOX and the Rust senders do.
    pub fn ack_numbers(&self) -> Option<AckNumbers<'a>> {
        match self.kind {
            PacketType::Ack => Some(AckNumbers(Numbers::Wire(self.bytes.get(ACK_HEADER_LEN..)?))),
            _ => None,
        }
    }

    /// What a keepalive of any length carries. Between the known lengths the longest variant that fits counts.
    pub fn keepalive(&self) -> Option<Keepalive> {
        if self.kind != PacketType::Keepalive {
            return None;
        }
        if self.bytes.len() < TIMESTAMPED_KEEPALIVE_LEN {
            return Some(Keepalive::Plain);
        }
        let timestamp_ms = be64(self.bytes, 2);
        let extended = self.bytes.len() >= EXTENDED_KEEPALIVE_LEN
            && be16(self.bytes, 10) == TELEMETRY_MAGIC
            && be16(self.bytes, 12) == TELEMETRY_VERSION;
        if !extended {
            return Some(Keepalive::Timestamped { timestamp_ms });
        }
        Some(Keepalive::Extended {
            timestamp_ms,
            telemetry: Telemetry {
                link_id: be32(self.bytes, 14),
                window: be32(self.bytes, 18).cast_signed(),
                in_flight_packets: be32(self.bytes, 22).cast_signed(),
                rtt_ms: be32(self.bytes, 26),
                nak_count: be32(self.bytes, 30),
                rate_bytes_per_s: be32(self.bytes, 34),
            },
        })
    }
}

/// The three keepalive bodies seen in the field. The receiver echoes the datagram byte for byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keepalive {
    /// Type only, 2 bytes (BELABOX and irlserver C++ senders).
    Plain,
    /// Type and 64-bit milliseconds of the sender's own clock, 10 bytes (Moblin).
    Timestamped {
        /// Sender-relative milliseconds; meaningless across reconnects.
        timestamp_ms: u64,
    },
    /// Timestamp and telemetry, 38 bytes (irlserver and CERALIVE senders).
    Extended {
        /// Sender-relative milliseconds; meaningless across reconnects.
        timestamp_ms: u64,
        /// The sender's view of the link.
        telemetry: Telemetry,
    },
}

impl Keepalive {
    /// The timestamp, if the variant has one.
    pub const fn timestamp_ms(&self) -> Option<u64> {
        match self {
            Self::Plain => None,
            Self::Timestamped { timestamp_ms } | Self::Extended { timestamp_ms, .. } => Some(*timestamp_ms),
        }
    }
}

/// What an extended keepalive says about its link, as the sender sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Telemetry {
    /// Sender-local number of the link.
    pub link_id: u32,
    /// Congestion window in thousandths of packets.
    pub window: i32,
    /// Packets sent and not yet acknowledged.
    pub in_flight_packets: i32,
    /// Smoothed round-trip time in milliseconds.
    pub rtt_ms: u32,
    /// NAKs counted against this link since it was opened.
    pub nak_count: u32,
    /// Sending rate in bytes per second.
    pub rate_bytes_per_s: u32,
}

/// The sequence numbers of an SRTLA ACK, in arrival order, unsorted and possibly repeated.
#[derive(Clone, Copy)]
pub struct AckNumbers<'a>(Numbers<'a>);

#[derive(Clone, Copy)]
enum Numbers<'a> {
    Wire(&'a [u8]),
    Seqs(&'a [Seq]),
}

impl<'a> AckNumbers<'a> {
    /// Numbers to be sent.
    pub const fn new(numbers: &'a [Seq]) -> Self {
        Self(Numbers::Seqs(numbers))
    }

    /// How many numbers there are.
    pub const fn len(&self) -> usize {
        match self.0 {
            Numbers::Wire(bytes) => bytes.len() / 4,
            Numbers::Seqs(seqs) => seqs.len(),
        }
    }

    /// No number at all.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The numbers in order. Bit 31 of a word is ignored.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Seq> + use<'a> {
        let numbers = self.0;
        (0..self.len()).map(move |index| match numbers {
            Numbers::Wire(bytes) => Seq::new(be32(bytes, index * 4)),
            Numbers::Seqs(seqs) => seqs.get(index).copied().unwrap_or_default(),
        })
    }
}

impl PartialEq for AckNumbers<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for AckNumbers<'_> {}

impl std::fmt::Debug for AckNumbers<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// An SRTLA packet as a value that can be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Repr<'a> {
    /// See [`Keepalive`].
    Keepalive(Keepalive),
    /// An SRTLA ACK; never padded, because every extra word acknowledges sequence number 0.
    Ack(AckNumbers<'a>),
    /// Group request with the sender's ID.
    Reg1(&'a [u8; ID_LEN]),
    /// Group answer (down) or join (up) with the full ID.
    Reg2(&'a [u8; ID_LEN]),
    /// Join answer.
    Reg3,
    /// Refusal.
    RegErr,
    /// No such group.
    RegNgp,
    /// Refusal with give-up semantics, unused in the field.
    RegNak,
}

impl<'a> Repr<'a> {
    /// Reads a packet whose type and length are right; `None` for types only recognised, never spoken (STATS, CIP, unknown).
    pub fn parse(packet: &Packet<'a>) -> Option<Self> {
        Some(match packet.kind() {
            PacketType::Keepalive => Self::Keepalive(packet.keepalive()?),
            PacketType::Ack => Self::Ack(packet.ack_numbers()?),
            PacketType::Reg1 => Self::Reg1(packet.group_id()?),
            PacketType::Reg2 => Self::Reg2(packet.group_id()?),
            PacketType::Reg3 => Self::Reg3,
            PacketType::RegErr => Self::RegErr,
            PacketType::RegNgp => Self::RegNgp,
            PacketType::RegNak => Self::RegNak,
            PacketType::Stats | PacketType::CipRequest | PacketType::CipResponse | PacketType::Unknown(_) => {
                return None;
            }
        })
    }

    /// Bytes on the wire, unpadded.
    pub const fn buffer_len(&self) -> usize {
        match self {
            Self::Keepalive(Keepalive::Plain) | Self::Reg3 | Self::RegErr | Self::RegNgp | Self::RegNak => 2,
            Self::Keepalive(Keepalive::Timestamped { .. }) => TIMESTAMPED_KEEPALIVE_LEN,
            Self::Keepalive(Keepalive::Extended { .. }) => EXTENDED_KEEPALIVE_LEN,
            Self::Ack(numbers) => ACK_HEADER_LEN + 4 * numbers.len(),
            Self::Reg1(_) | Self::Reg2(_) => REG_LEN,
        }
    }

    /// Writes the packet to the front of `buf` and returns the written part; `None` when `buf` is too short.
    pub fn emit<'b>(&self, buf: &'b mut [u8]) -> Option<&'b [u8]> {
        match *self {
            Self::Keepalive(keepalive) => emit_keepalive(keepalive, buf),
            Self::Ack(AckNumbers(Numbers::Seqs(numbers))) => emit_ack(numbers, buf),
            Self::Ack(numbers) => emit_ack_words(numbers.len(), numbers.iter(), buf),
            Self::Reg1(id) => emit_reg(PacketType::Reg1, id, buf),
            Self::Reg2(id) => emit_reg(PacketType::Reg2, id, buf),
            Self::Reg3 => emit_short(PacketType::Reg3, 2, buf),
            Self::RegErr => emit_short(PacketType::RegErr, 2, buf),
            Self::RegNgp => emit_short(PacketType::RegNgp, 2, buf),
            Self::RegNak => emit_short(PacketType::RegNak, 2, buf),
        }
    }
}

/// Writes REG1 or REG2 (258 bytes).
pub fn emit_reg<'b>(kind: PacketType, id: &[u8; ID_LEN], buf: &'b mut [u8]) -> Option<&'b [u8]> {
    let out = buf.get_mut(..REG_LEN)?;
    let (word, body) = out.split_first_chunk_mut::<2>()?;
    *word = kind.word().to_be_bytes();
    body.copy_from_slice(id);
    Some(out)
}

/// Writes a packet without body, zero-padded to `len` bytes (at least 2).
pub fn emit_short(kind: PacketType, len: usize, buf: &mut [u8]) -> Option<&[u8]> {
    let out = buf.get_mut(..len)?;
    let (word, body) = out.split_first_chunk_mut::<2>()?;
    *word = kind.word().to_be_bytes();
    body.fill(0);
    Some(out)
}

/// Writes an SRTLA ACK: 4 bytes of header and 4 per number.
pub fn emit_ack<'b>(numbers: &[Seq], buf: &'b mut [u8]) -> Option<&'b [u8]> {
    emit_ack_words(numbers.len(), numbers.iter().copied(), buf)
}

fn emit_ack_words(count: usize, numbers: impl Iterator<Item = Seq>, buf: &mut [u8]) -> Option<&[u8]> {
    let out = buf.get_mut(..ACK_HEADER_LEN + 4 * count)?;
    let (head, body) = out.split_first_chunk_mut::<ACK_HEADER_LEN>()?;
    *head = (u32::from(PacketType::Ack.word()) << 16).to_be_bytes();
    for (word, number) in body.chunks_exact_mut(4).zip(numbers) {
        word.copy_from_slice(&number.get().to_be_bytes());
    }
    Some(out)
}

fn emit_keepalive(keepalive: Keepalive, buf: &mut [u8]) -> Option<&[u8]> {
    let out = buf.get_mut(..Repr::Keepalive(keepalive).buffer_len())?;
    let mut at = 0;
    let mut put = |field: &[u8]| {
        if let Some(place) = out.get_mut(at..at + field.len()) {
            place.copy_from_slice(field);
        }
        at += field.len();
    };
    put(&PacketType::Keepalive.word().to_be_bytes());
    if let Some(timestamp_ms) = keepalive.timestamp_ms() {
        put(&timestamp_ms.to_be_bytes());
    }
    if let Keepalive::Extended { telemetry, .. } = keepalive {
        put(&TELEMETRY_MAGIC.to_be_bytes());
        put(&TELEMETRY_VERSION.to_be_bytes());
        put(&telemetry.link_id.to_be_bytes());
        put(&telemetry.window.to_be_bytes());
        put(&telemetry.in_flight_packets.to_be_bytes());
        put(&telemetry.rtt_ms.to_be_bytes());
        put(&telemetry.nak_count.to_be_bytes());
        put(&telemetry.rate_bytes_per_s.to_be_bytes());
    }
    Some(out)
}
