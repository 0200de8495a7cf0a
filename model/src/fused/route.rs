//! A router's probabilities, `softmax(x W)` for each row of x: a product with few columns on all cores, whose x is not kept.

use burn::backend::{Dispatch, Flex, flex::FlexTensor};
use burn::tensor::Tensor;
use burn::tensor::activation::softmax;
use rayon::prelude::*;

use super::low_rank::Source;
use super::matrix::{Into, Mat, matmul};
use super::room::Room;
use super::{FusedOps, Made, dims, dot, exponential, has_kernels, scale_rows, tensor, values};

/// Rows of one task.
const BLOCK: usize = 64;

/// Probabilities over the experts, in f32; `made` says what x was computed from.
///
/// # Shapes
/// - x: `[n, d]`; weight: `[d, experts]`; output: `[n, experts]`
pub fn route((x, made): (Tensor<2>, Made), weight: Tensor<2>) -> Tensor<2> {
    if !has_kernels(&x) || !has_kernels(&weight) {
        return composed(x, weight);
    }
    Tensor::from_dispatch(Dispatch::route(
        x.into_dispatch(),
        weight.into_dispatch(),
        made.into_dispatch(),
    ))
}

/// The same from Burn's own operations.
pub fn composed(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    softmax(x.matmul(weight), 1)
}

pub(super) fn forward(x: &FlexTensor, weight: &FlexTensor) -> FlexTensor {
    let [x, weight] = [x, weight].map(FlexTensor::to_contiguous);
    let ([n, d], [_, experts]) = (dims(&x), dims(&weight));
    let w = Mat::new(values(&weight), d, experts);
    let mut p = Room::new(n * experts);
    p.par_chunks_mut(BLOCK * experts)
        .zip(values(&x).par_chunks(BLOCK * d))
        .for_each(|(p, x)| {
            matmul(p, Mat::new(x, x.len() / d, d), w, 1.0, Into::New);
            for p in p.chunks_mut(experts) {
                exponential::softmax(p);
            }
        });
    tensor(p.into_vec(), [n, experts])
}

/// With `dl = p (dp - p . dp)`: `dx = dl W^T`, `dW = x^T dl`.
pub(super) fn backward(
    x: Source<Flex>,
    [weight, p]: [FlexTensor; 2],
    grad: FlexTensor,
    needs: [bool; 2],
) -> [Option<FlexTensor>; 2] {
    let [weight, p, grad] = [weight, p, grad].map(|t| t.to_contiguous());
    let ([n, experts], [d, _]) = (dims(&p), dims(&weight));
    let w = Mat::new(values(&weight), d, experts);
    let mut dl = Room::new(n * experts);
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
    let mut dl = dl.into_vec();
    let dx = needs[0].then(|| {
        let mut dx = Room::new(n * d);
        dx.par_chunks_mut(BLOCK * d)
            .zip(dl.par_chunks(BLOCK * experts))
            .for_each(|(dx, dl)| {
                let dl = Mat::new(dl, dl.len() / experts, experts);
                matmul(dx, dl, w.transposed(), 1.0, Into::New);
            });
        tensor(dx.into_vec(), [n, d])
    });
    let dw = needs[1].then(|| {
        let (x, gain) = x.rows(&mut dl, experts);
        let (x, gain) = (values(&x), gain.as_ref().map(values));
        let mut dw = Room::new(d * experts);
        let blocks = dw.par_chunks_mut(BLOCK * experts).enumerate();
        blocks.for_each(|(block, dw)| {
            let (first, columns) = (block * BLOCK, dw.len() / experts);
            let part = Mat::block(&x[first..], n, columns, d);
            let dl = Mat::new(&dl, n, experts);
            matmul(dw, part.transposed(), dl, 1.0, Into::New);
            if let Some(gain) = gain {
                scale_rows(dw, experts, &gain[first..]);
            }
        });
        tensor(dw.into_vec(), [d, experts])
    });
    [dx, dw]
}
