//! The figures of a table's cells: what each is called, which way is better, and how it is
//! computed.
//!
//! A new figure is a variant of [`Figure`] with a line in [`Figure::ALL`], in
//! `Figure::definition` and in `Figure::of`. Every form of every table then shows it where it
//! is known.

use serde::Serialize;

use crate::metric::calibration::{BinEdge, expected_calibration_error};
use crate::metric::{brier, negative_log_likelihood, outcomes, ranking};
use crate::posthoc::Calibrators;
use crate::posthoc::confidence::Information;
use crate::prediction::ScoredRow;

/// A figure of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    /// Share of right answers.
    Accuracy,
    /// Expected calibration error of the softmax confidence.
    Ece,
    /// Expected calibration error after temperature scaling on held-out questions.
    EceTemperature,
    /// Expected calibration error of the calibrator that combines confidence and FLU.
    EceConfidence,
    /// Negative log-likelihood of the right choice.
    Nll,
    /// Negative log-likelihood after temperature scaling on held-out questions.
    NllTemperature,
    /// Brier score of the choices' probabilities.
    Brier,
    /// How well the softmax confidence ranks right answers above wrong ones.
    Auroc,
    /// How well the calibrator that combines confidence and FLU ranks them.
    AurocConfidence,
    /// How well FLU ranks them.
    AurocFlu,
    /// Expected calibration error of FLU, taken as a confidence.
    EceFlu,
    /// Likelihood ratio of FLU beside the softmax confidence, see [`Information`]; below 0 where
    /// FLU is higher on wrong answers.
    InformationFlu,
}

/// How a figure is read.
struct Definition {
    name: &'static str,
    higher_is_better: bool,
    /// A share is printed in percent.
    is_share: bool,
}

impl Figure {
    /// Every figure in the order in which a table shows them; the paper's two first.
    pub const ALL: [Self; 12] = [
        Self::Accuracy,
        Self::Ece,
        Self::EceTemperature,
        Self::EceConfidence,
        Self::Nll,
        Self::NllTemperature,
        Self::Brier,
        Self::Auroc,
        Self::AurocConfidence,
        Self::AurocFlu,
        Self::EceFlu,
        Self::InformationFlu,
    ];

    fn definition(self) -> Definition {
        let (name, higher_is_better, is_share) = match self {
            Self::Accuracy => ("ACC", true, true),
            Self::Ece => ("ECE", false, true),
            Self::EceTemperature => ("ECE, temperature", false, true),
            Self::EceConfidence => ("ECE, confidence with FLU", false, true),
            Self::Nll => ("NLL", false, false),
            Self::NllTemperature => ("NLL, temperature", false, false),
            Self::Brier => ("Brier", false, false),
            Self::Auroc => ("AUROC", true, true),
            Self::AurocConfidence => ("AUROC, confidence with FLU", true, true),
            Self::AurocFlu => ("AUROC of FLU", true, true),
            Self::EceFlu => ("ECE of FLU", false, true),
            Self::InformationFlu => (
                "FLU beside confidence, signed likelihood ratio",
                true,
                false,
            ),
        };
        Definition {
            name,
            higher_is_better,
            is_share,
        }
    }

    /// The figure's name as a table prints it.
    pub fn name(self) -> &'static str {
        self.definition().name
    }

    /// Whether a higher value is a better one.
    pub fn higher_is_better(self) -> bool {
        self.definition().higher_is_better
    }

    /// Whether the figure is a share in `[0, 1]`, printed in percent.
    pub fn is_share(self) -> bool {
        self.definition().is_share
    }

    /// The figure of a scored set; none where it is undefined, such as FLU's without routers.
    pub(super) fn of(self, set: &CalibratedAnswers, bins: usize) -> Option<f64> {
        let mean = |rows: &[ScoredRow], f: &dyn Fn(&ScoredRow) -> f64| {
            rows.iter().map(f).sum::<f64>() / rows.len() as f64
        };
        let pairs = |rows: &[ScoredRow]| outcomes(&rows.iter().collect::<Vec<_>>());
        let ece =
            |rows: &[ScoredRow]| expected_calibration_error(&pairs(rows), bins, BinEdge::Right);
        let flu = || -> Option<Vec<(f64, bool)>> {
            set.plain
                .iter()
                .map(|r| Some((r.flu?, r.correct())))
                .collect()
        };
        let value = match self {
            Self::Accuracy => mean(&set.plain, &|r| f64::from(u8::from(r.correct()))),
            Self::Ece => ece(&set.plain),
            Self::EceTemperature => ece(set.temperature.as_ref()?),
            Self::EceConfidence => ece(set.confidence.as_ref()?),
            Self::Nll => mean(&set.plain, &negative_log_likelihood),
            Self::NllTemperature => mean(set.temperature.as_ref()?, &negative_log_likelihood),
            Self::Brier => mean(&set.plain, &brier),
            Self::Auroc => ranking::auroc(&pairs(&set.plain)),
            Self::AurocConfidence => ranking::auroc(&pairs(set.confidence.as_ref()?)),
            Self::AurocFlu => ranking::auroc(&flu()?),
            Self::EceFlu => expected_calibration_error(&flu()?, bins, BinEdge::Right),
            Self::InformationFlu => {
                let found = Information::of(&set.plain)?;
                found.likelihood_ratio.copysign(found.weight)
            }
        };
        value.is_finite().then_some(value)
    }
}

/// The answers to a set of questions with three confidences each.
pub(super) struct CalibratedAnswers {
    /// The model's own softmax.
    pub(super) plain: Vec<ScoredRow>,
    /// After temperature scaling; none without held-out answers.
    pub(super) temperature: Option<Vec<ScoredRow>>,
    /// After the calibrator that combines confidence and FLU.
    pub(super) confidence: Option<Vec<ScoredRow>>,
}

impl CalibratedAnswers {
    /// Fits both calibrators on the held-out answers.
    pub(super) fn of(held_out: &[ScoredRow], plain: Vec<ScoredRow>) -> Self {
        let [temperature, confidence] = Calibrators::fit(held_out).apply(&plain);
        Self {
            plain,
            temperature: Some(temperature),
            confidence: Some(confidence),
        }
    }

    /// Answers that no held-out answers stand beside.
    pub(super) fn uncalibrated(plain: Vec<ScoredRow>) -> Self {
        Self {
            plain,
            temperature: None,
            confidence: None,
        }
    }
}
