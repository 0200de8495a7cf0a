//! The short run: what `train` does on a processor unless told otherwise.

use anyhow::Result;
use train::RunConfig;
use train::config::ConfigLayers;

use crate::backend;

/// Its settings. `--full` leaves them out.
const SHORT: &str = include_str!("../../configs/short.toml");

/// Lays its settings over these.
pub(super) fn lay(layers: &mut ConfigLayers) -> Result<()> {
    Ok(layers.text(SHORT, "configs/short.toml")?)
}

/// The model that `train` takes on this machine's device where none is named.
pub(super) fn model() -> Result<String> {
    let mut layers = ConfigLayers::default();
    if backend::find("auto")?.is_cpu() {
        lay(&mut layers)?;
    }
    let named = layers.model_name();
    Ok(named.unwrap_or_else(|| RunConfig::default().model.name))
}
