//! `uq4ct train`: fine-tune, score, report.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, bail};
use clap::Args;
use data::dataset::custom;
use data::encoded::EncodedQuestion;
use data::shots::Shots;
use train::RunConfig;
use train::card::free_memory;
use train::config::{ConfigLayers, WeightType};
use train::context::Setup;
use train::dashboard::state::{DashboardState, clock, peak_memory};
use train::export::start;
use train::fine_tune::{RunOutcome, check, fine_tune};
use train::prepare::{LeftOut, Prepared, prepare_after};
use train::registry;
use train::resolve::LARGEST_SEED;
use train::run_directory::RunDirectory;
use train::telemetry::Telemetry;
use train::trial::{FEWEST, QUESTIONS, try_ways};
use train::way::{Free, Way};

use super::dataset::{DatasetArgs, datasets};
use super::figures::table;
use super::flags::{self, PlaceArgs};
use super::newest::{RUNS, newest_unfinished};
use super::process::{
    OnHangup, STOPPED, StopSignal, compiling, display, environment, logging, print, quoted, tell,
    threads,
};
use super::short;
use super::sweep::{self, SweepArgs, Sweeping};
use super::usage::wrong;
use crate::backend::NamedDevice;
use crate::kernels::Told;

/// The examples before every question that are not to be drawn: those of the run that goes on, or
/// of the adapter that it starts from.
fn examples(config: &RunConfig, setup: &Setup) -> Result<Option<Shots>> {
    let run = RunDirectory::at(&setup.run);
    match setup.resume && run.has_shots() {
        true => Ok(run.shots(config)?),
        false => Ok(start::shots(config)?),
    }
}

/// What `--resume` alone means.
const LATEST: &str = "latest";

/// Flags of `train`.
#[derive(Debug, Args)]
pub(super) struct TrainArgs {
    #[command(flatten)]
    questions: DatasetArgs,
    #[arg(long, help = methods(), value_parser = flags::method)]
    method: Option<String>,
    /// Short name, owner/name on the Hub, directory, .gguf file, or tiny
    #[arg(long, value_parser = flags::model)]
    model: Option<String>,
    #[command(flatten)]
    plain_settings: PlainSettings,
    #[command(flatten)]
    sweep: SweepArgs,
    /// An adapter to start from: peft's LoRA, MixLoRA's, or an export of this program
    #[arg(hide_short_help = true, long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Settings to lay over the presets; may be repeated
    #[arg(long, value_name = "FILE")]
    config: Vec<PathBuf>,
    /// A single setting, such as train.epochs=1; may be repeated
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    /// Seed of adapter, order and dropout
    #[arg(long, value_parser = clap::value_parser!(u64).range(..=LARGEST_SEED))]
    seed: Option<u64>,
    /// Train and test on everything, without the short run's settings and model
    #[arg(long)]
    full: bool,
    /// The run's directory [default: runs/<dataset>-<method>-<model>-s<seed>]
    #[arg(long, value_name = "DIR")]
    run: Option<PathBuf>,
    /// Go on with an interrupted run: the one in DIR by its own settings, or else the one that the
    /// other flags name, or the newest unfinished one
    #[arg(long, conflicts_with = "overwrite", num_args = 0..=1, default_missing_value = LATEST, value_name = "DIR")]
    resume: Option<PathBuf>,
    /// Replace what an earlier run left in the directory
    #[arg(long)]
    overwrite: bool,
    /// Print settings, sizes and estimates, and stop
    #[arg(long)]
    dry_run: bool,
    /// Print the figures, or with --dry-run the settings, sizes and estimates, as JSON
    #[arg(long)]
    json: bool,
    /// Lines instead of the dashboard
    #[arg(long)]
    plain: bool,
    /// What to do when the terminal is gone (SIGHUP, a closed window)
    #[arg(hide_short_help = true, long, default_value = "end")]
    on_hangup: OnHangup,
    #[command(flatten)]
    places: PlaceArgs,
}

/// The settings that are changed most, as flags of their own.
#[derive(Debug, Args)]
struct PlainSettings {
    /// Passes over the training questions; may be a fraction [train.epochs]
    #[arg(long, value_name = "N")]
    epochs: Option<f64>,
    /// Learning rate of AdamW [train.learning_rate]
    #[arg(long, value_name = "RATE", alias = "learning-rate")]
    lr: Option<f64>,
    /// Questions of one optimizer step [train.batch_size]
    #[arg(long, value_name = "N")]
    batch_size: Option<usize>,
    /// At most this many test questions, and as many held-out ones [data.test_limit,
    /// data.held_out_limit]
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// At most this many training questions [data.train_limit]
    #[arg(long, value_name = "N")]
    train_limit: Option<usize>,
}

impl PlainSettings {
    /// The same as assignments.
    fn assignments(&self) -> Vec<String> {
        fn say(key: &str, value: Option<impl std::fmt::Display>) -> Option<String> {
            value.map(|value| format!("{key}={value}"))
        }
        [
            say("train.epochs", self.epochs),
            say("train.learning_rate", self.lr),
            say("train.batch_size", self.batch_size),
            say("data.test_limit", self.limit),
            say("data.held_out_limit", self.limit),
            say("data.train_limit", self.train_limit),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// The values of `--method`.
fn methods() -> String {
    format!(
        "{} [default: what --config says, else uq4ct]",
        train::registry::method_presets().join(", ")
    )
}

/// Runs `train`.
pub(super) fn run(args: TrainArgs) -> Result<ExitCode> {
    logging();
    let device = args.places.device()?;
    if !args.sweep.sweep.is_empty() {
        let (config, _) = settings(&args, &device)?;
        if free(&args, &config)?.is_some() {
            tell(format_args!(
                "A sweep tries no prompts: it asks in one way, {}. Train once without --sweep to have them tried, and give what wins to the sweep (--set data.scoring, data.template, data.chat).",
                Way::of(&config)
            ));
        }
        return sweep::run(Sweeping {
            args: &args.sweep,
            places: &args.places,
            config,
            given: given(&args)?,
            root: args.run.clone().unwrap_or_else(|| RUNS.into()),
            on_hangup: args.on_hangup,
            plain: args.plain,
            json: args.json,
            dry_run: args.dry_run,
        });
    }
    let resumed = resumed(&args)?;
    let (config, shortened) = match &resumed {
        Some(root) => (as_it_was(&args, root)?, false),
        None => settings(&args, &device)?,
    };
    let free = match resumed {
        Some(_) => None,
        None => free(&args, &config)?,
    };
    let named = resumed.or(args.run.clone());
    let root = named.unwrap_or_else(|| config.directory(RUNS.as_ref()));
    let config = match free.filter(|_| args.resume.is_some()) {
        Some(free) => as_chosen(&config, free, &root),
        None => config,
    };
    if args.dry_run {
        if free.is_some() {
            print(UNTRIED);
        }
        return dry_run(&args, &config, &device, &root, shortened);
    }
    let signal = StopSignal::catch(args.on_hangup)?;
    let title = format!(
        "{} · {} · {}",
        config.data.dataset,
        config.method.title(),
        config.model.name
    );
    let state = Arc::new(Mutex::new(DashboardState::new(title, device.name.clone())));
    let telemetry = Telemetry::new(state.clone());
    let mut environment = environment(&device);
    if args.resume.is_some() && RunDirectory::at(&root).exists() {
        environment.command = begun_by(&root);
    }
    let setup = Setup {
        device: device.device.clone(),
        others: args.places.others()?,
        finder: args.places.finder(&config.model.name),
        run: root.clone(),
        resume: args.resume.is_some(),
        environment,
        telemetry: telemetry.clone(),
        state: signal.state.clone(),
    };
    // What cannot begin should cost no waiting.
    if args.resume.is_none() && !args.overwrite {
        RunDirectory::at(&root).is_free()?;
    }
    // Downloads show their own progress, so they come before the dashboard takes the screen over.
    let mut prepared = prepare_after(&config, &setup.finder, examples(&config, &setup)?)?;
    for file in prepared.origins() {
        tell(format_args!("from {}", file.origin));
    }
    for note in &prepared.splits.account.notes {
        tell(format_args!("found in {note}"));
    }
    if shortened {
        tell(banner(&config, &prepared));
    }
    let config = match free.filter(|_| args.resume.is_none()) {
        Some(free) => {
            // Before there is a display.
            let _compiling = Told::start(tell);
            choose(config, &mut prepared, &setup, free)?
        }
        None => config,
    };
    let config = sized(config, &args, &prepared, &device, &root)?;
    let _lock = RunDirectory::lock(&root)?;
    // Only now: a run whose data cannot be had, or whose adapter does not fit, must not cost the
    // old one.
    if args.overwrite {
        if RunDirectory::at(&root).exists() {
            check(&config, &setup, &mut prepared)?;
        }
        RunDirectory::clear(&root)?;
    }
    signal.begin();
    let _compiling = compiling(&telemetry);
    let outcome = {
        let _display = display(
            args.plain,
            state,
            signal.state.clone(),
            args.on_hangup,
            &root,
        )?;
        fine_tune(&config, &setup, prepared)
    };
    if outcome.is_err() && args.resume.is_none() {
        // Refused before there was anything to go on with.
        if let Err(error) = RunDirectory::at(&root).discard_unbegun() {
            tell(error);
        }
    }
    conclude(outcome?, &setup, args.json)
}

/// The run that goes on by its own settings; none where the flags say which run and how.
fn resumed(args: &TrainArgs) -> Result<Option<PathBuf>> {
    match &args.resume {
        None => Ok(None),
        Some(root) if root != LATEST => Ok(Some(root.clone())),
        // The command of a run says its questions.
        Some(_) if given(args)?.has("data.dataset") => Ok(None),
        Some(_) => args
            .run
            .clone()
            .map_or_else(newest_unfinished, Ok)
            .map(Some),
    }
}

/// The settings of the run of `--resume DIR`. What the flags say must be what they are.
fn as_it_was(args: &TrainArgs, root: &Path) -> Result<RunConfig> {
    let name = root.display();
    let other = args.run.as_ref().is_some_and(|run| run != root);
    for (flag, given) in [("--run", other), ("--full", args.full)] {
        if given {
            bail!(
                "{flag}: --resume {name} names the run, and its settings say the rest: leave {flag} out"
            );
        }
    }
    let (run, known) =
        RunDirectory::open(root).with_context(|| format!("--resume {name}: holds no run"))?;
    let mut layers = ConfigLayers::default();
    layers.text(&known.to_toml(), "the run's settings")?;
    // The preset of the run's own method may have been changed by other flags.
    if let Some(method) = args.method.as_ref().filter(|m| **m != known.method.title()) {
        layers.method(method)?;
    }
    layers.layer(given(args)?);
    let config = layers.resolve()?.anchored();
    run.same_settings(&config)?;
    Ok(config)
}

/// The command that repeats a run: the one that began it.
fn begun_by(root: &Path) -> String {
    match RunDirectory::at(root).environment() {
        Ok(begun) => begun.command,
        Err(_) => {
            let word = |path: &Path| quoted(&path.display().to_string());
            let (config, run) = (word(&root.join("config.toml")), word(root));
            format!("uq4ct train --config {config} --run {run}")
        }
    }
}

/// The settings in their layers, and whether they were shortened for a processor.
fn settings(args: &TrainArgs, device: &NamedDevice) -> Result<(RunConfig, bool)> {
    let mut given = given(args)?;
    // A file that names its method brings that method's preset; the flag has the last word.
    let method = match (&args.method, given.method_name()) {
        (Some(flag), _) => flag.clone(),
        (None, Some(name)) => name,
        (None, None) => "uq4ct".into(),
    };
    if args.method.is_some() {
        given.forget("method", "name");
        given.forget("method", "variant");
    }
    let mut layers = ConfigLayers::default();
    // At the bottom: what a preset or a flag says of its own accord stands.
    let model = given.model_name();
    let shorten = !args.full && short::lay(&mut layers, device, model.as_deref())?;
    layers.method(&method)?;
    let preset = layers.resolve()?.method.name;
    if let Some(directory) = given.adapter_from() {
        let brought = shape(args, directory.as_ref())?;
        brought.refuse_ignored(&preset, &layers)?;
        layers.layer(brought);
        let mut whole = layers.clone();
        whole.layer(given.clone());
        let writes = whole.resolve()?.data.writes()?;
        // Who says whether there is a conversation says what is in it.
        let unsaid = |setting: &String| {
            let chat = ["data.chat=", "data.system="];
            !(given.has("data.chat") && chat.iter().any(|key| setting.starts_with(key)))
        };
        let brought = start::asking(directory.as_ref(), writes)?;
        for setting in brought.iter().filter(|setting| unsaid(setting)) {
            layers.set(setting)?;
        }
    }
    given.refuse_ignored(&preset, &layers)?;
    layers.layer(given);
    let config = layers.resolve()?.anchored();
    args.questions.refuse_unread(&config.data.dataset)?;
    Ok((config, shorten))
}

/// What `--dry-run` says of settings that the training would choose.
const UNTRIED: &str = "# data.template, data.scoring and data.chat, unless given, will be chosen by trying the base model on training questions";

/// What is free to be chosen in how questions of the user's own are put: the parts that nobody
/// named. None for datasets by name, and for an adapter that was trained in a way already.
fn free(args: &TrainArgs, config: &RunConfig) -> Result<Option<Free>> {
    let own = config.data.dataset == custom::NAME && config.adapter.from.is_none();
    let free = Free::of(&given(args)?);
    Ok((own && free.any()).then_some(free))
}

/// The settings with what the run in a directory has chosen, where it goes on.
fn as_chosen(config: &RunConfig, free: Free, root: &Path) -> RunConfig {
    match RunDirectory::open(root) {
        Ok((_, known)) => free.take(Way::of(config), Way::of(&known)).applied(config),
        Err(_) => config.clone(),
    }
}

/// Tries the base model on a slice of the training questions, and puts them in the way that wins.
fn choose(
    config: RunConfig,
    prepared: &mut Prepared,
    setup: &Setup,
    free: Free,
) -> Result<RunConfig> {
    let questions = &prepared.splits.train;
    let Some(trial) = try_ways(&config, setup, free, questions, QUESTIONS)? else {
        if questions.len() < FEWEST {
            tell(format_args!(
                "Too few training questions to try prompts on them: {}",
                Way::of(&config)
            ));
        }
        return Ok(config);
    };
    let Some(best) = trial.best().map(|best| best.way) else {
        return Ok(config);
    };
    tell(format_args!(
        "The base model on {} training questions, with each prompt still open; * is used (--set data.scoring, data.template, data.chat fix it):\n{trial}",
        trial.questions
    ));
    if best == Way::of(&config) {
        prepared.trial = Some(trial);
        return Ok(config);
    }
    let config = best.applied(&config);
    *prepared = prepare_after(&config, &setup.finder, examples(&config, setup)?)?;
    prepared.trial = Some(trial);
    Ok(config)
}

/// The settings with passes as large as a graphics card's free memory takes, where nobody said how
/// large. A run that goes on has the passes that it began with.
fn sized(
    mut config: RunConfig,
    args: &TrainArgs,
    prepared: &Prepared,
    device: &NamedDevice,
    root: &Path,
) -> Result<RunConfig> {
    if given(args)?.has("train.micro_tokens") {
        return Ok(config);
    }
    let known = args
        .resume
        .as_ref()
        .and_then(|_| RunDirectory::open(root).ok());
    match (known, free_memory(&device.device)) {
        (Some((_, known)), _) => config.train.micro_tokens = known.train.micro_tokens,
        (None, Some(free)) => {
            let lengths = prepared.train.iter().map(EncodedQuestion::length);
            let pass = prepared.pass_tokens(&config, free, lengths.max().unwrap_or(0))?;
            config.train.micro_tokens = pass.tokens;
            if !pass.fits {
                tell(too_little(&config, device, free));
            }
        }
        (None, None) => {}
    }
    Ok(config)
}

/// That a card's free memory does not do for a run, and what takes less.
fn too_little(config: &RunConfig, device: &NamedDevice, free: u64) -> String {
    let recompute = (!config.train.recompute).then_some("--set train.recompute=true");
    let half = (config.model.dtype != WeightType::Bf16).then_some("--set model.dtype=bf16");
    let less = recompute.into_iter().chain(half).chain(["a smaller model"]);
    format!(
        "{} has {:.1} GiB free, which by the estimate is too little for {}: expect it to run out \
         of memory. To use less: {}.",
        device.name,
        free as f64 / f64::from(1 << 30),
        config.model.name,
        less.collect::<Vec<_>>().join(", "),
    )
}

/// What a short run is, in one line.
fn banner(config: &RunConfig, prepared: &Prepared) -> String {
    let [train, _, test] = prepared.splits.account.used;
    let steps = config.train.schedule().total_steps(train);
    format!(
        "A short run, for a processor: {}, {train} training questions in {steps} steps, {test} test \
         questions. --full leaves its settings out.",
        config.model.name,
    )
}

/// What the flags say, the more special ones last.
fn given(args: &TrainArgs) -> Result<ConfigLayers> {
    let mut given = ConfigLayers::default();
    for file in &args.config {
        given.file(file)?;
    }
    args.questions.lay(&mut given)?;
    if let Some(model) = &args.model {
        given.set_text("model.name", model)?;
    }
    if let Some(seed) = args.seed {
        given.set(&format!("train.seed={seed}"))?;
    }
    if let Some(directory) = &args.adapter {
        // A run may be resumed from another directory.
        let path = std::path::absolute(directory).context("--adapter")?;
        given.set_text("adapter.from", &path.display().to_string())?;
    }
    for assignment in args.plain_settings.assignments().iter().chain(&args.set) {
        given.set(assignment)?;
    }
    if !given.has("data.dataset") && args.resume.is_none() {
        return Err(wrong(format_args!(
            "no questions: give --dataset: {}. To begin: `uq4ct train --dataset boolq`",
            datasets()
        )));
    }
    Ok(given)
}

/// The shape of the adapter to start from. A run that goes on holds the shape itself.
fn shape(args: &TrainArgs, adapter: &Path) -> Result<ConfigLayers> {
    let root = args.run.as_ref().filter(|_| args.resume.is_some());
    let known = root.and_then(|root| RunDirectory::open(root).ok());
    let settings = match known {
        Some((_, known)) => start::shape(&registry::build(&known)?.adapter()),
        None => start::settings(adapter)?,
    };
    let mut brought = ConfigLayers::default();
    for setting in settings {
        brought.set(&setting)?;
    }
    Ok(brought)
}

fn dry_run(
    args: &TrainArgs,
    config: &RunConfig,
    device: &NamedDevice,
    root: &Path,
    shortened: bool,
) -> Result<ExitCode> {
    let finder = args.places.finder(&config.model.name);
    let prepared: Prepared = prepare_after(config, &finder, start::shots(config)?)?;
    let config = &sized(config.clone(), args, &prepared, device, root)?;
    let adapter = registry::build(config)?.adapter();
    let pace = prepared.pace(config, &device.device, threads())?;
    let estimate = prepared.estimate(config, &device.device, &pace)?;
    if args.json {
        let [train, held_out, test] = prepared.splits.account.used;
        print(serde_json::json!({
            "settings": config,
            "device": device.name,
            "files": prepared.origins(),
            "questions": {"train": train, "held_out": held_out, "test": test},
            "left_out": prepared.left_out,
            "parameters": {
                "frozen": prepared.model.base_parameters(),
                "trained": adapter.parameters(&prepared.model),
            },
            "short_run": shortened,
            "estimate": estimate,
        }));
        return Ok(ExitCode::SUCCESS);
    }
    print(config.to_toml());
    print(format_args!("# device: {}", device.name));
    for file in prepared.origins() {
        print(format_args!("# from {}", file.origin));
    }
    let account = &prepared.splits.account;
    for note in &account.notes {
        print(format_args!("# found in {note}"));
    }
    print(format_args!(
        "# questions: {} train, {} held-out (from {}), {} test; {} leaks dropped",
        account.used[0],
        account.used[1],
        account.held_out_from,
        account.used[2],
        account.leaks_dropped + account.other_leaks_dropped.unwrap_or(0)
    ));
    for sentence in LeftOut::sentences(&prepared.left_out) {
        print(format_args!("# {sentence}"));
    }
    print(format_args!(
        "# parameters: {} frozen, {} trained",
        prepared.model.base_parameters(),
        adapter.parameters(&prepared.model)
    ));
    print(format_args!(
        "# {} optimizer steps, {} training tokens, {} evaluation tokens",
        estimate.steps, estimate.training_tokens, estimate.evaluation_tokens
    ));
    print(format_args!(
        "# estimated: {:.1} GiB of memory{}",
        estimate.memory / f64::from(1 << 30),
        match device.is_cpu() {
            true => format!(
                ", {} on {} cores: {} of training, {} of fit, scoring and intervals",
                clock(estimate.seconds),
                threads(),
                clock(estimate.seconds - estimate.after_seconds),
                clock(estimate.after_seconds)
            ),
            false => String::new(),
        }
    ));
    if shortened {
        print("# a short run for a processor (configs/short.toml); --full takes everything");
    }
    Ok(ExitCode::SUCCESS)
}

fn conclude(outcome: RunOutcome, setup: &Setup, json: bool) -> Result<ExitCode> {
    match outcome {
        RunOutcome::Stopped(steps) => {
            tell(format_args!(
                "Stopped after {steps} optimizer steps. To go on: uq4ct train --resume {}",
                quoted(&setup.run.display().to_string())
            ));
            Ok(ExitCode::from(STOPPED))
        }
        RunOutcome::Finished(scored) if json => {
            print(serde_json::json!({
                "run": setup.run,
                "figures": scored.figures(),
            }));
            Ok(ExitCode::SUCCESS)
        }
        RunOutcome::Finished(scored) => {
            let majority = scored.majority().map(|(_, share)| share);
            print(table(&scored.figures(), majority));
            let peak = peak_memory() as f64 / f64::from(1 << 30);
            print(format_args!("Peak memory {peak:.2} GiB."));
            print(format_args!(
                "Report: {}",
                setup.run.join("report.html").display()
            ));
            Ok(ExitCode::SUCCESS)
        }
    }
}
