//! `uq4ct models`: the models that have a short name.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use data::source::Finder;
use data::source::models::{NamedModel, named};
use serde::Serialize;

use super::process::print;

/// Flags of `models`.
#[derive(Debug, Args)]
pub(super) struct ModelsArgs {
    /// A JSON line a model
    #[arg(long)]
    json: bool,
}

/// A model in short.
#[derive(Debug, Serialize)]
struct Row {
    name: &'static str,
    repository: &'static str,
    /// Parameters in millions.
    millions: u32,
    instruct: bool,
    licence: &'static str,
    gated: bool,
    /// The Python package that carries the model, where one does.
    package: Option<&'static str>,
    cached: bool,
}

/// Runs `models`.
pub(super) fn run(args: &ModelsArgs) -> Result<ExitCode> {
    let finder = Finder::from_env();
    let rows: Vec<Row> = named().iter().map(|model| row(model, &finder)).collect();
    if args.json {
        for row in &rows {
            print(serde_json::to_string(row)?);
        }
        return Ok(ExitCode::SUCCESS);
    }
    print(table(&rows));
    Ok(ExitCode::SUCCESS)
}

fn row(model: &NamedModel, finder: &Finder) -> Row {
    Row {
        name: model.name,
        repository: model.repository,
        millions: model.millions,
        instruct: model.instruct,
        licence: model.licence,
        gated: model.gated,
        package: model.package(),
        cached: model.is_cached(finder),
    }
}

fn table(rows: &[Row]) -> String {
    let head = [
        "name",
        "parameters",
        "kind",
        "licence",
        "here",
        "on the Hub",
    ]
    .map(String::from);
    let cells = rows.iter().map(|row| {
        [
            row.name.to_owned(),
            match row.millions >= 1000 {
                true => format!("{:.1} B", f64::from(row.millions) / 1000.0),
                false => format!("{} M", row.millions),
            },
            if row.instruct { "instruct" } else { "base" }.into(),
            match row.gated {
                true => format!("{}, gated", row.licence),
                false => row.licence.to_owned(),
            },
            if row.cached { "yes" } else { "-" }.into(),
            row.repository.to_owned(),
        ]
    });
    let lines: Vec<[String; 6]> = std::iter::once(head).chain(cells).collect();
    let widths: [usize; 6] = std::array::from_fn(|column| {
        let cells = lines.iter().map(|line| line[column].chars().count());
        cells.max().unwrap_or(0)
    });
    let mut text = String::new();
    for line in &lines {
        let padded = line
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        text += padded.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text += "\n\"here\": its files lie in a cache. A gated one needs its licence accepted on the Hub, and HF_TOKEN.\nAny other: --model owner/name, a directory or a .gguf file.\n";
    text
}
