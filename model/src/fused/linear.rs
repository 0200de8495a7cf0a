//! A frozen linear map: no gradient reaches its weights.

use burn::backend::autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops},
};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, backend_extension, flex::FlexTensor};
use burn::tensor::Tensor;

use super::flex::matrix::{Mat, product};
use super::flex::{dims, tensor, values};
use super::{Implementation, propagate, tracked};

/// `x W^T` with a frozen W.
///
/// # Shapes
/// - x: `[n, d]`; weight: `[o, d]`, as the files have it; output: `[n, o]`
pub fn linear(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    match Implementation::of(&[&x, &weight]) {
        Implementation::Flex => {
            Tensor::from_dispatch(Dispatch::linear(x.into_dispatch(), weight.into_dispatch()))
        }
        // Burn's own product keeps no more than the weight: x is not read again.
        Implementation::Lean | Implementation::Composed => composed(x, weight),
    }
}

/// [`linear()`] in the weight's type, the result in the type of x.
pub(crate) fn in_its_type(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    let (input, kind) = (x.dtype(), weight.dtype());
    linear(x.cast(kind), weight).cast(input)
}

/// The gradient to x of [`in_its_type`], outside the graph: `dy W`.
pub(super) fn gradient_in_its_type(grad: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    let (input, kind) = (grad.dtype(), weight.dtype());
    grad.cast(kind).matmul(weight).cast(input)
}

/// [`linear()`] from Burn's own operations.
pub fn composed(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    x.matmul(weight.transpose())
}

/// The forward and backward pass of [`linear()`] as a backend implements them.
pub trait Kernels: Backend {
    /// Returns `x W^T`, `[n, o]`.
    fn forward(x: &FloatTensor<Self>, weight: &FloatTensor<Self>) -> FloatTensor<Self>;
    /// Returns the gradient to x, given the weight. The weight is frozen.
    fn backward(weight: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self>;
}

/// [`linear()`] as Burn dispatches it.
#[backend_extension(Flex, Autodiff)]
pub trait Extension: Backend {
    /// See [`linear()`].
    fn linear(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl Extension for Flex {
    fn linear(x: FlexTensor, weight: FlexTensor) -> FlexTensor {
        Self::forward(&x, &weight)
    }
}

impl<B: Kernels, C: CheckpointStrategy> Extension for Autodiff<B, C> {
    fn linear(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        let (x, x_node) = x.into_parts();
        let (weight, _) = weight.into_parts();
        let y = B::forward(&x, &weight);
        tracked::<B, C, _, 1>(LinearBackward, [x_node], weight, y)
    }
}

#[derive(Debug)]
struct LinearBackward;

impl<B: Kernels> Backward<B, 1> for LinearBackward {
    /// The weight: a handle, not a copy.
    type State = FloatTensor<B>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        propagate::<B, _, 1>(ops, grads, |weight, grad, _| {
            [Some(B::backward(weight, grad))]
        });
    }
}

impl Kernels for Flex {
    fn forward(x: &FlexTensor, weight: &FlexTensor) -> FlexTensor {
        let [x, weight] = [x, weight].map(FlexTensor::to_contiguous);
        let ([n, d], [o, _]) = (dims(&x), dims(&weight));
        let (x, weight) = (Mat::new(values(&x), n, d), Mat::new(values(&weight), o, d));
        tensor(product(x, weight.transposed()), [n, o])
    }

    /// `dx = dy W`
    fn backward(weight: FlexTensor, grad: FlexTensor) -> FlexTensor {
        let ([_, d], [n, _]) = (dims(&weight), dims(&grad));
        tensor(gradient(&weight, &grad), [n, d])
    }
}

/// The values of dx.
pub(super) fn gradient(weight: &FlexTensor, grad: &FlexTensor) -> Vec<f32> {
    let [weight, grad] = [weight, grad].map(FlexTensor::to_contiguous);
    let ([o, d], [n, _]) = (dims(&weight), dims(&grad));
    let (grad, weight) = (
        Mat::new(values(&grad), n, o),
        Mat::new(values(&weight), o, d),
    );
    product(grad, weight)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::fused::testing::{assert_close, leaf, random};

    #[test]
    fn linear_equals_its_composed_form_in_value_and_gradient() {
        let device = Device::flex();
        device.seed(6);
        for (n, d, o) in [(1, 1, 1), (71, 37, 19), (5, 64, 1000)] {
            let (x, weight) = (random([d, n], &device), random([o, d], &device));
            let upstream = random([n, o], &device);
            let run = |op: fn(Tensor<2>, Tensor<2>) -> Tensor<2>| {
                let x = leaf(&x);
                let y = op(x.clone().transpose(), weight.clone());
                let grads = (y.clone() * upstream.clone()).sum().backward();
                (y.without_autodiff(), x.grad(&grads).unwrap())
            };
            let (fused, composed) = (run(linear), run(composed));
            assert_close(fused.0, composed.0, 1e-5);
            assert_close(fused.1, composed.1, 1e-5);
        }
    }
}
