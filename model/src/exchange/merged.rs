//! A plain LoRA added to its base model, in Hugging Face's layout: `W + (alpha / r) (A B)^T`.

use std::path::Path;

use burn::tensor::{DType, TensorData};
use serde_json::json;

use super::{Tensors, floats, shape, view, write_json};
use crate::adapter::{LoraConfig, TargetModule};
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::load::{Weights, at};

/// Bytes after which another file is begun, so that memory stays bounded.
const SHARD: usize = 2 << 30;

/// Writes the weights of the merged model, in f32 or, with `keep_type`, in the base's own type. The
/// caller writes `config.json` and the tokenizer.
///
/// A type of 16 bits rounds the sum: a small update all but vanishes beside a large weight.
///
/// # Errors
/// A weight that is missing or of a type that cannot be written, or a file that cannot be written.
pub fn write(
    directory: &Path,
    shape_of: &ModelConfig,
    weights: &mut dyn Weights,
    lora: &LoraConfig,
    tensors: &Tensors,
    keep_type: bool,
) -> Result<(), ModelError> {
    let mut shards: Vec<Vec<String>> = vec![Vec::new()];
    let mut held = Tensors::new();
    let mut bytes = 0;
    let names = names(shape_of);
    let (mut total, last) = (0, names.len() - 1);
    for (place, (name, adapted)) in names.into_iter().enumerate() {
        let base = weights.tensor(&name)?;
        let base = match keep_type {
            true => base,
            false => base.convert::<f32>(),
        };
        let merged = match adapted.and_then(|module| update(&module, tensors)) {
            Some((a, b)) => add(&base, a, b, lora.scaling()),
            None => base,
        };
        bytes += merged.as_bytes().len();
        total += merged.as_bytes().len();
        held.insert(name.clone(), merged);
        shards.last_mut().expect("there is one").push(name);
        if bytes >= SHARD || place == last {
            flush(&directory.join(format!("part-{}", shards.len())), &held)?;
            held.clear();
            bytes = 0;
            if place < last {
                shards.push(Vec::new());
            }
        }
    }
    name_shards(directory, &shards, total)
}

/// Gives the files their final names, and writes an index if there are several.
fn name_shards(directory: &Path, shards: &[Vec<String>], total: usize) -> Result<(), ModelError> {
    let count = shards.len();
    let mut map = serde_json::Map::new();
    for (number, names) in shards.iter().enumerate() {
        let file = match count {
            1 => "model.safetensors".into(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", number + 1),
        };
        let to = directory.join(&file);
        std::fs::rename(directory.join(format!("part-{}", number + 1)), &to).map_err(|source| {
            ModelError::Io {
                path: to.clone(),
                source,
            }
        })?;
        map.extend(names.iter().map(|name| (name.clone(), json!(file))));
    }
    match count {
        1 => Ok(()),
        _ => write_json(
            &directory.join("model.safetensors.index.json"),
            &json!({"metadata": {"total_size": total}, "weight_map": map}),
        ),
    }
}

fn flush(path: &Path, held: &Tensors) -> Result<(), ModelError> {
    let views = held
        .iter()
        .map(|(name, data)| Ok((name, view(path, data)?)))
        .collect::<Result<Vec<_>, ModelError>>()?;
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    safetensors::serialize_to_file(views, Some(metadata), path).map_err(|e| at(path, e.to_string()))
}

/// A and B of a module, if it is adapted.
fn update<'a>(module: &str, tensors: &'a Tensors) -> Option<(&'a TensorData, &'a TensorData)> {
    let part = |matrix: &str| tensors.get(&format!("{module}.{matrix}"));
    Some((part("lora_a")?, part("lora_b")?))
}

/// `W + scaling (A B)^T`, computed in f64 and stored in the base's type.
fn add(base: &TensorData, a: &TensorData, b: &TensorData, scaling: f64) -> TensorData {
    let ([d_in, rank], [_, d_out]) = (pair(a), pair(b));
    let (a, b) = (floats(a), floats(b));
    let mut merged = floats(base);
    let mut row = vec![0f64; d_in];
    for o in 0..d_out {
        row.fill(0.0);
        for r in 0..rank {
            let factor = f64::from(b[r * d_out + o]) * scaling;
            row.iter_mut()
                .enumerate()
                .for_each(|(i, sum)| *sum += f64::from(a[i * rank + r]) * factor);
        }
        let out = &mut merged[o * d_in..][..d_in];
        out.iter_mut()
            .zip(&row)
            .for_each(|(w, delta)| *w = (f64::from(*w) + delta) as f32);
    }
    let merged = TensorData::new(merged, [d_out, d_in]);
    match base.dtype() {
        DType::F32 => merged,
        other => merged.convert_dtype(other),
    }
}

fn pair(data: &TensorData) -> [usize; 2] {
    let shape = shape(data);
    [shape[0], shape[1]]
}

/// Hugging Face's names of all weights of a model. A projection's weight comes with the name of its
/// module among the adapter's.
fn names(config: &ModelConfig) -> Vec<(String, Option<String>)> {
    let mut names = vec![("model.embed_tokens.weight".to_owned(), None)];
    for layer in 0..config.num_hidden_layers {
        for target in TargetModule::ALL {
            let module = format!("layers.{layer}.{}", target.path());
            let bias = match target {
                TargetModule::QProj | TargetModule::KProj | TargetModule::VProj => config.qkv_bias,
                TargetModule::OProj => config.output_bias,
                _ => config.mlp_bias,
            };
            if bias {
                names.push((format!("model.{module}.bias"), None));
            }
            names.push((format!("model.{module}.weight"), Some(module)));
        }
        for norm in config.variant.all_norm_names() {
            names.push((format!("model.layers.{layer}.{norm}.weight"), None));
        }
    }
    names.push(("model.norm.weight".into(), None));
    if !config.tie_word_embeddings {
        names.push(("lm_head.weight".into(), None));
    }
    names
}
