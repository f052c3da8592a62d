//! The receiver takes all its memory at creation: a counting allocator watches everything it does afterwards.

#![allow(clippy::unwrap_used, reason = "helpers of tests may fail the test")]

#[path = "receiver/device.rs"]
mod device;
#[path = "receiver/rig.rs"]
mod rig;

use bondgate_auth::sa1::Flags;
use bondgate_auth::sa1::trailer::TRAILER_LEN;
use bondgate_counting::allocations_of;
use bondgate_proto::LinkAddr;
use bondgate_proto::receiver::{Actions, Command, Receiver, ReceiverConfig, SealedCopy, Verdict};
use device::{Device, mixed, rules};
use rig::*;

#[test]
fn a_stream_allocates_nothing() {
    let mut rig = Rig::new();
    let links = [link(0), link(1), link(2)];
    let group = rig.register(&half(1), &links);
    rig.open_session(group, link(0), 11, 22, 1000);
    let mut packet = data(1000, 22);
    let (ack, nak, alive) = (srt_ack(1, 1000, 11), srt_nak(&[1, 2, 3], 11), keepalive(38));
    let Rig { receiver, out, now } = &mut rig;
    let mut forwarded = 0;
    let count = allocations_of(|| {
        for seq in 1000..101_000u32 {
            *now += std::time::Duration::from_micros(500);
            let from = links[seq as usize % 3];
            packet[..4].copy_from_slice(&seq.to_be_bytes());
            forwarded +=
                u32::from(receiver.handle_uplink(*now, from, &packet, out) == Verdict::Forward(group));
            if seq % 20 == 0 {
                let _ = receiver.handle_downlink(*now, group, &ack, out);
                forwarded += receiver.live_links(*now, group).count() as u32;
            }
            if seq % 100 == 0 {
                let _ = receiver.handle_downlink(*now, group, &nak, out);
                let _ = receiver.handle_uplink(*now, from, &alive, out);
            }
            if receiver.poll_timeout().is_some_and(|due| due <= *now) {
                receiver.handle_timeout(*now, out);
            }
            out.drain(|_, _| {});
        }
    });
    assert_eq!(forwarded, 100_000 + 3 * 5_000);
    assert_eq!(count, 0);
}

/// Registration, eviction, roaming, timeouts and commands do not allocate either.
#[test]
fn coming_and_going_allocates_nothing() {
    let config = ReceiverConfig {
        groups_max: 8,
        links_per_group_max: 4,
        pending_max: 16,
        ..ReceiverConfig::default()
    };
    let Rig { mut receiver, mut out, mut now } = Rig::with(config);
    let datagrams: Vec<Vec<u8>> = (0..20u8)
        .flat_map(|n| {
            [
                reg1(&probe_id(n)),
                reg2(&with_ticket(&half(n), EPOCH)),
                reg2(&probe_id(n)),
                induction(u32::from(n)),
                conclusion(u32::from(n), 100),
                data(100 + u32::from(n), 9 + u32::from(n)),
            ]
        })
        .collect();
    let addresses: Vec<_> = (0..40).map(link).collect();
    let mut dice = Dice(9);
    let mut run = |receiver: &mut Receiver, out: &mut Actions, steps: usize| {
        for step in 0..steps {
            let bytes = &datagrams[dice.below(datagrams.len())];
            let _ = receiver.handle_uplink(now, addresses[dice.below(addresses.len())], bytes, out);
            now += std::time::Duration::from_millis(dice.below(60) as u64);
            receiver.handle_timeout(now, out);
            if step % 250 == 0 {
                now += std::time::Duration::from_secs(11);
            }
            if step % 1000 == 0 {
                receiver.handle_command(now, Command::SetEpoch(EPOCH + (step / 1000 % 2) as u32), out);
            }
            out.drain(|_, _| {});
        }
    };
    let count = allocations_of(|| run(&mut receiver, &mut out, 60_000));
    let counters = receiver.counters();
    assert!(
        counters.groups_evicted > 100 && counters.links_evicted > 100 && counters.links_timed_out > 100,
        "{counters:?}"
    );
    assert_eq!(count, 0);
}

/// Devices that register, move, renew their keys, stream and send keepalives, in a flood of forgeries.
#[test]
fn devices_and_floods_allocate_nothing() {
    let config = ReceiverConfig { groups_max: 8, links_per_group_max: 4, ..ReceiverConfig::default() };
    let mut rig = Rig::admitting(config, mixed([rules(1), rules(2)]));
    let mut device = Device::new(1, &rig);
    let mut ends: [_; 3] =
        std::array::from_fn(|n| device.join(&mut rig, link(n as u16), n as u32).keys.sender_ends());
    let mut addresses = [link(0), link(1), link(2)];
    let mut packet = data(0, 22);
    let (alive, mut forged) = (keepalive(38), *device.hello(rig.now, 9).packet());
    let mut dice = Dice(5);
    let mut count = 0;
    for seq in 0..60_000u32 {
        rig.now += std::time::Duration::from_micros(500);
        let n = seq as usize % 3;
        let from = addresses[n];
        packet[..4].copy_from_slice(&seq.to_be_bytes());
        let (sealed, len) = ends[n].0.seal(&alive).unwrap();
        let stranger = LinkAddr::new((std::net::Ipv4Addr::from(dice.roll() as u32), 5000).into());
        forged[1] = seq as u8 & 1;
        forged[40..48].copy_from_slice(&dice.roll().to_be_bytes());
        let ticket = with_ticket(&half(seq as u8), EPOCH);
        let stock = if seq & 2 == 0 { reg1(&ticket) } else { reg2(&ticket) };
        let Rig { receiver, out, now } = &mut rig;
        count += allocations_of(|| {
            assert!(matches!(receiver.handle_uplink(*now, from, &packet, out), Verdict::Forward(_)));
            if seq % 2000 < 3 {
                assert_eq!(receiver.handle_uplink(*now, from, &sealed[..len], out), Verdict::Consumed);
            }
            let _ = receiver.handle_uplink(*now, stranger, &forged, out);
            let _ = receiver.handle_uplink(*now, stranger, &stock, out);
            receiver.handle_timeout(*now, out);
            out.drain(|_, _| {});
        });
        if seq % 3000 == 2999 {
            // This link gets new keys, at a new address half of the times.
            if seq % 6000 == 2999 {
                addresses[n] = link(100 + (seq / 3000) as u16);
            }
            let hello = device.hello(rig.now, n as u32);
            let mut did = Vec::new();
            let mut give = |rig: &mut Rig, bytes: &[u8]| {
                did.clear();
                let Rig { receiver, out, now } = rig;
                count += allocations_of(|| {
                    assert_eq!(receiver.handle_uplink(*now, addresses[n], bytes, out), Verdict::Consumed);
                });
                out.drain(|action, bytes| did.push((action, bytes.to_vec())));
                did.clone()
            };
            let did = give(&mut rig, hello.packet());
            let join = device.answer(rig.now, &hello, addresses[n], &did);
            let did = give(&mut rig, join.packet());
            ends[n] = device.confirmed(&join, &did).keys.sender_ends();
        }
    }
    let counters = rig.receiver.counters();
    assert_eq!((counters.sa1_confirmed, counters.sa1_moved), (3 + 20, 10), "{counters:?}");
    assert!(counters.acks_sent > 1000 && counters.groups_evicted > 1000, "{counters:?}");
    assert_eq!(count, 0);
}

/// A stream with MACs on its SRT packets, both ways, in a flood of forgeries. Only a join takes memory for them.
#[test]
fn macs_on_srt_packets_allocate_nothing() {
    let mut rig = Rig::admitting(ReceiverConfig::default(), mixed([rules(1)]));
    let mut device = Device::new(1, &rig);
    device.offered = device.offered.with(Flags::DATA_MAC);
    let (mut sealer, mut opener) = device.join(&mut rig, link(0), 0).keys.sender_data_ends();
    let group = rig.group_of(link(0)).unwrap();
    let (from, packet, ack) = (link(0), data(0, 22), srt_ack(1, 1000, 11));
    let mut sealed = [&packet[..], &[0; TRAILER_LEN]].concat();
    let (mut forwarded, mut returned) = (0, 0);
    let Rig { receiver, out, now } = &mut rig;
    let count = allocations_of(|| {
        for seq in 0..20_000u32 {
            *now += std::time::Duration::from_micros(500);
            sealed[..4].copy_from_slice(&seq.to_be_bytes());
            assert!(sealer.seal(&mut sealed));
            let verdict = receiver.handle_uplink(*now, from, &sealed, out);
            forwarded += u32::from(verdict == Verdict::Forward(group));
            sealed[50] ^= 1;
            assert!(matches!(receiver.handle_uplink(*now, from, &sealed, out), Verdict::Drop(_)));
            sealed[50] ^= 1;
            let verdict = receiver.handle_downlink(*now, group, &ack, out);
            receiver.sealed_copies(*now, verdict, &mut SealedCopy::new(&ack), |_, bytes| {
                returned += u32::from(opener.open(bytes) == Ok(&ack[..]));
            });
            receiver.handle_timeout(*now, out);
            out.drain(|_, _| {});
        }
    });
    assert_eq!((forwarded, returned, count), (20_000, 20_000, 0));
}
