//! MACs on keepalives and SRTLA ACKs of a link that is up (spec 9): a counter and 16 bytes of HMAC behind the packet.
//!
//! Promises: a trailer made for one direction, link, join or packet is worth nothing elsewhere; each counter is taken
//! once; what is out of the window costs no MAC.

use super::keys::{LinkKeys, hmac_key, mac, same_tag};
use super::replay::Window;
use super::take;
use ring::hmac;
use std::fmt;

/// Bytes added to a packet: counter (4) and tag (16).
pub const TRAILER_LEN: usize = 20;
/// The longest packet with a trailer: an SRTLA ACK of ten numbers.
pub const SEALED_LEN_MAX: usize = 44 + TRAILER_LEN;
/// A link begins a new hello before a counter gets here, so that no counter comes twice.
pub const RENEW_AT: u32 = 1 << 31;

const KEEPALIVE: u16 = 0x9000;
const ACK: u16 = 0x9100;

/// Which packets carry a trailer: timestamped and extended keepalives, and SRTLA ACKs of one to ten numbers.
const fn has_trailer(packet_type: u16, len: usize) -> bool {
    match packet_type {
        KEEPALIVE => matches!(len, 10 | 38),
        ACK => matches!(len, 8..=44) && len.is_multiple_of(4),
        _ => false,
    }
}

/// Why a packet with a trailer was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TrailerError {
    /// Not a packet that carries a trailer, or one without it.
    Shape,
    /// The counter came before, or is too old.
    Replayed,
    /// The MAC is wrong.
    Mac,
}

impl fmt::Display for TrailerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Shape => "no trailer",
            Self::Replayed => "counter seen or too old",
            Self::Mac => "wrong MAC",
        })
    }
}

impl std::error::Error for TrailerError {}

/// Puts trailers on one direction of a link.
pub struct Sealer {
    key: hmac::Key,
    counter: u32,
}

impl Sealer {
    fn new(key: &[u8; 32]) -> Self {
        Self { key: hmac_key(key), counter: 0 }
    }

    /// Whether it is time for a new hello, which brings new keys.
    pub const fn should_renew(&self) -> bool {
        self.counter >= RENEW_AT
    }

    /// The packet with its trailer, and the length of both; `None` for a packet that carries none, and for the rest of
    /// the link's life once its counters are used up.
    pub fn seal(&mut self, packet: &[u8]) -> Option<([u8; SEALED_LEN_MAX], usize)> {
        let packet_type = u16::from_be_bytes(*packet.first_chunk()?);
        let len = packet.len();
        if !has_trailer(packet_type, len) {
            return None;
        }
        let counter = self.counter.to_be_bytes();
        self.counter = self.counter.checked_add(1)?;
        let mut sealed = [0; SEALED_LEN_MAX];
        sealed[..len].copy_from_slice(packet);
        sealed[len..len + 4].copy_from_slice(&counter);
        let tag = mac(&self.key, &[&sealed[..len + 4]]);
        sealed[len + 4..len + TRAILER_LEN].copy_from_slice(&tag[..16]);
        Some((sealed, len + TRAILER_LEN))
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealer(counter {}, redacted)", self.counter)
    }
}

/// Takes trailers off one direction of a link.
pub struct Opener {
    key: hmac::Key,
    window: Window<1>,
}

impl Opener {
    fn new(key: &[u8; 32]) -> Self {
        Self { key: hmac_key(key), window: Window::default() }
    }

    /// The packet without its trailer, which was right and new.
    ///
    /// # Errors
    /// The first check that failed.
    pub fn open<'a>(&mut self, sealed: &'a [u8]) -> Result<&'a [u8], TrailerError> {
        let len = sealed.len().checked_sub(TRAILER_LEN).ok_or(TrailerError::Shape)?;
        let packet_type = sealed.first_chunk().map_or(0, |bytes| u16::from_be_bytes(*bytes));
        if !has_trailer(packet_type, len) {
            return Err(TrailerError::Shape);
        }
        let (packet, trailer) = sealed.split_at(len);
        let counter = u32::from_be_bytes(take(trailer, 0));
        if !self.window.is_new(counter) {
            return Err(TrailerError::Replayed);
        }
        let expected = mac(&self.key, &[packet, &trailer[..4]]);
        if !same_tag(take(&expected, 0), take(trailer, 4)) {
            return Err(TrailerError::Mac);
        }
        self.window.mark(counter);
        Ok(packet)
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Opener({:?}, redacted)", self.window)
    }
}

impl LinkKeys {
    /// The sender's ends.
    pub fn sender_ends(&self) -> (Sealer, Opener) {
        (Sealer::new(&self.to_receiver), Opener::new(&self.to_sender))
    }

    /// The receiver's ends.
    pub fn receiver_ends(&self) -> (Sealer, Opener) {
        (Sealer::new(&self.to_sender), Opener::new(&self.to_receiver))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> LinkKeys {
        LinkKeys { to_receiver: [1; 32], to_sender: [2; 32] }
    }

    fn packets() -> [Vec<u8>; 4] {
        [(0x90, 0x00, 10), (0x90, 0x00, 38), (0x91, 0x00, 44), (0x91, 0x00, 8)].map(|(a, b, len)| {
            let mut packet = vec![0x5A; len];
            packet[..2].copy_from_slice(&[a, b]);
            packet
        })
    }

    #[test]
    fn sealed_opens_once_and_only_at_the_other_end() {
        let (mut seal, mut own) = keys().sender_ends();
        let (_, mut open) = keys().receiver_ends();
        for packet in packets() {
            let (sealed, len) = seal.seal(&packet).unwrap();
            assert_eq!(len, packet.len() + TRAILER_LEN);
            assert_eq!(own.open(&sealed[..len]), Err(TrailerError::Mac), "reflected");
            assert_eq!(open.open(&sealed[..len]), Ok(&packet[..]));
            assert_eq!(open.open(&sealed[..len]), Err(TrailerError::Replayed));
        }
    }

    #[test]
    fn every_flip_and_truncation_is_refused() {
        let (mut seal, _) = keys().sender_ends();
        for packet in packets() {
            let (sealed, len) = seal.seal(&packet).unwrap();
            for bit in 0..len * 8 {
                let (_, mut open) = keys().receiver_ends();
                let mut flipped = sealed;
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(open.open(&flipped[..len]).is_err(), "bit {bit} of {len} bytes");
            }
            for cut in 0..len {
                let (_, mut open) = keys().receiver_ends();
                assert!(open.open(&sealed[..cut]).is_err(), "{cut} of {len} bytes");
            }
        }
    }

    #[test]
    fn a_forgery_moves_no_window() {
        let (mut seal, _) = keys().sender_ends();
        let (_, mut open) = keys().receiver_ends();
        let [packet, ..] = packets();
        let (sealed, len) = seal.seal(&packet).unwrap();
        let mut forged = sealed;
        forged[packet.len()..packet.len() + 4].fill(0xFF);
        assert_eq!(open.open(&forged[..len]), Err(TrailerError::Mac));
        assert!(open.open(&sealed[..len]).is_ok());
    }

    #[test]
    fn other_packets_carry_none() {
        let (mut seal, mut open) = keys().sender_ends();
        let ack = |len| [&[0x91, 0], &[0; 64][..len]].concat();
        let acks = [ack(2), ack(8), ack(43), ack(64)];
        let acks = acks.iter().map(Vec::as_slice);
        let others = [&[][..], &[0x90], &[0x90, 0], &[0x92, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[0x80; 44]];
        for packet in others.into_iter().chain(acks) {
            assert!(seal.seal(packet).is_none());
            assert_eq!(open.open(packet), Err(TrailerError::Shape));
        }
    }

    #[test]
    fn counters_end_and_never_repeat() {
        let [packet, ..] = packets();
        let (mut seal, _) = keys().sender_ends();
        assert!(!seal.should_renew());
        seal.counter = u32::MAX - 1;
        assert!(seal.should_renew());
        assert!(seal.seal(&packet).is_some());
        assert!(seal.seal(&packet).is_none());
        assert!(seal.seal(&packet).is_none());
        assert!(format!("{seal:?}").contains("redacted"));
    }
}
