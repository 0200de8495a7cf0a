//! Rotary position embedding in Hugging Face's rotate-half layout.

use burn::prelude::*;

use crate::config::{ModelConfig, RopeScaling};

/// Cosines and sines of the rotary angles of every position, in f32.
#[derive(Module, Debug)]
pub struct Rope {
    /// Cosines, `[positions, head_dim / 2]`.
    cos: Tensor<2>,
    /// Sines, `[positions, head_dim / 2]`.
    sin: Tensor<2>,
}

/// The rotary angles of one batch: looked up once, used by every layer.
#[derive(Debug, Clone)]
pub struct Angles {
    /// Cosines, `[batch * sequence, head_dim / 2]`.
    pub cos: Tensor<2>,
    /// Sines, `[batch * sequence, head_dim / 2]`.
    pub sin: Tensor<2>,
}

impl Rope {
    /// Tables for the first `positions` positions.
    pub fn new(config: &ModelConfig, positions: usize, device: &Device) -> Self {
        let frequencies = inverse_frequencies(config);
        let half = frequencies.len();
        let mut cos = Vec::with_capacity(positions * half);
        let mut sin = Vec::with_capacity(positions * half);
        for position in 0..positions {
            for frequency in &frequencies {
                // f32 products, as transformers computes them. f64 angles would differ in the last
                // bits at long range.
                let angle = position as f32 * *frequency as f32;
                cos.push(angle.cos());
                sin.push(angle.sin());
            }
        }
        let table = |values| Tensor::from_data(TensorData::new(values, [positions, half]), device);
        Self {
            cos: table(cos),
            sin: table(sin),
        }
    }

    /// Looks up the angles of `positions` `[batch, sequence]`.
    pub fn angles(&self, positions: Tensor<2, Int>) -> Angles {
        let [batch, sequence] = positions.dims();
        let flat = positions.reshape([batch * sequence]);
        let row = |table: &Tensor<2>| table.clone().select(0, flat.clone());
        Angles {
            cos: row(&self.cos),
            sin: row(&self.sin),
        }
    }
}

impl Angles {
    /// Rotates queries or keys. The first half of a head is the real part, the second half the
    /// imaginary part.
    ///
    /// # Shapes
    /// - x, output: `[batch, heads, sequence, head_dim]`
    pub fn rotate(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, heads, sequence, head_dim] = x.dims();
        let half = head_dim / 2;
        let by_head = |t: &Tensor<2>| t.clone().reshape([batch, 1, sequence, 1, half]);
        let (cos, sin) = (by_head(&self.cos), by_head(&self.sin));
        // The real part takes -sin of the imaginary part, the imaginary part sin of the real one.
        let sin = Tensor::cat(vec![sin.clone().neg(), sin], 3);
        // The halves are exchanged by `flip`. Cutting them out by `narrow` would be right as well,
        // but under Burn's fusion the backward pass of `narrow`, an assignment to a slice, has
        // given wrong gradients.
        let x = x.reshape([batch, heads, sequence, 2, half]);
        let turned = x.clone() * cos + x.flip([3]) * sin;
        turned.reshape([batch, heads, sequence, head_dim])
    }
}

/// `theta^(-2i / head_dim)`, stretched as the configuration asks (transformers'
/// `modeling_rope_utils`).
fn inverse_frequencies(config: &ModelConfig) -> Vec<f64> {
    let dim = config.head_dim as f64;
    let plain = (0..config.head_dim / 2).map(|i| config.rope_theta.powf(-2.0 * i as f64 / dim));
    match config.rope_scaling {
        None => plain.collect(),
        Some(RopeScaling::Linear { factor }) => plain.map(|f| f / factor).collect(),
        Some(RopeScaling::Llama3 {
            factor,
            low_freq_factor: low,
            high_freq_factor: high,
            original_max_position_embeddings: context,
        }) => plain
            .map(|f| {
                let wavelength = 2.0 * std::f64::consts::PI / f;
                if wavelength < context / high {
                    f
                } else if wavelength > context / low {
                    f / factor
                } else {
                    let smooth = (context / wavelength - low) / (high - low);
                    (1.0 - smooth) * f / factor + smooth * f
                }
            })
            .collect(),
    }
}
