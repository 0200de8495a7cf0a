//! How far a training has come, and the wish to stop it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// What a loader shares with those who watch, stop or resume it.
#[derive(Debug)]
pub struct LoaderState {
    /// Optimizer steps served so far, counted from the start of training.
    pub steps_done: AtomicUsize,
    /// Asks for an end: the chunk stops after the current optimizer step.
    pub stop: AtomicBool,
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
            stopped_at: usize::MAX.into(),
        }
    }

    /// Forgets where an earlier chunk was stopped.
    pub(super) fn begin_chunk(&self) {
        self.stopped_at.store(usize::MAX, Ordering::SeqCst);
    }

    /// Tells all devices to stop before an optimizer step, if somebody asked for an end.
    pub(super) fn heed_stop(&self, step: usize) {
        if self.stop.load(Ordering::SeqCst) {
            self.stopped_at.store(step, Ordering::SeqCst);
        }
    }

    /// Whether all devices stop before this optimizer step.
    pub(super) fn stops_before(&self, step: usize) -> bool {
        self.stopped_at.load(Ordering::SeqCst) <= step
    }
}
