//! What a shard publishes about itself, a few times a second, for the control plane to read.
//!
//! Promises: the shard never waits for a reader. It fills the slot with `try_lock` and skips the beat when somebody
//! is reading; vectors keep their capacity from beat to beat. Nothing in it grows with the number of links: of them it holds
//! sums, and whoever wants more [asks](SnapshotSlot::ask).

#![expect(clippy::disallowed_types, reason = "only ever tried, and only in the beat")]

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bondgate_auth::cidr::Cidr;

/// One shard's state at one moment.
#[derive(Clone, Debug, Default)]
pub struct ShardSnapshot {
    /// Shard number, from 0.
    pub shard: u8,
    /// Backend in use: `uring`, `mmsg` or `mem`.
    pub backend: &'static str,
    /// When the figures were taken; `None` before the first beat.
    pub taken: Option<Instant>,
    /// Turns of the loop since start.
    pub turns: u64,
    /// Socket counters.
    pub io: IoTotals,
    /// SRTLA receiver counters; `received` and `taken_over` equal the sum of the verdicts and of `dropped`.
    pub srtla: SrtlaTotals,
    /// How many groups and links there are.
    pub present: Present,
    /// The links by stream and index.
    pub paths: Vec<PathStats>,
    /// Live streams (relay) in this shard.
    pub streams: Vec<StreamStats>,
    /// Valid device keys in the policy in force.
    pub device_keys: usize,
    /// Datagrams dropped at the SRT port before the engine saw them, since start, by reason.
    pub srt_dropped: Vec<(&'static str, u64)>,
    /// SRT connections refused since start, by reason.
    pub rejections: Vec<(&'static str, u64)>,
}

/// Datagrams and bytes through the backend since start.
#[derive(Clone, Copy, Debug, Default)]
#[expect(missing_docs, reason = "the names say it; units are in the names")]
pub struct IoTotals {
    pub rx_datagrams: u64,
    pub rx_bytes: u64,
    pub tx_datagrams: u64,
    pub tx_bytes: u64,
    pub gso_sends: u64,
    pub wakes: u64,
    pub rx_overflow_datagrams: u64,
    pub tx_dropped_datagrams: u64,
}

/// Verdicts of the SRTLA receiver since start, in datagrams.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "the names are the verdicts of the protocol crate")]
pub struct SrtlaTotals {
    pub received: u64,
    pub forwarded: u64,
    pub fanned_out: u64,
    pub to_link: u64,
    pub consumed: u64,
    pub handed_off: u64,
    /// Datagrams that other shards have handed over to this one.
    pub taken_over: u64,
    /// Datagrams of links that came in at the shard that owns them; among the others, too.
    pub on_owner: u64,
    pub dropped: Vec<(&'static str, u64)>,
    /// What registration has done, by event; not datagrams.
    pub registration: Vec<(&'static str, u64)>,
}

/// SRTLA groups and links at present.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Present {
    pub groups: u64,
    pub groups_on_probation: u64,
    pub links: u64,
    /// Heard within the last three seconds.
    pub links_live: u64,
}

/// The links with one index of all groups of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PathStats {
    /// Stream name once known, empty before.
    pub stream: String,
    /// Small stable number of a link within its group.
    pub index: u8,
    /// Datagrams received since the links joined.
    pub rx_datagrams: u64,
    /// Bytes received since the links joined.
    pub rx_bytes: u64,
    /// One of them was heard within the last three seconds.
    pub live: bool,
}

/// The live links in a network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinksIn {
    /// How many.
    pub links: u64,
    /// Of which streams, as far as they are known.
    pub streams: Vec<String>,
}

/// One stream of the relay.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the names say it; units are in the names")]
pub struct StreamStats {
    pub name: String,
    pub publishing: bool,
    pub bonded: bool,
    pub players: usize,
    pub rx_datagrams: u64,
    pub rx_bytes: u64,
    pub lost_datagrams: u64,
    pub recovered_datagrams: u64,
    pub dropped_datagrams: u64,
    /// Payloads a player was too slow to take, over all players.
    pub player_overflow_datagrams: u64,
    pub retransmitted_datagrams: u64,
    pub rtt_us: u64,
    pub latency_ms: u64,
    pub reorder_hold_ms: u64,
}

/// The slot both sides share.
#[derive(Clone, Debug, Default)]
pub struct SnapshotSlot(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    snapshot: Mutex<ShardSnapshot>,
    question: Mutex<Question>,
}

/// What was asked last, and the answer to it.
#[derive(Debug, Default)]
struct Question {
    network: Option<Cidr>,
    answer: Option<LinksIn>,
}

impl SnapshotSlot {
    /// Lets the shard refresh the slot in place; returns false when a reader held it (try again next beat).
    pub fn publish(&self, fill: impl FnOnce(&mut ShardSnapshot)) -> bool {
        match self.0.snapshot.try_lock() {
            Ok(mut slot) => {
                fill(&mut slot);
                true
            }
            Err(_) => false,
        }
    }

    /// A copy for a reader.
    pub fn read(&self) -> ShardSnapshot {
        self.0.snapshot.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// When the shard last published.
    pub fn taken(&self) -> Option<Instant> {
        self.0.snapshot.lock().unwrap_or_else(PoisonError::into_inner).taken
    }

    /// Asks for the live links in a network, in place of what was asked before. The shard answers at its next beat.
    pub fn ask(&self, network: Cidr) {
        let question = Question { network: Some(network), answer: None };
        *self.0.question.lock().unwrap_or_else(PoisonError::into_inner) = question;
    }

    /// Takes the answer, if it is there.
    pub fn answer(&self) -> Option<LinksIn> {
        self.0.question.lock().unwrap_or_else(PoisonError::into_inner).answer.take()
    }

    /// For the shard: answers what was asked, if anything was.
    pub fn reply(&self, count: impl FnOnce(Cidr) -> LinksIn) {
        if let Ok(mut question) = self.0.question.try_lock()
            && let Some(network) = question.network.take()
        {
            question.answer = Some(count(network));
        }
    }
}
