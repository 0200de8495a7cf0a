//! What the dashboard knows. Plain data: the drawing is a function of it.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::ops::Range;
use std::time::Instant;

use crate::card::CardMemory;
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
    pub terms: Vec<(Cow<'static, str>, f64)>,
    /// Accuracy over this step's questions.
    pub accuracy: f64,
    /// Mean FLU over this step's questions; absent without routers.
    pub flu: Option<f64>,
    /// Norm of the whole gradient before it was clipped, where it is known.
    pub gradient_norm: Option<f64>,
    /// The learning rate of the step, where it is known; routers may have one of their own.
    pub learning_rate: Option<f64>,
    /// Tokens of the step, padding left out.
    pub tokens: usize,
    /// Speed, padding left out.
    pub tokens_per_second: f64,
    /// Share of computed tokens that are not padding; no number where a log does not say it.
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

/// What earlier processes made of a training, by its metrics log.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Earlier {
    /// Optimizer steps.
    pub train: Vec<TrainPoint>,
    /// Held-out scorings.
    pub held_out: Vec<HeldOutPoint>,
}

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
    /// Seconds of the training under way in this process.
    pub seconds: f64,
    /// When the training under way began in this process.
    pub began: Option<Instant>,
    /// What comes after this training (other members, fit, scoring, intervals), as a multiple of
    /// its time.
    pub after: f64,
    /// Every optimizer step of this process, of one training after the other.
    pub train: Vec<TrainPoint>,
    /// Every held-out scoring of this process, of one training after the other.
    pub held_out: Vec<HeldOutPoint>,
    /// Where the training under way begins in `train` and `held_out`.
    pub begins: [usize; 2],
    /// What earlier processes made of the training under way.
    pub earlier: Earlier,
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
    /// Memory of the graphics cards, where there are any that say so.
    pub card_memory: Option<CardMemory>,
    /// A stop was asked for.
    pub stopping: bool,
    /// Lines of the log, the latest last.
    pub log: VecDeque<String>,
    /// Lines that were ever said; those that `log` holds are the last of them.
    pub said: usize,
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
        self.said += 1;
    }

    /// Numbers of the lines that the log holds, counted from the first that was ever said.
    pub fn log_numbers(&self) -> Range<usize> {
        self.said.saturating_sub(self.log.len())..self.said
    }

    /// Training starts, or goes on after `done` steps, of which [`recall`](Self::recall) tells.
    pub fn begin_training(&mut self, done: usize, total: usize, per_epoch: usize) {
        self.phase = Phase::Training;
        self.began = Some(Instant::now());
        self.alarms.clear();
        self.window.clear();
        self.held_out_window.clear();
        self.expert_load.clear();
        self.begins = [self.train.len(), self.held_out.len()];
        self.earlier = Earlier::default();
        (self.step, self.first_step) = (done, done);
        (self.total_steps, self.steps_per_epoch) = (total, per_epoch);
        if done > 0 {
            self.say(format!("Going on after step {done} of {total}."));
        }
    }

    /// Another piece of work begins. What was said and is not shown yet is not lost.
    pub fn begin_work(&mut self, title: String) {
        let before = std::mem::take(self);
        *self = Self {
            log: before.log,
            said: before.said,
            card_memory: before.card_memory,
            ..Self::new(title.clone(), before.device)
        };
        self.say(title);
    }

    /// Reads the clock, while training.
    pub fn tick(&mut self) {
        if let (Phase::Training, Some(began)) = (&self.phase, self.began) {
            self.seconds = began.elapsed().as_secs_f64();
        }
    }

    /// What earlier processes made of the training under way.
    pub fn recall(&mut self, earlier: Earlier) {
        self.earlier = earlier;
    }

    /// The optimizer steps of the training under way, those of earlier processes too.
    pub fn steps(&self) -> impl Iterator<Item = &TrainPoint> {
        let own = &self.train[self.begins[0].min(self.train.len())..];
        self.earlier.train.iter().chain(own)
    }

    /// The held-out scorings of the training under way, those of earlier processes too.
    pub fn scorings(&self) -> impl Iterator<Item = &HeldOutPoint> {
        let own = &self.held_out[self.begins[1].min(self.held_out.len())..];
        self.earlier.held_out.iter().chain(own)
    }

    /// The last optimizer step of the training under way that this process made.
    pub fn last_step(&self) -> Option<&TrainPoint> {
        self.train.get(self.begins[0]..)?.last()
    }

    /// Tokens that the training under way has seen, padding left out.
    pub fn tokens(&self) -> usize {
        self.steps().map(|point| point.tokens).sum()
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

    /// Seconds to the end of the whole job at the training's pace so far.
    pub fn seconds_left(&self) -> Option<f64> {
        let made = self.step.checked_sub(self.first_step).filter(|m| *m > 0)?;
        let left = self.total_steps.saturating_sub(self.step) as f64;
        let after = self.after * self.total_steps as f64;
        Some(self.seconds / made as f64 * (left + after))
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
