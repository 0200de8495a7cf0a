//! Checkpoint ensemble (Chen et al. 2017): adapters kept over the second half of one training, probabilities averaged.

use super::lora::Lora;
use super::{Method, Training};
use crate::config::RunConfig;

/// `checkpoint_ensemble`
#[derive(Debug)]
pub struct CheckpointEnsemble {
    lora: Lora,
    snapshots: usize,
}

impl CheckpointEnsemble {
    /// From a run's settings.
    pub fn new(config: &RunConfig) -> Self {
        Self {
            lora: Lora::new(config),
            snapshots: config.train.snapshots,
        }
    }
}

impl Method for CheckpointEnsemble {
    fn name(&self) -> &'static str {
        "checkpoint_ensemble"
    }

    fn training(&self) -> &dyn Training {
        &self.lora
    }

    fn uses_snapshots(&self) -> bool {
        true
    }

    fn passes(&self) -> usize {
        self.snapshots
    }
}
