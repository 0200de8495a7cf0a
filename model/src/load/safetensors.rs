//! Safetensors files, through burn-store: one file, or several with an index.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use burn::store::{ModuleStore, SafetensorsStore};
use burn::tensor::TensorData;

use super::{Weights, at, read_text};
use crate::error::ModelError;

/// The weights of `model.safetensors`, or of the shards that `model.safetensors.index.json` names.
pub struct Safetensors {
    shards: Vec<(PathBuf, SafetensorsStore)>,
    /// Tensor name to shard.
    names: BTreeMap<String, usize>,
}

impl Safetensors {
    /// Opens the files of a directory and reads their headers.
    ///
    /// # Errors
    /// A directory without weights, or with weights of two kinds; a shard of the index that is
    /// absent, or a damaged header.
    pub fn open(directory: &Path) -> Result<Self, ModelError> {
        let index = directory.join("model.safetensors.index.json");
        let whole = directory.join("model.safetensors");
        let files = match index.is_file() {
            true => shards(&index)?,
            false => vec![whole.clone()],
        };
        if files == [whole.clone()] && !whole.is_file() {
            let pickled = ["pytorch_model.bin", "pytorch_model.bin.index.json"];
            let pickled = pickled
                .into_iter()
                .find(|name| directory.join(name).is_file());
            return Err(at(
                directory,
                match pickled {
                    Some(name) => format!(
                        "holds no model.safetensors, but {name}, which is not read, since it can run code: convert it in Python, AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(DIR)"
                    ),
                    None => {
                        "holds no model.safetensors, and no model.safetensors.index.json".into()
                    }
                },
            ));
        }
        // Which of the two is newer, nobody knows.
        if whole.is_file() && !files.contains(&whole) {
            let reason = "lists other weights than model.safetensors beside it: remove the ones that are out of date";
            return Err(at(&index, reason));
        }
        let (mut shards, mut names) = (Vec::new(), BTreeMap::new());
        for (number, file) in files.into_iter().enumerate() {
            // Opened here for its error: the store's own does not name the file.
            std::fs::File::open(&file).map_err(|source| ModelError::Io {
                path: file.clone(),
                source,
            })?;
            let mut store = SafetensorsStore::from_file(&file);
            let keys = store.keys().map_err(|e| at(&file, e.to_string()))?;
            names.extend(keys.into_iter().map(|key| (key, number)));
            shards.push((file, store));
        }
        Ok(Self { shards, names })
    }
}

/// The distinct files of an index, inside its own directory.
fn shards(index: &Path) -> Result<Vec<PathBuf>, ModelError> {
    let json: serde_json::Value =
        serde_json::from_str(&read_text(index)?).map_err(|e| at(index, e.to_string()))?;
    let map = json
        .get("weight_map")
        .and_then(serde_json::Value::as_object)
        .ok_or_else(|| at(index, "expected an object `weight_map`"))?;
    let mut files = BTreeSet::new();
    for (name, file) in map {
        let file = file
            .as_str()
            // A shard is a plain name: an index must not reach outside its own directory.
            .filter(|f| Path::new(f).file_name().is_some_and(|n| n == Path::new(f)))
            .ok_or_else(|| {
                at(
                    index,
                    format!("weight_map.{name}: expected a file name, got {file}"),
                )
            })?;
        files.insert(file);
    }
    let directory = index.parent().unwrap_or(Path::new("."));
    Ok(files.into_iter().map(|f| directory.join(f)).collect())
}

impl Weights for Safetensors {
    fn tensor(&mut self, name: &str) -> Result<TensorData, ModelError> {
        let Some(&shard) = self.names.get(name) else {
            let packed = name
                .strip_suffix("weight")
                .map(|stem| format!("{stem}qweight"));
            if let Some((packed, &shard)) = packed.and_then(|name| self.names.get_key_value(&name))
            {
                let reason = format!(
                    "`{packed}` stands in the place of `{name}`: weights quantized by GPTQ or AWQ are not implemented; give the model's unquantized weights, or a GGUF file"
                );
                return Err(at(&self.shards[shard].0, reason));
            }
            return Err(ModelError::MissingWeight {
                name: name.into(),
                present: self.names.len(),
                example: self.names.keys().next().cloned().unwrap_or_default(),
            });
        };
        let (file, store) = &mut self.shards[shard];
        let _at_hand = fault::reading(file);
        let tensor = store
            .get_tensor(name)
            .map_err(|e| at(file, e.to_string()))?
            .ok_or_else(|| {
                at(
                    file,
                    format!("`{name}` is in the header but not in the file"),
                )
            })?;
        if !tensor.dtype.is_float() {
            let reason = format!(
                "`{name}` is of type {:?}: quantized weights are not implemented; give the model's unquantized weights, or a GGUF file",
                tensor.dtype
            );
            return Err(at(file, reason));
        }
        let bytes = tensor.to_bytes().map_err(|e| at(file, e.to_string()))?;
        Ok(TensorData::from_bytes(
            bytes,
            tensor.shape.clone(),
            tensor.dtype,
        ))
    }
}
