//! Scoring questions with a method that is ready to answer.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Instant;

use burn::data::dataloader::DataLoader;
use data::EncodedQuestion;
use data::loader::EvaluationLoader;
use serde::{Deserialize, Serialize};

use crate::config::RunConfig;
use crate::dashboard::state::Phase;
use crate::error::TrainError;
use crate::fine_tune::Setup;
use crate::method::Predictor;
use crate::prediction::ScoredRow;
use crate::prepare::View;

/// What answers cost; part of an evaluation's record.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Questions answered.
    pub questions: usize,
    /// Forward passes a question, a backward pass counted as two.
    pub forward_passes: usize,
    /// Wall-clock seconds a question.
    pub seconds_per_question: f64,
}

/// Scored questions and what they cost.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluated {
    /// In the order of the questions.
    pub rows: Vec<ScoredRow>,
    /// What they cost.
    pub cost: Cost,
}

/// Scores questions, in their own order, together with their other wordings.
///
/// # Errors
/// A question that cannot be served, an answer that is no number, or a stop on request.
pub fn evaluate(
    config: &RunConfig,
    setup: &Setup,
    name: &str,
    predictor: &dyn Predictor,
    questions: &[EncodedQuestion],
    views: &[View],
) -> Result<Evaluated, TrainError> {
    let began = Instant::now();
    let originals = score(config, setup, name, predictor, questions)?;
    let mut answers: Vec<Vec<(f64, ScoredRow)>> =
        originals.into_iter().map(|row| vec![(1.0, row)]).collect();
    for (number, view) in views.iter().enumerate() {
        let name = format!("{name}, wording {} of {}", number + 1, views.len());
        let rows = score(config, setup, &name, predictor, &view.questions)?;
        for ((answers, row), weight) in answers.iter_mut().zip(rows).zip(&view.weights) {
            answers.push((*weight, row));
        }
    }
    Ok(Evaluated {
        rows: answers.iter().map(|a| ScoredRow::mixed(a)).collect(),
        cost: Cost {
            questions: questions.len(),
            forward_passes: predictor.forward_passes() * (1 + views.len()),
            seconds_per_question: began.elapsed().as_secs_f64() / questions.len().max(1) as f64,
        },
    })
}

/// One wording of every question.
fn score(
    config: &RunConfig,
    setup: &Setup,
    name: &str,
    predictor: &dyn Predictor,
    questions: &[EncodedQuestion],
) -> Result<Vec<ScoredRow>, TrainError> {
    let loader = EvaluationLoader::new(
        questions,
        predictor.batch_tokens(config.evaluation.batch_tokens),
        setup.state.clone(),
        &setup.device,
    );
    let mut rows = HashMap::new();
    let (mut tokens, began) = (0, Instant::now());
    for batch in loader.iter() {
        let batch = batch.map_err(|e| TrainError::Training(e.to_string()))?;
        tokens += batch.real_tokens;
        for row in predictor.predict(&batch).rows(&batch)? {
            rows.insert(row.id.clone(), row);
        }
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
    let ordered = questions.iter().filter_map(|q| rows.remove(&q.id));
    Ok(ordered.collect())
}
