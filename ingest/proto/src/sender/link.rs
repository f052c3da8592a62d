//! One link of the sender: its state, what was measured on it, and when it next needs attention.
//!
//! Promise: fixed size. Times are microseconds on the sender's own clock; [`NEVER`] means no deadline.

use super::estimate::{Capacity, Decaying, LossMeter, Rtt};
use super::{LinkLabel, LinkState, SenderConfig};

pub(super) const NEVER: u64 = u64::MAX;
const MS: u64 = 1000;

/// Pauses after the first, second, ... REG2 of a join.
const JOIN_PAUSES_US: [u64; 4] = [200 * MS, 200 * MS, 400 * MS, 1000 * MS];
/// First and longest pause between two requests for a fresh socket.
const REBIND_PAUSE_MIN_US: u64 = 1000 * MS;
const REBIND_PAUSE_MAX_US: u64 = 8000 * MS;
/// As long as the round trip is unknown it may be a satellite's.
const UNKNOWN_RTT_US: u64 = 250 * MS;
/// Data packets after which at least one SRTLA ACK is owed: stock receivers send one per ten.
const UNPROVEN_PACKETS_MAX: u8 = 10;
/// How often an owed answer is asked for again before the link is suspect: on a lossy link that is hardly used, each
/// question alone is easily lost.
const QUERIES_MAX: u8 = 2;

/// A keepalive that may still be echoed.
#[derive(Clone, Copy, Default)]
struct Stamp {
    timestamp_ms: u64,
    sent_us: u64,
}

pub(super) struct Link {
    pub label: LinkLabel,
    pub state: LinkState,
    /// The receiver has confirmed this link at least once: data may be tried on it when nothing better is left.
    pub was_joined: bool,
    pub rtt: Rtt,
    pub loss: LossMeter,
    pub capacity: Capacity,
    pub is_congested: bool,
    pub sent_rate: Decaying,
    pub sent_packets: u64,
    pub sent_bytes: u64,
    pub retransmitted_packets: u64,
    pub copied_packets: u64,
    pub acked_packets: u64,
    pub naks: u64,
    /// Number of the group's data packet that was last sent here, to notice starvation.
    pub last_data_number: u64,
    /// Anything at all heard on this socket or an earlier one.
    pub has_received: bool,
    pub last_proof_us: u64,

    stamps: [Stamp; 4],
    pub keepalive_at_us: u64,
    /// Since when an answer that proves the way up is owed.
    proof_owed_us: u64,
    /// Since when data has been sent without hearing anything at all; in a running session SRT ACKs come all the time.
    unanswered_us: u64,
    /// How often an owed answer was asked for again.
    queries: u8,
    unproven_packets: u8,
    send_errors: u8,

    pub join_at_us: u64,
    join_sends: u8,
    join_sent_us: u64,
    pub give_up_at_us: u64,

    pub rebind_is_wanted: bool,
    rebind_at_us: u64,
    rebind_pause_us: u64,

    pub reg1_sends: u8,
    pub reg1_sent_us: u64,
    /// `REG_ERR`s that stock receivers owe us for repeating REG1; they say nothing about the join.
    pub owed_reg_errs: u8,
    /// Refused during the present attempt to open a group.
    pub is_refused: bool,
    /// Answered during the present attempt to open a group.
    pub is_reachable: bool,
}

impl Link {
    pub fn new(label: LinkLabel, data_number: u64) -> Self {
        Self {
            label,
            state: LinkState::Idle,
            was_joined: false,
            rtt: Rtt::default(),
            loss: LossMeter::default(),
            capacity: Capacity::default(),
            is_congested: false,
            sent_rate: Decaying::default(),
            sent_packets: 0,
            sent_bytes: 0,
            retransmitted_packets: 0,
            copied_packets: 0,
            acked_packets: 0,
            naks: 0,
            last_data_number: data_number,
            has_received: false,
            last_proof_us: 0,
            stamps: [Stamp::default(); 4],
            keepalive_at_us: NEVER,
            proof_owed_us: NEVER,
            unanswered_us: NEVER,
            queries: 0,
            unproven_packets: 0,
            send_errors: 0,
            join_at_us: NEVER,
            join_sends: 0,
            join_sent_us: 0,
            give_up_at_us: NEVER,
            rebind_is_wanted: false,
            rebind_at_us: 0,
            rebind_pause_us: REBIND_PAUSE_MIN_US,
            reg1_sends: 0,
            reg1_sent_us: 0,
            owed_reg_errs: 0,
            is_refused: false,
            is_reachable: false,
        }
    }

    /// A fresh socket: whatever was under way on the old one is void, what is known of the path stays until contradicted.
    pub fn on_rebound(&mut self) {
        self.stamps = [Stamp::default(); 4];
        self.clear_expectation();
        self.send_errors = 0;
        self.rebind_is_wanted = false;
        self.reg1_sends = 0;
        self.owed_reg_errs = 0;
        self.is_refused = false;
        self.is_reachable = false;
        self.rtt = Rtt::default();
        self.loss.restart();
        self.capacity.restart();
    }

    /// The smoothed round trip, or a cautious guess.
    pub fn rtt_or_guess_us(&self) -> u64 {
        self.rtt.smoothed_us().map_or(UNKNOWN_RTT_US, u64::from)
    }

    pub fn rtt_sample(&mut self, now_us: u64, rtt_us: u64) {
        self.rtt.sample(now_us, rtt_us);
        if let Some(min_us) = self.rtt.min_us() {
            self.capacity.start_with(min_us);
        }
    }

    // --- liveness -------------------------------------------------------------------------------------------------

    /// The receiver answered something this link sent: the way up and down works.
    pub fn on_proof(&mut self, now_us: u64) {
        self.last_proof_us = now_us;
        self.clear_expectation();
        self.send_errors = 0;
    }

    /// Something was heard, whatever it was.
    pub fn on_heard(&mut self) {
        self.has_received = true;
        self.unanswered_us = NEVER;
    }

    fn clear_expectation(&mut self) {
        self.proof_owed_us = NEVER;
        self.unanswered_us = NEVER;
        self.queries = 0;
        self.unproven_packets = 0;
    }

    /// A data packet was sent. The first without any answer starts one clock, the tenth without proof the other.
    pub fn on_data_sent(&mut self, now_us: u64) {
        self.unanswered_us = self.unanswered_us.min(now_us);
        self.unproven_packets = self.unproven_packets.saturating_add(1);
        if self.has_unanswered_data() {
            self.expect_answer(now_us);
        }
    }

    pub fn expect_answer(&mut self, now_us: u64) {
        self.proof_owed_us = self.proof_owed_us.min(now_us);
    }

    /// Since when an answer is owed; [`NEVER`] if none is.
    pub fn expects_since_us(&self) -> u64 {
        self.proof_owed_us.min(self.unanswered_us)
    }

    /// When to ask once more before suspecting: after a third and after two thirds of the time it takes to become suspect.
    pub fn query_at_us(&self, config: &SenderConfig) -> u64 {
        if self.queries >= QUERIES_MAX {
            return NEVER;
        }
        let pause_us = self.suspect_after_us(config) / u64::from(QUERIES_MAX + 1);
        self.expects_since_us().saturating_add(pause_us * u64::from(self.queries + 1))
    }

    /// Enough data for an SRTLA ACK was sent since the last proof.
    pub fn has_unanswered_data(&self) -> bool {
        self.unproven_packets >= UNPROVEN_PACKETS_MAX
    }

    /// Silence tells that something is wrong: not one question, which may be lost, but data or all questions go unanswered.
    pub fn is_doubtful(&self) -> bool {
        self.has_unanswered_data() || self.queries >= QUERIES_MAX
    }

    /// Suspect for a few lost questions alone, with no data behind them: may well work.
    pub fn is_untried(&self) -> bool {
        self.state == LinkState::Suspect && self.send_errors == 0 && !self.has_unanswered_data()
    }

    pub fn suspect_at_us(&self, config: &SenderConfig) -> u64 {
        self.expects_since_us().saturating_add(self.suspect_after_us(config))
    }

    fn suspect_after_us(&self, config: &SenderConfig) -> u64 {
        micros(config.suspect_after).max(4 * self.rtt_or_guess_us())
    }

    fn lost_after_us(&self, config: &SenderConfig) -> u64 {
        micros(config.lost_after).max(6 * self.rtt_or_guess_us())
    }

    pub fn on_queried(&mut self) {
        self.queries = self.queries.saturating_add(1);
    }

    /// Counts a failed send; true once they persist.
    pub fn on_send_error(&mut self) -> bool {
        self.send_errors = self.send_errors.saturating_add(1);
        self.send_errors >= 3
    }

    // --- keepalives -----------------------------------------------------------------------------------------------

    /// Notes a keepalive with `timestamp_ms` (never 0, never repeated) and returns the timestamp to put in it.
    pub fn stamp_keepalive(&mut self, now_us: u64) -> u64 {
        let newest = self.stamps.iter().map(|stamp| stamp.timestamp_ms).max().unwrap_or(0);
        let timestamp_ms = (now_us / MS).max(newest + 1);
        self.stamps.rotate_right(1);
        if let Some(slot) = self.stamps.first_mut() {
            *slot = Stamp { timestamp_ms, sent_us: now_us };
        }
        timestamp_ms
    }

    /// The round trip of an echoed keepalive; `None` for anything this link has not sent lately, or a second echo.
    pub fn match_echo(&mut self, now_us: u64, timestamp_ms: u64) -> Option<u64> {
        let stamp = self
            .stamps
            .iter_mut()
            .find(|stamp| stamp.timestamp_ms == timestamp_ms && stamp.sent_us != NEVER)?;
        if timestamp_ms == 0 {
            return None;
        }
        let rtt_us = now_us.saturating_sub(stamp.sent_us);
        stamp.sent_us = NEVER;
        Some(rtt_us)
    }

    // --- joining --------------------------------------------------------------------------------------------------

    /// Starts a round of REG2: the first is due at once.
    pub fn begin_join(&mut self, now_us: u64, state: LinkState, config: &SenderConfig) {
        self.state = state;
        self.join_sends = 0;
        self.join_at_us = now_us;
        self.give_up_at_us = match state {
            LinkState::Suspect if self.expects_since_us() != NEVER => {
                self.expects_since_us().saturating_add(self.lost_after_us(config)).max(now_us + 100 * MS)
            }
            _ => now_us + self.lost_after_us(config),
        };
    }

    /// A REG2 leaves now; the next one is due after the pause.
    pub fn on_join_sent(&mut self, now_us: u64) {
        let pause_us = JOIN_PAUSES_US.get(usize::from(self.join_sends)).or(JOIN_PAUSES_US.last());
        self.join_at_us = now_us + pause_us.copied().unwrap_or(MS);
        self.join_sends = self.join_sends.saturating_add(1);
        self.join_sent_us = now_us;
    }

    /// The receiver challenged this link: it is reached, and the M3 gets the time and the pauses of a new join.
    pub fn on_challenged(&mut self, now_us: u64, config: &SenderConfig) {
        self.on_heard();
        (self.join_sends, self.join_at_us) = (0, now_us);
        if self.state != LinkState::Live {
            if self.state != LinkState::Suspect {
                self.state = LinkState::Joining;
            }
            self.give_up_at_us = now_us + self.lost_after_us(config);
            self.rebind_is_wanted = false;
        }
    }

    /// The receiver does not want this link before `until_us`.
    pub fn on_left_out(&mut self, until_us: u64) {
        self.join_at_us = until_us;
        if self.state != LinkState::Live {
            self.state = LinkState::Idle;
            self.give_up_at_us = NEVER;
            self.rebind_is_wanted = false;
        }
    }

    /// The round trip of the join, when there is no doubt which REG2 was answered.
    pub fn join_rtt_us(&self, now_us: u64) -> Option<u64> {
        (self.join_sends == 1).then(|| now_us.saturating_sub(self.join_sent_us))
    }

    /// The link carries data from now on.
    pub fn on_live(&mut self, now_us: u64, data_number: u64) {
        self.state = LinkState::Live;
        self.was_joined = true;
        self.join_at_us = NEVER;
        self.join_sends = 0;
        self.give_up_at_us = NEVER;
        self.rebind_is_wanted = false;
        self.rebind_pause_us = REBIND_PAUSE_MIN_US;
        self.owed_reg_errs = 0;
        self.last_data_number = data_number;
        self.keepalive_at_us = now_us;
        self.last_proof_us = now_us;
        self.clear_expectation();
    }

    // --- rebinding ------------------------------------------------------------------------------------------------

    pub fn rebind_at_us(&self) -> u64 {
        if self.rebind_is_wanted { self.rebind_at_us } else { NEVER }
    }

    /// A fresh socket is asked for now; the next request may come after a growing pause.
    pub fn on_rebind_asked(&mut self, now_us: u64) {
        self.rebind_at_us = now_us + self.rebind_pause_us;
        self.rebind_pause_us = (self.rebind_pause_us * 2).min(REBIND_PAUSE_MAX_US);
    }
}

pub(super) fn micros(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(NEVER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn echoes_match_once_and_only_what_was_sent() {
        let mut link = Link::new(LinkLabel(0), 0);
        let first = link.stamp_keepalive(0);
        assert_ne!(first, 0, "zero is what padding looks like");
        let second = link.stamp_keepalive(100);
        assert_ne!(first, second);
        assert_eq!(link.match_echo(40_000, 0), None);
        assert_eq!(link.match_echo(40_000, second), Some(39_900));
        assert_eq!(link.match_echo(41_000, second), None, "a replay would inflate the RTT");
        for i in 0..4 {
            link.stamp_keepalive(1_000_000 + i);
        }
        assert_eq!(link.match_echo(2_000_000, first), None, "only the last four are remembered");
    }

    #[test]
    fn join_and_rebind_pauses_grow_and_stay_bounded() {
        let mut link = Link::new(LinkLabel(0), 0);
        let config = SenderConfig::default();
        link.begin_join(0, LinkState::Joining, &config);
        let mut at = Vec::new();
        for _ in 0..300 {
            let now = link.join_at_us;
            at.push(now / MS);
            link.on_join_sent(now);
        }
        assert_eq!(at[..6], [0, 200, 400, 800, 1800, 2800]);
        link.rebind_is_wanted = true;
        let mut now = 0;
        let mut pauses = Vec::new();
        for _ in 0..6 {
            link.on_rebind_asked(now);
            pauses.push((link.rebind_at_us() - now) / MS);
            now = link.rebind_at_us();
        }
        assert_eq!(pauses, [1000, 2000, 4000, 8000, 8000, 8000]);
    }
}
