//! Checkpoint ensemble (Chen et al. 2017): adapters kept over the second half of one training, probabilities averaged.

use data::Batch;
use model::{AdapterConfig, LlamaOutput};

use super::Method;
use super::lora::Lora;
use crate::config::RunConfig;
use crate::loss::Objective;

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

    fn adapter(&self) -> AdapterConfig {
        self.lora.adapter()
    }

    fn uses_snapshots(&self) -> bool {
        true
    }

    fn passes(&self) -> usize {
        self.snapshots
    }

    fn objective(&self, output: &LlamaOutput, batch: &Batch) -> Objective {
        self.lora.objective(output, batch)
    }
}
