//! `report.html` (self-contained) and `report.md`: how far a run's confidence can be trusted.
//!
//! | module | content |
//! |---|---|
//! | `scored` | what a report is made from |
//! | `figures` | the tables of figures |
//! | `summary` | what the figures say, in sentences |
//! | `facts` | how they were made |
//! | `plot`, `chart` | pictures, and what they are drawn with |
//! | `shell`, `style.css`, `escape` | what every page is built from |
//! | `glossary` | what its words mean |
//! | `html`, `markdown` | the two pages |

use std::collections::HashMap;

use data::MultipleChoice;
use data::source::SourceKind;

use crate::alarm::Alarm;
use crate::config::RunConfig;
use crate::error::TrainError;
use crate::metric::Metrics;
use crate::posthoc::abstention::{Abstention, DELTA};
use crate::prediction::ScoredRow;
use crate::prepare::Prepared;
use crate::registry;
use crate::run_directory::{ChatRecord, Environment, Provenance, RunDirectory};
use crate::tracker::MetricsLine;

pub(crate) mod chart;
mod escape;
mod facts;
pub(crate) mod figures;
mod glossary;
mod html;
mod markdown;
pub(crate) mod plot;
mod scored;
pub(crate) mod shell;
mod summary;

pub use scored::{Figures, Said, Scored, majority};

/// Title of the table of promises.
const PROMISES_TITLE: &str = "Abstention: what can be promised";
/// What its lines say.
const PROMISES_ABOUT: &str = "Risk is the share of wrong answers among those given. Each line by itself holds with probability 95 % for questions like the held-out ones, on which it was found; --target-risk gives it. The lowest risk that can be proved comes first.";

/// Title of the question that is shown as the model reads it.
const PROMPT: &str = "A test question, exactly as the model reads it";

/// Everything a report shows.
struct Report<'a> {
    config: &'a RunConfig,
    scored: &'a Scored,
    provenance: Provenance,
    environment: Environment,
    history: Vec<MetricsLine>,
    alarms: Vec<Alarm>,
    /// Figures of the training's late first answers, and their number. Of a set elsewhere they say
    /// nothing, and an adapter that was trained before may know the questions.
    first_answers: Option<(usize, Metrics)>,
    worst: Vec<Worst<'a>>,
    /// Of the run, where the questions are not its own.
    elsewhere: Option<TrainedOn>,
}

/// What a run was trained on that is asked elsewhere.
struct TrainedOn {
    dataset: String,
    /// How many of the questions asked it was trained or calibrated on, where it says so.
    seen: Option<usize>,
}

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
        provenance: run.provenance()?,
        environment: run.environment()?,
        history: run.metrics()?,
        alarms: run.alarms()?,
        first_answers: first_answers(run, config)?,
        worst: worst(&scored.tuned_rows, questions),
        elsewhere: None,
    };
    run.write_text("report.html", &html::render(&report)?)?;
    run.write_text("report.md", &markdown::render(&report))
}

/// Writes both reports of a finished run on the test questions of `prepared`, into the folder of
/// the set.
///
/// # Errors
/// As [`write()`].
pub fn write_elsewhere(
    run: &RunDirectory,
    set: &str,
    config: &RunConfig,
    environment: &Environment,
    scored: &Scored,
    (prepared, seen): (&Prepared, Option<usize>),
) -> Result<(), TrainError> {
    let (_, trained) = RunDirectory::open(run.root())?;
    let prompt = prepared.test.first().map(|question| &question.prompt);
    let prompt = prompt.map(|tokens| prepared.tokenizer().decode(tokens));
    let shortened = prepared.test.iter().filter(|q| q.shortened).count();
    let report = Report {
        config,
        scored,
        elsewhere: Some(TrainedOn {
            dataset: trained.data.title(),
            seen,
        }),
        provenance: Provenance {
            chat: ChatRecord::of(prepared),
            prompt: prompt.transpose()?,
            split: prepared.splits.account.clone(),
            left_out: prepared.left_out.clone(),
            shortened: [0, 0, shortened],
            answers_cut: 0,
            ..run.provenance()?
        },
        environment: environment.clone(),
        history: Vec::new(),
        alarms: run.alarms()?,
        first_answers: None,
        worst: worst(&scored.tuned_rows, &prepared.splits.test),
    };
    let file = |name: &str| format!("evaluation/{set}/{name}");
    run.write_text(&file("report.html"), &html::render(&report)?)?;
    run.write_text(&file("report.md"), &markdown::render(&report))
}

fn first_answers(
    run: &RunDirectory,
    config: &RunConfig,
) -> Result<Option<(usize, Metrics)>, TrainError> {
    if config.adapter.from.is_some() {
        return Ok(None);
    }
    let rows = run.late_first_answers()?;
    let figures = || Metrics::of(&rows, config.evaluation.bins, config.bootstrap());
    Ok((!rows.is_empty()).then(|| (rows.len(), figures())))
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

impl Report<'_> {
    fn title(&self) -> String {
        format!(
            "{} on {}, {}",
            self.config.method.title(),
            self.config.data.title(),
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

    /// What can be promised of the answers, the lowest risk first.
    fn promises(&self) -> Vec<[String; 4]> {
        let held_out = &self.scored.held_out_rows;
        if registry::build(self.config).is_ok_and(|method| method.chooses_on_held_out()) {
            return Vec::new();
        }
        let table = Abstention::promises(held_out, DELTA);
        table.iter().map(Abstention::cells).collect()
    }

    /// Whether there are held-out answers to calibrate on.
    fn calibrates(&self) -> bool {
        !self.scored.held_out_rows.is_empty()
    }

    /// Whether the model wrote the answers itself.
    fn written(&self) -> bool {
        let mut rows = self.scored.tuned_rows.iter();
        rows.any(|row| row.written.is_some())
    }
}
