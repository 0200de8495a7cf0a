//! What can go wrong in a run.

use std::error::Error;
use std::path::PathBuf;

/// An error with its place and, where there is one, its remedy.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// Data could not be read.
    #[error(transparent)]
    Data(#[from] data::DataError),
    /// A model could not be read or built.
    #[error(transparent)]
    Model(#[from] model::ModelError),
    /// A setting that cannot be used.
    #[error("{place}: {reason}")]
    Config {
        /// File and line, or the flag.
        place: String,
        /// What was expected, what was found, what to do.
        reason: String,
    },
    /// A file of the run that could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong: another library's error, or a reason of our own with what to do.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A stop was asked for.
    #[error("stopped on request")]
    Stopped,
    /// Training itself failed.
    #[error("training failed: {0}")]
    Training(String),
}

impl TrainError {
    pub(crate) fn not_finite(question: &str) -> Self {
        Self::Training(format!(
            "question {question}: the model's answer is no number: lower train.learning_rate, or \
             use model.dtype = \"f32\""
        ))
    }

    pub(crate) fn config(place: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Config {
            place: place.into(),
            reason: reason.into(),
        }
    }

    pub(crate) fn file(
        path: impl Into<PathBuf>,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self::File {
            path: path.into(),
            source: source.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_files_error_says_path_and_reason_and_keeps_its_source() {
        let missing = std::fs::read("/does/not/exist").unwrap_err();
        let (text, kind) = (missing.to_string(), missing.kind());
        let error = TrainError::file("run/metrics.jsonl", missing);
        assert_eq!(error.to_string(), format!("run/metrics.jsonl: {text}"));
        let source = error.source().unwrap().downcast_ref::<std::io::Error>();
        assert_eq!(source.unwrap().kind(), kind);
        let error = TrainError::file("run", "already holds a run");
        assert_eq!(error.to_string(), "run: already holds a run");
    }
}
