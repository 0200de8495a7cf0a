//! SPUQ (Gao et al. 2024) for multiple choice: each question is asked in several wordings, and the
//! answers' probabilities are averaged, weighted by the wordings' likeness to the original
//! (ROUGE-L). The public code has another model paraphrase; here the wordings are made offline, by
//! rule (`data::perturbation::perturbations`).

use std::sync::Arc;

use super::lora::{self, Lora};
use super::{Entry, Method, Training};

/// The entry of `spuq`.
pub const ENTRY: Entry = Entry {
    name: "spuq",
    about: "LoRA asked in several wordings, weighted by their likeness",
    asks_with: &["method.perturbations"],
    construct: |config| {
        let lora = Lora::new(&config.adapter, &config.objective);
        Arc::new(Spuq::new(lora, config.method.perturbations))
    },
    ..lora::ENTRY
};

/// A LoRA that is asked each question in several wordings.
#[derive(Debug)]
pub struct Spuq {
    lora: Lora,
    perturbations: usize,
}

impl Spuq {
    /// A LoRA that is asked in `perturbations` wordings beside the original.
    pub fn new(lora: Lora, perturbations: usize) -> Self {
        Self {
            lora,
            perturbations,
        }
    }
}

impl Method for Spuq {
    fn name(&self) -> &'static str {
        "spuq"
    }

    fn training(&self) -> &dyn Training {
        &self.lora
    }

    fn perturbations(&self) -> usize {
        self.perturbations
    }
}
