//! A terminal that goes away while a training runs: its window was closed, or the connection broke.
//!
//! The system tells it by SIGHUP, or the terminal's end of file does. A program that knows neither
//! reads the dead terminal for ever.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a training does once its terminal is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hangup {
    /// Writes a checkpoint and ends.
    End,
    /// Goes on; its lines go to a file.
    GoOn,
}

/// Name of the file with the lines of a training whose terminal is gone.
pub const LINES: &str = "lines.log";

static GONE: AtomicBool = AtomicBool::new(false);

/// The terminal is gone: nothing is drawn on it or read from it any more.
pub fn hang_up() {
    GONE.store(true, Ordering::SeqCst);
}

/// Whether the terminal is gone.
pub fn hung_up() -> bool {
    GONE.load(Ordering::SeqCst)
}

/// Where lines go: standard error, or once the terminal is gone a file.
#[derive(Debug, Clone)]
pub struct LineSink {
    /// The file; without one such lines are lost.
    file: Option<PathBuf>,
    /// Whether standard error was the terminal. One that is gone does not say so any more.
    terminal: bool,
}

impl LineSink {
    /// Lines to standard error, and to `file` once that is a terminal which is gone.
    pub fn new(file: Option<PathBuf>) -> Self {
        Self {
            file,
            terminal: std::io::stderr().is_terminal(),
        }
    }

    /// Writes a line. One that cannot be written is no reason to stop.
    pub(super) fn write(&self, line: &str) {
        let line = printable(line);
        if !(self.terminal && hung_up()) {
            let _ = writeln!(std::io::stderr(), "{line}");
        } else if let Some(path) = &self.file {
            let file = std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(path);
            let _ = file.and_then(|mut file| writeln!(file, "{line}"));
        }
    }
}

/// A text without what a terminal would obey: control characters but line breaks and tabs stand as
/// `\\u001b`.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => shown.push(c),
            c if c.is_control() => shown += &format!("\\u{:04x}", c as u32),
            c => shown.push(c),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_shown_instead() {
        let odd = "a\u{1b}[31mred\u{9b}0m\r\u{7}b\n\tc é";
        assert_eq!(
            printable(odd),
            "a\\u001b[31mred\\u009b0m\\u000d\\u0007b\n\tc é"
        );
    }
}
