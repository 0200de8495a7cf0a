//! The Gaussian around a trained adapter, and the precision of its prior.

use burn::prelude::*;

use super::curvature::{Block, curvature};
use super::jacobian::Probed;
use crate::config::{LaplaceSection, Prior};
use crate::error::TrainError;
use crate::method::FitContext;

/// The Gaussian around a trained adapter.
#[derive(Debug, Clone)]
pub struct Posterior {
    /// A and B of every covered projection, in the order of the forward pass.
    pub blocks: Vec<Block>,
    /// Squared norm of the covered parameters, of A's and of B's.
    pub squared_norms: [f64; 2],
    /// Precision of the prior of A and of B.
    pub priors: [f64; 2],
}

impl Posterior {
    /// Every product of two kept eigenvalues of A's blocks, or of B's.
    fn products(&self, matrix: usize) -> impl Iterator<Item = f64> {
        let blocks = self.blocks.iter().skip(matrix).step_by(2);
        blocks.flat_map(Block::products)
    }

    /// The part of the log evidence that depends on the prior's precisions:
    /// `-1/2 (lambda |theta|^2 + sum log(1 + product / lambda))`, of A and of B.
    pub fn log_evidence(&self, priors: [f64; 2]) -> f64 {
        let part = |matrix: usize| -> f64 {
            let prior = priors[matrix];
            let log_determinant: f64 = self.products(matrix).map(|m| (m / prior).ln_1p()).sum();
            -0.5 * (prior * self.squared_norms[matrix] + log_determinant)
        };
        part(0) + part(1)
    }

    /// The precisions of the largest evidence: where `lambda |theta|^2` equals the effective
    /// parameters `sum m / (m + lambda)`. The one rises with lambda and the other falls, so that
    /// bisection of log lambda finds the only solution.
    pub fn best_priors(&self, prior: Prior) -> [f64; 2] {
        let excess = |matrix: usize, prior: f64| {
            let effective: f64 = self.products(matrix).map(|m| m / (m + prior)).sum();
            prior * self.squared_norms[matrix] - effective
        };
        match prior {
            Prior::Shared => [root(|prior| excess(0, prior) + excess(1, prior)); 2],
            Prior::ByMatrix => [0, 1].map(|matrix| root(|prior| excess(matrix, prior))),
        }
    }
}

/// Where a function that rises from below zero to above it crosses zero, between `exp(-20)` and
/// `exp(20)`.
fn root(f: impl Fn(f64) -> f64) -> f64 {
    let (mut low, mut high) = (-20.0, 20.0);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        match f(middle.exp()) < 0.0 {
            true => low = middle,
            false => high = middle,
        }
    }
    f64::midpoint(low, high).exp()
}

/// The posterior over the covered parameters: the curvature of the training loss over
/// `context.questions`, scaled to all training questions, and the prior.
///
/// # Errors
/// A stop on request, or values that are no numbers.
pub fn posterior(
    probed: &Probed,
    settings: &LaplaceSection,
    context: &FitContext,
) -> Result<Posterior, TrainError> {
    let mut posterior = Posterior {
        blocks: curvature(probed, settings, context)?,
        squared_norms: squared_norms(probed),
        priors: [1.0; 2],
    };
    posterior.priors = match settings.prior_precision {
        Some(prior) => [prior; 2],
        None => posterior.best_priors(settings.prior),
    };
    let [a, b] = posterior.priors;
    tracing::info!("laplace: prior precision {a:.4e} of A, {b:.4e} of B");
    Ok(posterior)
}

/// Squared norm of the covered parameters, of A's and of B's.
fn squared_norms(probed: &Probed) -> [f64; 2] {
    let mut norms: Vec<[f64; 2]> = Vec::new();
    let layers = probed.llama.layers();
    let _ = probed.llama.clone().map_lora(|lora| {
        let square = |t: Tensor<2>| t.without_autodiff().square().sum().into_scalar::<f64>();
        norms.push([square(lora.lora_a.val()), square(lora.lora_b.val())]);
        lora
    });
    // The projections come layer by layer, as many in each.
    let first = norms.len() / layers * probed.first_layer;
    [0, 1].map(|matrix| norms[first..].iter().map(|pair| pair[matrix]).sum())
}
