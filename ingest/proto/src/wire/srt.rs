//! The few fields of SRT packets that bonding reads.
//!
//! This is not an SRT codec (that is `bondgate-srt`): it reads headers, handshake types and socket IDs, ACK positions and
//! loss lists, and writes one packet, SHUTDOWN. Promise: views hold at least the 16-byte header; loss lists are walked in
//! time bounded by the datagram's length and the caller's budget, whatever the ranges claim.
//! Layouts: SRT draft, sections "Packet Structure" and "Control Packets".

use super::be32;
use crate::Seq;

/// Length of every SRT header.
pub const SRT_HEADER_LEN: usize = 16;
/// Length of the SHUTDOWN we write: header and the 4 zero bytes libsrt also sends.
pub const SHUTDOWN_LEN: usize = 20;
/// Longest loss range believed: more than libsrt's largest default flow window (25,600 packets).
pub const NAK_RANGE_MAX: u32 = 32_768;

/// A view over an SRT data packet: first bit 0, at least 16 bytes.
#[derive(Clone, Copy, Debug)]
pub struct Data<'a>(&'a [u8]);

impl<'a> Data<'a> {
    /// `None` unless the first bit is 0 and the header is complete.
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        (bytes.len() >= SRT_HEADER_LEN && bytes.first()? & 0x80 == 0).then_some(Self(bytes))
    }

    /// Packet sequence number.
    pub fn seq(&self) -> Seq {
        Seq::new(be32(self.0, 0))
    }

    /// 26-bit message number.
    pub fn message_number(&self) -> u32 {
        be32(self.0, 4) & 0x03FF_FFFF
    }

    /// The R bit: this is a retransmission (when the peer announced that it sets it).
    pub fn is_retransmitted(&self) -> bool {
        be32(self.0, 4) & 0x0400_0000 != 0
    }

    /// Microseconds since the SRT connection began.
    pub fn timestamp_us(&self) -> u32 {
        be32(self.0, 8)
    }

    /// Socket ID of the addressed SRT socket.
    pub fn dest_socket_id(&self) -> u32 {
        be32(self.0, 12)
    }

    /// What follows the header.
    pub fn payload(&self) -> &'a [u8] {
        self.0.get(SRT_HEADER_LEN..).unwrap_or_default()
    }

    /// The whole datagram.
    pub const fn bytes(&self) -> &'a [u8] {
        self.0
    }
}

/// SRT control types (SRT draft, "Control Packets").
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum ControlType {
    /// 0x0000
    Handshake,
    /// 0x0001
    Keepalive,
    /// 0x0002
    Ack,
    /// 0x0003
    Nak,
    /// 0x0004
    CongestionWarning,
    /// 0x0005
    Shutdown,
    /// 0x0006
    AckAck,
    /// 0x0007
    DropRequest,
    /// 0x0008
    PeerError,
    /// 0x7FFF: handshake extensions outside the handshake, in practice key refresh.
    UserDefined,
    /// Anything else below 0x1000.
    Unknown(u16),
}

impl ControlType {
    /// The 15-bit type.
    pub const fn from_bits(bits: u16) -> Self {
        match bits {
            0 => Self::Handshake,
            1 => Self::Keepalive,
            2 => Self::Ack,
            3 => Self::Nak,
            4 => Self::CongestionWarning,
            5 => Self::Shutdown,
            6 => Self::AckAck,
            7 => Self::DropRequest,
            8 => Self::PeerError,
            0x7FFF => Self::UserDefined,
            other => Self::Unknown(other),
        }
    }
}

/// A view over an SRT control packet, at least 16 bytes: first word 0x8000..=0x8FFF, or SRT's user-defined type.
///
/// The user-defined type is 0xFFFF on the wire, inside SRTLA's range, and carries the key refresh of encrypted streams:
/// swallowing it as an unknown SRTLA packet would end such a stream at the first refresh. It counts as SRT when its
/// subtype is one of the four extension commands libsrt sends (1 HSREQ, 2 HSRSP, 3 KMREQ, 4 KMRSP), and as SRTLA
/// otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Control<'a>(&'a [u8]);

impl<'a> Control<'a> {
    /// `None` unless the first word is an SRT control type (see above) and the header is complete.
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        if bytes.len() < SRT_HEADER_LEN {
            return None;
        }
        let head = be32(bytes, 0);
        (head >> 28 == 0x8 || matches!(head, 0xFFFF_0001..=0xFFFF_0004)).then_some(Self(bytes))
    }

    /// The control type.
    pub fn control_type(&self) -> ControlType {
        ControlType::from_bits((be32(self.0, 0) >> 16) as u16 & 0x7FFF)
    }

    /// The type-specific word: ACK number for ACK and ACKACK, message number for DROPREQ.
    pub fn info(&self) -> u32 {
        be32(self.0, 4)
    }

    /// Microseconds since the SRT connection began.
    pub fn timestamp_us(&self) -> u32 {
        be32(self.0, 8)
    }

    /// Socket ID of the addressed SRT socket; 0 addresses the listener.
    pub fn dest_socket_id(&self) -> u32 {
        be32(self.0, 12)
    }

    /// What follows the header; may be padded with zeros by other implementations.
    pub fn body(&self) -> &'a [u8] {
        self.0.get(SRT_HEADER_LEN..).unwrap_or_default()
    }

    /// The whole datagram.
    pub const fn bytes(&self) -> &'a [u8] {
        self.0
    }

    /// The handshake's fixed part, if this is a handshake of full length (48 bytes of body).
    pub fn handshake(&self) -> Option<Handshake> {
        let body = self.body();
        if self.control_type() != ControlType::Handshake || body.len() < 48 {
            return None;
        }
        Some(Handshake {
            version: be32(body, 0),
            initial_seq: Seq::new(be32(body, 8)),
            kind: HandshakeKind::from_word(be32(body, 20)),
            socket_id: be32(body, 24),
            cookie: be32(body, 28),
        })
    }

    /// The position of a full, small or light ACK.
    pub fn ack(&self) -> Option<SrtAck> {
        if self.control_type() != ControlType::Ack {
            return None;
        }
        let body = self.body();
        let kind = match body.len() {
            0..4 => return None,
            4..16 => AckKind::Light,
            16..28 => AckKind::Small,
            _ => AckKind::Full,
        };
        Some(SrtAck { number: self.info(), next_expected: Seq::new(be32(body, 0)), kind })
    }

    /// The loss list of a NAK.
    pub fn nak_ranges(&self) -> Option<NakRanges<'a>> {
        (self.control_type() == ControlType::Nak).then(|| NakRanges { body: self.body() })
    }
}

/// The fixed part of an SRT handshake, as far as bonding reads it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Handshake {
    /// 4 or 5.
    pub version: u32,
    /// First sequence number of the sender of this handshake.
    pub initial_seq: Seq,
    /// Which step this is.
    pub kind: HandshakeKind,
    /// Socket ID of the sender; in an INDUCTION *response* libsrt echoes the caller's own.
    pub socket_id: u32,
    /// SYN cookie.
    pub cookie: u32,
}

/// The handshake type word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HandshakeKind {
    /// 1
    Induction,
    /// 0, rendezvous only
    WaveAHand,
    /// -1
    Conclusion,
    /// -2, rendezvous only
    Agreement,
    /// 1000 and above: refused with code (value - 1000)
    Rejection(u32),
    /// Anything else.
    Other(u32),
}

impl HandshakeKind {
    /// The kind a type word stands for.
    pub const fn from_word(word: u32) -> Self {
        match word {
            1 => Self::Induction,
            0 => Self::WaveAHand,
            0xFFFF_FFFF => Self::Conclusion,
            0xFFFF_FFFE => Self::Agreement,
            1000..=0x7FFF_FFFF => Self::Rejection(word - 1000),
            other => Self::Other(other),
        }
    }
}

/// Which form of ACK, by length.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AckKind {
    /// Position only (4 bytes of body); never answered by ACKACK.
    Light,
    /// With RTT, variance and buffer (16 bytes and up).
    Small,
    /// With rates (28 bytes and up).
    Full,
}

/// The position an SRT ACK states.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SrtAck {
    /// ACK number, echoed by ACKACK; 0 for light ACKs.
    pub number: u32,
    /// Everything before this sequence number has arrived (or was given up).
    pub next_expected: Seq,
    /// Form of the ACK.
    pub kind: AckKind,
}

/// An inclusive range of lost sequence numbers with `first <= last` in serial order and at most [`NAK_RANGE_MAX`] long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NakRange {
    /// Oldest lost number.
    pub first: Seq,
    /// Newest lost number.
    pub last: Seq,
}

impl NakRange {
    /// How many numbers the range names, at least 1.
    pub const fn count(&self) -> u32 {
        self.last.distance_from(self.first).unsigned_abs() + 1
    }
}

/// Walks a loss list. Reversed or absurdly long ranges and a range start without its end are skipped.
#[derive(Clone, Debug)]
pub struct NakRanges<'a> {
    body: &'a [u8],
}

impl<'a> NakRanges<'a> {
    /// The single lost numbers, at most `budget` of them.
    pub fn numbers(self, budget: usize) -> LostNumbers<'a> {
        LostNumbers { ranges: self, current: None, budget }
    }

    fn word(&mut self) -> Option<u32> {
        let (word, rest) = self.body.split_first_chunk::<4>()?;
        self.body = rest;
        Some(u32::from_be_bytes(*word))
    }
}

impl Iterator for NakRanges<'_> {
    type Item = NakRange;

    fn next(&mut self) -> Option<NakRange> {
        loop {
            let word = self.word()?;
            let first = Seq::new(word);
            if word & 0x8000_0000 == 0 {
                return Some(NakRange { first, last: first });
            }
            let last = Seq::new(self.word()?);
            let distance = last.distance_from(first);
            if distance >= 0 && distance.unsigned_abs() < NAK_RANGE_MAX {
                return Some(NakRange { first, last });
            }
        }
    }
}

/// The single numbers of a loss list, bounded by a budget.
#[derive(Clone, Debug)]
pub struct LostNumbers<'a> {
    ranges: NakRanges<'a>,
    current: Option<NakRange>,
    budget: usize,
}

impl Iterator for LostNumbers<'_> {
    type Item = Seq;

    fn next(&mut self) -> Option<Seq> {
        self.budget = self.budget.checked_sub(1)?;
        let range = match self.current.take() {
            Some(range) => range,
            None => self.ranges.next()?,
        };
        if range.first != range.last {
            self.current = Some(NakRange { first: range.first.next(), last: range.last });
        }
        Some(range.first)
    }
}

/// Writes an SRT SHUTDOWN for `dest_socket_id` (20 bytes: header and 4 zero bytes, as libsrt sends it).
pub fn emit_shutdown(dest_socket_id: u32, timestamp_us: u32) -> [u8; SHUTDOWN_LEN] {
    let mut out = [0; SHUTDOWN_LEN];
    out[..4].copy_from_slice(&0x8005_0000u32.to_be_bytes());
    out[8..12].copy_from_slice(&timestamp_us.to_be_bytes());
    out[12..16].copy_from_slice(&dest_socket_id.to_be_bytes());
    out
}
