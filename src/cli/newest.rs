//! The runs below a directory, and the newest of them, for who names none.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Result;
use train::RunConfig;
use train::lock::holder;
use train::run_directory::RunDirectory;

use super::process::tell;
use super::usage::wrong;

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
        Some((written(&scored(&run, &config))?, root))
    };
    let newest = own().filter_map(finished);
    let Some((_, run)) = newest.max() else {
        return Err(wrong(format_args!(
            "no finished run below {RUNS}/: name a run's directory, or train one"
        )));
    };
    tell(format_args!("The newest finished run: {}", run.display()));
    Ok(run)
}

/// The run that was begun last of those that are not finished and that nobody works on, which is
/// said.
pub(super) fn newest_unfinished() -> Result<PathBuf> {
    let unfinished = |root: PathBuf| {
        let (run, config) = RunDirectory::open(&root).ok()?;
        let idle = !scored(&run, &config).is_file() && holder(&root).is_none();
        let files = [root.join("metrics.jsonl"), root.join("config.toml")];
        let written = files.iter().find_map(|file| written(file));
        idle.then_some((written?, root))
    };
    let newest = own().filter_map(unfinished);
    let Some((_, run)) = newest.max() else {
        return Err(wrong(format_args!(
            "--resume: no unfinished run below {RUNS}/: name its directory"
        )));
    };
    tell(format_args!("The newest unfinished run: {}", run.display()));
    Ok(run)
}

/// The runs below `runs`, without the pieces of tables and sweeps.
fn own() -> impl Iterator<Item = PathBuf> {
    let runs = below(Path::new(RUNS)).into_iter();
    runs.filter(|run| !is_piece(run))
}

/// Whether a directory is a training or an evaluation of a table or a sweep, whose own command goes
/// on with it.
pub(super) fn is_piece(run: &Path) -> bool {
    let place = std::path::absolute(run).unwrap_or_else(|_| run.to_path_buf());
    let folder = place.parent().and_then(Path::file_name);
    if !folder.is_some_and(|name| name == "trainings" || name == "evaluations") {
        return false;
    }
    let by = |command: &str| {
        [" reproduce ", " --sweep"]
            .iter()
            .any(|word| command.contains(word))
    };
    let begun = RunDirectory::at(run).environment();
    begun.map_or(true, |begun| by(&begun.command))
}

/// The file that a run writes last.
fn scored(run: &RunDirectory, config: &RunConfig) -> PathBuf {
    run.predictions_file(&config.data.dataset)
}

pub(super) fn written(file: &Path) -> Option<SystemTime> {
    file.metadata().and_then(|found| found.modified()).ok()
}
