//! What a run leaves on disk: self-describing, safe to copy.
//!
//! ```text
//! config.toml  environment.json  data.json
//! metrics.jsonl  metrics.csv  events.out.tfevents.*
//! checkpoint/  adapter/  members/s<seed>/
//! evaluation/<set>/predictions.jsonl       a set is a dataset's test questions, or `held-out`
//! evaluation/<set>/base-predictions.jsonl  the base model's, where it was asked
//! report.html  report.md
//! ```

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use data::source::Located;
use data::split::SplitAccount;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::config::RunConfig;
use crate::error::TrainError;
use crate::prediction::ScoredRow;
use crate::tracker::{self, MetricsLine, MetricsLog};

/// Name of the held-out questions among the sets below `evaluation/`.
pub const HELD_OUT: &str = "held-out";

const DATA: &str = "data.json";
const METRICS: &str = "metrics.jsonl";
const PREDICTIONS: &str = "predictions.jsonl";
const BASE_PREDICTIONS: &str = "base-predictions.jsonl";
/// Where earlier runs kept what is now in `evaluation/held-out/predictions.jsonl`: beside the
/// predictions on their own dataset.
const FORMER_HELD_OUT_PREDICTIONS: &str = "held-out-predictions.jsonl";

/// A run's directory.
#[derive(Debug, Clone)]
pub struct RunDirectory {
    root: PathBuf,
}

/// The program, machine and command of a run: `environment.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// Version of this program.
    pub version: String,
    /// Commit that the program was built from, if known.
    pub commit: Option<String>,
    /// Name of the tensor device, as `--device` takes it.
    pub device: String,
    /// Processor threads.
    pub threads: usize,
    /// The command that repeats the run.
    pub command: String,
}

/// From what a run was made: `data.json`.
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
            DATA,
            METRICS,
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

    /// The file with a set's predictions, which need not be there yet.
    pub fn predictions_file(&self, set: &str) -> PathBuf {
        self.evaluation(set).join(PREDICTIONS)
    }

    /// What the run says of the questions of a set.
    ///
    /// # Errors
    /// A set that has not been scored, or a line that is malformed.
    pub fn predictions(&self, set: &str) -> Result<Vec<ScoredRow>, TrainError> {
        read_predictions(&self.predictions_file(set))
    }

    /// Writes what the run says of the questions of a set.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write_predictions(&self, set: &str, rows: &[ScoredRow]) -> Result<(), TrainError> {
        write_predictions(&self.predictions_file(set), rows)
    }

    /// Writes what the base model says of the questions of a set.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write_base_predictions(&self, set: &str, rows: &[ScoredRow]) -> Result<(), TrainError> {
        write_predictions(&self.evaluation(set).join(BASE_PREDICTIONS), rows)
    }

    /// What the run says of its held-out questions, all of them.
    ///
    /// # Errors
    /// A run that has not been scored, a line that is malformed, or a file that was cut.
    pub fn held_out_predictions(&self, config: &RunConfig) -> Result<Vec<ScoredRow>, TrainError> {
        let mut file = self.predictions_file(HELD_OUT);
        let former = self.evaluation(&config.data.dataset);
        let former = former.join(FORMER_HELD_OUT_PREDICTIONS);
        if !file.is_file() && former.is_file() {
            file = former;
        }
        let rows = read_predictions(&file)?;
        // Recorded results are kept without the files that say how many there were.
        let known = self.provenance_if_written()?;
        let expected = known.map_or(rows.len().max(1), |known| known.split.used[1]);
        match rows.len() == expected {
            true => Ok(rows),
            false => {
                let found = rows.len();
                let reason = format!(
                    "holds {found} of {expected} held-out predictions: copy it from the original run, or remove it and repeat the run's command with --resume"
                );
                Err(TrainError::file(file, reason))
            }
        }
    }

    /// What the run is made of.
    ///
    /// # Errors
    /// No `data.json`, or one that cannot be read.
    pub fn provenance(&self) -> Result<Provenance, TrainError> {
        self.read_json(DATA)
    }

    /// What the run is made of; none where it was stopped before that was written.
    ///
    /// # Errors
    /// A `data.json` that cannot be read.
    pub fn provenance_if_written(&self) -> Result<Option<Provenance>, TrainError> {
        let path = self.root.join(DATA);
        match fs::symlink_metadata(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            _ => self.provenance().map(Some),
        }
    }

    /// Writes what the run is made of.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write_provenance(&self, provenance: &Provenance) -> Result<(), TrainError> {
        self.write_json(DATA, provenance)
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

    /// Opens `metrics.jsonl` and what is kept beside it to append. Lines after `keep_steps`, whose
    /// steps will be repeated, are cut first; the others stay as they are to the last digit.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub fn metrics_log(&self, keep_steps: usize) -> Result<MetricsLog, TrainError> {
        let path = self.root.join(METRICS);
        let mut kept = self.metrics_as_written()?;
        kept.retain(|(line, _)| line.step <= keep_steps);
        let (lines, texts): (Vec<MetricsLine>, Vec<String>) = kept.into_iter().unzip();
        let text: String = texts
            .iter()
            .flat_map(|line| [line.as_str(), "\n"])
            .collect();
        write(&path, text.as_bytes())?;
        MetricsLog::open(&self.root, &path, &lines)
    }

    /// The lines of `metrics.jsonl`; none before the first step. A last line cut short by a crash
    /// is left out.
    ///
    /// # Errors
    /// A file that cannot be read, or another line that is malformed, by number.
    pub fn metrics(&self) -> Result<Vec<MetricsLine>, TrainError> {
        let lines = self.metrics_as_written()?.into_iter();
        Ok(lines.map(|(line, _)| line).collect())
    }

    /// The lines of `metrics.jsonl`, each with its text.
    fn metrics_as_written(&self) -> Result<Vec<(MetricsLine, String)>, TrainError> {
        let path = self.root.join(METRICS);
        let bytes = match fs::read(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            read => read.map_err(|e| TrainError::file(&path, e))?,
        };
        let mut lines = Vec::new();
        for (number, line) in bytes.split_inclusive(|b| *b == b'\n').enumerate() {
            match serde_json::from_slice(line) {
                Ok(read) => {
                    let text = String::from_utf8_lossy(line).trim_end().to_owned();
                    lines.push((read, text));
                }
                // It was being written when the program died.
                Err(_) if !line.ends_with(b"\n") => {}
                Err(error) => {
                    let reason = format!("line {}: {error}", number + 1);
                    return Err(TrainError::file(&path, reason));
                }
            }
        }
        Ok(lines)
    }
}

/// Reads `predictions.jsonl`.
///
/// # Errors
/// A file that is absent, or a line that is malformed or contradicts itself, by number.
pub fn read_predictions(path: &Path) -> Result<Vec<ScoredRow>, TrainError> {
    let text = fs::read_to_string(path).map_err(|e| TrainError::file(path, e))?;
    text.lines()
        .enumerate()
        .map(|(number, line)| {
            serde_json::from_str(line)
                .map_err(|e| e.to_string())
                .and_then(sound)
                .map_err(|e| TrainError::file(path, format!("line {}: {e}", number + 1)))
        })
        .collect()
}

/// A row whose fields agree with each other.
fn sound(row: ScoredRow) -> Result<ScoredRow, String> {
    let choices = row.probabilities.len();
    if choices == 0 || row.logits.len() != choices {
        let logits = row.logits.len();
        return Err(format!(
            "expected as many logits as probabilities, at least one, got {logits} and {choices}"
        ));
    }
    if row.label >= choices {
        let label = row.label;
        return Err(format!(
            "label: expected a choice from 0 to {}, got {label}",
            choices - 1
        ));
    }
    Ok(row)
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
        Err(e) if e.kind() != ErrorKind::NotFound => Err(TrainError::file(path, e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str =
        r#"{"id":"q","label":0,"logits":[0.5,-0.5],"probabilities":[0.73,0.27],"flu":null}"#;

    fn run() -> (tempfile::TempDir, RunDirectory, RunConfig) {
        let root = tempfile::tempdir().unwrap();
        let config = RunConfig::default();
        let run = RunDirectory::create(root.path(), &config, false).unwrap();
        (root, run, config)
    }

    fn put(run: &RunDirectory, file: &str, text: &str) {
        run.write_text(file, text).unwrap();
    }

    #[test]
    fn held_out_predictions_of_earlier_runs_are_found() {
        let (_root, run, config) = run();
        let missing = run.held_out_predictions(&config).unwrap_err().to_string();
        assert!(
            missing.contains("evaluation/held-out/predictions.jsonl"),
            "{missing}"
        );
        // As earlier versions left them, byte for byte.
        let former = format!(
            "evaluation/{}/held-out-predictions.jsonl",
            config.data.dataset
        );
        put(&run, &former, &format!("{LINE}\n{LINE}\n"));
        assert_eq!(run.held_out_predictions(&config).unwrap().len(), 2);
        // A run that is scored again has the new file too, which counts.
        put(
            &run,
            "evaluation/held-out/predictions.jsonl",
            &format!("{LINE}\n"),
        );
        assert_eq!(run.held_out_predictions(&config).unwrap().len(), 1);
    }

    #[test]
    fn predictions_that_contradict_themselves_are_refused_by_line() {
        let (_root, run, config) = run();
        let file = "evaluation/held-out/predictions.jsonl";
        for (bad, reason) in [
            (
                LINE.replace("\"label\":0", "\"label\":2"),
                "line 2: label: expected a choice from 0 to 1, got 2",
            ),
            (
                LINE.replace("[0.73,0.27]", "[]"),
                "line 2: expected as many logits",
            ),
            (LINE[..40].to_owned(), "line 2: "),
        ] {
            put(&run, file, &format!("{LINE}\n{bad}\n"));
            let error = run.held_out_predictions(&config).unwrap_err().to_string();
            assert!(error.contains(file) && error.contains(reason), "{error}");
        }
    }

    #[test]
    fn held_out_predictions_that_were_cut_are_refused() {
        let (_root, run, config) = run();
        let file = "evaluation/held-out/predictions.jsonl";
        put(&run, file, "");
        let error = run.held_out_predictions(&config).unwrap_err().to_string();
        assert!(
            error.contains("holds 0 of 1 held-out predictions"),
            "{error}"
        );
        let split = SplitAccount {
            used: [8, 3, 4],
            ..SplitAccount::default()
        };
        run.write_provenance(&Provenance {
            model: Vec::new(),
            adapter: Vec::new(),
            split,
            shortened: [0; 3],
            answers_cut: 0,
            base_parameters: 1,
            trainable_parameters: 1,
        })
        .unwrap();
        for (rows, whole) in [(2, false), (3, true), (4, false)] {
            put(&run, file, &format!("{LINE}\n").repeat(rows));
            assert_eq!(run.held_out_predictions(&config).is_ok(), whole, "{rows}");
        }
    }

    #[test]
    fn a_data_file_that_cannot_be_read_is_no_missing_one() {
        let (_root, run, _) = run();
        assert!(run.provenance_if_written().unwrap().is_none());
        put(&run, "data.json", "{");
        assert!(run.provenance_if_written().is_err());
    }

    #[test]
    fn only_a_last_line_cut_short_is_left_out_of_the_metrics() {
        let (root, run, _) = run();
        let line = |step: usize| {
            // More digits than a float that was read and written again would keep.
            format!(
                r#"{{"split":"train","step":{step},"seconds":0.1,"values":{{"loss":1.2345678901234567890}}}}"#
            )
        };
        assert_eq!(run.metrics().unwrap(), []);
        let file = "metrics.jsonl";
        put(
            &run,
            file,
            &format!("{}\n{}\n{}", line(1), line(2), &line(3)[..30]),
        );
        assert_eq!(run.metrics().unwrap().len(), 2);
        // What is kept is kept to the last digit, and the cut line is gone.
        drop(run.metrics_log(1).unwrap());
        let kept = fs::read_to_string(root.path().join(file)).unwrap();
        assert_eq!(kept, line(1) + "\n");
        put(&run, file, &format!("{}\n{{\n{}\n", line(1), line(3)));
        let error = run.metrics().unwrap_err().to_string();
        assert!(error.contains("metrics.jsonl: line 2"), "{error}");
        // What cannot be read is not taken for nothing.
        fs::remove_file(root.path().join(file)).unwrap();
        fs::create_dir(root.path().join(file)).unwrap();
        assert!(run.metrics().is_err());
    }
}
