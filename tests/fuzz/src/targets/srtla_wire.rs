//! The SRTLA codec: whatever parses can be written, and reads the same again; the SRT views answer for any bytes.

use bondgate_proto::wire::{self, Datagram, Repr, classify};

pub fn run(data: &[u8]) {
    match classify(data) {
        Datagram::Runt => assert!(data.len() < 16),
        Datagram::SrtData(view) => {
            assert!(data.len() >= 16 && data[0] & 0x80 == 0);
            assert_eq!(view.payload().len(), data.len() - 16);
            let _ = (
                view.seq(),
                view.message_number(),
                view.is_retransmitted(),
                view.timestamp_us(),
                view.dest_socket_id(),
            );
        }
        Datagram::SrtControl(view) => {
            assert!(data.len() >= 16 && data[0] & 0x80 != 0);
            let _ =
                (view.control_type(), view.info(), view.timestamp_us(), view.dest_socket_id(), view.body());
            let _ = (view.handshake(), view.ack());
            if let Some(ranges) = view.nak_ranges() {
                // A budget keeps a hostile range of 2^31 numbers from costing more than it says.
                assert!(ranges.numbers(1000).count() <= 1000);
            }
        }
        Datagram::Srtla(packet) => {
            assert!(data.len() >= 2 && u16::from_be_bytes([data[0], data[1]]) >= 0x9000);
            let _ = (packet.group_id(), packet.ack_numbers(), packet.keepalive());
            if let Some(repr) = Repr::parse(&packet) {
                let mut buf = [0; 4096];
                let written = repr.emit(&mut buf).expect("the buffer is larger than any input");
                assert_eq!(written.len(), repr.buffer_len());
                let Datagram::Srtla(again) = classify(written) else {
                    panic!("{repr:?} was written as something else")
                };
                assert_eq!(Repr::parse(&again), Some(repr));
                let mut short = [0; wire::REG_LEN];
                assert_eq!(repr.emit(&mut short).is_some(), repr.buffer_len() <= short.len());
            }
        }
    }
}
