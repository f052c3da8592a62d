//! What happens at the limits: many sockets, no buffers, full queues, oversized datagrams.

use std::time::{Duration, Instant};

use bondgate_io::socket::{BindOptions, bind_udp, connect_udp};
use bondgate_io::{Backend, Gro, Limits, Role};
use libtest_mimic::Failed;

use crate::rig::{PATIENCE, Rig, Variant, ensure, ensure_eq, local, pattern, peer};

pub fn many_sockets(variant: &Variant) -> Result<(), Failed> {
    const SOCKETS: usize = 3000;
    let mut rig = Rig::with(variant, Limits { sockets: SOCKETS, ..Limits::default() })?;
    let server = peer()?;
    let mut sockets = Vec::new();
    for _ in 0..SOCKETS {
        let options = BindOptions { recv_buf: 0, send_buf: 0, ..BindOptions::default() };
        let socket = connect_udp(server.local_addr()?, None, &options)?;
        let addr = socket.local_addr()?;
        sockets.push((rig.backend.add(socket, Role::Connected)?, addr));
    }
    // In portions, so that the one peer's queue can hold the answers.
    for (portion, part) in sockets.chunks(500).enumerate() {
        for (at, (_, addr)) in part.iter().enumerate() {
            server.send_to(&pattern((portion * 500 + at) as u64, 300), addr)?;
        }
        let got = rig.turns(part.len(), |backend, index| {
            let socket = backend.datagram(index).socket;
            backend.forward(index, socket, None);
        })?;
        for datagram in &got {
            let place = sockets.iter().position(|(id, _)| *id == datagram.socket).ok_or("unknown socket")?;
            ensure_eq(&datagram.bytes, &pattern(place as u64, 300), "each socket has its own datagram")?;
        }
        let mut answers = 0;
        let mut buffer = [0; 400];
        while answers < part.len() {
            let (n, from) = server.recv_from(&mut buffer)?;
            let place = sockets.iter().position(|(_, addr)| *addr == from).ok_or("unknown port")?;
            ensure(buffer[..n] == pattern(place as u64, 300)[..], "answered on the same socket")?;
            answers += 1;
        }
    }
    for (id, _) in &sockets {
        rig.backend.remove(*id);
    }
    // Every slot becomes free again.
    let begun = Instant::now();
    let mut added = 0;
    while added < SOCKETS {
        ensure(begun.elapsed() < PATIENCE, &format!("only {added} slots became free"))?;
        rig.idle(Duration::from_millis(1))?;
        while rig.connected(server.local_addr()?).is_ok() {
            added += 1;
        }
    }
    Ok(())
}

pub fn buffer_exhaustion(variant: &Variant) -> Result<(), Failed> {
    const FLOOD: u64 = 2000;
    let limits = Limits { buffers: 64, gro_buffers: 32, linger_us_max: 0, ..Limits::default() };
    let mut rig = Rig::with(variant, limits)?;
    let (listener, addr) = rig.listener()?;
    let client = peer()?;
    for round in 0..2 {
        for seed in 0..FLOOD / 2 {
            client.send_to(&pattern(round * FLOOD + seed, 1316), addr)?;
        }
        let got = rig.turns(FLOOD as usize / 2, |_, _| {})?;
        for (seed, datagram) in got.iter().enumerate() {
            ensure_eq(datagram.socket, listener, "socket")?;
            ensure(datagram.bytes == pattern(round * FLOOD + seed as u64, 1316), "intact and in order")?;
        }
    }
    ensure(rig.backend.counters().rx_no_buffers > 0, "the flood was meant to exhaust the buffers")?;
    ensure_eq(rig.backend.counters().rx_datagrams, FLOOD, "nothing lost, nothing twice")?;
    rig.idle(Duration::from_millis(5))
}

pub fn kernel_drops_are_counted(variant: &Variant) -> Result<(), Failed> {
    [Role::Unconnected, Role::Listener].into_iter().try_for_each(|role| count_drops(variant, role))
}

fn count_drops(variant: &Variant, role: Role) -> Result<(), Failed> {
    let mut rig = Rig::new(variant)?;
    let socket = bind_udp(local(), &BindOptions { recv_buf: 20_000, ..BindOptions::default() })?;
    let addr = socket.local_addr()?;
    let client = peer()?;
    for seed in 0..200 {
        client.send_to(&pattern(seed, 1316), addr)?;
    }
    rig.backend.add(socket, role)?;
    let mut got = rig.turns(1, |_, _| {})?.len();
    loop {
        let n = rig.backend.receive(Some(Duration::from_millis(20)))?;
        rig.backend.flush();
        got += n;
        if n == 0 {
            break;
        }
    }
    ensure(got < 200, "a queue of 20 kB cannot hold 200 datagrams")?;
    std::thread::sleep(Duration::from_millis(100)); // of listeners it is looked at ten times a second
    client.send_to(b"one more", addr)?;
    rig.turns(1, |_, _| {})?;
    ensure_eq(rig.backend.counters().rx_kernel_drops, 200 - got as u64, "drops")
}

pub fn truncation(variant: &Variant) -> Result<(), Failed> {
    let mut rig = Rig::new(variant)?;
    let client = peer()?;
    let (connected, addr) = rig.connected(client.local_addr()?)?;
    let (_, listener_addr) = rig.listener()?;
    for to in [addr, listener_addr] {
        client.send_to(&pattern(1, 5000), to)?;
        client.send_to(&pattern(2, 1500), to)?;
    }
    // A listener that merges has room for 64 KB; everything else refuses what is longer than a buffer.
    let kept_long = usize::from(variant.gro == Gro::On);
    let got = rig.turns(2 + kept_long, |_, _| {})?;
    rig.idle(Duration::from_millis(5))?;
    for datagram in &got {
        let seed = if datagram.bytes.len() == 5000 { 1 } else { 2 };
        ensure(datagram.bytes == pattern(seed, datagram.bytes.len()), "never half a datagram")?;
        ensure(datagram.socket != connected || datagram.bytes.len() == 1500, "the long one was discarded")?;
    }
    ensure_eq(rig.backend.counters().rx_truncated, 2 - kept_long as u64, "truncated")
}

pub fn turn_limits(variant: &Variant) -> Result<(), Failed> {
    let limits = Limits { turn_sends: 10, turn_send_bytes: 4096, ..Limits::default() };
    let mut rig = Rig::with(variant, limits)?;
    let sink = peer()?;
    let (socket, _) = rig.connected(sink.local_addr()?)?;
    for round in 0..3 {
        rig.backend.receive(Some(Duration::ZERO))?;
        for seed in 0..12 {
            rig.backend.send(socket, None, &pattern(seed, 100)); // two too many
        }
        rig.backend.flush();
        rig.backend.receive(Some(Duration::ZERO))?;
        for seed in 0..5 {
            rig.backend.send(socket, None, &pattern(seed, 1300)); // three fit into the arena
        }
        rig.backend.flush();
        let mut buffer = [0; 2000];
        for (seed, len) in (0..10).map(|s| (s, 100)).chain((0..3).map(|s| (s, 1300))) {
            let n = sink.recv(&mut buffer)?;
            ensure(buffer[..n] == pattern(seed, len)[..], "what fits is sent, in order")?;
        }
        ensure_eq(rig.backend.counters().tx_no_room, 4 * (round + 1), "what does not fit is counted")?;
    }
    sink.set_nonblocking(true)?;
    ensure(sink.recv(&mut [0; 10]).is_err(), "and not sent")
}
