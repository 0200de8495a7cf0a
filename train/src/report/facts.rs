//! How a report's figures were made: method, model, questions, machine, files.

use data::chat::ChatMode;
use data::rendering::Scoring;
use data::split::SplitAccount;

use super::figures::{Unit, show};
use super::{Report, TrainedOn};
use crate::alarm::Alarm;
use crate::config::spelled;
use crate::metric::Metrics;
use crate::prepare::LeftOut;
use crate::tracker::MetricsLine;

impl Report<'_> {
    /// The files of model and data, with the beginnings of their digests.
    pub(super) fn sources(&self) -> Vec<(String, String)> {
        let files = self.provenance.model.iter().map(|f| ("model", f));
        let files = files.chain(self.provenance.split.files.iter().map(|f| ("data", f)));
        files
            .map(|(what, file)| {
                let digest: String = file.sha256.chars().take(16).collect();
                (
                    what.to_string(),
                    format!("{} (sha256 {digest}..)", file.origin),
                )
            })
            .collect()
    }

    /// Names and values of what decided the figures.
    pub(super) fn facts(&self) -> Vec<(String, String)> {
        let split = &self.provenance.split;
        let [train, held_out, test] = split.used;
        let [all_train, all_held_out, all_test] = split.available;
        let mut facts = vec![
            ("Method".to_string(), self.config.method.title().to_string()),
            ("Model".into(), self.config.model.name.clone()),
            (
                "Parameters".into(),
                format!(
                    "{} frozen, {} trained",
                    grouped(self.provenance.base_parameters),
                    grouped(self.provenance.trainable_parameters)
                ),
            ),
            (
                "Questions".into(),
                match &self.elsewhere {
                    Some(TrainedOn { dataset, .. }) => format!(
                        "{test} of {all_test} test (from {}); trained on {dataset}, {}",
                        split.test_from,
                        match self.scored.held_out_rows.len() {
                            0 => "not calibrated: its held-out questions were asked in another way"
                                .into(),
                            n => format!("calibrated on {n} of its held-out questions"),
                        }
                    ),
                    None => format!(
                        "{train} of {all_train} train, {held_out} of {all_held_out} held-out (from {}), {test} of {all_test} test (from {})",
                        split.held_out_from, split.test_from
                    ),
                },
            ),
            match &self.elsewhere {
                Some(TrainedOn { seen, .. }) => ("Seen before".into(), before(*seen, test)),
                None => ("Leaks dropped from train".into(), leaks(split)),
            },
            (
                "Prompts shortened".into(),
                format!(
                    "{} train, {} held-out, {} test",
                    self.provenance.shortened[0],
                    self.provenance.shortened[1],
                    self.provenance.shortened[2]
                ),
            ),
            (
                "Cost of an answer".into(),
                format!(
                    "{} forward passes{}, {:.2} s",
                    self.scored.cost.forward_passes,
                    match self.written() {
                        true => " over the prompt, and one for each token after it",
                        false => "",
                    },
                    self.scored.cost.seconds_per_question
                ),
            ),
            (
                "Scoring".into(),
                match self.config.data.scoring {
                    _ if self.written() => format!(
                        "written, at most {} tokens, exact match with an accepted answer, confidence: {}",
                        self.config.data.answer_tokens,
                        spelled(&self.config.evaluation.answer_confidence)
                    ),
                    Scoring::Letters => "letters".into(),
                    Scoring::Cloze => {
                        format!("cloze, per {}", spelled(&self.config.data.normalization))
                    }
                },
            ),
            ("Chat template".into(), self.chat()),
            (
                "Machine".into(),
                format!(
                    "{}, {} threads",
                    self.environment.device, self.environment.threads
                ),
            ),
            (
                "Program".into(),
                format!(
                    "uq4ct {} {}",
                    self.environment.version,
                    self.environment.commit.as_deref().unwrap_or("")
                ),
            ),
            ("Command".into(), self.environment.command.clone()),
        ];
        let alarms = self.alarms.iter().map(Alarm::to_string);
        facts.extend(alarms.map(|alarm| ("Alarm in training".into(), alarm)));
        let left_out = LeftOut::sentences(&self.provenance.left_out);
        facts.extend(
            left_out
                .into_iter()
                .map(|sentence| ("Left out".into(), sentence)),
        );
        if self.provenance.answers_cut > 0 {
            let cut = self.provenance.answers_cut;
            facts.push((
                "Training answers cut".into(),
                format!("{cut}: longer than data.answer_tokens"),
            ));
        }
        if let Some(last) = self.history.iter().rfind(|l| l.split == "train") {
            let minutes = last.seconds / 60.0;
            facts.insert(
                4,
                (
                    "Training".into(),
                    format!(
                        "{} optimizer steps, {minutes:.1} minutes{}",
                        last.step,
                        padding(&self.history)
                    ),
                ),
            );
        }
        if let Some((count, found)) = &self.first_answers {
            facts.insert(5, ("First answers".into(), first(*count, found)));
        }
        facts
    }

    /// Whether the questions were put in the model's chat template, and whose that was.
    fn chat(&self) -> String {
        let data = &self.config.data;
        let Some(chat) = &self.provenance.chat else {
            return match data.chat {
                ChatMode::Off => "none: the plain prompt".into(),
                ChatMode::Auto => "none: the model has none, so the plain prompt".into(),
            };
        };
        let from = match chat.files.first() {
            Some(file) => file.origin.clone(),
            None => "the model's own file".into(),
        };
        match &data.system {
            Some(system) => format!("from {from}, system prompt: {system}"),
            None => format!("from {from}"),
        }
    }
}

/// How right and how calibrated the model was while it learned.
fn first(count: usize, found: &Metrics) -> String {
    format!(
        "accuracy {} %, ECE {} %, NLL {}, of {} training questions in the training's second half, each \
         before the first step that learned from it, in one pass with dropout",
        show(Some(found.accuracy), Unit::Percent),
        show(Some(found.expected_calibration_error), Unit::Percent),
        show(Some(found.negative_log_likelihood), Unit::Plain),
        grouped(count),
    )
}

/// How much of what a training computed was padding; empty where that is nothing, or where its log
/// does not say it.
fn padding(history: &[MetricsLine]) -> String {
    let (mut useful, mut computed) = (0.0, 0.0);
    for line in history.iter().filter(|line| line.split == "train") {
        let number = |name: &str| line.values.get(name)?.as_f64();
        if let (Some(tokens), Some(share)) = (number("tokens"), number("useful_tokens")) {
            useful += tokens;
            computed += tokens / share;
        }
    }
    match (100.0 * (1.0 - useful / computed)).round() {
        percent if percent > 0.0 => format!(", {percent} % of the computed tokens padding"),
        _ => String::new(),
    }
}

/// How many questions were dropped, and from where they were known.
fn leaks(split: &SplitAccount) -> String {
    let own = format!(
        "{} repeat its own held-out or test questions",
        split.leaks_dropped
    );
    match split.other_leaks_dropped {
        Some(others) => format!("{own}, {others} another dataset's test"),
        None => own,
    }
}

/// How many of the questions asked are no test of what the run has learned.
fn before(seen: Option<usize>, asked: usize) -> String {
    match seen {
        Some(seen) => format!(
            "{seen} of {asked} questions are among those that the run was trained or calibrated on"
        ),
        None => "not known: an earlier version trained the run".into(),
    }
}

/// `1 234 567`
fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn padding_is_counted_over_all_steps_and_told_where_there_is_some() {
        let line = |split: &str, values: serde_json::Value| MetricsLine {
            split: split.into(),
            step: 1,
            seconds: 1.0,
            values: values.as_object().cloned().unwrap_or_default(),
        };
        let step = |tokens: usize, share: f64| {
            line("train", json!({"tokens": tokens, "useful_tokens": share}))
        };
        // 60 + 40 useful of 60 + 65 computed.
        let padded = [
            step(60, 1.0),
            step(40, 40.0 / 65.0),
            line("held_out", json!({})),
        ];
        assert_eq!(padding(&padded), ", 20 % of the computed tokens padding");
        assert_eq!(padding(&[step(60, 1.0), step(40, 0.999)]), "");
        let earlier = [line("train", json!({"tokens": 60}))];
        assert_eq!([padding(&earlier), padding(&[])], ["", ""]);
    }
}
