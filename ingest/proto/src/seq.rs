//! The 31-bit SRT packet sequence number with serial arithmetic.
//!
//! Promise: every value is below 2^31, every operation wraps, and comparison looks at the shorter way round the circle.
//! There is deliberately no `Ord`: half-range comparison is not transitive.

use std::fmt;

/// A 31-bit SRT packet sequence number (SRT draft, "Data Packets": modulo 2^31).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Seq(u32);

impl Seq {
    /// Largest sequence number, 2^31 - 1; its successor is 0.
    pub const MAX: Seq = Seq(0x7FFF_FFFF);

    /// Takes the low 31 bits of `value`; bit 31 (the range and control flag on the wire) is dropped.
    pub const fn new(value: u32) -> Self {
        Self(value & 0x7FFF_FFFF)
    }

    /// The number itself, always below 2^31.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The next number; wraps to 0 after [`Seq::MAX`].
    #[must_use]
    pub const fn next(self) -> Self {
        self.add(1)
    }

    /// `n` numbers further on, wrapping.
    #[must_use]
    pub const fn add(self, n: u32) -> Self {
        Self::new(self.0.wrapping_add(n))
    }

    /// `n` numbers back, wrapping.
    #[must_use]
    pub const fn sub(self, n: u32) -> Self {
        Self::new(self.0.wrapping_sub(n))
    }

    /// How far `self` is ahead of `origin`, in -2^30 ..= 2^30 - 1: positive when `self` is newer.
    pub const fn distance_from(self, origin: Seq) -> i32 {
        // Shift the 31-bit difference to the top of the word so that its sign bit is bit 30, then shift it back.
        (self.0.wrapping_sub(origin.0) << 1).cast_signed() >> 1
    }

    /// `self` is newer than `other` by the half-range rule.
    pub const fn is_after(self, other: Seq) -> bool {
        self.distance_from(other) > 0
    }

    /// `self` is older than `other` by the half-range rule.
    pub const fn is_before(self, other: Seq) -> bool {
        self.distance_from(other) < 0
    }

    /// Both numbers are at most `window` apart, whichever is newer.
    pub const fn is_within(self, other: Seq, window: u32) -> bool {
        self.distance_from(other).unsigned_abs() <= window
    }
}

impl fmt::Debug for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Seq({})", self.0)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn wraps_at_31_bits() {
        assert_eq!(Seq::MAX.next(), Seq::new(0));
        assert_eq!(Seq::new(0).sub(1), Seq::MAX);
        assert_eq!(Seq::new(0x8000_0005).get(), 5);
        assert!(Seq::new(3).is_after(Seq::MAX.sub(3)));
        assert_eq!(Seq::new(3).distance_from(Seq::MAX), 4);
        assert_eq!(Seq::MAX.distance_from(Seq::new(3)), -4);
        assert_eq!(
            Seq::new(1 << 30).distance_from(Seq::new(0)),
            -(1 << 30),
            "exactly half way counts as behind"
        );
    }

    proptest! {
        #[test]
        fn distance_is_the_inverse_of_add(start: u32, n in -(1i32 << 30)..(1 << 30)) {
            let start = Seq::new(start);
            let moved = if n >= 0 { start.add(n.unsigned_abs()) } else { start.sub(n.unsigned_abs()) };
            prop_assert_eq!(moved.distance_from(start), n);
            prop_assert_eq!(moved.is_after(start), n > 0);
            prop_assert_eq!(moved.is_before(start), n < 0);
            prop_assert!(moved.is_within(start, n.unsigned_abs()));
            prop_assert!(n == 0 || !moved.is_within(start, n.unsigned_abs() - 1));
        }
    }
}
