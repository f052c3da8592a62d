//! The receive buffer against a naive oracle: a map of everything that was ever put in.

use super::buffer::{Buffer, Place, Popped, Received};
use crate::seq::Seq;
use crate::time::Micros;
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::BTreeMap;

const WINDOW: i64 = 64;

/// Positions are plain integers here; they become sequence numbers (and wrap) at the edge only.
#[derive(Default)]
struct Oracle {
    /// Next position to deliver.
    base: i64,
    /// One past the highest position seen.
    end: i64,
    /// Present: due time, whether by retransmission; `None`: given up.
    slots: BTreeMap<i64, Option<(Micros, bool)>>,
    gap_at: BTreeMap<i64, Micros>,
}

impl Oracle {
    fn place(&self, at: i64) -> Place {
        if at < self.base {
            return Place::Belated;
        }
        if at >= self.base + WINDOW {
            return Place::Beyond;
        }
        if at >= self.end {
            return Place::New { missing: (at - self.end) as u32 };
        }
        match self.slots.get(&at) {
            None => Place::Fills { gap_at: self.gap_at[&at] },
            Some(Some((_, true))) => Place::Duplicate { gap_at: self.gap_at.get(&at).copied() },
            Some(_) => Place::Duplicate { gap_at: None },
        }
    }

    fn reach(&mut self, now: Micros, end: i64) {
        for at in self.end..end {
            self.gap_at.insert(at, now);
        }
        self.end = self.end.max(end);
    }

    fn ack_next(&self) -> i64 {
        (self.base..=self.end).find(|at| !self.slots.contains_key(at)).unwrap()
    }

    /// Positions delivered (`Ok`) and skipped (`Err`) when time is `now`.
    fn pop_all(&mut self, now: Micros) -> Vec<Result<i64, u32>> {
        let mut out = Vec::new();
        loop {
            let first = self.slots.iter().find_map(|(at, slot)| slot.map(|(due_at, _)| (*at, due_at)));
            let skip_to = match first {
                Some((at, due_at)) if due_at <= now => at,
                // Only what was given up right at the head may go.
                _ => (self.base..=self.end).find(|at| self.slots.get(at) != Some(&None)).unwrap(),
            };
            if skip_to > self.base {
                out.push(Err((skip_to - self.base) as u32));
                self.slots = self.slots.split_off(&skip_to);
                self.base = skip_to;
            }
            match first {
                Some((at, due_at)) if due_at <= now => {
                    out.push(Ok(at));
                    self.slots.remove(&at);
                    self.base = at + 1;
                }
                _ => {
                    self.end = self.end.max(self.base);
                    return out;
                }
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// Position relative to the next to deliver, retransmitted, playable, delay until due.
    Insert(i64, bool, bool, Micros),
    GiveUp(i64, i64),
    /// Time passes and what is due leaves.
    Pop(Micros),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (-5i64..80, any::<bool>(), prop::bool::weighted(0.9), 0i64..200)
            .prop_map(|(at, again, playable, delay)| Step::Insert(at, again, playable, delay)),
        1 => (-5i64..70, 0i64..10).prop_map(|(at, len)| Step::GiveUp(at, at + len)),
        3 => (0i64..60).prop_map(Step::Pop),
    ]
}

proptest! {
    #[test]
    fn buffer_agrees_with_the_oracle(isn in prop_oneof![Just(0u32), Just(Seq::MAX - 20), 0..=Seq::MAX], steps in prop::collection::vec(step(), 1..200)) {
        let mut buffer = Buffer::new(Seq::new(isn), WINDOW as usize, 8);
        let mut oracle = Oracle::default();
        let seq = |at: i64| if at < 0 { Seq::new(isn).sub(-at as u32) } else { Seq::new(isn).add(at as u32) };
        let mut now = 0;
        for step in steps {
            match step {
                Step::Insert(relative, retransmitted, playable, delay) => {
                    let at = oracle.base + relative;
                    let place = oracle.place(at);
                    prop_assert_eq!(buffer.place(seq(at)), place);
                    let received = playable.then(|| Received {
                        payload: Bytes::copy_from_slice(&at.to_be_bytes()),
                        due_at: now + delay,
                        source_us: at,
                    });
                    let taken = buffer.insert(now, seq(at), retransmitted, received);
                    prop_assert_eq!(taken, matches!(place, Place::New { .. } | Place::Fills { .. }));
                    if taken {
                        oracle.reach(now, at);
                        oracle.end = oracle.end.max(at + 1);
                        oracle.slots.insert(at, playable.then_some((now + delay, retransmitted)));
                    }
                }
                Step::GiveUp(first, last) => {
                    let (first, last) = (oracle.base + first, oracle.base + last);
                    let mut count = 0;
                    if last >= oracle.base && last < oracle.base + WINDOW {
                        oracle.reach(now, last + 1);
                        for at in first.max(oracle.base)..=last {
                            if let std::collections::btree_map::Entry::Vacant(slot) = oracle.slots.entry(at) {
                                slot.insert(None);
                                count += 1;
                            }
                        }
                    }
                    prop_assert_eq!(buffer.give_up(now, seq(first), seq(last)), count);
                }
                Step::Pop(time) => {
                    now += time;
                    let mut popped = Vec::new();
                    while let Some(item) = buffer.pop(now) {
                        match item {
                            Popped::Data(received) => popped.push(Ok(received.source_us)),
                            Popped::Skipped(count) => popped.push(Err(count)),
                        }
                    }
                    prop_assert_eq!(popped, oracle.pop_all(now));
                }
            }
            prop_assert_eq!(buffer.ack_next(), seq(oracle.ack_next()));
            prop_assert_eq!(buffer.end(), seq(oracle.end));
            prop_assert!(buffer.len() <= WINDOW as usize);
            prop_assert_eq!(buffer.free(), WINDOW as usize - buffer.len());
            let first = oracle.slots.values().find_map(|slot| *slot);
            prop_assert_eq!(buffer.next_due(), first.map(|(due_at, _)| due_at));
            for at in oracle.base..oracle.end {
                prop_assert_eq!(buffer.is_missing(seq(at)), !oracle.slots.contains_key(&at));
            }
        }
    }
}
