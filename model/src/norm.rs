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

    /// Normalises each row; what it was made from comes with it, for [`fused::low_rank::adapted_linear`].
    ///
    /// # Shapes
    /// - x, output: `[rows, d]`
    pub fn forward(&self, x: Tensor<2>) -> (Tensor<2>, Made) {
        let normed = fused::rms_norm::rms_norm(x.clone(), self.weight.clone(), self.eps);
        (normed, Made::Normed(x, self.weight.clone(), self.eps))
    }
}
