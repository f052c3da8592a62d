//! The demo's bookkeeper: did every payload the encoder handed over reach the viewer once, in order, bit-exact?
//!
//! Promises: what arrived is compared byte by byte with what was handed over, never by a checksum; nothing is assumed
//! delivered that was not seen; memory is bounded, and what the bound makes it forget counts as missing.
//!
//! Payloads are told apart by their content, so the encoder must not hand over the same bytes twice within the window.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;

/// Payloads remembered while they are on their way: a minute at 3 Mb/s.
const OUTSTANDING_MAX: usize = 16 * 1024;
/// Overtaken payloads remembered in case they arrive after all.
const SKIPPED_MAX: usize = 4 * 1024;
/// Delivered payloads remembered to recognise a second delivery.
const DELIVERED_MAX: usize = 1024;
/// Longest delay the histogram tells apart.
const DELAY_US_MAX: u64 = 60_000_000;

/// The counts. `missing` is what was handed over and did not arrive bit-exact, whatever the reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Account {
    pub handed_over_payloads: u64,
    pub handed_over_bytes: u64,
    /// Delivered bit-exact, each counted once, late ones included.
    pub delivered_payloads: u64,
    pub delivered_bytes: u64,
    /// Delivered, but after a payload that was handed over later. Also counted as delivered.
    pub reordered_payloads: u64,
    /// Further deliveries of a payload.
    pub duplicated_payloads: u64,
    /// Arrivals that equal nothing that was handed over.
    pub corrupt_payloads: u64,
    /// Longest time between two arrivals.
    pub gap_max: Duration,
}

impl Account {
    /// Payloads that did not arrive.
    pub fn missing_payloads(&self) -> u64 {
        self.handed_over_payloads - self.delivered_payloads
    }

    /// Whether everything that was handed over arrived once, in order, bit-exact. Nothing handed over is not perfect.
    pub fn is_perfect(&self) -> bool {
        self.handed_over_payloads > 0
            && self.missing_payloads() == 0
            && self.reordered_payloads == 0
            && self.duplicated_payloads == 0
            && self.corrupt_payloads == 0
    }
}

#[derive(Debug)]
struct Entry {
    at: Instant,
    payload: Bytes,
}

/// The book.
#[derive(Debug)]
pub struct Ledger {
    /// Handed over and not yet seen, in order.
    outstanding: VecDeque<Entry>,
    /// Overtaken by a later payload.
    skipped: VecDeque<Entry>,
    /// Seen, newest last.
    delivered: VecDeque<Bytes>,
    account: Account,
    last_arrival: Option<Instant>,
    /// Longest time between two arrivals since [`Self::mark_gap`].
    gap_since_mark: Duration,
    /// Delay that was asked for, and is therefore not added by the path.
    configured_delay: Duration,
    added_delay_us: Histogram<u64>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self::new()
    }
}

impl Ledger {
    /// An empty book, with no delay configured.
    pub fn new() -> Self {
        let added_delay_us = Histogram::new_with_bounds(1, DELAY_US_MAX, 3)
            .unwrap_or_else(|_| unreachable!("the bounds are constants that the histogram allows"));
        Self {
            outstanding: VecDeque::new(),
            skipped: VecDeque::new(),
            delivered: VecDeque::with_capacity(DELIVERED_MAX),
            account: Account::default(),
            last_arrival: None,
            gap_since_mark: Duration::ZERO,
            configured_delay: Duration::ZERO,
            added_delay_us,
        }
    }

    /// Sets the sum of the latencies agreed on along the way; the delay beyond it is what the path added.
    pub fn set_configured_delay(&mut self, delay: Duration) {
        self.configured_delay = delay;
    }

    /// The encoder hands over a payload.
    pub fn hand_over(&mut self, now: Instant, payload: Bytes) {
        self.account.handed_over_payloads += 1;
        self.account.handed_over_bytes += payload.len() as u64;
        if self.outstanding.len() == OUTSTANDING_MAX {
            self.outstanding.pop_front();
        }
        self.outstanding.push_back(Entry { at: now, payload });
    }

    /// A payload reaches the viewer.
    pub fn arrive(&mut self, now: Instant, payload: &Bytes) {
        if let Some(last) = self.last_arrival.replace(now) {
            let gap = now.saturating_duration_since(last);
            self.account.gap_max = self.account.gap_max.max(gap);
            self.gap_since_mark = self.gap_since_mark.max(gap);
        }
        if self.outstanding.front().is_some_and(|next| next.payload == payload) {
            if let Some(entry) = self.outstanding.pop_front() {
                self.deliver(now, entry);
            }
        } else if self.delivered.contains(payload) {
            self.account.duplicated_payloads += 1;
        } else if let Some(at) = self.outstanding.iter().position(|entry| entry.payload == payload) {
            for _ in 0..at {
                if self.skipped.len() == SKIPPED_MAX {
                    self.skipped.pop_front();
                }
                self.skipped.extend(self.outstanding.pop_front());
            }
            if let Some(entry) = self.outstanding.pop_front() {
                self.deliver(now, entry);
            }
        } else if let Some(at) = self.skipped.iter().position(|entry| entry.payload == payload) {
            self.account.reordered_payloads += 1;
            if let Some(entry) = self.skipped.remove(at) {
                self.deliver(now, entry);
            }
        } else {
            self.account.corrupt_payloads += 1;
        }
    }

    fn deliver(&mut self, now: Instant, entry: Entry) {
        self.account.delivered_payloads += 1;
        self.account.delivered_bytes += entry.payload.len() as u64;
        let added = now.saturating_duration_since(entry.at).saturating_sub(self.configured_delay);
        self.added_delay_us.saturating_record((added.as_micros() as u64).min(DELAY_US_MAX));
        if self.delivered.len() == DELIVERED_MAX {
            self.delivered.pop_front();
        }
        self.delivered.push_back(entry.payload);
    }

    /// Begins a new measurement of the longest gap, for instance when a link dies.
    pub fn mark_gap(&mut self) {
        self.gap_since_mark = Duration::ZERO;
    }

    /// Longest time between two arrivals since the last [`Self::mark_gap`].
    pub fn gap_since_mark(&self) -> Duration {
        self.gap_since_mark
    }

    /// True when nothing is on its way any more: whatever is missing now is lost, or was overtaken.
    pub fn is_settled(&self) -> bool {
        self.outstanding.is_empty() && self.skipped.is_empty()
    }

    /// Payloads handed over and neither seen nor overtaken yet.
    pub fn outstanding_payloads(&self) -> u64 {
        self.outstanding.len() as u64
    }

    /// When the first and the last of the payloads that are overtaken or on their way were handed over.
    pub fn missing_between(&self) -> Option<(Instant, Instant)> {
        let mut times = self.skipped.iter().chain(&self.outstanding).map(|entry| entry.at);
        let first = times.next()?;
        Some(times.fold((first, first), |(least, most), at| (least.min(at), most.max(at))))
    }

    /// The counts so far; what is on its way counts as missing.
    pub fn account(&self) -> Account {
        self.account
    }

    /// Payloads that a later one has overtaken: lost, or at least out of order.
    pub fn overtaken_payloads(&self) -> u64 {
        self.skipped.len() as u64
    }

    /// Delay the path added to the configured latencies, at a quantile from 0 to 1; `None` before the first arrival.
    pub fn added_delay(&self, quantile: f64) -> Option<Duration> {
        (!self.added_delay_us.is_empty())
            .then(|| Duration::from_micros(self.added_delay_us.value_at_quantile(quantile)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const LATENCY: Duration = Duration::from_millis(500);

    fn ledger() -> Ledger {
        let mut ledger = Ledger::new();
        ledger.set_configured_delay(LATENCY);
        ledger
    }

    fn payload(n: u32) -> Bytes {
        let mut bytes = vec![0x47; 1316];
        bytes[4..8].copy_from_slice(&n.to_be_bytes());
        bytes.into()
    }

    /// Hands over 0..count and lets `arrivals` arrive, each 520 ms after its turn.
    fn book(count: u32, arrivals: impl IntoIterator<Item = Bytes>) -> Ledger {
        let start = Instant::now();
        let mut ledger = ledger();
        for n in 0..count {
            ledger.hand_over(start + MS * n, payload(n));
        }
        for (n, bytes) in (0..).zip(arrivals) {
            ledger.arrive(start + MS * n + LATENCY + 20 * MS, &bytes);
        }
        ledger
    }

    #[test]
    fn a_perfect_run() {
        let ledger = book(100, (0..100).map(payload));
        let account = ledger.account();
        assert!(account.is_perfect() && ledger.is_settled(), "{account:?}");
        assert_eq!((account.delivered_payloads, account.delivered_bytes), (100, 131_600));
        assert_eq!(ledger.missing_between(), None);
        assert_eq!(account.gap_max, MS);
        let added = ledger.added_delay(0.5).unwrap();
        assert!((19_900..20_100).contains(&added.as_micros()), "{added:?}");
    }

    #[test]
    fn nothing_handed_over_is_not_perfect() {
        let ledger = book(0, []);
        assert!(!ledger.account().is_perfect());
        assert_eq!(ledger.added_delay(0.5), None);
    }

    #[test]
    fn missing_payloads_are_counted() {
        let ledger = book(100, (0..100).filter(|n| !(40..43).contains(n)).map(payload));
        let account = ledger.account();
        assert_eq!((account.missing_payloads(), account.delivered_payloads), (3, 97));
        assert_eq!(
            (account.reordered_payloads, account.duplicated_payloads, account.corrupt_payloads),
            (0, 0, 0)
        );
        assert!(!account.is_perfect() && !ledger.is_settled());
        assert_eq!(ledger.overtaken_payloads(), 3);
        let (first, last) = ledger.missing_between().unwrap();
        assert_eq!(last - first, 2 * MS);
    }

    #[test]
    fn the_last_payload_counts_too() {
        let account = book(100, (0..99).map(payload)).account();
        assert_eq!(account.missing_payloads(), 1);
        assert!(!account.is_perfect());
    }

    #[test]
    fn duplicates_are_counted() {
        let twice = |n| std::iter::repeat_n(payload(n), if n == 50 { 2 } else { 1 });
        let account = book(100, (0..100).flat_map(twice)).account();
        assert_eq!(
            (account.duplicated_payloads, account.delivered_payloads, account.missing_payloads()),
            (1, 100, 0)
        );
        assert!(!account.is_perfect());
        let late = book(100, (0..100).chain([7]).map(payload)).account();
        assert_eq!((late.duplicated_payloads, late.corrupt_payloads), (1, 0));
    }

    #[test]
    fn reordering_is_counted_and_not_missing() {
        let swapped = |n| match n {
            60 => 61,
            61 => 60,
            n => n,
        };
        let ledger = book(100, (0..100).map(swapped).map(payload));
        let account = ledger.account();
        assert_eq!(
            (account.reordered_payloads, account.missing_payloads(), account.duplicated_payloads),
            (1, 0, 0)
        );
        assert!(!account.is_perfect() && ledger.is_settled());
    }

    #[test]
    fn one_flipped_bit_is_corrupt_and_missing() {
        for at in [0, 700, 1315] {
            let damaged = |n| {
                let mut bytes = payload(n).to_vec();
                bytes[at] ^= u8::from(n == 30);
                Bytes::from(bytes)
            };
            let account = book(100, (0..100).map(damaged)).account();
            assert_eq!((account.corrupt_payloads, account.missing_payloads()), (1, 1), "byte {at}");
            assert!(!account.is_perfect());
        }
        let cut = |n| if n == 30 { payload(n).slice(..1315) } else { payload(n) };
        let account = book(100, (0..100).map(cut)).account();
        assert_eq!((account.corrupt_payloads, account.missing_payloads()), (1, 1));
    }

    #[test]
    fn gaps_are_measured_from_the_mark() {
        let start = Instant::now();
        let mut ledger = ledger();
        let arrive = |ledger: &mut Ledger, n: u32, at: Instant| {
            ledger.hand_over(at, payload(n));
            ledger.arrive(at, &payload(n));
        };
        arrive(&mut ledger, 0, start);
        arrive(&mut ledger, 1, start + 80 * MS);
        ledger.mark_gap();
        arrive(&mut ledger, 2, start + 110 * MS);
        assert_eq!((ledger.account().gap_max, ledger.gap_since_mark()), (80 * MS, 30 * MS));
        // Faster than configured is no added delay.
        assert_eq!(ledger.added_delay(1.0), Some(Duration::ZERO));
    }

    #[test]
    fn memory_is_bounded_and_what_is_forgotten_is_missing() {
        let start = Instant::now();
        let mut ledger = ledger();
        let count = OUTSTANDING_MAX as u32 + 10;
        for n in 0..count {
            ledger.hand_over(start, payload(n));
        }
        assert_eq!(ledger.outstanding.len(), OUTSTANDING_MAX);
        for n in 10..count {
            ledger.arrive(start, &payload(n));
        }
        assert_eq!(ledger.account().missing_payloads(), 10);
        assert!(!ledger.account().is_perfect());
        assert!(ledger.delivered.len() <= DELIVERED_MAX);
    }
}
