//! Metrics as pure functions over a whole set; never a mean of batch values.
//!
//! Checked against torchmetrics, scikit-learn and netcal in `tests/`.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::prediction::ScoredRow;

pub mod calibration;
pub mod live;
pub mod paired;
pub mod ranking;

pub use calibration::{Bin, BinEdge, reliability};

/// The confidence of an answer, and whether the answer was right.
pub type Outcome = (f64, bool);

/// A figure with its bootstrap interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The figure over the whole set; absent (null in JSON) where it is undefined.
    pub value: Option<f64>,
    /// Lower end of the 95 % bootstrap interval.
    pub low: Option<f64>,
    /// Upper end of the 95 % bootstrap interval.
    pub high: Option<f64>,
}

impl Estimate {
    /// A value with the 95 % interval of its resamples.
    pub fn with_interval(value: Option<f64>, mut resampled: Vec<f64>) -> Self {
        resampled.sort_by(f64::total_cmp);
        let at = |q: f64| {
            let last = resampled.len().checked_sub(1)?;
            Some(resampled[(q * last as f64).round() as usize])
        };
        Self {
            value,
            low: at(0.025),
            high: at(0.975),
        }
    }
}

/// The resamples, moved so that their mean is the value.
///
/// A calibration error is too large on few rows, and each resample adds the same bias once more:
/// the plain percentiles lie beside the value they belong to. Moved, they say how far the error *at
/// this number of rows* varies. The error itself stays too large, most of all where calibration is
/// good. For means (accuracy, NLL, Brier score) there is no bias and hardly a change.
pub fn centred(value: Option<f64>, mut resampled: Vec<f64>) -> Vec<f64> {
    let mean = resampled.iter().sum::<f64>() / resampled.len() as f64;
    let shift = value.map_or(0.0, |value| value - mean);
    resampled.iter_mut().for_each(|v| *v += shift);
    resampled
}

/// Every figure of a scored set. Shares are in `[0, 1]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Number of questions.
    pub n: usize,
    /// Number of equal-width bins of the calibration errors.
    pub bins: usize,
    /// Share of right predictions.
    pub accuracy: Estimate,
    /// Mean confidence of the predictions.
    pub confidence: Estimate,
    /// Expected calibration error (Eq. 20).
    pub expected_calibration_error: Estimate,
    /// Calibration error with bins of equal count.
    pub adaptive_calibration_error: Estimate,
    /// Largest gap between confidence and accuracy in a bin.
    pub maximum_calibration_error: Estimate,
    /// Mean of `-ln p(label)`.
    pub negative_log_likelihood: Estimate,
    /// Mean of `sum_c (p_c - 1{c = label})^2`, 0 to 2.
    pub brier_score: Estimate,
    /// Probability that a right answer has more confidence than a wrong one.
    pub auroc: Estimate,
    /// Area under the risk-coverage curve.
    pub aurc: Estimate,
    /// Area under the risk-coverage curve less the best possible at this accuracy.
    pub excess_aurc: Estimate,
    /// Accuracy of the most confident 80 %.
    pub accuracy_at_coverage_80: Estimate,
    /// Accuracy of the most confident 90 %.
    pub accuracy_at_coverage_90: Estimate,
    /// FLU as a confidence, where there are routers.
    pub flu: Option<FluMetrics>,
}

/// Figures of FLU as a confidence: it claims to be the probability of being right.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FluMetrics {
    /// Mean FLU.
    pub mean: Estimate,
    /// Mean FLU of right answers less that of wrong ones.
    pub separation: Estimate,
    /// Expected calibration error of FLU.
    pub expected_calibration_error: Estimate,
    /// Probability that a right answer has a higher FLU than a wrong one.
    pub auroc: Estimate,
    /// Mean of `(FLU - 1{right})^2`.
    pub brier_score: Estimate,
}

/// How often the bootstrap resamples, and from which seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bootstrap {
    /// Number of resamples.
    pub resamples: usize,
    /// Seed of the resampling.
    pub seed: u64,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self {
            resamples: 1000,
            seed: 0,
        }
    }
}

impl Metrics {
    /// All figures of a scored set.
    pub fn of(rows: &[ScoredRow], bins: usize, bootstrap: Bootstrap) -> Self {
        let figure = |f: &dyn Fn(&[&ScoredRow]) -> f64| estimate(rows, bootstrap, 1.0, f);
        let up_to = |most, f: &dyn Fn(&[&ScoredRow]) -> f64| estimate(rows, bootstrap, most, f);
        let at_coverage = |share: f64| {
            let kept = ranking::answered(rows.len(), share);
            let accuracy = figure(&|rows| ranking::accuracy_at_coverage(&outcomes(rows), share));
            certain(accuracy, kept)
        };
        let outcome = |f: fn(&[Outcome]) -> f64| move |rows: &[&ScoredRow]| f(&outcomes(rows));
        Self {
            n: rows.len(),
            bins,
            accuracy: certain(
                figure(&|rows| mean(rows, |r| f64::from(u8::from(r.correct())))),
                rows.len(),
            ),
            confidence: figure(&|rows| mean(rows, |r| r.confidence())),
            expected_calibration_error: figure(&|rows| {
                calibration::expected_calibration_error(&outcomes(rows), bins, BinEdge::Right)
            }),
            adaptive_calibration_error: figure(&|rows| {
                calibration::adaptive_calibration_error(&outcomes(rows), bins)
            }),
            maximum_calibration_error: figure(&|rows| {
                calibration::maximum_calibration_error(&outcomes(rows), bins, BinEdge::Right)
            }),
            negative_log_likelihood: up_to(f64::INFINITY, &|rows| {
                mean(rows, negative_log_likelihood)
            }),
            brier_score: up_to(2.0, &|rows| mean(rows, brier)),
            auroc: figure(&outcome(ranking::auroc)),
            aurc: figure(&outcome(ranking::aurc)),
            excess_aurc: figure(&outcome(ranking::excess_aurc)),
            accuracy_at_coverage_80: at_coverage(0.8),
            accuracy_at_coverage_90: at_coverage(0.9),
            flu: rows
                .first()
                .is_some_and(|row| row.flu.is_some())
                .then(|| FluMetrics::of(rows, bins, bootstrap)),
        }
    }
}

impl FluMetrics {
    fn of(rows: &[ScoredRow], bins: usize, bootstrap: Bootstrap) -> Self {
        let figure = |f: &dyn Fn(&[&ScoredRow]) -> f64| estimate(rows, bootstrap, 1.0, f);
        let flu = |row: &ScoredRow| row.flu.unwrap_or(f64::NAN);
        let pairs = move |rows: &[&ScoredRow]| -> Vec<Outcome> {
            rows.iter().map(|r| (flu(r), r.correct())).collect()
        };
        let mean_where = move |rows: &[&ScoredRow], right: bool| {
            let kept: Vec<&ScoredRow> = rows
                .iter()
                .copied()
                .filter(|r| r.correct() == right)
                .collect();
            mean(&kept, flu)
        };
        Self {
            mean: figure(&|rows| mean(rows, flu)),
            separation: figure(&|rows| mean_where(rows, true) - mean_where(rows, false)),
            expected_calibration_error: figure(&|rows| {
                calibration::expected_calibration_error(&pairs(rows), bins, BinEdge::Right)
            }),
            auroc: figure(&|rows| ranking::auroc(&pairs(rows))),
            brier_score: figure(&|rows| {
                mean(rows, |r| {
                    (flu(r) - f64::from(u8::from(r.correct()))).powi(2)
                })
            }),
        }
    }
}

/// Confidence and correctness of each row.
pub fn outcomes(rows: &[&ScoredRow]) -> Vec<Outcome> {
    rows.iter().map(|r| (r.confidence(), r.correct())).collect()
}

/// Share of right answers; no number for no rows.
pub fn accuracy<'a>(rows: impl IntoIterator<Item = &'a ScoredRow>) -> f64 {
    let (mut right, mut all) = (0, 0);
    for row in rows {
        right += usize::from(row.correct());
        all += 1;
    }
    right as f64 / all as f64
}

/// Negative log-likelihood of a row: `-ln max(p(label), 1e-12)`.
pub fn negative_log_likelihood(row: &ScoredRow) -> f64 {
    -row.probabilities[row.label].max(1e-12).ln()
}

/// Brier score of a row: `sum_c (p_c - 1{c = label})^2`, 0 to 2.
pub fn brier(row: &ScoredRow) -> f64 {
    row.probabilities
        .iter()
        .enumerate()
        .map(|(choice, p)| (p - f64::from(u8::from(choice == row.label))).powi(2))
        .sum()
}

/// NaN for an empty set.
fn mean(rows: &[&ScoredRow], f: impl Fn(&ScoredRow) -> f64) -> f64 {
    rows.iter().map(|row| f(row)).sum::<f64>() / rows.len() as f64
}

/// The 95 % interval of a share that all of `n` questions have, or none, widened to the exact
/// (Clopper-Pearson) one: where they are the whole set, no resample differs from it.
fn certain(mut share: Estimate, n: usize) -> Estimate {
    let least = (0.025f64).powf(1.0 / n.max(1) as f64);
    match (share.value, share.low) {
        (Some(1.0), Some(low)) => share.low = Some(low.min(least)),
        (Some(0.0), Some(_)) => share.high = share.high.map(|high| high.max(1.0 - least)),
        _ => {}
    }
    share
}

/// The value of a figure on the set, and the interval of the resamples in which it is defined.
/// `most` is the largest value that the figure can have: centring moves the interval beyond it.
/// Where no resample is negative, neither end of the interval is.
pub fn estimate(
    rows: &[ScoredRow],
    bootstrap: Bootstrap,
    most: f64,
    f: &dyn Fn(&[&ScoredRow]) -> f64,
) -> Estimate {
    let all: Vec<&ScoredRow> = rows.iter().collect();
    let defined = |v: f64| v.is_finite().then_some(v);
    let mut rng = ChaCha8Rng::seed_from_u64(bootstrap.seed);
    let values: Vec<f64> = (0..bootstrap.resamples)
        .filter(|_| rows.len() > 1)
        .filter_map(|_| {
            let resample: Vec<&ScoredRow> = (0..rows.len())
                .map(|_| &rows[rng.random_range(0..rows.len())])
                .collect();
            defined(f(&resample))
        })
        .collect();
    let value = match rows.is_empty() {
        true => None,
        false => defined(f(&all)),
    };
    let never_negative = values.iter().all(|v| *v >= 0.0);
    let mut estimate = Estimate::with_interval(value, centred(value, values));
    if never_negative {
        estimate.low = estimate.low.map(|low| low.max(0.0));
    }
    estimate.high = estimate.high.map(|high| high.min(most));
    estimate
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(probabilities: &[f64], label: usize) -> ScoredRow {
        ScoredRow::from_probabilities("", label, probabilities, Some(0.5))
    }

    const BOOTSTRAP: Bootstrap = Bootstrap {
        resamples: 200,
        seed: 1,
    };

    /// Centring moves an interval, and must not move it past what a figure can be.
    #[test]
    fn an_interval_ends_where_the_figure_does() {
        let rows: Vec<ScoredRow> = (0..6).map(|i| row(&[0.9, 0.1], i % 2)).collect();
        let right = |rows: &[&ScoredRow]| mean(rows, |r| f64::from(u8::from(r.correct())));
        let upper = |most| estimate(&rows, BOOTSTRAP, most, &right).high.unwrap();
        assert!(upper(f64::INFINITY) > 0.7);
        assert_eq!(upper(0.7), 0.7);
        let all: Vec<ScoredRow> = (0..9)
            .map(|i| row(&[0.6, 0.4], usize::from(i == 0)))
            .collect();
        assert!(Metrics::of(&all, 15, BOOTSTRAP).accuracy.high.unwrap() <= 1.0);
    }

    /// Three of three: at 29.2 % it would happen in one of forty sets.
    #[test]
    fn all_right_and_all_wrong_have_the_exact_interval() {
        let rows = |right: bool| vec![row(&[0.9, 0.1], usize::from(!right)); 3];
        let of = |right: bool| Metrics::of(&rows(right), 15, BOOTSTRAP).accuracy;
        let [all, none] = [of(true), of(false)];
        assert!((all.low.unwrap() - 0.2924).abs() < 1e-4 && all.high == Some(1.0));
        assert!((none.high.unwrap() - 0.7076).abs() < 1e-4 && none.low == Some(0.0));
    }

    #[test]
    fn one_row_has_values_but_no_interval_and_no_auroc() {
        let metrics = Metrics::of(&[row(&[0.75, 0.25], 0)], 15, BOOTSTRAP);
        assert_eq!(metrics.accuracy.value, Some(1.0));
        assert_eq!(metrics.accuracy.low, None);
        assert_eq!(metrics.auroc.value, None);
        assert_eq!(metrics.brier_score.value, Some(0.125));
        let ece = metrics.expected_calibration_error.value.unwrap();
        assert!((ece - 0.25).abs() < 1e-12);
    }

    #[test]
    fn an_empty_set_has_no_values() {
        let metrics = Metrics::of(&[], 15, BOOTSTRAP);
        assert_eq!((metrics.n, metrics.accuracy.value), (0, None));
    }

    #[test]
    fn the_interval_holds_the_value_and_depends_on_the_seed_alone() {
        let rows: Vec<_> = (0..60)
            .map(|i| row(&[0.6, 0.4], usize::from(i % 3 == 0)))
            .collect();
        let a = Metrics::of(&rows, 15, BOOTSTRAP);
        let Estimate { value, low, high } = a.accuracy;
        assert!(low < value && value < high);
        assert_eq!(a, Metrics::of(&rows, 15, BOOTSTRAP));
        assert!(a.flu.unwrap().auroc.value.unwrap() == 0.5);
    }

    #[test]
    fn the_interval_of_a_biased_figure_holds_its_value() {
        // Confidences spread over all bins, right as often as they say: an ECE near 0, and every
        // resample's is larger.
        let rows: Vec<_> = (0..100)
            .map(|i| {
                let p = 0.5 + f64::from(i) / 200.0;
                row(
                    &[p, 1.0 - p],
                    usize::from(f64::from(i * 37 % 100) / 100.0 >= p),
                )
            })
            .collect();
        let Estimate { value, low, high } =
            Metrics::of(&rows, 15, BOOTSTRAP).expected_calibration_error;
        assert!(low.unwrap() >= 0.0 && low < value && value < high);
        let resampled = vec![0.5, 0.7, 0.6];
        let moved = centred(Some(0.4), resampled);
        let off = |i: usize, to: f64| (moved[i] - to).abs() < 1e-12;
        assert!(off(0, 0.3) && off(1, 0.5) && off(2, 0.4));
    }

    #[test]
    fn a_certain_error_has_finite_log_likelihood() {
        let nll = negative_log_likelihood(&row(&[1.0, 0.0], 1));
        assert!((nll - 27.631).abs() < 1e-3);
    }
}
