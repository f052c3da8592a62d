//! Deadlines of constant duration.
//!
//! Every timeout class of the receiver has one duration, so deadlines expire in the order they were armed and a linked
//! list per class is a complete timer: arming, disarming and asking for the next deadline are O(1). Promises: no
//! allocation after creation, deadlines within a class never go backwards even if the caller's clock does.

use super::time::Time;
use std::time::Duration;

/// A deadline in nanoseconds, and the slots before and after it, each plus one; 0 is none. An array of these is all zeros,
/// which the system gives without the memory behind it: slots that never have a deadline take none.
type Node = (u64, u32, u32);

/// One class of deadlines over the slots `0..slots`, at most one per slot.
pub(super) struct Deadlines {
    duration: Duration,
    nodes: Box<[Node]>,
    /// First and last slot, each plus one.
    head: u32,
    tail: u32,
}

impl Deadlines {
    pub(super) fn new(duration: Duration, slots: usize) -> Self {
        Self { duration, nodes: vec![(0, 0, 0); slots].into_boxed_slice(), head: 0, tail: 0 }
    }

    /// Sets `slot`'s deadline to `now` plus the class's duration, replacing an earlier one.
    pub(super) fn arm(&mut self, slot: u32, now: Time) {
        self.disarm(slot);
        let mut deadline = now + self.duration;
        if let Some(last) = self.at(self.tail) {
            deadline = deadline.max(last);
        }
        let tail = self.tail;
        let Some(node) = self.nodes.get_mut(slot as usize) else { return };
        *node = (deadline.ns(), tail, 0);
        match self.node(tail) {
            Some((.., next)) => *next = slot + 1,
            None => self.head = slot + 1,
        }
        self.tail = slot + 1;
    }

    /// Forgets `slot`'s deadline, if it has one.
    pub(super) fn disarm(&mut self, slot: u32) {
        let Some((deadline, previous, next)) = self.nodes.get_mut(slot as usize) else { return };
        if *deadline == 0 {
            return;
        }
        *deadline = 0;
        let (previous, next) = (*previous, *next);
        match self.node(previous) {
            Some((.., after)) => *after = next,
            None => self.head = next,
        }
        match self.node(next) {
            Some((_, before, _)) => *before = previous,
            None => self.tail = previous,
        }
    }

    /// `slot` has a deadline.
    #[cfg(test)]
    pub(super) fn is_armed(&self, slot: u32) -> bool {
        self.at(slot + 1).is_some()
    }

    /// The earliest deadline.
    pub(super) fn next(&self) -> Option<Time> {
        self.at(self.head)
    }

    /// The slot armed longest ago.
    pub(super) fn oldest(&self) -> Option<u32> {
        self.head.checked_sub(1)
    }

    /// Takes one slot whose deadline is due.
    pub(super) fn pop_due(&mut self, now: Time) -> Option<u32> {
        let slot = self.oldest().filter(|_| self.next().is_some_and(|deadline| deadline <= now))?;
        self.disarm(slot);
        Some(slot)
    }

    /// The node of a slot, given plus one.
    fn node(&mut self, place: u32) -> Option<&mut Node> {
        self.nodes.get_mut(place.checked_sub(1)? as usize)
    }

    fn at(&self, place: u32) -> Option<Time> {
        Time::from_ns(self.nodes.get(place.checked_sub(1)? as usize)?.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn behaves_like_a_sorted_vec(ops in prop::collection::vec((0u8..4, 0u32..8, 0u64..40), 0..300)) {
            let start = Time::any();
            let mut now = start;
            let mut timers = Deadlines::new(Duration::from_millis(50), 8);
            let mut oracle: Vec<(Time, u32)> = Vec::new();
            for (op, slot, step) in ops {
                now = now + Duration::from_millis(step);
                match op {
                    0 | 1 => {
                        timers.arm(slot, now);
                        oracle.retain(|entry| entry.1 != slot);
                        oracle.push((now + Duration::from_millis(50), slot));
                    }
                    2 => {
                        timers.disarm(slot);
                        oracle.retain(|entry| entry.1 != slot);
                    }
                    _ => {
                        while let Some(due) = timers.pop_due(now) {
                            prop_assert!(oracle[0].0 <= now);
                            prop_assert_eq!(due, oracle.remove(0).1);
                        }
                        prop_assert!(oracle.first().is_none_or(|entry| entry.0 > now));
                    }
                }
                prop_assert_eq!(timers.next(), oracle.first().map(|entry| entry.0));
                prop_assert_eq!(timers.oldest(), oracle.first().map(|entry| entry.1));
                for slot in 0..8 {
                    prop_assert_eq!(timers.is_armed(slot), oracle.iter().any(|entry| entry.1 == slot));
                }
            }
        }
    }

    #[test]
    fn a_clock_that_goes_back_keeps_the_order() {
        let t0 = Time::any() + Duration::from_secs(10);
        let mut timers = Deadlines::new(Duration::from_secs(1), 2);
        timers.arm(0, t0);
        timers.arm(1, t0.minus(Duration::from_secs(5)));
        assert_eq!(timers.pop_due(t0 + Duration::from_millis(999)), None);
        assert_eq!(timers.pop_due(t0 + Duration::from_secs(1)), Some(0));
        assert_eq!(timers.pop_due(t0 + Duration::from_secs(1)), Some(1));
    }
}
