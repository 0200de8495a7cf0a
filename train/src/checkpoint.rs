//! Resume at an optimizer step, inside Burn's Learner.
//!
//! Burn checkpoints model, optimizer and schedule once a Learner epoch, which here is a chunk of
//! optimizer steps. Beside each checkpoint lies a position file that says how many optimizer steps
//! it holds. It is written last, so a checkpoint without one is not used. Neither is one with a
//! part that cannot be read: the run goes on from the checkpoint before.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use burn::lr_scheduler::LrSchedulerRecord;
use burn::optim::OptimizerRecord;
use burn::store::ModuleRecord;
use burn::train::EarlyStoppingStrategy;
use burn::train::metric::store::EventStoreClient;
use data::loader::LoaderState;
use serde::{Deserialize, Serialize};

use crate::error::TrainError;
use crate::telemetry::Telemetry;

/// A whole checkpoint, from which training can be resumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// The Learner epoch that the checkpoint closes.
    pub chunk: usize,
    /// Optimizer steps done at the checkpoint.
    pub steps: usize,
}

#[derive(Serialize, Deserialize)]
struct Position {
    steps: usize,
}

fn folder(run: &Path) -> PathBuf {
    run.join("checkpoint")
}

/// The newest whole checkpoint of a run.
pub fn latest(run: &Path) -> Option<Checkpoint> {
    let mut chunks = chunks(run).into_iter();
    chunks.find_map(|chunk| read(run, chunk).ok())
}

/// Why each checkpoint that is newer than the newest whole one cannot be gone on from.
pub fn damaged(run: &Path) -> Vec<TrainError> {
    let chunks = chunks(run).into_iter();
    chunks.map_while(|chunk| read(run, chunk).err()).collect()
}

/// The chunks of all checkpoints, the newest first.
fn chunks(run: &Path) -> Vec<usize> {
    let entries = fs::read_dir(folder(run)).into_iter().flatten();
    let mut found: Vec<usize> = entries
        .filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            let chunk = name.strip_prefix("position-")?.strip_suffix(".json")?;
            chunk.parse().ok()
        })
        .collect();
    found.sort_unstable_by(|one, other| other.cmp(one));
    found
}

/// A checkpoint whose parts are all there and can be read.
fn read(run: &Path, chunk: usize) -> Result<Checkpoint, TrainError> {
    let _at_hand = fault::reading(&folder(run));
    let at = |name: &str| folder(run).join(format!("{name}-{chunk}.bpk"));
    let (model, optimizer, scheduler) = (at("model"), at("optim"), at("scheduler"));
    ModuleRecord::load(&model).map_err(|e| TrainError::file(&model, e))?;
    OptimizerRecord::load(&optimizer).map_err(|e| TrainError::file(&optimizer, e))?;
    LrSchedulerRecord::load(&scheduler).map_err(|e| TrainError::file(&scheduler, e))?;
    let path = position(run, chunk);
    let text = fs::read_to_string(&path).map_err(|e| TrainError::file(&path, e))?;
    let Position { steps } = serde_json::from_str(&text).map_err(|e| TrainError::file(&path, e))?;
    Ok(Checkpoint { chunk, steps })
}

/// The model's record of a checkpoint.
///
/// # Errors
/// A file that cannot be read.
pub fn model_record(run: &Path, checkpoint: Checkpoint) -> Result<ModuleRecord, TrainError> {
    let path = folder(run).join(format!("model-{}.bpk", checkpoint.chunk));
    let _at_hand = fault::reading(&path);
    ModuleRecord::load(&path).map_err(|e| TrainError::file(path, e))
}

fn position(run: &Path, chunk: usize) -> PathBuf {
    folder(run).join(format!("position-{chunk}.json"))
}

/// Runs after each of the Learner's checkpoints: writes its position, and ends training if a stop
/// was asked for. A stop that went through Burn's interrupter would leave before the checkpoint.
#[derive(Clone)]
pub struct CloseChunk {
    /// Directory of the run.
    pub run: PathBuf,
    /// The loader's position and wish to stop.
    pub state: Arc<LoaderState>,
    /// Knows whether training has failed: such a checkpoint must never be resumed from.
    pub telemetry: Telemetry,
    /// Optimizer steps after which the adapter is kept.
    pub snapshots: Vec<usize>,
}

/// The file that keeps the adapter of an optimizer step.
pub fn snapshot(run: &Path, step: usize) -> PathBuf {
    run.join("adapter").join(format!("snapshot-{step}.bpk"))
}

/// Keeps a checkpoint's model. Burn writes it on another thread, so it may not be whole yet.
fn keep(run: &Path, checkpoint: Checkpoint) -> Result<(), TrainError> {
    let to = snapshot(run, checkpoint.steps);
    let fail = |e: &dyn std::fmt::Display| TrainError::file(&to, e.to_string());
    fs::create_dir_all(run.join("adapter")).map_err(|e| fail(&e))?;
    for _ in 0..600 {
        if let Ok(record) = model_record(run, checkpoint) {
            let part = to.with_extension("part.bpk");
            record.save(&part).map_err(|e| fail(&e))?;
            return fs::rename(&part, &to).map_err(|e| fail(&e));
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    Err(fail(&"its checkpoint was not written within a minute"))
}

impl EarlyStoppingStrategy for CloseChunk {
    fn should_stop(&mut self, chunk: usize, _: &EventStoreClient) -> bool {
        if self.telemetry.failure().is_some() {
            return true;
        }
        let steps = self.state.steps_done.load(Ordering::SeqCst);
        // Before the position: a run that goes on from here will not pass this step again.
        if self.snapshots.contains(&steps)
            && let Err(error) = keep(&self.run, Checkpoint { chunk, steps })
        {
            self.telemetry.fail(error.to_string());
            return true;
        }
        let written = serde_json::to_string(&Position { steps })
            .map_err(std::io::Error::from)
            .and_then(|text| fs::write(position(&self.run, chunk), text));
        if let Err(error) = written {
            tracing::warn!("checkpoint {chunk} cannot be resumed from: {error}");
        }
        if let Some(old) = chunk.checked_sub(2) {
            // Burn keeps the last two checkpoints.
            let _ = fs::remove_file(position(&self.run, old));
        }
        self.state.stop.load(Ordering::SeqCst)
    }
}
