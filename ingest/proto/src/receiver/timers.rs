//! Deadlines of constant duration.
//!
//! Every timeout class of the receiver has one duration, so deadlines expire in the order they were armed and a linked
//! list per class is a complete timer: arming, disarming and asking for the next deadline are O(1). Promises: no
//! allocation after creation, deadlines within a class never go backwards even if the caller's clock does.

use std::time::{Duration, Instant};

const NONE: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Node {
    deadline: Option<Instant>,
    previous: u32,
    next: u32,
}

/// One class of deadlines over the slots `0..slots`, at most one per slot.
pub(super) struct Deadlines {
    duration: Duration,
    nodes: Box<[Node]>,
    head: u32,
    tail: u32,
}

impl Deadlines {
    pub(super) fn new(duration: Duration, slots: usize) -> Self {
        let idle = Node { deadline: None, previous: NONE, next: NONE };
        Self { duration, nodes: vec![idle; slots].into_boxed_slice(), head: NONE, tail: NONE }
    }

    /// Sets `slot`'s deadline to `now` plus the class's duration, replacing an earlier one.
    pub(super) fn arm(&mut self, slot: u32, now: Instant) {
        self.disarm(slot);
        let mut deadline = now + self.duration;
        if let Some(last) = self.at(self.tail) {
            deadline = deadline.max(last);
        }
        let tail = self.tail;
        let Some(node) = self.nodes.get_mut(slot as usize) else { return };
        *node = Node { deadline: Some(deadline), previous: tail, next: NONE };
        match self.nodes.get_mut(tail as usize) {
            Some(last) => last.next = slot,
            None => self.head = slot,
        }
        self.tail = slot;
    }

    /// Forgets `slot`'s deadline, if it has one.
    pub(super) fn disarm(&mut self, slot: u32) {
        let Some(node) = self.nodes.get_mut(slot as usize) else { return };
        if node.deadline.take().is_none() {
            return;
        }
        let Node { previous, next, .. } = *node;
        match self.nodes.get_mut(previous as usize) {
            Some(node) => node.next = next,
            None => self.head = next,
        }
        match self.nodes.get_mut(next as usize) {
            Some(node) => node.previous = previous,
            None => self.tail = previous,
        }
    }

    /// `slot` has a deadline.
    #[cfg(test)]
    pub(super) fn is_armed(&self, slot: u32) -> bool {
        self.at(slot).is_some()
    }

    /// The earliest deadline.
    pub(super) fn next(&self) -> Option<Instant> {
        self.at(self.head)
    }

    /// The slot armed longest ago.
    pub(super) fn oldest(&self) -> Option<u32> {
        (self.head != NONE).then_some(self.head)
    }

    /// Takes one slot whose deadline is due.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<u32> {
        let slot = self.oldest().filter(|_| self.next().is_some_and(|deadline| deadline <= now))?;
        self.disarm(slot);
        Some(slot)
    }

    fn at(&self, slot: u32) -> Option<Instant> {
        self.nodes.get(slot as usize).and_then(|node| node.deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn behaves_like_a_sorted_vec(ops in prop::collection::vec((0u8..4, 0u32..8, 0u64..40), 0..300)) {
            let start = Instant::now();
            let mut now = start;
            let mut timers = Deadlines::new(Duration::from_millis(50), 8);
            let mut oracle: Vec<(Instant, u32)> = Vec::new();
            for (op, slot, step) in ops {
                now += Duration::from_millis(step);
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
        let t0 = Instant::now() + Duration::from_secs(10);
        let mut timers = Deadlines::new(Duration::from_secs(1), 2);
        timers.arm(0, t0);
        timers.arm(1, t0.checked_sub(Duration::from_secs(5)).unwrap());
        assert_eq!(timers.pop_due(t0 + Duration::from_millis(999)), None);
        assert_eq!(timers.pop_due(t0 + Duration::from_secs(1)), Some(0));
        assert_eq!(timers.pop_due(t0 + Duration::from_secs(1)), Some(1));
    }
}
