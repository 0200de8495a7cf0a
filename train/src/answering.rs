//! Answers to questions of the user's own, with calibrated confidence and a rule of when to
//! abstain.

use std::path::PathBuf;

use burn::data::dataloader::DataLoader;
use burn::prelude::*;
use data::MultipleChoice;
use data::loader::EvaluationLoader;
use data::source::sha256;
use model::DropoutSeed;
use schemars::JsonSchema;
use serde::Serialize;

use crate::config::{AnswerTemperature, RunConfig};
use crate::context::Setup;
use crate::error::TrainError;
use crate::fitted::{FittedRun, trainings};
use crate::forward::{best_choice, input};
use crate::linear_algebra::{values, weighted_sums};
use crate::posthoc::abstention::{Abstention, DELTA, Promise, Refusal};
use crate::posthoc::conformal::{Conformal, Score};
use crate::posthoc::trust::{Trust, Trusted, Way};
use crate::prediction::ScoredRow;
use crate::registry;
use crate::run_directory::{RunDirectory, digest};

/// A question to a run, with its right answer where that is known.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    /// The question. Its own answer is not looked at.
    pub question: MultipleChoice,
    /// Index of the right choice.
    pub answer: Option<usize>,
}

/// Whether an answer is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// The answer is given.
    Answer,
    /// No answer is given: the confidence is below the threshold.
    Abstain,
}

/// How the confidence of an answer comes about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Calibration {
    /// As the model states it: held-out questions support no change, or there are none.
    AsStated,
    /// Temperature scaling, fitted on held-out questions.
    Temperature,
    /// The calibrator of softmax confidence and FLU, fitted on held-out questions; without routers,
    /// of the confidence alone.
    ConfidenceWithFlu,
    /// The temperature of the first answers to the training questions.
    FirstAnswers,
}

impl Calibration {
    /// What a confidence rests on, in words, by the number of questions.
    pub fn reason(self, questions: usize) -> String {
        match (self, questions) {
            (Self::AsStated, 0) => {
                "as the model states it: there were no held-out questions to check it on".into()
            }
            (Self::AsStated, n) => {
                format!("as the model states it: its {n} held-out questions support no calibration")
            }
            (Self::Temperature | Self::ConfidenceWithFlu, n) => {
                format!("calibrated on {n} held-out questions")
            }
            (Self::FirstAnswers, n) => {
                format!("calibrated on the first answers to {n} training questions")
            }
        }
    }
}

impl From<Way> for Calibration {
    fn from(way: Way) -> Self {
        match way {
            Way::AsStated => Self::AsStated,
            Way::Temperature => Self::Temperature,
            Way::ConfidenceWithFlu => Self::ConfidenceWithFlu,
        }
    }
}

/// A run's answer to one question.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Answer {
    /// The question's name.
    pub id: String,
    /// Index of the most probable choice; absent where the model writes the answer itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<usize>,
    /// Letter of the most probable choice; absent where the model writes the answer itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The answer's text.
    pub text: String,
    /// Probability of the answer, as the model states it. For a written answer, the confidence
    /// that `evaluation.answer_confidence` names.
    pub probability: f64,
    /// Probability that the answer is right: by the calibration that held-out questions support, or
    /// the model's own where they support none, and where `method.temperature` has calibrated it.
    pub confidence: f64,
    /// 95 % interval of that probability, by what held-out questions have shown: wide where they
    /// are few. Absent without any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<[f64; 2]>,
    /// Number of questions that the calibration was looked for on: held-out ones, or where
    /// `method.temperature` has calibrated it, training questions met for the first time.
    pub calibrated_on: usize,
    /// How the confidence comes about: which calibration those questions bear, if any.
    pub calibration: Calibration,
    /// What the calibrator says where that is below chance. The confidence is then chance, one in
    /// the number of choices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub below_chance: Option<f64>,
    /// Functional-level uncertainty, high = certain; absent without routers.
    pub flu: Option<f64>,
    /// Probability of each choice. For a written answer, that it is right and that it is not.
    pub probabilities: Vec<f64>,
    /// The choices that may be right, a conformal set. Absent where the model writes the answer
    /// itself.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<usize>,
    /// The question was too long for the run's settings and lost a part. The answer is to the
    /// rest.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub shortened: bool,
    /// Whether the answer is given; absent where no promise was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
    /// Whether the answer is right, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correct: Option<bool>,
}

/// The part of a decoder layer that a router chooses experts for.
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
    /// The part of the layer that the router chooses experts for.
    pub place: RouterPlace,
    /// Raw probability of the chosen experts, averaged over the tokens of FLU: this router's part
    /// of FLU.
    pub mass: f64,
    /// Mean probability of each expert over the prompt.
    pub experts: Vec<f64>,
}

/// A finished run that answers, with what its confidence was calibrated on.
pub struct Answerer {
    run: FittedRun,
    /// What held-out questions say of a confidence.
    trust: Trust,
    /// The first answers of the training that the probabilities are calibrated by; absent where
    /// held-out questions calibrate.
    first_answers: Option<usize>,
    /// Absent without held-out questions.
    sets: Option<Conformal>,
    /// The rule of when to answer, if a promise was asked for.
    pub abstention: Option<Abstention>,
    /// Number of held-out questions that confidence, sets and rule were fitted on.
    pub held_out: usize,
    /// Digest of everything that decides an answer but the question.
    identity: String,
}

impl Answerer {
    /// Loads the run in `setup.run`. `alpha` is the error rate of the sets.
    ///
    /// # Errors
    /// A run that has not finished, another base model than its own, or a promise that its
    /// held-out questions cannot support.
    pub fn open(setup: &Setup, alpha: f64, promise: Option<Promise>) -> Result<Self, TrainError> {
        let (run, config) = RunDirectory::open(&setup.run)?;
        let calibrated = config.method.temperature == AnswerTemperature::Prequential;
        let held_out = match calibrated && !run.has_held_out_predictions(&config) {
            true => Vec::new(),
            false => run.held_out_predictions(&config)?,
        };
        if let Some(Promise::Risk { .. }) = promise
            && registry::build(&config)?.chooses_on_held_out()
        {
            let method = config.method.title();
            let reason = format!(
                "{method} has chosen its prior by the labels of the held-out questions, so they prove nothing of its answers: use --coverage, which promises no risk, or another method"
            );
            return Err(TrainError::config("--target-risk", reason));
        }
        // By the model's own confidence: one that was fitted on the same rows would void the
        // promise.
        let abstention = match promise {
            Some(promise) => Some(
                Abstention::fit(&held_out, promise)
                    .map_err(|refusal| refused(refusal, &held_out, setup))?,
            ),
            None => None,
        };
        let first_answers = match calibrated {
            true => run.temperature()?.map_or(0, |found| found.questions),
            false => 0,
        };
        Ok(Self {
            run: FittedRun::open(&run, &config, setup)?,
            trust: Trust::fit(&held_out),
            first_answers: calibrated.then_some(first_answers),
            sets: (!held_out.is_empty()).then(|| Conformal::fit(&held_out, Score::Lac, alpha)),
            held_out: held_out.len(),
            identity: identity(&run, &config, &format!("{alpha} {promise:?}"))?,
            abstention,
        })
    }

    /// What an answer is of: twelve hex digits of a digest of the question with what is known of
    /// its answer, a hyphen, and as many of a digest of the run and of what was asked of it.
    pub fn origin(&self, asked: &Asked) -> String {
        let Asked { question, answer } = asked;
        let MultipleChoice {
            question,
            passage,
            choices,
            ..
        } = question;
        let text = serde_json::json!([question, passage, choices, answer]).to_string();
        format!("{}-{}", &digest(text.as_bytes())[..12], self.identity)
    }

    /// Looks whether a question can be put.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn check(&self, asked: &Asked) -> Result<(), TrainError> {
        self.run.check(&asked.question)
    }

    /// Answers questions, in their own order.
    ///
    /// # Errors
    /// A question that cannot be put, or an answer that is no number.
    pub fn answer(&self, asked: &[Asked]) -> Result<Vec<Answer>, TrainError> {
        let questions: Vec<MultipleChoice> = asked.iter().map(|a| a.question.clone()).collect();
        let found = self.run.answer(&questions)?;
        let rows = found.iter().zip(asked);
        Ok(rows
            .map(|(found, asked)| Answer {
                shortened: found.shortened,
                ..self.describe(&found.row, asked)
            })
            .collect())
    }

    /// How every router of the first member spreads a question's prompt, layer by layer. Empty
    /// without routers.
    ///
    /// # Errors
    /// A question that cannot be put.
    pub fn routing(&self, question: &MultipleChoice) -> Result<Vec<RouterShare>, TrainError> {
        let FittedRun {
            method,
            prepared,
            setup,
            ..
        } = &self.run;
        let adapter = method.adapter();
        let samples = self.run.samples();
        let (Some(mixture), Some((member, _))) = (adapter.mixture(), samples.first()) else {
            return Ok(Vec::new());
        };
        let encoded = prepared.encode(std::slice::from_ref(question))?;
        let device = &setup.device;
        let loader = EvaluationLoader::new(&encoded, usize::MAX, setup.state.clone(), device);
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
        let reading = method.read(output, &batch);
        let chosen = || best_choice(reading.choice_logits.clone());
        let flu_weights = method.flu_tokens().weights(&batch, chosen);
        let mean = |weights: &Tensor<2>, numbers: Tensor<2>| -> Vec<f64> {
            let columns = numbers.iter_dim(1).map(|column| column.squeeze_dim(1));
            let means = columns.map(|column| weighted_sums(weights, column));
            means.flat_map(values).collect()
        };
        let routers = reading.routing.iter().enumerate();
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
        self.run.prepared.writes()
    }

    /// Tokens of the longest prompt. Longer questions are shortened.
    pub fn prompt_tokens(&self) -> usize {
        self.run.prepared.prompt_tokens()
    }

    /// What the confidence rests on, in a sentence.
    pub fn calibration(&self) -> String {
        match self.first_answers {
            None => self.trust.sentence(),
            Some(n) => format!(
                "Confidence by the temperature of the training's first answers to {n} questions."
            ),
        }
    }

    /// Whether a text that answers the question stands in the run's prompt.
    pub fn reads_context(&self) -> bool {
        self.run.prepared.reads_passage()
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
        let trusted = match self.first_answers {
            None => self.trust.of(row),
            Some(_) => Trusted {
                confidence: row.confidence(),
                interval: self.trust.interval(row, row.confidence()),
                below_chance: None,
            },
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
            confidence: trusted.confidence,
            interval: trusted.interval,
            calibrated_on: self.first_answers.unwrap_or(self.trust.calibrated_on),
            calibration: match self.first_answers {
                Some(_) => Calibration::FirstAnswers,
                None => self.trust.way.into(),
            },
            below_chance: trusted.below_chance,
            flu: row.flu,
            probabilities: row.probabilities.clone(),
            set: match (answer, &self.sets) {
                (Some(_), Some(sets)) => sets.set(row),
                _ => Vec::new(),
            },
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

/// A digest of a run's settings, adapters and held-out predictions, and of what is `asked` of it.
fn identity(run: &RunDirectory, config: &RunConfig, asked: &str) -> Result<String, TrainError> {
    let mut text = config.to_toml();
    let mut files = vec![run.held_out_file(config)];
    for (_, directory) in trainings(config, run)? {
        let entries = std::fs::read_dir(directory.root().join("adapter"));
        let mut adapters: Vec<PathBuf> = entries
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|e| e == "bpk" || e == "json"))
            .collect();
        adapters.sort();
        files.extend(adapters);
    }
    for file in files.iter().filter(|file| file.is_file()) {
        text += &sha256(file)?;
    }
    text += asked;
    Ok(digest(text.as_bytes())[..12].to_owned())
}

/// Why a promise cannot be given, and what can be promised instead, the lowest risk first.
fn refused(refusal: Refusal, held_out: &[ScoredRow], setup: &Setup) -> TrainError {
    let rows = held_out.len();
    let reason = match refusal {
        Refusal::TooFew { needed } => format!(
            "its {rows} held-out questions are too few to promise that risk: at least {needed} without an error are needed; ask for a higher risk, or train with more held-out questions"
        ),
        Refusal::TooWrong => format!(
            "no threshold keeps that risk on its {rows} held-out questions: the most confident answers are wrong too often; ask for a higher risk"
        ),
    };
    let table = Abstention::promises(held_out, DELTA);
    let instead = match table.is_empty() {
        true => "No risk up to one half can be promised at 95 %: hold out more questions, or use --coverage, which promises no risk.".into(),
        false => {
            let lines: String = table
                .iter()
                .map(|line| {
                    let [risk, answered, wrong, _] = line.cells();
                    format!("\n  --target-risk {:.3}: {risk} % promised at 95 %; of the held-out questions {answered} % answered, {wrong} % of those wrong", line.target())
                })
                .collect();
            format!("What can be promised, each by itself:{lines}")
        }
    };
    TrainError::file(&setup.run, format!("{reason}. {instead}"))
}
