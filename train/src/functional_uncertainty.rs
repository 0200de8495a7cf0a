//! Functional-level uncertainty (FLU): how much of their probability the routers give to the
//! experts that they keep.
//!
//! FLU is a confidence: **high means certain**.

use burn::prelude::*;
use burn::tensor::IndexingUpdateOp;
use data::Batch;
use model::Routing;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::linear_algebra::weighted_sums;

/// Over which tokens FLU is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FluTokens {
    /// The mean over the prompt.
    #[default]
    Mean,
    /// The last prompt token, where the answer is read.
    Last,
    /// The mean over the text of the chosen answer, which sees the prompt (ours; for cloze scoring,
    /// whose prompts do not show the choices).
    Answer,
}

impl FluTokens {
    /// The weight of each flat token in the FLU of each question. `chosen` gives the number of the
    /// choice that the model takes, `[batch]`; it is asked only where the answer's text is read.
    ///
    /// # Shapes
    /// - output: `[batch, tokens]`
    pub fn weights(self, batch: &Batch, chosen: impl FnOnce() -> Tensor<1, Int>) -> Tensor<2> {
        let device = batch.means.prompt.device();
        match (self, &batch.means.choices) {
            (Self::Mean, _) => batch.means.prompt.clone(),
            (Self::Answer, Some(choice_mean)) => {
                let [questions, choices] = batch.choices.dims();
                let first = Tensor::<1, Int>::arange(0..questions as i64, &device) * choices as i64;
                choice_mean.clone().select(0, first + chosen())
            }
            // A label has no text of its own: it is read after the last prompt token.
            (Self::Last | Self::Answer, _) => {
                let [questions, flat] = batch.means.prompt.dims();
                let one = Tensor::ones([questions, 1], &device);
                let at = batch.choices.prompt_ends.clone().unsqueeze_dim(1);
                let zeros = Tensor::zeros([questions, flat], &device);
                zeros.scatter(1, at, one, IndexingUpdateOp::Add)
            }
        }
    }
}

/// `FLU(x) = mean over routers of the mean over tokens of the kept raw router probability`
/// (Eq. 11-12), in `[k/E, 1]`.
///
/// # Shapes
/// - weights: `[rows, tokens]`, each token's weight in a row's mean; output: `[rows]`
///
/// # Panics
/// Without a router.
pub fn functional_uncertainty(routing: &[Routing], weights: &Tensor<2>) -> Tensor<1> {
    assert!(!routing.is_empty(), "FLU needs a router");
    let mass = routing
        .iter()
        .map(Routing::functional_mass)
        .reduce(|a, b| a + b)
        .expect("a router")
        / routing.len() as f64;
    weighted_sums(weights, mass.squeeze_dim(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routing(kept: [[f32; 2]; 3]) -> Routing {
        let device = Device::flex();
        let kept = Tensor::<2>::from_data(kept, &device);
        Routing {
            probabilities: kept.clone(),
            apart: None,
            experts: Tensor::zeros([3, 2], &device),
            weights: kept.clone(),
            kept_probabilities: kept,
        }
    }

    #[test]
    fn flu_equals_hand_computed_values() {
        // Masses by router and token: (.6, .8, .9) and (.4, .5, 1); the third token belongs to the
        // second question.
        let routers = [
            routing([[0.4, 0.2], [0.5, 0.3], [0.6, 0.3]]),
            routing([[0.3, 0.1], [0.3, 0.2], [0.7, 0.3]]),
        ];
        let weights = [[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]];
        let prompt_mean = Tensor::<2>::from_data(weights, &Device::flex());
        let flu = functional_uncertainty(&routers, &prompt_mean);
        let mean: Vec<f32> = flu.into_data().try_into_vec_as().unwrap();
        assert!((mean[0] - 0.575).abs() < 1e-6 && (mean[1] - 0.95).abs() < 1e-6);
    }
}
