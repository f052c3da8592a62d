//! What the control plane orders: another policy, and what it thinks of a group's stream; and what other shards say of
//! their links.
//!
//! Promise: a group the policy does not admit any more, and a link at an address that is kept out, pass nothing on from the
//! moment the order is taken, even when there is no room yet to say that they end.

use super::admission::{Bar, Current};
use super::bucket::Bucket;
use super::groups::{Group, Stage};
use super::links::Link;
use super::time::Time;
use super::{Action, Actions, Admission, CloseReason, LeaveReason, Notice, Receiver};
use crate::{GroupKey, LinkAddr};
use std::net::IpAddr;
use std::sync::Arc;

impl Receiver {
    /// Puts a policy in force and ends what it does not admit.
    pub(super) fn set_admission(&mut self, now: Time, admission: Arc<Admission>, out: &mut Actions) {
        self.sa1.set(&admission, self.clock_at(now).boot_ms);
        self.lanes.set_limits(admission.limits);
        if !Arc::ptr_eq(&self.admission.keys, &admission.keys) {
            self.lanes.renumber(&admission.keys, now);
        }
        self.admission = Arc::new(Current(admission));
        for slot in 0..self.groups.slots() {
            let Some(group) = self.groups.get(slot) else { continue };
            let device = group.device().and_then(|device| self.admission.keys.entry(&device.key_id));
            let device = device.map(|entry| self.hash.of(entry.rules.name.as_bytes()));
            if let Some(device) = device {
                self.groups.rename_device(slot, device);
            }
            let end = self.groups.get(slot).and_then(|group| {
                if !self.is_entitled(group) {
                    return Some(CloseReason::Revoked);
                }
                self.group_bar(now, slot, group).map(CloseReason::from)
            });
            if let Some(reason) = end {
                if let Some(group) = self.groups.get_mut(slot) {
                    group.stage = Stage::Condemned(reason);
                }
                self.groups.condemned.arm(slot, now);
            } else {
                self.bar_links(now, slot);
            }
        }
        self.end_condemned(now, out);
    }

    /// Why nothing may come from this address now, if so.
    pub(super) fn bar(&self, now: Time, ip: IpAddr, has_key: bool) -> Option<Bar> {
        if self.admission.has_bars() {
            self.admission.bar(ip, has_key, self.clock_at(now).wall_ms)
        } else {
            None
        }
    }

    /// Why nothing may come any more from a link of the group at this address, if so. A ban on those who show no key spares
    /// what was accepted: it is about the next attempt of somebody at an address that others share.
    fn link_bar(&self, now: Time, ip: IpAddr, group: &Group) -> Option<Bar> {
        let has_key = group.device().is_some();
        let is_spared = has_key || !matches!(group.stage, Stage::Probation(_));
        self.bar(now, ip, is_spared)
            .or_else(|| (!self.admission.admits(ip, has_key)).then_some(Bar::NotAdmitted))
    }

    /// Why no address is left from which the group may be fed, if so.
    fn group_bar(&self, now: Time, slot: u32, group: &Group) -> Option<Bar> {
        let bar = |ip| self.link_bar(now, ip, group);
        let mut links = self.links.of_group(slot);
        match links.next() {
            Some((_, first)) => {
                bar(first.addr().ip()).filter(|_| links.all(|(_, link)| bar(link.addr().ip()).is_some()))
            }
            None => bar(group.addr),
        }
    }

    /// Silences the links of a group whose addresses are kept out.
    fn bar_links(&mut self, now: Time, slot: u32) {
        for link in self.links.range(slot) {
            let link = link as u32;
            let addr = self.links.get(link).filter(|link| link.barred.is_none()).map(Link::addr);
            let group = self.groups.get(slot);
            let bar = addr.zip(group).and_then(|(addr, group)| self.link_bar(now, addr.ip(), group));
            if let Some(bar) = bar {
                self.links.bar(link, now, bar);
            }
        }
    }

    /// The policy still knows the key the group registered with, and what it registered for; without a key only its
    /// addresses count.
    fn is_entitled(&self, group: &Group) -> bool {
        group.device().is_none_or(|device| {
            let entry = self.admission.keys.entry(&device.key_id);
            entry.is_some_and(|entry| entry.rules.allows_bind(&device.bind))
        })
    }

    /// Ends what is condemned, as far as there is room.
    pub(super) fn end_condemned(&mut self, now: Time, out: &mut Actions) {
        while self.has_room(out)
            && let Some(slot) = self.groups.condemned.pop_due(now)
        {
            let stage = self.groups.get(slot).map(|group| group.stage);
            let reason =
                if let Some(Stage::Condemned(reason)) = stage { reason } else { CloseReason::Revoked };
            self.close_group(slot, reason, out);
        }
        while self.has_room(out)
            && let Some(slot) = self.links.condemned.pop_due(now)
        {
            let barred = self.links.get(slot).and_then(|link| link.barred);
            let reason = barred.map_or(LeaveReason::Banned, LeaveReason::from);
            self.remove_link(slot, reason, out);
            self.linger(now, self.links.group_of(slot));
        }
    }

    /// Another shard says that it has a link at `addr`. Its word counts less than a link here that has just joined, talks, or
    /// is a device's while the other is not: then both shards have one, and the one from where nothing comes times out.
    pub(super) fn claimed(&mut self, now: Time, addr: LinkAddr, owner: u8, proven: bool, out: &mut Actions) {
        if owner == self.config.shard || owner >= self.config.shards {
            return;
        }
        let hash = self.hash.of(&addr.octets());
        if let Some(link) = self.links.find(addr, hash) {
            let joined_at = self.links.get(link).map_or(now, |link| link.joined_at);
            let is_new = now.since(joined_at) < self.config.move_silence;
            if is_new || (!proven && self.is_busy(now, link)) || !self.has_room(out) {
                return;
            }
            self.move_away(now, link, out);
        }
        self.foreign.claim(now, (addr, hash), owner, proven);
    }

    /// The group's stream may be published.
    pub(super) fn stream_accepted(&mut self, key: GroupKey) {
        if let Some(group) = self.groups.slot_of(key).and_then(|slot| self.groups.get_mut(slot))
            && !group.is_condemned()
        {
            group.stage = Stage::Accepted;
        }
    }

    /// The group's stream may not be published. Its address is held responsible if it was the only one that ever had a
    /// part in the group and `proven` says that it receives what is sent there: a ticket can be shown from anywhere, and
    /// a group with several addresses may have been entered by forging one. A device is known by its key instead.
    pub(super) fn stream_refused(&mut self, now: Time, key: GroupKey, proven: bool, out: &mut Actions) {
        let Some(slot) = self.groups.slot_of(key) else { return };
        let full = Stage::Probation(Bucket::full(now));
        let Some(group) = self.groups.get_mut(slot) else { return };
        let culprit = (proven && group.single_addr && group.device().is_none()).then_some(group.addr);
        if matches!(group.stage, Stage::Accepted) && self.admission.probation {
            group.stage = full;
            self.groups.is_ghost(slot, now);
        }
        if let Some(ip) = culprit {
            self.counters.strikes += 1;
            out.push(Action::Notice(Notice::Strike { ip }));
        }
    }
}
