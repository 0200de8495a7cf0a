//! The datasets, one a file, and their list.
//!
//! A new dataset is a file with an implementation of [`Dataset`] and a line in [`DATASETS`].

use std::path::Path;

use serde_json::Value;

use crate::error::DataError;
use crate::example::MultipleChoice;
use crate::names::unknown;
use crate::prompt::LabelStyle;
use crate::rows::{Row, Rows};
use crate::source::{Artifact, Finder};

pub mod arc;
pub mod boolq;
pub mod climateqa;
pub mod climatex;
pub mod commonsenseqa;
pub mod custom;
mod fields;
pub mod hellaswag;
mod loading;
pub mod medmcqa;
pub mod medqa;
pub mod mmlu;
pub mod mmlu_pro;
pub mod openbookqa;
pub mod piqa;
pub mod pira;
mod published;
pub mod sciq;
pub mod social_iqa;
pub mod triviaqa;
pub mod truthfulqa;
pub mod winogrande;

/// CONTRIBUTING's example of a new dataset.
#[cfg(test)]
#[path = "../../../tests/contributing/qasc.rs"]
pub mod qasc;

pub use loading::{LoadedSplit, is_numbered, load, name_rows, parse_all};

/// A part of a dataset as it was published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OfficialSplit {
    /// Questions for training.
    Train,
    /// Questions for choices made along the way.
    Validation,
    /// Questions for the final figures.
    Test,
}

impl OfficialSplit {
    /// The split's name in files: `train`, `validation` or `test`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Test => "test",
        }
    }
}

/// Where a dataset's rows come from and how they read.
pub trait Dataset: Sync {
    /// The dataset's name on the command line.
    fn name(&self) -> &'static str;
    /// What stands for an answer in the prompt.
    fn labels(&self) -> LabelStyle {
        LabelStyle::Letter
    }
    /// The published splits with labels. Where there is no test split, the validation split serves.
    fn splits(&self) -> &[OfficialSplit] {
        &[
            OfficialSplit::Train,
            OfficialSplit::Validation,
            OfficialSplit::Test,
        ]
    }
    /// Where the rows of a split can be found; several parts make it up together.
    fn parts(&self, split: OfficialSplit) -> Vec<Artifact>;
    /// The same dataset with its splits, where only a look at what is published tells them; absent
    /// where they are known.
    ///
    /// # Errors
    /// A place that cannot be looked at, or holds no splits.
    fn located(&self, _finder: &Finder) -> Result<Option<Box<dyn Dataset>>, DataError> {
        Ok(None)
    }
    /// The same dataset with what the files of all splits tell together; absent where each speaks
    /// for itself.
    ///
    /// # Errors
    /// A row that cannot be read, or a field that no file has.
    fn agreed(&self, _finder: &Finder) -> Result<Option<Box<dyn Dataset>>, DataError> {
        Ok(None)
    }
    /// The number that means the first choice in answers that are numbers, where that is not the
    /// same everywhere and is known.
    fn counts_from(&self) -> Option<usize> {
        None
    }
    /// The fields that are read of a file with such first rows; none for all of them.
    fn fields(&self, _first: &[Row]) -> Option<Vec<String>> {
        None
    }
    /// A file that says how rows read, beside the rows' own; none where the program does.
    fn described_by(&self) -> Option<&Path> {
        None
    }
    /// Whether the validation split is the test where there is no test split, as in datasets whose
    /// test is unlabelled.
    fn validation_is_test(&self) -> bool {
        true
    }
    /// Names of the columns of published csv files that have no header.
    fn columns(&self) -> &'static [&'static str] {
        &[]
    }
    /// Reads one row in any of the formats in which the dataset is published; `Ok(None)` for a row
    /// without an answer.
    ///
    /// # Errors
    /// The field, what was expected, what was found.
    fn parse(&self, row: &Value) -> Result<Option<MultipleChoice>, String>;
    /// The same dataset with what only all rows of a file together tell about each of them; absent
    /// where every row speaks for itself.
    ///
    /// # Errors
    /// A row that cannot be read.
    fn decided_by(&self, _rows: &dyn Rows) -> Result<Option<Box<dyn Dataset>>, DataError> {
        Ok(None)
    }
    /// What [`Self::decided_by`] found by itself about the fields, in words; none where there is
    /// nothing to say.
    fn found_by_itself(&self) -> Option<String> {
        None
    }
    /// The project's own miniature of a split as JSON lines: a few made-up questions for tests. The
    /// user's own dataset has none.
    fn miniature(&self, split: OfficialSplit) -> Option<&'static str> {
        Some(lettered_miniature(split))
    }
}

/// The miniature that all lettered datasets share.
fn lettered_miniature(split: OfficialSplit) -> &'static str {
    match split {
        OfficialSplit::Train => include_str!("../../miniature/lettered-train.jsonl"),
        OfficialSplit::Validation => include_str!("../../miniature/lettered-validation.jsonl"),
        OfficialSplit::Test => include_str!("../../miniature/lettered-test.jsonl"),
    }
}

/// A dataset that a run can use: one of the list, or the user's own files.
#[derive(Clone)]
pub enum AnyDataset {
    /// A dataset of [`DATASETS`].
    Listed(&'static dyn Dataset),
    /// The user's own files.
    Custom(Box<custom::Custom>),
}

impl std::ops::Deref for AnyDataset {
    type Target = dyn Dataset;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::Listed(dataset) => *dataset,
            Self::Custom(custom) => &**custom,
        }
    }
}

/// Every dataset: those of the paper in the order of its columns, then others.
pub static DATASETS: &[&dyn Dataset] = &[
    &boolq::BoolQ,
    &arc::Arc::EASY,
    &arc::Arc::CHALLENGE,
    &openbookqa::OpenBookQa,
    &climateqa::ClimateQa,
    &mmlu::Mmlu::COMPUTER_SCIENCE,
    &mmlu::Mmlu::ENGINEERING,
    &mmlu::Mmlu::LAW,
    &mmlu::Mmlu::HEALTH,
    &climatex::ClimateX,
    &pira::Pira,
    &triviaqa::TriviaQa,
    &commonsenseqa::CommonsenseQa,
    &hellaswag::HellaSwag,
    &piqa::Piqa,
    &social_iqa::SocialIqa,
    &winogrande::WinoGrande,
    &medqa::MedQa,
    &medmcqa::MedMcqa,
    &sciq::SciQ,
    &truthfulqa::TruthfulQa,
    &mmlu::Mmlu::WHOLE,
    &mmlu_pro::MmluPro,
];

/// The dataset with a name; the name `custom` stands for the user's own files.
///
/// # Errors
/// An unknown name, with the known ones, or `custom` without a file.
pub fn find(name: &str, custom: &custom::Custom) -> Result<AnyDataset, DataError> {
    if name == custom::NAME {
        if custom.train.is_none() && custom.test.is_none() && custom.hub.is_none() {
            return Err(DataError::setting(
                "data.custom",
                "the dataset custom needs data.custom.train or data.custom.test, a file of questions, or data.custom.hub, a dataset of the Hub",
            ));
        }
        return Ok(AnyDataset::Custom(Box::new(custom.clone().prepared()?)));
    }
    DATASETS
        .iter()
        .find(|d| d.name() == name)
        .map(|d| AnyDataset::Listed(*d))
        .ok_or_else(|| DataError::setting("data.dataset", unknown("dataset", name, &names())))
}

/// Every name that [`find`] knows.
pub fn names() -> Vec<&'static str> {
    let listed = DATASETS.iter().map(|dataset| dataset.name());
    listed.chain([custom::NAME]).collect()
}

/// Whether these are questions of the user's own, and no listed dataset.
pub fn is_own(dataset: &dyn Dataset) -> bool {
    DATASETS
        .iter()
        .all(|listed| listed.name() != dataset.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contributings_example_reads_a_row_in_the_uniform_format() {
        let row = serde_json::json!({
            "id": "7",
            "question": "What do bees make?",
            "choices": ["honey", "milk", "silk", "wool"],
            "label": 0,
        });
        let read = qasc::Qasc.parse(&row).unwrap().unwrap();
        assert_eq!((read.choices.len(), read.answer), (4, 0));
        assert_eq!(qasc::Qasc.name(), "qasc");
        assert_eq!(qasc::Qasc.splits(), [OfficialSplit::Test]);
        assert_eq!(qasc::Qasc.parts(OfficialSplit::Test).len(), 1);
    }
}
