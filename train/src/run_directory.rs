//! What a run leaves on disk: self-describing, safe to copy.
//!
//! ```text
//! config.toml  environment.json  data.json  metrics.jsonl  metrics.csv  events.out.tfevents.*  checkpoint/  adapter/  evaluation/<dataset>/  report.html  report.md
//! ```

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use data::source::Located;
use data::split::SplitAccount;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::config::RunConfig;
use crate::error::TrainError;
use crate::prediction::ScoredRow;
use crate::reproduce::work::HELD_OUT;
use crate::tracker::{self, MetricsLog};

/// A run's directory.
#[derive(Debug, Clone)]
pub struct RunDirectory {
    root: PathBuf,
}

/// On what a run ran.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// This program's version.
    pub version: String,
    /// Commit it was built from, if known.
    pub commit: Option<String>,
    /// Tensor device.
    pub device: String,
    /// Processor threads.
    pub threads: usize,
    /// The command that repeats the run.
    pub command: String,
}

/// From what a run was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// The model's files with source and digest.
    pub model: Vec<Located>,
    /// The files of the adapter that the training started from, with digests.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adapter: Vec<Located>,
    /// The dataset's division.
    pub split: SplitAccount,
    /// Prompts that lost a part of their question or passage: train, held-out, test.
    pub shortened: [usize; 3],
    /// Training answers longer than the model may write: it learns their beginning alone.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub answers_cut: usize,
    /// Parameters of the base model.
    pub base_parameters: usize,
    /// Parameters of the adapter.
    pub trainable_parameters: usize,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// A line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MetricsLine {
    /// `train` (one optimizer step) or `held_out` (one chunk).
    pub split: String,
    /// Optimizer step.
    pub step: usize,
    /// Seconds of training so far, over all sessions.
    pub seconds: f64,
    /// Values by name.
    pub values: serde_json::Map<String, serde_json::Value>,
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
            if known != *config {
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
            "data.json",
            "metrics.jsonl",
            "report.html",
            "report.md",
        ] {
            remove(&root.join(name), |p| fs::remove_file(p))?;
        }
        tracker::remove(root).map_err(|e| TrainError::file(root, e))
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn config_path(&self) -> PathBuf {
        self.root.join("config.toml")
    }

    /// `adapter/`
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

    /// `evaluation/<name>/`
    pub fn evaluation(&self, name: &str) -> PathBuf {
        self.root.join("evaluation").join(name)
    }

    /// What the tuned model said of the held-out questions.
    ///
    /// # Errors
    /// A run that has not been scored.
    pub fn held_out_predictions(&self, config: &RunConfig) -> Result<Vec<ScoredRow>, TrainError> {
        // A table's evaluations keep them as a set of their own.
        let apart = self.evaluation(HELD_OUT).join("predictions.jsonl");
        if apart.is_file() {
            return read_predictions(&apart);
        }
        let folder = self.evaluation(&config.data.dataset);
        read_predictions(&folder.join("held-out-predictions.jsonl"))
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

    /// Opens `metrics.jsonl` and what is kept beside it to append; with `keep_steps`, later lines (of steps that will be repeated) are cut first.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub fn metrics_log(&self, keep_steps: usize) -> Result<MetricsLog, TrainError> {
        let path = self.root.join("metrics.jsonl");
        let mut lines = self.metrics()?;
        lines.retain(|line| line.step <= keep_steps);
        let kept: Vec<String> = lines
            .iter()
            .map(|line| serde_json::to_string(line).map_err(|e| TrainError::file(&path, e)))
            .collect::<Result<_, _>>()?;
        let mut text = kept.join("\n");
        if !text.is_empty() {
            text.push('\n');
        }
        write(&path, text.as_bytes())?;
        MetricsLog::open(&self.root, &path, &lines)
    }

    /// The lines of `metrics.jsonl`; a last line cut short by a crash is dropped.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn metrics(&self) -> Result<Vec<MetricsLine>, TrainError> {
        let path = self.root.join("metrics.jsonl");
        let Ok(file) = File::open(&path) else {
            return Ok(Vec::new());
        };
        let lines: Vec<String> = BufReader::new(file)
            .lines()
            .collect::<Result<_, _>>()
            .map_err(|e| TrainError::file(&path, e))?;
        Ok(lines
            .iter()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect())
    }
}

/// Reads `predictions.jsonl`.
///
/// # Errors
/// A file that is absent, or a line that is malformed, by number.
pub fn read_predictions(path: &Path) -> Result<Vec<ScoredRow>, TrainError> {
    let text = fs::read_to_string(path).map_err(|e| TrainError::file(path, e))?;
    text.lines()
        .enumerate()
        .map(|(number, line)| {
            serde_json::from_str(line)
                .map_err(|e| TrainError::file(path, format!("line {}: {e}", number + 1)))
        })
        .collect()
}

/// Writes `predictions.jsonl`, whole or not at all.
///
/// # Errors
/// A file that cannot be written.
pub fn write_predictions(path: &Path, rows: &[ScoredRow]) -> Result<(), TrainError> {
    let mut text = String::new();
    for row in rows {
        text += &serde_json::to_string(row).map_err(|e| TrainError::file(path, e))?;
        text.push('\n');
    }
    write(path, text.as_bytes())
}

/// Writes beside the destination and renames, so that a cut leaves the old file or the new one.
fn write(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
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
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(TrainError::file(path, e)),
        _ => Ok(()),
    }
}
