//! The groups: a fixed arena, found by sender half or by the SRT server's socket ID.
//!
//! A group *is* its sender half: any full ID with that half that we issued joins it, so that a change of epoch never
//! splits a group. Promise: O(1) lookups, nothing allocated after creation.

use super::config::ReceiverConfig;
use super::session::Session;
use super::table::{Index, KeyHash};
use super::timers::Deadlines;
use crate::GroupKey;
use crate::wire::{GroupId, HALF_LEN};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// The links that carry one SRT session.
pub(super) struct Group {
    pub id: GroupId,
    half_hash: u32,
    pub opened_at: Instant,
    /// Where the link that joined last sent from.
    pub addr: IpAddr,
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

struct Slot {
    generation: u32,
    group: Option<Group>,
}

/// See the module's comment.
pub(super) struct Groups {
    slots: Box<[Slot]>,
    free: Vec<u32>,
    by_half: Index,
    by_server: Index,
    /// Groups without links that carried data.
    pub linger: Deadlines,
    /// Groups without links that never carried data.
    pub ghost_linger: Deadlines,
    /// Groups that never carried data, oldest first; an order, not a timer.
    pub ghosts: Deadlines,
}

impl Groups {
    pub(super) fn new(config: &ReceiverConfig) -> Self {
        let max = config.groups_max;
        Self {
            slots: (0..max).map(|_| Slot { generation: 0, group: None }).collect(),
            free: (0..max as u32).rev().collect(),
            by_half: Index::new(max),
            by_server: Index::new(max),
            linger: Deadlines::new(config.group_linger, max),
            ghost_linger: Deadlines::new(config.ghost_linger, max),
            ghosts: Deadlines::new(Duration::ZERO, max),
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

    /// The group of a sender half.
    pub(super) fn find(&self, hasher: &KeyHash, half: &[u8; HALF_LEN]) -> Option<u32> {
        self.by_half
            .get(hasher.of(half), |slot| self.get(slot).is_some_and(|group| group.id.sender_half() == half))
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
        id: GroupId,
        addr: IpAddr,
    ) -> Option<u32> {
        let slot = self.free.pop()?;
        let half_hash = hasher.of(id.sender_half());
        let place = self.slots.get_mut(slot as usize)?;
        place.group = Some(Group {
            id,
            half_hash,
            opened_at: now,
            addr,
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
        self.by_half.insert(half_hash, slot);
        self.ghosts.arm(slot, now);
        Some(slot)
    }

    /// Takes a group out of its slot; its key names nothing from now on.
    pub(super) fn remove(&mut self, hasher: &KeyHash, slot: u32) -> Option<Group> {
        self.linger.disarm(slot);
        self.ghost_linger.disarm(slot);
        self.ghosts.disarm(slot);
        let place = self.slots.get_mut(slot as usize)?;
        let group = place.group.take()?;
        place.generation = place.generation.wrapping_add(1);
        self.by_half.remove(group.half_hash, slot);
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

    /// The group to give way when the table is full: the oldest that never carried data, else the one that has been
    /// without links longest.
    pub(super) fn evictable(&self) -> Option<u32> {
        self.ghosts.oldest().or(self.linger.oldest())
    }
}
