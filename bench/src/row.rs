//! The figures of one trial.
//!
//! Promise: what was not measured is `None` and printed as such.

use serde::{Deserialize, Serialize};

use crate::machine::Quiet;

/// Latencies from the intended send time to arrival at the sink, in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Half of all were faster.
    pub p50_us: f64,
    /// 99 of 100.
    pub p99_us: f64,
    /// 999 of 1000.
    pub p999_us: f64,
    /// The slowest.
    pub max_us: f64,
    /// For plots: share that was slower, and latency, at rising shares.
    pub curve: Vec<(f64, f64)>,
}

/// One trial.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Name of the scenario.
    pub scenario: String,
    /// Name of the receiver.
    pub receiver: String,
    /// Round, from 0.
    pub round: u32,
    /// What distinguishes this trial within its scenario, such as a step of a search.
    pub step: String,
    /// Groups and links of each.
    pub shape: String,
    /// Datagrams per second that were to be offered; 0: as many as possible.
    pub offered_pps: f64,
    /// Datagrams per second that were offered.
    pub sent_pps: f64,
    /// Datagrams per second that arrived, each counted once.
    pub delivered_pps: f64,
    /// Datagrams of the measured time, and those of them that never arrived. (`None` with a null sink.)
    pub sent: u64,
    /// See `sent`.
    pub lost: Option<u64>,
    /// Second copies that arrived, in the whole run.
    pub duplicates: Option<u64>,
    /// Processor time of the receiver per datagram delivered, in ns, user and system together.
    pub process_ns: Option<f64>,
    /// The receiver's share of one processor.
    pub process_share: Option<f64>,
    /// Megabits of payload taken in per second of the receiver's processor time (relay).
    #[serde(default)]
    pub mbps_per_cpu: Option<f64>,
    /// The system's part of the process time.
    pub system_share: Option<f64>,
    /// Time in soft interrupts per datagram delivered, on the generator's and on the receiver's processor, in ns.
    pub softirq_ns: Option<f64>,
    /// It is the time of receiving ones alone, exactly; else of all kinds, sampled.
    #[serde(default)]
    pub softirq_exact: bool,
    /// Datagrams that the receiver took in per turn of its loop.
    pub per_wake: Option<f64>,
    /// Latency, when the sink counts.
    pub latency: Option<Latency>,
    /// Resident memory of the receiver, in bytes.
    pub memory_bytes: Option<u64>,
    /// Growth of the kernel's slabs by the receiver's sockets, in bytes; rough.
    pub slab_bytes: Option<i64>,
    /// Growth of the receiver's memory per link more, its share of the group included, in bytes.
    #[serde(default)]
    pub link_bytes: Option<f64>,
    /// Growth of the receiver's memory and of the kernel's slabs per group more, its links included, in bytes.
    #[serde(default)]
    pub group_bytes: Option<f64>,
    /// SRTLA ACKs that came back to the links, and the numbers in them.
    pub srtla_acks: u64,
    /// See `srtla_acks`.
    pub srtla_acked: u64,
    /// Copies of SRT ACKs that came back to the links.
    pub srt_acks: u64,
    /// Datagrams the receiver says it dropped, by reason.
    pub drops: Vec<(String, u64)>,
    /// Frames that ended in its gate, by reason.
    #[serde(default)]
    pub gate_drops: Vec<(String, u64)>,
    /// Datagrams dropped at full receive buffers of the receiver's host.
    pub buffer_drops: Option<u64>,
    /// Datagrams of a flood that were sent, in all.
    pub flood_sent: u64,
    /// Datagrams of the flood per second.
    #[serde(default)]
    pub flood_pps: f64,
    /// How long registration of all links took, in s.
    pub registration_s: f64,
    /// The latest the generator was, in microseconds.
    pub generator_late_us: f64,
    /// Datagrams that left when the next one was due already, so that they did not arrive alone (generator inside the kernel).
    #[serde(default)]
    pub generator_behind: Option<u64>,
    /// Datagrams the harness itself lost: then nothing here counts.
    pub harness_lost: u64,
    /// What kept the rate from being higher.
    pub limited_by: String,
    /// How quiet the machine was.
    pub quiet: Quiet,
    /// Where it took place.
    pub topology: String,
}

impl Row {
    /// Share that was lost.
    pub fn loss(&self) -> Option<f64> {
        Some(self.lost? as f64 / self.sent.max(1) as f64)
    }
}
