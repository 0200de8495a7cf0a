//! `x / sqrt(mean(x^2) + eps) * gain` for each row of x, in one pass instead of five.

use burn::backend::autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops},
};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, DispatchTensor, Flex, backend_extension, flex::FlexTensor};
use burn::tensor::Tensor;
use rayon::prelude::*;

use super::flex::buffer::Buffer;
use super::flex::{dims, dot, tensor, values};
use super::graph::{Kept, enter, plain};
use super::{Implementation, propagate, tracked};

/// Normalises each row by its root mean square and multiplies by a frozen gain.
///
/// # Shapes
/// - x, output: `[n, d]`
/// - gain: `[d]`, no gradient reaches it
pub fn rms_norm(x: Tensor<2>, gain: Tensor<1>, eps: f64) -> Tensor<2> {
    match Implementation::of(&[&x]) {
        Implementation::Flex => Tensor::from_dispatch(Dispatch::rms_norm(
            x.into_dispatch(),
            gain.into_dispatch(),
            eps,
        )),
        Implementation::Lean => lean(x, gain, eps),
        Implementation::Composed => composed(x, gain, eps),
    }
}

/// [`rms_norm`] from Burn's own operations.
pub fn composed(x: Tensor<2>, gain: Tensor<1>, eps: f64) -> Tensor<2> {
    let rms = (x.clone().square().mean_dim(1) + eps).sqrt();
    x / rms * gain.unsqueeze()
}

/// [`rms_norm`] from Burn's own operations, which keeps x alone.
pub fn lean(x: Tensor<2>, gain: Tensor<1>, eps: f64) -> Tensor<2> {
    let kept = Lean {
        x: plain(&x),
        gain: plain(&gain),
        eps,
    };
    let y = composed(kept.x.clone(), kept.gain.clone(), eps);
    enter([x.into_dispatch()], y, kept)
}

/// What [`lean`] keeps.
#[derive(Debug, Clone)]
struct Lean {
    x: Tensor<2>,
    gain: Tensor<1>,
    eps: f64,
}

impl Kept<1> for Lean {
    /// As the kernel's: with `s = 1 / rms` and `g = dy * gain`, `dx = s g - x s^3 (g . x) / d`.
    fn backward(self, grad: DispatchTensor, _: [bool; 1]) -> [Option<DispatchTensor>; 1] {
        let Self { x, gain, eps } = self;
        let s = (x.clone().square().mean_dim(1) + eps).sqrt().recip();
        let g = Tensor::<2>::from_dispatch(grad) * gain.unsqueeze();
        let shared = (g.clone() * x.clone()).mean_dim(1) * s.clone().square();
        [Some(((g - x * shared) * s).into_dispatch())]
    }
}

/// The forward and backward pass of [`rms_norm()`] as a backend implements them.
pub trait Kernels: Backend {
    /// Returns y `[n, d]` and 1 / rms `[n]`.
    fn forward(x: &FloatTensor<Self>, gain: &FloatTensor<Self>, eps: f64)
    -> [FloatTensor<Self>; 2];
    /// Returns the gradient to x, given x, the gain and 1 / rms. The gain is frozen.
    fn backward(saved: [FloatTensor<Self>; 3], grad: FloatTensor<Self>) -> FloatTensor<Self>;
}

/// [`rms_norm()`] as Burn dispatches it.
#[backend_extension(Flex, Autodiff)]
pub trait Extension: Backend {
    /// See [`rms_norm()`].
    fn rms_norm(x: FloatTensor<Self>, gain: FloatTensor<Self>, eps: f64) -> FloatTensor<Self>;
}

impl Extension for Flex {
    fn rms_norm(x: FlexTensor, gain: FlexTensor, eps: f64) -> FlexTensor {
        let [y, _] = Self::forward(&x, &gain, eps);
        y
    }
}

impl<B: Kernels, C: CheckpointStrategy> Extension for Autodiff<B, C> {
    fn rms_norm(x: FloatTensor<Self>, gain: FloatTensor<Self>, eps: f64) -> FloatTensor<Self> {
        let (x, x_node) = x.into_parts();
        let (gain, _) = gain.into_parts();
        let [y, inverse] = B::forward(&x, &gain, eps);
        tracked::<B, C, _, 1>(RmsNormBackward, [x_node], [x, gain, inverse], y)
    }
}

#[derive(Debug)]
struct RmsNormBackward;

impl<B: Kernels> Backward<B, 1> for RmsNormBackward {
    /// x, gain, 1 / rms: handles, not copies.
    type State = [FloatTensor<B>; 3];

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        propagate::<B, _, 1>(ops, grads, |saved, grad, _| {
            [Some(B::backward(saved, grad))]
        });
    }
}

/// Rows handled by one task.
const BLOCK: usize = 32;

impl Kernels for Flex {
    fn forward(x: &FlexTensor, gain: &FlexTensor, eps: f64) -> [FlexTensor; 2] {
        let [x, gain] = [x, gain].map(FlexTensor::to_contiguous);
        let ([n, d], gain) = (dims(&x), values(&gain));
        let (mut y, mut inverses) = (Buffer::new(n * d), vec![0f32; n]);
        y.par_chunks_mut(d)
            .zip((values(&x).par_chunks(d), &mut inverses))
            .with_min_len(BLOCK)
            .for_each(|(y, (x, to))| {
                let inverse = inverse(x, eps);
                *to = inverse;
                for ((y, x), gain) in y.iter_mut().zip(x).zip(gain) {
                    *y = x * inverse * gain;
                }
            });
        [tensor(y.into_vec(), [n, d]), tensor(inverses, [n])]
    }

    /// With `s = 1 / rms` and `g = dy * gain`: `dx = s g - x s^3 (g . x) / d`.
    fn backward(saved: [FlexTensor; 3], grad: FlexTensor) -> FlexTensor {
        let [x, gain, inverse] = saved.map(|t| t.to_contiguous());
        let grad = grad.to_contiguous();
        let ([n, d], gain) = (dims(&x), values(&gain));
        let mut dx = Buffer::new(n * d);
        dx.par_chunks_mut(d)
            .zip(values(&x).par_chunks(d))
            .zip((values(&grad).par_chunks(d), values(&inverse)))
            .with_min_len(BLOCK)
            .for_each(|((dx, x), (dy, s))| {
                for ((dx, dy), gain) in dx.iter_mut().zip(dy).zip(gain) {
                    *dx = dy * gain;
                }
                let shared = dot(dx, x) * s * s * s / d as f32;
                for (dx, x) in dx.iter_mut().zip(x) {
                    *dx = *dx * s - x * shared;
                }
            });
        tensor(dx.into_vec(), [n, d])
    }
}

/// 1 / rms of a row.
fn inverse(x: &[f32], eps: f64) -> f32 {
    (dot(x, x) / x.len() as f32 + eps as f32).sqrt().recip()
}

/// 1 / rms of each row of a contiguous x.
pub(super) fn inverses(x: &FlexTensor, eps: f64) -> Vec<f32> {
    let [_, d] = dims(x);
    let rows = values(x).par_chunks(d).with_min_len(BLOCK);
    rows.map(|x| inverse(x, eps)).collect()
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::fused::testing::{assert_close, leaf, random};

    #[test]
    fn rms_norm_equals_its_composed_form_in_value_and_gradient() {
        let device = Device::flex();
        device.seed(1);
        for (n, d) in [(1, 1), (71, 37), (64, 576)] {
            let (x, gain) = (random([n, d], &device), random([d], &device));
            let upstream = random([d, n], &device);
            let run = |op: fn(Tensor<2>, Tensor<1>, f64) -> Tensor<2>| {
                let x = leaf(&x);
                let y = op(x.clone(), gain.clone(), 1e-5);
                // The incoming gradient is a transposed view.
                let grads = (y.clone() * upstream.clone().transpose()).sum().backward();
                (y.without_autodiff(), x.grad(&grads).unwrap())
            };
            let composed = run(composed);
            for found in [run(rms_norm), run(lean)] {
                assert_close(found.0, composed.0.clone(), 1e-5);
                assert_close(found.1, composed.1.clone(), 1e-4);
            }
        }
    }
}
