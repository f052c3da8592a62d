//! `Verifier::m1`: what is heard was signed and is what the layout says; what is answered was signed and draws no more than
//! it brought; what was heard once is not heard again.

use bondgate_auth::sa1::Flags;
use bondgate_auth::sa1::keys::Standing;
use bondgate_auth::sa1::receiver::{Reject, Unlimited};
use bondgate_auth::sa1::wire::{LayoutError, Terms, View};

use super::{GATE_EPOCH, Input, RANDOM, REFERENCE, addr, at, gate, gate_tag, is_signed, keyring, receiver};

const WITHOUT_GATE: u8 = 4;
const CLOCKLESS: u8 = 8;
const EXPIRED: u8 = 16;
const LATE: u8 = 32;
const LABEL: &[u8] = b"SA1-M1";

pub fn run(data: &[u8]) {
    outcome(data);
}

pub fn outcome(data: &[u8]) -> &'static str {
    let Some(input) = Input::read(data, LABEL, &REFERENCE.to_receiver) else { return "empty" };
    let standing = if input.is(EXPIRED) { Standing::Expired } else { Standing::Active };
    let keys = keyring(standing, input.is(CLOCKLESS));
    let now = at(if input.is(LATE) { 100_000 } else { 20 });
    let mut receiver = receiver(!input.is(WITHOUT_GATE));
    let (datagram, from) = (&input.datagram[..], addr(1));
    match receiver.m1(datagram, from, now, &keys, &mut Unlimited) {
        Ok(hello) => {
            let packet = input.packet();
            assert!(is_signed(packet, LABEL, &REFERENCE.to_receiver), "heard without a MAC");
            let claims = hello.claims();
            let mut written = claims.emit(&gate());
            if input.is(WITHOUT_GATE) {
                written[64..72].copy_from_slice(&packet[66..74]);
            } else {
                assert_eq!(
                    (claims.gate_epoch, gate_tag(packet)),
                    (GATE_EPOCH, packet[66..74].try_into().expect("8 bytes"))
                );
            }
            assert_eq!(written, packet[2..130], "read and written again");
            let m2 = receiver.challenge(&hello, now, &RANDOM, Flags::ACCEPTABLE, Terms::default());
            assert_eq!(m2[2..130], packet[2..130]);
            assert!(is_signed(&m2, b"SA1-M2", &REFERENCE.to_sender));
            let view = View::new(&m2).expect("258 bytes");
            let (_, challenge) = view.m2().expect("what is made can be read");
            assert!(
                claims.offered.contains(challenge.accepted) && Flags::ACCEPTABLE.contains(challenge.accepted)
            );
            assert_eq!(challenge.nonce.issued_ms(), now.boot_ms);
            let again =
                receiver.m1(datagram, from, now, &keys, &mut Unlimited).map(|_| ()).map_err(|r| r.reason);
            assert_eq!(again, Err(Reject::Replayed));
            "heard"
        }
        Err(rejected) => {
            if let Some(answer) = rejected.answer {
                assert!(answer.len() <= datagram.len(), "amplified");
                assert!(is_signed(input.packet(), LABEL, &REFERENCE.to_receiver), "answered without a MAC");
            } else {
                assert!(!matches!(rejected.reason, Reject::Clock | Reject::KeyExpired));
            }
            assert_ne!(rejected.reason, Reject::Replayed, "the first of its kind");
            assert_ne!(rejected.reason, Reject::Layout(LayoutError::Code), "registrations have no code");
            rejected.reason.as_str()
        }
    }
}
