//! Training-free Bayesianization (Shi et al. 2025): noise on a trained LoRA, isotropic in the
//! directions of its update, as large as the training answers bear.
//!
//! With `B = U diag(s) V^T`, the update `B A` is written `(U diag(s)) (V^T A)`; row i of `V^T A`
//! gets noise of standard deviation `sigma / s_i`. Sigma is the largest whose answers to training
//! questions, taken as right, lose at most a small share of their log-likelihood. The public code
//! returns the smallest tried value that breaks that bound, and divides the loss by the number of
//! questions, which makes the bound as many times wider; here sigma is the largest that keeps it
//! undivided, as the paper has it.

use std::sync::Arc;

use burn::data::dataloader::DataLoader;
use burn::module::Param;
use burn::prelude::*;
use model::Llama;
use model::projection::LoraLinear;

use super::lora::{self, Lora};
use super::mc_dropout::Stochastic;
use super::{Entry, FitContext, Members, Method, Predictor, Training};
use crate::config::ranges::Range;
use crate::config::{RunConfig, TfbSection};
use crate::error::TrainError;
use crate::functional_uncertainty::FluTokens;
use crate::linear_algebra::{eigen, matrix, tensor};
use crate::prediction::ScoredRow;

/// The entry of `tfb`.
pub const ENTRY: Entry = Entry {
    name: "tfb",
    about: "training-free Bayesianization of LoRA: noise as large as its training answers bear",
    asks_with: &["method.samples", "method.tfb"],
    ranges: &[
        ("method.samples", Range::Between(1, 10_000)),
        ("method.tfb.questions", Range::AtLeastOne),
        ("method.tfb.trial_samples", Range::Between(1, 10_000)),
        ("method.tfb.trials", Range::Between(1, 10_000)),
        ("method.tfb.min_sigma", Range::Positive),
        ("method.tfb.tolerance", Range::NotNegative),
    ],
    construct: |config| {
        let lora = Lora::new(&config.adapter, &config.objective);
        let (method, seed) = (&config.method, config.train.seed);
        Arc::new(Tfb::new(lora, &method.tfb, method.samples, seed))
    },
    ..lora::ENTRY
};

/// A LoRA with noise on its update.
#[derive(Debug)]
pub struct Tfb {
    lora: Lora,
    settings: TfbSection,
    samples: usize,
    seed: u64,
}

impl Tfb {
    /// A LoRA that is asked `samples` times, with noise drawn from `seed`.
    pub fn new(lora: Lora, settings: &TfbSection, samples: usize, seed: u64) -> Self {
        Self {
            lora,
            settings: settings.clone(),
            samples,
            seed,
        }
    }
}

/// The same update as `(U diag(s)) (V^T A)` with the noise's scale for `sigma = 1`.
struct Rotated {
    lora: LoraLinear,
    /// `1 / (s_i + 1e-6)`, `[1, r]`
    scale: Tensor<2>,
}

impl Rotated {
    fn of(mut lora: LoraLinear) -> Result<Self, TrainError> {
        let b = lora.lora_b.val();
        let device = b.device();
        // B B^T = V diag(s^2) V^T in the layout `[r, d_out]`. The product in f64: small singular
        // values would drown in f32's rounding of the large ones' squares.
        let wide = matrix(b.clone());
        let (squares, vectors) = eigen(&(&wide * wide.transpose()))?;
        let v = tensor(&vectors, &device);
        let scale: Vec<f32> = squares
            .iter()
            .map(|square| (1.0 / (square.sqrt() + 1e-6)) as f32)
            .collect();
        let rank = scale.len();
        lora.lora_b = Param::from_tensor(v.clone().transpose().matmul(b));
        lora.lora_a = Param::from_tensor(lora.lora_a.val().matmul(v));
        Ok(Self {
            lora,
            scale: Tensor::from_data(TensorData::new(scale, [1, rank]), &device),
        })
    }

    /// G is the root of the standard deviation.
    fn with_sigma(&self, sigma: f64) -> LoraLinear {
        let shape = self.lora.lora_a.val().dims();
        let g = (self.scale.clone() * sigma).sqrt().expand(shape);
        let mut lora = self.lora.clone().without_dropout();
        lora.lora_g = Some(Param::from_tensor(g));
        lora
    }
}

/// A model whose updates are rotated once, and can then be given any sigma.
pub(crate) struct Bayesianized {
    llama: Llama,
    rotated: Vec<Rotated>,
}

impl Bayesianized {
    /// # Errors
    /// An adapter that holds values that are no numbers.
    pub(crate) fn of(llama: Llama) -> Result<Self, TrainError> {
        let mut rotated = Vec::new();
        let mut failed = None;
        let llama = llama.map_lora(|lora| {
            match Rotated::of(lora.clone()) {
                Ok(found) => rotated.push(found),
                Err(error) => failed = Some(error),
            }
            lora
        });
        match failed {
            Some(error) => Err(error),
            None => Ok(Self { llama, rotated }),
        }
    }

    pub(crate) fn with_sigma(&self, sigma: f64) -> Llama {
        let mut place = self.rotated.iter();
        self.llama.clone().map_lora(|lora| {
            place
                .next()
                .map_or(lora, |rotated| rotated.with_sigma(sigma))
        })
    }
}

/// Mean of `-log p(answer)`, where the answers are given by another set of rows.
fn pseudo_likelihood(rows: &[ScoredRow], answers: &[usize]) -> f64 {
    let sum: f64 = rows
        .iter()
        .zip(answers)
        .map(|(row, answer)| -row.probabilities[*answer].max(1e-12).ln())
        .sum();
    sum / rows.len() as f64
}

/// The largest value that `bears`, whose bound is monotone: `max`, or what `trials` halvings of
/// `[log min, log max]` find; 0 if none does. In the logarithm, since what an adapter bears differs
/// by orders of magnitude with its size.
pub(crate) fn largest<E>(
    (min, max): (f64, f64),
    trials: usize,
    mut bears: impl FnMut(f64) -> Result<bool, E>,
) -> Result<f64, E> {
    if bears(max)? {
        return Ok(max);
    }
    let (mut low, mut high) = (min, max);
    let mut found = 0.0;
    for _ in 1..trials {
        let middle = (low * high).sqrt();
        if bears(middle)? {
            (low, found) = (middle, middle);
        } else {
            high = middle;
        }
    }
    if found == 0.0 && bears(min)? {
        found = min;
    }
    Ok(found)
}

impl Method for Tfb {
    fn name(&self) -> &'static str {
        "tfb"
    }

    fn training(&self) -> &dyn Training {
        &self.lora
    }

    /// An empty interval would be searched from the wrong end.
    fn check(&self, config: &RunConfig) -> Result<(), TrainError> {
        lora::refuse_dora(config)?;
        let width = self.settings.max_sigma - self.settings.min_sigma;
        let key = "method.tfb.max_sigma - method.tfb.min_sigma";
        Range::Positive.check(key, width)
    }

    fn is_random(&self) -> bool {
        true
    }

    fn passes(&self) -> usize {
        self.samples
    }

    fn fit_passes(&self) -> usize {
        1 + self.settings.trials * self.settings.trial_samples
    }

    fn fit_questions(&self) -> usize {
        self.settings.questions
    }

    fn fit(
        &self,
        members: Vec<Llama>,
        context: &FitContext,
    ) -> Result<Box<dyn Predictor>, TrainError> {
        let fitted: Vec<Llama> = members
            .into_iter()
            .map(|member| self.bayesianize(member, context))
            .collect::<Result<_, _>>()?;
        Ok(Box::new(Stochastic {
            members: fitted,
            samples: self.samples,
            seed: self.seed,
        }))
    }
}

impl Tfb {
    fn bayesianize(&self, llama: Llama, context: &FitContext) -> Result<Llama, TrainError> {
        let settings = &self.settings;
        let total = context.questions.len() * (1 + settings.trials * settings.trial_samples);
        let done = std::cell::Cell::new(0);
        let score = |predictor: &dyn Predictor| -> Result<Vec<ScoredRow>, TrainError> {
            let mut rows = Vec::new();
            for batch in context.loader(context.batch_tokens).iter() {
                let batch = batch.map_err(|e| TrainError::Training(e.to_string()))?;
                rows.extend(predictor.predict(&batch).rows(&batch)?);
                done.set(done.get() + batch.len() * predictor.forward_passes());
                context.report(done.get(), total)?;
            }
            Ok(rows)
        };
        let plain = score(&Members::new(vec![llama.clone()], FluTokens::default()))?;
        let answers: Vec<usize> = plain.iter().map(ScoredRow::prediction).collect();
        let bound = pseudo_likelihood(&plain, &answers) * (1.0 + settings.tolerance);
        let bayesianized = Bayesianized::of(llama)?;
        let sigma = largest(
            (settings.min_sigma, settings.max_sigma),
            settings.trials,
            |sigma| {
                let rows = score(&Stochastic {
                    members: vec![bayesianized.with_sigma(sigma)],
                    samples: settings.trial_samples,
                    seed: context.seed,
                })?;
                Ok::<_, TrainError>(pseudo_likelihood(&rows, &answers) <= bound)
            },
        )?;
        tracing::info!("tfb: sigma = {sigma}");
        if sigma == 0.0 {
            tracing::warn!(
                "tfb: not even sigma = {} keeps the answers within {}: the run answers without noise, as {} does",
                settings.min_sigma,
                settings.tolerance,
                self.lora.name()
            );
        }
        Ok(bayesianized.with_sigma(sigma))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_bearable_value_keeps_the_bound() {
        let find =
            |limit: f64| largest((1e-4, 1.0), 8, |sigma| Ok::<_, ()>(sigma <= limit)).unwrap();
        assert_eq!(find(2.0), 1.0);
        assert_eq!(find(-1.0), 0.0);
        for limit in [0.3, 1e-3] {
            let found = find(limit);
            assert!(found <= limit && found > 0.9 * limit, "{found}");
        }
    }
}
