//! What is explained against what shards do: the same policies, the same addresses, and a receiver that is asked.

use std::sync::Arc;
use std::time::Instant;

use bondgate_auth::bans::{Ban, BanSet};
use bondgate_auth::geo::{Country, CountryRule, GeoRules, GeoSet};
use bondgate_auth::prefix::PrefixSet;
use bondgate_auth::ticket::TicketKey;
use bondgate_proto::LinkAddr;
use bondgate_proto::receiver::Verdict as Answer;
use bondgate_proto::receiver::{Actions, Clock, DropReason, Receiver, ReceiverConfig, Secrets};

use super::*;
use crate::config::{Config, cidr, keys::Key, value::Value};

const WALL_MS: u64 = 1_800_000_000_000;

fn config(set: &[(&str, &str)]) -> Config {
    let mut config = Config::default();
    for (path, text) in set {
        let key = Key::find(path).unwrap();
        key.assign(&mut config, &Value::from_text(text, key.kind())).unwrap();
    }
    config
}

fn bans() -> BanSet {
    let ban =
        |network: &str, until_ms, scope| Ban { network: cidr::parse(network).unwrap(), until_ms, scope };
    [
        ban("192.0.2.7", None, Scope::Everyone),
        ban("198.51.100.0/25", Some(WALL_MS + 1), Scope::Everyone),
        ban("198.51.100.200", Some(WALL_MS), Scope::Everyone),
        ban("2001:db8::/64", Some(WALL_MS + 9), Scope::Keyless),
    ]
    .into_iter()
    .collect()
}

fn countries() -> GeoSet {
    let country = |text| Country::parse(text).unwrap();
    let networks: PrefixSet<Country> = [("203.0.113.0/24", "XX"), ("198.51.100.0/24", "DE")]
        .map(|(network, of)| (cidr::parse(network).unwrap(), country(of)))
        .into_iter()
        .collect();
    let rules = GeoRules {
        countries: CountryRule::Block(vec![country("XX")]),
        admit_unknown: true,
        exempt_private: true,
    };
    GeoSet::new(networks, rules)
}

/// What a shard does with REG1 from an address: `None` when it answers.
fn asked(policy: &Policy, ip: IpAddr, magic: &[u8]) -> Option<DropReason> {
    let now = Instant::now();
    let secrets = Secrets { tickets: TicketKey::new([1; 32]), cookies: [2; 32], nonces: [3; 16] };
    let clock = Clock { at: now, boot_ms: 0, wall_ms: WALL_MS };
    let mut receiver =
        Receiver::new(ReceiverConfig::default(), secrets, Arc::clone(&policy.admission), clock, [4, 5], 6);
    let (actions, bytes) = receiver.actions_min();
    let mut reg1 = [7; 258];
    reg1[..2].copy_from_slice(&[0x92, 0x00]);
    reg1[2..2 + magic.len()].copy_from_slice(magic);
    let from = LinkAddr::new((ip, 5000).into());
    match receiver.handle_uplink(now, from, &reg1, &mut Actions::with_capacity(2 * actions, 2 * bytes)) {
        Answer::Drop(reason) => Some(reason),
        _ => None,
    }
}

#[test]
fn the_explanation_is_what_happens() {
    let configs = [
        &[][..],
        &[("srtla.auth", "open")],
        &[("srtla.auth", "mixed"), ("srtla.stock_allow", "198.51.100.0/24,2001:db8::/32")],
        &[("srtla.auth", "open"), ("srtla.allow", "192.0.2.0/24,203.0.113.0/24")],
        &[("srtla.auth", "mixed"), ("srtla.stock_allow", "0.0.0.0/0"), ("srtla.allow", "192.0.2.0/24")],
    ];
    let addresses = [
        "192.0.2.7",
        "192.0.2.8",
        "198.51.100.1",
        "198.51.100.129",
        "198.51.100.200",
        "203.0.113.5",
        "10.1.2.3",
        "2001:db8::5",
        "2001:db8:0:1::5",
        "2001:db9::1",
    ];
    let mut seen = std::collections::BTreeSet::new();
    for set in configs {
        for with_geo in [false, true] {
            let policy = Policy::compile(&config(set))
                .with_bans(bans())
                .with_geo(with_geo.then(|| Arc::new(countries())));
            for addr in addresses {
                let ip: IpAddr = addr.parse().unwrap();
                let mut caller = Caller {
                    ip,
                    port: Port::Srtla,
                    key_id: None,
                    stream: None,
                    wish: Wish::Publish,
                    token: None,
                };
                let steps = explain(&policy, &caller, WALL_MS);
                let last = steps.last().unwrap();
                let said = (last.verdict != Verdict::Pass).then_some(last.net);
                let happens = asked(&policy, ip, &[]).map(|reason| match reason {
                    DropReason::Banned => "bans",
                    DropReason::Geo => "geo",
                    DropReason::NotAdmitted if !policy.admission.networks.allows(ip) => "allow",
                    DropReason::NotAdmitted => "stock",
                    other => panic!("{other:?}"),
                });
                assert_eq!(said, happens, "{set:?} {addr}: {steps:?}");
                seen.insert(said);
                // Whoever comes with a key meets the nets that ask for none, and nothing else before the MAC.
                caller.key_id = Some([9; 8]);
                let steps = explain(&policy, &caller, WALL_MS);
                let barred = steps.iter().find(|step| step.verdict == Verdict::Silence).map(|step| step.net);
                let happens = asked(&policy, ip, b"SLA1").and_then(|reason| match reason {
                    DropReason::Banned => Some("bans"),
                    DropReason::Geo => Some("geo"),
                    _ => None,
                });
                assert_eq!(barred.filter(|net| matches!(*net, "bans" | "geo")), happens, "{set:?} {addr}");
                // And callers at the SRT port.
                caller = Caller { port: Port::Srt, key_id: None, ..caller };
                let steps = explain(&policy, &caller, WALL_MS);
                let said = steps.iter().any(|step| step.verdict != Verdict::Pass);
                assert_eq!(said, policy.drops_plain(ip, WALL_MS).is_some(), "{set:?} {addr}: {steps:?}");
            }
        }
    }
    let all = [None, Some("allow"), Some("bans"), Some("geo"), Some("stock")];
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), all, "every net has decided");
}

#[test]
fn streams_and_their_demands_are_explained() {
    let decided = |addr: &str, port, stream, served: &str| {
        let policy = Policy::compile(&config(&[
            ("srtla.auth", "mixed"),
            ("srtla.stock_allow", "192.0.2.0/24"),
            ("streams.cidr", "cam1"),
            ("streams.token", "cam2"),
            ("relay.streams", served),
        ]));
        let ip = addr.parse().unwrap();
        let caller =
            Caller { ip, port, key_id: None, stream: Some(stream), wish: Wish::Publish, token: None };
        let last = explain(&policy, &caller, 0).pop().unwrap();
        (last.net, last.verdict)
    };
    assert_eq!(decided("192.0.2.1", Port::Srtla, "cam1", ""), ("stream", Verdict::Pass));
    assert_eq!(decided("192.0.2.1", Port::Srtla, "cam2", ""), ("stream", Verdict::Refuse));
    assert_eq!(decided("192.0.2.1", Port::Srtla, "cam3", ""), ("stream", Verdict::Refuse));
    assert_eq!(decided("198.51.100.1", Port::Srt, "cam1", ""), ("stream", Verdict::Refuse));
    assert_eq!(decided("192.0.2.1", Port::Srtla, "cam1", "cam1"), ("stream", Verdict::Pass));
    assert_eq!(decided("192.0.2.1", Port::Srtla, "cam9", "cam1"), ("names", Verdict::Refuse));
}
