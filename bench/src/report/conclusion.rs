//! One paragraph, for the folder of a run.

use std::fmt::Write as _;

use super::{Summary, or_none};
use crate::run::Run;

/// What the run says, or that it says nothing.
pub fn render(run: &Run) -> String {
    let mut out = format!("# {}\n\n{} ", run.scenario.name, run.scenario.about);
    for summary in Summary::of(&run.rows) {
        let _ = write!(
            out,
            "{}: {} ns of processor time per datagram at {} datagrams/s delivered. ",
            summary.receiver,
            or_none(summary.spread(|row| row.process_ns), 0),
            or_none(summary.spread(|row| Some(row.delivered_pps)), 0)
        );
    }
    for comparison in &run.comparisons {
        let _ = write!(
            out,
            "{} costs {} times as much as {}; verdict {}. ",
            comparison.other,
            or_none(comparison.cost_ratio, 2),
            comparison.first,
            comparison.verdict
        );
    }
    if run.noisy.is_empty() {
        out.push_str("The machine was quiet");
        match run.rounds_repeated() {
            0 => out.push('.'),
            repeated => {
                let _ = write!(out, "; {repeated} more rounds, in which it was not, were set aside.");
            }
        }
    } else {
        let _ = write!(
            out,
            "The machine was not quiet ({}): these figures are not to be quoted.",
            run.noisy.join("; ")
        );
    }
    out.push('\n');
    out
}
