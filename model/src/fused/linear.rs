//! A frozen linear map: no gradient reaches its weights.

use burn::backend::{Dispatch, flex::FlexTensor};
use burn::tensor::Tensor;

use super::matrix::{Mat, product};
use super::{FusedOps, dims, has_kernels, tensor, values};

/// `x W^T`
///
/// # Shapes
/// - x: `[n, d]`; weight: `[o, d]`, as the files have it; output: `[n, o]`
pub fn linear(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    if !has_kernels(&x) || !has_kernels(&weight) {
        return composed(x, weight);
    }
    Tensor::from_dispatch(Dispatch::linear(x.into_dispatch(), weight.into_dispatch()))
}

/// The same from Burn's own operations.
pub fn composed(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    x.matmul(weight.transpose())
}

pub(super) fn forward(x: &FlexTensor, weight: &FlexTensor) -> FlexTensor {
    let [x, weight] = [x, weight].map(FlexTensor::to_contiguous);
    let ([n, d], [o, _]) = (dims(&x), dims(&weight));
    let (x, weight) = (Mat::new(values(&x), n, d), Mat::new(values(&weight), o, d));
    tensor(product(x, weight.transposed()), [n, o])
}

/// `dx = dy W`
pub(super) fn backward(weight: FlexTensor, grad: FlexTensor) -> FlexTensor {
    let ([_, d], [n, _]) = (dims(&weight), dims(&grad));
    tensor(gradient(&weight, &grad), [n, d])
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
