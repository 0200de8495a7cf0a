//! `uq4ct download`: models and questions ahead of time, for a machine that has no network later.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use data::dataset::{self, custom::Custom};
use data::source::{Finder, Located, models};
use serde_json::json;

use super::flags::{self, SourceArgs};
use super::process::{logging, print};
use super::usage::wrong;

/// Flags of `download`.
#[derive(Debug, Args)]
pub(super) struct DownloadArgs {
    /// Models, separated by commas: short names or owner/name on the Hub
    #[arg(long, value_delimiter = ',', value_parser = flags::model)]
    model: Vec<String>,
    /// Datasets, separated by commas
    #[arg(long, value_delimiter = ',', value_parser = flags::listed_dataset)]
    dataset: Vec<String>,
    /// Branch, tag or commit of the models on the Hub
    #[arg(long, default_value = "main")]
    revision: String,
    /// One JSON line per file: model or dataset, path, origin, SHA-256
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    sources: SourceArgs,
}

/// Runs `download`.
pub(super) fn run(args: &DownloadArgs) -> Result<ExitCode> {
    logging();
    if args.model.is_empty() && args.dataset.is_empty() {
        return Err(wrong(
            "nothing to fetch: give --model, --dataset or both; `uq4ct models` lists models",
        ));
    }
    // Alone, the made-up model asks for made-up questions, as in training.
    let tiny = !args.model.is_empty() && args.model.iter().all(|name| name == "tiny");
    let finder = args.sources.finder(if tiny { "tiny" } else { "" });
    for name in args.model.iter().filter(|name| *name != "tiny") {
        let found = models::find(name, &args.revision, &finder)?;
        // A chat template is small, and may be asked for later.
        let chat = models::find_chat_files(name, &args.revision, &found, &finder);
        say(args, name, &found.files);
        say(args, name, &chat.unwrap_or_default());
    }
    for name in &args.dataset {
        say(args, name, &questions(name, &finder)?);
    }
    Ok(ExitCode::SUCCESS)
}

/// The files of every split that a training of a dataset reads.
fn questions(name: &str, finder: &Finder) -> Result<Vec<Located>> {
    let dataset = dataset::find(name, &Custom::default())?;
    let mut files = Vec::new();
    for split in dataset.splits() {
        files.extend(dataset::load(&*dataset, *split, finder)?.located);
    }
    Ok(files)
}

fn say(args: &DownloadArgs, name: &str, files: &[Located]) {
    for file in files {
        if args.json {
            print(json!({
                "of": name,
                "path": file.path,
                "origin": file.origin,
                "sha256": file.sha256,
            }));
        } else {
            print(format_args!(
                "{name}: {} from {}",
                file.path.display(),
                file.origin
            ));
        }
    }
}
