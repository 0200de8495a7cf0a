//! What a run takes of a device: time, memory, and the training pass that fits.

use burn::prelude::*;
use data::EncodedQuestion;

use super::Prepared;
use crate::config::RunConfig;
use crate::error::TrainError;
use crate::estimate::{Besides, Kept, OneTraining, PassMemory, RunEstimate, estimate};
use crate::pace::{Pace, bootstrap_seconds};
use crate::passes::{self, Fitting};
use crate::registry;

impl Prepared {
    /// The size of the run on a device.
    ///
    /// # Errors
    /// An unknown method.
    pub fn estimate(
        &self,
        config: &RunConfig,
        device: &Device,
        pace: &Pace,
    ) -> Result<RunEstimate, TrainError> {
        let method = registry::build(config)?;
        let adapter = method.adapter();
        let tokens = |rows: &[EncodedQuestion]| rows.iter().map(|q| q.length()).sum::<usize>();
        let fitted = method.fit_questions().min(self.train.len());
        let mean = tokens(&self.train) as f64 / self.train.len().max(1) as f64;
        let monitored = self.held_out.len().min(config.data.monitor_limit);
        // Figures of base and tuned model on both sets, and those after calibration on test.
        let bootstraps =
            |questions: usize, times: f64| times * bootstrap_seconds(config, questions);
        let besides = Besides {
            trainings: method.members(),
            passes: method.passes() * (1 + method.perturbations()),
            fit_tokens: fitted as f64 * mean * method.fit_passes() as f64,
            monitored_tokens: tokens(&self.held_out[..monitored]),
            bootstrap_seconds: bootstraps(self.held_out.len(), 2.0)
                + bootstraps(self.test.len(), 5.0),
        };
        let training = OneTraining {
            model: &self.model,
            adapter: &adapter,
            schedule: &config.train.schedule(),
            questions: &self.train,
            weight_bytes: config.model.dtype.bytes(),
            kept: Kept::of(config, model::fused::serves(device)),
        };
        let scored = [&*self.held_out, &self.test];
        Ok(estimate(training, &scored, pace, &besides))
    }

    /// The training pass that fits into so many free bytes of a graphics card, on rows of up to
    /// `longest` tokens.
    ///
    /// # Errors
    /// Settings that no method takes.
    pub fn pass_tokens(
        &self,
        config: &RunConfig,
        free: u64,
        longest: usize,
    ) -> Result<Fitting, TrainError> {
        let adapter = registry::build(config)?.adapter();
        let schedule = config.train.schedule();
        let (rows, kept) = (schedule.micro_batch, Kept::of(config, false));
        let memory = PassMemory::new(&self.model, &adapter, rows, longest, kept);
        Ok(passes::trained(
            free,
            &self.model,
            config.model.dtype.bytes(),
            memory,
        ))
    }

    /// How fast a device is at a run on these questions: measured on a processor, assumed of so
    /// many cores elsewhere.
    ///
    /// # Errors
    /// As [`Pace::measured`].
    pub fn pace(
        &self,
        config: &RunConfig,
        device: &Device,
        cores: usize,
    ) -> Result<Pace, TrainError> {
        if *device != Device::flex() {
            return Ok(Pace::assumed(cores));
        }
        let known = [&*self.train, &self.held_out, &self.test];
        let mut lengths: Vec<usize> = known.into_iter().flatten().map(|q| q.length()).collect();
        lengths.sort_unstable();
        let middle = lengths.get(lengths.len() / 2).copied().unwrap_or(1);
        // An adapter of some layers alone may have no place in the first: then nothing is measured.
        Ok(Pace::measured(config, &self.model, middle, device)
            .unwrap_or_else(|_| Pace::assumed(cores)))
    }
}
