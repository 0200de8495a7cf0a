//! Answers from the Gaussian around an adapter: a question's logits are `N(f, J P^-1 J^T)`.

use std::f64::consts::PI;

use burn::data::dataloader::DataLoader;
use burn::prelude::*;
use burn::tensor::activation::softmax;
use data::Batch;
use data::batch::BatchInput;
use data::seed::mix;
use faer::Mat;
use model::dropout::normal;

use super::jacobian::{Probed, batch_tokens, class_passes, place_jacobians};
use super::posterior::{Posterior, leverage};
use crate::config::{LaplaceSection, Predictive};
use crate::error::TrainError;
use crate::linear_algebra::{cholesky, values};
use crate::method::{FitContext, Predictor};
use crate::metric::negative_log_likelihood;
use crate::prediction::Prediction;

/// Most training questions whose leverage is told.
const LEVERAGES: usize = 32;

/// A model that answers from the Gaussian around its adapter, linearised.
pub(super) struct Linearised {
    pub(super) probed: Probed,
    pub(super) posterior: Posterior,
    pub(super) settings: LaplaceSection,
    pub(super) device: Device,
    pub(super) seed: u64,
    /// Most choices of a question, for the count of passes.
    pub(super) choices: usize,
}

impl Linearised {
    /// The logits, and `J P^-1 J^T` on the host: `[batch][choices * choices]`. One place's
    /// Jacobians are held at a time: those of all are as large as the adapter, for every question
    /// and choice.
    ///
    /// Several factors multiply the prior's precisions; each has a covariance of its own.
    fn logits_and_covariances(&self, batch: &Batch, factors: &[f64]) -> (Tensor<2>, Vec<Vec<f64>>) {
        let batch = self.probed.on_device(batch, &self.device);
        let (first, others) = class_passes(&self.probed, &batch);
        let mut sums: Vec<Tensor<3>> = Vec::new();
        for (place, blocks) in self.posterior.blocks.chunks(2).enumerate() {
            let found = place_jacobians(&first, &others, place, batch.input.tokens.dims());
            for ((block, jacobian), prior) in blocks.iter().zip(found).zip(self.posterior.priors) {
                let priors: Vec<f64> = factors.iter().map(|factor| factor * prior).collect();
                let more = block.covariances(jacobian, &priors);
                sums = match sums.is_empty() {
                    true => more,
                    false => sums.into_iter().zip(more).map(|(a, b)| a + b).collect(),
                };
            }
        }
        (first.logits, sums.into_iter().map(values).collect())
    }

    /// Multiplies the prior's precisions by the factor under which the held-out answers are
    /// likeliest.
    ///
    /// # Errors
    /// No held-out question, a stop on request, or answers that are no numbers.
    pub(super) fn choose_prior(&mut self, context: &FitContext) -> Result<(), TrainError> {
        if context.held_out.is_empty() {
            return Err(TrainError::config(
                "method.laplace.prior_from",
                "the run has no held-out questions: choose evidence, or raise data.held_out_limit",
            ));
        }
        let factors = factors();
        let mut losses = vec![0.0; factors.len()];
        let loader = context.loader_of(context.held_out, self.batch_tokens(context.batch_tokens));
        let mut done = context.questions.len();
        for batch in loader.iter() {
            let batch = batch.map_err(|e| TrainError::Training(e.to_string()))?;
            let (logits, covariances) = self.logits_and_covariances(&batch, &factors);
            for (loss, covariance) in losses.iter_mut().zip(covariances) {
                let rows = self
                    .answer(logits.clone(), &covariance, &batch)
                    .rows(&batch)?;
                *loss += rows.iter().map(negative_log_likelihood).sum::<f64>();
            }
            done += batch.len();
            context.report(done, self.settings.fit_questions(context))?;
        }
        let count = context.held_out.len() as f64;
        let best = (0..factors.len())
            .min_by(|i, j| losses[*i].total_cmp(&losses[*j]))
            .unwrap_or(0);
        let from = self.posterior.priors;
        self.posterior.priors = from.map(|prior| prior * factors[best]);
        let [a, b] = self.posterior.priors;
        tracing::info!(
            "laplace: held-out NLL {:.4} at prior precision {a:.4e} of A, {b:.4e} of B ({:e} times \
             the evidence's); {:.1} effective parameters",
            losses[best] / count,
            factors[best],
            self.posterior.effective_parameters(self.posterior.priors)
        );
        Ok(())
    }

    /// Says how many parameters single training questions determine, beside what the exact
    /// posterior allows, see [`Posterior::leverage`].
    ///
    /// # Errors
    /// A stop on request, or logits that are no numbers.
    pub(super) fn tell_leverage(&self, context: &FitContext) -> Result<(), TrainError> {
        // Spread over all: neighbours in a file may be alike.
        let apart = context.questions.len().div_ceil(LEVERAGES).max(1);
        let some: Vec<_> = context.questions.iter().step_by(apart).cloned().collect();
        let loader = context.loader_of(&some, self.batch_tokens(context.batch_tokens));
        if some.is_empty() {
            return Ok(());
        }
        let (mut found, mut over) = (Vec::new(), 0);
        for batch in loader.iter() {
            let batch = batch.map_err(|e| TrainError::Training(e.to_string()))?;
            let (logits, covariances) = self.logits_and_covariances(&batch, &[1.0]);
            let all: Vec<f64> = values(softmax(logits, 1));
            for (row, p) in all.chunks(batch.choices.dims()[1]).enumerate() {
                let own = self.covariance(&covariances[0], row, &batch);
                let n = own.nrows();
                let one = leverage(&p[..n], |i, j| own[(i, j)]);
                if !one.is_finite() {
                    return Err(TrainError::not_finite(&batch.ids[row]));
                }
                over += usize::from(one > (n - 1) as f64);
                found.push(one);
            }
            let done = self.settings.fit_questions(context);
            context.report(done, done)?;
        }
        let count = found.len();
        tracing::info!(
            "laplace: leverage of {count} training questions: {:.3} on the mean, {:.3} at most; {over} \
             above the bound, the number of choices less one. Scaled to all training questions: {:.1} \
             effective parameters",
            found.iter().sum::<f64>() / count as f64,
            found.iter().copied().fold(0.0, f64::max),
            found.iter().sum::<f64>() / count as f64 * context.all_questions as f64,
        );
        Ok(())
    }

    /// The answers of logits with this covariance.
    fn answer(&self, logits: Tensor<2>, covariance: &[f64], batch: &Batch) -> Prediction {
        let samples = match self.settings.predictive {
            Predictive::Probit => self.probit(logits, covariance, batch),
            Predictive::Sampled => self.sampled(logits, covariance, batch),
        };
        Prediction {
            choice_logits: samples,
            written_right: None,
            flu: None,
        }
    }

    /// The covariance of one question's own choices. The jitter follows the scale, for the sums are
    /// of f32.
    fn covariance(&self, all: &[f64], row: usize, batch: &Batch) -> Mat<f64> {
        let choices = batch.choices.dims()[1];
        let own = &all[row * choices * choices..(row + 1) * choices * choices];
        let n = batch.choices.counts[row];
        let trace: f64 = (0..n).map(|i| own[i * choices + i]).sum();
        let jitter = 1e-6 * (1.0 + trace / n as f64);
        Mat::from_fn(n, n, |i, j| {
            own[i * choices + j] + if i == j { jitter } else { 0.0 }
        })
    }

    /// `f / sqrt(1 + pi / 8 var)` of every choice, `[1, batch, choices]`.
    fn probit(&self, logits: Tensor<2>, covariance: &[f64], batch: &Batch) -> Tensor<3> {
        let [rows, choices] = logits.dims();
        let scale: Vec<f32> = (0..rows * choices)
            .map(|i| {
                let (row, choice) = (i / choices, i % choices);
                let variance = match choice < batch.choices.counts[row] {
                    true => self.covariance(covariance, row, batch)[(choice, choice)],
                    false => 0.0,
                };
                (1.0 + PI / 8.0 * variance).sqrt().recip() as f32
            })
            .collect();
        let scale = Tensor::from_data(TensorData::new(scale, [rows, choices]), &logits.device());
        (logits * scale).unsqueeze_dim(0)
    }

    /// Samples of every question's logits, `[samples, batch, choices]`.
    fn sampled(&self, logits: Tensor<2>, covariance: &[f64], batch: &Batch) -> Tensor<3> {
        let [rows, choices] = logits.dims();
        let samples = self.settings.samples;
        let streams = streams(&batch.input);
        let noise: Vec<Vec<f32>> = (0..rows)
            .map(|row| {
                let n = batch.choices.counts[row];
                // A covariance that is no number shows in the samples, which `Prediction::rows`
                // refuses.
                let lower = cholesky(&self.covariance(covariance, row, batch))
                    .unwrap_or_else(|_| Mat::from_fn(n, n, |_, _| f64::NAN));
                let seed = mix(self.seed, streams[row]);
                draw(&lower, choices, samples, seed)
            })
            .collect();
        let mut all: Vec<f32> = Vec::with_capacity(samples * rows * choices);
        for sample in 0..samples {
            for row in &noise {
                all.extend(&row[sample * choices..(sample + 1) * choices]);
            }
        }
        let shape = [samples, rows, choices];
        let noise = Tensor::<3>::from_data(TensorData::new(all, shape), &logits.device());
        logits.unsqueeze_dim::<3>(0) + noise
    }
}

impl Predictor for Linearised {
    fn predict(&self, batch: &Batch) -> Prediction {
        let (logits, covariances) = self.logits_and_covariances(batch, &[1.0]);
        self.answer(logits, &covariances[0], batch)
    }

    fn forward_passes(&self) -> usize {
        let (layers, once) = (self.probed.llama.layers(), self.probed.first_layer);
        (once + 3 * self.choices * (layers - once)).div_ceil(layers)
    }

    fn batch_tokens(&self, set: usize) -> usize {
        batch_tokens(self.settings.layers, set)
    }
}

/// What the evidence's precisions are multiplied by: half decades, from a hundredth to where the
/// posterior is as good as a point.
pub(super) fn factors() -> Vec<f64> {
    (-4..=12)
        .map(|half| 10f64.powf(f64::from(half) / 2.0))
        .collect()
}

/// Each question's own stream of random numbers, whatever batch it comes in and whatever it is
/// called there: FNV-1a of the tokens that the model reads.
fn streams(input: &BatchInput) -> Vec<u64> {
    let [rows, sequence] = input.tokens.dims();
    let read = |values: &Tensor<2, Int>| -> Vec<i64> {
        let data = values.clone().into_data();
        data.iter::<i64>().collect()
    };
    let [tokens, branches, segments] = [&input.tokens, &input.branches, &input.segments].map(read);
    let stream = |row: usize| {
        let places = row * sequence..(row + 1) * sequence;
        places
            .filter(|place| segments[*place] > 0)
            .flat_map(|place| [tokens[place], branches[place]])
            .flat_map(i64::to_le_bytes)
            .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
            })
    };
    (0..rows).map(stream).collect()
}

/// Samples of `N(0, L L^T)`, one after another, each filled up with zeros to `width`.
fn draw(lower: &Mat<f64>, width: usize, samples: usize, seed: u64) -> Vec<f32> {
    let n = lower.nrows();
    let standard = normal(samples * n, seed);
    let mut all = vec![0f32; samples * width];
    for (z, sample) in standard.chunks(n).zip(all.chunks_mut(width)) {
        for (i, value) in sample.iter_mut().take(n).enumerate() {
            *value = (0..=i)
                .map(|j| lower[(i, j)] * f64::from(z[j]))
                .sum::<f64>() as f32;
        }
    }
    all
}
