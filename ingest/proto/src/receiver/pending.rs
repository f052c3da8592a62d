//! REG1 answers waiting for their join, so that a lost REG2 can be repeated once.
//!
//! Registration is stateless; this table only saves the sender a second of waiting. Promise: bounded, and dropping any
//! entry at any time is harmless.

use super::table::Index;
use super::timers::Deadlines;
use crate::LinkAddr;
use crate::wire::HALF_LEN;
use std::time::{Duration, Instant};

#[derive(Clone, Copy)]
struct Entry {
    addr: LinkAddr,
    hash: u32,
    sender_half: [u8; HALF_LEN],
}

/// See the module's comment.
pub(super) struct Pending {
    entries: Box<[Option<Entry>]>,
    free: Vec<u32>,
    index: Index,
    pub repeat: Deadlines,
}

impl Pending {
    pub(super) fn new(max: usize, repeat_after: Duration) -> Self {
        Self {
            entries: vec![None; max].into_boxed_slice(),
            free: (0..max as u32).rev().collect(),
            index: Index::new(max),
            repeat: Deadlines::new(repeat_after, max),
        }
    }

    /// Remembers that `addr` was sent a REG2 for `sender_half`; one entry per address, the newest answer counts. When
    /// the table is full, the entry nearest to its repetition gives way.
    pub(super) fn note(&mut self, now: Instant, addr: LinkAddr, hash: u32, sender_half: &[u8; HALF_LEN]) {
        self.forget(addr, hash);
        if self.free.is_empty()
            && let Some(oldest) = self.repeat.oldest()
        {
            self.remove(oldest);
        }
        let Some(slot) = self.free.pop() else { return };
        if let Some(entry) = self.entries.get_mut(slot as usize) {
            *entry = Some(Entry { addr, hash, sender_half: *sender_half });
        }
        self.index.insert(hash, slot);
        self.repeat.arm(slot, now);
    }

    /// The join came, or the address does something else now.
    pub(super) fn forget(&mut self, addr: LinkAddr, hash: u32) {
        let entries = &self.entries;
        let found = self.index.get(hash, |slot| {
            entries.get(slot as usize).and_then(Option::as_ref).is_some_and(|entry| entry.addr == addr)
        });
        if let Some(slot) = found {
            self.remove(slot);
        }
    }

    /// Takes one answer whose repetition is due.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<(LinkAddr, [u8; HALF_LEN])> {
        let slot = self.repeat.pop_due(now)?;
        self.remove(slot).map(|entry| (entry.addr, entry.sender_half))
    }

    fn remove(&mut self, slot: u32) -> Option<Entry> {
        self.repeat.disarm(slot);
        let entry = self.entries.get_mut(slot as usize)?.take()?;
        self.index.remove(entry.hash, slot);
        self.free.push(slot);
        Some(entry)
    }
}
