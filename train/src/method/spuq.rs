//! SPUQ (Gao et al. 2024) for multiple choice: each question is asked in several wordings, and the answers' probabilities are
//! averaged, weighted by the wordings' likeness to the original (ROUGE-L). The public code has another model paraphrase; here the
//! wordings are made offline, by rule (`data::prompt::perturbations`).

use super::lora::Lora;
use super::{Method, Training};
use crate::config::RunConfig;

/// `spuq`
#[derive(Debug)]
pub struct Spuq {
    lora: Lora,
    perturbations: usize,
}

impl Spuq {
    /// From a run's settings.
    pub fn new(config: &RunConfig) -> Self {
        Self {
            lora: Lora::new(config),
            perturbations: config.method.perturbations,
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
