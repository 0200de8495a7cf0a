//! The low-rank update on `flex`: rows grouped by expert, so that each expert's matrices are read
//! once for several rows.

use burn::backend::{Flex, flex::FlexTensor};
use rayon::prelude::*;

use super::groups::Groups;
use super::{Kernels, MixturePrimitive, Saved};
use crate::dropout::{Draw, Dropout};
use crate::fused::activation::Source;
use crate::fused::flex::buffer::Buffer;
use crate::fused::flex::matrix::{Mat, Store, matmul};
use crate::fused::flex::thin::{Picked, outer, project, spread};
use crate::fused::flex::{add, dims, dot, integers, scale_rows, tensor, values};
use crate::fused::linear;

/// Rows of one task at least.
const TOKENS: usize = 64;
/// Columns of x handled by one task, for one expert.
const COLUMNS: usize = 256;
/// Columns transposed at once, and rows of dB of one task.
const STRIPE: usize = 16;

impl Kernels for Flex {
    fn forward(
        base: FlexTensor,
        x: &FlexTensor,
        mixture: &MixturePrimitive<Flex>,
    ) -> [FlexTensor; 2] {
        let MixturePrimitive { a, b, weights, .. } = mixture;
        let [x, a, b, weights] = [x, a, b, weights].map(FlexTensor::to_contiguous);
        let ([n, d], [experts, _, r], [_, _, o]) = (dims(&x), dims(&a), dims(&b));
        let (chosen, [_, k]) = (integers(&mixture.experts), dims(&mixture.experts));
        let dropout = masking(&mixture.dropout);
        let single = experts == 1;
        // In place where nobody else holds the frozen part.
        let mut y = base.to_contiguous();
        drop(base);
        let mut hidden = Buffer::new(n * k * r);
        let tokens = block(n, k, experts);
        y.storage_mut::<f32>()
            .par_chunks_mut(tokens * o)
            .zip(hidden.par_chunks_mut(tokens * k * r))
            .zip((
                values(&x).par_chunks(tokens * d),
                values(&weights).par_chunks(tokens * k),
            ))
            .zip(chosen.par_chunks(tokens * k))
            .enumerate()
            .for_each(|(block, (((y, hidden), (x, weights)), chosen))| {
                let mut kept = vec![];
                let x = match &dropout {
                    None => x,
                    Some((draw, keys)) => {
                        kept.extend_from_slice(x);
                        draw.apply(&mut kept, &keys[block * tokens..], d);
                        &kept
                    }
                };
                let (groups, mut h) = (Groups::new(chosen, k, experts), vec![]);
                for e in groups.used() {
                    let (pairs, rows) = (groups.pairs(e), groups.rows(e));
                    h.resize(pairs.len() * r, 0.0);
                    project_rows(single, x, rows, part(&a, e), r, &mut h);
                    for (h, &pair) in h.chunks_mut(r).zip(pairs) {
                        hidden[pair * r..][..r].copy_from_slice(h);
                        h.iter_mut().for_each(|h| *h *= weights[pair]);
                    }
                    spread_rows(single, &h, rows, part(&b, e), r, y);
                }
            });
        [y, tensor(hidden.into_vec(), [n * k, r])]
    }

    /// For one pair with `h = x A`: `dh = dy B^T`, `dweight = dh . h`, `dB += (w h)^T dy`,
    /// `dA += x^T (w dh)`, `dx += (w dh) A^T`.
    fn backward(saved: Saved<Flex>, grad: FlexTensor, needs: [bool; 4]) -> [Option<FlexTensor>; 4] {
        let Saved {
            x,
            mixture,
            hidden,
            frozen,
        } = saved;
        let MixturePrimitive { a, b, weights, .. } = mixture;
        let [a, b, weights, hidden] = [a, b, weights, hidden].map(|t| t.to_contiguous());
        let ([_, k], [experts, d, r]) = (dims(&mixture.experts), dims(&a));
        let [n, o] = dims(&grad);
        let backward = BackwardPass {
            chosen: integers(&mixture.experts),
            dropout: masking(&mixture.dropout),
            grad: grad.to_contiguous(),
            sizes: Sizes {
                n,
                d,
                r,
                o,
                experts,
                k,
            },
        };
        let frozen = frozen.filter(|_| needs[0]);
        let by_token = backward.by_token([&a, &b, &weights, &hidden], frozen, needs[0]);
        let TokenGradients {
            dx,
            dw,
            mut dh,
            weighted,
        } = by_token;
        let groups = Groups::new(&backward.chosen, k, experts);
        [
            needs[0].then(|| tensor(dx, [n, d])),
            needs[1].then(|| backward.gradient_of_a(x, &mut dh, &groups)),
            needs[2].then(|| backward.gradient_of_b(&weighted, &groups)),
            needs[3].then(|| tensor(dw, [n, k])),
        ]
    }
}

/// Sizes of an operation on n rows: `x [n, d]`, `a [experts, d, r]`, `b [experts, r, o]`, k experts
/// a row.
#[derive(Clone, Copy)]
struct Sizes {
    n: usize,
    d: usize,
    r: usize,
    o: usize,
    experts: usize,
    k: usize,
}

/// What the parts of a backward pass share.
struct BackwardPass {
    /// The experts of all pairs of a row and a choice.
    chosen: Vec<usize>,
    /// The mask on x, and the rows' keys.
    dropout: Option<(Draw, Vec<u32>)>,
    /// The gradient to y, contiguous, `[n, o]`.
    grad: FlexTensor,
    sizes: Sizes,
}

/// What the backward pass finds token by token.
struct TokenGradients {
    /// The gradient to x, `[n, d]`; without meaning where it is not needed.
    dx: Vec<f32>,
    /// The gradient to the weights, `[n, k]`.
    dw: Vec<f32>,
    /// `w dh` of each pair, `[n k, r]`.
    dh: Vec<f32>,
    /// `w h` of each pair, `[n k, r]`.
    weighted: Vec<f32>,
}

impl BackwardPass {
    fn single(&self) -> bool {
        self.sizes.experts == 1
    }

    /// Rows of one task.
    fn tokens(&self) -> usize {
        block(self.sizes.n, self.sizes.k, self.sizes.experts)
    }

    /// The first part of the pass, by blocks of tokens: all that concerns one token alone.
    fn by_token(
        &self,
        [a, b, weights, hidden]: [&FlexTensor; 4],
        frozen: Option<FlexTensor>,
        needs_x: bool,
    ) -> TokenGradients {
        let Sizes {
            n,
            d,
            r,
            o,
            experts,
            k,
        } = self.sizes;
        let (single, tokens, dropout) = (self.single(), self.tokens(), &self.dropout);
        let (at, bt) = (transposed(a), transposed(b));
        // What is masked must not be mixed with what is not.
        let apart = frozen.is_some() && dropout.is_some();
        let mut dx = match frozen {
            Some(frozen) => Buffer::of(linear::gradient(&frozen, &self.grad)),
            None => Buffer::new(n * d),
        };
        let (mut dw, mut dh, mut weighted) = (
            vec![0f32; n * k],
            Buffer::new(n * k * r),
            Buffer::new(n * k * r),
        );
        dx.par_chunks_mut(tokens * d)
            .zip((
                dw.par_chunks_mut(tokens * k),
                dh.par_chunks_mut(tokens * k * r),
                weighted.par_chunks_mut(tokens * k * r),
            ))
            .zip((
                values(&self.grad).par_chunks(tokens * o),
                values(weights).par_chunks(tokens * k),
                values(hidden).par_chunks(tokens * k * r),
                self.chosen.par_chunks(tokens * k),
            ))
            .enumerate()
            .for_each(|(block, ((dx, outputs), inputs))| {
                let (dw, dh, weighted) = outputs;
                let (grad, weights, hidden, chosen) = inputs;
                let (groups, mut own) = (Groups::new(chosen, k, experts), vec![]);
                let mut masked = vec![0f32; if apart { dx.len() } else { 0 }];
                for e in groups.used() {
                    let (pairs, rows) = (groups.pairs(e), groups.rows(e));
                    own.resize(pairs.len() * r, 0.0);
                    let bt = &bt[e * r * o..][..r * o];
                    project_rows(single, grad, rows, bt, r, &mut own);
                    for (own, &pair) in own.chunks_mut(r).zip(pairs) {
                        let (hidden, w) = (&hidden[pair * r..][..r], weights[pair]);
                        dw[pair] = dot(own, hidden);
                        own.iter_mut().for_each(|h| *h *= w);
                        dh[pair * r..][..r].copy_from_slice(own);
                        for (to, h) in weighted[pair * r..][..r].iter_mut().zip(hidden) {
                            *to = h * w;
                        }
                    }
                    if needs_x {
                        let to = if apart { &mut masked[..] } else { &mut *dx };
                        spread_rows(single, &own, rows, &at[e * r * d..][..r * d], r, to);
                    }
                }
                if let Some((draw, keys)) = dropout {
                    let to = if apart { &mut masked[..] } else { &mut *dx };
                    draw.apply(to, &keys[block * tokens..], d);
                }
                if apart {
                    add(dx, &masked);
                }
            });
        TokenGradients {
            dx: dx.into_vec(),
            dw,
            dh: dh.into_vec(),
            weighted: weighted.into_vec(),
        }
    }

    /// `dA`, by experts, over all tokens. `dh` may be scaled on the way.
    fn gradient_of_a(&self, x: Source<Flex>, dh: &mut [f32], groups: &Groups) -> FlexTensor {
        let Sizes {
            d, r, experts, k, ..
        } = self.sizes;
        let (single, tokens) = (self.single(), self.tokens());
        let (x, gain) = x.rows(dh, k * r);
        let gain = gain.as_ref().map(values);
        let mut kept = vec![];
        let x = match &self.dropout {
            None => values(&x),
            Some((draw, keys)) => {
                kept.extend_from_slice(values(&x));
                let blocks = kept.par_chunks_mut(tokens * d);
                blocks
                    .zip(keys.par_chunks(tokens))
                    .for_each(|(kept, keys)| draw.apply(kept, keys, d));
                &kept
            }
        };
        let mut da = Buffer::new(experts * d * r);
        let matrices = da.par_chunks_mut(d * r).enumerate();
        matrices.for_each(|(e, da)| {
            let columns = da.par_chunks_mut(COLUMNS * r).enumerate();
            columns.for_each(|(block, da)| {
                let x = groups.rows_of(e, &x[block * COLUMNS..], d);
                outer_rows(single, x, groups.pairs_of(e, dh, r), da);
                if let Some(gain) = gain {
                    scale_rows(da, r, &gain[block * COLUMNS..]);
                }
            });
        });
        tensor(da.into_vec(), [experts, d, r])
    }

    /// `dB`, by experts, over all tokens.
    fn gradient_of_b(&self, weighted: &[f32], groups: &Groups) -> FlexTensor {
        let Sizes { r, o, experts, .. } = self.sizes;
        let single = self.single();
        let mut db = Buffer::new(experts * r * o);
        let matrices = db.par_chunks_mut(r * o).enumerate();
        matrices.for_each(|(e, db)| {
            let dy = groups.rows_of(e, values(&self.grad), o);
            let share = match single {
                true => r.div_ceil(rayon::current_num_threads()),
                false => STRIPE,
            };
            let rows = db.par_chunks_mut(share * o).enumerate();
            rows.for_each(|(block, db)| {
                let hidden = groups.pairs_of(e, &weighted[block * share..], r);
                outer_rows(single, hidden, dy, db);
            });
        });
        tensor(db.into_vec(), [experts, r, o])
    }
}

/// A mask, with its rows' keys on the host.
fn masking(dropout: &Dropout<Flex>) -> Option<(Draw, Vec<u32>)> {
    match dropout {
        Dropout::Off => None,
        Dropout::On { draw, keys } => {
            let keys = integers(keys).into_iter().map(|key| key as u32);
            Some((*draw, keys.collect()))
        }
    }
}

/// Rows of one task: enough that an expert serves several of them, so that each matrix is read for
/// more than one row.
fn block(n: usize, k: usize, experts: usize) -> usize {
    let share = n.div_ceil(rayon::current_num_threads()).max(TOKENS);
    if experts == 1 {
        return share;
    }
    (8 * experts / k).clamp(TOKENS, share)
}

/// [`project`]. With a `single` expert the rows are all rows, and a general product is faster.
fn project_rows(single: bool, x: &[f32], rows: &[usize], a: &[f32], r: usize, h: &mut [f32]) {
    if !single {
        return project(x, rows, a, r, h);
    }
    let (n, d) = (rows.len(), a.len() / r);
    matmul(
        h,
        Mat::new(x, n, d),
        Mat::new(a, d, r),
        1.0,
        Store::Overwrite,
    );
}

/// [`spread`]. With a `single` expert the rows are all rows, and a general product is faster.
fn spread_rows(single: bool, h: &[f32], rows: &[usize], b: &[f32], r: usize, y: &mut [f32]) {
    if !single {
        return spread(h, rows, b, r, y);
    }
    let (n, o) = (rows.len(), b.len() / r);
    matmul(
        y,
        Mat::new(h, n, r),
        Mat::new(b, r, o),
        1.0,
        Store::Accumulate,
    );
}

/// [`outer`]. With a `single` expert the rows are all rows, and a general product is faster.
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
        Store::Overwrite,
    );
}

/// Matrix `e` of a contiguous stack.
fn part(stack: &FlexTensor, e: usize) -> &[f32] {
    let [_, rows, columns] = dims(stack);
    &values(stack)[e * rows * columns..][..rows * columns]
}

/// The matrices of a contiguous stack, each transposed.
fn transposed(stack: &FlexTensor) -> Vec<f32> {
    let [_, rows, columns] = dims(stack);
    let mut all = Buffer::new(values(stack).len());
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
