//! A backend in memory, deterministic, for tests: datagrams are injected, what is sent is collected.
//!
//! The loop's rules and the grouping are those of the other backends. Time does not pass: `receive` never waits,
//! whatever the timeout; it returns 0 when nothing was injected.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use crate::group::{Grouper, SEGMENTS_MAX};
use crate::{Backend, Datagram, IoCounters, Limits, Role, SocketId, Waker};

/// A datagram that left through a [`MemBackend`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// The socket it left by.
    pub socket: SocketId,
    /// Its destination, `None` for where the socket is connected to.
    pub to: Option<SocketAddr>,
    /// The payload.
    pub bytes: Vec<u8>,
    /// Number of the message it was part of: datagrams that a socket backend would have sent as one `UDP_SEGMENT`
    /// message share it. Counts from 0 over the backend's life.
    pub message: u64,
}

#[derive(Debug, Clone)]
struct Injected {
    socket: SocketId,
    from: SocketAddr,
    bytes: Vec<u8>,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    /// Local address and role, `None` while the slot is free.
    used: Option<(SocketAddr, Role)>,
}

/// The backend in memory.
#[derive(Debug)]
pub struct MemBackend {
    turn_datagrams: usize,
    gso: bool,
    slots: Vec<Slot>,
    injected: VecDeque<Injected>,
    turn: Vec<Injected>,
    queued: Vec<Vec<u8>>,
    grouper: Grouper,
    sent: Vec<Sent>,
    errors: VecDeque<(SocketId, io::Error)>,
    waker: Waker,
    counters: IoCounters,
    last_timeout: Option<Duration>,
}

impl MemBackend {
    /// An empty backend; of the limits only `sockets`, `turn_datagrams`, `turn_sends` and `gso` matter.
    ///
    /// # Errors
    /// If the descriptor behind the waker cannot be had.
    pub fn new(limits: &Limits) -> io::Result<MemBackend> {
        Ok(MemBackend {
            turn_datagrams: limits.turn_datagrams.max(256),
            gso: limits.gso,
            slots: (0..limits.sockets).map(|_| Slot { generation: 0, used: None }).collect(),
            injected: VecDeque::new(),
            turn: Vec::new(),
            queued: Vec::new(),
            grouper: Grouper::new(limits.turn_sends),
            sent: Vec::new(),
            errors: VecDeque::new(),
            waker: Waker::new()?,
            counters: IoCounters::default(),
            last_timeout: None,
        })
    }

    /// Adds a socket that exists only here.
    ///
    /// # Errors
    /// `QuotaExceeded` when [`Limits::sockets`] are in use.
    pub fn add_virtual(&mut self, local: SocketAddr, role: Role) -> io::Result<SocketId> {
        let Some(index) = self.slots.iter().position(|slot| slot.used.is_none()) else {
            return Err(io::Error::new(
                io::ErrorKind::QuotaExceeded,
                "all sockets of this backend are in use",
            ));
        };
        self.slots[index].used = Some((local, role));
        Ok(SocketId::new(index, self.slots[index].generation))
    }

    fn slot(&self, id: SocketId) -> Option<(SocketAddr, Role)> {
        self.slots.get(id.slot()).filter(|slot| SocketId::new(id.slot(), slot.generation) == id)?.used
    }

    /// Lets a datagram arrive; the next `receive` hands it over. For a removed socket it is counted as stale.
    pub fn inject(&mut self, socket: SocketId, from: SocketAddr, bytes: &[u8]) {
        if self.slot(socket).is_some() {
            self.injected.push_back(Injected { socket, from, bytes: bytes.to_vec() });
        } else {
            self.counters.rx_stale += 1;
        }
    }

    /// Lets a socket fail; `next_error` reports it.
    pub fn inject_error(&mut self, socket: SocketId, errno: i32) {
        self.counters.rx_errors += 1;
        self.errors.push_back((socket, io::Error::from_raw_os_error(errno)));
    }

    /// Takes everything that was sent since the last call, in order.
    pub fn take_sent(&mut self) -> Vec<Sent> {
        std::mem::take(&mut self.sent)
    }

    /// The timeout given to the last `receive`.
    pub fn last_timeout(&self) -> Option<Duration> {
        self.last_timeout
    }

    fn queue(&mut self, socket: SocketId, to: Option<SocketAddr>, bytes: Vec<u8>) {
        if self.slot(socket).is_none() {
            self.counters.tx_no_socket += 1;
        } else if self.grouper.push(socket, to, bytes.len()).is_some() {
            self.queued.push(bytes);
        } else {
            self.counters.tx_no_room += 1;
        }
    }
}

impl Backend for MemBackend {
    fn name(&self) -> &'static str {
        "mem"
    }

    fn add(&mut self, socket: UdpSocket, role: Role) -> io::Result<SocketId> {
        self.add_virtual(socket.local_addr()?, role)
    }

    fn remove(&mut self, id: SocketId) {
        if self.slot(id).is_some() {
            let slot = &mut self.slots[id.slot()];
            slot.used = None;
            slot.generation = slot.generation.wrapping_add(1) & ((1 << 12) - 1);
            let before = self.injected.len();
            self.injected.retain(|injected| injected.socket != id);
            self.counters.rx_stale += (before - self.injected.len()) as u64;
        }
    }

    fn local_addr(&self, id: SocketId) -> Option<SocketAddr> {
        self.slot(id).map(|(local, _)| local)
    }

    fn receive(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        self.flush();
        self.last_timeout = timeout;
        if self.waker.noticed() {
            self.counters.wakes += 1;
        }
        let count = self.injected.len().min(self.turn_datagrams);
        self.turn.extend(self.injected.drain(..count));
        self.counters.turns += 1;
        self.counters.rx_datagrams += count as u64;
        self.counters.rx_bytes += self.turn.iter().map(|d| d.bytes.len() as u64).sum::<u64>();
        Ok(count)
    }

    fn note_time(&mut self, _now: Instant) {}

    fn datagram(&self, index: usize) -> Datagram<'_> {
        let found = &self.turn[index];
        Datagram { socket: found.socket, from: found.from, bytes: &found.bytes }
    }

    fn forward_first(&mut self, index: usize, len: usize, socket: SocketId, to: Option<SocketAddr>) {
        let bytes = &self.turn[index].bytes;
        let bytes = bytes[..len.min(bytes.len())].to_vec();
        self.queue(socket, to, bytes);
    }

    fn send(&mut self, socket: SocketId, to: Option<SocketAddr>, bytes: &[u8]) {
        self.queue(socket, to, bytes.to_vec());
    }

    fn flush(&mut self) {
        let segments_max = if self.gso { SEGMENTS_MAX } else { 1 };
        let plan = self.grouper.plan(|_| segments_max);
        for run in plan.runs {
            let message = self.counters.tx_messages;
            self.counters.tx_messages += 1;
            self.counters.tx_datagrams += u64::from(run.count);
            self.counters.tx_bytes += u64::from(run.bytes);
            if run.count > 1 {
                self.counters.tx_gso_messages += 1;
                self.counters.tx_gso_datagrams += u64::from(run.count);
            }
            for &entry in &plan.sequence[run.start as usize..][..run.count as usize] {
                let bytes = std::mem::take(&mut self.queued[entry as usize]);
                self.sent.push(Sent { socket: run.socket, to: run.to, bytes, message });
            }
        }
        self.grouper.clear();
        self.queued.clear();
        self.turn.clear();
    }

    fn next_error(&mut self) -> Option<(SocketId, io::Error)> {
        self.errors.pop_front()
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn counters(&self) -> &IoCounters {
        &self.counters
    }
}
