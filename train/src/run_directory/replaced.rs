//! A run that another one takes the place of: it is set aside until the new one has begun, so that
//! a training that is refused costs nothing.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::RunDirectory;
use crate::error::TrainError;
use crate::lock::LOCK;
use crate::tracker;

/// Where the former run waits, inside of its directory.
const ASIDE: &str = ".replaced";
/// Its name while not everything of it is there.
const MOVING: &str = ".replacing";

/// A former run that waits. Dropped, it is gone if the new run has begun, and back if not.
#[derive(Debug)]
pub struct Replaced {
    root: PathBuf,
}

impl Replaced {
    /// Sets aside what an earlier run of ours left in `root`, and only that.
    ///
    /// # Errors
    /// A directory that is not empty and holds no run, or files that cannot be moved.
    pub(super) fn of(root: &Path) -> Result<Self, TrainError> {
        let waiting = Self {
            root: root.to_path_buf(),
        };
        let parts = RunDirectory::parts(root)?;
        if parts.is_empty() {
            return Ok(waiting);
        }
        let fail = |e| TrainError::file(root, e);
        let moving = root.join(MOVING);
        fs::create_dir_all(&moving).map_err(fail)?;
        for part in parts {
            let name = part.file_name().unwrap_or_default();
            fs::rename(&part, moving.join(name)).map_err(fail)?;
        }
        fs::rename(moving, root.join(ASIDE)).map_err(fail)?;
        Ok(waiting)
    }

    /// Ends what a killed process left: as when [`Replaced`] is dropped.
    pub(super) fn settle(root: &Path) -> io::Result<()> {
        let [moving, aside] = [MOVING, ASIDE].map(|name| root.join(name));
        if moving.is_dir() {
            put_back(&moving, root)?;
        }
        if !aside.is_dir() {
            return Ok(());
        }
        match RunDirectory::at(root).has_begun() {
            true => fs::remove_dir_all(aside),
            false => put_back(&aside, root),
        }
    }

    /// Whether a name in a run's directory is neither the run's nor its user's.
    pub(super) fn is_besides(name: &OsStr) -> bool {
        [LOCK, ASIDE, MOVING].iter().any(|besides| name == *besides)
    }
}

impl Drop for Replaced {
    fn drop(&mut self) {
        // What cannot be settled now is settled by the next who takes the directory.
        let _ = Self::settle(&self.root);
    }
}

/// Puts everything back, in the place of what a refused run wrote.
fn put_back(from: &Path, root: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let back = root.join(entry.file_name());
        if back.is_dir() {
            fs::remove_dir_all(&back)?;
        } else if back.exists() {
            fs::remove_file(&back)?;
        }
        fs::rename(entry.path(), back)?;
    }
    fs::remove_dir(from)
}

/// The files of a run's trackers.
pub(super) fn tracked(root: &Path) -> Result<Vec<PathBuf>, TrainError> {
    tracker::files(root).map_err(|e| TrainError::file(root, e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RunConfig;

    /// A run with settings and an answer.
    fn run(root: &Path, text: &str) {
        RunDirectory::create(root, &RunConfig::default(), false).unwrap();
        fs::create_dir_all(root.join("evaluation")).unwrap();
        fs::write(root.join("evaluation/answers"), text).unwrap();
    }

    #[test]
    fn a_run_is_gone_once_the_next_has_begun_and_back_if_it_never_does() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let answers = || fs::read_to_string(root.join("evaluation/answers")).ok();
        run(root, "first");
        fs::write(root.join("mine"), "kept").unwrap();
        let waiting = RunDirectory::replace(root).unwrap();
        assert_eq!(answers(), None);
        RunDirectory::create(root, &RunConfig::default(), false).unwrap();
        drop(waiting);
        assert_eq!(answers().as_deref(), Some("first"));
        let waiting = RunDirectory::replace(root).unwrap();
        run(root, "second");
        drop(waiting);
        assert_eq!(answers().as_deref(), Some("second"));
        // A process that was killed: before the new run had begun, and while it moved the old one.
        for name in [ASIDE, MOVING] {
            std::mem::forget(RunDirectory::replace(root).unwrap());
            if name == MOVING {
                fs::rename(root.join(ASIDE), root.join(MOVING)).unwrap();
            }
            drop(RunDirectory::lock(root).unwrap());
            assert_eq!(answers().as_deref(), Some("second"), "{name}");
        }
        assert!(!root.join(ASIDE).exists() && !root.join(MOVING).exists());
        assert_eq!(fs::read_to_string(root.join("mine")).unwrap(), "kept");
    }
}
