//! `evaluation/<set>/predictions.jsonl`: what was said of the questions of a set.

use std::fs;
use std::path::{Path, PathBuf};

use super::RunDirectory;
use crate::config::RunConfig;
use crate::error::TrainError;
use crate::prediction::ScoredRow;

/// Name of the held-out questions among the sets below `evaluation/`.
pub const HELD_OUT: &str = "held-out";

const PREDICTIONS: &str = "predictions.jsonl";
const BASE_PREDICTIONS: &str = "base-predictions.jsonl";
/// Where earlier runs kept what is now in `evaluation/held-out/predictions.jsonl`: beside the
/// predictions on their own dataset.
const FORMER_HELD_OUT_PREDICTIONS: &str = "held-out-predictions.jsonl";

impl RunDirectory {
    /// The file with a set's predictions, which need not be there yet.
    pub fn predictions_file(&self, set: &str) -> PathBuf {
        self.evaluation(set).join(PREDICTIONS)
    }

    /// What the run says of the questions of a set.
    ///
    /// # Errors
    /// A set that has not been scored, a file that is not as it was written, or a line that is
    /// malformed.
    pub fn predictions(&self, set: &str) -> Result<Vec<ScoredRow>, TrainError> {
        self.checked(&self.predictions_file(set))
    }

    /// The predictions of a file of the run.
    fn checked(&self, path: &Path) -> Result<Vec<ScoredRow>, TrainError> {
        if !path.exists() {
            let reason = "is missing: the run was not scored to its end; `uq4ct runs` shows how to go on with it";
            return Err(TrainError::file(path, reason));
        }
        let name = path.strip_prefix(&self.root).unwrap_or(path);
        let text = self.read_text(&name.to_string_lossy())?;
        parse(path, &text)
    }

    /// Writes what the run says of the questions of a set.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write_predictions(&self, set: &str, rows: &[ScoredRow]) -> Result<(), TrainError> {
        self.keep_predictions(set, PREDICTIONS, rows)
    }

    /// Writes what the base model says of the questions of a set.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write_base_predictions(&self, set: &str, rows: &[ScoredRow]) -> Result<(), TrainError> {
        self.keep_predictions(set, BASE_PREDICTIONS, rows)
    }

    fn keep_predictions(
        &self,
        set: &str,
        file: &str,
        rows: &[ScoredRow],
    ) -> Result<(), TrainError> {
        let path = self.evaluation(set).join(file);
        let mut text = String::new();
        for row in rows {
            text += &serde_json::to_string(row).map_err(|e| TrainError::file(&path, e))?;
            text.push('\n');
        }
        self.keep_text(&format!("evaluation/{set}/{file}"), &text)
    }

    /// What the base model says of the questions of a set; none where it was not asked.
    ///
    /// # Errors
    /// A line that is malformed.
    pub fn base_predictions(&self, set: &str) -> Result<Vec<ScoredRow>, TrainError> {
        let file = self.evaluation(set).join(BASE_PREDICTIONS);
        match file.is_file() {
            true => self.checked(&file),
            false => Ok(Vec::new()),
        }
    }

    /// Whether the predictions on held-out questions are there, whole or not.
    pub fn has_held_out_predictions(&self, config: &RunConfig) -> bool {
        self.held_out_file(config).exists()
    }

    /// Where the predictions on held-out questions are, by today's layout or that of earlier runs.
    pub(crate) fn held_out_file(&self, config: &RunConfig) -> PathBuf {
        let file = self.predictions_file(HELD_OUT);
        let former = self.evaluation(&config.data.dataset);
        let former = former.join(FORMER_HELD_OUT_PREDICTIONS);
        match !file.is_file() && former.is_file() {
            true => former,
            false => file,
        }
    }

    /// What the run says of its held-out questions, all of them.
    ///
    /// # Errors
    /// A run that has not been scored, a line that is malformed, or a file that was cut.
    pub fn held_out_predictions(&self, config: &RunConfig) -> Result<Vec<ScoredRow>, TrainError> {
        let file = self.held_out_file(config);
        let rows = self.checked(&file)?;
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
}

/// Reads `predictions.jsonl`.
///
/// # Errors
/// A file that is absent, or a line that is malformed or contradicts itself, by number.
pub fn read_predictions(path: &Path) -> Result<Vec<ScoredRow>, TrainError> {
    let _at_hand = fault::reading(path);
    let text = fs::read_to_string(path).map_err(|e| TrainError::file(path, e))?;
    parse(path, &text)
}

fn parse(path: &Path, text: &str) -> Result<Vec<ScoredRow>, TrainError> {
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

#[cfg(test)]
mod tests {
    use data::split::SplitAccount;

    use super::*;
    use crate::run_directory::Provenance;

    const LINE: &str =
        r#"{"id":"q","label":0,"logits":[0.5,-0.5],"probabilities":[0.73,0.27],"flu":null}"#;

    fn run() -> (tempfile::TempDir, RunDirectory) {
        let root = tempfile::tempdir().unwrap();
        let run = RunDirectory::create(root.path(), &RunConfig::default(), false).unwrap();
        (root, run)
    }

    fn put(run: &RunDirectory, file: &str, text: &str) {
        run.write_text(file, text).unwrap();
    }

    #[test]
    fn held_out_predictions_of_earlier_runs_are_found() {
        let (_root, run) = run();
        let config = RunConfig::default();
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
        let (_root, run) = run();
        let config = RunConfig::default();
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
        let (_root, run) = run();
        let config = RunConfig::default();
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
            chat: None,
            prompt: None,
            model: Vec::new(),
            adapter: Vec::new(),
            split,
            shortened: [0; 3],
            answers_cut: 0,
            left_out: Vec::new(),
            base_parameters: 1,
            trainable_parameters: 1,
        })
        .unwrap();
        for (rows, whole) in [(2, false), (3, true), (4, false)] {
            put(&run, file, &format!("{LINE}\n").repeat(rows));
            assert_eq!(run.held_out_predictions(&config).is_ok(), whole, "{rows}");
        }
    }
}
