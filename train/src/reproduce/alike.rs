//! Whether several runs were asked the same questions: what sets them side by side pairs answers by
//! the names of their questions.

use data::dataset::{custom, is_numbered};
use data::source::Located;

use crate::config::RunConfig;
use crate::elsewhere::ASKED_FILES;
use crate::error::TrainError;
use crate::prediction::ScoredRow;
use crate::run_directory::RunDirectory;

/// Refuses answers of the same names to different questions: where runs were asked files of the
/// user's own whose rows have no names, or where they disagree in how many choices a question has
/// or which is right. `answers` are those to `dataset`, in one order.
///
/// # Errors
/// Two runs that were not asked the same, and files that cannot be read.
pub fn same_questions(
    opened: &[(RunDirectory, RunConfig)],
    dataset: &str,
    answers: &[Vec<ScoredRow>],
) -> Result<(), TrainError> {
    let numbered = |row: &ScoredRow| is_numbered(custom::NAME, &row.id);
    if answers.iter().flatten().any(numbered) {
        same_file(opened, dataset)?;
    }
    let Some(((run, config), first)) = opened.first().zip(answers.first()) else {
        return Ok(());
    };
    // Of a written answer the row says whether it was right.
    if asked(run, config, dataset)?.is_some_and(|asked| asked.data.writes().unwrap_or(false)) {
        return Ok(());
    }
    for (rows, (other, _)) in answers.iter().zip(opened).skip(1) {
        let fits = |(a, b): &(&ScoredRow, &ScoredRow)| {
            (a.label, a.probabilities.len()) == (b.label, b.probabilities.len())
        };
        if let Some((row, _)) = first.iter().zip(rows).find(|pair| !fits(pair)) {
            let reason = format!(
                "{} and {} were asked different questions by the name of {}: give each question an id of its own",
                run.root().display(),
                other.root().display(),
                row.id
            );
            return Err(TrainError::config(RUNS, reason));
        }
    }
    Ok(())
}

/// What errors here are about.
const RUNS: &str = "runs";

/// Refuses runs that were asked different files of the user's own.
fn same_file(opened: &[(RunDirectory, RunConfig)], dataset: &str) -> Result<(), TrainError> {
    let sources: Vec<Option<Source>> = opened
        .iter()
        .map(|(run, config)| source(run, config, dataset))
        .collect::<Result<_, _>>()?;
    let mut known = sources.iter().flatten();
    let Some(first) = known.next() else {
        return Ok(());
    };
    match known.find(|other| other.digest != first.digest) {
        None => Ok(()),
        Some(other) => {
            let reason = format!(
                "they were asked {} and {}, and rows without an id have only their number: give the rows ids, or evaluate the runs on one file",
                first.name, other.name
            );
            Err(TrainError::config(RUNS, reason))
        }
    }
}

/// The user's own questions that a run was asked.
struct Source {
    name: String,
    /// The file's SHA-256 where the run keeps it, else its place.
    digest: String,
}

/// Which of the user's own files, or datasets of the Hub, a run was asked; none for a listed
/// dataset.
fn source(
    run: &RunDirectory,
    config: &RunConfig,
    dataset: &str,
) -> Result<Option<Source>, TrainError> {
    let Some(asked) = asked(run, config, dataset)? else {
        return Ok(None);
    };
    if asked.data.dataset != custom::NAME {
        return Ok(None);
    }
    let custom = &asked.data.custom;
    let Some(file) = custom.test.as_ref().or(custom.train.as_ref()) else {
        let name = custom.hub.clone().unwrap_or_else(|| asked.data.title());
        return Ok(Some(Source {
            digest: name.clone(),
            name,
        }));
    };
    let name = file.display().to_string();
    let kept = match dataset == config.data.dataset {
        true => run.provenance_if_written()?.map(|known| known.split.files),
        false => kept_files(run, dataset)?,
    };
    let kept = kept.and_then(|files| {
        let found = files.into_iter().find(|f| f.path == *file);
        found.map(|file| file.sha256)
    });
    Ok(Some(Source {
        digest: kept.unwrap_or_else(|| name.clone()),
        name,
    }))
}

/// The files of a set's questions; none where an earlier version scored it.
fn kept_files(run: &RunDirectory, set: &str) -> Result<Option<Vec<Located>>, TrainError> {
    let name = format!("evaluation/{set}/{ASKED_FILES}");
    let kept = run.root().join(&name).is_file();
    kept.then(|| run.read_json(&name)).transpose()
}

/// Whether a set of a run may take the answers to these questions: it has none, or those to the
/// same file or dataset, or to a file with the same bytes.
///
/// # Errors
/// Files of the set that cannot be read.
pub fn was_asked(
    run: &RunDirectory,
    set: &str,
    asked: &RunConfig,
    files: &[Located],
) -> Result<bool, TrainError> {
    let kept = run.evaluation(set).join("config.toml");
    if !kept.is_file() {
        return Ok(true);
    }
    let known = RunConfig::read(&kept)?;
    let source = |config: &RunConfig| {
        let custom = &config.data.custom;
        (
            config.data.dataset.clone(),
            custom.test.clone(),
            custom.hub.clone(),
        )
    };
    let digests = |files: &[Located]| -> Vec<String> {
        files.iter().map(|file| file.sha256.clone()).collect()
    };
    let same = kept_files(run, set)?.is_some_and(|known| digests(&known) == digests(files));
    Ok(same || source(&known) == source(asked))
}

/// Whether a set of a run holds the answers to a file with this SHA-256; taken to be where an
/// earlier version scored it.
///
/// # Errors
/// A list of files that cannot be read.
pub fn holds(run: &RunDirectory, set: &str, sha256: &str) -> Result<bool, TrainError> {
    let kept = kept_files(run, set)?;
    Ok(kept.is_none_or(|files| files.iter().any(|file| file.sha256 == sha256)))
}

/// The settings by which a run was asked a set: its own, or those kept beside the answers.
pub(super) fn asked(
    run: &RunDirectory,
    config: &RunConfig,
    dataset: &str,
) -> Result<Option<RunConfig>, TrainError> {
    if dataset == config.data.dataset {
        return Ok(Some(config.clone()));
    }
    let kept = run.evaluation(dataset).join("config.toml");
    kept.is_file().then(|| RunConfig::read(&kept)).transpose()
}
