//! Addresses that are registering without a key: what may be sent to them, and answers waiting for their join.
//!
//! A ticket proves nothing about the address it is shown from, so an address is never sent more than came from it: what
//! one datagram brought and its answer did not use is noted here until the address joins. The one exception are
//! [`DEBT_MAX`] bytes per IP address and [`DEBT_PAUSE`], because a sender that probes once and asks once brings 516 bytes,
//! and the answers it needs when the first of them is lost have 548. Registration is stateless otherwise. Promise: bounded, and dropping any entry at
//! any time costs its sender at most a second of waiting.

use super::table::Index;
use super::time::Time;
use super::timers::Deadlines;
use crate::LinkAddr;
use crate::wire::{HALF_LEN, REG_LEN, SHORT_PADDED_LEN};
use std::time::Duration;

/// How much more than it sent an address may be sent, once: the length of the NGP that answered its probe.
const DEBT_MAX: i32 = SHORT_PADDED_LEN as i32;
/// How long a source has to do without another such debt.
const DEBT_PAUSE: Duration = Duration::from_secs(600);
/// Sources whose debts are remembered; those that share a place share the pause.
const DEBTORS: usize = 4096;
/// An address is forgotten after this long without a registration.
const IDLE: Duration = Duration::from_secs(5);
const CREDIT_CAP: i32 = 64 << 10;

#[derive(Clone, Copy)]
struct Entry {
    addr: LinkAddr,
    hash: u32,
    /// Bytes that came minus bytes that were sent.
    credit_bytes: i32,
    /// The keyed hash of its source.
    source: u32,
    sender_half: [u8; HALF_LEN],
}

/// See the module's comment.
pub(super) struct Pending {
    entries: Box<[Option<Entry>]>,
    free: Vec<u32>,
    index: Index,
    /// When a source was last given more than it sent.
    debts: Box<[Option<Time>]>,
    pub repeat: Deadlines,
    pub idle: Deadlines,
}

impl Pending {
    pub(super) fn new(max: usize, repeat_after: Duration) -> Self {
        Self {
            entries: vec![None; max].into_boxed_slice(),
            free: (0..max as u32).rev().collect(),
            index: Index::new(max),
            debts: vec![None; DEBTORS].into_boxed_slice(),
            repeat: Deadlines::new(repeat_after, max),
            idle: Deadlines::new(IDLE, max),
        }
    }

    fn find(&self, addr: LinkAddr, hash: u32) -> Option<u32> {
        let entries = &self.entries;
        self.index.get(hash, |slot| {
            entries.get(slot as usize).and_then(Option::as_ref).is_some_and(|entry| entry.addr == addr)
        })
    }

    /// Notes that `addr` sent `came` bytes and was answered `sent` bytes. One entry per address; when the table is full,
    /// the one that was silent longest gives way.
    pub(super) fn note(&mut self, now: Time, (addr, hash): (LinkAddr, u32), came: usize, sent: usize) {
        let Some(slot) = self.find(addr, hash).or_else(|| self.insert(addr, hash)) else { return };
        if let Some(Some(entry)) = self.entries.get_mut(slot as usize) {
            entry.credit_bytes = (entry.credit_bytes + came as i32 - sent as i32).min(CREDIT_CAP);
        }
        self.idle.arm(slot, now);
    }

    fn insert(&mut self, addr: LinkAddr, hash: u32) -> Option<u32> {
        if self.free.is_empty()
            && let Some(oldest) = self.idle.oldest()
        {
            self.remove(oldest);
        }
        let slot = self.free.pop()?;
        *self.entries.get_mut(slot as usize)? =
            Some(Entry { addr, hash, credit_bytes: 0, source: 0, sender_half: [0; HALF_LEN] });
        self.index.insert(hash, slot);
        Some(slot)
    }

    /// The answer just noted was a REG2 for `sender_half`; it is repeated if no join comes. `source` is the hash of the
    /// address without its port.
    pub(super) fn await_join(
        &mut self,
        now: Time,
        (addr, hash, source): (LinkAddr, u32, u32),
        sender_half: &[u8; HALF_LEN],
    ) {
        let Some(slot) = self.find(addr, hash) else { return };
        if let Some(Some(entry)) = self.entries.get_mut(slot as usize) {
            (entry.sender_half, entry.source) = (*sender_half, source);
        }
        self.repeat.arm(slot, now);
    }

    /// The address joins, or does something else now: its credit, which may be a debt.
    pub(super) fn take(&mut self, addr: LinkAddr, hash: u32) -> i32 {
        self.find(addr, hash).and_then(|slot| self.remove(slot)).map_or(0, |entry| entry.credit_bytes)
    }

    /// Takes one answer whose repetition is due and paid for.
    pub(super) fn pop_due(&mut self, now: Time) -> Option<(LinkAddr, [u8; HALF_LEN])> {
        while let Some(slot) = self.repeat.pop_due(now) {
            let Some(Some(entry)) = self.entries.get_mut(slot as usize) else { continue };
            let after = entry.credit_bytes - REG_LEN as i32;
            if after < 0 {
                let Some(debt) = self.debts.get_mut(entry.source as usize % DEBTORS) else { continue };
                if after < -DEBT_MAX || debt.is_some_and(|at| now.since(at) < DEBT_PAUSE) {
                    continue;
                }
                *debt = Some(now);
            }
            entry.credit_bytes = after;
            return Some((entry.addr, entry.sender_half));
        }
        None
    }

    /// Forgets addresses that did nothing for a while.
    pub(super) fn expire(&mut self, now: Time) {
        while let Some(slot) = self.idle.pop_due(now) {
            self.remove(slot);
        }
    }

    fn remove(&mut self, slot: u32) -> Option<Entry> {
        self.repeat.disarm(slot);
        self.idle.disarm(slot);
        let entry = self.entries.get_mut(slot as usize)?.take()?;
        self.index.remove(entry.hash, slot);
        self.free.push(slot);
        Some(entry)
    }
}
