//! The short run: what `train` does on a processor unless told otherwise.

use anyhow::Result;
use train::RunConfig;
use train::config::ConfigLayers;

use crate::backend::{self, NamedDevice};

/// Its settings. `--full` leaves them out.
const SHORT: &str = include_str!("../../configs/short.toml");

/// Lays its settings over these, where `train` would: on a processor, but for the model `tiny`.
/// Says whether it did.
pub(super) fn lay(
    layers: &mut ConfigLayers,
    device: &NamedDevice,
    model: Option<&str>,
) -> Result<bool> {
    let short = device.is_cpu() && model != Some("tiny");
    if short {
        layers.text(SHORT, "configs/short.toml")?;
    }
    Ok(short)
}

/// The model that `train` takes on this machine's device where none is named.
pub(super) fn model() -> Result<String> {
    let mut layers = ConfigLayers::default();
    lay(&mut layers, &backend::find("auto")?, None)?;
    let named = layers.model_name();
    Ok(named.unwrap_or_else(|| RunConfig::default().model.name))
}
