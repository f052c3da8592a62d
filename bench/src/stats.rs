//! Medians and their spread.

use serde::{Deserialize, Serialize};

/// The middle of some repetitions, and how far they were apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The middle value, or the mean of the two middle ones.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
    /// How many there were.
    pub repeats: usize,
}

impl Spread {
    /// Of those values that are numbers; `None` if there are none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let upper = *values.get(values.len() / 2)?;
        let lower = *values.get((values.len() - 1) / 2)?;
        Some(Self { median: f64::midpoint(lower, upper), min, max, repeats: values.len() })
    }

    /// `median (min-max)` with so many decimals.
    pub fn show(&self, decimals: usize) -> String {
        format!("{:.*} ({:.*}-{:.*})", decimals, self.median, decimals, self.min, decimals, self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        let spread = Spread::of([3.0, 1.0, f64::NAN, 2.0]).unwrap();
        assert_eq!((spread.median, spread.min, spread.max, spread.repeats), (2.0, 1.0, 3.0, 3));
        assert_eq!(Spread::of([1.0, 2.0]).unwrap().median.to_bits(), 1.5_f64.to_bits());
        assert!(Spread::of([]).is_none());
        assert_eq!(spread.show(0), "2 (1-3)");
    }
}
