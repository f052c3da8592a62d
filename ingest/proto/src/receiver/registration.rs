//! REG1, REG2, REG3 and NGP of stock senders.

use super::bucket::Bucket;
use super::groups::Identity;
use super::lanes::{Stock, source_hash};
use super::members::Joining;
use super::time::Time;
use super::uplink::reply;
use super::{Actions, DropReason, LeaveReason, Receiver, Verdict};
use crate::LinkAddr;
use crate::wire::{GroupId, HALF_LEN, Packet, PacketType, REG_LEN, SHORT_PADDED_LEN, emit_reg, emit_short};
use bondgate_auth::sa1::wire::MAGIC;
use siphasher::sip::SipHasher13;

/// The first byte of every ticket.
const TICKET_MARK: u8 = 0x81;

impl Receiver {
    /// REG1 or REG2. Those that carry SA1's magic are SA1, whoever made them; a random stock ID does once in 2^32.
    pub(super) fn register(
        &mut self,
        now: Time,
        from: (LinkAddr, u32),
        packet: &Packet<'_>,
        out: &mut Actions,
    ) -> Verdict {
        let Some(id) = packet.group_id().copied().map(GroupId) else {
            return Verdict::Drop(DropReason::BadLength);
        };
        let ip = from.0.ip();
        let is_sa1 = id.0.starts_with(&MAGIC);
        if let Some(bar) = self.bar(now, ip, is_sa1) {
            return Verdict::Drop(bar.into());
        }
        if is_sa1 {
            return self.sa1(now, from, packet, out);
        }
        if !self.admission.admits_stock(ip) {
            return Verdict::Drop(DropReason::NotAdmitted);
        }
        if !self.has_room(out) {
            return Verdict::Drop(DropReason::ActionsFull);
        }
        // A device's address stays a device's until it is silent: a ticket can be shown from anywhere.
        if packet.kind() == PacketType::Reg2 && self.foreign.is_proven(from.0, from.1) {
            return Verdict::Drop(DropReason::AddressBusy);
        }
        let owner = self.owner_of(id.sender_half());
        if owner == self.config.shard {
            let source = source_hash(&self.hash, ip);
            if !self.lanes.stock_source(source, now) {
                return Verdict::Drop(DropReason::StockBudget);
            }
        }
        match packet.kind() {
            PacketType::Reg1 if owner == self.config.shard => self.reg1(now, from, &id, out),
            PacketType::Reg1 => Verdict::HandOff(owner),
            _ if owner == self.config.shard => self.reg2(now, from, id, out),
            _ => self.reg2_foreign(now, from, &id, owner, out),
        }
    }

    /// The shard that holds the group of a sender half. A pure function of the half, the same in every shard and after
    /// every restart, so that parallel REG1 on links that the kernel spread over shards have one answer.
    fn owner_of(&self, sender_half: &[u8; HALF_LEN]) -> u8 {
        (SipHasher13::new().hash(sender_half) % u64::from(self.config.shards)) as u8
    }

    /// The full ID of the living group of a sender half.
    fn stored_id(&self, sender_half: &[u8; HALF_LEN]) -> Option<&GroupId> {
        let slot = self.groups.find(&self.hash, sender_half)?;
        match &self.groups.get(slot)?.identity {
            Identity::Stock(id) => Some(id),
            Identity::Device(_) => None,
        }
    }

    /// The full ID a sender half is answered with: that of its living group, else a ticket of this epoch.
    fn full_id(&self, sender_half: &[u8; HALF_LEN]) -> GroupId {
        if let Some(id) = self.stored_id(sender_half) {
            return *id;
        }
        let ticket = self.tickets.issue(sender_half, self.epoch, self.owner_of(sender_half));
        GroupId::from_halves(sender_half, &ticket)
    }

    /// "Make me a group": answered at once, remembered by the sender only.
    fn reg1(
        &mut self,
        now: Time,
        (from, hash): (LinkAddr, u32),
        asked: &GroupId,
        out: &mut Actions,
    ) -> Verdict {
        if self.draining && self.groups.find(&self.hash, asked.sender_half()).is_none() {
            return Verdict::Drop(DropReason::Draining);
        }
        if !self.lanes.stock(Stock::Reg1, now) {
            return Verdict::Drop(DropReason::StockBudget);
        }
        reply_reg2(from, &self.full_id(asked.sender_half()), out);
        self.counters.reg1_answered += 1;
        self.pending.note(now, (from, hash), REG_LEN, REG_LEN);
        let source = source_hash(&self.hash, from.ip());
        self.pending.await_join(now, (from, hash, source), asked.sender_half());
        Verdict::Consumed
    }

    /// "Let this link join": REG3 if the ID is one of ours, NGP if not.
    fn reg2(&mut self, now: Time, (from, hash): (LinkAddr, u32), id: GroupId, out: &mut Actions) -> Verdict {
        if self.stored_id(id.sender_half()) != Some(&id) {
            match self.verify_ticket(now, &id) {
                None => return Verdict::Drop(DropReason::StockBudget),
                Some(false) => return self.no_group(now, (from, hash), out),
                Some(true) => {}
            }
        }
        // From here on the sender has shown an ID that only this receiver could have given it.
        if self.talks_elsewhere(now, (from, hash), self.config.shard) {
            return Verdict::Drop(DropReason::AddressBusy);
        }
        let credit = self.pending.take(from, hash);
        self.foreign.forget(from, hash);
        let living = self.groups.find(&self.hash, id.sender_half());
        let member = self.links.find(from, hash);
        if let Some(link) = member
            && living == Some(self.links.group_of(link))
        {
            return self.join_again(now, link, out);
        }
        if let Some(link) = member {
            if self.is_busy(now, link) {
                return Verdict::Drop(DropReason::AddressBusy);
            }
            self.move_away(now, link, out);
        }
        let group = match living {
            Some(group) => group,
            None if self.draining => return Verdict::Drop(DropReason::Draining),
            None => match self.open_group(now, &Identity::Stock(id), from.ip(), out) {
                Some(group) => group,
                None => return Verdict::Drop(DropReason::GroupTableFull),
            },
        };
        self.join(now, group, (from, hash), credit, out);
        Verdict::Consumed
    }

    /// Whether an ID is a ticket of ours; `None` when there is no budget to find out. What does not look like one costs
    /// nothing.
    fn verify_ticket(&mut self, now: Time, id: &GroupId) -> Option<bool> {
        if id.receiver_half().first() != Some(&TICKET_MARK) {
            return Some(false);
        }
        self.lanes.stock(Stock::Join, now).then(|| self.tickets.verify(&id.0, self.epoch).is_ok())
    }

    /// A join for a group of another shard. The owner decides; here only the address's whereabouts are noted, and
    /// changed only on the word of a valid ticket.
    fn reg2_foreign(
        &mut self,
        now: Time,
        (from, hash): (LinkAddr, u32),
        id: &GroupId,
        owner: u8,
        out: &mut Actions,
    ) -> Verdict {
        let Some(verified) = self.verify_ticket(now, id) else {
            return Verdict::Drop(DropReason::StockBudget);
        };
        if verified && self.talks_elsewhere(now, (from, hash), owner) {
            return Verdict::Drop(DropReason::AddressBusy);
        }
        if let Some(link) = self.links.find(from, hash) {
            if !verified {
                return Verdict::HandOff(owner);
            }
            if self.is_busy(now, link) {
                return Verdict::Drop(DropReason::AddressBusy);
            }
            self.move_away(now, link, out);
        }
        if verified {
            self.foreign.guess(now, (from, hash), owner, false);
        } else {
            // Perhaps a ticket that is too old for a new group but not for a living one.
            self.foreign.suggest(now, (from, hash), owner);
        }
        Verdict::HandOff(owner)
    }

    /// The address talks in the group it belongs to. Anybody can forge a join from it with a ticket of their own; a
    /// sender that really restarted has been silent while it registered. A device's address belongs to it until it is
    /// silent for good.
    pub(super) fn is_busy(&self, now: Time, link: u32) -> bool {
        let Some(link) = self.links.get(link) else { return false };
        let talks = link.talked_at.is_some_and(|talked| now.since(talked) < self.config.move_silence);
        link.proven || talks
    }

    /// The same for an address that belongs to the link of a shard other than `owner`, as far as this shard hands over its
    /// datagrams.
    fn talks_elsewhere(&self, now: Time, from: (LinkAddr, u32), owner: u8) -> bool {
        self.foreign.is_busy(now, from, owner, self.config.move_silence)
    }

    /// Adds a link to a group and answers REG3. A full group gives up its longest silent link.
    fn join(&mut self, now: Time, group: u32, from: (LinkAddr, u32), credit: i32, out: &mut Actions) {
        let free = self.links.free_slot(group);
        let Some(slot) = free.or_else(|| self.links.longest_silent(group)) else { return };
        if free.is_none() {
            self.remove_link(slot, LeaveReason::Evicted, out);
        }
        self.add_link(now, group, slot, from, Joining::Ticket(credit + REG_LEN as i32), out);
        self.links.reg3.arm(slot, now);
        self.counters.reg3_sent += u64::from(self.reply_reg3(slot, out));
    }

    /// A member asks again: it has not heard the answer, or it was away.
    fn join_again(&mut self, now: Time, slot: u32, out: &mut Actions) -> Verdict {
        self.links.heard(slot, now, REG_LEN);
        if let Some(link) = self.links.get_mut(slot) {
            link.end_probation();
            link.reg3_repeats = 0;
            link.has_kept_alive = false;
            self.links.reg3.arm(slot, now);
        }
        self.counters.reg3_sent += u64::from(self.reply_reg3(slot, out));
        Verdict::Consumed
    }

    /// NGP to a probing sender, within the budget.
    fn no_group(&mut self, now: Time, (from, hash): (LinkAddr, u32), out: &mut Actions) -> Verdict {
        let rate = self.config.ngp_rate;
        if !self.ngp.get_or_insert_with(|| Bucket::full(now)).take(rate, now) {
            return Verdict::Drop(DropReason::NgpBudget);
        }
        reply_short(from, PacketType::RegNgp, out);
        self.pending.note(now, (from, hash), REG_LEN, SHORT_PADDED_LEN);
        self.counters.ngp_sent += 1;
        Verdict::Consumed
    }

    /// REG3, if the link has earned it.
    fn reply_reg3(&mut self, slot: u32, out: &mut Actions) -> bool {
        self.links.get_mut(slot).is_some_and(|link| {
            link.spend(SHORT_PADDED_LEN) && reply_short(link.addr(), PacketType::Reg3, out)
        })
    }

    /// Repeats REG3 to members that are silent and have sent no keepalive since they joined: the answer was lost, and a
    /// Rust sender would leave the link idle for ever. Never to one that is talking: a Rust sender forgets what it has
    /// under way when REG3 comes.
    pub(super) fn repeat_reg3(&mut self, now: Time, out: &mut Actions) {
        while self.has_room(out)
            && let Some(slot) = self.links.reg3.pop_due(now)
        {
            let Some(link) = self.links.get_mut(slot) else { continue };
            if link.reg3_repeats >= self.config.reg3_repeats_max {
                continue;
            }
            let talks = link.srt_at.is_some_and(|at| now.since(at) < self.config.reg3_repeat);
            link.reg3_repeats += u8::from(!talks);
            self.links.reg3.arm(slot, now);
            if !talks {
                self.counters.reg3_repeated += u64::from(self.reply_reg3(slot, out));
            }
        }
    }

    /// Repeats REG2 once to senders whose join has not come.
    pub(super) fn repeat_reg2(&mut self, now: Time, out: &mut Actions) {
        while self.has_room(out)
            && let Some((addr, sender_half)) = self.pending.pop_due(now)
        {
            let ip = addr.ip();
            let is_welcome = self.admission.admits_stock(ip) && self.bar(now, ip, false).is_none();
            if is_welcome && self.lanes.stock(Stock::Repeat, now) {
                reply_reg2(addr, &self.full_id(&sender_half), out);
                self.counters.reg2_repeated += 1;
            }
        }
    }
}

fn reply_reg2(to: LinkAddr, id: &GroupId, out: &mut Actions) {
    let mut packet = [0; REG_LEN];
    emit_reg(PacketType::Reg2, &id.0, &mut packet);
    reply(to, &packet, out);
}

fn reply_short(to: LinkAddr, kind: PacketType, out: &mut Actions) -> bool {
    let mut packet = [0; SHORT_PADDED_LEN];
    emit_short(kind, SHORT_PADDED_LEN, &mut packet);
    reply(to, &packet, out)
}
