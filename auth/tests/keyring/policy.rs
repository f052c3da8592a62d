//! Every decision of the stream policy against a naive oracle, and the rows of its table one by one.

use crate::*;
use bondgate_auth::cidr::Cidr;
use bondgate_auth::keyring::text::{self, Kind};
use bondgate_auth::sa1::StreamBind;
use bondgate_auth::stream::{
    Ask, Grant, Play, Proof, StreamPolicy, StreamRefusal, Strength, TokenHash, TokenId, TokenRule,
};
use bondgate_auth::table::DeviceRules;
use proptest::prelude::*;
use std::net::IpAddr;

const STRENGTHS: [Strength; 5] =
    [Strength::Open, Strength::Cidr, Strength::Token, Strength::Sa1, Strength::Sa1Token];
/// Streams of all kinds: without tenant, of two tenants, of somebody who is no tenant.
const STREAMS: [&str; 5] = ["cam1", "acme/cam1", "acme/cam2", "zeta/cam1", "live/cam1"];
const TENANTS: [&str; 2] = ["acme", "zeta"];
const ADDRESSES: [&str; 3] = ["192.0.2.7", "::ffff:192.0.2.7", "198.51.100.1"];

fn network() -> Cidr {
    Cidr { addr: "192.0.2.0".parse().unwrap(), prefix: 24 }
}

fn secret(n: usize) -> [u8; 20] {
    [n as u8; 20]
}

fn text_of(n: usize) -> String {
    text::encode(Kind::StreamToken, &secret(n))
}

#[derive(Clone, Debug)]
struct TokenCase {
    stream: usize,
    scope: Wish,
    expires_ms: Option<u64>,
    once: bool,
    spent: bool,
    bound: bool,
}

impl TokenCase {
    fn rule(&self, n: usize) -> TokenRule {
        TokenRule {
            hash: TokenHash::of(&secret(n)),
            stream: STREAMS[self.stream].into(),
            scope: self.scope,
            expires_ms: self.expires_ms,
            once: self.once,
            spent: self.spent,
            from: if self.bound { vec![network()] } else { Vec::new() },
        }
    }
}

#[derive(Clone, Debug)]
enum Who {
    Device { tenant: Option<usize>, streams: Vec<usize>, bind: Option<(Option<usize>, usize)> },
    Stock { listed: bool },
    Plain { listed: bool },
}

#[derive(Clone, Debug)]
struct Case {
    default: Option<Strength>,
    named: Vec<(usize, Strength)>,
    play: Play,
    tokens: Vec<TokenCase>,
    who: Who,
    wish: Wish,
    stream: usize,
    token: Option<usize>,
    from: usize,
    now: u64,
}

fn tenant_name(tenant: Option<usize>) -> &'static str {
    tenant.map_or("", |tenant| TENANTS[tenant])
}

impl Case {
    fn policy(&self) -> StreamPolicy {
        let named = self.named.iter().map(|(stream, strength)| (STREAMS[*stream].into(), *strength));
        let tokens = self.tokens.iter().enumerate().map(|(n, token)| token.rule(n));
        StreamPolicy::new(self.default, named, self.play).with_keyring(TENANTS.map(Into::into), tokens)
    }

    fn decide(&self, policy: &StreamPolicy) -> Result<Grant, StreamRefusal> {
        let rules;
        let proof = match &self.who {
            Who::Stock { listed } => Proof::Stock { listed: *listed },
            Who::Plain { listed } => Proof::Plain { listed: *listed },
            Who::Device { tenant, streams, bind } => {
                let tenant = tenant_name(*tenant);
                rules = DeviceRules {
                    name: "pack".into(),
                    tenant: tenant.into(),
                    streams: streams.iter().map(|stream| STREAMS[*stream].into()).collect(),
                    binds: streams.iter().map(|stream| StreamBind::of(tenant, STREAMS[*stream])).collect(),
                    groups_max: 1,
                    links_max: 1,
                };
                let bind = bind.map_or(StreamBind::ANY, |(tenant, stream)| {
                    StreamBind::of(tenant_name(tenant), STREAMS[stream])
                });
                Proof::Device { rules: &rules, bind }
            }
        };
        let token = self.token.map(text_of);
        let ask = Ask {
            wish: self.wish,
            stream: STREAMS[self.stream],
            token: token.as_deref(),
            proof,
            from: ADDRESSES[self.from].parse::<IpAddr>().unwrap(),
        };
        policy.decide(&ask, self.now)
    }

    /// The rules again, in the plainest words.
    fn oracle(&self) -> bool {
        let token_ok = self.token.is_some_and(|n| {
            self.tokens.get(n).is_some_and(|token| {
                token.stream == self.stream
                    && token.scope == self.wish
                    && token.expires_ms.is_none_or(|at| self.now < at)
                    && !(token.once && token.spent)
                    && (!token.bound || self.from < 2)
            })
        });
        if self.wish == Wish::Play {
            return self.play == Play::Open || token_ok;
        }
        let named = self.named.iter().rev().find(|(stream, _)| *stream == self.stream);
        let Some(demand) = named.map(|(_, strength)| *strength).or(self.default) else { return false };
        let (device, listed) = match &self.who {
            Who::Stock { listed } | Who::Plain { listed } => (false, *listed),
            Who::Device { tenant, streams, bind } => {
                let owner = match self.stream {
                    1 | 2 => Some(0),
                    3 => Some(1),
                    _ => None,
                };
                let own = owner == *tenant
                    && (streams.is_empty() || streams.contains(&self.stream))
                    && bind.is_none_or(|(of, stream)| of == *tenant && stream == self.stream);
                if !own {
                    return false;
                }
                (true, false)
            }
        };
        match demand {
            Strength::Open => true,
            Strength::Cidr => device || listed || token_ok,
            Strength::Token => device || token_ok,
            Strength::Sa1 => device,
            Strength::Sa1Token => device && token_ok,
        }
    }
}

fn strength() -> impl Strategy<Value = Strength> {
    prop::sample::select(&STRENGTHS[..])
}

fn wish() -> impl Strategy<Value = Wish> {
    prop::sample::select(&[Wish::Publish, Wish::Publish, Wish::Play][..])
}

fn token_case() -> impl Strategy<Value = TokenCase> {
    let expires = prop::option::of((0..3_u64).prop_map(|ms| NOW + ms));
    (0..STREAMS.len(), wish(), expires, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        |(stream, scope, expires_ms, once, spent, bound)| TokenCase {
            stream,
            scope,
            expires_ms,
            once,
            spent,
            bound,
        },
    )
}

fn who() -> impl Strategy<Value = Who> {
    let tenant = || prop::option::of(0..TENANTS.len());
    let streams = prop::collection::vec(0..STREAMS.len(), 0..3);
    let bind = prop::option::of((tenant(), 0..STREAMS.len()));
    prop_oneof![
        2 => (tenant(), streams, bind).prop_map(|(tenant, streams, bind)| Who::Device { tenant, streams, bind }),
        1 => any::<bool>().prop_map(|listed| Who::Stock { listed }),
        1 => any::<bool>().prop_map(|listed| Who::Plain { listed }),
    ]
}

fn case() -> impl Strategy<Value = Case> {
    let rules = (
        prop::option::of(strength()),
        prop::collection::vec((0..STREAMS.len(), strength()), 0..6),
        prop::sample::select(&[Play::Open, Play::Token][..]),
        prop::collection::vec(token_case(), 0..6),
    );
    let ask = (who(), wish(), 0..STREAMS.len(), prop::option::of(0..8_usize), 0..3_usize, NOW..NOW + 3);
    (rules, ask).prop_map(|((default, named, play, tokens), (who, wish, stream, token, from, now))| Case {
        default,
        named,
        play,
        tokens,
        who,
        wish,
        stream,
        token,
        from,
        now,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn decisions_are_the_oracles(case in case()) {
        let policy = case.policy();
        let decided = case.decide(&policy);
        prop_assert_eq!(decided.is_ok(), case.oracle(), "{:?}", decided);
        match decided {
            Ok(grant) => {
                // What is granted once and for one caller is refused the second time, whoever asks.
                let again = case.decide(&policy);
                prop_assert_eq!(again.is_err(), grant.spent);
                if grant.spent {
                    prop_assert_eq!(again.unwrap_err().label, "token_spent");
                }
            }
            Err(refusal) => prop_assert!(matches!(refusal.code, 1401 | 1403 | 1404)),
        }
    }
}

fn rules(tenant: &str, streams: &[&str]) -> DeviceRules {
    DeviceRules {
        name: "pack".into(),
        tenant: tenant.into(),
        streams: streams.iter().map(|stream| (*stream).into()).collect(),
        binds: streams.iter().map(|stream| StreamBind::of(tenant, stream)).collect(),
        groups_max: 1,
        links_max: 1,
    }
}

fn publish_token() -> TokenCase {
    TokenCase { stream: 0, scope: Wish::Publish, expires_ms: None, once: false, spent: false, bound: false }
}

fn policy(demand: Strength) -> StreamPolicy {
    StreamPolicy::new(Some(demand), [], Play::Open).with_keyring(["acme".into()], [publish_token().rule(0)])
}

fn ask<'a>(proof: Proof<'a>, token: Option<&'a str>) -> Ask<'a> {
    Ask { wish: Wish::Publish, stream: "cam1", token, proof, from: "192.0.2.7".parse().unwrap() }
}

/// The table at the head of the module, row by row.
#[test]
fn the_table_of_strengths() {
    let device = rules("", &[]);
    let proof = Proof::Device { rules: &device, bind: StreamBind::ANY };
    let token = text_of(0);
    for (proof, token, passes) in [
        (Proof::Stock { listed: false }, None, 1),
        (Proof::Plain { listed: false }, None, 1),
        (Proof::Stock { listed: true }, None, 2),
        (Proof::Plain { listed: true }, None, 2),
        (Proof::Stock { listed: false }, Some(token.as_str()), 3),
        (Proof::Stock { listed: true }, Some(&token), 3),
        (Proof::Plain { listed: false }, Some(&token), 3),
        (proof, None, 4),
        (proof, Some(&token), 5),
    ] {
        for (n, demand) in STRENGTHS.into_iter().enumerate() {
            let decided = policy(demand).decide(&ask(proof, token), NOW);
            assert_eq!(decided.is_ok(), n < passes, "{proof:?} {token:?} at {demand}: {decided:?}");
        }
    }
}

#[test]
fn refusals_have_codes_and_reasons() {
    let (plain, acme) = (rules("", &[]), rules("acme", &["acme/cam1"]));
    let of = |rules, bind| Proof::Device { rules, bind };
    let stock = Proof::Stock { listed: false };
    let (good, other) = (text_of(0), text_of(1));
    let any = StreamBind::ANY;
    for (demand, name, proof, token, code, label, why) in [
        (Strength::Sa1, "cam1", stock, Some(good.as_str()), 1403, "sa1_required", "only a device with a key"),
        (Strength::Cidr, "cam1", stock, None, 1401, "address", "192.0.2.7 is not listed"),
        (Strength::Token, "cam1", stock, None, 1401, "token_missing", "a publish token is needed"),
        (Strength::Token, "cam1", stock, Some(&good[..30]), 1401, "token_malformed", "truncated"),
        (Strength::Token, "cam1", stock, Some("hunter2"), 1401, "token_malformed", "begins differently"),
        (Strength::Token, "cam1", stock, Some(&other), 1401, "token_unknown", "not one for this stream"),
        (Strength::Token, "cam2", stock, Some(&good), 1401, "token_unknown", "not one for this stream"),
        (
            Strength::Open,
            "acme/cam1",
            of(&plain, any),
            None,
            1403,
            "tenant",
            "no tenant, and the stream is one of tenant acme's",
        ),
        (Strength::Open, "cam1", of(&acme, any), None, 1403, "tenant", "whose streams are named acme/..."),
        (Strength::Open, "acme/cam2", of(&acme, any), None, 1403, "device_stream", "may not publish this"),
        (
            Strength::Open,
            "acme/cam1",
            of(&acme, StreamBind::of("acme", "acme/cam2")),
            None,
            1403,
            "bind",
            "another stream",
        ),
    ] {
        let ask = Ask { stream: name, ..ask(proof, token) };
        let refusal = policy(demand).decide(&ask, NOW).unwrap_err();
        assert_eq!((refusal.code, refusal.label), (code, label), "{refusal}");
        assert!(refusal.why.contains(why), "{refusal}");
        assert!(!refusal.why.contains(&good[4..20]) && !refusal.why.contains("hunter2"), "{refusal}");
    }
    let closed = StreamPolicy::new(None, [("cam1".into(), Strength::Open)], Play::Open);
    assert_eq!(closed.decide(&Ask { stream: "cam2", ..ask(stock, None) }, NOW).unwrap_err().code, 1404);
    assert!(closed.decide(&ask(stock, None), NOW).is_ok());
}

#[test]
fn a_spent_token_stays_spent_when_the_policy_is_made_anew() {
    let rule = TokenRule { once: true, ..publish_token().rule(0) };
    let demands = || StreamPolicy::new(Some(Strength::Token), [], Play::Open);
    let token = text_of(0);
    let ask = ask(Proof::Stock { listed: false }, Some(&token));
    let first = demands().with_keyring([], [rule.clone()]);
    let grant = first.decide(&ask, NOW).unwrap();
    assert_eq!(grant, Grant { token: Some(rule.hash.id()), spent: true });
    assert_eq!(first.decide(&ask, NOW).unwrap_err().label, "token_spent");
    for again in [first.with_keyring([], [rule.clone()]), demands().with_keyring_of(&first)] {
        assert_eq!(again.decide(&ask, NOW).unwrap_err().label, "token_spent");
    }
    let forgetful = demands().with_keyring([], [rule]);
    assert!(forgetful.decide(&ask, NOW).is_ok(), "without the memory it would be good again");
}

/// Who was let in stays while the stream demands no more than was shown: the same table, with the token that was needed.
#[test]
fn who_was_let_in_is_held_against_new_rules() {
    let device = rules("", &[]);
    let proof = Proof::Device { rules: &device, bind: StreamBind::ANY };
    let token = text_of(0);
    let (nobody, listed) = (Proof::Stock { listed: false }, Proof::Plain { listed: true });
    for (proof, token) in
        [(nobody, None), (nobody, Some(token.as_str())), (listed, None), (proof, None), (proof, Some(&token))]
    {
        for before in STRENGTHS {
            let Ok(grant) = policy(before).decide(&ask(proof, token), NOW) else { continue };
            for after in STRENGTHS {
                let kept = policy(after).keeps(Wish::Publish, "cam1", grant.token.as_ref(), &proof);
                // A token that was shown and not needed then is not remembered.
                let needed = grant.token.and(token);
                let decided = policy(after).decide(&ask(proof, needed), NOW);
                assert_eq!(
                    kept,
                    decided.is_ok(),
                    "{proof:?} {needed:?} from {before} to {after}: {decided:?}"
                );
            }
        }
    }
    let (id, other) = (TokenHash::of_text(&token).unwrap().id(), TokenId([9; 6]));
    let expired = TokenRule { expires_ms: Some(1), once: true, spent: true, ..publish_token().rule(0) };
    let later = StreamPolicy::new(Some(Strength::Token), [], Play::Token).with_keyring([], [expired]);
    assert!(later.keeps(Wish::Publish, "cam1", Some(&id), &nobody), "used up and expired, not revoked");
    assert!(!later.keeps(Wish::Publish, "cam1", Some(&other), &nobody), "revoked");
    assert!(!policy(Strength::Open).keeps(Wish::Publish, "cam1", Some(&other), &nobody), "revoked");
    assert!(
        !later.keeps(Wish::Play, "cam1", None, &listed)
            && later.keeps(Wish::Play, "cam1", Some(&id), &listed)
    );
    assert!(policy(Strength::Sa1).keeps(Wish::Play, "cam1", None, &nobody), "playing is open");
    let elsewhere = rules("acme", &[]);
    let elsewhere = Proof::Device { rules: &elsewhere, bind: StreamBind::ANY };
    assert!(
        !policy(Strength::Open).keeps(Wish::Publish, "cam1", None, &elsewhere),
        "no stream of its tenant's"
    );
}
