//! Temperature scaling (Guo et al. 2017): `softmax(logits / T)`, T by the likelihood of held-out
//! answers. The answers stay.

use serde::{Deserialize, Serialize};

use super::PostHoc;
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
            let of_row = |(weight, row): &(f64, &ScoredRow)| weight * loss(row, log.exp());
            rows.iter().map(of_row).sum::<f64>() + log.powi(2) / 2.0
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
        let loss = |log: f64| -> f64 { held_out.iter().map(|row| loss(row, log.exp())).sum() };
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

/// The negative log-likelihood at a temperature, `log sum_k exp(s_k / T) - s_y / T`. Reports bound
/// it; here a bound would make a second valley, where an answer that is surely wrong costs no more
/// however cold it gets.
fn loss(row: &ScoredRow, temperature: f64) -> f64 {
    let largest = row.logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exponentials = row
        .logits
        .iter()
        .map(|s| ((s - largest) / temperature).exp());
    let found = exponentials.sum::<f64>().ln() - (row.logits[row.label] - largest) / temperature;
    // A choice that the model rules out wholly.
    found.min(1e300)
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
    fn one_answer_that_is_surely_wrong_makes_the_others_less_sure() {
        let row = |label: usize, gap: f64| {
            let mut row = ScoredRow::from_probabilities("", label, &[0.5, 0.5], None);
            row.logits = vec![gap, 0.0];
            row
        };
        let rows: Vec<ScoredRow> = (0..9).map(|_| row(0, 2.0)).chain([row(1, 100.0)]).collect();
        // log(1 + exp(-2 / T)) nine times and log(1 + exp(100 / T)): the end of the range.
        let fitted = Temperature::fit(&rows).temperature;
        assert!((fitted - 20.1).abs() < 0.1, "{fitted}");
        let weighted: Vec<_> = rows.iter().map(|row| (1.0, row)).collect();
        let probable = Temperature::most_probable(&weighted).temperature;
        assert!((15.0..20.1).contains(&probable), "{probable}");
    }

    #[test]
    fn without_held_out_rows_nothing_changes_and_all_right_is_bounded() {
        assert_eq!(Temperature::fit(&[]).temperature, 1.0);
        let row = ScoredRow::from_probabilities("", 0, &[0.9, 0.1], None);
        let fitted = Temperature::fit(&[row]);
        assert!(fitted.temperature.ln() > -BOUND - 1e-9);
    }
}
