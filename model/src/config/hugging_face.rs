//! Hugging Face's `config.json` as it stands in the file, and how its gaps are filled.

use std::collections::BTreeMap;

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
    quantization_config: Option<serde_json::Value>,
    partial_rotary_factor: Option<f64>,
}

impl ModelConfig {
    /// Reads a `config.json`.
    ///
    /// # Errors
    /// Malformed JSON; an architecture, activation, rotary scaling or quantization that is not
    /// implemented; or sizes that do not fit together.
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
        self.unquantized()?;
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

    /// Refuses quantized weights. Their integers would be read as if they were the weights.
    fn unquantized(&self) -> Result<(), ModelError> {
        let Some(settings) = &self.quantization_config else {
            return Ok(());
        };
        let on = |key: &str| settings.get(key).and_then(serde_json::Value::as_bool) == Some(true);
        let method = settings
            .get("quant_method")
            .and_then(serde_json::Value::as_str);
        let method = method.unwrap_or("a method without a name");
        let bits = match settings.get("bits").and_then(serde_json::Value::as_u64) {
            Some(bits) => format!(", {bits} bits"),
            _ if on("load_in_4bit") => ", 4 bits".into(),
            _ if on("load_in_8bit") => ", 8 bits".into(),
            _ => String::new(),
        };
        Err(ModelError::setting(
            "quantization_config",
            format!(
                "weights quantized by {method}{bits} are not implemented: give the model's unquantized weights, or a GGUF file"
            ),
        ))
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
        let (key, settings) = match (&self.rope_parameters, &self.rope_scaling) {
            (Some(new), Some(old)) if new != old => {
                return Err(ModelError::setting(
                    "rope_parameters",
                    "differs from rope_scaling beside it: remove the one that is out of date",
                ));
            }
            (Some(new), _) => ("rope_parameters", Some(new)),
            (None, old) => ("rope_scaling", old.as_ref()),
        };
        if self.partial_rotary_factor.is_some_and(|share| share != 1.0) {
            return Err(ModelError::setting(
                "partial_rotary_factor",
                "rotating a part of each head is not implemented",
            ));
        }
        let whole = self.rope_theta.unwrap_or(10_000.0);
        match settings {
            None => Ok((whole, None)),
            Some(settings) => RopeSettings::of(key, settings)?.resolve(whole),
        }
    }
}

/// The object `rope_scaling` or `rope_parameters`, each of whose settings must be understood.
struct RopeSettings<'a> {
    /// The object's name in `config.json`.
    key: &'static str,
    /// The settings in it that are not null.
    settings: BTreeMap<&'a str, &'a serde_json::Value>,
}

impl<'a> RopeSettings<'a> {
    fn of(key: &'static str, value: &'a serde_json::Value) -> Result<Self, ModelError> {
        let object = value.as_object().ok_or_else(|| {
            ModelError::setting(key, format!("expected an object or null, got {value}"))
        })?;
        let set = object.iter().filter(|(_, value)| !value.is_null());
        Ok(Self {
            key,
            settings: set.map(|(name, value)| (name.as_str(), value)).collect(),
        })
    }

    /// The base of the rotation and its scaling; `theta` is the base where these have none.
    fn resolve(&self, theta: f64) -> Result<(f64, Option<RopeScaling>), ModelError> {
        let kind = self.kind()?;
        let (scaling, read): (_, &[&str]) = match kind {
            "default" => (None, &[]),
            "linear" => {
                let factor = self.number("factor")?;
                (Some(RopeScaling::Linear { factor }), &["factor"])
            }
            "llama3" => (
                Some(RopeScaling::Llama3 {
                    factor: self.number("factor")?,
                    low_freq_factor: self.number("low_freq_factor")?,
                    high_freq_factor: self.number("high_freq_factor")?,
                    original_max_position_embeddings: self
                        .number("original_max_position_embeddings")?,
                }),
                &["factor", "low_freq_factor", "high_freq_factor"],
            ),
            other => {
                return Err(self.refused(
                    "rope_type",
                    format!("expected default, linear or llama3, got {other:?}"),
                ));
            }
        };
        // The last one says for what length a model was made, which changes nothing by itself.
        let always = [
            "rope_type",
            "type",
            "rope_theta",
            "original_max_position_embeddings",
        ];
        let known = |name: &str| {
            let whole = self.settings[name].as_f64() == Some(1.0);
            always.contains(&name)
                || read.contains(&name)
                || (name == "partial_rotary_factor" && whole)
        };
        if let Some(name) = self.settings.keys().find(|name| !known(name)) {
            let reason = format!("is not implemented for the type {kind:?}");
            return Err(self.refused(name, reason));
        }
        let theta = match self.settings.contains_key("rope_theta") {
            true => self.number("rope_theta")?,
            false => theta,
        };
        Ok((theta, scaling))
    }

    /// The type of the scaling. Older files call it `type`.
    fn kind(&self) -> Result<&'a str, ModelError> {
        let named = |name: &str| match self.settings.get(name) {
            None => Ok(None),
            Some(serde_json::Value::String(kind)) => Ok(Some(kind.as_str())),
            Some(other) => Err(self.refused(name, format!("expected a name, got {other}"))),
        };
        match (named("rope_type")?, named("type")?) {
            (Some(new), Some(old)) if new != old => {
                Err(self.refused("rope_type", format!("is {new:?}, but type is {old:?}")))
            }
            (Some(kind), _) | (None, Some(kind)) => Ok(kind),
            (None, None) if self.settings.keys().all(|name| *name == "rope_theta") => Ok("default"),
            (None, None) => Err(self.refused(
                "rope_type",
                "is missing: expected default, linear or llama3".into(),
            )),
        }
    }

    fn number(&self, name: &str) -> Result<f64, ModelError> {
        let found = self.settings.get(name).and_then(|value| value.as_f64());
        found.filter(|v| v.is_finite() && *v > 0.0).ok_or_else(|| {
            let found = self
                .settings
                .get(name)
                .map_or("nothing".into(), |v| v.to_string());
            self.refused(name, format!("expected a positive number, got {found}"))
        })
    }

    fn refused(&self, name: &str, reason: String) -> ModelError {
        ModelError::setting(format!("{}.{name}", self.key), reason)
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
    fn rotary_settings_are_understood_or_refused() {
        let linear = |text: &str| parse(&format!(r#","rope_scaling":{text}"#));
        let old = linear(r#"{"rope_type":null,"type":"linear","factor":2}"#).unwrap();
        assert_eq!(old.rope_scaling, Some(RopeScaling::Linear { factor: 2.0 }));
        for plain in ["null", "{}", r#"{"rope_type":"default","rope_theta":5.0}"#] {
            assert_eq!(linear(plain).unwrap().rope_scaling, None, "{plain}");
        }
        for (text, key) in [
            (r#""linear""#, "rope_scaling: expected an object"),
            (r#"["linear", 2]"#, "rope_scaling: expected an object"),
            (r#"{"factor":2}"#, "rope_scaling.rope_type: is missing"),
            (
                r#"{"rope_type":7}"#,
                "rope_scaling.rope_type: expected a name",
            ),
            (
                r#"{"rope_type":"Linear","factor":2}"#,
                "rope_scaling.rope_type",
            ),
            (
                r#"{"rope_type":"linear","type":"llama3","factor":2}"#,
                "but type is",
            ),
            (
                r#"{"rope_type":"linear","factor":"2"}"#,
                "rope_scaling.factor: expected a",
            ),
            (
                r#"{"rope_type":"default","rope_theta":"big"}"#,
                "rope_scaling.rope_theta",
            ),
            (
                r#"{"rope_type":"default","mrope_section":[1]}"#,
                "rope_scaling.mrope_section",
            ),
            (
                r#"{"rope_type":"default","factor":2}"#,
                "rope_scaling.factor: is not implemented",
            ),
            (
                r#"{"rope_type":"default","partial_rotary_factor":0.5}"#,
                "partial_rotary_factor",
            ),
        ] {
            let message = linear(text).unwrap_err().to_string();
            assert!(message.contains(key), "{text}: {message}");
        }
        let both = r#","rope_scaling":{"type":"linear","factor":2},"rope_parameters":{"rope_type":"default"}"#;
        assert!(
            parse(both)
                .unwrap_err()
                .to_string()
                .contains("rope_parameters: differs")
        );
        assert!(parse(r#","partial_rotary_factor":0.5"#).is_err());
    }

    #[test]
    fn quantized_weights_are_refused_by_the_name_of_their_method() {
        for (settings, named) in [
            (
                r#"{"load_in_8bit":true,"quant_method":"bitsandbytes"}"#,
                "bitsandbytes, 8 bits",
            ),
            (
                r#"{"load_in_4bit":true,"quant_method":"bitsandbytes"}"#,
                "bitsandbytes, 4 bits",
            ),
            (
                r#"{"bits":4,"group_size":128,"quant_method":"gptq"}"#,
                "gptq, 4 bits",
            ),
            (r#"{"bits":4,"quant_method":"awq"}"#, "awq, 4 bits"),
            (r#"{"quant_method":"fp8"}"#, "fp8"),
            (r#"{}"#, "a method without a name"),
        ] {
            let message = parse(&format!(r#","quantization_config":{settings}"#));
            let message = message.unwrap_err().to_string();
            assert!(message.starts_with("quantization_config: "), "{message}");
            assert!(message.contains(named), "{message}");
        }
        assert!(parse(r#","quantization_config":null"#).is_ok());
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
