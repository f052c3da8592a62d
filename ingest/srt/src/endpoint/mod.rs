//! The endpoint: many connections behind one stream of datagrams.
//!
//! Demultiplexes by local socket ID and checks the peer, so several callers may share one address and the same
//! caller ID may come from several addresses. All tables are bounded; nothing is stored about a caller before
//! its cookie has come back.

mod caller;
mod half_open;
mod listener;

use crate::config::{AcceptOptions, ConnectOptions, EndpointConfig};
use crate::connection::{Connection, align};
use crate::cookie::{CookieKey, TableHash};
use crate::event::{CloseReason, ConnId, Event, IncomingId, SendError};
use crate::packet::{self, Control, ControlType, ControlView, Packet};
use crate::pool::Pool;
use crate::reject::RejectReason;
use crate::stats::{EndpointCounters, Stats};
use crate::time::{Clock, Micros, NEVER, micros};
use bytes::Bytes;
use caller::Call;
use half_open::HalfOpen;
use listener::Listener;
use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::Instant;

/// Datagrams one connection may send before the next has its turn.
const TURN: u32 = 16;
/// Handshake answers waiting to be sent.
const REPLIES_MAX: usize = 256;
/// Least buffer for [`Endpoint::poll_transmit`].
pub const TRANSMIT_MIN: usize = packet::DATAGRAM_MAX;

/// A datagram written by [`Endpoint::poll_transmit`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transmit<P> {
    /// Where it goes.
    pub to: P,
    /// How many bytes of the buffer it has.
    pub len: usize,
}

/// A connection slot.
#[derive(Debug)]
enum Slot<P> {
    Free,
    Calling(Box<Call<P>>),
    Live(Box<Connection<P>>),
}

/// A handshake answer without a connection.
#[derive(Debug)]
struct Reply<P> {
    to: P,
    bytes: [u8; 64],
}

/// SRT endpoint, listener and caller; see the crate's documentation for the loop around it.
#[derive(Debug)]
pub struct Endpoint<P> {
    config: EndpointConfig,
    clock: Clock,
    keys: CookieKey,
    pool: Pool,
    slots: Vec<Slot<P>>,
    /// Deadline of every slot, [`NEVER`] for free ones.
    deadlines: Vec<Micros>,
    /// No later than the earliest deadline.
    wake_at: Micros,
    free: Vec<u32>,
    /// Slots from here on have never been used.
    slots_used: usize,
    /// Bits of a socket ID that are the slot's index.
    index_mask: u32,
    /// Slots with something to send, and whether a slot is in there.
    ready: VecDeque<u32>,
    is_ready: Vec<bool>,
    turn: u32,
    /// Established connections by peer and the caller's socket ID.
    callers: HashMap<(P, u32), u32, TableHash>,
    listener: Listener<P>,
    half_open: HalfOpen<P>,
    replies: VecDeque<Reply<P>>,
    events: VecDeque<Event<P>>,
    counters: EndpointCounters,
}

impl<P: Copy + Eq + Hash> Endpoint<P> {
    /// `secret` keys cookies, socket IDs and tables; it should be random per start. `seed` may be anything that
    /// differs between endpoints of the same secret.
    pub fn new(config: EndpointConfig, secret: [u8; 16], seed: u64, now: Instant) -> Self {
        let connections_max = config.connections_max.clamp(1, 1 << 16);
        let incoming_max = config.incoming_max.clamp(1, 1 << 16);
        let keys = CookieKey::new(secret, seed);
        Self {
            clock: Clock::new(now),
            pool: Pool::new(config.pool_chunk_bytes, config.pool_chunks_max),
            slots: (0..connections_max).map(|_| Slot::Free).collect(),
            deadlines: vec![NEVER; connections_max],
            wake_at: NEVER,
            free: (0..connections_max as u32).rev().collect(),
            slots_used: 0,
            index_mask: connections_max.next_power_of_two() as u32 - 1,
            ready: VecDeque::with_capacity(connections_max),
            is_ready: vec![false; connections_max],
            turn: 0,
            callers: HashMap::with_capacity_and_hasher(connections_max, keys.table()),
            listener: Listener::new(incoming_max, keys.table()),
            half_open: HalfOpen::new(connections_max),
            replies: VecDeque::with_capacity(REPLIES_MAX),
            // Payloads keep to the limit; besides, each caller may begin and each connection may begin and end.
            events: VecDeque::with_capacity(config.events_max + 2 * connections_max + incoming_max),
            counters: EndpointCounters::default(),
            keys,
            config,
        }
    }

    /// Takes a datagram that arrived from `peer`; `path` is the link within a bonded group, 0 otherwise.
    pub fn handle(&mut self, now: Instant, peer: P, path: u8, bytes: &[u8]) {
        let now = self.clock.micros(now);
        self.counters.received += 1;
        let counter = match packet::parse(bytes) {
            Err(_) => &mut self.counters.dropped_malformed,
            Ok(Packet::Data(data)) => {
                let Some(index) = self.find(data.dst()) else {
                    self.counters.dropped_unknown_socket += 1;
                    return;
                };
                match self.slots.get_mut(index) {
                    Some(Slot::Live(conn)) if conn.setup.peer == peer => {
                        conn.on_data(now, path, &data, &mut self.pool);
                        self.touch(now, index);
                        &mut self.counters.consumed
                    }
                    Some(Slot::Live(_)) => &mut self.counters.dropped_wrong_peer,
                    _ => &mut self.counters.dropped_unknown_socket,
                }
            }
            Ok(Packet::Control(control)) => self.handle_control(now, peer, &control),
        };
        *counter += 1;
    }

    fn handle_control(&mut self, now: Micros, peer: P, control: &ControlView<'_>) -> &mut u64 {
        if control.dst() == 0 {
            return match control.control() {
                Ok(Control::Handshake(view)) if self.config.listen => {
                    self.listener_handshake(now, peer, control.timestamp(), &view)
                }
                Ok(_) => &mut self.counters.dropped_handshake,
                Err(_) => &mut self.counters.dropped_malformed,
            };
        }
        let Some(index) = self.find(control.dst()) else {
            return &mut self.counters.dropped_unknown_socket;
        };
        match self.slots.get_mut(index) {
            Some(Slot::Live(conn)) => {
                if conn.setup.peer != peer {
                    return &mut self.counters.dropped_wrong_peer;
                }
                if !conn.on_control(now, control) {
                    return &mut self.counters.dropped_malformed;
                }
                self.touch(now, index);
                &mut self.counters.consumed
            }
            Some(Slot::Calling(call)) => {
                if call.peer() != peer {
                    return &mut self.counters.dropped_wrong_peer;
                }
                match control.control() {
                    Ok(Control::Handshake(view)) if control.kind() == ControlType::Handshake => {
                        self.caller_handshake(now, index, control.timestamp(), &view)
                    }
                    Ok(_) => &mut self.counters.dropped_handshake,
                    Err(_) => &mut self.counters.dropped_malformed,
                }
            }
            _ => &mut self.counters.dropped_unknown_socket,
        }
    }

    /// Calls `peer`. `Connected` or `Closed` will follow; `None` when the connection table is full.
    pub fn connect(&mut self, now: Instant, peer: P, options: ConnectOptions) -> Option<ConnId> {
        let now = self.clock.micros(now);
        let (index, local_id) = self.claim(now)?;
        let isn = options.initial_seq.unwrap_or_else(|| crate::seq::Seq::new(self.keys.random()));
        self.place(now, index, Slot::Calling(Box::new(Call::new(now, peer, local_id, isn, options))));
        Some(ConnId(local_id))
    }

    /// Lets a caller in. `None` when it is gone meanwhile or the connection table is full (then it is refused).
    pub fn accept(&mut self, now: Instant, id: IncomingId, options: AcceptOptions) -> Option<ConnId> {
        let now = self.clock.micros(now);
        self.accept_incoming(now, id, options)
    }

    /// Refuses a caller. Nothing happens when it is gone meanwhile.
    pub fn reject(&mut self, now: Instant, id: IncomingId, reason: RejectReason) {
        let now = self.clock.micros(now);
        self.reject_incoming(now, id, reason);
    }

    /// Sends one live-mode message (at most 1456 bytes over the usual MTU).
    ///
    /// # Errors
    /// See [`SendError`]; nothing was taken then.
    pub fn send(&mut self, now: Instant, conn: ConnId, payload: Bytes) -> Result<(), SendError> {
        let now = self.clock.micros(now);
        let Some(index) = self.find(conn.0) else { return Err(SendError::NotConnected) };
        let connection = match self.slots.get_mut(index) {
            Some(Slot::Live(connection)) if connection.is_alive() => connection,
            _ => return Err(SendError::NotConnected),
        };
        if !connection.is_open() {
            return Err(SendError::Closing);
        }
        if payload.is_empty() || payload.len() > connection.setup.payload_max {
            return Err(SendError::BadLength);
        }
        if !connection.send(now, payload, &mut self.pool) {
            return Err(SendError::Full);
        }
        self.touch(now, index);
        Ok(())
    }

    /// Ends a connection or a call now: SHUTDOWN, then `Closed`. Buffered data of both directions are discarded.
    pub fn close(&mut self, now: Instant, conn: ConnId) {
        let now = self.clock.micros(now);
        let Some(index) = self.find(conn.0) else { return };
        match self.slots.get_mut(index) {
            Some(Slot::Live(connection)) => {
                connection.close(now, CloseReason::Local);
                self.touch(now, index);
            }
            Some(Slot::Calling(_)) => self.fail_call(index, CloseReason::Local),
            _ => {}
        }
    }

    /// Ends a connection in the other direction gently: SHUTDOWN now, and `Closed` when everything received so far
    /// has been delivered at its time. A call is ended now.
    pub fn drain(&mut self, now: Instant, conn: ConnId) {
        let now_us = self.clock.micros(now);
        match self.live(conn) {
            Some((index, connection)) => {
                connection.drain();
                self.touch(now_us, index);
            }
            None => self.close(now, conn),
        }
    }

    /// When the last data packet of a connection arrived, or the connection was made. `None` when it is ending or
    /// has ended: nothing new can come from it.
    pub fn last_data_at(&self, conn: ConnId) -> Option<Instant> {
        match self.slots.get(self.find(conn.0)?)? {
            Slot::Live(connection) if connection.is_open() => self.clock.instant(connection.last_data_at()),
            _ => None,
        }
    }

    /// Ends a connection gently: takes no more data, waits until everything sent is acknowledged (or too late)
    /// and one latency has passed so that the peer has played it, then SHUTDOWN and `Closed`. A call is ended now.
    pub fn finish(&mut self, now: Instant, conn: ConnId) {
        let now_us = self.clock.micros(now);
        match self.live(conn) {
            Some((index, connection)) => {
                connection.finish();
                self.touch(now_us, index);
            }
            None => self.close(now, conn),
        }
    }

    /// Does what has become due: delivers payloads, sets ACKs, NAKs and repeats going, ends what is silent.
    pub fn handle_timeout(&mut self, now: Instant) {
        let now = self.clock.micros(now);
        if self.wake_at > now {
            return;
        }
        self.expire_incoming(now);
        self.wake_at = self.listener.next_at();
        for index in 0..self.slots_used {
            match self.deadlines.get(index) {
                // This sets the new deadline, and the waking time by it.
                Some(at) if *at <= now => self.run_timers(now, index),
                Some(at) => self.wake_at = self.wake_at.min(*at),
                None => break,
            }
        }
    }

    fn run_timers(&mut self, now: Micros, index: usize) {
        self.set_deadline(index, NEVER);
        match self.slots.get_mut(index) {
            Some(Slot::Calling(call)) => {
                if call.on_timeout(now) {
                    self.fail_call(index, CloseReason::ConnectTimeout);
                } else {
                    self.touch(now, index);
                }
            }
            Some(Slot::Live(conn)) => {
                let id = ConnId(conn.setup.local_id);
                while self.events.len() < self.config.events_max {
                    let Some(data) = conn.poll_data(now) else { break };
                    self.events.push_back(Event::Data {
                        conn: id,
                        payload: data.payload,
                        source_us: data.source_us,
                    });
                }
                conn.on_timeout(now);
                if conn.is_over(now) {
                    self.release(index);
                } else {
                    self.touch(now, index);
                }
            }
            _ => {}
        }
    }

    /// When to call [`Endpoint::handle_timeout`]; `None`: not until something else happens. O(1). A time in the
    /// past means now.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.clock.instant(self.wake_at)
    }

    /// Writes the next datagram to send into `buf`, which must hold [`TRANSMIT_MIN`] bytes. Connections take
    /// turns.
    pub fn poll_transmit(&mut self, now: Instant, buf: &mut [u8]) -> Option<Transmit<P>> {
        if buf.len() < TRANSMIT_MIN {
            return None;
        }
        let now = self.clock.micros(now);
        if let Some(reply) = self.replies.pop_front() {
            buf.get_mut(..reply.bytes.len())?.copy_from_slice(&reply.bytes);
            self.counters.transmitted += 1;
            return Some(Transmit { to: reply.to, len: reply.bytes.len() });
        }
        while let Some(&index) = self.ready.front() {
            let written = if self.turn < TURN { self.write_slot(now, index as usize, buf) } else { None };
            if let Some(transmit) = written {
                self.turn += 1;
                self.counters.transmitted += 1;
                return Some(transmit);
            }
            // Nothing left, or the turn is over: to the back, or out.
            let turn_over = self.turn >= TURN;
            self.turn = 0;
            self.ready.pop_front();
            if turn_over {
                self.ready.push_back(index);
            } else {
                self.unready(index as usize);
                self.settle(now, index as usize);
            }
        }
        None
    }

    fn write_slot(&mut self, now: Micros, index: usize, buf: &mut [u8]) -> Option<Transmit<P>> {
        match self.slots.get_mut(index)? {
            Slot::Free => None,
            Slot::Calling(call) => call.poll_transmit(now, buf),
            Slot::Live(conn) => {
                let to = conn.setup.peer;
                conn.poll_transmit(now, buf).map(|len| Transmit { to, len })
            }
        }
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event<P>> {
        let event = self.events.pop_front();
        if self.events.is_empty() {
            // Begin again where the memory is still in the cache.
            self.events.clear();
        }
        event
    }

    /// State and totals of a connection, until it has closed.
    pub fn stats(&self, conn: ConnId) -> Option<Stats> {
        match self.slots.get(self.find(conn.0)?)? {
            Slot::Live(connection) if connection.is_alive() => Some(connection.stats()),
            _ => None,
        }
    }

    /// Totals of the endpoint.
    pub fn counters(&self) -> EndpointCounters {
        EndpointCounters { pool_overflowed: self.pool.overflowed(), ..self.counters }
    }

    /// Slots in use: connections, calls, and connections that have just closed.
    pub fn connections(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// The established connection of that name.
    fn live(&mut self, conn: ConnId) -> Option<(usize, &mut Connection<P>)> {
        let index = self.find(conn.0)?;
        match self.slots.get_mut(index)? {
            Slot::Live(connection) if connection.is_alive() => Some((index, connection)),
            _ => None,
        }
    }

    /// Slot of a local socket ID.
    fn find(&self, local_id: u32) -> Option<usize> {
        let index = (local_id & self.index_mask) as usize;
        let id = match self.slots.get(index)? {
            Slot::Free => return None,
            Slot::Calling(call) => call.local_id(),
            Slot::Live(conn) => conn.setup.local_id,
        };
        (id == local_id).then_some(index)
    }

    /// A free slot and a socket ID for it. When there is none, connections that linger make room, then half-open ones.
    fn claim(&mut self, now: Micros) -> Option<(usize, u32)> {
        if self.free.is_empty() {
            if !self.slots.iter().any(is_lingering) {
                self.evict_half_open(now);
            }
            let lingering = self.slots.iter().position(is_lingering);
            self.release(lingering?);
        }
        let index = self.free.pop()?;
        self.slots_used = self.slots_used.max(index as usize + 1);
        // Bit 30 marks groups in libsrt, bit 31 would be negative there; 0 is the listener.
        let random = self.keys.random() ^ now as u32;
        let id = (random & !self.index_mask & 0x3FFF_FFFF) | index;
        let id = if id == 0 { self.index_mask + 1 } else { id };
        Some((index as usize, id))
    }

    fn place(&mut self, now: Micros, index: usize, slot: Slot<P>) {
        if let Some(place) = self.slots.get_mut(index) {
            *place = slot;
        }
        self.touch(now, index);
    }

    /// Empties a slot.
    fn release(&mut self, index: usize) {
        let Some(slot) = self.slots.get_mut(index) else { return };
        match std::mem::replace(slot, Slot::Free) {
            Slot::Free => return,
            Slot::Calling(_) => {}
            Slot::Live(conn) => {
                self.pool.release(conn.reserved_chunks());
                self.forget_caller(index, &conn);
            }
        }
        self.set_deadline(index, NEVER);
        self.free.push(index as u32);
    }

    /// A call ends without a connection.
    fn fail_call(&mut self, index: usize, reason: CloseReason) {
        if let Some(Slot::Calling(call)) = self.slots.get(index) {
            let conn = ConnId(call.local_id());
            self.release(index);
            self.events.push_back(Event::Closed { conn, reason });
        }
    }

    /// After anything happened to a slot: told events, new deadline, a place in the send queue.
    fn touch(&mut self, now: Micros, index: usize) {
        let wants = match self.slots.get_mut(index) {
            Some(Slot::Live(conn)) => {
                if let Some(reason) = conn.poll_closed() {
                    self.events.push_back(Event::Closed { conn: ConnId(conn.setup.local_id), reason });
                }
                conn.has_output(now)
            }
            Some(Slot::Calling(call)) => call.has_output(),
            _ => false,
        };
        if wants
            && let Some(ready) = self.is_ready.get_mut(index)
            && !*ready
        {
            *ready = true;
            self.ready.push_back(index as u32);
        }
        self.settle(now, index);
    }

    /// A new deadline. An earlier one stands until its timers have run: a connection whose datagrams come in every turn would
    /// push it away for ever.
    fn settle(&mut self, now: Micros, index: usize) {
        let at = match self.slots.get(index) {
            Some(Slot::Live(conn)) => conn.next_at(),
            Some(Slot::Calling(call)) => call.next_at(),
            _ => NEVER,
        };
        // What is due already waits for the send queue or for the application; try again a millisecond later.
        let standing = self.deadlines.get(index).copied().unwrap_or(NEVER);
        self.set_deadline(index, align(at.max(now.saturating_add(1))).min(standing));
    }

    fn unready(&mut self, index: usize) {
        if let Some(ready) = self.is_ready.get_mut(index) {
            *ready = false;
        }
    }

    fn set_deadline(&mut self, index: usize, at: Micros) {
        if let Some(deadline) = self.deadlines.get_mut(index) {
            *deadline = at;
            self.wake_at = self.wake_at.min(at);
        }
    }

    /// Queues a handshake answer; `false` when the queue is full.
    fn reply(&mut self, to: P, bytes: [u8; 64]) -> bool {
        if self.replies.len() >= REPLIES_MAX {
            return false;
        }
        self.replies.push_back(Reply { to, bytes });
        true
    }

    /// Latency floor of both directions, milliseconds.
    fn floor_ms(&self) -> u16 {
        millis(micros(self.config.latency))
    }
}

fn is_lingering<P: Copy>(slot: &Slot<P>) -> bool {
    matches!(slot, Slot::Live(conn) if conn.is_over(Micros::MAX))
}

/// Whole milliseconds as handshakes carry them.
fn millis(us: Micros) -> u16 {
    u16::try_from(us / 1000).unwrap_or(if us < 0 { 0 } else { u16::MAX })
}
