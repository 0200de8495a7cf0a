//! What of a table is asked for, and how large; kept beside the table as `reproduce.toml`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::tables::Table;
use crate::config::{ConfigLayers, RateSchedule, RunConfig, spelled};
use crate::error::TrainError;

/// What of a table is asked for, and how large.
#[derive(Debug, Clone)]
pub struct Options {
    /// The table.
    pub table: &'static Table,
    /// Seeds of a row: 42, 142, 242, ..; an ensemble's members lie between them.
    pub seeds: usize,
    /// Rows to keep, by preset or label; empty = all.
    pub methods: Vec<String>,
    /// Columns to keep, by test dataset; empty = all.
    pub on: Vec<String>,
    /// Settings laid over every row's preset.
    pub given: ConfigLayers,
    /// Below which everything is kept.
    pub root: PathBuf,
}

/// What was asked for, as a file beside a table: enough to plan it again.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordedOptions {
    seeds: usize,
    methods: Vec<String>,
    on: Vec<String>,
    settings: toml::Table,
}

/// The setting whose default was another one when results were first recorded.
const SCHEDULE: &str = "train.schedule";

/// Name of the file beside a table that says what was asked for.
pub const SETTINGS: &str = "reproduce.toml";

impl Options {
    /// What a directory says of the results of a table in it.
    ///
    /// # Errors
    /// A [`SETTINGS`] file that is missing or cannot be read.
    pub fn recorded(table: &'static Table, root: &Path) -> Result<Self, TrainError> {
        let path = root.join(SETTINGS);
        let fail = |e: &dyn std::fmt::Display| TrainError::file(&path, e.to_string());
        let text = std::fs::read_to_string(&path).map_err(|e| fail(&e))?;
        let recorded: RecordedOptions = toml::from_str(&text).map_err(|e| fail(&e))?;
        let mut given = ConfigLayers::default();
        given.text(&recorded.settings.to_string(), &path.display().to_string())?;
        // Earlier versions did not write it down: it was the default.
        if !given.has(SCHEDULE) {
            given.set(&format!("{SCHEDULE}={}", spelled(&RateSchedule::Constant)))?;
        }
        Ok(Self {
            table,
            seeds: recorded.seeds,
            methods: recorded.methods,
            on: recorded.on,
            given,
            root: root.into(),
        })
    }

    /// The base model of all rows, as it is asked for.
    pub fn model(&self) -> String {
        let given = self.given.model_name();
        given.unwrap_or_else(|| RunConfig::default().model.name)
    }

    /// The text of a [`SETTINGS`] file. The schedule is always in it, so that another default
    /// makes no other table of it.
    ///
    /// # Panics
    /// Never: settings are plain values.
    pub fn text(&self) -> String {
        let mut given = self.given.clone();
        if !given.has(SCHEDULE) {
            let default = spelled(&RateSchedule::default());
            let set = given.set(&format!("{SCHEDULE}={default}"));
            set.expect("a value of its own kind");
        }
        let recorded = RecordedOptions {
            seeds: self.seeds,
            methods: self.methods.clone(),
            on: self.on.clone(),
            settings: given.table(),
        };
        toml::to_string(&recorded).expect("a table of plain values")
    }
}
