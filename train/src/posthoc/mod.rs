//! Calibrators: fitted on held-out predictions, applied to the predictions of any method.
//!
//! | module | output |
//! |---|---|
//! | [`temperature`] | the same answer with another confidence |
//! | [`confidence`] | the probability of being right, from softmax confidence and FLU together |
//! | [`trust`] | which of these an answer is given with, and how sure that is |
//! | [`abstention`] | whether to answer at all, at a stated risk or coverage |
//! | [`conformal`] | a set of choices that holds the right one with a stated probability |

use serde::{Deserialize, Serialize};

use crate::metric::{Bootstrap, Metrics};
use crate::prediction::ScoredRow;

pub mod abstention;
pub mod confidence;
pub mod conformal;
pub mod temperature;
pub mod trust;

use confidence::Confidence;
use conformal::{Conformal, ConformalMetrics, Score};
use temperature::Temperature;
use trust::Trust;

/// A calibrator: fitted on held-out predictions, applied to any other.
pub trait PostHoc: Sized {
    /// What the calibrator makes of a prediction.
    type Output;

    /// Fits the calibrator. Without rows it changes nothing.
    fn fit(held_out: &[ScoredRow]) -> Self;

    /// The calibrated form of a prediction.
    fn apply(&self, row: &ScoredRow) -> Self::Output;
}

/// Error rate that conformal sets are made for in reports.
pub const ALPHA: f64 = 0.1;

/// Both calibrators of confidence, fitted on the same held-out rows; the temperature is the one
/// that the confidence builds on.
#[derive(Debug, Clone, Copy)]
pub struct Calibrators(Confidence);

impl Calibrators {
    /// Fits both on held-out rows.
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
pub struct CalibratedMetrics {
    /// The fitted temperature.
    pub temperature: Temperature,
    /// Figures with temperature scaling.
    pub with_temperature: Metrics,
    /// The fitted calibrator of confidence and FLU.
    pub confidence: Confidence,
    /// Figures with the calibrator's confidence.
    pub with_confidence: Metrics,
    /// Conformal sets of the least ambiguous classifier (LAC).
    pub lac: ConformalMetrics,
    /// Adaptive prediction sets (APS).
    pub aps: ConformalMetrics,
    /// The calibration that answers are given with; absent where held-out questions calibrate
    /// nothing, since first answers did, and in runs of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<Trust>,
    /// Figures with that confidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub with_trust: Option<Metrics>,
}

impl CalibratedMetrics {
    /// Fits every calibrator on held-out rows and applies it to test rows.
    pub fn of(
        held_out: &[ScoredRow],
        test: &[ScoredRow],
        bins: usize,
        bootstrap: Bootstrap,
    ) -> Self {
        let calibrators = Calibrators::fit(held_out);
        let [scaled, combined] = calibrators.apply(test);
        let Calibrators(confidence) = calibrators;
        let trust = Trust::fit(held_out);
        let trusted: Vec<ScoredRow> = test.iter().map(|row| trust.apply(row)).collect();
        let sets = |score| Conformal::fit(held_out, score, ALPHA).metrics(test);
        Self {
            with_temperature: Metrics::of(&scaled, bins, bootstrap),
            with_confidence: Metrics::of(&combined, bins, bootstrap),
            temperature: confidence.temperature,
            confidence,
            lac: sets(Score::Lac),
            aps: sets(Score::Aps),
            with_trust: Some(Metrics::of(&trusted, bins, bootstrap)),
            trust: Some(trust),
        }
    }
}
