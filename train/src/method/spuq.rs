//! SPUQ (Gao et al. 2024) for multiple choice: each question is asked in several wordings, and the answers' probabilities are
//! averaged, weighted by the wordings' likeness to the original (ROUGE-L). The public code has another model paraphrase; here the
//! wordings are made offline, by rule (`data::prompt::perturbations`).

use data::Batch;
use model::{AdapterConfig, LlamaOutput};

use super::Method;
use super::lora::Lora;
use crate::config::RunConfig;
use crate::loss::Objective;

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

    fn adapter(&self) -> AdapterConfig {
        self.lora.adapter()
    }

    fn perturbations(&self) -> usize {
        self.perturbations
    }

    fn objective(&self, output: &LlamaOutput, batch: &Batch) -> Objective {
        self.lora.objective(output, batch)
    }
}
