//! [`Records`] as one compressed columnar file (Parquet with zstd), small enough to lie beside a
//! table.
//!
//! A row is one answered question or one line of a training's metrics:
//!
//! | columns | content |
//! |---|---|
//! | `run` | identity of the training or the evaluation |
//! | `part` | the scored set, or the split that the metrics are of |
//! | `settings`, `provenance`, `environment` | how the run was made (TOML, JSON, JSON) |
//! | `sources`, `questions` | of the scored set |
//! | `forward_passes`, `seconds_per_question` | what the answers of the set cost |
//! | `id`, `label`, `logits`, `flu`, `agreement` | of the answer |
//! | `rounding` | see below |
//! | `text`, `log_probabilities` | of an answer that the model wrote |
//! | `step`, `seconds`, `metrics` | a point of the training's curves |
//!
//! What is said of a run or of a set is the same in each of its rows.
//!
//! The probabilities of an answer's choices are the softmax of its logits, computed in f64 and
//! rounded to f32. `rounding` says by how many last places the model's own f32 softmax differs from
//! that: with it, every value that `predictions.jsonl` holds comes back, to the last digit.
mod decode;
mod encode;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::path::Path;

use serde::Serialize;

use super::records::Records;
use crate::error::TrainError;
use crate::run_directory;

/// Name of the file beside a recorded table.
pub const ARCHIVE: &str = "runs.parquet";

/// Writes records, whole or not at all. The same records give the same bytes.
///
/// # Errors
/// A file that cannot be written, or a scored set without questions.
pub fn write(path: &Path, records: &Records) -> Result<(), TrainError> {
    let fail = |e: String| TrainError::file(path, e);
    let rows = encode::rows(records).map_err(fail)?;
    let bytes = encode::encode(&rows).map_err(|e| fail(e.to_string()))?;
    run_directory::write(path, &bytes)
}

/// Reads records.
///
/// # Errors
/// A file that is absent, damaged, or of other columns.
pub fn read(path: &Path) -> Result<Records, TrainError> {
    let file = File::open(path).map_err(|e| TrainError::file(path, e))?;
    let fail = |reason: String| {
        let remedy = "restore it from version control, or record the table again";
        TrainError::file(path, format!("is damaged ({reason}): {remedy}"))
    };
    // The parquet crate panics on some damaged pages; a damaged file is an error like any other.
    let _at_hand = fault::reading(path);
    fault::caught(|| decode::decode(file))
        .unwrap_or_else(|_| Err("its pages cannot be read".into()))
        .map_err(fail)
}

fn json(value: &impl Serialize) -> Result<String, String> {
    serde_json::to_string(value).map_err(|e| e.to_string())
}

/// As `predictions.jsonl` holds them: the model computes in f32.
fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|value| *value as f32).collect()
}

/// As `predictions.jsonl` is read: the shortest decimal that means this f32, as an f64.
fn widen(value: f32) -> Result<f64, String> {
    json(&value).and_then(|text| serde_json::from_str(&text).map_err(|e| format!("{text}: {e}")))
}

fn widen_all(values: Vec<f32>) -> Result<Vec<f64>, String> {
    values.into_iter().map(widen).collect()
}

/// The softmax of logits in f64, rounded to f32. libm's exponential is the same on every machine.
fn softmax(logits: &[f32]) -> Vec<f32> {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exponentials: Vec<f64> = logits
        .iter()
        .map(|logit| libm::exp(f64::from(*logit) - f64::from(highest)))
        .collect();
    let sum: f64 = exponentials.iter().sum();
    exponentials.iter().map(|e| (e / sum) as f32).collect()
}

/// By how many last places probabilities differ from the softmax of logits. Exact for any f32.
fn rounding(logits: &[f32], probabilities: &[f32]) -> Vec<i32> {
    let places = |value: f32| value.to_bits() as i32;
    let pairs = softmax(logits).into_iter().zip(probabilities);
    pairs
        .map(|(expected, value)| places(*value).wrapping_sub(places(expected)))
        .collect()
}

/// The probabilities that [`rounding`] was computed from.
fn rounded(logits: &[f32], rounding: &[i32]) -> Vec<f32> {
    let pairs = softmax(logits).into_iter().zip(rounding);
    pairs
        .map(|(expected, places)| {
            f32::from_bits((expected.to_bits() as i32).wrapping_add(*places) as u32)
        })
        .collect()
}
