//! The columns of a table that are asked for and whose questions can be had.

use data::DataError;
use data::dataset::{self, OfficialSplit};
use data::names::unknown;
use data::source::Finder;

use super::options::Options;
use super::tables::{Column, StandIn};
use crate::error::TrainError;

/// The columns that are asked for, with stand-ins for what cannot be had. `finder` is asked which
/// datasets are there; without one they are taken to be, unless [`Options::on`] names the stand-in
/// alone. `notes` is told what was replaced or left out.
pub(super) fn columns(
    options: &Options,
    finder: Option<&Finder>,
    notes: &mut Vec<String>,
) -> Result<Vec<Column>, TrainError> {
    known(options)?;
    let named = |test: &str| {
        options
            .on
            .iter()
            .any(|name| name.eq_ignore_ascii_case(test))
    };
    let wanted = |test: &str| options.on.is_empty() || named(test);
    let mut columns = Vec::new();
    for column in options.table.columns {
        let Some(stand_in) = column.stand_in else {
            if wanted(column.test) {
                columns.push(*column);
            }
            continue;
        };
        if !wanted(column.test) && !wanted(stand_in.dataset) {
            continue;
        }
        let there = match finder {
            Some(finder) => can_be_had(column.test, finder)?,
            None => named(column.test) || !named(stand_in.dataset),
        };
        if there {
            columns.push(*column);
            continue;
        }
        notes.push(stand_in.note.into());
        columns.extend(replacement(stand_in, finder, notes)?);
    }
    if columns.is_empty() {
        let reason = format!("no column is left. {}", notes.join(" "));
        return Err(TrainError::config("--on", reason));
    }
    Ok(columns)
}

/// Refuses names that the table does not have.
fn known(options: &Options) -> Result<(), TrainError> {
    let all = options.table.columns;
    let knows = |column: &Column, name: &str| {
        column.test.eq_ignore_ascii_case(name)
            || column
                .stand_in
                .is_some_and(|other| other.dataset.eq_ignore_ascii_case(name))
    };
    for name in &options.on {
        if !all.iter().any(|column| knows(column, name)) {
            let known: Vec<&str> = all.iter().map(|c| c.test).collect();
            let table = options.table.name;
            let reason = unknown(&format!("column of {table}"), name, &known);
            return Err(TrainError::config("--on", reason));
        }
    }
    Ok(())
}

/// The column of a stand-in, if its questions can be had.
fn replacement(
    stand_in: &StandIn,
    finder: Option<&Finder>,
    notes: &mut Vec<String>,
) -> Result<Option<Column>, TrainError> {
    if let Some(finder) = finder
        && !can_be_had(stand_in.dataset, finder)?
    {
        notes.push(format!(
            "{} cannot be had here either: its column is left out.",
            stand_in.label
        ));
        return Ok(None);
    }
    Ok(Some(Column {
        label: stand_in.label,
        train: stand_in.dataset,
        test: stand_in.dataset,
        stand_in: None,
    }))
}

/// Whether a dataset's test questions can be had.
fn can_be_had(name: &str, finder: &Finder) -> Result<bool, TrainError> {
    let found = dataset::find(name, &Default::default())?;
    match dataset::load(&*found, OfficialSplit::Test, finder) {
        Ok(_) => Ok(true),
        Err(DataError::NotFound { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
