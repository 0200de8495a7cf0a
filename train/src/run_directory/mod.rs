//! What a run leaves on disk: self-describing, safe to copy.
//!
//! ```text
//! config.toml                              the settings
//! environment.json  data.json              program and machine; files of model and data
//! seen.bin                                 hashes of the training and held-out questions
//! shots.json                               the examples before every question, if any
//! trial.json                               why questions are put as they are, if that was tried
//! metrics.jsonl  metrics.csv  events.out.tfevents.*
//! alarms.jsonl                             what went wrong in training although it went on
//! prequential.jsonl                        first answers to the training questions
//! checkpoint/  adapter/  members/s<seed>/
//! digests.sha256                           SHA-256 of the files that the run relies on
//! lock.json                                while a process works on it
//! evaluation/<set>/predictions.jsonl       a set is a dataset's test questions, or `held-out`
//! evaluation/<set>/base-predictions.jsonl  the base model's, where it was asked
//! report.html  report.md
//! ```

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use data::shots::Shots;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::config::RunConfig;
use crate::dashboard::hangup::LINES;
use crate::error::TrainError;
use crate::lock::{self, LOCK, Lock};
use crate::registry;
use crate::tracker;

mod alarms;
mod digests;
mod files;
mod first_answers;
mod metrics;
mod predictions;
mod record;

pub use alarms::AlarmLog;
pub use digests::{CARD, DIGESTS, Digests, digest};
pub use predictions::{HELD_OUT, read_predictions};
pub use record::{ChatRecord, Environment, Provenance};

pub(crate) use files::write;
pub(crate) use first_answers::FIRST_ANSWERS;
pub(crate) use metrics::METRICS;

use alarms::ALARMS;
use record::{DATA, ENVIRONMENT, SEEN};

const CONFIG: &str = "config.toml";
/// The examples before every question, where there are some.
pub(crate) const SHOTS: &str = "shots.json";
/// What the base model made of a few questions in every way, where the way was chosen so.
pub(crate) const TRIAL: &str = "trial.json";
const ADAPTER: &str = "adapter/adapter.bpk";

/// A run's directory.
#[derive(Debug, Clone)]
pub struct RunDirectory {
    root: PathBuf,
}

impl RunDirectory {
    /// Creates a directory for a new run, or opens one to go on with.
    ///
    /// # Errors
    /// A directory that already holds another run, or one that is to be resumed and does not exist.
    pub fn create(root: &Path, config: &RunConfig, resume: bool) -> Result<Self, TrainError> {
        let run = Self {
            root: root.to_path_buf(),
        };
        let file = run.config_path();
        if resume {
            let known = run.config().map_err(|e| {
                TrainError::file(
                    &file,
                    format!("nothing to resume ({e}); start without --resume"),
                )
            })?;
            run.same(&known, config)?;
        } else {
            run.is_free()?;
            run.discard_unbegun()?;
        }
        fs::create_dir_all(root).map_err(|e| TrainError::file(root, e))?;
        run.keep_text(CONFIG, &config.to_toml())?;
        Ok(run)
    }

    /// Looks whether a new run can begin here.
    ///
    /// # Errors
    /// A run that has begun, one that another process works on, or settings of somebody else.
    pub fn is_free(&self) -> Result<(), TrainError> {
        if !self.config_path().exists() || self.is_unbegun() {
            return Ok(());
        }
        // "Continue it, or replace it" would be the wrong advice.
        lock::refuse_held(&self.root)?;
        Err(TrainError::file(
            &self.root,
            "already holds a run: continue it with --resume, replace it with --overwrite, or choose another --run",
        ))
    }

    /// Removes a run that was stopped, or refused, before there was anything to keep.
    ///
    /// # Errors
    /// Files that cannot be removed, or a lock that is another's by now: so is the run.
    pub fn discard_unbegun(&self) -> Result<(), TrainError> {
        lock::still_held(&self.config_path())?;
        match self.is_unbegun() {
            true => Self::clear(&self.root),
            false => Ok(()),
        }
    }

    fn is_unbegun(&self) -> bool {
        self.config_path().exists() && self.is_ours() && !self.has_begun()
    }

    /// Whether this program wrote the directory's settings, and not its user.
    fn is_ours(&self) -> bool {
        self.digests().require(CONFIG).is_ok()
    }

    /// Whether there is more than settings: a step, an adapter, answers.
    fn has_begun(&self) -> bool {
        let holds = |name: &str| {
            let path = self.root.join(name);
            let entries = fs::read_dir(&path).is_ok_and(|mut found| found.next().is_some());
            entries
                || path
                    .metadata()
                    .is_ok_and(|found| found.is_file() && found.len() > 0)
        };
        let kept = ["checkpoint", "adapter", "evaluation", METRICS];
        kept.into_iter().any(holds) || self.members().iter().any(Self::has_begun)
    }

    /// Refuses settings that differ from those the run was started with.
    ///
    /// # Errors
    /// Every key that differs, with both values, and a run that cannot be opened.
    pub fn same_settings(&self, config: &RunConfig) -> Result<(), TrainError> {
        self.same(&self.config()?, config)
    }

    fn same(&self, known: &RunConfig, config: &RunConfig) -> Result<(), TrainError> {
        // Runs of earlier versions hold relative paths.
        let mut known = known.anchored();
        // How a training goes on after a fault changes no step that was sound.
        known.train.on_nan = config.train.on_nan;
        // What a method does not read is at its default, and that may have changed.
        let known = registry::read_settings(&known)?;
        let differences = known.differences(&registry::read_settings(&config.anchored())?);
        if differences.is_empty() {
            return Ok(());
        }
        let reason = format!(
            "the run was started with other settings: {}; keep those with --resume {} alone, or choose another --run",
            differences.join(", "),
            self.root.display()
        );
        Err(TrainError::file(self.config_path(), reason))
    }

    /// The directory of a run that may not exist yet.
    pub fn at(root: &Path) -> Self {
        Self {
            root: root.to_path_buf(),
        }
    }

    /// Opens a finished or interrupted run.
    ///
    /// # Errors
    /// A directory without a readable `config.toml`, or with one that is not as it was written.
    pub fn open(root: &Path) -> Result<(Self, RunConfig), TrainError> {
        let run = Self::at(root);
        let config = run.config()?;
        Ok((run, config))
    }

    fn config(&self) -> Result<RunConfig, TrainError> {
        if !self.exists() {
            let reason = "holds no run: `uq4ct runs` lists those below a directory";
            return Err(TrainError::file(&self.root, reason));
        }
        self.digests().check(CONFIG)?;
        RunConfig::read(&self.config_path())
    }

    /// Takes the directory for this process alone, and removes what killed ones were writing.
    ///
    /// # Errors
    /// Another process that works on it, by number, or a directory that cannot be written.
    pub fn lock(root: &Path) -> Result<Lock, TrainError> {
        let lock = Lock::take(root)?;
        files::sweep(root);
        Ok(lock)
    }

    /// Removes what killed processes were writing. Only for who holds the directory's lock.
    pub(crate) fn sweep(&self) {
        files::sweep(&self.root);
    }

    /// The digests of the files that the run relies on.
    pub fn digests(&self) -> Digests {
        Digests::of(&self.root)
    }

    /// Removes what an earlier run of ours left in `root`, and only that.
    ///
    /// # Errors
    /// A directory that is not empty and holds no run, or files that cannot be removed.
    pub fn clear(root: &Path) -> Result<(), TrainError> {
        let ours = |entry: &fs::DirEntry| entry.file_name() == LOCK;
        let entries = fs::read_dir(root).into_iter().flatten().flatten();
        if entries.into_iter().all(|entry| ours(&entry)) {
            return Ok(());
        }
        let run = Self::at(root);
        if let (false, Err(error)) = (run.digests().exists(), RunConfig::read(&run.config_path())) {
            let reason = format!("--overwrite replaces runs only, and this holds none ({error})");
            return Err(TrainError::file(root, reason));
        }
        for name in ["checkpoint", "adapter", "evaluation", "members"] {
            remove(&root.join(name), |p| fs::remove_dir_all(p))?;
        }
        tracker::remove(root).map_err(|e| TrainError::file(root, e))?;
        // The settings last: whoever is killed here leaves a run, which can be replaced.
        for name in [
            ENVIRONMENT,
            DATA,
            METRICS,
            ALARMS,
            FIRST_ANSWERS,
            SHOTS,
            TRIAL,
            SEEN,
            "report.html",
            "report.md",
            LINES,
            DIGESTS,
            CONFIG,
        ] {
            remove(&root.join(name), |p| fs::remove_file(p))?;
        }
        Ok(())
    }

    /// Path of the directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn config_path(&self) -> PathBuf {
        self.root.join(CONFIG)
    }

    /// The file with the trained adapter. While it is absent, the training has not finished.
    pub fn adapter(&self) -> PathBuf {
        self.root.join(ADAPTER)
    }

    /// The directory of one training of several, by its seed.
    pub fn member(&self, seed: u64) -> Self {
        Self {
            root: self.root.join("members").join(format!("s{seed}")),
        }
    }

    /// The directories of the trainings below this one, by their names.
    fn members(&self) -> Vec<Self> {
        let found = fs::read_dir(self.root.join("members"))
            .into_iter()
            .flatten();
        let mut members: Vec<PathBuf> = found.flatten().map(|entry| entry.path()).collect();
        members.sort();
        members.into_iter().map(|root| Self { root }).collect()
    }

    /// Whether a run was begun here.
    pub fn exists(&self) -> bool {
        self.config_path().is_file()
    }

    /// The directory of a set of scored questions, `evaluation/<set>/`.
    pub fn evaluation(&self, set: &str) -> PathBuf {
        self.root.join("evaluation").join(set)
    }

    /// Lets `save` write the trained adapter. Its file says that the training has finished, so it
    /// is there whole or not at all.
    ///
    /// # Errors
    /// A file that cannot be written, and what `save` says.
    pub fn keep_adapter(
        &self,
        save: impl FnOnce(&Path) -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        // They grow no further.
        self.digests().list(&[METRICS, FIRST_ANSWERS])?;
        self.digests().put_with(ADAPTER, save)
    }

    /// Checks that the trained adapter is what was written.
    ///
    /// # Errors
    /// As [`Digests::check`].
    pub fn check_adapter(&self) -> Result<(), TrainError> {
        self.digests().check(ADAPTER)
    }

    /// Writes a JSON file that the run relies on: whole or not at all, and listed.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn keep_json(&self, name: &str, value: &impl Serialize) -> Result<(), TrainError> {
        self.digests().put(name, self.json(name, value)?.as_bytes())
    }

    /// Writes a text file that the run relies on: whole or not at all, and listed.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn keep_text(&self, name: &str, text: &str) -> Result<(), TrainError> {
        self.digests().put(name, text.as_bytes())
    }

    /// Writes a JSON file, whole or not at all.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write_json(&self, name: &str, value: &impl Serialize) -> Result<(), TrainError> {
        write(&self.root.join(name), self.json(name, value)?.as_bytes())
    }

    fn json(&self, name: &str, value: &impl Serialize) -> Result<String, TrainError> {
        serde_json::to_string_pretty(value).map_err(|e| TrainError::file(self.root.join(name), e))
    }

    /// Reads a JSON file.
    ///
    /// # Errors
    /// A file that is absent, malformed, or listed and not as it was written.
    pub fn read_json<T: DeserializeOwned>(&self, name: &str) -> Result<T, TrainError> {
        let _at_hand = fault::reading(&self.root.join(name));
        let bytes = self.digests().read(name)?;
        serde_json::from_slice(&bytes).map_err(|e| TrainError::file(self.root.join(name), e))
    }

    /// Whether examples were written that stand before every question.
    pub fn has_shots(&self) -> bool {
        self.root.join(SHOTS).is_file()
    }

    /// The examples before every question of a run with such settings; none where it has none.
    ///
    /// # Errors
    /// As [`Self::read_json`].
    pub fn shots(&self, config: &RunConfig) -> Result<Option<Shots>, TrainError> {
        match config.data.shots {
            0 => Ok(None),
            _ => self.read_json(SHOTS).map(Some),
        }
    }

    /// Reads a text file.
    ///
    /// # Errors
    /// As [`Self::read_json`].
    pub fn read_text(&self, name: &str) -> Result<String, TrainError> {
        let bytes = self.digests().read(name)?;
        String::from_utf8(bytes).map_err(|e| TrainError::file(self.root.join(name), e))
    }

    /// Writes a text file, whole or not at all.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write_text(&self, name: &str, text: &str) -> Result<(), TrainError> {
        write(&self.root.join(name), text.as_bytes())
    }
}

fn remove(path: &Path, how: impl Fn(&Path) -> std::io::Result<()>) -> Result<(), TrainError> {
    match how(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(TrainError::file(path, e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_free_until_one_of_its_trainings_took_a_step() {
        let root = tempfile::tempdir().unwrap();
        let place = root.path().join("r");
        let settings = RunConfig::default();
        let mut others = settings.clone();
        others.train.seed += 1;
        let run = RunDirectory::create(&place, &settings, false).unwrap();
        RunDirectory::create(run.member(42).root(), &settings, false).unwrap();
        let run = RunDirectory::create(&place, &others, false).unwrap();
        assert!(!run.member(42).root().exists());
        let member = RunDirectory::create(run.member(43).root(), &others, false).unwrap();
        member.write_text(METRICS, "a step").unwrap();
        let error = RunDirectory::create(&place, &settings, false).unwrap_err();
        assert!(error.to_string().contains("already holds a run"), "{error}");
    }
}
