//! Ratios between the first receiver and each of the others, round by round, and whether they may be called a verdict.
//!
//! Promise: a ratio only ever compares trials of the same round; on a noisy machine there is a ratio and no verdict.

use serde::{Deserialize, Serialize};

use crate::machine;
use crate::row::Row;
use crate::stats::Spread;

/// What is to be reached, as a scenario has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Targets {
    /// At least so many times as dear the other receiver is.
    pub cost_ratio_min: Option<f64>,
    /// At most so many times as long the p99 of the first is.
    #[serde(default)]
    pub p99_ratio_max: Option<f64>,
    /// At most so many datagrams the first loses in a round.
    #[serde(default)]
    pub lost_max: Option<u64>,
}

impl Targets {
    /// What of it was reached.
    fn verdict(&self, cost: Option<Spread>, p99: Option<Spread>, lost: Option<Spread>) -> String {
        let targets = [
            (self.cost_ratio_min, cost, true, ""),
            (self.p99_ratio_max, p99, false, "p99 ratio "),
            (self.lost_max.map(|lost| lost as f64), lost, false, "lost "),
        ];
        let verdicts: Vec<String> = targets
            .into_iter()
            .filter_map(|(target, spread, is_least, what)| {
                let target = target?;
                let Some(spread) = spread else { return Some(format!("{what}not measured")) };
                let (good, bad) = if is_least { ("at least", "below") } else { ("at most", "above") };
                let reached = |value: f64| if is_least { value >= target } else { value <= target };
                // The whole spread has to be on one side.
                Some(match (reached(spread.min), reached(spread.max)) {
                    (true, true) => format!("holds: {what}{good} {target} in every round"),
                    (false, false) => format!("does not hold: {what}{bad} {target} in every round"),
                    _ => format!("open: {what}{target} lies within the spread"),
                })
            })
            .collect();
        if verdicts.is_empty() { "no target".to_owned() } else { verdicts.join("; ") }
    }
}

/// How many times dearer another receiver is than the first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The first receiver.
    pub first: String,
    /// The other.
    pub other: String,
    /// Processor time per datagram of the other, divided by that of the first; over all rounds.
    pub cost_ratio: Option<Spread>,
    /// p99.9 of the other divided by that of the first.
    pub p999_ratio: Option<Spread>,
    /// p99 of the first divided by that of the other.
    #[serde(default)]
    pub p99_ratio: Option<Spread>,
    /// What was to be reached.
    #[serde(flatten)]
    pub targets: Targets,
    /// `holds`, `does not hold`, `no target`, or why there is no verdict.
    pub verdict: String,
}

/// Compares the first receiver of the rows with each of the others.
pub fn compare(rows: &[Row], targets: Targets) -> Vec<Comparison> {
    let mut names: Vec<&str> = Vec::new();
    for row in rows {
        if !names.contains(&row.receiver.as_str()) {
            names.push(&row.receiver);
        }
    }
    let Some((first, others)) = names.split_first() else { return Vec::new() };
    let noisy = machine::reasons(rows.iter().map(|row| &row.quiet));
    others
        .iter()
        .map(|other| {
            // Figures of the first and of the other, by round.
            let pairs = |get: fn(&Row) -> Option<f64>| {
                rows.iter().filter(|row| row.receiver == *first).filter_map(move |row| {
                    let same = |peer: &&Row| {
                        peer.receiver == *other && peer.round == row.round && peer.step == row.step
                    };
                    Some((get(row)?, get(rows.iter().find(same)?)?))
                })
            };
            let times_first = |get| Spread::of(pairs(get).map(|(own, peer)| peer / own));
            let cost_ratio = times_first(|row| row.process_ns);
            let p99_ratio =
                Spread::of(pairs(|row| Some(row.latency.as_ref()?.p99_us)).map(|(own, peer)| own / peer));
            let own = rows.iter().filter(|row| row.receiver == *first);
            let lost = Spread::of(own.filter_map(|row| row.lost).map(|lost| lost as f64));
            let verdict = if noisy.is_empty() {
                targets.verdict(cost_ratio, p99_ratio, lost)
            } else {
                format!("none: {}", noisy.join("; "))
            };
            Comparison {
                first: (*first).to_owned(),
                other: (*other).to_owned(),
                cost_ratio,
                p999_ratio: times_first(|row| Some(row.latency.as_ref()?.p999_us)),
                p99_ratio,
                targets,
                verdict,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Quiet;

    fn least(ratio: f64) -> Targets {
        Targets { cost_ratio_min: Some(ratio), ..Targets::default() }
    }

    #[test]
    fn losses_and_latencies_have_targets_of_their_own() {
        let mut rows = rows(false);
        for row in &mut rows {
            let p99_us = if row.receiver == "bondgate" { 90.0 } else { 50.0 };
            row.latency = Some(crate::row::Latency { p99_us, ..crate::row::Latency::default() });
            row.lost = Some(u64::from(row.receiver != "bondgate"));
        }
        let targets = Targets { p99_ratio_max: Some(2.0), lost_max: Some(0), ..Targets::default() };
        let comparison = compare(&rows, targets).remove(0);
        assert_eq!(
            comparison.verdict,
            "holds: p99 ratio at most 2 in every round; holds: lost at most 0 in every round"
        );
        assert!((comparison.p99_ratio.unwrap().median - 1.8).abs() < 1e-9);
        rows[2].lost = Some(1);
        let verdict = compare(&rows, Targets { p99_ratio_max: Some(1.5), ..targets }).remove(0).verdict;
        assert_eq!(
            verdict,
            "does not hold: p99 ratio above 1.5 in every round; open: lost 0 lies within the spread"
        );
        for row in &mut rows {
            row.lost = None;
        }
        assert!(compare(&rows, targets).remove(0).verdict.ends_with("lost not measured"));
    }

    fn rows(noisy: bool) -> Vec<Row> {
        let mut rows = Vec::new();
        for (round, (ours, theirs)) in [(500.0, 2000.0), (400.0, 1800.0), (600.0, 1900.0)].iter().enumerate()
        {
            for (receiver, process_ns) in [("bondgate", ours), ("baseline", theirs)] {
                let quiet =
                    Quiet { noisy: if noisy { vec!["x".into()] } else { vec![] }, ..Quiet::default() };
                rows.push(Row {
                    receiver: receiver.into(),
                    round: round as u32,
                    process_ns: Some(*process_ns),
                    quiet,
                    ..Row::default()
                });
            }
        }
        rows
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        let [comparison] = compare(&rows(false), least(3.0)).try_into().unwrap();
        let ratio = comparison.cost_ratio.unwrap();
        assert_eq!((ratio.median.to_bits(), ratio.repeats), (4.0_f64.to_bits(), 3));
        assert!(ratio.min < 3.2 && ratio.max > 4.4);
        assert!(comparison.verdict.starts_with("holds"), "{}", comparison.verdict);
        let verdict = |targets| compare(&rows(false), targets).remove(0).verdict;
        assert!(verdict(least(4.0)).starts_with("open"));
        assert!(verdict(least(5.0)).starts_with("does not hold"));
        assert_eq!(verdict(Targets::default()), "no target");
    }

    #[test]
    fn noise_has_no_verdict() {
        let comparison = compare(&rows(true), least(3.0)).remove(0);
        assert!(comparison.verdict.starts_with("none: 6 of 6 trials were noisy"), "{}", comparison.verdict);
        assert!(comparison.cost_ratio.is_some());
    }
}
