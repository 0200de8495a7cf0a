//! Scoring questions with a method that is ready to answer.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Instant;

use burn::data::dataloader::DataLoader;
use data::loader::EvaluationLoader;
use data::written::is_accepted;
use data::{Batch, EncodedQuestion, Tokenizer};
use serde::{Deserialize, Serialize};

use crate::config::RunConfig;
use crate::context::Setup;
use crate::dashboard::state::Phase;
use crate::error::TrainError;
use crate::method::Predictor;
use crate::passes;
use crate::prediction::ScoredRow;
use crate::prepare::View;
use crate::registry;
use crate::writing::write;

/// Cost of the answers to a set of questions; part of an evaluation's record.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Questions answered.
    pub questions: usize,
    /// Forward passes a question, a backward pass counted as two. For a written answer, the passes
    /// over its prompt; a short one follows for every further token.
    pub forward_passes: usize,
    /// Wall-clock seconds a question.
    pub seconds_per_question: f64,
}

/// Scored questions and what they cost.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluated {
    /// One row a question, in the order of the questions.
    pub rows: Vec<ScoredRow>,
    /// Cost of the answers.
    pub cost: Cost,
}

/// Scores questions, in their own order, together with their other wordings. Where the model
/// writes the answers, the tokenizer turns them into text.
///
/// # Errors
/// A question that cannot be served, an answer that is no number, or a stop on request.
pub fn evaluate(
    config: &RunConfig,
    setup: &Setup,
    name: &str,
    (predictor, tokenizer): (&dyn Predictor, &Tokenizer),
    questions: &[EncodedQuestion],
    views: &[View],
) -> Result<Evaluated, TrainError> {
    let began = Instant::now();
    let asking = Asking {
        config,
        setup,
        predictor,
        tokenizer,
    };
    let originals = asking.score(name, questions)?;
    let mut answers: Vec<Vec<(f64, ScoredRow)>> =
        originals.into_iter().map(|row| vec![(1.0, row)]).collect();
    for (number, view) in views.iter().enumerate() {
        let name = format!("{name}, wording {} of {}", number + 1, views.len());
        let rows = asking.score(&name, &view.questions)?;
        for ((answers, row), weight) in answers.iter_mut().zip(rows).zip(&view.weights) {
            answers.push((*weight, row));
        }
    }
    Ok(Evaluated {
        rows: answers
            .iter()
            .map(|answers| match answers[0].1.written {
                Some(_) => ScoredRow::agreed(answers),
                None => ScoredRow::mixed(answers),
            })
            .collect(),
        cost: Cost {
            questions: questions.len(),
            forward_passes: predictor.forward_passes() * (1 + views.len()),
            seconds_per_question: began.elapsed().as_secs_f64() / questions.len().max(1) as f64,
        },
    })
}

/// What does not change from one wording to the next.
struct Asking<'a> {
    config: &'a RunConfig,
    setup: &'a Setup,
    predictor: &'a dyn Predictor,
    tokenizer: &'a Tokenizer,
}

impl Asking<'_> {
    /// Scores every question in one wording.
    fn score(
        &self,
        name: &str,
        questions: &[EncodedQuestion],
    ) -> Result<Vec<ScoredRow>, TrainError> {
        let mut most = self.predictor.batch_tokens(passes::asked(
            self.config.evaluation.batch_tokens,
            &self.setup.device,
            0,
        ));
        let written = questions.iter().any(|q| q.open.is_some());
        let mut asked = questions.to_vec();
        if written {
            // Every sample remembers keys and values of its own.
            most /= self.predictor.samples().len().max(1);
            asked = asked.iter().map(EncodedQuestion::prompt_only).collect();
        }
        let accepted: HashMap<&str, &[String]> = questions
            .iter()
            .filter_map(|q| Some((q.id.as_str(), &*q.open.as_ref()?.accepted)))
            .collect();
        let setup = self.setup;
        let loader = EvaluationLoader::new(&asked, most, setup.state.clone(), &setup.device);
        let mut rows = HashMap::new();
        let (mut tokens, began) = (0, Instant::now());
        for batch in loader.iter() {
            let batch = batch.map_err(|e| TrainError::Training(e.to_string()))?;
            tokens += batch.input.real_tokens;
            let answers = match written {
                false => self.predictor.predict(&batch).rows(&batch)?,
                true => self.write(&batch, &accepted)?,
            };
            rows.extend(answers.into_iter().map(|row| (row.id.clone(), row)));
            let mut state = setup.telemetry.state();
            state.phase = Phase::Evaluating {
                name: name.into(),
                done: rows.len(),
                total: questions.len(),
            };
            state.tokens_per_second = tokens as f64 / began.elapsed().as_secs_f64();
        }
        if setup.state.stop.load(Ordering::SeqCst) {
            return Err(TrainError::Stopped);
        }
        let ordered: Option<Vec<ScoredRow>> =
            questions.iter().map(|q| rows.remove(&q.id)).collect();
        ordered.ok_or_else(|| {
            let reason = format!("{name}: not every question was answered");
            TrainError::Training(reason)
        })
    }

    /// Answers that the model writes to a batch of prompts.
    fn write(
        &self,
        batch: &Batch,
        accepted: &HashMap<&str, &[String]>,
    ) -> Result<Vec<ScoredRow>, TrainError> {
        let answers = write(
            self.predictor.samples(),
            batch,
            registry::build(self.config)?.flu_tokens(),
            self.tokenizer,
            self.config.data.answer_tokens,
        )?;
        let rows = batch.ids.iter().zip(answers);
        Ok(rows
            .map(|(id, (written, flu))| {
                let right = is_accepted(&written.text, accepted[id.as_str()]);
                let trust = self.config.evaluation.answer_confidence;
                ScoredRow::from_written(id, right, written, flu, trust)
            })
            .collect())
    }
}
