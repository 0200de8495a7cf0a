//! The section `[method]`: which method, and the settings that single methods have of their own.
//!
//! Only the shape of the settings file is here. What a method makes of its settings, and what it
//! refuses, is in the method's own file.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::is_default;

/// `[method]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MethodSection {
    /// Name of the method.
    pub name: String,
    /// Name of a variant, for the run's directory and the report; empty = the method's.
    pub variant: String,
    /// Passes of a question: mc_dropout, tfb, blob (there 0 = the mean weights).
    pub samples: usize,
    /// Separate trainings of deep_ensemble.
    pub members: usize,
    /// Rewordings of a question that spuq asks beside it.
    pub perturbations: usize,
    /// What the choices' scores are divided by before they become probabilities: `one`, or
    /// `prequential`, the temperature that the first answers to the training questions call for.
    /// Read by lora, mixlora and uq4ct.
    // Left out at its default: the names of earlier evaluations stay.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("default" = "one"))]
    pub temperature: AnswerTemperature,
    /// Settings of `laplace`.
    #[serde(skip_serializing_if = "is_default")]
    pub laplace: LaplaceSection,
    /// Settings of `tfb`.
    #[serde(skip_serializing_if = "is_default")]
    pub tfb: TfbSection,
    /// Settings of `blob`.
    #[serde(skip_serializing_if = "is_default")]
    pub blob: BlobSection,
}

impl Default for MethodSection {
    fn default() -> Self {
        Self {
            name: "uq4ct".into(),
            variant: String::new(),
            samples: 10,
            members: 3,
            perturbations: 5,
            temperature: AnswerTemperature::One,
            laplace: LaplaceSection::default(),
            tfb: TfbSection::default(),
            blob: BlobSection::default(),
        }
    }
}

impl MethodSection {
    /// The variant's name, or the method's.
    pub fn title(&self) -> &str {
        match self.variant.as_str() {
            "" => &self.name,
            variant => variant,
        }
    }
}

/// What the choices' scores are divided by before they become probabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AnswerTemperature {
    /// 1: the softmax of the model itself.
    #[default]
    One,
    /// The temperature that the first answers to the training questions call for.
    Prequential,
}

/// Which adapted layers the posterior covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Layers {
    /// All: LA.
    #[default]
    All,
    /// The last decoder layer: LLLA. (The public code means the head's LoRA; these adapters leave
    /// the head alone.)
    Last,
}

/// What shares a precision of the prior.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Prior {
    /// A and B, as published.
    #[default]
    Shared,
    /// A has one and B another: A keeps most of its initial norm, of which B began without any, so
    /// that a shared precision is far too small for B.
    ByMatrix,
}

/// Where the prior has its mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PriorMean {
    /// At zero, as published. The norm that A was drawn with then counts as evidence for a wide
    /// prior.
    #[default]
    Zero,
    /// At the adapter that the training began with, drawn again from its seed: what counts is how
    /// far the training went.
    Initial,
}

/// What the prior's precision is chosen by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PriorFrom {
    /// The evidence of the training questions.
    #[default]
    Evidence,
    /// The negative log-likelihood of the held-out questions' answers, among multiples of what the
    /// evidence chooses.
    HeldOut,
}

/// How the distribution of the logits becomes probabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Predictive {
    /// The mean softmax of samples.
    #[default]
    Sampled,
    /// `softmax(f / sqrt(1 + pi / 8 var))`
    Probit,
}

/// `[method.laplace]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LaplaceSection {
    /// `all` (LA) or `last` (LLLA).
    pub layers: Layers,
    /// Training questions that the curvature is taken over, scaled up to all of them.
    pub questions: usize,
    /// Directions kept of a factor as wide as the model.
    pub directions: usize,
    /// Precision of the Gaussian prior; absent: what `prior_from` chooses.
    pub prior_precision: Option<f64>,
    /// `shared`, or `by_matrix`: a precision for A and one for B.
    // Left out at its default: the names of earlier evaluations stay.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("default" = "shared"))]
    pub prior: Prior,
    /// `zero`, or `initial`: the prior's mean is the adapter that the training began with.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("default" = "zero"))]
    pub prior_mean: PriorMean,
    /// `evidence`, or `held_out`: the precision with the least negative log-likelihood of the
    /// held-out questions, at most `questions` of them.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("default" = "evidence"))]
    pub prior_from: PriorFrom,
    /// `sampled` or `probit`.
    pub predictive: Predictive,
    /// Samples of a question's logits.
    pub samples: usize,
}

impl Default for LaplaceSection {
    fn default() -> Self {
        Self {
            layers: Layers::All,
            questions: 500,
            directions: 16,
            prior_precision: None,
            prior: Prior::Shared,
            prior_mean: PriorMean::Zero,
            prior_from: PriorFrom::Evidence,
            predictive: Predictive::Sampled,
            samples: 1000,
        }
    }
}

/// `[method.tfb]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TfbSection {
    /// Training questions on which sigma is chosen.
    pub questions: usize,
    /// Passes of each trial.
    pub trial_samples: usize,
    /// Trials, halving the interval of the logarithm.
    pub trials: usize,
    /// Smallest sigma tried; where even this is too much, there is no noise.
    pub min_sigma: f64,
    /// Largest sigma.
    pub max_sigma: f64,
    /// Allowed relative rise of the negative log-likelihood. The public code divides the rise by
    /// the number of questions first: its 0.003 at 500 questions is 1.5 here.
    pub tolerance: f64,
}

impl Default for TfbSection {
    fn default() -> Self {
        Self {
            questions: 100,
            trial_samples: 5,
            trials: 8,
            min_sigma: 1e-5,
            max_sigma: 0.2,
            tolerance: 0.003,
        }
    }
}

/// `[method.blob]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BlobSection {
    /// Largest initial value of G, whose square is A's standard deviation.
    pub posterior_std: f64,
    /// Standard deviation of the prior on A.
    pub prior_std: f64,
    /// Learning rate of the divergence's step.
    pub kl_learning_rate: f64,
    /// The divergence's weights double over a cycle of `100 n^(pi / gamma) / batch` steps.
    pub gamma: f64,
    /// Cycles in a run, as long as each other; 0 = as long as gamma says.
    // Left out at their defaults: the names of earlier trainings stay.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("default" = 0))]
    pub cycles: usize,
    /// Whether the divergence's learning rate falls linearly to 0 over the run.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("default" = false))]
    pub kl_decay: bool,
}

impl Default for BlobSection {
    fn default() -> Self {
        Self {
            posterior_std: 0.05,
            prior_std: 0.2,
            kl_learning_rate: 0.01,
            gamma: 8.0,
            cycles: 0,
            kl_decay: false,
        }
    }
}
