//! The SRTLA receiver: what a datagram costs between the backend and the forwarder.

use std::time::Duration;

use bondgate_proto::LinkAddr;
use bondgate_proto::receiver::{Actions, Command, Receiver, ReceiverConfig, Verdict};
use bondgate_proto::wire::{Datagram, classify as tell_apart};

use crate::measured;

#[path = "../../../../ingest/proto/tests/receiver/device.rs"]
pub mod device;
#[path = "../../../../ingest/proto/tests/receiver/rig.rs"]
pub mod rig;

use device::{Device, mixed, rules};
use rig::{
    Dice, EPOCH, Half, Rig, data, half, keepalive, probe_id, reg1, reg2, srt_ack, srt_nak, with_ticket,
};

/// Time between packets: 2,000 per second.
const GAP: Duration = Duration::from_micros(500);

pub fn classify() -> u64 {
    let datagrams = [
        data(7, 22),
        data(8, 22),
        data(9, 22),
        keepalive(38),
        reg1(&probe_id(1)),
        srt_ack(1, 7, 11),
        srt_nak(&[3], 11),
    ];
    let mut srt = 0;
    let operations = 70_000;
    measured(|| {
        for n in 0..operations {
            srt += u64::from(!matches!(tell_apart(&datagrams[n % datagrams.len()]), Datagram::Srtla(_)));
        }
    });
    assert_eq!(srt, 50_000);
    operations as u64
}

/// One turn's share of a packet: verdict, timers, actions.
fn uplink(
    receiver: &mut Receiver,
    out: &mut Actions,
    now: std::time::Instant,
    from: LinkAddr,
    bytes: &[u8],
) -> Verdict {
    let verdict = receiver.handle_uplink(now, from, bytes, out);
    if receiver.poll_timeout().is_some_and(|due| due <= now) {
        receiver.handle_timeout(now, out);
    }
    out.drain(|_, _| {});
    verdict
}

/// A group of links that streams.
fn streaming(links: u16) -> (Rig, Vec<LinkAddr>) {
    let mut rig = Rig::new();
    let links: Vec<_> = (0..links).map(rig::link).collect();
    let group = rig.register(&half(1), &links);
    rig.open_session(group, links[0], 11, 22, 1000);
    (rig, links)
}

pub fn uplink_4_links() -> u64 {
    uplinks(1)
}

pub fn uplink_trains() -> u64 {
    uplinks(8)
}

/// Packets of four links that take turns after `train` packets each.
fn uplinks(train: u32) -> u64 {
    let (Rig { mut receiver, mut out, mut now }, links) = streaming(4);
    let mut packet = data(1000, 22);
    let mut forwarded = 0;
    measured(|| {
        for seq in 1000..41_000u32 {
            now += GAP;
            packet[..4].copy_from_slice(&seq.to_be_bytes());
            let verdict = uplink(&mut receiver, &mut out, now, links[(seq / train) as usize % 4], &packet);
            forwarded += u64::from(matches!(verdict, Verdict::Forward(_)));
        }
    });
    assert_eq!(forwarded, 40_000);
    forwarded
}

/// The `n`-th link of many groups of four.
fn many(n: usize) -> LinkAddr {
    LinkAddr::new(([10, (n >> 16) as u8, (n >> 8) as u8, n as u8], 5000 + (n % 4) as u16).into())
}

pub fn uplink_10k_groups() -> u64 {
    const GROUPS: usize = 10_000;
    let mut rig = Rig::with(ReceiverConfig { groups_max: GROUPS, ..ReceiverConfig::default() });
    for group in 0..GROUPS {
        let mut sender: Half = [0; 128];
        sender[..8].copy_from_slice(&(group as u64).to_be_bytes());
        let id = with_ticket(&sender, EPOCH);
        rig.feed(many(4 * group), &reg1(&id));
        for link in 0..4 {
            rig.feed(many(4 * group + link), &reg2(&id));
        }
        // Budgets refill.
        rig.now += Duration::from_millis(1);
        if group % 1000 == 999 {
            rig.advance(Duration::from_millis(1));
        }
    }
    let Rig { mut receiver, mut out, mut now } = rig;
    let (mut dice, mut packet, mut forwarded) = (Dice(5), data(0, 22), 0);
    let mut seqs = vec![0_u32; GROUPS];
    let links: Vec<usize> = (0..40_000).map(|_| dice.below(4 * GROUPS)).collect();
    // Without pauses between packets: 40,000 links time out otherwise, before their turn comes.
    measured(|| {
        for link in &links {
            now += Duration::from_micros(2);
            let seq = &mut seqs[link / 4];
            packet[..4].copy_from_slice(&seq.to_be_bytes());
            *seq += 1;
            let verdict = uplink(&mut receiver, &mut out, now, many(*link), &packet);
            forwarded += u64::from(matches!(verdict, Verdict::Forward(_)));
        }
    });
    assert!(forwarded > 39_000, "{forwarded} of {}: {:?}", links.len(), receiver.counters());
    links.len() as u64
}

pub fn uplink_stranger() -> u64 {
    let (Rig { mut receiver, mut out, mut now }, _) = streaming(4);
    let (packet, mut dice) = (data(1000, 23), Dice(5));
    let strangers: Vec<_> = (0..20_000).map(|_| many(dice.below(1 << 24))).collect();
    let mut dropped = 0;
    measured(|| {
        for from in &strangers {
            now += Duration::from_micros(5);
            let verdict = uplink(&mut receiver, &mut out, now, *from, &packet);
            dropped += u64::from(matches!(verdict, Verdict::Drop(_)));
        }
    });
    assert_eq!(dropped, 20_000);
    dropped
}

pub fn downlink_ack() -> u64 {
    let (Rig { mut receiver, mut out, mut now }, links) = streaming(4);
    let (mut packet, ack) = (data(1000, 22), srt_ack(1, 1000, 11));
    let group = receiver.snapshot(now).next().unwrap().key;
    let (mut sent, operations) = (0, 10_000);
    for round in 0..operations {
        now += GAP * 20;
        // Links pay for what is sent to them.
        for (n, from) in links.iter().enumerate() {
            packet[..4].copy_from_slice(&(1000 + round * 4 + n as u32).to_be_bytes());
            let _ = uplink(&mut receiver, &mut out, now, *from, &packet);
        }
        sent += measured(|| {
            let verdict = receiver.handle_downlink(now, group, &ack, &mut out);
            assert_eq!(verdict, Verdict::FanOut(group));
            receiver
                .live_links(now, group)
                .filter(|(link, to)| !receiver.seals_data(*link) && to.addr.port() > 0)
                .count()
        });
    }
    assert_eq!(sent, 4 * operations as usize);
    operations.into()
}

pub fn register_stock() -> u64 {
    let mut rig = Rig::with(ReceiverConfig { groups_max: 2_000, ..ReceiverConfig::default() });
    let operations = 1_000_u32;
    for n in 0..operations {
        let mut id = [0; 256];
        id[..4].copy_from_slice(&n.to_be_bytes());
        let (from, hello) = (many(4 * n as usize), reg1(&id));
        rig.now += Duration::from_millis(5);
        let Rig { receiver, out, now } = &mut rig;
        let _ = measured(|| receiver.handle_uplink(*now, from, &hello, out));
        let join = rig.take().pop().unwrap().1;
        let Rig { receiver, out, now } = &mut rig;
        let verdict = measured(|| receiver.handle_uplink(*now, from, &join, out));
        assert_eq!(verdict, Verdict::Consumed);
        rig.take();
    }
    assert_eq!(rig.groups(), operations as usize);
    operations.into()
}

pub fn register_sa1() -> u64 {
    let mut rig = Rig::admitting(ReceiverConfig::default(), mixed([rules(1)]));
    let mut device = Device::new(1, &rig);
    let operations = 500;
    for n in 0..operations {
        rig.now += Duration::from_millis(500);
        let from = rig::link(n as u16 % 3);
        let hello = device.hello(rig.now, n % 3);
        let Rig { receiver, out, now } = &mut rig;
        let _ = measured(|| receiver.handle_uplink(*now, from, hello.packet(), out));
        let did = rig.take();
        let join = device.answer(rig.now, &hello, from, &did);
        let Rig { receiver, out, now } = &mut rig;
        let _ = measured(|| receiver.handle_uplink(*now, from, join.packet(), out));
        let did = rig.take();
        device.confirmed(&join, &did);
    }
    u64::from(operations)
}

pub fn reg1_flood() -> u64 {
    let mut rig = Rig::admitting(ReceiverConfig::default(), mixed([rules(1)]));
    let (mut dice, operations) = (Dice(3), 20_000_u64);
    let mut packet = reg1(&probe_id(1));
    for n in 0..operations {
        packet[2..10].copy_from_slice(&dice.roll().to_be_bytes());
        let from = many(dice.below(1 << 24));
        rig.now += Duration::from_micros(3);
        let Rig { receiver, out, now } = &mut rig;
        let _ = measured(|| uplink(receiver, out, *now, from, &packet));
        if n % 5_000 == 0 {
            receiver.handle_command(*now, Command::SetEpoch(EPOCH), out);
        }
    }
    assert_eq!(rig.groups(), 0);
    operations
}
