//! One training or one evaluation: idempotent, resumable, safe beside other machines on the same
//! file system.

use std::collections::hash_map::Entry as Known;
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use burn::prelude::*;
use data::EncodedQuestion;
use data::source::Finder;

use super::places::{evaluation_directory, is_trained, training_directory};
use super::plan::{EvaluationJob, TrainingJob};
use super::records::ScoredSet;
use crate::config::RunConfig;
use crate::context::Setup;
use crate::error::TrainError;
use crate::evaluation::{Cost, Evaluated};
use crate::fine_tune::train;
use crate::fitted::{FittedRun, LoadedRun, Member, QuestionSet, only_temperature};
use crate::lock::{Attempt, Holder, Lock};
use crate::pace::Pace;
use crate::posthoc::PostHoc;
use crate::prepare::{Prepared, prepare, prepare_test, prepare_test_after};
use crate::prequential::{FIRST_ANSWERS_SET, PrequentialTemperature};
use crate::provenance;
use crate::registry;
use crate::run_directory::{HELD_OUT, RunDirectory};

/// The sets of an evaluation that are not scored yet, the held-out questions first.
pub fn missing(root: &Path, evaluation: &EvaluationJob) -> Vec<String> {
    let run = RunDirectory::at(&evaluation_directory(root, evaluation));
    let sets = evaluation.sets().into_iter().map(str::to_owned);
    sets.filter(|set| !run.evaluation(set).join("cost.json").is_file())
        .collect()
}

/// Takes a directory's lock, waiting while someone else works there. `done` ends the wait. `None`
/// if there is nothing left to do.
fn enter(
    directory: &Path,
    setup: &Setup,
    done: impl Fn() -> bool,
) -> Result<Option<Lock>, TrainError> {
    let mut told = false;
    loop {
        if done() {
            return Ok(None);
        }
        match Lock::attempt(directory)? {
            // Someone may have finished between the look and the lock.
            Attempt::Taken(lock) => {
                RunDirectory::at(directory).sweep();
                return Ok((!done()).then_some(lock));
            }
            Attempt::Held(Holder { host, pid, .. }) => {
                if !told {
                    let name = directory.file_name().unwrap_or_default().to_string_lossy();
                    setup.telemetry.say(format!(
                        "{name} is being worked on by {host} (process {pid}): waiting"
                    ));
                    told = true;
                }
                if setup.state.stop.load(Ordering::SeqCst) {
                    return Err(TrainError::Stopped);
                }
                std::thread::sleep(Duration::from_millis(500));
            }
        }
    }
}

/// Estimates of time on a processor. The rows of a table differ in their methods, not in their
/// questions, so each set of questions is read and encoded once.
#[derive(Debug)]
pub struct Estimates<'a> {
    finder: &'a Finder,
    cores: usize,
    root: &'a Path,
    prepared: HashMap<String, Prepared>,
    asked: HashSet<String>,
}

/// Finds and encodes the questions of some settings.
type Prepare = fn(&RunConfig, &Finder) -> Result<Prepared, TrainError>;

impl<'a> Estimates<'a> {
    /// Estimates for so many cores, with files from `finder`; `root` is where the work is kept.
    pub fn new(finder: &'a Finder, cores: usize, root: &'a Path) -> Self {
        Self {
            finder,
            cores,
            root,
            prepared: HashMap::new(),
            asked: HashSet::new(),
        }
    }

    fn prepared(
        &mut self,
        config: &RunConfig,
        which: &str,
        prepare: Prepare,
    ) -> Result<&Prepared, TrainError> {
        let RunConfig {
            model,
            data,
            objective,
            ..
        } = config;
        let key = format!(
            "{which} {model:?} {data:?} {:?} {:?}",
            objective.cross_entropy, objective.flu_tokens
        );
        match self.prepared.entry(key) {
            Known::Occupied(known) => Ok(known.into_mut()),
            Known::Vacant(place) => Ok(place.insert(prepare(config, self.finder)?)),
        }
    }

    /// Seconds of a training.
    ///
    /// # Errors
    /// Data that cannot be had.
    pub fn training(&mut self, training: &TrainingJob) -> Result<f64, TrainError> {
        let (config, cores) = (&training.config, self.cores);
        let prepared = self.prepared(config, "all", prepare)?;
        let pace = Pace::assumed(cores);
        Ok(prepared
            .estimate(config, &Device::flex(), &pace)?
            .training_seconds)
    }

    /// Seconds of an evaluation of all its sets, fit included. None for answers that another
    /// evaluation gives, done or already estimated.
    ///
    /// # Errors
    /// Data that cannot be had.
    pub fn evaluation(&mut self, evaluation: &EvaluationJob) -> Result<f64, TrainError> {
        let asked = evaluation.at_temperature_one();
        let given = |asked: &EvaluationJob| missing(self.root, asked).is_empty();
        if asked.as_ref().is_some_and(given)
            || !self
                .asked
                .insert(asked.map_or(evaluation.id.clone(), |asked| asked.id))
        {
            return Ok(0.0);
        }
        let (config, cores) = (&evaluation.config, self.cores);
        let method = registry::build(config)?;
        let tokens = |questions: &[EncodedQuestion]| -> usize {
            questions.iter().map(EncodedQuestion::length).sum()
        };
        if evaluation.datasets().next().is_none() {
            return Ok(0.0);
        }
        let own = self.prepared(config, "all", prepare)?;
        let per_token = own
            .estimate(config, &Device::flex(), &Pace::assumed(cores))?
            .seconds_per_token;
        let (train, questions) = (tokens(&own.train) as f64, own.train.len());
        let (mut scored, own_test) = (tokens(&own.held_out), tokens(&own.test));
        for name in evaluation.datasets() {
            scored += match name == config.data.dataset {
                true => own_test,
                false => tokens(&self.prepared(&config.on(name), "test", prepare_test)?.test),
            };
        }
        let passes = method.passes() as f64 * (1 + method.perturbations()) as f64;
        let fitted = method.fit_questions().min(questions) as f64 * train / questions as f64;
        let fit = fitted * method.fit_passes() as f64;
        Ok((scored as f64 * passes + fit) * per_token)
    }
}

/// A setup for work in one directory, which may have begun.
fn setup_in(setup: &Setup, directory: &Path) -> Setup {
    setup.state.begin(0);
    Setup {
        run: directory.to_path_buf(),
        resume: RunDirectory::at(directory).exists(),
        ..setup.clone()
    }
}

/// Trains a member, unless it has been trained; goes on where an earlier attempt ended.
///
/// # Errors
/// Anything that [`TrainError`] names, [`TrainError::Stopped`] among it.
pub fn ensure_trained(
    training: &TrainingJob,
    root: &Path,
    setup: &Setup,
) -> Result<(), TrainError> {
    let directory = training_directory(root, training);
    let Some(_lock) = enter(&directory, setup, || is_trained(root, training))? else {
        return Ok(());
    };
    let config = &training.config;
    let setup = setup_in(setup, &directory);
    let prepared = prepare(config, &setup.finder)?;
    train(config, &setup, prepared).map(|_| ())
}

/// Scores the sets of an evaluation that have not been scored. Trains its members first if need
/// be.
///
/// # Errors
/// As [`ensure_trained`].
pub fn ensure_evaluated(
    evaluation: &EvaluationJob,
    root: &Path,
    setup: &Setup,
) -> Result<(), TrainError> {
    if missing(root, evaluation).is_empty() {
        return Ok(());
    }
    for member in &evaluation.members {
        ensure_trained(member, root, setup)?;
    }
    let asked = evaluation.at_temperature_one();
    // A dataset that cannot be had does not keep the others from being asked.
    let mut absent = match &asked {
        Some(asked) => ensure_evaluated(asked, root, setup),
        None => Ok(()),
    };
    if matches!(absent, Err(TrainError::Stopped)) {
        return absent;
    }
    let directory = evaluation_directory(root, evaluation);
    let done = || missing(root, evaluation).is_empty();
    let Some(_lock) = enter(&directory, setup, done)? else {
        return Ok(());
    };
    let setup = setup_in(setup, &directory);
    let config = &evaluation.config;
    let run = RunDirectory::create(&directory, config, setup.resume)?;
    let prepared = prepare(config, &setup.finder)?;
    // Sets that were scored before must be of the same files as those that follow.
    provenance::same_files(&prepared, &run)?;
    provenance::record(&run, &setup, config, &prepared)?;
    let mut open = missing(root, evaluation);
    let mut others: Vec<(&str, Prepared)> = Vec::new();
    let shifted = |name: &&str| *name != config.data.dataset;
    for name in evaluation.datasets().filter(shifted) {
        let shots = prepared.shots().cloned();
        match prepare_test_after(&config.on(name), &setup.finder, shots) {
            Ok(other) => others.push((name, other)),
            Err(error) => {
                open.retain(|set| set != name);
                absent = absent.and(Err(error));
            }
        }
    }
    let left_out = others.iter().map(|(_, other)| &*other.left_out);
    provenance::record_left_out(&run, left_out)?;
    let members = trained_members(evaluation, root, &prepared)?;
    if let Some(asked) = &asked {
        provenance::same_files(
            &prepared,
            &RunDirectory::at(&evaluation_directory(root, asked)),
        )?;
        let unasked = missing(root, asked);
        open.retain(|name| !unasked.contains(name));
        divide(&open, (evaluation, asked), &members, root)?;
        return absent;
    }
    if let Some(place) = open.iter().position(|name| name == FIRST_ANSWERS_SET) {
        open.remove(place);
        first_answers(&members, &prepared)?.write(&run, FIRST_ANSWERS_SET)?;
    }
    if open.is_empty() {
        return absent;
    }
    let positions = others.iter().map(|(_, other)| other.positions()).max();
    let positions = positions.unwrap_or(0);
    let fitted = LoadedRun::open(config, &setup, prepared, positions, &members)?.fit()?;
    for name in open {
        let other = others.iter().find(|(other, _)| *other == name);
        let prepared = other.map_or(&fitted.prepared, |(_, other)| other);
        ask(&name, config, &fitted, prepared)?.write(&run, &name)?;
    }
    absent
}

/// Asks the held-out questions or a dataset's test questions.
fn ask(
    name: &str,
    config: &RunConfig,
    fitted: &FittedRun,
    prepared: &Prepared,
) -> Result<ScoredSet, TrainError> {
    let set = match name == HELD_OUT {
        true => QuestionSet::held_out(config, prepared),
        false => QuestionSet::test(name, config, prepared),
    };
    let shown = format!("{} on {name}", config.method.title());
    let Evaluated { rows, cost } = fitted.score(&shown, &set)?;
    Ok(ScoredSet {
        cost,
        sources: sources(prepared),
        rows,
    })
}

/// Where the model and the questions came from.
fn sources(prepared: &Prepared) -> Vec<String> {
    let origins = prepared.origins();
    origins.iter().map(|file| file.origin.clone()).collect()
}

/// What the one member answered on the way, as a set: nothing is asked.
fn first_answers(members: &[Member], prepared: &Prepared) -> Result<ScoredSet, TrainError> {
    let [member] = members else {
        return Err(TrainError::config(
            "--on",
            format!(
                "{FIRST_ANSWERS_SET} are those of one training: this row has {}",
                members.len()
            ),
        ));
    };
    let rows = member.directory.late_first_answers()?;
    if rows.is_empty() {
        let reason = "has no first answers: train it again, in another --root";
        return Err(TrainError::file(member.directory.first_answers(), reason));
    }
    Ok(ScoredSet {
        cost: Cost {
            questions: rows.len(),
            forward_passes: 1,
            seconds_per_question: 0.0,
        },
        sources: sources(prepared),
        rows,
    })
}

/// Scores an evaluation's open sets by dividing the scores of `asked` by the temperature of the
/// members' first answers.
fn divide(
    open: &[String],
    (evaluation, asked): (&EvaluationJob, &EvaluationJob),
    members: &[Member],
    root: &Path,
) -> Result<(), TrainError> {
    let directories = members.iter().map(|member| &member.directory);
    let temperature = PrequentialTemperature::required(only_temperature(directories)?)?;
    let [run, asked_run] =
        [evaluation, asked].map(|job| RunDirectory::at(&evaluation_directory(root, job)));
    for name in open {
        let Some(mut set) = ScoredSet::read(&asked_run, name)? else {
            let reason = "is gone: run the command again";
            return Err(TrainError::file(asked_run.evaluation(name), reason));
        };
        set.rows = set.rows.iter().map(|row| temperature.apply(row)).collect();
        set.write(&run, name)?;
    }
    Ok(())
}

/// The trainings of an evaluation's members, which must have used the same files.
fn trained_members(
    evaluation: &EvaluationJob,
    root: &Path,
    prepared: &Prepared,
) -> Result<Vec<Member>, TrainError> {
    let members = evaluation.members.iter();
    members
        .map(|member| {
            let directory = RunDirectory::at(&training_directory(root, member));
            provenance::same_files(prepared, &directory)?;
            Ok(Member {
                config: member.config.clone(),
                questions: directory.provenance()?.split.used[0],
                directory,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::config::ConfigLayers;
    use crate::reproduce::{Options, Plan, TABLES};

    /// `train` asks for the training behind a method. Behind a table's training that is itself.
    #[test]
    fn a_training_of_a_table_is_its_own_training() {
        for table in TABLES {
            let mut given = ConfigLayers::default();
            given.set("model.name=tiny").unwrap();
            let options = Options {
                table,
                seeds: 1,
                methods: vec![],
                on: vec![],
                given,
                root: PathBuf::new(),
            };
            for training in Plan::new(&options, None).unwrap().trainings() {
                let config = training.config;
                let again = registry::training_settings(&config, config.train.seed).unwrap();
                assert_eq!(again, config, "{}", table.name);
            }
        }
    }
}
