//! Errors in how the program was called: exit code 2, as clap's own.

use data::DataError;
use model::ModelError;
use train::TrainError;

use crate::backend::DeviceError;

/// Exit code of a command that cannot be meant so.
pub(super) const WRONG: u8 = 2;

/// A flag or its value that does not serve.
#[derive(Debug)]
pub(super) struct Usage(String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// The error of a flag that does not serve: which, why, and what to do.
pub(super) fn wrong(message: impl std::fmt::Display) -> anyhow::Error {
    Usage(message.to_string()).into()
}

/// Whether an error is the caller's: a flag, a name or a setting is wrong. What lies in a file, on
/// a disk or on the network is not. A message about a flag begins with the flag.
pub(super) fn is_usage(error: &anyhow::Error) -> bool {
    // A key without a dot is of a model's file or of what it makes of a question.
    let setting = |key: &str| key.contains('.');
    let of_data =
        |error: &DataError| matches!(error, DataError::Setting { key, .. } if setting(key));
    let of_train = |error: &TrainError| match error {
        TrainError::Config { .. } => true,
        TrainError::Data(error) => of_data(error),
        TrainError::Model(error) => {
            matches!(error, ModelError::Setting { key, .. } if setting(key))
        }
        _ => false,
    };
    error.to_string().starts_with("--")
        || error.is::<Usage>()
        || error.is::<DeviceError>()
        || error.downcast_ref().is_some_and(of_train)
        || error.downcast_ref().is_some_and(of_data)
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn wrong_values_are_the_callers_and_damaged_files_are_not() {
        let mut layers = train::config::ConfigLayers::default();
        let setting: anyhow::Error = layers.set("train.epoch=1").unwrap_err().into();
        assert!(is_usage(&setting));
        let around = Err::<(), _>(setting).context("while reading flags");
        assert!(is_usage(&around.unwrap_err()));
        let missing = layers.file("nowhere.toml".as_ref()).unwrap_err();
        assert!(!is_usage(&missing.into()));
        assert!(is_usage(&anyhow::anyhow!("--seeds: expected at least 1")));
        assert!(is_usage(&wrong("nothing to fetch")));
        assert!(is_usage(&crate::backend::find("tpu").unwrap_err().into()));
        assert!(!is_usage(&anyhow::anyhow!("the disk is full")));
    }
}
