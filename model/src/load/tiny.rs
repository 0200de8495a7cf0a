//! A model of a few thousand random weights, for tests and smoke runs. Its answers mean nothing.

use burn::tensor::TensorData;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::Weights;
use crate::config::{ModelConfig, Variant};
use crate::error::ModelError;

/// The shape of the tiny model for a vocabulary of the given size.
pub fn config(vocab_size: usize) -> ModelConfig {
    ModelConfig {
        model_type: "llama".into(),
        vocab_size,
        hidden_size: 16,
        intermediate_size: 32,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 4,
        max_position_embeddings: 512,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: None,
        sliding_window: vec![None; 2],
        qkv_bias: false,
        output_bias: false,
        mlp_bias: false,
        tie_word_embeddings: true,
        variant: Variant::default(),
    }
}

/// Random weights for any configuration. Norms are one, everything else is uniform with the
/// variance of a fresh linear layer.
#[derive(Debug)]
pub struct RandomWeights {
    config: ModelConfig,
    seed: u64,
}

impl RandomWeights {
    /// Weights for `config`, drawn from `seed`. Each name has a stream of its own, so the order of
    /// reading does not matter.
    pub fn new(config: ModelConfig, seed: u64) -> Self {
        Self { config, seed }
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        let c = &self.config;
        let (q, kv) = (
            c.num_attention_heads * c.head_dim,
            c.num_key_value_heads * c.head_dim,
        );
        let (d, f) = (c.hidden_size, c.intermediate_size);
        if let Some(norm) = name.strip_suffix(".weight").filter(|n| n.ends_with("norm")) {
            return Some(vec![c.norm_width(norm)]);
        }
        let sizes = [
            ("embed_tokens", [c.vocab_size, d]),
            ("lm_head", [c.vocab_size, d]),
            ("q_proj", [q, d]),
            ("k_proj", [kv, d]),
            ("v_proj", [kv, d]),
            ("o_proj", [d, q]),
            ("gate_proj", [f, d]),
            ("up_proj", [f, d]),
            ("down_proj", [d, f]),
        ];
        let (_, shape) = sizes.iter().find(|(part, _)| name.contains(part))?;
        match name.ends_with(".bias") {
            true => Some(vec![shape[0]]),
            false => Some(shape.to_vec()),
        }
    }
}

impl Weights for RandomWeights {
    fn tensor(&mut self, name: &str) -> Result<TensorData, ModelError> {
        let shape = self.shape(name).ok_or_else(|| ModelError::MissingWeight {
            name: name.into(),
            present: 0,
            example: "random weights".into(),
        })?;
        let count: usize = shape.iter().product();
        if name.ends_with("norm.weight") {
            return Ok(TensorData::new(vec![1f32; count], shape));
        }
        let stream = name.bytes().fold(self.seed, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
        let mut rng = ChaCha8Rng::seed_from_u64(stream);
        let bound = (3.0 / shape[shape.len() - 1] as f32).sqrt();
        let values: Vec<f32> = (0..count)
            .map(|_| rng.random_range(-bound..=bound))
            .collect();
        Ok(TensorData::new(values, shape))
    }
}
