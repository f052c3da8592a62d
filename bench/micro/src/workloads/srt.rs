//! The SRT engine: from the datagram of a publisher to its payload, and from a payload to the datagram for a player.

use std::time::{Duration, Instant};

use bondgate_srt::{ConnId, ConnectOptions, Endpoint, EndpointConfig, Event, TRANSMIT_MIN};
use bytes::Bytes;

use crate::measured;

#[path = "../../../../ingest/srt/tests/support/mod.rs"]
mod support;

use support::{ADDRESS, CALLER, LISTENER, Link, Sim, ms};

const PAYLOADS: usize = 20_000;
const GAP: Duration = Duration::from_micros(500);

/// A caller and a listener that are connected, without anything between them.
struct Pair {
    now: Instant,
    ends: [Endpoint<u32>; 2],
    conns: [ConnId; 2],
}

impl Pair {
    fn new() -> Self {
        let config = EndpointConfig { latency: ms(120), ..EndpointConfig::default() };
        let mut sim = Sim::new(1, &config, Link::default());
        sim.connect(ConnectOptions { latency: ms(120), ..ConnectOptions::default() });
        sim.run(ms(1000));
        Self { now: sim.now, conns: [CALLER, LISTENER].map(|end| sim.connected[end][0]), ends: sim.ends }
    }

    /// What one end has to send, taken to the other.
    fn carry(&mut self, from: usize) {
        let mut buf = [0; TRANSMIT_MIN];
        while let Some(transmit) = self.ends[from].poll_transmit(self.now, &mut buf) {
            self.ends[1 - from].handle(self.now, ADDRESS[from], 0, &buf[..transmit.len]);
        }
    }

    /// One step of time for the end that is not measured.
    fn rest(&mut self, end: usize) {
        self.ends[end].handle_timeout(self.now);
        while self.ends[end].poll_event().is_some() {}
        self.carry(end);
    }
}

/// Receives datagrams as a shard does: handle, timers, events, transmits.
fn receive(order: impl Fn(usize) -> usize) -> u64 {
    let mut pair = Pair::new();
    let payload = Bytes::from_static(&[0x47; 1316]);
    let (mut received, mut buf) = (0, [0; TRANSMIT_MIN]);
    let mut batch: Vec<Vec<u8>> = Vec::new();
    let mut answers: Vec<Vec<u8>> = Vec::new();
    for _ in 0..PAYLOADS / 4 {
        for _ in 0..4 {
            pair.now += GAP;
            pair.ends[CALLER].send(pair.now, pair.conns[CALLER], payload.clone()).unwrap();
            while let Some(transmit) = pair.ends[CALLER].poll_transmit(pair.now, &mut buf) {
                batch.push(buf[..transmit.len].to_vec());
            }
        }
        let (now, listener) = (pair.now, &mut pair.ends[LISTENER]);
        let len = batch.len();
        measured(|| {
            for at in 0..len {
                let bytes = batch.get(order(at)).or(batch.get(at));
                listener.handle(now, ADDRESS[CALLER], 0, bytes.map_or(&[], Vec::as_slice));
            }
            if listener.poll_timeout().is_some_and(|at| at <= now) {
                listener.handle_timeout(now);
            }
            while let Some(event) = listener.poll_event() {
                received += u64::from(matches!(event, Event::Data { .. }));
            }
            while let Some(transmit) = listener.poll_transmit(now, &mut buf) {
                answers.push(buf[..transmit.len].to_vec());
            }
        });
        batch.clear();
        for answer in answers.drain(..) {
            pair.ends[CALLER].handle(now, ADDRESS[LISTENER], 0, &answer);
        }
        pair.rest(CALLER);
    }
    // The last 120 ms are still waiting for their time.
    let stats = pair.ends[LISTENER].stats(pair.conns[LISTENER]).unwrap();
    assert!(received > PAYLOADS as u64 * 9 / 10, "{received} of {PAYLOADS}: {stats:?}");
    PAYLOADS as u64
}

pub fn in_order() -> u64 {
    receive(|at| at)
}

pub fn reordered() -> u64 {
    receive(|at| at ^ 1)
}

pub fn send() -> u64 {
    let mut pair = Pair::new();
    let payload = Bytes::from_static(&[0x47; 1316]);
    let mut buf = [0; TRANSMIT_MIN];
    for _ in 0..PAYLOADS {
        pair.now += GAP;
        let (now, conn) = (pair.now, pair.conns[LISTENER]);
        let listener = &mut pair.ends[LISTENER];
        let sent = measured(|| {
            listener.send(now, conn, payload.clone()).unwrap();
            if listener.poll_timeout().is_some_and(|at| at <= now) {
                listener.handle_timeout(now);
            }
            listener.poll_transmit(now, &mut buf).map_or(0, |transmit| transmit.len)
        });
        pair.ends[CALLER].handle(now, ADDRESS[LISTENER], 0, &buf[..sent]);
        pair.carry(LISTENER);
        pair.rest(CALLER);
    }
    let stats = pair.ends[CALLER].stats(pair.conns[CALLER]).unwrap();
    assert!(stats.received > PAYLOADS as u64 * 9 / 10, "{stats:?}");
    PAYLOADS as u64
}
