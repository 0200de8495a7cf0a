//! What a report is made from, and what of it is kept as `metrics.json`.

use serde::{Deserialize, Serialize};

use crate::evaluation::Cost;
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
    /// Tuned model on test after calibration on held-out.
    pub calibrated: CalibratedMetrics,
    /// What an answer of the tuned model costs.
    pub cost: Cost,
}

impl Scored {
    /// The figures without the rows.
    pub fn figures(&self) -> Figures {
        Figures {
            base: self.base.clone(),
            tuned: self.tuned.clone(),
            base_held_out: self.base_held_out.clone(),
            tuned_held_out: self.tuned_held_out.clone(),
            calibrated: self.calibrated.clone(),
            cost: self.cost,
        }
    }
}
