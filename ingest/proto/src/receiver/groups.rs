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
use super::timers::Deadlines;
use crate::GroupKey;
use crate::wire::{GroupId, HALF_LEN};
use bondgate_auth::sa1::{GroupNonce, KeyId, StreamBind};
use std::net::IpAddr;
use std::time::{Duration, Instant};

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

/// The links that carry one SRT session.
pub(super) struct Group {
    pub identity: Identity,
    hash: u32,
    pub opened_at: Instant,
    pub stage: Stage,
    /// Where the link that joined last sent from.
    pub addr: IpAddr,
    /// All its links ever sent from that IP.
    pub single_addr: bool,
    /// How many links there are.
    pub links: u8,
    /// Slot of the link that most recently carried plausible SRT.
    pub newest_source: Option<u32>,
    /// SRT data has come; a group without is a ghost and may be evicted.
    pub carried_data: bool,
    /// `OpenForwarder` was delivered.
    pub forwarder_open: bool,
    pub session: Session,
    /// The socket ID under which the session is indexed.
    indexed_server_id: Option<u32>,
    pub forwarded_packets: u64,
    pub forwarded_bytes: u64,
    pub returned_packets: u64,
    pub returned_bytes: u64,
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

struct Slot {
    generation: u32,
    group: Option<Group>,
}

/// See the module's comment.
pub(super) struct Groups {
    slots: Box<[Slot]>,
    free: Vec<u32>,
    by_identity: Index,
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
        self.by_server.get_unique(hasher.of(&server_id.to_be_bytes()), |slot| {
            self.get(slot).is_some_and(|group| group.indexed_server_id == Some(server_id))
        })
    }

    pub(super) fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// Opens a group in a free slot.
    pub(super) fn insert(
        &mut self,
        hasher: &KeyHash,
        now: Instant,
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
        let place = self.slots.get_mut(slot as usize)?;
        let group = place.group.take()?;
        place.generation = place.generation.wrapping_add(1);
        self.by_identity.remove(group.hash, slot);
        if let Some(device) = group.device() {
            self.by_device.remove(device.device, slot);
        }
        if let Some(server_id) = group.indexed_server_id {
            self.by_server.remove(hasher.of(&server_id.to_be_bytes()), slot);
        }
        self.free.push(slot);
        Some(group)
    }

    /// Brings the index of socket IDs up to date after the session was followed.
    pub(super) fn reindex(&mut self, hasher: &KeyHash, slot: u32) {
        let Some(group) = self.slots.get_mut(slot as usize).and_then(|place| place.group.as_mut()) else {
            return;
        };
        let (before, after) = (group.indexed_server_id, group.session.server_id);
        if before == after {
            return;
        }
        group.indexed_server_id = after;
        if let Some(server_id) = before {
            self.by_server.remove(hasher.of(&server_id.to_be_bytes()), slot);
        }
        if let Some(server_id) = after {
            self.by_server.insert(hasher.of(&server_id.to_be_bytes()), slot);
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
    pub(super) fn is_ghost(&mut self, slot: u32, now: Instant) {
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
