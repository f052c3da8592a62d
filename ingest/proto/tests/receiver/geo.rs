//! Countries: silence before any MAC or answer, and an end of what is up.

use crate::device::*;
use crate::rig::*;
use bondgate_auth::geo::{Country, CountryRule, GeoRules, GeoSet};
use bondgate_proto::LinkAddr;
use bondgate_proto::receiver::{
    Action, Admission, Ban, Cidr, CloseReason, DropReason, LeaveReason, Notice, ReceiverConfig, Scope,
    Verdict,
};
use std::sync::Arc;

/// Nobody may come in but from these addresses.
fn only(from: &[LinkAddr]) -> Arc<GeoSet> {
    let home = Country::parse("DE").unwrap();
    let networks = from.iter().map(|addr| (Cidr { addr: addr.ip(), prefix: 32 }, home)).collect();
    let rules =
        GeoRules { countries: CountryRule::Allow(vec![home]), admit_unknown: false, exempt_private: false };
    Arc::new(GeoSet::new(networks, rules))
}

#[test]
fn silence_for_everything_before_any_mac() {
    let admission = Admission { geo: Some(only(&[link(3), link(6)])), ..mixed([rules(1)]) };
    let mut rig = Rig::admitting(ReceiverConfig::default(), admission);
    let mut device = Device::new(1, &rig);
    let hello = *device.hello(rig.now, 1).packet();
    for _ in 0..500 {
        for bytes in
            [&hello[..], &reg1(&probe_id(1)), &reg2(&probe_id(1)), &reg2(&with_ticket(&half(1), EPOCH))]
        {
            assert_eq!(rig.up(link(0), bytes), (Verdict::Drop(DropReason::Geo), vec![]));
        }
    }
    // It has cost nobody a token.
    assert!(rig.advance(ms(10_000)).is_empty());
    device.join(&mut rig, link(3), 1);
    rig.register(&half(1), &[link(6)]);
}

#[test]
fn a_ban_is_named_before_the_country() {
    let ban = Ban { network: Cidr { addr: link(0).ip(), prefix: 32 }, until_ms: None, scope: Scope::Keyless };
    let bans = Arc::new([ban].into_iter().collect());
    let mut rig = Rig::admitting(
        ReceiverConfig::default(),
        Admission { bans, geo: Some(only(&[])), ..mixed([rules(1)]) },
    );
    assert_eq!(rig.up(link(0), &reg1(&probe_id(1))).0, Verdict::Drop(DropReason::Banned));
    assert_eq!(rig.up(link(3), &reg1(&probe_id(1))).0, Verdict::Drop(DropReason::Geo));
}

/// A new database: the links that are elsewhere now end, and the group with the last of them.
#[test]
fn what_is_up_is_asked_again_when_the_policy_moves() {
    let mut rig = Rig::admitting(ReceiverConfig::default(), mixed([rules(1)]));
    let mut device = Device::new(1, &rig);
    device.join(&mut rig, link(0), 1);
    device.join(&mut rig, link(3), 2);
    let group = rig.group_of(link(0)).unwrap();
    let stock = rig.register(&half(1), &[link(6)]);
    let did = rig.admit(Admission { geo: Some(only(&[link(3), link(6)])), ..mixed([rules(1)]) });
    assert!(did.iter().any(|(action, _)| *action == Action::Unsteer { addr: link(0) }), "{did:?}");
    assert!(notices(&did).iter().any(
        |notice| matches!(notice, Notice::LinkLeft { addr, reason: LeaveReason::Country, .. } if *addr == link(0))
    ));
    assert_eq!((rig.members(group), rig.members(stock)), (vec![link(3)], vec![link(6)]));
    assert_eq!(rig.up(link(0), &data(1, 22)).0, Verdict::Drop(DropReason::NotMember));
    let did = rig.admit(Admission { geo: Some(only(&[link(0)])), ..mixed([rules(1)]) });
    let closed: Vec<_> = notices(&did)
        .into_iter()
        .filter_map(|notice| match notice {
            Notice::GroupClosed { group, reason } => Some((group, reason)),
            _ => None,
        })
        .collect();
    assert_eq!(closed.len(), 2);
    assert!(
        closed.contains(&(group, CloseReason::Country)) && closed.contains(&(stock, CloseReason::Country))
    );
    // It may come back as soon as it is somewhere else.
    device.join(&mut rig, link(0), 3);
}

/// A stock link that is adopted by its traffic is not adopted from elsewhere.
#[test]
fn nobody_roams_abroad() {
    for abroad in [false, true] {
        let home = [link(0), link(3)];
        let geo = Some(only(if abroad { &home[..1] } else { &home }));
        let mut rig = Rig::admitting(ReceiverConfig::default(), Admission { geo, ..Admission::open() });
        let group = rig.register(&half(1), &[link(0)]);
        rig.open_session(group, link(0), 11, 22, 100);
        rig.feed(link(0), &data(100, 22));
        let verdict = rig.up(link(3), &data(101, 22)).0;
        let expected = if abroad { Verdict::Drop(DropReason::NotMember) } else { Verdict::Forward(group) };
        assert_eq!(verdict, expected);
    }
}
