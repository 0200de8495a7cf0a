//! A finished run that answers questions of the user's own.

use std::sync::Arc;

use burn::data::dataloader::DataLoader;
use burn::prelude::*;
use data::MultipleChoice;
use data::loader::EvaluationLoader;
use model::DropoutSeed;
use schemars::JsonSchema;
use serde::Serialize;

use crate::config::RunConfig;
use crate::error::TrainError;
use crate::evaluation::evaluate;
use crate::fine_tune::{Setup, fit, load_members};
use crate::method::{self, Method, Predictor, flu_weights, input};
use crate::posthoc::PostHoc;
use crate::posthoc::abstention::{Abstention, Promise, Refusal};
use crate::posthoc::confidence::Confidence;
use crate::posthoc::conformal::{Conformal, Score};
use crate::prediction::ScoredRow;
use crate::prepare::{Prepared, prepare, prepare_model};
use crate::run_directory::RunDirectory;

/// A question with its right answer, if it is known.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    /// The question; its own answer is not looked at.
    pub question: MultipleChoice,
    /// Index of the right choice.
    pub answer: Option<usize>,
}

/// Whether an answer is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// It is.
    Answer,
    /// The confidence is below the threshold.
    Abstain,
}

/// What the run says about a question.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Answer {
    /// The question's name.
    pub id: String,
    /// Index of the most probable choice; absent where the model writes the answer itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<usize>,
    /// Its letter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The answer's text.
    pub text: String,
    /// Its probability, as the model states it; of a written one, what the run's `evaluation.answer_confidence` says.
    pub probability: f64,
    /// The probability that it is right, by the calibrator fitted on held-out questions.
    pub confidence: f64,
    /// Functional-level uncertainty, high = certain; absent without routers.
    pub flu: Option<f64>,
    /// Every choice's probability; of a written answer, that it is right and that it is not.
    pub probabilities: Vec<f64>,
    /// The choices that may be right: a conformal set. Absent where the model writes the answer itself.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<usize>,
    /// The question was too long for the run's settings and lost a part: the answer is to the rest.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub shortened: bool,
    /// Absent where no promise was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
    /// Whether it is right, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correct: Option<bool>,
}

/// What a router decides for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RouterPlace {
    /// The attention's projections.
    Attention,
    /// The feed-forward block.
    FeedForward,
}

/// How one router spreads a question's prompt over its experts.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct RouterShare {
    /// The decoder layer, from 0.
    pub layer: usize,
    /// What it decides for.
    pub place: RouterPlace,
    /// Raw probability of the chosen experts, over the tokens that FLU is taken over: this router's part of it.
    pub mass: f64,
    /// Every expert's mean probability.
    pub experts: Vec<f64>,
}

/// A run with everything loaded and fitted.
pub struct Answerer {
    config: RunConfig,
    setup: Setup,
    prepared: Prepared,
    method: Arc<dyn Method>,
    predictor: Box<dyn Predictor>,
    confidence: Confidence,
    sets: Conformal,
    /// The rule of when to answer, if a promise was asked for.
    pub abstention: Option<Abstention>,
    /// Held-out questions that everything was fitted on.
    pub held_out: usize,
}

impl Answerer {
    /// Loads the run in `setup.run`. `alpha` is the error rate of the sets.
    ///
    /// # Errors
    /// A run that has not finished, another base model than its own, or a promise that its held-out questions cannot support.
    pub fn open(setup: Setup, alpha: f64, promise: Option<Promise>) -> Result<Self, TrainError> {
        let (run, config) = RunDirectory::open(&setup.run)?;
        let held_out = run.held_out_predictions(&config)?;
        // By the model's own confidence: one that was fitted on the same rows would void the promise.
        let abstention = match promise {
            Some(promise) => Some(
                Abstention::fit(&held_out, promise)
                    .map_err(|refusal| refused(refusal, held_out.len(), &setup))?,
            ),
            None => None,
        };
        let method = method::build(&config)?;
        // A fit looks at training questions; what needs none must not need the training data.
        let mut prepared = match method.fit_questions() {
            0 => prepare_model(&config, &setup.finder)?,
            _ => prepare(&config, &setup.finder)?,
        };
        let positions = prepared.room() + prepared.positions();
        let base = prepared.load_for(&config, positions, &setup.device)?;
        let members = load_members(&run, &config, &prepared, &base)?;
        let predictor = fit(&config, &setup, &*method, members, &prepared.train)?;
        Ok(Self {
            confidence: Confidence::fit(&held_out),
            sets: Conformal::fit(&held_out, Score::Lac, alpha),
            held_out: held_out.len(),
            abstention,
            config,
            setup,
            prepared,
            method,
            predictor,
        })
    }

    /// Answers questions, in their own order.
    ///
    /// # Errors
    /// A question that cannot be put, or an answer that is no number.
    pub fn answer(&self, asked: &[Asked]) -> Result<Vec<Answer>, TrainError> {
        let questions: Vec<MultipleChoice> = asked.iter().map(|a| a.question.clone()).collect();
        let wordings = self.method.perturbations();
        let mut encoded = self.prepared.encode(&questions)?;
        let shortened: Vec<bool> = encoded.iter().map(|q| q.shortened).collect();
        let mut views = self
            .prepared
            .views(&questions, wordings, self.config.train.seed)?;
        // Names need not be unique; places are.
        for set in std::iter::once(&mut encoded).chain(views.iter_mut().map(|v| &mut v.questions)) {
            for (place, question) in set.iter_mut().enumerate() {
                question.id = place.to_string();
            }
        }
        let predictor = &*self.predictor;
        let found = evaluate(
            &self.config,
            &self.setup,
            "questions",
            (predictor, self.prepared.tokenizer()),
            &encoded,
            &views,
        )?;
        let rows = found.rows.iter().zip(asked).zip(shortened);
        Ok(rows
            .map(|((row, asked), shortened)| Answer {
                shortened,
                ..self.describe(row, asked)
            })
            .collect())
    }

    /// How every router of the first member spreads a question's prompt, layer by layer; empty without routers.
    ///
    /// # Errors
    /// A question that cannot be put.
    pub fn routing(&self, question: &MultipleChoice) -> Result<Vec<RouterShare>, TrainError> {
        let adapter = self.method.adapter();
        let samples = self.predictor.samples();
        let (Some(mixture), Some((member, _))) = (adapter.mixture(), samples.first()) else {
            return Ok(Vec::new());
        };
        let encoded = self.prepared.encode(std::slice::from_ref(question))?;
        let device = &self.setup.device;
        let loader = EvaluationLoader::new(&encoded, usize::MAX, self.setup.state.clone(), device);
        let batch = loader.iter().next().ok_or(TrainError::Stopped)?;
        let batch = batch.map_err(|e| TrainError::Training(e.to_string()))?;
        let output = member.forward(&input(&batch, DropoutSeed::OFF));
        let places: Vec<RouterPlace> = [
            mixture.routes_attention().then_some(RouterPlace::Attention),
            mixture
                .routes_feed_forward()
                .then_some(RouterPlace::FeedForward),
        ]
        .into_iter()
        .flatten()
        .collect();
        let flu_weights = flu_weights(&output, &batch, self.method.flu_tokens());
        let mean = |weights: &Tensor<2>, values: Tensor<2>| -> Vec<f64> {
            let data = weights.clone().matmul(values).into_data();
            data.try_into_vec_as().expect("floats convert")
        };
        let routers = output.routing.iter().enumerate();
        Ok(routers
            .map(|(number, routing)| RouterShare {
                layer: number / places.len(),
                place: places[number % places.len()],
                mass: mean(&flu_weights, routing.mass())[0],
                experts: mean(&batch.means.prompt, routing.probabilities.clone()),
            })
            .collect())
    }

    /// Whether the run's model writes its answers itself, instead of choosing them.
    pub fn writes(&self) -> bool {
        self.prepared.writes()
    }

    fn describe(&self, row: &ScoredRow, asked: &Asked) -> Answer {
        let answer = match row.written {
            Some(_) => None,
            None => Some(row.prediction()),
        };
        let text = match &row.written {
            Some(written) => written.text.clone(),
            None => asked.question.choices[row.prediction()].clone(),
        };
        let decide = |rule: &Abstention| match rule.answers(row.confidence()) {
            true => Decision::Answer,
            false => Decision::Abstain,
        };
        Answer {
            id: asked.question.id.clone(),
            answer,
            label: answer.map(|answer| char::from(b'A' + answer as u8).to_string()),
            text,
            probability: row.confidence(),
            confidence: self.confidence.probability(row),
            flu: row.flu,
            probabilities: row.probabilities.clone(),
            set: answer.map_or(Vec::new(), |_| self.sets.set(row)),
            shortened: false,
            decision: self.abstention.as_ref().map(decide),
            // A written answer is right where it says what one of the accepted ones does.
            correct: asked.answer.map(|right| match answer {
                Some(answer) => right == answer,
                None => row.correct(),
            }),
        }
    }
}

fn refused(refusal: Refusal, rows: usize, setup: &Setup) -> TrainError {
    let reason = match refusal {
        Refusal::TooFew { needed } => format!(
            "its {rows} held-out questions are too few to promise that risk: at least {needed} without an error are needed; ask for a higher risk, or train with more held-out questions"
        ),
        Refusal::TooWrong => format!(
            "no threshold keeps that risk on its {rows} held-out questions: the most confident answers are wrong too often; ask for a higher risk"
        ),
    };
    TrainError::file(&setup.run, reason)
}
