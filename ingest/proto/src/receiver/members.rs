//! Links and groups coming and going.
//!
//! Every function here first has the room its actions need (see [`Receiver::actions_min`]), so that no forwarder and no
//! steering entry outlives its group or link.

use super::bucket::Bucket;
use super::groups::{Identity, Stage};
use super::links::NewLink;
use super::time::Time;
use super::{Action, Actions, CloseReason, LeaveReason, Notice, Receiver};
use crate::LinkAddr;
use std::net::IpAddr;

/// How a link comes in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Joining {
    /// By a ticket, with this credit.
    Ticket(i32),
    /// By a device's join.
    Device,
    /// By its traffic.
    Roamed,
}

impl Receiver {
    /// There is room for the actions of any one step.
    pub(super) fn has_room(&self, out: &Actions) -> bool {
        let (actions, bytes) = self.actions_min();
        out.has_room(actions, bytes)
    }

    /// Opens a group, evicting another if the table is full. `None` when nothing can be evicted.
    pub(super) fn open_group(
        &mut self,
        now: Time,
        identity: &Identity,
        addr: IpAddr,
        out: &mut Actions,
    ) -> Option<u32> {
        if self.groups.is_full() {
            let victim = self.groups.evictable(matches!(identity, Identity::Device(_)))?;
            self.counters.groups_evicted += 1;
            self.close_group(victim, CloseReason::Evicted, out);
        }
        let stage =
            if self.admission.probation { Stage::Probation(Bucket::full(now)) } else { Stage::Accepted };
        let slot = self.groups.insert(&self.hash, now, identity, stage, addr)?;
        self.counters.groups_opened += 1;
        out.push(Action::Notice(Notice::GroupOpened { group: self.groups.key(slot) }));
        Some(slot)
    }

    /// Removes a group with its links.
    pub(super) fn close_group(&mut self, slot: u32, reason: CloseReason, out: &mut Actions) {
        while let Some(link) = self.links.first_of_group(slot) {
            self.remove_link(link, LeaveReason::GroupClosed, out);
        }
        let key = self.groups.key(slot);
        let Some(group) = self.groups.remove(&self.hash, slot) else { return };
        self.counters.groups_closed += 1;
        if group.forwarder_open {
            out.push(Action::CloseForwarder(key));
        }
        out.push(Action::Notice(Notice::GroupClosed { group: key, reason }));
    }

    /// Adds a link to a group that has a free slot for it.
    pub(super) fn add_link(
        &mut self,
        now: Time,
        group_slot: u32,
        link_slot: u32,
        (addr, hash): (LinkAddr, u32),
        joining: Joining,
        out: &mut Actions,
    ) {
        self.foreign.forget(addr, hash);
        let roamed = joining == Joining::Roamed;
        let credit_bytes = if let Joining::Ticket(credit) = joining { credit } else { 0 };
        self.links.insert(
            link_slot,
            now,
            &NewLink { addr, hash, probation: roamed, proven: joining == Joining::Device, credit_bytes },
        );
        self.groups.linger.disarm(group_slot);
        self.groups.ghost_linger.disarm(group_slot);
        if let Some(group) = self.groups.get_mut(group_slot) {
            group.links += 1;
            group.single_addr &= group.addr == addr.ip();
            group.addr = addr.ip();
        }
        self.counters.links_joined += 1;
        let proven = joining == Joining::Device;
        out.push(Action::Steer { addr, shard: self.config.shard, proven });
        let (link, group) = (self.links.key(link_slot), self.groups.key(group_slot));
        out.push(Action::Notice(Notice::LinkJoined { link, group, addr, roamed }));
    }

    /// Removes a link from its group, which keeps existing.
    pub(super) fn remove_link(&mut self, slot: u32, reason: LeaveReason, out: &mut Actions) {
        let key = self.links.key(slot);
        let Some(addr) = self.links.remove(&self.hash, slot) else { return };
        self.seals.clear(slot);
        let group_slot = self.links.group_of(slot);
        self.counters.links_left += 1;
        match reason {
            LeaveReason::Timeout => self.counters.links_timed_out += 1,
            LeaveReason::Evicted => self.counters.links_evicted += 1,
            LeaveReason::Moved
            | LeaveReason::GroupClosed
            | LeaveReason::Banned
            | LeaveReason::Country
            | LeaveReason::NotAdmitted => {}
        }
        // The newest source is gone: the link that carried SRT most recently takes its place.
        let successor = self
            .links
            .of_group(group_slot)
            .filter(|(_, link)| !link.is_on_probation() && link.srt_at.is_some() && link.barred.is_none())
            .max_by_key(|(_, link)| link.srt_at)
            .map(|(slot, _)| slot);
        if let Some(group) = self.groups.get_mut(group_slot) {
            group.links = group.links.saturating_sub(1);
            if group.newest_source == Some(slot) {
                group.newest_source = successor;
            }
        }
        out.push(Action::Unsteer { addr });
        let group = self.groups.key(group_slot);
        out.push(Action::Notice(Notice::LinkLeft { link: key, group, addr, reason }));
    }

    /// Starts the linger time of a group that has lost its last link.
    pub(super) fn linger(&mut self, now: Time, slot: u32) {
        if let Some(group) = self.groups.get(slot).filter(|group| group.links == 0) {
            let class =
                if group.carried_data { &mut self.groups.linger } else { &mut self.groups.ghost_linger };
            class.arm(slot, now);
        }
    }

    /// Takes a link's address away for another group, and closes the old group when no live link is left in it.
    pub(super) fn move_away(&mut self, now: Time, slot: u32, out: &mut Actions) {
        let group = self.links.group_of(slot);
        self.remove_link(slot, LeaveReason::Moved, out);
        if !self.links.of_group(group).any(|(_, link)| link.is_live(now, self.config.link_live)) {
            self.close_group(group, CloseReason::Replaced, out);
        }
    }

    /// Removes links that have been silent for the link timeout.
    pub(super) fn expire_links(&mut self, now: Time, out: &mut Actions) {
        while self.has_room(out)
            && let Some(slot) = self.links.timeout.pop_due(now)
        {
            self.remove_link(slot, LeaveReason::Timeout, out);
            self.linger(now, self.links.group_of(slot));
        }
    }

    /// Removes groups whose linger time is over.
    pub(super) fn expire_groups(&mut self, now: Time, out: &mut Actions) {
        while self.has_room(out) {
            let due = self.groups.linger.pop_due(now).or_else(|| self.groups.ghost_linger.pop_due(now));
            let Some(slot) = due else { break };
            self.close_group(slot, CloseReason::Timeout, out);
        }
    }
}
