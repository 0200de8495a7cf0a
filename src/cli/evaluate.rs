//! `uq4ct evaluate`: finished runs on other questions, or asked by another method.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, bail};
use clap::Args;
use data::dataset::DATASETS;
use data::dataset::custom::{self, Custom};
use data::prompt::LabelStyle;
use train::RunConfig;
use train::config::readers::{is_about_written_answers, is_read_when_asking};
use train::config::{ConfigLayers, DataSection};
use train::dashboard::hangup::LineSink;
use train::dashboard::plain::{EVERY, Plain};
use train::dashboard::state::DashboardState;
use train::elsewhere::{Elsewhere, evaluate};
use train::metric::paired::common;
use train::prepare::{LeftOut, prepare_test_after};
use train::provenance::unchanged;
use train::registry;
use train::report::majority;
use train::reproduce::alike;
use train::run_directory::{HELD_OUT, RunDirectory};

use super::dataset::FieldArgs;
use super::figures::{Asked, side_by_side, table};
use super::flags::{self, PlaceArgs, is_file, is_on_hub};
use super::newest::run_or_newest;
use super::process::{compiling, logging, print, tell};
use super::usage::wrong;

/// Flags of `evaluate`.
#[derive(Debug, Args)]
pub(super) struct EvaluateArgs {
    /// Finished runs' directories [default: the newest below runs]
    runs: Vec<PathBuf>,
    /// Datasets or files of your own questions, separated by commas; a run's own dataset needs
    /// --method or a second run
    #[arg(long, value_name = "NAME|FILE", value_delimiter = ',', required = true, value_parser = flags::dataset)]
    on: Vec<String>,
    /// Another method that asks the same training, such as mc_dropout for a lora run
    #[arg(long, value_parser = flags::method)]
    method: Option<String>,
    /// A setting of how the run is asked, such as method.samples=20; may be repeated
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    /// At most this many test questions of each
    #[arg(long)]
    limit: Option<usize>,
    /// Print every figure as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    fields: FieldArgs,
    #[command(flatten)]
    places: PlaceArgs,
}

/// Runs `evaluate`.
pub(super) fn run(args: EvaluateArgs) -> Result<ExitCode> {
    logging();
    let runs = match args.runs.is_empty() {
        true => vec![run_or_newest(None)?],
        false => args.runs.clone(),
    };
    for (place, target) in args.on.iter().enumerate() {
        if args.on[..place].contains(target) {
            return Err(wrong(format_args!("--on {target}: is named twice")));
        }
    }
    asked_alike(&runs, &args)?;
    let mut found = Vec::new();
    for run in &runs {
        found.extend(one(&args, run, runs.len() > 1)?);
    }
    match (args.json, runs.len()) {
        (true, _) => print(serde_json::to_string_pretty(&found)?),
        (false, 1) => {
            for asked in &found {
                print(format_args!(
                    "{} on {}\n{}\nReport: {}",
                    asked.run.display(),
                    asked.on,
                    table(&asked.figures, asked.majority),
                    asked.report.display()
                ));
            }
        }
        (false, _) => {
            for (place, target) in args.on.iter().enumerate() {
                if place > 0 {
                    print("");
                }
                let beside: Vec<&Asked> = found.iter().filter(|f| f.on == *target).collect();
                print(side_by_side(&beside));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Refuses runs whose own test questions are not the same, where these are shown side by side.
fn asked_alike(runs: &[PathBuf], args: &EvaluateArgs) -> Result<()> {
    if args.on.iter().any(|target| target == custom::NAME) {
        let opened: Vec<_> = runs
            .iter()
            .map(|run| RunDirectory::open(run))
            .collect::<Result<_, _>>()?;
        let answers = opened.iter().map(|(run, _)| run.predictions(custom::NAME));
        let answers = common(answers.collect::<Result<_, _>>()?);
        if answers.iter().any(Vec::is_empty) {
            bail!(
                "--on {}: the runs were tested on other questions each: name a file that all are asked",
                custom::NAME
            );
        }
        alike::same_questions(&opened, custom::NAME, &answers)?;
    }
    Ok(())
}

/// Scores one run on everything. Beside other runs, a run's own test questions count as its
/// training scored them.
fn one(args: &EvaluateArgs, directory: &Path, beside: bool) -> Result<Vec<Asked>> {
    let (run, trained) = RunDirectory::open(directory)?;
    let config = settings(args, directory, &trained)?;
    let own = |target: &String| args.method.is_none() && *target == trained.data.dataset;
    let as_trained = beside && args.set.is_empty() && args.limit.is_none();
    if let (Some(target), false) = (args.on.iter().find(|target| own(target)), as_trained) {
        bail!(
            "--on {target}: the run was trained on it and has scored it already, see {}",
            directory.join("report.md").display()
        );
    }
    let others: Vec<&String> = args.on.iter().filter(|target| !own(target)).collect();
    let mut found = score(args, &run, &config, &others)?;
    for (place, target) in args.on.iter().enumerate().filter(|(_, target)| own(target)) {
        let rows = run.predictions(target)?;
        let name = format!("evaluation/{target}/metrics.json");
        found.insert(
            place,
            Asked {
                run: directory.into(),
                on: target.clone(),
                method: config.method.title().into(),
                model: config.model.name.clone(),
                majority: majority(&rows).map(|(_, share)| share),
                seen: None,
                figures: run.read_json(&name)?,
                report: directory.join("report.html"),
            },
        );
    }
    Ok(found)
}

/// Scores one run on other questions than its own.
fn score(
    args: &EvaluateArgs,
    run: &RunDirectory,
    config: &RunConfig,
    targets: &[&String],
) -> Result<Vec<Asked>> {
    if targets.is_empty() {
        return Ok(Vec::new());
    }
    if args.limit == Some(0) {
        return Err(wrong("--limit 0: expected at least 1"));
    }
    let known = run.provenance()?;
    let mut asked: Vec<RunConfig> = targets
        .iter()
        .map(|target| on(config, target, args))
        .collect::<Result<_>>()?;
    for asked in &mut asked {
        let custom = &mut asked.data.custom;
        *custom = custom.counting_elsewhere(known.split.counts_from);
    }
    let _lock = RunDirectory::lock(run.root())?;
    let state = Arc::new(Mutex::new(DashboardState::default()));
    let setup = args.places.finished(run.root(), config, state.clone())?;
    let mut sets: Vec<Elsewhere> = Vec::new();
    for (target, asked) in targets.iter().zip(asked) {
        let prepared = prepare_test_after(&asked, &setup.finder, run.shots(&asked)?)?;
        for note in &prepared.splits.account.notes {
            tell(format_args!("found in {note}"));
        }
        for sentence in LeftOut::sentences(&prepared.left_out) {
            tell(sentence);
        }
        if *target == custom::NAME {
            let files = prepared.splits.account.files.iter();
            let files = files.map(|file| (&*file.path, &*file.sha256));
            unchanged(run, &known, files)?;
        }
        let questions = &prepared.splits.test;
        let seen = run.seen_among(questions)?;
        if let Some(count) = seen.filter(|count| *count > 0) {
            tell(format_args!(
                "--on {target}: the run was trained or calibrated on {count} of these {} questions; answers to them do not show how it does on new ones.",
                questions.len()
            ));
        }
        let other = args.method.as_ref().map(|_| config);
        let name = folder(target, other);
        let files = &prepared.splits.account.files;
        if !alike::was_asked(run, &name, &asked, files)? {
            bail!(
                "--on {target}: {} holds the answers to other questions of this name: rename the file, or remove that directory",
                run.evaluation(&name).display()
            );
        }
        if sets.iter().any(|known| known.name == name) {
            bail!("--on {target}: another set has the same name, {name}: rename the file");
        }
        sets.push(Elsewhere {
            shown: set_name(target),
            name,
            config: asked,
            prepared,
            seen,
        });
    }
    let scored = {
        let _compiling = compiling(&setup.telemetry);
        let _lines = Plain::start(state, EVERY, LineSink::new(None));
        evaluate(run, config, &setup, &sets, args.method.is_none())?
    };
    let scored = targets.iter().zip(&sets).zip(scored);
    Ok(scored
        .map(|((target, set), scored)| Asked {
            run: run.root().into(),
            on: target.to_string(),
            method: config.method.title().into(),
            model: config.model.name.clone(),
            majority: scored.majority().map(|(_, share)| share),
            seen: set.seen,
            figures: scored.figures(),
            report: run.evaluation(&set.name).join("report.html"),
        })
        .collect())
}

/// The set's directory below `evaluation/`: its name, and the other method's.
fn folder(target: &str, other: Option<&RunConfig>) -> String {
    let name = set_name(target);
    match other {
        Some(config) => format!("{name}-{}", config.method.title()),
        None => name,
    }
}

/// The name of a set: the dataset's, or the file's where no dataset is called so.
pub(super) fn set_name(target: &str) -> String {
    if target == custom::NAME {
        return target.into();
    }
    let mut data = DataSection {
        dataset: dataset(target),
        ..Default::default()
    };
    if data.dataset != custom::NAME {
        return data.dataset;
    }
    match is_file(target) {
        true => data.custom.test = Some(target.into()),
        false => data.custom.hub = Some(target.into()),
    }
    let title = data.title();
    let taken = title == HELD_OUT
        || title == custom::NAME
        || DATASETS.iter().any(|dataset| dataset.name() == title);
    match (taken, is_file(target)) {
        (false, _) => title,
        (true, true) => format!("file-{title}"),
        (true, false) => format!("hub-{title}"),
    }
}

/// The run's settings on another dataset's test questions, with what is given about how they are
/// asked.
fn on(own: &RunConfig, target: &str, args: &EvaluateArgs) -> Result<RunConfig> {
    let mut config = located(own, target, args)?.asked_on(&dataset(target))?;
    config.data.test_limit = args.limit;
    let mut layers = ConfigLayers::default();
    layers.text(&config.to_toml(), "the run's settings")?;
    // A setting about written answers is meant for the open-ended questions alone, where questions
    // with choices are asked beside them.
    let written = |target: &str| {
        let asked = located(own, target, args)?.on(&dataset(target));
        Ok::<_, anyhow::Error>(asked.data.dataset()?.labels() == LabelStyle::Written)
    };
    let mut beside = false;
    for other in &args.on {
        beside |= written(other)?;
    }
    let chosen = beside && !written(target)?;
    for assignment in &args.set {
        let written = is_about_written_answers(key_of(assignment));
        if is_asking(assignment) && !(chosen && written) {
            layers.set(assignment)?;
        }
    }
    Ok(layers.resolve()?)
}

/// The dataset's name by which the settings know what is asked.
fn dataset(target: &str) -> String {
    match is_file(target) {
        true => custom::NAME.into(),
        false if is_on_hub(target) => custom::NAME.into(),
        false => target.into(),
    }
}

/// The settings with the file of questions in them, read by the run's own fields where it has them
/// and no flag names others.
fn located(config: &RunConfig, target: &str, args: &EvaluateArgs) -> Result<RunConfig> {
    let mut config = config.clone();
    let labels = config.data.dataset()?.labels();
    // A run on BoolQ has learned to say true or false, not letters that stand for them.
    let by_words = labels == LabelStyle::Choice && config.data.dataset != custom::NAME;
    let custom = &mut config.data.custom;
    if is_on_hub(target) && !is_file(target) {
        let mut own = Custom::default().labelled(match by_words {
            true => LabelStyle::Letter,
            false => labels,
        });
        own.hub = Some(target.into());
        *custom = args.fields.over(&own);
        return Ok(config);
    }
    if !is_file(target) {
        return Ok(config);
    }
    let path = std::path::absolute(target).with_context(|| format!("{target}: no such file"))?;
    let rows = data::rows::open(&path, &[])?;
    let own = config.data.custom.where_present_in(&rows)?;
    let custom = args.fields.over(&own);
    let style = match by_words && !custom.is_true_or_false(&rows)? {
        true => LabelStyle::Letter,
        false => labels,
    };
    let mut custom = custom.labelled(style);
    custom.refuse_misnamed(&rows)?;
    (custom.train, custom.held_out, custom.test) = (None, None, Some(path));
    custom.hub = None;
    config.data.custom = custom;
    Ok(config)
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
fn settings(args: &EvaluateArgs, directory: &Path, trained: &RunConfig) -> Result<RunConfig> {
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
            directory.display(),
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
