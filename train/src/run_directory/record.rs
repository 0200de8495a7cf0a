//! `environment.json`, `data.json` and `seen.bin`: who made a run, and from what.

use std::collections::HashSet;
use std::fs;
use std::io::ErrorKind;

use data::MultipleChoice;
use data::leaks::{from_bytes, question_hash, to_bytes};
use data::source::Located;
use data::split::SplitAccount;
use serde::{Deserialize, Serialize};

use super::RunDirectory;
use crate::error::TrainError;
use crate::prepare::{LeftOut, Prepared};

pub(super) const DATA: &str = "data.json";
pub(super) const ENVIRONMENT: &str = "environment.json";
/// Hashes of the questions that a run was trained or calibrated on.
pub(super) const SEEN: &str = "seen.bin";

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
    /// The chat template that the questions were put in; absent where they were not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat: Option<ChatRecord>,
    /// A question exactly as the model reads it, special tokens among it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
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
    /// Questions that cannot be asked, of this dataset and of the others that were scored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftOut>,
    /// Parameters of the base model.
    pub base_parameters: usize,
    /// Parameters of the adapter.
    pub trainable_parameters: usize,
}

/// A chat template as a run used it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChatRecord {
    /// The template's Jinja source.
    pub template: String,
    /// The files beside the model that it came from; none where the model's own file holds it.
    pub files: Vec<Located>,
}

impl ChatRecord {
    /// Of what a run was prepared with.
    pub(crate) fn of(prepared: &Prepared) -> Option<Self> {
        prepared.chat().map(|chat| Self {
            template: chat.source().into(),
            files: prepared.chat_files.clone(),
        })
    }
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

impl RunDirectory {
    /// What the run is made of.
    ///
    /// # Errors
    /// No `data.json`, or one that cannot be read.
    pub fn provenance(&self) -> Result<Provenance, TrainError> {
        self.digests().check(DATA)?;
        self.read_json(DATA).map_err(|error| match error {
            TrainError::File { path, source } => {
                let remedy = "put the run's own file back, or train anew with --overwrite";
                TrainError::file(path, format!("{source}: {remedy}"))
            }
            other => other,
        })
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
        self.keep_json(DATA, provenance)
    }

    /// Program, machine and command of the run.
    ///
    /// # Errors
    /// No `environment.json`, or one that cannot be read.
    pub fn environment(&self) -> Result<Environment, TrainError> {
        self.read_json(ENVIRONMENT)
    }

    /// Writes what [`Self::environment`] reads.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write_environment(&self, environment: &Environment) -> Result<(), TrainError> {
        self.keep_json(ENVIRONMENT, environment)
    }

    /// Writes down which questions the run is trained or calibrated on.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write_seen<'a>(
        &self,
        questions: impl IntoIterator<Item = &'a MultipleChoice>,
    ) -> Result<(), TrainError> {
        self.digests().put(SEEN, &to_bytes(questions))
    }

    /// How many of these questions the run was trained or calibrated on; none where it does not
    /// say, as those of earlier versions.
    ///
    /// # Errors
    /// A file that is damaged.
    pub fn seen_among(&self, questions: &[MultipleChoice]) -> Result<Option<usize>, TrainError> {
        if !self.root.join(SEEN).is_file() {
            return Ok(None);
        }
        let seen: HashSet<u64> = from_bytes(&self.digests().read(SEEN)?).collect();
        let known = |question: &&MultipleChoice| seen.contains(&question_hash(question));
        Ok(Some(questions.iter().filter(known).count()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_file_that_cannot_be_read_is_no_missing_one() {
        let root = tempfile::tempdir().unwrap();
        let run = RunDirectory::at(root.path());
        assert!(run.provenance_if_written().unwrap().is_none());
        run.write_text(DATA, "{").unwrap();
        let error = run.provenance_if_written().unwrap_err().to_string();
        assert!(
            error.contains("data.json") && error.contains("--overwrite"),
            "{error}"
        );
    }
}
