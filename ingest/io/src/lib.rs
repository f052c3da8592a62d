//! How datagrams enter and leave user space.
//!
//! One trait, [`Backend`], with three implementations that behave alike: `uring` (`io_uring`: multishot receive into
//! provided buffers), `mmsg` (epoll, `recvmmsg`, `sendmmsg`) and [`mem`] (memory only, deterministic, for tests).
//! [`open`] chooses at run time and says why. This is the only packet-path crate that contains `unsafe`.
//!
//! # The loop
//!
//! One thread owns a backend and everything in it. A *turn* is:
//!
//! 1. [`receive`](Backend::receive) waits for a datagram, a wake-up or the timeout, and returns `n`.
//! 2. The caller reads the clock and tells the backend ([`note_time`](Backend::note_time)): one reading serves all that
//!    happens in the turn.
//! 3. The turn's datagrams are [`datagram(0)`](Backend::datagram) to `datagram(n - 1)`; per socket they are in the
//!    order in which the kernel queued them. They stay valid, unchanged, until step 5.
//! 4. The caller queues what is to go out: [`forward`](Backend::forward) names a received datagram (it is sent from
//!    the receive buffer, never copied; to as many destinations as wanted), [`send`](Backend::send) copies bytes
//!    into the turn's arena. Nothing leaves yet.
//! 5. [`flush`](Backend::flush) sends what was queued, grouped per (socket, destination): runs of equal-sized
//!    datagrams leave as one `UDP_SEGMENT` message. The order within one (socket, destination) is the order of the
//!    calls; destinations that get only small datagrams (acknowledgements) are served last. Then the receive
//!    buffers go back to the kernel and the turn is over.
//! 6. [`next_error`](Backend::next_error) tells which sockets failed meanwhile. No error ends the loop: a refused
//!    connection (`ECONNREFUSED`) is reported and the socket goes on receiving.
//!
//! `add` and `remove` may be called at any point. Every `receive` must be followed by a `flush` before the next
//! `receive` (a missing one is made up for, without sending anything late: `receive` flushes first).
//!
//! # Waiting
//!
//! Above about 2000 datagrams per second a backend lingers: once there is something to receive it waits another 100 to
//! 300 microseconds ([`Limits::linger_us_max`]) for more, or until the timeout if that is sooner. At part load the cost of a
//! datagram is the cost of waking up, and sends can only be grouped if several datagrams come in one turn. Below that rate nothing is delayed.
//!
//! # Addresses
//!
//! [`Datagram::from`] is what the kernel reports: on a dual-stack IPv6 socket an IPv4 peer appears as a v4-mapped
//! IPv6 address. As a destination both spellings are accepted on both kinds of socket.
//!
//! # Losing datagrams
//!
//! UDP may lose; a backend never loses silently. Each way of losing one has a counter in [`IoCounters`].

#![deny(clippy::disallowed_types)]

pub mod group;
pub mod limits;
pub mod mem;
mod mmsg;
mod pace;
mod slots;
pub mod socket;
mod sys;
mod thread;
mod turn;
mod uring;
mod wake;

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

pub use limits::{Gro, IoCounters, Limits};
pub use mmsg::Mmsg;
pub use thread::pin_current_thread;
pub use uring::Uring;
pub use wake::Waker;

/// Names a socket added to a backend: slot and generation, so that a late use of a removed socket's name is noticed
/// and never reaches the socket that took its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId(u32);

impl SocketId {
    /// Bits of the slot number; the rest counts generations.
    const SLOT_BITS: u32 = 20;

    fn new(slot: usize, generation: u32) -> SocketId {
        SocketId((slot as u32 & ((1 << Self::SLOT_BITS) - 1)) | generation << Self::SLOT_BITS)
    }

    /// The slot number: below `Limits::sockets`, reused after `remove`. Good for indexing a table beside the backend.
    pub fn slot(self) -> usize {
        (self.0 & ((1 << Self::SLOT_BITS) - 1)) as usize
    }
}

/// What a socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Unconnected, many peers, deep buffers; may merge on receive ([`Limits::gro`]).
    Listener,
    /// Connected to one peer; sent on without a destination.
    Connected,
    /// Unconnected, ordinary.
    Unconnected,
}

/// A received datagram, valid until the turn's `flush`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// The socket it came in on. It may have been removed meanwhile.
    pub socket: SocketId,
    /// Who sent it, as the kernel reports it (v4-mapped on a dual-stack socket).
    pub from: SocketAddr,
    /// The payload; may be empty.
    pub bytes: &'a [u8],
}

/// A way to receive and send datagrams. The crate's documentation describes the loop.
pub trait Backend {
    /// `"uring"`, `"mmsg"` or `"mem"`.
    fn name(&self) -> &'static str;

    /// Takes over a socket and begins to receive on it. The socket is made non-blocking.
    ///
    /// # Errors
    /// `QuotaExceeded` when [`Limits::sockets`] are in use; otherwise what the kernel says.
    fn add(&mut self, socket: UdpSocket, role: Role) -> io::Result<SocketId>;

    /// Stops receiving on a socket and closes it. What was queued for it in this turn is still sent; datagrams of
    /// this turn stay valid; later ones are discarded. Unknown or already removed sockets are ignored.
    fn remove(&mut self, id: SocketId);

    /// The local address of a socket, `None` if it was removed.
    fn local_addr(&self, id: SocketId) -> Option<SocketAddr>;

    /// Waits until there is a datagram, a wake-up, or `timeout` has passed (`None`: no limit; zero: look and
    /// return), and begins a turn. Returns the number of datagrams; 0 after a wake-up, a timeout, an interrupting
    /// signal, or when there are only errors to report.
    ///
    /// # Errors
    /// Only if the backend itself can no longer work; never because of a single socket.
    fn receive(&mut self, timeout: Option<Duration>) -> io::Result<usize>;

    /// Tells when the turn began: the caller's one reading of the clock, taken after [`receive`](Self::receive). On the
    /// packet path a backend reads no clock itself; from this it estimates the rate and decides whether to linger.
    /// One that is never told never lingers.
    fn note_time(&mut self, now: Instant);

    /// A datagram of this turn.
    ///
    /// # Panics
    /// If `index` is not below what `receive` returned, or after `flush`.
    fn datagram(&self, index: usize) -> Datagram<'_>;

    /// Queues a received datagram to be sent, from where it lies, on `socket` to `to` (`None`: where the socket is
    /// connected to). May be called several times for one datagram.
    fn forward(&mut self, index: usize, socket: SocketId, to: Option<SocketAddr>) {
        self.forward_first(index, usize::MAX, socket, to);
    }

    /// The same for the first `len` bytes of a received datagram, or all of it if it is shorter.
    fn forward_first(&mut self, index: usize, len: usize, socket: SocketId, to: Option<SocketAddr>);

    /// Queues a copy of `bytes` to be sent on `socket` to `to` (`None`: where the socket is connected to).
    fn send(&mut self, socket: SocketId, to: Option<SocketAddr>, bytes: &[u8]);

    /// Sends what was queued and ends the turn.
    fn flush(&mut self);

    /// The next error of a socket, oldest first. Bounded; what does not fit is counted.
    fn next_error(&mut self) -> Option<(SocketId, io::Error)>;

    /// A handle that ends a waiting `receive` from any thread.
    fn waker(&self) -> Waker;

    /// What was counted so far.
    fn counters(&self) -> &IoCounters;
}

/// Which backend is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice {
    /// `uring` if the kernel offers all that is needed, else `mmsg`.
    #[default]
    Auto,
    /// `uring` or an error.
    Uring,
    /// `mmsg`.
    Mmsg,
}

/// The backend that was chosen. (No trait object: the loop is compiled for each.)
pub enum AnyBackend {
    /// `io_uring`.
    Uring(Box<Uring>),
    /// epoll, `recvmmsg`, `sendmmsg`.
    Mmsg(Box<Mmsg>),
}

/// Opens the wanted backend and allocates everything it will ever need. The text is one sentence for people: what was
/// chosen and, if it is not the better one, why.
///
/// A `uring` backend belongs to the thread that first calls `receive` or `flush`; opening it and adding sockets before
/// that may be done by another.
///
/// # Errors
/// What the kernel says; for [`Choice::Uring`] also `Unsupported` with the reason.
pub fn open(choice: Choice, limits: &Limits) -> io::Result<(AnyBackend, String)> {
    let reason = match choice {
        Choice::Uring | Choice::Auto => match Uring::open(limits) {
            Ok(uring) => {
                let how =
                    if choice == Choice::Auto { "the kernel offers all it needs" } else { "as configured" };
                return Ok((AnyBackend::Uring(Box::new(uring)), format!("uring: {how}")));
            }
            Err(error) if choice == Choice::Uring => return Err(error),
            Err(error) => format!("mmsg: uring is not available, {error}"),
        },
        Choice::Mmsg => "mmsg: as configured".to_owned(),
    };
    Ok((AnyBackend::Mmsg(Box::new(Mmsg::open(limits)?)), reason))
}

/// Calls the same method of whichever backend it is.
macro_rules! delegate {
    ($self:ident, $backend:ident => $call:expr) => {
        match $self {
            AnyBackend::Uring($backend) => $call,
            AnyBackend::Mmsg($backend) => $call,
        }
    };
}

impl Backend for AnyBackend {
    fn name(&self) -> &'static str {
        delegate!(self, b => b.name())
    }
    fn add(&mut self, socket: UdpSocket, role: Role) -> io::Result<SocketId> {
        delegate!(self, b => b.add(socket, role))
    }
    fn remove(&mut self, id: SocketId) {
        delegate!(self, b => b.remove(id));
    }
    fn local_addr(&self, id: SocketId) -> Option<SocketAddr> {
        delegate!(self, b => b.local_addr(id))
    }
    fn receive(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        delegate!(self, b => b.receive(timeout))
    }
    fn note_time(&mut self, now: Instant) {
        delegate!(self, b => b.note_time(now));
    }
    fn datagram(&self, index: usize) -> Datagram<'_> {
        delegate!(self, b => b.datagram(index))
    }
    fn forward_first(&mut self, index: usize, len: usize, socket: SocketId, to: Option<SocketAddr>) {
        delegate!(self, b => b.forward_first(index, len, socket, to));
    }
    fn send(&mut self, socket: SocketId, to: Option<SocketAddr>, bytes: &[u8]) {
        delegate!(self, b => b.send(socket, to, bytes));
    }
    fn flush(&mut self) {
        delegate!(self, b => b.flush());
    }
    fn next_error(&mut self) -> Option<(SocketId, io::Error)> {
        delegate!(self, b => b.next_error())
    }
    fn waker(&self) -> Waker {
        delegate!(self, b => b.waker())
    }
    fn counters(&self) -> &IoCounters {
        delegate!(self, b => b.counters())
    }
}
