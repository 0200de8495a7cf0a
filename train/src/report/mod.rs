//! `report.html` (self-contained) and `report.md`: how far a run's confidence can be trusted.
//!
//! | module | content |
//! |---|---|
//! | `scored` | what a report is made from |
//! | `figures` | the tables of figures |
//! | `summary` | what the figures say, in sentences |
//! | `facts` | how they were made |
//! | `plot`, `chart` | pictures, and what they are drawn with |
//! | `html`, `markdown` | the two pages |

use std::collections::HashMap;

use data::MultipleChoice;
use data::source::SourceKind;

use crate::alarm::Alarm;
use crate::config::RunConfig;
use crate::error::TrainError;
use crate::prediction::ScoredRow;
use crate::run_directory::{Environment, Provenance, RunDirectory};
use crate::tracker::MetricsLine;

pub(crate) mod chart;
mod facts;
pub(crate) mod figures;
pub(crate) mod html;
mod markdown;
pub(crate) mod plot;
mod scored;
mod summary;

pub use scored::{Figures, Scored};

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
    worst: Vec<Worst<'a>>,
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

    /// Whether the model wrote the answers itself.
    fn written(&self) -> bool {
        let mut rows = self.scored.tuned_rows.iter();
        rows.any(|row| row.written.is_some())
    }
}
