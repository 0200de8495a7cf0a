//! What a report says in sentences.

use super::Report;
use super::figures::{Unit, show};
use crate::metric::Estimate;
use crate::posthoc::confidence::Information;
use crate::posthoc::{ALPHA, CalibratedMetrics};

impl Report<'_> {
    /// What the figures say, in a few plain sentences.
    pub(super) fn summary(&self) -> Vec<String> {
        let (base, tuned) = (&self.scored.base, &self.scored.tuned);
        let percent = |e: Estimate| {
            e.value
                .map_or("–".into(), |v| format!("{:.1} %", v * 100.0))
        };
        let mut text = vec![format!(
            "The tuned model answers {} of {} questions right; the base model {}.",
            percent(tuned.accuracy),
            tuned.n,
            percent(base.accuracy)
        )];
        if let Some((choice, share)) = self.scored.majority() {
            text.push(format!(
                "Always giving choice {} would be right for {:.1} %.",
                choice + 1,
                share * 100.0
            ));
        }
        if let (Some(confidence), Some(accuracy)) = (tuned.confidence.value, tuned.accuracy.value) {
            let gap = (confidence - accuracy) * 100.0;
            let verdict = match gap {
                g if g > 2.0 => format!("It is over-confident by {g:.1} points on average"),
                g if g < -2.0 => format!("It is under-confident by {:.1} points on average", -g),
                _ => "Its mean confidence matches its accuracy within 2 points".into(),
            };
            text.push(format!(
                "{verdict}; its expected calibration error is {} (base: {}).",
                percent(tuned.expected_calibration_error),
                percent(base.expected_calibration_error)
            ));
        }
        match &*self.alarms {
            [] => {}
            [one] => text.push(format!("Training raised an alarm, {one}.")),
            [.., last] => text.push(format!(
                "Training raised {} alarms, listed below; the last, {last}.",
                self.alarms.len()
            )),
        }
        if let Some(auroc) = tuned.auroc.value {
            text.push(format!(
                "Given a right and a wrong answer, the right one has the higher confidence in {:.0} % of cases (50 % is chance).",
                auroc * 100.0
            ));
        }
        if let Some(auroc) = tuned.flu.as_ref().and_then(|flu| flu.auroc.value) {
            text.push(format!(
                "FLU ranks right above wrong in {:.0} % of cases.",
                auroc * 100.0
            ));
        }
        if let Some(found) = Information::of(&self.scored.tuned_rows) {
            let verdict = match (found.p_value < 0.05, found.weight > 0.0) {
                (true, true) => "Beside the confidence, FLU tells right from wrong",
                (true, false) => "Beside the confidence, FLU is higher where the answer is wrong",
                (false, _) => {
                    "Beside the confidence, FLU tells nothing that these questions could show"
                }
            };
            text.push(format!(
                "{verdict} (likelihood ratio {:.1}, p = {:.3}).",
                found.likelihood_ratio, found.p_value
            ));
        }
        text
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
                false => " (above 1: the model was over-confident)",
            },
            confidence.weights[0],
            confidence.weights[1],
            confidence.weights[2]
        )];
        if let Some(trust) = &self.scored.calibrated.trust {
            sentences.push(format!(
                "Answers of predict and serve: {}",
                trust.sentence()
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
