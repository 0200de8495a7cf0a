//! The runs below a directory, and the newest of them, for who names none.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use train::run_directory::RunDirectory;

use super::process::tell;

/// Where `train` puts a run that is not named.
pub(super) const RUNS: &str = "runs";

/// How deep runs are looked for.
const DEPTH: usize = 4;

/// Every directory with a `config.toml`, but for those inside a run, in the order of their names.
pub(super) fn below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    look(directory, DEPTH, &mut found);
    found.sort();
    found
}

fn look(directory: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    if directory.join("config.toml").is_file() {
        found.push(directory.into());
        return;
    }
    let Some(depth) = depth.checked_sub(1) else {
        return;
    };
    let Ok(entries) = std::fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            look(&entry.path(), depth, found);
        }
    }
}

/// The run that is asked: the one that is named, or the newest finished one below `runs`, which is
/// said.
pub(super) fn run_or_newest(named: Option<&Path>) -> Result<PathBuf> {
    if let Some(run) = named {
        return Ok(run.to_path_buf());
    }
    let finished = |root: PathBuf| {
        let (run, config) = RunDirectory::open(&root).ok()?;
        // Scored last.
        let file = run.predictions_file(&config.data.dataset);
        let written = file.metadata().and_then(|found| found.modified()).ok()?;
        Some((written, root))
    };
    let newest = below(Path::new(RUNS)).into_iter().filter_map(finished);
    let Some((_, run)) = newest.max() else {
        bail!("no finished run below {RUNS}/: name a run's directory, or train one");
    };
    tell(format_args!("The newest finished run: {}", run.display()));
    Ok(run)
}
