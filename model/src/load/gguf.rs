//! GGUF files, through candle-core's reader, which bounds every length by the file's size. The row
//! permutation of llama's q and k is undone, and the tokenizer is rebuilt.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use burn::tensor::TensorData;
use candle_core::Device;
use candle_core::quantized::gguf_file::Content;

use super::chat::ChatSource;
use super::{ModelFiles, Weights, at};
use crate::config::ModelConfig;
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
    /// llama. Those of other families are as they were.
    permuted: bool,
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
        permuted: config.model_type == "llama",
        content,
    };
    if weights.content.tensor_infos.contains_key(ROPE_DIVISORS) {
        let (_, divisors) = weights.read(ROPE_DIVISORS)?;
        header::with_rope_divisors(&mut config, divisors);
    }
    Ok(ModelFiles {
        config: config.validated().map_err(invalid)?,
        weights: Box::new(weights),
        tokenizer,
    })
}

/// Llama 3's rotary scaling: what each frequency is divided by.
const ROPE_DIVISORS: &str = "rope_freqs.weight";

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
    let content = Content::read(&mut file).map_err(|e| at(path, reason(e)))?;
    Ok((file, content))
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

/// llama.cpp's name of a Hugging Face weight.
fn gguf_name(name: &str) -> Option<String> {
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
        "input_layernorm" => "attn_norm",
        "post_attention_layernorm" => "ffn_norm",
        "self_attn.q_norm" => "attn_q_norm",
        "self_attn.k_norm" => "attn_k_norm",
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.o_proj" => "attn_output",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" => "ffn_up",
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
        let stored = gguf_name(name)
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
            None => values,
        };
        Ok(TensorData::new(values, shape))
    }
}

impl Gguf {
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
        assert_eq!(
            gguf_name("model.layers.3.mlp.down_proj.weight").as_deref(),
            Some("blk.3.ffn_down.weight")
        );
        assert_eq!(gguf_name("model.layers.x"), None);
    }
}
