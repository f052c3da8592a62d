//! At steady state a turn of the shard allocates nothing, in both outputs and on every backend available here: SRTLA
//! data, keepalives, acknowledgements back to the links, and the relay's fan-out to players. Turns in which the
//! shard publishes its figures (four a second) are housekeeping and are left out; they are counted and reported.
//!
//! Allocations are counted per thread: the shard turns in the test's thread, its peers live in others.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bondgate::shard::forward::Forward;
use bondgate::shard::handoff::Handoff;
use bondgate::shard::notice::Notices;
use bondgate::shard::relay::{Relay, RelayConfig};
use bondgate::shard::snapshot::SnapshotSlot;
use bondgate::shard::{Output, Parts, Shard, Shared};
use bondgate_auth::ticket::TicketKey;
use bondgate_io::{AnyBackend, Backend, Choice, Limits};
use bondgate_proto::receiver::{Receiver, ReceiverConfig};
use bondgate_srt::{ConnectOptions, Endpoint, EndpointConfig, Event};
use bytes::Bytes;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is passed on unchanged to the system's allocator, which keeps the contract; counting touches
// only a thread-local cell that needs neither initialisation nor destruction, hence no allocation.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise, passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn loopback() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    socket
}

/// Backends that open here.
fn backends() -> Vec<AnyBackend> {
    let limits = Limits { sockets: 16, ..Limits::default() };
    let mut found = Vec::new();
    for choice in [Choice::Mmsg, Choice::Uring] {
        match bondgate_io::open(choice, &limits) {
            Ok((backend, _)) => found.push(backend),
            Err(error) => eprintln!("SKIPPED zero_alloc on {choice:?}: {error}"),
        }
    }
    found
}

fn shared() -> Shared {
    Shared {
        stop: Arc::new(AtomicBool::new(false)),
        epoch: Arc::new(AtomicU32::new(1)),
        notices: Notices::new(64),
        handoff: Handoff::new(1, 1),
    }
}

fn receiver() -> Receiver {
    Receiver::new(ReceiverConfig::default(), TicketKey::new([7; 32]), [1, 2], 1)
}

struct Count {
    turns: u64,
    allocations: u64,
    housekeeping_turns: u64,
}

/// Turns for `time` and counts.
fn measure<B: Backend>(shard: &mut Shard<B>, slot: &SnapshotSlot, time: Duration) -> Count {
    let mut count = Count { turns: 0, allocations: 0, housekeeping_turns: 0 };
    let end = Instant::now() + time;
    while Instant::now() < end {
        let published = slot.read().taken;
        let before = ALLOCATIONS.with(Cell::get);
        shard.turn().unwrap();
        let allocations = ALLOCATIONS.with(Cell::get) - before;
        if slot.read().taken == published {
            count.turns += 1;
            count.allocations += allocations;
        } else {
            count.housekeeping_turns += 1;
        }
    }
    count
}

/// Measures second by second until one passes without any allocation, at most five times: on a loaded machine the
/// buffers may still be growing to their working size, which ends; an allocation per packet or per turn never does.
fn settle<B: Backend>(shard: &mut Shard<B>, slot: &SnapshotSlot) -> Count {
    let mut count = measure(shard, slot, Duration::from_secs(1));
    for _ in 0..4 {
        if count.allocations == 0 {
            break;
        }
        count = measure(shard, slot, Duration::from_secs(1));
    }
    count
}

/// One SRT data packet for socket `dst`.
fn data(seq: u32, dst: u32) -> [u8; 1332] {
    let mut packet = [0x47; 1332];
    packet[..4].copy_from_slice(&seq.to_be_bytes());
    packet[4..8].copy_from_slice(&(0xc000_0000 | seq).to_be_bytes());
    packet[8..12].copy_from_slice(&seq.to_be_bytes());
    packet[12..16].copy_from_slice(&dst.to_be_bytes());
    packet
}

#[test]
fn forward_mode_allocates_nothing() {
    for backend in backends() {
        let name = backend.name();
        let server = loopback();
        let srtla = loopback();
        let to = srtla.local_addr().unwrap();
        let shared = shared();
        let slot = SnapshotSlot::default();
        let forward = Forward::new(server.local_addr().unwrap(), 1 << 20, 16, shared.notices.clone());
        let parts = Parts {
            id: 0,
            receiver: receiver(),
            output: Output::Forward(Box::new(forward)),
            srtla,
            srt: None,
            shared: shared.clone(),
            slot: slot.clone(),
        };
        let mut shard = Shard::new(backend, parts, Instant::now()).unwrap();
        let stop = shared.stop.clone();

        let encoder = std::thread::spawn(move || encode(to, &stop));
        let stop = shared.stop.clone();
        let answering = std::thread::spawn(move || answer(&server, &stop));

        measure(&mut shard, &slot, Duration::from_millis(600)); // registration, first buffers
        let count = settle(&mut shard, &slot);
        let forwarded = slot.read().srtla.forwarded;
        shared.stop.store(true, Ordering::Relaxed);
        let echoes = encoder.join().unwrap();
        let answered = answering.join().unwrap();
        eprintln!(
            "{name}: {} turns, {} allocations, {} housekeeping turns, {forwarded} forwarded, {answered} answered, \
             {echoes} came back to the links",
            count.turns, count.allocations, count.housekeeping_turns
        );
        assert!(
            forwarded > 500 && answered > 500 && echoes > 100,
            "the test must have traffic to say anything"
        );
        assert!(count.turns > 100);
        assert_eq!(count.allocations, 0, "{name}");
    }
}

/// A sender with two links: registers, then data over both and a keepalive now and then. Returns what came back.
fn encode(to: SocketAddr, stop: &AtomicBool) -> u64 {
    let links = [loopback(), loopback()];
    let mut reg1 = [0x5a; 258];
    reg1[..2].copy_from_slice(&[0x92, 0x00]);
    links[0].send_to(&reg1, to).unwrap();
    let mut id = [0; 2048];
    let (len, _) = links[0].recv_from(&mut id).unwrap();
    assert_eq!((len, &id[..2]), (258, &[0x92, 0x01][..]), "REG2 expected");
    for link in &links {
        link.send_to(&id[..258], to).unwrap();
        let mut reg3 = [0; 2048];
        link.recv_from(&mut reg3).unwrap();
        assert_eq!(reg3[..2], [0x92, 0x02], "REG3 expected");
        link.set_nonblocking(true).unwrap();
    }
    let (mut seq, mut back, mut buf) = (1000_u32, 0, [0; 2048]);
    while !stop.load(Ordering::Relaxed) {
        for link in &links {
            for _ in 0..4 {
                link.send_to(&data(seq, 77), to).unwrap();
                seq += 1;
            }
            if seq.is_multiple_of(400) {
                link.send_to(&[0x90, 0, 0, 0, 0, 0, 0, 0, 0, 1], to).unwrap();
            }
            while link.recv_from(&mut buf).is_ok() {
                back += 1;
            }
        }
        std::thread::sleep(Duration::from_millis(4));
    }
    back
}

/// A server that answers every tenth packet with a full SRT ACK.
fn answer(server: &UdpSocket, stop: &AtomicBool) -> u64 {
    let (mut received, mut buf) = (0, [0; 2048]);
    while !stop.load(Ordering::Relaxed) {
        let Ok((_, from)) = server.recv_from(&mut buf) else { continue };
        received += 1;
        if received % 10 == 0 {
            let mut ack = [0; 44];
            ack[..2].copy_from_slice(&[0x80, 0x02]);
            ack[16..20].copy_from_slice(&buf[..4]);
            server.send_to(&ack, from).unwrap();
        }
    }
    received
}

#[test]
fn relay_mode_allocates_nothing() {
    for backend in backends() {
        let name = backend.name();
        let (srtla, srt) = (loopback(), loopback());
        let to = srt.local_addr().unwrap();
        let shared = shared();
        let slot = SnapshotSlot::default();
        let config = RelayConfig {
            streams: Vec::new(),
            default_stream: "live".into(),
            linger: Duration::from_secs(1),
            players_per_stream_max: 4,
        };
        let now = Instant::now();
        let relay = Relay::new(config, EndpointConfig::default(), [3; 16], 4, now, shared.notices.clone());
        let parts = Parts {
            id: 0,
            receiver: receiver(),
            output: Output::Relay(Box::new(relay)),
            srtla,
            srt: Some(srt),
            shared: shared.clone(),
            slot: slot.clone(),
        };
        let mut shard = Shard::new(backend, parts, now).unwrap();
        let peers: Vec<_> = ["publish/a", "play/a", "play/a"]
            .into_iter()
            .enumerate()
            .map(|(at, id)| {
                let stop = shared.stop.clone();
                std::thread::spawn(move || {
                    std::thread::sleep(Duration::from_millis(200 * at as u64));
                    peer(to, id, at as u64, &stop)
                })
            })
            .collect();

        measure(&mut shard, &slot, Duration::from_secs(2)); // handshakes, buffers grow to their working size
        let count = settle(&mut shard, &slot);
        let players = slot.read().streams.first().map_or(0, |s| s.players);
        shared.stop.store(true, Ordering::Relaxed);
        let payloads: Vec<u64> = peers.into_iter().map(|peer| peer.join().unwrap()).collect();
        eprintln!(
            "{name}: {} turns, {} allocations, {} housekeeping turns, {players} players, payloads {payloads:?}",
            count.turns, count.allocations, count.housekeeping_turns
        );
        assert_eq!(players, 2, "the test must have players to say anything");
        assert!(payloads.iter().all(|p| *p > 500), "{payloads:?}");
        assert_eq!(count.allocations, 0, "{name}");
    }
}

/// An SRT caller on its own socket: a publisher sends 1000 payloads a second, a player counts what it gets.
fn peer(to: SocketAddr, stream_id: &'static str, seed: u64, stop: &AtomicBool) -> u64 {
    let socket = loopback();
    socket.set_nonblocking(true).unwrap();
    let now = Instant::now();
    let mut endpoint = Endpoint::<SocketAddr>::new(EndpointConfig::default(), [seed as u8; 16], seed, now);
    let options = ConnectOptions {
        stream_id: Bytes::from_static(stream_id.as_bytes()),
        latency: Duration::from_millis(120),
        ..ConnectOptions::default()
    };
    endpoint.connect(now, to, options).unwrap();
    let (mut conn, mut payloads, mut buf) = (None, 0, [0; 2048]);
    while !stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        while let Ok((len, from)) = socket.recv_from(&mut buf) {
            endpoint.handle(now, from, 0, &buf[..len]);
        }
        endpoint.handle_timeout(now);
        while let Some(event) = endpoint.poll_event() {
            match event {
                Event::Connected { conn: id, .. } => conn = Some(id),
                Event::Data { .. } => payloads += 1,
                Event::Closed { reason, .. } => panic!("{stream_id}: {reason}"),
                _ => {}
            }
        }
        if let (Some(conn), true) = (conn, stream_id.starts_with("publish")) {
            for _ in 0..2 {
                endpoint.send(now, conn, Bytes::from_static(&[0x47; 1316])).unwrap();
                payloads += 1;
            }
        }
        while let Some(transmit) = endpoint.poll_transmit(now, &mut buf) {
            socket.send_to(&buf[..transmit.len], transmit.to).unwrap();
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    payloads
}
