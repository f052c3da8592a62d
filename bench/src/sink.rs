//! Where the receiver under test sends to: counts what arrives, once, twice and never, and how late.
//!
//! Promise: exact for any order and any number of copies. Answers data with SRT ACKs, as an SRT server does, if asked to.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::frame;

/// Latencies up to this many ns are told apart; later ones count as this.
const LATENCY_NS_MAX: u64 = 60_000_000_000;
/// Length of a full SRT ACK.
const SRT_ACK_LEN: usize = 44;

/// A bit per number of the run; grows as needed.
#[derive(Debug, Default)]
struct Seen {
    words: Vec<u64>,
}

/// No run has more datagrams; a larger number is damage.
const NUMBERS_MAX: u64 = 1 << 34;

impl Seen {
    /// Marks a number; whether it was new.
    fn insert(&mut self, number: u64) -> bool {
        let (word, bit) = ((number / 64) as usize, 1 << (number % 64));
        if word >= self.words.len() {
            self.words.resize((word + 1).next_power_of_two(), 0);
        }
        let Some(word) = self.words.get_mut(word) else { return false };
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }

    /// How many of these numbers were seen.
    fn count(&self, from: u64, to: u64) -> u64 {
        (from..to)
            .filter(|number| {
                self.words.get((number / 64) as usize).is_some_and(|word| word & (1 << (number % 64)) != 0)
            })
            .count() as u64
    }
}

/// What a sink has counted so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SinkCounters {
    /// Datagrams of the load, the first copy of each.
    pub unique: u64,
    /// Further copies.
    pub duplicates: u64,
    /// Datagrams of the load that came after one with a higher number of the same group.
    pub reordered: u64,
    /// SRT control packets.
    pub control: u64,
    /// Anything else, or damaged.
    pub foreign: u64,
    /// SRT ACKs sent back.
    pub acks_sent: u64,
}

#[derive(Clone, Copy, Debug)]
struct Flow {
    from: Option<SocketAddr>,
    newest_number: u64,
    newest_seq: u32,
    ack_due: bool,
}

/// The sink.
#[derive(Debug)]
pub struct Sink {
    magic: u32,
    start: Instant,
    seen: Seen,
    flows: Vec<Flow>,
    ack_every: Option<Duration>,
    ack_at: Instant,
    /// Numbers whose latency counts.
    window: (u64, u64),
    latency: Histogram<u64>,
    /// What was counted.
    pub counters: SinkCounters,
}

impl Sink {
    /// Knows the datagrams of the run named by `magic`, which began at `start`, of so many groups. With `ack_every` each
    /// group's data is answered with an SRT ACK in that interval.
    ///
    /// # Panics
    /// Never: the histogram's bounds are constants.
    pub fn new(magic: u32, start: Instant, groups: usize, ack_every: Option<Duration>) -> Self {
        let flow = Flow { from: None, newest_number: 0, newest_seq: 0, ack_due: false };
        Self {
            magic,
            start,
            seen: Seen::default(),
            flows: vec![flow; groups],
            ack_every,
            ack_at: start,
            window: (0, u64::MAX),
            latency: Histogram::new_with_max(LATENCY_NS_MAX, 3).unwrap_or_else(|_| unreachable!()),
            counters: SinkCounters::default(),
        }
    }

    /// From here on only latencies of these numbers count.
    pub fn set_window(&mut self, from: u64, to: u64) {
        self.window = (from, to);
        self.latency.reset();
    }

    /// Takes a datagram that arrived at `now`.
    pub fn datagram(&mut self, now: Instant, from: SocketAddr, bytes: &[u8]) {
        let stamp = match frame::read(bytes, self.magic) {
            Some(stamp) if stamp.number < NUMBERS_MAX => stamp,
            _ if bytes.first().is_some_and(|byte| byte & 0x80 != 0) => {
                self.counters.control += 1;
                return;
            }
            _ => {
                self.counters.foreign += 1;
                return;
            }
        };
        if !self.seen.insert(stamp.number) {
            self.counters.duplicates += 1;
            return;
        }
        self.counters.unique += 1;
        if self.window.0 <= stamp.number && stamp.number < self.window.1 {
            let ns = (now.duration_since(self.start).as_nanos() as u64).saturating_sub(stamp.intended_ns);
            self.latency.saturating_record(ns);
        }
        let Some(flow) = self.flows.get_mut(stamp.group as usize) else { return };
        flow.from = Some(from);
        flow.ack_due = true;
        if stamp.number < flow.newest_number {
            self.counters.reordered += 1;
        } else {
            flow.newest_number = stamp.number;
            flow.newest_seq = bytes.first_chunk().map_or(0, |word| u32::from_be_bytes(*word));
        }
    }

    /// The SRT ACKs that are due.
    pub fn answer(&mut self, now: Instant, mut send: impl FnMut(SocketAddr, &[u8])) {
        let Some(every) = self.ack_every.filter(|_| now >= self.ack_at) else { return };
        self.ack_at = now + every;
        let at_us = now.duration_since(self.start).as_micros() as u32;
        for (group, flow) in self.flows.iter_mut().enumerate() {
            if !std::mem::take(&mut flow.ack_due) {
                continue;
            }
            let Some(to) = flow.from else { continue };
            self.counters.acks_sent += 1;
            send(to, &srt_ack(group as u32, flow.newest_seq, self.counters.acks_sent as u32, at_us));
        }
    }

    /// How many of the numbers `from..to` arrived at least once.
    pub fn arrived(&self, from: u64, to: u64) -> u64 {
        self.seen.count(from, to)
    }

    /// One more than the highest number that arrived.
    pub fn numbers_end(&self) -> u64 {
        let last = self.seen.words.iter().rposition(|word| *word != 0);
        last.map_or(0, |last| {
            let word = self.seen.words.get(last).copied().unwrap_or(0);
            last as u64 * 64 + 64 - u64::from(word.leading_zeros())
        })
    }

    /// Latencies of the window, in ns.
    pub fn latency(&self) -> &Histogram<u64> {
        &self.latency
    }
}

/// A full SRT ACK of everything up to `seq`.
fn srt_ack(group: u32, seq: u32, number: u32, at_us: u32) -> [u8; SRT_ACK_LEN] {
    let next = (seq + 1) & 0x7fff_ffff;
    let (rtt_us, rtt_var_us, buffer, rate, bandwidth, bytes) =
        (20_000, 5_000, 8_192, 1_000, 10_000, 1_316_000);
    let words = [
        0x8002_0000,
        number,
        at_us,
        frame::socket_id(group),
        next,
        rtt_us,
        rtt_var_us,
        buffer,
        rate,
        bandwidth,
        bytes,
    ];
    let mut ack = [0; SRT_ACK_LEN];
    for (place, word) in ack.chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&u32::to_be_bytes(word));
    }
    ack
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Stamp, Template};

    fn addr() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 9))
    }

    /// Any loss, duplication and reordering is counted exactly.
    #[test]
    fn the_bookkeeping_is_exact_on_a_bad_road() {
        let start = Instant::now();
        let mut rng = fastrand::Rng::with_seed(5);
        for (loss, dup) in [(0, 0), (10, 0), (0, 10), (30, 30), (100, 0)] {
            let mut sink = Sink::new(7, start, 4, None);
            let mut template = Template::new(200, 7);
            let (mut sent, mut lost, mut doubled, mut late) = (0, 0, 0, Vec::new());
            let mut deliver = |sink: &mut Sink, number: u64| {
                let stamp = Stamp { group: (number % 4) as u32, number, intended_ns: number };
                sink.datagram(start, addr(), template.fill(&stamp, number as u32 / 4));
            };
            for number in 0..20_000 {
                sent += 1;
                if rng.u32(0..100) < loss {
                    lost += 1;
                    continue;
                }
                if rng.u32(0..100) < dup {
                    doubled += 1;
                    deliver(&mut sink, number);
                }
                if rng.bool() { late.push(number) } else { deliver(&mut sink, number) }
            }
            rng.shuffle(&mut late);
            for number in late {
                deliver(&mut sink, number);
            }
            assert_eq!(sink.counters.unique, sent - lost, "{loss} % loss");
            assert_eq!(sink.counters.duplicates, doubled, "{dup} % copies");
            assert_eq!(sink.arrived(0, sent), sent - lost);
            let end = sink.numbers_end();
            assert!(end <= sent && (loss == 100 || sent - end < 64), "{end}");
            assert_eq!(sink.arrived(0, end), sent - lost);
            assert_eq!(sink.arrived(0, 10) + sink.arrived(10, sent), sent - lost);
            assert_eq!((sink.counters.foreign, sink.counters.control), (0, 0));
            assert_eq!(sink.latency().len(), sent - lost);
        }
    }

    #[test]
    fn latency_counts_from_the_intended_time_and_in_the_window_only() {
        let start = Instant::now();
        let mut sink = Sink::new(7, start, 1, None);
        let mut template = Template::new(200, 7);
        sink.set_window(10, 20);
        for number in 0..30 {
            let stamp = Stamp { group: 0, number, intended_ns: number * 1000 };
            let late = Duration::from_nanos(number * 1000 + 5_000_000);
            sink.datagram(start + late, addr(), template.fill(&stamp, number as u32));
        }
        assert_eq!(sink.latency().len(), 10);
        assert!(sink.latency().min().abs_diff(5_000_000) < 10_000, "{}", sink.latency().min());
        assert!(sink.latency().max().abs_diff(5_000_000) < 10_000, "{}", sink.latency().max());
    }

    #[test]
    fn answers_are_full_acks_to_where_data_comes_from() {
        let start = Instant::now();
        let mut sink = Sink::new(7, start, 2, Some(Duration::from_millis(10)));
        let mut template = Template::new(200, 7);
        sink.datagram(start, addr(), template.fill(&Stamp { group: 1, number: 1, intended_ns: 0 }, 41));
        let mut answers = Vec::new();
        sink.answer(start, |to, bytes| answers.push((to, bytes.to_vec())));
        sink.answer(start + Duration::from_millis(50), |_, _| panic!("nothing new to acknowledge"));
        let [(to, bytes)] = answers.try_into().unwrap();
        let ack = bondgate_proto::wire::Control::new(&bytes).unwrap();
        assert_eq!((to, ack.ack().unwrap().next_expected.get(), bytes.len()), (addr(), 42, 44));
    }
}
