//! The 16-byte header, and the data packet as a whole.
//!
//! Source: draft-sharabayko-srt, "Packet Structure"; libsrt's `packet.h` for the field order of word 1.

use super::{WireError, put_words};
use crate::seq::{MsgNo, Seq};

/// Bytes of the header of every packet.
pub const HEADER_LEN: usize = 16;

/// Splits a datagram into its four header words and the rest.
pub(super) fn split(bytes: &[u8]) -> Result<([u32; 4], &[u8]), WireError> {
    let (head, body) = bytes.split_first_chunk::<HEADER_LEN>().ok_or(WireError::Truncated)?;
    let at = |i: usize| u32::from_be_bytes([head[i], head[i + 1], head[i + 2], head[i + 3]]);
    Ok(([at(0), at(4), at(8), at(12)], body))
}

/// Place of a packet within its message (PP field).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Position {
    /// Neither first nor last.
    Middle,
    /// Last packet of a message.
    Last,
    /// First packet of a message.
    First,
    /// The message is this one packet; always so in live mode.
    Solo,
}

/// Which key encrypted the payload (KK field).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum KeyFlag {
    /// In clear.
    Clear,
    /// Even key.
    Even,
    /// Odd key.
    Odd,
    /// 11: not valid in data packets.
    Both,
}

/// A received data packet.
#[derive(Clone, Copy, Debug)]
pub struct DataView<'a> {
    words: [u32; 4],
    payload: &'a [u8],
}

impl<'a> DataView<'a> {
    pub(super) fn new(words: [u32; 4], payload: &'a [u8]) -> Self {
        Self { words, payload }
    }

    /// Packet sequence number.
    pub fn seq(&self) -> Seq {
        Seq::new(self.words[0])
    }

    /// Place within the message.
    pub fn position(&self) -> Position {
        match self.words[1] >> 30 {
            0 => Position::Middle,
            1 => Position::Last,
            2 => Position::First,
            _ => Position::Solo,
        }
    }

    /// O bit; without meaning in live mode.
    pub fn ordered(&self) -> bool {
        self.words[1] & (1 << 29) != 0
    }

    /// Key of the payload.
    pub fn key(&self) -> KeyFlag {
        match (self.words[1] >> 27) & 3 {
            0 => KeyFlag::Clear,
            1 => KeyFlag::Even,
            2 => KeyFlag::Odd,
            _ => KeyFlag::Both,
        }
    }

    /// R bit: sent before.
    pub fn retransmitted(&self) -> bool {
        self.words[1] & (1 << 26) != 0
    }

    /// Message number.
    pub fn msg_no(&self) -> MsgNo {
        MsgNo::new(self.words[1])
    }

    /// Microseconds since the sender's start, modulo 2^32.
    pub fn timestamp(&self) -> u32 {
        self.words[2]
    }

    /// Socket ID this packet is for.
    pub fn dst(&self) -> u32 {
        self.words[3]
    }

    /// The payload, possibly empty, possibly encrypted.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// The header as a value.
    pub fn repr(&self) -> DataRepr {
        DataRepr {
            seq: self.seq(),
            position: self.position(),
            ordered: self.ordered(),
            key: self.key(),
            retransmitted: self.retransmitted(),
            msg_no: self.msg_no(),
            timestamp: self.timestamp(),
            dst: self.dst(),
        }
    }
}

/// The header of a data packet, to be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DataRepr {
    /// Packet sequence number.
    pub seq: Seq,
    /// Place within the message.
    pub position: Position,
    /// O bit.
    pub ordered: bool,
    /// Key of the payload.
    pub key: KeyFlag,
    /// R bit.
    pub retransmitted: bool,
    /// Message number.
    pub msg_no: MsgNo,
    /// Microseconds since the sender's start, modulo 2^32.
    pub timestamp: u32,
    /// Peer's socket ID.
    pub dst: u32,
}

impl DataRepr {
    /// Writes the header and returns its length; `None` when `out` is shorter than 16 bytes.
    pub fn emit(&self, out: &mut [u8]) -> Option<usize> {
        let position = match self.position {
            Position::Middle => 0,
            Position::Last => 1,
            Position::First => 2,
            Position::Solo => 3,
        };
        let key = match self.key {
            KeyFlag::Clear => 0,
            KeyFlag::Even => 1,
            KeyFlag::Odd => 2,
            KeyFlag::Both => 3,
        };
        let flags = position << 30
            | u32::from(self.ordered) << 29
            | key << 27
            | u32::from(self.retransmitted) << 26
            | self.msg_no.get();
        put_words(out, &[self.seq.get(), flags, self.timestamp, self.dst])
    }
}
