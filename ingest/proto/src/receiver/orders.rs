//! What the control plane orders: another policy, and what it thinks of a group's stream.
//!
//! Promise: a group the policy does not admit any more passes nothing on from the moment the order is taken, even when
//! there is no room yet to say that it is closed.

use super::admission::Current;
use super::bucket::Bucket;
use super::groups::{Group, Stage};
use super::{Actions, Admission, CloseReason, Receiver};
use crate::GroupKey;
use std::sync::Arc;
use std::time::Instant;

impl Receiver {
    /// Puts a policy in force and ends what it does not admit.
    pub(super) fn set_admission(&mut self, now: Instant, admission: Arc<Admission>, out: &mut Actions) {
        self.sa1.set(&admission, self.clock.now(now).boot_ms);
        self.lanes.renumber(&admission.keys, now);
        self.admission = Arc::new(Current(admission));
        for slot in 0..self.groups.slots() {
            let Some(group) = self.groups.get(slot) else { continue };
            let device = group.device().and_then(|device| self.admission.keys.entry(&device.key_id));
            let device = device.map(|entry| self.hash.of(entry.rules.name.as_bytes()));
            if let Some(device) = device {
                self.groups.rename_device(slot, device);
            }
            if self.groups.get(slot).is_some_and(|group| !self.is_admitted(slot, group)) {
                if let Some(group) = self.groups.get_mut(slot) {
                    group.stage = Stage::Condemned;
                }
                self.groups.condemned.arm(slot, now);
            }
        }
        self.close_condemned(now, out);
    }

    fn is_admitted(&self, slot: u32, group: &Group) -> bool {
        match group.device() {
            Some(device) => self.admission.keys.entry(&device.key_id).is_some_and(|entry| {
                entry.rules.allows_bind(&device.bind) && self.admission.networks.allows(group.addr)
            }),
            None => {
                self.admission.admits_stock(group.addr)
                    && self.links.of_group(slot).all(|(_, link)| self.admission.admits_stock(link.addr.ip()))
            }
        }
    }

    /// Closes what is condemned, as far as there is room.
    pub(super) fn close_condemned(&mut self, now: Instant, out: &mut Actions) {
        while self.has_room(out)
            && let Some(slot) = self.groups.condemned.pop_due(now)
        {
            self.close_group(slot, CloseReason::Revoked, out);
        }
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
    pub(super) fn stream_refused(&mut self, now: Instant, key: GroupKey, proven: bool, out: &mut Actions) {
        let Some(slot) = self.groups.slot_of(key) else { return };
        let full = Stage::Probation(Bucket::full(self.config.handshake_rate, now));
        let Some(group) = self.groups.get_mut(slot) else { return };
        let culprit = (proven && group.single_addr && group.device().is_none()).then_some(group.addr);
        if matches!(group.stage, Stage::Accepted) && self.admission.probation {
            group.stage = full;
            self.groups.is_ghost(slot, now);
        }
        if let Some(ip) = culprit
            && self.strike(now, ip)
        {
            self.close_group(slot, CloseReason::Penalty, out);
        }
    }
}
