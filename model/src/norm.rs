//! Root-mean-square normalisation with a frozen gain.

use burn::prelude::*;
use burn::tensor::DType;

use crate::fused::{self, Made};

/// `x / sqrt(mean(x^2) + eps) * weight`, computed in f32 whatever the weight's type.
#[derive(Module, Debug)]
pub struct RmsNorm {
    /// `[d]`
    weight: Tensor<1>,
    eps: f64,
}

impl RmsNorm {
    /// A norm with the given gain.
    pub fn new(weight: Tensor<1>, eps: f64) -> Self {
        Self {
            weight: weight.cast(DType::F32),
            eps,
        }
    }

    /// Normalises each row.
    ///
    /// # Shapes
    /// - x, output: `[rows, d]`
    pub fn forward(&self, x: Tensor<2>) -> Normed {
        Normed {
            value: fused::rms_norm::rms_norm(x.clone(), self.weight.clone(), self.eps),
            x,
            gain: self.weight.clone(),
            eps: self.eps,
        }
    }
}

/// A normalised input and what it was computed from: what reads it need not keep it for the backward pass.
#[derive(Debug, Clone)]
pub struct Normed {
    /// `[rows, d]`
    pub value: Tensor<2>,
    /// What was normalised, `[rows, d]`.
    pub x: Tensor<2>,
    /// `[d]`
    pub gain: Tensor<1>,
    /// What keeps the root away from zero.
    pub eps: f64,
}

impl Normed {
    /// The value with what it was made from, as [`fused::low_rank::adapted_linear`] takes it.
    pub(crate) fn input(&self) -> (Tensor<2>, Made) {
        let made = Made::Normed(self.x.clone(), self.gain.clone(), self.eps);
        (self.value.clone(), made)
    }
}
