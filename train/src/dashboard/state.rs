//! What the dashboard knows. Plain data: the drawing is a function of it.

use std::collections::VecDeque;

use crate::metric::calibration::{Bin, BinEdge, reliability};
use crate::prediction::ScoredRow;

/// Training rows that the live diagrams look back on.
const WINDOW: usize = 512;
/// Lines of the log that are kept.
const LOG: usize = 200;
/// Bars of the FLU histogram.
pub const FLU_BARS: usize = 20;
/// Bins of the reliability diagram.
pub const BINS: usize = 15;

/// Where a run stands.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Phase {
    /// Finding files, reading, loading.
    #[default]
    Preparing,
    /// Optimizer steps.
    Training,
    /// Scoring questions.
    Evaluating {
        /// Which model on which questions.
        name: String,
        /// Scored so far.
        done: usize,
        /// To score.
        total: usize,
    },
    /// Writing the report.
    Reporting,
    /// Finished.
    Done,
}

/// One optimizer step.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TrainPoint {
    /// Number of the optimizer step, from 1.
    pub step: usize,
    /// Weighted sum of the terms.
    pub loss: f64,
    /// Unweighted terms by name.
    pub terms: Vec<(&'static str, f64)>,
    /// Accuracy over this step's questions.
    pub accuracy: f64,
    /// Mean FLU over this step's questions; absent without routers.
    pub flu: Option<f64>,
    /// Norm of the whole gradient before it was clipped, where it is known.
    pub gradient_norm: Option<f64>,
    /// Speed, padding left out.
    pub tokens_per_second: f64,
    /// Share of computed tokens that are not padding.
    pub useful_tokens: f64,
}

/// The held-out questions after a chunk.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HeldOutPoint {
    /// Optimizer steps before it.
    pub step: usize,
    /// Mean loss.
    pub loss: f64,
    /// Share of right answers.
    pub accuracy: f64,
    /// Expected calibration error.
    pub ece: f64,
    /// Negative log-likelihood.
    pub nll: f64,
    /// Mean FLU.
    pub flu: Option<f64>,
}

/// A question as the diagrams see it: confidence, right, FLU.
pub type Answer = (f64, bool, Option<f64>);

/// What the dashboard draws.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DashboardState {
    /// Dataset, method, model.
    pub title: String,
    /// Tensor device.
    pub device: String,
    /// Where the run stands.
    pub phase: Phase,
    /// Optimizer steps done.
    pub step: usize,
    /// Optimizer steps done before this process began.
    pub first_step: usize,
    /// Optimizer steps of the whole training.
    pub total_steps: usize,
    /// Optimizer steps of one epoch.
    pub steps_per_epoch: usize,
    /// Seconds of training in this process.
    pub seconds: f64,
    /// Every optimizer step of this process.
    pub train: Vec<TrainPoint>,
    /// Every held-out scoring of this process.
    pub held_out: Vec<HeldOutPoint>,
    /// The last training questions: confidence, right, FLU.
    pub window: VecDeque<Answer>,
    /// The last held-out questions.
    pub held_out_window: Vec<Answer>,
    /// Share of kept tokens by router and expert.
    pub expert_load: Vec<Vec<f64>>,
    /// Speed in the current phase, padding left out.
    pub tokens_per_second: f64,
    /// Resident memory, in bytes.
    pub memory: u64,
    /// A stop was asked for.
    pub stopping: bool,
    /// Lines of the log, the latest last.
    pub log: VecDeque<String>,
    /// Alarms of this process, the latest last.
    pub alarms: Vec<String>,
}

impl DashboardState {
    /// A state for a run.
    pub fn new(title: String, device: String) -> Self {
        Self {
            title,
            device,
            ..Self::default()
        }
    }

    /// A line of the log.
    pub fn say(&mut self, line: String) {
        if self.log.len() == LOG {
            self.log.pop_front();
        }
        self.log.push_back(line);
    }

    /// Training starts, or goes on after `done` steps.
    pub fn begin_training(&mut self, done: usize, total: usize, per_epoch: usize) {
        self.phase = Phase::Training;
        self.alarms.clear();
        (self.step, self.first_step) = (done, done);
        (self.total_steps, self.steps_per_epoch) = (total, per_epoch);
        if done > 0 {
            self.say(format!("Going on after step {done} of {total}."));
        }
    }

    /// An optimizer step raised alarms.
    pub fn raise(&mut self, step: usize, alarms: &[String]) {
        self.step = self.step.max(step);
        for alarm in alarms {
            self.say(format!("Alarm, {alarm}"));
            self.alarms.push(alarm.clone());
        }
    }

    /// An optimizer step was made.
    pub fn on_train(&mut self, point: TrainPoint, rows: &[ScoredRow], load: Vec<Vec<f64>>) {
        self.step = point.step;
        self.tokens_per_second = point.tokens_per_second;
        self.expert_load = load;
        self.train.push(point);
        for row in rows {
            if self.window.len() == WINDOW {
                self.window.pop_front();
            }
            self.window
                .push_back((row.confidence(), row.correct(), row.flu));
        }
    }

    /// The held-out questions were scored.
    pub fn on_held_out(&mut self, point: HeldOutPoint, rows: &[ScoredRow]) {
        self.held_out_window = rows
            .iter()
            .map(|r| (r.confidence(), r.correct(), r.flu))
            .collect();
        self.say(format!(
            "step {}: held-out accuracy {:.1} %, ECE {:.1} %, NLL {:.3}",
            point.step,
            point.accuracy * 100.0,
            point.ece * 100.0,
            point.nll
        ));
        self.held_out.push(point);
    }

    /// The questions that the diagrams show: held-out ones once there are any, else the last
    /// training ones.
    pub fn shown(&self) -> (&'static str, Vec<Answer>) {
        match self.held_out_window.is_empty() {
            true => (
                "last training questions",
                self.window.iter().copied().collect(),
            ),
            false => ("held-out questions", self.held_out_window.clone()),
        }
    }

    /// Bins of the live reliability diagram.
    pub fn reliability(&self) -> Vec<Bin> {
        let outcomes: Vec<_> = self
            .shown()
            .1
            .iter()
            .map(|(c, right, _)| (*c, *right))
            .collect();
        reliability(&outcomes, BINS, BinEdge::Right)
    }

    /// Counts of FLU over `[0, 1]` for right and wrong answers; `None` without routers.
    pub fn flu_histogram(&self) -> Option<[[u64; FLU_BARS]; 2]> {
        let mut counts = [[0; FLU_BARS]; 2];
        let mut any = false;
        for (_, right, flu) in self.shown().1 {
            let Some(flu) = flu else { continue };
            let bar = ((flu * FLU_BARS as f64) as usize).min(FLU_BARS - 1);
            counts[usize::from(!right)][bar] += 1;
            any = true;
        }
        any.then_some(counts)
    }

    /// Seconds to the end of training at the pace so far.
    pub fn seconds_left(&self) -> Option<f64> {
        let made = self.step.checked_sub(self.first_step).filter(|m| *m > 0)?;
        let left = self.total_steps.saturating_sub(self.step);
        Some(self.seconds / made as f64 * left as f64)
    }

    /// Share of the current phase that is done.
    pub fn progress(&self) -> f64 {
        match &self.phase {
            Phase::Preparing => 0.0,
            Phase::Training => self.step as f64 / self.total_steps.max(1) as f64,
            Phase::Evaluating { done, total, .. } => *done as f64 / (*total).max(1) as f64,
            Phase::Reporting | Phase::Done => 1.0,
        }
    }
}

/// Resident memory of this process in bytes; 0 where the system does not say.
pub fn resident_memory() -> u64 {
    status_bytes("VmRSS:")
}

/// The most resident memory that this process ever had, in bytes; 0 where the system does not say.
pub fn peak_memory() -> u64 {
    status_bytes("VmHWM:")
}

fn status_bytes(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix(field))
        .and_then(|rest| rest.trim().strip_suffix(" kB"))
        .and_then(|kb| kb.trim().parse::<u64>().ok())
        .map_or(0, |kb| kb * 1024)
}

/// Seconds as `1:02:03` or `2:03`.
pub fn clock(seconds: f64) -> String {
    let s = seconds.max(0.0).round() as u64;
    let (h, m, s) = (s / 3600, s / 60 % 60, s % 60);
    match h {
        0 => format!("{m}:{s:02}"),
        _ => format!("{h}:{m:02}:{s:02}"),
    }
}
