//! `silu(gate) * up`, in one pass instead of four, on all cores.

use burn::backend::autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops},
};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, DispatchTensor, Flex, backend_extension, flex::FlexTensor};
use burn::tensor::Tensor;
use burn::tensor::activation::{sigmoid, silu};
use pulp::{Arch, Simd};
use rayon::prelude::*;

use super::flex::buffer::Buffer;
use super::flex::exponential::exp;
use super::flex::{dims, tensor, values};
use super::graph::{Kept, enter, plain, whole};
use super::{Implementation, propagate, tracked};

/// The gated activation of a LLaMA block: `gate / (1 + exp(-gate)) * up`.
///
/// # Shapes
/// - gate, up, output: `[n, d]`
pub fn swiglu(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    match Implementation::of(&[&gate, &up]) {
        Implementation::Flex => {
            Tensor::from_dispatch(Dispatch::swiglu(gate.into_dispatch(), up.into_dispatch()))
        }
        Implementation::Lean => lean(gate, up),
        Implementation::Composed => composed(gate, up),
    }
}

/// [`swiglu()`] from Burn's own operations.
pub fn composed(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    silu(gate) * up
}

/// [`swiglu()`] from Burn's own operations, in f32, which keeps gate and up alone, as they are.
pub fn lean(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    let kept = Lean {
        gate: plain(&gate),
        up: plain(&up),
    };
    let [gate_value, up_value] = [&kept.gate, &kept.up].map(whole);
    let y = composed(gate_value, up_value);
    enter([gate.into_dispatch(), up.into_dispatch()], y, kept)
}

/// What [`lean`] keeps.
#[derive(Debug, Clone)]
struct Lean {
    gate: Tensor<2>,
    up: Tensor<2>,
}

impl Kept<2> for Lean {
    /// As the kernel's: with `s = sigmoid(gate)`, `dgate = dy up s (1 + gate (1 - s))` and
    /// `dup = dy gate s`.
    fn backward(self, grad: DispatchTensor, needs: [bool; 2]) -> [Option<DispatchTensor>; 2] {
        let kinds = [self.gate.dtype(), self.up.dtype()];
        let [gate, up] = [&self.gate, &self.up].map(whole);
        let scaled = Tensor::<2>::from_dispatch(grad) * sigmoid(gate.clone());
        let d_gate = needs[0].then(|| {
            let slope = (sigmoid(gate.clone()).neg() + 1.0) * gate.clone() + 1.0;
            let found = scaled.clone() * up * slope;
            found.cast(kinds[0]).into_dispatch()
        });
        let d_up = needs[1].then(|| (scaled * gate).cast(kinds[1]).into_dispatch());
        [d_gate, d_up]
    }
}

/// The forward and backward pass of [`swiglu()`] as a backend implements them.
pub trait Kernels: Backend {
    /// Returns `silu(gate) * up`, `[n, d]`.
    fn forward(gate: &FloatTensor<Self>, up: &FloatTensor<Self>) -> FloatTensor<Self>;
    /// Returns the gradients to gate and up, given both.
    fn backward(saved: [FloatTensor<Self>; 2], grad: FloatTensor<Self>) -> [FloatTensor<Self>; 2];
}

/// [`swiglu()`] as Burn dispatches it.
#[backend_extension(Flex, Autodiff)]
pub trait Extension: Backend {
    /// See [`swiglu()`].
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl Extension for Flex {
    fn swiglu(gate: FlexTensor, up: FlexTensor) -> FlexTensor {
        Self::forward(&gate, &up)
    }
}

impl<B: Kernels, C: CheckpointStrategy> Extension for Autodiff<B, C> {
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        let (gate, gate_node) = gate.into_parts();
        let (up, up_node) = up.into_parts();
        let y = B::forward(&gate, &up);
        tracked::<B, C, _, 2>(SwigluBackward, [gate_node, up_node], [gate, up], y)
    }
}

#[derive(Debug)]
struct SwigluBackward;

impl<B: Kernels> Backward<B, 2> for SwigluBackward {
    /// gate, up: handles, not copies.
    type State = [FloatTensor<B>; 2];

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        propagate::<B, _, 2>(ops, grads, |saved, grad, _| {
            B::backward(saved, grad).map(Some)
        });
    }
}

/// Values handled by one task.
const BLOCK: usize = 16 * 1024;

impl Kernels for Flex {
    fn forward(gate: &FlexTensor, up: &FlexTensor) -> FlexTensor {
        let [gate, up] = [gate, up].map(FlexTensor::to_contiguous);
        let shape: [usize; 2] = dims(&gate);
        let mut y = Buffer::new(shape[0] * shape[1]);
        y.par_chunks_mut(BLOCK)
            .zip((
                values(&gate).par_chunks(BLOCK),
                values(&up).par_chunks(BLOCK),
            ))
            .for_each(|(y, (gate, up))| gated(y, gate, up));
        tensor(y.into_vec(), shape)
    }

    /// With `s = sigmoid(gate)`: `dgate = dy up s (1 + gate (1 - s))`, `dup = dy gate s`.
    fn backward(saved: [FlexTensor; 2], grad: FlexTensor) -> [FlexTensor; 2] {
        let [gate, up] = saved.map(|t| t.to_contiguous());
        let grad = grad.to_contiguous();
        let shape: [usize; 2] = dims(&gate);
        let count = shape[0] * shape[1];
        let (mut d_gate, mut d_up) = (Buffer::new(count), Buffer::new(count));
        d_gate
            .par_chunks_mut(BLOCK)
            .zip(d_up.par_chunks_mut(BLOCK))
            .zip((
                values(&gate).par_chunks(BLOCK),
                values(&up).par_chunks(BLOCK),
            ))
            .zip(values(&grad).par_chunks(BLOCK))
            .for_each(|((found, inputs), grad)| gradients(found, inputs, grad));
        [d_gate, d_up].map(|found| tensor(found.into_vec(), shape))
    }
}

#[inline(always)]
fn logistic(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[pulp::with_simd(gated = Arch::new())]
#[inline(always)]
fn gated_with<'a, S: Simd>(_simd: S, y: &'a mut [f32], gate: &'a [f32], up: &'a [f32]) {
    for ((y, g), u) in y.iter_mut().zip(gate).zip(up) {
        *y = g * logistic(*g) * u;
    }
}

#[pulp::with_simd(gradients = Arch::new())]
#[inline(always)]
fn gradients_with<'a, S: Simd>(
    _simd: S,
    (d_gate, d_up): (&'a mut [f32], &'a mut [f32]),
    (gate, up): (&'a [f32], &'a [f32]),
    grad: &'a [f32],
) {
    let places = d_gate.iter_mut().zip(d_up).zip(gate).zip(up).zip(grad);
    for ((((d_gate, d_up), g), u), dy) in places {
        let s = logistic(*g);
        *d_gate = dy * u * s * (1.0 + g * (1.0 - s));
        *d_up = dy * g * s;
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::fused::testing::{assert_close, leaf, random};

    #[test]
    fn swiglu_equals_its_composed_form_in_value_and_gradients() {
        let device = Device::flex();
        device.seed(4);
        for (n, d) in [(1, 1), (71, 37), (64, 1536)] {
            let (gate, up) = (random([n, d], &device) * 8.0, random([d, n], &device));
            let upstream = random([n, d], &device);
            let run = |op: fn(Tensor<2>, Tensor<2>) -> Tensor<2>| {
                let (gate, up) = (leaf(&gate), leaf(&up));
                // One of the inputs is a transposed view.
                let y = op(gate.clone(), up.clone().transpose());
                let grads = (y.clone() * upstream.clone()).sum().backward();
                let (d_gate, d_up) = (gate.grad(&grads).unwrap(), up.grad(&grads).unwrap());
                (y.without_autodiff(), d_gate, d_up)
            };
            let composed = run(composed);
            for found in [run(swiglu), run(lean)] {
                assert_close(found.0, composed.0.clone(), 1e-5);
                assert_close(found.1, composed.1.clone(), 1e-5);
                assert_close(found.2, composed.2.clone(), 1e-5);
            }
        }
    }
}
