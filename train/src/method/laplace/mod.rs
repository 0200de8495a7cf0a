//! Laplace-LoRA (Yang et al. 2024): a Gaussian around the trained adapter, from the curvature of
//! the training loss, pushed through the linearised model.
//!
//! - The curvature of each A and B is the exact Fisher over the choices in Kronecker form:
//!   `G (x) A` with `A = mean of a a^T` over the tokens (`a` the layer's input) and
//!   `G = sum over questions, tokens and choices of p_c g g^T` (`g` the gradient of `-log p_c` at
//!   the layer's output). All tokens enter, each as a row of its own (KFAC-expand).
//! - The side as wide as the model keeps only its largest directions, found by subspace iteration
//!   over the batches.
//! - The prior's mean is zero, or the adapter that the training began with.
//! - The prior's precision maximises the evidence of the training data, or the likelihood of the
//!   held-out answers.
//! - A question's logits are `N(f, J P^-1 J^T)`. The probabilities are the mean softmax of samples,
//!   or the probit approximation.
//!
//! Two things make the posterior too wide where the prior's mean is zero and the evidence chooses.
//! The norm that A was drawn with counts as evidence for a wide prior. And the matrices count as
//! independent, so that each of several hundred blocks takes a question's whole information for
//! itself. [`Posterior::leverage`] shows by how much.
//!
//! The public code of `bayesian_lora` feeds probabilities where logits belong, has wrong signs in
//! its evidence, and averages logits. None of that is repeated here. The two public codes take A
//! differently: `bayesian_lora` over the last token alone, `asdl` (under `laplace-lora`) as a sum
//! over the tokens divided by the questions. The sum makes the curvature as many times larger as a
//! question has tokens, and the posterior as much narrower; the mean over tokens is what
//! KFAC-expand has.
//!
//! | file | content |
//! |---|---|
//! | [`jacobian`] | gradients of the choices' logits at the adapter's layers |
//! | [`curvature`] | the Fisher in Kronecker form |
//! | [`posterior`](mod@posterior) | the Gaussian and the precision of its prior |
//! | `predict` | answers from it |

use std::sync::Arc;

use model::Llama;

use super::lora::{self, Lora};
use super::{Entry, FitContext, Method, Predictor, Training};
use crate::config::ranges::Range;
use crate::config::{LaplaceSection, Layers, PriorFrom, PriorMean, RunConfig};
use crate::error::TrainError;

pub mod curvature;
pub mod jacobian;
pub mod posterior;
mod predict;

use predict::Linearised;

pub use curvature::{Block, Factor};
pub use jacobian::{Jacobians, Probed, jacobians};
pub use posterior::{Posterior, posterior};

/// The entry of `laplace`.
pub const ENTRY: Entry = Entry {
    name: "laplace",
    about: "Laplace approximation of LoRA's posterior, linearised (LA; LLLA: the last layer)",
    asks_with: &["method.laplace"],
    ranges: &[
        ("method.laplace.questions", Range::AtLeastOne),
        ("method.laplace.directions", Range::Between(1, 1_000_000)),
        ("method.laplace.samples", Range::Between(1, 10_000_000)),
        ("method.laplace.prior_precision", Range::Positive),
    ],
    construct: |config| {
        let lora = Lora::new(&config.adapter, &config.objective);
        let (section, seed) = (&config.method.laplace, config.train.seed);
        Arc::new(Laplace::new(lora, section, seed))
    },
    ..lora::ENTRY
};

/// A LoRA with a Gaussian around it.
#[derive(Debug)]
pub struct Laplace {
    lora: Lora,
    settings: LaplaceSection,
    seed: u64,
}

impl Laplace {
    /// A LoRA with a Gaussian around it, whose samples are drawn from `seed`.
    pub fn new(lora: Lora, settings: &LaplaceSection, seed: u64) -> Self {
        Self {
            lora,
            settings: settings.clone(),
            seed,
        }
    }
}

impl LaplaceSection {
    /// Whether the prior's precision is chosen on held-out questions.
    fn chooses_on_held_out(&self) -> bool {
        self.prior_precision.is_none() && self.prior_from == PriorFrom::HeldOut
    }
}

impl Method for Laplace {
    fn name(&self) -> &'static str {
        "laplace"
    }

    fn training(&self) -> &dyn Training {
        &self.lora
    }

    fn chooses_on_held_out(&self) -> bool {
        self.settings.chooses_on_held_out()
    }

    fn check(&self, config: &RunConfig) -> Result<(), TrainError> {
        if config.data.writes()? {
            let reason = "laplace is about the probabilities of choices; use another";
            let reason = config.data.open_ended(reason);
            return Err(TrainError::config("method.name", reason));
        }
        let initial = self.settings.prior_mean == PriorMean::Initial;
        lora::refuse_dora(config)?;
        if config.adapter.init_lora_weights.is_pissa() && !initial {
            return Err(TrainError::config(
                "adapter.init_lora_weights",
                "the prior's mean is zero, where the model lacks what PiSSA took out of it: use \
                 method.laplace.prior_mean = initial, or kaiming",
            ));
        }
        if initial && config.adapter.from.is_some() {
            return Err(TrainError::config(
                "method.laplace.prior_mean",
                "initial is drawn from the seed, and adapter.from begins elsewhere: use zero",
            ));
        }
        Ok(())
    }

    /// A forward and a backward pass for each of about four choices, through all layers or the
    /// last.
    fn passes(&self) -> usize {
        match self.settings.layers {
            Layers::All => 12,
            Layers::Last => 2,
        }
    }

    fn fit_passes(&self) -> usize {
        self.passes()
    }

    fn fit_questions(&self) -> usize {
        self.settings.questions
    }

    fn fit(
        &self,
        mut members: Vec<Llama>,
        context: &FitContext,
    ) -> Result<Box<dyn Predictor>, TrainError> {
        let member = members.remove(0);
        let initial = match self.settings.prior_mean {
            PriorMean::Zero => None,
            PriorMean::Initial => Some(member.attach(&self.lora.adapter(), self.seed)?),
        };
        let probed = Probed::new(member, self.settings.layers);
        let posterior = posterior(&probed, initial.as_ref(), &self.settings, context)?;
        let choices = context.questions.iter().map(|q| q.choices.len()).max();
        let mut linearised = Linearised {
            probed,
            posterior,
            settings: self.settings.clone(),
            device: context.device.clone(),
            seed: self.seed,
            choices: choices.unwrap_or(1),
        };
        if self.settings.chooses_on_held_out() {
            linearised.choose_prior(context)?;
        }
        // It takes passes of its own.
        if tracing::enabled!(tracing::Level::INFO) {
            linearised.tell_leverage(context)?;
        }
        Ok(Box::new(linearised))
    }
}
