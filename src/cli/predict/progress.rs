//! How far the work on a file of questions is.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use train::dashboard::state::clock;

use crate::cli::process::tell;

/// How far the work on a file is: a bar on a terminal, lines elsewhere.
pub(super) struct Progress {
    bar: ProgressBar,
    /// Whether lines are written.
    lines: bool,
    total: Option<usize>,
    done: usize,
    began: Instant,
    /// When the last line was written.
    told: Instant,
}

/// Between two lines of progress.
const PAUSE: Duration = Duration::from_secs(10);

impl Progress {
    pub(super) fn new(shown: bool, total: Option<usize>) -> Result<Self> {
        let terminal = std::io::stderr().is_terminal();
        let bar = match (shown && terminal, total) {
            (true, Some(total)) => ProgressBar::new(total as u64),
            (true, None) => ProgressBar::no_length(),
            (false, _) => ProgressBar::hidden(),
        };
        bar.set_style(ProgressStyle::with_template(
            "{bar:30} {pos}/{len} questions, {eta} left",
        )?);
        Ok(Self {
            bar,
            lines: shown && !terminal,
            total,
            done: 0,
            began: Instant::now(),
            told: Instant::now(),
        })
    }

    pub(super) fn one(&mut self) {
        self.done += 1;
        self.bar.inc(1);
    }

    /// Writes a line where one is due.
    pub(super) fn show(&mut self) {
        if self.lines && self.told.elapsed() >= PAUSE {
            self.told = Instant::now();
            tell(self.line());
        }
    }

    fn line(&self) -> String {
        let seconds = self.began.elapsed().as_secs_f64();
        let rate = self.done as f64 / seconds.max(1e-9);
        match self.total {
            Some(total) => format!(
                "{}/{total} questions, {rate:.1} a second, {} left",
                self.done,
                clock(total.saturating_sub(self.done) as f64 / rate.max(1e-9))
            ),
            None => format!("{} questions, {rate:.1} a second", self.done),
        }
    }

    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
        if self.lines {
            let took = clock(self.began.elapsed().as_secs_f64());
            tell(format_args!("{} questions in {took}", self.done));
        }
    }
}
