//! Errors between the name of a dataset or model and a batch.

use std::path::PathBuf;

/// What went wrong with data or a model's files: the place and, where there is one, the remedy.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Path of the file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A row that cannot be used.
    #[error("{path}, row {row}: {reason}")]
    Row {
        /// Path of the file.
        path: PathBuf,
        /// Number of the row, from 1; in jsonl the line.
        row: usize,
        /// The field, what was expected, what was found.
        reason: String,
    },
    /// A file that cannot be used as a whole.
    #[error("{path}: {reason}")]
    File {
        /// Path of the file.
        path: PathBuf,
        /// What is wrong with the file.
        reason: String,
    },
    /// Nothing that was tried has the file.
    #[error("{name} was not found. Tried:{}", tried.iter().map(|t| format!("\n  - {t}")).collect::<String>())]
    NotFound {
        /// What was looked for.
        name: String,
        /// Each place that was tried, and why it did not serve.
        tried: Vec<String>,
    },
    /// A question that cannot be asked by the settings.
    #[error("{}: {reason}", if id.is_empty() { "a question without an id".into() } else { format!("row {id}") })]
    Question {
        /// Name of the question.
        id: String,
        /// What does not fit, and what to do.
        reason: String,
    },
    /// A setting that cannot be used.
    #[error("{key}: {reason}")]
    Setting {
        /// Name of the setting.
        key: String,
        /// What was expected, what was found, what to do.
        reason: String,
    },
}

impl DataError {
    /// A [`DataError::Io`] for `path`.
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io {
            path: path.into(),
            source,
        }
    }

    pub(crate) fn setting(key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Setting {
            key: key.into(),
            reason: reason.into(),
        }
    }
}
