//! From the encoder to the links: which link each datagram takes.

use std::time::Instant;

use super::adaptive::{Load, Purpose, cost_us, is_silent, update_congested};
use super::link::Link;
use super::{LinkState, Sender, SenderActions, SenderDropReason, SenderVerdict};
use crate::Seq;
use crate::wire::{
    Control, ControlType, DATAGRAM_LEN_MAX, Data, Datagram, HandshakeKind, PacketType, SRT_HEADER_LEN,
    classify,
};

/// SRT's user-defined control type (key refreshes of encrypted streams); by its first word it looks like SRTLA.
pub(super) const SRT_USER_DEFINED: PacketType = PacketType::Unknown(0xFFFF);
/// Extra cost of sending a retransmission on the link that lost the original.
const SAME_LINK_COST_US: f32 = 50_000.0;
/// A retransmission is doubled when even the best link loses more than this share.
const DOUBLE_ABOVE_LOSS: f32 = 0.05;

/// The links for one datagram.
#[derive(Clone, Copy, Default)]
struct Choice {
    best: usize,
    /// The next best live link.
    second: Option<usize>,
    /// A live link that has carried nothing for too long.
    starving: Option<usize>,
}

impl Sender {
    /// Takes a datagram from the encoder and says which link carries it. Copies for other links go to `out`.
    pub fn handle_local(&mut self, now: Instant, bytes: &[u8], out: &mut SenderActions) -> SenderVerdict {
        self.advance(now);
        self.counters.local_received += 1;
        let verdict = if bytes.len() > DATAGRAM_LEN_MAX {
            SenderVerdict::Drop(SenderDropReason::Malformed)
        } else {
            match classify(bytes) {
                Datagram::SrtData(data) => self.send_data(&data, out),
                Datagram::SrtControl(control) => self.send_control(&control, out),
                Datagram::Srtla(packet)
                    if packet.kind() == SRT_USER_DEFINED && bytes.len() >= SRT_HEADER_LEN =>
                {
                    match self.choose(Purpose::Urgent, bytes.len(), None) {
                        Some(choice) => self.carry(choice.best, bytes, out),
                        None => SenderVerdict::Drop(SenderDropReason::NoLink),
                    }
                }
                Datagram::Srtla(_) => SenderVerdict::Drop(SenderDropReason::NotSrt),
                Datagram::Runt => SenderVerdict::Drop(SenderDropReason::Malformed),
            }
        };
        self.count(verdict)
    }

    pub(super) fn count(&mut self, verdict: SenderVerdict) -> SenderVerdict {
        match verdict {
            SenderVerdict::ToLink(_) => self.counters.to_link += 1,
            SenderVerdict::ToLocal => self.counters.to_local += 1,
            SenderVerdict::Consumed => self.counters.consumed += 1,
            SenderVerdict::Drop(reason) => self.counters.drop(reason),
        }
        verdict
    }

    fn send_data(&mut self, data: &Data<'_>, out: &mut SenderActions) -> SenderVerdict {
        let (seq, len) = (data.seq(), data.bytes().len());
        let is_retransmitted = data.is_retransmitted();
        // An encoder that was restarted unseen: another socket answers it, or it starts below what was acknowledged.
        let socket_id = data.dest_socket_id();
        let was_moved = self.encoder_peer.replace(socket_id).is_some_and(|before| before != socket_id);
        if was_moved || (!is_retransmitted && self.log.is_settled(seq)) {
            self.begin_session();
        }
        let choice = if is_retransmitted {
            let lost_on = self.log.owner(seq);
            self.choose(Purpose::Urgent, len, lost_on)
        } else {
            self.data_number += 1;
            self.choose(Purpose::Data, len, None)
        };
        let Some(choice) = choice else { return SenderVerdict::Drop(SenderDropReason::NoLink) };
        let verdict = self.carry(choice.best, data.bytes(), out);
        if matches!(verdict, SenderVerdict::Drop(_)) {
            return verdict;
        }
        self.log.record(self.now_us, seq, len, choice.best);
        self.on_data_sent(choice.best, seq, len, false);
        if let Some(link) = self.link_mut(choice.best) {
            link.retransmitted_packets += u64::from(is_retransmitted);
        }
        if !is_retransmitted {
            self.last_link = choice.best;
        }
        if self.stock.is_none() {
            let is_lossy =
                |link: Option<&Link>| link.is_some_and(|link| link.loss.loss() > DOUBLE_ABOVE_LOSS);
            let copy_on = if is_retransmitted && is_lossy(self.link(choice.best)) {
                choice.second.filter(|slot| self.link(*slot).is_some_and(|link| !link.is_congested))
            } else {
                choice.starving
            };
            if let Some(slot) = copy_on.filter(|slot| *slot != choice.best)
                && self.copy_over(slot, data.bytes(), out)
            {
                self.counters.copies_sent += 1;
                self.log.record_copy(self.now_us, seq, slot);
                self.on_data_sent(slot, seq, len, true);
            }
        }
        verdict
    }

    fn send_control(&mut self, control: &Control<'_>, out: &mut SenderActions) -> SenderVerdict {
        if control.handshake().is_some_and(|handshake| handshake.kind == HandshakeKind::Induction) {
            self.counters.inductions += 1;
            self.encoder_peer = None;
            self.begin_session();
        }
        let Some(choice) = self.choose(Purpose::Urgent, control.bytes().len(), None) else {
            return SenderVerdict::Drop(SenderDropReason::NoLink);
        };
        // SHUTDOWN is sent once and never acknowledged; without it the server waits for its idle timeout.
        if control.control_type() == ControlType::Shutdown
            && let Some(second) = choice.second
            && self.copy_over(second, control.bytes(), out)
        {
            self.counters.copies_sent += 1;
        }
        self.carry(choice.best, control.bytes(), out)
    }

    /// The encoder begins a new SRT session: new numbers, nothing of the old ones is in flight.
    fn begin_session(&mut self) {
        self.log.reset();
        if let Some(stock) = &mut self.stock {
            stock.reset_logs();
        }
        for link in self.links.iter_mut().flatten() {
            link.loss.restart();
            link.is_congested = false;
        }
    }

    fn on_data_sent(&mut self, slot: usize, seq: Seq, len: usize, is_copy: bool) {
        let (now_us, data_number) = (self.now_us, self.data_number);
        if let Some(stock) = &mut self.stock {
            stock.on_sent(slot, seq);
        }
        let flight = self.log.flight(slot);
        let Some(link) = self.link_mut(slot) else { return };
        link.sent_packets += 1;
        link.sent_bytes += len as u64;
        link.copied_packets += u64::from(is_copy);
        link.sent_rate.add(now_us, len as f32);
        link.loss.on_sent(now_us, is_copy);
        link.last_data_number = data_number;
        link.on_data_sent(now_us);
        update_congested(link, flight, now_us);
    }

    /// The best live link; when even that one swallows data, or there is none, a suspect link that has not swallowed any;
    /// without such, whichever answered last, as long as any was ever confirmed.
    fn choose(&self, purpose: Purpose, len: usize, lost_on: Option<usize>) -> Option<Choice> {
        let is_live = |slot: usize| self.link(slot).is_some_and(|link| link.state == LinkState::Live);
        if let Some(stock) = &self.stock {
            let best = stock
                .choose(is_live)
                .or_else(|| stock.choose(|slot| self.link(slot).is_some_and(|link| link.was_joined)))?;
            return Some(Choice { best, ..Choice::default() });
        }
        let sent_rate: f32 = self.links.iter().flatten().map(|link| link.sent_rate.value(self.now_us)).sum();
        let mut best: Option<(usize, f32)> = None;
        let mut second: Option<(usize, f32)> = None;
        let mut starving = None;
        for (slot, link) in self.links.iter().enumerate() {
            let Some(link) = link.as_ref().filter(|link| link.state == LinkState::Live) else { continue };
            let was_last = slot == self.last_link;
            let load = Load { flight: self.log.flight(slot), now_us: self.now_us, len, sent_rate };
            let mut cost = cost_us(link, load, purpose, was_last);
            if lost_on == Some(slot) {
                cost += SAME_LINK_COST_US;
            }
            if best.is_none_or(|(_, best_cost)| cost < best_cost) {
                second = best;
                best = Some((slot, cost));
            } else if second.is_none_or(|(_, second_cost)| cost < second_cost) {
                second = Some((slot, cost));
            }
            let unused = self.data_number.saturating_sub(link.last_data_number);
            if purpose == Purpose::Data && unused > u64::from(self.config.probe_every_packets) {
                starving = Some(slot);
            }
        }
        let (best, second) = (best.map(|(slot, _)| slot), second.map(|(slot, _)| slot));
        let is_dying = |slot: usize| self.link(slot).is_some_and(|link| is_silent(link, self.now_us));
        let best = match best {
            Some(slot) if is_dying(slot) => self.latest_proven(Link::is_untried).unwrap_or(slot),
            Some(slot) => slot,
            None => self
                .latest_proven(Link::is_untried)
                .or_else(|| self.latest_proven(|link| link.was_joined && link.state == LinkState::Suspect))
                .or_else(|| self.latest_proven(|link| link.was_joined))?,
        };
        Some(Choice {
            best,
            second: second.filter(|slot| *slot != best),
            starving: starving.filter(|slot| *slot != best),
        })
    }

    /// Of the links that are `eligible`, the one that answered last.
    fn latest_proven(&self, eligible: impl Fn(&Link) -> bool) -> Option<usize> {
        self.links
            .iter()
            .enumerate()
            .filter_map(|(slot, link)| Some((slot, link.as_ref()?)))
            .filter(|(_, link)| eligible(link))
            .max_by_key(|(_, link)| link.last_proof_us)
            .map(|(slot, _)| slot)
    }
}
