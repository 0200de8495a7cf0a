//! The low-rank part of a mixture, computed for the chosen experts only.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, Flex, flex::FlexTensor};
use burn::tensor::{IndexingUpdateOp, Int, Tensor};
use rayon::prelude::*;

use super::matrix::{Into, Mat, matmul};
use super::{FusedOps, LowRank, add, dims, dot, has_kernels, integers, tensor, values};
use crate::adapter::dropout::{Mask, masked};

/// Rows handled by one task of the forward pass, and of the final sum.
const TOKENS: usize = 64;

/// Row n of the result is `base_n + sum_j weight[n, j] * drop(x_n) A_e B_e` with `e = index[n, j]` (Eq. 4, the frozen part given).
///
/// # Shapes
/// - base, output: `[n, o]`
/// - x: `[n, d]`; a: `[experts, d, r]`; b: `[experts, r, o]`
/// - index, weight: `[n, k]`, the experts of a row all different
pub fn add_low_rank(
    base: Tensor<2>,
    x: Tensor<2>,
    a: Tensor<3>,
    b: Tensor<3>,
    (index, weight): (Tensor<2, Int>, Tensor<2>),
    dropout: Option<Mask>,
) -> Tensor<2> {
    if !has_kernels(&x) {
        return composed(base, x, a, b, (index, weight), dropout);
    }
    Tensor::from_dispatch(Dispatch::add_low_rank(LowRank {
        base: base.into_dispatch(),
        x: x.into_dispatch(),
        a: a.into_dispatch(),
        b: b.into_dispatch(),
        weight: weight.into_dispatch(),
        index: index.into_dispatch(),
        dropout,
    }))
}

/// The same with all experts stacked side by side, three products; the weights of those not chosen are zero.
pub fn composed(
    base: Tensor<2>,
    x: Tensor<2>,
    a: Tensor<3>,
    b: Tensor<3>,
    (index, weight): (Tensor<2, Int>, Tensor<2>),
    dropout: Option<Mask>,
) -> Tensor<2> {
    let ([n, _], [experts, d, r], [_, _, o]) = (x.dims(), a.dims(), b.dims());
    let mixture = Tensor::<2>::zeros([n, experts], (&x.device(), x.dtype()))
        .scatter(1, index, weight, IndexingUpdateOp::Add)
        .unsqueeze_dim::<3>(2)
        .expand([n, experts, r])
        .reshape([n, experts * r]);
    let hidden = masked(x, dropout).matmul(a.swap_dims(0, 1).reshape([d, experts * r]));
    base + (hidden * mixture).matmul(b.reshape([experts * r, o]))
}

/// Returns y and the unweighted hidden rows `drop(x) A` `[n k, r]`, in the order of the index.
pub(super) fn forward(inputs: LowRank<Flex>) -> [FlexTensor; 2] {
    let [x, a, b, weight] =
        [inputs.x, inputs.a, inputs.b, inputs.weight].map(|t| t.to_contiguous());
    let ([n, d], [experts, _, r], [_, _, o]) = (dims(&x), dims(&a), dims(&b));
    let (chosen, [_, k]) = (integers(&inputs.index), dims(&inputs.index));
    // In place where nobody else holds the frozen part.
    let mut y = inputs.base.to_contiguous();
    drop(inputs.base);
    let mut hidden = vec![0f32; n * k * r];
    (
        y.storage_mut::<f32>().par_chunks_mut(TOKENS * o),
        hidden.par_chunks_mut(TOKENS * k * r),
    )
        .into_par_iter()
        .zip((
            values(&x).par_chunks(TOKENS * d),
            values(&weight).par_chunks(TOKENS * k),
        ))
        .zip(chosen.par_chunks(TOKENS * k))
        .enumerate()
        .for_each(|(block, (((y, hidden), (x, weight)), chosen))| {
            let (plan, mut h, mut out) = (Plan::new(chosen, k, experts), vec![], vec![]);
            let mut kept = vec![];
            let x = match &inputs.dropout {
                None => x,
                Some(mask) => {
                    kept.extend_from_slice(x);
                    mask.apply(&mut kept, block * TOKENS * d);
                    &kept
                }
            };
            for e in 0..experts {
                let m = plan.of(e).len();
                if m == 0 {
                    continue;
                }
                let rows = plan.gather(e, x, d, k);
                h.resize(m * r, 0.0);
                matmul(
                    &mut h,
                    Mat::new(&rows, m, d),
                    part(&a, e, d, r),
                    1.0,
                    Into::New,
                );
                for (&pair, h) in plan.of(e).iter().zip(h.chunks(r)) {
                    hidden[pair * r..][..r].copy_from_slice(h);
                }
                let scaled = plan.weighted(e, &h, weight, r);
                out.resize(m * o, 0.0);
                matmul(
                    &mut out,
                    Mat::new(&scaled, m, r),
                    part(&b, e, r, o),
                    1.0,
                    Into::New,
                );
                for (&pair, out) in plan.of(e).iter().zip(out.chunks(o)) {
                    add(&mut y[pair / k * o..][..o], out);
                }
            }
        });
    [y, tensor(hidden, [n * k, r])]
}

/// For one pair with `h = x A`: `dh = dy B^T`, `dweight = dh . h`, `dB += (w h)^T dy`, `dA += x^T (w dh)`, `dx += (w dh) A^T`.
pub(super) fn backward(
    inputs: Saved<Flex>,
    grad: FlexTensor,
    needs: [bool; 4],
) -> [Option<FlexTensor>; 4] {
    let Saved {
        index,
        tensors,
        dropout,
    } = inputs;
    let [x, a, b, weight, hidden] = tensors.map(|t| t.to_contiguous());
    let grad = grad.to_contiguous();
    let ([n, d], [experts, _, r], [_, _, o]) = (dims(&x), dims(&a), dims(&b));
    let (chosen, [_, k]) = (integers(&index), dims(&index));
    let (plan, w) = (Plan::new(&chosen, k, experts), values(&weight));
    let pairs = n * k;
    let (mut dx, mut dw) = (vec![0f32; pairs * d], vec![0f32; pairs]);
    let (mut da, mut db) = (vec![0f32; experts * d * r], vec![0f32; experts * r * o]);
    (plan.split(&mut dx, d), plan.split(&mut dw, 1))
        .into_par_iter()
        .zip((da.par_chunks_mut(d * r), db.par_chunks_mut(r * o)))
        .enumerate()
        .for_each(|(e, ((dx, dw), (da, db)))| {
            let m = plan.of(e).len();
            if m == 0 {
                return;
            }
            let dy = plan.gather(e, values(&grad), o, k);
            let dy = Mat::new(&dy, m, o);
            let h = plan.gather(e, values(&hidden), r, 1);
            let mut dh = vec![0f32; m * r];
            matmul(&mut dh, dy, part(&b, e, r, o).transposed(), 1.0, Into::New);
            for ((dw, dh), h) in dw.iter_mut().zip(dh.chunks(r)).zip(h.chunks(r)) {
                *dw = dot(dh, h);
            }
            if needs[2] {
                let scaled = plan.weighted(e, &h, w, r);
                matmul(db, Mat::new(&scaled, m, r).transposed(), dy, 1.0, Into::New);
            }
            let dh = plan.weighted(e, &dh, w, r);
            let dh = Mat::new(&dh, m, r);
            if needs[1] {
                let mut rows = plan.gather(e, values(&x), d, k);
                if let Some(mask) = &dropout {
                    for (pair, row) in plan.of(e).iter().zip(rows.chunks_mut(d)) {
                        mask.apply(row, pair / k * d);
                    }
                }
                matmul(da, Mat::new(&rows, m, d).transposed(), dh, 1.0, Into::New);
            }
            if needs[0] {
                matmul(dx, dh, part(&a, e, d, r).transposed(), 1.0, Into::New);
            }
        });
    [
        needs[0].then(|| tensor(plan.combine(&dx, d, &dropout), [n, d])),
        needs[1].then(|| tensor(da, [experts, d, r])),
        needs[2].then(|| tensor(db, [experts, r, o])),
        needs[3].then(|| tensor(plan.place.iter().map(|&p| dw[p]).collect(), [n, k])),
    ]
}

/// What the backward pass reads: handles, not copies.
#[derive(Clone, Debug)]
pub struct Saved<B: Backend> {
    /// x, a, b, weight, and the unweighted hidden rows.
    pub tensors: [FloatTensor<B>; 5],
    /// The chosen experts.
    pub index: IntTensor<B>,
    /// The mask on x.
    pub dropout: Option<Mask>,
}

/// Matrix `e` of a contiguous stack.
fn part(stack: &FlexTensor, e: usize, rows: usize, columns: usize) -> Mat<'_> {
    let size = rows * columns;
    Mat::new(&values(stack)[e * size..][..size], rows, columns)
}

/// The pairs `row * k + choice`, sorted by expert.
struct Plan {
    k: usize,
    /// Expert e owns the positions `start[e]..start[e + 1]`.
    start: Vec<usize>,
    /// The pair at each position.
    order: Vec<usize>,
    /// The position of each pair.
    place: Vec<usize>,
}

impl Plan {
    fn new(chosen: &[usize], k: usize, experts: usize) -> Self {
        let mut start = vec![0; experts + 1];
        for &e in chosen {
            assert!(e < experts, "expert {e} chosen, but there are {experts}");
            start[e + 1] += 1;
        }
        for e in 0..experts {
            start[e + 1] += start[e];
        }
        let (mut next, mut order, mut place) = (start.clone(), chosen.to_vec(), chosen.to_vec());
        for (pair, &e) in chosen.iter().enumerate() {
            (order[next[e]], place[pair]) = (pair, next[e]);
            next[e] += 1;
        }
        Self {
            k,
            start,
            order,
            place,
        }
    }

    /// The pairs of one expert.
    fn of(&self, e: usize) -> &[usize] {
        &self.order[self.start[e]..self.start[e + 1]]
    }

    /// Each expert's part of a buffer with `width` values for each pair.
    fn split<'a>(&self, mut buffer: &'a mut [f32], width: usize) -> Vec<&'a mut [f32]> {
        let sizes = self.start.windows(2).map(|w| (w[1] - w[0]) * width);
        sizes
            .map(|size| {
                let (part, rest) = std::mem::take(&mut buffer).split_at_mut(size);
                buffer = rest;
                part
            })
            .collect()
    }

    /// The rows of `source` that belong to one expert; a row of `source` covers `per` pairs.
    fn gather(&self, e: usize, source: &[f32], width: usize, per: usize) -> Vec<f32> {
        let mut rows = Vec::with_capacity(self.of(e).len() * width);
        for pair in self.of(e) {
            rows.extend_from_slice(&source[pair / per * width..][..width]);
        }
        rows
    }

    /// One expert's rows, each times the weight of its pair.
    fn weighted(&self, e: usize, rows: &[f32], weight: &[f32], width: usize) -> Vec<f32> {
        let pairs = rows.chunks(width).zip(self.of(e));
        pairs
            .flat_map(|(row, &pair)| row.iter().map(move |v| v * weight[pair]))
            .collect()
    }

    /// Sums the k rows of each token, and masks the sum.
    fn combine(&self, rows: &[f32], width: usize, mask: &Option<Mask>) -> Vec<f32> {
        let mut sum = vec![0f32; self.place.len() / self.k * width];
        let tokens = sum.par_chunks_mut(width).zip(self.place.par_chunks(self.k));
        let tokens = tokens.with_min_len(TOKENS).enumerate();
        tokens.for_each(|(token, (sum, places))| {
            places
                .iter()
                .for_each(|p| add(sum, &rows[p * width..][..width]));
            if let Some(mask) = mask {
                mask.apply(sum, token * width);
            }
        });
        sum
    }
}
