//! Datagrams from senders that are not registration: SRT, keepalives, and what does not belong here.

use super::groups::Stage;
use super::members::Joining;
use super::session::Opening;
use super::time::Time;
use super::{Action, Actions, DropReason, LeaveReason, Notice, Receiver, Verdict};
use crate::LinkAddr;
use crate::wire::{
    self, ACK_HEADER_LEN, Control, ControlType, DATAGRAM_LEN_MAX, Data, Datagram, Keepalive, Packet,
    PacketType, SHUTDOWN_LEN, emit_ack, emit_shutdown,
};
use bondgate_auth::sa1::trailer::SEALED_LEN_MAX;

/// Length of the longest SRTLA ACK without a trailer.
const ACK_LEN_MAX: usize = ACK_HEADER_LEN + 4 * super::ACK_EVERY_MAX as usize;

impl Receiver {
    pub(super) fn uplink(&mut self, now: Time, from: LinkAddr, bytes: &[u8], out: &mut Actions) -> Verdict {
        if bytes.len() > DATAGRAM_LEN_MAX {
            return Verdict::Drop(DropReason::Oversize);
        }
        let found = self.links.find_or_hash(from, &self.hash);
        let datagram = wire::classify(bytes);
        if let Datagram::Srtla(packet) = datagram
            && matches!(packet.kind(), PacketType::Reg1 | PacketType::Reg2)
        {
            let hash = found.err().unwrap_or_else(|| self.hash.of(&from.octets()));
            return self.register(now, (from, hash), &packet, out);
        }
        let link = match found {
            Ok(link) => link,
            Err(hash) => return self.stranger(now, (from, hash), &datagram, out),
        };
        self.counters.on_owner += 1;
        // Whatever comes from a stock link's address earns credit and keeps the link alive: that is all it can show. A
        // device's link is kept alive by what it alone can send.
        let (proven, data_mac, barred) = self
            .links
            .get(link)
            .map_or((false, false, None), |link| (link.proven, link.data_mac, link.barred));
        if let Some(bar) = barred {
            return Verdict::Drop(bar.into());
        }
        if !proven {
            self.links.heard(link, now, bytes.len());
        }
        let datagram = match datagram {
            Datagram::SrtData(_) | Datagram::SrtControl(_) if data_mac => {
                match self.seals.open_data(link, now, bytes) {
                    Ok(packet) => wire::classify(packet),
                    Err(reason) => return Verdict::Drop(reason),
                }
            }
            other => other,
        };
        let verdict = match datagram {
            Datagram::SrtData(data) => self.srt_data(now, link, &data, out),
            Datagram::SrtControl(control) => self.srt_control(now, link, &control, out),
            Datagram::Srtla(packet) => self.srtla(now, link, &packet, out),
            Datagram::Runt => Verdict::Drop(DropReason::Runt),
        };
        if proven && !matches!(verdict, Verdict::Drop(_)) {
            self.links.heard(link, now, bytes.len());
        }
        verdict
    }

    /// An address that is no member's: a link of another shard, or a link whose address was changed by a NAT.
    fn stranger(
        &mut self,
        now: Time,
        (from, hash): (LinkAddr, u32),
        datagram: &Datagram<'_>,
        out: &mut Actions,
    ) -> Verdict {
        if let Some(owner) = self.foreign.owner(now, from, hash) {
            return Verdict::HandOff(owner);
        }
        if let Datagram::SrtData(data) = datagram
            && let Some(link) = self.adopt(now, (from, hash), data, out)
        {
            self.links.heard(link, now, data.bytes().len());
            return self.srt_data(now, link, data, out);
        }
        Verdict::Drop(match datagram {
            Datagram::Runt => DropReason::Runt,
            Datagram::Srtla(packet) if packet.kind() != PacketType::Keepalive => DropReason::UnexpectedSrtla,
            _ => DropReason::NotMember,
        })
    }

    /// Follows a link to a new address: SRT data whose socket ID names exactly one group and whose sequence number is
    /// near that group's newest becomes a link on probation. It may push out a dead link, never a live one. Links of
    /// devices register anew instead.
    fn adopt(&mut self, now: Time, from: (LinkAddr, u32), data: &Data<'_>, out: &mut Actions) -> Option<u32> {
        let ip = from.0.ip();
        if !self.config.roaming || !self.admission.admits_stock(ip) || self.bar(now, ip, false).is_some() {
            return None;
        }
        let group = self.groups.find_server(&self.hash, data.dest_socket_id())?;
        let found = self.groups.get(group)?;
        if found.device().is_some()
            || !matches!(found.stage, Stage::Accepted)
            || !found.session.would_accept(data, self.config.seq_window)
            || !self.has_room(out)
        {
            return None;
        }
        let free = self.links.free_slot(group);
        let slot = free.or_else(|| self.links.longest_silent(group))?;
        if free.is_none() {
            if self.links.get(slot)?.is_live(now, self.config.link_live) {
                return None;
            }
            self.remove_link(slot, LeaveReason::Evicted, out);
        }
        self.add_link(now, group, slot, from, Joining::Roamed, out);
        self.counters.links_roamed += 1;
        Some(slot)
    }

    /// SRT data from a member.
    fn srt_data(&mut self, now: Time, link_slot: u32, data: &Data<'_>, out: &mut Actions) -> Verdict {
        let group_slot = self.links.group_of(link_slot);
        let (Some(link), Some(group)) = (self.links.get_mut(link_slot), self.groups.get_mut(group_slot))
        else {
            return Verdict::Drop(DropReason::NotMember);
        };
        match group.stage {
            Stage::Accepted => {}
            Stage::Probation(_) => return Verdict::Drop(DropReason::Probation),
            Stage::Condemned(_) => return Verdict::Drop(DropReason::Revoked),
        }
        if !group.session.admits_uplink(data.dest_socket_id(), false) {
            return Verdict::Drop(DropReason::ForeignSocket);
        }
        let server_id = group.session.server_id;
        let plausible = group.session.follow_data(data, self.config.seq_window, !link.is_on_probation());
        if plausible && link.proves_itself(self.config.probation_packets) {
            group.newest_source = Some(link_slot);
        }
        if !group.carried_data {
            self.groups.carries_data(group_slot);
        }
        let learned = self.groups.get(group_slot).is_some_and(|group| group.session.server_id != server_id);
        if learned {
            self.groups.reindex(&self.hash, group_slot);
        }
        let first = link.note_unacked(data.seq());
        let full = link.unacked().len() >= self.config.ack_every as usize;
        let verdict = self.srt_forward(now, link_slot, group_slot, data.bytes().len(), out);
        if full {
            self.links.ack_flush.disarm(link_slot);
            self.send_ack(link_slot, out);
        } else if first {
            self.links.ack_flush.arm(link_slot, now);
        }
        verdict
    }

    /// SRT control from a member.
    fn srt_control(
        &mut self,
        now: Time,
        link_slot: u32,
        control: &Control<'_>,
        out: &mut Actions,
    ) -> Verdict {
        let group_slot = self.links.group_of(link_slot);
        let (Some(link), Some(group)) = (self.links.get(link_slot), self.groups.get_mut(group_slot)) else {
            return Verdict::Drop(DropReason::NotMember);
        };
        let is_handshake = control.control_type() == ControlType::Handshake;
        match &mut group.stage {
            Stage::Accepted => {}
            Stage::Probation(_) if !is_handshake => return Verdict::Drop(DropReason::Probation),
            Stage::Probation(budget) => {
                if !budget.take(self.config.handshake_rate, now) {
                    return Verdict::Drop(DropReason::ProbationBudget);
                }
            }
            Stage::Condemned(_) => return Verdict::Drop(DropReason::Revoked),
        }
        if !group.session.admits_uplink(control.dest_socket_id(), is_handshake) {
            return Verdict::Drop(DropReason::ForeignSocket);
        }
        if !link.is_on_probation() {
            if group.session.accepts_control(control) {
                group.newest_source = Some(link_slot);
            }
            if let Opening::Replaced { old_server_id } = group.session.follow_uplink(control) {
                self.replace_session(group_slot, old_server_id, control.timestamp_us(), out);
            }
        }
        self.srt_forward(now, link_slot, group_slot, control.bytes().len(), out)
    }

    /// The encoder has begun a new session: end the old one for the SRT server's sake, and forget what was to be
    /// acknowledged of it.
    pub(super) fn replace_session(
        &mut self,
        group_slot: u32,
        old_server_id: Option<u32>,
        timestamp_us: u32,
        out: &mut Actions,
    ) {
        self.groups.reindex(&self.hash, group_slot);
        for (_, link) in self.links.of_group_mut(group_slot) {
            link.clear_unacked();
        }
        let group = self.groups.key(group_slot);
        let Some(server_id) = old_server_id else { return };
        out.push_with(Action::SendDownstream { group }, SHUTDOWN_LEN, |buf| {
            buf.copy_from_slice(&emit_shutdown(server_id, timestamp_us));
        });
        self.counters.sessions_replaced += 1;
        out.push(Action::Notice(Notice::SessionReplaced { group }));
    }

    /// Books an SRT packet and passes it on.
    fn srt_forward(
        &mut self,
        now: Time,
        link_slot: u32,
        group_slot: u32,
        len: usize,
        out: &mut Actions,
    ) -> Verdict {
        self.links.talked(link_slot, now, false);
        let key = self.groups.key(group_slot);
        if let Some(link) = self.links.get_mut(link_slot) {
            link.srt_at = Some(now);
        }
        if let Some(group) = self.groups.get_mut(group_slot) {
            group.forwarder_open = group.forwarder_open || out.push(Action::OpenForwarder(key));
            group.forwarded_packets += 1;
            group.forwarded_bytes += len as u64;
        }
        self.last_link = Some(self.links.key(link_slot));
        self.forwarded_len = len;
        Verdict::Forward(key)
    }

    /// A keepalive goes back as it came, or with our own trailer. Everything else of SRTLA has no business here.
    fn srtla(&mut self, now: Time, link_slot: u32, packet: &Packet<'_>, out: &mut Actions) -> Verdict {
        if packet.kind() != PacketType::Keepalive {
            return Verdict::Drop(DropReason::UnexpectedSrtla);
        }
        match self.groups.get(self.links.group_of(link_slot)) {
            None => return Verdict::Drop(DropReason::NotMember),
            Some(group) if group.is_condemned() => return Verdict::Drop(DropReason::Revoked),
            Some(_) => {}
        }
        if self.seals.seals_keepalives(link_slot) {
            return self.sealed_keepalive(now, link_slot, packet.bytes(), out);
        }
        let Some(keepalive) = packet.keepalive() else { return Verdict::Drop(DropReason::UnexpectedSrtla) };
        if let Err(reason) = self.keepalive(now, link_slot, &keepalive, packet.bytes().len()) {
            return Verdict::Drop(reason);
        }
        Verdict::ToLink(self.links.key(link_slot))
    }

    fn sealed_keepalive(&mut self, now: Time, link_slot: u32, sealed: &[u8], out: &mut Actions) -> Verdict {
        if !out.has_room(1, SEALED_LEN_MAX) {
            return Verdict::Drop(DropReason::ActionsFull);
        }
        let plain = match self.seals.open(link_slot, now, sealed) {
            Ok(plain) => plain,
            Err(reason) => return Verdict::Drop(reason),
        };
        let Some(keepalive) = Packet::new(plain).and_then(|packet| packet.keepalive()) else {
            return Verdict::Drop(DropReason::TrailerShape);
        };
        if let Err(reason) = self.keepalive(now, link_slot, &keepalive, sealed.len()) {
            return Verdict::Drop(reason);
        }
        if let Some(link) = self.links.get(link_slot)
            && let Some((echo, len)) = self.seals.seal(link_slot, plain)
        {
            reply(link.addr(), &echo[..len], out);
        }
        Verdict::Consumed
    }

    /// Takes a keepalive and books its echo of `len` bytes.
    fn keepalive(
        &mut self,
        now: Time,
        link_slot: u32,
        keepalive: &Keepalive,
        len: usize,
    ) -> Result<(), DropReason> {
        self.links.talked(link_slot, now, true);
        let rate = self.config.keepalive_rate;
        let link = self.links.get_mut(link_slot).ok_or(DropReason::NotMember)?;
        if !link.keepalives.take(rate, now) {
            return Err(DropReason::KeepaliveBudget);
        }
        if let Keepalive::Extended { telemetry, .. } = keepalive {
            link.set_telemetry(*telemetry);
        }
        if link.spend(len) { Ok(()) } else { Err(DropReason::NoCredit) }
    }

    /// Sends the SRTLA ACK for what a link has collected.
    fn send_ack(&mut self, link_slot: u32, out: &mut Actions) {
        let Some(link) = self.links.get_mut(link_slot) else { return };
        let (to, mut ack) = (link.addr(), [0; ACK_LEN_MAX]);
        let len = emit_ack(link.unacked(), &mut ack).map_or(0, <[u8]>::len);
        let wanted = !link.unacked().is_empty() && link.spend_on_traffic(len);
        link.clear_unacked();
        if !wanted {
            return;
        }
        let sealed = self.seals.seals_acks(link_slot).then(|| self.seals.seal(link_slot, &ack[..len]));
        let sent = match &sealed {
            None => reply(to, &ack[..len], out),
            Some(Some((sealed, len))) => reply(to, &sealed[..*len], out),
            Some(None) => false,
        };
        self.counters.acks_sent += u64::from(sent);
    }

    /// Sends the partial SRTLA ACKs that are due.
    pub(super) fn flush_acks(&mut self, now: Time, out: &mut Actions) {
        while self.has_room(out)
            && let Some(slot) = self.links.ack_flush.pop_due(now)
        {
            let before = self.counters.acks_sent;
            self.send_ack(slot, out);
            self.counters.acks_flushed += self.counters.acks_sent - before;
        }
    }
}

pub(super) fn reply(to: LinkAddr, bytes: &[u8], out: &mut Actions) -> bool {
    out.push_with(Action::Reply { to }, bytes.len(), |buf| buf.copy_from_slice(bytes))
}
