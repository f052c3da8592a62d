//! `Opener::open` under a script: genuine trailers with any counter, replays, bent ones and raw bytes, against the set of
//! all counters that were taken.

use std::collections::BTreeSet;

use bondgate_auth::sa1::trailer::{Opener, Sealer, TrailerError};
use ring::hmac;

use super::super::script::Script;
use super::{joined, mac};

struct World {
    open: Opener,
    /// What the peer would seal with; its trailers are for the other direction.
    wrong_way: Sealer,
    reference: hmac::Key,
    taken: BTreeSet<u32>,
    last: Vec<u8>,
}

pub fn run(data: &[u8]) {
    let mut world = World::new();
    let mut script = Script::new(data);
    let mut counter = 0_u32;
    while let Some(op) = script.op() {
        let len = [10, 38, 44, 8, 24][usize::from(op >> 3) % 5];
        let packet = packet(len, op);
        match op & 7 {
            0 => counter = script.u32(),
            1 => counter = counter.wrapping_add(u32::from(script.u8())),
            2 => counter = counter.wrapping_sub(u32::from(script.u8())),
            3 => {
                counter = counter.wrapping_add(1);
                world.genuine(&packet, counter);
            }
            4 => world.genuine(&packet, counter.wrapping_sub(u32::from(script.u8() % 80))),
            5 => {
                let mut bent = world.last.clone();
                let (at, by) = (usize::from(script.u8()), script.u8());
                if let Some(byte) = bent.get_mut(at) {
                    *byte ^= by;
                    if by != 0 {
                        world.forged(&bent);
                    }
                }
            }
            6 => world.forged(script.bytes(80)),
            _ => {
                let Some((sealed, len)) = world.wrong_way.seal(&packet) else { return };
                world.forged(&sealed[..len]);
            }
        }
    }
}

fn packet(len: usize, fill: u8) -> Vec<u8> {
    let mut packet = vec![fill; len];
    packet[..2].copy_from_slice(if matches!(len, 10 | 38) { &[0x90, 0] } else { &[0x91, 0] });
    packet
}

impl World {
    fn new() -> Self {
        let (keys, reference) = joined();
        let (_, open) = keys.receiver_ends();
        let (wrong_way, _) = keys.receiver_ends();
        Self { open, wrong_way, reference, taken: BTreeSet::new(), last: Vec::new() }
    }

    fn genuine(&mut self, packet: &[u8], counter: u32) {
        let counted = [packet, &counter.to_be_bytes()].concat();
        self.last = [&counted[..], &mac(&self.reference, &[&counted])[..16]].concat();
        let is_fresh = !self.taken.contains(&counter)
            && self.taken.last().is_none_or(|top| u64::from(counter) + 64 > u64::from(*top));
        let expected = if is_fresh { Ok(packet) } else { Err(TrailerError::Replayed) };
        assert_eq!(self.open.open(&self.last), expected, "counter {counter}, taken {:?}", self.taken);
        self.taken.insert(counter);
    }

    fn forged(&mut self, bytes: &[u8]) {
        assert!(self.open.open(bytes).is_err(), "a forged trailer is taken: {bytes:02x?}");
    }
}
