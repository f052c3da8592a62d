//! A provided-buffer ring: the list of free receive buffers, shared with the kernel.
//!
//! The kernel takes buffers in the order in which they were listed, so with all of them listed it would walk through the whole
//! pool and find each buffer cold again. Only a window is listed therefore, filled up with the buffers that were used last: twice
//! what turns use of late. When the window runs out, receiving ends until the next turn and the window doubles; nothing is lost,
//! the datagrams wait in the socket.
//!
//! Layout (the kernel's): `entries` records of 16 bytes; the last two bytes of the first record are the tail. User
//! space writes records at the tail and then publishes the new tail with release ordering; the kernel takes records
//! from its own head. Promises: a buffer number below `buffers` is listed at most once at a time (the caller gives
//! back only what a completion handed out), so the ring of at least as many entries cannot overflow.

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

use crate::sys::Region;
use crate::turn::Pool;

/// Buffers listed at least.
const WINDOW_MIN: usize = 64;
/// Turns with little to receive after which the window is halved.
const TURNS_PER_SHRINK: u32 = 256;

/// The free buffers of one pool.
pub(super) struct BufRing {
    memory: Region,
    group: u16,
    entries: u16,
    tail: u16,
    /// Free buffers the kernel does not know of; the last was used last.
    spare: Vec<u16>,
    /// Buffers the kernel may fill, or has filled without our having looked yet.
    listed: usize,
    window: Window,
}

/// How many buffers are listed.
#[derive(Debug)]
struct Window {
    len: usize,
    max: usize,
    /// Most buffers that a turn has used, of so many turns.
    used_max: usize,
    turns: u32,
}

impl Window {
    fn new(max: usize) -> Window {
        Window { len: WINDOW_MIN.min(max), max, used_max: 0, turns: 0 }
    }

    /// Notes how many buffers a turn used.
    fn observe(&mut self, used: usize) {
        if used * 2 > self.len {
            self.len = (self.len * 2).min(self.max);
        }
        self.used_max = self.used_max.max(used);
        self.turns += 1;
        if self.turns == TURNS_PER_SHRINK {
            if self.used_max * 8 <= self.len {
                self.len = (self.len / 2).max(WINDOW_MIN.min(self.max));
            }
            self.used_max = 0;
            self.turns = 0;
        }
    }
}

impl BufRing {
    /// Registers a ring for all buffers of `pool` as buffer group `group` and lists the first.
    pub(super) fn register(submitter: &Submitter<'_>, group: u16, pool: &Pool) -> io::Result<BufRing> {
        let entries = u16::try_from(pool.count).map_err(|_| io::Error::other("at most 32768 buffers"))?;
        debug_assert!(entries.is_power_of_two(), "the pool rounds up");
        let memory = Region::new(pool.count * size_of::<BufRingEntry>())?;
        let start = memory.at(0, pool.count * size_of::<BufRingEntry>());
        // SAFETY: `start` is page-aligned, zeroed and has room for `entries` records; `memory` lives in the returned value,
        // which the backend keeps until the kernel has let go of the ring (see its `Drop`).
        unsafe { submitter.register_buf_ring_with_flags(start as u64, entries, group, 0)? };
        let window = Window::new(pool.count);
        let spare = (0..entries).rev().collect();
        let mut ring = BufRing { memory, group, entries, tail: 0, spare, listed: 0, window };
        ring.publish(pool);
        Ok(ring)
    }

    pub(super) fn group(&self) -> u16 {
        self.group
    }

    /// Notes that a completion handed out a buffer.
    pub(super) fn taken(&mut self) {
        self.listed -= 1;
    }

    /// Takes a free buffer back. The kernel does not see it before `publish`.
    pub(super) fn give_back(&mut self, number: u16) {
        self.spare.push(number);
    }

    /// Ends a turn that used so many buffers.
    pub(super) fn turn_ended(&mut self, used: usize, pool: &Pool) {
        self.window.observe(used);
        self.publish(pool);
    }

    fn list(&mut self, number: u16, pool: &Pool) {
        let record: *mut BufRingEntry = self.memory.element(usize::from(self.tail & (self.entries - 1)));
        // SAFETY: `element` gave an aligned pointer to a whole record inside the ring. The kernel reads records only between
        // its head and the published tail; this one lies beyond the tail, so this is the only access. The setters
        // leave the reserved field alone, which in the first record is the tail itself.
        let record = unsafe { &mut *record };
        record.set_addr(pool.buffer(number) as u64);
        record.set_len(pool.stride as u32);
        record.set_bid(number);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Lists free buffers up to the window and lets the kernel see them.
    fn publish(&mut self, pool: &Pool) {
        while self.listed < self.window.len
            && let Some(number) = self.spare.pop()
        {
            self.list(number, pool);
            self.listed += 1;
        }
        let first: *mut BufRingEntry = self.memory.element(0);
        // SAFETY: the first record exists and is initialised (zeroed memory); only the address of its field is formed.
        let tail = unsafe { BufRingEntry::tail(first) }.cast_mut();
        // SAFETY: the field is two aligned bytes inside `memory`, only ever accessed atomically from this side, and the
        // kernel reads it with acquire ordering.
        let tail = unsafe { AtomicU16::from_ptr(tail) };
        tail.store(self.tail, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_follows_what_turns_use() {
        let mut window = Window::new(4096);
        let mut lens = Vec::new();
        for used in [20, 33, 64, 128, 256, 512, 1024, 2048, 4096, 4096] {
            window.observe(used);
            lens.push(window.len);
        }
        assert_eq!(lens, [64, 128, 128, 256, 512, 1024, 2048, 4096, 4096, 4096]);
        for _ in 0..TURNS_PER_SHRINK * 16 {
            window.observe(20);
        }
        assert_eq!(window.len, 128, "four times twenty, and a power of two");
    }

    #[test]
    fn a_small_pool_is_listed_whole() {
        let mut window = Window::new(16);
        assert_eq!(window.len, 16);
        window.observe(16);
        assert_eq!(window.len, 16);
    }
}
