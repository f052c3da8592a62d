//! Rows as CSV, one line per trial.

use std::fmt::Write as _;

use crate::row::Row;

/// All rows, with a head line. Empty cells were not measured.
pub fn render(rows: &[Row]) -> String {
    let mut out = String::from(
        "scenario,receiver,round,shape,offered_pps,sent_pps,delivered_pps,sent,lost,duplicates,process_ns,\
         process_share,system_share,softirq_ns,per_wake,p50_us,p99_us,p999_us,max_us,memory_bytes,\
         link_bytes,group_bytes,srtla_acks,\
         srt_acks,buffer_drops,flood_sent,flood_pps,registration_s,generator_late_us,generator_behind,\
         harness_lost,limited_by,noisy\n",
    );
    for row in rows {
        let latency = |get: fn(&crate::row::Latency) -> f64| cell(row.latency.as_ref().map(get));
        let cells = [
            quote(&row.scenario),
            quote(&row.receiver),
            row.round.to_string(),
            quote(&row.shape),
            row.offered_pps.to_string(),
            row.sent_pps.to_string(),
            row.delivered_pps.to_string(),
            row.sent.to_string(),
            cell(row.lost),
            cell(row.duplicates),
            cell(row.process_ns),
            cell(row.process_share),
            cell(row.system_share),
            cell(row.softirq_ns),
            cell(row.per_wake),
            latency(|l| l.p50_us),
            latency(|l| l.p99_us),
            latency(|l| l.p999_us),
            latency(|l| l.max_us),
            cell(row.memory_bytes),
            cell(row.link_bytes),
            cell(row.group_bytes),
            row.srtla_acks.to_string(),
            row.srt_acks.to_string(),
            cell(row.buffer_drops),
            row.flood_sent.to_string(),
            row.flood_pps.to_string(),
            row.registration_s.to_string(),
            row.generator_late_us.to_string(),
            cell(row.generator_behind),
            row.harness_lost.to_string(),
            quote(&row.limited_by),
            quote(&row.quiet.noisy.join("; ")),
        ];
        let _ = writeln!(out, "{}", cells.join(","));
    }
    out
}

fn cell(value: Option<impl std::fmt::Display>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

fn quote(text: &str) -> String {
    if text.contains([',', '"', '\n']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}
