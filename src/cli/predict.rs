//! `uq4ct predict`: a finished run answers questions of the user's own, and says when not to trust
//! it.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, IsTerminal, Write, stdin, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::Args;
use data::dataset::custom::Custom;
use data::error::DataError;
use data::rows::{self, Row};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use train::answering::{Answer, Answerer, Asked, Decision};
use train::lock::Lock;
use train::run_directory::RunDirectory;
use train::{RunConfig, TrainError};

use super::dataset::FieldArgs;
use super::flags::{PlaceArgs, PromiseArgs, explain};
use super::newest::run_or_newest;
use super::process::{logging, print, tell};
use super::usage::wrong;

/// Flags of `predict`.
#[derive(Debug, Args)]
pub(super) struct PredictArgs {
    /// A finished run's directory [default: the newest below runs]
    run: Option<PathBuf>,
    /// One question
    #[arg(long, conflicts_with = "input")]
    question: Option<String>,
    /// A choice of it; give two or more, or none to a run that writes its answers
    #[arg(long, requires = "question")]
    choice: Vec<String>,
    /// A text that answers it
    #[arg(long, requires = "question")]
    context: Option<String>,
    /// A .jsonl, .json, .csv, .tsv or .parquet file of questions; - reads JSON lines from stdin
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// A file for the answers [default: standard output]; what it holds already is not asked again
    #[arg(long, value_name = "FILE", requires = "input")]
    output: Option<PathBuf>,
    /// Questions asked together [default: 16, from standard input 1]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
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
    let run = run_or_newest(args.run.as_deref())?;
    let (_, config) = RunDirectory::open(&run)?;
    let answerer = open(&args, &run, &config)?;
    tell(answerer.calibration());
    if let Some(rule) = &answerer.abstention {
        tell(explain(rule, answerer.held_out));
    }
    // The run's own names serve where the rows have them.
    let own = config.data.custom.clone().writing(answerer.writes());
    let fields_of = |rows: &[Row]| args.fields.over(&own.where_present(rows));
    match (&args.input, file) {
        (None, _) => one(&args, &answerer)?,
        (Some(path), Some(rows)) => {
            let fields = fields_of(&rows).decided_by(&rows);
            if let Some(found) = fields.found_by_itself() {
                tell(format_args!("found in {}: {found}", path.display()));
            }
            let total = Some(rows.len());
            let rows = rows.into_iter().map(Ok);
            many(&args, &answerer, (path, &|_| fields.clone()), rows, total)?;
        }
        (Some(path), None) => {
            let lines = BufReader::new(stdin()).lines().enumerate();
            let rows = lines.filter_map(|(number, line)| match line {
                Ok(line) if line.trim().is_empty() => None,
                Ok(line) => Some(rows::json_line(path, number + 1, &line)),
                Err(error) => Some(Err(DataError::io(path, error))),
            });
            let alone = |row: &Row| {
                let row = std::slice::from_ref(row);
                fields_of(row).with_columns(row)
            };
            many(&args, &answerer, (path, &alone), rows, None)?;
        }
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

/// An answer for reading.
fn describe(answer: &Answer, choices: &[String]) -> String {
    let letter = |choice: usize| char::from(b'A' + choice as u8);
    let says = match &answer.label {
        Some(label) => format!("{label}: {}", answer.text),
        None => answer.text.clone(),
    };
    let mut text = match answer.decision {
        Some(Decision::Abstain) => format!("abstains (would say {says})\n"),
        _ => says + "\n",
    };
    if answer.label.is_none() {
        text += &format!("probability {:.1} %, ", 100.0 * answer.probability);
    }
    for (choice, p) in answer.probabilities.iter().enumerate().take(choices.len()) {
        let bar = "#".repeat((p * 40.0).round() as usize);
        text += &format!(
            "  {} {:5.1} %  {bar:40}  {}\n",
            letter(choice),
            100.0 * p,
            choices[choice]
        );
    }
    text += &confidence(answer);
    if let Some(flu) = answer.flu {
        text += &format!(", FLU {flu:.3} (high = certain)");
    }
    let set: Vec<String> = answer.set.iter().map(|c| letter(*c).to_string()).collect();
    if !set.is_empty() {
        text += &format!(", may be right: {}", set.join(", "));
    }
    text
}

/// A line of the output.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    answer: &'a Answer,
    /// What it is an answer of, for who goes on with the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<String>,
}

/// How far the answer can be trusted, and what that rests on.
fn confidence(answer: &Answer) -> String {
    let mut text = format!("confidence {:.1} %", 100.0 * answer.confidence);
    if let Some([low, high]) = answer.interval {
        text += &format!(" [{:.0}, {:.0}]", 100.0 * low, 100.0 * high);
    }
    text += &format!(", calibrated on {} questions", answer.calibrated_on);
    if let Some(below) = answer.below_chance {
        text += &format!(
            " (they say {:.1} %, less than chance: chance is shown)",
            100.0 * below
        );
    }
    text
}

/// Asks row after row, each with the fields of its file; what the output holds already is skipped.
fn many(
    args: &PredictArgs,
    answerer: &Answerer,
    (path, fields): (&Path, &dyn Fn(&Row) -> Custom),
    rows: impl Iterator<Item = Result<Row, DataError>>,
    total: Option<usize>,
) -> Result<()> {
    let mut told = answerer.reads_context();
    let mut asked = rows.map(|row| -> Result<Asked> {
        let row = row?;
        let fields = fields(&row);
        let (number, row) = row;
        let (mut question, answer) = fields.ask(&row).map_err(|reason| DataError::Row {
            path: path.into(),
            row: number,
            reason,
        })?;
        if question.passage.is_some() && !std::mem::replace(&mut told, true) {
            tell(format_args!(
                "{}, row {number}: {}: {NO_CONTEXT}",
                path.display(),
                fields.passage
            ));
        }
        if question.id.is_empty() {
            question.id = format!("row-{number:05}");
        }
        Ok(Asked { question, answer })
    });
    let mut _lock = None;
    let mut out: Box<dyn Write> = match &args.output {
        None => Box::new(stdout().lock()),
        Some(output) => {
            let same = |path: &Path| path.canonicalize().ok();
            if same(output).is_some_and(|output| same(path) == Some(output)) {
                bail!("--output {}: is the --input", output.display());
            }
            // A pipe or a device would be read without an end.
            if output.metadata().is_ok_and(|found| !found.is_file()) {
                let name = output.display();
                bail!("--output {name}: is no file; for standard output leave --output out");
            }
            _lock = Some(Lock::take_file(output)?);
            Box::new(go_on(output, args, answerer, &mut asked)?)
        }
    };
    let progress = progress(args, total)?;
    let size = args.batch.unwrap_or(if total.is_some() { 16 } else { 1 });
    let mut ended = Ok(());
    while ended.is_ok() {
        let mut batch = Vec::new();
        for asked in asked.by_ref().take(usize::from(size)) {
            match asked {
                Ok(asked) => batch.push(asked),
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
        let answers = match answer(answerer, &batch) {
            Ok(answers) => answers,
            Err((answers, error)) => {
                ended = Err(error.into());
                answers
            }
        };
        for (answer, asked) in answers.iter().zip(&batch) {
            let line = serde_json::to_string(&Line {
                answer,
                origin: args.output.as_ref().map(|_| answerer.origin(asked)),
            })?;
            match writeln!(out, "{line}") {
                // Whoever reads has had enough.
                Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
                written => written.context("an answer cannot be written")?,
            }
        }
        out.flush().context("answers cannot be written")?;
        progress.inc(answers.len() as u64);
    }
    progress.finish_and_clear();
    ended
}

/// A bar on the terminal where answers go to a file.
fn progress(args: &PredictArgs, total: Option<usize>) -> Result<ProgressBar> {
    let shown = args.output.is_some() && std::io::stderr().is_terminal();
    let progress = match (shown, total) {
        (true, Some(total)) => ProgressBar::new(total as u64),
        (true, None) => ProgressBar::no_length(),
        (false, _) => ProgressBar::hidden(),
    };
    progress.set_style(ProgressStyle::with_template(
        "{bar:30} {pos}/{len} questions, {eta} left",
    )?);
    Ok(progress)
}

/// Answers a batch. One question that cannot be put does not cost those before it their answers:
/// they come with the error.
fn answer(answerer: &Answerer, batch: &[Asked]) -> Result<Vec<Answer>, (Vec<Answer>, TrainError)> {
    if let Ok(answers) = answerer.answer(batch) {
        return Ok(answers);
    }
    let mut answers = Vec::new();
    for asked in batch {
        match answerer.answer(std::slice::from_ref(asked)) {
            Ok(answer) => answers.extend(answer),
            Err(error) => return Err((answers, error)),
        }
    }
    Ok(answers)
}

/// Opens the output to append, past the questions that it has answers for.
fn go_on(
    path: &Path,
    args: &PredictArgs,
    answerer: &Answerer,
    asked: &mut impl Iterator<Item = Result<Asked>>,
) -> Result<File> {
    let name = path.display();
    let known = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(e).with_context(|| format!("{name} cannot be read")),
    };
    let decides = args.promise.promise().is_some();
    // A line without its end was being written when the program died.
    let whole = known
        .iter()
        .rposition(|b| *b == b'\n')
        .map_or(0, |end| end + 1);
    let (lines, tail) = known.split_at(whole);
    const START: &[u8] = br#"{"id":"#;
    if !tail.starts_with(&START[..START.len().min(tail.len())]) {
        bail!("{name} holds no answers: name another --output");
    }
    for (number, line) in lines.split_inclusive(|b| *b == b'\n').enumerate() {
        let place = format!("{name}, line {}", number + 1);
        let answer: serde_json::Value = serde_json::from_slice(line)
            .with_context(|| format!("{place}: is no answer: name another --output"))?;
        if answer.get("probabilities").is_none() {
            bail!("{place}: is no answer: name another --output");
        }
        if answer.get("decision").is_some() != decides {
            bail!("{place}: was answered with another promise: name another --output");
        }
        let Some(asked) = asked.next() else {
            bail!("{name} holds more answers than --input has questions: name another --output");
        };
        let asked = asked?;
        let id = &asked.question.id;
        if answer["id"] != id.as_str() {
            bail!(
                "{place}: answers {}, but --input has {id:?} there: name another --output",
                answer["id"]
            );
        }
        // Earlier versions kept none.
        if let Some(known) = answer["origin"].as_str() {
            let origin = answerer.origin(&asked);
            let question = |origin: &str| origin.split('-').next().map(str::to_owned);
            if question(known) != question(&origin) {
                bail!("{place}: {id} is another question in --input now: name another --output");
            }
            if known != origin {
                bail!(
                    "{place}: was answered by another run, or with another --alpha or promise: name another --output"
                );
            }
        }
    }
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("{name} cannot be written"))?;
    file.set_len(whole as u64)
        .with_context(|| format!("{name} cannot be written"))?;
    Ok(file)
}
