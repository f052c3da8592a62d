//! Recognises the copies of one SRT ACK or NAK that come back over several links.
//!
//! A receiver sends every ACK and NAK to all live links, so N links bring N identical datagrams; the encoder must see one
//! of them (each full ACK costs it an ACKACK). Promise: fixed size, constant time; a hash collision or an evicted entry
//! can only let a copy through (harmless), and hiding a different packet needs a 64-bit collision of a keyed hash.

use siphasher::sip::SipHasher13;

const SLOTS: usize = 256;

#[derive(Clone, Copy, Default)]
struct Seen {
    hash: u64,
    at_us: u64,
}

/// A table of recently seen packets, by hash.
pub(super) struct CopyFilter {
    hasher: SipHasher13,
    seen: Box<[Seen; SLOTS]>,
    window_us: u64,
}

impl CopyFilter {
    /// Copies are recognised for `window_us` after the first.
    pub fn new(seed: u64, window_us: u64) -> Self {
        Self {
            hasher: SipHasher13::new_with_keys(seed, seed.rotate_left(32) ^ 0x5152_544c_4120_6470),
            seen: Box::new([Seen::default(); SLOTS]),
            window_us,
        }
    }

    /// Whether the very same bytes were seen within the window; remembers them if not.
    pub fn is_copy(&mut self, now_us: u64, bytes: &[u8]) -> bool {
        let hash = self.hasher.hash(bytes) | 1; // 0 marks an empty slot
        let Some(slot) = self.seen.get_mut((hash >> 32) as usize % SLOTS) else { return false };
        if slot.hash == hash && now_us.saturating_sub(slot.at_us) <= self.window_us {
            return true;
        }
        *slot = Seen { hash, at_us: now_us };
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
    }
}
