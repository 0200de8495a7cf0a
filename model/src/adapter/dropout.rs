//! Dropout on the input of a LoRA branch.

use burn::prelude::*;
use burn::tensor::Distribution;

/// Zeroes each value with probability `p` and divides the rest by `1 - p`.
///
/// The caller says when it acts: in training, and at inference for MC dropout. The mask comes from the device's generator,
/// which training seeds from (seed, step) so that a resumed run draws the same masks.
pub fn dropout(x: Tensor<2>, p: f64) -> Tensor<2> {
    if p == 0.0 {
        return x;
    }
    let device = x.device().without_autodiff();
    let keep = 1.0 - p;
    let mask = Tensor::<2>::random(x.dims(), Distribution::Bernoulli(keep), &device);
    x * (mask / keep)
}
