//! Recognises the copies of one SRT ACK or NAK that come back over several links.
//!
//! A receiver sends every ACK and NAK to all live links, so N links bring N identical datagrams; the encoder must see one
//! of them (each full ACK costs it an ACKACK). Promise: fixed size, bounded time; a forgotten packet lets a copy
//! through (harmless), and hiding a different packet needs a 64-bit collision of a keyed hash.

use siphasher::sip::SipHasher13;

/// Packets remembered. A receiver sends about 100 ACKs a second, so copies may lag by more than a second.
const REMEMBERED: usize = 128;

/// The packets seen last, by hash.
pub(super) struct CopyFilter {
    hasher: SipHasher13,
    hashes: [u64; REMEMBERED],
    seen_us: [u64; REMEMBERED],
    next: usize,
    window_us: u64,
}

impl CopyFilter {
    /// Copies are recognised for `window_us` after the first.
    pub fn new(seed: u64, window_us: u64) -> Self {
        Self {
            hasher: SipHasher13::new_with_keys(seed, seed.rotate_left(32) ^ 0x5152_544c_4120_6470),
            hashes: [0; REMEMBERED],
            seen_us: [0; REMEMBERED],
            next: 0,
            window_us,
        }
    }

    /// Whether the very same bytes were seen within the window; remembers them if not.
    pub fn is_copy(&mut self, now_us: u64, bytes: &[u8]) -> bool {
        let hash = self.hasher.hash(bytes) | 1; // 0 marks an empty place
        let seen_us =
            self.hashes.iter().position(|seen| *seen == hash).and_then(|at| self.seen_us.get_mut(at));
        match seen_us {
            Some(seen_us) if now_us.saturating_sub(*seen_us) <= self.window_us => return true,
            Some(seen_us) => *seen_us = now_us,
            None => {
                let at = self.next % REMEMBERED;
                (self.hashes[at], self.seen_us[at]) = (hash, now_us);
                self.next = at + 1;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_seen_once_within_the_window() {
        let mut filter = CopyFilter::new(7, 1_000_000);
        assert!(!filter.is_copy(0, b"ack 1"));
        assert!(filter.is_copy(10, b"ack 1"));
        assert!(!filter.is_copy(10, b"ack 2"));
        assert!(filter.is_copy(1_000_000, b"ack 1"));
        assert!(!filter.is_copy(1_000_001 + 1_000_000, b"ack 1"), "too long ago: a repetition, not a copy");
        for number in 0..200u64 {
            let ack = number.to_be_bytes();
            assert!(!filter.is_copy(3_000_000, &ack));
            assert!(filter.is_copy(3_000_000, &ack));
            let earlier = number.saturating_sub(100).to_be_bytes();
            assert!(filter.is_copy(3_000_000, &earlier), "the last hundred are all remembered");
        }
    }
}
