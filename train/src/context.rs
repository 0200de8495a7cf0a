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

impl Setup {
    /// A run in a directory of its own, on one device, with files from where the environment says.
    /// For programs that use this crate: nothing is shown, and nobody asks for a stop.
    pub fn new(run: impl Into<PathBuf>, device: Device) -> Self {
        Self {
            environment: Environment {
                version: env!("CARGO_PKG_VERSION").into(),
                commit: None,
                device: format!("{device:?}"),
                threads: std::thread::available_parallelism().map_or(1, usize::from),
                command: std::env::args().collect::<Vec<_>>().join(" "),
            },
            device,
            others: Vec::new(),
            finder: Finder::from_env(),
            run: run.into(),
            resume: false,
            telemetry: Telemetry::new(Arc::default()),
            state: Arc::default(),
        }
    }
}
