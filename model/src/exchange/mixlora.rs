//! Mixtures with placement `ffn` in the format of the public MixLoRA code: `adapter_config.json`
//! with `peft_type` MIXLORA, and `adapter_model.bin`.

use std::collections::BTreeSet;
use std::path::Path;

use burn::tensor::TensorData;
use serde_json::{Value, json};

use super::{
    Adapter, Tensors, count, count_or, flag, number, read_tensors, refuse, shape, share_or, slice,
    stacked, take, torch, transposed, write_json,
};
use crate::adapter::{
    AdapterConfig, LoraConfig, MixLoraConfig, MixtureWeights, Placement, TargetModule,
};
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::load::at;

/// The dropout that is written. The public code (mixlora 0.2.3) keeps its experts in a plain
/// dictionary, so `eval()` does not reach their dropout, and it refuses 0. A vanishing dropout
/// makes its answers exact.
const DROPOUT: f64 = 1e-12;

/// Checks that the public MixLoRA code computes what an adapter does.
///
/// # Errors
/// An adapter for which the public code would compute something else.
pub fn serves(mix: &MixLoraConfig) -> Result<(), ModelError> {
    let lora = &mix.lora;
    let patterns = !(lora.rank_pattern.is_empty() && lora.alpha_pattern.is_empty());
    let wrong = match (mix.placement, mix.mixture_weights) {
        _ if patterns => "it has one rank and one alpha for all (no rank_pattern, alpha_pattern)",
        (Placement::All, _) => {
            "experts in every projection (adapter.placement = all) have no place in it"
        }
        (_, MixtureWeights::Renormalized) => return Ok(()),
        (_, _) => "it renormalises the mixture's weights",
    };
    let reason = format!("{wrong}: export with --format uq4ct");
    Err(ModelError::setting("the MixLoRA layout", reason))
}

/// Families of which the public code (mixlora 0.2.3) makes what is meant here. It knows Gemma 2 and
/// Phi-3, too, but not their activation or their joint matrices as they are here.
const FAMILIES: [&str; 3] = ["llama", "mistral", "qwen2"];

/// Checks that the public MixLoRA code knows a base model.
///
/// # Errors
/// A family of which it would make something else, or nothing.
pub fn knows(base: &ModelConfig) -> Result<(), ModelError> {
    match FAMILIES.contains(&&*base.model_type) {
        true => Ok(()),
        false => Err(ModelError::setting(
            "the MixLoRA layout",
            format!(
                "takes base models of the families {}, not {}: export with --format uq4ct",
                FAMILIES.join(", "),
                base.model_type
            ),
        )),
    }
}

/// Writes a mixture with placement `ffn`.
///
/// # Errors
/// An adapter that [`serves`] refuses, a base model that [`knows`] refuses, or a file that cannot
/// be written.
pub fn write(
    directory: &Path,
    mix: &MixLoraConfig,
    tensors: &Tensors,
    base_model: &str,
    base: &ModelConfig,
) -> Result<(), ModelError> {
    serves(mix)?;
    knows(base)?;
    let names: Vec<&str> = mix.targets().map(TargetModule::name).collect();
    let settings = json!({
        "peft_type": "MIXLORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "bias": "none",
        "r": mix.lora.rank,
        // The public code asks for a whole number.
        "lora_alpha": whole(mix.lora.alpha)?,
        "use_rslora": mix.lora.use_rslora,
        "lora_dropout": DROPOUT,
        "target_modules": names,
        "routing_strategy": "mixlora",
        "num_experts": mix.num_experts,
        "top_k": mix.top_k,
        "router_init_range": mix.router_init_std,
        // Without it, the public code finds no activation.
        "act_fn": "silu",
    });
    write_json(&directory.join("adapter_config.json"), &settings)?;
    let their_tensors = their_tensors(tensors, mix.num_experts);
    torch::write(&directory.join("adapter_model.bin"), &their_tensors)
}

/// The tensors by the names of the public MixLoRA code.
fn their_tensors(tensors: &Tensors, experts: usize) -> Tensors {
    let mut theirs = Tensors::new();
    for (name, data) in tensors {
        let Some((module, matrix)) = name.rsplit_once('.') else {
            continue;
        };
        let matrix = match matrix {
            "mlp_router" => {
                let name = format!("mixlora.{module}.mlp.moe_gate.weight");
                theirs.insert(name, transposed(data));
                continue;
            }
            "lora_a" => "lora_A",
            _ => "lora_B",
        };
        if shape(data).len() == 2 {
            let name = format!("mixlora.{module}.{matrix}.weight");
            theirs.insert(name, transposed(data));
            continue;
        }
        for expert in 0..experts {
            let name = format!("mixlora.{module}.experts.{expert}.{matrix}.weight");
            theirs.insert(name, transposed(&slice(data, expert)));
        }
    }
    theirs
}

/// A whole alpha, which is all that the format can hold.
fn whole(alpha: f64) -> Result<u64, ModelError> {
    match alpha.fract() == 0.0 {
        true => Ok(alpha as u64),
        false => Err(ModelError::setting(
            "adapter.alpha",
            format!("the MixLoRA layout takes whole numbers, got {alpha}"),
        )),
    }
}

/// Reads a mixture with placement `ffn`, given its `adapter_config.json`.
///
/// # Errors
/// A variant that is not implemented, or files that are damaged or lack a tensor.
pub fn read(directory: &Path, config: &Value) -> Result<Adapter, ModelError> {
    let path = directory.join("adapter_config.json");
    refuse(
        &path,
        config,
        &[
            ("routing_strategy", json!("mixlora")),
            ("use_dora", json!(false)),
            ("bias", json!("none")),
            ("act_fn", json!("silu")),
            ("jitter_noise", json!(0.0)),
        ],
    )?;
    let rank = count(&path, config, "r")?;
    let alpha = number(&path, config, "lora_alpha")?;
    for (key, own) in [("r", rank as f64), ("lora_alpha", alpha)] {
        if config["expert_lora"][key]
            .as_f64()
            .is_some_and(|n| n != own)
        {
            return Err(at(
                &path,
                format!("expert_lora.{key} differs from {key}: it is not implemented"),
            ));
        }
    }
    let experts = count(&path, config, "num_experts")?;
    let targets = targets(&path, &config["target_modules"])?;
    let mut found = read_tensors(directory)?;
    let tensors = own_tensors(&mut found, &targets, experts)?;
    let lora = LoraConfig {
        rank,
        alpha,
        dropout: share_or(&path, config, "lora_dropout", 0.0)?,
        target_modules: targets.into(),
        use_rslora: flag(&path, config, "use_rslora")?,
        ..LoraConfig::default()
    };
    if let Some(other) = found.keys().next() {
        return Err(at(&path, format!("`{other}` is not implemented")));
    }
    Ok(Adapter {
        config: AdapterConfig::MixLora(MixLoraConfig {
            lora,
            num_experts: experts,
            top_k: count_or(&path, config, "top_k", 2)?,
            placement: Placement::Ffn,
            mixture_weights: MixtureWeights::Renormalized,
            router_init_std: share_or(&path, config, "router_init_range", 0.02)?,
        }),
        tensors,
        base_model: config["base_model_name_or_path"].as_str().map(Into::into),
    })
}

/// A list of names, or a table of names and truth values.
fn targets(path: &Path, value: &Value) -> Result<BTreeSet<TargetModule>, ModelError> {
    let names: Vec<&str> = match value {
        Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
        Value::Object(table) => {
            let wanted = table.iter().filter(|(_, wanted)| **wanted == json!(true));
            wanted.map(|(name, _)| name.as_str()).collect()
        }
        other => {
            return Err(at(
                path,
                format!("target_modules: expected a list, got {other}"),
            ));
        }
    };
    names
        .into_iter()
        .map(|name| {
            let known = TargetModule::ALL.into_iter().find(|t| t.name() == name);
            known.ok_or_else(|| at(path, format!("target_modules: {name} is not implemented")))
        })
        .collect()
}

/// The tensors by this project's names, taken out of those that were found.
fn own_tensors(
    found: &mut Tensors,
    targets: &BTreeSet<TargetModule>,
    experts: usize,
) -> Result<Tensors, ModelError> {
    let mut own = Tensors::new();
    for layer in 0.. {
        let gate = format!("mixlora.layers.{layer}.mlp.moe_gate.weight");
        let Some(gate) = found.remove(&gate) else {
            break;
        };
        own.insert(format!("layers.{layer}.mlp_router"), transposed(&gate));
        for target in targets {
            let module = format!("layers.{layer}.{}", target.path());
            for (theirs, ours) in [("lora_A", "lora_a"), ("lora_B", "lora_b")] {
                let data = match target.is_mlp() {
                    false => {
                        transposed(&take(found, &format!("mixlora.{module}.{theirs}.weight"))?)
                    }
                    true => experts_of(found, &module, theirs, experts)?,
                };
                own.insert(format!("{module}.{ours}"), data);
            }
        }
    }
    Ok(own)
}

/// One matrix of a module for each expert, as a stack.
fn experts_of(
    found: &mut Tensors,
    module: &str,
    matrix: &str,
    experts: usize,
) -> Result<TensorData, ModelError> {
    let parts: Vec<_> = (0..experts)
        .map(|expert| {
            let name = format!("mixlora.{module}.experts.{expert}.{matrix}.weight");
            Ok(transposed(&take(found, &name)?))
        })
        .collect::<Result<_, ModelError>>()?;
    stacked(&format!("mixlora.{module}.experts.{matrix}"), &parts)
}
