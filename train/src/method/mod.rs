//! How to adapt, train and query a model so that its confidence can be trusted. Each row of the
//! paper's table is one file.
//!
//! A [`Training`] says what is trained and by what objective. A [`Method`] queries a training:
//! fitted on trained members it becomes a [`Predictor`], which answers questions. Several methods
//! may query the same training. [`crate::registry`] lists all methods.

use burn::prelude::*;
use data::loader::{EvaluationLoader, LoaderState};
use data::{Batch, EncodedQuestion};
use model::{AdapterConfig, DropoutSeed, Llama, LlamaOutput};

use crate::config::{AnswerTemperature, RunConfig};
use crate::error::TrainError;
use crate::forward::{Reading, input};
use crate::functional_uncertainty::FluTokens;
use crate::loss::{Objective, Term};
use crate::posthoc::temperature::Temperature;
use crate::prediction::Prediction;
use crate::prequential::PrequentialTemperature;

pub mod base;
pub mod blob;
pub mod checkpoint_ensemble;
pub mod deep_ensemble;
mod entry;
pub mod laplace;
pub mod lora;
pub mod mc_dropout;
pub mod mixture;
pub mod spuq;
pub mod tfb;

pub use entry::Entry;

/// CONTRIBUTING's example of a new method.
#[cfg(test)]
#[path = "../../../tests/contributing/half.rs"]
pub mod half;

/// What is trained, and by what objective.
pub trait Training: Send + Sync + std::fmt::Debug {
    /// What is trainable; nothing means that there is no training.
    fn adapter(&self) -> AdapterConfig;

    /// What training minimises.
    fn objective(&self, reading: &Reading, batch: &Batch) -> Objective;

    /// Whether the calibration loss may change the routers alone.
    fn routers_apart(&self) -> bool {
        false
    }

    /// Numbers of the model that are logged with every step, terms of weight 0.
    fn watched(&self, llama: &Llama) -> Vec<Term> {
        let _ = llama;
        Vec::new()
    }

    /// Changes the model after an optimizer step. Steps count from 1; `questions` is the number of
    /// training questions.
    fn after_step(&self, llama: Llama, step: usize, questions: usize) -> Llama {
        let _ = (step, questions);
        llama
    }
}

/// One row of the results table.
pub trait Method: Send + Sync + std::fmt::Debug {
    /// The name on the command line.
    fn name(&self) -> &'static str;

    /// The training that it queries: its own, or another method's.
    fn training(&self) -> &dyn Training;

    /// Checks what the method asks of a run's settings, beyond the ranges of its entry.
    ///
    /// # Errors
    /// A setting with which the method cannot answer.
    fn check(&self, config: &RunConfig) -> Result<(), TrainError> {
        let _ = config;
        Ok(())
    }

    /// Separate trainings, with seeds one after another.
    fn members(&self) -> usize {
        1
    }

    /// Whether the members are the adapters kept along one training instead of its last one.
    fn uses_snapshots(&self) -> bool {
        false
    }

    /// About how many forward passes answer a question; known before anything is fitted.
    fn passes(&self) -> usize {
        self.members()
    }

    /// About how many forward passes [`Method::fit`] makes over each of its questions.
    fn fit_passes(&self) -> usize {
        0
    }

    /// Training questions that [`Method::fit`] wants to see.
    fn fit_questions(&self) -> usize {
        0
    }

    /// Rewordings of each question that are asked beside it.
    fn perturbations(&self) -> usize {
        0
    }

    /// Whether chance decides what a pass says, so that one pass is not the answer of another.
    fn is_random(&self) -> bool {
        false
    }

    /// Whether [`Method::fit`] chooses something by the labels of held-out questions. These can
    /// then promise nothing of its answers.
    fn chooses_on_held_out(&self) -> bool {
        false
    }

    /// What the choices' scores are divided by.
    fn temperature(&self) -> AnswerTemperature {
        AnswerTemperature::One
    }

    /// Makes trained members answer; work between training and the first question happens here.
    ///
    /// # Errors
    /// What the fit cannot do, or a stop on request.
    fn fit(
        &self,
        members: Vec<Llama>,
        context: &FitContext,
    ) -> Result<Box<dyn Predictor>, TrainError> {
        Ok(Box::new(Members {
            temperature: match self.temperature() {
                AnswerTemperature::One => Temperature::ONE,
                AnswerTemperature::Prequential => {
                    PrequentialTemperature::required(context.temperature)?
                }
            },
            ..Members::new(members, self.flu_tokens())
        }))
    }

    /// Over which tokens FLU is taken.
    fn flu_tokens(&self) -> FluTokens {
        FluTokens::default()
    }
}

impl dyn Method + '_ {
    /// The adapter of the method's training.
    pub fn adapter(&self) -> AdapterConfig {
        self.training().adapter()
    }

    /// Reads a forward pass as the method's objective and answers need it.
    pub fn read(&self, output: LlamaOutput, batch: &Batch) -> Reading {
        Reading::of(output, batch, self.flu_tokens())
    }

    /// The objective of the method's training on a batch.
    pub fn objective(&self, reading: &Reading, batch: &Batch) -> Objective {
        self.training().objective(reading, batch)
    }
}

/// A model to be asked, and what is random in it then.
pub type Sample<'a> = (&'a Llama, DropoutSeed);

/// A method that is ready to answer.
pub trait Predictor {
    /// Answers a batch.
    fn predict(&self, batch: &Batch) -> Prediction;

    /// Forward passes a question, a backward pass counted as two.
    fn forward_passes(&self) -> usize {
        self.samples().len()
    }

    /// The models whose probabilities are averaged; none where answers come about in another way.
    /// Without them nothing can be written.
    fn samples(&self) -> Vec<Sample<'_>> {
        Vec::new()
    }

    /// Tokens of a batch that it can take, given what is set.
    fn batch_tokens(&self, set: usize) -> usize {
        set
    }
}

/// What a fit may look at.
pub struct FitContext<'a> {
    /// Training questions, as many as [`Method::fit_questions`] asked for.
    pub questions: &'a [EncodedQuestion],
    /// Training questions in all.
    pub all_questions: usize,
    /// Held-out questions, on which a method may choose what it has to choose.
    pub held_out: &'a [EncodedQuestion],
    /// The temperature that the first answers to the training questions call for; absent where the
    /// training kept none.
    pub temperature: Option<PrequentialTemperature>,
    /// Most tokens of one batch.
    pub batch_tokens: usize,
    /// Where tensors live, plain.
    pub device: &'a Device,
    /// Seed of what is random.
    pub seed: u64,
    /// Called with questions done and in all; false = stop.
    pub progress: &'a dyn Fn(usize, usize) -> bool,
}

impl<'a> FitContext<'a> {
    /// What a fit needs that looks at no questions; nothing stops it.
    pub fn without_questions(device: &'a Device) -> Self {
        Self {
            questions: &[],
            all_questions: 0,
            held_out: &[],
            temperature: None,
            batch_tokens: 2048,
            device,
            seed: 0,
            progress: &|_, _| true,
        }
    }

    /// The questions in batches of at most so many tokens.
    pub(crate) fn loader(&self, batch_tokens: usize) -> EvaluationLoader {
        self.loader_of(self.questions, batch_tokens)
    }

    /// These questions in batches of at most so many tokens.
    pub(crate) fn loader_of(
        &self,
        questions: &[EncodedQuestion],
        batch_tokens: usize,
    ) -> EvaluationLoader {
        // A stop is noticed in `report`.
        let state = LoaderState::default();
        EvaluationLoader::new(questions, batch_tokens, state.into(), self.device)
    }

    /// Reports progress.
    ///
    /// # Errors
    /// A stop on request.
    pub(crate) fn report(&self, done: usize, total: usize) -> Result<(), TrainError> {
        match (self.progress)(done, total) {
            true => Ok(()),
            false => Err(TrainError::Stopped),
        }
    }
}

/// Refuses a temperature from first answers where the model writes its answers: in training only
/// the right answer's tokens are scored.
fn check_temperature(config: &RunConfig) -> Result<(), TrainError> {
    if config.method.temperature == AnswerTemperature::Prequential && config.data.writes()? {
        let reason = config
            .data
            .open_ended("`prequential` needs choices: set it to `one`");
        return Err(TrainError::config("method.temperature", reason));
    }
    Ok(())
}

/// One deterministic pass of each member; probabilities are averaged.
pub(crate) struct Members {
    pub(crate) members: Vec<Llama>,
    pub(crate) flu_tokens: FluTokens,
    pub(crate) temperature: Temperature,
}

impl Members {
    /// Members whose scores become probabilities as they are.
    pub(crate) fn new(members: Vec<Llama>, flu_tokens: FluTokens) -> Self {
        Self {
            members,
            flu_tokens,
            temperature: Temperature::ONE,
        }
    }
}

impl Predictor for Members {
    fn predict(&self, batch: &Batch) -> Prediction {
        let prediction = sample(self.samples(), batch, self.flu_tokens);
        match self.temperature == Temperature::ONE {
            true => prediction,
            false => Prediction {
                choice_logits: prediction.choice_logits / self.temperature.temperature,
                ..prediction
            },
        }
    }

    fn samples(&self) -> Vec<Sample<'_>> {
        let members = self.members.iter();
        members.map(|member| (member, DropoutSeed::OFF)).collect()
    }
}

/// Several passes over a batch.
pub(crate) fn sample(samples: Vec<Sample<'_>>, batch: &Batch, flu_tokens: FluTokens) -> Prediction {
    let passes = samples.into_iter().map(|(llama, seed)| {
        let output = llama.forward(&input(batch, seed));
        Prediction::of(&Reading::of(output, batch, flu_tokens), batch)
    });
    Prediction::joined(passes.collect())
}

#[cfg(test)]
mod tests {
    use burn::data::dataloader::batcher::Batcher;
    use burn::prelude::*;
    use burn::tensor::FloatDType;
    use data::{EncodedQuestion, QuestionBatcher};
    use model::load::tiny::{self, RandomWeights};

    use super::*;
    use crate::config::RunConfig;

    /// A method's answers to two questions, on the tiny model.
    fn answers(entry: &Entry) -> Vec<f32> {
        let device = Device::flex();
        let shape = tiny::config(270);
        let mut weights = RandomWeights::new(shape.clone(), 1);
        let base = Llama::load(&shape, &mut weights, 64, FloatDType::F32, &device).unwrap();
        let method = (entry.construct)(&RunConfig::default());
        assert_eq!(method.name(), entry.name);
        let llama = base.attach(&method.adapter(), 3).unwrap();
        let context = FitContext::without_questions(&device);
        let predictor = method.fit(vec![llama], &context).unwrap();
        let question = |id, prompt| EncodedQuestion::lettered(id, prompt, &[100, 103], 0);
        let asked = vec![
            question("first", vec![3, 20, 37]),
            question("second", vec![5, 8]),
        ];
        let batch = QuestionBatcher::default().batch(asked, &device);
        let logits = predictor.predict(&batch).choice_logits;
        logits.into_data().try_into_vec_as().unwrap()
    }

    #[test]
    fn contributings_example_halves_the_logits_of_the_lora_that_it_queries() {
        let config = RunConfig::default();
        assert_eq!((half::ENTRY.trained_as)(&config), lora::ENTRY.name);
        let halves: Vec<f32> = answers(&lora::ENTRY).iter().map(|v| v / 2.0).collect();
        assert_eq!(answers(&half::ENTRY), halves);
    }
}
