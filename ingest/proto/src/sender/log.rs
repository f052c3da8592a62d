//! Which data packet went out on which link, when, and what is still in flight.
//!
//! One ring for the whole sender, indexed by the sequence number's low bits: the owner of an acknowledged number is found
//! in O(1). A slot remembers the newest transmission of its number and one other (a copy on a second link, or the
//! transmission before), so late acknowledgements still find their link. Promise: fixed size; wraps with the 31-bit
//! numbers; a number outside the window the ring covers is never believed; cumulative ACKs cost amortised O(1) per packet.

use super::LINKS_MAX;
use crate::Seq;
use crate::wire::NakRange;

const NO_LINK: u8 = u8::MAX;
const EMPTY: u32 = u32::MAX;

/// One transmission of a packet on one link.
#[derive(Clone, Copy, Debug)]
struct Transmission {
    link: u8,
    /// The link's epoch at that time; a transmission from before a rebind is nobody's.
    epoch: u8,
    is_in_flight: bool,
    is_acked: bool,
    ordinal: u32,
    /// Low 32 bits of the microsecond clock.
    sent_us: u32,
}

const NONE: Transmission =
    Transmission { link: NO_LINK, epoch: 0, is_in_flight: false, is_acked: false, ordinal: 0, sent_us: 0 };

#[derive(Clone, Copy, Debug)]
struct Slot {
    seq: u32,
    len: u16,
    is_naked: bool,
    /// The newest transmission is the second one of this number or later: its RTT would be ambiguous.
    is_repeated: bool,
    newest: Transmission,
    other: Transmission,
}

const EMPTY_SLOT: Slot =
    Slot { seq: EMPTY, len: 0, is_naked: false, is_repeated: false, newest: NONE, other: NONE };

/// What one link has in flight.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(super) struct Flight {
    /// Packets sent and neither acknowledged, superseded, nor covered by a cumulative ACK.
    pub packets: u32,
    /// Their bytes, headers of SRT included, of UDP and IP not.
    pub bytes: u32,
    epoch: u8,
    next_ordinal: u32,
}

/// What an SRTLA ACK number was found to acknowledge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Acked {
    /// Bytes of the packet.
    pub bytes: u16,
    /// The link's own running number of that transmission.
    pub ordinal: u32,
    /// Microseconds since it was sent.
    pub age_us: u32,
    /// The age is a clean sample: the only transmission on that link.
    pub is_clean: bool,
}

/// The ring and the links' in-flight counts.
pub(super) struct SendLog {
    slots: Box<[Slot]>,
    mask: u32,
    /// The window: everything before `oldest` is settled, `next` is one past the highest number sent. `None` before the
    /// first packet of a session.
    window: Option<(Seq, Seq)>,
    flights: [Flight; LINKS_MAX],
}

impl SendLog {
    /// A ring of `slots` packets, rounded up to a power of two, 256 at least and 2^20 at most.
    pub fn new(slots: usize) -> Self {
        let slots = slots.clamp(256, 1 << 20).next_power_of_two();
        Self {
            slots: vec![EMPTY_SLOT; slots].into_boxed_slice(),
            mask: slots as u32 - 1,
            window: None,
            flights: [Flight::default(); LINKS_MAX],
        }
    }

    pub fn flight(&self, link: usize) -> Flight {
        self.flights.get(link).copied().unwrap_or_default()
    }

    /// Forgets all packets: a new SRT session begins.
    pub fn reset(&mut self) {
        self.window = None;
        for link in 0..LINKS_MAX {
            self.forget_link(link);
        }
    }

    /// Forgets what is in flight on one link: its socket was replaced, or it is taken for dead.
    pub fn forget_link(&mut self, link: usize) {
        if let Some(flight) = self.flights.get_mut(link) {
            (flight.packets, flight.bytes) = (0, 0);
            flight.epoch = flight.epoch.wrapping_add(1);
        }
    }

    /// The link that carried the newest transmission of `seq`, acknowledged or not.
    pub fn owner(&self, seq: Seq) -> Option<usize> {
        let slot = self.slots.get((seq.get() & self.mask) as usize)?;
        (self.covers(seq) && slot.seq == seq.get() && self.is_current(&slot.newest))
            .then_some(slot.newest.link as usize)
    }

    /// `seq` lies before what a cumulative ACK has covered, or fell out of the ring long ago.
    pub fn is_settled(&self, seq: Seq) -> bool {
        self.window.is_some_and(|(oldest, _)| seq.is_before(oldest))
    }

    /// Logs a transmission on `link`. A number far outside the window means a new session and resets the log.
    pub fn record(&mut self, now_us: u64, seq: Seq, len: usize, link: usize) {
        if !self.extend_window(seq) {
            return;
        }
        // What the receiver has already passed is not in flight, whatever the encoder still repeats.
        let is_in_flight = self.covers(seq);
        let Some(transmission) = self.begin(now_us, link, len, is_in_flight) else { return };
        let Some(slot) = self.slots.get_mut((seq.get() & self.mask) as usize) else { return };
        let mut ended = [NONE; 2];
        let ended_len = u32::from(slot.len);
        if slot.seq == seq.get() {
            // A retransmission: the transmission before it no longer counts as in flight, but its ACK may still come.
            ended = [slot.newest, slot.other];
            slot.other = Transmission { is_in_flight: false, ..slot.newest };
            slot.is_repeated = true;
        } else {
            if slot.seq != EMPTY {
                ended = [slot.newest, slot.other];
            }
            slot.other = NONE;
            slot.seq = seq.get();
            slot.is_repeated = false;
        }
        slot.len = len as u16;
        slot.newest = transmission;
        slot.is_naked = false;
        for gone in ended {
            self.release(gone, ended_len);
        }
    }

    /// Logs a copy of the packet just recorded, sent on a second link.
    pub fn record_copy(&mut self, now_us: u64, seq: Seq, link: usize) {
        let Some(slot) = self.slots.get((seq.get() & self.mask) as usize).copied() else { return };
        let is_same_link = slot.newest.link as usize == link && self.is_current(&slot.newest);
        if slot.seq != seq.get() || !self.covers(seq) || is_same_link {
            return;
        }
        let Some(transmission) = self.begin(now_us, link, usize::from(slot.len), true) else { return };
        self.release(slot.other, u32::from(slot.len));
        if let Some(slot) = self.slots.get_mut((seq.get() & self.mask) as usize) {
            slot.other = transmission;
        }
    }

    /// An SRTLA ACK for `seq` arrived on `link`. `None` when the link has not sent that number, or it was counted before.
    pub fn acked(&mut self, now_us: u64, seq: Seq, link: usize) -> Option<Acked> {
        if !self.covers_recent(seq) {
            return None;
        }
        let epoch = self.flight(link).epoch;
        let slot = self.slots.get_mut((seq.get() & self.mask) as usize)?;
        if slot.seq != seq.get() {
            return None;
        }
        let is_repeated = slot.is_repeated;
        let len = slot.len;
        let same_link_twice = slot.newest.link == slot.other.link;
        let transmission = [&mut slot.newest, &mut slot.other]
            .into_iter()
            .find(|t| t.link as usize == link && t.epoch == epoch && !t.is_acked)?;
        transmission.is_acked = true;
        let found = *transmission;
        transmission.is_in_flight = false;
        self.release(found, u32::from(len));
        Some(Acked {
            bytes: len,
            ordinal: found.ordinal,
            age_us: (now_us as u32).wrapping_sub(found.sent_us),
            is_clean: !(is_repeated && same_link_twice),
        })
    }

    /// A cumulative SRT ACK: everything before `next_expected` has arrived. Ignored when it lies outside the window.
    pub fn cumulative(&mut self, next_expected: Seq) {
        let Some((oldest, next)) = self.window else { return };
        if !next_expected.is_after(oldest) || next_expected.is_after(next) {
            return;
        }
        let mut seq = oldest;
        while seq != next_expected {
            self.settle(seq);
            seq = seq.next();
        }
        self.window = Some((next_expected, next));
    }

    /// A loss report. Calls `lost` with the link of each newly reported packet; ranges are cut to the window first, and
    /// `budget` (numbers visited) is shared by all ranges of one report.
    pub fn nak(&mut self, range: NakRange, budget: &mut u32, mut lost: impl FnMut(usize, Seq)) {
        let Some((oldest, next)) = self.window else { return };
        if next == oldest {
            return;
        }
        let newest = next.sub(1);
        let mut seq = if range.first.is_before(oldest) { oldest } else { range.first };
        let last = if range.last.is_after(newest) { newest } else { range.last };
        while !seq.is_after(last) && *budget > 0 {
            *budget -= 1;
            if let Some(slot) = self.slots.get_mut((seq.get() & self.mask) as usize)
                && slot.seq == seq.get()
                && !slot.is_naked
            {
                slot.is_naked = true;
                let newest = slot.newest;
                if self.is_current(&newest) {
                    lost(newest.link as usize, seq);
                }
            }
            seq = seq.next();
        }
    }

    /// How many numbers the window spans: the bound for work on one loss report.
    pub fn span(&self) -> u32 {
        self.window.map_or(0, |(oldest, next)| next.distance_from(oldest).unsigned_abs())
    }

    /// Makes `seq` part of the window. False for a number that is already settled and whose slot belongs to another.
    fn extend_window(&mut self, seq: Seq) -> bool {
        let capacity = self.mask + 1;
        let Some((oldest, next)) = self.window else {
            self.window = Some((seq, seq.next()));
            return true;
        };
        let ahead = seq.distance_from(next);
        let behind = oldest.distance_from(seq);
        if ahead > (capacity / 2) as i32 || behind > capacity as i32 {
            self.reset();
            self.window = Some((seq, seq.next()));
            return true;
        }
        if ahead >= 0 {
            let next = seq.next();
            // Numbers that fall out of the ring stay in flight until their slot is taken by another packet.
            let oldest =
                if next.distance_from(oldest) > capacity as i32 { next.sub(capacity) } else { oldest };
            self.window = Some((oldest, next));
            return true;
        }
        // A retransmission of something old: only if its slot is free or its own.
        next.distance_from(seq) <= capacity as i32
    }

    fn covers(&self, seq: Seq) -> bool {
        self.window.is_some_and(|(oldest, next)| !seq.is_before(oldest) && seq.is_before(next))
    }

    /// Inside what the ring can hold, settled or not: SRTLA ACKs may come after the SRT ACK that settled the packet.
    fn covers_recent(&self, seq: Seq) -> bool {
        self.window
            .is_some_and(|(_, next)| seq.is_before(next) && next.distance_from(seq) <= (self.mask + 1) as i32)
    }

    fn is_current(&self, transmission: &Transmission) -> bool {
        self.flights.get(transmission.link as usize).is_some_and(|flight| flight.epoch == transmission.epoch)
    }

    fn begin(&mut self, now_us: u64, link: usize, len: usize, is_in_flight: bool) -> Option<Transmission> {
        let flight = self.flights.get_mut(link)?;
        let ordinal = flight.next_ordinal;
        flight.next_ordinal = ordinal.wrapping_add(1);
        if is_in_flight {
            flight.packets += 1;
            flight.bytes += len as u32;
        }
        Some(Transmission {
            link: link as u8,
            epoch: flight.epoch,
            is_in_flight,
            is_acked: false,
            ordinal,
            sent_us: now_us as u32,
        })
    }

    fn release(&mut self, transmission: Transmission, len: u32) {
        if transmission.is_in_flight
            && let Some(flight) = self.flights.get_mut(transmission.link as usize)
            && flight.epoch == transmission.epoch
        {
            flight.packets = flight.packets.saturating_sub(1);
            flight.bytes = flight.bytes.saturating_sub(len);
        }
    }

    fn settle(&mut self, seq: Seq) {
        let Some(slot) = self.slots.get_mut((seq.get() & self.mask) as usize) else { return };
        if slot.seq != seq.get() {
            return;
        }
        let (newest, other, len) = (slot.newest, slot.other, u32::from(slot.len));
        slot.newest.is_in_flight = false;
        slot.other.is_in_flight = false;
        self.release(newest, len);
        self.release(other, len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    const SLOTS: usize = 256;

    fn range(first: u32, last: u32) -> NakRange {
        NakRange { first: Seq::new(first), last: Seq::new(last) }
    }

    fn naks(log: &mut SendLog, first: u32, last: u32) -> Vec<(usize, u32)> {
        let (mut out, mut budget) = (Vec::new(), log.span());
        log.nak(range(first, last), &mut budget, |link, seq| out.push((link, seq.get())));
        out
    }

    #[test]
    fn owner_is_found_across_the_wrap() {
        let mut log = SendLog::new(SLOTS);
        let start = Seq::MAX.sub(4);
        for i in 0..10u32 {
            log.record(u64::from(i) * 100, start.add(i), 1000, i as usize % 3);
        }
        assert_eq!(log.owner(Seq::new(0)), Some(5 % 3));
        let acked = log.acked(5_000, Seq::new(0), 2).unwrap();
        assert_eq!((acked.bytes, acked.age_us, acked.is_clean), (1000, 4_500, true));
        assert_eq!(log.acked(5_000, Seq::new(0), 2), None, "counted once");
        assert_eq!(log.acked(5_000, Seq::new(1), 2), None, "another link's");
        log.cumulative(Seq::new(3));
        assert_eq!((0..3).map(|l| log.flight(l).packets).sum::<u32>(), 2);
        log.cumulative(Seq::new(5));
        assert_eq!((0..3).map(|l| log.flight(l).bytes).sum::<u32>(), 0);
    }

    #[test]
    fn retransmission_moves_ownership_and_a_late_ack_finds_the_first_link() {
        let mut log = SendLog::new(SLOTS);
        log.record(0, Seq::new(7), 500, 0);
        assert_eq!(naks(&mut log, 7, 7), [(0, 7)]);
        assert_eq!(naks(&mut log, 7, 7), [], "reported once per transmission");
        log.record(1000, Seq::new(7), 500, 1);
        assert_eq!((log.flight(0).packets, log.flight(1).packets), (0, 1));
        assert_eq!(naks(&mut log, 7, 7), [(1, 7)]);
        assert!(log.acked(2000, Seq::new(7), 0).is_some());
        assert_eq!(log.flight(1).packets, 1);
        assert!(log.acked(2000, Seq::new(7), 1).is_some());
        assert_eq!(log.flight(1), Flight { packets: 0, bytes: 0, ..log.flight(1) });
    }

    #[test]
    fn lower_initial_number_and_explicit_reset_start_afresh() {
        let mut log = SendLog::new(SLOTS);
        for i in 0..50 {
            log.record(0, Seq::new(1_000_000 + i), 100, 0);
        }
        log.record(0, Seq::new(17), 100, 1);
        assert_eq!((log.flight(0).packets, log.flight(1).packets), (0, 1));
        assert_eq!(log.span(), 1);
        log.reset();
        assert_eq!((log.flight(1).packets, log.span()), (0, 0));
        log.cumulative(Seq::new(18));
        assert_eq!(log.acked(0, Seq::new(17), 1), None);
    }

    #[test]
    fn absurd_acks_and_ranges_are_cut_to_the_window() {
        let mut log = SendLog::new(SLOTS);
        for i in 0..10 {
            log.record(0, Seq::new(i), 100, 0);
        }
        log.cumulative(Seq::new(11));
        log.cumulative(Seq::MAX);
        assert_eq!(log.flight(0).packets, 10, "ACKs outside the window are ignored");
        log.cumulative(Seq::new(4));
        assert_eq!(naks(&mut log, 0, 1 << 29).len(), 6);
        let mut budget = 3;
        for i in 0..10 {
            log.record(0, Seq::new(i + 4), 100, 0);
        }
        let mut seen = 0;
        log.nak(range(4, 13), &mut budget, |_, _| seen += 1);
        assert_eq!((seen, budget), (3, 0));
    }

    #[test]
    fn a_forgotten_link_gets_no_credit_for_the_past() {
        let mut log = SendLog::new(SLOTS);
        log.record(0, Seq::new(1), 100, 0);
        log.record_copy(0, Seq::new(1), 1);
        log.forget_link(0);
        assert_eq!(log.acked(0, Seq::new(1), 0), None);
        assert_eq!(log.flight(1).packets, 1);
        log.record(0, Seq::new(1 + SLOTS as u32), 100, 0);
        assert_eq!(
            (log.flight(0).packets, log.flight(1).packets),
            (1, 0),
            "taking the slot releases the copy"
        );
    }

    #[derive(Clone, Debug)]
    enum Step {
        New(u8, u16),
        Again(u8, u8),
        CopyOf(u8),
        Acked(u8, u8),
        Cumulative(u8),
        Nak(u8, u8),
        Forget(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (0u8..4, 1u16..1456).prop_map(|(l, n)| Step::New(l, n)),
            1 => (any::<u8>(), 0u8..4).prop_map(|(b, l)| Step::Again(b % 100, l)),
            1 => (0u8..4).prop_map(Step::CopyOf),
            6 => (any::<u8>(), 0u8..4).prop_map(|(b, l)| Step::Acked(b % 100, l)),
            1 => any::<u8>().prop_map(|b| Step::Cumulative(b % 100)),
            1 => (any::<u8>(), any::<u8>()).prop_map(|(a, b)| Step::Nak(a % 100, b % 100)),
            1 => (0u8..4).prop_map(Step::Forget),
        ]
    }

    /// The oracle: every number's transmissions in a map, nothing recycled.
    #[derive(Default)]
    struct Oracle {
        sent: HashMap<u32, Vec<(u8, bool, bool)>>, // link, in flight, acked; newest last, two at most
        naked: HashMap<u32, bool>,
        len: HashMap<u32, u16>,
    }

    impl Oracle {
        fn in_flight(&self, link: u8) -> (u32, u32) {
            let mut total = (0, 0);
            for (seq, list) in &self.sent {
                for t in list.iter().filter(|t| t.0 == link && t.1) {
                    let _ = t;
                    total = (total.0 + 1, total.1 + u32::from(self.len[seq]));
                }
            }
            total
        }
    }

    proptest! {
            #![proptest_config(ProptestConfig::with_cases(200))]
            #[test]
            fn agrees_with_a_map(start in any::<u32>(), steps in proptest::collection::vec(step(), 1..600)) {
                // 4,096 slots and at most 600 packets: the ring never recycles, so a map is an exact oracle.
                let mut log = SendLog::new(4096);
                let mut oracle = Oracle::default();
                let start = Seq::new(start);
                let mut next = start;
                let mut oldest = start;
                for step in steps {
                    let at = next;
                    let back = |b: u8| at.sub(u32::from(b) + 1);
                    match step {
                        Step::New(link, len) => {
                            log.record(0, next, usize::from(len), usize::from(link));
                            oracle.sent.insert(next.get(), vec![(link, true, false)]);
                            oracle.len.insert(next.get(), len);
                            oracle.naked.insert(next.get(), false);
                            next = next.next();
                        }
                        Step::Again(b, link) => {
                            let seq = back(b);
                            let Some(list) = oracle.sent.get_mut(&seq.get()) else { continue };
                            log.record(0, seq, usize::from(oracle.len[&seq.get()]), usize::from(link));
                            let mut newest = list[0];
                            newest.1 = false;
                            *list = vec![(link, !seq.is_before(oldest), false), newest];
                            oracle.naked.insert(seq.get(), false);
                        }
                        Step::CopyOf(link) => {
                            let seq = back(0);
                            let Some(list) = oracle.sent.get_mut(&seq.get()) else { continue };
                            log.record_copy(0, seq, usize::from(link));
                            if list[0].0 != link && !seq.is_before(oldest) {
                                list.truncate(1);
                                list.push((link, true, false));
                            }
                        }
                        Step::Acked(b, link) => {
                            let seq = back(b);
                            let found = log.acked(0, seq, usize::from(link)).is_some();
                            let expected = oracle.sent.get_mut(&seq.get())
                                .and_then(|list| list.iter_mut().find(|t| t.0 == link && !t.2));
                            prop_assert_eq!(found, expected.is_some());
                            if let Some(t) = expected {
                                (t.1, t.2) = (false, true);
                            }
                        }
                        Step::Cumulative(b) => {
                            let seq = back(b);
                            log.cumulative(seq);
                            if next != start && seq.is_after(oldest) {
                                oldest = seq;
                                for (s, list) in &mut oracle.sent {
                                    if Seq::new(*s).is_before(seq) {
                                        for t in list {
     t.1 = false;
    }
                                    }
                                }
                            }
                        }
                        Step::Nak(a, b) => {
                            let (first, last) = (back(a.max(b)), back(a.min(b)));
                            let mut seen = Vec::new();
                            let mut budget = log.span();
                            log.nak(NakRange { first, last }, &mut budget, |link, seq| seen.push((link, seq.get())));
                            let mut expected = Vec::new();
                            let mut seq = first;
                            while !seq.is_after(last) {
                                if let Some(list) = oracle.sent.get(&seq.get())
                                    && !seq.is_before(oldest)
                                    && !oracle.naked[&seq.get()]
                                {
                                    oracle.naked.insert(seq.get(), true);
                                    if list[0].0 != NO_LINK {
                                        expected.push((usize::from(list[0].0), seq.get()));
                                    }
                                }
                                seq = seq.next();
                            }
                            prop_assert_eq!(seen, expected);
                        }
                        Step::Forget(link) => {
                            log.forget_link(usize::from(link));
                            for list in oracle.sent.values_mut() {
                                for t in list.iter_mut().filter(|t| t.0 == link) {
     *t = (NO_LINK, false, true);
    }
                            }
                        }
                    }
                    for link in 0..4u8 {
                        let flight = log.flight(usize::from(link));
                        prop_assert_eq!((flight.packets, flight.bytes), oracle.in_flight(link));
                    }
                    for b in [0u32, 1, 5, 50] {
                        let seq = next.sub(b + 1);
                        let expected = oracle.sent.get(&seq.get())
                            .filter(|_| !seq.is_before(oldest))
                            .map(|list| list[0].0)
                            .filter(|link| *link != NO_LINK)
                            .map(usize::from);
                        prop_assert_eq!(log.owner(seq), expected);
                    }
                }
            }

            #[test]
            fn wild_numbers_never_panic_and_in_flight_stays_bounded(
                ops in proptest::collection::vec((0u8..6, any::<u32>(), any::<u32>(), 0usize..20), 1..500)
            ) {
                let mut log = SendLog::new(SLOTS);
                for (op, a, b, link) in ops {
                    match op {
                        0 => log.record(u64::from(b), Seq::new(a), (b % 1500) as usize, link),
                        1 => log.record_copy(u64::from(b), Seq::new(a), link),
                        2 => drop(log.acked(u64::from(b), Seq::new(a), link)),
                        3 => log.cumulative(Seq::new(a)),
                        4 => { let mut budget = log.span(); log.nak(range(a, b), &mut budget, |_, _| ()); }
                        _ => log.forget_link(link),
                    }
                    prop_assert!(log.span() <= SLOTS as u32 + 1);
                    let total: u32 = (0..LINKS_MAX).map(|l| log.flight(l).packets).sum();
                    prop_assert!(total <= 2 * SLOTS as u32);
                }
            }
        }
}
