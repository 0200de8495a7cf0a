//! The low-rank part of a mixture, computed for the chosen experts only.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, Flex, flex::FlexTensor};
use burn::tensor::{IndexingUpdateOp, Int, Tensor};
use rayon::prelude::*;

use super::matrix::{Into, Mat, matmul};
use super::room::Room;
use super::thin::{Picked, outer, project, spread};
use super::{
    FusedOps, LowRank, Made, add, dims, dot, has_kernels, integers, linear, rms_norm, scale_rows,
    swiglu, tensor, values,
};
use crate::adapter::dropout::{Mask, masked};

/// Rows of one task at least.
const TOKENS: usize = 64;
/// Columns of x handled by one task, for one expert.
const COLUMNS: usize = 256;
/// Columns transposed at once, and rows of dB of one task.
const STRIPE: usize = 16;

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

/// `x W^T`, W frozen, with the low-rank part: [`super::linear::linear`] and [`add_low_rank`] in one, so that the gradient to x is
/// summed where it is computed. `made` says what x was computed from: the backward pass then does without x.
///
/// # Shapes
/// - weight: `[o, d]`; the rest as in [`add_low_rank`]
///
/// # Panics
/// Where there are no kernels: ask [`serves`].
pub fn adapted_linear(
    (x, made): (Tensor<2>, Made),
    weight: Tensor<2>,
    a: Tensor<3>,
    b: Tensor<3>,
    (index, weights): (Tensor<2, Int>, Tensor<2>),
    dropout: Option<Mask>,
) -> Tensor<2> {
    assert!(serves(&x, &weight));
    let inputs = LowRank {
        base: weight.into_dispatch(),
        x: x.into_dispatch(),
        a: a.into_dispatch(),
        b: b.into_dispatch(),
        weight: weights.into_dispatch(),
        index: index.into_dispatch(),
        dropout,
    };
    Tensor::from_dispatch(Dispatch::adapted_linear(inputs, made.into_dispatch()))
}

/// Whether there are kernels for an input and a frozen weight.
pub fn serves(x: &Tensor<2>, weight: &Tensor<2>) -> bool {
    has_kernels(x) && has_kernels(weight)
}

/// Returns y and the unweighted hidden rows `drop(x) A` `[n k, r]`, in the order of the index.
pub(super) fn forward(inputs: LowRank<Flex>) -> [FlexTensor; 2] {
    let [x, a, b, weight] =
        [inputs.x, inputs.a, inputs.b, inputs.weight].map(|t| t.to_contiguous());
    let ([n, d], [experts, _, r], [_, _, o]) = (dims(&x), dims(&a), dims(&b));
    let (chosen, [_, k]) = (integers(&inputs.index), dims(&inputs.index));
    let single = experts == 1;
    // In place where nobody else holds the frozen part.
    let mut y = inputs.base.to_contiguous();
    drop(inputs.base);
    let mut hidden = Room::new(n * k * r);
    let tokens = block(n, k, experts);
    y.storage_mut::<f32>()
        .par_chunks_mut(tokens * o)
        .zip(hidden.par_chunks_mut(tokens * k * r))
        .zip((
            values(&x).par_chunks(tokens * d),
            values(&weight).par_chunks(tokens * k),
        ))
        .zip(chosen.par_chunks(tokens * k))
        .enumerate()
        .for_each(|(block, (((y, hidden), (x, weight)), chosen))| {
            let mut kept = vec![];
            let x = match &inputs.dropout {
                None => x,
                Some(mask) => {
                    kept.extend_from_slice(x);
                    mask.apply(&mut kept, block * tokens * d);
                    &kept
                }
            };
            let (plan, mut h) = (Plan::new(chosen, k, experts), vec![]);
            for e in plan.used() {
                let (pairs, rows) = (plan.pairs(e), plan.rows(e));
                h.resize(pairs.len() * r, 0.0);
                project_rows(single, x, rows, part(&a, e), r, &mut h);
                for (h, &pair) in h.chunks_mut(r).zip(pairs) {
                    hidden[pair * r..][..r].copy_from_slice(h);
                    h.iter_mut().for_each(|h| *h *= weight[pair]);
                }
                spread_rows(single, &h, rows, part(&b, e), r, y);
            }
        });
    [y, tensor(hidden.into_vec(), [n * k, r])]
}

/// For one pair with `h = x A`: `dh = dy B^T`, `dweight = dh . h`, `dB += (w h)^T dy`, `dA += x^T (w dh)`, `dx += (w dh) A^T`.
pub(super) fn backward(
    inputs: Saved<Flex>,
    grad: FlexTensor,
    needs: [bool; 4],
) -> [Option<FlexTensor>; 4] {
    let Saved {
        x,
        index,
        tensors,
        dropout,
        frozen,
    } = inputs;
    let [a, b, weight, hidden] = tensors.map(|t| t.to_contiguous());
    let grad = grad.to_contiguous();
    let ([n, o], [experts, d, r]) = (dims(&grad), dims(&a));
    let (chosen, [_, k]) = (integers(&index), dims(&index));
    let (at, bt) = (transposed(&a), transposed(&b));
    let single = experts == 1;
    // First by blocks of tokens: dweight, w dh, w h and dx.
    let tokens = block(n, k, experts);
    let frozen = frozen.filter(|_| needs[0]);
    let sum = frozen.is_some();
    let mut dx = match frozen {
        Some(frozen) => Room::of(linear::gradient(&frozen, &grad)),
        None => Room::new(n * d),
    };
    let (mut dw, mut dh, mut weighted) = (
        vec![0f32; n * k],
        Room::new(n * k * r),
        Room::new(n * k * r),
    );
    dx.par_chunks_mut(tokens * d)
        .zip((
            dw.par_chunks_mut(tokens * k),
            dh.par_chunks_mut(tokens * k * r),
            weighted.par_chunks_mut(tokens * k * r),
        ))
        .zip((
            values(&grad).par_chunks(tokens * o),
            values(&weight).par_chunks(tokens * k),
            values(&hidden).par_chunks(tokens * k * r),
            chosen.par_chunks(tokens * k),
        ))
        .enumerate()
        .for_each(|(block, ((dx, outputs), inputs))| {
            let (dw, dh, weighted) = outputs;
            let (grad, weight, hidden, chosen) = inputs;
            let (plan, mut own) = (Plan::new(chosen, k, experts), vec![]);
            // What is masked must not be mixed with what is not.
            let apart = sum && dropout.is_some();
            let mut masked = vec![0f32; if apart { dx.len() } else { 0 }];
            for e in plan.used() {
                let (pairs, rows) = (plan.pairs(e), plan.rows(e));
                own.resize(pairs.len() * r, 0.0);
                let bt = &bt[e * r * o..][..r * o];
                project_rows(single, grad, rows, bt, r, &mut own);
                for (own, &pair) in own.chunks_mut(r).zip(pairs) {
                    let (hidden, w) = (&hidden[pair * r..][..r], weight[pair]);
                    dw[pair] = dot(own, hidden);
                    own.iter_mut().for_each(|h| *h *= w);
                    dh[pair * r..][..r].copy_from_slice(own);
                    for (to, h) in weighted[pair * r..][..r].iter_mut().zip(hidden) {
                        *to = h * w;
                    }
                }
                if needs[0] {
                    let to = if apart { &mut masked[..] } else { &mut *dx };
                    spread_rows(single, &own, rows, &at[e * r * d..][..r * d], r, to);
                }
            }
            if let Some(mask) = &dropout {
                let to = if apart { &mut masked[..] } else { &mut *dx };
                mask.apply(to, block * tokens * d);
            }
            if apart {
                add(dx, &masked);
            }
        });
    let [dx, mut dh, weighted] = [dx, dh, weighted].map(Room::into_vec);
    // Then by experts, over all tokens: dA and dB.
    let plan = Plan::new(&chosen, k, experts);
    let da = needs[1].then(|| {
        let (x, gain) = x.rows(&mut dh, k * r);
        let gain = gain.as_ref().map(values);
        let mut kept = vec![];
        let x = match &dropout {
            None => values(&x),
            Some(mask) => {
                kept.extend_from_slice(values(&x));
                let blocks = kept.par_chunks_mut(tokens * d).enumerate();
                blocks.for_each(|(block, kept)| mask.apply(kept, block * tokens * d));
                &kept
            }
        };
        let mut da = Room::new(experts * d * r);
        let matrices = da.par_chunks_mut(d * r).enumerate();
        matrices.for_each(|(e, da)| {
            let columns = da.par_chunks_mut(COLUMNS * r).enumerate();
            columns.for_each(|(block, da)| {
                let x = plan.rows_of(e, &x[block * COLUMNS..], d);
                outer_rows(single, x, plan.pairs_of(e, &dh, r), da);
                if let Some(gain) = gain {
                    scale_rows(da, r, &gain[block * COLUMNS..]);
                }
            });
        });
        tensor(da.into_vec(), [experts, d, r])
    });
    let db = needs[2].then(|| {
        let mut db = Room::new(experts * r * o);
        let matrices = db.par_chunks_mut(r * o).enumerate();
        matrices.for_each(|(e, db)| {
            let dy = plan.rows_of(e, values(&grad), o);
            let share = match single {
                true => r.div_ceil(rayon::current_num_threads()),
                false => STRIPE,
            };
            let rows = db.par_chunks_mut(share * o).enumerate();
            rows.for_each(|(block, db)| {
                let hidden = plan.pairs_of(e, &weighted[block * share..], r);
                outer_rows(single, hidden, dy, db);
            });
        });
        tensor(db.into_vec(), [experts, r, o])
    });
    [
        needs[0].then(|| tensor(dx, [n, d])),
        da,
        db,
        needs[3].then(|| tensor(dw, [n, k])),
    ]
}

/// Rows of one task: enough that an expert serves several of them, so that each of its matrices is read for more than one row.
fn block(n: usize, k: usize, experts: usize) -> usize {
    let share = n.div_ceil(rayon::current_num_threads()).max(TOKENS);
    if experts == 1 {
        return share;
    }
    (8 * experts / k).clamp(TOKENS, share)
}

/// [`project`]; with a `single` expert the rows are all of them, and a general product is faster.
fn project_rows(single: bool, x: &[f32], rows: &[usize], a: &[f32], r: usize, h: &mut [f32]) {
    if !single {
        return project(x, rows, a, r, h);
    }
    let (n, d) = (rows.len(), a.len() / r);
    matmul(h, Mat::new(x, n, d), Mat::new(a, d, r), 1.0, Into::New);
}

/// [`spread`], likewise.
fn spread_rows(single: bool, h: &[f32], rows: &[usize], b: &[f32], r: usize, y: &mut [f32]) {
    if !single {
        return spread(h, rows, b, r, y);
    }
    let (n, o) = (rows.len(), b.len() / r);
    matmul(y, Mat::new(h, n, r), Mat::new(b, r, o), 1.0, Into::Sum);
}

/// [`outer`], likewise.
fn outer_rows(single: bool, x: Picked, h: Picked, g: &mut [f32]) {
    if !single {
        return outer(x, h, g);
    }
    let (n, columns) = (h.rows.len(), g.len() / h.width);
    let x = Mat::block(x.values, n, columns, x.width);
    matmul(
        g,
        x.transposed(),
        Mat::new(h.values, n, h.width),
        1.0,
        Into::New,
    );
}

/// What the backward pass reads: handles, not copies.
#[derive(Clone, Debug)]
pub struct Saved<B: Backend> {
    /// x, or what it is computed from.
    pub x: Source<B>,
    /// a, b, weight, and the unweighted hidden rows.
    pub tensors: [FloatTensor<B>; 4],
    /// The chosen experts.
    pub index: IntTensor<B>,
    /// The mask on x.
    pub dropout: Option<Mask>,
    /// The frozen weight, where its product belongs to the operation.
    pub frozen: Option<FloatTensor<B>>,
}

/// Where the backward pass finds x.
#[derive(Clone, Debug)]
pub enum Source<B: Backend> {
    /// It was kept.
    Kept(FloatTensor<B>),
    /// Gate and up, which are kept for their own sake.
    Gated([FloatTensor<B>; 2]),
    /// What was normalised, kept for the norm's own sake, and the gain; epsilon.
    Normed([FloatTensor<B>; 2], f64),
}

impl Source<Flex> {
    /// A matrix M and a row of factors with `x^T g = diag(factors) M^T g'`, `width` values of g a row. A normalised x is
    /// `diag(1 / rms) M diag(gain)`: 1 / rms goes to g, the gain to the product, and x is not computed again.
    pub(super) fn rows(self, g: &mut [f32], width: usize) -> (FlexTensor, Option<FlexTensor>) {
        match self {
            Self::Kept(x) => (x.to_contiguous(), None),
            Self::Gated([gate, up]) => (swiglu::forward(&gate, &up), None),
            Self::Normed([x, gain], eps) => {
                let x = x.to_contiguous();
                scale_rows(g, width, &rms_norm::inverses(&x, eps));
                (x, Some(gain.to_contiguous()))
            }
        }
    }
}

/// Matrix `e` of a contiguous stack.
fn part(stack: &FlexTensor, e: usize) -> &[f32] {
    let [_, rows, columns] = dims(stack);
    &values(stack)[e * rows * columns..][..rows * columns]
}

/// Every matrix of a contiguous stack transposed.
fn transposed(stack: &FlexTensor) -> Vec<f32> {
    let [_, rows, columns] = dims(stack);
    let mut all = Room::new(values(stack).len());
    all.par_chunks_mut(rows * columns)
        .zip(values(stack).par_chunks(rows * columns))
        .for_each(|(to, from)| {
            // In stripes whose source stays in the nearest cache.
            for first in (0..columns).step_by(STRIPE) {
                let stripe = STRIPE.min(columns - first);
                for (row, from) in from.chunks(columns).enumerate() {
                    for (column, value) in from[first..][..stripe].iter().enumerate() {
                        to[(first + column) * rows + row] = *value;
                    }
                }
            }
        });
    all.into_vec()
}

/// The pairs `row * k + choice`, sorted by expert.
struct Plan {
    /// Expert e owns the places `start[e]..start[e + 1]`.
    start: Vec<usize>,
    /// The pair at each place.
    pairs: Vec<usize>,
    /// The row of the pair at each place.
    rows: Vec<usize>,
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
        let (mut next, mut pairs) = (start.clone(), chosen.to_vec());
        for (pair, &e) in chosen.iter().enumerate() {
            pairs[next[e]] = pair;
            next[e] += 1;
        }
        let rows = pairs.iter().map(|pair| pair / k).collect();
        Self { start, pairs, rows }
    }

    /// The experts that somebody chose.
    fn used(&self) -> impl Iterator<Item = usize> {
        (0..self.start.len() - 1).filter(|&e| self.start[e] < self.start[e + 1])
    }

    /// The pairs of one expert.
    fn pairs(&self, e: usize) -> &[usize] {
        &self.pairs[self.start[e]..self.start[e + 1]]
    }

    /// The rows of one expert's pairs.
    fn rows(&self, e: usize) -> &[usize] {
        &self.rows[self.start[e]..self.start[e + 1]]
    }

    /// A matrix with a row for each token, picked for one expert.
    fn rows_of<'a>(&'a self, e: usize, values: &'a [f32], width: usize) -> Picked<'a> {
        Picked {
            values,
            width,
            rows: self.rows(e),
        }
    }

    /// A matrix with a row for each pair, picked for one expert.
    fn pairs_of<'a>(&'a self, e: usize, values: &'a [f32], width: usize) -> Picked<'a> {
        Picked {
            values,
            width,
            rows: self.pairs(e),
        }
    }
}
