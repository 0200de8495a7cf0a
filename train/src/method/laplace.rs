//! Laplace-LoRA (Yang et al. 2024): a Gaussian around the trained adapter, from the curvature of the training loss, pushed
//! through the linearised model.
//!
//! - The curvature of each A and B is the exact Fisher over the choices in Kronecker form: `G (x) A` with
//!   `A = mean of a a^T` over the tokens (`a` the layer's input) and `G = sum over questions, tokens and choices of p_c g g^T`
//!   (`g` the gradient of `-log p_c` at its output). All tokens enter, each as a row of its own (KFAC-expand).
//! - The side as wide as the model keeps only its largest directions, found by subspace iteration over the batches.
//! - The prior precision maximises the evidence of the training data.
//! - A question's logits are `N(f, J P^-1 J^T)`; the probabilities are the mean softmax of samples, or the probit approximation.
//!
//! The public code of `bayesian_lora` feeds probabilities where logits belong, has wrong signs in its evidence, and averages
//! logits; none of that is repeated here. It also sums A over the tokens and divides by the questions, which makes the curvature as
//! many times larger as a question has tokens and the posterior as much narrower; the mean over tokens is what KFAC-expand has.

use burn::data::dataloader::DataLoader;
use burn::prelude::*;
use burn::tensor::activation::log_softmax;
use data::Batch;
use data::seed::mix;
use faer::Mat;
use model::dropout::normal;
use model::{Capture, DropoutSeed, Llama, LlamaInput, Probe};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::lora::Lora;
use super::{FitContext, Method, Predictor, Training, input};
use crate::config::{RunConfig, is_default};
use crate::error::TrainError;
use crate::linear_algebra::{cholesky, eigen, matrix, orthonormal, tensor, values};
use crate::prediction::{Prediction, choice_logits};

/// Which adapted layers the posterior covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Layers {
    /// All: LA.
    #[default]
    All,
    /// The last decoder layer: LLLA. (The public code means the head's LoRA; these adapters leave the head alone.)
    Last,
}

/// What shares a precision of the prior.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Prior {
    /// A and B, as published.
    #[default]
    Shared,
    /// A has one and B another: A keeps most of its initial norm, of which B began without any, so that a shared precision is far too
    /// small for B.
    ByMatrix,
}

/// How the distribution of the logits becomes probabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Predictive {
    /// The mean softmax of samples.
    #[default]
    Sampled,
    /// `softmax(f / sqrt(1 + pi / 8 var))`
    Probit,
}

/// `[method.laplace]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LaplaceSection {
    /// `all` (LA) or `last` (LLLA).
    pub layers: Layers,
    /// Training questions that the curvature is taken over, scaled up to all of them.
    pub questions: usize,
    /// Directions kept of a factor as wide as the model.
    pub directions: usize,
    /// Precision of the Gaussian prior; absent: the one that maximises the evidence.
    pub prior_precision: Option<f64>,
    /// `shared`, or `by_matrix`: a precision for A and one for B.
    // Left out at its default: the names of earlier evaluations stay.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("default" = "shared"))]
    pub prior: Prior,
    /// `sampled` or `probit`.
    pub predictive: Predictive,
    /// Samples of a question's logits.
    pub samples: usize,
}

impl Default for LaplaceSection {
    fn default() -> Self {
        Self {
            layers: Layers::All,
            questions: 500,
            directions: 16,
            prior_precision: None,
            prior: Prior::Shared,
            predictive: Predictive::Sampled,
            samples: 1000,
        }
    }
}

/// `laplace`
#[derive(Debug)]
pub struct Laplace {
    lora: Lora,
    settings: LaplaceSection,
    seed: u64,
}

impl Laplace {
    /// From a run's settings.
    pub fn new(config: &RunConfig) -> Self {
        Self {
            lora: Lora::new(config),
            settings: config.method.laplace.clone(),
            seed: config.train.seed,
        }
    }
}

/// The eigenvectors and eigenvalues of one side of a Kronecker product, largest first; the rest of the space counts as 0.
#[derive(Debug, Clone)]
pub struct Factor {
    /// `[width, kept]`, orthonormal columns.
    pub vectors: Tensor<2>,
    /// `[kept]`
    pub values: Vec<f64>,
}

/// A covariance `sum x^T x` under collection.
enum Collected {
    /// The whole matrix.
    Whole(Tensor<2>),
    /// Its largest directions.
    Directions {
        factor: Option<Factor>,
        keep: usize,
        seed: u64,
    },
}

/// Directions carried along beyond those kept, so that the last kept ones are accurate.
const SPARE: usize = 8;

impl Collected {
    fn new(width: usize, keep: usize, seed: u64, device: &Device) -> Self {
        match width <= 2 * (keep + SPARE) {
            true => Self::Whole(Tensor::zeros([width, width], device)),
            false => Self::Directions {
                factor: None,
                keep: keep + SPARE,
                seed,
            },
        }
    }

    /// Adds the rows of `x`, `[rows, width]`.
    fn add(&mut self, x: Tensor<2>) -> Result<(), TrainError> {
        match self {
            Self::Whole(sum) => *sum = sum.clone() + x.clone().transpose().matmul(x),
            Self::Directions { factor, keep, seed } => {
                *factor = Some(merge(factor.take(), x, *keep, *seed)?);
            }
        }
        Ok(())
    }

    /// The factor of `scale` times the sum.
    fn finish(self, keep: usize, scale: f64, device: &Device) -> Result<Factor, TrainError> {
        let (values, vectors) = match self {
            Self::Whole(sum) => {
                let (values, vectors) = eigen(&matrix(sum))?;
                (values, tensor(&vectors, device))
            }
            Self::Directions {
                factor: Some(factor),
                ..
            } => {
                let kept = keep.min(factor.values.len());
                (
                    factor.values[..kept].to_vec(),
                    factor.vectors.narrow(1, 0, kept),
                )
            }
            Self::Directions { factor: None, .. } => {
                return Err(TrainError::Training("laplace saw no question".into()));
            }
        };
        Ok(Factor {
            vectors,
            values: values.into_iter().map(|v| v * scale).collect(),
        })
    }
}

/// The largest `keep` directions of `U diag(l) U^T + x^T x`, by two subspace iterations begun at U and random directions. No
/// square matrix of the model's width is formed.
fn merge(
    known: Option<Factor>,
    x: Tensor<2>,
    keep: usize,
    seed: u64,
) -> Result<Factor, TrainError> {
    let device = x.device();
    let width = x.dims()[1];
    let mut rows = vec![x];
    let mut start = vec![Tensor::<2>::from_data(
        TensorData::new(normal(width * keep, seed), [width, keep]),
        &device,
    )];
    if let Some(Factor { vectors, values }) = known {
        let roots: Vec<f32> = values.iter().map(|v| v.sqrt() as f32).collect();
        let n = roots.len();
        let roots = Tensor::<2>::from_data(TensorData::new(roots, [1, n]), &device);
        rows.push((vectors.clone() * roots).transpose());
        start.push(vectors);
    }
    let rows = Tensor::cat(rows, 0);
    let mut basis = Tensor::cat(start, 1);
    for _ in 0..2 {
        let image = rows.clone().transpose().matmul(rows.clone().matmul(basis));
        basis = tensor(&orthonormal(&matrix(image)), &device);
    }
    let inside = rows.matmul(basis.clone());
    let (values, vectors) = eigen(&matrix(inside.clone().transpose().matmul(inside)))?;
    let kept = keep.min(values.len());
    let vectors = tensor(&vectors, &device).narrow(1, 0, kept);
    Ok(Factor {
        vectors: basis.matmul(vectors),
        values: values[..kept].to_vec(),
    })
}

/// The curvature of one matrix `[rows, columns]` (A: `[d_in, r]`, B: `[r, d_out]`).
#[derive(Debug, Clone)]
pub struct Block {
    /// Of the matrix's rows: from the layer's inputs.
    pub inputs: Factor,
    /// Of its columns: from the gradients at its output.
    pub gradients: Factor,
    /// Rows and columns.
    pub shape: [usize; 2],
}

impl Block {
    /// Every product of two kept eigenvalues.
    fn products(&self) -> impl Iterator<Item = f64> {
        let inputs = self.inputs.values.iter();
        inputs.flat_map(|a| self.gradients.values.iter().map(move |g| a * g))
    }

    /// `J P^-1 J^T` of this block for every question: `P = curvature + prior`, and outside the kept directions the prior alone.
    ///
    /// # Shapes
    /// - jacobian: `[batch, choices, rows, columns]`, output: `[batch, choices, choices]`
    pub fn covariance(&self, jacobian: Tensor<4>, prior: f64) -> Tensor<3> {
        let [batch, choices, rows, columns] = jacobian.dims();
        let flat = jacobian.clone().reshape([batch, choices, rows * columns]);
        let all = flat.clone().matmul(flat.transpose()) / prior;
        let (a, g) = (self.inputs.values.len(), self.gradients.values.len());
        let inside = jacobian
            .swap_dims(2, 3)
            .reshape([batch * choices * columns, rows])
            .matmul(self.inputs.vectors.clone())
            .reshape([batch * choices, columns, a])
            .swap_dims(1, 2)
            .reshape([batch * choices * a, columns])
            .matmul(self.gradients.vectors.clone())
            .reshape([batch, choices, a * g]);
        // In these directions the variance is 1 / (product + prior) instead of 1 / prior.
        let less: Vec<f32> = self
            .products()
            .map(|product| (1.0 / prior - 1.0 / (product + prior)) as f32)
            .collect();
        let less = Tensor::<3>::from_data(TensorData::new(less, [1, 1, a * g]), &inside.device());
        all - (inside.clone() * less).matmul(inside.transpose())
    }
}

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

    /// The precisions of the largest evidence: where `lambda |theta|^2` equals the effective parameters `sum m / (m + lambda)`.
    /// The one rises with lambda and the other falls, so that bisection of log lambda finds the only solution.
    pub fn best_priors(&self, prior: Prior) -> [f64; 2] {
        let excess = |matrix: usize, prior: f64| {
            let effective: f64 = self.products(matrix).map(|m| m / (m + prior)).sum();
            prior * self.squared_norms[matrix] - effective
        };
        match prior {
            Prior::Shared => [zero(|prior| excess(0, prior) + excess(1, prior)); 2],
            Prior::ByMatrix => [0, 1].map(|matrix| zero(|prior| excess(matrix, prior))),
        }
    }
}

/// Where a function that rises from below zero to above it crosses, between `exp(-20)` and `exp(20)`.
fn zero(f: impl Fn(f64) -> f64) -> f64 {
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

/// A model made ready for gradients at the probed places only.
pub struct Probed {
    llama: Llama,
    first_layer: usize,
}

/// What one class's backward pass leaves.
struct ClassPass {
    logits: Tensor<2>,
    captures: Vec<Capture>,
    gradients: ClassGradients,
}

/// The gradients at A's and B's output, place by place.
type ClassGradients = Vec<(Tensor<2>, Tensor<2>)>;

impl Probed {
    /// The adapter is frozen: gradients are wanted at its outputs, not of its weights.
    pub fn new(llama: Llama, layers: Layers) -> Self {
        let first_layer = match layers {
            Layers::All => 0,
            Layers::Last => llama.layers() - 1,
        };
        Self {
            llama: llama.no_grad().train(),
            first_layer,
        }
    }

    /// The residual stream before the first covered layer, `[batch * sequence, d]`: the same for every choice, and no gradient goes
    /// further.
    fn below(&self, batch: &Batch) -> Tensor<2> {
        let input = input(batch, DropoutSeed::OFF);
        let blocks = self.llama.blocks(&input);
        let layers = 0..self.first_layer;
        layers.fold(blocks.embedded(), |x, place| {
            blocks.forward(place, x, &mut Vec::new())
        })
    }

    /// Runs a batch forward from [`Self::below`], and backward from the sum that `target` makes of the choices' logits.
    fn pass(
        &self,
        batch: &Batch,
        below: &Tensor<2>,
        target: impl FnOnce(Tensor<2>) -> Tensor<1>,
    ) -> ClassPass {
        let probe = Probe::from_layer(self.first_layer);
        let input = LlamaInput {
            probe: Some(probe.clone()),
            ..input(batch, DropoutSeed::OFF)
        };
        let (blocks, mut routing) = (self.llama.blocks(&input), Vec::new());
        let layers = self.first_layer..self.llama.layers();
        let hidden = layers.fold(below.clone(), |x, place| {
            blocks.forward(place, x, &mut routing)
        });
        let output = self.llama.output(hidden, routing, &input);
        let logits = choice_logits(output.logits, batch);
        let gradients = target(logits.clone()).backward();
        let captures = probe.take();
        ClassPass {
            logits: logits.without_autodiff(),
            gradients: captures.iter().map(|c| c.gradients(&gradients)).collect(),
            captures,
        }
    }

    /// The batch on the device that records gradients.
    fn on_device(&self, batch: &Batch, device: &Device) -> Batch {
        batch.clone().to_device(&device.clone().autodiff())
    }
}

/// Column `choice` of `[batch, choices]`, 0 where it is absent, summed.
fn column(scores: Tensor<2>, choice: usize, batch: &Batch) -> Tensor<1> {
    scores
        .mask_fill(batch.choices.missing.clone(), 0.0)
        .narrow(1, choice, 1)
        .sum()
}

/// The Jacobians of a batch's choice logits by every covered matrix.
pub struct Jacobians {
    /// `[batch, choices]`
    pub logits: Tensor<2>,
    /// `[batch, choices, rows, columns]`, A before B, in the order of the forward pass.
    pub matrices: Vec<Tensor<4>>,
}

/// One forward and one backward pass a choice through the covered layers.
fn class_passes(probed: &Probed, batch: &Batch) -> (ClassPass, Vec<ClassGradients>) {
    let choices = batch.choices.dims()[1];
    let below = probed.below(batch);
    let pass = |choice: usize| probed.pass(batch, &below, |logits| column(logits, choice, batch));
    let first = pass(0);
    // Inputs are the same for every choice: only the gradients of the others are kept.
    let others = (1..choices).map(|choice| pass(choice).gradients).collect();
    (first, others)
}

/// The Jacobians of A and of B at one place, `[batch, choices, rows, columns]`: `sum over tokens of input (x) gradient`.
fn place_jacobians(
    first: &ClassPass,
    others: &[ClassGradients],
    place: usize,
    [rows, sequence]: [usize; 2],
) -> [Tensor<4>; 2] {
    let by_question = |input: &Tensor<2>, gradient: &Tensor<2>| -> Tensor<4> {
        let (d_in, d_out) = (input.dims()[1], gradient.dims()[1]);
        let input = input.clone().reshape([rows, sequence, d_in]);
        let gradient = gradient.clone().reshape([rows, sequence, d_out]);
        input.transpose().matmul(gradient).unsqueeze_dim(1)
    };
    let capture = &first.captures[place];
    let all = || std::iter::once(&first.gradients).chain(others);
    let a = all().map(|gradients| by_question(&capture.input, &gradients[place].0));
    let b = all().map(|gradients| by_question(&capture.hidden, &gradients[place].1));
    [Tensor::cat(a.collect(), 1), Tensor::cat(b.collect(), 1)]
}

/// The Jacobian of every choice's logit by every covered matrix at once; a prediction goes place by place.
pub fn jacobians(probed: &Probed, batch: &Batch, device: &Device) -> Jacobians {
    let batch = probed.on_device(batch, device);
    let (first, others) = class_passes(probed, &batch);
    let matrices = (0..first.captures.len())
        .flat_map(|place| place_jacobians(&first, &others, place, batch.input.tokens.dims()))
        .collect();
    Jacobians {
        logits: first.logits,
        matrices,
    }
}

/// Collects both sides of the curvature of A and of B at one place.
struct PlaceCollector {
    sides: [[Collected; 2]; 2],
    shapes: [[usize; 2]; 2],
}

impl PlaceCollector {
    fn new(capture: &Capture, d_out: usize, keep: usize, seed: u64, device: &Device) -> Self {
        let (d_in, r) = (capture.input.dims()[1], capture.hidden.dims()[1]);
        let wide = |width: usize, s: u64| Collected::new(width, keep, mix(seed, s), device);
        // The rank's side is small: whole.
        let small = || Collected::Whole(Tensor::zeros([r, r], device));
        Self {
            sides: [[wide(d_in, 0), small()], [small(), wide(d_out, 3)]],
            shapes: [[d_in, r], [r, d_out]],
        }
    }
}

/// The curvature of the training loss over `context.questions`, scaled to all of them, and the prior.
///
/// # Errors
/// A stop on request, or values that are no numbers.
pub fn posterior(
    probed: &Probed,
    settings: &LaplaceSection,
    context: &FitContext,
) -> Result<Posterior, TrainError> {
    let loader = context.loader(batch_tokens(settings.layers, context.batch_tokens));
    let mut places: Vec<PlaceCollector> = Vec::new();
    let (mut tokens, mut done) = (0usize, 0usize);
    for batch in loader.iter() {
        let batch = batch.map_err(|e| TrainError::Training(e.to_string()))?;
        let batch = probed.on_device(&batch, context.device);
        let real = batch
            .input
            .segments
            .clone()
            .without_autodiff()
            .greater_elem(0)
            .float()
            .reshape([-1, 1]);
        let below = probed.below(&batch);
        for choice in 0..batch.choices.dims()[1] {
            // The gradient of -log p_c, times the root of p_c: its outer product is p_c g g^T.
            let pass = probed.pass(&batch, &below, |logits| {
                let log_probabilities = log_softmax(logits, 1);
                let root = (log_probabilities.clone().without_autodiff() * 0.5).exp();
                column(log_probabilities * root.neg(), choice, &batch)
            });
            for (place, capture) in pass.captures.iter().enumerate() {
                let (at_hidden, at_output) = &pass.gradients[place];
                if places.len() == place {
                    places.push(PlaceCollector::new(
                        capture,
                        at_output.dims()[1],
                        settings.directions,
                        mix(context.seed, place as u64),
                        context.device,
                    ));
                }
                let [a, b] = &mut places[place].sides;
                if choice == 0 {
                    // Padding has no gradient, but it has inputs.
                    a[0].add(capture.input.clone() * real.clone())?;
                    b[0].add(capture.hidden.clone() * real.clone())?;
                }
                a[1].add(at_hidden.clone())?;
                b[1].add(at_output.clone())?;
            }
        }
        tokens += batch.input.real_tokens;
        done += batch.len();
        context.report(done, context.questions.len())?;
    }
    let keep = settings.directions;
    let all = context.all_questions as f64 / context.questions.len().max(1) as f64;
    let mut blocks = Vec::new();
    for place in places {
        for ([inputs, gradients], shape) in place.sides.into_iter().zip(place.shapes) {
            blocks.push(Block {
                inputs: inputs.finish(keep, 1.0 / tokens as f64, context.device)?,
                gradients: gradients.finish(keep, all, context.device)?,
                shape,
            });
        }
    }
    let mut posterior = Posterior {
        blocks,
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

/// Of the covered parameters, of A's and of B's.
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

/// Activations and gradients of every choice are held at once: where they are of all layers, a quarter of the tokens fits.
fn batch_tokens(layers: Layers, set: usize) -> usize {
    match layers {
        Layers::All => (set / 4).max(1),
        Layers::Last => set,
    }
}

struct Linearised {
    probed: Probed,
    posterior: Posterior,
    settings: LaplaceSection,
    device: Device,
    seed: u64,
    choices: usize,
}

impl Linearised {
    /// The logits, and `J P^-1 J^T` on the host: `[batch][choices * choices]`. One place's Jacobians are held at a time: those
    /// of all are as large as the adapter, for every question and choice.
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
}

impl Predictor for Linearised {
    fn predict(&self, batch: &Batch) -> Prediction {
        let (logits, covariance) = self.logits_and_covariance(batch);
        let [rows, choices] = logits.dims();
        let counts = &batch.choices.counts;
        // Of the question's own choices; the jitter follows the scale, for the sums are of f32.
        let of = |row: usize| {
            let own = &covariance[row * choices * choices..(row + 1) * choices * choices];
            let n = counts[row];
            let trace: f64 = (0..n).map(|i| own[i * choices + i]).sum();
            let jitter = 1e-6 * (1.0 + trace / n as f64);
            Mat::from_fn(n, n, |i, j| {
                own[i * choices + j] + if i == j { jitter } else { 0.0 }
            })
        };
        let samples = match self.settings.predictive {
            Predictive::Probit => {
                let scale: Vec<f32> = (0..rows * choices)
                    .map(|i| {
                        let (row, choice) = (i / choices, i % choices);
                        let absent = choice >= counts[row];
                        let variance = if absent {
                            0.0
                        } else {
                            of(row)[(choice, choice)]
                        };
                        (1.0 + std::f64::consts::PI / 8.0 * variance).sqrt().recip() as f32
                    })
                    .collect();
                let scale =
                    Tensor::from_data(TensorData::new(scale, [rows, choices]), &logits.device());
                (logits * scale).unsqueeze_dim(0)
            }
            Predictive::Sampled => {
                let noise: Vec<Vec<f32>> = (0..rows)
                    .map(|row| {
                        // A covariance that is no number shows in the samples, which `Prediction::rows` refuses.
                        let lower = cholesky(&of(row)).unwrap_or_else(|_| {
                            Mat::from_fn(counts[row], counts[row], |_, _| f64::NAN)
                        });
                        draw(
                            &lower,
                            choices,
                            self.settings.samples,
                            mix(self.seed, name(&batch.ids[row])),
                        )
                    })
                    .collect();
                let samples = self.settings.samples;
                let mut all: Vec<f32> = Vec::with_capacity(samples * rows * choices);
                for sample in 0..samples {
                    for row in &noise {
                        all.extend(&row[sample * choices..(sample + 1) * choices]);
                    }
                }
                let noise = Tensor::<3>::from_data(
                    TensorData::new(all, [samples, rows, choices]),
                    &logits.device(),
                );
                logits.unsqueeze_dim::<3>(0) + noise
            }
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

/// A question's own stream, whatever batch it comes in.
fn name(id: &str) -> u64 {
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

impl Method for Laplace {
    fn name(&self) -> &'static str {
        "laplace"
    }

    fn training(&self) -> &dyn Training {
        &self.lora
    }

    /// A forward and a backward pass for each of about four choices, through all layers or the last.
    fn passes(&self) -> usize {
        match self.settings.layers {
            Layers::All => 12,
            Layers::Last => 2,
        }
    }

    fn fit_passes(&self) -> usize {
        self.passes()
    }

    fn fit_questions(&self) -> usize {
        self.settings.questions
    }

    fn fit(
        &self,
        mut members: Vec<Llama>,
        context: &FitContext,
    ) -> Result<Box<dyn Predictor>, TrainError> {
        let probed = Probed::new(members.remove(0), self.settings.layers);
        let posterior = posterior(&probed, &self.settings, context)?;
        let choices = context.questions.iter().map(|q| q.choices.len()).max();
        Ok(Box::new(Linearised {
            probed,
            posterior,
            settings: self.settings.clone(),
            device: context.device.clone(),
            seed: self.seed,
            choices: choices.unwrap_or(1),
        }))
    }
}
