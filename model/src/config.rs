//! The shape of a model: Hugging Face's `config.json`, and its resolved form.

use serde::{Deserialize, Serialize};

use crate::error::ModelError;

mod family;
mod hugging_face;
mod rotary;

pub use family::{
    FAMILIES, Family, GateActivation, LanguagePart, NormNames, NormPlacement, QueryKeyNorm, Variant,
};

/// How rotary frequencies are stretched beyond the trained context.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "rope_type", rename_all = "lowercase")]
pub enum RopeScaling {
    /// All frequencies are divided by `factor`.
    Linear {
        /// Length of the new context divided by that of the old one.
        factor: f64,
    },
    /// Llama 3.1's rule: low frequencies are divided by `factor`, high frequencies are kept, and
    /// those between are blended smoothly.
    Llama3 {
        /// Length of the new context divided by that of the old one.
        factor: f64,
        /// Wavelengths longer than `original_max_position_embeddings / low_freq_factor` are
        /// divided.
        low_freq_factor: f64,
        /// Wavelengths shorter than `original_max_position_embeddings / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Length of the trained context, in tokens.
        original_max_position_embeddings: f64,
    },
    /// YaRN (Peng et al. 2023): wavelengths that turn often within the trained context are kept,
    /// those that turn seldom are divided by `factor`, those between are blended.
    Yarn {
        /// Length of the new context divided by that of the old one.
        factor: f64,
        /// Length of the trained context, in tokens.
        original_max_position_embeddings: f64,
        /// Turns within the trained context from which a wavelength is kept.
        beta_fast: f64,
        /// Turns within the trained context up to which a wavelength is divided.
        beta_slow: f64,
        /// Whether the bounds between are whole numbers.
        truncate: bool,
        /// Factor on cosines and sines.
        attention_factor: f64,
    },
    /// LongRoPE (Ding et al. 2024): a divisor for every frequency, one set for sequences within the
    /// trained context and one for longer ones.
    LongRope {
        /// Divisors within the trained context.
        short_factor: Vec<f64>,
        /// Divisors beyond it.
        long_factor: Vec<f64>,
        /// Length of the trained context, in tokens.
        original_max_position_embeddings: f64,
        /// Factor on cosines and sines.
        attention_factor: f64,
    },
}

impl RopeScaling {
    /// Every number that it is made of.
    fn numbers(&self) -> Vec<f64> {
        match self {
            Self::Linear { factor } => vec![*factor],
            Self::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => vec![
                *factor,
                *low_freq_factor,
                *high_freq_factor,
                *original_max_position_embeddings,
            ],
            Self::Yarn {
                factor,
                original_max_position_embeddings,
                beta_fast,
                beta_slow,
                truncate: _,
                attention_factor,
            } => vec![
                *factor,
                *original_max_position_embeddings,
                *beta_fast,
                *beta_slow,
                *attention_factor,
            ],
            Self::LongRope {
                short_factor,
                long_factor,
                original_max_position_embeddings,
                attention_factor,
            } => [short_factor, long_factor]
                .into_iter()
                .flatten()
                .chain([original_max_position_embeddings, attention_factor])
                .copied()
                .collect(),
        }
    }
}

/// A decoder's shape, with every default filled in and checked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// The decoder's family, one of [`FAMILIES`]; of a model that also sees, that of its
    /// [`LanguagePart`].
    pub model_type: String,
    /// Number of tokens in the vocabulary.
    pub vocab_size: usize,
    /// Width of the residual stream, d.
    pub hidden_size: usize,
    /// Width inside the feed-forward block.
    pub intermediate_size: usize,
    /// Number of decoder layers.
    pub num_hidden_layers: usize,
    /// Number of query heads.
    pub num_attention_heads: usize,
    /// Number of key and value heads (grouped-query attention); divides that of the query heads.
    pub num_key_value_heads: usize,
    /// Width of one head, even.
    pub head_dim: usize,
    /// Number of positions that the model was made for, in tokens.
    pub max_position_embeddings: usize,
    /// The number that RMSNorm adds to the mean square.
    pub rms_norm_eps: f64,
    /// Base of the rotary wavelengths.
    pub rope_theta: f64,
    /// How the rotary wavelengths are stretched; `None` = not at all.
    pub rope_scaling: Option<RopeScaling>,
    /// For each layer, how many positions attention reaches back, its own included; `None` = all.
    pub sliding_window: Vec<Option<usize>>,
    /// Whether q, k and v have a bias.
    pub qkv_bias: bool,
    /// Whether o has a bias.
    pub output_bias: bool,
    /// Whether gate, up and down have a bias.
    pub mlp_bias: bool,
    /// Whether the vocabulary head shares the embedding's weights.
    pub tie_word_embeddings: bool,
    /// How the family's decoder departs from LLaMA's.
    #[serde(default)]
    pub variant: Variant,
}

/// Layers that a model has at most.
pub(crate) const MOST_LAYERS: usize = 1 << 12;

impl ModelConfig {
    /// Checks that the sizes fit together.
    ///
    /// # Errors
    /// The first setting that does not fit, with what was expected.
    pub fn validated(self) -> Result<Self, ModelError> {
        // Far beyond any model, and small enough that every product of them stays inside 64 bits.
        let bounds = [
            ("vocab_size", self.vocab_size, 1 << 24),
            ("hidden_size", self.hidden_size, 1 << 20),
            ("intermediate_size", self.intermediate_size, 1 << 20),
            ("num_hidden_layers", self.num_hidden_layers, MOST_LAYERS),
            ("num_attention_heads", self.num_attention_heads, 1 << 14),
            ("num_key_value_heads", self.num_key_value_heads, 1 << 14),
            ("head_dim", self.head_dim, 1 << 14),
            (
                "max_position_embeddings",
                self.max_position_embeddings,
                1 << 31,
            ),
        ];
        for (key, value, most) in bounds {
            if value == 0 || value > most {
                return Err(ModelError::setting(
                    key,
                    format!("expected 1 to {most}, got {value}"),
                ));
            }
        }
        if !self
            .num_attention_heads
            .is_multiple_of(self.num_key_value_heads)
        {
            return Err(ModelError::setting(
                "num_key_value_heads",
                format!(
                    "expected a divisor of num_attention_heads = {}, got {}",
                    self.num_attention_heads, self.num_key_value_heads
                ),
            ));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(ModelError::setting(
                "head_dim",
                format!(
                    "expected an even number for the rotary halves, got {}",
                    self.head_dim
                ),
            ));
        }
        if self.sliding_window.len() != self.num_hidden_layers {
            return Err(ModelError::setting(
                "layer_types",
                format!(
                    "expected one entry for each of {} layers, got {}",
                    self.num_hidden_layers,
                    self.sliding_window.len()
                ),
            ));
        }
        let rotated = self.rotary_dim();
        if rotated == 0 || rotated > self.head_dim || !rotated.is_multiple_of(2) {
            return Err(ModelError::setting(
                "partial_rotary_factor",
                format!(
                    "expected an even number of rotated values, at most head_dim = {}, got {rotated}",
                    self.head_dim
                ),
            ));
        }
        if let Some(RopeScaling::LongRope {
            short_factor,
            long_factor,
            ..
        }) = &self.rope_scaling
            && [short_factor, long_factor]
                .iter()
                .any(|f| f.len() != rotated / 2)
        {
            return Err(ModelError::setting(
                "rope_scaling",
                format!(
                    "expected {} values in short_factor and long_factor, got {} and {}",
                    rotated / 2,
                    short_factor.len(),
                    long_factor.len()
                ),
            ));
        }
        if let Some(value) = self
            .rope_scaling
            .iter()
            .flat_map(RopeScaling::numbers)
            .find(|value| !(value.is_finite() && *value > 0.0))
        {
            return Err(ModelError::setting(
                "rope_scaling",
                format!("expected positive numbers, got {value}"),
            ));
        }
        if ![0, self.num_hidden_layers].contains(&self.variant.unrotated.len()) {
            return Err(ModelError::setting(
                "no_rope_layers",
                format!(
                    "expected one entry for each of {} layers, got {}",
                    self.num_hidden_layers,
                    self.variant.unrotated.len()
                ),
            ));
        }
        for (key, value) in [
            ("embedding_multiplier", self.variant.embedding_multiplier),
            ("residual_multiplier", self.variant.residual_multiplier),
            ("logits_scaling", self.variant.logits_divisor),
            (
                "attention scale",
                self.variant.attention_scale.unwrap_or(1.0),
            ),
            (
                "attn_logit_softcapping",
                self.variant.attention_soft_cap.unwrap_or(1.0),
            ),
            (
                "final_logit_softcapping",
                self.variant.logit_soft_cap.unwrap_or(1.0),
            ),
            (
                "rope_local_base_freq",
                self.variant.local_rope_theta.unwrap_or(1.0),
            ),
            ("rms_norm_eps", self.rms_norm_eps),
            ("rope_theta", self.rope_theta),
        ] {
            if !(value.is_finite() && value > 0.0) {
                return Err(ModelError::setting(
                    key,
                    format!("expected a positive number, got {value}"),
                ));
            }
        }
        Ok(self)
    }

    /// The configuration as a `config.json` that Hugging Face and [`Self::from_json`] read: of a
    /// language part, that of a model of its own.
    pub fn to_json(&self) -> serde_json::Value {
        let family = Family::of(&self.model_type);
        let architecture = family.map_or("LlamaForCausalLM", |family| family.architecture);
        let windows = self.sliding_window.iter().flatten().next();
        let kinds: Vec<&str> = self
            .sliding_window
            .iter()
            .map(|window| match window {
                Some(_) => "sliding_attention",
                None => "full_attention",
            })
            .collect();
        let mut json = serde_json::json!({
            "architectures": [architecture],
            "model_type": self.model_type,
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "max_position_embeddings": self.max_position_embeddings,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": self.rope_theta,
            "rope_scaling": self.rope_scaling,
            "attention_bias": self.qkv_bias && self.output_bias,
            "mlp_bias": self.mlp_bias,
            "tie_word_embeddings": self.tie_word_embeddings,
        });
        // Without the key transformers gives Mistral a window.
        if windows.is_some() || self.model_type == "mistral" {
            json["sliding_window"] = windows.copied().into();
        }
        if matches!(self.model_type.as_str(), "qwen2" | "qwen3" | "smollm3") {
            json["use_sliding_window"] = windows.is_some().into();
            json["layer_types"] = kinds.into();
        } else if self.model_type.starts_with("gemma") {
            json["layer_types"] = kinds.into();
        }
        self.variant_to_json(&mut json);
        json
    }

    /// Writes what the family has beside LLaMA.
    fn variant_to_json(&self, json: &mut serde_json::Value) {
        let variant = &self.variant;
        match self.model_type.as_str() {
            "phi3" => {
                if let Some(rotated) = variant.rotary_dim {
                    json["partial_rotary_factor"] = (rotated as f64 / self.head_dim as f64).into();
                }
                // Where transformers looks for it, whatever stands beside the factors.
                if let Some(RopeScaling::LongRope {
                    original_max_position_embeddings: context,
                    ..
                }) = &self.rope_scaling
                {
                    json["original_max_position_embeddings"] = (*context as u64).into();
                }
            }
            "gemma2" | "gemma3_text" => {
                json["hidden_act"] = "gelu_pytorch_tanh".into();
                json["hidden_activation"] = "gelu_pytorch_tanh".into();
                // A whole number: transformers takes no other.
                let width = variant.attention_scale.map(|scale| scale.powi(-2).round());
                let width = width.map_or(self.head_dim, |width| width as usize);
                json["query_pre_attn_scalar"] = width.into();
                json["attn_logit_softcapping"] = variant.attention_soft_cap.into();
                json["final_logit_softcapping"] = variant.logit_soft_cap.into();
                if let Some(theta) = variant.local_rope_theta {
                    json["rope_local_base_freq"] = theta.into();
                }
            }
            "smollm3" => {
                let rotated = variant.unrotated.iter().map(|none| u8::from(!none));
                json["no_rope_layers"] = rotated.collect::<Vec<_>>().into();
            }
            "granite" => {
                let plain = (self.head_dim as f64).powf(-0.5);
                json["embedding_multiplier"] = variant.embedding_multiplier.into();
                json["residual_multiplier"] = variant.residual_multiplier.into();
                json["logits_scaling"] = variant.logits_divisor.into();
                json["attention_multiplier"] = variant.attention_scale.unwrap_or(plain).into();
            }
            _ => {}
        }
    }

    /// How many values of a head are rotated.
    pub fn rotary_dim(&self) -> usize {
        self.variant.rotary_dim.unwrap_or(self.head_dim)
    }

    /// The width of a norm, by the end of its name.
    pub fn norm_width(&self, name: &str) -> usize {
        let whole = self.variant.query_key_norm == QueryKeyNorm::Whole;
        match name.rsplit('.').next() {
            Some("q_norm") if whole => self.num_attention_heads * self.head_dim,
            Some("k_norm") if whole => self.num_key_value_heads * self.head_dim,
            Some("q_norm" | "k_norm") => self.head_dim,
            _ => self.hidden_size,
        }
    }

    /// The number of values in all frozen weights, biases apart.
    pub fn base_parameters(&self) -> usize {
        let (d, f) = (self.hidden_size, self.intermediate_size);
        let q = self.num_attention_heads * self.head_dim;
        let kv = self.num_key_value_heads * self.head_dim;
        let names = self.variant.all_norm_names();
        let norms: usize = names.iter().map(|name| self.norm_width(name)).sum();
        let layer = 2 * d * q + 2 * d * kv + 3 * d * f + norms;
        let heads = if self.tie_word_embeddings { 1 } else { 2 };
        heads * self.vocab_size * d + self.num_hidden_layers * layer + d
    }
}
