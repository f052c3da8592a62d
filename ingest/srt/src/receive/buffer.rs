//! The receive buffer: one slot per sequence number from the next to deliver to the highest seen.
//!
//! It knows what is there, what is missing and what was given up; it knows nothing of time except the stamps it
//! is handed. Promises: never more slots than the flow window; what is made at creation is doubled when a stream needs
//! more, and never made smaller; payloads leave in order, once each; insertion and removal cost O(1) amortised.

use crate::seq::Seq;
use crate::time::{Micros, NEVER};
use bytes::Bytes;
use std::collections::VecDeque;

/// A payload with its stamps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) payload: Bytes,
    /// When it is to be delivered.
    pub(crate) due_at: Micros,
    /// The sender's time of it, microseconds since the sender's start, unwrapped.
    pub(crate) source_us: i64,
}

#[derive(Debug)]
enum State {
    /// Not seen yet.
    Missing,
    /// Here. `retransmitted`: what filled the gap was a retransmission.
    Received { received: Received, retransmitted: bool },
    /// Will never come, or came in a form that cannot be used.
    Void,
}

/// One cache line.
#[derive(Debug)]
#[repr(align(64))]
struct Slot {
    /// When a later packet showed that this one is missing; [`NEVER`] when it came in order.
    gap_at: Micros,
    state: State,
}

const _: () = assert!(size_of::<Slot>() == 64);

impl Slot {
    fn missing_since(gap_at: Micros) -> Self {
        Self { gap_at, state: State::Missing }
    }
}

/// What a sequence number would mean to the buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// After all seen so far; `missing` numbers are skipped.
    New { missing: u32 },
    /// Fills a gap that was noticed then.
    Fills { gap_at: Micros },
    /// Is there already. `gap_at` when the first transmission of a packet comes after its retransmission.
    Duplicate { gap_at: Option<Micros> },
    /// Its place was delivered or given up.
    Belated,
    /// Further ahead than the window allows.
    Beyond,
}

/// What left the buffer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Popped {
    /// A payload.
    Data(Received),
    /// So many numbers never came in time.
    Skipped(u32),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Buffer {
    /// Sequence number of `slots[0]`.
    base: Seq,
    slots: VecDeque<Slot>,
    window: usize,
    /// How many slots hold a payload.
    received: usize,
    /// Offset of the first of them; without meaning when there is none.
    lead: usize,
    /// First number that is missing: what an ACK says.
    ack_next: Seq,
}

impl Buffer {
    /// Never more than `window` slots, `slots` to begin with.
    pub(crate) fn new(isn: Seq, window: usize, slots: usize) -> Self {
        let window = window.max(1);
        let slots = VecDeque::with_capacity(slots.min(window));
        Self { base: isn, slots, window, received: 0, lead: 0, ack_next: isn }
    }

    /// First number not received: all before it was received or given up.
    pub(crate) fn ack_next(&self) -> Seq {
        self.ack_next
    }

    /// Slots in use.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Slots left in the window.
    pub(crate) fn free(&self) -> usize {
        self.window.saturating_sub(self.slots.len())
    }

    /// No payload is waiting.
    pub(crate) fn is_empty(&self) -> bool {
        self.received == 0
    }

    /// One past the highest number seen.
    pub(crate) fn end(&self) -> Seq {
        self.base.add(self.slots.len() as u32)
    }

    fn slot(&self, seq: Seq) -> Option<&Slot> {
        self.slots.get(usize::try_from(seq.distance(self.base)).ok()?)
    }

    /// Still to come.
    pub(crate) fn is_missing(&self, seq: Seq) -> bool {
        self.slot(seq).is_some_and(|slot| matches!(slot.state, State::Missing))
    }

    pub(crate) fn place(&self, seq: Seq) -> Place {
        let Ok(offset) = usize::try_from(seq.distance(self.base)) else {
            return Place::Belated;
        };
        if offset >= self.window {
            return Place::Beyond;
        }
        match self.slots.get(offset) {
            None => Place::New { missing: (offset - self.slots.len()) as u32 },
            Some(Slot { state: State::Missing, gap_at }) => Place::Fills { gap_at: *gap_at },
            Some(Slot { state: State::Received { retransmitted: true, .. }, gap_at }) => {
                Place::Duplicate { gap_at: Some(*gap_at).filter(|at| *at != NEVER) }
            }
            Some(_) => Place::Duplicate { gap_at: None },
        }
    }

    /// Puts a packet in its place; `None` stands for one that cannot be used and must not be asked for again.
    /// `false` when there is no such place (belated, beyond the window, already there).
    pub(crate) fn insert(
        &mut self,
        now: Micros,
        seq: Seq,
        retransmitted: bool,
        received: Option<Received>,
    ) -> bool {
        if !matches!(self.place(seq), Place::New { .. } | Place::Fills { .. }) {
            return false;
        }
        let Ok(offset) = usize::try_from(seq.distance(self.base)) else { return false };
        while self.slots.len() < offset {
            self.slots.push_back(Slot::missing_since(now));
        }
        if self.slots.len() == offset {
            self.slots.push_back(Slot::missing_since(NEVER));
        }
        let Some(slot) = self.slots.get_mut(offset) else { return false };
        slot.state = match received {
            Some(received) => {
                if self.received == 0 || offset < self.lead {
                    self.lead = offset;
                }
                self.received += 1;
                State::Received { received, retransmitted }
            }
            None => State::Void,
        };
        self.advance_ack();
        true
    }

    /// Forgets that a gap was filled by a retransmission, so that its original is measured once only.
    pub(crate) fn settle(&mut self, seq: Seq) {
        let Ok(offset) = usize::try_from(seq.distance(self.base)) else { return };
        if let Some(slot) = self.slots.get_mut(offset) {
            slot.gap_at = NEVER;
        }
    }

    /// The sender gives up `first..=last`: what is missing of it will not come. Returns how many numbers that
    /// were. Numbers outside the window are ignored.
    pub(crate) fn give_up(&mut self, now: Micros, first: Seq, last: Seq) -> u32 {
        let end = last.distance(self.base);
        if end < 0 || end as usize >= self.window || last.is_before(first) {
            return 0;
        }
        while self.slots.len() <= end as usize {
            self.slots.push_back(Slot::missing_since(now));
        }
        let start = first.distance(self.base).max(0) as usize;
        let mut count = 0;
        for slot in self.slots.range_mut(start..=end as usize) {
            if matches!(slot.state, State::Missing) {
                slot.state = State::Void;
                count += 1;
            }
        }
        self.advance_ack();
        count
    }

    /// Empty and far behind: start again at `seq`. Returns how many numbers were skipped. Only when no payload
    /// is waiting.
    pub(crate) fn restart(&mut self, seq: Seq) -> u32 {
        debug_assert!(self.is_empty());
        let skipped = seq.distance(self.base).max(0) as u32;
        self.slots.clear();
        self.base = seq;
        self.ack_next = seq;
        skipped
    }

    fn advance_ack(&mut self) {
        while self.slot(self.ack_next).is_some_and(|slot| !matches!(slot.state, State::Missing)) {
            self.ack_next = self.ack_next.next();
        }
    }

    /// When the next payload is due.
    pub(crate) fn next_due(&self) -> Option<Micros> {
        match self.slots.get(self.lead)?.state {
            State::Received { ref received, .. } if self.received > 0 => Some(received.due_at),
            _ => None,
        }
    }

    /// The next payload that is due at `now`, or how many numbers are skipped before it. `None`: nothing to do.
    pub(crate) fn pop(&mut self, now: Micros) -> Option<Popped> {
        let due = self.next_due().is_some_and(|due_at| due_at <= now);
        if due && self.lead == 0 {
            let Some(Slot { state: State::Received { received, .. }, .. }) = self.pop_front() else {
                return None;
            };
            self.received -= 1;
            self.find_lead();
            return Some(Popped::Data(received));
        }
        let count = if due {
            self.lead
        } else {
            // What was given up at the head need not wait for anyone.
            self.slots.iter().take_while(|slot| matches!(slot.state, State::Void)).count()
        };
        if count == 0 {
            return None;
        }
        for _ in 0..count {
            self.pop_front();
        }
        self.lead = self.lead.saturating_sub(count);
        Some(Popped::Skipped(count as u32))
    }

    fn pop_front(&mut self) -> Option<Slot> {
        let slot = self.slots.pop_front()?;
        self.base = self.base.next();
        if self.ack_next.is_before(self.base) {
            self.ack_next = self.base;
        }
        self.advance_ack();
        Some(slot)
    }

    fn find_lead(&mut self) {
        self.lead = 0;
        if self.received > 0 {
            self.lead =
                self.slots.iter().position(|slot| matches!(slot.state, State::Received { .. })).unwrap_or(0);
        }
    }
}
