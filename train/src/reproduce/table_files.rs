//! A table's files, in all its forms.
//!
//! ```text
//! <root>/tables/<table>-<model>-<plan>/
//!     <table>.{md,csv,tex,json,svg}
//!     <table>-tests.md  <table>-{reliability,risk-coverage,shift}.svg         where there are any
//!     reproduce.toml                                             what was asked for
//! ```

use std::path::{Path, PathBuf};

use super::options::{Options, SETTINGS};
use super::plan::Plan;
use super::records::Records;
use super::results::ResultTable;
use super::{plot, render};
use crate::error::TrainError;
use crate::lock::Lock;
use crate::run_directory::RunDirectory;

/// Writes a plan's table as it stands, with a record of what was asked for, and says where. With
/// `tested`, the paired tests are made too, which takes a while.
///
/// # Errors
/// Results that are damaged, or files that cannot be written.
pub fn write(
    options: &Options,
    plan: &Plan,
    tested: bool,
) -> Result<(PathBuf, ResultTable), TrainError> {
    let model = options.model();
    let model = Path::new(&model).file_name();
    let model = model.map_or("model".into(), |name| name.to_string_lossy().to_lowercase());
    let name = format!("{}-{model}-{}", options.table.name, plan.identity());
    let folder = options.root.join("tables").join(name);
    // What is read under the lock is not older than what another process wrote under it.
    let _lock = Lock::wait(&folder)?;
    let table = ResultTable::collect(plan, &Records::below(&options.root, plan)?, tested);
    write_unlocked(&folder, &table)?;
    RunDirectory::at(&folder).write_text(SETTINGS, &plan.record(options))?;
    Ok((folder, table))
}

/// A table in every form that there is of it, by the ending of its file.
///
/// # Errors
/// A plot that cannot be drawn.
pub fn forms(table: &ResultTable) -> Result<Vec<(&'static str, String)>, TrainError> {
    let json =
        serde_json::to_string_pretty(table).map_err(|e| TrainError::file(&*table.name, e))?;
    let forms = [
        (".md", Some(render::markdown(table))),
        (".csv", Some(render::csv(table))),
        (".tex", Some(render::latex(table))),
        (".json", Some(json)),
        (".svg", Some(plot::svg(table)?)),
        ("-tests.md", render::paired_tests(table)),
        ("-reliability.svg", plot::reliability(table)?),
        ("-risk-coverage.svg", plot::risk_coverage(table)?),
        ("-shift.svg", plot::shift(table)?),
    ];
    let made = forms.into_iter();
    Ok(made
        .filter_map(|(ending, text)| Some((ending, text?)))
        .collect())
}

/// Writes a table in all its forms.
///
/// # Errors
/// A plot that cannot be drawn, or files that cannot be written.
pub fn write_forms(folder: &Path, table: &ResultTable) -> Result<(), TrainError> {
    let _lock = Lock::wait(folder)?;
    write_unlocked(folder, table)
}

fn write_unlocked(folder: &Path, table: &ResultTable) -> Result<(), TrainError> {
    let target = RunDirectory::at(folder);
    target.sweep();
    for (ending, text) in forms(table)? {
        target.write_text(&format!("{}{ending}", table.name), &text)?;
    }
    Ok(())
}
