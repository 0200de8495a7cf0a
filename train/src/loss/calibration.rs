//! Functional-level uncertainty (FLU) and the loss that calibrates it.
//!
//! FLU is a confidence: **high means certain**.

use burn::prelude::*;
use model::Routing;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::weighted_sums;

/// Over which tokens FLU is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FluTokens {
    /// The mean over the prompt.
    #[default]
    Mean,
    /// The last prompt token, where the answer is read.
    Last,
    /// The mean over the text of the chosen answer, which sees the prompt (ours; for cloze scoring, whose prompts do not show the choices).
    Answer,
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
    /// The probability of the right choice among the row's own, instead of 0 or 1: less noise, not in the paper.
    Soft,
}

/// What the calibration loss may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CalibrationGradient {
    /// Routers, and by way of their inputs the experts below.
    #[default]
    All,
    /// The routers alone.
    Routers,
}

/// Which answers' FLU the calibration loss compares with their being right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CalibratedAnswers {
    /// The predicted one's (Eq. 13).
    #[default]
    Predicted,
    /// Every choice's own, right for one of them (ours; with `flu_tokens = answer`).
    Choices,
}

/// `FLU(x) = mean over routers of the mean over tokens of the kept raw router probability` (Eq. 11-12), in `[k/E, 1]`.
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

/// `L_cal = mean of (1{right} - FLU)^2` over questions (Eq. 13) is the mean of this. What is right is a constant.
///
/// # Shapes
/// - flu, right, output: `[rows]`; `right` in `[0, 1]`
pub fn calibration_loss(flu: Tensor<1>, right: Tensor<1>) -> Tensor<1> {
    (right.without_autodiff() - flu).square()
}

/// The calibration loss's weight, `beta_t = beta min(1, step / warmup)` (Eq. 17); constant without
/// a warm-up. `step` counts optimizer steps from 1; evaluation has none and uses the full weight.
pub fn beta(weight: f64, warmup_steps: usize, step: Option<usize>) -> f64 {
    match (warmup_steps, step) {
        (0, _) | (_, None) => weight,
        (warmup, Some(step)) => weight * (step as f64 / warmup as f64).min(1.0),
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
            apart: None,
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
        let flu = functional_uncertainty(&routers, &prompt_mean);
        let mean: Vec<f32> = flu.clone().into_data().try_into_vec_as().unwrap();
        assert!((mean[0] - 0.575).abs() < 1e-6 && (mean[1] - 0.95).abs() < 1e-6);
        let right = Tensor::<1>::from_data([1.0, 0.0], &device);
        let loss = calibration_loss(flu, right).mean().into_scalar::<f32>();
        assert!((loss - (0.425f32.powi(2) + 0.95f32.powi(2)) / 2.0).abs() < 1e-6);
    }

    #[test]
    fn beta_rises_linearly_and_stays() {
        assert_eq!(beta(1.0, 0, Some(1)), 1.0);
        assert_eq!(beta(2.0, 50, Some(25)), 1.0);
        assert_eq!(beta(1.0, 50, Some(80)), 1.0);
        assert_eq!(beta(1.0, 50, None), 1.0);
    }
}
