//! The header of a GGUF file: the model's configuration and its tokenizer.

use std::collections::BTreeSet;

use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::quantized::tokenizer::TokenizerFromGguf;
use tokenizers::Tokenizer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;

use super::super::chat::ChatSource;
use super::{missing, reason};
use crate::config::{FAMILIES, ModelConfig, QueryKeyNorm, RopeScaling, Variant};
use crate::error::ModelError;

/// The configuration of a model of an architecture that is read.
pub(super) fn config(content: &Content) -> Result<ModelConfig, ModelError> {
    let architecture = text(content, "general.architecture")?;
    let known = FAMILIES.iter().filter_map(|family| family.gguf);
    let known: BTreeSet<&str> = known.collect();
    if !known.contains(architecture.as_str()) {
        let known: Vec<&str> = known.into_iter().collect();
        return Err(ModelError::setting(
            "general.architecture",
            format!(
                "expected {}, got {architecture:?}: use the model's safetensors, if its family is read",
                known.join(", ")
            ),
        ));
    }
    let key = |name: &str| format!("{architecture}.{name}");
    let count = |name: &str| integer(content, &key(name));
    let heads = count("attention.head_count")?;
    let d = count("embedding_length")?;
    let layers = count("block_count")?;
    let tensors = content.tensor_infos.len();
    if layers > tensors {
        return Err(ModelError::setting(
            key("block_count"),
            format!("{layers} layers cannot be in {tensors} tensors: the file is damaged"),
        ));
    }
    let head_dim = count("attention.key_length").unwrap_or(d / heads.max(1));
    let rotated = count("rope.dimension_count").unwrap_or(head_dim);
    if rotated != head_dim {
        return Err(ModelError::setting(
            key("rope.dimension_count"),
            format!(
                "expected {head_dim}, the width of a head, got {rotated}: use the model's safetensors"
            ),
        ));
    }
    let embedding = content
        .tensor_infos
        .get("token_embd.weight")
        .ok_or_else(|| missing(content, "token_embd.weight"))?;
    let vocab_size = embedding.shape.dims().first().copied().unwrap_or(0);
    Ok(ModelConfig {
        vocab_size,
        hidden_size: d,
        intermediate_size: count("feed_forward_length")?,
        num_hidden_layers: layers,
        num_attention_heads: heads,
        num_key_value_heads: count("attention.head_count_kv").unwrap_or(heads),
        head_dim,
        max_position_embeddings: count("context_length")?,
        rms_norm_eps: number(content, &key("attention.layer_norm_rms_epsilon"))?,
        rope_theta: number(content, &key("rope.freq_base")).unwrap_or(10_000.0),
        rope_scaling: rope_scaling(content, &architecture)?,
        sliding_window: vec![None; layers],
        qkv_bias: content.tensor_infos.contains_key("blk.0.attn_q.bias"),
        output_bias: content.tensor_infos.contains_key("blk.0.attn_output.bias"),
        mlp_bias: false,
        tie_word_embeddings: !content.tensor_infos.contains_key("output.weight"),
        variant: Variant {
            query_key_norm: match content
                .tensor_infos
                .contains_key("blk.0.attn_q_norm.weight")
            {
                true => QueryKeyNorm::Head,
                false => QueryKeyNorm::None,
            },
            ..Variant::default()
        },
        model_type: architecture,
    })
}

/// The scaling that the header names. Llama 3's stands in a tensor instead.
fn rope_scaling(content: &Content, architecture: &str) -> Result<Option<RopeScaling>, ModelError> {
    let kind = format!("{architecture}.rope.scaling.type");
    let Some(Value::String(name)) = content.metadata.get(&kind) else {
        return Ok(None);
    };
    match name.as_str() {
        "none" => Ok(None),
        "linear" => Ok(Some(RopeScaling::Linear {
            factor: number(content, &format!("{architecture}.rope.scaling.factor"))?,
        })),
        other => Err(ModelError::setting(
            kind,
            format!("expected none or linear, got {other:?}: use the model's safetensors"),
        )),
    }
}

/// Llama 3's scaling as its file holds it, a divisor for every frequency, on a whole configuration.
pub(super) fn with_rope_divisors(config: &mut ModelConfig, divisors: Vec<f32>) {
    let divisors: Vec<f64> = divisors.into_iter().map(f64::from).collect();
    config.rope_scaling = Some(RopeScaling::LongRope {
        short_factor: divisors.clone(),
        long_factor: divisors,
        original_max_position_embeddings: config.max_position_embeddings as f64,
        attention_factor: 1.0,
    });
}

/// Whether the tokenizer is SentencePiece's, as LLaMA-2's and Mistral's are.
pub(super) fn has_sentence_piece(content: &Content) -> bool {
    text(content, "tokenizer.ggml.model").is_ok_and(|model| model == "llama")
}

/// The tokenizer as candle-core reads it, with the pre-tokenizers that candle-core does not know:
/// SmolLM splits single digits, GPT-2 adds no leading space.
pub(super) fn tokenizer(content: &Content) -> Result<Tokenizer, String> {
    let read = || Tokenizer::from_gguf(content).map_err(reason);
    let mut tokenizer = crate::load::tokenizer(read).map_err(|e| format!("tokenizer: {e}"))?;
    let kind = text(content, "tokenizer.ggml.pre").unwrap_or_else(|_| "default".into());
    let bytes = ByteLevel::new(false, true, true);
    match kind.as_str() {
        "smollm" => {
            let parts = vec![Digits::new(true).into(), bytes.into()];
            tokenizer.with_pre_tokenizer(Some(Sequence::new(parts)));
        }
        "gpt-2" | "default" => {
            tokenizer.with_pre_tokenizer(Some(bytes));
        }
        "qwen2" | "llama3" | "llama-bpe" | "smaug-bpe" => {}
        other => {
            return Err(format!(
                "tokenizer.ggml.pre: expected smollm, gpt-2, qwen2 or llama-bpe, got {other:?}; put the model's tokenizer.json and safetensors in a directory and use that"
            ));
        }
    }
    Ok(tokenizer)
}

/// The chat template, with the tokens that its header names.
pub(super) fn chat_template(content: &Content) -> Option<ChatSource> {
    let template = text(content, "tokenizer.chat_template").ok()?;
    let tokens = value(content, "tokenizer.ggml.tokens").ok()?;
    let tokens = tokens.to_vec().ok()?;
    let named = ["bos", "eos", "unknown", "padding"]
        .into_iter()
        .zip(["bos", "eos", "unk", "pad"]);
    let special_tokens = named
        .filter_map(|(key, role)| {
            let id = integer(content, &format!("tokenizer.ggml.{key}_token_id")).ok()?;
            let name = tokens.get(id)?.to_string().ok()?;
            Some((format!("{role}_token"), name.clone()))
        })
        .collect();
    Some(ChatSource {
        template,
        special_tokens,
    })
}

pub(super) fn value<'a>(content: &'a Content, key: &str) -> Result<&'a Value, ModelError> {
    content
        .metadata
        .get(key)
        .ok_or_else(|| ModelError::setting(key, "is missing from the GGUF's metadata"))
}

fn text(content: &Content, key: &str) -> Result<String, ModelError> {
    value(content, key)?
        .to_string()
        .cloned()
        .map_err(|_| ModelError::setting(key, "expected text"))
}

pub(super) fn integer(content: &Content, key: &str) -> Result<usize, ModelError> {
    let found = value(content, key)?;
    found
        .to_u64()
        .ok()
        .or_else(|| found.to_i32().ok().and_then(|v| u64::try_from(v).ok()))
        .and_then(|v| usize::try_from(v).ok())
        .ok_or_else(|| ModelError::setting(key, "expected a whole number"))
}

fn number(content: &Content, key: &str) -> Result<f64, ModelError> {
    let found = value(content, key)?;
    found
        .to_f32()
        .map(f64::from)
        .or_else(|_| found.to_f64())
        .map_err(|_| ModelError::setting(key, "expected a number"))
}
