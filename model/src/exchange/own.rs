//! A format for every adapter of this project: `uq4ct_adapter.json` holds the settings,
//! `uq4ct_adapter.safetensors` the parameters under the names of [`crate::Llama::adapter_tensors`].

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Adapter, Tensors, read_safetensors, write_json, write_safetensors};
use crate::adapter::AdapterConfig;
use crate::error::ModelError;
use crate::load::{at, read_text};

/// The version of the format. A reader refuses any other version.
const VERSION: u32 = 1;

pub(super) const SETTINGS: &str = "uq4ct_adapter.json";
pub(super) const PARAMETERS: &str = "uq4ct_adapter.safetensors";

#[derive(Serialize, Deserialize)]
struct Settings {
    version: u32,
    base_model: String,
    adapter: AdapterConfig,
}

pub(super) fn is_there(directory: &Path) -> bool {
    directory.join(SETTINGS).is_file()
}

/// Writes an adapter in the format of this project.
///
/// # Errors
/// A file that cannot be written.
pub fn write(
    directory: &Path,
    config: &AdapterConfig,
    tensors: &Tensors,
    base_model: &str,
) -> Result<(), ModelError> {
    let path = directory.join(SETTINGS);
    let settings = serde_json::to_value(Settings {
        version: VERSION,
        base_model: base_model.into(),
        adapter: config.clone(),
    });
    write_json(&path, &settings.map_err(|e| at(&path, e.to_string()))?)?;
    write_safetensors(
        &directory.join(PARAMETERS),
        tensors,
        &[("format", format!("uq4ct-adapter {VERSION}"))],
    )
}

/// Reads an adapter in the format of this project.
///
/// # Errors
/// Another version of the format, or a damaged file.
pub fn read(directory: &Path) -> Result<Adapter, ModelError> {
    let path = directory.join(SETTINGS);
    let text = read_text(&path)?;
    let version = serde_json::from_str::<serde_json::Value>(&text)
        .map_err(|e| at(&path, e.to_string()))?["version"]
        .as_u64();
    if version != Some(u64::from(VERSION)) {
        let found = version.map_or("none".into(), |v| v.to_string());
        return Err(at(
            &path,
            format!("version: this program reads {VERSION}, got {found}"),
        ));
    }
    let settings: Settings = serde_json::from_str(&text).map_err(|e| at(&path, e.to_string()))?;
    Ok(Adapter {
        config: settings.adapter,
        tensors: read_safetensors(&directory.join(PARAMETERS))?,
        base_model: Some(settings.base_model),
    })
}
