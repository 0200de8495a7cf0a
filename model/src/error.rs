//! The errors of reading or building a model.

use std::path::PathBuf;

/// An error in reading or building a model, with the file, key or setting that caused it and, where
/// there is one, the remedy.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file could not be opened, read or written.
    #[error("{path}: {source}")]
    Io {
        /// The path of the file.
        path: PathBuf,
        /// The reason that the operating system gave.
        source: std::io::Error,
    },
    /// A model file is not what its name says, or is damaged.
    #[error("{path}: {reason}")]
    Malformed {
        /// The path of the file.
        path: PathBuf,
        /// What is wrong, and where in the file.
        reason: String,
    },
    /// A setting of `config.json` or of the adapter cannot be used.
    #[error("{key}: {reason}")]
    Setting {
        /// The name of the setting.
        key: String,
        /// What was expected, what was found, and what to do.
        reason: String,
    },
    /// A weight is absent.
    #[error(
        "weight `{name}` is missing among {present} tensors ({example}, ..): is the file whole, and of this model?"
    )]
    MissingWeight {
        /// Hugging Face's name of the weight.
        name: String,
        /// The number of tensors in the file.
        present: usize,
        /// The name of a tensor in the file.
        example: String,
    },
    /// A weight has another shape than the configuration asks for.
    #[error(
        "weight `{name}` has shape {found:?}, the configuration asks for {expected:?}: take both files of one model"
    )]
    Shape {
        /// Hugging Face's name of the weight.
        name: String,
        /// The shape in the file.
        found: Vec<usize>,
        /// The shape that the configuration asks for.
        expected: Vec<usize>,
    },
}

impl ModelError {
    pub(crate) fn setting(key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Setting {
            key: key.into(),
            reason: reason.into(),
        }
    }
}
