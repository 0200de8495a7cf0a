//! Plain LoRA: the maximum a posteriori baseline.

use burn::prelude::*;
use data::Batch;
use model::{AdapterConfig, LlamaOutput};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Method, Training, read_logits};
use crate::config::RunConfig;
use crate::loss::{Objective, Term, cross_entropy};
use crate::prediction::{choice_logits, token_log_probabilities};

/// What the cross-entropy is taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CrossEntropy {
    /// The answer's token, over the vocabulary.
    #[default]
    Answer,
    /// Every next token of prompt and answer.
    Sequence,
    /// The answer, over the row's choices.
    Choices,
}

/// `lora`
#[derive(Debug)]
pub struct Lora {
    adapter: AdapterConfig,
    scope: CrossEntropy,
}

impl Lora {
    /// From a run's settings.
    pub fn new(config: &RunConfig) -> Self {
        Self {
            adapter: AdapterConfig::Lora(config.adapter.lora()),
            scope: config.objective.cross_entropy,
        }
    }
}

/// The cross-entropy term, shared by all methods that train.
pub(super) fn term(scope: CrossEntropy, output: &LlamaOutput, batch: &Batch) -> Term {
    let logits = read_logits(output, batch);
    let value = match (scope, &batch.next, &batch.continuations) {
        (CrossEntropy::Sequence, Some(next), _) => {
            let (read, all) = (batch.read.dims()[0], output.logits.dims()[0]);
            let rest = output.logits.clone().narrow(0, read, all - read);
            cross_entropy::sequence(rest, next)
        }
        (CrossEntropy::Choices, _, _) => {
            cross_entropy::choices(choice_logits(logits, batch), batch.answers.clone())
        }
        (_, _, Some(targets)) => {
            cross_entropy::continuation(token_log_probabilities(logits, targets), targets)
        }
        (_, _, None) => cross_entropy::answer(logits, batch.answer_tokens.clone()),
    };
    Term {
        name: "cross_entropy",
        value,
        weight: 1.0,
    }
}

impl Training for Lora {
    fn adapter(&self) -> AdapterConfig {
        self.adapter.clone()
    }

    fn objective(&self, output: &LlamaOutput, batch: &Batch) -> Objective {
        Objective {
            terms: vec![term(self.scope, output, batch)],
        }
    }
}

impl Method for Lora {
    fn name(&self) -> &'static str {
        "lora"
    }

    fn training(&self) -> &dyn Training {
        self
    }
}

/// The right answers of a batch, by the row's own choices.
///
/// # Shapes
/// - choice_logits: `[batch, choices]`, output: `[batch]`
pub(super) fn correct(choice_logits: Tensor<2>, batch: &Batch) -> Tensor<1, Bool> {
    let best: Tensor<1, Int> = choice_logits.without_autodiff().argmax(1).squeeze_dim(1);
    best.equal(batch.answers.clone())
}
