//! A base model from a source of weights, by Hugging Face's names.

use burn::prelude::*;
use burn::tensor::{DType, FloatDType};

use super::Weights;
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::llama::{DecoderLayer, Llama, Mlp, SelfAttention};
use crate::norm::RmsNorm;
use crate::projection::{Dense, Projection};
use crate::rope::Rope;

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
            norm: self.norm("model.norm.weight")?,
            lm_head,
            rope: Rope::new(
                config,
                positions.min(config.max_position_embeddings),
                self.device,
            ),
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
        Ok(DecoderLayer {
            input_layernorm: self.norm(&at("input_layernorm.weight"))?,
            self_attn: SelfAttention {
                q_proj: self.projection(&at("self_attn.q_proj"), [q, d], qkv_bias)?,
                k_proj: self.projection(&at("self_attn.k_proj"), [kv, d], qkv_bias)?,
                v_proj: self.projection(&at("self_attn.v_proj"), [kv, d], qkv_bias)?,
                o_proj: self.projection(&at("self_attn.o_proj"), [d, q], output_bias)?,
                heads: config.num_attention_heads,
                key_value_heads: config.num_key_value_heads,
                window: config.sliding_window[layer],
            },
            post_attention_layernorm: self.norm(&at("post_attention_layernorm.weight"))?,
            mlp: Mlp {
                gate_proj: self.projection(&at("mlp.gate_proj"), [f, d], mlp_bias)?,
                up_proj: self.projection(&at("mlp.up_proj"), [f, d], mlp_bias)?,
                down_proj: self.projection(&at("mlp.down_proj"), [d, f], mlp_bias)?,
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

    fn norm(&mut self, name: &str) -> Result<RmsNorm, ModelError> {
        let gain = self.tensor_of(name, [self.config.hidden_size], DType::F32)?;
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
