//! Where a run's numbers go while it runs: the dashboard's state and `metrics.jsonl`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::alarm::{Alarm, AlarmKind, Seen, Watch};
use crate::config::OnNan;
use crate::dashboard::state::{DashboardState, HeldOutPoint, Phase, TrainPoint};
use crate::metric::calibration::{BinEdge, expected_calibration_error};
use crate::metric::{accuracy, negative_log_likelihood, outcomes};
use crate::prediction::ScoredRow;
use crate::prequential::FirstAnswersLog;
use crate::run_directory::AlarmLog;
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
    watch: Watch,
    alarms: Option<AlarmLog>,
    on_nan: OnNan,
    /// Optimizer steps in a row that were left out.
    skipped: usize,
    /// The last optimizer step whose numbers are all here.
    processed: usize,
    /// The learning rate of every optimizer step.
    rates: Vec<f64>,
}

/// What a training's numbers go to, and how they are looked at.
#[derive(Debug)]
pub struct Recording {
    /// The metrics.
    pub log: MetricsLog,
    /// First answers, where they are kept.
    pub first_answers: Option<FirstAnswersLog>,
    /// The alarms.
    pub alarms: AlarmLog,
    /// Raises them.
    pub watch: Watch,
    /// What a gradient that is no number does.
    pub on_nan: OnNan,
    /// Optimizer steps done before.
    pub done: usize,
    /// Seconds of training before.
    pub before: f64,
    /// Held-out questions of a whole round.
    pub held_out: usize,
    /// The learning rate of every optimizer step.
    pub rates: Vec<f64>,
}

/// Optimizer steps in a row that may be left out: weights that gave no number ten times will not
/// give one.
const SKIPS: usize = 10;

impl Inner {
    /// Of no training.
    fn empty() -> Self {
        let now = Instant::now();
        Self {
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
            watch: Watch::default(),
            alarms: None,
            on_nan: OnNan::Stop,
            skipped: 0,
            processed: 0,
            rates: Vec::new(),
        }
    }
}

impl Telemetry {
    /// Telemetry without a log yet.
    pub fn new(state: Arc<Mutex<DashboardState>>) -> Self {
        Self {
            inner: Arc::new(Mutex::new(Inner::empty())),
            state,
        }
    }

    /// From here on, a training's numbers go to its files. Nothing is left of an earlier training,
    /// whose failure is no failure of this one.
    pub fn start(&self, recording: Recording) {
        *self.inner() = Inner {
            log: Some(recording.log),
            first_answers: recording.first_answers,
            alarms: Some(recording.alarms),
            watch: recording.watch,
            on_nan: recording.on_nan,
            processed: recording.done,
            before: recording.before,
            held_out_whole: recording.held_out,
            rates: recording.rates,
            ..Inner::empty()
        };
    }

    /// Waits until the numbers of an optimizer step have come, or the training has failed. False
    /// where neither happens within a minute.
    pub fn wait_for(&self, step: usize) -> bool {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let inner = self.inner();
            if inner.processed >= step || inner.failed.is_some() {
                return true;
            }
            drop(inner);
            if Instant::now() > until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// What the dashboard draws.
    pub fn state(&self) -> MutexGuard<'_, DashboardState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A line of the dashboard's log.
    pub fn say(&self, line: impl Into<String>) {
        self.state().say(line.into());
    }

    /// A new phase, whose pace is not known yet.
    pub fn phase(&self, phase: Phase) {
        let mut state = self.state();
        state.phase = phase;
        state.tokens_per_second = 0.0;
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
        let step = parts[0].step;
        let alarms = match not_finite(&parts) {
            Some(what) => {
                let alarm = inner.not_finite(step, &what);
                let told = inner.tell(&[alarm]);
                drop(inner);
                told
            }
            None => {
                drop(inner);
                self.on_step(&parts, took)
            }
        };
        self.state().raise(step, &alarms);
        self.inner().processed = step;
    }

    /// The numbers of an optimizer step are sound.
    fn on_step(&self, parts: &[StepFacts], took: f64) -> Vec<String> {
        let mut point = train_point(parts, took);
        let rows: Vec<ScoredRow> = parts.iter().flat_map(|p| p.rows.clone()).collect();
        let load = mean_load(parts);
        let mut inner = self.inner();
        inner.skipped = 0;
        point.learning_rate = inner.rates.get(point.step.saturating_sub(1)).copied();
        let values = json!({
            "loss": point.loss,
            "accuracy": point.accuracy,
            "flu": point.flu,
            "gradient_norm": point.gradient_norm,
            "learning_rate": point.learning_rate,
            "tokens": point.tokens,
            "tokens_per_second": point.tokens_per_second,
            "useful_tokens": point.useful_tokens,
        });
        let mut values = object(values);
        for (name, value) in &point.terms {
            values.insert(name.to_string(), json!(value));
        }
        inner.write("train", point.step, values);
        inner.keep_first_answers(point.step, &rows);
        let alarms = inner.watch.observe(&Seen {
            step: point.step,
            loss: point.loss,
            flu: point.flu,
            gradient_norm: point.gradient_norm,
            rows: &rows,
            expert_load: &load,
        });
        let alarms = inner.tell(&alarms);
        drop(inner);
        let load = parts.last().map(|p| p.expert_load.clone());
        self.state()
            .on_train(point, &rows, load.unwrap_or_default());
        alarms
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
    /// An optimizer step whose loss or gradient is no number.
    fn not_finite(&mut self, step: usize, what: &str) -> Alarm {
        let remedy = "lower train.learning_rate or set train.gradient_clip";
        self.skipped += 1;
        let message = match self.on_nan {
            OnNan::Stop => format!(
                "{what} at step {step}: {remedy}; train.on_nan = \"skip\" leaves such steps out"
            ),
            OnNan::Skip if self.skipped >= SKIPS => {
                format!("{what} at step {step}, the tenth in a row: {remedy}")
            }
            OnNan::Skip => format!("{what}: the step is left out"),
        };
        if self.on_nan == OnNan::Stop || self.skipped >= SKIPS {
            self.failed.get_or_insert(message.clone());
        }
        Alarm {
            step,
            kind: AlarmKind::NotFinite,
            message,
        }
    }

    /// Writes alarms down, and gives them in words.
    fn tell(&mut self, alarms: &[Alarm]) -> Vec<String> {
        for alarm in alarms {
            let Some(log) = &mut self.alarms else { break };
            if let Err(error) = log.write(alarm) {
                self.failed = Some(format!("the alarms cannot be written: {error}"));
                self.alarms = None;
            }
        }
        alarms.iter().map(Alarm::to_string).collect()
    }

    fn keep_first_answers(&mut self, step: usize, rows: &[ScoredRow]) {
        let Some(log) = &mut self.first_answers else {
            return;
        };
        // A question whose step was left out is met for the first time in a later epoch, which
        // knows others by heart.
        if step > self.watch.steps_per_epoch() {
            return;
        }
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

/// What of an optimizer step is no number, with the questions where the loss is none.
fn not_finite(parts: &[StepFacts]) -> Option<String> {
    const NAMED: usize = 8;
    let suspects: Vec<&str> = parts
        .iter()
        .flat_map(|part| part.suspects.iter().map(String::as_str))
        .collect();
    let norm = parts.iter().find_map(|part| part.gradient_norm);
    if suspects.is_empty() {
        let unsound = norm.is_some_and(|norm| !norm.is_finite());
        return unsound.then(|| "the gradient is no number".into());
    }
    let named = &suspects[..suspects.len().min(NAMED)];
    let more = match suspects.len() - named.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Some(format!(
        "the loss is no number over the rows {}{more}",
        named.join(", ")
    ))
}

/// Share of kept tokens by router and expert over all parts of a step.
fn mean_load(parts: &[StepFacts]) -> Vec<Vec<f64>> {
    let mut sums: Vec<Vec<f64>> = Vec::new();
    for part in parts {
        if sums.is_empty() {
            sums = part
                .expert_load
                .iter()
                .map(|r| vec![0.0; r.len()])
                .collect();
        }
        for (sums, shares) in sums.iter_mut().zip(&part.expert_load) {
            for (sum, share) in sums.iter_mut().zip(shares) {
                *sum += part.share * share;
            }
        }
    }
    sums
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
            .map(|(t, (name, _, _))| ((*name).into(), weighted(&|p: &StepFacts| p.terms[t].2)))
            .collect(),
        accuracy: accuracy(rows.iter().copied()),
        flu: mean_flu(rows.iter().copied()),
        gradient_norm: parts.iter().find_map(|part| part.gradient_norm),
        learning_rate: None,
        tokens,
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
        accuracy: accuracy(rows),
        ece: expected_calibration_error(&outcomes(&refs), 15, BinEdge::Right),
        nll: rows.iter().map(negative_log_likelihood).sum::<f64>() / n,
        flu: mean_flu(rows.iter()),
    }
}

fn mean_flu<'a>(rows: impl Iterator<Item = &'a ScoredRow>) -> Option<f64> {
    let found: Vec<f64> = rows.filter_map(|r| r.flu).collect();
    (!found.is_empty()).then(|| found.iter().sum::<f64>() / found.len() as f64)
}
