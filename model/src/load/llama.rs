//! A base model from a source of weights, by Hugging Face's names.

use burn::prelude::*;
use burn::tensor::{DType, FloatDType};

use super::Weights;
use crate::config::{ModelConfig, QueryKeyNorm};
use crate::error::ModelError;
use crate::llama::{DecoderLayer, Llama, Mlp, Multipliers, SelfAttention};
use crate::norm::RmsNorm;
use crate::projection::{Dense, Projection};
use crate::rope::{Rope, Rotation};
use crate::visibility::AttentionKind;

impl Llama {
    /// Builds the base model from a source of weights.
    ///
    /// `positions` bounds the longest sequence, in tokens. `dtype` is the type in which the frozen
    /// projections are held.
    ///
    /// # Errors
    /// A missing weight, or one of another shape than the configuration asks for.
    pub fn load(
        config: &ModelConfig,
        weights: &mut dyn Weights,
        positions: usize,
        dtype: FloatDType,
        device: &Device,
    ) -> Result<Self, ModelError> {
        Builder {
            config,
            weights,
            dtype,
            device,
            rotations: Vec::new(),
        }
        .build(positions)
    }
}

/// Reads the weights by Hugging Face's names.
struct Builder<'a> {
    config: &'a ModelConfig,
    weights: &'a mut dyn Weights,
    dtype: FloatDType,
    device: &'a Device,
    /// The rotations of the layers so far, each once.
    rotations: Vec<Rotation>,
}

impl Builder<'_> {
    fn build(&mut self, positions: usize) -> Result<Llama, ModelError> {
        let config = self.config;
        let (d, vocabulary) = (config.hidden_size, config.vocab_size);
        let embed_tokens = self.tensor("model.embed_tokens.weight", [vocabulary, d])?;
        let layers = (0..config.num_hidden_layers)
            .map(|layer| self.layer(layer))
            .collect::<Result<_, _>>()?;
        let lm_head = match config.tie_word_embeddings {
            true => None,
            false => Some(self.tensor("lm_head.weight", [vocabulary, d])?),
        };
        Ok(Llama {
            embed_tokens,
            layers,
            norm: self.norm("model.norm")?,
            lm_head,
            ropes: self
                .rotations
                .iter()
                .map(|rotation| {
                    let positions = positions.min(config.max_position_embeddings);
                    Rope::new(config, *rotation, positions, self.device)
                })
                .collect(),
            multipliers: Multipliers {
                embedding: config.variant.embedding_multiplier,
                residual: config.variant.residual_multiplier,
                logits_divisor: config.variant.logits_divisor,
                logit_soft_cap: config.variant.logit_soft_cap,
            },
        })
    }

    /// Place of a layer's rotation among those of all layers.
    fn rope(&mut self, layer: usize) -> usize {
        let own = Rotation::of(self.config, layer);
        let known = self.rotations.iter().position(|rotation| *rotation == own);
        known.unwrap_or_else(|| {
            self.rotations.push(own);
            self.rotations.len() - 1
        })
    }

    fn layer(&mut self, layer: usize) -> Result<DecoderLayer, ModelError> {
        let config = self.config;
        let (d, f) = (config.hidden_size, config.intermediate_size);
        let q = config.num_attention_heads * config.head_dim;
        let kv = config.num_key_value_heads * config.head_dim;
        let (qkv_bias, output_bias, mlp_bias) =
            (config.qkv_bias, config.output_bias, config.mlp_bias);
        let at = |part: &str| format!("model.layers.{layer}.{part}");
        let names = config.variant.norm_names();
        let head_norms = config.variant.query_key_norm != QueryKeyNorm::None;
        let of_heads = |name| head_norms.then_some(name);
        Ok(DecoderLayer {
            attention_input_norm: self.layer_norm(layer, names.attention_input)?,
            attention_output_norm: self.layer_norm(layer, names.attention_output)?,
            mlp_input_norm: self.layer_norm(layer, names.mlp_input)?,
            mlp_output_norm: self.layer_norm(layer, names.mlp_output)?,
            self_attn: SelfAttention {
                q_proj: self.projection(&at("self_attn.q_proj"), [q, d], qkv_bias)?,
                k_proj: self.projection(&at("self_attn.k_proj"), [kv, d], qkv_bias)?,
                v_proj: self.projection(&at("self_attn.v_proj"), [kv, d], qkv_bias)?,
                o_proj: self.projection(&at("self_attn.o_proj"), [d, q], output_bias)?,
                q_norm: self.layer_norm(layer, of_heads("self_attn.q_norm"))?,
                k_norm: self.layer_norm(layer, of_heads("self_attn.k_norm"))?,
                query_factor: config
                    .variant
                    .attention_scale
                    .map(|scale| scale * (config.head_dim as f64).sqrt()),
                rope: self.rope(layer),
                soft_cap: config.variant.attention_soft_cap,
                kind: AttentionKind::Exact,
                heads: config.num_attention_heads,
                key_value_heads: config.num_key_value_heads,
                window: config.sliding_window[layer],
            },
            mlp: Mlp {
                gate_proj: self.projection(&at("mlp.gate_proj"), [f, d], mlp_bias)?,
                up_proj: self.projection(&at("mlp.up_proj"), [f, d], mlp_bias)?,
                down_proj: self.projection(&at("mlp.down_proj"), [d, f], mlp_bias)?,
                activation: config.variant.activation,
                whole_experts: None,
            },
            attention_router: None,
            mlp_router: None,
        })
    }

    fn projection(
        &mut self,
        name: &str,
        shape: [usize; 2],
        bias: bool,
    ) -> Result<Projection, ModelError> {
        let weight = self.tensor(&format!("{name}.weight"), shape)?;
        let bias = match bias {
            true => Some(self.tensor_of(&format!("{name}.bias"), [shape[0]], DType::F32)?),
            false => None,
        };
        Ok(Projection::Dense(Dense::new(weight, bias)))
    }

    /// A norm of a layer, if the family has it.
    fn layer_norm(
        &mut self,
        layer: usize,
        name: Option<&str>,
    ) -> Result<Option<RmsNorm>, ModelError> {
        let Some(name) = name else {
            return Ok(None);
        };
        self.norm(&format!("model.layers.{layer}.{name}")).map(Some)
    }

    fn norm(&mut self, name: &str) -> Result<RmsNorm, ModelError> {
        let width = self.config.norm_width(name);
        let gain = self.tensor_of(&format!("{name}.weight"), [width], DType::F32)?;
        let gain = match self.config.variant.unit_offset {
            true => gain + 1.0,
            false => gain,
        };
        Ok(RmsNorm::new(gain, self.config.rms_norm_eps))
    }

    fn tensor<const D: usize>(
        &mut self,
        name: &str,
        shape: [usize; D],
    ) -> Result<Tensor<D>, ModelError> {
        self.tensor_of(name, shape, DType::from(self.dtype))
    }

    fn tensor_of<const D: usize>(
        &mut self,
        name: &str,
        shape: [usize; D],
        dtype: DType,
    ) -> Result<Tensor<D>, ModelError> {
        let data = self.weights.tensor(name)?;
        let found: Vec<usize> = data.shape().as_slice().to_vec();
        if found != shape {
            return Err(ModelError::Shape {
                name: name.into(),
                found,
                expected: shape.to_vec(),
            });
        }
        // The type is stated at creation. A later cast would hold both copies of the largest
        // tensors.
        Ok(Tensor::from_data(data, (self.device, dtype)))
    }
}
