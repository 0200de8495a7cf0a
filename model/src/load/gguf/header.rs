//! The header of a GGUF file: the model's configuration and its tokenizer.

use std::collections::BTreeSet;

use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::quantized::tokenizer::TokenizerFromGguf;
use tokenizers::Tokenizer;
use tokenizers::models::ModelWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::tokenizer::SplitDelimiterBehavior;

use super::super::chat::ChatSource;
use super::{missing, reason};
use crate::config::{
    FAMILIES, Family, GateActivation, LanguagePart, ModelConfig, NormPlacement, QueryKeyNorm,
    RopeScaling, Variant,
};
use crate::error::ModelError;

/// The configuration of a model of an architecture that is read.
pub(super) fn config(content: &Content) -> Result<ModelConfig, ModelError> {
    let architecture = text(content, "general.architecture")?;
    let Some(family) = Family::of_gguf(&architecture) else {
        let known: BTreeSet<&str> = FAMILIES.iter().filter_map(|family| family.gguf).collect();
        let known: Vec<&str> = known.into_iter().collect();
        let remedy = match &*architecture {
            "clip" => "this is the vision part (mmproj): give the language model's file",
            _ => "use the model's safetensors, if its family is read",
        };
        return Err(ModelError::setting(
            "general.architecture",
            format!(
                "expected {}, got {architecture:?}: {remedy}",
                known.join(", ")
            ),
        ));
    };
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
    if rotated != head_dim && family.model_type != "phi3" {
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
    let mut variant = variant(content, family, vocab_size, [d, heads, head_dim, layers])?;
    variant.rotary_dim = Some(rotated).filter(|rotated| *rotated != head_dim);
    let config = ModelConfig {
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
        sliding_window: windows(content, family, layers)?,
        qkv_bias: content.tensor_infos.contains_key("blk.0.attn_q.bias"),
        output_bias: content.tensor_infos.contains_key("blk.0.attn_output.bias"),
        mlp_bias: content.tensor_infos.contains_key("blk.0.ffn_gate.bias"),
        tie_word_embeddings: !content.tensor_infos.contains_key("output.weight"),
        variant,
        model_type: family.model_type.into(),
    };
    biases_are_read(content, &config)?;
    Ok(config)
}

/// Refuses a bias that would not be read: the logits would be others without a word.
fn biases_are_read(content: &Content, config: &ModelConfig) -> Result<(), ModelError> {
    let groups: [(bool, &[&str]); 3] = [
        (config.qkv_bias, &["attn_q", "attn_k", "attn_v"]),
        (config.output_bias, &["attn_output"]),
        (config.mlp_bias, &["ffn_gate", "ffn_up", "ffn_down"]),
    ];
    let is_read = |name: &str| {
        let part = name
            .strip_prefix("blk.")
            .and_then(|rest| rest.split_once('.'));
        let of = |part: &str| {
            groups
                .iter()
                .any(|(has, parts)| *has && parts.contains(&part))
        };
        part.is_some_and(|(_, part)| of(part))
    };
    let names = content.tensor_infos.keys();
    let mut biases = names.filter_map(|name| name.strip_suffix(".bias"));
    match biases.find(|name| !is_read(name)) {
        None => Ok(()),
        Some(name) => Err(ModelError::setting(
            format!("{name}.bias"),
            "a bias of this part, or of some layers alone, is not implemented",
        )),
    }
}

/// How the family departs from LLaMA, as far as the header says so, and else as llama.cpp has it.
/// The sizes are those of the model, its heads, a head's width, and its layers.
fn variant(
    content: &Content,
    family: &Family,
    vocab_size: usize,
    [d, heads, head_dim, layers]: [usize; 4],
) -> Result<Variant, ModelError> {
    let architecture = family.gguf.unwrap_or_default();
    let key = |name: &str| format!("{architecture}.{name}");
    let given = |name: &str| number(content, &key(name)).ok();
    let query_key_norm = match content
        .tensor_infos
        .contains_key("blk.0.attn_q_norm.weight")
    {
        true => QueryKeyNorm::Head,
        false => QueryKeyNorm::None,
    };
    let llama = Variant {
        query_key_norm,
        ..Variant::default()
    };
    // The largest of each family, told by its layers, scales by another width than a head's.
    let gemma = |largest: usize| Variant {
        norms: NormPlacement::Around,
        unit_offset: true,
        activation: GateActivation::GeluTanh,
        embedding_multiplier: (d as f64).sqrt(),
        attention_scale: (layers == largest).then(|| ((d / heads.max(1)) as f64).powf(-0.5)),
        logit_soft_cap: given("final_logit_softcapping"),
        ..llama.clone()
    };
    let found = match family.model_type {
        "phi3" => Variant {
            fused_projections: true,
            ..llama
        },
        "gemma2" => Variant {
            attention_soft_cap: given("attn_logit_softcapping").or(Some(50.0)),
            logit_soft_cap: given("final_logit_softcapping").or(Some(30.0)),
            ..gemma(46)
        },
        "gemma3_text" => Variant {
            local_rope_theta: given("rope.freq_base_swa").or(Some(10_000.0)),
            language_part: is_language_part(family, vocab_size),
            ..gemma(62)
        },
        "olmo2" => Variant {
            query_key_norm: QueryKeyNorm::Whole,
            norms: NormPlacement::After,
            ..llama
        },
        "smollm3" => Variant {
            unrotated: (1..=layers).map(|layer| layer.is_multiple_of(4)).collect(),
            ..llama
        },
        "granite" => {
            let factor = |name: &str| given(name).filter(|factor| *factor != 0.0);
            Variant {
                embedding_multiplier: factor("embedding_scale").unwrap_or(1.0),
                residual_multiplier: factor("residual_scale").unwrap_or(1.0),
                logits_divisor: factor("logit_scale").unwrap_or(1.0),
                attention_scale: factor("attention.scale"),
                ..llama
            }
        }
        _ => llama,
    };
    let unrotated = key("rope.scaling.finetuned");
    let off = content.metadata.get(&unrotated);
    if off.and_then(|value| value.to_bool().ok()) == Some(false) {
        return Err(ModelError::setting(
            unrotated,
            "a model without rotary positions (Granite 4) is not implemented",
        ));
    }
    // A plain scale is no departure.
    let plain = (head_dim as f64).powf(-0.5);
    Ok(Variant {
        attention_scale: found.attention_scale.filter(|scale| *scale != plain),
        ..found
    })
}

/// Whether a model is the language part of one that also sees, which the header does not say. Its
/// vocabulary is as large as that of such a model, which has tokens for images.
fn is_language_part(family: &Family, vocab_size: usize) -> bool {
    let of_family = |part: &LanguagePart| part.model_type == family.model_type;
    let parts = FAMILIES.iter().filter_map(|other| other.language_part);
    parts
        .filter(of_family)
        .any(|part| part.sizes.contains(&("vocab_size", vocab_size)))
}

/// The window of each layer: of Phi-3 everywhere, of Gemma on all layers but every second or sixth.
fn windows(
    content: &Content,
    family: &Family,
    layers: usize,
) -> Result<Vec<Option<usize>>, ModelError> {
    let key = format!(
        "{}.attention.sliding_window",
        family.gguf.unwrap_or_default()
    );
    let given = integer(content, &key).ok().filter(|window| *window > 0);
    let (window, without) = match family.model_type {
        "phi3" => (given, 0),
        "gemma2" => (given.or(Some(4096)), 2),
        "gemma3_text" => (given, 6),
        "olmo2" if given.is_some() => {
            return Err(ModelError::setting(
                key,
                "OLMo 3, which has windows, is not implemented: OLMo 2 is",
            ));
        }
        _ => (None, 0),
    };
    // Every so many layers, the last of them, has none.
    let has_none = |layer: usize| without > 0 && (layer + 1).is_multiple_of(without);
    let layers = (0..layers).map(|layer| window.filter(|_| !has_none(layer)));
    Ok(layers.collect())
}

/// LongRoPE's trained context, and its factor on cosines and sines.
pub(super) fn long_rope(content: &Content, config: &ModelConfig) -> (f64, f64) {
    let architecture = Family::of(&config.model_type).and_then(|family| family.gguf);
    let key = |name: &str| format!("{}.rope.scaling.{name}", architecture.unwrap_or_default());
    let original = integer(content, &key("original_context_length")).ok();
    let original = original.unwrap_or(config.max_position_embeddings) as f64;
    (
        original,
        number(content, &key("attn_factor")).unwrap_or(1.0),
    )
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

/// Whether the tokenizer is SentencePiece's, as LLaMA-2's and Mistral's are.
pub(super) fn has_sentence_piece(content: &Content) -> bool {
    text(content, "tokenizer.ggml.model").is_ok_and(|model| model == "llama")
}

/// How text is cut before pairs of bytes are joined, as Llama 3 and its kin do.
const LLAMA_3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The same of GPT-4o, as Phi-4-mini does.
const GPT_4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The tokenizer as candle-core reads it, with what candle-core does not know: SmolLM splits single
/// digits, GPT-2 adds no leading space, Llama 3 goes by another name there. A text of Llama 3
/// begins with its first token, and a word that is a token is taken whole. Most files say neither;
/// llama.cpp knows both by the name.
pub(super) fn tokenizer(content: &Content) -> Result<Tokenizer, String> {
    let read = || Tokenizer::from_gguf(content).map_err(reason);
    let mut tokenizer = crate::load::tokenizer(read).map_err(|e| format!("tokenizer: {e}"))?;
    let kind = text(content, "tokenizer.ggml.pre").unwrap_or_else(|_| "default".into());
    let bytes = ByteLevel::new(false, true, true);
    let cut = |regex: &str| -> Result<Sequence, String> {
        let pattern = SplitPattern::Regex(regex.into());
        let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false);
        let split = split.map_err(|e| format!("tokenizer: {e}"))?;
        Ok(Sequence::new(vec![
            split.into(),
            ByteLevel::new(false, true, false).into(),
        ]))
    };
    match kind.as_str() {
        "smollm" | "refact" => {
            let parts = vec![Digits::new(true).into(), bytes.into()];
            tokenizer.with_pre_tokenizer(Some(Sequence::new(parts)));
        }
        "gpt-2" | "default" | "olmo" => {
            tokenizer.with_pre_tokenizer(Some(bytes));
        }
        "llama3" | "llama-v3" | "llama-bpe" => {
            tokenizer.with_pre_tokenizer(Some(cut(LLAMA_3)?));
            let silent = |key: &str| {
                !content
                    .metadata
                    .contains_key(&format!("tokenizer.ggml.{key}"))
            };
            if let (ModelWrapper::BPE(mut model), true) =
                (tokenizer.get_model().clone(), silent("ignore_merges"))
            {
                model.ignore_merges = true;
                tokenizer.with_model(model);
            }
            if silent("add_bos_token") && !silent("bos_token_id") {
                around(content, true, &mut tokenizer)?;
            }
        }
        "smaug-bpe" | "dbrx" => {
            tokenizer.with_pre_tokenizer(Some(cut(LLAMA_3)?));
        }
        "gpt-4o" => {
            tokenizer.with_pre_tokenizer(Some(cut(GPT_4O)?));
        }
        "qwen2" => {}
        other => {
            return Err(format!(
                "tokenizer.ggml.pre: expected smollm, refact, gpt-2, olmo, qwen2, llama-bpe, dbrx or gpt-4o, got {other:?}; put the model's tokenizer.json and safetensors in a directory and use that"
            ));
        }
    }
    Ok(tokenizer)
}

/// Puts the first and last tokens that the file asks for around every text; the first one also
/// where the file is silent and `first` says so.
pub(super) fn around(
    content: &Content,
    first: bool,
    tokenizer: &mut Tokenizer,
) -> Result<(), String> {
    let flag = |key: &str| {
        let found = content.metadata.get(&format!("tokenizer.ggml.{key}"))?;
        found.to_bool().ok()
    };
    let token = |name: &str, asked: bool| -> Result<Option<(String, u32)>, String> {
        if !flag(&format!("add_{name}_token")).unwrap_or(asked) {
            return Ok(None);
        }
        let key = format!("tokenizer.ggml.{name}_token_id");
        let id = integer(content, &key).map_err(|e| e.to_string())?;
        let found = u32::try_from(id).ok();
        let found = found.and_then(|id| Some((tokenizer.id_to_token(id)?, id)));
        let past = || format!("{key}: {id} is past the vocabulary");
        found.ok_or_else(past).map(Some)
    };
    let (first, last) = (token("bos", first)?, token("eos", false)?);
    if first.is_none() && last.is_none() {
        return Ok(());
    }
    let name = |token: &Option<(String, u32)>| token.as_ref().map(|(name, _)| name.clone());
    let parts = [name(&first), Some("$A".into()), name(&last)];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    let special: Vec<_> = [first, last].into_iter().flatten().collect();
    let processor = TemplateProcessing::builder()
        .try_single(parts)
        .map_err(|e| format!("tokenizer: {e}"))?
        .special_tokens(special)
        .build()
        .map_err(|e| format!("tokenizer: {e}"))?;
    tokenizer.with_post_processor(Some(processor));
    Ok(())
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

#[cfg(test)]
mod tests {
    use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
    use candle_core::{DType, Device, Tensor};

    use super::*;

    /// A header as llama.cpp writes that of Gemma 3 of 4B, of one small layer.
    fn gemma(vocabulary: usize) -> Content {
        let embedding = Tensor::zeros((vocabulary, 2), DType::F32, &Device::Cpu).unwrap();
        let embedding = QTensor::quantize(&embedding, GgmlDType::F16).unwrap();
        let number = Value::U32;
        let metadata = [
            ("general.architecture", Value::String("gemma3".into())),
            ("gemma3.block_count", number(1)),
            ("gemma3.context_length", number(131_072)),
            ("gemma3.embedding_length", number(2)),
            ("gemma3.feed_forward_length", number(4)),
            ("gemma3.attention.head_count", number(1)),
            ("gemma3.attention.sliding_window", number(1024)),
            ("gemma3.attention.layer_norm_rms_epsilon", Value::F32(1e-6)),
            ("gemma3.rope.freq_base", Value::F32(1e6)),
            ("gemma3.rope.scaling.type", Value::String("linear".into())),
            ("gemma3.rope.scaling.factor", Value::F32(8.0)),
        ];
        let metadata: Vec<_> = metadata.iter().map(|(key, value)| (*key, value)).collect();
        let mut bytes = std::io::Cursor::new(Vec::new());
        let tensors = [("token_embd.weight", &embedding)];
        gguf_file::write(&mut bytes, &metadata, &tensors).unwrap();
        bytes.set_position(0);
        Content::read(&mut bytes).unwrap()
    }

    #[test]
    fn a_language_part_is_told_by_its_vocabulary() {
        for (vocabulary, language_part) in [(262_208, true), (262_144, false)] {
            let config = config(&gemma(vocabulary)).unwrap();
            assert_eq!(config.vocab_size, vocabulary);
            assert_eq!(config.variant.language_part, language_part);
            let scaling = Some(RopeScaling::Linear { factor: 8.0 });
            assert_eq!(config.rope_scaling, scaling);
            assert_eq!(config.variant.local_rope_theta, Some(10_000.0));
        }
        let gemma2 = Family::of("gemma2").unwrap();
        assert!(!is_language_part(gemma2, 262_208));
    }
}
