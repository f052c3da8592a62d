//! The walk against one that is written as one would tell it, over slices that are cut off at the front.

use super::*;
use crate::abi::{LinkKey, v4_mapped};
use crate::testing::{Extension, FrameSpec, stock};
use proptest::prelude::*;
use std::vec::Vec;

type Found = Result<Datagram, NotUdp>;

fn walk(frame: &&[u8]) -> Found {
    match packet(frame)? {
        Packet::V4(at) => ipv4(frame, at),
        Packet::V6(at) => ipv6(frame, at),
    }
}

/// Cuts `n` bytes off the front.
fn cut<'a>(rest: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
    let (front, back) = rest.split_at_checked(n)?;
    *rest = back;
    Some(front)
}

fn number(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |number, byte| number << 8 | usize::from(*byte))
}

fn oracle(frame: &[u8]) -> Found {
    tell(frame).unwrap_or(Err(NotUdp::Malformed))
}

fn tell(frame: &[u8]) -> Option<Found> {
    let mut rest = frame;
    cut(&mut rest, 12)?;
    let mut tags = 0;
    let kind = loop {
        match number(cut(&mut rest, 2)?) {
            0x8100 | 0x88a8 if tags < 2 => {
                cut(&mut rest, 2)?;
                tags += 1;
            }
            kind => break kind,
        }
    };
    let packet = rest;
    let (source, ipv6, mut fragment, packet_len);
    match kind {
        0x0800 => {
            let header = cut(&mut rest, 20)?;
            let options = (usize::from(header[0] & 15) * 4).checked_sub(20)?;
            if header[0] >> 4 != 4 {
                return None;
            }
            if header[9] != 17 || number(&header[6..8]) & 0x1fff > 0 {
                return Some(Err(NotUdp::Other));
            }
            cut(&mut rest, options)?;
            source = v4_mapped([header[12], header[13], header[14], header[15]]);
            (ipv6, fragment, packet_len) = (false, header[6] & 0x20 != 0, number(&header[2..4]));
        }
        0x86dd => {
            if number(packet.get(..8)?) >> 60 != 6 {
                return None;
            }
            let header = cut(&mut rest, 40);
            // What is in a header that is cut short behind the source address does not matter any more.
            source = packet.get(8..24)?.try_into().ok()?;
            let (mut next, mut headers) = (packet[6], 0);
            (ipv6, fragment, packet_len) = (true, false, 40 + number(&packet[4..6]));
            while next != 17 {
                if ![0, 43, 44, 51, 60, 135, 139, 140].contains(&next) {
                    return Some(Err(NotUdp::Other));
                }
                if headers == 6 {
                    return Some(Err(NotUdp::ExtensionHeaders));
                }
                headers += 1;
                header?;
                let extension = rest.get(..4)?;
                let len = match next {
                    44 => 8,
                    51 => 8 + 4 * usize::from(extension[1]),
                    _ => 8 + 8 * usize::from(extension[1]),
                };
                if next == 44 {
                    if number(&extension[2..4]) >> 3 > 0 {
                        return Some(Err(NotUdp::Other));
                    }
                    fragment = true;
                }
                next = extension[0];
                // A header that ends behind the frame: whatever follows is read as missing.
                rest = rest.get(len..).unwrap_or(&[]);
            }
            header?;
        }
        _ => return Some(Err(NotUdp::Other)),
    }
    let before_udp = packet.len() - rest.len();
    let udp = cut(&mut rest, 8)?;
    let payload_len = if fragment {
        0
    } else {
        let len = number(&udp[4..6]);
        if before_udp + len > packet_len || packet_len > packet.len() {
            return None;
        }
        len.checked_sub(8)?
    };
    Some(Ok(Datagram {
        source: LinkKey::new(source, number(&udp[..2]) as u16, number(&udp[2..4]) as u16),
        ipv6,
        fragment,
        payload_at: frame.len() - rest.len(),
        payload_len,
    }))
}

fn extension() -> impl Strategy<Value = Extension> {
    let kinds = prop::sample::select(std::vec![0, 43, 44, 50, 51, 59, 60, 135, 139, 140, 17]);
    (kinds, prop_oneof![Just(0_u8), 0_u8..4, any::<u8>()]).prop_map(|(kind, len)| Extension { kind, len })
}

prop_compose! {
    fn frame()(
        v6: bool,
        vlans in prop::collection::vec(prop::sample::select(std::vec![0x8100_u16, 0x88a8, 0x9100]), 0..4),
        option_words in 0_u8..=10,
        extensions in prop::collection::vec(extension(), 0..9),
        fragment in prop::option::weighted(0.2, (prop_oneof![Just(0_u16), 0_u16..0x2000], any::<bool>())),
        payload_len in 0_usize..300,
        padding in 0_usize..20,
        changes in prop::collection::vec((0_usize..120, any::<u8>()), 0..3),
        cut in prop::option::weighted(0.3, 0_usize..400),
    ) -> Vec<u8> {
        let mut spec = FrameSpec::new(if v6 { "2001:db8::1" } else { "192.0.2.1" }, 5000, stock(0));
        spec.payload.resize(payload_len, 7);
        spec = FrameSpec { vlans, option_words, extensions, fragment, padding, ..spec };
        let mut frame = spec.build();
        for (at, value) in changes {
            if let Some(byte) = frame.get_mut(at) {
                *byte = value;
            }
        }
        frame.truncate(cut.unwrap_or(usize::MAX));
        frame
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn as_one_would_tell_it(frame in frame()) {
        prop_assert_eq!(walk(&&frame[..]), oracle(&frame));
    }

    #[test]
    fn no_bytes_are_too_odd(frame in prop::collection::vec(any::<u8>(), 0..100), kind in 0_usize..3) {
        let mut frame = frame;
        if frame.len() > 14 {
            frame[12..15].copy_from_slice(&[[0x08, 0x00, 0x45], [0x86, 0xdd, 0x60], [0x81, 0x00, 0x00]][kind]);
        }
        prop_assert_eq!(walk(&&frame[..]), oracle(&frame));
    }
}
