//! What several verbs share: places, devices, logging, the command line for the record.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use burn::tensor::Device;
use clap::Args;
use data::dataset::custom::Custom;
use data::loader::LoaderState;
use data::source::Finder;
use train::RunConfig;
use train::dashboard::plain::Plain;
use train::dashboard::state::DashboardState;
use train::dashboard::terminal::{self, Terminal};
use train::fine_tune::Setup;
use train::posthoc::abstention::{Abstention, Promise};
use train::run_directory::Environment;
use train::telemetry::Telemetry;

use crate::backend::{self, NamedDevice};

/// Flags about where files are.
#[derive(Debug, Args)]
pub(super) struct SourceArgs {
    /// Directory with datasets in their original, the Hub's or the uniform format [env: UQ4CT_DATA]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Do not use the network
    #[arg(long)]
    offline: bool,
}

/// Flags about where things are.
#[derive(Debug, Args)]
pub(super) struct PlaceArgs {
    #[command(flatten)]
    sources: SourceArgs,
    /// Where to compute: auto, cpu, ndarray, wgpu[:index], cuda[:index]
    #[arg(long, default_value = "auto", conflicts_with = "devices")]
    device: String,
    /// Several devices that share every training step, such as cuda:0,cuda:1; the first one evaluates
    #[arg(long, value_delimiter = ',')]
    devices: Vec<String>,
}

impl SourceArgs {
    /// Where files are looked for; the tiny model runs on the bundled miniatures unless a data directory is given.
    pub(super) fn finder(&self, model: &str) -> Finder {
        let mut finder = Finder::from_env();
        if let Some(directory) = &self.data_dir {
            finder.data_dir = Some(directory.clone());
        }
        finder.offline |= self.offline;
        finder.miniature = model == "tiny" && self.data_dir.is_none();
        finder
    }
}

impl PlaceArgs {
    /// Where files are looked for.
    pub(super) fn finder(&self, model: &str) -> Finder {
        self.sources.finder(model)
    }

    /// The device asked for.
    pub(super) fn device(&self) -> Result<NamedDevice> {
        let found = backend::find(self.devices.first().unwrap_or(&self.device))?;
        backend::make_default(&found);
        Ok(found)
    }

    /// Where and how a finished run is asked; `state` shows what takes long.
    pub(super) fn finished(
        &self,
        run: &Path,
        config: &RunConfig,
        state: Arc<Mutex<DashboardState>>,
    ) -> Result<Setup> {
        let device = self.device()?;
        Ok(Setup {
            environment: environment(&device),
            device: device.device,
            others: Vec::new(),
            finder: self.finder(&config.model.name),
            run: run.to_path_buf(),
            resume: true,
            telemetry: Telemetry::new(state),
            state: Arc::default(),
        })
    }

    /// The further devices of `--devices`.
    pub(super) fn others(&self) -> Result<Vec<Device>> {
        let names = self.devices.iter().skip(1);
        names.map(|name| Ok(backend::find(name)?.device)).collect()
    }
}

/// Flags that name the fields of a file of questions.
#[derive(Debug, Args)]
pub(super) struct FieldArgs {
    /// Field of the question
    #[arg(long, default_value = "question")]
    question_field: String,
    /// Field of the list of choices, or the fields of the single ones, separated by commas
    #[arg(long, default_value = "choices", value_delimiter = ',')]
    choices_field: Vec<String>,
    /// Field of the right answer: an index from 0, a letter or the choice's text
    #[arg(long, default_value = "answer")]
    answer_field: String,
    /// Field of a text that answers the question
    #[arg(long, default_value = "context")]
    context_field: String,
    /// Field of what a row shares with others, such as a document
    #[arg(long, default_value = "group")]
    group_field: String,
    /// Field of the list of other accepted answers, where the model writes the answer
    #[arg(long, default_value = "aliases")]
    aliases_field: String,
}

impl FieldArgs {
    /// What `train` must be told about the fields.
    pub(super) fn settings(&self) -> String {
        let (own, plain) = (self.custom(), Custom::default());
        [
            ("question", &own.question, &plain.question),
            ("choices", &own.choices.join(","), &plain.choices.join(",")),
            ("answer", &own.answer, &plain.answer),
            ("passage", &own.passage, &plain.passage),
            ("group", &own.group, &plain.group),
            ("aliases", &own.aliases, &plain.aliases),
        ]
        .iter()
        .filter(|(_, own, plain)| own != plain)
        .map(|(key, own, _)| {
            let value = match *key {
                "choices" => format!("{:?}", self.choices_field),
                _ => (*own).clone(),
            };
            format!(" --set {}", quoted(&format!("data.custom.{key}={value}")))
        })
        .collect()
    }

    /// As settings over others, which count where a flag is not given.
    pub(super) fn over(&self, others: &Custom) -> Custom {
        let plain = Custom::default();
        let mut fields = others.clone();
        let texts = [
            (&self.question_field, &plain.question, &mut fields.question),
            (&self.answer_field, &plain.answer, &mut fields.answer),
            (&self.context_field, &plain.passage, &mut fields.passage),
            (&self.group_field, &plain.group, &mut fields.group),
            (&self.aliases_field, &plain.aliases, &mut fields.aliases),
        ];
        for (own, plain, field) in texts {
            if own != plain {
                field.clone_from(own);
            }
        }
        if self.choices_field != plain.choices {
            fields.choices.clone_from(&self.choices_field);
        }
        fields
    }

    /// As settings.
    pub(super) fn custom(&self) -> Custom {
        self.over(&Custom::default())
    }
}

/// Flags about when to abstain.
#[derive(Debug, Args)]
pub(super) struct PromiseArgs {
    /// Abstain so that at most this share of the given answers is wrong, as far as held-out questions can prove it
    #[arg(long, value_name = "SHARE", value_parser = share, conflicts_with = "coverage")]
    target_risk: Option<f64>,
    /// How often that promise may fail
    #[arg(long, default_value_t = 0.05, value_parser = share)]
    delta: f64,
    /// Abstain from the least confident answers so that this share is given
    #[arg(long, value_name = "SHARE", value_parser = share)]
    coverage: Option<f64>,
    /// Error rate of the sets of choices that may be right
    #[arg(long, default_value_t = 0.1, value_parser = share)]
    pub(super) alpha: f64,
}

impl PromiseArgs {
    /// What is promised, if anything.
    pub(super) fn promise(&self) -> Option<Promise> {
        let (delta, target) = (self.delta, self.target_risk);
        let risk = target.map(|target| Promise::Risk { target, delta });
        risk.or_else(|| {
            let target = self.coverage?;
            Some(Promise::Coverage { target })
        })
    }
}

/// A number strictly between 0 and 1.
fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value < 1.0 => Ok(value),
        _ => Err("expected a number between 0 and 1, such as 0.05".into()),
    }
}

/// The rule in words.
pub(super) fn explain(rule: &Abstention, held_out: usize) -> String {
    let risk = rule
        .held_out_risk
        .map_or("-".into(), |risk| format!("{:.1} %", 100.0 * risk));
    let promise = match rule.promise {
        Promise::Risk { target, delta } => format!(
            "at most {:.1} % of the given answers wrong, with probability {:.0} %",
            100.0 * target,
            100.0 * (1.0 - delta)
        ),
        Promise::Coverage { target } => format!("{:.1} % of questions answered", 100.0 * target),
    };
    format!(
        "Answers from a probability of {:.3} on: {promise}, for questions like its {held_out} held-out ones (there {:.1} % answered, {risk} of them wrong).",
        rule.threshold,
        100.0 * rule.held_out_coverage
    )
}

/// Diagnostics on standard error, as `RUST_LOG` says; warnings by default.
pub(super) fn logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .try_init();
}

/// Exit code of work that was stopped and can go on.
pub(super) const STOPPED: u8 = 130;

/// Ctrl-C as a wish to stop.
pub(super) struct StopSignal {
    /// Carries the wish.
    pub(super) state: Arc<LoaderState>,
    begun: Arc<AtomicBool>,
}

impl StopSignal {
    /// Catches the signal from here on; until [`Self::begin`] it ends the program at once.
    pub(super) fn catch() -> Result<Self> {
        let signal = Self {
            state: Arc::default(),
            begun: Arc::default(),
        };
        let (state, begun) = (signal.state.clone(), signal.begun.clone());
        ctrlc::set_handler(move || {
            // Before the work there is nothing to save; a second signal leaves at once, and the newest checkpoint stays.
            let first = !state.stop.swap(true, Ordering::SeqCst);
            if first && begun.load(Ordering::SeqCst) {
                return;
            }
            if begun.load(Ordering::SeqCst) {
                terminal::restore();
            }
            std::process::exit(i32::from(STOPPED));
        })
        .context("Ctrl-C cannot be caught")?;
        Ok(signal)
    }

    /// The work begins.
    pub(super) fn begin(&self) {
        self.begun.store(true, Ordering::SeqCst);
    }
}

/// What shows the run; dropping it ends the showing.
pub(super) enum Display {
    Dashboard { _terminal: Terminal },
    Lines { _plain: Plain },
}

/// Dashboard on a terminal, lines elsewhere.
pub(super) fn display(
    plain: bool,
    state: Arc<Mutex<DashboardState>>,
    stop: Arc<LoaderState>,
) -> Result<Display> {
    if terminal::available() && !plain {
        let terminal =
            Terminal::start(state, stop).context("the dashboard cannot start; use --plain")?;
        return Ok(Display::Dashboard {
            _terminal: terminal,
        });
    }
    Ok(Display::Lines {
        _plain: Plain::start(state, 5),
    })
}

/// Processor threads that computation may use.
pub(super) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// On what a run runs.
pub(super) fn environment(device: &NamedDevice) -> Environment {
    Environment {
        version: env!("CARGO_PKG_VERSION").into(),
        commit: option_env!("UQ4CT_COMMIT").map(str::to_owned),
        device: device.name.clone(),
        threads: threads(),
        command: command(),
    }
}

/// The command line with words quoted where a shell would split them.
fn command() -> String {
    // Lossy: a path that is not Unicode must not end the program.
    let mut words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
    let program = words.next().unwrap_or_default();
    let program = std::path::Path::new(&program)
        .file_name()
        .map_or("uq4ct".into(), |name| name.to_string_lossy().into_owned());
    // The report's command repeats the run from its start.
    let words = words.filter(|word| {
        !matches!(
            word.as_str(),
            "--resume" | "--resume=latest" | "--overwrite"
        )
    });
    std::iter::once(format!("cargo run --release --bin {program} --"))
        .chain(words.map(|word| quoted(&word)))
        .collect::<Vec<_>>()
        .join(" ")
}

/// A word as a shell takes it.
pub(super) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// Writes a line to standard output; a reader that has left (`| head`) is no error.
pub(super) fn print(line: impl std::fmt::Display) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{line}");
}
