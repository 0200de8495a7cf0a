//! The families of models, and how their decoders depart from LLaMA's.

use serde::{Deserialize, Serialize};

/// A family of models that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family {
    /// Name of the family in `config.json`.
    pub model_type: &'static str,
    /// Name of its class in `transformers`.
    pub architecture: &'static str,
    /// Name of its architecture in GGUF files, where those are read.
    pub gguf: Option<&'static str>,
    /// Models that belong to it.
    pub models: &'static str,
    /// How it departs from LLaMA.
    pub departs: &'static str,
    /// The part that writes, where its files hold more than that.
    pub language_part: Option<LanguagePart>,
}

/// The part of a model that reads and writes text, beside one that sees; the other is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LanguagePart {
    /// The family that it is by itself; its settings stand under `text_config`.
    pub model_type: &'static str,
    /// Its sizes where `text_config` says nothing: published files leave out what equals these.
    pub sizes: &'static [(&'static str, usize)],
}

const fn family(
    [model_type, architecture]: [&'static str; 2],
    gguf: Option<&'static str>,
    models: &'static str,
    departs: &'static str,
) -> Family {
    Family {
        model_type,
        architecture,
        gguf,
        models,
        departs,
        language_part: None,
    }
}

/// Every family that is read, LLaMA first.
pub const FAMILIES: &[Family] = &[
    family(
        ["llama", "LlamaForCausalLM"],
        Some("llama"),
        "LLaMA 1 to 3.3, SmolLM 1 and 2, and other models of this shape",
        "-",
    ),
    family(
        ["mistral", "MistralForCausalLM"],
        Some("llama"),
        "Mistral 7B",
        "sliding window",
    ),
    family(
        ["qwen2", "Qwen2ForCausalLM"],
        Some("qwen2"),
        "Qwen2, Qwen2.5",
        "biases of q, k, v",
    ),
    family(
        ["qwen3", "Qwen3ForCausalLM"],
        Some("qwen3"),
        "Qwen3, dense",
        "norms of q and k, head by head",
    ),
    family(
        ["phi3", "Phi3ForCausalLM"],
        Some("phi3"),
        "Phi-3, Phi-3.5-mini, Phi-4, Phi-4-mini",
        "q, k, v in one matrix, gate and up in another; a part of each head rotated; longrope",
    ),
    family(
        ["gemma2", "Gemma2ForCausalLM"],
        Some("gemma2"),
        "Gemma 2",
        "norms around each block, GELU, scaled embeddings, soft caps, a window on every second layer",
    ),
    family(
        ["gemma3_text", "Gemma3ForCausalLM"],
        Some("gemma3"),
        "Gemma 3, text alone (270M, 1B)",
        "as Gemma 2 without soft caps, norms of q and k, another rotation on layers with a window",
    ),
    Family {
        language_part: Some(LanguagePart {
            model_type: "gemma3_text",
            sizes: &[
                ("vocab_size", 262_208),
                ("hidden_size", 2304),
                ("intermediate_size", 9216),
                ("num_hidden_layers", 26),
                ("num_attention_heads", 8),
                ("num_key_value_heads", 4),
            ],
        }),
        ..family(
            ["gemma3", "Gemma3ForConditionalGeneration"],
            Some("gemma3"),
            "Gemma 3 of 4B and more, its language part",
            "as `gemma3_text`, whose rotation is scaled on layers without a window; the vision part is left out",
        )
    },
    family(
        ["olmo2", "Olmo2ForCausalLM"],
        Some("olmo2"),
        "OLMo 2",
        "norms after each block, and of q and k as a whole",
    ),
    family(
        ["smollm3", "SmolLM3ForCausalLM"],
        Some("smollm3"),
        "SmolLM3",
        "every fourth layer without rotation",
    ),
    family(
        ["granite", "GraniteForCausalLM"],
        Some("granite"),
        "Granite 3, dense",
        "factors on embeddings, scores, blocks and logits",
    ),
];

impl Family {
    /// The family of an architecture of GGUF files; of several, the first.
    pub fn of_gguf(architecture: &str) -> Option<&'static Self> {
        FAMILIES
            .iter()
            .find(|family| family.gguf == Some(architecture))
    }

    /// The family of a `model_type`.
    pub fn of(model_type: &str) -> Option<&'static Self> {
        FAMILIES
            .iter()
            .find(|family| family.model_type == model_type)
    }
}

/// Norms of queries and keys, before the rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QueryKeyNorm {
    /// None.
    #[default]
    None,
    /// Each head by itself, all with one gain.
    Head,
    /// All heads of a token together.
    Whole,
}

/// Where a layer has its norms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormPlacement {
    /// Before attention and feed-forward block.
    #[default]
    Before,
    /// After each of them, before it is added to the residual stream.
    After,
    /// Before and after.
    Around,
}

/// The activation of a feed-forward block's gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GateActivation {
    /// `x sigmoid(x)`: SwiGLU.
    #[default]
    Silu,
    /// GELU by its tanh approximation: GeGLU.
    GeluTanh,
}

/// How a decoder departs from LLaMA's; the default is LLaMA.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Variant {
    /// Norms of queries and keys.
    pub query_key_norm: QueryKeyNorm,
    /// Where a layer has its norms.
    pub norms: NormPlacement,
    /// Whether a norm's gain is 1 plus its weight.
    pub unit_offset: bool,
    /// The activation of the gate.
    pub activation: GateActivation,
    /// Factor on the embeddings.
    pub embedding_multiplier: f64,
    /// Factor on what a block adds to the residual stream.
    pub residual_multiplier: f64,
    /// Divisor of the logits.
    pub logits_divisor: f64,
    /// Factor on the scores of attention; `None` = `1 / sqrt(head_dim)`.
    pub attention_scale: Option<f64>,
    /// Bound c of the scores of attention, `c tanh(s / c)`.
    pub attention_soft_cap: Option<f64>,
    /// Bound c of the logits, `c tanh(z / c)`.
    pub logit_soft_cap: Option<f64>,
    /// How many values of a head are rotated, the first ones; `None` = all.
    pub rotary_dim: Option<usize>,
    /// Base of the rotary wavelengths, without scaling, on layers with a window; `None` = as on the
    /// others.
    pub local_rope_theta: Option<f64>,
    /// For each layer, whether it knows no positions; empty = every layer knows them.
    pub unrotated: Vec<bool>,
    /// Whether files hold q, k and v as one matrix, and gate and up as another.
    pub fused_projections: bool,
    /// Whether files hold the decoder as the language part of a model that also sees.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub language_part: bool,
}

impl Default for Variant {
    fn default() -> Self {
        Self {
            query_key_norm: QueryKeyNorm::None,
            norms: NormPlacement::Before,
            unit_offset: false,
            activation: GateActivation::Silu,
            embedding_multiplier: 1.0,
            residual_multiplier: 1.0,
            logits_divisor: 1.0,
            attention_scale: None,
            attention_soft_cap: None,
            logit_soft_cap: None,
            rotary_dim: None,
            local_rope_theta: None,
            unrotated: Vec::new(),
            fused_projections: false,
            language_part: false,
        }
    }
}

/// Names of a layer's norms in Hugging Face's files, by the place where they act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NormNames {
    /// Before attention.
    pub attention_input: Option<&'static str>,
    /// After attention.
    pub attention_output: Option<&'static str>,
    /// Before the feed-forward block.
    pub mlp_input: Option<&'static str>,
    /// After the feed-forward block.
    pub mlp_output: Option<&'static str>,
}

impl Variant {
    /// Names of a layer's norms of the residual stream.
    pub fn norm_names(&self) -> NormNames {
        let [input, attention, before, after] = [
            "input_layernorm",
            "post_attention_layernorm",
            "pre_feedforward_layernorm",
            "post_feedforward_layernorm",
        ];
        match self.norms {
            NormPlacement::Before => NormNames {
                attention_input: Some(input),
                mlp_input: Some(attention),
                ..NormNames::default()
            },
            NormPlacement::After => NormNames {
                attention_output: Some(attention),
                mlp_output: Some(after),
                ..NormNames::default()
            },
            NormPlacement::Around => NormNames {
                attention_input: Some(input),
                attention_output: Some(attention),
                mlp_input: Some(before),
                mlp_output: Some(after),
            },
        }
    }

    /// Names of all norms of a layer, those of queries and keys among them.
    pub fn all_norm_names(&self) -> Vec<&'static str> {
        let names = self.norm_names();
        let mut all: Vec<_> = [
            names.attention_input,
            names.attention_output,
            names.mlp_input,
            names.mlp_output,
        ]
        .into_iter()
        .flatten()
        .collect();
        if self.query_key_norm != QueryKeyNorm::None {
            all.extend(["self_attn.q_norm", "self_attn.k_norm"]);
        }
        all
    }
}
