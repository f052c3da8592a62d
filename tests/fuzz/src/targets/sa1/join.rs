//! `Verifier::m3`: only what carries the one cookie ever issued, bound to the address it was issued to, with everything it
//! binds unchanged and in its time, is proven; whatever is challenged anew was signed.

use bondgate_auth::sa1::keys::Standing;
use bondgate_auth::sa1::receiver::{Joining, Unlimited};
use bondgate_auth::sa1::wire::Terms;

use super::{BOTH_MACS, GENUINE, HOME, Input, RANDOM, REFERENCE, addr, at, is_signed, keyring, receiver};

const ELSEWHERE: u8 = 4;
const CLOCKLESS: u8 = 8;
const EXPIRED: u8 = 16;
const LATE: u8 = 32;
const GROUP_LIVES: u8 = 64;
const VERY_LATE: u8 = 128;
const LABEL: &[u8] = b"SA1-M3";
/// What the cookie binds, in bytes of the packet: sender half but for message, time and gate tag; accepted flags; server
/// time, nonce and cookie itself.
const BOUND: [std::ops::Range<usize>; 6] = [2..8, 9..58, 74..130, 133..134, 138..162, 162..178];

pub fn run(data: &[u8]) {
    outcome(data);
}

pub fn outcome(data: &[u8]) -> &'static str {
    let Some(input) = Input::read(data, LABEL, &REFERENCE.to_receiver) else { return "empty" };
    let standing = if input.is(EXPIRED) { Standing::Expired } else { Standing::Retiring };
    let keys = keyring(standing, input.is(CLOCKLESS));
    let age_ms = u64::from(input.is(LATE)) * 30_001 + u64::from(input.is(VERY_LATE)) * 200_000;
    let now = at(20 + age_ms);
    let from = addr(if input.is(ELSEWHERE) { HOME + 1 } else { HOME });
    let mut receiver = receiver(true);
    let datagram = &input.datagram[..];
    match receiver.m3(datagram, from, now, &keys, &mut Unlimited, |_, _| input.is(GROUP_LIVES)) {
        Ok(Joining::Proven(join)) => {
            let packet = input.packet();
            assert!(is_signed(packet, LABEL, &REFERENCE.to_receiver), "proven without a MAC");
            assert!(age_ms == 0 && from == addr(HOME), "proven too late or elsewhere");
            GENUINE.with(|genuine| {
                for range in BOUND {
                    assert_eq!(
                        packet[range.clone()],
                        genuine.join.packet()[range],
                        "a cookie that was never issued"
                    );
                }
                if packet == genuine.join.packet() {
                    let m4 = join.confirm(3);
                    assert!(genuine.join.confirm(&genuine.credentials, &m4).is_ok());
                }
            });
            assert_eq!(join.confirm(3), join.confirm(3));
            "proven"
        }
        Ok(Joining::Rechallenge(hello, _)) => {
            let packet = input.packet();
            assert!(is_signed(packet, LABEL, &REFERENCE.to_receiver), "challenged without a MAC");
            let in_time = hello.claims().sender_time_ms.abs_diff(now.wall_ms) <= 90_000;
            assert!(in_time || input.is(CLOCKLESS) || input.is(GROUP_LIVES), "a stale join is answered");
            let m2 = receiver.challenge(&hello, now, &RANDOM, BOTH_MACS, Terms::default());
            assert_eq!((m2.len(), &m2[2..130]), (datagram.len(), &packet[2..130]));
            "rechallenge"
        }
        Err(rejected) => {
            if let Some(answer) = rejected.answer {
                assert!(answer.len() <= datagram.len(), "amplified");
                assert!(is_signed(input.packet(), LABEL, &REFERENCE.to_receiver), "answered without a MAC");
            }
            rejected.reason.as_str()
        }
    }
}
