//! `uq4ct predict`: a finished run answers questions of the user's own, and says when not to trust
//! it.

use std::io::{BufRead, BufReader, IsTerminal, Write, stdin, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use data::dataset::custom::Custom;
use data::error::DataError;
use data::rows::{self, Row};
use indicatif::{ProgressBar, ProgressStyle};
use train::answering::{Answer, Answerer, Asked, Decision};
use train::dashboard::state::clock;
use train::lock::Lock;
use train::run_directory::RunDirectory;
use train::{RunConfig, TrainError};

use super::answers::{self, Format, Known, KnownLine, Line};
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
    /// A file for the answers [default: standard output], a table if it ends in .csv or .tsv, JSON
    /// lines otherwise; what it holds already is not asked again
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
    let format = match &args.output {
        Some(output) => Format::of(output)?,
        None => Format::Lines,
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
    let failed = match (&args.input, file) {
        (None, _) => {
            one(&args, &answerer)?;
            0
        }
        (Some(path), Some(rows)) => {
            let fields = fields_of(&rows).decided_by(&rows);
            if let Some(found) = fields.found_by_itself() {
                tell(format_args!("found in {}: {found}", path.display()));
            }
            let asking = Asking {
                path,
                fields: &|_| fields.clone(),
                total: Some(rows.len()),
                format,
            };
            many(&args, &answerer, &asking, rows.into_iter().map(Ok))?
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
            many(&args, &answerer, &asking, standard_input(path))?
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

/// The lines of standard input that are not empty.
fn standard_input(path: &Path) -> impl Iterator<Item = Result<Row, DataError>> {
    let lines = BufReader::new(stdin()).lines().enumerate();
    lines.filter_map(move |(number, line)| match line {
        Ok(line) if line.trim().is_empty() => None,
        Ok(line) => Some(rows::json_line(path, number + 1, &line)),
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            Some(Err(DataError::Row {
                path: path.into(),
                row: number + 1,
                reason: "is not UTF-8".into(),
            }))
        }
        Err(error) => Some(Err(DataError::io(path, error))),
    })
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

/// An answer for reading: what it is and how sure that is, then what the model states.
fn describe(answer: &Answer, choices: &[String]) -> String {
    let letter = |choice: usize| char::from(b'A' + choice as u8);
    let says = match &answer.label {
        Some(label) => format!("{label}: {}", answer.text),
        None => answer.text.clone(),
    };
    let says = match answer.decision {
        Some(Decision::Abstain) => format!("abstains (would say {says})"),
        _ => says,
    };
    let mut lines = vec![says, sureness(answer)];
    if answer.label.is_none() {
        let stated = 100.0 * answer.probability;
        lines.push(format!("the model states {stated:.1} %"));
    } else {
        lines.push("the model states".into());
    }
    for (choice, p) in answer.probabilities.iter().enumerate().take(choices.len()) {
        let bar = "#".repeat((p * 40.0).round() as usize);
        lines.push(format!(
            "  {} {:5.1} %  {bar:40}  {}",
            letter(choice),
            100.0 * p,
            choices[choice]
        ));
    }
    let mut more = Vec::new();
    if let Some(flu) = answer.flu {
        more.push(format!("FLU {flu:.3} (high = certain)"));
    }
    let set: Vec<String> = answer.set.iter().map(|c| letter(*c).to_string()).collect();
    if !set.is_empty() {
        more.push(format!("may be right: {}", set.join(", ")));
    }
    lines.push(more.join(", "));
    lines.join("\n").trim_end().to_owned()
}

/// The number to trust, and what it rests on.
fn sureness(answer: &Answer) -> String {
    let mut text = format!("{:.1} % sure", 100.0 * answer.confidence);
    if let Some([low, high]) = answer.interval {
        text += &format!(" [{:.0}, {:.0}]", 100.0 * low, 100.0 * high);
    }
    text += ", ";
    text += &answer.calibration.reason(answer.calibrated_on);
    if let Some(below) = answer.below_chance {
        text += &format!(
            " (they say {:.1} %, less than chance: chance is shown)",
            100.0 * below
        );
    }
    text
}

/// What is asked of a file or a stream.
struct Asking<'a> {
    path: &'a Path,
    /// How a row is read.
    fields: &'a dyn Fn(&Row) -> Custom,
    /// The number of rows, where it is known. A stream has none, and goes on past a bad line.
    total: Option<usize>,
    /// What answers are written as.
    format: Format,
}

/// A row of the input.
struct Item {
    /// Its number there.
    number: usize,
    /// Name of the field of a text that answers the question.
    context: String,
    /// The question, or why it is none.
    asked: Result<Asked, String>,
}

impl Asking<'_> {
    /// The question of a row. What ends the work is an error; a bad line of a stream does not.
    fn item(&self, row: Result<Row, DataError>) -> Result<Item> {
        let mut context = String::new();
        let asked = row.and_then(|row| {
            let fields = (self.fields)(&row);
            let (number, row) = row;
            context.clone_from(&fields.passage);
            let (mut question, answer) = fields.ask(&row).map_err(|reason| DataError::Row {
                path: self.path.into(),
                row: number,
                reason,
            })?;
            if question.id.is_empty() {
                question.id = format!("row-{number:05}");
            }
            Ok((number, Asked { question, answer }))
        });
        let (number, asked) = match asked {
            Ok((number, asked)) => (number, Ok(asked)),
            Err(DataError::Row { row, reason, .. }) if self.total.is_none() => (row, Err(reason)),
            Err(error) => return Err(error.into()),
        };
        Ok(Item {
            number,
            context,
            asked,
        })
    }
}

/// Asks row after row; what the output holds already is skipped. Gives the number of lines that
/// could not be answered.
fn many(
    args: &PredictArgs,
    answerer: &Answerer,
    asking: &Asking,
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
    let mut out: Box<dyn Write> = match &args.output {
        None => Box::new(stdout().lock()),
        Some(output) => {
            let same = |path: &Path| path.canonicalize().ok();
            if same(output).is_some_and(|output| same(asking.path) == Some(output)) {
                bail!("--output {}: is the --input", output.display());
            }
            // A pipe or a device would be read without an end.
            if output.metadata().is_ok_and(|found| !found.is_file()) {
                let name = output.display();
                bail!("--output {name}: is no file; for standard output leave --output out");
            }
            _lock = Some(Lock::take_file(output)?);
            let (known, whole) = answers::known(output, asking.format)?;
            failed += skip(output, args, answerer, known, &mut items)?;
            Box::new(answers::append(output, asking.format, whole)?)
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

/// How far the work on a file is: a bar on a terminal, lines elsewhere.
struct Progress {
    bar: ProgressBar,
    /// Whether lines are written.
    lines: bool,
    total: Option<usize>,
    done: usize,
    began: Instant,
    /// When the last line was written.
    told: Instant,
}

/// Between two lines of progress.
const PAUSE: Duration = Duration::from_secs(10);

impl Progress {
    fn new(shown: bool, total: Option<usize>) -> Result<Self> {
        let terminal = std::io::stderr().is_terminal();
        let bar = match (shown && terminal, total) {
            (true, Some(total)) => ProgressBar::new(total as u64),
            (true, None) => ProgressBar::no_length(),
            (false, _) => ProgressBar::hidden(),
        };
        bar.set_style(ProgressStyle::with_template(
            "{bar:30} {pos}/{len} questions, {eta} left",
        )?);
        Ok(Self {
            bar,
            lines: shown && !terminal,
            total,
            done: 0,
            began: Instant::now(),
            told: Instant::now(),
        })
    }

    fn one(&mut self) {
        self.done += 1;
        self.bar.inc(1);
    }

    /// Writes a line where one is due.
    fn show(&mut self) {
        if self.lines && self.told.elapsed() >= PAUSE {
            self.told = Instant::now();
            tell(self.line());
        }
    }

    fn line(&self) -> String {
        let seconds = self.began.elapsed().as_secs_f64();
        let rate = self.done as f64 / seconds.max(1e-9);
        match self.total {
            Some(total) => format!(
                "{}/{total} questions, {rate:.1} a second, {} left",
                self.done,
                clock(total.saturating_sub(self.done) as f64 / rate.max(1e-9))
            ),
            None => format!("{} questions, {rate:.1} a second", self.done),
        }
    }

    fn end(&self) {
        self.bar.finish_and_clear();
        if self.lines {
            let took = clock(self.began.elapsed().as_secs_f64());
            tell(format_args!("{} questions in {took}", self.done));
        }
    }
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
                "{place}: is of line {line}, but --input has line {number} there: name another --output"
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

#[cfg(test)]
mod tests {
    use super::*;
    use train::answering::Calibration;

    #[test]
    fn the_number_to_trust_comes_first_and_says_what_it_rests_on() {
        let answer = |calibration, calibrated_on| Answer {
            id: "q".into(),
            answer: Some(0),
            label: Some("A".into()),
            text: "yes".into(),
            probability: 0.91,
            confidence: 0.712,
            interval: Some([0.6, 0.81]),
            calibrated_on,
            calibration,
            below_chance: None,
            flu: None,
            probabilities: vec![0.91, 0.09],
            set: vec![0, 1],
            shortened: false,
            decision: None,
            correct: None,
        };
        let choices = ["yes".to_owned(), "no".to_owned()];
        let says = |calibration, on| describe(&answer(calibration, on), &choices);
        let text = says(Calibration::Temperature, 200);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "A: yes");
        assert_eq!(
            lines[1],
            "71.2 % sure [60, 81], calibrated on 200 held-out questions"
        );
        assert_eq!(lines[2], "the model states");
        assert!(lines[3].starts_with("  A  91.0 %  ####"), "{text}");
        assert_eq!(lines[5], "may be right: A, B");
        for (calibration, on, reason) in [
            (
                Calibration::AsStated,
                5,
                "as the model states it: its 5 held-out questions bear no calibration",
            ),
            (
                Calibration::AsStated,
                0,
                "as the model states it: there were no held-out questions to check it on",
            ),
            (
                Calibration::FirstAnswers,
                900,
                "calibrated on the first answers to 900 training questions",
            ),
        ] {
            let text = says(calibration, on);
            assert!(text.contains(&format!(", {reason}\n")), "{text}");
        }
    }
}
