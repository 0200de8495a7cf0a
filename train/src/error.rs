//! What can go wrong in a run.

use std::path::PathBuf;

/// An error with its place and, where there is one, its remedy.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// From reading data.
    #[error(transparent)]
    Data(#[from] data::DataError),
    /// From reading or building a model.
    #[error(transparent)]
    Model(#[from] model::ModelError),
    /// A setting that cannot be used.
    #[error("{place}: {reason}")]
    Config {
        /// File and line, or the flag.
        place: String,
        /// Expected, got, what to do.
        reason: String,
    },
    /// A file of the run that could not be read or written.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
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
            "question {question}: the model's answer is no number: lower train.learning_rate, or use model.dtype = \"f32\""
        ))
    }

    pub(crate) fn config(place: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Config {
            place: place.into(),
            reason: reason.into(),
        }
    }

    pub(crate) fn file(path: impl Into<PathBuf>, reason: impl ToString) -> Self {
        Self::File {
            path: path.into(),
            reason: reason.to_string(),
        }
    }
}
