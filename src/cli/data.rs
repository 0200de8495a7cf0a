//! `uq4ct data check`: what a file of questions holds, before anything is trained on it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use data::check::{BadRow, CheckedFile, CheckedTokens, Overlap, Rendered};
use data::rows;
use serde_json::json;
use train::RunConfig;
use train::config::ConfigLayers;
use train::prepare::{draw_shots, prepare_model};
use train::trial::{FEWEST, QUESTIONS, try_ways};
use train::way::{Free, Trial, Way};

use super::dataset::{FieldArgs, name_dataset};
use super::flags::{PlaceArgs, is_file, listed_dataset};
use super::process::{logging, print, quoted, tell};
use super::short;
use crate::kernels::Told;

/// `uq4ct data ..`
#[derive(Debug, Subcommand)]
pub(super) enum DataVerb {
    /// Rows, answers, repeats, leaks, lengths, and three questions as the model sees them
    Check(CheckArgs),
}

/// Flags of `data check`.
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// Questions in a .jsonl, .json, .csv, .tsv or .parquet file; as --dataset takes them, also
    /// owner/name of the Hub or a task file, with all their splits
    file: PathBuf,
    /// Further files, such as a test set, which must share no question with the first
    #[arg(long, value_name = "FILE")]
    against: Vec<PathBuf>,
    /// Model to count tokens and try prompts with [default: the one that train takes here]; none:
    /// look at the text alone
    #[arg(long)]
    model: Option<String>,
    /// Settings to lay over the defaults; may be repeated
    #[arg(long, value_name = "FILE")]
    config: Vec<PathBuf>,
    /// A single setting, such as data.scoring=cloze; may be repeated
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    /// Questions on which to try the base model with each prompt, to recommend one; 0: no trial
    #[arg(long, value_name = "N", default_value_t = QUESTIONS)]
    tried: usize,
    /// Questions shown as the model sees them
    #[arg(long, default_value_t = 3)]
    examples: usize,
    /// Everything as JSON, every row number too
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    fields: FieldArgs,
    #[command(flatten)]
    places: PlaceArgs,
}

/// Runs `data ..`.
pub(super) fn run(verb: DataVerb) -> Result<ExitCode> {
    logging();
    let DataVerb::Check(args) = verb;
    let (config, free) = settings(&args)?;
    let fields = args.fields.over(&config.data.custom).opened()?;
    let against = args
        .against
        .iter()
        .map(|path| (path.clone(), vec![path.clone()]));
    let splits: Vec<_> = splits(&args, &config)?.into_iter().chain(against).collect();
    let parts = splits.iter().flat_map(|(_, parts)| parts);
    // One that cannot be opened is named where it is read.
    let fields = fields.agreed_by(parts.filter_map(|part| rows::open(part, &[]).ok()))?;
    let files = splits
        .iter()
        .map(|(name, parts)| CheckedFile::read_split(name, parts, &fields));
    let files: Vec<CheckedFile> = files.collect::<Result<_, _>>()?;
    if !args.json {
        files.iter().for_each(|file| print(describe(file)));
        overlaps(&files)
            .for_each(|(one, other, shared)| print(describe_overlap(one, other, &shared)));
    }
    let (tokens, trial) = match args.model.as_deref() {
        Some("none") => (Vec::new(), None),
        _ => (
            tokens(&args, &config, &files)?,
            trial(&args, &config, free, &files)?,
        ),
    };
    let own = Way::of(&config);
    let best = trial.as_ref().and_then(Trial::best).map(|best| best.way);
    let recommended = best.map_or(Vec::new(), |best| best.settings(own));
    if args.json {
        let shared: Vec<_> = overlaps(&files)
            .map(|(one, other, shared)| json!({"files": [one.path, other.path], "shared": shared}))
            .collect();
        print(json!({
            "files": files,
            "overlaps": shared,
            "tokens": tokens,
            "trial": trial,
            "recommended": recommended,
        }));
    } else {
        let pairs = tokens.iter().zip(&files);
        pairs.for_each(|(tokens, file)| print(describe_tokens(tokens, file)));
        if let Some(trial) = &trial {
            print(format_args!(
                "{} on {} questions, with each prompt still open; * is recommended, and train uses it if it wins there too, on at least {FEWEST} training questions\n{trial}\n",
                config.model.name, trial.questions
            ));
        }
    }
    let unusable = files.iter().map(|f| f.bad.len()).sum::<usize>()
        + tokens.iter().map(|t| t.refused.len()).sum::<usize>();
    let empty = files.iter().any(|file| file.usable == 0);
    if !args.json {
        print(match (unusable, empty) {
            (0, false) => format!(
                "Usable: uq4ct train --dataset {}{}{}{}",
                quoted(&args.file.display().to_string()),
                args.fields.flags(),
                given(&args),
                recommended
                    .iter()
                    .map(|setting| format!(" --set {setting}"))
                    .collect::<String>()
            ),
            (0, true) => unanswered(&files),
            (n, _) => format!("Not usable yet: {n} rows to mend."),
        });
    }
    Ok(match unusable == 0 && !empty {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// Why a file is of no use, with the fields of which one may hold the answer.
fn unanswered(files: &[CheckedFile]) -> String {
    let file = files.iter().find(|file| file.usable == 0);
    if let Some(file) = file.filter(|file| file.fields.is_empty()) {
        return format!("Not usable: {} holds no row.", file.path.display());
    }
    let fields = file.map_or(String::new(), |file| file.fields.join(", "));
    format!(
        "Not usable: no row has an answer; the fields are {fields}: name the answer's with --answer-field."
    )
}

/// The flags that train must be given, too.
fn given(args: &CheckArgs) -> String {
    let model = args.model.as_ref().filter(|name| *name != "none");
    let model = model.map(|name| format!(" --model {}", quoted(name)));
    let files = args
        .config
        .iter()
        .map(|file| format!(" --config {}", quoted(&file.display().to_string())));
    let set = args
        .set
        .iter()
        .map(|assignment| format!(" --set {}", quoted(assignment)));
    model.into_iter().chain(files).chain(set).collect()
}

/// The settings that `train` would have, and what they leave free.
fn settings(args: &CheckArgs) -> Result<(RunConfig, Free)> {
    let mut layers = ConfigLayers::default();
    short::lay(&mut layers, &args.places.device()?, args.model.as_deref())?;
    let mut given = ConfigLayers::default();
    for file in &args.config {
        given.file(file)?;
    }
    for assignment in &args.set {
        given.set(assignment)?;
    }
    let free = Free::of(&given);
    layers.layer(given);
    if let Some(model) = &args.model {
        layers.set_text("model.name", model)?;
    }
    let named = args.file.display().to_string();
    if !is_file(&named) && listed_dataset(&named).is_ok() {
        bail!(
            "{named}: is a dataset that this program knows: name a file of your own, owner/name of the Hub, or a task file"
        );
    }
    name_dataset(&mut layers, &named)?;
    Ok((layers.resolve()?, free))
}

/// The files to check, by the name of their split: the file itself, or those of a task or of a
/// dataset of the Hub.
fn splits(args: &CheckArgs, config: &RunConfig) -> Result<Vec<(PathBuf, Vec<PathBuf>)>> {
    let custom = &config.data.custom;
    if custom.task.is_none() && custom.hub.is_none() {
        return Ok(vec![(args.file.clone(), vec![args.file.clone()])]);
    }
    let finder = args.places.finder(&config.model.name);
    let own = config.data.dataset()?;
    let located = own.located(&finder)?;
    let dataset = located.as_deref().unwrap_or(&*own);
    let mut splits = Vec::new();
    for split in dataset.splits() {
        let mut parts = Vec::new();
        for artifact in dataset.parts(*split) {
            parts.extend(finder.find(&artifact)?.into_iter().map(|file| file.path));
        }
        let name = match &parts[..] {
            [file] if custom.hub.is_none() => file.clone(),
            _ => format!("{} {}", args.file.display(), split.name()).into(),
        };
        splits.push((name, parts));
    }
    Ok(splits)
}

/// The base model on a few questions of the first file, in every way that is free.
fn trial(
    args: &CheckArgs,
    config: &RunConfig,
    free: Free,
    files: &[CheckedFile],
) -> Result<Option<Trial>> {
    let questions = files[0].questions.iter();
    let questions: Vec<_> = questions.map(|(_, question)| question.clone()).collect();
    let setup = args.places.finished("".as_ref(), config, Arc::default())?;
    let _compiling = Told::start(tell);
    Ok(try_ways(config, &setup, free, &questions, args.tried)?)
}

fn tokens(
    args: &CheckArgs,
    config: &RunConfig,
    files: &[CheckedFile],
) -> Result<Vec<CheckedTokens>> {
    let mut prepared = prepare_model(config, &args.places.finder(&config.model.name))?;
    let first: Vec<_> = files[0].questions.iter().map(|(_, q)| q.clone()).collect();
    prepared.show(draw_shots(config, &first));
    let examples = |place: usize| if place == 0 { args.examples } else { 0 };
    let files = files.iter().enumerate();
    Ok(files
        .map(|(place, file)| prepared.check(file, examples(place)))
        .collect())
}

/// Every pair of files with what they share.
fn overlaps(files: &[CheckedFile]) -> impl Iterator<Item = (&CheckedFile, &CheckedFile, Overlap)> {
    let (one, others) = files.split_at(1);
    others
        .iter()
        .map(move |other| (&one[0], other, Overlap::of(&one[0], other)))
}

/// The first few of many, in words.
fn few<T>(all: &[T], word: impl Fn(&T) -> String) -> String {
    const SHOWN: usize = 10;
    let shown: Vec<String> = all.iter().take(SHOWN).map(word).collect();
    match all.len() > SHOWN {
        true => format!("{}, and {} more", shown.join(", "), all.len() - SHOWN),
        false => shown.join(", "),
    }
}

fn pair([one, other]: &[usize; 2]) -> String {
    format!("{one} and {other}")
}

fn counts<K: std::fmt::Display>(of: &std::collections::BTreeMap<K, usize>, rows: usize) -> String {
    let share = |n: usize| 100.0 * n as f64 / rows.max(1) as f64;
    let parts: Vec<String> = of
        .iter()
        .map(|(key, n)| format!("{key}: {n} ({:.0} %)", share(*n)))
        .collect();
    parts.join(", ")
}

fn bad_rows(file: &CheckedFile, bad: &[BadRow]) -> String {
    const SHOWN: usize = 20;
    let mut text: String = bad
        .iter()
        .take(SHOWN)
        .map(|b| format!("  {}, row {}: {}\n", file.path.display(), b.row, b.reason))
        .collect();
    if bad.len() > SHOWN {
        text += &format!("  and {} more (--json lists all)\n", bad.len() - SHOWN);
    }
    text
}

fn describe(file: &CheckedFile) -> String {
    let mut text = format!(
        "{}\n  rows: {}, of which {} usable, {} without an answer, {} not usable\n",
        file.path.display(),
        file.rows,
        file.usable,
        file.unanswered,
        file.bad.len()
    );
    if let Some(found) = &file.found {
        text +=
            &format!("  found by itself: {found} (other fields: --question-field and the like)\n");
    }
    text += &bad_rows(file, &file.bad);
    if file.usable == 0 {
        return text;
    }
    let choices = counts(&file.choices, file.usable);
    if file.written {
        text += &format!("  open-ended; accepted answers a row: {choices}\n");
    } else {
        text += &format!("  choices a row: {choices}\n");
        text += &format!("  right answer: {}", counts(&file.answers, file.usable));
        text += &format!(
            "; always the most common one is right {:.1} %\n",
            100.0 * file.majority().unwrap_or(0.0)
        );
    }
    if file.with_context > 0 {
        text += &format!(
            "  with a context: {} (read with data.template=passage)\n",
            file.with_context
        );
    }
    if file.groups > 0 {
        text += &format!("  groups: {}\n", file.groups);
    }
    for (what, pairs) in [
        ("repeated questions, rows", &file.repeats),
        (
            "the same question with another answer, rows",
            &file.contradictions,
        ),
    ] {
        if !pairs.is_empty() {
            text += &format!("  warning: {} {what} {}\n", pairs.len(), few(pairs, pair));
        }
    }
    if !file.equal_choices.is_empty() {
        let rows = few(&file.equal_choices, usize::to_string);
        text += &format!("  warning: a choice stands twice in rows {rows}\n");
    }
    text
}

fn describe_overlap(one: &CheckedFile, other: &CheckedFile, shared: &Overlap) -> String {
    let names = format!("{} and {}", one.path.display(), other.path.display());
    if shared.is_empty() {
        return format!("{names} share no question\n");
    }
    let mut text = String::new();
    if !shared.questions.is_empty() {
        text += &format!(
            "warning: {names} share {} questions, rows {}; training drops them from the earlier split\n",
            shared.questions.len(),
            few(&shared.questions, pair)
        );
    }
    if !shared.groups.is_empty() {
        text += &format!(
            "warning: {names} share groups: {}\n",
            few(&shared.groups, String::clone)
        );
    }
    text
}

fn describe_tokens(tokens: &CheckedTokens, file: &CheckedFile) -> String {
    let mut text = format!("{}, as the model sees it\n", file.path.display());
    if let Some([least, median, most, longest]) = tokens.lengths {
        text += &format!(
            "  tokens a question: {least} to {longest}, median {median}, 95 % at most {most}; the limit of a prompt is {}\n",
            tokens.limit
        );
    }
    if !tokens.shortened.is_empty() {
        let rows: Vec<_> = tokens.shortened.iter().zip(&tokens.lost).collect();
        text += &format!(
            "  warning: {} questions are too long and lose their end, rows {}; raise data.max_tokens\n",
            rows.len(),
            few(&rows, |(row, [lost, whole])| format!(
                "{row} ({lost} of {whole} tokens)"
            ))
        );
    }
    if !tokens.cut.is_empty() {
        text += &format!(
            "  warning: {} answers are longer than the model may write and can never be right, rows {}; raise data.answer_tokens\n",
            tokens.cut.len(),
            few(&tokens.cut, usize::to_string)
        );
    }
    text += &bad_rows(file, &tokens.refused);
    tokens
        .examples
        .iter()
        .for_each(|shown| text += &example(shown));
    text
}

/// A question with its scored tokens in brackets; a star marks the right choice.
fn example(shown: &Rendered) -> String {
    let prompt = shown.prompt.replace('\n', "\n  | ");
    let mut text = format!(
        "  row {}, the tokens in [] are scored, * is right:\n  | {prompt}\n",
        shown.row
    );
    for (choice, pieces) in shown.scored.iter().enumerate() {
        let mark = if choice == shown.answer { '*' } else { ' ' };
        let pieces: String = pieces.iter().map(|piece| format!("[{piece}]")).collect();
        text += &format!("  {mark} {pieces}\n");
    }
    text
}
