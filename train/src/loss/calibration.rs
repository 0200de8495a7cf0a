//! The loss that calibrates functional-level uncertainty (FLU): it should equal the probability of
//! being right.

use burn::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// When an answer counts as right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Correctness {
    /// The best of the row's own choices is the right one, as in evaluation.
    #[default]
    Choices,
    /// The best token of the whole vocabulary is the right label.
    Vocabulary,
    /// The probability of the right choice among the row's own, instead of 0 or 1: less noise, not
    /// in the paper.
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

/// `L_cal = mean of (1{right} - FLU)^2` over questions (Eq. 13) is the mean of this. What is right
/// is a constant.
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

    #[test]
    fn the_loss_equals_a_hand_computed_value() {
        let device = Device::flex();
        let flu = Tensor::<1>::from_data([0.575, 0.95], &device);
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
