//! At steady state a turn allocates nothing: receive, forward, fan out, send, errors, wake-ups, on every backend that is
//! available here. Allocations are counted per thread, so the test harness and the peers do not disturb.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use bondgate_counting::allocations_of;
use bondgate_io::socket::{BindOptions, bind_udp, connect_udp};
use bondgate_io::{Backend, Choice, Gro, Limits, Role};

/// Runs turns until `count` datagrams came; everything in here is what a shard does.
fn turns(
    backend: &mut impl Backend,
    count: usize,
    forward: bondgate_io::SocketId,
    dead: bondgate_io::SocketId,
) {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut got = 0;
    while got < count {
        assert!(Instant::now() < deadline, "only {got} of {count} datagrams came");
        let n = backend.receive(Some(Duration::from_millis(20))).expect("receive");
        backend.note_time(Instant::now());
        for index in 0..n {
            let datagram = backend.datagram(index);
            let (socket, from): (_, SocketAddr) = (datagram.socket, datagram.from);
            backend.forward(index, forward, None);
            if index % 10 == 9 {
                backend.send(socket, Some(from), &[0x91; 44]);
            }
        }
        backend.send(dead, None, b"refused");
        backend.flush();
        while let Some((socket, error)) = backend.next_error() {
            assert_eq!((socket, error.kind()), (dead, std::io::ErrorKind::ConnectionRefused));
        }
        got += n;
    }
}

fn steady_state(choice: Choice, gro: Gro) {
    let limits = Limits { sockets: 16, gro, ..Limits::default() };
    let (mut backend, _) = bondgate_io::open(choice, &limits).expect("open");
    let local: SocketAddr = "127.0.0.1:0".parse().expect("address");
    let options = BindOptions::default();
    let listener = bind_udp(local, &options).expect("listener");
    let addr = listener.local_addr().expect("address");
    backend.add(listener, Role::Listener).expect("add");
    let sink = UdpSocket::bind(local).expect("sink");
    let sink_addr = sink.local_addr().expect("address");
    let forward = backend
        .add(connect_udp(sink_addr, None, &options).expect("forwarder"), Role::Connected)
        .expect("add");
    let nobody = UdpSocket::bind(local).and_then(|s| s.local_addr()).expect("address");
    let dead = backend.add(connect_udp(nobody, None, &options).expect("dead"), Role::Connected).expect("add");
    let clients: Vec<UdpSocket> = (0..4).map(|_| UdpSocket::bind(local).expect("client")).collect();
    let waker = backend.waker();
    sink.set_nonblocking(true).expect("non-blocking");

    let mut payload = [7; 1316];
    let mut buffer = [0; 2000];
    let mut round = |seed: u64| {
        for number in 0..64_u64 {
            payload[..8].copy_from_slice(&(seed * 64 + number).to_be_bytes());
            let len = if number % 9 == 8 { 600 } else { 1316 };
            clients[(number % 4) as usize].send_to(&payload[..len], addr).expect("send");
        }
        if seed.is_multiple_of(16) {
            waker.wake();
        }
        turns(&mut backend, 64, forward, dead);
        while sink.recv(&mut buffer).is_ok() {}
    };
    for seed in 0..200 {
        round(seed);
    }
    let allocations = allocations_of(|| (200..1200).for_each(&mut round));
    assert_eq!(allocations, 0, "allocations in 1000 rounds of 64 datagrams");
    let counters = backend.counters();
    assert!(counters.rx_datagrams == 1200 * 64 && counters.tx_datagrams > 1200 * 64, "{counters:?}");
    assert!(
        counters.tx_gso_messages > 0 && counters.wakes > 0 && counters.rx_errors + counters.tx_errors > 0
    );
}

#[test]
fn mmsg_allocates_nothing() {
    steady_state(Choice::Mmsg, Gro::Off);
    steady_state(Choice::Mmsg, Gro::Adaptive);
}

#[test]
fn auto_allocates_nothing() {
    // `uring` where it is available, else `mmsg` once more.
    steady_state(Choice::Auto, Gro::Off);
    steady_state(Choice::Auto, Gro::Adaptive);
}
