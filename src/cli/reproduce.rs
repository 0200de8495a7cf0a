//! `uq4ct reproduce`: a table of the paper, from trainings and evaluations that are each done once.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;
use data::source::Finder;
use train::TrainError;
use train::config::ConfigLayers;
use train::dashboard::state::{DashboardState, clock};
use train::fine_tune::Setup;
use train::reproduce::plan::RECORD;
use train::reproduce::work::{
    Estimates, ensure_evaluated, ensure_trained, evaluation_directory, is_trained, missing,
    training_directory,
};
use train::reproduce::{
    Evaluation, Options, Plan, ResultTable, TABLES, Training, plot, render, tables,
};
use train::run_directory::RunDirectory;
use train::telemetry::Telemetry;

use super::run::{PlaceArgs, STOPPED, StopSignal, display, environment, logging, print, threads};

/// Flags of `reproduce`.
#[derive(Debug, Args)]
pub(super) struct ReproduceArgs {
    #[arg(help = names())]
    table: String,
    /// Base model, as `train` takes it [default: what --config says, else smollm2-135m]
    #[arg(long)]
    model: Option<String>,
    /// Seeds of every row
    #[arg(long, default_value_t = 3)]
    seeds: usize,
    /// At most this many test questions of each dataset, and as many held-out ones
    #[arg(long)]
    limit: Option<usize>,
    /// At most this many training questions
    #[arg(long)]
    train_limit: Option<usize>,
    /// Rows to keep, by preset, separated by commas
    #[arg(long, value_delimiter = ',')]
    methods: Vec<String>,
    /// Columns to keep, by test dataset, separated by commas
    #[arg(long, value_delimiter = ',')]
    on: Vec<String>,
    /// Settings to lay over the presets of all rows; may be repeated
    #[arg(long, value_name = "FILE")]
    config: Vec<PathBuf>,
    /// A single setting for all rows, such as data.scoring=cloze; may be repeated
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    /// Where trainings, evaluations and tables are kept
    #[arg(long, default_value = "runs")]
    root: PathBuf,
    /// Print every training and evaluation as a command of its own, and stop
    #[arg(long)]
    plan: bool,
    /// Do this one training or evaluation of the plan alone
    #[arg(long, conflicts_with = "plan")]
    job: Option<String>,
    /// Print the table from recorded results, and do nothing else: DIR or DIR/TABLE with a reproduce.toml, trainings and evaluations beside it or in DIR, or a folder ROOT/tables/..
    #[arg(long, value_name = "DIR", conflicts_with_all = ["seeds", "model", "limit", "train_limit", "methods", "on", "config", "set", "plan", "job"])]
    from: Option<PathBuf>,
    /// Write it there too, in all its forms
    #[arg(long, value_name = "DIR", requires = "from")]
    out: Option<PathBuf>,
    /// Lines instead of the dashboard
    #[arg(long)]
    plain: bool,
    #[command(flatten)]
    places: PlaceArgs,
}

/// What `reproduce` knows.
fn names() -> String {
    let known: Vec<String> = TABLES
        .iter()
        .map(|table| format!("{}: {}", table.name, table.title))
        .collect();
    known.join("; ")
}

/// One piece of work.
enum Job {
    Training(Training),
    Evaluation(Evaluation),
}

impl Job {
    fn id(&self) -> String {
        match self {
            Self::Training(training) => format!("trainings/{}", training.id),
            Self::Evaluation(evaluation) => format!("evaluations/{}", evaluation.id),
        }
    }

    fn directory(&self, root: &Path) -> PathBuf {
        match self {
            Self::Training(training) => training_directory(root, training),
            Self::Evaluation(evaluation) => evaluation_directory(root, evaluation),
        }
    }

    fn done(&self, root: &Path) -> bool {
        match self {
            Self::Training(training) => is_trained(root, training),
            Self::Evaluation(evaluation) => missing(root, evaluation).is_empty(),
        }
    }

    fn run(&self, root: &Path, setup: &Setup) -> Result<(), TrainError> {
        match self {
            Self::Training(training) => ensure_trained(training, root, setup),
            Self::Evaluation(evaluation) => ensure_evaluated(evaluation, root, setup),
        }
    }

    /// Seconds by the same estimate as `train --dry-run`.
    fn estimate(&self, estimates: &mut Estimates) -> Result<f64, TrainError> {
        match self {
            Self::Training(training) => estimates.training(training),
            Self::Evaluation(evaluation) => estimates.evaluation(evaluation),
        }
    }
}

fn jobs(plan: &Plan) -> Vec<Job> {
    let trainings = plan.trainings().into_iter().map(Job::Training);
    let evaluations = plan.evaluations().into_iter().map(Job::Evaluation);
    trainings.chain(evaluations).collect()
}

/// Runs `reproduce`.
pub(super) fn run(args: ReproduceArgs) -> Result<ExitCode> {
    logging();
    if let Some(from) = &args.from {
        return print_recorded(&args, from);
    }
    let device = args.places.device()?;
    let options = options(&args)?;
    let finder = args.places.finder(&model(&options));
    let plan = Plan::new(&options, Some(&finder))?;
    for note in plan.notes.iter().chain(&plan.left_out) {
        eprintln!("{note}");
    }
    if args.plan {
        return print_plan(&args, &plan, &finder);
    }
    let signal = StopSignal::catch()?;
    let state = Arc::new(Mutex::new(DashboardState::default()));
    let telemetry = Telemetry::new(state.clone());
    let setup = Setup {
        device: device.device.clone(),
        others: args.places.others()?,
        finder,
        run: args.root.clone(),
        resume: true,
        environment: environment(&device),
        telemetry: telemetry.clone(),
        state: signal.state.clone(),
    };
    let mut work = jobs(&plan);
    if let Some(id) = &args.job {
        work.retain(|job| job.id() == *id);
        if work.is_empty() {
            bail!("--job {id}: the plan has no such training or evaluation; see --plan");
        }
    }
    let shown = display(args.plain, state.clone(), signal.state.clone())?;
    signal.begin();
    let open: Vec<&Job> = work
        .iter()
        .filter(|job| match job {
            // An adapter that no open evaluation asks for may be gone: results are copied without their adapters.
            Job::Training(training) if args.job.is_none() => plan.needs(training, &args.root),
            _ => !job.done(&args.root),
        })
        .collect();
    let mut made = Estimates::new(&setup.finder, threads());
    let estimates: Vec<f64> = open
        .iter()
        .map(|job| job.estimate(&mut made))
        .collect::<Result<_, _>>()?;
    drop(made);
    let (began, mut estimated_done) = (Instant::now(), 0.0);
    let mut failed: Vec<String> = Vec::new();
    for (place, job) in open.iter().enumerate() {
        let left: f64 = estimates[place..].iter().sum();
        // Before anything was measured, the estimate stands for itself.
        let pace = match estimated_done > 0.0 {
            true => began.elapsed().as_secs_f64() / estimated_done,
            false => 1.0,
        };
        let title = format!(
            "{} {}/{} · {} · about {} left",
            plan.table.name,
            place + 1,
            open.len(),
            job.id(),
            clock(left * pace)
        );
        {
            let mut shown = telemetry.state();
            *shown = DashboardState::new(title.clone(), device.name.clone());
            shown.say(title);
        }
        match job.run(&args.root, &setup) {
            Ok(()) => {}
            Err(TrainError::Stopped) => {
                drop(shown);
                eprintln!("Stopped. Repeat the command to go on.");
                return Ok(ExitCode::from(STOPPED));
            }
            // The rest of the table does not depend on it.
            Err(error) => {
                let place = job.directory(&args.root);
                let line = format!("{}: {error}", place.display());
                telemetry.say(format!("failed: {line}"));
                failed.push(line);
            }
        }
        estimated_done += estimates[place];
        if args.job.is_none() && matches!(job, Job::Evaluation(_)) {
            write(&args, &options, &plan, false)?;
        }
    }
    drop(shown);
    if !failed.is_empty() {
        for line in &failed {
            eprintln!("failed: {line}");
        }
        bail!("{} of {} pieces failed", failed.len(), open.len());
    }
    if args.job.is_some() {
        return Ok(ExitCode::SUCCESS);
    }
    let (folder, table) = write(&args, &options, &plan, true)?;
    print(render::markdown(&table));
    print(format_args!("Written to {}", folder.display()));
    Ok(ExitCode::SUCCESS)
}

/// Writes the table as it stands, in all its forms; `whole` with the paired tests.
fn write(
    args: &ReproduceArgs,
    options: &Options,
    plan: &Plan,
    whole: bool,
) -> Result<(PathBuf, ResultTable)> {
    let table = ResultTable::collect(plan, &args.root, whole)?;
    let model = model(options);
    let model = std::path::Path::new(&model).file_name();
    let model = model.map_or("model".into(), |name| name.to_string_lossy().to_lowercase());
    let name = format!("{}-{model}-{}", table.name, plan.identity());
    let folder = args.root.join("tables").join(name);
    write_forms(&folder, &table)?;
    RunDirectory::at(&folder).write_text(RECORD, &plan.record(options))?;
    Ok((folder, table))
}

/// A table in all its forms.
fn write_forms(folder: &Path, table: &ResultTable) -> Result<()> {
    let folder = RunDirectory::at(folder);
    for (ending, text) in [
        ("md", render::markdown(table)),
        ("csv", render::csv(table)),
        ("tex", render::latex(table)),
        ("json", serde_json::to_string_pretty(table)?),
        ("svg", plot::svg(table)?),
    ] {
        folder.write_text(&format!("{}.{ending}", table.name), &text)?;
    }
    for (ending, text) in [
        ("-tests.md", render::paired_tests(table)),
        ("-reliability.svg", plot::reliability(table)?),
        ("-risk-coverage.svg", plot::risk_coverage(table)?),
    ] {
        if let Some(text) = text {
            folder.write_text(&format!("{}{ending}", table.name), &text)?;
        }
    }
    Ok(())
}

/// The table of results that were recorded, without model or data.
fn print_recorded(args: &ReproduceArgs, from: &Path) -> Result<ExitCode> {
    let table = tables::find(&args.table)?;
    let inside = from.join(table.name);
    let beside = match inside.join(RECORD).is_file() {
        true => inside,
        false => from.to_path_buf(),
    };
    let options = Options::recorded(table, &beside)?;
    // A table's own folder lies two below what it was made from; recorded tables may share the evaluations beside their folders.
    let beside = std::path::absolute(beside)?;
    let above = beside.parent();
    let tables = above.filter(|above| above.ends_with("tables"));
    let shared = above
        .filter(|above| !beside.join("evaluations").is_dir() && above.join("evaluations").is_dir());
    let root = match tables.and_then(Path::parent).or(shared) {
        Some(root) => root.to_path_buf(),
        None => beside,
    };
    let plan = Plan::new(&options, None)?;
    let table = ResultTable::collect(&plan, &root, true)?;
    if table.cells.iter().all(|cell| cell.n == 0) {
        bail!("{}: holds no results of {}", root.display(), table.name);
    }
    if let Some(out) = &args.out {
        write_forms(out, &table)?;
    }
    print(render::markdown(&table));
    Ok(ExitCode::SUCCESS)
}

/// The base model of all rows.
fn model(options: &Options) -> String {
    options
        .given
        .model_name()
        .unwrap_or_else(|| train::RunConfig::default().model.name)
}

fn options(args: &ReproduceArgs) -> Result<Options> {
    let mut given = ConfigLayers::default();
    for file in &args.config {
        given.file(file)?;
    }
    if let Some(model) = &args.model {
        given.set_text("model.name", model)?;
    }
    if let Some(limit) = args.limit {
        given.set(&format!("data.test_limit={limit}"))?;
        given.set(&format!("data.held_out_limit={limit}"))?;
    }
    if let Some(limit) = args.train_limit {
        given.set(&format!("data.train_limit={limit}"))?;
    }
    for assignment in &args.set {
        given.set(assignment)?;
    }
    for (flag, value) in [
        ("--seeds", Some(args.seeds)),
        ("--limit", args.limit),
        ("--train-limit", args.train_limit),
    ] {
        if value == Some(0) {
            bail!("{flag}: expected at least 1, got 0");
        }
    }
    Ok(Options {
        table: tables::find(&args.table)?,
        seeds: args.seeds,
        methods: args.methods.clone(),
        on: args.on.clone(),
        given,
        root: args.root.clone(),
    })
}

/// One command a line on standard output, for `parallel`, `xargs` or an array job; what a reader wants to know on standard error.
fn print_plan(args: &ReproduceArgs, plan: &Plan, finder: &Finder) -> Result<ExitCode> {
    let words: Vec<String> = std::env::args_os()
        .map(|word| word.to_string_lossy().into_owned())
        .filter(|word| word != "--plan")
        .map(|word| super::run::quoted(&word))
        .collect();
    let mut seconds = 0.0;
    let mut estimates = Estimates::new(finder, threads());
    for job in jobs(plan) {
        let done = job.done(&args.root);
        let estimate = job.estimate(&mut estimates)?;
        if !done {
            seconds += estimate;
        }
        eprintln!(
            "{}: {}, about {}",
            job.directory(&args.root).display(),
            if done { "done" } else { "open" },
            clock(estimate)
        );
        print(format_args!("{} --job {}", words.join(" "), job.id()));
    }
    eprintln!(
        "{} trainings, {} evaluations; about {} of {} cores for what is open.",
        plan.trainings().len(),
        plan.evaluations().len(),
        clock(seconds),
        threads()
    );
    Ok(ExitCode::SUCCESS)
}
