//! LoRA in the format of Hugging Face's `peft`: `adapter_config.json` and
//! `adapter_model.safetensors`. There, A is `[r, d_in]` and B `[d_out, r]`.
//!
//! PiSSA is written as a plain LoRA of twice the rank, `[A | A_0] [B | -B_0]`, as peft itself
//! converts it: it then stands on the whole base model. Projections that a model's files hold as
//! one are one module there, too: its B has a block for each. The language part of a model that
//! also sees has its name in the names of its modules.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use burn::tensor::TensorData;
use serde_json::{Value, json};

use super::{
    Adapter, Tensors, count, flag, floats, number, read_tensors, refuse, shape, share_or,
    transposed, write_json, write_safetensors,
};
use crate::adapter::{
    AdapterConfig, ByName, FusedModule, InitialWeights, LoraConfig, Shape, TargetModule, Targets,
};
use crate::config::{MOST_LAYERS, ModelConfig};
use crate::error::ModelError;
use crate::load::at;

/// What stands before the name of a layer.
const PREFIX: &str = "base_model.model.model.";

/// The same in a model that also sees.
const LANGUAGE_PART: &str = "base_model.model.model.language_model.";

/// The same as transformers named it before 4.52.
const OLD_LANGUAGE_PART: &str = "base_model.model.language_model.model.";

/// Parts of a model that sees whose adapters change no answer to a text.
const OTHER_PARTS: [&str; 2] = ["vision_tower.", "multi_modal_projector."];

/// Names of initialisations that leave the base weights alone.
const PLAIN_STARTS: [&str; 3] = ["gaussian", "eva", "orthogonal"];

/// One module's LoRA in peft's layout.
struct Module {
    /// `[r, d_in]`, rows one after another.
    a: Vec<f32>,
    d_in: usize,
    /// `[d_out, r]`, rows one after another.
    b: Vec<f32>,
    d_out: usize,
    magnitude: Option<Vec<f32>>,
    shape: Shape,
}

/// Writes a LoRA of a base model in the format of `peft`.
///
/// # Errors
/// Magnitudes of a part of what the base model's files hold as one, or a file that cannot be
/// written.
pub fn write(
    directory: &Path,
    config: &LoraConfig,
    tensors: &Tensors,
    base_model: &str,
    base: &ModelConfig,
) -> Result<(), ModelError> {
    let fused = base.variant.fused_projections;
    let language_part = base.variant.language_part;
    let mut modules = modules(config, tensors)?;
    if fused {
        modules = joined(modules, base)?;
    }
    let mut settings = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "target_modules": config.target_modules,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
    });
    if config.use_dora {
        settings["use_dora"] = true.into();
    }
    // The settings name projections as they are here: in a model with other names they would mean
    // other modules, such as those of the vision part.
    if fused || language_part || config.init_lora_weights.is_pissa() {
        state_shapes(&mut settings, &modules);
        let in_every_layer = config.target_modules.modules().is_some();
        if language_part {
            settings["target_modules"] = in_language_part(&modules, in_every_layer);
        } else if fused || !in_every_layer {
            settings["target_modules"] = named(&modules, in_every_layer);
        }
    } else {
        if config.use_rslora {
            settings["use_rslora"] = true.into();
        }
        if !config.rank_pattern.is_empty() {
            settings["rank_pattern"] = json!(config.rank_pattern);
        }
        if !config.alpha_pattern.is_empty() {
            settings["alpha_pattern"] = json!(config.alpha_pattern);
        }
    }
    write_json(&directory.join("adapter_config.json"), &settings)?;
    let mut theirs = Tensors::new();
    let prefix = if language_part { LANGUAGE_PART } else { PREFIX };
    for (name, module) in modules {
        let (rank, at) = (module.shape.rank, format!("{prefix}{name}"));
        let a = TensorData::new(module.a, [rank, module.d_in]);
        let b = TensorData::new(module.b, [module.d_out, rank]);
        theirs.insert(format!("{at}.lora_A.weight"), a);
        theirs.insert(format!("{at}.lora_B.weight"), b);
        if let Some(magnitude) = module.magnitude {
            let data = TensorData::new(magnitude, [module.d_out]);
            theirs.insert(format!("{at}.lora_magnitude_vector"), data);
        }
    }
    let path = directory.join("adapter_model.safetensors");
    write_safetensors(&path, &theirs, &[("format", "pt".into())])
}

/// Every adapted module by its name, `layers.0.self_attn.q_proj`.
fn modules(config: &LoraConfig, tensors: &Tensors) -> Result<BTreeMap<String, Module>, ModelError> {
    let mut modules = BTreeMap::new();
    let adapted = tensors.keys().filter_map(|k| k.strip_suffix(".lora_a"));
    for name in adapted {
        let part = |matrix: &str| tensors.get(&format!("{name}.{matrix}"));
        let place = place(name).and_then(|(layer, targets)| config.on(layer, *targets.first()?));
        let (Some(a), Some(b), Some(shape)) = (part("lora_a"), part("lora_b"), place) else {
            let reason = format!("`{name}` is no LoRA of a projection of these settings");
            return Err(ModelError::setting("adapter", reason));
        };
        let (a, b) = (transposed(a), transposed(b));
        let mut module = Module {
            d_in: super::shape(&a)[1],
            d_out: super::shape(&b)[0],
            a: floats(&a),
            b: floats(&b),
            magnitude: part("magnitude").map(floats),
            shape,
        };
        if let (Some(a), Some(b)) = (part("initial_a"), part("initial_b")) {
            let mut b = floats(&transposed(b));
            b.iter_mut().for_each(|value| *value = -*value);
            module.a.extend(floats(&transposed(a)));
            module.b = beside(&module.b, &b, module.d_out);
            module.shape.rank *= 2;
        }
        modules.insert(name.to_owned(), module);
    }
    Ok(modules)
}

/// Two matrices of so many rows beside each other.
fn beside(left: &[f32], right: &[f32], rows: usize) -> Vec<f32> {
    let (l, r) = (left.len() / rows, right.len() / rows);
    let rows = left.chunks_exact(l).zip(right.chunks_exact(r));
    rows.flat_map(|(l, r)| [l, r].concat()).collect()
}

/// The modules with those that the base model's files hold as one put together.
fn joined(
    mut modules: BTreeMap<String, Module>,
    base: &ModelConfig,
) -> Result<BTreeMap<String, Module>, ModelError> {
    for layer in 0..base.num_hidden_layers {
        for fused in FusedModule::ALL {
            let parts: Vec<(TargetModule, Option<Module>)> = fused
                .parts()
                .iter()
                .map(|part| {
                    (
                        *part,
                        modules.remove(&format!("layers.{layer}.{}", part.path())),
                    )
                })
                .collect();
            if let Some(module) = join(fused, &parts, base)? {
                modules.insert(format!("layers.{layer}.{}", fused.path()), module);
            }
        }
    }
    Ok(modules)
}

/// The parts of a fused matrix as one module, if any of them is adapted.
fn join(
    fused: FusedModule,
    parts: &[(TargetModule, Option<Module>)],
    base: &ModelConfig,
) -> Result<Option<Module>, ModelError> {
    let mut adapted = parts.iter().filter_map(|(_, module)| module.as_ref());
    let Some(first) = adapted.next() else {
        return Ok(None);
    };
    let d_out = |target: TargetModule| target.sizes(base)[1];
    let whole = parts.iter().all(|(_, module)| module.is_some());
    if first.magnitude.is_some() && !whole {
        return Err(ModelError::setting(
            "adapter.target_modules",
            format!(
                "the base model's files hold {name} as one matrix, and DoRA is of a part of it: name all of {name}, or export with --format uq4ct",
                name = fused.name()
            ),
        ));
    }
    // One that was read from peft has the same A everywhere: then it is written as it was.
    let shared = whole && adapted.all(|other| other.a == first.a && other.shape == first.shape);
    let present = || parts.iter().filter_map(|(_, module)| module.as_ref());
    let rank = match shared {
        true => first.shape.rank,
        false => present().map(|module| module.shape.rank).sum(),
    };
    let mut joined = Module {
        a: match shared {
            true => first.a.clone(),
            false => present().flat_map(|module| module.a.clone()).collect(),
        },
        d_in: first.d_in,
        b: Vec::new(),
        d_out: 0,
        magnitude: first.magnitude.as_ref().map(|_| Vec::new()),
        shape: Shape {
            rank,
            scaling: first.shape.scaling,
        },
    };
    let mut column = 0;
    for (target, module) in parts {
        joined.d_out += d_out(*target);
        let Some(module) = module else {
            joined.b.extend(vec![0.0; d_out(*target) * rank]);
            continue;
        };
        let factor = (module.shape.scaling / first.shape.scaling) as f32;
        for row in module.b.chunks_exact(module.shape.rank) {
            let mut wide = vec![0.0; rank];
            let own = wide[column..].iter_mut().zip(row);
            own.for_each(|(to, value)| *to = value * factor);
            joined.b.extend(wide);
        }
        if !shared {
            column += module.shape.rank;
        }
        if let (Some(all), Some(own)) = (&mut joined.magnitude, &module.magnitude) {
            all.extend(own);
        }
    }
    Ok(Some(joined))
}

/// Writes rank and alpha of every module, by the names of projections where they are the same in
/// every layer.
fn state_shapes(settings: &mut Value, modules: &BTreeMap<String, Module>) {
    let Some(usual) = modules.values().next().map(|module| module.shape) else {
        return;
    };
    let alpha = |shape: Shape| shape.scaling * shape.rank as f64;
    settings["r"] = usual.rank.into();
    settings["lora_alpha"] = alpha(usual).into();
    let mut by_last: BTreeMap<&str, Vec<Shape>> = BTreeMap::new();
    for (name, module) in modules {
        by_last.entry(last(name)).or_default().push(module.shape);
    }
    for (name, module) in modules {
        let alike = by_last[last(name)]
            .iter()
            .all(|other| *other == module.shape);
        let key = if alike { last(name) } else { name };
        if module.shape.rank != usual.rank {
            settings["rank_pattern"][key] = module.shape.rank.into();
        }
        if alpha(module.shape) != alpha(usual) {
            settings["alpha_pattern"][key] = alpha(module.shape).into();
        }
    }
}

/// The names of the modules: of the projections alone, where those of every layer are adapted.
fn named(modules: &BTreeMap<String, Module>, in_every_layer: bool) -> Value {
    let names = modules.keys().map(String::as_str);
    let names: BTreeSet<&str> = match in_every_layer {
        true => names.map(last).collect(),
        false => names.collect(),
    };
    json!(names)
}

/// The same in a model that also sees, whose other part has projections of these names, too.
fn in_language_part(modules: &BTreeMap<String, Module>, in_every_layer: bool) -> Value {
    let names = modules.keys().map(String::as_str);
    match in_every_layer {
        true => {
            let names: BTreeSet<&str> = names.map(last).collect();
            let names: Vec<&str> = names.into_iter().collect();
            json!(format!(r".*language_model\..*\.({})", names.join("|")))
        }
        false => {
            let names = names.map(|name| format!("language_model.{name}"));
            json!(names.collect::<Vec<_>>())
        }
    }
}

fn last(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

/// Reads a LoRA in the format of `peft`, given its `adapter_config.json`.
///
/// # Errors
/// A variant that is not implemented (biases, other modules), or a damaged file.
pub fn read(directory: &Path, config: &Value) -> Result<Adapter, ModelError> {
    let path = directory.join("adapter_config.json");
    refuse_variants(&path, config)?;
    let rank = count(&path, config, "r")?;
    let (found, tensors) = own_tensors(&path, read_tensors(directory)?)?;
    let init_lora_weights = start(&path, &config["init_lora_weights"])?;
    let is_fused = |name: &String| FusedModule::ALL.iter().any(|f| name.contains(f.name()));
    if init_lora_weights.is_pissa() && tensors.keys().any(is_fused) {
        return Err(at(
            &path,
            "PiSSA of a matrix that holds several projections is not implemented: convert the adapter to a plain LoRA (peft's path_initial_model_for_weight_conversion)",
        ));
    }
    let lora = LoraConfig {
        rank,
        alpha: number(&path, config, "lora_alpha")?,
        dropout: share_or(&path, config, "lora_dropout", 0.0)?,
        target_modules: targets(config, &found),
        posterior_std: None,
        use_rslora: flag(&path, config, "use_rslora")?,
        use_dora: flag(&path, config, "use_dora")?,
        init_lora_weights,
        rank_pattern: by_name(&path, config, "rank_pattern")?,
        alpha_pattern: by_name(&path, config, "alpha_pattern")?,
    };
    Ok(Adapter {
        config: AdapterConfig::Lora(lora),
        tensors,
        base_model: config["base_model_name_or_path"].as_str().map(Into::into),
    })
}

/// A table of values by name.
fn by_name<T>(path: &Path, config: &Value, key: &str) -> Result<ByName<T>, ModelError>
where
    T: Copy + serde::de::DeserializeOwned,
{
    match &config[key] {
        Value::Null => Ok(ByName::default()),
        value => serde_json::from_value(value.clone()).map_err(|e| at(path, format!("{key}: {e}"))),
    }
}

/// The projections that an adapter changes: as its settings name them, where the names say that
/// much, and else each that was found.
fn targets(config: &Value, found: &BTreeSet<(usize, TargetModule)>) -> Targets {
    let is_set = |key: &str| {
        let value = &config[key];
        !(value.is_null() || value.as_array().is_some_and(Vec::is_empty))
    };
    let modules: BTreeSet<TargetModule> = found.iter().map(|(_, target)| *target).collect();
    let each = || {
        let name =
            |(layer, target): &(usize, TargetModule)| format!("layers.{layer}.{}", target.path());
        Targets::Names(found.iter().map(name).collect())
    };
    if is_set("layers_to_transform") || is_set("exclude_modules") {
        return each();
    }
    let covers = |told: &Targets| found.iter().all(|(l, target)| told.contains(*l, *target));
    match serde_json::from_value::<Targets>(config["target_modules"].clone()) {
        Ok(Targets::Modules(_)) => modules.into(),
        Ok(told) if covers(&told) => told,
        Ok(_) => each(),
        // Names of modules that this model does not have stand there, too.
        Err(_) => {
            let layers = found.iter().map(|(layer, _)| layer + 1).max().unwrap_or(0);
            match found.len() == layers * modules.len() {
                true => modules.into(),
                false => each(),
            }
        }
    }
}

/// Refuses the variants of LoRA that are not implemented.
fn refuse_variants(path: &Path, config: &Value) -> Result<(), ModelError> {
    refuse(
        path,
        config,
        &[
            ("bias", json!("none")),
            ("fan_in_fan_out", json!(false)),
            ("modules_to_save", json!(null)),
            ("lora_bias", json!(false)),
            ("alora_invocation_tokens", json!(null)),
            ("target_parameters", json!(null)),
            ("layer_replication", json!(null)),
            ("trainable_token_indices", json!(null)),
            ("use_qalora", json!(false)),
            ("use_bdlora", json!(null)),
            ("arrow_config", json!(null)),
            ("kasa_config", json!(null)),
            ("monteclora_config", json!(null)),
            ("velora_config", json!(null)),
        ],
    )?;
    Ok(())
}

/// Where the matrices began, and so what the base weights are when the adapter is loaded.
fn start(path: &Path, start: &Value) -> Result<InitialWeights, ModelError> {
    // PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA change the base weights when they are loaded. The
    // others say how a training began, which changes nothing afterwards.
    match start {
        Value::Null | Value::Bool(_) => Ok(InitialWeights::Kaiming),
        Value::String(name) if PLAIN_STARTS.contains(&name.as_str()) => Ok(InitialWeights::Kaiming),
        Value::String(name) if name == "pissa" => Ok(InitialWeights::Pissa),
        _ => Err(at(
            path,
            format!(
                "init_lora_weights = {start} is not implemented, since it changes the base weights and not every time alike: convert the adapter to a plain LoRA (peft's path_initial_model_for_weight_conversion; expected true, false, pissa, {})",
                PLAIN_STARTS.join(", ")
            ),
        )),
    }
}

/// The tensors by this project's names, and the projections that they adapt; `path` is for the
/// error. Those of a vision part are left out: images cannot be asked about.
fn own_tensors(
    path: &Path,
    theirs: Tensors,
) -> Result<(BTreeSet<(usize, TargetModule)>, Tensors), ModelError> {
    let (mut found, mut tensors) = (BTreeSet::new(), Tensors::new());
    for (name, data) in theirs {
        if is_of_other_part(&name) {
            continue;
        }
        let (own, layer, targets) = own_name(&name).ok_or_else(|| {
            let reason = format!(
                "`{name}` is no LoRA of a projection of a decoder layer: it is not implemented"
            );
            at(path, reason)
        })?;
        let dimensions = if own.ends_with(".magnitude") { 1 } else { 2 };
        if shape(&data).len() != dimensions {
            let expected = ["", "a vector", "a matrix"][dimensions];
            return Err(at(path, format!("`{name}`: expected {expected}")));
        }
        found.extend(targets.iter().map(|target| (layer, *target)));
        tensors.insert(own, transposed(&data));
    }
    match tensors.is_empty() {
        true => Err(at(path, "holds no LoRA of a projection of a decoder layer")),
        false => Ok((found, tensors)),
    }
}

/// Whether a name of `peft` belongs to a vision part, in its new or its old spelling.
fn is_of_other_part(name: &str) -> bool {
    let inner = name.strip_prefix("base_model.model.").unwrap_or(name);
    let inner = inner.strip_prefix("model.").unwrap_or(inner);
    OTHER_PARTS.iter().any(|part| inner.starts_with(part))
}

/// This project's name (`layers.0.self_attn.q_proj.lora_a`) for a name of `peft`, the layer, and
/// the projections that the module holds.
fn own_name(name: &str) -> Option<(String, usize, Vec<TargetModule>)> {
    let prefixes = [LANGUAGE_PART, OLD_LANGUAGE_PART, PREFIX];
    let inner = prefixes.iter().find_map(|p| name.strip_prefix(p))?;
    let inner = inner.strip_suffix(".weight").unwrap_or(inner);
    let inner = inner.strip_suffix(".default").unwrap_or(inner);
    let (module, matrix) = inner.rsplit_once('.')?;
    let matrix = match matrix {
        "lora_A" => "lora_a",
        "lora_B" => "lora_b",
        "lora_magnitude_vector" => "magnitude",
        _ => return None,
    };
    let (layer, targets) = place(module)?;
    Some((format!("{module}.{matrix}"), layer, targets))
}

/// The layer and the projections of a module, `layers.0.self_attn.q_proj`.
fn place(module: &str) -> Option<(usize, Vec<TargetModule>)> {
    let (layer, path) = module.strip_prefix("layers.")?.split_once('.')?;
    let one = TargetModule::ALL.into_iter().find(|t| t.path() == path);
    let fused = || FusedModule::ALL.into_iter().find(|f| f.path() == path);
    let targets = match one {
        Some(one) => vec![one],
        None => fused()?.parts().to_vec(),
    };
    // No model has more: a number near the largest that there is would overflow.
    let layer = layer.parse().ok().filter(|layer| *layer < MOST_LAYERS);
    Some((layer?, targets))
}
