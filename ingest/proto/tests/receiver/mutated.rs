//! Hostile bytes: nothing panics, nothing grows, every datagram is accounted for.

use crate::rig::*;
use bondgate_proto::GroupKey;
use bondgate_proto::receiver::ReceiverConfig;

fn small() -> ReceiverConfig {
    ReceiverConfig { groups_max: 4, links_per_group_max: 3, pending_max: 8, ..ReceiverConfig::default() }
}

/// All 65,536 first words with a few lengths, and every length to 300 with every first word that means something, from a
/// member, from a stranger and from the SRT side.
#[test]
fn every_type_at_every_length() {
    let mut rig = Rig::with(small());
    let group = rig.register(&half(1), &[link(0), link(1)]);
    rig.open_session(group, link(0), 11, 22, 100);
    let meaningful = (0x8000..=0x8010)
        .chain([0x8FFF, 0x9000, 0x9100, 0x9200, 0x9201, 0x9202, 0x9210, 0x9211, 0x9212, 0x9300])
        .chain([0xA000, 0xA001, 0xFFFF, 0x0000, 0x7FFF]);
    let give = |rig: &mut Rig, bytes: &[u8]| {
        for from in [link(0), link(7)] {
            rig.feed(from, bytes);
        }
        let group = rig.group_of(link(0)).unwrap_or(group);
        let _ = rig.down(group, bytes);
    };
    for head in meaningful.clone() {
        for len in 0..=300 {
            for filler in [0x00, 0xFF] {
                let mut bytes = vec![filler; len];
                for (place, byte) in bytes.iter_mut().zip((head as u16).to_be_bytes()) {
                    *place = byte;
                }
                give(&mut rig, &bytes);
            }
        }
    }
    for head in 0..=0xFFFFu16 {
        let mut bytes = vec![0x11; 64];
        bytes[..2].copy_from_slice(&head.to_be_bytes());
        let (verdict, did) = rig.up(link(1), &bytes);
        assert!(did.len() <= 4, "{verdict:?}");
    }
    assert!(rig.receiver.counters().is_conserved());
    assert_eq!(rig.groups(), 1);
}

/// Honest traffic of several senders with bits flipped, bytes cut and glued, from honest and other addresses, while time
/// passes, with deliberately little room for actions.
#[test]
fn mutated_traffic_is_conserved() {
    let mut rig = Rig::with(small());
    let mut dice = Dice(0xB0D6);
    let mut groups: Vec<GroupKey> = Vec::new();
    let mut seq = 0x7FFF_FF00u32;
    for round in 0..150_000 {
        let n = dice.below(8) as u16;
        let h = half(dice.below(6) as u8);
        seq = (seq + 1) & 0x7FFF_FFFF;
        let server = 20 + u32::from(h[0]);
        let mut bytes = match dice.below(14) {
            0 => reg1(&probe_id(h[0])),
            1 => reg2(&with_ticket(&h, EPOCH)),
            2 => reg2(&probe_id(h[0])),
            3 => keepalive([2, 10, 38, 5][dice.below(4)]),
            4 => induction(dice.below(5) as u32),
            5 => conclusion(dice.below(5) as u32, seq),
            6 => conclusion_answer(dice.below(5) as u32, server),
            7 => srt_ack(seq, seq, 11),
            8 => srt_nak(&[seq | 0x8000_0000, seq + 5, 1], 11),
            9 => control(dice.below(10) as u16, seq, server),
            _ => data(seq, server),
        };
        for _ in 0..dice.below(4) {
            match dice.below(4) {
                0 if !bytes.is_empty() => {
                    let at = dice.below(bytes.len());
                    bytes[at] ^= 1 << dice.below(8);
                }
                1 => bytes.truncate(dice.below(bytes.len() + 1)),
                2 => {
                    let more = dice.below(400);
                    bytes.resize(bytes.len() + more, dice.roll() as u8);
                }
                _ => {}
            }
        }
        if dice.below(3) == 0 && !groups.is_empty() {
            let group = groups[dice.below(groups.len())];
            let _ = rig.down(group, &bytes);
        } else {
            rig.feed(link(n), &bytes);
        }
        if round % 64 == 0 {
            rig.advance(ms(dice.below(3000) as u64));
            groups = rig.receiver.snapshot(rig.now).map(|group| group.key).collect();
            assert!(groups.len() <= 4);
            for snapshot in rig.receiver.snapshot(rig.now) {
                assert!(snapshot.links.len() <= 3);
            }
        }
    }
    let counters = *rig.receiver.counters();
    assert!(counters.is_conserved());
    assert!(counters.forwarded > 1000 && counters.fanned_out > 100 && counters.to_link > 100, "{counters:?}");
    assert!(counters.groups_evicted > 0 && counters.links_evicted > 0, "{counters:?}");
    assert_eq!(counters.links_joined - counters.links_left, open_links(&rig));
    assert_eq!(counters.groups_opened - counters.groups_closed, rig.groups() as u64);
    // Left alone, it forgets everything.
    rig.advance(ms(120_000));
    assert_eq!((rig.groups(), rig.receiver.poll_timeout()), (0, None));
}

fn open_links(rig: &Rig) -> u64 {
    rig.receiver.snapshot(rig.now).map(|group| group.links.len() as u64).sum()
}
