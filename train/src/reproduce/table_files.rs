//! A table's files: written in all forms, and found again.
//!
//! ```text
//! <root>/tables/<table>-<model>-<plan>/
//!     <table>.{md,csv,tex,json,svg}
//!     <table>-tests.md  <table>-reliability.svg  <table>-risk-coverage.svg    where there are any
//!     reproduce.toml                                             what was asked for
//! ```

use std::path::{Path, PathBuf};

use super::plan::{Options, Plan, RECORD};
use super::results::ResultTable;
use super::tables::Table;
use super::{plot, render};
use crate::error::TrainError;
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
    let table = ResultTable::collect(plan, &options.root, tested)?;
    let model = options.model();
    let model = Path::new(&model).file_name();
    let model = model.map_or("model".into(), |name| name.to_string_lossy().to_lowercase());
    let name = format!("{}-{model}-{}", table.name, plan.identity());
    let folder = options.root.join("tables").join(name);
    write_forms(&folder, &table)?;
    RunDirectory::at(&folder).write_text(RECORD, &plan.record(options))?;
    Ok((folder, table))
}

/// Writes a table in all its forms.
///
/// # Errors
/// A plot that cannot be drawn, or files that cannot be written.
pub fn write_forms(folder: &Path, table: &ResultTable) -> Result<(), TrainError> {
    let json = serde_json::to_string_pretty(table).map_err(|e| TrainError::file(folder, e))?;
    let folder = RunDirectory::at(folder);
    for (ending, text) in [
        ("md", render::markdown(table)),
        ("csv", render::csv(table)),
        ("tex", render::latex(table)),
        ("json", json),
        ("svg", plot::svg(table)?),
    ] {
        folder.write_text(&format!("{}.{ending}", table.name), &text)?;
    }
    for (ending, text) in [
        ("-tests.md", render::paired_tests(table)),
        ("-reliability.svg", plot::reliability(table)?),
        ("-risk-coverage.svg", plot::risk_coverage(table)?),
    ] {
        if let Some(text) = text {
            folder.write_text(&format!("{}{ending}", table.name), &text)?;
        }
    }
    Ok(())
}

/// The table of results that were recorded, without model or data. `from` holds the table's
/// [`RECORD`], or a folder of the table's name that does.
///
/// # Errors
/// A record that is missing or cannot be read, or no results beside it.
pub fn recorded(table: &'static Table, from: &Path) -> Result<ResultTable, TrainError> {
    let inside = from.join(table.name);
    let folder = match inside.join(RECORD).is_file() {
        true => inside,
        false => from.to_path_buf(),
    };
    let options = Options::recorded(table, &folder)?;
    let root = results_of(&folder)?;
    let plan = Plan::new(&options, None)?;
    let found = ResultTable::collect(&plan, &root, true)?;
    if found.cells.iter().all(|cell| cell.n == 0) {
        let reason = format!("holds no results of {}", table.name);
        return Err(TrainError::file(root, reason));
    }
    Ok(found)
}

/// Below which directory the trainings and evaluations of a recorded table lie.
fn results_of(folder: &Path) -> Result<PathBuf, TrainError> {
    let folder = std::path::absolute(folder).map_err(|e| TrainError::file(folder, e))?;
    let above = folder.parent();
    // `reproduce` writes a table's folder two below its root.
    let tables = above.filter(|above| above.ends_with("tables"));
    // Recorded tables may share the evaluations beside their folders.
    let evaluated = |directory: &Path| directory.join("evaluations").is_dir();
    let shared = above.filter(|above| !evaluated(&folder) && evaluated(above));
    Ok(match tables.and_then(Path::parent).or(shared) {
        Some(root) => root.to_path_buf(),
        None => folder,
    })
}
