//! `uq4ct predict`: a finished run answers questions of the user's own, and says when not to trust
//! it.

use std::io::{Write, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::Args;
use data::dataset::custom::Custom;
use data::error::DataError;
use data::rows::{self, Row};
use train::answering::{Answer, Answerer, Asked};
use train::lock::Lock;
use train::run_directory::RunDirectory;
use train::{RunConfig, TrainError};

use super::dataset::FieldArgs;
use super::flags::{PlaceArgs, PromiseArgs, explain};
use super::newest::run_or_newest;
use super::process::{logging, print, tell};
use super::usage::wrong;
use crate::kernels::Told;

mod answers;
mod input;
mod progress;
mod text;

use answers::{Format, Known, KnownLine, Line};
use input::{Asking, Item, standard_input};
use progress::Progress;
use text::describe;

/// Flags of `predict`.
#[derive(Debug, Args)]
pub(super) struct PredictArgs {
    /// A finished run's directory [default: the newest below runs]
    run: Option<PathBuf>,
    /// One question
    #[arg(long, conflicts_with = "input")]
    question: Option<String>,
    /// A choice of it; give two or more, or none to a run that writes its answers
    #[arg(long, requires = "question", conflicts_with = "input")]
    choice: Vec<String>,
    /// A text that answers it
    #[arg(long, requires = "question", conflicts_with = "input")]
    context: Option<String>,
    /// A .jsonl, .json, .csv, .tsv or .parquet file of questions; - reads JSON lines from stdin
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// A file for the answers [default: standard output], a table if it ends in .csv or .tsv, JSON
    /// lines otherwise; what it holds already is not asked again
    #[arg(
        long,
        value_name = "FILE",
        requires = "input",
        conflicts_with = "question"
    )]
    output: Option<PathBuf>,
    /// Questions asked together [default: 16, from standard input 1]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..), conflicts_with = "question")]
    batch: Option<u16>,
    #[command(flatten)]
    promise: PromiseArgs,
    #[command(flatten)]
    fields: FieldArgs,
    /// Print JSON for one question too
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    places: PlaceArgs,
}

/// Why a text that answers the question is of no use to a run.
const NO_CONTEXT: &str = "this run's prompt has no place for it, so it is not read: leave it out, or train with --set data.template=passage";

/// Runs `predict`.
pub(super) fn run(args: PredictArgs) -> Result<ExitCode> {
    logging();
    if args.question.is_none() && args.input.is_none() {
        return Err(wrong(
            "nothing to answer: give --question, with --choice, or --input FILE",
        ));
    }
    // Before the weights are loaded: a file that cannot be read should cost no waiting.
    let file = match &args.input {
        Some(path) if path != Path::new("-") => Some(rows::read(path, &[])?),
        _ => None,
    };
    let format = match &args.output {
        Some(output) => Format::of(output)?,
        None => Format::Lines,
    };
    let output = match (&args.output, &args.input) {
        (Some(output), Some(input)) => Some(Begun::at(output, input, format)?),
        _ => None,
    };
    if args.question.is_some()
        && let Some(flag) = args.fields.first()
    {
        return Err(wrong(format_args!(
            "{flag}: names a field of --input, and --question has none"
        )));
    }
    let run = run_or_newest(args.run.as_deref())?;
    let (opened, config) = RunDirectory::open(&run)?;
    let _compiling = Told::start(tell);
    let answerer = open(&args, &run, &config)?;
    tell(answerer.calibration());
    if let Some(rule) = &answerer.abstention {
        tell(explain(rule, answerer.held_out));
    }
    // The run's own names serve where the rows have them.
    let mut own = config.data.custom.clone().opened()?;
    let counts = opened.provenance()?.split.counts_from;
    own = own.counting_elsewhere(counts).writing(answerer.writes());
    let fields_of = |rows: &[Row]| args.fields.over(&own.where_present(rows));
    let failed = match (&args.input, file) {
        (None, _) => {
            one(&args, &answerer)?;
            0
        }
        (Some(path), Some(rows)) => {
            let fields = fields_of(&rows);
            fields.refuse_misnamed(&rows)?;
            let fields = fields.decided_by(&rows)?;
            if let Some(found) = fields.found_by_itself() {
                tell(format_args!("found in {}: {found}", path.display()));
            }
            let asking = Asking {
                path,
                fields: &|_| fields.clone(),
                total: Some(rows.len()),
                format,
            };
            let rows = rows.into_iter().map(Ok);
            many(&args, &answerer, &asking, output, rows)?
        }
        (Some(path), None) => {
            let alone = |row: &Row| {
                let row = std::slice::from_ref(row);
                fields_of(row).with_columns(row)
            };
            let asking = Asking {
                path,
                fields: &alone,
                total: None,
                format,
            };
            many(&args, &answerer, &asking, output, standard_input(path))?
        }
    };
    if failed > 0 {
        tell(format_args!(
            "{failed} line(s) could not be answered: see their `error`"
        ));
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn open(args: &PredictArgs, run: &Path, config: &RunConfig) -> Result<Answerer> {
    let setup = args.places.finished(run, config, Arc::default())?;
    Ok(Answerer::open(
        &setup,
        args.promise.alpha,
        args.promise.promise(),
    )?)
}

fn one(args: &PredictArgs, answerer: &Answerer) -> Result<()> {
    if answerer.writes() && !args.choice.is_empty() {
        bail!("--choice: this run writes its answers, it does not choose them: leave it out");
    }
    if !answerer.writes() && args.choice.is_empty() {
        bail!("--question: this run chooses among answers: give them with --choice");
    }
    if args.context.is_some() && !answerer.reads_context() {
        bail!("--context: {NO_CONTEXT}");
    }
    let question = serde_json::json!({
        "question": args.question,
        "choices": args.choice,
        "passage": args.context,
    });
    let fields = Custom::default().writing(answerer.writes());
    let (question, answer) = fields.ask(&question).map_err(anyhow::Error::msg)?;
    let choices = question.choices.clone();
    let answers = answerer.answer(&[Asked { question, answer }])?;
    let answer = answers.first().context("no answer")?;
    if args.json {
        print(serde_json::to_string(answer)?);
        return Ok(());
    }
    print(describe(answer, &choices));
    Ok(())
}

/// An output that this process alone works on, with what it holds already.
struct Begun {
    path: PathBuf,
    lock: Lock,
    known: Vec<Known>,
    /// Bytes up to the end of the last whole answer.
    whole: usize,
}

impl Begun {
    /// Takes the output for answers to the questions of `input`.
    fn at(output: &Path, input: &Path, format: Format) -> Result<Self> {
        let same = |path: &Path| path.canonicalize().ok();
        if same(output).is_some_and(|output| same(input) == Some(output)) {
            bail!("--output {}: is the --input", output.display());
        }
        // A pipe or a device would be read without an end.
        if output.metadata().is_ok_and(|found| !found.is_file()) {
            let name = output.display();
            bail!("--output {name}: is no file; for standard output leave --output out");
        }
        let lock = Lock::take_file(output)?;
        let (known, whole) = answers::known(output, format)?;
        Ok(Self {
            path: output.into(),
            lock,
            known,
            whole,
        })
    }
}

/// Asks row after row; what the output holds already is skipped. Gives the number of lines that
/// could not be answered.
fn many(
    args: &PredictArgs,
    answerer: &Answerer,
    asking: &Asking,
    output: Option<Begun>,
    rows: impl Iterator<Item = Result<Row, DataError>>,
) -> Result<usize> {
    let mut told = answerer.reads_context();
    let mut items = rows.map(|row| {
        let item = asking.item(row)?;
        if let Ok(asked) = &item.asked
            && asked.question.passage.is_some()
            && !std::mem::replace(&mut told, true)
        {
            tell(format_args!(
                "{}, row {}: {}: {NO_CONTEXT}",
                asking.path.display(),
                item.number,
                item.context
            ));
        }
        Ok(item)
    });
    let mut failed = 0;
    let mut _lock = None;
    let mut out: Box<dyn Write> = match output {
        None => Box::new(stdout().lock()),
        Some(output) => {
            _lock = Some(output.lock);
            if !output.known.is_empty() {
                let (name, before) = (output.path.display(), output.known.len());
                tell(format_args!("{name} holds {before} answers already"));
            }
            failed += skip(&output.path, args, answerer, output.known, &mut items)?;
            Box::new(answers::append(&output.path, asking.format, output.whole)?)
        }
    };
    let mut progress = Progress::new(args.output.is_some(), asking.total)?;
    let size = args.batch.unwrap_or(match asking.total {
        Some(_) => 16,
        None => 1,
    });
    let mut ended = Ok(());
    while ended.is_ok() {
        let mut batch = Vec::new();
        for item in items.by_ref().take(usize::from(size)) {
            match item {
                Ok(item) => batch.push(item),
                // What came before it is answered first.
                Err(error) => {
                    ended = Err(error);
                    break;
                }
            }
        }
        if batch.is_empty() {
            break;
        }
        let mut found = answer(answerer, &batch, asking.total.is_some()).into_iter();
        for item in &batch {
            let answer = match &item.asked {
                Ok(asked) => match found.next() {
                    Some(Ok(answer)) => Ok((answer, asked)),
                    Some(Err(error)) if asking.total.is_none() => Err(error.to_string()),
                    Some(Err(error)) => {
                        ended = Err(error.into());
                        break;
                    }
                    None => break,
                },
                Err(reason) => Err(reason.clone()),
            };
            let line = match &answer {
                Ok((answer, asked)) => Line::Answered {
                    answer,
                    origin: args.output.as_ref().map(|_| answerer.origin(asked)),
                },
                Err(reason) => {
                    failed += 1;
                    Line::Failed {
                        error: reason.clone(),
                        line: item.number,
                    }
                }
            };
            match out.write_all(&asking.format.text(&line)?) {
                // Whoever reads has had enough.
                Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => return Ok(failed),
                written => written.context("an answer cannot be written")?,
            }
            progress.one();
        }
        out.flush().context("answers cannot be written")?;
        progress.show();
    }
    progress.end();
    ended.map(|()| failed)
}

/// Answers the questions of a batch. One that cannot be put does not cost the others their answers;
/// `strict` ends with it.
fn answer(answerer: &Answerer, batch: &[Item], strict: bool) -> Vec<Result<Answer, TrainError>> {
    let asked = batch.iter().filter_map(|item| item.asked.as_ref().ok());
    let asked: Vec<Asked> = asked.cloned().collect();
    if asked.is_empty() {
        return Vec::new();
    }
    if let Ok(answers) = answerer.answer(&asked) {
        return answers.into_iter().map(Ok).collect();
    }
    let mut found = Vec::new();
    for asked in &asked {
        let answers = answerer.answer(std::slice::from_ref(asked));
        let ends = strict && answers.is_err();
        match answers {
            Ok(answers) => found.extend(answers.into_iter().map(Ok)),
            Err(error) => found.push(Err(error)),
        }
        if ends {
            break;
        }
    }
    found
}

/// Passes the questions that an output has answers for. Gives the number of those that could not
/// be answered.
fn skip(
    output: &Path,
    args: &PredictArgs,
    answerer: &Answerer,
    known: Vec<Known>,
    items: &mut impl Iterator<Item = Result<Item>>,
) -> Result<usize> {
    let name = output.display();
    let decides = args.promise.promise().is_some();
    let mut failed = 0;
    for Known { place, what } in known {
        let Some(item) = items.next() else {
            bail!("{name} holds more answers than --input has questions: name another --output");
        };
        let Item { number, asked, .. } = item?;
        let (answered, origin, decided) = match what {
            KnownLine::Answered {
                id,
                origin,
                decided,
            } => (id, origin, decided),
            KnownLine::Failed { line } if line == number => {
                failed += 1;
                continue;
            }
            KnownLine::Failed { line } => bail!(
                "{place}: answers line {line}, but --input has line {number} there: name another --output"
            ),
        };
        if decided != decides {
            bail!("{place}: was answered with another promise: name another --output");
        }
        let asked = asked.map_err(|reason| {
            anyhow::anyhow!("{place}: answers {answered:?}, but --input has no question there ({reason}): name another --output")
        })?;
        let id = &asked.question.id;
        if answered != *id {
            bail!(
                "{place}: answers {answered:?}, but --input has {id:?} there: name another --output"
            );
        }
        // Earlier versions kept none.
        if let Some(known) = origin {
            let origin = answerer.origin(&asked);
            let question = |origin: &str| origin.split('-').next().map(str::to_owned);
            if question(&known) != question(&origin) {
                bail!("{place}: {id} is another question in --input now: name another --output");
            }
            if known != origin {
                bail!(
                    "{place}: was answered by another run, or with another --alpha or promise: name another --output"
                );
            }
        }
    }
    Ok(failed)
}
