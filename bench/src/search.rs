//! The highest rate without loss, and the knee, by bisection.
//!
//! Promise: the rate found was confirmed by a second probe; what the generator could not offer is never called the
//! receiver's limit.

use anyhow::Result;
use serde::{Deserialize, Serialize};

/// Share of loss at the knee.
pub const KNEE_LOSS: f64 = 0.005;
/// A search ends when its bounds are this close, as a share of the rate.
const RESOLUTION: f64 = 0.04;
/// And after so many probes.
const PROBES_MAX: usize = 24;

/// What a probe at some rate has shown.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// Datagrams per second that were to be offered.
    pub offered_pps: f64,
    /// Datagrams per second that were offered.
    pub sent_pps: f64,
    /// Share that was lost.
    pub loss: f64,
    /// The harness was not able to offer that much, or lost something itself.
    pub harness_failed: bool,
}

/// What a search has found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// The highest rate without any loss; `None` if there is loss at the lower bound.
    pub zero_loss_pps: Option<f64>,
    /// The highest rate with a loss of at most [`KNEE_LOSS`].
    pub knee_pps: Option<f64>,
    /// The generator ended the search for the rate without loss, not the receiver.
    pub limited_by_generator: bool,
    /// All probes, in order.
    pub probes: Vec<Probe>,
}

/// Searches between two rates.
///
/// # Errors
/// Those of `probe`.
pub fn search(bounds: [u64; 2], mut probe: impl FnMut(u64) -> Result<Probe>) -> Result<Found> {
    let mut found = Found::default();
    let zero_loss = bisect(bounds, &mut probe, &mut found, |probe| probe.loss <= 0.0)?;
    found.zero_loss_pps = zero_loss.map(|rate| rate as f64);
    let low = zero_loss.unwrap_or(bounds[0]);
    // The lowest rate that was too much tells who ended the search.
    let is_too_much =
        |probe: &&Probe| probe.offered_pps > low as f64 && (probe.harness_failed || probe.loss > 0.0);
    let ended_by =
        found.probes.iter().filter(is_too_much).min_by(|a, b| a.offered_pps.total_cmp(&b.offered_pps));
    found.limited_by_generator = ended_by.is_some_and(|probe| probe.harness_failed);
    // What the first bisection has shown to be too much for the knee as well bounds the second.
    let high = found
        .probes
        .iter()
        .filter(|probe| probe.harness_failed || probe.loss > KNEE_LOSS)
        .map(|probe| probe.offered_pps as u64)
        .filter(|rate| *rate > low)
        .min()
        .unwrap_or(bounds[1]);
    if high > low {
        let knee = bisect([low, high], &mut probe, &mut found, |probe| probe.loss <= KNEE_LOSS)?;
        found.knee_pps = knee.map(|rate| rate as f64).or(found.zero_loss_pps);
    } else {
        found.knee_pps = found.zero_loss_pps;
    }
    Ok(found)
}

fn bisect(
    [mut low, mut high]: [u64; 2],
    probe: &mut impl FnMut(u64) -> Result<Probe>,
    found: &mut Found,
    is_good: impl Fn(&Probe) -> bool,
) -> Result<Option<u64>> {
    let mut best = None;
    let mut holds = |rate: u64, found: &mut Found| -> Result<bool> {
        // A good probe is repeated: one lucky moment is no rate.
        for _ in 0..2 {
            let probe = probe(rate)?;
            found.probes.push(probe);
            if probe.harness_failed || !is_good(&probe) {
                return Ok(false);
            }
        }
        Ok(true)
    };
    if holds(high, found)? {
        return Ok(Some(high));
    }
    if holds(low, found)? {
        best = Some(low);
    } else {
        return Ok(best);
    }
    for _ in 0..PROBES_MAX {
        if (high - low) as f64 <= RESOLUTION * high as f64 {
            break;
        }
        let middle = low.midpoint(high);
        if holds(middle, found)? {
            (low, best) = (middle, Some(middle));
        } else {
            high = middle;
        }
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A receiver that takes so many per second and loses the rest.
    fn simulated(capacity: f64, generator: f64) -> impl FnMut(u64) -> Result<Probe> {
        move |rate| {
            let offered_pps = rate as f64;
            let sent_pps = offered_pps.min(generator);
            let loss = ((sent_pps - capacity) / sent_pps).max(0.0);
            Ok(Probe { offered_pps, sent_pps, loss, harness_failed: sent_pps < 0.98 * offered_pps })
        }
    }

    #[test]
    fn the_limit_of_a_simulated_receiver_is_found() {
        for capacity in [11_000.0, 123_456.0, 400_000.0, 990_000.0] {
            let found = search([10_000, 1_000_000], simulated(capacity, 1e9)).unwrap();
            let zero_loss = found.zero_loss_pps.unwrap();
            assert!(zero_loss <= capacity && zero_loss >= 0.94 * capacity, "{capacity}: {zero_loss}");
            let (knee, real) = (found.knee_pps.unwrap(), capacity / (1.0 - KNEE_LOSS));
            assert!(knee >= zero_loss && knee <= real && knee >= 0.94 * real, "{capacity}: {knee}");
            assert!(!found.limited_by_generator && found.probes.len() < 60);
        }
    }

    #[test]
    fn bounds_and_generators_are_no_limits_of_the_receiver() {
        let found = search([10_000, 100_000], simulated(1e9, 1e9)).unwrap();
        assert_eq!((found.zero_loss_pps, found.limited_by_generator), (Some(100_000.0), false));
        let found = search([10_000, 100_000], simulated(5_000.0, 1e9)).unwrap();
        assert_eq!(found.zero_loss_pps, None);
        let found = search([10_000, 1_000_000], simulated(120_000.0, 300_000.0)).unwrap();
        assert!(!found.limited_by_generator, "it lost datagrams long before the generator was at its end");
        let found = search([10_000, 1_000_000], simulated(1e9, 300_000.0)).unwrap();
        assert!(found.limited_by_generator);
        assert!((270_000.0..310_000.0).contains(&found.zero_loss_pps.unwrap()), "{found:?}");
    }
}
