//! Addresses of links that other shards own.
//!
//! The kernel spreads the links of a group over all shards until steering takes effect; a shard that is not the owner
//! remembers where an address belongs and hands its datagrams over. Promise: bounded; the oldest entry gives way; entries
//! go after a while without a datagram.

use super::table::Index;
use super::timers::Deadlines;
use crate::LinkAddr;
use std::time::{Duration, Instant};

/// Use of an entry is noted this often; its expiry may therefore be this much late.
const GRAIN: Duration = Duration::from_secs(1);

#[derive(Clone, Copy)]
struct Entry {
    addr: LinkAddr,
    hash: u32,
    owner: u8,
    /// A device's cookie came back from there.
    proven: bool,
    armed_at: Instant,
}

/// See the module's comment.
pub(super) struct Foreign {
    entries: Box<[Option<Entry>]>,
    free: Vec<u32>,
    index: Index,
    pub idle: Deadlines,
}

impl Foreign {
    pub(super) fn new(max: usize, idle_after: Duration) -> Self {
        Self {
            entries: vec![None; max].into_boxed_slice(),
            free: (0..max as u32).rev().collect(),
            index: Index::new(max),
            idle: Deadlines::new(idle_after + GRAIN, max),
        }
    }

    fn find(&self, addr: LinkAddr, hash: u32) -> Option<u32> {
        self.index.get(hash, |slot| {
            self.entries.get(slot as usize).and_then(Option::as_ref).is_some_and(|entry| entry.addr == addr)
        })
    }

    /// The owner of `addr`, which is in use just now.
    pub(super) fn owner(&mut self, now: Instant, addr: LinkAddr, hash: u32) -> Option<u8> {
        let slot = self.find(addr, hash)?;
        let entry = self.entries.get_mut(slot as usize)?.as_mut()?;
        if now.saturating_duration_since(entry.armed_at) >= GRAIN {
            entry.armed_at = now;
            self.idle.arm(slot, now);
        }
        Some(entry.owner)
    }

    /// `addr` is a device's, as far as is known.
    pub(super) fn is_proven(&self, addr: LinkAddr, hash: u32) -> bool {
        self.find(addr, hash)
            .and_then(|slot| self.entries.get(slot as usize)?.as_ref())
            .is_some_and(|entry| entry.proven)
    }

    /// Remembers the owner of `addr`, in place of an earlier one.
    pub(super) fn set(&mut self, now: Instant, (addr, hash): (LinkAddr, u32), owner: u8, proven: bool) {
        self.forget(addr, hash);
        if self.free.is_empty()
            && let Some(oldest) = self.idle.oldest()
        {
            self.remove(oldest);
        }
        let Some(slot) = self.free.pop() else { return };
        if let Some(entry) = self.entries.get_mut(slot as usize) {
            *entry = Some(Entry { addr, hash, owner, proven, armed_at: now });
        }
        self.index.insert(hash, slot);
        self.idle.arm(slot, now);
    }

    /// Remembers an unproven owner of `addr`: nothing known gives way for it.
    pub(super) fn suggest(&mut self, now: Instant, addr: LinkAddr, hash: u32, owner: u8) {
        if !self.free.is_empty() && self.find(addr, hash).is_none() {
            self.set(now, (addr, hash), owner, false);
        }
    }

    /// `addr` belongs to this shard now, or to nobody.
    pub(super) fn forget(&mut self, addr: LinkAddr, hash: u32) {
        if let Some(slot) = self.find(addr, hash) {
            self.remove(slot);
        }
    }

    /// Drops the entries that were idle too long.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some(slot) = self.idle.pop_due(now) {
            self.remove(slot);
        }
    }

    fn remove(&mut self, slot: u32) {
        self.idle.disarm(slot);
        if let Some(entry) = self.entries.get_mut(slot as usize).and_then(Option::take) {
            self.index.remove(entry.hash, slot);
            self.free.push(slot);
        }
    }
}
