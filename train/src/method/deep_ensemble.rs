//! Deep ensemble (Lakshminarayanan et al. 2017): separate trainings from seeds one after another, probabilities averaged.

use super::lora::Lora;
use super::{Method, Training};
use crate::config::RunConfig;

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

    fn training(&self) -> &dyn Training {
        &self.lora
    }

    fn members(&self) -> usize {
        self.members
    }
}
