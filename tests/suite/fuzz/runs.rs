//! What a run leaves: settings, checkpoints, adapters, predictions, `uq.json`, recorded results.

use std::path::Path;

use burn::prelude::*;
use train::checkpoint;
use train::config::RunConfig;
use train::export::card::Card;
use train::metric::Metrics;
use train::posthoc::PostHoc;
use train::posthoc::abstention::{Abstention, Promise};
use train::posthoc::confidence::Confidence;
use train::posthoc::conformal::{Conformal, Score};
use train::prediction::ScoredRow;
use train::reproduce::archive;
use train::run_directory::{Provenance, RunDirectory, read_predictions};
use train::training;

use super::{Files, files, fuzz, one};
use crate::support::programs::{succeeds, train};
use crate::support::tiny_base;

fn text(error: impl ToString) -> String {
    error.to_string()
}

/// A run of a few steps, exported.
fn run() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    train(
        root.path(),
        "r",
        &[
            "--set",
            "train.max_steps=4",
            "--set",
            "train.checkpoint_every=2",
        ],
    );
    root
}

/// Every file below a directory.
fn all(folder: &Path) -> Files {
    let mut names = Vec::new();
    let mut left = vec![folder.to_path_buf()];
    while let Some(next) = left.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => left.push(path),
                false => names.push(
                    path.strip_prefix(folder)
                        .unwrap()
                        .to_str()
                        .unwrap()
                        .to_owned(),
                ),
            }
        }
    }
    names.retain(|name| !name.ends_with(".lock"));
    files(
        folder,
        &names.iter().map(String::as_str).collect::<Vec<_>>(),
    )
}

#[test]
fn checkpoints() {
    let root = run();
    let mut seed = all(&root.path().join("r"));
    seed.retain(|name, _| {
        name.starts_with("checkpoint/") || name.starts_with("adapter/") || name == "config.toml"
    });
    // With their digests the readers would not be reached.
    seed.retain(|name, _| !name.ends_with(".sha256"));
    assert!(
        seed.keys().any(|name| name.starts_with("checkpoint/optim")),
        "{:?}",
        seed.keys()
    );
    let base = tiny_base(&Device::flex());
    fuzz("checkpoints", &[seed], &["config.toml"], |folder| {
        let (run, config) = RunDirectory::open(folder).map_err(text)?;
        let (newest, damaged) = checkpoint::newest(folder, |_| Ok(()));
        damaged.into_iter().map(text).for_each(drop);
        let newest = newest.ok_or("no whole checkpoint")?;
        checkpoint::model_record(folder, newest.chunk).map_err(text)?;
        training::load(&config, &run, &base, 8).map_err(text)?;
        Ok(())
    });
}

#[test]
fn settings() {
    let root = run();
    let seed = files(
        &root.path().join("r"),
        &["config.toml", "data.json", "environment.json"],
    );
    fuzz("settings", &[seed], &[], |folder| {
        let (run, config) = RunDirectory::open(folder).map_err(text)?;
        config.to_toml();
        run.provenance().map_err(text)?;
        run.provenance_if_written().map_err(text)?;
        run.read_json::<Provenance>("data.json").map_err(text)?;
        Ok(())
    });
}

fn judged(rows: &[ScoredRow]) {
    let mut config = RunConfig::default();
    config.evaluation.bootstrap = 10;
    Metrics::of(rows, config.evaluation.bins, config.bootstrap());
    let confidence = Confidence::fit(rows);
    let sets = Conformal::fit(rows, Score::Aps, 0.1);
    let rule = Abstention::fit(rows, Promise::Coverage { target: 0.5 });
    for row in rows {
        confidence.probability(row);
        sets.set(row);
        if let Ok(rule) = &rule {
            rule.answers(row.confidence());
        }
    }
}

#[test]
fn predictions() {
    let root = run();
    let path = root.path().join("r/evaluation/boolq/predictions.jsonl");
    let whole = std::fs::read_to_string(path).unwrap();
    let few: Vec<&str> = whole.lines().take(6).collect();
    fuzz(
        "predictions",
        &[one("p.jsonl", few.join("\n"))],
        &[],
        |folder| {
            judged(&read_predictions(&folder.join("p.jsonl")).map_err(text)?);
            Ok(())
        },
    );
}

#[test]
fn card() {
    let root = run();
    let root = root.path();
    succeeds(
        root,
        &["export", "r", "--format", "uq4ct", "--output", "out"],
    );
    let rows = read_predictions(&root.join("r/evaluation/boolq/predictions.jsonl")).unwrap();
    fuzz(
        "card",
        &[files(&root.join("out"), &["uq.json"])],
        &[],
        |folder| {
            let card: Card = RunDirectory::at(folder)
                .read_json("uq.json")
                .map_err(text)?;
            if let Some(held_out) = card.held_out {
                for row in &rows {
                    held_out.confidence.probability(row);
                    held_out.conformal_90.as_ref().map(|sets| sets.set(row));
                }
            }
            Ok(())
        },
    );
}

#[test]
fn records() {
    let recorded = Path::new(env!("CARGO_MANIFEST_DIR")).join("results/table5/runs.parquet");
    let seed = one("runs.parquet", std::fs::read(recorded).unwrap());
    fuzz("records", &[seed], &[], |folder| {
        archive::read(&folder.join("runs.parquet"))
            .map(drop)
            .map_err(text)
    });
}
