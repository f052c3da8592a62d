//! The wire: every SRT packet as a view over received bytes and as a value that can be written.
//!
//! Promises: parsing never panics, allocates or reads past the bytes given; what a peer can get wrong is an
//! error here, except for rules that need connection state (windows, ranges), which belong to the state
//! machines. All integers are big-endian.

pub mod control;
pub mod handshake;
pub mod header;
pub mod loss_list;

pub use control::{Ack, AckRates, AckTiming, Control, ControlType, ControlView};
pub use handshake::{
    Extension, ExtensionKind, ExtensionWriter, Extensions, HANDSHAKE_LEN, HandshakeKind, HandshakeRepr,
    HandshakeView, HsExtension, KmMessage, MAGIC, STREAM_ID_MAX, ext_flags, hs_flags,
};
pub use header::{DataRepr, DataView, HEADER_LEN, KeyFlag, Position};
pub use loss_list::{LossList, LossListWriter};

use std::fmt;

/// Largest UDP payload of the usual 1500-byte MTU over IPv4.
pub const DATAGRAM_MAX: usize = 1472;
/// Largest data payload in that datagram.
pub const PAYLOAD_MAX: usize = DATAGRAM_MAX - HEADER_LEN;

/// What is wrong with the bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum WireError {
    /// Shorter than its header or fixed body.
    Truncated,
    /// Control type that SRT does not define.
    UnknownControl,
    /// An extension block reaches past the datagram.
    ExtensionTruncated,
    /// Contents of a block have a length that cannot be.
    BadLength,
    /// A value that cannot be (range with last before first, wrong magic).
    BadValue,
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Truncated => "truncated packet",
            Self::UnknownControl => "unknown control type",
            Self::ExtensionTruncated => "extension reaches past the packet",
            Self::BadLength => "length out of bounds",
            Self::BadValue => "value out of bounds",
        })
    }
}

impl std::error::Error for WireError {}

/// One received packet.
#[derive(Clone, Copy, Debug)]
pub enum Packet<'a> {
    /// Media payload.
    Data(DataView<'a>),
    /// Everything else.
    Control(ControlView<'a>),
}

/// Reads the header and tells data from control.
///
/// # Errors
/// [`WireError::Truncated`] below 16 bytes, [`WireError::UnknownControl`] for control types outside the protocol.
pub fn parse(bytes: &[u8]) -> Result<Packet<'_>, WireError> {
    let (words, body) = header::split(bytes)?;
    if words[0] & 0x8000_0000 == 0 {
        Ok(Packet::Data(DataView::new(words, body)))
    } else {
        Ok(Packet::Control(ControlView::new(words, body)?))
    }
}

/// The `index`-th 32-bit word of `bytes`.
pub(crate) fn word(bytes: &[u8], index: usize) -> Option<u32> {
    bytes.get(index * 4..)?.first_chunk().map(|word| u32::from_be_bytes(*word))
}

/// Writes `words` at the start of `out` and returns how many bytes that were; `None` when they do not fit.
pub(crate) fn put_words(out: &mut [u8], words: &[u32]) -> Option<usize> {
    let len = words.len() * 4;
    let room = out.get_mut(..len)?;
    for (bytes, word) in room.chunks_exact_mut(4).zip(words) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    Some(len)
}
