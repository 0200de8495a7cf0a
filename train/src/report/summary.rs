//! What a report says in sentences.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::slice::from_ref;

use super::Report;
use super::figures::{Unit, show};
use crate::config::AnswerTemperature;
use crate::metric::paired::differences;
use crate::metric::{Estimate, Metrics};
use crate::posthoc::confidence::Information;
use crate::posthoc::trust::Trust;
use crate::posthoc::{ALPHA, CalibratedMetrics};
use crate::prediction::ScoredRow;

/// One of the four figures that a report begins with.
pub(super) struct Headline {
    /// Its name.
    pub(super) name: &'static str,
    /// Its unit.
    pub(super) unit: Unit,
    /// The tuned model's.
    pub(super) tuned: Estimate,
    /// The base model's.
    pub(super) base: Estimate,
    /// What knowing nothing of a question reaches, and in words who knows that little.
    pub(super) nothing: Option<(&'static str, f64)>,
    /// What it says.
    pub(super) sentence: String,
}

/// Who knows nothing but which choice is right most often.
const MAJORITY: &str = "majority";
/// Who knows nothing but how often each choice is right.
const FREQUENCIES: &str = "frequencies";
/// Who knows nothing at all.
const CHANCE: &str = "chance";

impl Report<'_> {
    /// Accuracy, ECE, NLL and AUROC, beside the base model and who knows nothing.
    pub(super) fn headlines(&self) -> [Headline; 4] {
        let (base, tuned) = (&self.scored.base, &self.scored.tuned);
        let majority = self.scored.majority();
        let rows = &self.scored.tuned_rows;
        let frequencies = majority.map(|_| entropy(rows));
        let nll = tuned.negative_log_likelihood;
        [
            Headline {
                name: "Accuracy",
                unit: Unit::Percent,
                tuned: tuned.accuracy,
                base: base.accuracy,
                nothing: majority.map(|(_, share)| (MAJORITY, share)),
                sentence: learned(tuned, majority, || self.beats_base()),
            },
            Headline {
                name: "ECE",
                unit: Unit::Percent,
                tuned: tuned.expected_calibration_error,
                base: base.expected_calibration_error,
                nothing: None,
                sentence: gap(tuned),
            },
            Headline {
                name: "NLL",
                unit: Unit::Plain,
                tuned: nll,
                base: base.negative_log_likelihood,
                nothing: frequencies.map(|entropy| (FREQUENCIES, entropy)),
                sentence: match (frequencies, nll.low, nll.high) {
                    (Some(least), Some(low), _) if low > least => {
                        "Its probabilities say less than the frequencies of the choices alone."
                    }
                    (Some(least), _, Some(high)) if high < least => {
                        "Its probabilities say more than the frequencies of the choices alone."
                    }
                    (Some(_), _, _) => {
                        "Its probabilities may say no more than the frequencies of the choices alone."
                    }
                    (None, _, _) => "Lower is better; it rewards calibration and ranking at once.",
                }
                .into(),
            },
            Headline {
                name: "AUROC of correctness",
                unit: Unit::Percent,
                tuned: tuned.auroc,
                base: base.auroc,
                nothing: Some((CHANCE, 0.5)),
                sentence: match tuned.auroc.value {
                    Some(auroc) => format!(
                        "Given a right and a wrong answer, the right one has the higher confidence in {:.0} % of cases.",
                        auroc * 100.0
                    ),
                    None => "All answers are right, or all are wrong: there is nothing to rank.".into(),
                },
            },
        ]
    }

    /// What else there is to say before the figures, in a few plain sentences.
    pub(super) fn remarks(&self) -> Vec<String> {
        let tuned = &self.scored.tuned;
        let mut text = Vec::new();
        match &*self.alarms {
            [] => {}
            [one] => text.push(format!("Training alarm at {one}.")),
            [.., last] => text.push(format!(
                "Training raised {} alarms, listed below; the last, {last}.",
                self.alarms.len()
            )),
        }
        if let Some(auroc) = tuned.flu.as_ref().and_then(|flu| flu.auroc.value) {
            text.push(format!(
                "FLU ranks right above wrong in {:.0} % of cases.",
                auroc * 100.0
            ));
        }
        if let Some(found) = Information::of(&self.scored.tuned_rows) {
            let verdict = match (found.p_value < 0.05, found.weight > 0.0) {
                (true, true) => "FLU tells right from wrong beyond the confidence",
                (true, false) => "At equal confidence, FLU is higher where the answer is wrong",
                (false, _) => {
                    "These questions do not show that FLU adds anything to the confidence"
                }
            };
            text.push(format!(
                "{verdict} (likelihood ratio {:.1}, p = {:.3}).",
                found.likelihood_ratio, found.p_value
            ));
        }
        text
    }

    /// Whether answers have the temperature of the training's first answers.
    fn by_first_answers(&self) -> bool {
        self.config.method.temperature == AnswerTemperature::Prequential
    }

    /// Whether more answers of the tuned model than of the base model are right, by the same
    /// questions.
    fn beats_base(&self) -> bool {
        let sides = [&self.scored.base_rows, &self.scored.tuned_rows];
        let [base, tuned] = sides.map(from_ref);
        let [accuracy, ..] = differences(
            base,
            tuned,
            self.config.evaluation.bins,
            self.config.bootstrap(),
        );
        accuracy.estimate.low.is_some_and(|low| low > 0.0)
    }

    /// Median width of the 95 % intervals that answers to the test questions come with.
    fn interval_width(&self) -> Option<f64> {
        let known = self.scored.calibrated.trust.as_ref();
        let fitted = || Cow::Owned(Trust::fit(&self.scored.held_out_rows));
        let trust = known.map_or_else(fitted, Cow::Borrowed);
        let width = |row: &ScoredRow| {
            let confidence = match known {
                Some(trust) => trust.of(row).confidence,
                None => row.confidence(),
            };
            let [low, high] = trust.interval(row, confidence)?;
            Some(high - low)
        };
        let mut widths: Vec<f64> = self.scored.tuned_rows.iter().filter_map(width).collect();
        widths.sort_by(f64::total_cmp);
        widths.get(widths.len() / 2).copied()
    }

    /// What calibration on held-out questions makes of the tuned model, in sentences.
    pub(super) fn calibration(&self) -> Vec<String> {
        if !self.calibrates() {
            return Vec::new();
        }
        let CalibratedMetrics {
            temperature,
            confidence,
            lac,
            aps,
            ..
        } = &self.scored.calibrated;
        let share = |v: Option<f64>| v.map_or("–".into(), |v| format!("{:.1} %", v * 100.0));
        let size = |v: Option<f64>| v.map_or("–".into(), |v| format!("{v:.2}"));
        let mut sentences = vec![format!(
            "Temperature {:.2}{}. Calibrator: logit c = {:.2} + {:.2} logit(confidence) + {:.2} z(FLU).",
            temperature.temperature,
            // Confidences below one half move the other way.
            match self.written() {
                true => "",
                false => " (above 1 would mean over-confidence)",
            },
            confidence.weights[0],
            confidence.weights[1],
            confidence.weights[2]
        )];
        if self.by_first_answers() {
            sentences.push(
                "Answers of predict and serve: the tuned model's own confidence, whose temperature is \
                 that of the training's first answers. No held-out question changes it."
                    .into(),
            );
        }
        if let Some(trust) = &self.scored.calibrated.trust {
            sentences.push(format!(
                "Answers of predict and serve: {}",
                trust.sentence()
            ));
        }
        if let Some(width) = self.interval_width() {
            sentences.push(format!(
                "The median 95 % interval of that confidence is {:.0} points wide over the test questions.",
                100.0 * width
            ));
        }
        if let Some(with) = &self.scored.calibrated.with_trust {
            sentences.push(format!(
                "On the test questions that confidence has an ECE of {} and an NLL of {}.",
                show(Some(with.expected_calibration_error), Unit::Percent),
                show(Some(with.negative_log_likelihood), Unit::Plain)
            ));
        }
        // What is written has no set of choices.
        if !self.written() {
            sentences.push(format!(
                "Conformal sets for {:.0} % coverage: LAC covers {} with {} choices, APS {} with {}.",
                (1.0 - ALPHA) * 100.0,
                share(lac.coverage),
                size(lac.set_size),
                share(aps.coverage),
                size(aps.set_size)
            ));
        }
        sentences
    }
}

/// Whether the tuned model knows more than which choice is right most often; where that is not
/// known, more than the base model.
fn learned(
    tuned: &Metrics,
    majority: Option<(usize, f64)>,
    beats_base: impl Fn() -> bool,
) -> String {
    let Some((choice, share)) = majority else {
        let more = match beats_base() {
            true => "More",
            false => "Not surely more",
        };
        return format!("{more} than the base model, of {} questions.", tuned.n);
    };
    let always = format!("always giving choice {}", choice + 1);
    match (tuned.accuracy.low, tuned.accuracy.high) {
        (Some(low), _) if low > share => format!("It knows more than {always} would."),
        (_, Some(high)) if high < share => format!("It is worse than {always}."),
        _ => format!("It may be no better than {always}: nothing shows that it has learned."),
    }
}

/// How far confidence and accuracy lie apart as a whole.
fn gap(tuned: &Metrics) -> String {
    let (Some(confidence), Some(accuracy)) = (tuned.confidence.value, tuned.accuracy.value) else {
        return "There is no answer to judge.".into();
    };
    let gap = (confidence - accuracy) * 100.0;
    match gap {
        g if g > 2.0 => format!("It is over-confident by {g:.1} points on average."),
        g if g < -2.0 => format!("It is under-confident by {:.1} points on average.", -g),
        _ => "Its mean confidence matches its accuracy within 2 points.".into(),
    }
}

/// NLL of stating how often each choice is right. The same number of choices is assumed.
fn entropy(rows: &[ScoredRow]) -> f64 {
    let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
    for row in rows {
        *counts.entry(row.label).or_default() += 1;
    }
    let shares = counts
        .values()
        .map(|count| *count as f64 / rows.len() as f64);
    shares.map(|share| -share * share.ln()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::Bootstrap;

    /// Twenty questions of two choices; the first is right for fourteen of them.
    fn rows(right: usize) -> Vec<ScoredRow> {
        let row = |i: usize| {
            let label = usize::from(i >= 14);
            let said = if i < right { label } else { 1 - label };
            let p = if said == 0 { [0.9, 0.1] } else { [0.1, 0.9] };
            ScoredRow::from_probabilities(format!("q{i}"), label, &p, None)
        };
        (0..20).map(row).collect()
    }

    #[test]
    fn a_sentence_says_whether_the_model_beats_the_most_frequent_choice() {
        let of = |right| Metrics::of(&rows(right), 15, Bootstrap::default());
        let majority = crate::report::majority(&rows(0));
        assert_eq!(majority, Some((0, 0.7)));
        let said = |right| learned(&of(right), majority, || unreachable!());
        assert_eq!(said(20), "It knows more than always giving choice 1 would.");
        assert!(said(14).contains("may be no better"), "{}", said(14));
        assert_eq!(said(0), "It is worse than always giving choice 1.");
        let written = |more: bool| learned(&of(14), None, || more);
        assert_eq!(written(true), "More than the base model, of 20 questions.");
        assert!(written(false).starts_with("Not surely more"));
        assert!(gap(&of(20)).contains("under-confident by 10.0"));
        assert!(gap(&of(10)).contains("over-confident by 40.0"));
    }

    #[test]
    fn the_frequencies_of_the_choices_have_their_entropy() {
        let expected = -(0.7_f64 * 0.7_f64.ln() + 0.3 * 0.3_f64.ln());
        assert!((entropy(&rows(3)) - expected).abs() < 1e-12);
    }
}
