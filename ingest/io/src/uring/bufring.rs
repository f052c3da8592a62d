//! A provided-buffer ring: the list of free receive buffers, shared with the kernel.
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

/// The free buffers of one pool.
pub(super) struct BufRing {
    memory: Region,
    group: u16,
    entries: u16,
    tail: u16,
}

impl BufRing {
    /// Registers a ring for all buffers of `pool` as buffer group `group` and lists them as free.
    pub(super) fn register(submitter: &Submitter<'_>, group: u16, pool: &Pool) -> io::Result<BufRing> {
        let entries = u16::try_from(pool.count).map_err(|_| io::Error::other("at most 32768 buffers"))?;
        debug_assert!(entries.is_power_of_two(), "the pool rounds up");
        let memory = Region::new(pool.count * size_of::<BufRingEntry>())?;
        let start = memory.at(0, pool.count * size_of::<BufRingEntry>());
        // SAFETY: `start` is page-aligned, zeroed and has room for `entries` records; `memory` lives in the returned value,
        // which the backend keeps until the kernel has let go of the ring (see its `Drop`).
        unsafe { submitter.register_buf_ring_with_flags(start as u64, entries, group, 0)? };
        let mut ring = BufRing { memory, group, entries, tail: 0 };
        for number in 0..entries {
            ring.give_back(number, pool);
        }
        ring.publish();
        Ok(ring)
    }

    pub(super) fn group(&self) -> u16 {
        self.group
    }

    /// Writes a record for a free buffer. The kernel does not see it before `publish`.
    pub(super) fn give_back(&mut self, number: u16, pool: &Pool) {
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

    /// Lets the kernel see what was given back.
    pub(super) fn publish(&mut self) {
        let first: *mut BufRingEntry = self.memory.element(0);
        // SAFETY: the first record exists and is initialised (zeroed memory); only the address of its field is formed.
        let tail = unsafe { BufRingEntry::tail(first) }.cast_mut();
        // SAFETY: the field is two aligned bytes inside `memory`, only ever accessed atomically from this side, and the
        // kernel reads it with acquire ordering.
        let tail = unsafe { AtomicU16::from_ptr(tail) };
        tail.store(self.tail, Ordering::Release);
    }
}
