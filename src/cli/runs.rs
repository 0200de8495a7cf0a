//! `uq4ct runs`: the runs of a directory with their key figures.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use serde::Serialize;
use train::metric::{Bootstrap, Estimate, Metrics};
use train::run_directory::RunDirectory;

use super::newest::{RUNS, below};
use super::process::{print, tell};

/// Flags of `runs`.
#[derive(Debug, Args)]
pub(super) struct RunsArgs {
    /// Directory to look through, four levels deep
    #[arg(default_value = RUNS)]
    directory: PathBuf,
    /// A JSON line a run
    #[arg(long)]
    json: bool,
}

/// A run in short.
#[derive(Debug, Serialize)]
struct Row {
    run: String,
    dataset: String,
    method: String,
    model: String,
    seed: u64,
    state: String,
    /// Test questions.
    n: Option<usize>,
    accuracy: Option<f64>,
    expected_calibration_error: Option<f64>,
    negative_log_likelihood: Option<f64>,
    flu_auroc: Option<f64>,
    training_seconds: Option<f64>,
}

/// Runs `runs`.
pub(super) fn run(args: &RunsArgs) -> Result<ExitCode> {
    if !args.directory.is_dir() {
        bail!("{}: no such directory", args.directory.display());
    }
    let rows: Vec<Row> = below(&args.directory)
        .iter()
        .filter_map(|root| row(&args.directory, root))
        .collect();
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
    let value = |pick: &dyn Fn(&Metrics) -> Estimate| figures.as_ref().and_then(|f| pick(f).value);
    Some(Row {
        run: name.display().to_string(),
        dataset: config.data.title(),
        method: config.method.title().into(),
        model: config.model.name.clone(),
        seed: config.train.seed,
        state,
        n: figures.as_ref().map(|f| f.n),
        accuracy: value(&|m| m.accuracy),
        expected_calibration_error: value(&|m| m.expected_calibration_error),
        negative_log_likelihood: value(&|m| m.negative_log_likelihood),
        flu_auroc: figures.as_ref().and_then(|f| f.flu.as_ref()?.auroc.value),
        training_seconds: last.map(|line| line.seconds),
    })
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

fn table(rows: &[Row]) -> String {
    let share = |value: Option<f64>| value.map_or("-".into(), |v| format!("{:.1}", 100.0 * v));
    let plain = |value: Option<f64>| value.map_or("-".into(), |v| format!("{v:.3}"));
    let head = [
        "run",
        "state",
        "n",
        "accuracy %",
        "ECE %",
        "NLL",
        "AUROC of FLU %",
        "trained s",
    ];
    let mut lines: Vec<Vec<String>> = vec![head.map(String::from).into()];
    lines.extend(rows.iter().map(|row| {
        vec![
            row.run.clone(),
            row.state.clone(),
            row.n.map_or("-".into(), |n| n.to_string()),
            share(row.accuracy),
            share(row.expected_calibration_error),
            plain(row.negative_log_likelihood),
            share(row.flu_auroc),
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
            0 | 1 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    lines.iter().map(line).collect::<Vec<_>>().join("\n")
}
