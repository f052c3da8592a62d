//! Sequence and message numbers: serial arithmetic in newtypes.
//!
//! Packet sequence numbers are 31 bits, message numbers 26 bits; both wrap, and neither may ever be compared
//! as a plain integer. These types promise that every value is within its range and that order is decided by
//! the half-range rule.

/// 31-bit packet sequence number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Seq(u32);

impl Seq {
    /// Largest value, 2^31 - 1.
    pub const MAX: u32 = 0x7FFF_FFFF;

    /// Takes the low 31 bits of `value`.
    pub const fn new(value: u32) -> Self {
        Self(value & Self::MAX)
    }

    /// The number as it stands on the wire.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The number `count` places further on, with wrap.
    #[must_use]
    pub const fn add(self, count: u32) -> Self {
        Self(self.0.wrapping_add(count) & Self::MAX)
    }

    /// The number `count` places back, with wrap.
    #[must_use]
    pub const fn sub(self, count: u32) -> Self {
        Self(self.0.wrapping_sub(count) & Self::MAX)
    }

    /// The next number.
    #[must_use]
    pub const fn next(self) -> Self {
        self.add(1)
    }

    /// How many places `self` lies after `earlier`; negative when it lies before. Half the number range is
    /// "after", so the result is in -2^30 ..= 2^30 - 1.
    pub const fn distance(self, earlier: Self) -> i32 {
        (self.0.wrapping_sub(earlier.0) << 1) as i32 >> 1
    }

    /// `self` comes before `other`.
    pub const fn is_before(self, other: Self) -> bool {
        self.distance(other) < 0
    }

    /// The later of the two.
    #[must_use]
    pub const fn later(self, other: Self) -> Self {
        if self.is_before(other) { other } else { self }
    }

    /// The earlier of the two.
    #[must_use]
    pub const fn earlier(self, other: Self) -> Self {
        if self.is_before(other) { self } else { other }
    }
}

/// 26-bit message number; counts from 1 and skips 0, which on the wire means "unknown".
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct MsgNo(u32);

impl MsgNo {
    /// Largest value, 2^26 - 1.
    pub const MAX: u32 = 0x03FF_FFFF;
    /// The number of a connection's first message.
    pub const FIRST: Self = Self(1);

    /// Takes the low 26 bits of `value`.
    pub const fn new(value: u32) -> Self {
        Self(value & Self::MAX)
    }

    /// The number as it stands on the wire.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The next number; 1 follows the largest.
    #[must_use]
    pub const fn next(self) -> Self {
        if self.0 == Self::MAX { Self::FIRST } else { Self(self.0 + 1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn wraps_at_the_ends() {
        assert_eq!(Seq::new(Seq::MAX).next(), Seq::new(0));
        assert_eq!(Seq::new(0).sub(1), Seq::new(Seq::MAX));
        assert_eq!(Seq::new(3).distance(Seq::new(Seq::MAX)), 4);
        assert!(Seq::new(Seq::MAX).is_before(Seq::new(0)));
        assert_eq!(MsgNo::new(MsgNo::MAX).next(), MsgNo::FIRST);
        assert_eq!(Seq::new(0xFFFF_FFFF).get(), Seq::MAX);
    }

    proptest! {
        /// Oracle: arithmetic on i64 positions, reduced at the end.
        #[test]
        fn distance_agrees_with_plain_integers(start in 0i64..(1 << 33), step in -(1i64 << 29)..(1 << 29)) {
            let a = Seq::new((start.rem_euclid(1 << 31)) as u32);
            let b = Seq::new(((start + step).rem_euclid(1 << 31)) as u32);
            prop_assert_eq!(i64::from(b.distance(a)), step);
            prop_assert_eq!(b.is_before(a), step < 0);
            prop_assert_eq!(a.later(b), if step < 0 { a } else { b });
            if step >= 0 { prop_assert_eq!(a.add(step as u32), b); } else { prop_assert_eq!(a.sub((-step) as u32), b); }
        }
    }
}
