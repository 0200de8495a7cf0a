//! Deep ensemble (Lakshminarayanan et al. 2017): separate trainings from seeds one after another,
//! probabilities averaged.

use std::sync::Arc;

use super::lora::{self, Lora};
use super::{Entry, Method, Training};
use crate::config::ranges::Range;

/// The entry of `deep_ensemble`.
pub const ENTRY: Entry = Entry {
    name: "deep_ensemble",
    about: "several LoRA trainings, probabilities averaged",
    asks_with: &["method.members"],
    ranges: &[("method.members", Range::Between(1, 1000))],
    construct: |config| {
        let lora = Lora::new(&config.adapter, &config.objective);
        Arc::new(DeepEnsemble::new(lora, config.method.members))
    },
    ..lora::ENTRY
};

/// Several LoRA trainings, each from a seed of its own.
#[derive(Debug)]
pub struct DeepEnsemble {
    lora: Lora,
    members: usize,
}

impl DeepEnsemble {
    /// An ensemble of `members` LoRA trainings.
    pub fn new(lora: Lora, members: usize) -> Self {
        Self { lora, members }
    }
}

impl Method for DeepEnsemble {
    fn name(&self) -> &'static str {
        "deep_ensemble"
    }

    fn training(&self) -> &dyn Training {
        &self.lora
    }

    fn members(&self) -> usize {
        self.members
    }
}
