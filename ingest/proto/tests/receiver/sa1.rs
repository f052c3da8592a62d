//! Devices: who comes in, who stays, who moves, who is refused.

use crate::device::*;
use crate::rig::*;
use bondgate_auth::sa1::sender::Outcome;
use bondgate_auth::sa1::wire::RefusalCode;
use bondgate_auth::sa1::{Flags, StreamBind};
use bondgate_auth::table::DeviceRules;
use bondgate_proto::receiver::{
    Action, Actions, Admission, AdmitPolicy, Cidr, CloseReason, Command, DropReason, GroupProof, LeaveReason,
    Notice, Rate, Receiver, ReceiverConfig, Verdict,
};
use std::sync::Arc;

fn rig() -> Rig {
    Rig::admitting(ReceiverConfig::default(), strict([rules(1), rules(2)]))
}

#[test]
fn a_device_registers_and_streams() {
    let mut rig = rig();
    let mut device = Device::new(1, &rig);
    let join = device.ask(&mut rig, link(0), 40);
    assert_eq!(rig.groups(), 0, "a hello leaves nothing");
    assert_eq!(rig.receiver.poll_timeout(), None);
    let (verdict, did) = rig.up(link(0), join.packet());
    assert_eq!(verdict, Verdict::Consumed);
    let up = device.confirmed(&join, &did);
    assert_eq!((up.confirmation.link_id, up.confirmation.link_handle), (40, 0));
    assert_eq!((up.terms.links_max, up.accepted), (3, device.offered));
    let group = rig.group_of(link(0)).unwrap();
    assert!(notices(&did).contains(&Notice::GroupOpened { group }));
    device.join(&mut rig, link(1), 41);
    assert_eq!(rig.members(group), [link(0), link(1)]);
    let expected = rules(1);
    assert_eq!(
        rig.receiver.group_proof(group),
        Some(GroupProof::Device { rules: &expected, bind: StreamBind::ANY, key_id: key_id(1) })
    );
    rig.open_session(group, link(0), 11, 22, 100);
    assert_eq!(rig.up(link(1), &data(100, 22)).0, Verdict::Forward(group));
    // Proven addresses need no credit.
    for _ in 0..10_000 {
        assert_eq!(rig.fan_out(group, &srt_ack(1, 101, 11)).len(), 2);
    }
    assert!(replies(&rig.advance(ms(2900))).iter().all(|(_, bytes)| bytes[0] == 0x91), "no REG3 is repeated");
}

#[test]
fn a_repeated_join_changes_nothing() {
    let mut rig = rig();
    let mut device = Device::new(1, &rig);
    let join = device.ask(&mut rig, link(0), 40);
    let first = replies(&rig.up(link(0), join.packet()).1);
    for _ in 0..5 {
        rig.advance(ms(500));
        let (verdict, did) = rig.up(link(0), join.packet());
        assert_eq!((verdict, did.len(), replies(&did)), (Verdict::Consumed, 1, first.clone()));
    }
    assert_eq!(rig.receiver.counters().links_joined, 1);
}

#[test]
fn a_link_moves_at_once_and_no_replay_drags_it_back() {
    let mut rig = rig();
    let mut device = Device::new(1, &rig);
    let old_join = device.ask(&mut rig, link(0), 40);
    rig.feed(link(0), old_join.packet());
    device.join(&mut rig, link(1), 41);
    let group = rig.group_of(link(0)).unwrap();
    rig.advance(ms(100));
    let join = device.ask(&mut rig, link(9), 40);
    let (_, did) = rig.up(link(9), join.packet());
    assert_eq!(device.confirmed(&join, &did).confirmation.link_handle, 0);
    assert_eq!(rig.members(group), [link(9), link(1)]);
    assert!(notices(&did).iter().any(
        |notice| matches!(notice, Notice::LinkLeft { addr, reason: LeaveReason::Moved, .. } if *addr == link(0))
    ));
    assert_eq!(rig.receiver.counters().sa1_moved, 1);
    assert_eq!(rig.up(link(0), old_join.packet()), (Verdict::Drop(DropReason::Sa1Old), vec![]));
    assert_eq!(rig.up(link(0), &data(1, 2)).0, Verdict::Drop(DropReason::NotMember));
    // Another link takes over the address; the join of the one before does not get it back.
    rig.advance(ms(100));
    device.join(&mut rig, link(9), 41);
    assert_eq!(rig.members(group), [link(9)]);
    assert_eq!(rig.up(link(9), join.packet()), (Verdict::Drop(DropReason::Sa1Old), vec![]));
    // Nor in a group of another run.
    device.group = [77; 16];
    rig.advance(ms(100));
    device.join(&mut rig, link(9), 5);
    assert_eq!((rig.members(group), rig.groups()), (vec![], 1));
    assert_eq!(rig.up(link(9), join.packet()), (Verdict::Drop(DropReason::Sa1Old), vec![]));
}

/// A NAT moves a link: the join it sends from there has another address's cookie.
#[test]
fn a_join_from_elsewhere_is_challenged_anew() {
    let mut rig = rig();
    let mut device = Device::new(1, &rig);
    let join = device.ask(&mut rig, link(0), 40);
    rig.feed(link(0), join.packet());
    rig.advance(ms(50));
    let (verdict, did) = rig.up(link(7), join.packet());
    assert_eq!((verdict, did.len(), did[0].0), (Verdict::Consumed, 1, Action::Reply { to: link(7) }));
    let again = join.answer(&device.credentials, &did[0].1, device.time_ms(rig.now)).unwrap().unwrap();
    let (_, did) = rig.up(link(7), again.packet());
    device.confirmed(&again, &did);
    let group = rig.group_of(link(7)).unwrap();
    assert_eq!(rig.members(group), [link(7)]);
    let counters = *rig.receiver.counters();
    assert_eq!((counters.sa1_rechallenged, counters.sa1_challenged), (1, 2));
    // Without a living group and with a clock that is off it is a replay, as far as anybody can tell.
    device.skew_ms = 0;
    let late = device.ask(&mut rig, link(3), 43);
    rig.receiver.handle_command(rig.now, Command::CloseGroup(group), &mut rig.out);
    rig.take();
    rig.advance(ms(91_000));
    assert_eq!(rig.up(link(3), late.packet()), (Verdict::Drop(DropReason::Sa1Stale), vec![]));
}

#[test]
fn a_restarted_receiver_takes_its_devices_back_in_one_round_trip() {
    let mut before = rig();
    let mut device = Device::new(1, &before);
    let join = device.ask(&mut before, link(0), 40);
    let mut rig = rig();
    let mut secrets = secrets();
    (secrets.cookies, secrets.nonces) = ([9; 32], [9; 16]);
    let admission = Arc::new(strict([rules(1)]));
    rig.receiver =
        Receiver::new(ReceiverConfig::default(), secrets, admission, clock(rig.now), [5, 6], EPOCH);
    let (_, did) = rig.up(link(0), join.packet());
    let again = join.answer(&device.credentials, &did[0].1, device.time_ms(before.now)).unwrap().unwrap();
    assert_eq!(rig.up(link(0), again.packet()).0, Verdict::Consumed);
    assert!(rig.group_of(link(0)).is_some());
}

#[test]
fn refusals_are_tagged_and_say_why() {
    let networks = AdmitPolicy::Listed(Arc::new(
        [Cidr { addr: "192.0.2.1".parse().unwrap(), prefix: 32 }].into_iter().collect(),
    ));
    let mut rig = Rig::admitting(
        ReceiverConfig::default(),
        Admission {
            networks,
            ..strict([DeviceRules { binds: vec![StreamBind::of("", "cam")], ..rules(1) }])
        },
    );
    let mut device = Device::new(1, &rig);
    let mut refused_hello = |rig: &mut Rig, from, bind: StreamBind| {
        device.credentials.bind = bind;
        let hello = device.hello(rig.now, 1);
        let (verdict, did) = rig.up(from, hello.packet());
        (verdict, hello.refused(&device.credentials, &replies(&did)[0].1).unwrap().code)
    };
    let refused = |reason, code| (Verdict::Drop(reason), code);
    assert_eq!(
        refused_hello(&mut rig, link(30), StreamBind::ANY),
        refused(DropReason::RefusedAddress, RefusalCode::Address)
    );
    assert_eq!(
        refused_hello(&mut rig, link(0), StreamBind::of("", "dog")),
        refused(DropReason::RefusedStream, RefusalCode::Stream)
    );
    device.credentials.bind = StreamBind::of("", "cam");
    device.join(&mut rig, link(0), 1);
    // The group is for this stream only.
    device.credentials.bind = StreamBind::ANY;
    let join = device.ask(&mut rig, link(1), 2);
    let (verdict, did) = rig.up(link(1), join.packet());
    assert_eq!(
        (verdict, device.refused(&join, &did)),
        refused(DropReason::RefusedStream, RefusalCode::Stream)
    );
    rig.receiver.handle_command(rig.now, Command::SetDraining(true), &mut rig.out);
    device.group = [9; 16];
    let hello = device.hello(rig.now, 1);
    let (_, did) = rig.up(link(2), hello.packet());
    let refusal = hello.refused(&device.credentials, &replies(&did)[0].1).unwrap();
    assert_eq!((refusal.code, refusal.retry_after_s()), (RefusalCode::Draining, Some(5)));
    assert_eq!(rig.groups(), 1);
    assert_eq!(rig.receiver.counters().sa1_refused, 4);
}

#[test]
fn quotas_of_groups_and_links() {
    let mut rig = rig();
    let mut device = Device::new(1, &rig);
    for id in 0..3 {
        device.join(&mut rig, link(id), id.into());
    }
    let first = rig.group_of(link(0)).unwrap();
    let join = device.ask(&mut rig, link(3), 3);
    let (verdict, did) = rig.up(link(3), join.packet());
    assert_eq!(
        (verdict, device.refused(&join, &did)),
        (Verdict::Drop(DropReason::RefusedLink), RefusalCode::LinkLimit)
    );
    device.group = [50; 16];
    device.join(&mut rig, link(10), 0);
    let second = rig.group_of(link(10)).unwrap();
    device.group = [51; 16];
    let join = device.ask(&mut rig, link(11), 0);
    let (verdict, did) = rig.up(link(11), join.packet());
    assert_eq!(
        (verdict, device.refused(&join, &did)),
        (Verdict::Drop(DropReason::RefusedGroup), RefusalCode::GroupLimit)
    );
    assert_eq!((rig.members(first).len(), rig.members(second).len(), rig.groups()), (3, 1, 2));
    // Other devices have quotas of their own.
    Device::new(2, &rig).join(&mut rig, link(20), 0);
    // A link that is dead gives way to a new one; a group that is dead, to the device's new run.
    rig.advance(ms(2000));
    for n in [1, 2] {
        rig.feed(link(n), &data(1, 9));
    }
    rig.advance(ms(1500));
    device.group = [1; 16];
    device.join(&mut rig, link(3), 3);
    assert_eq!(rig.members(first), [link(3), link(1), link(2)]);
    device.group = [51; 16];
    let join = device.ask(&mut rig, link(11), 0);
    let (_, did) = rig.up(link(11), join.packet());
    device.confirmed(&join, &did);
    assert!(notices(&did).contains(&Notice::GroupClosed { group: second, reason: CloseReason::Replaced }));
}

/// A device that runs again at the same address does not wait for its own old link.
#[test]
fn the_joining_address_does_not_keep_its_own_old_group_alive() {
    let mut rig =
        Rig::admitting(ReceiverConfig::default(), strict([DeviceRules { groups_max: 1, ..rules(1) }]));
    let mut device = Device::new(1, &rig);
    device.join(&mut rig, link(0), 0);
    device.group = [50; 16];
    rig.advance(ms(1));
    device.join(&mut rig, link(0), 0);
    assert_eq!(rig.groups(), 1);
}

/// Devices one to three are acme's, which may have two groups; device four has no tenant.
#[test]
fn the_devices_of_a_tenant_share_its_quota() {
    let acme = |n| DeviceRules { tenant: "acme".into(), ..rules(n) };
    let admission = Admission { tenant_groups_max: 2, ..strict([acme(1), acme(2), acme(3), rules(4)]) };
    let mut rig = Rig::admitting(ReceiverConfig::default(), admission);
    let mut devices: Vec<Device> = (1..=4).map(|n| Device::new(n, &rig)).collect();
    devices[0].join(&mut rig, link(0), 0);
    devices[1].join(&mut rig, link(10), 0);
    let join = devices[2].ask(&mut rig, link(20), 0);
    let (_, did) = rig.up(link(20), join.packet());
    assert_eq!(devices[2].refused(&join, &did), RefusalCode::GroupLimit);
    devices[3].join(&mut rig, link(30), 0);
    devices[0].join(&mut rig, link(1), 1);
    assert_eq!(rig.groups(), 3, "more links and other tenants are another matter");
    rig.advance(ms(60_000));
    devices[2].join(&mut rig, link(20), 0);
}

#[test]
fn a_device_that_comes_and_goes_too_often_is_told_to_wait() {
    let mut rig = rig();
    let unlimited = Rate { per_s: 100_000, burst: 100_000 };
    let mut config = ReceiverConfig::default();
    config.lanes.hello_per_key = unlimited;
    config.lanes.join_per_source = unlimited;
    rig.receiver =
        Receiver::new(config, secrets(), Arc::new(strict([rules(1)])), clock(rig.now), [1, 2], EPOCH);
    let mut device = Device::new(1, &rig);
    let mut codes = Vec::new();
    for _ in 0..100 {
        rig.now += ms(1);
        let join = device.ask(&mut rig, link(0), 0);
        let did = rig.up(link(0), join.packet()).1;
        if let Ok(Outcome::Refused(refusal)) = join.confirm(&device.credentials, &replies(&did)[0].1) {
            codes.push(refusal.code);
        }
    }
    assert!((30..40).contains(&codes.len()), "{codes:?}");
    assert!(codes.iter().all(|code| *code == RefusalCode::RateLimited));
}

/// All 2,064 flips and 258 truncations of M1 and M3 against the whole receiver: nothing taken, nothing answered.
#[test]
fn every_flip_and_truncation_is_met_with_silence() {
    let config =
        ReceiverConfig { groups_max: 2, foreign_max: 8, pending_max: 8, ..ReceiverConfig::default() };
    let fresh = || Rig::admitting(config.clone(), strict([rules(1)]));
    // All these receivers are the same at their beginning, so what one has challenged is good for the next.
    let mut twin = fresh();
    let hello = Device::new(1, &twin).hello(twin.now, 40);
    let device = Device::new(1, &twin);
    let did = twin.up(link(0), hello.packet()).1;
    let join = device.answer(twin.now, &hello, link(0), &did);
    let mut reasons = std::collections::HashSet::new();
    for packet in [hello.packet(), join.packet()] {
        let flips = (0..packet.len() * 8).map(|bit| {
            let mut bytes = packet.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            bytes
        });
        let mut rig = fresh();
        for bytes in flips.chain((0..packet.len()).map(|cut| packet[..cut].to_vec())) {
            if rig.receiver.counters().received >= 16 {
                rig = fresh();
            }
            let (verdict, did) = rig.up(link(0), &bytes);
            assert_eq!(did, [], "{verdict:?}");
            let Verdict::Drop(reason) = verdict else { panic!("{verdict:?}") };
            reasons.insert(reason);
        }
        assert_eq!(rig.groups(), 0);
        assert_eq!(fresh().up(link(0), packet).0, Verdict::Consumed, "unharmed it is taken");
    }
    assert!(reasons.contains(&DropReason::Sa1Mac1) && reasons.contains(&DropReason::Sa1Mac3), "{reasons:?}");
}

#[test]
fn revoking_a_key_ends_its_groups_at_once() {
    let mut rig = rig();
    let mut device = Device::new(1, &rig);
    device.join(&mut rig, link(0), 0);
    device.join(&mut rig, link(1), 1);
    Device::new(2, &rig).join(&mut rig, link(5), 0);
    let (group, other) = (rig.group_of(link(0)).unwrap(), rig.group_of(link(5)).unwrap());
    assert_eq!(rig.up(link(0), &data(1, 9)).0, Verdict::Forward(group));
    let without = Arc::new(strict([rules(2)]));
    rig.receiver.handle_command(rig.now, Command::SetAdmission(without), &mut rig.out);
    let did = rig.take();
    assert!(did.contains(&(Action::CloseForwarder(group), vec![])));
    assert!(notices(&did).contains(&Notice::GroupClosed { group, reason: CloseReason::Revoked }));
    assert_eq!(rig.up(link(0), &data(2, 9)).0, Verdict::Drop(DropReason::NotMember));
    let hello = device.hello(rig.now, 0);
    assert_eq!(rig.up(link(0), hello.packet()), (Verdict::Drop(DropReason::Sa1UnknownKey), vec![]));
    assert_eq!(rig.up(link(5), &data(2, 9)).0, Verdict::Forward(other));
    assert_eq!(rig.groups(), 1);
}

/// Even when there is no room to say that they are closed.
#[test]
fn revoked_groups_pass_nothing_on_however_little_room_there_is() {
    let config = ReceiverConfig::default();
    let mut rig = Rig::admitting(config, strict((1..20).map(rules)));
    for n in 1..20 {
        Device::new(n, &rig).join(&mut rig, link(n.into()), 0);
    }
    let (actions, bytes) = rig.receiver.actions_min();
    rig.out = Actions::with_capacity(actions, bytes);
    rig.receiver.handle_command(rig.now, Command::SetAdmission(Arc::new(strict([]))), &mut rig.out);
    assert!(rig.groups() > 10);
    let gone = rig.take();
    for n in 1..20 {
        let verdict = rig.up(link(n), &data(1, 9)).0;
        assert!(matches!(verdict, Verdict::Drop(DropReason::Revoked | DropReason::NotMember)), "{verdict:?}");
    }
    let closed = |did: &Did| notices(did).iter().filter(|n| matches!(n, Notice::GroupClosed { .. })).count();
    let rest = rig.advance(ms(1));
    assert_eq!(closed(&gone) + closed(&rest), 19);
    assert_eq!((rig.groups(), rig.out.overflowed()), (0, 0));
}

#[test]
fn stock_groups_go_when_their_network_does() {
    let mut rig = Rig::admitting(ReceiverConfig::default(), mixed([rules(1)]));
    rig.register(&half(1), &[link(0), link(1)]);
    Device::new(1, &rig).join(&mut rig, link(5), 0);
    rig.receiver.handle_command(rig.now, Command::SetAdmission(Arc::new(strict([rules(1)]))), &mut rig.out);
    rig.take();
    assert_eq!((rig.groups(), rig.group_of(link(0))), (1, None));
}

/// Data from an unknown address never enters a device's group, and no ticket takes a device's address away.
#[test]
fn nobody_enters_a_device_s_group_by_its_traffic_or_takes_its_address() {
    let mut rig = Rig::admitting(ReceiverConfig::default(), mixed([rules(1)]));
    Device::new(1, &rig).join(&mut rig, link(0), 0);
    let group = rig.group_of(link(0)).unwrap();
    rig.open_session(group, link(0), 11, 22, 100);
    rig.feed(link(0), &data(100, 22));
    assert_eq!(rig.up(link(30), &data(101, 22)).0, Verdict::Drop(DropReason::NotMember));
    rig.advance(ms(5000));
    let forged = reg2(&with_ticket(&half(66), EPOCH));
    assert_eq!(rig.up(link(0), &forged).0, Verdict::Drop(DropReason::AddressBusy));
    assert_eq!(rig.members(group), [link(0)]);
}

#[test]
fn a_stock_link_s_address_becomes_a_device_s() {
    let mut rig = Rig::admitting(ReceiverConfig::default(), mixed([rules(1)]));
    let stock = rig.register(&half(1), &[link(0)]);
    rig.feed(link(0), &data(1, 9));
    Device::new(1, &rig).join(&mut rig, link(0), 0);
    assert_ne!(rig.group_of(link(0)), Some(stock));
    assert_eq!(rig.groups(), 1);
}

#[test]
fn several_shards_are_one_receiver() {
    let devices: Vec<u8> = (1..=12).collect();
    let mut rigs: Vec<Rig> = (0..4)
        .map(|shard| {
            let config = ReceiverConfig { shard, shards: 4, ..ReceiverConfig::default() };
            Rig::admitting(config, mixed(devices.iter().map(|&n| rules(n))))
        })
        .collect();
    // All have the clock of the first.
    let now = rigs[0].now;
    for rig in &mut rigs {
        rig.now = now;
        rig.receiver.handle_command(now, Command::SetClock(clock(now)), &mut rig.out);
    }
    let mut owners = std::collections::HashSet::new();
    for &n in &devices {
        let mut device = Device::new(n, &rigs[0]);
        let mut owner_of_device = None;
        for at in 0..3usize {
            let from = link(100 + 4 * u16::from(n) + at as u16);
            let hello = device.hello(now, at as u32);
            let (verdict, did) = rigs[at].up(from, hello.packet());
            assert_eq!(verdict, Verdict::Consumed, "any shard answers a hello");
            let join = device.answer(now, &hello, from, &did);
            // The join comes in at a shard that is not the one that was asked.
            let entry = (at + 1) % 4;
            let (verdict, did) = rigs[entry].up(from, join.packet());
            let (owner, did) = match verdict {
                Verdict::HandOff(owner) => {
                    assert!(did.is_empty());
                    let (verdict, did) = rigs[usize::from(owner)].up(from, join.packet());
                    assert_eq!(verdict, Verdict::Consumed);
                    (owner, did)
                }
                verdict => {
                    assert_eq!(verdict, Verdict::Consumed);
                    (entry as u8, did)
                }
            };
            device.confirmed(&join, &did);
            assert_eq!(*owner_of_device.get_or_insert(owner), owner);
            assert!(did.contains(&(Action::Steer { addr: from, shard: owner, proven: true }, vec![])));
            // Data comes in where the join did, and cannot be led astray by a ticket.
            let forged = reg2(&with_ticket(&half(66), EPOCH));
            assert_eq!(rigs[entry].up(from, &forged).0, Verdict::Drop(DropReason::AddressBusy));
            match rigs[entry].up(from, &data(1, 9)).0 {
                Verdict::HandOff(to) => assert_eq!(to, owner),
                verdict => assert!(matches!(verdict, Verdict::Forward(_)) && entry == usize::from(owner)),
            }
            owners.insert(owner);
        }
        let owner = usize::from(owner_of_device.unwrap());
        assert_eq!(rigs[owner].receiver.snapshot(now).filter(|g| g.key_id == Some(key_id(n))).count(), 1);
    }
    assert!(owners.len() > 1);
    assert_eq!(rigs.iter().map(Rig::groups).sum::<usize>(), devices.len());
}

/// A join whose cookie is gone, for a group on another shard, is led there.
#[test]
fn a_stale_join_finds_its_living_group_on_the_shard_that_has_it() {
    let mut rigs: Vec<Rig> = (0..2)
        .map(|shard| {
            let config = ReceiverConfig { shard, shards: 2, ..ReceiverConfig::default() };
            Rig::admitting(config, strict((1..9).map(rules)))
        })
        .collect();
    let now = rigs[0].now;
    rigs[1].now = now;
    let (mut led, mut kept) = (0, 0);
    for n in 1..9 {
        let mut device = Device::new(n, &rigs[0]);
        let hello = device.hello(now, 0);
        let did = rigs[0].up(link(n.into()), hello.packet()).1;
        // Its clock goes wrong between hello and join.
        device.skew_ms = 1_000_000;
        let join = device.answer(now, &hello, link(n.into()), &did);
        for rig in &mut rigs {
            rig.feed(link(n.into()), join.packet());
        }
        // Moved by a NAT.
        for rig in &mut rigs {
            match rig.up(link(100 + u16::from(n)), join.packet()) {
                (Verdict::HandOff(_), did) if did.is_empty() => led += 1,
                (Verdict::Consumed, did) if did.len() == 1 => kept += 1,
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!((led, kept), (8, 8));
}

/// A device that offers nothing gets a link without trailers.
#[test]
fn flags_are_agreed() {
    let mut rig = rig();
    let mut device = Device::new(1, &rig);
    device.offered = Flags::NONE;
    assert_eq!(device.join(&mut rig, link(0), 0).accepted, Flags::NONE);
    let key = rig.link_key(link(0));
    assert_eq!(rig.up(link(0), &keepalive(2)).0, Verdict::ToLink(key));
}
