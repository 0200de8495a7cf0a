//! `uq4ct evaluate`: a finished run on other datasets, or asked by another method.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use anyhow::{Result, bail};
use clap::Args;
use data::prompt::LabelStyle;
use train::RunConfig;
use train::config::ConfigLayers;
use train::config::readers::{is_about_written_answers, is_read_when_asking};
use train::dashboard::hangup::LineSink;
use train::dashboard::plain::Plain;
use train::dashboard::state::DashboardState;
use train::fitted::{FittedRun, QuestionSet};
use train::prepare::{LeftOut, prepare_test};
use train::registry;
use train::run_directory::RunDirectory;

use super::flags::PlaceArgs;
use super::process::{logging, print, tell};

/// Flags of `evaluate`.
#[derive(Debug, Args)]
pub(super) struct EvaluateArgs {
    /// A finished run's directory
    run: PathBuf,
    /// Datasets, separated by commas; the run's own only with another --method
    #[arg(long, value_delimiter = ',', required = true)]
    on: Vec<String>,
    /// Another method that asks the same training, such as mc_dropout for a lora run
    #[arg(long)]
    method: Option<String>,
    /// A setting of how the run is asked, such as method.samples=20; may be repeated
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    /// At most this many test questions of each
    #[arg(long)]
    limit: Option<usize>,
    #[command(flatten)]
    places: PlaceArgs,
}

/// Runs `evaluate`.
pub(super) fn run(args: EvaluateArgs) -> Result<ExitCode> {
    logging();
    let (run, trained) = RunDirectory::open(&args.run)?;
    let config = settings(&args, &trained)?;
    for dataset in &args.on {
        if args.method.is_none() && *dataset == trained.data.dataset {
            bail!(
                "--on {dataset}: the run was trained on it and has scored it already, see {}",
                args.run.join("report.md").display()
            );
        }
    }
    let asked: Vec<RunConfig> = args
        .on
        .iter()
        .map(|dataset| on(&config, dataset, &args))
        .collect::<Result<_>>()?;
    let _lock = RunDirectory::lock(&args.run)?;
    let state = Arc::new(Mutex::new(DashboardState::default()));
    let _lines = Plain::start(state.clone(), 30, LineSink::new(None));
    let setup = args.places.finished(&args.run, &config, state)?;
    let mut sets = Vec::new();
    for config in &asked {
        let set = prepare_test(config, &setup.finder)?;
        for sentence in LeftOut::sentences(&set.left_out) {
            tell(sentence);
        }
        sets.push(set);
    }
    let fitted = FittedRun::open(&run, &config, &setup, &sets)?;
    for ((dataset, config), prepared) in args.on.iter().zip(&asked).zip(&sets) {
        let name = match &args.method {
            Some(_) => format!("{dataset}-{}", config.method.title()),
            None => dataset.clone(),
        };
        let set = QuestionSet::test(&name, config, prepared);
        let metrics = fitted.evaluate(&run, dataset, &set)?;
        let show = |e: train::metric::Estimate| e.value.map_or("-".into(), |v| format!("{v:.4}"));
        print(format_args!(
            "{dataset}: n {}  accuracy {}  ECE {}  NLL {}",
            metrics.n,
            show(metrics.accuracy),
            show(metrics.expected_calibration_error),
            show(metrics.negative_log_likelihood)
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// The run's settings on another dataset's test questions, with what is given about how they are
/// asked.
fn on(config: &RunConfig, dataset: &str, args: &EvaluateArgs) -> Result<RunConfig> {
    let mut config = config.asked_on(dataset)?;
    config.data.test_limit = args.limit;
    let mut layers = ConfigLayers::default();
    layers.text(&config.to_toml(), "the run's settings")?;
    // A setting about written answers is meant for the open-ended questions alone, where questions
    // with choices are asked beside them.
    let written = |name: &str| {
        let asked = config.on(name);
        Ok::<_, anyhow::Error>(asked.data.dataset()?.labels() == LabelStyle::Written)
    };
    let mut beside = false;
    for other in &args.on {
        beside |= written(other)?;
    }
    let chosen = beside && !written(dataset)?;
    for assignment in &args.set {
        let written = is_about_written_answers(key_of(assignment));
        if is_asking(assignment) && !(chosen && written) {
            layers.set(assignment)?;
        }
    }
    Ok(layers.resolve()?)
}

/// Whether an assignment is about how questions are asked, whatever the method.
fn is_asking(assignment: &str) -> bool {
    is_read_when_asking(key_of(assignment))
}

/// The dotted key of `section.key=value`.
fn key_of(assignment: &str) -> &str {
    assignment.split('=').next().unwrap_or_default().trim()
}

/// The run's settings, with another method's if one is asked for.
fn settings(args: &EvaluateArgs, trained: &RunConfig) -> Result<RunConfig> {
    let mut given = ConfigLayers::default();
    for assignment in &args.set {
        if !assignment.starts_with("method.") && !is_asking(assignment) {
            bail!(
                "--set {assignment}: the training is done; only settings of [method] and [evaluation], data.answer_tokens and data.max_tokens still count"
            );
        }
        if assignment.starts_with("method.") {
            given.set(assignment)?;
        }
    }
    let Some(name) = &args.method else {
        if let Some(key) = given.keys().next() {
            bail!("--set {key}: belongs to another way to ask: say --method too");
        }
        return Ok(trained.clone());
    };
    let mut layers = ConfigLayers::default();
    layers.method(name)?;
    given.refuse_ignored(&layers.resolve()?.method.name, &layers)?;
    layers.layer(given);
    let mut config = trained.clone();
    config.method = layers.resolve()?.method;
    let asked = registry::training_settings(&config, trained.train.seed)?;
    let known = registry::training_settings(trained, trained.train.seed)?;
    if asked.method.name != known.method.name {
        bail!(
            "--method {name} queries a {} training, but {} is a {} one",
            asked.method.name,
            args.run.display(),
            known.method.name
        );
    }
    let members = registry::build(&config)?.members();
    if members != registry::build(trained)?.members() {
        bail!(
            "--method {name} needs {members} trainings: train it with `uq4ct train --method {name}`"
        );
    }
    if registry::build(&config)?.uses_snapshots() && trained.train.snapshots == 0 {
        bail!(
            "--method {name} needs adapters kept along the training: train with --set train.snapshots=3"
        );
    }
    config.validate()?;
    Ok(config)
}
