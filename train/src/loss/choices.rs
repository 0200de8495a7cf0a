//! What the probabilities of a question's choices are trained by: cross-entropy or another loss
//! over them, and a measure of calibration beside it.

use burn::prelude::*;
use burn::tensor::activation::{log_softmax, softmax};
use data::Batch;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Term;
use super::cross_entropy::{self, CrossEntropy};
use crate::forward::{Reading, best_choice};
use crate::linear_algebra::one_hot;

/// Width of the Laplacian kernel of [`mmce`], as published.
const KERNEL_WIDTH: f64 = 0.4;

/// A loss over a question's choices; `p_k` are their probabilities, `y` is the right one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChoiceLoss {
    /// `-log p_y`.
    #[default]
    CrossEntropy,
    /// Cross-entropy with the target `(1 - e) [k = y] + e / K` (Szegedy et al. 2016).
    LabelSmoothing,
    /// The Brier score `sum_k (p_k - [k = y])^2`.
    Brier,
    /// `-(1 - p_y)^gamma log p_y` (Lin et al. 2017).
    Focal,
    /// Focal with `gamma` 5 where `p_y` is below 0.2, else 3 (FLSD-53, Mukhoti et al. 2020).
    #[serde(rename = "focal_53")]
    #[schemars(rename = "focal_53")]
    Focal53,
}

/// How answers are learned: the scope of the cross-entropy, or a loss over the choices in its
/// place, and the weight of [`mmce`] beside it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AnswerLoss {
    /// What the cross-entropy is taken over.
    pub scope: CrossEntropy,
    /// The loss over choices; anything but cross-entropy takes the place of the scope's.
    pub choices: ChoiceLoss,
    /// Share `e` of label smoothing's target that is spread over the choices.
    pub label_smoothing: f64,
    /// Exponent of the focal loss.
    pub focal_gamma: f64,
    /// Weight of [`mmce`]; 0 = none.
    pub mmce_weight: f64,
}

impl AnswerLoss {
    /// The terms of an objective. The cross-entropy is always among them, to be watched: its weight
    /// is 0 where another loss takes its place. `weights` are the questions' own, `[batch]`;
    /// absent: 1.
    pub fn terms(&self, reading: &Reading, batch: &Batch, weights: Option<Tensor<1>>) -> Vec<Term> {
        let mut terms = vec![cross_entropy::term(
            self.scope,
            reading,
            batch,
            weights.clone(),
        )];
        let logits = || reading.choice_logits.clone();
        let answers = || batch.answers.index.clone();
        let weighted = |losses: Tensor<1>| match &weights {
            None => losses.mean(),
            Some(weights) => (losses * weights.clone()).mean(),
        };
        let own = match self.choices {
            ChoiceLoss::CrossEntropy => None,
            ChoiceLoss::LabelSmoothing => Some(label_smoothing(
                logits(),
                answers(),
                &batch.choices.missing,
                self.label_smoothing,
            )),
            ChoiceLoss::Brier => Some(brier(logits(), answers())),
            ChoiceLoss::Focal => Some(focal(logits(), answers(), self.focal_gamma)),
            ChoiceLoss::Focal53 => Some(focal_53(logits(), answers())),
        };
        if let Some(losses) = own {
            terms[0].weight = 0.0;
            terms.push(Term {
                name: "choice_loss",
                value: weighted(losses),
                weight: 1.0,
            });
        }
        if self.mmce_weight > 0.0 {
            terms.push(Term {
                name: "mmce",
                value: mmce(logits(), answers(), weights),
                weight: self.mmce_weight,
            });
        }
        terms
    }
}

/// `-sum_k t_k log p_k` of each question with the target `t_k = (1 - e) [k = y] + e / K` over its
/// `K` choices (Szegedy et al. 2016, Section 7).
///
/// # Shapes
/// - choice_logits: `[batch, choices]`, absent choices at minus infinity; missing: the same, true
///   where a choice is absent; answers, output: `[batch]`
pub fn label_smoothing(
    choice_logits: Tensor<2>,
    answers: Tensor<1, Int>,
    missing: &Tensor<2, Bool>,
    smoothing: f64,
) -> Tensor<1> {
    // An absent choice has the logarithm of 0, and a target of 0 that must win.
    let logarithms = log_softmax(choice_logits.clone(), 1).mask_fill(missing.clone(), 0.0);
    let there = missing.clone().bool_not().float();
    let spread = (logarithms.sum_dim(1) / there.sum_dim(1)).squeeze_dim(1);
    cross_entropy::choices(choice_logits, answers) * (1.0 - smoothing) - spread * smoothing
}

/// The Brier score of each question, `sum_k (p_k - [k = y])^2`.
///
/// # Shapes
/// - choice_logits: `[batch, choices]`, absent choices at minus infinity; answers, output:
///   `[batch]`
pub fn brier(choice_logits: Tensor<2>, answers: Tensor<1, Int>) -> Tensor<1> {
    let [_, choices] = choice_logits.dims();
    let right = one_hot(answers.unsqueeze_dim(1), choices);
    (softmax(choice_logits, 1) - right)
        .square()
        .sum_dim(1)
        .squeeze_dim(1)
}

/// `-(1 - p_y)^gamma log p_y` of each question (Lin et al. 2017, Eq. 4).
///
/// # Shapes
/// - choice_logits: `[batch, choices]`, absent choices at minus infinity; answers, output:
///   `[batch]`
pub fn focal(choice_logits: Tensor<2>, answers: Tensor<1, Int>, gamma: f64) -> Tensor<1> {
    let loss = cross_entropy::choices(choice_logits, answers);
    missed(loss.clone()).powf_scalar(gamma) * loss
}

/// [`focal`] with an exponent of the question's own: 5 where `p_y < 0.2`, else 3 (FLSD-53, Mukhoti
/// et al. 2020, Section 5).
///
/// # Shapes
/// As [`focal`].
pub fn focal_53(choice_logits: Tensor<2>, answers: Tensor<1, Int>) -> Tensor<1> {
    let loss = cross_entropy::choices(choice_logits, answers);
    let missed = missed(loss.clone());
    let cube = missed.clone().powi_scalar(3);
    let unlikely = missed.clone().without_autodiff().greater_elem(0.8);
    let fifth = cube.clone() * missed.square();
    cube.mask_where(unlikely, fifth) * loss
}

/// `1 - p_y` from `-log p_y`. Kept above 0, where the power of a fraction has no slope.
fn missed(loss: Tensor<1>) -> Tensor<1> {
    (loss.neg().exp().neg() + 1.0).clamp_min(1e-6)
}

/// The squared maximum mean calibration error of a batch,
/// `sum_ij (c_i - r_i) (c_j - r_j) exp(-|r_i - r_j| / 0.4) / m^2`: `r` is the probability of the
/// predicted choice, `c` whether it is right, a constant (Kumar et al. 2018, Eq. 5). It is taken
/// within each forward pass: of a step in several passes, the mean. `weights` are the questions'
/// own, `[batch]`; absent: 1.
///
/// # Shapes
/// - choice_logits: `[batch, choices]`, absent choices at minus infinity; answers: `[batch]`;
///   output: `[1]`
pub fn mmce(
    choice_logits: Tensor<2>,
    answers: Tensor<1, Int>,
    weights: Option<Tensor<1>>,
) -> Tensor<1> {
    let best = best_choice(choice_logits.clone());
    let right = best.clone().equal(answers).float();
    let confidence: Tensor<1> = softmax(choice_logits, 1)
        .gather(1, best.unsqueeze_dim(1))
        .squeeze_dim(1);
    let gap = right - confidence.clone();
    let gap = match weights {
        None => gap,
        Some(weights) => gap * weights,
    };
    let across = |values: Tensor<1>| values.unsqueeze_dim::<2>(0);
    let down = |values: Tensor<1>| values.unsqueeze_dim::<2>(1);
    let distance = (down(confidence.clone()) - across(confidence)).abs();
    let kernel = (distance / -KERNEL_WIDTH).exp();
    (down(gap.clone()) * across(gap) * kernel).mean()
}
