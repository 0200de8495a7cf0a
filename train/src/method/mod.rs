//! How to adapt, train and query a model so that its confidence can be trusted: one row of the paper's table one file.

use std::sync::Arc;

use burn::prelude::*;
use data::Batch;
use model::{AdapterConfig, DropoutSeed, Llama, LlamaInput, LlamaOutput};

use crate::config::RunConfig;
use crate::error::TrainError;
use crate::loss::{Objective, calibration};
use crate::prediction::{Prediction, choice_logits};

pub mod base;
pub mod lora;
pub mod mixture;

/// One row of the results table.
pub trait Method: Send + Sync + std::fmt::Debug {
    /// The name on the command line.
    fn name(&self) -> &'static str;

    /// What is trainable; nothing means that there is no training.
    fn adapter(&self) -> AdapterConfig;

    /// Separate trainings.
    fn members(&self) -> usize {
        1
    }

    /// What training minimises.
    fn objective(&self, output: &LlamaOutput, batch: &Batch) -> Objective;

    /// Answers a batch with the trained members: one deterministic pass of each, unless the method says otherwise.
    fn predict(&self, members: &[Llama], batch: &Batch) -> Prediction {
        let mut samples = Vec::with_capacity(members.len());
        let mut flu = None;
        for member in members {
            let output = member.forward(&input(batch, DropoutSeed::OFF));
            let routing = &output.routing;
            if !routing.is_empty() && members.len() == 1 {
                flu = Some(calibration::functional_uncertainty(
                    routing,
                    &batch.prompt_mean,
                    &batch.scored,
                    self.flu_tokens(),
                ));
            }
            samples.push(choice_logits(output.logits, batch).unsqueeze_dim(0));
        }
        Prediction {
            choice_logits: Tensor::cat(samples, 0),
            flu,
        }
    }

    /// Over which tokens FLU is taken.
    fn flu_tokens(&self) -> calibration::FluTokens {
        calibration::FluTokens::default()
    }
}

/// Makes a method from a run's settings.
type Constructor = fn(&RunConfig) -> Arc<dyn Method>;

/// Every method with a line of description, in the order of the paper's table.
pub const METHODS: &[(&str, &str, Constructor)] = &[
    ("base", "the model as it is, no adaptation", |_| {
        Arc::new(base::Base)
    }),
    ("lora", "one LoRA adapter, cross-entropy", |config| {
        Arc::new(lora::Lora::new(config))
    }),
    (
        "mixlora",
        "a mixture of LoRA experts, cross-entropy and load balancing",
        |config| Arc::new(mixture::Mixture::mixlora(config)),
    ),
    (
        "uq4ct",
        "a mixture of LoRA experts whose routers are trained to state the probability of being right",
        |config| Arc::new(mixture::Mixture::uq4ct(config)),
    ),
];

/// The method that a run asks for.
///
/// # Errors
/// An unknown name, with the known ones.
pub fn build(config: &RunConfig) -> Result<Arc<dyn Method>, TrainError> {
    let name = config.method.name.as_str();
    METHODS
        .iter()
        .find(|(known, _, _)| *known == name)
        .map(|(_, _, construct)| construct(config))
        .ok_or_else(|| {
            let known: Vec<_> = METHODS.iter().map(|(name, _, _)| *name).collect();
            TrainError::config(
                "method.name",
                format!("expected one of {}, got {name:?}", known.join(", ")),
            )
        })
}

/// The model's input for a batch: the scored tokens first, then the targets of a sequence loss.
pub fn input(batch: &Batch, dropout: DropoutSeed) -> LlamaInput {
    let scored = match &batch.next {
        Some(next) => Tensor::cat(vec![batch.scored.clone(), next.at.clone()], 0),
        None => batch.scored.clone(),
    };
    LlamaInput {
        tokens: batch.tokens.clone(),
        positions: batch.positions.clone(),
        segments: batch.segments.clone(),
        branches: batch.tokens.zeros_like(),
        scored,
        dropout,
    }
}

/// The logits at the answers, without those of a sequence loss.
pub fn answer_logits(output: &LlamaOutput, batch: &Batch) -> Tensor<2> {
    output.logits.clone().narrow(0, 0, batch.len())
}
