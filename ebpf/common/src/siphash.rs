//! `SipHash` of whole 64-bit words, without branches and memory.
//!
//! The gate tag is `SipHash-2-4` (`docs/registration-auth.md`, 4.1); the choice of a bucket is the faster 1-3, whose result
//! nobody sees.

/// `SipHash-C-D` of words that come one after the other.
pub struct SipHash<const C: usize, const D: usize> {
    v: [u64; 4],
    words: u64,
}

impl<const C: usize, const D: usize> SipHash<C, D> {
    /// With this key, as two little-endian words.
    #[inline(always)]
    pub const fn new(key: &[u64; 2]) -> Self {
        let v = [
            key[0] ^ 0x736f_6d65_7073_6575,
            key[1] ^ 0x646f_7261_6e64_6f6d,
            key[0] ^ 0x6c79_6765_6e65_7261,
            key[1] ^ 0x7465_6462_7974_6573,
        ];
        Self { v, words: 0 }
    }

    /// Takes in a word, which is little-endian on the wire.
    #[inline(always)]
    pub fn word(&mut self, word: u64) {
        self.words += 1;
        self.compress(word);
    }

    /// The hash.
    #[inline(always)]
    pub fn finish(mut self) -> u64 {
        self.compress((self.words * 8) << 56);
        self.v[2] ^= 0xff;
        for _ in 0..D {
            round(&mut self.v);
        }
        self.v[0] ^ self.v[1] ^ self.v[2] ^ self.v[3]
    }

    #[inline(always)]
    fn compress(&mut self, word: u64) {
        self.v[3] ^= word;
        for _ in 0..C {
            round(&mut self.v);
        }
        self.v[0] ^= word;
    }
}

#[inline(always)]
fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[2] = v[2].rotate_left(32);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use siphasher::sip::{SipHasher13, SipHasher24};

    proptest! {
        #[test]
        fn like_the_crate(key: [u64; 2], words: [u64; 8]) {
            let mut key_bytes = [0; 16];
            key_bytes[..8].copy_from_slice(&key[0].to_le_bytes());
            key_bytes[8..].copy_from_slice(&key[1].to_le_bytes());
            let mut bytes = [0; 64];
            for (chunk, word) in bytes.chunks_exact_mut(8).zip(words) {
                chunk.copy_from_slice(&word.to_le_bytes());
            }
            let mut tag = SipHash::<2, 4>::new(&key);
            for word in words {
                tag.word(word);
            }
            prop_assert_eq!(tag.finish(), SipHasher24::new_with_key(&key_bytes).hash(&bytes));
            let mut short = SipHash::<1, 3>::new(&key);
            short.word(words[0]);
            short.word(words[1]);
            prop_assert_eq!(short.finish(), SipHasher13::new_with_key(&key_bytes).hash(&bytes[..16]));
        }
    }
}
