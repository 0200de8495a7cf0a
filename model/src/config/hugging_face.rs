//! Hugging Face's `config.json` as it stands in the file, and how its gaps are filled.

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::rotary::{Outside, RopeSettings, Rotation};
use super::{
    FAMILIES, Family, GateActivation, LanguagePart, ModelConfig, NormPlacement, QueryKeyNorm,
    Variant,
};
use crate::error::ModelError;

/// `config.json` with its gaps, field for field. Unknown keys are allowed, as in Hugging Face's own
/// reader.
#[derive(Debug, Clone, Deserialize)]
struct HuggingFaceConfig {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    /// Absent is another thing than null, here and below.
    #[serde(default, deserialize_with = "stated")]
    num_key_value_heads: Option<Option<usize>>,
    head_dim: Option<usize>,
    #[serde(default)]
    hidden_act: Option<String>,
    max_position_embeddings: Option<usize>,
    rms_norm_eps: Option<f64>,
    rope_theta: Option<f64>,
    rope_scaling: Option<serde_json::Value>,
    rope_parameters: Option<serde_json::Value>,
    #[serde(default, deserialize_with = "stated")]
    sliding_window: Option<Option<usize>>,
    use_sliding_window: Option<bool>,
    max_window_layers: Option<usize>,
    layer_types: Option<Vec<String>>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    tie_word_embeddings: Option<bool>,
    quantization_config: Option<serde_json::Value>,
    partial_rotary_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
    hidden_activation: Option<String>,
    query_pre_attn_scalar: Option<f64>,
    #[serde(default, deserialize_with = "stated")]
    attn_logit_softcapping: Option<Option<f64>>,
    #[serde(default, deserialize_with = "stated")]
    final_logit_softcapping: Option<Option<f64>>,
    rope_local_base_freq: Option<f64>,
    sliding_window_pattern: Option<usize>,
    no_rope_layers: Option<Vec<u8>>,
    no_rope_layer_interval: Option<usize>,
    embedding_multiplier: Option<f64>,
    attention_multiplier: Option<f64>,
    residual_multiplier: Option<f64>,
    logits_scaling: Option<f64>,
    use_bidirectional_attention: Option<bool>,
}

/// A value that is there, if only as null.
fn stated<'de, D, T>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::deserialize(deserializer).map(Some)
}

impl ModelConfig {
    /// Reads a `config.json`.
    ///
    /// # Errors
    /// Malformed JSON; an architecture, activation, rotary scaling or quantization that is not
    /// implemented; or sizes that do not fit together.
    pub fn from_json(text: &str) -> Result<Self, ModelError> {
        let malformed = |e: serde_json::Error| ModelError::setting("config.json", e.to_string());
        let whole: Value = serde_json::from_str(text).map_err(malformed)?;
        // First of all: other families have other keys.
        let family = Family::of_settings(&whole)?;
        let raw: HuggingFaceConfig = match family.language_part {
            None => serde_json::from_str(text),
            Some(part) => serde_json::from_value(part.of(&whole)?),
        }
        .map_err(malformed)?;
        let mut config = raw.resolve(family)?.validated()?;
        config.variant.language_part = family.language_part.is_some();
        Ok(config)
    }
}

impl Family {
    /// The family that settings name: by `model_type`, or without it by their architecture.
    fn of_settings(settings: &Value) -> Result<&'static Self, ModelError> {
        let kind = &settings["model_type"];
        let (key, name) = match kind.is_null() {
            true => ("architectures", &settings["architectures"][0]),
            false => ("model_type", kind),
        };
        let known = || {
            let known: Vec<&str> = FAMILIES.iter().map(|family| family.model_type).collect();
            known.join(", ")
        };
        let Some(name) = name.as_str() else {
            let found = if kind.is_null() { "none" } else { "no name" };
            let reason = format!("expected one of {}, got {found}", known());
            return Err(ModelError::setting("model_type", reason));
        };
        let mut families = FAMILIES.iter();
        let found =
            families.find(|family| name == family.model_type || name == family.architecture);
        found.ok_or_else(|| {
            ModelError::setting(
                key,
                format!(
                    "{name:?} is not supported: choose a dense text model of {} (no mixture of experts, state-space, encoder or other vision model)",
                    known()
                ),
            )
        })
    }
}

impl LanguagePart {
    /// The settings of this part as if it stood by itself, with what the whole says of it and the
    /// sizes that it does not state.
    fn of(&self, whole: &Value) -> Result<Value, ModelError> {
        let mut settings = whole["text_config"].clone();
        let Some(own) = settings.as_object_mut() else {
            let reason = "expected an object with the settings of the language part";
            return Err(ModelError::setting("text_config", reason));
        };
        for key in ["quantization_config", "tie_word_embeddings"] {
            if let Some(value) = whole.get(key).filter(|value| !value.is_null()) {
                own.insert(key.into(), value.clone());
            }
        }
        for (key, size) in self.sizes {
            own.entry(*key).or_insert_with(|| (*size).into());
        }
        Ok(settings)
    }
}

impl HuggingFaceConfig {
    /// Fills every gap as transformers does.
    fn resolve(self, family: &Family) -> Result<ModelConfig, ModelError> {
        let decoder = family.language_part.map(|part| part.model_type);
        let decoder = decoder.unwrap_or(family.model_type);
        self.unquantized()?;
        let gaps = Gaps::of(decoder);
        let (rotation, local) = self.rotations(&gaps)?;
        let head_dim = self.head_width(&gaps)?;
        let qwen2 = decoder == "qwen2";
        let attention_bias = self.attention_bias.unwrap_or(false);
        let mut variant = self.variant(decoder, head_dim, &gaps)?;
        variant.local_rope_theta = local;
        let share = rotation.share.or(self.partial_rotary_factor).unwrap_or(1.0);
        if share != 1.0 {
            variant.rotary_dim = Some((head_dim as f64 * share) as usize);
        }
        Ok(ModelConfig {
            vocab_size: self.vocab_size,
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_hidden_layers: self.num_hidden_layers,
            num_attention_heads: self.num_attention_heads,
            num_key_value_heads: self
                .num_key_value_heads
                .unwrap_or(gaps.key_value_heads)
                .unwrap_or(self.num_attention_heads),
            head_dim,
            max_position_embeddings: self.max_position_embeddings.unwrap_or(gaps.context),
            rms_norm_eps: self.rms_norm_eps.unwrap_or(gaps.rms_norm_eps),
            rope_theta: rotation.theta,
            rope_scaling: rotation.scaling,
            sliding_window: self.windows(decoder, &gaps)?,
            qkv_bias: qwen2 || attention_bias,
            output_bias: !qwen2 && attention_bias,
            mlp_bias: self.mlp_bias.unwrap_or(false),
            tie_word_embeddings: self.tie_word_embeddings.unwrap_or(gaps.tied),
            model_type: decoder.into(),
            variant,
        })
    }

    /// How the family departs from LLaMA.
    fn variant(
        &self,
        model_type: &str,
        head_dim: usize,
        gaps: &Gaps,
    ) -> Result<Variant, ModelError> {
        for (key, value) in [
            ("query_pre_attn_scalar", self.query_pre_attn_scalar),
            ("attention_multiplier", self.attention_multiplier),
        ] {
            if let Some(value) = value.filter(|value| !(value.is_finite() && *value > 0.0)) {
                let reason = format!("expected a positive number, got {value}");
                return Err(ModelError::setting(key, reason));
            }
        }
        let llama = Variant {
            activation: self.activation(model_type)?,
            ..Variant::default()
        };
        let gemma = || Variant {
            norms: NormPlacement::Around,
            unit_offset: true,
            embedding_multiplier: (self.hidden_size as f64).sqrt(),
            attention_scale: self
                .query_pre_attn_scalar
                .or(Some(256.0))
                .map(|n| n.powf(-0.5)),
            attention_soft_cap: self.attn_logit_softcapping.unwrap_or(gaps.soft_caps[0]),
            logit_soft_cap: self.final_logit_softcapping.unwrap_or(gaps.soft_caps[1]),
            ..llama.clone()
        };
        let found = match model_type {
            "qwen3" => Variant {
                query_key_norm: QueryKeyNorm::Head,
                ..llama
            },
            "phi3" => Variant {
                fused_projections: true,
                ..llama
            },
            "gemma2" => gemma(),
            "gemma3_text" => Variant {
                query_key_norm: QueryKeyNorm::Head,
                ..gemma()
            },
            "olmo2" => Variant {
                query_key_norm: QueryKeyNorm::Whole,
                norms: NormPlacement::After,
                ..llama
            },
            "smollm3" => Variant {
                unrotated: self.unrotated(),
                ..llama
            },
            "granite" => Variant {
                embedding_multiplier: self.embedding_multiplier.unwrap_or(1.0),
                residual_multiplier: self.residual_multiplier.unwrap_or(1.0),
                logits_divisor: self.logits_scaling.unwrap_or(1.0),
                attention_scale: Some(self.attention_multiplier.unwrap_or(1.0)),
                ..llama
            },
            _ => llama,
        };
        if self.use_bidirectional_attention == Some(true) {
            let reason = "a token that sees those after it is not implemented";
            return Err(ModelError::setting("use_bidirectional_attention", reason));
        }
        // A plain scale is no departure.
        let plain = (head_dim as f64).powf(-0.5);
        Ok(Variant {
            attention_scale: found.attention_scale.filter(|scale| *scale != plain),
            ..found
        })
    }

    fn activation(&self, model_type: &str) -> Result<GateActivation, ModelError> {
        let gemma = model_type.starts_with("gemma");
        // Gemma reads `hidden_activation`, whatever its old `hidden_act` says.
        let (key, name) = match gemma {
            true => (
                "hidden_activation",
                self.hidden_activation
                    .as_deref()
                    .unwrap_or("gelu_pytorch_tanh"),
            ),
            false => ("hidden_act", self.hidden_act.as_deref().unwrap_or("silu")),
        };
        match name {
            "silu" | "swish" => Ok(GateActivation::Silu),
            "gelu_pytorch_tanh" => Ok(GateActivation::GeluTanh),
            other => Err(ModelError::setting(
                key,
                format!("expected silu or gelu_pytorch_tanh, got {other:?}"),
            )),
        }
    }

    /// The layers that know no positions: 0 in `no_rope_layers`, every fourth by default.
    fn unrotated(&self) -> Vec<bool> {
        match &self.no_rope_layers {
            Some(layers) => layers.iter().map(|rotated| *rotated == 0).collect(),
            None => {
                let interval = self.no_rope_layer_interval.unwrap_or(4).max(1);
                let layers = 0..self.num_hidden_layers.min(1 << 20);
                layers
                    .map(|layer| (layer + 1).is_multiple_of(interval))
                    .collect()
            }
        }
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
    fn head_width(&self, gaps: &Gaps) -> Result<usize, ModelError> {
        let (d, heads) = (self.hidden_size, self.num_attention_heads);
        match self.head_dim.or(gaps.head_dim) {
            Some(head_dim) => Ok(head_dim),
            None if heads > 0 && d.is_multiple_of(heads) => Ok(d / heads),
            None => Err(ModelError::setting(
                "num_attention_heads",
                format!("expected a divisor of hidden_size = {d}, got {heads}"),
            )),
        }
    }

    /// The window of each layer. Mistral and Phi-3 apply it everywhere; Qwen only if asked; SmolLM3
    /// too, and where positions are not rotated; Gemma on all layers but every second or sixth.
    fn windows(&self, model_type: &str, gaps: &Gaps) -> Result<Vec<Option<usize>>, ModelError> {
        let layers = self.num_hidden_layers.min(1 << 20);
        let stated = self.sliding_window.unwrap_or(gaps.window);
        let used = match model_type {
            "mistral" | "phi3" => stated,
            "qwen2" | "qwen3" | "smollm3" if self.use_sliding_window == Some(true) => stated,
            "gemma2" | "gemma3_text" => stated.or(gaps.window),
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
        let unrotated = match model_type {
            "smollm3" => self.unrotated(),
            _ => Vec::new(),
        };
        let has_window = |layer: usize| match model_type {
            "smollm3" => unrotated.get(layer) == Some(&true),
            "qwen2" | "qwen3" => layer >= self.max_window_layers.unwrap_or(28),
            "gemma2" => layer.is_multiple_of(2),
            "gemma3_text" => {
                let pattern = self.sliding_window_pattern.unwrap_or(6).max(1);
                !(layer + 1).is_multiple_of(pattern)
            }
            _ => true,
        };
        Ok((0..layers)
            .map(|layer| used.filter(|_| has_window(layer)))
            .collect())
    }

    /// The rotation, from the old keys or from `rope_parameters` of transformers 5, and the base of
    /// layers with a window where that is another one.
    fn rotations(&self, gaps: &Gaps) -> Result<(Rotation, Option<f64>), ModelError> {
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
        let outside = Outside {
            theta: self.rope_theta.unwrap_or(gaps.rope_theta),
            context: self.max_position_embeddings.unwrap_or(gaps.context) as f64,
            original_context: self
                .original_max_position_embeddings
                .or(gaps.original_context),
        };
        let local = self.rope_local_base_freq.or(gaps.local_rope_theta);
        let resolve = |outside: Outside, settings: Option<&Value>| match settings {
            None => Ok(Rotation {
                theta: outside.theta,
                scaling: None,
                share: None,
            }),
            Some(settings) => RopeSettings::of(key, settings)?.resolve(outside),
        };
        let by_kind = settings.and_then(|settings| {
            let kinds = ["full_attention", "sliding_attention"];
            let [full, sliding] = kinds.map(|kind| settings.get(kind));
            Some((full?, sliding?))
        });
        match by_kind {
            Some((full, sliding)) => {
                let theta = local.unwrap_or(outside.theta);
                let sliding = resolve(Outside { theta, ..outside }, Some(sliding))?;
                if sliding.scaling.is_some() || sliding.share.is_some() {
                    return Err(ModelError::setting(
                        format!("{key}.sliding_attention"),
                        "scaling on layers with a window is not implemented",
                    ));
                }
                Ok((resolve(outside, Some(full))?, Some(sliding.theta)))
            }
            None => Ok((resolve(outside, settings)?, local)),
        }
    }
}

/// What stands in the gaps of a family's `config.json`.
struct Gaps {
    head_dim: Option<usize>,
    /// Absent: as many as heads.
    key_value_heads: Option<usize>,
    window: Option<usize>,
    context: usize,
    /// The trained context, of which a longer one was made.
    original_context: Option<f64>,
    rms_norm_eps: f64,
    rope_theta: f64,
    local_rope_theta: Option<f64>,
    tied: bool,
    /// Soft caps on the attention's scores and on the logits.
    soft_caps: [Option<f64>; 2],
}

impl Gaps {
    fn of(model_type: &str) -> Self {
        let llama = Self {
            head_dim: None,
            key_value_heads: None,
            window: None,
            context: 2048,
            original_context: None,
            rms_norm_eps: 1e-6,
            rope_theta: 10_000.0,
            local_rope_theta: None,
            tied: false,
            soft_caps: [None; 2],
        };
        match model_type {
            "mistral" => Self {
                key_value_heads: Some(8),
                window: Some(4096),
                context: 131_072,
                ..llama
            },
            "qwen2" => Self {
                key_value_heads: Some(32),
                window: Some(4096),
                context: 32_768,
                ..llama
            },
            "qwen3" => Self {
                head_dim: Some(128),
                key_value_heads: Some(32),
                window: Some(4096),
                context: 32_768,
                ..llama
            },
            "phi3" => Self {
                context: 4096,
                original_context: Some(4096.0),
                rms_norm_eps: 1e-5,
                ..llama
            },
            "gemma2" => Self {
                head_dim: Some(256),
                key_value_heads: Some(4),
                window: Some(4096),
                context: 8192,
                tied: true,
                soft_caps: [Some(50.0), Some(30.0)],
                ..llama
            },
            "gemma3_text" => Self {
                head_dim: Some(256),
                key_value_heads: Some(4),
                window: Some(4096),
                context: 131_072,
                rope_theta: 1e6,
                local_rope_theta: Some(10_000.0),
                tied: true,
                ..llama
            },
            "olmo2" => Self {
                rms_norm_eps: 1e-5,
                ..llama
            },
            "smollm3" => Self {
                key_value_heads: Some(4),
                context: 32_768,
                rope_theta: 2e6,
                tied: true,
                ..llama
            },
            _ => llama,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::config::RopeScaling;

    const MINIMAL: &str = r#"{"model_type":"llama","vocab_size":10,"hidden_size":8,"intermediate_size":16,
        "num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2"#;

    fn parse(extra: &str) -> Result<ModelConfig, ModelError> {
        ModelConfig::from_json(&format!("{MINIMAL}{extra}}}"))
    }

    /// A GGUF file states its scaling without any check of its own.
    #[test]
    fn rotations_by_no_positive_number_are_refused() {
        for factor in [0.0, -2.0, f64::NAN, f64::INFINITY] {
            let mut config = parse("").unwrap();
            config.rope_scaling = Some(RopeScaling::Linear { factor });
            let error = config.clone().validated().unwrap_err().to_string();
            assert!(error.contains("rope_scaling"), "{error}");
            let half = config.rotary_dim() / 2;
            config.rope_scaling = Some(RopeScaling::LongRope {
                short_factor: vec![1.0; half],
                long_factor: vec![factor; half],
                original_max_position_embeddings: 16.0,
                attention_factor: 1.0,
            });
            let error = config.validated().unwrap_err().to_string();
            assert!(error.contains("rope_scaling"), "{error}");
        }
    }

    #[test]
    fn gaps_are_filled_as_transformers_fills_them() {
        let config = parse("").unwrap();
        assert_eq!((config.head_dim, config.rope_theta), (2, 10_000.0));
        assert_eq!(config.sliding_window, [None, None]);
        assert!(!config.tie_word_embeddings);
    }

    /// As `transformers` 5.24 prints its configurations without arguments.
    #[test]
    fn families_have_the_gaps_of_transformers() {
        for (name, context, key_value_heads, window) in [
            ("llama", 2048, 8, None),
            ("mistral", 131_072, 8, Some(4096)),
            ("qwen2", 32_768, 32, None),
            ("qwen3", 32_768, 32, None),
            ("phi3", 4096, 8, None),
            ("gemma2", 8192, 4, Some(4096)),
            ("gemma3_text", 131_072, 4, Some(4096)),
            ("olmo2", 2048, 8, None),
            ("smollm3", 32_768, 4, None),
            ("granite", 2048, 8, None),
        ] {
            let heads = if key_value_heads == 32 { 32 } else { 8 };
            let text = format!(
                r#"{{"model_type":"{name}","vocab_size":10,"hidden_size":64,"intermediate_size":16,
                "num_hidden_layers":2,"num_attention_heads":{heads}}}"#
            );
            let config = ModelConfig::from_json(&text).unwrap();
            assert_eq!(config.max_position_embeddings, context, "{name}");
            assert_eq!(config.num_key_value_heads, key_value_heads, "{name}");
            assert_eq!(config.sliding_window[0], window, "{name}");
            let null = text.replace("10,", "10,\"num_key_value_heads\":null,");
            let config = ModelConfig::from_json(&null).unwrap();
            assert_eq!(config.num_key_value_heads, heads, "{name}");
        }
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
                r#"{"rope_type":"default","partial_rotary_factor":"half"}"#,
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
        let half = parse(r#","head_dim":4,"partial_rotary_factor":0.5"#).unwrap();
        assert_eq!(half.rotary_dim(), 2);
        // One value cannot be rotated.
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
                r#","rope_scaling":{"rope_type":"proportional","factor":2}"#,
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

    /// It refuses a fraction where it expects a whole number, and looks for LongRoPE's context
    /// outside of the factors alone.
    #[test]
    fn what_is_written_has_the_types_and_places_that_transformers_reads() {
        let gemma = MINIMAL.replace("\"llama\"", "\"gemma2\"") + "}";
        let json = ModelConfig::from_json(&gemma).unwrap().to_json();
        assert_eq!(json["query_pre_attn_scalar"].as_u64(), Some(256));
        let factors = r#""short_factor":[1.0],"long_factor":[3.0]"#;
        let phi = MINIMAL.replace("\"llama\"", "\"phi3\"")
            + &format!(
                r#","original_max_position_embeddings":32,"rope_scaling":{{"type":"longrope",{factors}}}}}"#
            );
        // A window that is none, and one of some layers alone.
        let family = |name: &str| MINIMAL.replace("\"llama\"", &format!("\"{name}\""));
        for text in [
            family("mistral") + r#","sliding_window":null}"#,
            family("mistral") + "}",
            family("smollm3")
                + r#","sliding_window":4,"use_sliding_window":true,"no_rope_layers":[1,0]}"#,
            family("qwen2") + r#","use_sliding_window":true,"max_window_layers":1}"#,
        ] {
            let config = ModelConfig::from_json(&text).unwrap();
            let again = ModelConfig::from_json(&config.to_json().to_string()).unwrap();
            assert_eq!(again, config, "{text}");
        }
        let config = ModelConfig::from_json(&phi).unwrap();
        let json = config.to_json();
        assert_eq!(json["original_max_position_embeddings"].as_u64(), Some(32));
        assert_eq!(ModelConfig::from_json(&json.to_string()).unwrap(), config);
    }

    #[test]
    fn a_family_is_told_before_its_settings_are_read() {
        let refused = |text: &str| ModelConfig::from_json(text).unwrap_err().to_string();
        // Families whose keys have other names.
        for kind in ["t5", "gpt2", "llava", "gemma3n", "llama4", "bert"] {
            let message = refused(&format!(r#"{{"model_type":"{kind}"}}"#));
            assert!(message.starts_with("model_type: "), "{message}");
            assert!(
                message.contains(kind) && message.contains("gemma2"),
                "{message}"
            );
        }
        let message = refused(r#"{"architectures":["MambaForCausalLM"]}"#);
        assert!(
            message.starts_with("architectures: \"MambaForCausalLM\""),
            "{message}"
        );
        for nothing in ["{}", "[]", r#"{"model_type":7}"#] {
            let message = refused(nothing);
            assert!(
                message.starts_with("model_type: expected one of"),
                "{message}"
            );
        }
        let by_architecture = MINIMAL.replace(
            r#""model_type":"llama""#,
            r#""architectures":["Gemma2ForCausalLM"]"#,
        );
        let by_name = MINIMAL.replace("\"llama\"", "\"gemma2\"");
        let [one, other] = [by_architecture, by_name]
            .map(|text| ModelConfig::from_json(&format!("{text}}}")).unwrap());
        assert_eq!(one, other);
    }

    /// Gemma 3's files as they are published, without what equals the defaults.
    #[test]
    fn language_parts_fill_their_gaps_as_transformers_does() {
        for (part, sizes) in [
            (
                r#"{"hidden_size":2560,"intermediate_size":10240,"model_type":"gemma3_text","num_hidden_layers":34,
                "rope_scaling":{"factor":8.0,"rope_type":"linear"},"sliding_window":1024}"#,
                [2560, 34, 8, 4, 256],
            ),
            (
                r#"{"hidden_size":3840,"intermediate_size":15360,"model_type":"gemma3_text","num_attention_heads":16,
                "num_hidden_layers":48,"num_key_value_heads":8,
                "rope_scaling":{"factor":8.0,"rope_type":"linear"},"sliding_window":1024}"#,
                [3840, 48, 16, 8, 256],
            ),
            (
                r#"{"head_dim":128,"hidden_size":5376,"intermediate_size":21504,"model_type":"gemma3_text",
                "num_attention_heads":32,"num_hidden_layers":62,"num_key_value_heads":16,"query_pre_attn_scalar":168,
                "rope_scaling":{"factor":8.0,"rope_type":"linear"},"sliding_window":1024}"#,
                [5376, 62, 32, 16, 128],
            ),
        ] {
            let text = format!(
                r#"{{"model_type":"gemma3","vision_config":{{"hidden_size":1152}},"text_config":{part}}}"#
            );
            let config = ModelConfig::from_json(&text).unwrap();
            let found = [
                config.hidden_size,
                config.num_hidden_layers,
                config.num_attention_heads,
                config.num_key_value_heads,
                config.head_dim,
            ];
            assert_eq!(found, sizes);
            assert_eq!(
                (config.vocab_size, config.max_position_embeddings),
                (262_208, 131_072)
            );
            assert_eq!(
                config.rope_scaling,
                Some(RopeScaling::Linear { factor: 8.0 })
            );
            let variant = &config.variant;
            assert_eq!(
                (config.rope_theta, variant.local_rope_theta),
                (1e6, Some(1e4))
            );
            assert_eq!(config.sliding_window[4..6], [Some(1024), None]);
            assert!(config.tie_word_embeddings && variant.language_part);
            let scale = (found[4] == 128).then(|| 168f64.powf(-0.5));
            assert_eq!(variant.attention_scale, scale);
        }
    }

    #[test]
    fn families_read_the_same_from_old_and_new_spellings() {
        let family = |name: &str, more: &str| {
            let head = MINIMAL.replace("\"llama\"", &format!("\"{name}\""));
            ModelConfig::from_json(&format!("{head}{more}}}")).unwrap()
        };
        let old = family(
            "gemma3_text",
            r#","rope_theta":9e5,"rope_local_base_freq":500.0,"rope_scaling":{"rope_type":"linear","factor":8.0},
            "sliding_window":4,"sliding_window_pattern":2"#,
        );
        let new = family(
            "gemma3_text",
            r#","rope_parameters":{"full_attention":{"rope_type":"linear","factor":8.0,"rope_theta":9e5},
            "sliding_attention":{"rope_type":"default","rope_theta":500.0}},
            "sliding_window":4,"layer_types":["sliding_attention","full_attention"]"#,
        );
        assert_eq!(old, new);
        assert_eq!(old.sliding_window, [Some(4), None]);
        assert_eq!((old.head_dim, old.tie_word_embeddings), (256, true));
        let factors = r#""short_factor":[1.0,1.5],"long_factor":[2.0,3.0]"#;
        let old = family(
            "phi3",
            &format!(
                r#","head_dim":8,"partial_rotary_factor":0.5,"original_max_position_embeddings":32,
                "max_position_embeddings":128,"rope_scaling":{{"type":"su",{factors}}}"#
            ),
        );
        let new = family(
            "phi3",
            &format!(
                r#","head_dim":8,"max_position_embeddings":128,"original_max_position_embeddings":32,
                "rope_parameters":{{"rope_type":"longrope","rope_theta":10000.0,
                "partial_rotary_factor":0.5,"original_max_position_embeddings":16,{factors}}}"#
            ),
        );
        assert_eq!(old, new);
        // Phi-3's class has a trained context of its own, which goes before the settings', too.
        let silent = family(
            "phi3",
            &format!(
                r#","head_dim":4,"max_position_embeddings":131072,"rope_scaling":{{"type":"longrope",
                "original_max_position_embeddings":16,{factors}}}"#
            ),
        );
        let Some(RopeScaling::LongRope {
            original_max_position_embeddings: context,
            attention_factor,
            ..
        }) = silent.rope_scaling
        else {
            panic!("{silent:?}");
        };
        assert_eq!(context, 4096.0);
        assert_eq!(attention_factor, (1.0 + 32f64.ln() / 4096f64.ln()).sqrt());
        let caps = |model: &ModelConfig| {
            [
                model.variant.attention_soft_cap,
                model.variant.logit_soft_cap,
            ]
        };
        assert_eq!(caps(&family("gemma2", "")), [Some(50.0), Some(30.0)]);
        let none = r#","attn_logit_softcapping":null,"final_logit_softcapping":null"#;
        let uncapped = family("gemma2", none);
        assert_eq!(caps(&uncapped), [None, None]);
        let again = ModelConfig::from_json(&uncapped.to_json().to_string()).unwrap();
        assert_eq!(again, uncapped);
        for (kind, key) in [
            ("gemma2", "query_pre_attn_scalar"),
            ("granite", "attention_multiplier"),
        ] {
            let text =
                MINIMAL.replace("\"llama\"", &format!("\"{kind}\"")) + &format!(r#","{key}":0}}"#);
            let error = ModelConfig::from_json(&text).unwrap_err().to_string();
            assert!(
                error.contains(&format!("{key}: expected a positive number, got 0")),
                "{error}"
            );
        }
        let qwen = family("qwen3", "");
        assert_eq!((qwen.head_dim, qwen.qkv_bias), (128, false));
        let windows = r#","no_rope_layers":[1,0],"sliding_window":4,"use_sliding_window":true"#;
        let config = family("smollm3", windows);
        assert_eq!(config.sliding_window, [None, Some(4)]);
        let smollm = family("smollm3", r#","no_rope_layers":[1,0]"#);
        assert_eq!(smollm.variant.unrotated, [false, true]);
    }
}
