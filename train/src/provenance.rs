//! From what a run is made: written before its first step, compared when it goes on or is asked.

use std::path::Path;

use data::EncodedQuestion;
use data::source::{Located, SourceKind, sha256};
use model::AdapterConfig;

use crate::config::RunConfig;
use crate::context::Setup;
use crate::error::TrainError;
use crate::prepare::{LeftOut, Prepared};
use crate::registry;
use crate::run_directory::{ChatRecord, Provenance, RunDirectory, SHOTS, TRIAL};

/// Writes `environment.json`, `data.json` and `seen.bin`, `trial.json` where ways of asking were
/// tried, and `shots.json` where examples stand before the questions.
///
/// # Errors
/// Files that cannot be read or written.
pub fn record(
    run: &RunDirectory,
    setup: &Setup,
    config: &RunConfig,
    prepared: &Prepared,
) -> Result<(), TrainError> {
    let adapter = registry::build(config)?.adapter();
    let shortened = |rows: &[EncodedQuestion]| rows.iter().filter(|q| q.shortened).count();
    let mut left_out = prepared.left_out.clone();
    // Other datasets that were scored before.
    let known = run.provenance_if_written()?.map(|known| known.left_out);
    let own = config.data.title();
    left_out.extend(known.into_iter().flatten().filter(|q| q.dataset != own));
    run.write_environment(&setup.environment)?;
    if let Some(shots) = prepared.shots() {
        run.keep_json(SHOTS, shots)?;
    }
    if let Some(trial) = &prepared.trial {
        run.keep_json(TRIAL, trial)?;
    }
    let splits = &prepared.splits;
    let learned = match adapter != AdapterConfig::None && config.train.max_steps != Some(0) {
        true => &*splits.train,
        false => &[],
    };
    run.write_seen(learned.iter().chain(&splits.held_out))?;
    run.write_provenance(&Provenance {
        model: prepared.model_files.clone(),
        chat: ChatRecord::of(prepared),
        prompt: match prepared.test.first() {
            Some(question) => Some(prepared.tokenizer().decode(&question.prompt)?),
            None => None,
        },
        adapter: started_from(run, config)?,
        split: splits.account.clone(),
        shortened: [
            shortened(&prepared.train),
            shortened(&prepared.held_out),
            shortened(&prepared.test),
        ],
        answers_cut: prepared.answers_cut(),
        left_out,
        base_parameters: prepared.model.base_parameters(),
        trainable_parameters: adapter.parameters(&prepared.model),
    })
}

/// Adds to `data.json` which questions of other datasets are left out.
///
/// # Errors
/// A file that cannot be read or written.
pub fn record_left_out<'a>(
    run: &RunDirectory,
    others: impl Iterator<Item = &'a [LeftOut]>,
) -> Result<(), TrainError> {
    let mut known = run.provenance()?;
    let before = known.left_out.len();
    for one in others.flatten() {
        if !known.left_out.contains(one) {
            known.left_out.push(one.clone());
        }
    }
    match known.left_out.len() == before {
        true => Ok(()),
        false => run.write_provenance(&known),
    }
}

/// The files of `adapter.from`; once the run has begun, those that it began from.
fn started_from(run: &RunDirectory, config: &RunConfig) -> Result<Vec<Located>, TrainError> {
    let Some(directory) = &config.adapter.from else {
        return Ok(Vec::new());
    };
    if let Some(known) = run.provenance_if_written()?
        && !known.adapter.is_empty()
    {
        return Ok(known.adapter);
    }
    let files = model::exchange::files(directory);
    files
        .into_iter()
        .map(|path| {
            Ok(Located {
                sha256: sha256(&path)?,
                origin: path.display().to_string(),
                source: SourceKind::Local,
                path,
            })
        })
        .collect()
}

/// Refuses a run that was trained on another base model, whose adapter would not fit. Gives what
/// the run is made of.
///
/// # Errors
/// No readable `data.json`, or digests that differ from it.
pub fn same_model(prepared: &Prepared, run: &RunDirectory) -> Result<Provenance, TrainError> {
    let known = run.provenance()?;
    same("model", run, &known.model, &prepared.model_files)?;
    same_chat(run, &known, prepared)?;
    Ok(known)
}

/// Refuses to ask a run whose task file has changed: it would put other questions than those that
/// were learned.
///
/// # Errors
/// A task file that cannot be read, or a digest that differs from the run's.
pub fn same_task(
    config: &RunConfig,
    known: &Provenance,
    run: &RunDirectory,
) -> Result<(), TrainError> {
    match &config.data.custom.task {
        Some(task) => unchanged(run, known, [(&**task, &*sha256(task)?)]),
        None => Ok(()),
    }
}

/// Refuses files, each with its SHA-256, that have changed since a run read them; others it does
/// not know.
///
/// # Errors
/// The first such file.
pub fn unchanged<'a>(
    run: &RunDirectory,
    known: &Provenance,
    files: impl IntoIterator<Item = (&'a Path, &'a str)>,
) -> Result<(), TrainError> {
    for (file, digest) in files {
        // The parts of one bundled file are recorded under one path.
        let recorded = known.split.files.iter().filter(|known| known.path == file);
        let mut differ = recorded.map(|known| known.sha256 != digest).peekable();
        if differ.peek().is_some() && differ.all(|differs| differs) {
            return Err(changed(file, run, "train again"));
        }
    }
    Ok(())
}

/// A file that is not what a run was made with, and what to do besides putting it back.
pub(crate) fn changed(file: &Path, run: &RunDirectory, besides: &str) -> TrainError {
    let run = run.root().display();
    let reason =
        format!("has changed since {run} was made with it: put it back as it was, or {besides}");
    TrainError::file(file, reason)
}

/// Refuses to go on with a run on other files than it began with.
///
/// # Errors
/// A `data.json` that cannot be read, or digests that differ from it.
pub fn same_files(prepared: &Prepared, run: &RunDirectory) -> Result<(), TrainError> {
    // Stopped before it was written: nothing was trained yet.
    let Some(known) = run.provenance_if_written()? else {
        return Ok(());
    };
    same("model", run, &known.model, &prepared.model_files)?;
    same_chat(run, &known, prepared)?;
    let found = &prepared.splits.account.files;
    same("data", run, &known.split.files, found)
}

/// Another chat template asks other questions.
fn same_chat(run: &RunDirectory, known: &Provenance, found: &Prepared) -> Result<(), TrainError> {
    let template = |chat: Option<&ChatRecord>| chat.map(|chat| chat.template.clone());
    let found = ChatRecord::of(found);
    if template(known.chat.as_ref()) == template(found.as_ref()) {
        return Ok(());
    }
    let reason = "the model's chat template is not the one that the run was trained with: put the model's own tokenizer_config.json or chat_template.jinja back, or start another run";
    Err(TrainError::file(run.root(), reason))
}

fn same(
    what: &str,
    run: &RunDirectory,
    known: &[Located],
    found: &[Located],
) -> Result<(), TrainError> {
    let pairs = known.iter().zip(found);
    let mut differ = pairs.filter(|(known, found)| known.sha256 != found.sha256);
    if let Some((_, file)) = differ.find(|(known, found)| known.path == found.path) {
        return Err(changed(&file.path, run, "start another run"));
    }
    let Some([known, found]) = differing(known, found) else {
        return Ok(());
    };
    let reason = format!(
        "the run's {what} came from {known}, but now {found} would serve: give the same --data-dir or --model, or start another run"
    );
    Err(TrainError::file(run.root(), reason))
}

/// The origins of two lists of files, if their digests differ.
pub fn differing(known: &[Located], found: &[Located]) -> Option<[String; 2]> {
    let same = known
        .iter()
        .map(|f| &f.sha256)
        .eq(found.iter().map(|f| &f.sha256));
    let origins = |files: &[Located]| {
        let names: Vec<&str> = files.iter().map(|f| f.origin.as_str()).collect();
        names.join(", ")
    };
    (!same).then(|| [origins(known), origins(found)])
}
