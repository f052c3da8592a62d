//! SRT callers around a relay under test: publishers that offer payloads by the clock, and players that count them.
//!
//! Promise: every publisher and player is a whole SRT peer; each payload is counted at every player. Nobody's latency is
//! shown, because SRT holds payloads back on purpose.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bondgate_io::{AnyBackend, Backend, Choice, Limits, Role, SocketId};
use bondgate_srt::{ConnId, ConnectOptions, Endpoint, EndpointConfig, Event};

use crate::frame::{self, Stamp, Template};
use crate::sink::Sink;

/// SRT header, which is not part of a payload.
const HEADER_LEN: usize = 16;
/// Latency asked for, in both directions.
const LATENCY: Duration = Duration::from_millis(120);
/// Payloads offered in one go at most.
const OFFER_MAX: u32 = 128;
/// Longest wait in a turn.
const WAIT_MAX: Duration = Duration::from_millis(1);
/// Calls begun at the same time: a listener need not answer them all at once.
const CALLS_MAX: usize = 16;

/// What the callers offer.
#[derive(Clone, Copy, Debug)]
pub struct Offer {
    /// Players of each stream.
    pub players: u32,
    /// Payloads per second, over all publishers.
    pub rate_pps: u64,
    /// Length of a payload with the SRT header.
    pub datagram_bytes: usize,
    /// Names the run.
    pub magic: u32,
}

/// What a caller is for.
#[derive(Clone, Copy, Debug)]
enum Part {
    Publisher,
    Player { index: u32 },
}

#[derive(Debug)]
struct Caller {
    part: Part,
    stream: u32,
    /// Its own: datagrams of one address arrive in merged batches, which those of different publishers never do.
    socket: SocketId,
    to: SocketAddr,
    conn: Option<ConnId>,
    is_up: bool,
}

/// The far end of a caller, and the caller's own socket.
type Way = (SocketAddr, SocketId);

/// Publishers, players, and the loop they live in.
pub struct Callers {
    backend: AnyBackend,
    endpoint: Endpoint<Way>,
    all: Vec<Caller>,
    by_conn: HashMap<ConnId, usize>,
    offer: Offer,
    streams: u32,
    template: Template,
    origin: Instant,
    start: Option<Instant>,
    next: u64,
    frame: Vec<u8>,
    /// Payloads that could not be given to SRT, because its buffer was full.
    pub refused: u64,
    /// What each of the players of a stream got.
    pub sinks: Vec<Sink>,
}

impl Callers {
    /// Callers of the SRT servers `to`, one stream each, each from a `socket` of its own.
    ///
    /// # Errors
    /// When the backend or a socket cannot be opened.
    pub fn new(
        mut socket: impl FnMut() -> Result<UdpSocket>,
        to: &[SocketAddr],
        offer: Offer,
    ) -> Result<Self> {
        let origin = Instant::now();
        let streams = to.len() as u32;
        let sockets = to.len() * (1 + offer.players as usize);
        let limits = Limits { sockets, linger_us_max: 0, ..Limits::default() };
        let (mut backend, _) = bondgate_io::open(Choice::Auto, &limits).context("the callers' backend")?;
        let parts =
            std::iter::once(Part::Publisher).chain((0..offer.players).map(|index| Part::Player { index }));
        let mut callers = Vec::with_capacity(sockets);
        for part in parts {
            for (stream, &to) in to.iter().enumerate() {
                let socket = backend.add(socket()?, Role::Unconnected).context("a caller's socket")?;
                callers.push(Caller { part, stream: stream as u32, socket, to, conn: None, is_up: false });
            }
        }
        let config = EndpointConfig {
            listen: false,
            latency: LATENCY,
            connections_max: callers.len() + 1,
            flow_window: 2048,
            send_buffer: 2048,
            ..EndpointConfig::default()
        };
        let secret = u128::from(fastrand::u64(..)).to_be_bytes();
        let sinks =
            (0..offer.players).map(|_| Sink::new(offer.magic, origin, streams as usize, None)).collect();
        Ok(Self {
            backend,
            endpoint: Endpoint::new(config, secret, u64::from(offer.magic), origin),
            all: callers,
            by_conn: HashMap::new(),
            streams,
            template: Template::new(offer.datagram_bytes, offer.magic),
            offer,
            origin,
            start: None,
            next: 0,
            frame: vec![0; HEADER_LEN],
            refused: 0,
            sinks,
        })
    }

    /// Callers that are connected, and all.
    pub fn up(&self) -> (usize, usize) {
        (self.all.iter().filter(|caller| caller.is_up).count(), self.all.len())
    }

    /// From now on payloads are due.
    pub fn start(&mut self) {
        self.start = Some(Instant::now());
    }

    /// No more payloads.
    pub fn stop(&mut self) {
        self.start = None;
    }

    /// The next number to be offered.
    pub fn next_number(&self) -> u64 {
        self.next
    }

    /// Calls whoever is not connected, a few at a time and publishers first, until all are or `patience` is over.
    ///
    /// # Errors
    /// When some are not.
    pub fn connect(&mut self, patience: Duration, mut is_alive: impl FnMut() -> Result<()>) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            let (up, all) = self.up();
            if up == all {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{up} of {all} SRT callers were connected within {patience:?}");
            }
            is_alive()?;
            let calling = self.by_conn.len() - up;
            let publishers_up = self.all.iter().take(self.streams as usize).all(|caller| caller.is_up);
            let mut free = CALLS_MAX.saturating_sub(calling);
            for (place, caller) in self.all.iter_mut().enumerate() {
                let may_call = publishers_up || matches!(caller.part, Part::Publisher);
                if free == 0 || caller.conn.is_some() || !may_call {
                    continue;
                }
                let stream_id = match caller.part {
                    Part::Publisher => format!("publish/bench{}", caller.stream),
                    Part::Player { .. } => format!("play/bench{}", caller.stream),
                };
                let options = ConnectOptions {
                    stream_id: stream_id.into_bytes().into(),
                    latency: LATENCY,
                    ..ConnectOptions::default()
                };
                caller.conn = self.endpoint.connect(Instant::now(), (caller.to, caller.socket), options);
                if let Some(conn) = caller.conn {
                    self.by_conn.insert(conn, place);
                    free -= 1;
                }
            }
            self.turn_for(Duration::from_millis(20))?;
        }
    }

    /// Turns for so long.
    ///
    /// # Errors
    /// When the backend can no longer work, or a connected caller is thrown out.
    pub fn turn_for(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while self.turn()? < end {}
        Ok(())
    }

    fn turn(&mut self) -> Result<Instant> {
        let mut wait = WAIT_MAX;
        let due = self.start.map(|start| start + self.due(self.next));
        for at in [due, self.endpoint.poll_timeout()].into_iter().flatten() {
            wait = wait.min(at.saturating_duration_since(Instant::now()));
        }
        let received = self.backend.receive(Some(wait)).context("the callers")?;
        let now = Instant::now();
        for index in 0..received {
            let datagram = self.backend.datagram(index);
            self.endpoint.handle(now, (datagram.from, datagram.socket), 0, datagram.bytes);
        }
        self.endpoint.handle_timeout(now);
        while let Some(event) = self.endpoint.poll_event() {
            self.event(now, event)?;
        }
        self.offer(now);
        let mut buf = [0; 2048];
        while let Some(transmit) = self.endpoint.poll_transmit(now, &mut buf) {
            let (to, socket) = transmit.to;
            self.backend.send(socket, Some(to), buf.get(..transmit.len).unwrap_or_default());
        }
        self.backend.flush();
        while self.backend.next_error().is_some() {}
        Ok(now)
    }

    fn due(&self, number: u64) -> Duration {
        let ns = u128::from(number) * 1_000_000_000 / u128::from(self.offer.rate_pps.max(1));
        Duration::from_nanos(ns as u64)
    }

    fn offer(&mut self, now: Instant) {
        let Some(start) = self.start else { return };
        for _ in 0..OFFER_MAX {
            let due = start + self.due(self.next);
            if due > now {
                break;
            }
            let number = self.next;
            self.next += 1;
            let stream = (number % u64::from(self.streams.max(1))) as u32;
            let intended_ns = due.duration_since(self.origin).as_nanos() as u64;
            let bytes = self.template.fill(&Stamp { group: stream, number, intended_ns }, 0);
            let payload = bytes.get(HEADER_LEN..).unwrap_or_default().to_vec();
            let conn = self.all.get(stream as usize).and_then(|caller| caller.conn);
            let taken = conn.is_some_and(|conn| self.endpoint.send(now, conn, payload.into()).is_ok());
            self.refused += u64::from(!taken);
        }
    }

    fn event(&mut self, now: Instant, event: Event<Way>) -> Result<()> {
        match event {
            Event::Connected { conn, .. } => {
                if let Some(caller) = self.by_conn.get(&conn).and_then(|&place| self.all.get_mut(place)) {
                    caller.is_up = true;
                }
            }
            Event::Closed { conn, reason } => {
                let place = self.by_conn.remove(&conn);
                let Some(caller) = place.and_then(|place| self.all.get_mut(place)) else { return Ok(()) };
                if caller.is_up {
                    bail!("a caller of {} was thrown out: {reason}", caller.to);
                }
                // The server may not be there yet: call again.
                caller.conn = None;
            }
            Event::Data { conn, payload, .. } => {
                let caller = self.by_conn.get(&conn).and_then(|&place| self.all.get(place));
                if let Some(Caller { part: Part::Player { index }, to, .. }) = caller
                    && let Some(sink) = self.sinks.get_mut(*index as usize)
                {
                    self.frame.truncate(HEADER_LEN);
                    self.frame.extend_from_slice(&payload);
                    sink.datagram(now, *to, &self.frame);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Payload bytes of a datagram.
pub fn payload_len(datagram_bytes: u32) -> u32 {
    datagram_bytes.clamp(frame::LEN_MIN as u32, frame::LEN_MAX as u32) - HEADER_LEN as u32
}
