//! MixLoRA and UQ4CT: the same mixture, without and with the calibration loss (Eq. 14).

use burn::prelude::*;
use data::Batch;
use data::seed::hash_name;
use model::{AdapterConfig, LlamaOutput};

use super::lora::{correct, term};
use super::{Method, Training, functional_uncertainty, read_logits};
use crate::config::{ObjectiveSection, RunConfig};
use crate::loss::calibration::{
    self, CalibratedAnswers, CalibrationGradient, Correctness, FluTokens, calibration_loss,
};
use crate::loss::load_balancing::{load_balancing, one_hot};
use crate::loss::{Objective, Term, cross_entropy};
use crate::prediction::{all_tokens_best, choice_logits};

/// `mixlora` and `uq4ct`
#[derive(Debug)]
pub struct Mixture {
    name: &'static str,
    adapter: AdapterConfig,
    objective: ObjectiveSection,
}

impl Mixture {
    /// Beta as the settings say.
    pub fn uq4ct(config: &RunConfig) -> Self {
        Self {
            name: "uq4ct",
            adapter: AdapterConfig::MixLora(config.adapter.mixture()),
            objective: config.objective.clone(),
        }
    }

    /// Beta = 0.
    pub fn mixlora(config: &RunConfig) -> Self {
        let mut mixture = Self::uq4ct(config);
        mixture.objective.calibration_weight = 0.0;
        Self {
            name: "mixlora",
            ..mixture
        }
    }

    /// Whether each question is right in this very forward pass (Eq. 13), `[batch]`, in `[0, 1]`.
    fn right(&self, logits: Tensor<2>, batch: &Batch) -> Tensor<1> {
        match self.objective.correctness {
            Correctness::Choices if !batch.answers.written => {
                correct(choice_logits(logits, batch), batch).float()
            }
            Correctness::Soft if !batch.answers.written => {
                cross_entropy::choices(choice_logits(logits, batch), batch.answers.index.clone())
                    .neg()
                    .exp()
            }
            _ => all_tokens_best(logits, batch).float(),
        }
    }

    /// The calibration loss of each question, `[batch]`.
    fn calibration(&self, output: &LlamaOutput, batch: &Batch) -> Tensor<1> {
        let logits = read_logits(output, batch);
        match (&self.objective.calibrated, &batch.means.choices) {
            (CalibratedAnswers::Choices, Some(choice_mean)) => {
                let [questions, choices] = batch.choices.dims();
                let flu = calibration::functional_uncertainty(&output.routing, choice_mean);
                let right = one_hot(batch.answers.index.clone().unsqueeze_dim(1), choices);
                let loss = calibration_loss(flu, right.flatten(0, 1));
                // The mean over the choices that are there.
                let there = batch.choices.missing.clone().bool_not().float();
                let sum: Tensor<2> =
                    (loss.reshape([questions, choices]) * there.clone()).sum_dim(1);
                (sum / there.sum_dim(1)).squeeze_dim(1)
            }
            _ => {
                let flu = functional_uncertainty(output, batch, self.objective.flu_tokens);
                calibration_loss(flu, self.right(logits, batch))
            }
        }
    }

    /// The questions' weights in the cross-entropy and in the calibration loss, where some serve the one and some the other: both means
    /// keep their expectation.
    fn weights(&self, batch: &Batch) -> Option<[Tensor<1>; 2]> {
        let share = self.objective.calibration_share;
        // Outside training nothing is learned: every question counts for both.
        if share == 0.0 || batch.training.is_none() {
            return None;
        }
        let apart = |id: &String| (hash_name(0, id) as f64) < share * u64::MAX as f64;
        let weights = |of: fn(bool) -> bool, share: f64| {
            let one = |id| f64::from(u8::from(of(apart(id)))) / share;
            let values: Vec<f64> = batch.ids.iter().map(one).collect();
            Tensor::<1>::from_data(values.as_slice(), &batch.means.prompt.device())
        };
        Some([
            weights(|apart| !apart, 1.0 - share),
            weights(|apart| apart, share),
        ])
    }
}

impl Training for Mixture {
    fn adapter(&self) -> AdapterConfig {
        self.adapter.clone()
    }

    fn objective(&self, output: &LlamaOutput, batch: &Batch) -> Objective {
        let objective = &self.objective;
        let balance = load_balancing(
            &output.routing,
            &batch.means.tokens,
            objective.load_balancing,
        );
        let calibration = self.calibration(output, batch);
        let (answers, calibration) = match self.weights(batch) {
            None => (None, calibration.mean()),
            Some([answers, weights]) => (Some(answers), (calibration * weights).mean()),
        };
        let beta = calibration::beta(
            objective.calibration_weight,
            objective.calibration_warmup_steps,
            batch.training.map(|part| part.step),
        );
        Objective {
            terms: vec![
                term(objective.cross_entropy, output, batch, answers),
                Term {
                    name: "load_balancing_loss",
                    value: balance,
                    weight: objective.load_balancing_weight,
                },
                Term {
                    name: "calibration_loss",
                    value: calibration,
                    weight: beta,
                },
            ],
        }
    }

    fn routers_apart(&self) -> bool {
        self.objective.calibration_gradient == CalibrationGradient::Routers
    }
}

impl Method for Mixture {
    fn name(&self) -> &'static str {
        self.name
    }

    fn training(&self) -> &dyn Training {
        self
    }

    fn flu_tokens(&self) -> FluTokens {
        self.objective.flu_tokens
    }
}
