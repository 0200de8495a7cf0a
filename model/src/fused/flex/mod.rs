//! What the kernels for the CPU backend `flex` are built from: views of tensors as slices, and
//! arithmetic on slices.
//!
//! | file | content |
//! |---|---|
//! | `buffer` | result buffers that the tasks filling them also clear |
//! | `exponential` | `exp` and softmax in vector code |
//! | `matrix` | matrix products through the `gemm` crate |
//! | `thin` | products with matrices of a few columns, on rows picked by index |

use burn::backend::flex::FlexTensor;
use burn::tensor::{DType, Shape, TensorData};

pub(in crate::fused) mod buffer;
pub(in crate::fused) mod exponential;
pub(in crate::fused) mod matrix;
pub(in crate::fused) mod thin;

/// The dimensions of a tensor.
pub(in crate::fused) fn dims<const D: usize>(t: &FlexTensor) -> [usize; D] {
    t.layout().shape().dims()
}

/// The values of a contiguous f32 tensor. Incoming tensors may be views, so call `to_contiguous`
/// first.
pub(in crate::fused) fn values(t: &FlexTensor) -> &[f32] {
    t.as_slice::<f32>()
        .expect("the kernels are chosen for f32 and called on contiguous tensors")
}

/// A tensor of the given values and shape.
pub(in crate::fused) fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, Shape::from(shape)))
}

/// The values of a tensor of indices. Flex stores integers as i32 unless told otherwise.
pub(in crate::fused) fn integers(t: &FlexTensor) -> Vec<usize> {
    let t = t.to_contiguous();
    match t.dtype() {
        DType::I64 => t
            .as_slice::<i64>()
            .expect("contiguous i64")
            .iter()
            .map(|&i| i as usize)
            .collect(),
        _ => t
            .as_slice::<i32>()
            .expect("flex indices are i32 or i64")
            .iter()
            .map(|&i| i as usize)
            .collect(),
    }
}

/// The dot product, with independent partial sums so that the compiler can vectorise it.
pub(in crate::fused) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a, a_rest) = a.as_chunks::<16>();
    let (b, b_rest) = b.as_chunks::<16>();
    let mut sums = [0f32; 16];
    for (a, b) in a.iter().zip(b) {
        for i in 0..16 {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}

/// Multiplies each row of `width` values by its factor.
pub(in crate::fused) fn scale_rows(rows: &mut [f32], width: usize, factors: &[f32]) {
    for (row, factor) in rows.chunks_mut(width).zip(factors) {
        row.iter_mut().for_each(|value| *value *= factor);
    }
}

/// `to += from`
pub(in crate::fused) fn add(to: &mut [f32], from: &[f32]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
}
