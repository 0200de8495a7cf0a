//! Gradients of the choices' logits at the outputs of A and of B, and the Jacobians that they give.

use burn::prelude::*;
use data::Batch;
use model::{Capture, DropoutSeed, Llama, LlamaInput, Probe};

use crate::config::Layers;
use crate::forward::{choice_logits, input};

/// A model made ready for gradients at the probed places only.
pub struct Probed {
    pub(super) llama: Llama,
    pub(super) first_layer: usize,
}

/// What one class's backward pass leaves.
pub(super) struct ClassPass {
    pub(super) logits: Tensor<2>,
    pub(super) captures: Vec<Capture>,
    pub(super) gradients: ClassGradients,
}

/// The gradients at A's and B's output, place by place.
pub(super) type ClassGradients = Vec<(Tensor<2>, Tensor<2>)>;

impl Probed {
    /// The adapter is frozen: gradients are wanted at its outputs, not of its weights.
    pub fn new(llama: Llama, layers: Layers) -> Self {
        let first_layer = match layers {
            Layers::All => 0,
            Layers::Last => llama.layers() - 1,
        };
        Self {
            llama: llama.no_grad().train(),
            first_layer,
        }
    }

    /// The residual stream before the first covered layer, `[batch * sequence, d]`: the same for
    /// every choice, and no gradient goes further.
    pub(super) fn below(&self, batch: &Batch) -> Tensor<2> {
        let input = input(batch, DropoutSeed::OFF);
        let blocks = self.llama.blocks(&input);
        let layers = 0..self.first_layer;
        layers.fold(blocks.embedded(), |x, place| {
            blocks.forward(place, x, &mut Vec::new())
        })
    }

    /// Runs a batch forward from [`Self::below`], and backward from the sum that `target` makes of
    /// the choices' logits.
    pub(super) fn pass(
        &self,
        batch: &Batch,
        below: &Tensor<2>,
        target: impl FnOnce(Tensor<2>) -> Tensor<1>,
    ) -> ClassPass {
        let probe = Probe::from_layer(self.first_layer);
        let input = LlamaInput {
            probe: Some(probe.clone()),
            ..input(batch, DropoutSeed::OFF)
        };
        let (blocks, mut routing) = (self.llama.blocks(&input), Vec::new());
        let layers = self.first_layer..self.llama.layers();
        let hidden = layers.fold(below.clone(), |x, place| {
            blocks.forward(place, x, &mut routing)
        });
        let output = self.llama.output(hidden, routing, &input);
        let logits = choice_logits(output.logits, batch);
        let gradients = target(logits.clone()).backward();
        let captures = probe.take();
        ClassPass {
            logits: logits.without_autodiff(),
            gradients: captures.iter().map(|c| c.gradients(&gradients)).collect(),
            captures,
        }
    }

    /// The batch on the device that records gradients.
    pub(super) fn on_device(&self, batch: &Batch, device: &Device) -> Batch {
        batch.clone().to_device(&device.clone().autodiff())
    }
}

/// Column `choice` of `[batch, choices]`, 0 where it is absent, summed.
pub(super) fn column(scores: Tensor<2>, choice: usize, batch: &Batch) -> Tensor<1> {
    let [_, choices] = scores.dims();
    let device = scores.device().without_autodiff();
    // By its index; `narrow` would say the same. Gradients were seen wrong with it under Burn's
    // fusion, before its fused matrix products were found to give such.
    let others = Tensor::<1, Int>::arange(0..choices as i64, &device)
        .not_equal_scalar(choice as i64)
        .unsqueeze_dim::<2>(0)
        .expand(scores.dims());
    let hidden = batch.choices.missing.clone().bool_or(others);
    scores.mask_fill(hidden, 0.0).sum()
}

/// The Jacobians of a batch's choice logits by every covered matrix.
pub struct Jacobians {
    /// `[batch, choices]`
    pub logits: Tensor<2>,
    /// `[batch, choices, rows, columns]`, A before B, in the order of the forward pass.
    pub matrices: Vec<Tensor<4>>,
}

/// One forward and one backward pass a choice through the covered layers.
pub(super) fn class_passes(probed: &Probed, batch: &Batch) -> (ClassPass, Vec<ClassGradients>) {
    let choices = batch.choices.dims()[1];
    let below = probed.below(batch);
    let pass = |choice: usize| probed.pass(batch, &below, |logits| column(logits, choice, batch));
    let first = pass(0);
    // Inputs are the same for every choice: only the gradients of the others are kept.
    let others = (1..choices).map(|choice| pass(choice).gradients).collect();
    (first, others)
}

/// The Jacobians of A and of B at one place, `[batch, choices, rows, columns]`: `sum over tokens of
/// input (x) gradient`.
pub(super) fn place_jacobians(
    first: &ClassPass,
    others: &[ClassGradients],
    place: usize,
    [rows, sequence]: [usize; 2],
) -> [Tensor<4>; 2] {
    let by_question = |input: &Tensor<2>, gradient: &Tensor<2>| -> Tensor<4> {
        let (d_in, d_out) = (input.dims()[1], gradient.dims()[1]);
        let input = input.clone().reshape([rows, sequence, d_in]);
        let gradient = gradient.clone().reshape([rows, sequence, d_out]);
        input.transpose().matmul(gradient).unsqueeze_dim(1)
    };
    let capture = &first.captures[place];
    let all = || std::iter::once(&first.gradients).chain(others);
    let a = all().map(|gradients| by_question(&capture.input, &gradients[place].0));
    let b = all().map(|gradients| by_question(&capture.hidden, &gradients[place].1));
    [Tensor::cat(a.collect(), 1), Tensor::cat(b.collect(), 1)]
}

/// The Jacobian of every choice's logit by every covered matrix at once; a prediction goes place by
/// place.
pub fn jacobians(probed: &Probed, batch: &Batch, device: &Device) -> Jacobians {
    let batch = probed.on_device(batch, device);
    let (first, others) = class_passes(probed, &batch);
    let matrices = (0..first.captures.len())
        .flat_map(|place| place_jacobians(&first, &others, place, batch.input.tokens.dims()))
        .collect();
    Jacobians {
        logits: first.logits,
        matrices,
    }
}

/// Activations and gradients of every choice are held at once: where they are of all layers, a
/// quarter of the tokens fits.
pub(super) fn batch_tokens(layers: Layers, set: usize) -> usize {
    match layers {
        Layers::All => (set / 4).max(1),
        Layers::Last => set,
    }
}
