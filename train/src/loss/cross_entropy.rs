//! Cross-entropy at the answer, over the choices, or over the whole sequence.

use burn::prelude::*;
use burn::tensor::activation::log_softmax;
use data::Batch;
use data::batch::{Continuations, NextTokens};
use model::fused::log_likelihood::log_likelihood;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Term;
use crate::forward::Reading;
use crate::linear_algebra::weighted_sums;

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

/// The cross-entropy term of an objective, shared by all methods that train. `weights` are the
/// questions' own, `[batch]`; absent: 1.
pub fn term(
    scope: CrossEntropy,
    reading: &Reading,
    batch: &Batch,
    weights: Option<Tensor<1>>,
) -> Term {
    let mean = |values: Tensor<1>| match weights {
        None => values.mean(),
        Some(weights) => (values * weights).mean(),
    };
    let sequence_of = || {
        Some((
            reading.sequence_logits.clone()?,
            batch.answers.next_tokens.as_ref()?,
        ))
    };
    let tokens_of = || {
        let tokens = reading.token_log_probabilities.clone()?;
        Some((tokens, batch.choices.continuations.as_ref()?))
    };
    let value = match (scope, sequence_of(), tokens_of()) {
        (CrossEntropy::Sequence, Some((logits, next)), _) => sequence(logits, next),
        (CrossEntropy::Choices, _, _) => {
            let logits = reading.choice_logits.clone();
            mean(choices(logits, batch.answers.index.clone()))
        }
        (_, _, Some((tokens, targets))) => mean(continuation(tokens, targets)),
        (_, _, None) => mean(answer(reading.logits.clone(), batch.answers.token.clone())),
    };
    Term {
        name: "cross_entropy",
        value,
        weight: 1.0,
    }
}

/// `-log p(answer token)` of each question, over the whole vocabulary.
///
/// # Shapes
/// - logits: `[batch, vocabulary]`; answer_tokens, output: `[batch]`
pub fn answer(logits: Tensor<2>, answer_tokens: Tensor<1, Int>) -> Tensor<1> {
    one_a_row(logits, answer_tokens).neg()
}

/// Each question's mean of `-log p(token)` over the right choice's tokens, each over the whole
/// vocabulary.
///
/// # Shapes
/// - token_log_probabilities: `[targets]`; output: `[batch]`
pub fn continuation(token_log_probabilities: Tensor<1>, targets: &Continuations) -> Tensor<1> {
    weighted_sums(&targets.answer, token_log_probabilities).neg()
}

/// `-log p(answer)` of each question, over the row's own choices.
///
/// # Shapes
/// - choice_logits: `[batch, choices]`, absent choices at minus infinity; answers, output:
///   `[batch]`
pub fn choices(choice_logits: Tensor<2>, answers: Tensor<1, Int>) -> Tensor<1> {
    picked(log_softmax(choice_logits, 1), answers).neg()
}

/// Mean over questions of the mean over their next tokens; padding never counts.
///
/// # Shapes
/// - logits: `[targets, vocabulary]`, the rows of `next.at`
pub fn sequence(logits: Tensor<2>, next: &NextTokens) -> Tensor<1> {
    let found = one_a_row(logits, next.target.clone());
    (found * next.weight.clone()).sum().neg()
}

/// `log p(token)` of one token a row.
fn one_a_row(logits: Tensor<2>, tokens: Tensor<1, Int>) -> Tensor<1> {
    let rows = Tensor::arange(0..tokens.dims()[0] as i64, &tokens.device());
    log_likelihood(logits, rows, tokens)
}

/// One entry of each row.
fn picked(values: Tensor<2>, index: Tensor<1, Int>) -> Tensor<1> {
    values.gather(1, index.unsqueeze_dim(1)).squeeze_dim(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_and_choices_equal_hand_computed_values() {
        let device = Device::flex();
        let logits = Tensor::<2>::from_data([[0.0, 1.0, 2.0], [1.0, 1.0, 1.0]], &device);
        let index = Tensor::<1, Int>::from_data([2, 0], &device);
        // -log softmax([0,1,2])[2] = 0.407606, -log(1/3) = 1.098612
        let expected = (0.407_606 + 1.098_612) / 2.0;
        for loss in [
            answer(logits.clone(), index.clone()),
            choices(logits.clone(), index),
        ] {
            assert!((loss.mean().into_scalar::<f32>() - expected).abs() < 1e-5);
        }
        let next = NextTokens {
            at: Tensor::from_data([0, 1], &device),
            target: Tensor::from_data([2, 0], &device),
            weight: Tensor::from_data([0.25, 0.75], &device),
        };
        let loss = sequence(logits, &next).into_scalar::<f32>();
        assert!((loss - (0.25 * 0.407_606 + 0.75 * 1.098_612)).abs() < 1e-5);
    }
}
