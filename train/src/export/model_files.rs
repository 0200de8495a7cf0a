//! The files of a merged model beside its weights.

use std::path::Path;

use burn::tensor::DType;
use model::load;

use crate::error::TrainError;
use crate::prepare::Prepared;

/// Whether the frozen weights come in 32 bits.
pub(super) fn is_f32(prepared: &mut Prepared) -> bool {
    let weight = prepared.weights().tensor("model.norm.weight");
    weight.is_ok_and(|w| w.dtype() == DType::F32)
}

/// Writes everything of a model but its weights: the files that came with it, or ones made from
/// what was read.
pub(super) fn write(
    prepared: &Prepared,
    directory: &Path,
    keep_type: bool,
) -> Result<(), TrainError> {
    // Only beside weights in Hugging Face's layout do these files belong to them.
    let first = prepared.model_files.first().map(|f| &f.path);
    let layout = first.filter(|path| {
        let ending = path.extension().unwrap_or_default();
        ending == "safetensors" || ending == "json"
    });
    let beside = layout.and_then(|path| path.parent());
    for name in [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "generation_config.json",
        "chat_template.jinja",
    ] {
        let to = directory.join(name);
        let from = beside.map(|folder| folder.join(name));
        // A language part becomes a model of its own, of another kind than that of the files.
        let other_kind = name == "config.json" && prepared.model.variant.language_part;
        let from = from.filter(|_| !other_kind);
        if let Some(from) = from.filter(|from| from.is_file()) {
            std::fs::copy(&from, &to).map_err(|e| TrainError::file(&to, e))?;
            if name == "config.json" && !keep_type {
                state_f32(&to)?;
            }
        } else if name == "config.json" {
            let text = format!("{:#}\n", prepared.model.to_json());
            std::fs::write(&to, text).map_err(|e| TrainError::file(&to, e))?;
        } else if name == "tokenizer.json" {
            prepared.tokenizer().save(&to)?;
        }
    }
    if beside.is_none() {
        chat_template(prepared, directory)?;
    }
    Ok(())
}

/// Writes the chat template of a GGUF file as others look for it.
fn chat_template(prepared: &Prepared, directory: &Path) -> Result<(), TrainError> {
    let file = prepared.model_files.first().map(|file| &file.path);
    let Some(gguf) = file.filter(|path| path.extension().is_some_and(|e| e == "gguf")) else {
        return Ok(());
    };
    let Some(chat) = load::chat_source(gguf)? else {
        return Ok(());
    };
    let write = |name: &str, text: &str| {
        let to = directory.join(name);
        std::fs::write(&to, text).map_err(|e| TrainError::file(&to, e))
    };
    write("chat_template.jinja", &chat.template)?;
    let mut tokens = serde_json::json!(chat.special_tokens);
    tokens["tokenizer_class"] = "PreTrainedTokenizerFast".into();
    write("tokenizer_config.json", &format!("{tokens:#}\n"))
}

/// Says in a copied `config.json` that the weights beside it are f32.
fn state_f32(path: &Path) -> Result<(), TrainError> {
    let fail = |e: &dyn std::fmt::Display| TrainError::file(path, e.to_string());
    let text = std::fs::read_to_string(path).map_err(|e| fail(&e))?;
    let mut json: serde_json::Value = serde_json::from_str(&text).map_err(|e| fail(&e))?;
    for key in ["torch_dtype", "dtype"] {
        if json.get(key).is_some() {
            json[key] = "float32".into();
        }
    }
    std::fs::write(path, format!("{json:#}\n")).map_err(|e| fail(&e))
}
