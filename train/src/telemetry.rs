//! Where a run's numbers go while it runs: the dashboard's state and `metrics.jsonl`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde_json::{Map, Value, json};

use crate::dashboard::state::{DashboardState, HeldOutPoint, Phase, TrainPoint};
use crate::metric::calibration::{BinEdge, expected_calibration_error};
use crate::metric::{negative_log_likelihood, outcomes};
use crate::prediction::ScoredRow;
use crate::prequential::FirstAnswersLog;
use crate::step::StepFacts;
use crate::tracker::{MetricsLine, MetricsLog};

/// Collects the steps of a run. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Telemetry {
    inner: Arc<Mutex<Inner>>,
    state: Arc<Mutex<DashboardState>>,
}

#[derive(Debug)]
struct Inner {
    began: Instant,
    last_step: Instant,
    log: Option<MetricsLog>,
    first_answers: Option<FirstAnswersLog>,
    /// Micro-batches of the optimizer step under way.
    pending: Vec<StepFacts>,
    held_out: Vec<ScoredRow>,
    /// Sum over rows, and rows.
    held_out_loss: (f64, usize),
    /// Held-out rows of a whole round; fewer are a round cut short by a stop.
    held_out_whole: usize,
    /// Seconds of earlier sessions of the same training.
    before: f64,
    failed: Option<String>,
}

impl Telemetry {
    /// Telemetry without a log yet.
    pub fn new(state: Arc<Mutex<DashboardState>>) -> Self {
        let now = Instant::now();
        Self {
            inner: Arc::new(Mutex::new(Inner {
                began: now,
                last_step: now,
                log: None,
                first_answers: None,
                pending: Vec::new(),
                held_out: Vec::new(),
                held_out_loss: (0.0, 0),
                held_out_whole: 0,
                before: 0.0,
                failed: None,
            })),
            state,
        }
    }

    /// From here on, lines go to `log` too, and time counts on from `before` seconds; a whole round
    /// of held-out questions has `held_out` rows.
    pub fn start(
        &self,
        log: MetricsLog,
        first_answers: Option<FirstAnswersLog>,
        before: f64,
        held_out: usize,
    ) {
        let mut inner = self.inner();
        inner.log = Some(log);
        inner.first_answers = first_answers;
        inner.before = before;
        inner.held_out_whole = held_out;
        inner.began = Instant::now();
        inner.last_step = inner.began;
    }

    /// What the dashboard draws.
    pub fn state(&self) -> MutexGuard<'_, DashboardState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A line of the dashboard's log.
    pub fn say(&self, line: impl Into<String>) {
        self.state().say(line.into());
    }

    /// A new phase.
    pub fn phase(&self, phase: Phase) {
        self.state().phase = phase;
    }

    /// Training cannot go on.
    pub fn fail(&self, reason: String) {
        self.inner().failed.get_or_insert(reason);
    }

    /// Why training cannot go on, if so: the loss is no number, or `metrics.jsonl` could not be
    /// written.
    pub fn failure(&self) -> Option<String> {
        self.inner().failed.clone()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One micro-batch was trained on; the last of an optimizer step makes a point.
    pub fn on_train(&self, facts: &StepFacts) {
        if facts.share == 0.0 {
            return;
        }
        let mut inner = self.inner();
        inner.pending.push(facts.clone());
        let share: f64 = inner.pending.iter().map(|f| f.share).sum();
        if share < 1.0 - 1e-9 {
            return;
        }
        let parts = std::mem::take(&mut inner.pending);
        let now = Instant::now();
        let took = now.duration_since(inner.last_step).as_secs_f64();
        inner.last_step = now;
        let point = train_point(&parts, took);
        let values = json!({
            "loss": point.loss,
            "accuracy": point.accuracy,
            "flu": point.flu,
            "tokens_per_second": point.tokens_per_second,
        });
        let mut values = object(values);
        for (name, value) in &point.terms {
            values.insert((*name).into(), json!(value));
        }
        inner.write("train", point.step, values);
        let rows: Vec<ScoredRow> = parts.iter().flat_map(|p| p.rows.clone()).collect();
        inner.keep_first_answers(point.step, &rows);
        drop(inner);
        let load = parts.last().map(|p| p.expert_load.clone());
        self.state()
            .on_train(point, &rows, load.unwrap_or_default());
    }

    /// One batch of held-out questions was scored.
    pub fn on_held_out(&self, facts: &StepFacts) {
        let mut inner = self.inner();
        inner.held_out.extend(facts.rows.iter().cloned());
        inner.held_out_loss.0 += facts.loss() * facts.rows.len() as f64;
        inner.held_out_loss.1 += facts.rows.len();
    }

    /// The held-out questions are through.
    pub fn end_held_out(&self) {
        let mut inner = self.inner();
        let rows = std::mem::take(&mut inner.held_out);
        let (loss, count) = std::mem::take(&mut inner.held_out_loss);
        inner.last_step = Instant::now();
        // A stop ends the round after its first batch, whose questions are the longest: no fair
        // sample.
        if rows.is_empty() || rows.len() < inner.held_out_whole {
            return;
        }
        let step = self.state().step;
        let point = held_out_point(step, loss / count as f64, &rows);
        let values = object(json!({
            "loss": point.loss,
            "accuracy": point.accuracy,
            "expected_calibration_error": point.ece,
            "negative_log_likelihood": point.nll,
            "flu": point.flu,
            "n": rows.len(),
        }));
        inner.write("held_out", step, values);
        drop(inner);
        self.state().on_held_out(point, &rows);
    }
}

impl Inner {
    fn keep_first_answers(&mut self, step: usize, rows: &[ScoredRow]) {
        let Some(log) = &mut self.first_answers else {
            return;
        };
        if let Err(error) = log.write(step, rows) {
            self.failed = Some(format!("the first answers cannot be written: {error}"));
            self.first_answers = None;
        }
    }

    fn write(&mut self, split: &str, step: usize, values: Map<String, Value>) {
        let Some(log) = &mut self.log else { return };
        let line = MetricsLine {
            split: split.into(),
            step,
            seconds: self.before + self.began.elapsed().as_secs_f64(),
            values,
        };
        if let Err(error) = log.write(&line) {
            self.failed = Some(format!("the metrics cannot be written: {error}"));
            self.log = None;
        }
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn train_point(parts: &[StepFacts], took: f64) -> TrainPoint {
    let weighted = |f: &dyn Fn(&StepFacts) -> f64| parts.iter().map(|p| p.share * f(p)).sum();
    let rows: Vec<&ScoredRow> = parts.iter().flat_map(|p| &p.rows).collect();
    let tokens: usize = parts.iter().map(|p| p.real_tokens).sum();
    TrainPoint {
        step: parts[0].step,
        loss: weighted(&StepFacts::loss),
        terms: parts[0]
            .terms
            .iter()
            .enumerate()
            .map(|(t, (name, _, _))| (*name, weighted(&|p: &StepFacts| p.terms[t].2)))
            .collect(),
        accuracy: rows.iter().filter(|r| r.correct()).count() as f64 / rows.len() as f64,
        flu: mean_flu(rows.iter().copied()),
        tokens_per_second: tokens as f64 / took.max(1e-9),
        useful_tokens: tokens as f64
            / parts
                .iter()
                .map(|p| p.computed_tokens)
                .sum::<usize>()
                .max(1) as f64,
    }
}

fn held_out_point(step: usize, loss: f64, rows: &[ScoredRow]) -> HeldOutPoint {
    let refs: Vec<&ScoredRow> = rows.iter().collect();
    let n = rows.len() as f64;
    HeldOutPoint {
        step,
        loss,
        accuracy: rows.iter().filter(|r| r.correct()).count() as f64 / n,
        ece: expected_calibration_error(&outcomes(&refs), 15, BinEdge::Right),
        nll: rows.iter().map(negative_log_likelihood).sum::<f64>() / n,
        flu: mean_flu(rows.iter()),
    }
}

fn mean_flu<'a>(rows: impl Iterator<Item = &'a ScoredRow>) -> Option<f64> {
    let found: Vec<f64> = rows.filter_map(|r| r.flu).collect();
    (!found.is_empty()).then(|| found.iter().sum::<f64>() / found.len() as f64)
}
