//! `x / sqrt(mean(x^2) + eps) * gain` for each row of x, in one pass instead of five.

use burn::backend::{Dispatch, flex::FlexTensor};
use burn::tensor::Tensor;
use rayon::prelude::*;

use super::room::Room;
use super::{FusedOps, dims, dot, has_kernels, tensor, values};

/// Rows handled by one task.
const BLOCK: usize = 32;

/// Normalises each row by its root mean square and multiplies by a frozen gain.
///
/// # Shapes
/// - x, output: `[n, d]`
/// - gain: `[d]`, no gradient reaches it
pub fn rms_norm(x: Tensor<2>, gain: Tensor<1>, eps: f64) -> Tensor<2> {
    if !has_kernels(&x) {
        return composed(x, gain, eps);
    }
    Tensor::from_dispatch(Dispatch::rms_norm(
        x.into_dispatch(),
        gain.into_dispatch(),
        eps,
    ))
}

/// The same from Burn's own operations.
pub fn composed(x: Tensor<2>, gain: Tensor<1>, eps: f64) -> Tensor<2> {
    let rms = (x.clone().square().mean_dim(1) + eps).sqrt();
    x / rms * gain.unsqueeze()
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

pub(super) fn forward(x: &FlexTensor, gain: &FlexTensor, eps: f64) -> [FlexTensor; 2] {
    let [x, gain] = [x, gain].map(FlexTensor::to_contiguous);
    let ([n, d], gain) = (dims(&x), values(&gain));
    let (mut y, mut inverses) = (Room::new(n * d), vec![0f32; n]);
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
pub(super) fn backward(saved: [FlexTensor; 3], grad: FlexTensor) -> FlexTensor {
    let [x, gain, inverse] = saved.map(|t| t.to_contiguous());
    let grad = grad.to_contiguous();
    let ([n, d], gain) = (dims(&x), values(&gain));
    let mut dx = Room::new(n * d);
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
