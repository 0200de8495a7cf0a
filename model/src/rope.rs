//! Rotary position embedding in Hugging Face's rotate-half layout.

use burn::prelude::*;

use crate::config::{ModelConfig, RopeScaling};

/// Which of a model's rotations a layer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    /// The one that most layers have, with its scaling.
    Global,
    /// That of layers with a window, where it is another one.
    Local,
    /// None: the layer knows no positions.
    None,
}

impl Rotation {
    /// The rotation of a layer.
    pub fn of(config: &ModelConfig, layer: usize) -> Self {
        let variant = &config.variant;
        let window = config.sliding_window[layer].is_some();
        match variant.unrotated.get(layer) {
            Some(true) => Self::None,
            _ if window && variant.local_rope_theta.is_some() => Self::Local,
            _ => Self::Global,
        }
    }
}

/// Cosines and sines of the rotary angles of every position, in f32.
#[derive(Module, Debug)]
pub struct Rope {
    /// Cosines, `[positions, rotated / 2]`.
    cos: Tensor<2>,
    /// Sines, `[positions, rotated / 2]`.
    sin: Tensor<2>,
}

/// The rotary angles of one batch: looked up once, used by every layer.
#[derive(Debug, Clone)]
pub struct Angles {
    /// Cosines, `[batch * sequence, rotated / 2]`.
    pub cos: Tensor<2>,
    /// Sines, `[batch * sequence, rotated / 2]`.
    pub sin: Tensor<2>,
}

impl Rope {
    /// Tables of a rotation for the first `positions` positions.
    pub fn new(
        config: &ModelConfig,
        rotation: Rotation,
        positions: usize,
        device: &Device,
    ) -> Self {
        let (frequencies, factor) = match rotation {
            Rotation::Global => inverse_frequencies(config, positions),
            Rotation::Local => {
                let theta = config.variant.local_rope_theta;
                (
                    plain(theta.unwrap_or(config.rope_theta), config.rotary_dim()),
                    1.0,
                )
            }
            Rotation::None => (vec![0.0; config.rotary_dim() / 2], 1.0),
        };
        let factor = factor as f32;
        let half = frequencies.len();
        let mut cos = Vec::with_capacity(positions * half);
        let mut sin = Vec::with_capacity(positions * half);
        for position in 0..positions {
            for frequency in &frequencies {
                // f32 products, as transformers computes them. f64 angles would differ in the last
                // bits at long range.
                let angle = position as f32 * *frequency as f32;
                cos.push(angle.cos() * factor);
                sin.push(angle.sin() * factor);
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
    /// Rotates queries or keys. Of the part that is rotated, the first values of a head, the first
    /// half is the real part, the second half the imaginary part.
    ///
    /// # Shapes
    /// - x, output: `[batch, heads, sequence, head_dim]`
    pub fn rotate(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, heads, sequence, head_dim] = x.dims();
        let half = self.cos.dims()[1];
        if 2 * half < head_dim {
            return self.rotate_part(x);
        }
        let by_head = |t: &Tensor<2>| t.clone().reshape([batch, 1, sequence, 1, half]);
        let (cos, sin) = (by_head(&self.cos), by_head(&self.sin));
        // The real part takes -sin of the imaginary part, the imaginary part sin of the real one.
        let sin = Tensor::cat(vec![sin.clone().neg(), sin], 3);
        // The halves are exchanged by `flip`. Cutting them out by `narrow` would be right as well.
        // Gradients were seen wrong with it under Burn's fusion, before its fused matrix products
        // were found to give such.
        let x = x.reshape([batch, heads, sequence, 2, half]);
        let turned = x.clone() * cos + x.flip([3]) * sin;
        turned.reshape([batch, heads, sequence, head_dim])
    }

    /// [`Self::rotate`] where the end of a head stays as it is: its cosines are 1, its sines 0.
    fn rotate_part(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, _, sequence, head_dim] = x.dims();
        let [tokens, half] = self.cos.dims();
        let rest = head_dim - 2 * half;
        let (device, dtype) = (self.cos.device(), self.cos.dtype());
        let ones = Tensor::ones([tokens, rest], (&device, dtype));
        let zeros = Tensor::zeros([tokens, rest], (&device, dtype));
        let by_head = |parts| Tensor::cat(parts, 1).reshape([batch, 1, sequence, head_dim]);
        let cos = by_head(vec![self.cos.clone(), self.cos.clone(), ones]);
        let sin = by_head(vec![self.sin.clone().neg(), self.sin.clone(), zeros]);
        // The halves exchanged.
        let (half, width) = (half as i64, head_dim as i64);
        let order: Vec<i64> = (half..2 * half)
            .chain(0..half)
            .chain(2 * half..width)
            .collect();
        let order = Tensor::<1, Int>::from_data(
            TensorData::new(order, [head_dim]),
            &x.device().without_autodiff(),
        );
        x.clone() * cos + x.select(3, order) * sin
    }
}

/// `theta^(-2i / rotated)`
fn plain(theta: f64, rotated: usize) -> Vec<f64> {
    let dim = rotated as f64;
    let power = |i: usize| theta.powf(-2.0 * i as f64 / dim);
    (0..rotated / 2).map(power).collect()
}

/// The frequencies, stretched as the configuration asks, and the factor on cosines and sines
/// (transformers' `modeling_rope_utils`). `positions` is the longest sequence.
fn inverse_frequencies(config: &ModelConfig, positions: usize) -> (Vec<f64>, f64) {
    let plain = plain(config.rope_theta, config.rotary_dim());
    let found = match &config.rope_scaling {
        None => plain,
        Some(RopeScaling::Linear { factor }) => plain.iter().map(|f| f / factor).collect(),
        Some(RopeScaling::Llama3 {
            factor,
            low_freq_factor: low,
            high_freq_factor: high,
            original_max_position_embeddings: context,
        }) => plain
            .into_iter()
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
        Some(RopeScaling::Yarn {
            factor,
            original_max_position_embeddings: context,
            beta_fast,
            beta_slow,
            truncate,
            attention_factor,
        }) => {
            // The place among the frequencies that turns so often within the trained context.
            let dim = config.rotary_dim() as f64;
            let place = |turns: f64| {
                let wavelength = context / (turns * 2.0 * std::f64::consts::PI);
                dim * wavelength.ln() / (2.0 * config.rope_theta.ln())
            };
            let (mut low, mut high) = (place(*beta_fast), place(*beta_slow));
            if *truncate {
                (low, high) = (low.floor(), high.ceil());
            }
            let (low, high) = (low.max(0.0), high.min(dim - 1.0));
            let width = if low == high { 0.001 } else { high - low };
            let places = plain.iter().enumerate();
            let blended = places.map(|(i, f)| {
                let divided = ((i as f64 - low) / width).clamp(0.0, 1.0);
                f / factor * divided + f * (1.0 - divided)
            });
            return (blended.collect(), *attention_factor);
        }
        Some(RopeScaling::LongRope {
            short_factor,
            long_factor,
            original_max_position_embeddings: context,
            attention_factor,
        }) => {
            let factors = match positions as f64 > *context {
                true => long_factor,
                false => short_factor,
            };
            let divided = plain.iter().zip(factors).map(|(f, factor)| f / factor);
            return (divided.collect(), *attention_factor);
        }
    };
    (found, 1.0)
}
