//! What several verbs share: places, devices, logging, the command line for the record.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use data::source::Finder;
use train::run_directory::Environment;

use crate::backend::{self, NamedDevice};

/// Flags about where things are.
#[derive(Debug, Args)]
pub(super) struct PlaceArgs {
    /// Directory with datasets in their original, the Hub's or the uniform format [env: UQ4CT_DATA]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Do not use the network
    #[arg(long)]
    offline: bool,
    /// Where to compute: auto, cpu, ndarray, wgpu[:index], cuda[:index]
    #[arg(long, default_value = "auto")]
    device: String,
}

impl PlaceArgs {
    /// Where files are looked for; the tiny model runs on the bundled miniatures unless a data directory is given.
    pub(super) fn finder(&self, model: &str) -> Finder {
        let mut finder = Finder::from_env();
        if let Some(directory) = &self.data_dir {
            finder.data_dir = Some(directory.clone());
        }
        finder.offline |= self.offline;
        finder.miniature = model == "tiny" && self.data_dir.is_none();
        finder
    }

    /// The device asked for.
    pub(super) fn device(&self) -> Result<NamedDevice> {
        backend::find(&self.device)
    }
}

/// Diagnostics on standard error, as `RUST_LOG` says; warnings by default.
pub(super) fn logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .try_init();
}

/// Processor threads that computation may use.
pub(super) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// On what a run runs.
pub(super) fn environment(device: &NamedDevice) -> Environment {
    Environment {
        version: env!("CARGO_PKG_VERSION").into(),
        commit: option_env!("UQ4CT_COMMIT").map(str::to_owned),
        device: device.name.clone(),
        threads: threads(),
        command: command(),
    }
}

/// The command line with words quoted where a shell would split them.
fn command() -> String {
    // Lossy: a path that is not Unicode must not end the program.
    let mut words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
    let program = words.next().unwrap_or_default();
    let program = std::path::Path::new(&program)
        .file_name()
        .map_or("uq4ct".into(), |name| name.to_string_lossy().into_owned());
    // The report's command repeats the run from its start.
    let words = words.filter(|word| {
        !matches!(
            word.as_str(),
            "--resume" | "--resume=latest" | "--overwrite"
        )
    });
    let quoted = words.map(|word| match word.contains([' ', '\'', '"', '$', '*']) {
        true => format!("'{}'", word.replace('\'', r"'\''")),
        false => word,
    });
    std::iter::once(format!("cargo run --release --bin {program} --"))
        .chain(quoted)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Writes a line to standard output; a reader that has left (`| head`) is no error.
pub(super) fn print(line: impl std::fmt::Display) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{line}");
}
