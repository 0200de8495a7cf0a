//! The process around the work: its log, its wish to stop, what it shows and prints, how it was
//! called.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use data::loader::LoaderState;
use train::dashboard::plain::Plain;
use train::dashboard::state::DashboardState;
use train::dashboard::terminal::{self, Terminal};
use train::run_directory::Environment;

use crate::backend::NamedDevice;

/// Diagnostics on standard error, as `RUST_LOG` says; warnings by default.
pub(super) fn logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .try_init();
}

/// Exit code of work that was stopped and can go on.
pub(super) const STOPPED: u8 = 130;

/// Ctrl-C as a wish to stop.
pub(super) struct StopSignal {
    /// Tells the work that a stop was asked for.
    pub(super) state: Arc<LoaderState>,
    begun: Arc<AtomicBool>,
}

impl StopSignal {
    /// Catches the signal from here on. Until [`Self::begin`] it ends the program at once.
    pub(super) fn catch() -> Result<Self> {
        let signal = Self {
            state: Arc::default(),
            begun: Arc::default(),
        };
        let (state, begun) = (signal.state.clone(), signal.begun.clone());
        ctrlc::set_handler(move || {
            // Before the work there is nothing to save. A second signal leaves at once, and the
            // newest checkpoint stays.
            let first = !state.stop.swap(true, Ordering::SeqCst);
            if first && begun.load(Ordering::SeqCst) {
                return;
            }
            if begun.load(Ordering::SeqCst) {
                terminal::restore();
            }
            std::process::exit(i32::from(STOPPED));
        })
        .context("Ctrl-C cannot be caught")?;
        Ok(signal)
    }

    /// The work begins.
    pub(super) fn begin(&self) {
        self.begun.store(true, Ordering::SeqCst);
    }
}

/// The dashboard or the lines that show the work. Dropping it ends them.
pub(super) enum Display {
    Dashboard { _terminal: Terminal },
    Lines { _plain: Plain },
}

/// Dashboard on a terminal, lines elsewhere.
pub(super) fn display(
    plain: bool,
    state: Arc<Mutex<DashboardState>>,
    stop: Arc<LoaderState>,
) -> Result<Display> {
    if terminal::available() && !plain {
        let terminal =
            Terminal::start(state, stop).context("the dashboard cannot start; use --plain")?;
        return Ok(Display::Dashboard {
            _terminal: terminal,
        });
    }
    Ok(Display::Lines {
        _plain: Plain::start(state, 5),
    })
}

/// Processor threads that computation may use.
pub(super) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Program, machine and command, for a run's record.
pub(super) fn environment(device: &NamedDevice) -> Environment {
    Environment {
        version: env!("CARGO_PKG_VERSION").into(),
        commit: option_env!("UQ4CT_COMMIT").map(str::to_owned),
        device: device.name.clone(),
        threads: threads(),
        command: command(),
    }
}

/// The command line with words quoted where a shell would split them.
fn command() -> String {
    // Lossy: a path that is not Unicode must not end the program.
    let mut words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
    let program = words.next().unwrap_or_default();
    let program = std::path::Path::new(&program)
        .file_name()
        .map_or("uq4ct".into(), |name| name.to_string_lossy().into_owned());
    // The report's command repeats the run from its start.
    let words = words.filter(|word| {
        !matches!(
            word.as_str(),
            "--resume" | "--resume=latest" | "--overwrite"
        )
    });
    std::iter::once(format!("cargo run --release --bin {program} --"))
        .chain(words.map(|word| quoted(&word)))
        .collect::<Vec<_>>()
        .join(" ")
}

/// A word as a shell takes it.
pub(super) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// Writes a line to standard output. A reader that has left (`| head`) is no error; whatever else
/// keeps the line from being written ends the program, which must not claim success.
pub(super) fn print(line: impl std::fmt::Display) {
    use std::io::{ErrorKind, Write};
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            eprintln!("Error: standard output cannot be written: {error}");
            std::process::exit(1);
        }
        _ => {}
    }
}
