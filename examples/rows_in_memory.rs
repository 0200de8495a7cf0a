//! Train a LoRA on rows that are in memory, and see what it has learned.
//!
//!     cargo run --example rows_in_memory

use std::error::Error;
use std::path::Path;

use burn::tensor::Device;
use data::MultipleChoice;
use data::split::Splits;
use train::RunConfig;
use train::config::ConfigLayers;
use train::context::Setup;
use train::fine_tune::{RunOutcome, fine_tune};
use train::metric::Metrics;
use train::prepare::prepare_questions;

/// Settings: a preset, and what is changed in it.
pub(crate) fn settings() -> Result<RunConfig, Box<dyn Error>> {
    let mut layers = ConfigLayers::default();
    layers.method("lora")?;
    layers.set_text("model.name", "tiny")?;
    layers.set("data.dataset=custom")?;
    layers.set_text("data.custom.train", "memory")?;
    layers.set("train.epochs=2")?;
    Ok(layers.resolve()?)
}

/// Questions as a program may have them. The answer is the index of a choice.
fn rows(begin: usize, end: usize) -> Vec<MultipleChoice> {
    let choices = || vec!["even".to_string(), "odd".to_string()];
    let row = |n: usize| MultipleChoice {
        id: format!("row-{n}"),
        ..MultipleChoice::new(&format!("What kind of number is {n}?"), choices(), n % 2)
    };
    (begin..end).map(row).collect()
}

/// Trains in `run`, where the adapter, the figures and the report then lie.
pub(crate) fn trained(run: &Path) -> Result<(Metrics, Metrics), Box<dyn Error>> {
    let config = settings()?;
    let setup = Setup::new(run, Device::flex());
    let splits = Splits {
        train: rows(0, 60),
        held_out: rows(60, 80),
        test: rows(80, 100),
        ..Splits::default()
    };
    let prepared = prepare_questions(&config, &setup.finder, splits)?;
    match fine_tune(&config, &setup, prepared)? {
        RunOutcome::Finished(scored) => Ok((scored.base, scored.tuned)),
        RunOutcome::Stopped(steps) => Err(format!("stopped after {steps} steps").into()),
    }
}

#[allow(dead_code)]
fn main() -> Result<(), Box<dyn Error>> {
    let (base, tuned) = trained(Path::new("runs/rows-in-memory"))?;
    println!(
        "before {:?}, after {:?}",
        base.accuracy.value, tuned.accuracy.value
    );
    Ok(())
}
