//! The SRTLA wire format, and as much of SRT as bonding has to see.
//!
//! Two layers, as in smoltcp: *views* read fields out of borrowed bytes ([`Data`], [`Control`], [`Packet`]), *reprs* are
//! plain values that can be written ([`Repr`], [`Keepalive`]). [`classify`] is the entry: it decides by the first 16 bits
//! and the length alone. Promise: no byte string panics; every view holds at least the bytes its accessors read.
//!
//! Framing (srtla2, as spoken by the BELABOX family and Moblin): one SRT packet per datagram, unmodified; SRTLA's own
//! packets have a first 16-bit word of 0x9000 or more, which are SRT control types that SRT never assigned, with one
//! exception: 0xFFFF, SRT's user-defined type (see [`Control`]). All integers are big-endian.

mod srt;
mod srtla;

pub use srt::{
    AckKind, Control, ControlType, Data, Handshake, HandshakeKind, LostNumbers, NAK_RANGE_MAX, NakRange,
    NakRanges, SHUTDOWN_LEN, SRT_HEADER_LEN, SrtAck, emit_shutdown,
};
pub use srtla::{
    ACK_HEADER_LEN, AckNumbers, EXTENDED_KEEPALIVE_LEN, GroupId, HALF_LEN, ID_LEN, Keepalive, Packet,
    PacketType, REG_LEN, Repr, SHORT_PADDED_LEN, TIMESTAMPED_KEEPALIVE_LEN, Telemetry, emit_ack, emit_reg,
    emit_short,
};

/// Largest datagram any known implementation sends or stores (buffers are 1500 bytes everywhere).
pub const DATAGRAM_LEN_MAX: usize = 1500;

/// What a datagram is, by its first word and its length.
#[derive(Clone, Copy, Debug)]
pub enum Datagram<'a> {
    /// An SRT data packet (first bit 0, at least 16 bytes).
    SrtData(Data<'a>),
    /// An SRT control packet (first word 0x8000..=0x8FFF or a key refresh 0xFFFF, at least 16 bytes).
    SrtControl(Control<'a>),
    /// An SRTLA packet (first word 0x9000 or more, at least 2 bytes), known or unknown.
    Srtla(Packet<'a>),
    /// Too short to be anything: fewer than 2 bytes, or fewer than 16 and not SRTLA.
    Runt,
}

/// Decides what `bytes` are. Never fails; unknown SRTLA types come back as [`PacketType::Unknown`].
pub fn classify(bytes: &[u8]) -> Datagram<'_> {
    if let Some(data) = Data::new(bytes) {
        Datagram::SrtData(data)
    } else if let Some(control) = Control::new(bytes) {
        Datagram::SrtControl(control)
    } else if let Some(packet) = Packet::new(bytes) {
        Datagram::Srtla(packet)
    } else {
        Datagram::Runt
    }
}

/// Reads a big-endian word at `at`; 0 when the slice ends before (views check their length once, at creation).
fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |word| u32::from_be_bytes(*word))
}

/// Reads a big-endian half word at `at`; 0 when the slice ends before.
fn be16(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |word| u16::from_be_bytes(*word))
}

/// Reads a big-endian 64-bit word at `at`; 0 when the slice ends before.
fn be64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |word| u64::from_be_bytes(*word))
}
