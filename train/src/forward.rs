//! One forward pass over a batch: what goes in, and what is read from what comes out.

use std::ops::Range;

use burn::prelude::*;
use data::Batch;
use data::batch::Continuations;
use model::fused::log_likelihood::log_likelihood;
use model::{DropoutSeed, LlamaInput, LlamaOutput, Routing};

use crate::functional_uncertainty::{FluTokens, functional_uncertainty};
use crate::linear_algebra::weighted_sums;

/// The model's input for a batch. The tokens after which choices are read come first, then those of
/// a loss over the sequence.
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

/// What is read from a forward pass, each quantity computed once: the objective, the report of a
/// training step and a prediction all use the same tensors.
#[derive(Debug, Clone)]
pub struct Reading {
    /// Logits over the vocabulary after which choices are read, `[reads, vocabulary]`.
    pub logits: Tensor<2>,
    /// Logits over the vocabulary of a loss over the sequence, `[targets, vocabulary]`; absent
    /// without one.
    pub sequence_logits: Option<Tensor<2>>,
    /// With cloze scoring, `log p(token)` of every token of every choice, `[targets]`.
    pub token_log_probabilities: Option<Tensor<1>>,
    /// Score of each of a question's choices, `[batch, choices]`, see [`choice_logits`].
    pub choice_logits: Tensor<2>,
    /// Functional-level uncertainty of each question, `[batch]`; absent without routers.
    pub flu: Option<Tensor<1>>,
    /// What each router decided, in the order of the forward pass.
    pub routing: Vec<Routing>,
}

impl Reading {
    /// Reads an output. FLU is taken over `flu_tokens`.
    pub fn of(output: LlamaOutput, batch: &Batch, flu_tokens: FluTokens) -> Self {
        let LlamaOutput { logits, routing } = output;
        let [all, _] = logits.dims();
        let read = batch.choices.reads();
        let sequence = batch.answers.next_tokens.as_ref();
        let sequence_logits = sequence.map(|_| rows(logits.clone(), read..all));
        let logits = rows(logits, 0..read);
        let targets = batch.choices.continuations.as_ref();
        let tokens = targets.map(|targets| token_log_probabilities(logits.clone(), targets));
        let choice_logits = scores(logits.clone(), tokens.clone(), batch);
        let flu = (!routing.is_empty()).then(|| {
            let weights = flu_tokens.weights(batch, || best_choice(choice_logits.clone()));
            functional_uncertainty(&routing, &weights)
        });
        Self {
            logits,
            sequence_logits,
            token_log_probabilities: tokens,
            choice_logits,
            flu,
            routing,
        }
    }

    /// The same values without the graph that gave them.
    pub fn detached(self) -> Self {
        Self {
            logits: self.logits.without_autodiff(),
            sequence_logits: self.sequence_logits.map(Tensor::without_autodiff),
            token_log_probabilities: self.token_log_probabilities.map(Tensor::without_autodiff),
            choice_logits: self.choice_logits.without_autodiff(),
            flu: self.flu.map(Tensor::without_autodiff),
            routing: self.routing.into_iter().map(without_graph).collect(),
        }
    }

    /// Whether the best of each question's choices is the right one, `[batch]`.
    pub fn choice_is_right(&self, batch: &Batch) -> Tensor<1, Bool> {
        best_choice(self.choice_logits.clone()).equal(batch.answers.index.clone())
    }

    /// Whether the most probable token, at every place of the right answer, is the answer's,
    /// `[batch]`.
    pub fn tokens_are_right(&self, batch: &Batch) -> Tensor<1, Bool> {
        let logits = self.logits.clone().without_autodiff();
        let best: Tensor<1, Int> = logits.argmax(1).squeeze_dim(1);
        let Some(targets) = &batch.choices.continuations else {
            return best.equal(batch.answers.token.clone());
        };
        let best = best.select(0, targets.row.clone());
        let missed = best.not_equal(targets.token.clone()).float();
        weighted_sums(&targets.answer, missed).equal_scalar(0.0)
    }
}

/// The same routing decision without a graph.
fn without_graph(routing: Routing) -> Routing {
    Routing {
        probabilities: routing.probabilities.without_autodiff(),
        kept_probabilities: routing.kept_probabilities.without_autodiff(),
        experts: routing.experts,
        weights: routing.weights.without_autodiff(),
        apart: routing.apart.map(Tensor::without_autodiff),
    }
}

/// The logits after which choices are read, without those of a loss over the sequence.
pub fn read_logits(output: &LlamaOutput, batch: &Batch) -> Tensor<2> {
    rows(output.logits.clone(), 0..batch.choices.reads())
}

/// Some rows of a matrix.
///
/// By their indices; `narrow` would say the same. Gradients were seen wrong with it under Burn's
/// fusion, before its fused matrix products were found to give such.
fn rows(matrix: Tensor<2>, range: Range<usize>) -> Tensor<2> {
    if range == (0..matrix.dims()[0]) {
        return matrix;
    }
    let device = matrix.device().without_autodiff();
    matrix.select(
        0,
        Tensor::arange(range.start as i64..range.end as i64, &device),
    )
}

/// The score of each row's own choices, absent ones at minus infinity: the label's logit, or the
/// weighted log-likelihood of the choice's text. Their softmax is the prediction.
///
/// # Shapes
/// - logits: `[reads, vocabulary]`, the rows of `batch.choices.read_at`; output: `[batch, choices]`
pub fn choice_logits(logits: Tensor<2>, batch: &Batch) -> Tensor<2> {
    let targets = batch.choices.continuations.as_ref();
    let tokens = targets.map(|targets| token_log_probabilities(logits.clone(), targets));
    scores(logits, tokens, batch)
}

/// As [`choice_logits`], with the log-probabilities of the choices' tokens where there are any.
fn scores(logits: Tensor<2>, tokens: Option<Tensor<1>>, batch: &Batch) -> Tensor<2> {
    let scores = match (&batch.choices.continuations, tokens) {
        (Some(targets), Some(tokens)) => {
            weighted_sums(&targets.pool, tokens).reshape(batch.choices.dims())
        }
        _ => logits.gather(1, batch.choices.first_tokens.clone()),
    };
    scores.mask_fill(batch.choices.missing.clone(), f32::NEG_INFINITY)
}

/// The most probable choice of each row, `[batch]`.
///
/// # Shapes
/// - choice_logits: `[batch, choices]`
pub fn best_choice(choice_logits: Tensor<2>) -> Tensor<1, Int> {
    choice_logits.without_autodiff().argmax(1).squeeze_dim(1)
}

/// `log p(token)` of every token of every choice, given the prompt and the choice's tokens before
/// it.
///
/// # Shapes
/// - logits: `[reads, vocabulary]`, output: `[targets]`
fn token_log_probabilities(logits: Tensor<2>, targets: &Continuations) -> Tensor<1> {
    log_likelihood(logits, targets.row.clone(), targets.token.clone())
}
