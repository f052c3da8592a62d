//! What a world has to report when it is over.

use std::collections::BTreeMap;
use std::time::Duration;

use super::ledger::Missing;

/// Figures of a finished world. All of them follow from setup and script alone.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Seed of the world, to repeat it.
    pub seed: u64,
    /// Payloads offered to the encoder's SRT engine.
    pub offered: u64,
    /// Payloads the engine took.
    pub accepted: usize,
    /// Payloads the sink got, each once, in order, bit-exact.
    pub delivered: usize,
    /// Accepted payloads that never arrived, by explanation.
    pub missing: BTreeMap<Missing, usize>,
    /// The fate of the first few missing payloads.
    pub missing_details: Vec<String>,
    /// What broke a promise, in words. Empty in a good world.
    pub violations: Vec<String>,
    /// From the start of the world to the first payload at the sink.
    pub first_video: Option<Duration>,
    /// Longest time between two payloads at the sink.
    pub longest_gap: Duration,
    /// Accept-to-delivery time of the median payload.
    pub latency_p50: Duration,
    /// Accept-to-delivery time that 99 % of the payloads keep.
    pub latency_p99: Duration,
    /// Longest accept-to-delivery time.
    pub latency_max: Duration,
    /// SRT data packets sent by the encoder, first transmissions.
    pub data_packets: u64,
    /// SRT data packets sent by the encoder again.
    pub retransmissions: u64,
    /// Payloads that reached the SRT server only after the encoder's SHUTDOWN.
    pub overtaken: u64,
    /// SRT data packets the bonding sender put on each link.
    pub link_packets: Vec<u64>,
    /// Times the encoder's SRT session came up.
    pub sessions: u32,
    /// Why sessions ended, encoder's view.
    pub session_ends: Vec<String>,
    /// Datagrams the receiver dropped, by direction and reason.
    pub receiver_drops: BTreeMap<String, u64>,
    /// What the script did and how sessions fared, with the time since the world began.
    pub history: Vec<String>,
    /// Hash over everything that happened, with its times.
    pub trace_hash: u64,
}

impl Report {
    /// Retransmissions per 100 packets.
    pub fn retransmissions_per_100(&self) -> f64 {
        100.0 * self.retransmissions as f64 / (self.data_packets.max(1)) as f64
    }

    /// Share of the offered payloads that arrived in time, in percent.
    pub fn goodput_percent(&self) -> f64 {
        100.0 * self.delivered as f64 / (self.offered.max(1)) as f64
    }

    /// Missing payloads, whatever the reason.
    pub fn missing_count(&self) -> usize {
        self.missing.values().sum()
    }

    /// Panics with the whole report unless every law held and every missing payload is explained.
    #[track_caller]
    pub fn assert_lawful(&self) -> &Self {
        let unexplained = self.missing.get(&Missing::Unexplained).copied().unwrap_or(0);
        assert!(self.violations.is_empty() && unexplained == 0, "seed {}: {self:#?}", self.seed);
        self
    }

    /// [`Report::assert_lawful`], and nothing is missing at all and something was sent.
    #[track_caller]
    pub fn assert_nothing_lost(&self) -> &Self {
        self.assert_lawful();
        assert!(self.accepted > 0 && self.delivered == self.accepted, "seed {}: {self:#?}", self.seed);
        self
    }
}
