//! MC dropout (Gal and Ghahramani 2016): LoRA's dropout stays on at inference; the mean of several
//! passes' probabilities.

use std::sync::Arc;

use data::Batch;
use data::seed::mix;
use model::{AdapterConfig, DropoutSeed, Llama};

use super::lora::{self, Lora};
use super::{Entry, FitContext, Method, Predictor, Sample, Training, sample};
use crate::config::RunConfig;
use crate::config::ranges::Range;
use crate::error::TrainError;
use crate::functional_uncertainty::FluTokens;
use crate::prediction::Prediction;

/// The entry of `mc_dropout`.
pub const ENTRY: Entry = Entry {
    name: "mc_dropout",
    about: "LoRA with dropout at inference, several passes",
    asks_with: &["method.samples"],
    ranges: &[("method.samples", Range::Between(1, 10_000))],
    construct: |config| {
        let lora = Lora::new(&config.adapter, &config.objective);
        Arc::new(McDropout::new(
            lora,
            config.method.samples,
            config.train.seed,
        ))
    },
    ..lora::ENTRY
};

/// A LoRA that is asked several times, each time with other inputs dropped.
#[derive(Debug)]
pub struct McDropout {
    lora: Lora,
    samples: usize,
    seed: u64,
}

impl McDropout {
    /// `samples` passes over a LoRA, whose masks are drawn from `seed`.
    pub fn new(lora: Lora, samples: usize, seed: u64) -> Self {
        Self {
            lora,
            samples,
            seed,
        }
    }

    /// Refuses a LoRA without dropout.
    fn check_dropout(&self) -> Result<(), TrainError> {
        match self.lora.adapter() {
            AdapterConfig::Lora(lora) if lora.dropout > 0.0 => Ok(()),
            _ => Err(TrainError::config(
                "adapter.dropout",
                "mc_dropout needs a dropout above 0: all its passes would be the same",
            )),
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

    fn check(&self, _: &RunConfig) -> Result<(), TrainError> {
        self.check_dropout()
    }

    fn is_random(&self) -> bool {
        true
    }

    fn passes(&self) -> usize {
        self.samples
    }

    fn fit(&self, members: Vec<Llama>, _: &FitContext) -> Result<Box<dyn Predictor>, TrainError> {
        self.check_dropout()?;
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
