//! MixLoRA and UQ4CT: the same mixture, without and with the calibration loss (Eq. 14).

use std::sync::Arc;

use burn::prelude::*;
use data::Batch;
use data::seed::hash_name;
use model::AdapterConfig;

use super::{Entry, Method, Training, check_temperature};
use crate::config::{AdapterSection, AnswerTemperature, ObjectiveSection, RunConfig};
use crate::error::TrainError;
use crate::forward::Reading;
use crate::functional_uncertainty::{FluTokens, functional_uncertainty};
use crate::linear_algebra::one_hot;
use crate::loss::calibration::{
    self, CalibratedAnswers, CalibrationGradient, Correctness, calibration_loss,
};
use crate::loss::load_balancing::load_balancing;
use crate::loss::{Objective, Term, cross_entropy};

/// The entry of `mixlora`.
pub const MIXLORA: Entry = Entry {
    name: "mixlora",
    about: "a mixture of LoRA experts, cross-entropy and load balancing",
    trained_as: |_| "mixlora",
    trains_with: &[&[
        "train",
        "adapter",
        "objective.cross_entropy",
        "objective.choice_loss",
        "objective.label_smoothing",
        "objective.focal_gamma",
        "objective.mmce_weight",
        "objective.load_balancing",
        "objective.load_balancing_weight",
        "objective.flu_tokens",
    ]],
    asks_with: &["method.temperature"],
    ranges: &[],
    fixes: |config| config.objective.calibration_weight = 0.0,
    construct: |config| {
        let mixture = Mixture::mixlora(&config.adapter, &config.objective);
        Arc::new(mixture.asked_at(config.method.temperature))
    },
};

/// The entry of `uq4ct`.
pub const UQ4CT: Entry = Entry {
    name: "uq4ct",
    about: "a mixture of LoRA experts whose routers are trained to state the probability of being right",
    trained_as: |config| match is_calibrated(&config.objective) {
        true => "uq4ct",
        false => "mixlora",
    },
    trains_with: &[&["train", "adapter", "objective"]],
    fixes: |_| {},
    construct: |config| {
        let mixture = Mixture::uq4ct(&config.adapter, &config.objective);
        Arc::new(mixture.asked_at(config.method.temperature))
    },
    ..MIXLORA
};

/// UQ4CT without the calibration loss is MixLoRA, whatever that loss would have been; but questions
/// set apart for it are not learned.
fn is_calibrated(objective: &ObjectiveSection) -> bool {
    objective.calibration_weight != 0.0 || objective.calibration_share != 0.0
}

/// A mixture of LoRA experts: `mixlora` and `uq4ct`.
#[derive(Debug)]
pub struct Mixture {
    name: &'static str,
    adapter: AdapterConfig,
    objective: ObjectiveSection,
    temperature: AnswerTemperature,
}

impl Mixture {
    /// UQ4CT: the weight beta of the calibration loss is the objective's.
    pub fn uq4ct(adapter: &AdapterSection, objective: &ObjectiveSection) -> Self {
        Self {
            name: UQ4CT.name,
            adapter: AdapterConfig::MixLora(adapter.mixture()),
            objective: objective.clone(),
            temperature: AnswerTemperature::One,
        }
    }

    /// MixLoRA: beta is 0.
    pub fn mixlora(adapter: &AdapterSection, objective: &ObjectiveSection) -> Self {
        let mut mixture = Self::uq4ct(adapter, objective);
        mixture.objective.calibration_weight = 0.0;
        Self {
            name: MIXLORA.name,
            ..mixture
        }
    }

    /// The same mixture, whose choices' scores are divided by this temperature.
    fn asked_at(self, temperature: AnswerTemperature) -> Self {
        Self {
            temperature,
            ..self
        }
    }

    /// Whether each question is right in this very forward pass (Eq. 13), `[batch]`, in `[0, 1]`.
    fn right(&self, reading: &Reading, batch: &Batch) -> Tensor<1> {
        match self.objective.correctness {
            Correctness::Choices if !batch.answers.written => {
                reading.choice_is_right(batch).float()
            }
            Correctness::Soft if !batch.answers.written => {
                let logits = reading.choice_logits.clone();
                cross_entropy::choices(logits, batch.answers.index.clone())
                    .neg()
                    .exp()
            }
            _ => reading.tokens_are_right(batch).float(),
        }
    }

    /// The calibration loss of each question, `[batch]`.
    fn calibration(&self, reading: &Reading, batch: &Batch) -> Tensor<1> {
        match (&self.objective.calibrated, &batch.means.choices) {
            (CalibratedAnswers::Choices, Some(choice_mean)) => {
                let [questions, choices] = batch.choices.dims();
                let flu = functional_uncertainty(&reading.routing, choice_mean);
                let right = one_hot(batch.answers.index.clone().unsqueeze_dim(1), choices);
                let loss = calibration_loss(flu, right.flatten(0, 1));
                // The mean over the choices that are there.
                let there = batch.choices.missing.clone().bool_not().float();
                let sum: Tensor<2> =
                    (loss.reshape([questions, choices]) * there.clone()).sum_dim(1);
                (sum / there.sum_dim(1)).squeeze_dim(1)
            }
            _ => {
                let flu = reading.flu.clone().expect("a mixture has routers");
                calibration_loss(flu, self.right(reading, batch))
            }
        }
    }

    /// The questions' weights in the cross-entropy and in the calibration loss, where some serve
    /// the one and some the other: both means keep their expectation.
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

    fn objective(&self, reading: &Reading, batch: &Batch) -> Objective {
        let objective = &self.objective;
        let balance = load_balancing(
            &reading.routing,
            &batch.means.tokens,
            objective.load_balancing,
        );
        let calibration = self.calibration(reading, batch);
        let (answers, calibration) = match self.weights(batch) {
            None => (None, calibration.mean()),
            Some([answers, weights]) => (Some(answers), (calibration * weights).mean()),
        };
        let beta = calibration::beta(
            objective.calibration_weight,
            objective.calibration_warmup_steps,
            batch.training.map(|part| part.step),
        );
        let mut terms = objective.answer_loss().terms(reading, batch, answers);
        terms.extend([
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
        ]);
        Objective { terms }
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

    fn temperature(&self) -> AnswerTemperature {
        self.temperature
    }

    fn check(&self, config: &RunConfig) -> Result<(), TrainError> {
        check_temperature(config)
    }
}
