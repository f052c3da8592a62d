//! Moments as the records keep them: eight bytes, and none is "no moment".
//!
//! The caller's clock is an [`Instant`]; here it becomes nanoseconds, once per call. Promise: the order of any two moments
//! within an hour before the receiver was made and centuries after is that of their instants.

use std::num::NonZeroU64;
use std::ops::Add;
use std::time::{Duration, Instant};

/// What the beginning counts as, so that moments before it have room.
const HEAD_ROOM_NS: u64 = 3600 * 1_000_000_000;

/// A moment, as nanoseconds on the scale of one [`Origin`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Time(NonZeroU64);

impl Time {
    fn of_ns(ns: u64) -> Self {
        Self(NonZeroU64::new(ns).unwrap_or(NonZeroU64::MIN))
    }

    /// From [`Time::ns`]; 0 is no moment.
    pub(super) fn from_ns(ns: u64) -> Option<Self> {
        NonZeroU64::new(ns).map(Self)
    }

    /// As a plain number, never 0.
    pub(super) fn ns(self) -> u64 {
        self.0.get()
    }

    /// How long after `earlier` this is; zero if it is not.
    pub(super) fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.since_ns(earlier))
    }

    /// The same in nanoseconds.
    pub(super) fn since_ns(self, earlier: Self) -> u64 {
        self.ns().saturating_sub(earlier.ns())
    }

    /// This many nanoseconds later.
    pub(super) fn plus_ns(self, ns: u64) -> Self {
        Self::of_ns(self.ns().saturating_add(ns))
    }
}

impl Add<Duration> for Time {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        self.plus_ns(duration.as_secs().saturating_mul(1_000_000_000) + u64::from(duration.subsec_nanos()))
    }
}

/// Where a scale of [`Time`] begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin(Instant);

impl Origin {
    pub(super) fn new(at: Instant) -> Self {
        Self(at)
    }

    pub(super) fn time(self, at: Instant) -> Time {
        let ns = |span: Duration| span.as_secs() * 1_000_000_000 + u64::from(span.subsec_nanos());
        Time::of_ns(match at.checked_duration_since(self.0) {
            Some(after) => HEAD_ROOM_NS + ns(after),
            None => HEAD_ROOM_NS.saturating_sub(ns(self.0.saturating_duration_since(at))),
        })
    }

    pub(super) fn instant(self, time: Time) -> Instant {
        let since = Duration::from_nanos(time.ns().saturating_sub(HEAD_ROOM_NS));
        let before = Duration::from_nanos(HEAD_ROOM_NS.saturating_sub(time.ns()));
        (self.0 + since).checked_sub(before).unwrap_or(self.0)
    }
}

#[cfg(test)]
impl Time {
    /// Some moment.
    pub(super) fn any() -> Self {
        Self::of_ns(HEAD_ROOM_NS)
    }

    pub(super) fn minus(self, duration: Duration) -> Self {
        Self::of_ns(self.ns() - duration.as_nanos() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let start = Instant::now() + Duration::from_hours(2);
        let origin = Origin::new(start);
        let before = start.checked_sub(Duration::from_millis(1500)).unwrap();
        for at in [before, start, start + Duration::from_nanos(1), start + Duration::from_hours(100_000)] {
            assert_eq!(origin.instant(origin.time(at)), at);
        }
        assert_eq!(origin.time(start).since(origin.time(before)), Duration::from_millis(1500));
        assert_eq!(origin.time(before).since_ns(origin.time(start)), 0);
        assert_eq!(origin.time(start) + Duration::from_secs(3), origin.time(start + Duration::from_secs(3)));
        let long_before = start.checked_sub(Duration::from_secs(7000)).unwrap();
        assert!(origin.time(long_before) < origin.time(before), "too early still is early");
        assert_eq!(size_of::<Option<Time>>(), 8);
    }
}
