//! Resume at an optimizer step, inside Burn's Learner.
//!
//! Burn checkpoints model, optimizer and schedule once a Learner epoch, which here is a chunk of
//! optimizer steps. Whoever writes the last of a checkpoint's parts closes it ([`Closing`]): a
//! position file says how many optimizer steps it holds, and `digests-<chunk>.sha256` lists the
//! parts and the position. A checkpoint without a position is not used. Neither is one with a part
//! that is missing, differs from its digest or cannot be read: the run goes on from the checkpoint
//! before. Checkpoints of earlier versions have no digests; their parts are read instead.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use burn::lr_scheduler::LrSchedulerRecord;
use burn::optim::OptimizerRecord;
use burn::store::ModuleRecord;
use burn::train::EarlyStoppingStrategy;
use burn::train::checkpoint::{
    Checkpoint as Record, Checkpointer, CheckpointerError, FileCheckpointer,
};
use burn::train::metric::store::EventStoreClient;
use data::loader::LoaderState;
use serde::{Deserialize, Serialize};

use crate::error::TrainError;
use crate::run_directory::{Digests, FIRST_ANSWERS, METRICS, RunDirectory, digest};
use crate::telemetry::Telemetry;

/// A whole checkpoint, from which training can be resumed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The Learner epoch that the checkpoint closes.
    pub chunk: usize,
    /// Optimizer steps done at the checkpoint.
    pub steps: usize,
    /// SHA-256 of the run's logs as they were then, by file.
    pub logs: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Position {
    steps: usize,
    #[serde(default)]
    logs: BTreeMap<String, String>,
}

/// Burn's names of a checkpoint's parts.
const PARTS: [&str; 3] = ["model", "optim", "scheduler"];

fn folder(run: &Path) -> PathBuf {
    run.join("checkpoint")
}

fn part(name: &str, chunk: usize) -> String {
    format!("{name}-{chunk}.bpk")
}

fn position(chunk: usize) -> String {
    format!("position-{chunk}.json")
}

fn digests(run: &Path, chunk: usize) -> Digests {
    Digests::named(&folder(run), &format!("digests-{chunk}.sha256"))
}

/// Whether a run has a checkpoint to go on from.
pub fn has_begun(run: &Path) -> bool {
    let any = |_| Ok(());
    chunks(run)
        .iter()
        .any(|chunk| read(run, *chunk, any).is_ok())
}

/// The newest whole checkpoint of a run, and why each newer one cannot be gone on from. `fits` says
/// what is wrong with a model's record.
pub fn newest(
    run: &Path,
    fits: impl Fn(ModuleRecord) -> Result<(), String>,
) -> (Option<Checkpoint>, Vec<TrainError>) {
    let mut damaged = Vec::new();
    for chunk in chunks(run) {
        match read(run, chunk, &fits) {
            Ok(found) => return (Some(found), damaged),
            Err(error) => damaged.push(error),
        }
    }
    (None, damaged)
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

/// A checkpoint whose parts are all there, as they were written, and can be read.
fn read(
    run: &Path,
    chunk: usize,
    fits: impl Fn(ModuleRecord) -> Result<(), String>,
) -> Result<Checkpoint, TrainError> {
    let _at_hand = fault::reading(&folder(run));
    let listed = digests(run, chunk);
    if listed.exists() {
        for name in PARTS {
            listed.require(&part(name, chunk))?;
        }
        listed.require(&position(chunk))?;
    }
    let at = |name: &str| folder(run).join(part(name, chunk));
    let [model, optimizer, scheduler] = PARTS.map(at);
    let record = ModuleRecord::load(&model).map_err(|e| TrainError::file(&model, e))?;
    fits(record).map_err(|e| TrainError::file(&model, e))?;
    OptimizerRecord::load(&optimizer).map_err(|e| TrainError::file(&optimizer, e))?;
    LrSchedulerRecord::load(&scheduler).map_err(|e| TrainError::file(&scheduler, e))?;
    let path = folder(run).join(position(chunk));
    let text = fs::read_to_string(&path).map_err(|e| TrainError::file(&path, e))?;
    let Position { steps, logs } =
        serde_json::from_str(&text).map_err(|e| TrainError::file(&path, e))?;
    Ok(Checkpoint { chunk, steps, logs })
}

/// The model's record of a checkpoint.
///
/// # Errors
/// A file that cannot be read.
pub fn model_record(run: &Path, chunk: usize) -> Result<ModuleRecord, TrainError> {
    let path = folder(run).join(part("model", chunk));
    let _at_hand = fault::reading(&path);
    ModuleRecord::load(&path).map_err(|e| TrainError::file(path, e))
}

/// The file that keeps the adapter of an optimizer step, below the run's directory.
pub fn snapshot(step: usize) -> String {
    format!("adapter/snapshot-{step}.bpk")
}

/// Keeps a checkpoint's model. Burn writes it on another thread, so it may not be whole yet.
fn keep(run: &Path, chunk: usize, step: usize) -> Result<(), TrainError> {
    let name = snapshot(step);
    let fail = |reason: String| TrainError::file(run.join(&name), reason);
    for _ in 0..600 {
        if let Ok(record) = model_record(run, chunk) {
            let save = |part: &Path| record.save(part).map_err(|e| fail(e.to_string()));
            return RunDirectory::at(run).digests().put_with(&name, save);
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    Err(fail(
        "its checkpoint was not written within a minute".into(),
    ))
}

/// Closes each checkpoint once its parts are written. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Closing {
    run: PathBuf,
    open: Arc<(Mutex<BTreeMap<usize, Open>>, Condvar)>,
}

/// What is known of a checkpoint.
#[derive(Debug, Default)]
struct Open {
    /// The parts that are written.
    parts: Vec<&'static str>,
    position: Option<Position>,
    end: Option<End>,
}

/// How the writing of a checkpoint ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Whole,
    Failed,
}

impl Closing {
    /// For the checkpoints of a run.
    pub fn new(run: &Path) -> Self {
        Self {
            run: run.to_path_buf(),
            open: Arc::default(),
        }
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<usize, Open>> {
        self.open.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes down what came, and closes the checkpoint if that was the last of it.
    fn came(&self, chunk: usize, what: impl FnOnce(&mut Open)) {
        let mut all = self.open();
        let known = all.entry(chunk).or_default();
        what(known);
        let whole = PARTS.iter().all(|part| known.parts.contains(part));
        let Some(position) = known.position.take_if(|_| whole) else {
            return;
        };
        known.end = Some(match self.close(chunk, &position) {
            Ok(()) => End::Whole,
            Err(error) => {
                tracing::warn!("checkpoint {chunk} cannot be resumed from: {error}");
                End::Failed
            }
        });
        all.retain(|known, _| *known + 2 > chunk);
        self.open.1.notify_all();
    }

    fn close(&self, chunk: usize, found: &Position) -> Result<(), TrainError> {
        let path = folder(&self.run).join(position(chunk));
        let text = serde_json::to_string(found).map_err(|e| TrainError::file(&path, e))?;
        let parts = PARTS.map(|name| part(name, chunk));
        let listed = digests(&self.run, chunk);
        listed.list(&parts.each_ref().map(String::as_str))?;
        // Last: it says that the checkpoint is whole.
        listed.put(&position(chunk), text.as_bytes())?;
        // Burn keeps the last two checkpoints.
        if let Some(old) = chunk.checked_sub(2) {
            forget(&self.run, old);
        }
        Ok(())
    }

    /// A part cannot be written: nobody is to wait for this checkpoint.
    fn failed(&self, chunk: usize) {
        self.open().entry(chunk).or_default().end = Some(End::Failed);
        self.open.1.notify_all();
    }

    /// Waits until a checkpoint is closed. False where it could not be written.
    fn wait(&self, chunk: usize) -> bool {
        let mut all = self.open();
        while all.get(&chunk).is_some_and(|known| known.end.is_none()) {
            let woken = self.open.1.wait(all);
            all = woken.unwrap_or_else(PoisonError::into_inner);
        }
        all.get(&chunk)
            .is_none_or(|known| known.end == Some(End::Whole))
    }
}

/// Removes what makes a checkpoint one.
fn forget(run: &Path, chunk: usize) {
    let _ = fs::remove_file(folder(run).join(position(chunk)));
    let _ = digests(run, chunk).remove();
}

/// Removes the checkpoints that are newer than the one which the training goes on from: their
/// chunks are trained again.
pub fn forget_newer(run: &Path, from: Option<&Checkpoint>) {
    let newest = from.map_or(0, |checkpoint| checkpoint.chunk);
    for chunk in chunks(run).into_iter().filter(|chunk| *chunk > newest) {
        forget(run, chunk);
    }
}

/// Writes one part of every checkpoint as Burn does, and says when it is written.
pub struct Part {
    files: FileCheckpointer,
    name: &'static str,
    closing: Closing,
}

/// Writers of a checkpoint's model, optimizer and schedule.
pub fn parts(closing: &Closing) -> [Part; 3] {
    PARTS.map(|name| Part {
        files: FileCheckpointer::new(folder(&closing.run), name),
        name,
        closing: closing.clone(),
    })
}

impl<R: Record> Checkpointer<R> for Part {
    fn save(&self, chunk: usize, record: R) -> Result<(), CheckpointerError> {
        let saved = self.files.save(chunk, record);
        if saved.is_err() {
            self.closing.failed(chunk);
            return saved;
        }
        self.closing
            .came(chunk, |known| known.parts.push(self.name));
        Ok(())
    }

    fn delete(&self, chunk: usize) -> Result<(), CheckpointerError> {
        // The next one must be whole before this one goes.
        match self.closing.wait(chunk + 1) {
            true => Checkpointer::<R>::delete(&self.files, chunk),
            false => Ok(()),
        }
    }

    fn restore(&self, chunk: usize) -> Result<R, CheckpointerError> {
        self.files.restore(chunk)
    }
}

/// Runs after each of the Learner's checkpoints: says how many steps it holds, and ends training if
/// a stop was asked for. A stop that went through Burn's interrupter would leave before the
/// checkpoint.
#[derive(Clone)]
pub struct CloseChunk {
    /// Closes the checkpoints.
    pub closing: Closing,
    /// The loader's position and wish to stop.
    pub state: Arc<LoaderState>,
    /// Knows whether training has failed: such a checkpoint must never be resumed from.
    pub telemetry: Telemetry,
    /// Optimizer steps after which the adapter is kept.
    pub snapshots: Vec<usize>,
}

impl CloseChunk {
    /// The digests of the logs as they are now.
    fn logs(&self) -> BTreeMap<String, String> {
        let digest_of = |name: &str| {
            let bytes = fs::read(self.closing.run.join(name)).ok()?;
            Some((name.to_owned(), digest(&bytes)))
        };
        [METRICS, FIRST_ANSWERS]
            .into_iter()
            .filter_map(digest_of)
            .collect()
    }
}

impl EarlyStoppingStrategy for CloseChunk {
    fn should_stop(&mut self, chunk: usize, _: &EventStoreClient) -> bool {
        let steps = self.state.steps_done.load(Ordering::SeqCst);
        // The numbers come on another thread: a step that spoiled the weights must be known before
        // its checkpoint counts.
        if !self.telemetry.wait_for(steps) {
            let reason = format!("the numbers of step {steps} did not come within a minute");
            self.telemetry.fail(reason);
        }
        if self.telemetry.failure().is_some() {
            return true;
        }
        // Before the position: a run that goes on from here will not pass this step again.
        if self.snapshots.contains(&steps)
            && let Err(error) = keep(&self.closing.run, chunk, steps)
        {
            self.telemetry.fail(error.to_string());
            return true;
        }
        let logs = self.logs();
        self.closing.came(chunk, |known| {
            known.position = Some(Position { steps, logs })
        });
        self.state.stop.load(Ordering::SeqCst)
    }
}
