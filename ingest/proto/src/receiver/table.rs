//! A hash index from keys to slots of some arena.
//!
//! Open addressing with linear probing and backward-shift deletion: no tombstones, so its cost does not depend on what
//! happened before. Promises: all memory is taken at creation, lookups touch on average less than two entries, and the
//! hash is keyed (`SipHash`), so a peer that chooses its address or ID cannot aim at one bucket. The keys themselves
//! live in the arena; the caller says whether a slot matches.

use siphasher::sip::SipHasher13;

const EMPTY: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Entry {
    hash: u32,
    slot: u32,
}

/// See the module's comment.
pub(super) struct Index {
    entries: Box<[Entry]>,
    len: usize,
    max: usize,
}

/// Hashes keys for every [`Index`] of one receiver.
pub(super) struct KeyHash(SipHasher13);

impl KeyHash {
    pub(super) fn new(seed: [u64; 2]) -> Self {
        Self(SipHasher13::new_with_keys(seed[0], seed[1]))
    }

    pub(super) fn of(&self, key: &[u8]) -> u32 {
        let hash = self.0.hash(key);
        (hash ^ (hash >> 32)) as u32
    }
}

impl Index {
    /// Room for `max` entries, at most half full.
    pub(super) fn new(max: usize) -> Self {
        let size = (max.max(1) * 2).next_power_of_two();
        Self { entries: vec![Entry { hash: 0, slot: EMPTY }; size].into_boxed_slice(), len: 0, max }
    }

    fn mask(&self) -> usize {
        self.entries.len() - 1
    }

    /// The slots stored under `hash`, candidates only.
    fn candidates(&self, hash: u32) -> impl Iterator<Item = (usize, u32)> + '_ {
        let mask = self.mask();
        (0..self.entries.len())
            .map(move |step| (hash as usize + step) & mask)
            .map(|at| (at, self.entries[at]))
            .take_while(|(_, entry)| entry.slot != EMPTY)
            .filter(move |(_, entry)| entry.hash == hash)
            .map(|(at, entry)| (at, entry.slot))
    }

    /// The slot under `hash` that `matches`.
    pub(super) fn get(&self, hash: u32, matches: impl Fn(u32) -> bool) -> Option<u32> {
        self.candidates(hash).map(|(_, slot)| slot).find(|&slot| matches(slot))
    }

    /// All slots under `hash`, those of other keys with the same hash included.
    pub(super) fn all(&self, hash: u32) -> impl Iterator<Item = u32> + '_ {
        self.candidates(hash).map(|(_, slot)| slot)
    }

    /// Stores `slot` under `hash`. The caller knows it is not there yet. `false` when the index is full.
    pub(super) fn insert(&mut self, hash: u32, slot: u32) -> bool {
        if self.len >= self.max {
            return false;
        }
        let mask = self.mask();
        let mut at = hash as usize & mask;
        while self.entries[at].slot != EMPTY {
            at = (at + 1) & mask;
        }
        self.entries[at] = Entry { hash, slot };
        self.len += 1;
        true
    }

    /// Forgets `slot` under `hash`; nothing happens when it is not there.
    pub(super) fn remove(&mut self, hash: u32, slot: u32) {
        let Some((mut hole, _)) = self.candidates(hash).find(|&(_, candidate)| candidate == slot) else {
            return;
        };
        let mask = self.mask();
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let entry = self.entries[at];
            if entry.slot == EMPTY {
                break;
            }
            // An entry may move into the hole when its home is not inside the stretch (hole, at].
            let home = entry.hash as usize & mask;
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(hole) & mask) {
                self.entries[hole] = entry;
                hole = at;
            }
        }
        self.entries[hole].slot = EMPTY;
        self.len -= 1;
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Few distinct hashes, so that long clusters with wrap-around form.
        #[test]
        fn behaves_like_a_list_of_pairs(ops in prop::collection::vec((any::<bool>(), 0u32..24, 0u32..32), 0..200)) {
            let mut index = Index::new(16);
            let mut oracle: Vec<(u32, u32)> = Vec::new();
            for (insert, hash, slot) in ops {
                // Spread homes over the last buckets to exercise wrapping.
                let hash = hash.wrapping_add(20);
                if insert {
                    if oracle.contains(&(hash, slot)) {
                        continue;
                    }
                    let fits = oracle.len() < 16;
                    prop_assert_eq!(index.insert(hash, slot), fits);
                    if fits {
                        oracle.push((hash, slot));
                    }
                } else {
                    index.remove(hash, slot);
                    oracle.retain(|&pair| pair != (hash, slot));
                }
                prop_assert_eq!(index.len(), oracle.len());
                for hash in 0..64 {
                    for slot in 0..32 {
                        let there = oracle.contains(&(hash, slot));
                        prop_assert_eq!(index.get(hash, |candidate| candidate == slot).is_some(), there);
                    }
                }
            }
        }
    }
}
