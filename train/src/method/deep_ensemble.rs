//! Deep ensemble (Lakshminarayanan et al. 2017): separate trainings from seeds one after another, probabilities averaged.

use data::Batch;
use model::{AdapterConfig, LlamaOutput};

use super::Method;
use super::lora::Lora;
use crate::config::RunConfig;
use crate::loss::Objective;

/// `deep_ensemble`
#[derive(Debug)]
pub struct DeepEnsemble {
    lora: Lora,
    members: usize,
}

impl DeepEnsemble {
    /// From a run's settings.
    pub fn new(config: &RunConfig) -> Self {
        Self {
            lora: Lora::new(config),
            members: config.method.members,
        }
    }
}

impl Method for DeepEnsemble {
    fn name(&self) -> &'static str {
        "deep_ensemble"
    }

    fn adapter(&self) -> AdapterConfig {
        self.lora.adapter()
    }

    fn members(&self) -> usize {
        self.members
    }

    fn objective(&self, output: &LlamaOutput, batch: &Batch) -> Objective {
        self.lora.objective(output, batch)
    }
}
