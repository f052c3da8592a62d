//! What strangers and guests may try: floods, loops, reused socket IDs, costly reports. The endpoint is driven by
//! hand-made datagrams and a clock that stands still unless told otherwise.
#![allow(clippy::unwrap_used, reason = "a test that unwraps nothing fails, as it should")]

use bondgate_srt::packet::control::Control;
use bondgate_srt::packet::{
    ExtensionKind, ExtensionWriter, HandshakeKind, HandshakeRepr, HandshakeView, HsExtension, MAGIC, Packet,
    parse,
};
use bondgate_srt::{
    AcceptOptions, CloseReason, ConnId, ConnectOptions, Endpoint, EndpointConfig, Event, IncomingId, Seq,
};
use std::time::{Duration, Instant};

const REAL: u32 = 7;
const ATTACKER: u32 = 666;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn endpoint(config: EndpointConfig, now: Instant) -> Endpoint<u32> {
    Endpoint::new(config, [3; 16], 1, now)
}

/// A handshake packet to the listener; a CONCLUSION carries HSREQ.
fn handshake(kind: HandshakeKind, socket_id: u32, cookie: u32, isn: u32) -> Vec<u8> {
    let conclusion = kind == HandshakeKind::Conclusion;
    let repr = HandshakeRepr {
        version: if conclusion { 5 } else { 4 },
        encryption: 0,
        extension: if conclusion { 1 } else { 2 },
        isn: Seq::new(isn),
        mtu: 1500,
        flow_window: 8192,
        kind,
        socket_id,
        cookie,
        peer_ip: [0; 4],
    };
    let mut out = vec![0; 200];
    out[..4].copy_from_slice(&0x8000_0000_u32.to_be_bytes());
    let mut len = 16 + repr.emit(&mut out[16..]).unwrap();
    if conclusion {
        let mut extensions = ExtensionWriter::new(&mut out[len..]);
        let hs = HsExtension { version: 0x01_0501, flags: 0xBF, recv_delay_ms: 120, send_delay_ms: 120 };
        extensions.hs(ExtensionKind::HsReq, &hs).unwrap();
        len += extensions.finish();
    }
    out.truncate(len);
    out
}

/// Everything the endpoint wants to send.
fn drain(endpoint: &mut Endpoint<u32>, now: Instant) -> Vec<(u32, Vec<u8>)> {
    let mut buf = [0; 1500];
    std::iter::from_fn(|| {
        endpoint.poll_transmit(now, &mut buf).map(|transmit| (transmit.to, buf[..transmit.len].to_vec()))
    })
    .collect()
}

fn view(bytes: &[u8]) -> HandshakeRepr {
    *HandshakeView::parse(&bytes[16..]).unwrap().repr()
}

/// The cookie a peer gets for its INDUCTION.
fn cookie(endpoint: &mut Endpoint<u32>, now: Instant, peer: u32) -> u32 {
    endpoint.handle(now, peer, 0, &handshake(HandshakeKind::Induction, 1, 0, 1));
    let answers = drain(endpoint, now);
    let (_, answer) = answers.iter().find(|(to, _)| *to == peer).expect("an answer");
    view(answer).cookie
}

/// Accepts whoever comes; the connections it made and those that ended.
fn accept_all(endpoint: &mut Endpoint<u32>, now: Instant) -> (Vec<ConnId>, Vec<(ConnId, CloseReason)>) {
    let (mut accepted, mut closed) = (Vec::new(), Vec::new());
    while let Some(event) = endpoint.poll_event() {
        match event {
            Event::Incoming { id, .. } => accepted.extend(accept(endpoint, now, id)),
            Event::Closed { conn, reason } => closed.push((conn, reason)),
            _ => {}
        }
    }
    (accepted, closed)
}

fn accept(endpoint: &mut Endpoint<u32>, now: Instant, id: IncomingId) -> Option<ConnId> {
    endpoint.accept(now, id, AcceptOptions::default())
}

/// A whole handshake, and one keepalive so that the connection counts as alive.
fn guest(endpoint: &mut Endpoint<u32>, now: Instant, peer: u32, socket_id: u32, isn: u32) -> Option<ConnId> {
    let cookie = cookie(endpoint, now, peer);
    endpoint.handle(now, peer, 0, &handshake(HandshakeKind::Conclusion, socket_id, cookie, isn));
    let conn = accept_all(endpoint, now).0.first().copied()?;
    endpoint.handle(now, peer, 0, &keepalive(conn));
    Some(conn)
}

fn keepalive(conn: ConnId) -> Vec<u8> {
    let mut out = vec![0; 100];
    let len = Control::KeepAlive.emit(0, conn.socket_id(), &mut out).unwrap();
    out.truncate(len);
    out
}

#[test]
fn an_answer_is_never_answered() {
    let now = Instant::now();
    let mut listeners = [endpoint(EndpointConfig::default(), now), endpoint(EndpointConfig::default(), now)];
    // Forged: says it comes from the other listener, and names 0, the listener itself, as the caller.
    listeners[0].handle(now, 1, 0, &handshake(HandshakeKind::Induction, 0, 0, 1));
    let mut passed = 0;
    for round in 0..20 {
        let from = round % 2;
        for (_, bytes) in drain(&mut listeners[from], now) {
            passed += 1;
            listeners[1 - from].handle(now, from as u32, 0, &bytes);
        }
    }
    assert_eq!(passed, 0, "two listeners answer each other for ever");
    // The same with a number: what another listener answers is not a call.
    let mut answer = handshake(HandshakeKind::Induction, 5, 77, 1);
    answer[16 + 3] = 5;
    answer[16 + 6..16 + 8].copy_from_slice(&MAGIC.to_be_bytes());
    listeners[0].handle(now, 1, 0, &answer);
    assert!(drain(&mut listeners[0], now).is_empty());
}

#[test]
fn one_peer_cannot_fill_the_table_with_half_open_callers() {
    let start = Instant::now();
    let mut endpoint = endpoint(EndpointConfig { connections_max: 64, ..EndpointConfig::default() }, start);
    let cookie = cookie(&mut endpoint, start, ATTACKER);
    for socket_id in 1..1000 {
        endpoint.handle(start, ATTACKER, 0, &handshake(HandshakeKind::Conclusion, socket_id, cookie, 9));
        accept_all(&mut endpoint, start);
        drain(&mut endpoint, start);
    }
    assert!(endpoint.connections() <= 32, "{} of 64 slots", endpoint.connections());
    assert!(guest(&mut endpoint, start, REAL, 5, 100).is_some());
}

#[test]
fn half_open_callers_of_many_addresses_make_room() {
    let start = Instant::now();
    let mut endpoint = endpoint(EndpointConfig { connections_max: 64, ..EndpointConfig::default() }, start);
    let old = guest(&mut endpoint, start, REAL, 5, 100).unwrap();
    for peer in 1000..1100 {
        let cookie = cookie(&mut endpoint, start, peer);
        endpoint.handle(start, peer, 0, &handshake(HandshakeKind::Conclusion, 1, cookie, 9));
        accept_all(&mut endpoint, start);
    }
    assert!(endpoint.connections() <= 33, "{} of 64 slots", endpoint.connections());
    let now = start + ms(1500);
    let next = guest(&mut endpoint, now, REAL, 6, 100).expect("half-open connections make room");
    let closed: Vec<ConnId> = accept_all(&mut endpoint, now).1.into_iter().map(|(conn, _)| conn).collect();
    assert!(!closed.contains(&old) && !closed.contains(&next));
    assert!(endpoint.stats(old).is_some() && endpoint.stats(next).is_some());
}

#[test]
fn a_real_caller_is_served_in_a_flood_of_spoofed_handshakes() {
    let start = Instant::now();
    let mut listener = endpoint(EndpointConfig::default(), start);
    let mut caller = Endpoint::new(EndpointConfig::default(), [4; 16], 2, start);
    caller.connect(start, 0u32, ConnectOptions::default()).unwrap();
    let mut connected = [false; 2];
    // 50 spoofed packets a turn, 1 ms each: the real caller's packets lie somewhere among them.
    for turn in 0..2000u32 {
        let now = start + ms(u64::from(turn));
        caller.handle_timeout(now);
        let mut from_caller = drain(&mut caller, now);
        for i in 0..50 {
            let n = turn * 50 + i;
            let kind = if n % 2 == 0 { HandshakeKind::Induction } else { HandshakeKind::Conclusion };
            listener.handle(now, 10_000 + n, 0, &handshake(kind, n + 1, n.wrapping_mul(2_654_435_761), n));
            if i == 25 {
                for (_, bytes) in from_caller.drain(..) {
                    listener.handle(now, REAL, 0, &bytes);
                }
            }
        }
        listener.handle_timeout(now);
        connected[0] |= !accept_all(&mut listener, now).0.is_empty();
        for (to, bytes) in drain(&mut listener, now) {
            if to == REAL {
                caller.handle(now, 0, 0, &bytes);
            }
        }
        while let Some(event) = caller.poll_event() {
            assert!(!matches!(event, Event::Closed { .. }), "{event:?}");
            connected[1] |= matches!(event, Event::Connected { .. });
        }
    }
    assert_eq!(connected, [true; 2]);
    assert_eq!(listener.connections(), 1, "the flood holds nothing");
    assert!(listener.counters().dropped_bad_cookie > 49_000);
}

#[test]
fn the_same_socket_id_with_another_start_is_another_session() {
    let now = Instant::now();
    let mut endpoint = endpoint(EndpointConfig::default(), now);
    let old = guest(&mut endpoint, now, REAL, 1, 100).unwrap();
    drain(&mut endpoint, now);
    let new =
        guest(&mut endpoint, now, REAL, 1, 5000).expect("an encoder that starts again is a new session");
    assert_ne!(old, new);
    // What is left of the old session must not reach the new one, which has the same ID at the peer.
    let mut answers = drain(&mut endpoint, now);
    endpoint.close(now, old);
    let mut late = vec![0; 40];
    late[12..16].copy_from_slice(&old.socket_id().to_be_bytes());
    let later = now + ms(500);
    endpoint.handle(later, REAL, 0, &late);
    endpoint.handle_timeout(later);
    answers.extend(drain(&mut endpoint, later));
    let is_shutdown = |bytes: &[u8]| bytes[..2] == [0x80, 5];
    assert!(!answers.iter().any(|(_, bytes)| is_shutdown(bytes)), "the new session was told to end");
    let answer = answers.iter().find(|(_, bytes)| bytes[..2] == [0x80, 0]).expect("an answer");
    assert_eq!(view(&answer.1).isn, Seq::new(5000));
    // A repeat of the CONCLUSION finds the new one.
    let cookie = cookie(&mut endpoint, later, REAL);
    endpoint.handle(later, REAL, 0, &handshake(HandshakeKind::Conclusion, 1, cookie, 5000));
    assert!(accept_all(&mut endpoint, later).0.is_empty());
    assert!(endpoint.stats(new).is_some());
}

#[test]
fn the_same_handshake_again_is_a_repeat_at_first_and_a_new_session_later() {
    let start = Instant::now();
    let mut endpoint = endpoint(EndpointConfig::default(), start);
    let old = guest(&mut endpoint, start, REAL, 1, 100).unwrap();
    assert_eq!(guest(&mut endpoint, start + ms(1000), REAL, 1, 100), None);
    endpoint.handle(start + ms(3500), REAL, 0, &keepalive(old));
    let new =
        guest(&mut endpoint, start + ms(4000), REAL, 1, 100).expect("a device without randomness restarts");
    assert_ne!(old, new);
}

#[test]
fn a_loss_report_costs_no_more_than_the_send_buffer() {
    let now = Instant::now();
    let mut endpoint = endpoint(EndpointConfig::default(), now);
    let conn = guest(&mut endpoint, now, REAL, 1, 0).unwrap();
    for _ in 0..8192 {
        endpoint.send(now, conn, vec![1; 8].into()).unwrap();
    }
    drain(&mut endpoint, now);
    let mut nak = vec![0x80, 3, 0, 0];
    nak.extend([0; 8]);
    nak.extend(conn.socket_id().to_be_bytes());
    for _ in 0..182 {
        nak.extend([0x80, 0, 0, 0, 0, 0, 0x1F, 0xFF]);
    }
    let Ok(Packet::Control(_)) = parse(&nak) else { panic!("not a NAK") };
    endpoint.handle(now, REAL, 0, &nak);
    // Each number looked at is either queued or counted as asked for before.
    let looked_at = endpoint.stats(conn).unwrap().naks_deduplicated;
    assert!(looked_at <= 8192, "{looked_at} numbers looked at for one packet");
}
