//! Keys and values of the tokens that a model has seen, so that further tokens cost only
//! themselves.

use burn::prelude::*;

use crate::fused::attention::{rotary_attention, rotated_attention};
use crate::rope::Angles;
use crate::visibility::{Heads, Visibility};

/// What [`crate::Llama::forward_with_cache`] remembers of earlier tokens.
///
/// A cache begins empty. The first pass takes the prompts, a row each. Every further pass takes the
/// tokens that follow and looks back at all earlier ones.
#[derive(Debug, Clone, Default)]
pub struct KeyValueCache {
    layers: Vec<LayerCache>,
    /// The visibility of all tokens so far.
    seen: Option<Visibility>,
}

/// The keys, rotated, and the values of one layer, `[batch, keys, sequence, head_dim]`.
#[derive(Debug, Clone, Default)]
pub(crate) struct LayerCache(Option<[Tensor<4>; 2]>);

impl KeyValueCache {
    /// Keeps the given rows, in the given order, and forgets the others.
    pub fn select(&mut self, rows: &Tensor<1, Int>) {
        for LayerCache(held) in &mut self.layers {
            *held = held
                .take()
                .map(|held| held.map(|tensor| tensor.select(0, rows.clone())));
        }
        self.seen = self.seen.take().map(|seen| seen.select(rows));
    }

    /// The number of tokens of a row so far, padding among them.
    pub fn tokens(&self) -> usize {
        let seen = self.seen.as_ref();
        seen.map_or(0, |seen| seen.segments.dims()[1])
    }

    /// Adds new tokens, and returns the visibility of all tokens, old and new.
    pub(crate) fn extend(&mut self, new: Visibility, layers: usize) -> Visibility {
        self.layers.resize(layers, LayerCache::default());
        let all = match &self.seen {
            None => new,
            Some(earlier) => new.after(earlier),
        };
        self.seen = Some(all.clone());
        all
    }

    /// The part of the cache that belongs to one layer.
    pub(crate) fn layer(&mut self, place: usize) -> &mut LayerCache {
        &mut self.layers[place]
    }
}

impl LayerCache {
    /// [`rotary_attention`] of new tokens over the earlier ones and themselves.
    pub(crate) fn attention(
        &mut self,
        [q, k, v]: [Tensor<2>; 3],
        angles: &Angles,
        visibility: &Visibility,
        heads: Heads,
    ) -> Tensor<2> {
        let batch = visibility.segments.dims()[0];
        let new_keys = angles.rotate(heads.split(k.clone(), heads.keys, batch));
        let new_values = heads.split(v.clone(), heads.keys, batch);
        let Some([keys, values]) = self.0.take() else {
            self.0 = Some([new_keys, new_values]);
            return rotary_attention([q, k, v], angles, visibility, heads);
        };
        let keys = Tensor::cat(vec![keys, new_keys], 2);
        let values = Tensor::cat(vec![values, new_values], 2);
        self.0 = Some([keys.clone(), values.clone()]);
        let q = angles.rotate(heads.split(q, heads.queries, batch));
        rotated_attention([q, keys, values], visibility, heads)
    }
}
