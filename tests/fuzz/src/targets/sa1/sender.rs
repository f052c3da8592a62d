//! The sender's readers: `Hello::answer`, `Hello::refused`, `Join::answer`, `Join::confirm`, and `Short::parse` below them.
//! What is believed was signed for this hello or join and accepts what is required.

use bondgate_auth::sa1::sender::{Disbelief, Outcome};
use bondgate_auth::sa1::wire::{SHORT_LEN, Short};

use super::{BOTH_MACS, GENUINE, Genuine, Input, REFERENCE, RESIGN, is_signed, mac};

/// Whose answer it is to be read as.
const TO_JOIN: u8 = 4;
const LABEL: &[u8] = b"SA1-M2";

pub fn run(data: &[u8]) {
    outcome(data);
}

pub fn outcome(data: &[u8]) -> &'static str {
    let Some(mut input) = Input::read(data, LABEL, &REFERENCE.to_sender) else { return "empty" };
    GENUINE.with(|genuine| {
        let to_join = input.is(TO_JOIN);
        let sent = if to_join { genuine.join.packet() } else { genuine.hello.packet() };
        let asked_mac = &sent[226..];
        if input.is(RESIGN) && input.datagram.len() == SHORT_LEN {
            let tag = short_tag(&input.datagram, asked_mac);
            input.datagram[18..].copy_from_slice(&tag);
        }
        if let Ok((short, head, tag)) = Short::parse(&input.datagram) {
            let written = match short {
                Short::Confirmation(confirmation) => confirmation.head(),
                Short::Refusal(refusal) => refusal.head(),
            };
            assert_eq!(written, head, "read and written again");
            assert_eq!(input.datagram, [&head[..], &tag].concat());
        }
        let outcome = if to_join { join(genuine, &input) } else { hello(genuine, &input) };
        if matches!(outcome, "up" | "refused") {
            assert_eq!(short_tag(&input.datagram, asked_mac), input.datagram[18..], "believed without a MAC");
        }
        outcome
    })
}

/// The tag of a confirmation or refusal by its type.
fn short_tag(datagram: &[u8], asked_mac: &[u8]) -> [u8; 16] {
    let label: &[u8] = if datagram[1] == 0x02 { b"SA1-M4" } else { b"SA1-NK" };
    mac(&REFERENCE.to_sender, &[label, &datagram[..18], asked_mac])[..16].try_into().expect("16 of 32 bytes")
}

fn hello(genuine: &Genuine, input: &Input) -> &'static str {
    let Genuine { credentials, hello, .. } = genuine;
    match hello.answer(credentials, &input.datagram, 1) {
        Ok(join) => {
            let packet = input.packet();
            believed(packet, &[hello.packet()]);
            assert_eq!(join.packet()[130..194], packet[130..194], "the challenge goes back unchanged");
            assert!(is_signed(join.packet(), b"SA1-M3", &REFERENCE.to_receiver));
            "answered"
        }
        Err(why) => match hello.refused(credentials, &input.datagram) {
            Ok(_) => "refused",
            Err(Disbelief::Mac) => "mac",
            Err(_) => name(why),
        },
    }
}

fn join(genuine: &Genuine, input: &Input) -> &'static str {
    let Genuine { credentials, hello, join } = genuine;
    match join.answer(credentials, &input.datagram, 1) {
        Ok(answer) => {
            let packet = input.packet();
            believed(packet, &[hello.packet(), join.packet()]);
            let is_repeated = packet[146..162] == join.packet()[146..162];
            assert_eq!(answer.is_none(), is_repeated, "a challenge answered already");
            "believed"
        }
        Err(why) => match join.confirm(credentials, &input.datagram) {
            Ok(Outcome::Up(up)) => {
                assert_eq!((up.confirmation.link_id, up.accepted), (5, BOTH_MACS));
                "up"
            }
            Ok(Outcome::Refused(_)) => "refused",
            Err(Disbelief::Layout(_)) => name(why),
            Err(other) => name(other),
        },
    }
}

fn believed(packet: &[u8; 258], sent: &[&[u8; 258]]) {
    assert!(is_signed(packet, LABEL, &REFERENCE.to_sender), "believed without a MAC");
    assert!(sent.iter().any(|sent| sent[2..130] == packet[2..130]), "answers something else");
    assert_eq!(packet[133] & BOTH_MACS.bits(), BOTH_MACS.bits(), "downgraded");
}

fn name(why: Disbelief) -> &'static str {
    match why {
        Disbelief::Layout(_) => "layout",
        Disbelief::NotMine => "not_mine",
        Disbelief::Mac => "mac",
        Disbelief::Downgrade => "downgrade",
    }
}
