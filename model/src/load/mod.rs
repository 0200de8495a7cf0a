//! Base models from local files. No network here: `data::source` finds the files.

use std::path::{Path, PathBuf};

use burn::tensor::TensorData;

use crate::config::ModelConfig;
use crate::error::ModelError;

pub mod chat;
mod fused;
pub mod gguf;
mod language_part;
mod llama;
pub mod safetensors;
pub mod tiny;

use chat::ChatSource;

/// A source of frozen weights by Hugging Face's names, such as
/// `model.layers.0.self_attn.q_proj.weight`.
pub trait Weights {
    /// Reads one tensor, of any float type, laid out `[d_out, d_in]`.
    ///
    /// # Errors
    /// A name that the source does not have, or a damaged file.
    fn tensor(&mut self, name: &str) -> Result<TensorData, ModelError>;
}

/// A model on disk, opened: everything but the weights is read.
pub struct ModelFiles {
    /// The shape of the decoder.
    pub config: ModelConfig,
    /// The source of the weights.
    pub weights: Box<dyn Weights>,
    /// The tokenizer that came with the weights.
    pub tokenizer: tokenizers::Tokenizer,
}

impl std::fmt::Debug for ModelFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModelFiles")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// Opens a model: a `.gguf` file, or a directory in Hugging Face's layout.
///
/// # Errors
/// Files that are absent, damaged, or of an architecture that is not implemented.
pub fn open(path: &Path) -> Result<ModelFiles, ModelError> {
    let _at_hand = fault::reading(path);
    if path.is_dir() {
        return open_directory(path);
    }
    if path
        .extension()
        .is_some_and(|e| e.eq_ignore_ascii_case("gguf"))
    {
        return gguf::open(path);
    }
    Err(ModelError::Malformed {
        path: path.into(),
        reason: "expected a directory with config.json, tokenizer.json and model.safetensors, or a .gguf file".into(),
    })
}

/// Reads a model's chat template: from a `.gguf` file's header, or from the files in a directory
/// where `transformers` writes it. None where the model has none.
///
/// # Errors
/// Files that cannot be read.
pub fn chat_source(path: &Path) -> Result<Option<ChatSource>, ModelError> {
    match path.is_dir() {
        true => ChatSource::of_directory(path),
        false => gguf::chat_template(path),
    }
}

fn open_directory(path: &Path) -> Result<ModelFiles, ModelError> {
    let config_path = path.join("config.json");
    if !config_path.is_file() {
        return Err(at(path, without_config(path)));
    }
    let text = read_text(&config_path)?;
    let config = ModelConfig::from_json(&text).map_err(|e| match e {
        ModelError::Setting { key, reason } if key == "config.json" => at(&config_path, reason),
        other => at(&config_path, other.to_string()),
    })?;
    let tokenizer_path = path.join("tokenizer.json");
    if !tokenizer_path.is_file() {
        let reason = "holds no tokenizer.json: transformers makes one of what a model has, AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)";
        return Err(at(path, reason));
    }
    let text = read_text(&tokenizer_path)?;
    let tokenizer = tokenizer(|| tokenizers::Tokenizer::from_bytes(text.as_bytes()))
        .map_err(|reason| at(&tokenizer_path, reason))?;
    Ok(ModelFiles {
        weights: weights(path, &config)?,
        config,
        tokenizer,
    })
}

/// What to do with a directory that is no model's.
fn without_config(path: &Path) -> String {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let names: Vec<String> = names.collect();
    let adapter = |name: &String| name.contains("adapter") && name.ends_with(".json");
    let gguf = |name: &&String| name.to_lowercase().ends_with(".gguf");
    match names.iter().find(gguf) {
        _ if names.iter().any(adapter) => {
            "holds an adapter, no model: give it as --adapter, and its base model as --model".into()
        }
        Some(name) => format!("holds no config.json: give the file itself, {name}"),
        None => "holds no config.json: expected a directory with config.json, tokenizer.json and model.safetensors, or a .gguf file".into(),
    }
}

/// The weights of a directory in Hugging Face's layout, each projection by itself, and a language
/// part under the names of a model of its own.
///
/// # Errors
/// As [`safetensors::Safetensors::open`].
pub fn weights(path: &Path, config: &ModelConfig) -> Result<Box<dyn Weights>, ModelError> {
    let weights = safetensors::Safetensors::open(path)?;
    let variant = &config.variant;
    Ok(match (variant.fused_projections, variant.language_part) {
        (true, _) => Box::new(fused::Fused::new(weights, config)),
        (_, true) => Box::new(language_part::LanguagePart(weights)),
        _ => Box::new(weights),
    })
}

/// A tokenizer by a reader of the tokenizers library, which panics on some damaged files.
fn tokenizer<E: std::fmt::Display>(
    read: impl FnOnce() -> Result<tokenizers::Tokenizer, E>,
) -> Result<tokenizers::Tokenizer, String> {
    undamaged(read)?.map_err(|e| e.to_string())
}

/// What a reader of a library finds that panics on some damaged files.
fn undamaged<T>(read: impl FnOnce() -> T) -> Result<T, String> {
    fault::caught(read).map_err(|panic| format!("is damaged ({panic}): fetch it again"))
}

pub(crate) fn read_text(path: &Path) -> Result<String, ModelError> {
    std::fs::read_to_string(path).map_err(|source| ModelError::Io {
        path: path.into(),
        source,
    })
}

pub(crate) fn at(path: &Path, reason: impl Into<String>) -> ModelError {
    ModelError::Malformed {
        path: PathBuf::from(path),
        reason: reason.into(),
    }
}
