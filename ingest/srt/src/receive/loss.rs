//! What is missing and when to ask for it.
//!
//! One entry per missing number, in order. Filling a gap does not touch this list: an entry whose slot is no
//! longer missing is dropped at the next scan, so reordering costs nothing per packet. Promise: an entry is
//! reported at its due time and then once per `again`, never all of them at every tick; never more entries than
//! the flow window, all made at creation.

use super::buffer::Buffer;
use crate::packet::LossListWriter;
use crate::seq::Seq;
use crate::time::{Micros, NEVER};
use std::collections::VecDeque;

#[derive(Debug)]
struct Loss {
    seq: Seq,
    due_at: Micros,
    reported: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Losses {
    list: VecDeque<Loss>,
    /// Earliest due time; may be that of an entry which has been filled since.
    next_at: Micros,
    entries_max: usize,
}

impl Losses {
    pub(crate) fn new(entries_max: usize) -> Self {
        Self { list: VecDeque::with_capacity(entries_max), next_at: NEVER, entries_max }
    }

    /// When to call [`Losses::report`].
    pub(crate) fn next_at(&self) -> Micros {
        self.next_at
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// `seq`, later than all in the list, is missing; ask for it at `due_at`.
    pub(crate) fn add(&mut self, seq: Seq, due_at: Micros, buffer: &Buffer) {
        if self.list.len() >= self.entries_max {
            self.list.retain(|loss| buffer.is_missing(loss.seq));
        }
        if self.list.len() < self.entries_max {
            self.list.push_back(Loss { seq, due_at, reported: false });
            self.next_at = self.next_at.min(due_at);
        }
    }

    /// What comes before `floor` and was not reported yet is asked for at `due_at` at the latest.
    pub(crate) fn hasten(&mut self, from: Seq, floor: Seq, due_at: Micros) {
        let start = self.list.partition_point(|loss| loss.seq.is_before(from));
        for loss in self.list.range_mut(start..) {
            if !loss.seq.is_before(floor) {
                break;
            }
            if !loss.reported && loss.due_at > due_at {
                loss.due_at = due_at;
                self.next_at = self.next_at.min(due_at);
            }
        }
    }

    /// `seq` has been asked for.
    pub(crate) fn is_reported(&self, seq: Seq) -> bool {
        let at = self.list.partition_point(|loss| loss.seq.is_before(seq));
        self.list.get(at).is_some_and(|loss| loss.seq == seq && loss.reported)
    }

    /// Writes what is due to `writer`; those are due again after `again`. Returns how many were written, and how
    /// many of them for the first time.
    pub(crate) fn report(
        &mut self,
        now: Micros,
        again: Micros,
        buffer: &Buffer,
        mut writer: LossListWriter<'_>,
    ) -> (usize, u64) {
        let mut next_at = NEVER;
        let mut first_reports = 0;
        let mut full = false;
        self.list.retain_mut(|loss| {
            if !buffer.is_missing(loss.seq) {
                return false;
            }
            if loss.due_at <= now && !full {
                if writer.push(loss.seq) {
                    loss.due_at = now + again;
                    first_reports += u64::from(!loss.reported);
                    loss.reported = true;
                } else {
                    full = true;
                }
            }
            next_at = next_at.min(loss.due_at);
            true
        });
        self.next_at = next_at;
        (writer.finish(), first_reports)
    }
}

#[cfg(test)]
mod tests {
    use super::super::buffer::Received;
    use super::*;
    use crate::packet::LossList;
    use bytes::Bytes;

    fn buffer_with(present: &[u32]) -> Buffer {
        let mut buffer = Buffer::new(Seq::new(0), 8192, 64);
        for seq in present {
            let received = Received { payload: Bytes::new(), due_at: 0, source_us: 0 };
            assert!(buffer.insert(0, Seq::new(*seq), false, Some(received)));
        }
        buffer
    }

    fn report(losses: &mut Losses, now: Micros, buffer: &Buffer, room: usize) -> Vec<(u32, u32)> {
        let mut out = vec![0; room];
        let (len, _) = losses.report(now, 100, buffer, LossListWriter::new(&mut out));
        LossList::new(&out[..len]).map(|range| range.unwrap()).map(|(a, b)| (a.get(), b.get())).collect()
    }

    #[test]
    fn each_loss_is_reported_once_per_interval_and_filled_ones_not_at_all() {
        let mut buffer = buffer_with(&[0, 5]);
        let mut losses = Losses::new(100);
        for seq in 1..5 {
            losses.add(Seq::new(seq), if seq < 3 { 10 } else { 20 }, &buffer);
        }
        assert_eq!(losses.next_at(), 10);
        assert_eq!(report(&mut losses, 9, &buffer, 100), []);
        assert_eq!(report(&mut losses, 10, &buffer, 100), [(1, 2)]);
        assert!(losses.is_reported(Seq::new(1)) && !losses.is_reported(Seq::new(3)));
        buffer.insert(
            15,
            Seq::new(3),
            false,
            Some(Received { payload: Bytes::new(), due_at: 0, source_us: 0 }),
        );
        assert_eq!(report(&mut losses, 20, &buffer, 100), [(4, 4)]);
        assert_eq!(report(&mut losses, 110, &buffer, 100), [(1, 2)]);
        assert_eq!(losses.next_at(), 120);
    }

    #[test]
    fn hastening_touches_only_what_all_paths_passed() {
        let buffer = buffer_with(&[0, 5]);
        let mut losses = Losses::new(100);
        for seq in 1..5 {
            losses.add(Seq::new(seq), 1000, &buffer);
        }
        losses.hasten(Seq::new(0), Seq::new(3), 50);
        assert_eq!(losses.next_at(), 50);
        assert_eq!(report(&mut losses, 50, &buffer, 100), [(1, 2)]);
    }

    #[test]
    fn a_full_packet_leaves_the_rest_due() {
        let mut buffer = buffer_with(&[0]);
        let mut losses = Losses::new(1000);
        for seq in (1..200).step_by(2) {
            let received = Received { payload: Bytes::new(), due_at: 0, source_us: 0 };
            buffer.insert(0, Seq::new(seq + 1), false, Some(received));
            losses.add(Seq::new(seq), 0, &buffer);
        }
        let first = report(&mut losses, 0, &buffer, 100);
        assert!(first.len() >= 20 && first.len() < 26);
        assert_eq!(losses.next_at(), 0);
        assert_eq!(report(&mut losses, 0, &buffer, 1000).len(), 100 - first.len());
    }
}
