//! `log softmax(logits[row])[token]` for some tokens of each row, without the whole matrix of
//! log-probabilities: a vocabulary is tens of thousands wide, and a choice reads one of them.

use burn::backend::autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops},
};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, DispatchTensor, Flex, backend_extension, flex::FlexTensor};
use burn::tensor::activation::log_softmax;
use burn::tensor::{IndexingUpdateOp, Int, Tensor};
use pulp::{Arch, Simd};
use rayon::prelude::*;

use super::flex::buffer::Buffer;
use super::flex::exponential::{exp, largest};
use super::flex::{dims, integers, tensor, values};
use super::graph::{Kept, enter, plain};
use super::{Implementation, propagate, tracked};

/// `log p(token)` of each target, read in its row.
///
/// # Shapes
/// - logits: `[rows, vocabulary]`; row, token, output: `[targets]`
pub fn log_likelihood(logits: Tensor<2>, row: Tensor<1, Int>, token: Tensor<1, Int>) -> Tensor<1> {
    match Implementation::of(&[&logits]) {
        Implementation::Flex => Tensor::from_dispatch(Dispatch::log_likelihood(
            logits.into_dispatch(),
            row.into_dispatch(),
            token.into_dispatch(),
        )),
        Implementation::Lean => lean(logits, row, token),
        Implementation::Composed => composed(logits, row, token),
    }
}

/// [`log_likelihood()`] from Burn's own operations.
pub fn composed(logits: Tensor<2>, row: Tensor<1, Int>, token: Tensor<1, Int>) -> Tensor<1> {
    let [rows, vocabulary] = logits.dims();
    log_softmax(logits, 1)
        .reshape([rows * vocabulary])
        .select(0, row * vocabulary as i64 + token)
}

/// [`log_likelihood()`] from Burn's own operations, which keeps the logits alone.
pub fn lean(logits: Tensor<2>, row: Tensor<1, Int>, token: Tensor<1, Int>) -> Tensor<1> {
    let plain_logits = plain(&logits);
    let [row, token] = [row, token].map(Tensor::without_autodiff);
    let [rows, vocabulary] = plain_logits.dims();
    let largest = plain_logits.clone().max_dim(1);
    let sums = (plain_logits.clone() - largest.clone())
        .exp()
        .sum_dim(1)
        .log()
        + largest;
    let place = row.clone() * vocabulary as i64 + token;
    let read = plain_logits
        .clone()
        .reshape([rows * vocabulary])
        .select(0, place.clone());
    let y = read - sums.clone().reshape([rows]).select(0, row.clone());
    let kept = Lean {
        logits: plain_logits,
        sums,
        row,
        place,
    };
    enter([logits.into_dispatch()], y, kept)
}

/// What [`lean`] keeps.
#[derive(Debug, Clone)]
struct Lean {
    logits: Tensor<2>,
    /// `ln sum exp` of each row, `[rows, 1]`.
    sums: Tensor<2>,
    row: Tensor<1, Int>,
    /// Flat indices of the targets.
    place: Tensor<1, Int>,
}

impl Kept<1> for Lean {
    /// As the kernel's: with G the sum of the gradients of a row's targets, `-G softmax`, plus each
    /// target's gradient at its token.
    fn backward(self, grad: DispatchTensor, _: [bool; 1]) -> [Option<DispatchTensor>; 1] {
        let grad = Tensor::<1>::from_dispatch(grad);
        let [rows, vocabulary] = self.logits.dims();
        let zeros = |count| Tensor::<1>::zeros([count], (&grad.device(), grad.dtype()));
        let add = IndexingUpdateOp::Add;
        let totals = zeros(rows).select_assign(0, self.row, grad.clone(), add);
        let spread = (self.logits - self.sums).exp() * totals.neg().reshape([rows, 1]);
        let found = spread.reshape([rows * vocabulary]);
        let found = found.select_assign(0, self.place, grad, IndexingUpdateOp::Add);
        [Some(found.reshape([rows, vocabulary]).into_dispatch())]
    }
}

/// The forward and backward pass of [`log_likelihood()`] as a backend implements them.
pub trait Kernels: Backend {
    /// Returns the log-likelihoods `[targets]` and `ln sum exp` of each row, `[rows]`.
    fn forward(
        logits: &FloatTensor<Self>,
        row: &IntTensor<Self>,
        token: &IntTensor<Self>,
    ) -> [FloatTensor<Self>; 2];
    /// Returns the gradient to the logits, given the logits and `ln sum exp`, and the targets'
    /// rows and tokens.
    fn backward(
        saved: [FloatTensor<Self>; 2],
        at: [IntTensor<Self>; 2],
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
}

/// [`log_likelihood()`] as Burn dispatches it.
#[backend_extension(Flex, Autodiff)]
pub trait Extension: Backend {
    /// See [`log_likelihood()`].
    fn log_likelihood(
        logits: FloatTensor<Self>,
        row: IntTensor<Self>,
        token: IntTensor<Self>,
    ) -> FloatTensor<Self>;
}

impl Extension for Flex {
    fn log_likelihood(logits: FlexTensor, row: FlexTensor, token: FlexTensor) -> FlexTensor {
        let [y, _] = Self::forward(&logits, &row, &token);
        y
    }
}

impl<B: Kernels, C: CheckpointStrategy> Extension for Autodiff<B, C> {
    fn log_likelihood(
        logits: FloatTensor<Self>,
        row: IntTensor<Self>,
        token: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        let (logits, node) = logits.into_parts();
        let [y, sums] = B::forward(&logits, &row, &token);
        let saved = ([logits, sums], [row, token]);
        tracked::<B, C, _, 1>(LogLikelihoodBackward, [node], saved, y)
    }
}

#[derive(Debug)]
struct LogLikelihoodBackward;

impl<B: Kernels> Backward<B, 1> for LogLikelihoodBackward {
    /// Logits and `ln sum exp`; rows and tokens of the targets.
    type State = ([FloatTensor<B>; 2], [IntTensor<B>; 2]);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        propagate::<B, _, 1>(ops, grads, |(saved, at), grad, _| {
            [Some(B::backward(saved, at, grad))]
        });
    }
}

impl Kernels for Flex {
    fn forward(logits: &FlexTensor, row: &FlexTensor, token: &FlexTensor) -> [FlexTensor; 2] {
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

    /// Row by row, with `G` the sum of its targets' gradients: `-G softmax`, plus each target's
    /// gradient at its token.
    fn backward(saved: [FlexTensor; 2], at: [FlexTensor; 2], grad: FlexTensor) -> FlexTensor {
        let [logits, sums] = saved.map(|t| t.to_contiguous());
        let grad = grad.to_contiguous();
        let [rows, vocabulary] = dims(&logits);
        let [row, token] = at.map(|t| integers(&t));
        let mut of_row: Vec<Vec<(usize, f32)>> = vec![Vec::new(); rows];
        for ((row, token), grad) in row.iter().zip(token).zip(values(&grad)) {
            of_row[*row].push((token, *grad));
        }
        let mut found = Buffer::new(rows * vocabulary);
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
}

/// `ln sum exp` of a row.
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
    // Sixteen partial sums, so that tens of thousands of terms lose no digits.
    largest + (sums.iter().sum::<f32>() + rest).ln()
}

/// `factor softmax(logits)`, given the row's `ln sum exp`.
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

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::fused::testing::{assert_close, leaf, random};

    #[test]
    fn log_likelihood_equals_its_composed_form_in_value_and_gradient() {
        let device = Device::flex();
        device.seed(5);
        // A row that several targets read, one that none does, a repeated target.
        let row = Tensor::<1, Int>::from_data([0, 2, 2, 3, 3], &device);
        for width in [5, 16, 1003] {
            let logits = random([4, width], &device) * 30.0;
            let token = Tensor::<1, Int>::from_data([4, 0, 3, 1, 1], &device);
            let upstream: Tensor<1> = random([5], &device);
            let run = |op: fn(Tensor<2>, Tensor<1, Int>, Tensor<1, Int>) -> Tensor<1>| {
                let logits = leaf(&logits);
                let y = op(logits.clone(), row.clone(), token.clone());
                let grads = (y.clone() * upstream.clone()).sum().backward();
                (y.without_autodiff(), logits.grad(&grads).unwrap())
            };
            let composed = run(composed);
            for found in [run(log_likelihood), run(lean)] {
                assert_close(found.0, composed.0.clone(), 1e-5);
                assert_close(found.1, composed.1.clone(), 1e-5);
            }
        }
    }
}
