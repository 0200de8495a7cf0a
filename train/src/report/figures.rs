//! The tables of a report: figures of the base model and the tuned one, and ways to trust what it
//! wrote.
//!
//! Another row of the table of figures is a line in [`lines`].

use super::Report;
use crate::metric::calibration::{BinEdge, expected_calibration_error};
use crate::metric::{Estimate, Metrics, Outcome, estimate, outcomes, ranking};
use crate::posthoc::CalibratedMetrics;
use crate::prediction::{AnswerConfidence, ScoredRow};

/// How a figure is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    Percent,
    Plain,
}

/// A line of the table of figures.
pub(super) struct Line {
    pub(super) name: &'static str,
    pub(super) unit: Unit,
    /// Which way is better.
    pub(super) better: &'static str,
    pub(super) base: Option<Estimate>,
    pub(super) tuned: Option<Estimate>,
}

impl Line {
    /// The figure's name with its unit.
    pub(super) fn head(&self) -> String {
        match self.unit {
            Unit::Percent => format!("{}, %", self.name),
            Unit::Plain => self.name.into(),
        }
    }
}

/// The figures in the order in which they are shown.
pub(super) fn lines(base: &Metrics, tuned: &Metrics) -> Vec<Line> {
    type Get = fn(&Metrics) -> Option<Estimate>;
    let table: [(&'static str, Unit, &'static str, Get); 17] = [
        ("Accuracy", Unit::Percent, "higher", |m| Some(m.accuracy)),
        ("Mean confidence", Unit::Percent, "= accuracy", |m| {
            Some(m.confidence)
        }),
        ("ECE", Unit::Percent, "lower", |m| {
            Some(m.expected_calibration_error)
        }),
        ("Adaptive ECE", Unit::Percent, "lower", |m| {
            Some(m.adaptive_calibration_error)
        }),
        ("MCE", Unit::Percent, "lower", |m| {
            Some(m.maximum_calibration_error)
        }),
        ("NLL", Unit::Plain, "lower", |m| {
            Some(m.negative_log_likelihood)
        }),
        ("Brier score", Unit::Plain, "lower", |m| Some(m.brier_score)),
        ("AUROC of correctness", Unit::Percent, "higher", |m| {
            Some(m.auroc)
        }),
        ("AURC", Unit::Plain, "lower", |m| Some(m.aurc)),
        ("E-AURC", Unit::Plain, "lower", |m| Some(m.excess_aurc)),
        ("Accuracy at 80 % coverage", Unit::Percent, "higher", |m| {
            Some(m.accuracy_at_coverage_80)
        }),
        ("Accuracy at 90 % coverage", Unit::Percent, "higher", |m| {
            Some(m.accuracy_at_coverage_90)
        }),
        (
            "FLU, mean (high = certain)",
            Unit::Percent,
            "= accuracy",
            |m| Some(m.flu.as_ref()?.mean),
        ),
        ("FLU of right minus wrong", Unit::Percent, "higher", |m| {
            Some(m.flu.as_ref()?.separation)
        }),
        ("FLU's ECE", Unit::Percent, "lower", |m| {
            Some(m.flu.as_ref()?.expected_calibration_error)
        }),
        ("FLU's AUROC of correctness", Unit::Percent, "higher", |m| {
            Some(m.flu.as_ref()?.auroc)
        }),
        ("FLU's Brier score", Unit::Plain, "lower", |m| {
            Some(m.flu.as_ref()?.brier_score)
        }),
    ];
    table
        .into_iter()
        .map(|(name, unit, better, get)| Line {
            name,
            unit,
            better,
            base: get(base),
            tuned: get(tuned),
        })
        .filter(|line| line.base.is_some() || line.tuned.is_some())
        .collect()
}

/// The figures that calibration changes, temperature beside the calibrator.
pub(super) fn calibrated_lines(calibrated: &CalibratedMetrics) -> Vec<Line> {
    let changed = [
        "Mean confidence",
        "ECE",
        "Adaptive ECE",
        "NLL",
        "Brier score",
        "AUROC of correctness",
    ];
    lines(&calibrated.with_temperature, &calibrated.with_confidence)
        .into_iter()
        .filter(|line| changed.contains(&line.name))
        .collect()
}

/// `62.2` or `0.622`.
pub(crate) fn number(value: f64, unit: Unit) -> String {
    let text = match unit {
        Unit::Percent => format!("{:.1}", value * 100.0),
        Unit::Plain => format!("{value:.3}"),
    };
    // A tiny negative number rounds to minus zero.
    match text.trim_start_matches(['-', '0', '.']).is_empty() {
        true => text.trim_start_matches('-').to_owned(),
        false => text,
    }
}

/// `62.2 [60.5, 63.9]`; a dash where there is none.
pub(crate) fn show(estimate: Option<Estimate>, unit: Unit) -> String {
    let number = |value: f64| number(value, unit);
    match estimate {
        Some(Estimate {
            value: Some(value),
            low: Some(low),
            high: Some(high),
        }) => format!("{} [{}, {}]", number(value), number(low), number(high)),
        Some(Estimate {
            value: Some(value), ..
        }) => number(value),
        _ => "–".into(),
    }
}

/// A way to trust written answers, and how well that goes.
pub(super) struct ConfidenceLine {
    pub(super) name: &'static str,
    /// ECE and AUROC of correctness.
    pub(super) cells: [String; 2],
}

/// Title and columns of the table of confidences in written answers.
pub(super) const CONFIDENCES: (&str, [&str; 3]) = (
    "Confidences of the tuned model's written answers",
    ["Confidence", "ECE, %", "AUROC of correctness, %"],
);

impl Report<'_> {
    /// Every way to trust a written answer.
    pub(super) fn confidences(&self) -> Vec<ConfidenceLine> {
        let rows = &self.scored.tuned_rows;
        if !self.written() {
            return Vec::new();
        }
        let (bins, bootstrap) = (self.config.evaluation.bins, self.config.bootstrap());
        let routed = rows.iter().any(|row| row.flu.is_some());
        let line = |confidence: AnswerConfidence| {
            let trusted: Vec<ScoredRow> = rows
                .iter()
                .map(|row| row.clone().trusted_by(confidence))
                .collect();
            let figure = |f: &dyn Fn(&[Outcome]) -> f64| {
                estimate(&trusted, bootstrap, 1.0, &|rows| f(&outcomes(rows)))
            };
            ConfidenceLine {
                name: match confidence {
                    AnswerConfidence::Mean => "mean of the tokens' probabilities (geometric)",
                    AnswerConfidence::Product => "product of the tokens' probabilities",
                    AnswerConfidence::First => "probability of the first token",
                    AnswerConfidence::Flu => "FLU",
                },
                cells: [
                    figure(&|o| expected_calibration_error(o, bins, BinEdge::Right)),
                    figure(&ranking::auroc),
                ]
                .map(|found| show(Some(found), Unit::Percent)),
            }
        };
        let kinds = AnswerConfidence::ALL.into_iter();
        kinds
            .filter(|kind| routed || *kind != AnswerConfidence::Flu)
            .map(line)
            .collect()
    }
}
