//! How far a training has come, and the wish to stop it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// What a loader shares with those who watch, stop or resume it.
#[derive(Debug)]
pub struct LoaderState {
    /// Optimizer steps served so far, counted from the start of training.
    pub steps_done: AtomicUsize,
    /// Asks for an end: the chunk stops after the current optimizer step, and whatever would follow
    /// does not begin.
    pub stop: AtomicBool,
    /// This training cannot go on: its chunk stops as well. What follows it, as in a table, does.
    failed: AtomicBool,
    /// The optimizer step before which the first device's loader saw the wish: the others stop
    /// there too.
    stopped_at: AtomicUsize,
}

impl Default for LoaderState {
    /// The state at the start of training.
    fn default() -> Self {
        Self::after(0)
    }
}

impl LoaderState {
    /// The state of a training that goes on after so many optimizer steps.
    pub fn after(steps_done: usize) -> Self {
        Self {
            steps_done: steps_done.into(),
            stop: false.into(),
            failed: false.into(),
            stopped_at: usize::MAX.into(),
        }
    }

    /// A training begins, after so many optimizer steps.
    pub fn begin(&self, steps_done: usize) {
        self.steps_done.store(steps_done, Ordering::SeqCst);
        self.end();
    }

    /// The training cannot go on.
    pub fn fail(&self) {
        self.failed.store(true, Ordering::SeqCst);
    }

    /// The training has ended: what made it fail does not cut short what follows.
    pub fn end(&self) {
        self.failed.store(false, Ordering::SeqCst);
    }

    /// Whether the chunk is to stop, on request or because the training failed.
    pub(super) fn ends(&self) -> bool {
        self.stop.load(Ordering::SeqCst) || self.failed.load(Ordering::SeqCst)
    }

    /// Forgets where an earlier chunk was stopped.
    pub(super) fn begin_chunk(&self) {
        self.stopped_at.store(usize::MAX, Ordering::SeqCst);
    }

    /// Tells all devices to stop before an optimizer step, if the chunk is to end.
    pub(super) fn heed_stop(&self, step: usize) {
        if self.ends() {
            self.stopped_at.store(step, Ordering::SeqCst);
        }
    }

    /// Whether all devices stop before this optimizer step.
    pub(super) fn stops_before(&self, step: usize) -> bool {
        self.stopped_at.load(Ordering::SeqCst) <= step
    }
}
