//! What happens when nothing arrives: repeats, keepalives, suspicion, loss.

use std::time::{Duration, Instant};

use super::link::{Link, NEVER, micros};
use super::{LinkIndex, LinkState, Sender, SenderActions, SenderNotice};
use crate::wire::{EXTENDED_KEEPALIVE_LEN, Keepalive, Repr, Telemetry};

impl Sender {
    /// Does everything that is due at `now`. Call it when [`Sender::poll_timeout`] says so; earlier calls do nothing.
    pub fn handle_timeout(&mut self, now: Instant, out: &mut SenderActions) {
        let now_us = self.advance(now);
        self.opening_timeout(out);
        for slot in 0..self.links.len() {
            self.link_timeout(slot, out);
        }
        if now_us >= self.all_silent_at_us() {
            for slot in 0..self.links.len() {
                if self.link(slot).is_some_and(|link| link.state == LinkState::Live) {
                    self.suspect(slot, out);
                }
            }
        }
        if now_us >= self.reconsider_at_us() {
            self.reconsider(out);
        }
    }

    /// When [`Sender::handle_timeout`] is due next; `None` without links. Looks at each link once.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let due_us = self
            .links
            .iter()
            .flatten()
            .map(|link| self.link_due_us(link))
            .fold(self.opening.next_at_us.min(self.all_silent_at_us()), u64::min)
            .min(self.reconsider_at_us());
        let base = self.base?;
        (due_us != NEVER).then(|| base + Duration::from_micros(due_us))
    }

    /// Tells that sending on `link` failed (not merely that the socket's buffer was full). The link is suspect at once,
    /// and after three failures in a row taken for lost.
    pub fn handle_send_error(&mut self, now: Instant, link: LinkIndex) {
        let now_us = self.advance(now);
        self.counters.send_errors += 1;
        let config = &self.config;
        let Some(link) = self.links.get_mut(link.index()).and_then(Option::as_mut) else { return };
        let is_persistent = link.on_send_error();
        if link.state == LinkState::Live {
            link.begin_join(now_us, LinkState::Suspect, config);
        }
        if is_persistent && matches!(link.state, LinkState::Suspect | LinkState::Joining) {
            link.give_up_at_us = now_us;
        }
    }

    fn link_due_us(&self, link: &Link) -> u64 {
        let due_us = match link.state {
            LinkState::Idle => link.join_at_us,
            LinkState::Live => {
                let query_at_us = link.query_at_us(&self.config);
                let asks_at_us = link.keepalive_at_us.min(query_at_us);
                asks_at_us.min(link.suspect_at_us(&self.config)).min(link.join_at_us)
            }
            LinkState::Joining | LinkState::Suspect | LinkState::Lost => {
                link.join_at_us.min(link.give_up_at_us)
            }
        };
        due_us.min(link.rebind_at_us())
    }

    /// When all live links together are taken for suspect although each alone still has time: their longest wait counts.
    fn all_silent_at_us(&self) -> u64 {
        let mut at_us = None;
        for link in self.links.iter().flatten().filter(|link| link.state == LinkState::Live) {
            if link.expects_since_us() == NEVER {
                return NEVER;
            }
            let patience_us = micros(self.config.all_silent_after).max(link.rtt_or_guess_us() * 3 / 2);
            let silent_at_us = link.expects_since_us().saturating_add(patience_us);
            at_us = Some(at_us.map_or(silent_at_us, |at_us: u64| at_us.max(silent_at_us)));
        }
        at_us.unwrap_or(NEVER)
    }

    fn link_timeout(&mut self, slot: usize, out: &mut SenderActions) {
        let now_us = self.now_us;
        let Some(link) = self.links.get_mut(slot).and_then(Option::as_mut) else { return };
        match link.state {
            LinkState::Live => {
                if now_us >= link.suspect_at_us(&self.config) {
                    self.suspect(slot, out);
                } else if now_us >= link.query_at_us(&self.config) {
                    link.on_queried();
                    self.send_keepalive(slot, out);
                } else if now_us >= link.keepalive_at_us {
                    self.send_keepalive(slot, out);
                }
                // New keys for a link that works.
                self.join_timeout(slot, out);
            }
            LinkState::Idle | LinkState::Joining | LinkState::Suspect | LinkState::Lost => {
                if now_us >= link.give_up_at_us {
                    self.lose(slot, out);
                }
                self.join_timeout(slot, out);
            }
        }
        self.rebind_timeout(slot, out);
    }

    fn join_timeout(&mut self, slot: usize, out: &mut SenderActions) {
        let now_us = self.now_us;
        let Some(link) = self.link(slot).filter(|link| now_us >= link.join_at_us) else { return };
        match link.state {
            // A refusal is over.
            LinkState::Idle => self.join(slot, LinkState::Joining, out),
            LinkState::Suspect => {
                self.send_join(slot, out);
                self.send_keepalive(slot, out);
            }
            LinkState::Joining | LinkState::Live | LinkState::Lost => self.send_join(slot, out),
        }
    }

    /// Data goes elsewhere; REG2 (M1 with a key) and a keepalive ask for an answer. Both are harmless if the link is well.
    fn suspect(&mut self, slot: usize, out: &mut SenderActions) {
        out.notice(SenderNotice::LinkSuspect { link: LinkIndex(slot as u8) });
        self.join(slot, LinkState::Suspect, out);
        self.send_keepalive(slot, out);
    }

    fn lose(&mut self, slot: usize, out: &mut SenderActions) {
        let now_us = self.now_us;
        if let Some(link) = self.link_mut(slot) {
            link.state = LinkState::Lost;
            link.give_up_at_us = NEVER;
            link.join_at_us = link.join_at_us.max(now_us);
            link.loss.restart();
            link.capacity.restart();
            link.is_congested = false;
        }
        self.log.forget_link(slot);
        if let Some(stock) = &mut self.stock {
            stock.timed_out(slot);
        }
        out.notice(SenderNotice::LinkLost { link: LinkIndex(slot as u8) });
        self.ask_rebind(slot, out);
    }

    pub(super) fn send_keepalive(&mut self, slot: usize, out: &mut SenderActions) {
        let now_us = self.now_us;
        let interval_us = self.keepalive_us(slot);
        // With a trailer the short form has 30 bytes, and there are carriers that eat what has less than 32.
        let is_extended = self.config.has_extended_keepalives || self.has_key_in_use();
        let (window, flight) = (self.window(slot), self.log.flight(slot));
        let Some(link) = self.link_mut(slot) else { return };
        let timestamp_ms = link.stamp_keepalive(now_us);
        link.keepalive_at_us = now_us.saturating_add(interval_us);
        link.expect_answer(now_us);
        link.loss.refresh(now_us);
        let keepalive = if is_extended {
            Keepalive::Extended {
                timestamp_ms,
                telemetry: Telemetry {
                    link_id: link.label.0,
                    window,
                    in_flight_packets: flight.packets.cast_signed(),
                    rtt_ms: link.rtt.smoothed_us().unwrap_or(0) / 1000,
                    nak_count: link.naks as u32,
                    rate_bytes_per_s: link.sent_rate.value(now_us) as u32,
                },
            }
        } else {
            Keepalive::Timestamped { timestamp_ms }
        };
        self.counters.keepalives_sent += 1;
        let mut buf = [0; EXTENDED_KEEPALIVE_LEN];
        if let Some(bytes) = Repr::Keepalive(keepalive).emit(&mut buf) {
            self.send_sealed(slot, bytes, out);
        }
    }
}
