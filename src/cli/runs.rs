//! `uq4ct runs`: the runs of a directory with their key figures.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};
use chrono::{DateTime, SecondsFormat, Utc};
use clap::{Args, ValueEnum};
use serde::Serialize;
use train::lock::holder;
use train::metric::{Bootstrap, Estimate, Metrics};
use train::prediction::ScoredRow;
use train::run_directory::RunDirectory;

use super::newest::{RUNS, below, is_piece, written};
use super::process::{print, quoted, tell};

/// Flags of `runs`.
#[derive(Debug, Args)]
pub(super) struct RunsArgs {
    /// Directory to look through, four levels deep
    #[arg(default_value = RUNS)]
    directory: PathBuf,
    /// Order of the list: the newest, the most accurate or the best calibrated first
    #[arg(long, value_name = "BY", default_value = "name")]
    sort: Sort,
    /// A JSON line a run
    #[arg(long)]
    json: bool,
}

/// The values of `--sort`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Sort {
    /// By directory
    Name,
    /// The one that was written last first
    Date,
    /// The highest first
    Accuracy,
    /// The lowest expected calibration error first
    Ece,
}

/// A run in short.
#[derive(Debug, Serialize)]
struct Row {
    run: String,
    /// When its figures, or what there is of it, were written.
    date: Option<String>,
    dataset: String,
    method: String,
    model: String,
    seed: u64,
    state: String,
    /// The command that goes on with it, where it is not finished.
    #[serde(skip_serializing_if = "Option::is_none")]
    go_on: Option<String>,
    /// Test questions.
    n: Option<usize>,
    accuracy: Option<f64>,
    expected_calibration_error: Option<f64>,
    negative_log_likelihood: Option<f64>,
    flu_auroc: Option<f64>,
    training_seconds: Option<f64>,
    /// Tells test sets apart: of the questions' names and answers.
    #[serde(skip)]
    questions: Option<u64>,
}

/// Runs `runs`.
pub(super) fn run(args: &RunsArgs) -> Result<ExitCode> {
    if !args.directory.is_dir() {
        bail!("{}: no such directory", args.directory.display());
    }
    let mut rows: Vec<Row> = below(&args.directory)
        .iter()
        .filter_map(|root| row(&args.directory, root))
        .collect();
    // Who has no figure comes last.
    let largest = |a: Option<f64>, b: Option<f64>| {
        let value = |v: Option<f64>| v.unwrap_or(f64::NEG_INFINITY);
        value(b).total_cmp(&value(a))
    };
    let ece = |row: &Row| row.expected_calibration_error.map(|ece| -ece);
    match args.sort {
        Sort::Name => {}
        Sort::Date => rows.sort_by(|a, b| b.date.cmp(&a.date)),
        Sort::Accuracy => rows.sort_by(|a, b| largest(a.accuracy, b.accuracy)),
        Sort::Ece => rows.sort_by(|a, b| largest(ece(a), ece(b))),
    }
    if args.json {
        for row in &rows {
            print(serde_json::to_string(row)?);
        }
        return Ok(ExitCode::SUCCESS);
    }
    match rows.is_empty() {
        true => print(format_args!("{}: no runs", args.directory.display())),
        false => print(table(&rows)),
    }
    Ok(ExitCode::SUCCESS)
}

/// A run's line in the list; none for a `config.toml` that is no run's.
fn row(below: &Path, root: &Path) -> Option<Row> {
    let (run, config) = match RunDirectory::open(root) {
        Ok(opened) => opened,
        Err(error) => {
            // Some other program's settings.
            if RunDirectory::at(root).digests().exists() {
                tell(format_args!("left out: {error}"));
            }
            return None;
        }
    };
    let name = match root.strip_prefix(below) {
        Ok(rest) if rest.as_os_str().is_empty() => root,
        Ok(rest) => rest,
        Err(_) => root,
    };
    // Every figure can be had from the predictions, whoever wrote them; intervals are not shown.
    let dataset = &config.data.dataset;
    let scored = run.predictions_file(dataset).is_file();
    let predictions = run.predictions(dataset);
    let damaged = predictions.as_ref().err().filter(|_| scored);
    if let Some(error) = damaged {
        tell(error);
    }
    let damaged = damaged.is_some();
    let questions = predictions.as_ref().ok().map(|rows| questions(rows));
    let figures = predictions.ok().map(|rows| {
        let without = Bootstrap {
            resamples: 0,
            ..config.bootstrap()
        };
        Metrics::of(&rows, config.evaluation.bins, without)
    });
    let last = run
        .metrics()
        .ok()
        .and_then(|lines| lines.into_iter().next_back());
    let total = run
        .provenance()
        .ok()
        .map(|known| config.train.schedule().total_steps(known.split.used[0]));
    let state = match (&figures, run.adapter().is_file(), &last, total) {
        _ if damaged => "damaged".into(),
        (Some(_), _, _, _) => "finished".into(),
        (None, true, _, _) => "trained".into(),
        (None, false, Some(line), Some(total)) => format!("step {} of {total}", line.step),
        _ => match members(root) {
            0 => "not begun".into(),
            trained => format!("{trained} members trained"),
        },
    };
    let finished = figures.is_some();
    let (state, go_on) = match holder(root) {
        Some(at_work) => (
            format!("{state}, process {} works on it", at_work.pid),
            None,
        ),
        None if finished || damaged => (state, None),
        // Nothing is left to do for a training of a table that has been written.
        None if is_piece(root) && state == "trained" && has_tables(root) => (state, None),
        None => (state, Some(go_on(root))),
    };
    let files = [
        run.predictions_file(dataset),
        root.join("metrics.jsonl"),
        root.join("config.toml"),
    ];
    let written = files.iter().find_map(|file| written(file));
    let value = |pick: &dyn Fn(&Metrics) -> Estimate| figures.as_ref().and_then(|f| pick(f).value);
    Some(Row {
        run: name.display().to_string(),
        date: written.map(|at| {
            let at: DateTime<Utc> = at.into();
            // Small runs end within a second of each other; the table shows minutes.
            at.to_rfc3339_opts(SecondsFormat::Millis, true)
        }),
        dataset: config.data.title(),
        method: config.method.title().into(),
        model: config.model.name.clone(),
        seed: config.train.seed,
        state,
        go_on,
        n: figures.as_ref().map(|f| f.n),
        accuracy: value(&|m| m.accuracy),
        expected_calibration_error: value(&|m| m.expected_calibration_error),
        negative_log_likelihood: value(&|m| m.negative_log_likelihood),
        flu_auroc: figures.as_ref().and_then(|f| f.flu.as_ref()?.auroc.value),
        training_seconds: last.map(|line| line.seconds),
        questions,
    })
}

/// A number for a set of questions.
fn questions(rows: &[ScoredRow]) -> u64 {
    let mut asked: Vec<(&str, usize)> = rows.iter().map(|row| (&*row.id, row.label)).collect();
    asked.sort_unstable();
    let mut hasher = DefaultHasher::new();
    asked.hash(&mut hasher);
    hasher.finish()
}

/// Whether a table stands beside the folder of a piece.
fn has_tables(piece: &Path) -> bool {
    let root = piece.parent().and_then(Path::parent);
    let tables = root.map(|root| root.join("tables").read_dir());
    tables.is_some_and(|found| found.is_ok_and(|mut found| found.next().is_some()))
}

/// The command that goes on with a run: a table's or a sweep's is theirs.
fn go_on(root: &Path) -> String {
    match RunDirectory::at(root).environment() {
        Ok(begun) if is_piece(root) => begun.command,
        _ => format!(
            "uq4ct train --resume {}",
            quoted(&root.display().to_string())
        ),
    }
}

/// Members of an ensemble whose training has finished.
fn members(root: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(root.join("members")) else {
        return 0;
    };
    let trained = |path: PathBuf| RunDirectory::at(&path).adapter().is_file();
    entries
        .flatten()
        .filter(|entry| trained(entry.path()))
        .count()
}

/// A figure of a run.
type Figure = fn(&Row) -> Option<f64>;

/// The figures of a run, each with the sign by which more is better.
const FIGURES: [(f64, Figure); 4] = [
    (1.0, |row| row.accuracy),
    (-1.0, |row| row.expected_calibration_error),
    (-1.0, |row| row.negative_log_likelihood),
    (1.0, |row| row.flu_auroc),
];

/// Marks the best of several runs on the same questions.
const BEST: &str = "*";

/// Whether no other run on the same questions has a better figure.
fn is_best(row: &Row, rows: &[Row], figure: usize) -> bool {
    let (sign, pick) = FIGURES[figure];
    let alike = |other: &&Row| (&other.dataset, other.questions) == (&row.dataset, row.questions);
    let others: Vec<f64> = rows.iter().filter(alike).filter_map(pick).collect();
    let best = others.iter().map(|v| sign * v).max_by(f64::total_cmp);
    others.len() > 1 && pick(row).is_some_and(|own| Some(sign * own) == best)
}

fn table(rows: &[Row]) -> String {
    let head = [
        "run",
        "date (UTC)",
        "state",
        "n",
        "accuracy %",
        "ECE %",
        "NLL",
        "AUROC of FLU %",
        "trained s",
    ];
    let figure = |row: &Row, place: usize| {
        let mark = match is_best(row, rows, place) {
            true => BEST,
            false => " ",
        };
        match (FIGURES[place].1(row), place) {
            (None, _) => "- ".into(),
            (Some(value), 2) => format!("{value:.3}{mark}"),
            (Some(share), _) => format!("{:.1}{mark}", 100.0 * share),
        }
    };
    let mut lines: Vec<Vec<String>> = vec![head.map(String::from).into()];
    lines.extend(rows.iter().map(|row| {
        let date = row.date.as_deref().and_then(|date| date.get(..16));
        vec![
            row.run.clone(),
            date.map_or("-".into(), |date| date.replace('T', " ")),
            row.state.clone(),
            row.n.map_or("-".into(), |n| n.to_string()),
            figure(row, 0),
            figure(row, 1),
            figure(row, 2),
            figure(row, 3),
            row.training_seconds
                .map_or("-".into(), |s| format!("{s:.0}")),
        ]
    }));
    let width = |column: usize| {
        lines
            .iter()
            .map(|l| l[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: &Vec<String>| {
        let padded = cells.iter().zip(&widths).enumerate();
        let padded = padded.map(|(place, (cell, width))| match place {
            0..=2 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut text: Vec<String> = lines.iter().map(line).collect();
    if rows
        .iter()
        .any(|row| (0..FIGURES.len()).any(|f| is_best(row, rows, f)))
    {
        text.push(format!("{BEST} the best of the runs on the same questions"));
    }
    let mut unfinished: Vec<String> = Vec::new();
    for command in rows.iter().filter_map(|row| row.go_on.as_ref()) {
        let line = format!("  {command}");
        // Many pieces of a table have one command.
        if !unfinished.contains(&line) {
            unfinished.push(line);
        }
    }
    if !unfinished.is_empty() {
        text.push("To go on:".into());
        text.extend(unfinished);
    }
    text.join("\n")
}
