//! The link selection and window arithmetic that all stock senders share, with their differences as data.
//!
//! Promises: the arithmetic of the protocol notes (section 1.9), nothing cleverer. The window is a share weight, not a
//! limit: a packet always goes somewhere if any link is eligible.

use std::collections::VecDeque;

use crate::wire::{self, Kind};

const WINDOW_MIN: i64 = 1_000;
const WINDOW_START: i64 = 20_000;
const WINDOW_MAX: i64 = 60_000;
const WINDOW_UNIT: i64 = 1_000;
const WINDOW_OWN_ACK: i64 = 29;
const WINDOW_NAK: i64 = 100;
const NAK_RANGE_MAX: u32 = 1_000;

/// Where the stock senders differ in this arithmetic.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flavour {
    /// Slots of the log of sent numbers per link; the oldest is forgotten when it is full.
    pub log_slots: usize,
    /// Whether the numbers below an SRT ACK are found by serial arithmetic, or by a plain comparison.
    pub wrap_aware: bool,
    /// Whether a number in an SRTLA ACK is taken out of every link's log, or only out of the first that has it.
    pub remove_everywhere: bool,
    /// Whether every link grows by one per acknowledged packet, or only links that ever received something.
    pub every_link_grows: bool,
    /// Whether an SRT ACK at or below the highest ever seen is ignored.
    pub srt_ack_only_forward: bool,
    /// First byte of the list of lost numbers in a NAK (16 is right; one sender starts too early).
    pub nak_list_offset: usize,
}

#[derive(Clone, Debug)]
struct LinkWindow {
    window: i64,
    in_flight: i64,
    log: VecDeque<u32>,
    heard: bool,
}

/// The windows of all links of one stock sender.
#[derive(Clone, Debug)]
pub(super) struct Windows {
    flavour: Flavour,
    links: Vec<LinkWindow>,
    highest_srt_ack: Option<u32>,
}

impl Windows {
    pub fn new(links: usize, flavour: Flavour) -> Self {
        let fresh = LinkWindow { window: WINDOW_START, in_flight: 0, log: VecDeque::new(), heard: false };
        Self { flavour, links: vec![fresh; links], highest_srt_ack: None }
    }

    /// The link with the largest floor(W / (F + 1)) among the eligible; the first of equals.
    pub fn select(&self, eligible: impl Fn(usize) -> bool) -> Option<usize> {
        let score = |index: usize| self.links.get(index).map_or(-1, |l| l.window / (l.in_flight + 1));
        (0..self.links.len()).filter(|&i| eligible(i)).max_by_key(|&i| (score(i), std::cmp::Reverse(i)))
    }

    /// Notes that `bytes` goes out on `link`.
    pub fn sent(&mut self, link: usize, bytes: &[u8]) {
        let (Some(link), Some(seq)) = (self.links.get_mut(link), wire::srt_data_seq(bytes)) else { return };
        if link.log.len() == self.flavour.log_slots {
            link.log.pop_front();
        }
        link.log.push_back(seq);
        link.in_flight += 1;
    }

    /// Notes that something was received on `link`.
    pub fn heard(&mut self, link: usize) {
        if let Some(link) = self.links.get_mut(link) {
            link.heard = true;
        }
    }

    /// A link was found dead: it starts again from the smallest window.
    pub fn reset(&mut self, link: usize) {
        if let Some(link) = self.links.get_mut(link) {
            *link = LinkWindow { window: WINDOW_MIN, in_flight: 0, log: VecDeque::new(), heard: false };
        }
    }

    /// A link was registered anew: nothing is in flight, the window stays.
    pub fn forget_in_flight(&mut self, link: usize) {
        if let Some(link) = self.links.get_mut(link) {
            link.in_flight = 0;
            link.log.clear();
        }
    }

    /// Window of a link, in thousandths of a packet.
    pub fn window(&self, link: usize) -> i64 {
        self.links.get(link).map_or(0, |l| l.window)
    }

    /// Packets in flight on a link.
    pub fn in_flight(&self, link: usize) -> i64 {
        self.links.get(link).map_or(0, |l| l.in_flight)
    }

    /// Learns from a packet of the receiver: SRTLA ACK, SRT ACK and SRT NAK matter, the rest does not.
    pub fn learn(&mut self, bytes: &[u8]) {
        match wire::kind(bytes) {
            Kind::SrtlaAck => {
                for offset in (4..bytes.len()).step_by(4) {
                    if let Some(seq) = wire::word32(bytes, offset) {
                        self.srtla_ack(seq);
                    }
                }
            }
            Kind::SrtAck => {
                if let Some(seq) = wire::word32(bytes, 16) {
                    self.srt_ack(seq);
                }
            }
            Kind::SrtNak => self.nak_list(bytes),
            _ => {}
        }
    }

    fn srtla_ack(&mut self, seq: u32) {
        for link in &mut self.links {
            if let Some(at) = link.log.iter().rposition(|&s| s == seq) {
                link.log.remove(at);
                link.in_flight = (link.in_flight - 1).max(0);
                if link.in_flight * WINDOW_UNIT > link.window {
                    link.window += WINDOW_OWN_ACK;
                }
                if !self.flavour.remove_everywhere {
                    break;
                }
            }
        }
        for link in &mut self.links {
            if self.flavour.every_link_grows || link.heard {
                link.window = (link.window + 1).min(WINDOW_MAX);
            }
        }
    }

    fn srt_ack(&mut self, ack: u32) {
        if self.flavour.srt_ack_only_forward {
            if self.highest_srt_ack.is_some_and(|highest| ack <= highest) {
                return;
            }
            self.highest_srt_ack = Some(ack);
        }
        let wrap_aware = self.flavour.wrap_aware;
        let below = |seq: u32| {
            if wrap_aware {
                ack.wrapping_sub(seq) << 1 != 0 && (ack.wrapping_sub(seq) & 0x7fff_ffff) < 0x4000_0000
            } else {
                seq < ack
            }
        };
        for link in &mut self.links {
            link.log.retain(|&seq| !below(seq));
            link.in_flight = link.log.len() as i64;
        }
    }

    fn nak_list(&mut self, bytes: &[u8]) {
        let mut words =
            (self.flavour.nak_list_offset..bytes.len()).step_by(4).filter_map(|at| wire::word32(bytes, at));
        while let Some(word) = words.next() {
            if word >> 31 == 0 {
                self.nak(word);
            } else if let Some(last) = words.next() {
                let first = word & 0x7fff_ffff;
                for seq in first..=last.min(first.saturating_add(NAK_RANGE_MAX)) {
                    self.nak(seq);
                }
            }
        }
    }

    fn nak(&mut self, seq: u32) {
        for link in &mut self.links {
            if let Some(at) = link.log.iter().rposition(|&s| s == seq) {
                link.log.remove(at);
                link.window = (link.window - WINDOW_NAK).max(WINDOW_MIN);
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Flavour = Flavour {
        log_slots: 256,
        wrap_aware: false,
        remove_everywhere: false,
        every_link_grows: false,
        srt_ack_only_forward: false,
        nak_list_offset: 16,
    };

    fn data(seq: u32) -> Vec<u8> {
        let mut packet = vec![0; 20];
        packet[..4].copy_from_slice(&seq.to_be_bytes());
        packet
    }

    fn srtla_ack(seqs: impl IntoIterator<Item = u32>) -> Vec<u8> {
        let mut packet = vec![0x91, 0, 0, 0];
        for seq in seqs {
            packet.extend(seq.to_be_bytes());
        }
        packet
    }

    fn srt_control(kind: u16, words: &[u32]) -> Vec<u8> {
        let mut packet = vec![0; 16];
        packet[..2].copy_from_slice(&kind.to_be_bytes());
        for word in words {
            packet.extend(word.to_be_bytes());
        }
        packet
    }

    #[test]
    fn packets_alternate_over_equal_links_and_the_first_wins_ties() {
        let mut windows = Windows::new(2, PLAIN);
        let picks: Vec<_> = (0..4)
            .map(|seq| {
                let link = windows.select(|_| true).unwrap();
                windows.sent(link, &data(seq));
                link
            })
            .collect();
        assert_eq!(picks, [0, 1, 0, 1]);
        assert_eq!(windows.select(|_| false), None);
    }

    #[test]
    fn one_srtla_ack_gives_one_per_packet_to_all_and_29_more_to_a_loaded_owner() {
        let mut windows = Windows::new(2, PLAIN);
        windows.heard(0);
        for seq in 0..31 {
            windows.sent(0, &data(seq));
        }
        // 30 in flight after the first acknowledgement, more than 20: the owner is loaded.
        windows.learn(&srtla_ack(0..10));
        assert_eq!((windows.in_flight(0), windows.window(0)), (21, 20_000 + 10 * 30));
        assert_eq!(windows.window(1), 20_000, "never heard from");
    }

    #[test]
    fn a_nak_costs_100_and_leaves_in_flight() {
        let mut windows = Windows::new(1, PLAIN);
        (0..5).for_each(|seq| windows.sent(0, &data(seq)));
        windows.learn(&srt_control(wire::SRT_NAK, &[1, 0x8000_0002, 3]));
        assert_eq!((windows.window(0), windows.in_flight(0)), (20_000 - 300, 5));
        windows.learn(&srt_control(wire::SRT_ACK, &[4]));
        assert_eq!(windows.in_flight(0), 1);
    }

    #[test]
    fn the_wrap_confuses_only_those_it_confuses() {
        let last = 0x7fff_ffff;
        for (wrap_aware, remaining) in [(false, 1), (true, 0)] {
            let mut windows = Windows::new(1, Flavour { wrap_aware, ..PLAIN });
            windows.sent(0, &data(last));
            windows.sent(0, &data(0));
            windows.learn(&srt_control(wire::SRT_ACK, &[1]));
            assert_eq!(windows.in_flight(0), remaining);
        }
    }
}
