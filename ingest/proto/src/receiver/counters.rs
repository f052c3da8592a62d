//! What became of every datagram.
//!
//! Promise, the conservation law: *received + taken over = forwarded + fanned out + to link + consumed + handed off +
//! Σ dropped*, where received counts both directions and every verdict is counted exactly once, where it is made. What one
//! shard hands off another takes over, so over all shards *received* counts every datagram of the network once.

use super::{DropReason, Verdict};

/// How many datagrams were discarded, by [`DropReason`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dropped([u64; DropReason::ALL.len()]);

impl Default for Dropped {
    fn default() -> Self {
        Self([0; DropReason::ALL.len()])
    }
}

impl Dropped {
    /// One more.
    pub fn add(&mut self, reason: DropReason) {
        self.0[reason as usize] += 1;
    }

    /// How many for `reason`.
    pub fn of(&self, reason: DropReason) -> u64 {
        self.0[reason as usize]
    }
}

impl IntoIterator for Dropped {
    type Item = u64;
    type IntoIter = std::array::IntoIter<u64, { DropReason::ALL.len() }>;

    /// The counts in the order of [`DropReason::ALL`].
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
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
    /// Datagrams handed to another shard.
    pub handed_off: u64,
    /// Datagrams that another shard has handed to this one.
    pub taken_over: u64,
    /// Datagrams of links that came in here, where their links live; each is in one of the others, too.
    pub on_owner: u64,
    /// Discarded datagrams; see [`Counters::dropped`].
    pub dropped: Dropped,

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

    /// SA1 challenges sent (M2), new ones included.
    pub sa1_challenged: u64,
    /// SA1 challenges sent anew, because a join came without a good cookie.
    pub sa1_rechallenged: u64,
    /// SA1 joins confirmed (M4), repeated ones included.
    pub sa1_confirmed: u64,
    /// SA1 refusals sent.
    pub sa1_refused: u64,
    /// SA1 links that moved to another address.
    pub sa1_moved: u64,
    /// Failures held against an address.
    pub strikes: u64,
}

impl Counters {
    /// Datagrams dropped for `reason`.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped.of(reason)
    }

    /// Datagrams dropped for any reason.
    pub fn dropped_total(&self) -> u64 {
        self.dropped.0.iter().sum()
    }

    /// The conservation law holds.
    pub fn is_conserved(&self) -> bool {
        let accounted = self.forwarded
            + self.fanned_out
            + self.to_link
            + self.consumed
            + self.handed_off
            + self.dropped_total();
        self.received + self.taken_over == accounted
    }

    /// The datagram that was counted last as handed off is lost.
    pub(super) fn hand_off_failed(&mut self) {
        self.handed_off = self.handed_off.saturating_sub(1);
        self.dropped.0[DropReason::HandOffFull as usize] += 1;
    }

    pub(super) fn count(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Forward(_) => self.forwarded += 1,
            Verdict::FanOut(_) => self.fanned_out += 1,
            Verdict::ToLink(_) => self.to_link += 1,
            Verdict::HandOff(_) => self.handed_off += 1,
            Verdict::Consumed => self.consumed += 1,
            Verdict::Drop(reason) => self.dropped.add(reason),
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
