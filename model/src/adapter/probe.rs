//! What a curvature needs to see of an adapted layer: the inputs of A and B, and the gradients at
//! their outputs.
//!
//! A probe adds a leaf of zeros to the output of A and to that of B. The backward pass leaves in it
//! the gradient of every row. From these follow the Jacobian of each row (an outer product) and the
//! factors of a Kronecker approximation, without one backward pass a row.

use std::sync::{Arc, Mutex, PoisonError};

use burn::prelude::*;
use burn::tensor::Gradients;

use super::TargetModule;
use crate::dropout::{DropoutSeed, Mask, TokenKeys};

/// Records every LoRA of the layers that it covers, in the order of the forward pass. Clones share
/// one record.
#[derive(Debug, Clone)]
pub struct Probe {
    first_layer: usize,
    captures: Arc<Mutex<Vec<Capture>>>,
}

/// What a [`Probe`] recorded of one LoRA in one forward pass. Rows are the flat tokens.
#[derive(Debug, Clone)]
pub struct Capture {
    /// The input of A, `[tokens, d_in]`.
    pub input: Tensor<2>,
    /// The input of B, `[tokens, r]`.
    pub hidden: Tensor<2>,
    at_hidden: Tensor<2>,
    at_output: Tensor<2>,
}

impl Probe {
    /// A probe of the decoder layers from `first_layer` on.
    pub fn from_layer(first_layer: usize) -> Self {
        Self {
            first_layer,
            captures: Arc::default(),
        }
    }

    /// Takes out what was recorded since the last call.
    pub fn take(&self) -> Vec<Capture> {
        std::mem::take(&mut *self.captures.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn record(&self, capture: Capture) {
        let mut captures = self.captures.lock().unwrap_or_else(PoisonError::into_inner);
        captures.push(capture);
    }
}

impl Capture {
    /// The gradients at the outputs of A, `[tokens, r]`, and of B, `[tokens, d_out]`, before the
    /// scaling `alpha / r`. Zeros where no gradient arrived.
    pub fn gradients(&self, gradients: &Gradients) -> (Tensor<2>, Tensor<2>) {
        let at = |leaf: &Tensor<2>| {
            leaf.grad(gradients)
                .unwrap_or_else(|| leaf.clone().without_autodiff().zeros_like())
        };
        (at(&self.at_hidden), at(&self.at_output))
    }
}

/// What accompanies a forward pass through the layers: the seed of everything random, the tokens'
/// keys to it where there is one, and whether the pass is recorded.
#[derive(Debug, Clone, Copy)]
pub struct Pass<'a> {
    pub(crate) seed: DropoutSeed,
    pub(crate) keys: Option<&'a TokenKeys>,
    probe: Option<&'a Probe>,
}

impl<'a> Pass<'a> {
    /// A pass that has entered no layer yet.
    pub(crate) fn new(
        seed: DropoutSeed,
        keys: Option<&'a TokenKeys>,
        probe: Option<&'a Probe>,
    ) -> Self {
        Self { seed, keys, probe }
    }

    /// The dropout mask here; none where nothing is dropped.
    pub(crate) fn mask(self, p: f64) -> Option<Mask> {
        Mask::new(p, self.seed, self.keys?)
    }

    /// The pass in one decoder layer, which the probe may not cover.
    pub(crate) fn layer(self, layer: usize) -> Self {
        Self {
            seed: self.seed.at(layer as u64),
            probe: self.probe.filter(|probe| layer >= probe.first_layer),
            ..self
        }
    }

    /// The pass at one projection of a layer.
    pub(crate) fn at(self, target: TargetModule) -> Self {
        Self {
            seed: self.seed.at(target as u64),
            ..self
        }
    }

    /// The pass through a feed-forward block with the experts that the tokens chose in one of the k
    /// slots.
    pub(crate) fn slot(self, slot: usize) -> Self {
        /// The first place after those of the projections.
        const FIRST: u64 = 8;
        Self {
            seed: self.seed.at(FIRST + slot as u64),
            ..self
        }
    }

    /// Whether a probe covers the current layer.
    pub(crate) fn is_recorded(self) -> bool {
        self.probe.is_some()
    }

    /// `hidden B`, where `hidden = input A`. Recorded if a probe covers the layer.
    pub(crate) fn second_product(
        self,
        input: Tensor<2>,
        hidden: Tensor<2>,
        lora_b: Tensor<2>,
    ) -> Tensor<2> {
        let Some(probe) = self.probe else {
            return hidden.matmul(lora_b);
        };
        let leaf = |like: [usize; 2]| Tensor::<2>::zeros(like, &hidden.device()).require_grad();
        let at_hidden = leaf(hidden.dims());
        let at_output = leaf([hidden.dims()[0], lora_b.dims()[1]]);
        let hidden = hidden + at_hidden.clone();
        probe.record(Capture {
            input: input.without_autodiff(),
            hidden: hidden.clone().without_autodiff(),
            at_hidden,
            at_output: at_output.clone(),
        });
        hidden.matmul(lora_b) + at_output
    }
}
