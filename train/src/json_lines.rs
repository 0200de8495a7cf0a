//! Logs of one JSON value a line.

use std::path::Path;

use serde::de::DeserializeOwned;

use crate::error::TrainError;

/// The values of a log's text; a last line that a crash cut short is none. `path` is for errors.
///
/// # Errors
/// A malformed line, by number.
pub(crate) fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<Vec<T>, TrainError> {
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
        .enumerate()
        .map(|(number, line)| {
            serde_json::from_str(line)
                .map_err(|e| TrainError::file(path, format!("line {}: {e}", number + 1)))
        })
        .collect()
}
