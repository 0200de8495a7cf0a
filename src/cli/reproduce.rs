//! `uq4ct reproduce`: a table of the paper, from trainings and evaluations that are each done once.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use anyhow::{Result, bail};
use clap::Args;
use data::source::Finder;
use train::config::ConfigLayers;
use train::context::Setup;
use train::dashboard::state::{DashboardState, clock};
use train::reproduce::scheduler::{Ended, Job, Schedule};
use train::reproduce::work::Estimates;
use train::reproduce::{Options, Plan, Recorded, ResultTable, TABLES, render, table_files, tables};
use train::telemetry::Telemetry;

use crate::backend::NamedDevice;

use super::flags::{PlaceArgs, model, table};
use super::process::{
    OnHangup, STOPPED, StopSignal, compiling, complain, display, environment, logging, print,
    quoted, tell, threads,
};
use super::usage::wrong;

/// The flags that say what is trained and asked. A recorded table says it itself. Clap leaves a
/// `requires` out where the flag that it names conflicts with one that is given, so the flags that
/// want `--from` conflict with these, too.
const ASKED: [&str; 10] = [
    "seeds",
    "model",
    "limit",
    "train_limit",
    "methods",
    "on",
    "config",
    "set",
    "plan",
    "job",
];

/// Flags of `reproduce`.
#[derive(Debug, Args)]
pub(super) struct ReproduceArgs {
    #[arg(help = names(), value_parser = table)]
    table: String,
    /// Base model, as `train` takes it [default: what --config says, else smollm2-135m]
    #[arg(long, value_parser = model)]
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
    /// Rows to keep, by preset or by label, separated by commas
    #[arg(long, value_delimiter = ',')]
    methods: Vec<String>,
    /// Columns to keep, by the name of their test set, separated by commas
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
    #[arg(hide_short_help = true, long, conflicts_with = "plan")]
    job: Option<String>,
    /// Only print the table from recorded results. DIR or DIR/TABLE holds reproduce.toml, with
    /// runs.parquet or with evaluations/ in it or beside it; or it is ROOT/tables/.. of an earlier
    /// --root
    #[arg(long, value_name = "DIR", conflicts_with_all = ASKED)]
    from: Option<PathBuf>,
    /// Write the recorded table to a directory too, in all its forms
    #[arg(hide_short_help = true, long, value_name = "DIR", requires = "from", conflicts_with_all = ASKED)]
    out: Option<PathBuf>,
    /// Keep it in DIR/TABLE: the table, its settings, and everything that it is made from in one
    /// small file
    #[arg(hide_short_help = true, long, value_name = "DIR", requires = "from", conflicts_with_all = ASKED)]
    keep: Option<PathBuf>,
    /// With --keep: SHORT in the place of PREFIX where a recorded path begins with it; may be
    /// repeated
    #[arg(
        hide_short_help = true,
        long,
        value_name = "PREFIX=SHORT",
        requires = "keep",
        conflicts_with_all = ASKED
    )]
    rename: Vec<String>,
    /// Put the recorded answers and curves below ROOT, where the table's command (with --root ROOT
    /// and the recorded settings) goes on with more seeds; adapters are not recorded
    #[arg(hide_short_help = true, long, value_name = "ROOT", requires = "from", conflicts_with_all = ASKED)]
    restore: Option<PathBuf>,
    /// Print the table as JSON
    #[arg(long, conflicts_with = "plan")]
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

/// The tables by name and title.
fn names() -> String {
    let known: Vec<String> = TABLES
        .iter()
        .map(|table| format!("{}: {}", table.name, table.title))
        .collect();
    known.join("; ")
}

/// Runs `reproduce`.
pub(super) fn run(args: ReproduceArgs) -> Result<ExitCode> {
    logging();
    if let Some(from) = &args.from {
        return print_recorded(&args, from);
    }
    let device = args.places.device()?;
    let options = options(&args)?;
    let finder = args.places.finder(&options.model());
    let plan = Plan::new(&options, Some(&finder))?;
    for note in plan.notes.iter().chain(&plan.left_out) {
        tell(note);
    }
    if args.plan {
        return print_plan(&args, &plan, &finder);
    }
    let work = Work {
        options: &options,
        plan: &plan,
        places: &args.places,
        device: &device,
        finder,
        job: args.job.as_deref(),
        plain: args.plain,
        on_hangup: args.on_hangup,
    };
    let ended = work.carry_out()?;
    if args.job.is_none() && !matches!(ended, Ended::Stopped { .. }) {
        let (folder, table) = table_files::write(&options, &plan, true)?;
        show(&args, &table)?;
        also(&args, format_args!("Written to {}", folder.display()));
    }
    exit_code(&ended)
}

/// The end of a table's command, after the table.
pub(super) fn exit_code(ended: &Ended) -> Result<ExitCode> {
    match ended {
        Ended::Finished => Ok(ExitCode::SUCCESS),
        Ended::Stopped { .. } => Ok(ExitCode::from(STOPPED)),
        Ended::Failed { failures, open } => bail!("{} of {open} pieces failed", failures.len()),
    }
}

/// The work of a table, and how it is shown.
pub(super) struct Work<'a> {
    pub(super) options: &'a Options,
    pub(super) plan: &'a Plan,
    pub(super) places: &'a PlaceArgs,
    pub(super) device: &'a NamedDevice,
    pub(super) finder: Finder,
    /// One piece alone, by its name.
    pub(super) job: Option<&'a str>,
    pub(super) plain: bool,
    pub(super) on_hangup: OnHangup,
}

impl Work<'_> {
    /// Does what is open, and says what failed.
    pub(super) fn carry_out(self) -> Result<Ended> {
        let root = &self.options.root;
        let signal = StopSignal::catch(self.on_hangup)?;
        let environment = environment(self.device);
        // The display looks for the device's memory before the first piece begins.
        let title = self.plan.table.name.to_owned();
        let state = DashboardState::new(title, environment.device.clone());
        let state = Arc::new(Mutex::new(state));
        let setup = Setup {
            device: self.device.device.clone(),
            others: self.places.others()?,
            finder: self.finder,
            run: root.clone(),
            resume: true,
            environment,
            telemetry: Telemetry::new(state.clone()),
            state: signal.state.clone(),
        };
        let schedule = match self.job {
            Some(id) => Schedule::single(self.options, self.plan, id)?,
            None => Schedule::new(self.options, self.plan),
        };
        let ended = {
            let stop = signal.state.clone();
            let _compiling = compiling(&setup.telemetry);
            let _display = display(self.plain, state, stop, self.on_hangup, root)?;
            signal.begin();
            schedule.run(&setup, threads())?
        };
        if let Ended::Stopped { failures } | Ended::Failed { failures, .. } = &ended {
            for failure in failures {
                complain(format_args!("failed: {failure}"));
            }
        }
        if let Ended::Stopped { .. } = ended {
            tell("Stopped. Repeat the command to go on.");
        }
        Ok(ended)
    }
}

/// The table of results that were recorded, without model or data.
fn print_recorded(args: &ReproduceArgs, from: &Path) -> Result<ExitCode> {
    let renamed = renamed(&args.rename)?;
    let recorded = Recorded::find(tables::find(&args.table)?, from)?;
    let table = recorded.table()?;
    if let Some(out) = &args.out {
        table_files::write_forms(out, &table)?;
    }
    show(args, &table)?;
    if let Some(root) = &args.restore {
        let [trainings, evaluations] = recorded.restore(root)?;
        also(
            args,
            format_args!(
                "Put below {}: {trainings} trainings and {evaluations} evaluations",
                root.display()
            ),
        );
    }
    if let Some(directory) = &args.keep {
        let folder = recorded.keep(directory, &renamed)?;
        also(args, format_args!("Kept in {}", folder.display()));
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints a table, for a reader or for a program.
fn show(args: &ReproduceArgs, table: &ResultTable) -> Result<()> {
    match args.json {
        true => print(serde_json::to_string_pretty(table)?),
        false => print(render::markdown(table)),
    }
    Ok(())
}

/// A line beside the table, which must not stand in its JSON.
fn also(args: &ReproduceArgs, line: impl std::fmt::Display) {
    match args.json {
        true => tell(line),
        false => print(line),
    }
}

/// Pairs of `--rename PREFIX=SHORT`.
fn renamed(pairs: &[String]) -> Result<Vec<(String, String)>> {
    let pair = |text: &String| match text.split_once('=') {
        Some((prefix, short)) if !prefix.is_empty() => Ok((prefix.to_owned(), short.to_owned())),
        _ => Err(wrong(format_args!(
            "--rename {text}: expected PREFIX=SHORT"
        ))),
    };
    pairs.iter().map(pair).collect()
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
            return Err(wrong(format_args!("{flag}: expected at least 1, got 0")));
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

/// Prints one command a line on standard output, for `parallel`, `xargs` or an array job. What a
/// reader wants to know goes to standard error.
fn print_plan(args: &ReproduceArgs, plan: &Plan, finder: &Finder) -> Result<ExitCode> {
    let words: Vec<String> = std::env::args_os()
        .map(|word| word.to_string_lossy().into_owned())
        .filter(|word| word != "--plan")
        .map(|word| quoted(&word))
        .collect();
    let mut seconds = 0.0;
    let mut estimates = Estimates::new(finder, threads(), &args.root);
    for job in Job::all(plan) {
        let done = job.is_done(&args.root);
        let estimate = job.estimate(&mut estimates)?;
        if !done {
            seconds += estimate;
        }
        tell(format_args!(
            "{}: {}, about {}",
            job.directory(&args.root).display(),
            if done { "done" } else { "open" },
            clock(estimate)
        ));
        print(format_args!("{} --job {}", words.join(" "), job.id()));
    }
    tell(format_args!(
        "{} trainings, {} evaluations; about {} of {} cores for what is open.",
        plan.trainings().len(),
        plan.evaluations().len(),
        clock(seconds),
        threads()
    ));
    Ok(ExitCode::SUCCESS)
}
