//! The few numbers a person keeps, as text.

use std::fmt::Write as _;

use super::{Summary, or_none};
use crate::row::Row;
use crate::run::Run;
use crate::scenario::Kind;
use crate::search::Found;

/// Reads a figure of a trial.
type Get = fn(&Row) -> Option<f64>;

/// One line about a trial that has just ended.
pub fn progress(row: &Row) -> String {
    let cost = row.process_ns.map_or_else(|| "-".into(), |ns| format!("{ns:.0} ns"));
    let lost = row.lost.map_or_else(|| "-".into(), |lost| lost.to_string());
    let noisy = if row.quiet.noisy.is_empty() { "" } else { ", noisy" };
    format!(
        "{} round {}: {:.0} datagrams/s sent, {:.0} delivered, {lost} lost, {cost} each{noisy}",
        row.receiver, row.round, row.sent_pps, row.delivered_pps
    )
}

/// One line about a search.
pub fn found(found: &Found) -> String {
    let rate = |rate: Option<f64>| rate.map_or_else(|| "none".into(), |rate| format!("{rate:.0}"));
    let by = if found.limited_by_generator { "; the generator ended the search" } else { "" };
    format!(
        "{} datagrams/s without loss, knee at {}, {} probes{by}",
        rate(found.zero_loss_pps),
        rate(found.knee_pps),
        found.probes.len()
    )
}

/// The whole run.
pub fn render(run: &Run) -> String {
    let mut out = String::new();
    let (scenario, environment) = (&run.scenario, &run.environment);
    let _ = writeln!(out, "{}: {}", scenario.name, scenario.about);
    let _ = writeln!(
        out,
        "{}, {} processors, Linux {}, {}; commit {}",
        environment.processor,
        environment.cpus,
        environment.kernel,
        environment.virtualisation,
        environment.commit
    );
    let _ = writeln!(out, "{}", environment.topology);
    let _ = writeln!(
        out,
        "{} groups x {} links, {} B datagrams in bursts of {}, medians (min-max) of {} interleaved rounds",
        scenario.groups, scenario.links, scenario.datagram_bytes, scenario.burst, scenario.rounds
    );
    for (receiver, round, found) in &run.searches {
        let _ = writeln!(out, "  {receiver}, round {round}: {}", self::found(found));
    }
    let summaries = Summary::of(&run.rows);
    let mut line = |name: &str, cell: &dyn Fn(&Summary<'_>) -> String| {
        let _ = write!(out, "{name:<34}");
        for summary in &summaries {
            let _ = write!(out, " {:>28}", cell(summary));
        }
        out.push('\n');
    };
    line("", &|s| s.receiver.to_owned());
    line("offered, datagrams/s", &|s| {
        let offered = s.rows.first().map_or(0.0, |row| row.offered_pps);
        if offered > 0.0 { format!("{offered:.0}") } else { "all it can".into() }
    });
    line("sent, datagrams/s", &|s| or_none(s.spread(|r| Some(r.sent_pps)), 0));
    line("delivered, datagrams/s", &|s| or_none(s.spread(|r| Some(r.delivered_pps)), 0));
    line("lost of sent", &|s| {
        let sent: u64 = s.rows.iter().map(|row| row.sent).sum();
        s.sum(|r| r.lost).map_or_else(|| "not measured".into(), |lost| format!("{lost} of {sent}"))
    });
    line("second copies", &|s| {
        s.sum(|r| r.duplicates).map_or_else(|| "not measured".into(), |n| n.to_string())
    });
    line("process CPU, ns/datagram", &|s| or_none(s.spread(|r| r.process_ns), 0));
    if run.scenario.kind == Kind::Relay {
        line("Mb of payload per CPU second", &|s| or_none(s.spread(|r| r.mbps_per_cpu), 0));
    }
    line("of it in the kernel, %", &|s| or_none(s.spread(|r| Some(r.system_share? * 100.0)), 0));
    line("process, % of a processor", &|s| or_none(s.spread(|r| Some(r.process_share? * 100.0)), 1));
    let is_exact = run.rows.iter().all(|row| row.softirq_exact);
    let softirq = if is_exact { "softirq NET_RX, ns/datagram" } else { "softirq (sampled), ns/datagram" };
    line(softirq, &|s| or_none(s.spread(|r| r.softirq_ns), 0));
    line("datagrams per turn", &|s| or_none(s.spread(|r| r.per_wake), 1));
    let latencies: [(&str, Get); 4] = [
        ("latency p50, us", |r| Some(r.latency.as_ref()?.p50_us)),
        ("latency p99, us", |r| Some(r.latency.as_ref()?.p99_us)),
        ("latency p99.9, us", |r| Some(r.latency.as_ref()?.p999_us)),
        ("latency max, us", |r| Some(r.latency.as_ref()?.max_us)),
    ];
    for (name, get) in latencies {
        line(name, &|s| or_none(s.spread(get), 0));
    }
    line("memory, MiB", &|s| or_none(s.spread(|r| Some(r.memory_bytes? as f64 / 1_048_576.0)), 1));
    line("kernel slabs grew by, MiB", &|s| {
        or_none(s.spread(|r| Some(r.slab_bytes? as f64 / 1_048_576.0)), 1)
    });
    if run.scenario.memory_growth {
        line("memory per link more, B", &|s| or_none(s.spread(|r| r.link_bytes), 0));
        line("with slabs, per group more, B", &|s| or_none(s.spread(|r| r.group_bytes), 0));
    }
    line("registration, s", &|s| or_none(s.spread(|r| Some(r.registration_s)), 2));
    line("dropped at receive buffers", &|s| {
        s.sum(|r| r.buffer_drops).map_or_else(|| "not measured".into(), |n| n.to_string())
    });
    if run.rows.iter().any(|row| row.generator_behind.is_some()) {
        line("left when the next was due, %", &|s| {
            or_none(s.spread(|r| Some(r.generator_behind? as f64 * 100.0 / r.sent.max(1) as f64)), 1)
        });
    }
    line("limited by", &|s| s.limits());
    for summary in &summaries {
        let drops: Vec<String> =
            summary.drops().iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        if !drops.is_empty() {
            let _ = writeln!(out, "{} dropped: {}", summary.receiver, drops.join(", "));
        }
        let ended: Vec<String> =
            summary.gate_drops().iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        if !ended.is_empty() {
            let _ = writeln!(out, "{}: ended in the gate: {}", summary.receiver, ended.join(", "));
        }
        if let Some(flood) = summary.sum(|r| Some(r.flood_sent)).filter(|sent| *sent > 0) {
            let rate = or_none(summary.spread(|r| Some(r.flood_pps)), 0);
            let _ = writeln!(
                out,
                "{}: {flood} datagrams of a flood besides, {rate} per second from one processor",
                summary.receiver
            );
        }
    }
    for comparison in &run.comparisons {
        let _ = writeln!(
            out,
            "{} costs {} times what {} costs; p99.9 {} times, p99 of {} {} times as long. Verdict: {}",
            comparison.other,
            or_none(comparison.cost_ratio, 2),
            comparison.first,
            or_none(comparison.p999_ratio, 2),
            comparison.first,
            or_none(comparison.p99_ratio, 2),
            comparison.verdict
        );
    }
    let repeated = run.rounds_repeated();
    if repeated > 0 {
        let _ = writeln!(out, "{repeated} more rounds were set aside because the machine was not quiet");
    }
    if !run.noisy.is_empty() {
        let _ = writeln!(out, "NOISY, no verdict: {}", run.noisy.join("; "));
    }
    out
}
