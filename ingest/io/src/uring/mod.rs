//! The `io_uring` backend.
//!
//! Every socket has one multishot receive that fills buffers of a provided-buffer ring; every message of a turn is one
//! `sendmsg` on a registered file that never waits and completes without a completion entry unless it fails. One
//! `io_uring_enter` submits and waits; deferred task work means that nothing happens behind the loop's back.
//!
//! Promises beyond the trait's:
//! * A slot is reused only after its receive has ended, and each receive carries its own number, so no completion can
//!   reach another socket.
//! * Sends are over when `flush` returns: they are issued inside the submitting call and must not wait, so the buffers
//!   go back at once. A refused one leaves an error completion, which `flush` collects.
//! * Receives use plain descriptors and sends registered ones: before 6.13 a long-lived request on a registered file
//!   would keep every file removed later from being closed.

mod bufring;
mod probe;

use std::collections::VecDeque;
use std::io;
use std::mem::ManuallyDrop;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use io_uring::types::{Fd, Fixed, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue};

use crate::slots::{Slot, Slots};
use crate::sys::{self, RX_CONTROL_LEN};
use crate::turn::{BufferRef, Receipt, Turn};
use crate::{Backend, Datagram, Gro, IoCounters, Limits, Role, SocketId, Waker};
use bufring::BufRing;

/// Submission entries; more are submitted in several calls. (Ring memory counts against the user's lockable memory.)
const SQ_ENTRIES_MAX: usize = 256;
/// Completions worth lingering for.
const LINGER_COMPLETIONS: u32 = 64;
/// Completions that make another look worthwhile, and how many looks there are in a turn: enough to fill it, because the more
/// a turn brings the more of it goes to one group and leaves in one send.
const PORTION: usize = 24;
const PASSES_MAX: usize = 32;
/// Bytes before the payload in a received buffer: the kernel's header, the address, the control messages.
const NAME_ROOM: usize = 32;
const CONTROL_AT: usize = 16 + NAME_ROOM;
const PAYLOAD_AT: usize = CONTROL_AT + RX_CONTROL_LEN;
/// How long `open` waits for lockable memory.
const OPEN_PATIENCE: Duration = Duration::from_millis(500);
/// How long `drop` waits for the kernel to end all receives.
const DROP_PATIENCE: Duration = Duration::from_secs(1);
/// How long a submission may be refused for passing reasons.
const SUBMIT_PATIENCE: Duration = Duration::from_secs(1);

/// What a completion is about: the top byte of its user data.
const KIND_RECEIVE: u64 = 1 << 56;
const KIND_SEND: u64 = 2 << 56;
const KIND_WAKE: u64 = 3 << 56;
const KIND_CANCEL: u64 = 4 << 56;
const KIND_MASK: u64 = 0xff << 56;
/// Receives and turns are numbered with 24 bits.
const STAMP_MASK: u32 = (1 << 24) - 1;

fn user_data(kind: u64, stamp: u32, index: u32) -> u64 {
    kind | u64::from(stamp & STAMP_MASK) << 32 | u64::from(index)
}

fn stamp_of(user_data: u64) -> u32 {
    (user_data >> 32) as u32 & STAMP_MASK
}

/// A listener's way between ordinary and merged receiving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Merging {
    /// Ordinary, or merged: as `Own::big` says.
    Settled,
    /// The receive is being ended, to be begun again with large buffers and `UDP_GRO`.
    Starting,
    /// Merged until the queue is empty: of merged datagrams that are read after `UDP_GRO` was switched off the kernel does not
    /// say any more where to cut them apart.
    Leaving,
    /// The receive is being ended, to be begun again with ordinary buffers.
    Ending,
}

/// The backend's part of a slot.
#[derive(Debug)]
struct Own {
    /// The kernel holds a receive for it.
    armed: bool,
    /// Number of that receive.
    stamp: u32,
    /// It fills large buffers.
    big: bool,
    merging: Merging,
    /// It is in `to_arm`.
    waiting: bool,
}

/// A completion set aside while looking for refused sends.
#[derive(Debug, Clone, Copy)]
struct Completion {
    user_data: u64,
    result: i32,
    flags: u32,
}

impl From<cqueue::Entry> for Completion {
    fn from(entry: cqueue::Entry) -> Self {
        Completion { user_data: entry.user_data(), result: entry.result(), flags: entry.flags() }
    }
}

/// The `io_uring` backend.
pub struct Uring {
    ring: ManuallyDrop<IoUring>,
    /// The ring was enabled, by the thread that uses it.
    enabled: bool,
    /// The ring does not work any more, with this error.
    broken: Option<i32>,
    min_wait: bool,
    enter_flags: EnterFlags,
    turn: ManuallyDrop<Turn>,
    small: ManuallyDrop<BufRing>,
    big: ManuallyDrop<Option<BufRing>>,
    slots: Slots<Own>,
    waker: Waker,
    wake_armed: bool,
    /// The shape of every receive: how much room for address and control messages.
    shape: Box<libc::msghdr>,
    /// Slots whose receive is to be begun, or to be ended, by the next submission.
    to_arm: Vec<u32>,
    to_cancel: Vec<u32>,
    /// Removed slots whose receive has not ended.
    closing: Vec<u32>,
    aside: VecDeque<Completion>,
    aside_max: usize,
    failed: Vec<(u32, i32)>,
    receive_stamp: u32,
    turn_stamp: u32,
    gso: bool,
}

// SAFETY: the raw pointers (in `shape`: none set; in `turn`: see there) refer to memory owned by this value. The ring is
// bound to a thread only once enabled; a use from another thread is refused by the kernel, not undefined.
unsafe impl Send for Uring {}

impl Uring {
    /// Opens the backend and allocates everything it will ever need. The thread that first calls `receive` or `flush`
    /// must be the one that goes on using (and drops) it.
    ///
    /// # Errors
    /// `Unsupported` with the reason if the kernel lacks or forbids something, `OutOfMemory` if the rings do not fit into
    /// the user's lockable memory; otherwise what the kernel says.
    pub fn open(limits: &Limits) -> io::Result<Uring> {
        let begun = Instant::now();
        loop {
            match Uring::try_open(limits) {
                // Rings that were just closed (a restart) give their memory back only a little later.
                Err(e) if e.kind() == io::ErrorKind::OutOfMemory && begun.elapsed() < OPEN_PATIENCE => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                result => return result,
            }
        }
    }

    fn try_open(limits: &Limits) -> io::Result<Uring> {
        let turn = Turn::new(limits)?;
        let sockets = limits.sockets.clamp(1, 1 << 20);
        sys::raise_file_limit(sockets + 64);
        let buffers = turn.small.count + turn.big.as_ref().map_or(0, |pool| pool.count);
        let sq_entries = limits.turn_sends.clamp(64, SQ_ENTRIES_MAX) as u32;
        // Every completion but the rare ends and failures holds a buffer.
        let cq_entries = ((buffers + sockets + sq_entries as usize) as u32).clamp(1024, 1 << 16);
        let opened = probe::open_ring(sq_entries, cq_entries)?;
        let submitter = opened.ring.submitter();
        submitter.register_files_sparse(sockets as u32).map_err(|e| {
            let hint = if e.raw_os_error() == Some(libc::EMFILE) { " (raise LimitNOFILE)" } else { "" };
            io::Error::new(e.kind(), format!("registering {sockets} files: {e}{hint}"))
        })?;
        let small = BufRing::register(&submitter, 0, &turn.small).map_err(|e| probe::explain_buffers(&e))?;
        let big = turn
            .big
            .as_ref()
            .map(|pool| BufRing::register(&submitter, 1, pool))
            .transpose()
            .map_err(|e| probe::explain_buffers(&e))?;
        let mut shape = Box::new(sys::empty_message().msg_hdr);
        shape.msg_namelen = NAME_ROOM as u32;
        shape.msg_controllen = RX_CONTROL_LEN as _;
        let mut enter_flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
        enter_flags.set(EnterFlags::NO_IOWAIT, opened.no_iowait);
        let messages_max = limits.turn_sends.clamp(1, 1 << 20);
        Ok(Uring {
            enabled: false,
            broken: None,
            min_wait: opened.min_wait,
            enter_flags,
            turn: ManuallyDrop::new(turn),
            small: ManuallyDrop::new(small),
            big: ManuallyDrop::new(big),
            slots: Slots::new(sockets),
            waker: Waker::new()?,
            wake_armed: false,
            shape,
            to_arm: Vec::with_capacity(sockets),
            to_cancel: Vec::with_capacity(sockets * 2),
            closing: Vec::with_capacity(sockets),
            aside: VecDeque::with_capacity(cq_entries as usize),
            aside_max: cq_entries as usize,
            failed: Vec::with_capacity(messages_max),
            receive_stamp: 0,
            turn_stamp: 0,
            gso: limits.gso,
            ring: ManuallyDrop::new(opened.ring),
        })
    }

    /// The same backend as on a kernel before 6.12, where lingering is a sleep. For tests.
    #[doc(hidden)]
    #[must_use]
    pub fn without_min_wait(mut self) -> Uring {
        self.min_wait = false;
        self
    }

    fn enable(&mut self) -> io::Result<()> {
        if !self.enabled {
            self.ring.submitter().register_enable_rings()?;
            self.enabled = true;
        }
        Ok(())
    }

    /// Appends a submission entry, submitting what is there if the queue is full.
    ///
    /// # Safety
    /// Whatever the entry points to stays valid until it has been submitted; what the kernel keeps using afterwards
    /// (receive buffers) stays valid until the request has ended.
    unsafe fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: the caller's promise.
        while unsafe { self.ring.submission().push(entry) }.is_err() {
            self.submit();
            if self.broken.is_some() {
                return;
            }
        }
    }

    /// Hands the whole submission queue to the kernel, without waiting. If that cannot be done the ring is given up:
    /// what is left in the queue must never be submitted later, when its memory serves something else.
    fn submit(&mut self) {
        let mut failing_since = None; // the clock is read only when the kernel refuses
        while self.broken.is_none() {
            let waiting = self.ring.submission().len() as u32;
            if waiting == 0 {
                return;
            }
            // SAFETY: no flags and no argument; the entries are valid by the promise given to `push`.
            let result = unsafe { self.ring.submitter().enter::<libc::sigset_t>(waiting, 0, 0, None) };
            if let Err(error) = result {
                // Interrupted, out of request memory for a moment, or completions are to be taken first.
                let passing = matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY));
                let failing_since = *failing_since.get_or_insert_with(Instant::now);
                if !passing || failing_since.elapsed() > SUBMIT_PATIENCE {
                    self.broken = error.raw_os_error();
                }
                self.collect_failed();
                std::thread::sleep(Duration::from_micros(20));
            }
        }
    }

    /// Submits and waits for `completions`, at most `timeout`, lingering `linger_us` once there is one.
    fn enter(&mut self, completions: u32, timeout: Option<Duration>, linger_us: u32) -> io::Result<()> {
        if let Some(errno) = self.broken {
            return Err(io::Error::from_raw_os_error(errno));
        }
        let waiting = self.ring.submission().len() as u32;
        let limit = timeout.map(Timespec::from);
        let mut args = SubmitArgs::new();
        if let Some(limit) = &limit {
            args = args.timespec(limit);
        }
        if linger_us > 0 {
            args = args.min_wait_usec(linger_us);
        }
        // SAFETY: with EXT_ARG the kernel expects exactly this structure; it and the time limit outlive the call. The
        // entries are valid by the promise given to `push`.
        let result = unsafe {
            self.ring.submitter().enter(waiting, completions, self.enter_flags.bits(), Some(&args))
        };
        match result.map_err(|e| (e.raw_os_error(), e)) {
            Ok(_) | Err((Some(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY), _)) => Ok(()),
            Err((_, e)) => Err(e),
        }
    }

    /// Queues the receives that are to begin and to end.
    fn push_requests(&mut self) {
        if !self.wake_armed {
            let entry = opcode::PollAdd::new(Fd(self.waker.fd()), libc::POLLIN as u32).multi(true).build();
            // SAFETY: the entry points to no memory; the descriptor lives as long as the waker.
            unsafe { self.push(&entry.user_data(KIND_WAKE)) };
            self.wake_armed = true;
        }
        while let Some(index) = self.to_cancel.pop() {
            let Some(slot) = self.slots.at(index as usize).filter(|slot| slot.own.armed) else { continue };
            let target = user_data(KIND_RECEIVE, slot.own.stamp, index);
            let entry = opcode::AsyncCancel::new(target).build().flags(squeue::Flags::SKIP_SUCCESS);
            // SAFETY: the entry points to no memory.
            unsafe { self.push(&entry.user_data(KIND_CANCEL)) };
        }
        while let Some(index) = self.to_arm.pop() {
            let Some(slot) = self.slots.at(index as usize) else { continue };
            slot.own.waiting = false;
            if !slot.live || slot.own.armed {
                continue;
            }
            slot.own.armed = true;
            self.receive_stamp = (self.receive_stamp + 1) & STAMP_MASK;
            slot.own.stamp = self.receive_stamp;
            let data = user_data(KIND_RECEIVE, slot.own.stamp, index);
            let (fd, is_big) = (Fd(slot.fd()), slot.own.big);
            let group = self.big.as_ref().filter(|_| is_big).unwrap_or(&self.small).group();
            let entry = opcode::RecvMsgMulti::new(fd, &raw const *self.shape, group).build().user_data(data);
            // SAFETY: `shape` is boxed and lives as long as the backend; the buffers of the group live until the kernel
            // has ended all receives (see `Drop`).
            unsafe { self.push(&entry) };
        }
    }

    fn want_armed(slot: &mut Slot<Own>, to_arm: &mut Vec<u32>) {
        if slot.live && !slot.own.armed && !slot.own.waiting {
            slot.own.waiting = true;
            to_arm.push(slot.id.slot() as u32);
        }
    }

    /// Takes the next completion, set aside or fresh.
    fn next_completion(&mut self) -> Option<Completion> {
        match self.aside.pop_front() {
            Some(completion) => Some(completion),
            None => self.ring.completion().next().map(Completion::from),
        }
    }

    fn handle(&mut self, completion: Completion) {
        match completion.user_data & KIND_MASK {
            KIND_RECEIVE => self.handle_receive(completion),
            KIND_WAKE => {
                self.wake_armed = cqueue::more(completion.flags);
                if self.waker.noticed() {
                    self.turn.counters.wakes += 1;
                }
            }
            // `flush` collects refused sends; one that comes later has lost its message.
            KIND_SEND if completion.result < 0 => self.turn.counters.tx_errors += 1,
            _ => {}
        }
    }

    fn handle_receive(&mut self, completion: Completion) {
        let index = completion.user_data as u32 as usize;
        let stamp = stamp_of(completion.user_data);
        let turn = &mut *self.turn;
        let Some(slot) = self.slots.at(index).filter(|slot| slot.own.armed && slot.own.stamp == stamp) else {
            // Cannot happen: slots wait for the end of their receive. The buffer's pool is unknown, so it is given up.
            debug_assert!(false, "a completion without its socket");
            turn.counters.rx_stale += 1;
            return;
        };
        if let Some(number) = cqueue::buffer_select(completion.flags) {
            let buffer = BufferRef { big: slot.own.big, number };
            turn.hold(buffer);
            match &mut *self.big {
                Some(big) if buffer.big => big.taken(),
                _ => self.small.taken(),
            }
            if !slot.live {
                turn.counters.rx_stale += 1;
            } else if let Ok(len) = usize::try_from(completion.result) {
                take_buffer(turn, slot, buffer, len);
            }
        }
        if cqueue::more(completion.flags) {
            return;
        }
        slot.own.armed = false;
        if !slot.live {
            return; // `flush` releases the slot
        }
        let mut again = true;
        if completion.result < 0 {
            match -completion.result {
                libc::ECANCELED => {}
                libc::ENOBUFS => turn.counters.rx_no_buffers += 1,
                errno => {
                    turn.counters.rx_errors += 1;
                    turn.error(slot.id, errno);
                    // What will not get better by trying again is not tried again.
                    again = !matches!(
                        errno,
                        libc::EINVAL | libc::EBADF | libc::EFAULT | libc::ENOTSOCK | libc::EOPNOTSUPP
                    );
                }
            }
        }
        match slot.own.merging {
            Merging::Starting => {
                slot.own.big = sys::set_option(slot.fd(), libc::SOL_UDP, libc::UDP_GRO, 1).is_ok();
                slot.own.merging = Merging::Settled;
            }
            Merging::Ending => {
                slot.own.big = false;
                slot.own.merging = Merging::Settled;
            }
            Merging::Settled | Merging::Leaving => {}
        }
        if again {
            turn.counters.rx_rearms += 1;
            Self::want_armed(slot, &mut self.to_arm);
        }
    }

    /// Lets the listeners reconsider merging.
    fn reconsider(&mut self) {
        for at in 0..self.slots.listeners().len() {
            let index = self.slots.listeners()[at];
            let Some(slot) = self.slots.at(index as usize).filter(|slot| slot.live) else { continue };
            match (slot.own.merging, slot.gro_policy.end_turn()) {
                (Merging::Settled, Some(true)) if !slot.own.big => {
                    slot.own.merging = Merging::Starting;
                    self.to_cancel.push(index);
                }
                (Merging::Settled, Some(false)) if slot.own.big => slot.own.merging = Merging::Leaving,
                (Merging::Leaving, Some(true)) => slot.own.merging = Merging::Settled,
                (Merging::Leaving, _)
                    if sys::queue_is_empty(slot.fd())
                        && sys::set_option(slot.fd(), libc::SOL_UDP, libc::UDP_GRO, 0).is_ok() =>
                {
                    slot.own.merging = Merging::Ending;
                    self.to_cancel.push(index);
                }
                _ => {}
            }
        }
    }

    /// Sends the turn's messages.
    fn transmit(&mut self) {
        if let Err(error) = self.enable() {
            self.broken = error.raw_os_error();
        }
        let total = self.turn.build(&self.slots);
        self.turn_stamp = (self.turn_stamp + 1) & STAMP_MASK;
        for index in 0..total {
            let socket = self.turn.run(index).socket;
            let entry = send_entry(Fixed(socket.slot() as u32), &self.turn.messages()[index].msg_hdr)
                .flags(squeue::Flags::SKIP_SUCCESS)
                .user_data(user_data(KIND_SEND, self.turn_stamp, index as u32));
            // SAFETY: the message was made by `build` in this turn; what it points to stays untouched until `recycle`,
            // and the send is over when its submission returns because it must not wait.
            unsafe { self.push(&entry) };
        }
        self.submit();
        if self.broken.is_some() {
            self.turn.counters.tx_errors += self.turn.plan().sequence.len() as u64;
            return;
        }
        for index in 0..total {
            self.turn.sent(index);
        }
        self.collect_failed();
        while let Some((index, errno)) = self.failed.pop() {
            self.turn.unsent(index as usize);
            self.turn.failed(index as usize, errno, &mut self.slots);
        }
    }

    /// Empties the completion queue: refused sends of this turn into `failed`, everything else aside.
    fn collect_failed(&mut self) {
        for entry in self.ring.completion() {
            let completion = Completion::from(entry);
            let this_turn = stamp_of(completion.user_data) == self.turn_stamp;
            if completion.user_data & KIND_MASK == KIND_SEND && this_turn {
                self.failed.push((completion.user_data as u32, -completion.result));
            } else {
                self.aside.push_back(completion);
            }
            if self.aside.len() == self.aside_max {
                break;
            }
        }
    }
}

/// The entry that sends a message: the plainer `send` where one vector and no control message are all there is.
fn send_entry(file: Fixed, message: &libc::msghdr) -> squeue::Entry {
    if message.msg_iovlen == 1 && message.msg_control.is_null() {
        // SAFETY: `build` pointed the message to its vectors, of which there is one, alive until `recycle`.
        let vector = unsafe { *message.msg_iov };
        opcode::Send::new(file, vector.iov_base.cast(), vector.iov_len as u32)
            .flags(libc::MSG_DONTWAIT)
            .dest_addr(message.msg_name.cast())
            .dest_addr_len(message.msg_namelen)
            .build()
    } else {
        opcode::SendMsg::new(file, &raw const *message).flags(libc::MSG_DONTWAIT as u32).build()
    }
}

/// Enters what the kernel put into a buffer: header, address, control messages, payload.
fn take_buffer(turn: &mut Turn, slot: &mut Slot<Own>, buffer: BufferRef, len: usize) {
    let pool = turn.pool(buffer.big);
    let start = usize::from(buffer.number) * pool.stride;
    // SAFETY: the completion gave this buffer to us; the kernel does not write to it again before it is given back.
    let bytes = unsafe { pool.region.bytes(start, len.min(pool.stride)) };
    let word =
        |at: usize| bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u32::from_ne_bytes(*b));
    let (name_len, control_len, flags) = (word(0) as usize, word(4) as usize, word(12));
    let from = bytes.get(16..16 + name_len.min(NAME_ROOM)).and_then(sys::decode_name);
    let control = match bytes.get(CONTROL_AT..CONTROL_AT + control_len.min(RX_CONTROL_LEN)) {
        Some(control) if !control.is_empty() => sys::decode_control(control),
        _ => sys::RxControl::default(),
    };
    if let Some(total) = control.kernel_drops {
        turn.counters.rx_kernel_drops += slot.note_kernel_drops(total);
    }
    match (from, len.checked_sub(PAYLOAD_AT)) {
        (Some(from), Some(len)) if flags & libc::MSG_TRUNC as u32 == 0 => {
            let segment_len = control.segment_len;
            turn.take(slot, &Receipt { buffer, offset: PAYLOAD_AT, len, from, segment_len });
        }
        _ => turn.counters.rx_truncated += 1,
    }
}

impl Backend for Uring {
    fn name(&self) -> &'static str {
        "uring"
    }

    fn add(&mut self, socket: UdpSocket, role: Role) -> io::Result<SocketId> {
        let fd = socket.as_raw_fd();
        let big = role == Role::Listener
            && self.turn.gro == Gro::On
            && sys::set_option(fd, libc::SOL_UDP, libc::UDP_GRO, 1).is_ok();
        let own = Own { armed: false, stamp: 0, big, merging: Merging::Settled, waiting: false };
        let id = self.slots.insert(socket, role, self.gso, own)?;
        if let Err(error) = self.ring.submitter().register_files_update(id.slot() as u32, &[fd]) {
            self.slots.release(id.slot());
            return Err(error);
        }
        if let Some(slot) = self.slots.get_mut(id) {
            Self::want_armed(slot, &mut self.to_arm);
        }
        Ok(id)
    }

    fn remove(&mut self, id: SocketId) {
        let Some(slot) = self.slots.get_mut(id) else { return };
        slot.live = false;
        let index = id.slot() as u32;
        self.closing.push(index);
        if slot.own.armed {
            self.to_cancel.push(index);
        }
    }

    fn local_addr(&self, id: SocketId) -> Option<SocketAddr> {
        self.slots.get(id).map(|slot| slot.local)
    }

    fn receive(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        if self.turn.open || self.turn.has_sends() || !self.closing.is_empty() {
            self.flush();
        }
        self.enable()?;
        self.push_requests();
        let linger_us = self.turn.linger.us();
        if !self.aside.is_empty() || timeout == Some(Duration::ZERO) {
            self.enter(0, None, 0)?;
        } else if linger_us == 0 {
            self.enter(1, timeout, 0)?;
        } else if timeout.is_some_and(|timeout| timeout.as_micros() <= u128::from(linger_us)) {
            // The caller's timers end the lingering.
            self.turn.counters.lingers += 1;
            self.enter(LINGER_COMPLETIONS, timeout, 0)?;
        } else if self.min_wait {
            self.turn.counters.lingers += 1;
            self.enter(LINGER_COMPLETIONS, timeout, linger_us)?;
        } else {
            self.enter(1, timeout, 0)?;
            let there = self.ring.completion().len();
            if there > 0 && there < LINGER_COMPLETIONS as usize {
                self.turn.counters.lingers += 1;
                std::thread::sleep(Duration::from_micros(linger_us.into()));
                self.enter(0, None, 0)?;
            }
        }
        for pass in 1..=PASSES_MAX {
            let mut handled = 0;
            while self.turn.room() > 0
                && let Some(completion) = self.next_completion()
            {
                self.handle(completion);
                handled += 1;
            }
            // The kernel stops a receive after 32 datagrams to be fair; a full portion says that there is more.
            if handled < PORTION || self.turn.room() == 0 || pass == PASSES_MAX {
                break;
            }
            self.enter(0, None, 0)?;
        }
        if self.turn.gro == Gro::Adaptive {
            self.reconsider();
        }
        Ok(self.turn.begun())
    }

    fn note_time(&mut self, now: Instant) {
        if self.turn.note_time(now) {
            self.slots.look_at_drops(&mut self.turn.counters);
        }
    }

    fn datagram(&self, index: usize) -> Datagram<'_> {
        self.turn.datagram(index)
    }

    fn forward_first(&mut self, index: usize, len: usize, socket: SocketId, to: Option<SocketAddr>) {
        let live = self.slots.get(socket).is_some();
        self.turn.forward((index, len), socket, to, live);
    }

    fn send(&mut self, socket: SocketId, to: Option<SocketAddr>, bytes: &[u8]) {
        let live = self.slots.get(socket).is_some();
        self.turn.send(socket, to, bytes, live);
    }

    fn flush(&mut self) {
        if self.turn.has_sends() {
            self.transmit();
        }
        let Uring { turn, small, big, .. } = self;
        let mut used = [0; 2];
        turn.recycle(|buffer| {
            used[usize::from(buffer.big)] += 1;
            match &mut **big {
                Some(big) if buffer.big => big.give_back(buffer.number),
                _ => small.give_back(buffer.number),
            }
        });
        small.turn_ended(used[0], turn.pool(false));
        if let Some(big) = &mut **big {
            big.turn_ended(used[1], turn.pool(true));
        }
        let (slots, submitter) = (&mut self.slots, self.ring.submitter());
        self.closing.retain(|&index| {
            let ended = slots.at(index as usize).is_none_or(|slot| !slot.own.armed);
            if ended {
                // Nothing can fail here that could be helped: the slot is being emptied.
                let _ = submitter.register_files_update(index, &[-1]);
                slots.release(index as usize);
            }
            !ended
        });
    }

    fn next_error(&mut self) -> Option<(SocketId, io::Error)> {
        self.turn.next_error()
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn counters(&self) -> &IoCounters {
        &self.turn.counters
    }
}

impl Drop for Uring {
    /// Ends all receives before the buffers go away. If the kernel does not confirm that (dropped by another thread than
    /// the one that used it, or a kernel that takes its time), the buffers are left to the process's end instead.
    fn drop(&mut self) {
        let mut ended = !self.enabled;
        let begun = Instant::now();
        while !ended && begun.elapsed() < DROP_PATIENCE {
            self.to_cancel.clear();
            self.to_arm.clear();
            self.to_cancel.extend(self.slots.numbers_where(|own| own.armed));
            if self.to_cancel.is_empty() {
                ended = true;
                break;
            }
            self.wake_armed = true; // no new poll
            self.push_requests();
            if self.enter(1, Some(Duration::from_millis(20)), 0).is_err() {
                break;
            }
            while let Some(completion) = self.next_completion() {
                let index = completion.user_data as u32 as usize;
                if completion.user_data & KIND_MASK == KIND_RECEIVE
                    && !cqueue::more(completion.flags)
                    && let Some(slot) = self.slots.at(index)
                {
                    slot.own.armed = false;
                }
            }
        }
        if ended {
            // Closing the ring lets go of registered files only some time later; their ports are to be free at once.
            let _ = self.ring.submitter().unregister_files();
        }
        // SAFETY: each is dropped once, here, and not used afterwards. The ring goes first. The memory it was given goes
        // only when no receive that could write to it is left.
        unsafe {
            ManuallyDrop::drop(&mut self.ring);
            if ended {
                ManuallyDrop::drop(&mut self.turn);
                ManuallyDrop::drop(&mut self.small);
                ManuallyDrop::drop(&mut self.big);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_data_keeps_its_parts_apart() {
        let data = user_data(KIND_SEND, STAMP_MASK + 5, u32::MAX);
        assert_eq!((data & KIND_MASK, stamp_of(data), data as u32), (KIND_SEND, 4, u32::MAX));
    }
}
