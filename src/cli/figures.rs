//! The figures that matter most, for the terminal.

use std::path::PathBuf;

use serde::Serialize;
use train::metric::{Estimate, Metrics};
use train::report::Figures;

/// A run that was asked questions, with what came of it.
#[derive(Debug, Serialize)]
pub(super) struct Asked {
    /// The run's directory.
    pub(super) run: PathBuf,
    /// The dataset or file of the questions.
    pub(super) on: String,
    /// The method that was asked.
    pub(super) method: String,
    /// The base model.
    pub(super) model: String,
    /// Share of questions that the most frequent answer is right for; absent where questions
    /// differ in their number of choices.
    pub(super) majority: Option<f64>,
    /// How many of the questions the run was trained or calibrated on; absent where it does not
    /// say, and for its own test questions, which are none of them.
    pub(super) seen: Option<usize>,
    /// Every figure of base model and tuned model.
    pub(super) figures: Figures,
    /// The report.
    pub(super) report: PathBuf,
}

/// What the answer that is right most often would reach.
const MAJORITY: &str = "the most frequent answer alone";

/// Accuracy, ECE and NLL of base model and tuned model, with 95 % intervals.
pub(super) fn table(figures: &Figures, majority: Option<f64>) -> String {
    let (base, tuned) = (&figures.base, &figures.tuned);
    let line = |name: &str, base: String, tuned: String| format!("{name:<14}{base:>22}{tuned:>24}");
    let mut lines = vec![line(
        &format!("test, n = {}", tuned.n),
        "base model".into(),
        "tuned model".into(),
    )];
    let both = HEADS.into_iter().zip(cells(base)).zip(cells(tuned));
    lines.extend(both.map(|((name, base), tuned)| line(name, base, tuned)));
    if let Some(share) = majority {
        lines.push(format!("accuracy of {MAJORITY}: {:.1} %", 100.0 * share));
    }
    lines.join("\n")
}

/// Several runs on the same questions, each with its base model.
pub(super) fn side_by_side(runs: &[&Asked]) -> String {
    let Some(first) = runs.first() else {
        return String::new();
    };
    // Runs of one model, asked alike, share their base model's answers.
    let base = |run: &Asked| (run.figures.base.n, cells(&run.figures.base));
    let alike = runs.iter().all(|run| base(run) == base(first));
    let mut rows = Vec::new();
    for (place, run) in runs.iter().enumerate() {
        let name = run.run.display();
        match (alike, place) {
            (true, 0) => rows.push((format!("base model, {}", run.model), &run.figures.base)),
            (true, _) => {}
            (false, _) => rows.push((format!("base model of {name}"), &run.figures.base)),
        }
        rows.push((name.to_string(), &run.figures.tuned));
    }
    let names = rows.iter().map(|(name, _)| name.chars().count());
    let width = names
        .chain([first.on.chars().count(), MAJORITY.len()])
        .max();
    let width = width.unwrap_or(0);
    let line = |name: &str, n: &str, cells: [String; 3]| {
        let [accuracy, ece, nll] = cells;
        let line = format!("{name:<width$}{n:>7}{accuracy:>21}{ece:>21}{nll:>24}");
        line.trim_end().to_owned()
    };
    let mut lines = vec![line(&first.on, "n", HEADS.map(String::from))];
    lines.extend(
        rows.iter()
            .map(|(name, figures)| line(name, &figures.n.to_string(), cells(figures))),
    );
    if let Some(share) = first.majority {
        let cells = [
            format!("{:.1}", 100.0 * share),
            String::new(),
            String::new(),
        ];
        lines.push(line(MAJORITY, "", cells));
    }
    let reports = runs
        .iter()
        .map(|run| format!("Report: {}", run.report.display()));
    lines.extend(reports);
    lines.join("\n")
}

/// The figures that are shown.
const HEADS: [&str; 3] = ["accuracy, %", "ECE, %", "NLL"];

/// The values below [`HEADS`], with 95 % intervals.
fn cells(figures: &Metrics) -> [String; 3] {
    [
        percent(figures.accuracy),
        percent(figures.expected_calibration_error),
        plain(figures.negative_log_likelihood),
    ]
}

fn percent(estimate: Estimate) -> String {
    match (estimate.value, estimate.low, estimate.high) {
        (Some(v), Some(lo), Some(hi)) => {
            format!("{:.1} [{:.1}, {:.1}]", v * 100.0, lo * 100.0, hi * 100.0)
        }
        (Some(v), _, _) => format!("{:.1}", v * 100.0),
        _ => "-".into(),
    }
}

fn plain(estimate: Estimate) -> String {
    // A loss of nothing may be a little below it.
    let show = |v: f64| format!("{:.3}", if v.abs() < 5e-4 { 0.0 } else { v });
    match (estimate.value, estimate.low, estimate.high) {
        (Some(v), Some(lo), Some(hi)) => format!("{} [{}, {}]", show(v), show(lo), show(hi)),
        (Some(v), _, _) => show(v),
        _ => "-".into(),
    }
}
