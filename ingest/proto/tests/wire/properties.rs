//! Properties of the codec over arbitrary bytes and values.

use bondgate_proto::Seq;
use bondgate_proto::wire::{AckNumbers, Datagram, Keepalive, Packet, PacketType, Repr, Telemetry, classify};
use proptest::prelude::*;

/// Reads everything there is to read.
fn read_all(bytes: &[u8]) -> usize {
    match classify(bytes) {
        Datagram::SrtData(data) => {
            let fields =
                data.seq().get() ^ data.message_number() ^ data.timestamp_us() ^ data.dest_socket_id();
            data.payload().len() + usize::from(data.is_retransmitted()) + (fields & 1) as usize
        }
        Datagram::SrtControl(control) => {
            let naks = control.nak_ranges().map_or(0, |ranges| {
                assert!(ranges.clone().count() <= bytes.len() / 4);
                assert!(ranges.clone().numbers(100).count() <= 100);
                ranges.count()
            });
            let known = usize::from(control.ack().is_some()) + usize::from(control.handshake().is_some());
            control.body().len() + naks + known + (control.info() & 1) as usize
        }
        Datagram::Srtla(packet) => {
            let repr = Repr::parse(&packet);
            let acks = packet.ack_numbers().map_or(0, |numbers| numbers.iter().count());
            usize::from(repr.is_some()) + acks + usize::from(packet.keepalive().is_some())
        }
        Datagram::Runt => {
            assert!(bytes.len() < 16);
            0
        }
    }
}

#[test]
fn every_first_word_at_every_length() {
    let mut kinds = [0usize; 4];
    for word in 0..=0xFFFFu16 {
        let lengths: &[usize] = if word & 0xFF > 0x12 {
            &[0, 1, 2, 15, 16, 258]
        } else {
            &[0, 1, 2, 3, 4, 9, 10, 15, 16, 37, 38, 44, 63, 64, 257, 258, 300]
        };
        for &len in lengths {
            let mut bytes = vec![0xFF; len];
            for (place, byte) in bytes.iter_mut().zip(word.to_be_bytes()) {
                *place = byte;
            }
            read_all(&bytes);
            let kind = match classify(&bytes) {
                Datagram::SrtData(_) => 0,
                Datagram::SrtControl(_) => 1,
                Datagram::Srtla(_) => 2,
                Datagram::Runt => 3,
            };
            let expected = match (len, word) {
                (0 | 1, _) => 3,
                (_, 0x9000..) => 2,
                (..16, _) => 3,
                (_, ..0x8000) => 0,
                _ => 1,
            };
            assert_eq!(kind, expected, "{word:04x} {len}");
            kinds[kind] += 1;
        }
    }
    assert!(kinds.iter().all(|&count| count > 1000), "{kinds:?}");
    for word in [0u16, 0x7FFF, 0x8000, 0x8002, 0x8003, 0x9000, 0x9100, 0x9200, 0x9201, 0x9202, 0x9300, 0xFFFF]
    {
        for len in 0..=300 {
            for filler in [0x00, 0x01, 0x80, 0xFF] {
                let mut bytes = vec![filler; len];
                for (place, byte) in bytes.iter_mut().zip(word.to_be_bytes()) {
                    *place = byte;
                }
                read_all(&bytes);
            }
        }
    }
}

fn telemetry() -> impl Strategy<Value = Telemetry> {
    (any::<u32>(), any::<i32>(), any::<i32>(), any::<u32>(), any::<u32>(), any::<u32>()).prop_map(
        |(link_id, window, in_flight_packets, rtt_ms, nak_count, rate_bytes_per_s)| Telemetry {
            link_id,
            window,
            in_flight_packets,
            rtt_ms,
            nak_count,
            rate_bytes_per_s,
        },
    )
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), head in prop::option::of(0x8000u16..0x9400)) {
        let mut bytes = bytes;
        if let Some(head) = head {
            for (place, byte) in bytes.iter_mut().zip(head.to_be_bytes()) {
                *place = byte;
            }
        }
        read_all(&bytes);
    }

    /// What is written is read back, and writing needs exactly the stated length.
    #[test]
    fn emit_and_parse_are_inverse(
        numbers in prop::collection::vec(any::<u32>().prop_map(Seq::new), 0..50),
        id in prop::collection::vec(any::<u8>(), 256),
        timestamp_ms: u64,
        telemetry in telemetry(),
        which in 0usize..10,
    ) {
        let id: [u8; 256] = id.try_into().unwrap();
        let repr = [
            Repr::Keepalive(Keepalive::Plain),
            Repr::Keepalive(Keepalive::Timestamped { timestamp_ms }),
            Repr::Keepalive(Keepalive::Extended { timestamp_ms, telemetry }),
            Repr::Ack(AckNumbers::new(&numbers)),
            Repr::Reg1(&id),
            Repr::Reg2(&id),
            Repr::Reg3,
            Repr::RegErr,
            Repr::RegNgp,
            Repr::RegNak,
        ][which];
        let mut buf = [0xAA; 300];
        let bytes = repr.emit(&mut buf).unwrap().to_vec();
        prop_assert_eq!(bytes.len(), repr.buffer_len());
        prop_assert_eq!(Repr::parse(&Packet::new(&bytes).unwrap()), Some(repr));
        prop_assert_eq!(repr.emit(&mut buf[..bytes.len() - 1]), None);
    }

    #[test]
    fn type_words_are_inverse(word: u16) {
        match PacketType::from_word(word) {
            Some(kind) => prop_assert!(word >= 0x9000 && kind.word() == word),
            None => prop_assert!(word < 0x9000),
        }
    }
}
