//! `log softmax(logits[row])[token]` for some tokens of each row, without the whole matrix of log-probabilities: a vocabulary is
//! tens of thousands wide, and a choice reads one of them.

use burn::backend::{Dispatch, flex::FlexTensor};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor};
use pulp::{Arch, Simd};
use rayon::prelude::*;

use super::exponential::{exp, largest};
use super::room::Room;
use super::{FusedOps, dims, has_kernels, integers, tensor, values};

/// `log p(token)` of each target, read in its row.
///
/// # Shapes
/// - logits: `[rows, vocabulary]`; row, token, output: `[targets]`
pub fn log_likelihood(logits: Tensor<2>, row: Tensor<1, Int>, token: Tensor<1, Int>) -> Tensor<1> {
    if !has_kernels(&logits) {
        return composed(logits, row, token);
    }
    Tensor::from_dispatch(Dispatch::log_likelihood(
        logits.into_dispatch(),
        row.into_dispatch(),
        token.into_dispatch(),
    ))
}

/// The same from Burn's own operations.
pub fn composed(logits: Tensor<2>, row: Tensor<1, Int>, token: Tensor<1, Int>) -> Tensor<1> {
    let [rows, vocabulary] = logits.dims();
    log_softmax(logits, 1)
        .reshape([rows * vocabulary])
        .select(0, row * vocabulary as i64 + token)
}

/// Largest value and `ln sum exp(x - largest)`.
#[pulp::with_simd(log_sum = Arch::new())]
#[inline(always)]
fn log_sum_with<S: Simd>(_simd: S, row: &[f32]) -> f32 {
    let largest = largest(row);
    let (blocks, rest) = row.as_chunks::<16>();
    let mut sums = [0f32; 16];
    for block in blocks {
        for i in 0..16 {
            sums[i] += exp(block[i] - largest);
        }
    }
    let rest: f32 = rest.iter().map(|x| exp(x - largest)).sum();
    // Sums of halves, so that tens of thousands of terms lose no digits.
    largest + (sums.iter().sum::<f32>() + rest).ln()
}

/// Returns the log-likelihoods and `ln sum exp` of each row.
pub(super) fn forward(
    logits: &FlexTensor,
    row: &FlexTensor,
    token: &FlexTensor,
) -> [FlexTensor; 2] {
    let logits = logits.to_contiguous();
    let [rows, vocabulary] = dims(&logits);
    let logits = values(&logits);
    let sums: Vec<f32> = logits.par_chunks(vocabulary).map(log_sum).collect();
    let found: Vec<f32> = integers(row)
        .iter()
        .zip(integers(token))
        .map(|(row, token)| logits[row * vocabulary + token] - sums[*row])
        .collect();
    let targets = found.len();
    [tensor(found, [targets]), tensor(sums, [rows])]
}

/// Row by row, with `G` the sum of its targets' gradients: `-G softmax`, plus each target's gradient at its token.
pub(super) fn backward(
    saved: [FlexTensor; 2],
    at: [FlexTensor; 2],
    grad: FlexTensor,
) -> FlexTensor {
    let [logits, sums] = saved.map(|t| t.to_contiguous());
    let grad = grad.to_contiguous();
    let [rows, vocabulary] = dims(&logits);
    let [row, token] = at.map(|t| integers(&t));
    let mut of_row: Vec<Vec<(usize, f32)>> = vec![Vec::new(); rows];
    for ((row, token), grad) in row.iter().zip(token).zip(values(&grad)) {
        of_row[*row].push((token, *grad));
    }
    let mut found = Room::new(rows * vocabulary);
    found
        .par_chunks_mut(vocabulary)
        .zip(values(&logits).par_chunks(vocabulary))
        .zip((&of_row, values(&sums)))
        .for_each(|((found, logits), (targets, sum))| {
            let total: f32 = targets.iter().map(|(_, grad)| grad).sum();
            if total != 0.0 {
                softmax(found, logits, *sum, -total);
            }
            for (token, grad) in targets {
                found[*token] += grad;
            }
        });
    tensor(found.into_vec(), [rows, vocabulary])
}

#[pulp::with_simd(softmax = Arch::new())]
#[inline(always)]
fn softmax_with<'a, S: Simd>(
    _simd: S,
    to: &'a mut [f32],
    logits: &'a [f32],
    sum: f32,
    factor: f32,
) {
    for (to, logit) in to.iter_mut().zip(logits) {
        *to = factor * exp(logit - sum);
    }
}
