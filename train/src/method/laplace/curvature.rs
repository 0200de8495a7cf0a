//! The curvature of the training loss: the exact Fisher over the choices, in Kronecker form.

use burn::data::dataloader::DataLoader;
use burn::prelude::*;
use burn::tensor::activation::log_softmax;
use data::Batch;
use data::seed::mix;
use model::Capture;
use model::dropout::normal;

use super::jacobian::{Probed, batch_tokens, column};
use crate::config::LaplaceSection;
use crate::error::TrainError;
use crate::linear_algebra::{eigen, matrix, orthonormal, tensor};
use crate::method::FitContext;

/// The eigenvectors and eigenvalues of one side of a Kronecker product, largest first; the rest of
/// the space counts as 0.
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
    /// The largest directions of the matrix.
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

/// The largest `keep` directions of `U diag(l) U^T + x^T x`, by two subspace iterations begun at U
/// and random directions. No square matrix of the model's width is formed.
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
    /// The side of the matrix's rows, from the layer's inputs.
    pub inputs: Factor,
    /// The side of the matrix's columns, from the gradients at the layer's output.
    pub gradients: Factor,
    /// Rows and columns.
    pub shape: [usize; 2],
}

impl Block {
    /// Every product of two kept eigenvalues.
    pub(super) fn products(&self) -> impl Iterator<Item = f64> {
        let inputs = self.inputs.values.iter();
        inputs.flat_map(|a| self.gradients.values.iter().map(move |g| a * g))
    }

    /// `J P^-1 J^T` of this block for every question: `P = curvature + prior`, and outside the kept
    /// directions the prior alone.
    ///
    /// # Shapes
    /// - jacobian: `[batch, choices, rows, columns]`, output: `[batch, choices, choices]`
    pub fn covariance(&self, jacobian: Tensor<4>, prior: f64) -> Tensor<3> {
        self.covariances(jacobian, &[prior]).remove(0)
    }

    /// As [`Self::covariance`], for several precisions of the prior.
    pub(super) fn covariances(&self, jacobian: Tensor<4>, priors: &[f64]) -> Vec<Tensor<3>> {
        let [batch, choices, rows, columns] = jacobian.dims();
        let flat = jacobian.clone().reshape([batch, choices, rows * columns]);
        let all = flat.clone().matmul(flat.transpose());
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
        let less = |prior: f64| -> Tensor<3> {
            let less: Vec<f32> = self
                .products()
                .map(|product| (1.0 / prior - 1.0 / (product + prior)) as f32)
                .collect();
            Tensor::from_data(TensorData::new(less, [1, 1, a * g]), &inside.device())
        };
        let found = priors.iter().map(|prior| {
            let inside = inside.clone();
            all.clone() / *prior - (inside.clone() * less(*prior)).matmul(inside.transpose())
        });
        found.collect()
    }
}

/// The curvature of the training loss over `context.questions`, scaled to all training questions:
/// of A and of B of every covered projection, in the order of the forward pass.
///
/// # Errors
/// A stop on request, or values that are no numbers.
pub fn curvature(
    probed: &Probed,
    settings: &LaplaceSection,
    context: &FitContext,
) -> Result<Vec<Block>, TrainError> {
    let loader = context.loader(batch_tokens(settings.layers, context.batch_tokens));
    let mut places: Vec<PlaceCollector> = Vec::new();
    let (mut tokens, mut done) = (0usize, 0usize);
    for batch in loader.iter() {
        let batch = batch.map_err(|e| TrainError::Training(e.to_string()))?;
        let batch = probed.on_device(&batch, context.device);
        collect(probed, &batch, settings.directions, context, &mut places)?;
        tokens += batch.input.real_tokens;
        done += batch.len();
        context.report(done, settings.fit_questions(context))?;
    }
    let all = context.all_questions as f64 / context.questions.len().max(1) as f64;
    let blocks = places.into_iter().map(|place| {
        place.finish(
            settings.directions,
            [1.0 / tokens as f64, all],
            context.device,
        )
    });
    Ok(blocks.collect::<Result<Vec<_>, _>>()?.concat())
}

impl LaplaceSection {
    /// Questions that the fit goes through in all.
    pub(super) fn fit_questions(&self, context: &FitContext) -> usize {
        let held_out = match self.chooses_on_held_out() {
            true => context.held_out.len(),
            false => 0,
        };
        context.questions.len() + held_out
    }
}

/// Adds a batch to the curvature of every place.
fn collect(
    probed: &Probed,
    batch: &Batch,
    directions: usize,
    context: &FitContext,
    places: &mut Vec<PlaceCollector>,
) -> Result<(), TrainError> {
    let segments = batch.input.segments.clone().without_autodiff();
    let real = segments.greater_elem(0).float().reshape([-1, 1]);
    let below = probed.below(batch);
    for choice in 0..batch.choices.dims()[1] {
        // The gradient of -log p_c, times the root of p_c: its outer product is p_c g g^T.
        let pass = probed.pass(batch, &below, |logits| {
            let log_probabilities = log_softmax(logits, 1);
            let root = (log_probabilities.clone().without_autodiff() * 0.5).exp();
            column(log_probabilities * root.neg(), choice, batch)
        });
        for (number, capture) in pass.captures.iter().enumerate() {
            let (at_hidden, at_output) = &pass.gradients[number];
            if places.len() == number {
                let d_out = at_output.dims()[1];
                let seed = mix(context.seed, number as u64);
                let new = PlaceCollector::new(capture, d_out, directions, seed, context.device);
                places.push(new);
            }
            let [a, b] = &mut places[number].sides;
            if choice == 0 {
                // Padding has no gradient, but it has inputs.
                a[0].add(capture.input.clone() * real.clone())?;
                b[0].add(capture.hidden.clone() * real.clone())?;
            }
            a[1].add(at_hidden.clone())?;
            b[1].add(at_output.clone())?;
        }
    }
    Ok(())
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
    /// The blocks of A and of B; `scales` are the factors of the inputs' side and of the
    /// gradients'.
    fn finish(
        self,
        keep: usize,
        scales: [f64; 2],
        device: &Device,
    ) -> Result<Vec<Block>, TrainError> {
        let sides = self.sides.into_iter().zip(self.shapes);
        sides
            .map(|([inputs, gradients], shape)| {
                Ok(Block {
                    inputs: inputs.finish(keep, scales[0], device)?,
                    gradients: gradients.finish(keep, scales[1], device)?,
                    shape,
                })
            })
            .collect()
    }
}
