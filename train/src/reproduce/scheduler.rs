//! Does what a plan leaves open: in which order, how long it will take, what a failure means.
//!
//! Trainings come before the evaluations that ask for them. A job that fails is reported and
//! passed over, because the rest of the table does not depend on it. After every evaluation the
//! table is written as it stands.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Instant;

use data::source::sha256;

use super::options::Options;
use super::places::{evaluation_directory, is_trained, training_directory};
use super::plan::{EvaluationJob, Plan, TrainingJob};
use super::table_files;
use super::work::{Estimates, ensure_evaluated, ensure_trained, missing};
use crate::context::Setup;
use crate::dashboard::state::clock;
use crate::error::TrainError;
use crate::provenance::changed;
use crate::run_directory::RunDirectory;

/// One independent piece of a plan's work. Doing it twice does it once.
#[derive(Debug, Clone, PartialEq)]
pub enum Job {
    /// Trains one adapter.
    Training(TrainingJob),
    /// Asks the trained adapters of one row, one seed and one training dataset.
    Evaluation(EvaluationJob),
}

impl Job {
    /// Every job of a plan, the trainings first.
    pub fn all(plan: &Plan) -> Vec<Self> {
        let trainings = plan.trainings().into_iter().map(Self::Training);
        let evaluations = plan.evaluations().into_iter().map(Self::Evaluation);
        trainings.chain(evaluations).collect()
    }

    /// The job's name in `reproduce --job` and its directory below the root.
    pub fn id(&self) -> String {
        match self {
            Self::Training(training) => format!("trainings/{}", training.id),
            Self::Evaluation(evaluation) => format!("evaluations/{}", evaluation.id),
        }
    }

    /// Where the job's files are kept.
    pub fn directory(&self, root: &Path) -> PathBuf {
        match self {
            Self::Training(training) => training_directory(root, training),
            Self::Evaluation(evaluation) => evaluation_directory(root, evaluation),
        }
    }

    /// Whether nothing is left to do.
    pub fn is_done(&self, root: &Path) -> bool {
        match self {
            Self::Training(training) => is_trained(root, training),
            Self::Evaluation(evaluation) => missing(root, evaluation).is_empty(),
        }
    }

    /// Whether nothing of the job is done.
    fn left_nothing(&self, root: &Path) -> bool {
        match self {
            Self::Training(training) => !is_trained(root, training),
            Self::Evaluation(evaluation) => {
                missing(root, evaluation).len() == evaluation.sets().len()
            }
        }
    }

    /// Seconds on a processor, by the same estimate as `train --dry-run`.
    ///
    /// # Errors
    /// Data that cannot be had.
    pub fn estimate(&self, estimates: &mut Estimates) -> Result<f64, TrainError> {
        match self {
            Self::Training(training) => estimates.training(training),
            Self::Evaluation(evaluation) => estimates.evaluation(evaluation),
        }
    }

    /// What the job asks, by [`Self::id`].
    fn needs(&self) -> Vec<String> {
        let Self::Evaluation(evaluation) = self else {
            return Vec::new();
        };
        let members = evaluation.members.iter().cloned().map(Self::Training);
        let asked = evaluation.at_temperature_one().map(Self::Evaluation);
        members.chain(asked).map(|job| job.id()).collect()
    }

    fn run(&self, root: &Path, setup: &Setup) -> Result<(), TrainError> {
        match self {
            Self::Training(training) => ensure_trained(training, root, setup),
            Self::Evaluation(evaluation) => ensure_evaluated(evaluation, root, setup),
        }
    }
}

/// How a schedule ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Ended {
    /// Everything that was open is done.
    Finished,
    /// A stop was asked for. The same command goes on.
    Stopped {
        /// Directory and reason of each failure before.
        failures: Vec<String>,
    },
    /// Some jobs failed, the others are done.
    Failed {
        /// Directory and reason of each failure.
        failures: Vec<String>,
        /// Jobs that were open.
        open: usize,
    },
}

/// A plan and which of its jobs to do.
#[derive(Debug)]
pub struct Schedule<'a> {
    options: &'a Options,
    plan: &'a Plan,
    jobs: Vec<Job>,
    /// One job was asked for by name: the table is left alone.
    single: bool,
}

impl<'a> Schedule<'a> {
    /// All jobs of a plan.
    pub fn new(options: &'a Options, plan: &'a Plan) -> Self {
        Self {
            options,
            plan,
            jobs: Job::all(plan),
            single: false,
        }
    }

    /// One job of a plan, by its [`Job::id`].
    ///
    /// # Errors
    /// An id that the plan does not have.
    pub fn single(options: &'a Options, plan: &'a Plan, id: &str) -> Result<Self, TrainError> {
        let mut schedule = Self::new(options, plan);
        schedule.single = true;
        schedule.jobs.retain(|job| job.id() == id);
        match schedule.jobs.is_empty() {
            true => Err(TrainError::config(
                format!("--job {id}"),
                "the plan has no such training or evaluation; see --plan",
            )),
            false => Ok(schedule),
        }
    }

    /// Does every open job in turn. `cores` is what the estimate of the time left assumes.
    ///
    /// # Errors
    /// Data that no open job can have. A job that fails, and a table that cannot be written, are no
    /// errors: see [`Ended::Failed`].
    pub fn run(&self, setup: &Setup, cores: usize) -> Result<Ended, TrainError> {
        let root = &self.options.root;
        let open = self.open();
        if !open.is_empty() {
            self.unchanged()?;
        }
        let mut pace = Pace::new(&open, setup, cores, root)?;
        let mut failures = Vec::new();
        let mut failed = Vec::new();
        for (place, job) in open.iter().enumerate() {
            self.announce(job, place, open.len(), pace.left(place), setup);
            // What failed would fail again, after as long a time.
            let ended = match job.needs().into_iter().find(|id| failed.contains(id)) {
                Some(id) => Err(TrainError::file(root.join(id), "failed before")),
                None => without_panic(|| job.run(root, setup)),
            };
            match ended {
                Ok(()) => pace.passed(place),
                Err(TrainError::Stopped) => return Ok(Ended::Stopped { failures }),
                Err(error) => {
                    // What asks a job that left something can do with that.
                    if job.left_nothing(root) {
                        failed.push(job.id());
                    }
                    let failure = format!("{}: {error}", job.directory(root).display());
                    setup.telemetry.say(format!("failed: {failure}"));
                    failures.push(failure);
                }
            }
            if !self.single && matches!(job, Job::Evaluation(_)) {
                // What is wrong with the table is said when it is written whole.
                let _ = table_files::write(self.options, self.plan, false);
            }
        }
        Ok(match failures.is_empty() {
            true => Ended::Finished,
            false => Ended::Failed {
                failures,
                open: open.len(),
            },
        })
    }

    /// Refuses files of questions that have changed since a job read them: the rows of one table
    /// would be of different questions.
    fn unchanged(&self) -> Result<(), TrainError> {
        let root = &self.options.root;
        let mut digests: HashMap<PathBuf, String> = HashMap::new();
        // What is begun looks for itself.
        for job in self.jobs.iter().filter(|job| job.is_done(root)) {
            let run = RunDirectory::at(&job.directory(root));
            // What is wrong with a directory is said by who opens it.
            let Ok(Some(known)) = run.provenance_if_written() else {
                continue;
            };
            for file in known.split.files.iter().filter(|file| {
                // Earlier versions wrote relative paths, which may be other files from here.
                file.path.is_absolute() && file.path.is_file()
            }) {
                let digest = match digests.entry(file.path.clone()) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(place) => place.insert(sha256(&file.path)?),
                };
                if *digest != file.sha256 {
                    let besides = "begin anew in another directory (train --run, reproduce --root)";
                    return Err(changed(&file.path, &run, besides));
                }
            }
        }
        Ok(())
    }

    /// The jobs that are left to do.
    fn open(&self) -> Vec<&Job> {
        let root = &self.options.root;
        let is_open = |job: &&Job| match job {
            // An adapter that no open evaluation asks for may be gone: results are copied without
            // their adapters.
            Job::Training(training) if !self.single => is_needed(self.plan, training, root),
            _ => !job.is_done(root),
        };
        self.jobs.iter().filter(is_open).collect()
    }

    /// Shows which job begins.
    fn announce(&self, job: &Job, place: usize, open: usize, left: f64, setup: &Setup) {
        let title = format!(
            "{} {}/{open} · {} · about {} left",
            self.plan.table.name,
            place + 1,
            job.id(),
            clock(left)
        );
        setup.telemetry.state().begin_work(title);
    }
}

/// A panic is the failure of one job. It has been told where it happened.
fn without_panic(job: impl FnOnce() -> Result<(), TrainError>) -> Result<(), TrainError> {
    catch_unwind(AssertUnwindSafe(job)).unwrap_or_else(|panic| {
        let reason = format!("a fault of the program: {}", fault::message(&*panic));
        Err(TrainError::Training(reason))
    })
}

/// Whether a training has yet to be done for an evaluation that has yet to be done.
fn is_needed(plan: &Plan, training: &TrainingJob, root: &Path) -> bool {
    let asks = |evaluation: &EvaluationJob| {
        let mut members = evaluation.members.iter();
        members.any(|member| member.id == training.id) && !missing(root, evaluation).is_empty()
    };
    !is_trained(root, training) && plan.evaluations().iter().any(asks)
}

/// The time left: the estimates, corrected by what the jobs so far took.
struct Pace {
    /// Estimated seconds of each job.
    estimates: Vec<f64>,
    began: Instant,
    /// Estimated seconds of the jobs that are done.
    done: f64,
}

impl Pace {
    fn new(open: &[&Job], setup: &Setup, cores: usize, root: &Path) -> Result<Self, TrainError> {
        let mut estimates = Estimates::new(&setup.finder, cores, root);
        let estimates = open.iter().map(|job| job.estimate(&mut estimates));
        let mut estimates: Vec<Result<f64, TrainError>> = estimates.collect();
        // A job without its data fails when its turn comes, and the others do not.
        if estimates.iter().all(Result::is_err)
            && let Some(Err(error)) = estimates.pop()
        {
            return Err(error);
        }
        Ok(Self {
            estimates: estimates
                .into_iter()
                .map(Result::unwrap_or_default)
                .collect(),
            began: Instant::now(),
            done: 0.0,
        })
    }

    /// Seconds from the beginning of a job to the end of all.
    fn left(&self, place: usize) -> f64 {
        let left: f64 = self.estimates[place..].iter().sum();
        // Before anything was measured, the estimate stands for itself.
        let pace = match self.done > 0.0 {
            true => self.began.elapsed().as_secs_f64() / self.done,
            false => 1.0,
        };
        left * pace
    }

    /// A job is done.
    fn passed(&mut self, place: usize) {
        self.done += self.estimates[place];
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_panic_is_the_failure_of_one_job() {
        let error = without_panic(|| panic!("at the {}th", 7)).unwrap_err();
        assert!(error.to_string().contains("at the 7th"), "{error}");
        assert!(without_panic(|| Ok(())).is_ok());
    }

    #[test]
    fn the_time_left_follows_what_was_measured() {
        let mut pace = Pace {
            estimates: vec![10.0, 20.0, 30.0],
            began: Instant::now(),
            done: 0.0,
        };
        assert_eq!(pace.left(0), 60.0);
        // The first job took twice its estimate: so will the others.
        pace.passed(0);
        pace.began = Instant::now() - Duration::from_secs(20);
        let left = pace.left(1);
        assert!((left - 100.0).abs() < 1.0, "{left}");
    }
}
