//! A whole scenario: all receivers in turns, round after round, and the folder it is kept in.
//!
//! Promises: receivers take turns within every round, and who begins changes from round to round. A round in which the machine
//! was not quiet is made again, whatever it said, and what it said is kept beside the others.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::compare::{self, Comparison};
use crate::machine::{self, Environment};
use crate::receiver::Programs;
use crate::report;
use crate::row::Row;
use crate::scenario::{Kind, Receiver, Scenario};
use crate::search::{self, Found, Probe};
use crate::stats::Spread;
use crate::trial::{self, Plan};

/// Length of a probe of a search.
const PROBE: Duration = Duration::from_millis(800);

/// Rounds made again because of noise, for each round of the scenario.
const REPEATS_PER_ROUND: u32 = 2;

/// Everything about a run. This is the raw data.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// The machine.
    pub environment: Environment,
    /// The scenario as it was run.
    pub scenario: Scenario,
    /// The trials that count.
    pub rows: Vec<Row>,
    /// Trials of rounds that were made again because the machine was not quiet.
    #[serde(default)]
    pub set_aside: Vec<Row>,
    /// Searches, by receiver and round.
    pub searches: Vec<(String, u32, Found)>,
    /// Ratios.
    pub comparisons: Vec<Comparison>,
    /// Why there is no verdict; empty if there can be one.
    pub noisy: Vec<String>,
}

impl Run {
    /// Rounds that were made again because of noise.
    pub fn rounds_repeated(&self) -> usize {
        self.set_aside.len() / self.scenario.receivers.len().max(1)
    }
}

/// Runs a scenario; `tell` gets a line whenever something is done.
///
/// # Errors
/// When a trial cannot be made.
pub fn run(scenario: &Scenario, programs: &Programs, mut tell: impl FnMut(&str)) -> Result<Run> {
    let mut rows: Vec<Row> = Vec::new();
    let mut searches = Vec::new();
    let mut rate_pps = scenario.rate_pps;
    if scenario.kind == Kind::Search {
        for round in 0..scenario.rounds {
            for receiver in in_turns(&scenario.receivers, round) {
                let found = search_rate(scenario, receiver, programs, round, &mut rows)?;
                tell(&format!("{} round {round}: {}", receiver.name, report::table::found(&found)));
                searches.push((receiver.name.clone(), round, found));
            }
        }
        rate_pps = half_of_slowest(scenario, &searches).unwrap_or(scenario.search_pps[0]);
        rows.clear();
        tell(&format!(
            "latency and cost at {rate_pps} datagrams/s, half of the slowest receiver's rate without loss"
        ));
    }
    let mut set_aside = Vec::new();
    let mut repeats = scenario.rounds * REPEATS_PER_ROUND;
    for round in 0..scenario.rounds {
        loop {
            let mut trials = Vec::new();
            for receiver in in_turns(&scenario.receivers, round) {
                let row = trial::run(Plan { rate_pps, ..Plan::new(scenario, receiver, programs, round) })?;
                tell(&report::table::progress(&row));
                trials.push(row);
            }
            let is_quiet = trials.iter().all(|row: &Row| row.quiet.noisy.is_empty());
            if is_quiet || repeats == 0 {
                rows.extend(trials);
                break;
            }
            repeats -= 1;
            set_aside.extend(trials);
            tell(&format!("round {round} is made again, because the machine was not quiet"));
        }
    }
    // In the order of the file, so that the first stays the first.
    let place = |row: &Row| scenario.receivers.iter().position(|receiver| receiver.name == row.receiver);
    rows.sort_by_key(|row| (place(row), row.round));
    let mut environment = Environment::read();
    environment.topology = rows.first().map(|row| row.topology.clone()).unwrap_or_default();
    Ok(Run {
        environment,
        scenario: scenario.clone(),
        comparisons: compare::compare(&rows, scenario.targets()),
        noisy: machine::reasons(rows.iter().map(|row| &row.quiet)),
        rows,
        set_aside,
        searches,
    })
}

/// Every other round begins with the last.
fn in_turns(receivers: &[Receiver], round: u32) -> Vec<&Receiver> {
    let mut order: Vec<&Receiver> = receivers.iter().collect();
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

/// Searches a receiver's highest rate without loss. Each probe is a trial of its own.
fn search_rate(
    scenario: &Scenario,
    receiver: &Receiver,
    programs: &Programs,
    round: u32,
    rows: &mut Vec<Row>,
) -> Result<Found> {
    search::search(scenario.search_pps, |rate_pps| {
        let plan = Plan {
            rate_pps,
            measure: PROBE,
            step: "probe",
            ..Plan::new(scenario, receiver, programs, round)
        };
        let row = trial::run(plan)?;
        let probe = Probe {
            offered_pps: rate_pps as f64,
            sent_pps: row.sent_pps,
            loss: row.loss().unwrap_or(1.0),
            harness_failed: row.harness_lost > 0 || row.sent_pps < 0.98 * rate_pps as f64,
        };
        rows.push(row);
        Ok(probe)
    })
}

/// Half of the least of the receivers' median rates without loss.
fn half_of_slowest(scenario: &Scenario, searches: &[(String, u32, Found)]) -> Option<u64> {
    let medians = scenario.receivers.iter().filter_map(|receiver| {
        let own = searches.iter().filter(|(name, ..)| *name == receiver.name);
        Some(Spread::of(own.filter_map(|(_, _, found)| found.zero_loss_pps))?.median)
    });
    medians.min_by(f64::total_cmp).map(|rate| (rate / 2.0) as u64)
}

/// Keeps a run in a folder of its own under `dir`: `DATE-HOSTCLASS/SCENARIO`, or `DATE-HOSTCLASS-noisy/SCENARIO`. Returns it.
///
/// # Errors
/// When a file cannot be written.
pub fn save(run: &Run, dir: &Path) -> Result<PathBuf> {
    let day = run.environment.date.get(..10).unwrap_or("undated");
    let noisy = if run.noisy.is_empty() { "" } else { "-noisy" };
    let host = dir.join(format!("{day}-{}{noisy}", run.environment.host_class()));
    let folder = host.join(&run.scenario.name);
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let write = |path: PathBuf, text: String| {
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    write(host.join("environment.json"), serde_json::to_string_pretty(&run.environment)? + "\n")?;
    write(folder.join("run.json"), serde_json::to_string_pretty(run)? + "\n")?;
    write(folder.join("rows.csv"), report::csv::render(&run.rows))?;
    write(folder.join("report.html"), report::html::render(run))?;
    write(folder.join("conclusion.md"), report::conclusion::render(run))?;
    Ok(folder)
}

/// Reads a run that was kept: its folder, or `run.json`.
///
/// # Errors
/// When there is none, or it is of another version.
pub fn load(path: &Path) -> Result<Run> {
    let file = if path.is_dir() { path.join("run.json") } else { path.to_owned() };
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not a run of this version", file.display()))
}
