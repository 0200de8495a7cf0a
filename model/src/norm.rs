//! Root-mean-square normalisation with a frozen gain.

use burn::prelude::*;
use burn::tensor::DType;

use crate::fused::activation::{Activation, Origin};
use crate::fused::rms_norm::rms_norm;

/// `x / sqrt(mean(x^2) + eps) * weight`, computed in f32 whatever the weight's type.
#[derive(Module, Debug)]
pub struct RmsNorm {
    /// `[d]`
    weight: Tensor<1>,
    eps: f64,
}

impl RmsNorm {
    /// A norm with the given gain; `eps` is added to the mean square.
    pub fn new(weight: Tensor<1>, eps: f64) -> Self {
        Self {
            weight: weight.cast(DType::F32),
            eps,
        }
    }

    /// The number of values that are normalised together.
    pub fn width(&self) -> usize {
        self.weight.dims()[0]
    }

    /// Normalises each row.
    ///
    /// # Shapes
    /// - x, output: `[rows, d]`
    pub fn forward(&self, x: Tensor<2>) -> Activation {
        Activation {
            value: rms_norm(x.clone(), self.weight.clone(), self.eps),
            origin: Origin::RmsNorm {
                x,
                gain: self.weight.clone(),
                eps: self.eps,
            },
        }
    }
}
