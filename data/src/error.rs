//! What can go wrong between a name and a batch.

use std::path::PathBuf;

/// An error that names the place and, where there is one, the remedy.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A row that cannot be used.
    #[error("{path}, row {row}: {reason}")]
    Row {
        /// The file.
        path: PathBuf,
        /// Its number, from 1; in jsonl the line.
        row: usize,
        /// The field, what was expected, what was found.
        reason: String,
    },
    /// A file that cannot be used as a whole.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Nothing that was tried has the file.
    #[error("{name} was not found. Tried:{}", tried.iter().map(|t| format!("\n  - {t}")).collect::<String>())]
    NotFound {
        /// What was wanted.
        name: String,
        /// Each place and why it did not serve.
        tried: Vec<String>,
    },
    /// A setting that cannot be used.
    #[error("{key}: {reason}")]
    Setting {
        /// The setting.
        key: String,
        /// Expected, got, what to do.
        reason: String,
    },
}

impl DataError {
    /// An [`DataError::Io`] for `path`.
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
