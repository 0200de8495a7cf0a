//! How to adapt, train and query a model so that its confidence can be trusted: one row of the paper's table one file.
//!
//! A [`Training`] says what is trained and by what objective. A [`Method`] queries one: fitted on trained members it becomes a
//! [`Predictor`], which answers questions. Several methods query the same training: [`training`] gives its settings.

use std::sync::Arc;

use burn::prelude::*;
use burn::tensor::IndexingUpdateOp;
use data::loader::{EvaluationLoader, LoaderState};
use data::{Batch, EncodedQuestion};
use model::{AdapterConfig, DropoutSeed, Llama, LlamaInput, LlamaOutput};

use crate::config::{MethodSection, RunConfig};
use crate::error::TrainError;
use crate::loss::calibration::FluTokens;
use crate::loss::{Objective, calibration};
use crate::prediction::{Prediction, best_choice, choice_logits};

pub mod base;
pub mod blob;
pub mod checkpoint_ensemble;
pub mod deep_ensemble;
pub mod laplace;
pub mod lora;
pub mod mc_dropout;
pub mod mixture;
pub mod spuq;
pub mod tfb;

/// What is trained, and by what objective.
pub trait Training: Send + Sync + std::fmt::Debug {
    /// What is trainable; nothing means that there is no training.
    fn adapter(&self) -> AdapterConfig;

    /// What training minimises.
    fn objective(&self, output: &LlamaOutput, batch: &Batch) -> Objective;

    /// Whether the calibration loss may change the routers alone.
    fn routers_apart(&self) -> bool {
        false
    }

    /// What follows each of the optimizer's steps, counted from 1, in a training on so many questions.
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

    /// Separate trainings, with seeds one after another.
    fn members(&self) -> usize {
        1
    }

    /// Whether the members are the adapters kept along one training instead of its last one.
    fn uses_snapshots(&self) -> bool {
        false
    }

    /// Forward passes a question, roughly, before anything is fitted.
    fn passes(&self) -> usize {
        self.members()
    }

    /// Forward passes of the fit over each of its questions, roughly.
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

    /// Makes trained members answer; work between training and the first question happens here.
    ///
    /// # Errors
    /// What the fit cannot do, or a stop on request.
    fn fit(
        &self,
        members: Vec<Llama>,
        context: &FitContext,
    ) -> Result<Box<dyn Predictor>, TrainError> {
        let _ = context;
        Ok(Box::new(Members {
            members,
            flu_tokens: self.flu_tokens(),
        }))
    }

    /// Over which tokens FLU is taken.
    fn flu_tokens(&self) -> FluTokens {
        FluTokens::default()
    }
}

impl dyn Method + '_ {
    /// Of its training.
    pub fn adapter(&self) -> AdapterConfig {
        self.training().adapter()
    }

    /// Of its training.
    pub fn objective(&self, output: &LlamaOutput, batch: &Batch) -> Objective {
        self.training().objective(output, batch)
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

    /// The models whose probabilities are averaged; none where answers come about in another way. Without them nothing can be written.
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
    /// Most tokens of one batch.
    pub batch_tokens: usize,
    /// Where tensors live, plain.
    pub device: &'a Device,
    /// Seed of what is random.
    pub seed: u64,
    /// Called with questions done and in all; false = stop.
    pub progress: &'a dyn Fn(usize, usize) -> bool,
}

impl FitContext<'_> {
    /// The questions in batches of at most so many tokens.
    pub(crate) fn loader(&self, batch_tokens: usize) -> EvaluationLoader {
        // A stop is noticed in `report`.
        let state = LoaderState::default();
        EvaluationLoader::new(self.questions, batch_tokens, state.into(), self.device)
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

/// One deterministic pass of each member; probabilities are averaged.
pub(crate) struct Members {
    pub(crate) members: Vec<Llama>,
    pub(crate) flu_tokens: FluTokens,
}

impl Predictor for Members {
    fn predict(&self, batch: &Batch) -> Prediction {
        sample(self.samples(), batch, self.flu_tokens)
    }

    fn samples(&self) -> Vec<Sample<'_>> {
        let members = self.members.iter();
        members.map(|member| (member, DropoutSeed::OFF)).collect()
    }
}

/// Several passes over a batch.
pub(crate) fn sample(samples: Vec<Sample<'_>>, batch: &Batch, flu_tokens: FluTokens) -> Prediction {
    let passes = samples.into_iter().map(|(llama, seed)| {
        seed_device(&batch.device(), seed);
        let output = llama.forward(&input(batch, seed));
        let routed = !output.routing.is_empty();
        Prediction {
            flu: routed.then(|| functional_uncertainty(&output, batch, flu_tokens)),
            ..Prediction::of(read_logits(&output, batch), batch)
        }
    });
    Prediction::joined(passes.collect())
}

/// Off flex, dropout draws from the device's own generator.
pub(crate) fn seed_device(device: &Device, seed: DropoutSeed) {
    if let Some(seed) = seed.value() {
        device.seed(seed);
    }
}

/// FLU of a batch's questions, `[batch]`.
pub(crate) fn functional_uncertainty(
    output: &LlamaOutput,
    batch: &Batch,
    tokens: FluTokens,
) -> Tensor<1> {
    calibration::functional_uncertainty(&output.routing, &flu_weights(output, batch, tokens))
}

/// The weight of each flat token in its question's FLU, `[batch, tokens]`.
pub(crate) fn flu_weights(output: &LlamaOutput, batch: &Batch, tokens: FluTokens) -> Tensor<2> {
    let device = batch.means.prompt.device();
    match (tokens, &batch.means.choices) {
        (FluTokens::Mean, _) => batch.means.prompt.clone(),
        (FluTokens::Answer, Some(choice_mean)) => {
            let [questions, choices] = batch.choices.dims();
            let first = Tensor::<1, Int>::arange(0..questions as i64, &device) * choices as i64;
            let chosen = best_choice(choice_logits(read_logits(output, batch), batch));
            choice_mean.clone().select(0, first + chosen)
        }
        // A label is no text of its own: it is read after the last prompt token.
        (FluTokens::Last | FluTokens::Answer, _) => {
            let [questions, flat] = batch.means.prompt.dims();
            let one = Tensor::ones([questions, 1], &device);
            let at = batch.choices.prompt_ends.clone().unsqueeze_dim(1);
            let zeros = Tensor::zeros([questions, flat], &device);
            zeros.scatter(1, at, one, IndexingUpdateOp::Add)
        }
    }
}

/// A row of the table of methods.
#[derive(Debug)]
pub struct Entry {
    /// The name on the command line.
    pub name: &'static str,
    /// A line of description.
    pub about: &'static str,
    /// The method whose training it queries; its own name if it trains itself.
    pub trained_as: &'static str,
    /// Settings that it reads beside those that every method reads, by section or by key.
    pub reads: &'static [&'static [&'static str]],
    construct: fn(&RunConfig) -> Arc<dyn Method>,
}

/// What plain LoRA reads.
const LORA: &[&str] = &[
    "train",
    "adapter.from",
    "adapter.rank",
    "adapter.alpha",
    "adapter.dropout",
    "adapter.target_modules",
    "objective.cross_entropy",
];

/// What a mixture without the calibration loss reads.
const MIXTURE: &[&str] = &[
    "train",
    "adapter",
    "objective.cross_entropy",
    "objective.load_balancing",
    "objective.load_balancing_weight",
    "objective.flu_tokens",
];

/// Every method, in the order of the paper's table; those beyond the paper last.
pub const METHODS: &[Entry] = &[
    Entry {
        name: "base",
        about: "the model as it is, no adaptation",
        trained_as: "base",
        reads: &[],
        construct: |_| Arc::new(base::Base),
    },
    Entry {
        name: "lora",
        about: "one LoRA adapter, cross-entropy",
        trained_as: "lora",
        reads: &[LORA],
        construct: |config| Arc::new(lora::Lora::new(config)),
    },
    Entry {
        name: "mc_dropout",
        about: "LoRA with dropout at inference, several passes",
        trained_as: "lora",
        reads: &[LORA, &["method.samples"]],
        construct: |config| Arc::new(mc_dropout::McDropout::new(config)),
    },
    Entry {
        name: "deep_ensemble",
        about: "several LoRA trainings, probabilities averaged",
        trained_as: "lora",
        reads: &[LORA, &["method.members"]],
        construct: |config| Arc::new(deep_ensemble::DeepEnsemble::new(config)),
    },
    Entry {
        name: "laplace",
        about: "Laplace approximation of LoRA's posterior, linearised (LA; LLLA: the last layer)",
        trained_as: "lora",
        reads: &[LORA, &["method.laplace"]],
        construct: |config| Arc::new(laplace::Laplace::new(config)),
    },
    Entry {
        name: "mixlora",
        about: "a mixture of LoRA experts, cross-entropy and load balancing",
        trained_as: "mixlora",
        reads: &[MIXTURE],
        construct: |config| Arc::new(mixture::Mixture::mixlora(config)),
    },
    Entry {
        name: "uq4ct",
        about: "a mixture of LoRA experts whose routers are trained to state the probability of being right",
        trained_as: "uq4ct",
        reads: &[&["train", "adapter", "objective"]],
        construct: |config| Arc::new(mixture::Mixture::uq4ct(config)),
    },
    Entry {
        name: "spuq",
        about: "LoRA asked in several wordings, weighted by their likeness",
        trained_as: "lora",
        reads: &[LORA, &["method.perturbations"]],
        construct: |config| Arc::new(spuq::Spuq::new(config)),
    },
    Entry {
        name: "checkpoint_ensemble",
        about: "adapters of the second half of one LoRA training, probabilities averaged",
        trained_as: "lora",
        reads: &[LORA],
        construct: |config| Arc::new(checkpoint_ensemble::CheckpointEnsemble::new(config)),
    },
    Entry {
        name: "tfb",
        about: "training-free Bayesianization of LoRA: noise as large as its training answers bear",
        trained_as: "lora",
        reads: &[LORA, &["method.samples", "method.tfb"]],
        construct: |config| Arc::new(tfb::Tfb::new(config)),
    },
    Entry {
        name: "blob",
        about: "Bayesian LoRA by backpropagation: mean and variance of A are trained together",
        trained_as: "blob",
        reads: &[LORA, &["method.samples", "method.blob"]],
        construct: |config| Arc::new(blob::Blob::new(config)),
    },
];

/// The table's row of a method.
///
/// # Errors
/// An unknown name, with the known ones.
pub fn entry(name: &str) -> Result<&'static Entry, TrainError> {
    METHODS.iter().find(|e| e.name == name).ok_or_else(|| {
        let known: Vec<_> = METHODS.iter().map(|e| e.name).collect();
        TrainError::config(
            "method.name",
            format!("expected one of {}, got {name:?}", known.join(", ")),
        )
    })
}

/// What every method reads.
const ALL: &[&str] = &[
    "model",
    "data",
    "evaluation",
    "method.name",
    "method.variant",
    "train.seed",
];

impl Entry {
    /// Whether a setting, `section.key`, makes a difference to the method.
    pub fn reads(&self, key: &str) -> bool {
        let holds = |part: &&str, key: &str| {
            let rest = key.strip_prefix(*part);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let parts = || ALL.iter().chain(self.reads.iter().copied().flatten());
        let routed = || parts().any(|part| holds(part, "adapter.num_experts"));
        parts().any(|part| holds(part, key)) && (key != "train.router_rate_factor" || routed())
    }
}

/// The method that a run asks for.
///
/// # Errors
/// An unknown name, with the known ones.
pub fn build(config: &RunConfig) -> Result<Arc<dyn Method>, TrainError> {
    entry(&config.method.name).map(|entry| (entry.construct)(config))
}

/// The settings of the training that a method queries: its member's, with this seed. Two methods that share it agree in them to
/// the last byte, whatever their own settings.
///
/// # Errors
/// An unknown method.
pub fn training(config: &RunConfig, seed: u64) -> Result<RunConfig, TrainError> {
    // UQ4CT without the calibration loss is MixLoRA, whatever that loss would have been; but questions set apart for it are not learned.
    let objective = &config.objective;
    let plain = objective.calibration_weight == 0.0 && objective.calibration_share == 0.0;
    let name = match entry(&config.method.name)?.trained_as {
        "uq4ct" if plain => "mixlora",
        name => name,
    };
    let mut training = config.read_by(entry(name)?)?;
    training.method = MethodSection {
        name: name.into(),
        blob: training.method.blob,
        ..Default::default()
    };
    if name == "mixlora" {
        training.objective.calibration_weight = 0.0;
    }
    training.train.seed = seed;
    Ok(training)
}

/// The model's input for a batch: the tokens after which choices are read first, then those of a sequence loss.
pub fn input(batch: &Batch, dropout: DropoutSeed) -> LlamaInput {
    let scored = match &batch.answers.next_tokens {
        Some(next) => Tensor::cat(vec![batch.choices.read_at.clone(), next.at.clone()], 0),
        None => batch.choices.read_at.clone(),
    };
    LlamaInput {
        tokens: batch.input.tokens.clone(),
        positions: batch.input.positions.clone(),
        segments: batch.input.segments.clone(),
        branches: batch.input.branches.clone(),
        scored,
        dropout,
        probe: None,
        routers_apart: false,
    }
}

/// The logits after which choices are read, without those of a sequence loss.
pub fn read_logits(output: &LlamaOutput, batch: &Batch) -> Tensor<2> {
    output.logits.clone().narrow(0, 0, batch.choices.reads())
}
