//! Functional-level uncertainty (FLU) and the loss that calibrates it.
//!
//! FLU is a confidence: **high means certain**.

use burn::prelude::*;
use model::Routing;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Over which tokens FLU is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FluTokens {
    /// The mean over the prompt.
    #[default]
    Mean,
    /// The last prompt token, where the answer is read.
    Last,
}

/// When an answer counts as right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Correctness {
    /// The best of the row's own choices is the right one, as in evaluation.
    #[default]
    Choices,
    /// The best token of the whole vocabulary is the right label.
    Vocabulary,
}

/// `FLU(x) = mean over routers of the mean over tokens of the kept raw router probability` (Eq. 11-12), in `[k/E, 1]`.
///
/// # Shapes
/// - prompt_mean: `[batch, tokens]`; scored: `[batch]`; output: `[batch]`
///
/// # Panics
/// Without a router.
pub fn functional_uncertainty(
    routing: &[Routing],
    prompt_mean: &Tensor<2>,
    scored: &Tensor<1, Int>,
    tokens: FluTokens,
) -> Tensor<1> {
    assert!(!routing.is_empty(), "FLU needs a router");
    let mass = routing
        .iter()
        .map(Routing::mass)
        .reduce(|a, b| a + b)
        .expect("a router")
        / routing.len() as f64;
    let per_question = match tokens {
        FluTokens::Mean => prompt_mean.clone().matmul(mass),
        FluTokens::Last => mass.select(0, scored.clone()),
    };
    per_question.squeeze_dim(1)
}

/// `L_cal = mean over questions of (1{right} - FLU)^2` (Eq. 13). The indicator is a constant.
///
/// # Shapes
/// - flu: `[batch]`; correct: `[batch]`
pub fn calibration_loss(flu: Tensor<1>, correct: Tensor<1, Bool>) -> Tensor<1> {
    (correct.float() - flu).square().mean()
}

/// `beta_t = beta min(1, step / warmup)` (Eq. 17); constant without a warm-up. `step` counts optimizer steps
/// from 1; 0 stands for evaluation, which uses the full weight.
pub fn beta(weight: f64, warmup_steps: usize, step: usize) -> f64 {
    match (warmup_steps, step) {
        (0, _) | (_, 0) => weight,
        (warmup, step) => weight * (step as f64 / warmup as f64).min(1.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routing(kept: [[f32; 2]; 3]) -> Routing {
        let device = Device::flex();
        let kept = Tensor::<2>::from_data(kept, &device);
        Routing {
            probabilities: kept.clone(),
            experts: Tensor::zeros([3, 2], &device),
            weights: kept.clone(),
            kept_probabilities: kept,
        }
    }

    #[test]
    fn flu_and_its_loss_equal_hand_computed_values() {
        let device = Device::flex();
        // Masses by router and token: (.6, .8, .9) and (.4, .5, 1); the third token belongs to the second question.
        let routers = [
            routing([[0.4, 0.2], [0.5, 0.3], [0.6, 0.3]]),
            routing([[0.3, 0.1], [0.3, 0.2], [0.7, 0.3]]),
        ];
        let prompt_mean = Tensor::<2>::from_data([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]], &device);
        let scored = Tensor::<1, Int>::from_data([1, 2], &device);
        let flu = |tokens| functional_uncertainty(&routers, &prompt_mean, &scored, tokens);
        let mean: Vec<f32> = flu(FluTokens::Mean).into_data().try_into_vec_as().unwrap();
        assert!((mean[0] - 0.575).abs() < 1e-6 && (mean[1] - 0.95).abs() < 1e-6);
        let last: Vec<f32> = flu(FluTokens::Last).into_data().try_into_vec_as().unwrap();
        assert!((last[0] - 0.65).abs() < 1e-6);
        let correct = Tensor::<1, Bool>::from_data([true, false], &device);
        let loss = calibration_loss(flu(FluTokens::Mean), correct).into_scalar::<f32>();
        assert!((loss - (0.425f32.powi(2) + 0.95f32.powi(2)) / 2.0).abs() < 1e-6);
    }

    #[test]
    fn beta_rises_linearly_and_stays() {
        assert_eq!(beta(1.0, 0, 1), 1.0);
        assert_eq!(beta(2.0, 50, 25), 1.0);
        assert_eq!(beta(1.0, 50, 80), 1.0);
        assert_eq!(beta(1.0, 50, 0), 1.0);
    }
}
