//! The policy as an nftables ruleset, for hosts without XDP.
//!
//! It does what the gate does as far as nftables can: fragments, bans, lists, lengths and types of registration, and a rate
//! per source. It cannot know registered links or gate tags; the application checks those, as it checks all the rest again.
//! The ruleset is a snapshot: what ends or changes later is in the next one.

use std::fmt::Write as _;
use std::net::IpAddr;

use bondgate_auth::bans::Scope;
use bondgate_auth::cidr::Cidr;
use bondgate_auth::prefix::PrefixSet;
use bondgate_proto::receiver::{AdmitPolicy, Rate, StockAdmission};

use super::Inputs;
use crate::cli::present::utc;
use crate::config::OutputMode;
use crate::control::bans::text::network;
use crate::control::geo::gate_table;
use crate::exit::Failure;

/// Sources that one meter remembers at once.
const METER_SIZE: u32 = 65_535;

/// The ruleset.
///
/// # Errors
/// A port is 0, so that nobody knows it yet.
pub fn ruleset(inputs: &Inputs) -> Result<String, Failure> {
    let (config, admission) = (&inputs.config, &inputs.policy.admission);
    let srtla = port(config.srtla.listen.port(), "srtla.listen")?;
    let srt = match config.output.mode {
        OutputMode::Relay => Some(port(config.srt.listen.port(), "srt.listen")?),
        OutputMode::Forward => None,
    };
    let banned: Vec<Cidr> =
        admission.bans.iter().filter(|ban| ban.scope == Scope::Everyone).map(|ban| ban.network).collect();
    let next_end_ms = admission.bans.iter().filter_map(|ban| ban.until_ms).min();
    let allow = match &admission.networks {
        AdmitPolicy::Open => None,
        AdmitPolicy::Listed(networks) => Some(cidrs(networks)),
    };
    let stock = match &admission.stock {
        StockAdmission::Listed(networks) => Some(cidrs(networks)),
        StockAdmission::Never | StockAdmission::Anywhere => None,
    };
    let shards = u32::from(config.runtime.shards);

    let mut out = String::new();
    let _ = writeln!(
        out,
        "# bondgate: made {} UTC. Load with nft -f; load again what is written later,",
        utc(inputs.now_ms)
    );
    let until = next_end_ms
        .map_or_else(|| "something changes".to_owned(), |ms| format!("{} UTC, when a ban ends", utc(ms)));
    let _ = writeln!(out, "# at the latest {until}. To remove it: nft delete table inet bondgate");
    // An empty declaration first, so that the deletion works whether or not there is such a table.
    out.push_str("table inet bondgate\ndelete table inet bondgate\ntable inet bondgate {\n");
    sets(&mut out, "bans", &banned);
    for (name, networks) in [("allow", &allow), ("stock", &stock)] {
        if let Some(networks) = networks {
            sets(&mut out, name, networks);
        }
    }
    let blocked = match &admission.geo {
        Some(geo) => Some(blocked(&gate_table(geo).map_err(|error| Failure::runtime(error.to_string()))?)),
        None => None,
    };
    if let Some([v4, v6]) = &blocked {
        set(&mut out, "geo4", "ipv4_addr", v4);
        set(&mut out, "geo6", "ipv6_addr", v6);
    }
    for name in ["sa1_meter", "stock_meter"] {
        for (family, kind) in [("4", "ipv4_addr"), ("6", "ipv6_addr")] {
            let _ = writeln!(
                out,
                "    set {name}{family} {{\n        type {kind}\n        size {METER_SIZE}\n        flags dynamic, timeout\n        timeout 1m\n    }}"
            );
        }
    }
    let ports = srt.map_or_else(|| srtla.to_string(), |srt| format!("{srtla}, {srt}"));
    // Before connection tracking, which would put fragments together.
    let _ =
        writeln!(out, "    chain gate {{\n        type filter hook prerouting priority -450; policy accept;");
    let mut rule = |text: String| {
        let _ = writeln!(out, "        {text}");
    };
    rule("meta l4proto != udp accept".to_owned());
    rule(format!("udp dport != {{ {ports} }} accept"));
    // Without its first fragment a datagram is never put together.
    rule("ip frag-off & 0x2000 != 0 counter drop comment \"fragment\"".to_owned());
    rule("exthdr frag exists counter drop comment \"fragment\"".to_owned());
    rule("ip saddr @bans4 counter drop comment \"banned\"".to_owned());
    rule("ip6 saddr @bans6 counter drop comment \"banned\"".to_owned());
    if blocked.is_some() {
        rule("ip saddr @geo4 counter drop comment \"geo\"".to_owned());
        rule("ip6 saddr @geo6 counter drop comment \"geo\"".to_owned());
    }
    if let Some(srt) = srt {
        rule(format!("udp dport {srt} accept"));
    }
    if allow.is_some() {
        rule("ip saddr != @allow4 counter drop comment \"not_admitted\"".to_owned());
        rule("ip6 saddr != @allow6 counter drop comment \"not_admitted\"".to_owned());
    }
    rule("@th,64,16 != { 0x9200, 0x9201 } accept".to_owned());
    rule("udp length != 266 counter drop comment \"bad_length\"".to_owned());
    // SLA1, the mark of registration with a key.
    rule("@th,80,32 0x534c4131 jump sa1".to_owned());
    match (&admission.stock, &stock) {
        (StockAdmission::Never, _) => rule("counter drop comment \"not_admitted\"".to_owned()),
        (_, Some(_)) => {
            rule("ip saddr != @stock4 counter drop comment \"not_admitted\"".to_owned());
            rule("ip6 saddr != @stock6 counter drop comment \"not_admitted\"".to_owned());
            rule("jump stock".to_owned());
        }
        _ => rule("jump stock".to_owned()),
    }
    out.push_str("    }\n");
    let limits = &admission.limits;
    chain(&mut out, "sa1", ("255.255.255.0", "ffff:ffff:ffff:ff00::"), limits.sa1_per_network, shards, None);
    let total = Some(limits.stock);
    chain(
        &mut out,
        "stock",
        ("255.255.255.255", "ffff:ffff:ffff:ffff::"),
        limits.stock_per_source,
        shards,
        total,
    );
    out.push_str("}\n");
    Ok(out)
}

/// A rate per source, and one for all of them. A source may come to every shard, each of which would grant it its rate.
fn chain(
    out: &mut String,
    name: &str,
    (mask4, mask6): (&str, &str),
    each: Rate,
    shards: u32,
    total: Option<Rate>,
) {
    let limit = |rate: Rate| {
        let (per_s, burst) = (rate.per_s.saturating_mul(shards), rate.burst.saturating_mul(shards));
        format!("limit rate over {per_s}/second burst {burst} packets")
    };
    let _ = writeln!(out, "    chain {name} {{");
    for (family, saddr) in [("4", format!("ip saddr & {mask4}")), ("6", format!("ip6 saddr & {mask6}"))] {
        let kind = if family == "4" { "ipv4" } else { "ipv6" };
        let _ = writeln!(
            out,
            "        meta nfproto {kind} update @{name}_meter{family} {{ {saddr} {} }} counter drop comment \"{name}_budget\"",
            limit(each)
        );
    }
    if let Some(total) = total {
        let _ = writeln!(out, "        {} counter drop comment \"{name}_budget\"", limit(total));
    }
    out.push_str("        accept\n    }\n");
}

fn port(port: u16, key: &str) -> Result<u16, Failure> {
    if port == 0 {
        return Err(Failure::config(format!(
            "{key} has port 0, so that nobody knows it before the start; name one"
        )));
    }
    Ok(port)
}

fn cidrs(networks: &PrefixSet<()>) -> Vec<Cidr> {
    networks.aggregated().iter().map(|(network, ())| network).collect()
}

/// The IPv4 and the IPv6 set of a list.
fn sets(out: &mut String, name: &str, networks: &[Cidr]) {
    // nftables takes no network twice: what lies in another one goes.
    let networks: PrefixSet<()> = networks.iter().copied().collect();
    let networks = cidrs(&networks);
    for (family, kind, is_v4) in [("4", "ipv4_addr", true), ("6", "ipv6_addr", false)] {
        let elements: Vec<String> = networks
            .iter()
            .filter(|network| matches!(network.addr, IpAddr::V4(_)) == is_v4)
            .map(|found| network(*found))
            .collect();
        set(out, &format!("{name}{family}"), kind, &elements);
    }
}

fn set(out: &mut String, name: &str, kind: &str, elements: &[String]) {
    let _ = writeln!(out, "    set {name} {{\n        type {kind}\n        flags interval");
    if !elements.is_empty() {
        let _ = writeln!(out, "        elements = {{ {} }}", elements.join(",\n            "));
    }
    out.push_str("    }\n");
}

/// The address ranges that a table of prefixes does not admit, IPv4 and IPv6: nftables knows no longest match.
fn blocked(table: &PrefixSet<bool>) -> [Vec<String>; 2] {
    [true, false].map(|is_v4| {
        let shown =
            |bits: u128| if is_v4 { IpAddr::V4((bits as u32).into()) } else { IpAddr::V6(bits.into()) };
        let mut ranges: Vec<(u128, u128)> = Vec::new();
        let mut emit = |first: u128, last: u128, admitted: bool| match ranges.last_mut() {
            _ if admitted || first > last => {}
            Some((_, end)) if end.checked_add(1) == Some(first) => *end = last,
            _ => ranges.push((first, last)),
        };
        // Networks come by first address, the larger first: those that are still open lie around the next one. `next` is
        // the first address nothing was said of yet, `None` behind the last one there is.
        let (mut open, mut next) = (Vec::<(u128, bool)>::new(), Some(0_u128));
        let mut close = |open: &mut Vec<(u128, bool)>, next: &mut Option<u128>, before: Option<u128>| {
            while let Some((end, admitted)) = open.last().copied() {
                let upto = before.map_or(end, |before| before.saturating_sub(1).min(end));
                if let Some(first) = *next
                    && before != Some(0)
                    && first <= upto
                {
                    emit(first, upto, admitted);
                    *next = upto.checked_add(1);
                }
                if before.is_some_and(|before| before <= end) {
                    break;
                }
                open.pop();
            }
        };
        for (network, admitted) in table.iter().filter(|(network, _)| network.addr.is_ipv4() == is_v4) {
            let (first, last) = span(network);
            close(&mut open, &mut next, Some(first));
            next = Some(first);
            open.push((last, admitted));
        }
        close(&mut open, &mut next, None);
        ranges
            .iter()
            .map(|(first, last)| {
                if first == last {
                    shown(*first).to_string()
                } else {
                    format!("{}-{}", shown(*first), shown(*last))
                }
            })
            .collect()
    })
}

/// First and last address.
fn span(network: Cidr) -> (u128, u128) {
    let (bits, width) = match network.addr {
        IpAddr::V4(addr) => (u128::from(addr.to_bits()), 32),
        IpAddr::V6(addr) => (addr.to_bits(), 128),
    };
    let hosts = match width - network.prefix {
        0 => 0,
        free => u128::MAX >> (128 - free),
    };
    (bits, bits | hosts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn networks() -> impl Strategy<Value = Vec<(Cidr, bool)>> {
        let network =
            (any::<bool>(), 0u8..=6, 0u32..64, any::<bool>()).prop_map(|(is_v4, free, low, value)| {
                let (bits, prefix) = (low >> free << free, free);
                let network = if is_v4 {
                    Cidr { addr: IpAddr::V4((0xFFFF_FFC0 | bits).into()), prefix: 32 - prefix }
                } else {
                    Cidr {
                        addr: IpAddr::V6((u128::MAX << 6 | u128::from(bits)).into()),
                        prefix: 128 - prefix,
                    }
                };
                (network, value)
            });
        prop::collection::vec(network, 0..20)
    }

    proptest! {
        /// The ranges are disjoint, ascending, apart from each other, and hold exactly what the table does not admit; at the
        /// end of the address space too.
        #[test]
        fn ranges_say_what_the_table_says(networks in networks(), admit in any::<bool>()) {
            let everywhere = ["0.0.0.0", "::"].map(|addr| (Cidr { addr: addr.parse().unwrap(), prefix: 0 }, admit));
            let table: PrefixSet<bool> = everywhere.into_iter().chain(networks).collect();
            let ranges = blocked(&table).map(|ranges| {
                ranges
                    .iter()
                    .map(|range| {
                        let (first, last) = range.split_once('-').unwrap_or((range, range));
                        let bits = |text: &str| match text.parse().unwrap() {
                            IpAddr::V4(ip) => u128::from(ip.to_bits()),
                            IpAddr::V6(ip) => ip.to_bits(),
                        };
                        (bits(first), bits(last))
                    })
                    .collect::<Vec<_>>()
            });
            for ranges in &ranges {
                prop_assert!(ranges.iter().all(|(first, last)| first <= last));
                prop_assert!(ranges.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0));
            }
            for low in 0..64u32 {
                let v4 = IpAddr::V4((0xFFFF_FFC0 | low).into());
                let v6 = IpAddr::V6((u128::MAX << 6 | u128::from(low)).into());
                let lone = ["9.9.9.9".parse().unwrap(), "2001:db8::1".parse().unwrap()];
                for ip in [v4, v6].into_iter().chain(lone) {
                    let bits = match ip { IpAddr::V4(ip) => ip.to_bits().into(), IpAddr::V6(ip) => ip.to_bits() };
                    let held = ranges[usize::from(ip.is_ipv6())].iter().any(|(a, b)| (*a..=*b).contains(&bits));
                    prop_assert_eq!(held, !table.longest(ip).unwrap().1, "{}", ip);
                }
            }
        }
    }
}
