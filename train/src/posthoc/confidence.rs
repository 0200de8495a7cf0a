//! The probability of being right, from softmax confidence and FLU together: a logistic regression
//! on their logits, drawn towards temperature scaling as strongly as held-out rows say.
//!
//! `logit c = w_0 + w_1 logit(conf_T) + w_2 z(FLU)`, where `conf_T` is the confidence after
//! temperature scaling and z the standardised logit of FLU. The penalty
//! `strength / 2 |w - (0, 1, 0)|^2` pulls to temperature scaling alone; its strength is chosen by
//! five-fold cross-validation of the likelihood. The answer stays; the other choices share the rest
//! as before.

use faer::linalg::solvers::Solve;
use faer::{Mat, Side};
use serde::{Deserialize, Serialize};

use super::PostHoc;
use super::temperature::Temperature;
use crate::prediction::{ScoredRow, logarithms};

/// A fitted calibrator of softmax confidence and FLU.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Confidence {
    /// Temperature scaling of the logits, applied first.
    pub temperature: Temperature,
    /// Weights of the constant 1, of the confidence's logit, and of standardised FLU.
    pub weights: [f64; 3],
    /// Mean and standard deviation of FLU's logit on held-out rows.
    pub flu: [f64; 2],
    /// Strength of the pull towards temperature scaling, in pseudo-observations.
    pub strength: f64,
}

/// Weights that leave temperature scaling as it is.
const PRIOR: [f64; 3] = [0.0, 1.0, 0.0];

/// Strengths tried, in pseudo-observations; the last one is all but temperature scaling.
const STRENGTHS: [f64; 5] = [1.0, 10.0, 100.0, 1000.0, 1e6];

const FOLDS: usize = 5;

fn logit(p: f64) -> f64 {
    let p = p.clamp(1e-6, 1.0 - 1e-6);
    (p / (1.0 - p)).ln()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// An observation: features and whether the answer was right.
type Observation = ([f64; 3], bool);

fn dot(weights: &[f64; 3], features: &[f64; 3]) -> f64 {
    weights.iter().zip(features).map(|(w, x)| w * x).sum()
}

/// Gradient and curvature of the penalised loss.
fn derivatives(
    weights: &[f64; 3],
    observations: &[Observation],
    strength: f64,
) -> ([f64; 3], [[f64; 3]; 3]) {
    let mut gradient = [0.0; 3];
    let mut curvature = [[0.0; 3]; 3];
    for i in 0..3 {
        gradient[i] = strength * (weights[i] - PRIOR[i]);
        curvature[i][i] = strength;
    }
    for (features, right) in observations {
        let p = sigmoid(dot(weights, features));
        let error = p - f64::from(u8::from(*right));
        for i in 0..3 {
            gradient[i] += error * features[i];
            for j in 0..3 {
                curvature[i][j] += p * (1.0 - p) * features[i] * features[j];
            }
        }
    }
    (gradient, curvature)
}

/// Penalised maximum likelihood by Newton's method.
fn regress(observations: &[Observation], strength: f64) -> [f64; 3] {
    let mut weights = PRIOR;
    for _ in 0..50 {
        let (gradient, curvature) = derivatives(&weights, observations, strength);
        let step = solve(curvature, gradient);
        // A full step may overshoot where the data are separable.
        let size = step.iter().fold(0.0f64, |m, s| m.max(s.abs()));
        let scale = (1.0 / size.max(1e-300)).min(1.0);
        for i in 0..3 {
            weights[i] -= scale * step[i];
        }
        if size < 1e-10 {
            break;
        }
    }
    weights
}

/// Solves a positive definite system. Zeros where it is not positive definite, which only values
/// that are no numbers can bring about.
fn solve(a: [[f64; 3]; 3], b: [f64; 3]) -> [f64; 3] {
    let matrix = Mat::from_fn(3, 3, |i, j| a[i][j]);
    let right = Mat::from_fn(3, 1, |i, _| b[i]);
    matrix.llt(Side::Lower).map_or([0.0; 3], |factor| {
        let x = factor.solve(&right);
        std::array::from_fn(|i| x[(i, 0)])
    })
}

/// `-log` of the likelihood.
fn loss(weights: &[f64; 3], observations: &[Observation]) -> f64 {
    observations
        .iter()
        .map(|(features, right)| {
            let x = dot(weights, features);
            // ln(1 + exp(-x)) and its mirror image.
            let x = if *right { x } else { -x };
            (-x.abs()).exp().ln_1p() + (-x).max(0.0)
        })
        .sum()
}

/// The strength with the best likelihood on rows left out; ties go to the stronger.
fn choose(observations: &[Observation]) -> f64 {
    if observations.len() < 2 * FOLDS {
        return STRENGTHS[STRENGTHS.len() - 1];
    }
    let left_out = |strength: f64| -> f64 {
        (0..FOLDS)
            .map(|fold| {
                let (out, kept): (Vec<_>, Vec<_>) = observations
                    .iter()
                    .enumerate()
                    .partition(|(row, _)| row % FOLDS == fold);
                let plain = |rows: Vec<(usize, &Observation)>| -> Vec<Observation> {
                    rows.into_iter().map(|(_, o)| *o).collect()
                };
                loss(&regress(&plain(kept), strength), &plain(out))
            })
            .sum()
    };
    let mut best = (f64::INFINITY, 0.0);
    for strength in STRENGTHS.into_iter().rev() {
        let found = left_out(strength);
        if found < best.0 - 1e-9 {
            best = (found, strength);
        }
    }
    best.1
}

/// A logistic regression of being right on the stated confidence and FLU, drawn to the confidence
/// as stated, with the curvature of its likelihood: how sure it is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Regression {
    weights: [f64; 3],
    curvature: [[f64; 3]; 3],
    flu: [f64; 2],
}

impl Regression {
    /// Fits with a pull of so many pseudo-observations.
    pub(super) fn fit(rows: &[ScoredRow], pull: f64) -> Self {
        let plain = Confidence {
            flu: flu_moments(rows),
            ..Confidence::scaling(Temperature::ONE)
        };
        let observations = plain.observations(rows);
        let weights = regress(&observations, pull);
        Self {
            weights,
            curvature: derivatives(&weights, &observations, pull).1,
            flu: plain.flu,
        }
    }

    /// The interval of a row's probability of being right, so many standard deviations on either
    /// side on the scale of the logit.
    pub(super) fn interval(&self, row: &ScoredRow, deviations: f64) -> [f64; 2] {
        let plain = Confidence {
            flu: self.flu,
            ..Confidence::scaling(Temperature::ONE)
        };
        let features = plain.features(row);
        let variance = dot(&solve(self.curvature, features), &features).max(0.0);
        let (middle, half) = (dot(&self.weights, &features), deviations * variance.sqrt());
        [sigmoid(middle - half), sigmoid(middle + half)]
    }
}

/// Whether FLU tells something that the softmax confidence does not: a likelihood-ratio test of the
/// logistic regression of being right on both logits against that on the confidence's alone.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Information {
    /// Twice the gain in log-likelihood; where FLU says nothing, chi-squared with one degree of
    /// freedom (above 3.84 in 5 % of cases).
    pub likelihood_ratio: f64,
    /// Probability of a likelihood ratio as large by chance.
    pub p_value: f64,
    /// FLU's weight: below 0, it is higher where the answer is wrong.
    pub weight: f64,
}

impl Information {
    /// Tests scored rows. `None` without FLU, where FLU is the confidence, or where all or none are
    /// right.
    pub fn of(rows: &[ScoredRow]) -> Option<Self> {
        /// Not 0: the curvature of a separable set has no inverse.
        const PULL: f64 = 1e-6;
        let right = rows.iter().filter(|row| row.correct()).count();
        if right == 0 || right == rows.len() {
            return None;
        }
        if rows.iter().all(|row| row.flu == Some(row.confidence())) {
            return None;
        }
        let flu: Option<Vec<f64>> = rows.iter().map(|row| row.flu.map(logit)).collect();
        let [mean, deviation] = moments(&flu?);
        let observe = |row: &ScoredRow, with: f64| -> Observation {
            let z = row.flu.map_or(0.0, |flu| (logit(flu) - mean) / deviation);
            ([1.0, logit(row.confidence()), with * z], row.correct())
        };
        let best = |with: f64| {
            let observations: Vec<Observation> = rows.iter().map(|r| observe(r, with)).collect();
            let weights = regress(&observations, PULL);
            (loss(&weights, &observations), weights[2])
        };
        let ((without, _), (with, weight)) = (best(0.0), best(1.0));
        let likelihood_ratio = (2.0 * (without - with)).max(0.0);
        Some(Self {
            likelihood_ratio,
            weight,
            p_value: libm::erfc((likelihood_ratio / 2.0).sqrt()),
        })
    }
}

/// Mean and standard deviation of some values; the latter is never quite 0.
fn moments(values: &[f64]) -> [f64; 2] {
    let n = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
    [mean, variance.sqrt().max(1e-6)]
}

fn flu_moments(rows: &[ScoredRow]) -> [f64; 2] {
    let logits: Vec<f64> = rows.iter().filter_map(|r| r.flu).map(logit).collect();
    moments(&logits)
}

impl Confidence {
    /// Temperature scaling alone.
    pub fn scaling(temperature: Temperature) -> Self {
        Self {
            temperature,
            weights: PRIOR,
            flu: [0.0, 1.0],
            strength: 0.0,
        }
    }

    /// Fits on held-out rows after a temperature.
    pub fn after(temperature: Temperature, held_out: &[ScoredRow]) -> Self {
        let mut fitted = Self {
            flu: flu_moments(held_out),
            ..Self::scaling(temperature)
        };
        let observations = fitted.observations(held_out);
        fitted.strength = choose(&observations);
        fitted.weights = regress(&observations, fitted.strength);
        fitted
    }

    fn observations(&self, rows: &[ScoredRow]) -> Vec<Observation> {
        rows.iter()
            .map(|row| (self.features(row), row.correct()))
            .collect()
    }

    fn features(&self, row: &ScoredRow) -> [f64; 3] {
        let scaled = self.temperature.apply(row);
        let [mean, deviation] = self.flu;
        [
            1.0,
            logit(scaled.confidence()),
            row.flu.map_or(0.0, |flu| (logit(flu) - mean) / deviation),
        ]
    }

    /// The probability that the row's answer is right.
    pub fn probability(&self, row: &ScoredRow) -> f64 {
        sigmoid(dot(&self.weights, &self.features(row)))
    }
}

/// By how much an answer's probability has to be above another's not to be one with it.
const TIE: f64 = 1e-9;

/// Divides `rest` among all choices but the answer by their shares, none of them more than `most`.
fn divided(shares: &[f64], answer: usize, rest: f64, most: f64) -> Vec<f64> {
    let mut given = vec![0.0; shares.len()];
    let mut open: Vec<usize> = (0..shares.len())
        .filter(|choice| *choice != answer)
        .collect();
    let mut left = rest;
    loop {
        let sum: f64 = open.iter().map(|choice| shares[*choice]).sum();
        for choice in &open {
            given[*choice] = match sum > 0.0 {
                true => left * shares[*choice] / sum,
                false => left / open.len() as f64,
            };
        }
        let full = |choice: &usize| given[*choice] > most;
        let (over, under): (Vec<usize>, Vec<usize>) = open.into_iter().partition(full);
        if over.is_empty() || under.is_empty() {
            return given;
        }
        for choice in over {
            given[choice] = most;
            left -= most;
        }
        open = under;
    }
}

impl PostHoc for Confidence {
    type Output = ScoredRow;

    fn fit(held_out: &[ScoredRow]) -> Self {
        Self::after(Temperature::fit(held_out), held_out)
    }

    /// The row with its answer's probability replaced; never below chance, one in the number of
    /// choices. The others share the rest as before; none gets more than the answer, which stays.
    fn apply(&self, row: &ScoredRow) -> ScoredRow {
        let answer = row.prediction();
        // The others' shares of what the answer leaves; a saturated softmax leaves nothing to go
        // by.
        let others: Vec<f64> = row
            .probabilities
            .iter()
            .enumerate()
            .map(|(choice, p)| if choice == answer { 0.0 } else { *p })
            .collect();
        let rest: f64 = others.iter().sum();
        let even = 1.0 / (others.len() - 1).max(1) as f64;
        let shares: Vec<f64> = others
            .iter()
            .enumerate()
            .map(|(choice, p)| match (choice == answer, rest > 0.0) {
                (true, _) => 0.0,
                (false, true) => p / rest,
                (false, false) => even,
            })
            .collect();
        let chosen = row.written.is_none();
        let least = match chosen {
            true => 1.0 / shares.len() as f64 + TIE,
            false => 0.0,
        };
        let new = self.probability(row).max(least).min(1.0);
        // A written answer stays anyway.
        let most = if chosen { new - TIE } else { f64::INFINITY };
        let mut probabilities = divided(&shares, answer, 1.0 - new, most);
        probabilities[answer] = new;
        ScoredRow {
            logits: logarithms(&probabilities),
            probabilities,
            ..row.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prediction::{AnswerConfidence, Written};

    /// Rows with a constant confidence, right where FLU is high.
    fn rows(n: usize, informative: bool) -> Vec<ScoredRow> {
        (0..n)
            .map(|i| {
                let high = (i / 3) % 2 == 0;
                let right = match informative {
                    true => high != (i % 10 == 0),
                    false => i % 4 < 2,
                };
                ScoredRow::from_probabilities(
                    i.to_string(),
                    usize::from(!right),
                    &[0.7, 0.3],
                    Some(if high { 0.8 } else { 0.4 }),
                )
            })
            .collect()
    }

    #[test]
    fn a_written_answer_may_be_improbable() {
        let row = |right: bool| {
            let written = Written {
                text: "x".into(),
                log_probabilities: vec![0.6f64.ln()],
            };
            ScoredRow::from_written("", right, written, None, AnswerConfidence::Mean)
        };
        // Of answers that it gives 60 %, one in seven is right.
        let rows: Vec<ScoredRow> = (0..210).map(|i| row(i % 7 == 0)).collect();
        let applied = Confidence::fit(&rows).apply(&rows[1]);
        assert!(
            (applied.confidence() - 1.0 / 7.0).abs() < 0.02,
            "{applied:?}"
        );
        assert_eq!((applied.prediction(), applied.correct()), (0, false));
    }

    #[test]
    fn informative_flu_raises_and_lowers_confidence_and_noise_is_left_alone() {
        let fitted = Confidence::fit(&rows(300, true));
        let probabilities: Vec<f64> = rows(300, true)
            .iter()
            .map(|r| fitted.probability(r))
            .collect();
        assert!(fitted.weights[2] > 1.0, "{fitted:?}");
        assert!(probabilities[0] > 0.8 && probabilities[3] < 0.3);
        let noise = Confidence::fit(&rows(300, false));
        assert!(noise.weights[2].abs() < 0.1, "{noise:?}");
    }

    #[test]
    fn the_answer_stays_and_probabilities_sum_to_one() {
        let fitted = Confidence::fit(&rows(300, true));
        let row = ScoredRow::from_probabilities("", 1, &[0.2, 0.5, 0.3], Some(0.01));
        let applied = fitted.apply(&row);
        assert_eq!(applied.prediction(), 1);
        assert!((applied.probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-9);
        assert!(applied.confidence() < 0.5);
        // A saturated softmax, as f32 gives it: one, and next to nothing for the others.
        for others in [0.0, 2e-9] {
            let p = [1.0, others, others / 2.0, others];
            let row = ScoredRow::from_probabilities("", 1, &p, Some(0.01));
            let applied = fitted.apply(&row);
            assert!((applied.probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-9);
            let found = applied.confidence() - fitted.probability(&row).max(0.25);
            assert!(found.abs() < 1e-6, "{applied:?}");
        }
        // Less than the runner-up's share of the rest: what `predict` says, and no more than it.
        let mut low = fitted;
        for (said, least) in [(0.27, 0.27), (0.1, 0.25)] {
            low.weights = [f64::ln(said / (1.0 - said)), 0.0, 0.0];
            let row = ScoredRow::from_probabilities("", 0, &[0.72, 0.2, 0.07, 0.01], Some(0.5));
            let applied = low.apply(&row);
            assert_eq!(applied.prediction(), 0);
            assert!((applied.confidence() - least).abs() < 1e-6, "{applied:?}");
            assert!((applied.probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-9);
            assert!(
                applied.probabilities.is_sorted_by(|a, b| a >= b),
                "{applied:?}"
            );
        }
    }

    #[test]
    fn few_rows_leave_temperature_scaling() {
        let few = rows(4, true);
        let fitted = Confidence::fit(&few);
        let scaled = Temperature::fit(&few).apply(&few[0]).confidence();
        assert!((fitted.probability(&few[0]) - scaled).abs() < 1e-4);
    }

    #[test]
    fn regression_ends_where_the_penalised_loss_is_flat() {
        let observations: Vec<Observation> =
            [(-1.0, false), (0.0, false), (1.0, true), (2.0, true)]
                .map(|(x, right)| ([1.0, x, 0.0], right))
                .into();
        let weights = regress(&observations, 1.0);
        let gradient = |w: &[f64; 3]| -> f64 {
            let h = 1e-6;
            let value = |w: &[f64; 3]| {
                let pull: f64 = w.iter().zip(PRIOR).map(|(w, p)| (w - p).powi(2)).sum();
                loss(w, &observations) + pull / 2.0
            };
            (0..3)
                .map(|i| {
                    let (mut up, mut down) = (*w, *w);
                    up[i] += h;
                    down[i] -= h;
                    ((value(&up) - value(&down)) / (2.0 * h)).abs()
                })
                .fold(0.0, f64::max)
        };
        assert!(gradient(&weights) < 1e-6, "{weights:?}");
    }
}
