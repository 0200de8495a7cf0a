//! Checkpoint ensemble (Chen et al. 2017): adapters kept over the second half of one training,
//! probabilities averaged.

use std::sync::Arc;

use super::lora::{self, Lora};
use super::{Entry, Method, Training};
use crate::config::RunConfig;
use crate::error::TrainError;

/// The entry of `checkpoint_ensemble`.
pub const ENTRY: Entry = Entry {
    name: "checkpoint_ensemble",
    about: "adapters of the second half of one LoRA training, probabilities averaged",
    construct: |config| {
        let lora = Lora::new(&config.adapter, &config.objective);
        Arc::new(CheckpointEnsemble::new(lora, config.train.snapshots))
    },
    asks_with: &[],
    ..lora::ENTRY
};

/// The adapters that one LoRA training kept along the way.
#[derive(Debug)]
pub struct CheckpointEnsemble {
    lora: Lora,
    snapshots: usize,
}

impl CheckpointEnsemble {
    /// An ensemble of `snapshots` adapters of one LoRA training.
    pub fn new(lora: Lora, snapshots: usize) -> Self {
        Self { lora, snapshots }
    }
}

impl Method for CheckpointEnsemble {
    fn name(&self) -> &'static str {
        "checkpoint_ensemble"
    }

    fn training(&self) -> &dyn Training {
        &self.lora
    }

    fn check(&self, _: &RunConfig) -> Result<(), TrainError> {
        if self.snapshots == 0 {
            return Err(TrainError::config(
                "train.snapshots",
                "checkpoint_ensemble needs at least 1: they are its members",
            ));
        }
        Ok(())
    }

    fn uses_snapshots(&self) -> bool {
        true
    }

    fn passes(&self) -> usize {
        self.snapshots
    }
}
