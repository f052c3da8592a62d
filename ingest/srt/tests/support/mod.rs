//! Two endpoints over a link with a virtual clock: seeded loss, delay, jitter, duplication, several paths.
//!
//! Nothing here waits: time jumps from one event to the next, so an hour of stream takes as long as its packets do.
#![allow(dead_code, reason = "every test file uses its part of it")]

use bondgate_srt::{
    AcceptOptions, CloseReason, ConnId, ConnectOptions, Endpoint, EndpointConfig, EndpointCounters, Event,
    RejectReason,
};
use bytes::Bytes;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

pub const CALLER: usize = 0;
pub const LISTENER: usize = 1;
/// How the endpoints name each other.
pub const ADDRESS: [u32; 2] = [100, 200];

pub const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// One direction of one path.
#[derive(Clone, Copy, Default)]
pub struct Link {
    pub delay: Duration,
    /// Added to the delay, uniformly; reorders when larger than the packet spacing.
    pub jitter: Duration,
    pub loss: f64,
    pub duplicate: f64,
}

struct InFlight {
    at: Instant,
    serial: u64,
    to: usize,
    path: u8,
    bytes: Vec<u8>,
}

impl PartialEq for InFlight {
    fn eq(&self, other: &Self) -> bool {
        self.serial == other.serial
    }
}
impl Eq for InFlight {}
impl PartialOrd for InFlight {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for InFlight {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.at, other.serial).cmp(&(self.at, self.serial))
    }
}

pub type Filter = Box<dyn FnMut(Instant, usize, &[u8]) -> bool>;

pub struct Sim {
    pub now: Instant,
    pub start: Instant,
    pub ends: [Endpoint<u32>; 2],
    /// Paths from the caller to the listener; data take them in turn. The way back is `back`.
    pub paths: Vec<Link>,
    pub back: Link,
    /// Says whether a datagram (sent by that end) may pass.
    pub filter: Option<Filter>,
    pub rng: fastrand::Rng,
    /// Listener's answer to callers.
    pub reject: Option<RejectReason>,
    pub accept: bool,
    pub connected: [Vec<ConnId>; 2],
    pub closed: [Vec<(Instant, ConnId, CloseReason)>; 2],
    pub refused: Vec<RejectReason>,
    pub incoming: u32,
    pub expired: u32,
    pub stream_ids: Vec<Bytes>,
    /// (arrival, payload, source time) at each end.
    pub data: [Vec<(Instant, Bytes, i64)>; 2],
    pub latencies: Vec<(Duration, Duration)>,
    wire: BinaryHeap<InFlight>,
    serial: u64,
    turn: usize,
    /// Clock of the caller runs that much faster, parts per million.
    pub caller_ppm: i64,
}

impl Sim {
    pub fn new(seed: u64, config: &EndpointConfig, link: Link) -> Self {
        let start = Instant::now();
        Self {
            now: start,
            start,
            ends: [
                Endpoint::new(config.clone(), [1; 16], seed, start),
                Endpoint::new(config.clone(), [2; 16], seed, start),
            ],
            paths: vec![link],
            back: link,
            filter: None,
            rng: fastrand::Rng::with_seed(seed),
            reject: None,
            accept: true,
            connected: [Vec::new(), Vec::new()],
            closed: [Vec::new(), Vec::new()],
            refused: Vec::new(),
            incoming: 0,
            expired: 0,
            stream_ids: Vec::new(),
            data: [Vec::new(), Vec::new()],
            latencies: Vec::new(),
            wire: BinaryHeap::new(),
            serial: 0,
            turn: 0,
            caller_ppm: 0,
        }
    }

    /// What the clock of that end shows.
    pub fn clock(&self, end: usize) -> Instant {
        self.clock_at(end, self.now)
    }

    fn clock_at(&self, end: usize, at: Instant) -> Instant {
        if end == LISTENER || self.caller_ppm == 0 {
            return at;
        }
        let nanos = (at - self.start).as_nanos() as i128;
        self.start + Duration::from_nanos((nanos + nanos * i128::from(self.caller_ppm) / 1_000_000) as u64)
    }

    /// True time at which that end's clock shows `at`.
    fn true_time(&self, end: usize, at: Instant) -> Instant {
        if end == LISTENER || self.caller_ppm == 0 {
            return at;
        }
        let nanos = at.saturating_duration_since(self.start).as_nanos() as i128;
        self.start
            + Duration::from_nanos(
                (nanos * 1_000_000 / (1_000_000 + i128::from(self.caller_ppm)) + 1000) as u64,
            )
    }

    pub fn connect(&mut self, options: ConnectOptions) -> ConnId {
        let now = self.clock(CALLER);
        let conn = self.ends[CALLER].connect(now, ADDRESS[LISTENER], options).expect("room for a call");
        self.pump();
        conn
    }

    /// Injects a datagram as if it came from the other end, now.
    pub fn inject(&mut self, to: usize, from: u32, bytes: &[u8]) {
        let now = self.clock(to);
        self.ends[to].handle(now, from, 0, bytes);
        self.pump();
    }

    pub fn send(&mut self, end: usize, conn: ConnId, payload: Bytes) {
        let now = self.clock(end);
        self.ends[end].send(now, conn, payload).expect("send");
        self.pump();
    }

    /// Events to the application and datagrams to the wire, until both ends are quiet.
    pub fn pump(&mut self) {
        for end in [CALLER, LISTENER] {
            let now = self.clock(end);
            self.ends[end].handle_timeout(now);
            while let Some(event) = self.ends[end].poll_event() {
                self.on_event(end, event);
            }
            let mut buf = [0; 1500];
            while let Some(transmit) = self.ends[end].poll_transmit(now, &mut buf) {
                assert_eq!(transmit.to, ADDRESS[1 - end], "only two of us here");
                self.put_on_wire(end, &buf[..transmit.len]);
            }
        }
    }

    fn on_event(&mut self, end: usize, event: Event<u32>) {
        match event {
            Event::Incoming { id, stream_id, .. } => {
                self.incoming += 1;
                self.stream_ids.push(stream_id);
                let now = self.clock(end);
                match self.reject {
                    Some(reason) => self.ends[end].reject(now, id, reason),
                    None if self.accept => {
                        self.ends[end].accept(now, id, AcceptOptions::default()).expect("accepted");
                    }
                    None => {}
                }
            }
            Event::Expired { .. } => self.expired += 1,
            Event::Refused { reason, .. } => self.refused.push(reason),
            Event::Connected { conn, receive_latency, send_latency, .. } => {
                self.connected[end].push(conn);
                self.latencies.push((receive_latency, send_latency));
            }
            Event::Data { payload, source_us, .. } => self.data[end].push((self.now, payload, source_us)),
            Event::Closed { conn, reason } => self.closed[end].push((self.now, conn, reason)),
        }
    }

    fn put_on_wire(&mut self, from: usize, bytes: &[u8]) {
        if let Some(filter) = &mut self.filter
            && !filter(self.now, from, bytes)
        {
            return;
        }
        let (path, link) = if from == CALLER {
            self.turn = (self.turn + 1) % self.paths.len();
            (self.turn as u8, self.paths[self.turn])
        } else {
            (0, self.back)
        };
        if self.rng.f64() < link.loss {
            return;
        }
        let copies = if self.rng.f64() < link.duplicate { 2 } else { 1 };
        for _ in 0..copies {
            let jitter = Duration::from_nanos((link.jitter.as_nanos() as f64 * self.rng.f64()) as u64);
            self.serial += 1;
            self.wire.push(InFlight {
                at: self.now + link.delay + jitter,
                serial: self.serial,
                to: 1 - from,
                path,
                bytes: bytes.to_vec(),
            });
        }
    }

    /// Runs to `until`, event by event.
    pub fn run_until(&mut self, until: Instant) {
        self.pump();
        loop {
            let timers = [CALLER, LISTENER]
                .into_iter()
                .filter_map(|end| self.ends[end].poll_timeout().map(|at| self.true_time(end, at)));
            let next = timers.chain(self.wire.peek().map(|packet| packet.at)).min();
            let Some(next) = next.filter(|next| *next <= until) else { break };
            self.now = self.now.max(next);
            while self.wire.peek().is_some_and(|packet| packet.at <= self.now) {
                let packet = self.wire.pop().expect("just seen");
                let now = self.clock(packet.to);
                self.ends[packet.to].handle(now, ADDRESS[1 - packet.to], packet.path, &packet.bytes);
            }
            self.pump();
        }
        self.now = self.now.max(until);
    }

    pub fn run(&mut self, time: Duration) {
        self.run_until(self.now + time);
    }

    /// Sends numbered payloads at an even rate for `time`, from `end`.
    pub fn stream(&mut self, end: usize, conn: ConnId, first: u64, per_s: u32, time: Duration) -> u64 {
        let count = u64::from(per_s) * time.as_millis() as u64 / 1000;
        let start = self.now;
        for i in 0..count {
            self.run_until(start + Duration::from_micros(i * 1_000_000 / u64::from(per_s)));
            self.send(end, conn, numbered(first + i));
        }
        self.run_until(start + time);
        count
    }

    /// Numbers of the payloads that arrived at `end`; checks their contents.
    pub fn numbers(&self, end: usize) -> Vec<u64> {
        self.data[end]
            .iter()
            .map(|(_, payload, _)| {
                let number = u64::from_be_bytes(*payload.first_chunk().expect("8 bytes"));
                assert_eq!(*payload, numbered(number), "payload {number} was changed");
                number
            })
            .collect()
    }

    pub fn counters(&self, end: usize) -> EndpointCounters {
        let counters = self.ends[end].counters();
        assert_eq!(counters.received, counters.consumed + counters.dropped(), "conservation of datagrams");
        counters
    }
}

/// A payload that can be recognised, 7 TS packets long.
pub fn numbered(number: u64) -> Bytes {
    let mut payload = vec![number as u8; 1316];
    payload[..8].copy_from_slice(&number.to_be_bytes());
    payload.into()
}

/// 0, 1, 2, ... without a hole.
pub fn assert_complete(numbers: &[u64], count: u64) {
    assert_eq!(numbers.len() as u64, count, "payloads delivered");
    for (expected, number) in numbers.iter().enumerate() {
        assert_eq!(expected as u64, *number, "order");
    }
}
