//! Ratios between the first receiver and each of the others, round by round, and whether they may be called a verdict.
//!
//! Promise: a ratio only ever compares trials of the same round; on a noisy machine there is a ratio and no verdict.

use serde::{Deserialize, Serialize};

use crate::machine;
use crate::row::Row;
use crate::stats::Spread;

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
    /// What was to be reached.
    pub cost_ratio_min: Option<f64>,
    /// `holds`, `does not hold`, `no target`, or why there is no verdict.
    pub verdict: String,
}

/// Compares the first receiver of the rows with each of the others.
pub fn compare(rows: &[Row], cost_ratio_min: Option<f64>) -> Vec<Comparison> {
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
            let ratio = |get: fn(&Row) -> Option<f64>| {
                let pairs = rows.iter().filter(|row| row.receiver == *first).filter_map(|row| {
                    let same = |peer: &&Row| {
                        peer.receiver == *other && peer.round == row.round && peer.step == row.step
                    };
                    Some(get(rows.iter().find(same)?)? / get(row)?)
                });
                Spread::of(pairs)
            };
            let cost_ratio = ratio(|row| row.process_ns);
            let verdict = if !noisy.is_empty() {
                format!("none: {}", noisy.join("; "))
            } else if let (Some(ratio), Some(least)) = (cost_ratio, cost_ratio_min) {
                // The whole spread has to be on one side.
                if ratio.min >= least {
                    format!("holds: at least {least} in every round")
                } else if ratio.max < least {
                    format!("does not hold: below {least} in every round")
                } else {
                    format!("open: {least} lies within the spread")
                }
            } else {
                "no target".to_owned()
            };
            Comparison {
                first: (*first).to_owned(),
                other: (*other).to_owned(),
                cost_ratio,
                p999_ratio: ratio(|row| Some(row.latency.as_ref()?.p999_us)),
                cost_ratio_min,
                verdict,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Quiet;

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
        let [comparison] = compare(&rows(false), Some(3.0)).try_into().unwrap();
        let ratio = comparison.cost_ratio.unwrap();
        assert_eq!((ratio.median.to_bits(), ratio.repeats), (4.0_f64.to_bits(), 3));
        assert!(ratio.min < 3.2 && ratio.max > 4.4);
        assert!(comparison.verdict.starts_with("holds"), "{}", comparison.verdict);
        let verdict = |least| compare(&rows(false), least).remove(0).verdict;
        assert!(verdict(Some(4.0)).starts_with("open"));
        assert!(verdict(Some(5.0)).starts_with("does not hold"));
        assert_eq!(verdict(None), "no target");
    }

    #[test]
    fn noise_has_no_verdict() {
        let comparison = compare(&rows(true), Some(3.0)).remove(0);
        assert!(comparison.verdict.starts_with("none: 6 of 6 trials were noisy"), "{}", comparison.verdict);
        assert!(comparison.cost_ratio.is_some());
    }
}
