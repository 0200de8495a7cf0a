//! Answers from the Gaussian around an adapter: a question's logits are `N(f, J P^-1 J^T)`.

use std::f64::consts::PI;

use burn::prelude::*;
use data::Batch;
use data::seed::mix;
use faer::Mat;
use model::dropout::normal;

use super::jacobian::{Probed, batch_tokens, class_passes, place_jacobians};
use super::posterior::Posterior;
use crate::config::{LaplaceSection, Predictive};
use crate::linear_algebra::{cholesky, values};
use crate::method::Predictor;
use crate::prediction::Prediction;

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
    fn logits_and_covariance(&self, batch: &Batch) -> (Tensor<2>, Vec<f64>) {
        let batch = self.probed.on_device(batch, &self.device);
        let (first, others) = class_passes(&self.probed, &batch);
        let mut sum: Option<Tensor<3>> = None;
        for (place, blocks) in self.posterior.blocks.chunks(2).enumerate() {
            let found = place_jacobians(&first, &others, place, batch.input.tokens.dims());
            for ((block, jacobian), prior) in blocks.iter().zip(found).zip(self.posterior.priors) {
                let more = block.covariance(jacobian, prior);
                sum = Some(match sum {
                    Some(sum) => sum + more,
                    None => more,
                });
            }
        }
        (first.logits, values(sum.expect("an adapted layer")))
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
        let noise: Vec<Vec<f32>> = (0..rows)
            .map(|row| {
                let n = batch.choices.counts[row];
                // A covariance that is no number shows in the samples, which `Prediction::rows`
                // refuses.
                let lower = cholesky(&self.covariance(covariance, row, batch))
                    .unwrap_or_else(|_| Mat::from_fn(n, n, |_, _| f64::NAN));
                let seed = mix(self.seed, stream(&batch.ids[row]));
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
        let (logits, covariance) = self.logits_and_covariance(batch);
        let samples = match self.settings.predictive {
            Predictive::Probit => self.probit(logits, &covariance, batch),
            Predictive::Sampled => self.sampled(logits, &covariance, batch),
        };
        Prediction {
            choice_logits: samples,
            written_right: None,
            flu: None,
        }
    }

    fn forward_passes(&self) -> usize {
        let (layers, once) = (self.probed.llama.layers(), self.probed.first_layer);
        (once + 3 * self.choices * (layers - once)).div_ceil(layers)
    }

    fn batch_tokens(&self, set: usize) -> usize {
        batch_tokens(self.settings.layers, set)
    }
}

/// A question's own stream of random numbers, whatever batch it comes in: FNV-1a of its name.
/// Recorded answers were drawn from it, so it stays beside `hash_name`.
fn stream(id: &str) -> u64 {
    id.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
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
