//! Answers to training questions before the first step that learned from them.
//!
//! A forecaster who is judged on each observation before learning from it is judged
//! *prequentially* (Dawid 1984). Every training question is met for the first time once, and what
//! the model says then is as honest as an answer to a held-out question, though nothing was held
//! out. These answers are kept in `prequential.jsonl`, and [`temperature`] makes a calibration of
//! them: no labels beside the training's, no further pass. It is saved beside the adapter.
//!
//! Three things differ from held-out answers. The adapter's dropout was on. An early answer is that
//! of a model which had learned little: late answers weigh more. And later epochs, which sharpen
//! what is known by heart, come after all of them.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::TrainError;
use crate::json_lines::parse;
use crate::posthoc::temperature::Temperature;
use crate::prediction::ScoredRow;

/// A training question's first answer: a line of `prequential.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FirstAnswer {
    /// The optimizer step, counted from 1, whose gradient the answer came with.
    pub step: usize,
    /// The answer and the question's label.
    #[serde(flatten)]
    pub row: ScoredRow,
}

/// The temperature that first answers call for, and what it rests on: `adapter/temperature.json`,
/// and a part of an export's card.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PrequentialTemperature {
    /// What the choices' scores are to be divided by; above 1 it lowers confidence.
    pub temperature: f64,
    /// Number of training questions whose first answers it was fitted on.
    pub questions: usize,
}

impl PrequentialTemperature {
    /// The found temperature, to divide scores by.
    ///
    /// # Errors
    /// A training that kept no first answers.
    pub fn required(found: Option<Self>) -> Result<Temperature, TrainError> {
        match found {
            Some(Self { temperature, .. }) => Ok(Temperature { temperature }),
            None => Err(TrainError::config(
                "method.temperature",
                "the training kept no first answers: train again, or set it to `one`",
            )),
        }
    }
}

/// `prequential.jsonl`, open to append.
#[derive(Debug)]
pub struct FirstAnswersLog {
    file: File,
    known: HashSet<String>,
}

impl FirstAnswersLog {
    /// Opens a file to append. It holds answers to the questions in `known` already.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub(crate) fn append(path: &Path, known: HashSet<String>) -> Result<Self, TrainError> {
        let file = OpenOptions::new().append(true).open(path);
        Ok(Self {
            file: file.map_err(|e| TrainError::file(path, e))?,
            known,
        })
    }

    /// Appends the answers of an optimizer step to questions that were not met before. An answer in
    /// the model's own words is left out: in training only the right one's tokens are scored.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&mut self, step: usize, rows: &[ScoredRow]) -> io::Result<()> {
        let mut text = String::new();
        for row in rows {
            if row.written.is_none() && self.known.insert(row.id.clone()) {
                let row = row.clone();
                text += &serde_json::to_string(&FirstAnswer { step, row })?;
                text.push('\n');
            }
        }
        self.file.write_all(text.as_bytes())
    }
}

/// The answers of a training, oldest first. A last line that a crash cut short is left out.
///
/// # Errors
/// A file that cannot be read, or a malformed line, by number.
pub fn read(path: &Path) -> Result<Vec<FirstAnswer>, TrainError> {
    let text = fs::read_to_string(path).map_err(|e| TrainError::file(path, e))?;
    parse(path, &text)
}

/// Name of the set of late first answers, beside those of datasets.
pub const FIRST_ANSWERS_SET: &str = "first-answers";

/// The answers of the second half of the steps in which questions were met for the first time. They
/// judge every adapter of these steps, each on questions that it had not learned from.
pub fn late(answers: Vec<FirstAnswer>) -> Vec<ScoredRow> {
    let half = answers.iter().map(|answer| answer.step).max().unwrap_or(0) / 2;
    let late = answers.into_iter().filter(|answer| answer.step > half);
    late.map(|answer| answer.row).collect()
}

/// An answer's weight halves with every such share of the steps between it and the last one.
const HALF_LIFE: f64 = 0.25;

/// The temperature that first answers call for:
/// `argmin_T sum_i w_i (-log softmax(s_i / T)_y) + (log T)^2 / 2`, `w_i = 2^(-(n - t_i) / (n / 4))`
/// with `t_i` the answer's step and n the last one. The second term is a standard normal prior on
/// `log T`, worth about one answer: a handful of answers cannot do much.
pub fn temperature(answers: &[FirstAnswer]) -> PrequentialTemperature {
    let last = answers.iter().map(|answer| answer.step).max().unwrap_or(1) as f64;
    let weighted: Vec<(f64, &ScoredRow)> = answers
        .iter()
        .map(|answer| {
            let age = (last - answer.step as f64) / last;
            ((-age / HALF_LIFE).exp2(), &answer.row)
        })
        .collect();
    PrequentialTemperature {
        temperature: Temperature::most_probable(&weighted).temperature,
        questions: answers.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(step: usize, id: &str, right: bool, gap: f64) -> FirstAnswer {
        let label = usize::from(!right);
        let mut row = ScoredRow::from_probabilities(id, label, &[0.5, 0.5], None);
        row.logits = vec![gap, 0.0];
        FirstAnswer { step, row }
    }

    #[test]
    fn a_malformed_line_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prequential.jsonl");
        fs::write(&path, "{\"step\":1}\n").unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(
            error.contains("prequential.jsonl") && error.contains("line 1"),
            "{error}"
        );
    }

    #[test]
    fn the_second_half_of_the_steps_is_late() {
        let of = |steps: &[usize]| {
            let answers = steps.iter().map(|s| answer(*s, &s.to_string(), true, 1.0));
            let rows = late(answers.collect());
            rows.into_iter().map(|row| row.id).collect::<Vec<_>>()
        };
        assert_eq!(of(&[1, 2, 2, 3, 4, 5]), ["3", "4", "5"]);
        assert_eq!(of(&[1]), ["1"]);
        assert!(of(&[]).is_empty());
    }

    #[test]
    fn late_answers_decide_and_a_few_answers_change_little() {
        // 73.1 % right at a gap of 4 logits asks for T = 4. The first half of the answers says
        // T = 1.
        let answers: Vec<FirstAnswer> = (0..8000)
            .map(|i| match i < 4000 {
                true => answer(1 + i / 100, "q", i % 1000 < 982, 4.0),
                false => answer(1 + i / 100, "q", i % 1000 < 731, 4.0),
            })
            .collect();
        let all =
            Temperature::most_probable(&answers.iter().map(|a| (1.0, &a.row)).collect::<Vec<_>>());
        let late = temperature(&answers);
        assert!(all.temperature < 2.5, "{all:?}");
        assert!((3.0..4.0).contains(&late.temperature), "{late:?}");
        let few = temperature(&[answer(1, "a", false, 4.0), answer(1, "b", false, 4.0)]);
        assert!((1.0..8.0).contains(&few.temperature), "{few:?}");
        let none = PrequentialTemperature {
            temperature: 1.0,
            questions: 0,
        };
        assert_eq!(temperature(&[]), none);
    }
}
