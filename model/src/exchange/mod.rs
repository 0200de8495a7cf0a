//! Adapters as files that other programs read, and theirs as ours.
//!
//! | module | format |
//! |---|---|
//! | [`peft`] | LoRA and its variants, in the format of Hugging Face's `peft` |
//! | [`mixlora`] | mixtures with placement `ffn`, in the format of the public MixLoRA code |
//! | [`own`] | every adapter, in a format of this project |
//! | [`merged`] | LoRA added to its base, as a whole model in Hugging Face's layout |
//! | [`torch`] | the container of `adapter_model.bin` |
//!
//! [`crate::Llama::adapter_tensors`] and [`crate::Llama::with_adapter_tensors`] take the parameters
//! out of a model and put them into one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, TensorData};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;

use crate::adapter::AdapterConfig;
use crate::error::ModelError;
use crate::load::{at, read_text};

pub mod merged;
pub mod mixlora;
pub mod own;
mod parameters;
pub mod peft;
pub mod torch;

/// Tensors by name, f32.
pub type Tensors = BTreeMap<String, TensorData>;

/// An adapter read from disk, in this project's names and shapes.
#[derive(Debug, Clone)]
pub struct Adapter {
    /// The settings of the adapter.
    pub config: AdapterConfig,
    /// The parameters of the adapter, by the names of [`crate::Llama::adapter_tensors`].
    pub tensors: Tensors,
    /// The base model that the files name.
    pub base_model: Option<String>,
}

/// Reads an adapter of any known format from its directory.
///
/// # Errors
/// A directory without an adapter, an adapter of a kind that is not implemented or with values that
/// are no numbers, or a damaged file.
pub fn read(directory: &Path) -> Result<Adapter, ModelError> {
    let _at_hand = fault::reading(directory);
    let adapter = read_any(directory)?;
    check_numbers(directory, &adapter.tensors)?;
    Ok(adapter)
}

/// Checks that every value of an adapter is a number; `path` is for the error.
///
/// # Errors
/// The first parameter that holds something else.
pub fn check_numbers(path: &Path, tensors: &Tensors) -> Result<(), ModelError> {
    let broken = |data: &TensorData| data.iter::<f32>().any(|value| !value.is_finite());
    match tensors.iter().find(|(_, data)| broken(data)) {
        None => Ok(()),
        Some((name, _)) => Err(at(
            path,
            format!(
                "the adapter's `{name}` holds values that are no numbers (NaN or infinite): its training went wrong or the file is damaged; use another adapter"
            ),
        )),
    }
}

fn read_any(directory: &Path) -> Result<Adapter, ModelError> {
    if own::is_there(directory) {
        return own::read(directory);
    }
    let path = directory.join("adapter_config.json");
    let text = read_text(&path)?;
    let config: Value = serde_json::from_str(&text).map_err(|e| at(&path, e.to_string()))?;
    match config["peft_type"].as_str() {
        Some("LORA") => peft::read(directory, &config),
        Some("MIXLORA") => mixlora::read(directory, &config),
        Some(other) => Err(at(
            &path,
            format!(
                "peft_type: {other} is not implemented, LORA and MIXLORA are. If peft can merge it into its base model (merge_and_unload), do that and give the merged model as --model"
            ),
        )),
        None => Err(at(&path, "peft_type: expected LORA or MIXLORA, got none")),
    }
}

/// The files in a directory that make up its adapter.
pub fn files(directory: &Path) -> Vec<PathBuf> {
    let names = [
        own::SETTINGS,
        own::PARAMETERS,
        "adapter_config.json",
        "adapter_model.safetensors",
        "adapter_model.bin",
    ];
    let paths = names.map(|name| directory.join(name));
    paths.into_iter().filter(|path| path.is_file()).collect()
}

/// The tensors of `adapter_model.safetensors`, or else `adapter_model.bin`.
fn read_tensors(directory: &Path) -> Result<Tensors, ModelError> {
    let safe = directory.join("adapter_model.safetensors");
    match safe.is_file() {
        true => read_safetensors(&safe),
        false => torch::read(&directory.join("adapter_model.bin")),
    }
}

/// A whole safetensors file as f32.
fn read_safetensors(path: &Path) -> Result<Tensors, ModelError> {
    let bytes = std::fs::read(path).map_err(|source| ModelError::Io {
        path: path.into(),
        source,
    })?;
    let file = SafeTensors::deserialize(&bytes).map_err(|e| at(path, e.to_string()))?;
    file.iter()
        .map(|(name, view)| {
            let dtype = match view.dtype() {
                Dtype::F32 => DType::F32,
                Dtype::F16 => DType::F16,
                Dtype::BF16 => DType::BF16,
                Dtype::F64 => DType::F64,
                other => {
                    return Err(at(
                        path,
                        format!("`{name}`: type {other:?} is not implemented"),
                    ));
                }
            };
            let data =
                TensorData::from_bytes_vec(view.data().to_vec(), view.shape().to_vec(), dtype);
            Ok((name.to_owned(), data.convert::<f32>()))
        })
        .collect()
}

/// Writes tensors and metadata as a safetensors file.
fn write_safetensors(
    path: &Path,
    tensors: &Tensors,
    metadata: &[(&str, String)],
) -> Result<(), ModelError> {
    let views: Vec<(&str, TensorView)> = tensors
        .iter()
        .map(|(name, data)| Ok((&**name, view(path, data)?)))
        .collect::<Result<_, ModelError>>()?;
    let metadata = metadata
        .iter()
        .map(|(k, v)| ((*k).to_owned(), v.clone()))
        .collect();
    safetensors::serialize_to_file(views, Some(metadata), path).map_err(|e| at(path, e.to_string()))
}

/// Tensor data as a view that safetensors writes; `path` is for the error.
fn view<'a>(path: &Path, data: &'a TensorData) -> Result<TensorView<'a>, ModelError> {
    let dtype = match data.dtype() {
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        other => return Err(at(path, format!("type {other:?} cannot be written"))),
    };
    let shape = data.shape().as_slice().to_vec();
    TensorView::new(dtype, shape, data.as_bytes()).map_err(|e| at(path, e.to_string()))
}

fn write_json(path: &Path, value: &Value) -> Result<(), ModelError> {
    let text = serde_json::to_string_pretty(value).map_err(|e| at(path, e.to_string()))?;
    std::fs::write(path, text + "\n").map_err(|source| ModelError::Io {
        path: path.into(),
        source,
    })
}

fn shape(data: &TensorData) -> Vec<usize> {
    data.shape().as_slice().to_vec()
}

fn floats(data: &TensorData) -> Vec<f32> {
    data.iter::<f32>().collect()
}

/// A matrix with rows and columns exchanged: A is `[d_in, r]` here and `[r, d_in]` elsewhere.
fn transposed(data: &TensorData) -> TensorData {
    let [rows, columns] = shape(data)[..] else {
        return data.clone();
    };
    let values = floats(data);
    let turned: Vec<f32> = (0..rows * columns)
        .map(|i| values[i % rows * columns + i / rows])
        .collect();
    TensorData::new(turned, [columns, rows])
}

/// Some columns of a matrix, or some values of a vector.
fn columns(data: &TensorData, range: std::ops::Range<usize>) -> TensorData {
    let mut shape = shape(data);
    let Some(width) = shape.last_mut() else {
        return data.clone();
    };
    let values = floats(data);
    let rows = values.chunks_exact((*width).max(1));
    let cut: Vec<f32> = rows.flat_map(|row| row[range.clone()].to_vec()).collect();
    *width = range.len();
    TensorData::new(cut, shape)
}

/// The matrix at `index` of a stack.
fn slice(data: &TensorData, index: usize) -> TensorData {
    let [_, rows, columns] = shape(data)[..] else {
        return data.clone();
    };
    let values = floats(data);
    let size = rows * columns;
    TensorData::new(values[index * size..][..size].to_vec(), [rows, columns])
}

/// Matrices of one shape as a stack; `name` is for the error.
fn stacked(name: &str, parts: &[TensorData]) -> Result<TensorData, ModelError> {
    let inner = parts.first().map(shape).unwrap_or_default();
    if let Some(other) = parts.iter().find(|part| shape(part) != inner) {
        return Err(ModelError::Shape {
            name: name.into(),
            found: shape(other),
            expected: inner,
        });
    }
    let values: Vec<f32> = parts.iter().flat_map(floats).collect();
    Ok(TensorData::new(
        values,
        [&[parts.len()], &inner[..]].concat(),
    ))
}

/// Takes a tensor out of a table by name.
fn take(from: &mut Tensors, name: &str) -> Result<TensorData, ModelError> {
    let found = from.remove(name);
    found.ok_or_else(|| ModelError::MissingWeight {
        name: name.into(),
        present: from.len(),
        example: from.keys().next().cloned().unwrap_or_default(),
    })
}

/// A required positive number of a configuration.
fn number(path: &Path, config: &Value, key: &str) -> Result<f64, ModelError> {
    config[key].as_f64().filter(|n| *n > 0.0).ok_or_else(|| {
        at(
            path,
            format!("{key}: expected a positive number, got {}", config[key]),
        )
    })
}

/// A number that counts something.
fn count(path: &Path, config: &Value, key: &str) -> Result<usize, ModelError> {
    let found = config[key].as_u64().filter(|n| *n > 0);
    found.map(|n| n as usize).ok_or_else(|| {
        let reason = format!(
            "{key}: expected a whole number above 0, got {}",
            config[key]
        );
        at(path, reason)
    })
}

/// A number that counts something; null means `otherwise`.
fn count_or(path: &Path, config: &Value, key: &str, otherwise: usize) -> Result<usize, ModelError> {
    match config[key].is_null() {
        true => Ok(otherwise),
        false => count(path, config, key),
    }
}

/// A truth value; null means false.
fn flag(path: &Path, config: &Value, key: &str) -> Result<bool, ModelError> {
    match &config[key] {
        Value::Null => Ok(false),
        Value::Bool(is) => Ok(*is),
        other => Err(at(
            path,
            format!("{key}: expected true or false, got {other}"),
        )),
    }
}

/// A number of 0 or more; null means `otherwise`.
fn share_or(path: &Path, config: &Value, key: &str, otherwise: f64) -> Result<f64, ModelError> {
    match &config[key] {
        Value::Null => Ok(otherwise),
        other => other.as_f64().filter(|n| *n >= 0.0).ok_or_else(|| {
            at(
                path,
                format!("{key}: expected a number of 0 or more, got {other}"),
            )
        }),
    }
}

/// Refuses a configuration that asks for what is not implemented. `harmless` lists such keys, each
/// with its one value that can be ignored.
fn refuse(path: &Path, config: &Value, harmless: &[(&str, Value)]) -> Result<(), ModelError> {
    for (key, value) in harmless {
        let found = &config[*key];
        let empty = found.as_object().is_some_and(serde_json::Map::is_empty)
            || found.as_array().is_some_and(Vec::is_empty);
        if !(found.is_null() || empty || found == value) {
            return Err(at(path, format!("{key} = {found} is not implemented")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_the_wrong_type_are_refused_and_gaps_are_filled() {
        let path = Path::new("adapter_config.json");
        let config = serde_json::json!({"top_k": "3", "use_rslora": 1, "lora_dropout": "0.1"});
        let errors = [
            count_or(path, &config, "top_k", 2).unwrap_err(),
            flag(path, &config, "use_rslora").unwrap_err(),
            share_or(path, &config, "lora_dropout", 0.0).unwrap_err(),
        ];
        for (error, key) in errors.iter().zip(["top_k", "use_rslora", "lora_dropout"]) {
            assert!(
                error.to_string().contains(&format!("{key}: expected")),
                "{error}"
            );
        }
        let none = Value::Null;
        assert_eq!(count_or(path, &none, "top_k", 2).unwrap(), 2);
        assert!(!flag(path, &none, "use_rslora").unwrap());
        assert_eq!(share_or(path, &none, "lora_dropout", 0.0).unwrap(), 0.0);
    }

    #[test]
    fn turning_slicing_and_stacking_are_inverse() {
        let data = TensorData::new(vec![1f32, 2., 3., 4., 5., 6.], [2, 3]);
        let turned = transposed(&data);
        assert_eq!(
            (shape(&turned), floats(&turned)),
            (vec![3, 2], vec![1., 4., 2., 5., 3., 6.])
        );
        assert_eq!(floats(&transposed(&turned)), floats(&data));
        let stack = stacked("x", &[data.clone(), data.clone()]).unwrap();
        assert_eq!(shape(&stack), [2, 2, 3]);
        assert_eq!(floats(&slice(&stack, 1)), floats(&data));
        assert!(stacked("x", &[data, turned]).is_err());
    }

    /// A plain LoRA of one projection in the format of `peft`, its settings changed.
    fn peft_adapter(value: f32, change: impl FnOnce(&mut Value)) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let config = crate::LoraConfig {
            rank: 1,
            alpha: 2.0,
            target_modules: [crate::TargetModule::QProj].into(),
            ..crate::LoraConfig::default()
        };
        let matrix = |shape| TensorData::new(vec![value, 1.0], shape);
        let tensors = Tensors::from([
            ("layers.0.self_attn.q_proj.lora_a".into(), matrix([2, 1])),
            ("layers.0.self_attn.q_proj.lora_b".into(), matrix([1, 2])),
        ]);
        peft::write(
            folder.path(),
            &config,
            &tensors,
            "base",
            &crate::load::tiny::config(8),
        )
        .unwrap();
        let path = folder.path().join("adapter_config.json");
        let mut settings = serde_json::from_str(&read_text(&path).unwrap()).unwrap();
        change(&mut settings);
        write_json(&path, &settings).unwrap();
        folder
    }

    #[test]
    fn initialisations_that_leave_the_base_alone_are_read() {
        for plain in ["gaussian", "eva", "orthogonal"] {
            let folder = peft_adapter(1.0, |config| config["init_lora_weights"] = plain.into());
            assert_eq!(read(folder.path()).unwrap().tensors.len(), 2, "{plain}");
        }
        for other in ["pissa_niter_16", "olora", "corda", "loftq", "new"] {
            let folder = peft_adapter(1.0, |config| config["init_lora_weights"] = other.into());
            let error = read(folder.path()).unwrap_err().to_string();
            assert!(
                error.contains(&format!("init_lora_weights = \"{other}\"")),
                "{error}"
            );
        }
        let some = peft_adapter(1.0, |config| config["use_qalora"] = true.into());
        let error = read(some.path()).unwrap_err().to_string();
        assert!(
            error.contains("use_qalora = true is not implemented"),
            "{error}"
        );
    }

    #[test]
    fn other_kinds_of_adapters_are_refused_by_name() {
        for kind in [
            "ADALORA",
            "VERA",
            "LOHA",
            "LOKR",
            "IA3",
            "OFT",
            "PREFIX_TUNING",
        ] {
            let folder = peft_adapter(1.0, |config| config["peft_type"] = kind.into());
            let error = read(folder.path()).unwrap_err().to_string();
            assert!(
                error.contains(&format!("{kind} is not implemented")) && error.contains("--model"),
                "{error}"
            );
        }
    }

    #[test]
    fn layers_that_peft_left_out_have_no_adapter() {
        let some = peft_adapter(1.0, |config| config["layers_to_transform"] = vec![0].into());
        let crate::AdapterConfig::Lora(lora) = read(some.path()).unwrap().config else {
            panic!("a LoRA");
        };
        let q = crate::TargetModule::QProj;
        assert!(lora.on(0, q).is_some() && lora.on(1, q).is_none());
    }

    #[test]
    fn an_adapter_of_no_numbers_is_named_with_its_tensor() {
        let folder = peft_adapter(f32::NAN, |_| ());
        let error = read(folder.path()).unwrap_err().to_string();
        assert!(
            error.contains("`layers.0.self_attn.q_proj.lora_a`"),
            "{error}"
        );
        assert!(error.contains(folder.path().to_str().unwrap()), "{error}");
    }
}
