//! Finding a table's results again, without model or data, and keeping them small beside the table.

use std::path::{Path, PathBuf};

use super::archive::{self, ARCHIVE};
use super::options::{Options, SETTINGS};
use super::plan::Plan;
use super::records::Records;
use super::results::ResultTable;
use super::table_files::forms;
use super::tables::Table;
use crate::error::TrainError;
use crate::lock::Lock;
use crate::run_directory::RunDirectory;

/// A table whose trainings and evaluations lie somewhere.
#[derive(Debug)]
pub struct Recorded {
    options: Options,
    plan: Plan,
    place: Place,
}

/// Where a table's records are.
#[derive(Debug)]
enum Place {
    /// One columnar file.
    Archive(PathBuf),
    /// The directories below a root.
    Root(PathBuf),
}

impl Recorded {
    /// Finds a table in `from`: in a folder named like the table, with an archive or with trainings
    /// and evaluations beside it; in a folder below `ROOT/tables`, or in `from` itself.
    ///
    /// # Errors
    /// A [`SETTINGS`] file that is missing or cannot be read.
    pub fn find(table: &'static Table, from: &Path) -> Result<Self, TrainError> {
        let inside = from.join(table.name);
        let folder = match inside.join(SETTINGS).is_file() {
            true => inside,
            false => from.to_path_buf(),
        };
        let options = Options::recorded(table, &folder)?;
        let plan = Plan::new(&options, None).map_err(|error| {
            let reason = format!("is no record of {}: {error}", table.name);
            TrainError::file(folder.join(SETTINGS), reason)
        })?;
        let archive = folder.join(ARCHIVE);
        let place = match archive.is_file() {
            true => Place::Archive(archive),
            false => Place::Root(root_of(&folder)?),
        };
        Ok(Self {
            options,
            plan,
            place,
        })
    }

    /// Everything that the table is made from.
    ///
    /// # Errors
    /// Files that are damaged.
    pub fn records(&self) -> Result<Records, TrainError> {
        match &self.place {
            Place::Archive(path) => archive::read(path),
            Place::Root(root) => Records::below(root, &self.plan),
        }
    }

    /// The table, with its paired tests.
    ///
    /// # Errors
    /// Files that are damaged, or that hold nothing of this table.
    pub fn table(&self) -> Result<ResultTable, TrainError> {
        self.table_of(&self.records()?)
    }

    fn table_of(&self, records: &Records) -> Result<ResultTable, TrainError> {
        let table = ResultTable::collect(&self.plan, records, true);
        match table.cells.iter().all(|cell| cell.n == 0) {
            true => {
                let (Place::Archive(place) | Place::Root(place)) = &self.place;
                let reason = format!("holds no results of {}", table.name);
                Err(TrainError::file(place, reason))
            }
            false => Ok(table),
        }
    }

    /// Keeps the table in `directory/TABLE`: its settings, one file of all that it is made from,
    /// and the table in the [`KEPT`] forms and in every other form that stands there already. What
    /// that file holds already stays as it is. A path that begins with the first of a pair of
    /// `renamed` is written with the second.
    ///
    /// # Errors
    /// Files that cannot be read or written, and a folder that holds the table with other settings.
    pub fn keep(
        &self,
        directory: &Path,
        renamed: &[(String, String)],
    ) -> Result<PathBuf, TrainError> {
        let folder = directory.join(self.options.table.name);
        let archive = folder.join(ARCHIVE);
        let _lock = Lock::wait(&folder)?;
        self.same_settings(&folder)?;
        let mut records = match archive.is_file() {
            true => archive::read(&archive)?,
            false => Records::default(),
        };
        let mut found = self.records()?;
        if let Place::Root(root) = &self.place {
            found = found.finished(root, &self.plan);
        }
        records.add(found.portable(renamed));
        let table = self.table_of(&records)?;
        archive::write(&archive, &records)?;
        let target = RunDirectory::at(&folder);
        target.sweep();
        target.write_text(SETTINGS, &self.options.text())?;
        for (ending, text) in forms(&table)? {
            let name = format!("{}{ending}", table.name);
            if KEPT.contains(&ending) || folder.join(&name).is_file() {
                target.write_text(&name, &text)?;
            }
        }
        Ok(folder)
    }

    /// Puts what the table is made from below another root, where its command goes on with more
    /// seeds; what needs a recorded adapter is trained again. What is there stays. Gives the number
    /// of trainings and of evaluations that were put there.
    ///
    /// # Errors
    /// Files that are damaged or cannot be written.
    pub fn restore(&self, root: &Path) -> Result<[usize; 2], TrainError> {
        self.records()?.restore(root, &self.plan)
    }

    /// Refuses a folder that holds the table with other settings. Rows, columns and seeds may be
    /// others: what is kept of them stays.
    fn same_settings(&self, folder: &Path) -> Result<(), TrainError> {
        let path = folder.join(SETTINGS);
        if !path.is_file() {
            return Ok(());
        }
        let kept = Options::recorded(self.options.table, folder)?
            .given
            .parse()?;
        let differences = kept.differences(&self.options.given.parse()?);
        if differences.is_empty() {
            return Ok(());
        }
        let reason = format!(
            "this table is kept here already, with other settings ({}): keep yours elsewhere",
            differences.join(", ")
        );
        Err(TrainError::file(path, reason))
    }
}

/// Endings of the forms that a recorded table always has.
pub const KEPT: [&str; 4] = [".md", "-tests.md", ".csv", ".svg"];

/// Below which a table's trainings and evaluations lie: two above its folder where that is in
/// `ROOT/tables`, one above where they lie beside the folder, or in the folder itself.
fn root_of(folder: &Path) -> Result<PathBuf, TrainError> {
    let folder = std::path::absolute(folder).map_err(|e| TrainError::file(folder, e))?;
    let holds = |place: &Path| place.join("evaluations").is_dir();
    let above = folder.parent();
    let root = match above {
        Some(above) if above.ends_with("tables") => above.parent(),
        Some(above) if !holds(&folder) && holds(above) => Some(above),
        _ => None,
    };
    Ok(root.unwrap_or(&folder).to_path_buf())
}
