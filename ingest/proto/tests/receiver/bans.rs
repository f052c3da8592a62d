//! Who is kept out: silence before any MAC or answer, and an end of what is up.

use crate::device::*;
use crate::rig::*;
use bondgate_proto::LinkAddr;
use bondgate_proto::receiver::{
    Action, Admission, AdmitPolicy, Ban, BanSet, Cidr, CloseReason, Command, DropReason, LeaveReason, Notice,
    PrefixSet, ReceiverConfig, Scope, StockAdmission, Verdict,
};
use std::sync::Arc;

const WALL_MS: u64 = 1_800_000_000_000;

fn ban(from: LinkAddr, scope: Scope, until_ms: Option<u64>) -> Arc<BanSet> {
    let ban = Ban { network: Cidr { addr: from.ip(), prefix: 32 }, until_ms, scope };
    Arc::new([ban].into_iter().collect())
}

fn banning(from: LinkAddr, scope: Scope) -> Admission {
    Admission { bans: ban(from, scope, None), ..mixed([rules(1)]) }
}

#[test]
fn silence_for_everything_before_any_mac() {
    let mut rig = Rig::admitting(ReceiverConfig::default(), banning(link(0), Scope::Everyone));
    let mut device = Device::new(1, &rig);
    let hello = *device.hello(rig.now, 1).packet();
    let banned = (Verdict::Drop(DropReason::Banned), vec![]);
    for _ in 0..500 {
        for bytes in
            [&hello[..], &reg1(&probe_id(1)), &reg2(&probe_id(1)), &reg2(&with_ticket(&half(1), EPOCH))]
        {
            assert_eq!(rig.up(link(0), bytes), banned);
        }
    }
    // It has cost nobody a token: others are served from full lanes, the device beside it included.
    assert!(rig.advance(ms(10_000)).is_empty());
    device.join(&mut rig, link(3), 1);
    rig.register(&half(1), &[link(6)]);
}

#[test]
fn a_ban_is_over_when_the_clock_says_so() {
    let bans = ban(link(0), Scope::Everyone, Some(WALL_MS + 5000));
    let mut rig = Rig::admitting(ReceiverConfig::default(), Admission { bans, ..Admission::open() });
    assert_eq!(rig.up(link(0), &reg1(&probe_id(1))).0, Verdict::Drop(DropReason::Banned));
    rig.advance(ms(4999));
    assert_eq!(rig.up(link(0), &reg1(&probe_id(1))).0, Verdict::Drop(DropReason::Banned));
    rig.advance(ms(1));
    assert_eq!(rig.up(link(0), &reg1(&probe_id(1))).0, Verdict::Consumed);
}

#[test]
fn failures_of_others_lock_out_no_device_and_cut_nothing_that_was_accepted() {
    let admission = Admission { probation: true, ..mixed([rules(1)]) };
    let mut rig = Rig::admitting(ReceiverConfig::default(), admission.clone());
    let mut device = Device::new(1, &rig);
    let accepted = rig.register(&half(1), &[link(0)]);
    rig.receiver.handle_command(rig.now, Command::StreamAccepted(accepted), &mut rig.out);
    let guessing = rig.register(&half(2), &[link(1)]);
    let elsewhere = rig.register(&half(3), &[link(3)]);
    let did = rig.admit(Admission { bans: ban(link(0), Scope::Keyless, None), ..admission });
    assert_eq!(
        notices(&did).last(),
        Some(&Notice::GroupClosed { group: guessing, reason: CloseReason::Banned })
    );
    assert_eq!((rig.members(accepted), rig.members(elsewhere)), (vec![link(0)], vec![link(3)]));
    assert_eq!(rig.up(link(2), &reg1(&probe_id(4))).0, Verdict::Drop(DropReason::Banned));
    device.join(&mut rig, link(2), 1);
}

/// The group of a device lives on over the modems whose addresses are not banned, and falls silent on the others at once.
#[test]
fn links_at_banned_addresses_end_and_others_go_on() {
    let config =
        ReceiverConfig { shards: 2, shard: (0..2).find(|&n| owner(n)).unwrap(), ..ReceiverConfig::default() };
    let mut rig = Rig::admitting(config, mixed([rules(1)]));
    let mut device = Device::new(1, &rig);
    device.join(&mut rig, link(0), 1);
    device.join(&mut rig, link(3), 2);
    let group = rig.group_of(link(0)).unwrap();
    rig.open_session(group, link(0), 11, 22, 100);
    rig.feed(link(0), &data(100, 22));
    assert_eq!(rig.one_link(group, &control(6, 1, 11)), Some(link(0)));
    let did = rig.admit(banning(link(0), Scope::Everyone));
    assert!(did.iter().any(|(action, _)| *action == Action::Unsteer { addr: link(0) }), "{did:?}");
    assert!(notices(&did).iter().any(
        |notice| matches!(notice, Notice::LinkLeft { addr, reason: LeaveReason::Banned, .. } if *addr == link(0))
    ));
    assert_eq!(rig.members(group), [link(3)]);
    assert_eq!(rig.up(link(0), &data(101, 22)).0, Verdict::Drop(DropReason::NotMember));
    assert_eq!(rig.up(link(3), &data(101, 22)).0, Verdict::Forward(group));
    assert_eq!(rig.one_link(group, &control(6, 1, 11)), Some(link(3)));
    // The other one too: nothing is left.
    let did = rig.admit(banning(link(3), Scope::Everyone));
    assert_eq!(notices(&did).last(), Some(&Notice::GroupClosed { group, reason: CloseReason::Banned }));
}

/// An allowlist that gets shorter ends links as a ban does: those outside it, and groups with the last of them.
#[test]
fn links_that_are_not_on_the_lists_any_more_end_and_others_go_on() {
    let named = |links: &[LinkAddr]| -> Arc<PrefixSet<()>> {
        Arc::new(links.iter().map(|link| Cidr { addr: link.ip(), prefix: 32 }).collect())
    };
    let all = [link(0), link(3), link(6), link(9)];
    let stock =
        |links: &[LinkAddr]| Admission { stock: StockAdmission::Listed(named(links)), ..mixed([rules(1)]) };
    let mut rig = Rig::admitting(ReceiverConfig::default(), stock(&all));
    let mut device = Device::new(1, &rig);
    device.join(&mut rig, link(0), 1);
    device.join(&mut rig, link(3), 2);
    let group = rig.group_of(link(0)).unwrap();
    let phone = rig.register(&half(1), &[link(6), link(9)]);
    let left = |did: &Did, gone: LinkAddr| {
        notices(did).iter().any(|notice| {
            matches!(notice, Notice::LinkLeft { addr, reason: LeaveReason::NotAdmitted, .. } if *addr == gone)
        })
    };
    // The list of senders without a key is nothing to a device.
    let did = rig.admit(stock(&[link(6)]));
    assert!(
        left(&did, link(9)) && did.iter().any(|(a, _)| *a == Action::Unsteer { addr: link(9) }),
        "{did:?}"
    );
    assert_eq!((rig.members(group), rig.members(phone)), (vec![link(0), link(3)], vec![link(6)]));
    // The allowlist is for everybody, although the device's last link was not the one that stays.
    let only_first = AdmitPolicy::Listed(named(&[link(0)]));
    let did = rig.admit(Admission { networks: only_first.clone(), ..stock(&all) });
    assert!(left(&did, link(3)), "{did:?}");
    assert!(
        notices(&did).contains(&Notice::GroupClosed { group: phone, reason: CloseReason::NotAdmitted }),
        "{did:?}"
    );
    assert_eq!((rig.members(group), rig.groups()), (vec![link(0)], 1));
    assert_eq!(rig.up(link(3), &data(101, 22)).0, Verdict::Drop(DropReason::NotMember));
    assert_eq!(rig.up(link(0), &data(101, 22)).0, Verdict::Forward(group));
    let did = rig.admit(Admission { networks: AdmitPolicy::Listed(named(&[link(6)])), ..stock(&all) });
    assert_eq!(notices(&did).last(), Some(&Notice::GroupClosed { group, reason: CloseReason::NotAdmitted }));
    // As soon as it is named again it may come back.
    rig.admit(stock(&all));
    device.join(&mut rig, link(0), 3);
}

/// The shard that owns the key of device 1.
fn owner(shard: u8) -> bool {
    let config = ReceiverConfig { shards: 2, shard, ..ReceiverConfig::default() };
    let mut rig = Rig::admitting(config, mixed([rules(1)]));
    let mut device = Device::new(1, &rig);
    let join = device.ask(&mut rig, link(0), 1);
    rig.up(link(0), join.packet()).0 == Verdict::Consumed
}

/// Without room to say so, a banned link is silent all the same; what is to be undone comes when there is room.
#[test]
fn no_room_is_no_way_round_a_ban() {
    let mut rig = Rig::admitting(ReceiverConfig::default(), mixed([rules(1)]));
    let mut device = Device::new(1, &rig);
    device.join(&mut rig, link(0), 1);
    device.join(&mut rig, link(3), 2);
    let group = rig.group_of(link(0)).unwrap();
    rig.open_session(group, link(0), 11, 22, 100);
    rig.feed(link(0), &data(100, 22));
    let (actions, bytes) = rig.receiver.actions_min();
    let roomy =
        std::mem::replace(&mut rig.out, bondgate_proto::receiver::Actions::with_capacity(actions - 1, bytes));
    assert!(rig.admit(banning(link(0), Scope::Everyone)).is_empty());
    for bytes in [data(101, 22), keepalive(10), srt_ack(1, 101, 22)] {
        assert_eq!(rig.up(link(0), &bytes), (Verdict::Drop(DropReason::Banned), vec![]));
    }
    assert_eq!(rig.fan_out(group, &srt_ack(2, 101, 11)), [link(3)]);
    assert_eq!(rig.one_link(group, &control(6, 1, 11)), Some(link(3)));
    rig.out = roomy;
    let did = rig.advance(ms(1));
    assert_eq!(notices(&did).len(), 1, "{did:?}");
    assert_eq!(rig.members(group), [link(3)]);
}

/// A stock link that is adopted by its traffic is not adopted from a banned address.
#[test]
fn roaming_does_not_lead_into_a_ban() {
    for (bans, adopted) in [(Arc::default(), true), (ban(link(9), Scope::Keyless, None), false)] {
        let mut rig = Rig::admitting(ReceiverConfig::default(), Admission { bans, ..Admission::open() });
        let group = rig.register(&half(1), &[link(0)]);
        rig.open_session(group, link(0), 11, 22, 100);
        rig.feed(link(0), &data(100, 22));
        let verdict = rig.up(link(9), &data(101, 22)).0;
        assert_eq!(verdict == Verdict::Forward(group), adopted, "{verdict:?}");
    }
}

#[test]
fn a_ban_does_not_fill_anybody_s_buckets_again() {
    let mut rig = Rig::admitting(ReceiverConfig::default(), strict([rules(1)]));
    let admission = Arc::new(strict([rules(1)]));
    rig.receiver.handle_command(rig.now, Command::SetAdmission(Arc::clone(&admission)), &mut rig.out);
    let mut device = Device::new(1, &rig);
    let mut forged = *device.hello(rig.now, 1).packet();
    forged[257] ^= 1;
    let macs = |rig: &mut Rig| {
        (0..200).filter(|_| rig.up(link(0), &forged).0 == Verdict::Drop(DropReason::Sa1Mac1)).count()
    };
    assert_eq!(macs(&mut rig), 64);
    let bans = ban(link(9), Scope::Everyone, None);
    rig.admit(Admission { bans, ..Admission::clone(&admission) });
    assert_eq!(macs(&mut rig), 0);
}
