//! The groups: a fixed arena, found by who their sender is or by the SRT server's socket ID.
//!
//! A stock group *is* its sender half: any full ID with that half that we issued joins it, so that a change of epoch never
//! splits a group. A device's group is its key ID and the nonce its sender drew at start. Promise: O(1) lookups, nothing
//! allocated after creation.

use super::CloseReason;
use super::bucket::Bucket;
use super::config::ReceiverConfig;
use super::session::Session;
use super::table::{Index, KeyHash};
use super::time::Time;
use super::timers::Deadlines;
use crate::GroupKey;
use crate::wire::{GroupId, HALF_LEN};
use bondgate_auth::sa1::{GroupNonce, KeyId, StreamBind};
use std::net::IpAddr;
use std::time::Duration;

/// Who the sender of a group is.
#[derive(Clone, Copy, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "one per group, in an arena")]
pub(super) enum Identity {
    /// Whoever shows this ID.
    Stock(GroupId),
    /// A device.
    Device(DeviceGroup),
}

/// A group a device has registered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct DeviceGroup {
    pub key_id: KeyId,
    pub nonce: GroupNonce,
    pub bind: StreamBind,
    /// The hash of the device's name.
    pub device: u32,
}

impl Identity {
    fn hash(&self, hasher: &KeyHash) -> u32 {
        match self {
            Self::Stock(id) => hasher.of(id.sender_half()),
            Self::Device(group) => hash_of_device(hasher, group.key_id, &group.nonce),
        }
    }

    /// The first bytes, for people.
    pub(super) fn prefix(&self) -> [u8; 4] {
        let bytes = match self {
            Self::Stock(id) => id.0.first_chunk(),
            Self::Device(group) => group.nonce.first_chunk(),
        };
        bytes.copied().unwrap_or_default()
    }
}

fn hash_of_device(hasher: &KeyHash, key_id: KeyId, nonce: &GroupNonce) -> u32 {
    let mut name = [0; 24];
    name[..8].copy_from_slice(&key_id);
    name[8..].copy_from_slice(nonce);
    hasher.of(&name)
}

/// What a group may do.
#[derive(Clone, Copy)]
pub(super) enum Stage {
    /// Shake hands, out of this budget.
    Probation(Bucket),
    /// Everything.
    Accepted,
    /// Nothing: it is being closed, for this reason.
    Condemned(CloseReason),
}

/// The links that carry one SRT session. Laid out by use: what every datagram touches comes first, together with its slot's
/// generation in two cache lines.
#[repr(C)]
pub(super) struct Group {
    pub stage: Stage,
    pub session: Session,
    /// Slot of the link that most recently carried plausible SRT.
    pub newest_source: Option<u32>,
    /// SRT data has come; a group without is a ghost and may be evicted.
    pub carried_data: bool,
    /// `OpenForwarder` was delivered.
    pub forwarder_open: bool,
    /// All its links ever sent from that IP.
    pub single_addr: bool,
    /// How many links there are.
    pub links: u8,
    pub forwarded_packets: u64,
    pub forwarded_bytes: u64,

    pub returned_packets: u64,
    pub returned_bytes: u64,
    pub opened_at: Time,
    hash: u32,
    /// The socket ID under which the session is indexed.
    indexed_server_id: Option<u32>,
    /// The groups before and after it among those indexed under the same ID, as slots plus one; 0 is none.
    same_server: (u32, u32),
    /// Where the link that joined last sent from.
    pub addr: IpAddr,
    pub identity: Identity,
}

impl Group {
    /// The device it belongs to, if any.
    pub(super) fn device(&self) -> Option<&DeviceGroup> {
        match &self.identity {
            Identity::Device(group) => Some(group),
            Identity::Stock(_) => None,
        }
    }

    pub(super) fn is_condemned(&self) -> bool {
        matches!(self.stage, Stage::Condemned(_))
    }
}

#[repr(C, align(64))]
struct Slot {
    generation: u32,
    group: Option<Group>,
}

/// See the module's comment.
pub(super) struct Groups {
    slots: Box<[Slot]>,
    free: Vec<u32>,
    by_identity: Index,
    /// One group of each socket ID; the others with the same are linked to it. A peer can choose the ID, and a thousand equal
    /// ones must not make a thousand steps.
    by_server: Index,
    by_device: Index,
    /// Groups without links that carried data.
    pub linger: Deadlines,
    /// Groups without links that never carried data.
    pub ghost_linger: Deadlines,
    /// Groups to be closed as soon as there is room for the actions.
    pub condemned: Deadlines,
    /// Stock groups that carry no data, oldest first; an order, not a timer.
    stock_ghosts: Deadlines,
    /// The same of devices.
    device_ghosts: Deadlines,
}

impl Groups {
    pub(super) fn new(config: &ReceiverConfig) -> Self {
        let max = config.groups_max;
        Self {
            slots: (0..max).map(|_| Slot { generation: 0, group: None }).collect(),
            free: (0..max as u32).rev().collect(),
            by_identity: Index::new(max),
            by_server: Index::new(max),
            by_device: Index::new(max),
            linger: Deadlines::new(config.group_linger, max),
            ghost_linger: Deadlines::new(config.ghost_linger, max),
            condemned: Deadlines::new(Duration::ZERO, max),
            stock_ghosts: Deadlines::new(Duration::ZERO, max),
            device_ghosts: Deadlines::new(Duration::ZERO, max),
        }
    }

    pub(super) fn get(&self, slot: u32) -> Option<&Group> {
        self.slots.get(slot as usize)?.group.as_ref()
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut Group> {
        self.slots.get_mut(slot as usize)?.group.as_mut()
    }

    /// The slot a key names, if the group is still there.
    pub(super) fn slot_of(&self, key: GroupKey) -> Option<u32> {
        let slot = self.slots.get(key.slot as usize)?;
        (slot.generation == key.generation && slot.group.is_some()).then_some(key.slot)
    }

    pub(super) fn key(&self, slot: u32) -> GroupKey {
        GroupKey { slot, generation: self.slots.get(slot as usize).map_or(0, |slot| slot.generation) }
    }

    /// All groups with their slots.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Group)> {
        self.slots.iter().enumerate().filter_map(|(slot, place)| Some((slot as u32, place.group.as_ref()?)))
    }

    /// How many slots there are; groups are in `0..` this.
    pub(super) fn slots(&self) -> u32 {
        self.slots.len() as u32
    }

    /// The stock group of a sender half.
    pub(super) fn find(&self, hasher: &KeyHash, half: &[u8; HALF_LEN]) -> Option<u32> {
        self.by_identity.get(hasher.of(half), |slot| {
            matches!(self.get(slot), Some(Group { identity: Identity::Stock(id), .. }) if id.sender_half() == half)
        })
    }

    /// The group of a device key and group nonce.
    pub(super) fn find_device(&self, hasher: &KeyHash, key_id: KeyId, nonce: &GroupNonce) -> Option<u32> {
        self.by_identity.get(hash_of_device(hasher, key_id, nonce), |slot| {
            self.get(slot)
                .and_then(Group::device)
                .is_some_and(|group| group.key_id == key_id && group.nonce == *nonce)
        })
    }

    /// The groups of devices whose name has this hash. Few: a device's quota and rarely another's.
    pub(super) fn of_device(&self, device: u32) -> impl Iterator<Item = (u32, &Group)> {
        self.by_device.all(device).filter_map(|slot| Some((slot, self.get(slot)?)))
    }

    /// The group whose SRT server has this socket ID, unless two have.
    pub(super) fn find_server(&self, hasher: &KeyHash, server_id: u32) -> Option<u32> {
        let first = self.first_with(hasher.of(&server_id.to_be_bytes()), server_id)?;
        (self.get(first)?.same_server.1 == 0).then_some(first)
    }

    fn first_with(&self, hash: u32, server_id: u32) -> Option<u32> {
        self.by_server
            .get(hash, |slot| self.get(slot).is_some_and(|group| group.indexed_server_id == Some(server_id)))
    }

    fn index_server(&mut self, hasher: &KeyHash, slot: u32, server_id: u32) {
        let hash = hasher.of(&server_id.to_be_bytes());
        let first = self.first_with(hash, server_id);
        let mut neighbours = (0, 0);
        if let Some(first) = first
            && let Some(group) = self.get_mut(first)
        {
            neighbours = (first + 1, std::mem::replace(&mut group.same_server.1, slot + 1));
            if let Some(next) = neighbours.1.checked_sub(1).and_then(|next| self.get_mut(next)) {
                next.same_server.0 = slot + 1;
            }
        } else {
            self.by_server.insert(hash, slot);
        }
        if let Some(group) = self.get_mut(slot) {
            (group.indexed_server_id, group.same_server) = (Some(server_id), neighbours);
        }
    }

    fn unindex_server(&mut self, hasher: &KeyHash, slot: u32) {
        let Some(group) = self.get_mut(slot) else { return };
        let Some(server_id) = group.indexed_server_id.take() else { return };
        let (previous, next) = std::mem::take(&mut group.same_server);
        let hash = hasher.of(&server_id.to_be_bytes());
        if let Some(group) = previous.checked_sub(1).and_then(|previous| self.get_mut(previous)) {
            group.same_server.1 = next;
        } else {
            self.by_server.remove(hash, slot);
            if let Some(next) = next.checked_sub(1) {
                self.by_server.insert(hash, next);
            }
        }
        if let Some(group) = next.checked_sub(1).and_then(|next| self.get_mut(next)) {
            group.same_server.0 = previous;
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// Opens a group in a free slot.
    pub(super) fn insert(
        &mut self,
        hasher: &KeyHash,
        now: Time,
        identity: &Identity,
        stage: Stage,
        addr: IpAddr,
    ) -> Option<u32> {
        let slot = self.free.pop()?;
        let hash = identity.hash(hasher);
        let place = self.slots.get_mut(slot as usize)?;
        place.group = Some(Group {
            identity: *identity,
            hash,
            opened_at: now,
            stage,
            addr,
            single_addr: true,
            links: 0,
            newest_source: None,
            carried_data: false,
            forwarder_open: false,
            session: Session::default(),
            indexed_server_id: None,
            same_server: (0, 0),
            forwarded_packets: 0,
            forwarded_bytes: 0,
            returned_packets: 0,
            returned_bytes: 0,
        });
        self.by_identity.insert(hash, slot);
        if let Identity::Device(group) = identity {
            self.by_device.insert(group.device, slot);
        }
        self.is_ghost(slot, now);
        Some(slot)
    }

    /// Takes a group out of its slot; its key names nothing from now on.
    pub(super) fn remove(&mut self, hasher: &KeyHash, slot: u32) -> Option<Group> {
        for class in [
            &mut self.linger,
            &mut self.ghost_linger,
            &mut self.condemned,
            &mut self.stock_ghosts,
            &mut self.device_ghosts,
        ] {
            class.disarm(slot);
        }
        self.unindex_server(hasher, slot);
        let place = self.slots.get_mut(slot as usize)?;
        let group = place.group.take()?;
        place.generation = place.generation.wrapping_add(1);
        self.by_identity.remove(group.hash, slot);
        if let Some(device) = group.device() {
            self.by_device.remove(device.device, slot);
        }
        self.free.push(slot);
        Some(group)
    }

    /// Brings the index of socket IDs up to date after the session was followed.
    pub(super) fn reindex(&mut self, hasher: &KeyHash, slot: u32) {
        let Some(group) = self.get(slot) else { return };
        let after = group.session.server_id;
        if group.indexed_server_id == after {
            return;
        }
        self.unindex_server(hasher, slot);
        if let Some(server_id) = after {
            self.index_server(hasher, slot, server_id);
        }
    }

    /// The group's device has another name now.
    pub(super) fn rename_device(&mut self, slot: u32, device: u32) {
        let Some(Group { identity: Identity::Device(group), .. }) = self.get_mut(slot) else { return };
        let before = std::mem::replace(&mut group.device, device);
        if before != device {
            self.by_device.remove(before, slot);
            self.by_device.insert(device, slot);
        }
    }

    /// The group carries no data, or what it carried does not count any more.
    pub(super) fn is_ghost(&mut self, slot: u32, now: Time) {
        let Some(group) = self.get_mut(slot) else { return };
        group.carried_data = false;
        let of_device = group.device().is_some();
        if of_device { self.device_ghosts.arm(slot, now) } else { self.stock_ghosts.arm(slot, now) }
    }

    /// The group carries data.
    pub(super) fn carries_data(&mut self, slot: u32) {
        self.stock_ghosts.disarm(slot);
        self.device_ghosts.disarm(slot);
        if let Some(group) = self.get_mut(slot) {
            group.carried_data = true;
        }
    }

    /// The group to give way when the table is full: the oldest stock group that carries no data, else the group that has
    /// been without links longest. Groups of devices give way to devices only.
    pub(super) fn evictable(&self, for_device: bool) -> Option<u32> {
        let is_stock = |&slot: &u32| self.get(slot).is_some_and(|group| group.device().is_none());
        let lingering = self.linger.oldest().filter(|slot| for_device || is_stock(slot));
        let ghost = self.device_ghosts.oldest().filter(|_| for_device);
        self.stock_ghosts.oldest().or(lingering).or(ghost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_every_datagram_touches_of_a_group_is_in_two_cache_lines() {
        use std::mem::offset_of;
        assert!(offset_of!(Slot, group) + offset_of!(Group, returned_packets) <= 128);
        assert!(size_of::<Slot>() <= 512, "{}", size_of::<Slot>());
    }

    proptest! {
        /// A socket ID names a group exactly when one group alone has it.
        #[test]
        fn only_a_socket_id_of_one_group_names_it(ops in prop::collection::vec((0u32..8, prop::option::of(0u32..3)), 0..100)) {
            let (hasher, now) = (KeyHash::new([1, 2]), Time::any());
            let config = ReceiverConfig { groups_max: 8, ..ReceiverConfig::default() };
            let mut groups = Groups::new(&config);
            for n in 0..8 {
                let identity = Identity::Stock(GroupId([n; 256]));
                groups.insert(&hasher, now, &identity, Stage::Accepted, [192, 0, 2, 1].into());
            }
            let mut oracle = [None; 8];
            for (slot, server_id) in ops {
                if let Some(group) = groups.get_mut(slot) {
                    group.session.server_id = server_id;
                    groups.reindex(&hasher, slot);
                    oracle[slot as usize] = server_id;
                }
                for id in 0..3 {
                    let having: Vec<u32> = (0..8).filter(|at| oracle[*at as usize] == Some(id)).collect();
                    let only = if having.len() == 1 { Some(having[0]) } else { None };
                    prop_assert_eq!(groups.find_server(&hasher, id), only);
                }
            }
            for slot in 0..8 {
                groups.remove(&hasher, slot);
                oracle[slot as usize] = None;
                for id in 0..3 {
                    let having: Vec<u32> = (0..8).filter(|at| oracle[*at as usize] == Some(id)).collect();
                    let only = if having.len() == 1 { Some(having[0]) } else { None };
                    prop_assert_eq!(groups.find_server(&hasher, id), only);
                }
            }
        }
    }
}
