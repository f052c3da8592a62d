//! Receiving, sending, forwarding, errors, removal, waiting.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use bondgate_io::socket::{BindOptions, bind_udp};
use bondgate_io::{Backend, Limits, Role, SocketId};
use libtest_mimic::Failed;

use crate::rig::{PATIENCE, Rig, Variant, ensure, ensure_eq, local, pattern, peer};

pub fn echo(variant: &Variant) -> Result<(), Failed> {
    let mut rig = Rig::new(variant)?;
    let (listener, addr) = rig.listener()?;
    ensure_eq(rig.backend.local_addr(listener), Some(addr), "local address")?;
    let client = peer()?;
    for (round, len) in [0, 1, 16, 1316, 1472].into_iter().enumerate() {
        let payload = pattern(round as u64, len);
        client.send_to(&payload, addr)?;
        let got = rig.turns(1, |backend, index| {
            let from = backend.datagram(index).from;
            backend.forward(index, listener, Some(from));
        })?;
        ensure_eq(got[0].from, client.local_addr()?, "sender")?;
        ensure_eq(got[0].socket, listener, "socket")?;
        ensure_eq(&got[0].bytes, &payload, "payload")?;
        let mut buffer = [0; 2000];
        let (n, from) = client.recv_from(&mut buffer)?;
        ensure_eq(from, addr, "echoed from")?;
        ensure_eq(&buffer[..n], &payload[..], "echoed payload")?;
    }
    let counters = *rig.backend.counters();
    ensure_eq((counters.rx_datagrams, counters.tx_datagrams), (5, 5), "datagrams")?;
    ensure_eq((counters.rx_bytes, counters.tx_bytes), (2805, 2805), "bytes")
}

pub fn forward_does_not_copy(variant: &Variant) -> Result<(), Failed> {
    // The arena for copies is far smaller than what is forwarded in a turn.
    let mut rig = Rig::with(variant, Limits { turn_send_bytes: 2048, ..Limits::default() })?;
    let (_, addr) = rig.listener()?;
    let (sink, client) = (peer()?, peer()?);
    let (forwarder, forwarder_addr) = rig.connected(sink.local_addr()?)?;
    for seed in 0..100 {
        client.send_to(&pattern(seed, 1316), addr)?;
    }
    rig.turns(100, |backend, index| backend.forward(index, forwarder, None))?;
    let mut buffer = [0; 2000];
    for seed in 0..100 {
        let (n, from) = sink.recv_from(&mut buffer)?;
        ensure_eq(from, forwarder_addr, "forwarded from")?;
        ensure(buffer[..n] == pattern(seed, 1316)[..], "forwarded payload, in order")?;
    }
    ensure_eq(rig.backend.counters().tx_no_room, 0, "nothing needed the arena")
}

/// Runs of equal length are cut to another equal length, and still leave as segments; whole ones go beside them.
pub fn forward_first_cuts(variant: &Variant) -> Result<(), Failed> {
    let mut rig = Rig::with(variant, Limits { turn_send_bytes: 2048, ..Limits::default() })?;
    let (listener, addr) = rig.listener()?;
    let (sink, whole, client) = (peer()?, peer()?, peer()?);
    let (forwarder, _) = rig.connected(sink.local_addr()?)?;
    let whole_addr = whole.local_addr()?;
    let len = |seed: u64| if seed % 10 == 9 { 64 } else { 1352 };
    for seed in 0..100 {
        client.send_to(&pattern(seed, len(seed)), addr)?;
    }
    rig.turns(100, |backend, index| {
        let cut = backend.datagram(index).bytes.len() - 20;
        backend.forward_first(index, cut, forwarder, None);
        backend.forward_first(index, 5000, listener, Some(whole_addr));
    })?;
    let mut buffer = [0; 2000];
    for seed in 0..100 {
        let n = sink.recv(&mut buffer)?;
        ensure(buffer[..n] == pattern(seed, len(seed))[..len(seed) - 20], "cut, in order")?;
        let n = whole.recv(&mut buffer)?;
        ensure(buffer[..n] == pattern(seed, len(seed))[..], "whole, in order")?;
    }
    let counters = rig.backend.counters();
    ensure_eq(counters.tx_no_room, 0, "nothing needed the arena")?;
    ensure(counters.tx_gso_datagrams >= 100, "the cut ones are segmented like the others")
}

pub fn fan_out(variant: &Variant) -> Result<(), Failed> {
    let mut rig = Rig::new(variant)?;
    let (listener, addr) = rig.listener()?;
    let client = peer()?;
    let links = (0..6).map(|_| peer()).collect::<Result<Vec<_>, _>>()?;
    let sink = peer()?;
    let (forwarder, _) = rig.connected(sink.local_addr()?)?;
    let addrs = links.iter().map(UdpSocket::local_addr).collect::<Result<Vec<_>, _>>()?;
    for seed in 0..30 {
        client.send_to(&pattern(seed, 44 + seed as usize), addr)?;
    }
    rig.turns(30, |backend, index| {
        for &to in &addrs {
            backend.forward(index, listener, Some(to));
        }
        backend.forward(index, forwarder, None);
    })?;
    for link in links.iter().chain([&sink]) {
        let mut buffer = [0; 200];
        for seed in 0..30 {
            let n = link.recv(&mut buffer)?;
            ensure(
                buffer[..n] == pattern(seed, 44 + seed as usize)[..],
                "each destination gets all, in order",
            )?;
        }
    }
    ensure_eq(rig.backend.counters().tx_datagrams, 30 * 7, "copies sent")
}

pub fn both_address_families(variant: &Variant) -> Result<(), Failed> {
    let v6_any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
    let Ok(socket) = bind_udp(v6_any, &BindOptions::default()) else {
        // Only a machine without IPv6 may refuse; then there is nothing to test beyond the IPv4 of the other tests.
        return ensure(UdpSocket::bind("[::1]:0").is_err(), "IPv6 works, but not for a dual-stack socket");
    };
    let port = socket.local_addr()?.port();
    let mut rig = Rig::new(variant)?;
    let dual = rig.backend.add(socket, Role::Listener)?;
    let (v4_listener, v4_addr) = rig.listener()?;
    let v4 = peer()?;
    let v6 = UdpSocket::bind("[::1]:0")?;
    v6.set_read_timeout(Some(PATIENCE))?;
    v4.send_to(b"four", (Ipv4Addr::LOCALHOST, port))?;
    let got = rig.turns(1, |backend, index| {
        let from = backend.datagram(index).from;
        backend.forward(index, dual, Some(from)); // as the kernel reported it, v4-mapped
        let plain = SocketAddr::new(from.ip().to_canonical(), from.port());
        backend.send(dual, Some(plain), b"plain"); // the same address in its IPv4 spelling
    })?;
    ensure(
        matches!(got[0].from.ip(), IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some()),
        "reported v4-mapped",
    )?;
    v6.send_to(b"six", (Ipv6Addr::LOCALHOST, port))?;
    rig.turns(1, |backend, index| {
        let from = backend.datagram(index).from;
        backend.forward(index, dual, Some(from));
    })?;
    // A mapped address on an IPv4 socket.
    v4.send_to(b"again", v4_addr)?;
    rig.turns(1, |backend, index| {
        let from = backend.datagram(index).from;
        let IpAddr::V4(ip) = from.ip() else { return };
        backend.forward(index, v4_listener, Some(SocketAddr::from((ip.to_ipv6_mapped(), from.port()))));
    })?;
    let mut buffer = [0; 100];
    let mut v4_got = Vec::new();
    for _ in 0..3 {
        let n = v4.recv(&mut buffer)?;
        v4_got.push(buffer[..n].to_vec());
    }
    ensure_eq(v4_got, vec![b"four".to_vec(), b"plain".to_vec(), b"again".to_vec()], "IPv4 peer")?;
    let (n, from) = v6.recv_from(&mut buffer)?;
    ensure_eq(&buffer[..n], b"six", "IPv6 peer")?;
    ensure_eq(from, SocketAddr::from((Ipv6Addr::LOCALHOST, port)), "IPv6 peer's view")
}

pub fn refused_then_recovers(variant: &Variant) -> Result<(), Failed> {
    let mut rig = Rig::new(variant)?;
    let server = peer()?;
    let server_addr = server.local_addr()?;
    drop(server); // nobody listens there now
    let (forwarder, forwarder_addr) = rig.connected(server_addr)?;
    for round in 0..3 {
        rig.backend.receive(Some(Duration::ZERO))?;
        rig.backend.send(forwarder, None, b"anybody?");
        rig.backend.flush();
        let (socket, error) = rig.error()?;
        ensure_eq(socket, forwarder, "the socket that failed")?;
        ensure_eq(error.kind(), std::io::ErrorKind::ConnectionRefused, &format!("round {round}"))?;
    }
    let server = UdpSocket::bind(server_addr)?;
    server.set_read_timeout(Some(PATIENCE))?;
    rig.backend.receive(Some(Duration::ZERO))?;
    rig.backend.send(forwarder, None, b"hello");
    rig.backend.flush();
    let mut buffer = [0; 100];
    let (n, from) = server.recv_from(&mut buffer)?;
    ensure_eq(
        (&buffer[..n], from),
        (&b"hello"[..], forwarder_addr),
        "sent once the server is there, same port",
    )?;
    server.send_to(b"welcome", from)?;
    let got = rig.turns(1, |_, _| {})?;
    ensure_eq(&got[0].bytes[..], b"welcome", "received on the socket that had failed")?;
    // A pending error must not cost the next datagram: refuse, wait for the ICMP to arrive, then send to a live server.
    drop(server);
    rig.backend.receive(Some(Duration::ZERO))?;
    rig.backend.send(forwarder, None, b"lost");
    rig.backend.flush();
    let server = UdpSocket::bind(server_addr)?;
    server.set_read_timeout(Some(PATIENCE))?;
    rig.backend.send(forwarder, None, b"not lost");
    rig.backend.flush();
    let n = server.recv(&mut buffer)?;
    ensure_eq(&buffer[..n], b"not lost", "the datagram after the refused one")?;
    ensure_eq(rig.error()?.0, forwarder, "the refusal is reported")
}

pub fn removed_slot_is_reused_cleanly(variant: &Variant) -> Result<(), Failed> {
    let mut rig = Rig::with(variant, Limits { sockets: 2, ..Limits::default() })?;
    let client = peer()?;
    let (keeper, keeper_addr) = rig.listener()?;
    let mut old = Vec::new();
    for round in 0..100_u64 {
        let (id, addr) = rig.listener()?;
        ensure(!old.contains(&id), "a name is not used twice in a row")?;
        let refused = rig.listener().err().map(|e| e.kind());
        ensure_eq(refused, Some(std::io::ErrorKind::QuotaExceeded), "the table is full")?;
        client.send_to(&pattern(round, 100), addr)?;
        let got = rig.turns(1, |_, _| {})?;
        ensure_eq((got[0].socket, &got[0].bytes), (id, &pattern(round, 100)), "first datagram")?;
        // These arrive while the socket is being removed; some are already completed, none may be delivered.
        for _ in 0..5 {
            client.send_to(b"too late", addr)?;
        }
        rig.backend.remove(id);
        rig.backend.remove(id);
        ensure_eq(rig.backend.local_addr(id), None, "a removed socket has no address")?;
        rig.backend.send(id, Some(client.local_addr()?), b"no");
        client.send_to(b"keeper", keeper_addr)?;
        let got = rig.turns(1, |_, _| {})?;
        ensure_eq((got[0].socket, &got[0].bytes[..]), (keeper, &b"keeper"[..]), "only the keeper receives")?;
        // The port and the slot become free within a few turns.
        let deadline = Instant::now() + PATIENCE;
        let again = loop {
            match UdpSocket::bind(addr) {
                Ok(again) => break again,
                Err(e) if Instant::now() > deadline => return Err(format!("port stays in use: {e}").into()),
                Err(_) => rig.idle(Duration::from_millis(1))?,
            }
        };
        drop(again);
        old.push(id);
    }
    ensure_eq(rig.backend.counters().tx_no_socket, 100, "sends to removed sockets")?;
    ensure_eq(rig.backend.counters().rx_datagrams, 200, "datagrams delivered")
}

pub fn removal_keeps_what_was_queued(variant: &Variant) -> Result<(), Failed> {
    let mut rig = Rig::new(variant)?;
    let (listener, addr) = rig.listener()?;
    let (client, sink) = (peer()?, peer()?);
    let (forwarder, _) = rig.connected(sink.local_addr()?)?;
    client.send_to(b"last words", addr)?;
    rig.turns(1, |backend, index| {
        backend.forward(index, forwarder, None);
        backend.remove(forwarder);
        backend.remove(listener);
        assert_eq!(backend.datagram(index).bytes, b"last words");
    })?;
    let mut buffer = [0; 100];
    let n = sink.recv(&mut buffer)?;
    ensure_eq(&buffer[..n], b"last words", "sent although removed")?;
    client.send_to(b"nobody", addr)?;
    rig.idle(Duration::from_millis(20))
}

pub fn waker(variant: &Variant) -> Result<(), Failed> {
    let mut rig = Rig::new(variant)?;
    let _listener = rig.listener()?;
    let waker = rig.backend.waker();
    // Before: the next receive returns at once, the one after does not.
    waker.wake();
    waker.wake();
    let begun = Instant::now();
    rig.backend.receive(Some(PATIENCE))?;
    ensure(begun.elapsed() < PATIENCE / 2, "a wake-up before the wait ends it")?;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(30) {
        rig.backend.receive(Some(Duration::from_millis(30)))?;
    }
    let wakes = rig.backend.counters().wakes;
    ensure_eq(wakes, 1, "two wake-ups before a wait count once")?;
    for round in 2..12 {
        let waker = waker.clone();
        let thread = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(3));
            waker.wake();
        });
        let begun = Instant::now();
        while rig.backend.counters().wakes < round {
            ensure(begun.elapsed() < PATIENCE, "woken by another thread")?;
            rig.backend.receive(None)?; // would hang if the wake-up were lost
        }
        thread.join().map_err(|_| "waker thread")?;
    }
    Ok(())
}

pub fn timeout(variant: &Variant) -> Result<(), Failed> {
    let mut rig = Rig::new(variant)?;
    let _listener = rig.listener()?;
    for timeout in [Duration::from_micros(300), Duration::from_millis(5), Duration::from_millis(40)] {
        // The end of another test's ring interrupts waiting threads, so a single early return proves nothing.
        let mut waited = Duration::ZERO;
        for _ in 0..5 {
            let begun = Instant::now();
            ensure_eq(rig.backend.receive(Some(timeout))?, 0, "nothing came")?;
            waited = begun.elapsed();
            rig.backend.flush();
            if waited >= timeout {
                break;
            }
        }
        ensure(waited >= timeout, &format!("waited {waited:?} of {timeout:?}"))?;
    }
    let begun = Instant::now();
    for _ in 0..100 {
        ensure_eq(rig.backend.receive(Some(Duration::ZERO))?, 0, "nothing came")?;
        rig.backend.flush();
    }
    ensure(begun.elapsed() < PATIENCE / 2, "a zero timeout does not wait")
}

pub fn opened_here_used_there(variant: &Variant) -> Result<(), Failed> {
    let mut rig = Rig::new(variant)?;
    let (_, addr) = rig.listener()?;
    let client = bind_udp(local(), &BindOptions::default())?;
    let thread = std::thread::spawn(move || {
        client.send_to(b"across", addr).map_err(|e| e.to_string())?;
        rig.turns(1, |_, _| {}).map(|got| got[0].bytes.clone()).map_err(|_| "nothing came".to_owned())
    });
    let got = thread.join().map_err(|_| "thread")??;
    ensure_eq(&got[..], b"across", "received by another thread than opened it")
}

/// A restarted process finds its port free at once.
pub fn restart_binds_at_once(variant: &Variant) -> Result<(), Failed> {
    let mut addr = local();
    for round in 0..20_u64 {
        let mut rig = Rig::new(variant)?;
        let socket = UdpSocket::bind(addr).map_err(|e| format!("round {round}: {e}"))?;
        addr = socket.local_addr()?;
        rig.backend.add(socket, Role::Listener)?;
        let client = peer()?;
        client.send_to(&pattern(round, 50), addr)?;
        let got = rig.turns(1, |_, _| {})?;
        ensure_eq(&got[0].bytes, &pattern(round, 50), "received")?;
    }
    Ok(())
}

/// Sockets come and go at random among traffic; every datagram must belong to the socket it is reported for.
pub fn random_life(variant: &Variant) -> Result<(), Failed> {
    const SOCKETS: usize = 8;
    let mut rig =
        Rig::with(variant, Limits { sockets: SOCKETS, buffers: 64, gro_buffers: 16, ..Limits::default() })?;
    let client = peer()?;
    let mut alive: Vec<(SocketId, SocketAddr, u64)> = Vec::new();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let mut identity = 0_u64;
    let (mut sent, mut got) = (0, 0);
    for _ in 0..4000 {
        match random(10) {
            0 if alive.len() < SOCKETS => {
                let added = if random(2) == 0 { rig.listener() } else { rig.connected(client.local_addr()?) };
                // A slot may still be waiting for the end of its last receive.
                if let Ok((id, addr)) = added {
                    identity += 1;
                    alive.push((id, addr, identity));
                }
            }
            1 if alive.len() > 2 => {
                let (id, addr, _) = alive.swap_remove(random(alive.len()));
                client.send_to(&u64::MAX.to_be_bytes(), addr)?; // must not come out anywhere
                rig.backend.remove(id);
            }
            2..=6 if !alive.is_empty() => {
                for _ in 0..random(20) {
                    let (_, addr, identity) = alive[random(alive.len())];
                    client.send_to(&identity.to_be_bytes(), addr)?;
                    sent += 1;
                }
            }
            _ => {
                let n = rig.backend.receive(Some(Duration::from_micros(100)))?;
                for index in 0..n {
                    let datagram = rig.backend.datagram(index);
                    let identity = alive.iter().find(|(id, ..)| *id == datagram.socket).map(|(_, _, i)| *i);
                    // A datagram that was received before its socket was removed belongs to nobody now.
                    if let Some(identity) = identity {
                        ensure_eq(
                            datagram.bytes,
                            &identity.to_be_bytes()[..],
                            "delivered to its own socket",
                        )?;
                        got += 1;
                    }
                }
                rig.backend.flush();
            }
        }
    }
    ensure(identity > 100 && got > sent / 2, &format!("{identity} sockets, {got} of {sent} datagrams"))
}
