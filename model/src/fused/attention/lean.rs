//! Attention from Burn's own operations, a block of queries at a time. The graph keeps q, k, v and
//! each query's `ln sum exp`, no score. The backward pass computes the probabilities again from
//! them (Dao et al. 2022).

use burn::backend::DispatchTensor;
use burn::tensor::module::attention;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Int, Tensor};

use super::BLOCK;
use crate::fused::graph::{Kept, enter, plain, whole};
use crate::rope::Angles;
use crate::visibility::{AttentionKind, Heads, Visibility};

/// What stands where a query must not look: low enough that nothing of it is left, high enough
/// that a row of nothing else stays finite.
const HIDDEN: f64 = -1e30;

/// [`super::rotary_attention`] in lean form.
pub(super) fn lean(
    [q, k, v]: [Tensor<2>; 3],
    angles: &Angles,
    visibility: &Visibility,
    heads: Heads,
) -> Tensor<2> {
    let [plain_q, plain_k, plain_v] = [&q, &k, &v].map(plain);
    let angles = Angles {
        cos: plain(&angles.cos),
        sin: plain(&angles.sin),
    };
    let visibility = visibility.plain();
    let operands = Operands::new([&plain_q, &plain_k, &plain_v], &angles, &visibility, heads);
    let (mut outputs, mut sums) = (Vec::new(), Vec::new());
    for block in operands.blocks() {
        let mixed = match heads.attention {
            AttentionKind::Exact => {
                let scores = operands.scores(&block, &visibility);
                let [powers, total, sum] = powers(scores);
                sums.push(sum);
                powers.matmul(operands.seen(&operands.v, &block)) / total
            }
            AttentionKind::Flash => operands.flash(&block, &visibility),
        };
        outputs.push(operands.ungrouped(mixed, block.queries));
    }
    let y = operands.merged(Tensor::cat(outputs, 2));
    let kept = Saved {
        q: plain_q,
        k: plain_k,
        v: plain_v,
        sums,
        angles,
        visibility,
        heads,
    };
    enter([q, k, v].map(Tensor::into_dispatch), y, kept)
}

/// `exp(s - max s)` of scores s, the sum of a query's, and `ln sum exp`.
fn powers(scores: Tensor<4>) -> [Tensor<4>; 3] {
    let largest = scores.clone().max_dim(3);
    let powers = (scores - largest.clone()).exp();
    let total = powers.clone().sum_dim(3);
    [powers, total.clone(), total.log() + largest]
}

/// What the backward pass reads.
#[derive(Debug, Clone)]
struct Saved {
    q: Tensor<2>,
    k: Tensor<2>,
    v: Tensor<2>,
    /// `ln sum exp` of each block's queries, `[batch, keys, groups * queries, 1]`; none where the
    /// forward pass did not say it.
    sums: Vec<Tensor<4>>,
    angles: Angles,
    visibility: Visibility,
    heads: Heads,
}

impl Kept<3> for Saved {
    /// With p the probabilities, s the scores and `D = sum(p dy v^T)` for each query:
    /// `dv = p^T dy`, `ds = p (dy v^T - D)`, `dq = ds k / sqrt(d)`, `dk = ds^T q / sqrt(d)`. A
    /// bound c on the scores gives `ds` the factor `1 - (s / c)^2`. Queries and keys are turned
    /// back at the end.
    fn backward(self, grad: DispatchTensor, needs: [bool; 3]) -> [Option<DispatchTensor>; 3] {
        let Self {
            angles,
            visibility,
            heads,
            ..
        } = self;
        let operands = Operands::new([&self.q, &self.k, &self.v], &angles, &visibility, heads);
        let dy = operands.split(Tensor::from_dispatch(grad), heads.queries);
        let ([mut dq, mut dk], mut dv) = ([Vec::new(), Vec::new()], Vec::new());
        let mut sums = self.sums.into_iter();
        for block in operands.blocks() {
            let scores = operands.scores(&block, &visibility);
            let probabilities = match sums.next() {
                Some(sums) => (scores.clone() - sums).exp(),
                None => {
                    let [powers, total, _] = powers(scores.clone());
                    powers / total
                }
            };
            let dy = operands.grouped(&dy, &block);
            if needs[2] {
                dv.push(probabilities.clone().transpose().matmul(dy.clone()));
            }
            let through = dy.matmul(operands.seen(&operands.v, &block).transpose());
            let through = through.clone() - (probabilities.clone() * through).sum_dim(3);
            let mut ds = probabilities * through * operands.scale;
            if let Some(cap) = heads.soft_cap {
                // What is hidden has probability 0; its score is no number to be squared.
                let bounded = (scores / cap).clamp(-1.0, 1.0);
                ds = ds * (bounded.square().neg() + 1.0);
            }
            if needs[0] {
                let found = ds.clone().matmul(operands.seen(&operands.k, &block));
                dq.push(operands.ungrouped(found, block.queries));
            }
            if needs[1] {
                dk.push(ds.transpose().matmul(operands.grouped(&operands.q, &block)));
            }
        }
        let back = Angles {
            cos: angles.cos,
            sin: angles.sin.neg(),
        };
        let kind = self.q.dtype();
        let merged = |found| operands.merged(found).cast(kind).into_dispatch();
        let dq = needs[0].then(|| merged(back.rotate(Tensor::cat(dq, 2))));
        let dk = needs[1].then(|| merged(back.rotate(operands.summed(dk))));
        let dv = needs[2].then(|| merged(operands.summed(dv)));
        [dq, dk, dv]
    }
}

/// Queries and keys, rotated, and values of one layer, split into heads:
/// `[batch, heads, sequence, head_dim]`.
struct Operands {
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    heads: Heads,
    /// `1 / sqrt(head_dim)`
    scale: f64,
}

/// A block of queries of every row.
struct Block {
    first: usize,
    queries: usize,
}

impl Operands {
    fn new(
        [q, k, v]: [&Tensor<2>; 3],
        angles: &Angles,
        visibility: &Visibility,
        heads: Heads,
    ) -> Self {
        let batch = visibility.segments.dims()[0];
        // In f32, whatever is kept.
        let [q, k, v] = [q, k, v].map(whole);
        let q = angles.rotate(heads.split(q, heads.queries, batch));
        Self {
            scale: (q.dims()[3] as f64).powf(-0.5),
            q,
            k: angles.rotate(heads.split(k, heads.keys, batch)),
            v: heads.split(v, heads.keys, batch),
            heads,
        }
    }

    fn blocks(&self) -> Vec<Block> {
        let sequence = self.q.dims()[2];
        let firsts = (0..sequence).step_by(BLOCK);
        let block = |first| Block {
            first,
            queries: BLOCK.min(sequence - first),
        };
        firsts.map(block).collect()
    }

    fn split(&self, x: Tensor<2>, count: usize) -> Tensor<4> {
        self.heads.split(x, count, self.q.dims()[0])
    }

    /// Heads beside one another again: `[batch * sequence, count * head_dim]`.
    fn merged(&self, x: Tensor<4>) -> Tensor<2> {
        let [batch, count, sequence, head_dim] = x.dims();
        x.swap_dims(1, 2)
            .reshape([batch * sequence, count * head_dim])
    }

    /// The part of keys or values that a block may see at most: no token looks ahead.
    fn seen(&self, x: &Tensor<4>, block: &Block) -> Tensor<4> {
        x.clone().narrow(2, 0, block.first + block.queries)
    }

    /// A block's part of what every query has, the heads that share keys one after another:
    /// `[batch, keys, groups * queries, width]`.
    fn grouped(&self, x: &Tensor<4>, block: &Block) -> Tensor<4> {
        let [batch, count, _, width] = x.dims();
        let groups = count / self.heads.keys;
        x.clone().narrow(2, block.first, block.queries).reshape([
            batch,
            self.heads.keys,
            groups * block.queries,
            width,
        ])
    }

    /// The opposite of [`Self::grouped`]: `[batch, heads, queries, width]`.
    fn ungrouped(&self, x: Tensor<4>, queries: usize) -> Tensor<4> {
        let [batch, _, _, width] = x.dims();
        x.reshape([batch, self.heads.queries, queries, width])
    }

    /// The scores of a block, bounded, [`HIDDEN`] where a query must not look:
    /// `[batch, keys, groups * queries, seen]`.
    fn scores(&self, block: &Block, visibility: &Visibility) -> Tensor<4> {
        let q = self.grouped(&self.q, block);
        let k = self.seen(&self.k, block);
        let scores = q.matmul(k.transpose()) * self.scale;
        let scores = match self.heads.soft_cap {
            Some(cap) => (scores / cap).tanh() * cap,
            None => scores,
        };
        let shape @ [batch, keys, rows, seen] = scores.dims();
        let hidden = visibility.hidden(block.first, block.queries, self.heads.window);
        // Added, and to all heads at once: a mask for every head would be as large as the scores.
        let hidden = hidden.float().cast(scores.dtype()) * HIDDEN;
        let hidden = hidden.reshape([batch, 1, 1, block.queries, seen]);
        let scores = scores.reshape([batch, keys, rows / block.queries, block.queries, seen]);
        (scores + hidden).reshape(shape)
    }

    /// What a block's queries read, by a kernel of Burn's:
    /// `[batch, keys, groups * queries, width]`.
    fn flash(&self, block: &Block, visibility: &Visibility) -> Tensor<4> {
        let q = self.grouped(&self.q, block);
        let [batch, keys, rows, _] = q.dims();
        let (queries, seen) = (block.queries, block.first + block.queries);
        let hidden = visibility.hidden(block.first, queries, self.heads.window);
        // Padding sees nothing; a kernel's mean of nothing is no number. Let it see itself.
        let place =
            |from: usize, to: usize| Tensor::<1, Int>::arange(from as i64..to as i64, &q.device());
        let own = place(block.first, seen)
            .reshape([queries, 1])
            .expand([queries, seen]);
        let other = place(0, seen).reshape([1, seen]).expand([queries, seen]);
        let another = own.not_equal(other).reshape([1, queries, seen]);
        let hidden = hidden.bool_and(another.expand([batch, queries, seen]));
        let mask = hidden
            .reshape([batch, 1, 1, queries, seen])
            .expand([batch, keys, rows / queries, queries, seen])
            .reshape([batch, keys, rows, seen]);
        let options = AttentionModuleOptions {
            softcap: self.heads.soft_cap,
            ..Default::default()
        };
        let (k, v) = (self.seen(&self.k, block), self.seen(&self.v, block));
        attention(q, k, v, Some(mask), None, options)
    }

    /// The sum of what the blocks give to keys or values. Later keys have nothing of early blocks.
    fn summed(&self, parts: Vec<Tensor<4>>) -> Tensor<4> {
        let sequence = self.k.dims()[2];
        let whole = parts.into_iter().map(|part| {
            let [batch, keys, seen, width] = part.dims();
            match sequence - seen {
                0 => part,
                rest => {
                    let options = (&part.device(), part.dtype());
                    let zeros = Tensor::zeros([batch, keys, rest, width], options);
                    Tensor::cat(vec![part, zeros], 2)
                }
            }
        });
        whole
            .reduce(|sum, part| sum + part)
            .expect("a sequence has a token")
    }
}
