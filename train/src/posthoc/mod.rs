//! What is fitted on held-out predictions and applied to those of any method.
//!
//! | module | output |
//! |---|---|
//! | [`temperature`] | the same answer with another confidence |
//! | [`confidence`] | the probability of being right, from softmax confidence and FLU together |
//! | [`abstention`] | whether to answer at all, at a stated risk or coverage |
//! | [`conformal`] | a set of choices that holds the right one with a stated probability |

use serde::{Deserialize, Serialize};

use crate::metric::{Bootstrap, Metrics};
use crate::prediction::ScoredRow;

pub mod abstention;
pub mod confidence;
pub mod conformal;
pub mod temperature;

use confidence::Confidence;
use conformal::{Conformal, ConformalMetrics, Score};
use temperature::Temperature;

/// Fitted on held-out predictions, applied to any.
pub trait PostHoc: Sized {
    /// What it makes of a prediction.
    type Output;

    /// Fits it; an empty set fits what changes nothing.
    fn fit(held_out: &[ScoredRow]) -> Self;

    /// Applies it.
    fn apply(&self, row: &ScoredRow) -> Self::Output;
}

/// Error rate that conformal sets are made for in reports.
pub const ALPHA: f64 = 0.1;

/// Both calibrators of held-out rows; the temperature is the one that the confidence builds on.
#[derive(Debug, Clone, Copy)]
pub struct Calibrators(Confidence);

impl Calibrators {
    /// Fits them.
    pub fn fit(held_out: &[ScoredRow]) -> Self {
        Self(Confidence::fit(held_out))
    }

    /// Rows with temperature scaling, and with the calibrator's confidence.
    pub fn apply(&self, rows: &[ScoredRow]) -> [Vec<ScoredRow>; 2] {
        let Self(confidence) = self;
        [
            rows.iter()
                .map(|row| confidence.temperature.apply(row))
                .collect(),
            rows.iter().map(|row| confidence.apply(row)).collect(),
        ]
    }
}

/// A scored test set after each way of calibration; part of `metrics.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calibrated {
    /// The fitted temperature.
    pub temperature: Temperature,
    /// With temperature scaling.
    pub with_temperature: Metrics,
    /// The fitted calibrator.
    pub confidence: Confidence,
    /// With its confidence.
    pub with_confidence: Metrics,
    /// Sets by the least ambiguous classifier.
    pub lac: ConformalMetrics,
    /// Adaptive prediction sets.
    pub aps: ConformalMetrics,
}

impl Calibrated {
    /// Fits everything on held-out rows and applies it to the test's.
    pub fn of(
        held_out: &[ScoredRow],
        test: &[ScoredRow],
        bins: usize,
        bootstrap: Bootstrap,
    ) -> Self {
        let calibrators = Calibrators::fit(held_out);
        let [scaled, combined] = calibrators.apply(test);
        let Calibrators(confidence) = calibrators;
        let sets = |score| Conformal::fit(held_out, score, ALPHA).metrics(test);
        Self {
            with_temperature: Metrics::of(&scaled, bins, bootstrap),
            with_confidence: Metrics::of(&combined, bins, bootstrap),
            temperature: confidence.temperature,
            confidence,
            lac: sets(Score::Lac),
            aps: sets(Score::Aps),
        }
    }
}
