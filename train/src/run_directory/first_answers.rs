//! The first answers to the training questions, and the temperature that they call for.

use std::path::PathBuf;

use super::RunDirectory;
use crate::error::TrainError;
use crate::prequential::PrequentialTemperature;

pub(super) const FIRST_ANSWERS: &str = "prequential.jsonl";
const TEMPERATURE: &str = "adapter/temperature.json";

impl RunDirectory {
    /// The file with the first answers to the training questions.
    pub fn first_answers(&self) -> PathBuf {
        self.root.join(FIRST_ANSWERS)
    }

    /// The temperature that the training's first answers call for; absent where it kept none.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn temperature(&self) -> Result<Option<PrequentialTemperature>, TrainError> {
        match self.root.join(TEMPERATURE).try_exists() {
            Ok(false) => Ok(None),
            _ => self.read_json(TEMPERATURE).map(Some),
        }
    }

    /// Writes what [`Self::temperature`] reads.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write_temperature(&self, found: PrequentialTemperature) -> Result<(), TrainError> {
        self.write_json(TEMPERATURE, &found)
    }
}
