//! Temperature scaling (Guo et al. 2017): `softmax(logits / T)`, T by the likelihood of held-out
//! answers. The answers stay.

use serde::{Deserialize, Serialize};

use super::PostHoc;
use crate::metric::negative_log_likelihood;
use crate::prediction::ScoredRow;

/// A fitted temperature: `softmax(logits / T)`. Above 1 it lowers confidence.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Temperature {
    /// The divisor T of the logits.
    pub temperature: f64,
}

/// `log T` is sought in `[-BOUND, BOUND]`.
const BOUND: f64 = 3.0;

impl Temperature {
    /// Changes nothing.
    pub const ONE: Self = Self { temperature: 1.0 };

    /// The most probable temperature of weighted rows under a standard normal prior on `log T`:
    /// `argmin_T sum_i w_i (-log softmax(s_i / T)_y) + (log T)^2 / 2`.
    pub fn most_probable(rows: &[(f64, &ScoredRow)]) -> Self {
        if rows.is_empty() {
            return Self::ONE;
        }
        let loss = |log: f64| -> f64 {
            let temperature = Self {
                temperature: log.exp(),
            };
            let likelihood = |(weight, row): &(f64, &ScoredRow)| {
                weight * negative_log_likelihood(&temperature.apply(row))
            };
            rows.iter().map(likelihood).sum::<f64>() + log.powi(2) / 2.0
        };
        Self {
            temperature: minimise(loss, -BOUND, BOUND).exp(),
        }
    }
}

impl PostHoc for Temperature {
    type Output = ScoredRow;

    /// The negative log-likelihood is convex in `1 / T`, so it has one minimum in `log T`, found by
    /// golden sections.
    fn fit(held_out: &[ScoredRow]) -> Self {
        if held_out.is_empty() {
            return Self::ONE;
        }
        let loss = |log: f64| -> f64 {
            let temperature = Self {
                temperature: log.exp(),
            };
            let scaled = held_out.iter().map(|row| temperature.apply(row));
            scaled.map(|row| negative_log_likelihood(&row)).sum()
        };
        Self {
            temperature: minimise(loss, -BOUND, BOUND).exp(),
        }
    }

    fn apply(&self, row: &ScoredRow) -> ScoredRow {
        let logits: Vec<f64> = row.logits.iter().map(|l| l / self.temperature).collect();
        let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let exponentials: Vec<f64> = logits.iter().map(|l| (l - largest).exp()).collect();
        let sum: f64 = exponentials.iter().sum();
        ScoredRow {
            probabilities: exponentials.iter().map(|e| e / sum).collect(),
            logits,
            ..row.clone()
        }
    }
}

/// The minimum of a function with one valley, by golden sections.
fn minimise(f: impl Fn(f64) -> f64, mut low: f64, mut high: f64) -> f64 {
    let golden = (5f64.sqrt() - 1.0) / 2.0;
    for _ in 0..60 {
        let (left, right) = (high - golden * (high - low), low + golden * (high - low));
        match f(left) < f(right) {
            true => high = right,
            false => low = left,
        }
    }
    f64::midpoint(low, high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_temperature_of_a_known_overconfidence_is_found() {
        // Of two choices at logit gap 4, 73.1 % are right: that is the gap 1, so T = 4.
        let rows: Vec<ScoredRow> = (0..1000)
            .map(|i| {
                let mut row =
                    ScoredRow::from_probabilities("", usize::from(i >= 731), &[0.5, 0.5], None);
                row.logits = vec![4.0, 0.0];
                row
            })
            .collect();
        let fitted = Temperature::fit(&rows);
        assert!((fitted.temperature - 4.0).abs() < 0.01, "{fitted:?}");
        let scaled = fitted.apply(&rows[0]);
        assert!((scaled.probabilities[0] - 0.731).abs() < 1e-3);
        assert_eq!(scaled.prediction(), 0);
    }

    #[test]
    fn without_held_out_rows_nothing_changes_and_all_right_is_bounded() {
        assert_eq!(Temperature::fit(&[]).temperature, 1.0);
        let row = ScoredRow::from_probabilities("", 0, &[0.9, 0.1], None);
        let fitted = Temperature::fit(&[row]);
        assert!(fitted.temperature.ln() > -BOUND - 1e-9);
    }
}
