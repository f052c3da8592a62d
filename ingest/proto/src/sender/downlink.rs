//! From the links to the encoder: what the receiver says, and what of it the encoder sees.

use std::time::Instant;

use super::adaptive::update_congested;
use super::estimate::ACK_DELAY_US;
use super::uplink::SRT_USER_DEFINED;
use super::{LinkIndex, LinkState, Sender, SenderActions, SenderDropReason, SenderVerdict};
use crate::wire::{
    AckNumbers, Control, ControlType, DATAGRAM_LEN_MAX, Datagram, NakRanges, Packet, PacketType,
    SRT_HEADER_LEN, classify,
};

/// Words of a full SRTLA ACK; a shorter one has waited at the receiver, for up to [`ACK_DELAY_US`].
const FULL_ACK_NUMBERS: usize = 10;

impl Sender {
    /// Takes a datagram that arrived on `link`'s socket from the receiver's address.
    pub fn handle_link(
        &mut self,
        now: Instant,
        link: LinkIndex,
        bytes: &[u8],
        out: &mut SenderActions,
    ) -> SenderVerdict {
        self.advance(now);
        self.counters.links_received += 1;
        let slot = link.index();
        let verdict = if self.link(slot).is_none() {
            SenderVerdict::Drop(SenderDropReason::UnknownLink)
        } else if bytes.len() > DATAGRAM_LEN_MAX {
            SenderVerdict::Drop(SenderDropReason::Malformed)
        } else {
            match self.proven_srt(slot, bytes) {
                Some(bytes) => self.on_datagram(slot, bytes, out),
                None => SenderVerdict::Drop(SenderDropReason::Unproven),
            }
        };
        self.count(verdict)
    }

    /// Takes a datagram without the trailer that SRT packets may have.
    fn on_datagram(&mut self, slot: usize, bytes: &[u8], out: &mut SenderActions) -> SenderVerdict {
        self.to_local_len = bytes.len();
        match classify(bytes) {
            Datagram::SrtData(_) => {
                self.on_srt(slot, out);
                SenderVerdict::ToLocal
            }
            Datagram::SrtControl(control) => {
                self.on_srt(slot, out);
                self.on_srt_control(&control)
            }
            Datagram::Srtla(packet) => self.on_srtla(slot, &packet, out),
            Datagram::Runt => SenderVerdict::Drop(SenderDropReason::Malformed),
        }
    }

    /// SRT came down this link. That proves membership to a link that waits for REG3, and nothing about the way up.
    fn on_srt(&mut self, slot: usize, out: &mut SenderActions) {
        let Some(link) = self.link_mut(slot) else { return };
        link.on_heard();
        if link.state == LinkState::Joining && !self.has_key_in_use() {
            self.on_proof(slot, out);
        }
    }

    fn on_srt_control(&mut self, control: &Control<'_>) -> SenderVerdict {
        match control.control_type() {
            ControlType::Ack | ControlType::Nak if self.copies.is_copy(self.now_us, control.bytes()) => {
                return SenderVerdict::Drop(SenderDropReason::Copy);
            }
            _ => {}
        }
        if let Some(ack) = control.ack() {
            self.log.cumulative(ack.next_expected);
            if let Some(stock) = &mut self.stock {
                stock.on_srt_ack(ack.next_expected);
            }
        } else if let Some(ranges) = control.nak_ranges() {
            self.on_nak(ranges);
        }
        SenderVerdict::ToLocal
    }

    /// Charges the links that carried what is reported lost. The work is bounded by what is unacknowledged.
    fn on_nak(&mut self, ranges: NakRanges<'_>) {
        let now_us = self.now_us;
        let mut budget = self.log.span();
        let (log, stock, links) = (&mut self.log, &mut self.stock, &mut self.links);
        for range in ranges {
            log.nak(range, &mut budget, |slot, seq| {
                if let Some(stock) = stock.as_mut() {
                    stock.on_nak(seq);
                }
                if let Some(link) = links.get_mut(slot).and_then(Option::as_mut) {
                    link.naks += 1;
                    // What is lost in a full queue tells about the queue, not about the path.
                    if !link.is_congested {
                        link.loss.on_nak(now_us);
                    }
                }
            });
        }
        for link in self.links.iter_mut().flatten() {
            link.loss.refresh(now_us);
        }
    }

    fn on_srtla(&mut self, slot: usize, packet: &Packet<'_>, out: &mut SenderActions) -> SenderVerdict {
        match self.prove(slot, packet, out) {
            Ok(packet) => self.on_proven_srtla(slot, &packet, out),
            Err(verdict) => verdict,
        }
    }

    fn on_proven_srtla(
        &mut self,
        slot: usize,
        packet: &Packet<'_>,
        out: &mut SenderActions,
    ) -> SenderVerdict {
        let now_us = self.now_us;
        let Some(link) = self.link_mut(slot) else {
            return SenderVerdict::Drop(SenderDropReason::UnknownLink);
        };
        match packet.kind() {
            // Refusals prove that somebody answers, not that the link works; they never keep a link alive.
            PacketType::RegNgp => self.on_ngp(slot, out),
            PacketType::RegErr | PacketType::RegNak => self.on_refusal(slot, out),
            PacketType::Reg3 => {
                link.on_heard();
                self.on_reg3(slot, out);
            }
            PacketType::Reg2 => {
                link.on_heard();
                return match packet.group_id() {
                    Some(id) => self.on_reg2(slot, id, out),
                    None => SenderVerdict::Drop(SenderDropReason::Malformed),
                };
            }
            PacketType::Keepalive => {
                link.on_heard();
                let timestamp_ms = packet.keepalive().and_then(|keepalive| keepalive.timestamp_ms());
                if let Some(rtt_us) =
                    timestamp_ms.and_then(|timestamp_ms| link.match_echo(now_us, timestamp_ms))
                {
                    link.rtt_sample(now_us, rtt_us);
                    self.on_proof(slot, out);
                }
            }
            PacketType::Ack => {
                link.on_heard();
                if let Some(numbers) = packet.ack_numbers() {
                    self.on_srtla_ack(slot, numbers, out);
                }
            }
            kind if kind == SRT_USER_DEFINED && packet.bytes().len() >= SRT_HEADER_LEN => {
                self.on_srt(slot, out);
                return SenderVerdict::ToLocal;
            }
            // REG1 is never ours to answer; STATS, CIP and unknown types end here and never reach the encoder.
            PacketType::Reg1
            | PacketType::Stats
            | PacketType::CipRequest
            | PacketType::CipResponse
            | PacketType::Unknown(_) => {}
        }
        SenderVerdict::Consumed
    }

    fn on_srtla_ack(&mut self, slot: usize, numbers: AckNumbers<'_>, out: &mut SenderActions) {
        let now_us = self.now_us;
        let has_key = self.has_key_in_use();
        if self.link(slot).is_none_or(|link| link.state == LinkState::Idle && !has_key) {
            return;
        }
        let mut acked_bytes = 0u32;
        let mut newest_age_us = None;
        let mut acked_any = false;
        for seq in numbers.iter() {
            if let Some(stock) = &mut self.stock {
                let links = &self.links;
                stock.on_srtla_ack(seq, |slot| {
                    links.get(slot).and_then(Option::as_ref).is_some_and(|link| link.has_received)
                });
            }
            newest_age_us = None;
            if let Some(acked) = self.log.acked(now_us, seq, slot)
                && let Some(link) = self.links.get_mut(slot).and_then(Option::as_mut)
            {
                acked_any = true;
                acked_bytes += u32::from(acked.bytes);
                link.acked_packets += 1;
                link.loss.on_ack(now_us, acked.ordinal);
                newest_age_us = acked.is_clean.then_some(acked.age_us);
            }
        }
        if !acked_any {
            return;
        }
        // The last number made the receiver send a full ACK, so its age is a round trip, queues included. Any other may
        // have waited: then the round trip is known to lie in a range, and the value that surprises least is taken.
        let waited_us_max = if numbers.len() == FULL_ACK_NUMBERS { 0 } else { ACK_DELAY_US };
        let flight = self.log.flight(slot);
        if let Some(link) = self.link_mut(slot) {
            let rtt_least_us = newest_age_us.map(|age_us| age_us.saturating_sub(waited_us_max));
            if let (Some(age_us), Some(least_us)) = (newest_age_us, rtt_least_us) {
                match link.rtt.smoothed_us() {
                    Some(smooth_us) => link.rtt_sample(now_us, u64::from(smooth_us.clamp(least_us, age_us))),
                    None if waited_us_max == 0 => link.rtt_sample(now_us, u64::from(age_us)),
                    None => {}
                }
            }
            link.loss.refresh(now_us);
            link.capacity.on_ack(now_us, acked_bytes, rtt_least_us, flight.bytes, &link.rtt, &link.loss);
            update_congested(link, flight, now_us);
        }
        self.on_proof(slot, out);
    }
}
