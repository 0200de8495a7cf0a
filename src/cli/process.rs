//! The process around the work: its log, its wish to stop, what it shows and prints, how it was
//! called.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::ValueEnum;
use data::loader::LoaderState;
use tracing_subscriber::prelude::*;
use train::dashboard::hangup::{Hangup, LINES, LineSink, hang_up, hung_up, printable};
use train::dashboard::plain::{EVERY, Plain};
use train::dashboard::state::DashboardState;
use train::dashboard::terminal::{self, Terminal};
use train::run_directory::Environment;
use train::telemetry::Telemetry;

use super::manners;
use crate::backend::{self, NamedDevice};
use crate::kernels::Told;

/// Diagnostics on standard error, as `RUST_LOG` says; warnings by default. Coloured on a terminal
/// alone.
pub(super) fn logging() {
    let filter = match manners::level() {
        Some(level) => tracing_subscriber::EnvFilter::new(level),
        None => tracing_subscriber::EnvFilter::try_from_default_env()
            .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn")),
    };
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(colours())
        .with_writer(std::io::stderr)
        .with_filter(filter);
    let _ = tracing_subscriber::registry()
        .with(lines)
        .with(crate::kernels::counter())
        .try_init();
}

/// Whether standard error is a terminal that shows colours, where no flag says so.
fn colours() -> bool {
    if let Some(asked) = manners::color() {
        return asked;
    }
    let term = std::env::var_os("TERM");
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    std::io::stderr().is_terminal() && terminal::draws(term.as_deref()) && !plain
}

/// Says on the display how many kernels are made, until it is dropped. A processor makes none, and
/// then nothing is said.
pub(super) fn compiling(telemetry: &Telemetry) -> Told {
    let telemetry = telemetry.clone();
    Told::start(move |line| telemetry.say(line))
}

/// Exit code of work that was stopped and can go on.
pub(super) const STOPPED: u8 = 130;

/// The values of `--on-hangup`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum OnHangup {
    /// Write a checkpoint and end, as Ctrl-C does
    End,
    /// Go on; lines go to lines.log in the directory
    GoOn,
}

impl OnHangup {
    fn hangup(self) -> Hangup {
        match self {
            Self::End => Hangup::End,
            Self::GoOn => Hangup::GoOn,
        }
    }
}

/// Ctrl-C, and other signals that ask for an end, as a wish to stop.
pub(super) struct StopSignal {
    /// Tells the work that a stop was asked for.
    pub(super) state: Arc<LoaderState>,
    begun: Arc<AtomicBool>,
}

/// A signal that was caught.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Caught {
    /// The terminal is gone.
    Hangup,
    /// An end is asked for.
    Stop,
}

/// Signals so close together are one wish: a window that is closed sends two.
const ONE_WISH: Duration = Duration::from_secs(1);

impl StopSignal {
    /// Catches the signals from here on. Until [`Self::begin`] they end the program at once.
    pub(super) fn catch(on_hangup: OnHangup) -> Result<Self> {
        let signal = Self {
            state: Arc::default(),
            begun: Arc::default(),
        };
        let (state, begun) = (signal.state.clone(), signal.begun.clone());
        let mut first: Option<Instant> = None;
        let handle = move |caught: Caught| {
            if caught == Caught::Hangup {
                hang_up();
                if on_hangup == OnHangup::GoOn {
                    return;
                }
            }
            let begun = begun.load(Ordering::SeqCst);
            state.stop.store(true, Ordering::SeqCst);
            // Before the work there is nothing to save. A second wish leaves at once, and the
            // newest checkpoint stays.
            if begun && first.get_or_insert_with(Instant::now).elapsed() < ONE_WISH {
                return;
            }
            match begun {
                true => terminal::restore(),
                false => tell("Stopped before the work began: repeat the command to begin it."),
            }
            std::process::exit(i32::from(STOPPED));
        };
        watch(handle).context("signals cannot be caught")?;
        Ok(signal)
    }

    /// The work begins.
    pub(super) fn begin(&self) {
        self.begun.store(true, Ordering::SeqCst);
    }
}

#[cfg(unix)]
fn watch(mut handle: impl FnMut(Caught) + Send + 'static) -> std::io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

    let mut watched = vec![SIGINT, SIGTERM];
    if !hangup_is_ignored() {
        watched.push(SIGHUP);
    }
    let mut signals = signal_hook::iterator::Signals::new(watched)?;
    std::thread::spawn(move || {
        for signal in signals.forever() {
            handle(match signal {
                SIGHUP => Caught::Hangup,
                _ => Caught::Stop,
            });
        }
    });
    Ok(())
}

#[cfg(not(unix))]
fn watch(mut handle: impl FnMut(Caught) + Send + 'static) -> Result<(), ctrlc::Error> {
    ctrlc::set_handler(move || handle(Caught::Stop))
}

/// Whether whoever started the program had SIGHUP ignored, as `nohup` does: then it is to go on.
/// Known on Linux alone.
pub(super) fn hangup_is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & 1 != 0)
}

/// The dashboard or the lines that show the work. Dropping it ends them.
pub(super) enum Display {
    Dashboard { _terminal: Terminal },
    Lines { _plain: Plain },
    Nothing,
}

/// Dashboard on a terminal, lines elsewhere, nothing with `--quiet`. Once the terminal is gone,
/// lines go to a file in `directory`.
pub(super) fn display(
    plain: bool,
    state: Arc<Mutex<DashboardState>>,
    stop: Arc<LoaderState>,
    on_hangup: OnHangup,
    directory: &Path,
) -> Result<Display> {
    if manners::quiet() {
        return Ok(Display::Nothing);
    }
    let sink = LineSink::new(Some(directory.join(LINES)));
    if terminal::available() && !plain {
        let terminal = Terminal::start(state, stop, on_hangup.hangup(), sink)
            .context("the dashboard cannot start; use --plain")?;
        return Ok(Display::Dashboard {
            _terminal: terminal,
        });
    }
    Ok(Display::Lines {
        _plain: Plain::start(state, EVERY, sink),
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

/// The command line as it was typed, with words quoted where a shell would split them.
fn command() -> String {
    // Lossy: a path that is not Unicode must not end the program.
    let mut words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
    let typed = words.next().unwrap_or_default();
    let by_cargo = std::env::var("CARGO_PKG_NAME").is_ok_and(|name| name == "uq4ct");
    let program = match by_cargo {
        true => by_cargo_run(Path::new(&typed)),
        false => quoted(&typed),
    };
    std::iter::once(program)
        .chain(words.map(|word| quoted(&word)))
        .collect::<Vec<_>>()
        .join(" ")
}

/// What was typed where cargo has started the program.
fn by_cargo_run(program: &Path) -> String {
    let name = program.file_name().map(|name| name.to_string_lossy());
    let release = program
        .components()
        .any(|part| part.as_os_str() == "release");
    let features = backend::compiled().join(",");
    let mut words = vec!["cargo run".to_owned()];
    words.extend(release.then(|| "--release".into()));
    if !features.is_empty() {
        words.push(format!("--features {features}"));
    }
    words.push(format!("--bin {} --", name.unwrap_or("uq4ct".into())));
    words.join(" ")
}

/// A word as a shell takes it.
pub(super) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// Writes a line to standard output. A reader that has left (`| head`) is no error, nor is a
/// terminal that is gone; whatever else keeps the line from being written ends the program, which
/// must not claim success. Control characters of data are shown, not obeyed.
pub(super) fn print(line: impl std::fmt::Display) {
    let line = printable(&line.to_string());
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe && !gone(&error) => {
            complain(format_args!(
                "error: standard output cannot be written: {error}"
            ));
            std::process::exit(1);
        }
        _ => {}
    }
}

/// Whether an error is that of a terminal which is gone.
fn gone(error: &std::io::Error) -> bool {
    const EIO: i32 = 5;
    hung_up() && error.raw_os_error() == Some(EIO)
}

/// Writes a note to standard error, unless `--quiet` leaves notes out.
pub(super) fn tell(line: impl std::fmt::Display) {
    if !manners::quiet() {
        complain(line);
    }
}

/// Writes a line about what went wrong to standard error. Who is not there to read it does not end
/// the program.
pub(super) fn complain(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{}", printable(&line.to_string()));
}

/// Files that this process may have open: `wanted`, or what the system allows at most. None where
/// that is not known.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(super) fn open_files(wanted: usize) -> Option<usize> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: writes into the structure that it is given.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return None;
    }
    let before = limit.rlim_cur;
    limit.rlim_cur = before.max(limit.rlim_max.min(wanted as libc::rlim_t));
    // SAFETY: reads the structure that it is given.
    let raised = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } == 0;
    let files = if raised { limit.rlim_cur } else { before };
    usize::try_from(files).ok()
}

/// Files that this process may have open, which is not known here.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(super) fn open_files(_: usize) -> Option<usize> {
    None
}
