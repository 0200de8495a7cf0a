//! BLoB (Wang et al. 2024): `A ~ N(M, Omega^2)` with `Omega = G^2` elementwise; M and G are trained
//! together by the likelihood, through Flipout, and after each of its steps by the divergence from
//! the prior `N(0, prior_std^2)`, with plain gradient descent.
//!
//! The divergence's weight doubles with each step of a cycle, so that it acts in the cycle's last
//! few steps alone: a training shorter than a cycle hardly sees it, and a warning says so. The
//! public recipe has seven cycles in a run (5000 steps of 4 questions out of 4957) and lowers the
//! divergence's rate linearly: `method.blob.cycles` and `method.blob.kl_decay` ask for that. The
//! mean of G^2, the standard deviation of A's entries, is logged with every step.

use std::sync::Arc;

use burn::module::Param;
use burn::prelude::*;
use data::Batch;
use data::schedule::Schedule;
use model::{AdapterConfig, Llama};

use super::lora::{self, Lora};
use super::mc_dropout::Stochastic;
use super::{Entry, FitContext, Members, Method, Predictor, Training};
use crate::config::ranges::Range;
use crate::config::{BlobSection, TrainSection};
use crate::error::TrainError;
use crate::forward::Reading;
use crate::functional_uncertainty::FluTokens;
use crate::loss::{Objective, Term};

/// The entry of `blob`.
pub const ENTRY: Entry = Entry {
    name: "blob",
    about: "Bayesian LoRA by backpropagation: mean and variance of A are trained together",
    trained_as: |_| "blob",
    trains_with: &[lora::TRAINS_WITH, &["method.blob"]],
    asks_with: &["method.samples"],
    ranges: &[
        ("method.samples", Range::Between(0, 10_000)),
        ("method.blob.posterior_std", Range::Positive),
        ("method.blob.prior_std", Range::Positive),
        ("method.blob.gamma", Range::Positive),
        ("method.blob.kl_learning_rate", Range::NotNegative),
    ],
    construct: |config| {
        let lora = Lora::new(&config.adapter, &config.objective);
        let (method, train) = (&config.method, &config.train);
        Arc::new(Blob::new(lora, &method.blob, method.samples, train))
    },
    ..lora::ENTRY
};

/// A LoRA whose A has a distribution.
#[derive(Debug)]
pub struct Blob {
    lora: Lora,
    settings: BlobSection,
    samples: usize,
    schedule: Schedule,
    seed: u64,
}

impl Blob {
    /// A LoRA whose A is trained as a distribution and asked `samples` times; 0 samples ask its
    /// mean.
    pub fn new(lora: Lora, settings: &BlobSection, samples: usize, train: &TrainSection) -> Self {
        Self {
            lora,
            settings: settings.clone(),
            samples,
            schedule: train.schedule(),
            seed: train.seed,
        }
    }

    /// Steps of one cycle of the divergence's weights.
    fn cycle(&self, questions: usize) -> usize {
        if self.settings.cycles > 0 {
            return self
                .schedule
                .total_steps(questions)
                .div_ceil(self.settings.cycles)
                .max(1);
        }
        let power = (questions as f64).powf(std::f64::consts::PI / self.settings.gamma);
        ((100.0 * power / self.schedule.batch_size as f64) as usize).max(1)
    }

    /// Learning rate of the divergence in a step, from 1: its weight included.
    fn divergence_rate(&self, step: usize, questions: usize) -> f64 {
        let left = match self.settings.kl_decay {
            true => 1.0 - step as f64 / self.schedule.total_steps(questions).max(1) as f64,
            false => 1.0,
        };
        self.settings.kl_learning_rate * left.max(0.0) * weight(step, self.cycle(questions))
    }
}

/// `2^i / (2^(cycle + 1) - 1)` for step i of a cycle, from 1; the weights of a cycle sum to almost
/// 1.
fn weight(step: usize, cycle: usize) -> f64 {
    let i = (step - 1) % cycle + 1;
    // The denominator's 1 vanishes; written as a difference of exponents it cannot overflow.
    (i as f64 - cycle as f64 - 1.0).exp2()
}

/// One step of gradient descent on `KL(N(m, g^4) || N(0, prior_std^2))`, in closed form:
/// `dKL/dm = m / prior_std^2`, `dKL/dg = 2 g (g^2 / prior_std^2 - 1 / g^2)`.
fn divergence_step(
    m: Tensor<2>,
    g: Tensor<2>,
    rate: f64,
    prior_std: f64,
) -> (Tensor<2>, Tensor<2>) {
    let variance = prior_std * prior_std;
    let std = g.clone().square();
    let along_g = g.clone() * (std.clone() / variance - std.clamp_min(1e-12).recip()) * 2.0;
    (m.clone() - m * (rate / variance), g - along_g * rate)
}

impl Training for Blob {
    fn adapter(&self) -> AdapterConfig {
        match self.lora.adapter() {
            AdapterConfig::Lora(mut lora) => {
                lora.posterior_std = Some(self.settings.posterior_std);
                AdapterConfig::Lora(lora)
            }
            other => other,
        }
    }

    fn objective(&self, reading: &Reading, batch: &Batch) -> Objective {
        self.lora.objective(reading, batch)
    }

    fn watched(&self, llama: &Llama) -> Vec<Term> {
        let mut means = Vec::new();
        let _ = llama.clone().map_lora(|lora| {
            let g = lora.lora_g.as_ref();
            means.extend(g.map(|g| g.val().without_autodiff().square().mean()));
            lora
        });
        if means.is_empty() {
            return Vec::new();
        }
        vec![Term {
            name: "mean_g_squared",
            value: Tensor::cat(means, 0).mean(),
            weight: 0.0,
        }]
    }

    fn after_step(&self, llama: Llama, step: usize, questions: usize) -> Llama {
        let cycle = self.cycle(questions);
        let steps = self.schedule.total_steps(questions);
        if step == 1 && steps < cycle {
            tracing::warn!(
                "blob: the divergence acts at the end of a cycle of {cycle} steps, and the training has {steps}: A's noise stays near \
                 its initial size; method.blob.cycles, a larger method.blob.gamma or more epochs let it act"
            );
        }
        let rate = self.divergence_rate(step, questions);
        llama.map_lora(|mut lora| {
            if let Some(g) = lora.lora_g.take() {
                let plain = |t: Tensor<2>| t.detach();
                let (m, new_g) = divergence_step(
                    plain(lora.lora_a.val()),
                    plain(g.val()),
                    rate,
                    self.settings.prior_std,
                );
                let renew = |param: Param<Tensor<2>>, value: Tensor<2>| {
                    param.map(|_| value.detach().require_grad())
                };
                lora.lora_a = renew(lora.lora_a, m);
                lora.lora_g = Some(renew(g, new_g));
            }
            lora
        })
    }
}

impl Method for Blob {
    fn name(&self) -> &'static str {
        "blob"
    }

    fn training(&self) -> &dyn Training {
        self
    }

    fn is_random(&self) -> bool {
        self.samples > 0
    }

    fn passes(&self) -> usize {
        self.samples.max(1)
    }

    fn fit(&self, members: Vec<Llama>, _: &FitContext) -> Result<Box<dyn Predictor>, TrainError> {
        // What is random at inference is A alone.
        let members: Vec<Llama> = members
            .into_iter()
            .map(|member| member.map_lora(|lora| lora.without_dropout()))
            .collect();
        if self.samples == 0 {
            // The mean weights.
            return Ok(Box::new(Members::new(members, FluTokens::default())));
        }
        Ok(Box::new(Stochastic {
            members,
            samples: self.samples,
            seed: self.seed,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RunConfig;

    fn blob(change: impl FnOnce(&mut RunConfig)) -> Blob {
        let mut config = RunConfig::default();
        config.train.epochs = 2.0;
        config.train.batch_size = 16;
        config.method.name = "blob".into();
        change(&mut config);
        let lora = Lora::new(&config.adapter, &config.objective);
        Blob::new(lora, &config.method.blob, 0, &config.train)
    }

    #[test]
    fn cycles_divide_the_run_and_the_rate_falls_to_nothing() {
        // 76 steps: one cycle of gamma's is longer.
        let recorded = blob(|_| ());
        assert_eq!(recorded.cycle(600), 77);
        let rate = RunConfig::default().method.blob.kl_learning_rate;
        assert_eq!(recorded.divergence_rate(76, 600), rate * weight(76, 77));
        let mended = blob(|config| {
            config.method.blob.cycles = 7;
            config.method.blob.kl_decay = true;
        });
        assert_eq!(mended.cycle(600), 11);
        let ends: Vec<f64> = (1..=6)
            .map(|i| mended.divergence_rate(11 * i, 600))
            .collect();
        let falls = ends.windows(2).all(|pair| pair[1] < pair[0]);
        assert!(falls && ends[5] > 0.05 * rate, "{ends:?}");
        assert!((ends[0] - rate * 0.5 * (1.0 - 11.0 / 76.0)).abs() < 1e-12);
        assert!(mended.divergence_rate(12, 600) < 1e-3 * ends[0]);
        assert_eq!(mended.divergence_rate(76, 600), 0.0);
    }

    #[test]
    fn the_weights_double_and_a_cycle_sums_to_almost_one() {
        let sum: f64 = (1..=12).map(|step| weight(step, 12)).sum();
        assert!((sum - 1.0).abs() < 1e-3, "{sum}");
        assert_eq!(weight(3, 12) * 2.0, weight(4, 12));
        assert_eq!(weight(13, 12), weight(1, 12));
    }

    #[test]
    fn the_divergence_step_follows_the_finite_difference() {
        let kl = |m: f64, g: f64, prior: f64| {
            let std = g * g;
            (prior / std).ln() + (std * std + m * m) / (2.0 * prior * prior) - 0.5
        };
        let device = Device::flex();
        let one = |v: f64| Tensor::<2>::from_data([[v as f32]], &device);
        let (m, g, prior, h) = (0.3, 0.4, 0.2, 1e-6);
        let (new_m, new_g) = divergence_step(one(m), one(g), 1e-2, prior);
        let slope_m = (kl(m + h, g, prior) - kl(m - h, g, prior)) / (2.0 * h);
        let slope_g = (kl(m, g + h, prior) - kl(m, g - h, prior)) / (2.0 * h);
        let moved = |t: Tensor<2>, from: f64| (from - t.into_scalar::<f64>()) / 1e-2;
        assert!((moved(new_m, m) - slope_m).abs() < 1e-3, "{slope_m}");
        assert!((moved(new_g, g) - slope_g).abs() < 1e-3, "{slope_g}");
    }
}
