//! Says, net by net and in the order in which shards ask them, what becomes of somebody at an address.
//!
//! Promise: every verdict here is an answer of the functions that shards call, for a caller who has not shown anything yet;
//! this module only puts them into words. Budgets are named, not drawn from.

use std::net::IpAddr;

use bondgate_auth::sa1::{KeyId, StreamBind};
use bondgate_auth::stream::{Ask, Proof, Wish};
use bondgate_proto::receiver::{AdmitPolicy, DropReason, Rate, Scope, StockAdmission};

use super::Policy;

/// Which port is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Port {
    /// `srtla.listen`.
    Srtla,
    /// `srt.listen`.
    Srt,
}

/// Who asks for what.
#[derive(Clone, Debug)]
pub struct Caller<'a> {
    /// From where.
    pub ip: IpAddr,
    /// At which port.
    pub port: Port,
    /// With this key.
    pub key_id: Option<KeyId>,
    /// To publish or play this stream.
    pub stream: Option<&'a str>,
    /// Which of the two.
    pub wish: Wish,
    /// With this token.
    pub token: Option<&'a str>,
}

/// What a net does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Lets pass.
    Pass,
    /// Silence: nothing is answered.
    Silence,
    /// An answer that says no.
    Refuse,
}

impl Verdict {
    /// As it is printed.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Silence => "silence",
            Self::Refuse => "refuse",
        }
    }
}

/// One net's answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// The net.
    pub net: &'static str,
    /// What it does.
    pub verdict: Verdict,
    /// By which rule.
    pub rule: String,
    /// Where the rule comes from: a key of the configuration, or a file of the state directory.
    pub from: &'static str,
}

fn step(net: &'static str, verdict: Verdict, rule: impl Into<String>, from: &'static str) -> Step {
    Step { net, verdict, rule: rule.into(), from }
}

/// All nets up to the one that does not let pass.
pub fn explain(policy: &Policy, caller: &Caller<'_>, wall_ms: u64) -> Vec<Step> {
    let mut steps = Vec::new();
    let nets = [
        Some(bans(policy, caller, wall_ms)),
        countries(policy, caller),
        Some(lists(policy, caller)),
        registration(policy, caller),
        limits(policy, caller),
    ];
    for step in nets.into_iter().flatten() {
        let passes = step.verdict == Verdict::Pass;
        steps.push(step);
        if !passes {
            return steps;
        }
    }
    if let Some(stream) = caller.stream {
        let names = policy.served();
        if !names.is_empty() {
            let verdict = if policy.serves(stream) { Verdict::Pass } else { Verdict::Refuse };
            steps.push(step("names", verdict, format!("names are {}", names.join(", ")), "relay.streams"));
            if verdict != Verdict::Pass {
                return steps;
            }
        }
        steps.push(self::stream(policy, caller, stream, wall_ms));
    }
    steps
}

fn bans(policy: &Policy, caller: &Caller<'_>, wall_ms: u64) -> Step {
    let found = match caller.port {
        Port::Srtla => policy.admission.ban(caller.ip, caller.key_id.is_some(), wall_ms),
        Port::Srt => policy
            .drops_plain(caller.ip, wall_ms)
            .filter(|reason| *reason == DropReason::Banned)
            .and_then(|_| policy.admission.ban(caller.ip, false, wall_ms)),
    };
    match found {
        None => {
            let spared = policy.admission.ban(caller.ip, false, wall_ms).is_some();
            let rule = if spared { "banned for failures, which spares devices" } else { "not banned" };
            step("bans", Verdict::Pass, rule, "bans.json")
        }
        Some(ban) => {
            let whom = match ban.scope {
                Scope::Everyone => "everybody",
                Scope::Keyless => "whoever has no key",
            };
            let end = ban.until_ms.map_or_else(
                || "until it is deleted".to_owned(),
                |ms| format!("for {} s more", ms.saturating_sub(wall_ms) / 1000),
            );
            step(
                "bans",
                Verdict::Silence,
                format!("{} is banned for {whom}, {end}", ban.network),
                "bans.json",
            )
        }
    }
}

fn countries(policy: &Policy, caller: &Caller<'_>) -> Option<Step> {
    let found = policy.admission.geo.as_ref()?.look(caller.ip);
    let verdict = if found.admitted { Verdict::Pass } else { Verdict::Silence };
    Some(step("geo", verdict, found.to_string(), "geo"))
}

fn lists(policy: &Policy, caller: &Caller<'_>) -> Step {
    if caller.port == Port::Srt {
        return step("allow", Verdict::Pass, "not asked at the SRT port", "srtla.allow");
    }
    let networks = &policy.admission.networks;
    let rule = match networks {
        AdmitPolicy::Open => "empty: every address may register".to_owned(),
        AdmitPolicy::Listed(networks) => networks.longest(caller.ip).map_or_else(
            || "the address is in none of the networks".to_owned(),
            |(network, ())| format!("the address is in {network}"),
        ),
    };
    let verdict = match (networks.allows(caller.ip), caller.key_id) {
        (true, _) => Verdict::Pass,
        (false, Some(_)) => Verdict::Refuse,
        (false, None) => Verdict::Silence,
    };
    step("allow", verdict, rule, "srtla.allow")
}

fn registration(policy: &Policy, caller: &Caller<'_>) -> Option<Step> {
    if caller.port == Port::Srt {
        return None;
    }
    if let Some(key_id) = &caller.key_id {
        let from = "keyring";
        return Some(match policy.admission.keys.entry(key_id) {
            Some(entry) => {
                step("key", Verdict::Pass, format!("a valid key of device {}", entry.rules.name), from)
            }
            None => {
                step("key", Verdict::Silence, "not a valid key: unknown, ended or of a disabled device", from)
            }
        });
    }
    let stock = &policy.admission.stock;
    let (rule, from) = match stock {
        StockAdmission::Never => ("only devices with a key register".to_owned(), "srtla.auth"),
        StockAdmission::Anywhere => ("open: everybody may register".to_owned(), "srtla.auth"),
        StockAdmission::Listed(networks) => (
            networks.longest(caller.ip).map_or_else(
                || "the address is in none of the networks of senders without a key".to_owned(),
                |(network, ())| format!("senders without a key may register from {network}"),
            ),
            "srtla.stock_allow",
        ),
    };
    let verdict = if policy.admission.admits_stock(caller.ip) { Verdict::Pass } else { Verdict::Silence };
    Some(step("stock", verdict, rule, from))
}

fn limits(policy: &Policy, caller: &Caller<'_>) -> Option<Step> {
    let limits = &policy.admission.limits;
    let shown = |rate: Rate| format!("{} per second, {} at once", rate.per_s, rate.burst);
    let is_v4 = caller.ip.to_canonical().is_ipv4();
    match (caller.port, caller.key_id) {
        (Port::Srt, _) => None,
        (Port::Srtla, Some(_)) => {
            let network = if is_v4 { "/24" } else { "/56" };
            let rule = format!("registration packets: {} from its {network}", shown(limits.sa1_per_network));
            Some(step("limits", Verdict::Pass, rule, "limits.sa1_per_network_per_s"))
        }
        (Port::Srtla, None) => {
            let source = if is_v4 { "the address" } else { "its /64" };
            let rule = format!("registration packets: {} from {source}", shown(limits.stock_per_source));
            Some(step("limits", Verdict::Pass, rule, "limits.stock_per_source_per_s"))
        }
    }
}

fn stream(policy: &Policy, caller: &Caller<'_>, stream: &str, wall_ms: u64) -> Step {
    let listed = policy.is_listed(caller.ip);
    let entry = caller.key_id.as_ref().and_then(|key_id| policy.admission.keys.entry(key_id));
    let proof = match (caller.port, entry) {
        (Port::Srt, _) => Proof::Plain { listed },
        (Port::Srtla, None) => Proof::Stock { listed },
        (Port::Srtla, Some(entry)) => Proof::Device { rules: &entry.rules, bind: StreamBind::ANY },
    };
    let ask = Ask { wish: caller.wish, stream, token: caller.token, proof, from: caller.ip };
    let demand = policy.streams.demand(stream).map_or("nothing", |demand| demand.name());
    match policy.streams.decide(&ask, wall_ms) {
        Ok(grant) => {
            let by = grant.token.map_or_else(String::new, |token| format!(", shown by token {token}"));
            let rule = match caller.wish {
                Wish::Publish => format!("publishing it demands {demand}{by}"),
                Wish::Play => format!("it may be played{by}"),
            };
            step("stream", Verdict::Pass, rule, "streams")
        }
        Err(refusal) => step("stream", Verdict::Refuse, refusal.to_string(), "streams"),
    }
}

#[cfg(test)]
mod tests;
