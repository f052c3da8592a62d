//! REG1, REG2, REG3 and NGP.

use super::bucket::Bucket;
use super::{Action, Actions, DropReason, LeaveReason, Receiver, Verdict};
use crate::LinkAddr;
use crate::wire::{GroupId, HALF_LEN, Packet, PacketType, REG_LEN, SHORT_PADDED_LEN, emit_reg, emit_short};
use siphasher::sip::SipHasher13;
use std::time::Instant;

impl Receiver {
    /// The shard that holds the group of a sender half. A pure function of the half, the same in every shard and after
    /// every restart, so that parallel REG1 on links that the kernel spread over shards have one answer.
    fn owner_of(&self, sender_half: &[u8; HALF_LEN]) -> u8 {
        (SipHasher13::new().hash(sender_half) % u64::from(self.config.shards)) as u8
    }

    /// The full ID a sender half is answered with: that of its living group, else a ticket of this epoch.
    fn full_id(&self, sender_half: &[u8; HALF_LEN]) -> GroupId {
        let living = self.groups.find(&self.hash, sender_half).and_then(|slot| self.groups.get(slot));
        if let Some(group) = living {
            return group.id;
        }
        let ticket = self.tickets.issue(sender_half, self.epoch, self.owner_of(sender_half));
        GroupId::from_halves(sender_half, &ticket)
    }

    /// "Make me a group": answered at once, remembered by the sender only.
    pub(super) fn reg1(
        &mut self,
        now: Instant,
        (from, hash): (LinkAddr, u32),
        packet: &Packet<'_>,
        out: &mut Actions,
    ) -> Verdict {
        let Some(asked) = packet.group_id().copied().map(GroupId) else {
            return Verdict::Drop(DropReason::BadLength);
        };
        if !self.admission.admits_stock(from.ip()) {
            return Verdict::Drop(DropReason::NotAdmitted);
        }
        let owner = self.owner_of(asked.sender_half());
        if owner != self.config.shard {
            return Verdict::HandOff(owner);
        }
        if self.draining && self.groups.find(&self.hash, asked.sender_half()).is_none() {
            return Verdict::Drop(DropReason::Draining);
        }
        if !reply_reg2(from, &self.full_id(asked.sender_half()), out) {
            return Verdict::Drop(DropReason::ActionsFull);
        }
        self.counters.reg1_answered += 1;
        self.pending.note(now, from, hash, asked.sender_half());
        Verdict::Consumed
    }

    /// "Let this link join": REG3 if the ID is one of ours, NGP if not.
    pub(super) fn reg2(
        &mut self,
        now: Instant,
        (from, hash): (LinkAddr, u32),
        packet: &Packet<'_>,
        out: &mut Actions,
    ) -> Verdict {
        let Some(id) = packet.group_id().copied().map(GroupId) else {
            return Verdict::Drop(DropReason::BadLength);
        };
        if !self.admission.admits_stock(from.ip()) {
            return Verdict::Drop(DropReason::NotAdmitted);
        }
        if !self.has_room(out) {
            return Verdict::Drop(DropReason::ActionsFull);
        }
        let owner = self.owner_of(id.sender_half());
        if owner != self.config.shard {
            return self.reg2_foreign(now, (from, hash), &id, owner, out);
        }
        let living = self.groups.find(&self.hash, id.sender_half());
        let is_stored = living.and_then(|slot| self.groups.get(slot)).is_some_and(|group| group.id == id);
        if !is_stored && self.tickets.verify(&id.0, self.epoch).is_err() {
            return self.no_group(now, from, out);
        }
        // From here on the sender has shown an ID that only this receiver could have given it.
        self.pending.forget(from, hash);
        self.foreign.forget(from, hash);
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
            None => match self.open_group(now, id, from.ip(), out) {
                Some(group) => group,
                None => return Verdict::Drop(DropReason::GroupTableFull),
            },
        };
        self.join(now, group, (from, hash), out);
        Verdict::Consumed
    }

    /// A join for a group of another shard. The owner decides; here only the address's whereabouts are noted, and
    /// changed only on the word of a valid ticket.
    fn reg2_foreign(
        &mut self,
        now: Instant,
        (from, hash): (LinkAddr, u32),
        id: &GroupId,
        owner: u8,
        out: &mut Actions,
    ) -> Verdict {
        let verified = self.tickets.verify(&id.0, self.epoch).is_ok();
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
            self.foreign.set(now, from, hash, owner);
        } else {
            // Perhaps a ticket that is too old for a new group but not for a living one.
            self.foreign.suggest(now, from, hash, owner);
        }
        Verdict::HandOff(owner)
    }

    /// The address talks in the group it belongs to. Anybody can forge a join from it with a ticket of their own; a
    /// sender that really restarted has been silent while it registered.
    fn is_busy(&self, now: Instant, link: u32) -> bool {
        self.links
            .get(link)
            .and_then(|link| link.talked_at)
            .is_some_and(|talked| now.saturating_duration_since(talked) < self.config.move_silence)
    }

    /// Adds a link to a group and answers REG3. A full group gives up its longest silent link.
    fn join(&mut self, now: Instant, group: u32, from: (LinkAddr, u32), out: &mut Actions) {
        let free = self.links.free_slot(group);
        let Some(slot) = free.or_else(|| self.links.longest_silent(group)) else { return };
        if free.is_none() {
            self.remove_link(slot, LeaveReason::Evicted, out);
        }
        self.add_link(now, group, slot, from, false, out);
        self.links.reg3.arm(slot, now);
        self.reply_reg3(slot, out);
        self.counters.reg3_sent += 1;
    }

    /// A member asks again: it has not heard the answer, or it was away.
    fn join_again(&mut self, now: Instant, slot: u32, out: &mut Actions) -> Verdict {
        self.links.heard(slot, now, REG_LEN);
        if let Some(link) = self.links.get_mut(slot) {
            link.probation = None;
            link.reg3_repeats = 0;
            link.has_kept_alive = false;
            self.links.reg3.arm(slot, now);
        }
        self.reply_reg3(slot, out);
        self.counters.reg3_sent += 1;
        Verdict::Consumed
    }

    /// NGP to a probing sender, within the budget.
    fn no_group(&mut self, now: Instant, from: LinkAddr, out: &mut Actions) -> Verdict {
        let rate = self.config.ngp_rate;
        if !self.ngp.get_or_insert_with(|| Bucket::full(rate, now)).take(rate, now) {
            return Verdict::Drop(DropReason::NgpBudget);
        }
        reply_short(from, PacketType::RegNgp, out);
        self.counters.ngp_sent += 1;
        Verdict::Consumed
    }

    fn reply_reg3(&mut self, slot: u32, out: &mut Actions) {
        if let Some(link) = self.links.get_mut(slot)
            && reply_short(link.addr, PacketType::Reg3, out)
        {
            link.spend_free(SHORT_PADDED_LEN);
        }
    }

    /// Repeats REG3 to members that are silent and have sent no keepalive since they joined: the answer was lost, and a
    /// Rust sender would leave the link idle for ever. Never to one that is talking: a Rust sender forgets what it has
    /// under way when REG3 comes.
    pub(super) fn repeat_reg3(&mut self, now: Instant, out: &mut Actions) {
        while self.has_room(out)
            && let Some(slot) = self.links.reg3.pop_due(now)
        {
            let Some(link) = self.links.get_mut(slot) else { continue };
            if link.reg3_repeats >= self.config.reg3_repeats_max {
                continue;
            }
            let talks =
                link.srt_at.is_some_and(|at| now.saturating_duration_since(at) < self.config.reg3_repeat);
            link.reg3_repeats += u8::from(!talks);
            self.links.reg3.arm(slot, now);
            if talks {
                continue;
            }
            self.reply_reg3(slot, out);
            self.counters.reg3_repeated += 1;
        }
    }

    /// Repeats REG2 once to senders whose join has not come.
    pub(super) fn repeat_reg2(&mut self, now: Instant, out: &mut Actions) {
        while self.has_room(out)
            && let Some((addr, sender_half)) = self.pending.pop_due(now)
        {
            let full = self.full_id(&sender_half);
            if reply_reg2(addr, &full, out) {
                self.counters.reg2_repeated += 1;
            }
        }
    }
}

fn reply_reg2(to: LinkAddr, id: &GroupId, out: &mut Actions) -> bool {
    out.push_with(Action::Reply { to }, REG_LEN, |buf| {
        emit_reg(PacketType::Reg2, &id.0, buf);
    })
}

fn reply_short(to: LinkAddr, kind: PacketType, out: &mut Actions) -> bool {
    out.push_with(Action::Reply { to }, SHORT_PADDED_LEN, |buf| {
        emit_short(kind, SHORT_PADDED_LEN, buf);
    })
}
