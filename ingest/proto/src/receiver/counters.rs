//! What became of every datagram.
//!
//! Promise, the conservation law: *received = forwarded + fanned out + to link + consumed + handed off + Σ dropped*, where
//! received counts both directions and every verdict is counted exactly once, where it is made.

use super::Verdict;

/// Why a datagram was discarded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum DropReason {
    /// Shorter than an SRT header and not SRTLA.
    Runt,
    /// Longer than any implementation sends.
    Oversize,
    /// A registration packet of the wrong length.
    BadLength,
    /// An SRTLA type nobody may send in this direction, or an unknown one.
    UnexpectedSrtla,
    /// Neither a member's address nor anything that could make it one.
    NotMember,
    /// The admission policy does not name this address.
    NotAdmitted,
    /// No more NGP answers in the budget.
    NgpBudget,
    /// More keepalives than the link's budget.
    KeepaliveBudget,
    /// A join for another group from an address that is busy in its own.
    AddressBusy,
    /// No slot for another group, and none that may be evicted.
    GroupTableFull,
    /// No new groups: the receiver is draining.
    Draining,
    /// The caller's action list is full.
    ActionsFull,
    /// Return traffic for a group that is gone.
    NoGroup,
    /// Return traffic while no link is live.
    NoLiveLink,
    /// Return traffic while no link has earned the bytes.
    NoCredit,
}

impl DropReason {
    /// All reasons, in counter order.
    pub const ALL: [DropReason; 15] = [
        Self::Runt,
        Self::Oversize,
        Self::BadLength,
        Self::UnexpectedSrtla,
        Self::NotMember,
        Self::NotAdmitted,
        Self::NgpBudget,
        Self::KeepaliveBudget,
        Self::AddressBusy,
        Self::GroupTableFull,
        Self::Draining,
        Self::ActionsFull,
        Self::NoGroup,
        Self::NoLiveLink,
        Self::NoCredit,
    ];

    /// The name used in metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Runt => "runt",
            Self::Oversize => "oversize",
            Self::BadLength => "bad_length",
            Self::UnexpectedSrtla => "unexpected_srtla",
            Self::NotMember => "not_member",
            Self::NotAdmitted => "not_admitted",
            Self::NgpBudget => "ngp_budget",
            Self::KeepaliveBudget => "keepalive_budget",
            Self::AddressBusy => "address_busy",
            Self::GroupTableFull => "group_table_full",
            Self::Draining => "draining",
            Self::ActionsFull => "actions_full",
            Self::NoGroup => "no_group",
            Self::NoLiveLink => "no_live_link",
            Self::NoCredit => "no_credit",
        }
    }
}

/// Counters since creation. Plain numbers, owned by the receiver's shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Datagrams given to the receiver, both directions.
    pub received: u64,
    /// Uplink datagrams to pass on to the group's SRT side.
    pub forwarded: u64,
    /// Downlink datagrams to send to every live link (one each, however many links).
    pub fanned_out: u64,
    /// Datagrams to send to one link: keepalive echoes and the rest of the return path.
    pub to_link: u64,
    /// Datagrams the receiver dealt with itself (registration).
    pub consumed: u64,
    /// Datagrams for another shard.
    pub handed_off: u64,
    /// Discarded datagrams, indexed by [`DropReason`]; see [`Counters::dropped`].
    pub dropped: [u64; DropReason::ALL.len()],

    /// REG1 answered with REG2.
    pub reg1_answered: u64,
    /// REG2 repeated because no join came.
    pub reg2_repeated: u64,
    /// REG3 sent in answer to a join.
    pub reg3_sent: u64,
    /// REG3 repeated to a silent member.
    pub reg3_repeated: u64,
    /// NGP sent.
    pub ngp_sent: u64,
    /// SRTLA ACKs sent, partial ones included.
    pub acks_sent: u64,
    /// Partial SRTLA ACKs sent by the flush timer.
    pub acks_flushed: u64,
    /// Groups opened.
    pub groups_opened: u64,
    /// Groups closed for any reason.
    pub groups_closed: u64,
    /// Groups closed to make room.
    pub groups_evicted: u64,
    /// Links joined, roamed ones included.
    pub links_joined: u64,
    /// Links removed for any reason.
    pub links_left: u64,
    /// Links removed to make room.
    pub links_evicted: u64,
    /// Links removed because they fell silent.
    pub links_timed_out: u64,
    /// Links adopted from an unknown address.
    pub links_roamed: u64,
    /// SRT sessions replaced by a restarted encoder.
    pub sessions_replaced: u64,
}

impl Counters {
    /// Datagrams dropped for `reason`.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped[reason as usize]
    }

    /// Datagrams dropped for any reason.
    pub fn dropped_total(&self) -> u64 {
        self.dropped.iter().sum()
    }

    /// The conservation law holds.
    pub fn is_conserved(&self) -> bool {
        let accounted = self.forwarded
            + self.fanned_out
            + self.to_link
            + self.consumed
            + self.handed_off
            + self.dropped_total();
        self.received == accounted
    }

    pub(super) fn count(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Forward(_) => self.forwarded += 1,
            Verdict::FanOut(_) => self.fanned_out += 1,
            Verdict::ToLink(_) => self.to_link += 1,
            Verdict::HandOff(_) => self.handed_off += 1,
            Verdict::Consumed => self.consumed += 1,
            Verdict::Drop(reason) => self.dropped[reason as usize] += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_index_their_own_counter() {
        for (index, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
            let mut counters = Counters { received: 1, ..Counters::default() };
            assert!(!counters.is_conserved());
            counters.count(Verdict::Drop(reason));
            assert_eq!(counters.dropped(reason), 1);
            assert!(counters.is_conserved());
        }
    }
}
