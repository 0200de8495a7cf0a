//! Where and how a run happens.

use std::path::PathBuf;
use std::sync::Arc;

use burn::prelude::*;
use data::loader::LoaderState;
use data::source::Finder;

use crate::run_directory::Environment;
use crate::telemetry::Telemetry;

/// Where and how a run happens; the settings say what.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The tensor device, plain.
    pub device: Device,
    /// Further devices that share the training's steps.
    pub others: Vec<Device>,
    /// Where files are looked for.
    pub finder: Finder,
    /// Directory of the run.
    pub run: PathBuf,
    /// Continue the run that the directory holds.
    pub resume: bool,
    /// Machine and program of the run, for its record.
    pub environment: Environment,
    /// Where the run's numbers go.
    pub telemetry: Telemetry,
    /// Where the loader stands, and how a stop is asked for.
    pub state: Arc<LoaderState>,
}
