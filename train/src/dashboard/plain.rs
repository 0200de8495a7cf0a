//! Off a terminal: one readable line every few steps, with the values.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::hangup::LineSink;
use super::state::{DashboardState, Phase, clock, resident_memory};

/// A thread that writes lines to standard error until it is dropped.
pub struct Plain {
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Plain {
    /// Starts; a line follows every `every` optimizer steps, and whatever the log says.
    pub fn start(state: Arc<Mutex<DashboardState>>, every: usize, sink: LineSink) -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let watched = end.clone();
        let thread = std::thread::spawn(move || {
            write(&state, &watched, Writer::new(every), &sink);
        });
        Self {
            end,
            thread: Some(thread),
        }
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        self.end.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Writes the lines that are due until `end`, from the next step on.
pub(super) fn go_on(state: &Mutex<DashboardState>, end: &AtomicBool, sink: &LineSink) {
    let mut writer = Writer::new(EVERY);
    {
        let state = state.lock().unwrap_or_else(PoisonError::into_inner);
        writer.written = state.train.len();
    }
    write(state, end, writer, sink);
}

/// Optimizer steps between the lines of a training.
pub const EVERY: usize = 5;

fn write(state: &Mutex<DashboardState>, end: &AtomicBool, mut writer: Writer, sink: &LineSink) {
    loop {
        let last = end.load(Ordering::SeqCst);
        let lines = {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            state.memory = resident_memory();
            writer.lines(&mut state)
        };
        lines.iter().for_each(|line| sink.write(line));
        if last {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Decides which lines are due.
struct Writer {
    every: usize,
    written: usize,
    phase: String,
    quarter: usize,
}

impl Writer {
    fn new(every: usize) -> Self {
        Self {
            every: every.max(1),
            written: 0,
            phase: String::new(),
            quarter: 0,
        }
    }

    fn lines(&mut self, state: &mut DashboardState) -> Vec<String> {
        let mut lines: Vec<String> = state.log.drain(..).collect();
        state.tick();
        for point in &state.train[self.written.min(state.train.len())..] {
            if point.step % self.every == 0 || point.step == 1 || point.step == state.total_steps {
                lines.push(step_line(state, point));
            }
        }
        self.written = state.train.len();
        if let Phase::Evaluating { name, done, total } = &state.phase {
            let quarter = done * 4 / (*total).max(1);
            if (&self.phase, self.quarter) != (name, quarter) {
                (self.phase, self.quarter) = (name.clone(), quarter);
                // A fit of a method counts no tokens.
                let pace = match state.tokens_per_second {
                    0.0 => String::new(),
                    known => format!(", {known:.0} tokens/s"),
                };
                lines.push(format!("{name}: {done}/{total}{pace}"));
            }
        }
        lines
    }
}

fn step_line(state: &DashboardState, point: &super::state::TrainPoint) -> String {
    let terms: Vec<String> = point
        .terms
        .iter()
        .map(|(name, value)| format!("{name} {value:.4}"))
        .collect();
    let flu = point
        .flu
        .map_or(String::new(), |flu| format!("  flu {flu:.3}"));
    // Only where padding costs something.
    let useful = match (point.useful_tokens * 100.0).round() {
        percent if percent < 100.0 => format!("  {percent} % useful tokens"),
        _ => String::new(),
    };
    let left = state.seconds_left().map_or("-".into(), clock);
    format!(
        "step {}/{}  loss {:.4}  {}  accuracy {:.2}{flu}  {:.0} tokens/s{useful}  {:.2} GiB  {left} left",
        point.step,
        state.total_steps,
        point.loss,
        terms.join("  "),
        point.accuracy,
        point.tokens_per_second,
        state.memory as f64 / f64::from(1 << 30),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dashboard::state::TrainPoint;

    #[test]
    fn a_line_is_due_at_the_first_every_nth_and_the_last_step_and_once() {
        let mut state = DashboardState::new("t".into(), "cpu".into());
        state.begin_training(0, 7, 7);
        let mut writer = Writer::new(3);
        let mut seen = Vec::new();
        for step in 1..=7 {
            let point = TrainPoint {
                step,
                loss: 1.5,
                terms: vec![("cross_entropy".into(), 1.25)],
                useful_tokens: if step == 3 { 0.874 } else { 0.996 },
                ..TrainPoint::default()
            };
            state.on_train(point, &[], vec![]);
            seen.extend(writer.lines(&mut state));
        }
        let steps: Vec<_> = seen.iter().map(|l| &l[5..8]).collect();
        assert_eq!(steps, ["1/7", "3/7", "6/7", "7/7"]);
        assert!(
            seen[0].contains("loss 1.5000  cross_entropy 1.2500"),
            "{}",
            seen[0]
        );
        // What padding costs, where it costs something.
        let padded: Vec<_> = seen.iter().map(|l| l.contains("useful")).collect();
        assert_eq!(padded, [false, true, false, false]);
        assert!(
            seen[1].contains("tokens/s  87 % useful tokens  "),
            "{}",
            seen[1]
        );
        assert!(writer.lines(&mut state).is_empty());
    }

    #[test]
    fn a_phase_without_a_pace_shows_none() {
        let mut state = DashboardState::new("run".into(), "cpu".into());
        let mut writer = Writer::new(1);
        let mut line = |done, pace| {
            state.phase = Phase::Evaluating {
                name: "fitting laplace".into(),
                done,
                total: 8,
            };
            state.tokens_per_second = pace;
            writer.lines(&mut state)
        };
        assert_eq!(line(1, 0.0), ["fitting laplace: 1/8"]);
        assert_eq!(line(4, 70.2), ["fitting laplace: 4/8, 70 tokens/s"]);
    }
}
