//! GGUF files, through candle-core's reader, which bounds every length by the file's size. The row
//! permutation of llama's q and k is undone, and the tokenizer is rebuilt.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use burn::tensor::TensorData;
use candle_core::Device;
use candle_core::quantized::gguf_file::Content;

use super::chat::ChatSource;
use super::fused::Fused;
use super::{ModelFiles, Weights, at, undamaged};
use crate::config::{ModelConfig, NormNames, RopeScaling};
use crate::error::ModelError;

mod header;
mod sentence_piece;

/// The weights of a GGUF file, dequantised to f32 one tensor at a time.
pub struct Gguf {
    path: PathBuf,
    file: BufReader<File>,
    content: Content,
    heads: usize,
    key_value_heads: usize,
    /// Whether the rows of q and k are in interleaved rotary order, as llama.cpp stores those of
    /// llama and of what descends from it. Those of other families are as they were.
    permuted: bool,
    /// Names of the layers' norms.
    norms: NormNames,
    /// Whether 1 was added to the weights of norms.
    unit_added: bool,
}

/// Opens a GGUF file of an architecture that [`FAMILIES`](crate::config::FAMILIES) names.
///
/// # Errors
/// A damaged header, another architecture, a quantisation that is not implemented, or a tokenizer
/// that cannot be rebuilt.
pub fn open(path: &Path) -> Result<ModelFiles, ModelError> {
    let (file, content) = read_header(path)?;
    let invalid = |e: ModelError| at(path, e.to_string());
    let mut config = header::config(&content)
        .and_then(ModelConfig::validated)
        .map_err(invalid)?;
    let tokenizer = match header::has_sentence_piece(&content) {
        true => super::tokenizer(|| sentence_piece::tokenizer(&content)),
        false => header::tokenizer(&content),
    };
    let tokenizer = tokenizer.map_err(|e| at(path, e))?;
    let mut weights = Gguf {
        path: path.into(),
        file,
        heads: config.num_attention_heads,
        key_value_heads: config.num_key_value_heads,
        permuted: ["llama", "smollm3", "granite"].contains(&config.model_type.as_str()),
        norms: config.variant.norm_names(),
        unit_added: config.variant.unit_offset,
        content,
    };
    config.rope_scaling = weights.rope_divisors(&config)?.or(config.rope_scaling);
    let config = config.validated().map_err(invalid)?;
    Ok(ModelFiles {
        weights: match config.variant.fused_projections {
            true => Box::new(Fused::new(weights, &config)),
            false => Box::new(weights),
        },
        config,
        tokenizer,
    })
}

/// Llama 3's rotary scaling: what each frequency is divided by.
const ROPE_DIVISORS: &str = "rope_freqs.weight";

/// LongRoPE's, within the trained context and beyond it.
const LONG_ROPE: [&str; 2] = ["rope_factors_short.weight", "rope_factors_long.weight"];

/// The chat template in a GGUF file's header, if there is one.
///
/// # Errors
/// A damaged header.
pub(super) fn chat_template(path: &Path) -> Result<Option<ChatSource>, ModelError> {
    let (_, content) = read_header(path)?;
    Ok(header::chat_template(&content))
}

fn read_header(path: &Path) -> Result<(BufReader<File>, Content), ModelError> {
    let file = File::open(path).map_err(|source| ModelError::Io {
        path: path.into(),
        source,
    })?;
    let mut file = BufReader::new(file);
    // candle-core divides by an alignment of 0.
    let content = undamaged(|| Content::read(&mut file)).map_err(|reason| at(path, reason))?;
    let content = content.map_err(|e| at(path, in_header(reason(e))))?;
    Ok((file, content))
}

/// What is wrong with a header, where candle-core names a type of tensors by its number alone.
fn in_header(reason: String) -> String {
    // Numbers of ggml's types that candle-core does not read.
    const TYPES: [(&str, &str); 12] = [
        ("16", "IQ2_XXS"),
        ("17", "IQ2_XS"),
        ("18", "IQ3_XXS"),
        ("19", "IQ1_S"),
        ("20", "IQ4_NL"),
        ("21", "IQ3_S"),
        ("22", "IQ2_S"),
        ("23", "IQ4_XS"),
        ("29", "IQ1_M"),
        ("34", "TQ1_0"),
        ("35", "TQ2_0"),
        ("39", "MXFP4"),
    ];
    let Some(number) = reason.strip_prefix("unknown dtype for tensor ") else {
        return reason;
    };
    let known = TYPES.iter().find(|(other, _)| *other == number.trim());
    let name = known.map_or_else(|| format!("number {number}"), |(_, name)| (*name).into());
    format!(
        "holds tensors of the type {name}, which is not implemented: take a file of F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K or Q6_K"
    )
}

/// What candle-core says, without the trace of its stack that `RUST_BACKTRACE=1` puts into it:
/// writing that out takes tens of megabytes.
fn reason(error: candle_core::Error) -> String {
    match error {
        candle_core::Error::WithBacktrace { inner, .. } => reason(*inner),
        plain => plain.to_string(),
    }
}

/// The error for a weight that the file does not have.
fn missing(content: &Content, name: &str) -> ModelError {
    ModelError::MissingWeight {
        name: name.into(),
        present: content.tensor_infos.len(),
        example: content
            .tensor_infos
            .keys()
            .min()
            .cloned()
            .unwrap_or_default(),
    }
}

/// llama.cpp's name of a Hugging Face weight of a model with these norms.
fn gguf_name(name: &str, norms: &NormNames) -> Option<String> {
    let outside = [
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("model.norm.weight", "output_norm.weight"),
        ("lm_head.weight", "output.weight"),
    ];
    if let Some((_, found)) = outside.iter().find(|(from, _)| *from == name) {
        return Some((*found).into());
    }
    let (layer, part) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let (part, kind) = part.rsplit_once('.')?;
    let part = match part {
        _ if Some(part) == norms.attention_input => "attn_norm",
        _ if Some(part) == norms.attention_output => "post_attention_norm",
        _ if Some(part) == norms.mlp_input => "ffn_norm",
        _ if Some(part) == norms.mlp_output => "post_ffw_norm",
        "self_attn.q_norm" => "attn_q_norm",
        "self_attn.k_norm" => "attn_k_norm",
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.qkv_proj" => "attn_qkv",
        "self_attn.o_proj" => "attn_output",
        "mlp.gate_proj" => "ffn_gate",
        // Gate and up in one, where they are.
        "mlp.up_proj" | "mlp.gate_up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        _ => return None,
    };
    Some(format!("blk.{layer}.{part}.{kind}"))
}

/// Undoes `convert_hf_to_gguf`'s permutation: rows `(pair, half)` of a head back to `(half, pair)`.
fn unpermute(values: &[f32], rows: usize, columns: usize, heads: usize) -> Vec<f32> {
    let head = rows / heads;
    let half = head / 2;
    let mut out = Vec::with_capacity(values.len());
    for row in 0..rows {
        let (h, inside) = (row / head, row % head);
        let (part, pair) = (inside / half, inside % half);
        let from = h * head + pair * 2 + part;
        out.extend_from_slice(&values[from * columns..][..columns]);
    }
    out
}

impl Weights for Gguf {
    fn tensor(&mut self, name: &str) -> Result<TensorData, ModelError> {
        let _at_hand = fault::reading(&self.path);
        let stored = gguf_name(name, &self.norms)
            .filter(|stored| self.content.tensor_infos.contains_key(stored))
            .ok_or_else(|| missing(&self.content, name))?;
        let (shape, values) = self.read(&stored)?;
        let fail = |reason: String| at(&self.path, format!("{stored}: {reason}"));
        let heads = match name {
            _ if !self.permuted => None,
            _ if name.contains("q_proj") => Some(self.heads),
            _ if name.contains("k_proj") => Some(self.key_value_heads),
            _ => None,
        };
        if shape.is_empty() || shape.len() > 2 {
            return Err(fail(format!(
                "expected one or two dimensions, got {shape:?}"
            )));
        }
        let (rows, columns) = (shape[0], shape.get(1).copied().unwrap_or(1));
        let values = match heads {
            Some(heads) if rows.is_multiple_of(2 * heads) => {
                unpermute(&values, rows, columns, heads)
            }
            Some(heads) => {
                return Err(fail(format!(
                    "{rows} rows do not divide into {heads} heads"
                )));
            }
            None if self.unit_added && name.ends_with("norm.weight") => {
                values.into_iter().map(|value| value - 1.0).collect()
            }
            None => values,
        };
        Ok(TensorData::new(values, shape))
    }
}

impl Gguf {
    /// The rotary scaling that the file holds as tensors, if it does.
    fn rope_divisors(&mut self, config: &ModelConfig) -> Result<Option<RopeScaling>, ModelError> {
        let has = |name: &str| self.content.tensor_infos.contains_key(name);
        let (names, long) = match (has(ROPE_DIVISORS), LONG_ROPE.into_iter().all(has)) {
            (true, _) => ([ROPE_DIVISORS; 2], false),
            (_, true) => (LONG_ROPE, true),
            _ => return Ok(None),
        };
        let mut read = |name: &str| -> Result<Vec<f64>, ModelError> {
            let (_, divisors) = self.read(name)?;
            Ok(divisors.into_iter().map(f64::from).collect())
        };
        let [short_factor, long_factor] = [read(names[0])?, read(names[1])?];
        let (original_max_position_embeddings, attention_factor) = match long {
            true => header::long_rope(&self.content, config),
            false => (config.max_position_embeddings as f64, 1.0),
        };
        Ok(Some(RopeScaling::LongRope {
            short_factor,
            long_factor,
            original_max_position_embeddings,
            attention_factor,
        }))
    }

    /// Shape and values of a stored tensor, dequantised.
    fn read(&mut self, stored: &str) -> Result<(Vec<usize>, Vec<f32>), ModelError> {
        let info = &self.content.tensor_infos[stored];
        let shape: Vec<usize> = info.shape.dims().to_vec();
        let fail = |reason: String| at(&self.path, format!("{stored}: {reason}"));
        // A hostile shape may overflow the product that candle-core takes.
        let count = shape
            .iter()
            .try_fold(1usize, |n, &side| n.checked_mul(side));
        if count.is_none_or(|n| n > 1 << 40) {
            return Err(fail(format!("shape {shape:?} is beyond any model")));
        }
        let values = info
            .read(
                &mut self.file,
                self.content.tensor_data_offset,
                &Device::Cpu,
            )
            .and_then(|q| q.dequantize(&Device::Cpu))
            .and_then(|t| t.flatten_all())
            .and_then(|t| t.to_vec1::<f32>())
            .map_err(|e| fail(reason(e)))?;
        Ok((shape, values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{NormPlacement, Variant};

    #[test]
    fn unpermute_undoes_the_converter() {
        // Two heads of four rows, one column. The converter maps (half, pair) to (pair, half): rows
        // 0 1 2 3 become 0 2 1 3.
        let stored = [0., 2., 1., 3., 4., 6., 5., 7.];
        assert_eq!(
            unpermute(&stored, 8, 1, 2),
            [0., 1., 2., 3., 4., 5., 6., 7.]
        );
    }

    #[test]
    fn names_are_mapped() {
        let names = |norms| Variant {
            norms,
            ..Variant::default()
        };
        let of = |name: &str, norms| gguf_name(name, &names(norms).norm_names());
        assert_eq!(
            of("model.layers.3.mlp.down_proj.weight", NormPlacement::Before).as_deref(),
            Some("blk.3.ffn_down.weight")
        );
        let norm = "model.layers.0.post_attention_layernorm.weight";
        for (norms, stored) in [
            (NormPlacement::Before, "blk.0.ffn_norm.weight"),
            (NormPlacement::After, "blk.0.post_attention_norm.weight"),
            (NormPlacement::Around, "blk.0.post_attention_norm.weight"),
        ] {
            assert_eq!(of(norm, norms).as_deref(), Some(stored));
        }
        assert_eq!(of("model.layers.x", NormPlacement::Before), None);
    }
}
