//! One training or one evaluation: idempotent, resumable, safe beside other machines on the same file system.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Known;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use burn::prelude::*;
use data::EncodedQuestion;
use data::source::Finder;
use model::AdapterConfig;

use super::lock::{Attempt, Holder, Lock};
use super::plan::{Evaluation, Training};
use crate::config::RunConfig;
use crate::error::TrainError;
use crate::evaluation::evaluate;
use crate::export;
use crate::fine_tune::{Setup, chosen, fit, record};
use crate::method;
use crate::prepare::{Prepared, prepare, prepare_test};
use crate::run_directory::{Provenance, RunDirectory, write_predictions};
use crate::training::{self, Start, TrainingQuestions};

/// Name of the held-out questions among an evaluation's sets.
pub const HELD_OUT: &str = "held-out";

/// Where a training lies.
pub fn training_directory(root: &Path, training: &Training) -> PathBuf {
    root.join("trainings").join(&training.id)
}

/// Where an evaluation lies.
pub fn evaluation_directory(root: &Path, evaluation: &Evaluation) -> PathBuf {
    root.join("evaluations").join(&evaluation.id)
}

/// Whether a training has finished.
pub fn is_trained(root: &Path, training: &Training) -> bool {
    RunDirectory::at(&training_directory(root, training))
        .adapter()
        .is_file()
}

/// The sets of an evaluation that are not scored yet, the held-out questions first.
pub fn missing(root: &Path, evaluation: &Evaluation) -> Vec<String> {
    let run = RunDirectory::at(&evaluation_directory(root, evaluation));
    std::iter::once(HELD_OUT.to_owned())
        .chain(evaluation.on.iter().cloned())
        .filter(|set| !run.evaluation(set).join("cost.json").is_file())
        .collect()
}

/// Takes a directory's lock, waiting while someone else works there; `done` ends the wait. `None` if there is nothing left to do.
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
            Attempt::Taken(lock) => return Ok((!done()).then_some(lock)),
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

/// Estimates of time on a processor. The rows of a table differ in their methods, not in their questions: each set of questions is
/// read and encoded once.
#[derive(Debug)]
pub struct Estimates<'a> {
    finder: &'a Finder,
    cores: usize,
    prepared: HashMap<String, Prepared>,
}

/// Finds and encodes the questions of some settings.
type Prepare = fn(&RunConfig, &Finder) -> Result<Prepared, TrainError>;

impl<'a> Estimates<'a> {
    /// None yet.
    pub fn new(finder: &'a Finder, cores: usize) -> Self {
        Self {
            finder,
            cores,
            prepared: HashMap::new(),
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
    pub fn training(&mut self, training: &Training) -> Result<f64, TrainError> {
        let (config, cores) = (&training.config, self.cores);
        let prepared = self.prepared(config, "all", prepare)?;
        Ok(prepared
            .estimate(config, &Device::flex(), cores)?
            .training_seconds)
    }

    /// Seconds of an evaluation of all its sets, fit included.
    ///
    /// # Errors
    /// Data that cannot be had.
    pub fn evaluation(&mut self, evaluation: &Evaluation) -> Result<f64, TrainError> {
        let (config, cores) = (&evaluation.config, self.cores);
        let method = method::build(config)?;
        let tokens = |questions: &[EncodedQuestion]| -> usize {
            questions.iter().map(EncodedQuestion::length).sum()
        };
        let own = self.prepared(config, "all", prepare)?;
        let per_token = own
            .estimate(config, &Device::flex(), cores)?
            .seconds_per_token;
        let (train, questions) = (tokens(&own.train) as f64, own.train.len());
        let (mut scored, own_test) = (tokens(&own.held_out), tokens(&own.test));
        for name in &evaluation.on {
            scored += match *name == config.data.dataset {
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

/// A setup for work in one directory.
fn setup_in(setup: &Setup, directory: &Path) -> Setup {
    setup.state.steps_done.store(0, Ordering::SeqCst);
    Setup {
        run: directory.to_path_buf(),
        resume: true,
        ..setup.clone()
    }
}

/// Trains a member, unless it has been trained; goes on where an earlier attempt ended.
///
/// # Errors
/// Anything that [`TrainError`] names, [`TrainError::Stopped`] among it.
pub fn ensure_trained(training: &Training, root: &Path, setup: &Setup) -> Result<(), TrainError> {
    let directory = training_directory(root, training);
    let Some(_lock) = enter(&directory, setup, || is_trained(root, training))? else {
        return Ok(());
    };
    let config = &training.config;
    let setup = setup_in(setup, &directory);
    let run = RunDirectory::at(&directory);
    let run = RunDirectory::create(&directory, config, run.exists())?;
    let mut prepared = prepare(config, &setup.finder)?;
    let base = prepared.load(config, &setup.device)?;
    prepared.same_files(&run)?;
    record(&run, &setup, config, &prepared)?;
    let questions = TrainingQuestions {
        train: &prepared.train,
        held_out: &prepared.held_out,
    };
    let adapter = export::import(config, &prepared)?;
    let start = Start {
        base: &base,
        adapter: adapter.as_ref(),
    };
    training::train(config, &setup, &run, questions, start).map(|_| ())
}

/// Scores an evaluation's sets, but for those that have been scored; trains its members first if need be.
///
/// # Errors
/// As [`ensure_trained`].
pub fn ensure_evaluated(
    evaluation: &Evaluation,
    root: &Path,
    setup: &Setup,
) -> Result<(), TrainError> {
    if missing(root, evaluation).is_empty() {
        return Ok(());
    }
    for member in &evaluation.members {
        ensure_trained(member, root, setup)?;
    }
    let directory = evaluation_directory(root, evaluation);
    let done = || missing(root, evaluation).is_empty();
    let Some(_lock) = enter(&directory, setup, done)? else {
        return Ok(());
    };
    let setup = setup_in(setup, &directory);
    let config = &evaluation.config;
    let run = RunDirectory::at(&directory);
    let run = RunDirectory::create(&directory, config, run.exists())?;
    let method = method::build(config)?;
    let mut prepared = prepare(config, &setup.finder)?;
    // Sets that were scored before must be of the same files as those that follow.
    prepared.same_files(&run)?;
    record(&run, &setup, config, &prepared)?;
    let mut sets: Vec<(String, Prepared)> = Vec::new();
    for name in &evaluation.on {
        if *name != config.data.dataset {
            let other = prepare_test(&config.on(name), &setup.finder)?;
            sets.push((name.clone(), other));
        }
    }
    let positions = sets.iter().map(|(_, set)| set.positions()).max();
    let base = prepared.load_for(config, positions.unwrap_or(0), &setup.device)?;
    let members = match method.adapter() {
        AdapterConfig::None => vec![base.clone()],
        _ => {
            let mut members = Vec::new();
            for member in &evaluation.members {
                let trained = RunDirectory::at(&training_directory(root, member));
                prepared.same_files(&trained)?;
                let questions = trained.read_json::<Provenance>("data.json")?.split.used[0];
                let adapters = training::load(&member.config, &trained, &base, questions)?;
                members.extend(chosen(&*method, adapters));
            }
            members
        }
    };
    let predictor = fit(config, &setup, &*method, members, &prepared.train)?;
    for set in missing(root, evaluation) {
        let other = sets.iter().find(|(name, _)| *name == set);
        let of = other.map_or(&prepared, |(_, other)| other);
        let (questions, texts) = match set == HELD_OUT {
            true => (&of.held_out, &of.splits.held_out),
            false => (&of.test, &of.splits.test),
        };
        let views = of.views(texts, method.perturbations(), config.train.seed)?;
        let name = format!("{} on {set}", config.method.title());
        let asked = (&*predictor, of.tokenizer());
        let evaluated = evaluate(config, &setup, &name, asked, questions, &views)?;
        write_predictions(
            &run.evaluation(&set).join("predictions.jsonl"),
            &evaluated.rows,
        )?;
        let origins: Vec<String> = of.origins().iter().map(|f| f.origin.clone()).collect();
        run.write_json(&format!("evaluation/{set}/sources.json"), &origins)?;
        // Last: it says that the set is done.
        run.write_json(&format!("evaluation/{set}/cost.json"), &evaluated.cost)?;
    }
    Ok(())
}
