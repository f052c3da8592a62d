//! The ledger: what the encoder's SRT socket accepted, and what became of it.
//!
//! Promises: every payload says who it is (stream, number, checksum), the sink checks each one bit by bit, once and in
//! order, and a payload that never arrives must be explained by something the world did to it. What cannot be explained
//! is a violation.

use std::time::{Duration, Instant};

use crate::rng::Rng;

/// Shortest payload that can say who it is: stream, number, checksum.
pub const PAYLOAD_LEN_MIN: usize = 20;

/// The fate of one payload.
#[derive(Clone, Debug)]
struct Entry {
    accepted_at: Instant,
    /// Datagrams with it that the encoder sent.
    transmissions: u32,
    /// Datagrams with it that the world lost.
    losses: u32,
    /// First time one of them reached the SRT server.
    arrived_at: Option<Instant>,
    delivered_at: Option<Instant>,
}

/// Why a payload is missing at the sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Missing {
    /// At least one datagram that carried it was lost, and its repair was not in time.
    Lost,
    /// It reached the SRT server when its time to be delivered was over.
    Late,
    /// The SRT session it was handed to ended.
    SessionEnded,
    /// Nothing the world did explains it.
    Unexplained,
}

/// The ledger of one stream.
#[derive(Debug)]
pub struct Ledger {
    stream: u32,
    payload_len: usize,
    latency: Duration,
    entries: Vec<Entry>,
    next_expected: usize,
    delivered: usize,
    last_delivery: Option<Instant>,
    first_delivery: Option<Instant>,
    longest_gap: Duration,
    /// When a session ended for one side, and when the server had the next one.
    outages: Vec<(Instant, Option<Instant>)>,
    violations: Vec<String>,
}

impl Ledger {
    /// A ledger for payloads of `payload_len` bytes which the sink should get `latency` after they were accepted.
    pub fn new(seed: u64, payload_len: usize, latency: Duration) -> Self {
        assert!(payload_len >= PAYLOAD_LEN_MIN, "a payload must have room for its identity");
        Self {
            stream: Rng::new(seed).next_u64() as u32,
            payload_len,
            latency,
            entries: Vec::new(),
            next_expected: 0,
            delivered: 0,
            last_delivery: None,
            first_delivery: None,
            longest_gap: Duration::ZERO,
            outages: Vec::new(),
            violations: Vec::new(),
        }
    }

    /// The next payload to hand to the encoder.
    pub fn next_payload(&self) -> Vec<u8> {
        self.payload(self.entries.len() as u64)
    }

    fn payload(&self, number: u64) -> Vec<u8> {
        let mut bytes = vec![0; self.payload_len];
        bytes[..4].copy_from_slice(&self.stream.to_be_bytes());
        bytes[4..12].copy_from_slice(&number.to_be_bytes());
        let end = self.payload_len - 8;
        Rng::new(number ^ u64::from(self.stream)).fill(&mut bytes[12..end]);
        let sum = checksum(&bytes[..end]);
        bytes[end..].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    /// The payload of [`Ledger::next_payload`] was accepted by the encoder.
    pub fn accepted(&mut self, now: Instant) {
        self.entries.push(Entry {
            accepted_at: now,
            transmissions: 0,
            losses: 0,
            arrived_at: None,
            delivered_at: None,
        });
    }

    /// A datagram with this payload left the encoder.
    pub fn transmitted(&mut self, payload: &[u8]) {
        if let Some(entry) = self.entry_of(payload) {
            entry.transmissions += 1;
        }
    }

    /// A datagram with this payload was lost by the world or refused by the receiver.
    pub fn lost(&mut self, payload: &[u8]) {
        if let Some(entry) = self.entry_of(payload) {
            entry.losses += 1;
        }
    }

    /// A datagram with this payload reached the SRT server. True for the first one.
    pub fn arrived(&mut self, now: Instant, payload: &[u8]) -> bool {
        let Some(entry) = self.entry_of(payload) else { return false };
        let is_first = entry.arrived_at.is_none();
        entry.arrived_at.get_or_insert(now);
        is_first
    }

    /// The encoder's SRT session ended for one of its sides: what is not delivered by then is gone, and so is all that
    /// the encoder still puts in.
    pub fn session_ended(&mut self, now: Instant) {
        self.outages.push((now, None));
    }

    /// The SRT server has a new session of the encoder.
    pub fn session_began(&mut self, now: Instant) {
        for (_, until) in &mut self.outages {
            until.get_or_insert(now);
        }
    }

    /// The sink got this payload.
    pub fn delivered(&mut self, now: Instant, payload: &[u8]) {
        let Some(index) = self.index_of(payload) else {
            self.violation(format!("delivered {} bytes that nobody sent", payload.len()));
            return;
        };
        if payload != self.payload(index as u64) {
            self.violation(format!("payload {index} was delivered with other bytes"));
        }
        let entry = &mut self.entries[index];
        if entry.delivered_at.replace(now).is_some() {
            self.violation(format!("payload {index} was delivered twice"));
        } else {
            self.delivered += 1;
        }
        if index < self.next_expected {
            let next = self.next_expected;
            self.violation(format!("payload {index} was delivered when {next} was next"));
        }
        self.next_expected = index + 1;
        let gap = now - self.last_delivery.unwrap_or(now);
        self.longest_gap = self.longest_gap.max(gap);
        self.last_delivery = Some(now);
        self.first_delivery.get_or_insert(now);
    }

    /// Payloads the encoder accepted.
    pub fn accepted_count(&self) -> usize {
        self.entries.len()
    }

    /// Payloads that reached the SRT server and not, or not yet, the sink.
    pub fn arrived_undelivered(&self) -> usize {
        self.entries.iter().filter(|e| e.arrived_at.is_some() && e.delivered_at.is_none()).count()
    }

    /// Payloads the sink got.
    pub fn delivered_count(&self) -> usize {
        self.delivered
    }

    /// When the sink got its first payload.
    pub fn first_delivery(&self) -> Option<Instant> {
        self.first_delivery
    }

    /// When the sink got its newest payload.
    pub fn last_delivery(&self) -> Option<Instant> {
        self.last_delivery
    }

    /// Longest time between two deliveries so far; `reset_gap` starts the measurement again.
    pub fn longest_gap(&self) -> Duration {
        self.longest_gap
    }

    /// Starts the measurement of the longest gap again.
    pub fn reset_gap(&mut self) {
        self.longest_gap = Duration::ZERO;
    }

    /// Accept-to-delivery times, sorted.
    pub fn latencies(&self) -> Vec<Duration> {
        let mut latencies: Vec<_> =
            self.entries.iter().filter_map(|e| Some(e.delivered_at? - e.accepted_at)).collect();
        latencies.sort_unstable();
        latencies
    }

    /// Missing payloads with their explanation. Meaningful when the world has come to rest.
    pub fn missing(&self) -> impl Iterator<Item = (usize, Missing)> {
        self.entries
            .iter()
            .enumerate()
            .filter(|(_, e)| e.delivered_at.is_none())
            .map(|(n, e)| (n, self.explain(e)))
    }

    fn explain(&self, entry: &Entry) -> Missing {
        // A session that ends takes with it what waits in its buffers: at both ends, up to a latency each.
        let buffered = self.latency * 2 + Duration::from_secs(1);
        let accepted_at = entry.accepted_at;
        let is_within = |&(from, until): &(Instant, Option<Instant>)| {
            accepted_at + buffered >= from && until.is_none_or(|until| accepted_at < until)
        };
        if self.outages.iter().any(is_within) {
            Missing::SessionEnded
        } else if entry.losses > 0 {
            Missing::Lost
        } else if entry.arrived_at.is_some_and(|at| at - entry.accepted_at > self.latency) {
            Missing::Late
        } else {
            Missing::Unexplained
        }
    }

    /// What must not happen and did (the first few), in words.
    pub fn violations(&self) -> &[String] {
        &self.violations
    }

    fn violation(&mut self, what: String) {
        if self.violations.len() < 20 {
            self.violations.push(what);
        }
    }

    fn index_of(&self, payload: &[u8]) -> Option<usize> {
        if payload.len() != self.payload_len || payload[..4] != self.stream.to_be_bytes() {
            return None;
        }
        let number = u64::from_be_bytes(payload[4..12].try_into().ok()?);
        usize::try_from(number).ok().filter(|&n| n < self.entries.len())
    }

    fn entry_of(&mut self, payload: &[u8]) -> Option<&mut Entry> {
        let index = self.index_of(payload)?;
        self.entries.get_mut(index)
    }

    /// What happened to one payload, for messages of failing tests; times count from `start`.
    pub fn describe(&self, number: usize, start: Instant) -> String {
        self.entries.get(number).map_or_else(String::new, |entry| {
            format!(
                "payload {number} accepted at {:?}, sent {} times, lost {} times, first at the server at {:?}, outages {:?}",
                entry.accepted_at - start,
                entry.transmissions,
                entry.losses,
                entry.arrived_at.map(|at| at - start),
                self.outages.iter().map(|(from, to)| (*from - start, to.map(|to| to - start))).collect::<Vec<_>>()
            )
        })
    }
}

/// FNV-1a over 8-byte words: enough to notice any byte in the wrong place.
pub fn checksum(bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(0xcbf2_9ce4_8422_2325, |hash, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        (hash ^ u64::from_le_bytes(word) ^ ((chunk.len() as u64) << 56)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATENCY: Duration = Duration::from_millis(100);

    fn ledger(accepted: usize) -> (Ledger, Vec<Vec<u8>>, Instant) {
        let now = Instant::now();
        let mut ledger = Ledger::new(1, 100, LATENCY);
        let payloads = (0..accepted)
            .map(|_| {
                let payload = ledger.next_payload();
                ledger.accepted(now);
                payload
            })
            .collect();
        (ledger, payloads, now)
    }

    #[test]
    fn a_clean_run_has_nothing_to_say() {
        let (mut ledger, payloads, now) = ledger(3);
        for payload in &payloads {
            ledger.delivered(now + LATENCY, payload);
        }
        assert_eq!((ledger.delivered_count(), ledger.missing().count()), (3, 0));
        assert!(ledger.violations().is_empty());
        assert_eq!(ledger.latencies(), [LATENCY; 3]);
    }

    #[test]
    fn twice_out_of_order_and_altered_are_violations() {
        let (mut ledger, mut payloads, now) = ledger(4);
        ledger.delivered(now, &payloads[1]);
        ledger.delivered(now, &payloads[1]);
        ledger.delivered(now, &payloads[0]);
        payloads[3][50] ^= 1;
        ledger.delivered(now, &payloads[3]);
        ledger.delivered(now, &[0; 100]);
        let text = ledger.violations().join("; ");
        for part in
            ["1 was delivered twice", "0 was delivered when 2", "3 was delivered with other", "nobody sent"]
        {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn missing_payloads_need_an_explanation() {
        let (mut ledger, payloads, now) = ledger(4);
        ledger.delivered(now + LATENCY, &payloads[0]);
        ledger.lost(&payloads[1]);
        ledger.arrived(now + LATENCY * 2, &payloads[2]);
        ledger.arrived(now + LATENCY / 2, &payloads[3]);
        let missing: Vec<_> = ledger.missing().collect();
        assert_eq!(missing, [(1, Missing::Lost), (2, Missing::Late), (3, Missing::Unexplained)]);
        ledger.session_ended(now + LATENCY);
        assert!(ledger.missing().all(|(_, why)| why == Missing::SessionEnded));
    }
}
