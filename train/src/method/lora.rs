//! Plain LoRA: the maximum a posteriori baseline.

use std::sync::Arc;

use data::Batch;
use model::AdapterConfig;

use super::{Entry, Method, Training, check_temperature};
use crate::config::{AdapterSection, AnswerTemperature, ObjectiveSection, RunConfig};
use crate::error::TrainError;
use crate::forward::Reading;
use crate::loss::Objective;
use crate::loss::choices::AnswerLoss;

/// Settings that decide the training of a plain LoRA.
pub(super) const TRAINS_WITH: &[&str] = &[
    "train",
    "adapter.from",
    "adapter.rank",
    "adapter.alpha",
    "adapter.dropout",
    "adapter.target_modules",
    "adapter.rank_pattern",
    "adapter.alpha_pattern",
    "adapter.use_rslora",
    "adapter.use_dora",
    "adapter.init_lora_weights",
    "objective.cross_entropy",
    "objective.choice_loss",
    "objective.label_smoothing",
    "objective.focal_gamma",
    "objective.mmce_weight",
];

/// The entry of `lora`, and what the methods that query its training have in common.
pub const ENTRY: Entry = Entry {
    name: "lora",
    about: "one LoRA adapter, cross-entropy",
    trained_as: |_| "lora",
    trains_with: &[TRAINS_WITH],
    asks_with: &["method.temperature"],
    ranges: &[],
    fixes: |_| {},
    construct: |config| {
        let lora = Lora::new(&config.adapter, &config.objective);
        Arc::new(Lora {
            temperature: config.method.temperature,
            ..lora
        })
    },
};

/// Refuses DoRA for a method whose noise is that of a plain LoRA: the norm of a changed row, and
/// the magnitudes, have no place in it.
///
/// # Errors
/// Settings with DoRA.
pub(super) fn refuse_dora(config: &RunConfig) -> Result<(), TrainError> {
    match config.adapter.use_dora {
        false => Ok(()),
        true => Err(TrainError::config(
            "adapter.use_dora",
            format!(
                "{} is defined for a plain LoRA: leave use_dora out, or use lora, mc_dropout, \
                 deep_ensemble, checkpoint_ensemble or spuq",
                config.method.name
            ),
        )),
    }
}

/// One LoRA, trained by cross-entropy and asked once.
#[derive(Debug)]
pub struct Lora {
    adapter: AdapterConfig,
    answer_loss: AnswerLoss,
    temperature: AnswerTemperature,
}

impl Lora {
    /// A LoRA of this shape, trained by this objective's cross-entropy.
    pub fn new(adapter: &AdapterSection, objective: &ObjectiveSection) -> Self {
        Self {
            adapter: AdapterConfig::Lora(adapter.lora()),
            answer_loss: objective.answer_loss(),
            temperature: AnswerTemperature::One,
        }
    }
}

impl Training for Lora {
    fn adapter(&self) -> AdapterConfig {
        self.adapter.clone()
    }

    fn objective(&self, reading: &Reading, batch: &Batch) -> Objective {
        Objective {
            terms: self.answer_loss.terms(reading, batch, None),
        }
    }
}

impl Method for Lora {
    fn name(&self) -> &'static str {
        "lora"
    }

    fn training(&self) -> &dyn Training {
        self
    }

    fn temperature(&self) -> AnswerTemperature {
        self.temperature
    }

    fn check(&self, config: &RunConfig) -> Result<(), TrainError> {
        check_temperature(config)
    }
}
