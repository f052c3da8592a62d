//! The encoder: a source of numbered payloads behind a real SRT engine in the caller's role.
//!
//! Promises: feeds payloads at an exact rate while its session is up, tries again when the session ends or does not come
//! up, and counts both.

use std::time::{Duration, Instant};

use bondgate_srt::{ConnId, ConnectOptions, Endpoint, EndpointConfig, Event, Seq};
use bytes::Bytes;

use super::host::SrtPeer;
use super::ledger::Ledger;
use super::setup::Setup;
use crate::rng::Rng;

#[derive(Clone, Copy, Debug)]
enum State {
    Waiting { until: Instant },
    Connecting,
    Connected(ConnId),
    Done,
}

/// Source and SRT caller.
pub struct Encoder {
    endpoint: Endpoint<SrtPeer>,
    state: State,
    interval: Duration,
    next_payload_at: Instant,
    is_feeding: bool,
    retry: Duration,
    latency: Duration,
    initial_seq: Option<u32>,
    /// Sessions that came up.
    pub sessions: u32,
    /// Payloads offered to the engine.
    pub offered: u64,
    /// Payloads the engine did not take.
    pub refused: u64,
    /// Why sessions ended.
    pub ends: Vec<String>,
}

impl Encoder {
    /// An encoder process that starts at `now`; `incarnation` tells restarts apart.
    pub fn new(setup: &Setup, incarnation: u64, now: Instant) -> Self {
        let mut rng = Rng::new(setup.seed).fork(300 + incarnation);
        let bits = setup.payload_len as u64 * 8;
        Self {
            endpoint: Endpoint::new(
                EndpointConfig { listen: false, ..setup.endpoint_config_with_latency() },
                rng.bytes(),
                rng.next_u64(),
                now,
            ),
            state: State::Waiting { until: now },
            interval: Duration::from_nanos(bits * 1_000_000_000 / setup.bitrate_bps.max(1)),
            next_payload_at: now,
            is_feeding: true,
            retry: setup.encoder_retry,
            latency: setup.latency,
            initial_seq: setup.initial_seq,
            sessions: 0,
            offered: 0,
            refused: 0,
            ends: Vec::new(),
        }
    }

    /// Takes over the counts of the process before this one.
    pub fn continue_counts_of(&mut self, before: &Self) {
        self.sessions = before.sessions;
        self.offered = before.offered;
        self.refused = before.refused;
        self.ends.clone_from(&before.ends);
        self.is_feeding = before.is_feeding;
    }

    /// Stops feeding payloads; the session stays.
    pub fn stop_feeding(&mut self) {
        self.is_feeding = false;
    }

    /// Says SHUTDOWN at once, whatever is on its way, and never calls again.
    pub fn hang_up(&mut self, now: Instant) {
        if let State::Connected(conn) = self.state {
            self.endpoint.close(now, conn);
        }
        self.is_feeding = false;
        self.state = State::Done;
    }

    /// Whether the SRT session is up.
    pub fn is_connected(&self) -> bool {
        matches!(self.state, State::Connected(_))
    }

    /// A datagram for the encoder's SRT socket.
    pub fn handle(&mut self, now: Instant, bytes: &[u8]) {
        self.endpoint.handle(now, SrtPeer::Server, 0, bytes);
    }

    /// The next datagram the engine wants to send.
    pub fn poll_transmit(&mut self, now: Instant, buf: &mut [u8]) -> Option<usize> {
        self.endpoint.poll_transmit(now, buf).map(|transmit| transmit.len)
    }

    /// Digests the engine's events. True if there were any.
    pub fn pump(&mut self, now: Instant, ledger: &mut Ledger) -> bool {
        let mut busy = false;
        while let Some(event) = self.endpoint.poll_event() {
            busy = true;
            match event {
                Event::Connected { conn, .. } => {
                    self.state = State::Connected(conn);
                    self.sessions += 1;
                    self.next_payload_at = now;
                    // A sequence number set for the wrap serves the first session only.
                    self.initial_seq = None;
                }
                Event::Closed { reason, .. } => {
                    if self.is_connected() {
                        self.ends.push(format!("{reason:?}"));
                        ledger.session_ended(now);
                    }
                    if !matches!(self.state, State::Done) {
                        self.state = State::Waiting { until: now + self.retry };
                    }
                }
                _ => {}
            }
        }
        busy
    }

    /// Does what is due: connecting, feeding, the engine's own timers.
    pub fn handle_timeout(&mut self, now: Instant, ledger: &mut Ledger) {
        if self.endpoint.poll_timeout().is_some_and(|at| at <= now) {
            self.endpoint.handle_timeout(now);
        }
        match self.state {
            State::Waiting { until } if until <= now => {
                let options = ConnectOptions {
                    stream_id: Bytes::from_static(b"publish:cam1"),
                    latency: self.latency,
                    initial_seq: self.initial_seq.map(Seq::new),
                    ..ConnectOptions::default()
                };
                self.state = match self.endpoint.connect(now, SrtPeer::Server, options) {
                    Some(_) => State::Connecting,
                    None => State::Waiting { until: now + self.retry },
                };
            }
            State::Connected(conn) if self.is_feeding && self.next_payload_at <= now => {
                self.next_payload_at += self.interval;
                self.offered += 1;
                match self.endpoint.send(now, conn, ledger.next_payload().into()) {
                    Ok(()) => ledger.accepted(now),
                    Err(_) => self.refused += 1,
                }
            }
            _ => {}
        }
    }

    /// When something is due next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let own = match self.state {
            State::Waiting { until } => Some(until),
            State::Connected(_) if self.is_feeding => Some(self.next_payload_at),
            _ => None,
        };
        [own, self.endpoint.poll_timeout()].into_iter().flatten().min()
    }
}
