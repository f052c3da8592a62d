//! Commented vectors. Provenance: layouts as spoken by the BELABOX, irlserver and CERALIVE programs and Moblin, written
//! down from their sources and from captures of the stock programs over loopback; SRT layouts from the SRT draft. The bytes
//! here were composed by hand from those layouts, not produced by this codec.

use bondgate_proto::Seq;
use bondgate_proto::wire::{
    AckKind, AckNumbers, ControlType, Datagram, HandshakeKind, Keepalive, NakRange, PacketType, Repr,
    Telemetry, classify, emit_ack, emit_reg, emit_short, emit_shutdown,
};

/// Bytes from hex; spaces separate fields, `#` starts a comment that ends with the line.
fn hex(text: &str) -> Vec<u8> {
    let digits: String =
        text.lines().map(|line| line.split('#').next().unwrap()).flat_map(str::split_whitespace).collect();
    assert!(digits.len().is_multiple_of(2));
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

fn srtla(bytes: &[u8]) -> bondgate_proto::wire::Packet<'_> {
    match classify(bytes) {
        Datagram::Srtla(packet) => packet,
        other => panic!("{other:?}"),
    }
}

fn emitted(repr: &Repr<'_>) -> Vec<u8> {
    let mut buf = [0xEE; 400];
    let len = repr.emit(&mut buf).unwrap().len();
    assert_eq!(len, repr.buffer_len());
    assert!(buf[len..].iter().all(|&byte| byte == 0xEE), "nothing is written behind the packet");
    buf[..len].to_vec()
}

#[test]
fn plain_keepalive() {
    let bytes = hex("9000 # KEEPALIVE, BELABOX and irlserver C++ senders, 2 bytes");
    assert_eq!(Repr::parse(&srtla(&bytes)), Some(Repr::Keepalive(Keepalive::Plain)));
    assert_eq!(emitted(&Repr::Keepalive(Keepalive::Plain)), bytes);
}

#[test]
fn timestamped_keepalive() {
    let bytes = hex("9000                # KEEPALIVE, Moblin, 10 bytes
         00000000 0001E240   # 123456 ms since the connection object was made");
    let repr = Repr::Keepalive(Keepalive::Timestamped { timestamp_ms: 123_456 });
    assert_eq!(Repr::parse(&srtla(&bytes)), Some(repr));
    assert_eq!(emitted(&repr), bytes);
}

#[test]
fn extended_keepalive() {
    let bytes = hex("9000                # KEEPALIVE, irlserver and CERALIVE Rust senders, 38 bytes
         00000000 0001E240   # 123456 ms
         C01F 0001           # magic, version
         00000003            # link 3
         00004E20            # window 20000
         FFFFFFFF            # in flight -1 (signed on the wire)
         0000002A            # RTT 42 ms
         00000007            # 7 NAKs
         0007A120            # 500000 bytes/s");
    assert_eq!(bytes.len(), 38);
    let telemetry = Telemetry {
        link_id: 3,
        window: 20_000,
        in_flight_packets: -1,
        rtt_ms: 42,
        nak_count: 7,
        rate_bytes_per_s: 500_000,
    };
    let repr = Repr::Keepalive(Keepalive::Extended { timestamp_ms: 123_456, telemetry });
    assert_eq!(Repr::parse(&srtla(&bytes)), Some(repr));
    assert_eq!(emitted(&repr), bytes);
    // Parsers ask for magic, version and length; otherwise only the timestamp counts.
    let timestamped = Some(Repr::Keepalive(Keepalive::Timestamped { timestamp_ms: 123_456 }));
    for spoil in [10, 11, 12, 13] {
        let mut bytes = bytes.clone();
        bytes[spoil] ^= 1;
        assert_eq!(Repr::parse(&srtla(&bytes)), timestamped);
    }
    assert_eq!(Repr::parse(&srtla(&bytes[..37])), timestamped);
    let mut longer = bytes.clone();
    longer.extend([0; 5]);
    assert_eq!(Repr::parse(&srtla(&longer)), Some(repr));
}

#[test]
fn a_keepalive_padded_with_zeros_has_timestamp_zero() {
    let mut bytes = hex("9000 # irlserver, OpenIRL and CERALIVE receivers pad to 32 bytes");
    bytes.resize(32, 0);
    assert_eq!(
        Repr::parse(&srtla(&bytes)),
        Some(Repr::Keepalive(Keepalive::Timestamped { timestamp_ms: 0 }))
    );
}

#[test]
fn srtla_ack_of_ten() {
    let bytes = hex("9100 0000           # SRTLA ACK, 16 zero bits
         00000064 00000065 00000066 00000067 00000068
         00000069 0000006A 0000006B 0000006A 7FFFFFFF # arrival order, copies allowed");
    assert_eq!(bytes.len(), 44);
    let numbers: Vec<Seq> = [100, 101, 102, 103, 104, 105, 106, 107, 106, 0x7FFF_FFFF].map(Seq::new).to_vec();
    let repr = Repr::Ack(AckNumbers::new(&numbers));
    assert_eq!(Repr::parse(&srtla(&bytes)), Some(repr));
    assert_eq!(emitted(&repr), bytes);
    assert_eq!(emitted(&Repr::parse(&srtla(&bytes)).unwrap()), bytes, "a parsed one can be written too");
    assert_eq!(emit_ack(&numbers, &mut [0; 43]), None);
}

#[test]
fn srtla_ack_of_any_length() {
    // OpenIRL's native receiver sends partial ones; BELABOX and Rust senders ignore a broken last word.
    assert_eq!(srtla(&hex("9100 0000")).ack_numbers().unwrap().len(), 0);
    let numbers = srtla(&hex("9100 0000 00000001 000000")).ack_numbers().unwrap().iter().collect::<Vec<_>>();
    assert_eq!(numbers, [Seq::new(1)]);
    assert!(srtla(&hex("9100 00")).ack_numbers().is_none());
}

#[test]
fn registration() {
    let mut id = [0x11; 256];
    id[128..].fill(0x22);
    for (head, kind) in [("9200", PacketType::Reg1), ("9201", PacketType::Reg2)] {
        let mut bytes = hex(head);
        bytes.extend(id);
        assert_eq!(bytes.len(), 258);
        let packet = srtla(&bytes);
        assert_eq!((packet.kind(), packet.group_id()), (kind, Some(&id)));
        assert_eq!(emit_reg(kind, &id, &mut [0; 300]), Some(&bytes[..]));
        assert_eq!(emitted(&Repr::parse(&packet).unwrap()), bytes);
        assert_eq!(emit_reg(kind, &id, &mut [0; 257]), None);
        // The length is exact: Moblin refuses 260, BELABOX reads garbage from 257.
        assert_eq!(srtla(&bytes[..257]).group_id(), None);
        bytes.push(0);
        assert_eq!(srtla(&bytes).group_id(), None);
    }
    assert_eq!(srtla(&[&hex("9202")[..], &id].concat()).group_id(), None);
}

#[test]
fn short_answers() {
    for (head, kind, repr) in [
        ("9202", PacketType::Reg3, Repr::Reg3),
        ("9210", PacketType::RegErr, Repr::RegErr),
        ("9211", PacketType::RegNgp, Repr::RegNgp),
        ("9212", PacketType::RegNak, Repr::RegNak),
    ] {
        let mut bytes = hex(head);
        assert_eq!(emitted(&repr), bytes);
        assert_eq!(Repr::parse(&srtla(&bytes)), Some(repr));
        bytes.resize(32, 0);
        assert_eq!(emit_short(kind, 32, &mut [0xEE; 32]), Some(&bytes[..]));
        assert_eq!(Repr::parse(&srtla(&bytes)), Some(repr), "padding does not matter");
        assert_eq!(emit_short(kind, 32, &mut [0; 31]), None);
    }
}

#[test]
fn types_only_recognised() {
    for (head, kind) in [
        ("9300", PacketType::Stats),
        ("A000", PacketType::CipRequest),
        ("A001", PacketType::CipResponse),
        ("9213", PacketType::Unknown(0x9213)),
        ("FFFF", PacketType::Unknown(0xFFFF)),
    ] {
        let bytes = hex(head);
        assert_eq!(srtla(&bytes).kind(), kind);
        assert_eq!(kind.word().to_be_bytes()[..], bytes);
        assert_eq!(Repr::parse(&srtla(&bytes)), None);
    }
}

#[test]
fn srt_data() {
    let bytes = hex("7FFFFFFE            # sequence number 2^31 - 2
         E4000005            # solo, no order, clear, retransmitted, message 5
         00001000            # 4096 us
         12345678            # to this socket
         47400000            # payload");
    let Datagram::SrtData(data) = classify(&bytes) else { panic!() };
    assert_eq!(data.seq(), Seq::new(0x7FFF_FFFE));
    assert_eq!((data.message_number(), data.is_retransmitted()), (5, true));
    assert_eq!((data.timestamp_us(), data.dest_socket_id()), (4096, 0x1234_5678));
    assert_eq!(data.payload(), &bytes[16..]);
    assert!(matches!(classify(&bytes[..15]), Datagram::Runt));
}

#[test]
fn srt_handshakes() {
    let induction = hex("8000 0000 00000000 00000000 00000000 # HANDSHAKE, to the listener
         00000004 0000 0002                   # version 4, no encryption, extension 2
         0000ABCD 000005DC 00002000           # ISN, MTU 1500, flow window 8192
         00000001                             # INDUCTION
         11223344 00000000                    # caller's socket, no cookie yet
         0100007F 00000000 00000000 00000000  # 127.0.0.1");
    assert_eq!(induction.len(), 64);
    let Datagram::SrtControl(control) = classify(&induction) else { panic!() };
    let handshake = control.handshake().unwrap();
    assert_eq!(control.dest_socket_id(), 0);
    assert_eq!((handshake.version, handshake.kind), (4, HandshakeKind::Induction));
    assert_eq!((handshake.socket_id, handshake.cookie), (0x1122_3344, 0));
    assert_eq!(handshake.initial_seq, Seq::new(0xABCD));
    for (word, kind) in [
        (0xFFFF_FFFFu32, HandshakeKind::Conclusion),
        (0xFFFF_FFFE, HandshakeKind::Agreement),
        (0, HandshakeKind::WaveAHand),
        (1010, HandshakeKind::Rejection(10)),
        (2401, HandshakeKind::Rejection(1401)),
        (2, HandshakeKind::Other(2)),
    ] {
        let mut bytes = induction.clone();
        bytes[36..40].copy_from_slice(&word.to_be_bytes());
        let Datagram::SrtControl(control) = classify(&bytes) else { panic!() };
        assert_eq!(control.handshake().unwrap().kind, kind);
    }
    let Datagram::SrtControl(short) = classify(&induction[..63]) else { panic!() };
    assert_eq!(short.handshake(), None);
}

#[test]
fn srt_acks() {
    let full = hex("8002 0000 00000009 00001000 11223344 # ACK number 9
         00000065                             # next expected 101
         000186A0 0000C350 00002000           # RTT, variance, buffer
         000003E8 000007D0 0016E360           # rates");
    for (len, number, kind) in [
        (44, 9, Some(AckKind::Full)),
        (60, 9, Some(AckKind::Full)),
        (32, 9, Some(AckKind::Small)),
        (20, 9, Some(AckKind::Light)),
        (19, 9, None),
        (16, 9, None),
    ] {
        let mut bytes = full.clone();
        bytes.resize(len, 0);
        let Datagram::SrtControl(control) = classify(&bytes) else { panic!() };
        assert_eq!(control.control_type(), ControlType::Ack);
        assert_eq!(control.ack().map(|ack| ack.kind), kind, "{len}");
        if let Some(ack) = control.ack() {
            assert_eq!((ack.number, ack.next_expected), (number, Seq::new(101)));
        }
    }
}

#[test]
fn srt_loss_lists() {
    let nak = |body: &str| [hex("8003 0000 00000000 00001000 11223344"), hex(body)].concat();
    let ranges = |bytes: &[u8]| -> Vec<(u32, u32)> {
        let Datagram::SrtControl(control) = classify(bytes) else { panic!() };
        let ranges = control.nak_ranges().unwrap();
        ranges.map(|NakRange { first, last }| (first.get(), last.get())).collect()
    };
    assert_eq!(ranges(&nak("00000005 80000007 00000009 0000000B")), [(5, 5), (7, 9), (11, 11)]);
    assert_eq!(ranges(&nak("FFFFFFFE 00000001")), [(0x7FFF_FFFE, 1)], "across the wrap");
    assert_eq!(ranges(&nak("80000009 00000007 00000003")), [(3, 3)], "a reversed range is skipped");
    assert_eq!(ranges(&nak("80000000 3FFFFFFF 00000003")), [(3, 3)], "an endless one too");
    assert_eq!(ranges(&nak("00000003 80000005")), [(3, 3)], "and one without its end");
    assert_eq!(ranges(&nak("00000003 0000")), [(3, 3)]);
    assert_eq!(ranges(&nak("")), []);
    let bytes = nak("80000000 00007FFF 00000003");
    let Datagram::SrtControl(control) = classify(&bytes) else { panic!() };
    let all = control.nak_ranges().unwrap();
    assert_eq!(all.clone().next().unwrap().count(), 32_768);
    let some: Vec<u32> = all.clone().numbers(5).map(Seq::get).collect();
    assert_eq!(some, [0, 1, 2, 3, 4]);
    assert_eq!(all.numbers(1 << 20).count(), 32_769);
}

#[test]
fn srt_shutdown() {
    let bytes = hex("8005 0000 00000000 00001000 11223344 # SHUTDOWN
         00000000                             # libsrt's four zero bytes");
    assert_eq!(emit_shutdown(0x1122_3344, 4096)[..], bytes);
    let Datagram::SrtControl(control) = classify(&bytes) else { panic!() };
    assert_eq!(control.control_type(), ControlType::Shutdown);
}

/// SRT's user-defined type lies in SRTLA's range; only the extension commands libsrt sends count as SRT.
#[test]
fn srt_key_refresh() {
    for subtype in 1..=4u8 {
        let mut bytes = vec![0xFF, 0xFF, 0, subtype];
        bytes.resize(16 + 56, 0);
        let Datagram::SrtControl(control) = classify(&bytes) else { panic!() };
        assert_eq!(control.control_type(), ControlType::UserDefined);
        assert!(matches!(classify(&bytes[..15]), Datagram::Srtla(_)));
    }
    for subtype in [0u8, 5, 0xFF] {
        let mut bytes = vec![0xFF, 0xFF, 0, subtype];
        bytes.resize(72, 0);
        assert!(matches!(classify(&bytes), Datagram::Srtla(_)));
    }
}
