//! Keys and values of tokens that the model has seen, so that the next ones cost only themselves.

use burn::prelude::*;

use crate::fused::attention::{Heads, Visibility, rotary_attention, rotated_attention};
use crate::rope::Angles;

/// What [`crate::Llama::forward_with_cache`] remembers of the tokens before. Empty at first: the first pass takes the prompts, every
/// further one the tokens that follow, a row each, and looks back at all of them.
#[derive(Debug, Clone, Default)]
pub struct KeyValueCache {
    layers: Vec<LayerCache>,
    /// Of all tokens so far.
    seen: Option<Visibility>,
}

/// One layer's keys, rotated, and values: `[batch, keys, sequence, head_dim]`.
#[derive(Debug, Clone, Default)]
pub(crate) struct LayerCache(Option<[Tensor<4>; 2]>);

impl KeyValueCache {
    /// Forgets all rows but these, which may also come in another order.
    pub fn select(&mut self, rows: &Tensor<1, Int>) {
        for LayerCache(held) in &mut self.layers {
            *held = held
                .take()
                .map(|held| held.map(|tensor| tensor.select(0, rows.clone())));
        }
        self.seen = self.seen.take().map(|seen| seen.select(rows));
    }

    /// Tokens of a row so far, padding among them.
    pub fn tokens(&self) -> usize {
        let seen = self.seen.as_ref();
        seen.map_or(0, |seen| seen.segments.dims()[1])
    }

    /// Takes new tokens in; all of them together come back.
    pub(crate) fn extend(&mut self, new: Visibility, layers: usize) -> Visibility {
        self.layers.resize(layers, LayerCache::default());
        let all = match &self.seen {
            None => new,
            Some(earlier) => new.after(earlier),
        };
        self.seen = Some(all.clone());
        all
    }

    pub(crate) fn layer(&mut self, place: usize) -> &mut LayerCache {
        &mut self.layers[place]
    }
}

impl LayerCache {
    /// [`rotary_attention`] of new tokens over those before and themselves.
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
