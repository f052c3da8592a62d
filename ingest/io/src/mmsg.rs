//! The backend of every Linux: epoll tells which sockets have something, `recvmmsg` and `sendmmsg` move it.
//!
//! Grouping for `UDP_SEGMENT` and the adaptive choices are those of the `uring` backend. Where that one lets the
//! kernel wait for more datagrams, this one sleeps for the same time after the first sign of one.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::slots::{Slot, Slots};
use crate::sys::{self, NAME_LEN, RX_CONTROL_LEN};
use crate::turn::{BufferRef, MERGED_RECEIVES_MAX, Receipt, Turn};
use crate::{Backend, Datagram, Gro, IoCounters, Limits, Role, SocketId, Waker};

/// Datagrams asked for with one `recvmmsg`.
const RECEIVE_MAX: usize = 64;
/// Sockets told by one `epoll_wait`.
const EVENTS_MAX: usize = 512;
/// How often a socket that keeps being full is asked again within one turn.
const PASSES_MAX: usize = 4;
/// The waker's mark among the sockets.
const WAKER: u64 = u64::MAX;

/// How a listener receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Merging {
    /// Ordinary buffers.
    Off,
    /// `UDP_GRO` and 64 KB buffers.
    On,
    /// The same, until the queue is empty: of merged datagrams that are read after `UDP_GRO` was switched off the kernel does
    /// not say any more where to cut them apart.
    Leaving,
}

/// Where one `recvmmsg` puts what it finds.
struct Batch {
    messages: Vec<libc::mmsghdr>,
    vectors: Vec<libc::iovec>,
    names: Vec<[u8; 32]>,
    controls: Vec<[u64; RX_CONTROL_LEN / 8]>,
    buffers: Vec<BufferRef>,
}

/// The epoll, `recvmmsg`, `sendmmsg` backend.
pub struct Mmsg {
    epoll: OwnedFd,
    waker: Waker,
    slots: Slots<Merging>,
    turn: Turn,
    free_small: Vec<u16>,
    free_big: Vec<u16>,
    batch: Batch,
    events: Vec<libc::epoll_event>,
    closing: Vec<u32>,
    gso: bool,
    has_pwait2: bool,
}

// SAFETY: the raw pointers in `batch` point into vectors owned by the same value and are set anew before every use;
// nothing here is bound to a thread.
unsafe impl Send for Mmsg {}

impl Mmsg {
    /// Opens the backend and allocates everything it will ever need.
    ///
    /// # Errors
    /// What the kernel says to the descriptors and the memory asked for.
    pub fn open(limits: &Limits) -> io::Result<Mmsg> {
        // SAFETY: takes a flag and has no memory effects on this process.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just returned by the kernel and nobody else owns it.
        let epoll = unsafe { OwnedFd::from_raw_fd(fd) };
        let turn = Turn::new(limits)?;
        let sockets = limits.sockets.clamp(1, 1 << 20);
        sys::raise_file_limit(sockets + 64);
        let big = turn.big.as_ref().map_or(0, |pool| pool.count);
        let backend = Mmsg {
            epoll,
            waker: Waker::new()?,
            slots: Slots::new(sockets),
            free_small: (0..turn.small.count as u32).rev().map(|n| n as u16).collect(),
            free_big: (0..big as u32).rev().map(|n| n as u16).collect(),
            turn,
            batch: Batch {
                messages: vec![sys::empty_message(); RECEIVE_MAX],
                vectors: vec![libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; RECEIVE_MAX],
                names: vec![[0; 32]; RECEIVE_MAX],
                controls: vec![[0; RX_CONTROL_LEN / 8]; RECEIVE_MAX],
                buffers: Vec::with_capacity(RECEIVE_MAX),
            },
            events: Vec::with_capacity(EVENTS_MAX),
            closing: Vec::with_capacity(sockets),
            gso: limits.gso,
            has_pwait2: true,
        };
        backend.watch(backend.waker.fd(), WAKER)?;
        Ok(backend)
    }

    fn watch(&self, fd: i32, mark: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: mark };
        // SAFETY: the kernel reads a live local structure.
        let result =
            unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Waits; fills `events`.
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let epoll = self.epoll.as_raw_fd();
        self.events.clear();
        let events = self.events.as_mut_ptr();
        let mut count = -1;
        let mut error = io::Error::from_raw_os_error(libc::ENOSYS);
        if self.has_pwait2 {
            let limit = timeout.map(|t| libc::timespec {
                tv_sec: t.as_secs().min(1 << 30) as _,
                tv_nsec: t.subsec_nanos() as _,
            });
            let limit = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
            // SAFETY: `events` has room for EVENTS_MAX entries; the time limit is null or a live local; no signal mask.
            count = unsafe {
                libc::syscall(
                    libc::SYS_epoll_pwait2,
                    epoll,
                    events,
                    EVENTS_MAX as libc::c_int,
                    limit,
                    std::ptr::null::<libc::sigset_t>(),
                    0_usize,
                )
            };
            error = io::Error::last_os_error();
        }
        if count < 0 && error.raw_os_error() == Some(libc::ENOSYS) {
            self.has_pwait2 = false;
            let ms = timeout.map_or(-1, |t| t.as_micros().div_ceil(1000).min(1 << 30) as i32);
            // SAFETY: `events` has room for EVENTS_MAX entries.
            count = unsafe { libc::epoll_wait(epoll, events, EVENTS_MAX as i32, ms) }.into();
            error = io::Error::last_os_error();
        }
        if count < 0 {
            return if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) };
        }
        // SAFETY: the kernel initialised the first `count` entries, and `count` is at most EVENTS_MAX, the capacity.
        unsafe { self.events.set_len(count as usize) };
        Ok(())
    }

    /// Receives once from the socket in a slot. Returns whether there may be more.
    fn receive_from(&mut self, index: usize) -> bool {
        let Some(slot) = self.slots.at(index).filter(|slot| slot.live) else { return false };
        let big = slot.own != Merging::Off;
        let free = if big { &mut self.free_big } else { &mut self.free_small };
        let most = if big { MERGED_RECEIVES_MAX } else { RECEIVE_MAX };
        let wanted = most.min(self.turn.room()).min(free.len());
        if wanted == 0 {
            if self.turn.room() > 0 {
                self.turn.counters.rx_no_buffers += 1;
            }
            return false;
        }
        let pool = self.turn.pool(big);
        self.batch.buffers.clear();
        for at in 0..wanted {
            let Some(number) = free.pop() else { break };
            self.batch.buffers.push(BufferRef { big, number });
            let base = pool.buffer(number);
            self.batch.vectors[at] = libc::iovec { iov_base: base.cast(), iov_len: pool.stride };
            let header = &mut self.batch.messages[at].msg_hdr;
            header.msg_name = self.batch.names[at].as_mut_ptr().cast();
            header.msg_namelen = NAME_LEN as u32;
            header.msg_iov = &raw mut self.batch.vectors[at];
            header.msg_iovlen = 1;
            header.msg_control = self.batch.controls[at].as_mut_ptr().cast();
            header.msg_controllen = RX_CONTROL_LEN as _;
            header.msg_flags = 0;
        }
        // SAFETY: `wanted` headers were just set to point to their own name, vector and control memory, all owned by
        // `batch`, and to free buffers, which nobody else reads or writes.
        let count = unsafe {
            libc::recvmmsg(
                slot.fd(),
                self.batch.messages.as_mut_ptr(),
                wanted as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        };
        let error = io::Error::last_os_error();
        let got = usize::try_from(count).unwrap_or(0);
        for at in 0..got {
            let message = &self.batch.messages[at];
            let buffer = self.batch.buffers[at];
            // SAFETY: the control memory is plain initialised integers; any of them may be read as bytes, and the
            // kernel has finished writing.
            let control = unsafe {
                std::slice::from_raw_parts(self.batch.controls[at].as_ptr().cast::<u8>(), RX_CONTROL_LEN)
            };
            #[allow(clippy::unnecessary_cast)] // musl has it shorter than glibc
            let control_len = message.msg_hdr.msg_controllen as usize;
            let control = match control_len {
                0 => sys::RxControl::default(),
                len => sys::decode_control(&control[..len.min(RX_CONTROL_LEN)]),
            };
            if let Some(total) = control.kernel_drops {
                self.turn.counters.rx_kernel_drops += slot.note_kernel_drops(total);
            }
            let from = sys::decode_name(&self.batch.names[at]);
            let truncated = message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
            self.turn.hold(buffer);
            match from {
                Some(from) if !truncated => {
                    let len = message.msg_len as usize;
                    let receipt = Receipt { buffer, offset: 0, len, from, segment_len: control.segment_len };
                    self.turn.take(slot, &receipt);
                }
                _ => self.turn.counters.rx_truncated += 1,
            }
        }
        let free = if big { &mut self.free_big } else { &mut self.free_small };
        free.extend(self.batch.buffers[got..].iter().rev().map(|buffer| buffer.number));
        if count < 0 {
            match error.raw_os_error() {
                Some(libc::EINTR) => return true,
                Some(libc::EAGAIN) | None => {}
                Some(errno) => {
                    self.turn.counters.rx_errors += 1;
                    self.turn.error(slot.id, errno);
                    return true;
                }
            }
        }
        got == wanted
    }

    /// Receives from all sockets that `wait` named, in turns, so that none starves the others.
    fn drain(&mut self) {
        for _ in 0..PASSES_MAX {
            let mut kept = 0;
            for at in 0..self.events.len() {
                let event = self.events[at];
                if event.u64 != WAKER && self.receive_from(event.u64 as usize) {
                    self.events[kept] = event;
                    kept += 1;
                }
            }
            self.events.truncate(kept);
            if kept == 0 || self.turn.room() == 0 {
                break;
            }
        }
    }

    /// Lets the listeners reconsider merging.
    fn reconsider(&mut self) {
        for at in 0..self.slots.listeners().len() {
            let index = self.slots.listeners()[at] as usize;
            let Some(slot) = self.slots.at(index).filter(|slot| slot.live) else { continue };
            let (fd, decision) = (slot.fd(), slot.gro_policy.end_turn());
            let merge = |on: bool| sys::set_option(fd, libc::SOL_UDP, libc::UDP_GRO, i32::from(on)).is_ok();
            match (slot.own, decision) {
                (Merging::Off, Some(true)) if merge(true) => slot.own = Merging::On,
                (Merging::On, Some(false)) => slot.own = Merging::Leaving,
                (Merging::Leaving, Some(true)) => slot.own = Merging::On,
                (Merging::Leaving, _) if sys::queue_is_empty(fd) && merge(false) => slot.own = Merging::Off,
                _ => {}
            }
        }
    }

    /// Sends the turn's messages, one `sendmmsg` per socket.
    fn transmit(&mut self) {
        let total = self.turn.build(&self.slots);
        let mut done = 0;
        while done < total {
            let socket = self.turn.run(done).socket;
            let same = self.turn.plan().runs[done..].iter().take_while(|run| run.socket == socket).count();
            let Some(fd) = self.slots.even_removed(socket).map(Slot::fd) else {
                for index in done..done + same {
                    self.turn.counters.tx_no_socket += u64::from(self.turn.run(index).count);
                }
                done += same;
                continue;
            };
            let end = done + same;
            while done < end {
                let messages = &mut self.turn.messages()[done..end];
                // SAFETY: the messages were made by `build` in this turn: their names, vectors and controls belong to
                // the turn, their bytes to receive buffers or the arena, all untouched until `recycle`.
                let count = unsafe {
                    libc::sendmmsg(fd, messages.as_mut_ptr(), messages.len() as _, libc::MSG_DONTWAIT as _)
                };
                if count > 0 {
                    for index in done..done + count as usize {
                        self.turn.sent(index);
                    }
                    done += count as usize;
                    continue;
                }
                let errno = io::Error::last_os_error().raw_os_error().unwrap_or(libc::EAGAIN);
                if errno == libc::EINTR {
                    continue;
                }
                if errno == libc::EAGAIN {
                    // The send queue is full; what follows on this socket would only be refused as well.
                    for index in done..end {
                        let run = self.turn.run(index);
                        self.turn.lost(&run, run.count, errno);
                    }
                    done = end;
                } else {
                    self.turn.failed(done, errno, &mut self.slots);
                    done += 1;
                }
            }
        }
    }
}

impl Backend for Mmsg {
    fn name(&self) -> &'static str {
        "mmsg"
    }

    fn add(&mut self, socket: UdpSocket, role: Role) -> io::Result<SocketId> {
        let fd = socket.as_raw_fd();
        let id = self.slots.insert(socket, role, self.gso, Merging::Off)?;
        if let Err(error) = self.watch(fd, id.slot() as u64) {
            self.slots.release(id.slot());
            return Err(error);
        }
        if role == Role::Listener
            && self.turn.gro == Gro::On
            && sys::set_option(fd, libc::SOL_UDP, libc::UDP_GRO, 1).is_ok()
            && let Some(slot) = self.slots.get_mut(id)
        {
            slot.own = Merging::On;
        }
        Ok(id)
    }

    fn remove(&mut self, id: SocketId) {
        let Some(slot) = self.slots.get_mut(id) else { return };
        slot.live = false;
        // SAFETY: deletes a descriptor that this backend added; no memory is passed.
        unsafe {
            libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_DEL, slot.fd(), std::ptr::null_mut())
        };
        if self.turn.has_sends() {
            self.closing.push(id.slot() as u32);
        } else {
            self.slots.release(id.slot());
        }
    }

    fn local_addr(&self, id: SocketId) -> Option<SocketAddr> {
        self.slots.get(id).map(|slot| slot.local)
    }

    fn receive(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        if self.turn.open || self.turn.has_sends() {
            self.flush();
        }
        // Sockets that the last turn did not empty: there is enough to do.
        let is_behind = !self.events.is_empty();
        let linger = Duration::from_micros(self.turn.linger.us().into());
        let may_linger = !is_behind && !linger.is_zero() && timeout != Some(Duration::ZERO);
        if let Some(timeout) = timeout.filter(|timeout| may_linger && *timeout <= linger) {
            // The caller's timers end the lingering.
            self.turn.counters.lingers += 1;
            std::thread::sleep(timeout);
            self.wait(Some(Duration::ZERO))?;
        } else {
            self.wait(timeout)?;
            if may_linger && !self.events.is_empty() && self.events.iter().all(|event| event.u64 != WAKER) {
                self.turn.counters.lingers += 1;
                std::thread::sleep(linger);
                self.wait(Some(Duration::ZERO))?;
            }
        }
        if self.events.iter().any(|event| event.u64 == WAKER) && self.waker.noticed() {
            self.turn.counters.wakes += 1;
        }
        self.drain();
        self.reconsider();
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
        let Mmsg { turn, free_small, free_big, .. } = self;
        turn.recycle(|buffer| {
            let free = if buffer.big { &mut *free_big } else { &mut *free_small };
            free.push(buffer.number);
        });
        while let Some(index) = self.closing.pop() {
            self.slots.release(index as usize);
        }
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
