//! Causal grouped-query attention with rotary positions, in tiles: the matrix of scores of a whole
//! sequence never exists.
//!
//! The backward pass computes the probabilities again from each query's `ln sum exp` (Dao et al.
//! 2022).

use burn::backend::autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops},
};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, ExtensionType, Flex, backend_extension, flex::FlexTensor};
use burn::tensor::Tensor;
use burn::tensor::module::{attention, attention_fallback};
use burn::tensor::ops::AttentionModuleOptions;

use super::{Implementation, propagate, serves, tracked};
use crate::rope::Angles;
use crate::visibility::{AttentionKind, Heads, Visibility};

mod flex;
mod lean;

/// Queries of one block of the lean form. The scores of a block are all that exists of them.
pub const BLOCK: usize = 512;

/// `softmax(rotate(q) rotate(k)^T / sqrt(head_dim)) v` over what each token may see, the scores
/// bounded where the heads say so. The output at a token that sees nothing has no meaning, but is
/// finite.
///
/// # Shapes
/// - q, output: `[batch * sequence, queries * head_dim]`
/// - k, v: `[batch * sequence, keys * head_dim]`
///
/// # Panics
/// As [`composed`], where that form runs.
pub fn rotary_attention(
    [q, k, v]: [Tensor<2>; 3],
    angles: &Angles,
    visibility: &Visibility,
    heads: Heads,
) -> Tensor<2> {
    match Implementation::of(&[&q]) {
        // The kernels know no bound.
        Implementation::Flex if heads.soft_cap.is_some() => {
            lean::lean([q, k, v], angles, visibility, heads)
        }
        Implementation::Lean => lean::lean([q, k, v], angles, visibility, heads),
        Implementation::Flex => Tensor::from_dispatch(Dispatch::rotary_attention(Attention {
            q: q.into_dispatch(),
            k: k.into_dispatch(),
            v: v.into_dispatch(),
            cos: angles.cos.clone().into_dispatch(),
            sin: angles.sin.clone().into_dispatch(),
            segments: visibility.segments.clone().into_dispatch(),
            branches: visibility.branches.clone().into_dispatch(),
            positions: visibility.positions.clone().into_dispatch(),
            heads,
        })),
        Implementation::Composed => composed([q, k, v], angles, visibility, heads),
    }
}

/// [`rotary_attention()`] from Burn's own operations. The queries that share a key-value head are
/// laid one after another along the sequence, so keys are never repeated.
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

/// [`composed`] for queries and keys that are rotated already. Keys and values may reach further
/// back than the queries.
///
/// # Shapes
/// - q: `[batch, queries, asking, head_dim]`; k, v: `[batch, keys, sequence, head_dim]`
/// - output: `[batch * asking, queries * head_dim]`
///
/// # Panics
/// Without a mask for these heads, see [`Visibility::with_masks`].
pub fn rotated_attention(
    [q, k, v]: [Tensor<4>; 3],
    visibility: &Visibility,
    heads: Heads,
) -> Tensor<2> {
    let [batch, queries, asking, head_dim] = q.dims();
    let q = q.reshape([batch, heads.keys, queries / heads.keys * asking, head_dim]);
    let mask = visibility.mask(heads);
    let options = AttentionModuleOptions {
        softcap: heads.soft_cap,
        ..Default::default()
    };
    // Off the processor Burn may choose a kernel that is not exact.
    let mixed = match heads.attention == AttentionKind::Exact && !serves(&q.device()) {
        true => attention_fallback(q, k, v, Some(mask), None, options),
        false => attention(q, k, v, Some(mask), None, options),
    };
    mixed
        .reshape([batch, queries, asking, head_dim])
        .swap_dims(1, 2)
        .reshape([batch * asking, queries * head_dim])
}

/// The inputs of [`rotary_attention()`] on the primitives of a backend.
#[derive(ExtensionType, Clone, Debug)]
pub struct Attention<B: Backend> {
    /// Queries, `[tokens, queries * head_dim]`.
    pub q: FloatTensor<B>,
    /// Keys, `[tokens, keys * head_dim]`.
    pub k: FloatTensor<B>,
    /// Values, `[tokens, keys * head_dim]`.
    pub v: FloatTensor<B>,
    /// Cosines of the rotary angles, `[tokens, rotated / 2]`.
    pub cos: FloatTensor<B>,
    /// Sines of the rotary angles, `[tokens, rotated / 2]`.
    pub sin: FloatTensor<B>,
    /// See [`Visibility::segments`], `[batch, sequence]`.
    pub segments: IntTensor<B>,
    /// See [`Visibility::branches`], `[batch, sequence]`.
    pub branches: IntTensor<B>,
    /// See [`Visibility::positions`], `[batch, sequence]`.
    pub positions: IntTensor<B>,
    /// Numbers of heads, and the window.
    pub heads: Heads,
}

/// The forward and backward pass of [`rotary_attention()`] as a backend implements them.
pub trait Kernels: Backend {
    /// Returns the output and each query's `ln sum exp`, `[batch * queries, sequence]`.
    fn forward(inputs: &Attention<Self>) -> [FloatTensor<Self>; 2];
    /// Returns the gradients to q, k and v, given what the forward pass returned.
    fn backward(
        inputs: &Attention<Self>,
        outputs: [FloatTensor<Self>; 2],
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 3];
}

/// [`rotary_attention()`] as Burn dispatches it.
#[backend_extension(Flex, Autodiff)]
pub trait Extension: Backend {
    /// See [`rotary_attention()`].
    fn rotary_attention(#[extension_type] inputs: Attention<Self>) -> FloatTensor<Self>;
}

impl Extension for Flex {
    fn rotary_attention(inputs: Attention<Self>) -> FlexTensor {
        let [y, _] = Self::forward(&inputs);
        y
    }
}

impl<B: Kernels, C: CheckpointStrategy> Extension for Autodiff<B, C> {
    fn rotary_attention(inputs: Attention<Self>) -> FloatTensor<Self> {
        let (q, q_node) = inputs.q.into_parts();
        let (k, k_node) = inputs.k.into_parts();
        let (v, v_node) = inputs.v.into_parts();
        let inputs = Attention::<B> {
            q,
            k,
            v,
            cos: inputs.cos.into_parts().0,
            sin: inputs.sin.into_parts().0,
            segments: inputs.segments,
            branches: inputs.branches,
            positions: inputs.positions,
            heads: inputs.heads,
        };
        let [y, sums] = B::forward(&inputs);
        let saved = (inputs, [y.clone(), sums]);
        tracked::<B, C, _, 3>(AttentionBackward, [q_node, k_node, v_node], saved, y)
    }
}

#[derive(Debug)]
struct AttentionBackward;

impl<B: Kernels> Backward<B, 3> for AttentionBackward {
    /// The inputs and what the forward pass returned: handles, not copies.
    type State = (Attention<B>, [FloatTensor<B>; 2]);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        propagate::<B, _, 3>(ops, grads, |(inputs, outputs), grad, _| {
            B::backward(&inputs, outputs, grad).map(Some)
        });
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Int, TensorData};

    use super::*;
    use crate::fused::testing::{assert_close, leaf, random};

    /// A row of each kind: padding on the left, padding on the right, packed examples, branches
    /// after a trunk.
    fn rows(sequence: usize, device: &Device) -> Visibility {
        let cell = |row: usize, at: usize| -> [i64; 3] {
            let (token, branch) = (at as i64, (at as i64 - 2).max(0) / 3);
            match row {
                0 => [i64::from(at >= 2), 0, token],
                1 => [i64::from(at + 3 < sequence), 0, token],
                2 => [1 + token / 5, 0, token % 5],
                _ => [1, branch, token - branch],
            }
        };
        let of = |part: usize| {
            let all = (0..4 * sequence).map(|i| cell(i / sequence, i % sequence)[part]);
            let values = TensorData::new(all.collect::<Vec<i64>>(), [4, sequence]);
            Tensor::<2, Int>::from_data(values, device)
        };
        Visibility::new(of(0), of(1), of(2))
    }

    #[test]
    fn attention_equals_its_composed_form_in_value_and_gradients() {
        let device = Device::flex();
        device.seed(7);
        for (sequence, queries, keys, head_dim, rotated, window, soft_cap) in [
            (1, 1, 1, 2, 2, None, None),
            (13, 4, 2, 6, 6, Some(4), None),
            (13, 4, 2, 6, 4, None, Some(1.5)),
            (150, 3, 1, 8, 8, None, None),
            (150, 4, 4, 16, 12, Some(70), None),
            // Two blocks of the lean form.
            (530, 2, 1, 4, 4, Some(300), Some(2.0)),
        ] {
            let heads = Heads {
                queries,
                keys,
                window,
                soft_cap,
                attention: AttentionKind::Exact,
            };
            let visibility = rows(sequence, &device).with_masks(std::iter::once(heads));
            let tokens = 4 * sequence;
            let angle = random([tokens, rotated / 2], &device) * 3.0;
            let angles = Angles {
                cos: angle.clone().cos(),
                sin: angle.sin(),
            };
            let q = random([tokens, queries * head_dim], &device) * 2.0;
            let k = random([keys * head_dim, tokens], &device) * 2.0;
            let v = random([tokens, keys * head_dim], &device);
            // What comes out at padding means nothing and must not matter.
            let seen = visibility.segments.clone().greater_elem(0).float();
            let upstream = random([tokens, queries * head_dim], &device)
                * seen
                    .reshape([tokens, 1])
                    .expand([tokens, queries * head_dim]);
            let run = |op: fn([Tensor<2>; 3], &Angles, &Visibility, Heads) -> Tensor<2>| {
                let (q, k, v) = (leaf(&q), leaf(&k), leaf(&v));
                let y = op(
                    [q.clone(), k.clone().transpose(), v.clone()],
                    &angles,
                    &visibility,
                    heads,
                ) * upstream.clone();
                let grads = y.clone().sum().backward();
                let all = [q, k, v].map(|t| t.grad(&grads).unwrap());
                (y.without_autodiff(), all)
            };
            let composed = run(composed);
            let flash = |qkv, angles: &Angles, visibility: &Visibility, heads: Heads| {
                let attention = AttentionKind::Flash;
                lean::lean(qkv, angles, visibility, Heads { attention, ..heads })
            };
            for found in [run(rotary_attention), run(lean::lean), run(flash)] {
                assert_close(found.0, composed.0.clone(), 1e-5);
                for (found, composed) in found.1.into_iter().zip(composed.1.clone()) {
                    assert_close(found, composed, 1e-4);
                }
            }
        }
    }
}
