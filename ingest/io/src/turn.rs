//! What one turn holds, the same for both socket backends: the receive buffers and the datagrams in them, the queue of
//! what is to be sent and the messages made of it, the errors, the counters.
//!
//! Promises: everything is allocated by `new`; a buffer handed to `take` is not given back before `recycle`; a message
//! made by `build` points only into receive buffers of this turn, into the arena, or into this structure.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::group::{Grouper, Plan, Run, SEGMENTS_MAX};
use crate::pace::Linger;
use crate::slots::{Slot, Slots};
use crate::sys::{self, Name, Region, SegmentControl};
use crate::{Datagram, Gro, IoCounters, Limits, SocketId};

/// Bytes of an ordinary receive buffer, headers included.
const SMALL_BYTES: usize = 2048;
/// Bytes of a buffer for merged receiving: 64 KB, and room for headers.
const BIG_BYTES: usize = 65_536 + 256;
/// Datagrams one merged receive may carry (the kernel's bound is 64, or 128 from a local segmenting sender).
pub(crate) const MERGED_MAX: usize = 128;
/// Merged receives begun before the turn's bound on datagrams is looked at again.
pub(crate) const MERGED_RECEIVES_MAX: usize = 16;
/// Pause between two looks at what listeners have dropped.
const DROPS_EVERY: Duration = Duration::from_millis(100);
/// Errors kept for `next_error`.
const ERRORS_MAX: usize = 1024;

/// Receive buffers of one size.
#[derive(Debug)]
pub(crate) struct Pool {
    pub region: Region,
    pub stride: usize,
    pub count: usize,
}

impl Pool {
    fn new(count: usize, stride: usize) -> io::Result<Pool> {
        let count = count.clamp(1, 1 << 15).next_power_of_two();
        Ok(Pool { region: Region::new(count * stride)?, stride, count })
    }

    /// Where a buffer begins.
    pub(crate) fn buffer(&self, number: u16) -> *mut u8 {
        self.region.at(usize::from(number) * self.stride, self.stride)
    }
}

/// A receive buffer: which pool, which number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BufferRef {
    pub big: bool,
    pub number: u16,
}

/// A datagram of this turn: `len` bytes at `offset` of its pool.
#[derive(Debug, Clone, Copy)]
struct Received {
    big: bool,
    len: u32,
    offset: usize,
    socket: SocketId,
    from: SocketAddr,
}

/// A receive to be entered into the turn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Receipt {
    pub buffer: BufferRef,
    /// Where in the buffer the payload begins, and how long it is.
    pub offset: usize,
    pub len: usize,
    pub from: SocketAddr,
    pub segment_len: Option<usize>,
}

pub(crate) struct Turn {
    pub small: Pool,
    /// Present when listeners may merge.
    pub big: Option<Pool>,
    received: Vec<Received>,
    used: Vec<BufferRef>,
    received_max: usize,
    grouper: Grouper,
    /// Per queued datagram: where its bytes are.
    sources: Vec<libc::iovec>,
    arena: Region,
    arena_len: usize,
    arena_used: usize,
    iovecs: Vec<libc::iovec>,
    messages: Vec<libc::mmsghdr>,
    names: Vec<Name>,
    controls: Vec<SegmentControl>,
    errors: VecDeque<(SocketId, i32)>,
    pub counters: IoCounters,
    pub linger: Linger,
    pub gro: Gro,
    looked_at_drops: Option<Instant>,
    /// A turn has begun and was not flushed.
    pub open: bool,
}

// SAFETY: the raw pointers inside (iovecs, message headers) point into regions and vectors owned by this very value,
// whose heap memory does not move with it, and are used only through `&mut self`.
unsafe impl Send for Turn {}

impl Turn {
    pub(crate) fn new(limits: &Limits) -> io::Result<Turn> {
        let received_max = limits.turn_datagrams.clamp(256, 1 << 16);
        let merged = if limits.gro == Gro::Off { 0 } else { MERGED_RECEIVES_MAX * MERGED_MAX };
        let sends = limits.turn_sends.clamp(1, 1 << 20);
        let arena_len = limits.turn_send_bytes.max(2048);
        Ok(Turn {
            small: Pool::new(limits.buffers, SMALL_BYTES)?,
            big: (limits.gro != Gro::Off).then(|| Pool::new(limits.gro_buffers, BIG_BYTES)).transpose()?,
            received: Vec::with_capacity(received_max + merged),
            used: Vec::with_capacity(received_max + merged),
            received_max,
            grouper: Grouper::new(sends),
            sources: Vec::with_capacity(sends),
            arena: Region::new(arena_len)?,
            arena_len,
            arena_used: 0,
            iovecs: Vec::with_capacity(sends),
            messages: Vec::with_capacity(sends),
            names: Vec::with_capacity(sends),
            controls: Vec::with_capacity(sends),
            errors: VecDeque::with_capacity(ERRORS_MAX),
            counters: IoCounters::default(),
            linger: Linger::new(limits.linger_us_max, limits.linger_datagrams),
            gro: limits.gro,
            looked_at_drops: None,
            open: false,
        })
    }

    /// The pool a buffer belongs to.
    pub(crate) fn pool(&self, big: bool) -> &Pool {
        match &self.big {
            Some(pool) if big => pool,
            _ => &self.small,
        }
    }

    /// Datagrams that may still be taken in this turn before the bound; a merged receive may exceed it.
    pub(crate) fn room(&self) -> usize {
        self.received_max.saturating_sub(self.received.len().max(self.used.len()))
    }

    /// Marks a buffer as held until the end of the turn.
    pub(crate) fn hold(&mut self, buffer: BufferRef) {
        debug_assert!(self.used.len() < self.used.capacity(), "buffers per turn are bounded by the room");
        self.used.push(buffer);
    }

    /// Enters a receive: one datagram, or several of one length if merged.
    pub(crate) fn take<T>(&mut self, slot: &mut Slot<T>, receipt: &Receipt) {
        let start =
            usize::from(receipt.buffer.number) * self.pool(receipt.buffer.big).stride + receipt.offset;
        let segment_len = receipt.segment_len.unwrap_or(receipt.len).max(1);
        let mut done = 0;
        let mut count = 0;
        loop {
            let len = segment_len.min(receipt.len - done);
            if self.received.len() == self.received.capacity() {
                self.counters.rx_truncated += (receipt.len - done).div_ceil(segment_len) as u64;
                break;
            }
            self.received.push(Received {
                big: receipt.buffer.big,
                len: len as u32,
                offset: start + done,
                socket: slot.id,
                from: receipt.from,
            });
            count += 1;
            done += len;
            if done >= receipt.len {
                break;
            }
        }
        self.counters.rx_datagrams += count as u64;
        self.counters.rx_bytes += done as u64;
        if count > 1 {
            self.counters.rx_gro_batches += 1;
            self.counters.rx_gro_datagrams += count as u64;
        }
        if slot.role == crate::Role::Listener && self.gro == Gro::Adaptive {
            slot.gro_policy.observe(receipt.from, count);
        }
    }

    /// Ends the receiving part of a turn.
    pub(crate) fn begun(&mut self) -> usize {
        self.open = true;
        self.counters.turns += 1;
        self.received.len()
    }

    /// The caller's reading of the clock after `begun`. Whether it is time to look at what listeners have dropped.
    pub(crate) fn note_time(&mut self, now: Instant) -> bool {
        self.linger.observe(now, self.received.len());
        let is_due = self.looked_at_drops.is_none_or(|at| now.saturating_duration_since(at) >= DROPS_EVERY);
        if is_due {
            self.looked_at_drops = Some(now);
        }
        is_due
    }

    pub(crate) fn datagram(&self, index: usize) -> Datagram<'_> {
        let found = &self.received[index];
        // SAFETY: the range was filled by the kernel before it was entered, and its buffer is not given back before
        // `recycle`, which takes `&mut self` and forgets all datagrams.
        let bytes = unsafe { self.pool(found.big).region.bytes(found.offset, found.len as usize) };
        Datagram { socket: found.socket, from: found.from, bytes }
    }

    /// Queues a received datagram, or so many bytes of it; `live` says whether the socket exists.
    pub(crate) fn forward(
        &mut self,
        (index, len): (usize, usize),
        socket: SocketId,
        to: Option<SocketAddr>,
        live: bool,
    ) {
        if !live {
            self.counters.tx_no_socket += 1;
            return;
        }
        let found = self.received[index];
        let len = len.min(found.len as usize);
        let at = self.pool(found.big).region.at(found.offset, len);
        self.queue(socket, to, at, len);
    }

    /// Queues a copy of `bytes`; `live` says whether the socket exists.
    pub(crate) fn send(&mut self, socket: SocketId, to: Option<SocketAddr>, bytes: &[u8], live: bool) {
        if !live {
            self.counters.tx_no_socket += 1;
            return;
        }
        if bytes.len() > self.arena_len - self.arena_used {
            self.counters.tx_no_room += 1;
            return;
        }
        let at = self.arena.at(self.arena_used, bytes.len());
        // SAFETY: `at` has room for the bytes inside the arena, which is this structure's own memory and so does not
        // overlap the caller's; nothing borrows from the arena, and no message that points there is in the kernel's
        // hands, because `flush` completes all it sends.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), at, bytes.len()) };
        self.arena_used += bytes.len();
        self.queue(socket, to, at, bytes.len());
    }

    fn queue(&mut self, socket: SocketId, to: Option<SocketAddr>, at: *mut u8, len: usize) {
        if self.grouper.push(socket, to, len).is_some() {
            self.sources.push(libc::iovec { iov_base: at.cast(), iov_len: len });
        } else {
            self.counters.tx_no_room += 1;
        }
    }

    /// Whether anything is queued.
    pub(crate) fn has_sends(&self) -> bool {
        !self.grouper.is_empty()
    }

    /// Makes the turn's messages, one per run. They stay valid until `recycle`.
    pub(crate) fn build<T>(&mut self, slots: &Slots<T>) -> usize {
        self.iovecs.clear();
        self.messages.clear();
        self.names.clear();
        self.controls.clear();
        let Turn { grouper, sources, iovecs, messages, names, controls, .. } = self;
        let plan = grouper.plan(|socket| {
            slots.even_removed(socket).map_or(1, |slot| if slot.gso { SEGMENTS_MAX } else { 1 })
        });
        for run in plan.runs {
            let family = slots.even_removed(run.socket).map_or(sys::Family::V4, |slot| slot.family);
            // Datagrams that lie next to each other (a merged receive) need one vector only.
            let first = iovecs.len();
            for &entry in &plan.sequence[run.start as usize..][..run.count as usize] {
                let source = sources[entry as usize];
                match iovecs[first..].last_mut() {
                    Some(last)
                        if last.iov_base.cast::<u8>().wrapping_add(last.iov_len)
                            == source.iov_base.cast() =>
                    {
                        last.iov_len += source.iov_len;
                    }
                    _ => iovecs.push(source),
                }
            }
            let vectors = &mut iovecs[first..];
            let mut message = sys::empty_message();
            message.msg_hdr.msg_iov = vectors.as_mut_ptr();
            message.msg_hdr.msg_iovlen = vectors.len() as _;
            if let Some(to) = run.to {
                names.push(Name::new(to, family));
                if let Some(name) = names.last() {
                    message.msg_hdr.msg_name = name.as_ptr().cast_mut().cast();
                    message.msg_hdr.msg_namelen = name.len();
                }
            }
            if run.count > 1 {
                controls.push(SegmentControl::new(run.segment_bytes as u16));
                if let Some(control) = controls.last() {
                    message.msg_hdr.msg_control = control.as_ptr().cast_mut().cast();
                    message.msg_hdr.msg_controllen = SegmentControl::len() as _;
                }
            }
            messages.push(message);
        }
        messages.len()
    }

    pub(crate) fn run(&self, index: usize) -> Run {
        self.grouper.planned().runs[index]
    }

    pub(crate) fn plan(&self) -> Plan<'_> {
        self.grouper.planned()
    }

    pub(crate) fn messages(&mut self) -> &mut [libc::mmsghdr] {
        &mut self.messages
    }

    /// Counts a message the kernel accepted.
    pub(crate) fn sent(&mut self, index: usize) {
        let run = self.run(index);
        let counters = &mut self.counters;
        counters.tx_messages += 1;
        counters.tx_datagrams += u64::from(run.count);
        counters.tx_bytes += u64::from(run.bytes);
        if run.count > 1 {
            counters.tx_gso_messages += 1;
            counters.tx_gso_datagrams += u64::from(run.count);
        }
    }

    /// Takes `sent` back, for a message that turns out to have been refused.
    pub(crate) fn unsent(&mut self, index: usize) {
        let run = self.run(index);
        let counters = &mut self.counters;
        counters.tx_messages -= 1;
        counters.tx_datagrams -= u64::from(run.count);
        counters.tx_bytes -= u64::from(run.bytes);
        if run.count > 1 {
            counters.tx_gso_messages -= 1;
            counters.tx_gso_datagrams -= u64::from(run.count);
        }
    }

    /// Deals with a message the kernel refused. A pending `ECONNREFUSED` belongs to an earlier datagram: it is
    /// reported and the message sent again. A refused segmentation is given up for this socket and the datagrams
    /// are sent one by one. Anything else loses the message, counted.
    pub(crate) fn failed<T>(&mut self, index: usize, errno: i32, slots: &mut Slots<T>) {
        let run = self.run(index);
        let Some(slot) = slots.even_removed_mut(run.socket) else {
            self.counters.tx_no_socket += u64::from(run.count);
            return;
        };
        let fd = slot.fd();
        match errno {
            libc::ECONNREFUSED => {
                self.error(run.socket, errno);
                // SAFETY: the message was made by `build` in this turn; its pointers are valid until `recycle`.
                match unsafe { sys::send_message(fd, &self.messages[index].msg_hdr) } {
                    Ok(_) => self.sent(index),
                    Err(e) => self.lost(&run, run.count, e.raw_os_error().unwrap_or(0)),
                }
            }
            // EIO: the device cannot; EINVAL, and EMSGSIZE since 6.14: a segment is longer than the route's MTU.
            libc::EIO | libc::EINVAL | libc::EMSGSIZE if run.count > 1 => {
                if slot.gso {
                    slot.gso = false;
                    self.counters.tx_gso_fallbacks += 1;
                }
                for at in 0..run.count {
                    self.send_alone(fd, index, &run, at);
                }
            }
            _ => self.lost(&run, run.count, errno),
        }
    }

    /// Sends datagram `at` of a run by itself.
    fn send_alone(&mut self, fd: std::os::fd::RawFd, index: usize, run: &Run, at: u32) {
        let entry = self.grouper.planned().sequence[(run.start + at) as usize];
        let mut source = self.sources[entry as usize];
        let mut message = self.messages[index].msg_hdr;
        message.msg_iov = &raw mut source;
        message.msg_iovlen = 1;
        message.msg_control = std::ptr::null_mut();
        message.msg_controllen = 0;
        // SAFETY: the name is the one made by `build`, valid until `recycle`; the vector is a live local that points to
        // a queued datagram's bytes, which are kept until `recycle`.
        match unsafe { sys::send_message(fd, &message) } {
            Ok(bytes) => {
                self.counters.tx_messages += 1;
                self.counters.tx_datagrams += 1;
                self.counters.tx_bytes += bytes as u64;
            }
            Err(e) => self.lost(run, 1, e.raw_os_error().unwrap_or(0)),
        }
    }

    /// Counts (and reports, unless the send queue was only full) datagrams that could not be sent.
    pub(crate) fn lost(&mut self, run: &Run, datagrams: u32, errno: i32) {
        if errno == libc::EAGAIN || errno == libc::ENOBUFS {
            self.counters.tx_would_block += u64::from(datagrams);
        } else {
            self.counters.tx_errors += u64::from(datagrams);
            self.error(run.socket, errno);
        }
    }

    pub(crate) fn error(&mut self, socket: SocketId, errno: i32) {
        if self.errors.len() == ERRORS_MAX {
            self.counters.errors_lost += 1;
        } else {
            self.errors.push_back((socket, errno));
        }
    }

    pub(crate) fn next_error(&mut self) -> Option<(SocketId, io::Error)> {
        self.errors.pop_front().map(|(socket, errno)| (socket, io::Error::from_raw_os_error(errno)))
    }

    /// Ends the turn: forgets datagrams and sends, gives every held buffer to `give_back`.
    pub(crate) fn recycle(&mut self, mut give_back: impl FnMut(BufferRef)) {
        self.open = false;
        self.received.clear();
        if !self.grouper.is_empty() {
            self.grouper.clear();
            self.sources.clear();
            self.arena_used = 0;
        }
        let mut used = std::mem::take(&mut self.used);
        for buffer in used.drain(..) {
            give_back(buffer);
        }
        self.used = used;
    }
}
