//! The rows of a file or a stream as questions.

use std::io::{BufRead, BufReader, ErrorKind, stdin};
use std::path::Path;

use anyhow::Result;
use data::dataset::custom::Custom;
use data::error::DataError;
use data::rows::{self, Row};
use train::answering::Asked;

use super::answers::Format;

/// What is asked of a file or a stream.
pub(super) struct Asking<'a> {
    pub(super) path: &'a Path,
    /// How a row is read.
    pub(super) fields: &'a dyn Fn(&Row) -> Custom,
    /// The number of rows, where it is known. A stream has none, and goes on past a bad line.
    pub(super) total: Option<usize>,
    /// What answers are written as.
    pub(super) format: Format,
}

/// A row of the input.
pub(super) struct Item {
    /// Its number there.
    pub(super) number: usize,
    /// Name of the field of a text that answers the question.
    pub(super) context: String,
    /// The question, or why it is none.
    pub(super) asked: Result<Asked, String>,
}

impl Asking<'_> {
    /// The question of a row. What ends the work is an error; a bad line of a stream does not.
    pub(super) fn item(&self, row: Result<Row, DataError>) -> Result<Item> {
        let mut context = String::new();
        let asked = row.and_then(|row| {
            let fields = (self.fields)(&row);
            let (number, row) = row;
            context.clone_from(&fields.passage);
            let (mut question, answer) = fields.ask(&row).map_err(|reason| DataError::Row {
                path: self.path.into(),
                row: number,
                reason,
            })?;
            if question.id.is_empty() {
                question.id = format!("row-{number:05}");
            }
            Ok((number, Asked { question, answer }))
        });
        let (number, asked) = match asked {
            Ok((number, asked)) => (number, Ok(asked)),
            Err(DataError::Row { row, reason, .. }) if self.total.is_none() => (row, Err(reason)),
            Err(error) => return Err(error.into()),
        };
        Ok(Item {
            number,
            context,
            asked,
        })
    }
}

/// The lines of standard input that are not empty.
pub(super) fn standard_input(path: &Path) -> impl Iterator<Item = Result<Row, DataError>> {
    let lines = BufReader::new(stdin()).lines().enumerate();
    lines.filter_map(move |(number, line)| match line {
        Ok(line) if line.trim().is_empty() => None,
        Ok(line) => Some(rows::json_line(path, number + 1, &line)),
        Err(error) if error.kind() == ErrorKind::InvalidData => Some(Err(DataError::Row {
            path: path.into(),
            row: number + 1,
            reason: "is not UTF-8".into(),
        })),
        Err(error) => Some(Err(DataError::io(path, error))),
    })
}
