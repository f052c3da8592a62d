//! Two SRT endpoints, a caller and a listener, and a network between them that does what the script says.
//!
//! Checked: datagrams are accounted for; transmits, events and timers come to an end; data come between `Connected` and
//! `Closed`; tables stay bounded.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bondgate_srt::packet::PAYLOAD_MAX;
use bondgate_srt::{
    AcceptOptions, ConnId, ConnectOptions, Endpoint, EndpointConfig, Event, IncomingId, RejectReason,
    TRANSMIT_MIN,
};
use bytes::Bytes;

use super::script::Script;

const QUEUE_MAX: usize = 64;

type Peer = u8;

struct Side {
    endpoint: Endpoint<Peer>,
    /// What this side has sent and the network still holds, with the peer's name for this side.
    sent: VecDeque<Vec<u8>>,
    incoming: Vec<IncomingId>,
    connected: Vec<ConnId>,
}

struct World {
    sides: [Side; 2],
    now: Instant,
}

pub fn run(data: &[u8]) {
    let now = Instant::now();
    let side = |listen: bool, seed| Side {
        endpoint: Endpoint::new(
            EndpointConfig {
                listen,
                connections_max: 4,
                incoming_max: 2,
                events_max: 16,
                flow_window: 64,
                send_buffer: 64,
                pool_chunk_bytes: 8 << 10,
                pool_chunks_max: 8,
                ..EndpointConfig::default()
            },
            [3; 16],
            seed,
            now,
        ),
        sent: VecDeque::new(),
        incoming: Vec::new(),
        connected: Vec::new(),
    };
    let mut world = World { sides: [side(false, 1), side(true, 2)], now };
    let mut script = Script::new(data);
    world.connect(b"publish/a");
    while let Some(op) = script.op() {
        let side = usize::from(op >> 4 & 1);
        match op & 15 {
            0..=3 => {
                for _ in 0..=op >> 5 {
                    world.deliver(side);
                }
            }
            4 => drop(world.sides[side].sent.pop_front()),
            5 => {
                if let Some(datagram) = world.sides[side].sent.front().cloned() {
                    world.handle(1 - side, 0, &datagram);
                }
            }
            6 => {
                if let Some(mut datagram) = world.sides[side].sent.pop_front() {
                    for _ in 0..=script.u8() % 3 {
                        let at = usize::from(script.u8()) % datagram.len();
                        datagram[at] ^= script.u8();
                    }
                    world.handle(1 - side, 0, &datagram);
                }
            }
            7 => {
                let peer = script.u8() % 2;
                world.handle(side, peer, script.bytes(1600));
            }
            8 => world.sides[side].sent.rotate_left(usize::from(world.sides[side].sent.len() > 1)),
            9 | 10 => world.wait(Duration::from_micros(u64::from(script.u16()))),
            11 => world.wait(Duration::from_millis(u64::from(script.u16() % 8000))),
            12 | 13 => {
                for _ in 0..=script.u8() % 16 {
                    world.send(side);
                }
            }
            14 => match script.u8() % 4 {
                0 => world.connect(script.bytes(600)),
                1 => world.close(side, Endpoint::close),
                2 => world.close(side, Endpoint::finish),
                _ => {
                    if let Some(id) = world.sides[1].incoming.pop() {
                        world.sides[1].endpoint.reject(world.now, id, RejectReason::FORBIDDEN);
                        world.settle();
                    }
                }
            },
            _ => {
                if let Some(id) = world.sides[1].incoming.pop() {
                    let _ = world.sides[1].endpoint.accept(world.now, id, AcceptOptions::default());
                    world.settle();
                }
            }
        }
    }
}

impl World {
    fn connect(&mut self, stream_id: &[u8]) {
        let options =
            ConnectOptions { stream_id: Bytes::copy_from_slice(stream_id), ..ConnectOptions::default() };
        let _ = self.sides[0].endpoint.connect(self.now, 0, options);
        self.settle();
    }

    fn close(&mut self, side: usize, how: impl Fn(&mut Endpoint<Peer>, Instant, ConnId)) {
        if let Some(conn) = self.sides[side].connected.last().copied() {
            how(&mut self.sides[side].endpoint, self.now, conn);
            self.settle();
        }
    }

    fn send(&mut self, side: usize) {
        let side = &mut self.sides[side];
        if let Some(conn) = side.connected.first().copied() {
            let _ = side.endpoint.send(self.now, conn, Bytes::from_static(&[0x47; 188]));
        }
        self.settle();
    }

    fn deliver(&mut self, from: usize) {
        if let Some(datagram) = self.sides[from].sent.pop_front() {
            self.handle(1 - from, 0, &datagram);
        }
    }

    fn handle(&mut self, to: usize, peer: Peer, bytes: &[u8]) {
        self.sides[to].endpoint.handle(self.now, peer, 0, bytes);
        self.settle();
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        for _ in 0..1000 {
            for side in &mut self.sides {
                side.endpoint.handle_timeout(self.now);
            }
            self.settle();
            if self.sides.iter().all(|side| side.endpoint.poll_timeout().is_none_or(|at| at > self.now)) {
                return;
            }
        }
        panic!("the timers make no progress");
    }

    fn settle(&mut self) {
        for side in &mut self.sides {
            side.take_events();
            side.take_transmits(self.now);
            let counters = side.endpoint.counters();
            assert_eq!(counters.received, counters.consumed + counters.dropped(), "{counters:?}");
            assert!(side.endpoint.connections() <= 4);
        }
    }
}

impl Side {
    fn take_transmits(&mut self, now: Instant) {
        let mut buf = [0; TRANSMIT_MIN];
        for _ in 0..10_000 {
            let Some(transmit) = self.endpoint.poll_transmit(now, &mut buf) else { return };
            if self.sent.len() < QUEUE_MAX && transmit.to == 0 {
                self.sent.push_back(buf[..transmit.len].to_vec());
            }
        }
        panic!("transmits do not come to an end");
    }

    fn take_events(&mut self) {
        for _ in 0..10_000 {
            let Some(event) = self.endpoint.poll_event() else { return };
            match event {
                Event::Incoming { id, stream_id, .. } => {
                    assert!(stream_id.len() <= 512);
                    self.incoming.truncate(3);
                    self.incoming.push(id);
                }
                Event::Connected { conn, .. } => self.connected.push(conn),
                Event::Data { conn, payload, .. } => {
                    assert!(self.connected.contains(&conn), "data of a connection that is not there");
                    assert!(!payload.is_empty() && payload.len() <= PAYLOAD_MAX);
                }
                Event::Closed { conn, .. } => self.connected.retain(|known| *known != conn),
                Event::Expired { .. } | Event::Refused { .. } => {}
            }
        }
        panic!("events do not come to an end");
    }
}
