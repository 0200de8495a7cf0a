//! A router's probabilities, `softmax(x W)` for each row of x: a product with few columns on all
//! cores, which does not keep x for its backward pass.

use burn::backend::autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops},
};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, DispatchTensor, Flex, backend_extension, flex::FlexTensor};
use burn::tensor::Tensor;
use burn::tensor::activation::softmax;
use rayon::prelude::*;

use super::activation::{Activation, Source};
use super::flex::buffer::Buffer;
use super::flex::matrix::{Mat, Store, matmul};
use super::flex::{dims, dot, exponential, scale_rows, tensor, values};
use super::graph::{Kept, enter, plain};
use super::{Implementation, propagate, tracked};

/// Probabilities over the experts, in f32.
///
/// # Shapes
/// - x: `[n, d]`; weight: `[d, experts]`; output: `[n, experts]`
pub fn route(x: Activation, weight: Tensor<2>) -> Tensor<2> {
    match Implementation::of(&[&x.value, &weight]) {
        Implementation::Flex => {
            let (x, source) = x.into_dispatch();
            Tensor::from_dispatch(Dispatch::route(x, weight.into_dispatch(), source))
        }
        Implementation::Lean => lean(x, weight),
        Implementation::Composed => composed(x.value, weight),
    }
}

/// [`route()`] from Burn's own operations.
pub fn composed(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    softmax(x.matmul(weight), 1)
}

/// [`route()`] from Burn's own operations, which keeps the probabilities and what x came from.
pub fn lean(x: Activation, weight: Tensor<2>) -> Tensor<2> {
    let (source, value) = (x.plain_source(), x.value);
    let plain_weight = plain(&weight);
    let p = composed(plain(&value), plain_weight.clone());
    let kept = Lean {
        source,
        weight: plain_weight,
        p: p.clone(),
    };
    enter([value.into_dispatch(), weight.into_dispatch()], p, kept)
}

/// What [`lean`] keeps.
#[derive(Debug, Clone)]
struct Lean {
    source: Source<Dispatch>,
    weight: Tensor<2>,
    p: Tensor<2>,
}

impl Kept<2> for Lean {
    /// As the kernel's: with `dl = p (dp - p . dp)`, `dx = dl W^T` and `dW = x^T dl`.
    fn backward(self, grad: DispatchTensor, needs: [bool; 2]) -> [Option<DispatchTensor>; 2] {
        let Self { source, weight, p } = self;
        let dp = Tensor::<2>::from_dispatch(grad);
        let shared = (p.clone() * dp.clone()).sum_dim(1);
        let dl = p * (dp - shared);
        let dx = needs[0].then(|| dl.clone().matmul(weight.transpose()).into_dispatch());
        let dw = needs[1].then(|| source.value().transpose().matmul(dl).into_dispatch());
        [dx, dw]
    }
}

/// The forward and backward pass of [`route()`] as a backend implements them.
pub trait Kernels: Backend {
    /// Returns the probabilities, `[n, experts]`.
    fn forward(x: &FloatTensor<Self>, weight: &FloatTensor<Self>) -> FloatTensor<Self>;
    /// Returns the gradients to x and weight, given x, the weight and the probabilities. `needs`
    /// says which of the two are wanted.
    fn backward(
        x: Source<Self>,
        saved: [FloatTensor<Self>; 2],
        grad: FloatTensor<Self>,
        needs: [bool; 2],
    ) -> [Option<FloatTensor<Self>>; 2];
}

/// [`route()`] as Burn dispatches it.
#[backend_extension(Flex, Autodiff)]
pub trait Extension: Backend {
    /// See [`route()`].
    fn route(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        #[extension_type] source: Source<Self>,
    ) -> FloatTensor<Self>;
}

impl Extension for Flex {
    fn route(x: FlexTensor, weight: FlexTensor, source: Source<Self>) -> FlexTensor {
        // Without a backward pass, what x was computed from is not needed.
        drop(source);
        Self::forward(&x, &weight)
    }
}

impl<B: Kernels, C: CheckpointStrategy> Extension for Autodiff<B, C> {
    fn route(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        source: Source<Self>,
    ) -> FloatTensor<Self> {
        let (x, x_node) = x.into_parts();
        let (weight, weight_node) = weight.into_parts();
        let p = B::forward(&x, &weight);
        let saved = (source.inner(&x), [weight, p.clone()]);
        tracked::<B, C, _, 2>(RouteBackward, [x_node, weight_node], saved, p)
    }
}

#[derive(Debug)]
struct RouteBackward;

impl<B: Kernels> Backward<B, 2> for RouteBackward {
    /// x, the weight and the probabilities: handles, not copies.
    type State = (Source<B>, [FloatTensor<B>; 2]);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        propagate::<B, _, 2>(ops, grads, |(x, saved), grad, needs| {
            B::backward(x, saved, grad, needs)
        });
    }
}

/// Rows of one task.
const BLOCK: usize = 64;

impl Kernels for Flex {
    fn forward(x: &FlexTensor, weight: &FlexTensor) -> FlexTensor {
        let [x, weight] = [x, weight].map(FlexTensor::to_contiguous);
        let ([n, d], [_, experts]) = (dims(&x), dims(&weight));
        let w = Mat::new(values(&weight), d, experts);
        let mut p = Buffer::new(n * experts);
        p.par_chunks_mut(BLOCK * experts)
            .zip(values(&x).par_chunks(BLOCK * d))
            .for_each(|(p, x)| {
                matmul(p, Mat::new(x, x.len() / d, d), w, 1.0, Store::Overwrite);
                for p in p.chunks_mut(experts) {
                    exponential::softmax(p);
                }
            });
        tensor(p.into_vec(), [n, experts])
    }

    /// With `dl = p (dp - p . dp)`: `dx = dl W^T`, `dW = x^T dl`.
    fn backward(
        x: Source<Flex>,
        [weight, p]: [FlexTensor; 2],
        grad: FlexTensor,
        needs: [bool; 2],
    ) -> [Option<FlexTensor>; 2] {
        let [_, experts] = dims(&weight);
        let mut dl = logit_gradients(&p, &grad);
        let dx = needs[0].then(|| input_gradient(&dl, &weight));
        let dw = needs[1].then(|| weight_gradient(x, &mut dl, experts));
        [dx, dw]
    }
}

/// `dl = p (dp - p . dp)`, the gradient to the logits.
fn logit_gradients(p: &FlexTensor, grad: &FlexTensor) -> Vec<f32> {
    let [p, grad] = [p, grad].map(FlexTensor::to_contiguous);
    let [n, experts] = dims(&p);
    let mut dl = Buffer::new(n * experts);
    let rows = dl.par_chunks_mut(experts).with_min_len(BLOCK);
    rows.zip((
        values(&p).par_chunks(experts),
        values(&grad).par_chunks(experts),
    ))
    .for_each(|(dl, (p, dp))| {
        let shared = dot(p, dp);
        for ((dl, p), dp) in dl.iter_mut().zip(p).zip(dp) {
            *dl = p * (dp - shared);
        }
    });
    dl.into_vec()
}

/// `dx = dl W^T`
fn input_gradient(dl: &[f32], weight: &FlexTensor) -> FlexTensor {
    let weight = weight.to_contiguous();
    let [d, experts] = dims(&weight);
    let w = Mat::new(values(&weight), d, experts);
    let n = dl.len() / experts;
    let mut dx = Buffer::new(n * d);
    dx.par_chunks_mut(BLOCK * d)
        .zip(dl.par_chunks(BLOCK * experts))
        .for_each(|(dx, dl)| {
            let dl = Mat::new(dl, dl.len() / experts, experts);
            matmul(dx, dl, w.transposed(), 1.0, Store::Overwrite);
        });
    tensor(dx.into_vec(), [n, d])
}

/// `dW = x^T dl`, where dl may be scaled on the way.
fn weight_gradient(x: Source<Flex>, dl: &mut [f32], experts: usize) -> FlexTensor {
    let (x, gain) = x.rows(dl, experts);
    let [n, d] = dims(&x);
    let (x, gain) = (values(&x), gain.as_ref().map(values));
    let mut dw = Buffer::new(d * experts);
    let blocks = dw.par_chunks_mut(BLOCK * experts).enumerate();
    blocks.for_each(|(block, dw)| {
        let (first, columns) = (block * BLOCK, dw.len() / experts);
        let part = Mat::block(&x[first..], n, columns, d);
        let dl = Mat::new(dl, n, experts);
        matmul(dw, part.transposed(), dl, 1.0, Store::Overwrite);
        if let Some(gain) = gain {
            scale_rows(dw, experts, &gain[first..]);
        }
    });
    tensor(dw.into_vec(), [d, experts])
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::fused::activation::Origin;
    use crate::fused::rms_norm::rms_norm;
    use crate::fused::testing::{assert_close, leaf, random};

    #[test]
    fn routing_equals_its_composed_form_in_value_and_gradients() {
        let device = Device::flex();
        device.seed(8);
        // One row, several blocks of rows and of columns, more experts than a register holds.
        for (n, d, experts) in [(1, 3, 2), (150, 70, 8), (67, 130, 33)] {
            let (x, gain) = (random([n, d], &device) * 3.0, random([d], &device));
            let weight = random([d, experts], &device);
            let upstream = random([n, experts], &device);
            // What x is made from is followed to its own gradient, or x is cut off.
            for (normed, tracked) in [(false, true), (true, true), (true, false)] {
                let run = |op: fn(Activation, Tensor<2>) -> Tensor<2>| {
                    let (start, weight) = (leaf(&x), leaf(&weight));
                    let mut x = Activation::from(start.clone());
                    if normed {
                        x.value = rms_norm(x.value, gain.clone(), 1e-5);
                        x.origin = Origin::RmsNorm {
                            x: start.clone(),
                            gain: gain.clone(),
                            eps: 1e-5,
                        };
                    }
                    if !tracked {
                        x.value = x.value.detach();
                    }
                    let p = op(x, weight.clone());
                    let grads = (p.clone() * upstream.clone()).sum().backward();
                    let found = (start.grad(&grads), weight.grad(&grads).unwrap());
                    (p.without_autodiff(), found)
                };
                let composed = run(|x, weight| composed(x.value, weight));
                for found in [run(route), run(lean)] {
                    assert_close(found.0, composed.0.clone(), 1e-5);
                    assert_eq!(found.1.0.is_some(), tracked);
                    if let (Some(found), Some(composed)) = (found.1.0, composed.1.0.clone()) {
                        assert_close(found, composed, 1e-5);
                    }
                    assert_close(found.1.1, composed.1.1.clone(), 1e-5);
                }
            }
        }
    }
}
