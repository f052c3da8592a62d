//! What SA1 remembers: hellos seen ([`SeenFilter`]) and the counters of a link's MACs ([`Window`]). Both of fixed size.

use super::{KeyId, LinkNonce};
use siphasher::sip::SipHasher24;

const BITS: usize = 1 << 19;
const WORDS: usize = BITS / 64;
const PROBES: u32 = 4;

/// How long a hello is remembered at least, in milliseconds, unless [`SEEN_MAX`] is reached first; twice that at most.
pub const SEEN_MS: u64 = 60_000;
/// How many hellos one generation takes. With both full, one new hello in 2,600 is taken for a repeated one.
pub const SEEN_MAX: u32 = 16_384;

/// The hellos seen lately: a Bloom filter in two generations of 64 KiB (spec 5.1).
///
/// Only hellos whose MAC was right come in here. A repeat is always found within [`SEEN_MS`] (and [`SEEN_MAX`] hellos);
/// a new hello is now and then taken for a repeat, which costs its sender one retry with another nonce.
pub struct SeenFilter {
    key: SipHasher24,
    generations: [Box<[u64]>; 2],
    current: usize,
    count: u32,
    turned_ms: u64,
}

impl SeenFilter {
    /// Takes 16 random bytes, so that nobody can choose nonces that collide.
    pub fn new(secret: &[u8; 16], boot_ms: u64) -> Self {
        let empty = || vec![0; WORDS].into_boxed_slice();
        Self {
            key: SipHasher24::new_with_key(secret),
            generations: [empty(), empty()],
            current: 0,
            count: 0,
            turned_ms: boot_ms,
        }
    }

    /// Remembers a hello. False when it was there already, or looks so.
    pub fn insert(&mut self, key_id: &KeyId, link_nonce: &LinkNonce, boot_ms: u64) -> bool {
        let idle_ms = boot_ms.saturating_sub(self.turned_ms);
        if idle_ms >= 2 * SEEN_MS {
            self.turn(boot_ms);
        }
        if idle_ms >= SEEN_MS || self.count >= SEEN_MAX {
            self.turn(boot_ms);
        }
        let mut input = [0; 24];
        input[..8].copy_from_slice(key_id);
        input[8..].copy_from_slice(link_nonce);
        let hash = self.key.hash(&input);
        let (first, step) = (hash as u32, (hash >> 32) as u32 | 1);
        let places = (0..PROBES).map(|i| first.wrapping_add(i.wrapping_mul(step)) as usize % BITS);
        let seen = self
            .generations
            .iter()
            .any(|bits| places.clone().all(|place| bits[place / 64] >> (place % 64) & 1 == 1));
        if !seen {
            let bits = &mut self.generations[self.current];
            for place in places {
                bits[place / 64] |= 1 << (place % 64);
            }
            self.count += 1;
        }
        !seen
    }

    fn turn(&mut self, boot_ms: u64) {
        self.current ^= 1;
        self.generations[self.current].fill(0);
        self.count = 0;
        self.turned_ms = boot_ms;
    }
}

impl std::fmt::Debug for SeenFilter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SeenFilter({} in this generation)", self.count)
    }
}

/// Which of the last `64 * WORDS` counters came (spec 9.2 and 9.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window<const WORDS: usize = 1> {
    /// The highest counter plus one; 0 while none came.
    next: u64,
    /// Bit i of word w: counter `next - 1 - (64 * w + i)` came.
    seen: [u64; WORDS],
}

impl<const WORDS: usize> Default for Window<WORDS> {
    fn default() -> Self {
        Self { next: 0, seen: [0; WORDS] }
    }
}

impl<const WORDS: usize> Window<WORDS> {
    const WIDTH: u64 = 64 * WORDS as u64;

    /// The highest counter that came plus one; 0 while none came.
    pub const fn next(&self) -> u64 {
        self.next
    }

    /// Whether this counter is new: above all that came, or among the last ones and not seen.
    pub fn is_new(&self, counter: u32) -> bool {
        let counter = u64::from(counter);
        match self.next.checked_sub(counter + 1) {
            None => true,
            Some(back) => back < Self::WIDTH && self.seen[(back / 64) as usize] >> (back % 64) & 1 == 0,
        }
    }

    /// Marks a counter as seen. To be called once its MAC was right.
    pub fn mark(&mut self, counter: u32) {
        let counter = u64::from(counter);
        match self.next.checked_sub(counter + 1) {
            None => {
                self.shift(counter + 1 - self.next);
                self.seen[0] |= 1;
                self.next = counter + 1;
            }
            Some(back) if back < Self::WIDTH => self.seen[(back / 64) as usize] |= 1 << (back % 64),
            Some(_) => {}
        }
    }

    /// Moves every mark back by so many counters; what leaves the window is forgotten.
    fn shift(&mut self, by: u64) {
        if by >= Self::WIDTH {
            self.seen = [0; WORDS];
            return;
        }
        let (words, bits) = ((by / 64) as usize, by % 64);
        if words > 0 {
            self.seen.copy_within(..WORDS - words, words);
            self.seen[..words].fill(0);
        }
        if bits > 0 {
            let mut carry = 0;
            for word in &mut self.seen {
                (*word, carry) = (*word << bits | carry, *word >> (64 - bits));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn is_a_set<const WORDS: usize>(
        window: &mut Window<WORDS>,
        start: u32,
        steps: &[u32],
    ) -> Result<(), TestCaseError> {
        let width = 64 * WORDS as u32;
        let mut came = HashSet::new();
        let mut highest: Option<u32> = None;
        for step in steps {
            let counter = start + step;
            let in_reach = highest.is_none_or(|top| top < width || counter > top - width);
            let expected = in_reach && !came.contains(&counter);
            prop_assert_eq!(window.is_new(counter), expected);
            if expected {
                window.mark(counter);
                came.insert(counter);
                highest = highest.max(Some(counter));
            }
        }
        Ok(())
    }

    proptest! {
        /// The window against a set of everything that came.
        #[test]
        fn window_is_a_set_of_64(start in 0..u32::MAX - 400, steps in prop::collection::vec(0u32..200, 1..300)) {
            is_a_set(&mut Window::<1>::default(), start, &steps)?;
        }

        /// The same for the width of data.
        #[test]
        fn window_is_a_set_of_1024(start in 0..u32::MAX - 4000, steps in prop::collection::vec(0u32..3000, 1..600)) {
            is_a_set(&mut Window::<16>::default(), start, &steps)?;
        }

        /// Nothing seen within the time is ever taken for new.
        #[test]
        fn filter_forgets_nothing_too_early(seed: [u8; 16], gaps in prop::collection::vec(0u64..4000, 1..200)) {
            let mut filter = SeenFilter::new(&seed, 0);
            let mut sent: Vec<(u64, LinkNonce)> = Vec::new();
            let mut now = 0;
            for (i, gap) in gaps.into_iter().enumerate() {
                now += gap;
                for (at, nonce) in &sent {
                    if now - at < SEEN_MS {
                        prop_assert!(!filter.insert(&[1; 8], nonce, now));
                    }
                }
                let mut nonce = [0; 16];
                nonce[..8].copy_from_slice(&(i as u64).to_be_bytes());
                filter.insert(&[1; 8], &nonce, now);
                sent.push((now, nonce));
            }
        }
    }

    /// One step from any state, against sets. Stands in for a model checker and is as good here: what `mark` does to one bit
    /// depends on no other, and what `is_new` says on one bit only, so single bits, none, all, and all but one, with every distance
    /// up to beyond the window, are all there is. Every state is reached from the empty one by such steps.
    #[test]
    fn window_step_by_step() {
        let mut checked = 0;
        for next in [64_u64, 65, 1 << 31, (1 << 32) - 1, 1 << 32] {
            let patterns = (0..64).flat_map(|bit| [1_u64 << bit, !(1 << bit)]).chain([0, u64::MAX]);
            for window in patterns.map(|seen| Window::<1> { next, seen: [seen] }) {
                let came = |window: &Window<1>| -> HashSet<u64> {
                    (0..64)
                        .filter(|bit| window.seen[0] >> bit & 1 == 1)
                        .map(|bit| window.next - 1 - bit)
                        .collect()
                };
                let before = came(&window);
                for counter in (next.saturating_sub(70)..next + 70).chain([0, u32::MAX.into()]) {
                    let Ok(small) = u32::try_from(counter) else { continue };
                    let is_new = counter >= next || (counter + 64 >= next && !before.contains(&counter));
                    assert_eq!(window.is_new(small), is_new, "{counter} in {window:?}");
                    let mut marked = window;
                    marked.mark(small);
                    let top = next.max(counter + 1);
                    let mut after: HashSet<u64> = before.iter().copied().chain([counter]).collect();
                    after.retain(|came| came + 64 >= top);
                    assert_eq!((marked.next, came(&marked)), (top, after), "{counter} in {window:?}");
                    checked += 1;
                }
            }
        }
        assert!(checked > 50_000, "{checked}");
    }

    /// Every sequence of four counters out of those around the edges, from the first packet on.
    #[test]
    fn window_over_all_short_sequences() {
        const EDGES: [u32; 16] = [
            0,
            1,
            2,
            62,
            63,
            64,
            65,
            126,
            127,
            128,
            129,
            u32::MAX - 65,
            u32::MAX - 64,
            u32::MAX - 63,
            u32::MAX - 1,
            u32::MAX,
        ];
        for sequence in 0..EDGES.len().pow(4) {
            let (mut window, mut came, mut rest) = (Window::<1>::default(), Vec::new(), sequence);
            for _ in 0..4 {
                let counter = EDGES[rest % EDGES.len()];
                rest /= EDGES.len();
                let in_reach = came.iter().all(|top| u64::from(counter) + 64 > u64::from(*top));
                let is_new = in_reach && !came.contains(&counter);
                assert_eq!(window.is_new(counter), is_new, "{counter} after {came:?}");
                if is_new {
                    window.mark(counter);
                    came.push(counter);
                }
            }
        }
    }

    #[test]
    fn window_at_the_ends() {
        let mut window = Window::<1>::default();
        assert!(window.is_new(0));
        window.mark(0);
        assert!(!window.is_new(0));
        window.mark(u32::MAX);
        assert!(!window.is_new(u32::MAX));
        assert!(window.is_new(u32::MAX - 63));
        assert!(!window.is_new(u32::MAX - 64));
        assert!(!window.is_new(0));
    }

    #[test]
    fn filter_is_per_key_and_forgets_in_the_end() {
        let mut filter = SeenFilter::new(&[7; 16], 1000);
        let nonce = [9; 16];
        assert!(filter.insert(&[1; 8], &nonce, 1000));
        assert!(!filter.insert(&[1; 8], &nonce, 1000 + SEEN_MS - 1));
        assert!(filter.insert(&[2; 8], &nonce, 1001), "another device's nonce");
        assert!(filter.insert(&[1; 8], &nonce, 1000 + 2 * SEEN_MS), "forgotten after two generations");
        assert!(format!("{filter:?}").contains("1 in"), "{filter:?}");
    }

    /// False positives stay rare however many hellos come.
    #[test]
    fn filter_stays_open_under_a_flood() {
        let mut filter = SeenFilter::new(&[7; 16], 0);
        let mut refused = 0;
        for i in 0..10 * u64::from(SEEN_MAX) {
            let mut nonce = [0; 16];
            nonce[..8].copy_from_slice(&i.to_be_bytes());
            refused += u32::from(!filter.insert(&[3; 8], &nonce, 5));
        }
        assert!(refused < 100, "{refused} of {}", 10 * SEEN_MAX);
    }
}
