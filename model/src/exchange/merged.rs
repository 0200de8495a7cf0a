//! A LoRA added to its base model, in Hugging Face's layout: `W + s (A B)^T`; with PiSSA less what
//! A and B began as, and with DoRA each row scaled to its magnitude.

use std::path::Path;

use burn::tensor::{DType, TensorData};
use serde_json::json;

use super::{Tensors, floats, shape, view, write_json};
use crate::adapter::{FusedModule, LoraConfig, TargetModule};
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
    for (place, (name, parts)) in names.into_iter().enumerate() {
        let mut merged = Vec::new();
        for (part, adapted) in parts {
            let base = weights.tensor(&part)?;
            let base = match keep_type {
                true => base,
                false => base.convert::<f32>(),
            };
            let update = adapted.and_then(|(layer, target)| {
                let scaling = lora.on(layer, target)?.scaling;
                Update::of(
                    &format!("layers.{layer}.{}", target.path()),
                    scaling,
                    tensors,
                )
            });
            merged.push(match update {
                Some(update) => update.add(&base),
                None => base,
            });
        }
        let merged = rows_joined(merged);
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

/// Matrices below one another; a single one as it is.
fn rows_joined(mut parts: Vec<TensorData>) -> TensorData {
    let Some(first) = parts.first().filter(|_| parts.len() > 1) else {
        return parts.remove(0);
    };
    let (mut shape, kind) = (shape(first), first.dtype());
    shape[0] = parts.iter().map(|part| super::shape(part)[0]).sum();
    let bytes = parts.iter().flat_map(|part| part.as_bytes().to_vec());
    TensorData::from_bytes_vec(bytes.collect(), shape, kind)
}

/// What an adapter does to one matrix.
struct Update<'a> {
    /// A, B and what their product is multiplied by.
    products: Vec<(&'a TensorData, &'a TensorData, f64)>,
    /// The norm of each row of the sum.
    magnitude: Option<Vec<f32>>,
}

impl<'a> Update<'a> {
    /// The update of a module, if it is adapted.
    fn of(module: &str, scaling: f64, tensors: &'a Tensors) -> Option<Self> {
        let part = |matrix: &str| tensors.get(&format!("{module}.{matrix}"));
        let mut products = vec![(part("lora_a")?, part("lora_b")?, scaling)];
        if let (Some(a), Some(b)) = (part("initial_a"), part("initial_b")) {
            products.push((a, b, -scaling));
        }
        Some(Self {
            products,
            magnitude: part("magnitude").map(floats),
        })
    }

    /// The changed matrix, computed in f64 and stored in the base's type.
    fn add(&self, base: &TensorData) -> TensorData {
        let (_, first, _) = self.products[0];
        let [_, d_out] = pair(first);
        let mut merged = floats(base);
        let d_in = merged.len() / d_out.max(1);
        let products: Vec<(Vec<f32>, Vec<f32>, f64)> = self
            .products
            .iter()
            .map(|(a, b, scaling)| (floats(a), floats(b), *scaling))
            .collect();
        let mut row = vec![0f64; d_in];
        for o in 0..d_out {
            let out = &mut merged[o * d_in..][..d_in];
            row.iter_mut()
                .zip(&*out)
                .for_each(|(sum, w)| *sum = f64::from(*w));
            for (a, b, scaling) in &products {
                let rank = a.len() / d_in;
                for r in 0..rank {
                    let factor = f64::from(b[r * d_out + o]) * scaling;
                    row.iter_mut()
                        .enumerate()
                        .for_each(|(i, sum)| *sum += f64::from(a[i * rank + r]) * factor);
                }
            }
            let gain = self.magnitude.as_ref().map_or(1.0, |magnitude| {
                let norm = row.iter().map(|w| w * w).sum::<f64>().sqrt();
                f64::from(magnitude[o]) / norm.max(1e-30)
            });
            out.iter_mut()
                .zip(&row)
                .for_each(|(w, sum)| *w = (sum * gain) as f32);
        }
        let merged = TensorData::new(merged, [d_out, d_in]);
        match base.dtype() {
            DType::F32 => merged,
            other => merged.convert_dtype(other),
        }
    }
}

fn pair(data: &TensorData) -> [usize; 2] {
    let shape = shape(data);
    [shape[0], shape[1]]
}

/// A weight as it is read, with the projection if it is one.
type Part = (String, Option<(usize, TargetModule)>);

/// Hugging Face's names of all weights of a model, each with the weights that it is made of: one
/// but where the files hold several projections as one matrix.
fn names(config: &ModelConfig) -> Vec<(String, Vec<Part>)> {
    let plain = |name: String| (name.clone(), vec![(name, None)]);
    let mut names = vec![plain("model.embed_tokens.weight".into())];
    for layer in 0..config.num_hidden_layers {
        for target in TargetModule::ALL {
            let fused = target.fused().filter(|_| config.variant.fused_projections);
            let path = fused.map_or(target.path(), FusedModule::path);
            let parts = fused.map_or(vec![target], |fused| fused.parts().to_vec());
            if parts.first() != Some(&target) {
                continue;
            }
            let name = format!("model.layers.{layer}.{path}");
            let has_bias = match target {
                TargetModule::QProj | TargetModule::KProj | TargetModule::VProj => config.qkv_bias,
                TargetModule::OProj => config.output_bias,
                _ => config.mlp_bias,
            };
            let of = |kind: &str, adapted: bool| {
                let part = |target: &TargetModule| {
                    let name = format!("{}.{kind}", target.full_name(layer));
                    (name, adapted.then_some((layer, *target)))
                };
                (format!("{name}.{kind}"), parts.iter().map(part).collect())
            };
            if has_bias {
                names.push(of("bias", false));
            }
            names.push(of("weight", true));
        }
        for norm in config.variant.all_norm_names() {
            names.push(plain(format!("model.layers.{layer}.{norm}.weight")));
        }
    }
    names.push(plain("model.norm.weight".into()));
    if !config.tie_word_embeddings {
        names.push(plain("lm_head.weight".into()));
    }
    names
}
