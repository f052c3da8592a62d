//! `DataOpener::open` under a script: genuine trailers with any counter on SRT packets of any length, replays, bent ones and raw
//! bytes, against the set of all counters that were taken.

use std::collections::BTreeSet;

use bondgate_auth::sa1::data::{DataOpener, DataSealer};
use bondgate_auth::sa1::trailer::{TRAILER_LEN, TrailerError};
use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use super::super::script::Script;
use super::{joined, mac};

/// Counters behind the highest that are still taken.
const WINDOW: u64 = 1024;

struct World {
    open: DataOpener,
    /// What the peer would seal with; its trailers are for the other direction.
    wrong_way: DataSealer,
    reference: LessSafeKey,
    taken: BTreeSet<u32>,
    last: Vec<u8>,
}

pub fn run(data: &[u8]) {
    let mut world = World::new();
    let mut script = Script::new(data);
    let mut counter = 0_u32;
    while let Some(op) = script.op() {
        let packet = vec![op; [16, 20, 44, 1332, 1452][usize::from(op >> 3) % 5]];
        match op & 7 {
            0 => counter = script.u32(),
            1 => counter = counter.wrapping_add(u32::from(script.u8())),
            2 => counter = counter.wrapping_sub(u32::from(script.u8())),
            3 => {
                counter = counter.wrapping_add(1);
                world.genuine(&packet, counter);
            }
            4 => world.genuine(&packet, counter.wrapping_sub(5 * u32::from(script.u8()))),
            5 => {
                let mut bent = world.last.clone();
                let (at, by) = (usize::from(script.u8()) * 6, script.u8());
                if let Some(byte) = bent.get_mut(at) {
                    *byte ^= by;
                    if by != 0 {
                        world.forged(&bent);
                    }
                }
            }
            6 => world.forged(script.bytes(80)),
            _ => {
                let mut sealed = [&packet[..], &[0; TRAILER_LEN]].concat();
                assert!(world.wrong_way.seal(&mut sealed), "{} bytes", packet.len());
                world.forged(&sealed);
            }
        }
    }
}

impl World {
    fn new() -> Self {
        let (keys, direction) = joined();
        let (wrong_way, open) = keys.receiver_data_ends();
        let data = mac(&direction, &[b"SA1-D"]);
        let reference = UnboundKey::new(&AES_128_GCM, &data[..16]).expect("sixteen bytes");
        let reference = LessSafeKey::new(reference);
        Self { open, wrong_way, reference, taken: BTreeSet::new(), last: Vec::new() }
    }

    fn genuine(&mut self, packet: &[u8], counter: u32) {
        let counted = [packet, &counter.to_be_bytes()].concat();
        let mut nonce = [0; 12];
        nonce[8..].copy_from_slice(&counter.to_be_bytes());
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self.reference.seal_in_place_separate_tag(nonce, Aad::from(&counted), &mut []);
        self.last = [&counted[..], tag.expect("short enough").as_ref()].concat();
        let is_fresh = !self.taken.contains(&counter)
            && self.taken.last().is_none_or(|top| u64::from(counter) + WINDOW > u64::from(*top));
        let expected = if is_fresh { Ok(packet) } else { Err(TrailerError::Replayed) };
        assert_eq!(self.open.open(&self.last), expected, "counter {counter}, taken {:?}", self.taken);
        if is_fresh {
            self.taken.insert(counter);
        }
    }

    fn forged(&mut self, bytes: &[u8]) {
        assert!(self.open.open(bytes).is_err(), "a forged trailer is taken: {bytes:02x?}");
    }
}
