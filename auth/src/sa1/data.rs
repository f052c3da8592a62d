//! MACs on the SRT packets of a link (spec 9.3): the same trailer as on keepalives, with AES-128-GMAC for HMAC, because here
//! it is paid for per packet.
//!
//! Promises: a trailer made for one direction, link, join or packet is worth nothing elsewhere; each counter is taken
//! once, and none is ever used twice under one key; what is out of the window costs no MAC; nothing allocates.

use super::keys::{LinkKeys, hmac_key, mac};
use super::replay::Window;
use super::take;
use super::trailer::{RENEW_AT, TRAILER_LEN, TrailerError};
use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use std::fmt;

/// The longest SRT packet with its trailer: what an Ethernet path carries in one IPv4 packet. Longer ones are not sent.
pub const SEALED_DATA_LEN_MAX: usize = 1472;
/// An SRT header: nothing shorter is an SRT packet.
const PACKET_LEN_MIN: usize = 16;
/// Words of the replay window: 1024 counters, a tenth of a second of 100 Mb/s.
const WINDOW_WORDS: usize = 16;

/// The key of one direction of a link, apart from the one its HMACs are made with.
fn data_key(direction: &[u8; 32]) -> LessSafeKey {
    let derived: [u8; 16] = take(&mac(&hmac_key(direction), &[b"SA1-D"]), 0);
    let key = UnboundKey::new(&AES_128_GCM, &derived).expect("sixteen bytes are a key of AES-128");
    LessSafeKey::new(key)
}

/// A counter comes once under a key, and so does this.
fn nonce(counter: u32) -> Nonce {
    let mut nonce = [0; 12];
    nonce[8..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

/// Puts trailers on the SRT packets of one direction of a link.
pub struct DataSealer {
    key: LessSafeKey,
    counter: u32,
}

impl DataSealer {
    fn new(direction: &[u8; 32]) -> Self {
        Self { key: data_key(direction), counter: 0 }
    }

    /// Whether it is time for a new hello, which brings new keys.
    pub const fn should_renew(&self) -> bool {
        self.counter >= RENEW_AT
    }

    /// Whether a packet of so many bytes gets a trailer now: there is room for it, and a counter left.
    pub const fn takes(&self, packet_len: usize) -> bool {
        packet_len >= PACKET_LEN_MIN
            && packet_len <= SEALED_DATA_LEN_MAX - TRAILER_LEN
            && self.counter < u32::MAX
    }

    /// Writes the trailer into the last [`TRAILER_LEN`] bytes of `sealed`, behind the packet. False, and nothing written,
    /// unless [`Self::takes`] it.
    pub fn seal(&mut self, sealed: &mut [u8]) -> bool {
        let Some(len) = sealed.len().checked_sub(TRAILER_LEN).filter(|&len| self.takes(len)) else {
            return false;
        };
        let counter = self.counter;
        self.counter += 1;
        let (signed, tag) = sealed.split_at_mut(len + 4);
        signed[len..].copy_from_slice(&counter.to_be_bytes());
        match self.key.seal_in_place_separate_tag(nonce(counter), Aad::from(signed), &mut []) {
            Ok(made) => {
                tag.copy_from_slice(made.as_ref());
                true
            }
            Err(_) => false,
        }
    }
}

impl fmt::Debug for DataSealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DataSealer(counter {}, redacted)", self.counter)
    }
}

/// Takes trailers off the SRT packets of one direction of a link.
pub struct DataOpener {
    key: LessSafeKey,
    window: Window<WINDOW_WORDS>,
}

impl DataOpener {
    fn new(direction: &[u8; 32]) -> Self {
        Self { key: data_key(direction), window: Window::default() }
    }

    /// Whether the other side has used up half of its counters.
    pub const fn should_renew(&self) -> bool {
        self.window.next() > RENEW_AT as u64
    }

    /// The packet without its trailer, which was right and new.
    ///
    /// # Errors
    /// The first check that failed.
    pub fn open<'a>(&mut self, sealed: &'a [u8]) -> Result<&'a [u8], TrailerError> {
        let len = sealed.len().checked_sub(TRAILER_LEN).filter(|&len| len >= PACKET_LEN_MIN);
        let len = len.ok_or(TrailerError::Shape)?;
        let (signed, tag) = sealed.split_at(len + 4);
        let counter = u32::from_be_bytes(take(signed, len));
        if !self.window.is_new(counter) {
            return Err(TrailerError::Replayed);
        }
        let tag: [u8; 16] = take(tag, 0);
        self.key
            .open_in_place_separate_tag(nonce(counter), Aad::from(signed), tag.into(), &mut [], 0..)
            .map_err(|_| TrailerError::Mac)?;
        self.window.mark(counter);
        Ok(&sealed[..len])
    }
}

impl fmt::Debug for DataOpener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DataOpener(up to {}, redacted)", self.window.next())
    }
}

impl LinkKeys {
    /// The sender's ends for SRT packets.
    pub fn sender_data_ends(&self) -> (DataSealer, DataOpener) {
        (DataSealer::new(&self.to_receiver), DataOpener::new(&self.to_sender))
    }

    /// The receiver's ends for SRT packets.
    pub fn receiver_data_ends(&self) -> (DataSealer, DataOpener) {
        (DataSealer::new(&self.to_sender), DataOpener::new(&self.to_receiver))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> LinkKeys {
        LinkKeys { to_receiver: [1; 32], to_sender: [2; 32] }
    }

    fn sealed(seal: &mut DataSealer, packet: &[u8]) -> Vec<u8> {
        let mut sealed = [packet, &[0; TRAILER_LEN]].concat();
        assert!(seal.seal(&mut sealed));
        sealed
    }

    fn packet(len: usize) -> Vec<u8> {
        (0..len).map(|at| at as u8).collect()
    }

    #[test]
    fn sealed_opens_once_and_only_at_the_other_end() {
        let (mut seal, mut own) = keys().sender_data_ends();
        let (_, mut open) = keys().receiver_data_ends();
        let other = LinkKeys { to_receiver: [3; 32], to_sender: [2; 32] };
        let (_, mut elsewhere) = other.receiver_data_ends();
        for len in [16, 17, 44, 1332, 1452] {
            let (packet, sealed) = (packet(len), sealed(&mut seal, &packet(len)));
            assert_eq!(own.open(&sealed), Err(TrailerError::Mac), "reflected");
            assert_eq!(elsewhere.open(&sealed), Err(TrailerError::Mac), "another link");
            assert_eq!(open.open(&sealed), Ok(&packet[..]));
            assert_eq!(open.open(&sealed), Err(TrailerError::Replayed));
        }
    }

    #[test]
    fn every_flip_and_truncation_is_refused() {
        let (mut seal, _) = keys().sender_data_ends();
        let (_, mut open) = keys().receiver_data_ends();
        for len in [16, 44, 1332] {
            let good = sealed(&mut seal, &packet(len));
            for bit in 0..good.len() * 8 {
                let mut flipped = good.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(open.open(&flipped).is_err(), "bit {bit} of {} bytes", good.len());
            }
            for cut in 0..good.len() {
                assert!(open.open(&good[..cut]).is_err(), "{cut} of {} bytes", good.len());
            }
            assert!(open.open(&good).is_ok(), "no forgery has moved the window");
        }
    }

    #[test]
    fn reordered_by_up_to_1024_is_taken() {
        let (mut seal, _) = keys().sender_data_ends();
        let (_, mut open) = keys().receiver_data_ends();
        let all: Vec<_> = (0..1030).map(|_| sealed(&mut seal, &packet(20))).collect();
        assert!(open.open(&all[1029]).is_ok());
        for (at, late) in all[..1029].iter().enumerate().rev() {
            let expected = if at > 1029 - 1024 { Ok(&packet(20)[..]) } else { Err(TrailerError::Replayed) };
            assert_eq!(open.open(late), expected, "{at}");
        }
        assert!(all.iter().all(|late| open.open(late) == Err(TrailerError::Replayed)));
    }

    #[test]
    fn what_is_too_long_or_too_short_gets_none() {
        let (mut seal, mut open) = keys().sender_data_ends();
        for len in [0, 1, 15, 1453, 1500] {
            let mut sealed = vec![7; len + TRAILER_LEN];
            assert!(!seal.takes(len) && !seal.seal(&mut sealed), "{len}");
            assert_eq!(sealed, vec![7; len + TRAILER_LEN], "nothing is written");
        }
        assert!(!seal.seal(&mut [0; 19]));
        assert!(seal.takes(16) && seal.takes(1452) && seal.counter == 0);
        assert_eq!(open.open(&[0; 35]), Err(TrailerError::Shape));
        assert_eq!(open.open(&[]), Err(TrailerError::Shape));
    }

    #[test]
    fn counters_end_and_never_repeat() {
        let (mut seal, _) = keys().sender_data_ends();
        let (_, mut open) = keys().receiver_data_ends();
        seal.counter = RENEW_AT - 1;
        assert!(!seal.should_renew());
        open.open(&sealed(&mut seal, &packet(16))).unwrap();
        assert!(seal.should_renew() && !open.should_renew());
        open.open(&sealed(&mut seal, &packet(16))).unwrap();
        assert!(open.should_renew());
        seal.counter = u32::MAX - 1;
        open.open(&sealed(&mut seal, &packet(16))).unwrap();
        assert!(!seal.takes(16) && !seal.seal(&mut [0; 36]) && !seal.seal(&mut [0; 36]));
        assert!(format!("{seal:?}{open:?}").contains("redacted"));
    }
}
