//! A finished run on other questions than its own: scored beside its base model, with the report
//! that training makes.

use crate::config::RunConfig;
use crate::context::Setup;
use crate::dashboard::state::Phase;
use crate::error::TrainError;
use crate::evaluation::Evaluated;
use crate::fitted::{LoadedRun, QuestionSet};
use crate::prediction::ScoredRow;
use crate::prepare::Prepared;
use crate::registry;
use crate::report::{self, Said, Scored};
use crate::run_directory::{HELD_OUT, RunDirectory};

/// The files of the questions beside the answers to them, with their digests.
pub(crate) const ASKED_FILES: &str = "files.json";

/// Questions to score a run on.
#[derive(Debug)]
pub struct Elsewhere {
    /// Name of the set's directory below `evaluation/`.
    pub name: String,
    /// The name that is shown.
    pub shown: String,
    /// Settings by which the questions are asked.
    pub config: RunConfig,
    /// The questions.
    pub prepared: Prepared,
    /// How many of them the run was trained or calibrated on, where it says so.
    pub seen: Option<usize>,
}

/// Scores a finished run on sets of questions, and writes below `evaluation/<set>/` what training
/// writes: both models' predictions, settings, figures, cost and report. `calibrates` says whether
/// the run's held-out answers are those of the method that is asked.
///
/// # Errors
/// A run that cannot be opened, questions that cannot be put, files that cannot be written.
pub fn evaluate(
    run: &RunDirectory,
    config: &RunConfig,
    setup: &Setup,
    sets: &[Elsewhere],
    calibrates: bool,
) -> Result<Vec<Scored>, TrainError> {
    let prepared: Vec<&Prepared> = sets.iter().map(|set| &set.prepared).collect();
    let loaded = LoadedRun::of(run, config, setup, &prepared)?;
    let mut base: Vec<Option<Evaluated>> = Vec::new();
    for set in sets {
        // A run without an adapter is the base model itself.
        base.push(match loaded.is_adapted() {
            true => {
                let shown = format!("base model on {}", set.shown);
                Some(loaded.score_base(&shown, &questions(set))?)
            }
            false => None,
        });
    }
    let held_out = match calibrates && run.has_held_out_predictions(config) {
        true => run.held_out_predictions(config)?,
        false => Vec::new(),
    };
    let base_held_out: Vec<ScoredRow> = match held_out.is_empty() {
        true => Vec::new(),
        false => run.base_predictions(HELD_OUT)?,
    };
    let fitted = loaded.fit()?;
    let mut all = Vec::new();
    for (set, base) in sets.iter().zip(base) {
        let test = fitted.score(&set.shown, &questions(set))?;
        setup.telemetry.phase(Phase::Reporting);
        let base = Said {
            held_out: telling_of(&set.config, config, base_held_out.clone())?,
            test: base.unwrap_or_else(|| test.clone()),
        };
        let held_out = telling_of(&set.config, config, held_out.clone())?;
        let scored = Scored::of(&set.config, base, Said { held_out, test });
        write(run, setup, set, &scored)?;
        all.push(scored);
    }
    setup.telemetry.phase(Phase::Done);
    Ok(all)
}

/// The held-out answers of a run with these settings, `own`, as far as they tell of a confidence in
/// answers to questions that were `asked`. Chosen answers tell nothing of written ones, and of
/// these, one confidence tells nothing of another.
///
/// # Errors
/// Settings that no method takes.
pub(crate) fn telling_of(
    asked: &RunConfig,
    own: &RunConfig,
    held_out: Vec<ScoredRow>,
) -> Result<Vec<ScoredRow>, TrainError> {
    if asked.data.writes()? != own.data.writes()? {
        return Ok(Vec::new());
    }
    // Answers in several wordings are trusted as far as they agree, whatever the settings say.
    let by_agreement = registry::build(own)?.perturbations() > 0;
    let trust = asked.evaluation.answer_confidence;
    if trust == own.evaluation.answer_confidence || by_agreement {
        return Ok(held_out);
    }
    let trusted = held_out.into_iter().map(|row| row.trusted_by(trust));
    Ok(trusted.collect())
}

fn questions(set: &Elsewhere) -> QuestionSet<'_> {
    QuestionSet::test(&set.name, &set.config, &set.prepared)
}

fn write(
    run: &RunDirectory,
    setup: &Setup,
    set: &Elsewhere,
    scored: &Scored,
) -> Result<(), TrainError> {
    let Elsewhere {
        name,
        config,
        prepared,
        seen,
        ..
    } = set;
    let file = |file: &str| format!("evaluation/{name}/{file}");
    run.write_base_predictions(name, &scored.base_rows)?;
    run.write_predictions(name, &scored.tuned_rows)?;
    run.keep_text(&file("config.toml"), &config.to_toml())?;
    run.keep_json(&file(ASKED_FILES), &prepared.splits.account.files)?;
    run.keep_json(&file("metrics.json"), &scored.figures())?;
    let environment = &setup.environment;
    let asked = (prepared, *seen);
    report::write_elsewhere(run, name, config, environment, scored, asked)?;
    run.keep_json(&file("cost.json"), &scored.cost)
}
