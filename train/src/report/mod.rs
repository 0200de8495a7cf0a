//! `report.html` (self-contained) and `report.md`: how far a run's confidence can be trusted.

use std::collections::HashMap;

use data::MultipleChoice;
use data::rendering::Scoring;
use data::source::SourceKind;
use serde::{Deserialize, Serialize};

use crate::config::RunConfig;
use crate::error::TrainError;
use crate::evaluation::Cost;
use crate::metric::calibration::{BinEdge, expected_calibration_error};
use crate::metric::{Estimate, Metrics, Outcome, estimate, outcomes, ranking};
use crate::posthoc::confidence::Information;
use crate::posthoc::{ALPHA, CalibratedMetrics};
use crate::prediction::{AnswerConfidence, ScoredRow};
use crate::run_directory::{Environment, Provenance, RunDirectory};
use crate::tracker::MetricsLine;

pub mod compare;
mod html;
mod markdown;
pub(crate) mod plot;

/// What was found out about the base model and the tuned one.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// Base model, test.
    pub base: Metrics,
    /// Tuned model, test.
    pub tuned: Metrics,
    /// Base model, held-out.
    pub base_held_out: Metrics,
    /// Tuned model, held-out.
    pub tuned_held_out: Metrics,
    /// Tuned model on test after calibration on held-out.
    pub calibrated: CalibratedMetrics,
    /// Base model's scored test questions.
    pub base_rows: Vec<ScoredRow>,
    /// Tuned model's scored test questions.
    pub tuned_rows: Vec<ScoredRow>,
    /// Tuned model's scored held-out questions.
    pub held_out_rows: Vec<ScoredRow>,
    /// What an answer of the tuned model costs.
    pub cost: Cost,
}

/// The figures alone: `metrics.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Base model, test.
    pub base: Metrics,
    /// Tuned model, test.
    pub tuned: Metrics,
    /// Base model, held-out.
    pub base_held_out: Metrics,
    /// Tuned model, held-out.
    pub tuned_held_out: Metrics,
    /// Tuned model on test after calibration on held-out.
    pub calibrated: CalibratedMetrics,
    /// What an answer of the tuned model costs.
    pub cost: Cost,
}

impl Scored {
    /// The figures without the rows.
    pub fn figures(&self) -> Figures {
        Figures {
            base: self.base.clone(),
            tuned: self.tuned.clone(),
            base_held_out: self.base_held_out.clone(),
            tuned_held_out: self.tuned_held_out.clone(),
            calibrated: self.calibrated.clone(),
            cost: self.cost,
        }
    }
}

/// Everything a report shows.
struct Report<'a> {
    config: &'a RunConfig,
    scored: &'a Scored,
    provenance: Provenance,
    environment: Environment,
    history: Vec<MetricsLine>,
    worst: Vec<Worst<'a>>,
}

/// A way to trust written answers, and how well that goes.
struct ConfidenceLine {
    name: &'static str,
    /// ECE and AUROC of correctness.
    cells: [String; 2],
}

/// Title and columns of their table.
const CONFIDENCES: (&str, [&str; 3]) = (
    "Confidences of the tuned model's written answers",
    ["Confidence", "ECE, %", "AUROC of correctness, %"],
);

/// A confident error.
struct Worst<'a> {
    question: &'a MultipleChoice,
    row: &'a ScoredRow,
}

impl Worst<'_> {
    /// What was said, and what is right.
    fn answers(&self) -> [&str; 2] {
        let choices = &self.question.choices;
        match &self.row.written {
            Some(written) => [&written.text, &choices[self.question.answer]],
            None => [&choices[self.row.prediction()], &choices[self.row.label]],
        }
    }
}

/// Writes both reports of a run.
///
/// # Errors
/// Files that cannot be read or written, or a plot that cannot be drawn.
pub fn write(
    run: &RunDirectory,
    config: &RunConfig,
    scored: &Scored,
    questions: &[MultipleChoice],
) -> Result<(), TrainError> {
    let report = Report {
        config,
        scored,
        provenance: run.read_json("data.json")?,
        environment: run.read_json("environment.json")?,
        history: run.metrics()?,
        worst: worst(&scored.tuned_rows, questions),
    };
    run.write_text("report.html", &html::render(&report)?)?;
    run.write_text("report.md", &markdown::render(&report))
}

/// The ten wrong answers of highest confidence.
fn worst<'a>(rows: &'a [ScoredRow], questions: &'a [MultipleChoice]) -> Vec<Worst<'a>> {
    let texts: HashMap<&str, &MultipleChoice> =
        questions.iter().map(|q| (q.id.as_str(), q)).collect();
    let mut wrong: Vec<&ScoredRow> = rows.iter().filter(|r| !r.correct()).collect();
    wrong.sort_by(|a, b| b.confidence().total_cmp(&a.confidence()));
    wrong
        .into_iter()
        .filter_map(|row| {
            Some(Worst {
                question: texts.get(row.id.as_str())?,
                row,
            })
        })
        .take(10)
        .collect()
}

/// How a figure is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unit {
    Percent,
    Plain,
}

/// A line of the table of figures.
struct Line {
    name: &'static str,
    unit: Unit,
    better: &'static str,
    base: Option<Estimate>,
    tuned: Option<Estimate>,
}

impl Line {
    /// Name with unit.
    fn head(&self) -> String {
        match self.unit {
            Unit::Percent => format!("{}, %", self.name),
            Unit::Plain => self.name.into(),
        }
    }
}

/// The figures in the order in which they are shown.
fn lines(base: &Metrics, tuned: &Metrics) -> Vec<Line> {
    type Get = fn(&Metrics) -> Option<Estimate>;
    let table: [(&'static str, Unit, &'static str, Get); 17] = [
        ("Accuracy", Unit::Percent, "higher", |m| Some(m.accuracy)),
        ("Mean confidence", Unit::Percent, "= accuracy", |m| {
            Some(m.confidence)
        }),
        ("ECE", Unit::Percent, "lower", |m| {
            Some(m.expected_calibration_error)
        }),
        ("Adaptive ECE", Unit::Percent, "lower", |m| {
            Some(m.adaptive_calibration_error)
        }),
        ("MCE", Unit::Percent, "lower", |m| {
            Some(m.maximum_calibration_error)
        }),
        ("NLL", Unit::Plain, "lower", |m| {
            Some(m.negative_log_likelihood)
        }),
        ("Brier score", Unit::Plain, "lower", |m| Some(m.brier_score)),
        ("AUROC of correctness", Unit::Percent, "higher", |m| {
            Some(m.auroc)
        }),
        ("AURC", Unit::Plain, "lower", |m| Some(m.aurc)),
        ("E-AURC", Unit::Plain, "lower", |m| Some(m.excess_aurc)),
        ("Accuracy at 80 % coverage", Unit::Percent, "higher", |m| {
            Some(m.accuracy_at_coverage_80)
        }),
        ("Accuracy at 90 % coverage", Unit::Percent, "higher", |m| {
            Some(m.accuracy_at_coverage_90)
        }),
        (
            "FLU, mean (high = certain)",
            Unit::Percent,
            "= accuracy",
            |m| Some(m.flu.as_ref()?.mean),
        ),
        ("FLU of right less wrong", Unit::Percent, "higher", |m| {
            Some(m.flu.as_ref()?.separation)
        }),
        ("FLU's ECE", Unit::Percent, "lower", |m| {
            Some(m.flu.as_ref()?.expected_calibration_error)
        }),
        ("FLU's AUROC of correctness", Unit::Percent, "higher", |m| {
            Some(m.flu.as_ref()?.auroc)
        }),
        ("FLU's Brier score", Unit::Plain, "lower", |m| {
            Some(m.flu.as_ref()?.brier_score)
        }),
    ];
    table
        .into_iter()
        .map(|(name, unit, better, get)| Line {
            name,
            unit,
            better,
            base: get(base),
            tuned: get(tuned),
        })
        .filter(|line| line.base.is_some() || line.tuned.is_some())
        .collect()
}

/// The figures that calibration changes, temperature beside the calibrator.
fn calibrated_lines(calibrated: &CalibratedMetrics) -> Vec<Line> {
    let changed = [
        "Mean confidence",
        "ECE",
        "Adaptive ECE",
        "NLL",
        "Brier score",
        "AUROC of correctness",
    ];
    lines(&calibrated.with_temperature, &calibrated.with_confidence)
        .into_iter()
        .filter(|line| changed.contains(&line.name))
        .collect()
}

/// `62.2 [60.5, 63.9]`; a dash where there is none.
fn show(estimate: Option<Estimate>, unit: Unit) -> String {
    let number = |v: f64| {
        let text = match unit {
            Unit::Percent => format!("{:.1}", v * 100.0),
            Unit::Plain => format!("{v:.3}"),
        };
        // A tiny negative number rounds to minus zero.
        match text.trim_start_matches(['-', '0', '.']).is_empty() {
            true => text.trim_start_matches('-').to_owned(),
            false => text,
        }
    };
    match estimate {
        Some(Estimate {
            value: Some(value),
            low: Some(low),
            high: Some(high),
        }) => format!("{} [{}, {}]", number(value), number(low), number(high)),
        Some(Estimate {
            value: Some(value), ..
        }) => number(value),
        _ => "–".into(),
    }
}

impl Report<'_> {
    fn title(&self) -> String {
        format!(
            "{} on {}, {}",
            self.config.method.title(),
            self.config.data.dataset,
            self.config.model.name
        )
    }

    /// Set where model or data were made up: such a run is a test of the program, never a result.
    fn made_up(&self) -> bool {
        self.provenance
            .model
            .iter()
            .chain(&self.provenance.split.files)
            .any(|file| file.source == SourceKind::Bundled)
    }

    /// What the figures say, in a few plain sentences.
    fn summary(&self) -> Vec<String> {
        let (base, tuned) = (&self.scored.base, &self.scored.tuned);
        let percent = |e: Estimate| {
            e.value
                .map_or("–".into(), |v| format!("{:.1} %", v * 100.0))
        };
        let mut text = vec![format!(
            "The tuned model answers {} of {} questions right; the base model {}.",
            percent(tuned.accuracy),
            tuned.n,
            percent(base.accuracy)
        )];
        if let Some((choice, share)) = most_frequent(&self.scored.tuned_rows) {
            text.push(format!(
                "Always giving choice {} would be right for {:.1} %.",
                choice + 1,
                share * 100.0
            ));
        }
        if let (Some(confidence), Some(accuracy)) = (tuned.confidence.value, tuned.accuracy.value) {
            let gap = (confidence - accuracy) * 100.0;
            let verdict = match gap {
                g if g > 2.0 => format!("It is over-confident by {g:.1} points on average"),
                g if g < -2.0 => format!("It is under-confident by {:.1} points on average", -g),
                _ => "Its mean confidence matches its accuracy within 2 points".into(),
            };
            text.push(format!(
                "{verdict}; its expected calibration error is {} (base: {}).",
                percent(tuned.expected_calibration_error),
                percent(base.expected_calibration_error)
            ));
        }
        if let Some(auroc) = tuned.auroc.value {
            text.push(format!(
                "Given a right and a wrong answer, the right one has the higher confidence in {:.0} % of cases (50 % is chance).",
                auroc * 100.0
            ));
        }
        if let Some(auroc) = tuned.flu.as_ref().and_then(|flu| flu.auroc.value) {
            text.push(format!(
                "FLU ranks right above wrong in {:.0} % of cases.",
                auroc * 100.0
            ));
        }
        if let Some(found) = Information::of(&self.scored.tuned_rows) {
            let verdict = match (found.p_value < 0.05, found.weight > 0.0) {
                (true, true) => "Beside the confidence, FLU tells right from wrong",
                (true, false) => "Beside the confidence, FLU is higher where the answer is wrong",
                (false, _) => {
                    "Beside the confidence, FLU tells nothing that these questions could show"
                }
            };
            text.push(format!(
                "{verdict} (likelihood ratio {:.1}, p = {:.3}).",
                found.likelihood_ratio, found.p_value
            ));
        }
        text
    }

    /// What calibration on held-out questions makes of the tuned model, in sentences.
    fn calibration(&self) -> Vec<String> {
        let CalibratedMetrics {
            temperature,
            confidence,
            lac,
            aps,
            ..
        } = &self.scored.calibrated;
        let share = |v: Option<f64>| v.map_or("–".into(), |v| format!("{:.1} %", v * 100.0));
        let size = |v: Option<f64>| v.map_or("–".into(), |v| format!("{v:.2}"));
        let mut sentences = vec![format!(
            "Temperature {:.2}{}. Calibrator: logit c = {:.2} + {:.2} logit(confidence) + {:.2} z(FLU).",
            temperature.temperature,
            // Confidences below one half move the other way.
            match self.written() {
                true => "",
                false => " (above 1: the model was over-confident)",
            },
            confidence.weights[0],
            confidence.weights[1],
            confidence.weights[2]
        )];
        // What is written has no set of choices.
        if !self.written() {
            sentences.push(format!(
                "Conformal sets for {:.0} % coverage: LAC covers {} with {} choices, APS {} with {}.",
                (1.0 - ALPHA) * 100.0,
                share(lac.coverage),
                size(lac.set_size),
                share(aps.coverage),
                size(aps.set_size)
            ));
        }
        sentences
    }

    /// Whether the model wrote the answers itself.
    fn written(&self) -> bool {
        let mut rows = self.scored.tuned_rows.iter();
        rows.any(|row| row.written.is_some())
    }

    /// Every way to trust a written answer.
    fn confidences(&self) -> Vec<ConfidenceLine> {
        let rows = &self.scored.tuned_rows;
        if !self.written() {
            return Vec::new();
        }
        let (bins, bootstrap) = (self.config.evaluation.bins, self.config.bootstrap());
        let routed = rows.iter().any(|row| row.flu.is_some());
        let line = |confidence: AnswerConfidence| {
            let trusted: Vec<ScoredRow> = rows
                .iter()
                .map(|row| row.clone().trusted_by(confidence))
                .collect();
            let figure = |f: &dyn Fn(&[Outcome]) -> f64| {
                estimate(&trusted, bootstrap, &|rows| f(&outcomes(rows)))
            };
            ConfidenceLine {
                name: match confidence {
                    AnswerConfidence::Mean => "mean of the tokens' probabilities (geometric)",
                    AnswerConfidence::Product => "product of the tokens' probabilities",
                    AnswerConfidence::First => "probability of the first token",
                    AnswerConfidence::Flu => "FLU",
                },
                cells: [
                    figure(&|o| expected_calibration_error(o, bins, BinEdge::Right)),
                    figure(&ranking::auroc),
                ]
                .map(|found| show(Some(found), Unit::Percent)),
            }
        };
        let kinds = AnswerConfidence::ALL.into_iter();
        kinds
            .filter(|kind| routed || *kind != AnswerConfidence::Flu)
            .map(line)
            .collect()
    }

    fn sources(&self) -> Vec<(String, String)> {
        let files = self.provenance.model.iter().map(|f| ("model", f));
        let files = files.chain(self.provenance.split.files.iter().map(|f| ("data", f)));
        files
            .map(|(what, file)| {
                let digest: String = file.sha256.chars().take(16).collect();
                (
                    what.to_string(),
                    format!("{} (sha256 {digest}..)", file.origin),
                )
            })
            .collect()
    }

    fn facts(&self) -> Vec<(String, String)> {
        let split = &self.provenance.split;
        let [train, held_out, test] = split.used;
        let [all_train, all_held_out, all_test] = split.available;
        let mut facts = vec![
            ("Method".to_string(), self.config.method.title().to_string()),
            ("Model".into(), self.config.model.name.clone()),
            (
                "Parameters".into(),
                format!(
                    "{} frozen, {} trained",
                    grouped(self.provenance.base_parameters),
                    grouped(self.provenance.trainable_parameters)
                ),
            ),
            (
                "Questions".into(),
                format!(
                    "{train} of {all_train} train, {held_out} of {all_held_out} held-out (from {}), {test} of {all_test} test (published split: {})",
                    split.held_out_from, split.test_from
                ),
            ),
            (
                "Leaks dropped from train".into(),
                split.leaks_dropped.to_string(),
            ),
            (
                "Prompts shortened".into(),
                format!(
                    "{} train, {} held-out, {} test",
                    self.provenance.shortened[0],
                    self.provenance.shortened[1],
                    self.provenance.shortened[2]
                ),
            ),
            (
                "Cost of an answer".into(),
                format!(
                    "{} forward passes{}, {:.2} s",
                    self.scored.cost.forward_passes,
                    match self.written() {
                        true => " over the prompt, each with one a token after it",
                        false => "",
                    },
                    self.scored.cost.seconds_per_question
                ),
            ),
            (
                "Scoring".into(),
                match self.config.data.scoring {
                    _ if self.written() => format!(
                        "written, at most {} tokens, exact match with an accepted answer, confidence: {:?}",
                        self.config.data.answer_tokens, self.config.evaluation.answer_confidence
                    )
                    .to_lowercase(),
                    Scoring::Letters => "letters".into(),
                    Scoring::Cloze => {
                        format!("cloze, per {:?}", self.config.data.normalization).to_lowercase()
                    }
                },
            ),
            (
                "Machine".into(),
                format!(
                    "{}, {} threads",
                    self.environment.device, self.environment.threads
                ),
            ),
            (
                "Program".into(),
                format!(
                    "uq4ct {} {}",
                    self.environment.version,
                    self.environment.commit.as_deref().unwrap_or("")
                ),
            ),
            ("Command".into(), self.environment.command.clone()),
        ];
        if self.provenance.answers_cut > 0 {
            let cut = self.provenance.answers_cut;
            facts.push((
                "Training answers cut".into(),
                format!("{cut}: longer than data.answer_tokens"),
            ));
        }
        if let Some(last) = self.history.iter().rfind(|l| l.split == "train") {
            let minutes = last.seconds / 60.0;
            facts.insert(
                4,
                (
                    "Training".into(),
                    format!("{} optimizer steps, {minutes:.1} minutes", last.step),
                ),
            );
        }
        facts
    }
}

/// The most frequent right choice and its share: what a model that knows nothing could reach. None where rows differ in their
/// number of choices, where the model writes, or for an empty set.
fn most_frequent(rows: &[ScoredRow]) -> Option<(usize, f64)> {
    let first = rows.first()?;
    if first.written.is_some() {
        return None;
    }
    let choices = first.probabilities.len();
    if rows.iter().any(|r| r.probabilities.len() != choices) {
        return None;
    }
    let count = |choice: usize| rows.iter().filter(|r| r.label == choice).count();
    let best = (0..choices).max_by_key(|choice| (count(*choice), std::cmp::Reverse(*choice)))?;
    Some((best, count(best) as f64 / rows.len() as f64))
}

/// `1 234 567`
fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}
