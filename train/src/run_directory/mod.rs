//! What a run leaves on disk: self-describing, safe to copy.
//!
//! ```text
//! config.toml                              the settings
//! environment.json  data.json              program and machine; files of model and data
//! metrics.jsonl  metrics.csv  events.out.tfevents.*
//! prequential.jsonl                        first answers to the training questions
//! checkpoint/  adapter/  members/s<seed>/
//! evaluation/<set>/predictions.jsonl       a set is a dataset's test questions, or `held-out`
//! evaluation/<set>/base-predictions.jsonl  the base model's, where it was asked
//! report.html  report.md
//! ```

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::config::RunConfig;
use crate::error::TrainError;
use crate::tracker;

mod first_answers;
mod metrics;
mod predictions;
mod record;

pub use predictions::{HELD_OUT, read_predictions, write_predictions};
pub use record::{ChatRecord, Environment, Provenance};

use first_answers::FIRST_ANSWERS;
use metrics::METRICS;
use record::DATA;

/// A run's directory.
#[derive(Debug, Clone)]
pub struct RunDirectory {
    root: PathBuf,
}

impl RunDirectory {
    /// Creates a directory for a new run, or opens one to go on with.
    ///
    /// # Errors
    /// A directory that already holds another run, or one that is to be resumed and does not exist.
    pub fn create(root: &Path, config: &RunConfig, resume: bool) -> Result<Self, TrainError> {
        let run = Self {
            root: root.to_path_buf(),
        };
        let file = run.config_path();
        if resume {
            let known = RunConfig::read(&file).map_err(|e| {
                TrainError::file(
                    &file,
                    format!("nothing to resume ({e}); start without --resume"),
                )
            })?;
            // Runs of earlier versions hold relative paths.
            if known.anchored() != config.anchored() {
                return Err(TrainError::file(
                    &file,
                    "the run was started with other settings: repeat its command, or choose another --run",
                ));
            }
        } else if file.exists() {
            return Err(TrainError::file(
                root,
                "already holds a run: continue it with --resume, replace it with --overwrite, or choose another --run",
            ));
        }
        fs::create_dir_all(root).map_err(|e| TrainError::file(root, e))?;
        write(&file, config.to_toml().as_bytes())?;
        Ok(run)
    }

    /// The directory of a run that may not exist yet.
    pub fn at(root: &Path) -> Self {
        Self {
            root: root.to_path_buf(),
        }
    }

    /// Opens a finished or interrupted run.
    ///
    /// # Errors
    /// A directory without a readable `config.toml`.
    pub fn open(root: &Path) -> Result<(Self, RunConfig), TrainError> {
        let run = Self {
            root: root.to_path_buf(),
        };
        let config = RunConfig::read(&run.config_path())?;
        Ok((run, config))
    }

    /// Removes what an earlier run of ours left in `root`, and only that.
    ///
    /// # Errors
    /// A directory that is not empty and holds no run, or files that cannot be removed.
    pub fn clear(root: &Path) -> Result<(), TrainError> {
        let empty = fs::read_dir(root).map_or(true, |mut entries| entries.next().is_none());
        if empty {
            return Ok(());
        }
        if let Err(error) = RunConfig::read(&root.join("config.toml")) {
            let reason = format!("--overwrite replaces runs only, and this holds none ({error})");
            return Err(TrainError::file(root, reason));
        }
        for name in ["checkpoint", "adapter", "evaluation", "members"] {
            remove(&root.join(name), |p| fs::remove_dir_all(p))?;
        }
        for name in [
            "config.toml",
            "environment.json",
            DATA,
            METRICS,
            FIRST_ANSWERS,
            "report.html",
            "report.md",
        ] {
            remove(&root.join(name), |p| fs::remove_file(p))?;
        }
        tracker::remove(root).map_err(|e| TrainError::file(root, e))
    }

    /// Path of the directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn config_path(&self) -> PathBuf {
        self.root.join("config.toml")
    }

    /// The file with the trained adapter. While it is absent, the training has not finished.
    pub fn adapter(&self) -> PathBuf {
        self.root.join("adapter").join("adapter.bpk")
    }

    /// The directory of one training of several, by its seed.
    pub fn member(&self, seed: u64) -> Self {
        Self {
            root: self.root.join("members").join(format!("s{seed}")),
        }
    }

    /// Whether a run was begun here.
    pub fn exists(&self) -> bool {
        self.config_path().is_file()
    }

    /// The directory of a set of scored questions, `evaluation/<set>/`.
    pub fn evaluation(&self, set: &str) -> PathBuf {
        self.root.join("evaluation").join(set)
    }

    /// Writes a JSON file, whole or not at all.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write_json(&self, name: &str, value: &impl Serialize) -> Result<(), TrainError> {
        let path = self.root.join(name);
        let text = serde_json::to_string_pretty(value).map_err(|e| TrainError::file(&path, e))?;
        write(&path, text.as_bytes())
    }

    /// Reads a JSON file.
    ///
    /// # Errors
    /// A file that is absent or malformed.
    pub fn read_json<T: DeserializeOwned>(&self, name: &str) -> Result<T, TrainError> {
        let path = self.root.join(name);
        let _at_hand = fault::reading(&path);
        let text = fs::read_to_string(&path).map_err(|e| TrainError::file(&path, e))?;
        serde_json::from_str(&text).map_err(|e| TrainError::file(&path, e))
    }

    /// Writes a text file, whole or not at all.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write_text(&self, name: &str, text: &str) -> Result<(), TrainError> {
        write(&self.root.join(name), text.as_bytes())
    }
}

/// Writes beside the destination and renames, so that a cut leaves the old file or the new one.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    let parent = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(|e| TrainError::file(parent, e))?;
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let mut file = File::create(&part).map_err(|e| TrainError::file(&part, e))?;
    file.write_all(bytes)
        .map_err(|e| TrainError::file(&part, e))?;
    file.sync_all().map_err(|e| TrainError::file(&part, e))?;
    fs::rename(&part, path).map_err(|e| TrainError::file(path, e))
}

fn remove(path: &Path, how: impl Fn(&Path) -> std::io::Result<()>) -> Result<(), TrainError> {
    match how(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(TrainError::file(path, e)),
        _ => Ok(()),
    }
}
