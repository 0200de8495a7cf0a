//! Causal grouped-query attention with rotary positions, in tiles: the matrix of scores of a whole sequence never exists.
//!
//! One task handles one head of one row of the batch. The backward pass computes the probabilities again from each query's
//! `ln sum exp` (Dao et al. 2022).

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, ExtensionType, Flex, flex::FlexTensor};
use burn::tensor::module::attention;
use burn::tensor::{Bool, Int, Tensor};
use pulp::{Arch, Simd};
use rayon::prelude::*;

use super::exponential::{probability, softmax};
use super::matrix::{Into, Mat, matmul};
use super::room::Room;
use super::{FusedOps, add, dims, dot, has_kernels, integers, tensor, values};
use crate::rope::Angles;

/// Queries of one tile.
const TILE: usize = 64;

/// What does not follow from the tensors' shapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Heads of the queries.
    pub queries: usize,
    /// Heads of keys and values; each serves `queries / keys` heads of queries.
    pub keys: usize,
    /// Positions that a token looks back over, itself among them; none = all.
    pub window: Option<usize>,
}

/// Who may look at whom: see [`crate::LlamaInput`].
#[derive(Debug, Clone)]
pub struct Visibility {
    /// 0 sees nothing; others see their own. `[batch, sequence]`
    pub segments: Tensor<2, Int>,
    /// Branches see themselves and branch 0. `[batch, sequence]`
    pub branches: Tensor<2, Int>,
    /// What a window is measured in. `[batch, sequence]`
    pub positions: Tensor<2, Int>,
    /// The last tokens of each row that look at the others; all, but where earlier ones stand in a cache.
    asking: usize,
    /// The same as matrices, one for each kind of layer, for the composed form alone.
    masks: Vec<(Heads, Tensor<4, Bool>)>,
}

/// Inputs of the fused operation.
#[derive(ExtensionType, Clone, Debug)]
pub struct Attention<B: Backend> {
    /// `[tokens, queries * head_dim]`
    pub q: FloatTensor<B>,
    /// `[tokens, keys * head_dim]`
    pub k: FloatTensor<B>,
    /// `[tokens, keys * head_dim]`
    pub v: FloatTensor<B>,
    /// `[tokens, head_dim / 2]`
    pub cos: FloatTensor<B>,
    /// `[tokens, head_dim / 2]`
    pub sin: FloatTensor<B>,
    /// `[batch, sequence]`
    pub segments: IntTensor<B>,
    /// `[batch, sequence]`
    pub branches: IntTensor<B>,
    /// `[batch, sequence]`
    pub positions: IntTensor<B>,
    /// The rest.
    pub heads: Heads,
}

/// `softmax(rotate(q) rotate(k)^T / sqrt(head_dim)) v` over what each token may see. What comes out at a token that sees nothing
/// means nothing, but is finite.
///
/// # Shapes
/// - q, output: `[batch * sequence, queries * head_dim]`; k, v: `[batch * sequence, keys * head_dim]`
pub fn rotary_attention(
    [q, k, v]: [Tensor<2>; 3],
    angles: &Angles,
    visibility: &Visibility,
    heads: Heads,
) -> Tensor<2> {
    if !has_kernels(&q) {
        return composed([q, k, v], angles, visibility, heads);
    }
    Tensor::from_dispatch(Dispatch::rotary_attention(Attention {
        q: q.into_dispatch(),
        k: k.into_dispatch(),
        v: v.into_dispatch(),
        cos: angles.cos.clone().into_dispatch(),
        sin: angles.sin.clone().into_dispatch(),
        segments: visibility.segments.clone().into_dispatch(),
        branches: visibility.branches.clone().into_dispatch(),
        positions: visibility.positions.clone().into_dispatch(),
        heads,
    }))
}

/// The same from Burn's own operations. The queries that share a key-value head are laid one after another along the sequence, so
/// keys are never repeated.
///
/// # Panics
/// Without a mask for these heads, see [`Visibility::with_masks`].
pub fn composed(
    [q, k, v]: [Tensor<2>; 3],
    angles: &Angles,
    visibility: &Visibility,
    heads: Heads,
) -> Tensor<2> {
    let batch = visibility.segments.dims()[0];
    let q = angles.rotate(heads.split(q, heads.queries, batch));
    let k = angles.rotate(heads.split(k, heads.keys, batch));
    let v = heads.split(v, heads.keys, batch);
    rotated_attention([q, k, v], visibility, heads)
}

/// The same of queries and keys that are rotated already; keys and values may reach further back than the queries.
///
/// # Shapes
/// - q: `[batch, queries, asking, head_dim]`; k, v: `[batch, keys, sequence, head_dim]`
/// - output: `[batch * asking, queries * head_dim]`
///
/// # Panics
/// As [`composed`].
pub fn rotated_attention(
    [q, k, v]: [Tensor<4>; 3],
    visibility: &Visibility,
    heads: Heads,
) -> Tensor<2> {
    let [batch, queries, asking, head_dim] = q.dims();
    let mask = visibility.masks.iter().find(|(known, _)| *known == heads);
    let (_, mask) = mask.expect("a mask for every kind of layer");
    let q = q.reshape([batch, heads.keys, queries / heads.keys * asking, head_dim]);
    attention(q, k, v, Some(mask.clone()), None, Default::default())
        .reshape([batch, queries, asking, head_dim])
        .swap_dims(1, 2)
        .reshape([batch * asking, queries * head_dim])
}

impl Heads {
    /// `[batch * sequence, count * head_dim]` as `[batch, count, sequence, head_dim]`.
    pub(crate) fn split(self, x: Tensor<2>, count: usize, batch: usize) -> Tensor<4> {
        let [tokens, width] = x.dims();
        x.reshape([batch, tokens / batch, count, width / count])
            .swap_dims(1, 2)
    }
}

impl Visibility {
    /// Without the matrices that only the composed form needs.
    pub fn new(
        segments: Tensor<2, Int>,
        branches: Tensor<2, Int>,
        positions: Tensor<2, Int>,
    ) -> Self {
        Self {
            asking: segments.dims()[1],
            segments,
            branches,
            positions,
            masks: Vec::new(),
        }
    }

    /// These tokens after earlier ones that look at nothing any more.
    pub fn after(self, earlier: &Self) -> Self {
        let join = |earlier: &Tensor<2, Int>, own: Tensor<2, Int>| {
            Tensor::cat(vec![earlier.clone(), own], 1)
        };
        Self {
            segments: join(&earlier.segments, self.segments),
            branches: join(&earlier.branches, self.branches),
            positions: join(&earlier.positions, self.positions),
            asking: self.asking,
            masks: Vec::new(),
        }
    }

    /// Some of the rows.
    pub fn select(&self, rows: &Tensor<1, Int>) -> Self {
        let of = |t: &Tensor<2, Int>| t.clone().select(0, rows.clone());
        Self {
            segments: of(&self.segments),
            branches: of(&self.branches),
            positions: of(&self.positions),
            asking: self.asking,
            masks: Vec::new(),
        }
    }

    /// With the matrices for the composed form.
    pub fn with_masks(mut self, layers: impl Iterator<Item = Heads>) -> Self {
        for heads in layers {
            if self.masks.iter().all(|(known, _)| *known != heads) {
                self.masks.push((heads, self.hidden(heads)));
            }
        }
        self
    }

    /// True where token i must not look at token j, as [`rotated_attention`] lays out its queries:
    /// `[batch, keys, queries / keys * asking, sequence]`.
    fn hidden(&self, heads: Heads) -> Tensor<4, Bool> {
        let [batch, sequence] = self.segments.dims();
        let asking = self.asking;
        let groups = heads.queries / heads.keys;
        let at = |t: &Tensor<2, Int>| {
            (
                t.clone()
                    .narrow(1, sequence - asking, asking)
                    .reshape([batch, asking, 1]),
                t.clone().reshape([batch, 1, sequence]),
            )
        };
        let order = Tensor::<1, Int>::arange(0..sequence as i64, &self.segments.device());
        let (later_i, later_j) = (
            order
                .clone()
                .narrow(0, sequence - asking, asking)
                .reshape([1, asking, 1]),
            order.reshape([1, 1, sequence]),
        );
        let (segment_i, segment_j) = at(&self.segments);
        let (branch_i, branch_j) = at(&self.branches);
        let (position_i, position_j) = at(&self.positions);
        let square = [batch, asking, sequence];
        let mut hidden = later_j
            .greater(later_i)
            .expand(square)
            .bool_or(segment_i.clone().not_equal(segment_j))
            .bool_or(segment_i.equal_scalar(0).expand(square));
        hidden = hidden.bool_or(
            branch_i
                .not_equal(branch_j.clone())
                .bool_and(branch_j.not_equal_scalar(0).expand(square)),
        );
        if let Some(window) = heads.window {
            hidden = hidden.bool_or((position_i - position_j).greater_equal_scalar(window as i64));
        }
        hidden
            .reshape([batch, 1, 1, asking, sequence])
            .expand([batch, heads.keys, groups, asking, sequence])
            .reshape([batch, heads.keys, groups * asking, sequence])
    }
}

/// Returns the output and each query's `ln sum exp`, `[batch * queries, sequence]`.
pub(super) fn forward(inputs: &Attention<Flex>) -> [FlexTensor; 2] {
    let plan = Plan::new(inputs);
    let (sequence, head_dim) = (plan.sequence, plan.head_dim);
    let (outputs, sums): (Vec<_>, Vec<_>) = plan
        .heads()
        .map(|head| {
            let (q, k, v) = (head.queries(), head.keys(), head.values());
            let mut output = vec![0f32; sequence * head_dim];
            let mut sums = vec![0f32; sequence];
            let mut scores = vec![];
            for (first, rows, seen) in tiles(sequence) {
                scores.resize(rows * seen, 0.0);
                head.scores(&mut scores, &q, &k, first);
                let sums = &mut sums[first..][..rows];
                softmax_rows(&mut scores, seen, sums);
                let output = &mut output[first * head_dim..][..rows * head_dim];
                let probabilities = Mat::new(&scores, rows, seen);
                matmul(output, probabilities, v.top(seen), 1.0, Into::New);
            }
            (output, sums)
        })
        .unzip();
    let output = plan.interleave(&outputs, 1);
    [
        tensor(output, dims::<2>(&plan.q)),
        tensor(sums.concat(), [outputs.len(), sequence]),
    ]
}

/// With `P = softmax(S)`: `dV = P^T dO`, `dP = dO V^T`, `dS = P (dP - rowsum(dO O)) / sqrt(head_dim)`, `dQ = dS K`, `dK = dS^T Q`,
/// Q and K turned back.
pub(super) fn backward(
    inputs: &Attention<Flex>,
    [output, sums]: [FlexTensor; 2],
    grad: FlexTensor,
) -> [FlexTensor; 3] {
    let plan = Plan::new(inputs);
    let [output, sums, grad] = [output, sums, grad].map(|t| t.to_contiguous());
    let (sequence, head_dim) = (plan.sequence, plan.head_dim);
    let size = sequence * head_dim;
    let found: Vec<[Vec<f32>; 3]> = plan
        .heads()
        .map(|head| {
            let (q, k, v) = (head.queries(), head.keys(), head.values());
            let (output, grad) = (head.of_query(&output), head.of_query(&grad));
            let sums = &values(&sums)[head.number * sequence..][..sequence];
            let [mut dq, mut dk, mut dv] = std::array::from_fn(|_| vec![0f32; size]);
            let (mut scores, mut d_scores) = (vec![], vec![]);
            for (first, rows, seen) in tiles(sequence) {
                scores.resize(rows * seen, 0.0);
                d_scores.resize(rows * seen, 0.0);
                head.scores(&mut scores, &q, &k, first);
                let d_output = grad.rows(first, rows);
                matmul(
                    &mut d_scores,
                    d_output,
                    v.top(seen).transposed(),
                    1.0,
                    Into::New,
                );
                for (row, ds) in (first..).zip(d_scores.chunks_mut(seen)) {
                    let shared = dot(grad.row(row), output.row(row));
                    let p = &mut scores[(row - first) * seen..][..seen];
                    score_gradients(p, ds, sums[row], shared, head.scale);
                }
                let (p, ds) = (
                    Mat::new(&scores, rows, seen),
                    Mat::new(&d_scores, rows, seen),
                );
                let part = first * head_dim..(first + rows) * head_dim;
                let above = &mut dv[..seen * head_dim];
                matmul(above, p.transposed(), d_output, 1.0, Into::Sum);
                let above = &mut dk[..seen * head_dim];
                let queries = Mat::new(&q[part.clone()], rows, head_dim);
                matmul(above, ds.transposed(), queries, 1.0, Into::Sum);
                let keys = Mat::new(&k, sequence, head_dim).top(seen);
                matmul(&mut dq[part], ds, keys, 1.0, Into::New);
            }
            head.rotate(&mut dq, -1.0);
            head.rotate(&mut dk, -1.0);
            [dq, dk, dv]
        })
        .collect();
    let mut parts: [Vec<Vec<f32>>; 3] = std::array::from_fn(|_| Vec::with_capacity(found.len()));
    for gradients in found {
        for (part, gradient) in parts.iter_mut().zip(gradients) {
            part.push(gradient);
        }
    }
    let [dq, dk, dv] = parts;
    [
        tensor(plan.interleave(&dq, 1), dims::<2>(&plan.q)),
        tensor(plan.interleave(&dk, plan.groups), dims::<2>(&plan.k)),
        tensor(plan.interleave(&dv, plan.groups), dims::<2>(&plan.k)),
    ]
}

/// The inputs, contiguous, with their sizes.
struct Plan {
    q: FlexTensor,
    k: FlexTensor,
    v: FlexTensor,
    cos: FlexTensor,
    sin: FlexTensor,
    segments: Vec<i32>,
    branches: Vec<i32>,
    positions: Vec<i32>,
    batch: usize,
    sequence: usize,
    head_dim: usize,
    /// Heads of queries in all, and for each of keys.
    queries: usize,
    groups: usize,
    window: Option<i32>,
}

impl Plan {
    fn new(inputs: &Attention<Flex>) -> Self {
        let [q, k, v, cos, sin] = [&inputs.q, &inputs.k, &inputs.v, &inputs.cos, &inputs.sin]
            .map(FlexTensor::to_contiguous);
        let [batch, sequence] = dims(&inputs.segments);
        let [tokens, width] = dims(&q);
        let Heads {
            queries,
            keys,
            window,
        } = inputs.heads;
        let head_dim = width / queries;
        assert_eq!([tokens, width], [batch * sequence, queries * head_dim]);
        for t in [&k, &v] {
            assert_eq!(dims(t), [tokens, keys * head_dim]);
        }
        let int = |t| integers(t).into_iter().map(|i| i as i32).collect();
        Self {
            segments: int(&inputs.segments),
            branches: int(&inputs.branches),
            positions: int(&inputs.positions),
            groups: queries / keys,
            window: window.map(|w| w as i32),
            q,
            k,
            v,
            cos,
            sin,
            batch,
            sequence,
            head_dim,
            queries,
        }
    }

    fn heads(&self) -> impl IndexedParallelIterator<Item = Head<'_>> {
        (0..self.batch * self.queries)
            .into_par_iter()
            .with_max_len(1)
            .map(|number| Head {
                plan: self,
                number,
                row: number / self.queries,
                query: number % self.queries,
                scale: (self.head_dim as f32).sqrt().recip(),
            })
    }

    /// Heads beside each other for each token, the parts of `sum` heads after one another added.
    fn interleave(&self, parts: &[Vec<f32>], sum: usize) -> Vec<f32> {
        let (sequence, head_dim) = (self.sequence, self.head_dim);
        let heads = self.queries / sum;
        let mut all = Room::new(self.batch * sequence * heads * head_dim);
        all.par_chunks_mut(heads * head_dim)
            .with_min_len(TILE)
            .enumerate()
            .for_each(|(token, all)| {
                let (row, at) = (token / sequence, token % sequence * head_dim);
                for (head, all) in all.chunks_mut(head_dim).enumerate() {
                    let first = row * self.queries + head * sum;
                    for part in &parts[first..first + sum] {
                        add(all, &part[at..][..head_dim]);
                    }
                }
            });
        all.into_vec()
    }
}

/// One head of one row of the batch.
struct Head<'a> {
    plan: &'a Plan,
    number: usize,
    row: usize,
    query: usize,
    scale: f32,
}

impl<'a> Head<'a> {
    fn block<'b>(&self, t: &'b FlexTensor, head: usize) -> Mat<'b> {
        let [_, width] = dims(t);
        let Plan {
            sequence, head_dim, ..
        } = *self.plan;
        let first = self.row * sequence * width + head * head_dim;
        Mat::block(&values(t)[first..], sequence, head_dim, width)
    }

    /// This head's part of a tensor laid out as the queries.
    fn of_query<'b>(&self, t: &'b FlexTensor) -> Mat<'b> {
        self.block(t, self.query)
    }

    fn values(&self) -> Mat<'a> {
        self.block(&self.plan.v, self.query / self.plan.groups)
    }

    fn queries(&self) -> Vec<f32> {
        self.rotated(self.block(&self.plan.q, self.query))
    }

    fn keys(&self) -> Vec<f32> {
        self.rotated(self.block(&self.plan.k, self.query / self.plan.groups))
    }

    fn rotated(&self, block: Mat) -> Vec<f32> {
        let mut head = Vec::with_capacity(self.plan.sequence * self.plan.head_dim);
        for row in 0..self.plan.sequence {
            head.extend_from_slice(block.row(row));
        }
        self.rotate(&mut head, 1.0);
        head
    }

    /// Turns each token's vector by its angles, or back.
    fn rotate(&self, head: &mut [f32], direction: f32) {
        let Plan {
            sequence, head_dim, ..
        } = *self.plan;
        let half = head_dim / 2;
        let [cos, sin] = [&self.plan.cos, &self.plan.sin]
            .map(|t| values(t)[self.row * sequence * half..].chunks(half));
        for ((head, cos), sin) in head.chunks_mut(head_dim).zip(cos).zip(sin) {
            let (real, imaginary) = head.split_at_mut(half);
            for (((re, im), c), s) in real.iter_mut().zip(imaginary).zip(cos).zip(sin) {
                let s = s * direction;
                (*re, *im) = (*re * c - *im * s, *im * c + *re * s);
            }
        }
    }

    /// `Q K^T / sqrt(head_dim)` of a tile of queries with all keys up to its end; minus infinity where a query may not look.
    fn scores(&self, scores: &mut [f32], q: &[f32], k: &[f32], first: usize) {
        let Plan {
            sequence, head_dim, ..
        } = *self.plan;
        let rows = TILE.min(sequence - first);
        let seen = first + rows;
        let q = Mat::new(&q[first * head_dim..][..rows * head_dim], rows, head_dim);
        let k = Mat::new(&k[..seen * head_dim], seen, head_dim);
        matmul(scores, q, k.transposed(), self.scale, Into::New);
        let own = |all: &'a [i32]| &all[self.row * sequence..][..sequence];
        let (segments, branches) = (own(&self.plan.segments), own(&self.plan.branches));
        let positions = own(&self.plan.positions);
        for (i, row) in (first..).zip(scores.chunks_mut(seen)) {
            let (before, after) = row.split_at_mut(i + 1);
            after.fill(f32::NEG_INFINITY);
            hide(before, segments, branches);
            if let Some(window) = self.plan.window {
                for (score, p) in before.iter_mut().zip(positions) {
                    if positions[i] - p >= window {
                        *score = f32::NEG_INFINITY;
                    }
                }
            }
        }
    }
}

/// Hides from the last of the tokens what it must not look at.
#[pulp::with_simd(hide = Arch::new())]
#[inline(always)]
fn hide_with<'a, S: Simd>(
    _simd: S,
    scores: &'a mut [f32],
    segments: &'a [i32],
    branches: &'a [i32],
) {
    let i = scores.len() - 1;
    let (segment, branch) = (segments[i], branches[i]);
    for ((score, s), b) in scores.iter_mut().zip(segments).zip(branches) {
        let seen = (*s == segment) & (segment != 0) & ((*b == 0) | (*b == branch));
        *score = if seen { *score } else { f32::NEG_INFINITY };
    }
}

/// Scores to probabilities, and scores' gradients from those of the probabilities.
#[pulp::with_simd(score_gradients = Arch::new())]
#[inline(always)]
fn score_gradients_with<'a, S: Simd>(
    _simd: S,
    p: &'a mut [f32],
    ds: &'a mut [f32],
    sum: f32,
    shared: f32,
    scale: f32,
) {
    for (p, ds) in p.iter_mut().zip(ds) {
        *p = probability(*p, sum);
        *ds = *p * (*ds - shared) * scale;
    }
}

/// [`softmax`] of each row of so many values.
#[pulp::with_simd(softmax_rows = Arch::new())]
#[inline(always)]
fn softmax_rows_with<'a, S: Simd>(
    _simd: S,
    scores: &'a mut [f32],
    seen: usize,
    sums: &'a mut [f32],
) {
    for (row, sum) in scores.chunks_mut(seen).zip(sums) {
        *sum = softmax(row);
    }
}

/// First query, number of queries and number of keys of each tile.
fn tiles(sequence: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..sequence).step_by(TILE).map(move |first| {
        let rows = TILE.min(sequence - first);
        (first, rows, first + rows)
    })
}
