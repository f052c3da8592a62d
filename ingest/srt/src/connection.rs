//! One established connection: control traffic around the receive and the send half.
//!
//! `handle` takes packets in, `on_timeout` moves time on, `poll_transmit` writes one datagram at a time, and
//! `next_at` says when to come back. Promises: what was sent before a SHUTDOWN is still delivered at its time, even
//! if SHUTDOWN came first on a faster link; a closed connection answers stragglers with SHUTDOWN for a moment, then
//! is gone.

use crate::crypto::Crypto;
use crate::event::CloseReason;
use crate::packet::control::emit_header;
use crate::packet::{Control, ControlType, ControlView, DATAGRAM_MAX, DataView, HEADER_LEN, PAYLOAD_MAX};
use crate::pool::Pool;
use crate::receive::buffer::Received;
use crate::receive::{Receiver, ReceiverSetup};
use crate::send::Sender;
use crate::stats::Stats;
use crate::time::{MS, Micros, NEVER, duration};
use bytes::Bytes;
use std::collections::VecDeque;

const KEEPALIVE: Micros = 1_000 * MS;
/// How long a closed connection still answers with SHUTDOWN.
const LINGER: Micros = 1_000 * MS;
/// How long after the caller got our answer its CONCLUSION may still arrive.
const REPEATS: Micros = 3_000 * MS;
/// ACKs that wait for their ACKACK; further ones are not answered.
const ACKACKS: usize = 16;

/// What both roles know once the handshake is done.
#[derive(Clone, Debug)]
pub(crate) struct Setup<P> {
    pub(crate) peer: P,
    pub(crate) local_id: u32,
    pub(crate) peer_id: u32,
    /// Zero of our timestamps.
    pub(crate) started_at: Micros,
    pub(crate) receiver: ReceiverSetup,
    pub(crate) send_isn: crate::seq::Seq,
    /// The peer's flow window, packets.
    pub(crate) send_window: usize,
    pub(crate) send_buffer: usize,
    pub(crate) send_latency: Micros,
    pub(crate) payload_max: usize,
    pub(crate) peer_idle: Micros,
    /// Handshake answer, given again to every repeat of the question; empty for callers.
    pub(crate) answer: Bytes,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Open,
    /// The peer is gone; what it sent is delivered to the end.
    Draining(CloseReason),
    /// No more data from the application; SHUTDOWN at that time, or when all is acknowledged if `None`.
    Finishing(Option<Micros>),
    /// Over; answers stragglers until then.
    Lingering(Micros),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Connection<P> {
    pub(crate) setup: Setup<P>,
    state: State,
    receiver: Receiver,
    sender: Sender,
    crypto: Crypto,
    heard_at: Micros,
    spoke_at: Micros,
    /// When the peer first used our socket ID, so it has seen our answer; until then the connection is half open.
    confirmed_at: Option<Micros>,
    /// Data that SHUTDOWN overtook on another link are waited for until then: what was sent before it is due by then.
    late_until: Micros,
    /// Says nothing any more: the peer has given its socket ID to a new session.
    muted: bool,
    ackacks: VecDeque<u32>,
    /// Set aside in the payload pool since the first payload in either direction.
    reserved_chunks: usize,
    answer_due: bool,
    shutdown_due: bool,
    keepalive_due: bool,
    /// A reason not yet told to the application.
    closed: Option<CloseReason>,
}

impl<P: Copy> Connection<P> {
    pub(crate) fn new(now: Micros, setup: Setup<P>) -> Self {
        Self {
            state: State::Open,
            receiver: Receiver::new(&setup.receiver),
            sender: Sender::new(
                now,
                setup.send_isn,
                setup.send_window,
                setup.send_buffer,
                setup.send_latency,
            ),
            crypto: Crypto::Clear,
            heard_at: now,
            spoke_at: now,
            confirmed_at: setup.answer.is_empty().then_some(now),
            late_until: now,
            muted: false,
            ackacks: VecDeque::with_capacity(ACKACKS),
            reserved_chunks: 0,
            answer_due: !setup.answer.is_empty(),
            shutdown_due: false,
            keepalive_due: false,
            closed: None,
            setup,
        }
    }

    /// Takes data from the application at all.
    pub(crate) fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// The caller has not shown yet that it got our answer.
    pub(crate) fn is_half_open(&self) -> bool {
        self.confirmed_at.is_none() && self.is_alive()
    }

    /// When the last data packet came, or the connection was made.
    pub(crate) fn last_data_at(&self) -> Micros {
        self.receiver.last_data_at()
    }

    /// The application may still ask about it.
    pub(crate) fn is_alive(&self) -> bool {
        !matches!(self.state, State::Lingering(_))
    }

    /// Chunks to release in the payload pool when it is thrown away.
    pub(crate) fn reserved_chunks(&self) -> usize {
        self.reserved_chunks
    }

    /// Can be thrown away.
    pub(crate) fn is_over(&self, now: Micros) -> bool {
        self.closed.is_none() && matches!(self.state, State::Lingering(until) if until <= now)
    }

    /// A CONCLUSION of this caller with that initial number repeats an earlier one; otherwise the caller has begun
    /// anew under its old socket ID. Callers stop repeating once they are answered; copies may lag a little.
    pub(crate) fn is_repeat(&self, now: Micros, isn: crate::seq::Seq) -> bool {
        isn == self.setup.receiver.isn
            && !(self.is_open() && self.confirmed_at.is_some_and(|at| now - at >= REPEATS))
    }

    /// The caller repeats its CONCLUSION.
    pub(crate) fn repeat_answer(&mut self, now: Micros) {
        self.heard_at = now;
        self.answer_due = self.is_open();
    }

    pub(crate) fn on_data(&mut self, now: Micros, path: u8, packet: &DataView<'_>, pool: &mut Pool) {
        self.heard_at = now;
        self.confirmed_at.get_or_insert(now);
        match self.state {
            State::Open | State::Finishing(_) => {
                // Not with the handshake: whoever only plays, or never comes back, needs none.
                if !self.receiver.has_received() {
                    self.reserve(self.setup.receiver.slots(), pool);
                }
                self.receiver.on_data(now, path, packet, &self.crypto, pool);
            }
            State::Draining(_) if now < self.late_until => {
                self.receiver.on_data(now, path, packet, &self.crypto, pool);
            }
            State::Draining(_) | State::Lingering(_) => self.straggler(now),
        }
    }

    /// Sets memory aside for payloads that one of the buffers pins: at first the receive buffer of their publisher, then
    /// the send buffers of those they are sent on to.
    fn reserve(&mut self, packets: usize, pool: &mut Pool) {
        let chunks = pool.chunks_for(packets, PAYLOAD_MAX);
        self.reserved_chunks += chunks;
        pool.reserve(chunks);
    }

    fn straggler(&mut self, now: Micros) {
        if !self.muted && now - self.spoke_at >= 200 * MS {
            self.shutdown_due = true;
        }
    }

    /// `false`: the body is malformed.
    pub(crate) fn on_control(&mut self, now: Micros, packet: &ControlView<'_>) -> bool {
        let Ok(control) = packet.control() else { return false };
        self.heard_at = now;
        self.confirmed_at.get_or_insert(now);
        if !self.is_alive() {
            if !matches!(control, Control::Shutdown) {
                self.straggler(now);
            }
            return true;
        }
        match control {
            Control::Ack { number, ack } => {
                self.sender.on_ack(now, &ack);
                // Light ACKs have no number and want no answer.
                if number != 0 && ack.timing.is_some() && self.ackacks.len() < ACKACKS {
                    self.ackacks.push_back(number);
                }
            }
            Control::AckAck { number } => self.receiver.on_ackack(now, number),
            Control::Nak(list) => self.sender.on_nak(now, list),
            Control::DropReq { first, last, .. } => self.receiver.on_drop_request(now, first, last),
            Control::Shutdown => {
                // Who has sent no data has none on its way.
                if matches!(self.state, State::Open | State::Finishing(_)) && self.receiver.has_received() {
                    self.late_until = now + self.setup.receiver.latency;
                }
                self.peer_gone(CloseReason::PeerShutdown);
            }
            // Key material without encryption, and what has no meaning in live mode.
            Control::Handshake(_)
            | Control::KeepAlive
            | Control::Congestion
            | Control::PeerError { .. }
            | Control::User { .. } => {}
        }
        true
    }

    fn peer_gone(&mut self, reason: CloseReason) {
        if matches!(self.state, State::Open | State::Finishing(_)) {
            self.state = State::Draining(reason);
        }
    }

    fn end(&mut self, now: Micros, reason: CloseReason) {
        self.closed = Some(reason);
        self.state = State::Lingering(now + LINGER);
    }

    /// Ends it now; what is buffered is discarded.
    pub(crate) fn close(&mut self, now: Micros, reason: CloseReason) {
        if self.is_alive() {
            self.shutdown_due = !self.muted;
            self.end(now, reason);
        }
    }

    /// The application wants no more than what was received so far.
    pub(crate) fn drain(&mut self) {
        if matches!(self.state, State::Open | State::Finishing(_)) {
            self.shutdown_due = true;
            self.state = State::Draining(CloseReason::Local);
        }
    }

    /// The peer has begun a new session with the same socket ID: whatever we said now would reach that one.
    pub(crate) fn mute(&mut self) {
        self.muted = true;
        self.answer_due = false;
        self.shutdown_due = false;
        self.peer_gone(CloseReason::Replaced);
    }

    /// The application has no more data: SHUTDOWN once all is acknowledged and the peer has played it.
    pub(crate) fn finish(&mut self) {
        if self.is_open() {
            self.state = State::Finishing(None);
        }
    }

    pub(crate) fn send(&mut self, now: Micros, payload: Bytes, pool: &mut Pool) -> bool {
        if !self.sender.has_taken() {
            self.reserve(self.sender.slots(), pool);
        }
        self.sender.push(now, payload)
    }

    pub(crate) fn on_timeout(&mut self, now: Micros) {
        match self.state {
            State::Open | State::Finishing(_) => {
                if now - self.heard_at >= self.setup.peer_idle {
                    self.shutdown_due = true;
                    self.peer_gone(CloseReason::PeerIdle);
                } else if now - self.spoke_at >= KEEPALIVE {
                    self.keepalive_due = true;
                }
                self.sender.on_timeout(now);
            }
            State::Draining(_) | State::Lingering(_) => {}
        }
        if let State::Finishing(at) = self.state {
            match at {
                None if self.sender.is_empty() => {
                    self.state = State::Finishing(Some(now + self.setup.send_latency));
                }
                Some(at) if at <= now => {
                    self.shutdown_due = true;
                    self.end(now, CloseReason::Finished);
                }
                _ => {}
            }
        }
        if let State::Draining(reason) = self.state
            && self.receiver.is_empty()
            && self.late_until <= now
        {
            self.end(now, reason);
        }
    }

    /// The next payload whose time has come.
    pub(crate) fn poll_data(&mut self, now: Micros) -> Option<Received> {
        if self.is_alive() { self.receiver.poll_data(now) } else { None }
    }

    /// Why it ended, once.
    pub(crate) fn poll_closed(&mut self) -> Option<CloseReason> {
        self.closed.take()
    }

    pub(crate) fn next_at(&self) -> Micros {
        let sending = self.sender.next_at();
        let idle = (self.heard_at + self.setup.peer_idle).min(self.spoke_at + KEEPALIVE);
        let receiving = self.receiver.data_at().min(self.receiver.report_at());
        match self.state {
            State::Finishing(Some(at)) => idle.min(receiving).min(at),
            State::Finishing(None) if self.sender.is_empty() => 0,
            State::Open | State::Finishing(None) => idle.min(sending).min(receiving),
            State::Draining(_) if self.receiver.is_empty() => self.late_until,
            State::Draining(_) => self.receiver.data_at(),
            State::Lingering(until) => until,
        }
    }

    /// [`Connection::poll_transmit`] may have something.
    pub(crate) fn has_output(&self, now: Micros) -> bool {
        self.answer_due
            || self.shutdown_due
            || (matches!(self.state, State::Open | State::Finishing(_))
                && (!self.ackacks.is_empty()
                    || self.keepalive_due
                    || self.sender.has_output()
                    || self.receiver.report_at() <= now))
    }

    /// Writes the next datagram: answers and control before data.
    pub(crate) fn poll_transmit(&mut self, now: Micros, out: &mut [u8]) -> Option<usize> {
        let len = self.write_next(now, out)?;
        self.spoke_at = now;
        self.keepalive_due = false;
        Some(len)
    }

    fn write_next(&mut self, now: Micros, out: &mut [u8]) -> Option<usize> {
        let timestamp = (now - self.setup.started_at) as u32;
        let dst = self.setup.peer_id;
        if std::mem::take(&mut self.answer_due) {
            out.get_mut(..self.setup.answer.len())?.copy_from_slice(&self.setup.answer);
            // The peer sets its clock by this timestamp, so a repeat carries its own.
            out.get_mut(8..12)?.copy_from_slice(&timestamp.to_be_bytes());
            return Some(self.setup.answer.len());
        }
        if std::mem::take(&mut self.shutdown_due) {
            return Control::Shutdown.emit(timestamp, dst, out);
        }
        if !matches!(self.state, State::Open | State::Finishing(_)) {
            return None;
        }
        if let Some(number) = self.ackacks.pop_front() {
            return Control::AckAck { number }.emit(timestamp, dst, out);
        }
        if let Some((number, ack)) = self.receiver.poll_ack(now) {
            return Control::Ack { number, ack }.emit(timestamp, dst, out);
        }
        let nak = self.receiver.poll_nak(now, out.get_mut(HEADER_LEN..DATAGRAM_MAX)?);
        if nak > 0 {
            return emit_header(out, ControlType::Nak, 0, 0, timestamp, dst).map(|len| len + nak);
        }
        if let Some((first, last)) = self.sender.poll_drop_request() {
            return Control::DropReq { msg_no: 0, first, last }.emit(timestamp, dst, out);
        }
        if let Some(len) = self.sender.poll(now, self.setup.started_at, dst, &self.crypto, out) {
            return Some(len);
        }
        if self.keepalive_due {
            return Control::KeepAlive.emit(timestamp, dst, out);
        }
        None
    }

    pub(crate) fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        self.receiver.fill_stats(&mut stats);
        self.sender.fill_stats(&mut stats);
        if !self.receiver.rtt().is_sampled() {
            stats.rtt = duration(self.sender.rtt().smoothed());
            stats.rtt_var = duration(self.sender.rtt().variance());
        }
        stats.send_latency = duration(self.setup.send_latency);
        stats
    }
}

/// Next millisecond: timers of all connections fall together, so that a thousand streams wake the endpoint a
/// thousand times a second and not a million.
pub(crate) fn align(at: Micros) -> Micros {
    if at == NEVER { NEVER } else { at.saturating_add(MS - 1).div_euclid(MS) * MS }
}
