//! The recipe: load, attach, train, fit, predict, score, report. No method is named here.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use burn::prelude::*;
use data::EncodedQuestion;
use data::loader::LoaderState;
use data::source::{Finder, Located, SourceKind, sha256};
use model::{AdapterConfig, Llama};

use crate::checkpoint;
use crate::config::RunConfig;
use crate::dashboard::state::Phase;
use crate::error::TrainError;
use crate::evaluation::evaluate;
use crate::export;
use crate::method::{self, FitContext, Method, Predictor};
use crate::metric::Metrics;
use crate::posthoc::Calibrated;
use crate::prediction::ScoredRow;
use crate::prepare::Prepared;
use crate::report::{self, Scored};
use crate::run_directory::{Environment, Provenance, RunDirectory, write_predictions};
use crate::telemetry::Telemetry;
use crate::training::{self, Start, Trained, TrainingQuestions};

/// Where and how a run happens; the settings say what.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The tensor device, plain.
    pub device: Device,
    /// Further devices that share the training's steps.
    pub others: Vec<Device>,
    /// Where files are looked for.
    pub finder: Finder,
    /// The run's directory.
    pub run: PathBuf,
    /// Go on with what is there.
    pub resume: bool,
    /// On what the run runs, for its record.
    pub environment: Environment,
    /// Where its numbers go.
    pub telemetry: Telemetry,
    /// How a stop is asked for.
    pub state: Arc<LoaderState>,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
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
    mut prepared: Prepared,
) -> Result<Outcome, TrainError> {
    let method = method::build(config)?;
    let run = RunDirectory::create(&setup.run, config, setup.resume)?;
    setup.telemetry.say("Loading the weights ..");
    let base = prepared.load(config, &setup.device)?;
    if setup.resume {
        prepared.same_files(&run)?;
    }
    record(&run, setup, config, &prepared)?;
    let cut = prepared.answers_cut();
    if cut > 0 {
        setup.telemetry.say(format!(
            "{cut} of {} training answers are longer than data.answer_tokens = {}: the model cannot write them to their end",
            prepared.train.len(),
            config.data.answer_tokens
        ));
    }
    let finished = train_members(config, setup, &run, &prepared, &base, &*method)
        .and_then(|members| score(config, setup, &run, &prepared, &base, members, &*method));
    match finished {
        Ok(scored) => Ok(Outcome::Finished(Box::new(scored))),
        Err(TrainError::Stopped) => Ok(Outcome::Stopped(
            setup.state.steps_done.load(Ordering::SeqCst),
        )),
        Err(error) => Err(error),
    }
}

/// Every member of the method: one training in the run's own directory, or several below it.
fn train_members(
    config: &RunConfig,
    setup: &Setup,
    run: &RunDirectory,
    prepared: &Prepared,
    base: &Llama,
    method: &dyn Method,
) -> Result<Vec<Llama>, TrainError> {
    if method.adapter() == AdapterConfig::None {
        return Ok(vec![base.clone()]);
    }
    let questions = TrainingQuestions {
        train: &prepared.train,
        held_out: &prepared.held_out,
    };
    // What has begun goes on from its own checkpoint, whether or not the adapter is still where it was.
    let begun =
        |run: &RunDirectory| run.adapter().is_file() || checkpoint::latest(run.root()).is_some();
    let fresh = member_directories(config, method, run)
        .iter()
        .any(|(_, run)| !begun(run));
    let adapter = match fresh {
        true => export::import(config, prepared)?,
        false => None,
    };
    let start = Start {
        base,
        adapter: adapter.as_ref(),
    };
    let mut members = Vec::new();
    for (seed, directory) in member_directories(config, method, run) {
        let settings = method::training(config, seed)?;
        if directory.root() != run.root() {
            RunDirectory::create(directory.root(), &settings, directory.exists())?;
            setup.telemetry.say(format!("Member with seed {seed}"));
        }
        let trained = training::train(&settings, setup, &directory, questions, start)?;
        members.extend(chosen(method, trained));
    }
    Ok(members)
}

/// The adapters of one training that the method queries.
pub fn chosen(method: &dyn Method, trained: Trained) -> Vec<Llama> {
    match method.uses_snapshots() {
        true => trained.snapshots,
        false => vec![trained.last],
    }
}

/// Seed and directory of each member's training.
fn member_directories(
    config: &RunConfig,
    method: &dyn Method,
    run: &RunDirectory,
) -> Vec<(u64, RunDirectory)> {
    let members = method.members();
    (0..members as u64)
        .map(|member| config.train.seed + member)
        .map(|seed| match members {
            1 => (seed, run.clone()),
            _ => (seed, run.member(seed)),
        })
        .collect()
}

/// The members of a finished run.
///
/// # Errors
/// A run that has not finished, or an adapter that does not fit its settings.
pub fn load_members(
    run: &RunDirectory,
    config: &RunConfig,
    prepared: &Prepared,
    base: &Llama,
) -> Result<Vec<Llama>, TrainError> {
    let known = prepared.same_model(run)?;
    let method = method::build(config)?;
    let questions = known.split.used[0];
    let mut members = Vec::new();
    for (seed, directory) in member_directories(config, &*method, run) {
        let settings = method::training(config, seed)?;
        let trained = training::load(&settings, &directory, base, questions)?;
        members.extend(chosen(&*method, trained));
    }
    Ok(members)
}

/// Makes members answer; shows what takes long.
///
/// # Errors
/// As [`Method::fit`].
pub fn fit(
    config: &RunConfig,
    setup: &Setup,
    method: &dyn Method,
    members: Vec<Llama>,
    train: &[EncodedQuestion],
) -> Result<Box<dyn Predictor>, TrainError> {
    let progress = |done: usize, total: usize| {
        setup.telemetry.phase(Phase::Evaluating {
            name: format!("fitting {}", method.name()),
            done: done.min(total),
            total,
        });
        !setup.state.stop.load(Ordering::SeqCst)
    };
    // The first of a shuffled order would do; evenly spaced ones need no generator.
    let wanted = method.fit_questions().min(train.len());
    let questions: Vec<EncodedQuestion> = (0..wanted)
        .map(|i| train[i * train.len() / wanted].clone())
        .collect();
    method.fit(
        members,
        &FitContext {
            questions: &questions,
            all_questions: train.len(),
            batch_tokens: config.evaluation.batch_tokens,
            device: &setup.device,
            seed: config.train.seed,
            progress: &progress,
        },
    )
}

/// The files of `adapter.from`; once the run has begun, those that it began from.
fn started_from(run: &RunDirectory, config: &RunConfig) -> Result<Vec<Located>, TrainError> {
    let Some(directory) = &config.adapter.from else {
        return Ok(Vec::new());
    };
    if let Ok(known) = run.read_json::<Provenance>("data.json")
        && !known.adapter.is_empty()
    {
        return Ok(known.adapter);
    }
    let files = model::exchange::files(directory);
    files
        .into_iter()
        .map(|path| {
            Ok(Located {
                sha256: sha256(&path)?,
                origin: path.display().to_string(),
                source: SourceKind::Local,
                path,
            })
        })
        .collect()
}

/// Writes what the run is made of, before its first step.
pub(crate) fn record(
    run: &RunDirectory,
    setup: &Setup,
    config: &RunConfig,
    prepared: &Prepared,
) -> Result<(), TrainError> {
    let adapter = method::build(config)?.adapter();
    let shortened = |rows: &[EncodedQuestion]| rows.iter().filter(|q| q.shortened).count();
    run.write_json("environment.json", &setup.environment)?;
    run.write_json(
        "data.json",
        &Provenance {
            model: prepared.model_files.clone(),
            adapter: started_from(run, config)?,
            split: prepared.splits.account.clone(),
            shortened: [
                shortened(&prepared.train),
                shortened(&prepared.held_out),
                shortened(&prepared.test),
            ],
            answers_cut: prepared.answers_cut(),
            base_parameters: prepared.model.base_parameters(),
            trainable_parameters: adapter.parameters(&prepared.model),
        },
    )
}

/// Scores held-out and test questions with the base model and the tuned one, and writes everything down.
fn score(
    config: &RunConfig,
    setup: &Setup,
    run: &RunDirectory,
    prepared: &Prepared,
    base: &Llama,
    members: Vec<Llama>,
    method: &dyn Method,
) -> Result<Scored, TrainError> {
    let adapted = method.adapter() != AdapterConfig::None;
    let zero_shot: Box<dyn Predictor> =
        fit(config, setup, &method::base::Base, vec![base.clone()], &[])?;
    let set = |predictor: &dyn Predictor, who: &str, views: bool| {
        let both = [
            ("held-out", &prepared.held_out, &prepared.splits.held_out),
            ("test", &prepared.test, &prepared.splits.test),
        ];
        both.map(|(what, questions, texts)| {
            let count = if views { method.perturbations() } else { 0 };
            let views = prepared.views(texts, count, config.train.seed)?;
            let name = format!("{who} on {what} questions");
            let asked = (predictor, prepared.tokenizer());
            evaluate(config, setup, &name, asked, questions, &views)
        })
    };
    let [base_held_out, base_test] = set(&*zero_shot, "base model", false);
    let (base_held_out, base_test) = (base_held_out?, base_test?);
    let (held_out, test) = match adapted {
        false => (base_held_out.clone(), base_test.clone()),
        true => {
            let predictor = fit(config, setup, method, members, &prepared.train)?;
            let [held_out, test] = set(&*predictor, "tuned model", true);
            (held_out?, test?)
        }
    };
    setup.telemetry.phase(Phase::Reporting);
    let folder = run.evaluation(&config.data.dataset);
    for (name, rows) in [
        ("predictions.jsonl", &test.rows),
        ("base-predictions.jsonl", &base_test.rows),
        ("held-out-predictions.jsonl", &held_out.rows),
        ("held-out-base-predictions.jsonl", &base_held_out.rows),
    ] {
        write_predictions(&folder.join(name), rows)?;
    }
    let bootstrap = config.bootstrap();
    let figures = |rows: &[ScoredRow]| Metrics::of(rows, config.evaluation.bins, bootstrap);
    let scored = Scored {
        calibrated: Calibrated::of(
            &held_out.rows,
            &test.rows,
            config.evaluation.bins,
            bootstrap,
        ),
        base: figures(&base_test.rows),
        tuned: figures(&test.rows),
        base_held_out: figures(&base_held_out.rows),
        tuned_held_out: figures(&held_out.rows),
        cost: test.cost,
        base_rows: base_test.rows,
        tuned_rows: test.rows,
        held_out_rows: held_out.rows,
    };
    let name = format!("evaluation/{}/metrics.json", config.data.dataset);
    run.write_json(&name, &scored.figures())?;
    report::write(run, config, &scored, &prepared.splits.test)?;
    setup.telemetry.phase(Phase::Done);
    Ok(scored)
}
