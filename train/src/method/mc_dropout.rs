//! MC dropout (Gal and Ghahramani 2016): LoRA's dropout stays on at inference; the mean of several passes' probabilities.

use data::Batch;
use data::seed::mix;
use model::{AdapterConfig, DropoutSeed, Llama};

use super::lora::Lora;
use super::{FitContext, Method, Predictor, Sample, Training, sample};
use crate::config::RunConfig;
use crate::error::TrainError;
use crate::loss::calibration::FluTokens;
use crate::prediction::Prediction;

/// `mc_dropout`
#[derive(Debug)]
pub struct McDropout {
    lora: Lora,
    samples: usize,
    seed: u64,
}

impl McDropout {
    /// From a run's settings.
    pub fn new(config: &RunConfig) -> Self {
        Self {
            lora: Lora::new(config),
            samples: config.method.samples,
            seed: config.train.seed,
        }
    }
}

impl Method for McDropout {
    fn name(&self) -> &'static str {
        "mc_dropout"
    }

    fn training(&self) -> &dyn Training {
        &self.lora
    }

    fn passes(&self) -> usize {
        self.samples
    }

    fn fit(&self, members: Vec<Llama>, _: &FitContext) -> Result<Box<dyn Predictor>, TrainError> {
        let dropout = match self.lora.adapter() {
            AdapterConfig::Lora(lora) => lora.dropout,
            _ => 0.0,
        };
        if dropout == 0.0 {
            return Err(TrainError::config(
                "adapter.dropout",
                "mc_dropout needs a dropout above 0: all its passes would be the same",
            ));
        }
        Ok(Box::new(Stochastic {
            members,
            samples: self.samples,
            seed: self.seed,
        }))
    }
}

/// Passes with what is random in the adapter switched on; the seeds do not depend on the batch.
pub(super) struct Stochastic {
    pub(super) members: Vec<Llama>,
    pub(super) samples: usize,
    pub(super) seed: u64,
}

impl Predictor for Stochastic {
    fn predict(&self, batch: &Batch) -> Prediction {
        sample(self.samples(), batch, FluTokens::default())
    }

    fn samples(&self) -> Vec<Sample<'_>> {
        let seeds = (0..self.samples).map(|s| DropoutSeed::new(mix(self.seed, s as u64)));
        let of = |member| seeds.clone().map(move |seed| (member, seed));
        self.members.iter().flat_map(of).collect()
    }
}
