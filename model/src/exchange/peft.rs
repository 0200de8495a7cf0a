//! Plain LoRA in the format of Hugging Face's `peft`: `adapter_config.json` and
//! `adapter_model.safetensors`. There, A is `[r, d_in]` and B `[d_out, r]`.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};

use super::{
    Adapter, Tensors, number, read_tensors, refuse, shape, transposed, write_json,
    write_safetensors,
};
use crate::adapter::{AdapterConfig, LoraConfig, TargetModule};
use crate::error::ModelError;
use crate::load::at;

const PREFIX: &str = "base_model.model.model.";

/// Names of initialisations that leave the base weights alone.
const PLAIN_STARTS: [&str; 3] = ["gaussian", "eva", "orthogonal"];

/// Writes a plain LoRA in the format of `peft`.
///
/// # Errors
/// A file that cannot be written.
pub fn write(
    directory: &Path,
    config: &LoraConfig,
    tensors: &Tensors,
    base_model: &str,
) -> Result<(), ModelError> {
    let names: Vec<&str> = config.target_modules.iter().map(|t| t.name()).collect();
    let settings = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "target_modules": names,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
    });
    write_json(&directory.join("adapter_config.json"), &settings)?;
    let turned = tensors
        .iter()
        .filter_map(|(name, data)| {
            let (module, matrix) = name.rsplit_once('.')?;
            let matrix = match matrix {
                "lora_a" => "lora_A",
                "lora_b" => "lora_B",
                _ => return None,
            };
            Some((
                format!("{PREFIX}{module}.{matrix}.weight"),
                transposed(data),
            ))
        })
        .collect();
    let path = directory.join("adapter_model.safetensors");
    write_safetensors(&path, &turned, &[("format", "pt".into())])
}

/// Reads a plain LoRA in the format of `peft`, given its `adapter_config.json`.
///
/// # Errors
/// A variant that is not implemented (DoRA, biases, ranks that differ, other modules), or a damaged
/// file.
pub fn read(directory: &Path, config: &Value) -> Result<Adapter, ModelError> {
    let path = directory.join("adapter_config.json");
    refuse_variants(&path, config)?;
    let rank = number(&path, config, "r")?;
    let alpha = number(&path, config, "lora_alpha")?;
    let (target_modules, tensors) = own_tensors(&path, read_tensors(directory)?)?;
    let lora = LoraConfig {
        rank: rank as usize,
        // Rank-stabilised LoRA scales by alpha / sqrt(r).
        alpha: match config["use_rslora"].as_bool() {
            Some(true) => alpha * rank.sqrt(),
            _ => alpha,
        },
        dropout: config["lora_dropout"].as_f64().unwrap_or(0.0),
        target_modules,
        posterior_std: None,
    };
    Ok(Adapter {
        config: AdapterConfig::Lora(lora),
        tensors,
        base_model: config["base_model_name_or_path"].as_str().map(Into::into),
    })
}

/// Refuses the variants of LoRA that are not implemented.
fn refuse_variants(path: &Path, config: &Value) -> Result<(), ModelError> {
    refuse(
        path,
        config,
        &[
            ("use_dora", json!(false)),
            ("bias", json!("none")),
            ("fan_in_fan_out", json!(false)),
            ("rank_pattern", json!({})),
            ("alpha_pattern", json!({})),
            ("modules_to_save", json!(null)),
            ("lora_bias", json!(false)),
            ("alora_invocation_tokens", json!(null)),
            ("target_parameters", json!(null)),
            ("layer_replication", json!(null)),
            ("layers_to_transform", json!(null)),
        ],
    )?;
    // PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA change the base weights when they are loaded. The
    // others say how a training began, which changes nothing afterwards.
    let start = &config["init_lora_weights"];
    match start {
        Value::Null | Value::Bool(_) => Ok(()),
        Value::String(name) if PLAIN_STARTS.contains(&name.as_str()) => Ok(()),
        _ => Err(at(
            path,
            format!(
                "init_lora_weights = {start} is not implemented, since it may change the base weights: convert the adapter to a plain LoRA (expected true, false, {})",
                PLAIN_STARTS.join(", ")
            ),
        )),
    }
}

/// The tensors by this project's names, and the projections that they adapt; `path` is for the
/// error.
fn own_tensors(
    path: &Path,
    theirs: Tensors,
) -> Result<(BTreeSet<TargetModule>, Tensors), ModelError> {
    let (mut targets, mut tensors) = (BTreeSet::new(), Tensors::new());
    for (name, data) in theirs {
        let (own, target) = own_name(&name).ok_or_else(|| {
            let reason = format!(
                "`{name}` is no LoRA of a projection of a decoder layer: it is not implemented"
            );
            at(path, reason)
        })?;
        if shape(&data).len() != 2 {
            return Err(at(path, format!("`{name}`: expected a matrix")));
        }
        targets.insert(target);
        tensors.insert(own, transposed(&data));
    }
    Ok((targets, tensors))
}

/// This project's name (`layers.0.self_attn.q_proj.lora_a`) for a name of `peft`, and the
/// projection.
fn own_name(name: &str) -> Option<(String, TargetModule)> {
    let inner = name.strip_prefix(PREFIX)?.strip_suffix(".weight")?;
    let inner = inner.strip_suffix(".default").unwrap_or(inner);
    let (module, matrix) = inner.rsplit_once('.')?;
    let matrix = match matrix {
        "lora_A" => "lora_a",
        "lora_B" => "lora_b",
        _ => return None,
    };
    let target = TargetModule::ALL
        .into_iter()
        .find(|t| module.ends_with(t.path()))?;
    let layer = module
        .strip_prefix("layers.")?
        .strip_suffix(target.path())?;
    layer.strip_suffix('.')?.parse::<usize>().ok()?;
    Some((format!("{module}.{matrix}"), target))
}
