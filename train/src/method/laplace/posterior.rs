//! The Gaussian around a trained adapter, and the precision of its prior.

use burn::prelude::*;
use burn::tensor::activation::softmax;
use model::Llama;

use super::curvature::{Block, curvature};
use super::jacobian::{Jacobians, Probed};
use crate::config::{LaplaceSection, Prior};
use crate::error::TrainError;
use crate::linear_algebra::values;
use crate::method::FitContext;

/// The Gaussian around a trained adapter.
#[derive(Debug, Clone)]
pub struct Posterior {
    /// A and B of every covered projection, in the order of the forward pass.
    pub blocks: Vec<Block>,
    /// Squared distance of the covered parameters from the prior's mean, of A's and of B's.
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

    /// The effective parameters gamma under these precisions: `sum m / (m + lambda)` over the
    /// products m of kept eigenvalues.
    pub fn effective_parameters(&self, priors: [f64; 2]) -> f64 {
        let part = |matrix: usize| -> f64 {
            let prior = priors[matrix];
            self.products(matrix).map(|m| m / (m + prior)).sum()
        };
        part(0) + part(1)
    }

    /// Each question's leverage, `tr(H J P^-1 J^T)` with `H = diag(p) - p p^T`: how many parameters
    /// the question determines. Under the exact posterior it is at most C - 1 for a training
    /// question of C choices, and the sum over all training questions is gamma. `J P^-1 J^T` is the
    /// posterior covariance of the logits.
    ///
    /// # Shapes
    /// - jacobians: of one batch whose questions have all of the batch's choices
    pub fn leverage(&self, jacobians: &Jacobians) -> Vec<f64> {
        let blocks = self.blocks.iter().zip(&jacobians.matrices).enumerate();
        let covariance = blocks
            .map(|(i, (block, matrix))| block.covariance(matrix.clone(), self.priors[i % 2]))
            .reduce(|sum, more| sum + more)
            .expect("an adapted layer");
        let choices = covariance.dims()[1];
        let p: Vec<f64> = values(softmax(jacobians.logits.clone(), 1));
        let covariance: Vec<f64> = values(covariance);
        let covariances = covariance.chunks(choices * choices);
        let questions = p.chunks(choices).zip(covariances);
        questions
            .map(|(p, covariance)| leverage(p, |i, j| covariance[i * choices + j]))
            .collect()
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

/// `tr((diag(p) - p p^T) S)` of a question's probabilities and the covariance of its logits, by row
/// and column.
pub(super) fn leverage(p: &[f64], covariance: impl Fn(usize, usize) -> f64) -> f64 {
    let n = p.len();
    let weighted = |i: usize, j: usize| p[i] * covariance(i, j) * p[j];
    let own: f64 = (0..n).map(|i| p[i] * covariance(i, i)).sum();
    let shared: f64 = (0..n * n).map(|k| weighted(k / n, k % n)).sum();
    own - shared
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
/// `context.questions`, scaled to all training questions, and the prior that the evidence chooses.
/// `initial` is the model whose adapter is the prior's mean; without one the mean is zero.
///
/// # Errors
/// A stop on request, or values that are no numbers.
pub fn posterior(
    probed: &Probed,
    initial: Option<&Llama>,
    settings: &LaplaceSection,
    context: &FitContext,
) -> Result<Posterior, TrainError> {
    let mut posterior = Posterior {
        blocks: curvature(probed, settings, context)?,
        squared_norms: squared_norms(probed, initial),
        priors: [1.0; 2],
    };
    posterior.priors = match settings.prior_precision {
        Some(prior) => [prior; 2],
        None => posterior.best_priors(settings.prior),
    };
    let [a, b] = posterior.priors;
    tracing::info!(
        "laplace: prior precision {a:.4e} of A, {b:.4e} of B; squared distance from the prior's \
         mean {:.4e} and {:.4e}; {:.1} effective parameters",
        posterior.squared_norms[0],
        posterior.squared_norms[1],
        posterior.effective_parameters(posterior.priors)
    );
    Ok(posterior)
}

/// Squared distance of the covered parameters from those of `initial`, or from zero: of A's and of
/// B's.
fn squared_norms(probed: &Probed, initial: Option<&Llama>) -> [f64; 2] {
    let parameters = adapters(&probed.llama);
    let first = probed.llama.loras_before(probed.first_layer);
    let means = initial.map(adapters);
    let mut sums = [0.0; 2];
    for (place, pair) in parameters.into_iter().enumerate().skip(first) {
        for (matrix, value) in pair.into_iter().enumerate() {
            let away = match &means {
                Some(means) => value - means[place][matrix].clone(),
                None => value,
            };
            sums[matrix] += away.square().sum().into_scalar::<f64>();
        }
    }
    sums
}

/// A and B of every LoRA, in the order of the forward pass, without a graph.
fn adapters(llama: &Llama) -> Vec<[Tensor<2>; 2]> {
    let mut found = Vec::new();
    let _ = llama.clone().map_lora(|lora| {
        found.push([&lora.lora_a, &lora.lora_b].map(|p| p.val().without_autodiff()));
        lora
    });
    found
}
