//! The recipe: load, attach, train, fit, predict, score, report. No method is named here.

use std::sync::atomic::Ordering;

use model::{AdapterConfig, Llama};

use crate::checkpoint;
use crate::config::{AnswerTemperature, RunConfig};
use crate::context::Setup;
use crate::dashboard::state::Phase;
use crate::error::TrainError;
use crate::evaluation::Evaluated;
use crate::export::start::import;
use crate::fitted::{LoadedRun, QuestionSet, chosen, only_temperature, trainings};
use crate::pace::Pace;
use crate::posthoc::trust::FEW;
use crate::prepare::{LeftOut, Prepared};
use crate::provenance;
use crate::registry;
use crate::report::{self, Said, Scored};
use crate::run_directory::{HELD_OUT, RunDirectory};
use crate::tracker;
use crate::training::{self, Start, TrainingQuestions};

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub enum RunOutcome {
    /// Trained, scored, reported.
    Finished(Box<Scored>),
    /// Stopped on request after this many optimizer steps; `--resume` goes on.
    Stopped(usize),
}

/// Runs the whole recipe on what [`crate::prepare::prepare`] found.
///
/// # Errors
/// Anything that [`TrainError`] names. What was written before stays.
pub fn fine_tune(
    config: &RunConfig,
    setup: &Setup,
    prepared: Prepared,
) -> Result<RunOutcome, TrainError> {
    // What share of the work it is depends little on how fast the machine is.
    let pace = Pace::assumed(setup.environment.threads);
    let estimate = prepared.estimate(config, &setup.device, &pace)?;
    if estimate.training_seconds > 0.0 {
        setup.telemetry.state().after = estimate.after_seconds / estimate.training_seconds;
    }
    let finished = train(config, setup, prepared).and_then(|loaded| score(loaded, setup));
    match finished {
        Ok(scored) => Ok(RunOutcome::Finished(Box::new(scored))),
        Err(TrainError::Stopped) => Ok(RunOutcome::Stopped(
            setup.state.steps_done.load(Ordering::SeqCst),
        )),
        Err(error) => Err(error),
    }
}

/// The recipe up to the trained members; what has been trained already is only loaded.
///
/// # Errors
/// As [`fine_tune`], [`TrainError::Stopped`] among it.
pub fn train(
    config: &RunConfig,
    setup: &Setup,
    mut prepared: Prepared,
) -> Result<LoadedRun, TrainError> {
    let run = RunDirectory::create(&setup.run, config, setup.resume)?;
    setup.telemetry.say("Loading the weights ..");
    let base = prepared.load(config, &setup.device)?;
    if setup.resume {
        provenance::same_files(&prepared, &run)?;
    }
    provenance::record(&run, setup, config, &prepared)?;
    for sentence in LeftOut::sentences(&prepared.left_out) {
        setup.telemetry.say(sentence);
    }
    if let Some(warning) = few_held_out(&prepared) {
        setup.telemetry.say(warning);
    }
    if config.adapter.from.is_some()
        && config.train.max_steps != Some(0)
        && config.method.temperature == AnswerTemperature::Prequential
    {
        setup.telemetry.say(
            "adapter.from: an answer to a question that this adapter was trained on before is no first answer. If there are such questions, the temperature will be too low and the confidence too high.",
        );
    }
    let cut = prepared.answers_cut();
    if cut > 0 {
        setup.telemetry.say(format!(
            "{cut} of {} training answers are longer than data.answer_tokens = {}: the model cannot write them to their end",
            prepared.train.len(),
            config.data.answer_tokens
        ));
    }
    let members = train_members(config, setup, &run, &prepared, &base)?;
    let trainings = trainings(config, &run)?;
    let temperature = only_temperature(trainings.iter().map(|(_, directory)| directory))?;
    LoadedRun::new(config, setup, prepared, base, members, temperature)
}

/// Looks whether a new training could begin: loads the model, attaches the adapter that it begins
/// with, and keeps nothing.
///
/// # Errors
/// As [`train`] before its first step.
pub fn check(config: &RunConfig, setup: &Setup, prepared: &mut Prepared) -> Result<(), TrainError> {
    if registry::build(config)?.adapter() == AdapterConfig::None {
        return Ok(());
    }
    let base = prepared.load(config, &setup.device)?;
    let adapter = import(config, prepared)?;
    let start = Start {
        base: &base,
        adapter: adapter.as_ref(),
    };
    let first = registry::training_settings(config, config.train.seed)?;
    training::set_up(&first, start, prepared.train.len()).map(|_| ())
}

/// Says that a confidence calibrated on the held-out questions will be uncertain.
fn few_held_out(prepared: &Prepared) -> Option<String> {
    let n = prepared.held_out.len();
    (n < FEW).then(|| {
        format!(
            "Only {n} held-out questions: the confidence calibrated on them will be uncertain. {FEW} and more serve better (data.held_out_fraction, data.custom.held_out, data.held_out_limit)."
        )
    })
}

/// Every member of the method: one training in the run's own directory, or several below it.
fn train_members(
    config: &RunConfig,
    setup: &Setup,
    run: &RunDirectory,
    prepared: &Prepared,
    base: &Llama,
) -> Result<Vec<Llama>, TrainError> {
    let method = registry::build(config)?;
    if method.adapter() == AdapterConfig::None {
        return Ok(vec![base.clone()]);
    }
    let questions = TrainingQuestions {
        train: &prepared.train,
        held_out: &prepared.held_out,
    };
    let trainings = trainings(config, run)?;
    // What has begun goes on from its own checkpoint, whether or not the adapter is still where
    // it was.
    let begun = |run: &RunDirectory| run.adapter().is_file() || checkpoint::has_begun(run.root());
    let adapter = match trainings.iter().any(|(_, directory)| !begun(directory)) {
        true => import(config, prepared)?,
        false => None,
    };
    let start = Start {
        base,
        adapter: adapter.as_ref(),
    };
    let mut members = Vec::new();
    let after = setup.telemetry.state().after;
    let mut left = trainings.len();
    for (settings, directory) in trainings {
        left -= 1;
        setup.telemetry.state().after = after + left as f64;
        if directory.root() != run.root() {
            RunDirectory::create(directory.root(), &settings, directory.exists())?;
            let seed = settings.train.seed;
            setup.telemetry.say(format!("Member with seed {seed}"));
        }
        let trained = training::train(&settings, setup, &directory, questions, start)?;
        members.extend(chosen(&*method, trained));
    }
    Ok(members)
}

/// The two sets of a run, scored by one model.
#[derive(Clone)]
struct Answered {
    held_out: Evaluated,
    test: Evaluated,
}

impl Answered {
    /// Scores the held-out questions, then the test questions of the run's own dataset.
    fn by(
        config: &RunConfig,
        prepared: &Prepared,
        score: impl Fn(&str, &QuestionSet) -> Result<Evaluated, TrainError>,
    ) -> Result<Self, TrainError> {
        let held_out = QuestionSet::held_out(config, prepared);
        let test = QuestionSet::test(&config.data.dataset, config, prepared);
        Ok(Self {
            held_out: score("held-out questions", &held_out)?,
            test: score("test questions", &test)?,
        })
    }
}

/// Scores held-out and test questions with the base model and the tuned one, and writes everything
/// down.
fn score(loaded: LoadedRun, setup: &Setup) -> Result<Scored, TrainError> {
    let config = loaded.config.clone();
    let base = Answered::by(&config, &loaded.prepared, |what, set| {
        loaded.score_base(&format!("base model on {what}"), set)
    })?;
    let (tuned, prepared) = match loaded.is_adapted() {
        false => (base.clone(), loaded.prepared),
        true => {
            let fitted = loaded.fit()?;
            let tuned = Answered::by(&config, &fitted.prepared, |what, set| {
                fitted.score(&format!("tuned model on {what}"), set)
            })?;
            (tuned, fitted.prepared)
        }
    };
    setup.telemetry.phase(Phase::Reporting);
    let run = RunDirectory::at(&setup.run);
    let dataset = &config.data.dataset;
    run.write_base_predictions(HELD_OUT, &base.held_out.rows)?;
    run.write_predictions(HELD_OUT, &tuned.held_out.rows)?;
    run.write_base_predictions(dataset, &base.test.rows)?;
    run.write_predictions(dataset, &tuned.test.rows)?;
    let said = |answered: Answered| Said {
        held_out: answered.held_out.rows,
        test: answered.test,
    };
    let scored = Scored::of(&config, said(base), said(tuned));
    run.keep_json(
        &format!("evaluation/{dataset}/metrics.json"),
        &scored.figures(),
    )?;
    report::write(&run, &config, &scored, &prepared.splits.test)?;
    let steps = run.metrics()?.last().map_or(0, |line| line.step);
    tracker::finish(run.root(), &config, steps, &scored.finals())?;
    setup.telemetry.phase(Phase::Done);
    Ok(scored)
}
