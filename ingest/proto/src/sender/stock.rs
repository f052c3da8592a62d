//! The link window of the BELABOX sender family, number for number.
//!
//! Each link has a window (thousandths of packets), an in-flight count and a log of its last 256 sequence numbers; a
//! packet goes to the link with the largest window / (in flight + 1). The arithmetic is what `srtla_send` does; the one
//! deliberate difference is that sequence numbers are compared as 31-bit serial numbers. Promise: finding a number in a
//! link's log is O(1) expected (a chain through an index, never longer than the log); fixed size.

use super::LINKS_MAX;
use crate::Seq;

pub(super) const WINDOW_MIN: i32 = 1_000;
pub(super) const WINDOW_START: i32 = 20_000;
pub(super) const WINDOW_MAX: i32 = 60_000;
const ACK_STEP: i32 = 29;
const NAK_STEP: i32 = 100;
const PACKET_LOG: u32 = 256;
const HEADS: u32 = 1024;
const ERASED: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Entry {
    seq: u32,
    /// Running number of the entry that the index held before this one.
    before: u32,
}

/// The last 256 numbers sent on one link, findable by number.
struct PacketLog {
    entries: [Entry; PACKET_LOG as usize],
    /// By low bits of the sequence number: running number of the newest entry with these bits.
    heads: [u32; HEADS as usize],
    /// Running number of the next entry; starts at one log length so that 0 is always too old.
    next: u32,
}

impl PacketLog {
    const fn new() -> Self {
        Self {
            entries: [Entry { seq: ERASED, before: 0 }; PACKET_LOG as usize],
            heads: [0; HEADS as usize],
            next: PACKET_LOG + 1,
        }
    }

    fn push(&mut self, seq: Seq) {
        let head = &mut self.heads[(seq.get() % HEADS) as usize];
        self.entries[(self.next % PACKET_LOG) as usize] = Entry { seq: seq.get(), before: *head };
        *head = self.next;
        self.next = self.next.wrapping_add(1);
        if self.next == 0 {
            // 2^32 packets on one link: running numbers start over, with an empty log.
            *self = Self::new();
        }
    }

    /// Erases the newest entry of `seq`; false if the log does not hold it.
    fn erase(&mut self, seq: Seq) -> bool {
        let mut at = self.heads[(seq.get() % HEADS) as usize];
        // Chains run strictly backwards and end where the log has been overwritten.
        while self.next - at <= PACKET_LOG {
            let entry = &mut self.entries[(at % PACKET_LOG) as usize];
            if entry.seq == seq.get() {
                entry.seq = ERASED;
                return true;
            }
            at = entry.before;
        }
        false
    }

    /// Erases everything before `seq`; returns how many entries remain.
    fn erase_before(&mut self, seq: Seq) -> i32 {
        let mut remaining = 0;
        for entry in &mut self.entries {
            if entry.seq == ERASED {
                continue;
            }
            if Seq::new(entry.seq).is_before(seq) {
                entry.seq = ERASED;
            } else {
                remaining += 1;
            }
        }
        remaining
    }
}

struct StockLink {
    window: i32,
    in_flight: i32,
    log: PacketLog,
    is_present: bool,
}

/// The windows of all links, in the order of their indices.
pub(super) struct StockWindows {
    links: Vec<StockLink>,
}

impl StockWindows {
    pub fn new() -> Self {
        let link =
            || StockLink { window: WINDOW_START, in_flight: 0, log: PacketLog::new(), is_present: false };
        Self { links: (0..LINKS_MAX).map(|_| link()).collect() }
    }

    /// A link appears with a fresh window.
    pub fn add(&mut self, link: usize) {
        self.restart(link, WINDOW_START, true);
    }

    /// A link was removed; its log answers for nothing any more.
    pub fn remove(&mut self, link: usize) {
        self.restart(link, WINDOW_START, false);
    }

    /// A link was silent for too long: least window, empty log.
    pub fn timed_out(&mut self, link: usize) {
        let is_present = self.links.get(link).is_some_and(|link| link.is_present);
        self.restart(link, WINDOW_MIN, is_present);
    }

    /// The encoder began a new session: logs and counts are void, windows stay.
    pub fn reset_logs(&mut self) {
        for link in &mut self.links {
            link.in_flight = 0;
            link.log = PacketLog::new();
        }
    }

    pub fn window(&self, link: usize) -> i32 {
        self.links.get(link).map_or(0, |link| link.window)
    }

    /// A data packet leaves on `link`.
    pub fn on_sent(&mut self, link: usize, seq: Seq) {
        if let Some(link) = self.links.get_mut(link) {
            link.in_flight = link.in_flight.saturating_add(1);
            link.log.push(seq);
        }
    }

    /// One number of an SRTLA ACK. `has_received` tells for each link whether it ever heard from the receiver.
    pub fn on_srtla_ack(&mut self, seq: Seq, has_received: impl Fn(usize) -> bool) {
        if let Some(index) = self.erase_from_first(seq)
            && let Some(owner) = self.links.get_mut(index)
        {
            owner.in_flight = (owner.in_flight - 1).max(0);
            if i64::from(owner.in_flight) * 1000 > i64::from(owner.window) {
                owner.window += ACK_STEP;
            }
        }
        for (index, link) in self.links.iter_mut().enumerate() {
            if link.is_present && has_received(index) {
                link.window = (link.window + 1).min(WINDOW_MAX);
            }
        }
    }

    /// One number of a NAK. Returns the link that is charged.
    pub fn on_nak(&mut self, seq: Seq) -> Option<usize> {
        let index = self.erase_from_first(seq)?;
        let link = self.links.get_mut(index)?;
        link.window = (link.window - NAK_STEP).max(WINDOW_MIN);
        Some(index)
    }

    /// An SRT ACK: everything before `next_expected` has arrived.
    pub fn on_srt_ack(&mut self, next_expected: Seq) {
        for link in self.links.iter_mut().filter(|link| link.is_present) {
            link.in_flight = link.log.erase_before(next_expected);
        }
    }

    /// The link with the largest score among those `eligible`; the first of equals.
    pub fn choose(&self, eligible: impl Fn(usize) -> bool) -> Option<usize> {
        let mut best = None;
        for (index, link) in self.links.iter().enumerate() {
            if !link.is_present || !eligible(index) {
                continue;
            }
            let score = i64::from(link.window) / (i64::from(link.in_flight) + 1);
            if best.is_none_or(|(_, best_score)| score > best_score) {
                best = Some((index, score));
            }
        }
        best.map(|(index, _)| index)
    }

    /// The first link in order whose log holds `seq`; the number is erased there.
    fn erase_from_first(&mut self, seq: Seq) -> Option<usize> {
        self.links.iter_mut().position(|link| link.is_present && link.log.erase(seq))
    }

    fn restart(&mut self, link: usize, window: i32, is_present: bool) {
        if let Some(link) = self.links.get_mut(link) {
            link.window = window;
            link.in_flight = 0;
            link.log = PacketLog::new();
            link.is_present = is_present;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The text of the description, taken literally: plain lists, searched from the newest entry.
    #[derive(Clone)]
    struct Naive {
        window: i32,
        in_flight: i32,
        log: Vec<Option<u32>>,
        heard: bool,
    }

    impl Naive {
        fn find(&self, seq: u32) -> Option<usize> {
            let tail = self.log.len().saturating_sub(256);
            (tail..self.log.len()).rev().find(|i| self.log[*i] == Some(seq))
        }
    }

    fn naive_srtla_ack(links: &mut [Naive], seq: u32) {
        for link in links.iter_mut() {
            if let Some(at) = link.find(seq) {
                link.log[at] = None;
                if link.in_flight > 0 {
                    link.in_flight -= 1;
                }
                if link.in_flight * 1000 > link.window {
                    link.window += 29;
                }
                break;
            }
        }
        for link in links.iter_mut().filter(|l| l.heard) {
            link.window = (link.window + 1).min(60_000);
        }
    }

    fn naive_nak(links: &mut [Naive], seq: u32) {
        for link in links.iter_mut() {
            if let Some(at) = link.find(seq) {
                link.log[at] = None;
                link.window = (link.window - 100).max(1000);
                return;
            }
        }
    }

    fn naive_srt_ack(links: &mut [Naive], ack: u32) {
        for link in links {
            let tail = link.log.len().saturating_sub(256);
            let mut count = 0;
            for entry in &mut link.log[tail..] {
                if let Some(seq) = *entry {
                    // "smaller" on the circle of 2^31 numbers
                    let ahead = ack.wrapping_sub(seq) & 0x7FFF_FFFF;
                    if ahead != 0 && ahead < (1 << 30) {
                        *entry = None;
                    } else {
                        count += 1;
                    }
                }
            }
            link.in_flight = count;
        }
    }

    fn naive_choose(links: &[Naive]) -> usize {
        let mut best = (0, -1);
        for (i, link) in links.iter().enumerate() {
            let score = link.window / (link.in_flight + 1);
            if score > best.1 {
                best = (i, score);
            }
        }
        best.0
    }

    #[derive(Clone, Debug)]
    enum Step {
        Send,
        SendOn(usize, u32),
        Ack(u32),
        Nak(u32),
        SrtAck(u32),
        Timeout(usize),
        Hear(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            20 => Just(Step::Send),
            3 => (0usize..3, 0u32..3000).prop_map(|(l, b)| Step::SendOn(l, b)),
            12 => (0u32..400).prop_map(Step::Ack),
            3 => (0u32..400).prop_map(Step::Nak),
            1 => (0u32..500).prop_map(Step::SrtAck),
            1 => (0usize..3).prop_map(Step::Timeout),
            1 => (0usize..3).prop_map(Step::Hear),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]
        #[test]
        fn equals_the_naive_oracle(start in any::<u32>(), steps in proptest::collection::vec(step(), 1..2500)) {
            let mut next = Seq::new(start);
            let mut stock = StockWindows::new();
            let mut naive =
                vec![Naive { window: 20_000, in_flight: 0, log: Vec::new(), heard: false }; 3];
            (0..3).for_each(|l| stock.add(l));
            for step in steps {
                match step {
                    Step::Send => {
                        let link = naive_choose(&naive);
                        prop_assert_eq!(stock.choose(|_| true), Some(link));
                        stock.on_sent(link, next);
                        naive[link].log.push(Some(next.get()));
                        naive[link].in_flight += 1;
                        next = next.next();
                    }
                    Step::SendOn(link, back) => {
                        let seq = next.sub(back + 1);
                        stock.on_sent(link, seq);
                        naive[link].log.push(Some(seq.get()));
                        naive[link].in_flight += 1;
                    }
                    Step::Ack(back) => {
                        let seq = next.sub(back + 1);
                        let heard: Vec<bool> = naive.iter().map(|l| l.heard).collect();
                        stock.on_srtla_ack(seq, |l| heard.get(l).copied().unwrap_or(false));
                        naive_srtla_ack(&mut naive, seq.get());
                    }
                    Step::Nak(back) => {
                        stock.on_nak(next.sub(back + 1));
                        naive_nak(&mut naive, next.sub(back + 1).get());
                    }
                    Step::SrtAck(back) => {
                        stock.on_srt_ack(next.sub(back));
                        naive_srt_ack(&mut naive, next.sub(back).get());
                    }
                    Step::Timeout(link) => {
                        stock.timed_out(link);
                        naive[link].log.clear();
                        (naive[link].window, naive[link].in_flight) = (1000, 0);
                    }
                    Step::Hear(link) => naive[link].heard = true,
                }
                for (l, expected) in naive.iter().enumerate() {
                    prop_assert_eq!(stock.links[l].window, expected.window);
                    prop_assert_eq!(stock.links[l].in_flight, expected.in_flight);
                }
            }
        }
    }

    #[test]
    fn one_full_srtla_ack_gives_what_the_description_says() {
        let mut stock = StockWindows::new();
        (0..2).for_each(|l| stock.add(l));
        (0..30).for_each(|i| stock.on_sent(0, Seq::new(i)));
        (0..10).for_each(|i| stock.on_srtla_ack(Seq::new(i), |_| true));
        // In flight falls 29..=20; the owner gains while in flight * 1000 exceeds the window.
        assert_eq!(stock.window(1), WINDOW_START + 10);
        assert_eq!(stock.window(0), WINDOW_START + 10 + 29 * 9);
        assert_eq!(stock.on_nak(Seq::new(3)), None, "an acknowledged number cannot be lost");
        assert_eq!(stock.on_nak(Seq::new(15)), Some(0));
        assert_eq!(stock.choose(|_| true), Some(1));
        assert_eq!(stock.choose(|l| l == 0), Some(0));
        assert_eq!(stock.choose(|_| false), None);
    }
}
