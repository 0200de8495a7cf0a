//! What a report is made from, and what of it is kept as `metrics.json`.

use serde::{Deserialize, Serialize};

use crate::config::{AnswerTemperature, RunConfig};
use crate::evaluation::{Cost, Evaluated};
use crate::metric::Metrics;
use crate::posthoc::CalibratedMetrics;
use crate::prediction::ScoredRow;

/// What was found out about the base model and the tuned one.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// Base model, test.
    pub base: Metrics,
    /// Tuned model, test.
    pub tuned: Metrics,
    /// Base model, held-out.
    pub base_held_out: Metrics,
    /// Tuned model, held-out.
    pub tuned_held_out: Metrics,
    /// Tuned model on test after calibration on held-out.
    pub calibrated: CalibratedMetrics,
    /// Base model's scored test questions.
    pub base_rows: Vec<ScoredRow>,
    /// Tuned model's scored test questions.
    pub tuned_rows: Vec<ScoredRow>,
    /// Tuned model's scored held-out questions.
    pub held_out_rows: Vec<ScoredRow>,
    /// What an answer of the tuned model costs.
    pub cost: Cost,
}

/// The figures alone: `metrics.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Base model, test.
    pub base: Metrics,
    /// Tuned model, test.
    pub tuned: Metrics,
    /// Base model, held-out.
    pub base_held_out: Metrics,
    /// Tuned model, held-out.
    pub tuned_held_out: Metrics,
    /// Tuned model on test after calibration on held-out; absent where none of these was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibrated: Option<CalibratedMetrics>,
    /// What an answer of the tuned model costs.
    pub cost: Cost,
}

/// What a model was found to say: of held-out questions, and of test questions.
#[derive(Debug, Clone)]
pub struct Said {
    /// Answers to held-out questions; none where they were not asked.
    pub held_out: Vec<ScoredRow>,
    /// Answers to test questions, with their cost.
    pub test: Evaluated,
}

impl Scored {
    /// The figures of what base model and tuned model said.
    pub fn of(config: &RunConfig, base: Said, tuned: Said) -> Self {
        let (bins, bootstrap) = (config.evaluation.bins, config.bootstrap());
        let figures = |rows: &[ScoredRow]| Metrics::of(rows, bins, bootstrap);
        let mut calibrated =
            CalibratedMetrics::of(&tuned.held_out, &tuned.test.rows, bins, bootstrap);
        // Its answers are given as they are: held-out questions change nothing.
        if config.method.temperature == AnswerTemperature::Prequential {
            (calibrated.trust, calibrated.with_trust) = (None, None);
        }
        Self {
            calibrated,
            base: figures(&base.test.rows),
            tuned: figures(&tuned.test.rows),
            base_held_out: figures(&base.held_out),
            tuned_held_out: figures(&tuned.held_out),
            cost: tuned.test.cost,
            base_rows: base.test.rows,
            tuned_rows: tuned.test.rows,
            held_out_rows: tuned.held_out,
        }
    }

    /// The figures without the rows.
    pub fn figures(&self) -> Figures {
        Figures {
            base: self.base.clone(),
            tuned: self.tuned.clone(),
            base_held_out: self.base_held_out.clone(),
            tuned_held_out: self.tuned_held_out.clone(),
            calibrated: (!self.held_out_rows.is_empty()).then(|| self.calibrated.clone()),
            cost: self.cost,
        }
    }

    /// The figures that trackers show beside settings, by their tags; those without a value are
    /// left out.
    pub fn finals(&self) -> Vec<(&'static str, f64)> {
        let (base, tuned) = (&self.base, &self.tuned);
        let flu = tuned.flu.as_ref().and_then(|flu| flu.auroc.value);
        [
            ("test/accuracy", tuned.accuracy.value),
            (
                "test/expected_calibration_error",
                tuned.expected_calibration_error.value,
            ),
            (
                "test/negative_log_likelihood",
                tuned.negative_log_likelihood.value,
            ),
            ("test/brier_score", tuned.brier_score.value),
            ("test/auroc", tuned.auroc.value),
            ("test/flu_auroc", flu),
            ("base/accuracy", base.accuracy.value),
            (
                "base/expected_calibration_error",
                base.expected_calibration_error.value,
            ),
            (
                "base/negative_log_likelihood",
                base.negative_log_likelihood.value,
            ),
        ]
        .into_iter()
        .filter_map(|(tag, value)| Some((tag, value?)))
        .collect()
    }

    /// As [`majority()`], of the test questions.
    pub fn majority(&self) -> Option<(usize, f64)> {
        majority(&self.tuned_rows)
    }
}

/// The most frequent right choice and its share: what a model that knows nothing could reach. None
/// where rows differ in their number of choices, where the model writes, or for an empty set.
pub fn majority(rows: &[ScoredRow]) -> Option<(usize, f64)> {
    let first = rows.first()?;
    if first.written.is_some() {
        return None;
    }
    let choices = first.probabilities.len();
    if rows.iter().any(|r| r.probabilities.len() != choices) {
        return None;
    }
    let count = |choice: usize| rows.iter().filter(|r| r.label == choice).count();
    let best = (0..choices).max_by_key(|choice| (count(*choice), std::cmp::Reverse(*choice)))?;
    Some((best, count(best) as f64 / rows.len() as f64))
}
