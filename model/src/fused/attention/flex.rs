//! Attention on `flex`. One task handles one head of one row of the batch.

use burn::backend::{Flex, flex::FlexTensor};
use pulp::{Arch, Simd};
use rayon::prelude::*;

use super::{Attention, Kernels};
use crate::fused::flex::buffer::Buffer;
use crate::fused::flex::exponential::{probability, softmax};
use crate::fused::flex::matrix::{Mat, Store, matmul};
use crate::fused::flex::{add, dims, dot, integers, tensor, values};
use crate::visibility::Heads;

/// Queries of one tile.
const TILE: usize = 64;

impl Kernels for Flex {
    fn forward(inputs: &Attention<Flex>) -> [FlexTensor; 2] {
        let inputs = Inputs::new(inputs);
        let (outputs, sums): (Vec<_>, Vec<_>) = inputs.heads().map(|head| head.forward()).unzip();
        let output = inputs.interleave(&outputs, 1);
        [
            tensor(output, dims::<2>(&inputs.q)),
            tensor(sums.concat(), [outputs.len(), inputs.sequence]),
        ]
    }

    /// With `P = softmax(S)`: `dV = P^T dO`, `dP = dO V^T`,
    /// `dS = P (dP - rowsum(dO O)) / sqrt(head_dim)`, `dQ = dS K`, `dK = dS^T Q`, Q and K turned
    /// back.
    fn backward(
        inputs: &Attention<Flex>,
        [output, sums]: [FlexTensor; 2],
        grad: FlexTensor,
    ) -> [FlexTensor; 3] {
        let inputs = Inputs::new(inputs);
        let [output, sums, grad] = [output, sums, grad].map(|t| t.to_contiguous());
        let found: Vec<[Vec<f32>; 3]> = inputs
            .heads()
            .map(|head| head.backward(&output, &sums, &grad))
            .collect();
        let mut parts: [Vec<Vec<f32>>; 3] =
            std::array::from_fn(|_| Vec::with_capacity(found.len()));
        for gradients in found {
            for (part, gradient) in parts.iter_mut().zip(gradients) {
                part.push(gradient);
            }
        }
        let [dq, dk, dv] = parts;
        [
            tensor(inputs.interleave(&dq, 1), dims::<2>(&inputs.q)),
            tensor(inputs.interleave(&dk, inputs.groups), dims::<2>(&inputs.k)),
            tensor(inputs.interleave(&dv, inputs.groups), dims::<2>(&inputs.k)),
        ]
    }
}

/// The inputs of attention, contiguous, with their sizes.
struct Inputs {
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
    /// Half of the values of a head that are rotated.
    half: usize,
    /// Heads of queries in all.
    queries: usize,
    /// Heads of queries that share a key-value head.
    groups: usize,
    window: Option<i32>,
}

impl Inputs {
    fn new(inputs: &Attention<Flex>) -> Self {
        let [q, k, v, cos, sin] = [&inputs.q, &inputs.k, &inputs.v, &inputs.cos, &inputs.sin]
            .map(FlexTensor::to_contiguous);
        let [batch, sequence] = dims(&inputs.segments);
        let [tokens, width] = dims(&q);
        let Heads {
            queries,
            keys,
            window,
            ..
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
            half: dims::<2>(&cos)[1],
            window: window.map(|w| i32::try_from(w).unwrap_or(i32::MAX)),
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
                inputs: self,
                number,
                row: number / self.queries,
                query: number % self.queries,
                scale: (self.head_dim as f32).sqrt().recip(),
            })
    }

    /// Lays the heads' parts side by side for each token, after adding the parts of every `sum`
    /// heads in a row.
    fn interleave(&self, parts: &[Vec<f32>], sum: usize) -> Vec<f32> {
        let (sequence, head_dim) = (self.sequence, self.head_dim);
        let heads = self.queries / sum;
        let mut all = Buffer::new(self.batch * sequence * heads * head_dim);
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

/// One head of queries, in one row of the batch.
struct Head<'a> {
    inputs: &'a Inputs,
    /// Place among the heads of all rows.
    number: usize,
    /// Row of the batch.
    row: usize,
    /// Place among the heads of the row.
    query: usize,
    /// `1 / sqrt(head_dim)`
    scale: f32,
}

impl Head<'_> {
    /// Returns the output and each query's `ln sum exp`.
    fn forward(&self) -> (Vec<f32>, Vec<f32>) {
        let Inputs {
            sequence, head_dim, ..
        } = *self.inputs;
        let (q, k, v) = (self.queries(), self.keys(), self.values());
        let mut output = vec![0f32; sequence * head_dim];
        let mut sums = vec![0f32; sequence];
        let mut scores = vec![];
        for (first, rows, seen) in tiles(sequence) {
            scores.resize(rows * seen, 0.0);
            self.scores(&mut scores, &q, &k, first);
            let sums = &mut sums[first..][..rows];
            softmax_rows(&mut scores, seen, sums);
            let output = &mut output[first * head_dim..][..rows * head_dim];
            let probabilities = Mat::new(&scores, rows, seen);
            matmul(output, probabilities, v.top(seen), 1.0, Store::Overwrite);
        }
        (output, sums)
    }

    /// Returns the gradients to q, k and v.
    fn backward(&self, output: &FlexTensor, sums: &FlexTensor, grad: &FlexTensor) -> [Vec<f32>; 3] {
        let Inputs {
            sequence, head_dim, ..
        } = *self.inputs;
        let (q, k, v) = (self.queries(), self.keys(), self.values());
        let (output, grad) = (self.of_query(output), self.of_query(grad));
        let sums = &values(sums)[self.number * sequence..][..sequence];
        let [mut dq, mut dk, mut dv] = std::array::from_fn(|_| vec![0f32; sequence * head_dim]);
        let (mut scores, mut d_scores) = (vec![], vec![]);
        for (first, rows, seen) in tiles(sequence) {
            scores.resize(rows * seen, 0.0);
            d_scores.resize(rows * seen, 0.0);
            self.scores(&mut scores, &q, &k, first);
            let (d_output, v) = (grad.rows(first, rows), v.top(seen).transposed());
            matmul(&mut d_scores, d_output, v, 1.0, Store::Overwrite);
            for (row, ds) in (first..).zip(d_scores.chunks_mut(seen)) {
                let shared = dot(grad.row(row), output.row(row));
                let p = &mut scores[(row - first) * seen..][..seen];
                score_gradients(p, ds, sums[row], shared, self.scale);
            }
            let p = Mat::new(&scores, rows, seen);
            let ds = Mat::new(&d_scores, rows, seen);
            let part = first * head_dim..(first + rows) * head_dim;
            let above = &mut dv[..seen * head_dim];
            matmul(above, p.transposed(), d_output, 1.0, Store::Accumulate);
            let above = &mut dk[..seen * head_dim];
            let queries = Mat::new(&q[part.clone()], rows, head_dim);
            matmul(above, ds.transposed(), queries, 1.0, Store::Accumulate);
            let keys = Mat::new(&k, sequence, head_dim).top(seen);
            matmul(&mut dq[part], ds, keys, 1.0, Store::Overwrite);
        }
        self.rotate(&mut dq, -1.0);
        self.rotate(&mut dk, -1.0);
        [dq, dk, dv]
    }
}

impl<'a> Head<'a> {
    /// The part of a tensor that belongs to one head, of this head's row.
    fn block<'b>(&self, t: &'b FlexTensor, head: usize) -> Mat<'b> {
        let [_, width] = dims(t);
        let Inputs {
            sequence, head_dim, ..
        } = *self.inputs;
        let first = self.row * sequence * width + head * head_dim;
        Mat::block(&values(t)[first..], sequence, head_dim, width)
    }

    /// This head's part of a tensor that is laid out as the queries are.
    fn of_query<'b>(&self, t: &'b FlexTensor) -> Mat<'b> {
        self.block(t, self.query)
    }

    fn values(&self) -> Mat<'a> {
        self.block(&self.inputs.v, self.query / self.inputs.groups)
    }

    fn queries(&self) -> Vec<f32> {
        self.rotated(self.block(&self.inputs.q, self.query))
    }

    fn keys(&self) -> Vec<f32> {
        self.rotated(self.block(&self.inputs.k, self.query / self.inputs.groups))
    }

    /// A copy of the part, rotated.
    fn rotated(&self, block: Mat) -> Vec<f32> {
        let mut head = Vec::with_capacity(self.inputs.sequence * self.inputs.head_dim);
        for row in 0..self.inputs.sequence {
            head.extend_from_slice(block.row(row));
        }
        self.rotate(&mut head, 1.0);
        head
    }

    /// Turns each token's vector by its angles, or back.
    fn rotate(&self, head: &mut [f32], direction: f32) {
        let Inputs {
            sequence,
            head_dim,
            half,
            ..
        } = *self.inputs;
        let [cos, sin] = [&self.inputs.cos, &self.inputs.sin]
            .map(|t| values(t)[self.row * sequence * half..].chunks(half));
        for ((head, cos), sin) in head.chunks_mut(head_dim).zip(cos).zip(sin) {
            let (real, imaginary) = head[..2 * half].split_at_mut(half);
            for (((re, im), c), s) in real.iter_mut().zip(imaginary).zip(cos).zip(sin) {
                let s = s * direction;
                (*re, *im) = (*re * c - *im * s, *im * c + *re * s);
            }
        }
    }

    /// `Q K^T / sqrt(head_dim)` of a tile of queries with all keys up to its end; minus infinity
    /// where a query may not look.
    fn scores(&self, scores: &mut [f32], q: &[f32], k: &[f32], first: usize) {
        let Inputs {
            sequence, head_dim, ..
        } = *self.inputs;
        let rows = TILE.min(sequence - first);
        let seen = first + rows;
        let q = Mat::new(&q[first * head_dim..][..rows * head_dim], rows, head_dim);
        let k = Mat::new(&k[..seen * head_dim], seen, head_dim);
        matmul(scores, q, k.transposed(), self.scale, Store::Overwrite);
        let own = |all: &'a [i32]| &all[self.row * sequence..][..sequence];
        let (segments, branches) = (own(&self.inputs.segments), own(&self.inputs.branches));
        let positions = own(&self.inputs.positions);
        for (i, row) in (first..).zip(scores.chunks_mut(seen)) {
            let (before, after) = row.split_at_mut(i + 1);
            after.fill(f32::NEG_INFINITY);
            hide(before, segments, branches);
            if let Some(window) = self.inputs.window {
                for (score, p) in before.iter_mut().zip(positions) {
                    if positions[i] - p >= window {
                        *score = f32::NEG_INFINITY;
                    }
                }
            }
        }
    }
}

/// Hides from the last token of `scores` what it must not look at.
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

/// Turns scores into probabilities, and the gradients of the probabilities into those of the
/// scores.
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

/// [`softmax`] of each row of `seen` values.
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
