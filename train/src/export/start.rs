//! An adapter on disk as the start of a training.

use std::path::Path;

use data::rendering::Scoring;
use data::shots::Shots;
use model::AdapterConfig;
use model::exchange::{self, Adapter};

use super::card::{CARD, Card, base_name, fits};
use crate::config::{RunConfig, spelled};
use crate::error::TrainError;
use crate::prepare::Prepared;
use crate::registry;
use crate::run_directory::RunDirectory;
use crate::training::StartingAdapter;

/// The adapter that `adapter.from` names, checked against what the run is about to do.
///
/// # Errors
/// A directory that holds none or one of another shape than the run's method trains, files that are
/// not what was exported, or a card of another base model.
pub fn import(
    config: &RunConfig,
    prepared: &Prepared,
) -> Result<Option<StartingAdapter>, TrainError> {
    let Some(directory) = &config.adapter.from else {
        return Ok(None);
    };
    let adapter = read(directory)?;
    same_shape(&adapter.config, config, directory)?;
    let mut temperature = None;
    if directory.join(CARD).is_file() {
        let card: Card = RunDirectory::at(directory).read_json(CARD)?;
        card.check_files(directory)?;
        fits(&card, config, prepared, directory)?;
        temperature = card.prequential;
    } else if let Some(named) = adapter
        .base_model
        .as_ref()
        .filter(|name| **name != base_name(config))
    {
        tracing::warn!(
            "{}: was trained on {named}, the run's base model is {}",
            directory.display(),
            base_name(config)
        );
    }
    Ok(Some(StartingAdapter {
        directory: directory.clone(),
        adapter,
        temperature,
    }))
}

/// Refuses an adapter that the run's method cannot go on with.
fn same_shape(
    found: &AdapterConfig,
    config: &RunConfig,
    directory: &Path,
) -> Result<(), TrainError> {
    let wanted = registry::build(config)?.adapter();
    let refuse = |reason: String| Err(TrainError::file(directory, reason));
    let (found, wanted) = match (found, &wanted) {
        (AdapterConfig::Lora(_), AdapterConfig::MixLora(_)) => {
            let method = config.method.title();
            return refuse(format!(
                "holds a plain LoRA, and {method} trains a mixture: say --method lora"
            ));
        }
        (AdapterConfig::MixLora(_), AdapterConfig::Lora(_)) => {
            let method = config.method.title();
            return refuse(format!(
                "holds a mixture, and {method} trains a plain LoRA: say --method uq4ct or mixlora"
            ));
        }
        (found, wanted) => (shape(found), shape(wanted)),
    };
    let sizes = ["adapter.rank=", "adapter.num_experts="];
    let is_size = |line: &&String| sizes.iter().any(|size| line.starts_with(size));
    let differs = |line: &&String| !wanted.contains(line);
    match found.iter().filter(is_size).find(differs) {
        None => Ok(()),
        Some(own) => refuse(format!("its adapter has {own}: leave that setting out")),
    }
}

/// The examples that stood before every question when the adapter was trained that `adapter.from`
/// names: those of a run with as many. None where its card has none, or another number.
///
/// # Errors
/// A card that cannot be read.
pub fn shots(config: &RunConfig) -> Result<Option<Shots>, TrainError> {
    let Some(directory) = &config.adapter.from else {
        return Ok(None);
    };
    if config.data.shots == 0 || !directory.join(CARD).is_file() {
        return Ok(None);
    }
    let card: Card = RunDirectory::at(directory).read_json(CARD)?;
    let shots = card.prompt.shots;
    Ok(shots.filter(|shots| shots.count() == config.data.shots))
}

/// Reads an adapter whose files are what was exported.
fn read(directory: &Path) -> Result<Adapter, TrainError> {
    let digests = RunDirectory::at(directory).digests();
    for path in exchange::files(directory) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        digests.check(&name)?;
    }
    Ok(exchange::read(directory)?)
}

/// The settings of `[adapter]` that an adapter on disk brings, its shape, as TOML by dotted key.
/// Dropout is no part of it: that belongs to a training, and some exports had to write one that
/// means nothing.
///
/// # Errors
/// As [`exchange::read`], and files that are not what was exported.
pub fn settings(directory: &Path) -> Result<Vec<String>, TrainError> {
    let adapter = read(directory)?;
    match shape(&adapter.config) {
        settings if settings.is_empty() => Err(TrainError::file(directory, "holds no adapter")),
        settings => Ok(settings),
    }
}

/// The settings of `[data]` with which an exported adapter was asked, as TOML by dotted key. None
/// without a card, or where its questions were `written` ones and these are not.
///
/// # Errors
/// A card that cannot be read.
pub fn asking(directory: &Path, written: bool) -> Result<Vec<String>, TrainError> {
    if !directory.join(CARD).is_file() {
        return Ok(Vec::new());
    }
    let card: Card = RunDirectory::at(directory).read_json(CARD)?;
    let prompt = card.prompt;
    if prompt.written.is_some() != written {
        return Ok(Vec::new());
    }
    let mut settings = vec![format!("data.template={}", spelled(&prompt.template))];
    if !written {
        settings.push(format!("data.scoring={}", spelled(&prompt.scoring)));
    }
    if prompt.scoring == Scoring::Cloze {
        let normalization = spelled(&prompt.normalization);
        settings.push(format!("data.normalization={normalization}"));
    }
    if let Some(chat) = prompt.chat {
        settings.push("data.chat=auto".into());
        let system = chat.system.map(toml::Value::String);
        settings.extend(system.map(|system| format!("data.system={system}")));
    }
    Ok(settings)
}

/// The shape of an adapter as settings, as TOML.
pub fn shape(adapter: &AdapterConfig) -> Vec<String> {
    let (lora, mixture) = match adapter {
        AdapterConfig::Lora(lora) => (lora, None),
        AdapterConfig::MixLora(mix) => (&mix.lora, Some(mix)),
        AdapterConfig::None => return Vec::new(),
    };
    let value = |value: Result<toml::Value, toml::ser::Error>| {
        value.expect("a shape is plain values").to_string()
    };
    let mut settings = vec![
        format!("adapter.rank={}", lora.rank),
        format!("adapter.alpha={:?}", lora.alpha),
        format!(
            "adapter.target_modules={}",
            value(toml::Value::try_from(&lora.target_modules))
        ),
        format!("adapter.use_rslora={}", lora.use_rslora),
    ];
    for (key, is_empty, table) in [
        (
            "rank_pattern",
            lora.rank_pattern.is_empty(),
            toml::Value::try_from(&lora.rank_pattern),
        ),
        (
            "alpha_pattern",
            lora.alpha_pattern.is_empty(),
            toml::Value::try_from(&lora.alpha_pattern),
        ),
    ] {
        let table = if is_empty { "{}".into() } else { value(table) };
        settings.push(format!("adapter.{key}={table}"));
    }
    if mixture.is_none() {
        settings.extend([
            format!("adapter.use_dora={}", lora.use_dora),
            format!(
                "adapter.init_lora_weights={}",
                value(toml::Value::try_from(lora.init_lora_weights))
            ),
        ]);
    }
    if let Some(mix) = mixture {
        settings.extend([
            format!("adapter.num_experts={}", mix.num_experts),
            format!("adapter.top_k={}", mix.top_k),
            format!("adapter.placement={}", spelled(&mix.placement)),
            format!("adapter.mixture_weights={}", spelled(&mix.mixture_weights)),
        ]);
    }
    settings
}
