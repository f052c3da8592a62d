//! Control packets: type, subtype, information word and body.
//!
//! Bodies may be longer than their contents: libsrt pads some to 4 bytes, and some bonding senders pad every
//! control packet to 32 bytes, so lengths are minimum lengths here.

use super::handshake::HandshakeView;
use super::loss_list::LossList;
use super::{WireError, put_words, word};
use crate::seq::Seq;

/// Type of a control packet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ControlType {
    /// 0
    Handshake,
    /// 1
    KeepAlive,
    /// 2
    Ack,
    /// 3
    Nak,
    /// 4, not used
    Congestion,
    /// 5
    Shutdown,
    /// 6
    AckAck,
    /// 7
    DropReq,
    /// 8, file mode only
    PeerError,
    /// 0x7FFF; the subtype names an extension command
    User,
}

impl ControlType {
    const ALL: [(Self, u16); 10] = [
        (Self::Handshake, 0),
        (Self::KeepAlive, 1),
        (Self::Ack, 2),
        (Self::Nak, 3),
        (Self::Congestion, 4),
        (Self::Shutdown, 5),
        (Self::AckAck, 6),
        (Self::DropReq, 7),
        (Self::PeerError, 8),
        (Self::User, 0x7FFF),
    ];

    fn from_wire(code: u16) -> Option<Self> {
        Self::ALL.iter().find(|(_, c)| *c == code).map(|(kind, _)| *kind)
    }

    fn to_wire(self) -> u16 {
        Self::ALL.iter().find(|(kind, _)| *kind == self).map_or(0x7FFF, |(_, code)| *code)
    }
}

/// RTT and free buffer of an ACK (small and larger).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AckTiming {
    /// Smoothed round-trip time, microseconds.
    pub rtt_us: u32,
    /// Its deviation, microseconds.
    pub rtt_var_us: u32,
    /// Free receive buffer, packets.
    pub buffer_free: u32,
}

/// Rates of an ACK (base and full).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AckRates {
    /// Receive rate, packets per second.
    pub packets_per_s: u32,
    /// Estimated link capacity, packets per second.
    pub capacity_per_s: u32,
    /// Receive rate, bytes per second; missing in the 24-byte form.
    pub bytes_per_s: Option<u32>,
}

/// Body of an ACK in any of its lengths: 4 bytes light, 16 small, 24 base, 28 full.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ack {
    /// Everything before this number was received.
    pub next: Seq,
    /// From 16 bytes on.
    pub timing: Option<AckTiming>,
    /// From 24 bytes on.
    pub rates: Option<AckRates>,
}

impl Ack {
    /// Reads the body by its length.
    ///
    /// # Errors
    /// [`WireError::Truncated`] below 4 bytes.
    pub fn parse(body: &[u8]) -> Result<Self, WireError> {
        let next = Seq::new(word(body, 0).ok_or(WireError::Truncated)?);
        let timing = match (word(body, 1), word(body, 2), word(body, 3)) {
            // A light ACK padded with zeros is still a light ACK.
            (Some(0), Some(0), Some(0)) => None,
            (Some(rtt_us), Some(rtt_var_us), Some(buffer_free)) => {
                Some(AckTiming { rtt_us, rtt_var_us, buffer_free })
            }
            _ => None,
        };
        let rates = match (word(body, 4), word(body, 5)) {
            (Some(packets_per_s), Some(capacity_per_s)) if timing.is_some() => {
                Some(AckRates { packets_per_s, capacity_per_s, bytes_per_s: word(body, 6) })
            }
            _ => None,
        };
        Ok(Self { next, timing, rates })
    }

    fn emit(&self, out: &mut [u8]) -> Option<usize> {
        let mut words = [self.next.get(), 0, 0, 0, 0, 0, 0];
        let mut count = 1;
        if let Some(timing) = self.timing {
            words[1..4].copy_from_slice(&[timing.rtt_us, timing.rtt_var_us, timing.buffer_free]);
            count = 4;
            if let Some(rates) = self.rates {
                words[4..6].copy_from_slice(&[rates.packets_per_s, rates.capacity_per_s]);
                count = 6;
                if let Some(bytes_per_s) = rates.bytes_per_s {
                    words[6] = bytes_per_s;
                    count = 7;
                }
            }
        }
        put_words(out, &words[..count])
    }
}

/// A control packet with its body understood.
#[derive(Clone, Debug)]
pub enum Control<'a> {
    /// Connection set-up.
    Handshake(HandshakeView<'a>),
    /// Nothing but a sign of life.
    KeepAlive,
    /// Acknowledgement; `number` is what an ACKACK has to name, without meaning in light ACKs.
    Ack {
        /// ACK number.
        number: u32,
        /// Position and measurements.
        ack: Ack,
    },
    /// Loss report.
    Nak(LossList<'a>),
    /// Not used by anyone.
    Congestion,
    /// The peer ends the connection.
    Shutdown,
    /// Answer to a full ACK.
    AckAck {
        /// Number of that ACK.
        number: u32,
    },
    /// The sender will not send these packets again.
    DropReq {
        /// Message number, 0 when not known.
        msg_no: u32,
        /// First packet.
        first: Seq,
        /// Last packet, included.
        last: Seq,
    },
    /// Error of the peer's application (file mode).
    PeerError {
        /// Its code.
        code: u32,
    },
    /// Extension message; subtypes 3 and 4 carry key material.
    User {
        /// Extension command.
        subtype: u16,
        /// Its contents.
        body: &'a [u8],
    },
}

/// A received control packet, body not yet read.
#[derive(Clone, Copy, Debug)]
pub struct ControlView<'a> {
    kind: ControlType,
    words: [u32; 4],
    body: &'a [u8],
}

impl<'a> ControlView<'a> {
    pub(super) fn new(words: [u32; 4], body: &'a [u8]) -> Result<Self, WireError> {
        let kind =
            ControlType::from_wire((words[0] >> 16) as u16 & 0x7FFF).ok_or(WireError::UnknownControl)?;
        Ok(Self { kind, words, body })
    }

    /// Type.
    pub fn kind(&self) -> ControlType {
        self.kind
    }

    /// Subtype, 0 except in user-defined messages.
    pub fn subtype(&self) -> u16 {
        self.words[0] as u16
    }

    /// Type-specific information (ACK number, message number, error code).
    pub fn info(&self) -> u32 {
        self.words[1]
    }

    /// Microseconds since the sender's start, modulo 2^32.
    pub fn timestamp(&self) -> u32 {
        self.words[2]
    }

    /// Socket ID this packet is for; 0 for a listener.
    pub fn dst(&self) -> u32 {
        self.words[3]
    }

    /// Bytes after the header.
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    /// Reads the body.
    ///
    /// # Errors
    /// What is wrong with the body; the header is always good here.
    pub fn control(&self) -> Result<Control<'a>, WireError> {
        Ok(match self.kind {
            ControlType::Handshake => Control::Handshake(HandshakeView::parse(self.body)?),
            ControlType::KeepAlive => Control::KeepAlive,
            ControlType::Ack => Control::Ack { number: self.info(), ack: Ack::parse(self.body)? },
            ControlType::Nak if self.body.len() < 4 => return Err(WireError::Truncated),
            ControlType::Nak => Control::Nak(LossList::new(self.body)),
            ControlType::Congestion => Control::Congestion,
            ControlType::Shutdown => Control::Shutdown,
            ControlType::AckAck => Control::AckAck { number: self.info() },
            ControlType::DropReq => {
                let (Some(first), Some(last)) = (word(self.body, 0), word(self.body, 1)) else {
                    return Err(WireError::Truncated);
                };
                let (first, last) = (Seq::new(first), Seq::new(last));
                if last.is_before(first) {
                    return Err(WireError::BadValue);
                }
                Control::DropReq { msg_no: self.info(), first, last }
            }
            ControlType::PeerError => Control::PeerError { code: self.info() },
            ControlType::User => Control::User { subtype: self.subtype(), body: self.body },
        })
    }
}

/// Writes the header of a control packet; `None` when `out` is too short.
pub(crate) fn emit_header(
    out: &mut [u8],
    kind: ControlType,
    subtype: u16,
    info: u32,
    timestamp: u32,
    dst: u32,
) -> Option<usize> {
    let first = 0x8000_0000 | u32::from(kind.to_wire()) << 16 | u32::from(subtype);
    put_words(out, &[first, info, timestamp, dst])
}

impl Control<'_> {
    /// Writes the whole packet and returns its length; `None` when `out` is too short. Types without a body
    /// get the four zero bytes that libsrt and packet analysers expect (20 bytes in all).
    pub fn emit(&self, timestamp: u32, dst: u32, out: &mut [u8]) -> Option<usize> {
        let (kind, subtype, info) = match self {
            Self::Handshake(_) => (ControlType::Handshake, 0, 0),
            Self::KeepAlive => (ControlType::KeepAlive, 0, 0),
            Self::Ack { number, .. } => (ControlType::Ack, 0, *number),
            Self::Nak(_) => (ControlType::Nak, 0, 0),
            Self::Congestion => (ControlType::Congestion, 0, 0),
            Self::Shutdown => (ControlType::Shutdown, 0, 0),
            Self::AckAck { number } => (ControlType::AckAck, 0, *number),
            Self::DropReq { msg_no, .. } => (ControlType::DropReq, 0, *msg_no),
            Self::PeerError { code } => (ControlType::PeerError, 0, *code),
            Self::User { subtype, .. } => (ControlType::User, *subtype, 0),
        };
        let head = emit_header(out, kind, subtype, info, timestamp, dst)?;
        let room = out.get_mut(head..)?;
        let body = match self {
            Self::Handshake(view) => view.emit(room)?,
            Self::Ack { ack, .. } => ack.emit(room)?,
            Self::DropReq { first, last, .. } => put_words(room, &[first.get(), last.get()])?,
            Self::Nak(list) => copy(list.bytes(), room)?,
            Self::User { body, .. } => copy(body, room)?,
            Self::KeepAlive
            | Self::Congestion
            | Self::Shutdown
            | Self::AckAck { .. }
            | Self::PeerError { .. } => put_words(room, &[0])?,
        };
        Some(head + body)
    }
}

fn copy(bytes: &[u8], out: &mut [u8]) -> Option<usize> {
    out.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(bytes.len())
}
