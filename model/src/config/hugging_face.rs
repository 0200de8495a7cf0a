//! Hugging Face's `config.json` as it stands in the file, and how its gaps are filled.

use serde::Deserialize;

use super::{ModelConfig, RopeScaling};
use crate::error::ModelError;

/// `config.json` with its gaps, field for field. Unknown keys are allowed, as in Hugging Face's own
/// reader.
#[derive(Debug, Clone, Deserialize)]
struct HuggingFaceConfig {
    model_type: Option<String>,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    #[serde(default)]
    hidden_act: Option<String>,
    max_position_embeddings: Option<usize>,
    rms_norm_eps: Option<f64>,
    rope_theta: Option<f64>,
    rope_scaling: Option<serde_json::Value>,
    rope_parameters: Option<serde_json::Value>,
    sliding_window: Option<usize>,
    use_sliding_window: Option<bool>,
    max_window_layers: Option<usize>,
    layer_types: Option<Vec<String>>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    tie_word_embeddings: Option<bool>,
}

impl ModelConfig {
    /// Reads a `config.json`.
    ///
    /// # Errors
    /// Malformed JSON; an architecture, activation or rotary scaling that is not implemented; or
    /// sizes that do not fit together.
    pub fn from_json(text: &str) -> Result<Self, ModelError> {
        let raw: HuggingFaceConfig = serde_json::from_str(text)
            .map_err(|e| ModelError::setting("config.json", e.to_string()))?;
        raw.resolve()?.validated()
    }
}

impl HuggingFaceConfig {
    /// Fills every gap as transformers does.
    fn resolve(self) -> Result<ModelConfig, ModelError> {
        let model_type = self.family()?;
        let (rope_theta, rope_scaling) = self.rope()?;
        let head_dim = self.head_width()?;
        let qwen = model_type == "qwen2";
        let attention_bias = self.attention_bias.unwrap_or(false);
        Ok(ModelConfig {
            vocab_size: self.vocab_size,
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_hidden_layers: self.num_hidden_layers,
            num_attention_heads: self.num_attention_heads,
            num_key_value_heads: self.num_key_value_heads.unwrap_or(self.num_attention_heads),
            head_dim,
            max_position_embeddings: self.max_position_embeddings.unwrap_or(2048),
            rms_norm_eps: self.rms_norm_eps.unwrap_or(1e-6),
            rope_theta,
            rope_scaling,
            sliding_window: self.windows(&model_type)?,
            qkv_bias: qwen || attention_bias,
            output_bias: !qwen && attention_bias,
            mlp_bias: self.mlp_bias.unwrap_or(false),
            tie_word_embeddings: self.tie_word_embeddings.unwrap_or(false),
            model_type,
        })
    }

    /// The model's family, with the activation that all families share.
    fn family(&self) -> Result<String, ModelError> {
        let model_type = self.model_type.clone().unwrap_or_else(|| "llama".into());
        if !matches!(model_type.as_str(), "llama" | "mistral" | "qwen2") {
            return Err(ModelError::setting(
                "model_type",
                format!("expected llama, mistral or qwen2, got {model_type:?}"),
            ));
        }
        if let Some(act) = self.hidden_act.as_deref()
            && !matches!(act, "silu" | "swish")
        {
            return Err(ModelError::setting(
                "hidden_act",
                format!("expected silu, got {act:?}"),
            ));
        }
        Ok(model_type)
    }

    /// The width of one head, by default an equal share of the hidden size.
    fn head_width(&self) -> Result<usize, ModelError> {
        let (d, heads) = (self.hidden_size, self.num_attention_heads);
        match self.head_dim {
            Some(head_dim) => Ok(head_dim),
            None if heads > 0 && d.is_multiple_of(heads) => Ok(d / heads),
            None => Err(ModelError::setting(
                "num_attention_heads",
                format!("expected a divisor of hidden_size = {d}, got {heads}"),
            )),
        }
    }

    /// The window of each layer. Mistral applies it everywhere; Qwen2 only if asked, from
    /// `max_window_layers` on.
    fn windows(&self, model_type: &str) -> Result<Vec<Option<usize>>, ModelError> {
        let layers = self.num_hidden_layers.min(1 << 20);
        let used = match model_type {
            "mistral" => self.sliding_window,
            "qwen2" if self.use_sliding_window == Some(true) => self.sliding_window,
            _ => None,
        };
        if used == Some(0) {
            return Err(ModelError::setting(
                "sliding_window",
                "expected at least 1 token or null, got 0",
            ));
        }
        if let Some(types) = &self.layer_types {
            return types
                .iter()
                .map(|kind| match kind.as_str() {
                    "full_attention" => Ok(None),
                    "sliding_attention" => Ok(used),
                    other => Err(ModelError::setting(
                        "layer_types",
                        format!("expected full_attention or sliding_attention, got {other:?}"),
                    )),
                })
                .collect();
        }
        let first = match model_type {
            "qwen2" => self.max_window_layers.unwrap_or(28),
            _ => 0,
        };
        Ok((0..layers)
            .map(|layer| if layer >= first { used } else { None })
            .collect())
    }

    /// `rope_theta` and the scaling, from the old keys or from `rope_parameters` of transformers 5.
    fn rope(&self) -> Result<(f64, Option<RopeScaling>), ModelError> {
        let settings = self
            .rope_parameters
            .as_ref()
            .or(self.rope_scaling.as_ref())
            .filter(|value| !value.is_null());
        let number = |key: &str| -> Result<f64, ModelError> {
            settings
                .and_then(|s| s.get(key))
                .and_then(serde_json::Value::as_f64)
                .filter(|v| v.is_finite() && *v > 0.0)
                .ok_or_else(|| {
                    ModelError::setting(format!("rope_scaling.{key}"), "expected a positive number")
                })
        };
        let theta = settings
            .and_then(|s| s.get("rope_theta"))
            .and_then(serde_json::Value::as_f64)
            .or(self.rope_theta)
            .unwrap_or(10_000.0);
        let kind = settings
            .and_then(|s| s.get("rope_type").or_else(|| s.get("type")))
            .and_then(serde_json::Value::as_str)
            .unwrap_or("default");
        let scaling = match kind {
            "default" => None,
            "linear" => Some(RopeScaling::Linear {
                factor: number("factor")?,
            }),
            "llama3" => Some(RopeScaling::Llama3 {
                factor: number("factor")?,
                low_freq_factor: number("low_freq_factor")?,
                high_freq_factor: number("high_freq_factor")?,
                original_max_position_embeddings: number("original_max_position_embeddings")?,
            }),
            other => {
                return Err(ModelError::setting(
                    "rope_scaling.rope_type",
                    format!("expected default, linear or llama3, got {other:?}"),
                ));
            }
        };
        Ok((theta, scaling))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = r#"{"model_type":"llama","vocab_size":10,"hidden_size":8,"intermediate_size":16,
        "num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2"#;

    fn parse(extra: &str) -> Result<ModelConfig, ModelError> {
        ModelConfig::from_json(&format!("{MINIMAL}{extra}}}"))
    }

    #[test]
    fn gaps_are_filled_as_transformers_fills_them() {
        let config = parse("").unwrap();
        assert_eq!((config.head_dim, config.rope_theta), (2, 10_000.0));
        assert_eq!(config.sliding_window, [None, None]);
        assert!(!config.tie_word_embeddings);
    }

    #[test]
    fn rope_is_read_from_old_and_new_keys() {
        let old = parse(r#","rope_theta":500000.0,"rope_scaling":{"type":"linear","factor":2.0}"#);
        let new = parse(
            r#","rope_parameters":{"rope_type":"linear","factor":2.0,"rope_theta":500000.0}"#,
        );
        assert_eq!(old.unwrap(), new.unwrap());
    }

    #[test]
    fn settings_that_cannot_be_used_are_named() {
        for (extra, key) in [
            (r#","hidden_act":"gelu""#, "hidden_act"),
            (
                r#","rope_scaling":{"rope_type":"yarn","factor":2}"#,
                "rope_scaling.rope_type",
            ),
            (
                r#","rope_scaling":{"rope_type":"linear"}"#,
                "rope_scaling.factor",
            ),
            (r#","head_dim":3"#, "head_dim"),
            (r#","layer_types":["full_attention"]"#, "layer_types"),
            (r#","rms_norm_eps":-1"#, "rms_norm_eps"),
        ] {
            let message = parse(extra).unwrap_err().to_string();
            assert!(message.contains(key), "{extra}: {message}");
        }
        let heads = MINIMAL.replace("\"num_key_value_heads\":2", "\"num_key_value_heads\":3");
        let message = ModelConfig::from_json(&format!("{heads}}}"))
            .unwrap_err()
            .to_string();
        assert!(message.contains("num_key_value_heads"), "{message}");
    }

    #[test]
    fn sliding_windows_follow_each_family() {
        let mistral = MINIMAL.replace("\"llama\"", "\"mistral\"");
        let config = ModelConfig::from_json(&format!("{mistral},\"sliding_window\":4}}")).unwrap();
        assert_eq!(config.sliding_window, [Some(4), Some(4)]);
        let qwen = MINIMAL.replace("\"llama\"", "\"qwen2\"");
        let config = ModelConfig::from_json(&format!(
            "{qwen},\"sliding_window\":4,\"use_sliding_window\":true,\"max_window_layers\":1}}"
        ))
        .unwrap();
        assert_eq!(config.sliding_window, [None, Some(4)]);
        assert!(config.qkv_bias && !config.output_bias);
    }
}
