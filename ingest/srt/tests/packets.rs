//! The codec: captured and hand-made vectors, round trips, and mutated packets into a live endpoint.
#![allow(clippy::unwrap_used, reason = "a test that unwraps nothing fails, as it should")]

mod support;

use bondgate_srt::packet::*;
use bondgate_srt::{AcceptOptions, ConnectOptions, EndpointConfig, Event, MsgNo, RejectReason, Seq};
use proptest::prelude::*;
use support::{ADDRESS, CALLER, LISTENER, Link, Sim, ms, numbered};

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default())
        .flat_map(|line| line.bytes().filter(u8::is_ascii_hexdigit))
        .map(|digit| (digit as char).to_digit(16).unwrap() as u8)
        .collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn control(bytes: &[u8]) -> ControlView<'_> {
    match parse(bytes).unwrap() {
        Packet::Control(view) => view,
        Packet::Data(_) => panic!("data"),
    }
}

fn handshake(bytes: &[u8]) -> HandshakeView<'_> {
    match control(bytes).control().unwrap() {
        Control::Handshake(view) => view,
        other => panic!("{other:?}"),
    }
}

/// Written by hand from the protocol's field list.
#[test]
fn data_packet() {
    let bytes = hex("7fffffff # sequence number 2^31 - 1
         f4000001 # solo, in order, odd key, retransmitted, message 1
         0000c350 # 50 ms
         2345678a # destination
         47 40 00 # payload");
    let Packet::Data(view) = parse(&bytes).unwrap() else { panic!("control") };
    let repr = DataRepr {
        seq: Seq::new(Seq::MAX),
        position: Position::Solo,
        ordered: true,
        key: KeyFlag::Odd,
        retransmitted: true,
        msg_no: MsgNo::new(1),
        timestamp: 50_000,
        dst: 0x2345_678A,
    };
    assert_eq!(view.repr(), repr);
    assert_eq!(view.payload(), [0x47, 0x40, 0]);
    let mut out = [0; 16];
    assert_eq!(repr.emit(&mut out), Some(16));
    assert_eq!(out, bytes[..16]);
    assert_eq!(repr.emit(&mut [0; 15]), None);
    assert_eq!(parse(&bytes[..15]).unwrap_err(), WireError::Truncated);
}

/// Captured from `srt-live-transmit` 1.5.1 calling another one over loopback, `latency=200` against 300.
#[test]
fn captured_handshake() {
    let induction = hex("80000000 00000000 000000a0 00000000 # handshake to socket 0
         00000004 00000002 333cf2f5 000005dc # version 4, UDT_DGRAM, ISN, MTU 1500
         00002000 00000001 1fdeb635 00000000 # window 8192, INDUCTION, caller's ID, no cookie
         0100007f 00000000 00000000 00000000 # 127.0.0.1");
    let view = handshake(&induction);
    let repr = HandshakeRepr {
        version: 4,
        encryption: 0,
        extension: 2,
        isn: Seq::new(0x333C_F2F5),
        mtu: 1500,
        flow_window: 8192,
        kind: HandshakeKind::Induction,
        socket_id: 0x1FDE_B635,
        cookie: 0,
        peer_ip: [0x0100_007F, 0, 0, 0],
    };
    assert_eq!(*view.repr(), repr);
    let mut out = [0; 128];
    assert_eq!(Control::Handshake(view).emit(0xA0, 0, &mut out), Some(64));
    assert_eq!(out[..64], induction);

    let answer = hex("80000000 00000000 0005fba5 1fdeb635 # to the caller
         00000005 00004a17 333cf2f5 000005dc # version 5, magic
         00002000 00000001 1fdeb635 0b977e7f # the caller's own ID again, cookie
         0100007f 00000000 00000000 00000000");
    let view = handshake(&answer);
    assert_eq!((view.repr().version, view.repr().extension, view.repr().cookie), (5, MAGIC, 0x0B97_7E7F));
    assert_eq!(view.repr().socket_id, repr.socket_id);

    let conclusion = hex("80000000 00000000 00000159 00000000
         00000005 00000005 333cf2f5 000005dc # HSREQ | CONFIG
         00002000 ffffffff 1fdeb635 0b977e7f # CONCLUSION
         0100007f 00000000 00000000 00000000
         00010003 00010501 000000bf 00c800c8 # HSREQ: 1.5.1, live flags, 200 ms both ways
         00050004 6576696c 6d61632f 782c312d 0000793d # stream ID live/cam-1,x=y");
    let view = handshake(&conclusion);
    assert_eq!(view.repr().kind, HandshakeKind::Conclusion);
    let extensions: Vec<_> = view.extensions().map(Result::unwrap).collect();
    assert_eq!(
        extensions.iter().map(|e| e.kind).collect::<Vec<_>>(),
        [ExtensionKind::HsReq, ExtensionKind::Sid]
    );
    let hs = HsExtension { version: 0x0001_0501, flags: 0xBF, recv_delay_ms: 200, send_delay_ms: 200 };
    assert_eq!(HsExtension::parse(extensions[0].contents), Ok(hs));
    let mut text = [0; 512];
    let len = extensions[1].text(&mut text).unwrap();
    assert_eq!(&text[..len], b"live/cam-1,x=y");
    let mut written = [0; 64];
    let mut writer = ExtensionWriter::new(&mut written);
    writer.hs(ExtensionKind::HsReq, &hs).unwrap();
    writer.text(ExtensionKind::Sid, b"live/cam-1,x=y").unwrap();
    assert_eq!(writer.finish(), 36);
    assert_eq!(written[..36], conclusion[64..]);
    assert_eq!(Control::Handshake(view).emit(0x159, 0, &mut out), Some(100));
    assert_eq!(out[..100], conclusion);

    let accepted = hex("80000000 00000000 00000154 1fdeb635
         00000005 00000001 333cf2f5 000005dc # HSRSP, the caller's ISN for both directions
         00002000 ffffffff 3cea255c 0b977e7f # the listener's new ID
         0100007f 00000000 00000000 00000000
         00020003 00010501 000000bf 012c012c # 300 ms: the larger of both");
    let view = handshake(&accepted);
    let extension = view.extensions().next().unwrap().unwrap();
    assert_eq!(extension.kind, ExtensionKind::HsRsp);
    assert_eq!(HsExtension::parse(extension.contents).unwrap().send_delay_ms, 300);
}

/// From the same capture.
#[test]
fn captured_control_packets() {
    let full_ack = hex("80020000 00000002 0007dd68 1fdeb635 # ACK number 2
         333cf309 00000029 00000014 00001feb # next, RTT 41 us, deviation 20 us, 8171 packets free
         000f4240 000003e8 2ba620ed          # rates");
    let Control::Ack { number: 2, ack } = control(&full_ack).control().unwrap() else { panic!() };
    assert_eq!(ack.next, Seq::new(0x333C_F309));
    assert_eq!(ack.timing, Some(AckTiming { rtt_us: 41, rtt_var_us: 20, buffer_free: 8171 }));
    let rates = AckRates { packets_per_s: 1_000_000, capacity_per_s: 1000, bytes_per_s: Some(0x2BA6_20ED) };
    assert_eq!(ack.rates, Some(rates));
    let mut out = [0; 64];
    assert_eq!(Control::Ack { number: 2, ack }.emit(0x7DD68, 0x1FDE_B635, &mut out), Some(44));
    assert_eq!(out[..44], full_ack);
    for (bytes, expected) in [
        ("80060000 00000002 0007df1a 3cea255c 00000000", "AckAck { number: 2 }"),
        ("80010000 00000000 001730c1 3cea255c 00000000", "KeepAlive"),
        ("80050000 00000000 002e4069 3cea255c 00000000", "Shutdown"),
    ] {
        let bytes = hex(bytes);
        let view = control(&bytes);
        let read = view.control().unwrap();
        assert_eq!(format!("{read:?}"), expected);
        assert_eq!(read.emit(view.timestamp(), view.dst(), &mut out), Some(20));
        assert_eq!(out[..20], bytes);
    }
}

/// Written by hand: bodies that are shorter or longer than libsrt's.
#[test]
fn control_bodies_by_length() {
    let light = hex("80020000 00000000 00000001 00000002 00000007");
    let Control::Ack { number: 0, ack } = control(&light).control().unwrap() else { panic!() };
    assert_eq!(ack, Ack { next: Seq::new(7), timing: None, rates: None });
    // The same, padded to 32 bytes as one bonding sender does.
    let padded = [light.clone(), vec![0; 12]].concat();
    assert!(matches!(control(&padded).control(), Ok(Control::Ack { ack, .. }) if ack.timing.is_none()));
    let small = hex("80020000 00000009 00000001 00000002 00000007 0000a000 00001000 00002000");
    let Control::Ack { number: 9, ack } = control(&small).control().unwrap() else { panic!() };
    let timing = AckTiming { rtt_us: 0xA000, rtt_var_us: 0x1000, buffer_free: 0x2000 };
    assert_eq!((ack.timing, ack.rates), (Some(timing), None));
    // SHUTDOWN in 16, 20 and 32 bytes.
    for len in [0, 4, 16] {
        let bytes = [hex("80050000 00000000 00000001 00000002"), vec![0; len]].concat();
        assert!(matches!(control(&bytes).control(), Ok(Control::Shutdown)));
    }
    let dropreq = hex("80070000 00000000 00000001 00000002 7ffffffe 00000003");
    let Control::DropReq { msg_no: 0, first, last } = control(&dropreq).control().unwrap() else { panic!() };
    assert_eq!(last.distance(first), 5);
    let backwards = hex("80070000 00000000 00000001 00000002 00000003 00000002");
    assert_eq!(control(&backwards).control().unwrap_err(), WireError::BadValue);
    for (bytes, error) in [
        ("80020000 00000000 00000000 00000000 0000", WireError::Truncated), // ACK without a position
        ("80030000 00000000 00000000 00000000", WireError::Truncated),      // NAK of nothing
        ("80070000 00000000 00000000 00000000 00000001", WireError::Truncated), // half a DROPREQ
        ("80000000 00000000 00000000 00000000 00000005", WireError::Truncated), // handshake cut short
    ] {
        assert_eq!(control(&hex(bytes)).control().unwrap_err(), error);
    }
    assert_eq!(parse(&hex("90000000 00000000 00000000 00000000")).unwrap_err(), WireError::UnknownControl);
}

#[test]
fn types_without_body_are_written_in_20_bytes() {
    let mut out = [0xFF; 64];
    for (control, first) in [
        (Control::KeepAlive, "80010000"),
        (Control::Shutdown, "80050000"),
        (Control::AckAck { number: 7 }, "80060000"),
    ] {
        assert_eq!(control.emit(1, 2, &mut out), Some(20));
        assert_eq!(out[..4], hex(first));
        assert_eq!(out[16..20], [0; 4]);
    }
    assert_eq!(Control::KeepAlive.emit(1, 2, &mut [0; 19]), None);
}

#[test]
fn stream_ids_are_reversed_within_words() {
    let mut out = [0; 64];
    let mut writer = ExtensionWriter::new(&mut out);
    writer.text(ExtensionKind::Sid, b"live/a").unwrap();
    let len = writer.finish();
    // "live" goes out as "evil", "/a" as zero zero "a/".
    assert_eq!(out[..len], hex("0005 0002 6576696c 0000612f"));
    assert_eq!(ExtensionWriter::new(&mut [0; 8]).text(ExtensionKind::Sid, b"live/a"), None);
    assert_eq!(ExtensionWriter::new(&mut [0; 1024]).text(ExtensionKind::Sid, &[b'x'; 513]), None);
}

/// Key material is opaque, but no length passes that libsrt would not write.
#[test]
fn key_material_lengths() {
    let km = |keys: u8, key_len: u8, len: usize| {
        let mut bytes = hex("12202901 00000000 02000200 00000404");
        bytes[3] = keys;
        bytes[15] = key_len / 4;
        bytes.resize(len, 7);
        bytes
    };
    for (keys, key_len, len) in
        [(1, 16, 56), (2, 24, 64), (1, 32, 72), (3, 16, 72), (3, 24, 88), (3, 32, 104)]
    {
        assert!(
            matches!(KmMessage::parse(&km(keys, key_len, len)), Ok(KmMessage::Keys(_))),
            "{keys} {key_len} {len}"
        );
        for wrong in [0, 12, 16, len - 4, len - 1, len + 1, len + 4, 108, 1352] {
            assert!(KmMessage::parse(&km(keys, key_len, wrong)).is_err(), "{wrong} instead of {len}");
        }
    }
    assert_eq!(KmMessage::parse(&[0, 0, 0, 4]), Ok(KmMessage::Status(4)));
    assert!(KmMessage::parse(&[0; 56]).is_err());
    assert!(KmMessage::parse(&km(0, 16, 56)).is_err());
}

/// A CONCLUSION with the given extension blocks, for the listener of `sim`.
fn conclusion(sim: &mut Sim, version: u32, socket_id: u32, extensions: &[u8]) -> Vec<u8> {
    conclusion_from(sim, ADDRESS[CALLER], version, socket_id, extensions)
}

fn conclusion_from(sim: &mut Sim, peer: u32, version: u32, socket_id: u32, extensions: &[u8]) -> Vec<u8> {
    let mut repr = HandshakeRepr {
        version: 4,
        encryption: 0,
        extension: 2,
        isn: Seq::new(5),
        mtu: 1500,
        flow_window: 8192,
        kind: HandshakeKind::Induction,
        socket_id,
        cookie: 0,
        peer_ip: [0; 4],
    };
    let mut packet = hex("80000000 00000000 00000000 00000000");
    packet.resize(64, 0);
    repr.emit(&mut packet[16..]).unwrap();
    let mut out = [0; 1500];
    sim.ends[LISTENER].handle(sim.now, peer, 0, &packet);
    let answer = sim.ends[LISTENER].poll_transmit(sim.now, &mut out).expect("answer to INDUCTION");
    let induction = *handshake(&out[..answer.len]).repr();
    assert_eq!(answer.len, 64, "no amplification");
    assert_eq!((induction.version, induction.extension), (5, MAGIC));
    assert_eq!(induction.socket_id, socket_id, "the caller's own ID comes back");
    assert_eq!(control(&out[..answer.len]).dst(), socket_id);
    repr.version = version;
    repr.kind = HandshakeKind::Conclusion;
    repr.cookie = induction.cookie;
    repr.emit(&mut packet[16..]).unwrap();
    packet.extend_from_slice(extensions);
    packet
}

/// What the listener answers to it: the handshake type and the events.
fn answer(sim: &mut Sim, packet: &[u8]) -> (Option<HandshakeKind>, Vec<Event<u32>>) {
    sim.ends[LISTENER].handle(sim.now, ADDRESS[CALLER], 0, packet);
    let mut out = [0; 1500];
    let kind = sim.ends[LISTENER]
        .poll_transmit(sim.now, &mut out)
        .map(|transmit| handshake(&out[..transmit.len]).repr().kind);
    let events = std::iter::from_fn(|| sim.ends[LISTENER].poll_event()).collect();
    (kind, events)
}

const HSREQ: &str = "0001 0003 00010501 000000bf 00780078";
const SID: &str = "0005 0002 6576696c 0000612f";

fn listener() -> Sim {
    Sim::new(1, &EndpointConfig::default(), Link::default())
}

#[test]
fn extensions_in_any_order_and_unknown_ones() {
    let unknown = "00f0 0001 deadbeef";
    let congestion = "0006 0001 6576696c";
    for (i, order) in [
        [HSREQ, SID, unknown, congestion],
        [congestion, unknown, SID, HSREQ],
        [SID, HSREQ, congestion, unknown],
    ]
    .into_iter()
    .enumerate()
    {
        let mut sim = listener();
        let packet = conclusion(&mut sim, 5, 77 + i as u32, &hex(&order.concat()));
        let (kind, events) = answer(&mut sim, &packet);
        assert_eq!(kind, None, "the application has not answered yet");
        let [Event::Incoming { stream_id, version, .. }] = &events[..] else { panic!("{events:?}") };
        assert_eq!((&stream_id[..], *version), (&b"live/a"[..], 0x0001_0501));
    }
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let km = "0003 000e 12202901 00000000 02000200 00000404".to_owned() + &"07".repeat(40);
    let cases = [
        (5, format!("{HSREQ}{km}"), RejectReason::UNSECURE),
        (5, format!("{HSREQ} 0008 0002 00000001 01000000"), RejectReason::GROUP),
        (5, format!("{HSREQ} 0007 0001 00636566"), RejectReason::FILTER),
        (5, format!("{HSREQ} 0006 0001 656c6966"), RejectReason::CONGESTION),
        (5, "0001 0003 00010501 000000ff 00780078".into(), RejectReason::MESSAGEAPI),
        (5, SID.into(), RejectReason::ROGUE),
        (5, String::new(), RejectReason::ROGUE),
        (5, format!("{HSREQ} 0005 0100 6576696c"), RejectReason::ROGUE), // reaches past the datagram
        (5, format!("{HSREQ} 0005 0081") + &"61".repeat(516), RejectReason::ROGUE), // 516 bytes of stream ID
        (5, "0001 0002 00010501 000000bf".into(), RejectReason::ROGUE),  // HSREQ cut short
        (4, String::new(), RejectReason::VERSION),
    ];
    for (version, extensions, reason) in cases {
        let mut sim = listener();
        let packet = conclusion(&mut sim, version, 9, &hex(&extensions));
        let (kind, events) = answer(&mut sim, &packet);
        assert_eq!(kind, Some(HandshakeKind::Reject(reason)), "{extensions}");
        assert!(
            matches!(&events[..], [Event::Refused { reason: told, .. }] if *told == reason),
            "{events:?}"
        );
        // The repeat is answered again and not told again.
        let (kind, events) = answer(&mut sim, &packet);
        assert_eq!((kind, events.len()), (Some(HandshakeKind::Reject(reason)), 0));
    }
}

#[test]
fn stream_ids_of_any_bytes() {
    for stream_id in
        [vec![0xFF; 512], (0..=255).rev().chain(1..=255).collect(), b"a+b%20c".to_vec(), Vec::new()]
    {
        let mut extensions = [0; 1024];
        let mut writer = ExtensionWriter::new(&mut extensions);
        writer.raw(ExtensionKind::HsReq, &hex("00010501 000000bf 00780078")).unwrap();
        writer.text(ExtensionKind::Sid, &stream_id).unwrap();
        let len = writer.finish();
        let mut sim = listener();
        let packet = conclusion(&mut sim, 5, 9, &extensions[..len]);
        let (_, events) = answer(&mut sim, &packet);
        let [Event::Incoming { stream_id: told, .. }] = &events[..] else { panic!("{events:?}") };
        assert_eq!(*told, stream_id);
    }
}

#[test]
fn without_a_good_cookie_nothing_is_kept() {
    let mut sim = listener();
    let mut packet = conclusion(&mut sim, 5, 9, &hex(HSREQ));
    packet[16 + 28] ^= 1;
    for _ in 0..1000 {
        assert!(matches!(answer(&mut sim, &packet), (None, events) if events.is_empty()));
    }
    packet[16 + 28] ^= 1;
    sim.ends[LISTENER].handle(sim.now, 4711, 0, &packet);
    assert!(sim.ends[LISTENER].poll_event().is_none(), "another peer's cookie");
    assert_eq!(sim.counters(LISTENER).dropped_bad_cookie, 1001);
    assert_eq!(answer(&mut sim, &packet).1.len(), 1, "and the real caller still gets in");
}

#[test]
fn one_caller_id_from_two_peers_makes_two_connections() {
    let mut sim = listener();
    let now = sim.now;
    let mut out = [0; 1500];
    let mut ids = Vec::new();
    for peer in [ADDRESS[CALLER], 555] {
        let packet = conclusion_from(&mut sim, peer, 5, 9, &hex(HSREQ));
        sim.ends[LISTENER].handle(now, peer, 0, &packet);
        let Some(Event::Incoming { id, peer: told, .. }) = sim.ends[LISTENER].poll_event() else { panic!() };
        assert_eq!(told, peer);
        ids.push(sim.ends[LISTENER].accept(now, id, AcceptOptions::default()).unwrap());
        assert!(matches!(sim.ends[LISTENER].poll_event(), Some(Event::Connected { .. })));
        let transmit = sim.ends[LISTENER].poll_transmit(now, &mut out).unwrap();
        assert_eq!(transmit.to, peer);
    }
    assert_ne!(ids[0], ids[1]);
    assert_eq!(sim.ends[LISTENER].connections(), 2);
    // Data for one of them from the other's address are not taken.
    let mut data = hex("00000005 c0000001 00000000 00000000 47");
    data[12..16].copy_from_slice(&ids[0].socket_id().to_be_bytes());
    sim.ends[LISTENER].handle(now, 555, 0, &data);
    assert_eq!(sim.counters(LISTENER).dropped_wrong_peer, 1);
}

#[test]
fn a_flood_of_proven_callers_is_bounded() {
    let mut sim = listener();
    let mut incoming = 0;
    for socket_id in 1..1000 {
        let packet = conclusion(&mut sim, 5, socket_id, &hex(HSREQ));
        incoming += answer(&mut sim, &packet).1.len();
    }
    assert_eq!(incoming, EndpointConfig::default().incoming_max / 2, "one peer cannot take the whole queue");
    // They expire, and then there is room again.
    sim.now += ms(7000);
    sim.ends[LISTENER].handle_timeout(sim.now);
    sim.now += ms(4000);
    sim.ends[LISTENER].handle_timeout(sim.now);
    let mut out = [0; 1500];
    while sim.ends[LISTENER].poll_transmit(sim.now, &mut out).is_some() {}
    while sim.ends[LISTENER].poll_event().is_some() {}
    let packet = conclusion(&mut sim, 5, 5000, &hex(HSREQ));
    assert_eq!(answer(&mut sim, &packet).1.len(), 1);
}

/// An established pair and some datagrams of its life, addressed to the listener.
fn living_pair() -> (Sim, Vec<Vec<u8>>) {
    let mut sim = Sim::new(
        1,
        &EndpointConfig { flow_window: 512, ..EndpointConfig::default() },
        Link { delay: ms(5), loss: 0.02, ..Link::default() },
    );
    let seen = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let sink = seen.clone();
    sim.filter = Some(Box::new(move |_, _, bytes| {
        sink.borrow_mut().push(bytes.to_vec());
        true
    }));
    let caller = sim.connect(ConnectOptions::default());
    sim.run(ms(600));
    let listener = sim.connected[LISTENER][0];
    for i in 0..50 {
        sim.send(CALLER, caller, numbered(i));
        sim.send(LISTENER, listener, numbered(i));
        sim.run(ms(5));
    }
    let mut packets = seen.borrow().clone();
    for packet in &mut packets {
        // To the listener's side of the connection, whatever it was, except handshakes.
        if packet[..2] != [0x80, 0] {
            packet[12..16].copy_from_slice(&listener.socket_id().to_be_bytes());
        }
    }
    for extra in [
        "80070000 00000000 00000000 00000000 00000000 7fffffff", // DROPREQ of everything
        "80030000 00000000 00000000 00000000 80000000 7fffffff", // NAK of everything
        "80020000 00000001 00000000 00000000 7fffffff 0000ffff 0000ffff 00000000", // ACK of the future
        "ffff0003 00000000 00000000 00000000 12202901",          // key material out of the blue
        "80080000 00000fa0 00000000 00000000 00000000",          // PEERERROR
    ] {
        let mut packet = hex(extra);
        packet[12..16].copy_from_slice(&listener.socket_id().to_be_bytes());
        packets.push(packet);
    }
    (sim, packets)
}

#[test]
fn mutated_packets_do_no_harm() {
    let (mut sim, packets) = living_pair();
    sim.filter = Some(Box::new(|_, _, _| false));
    let mut rng = fastrand::Rng::with_seed(99);
    let (mut data_max, mut consumed) = (0, 0);
    for round in 0..200_000u32 {
        let mut packet = packets[rng.usize(..packets.len())].clone();
        for _ in 0..rng.usize(0..4) {
            let at = rng.usize(..packet.len().min(96));
            // The destination is kept in most, or nothing would get in.
            if !(12..16).contains(&at) || rng.u8(..) < 8 {
                packet[at] = match rng.u8(..4) {
                    0 => rng.u8(..),
                    1 => 0xFF,
                    2 => 0,
                    _ => packet[at] ^ (1 << rng.u8(..8)),
                };
            }
        }
        if rng.u8(..) < 16 {
            packet.truncate(rng.usize(..=packet.len()));
        }
        sim.ends[LISTENER].handle(sim.now, ADDRESS[CALLER], rng.u8(..), &packet);
        if round % 8 == 0 {
            sim.now += ms(1);
            sim.pump();
            data_max = data_max.max(sim.data[LISTENER].len());
            sim.data[LISTENER].clear();
        }
        let gone = sim.ends[LISTENER].stats(sim.connected[LISTENER][0]).is_none();
        if gone || round % 20_000 == 19_999 {
            // A mutation may well be a SHUTDOWN, or a CONCLUSION that begins anew: start again.
            consumed += sim.counters(LISTENER).consumed;
            sim = living_pair().0;
            sim.filter = Some(Box::new(|_, _, _| false));
        }
    }
    assert!(consumed > 150_000, "only {consumed} got as far as a connection");
    assert!(data_max < 1024);
    // The endpoint still serves.
    let (mut fresh, _) = living_pair();
    std::mem::swap(&mut fresh.ends[LISTENER], &mut sim.ends[LISTENER]);
    fresh.filter = None;
    fresh.connected = [Vec::new(), Vec::new()];
    fresh.connect(ConnectOptions::default());
    fresh.run(ms(2000));
    assert_eq!(fresh.connected[LISTENER].len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes_are_parsed_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0u8..9) {
        let mut bytes = bytes;
        if bytes.len() >= 4 && bytes[3] & 1 == 0 {
            bytes[..4].copy_from_slice(&[0x80, kind, 0, 0]);
        }
        match parse(&bytes) {
            Err(_) => {}
            Ok(Packet::Data(view)) => prop_assert_eq!(view.payload().len(), bytes.len() - 16),
            Ok(Packet::Control(view)) => {
                if let Ok(control) = view.control() {
                    // What can be read can be written, and reads the same again.
                    let mut out = [0; 300];
                    let len = control.emit(view.timestamp(), view.dst(), &mut out).unwrap();
                    let again = self::control(&out[..len]).control().unwrap();
                    prop_assert_eq!(format!("{control:?}"), format!("{again:?}"));
                    if let Control::Handshake(handshake) = &control {
                        for extension in handshake.extensions().flatten() {
                            let _ = extension.text(&mut [0; 512]);
                            let _ = HsExtension::parse(extension.contents);
                            let _ = KmMessage::parse(extension.contents);
                        }
                    }
                    if let Control::Nak(list) = control {
                        prop_assert!(list.count() <= bytes.len() / 4);
                    }
                }
            }
        }
    }

    #[test]
    fn data_headers_survive_a_round_trip(words in any::<[u32; 4]>()) {
        let mut bytes = [0; 16];
        for (i, word) in words.iter().enumerate() {
            bytes[i * 4..i * 4 + 4].copy_from_slice(&word.to_be_bytes());
        }
        bytes[0] &= 0x7F;
        let Packet::Data(view) = parse(&bytes).unwrap() else { panic!("control") };
        let mut out = [0; 16];
        view.repr().emit(&mut out).unwrap();
        prop_assert_eq!(out, bytes);
    }
}
