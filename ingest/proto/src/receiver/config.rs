//! The receiver's configuration: sizes, timeouts and budgets, all fixed at creation.

use super::bucket::Rate;
use super::lanes::LaneRates;
use bondgate_auth::prefix::PrefixSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Most sequence numbers one SRTLA ACK of ours carries (stock receivers: exactly this many).
pub const ACK_EVERY_MAX: u32 = 10;
/// Most links a group can be configured to hold.
pub const LINKS_PER_GROUP_LIMIT: usize = 64;

/// Sizes, timeouts and budgets of a [`Receiver`](super::Receiver). Values outside their range are clamped at creation.
#[derive(Clone, Debug)]
pub struct ReceiverConfig {
    /// Groups this shard can hold, at least 1.
    pub groups_max: usize,
    /// Links per group, 1..=64.
    pub links_per_group_max: usize,
    /// A link not heard for this long is removed (up to 100 ms late).
    pub link_timeout: Duration,
    /// A link heard within this time is live and gets return traffic.
    pub link_live: Duration,
    /// A group without links is kept this long once it has carried SRT data.
    pub group_linger: Duration,
    /// A group without links is kept this long if it never carried SRT data.
    pub ghost_linger: Duration,
    /// Data packets per SRTLA ACK, 1..=10.
    pub ack_every: u32,
    /// A partial SRTLA ACK is sent this long after its first packet.
    pub ack_flush: Duration,
    /// REG2 is repeated once this long after REG1 if no join came.
    pub reg2_repeat: Duration,
    /// REG1 answers remembered for that repetition; forgetting one is harmless.
    pub pending_max: usize,
    /// REG3 is repeated in this interval to members that are silent and have sent no keepalive since they joined.
    pub reg3_repeat: Duration,
    /// How often at most, per join.
    pub reg3_repeats_max: u8,
    /// An address that carried SRT packets or keepalives within this time is not moved to another group.
    pub move_silence: Duration,
    /// Budget of NGP answers for the whole receiver.
    pub ngp_rate: Rate,
    /// Budget of keepalive echoes per link.
    pub keepalive_rate: Rate,
    /// Most unused bytes an unproven link can save up, up to 1 GiB; it earns one per byte that comes from it.
    pub credit_cap_bytes: u32,
    /// Budgets of registration.
    pub lanes: LaneRates,
    /// SRT handshakes of a group whose stream is not accepted yet. Refills, so that an encoder that tries again is heard.
    pub handshake_rate: Rate,
    /// Adopt SRT data from an unknown address when its socket ID and sequence number fit exactly one group.
    pub roaming: bool,
    /// A roamed link may attract return traffic after this many plausible packets.
    pub probation_packets: u8,
    /// How far a sequence number may be from the group's newest to be plausible.
    pub seq_window: u32,
    /// This shard's number, below `shards`.
    pub shard: u8,
    /// Shards of the process, at least 1.
    pub shards: u8,
    /// Addresses whose join went by on its way to another shard, remembered for hand-off. None with one shard.
    pub foreign_max: usize,
    /// How long such an address is remembered after its last datagram.
    pub foreign_idle: Duration,
    /// Addresses at which other shards have said that they have a link. None with one shard.
    pub claims_max: usize,
    /// How long such an address is remembered after it was last said.
    pub claim_life: Duration,
}

impl Default for ReceiverConfig {
    fn default() -> Self {
        Self {
            groups_max: 256,
            links_per_group_max: 16,
            link_timeout: Duration::from_secs(10),
            link_live: Duration::from_secs(3),
            group_linger: Duration::from_secs(30),
            ghost_linger: Duration::from_secs(5),
            ack_every: ACK_EVERY_MAX,
            ack_flush: Duration::from_millis(30),
            reg2_repeat: Duration::from_millis(150),
            pending_max: 1024,
            reg3_repeat: Duration::from_secs(1),
            reg3_repeats_max: 5,
            move_silence: Duration::from_millis(250),
            ngp_rate: Rate { per_s: 2000, burst: 4000 },
            keepalive_rate: Rate { per_s: 20, burst: 20 },
            credit_cap_bytes: 64 << 10,
            lanes: LaneRates::default(),
            handshake_rate: Rate { per_s: 2, burst: 64 },
            roaming: true,
            probation_packets: 16,
            seq_window: 8192,
            shard: 0,
            shards: 1,
            foreign_max: 4096,
            foreign_idle: Duration::from_secs(15),
            claims_max: 4096,
            claim_life: Duration::from_secs(15),
        }
    }
}

impl ReceiverConfig {
    pub(super) fn clamped(mut self) -> Self {
        self.groups_max = self.groups_max.clamp(1, 1 << 20);
        self.links_per_group_max = self.links_per_group_max.clamp(1, LINKS_PER_GROUP_LIMIT);
        self.ack_every = self.ack_every.clamp(1, ACK_EVERY_MAX);
        self.pending_max = self.pending_max.clamp(1, 1 << 20);
        self.credit_cap_bytes = self.credit_cap_bytes.min(1 << 30);
        self.shards = self.shards.max(1);
        self.shard = self.shard.min(self.shards - 1);
        let foreign = if self.shards > 1 { 1..=1 << 20 } else { 0..=0 };
        self.foreign_max = self.foreign_max.clamp(*foreign.start(), *foreign.end());
        self.claims_max = self.claims_max.clamp(*foreign.start(), *foreign.end());
        self
    }
}

/// Who may register at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdmitPolicy {
    /// Everybody.
    Open,
    /// Addresses in any of these networks.
    Listed(Arc<PrefixSet<()>>),
}

impl AdmitPolicy {
    /// `ip` may register. v4-mapped addresses count as IPv4.
    pub fn allows(&self, ip: IpAddr) -> bool {
        match self {
            Self::Open => true,
            Self::Listed(networks) => networks.contains(ip),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_list_allows_nobody() {
        let ip = "203.0.113.1".parse().unwrap();
        assert!(AdmitPolicy::Open.allows(ip));
        assert!(!AdmitPolicy::Listed(Arc::default()).allows(ip));
    }
}
