//! Plain LoRA: the maximum a posteriori baseline.

use burn::prelude::*;
use data::Batch;
use model::{AdapterConfig, LlamaOutput};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Method, Training, read_logits};
use crate::config::RunConfig;
use crate::loss::{Objective, Term, cross_entropy};
use crate::prediction::{best_choice, choice_logits, token_log_probabilities};

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

/// The cross-entropy term, shared by all methods that train. `weights` are the questions' own, `[batch]`; absent: 1.
pub(super) fn term(
    scope: CrossEntropy,
    output: &LlamaOutput,
    batch: &Batch,
    weights: Option<Tensor<1>>,
) -> Term {
    let logits = read_logits(output, batch);
    let mean = |values: Tensor<1>| match weights {
        None => values.mean(),
        Some(weights) => (values * weights).mean(),
    };
    let value = match (
        scope,
        &batch.answers.next_tokens,
        &batch.choices.continuations,
    ) {
        (CrossEntropy::Sequence, Some(next), _) => {
            let (read, all) = (batch.choices.reads(), output.logits.dims()[0]);
            let rest = output.logits.clone().narrow(0, read, all - read);
            cross_entropy::sequence(rest, next)
        }
        (CrossEntropy::Choices, _, _) => {
            let logits = choice_logits(logits, batch);
            mean(cross_entropy::choices(logits, batch.answers.index.clone()))
        }
        (_, _, Some(targets)) => {
            let tokens = token_log_probabilities(logits, targets);
            mean(cross_entropy::continuation(tokens, targets))
        }
        (_, _, None) => mean(cross_entropy::answer(logits, batch.answers.token.clone())),
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
            terms: vec![term(self.scope, output, batch, None)],
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
    best_choice(choice_logits).equal(batch.answers.index.clone())
}
