//! Rows as a person reads them: table, CSV, one paragraph, and a page with plots that needs nothing else.
//!
//! Promise: whatever is missing is shown as missing; what is noisy is marked wherever its figures are.

pub mod conclusion;
pub mod csv;
pub mod html;
pub mod table;

use crate::row::Row;
use crate::stats::Spread;

/// Trials of one receiver, as one line of figures with their spread.
#[derive(Debug)]
pub struct Summary<'a> {
    /// The receiver.
    pub receiver: &'a str,
    /// Its trials.
    pub rows: Vec<&'a Row>,
}

impl<'a> Summary<'a> {
    /// One per receiver, in order of appearance.
    pub fn of(rows: &'a [Row]) -> Vec<Self> {
        let mut summaries: Vec<Self> = Vec::new();
        for row in rows {
            match summaries.iter_mut().find(|summary| summary.receiver == row.receiver) {
                Some(summary) => summary.rows.push(row),
                None => summaries.push(Self { receiver: &row.receiver, rows: vec![row] }),
            }
        }
        summaries
    }

    /// The spread of a figure over the trials that have it.
    pub fn spread(&self, get: impl Fn(&Row) -> Option<f64>) -> Option<Spread> {
        Spread::of(self.rows.iter().filter_map(|row| get(row)))
    }

    /// The sum of a count, if any trial has it.
    pub fn sum(&self, get: impl Fn(&Row) -> Option<u64>) -> Option<u64> {
        self.rows.iter().filter_map(|row| get(row)).reduce(|a, b| a + b)
    }

    /// What limited the trials, each reason once.
    pub fn limits(&self) -> String {
        let mut reasons: Vec<&str> = Vec::new();
        for row in &self.rows {
            if !reasons.contains(&row.limited_by.as_str()) {
                reasons.push(&row.limited_by);
            }
        }
        reasons.join(", ")
    }

    /// Drops by reason, added up.
    pub fn drops(&self) -> Vec<(String, u64)> {
        self.add_up(|row| &row.drops)
    }

    /// Drops of the gate by reason, added up.
    pub fn gate_drops(&self) -> Vec<(String, u64)> {
        self.add_up(|row| &row.gate_drops)
    }

    fn add_up(&self, get: impl Fn(&Row) -> &Vec<(String, u64)>) -> Vec<(String, u64)> {
        let mut drops: Vec<(String, u64)> = Vec::new();
        for (reason, count) in self.rows.iter().flat_map(|row| get(row)) {
            match drops.iter_mut().find(|(known, _)| known == reason) {
                Some((_, sum)) => *sum += count,
                None => drops.push((reason.clone(), *count)),
            }
        }
        drops
    }
}

/// A number, or that it was not measured.
fn or_none(spread: Option<Spread>, decimals: usize) -> String {
    spread.map_or_else(|| "not measured".into(), |spread| spread.show(decimals))
}

#[cfg(test)]
mod tests;
