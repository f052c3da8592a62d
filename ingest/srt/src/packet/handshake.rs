//! Handshake bodies and their extension blocks.
//!
//! Source: draft-sharabayko-srt, "Handshake"; where libsrt differs (string extensions reversed within every
//! 4-byte word) the wire follows libsrt.

use super::{WireError, put_words, word};
use crate::reject::RejectReason;
use crate::seq::Seq;

/// Extension field of a version 5 INDUCTION response.
pub const MAGIC: u16 = 0x4A17;
/// Longest stream ID, bytes.
pub const STREAM_ID_MAX: usize = 512;
/// Bytes of the fixed part.
pub const HANDSHAKE_LEN: usize = 48;

/// Extension-field bits of a CONCLUSION.
pub mod ext_flags {
    /// An HSREQ or HSRSP block follows.
    pub const HSREQ: u16 = 1;
    /// A KMREQ or KMRSP block follows.
    pub const KMREQ: u16 = 2;
    /// Other blocks (stream ID, congestion, filter, group) follow.
    pub const CONFIG: u16 = 4;
}

/// Flags of HSREQ and HSRSP.
pub mod hs_flags {
    /// Sends with timestamp-based delivery.
    pub const TSBPDSND: u32 = 1;
    /// Receives with timestamp-based delivery.
    pub const TSBPDRCV: u32 = 2;
    /// Knows the encryption fields.
    pub const CRYPT: u32 = 4;
    /// Drops what is too late.
    pub const TLPKTDROP: u32 = 8;
    /// Repeats loss reports.
    pub const PERIODICNAK: u32 = 0x10;
    /// Marks retransmissions with the R bit.
    pub const REXMITFLG: u32 = 0x20;
    /// Stream (file) mode.
    pub const STREAM: u32 = 0x40;
    /// Knows packet filters.
    pub const FILTER: u32 = 0x80;
}

/// Handshake type.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum HandshakeKind {
    /// 1
    Induction,
    /// 0, rendezvous
    WaveAHand,
    /// -1
    Conclusion,
    /// -2, rendezvous
    Agreement,
    /// -3
    Done,
    /// 1000 and more
    Reject(RejectReason),
    /// Anything else.
    Unknown(i32),
}

impl HandshakeKind {
    fn from_wire(code: i32) -> Self {
        match code {
            1 => Self::Induction,
            0 => Self::WaveAHand,
            -1 => Self::Conclusion,
            -2 => Self::Agreement,
            -3 => Self::Done,
            code => RejectReason::from_wire(code).map_or(Self::Unknown(code), Self::Reject),
        }
    }

    fn to_wire(self) -> i32 {
        match self {
            Self::Induction => 1,
            Self::WaveAHand => 0,
            Self::Conclusion => -1,
            Self::Agreement => -2,
            Self::Done => -3,
            Self::Reject(reason) => reason.to_wire(),
            Self::Unknown(code) => code,
        }
    }
}

/// The fixed part of a handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HandshakeRepr {
    /// 4 in the caller's INDUCTION, 5 after that.
    pub version: u32,
    /// Advertised or used key length: 0, 2, 3, 4 for none, AES-128, 192, 256.
    pub encryption: u16,
    /// 2 in the caller's INDUCTION, [`MAGIC`] in the answer, [`ext_flags`] in a CONCLUSION.
    pub extension: u16,
    /// Initial packet sequence number.
    pub isn: Seq,
    /// Largest IP packet, bytes.
    pub mtu: u32,
    /// Flow window, packets.
    pub flow_window: u32,
    /// Type or rejection.
    pub kind: HandshakeKind,
    /// Socket ID of who sends it (in a listener's INDUCTION answer: the caller's own).
    pub socket_id: u32,
    /// SYN cookie.
    pub cookie: u32,
    /// Peer's address as libsrt stores it; not used.
    pub peer_ip: [u32; 4],
}

impl HandshakeRepr {
    /// Writes the 48 bytes; `None` when `out` is too short.
    pub fn emit(&self, out: &mut [u8]) -> Option<usize> {
        let [a, b, c, d] = self.peer_ip;
        put_words(
            out,
            &[
                self.version,
                u32::from(self.encryption) << 16 | u32::from(self.extension),
                self.isn.get(),
                self.mtu,
                self.flow_window,
                self.kind.to_wire() as u32,
                self.socket_id,
                self.cookie,
                a,
                b,
                c,
                d,
            ],
        )
    }
}

/// A received handshake.
#[derive(Clone, Copy, Debug)]
pub struct HandshakeView<'a> {
    repr: HandshakeRepr,
    extensions: &'a [u8],
}

impl<'a> HandshakeView<'a> {
    /// Reads the fixed part.
    ///
    /// # Errors
    /// [`WireError::Truncated`] below 48 bytes.
    pub fn parse(body: &'a [u8]) -> Result<Self, WireError> {
        let extensions = body.get(HANDSHAKE_LEN..).ok_or(WireError::Truncated)?;
        let at = |index| word(body, index).unwrap_or(0);
        let repr = HandshakeRepr {
            version: at(0),
            encryption: (at(1) >> 16) as u16,
            extension: at(1) as u16,
            isn: Seq::new(at(2)),
            mtu: at(3),
            flow_window: at(4),
            kind: HandshakeKind::from_wire(at(5) as i32),
            socket_id: at(6),
            cookie: at(7),
            peer_ip: [at(8), at(9), at(10), at(11)],
        };
        Ok(Self { repr, extensions })
    }

    /// The fixed part.
    pub fn repr(&self) -> &HandshakeRepr {
        &self.repr
    }

    /// The extension blocks, in the order of the peer. Only meaningful in a CONCLUSION.
    pub fn extensions(&self) -> Extensions<'a> {
        Extensions { rest: self.extensions }
    }

    pub(super) fn emit(&self, out: &mut [u8]) -> Option<usize> {
        let len = self.repr.emit(out)?;
        out.get_mut(len..len + self.extensions.len())?.copy_from_slice(self.extensions);
        Some(len + self.extensions.len())
    }
}

/// Type of an extension block.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ExtensionKind {
    /// 1
    HsReq,
    /// 2
    HsRsp,
    /// 3
    KmReq,
    /// 4
    KmRsp,
    /// 5, stream ID
    Sid,
    /// 6
    Congestion,
    /// 7
    Filter,
    /// 8
    Group,
    /// Anything else; to be skipped.
    Unknown(u16),
}

impl ExtensionKind {
    fn from_wire(code: u16) -> Self {
        match code {
            1 => Self::HsReq,
            2 => Self::HsRsp,
            3 => Self::KmReq,
            4 => Self::KmRsp,
            5 => Self::Sid,
            6 => Self::Congestion,
            7 => Self::Filter,
            8 => Self::Group,
            other => Self::Unknown(other),
        }
    }

    fn to_wire(self) -> u16 {
        match self {
            Self::HsReq => 1,
            Self::HsRsp => 2,
            Self::KmReq => 3,
            Self::KmRsp => 4,
            Self::Sid => 5,
            Self::Congestion => 6,
            Self::Filter => 7,
            Self::Group => 8,
            Self::Unknown(code) => code,
        }
    }
}

/// One extension block, contents as on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extension<'a> {
    /// Its type.
    pub kind: ExtensionKind,
    /// Its contents; a multiple of 4 bytes.
    pub contents: &'a [u8],
}

impl Extension<'_> {
    /// Contents of a string block (stream ID, congestion, filter) in reading order, trailing zeros stripped,
    /// written to `out`.
    ///
    /// # Errors
    /// [`WireError::BadLength`] above 512 bytes.
    pub fn text(&self, out: &mut [u8; STREAM_ID_MAX]) -> Result<usize, WireError> {
        let room = out.get_mut(..self.contents.len()).ok_or(WireError::BadLength)?;
        for (to, from) in room.chunks_exact_mut(4).zip(self.contents.chunks_exact(4)) {
            to.copy_from_slice(from);
            to.reverse();
        }
        Ok(room.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1))
    }
}

/// Iterates over extension blocks; stops after the first error.
#[derive(Clone, Debug)]
pub struct Extensions<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Extensions<'a> {
    type Item = Result<Extension<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let Some((head, rest)) = self.rest.split_first_chunk::<4>() else {
            self.rest = &[];
            return Some(Err(WireError::ExtensionTruncated));
        };
        let [k0, k1, l0, l1] = *head;
        let len = usize::from(u16::from_be_bytes([l0, l1])) * 4;
        let Some((contents, rest)) = rest.split_at_checked(len) else {
            self.rest = &[];
            return Some(Err(WireError::ExtensionTruncated));
        };
        self.rest = rest;
        Some(Ok(Extension { kind: ExtensionKind::from_wire(u16::from_be_bytes([k0, k1])), contents }))
    }
}

/// Contents of HSREQ and HSRSP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HsExtension {
    /// Library version, 0x00MMmmpp.
    pub version: u32,
    /// [`hs_flags`].
    pub flags: u32,
    /// Delay the sender of this block wants as a receiver, milliseconds.
    pub recv_delay_ms: u16,
    /// Delay it wants its peer to apply, milliseconds.
    pub send_delay_ms: u16,
}

impl HsExtension {
    /// Reads the three words; longer contents are allowed.
    ///
    /// # Errors
    /// [`WireError::BadLength`] below 12 bytes.
    pub fn parse(contents: &[u8]) -> Result<Self, WireError> {
        let (Some(version), Some(flags), Some(delays)) =
            (word(contents, 0), word(contents, 1), word(contents, 2))
        else {
            return Err(WireError::BadLength);
        };
        Ok(Self { version, flags, recv_delay_ms: (delays >> 16) as u16, send_delay_ms: delays as u16 })
    }
}

/// A key material message (KMREQ or KMRSP), opaque but with every length checked. At most 104 bytes: longer
/// ones are an attack on receivers that copy before they look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KmMessage<'a> {
    /// KMRSP of one word: error state (0 unsecured, 3 no secret, 4 bad secret, 5 bad crypto mode).
    Status(u32),
    /// Header, salt and wrapped keys.
    Keys(&'a [u8]),
}

impl<'a> KmMessage<'a> {
    /// Longest message: 16 header + 16 salt + 8 integrity + two 32-byte keys.
    pub const LEN_MAX: usize = 104;

    /// Checks signature and lengths.
    ///
    /// # Errors
    /// [`WireError::BadLength`] or [`WireError::BadValue`].
    pub fn parse(contents: &'a [u8]) -> Result<Self, WireError> {
        if contents.len() == 4 {
            return Ok(Self::Status(word(contents, 0).unwrap_or(0)));
        }
        if contents.len() > Self::LEN_MAX || !contents.len().is_multiple_of(4) {
            return Err(WireError::BadLength);
        }
        let Some(head) = contents.first_chunk::<16>() else {
            return Err(WireError::BadLength);
        };
        if head[..3] != [0x12, 0x20, 0x29] {
            return Err(WireError::BadValue);
        }
        let keys = match head[3] & 3 {
            0 => return Err(WireError::BadValue),
            3 => 2,
            _ => 1,
        };
        let (salt, key) = (usize::from(head[14]) * 4, usize::from(head[15]) * 4);
        if salt != 16 || ![16, 24, 32].contains(&key) || contents.len() != 16 + salt + 8 + keys * key {
            return Err(WireError::BadLength);
        }
        Ok(Self::Keys(contents))
    }
}

/// Appends extension blocks after the fixed part.
#[derive(Debug)]
pub struct ExtensionWriter<'a> {
    out: &'a mut [u8],
    len: usize,
}

impl<'a> ExtensionWriter<'a> {
    /// Writes into `out`, from its start.
    pub fn new(out: &'a mut [u8]) -> Self {
        Self { out, len: 0 }
    }

    /// A block with contents as they are; they are padded with zeros to whole words. `None` when it does not fit.
    pub fn raw(&mut self, kind: ExtensionKind, contents: &[u8]) -> Option<()> {
        let words = contents.len().div_ceil(4);
        let end = self.len + 4 + words * 4;
        let room = self.out.get_mut(self.len..end)?;
        let (head, body) = room.split_first_chunk_mut::<4>()?;
        *head = (u32::from(kind.to_wire()) << 16 | u32::try_from(words).ok()?).to_be_bytes();
        body.fill(0);
        body.get_mut(..contents.len())?.copy_from_slice(contents);
        self.len = end;
        Some(())
    }

    /// HSREQ or HSRSP.
    pub fn hs(&mut self, kind: ExtensionKind, hs: &HsExtension) -> Option<()> {
        let mut contents = [0; 12];
        let delays = u32::from(hs.recv_delay_ms) << 16 | u32::from(hs.send_delay_ms);
        put_words(&mut contents, &[hs.version, hs.flags, delays])?;
        self.raw(kind, &contents)
    }

    /// A string block, reversed within every word. Longer than 512 bytes does not fit.
    pub fn text(&mut self, kind: ExtensionKind, text: &[u8]) -> Option<()> {
        let mut contents = [0; STREAM_ID_MAX];
        contents.get_mut(..text.len())?.copy_from_slice(text);
        let contents = contents.get_mut(..text.len().next_multiple_of(4))?;
        contents.chunks_exact_mut(4).for_each(<[u8]>::reverse);
        self.raw(kind, contents)
    }

    /// Bytes written.
    pub fn finish(self) -> usize {
        self.len
    }
}
