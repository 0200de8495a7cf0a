//! The thread that owns the terminal: draws the state, reads keys, restores the screen whatever
//! happens.

use std::ffi::OsStr;
use std::io::IsTerminal;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use data::loader::LoaderState;
use ratatui::crossterm::event::{self, Event};

use super::draw::draw;
use super::hangup::{Hangup, LineSink, hang_up, hung_up};
use super::keys::action;
use super::plain;
use super::state::{DashboardState, resident_memory};
use super::view::View;
use crate::card::Cards;

/// Time between two drawings.
const TICK: Duration = Duration::from_millis(150);
/// Drawings between two looks at the graphics cards' memory.
const CARD_TICKS: usize = 10;

/// The dashboard while it is shown; dropping it restores the terminal.
pub struct Terminal {
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Whether both ends of the conversation are a terminal, and one that can be drawn on.
pub fn available() -> bool {
    let term = std::env::var_os("TERM");
    std::io::stdout().is_terminal() && std::io::stdin().is_terminal() && draws(term.as_deref())
}

/// Whether a terminal of this name knows more than to print: `dumb` does not, nor does on Unix one
/// without a name.
pub fn draws(term: Option<&OsStr>) -> bool {
    match term {
        Some(name) => name != "dumb" && !name.is_empty(),
        None => cfg!(windows),
    }
}

/// Colours everywhere, or nowhere, whatever the environment says.
pub fn colours(shown: bool) {
    ratatui::crossterm::style::force_color_output(shown);
    COLOURS.store(if shown { 1 } else { 2 }, Ordering::SeqCst);
}

/// 0: as the environment says; 1: shown; 2: not.
static COLOURS: AtomicU8 = AtomicU8::new(0);

/// Whether the dashboard is drawn in colour.
fn in_colour() -> bool {
    match COLOURS.load(Ordering::SeqCst) {
        1 => true,
        2 => false,
        _ => std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()),
    }
}

/// Gives the terminal back as it was; does nothing where it was never taken, or is gone.
pub fn restore() {
    if available() && !hung_up() {
        let _ = ratatui::try_restore();
    }
}

impl Terminal {
    /// Takes the terminal over. `q` or Ctrl-C asks `stop` for an end. Once the terminal is gone,
    /// `hangup` says whether that asks for an end too, and `sink` takes what there is to say.
    ///
    /// # Errors
    /// A terminal that cannot be set up.
    pub fn start(
        state: Arc<Mutex<DashboardState>>,
        stop: Arc<LoaderState>,
        hangup: Hangup,
        sink: LineSink,
    ) -> std::io::Result<Self> {
        let mut watch = Watch::new()?;
        // Installs a panic hook that restores the screen before the message is printed.
        let mut terminal = ratatui::try_init()?;
        let end = Arc::new(AtomicBool::new(false));
        let watched = end.clone();
        let thread = std::thread::spawn(move || {
            let mut view = View {
                color: in_colour(),
                ..View::default()
            };
            let mut cards = None;
            let mut ticks = 0..;
            while !watched.load(Ordering::SeqCst) && !hung_up() {
                let log = {
                    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
                    state.memory = resident_memory();
                    if ticks
                        .next()
                        .is_some_and(|tick: usize| tick.is_multiple_of(CARD_TICKS))
                    {
                        let cards = cards.get_or_insert_with(|| Cards::of(&state.device));
                        state.card_memory = cards.memory();
                    }
                    state.stopping = stop.stop.load(Ordering::SeqCst);
                    state.tick();
                    let snapshot = state.clone();
                    drop(state);
                    if terminal
                        .draw(|frame| draw(frame, &snapshot, &view))
                        .is_err()
                    {
                        hang_up();
                        break;
                    }
                    snapshot.log_numbers()
                };
                match keys(&mut watch, &mut view, &log) {
                    Found::Nothing => {}
                    Found::Stop => stop.stop.store(true, Ordering::SeqCst),
                    Found::End => hang_up(),
                }
            }
            if !hung_up() {
                let _ = ratatui::try_restore();
                return;
            }
            // Dropped, it would write to the terminal, and panic where that fails.
            std::mem::forget(terminal);
            if hangup == Hangup::End {
                stop.stop.store(true, Ordering::SeqCst);
            }
            plain::go_on(&state, &watched, &sink);
        });
        Ok(Self {
            end,
            thread: Some(thread),
        })
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.end.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            // A terminal that went away in the middle of a key keeps the thread reading.
            let began = Instant::now();
            while !thread.is_finished() && began.elapsed() < Duration::from_secs(2) {
                std::thread::sleep(Duration::from_millis(5));
            }
            if thread.is_finished() {
                let _ = thread.join();
            }
        }
        restore();
    }
}

/// What waiting for keys found.
enum Found {
    Nothing,
    /// A stop was asked for.
    Stop,
    /// The terminal is gone.
    End,
}

/// Waits a tick for keys.
fn keys(watch: &mut Watch, view: &mut View, log: &Range<usize>) -> Found {
    match watch.waits() {
        Ok(true) => {}
        Ok(false) => return Found::Nothing,
        Err(_) => return Found::End,
    }
    while event::poll(Duration::ZERO).unwrap_or(false) {
        if let Ok(Event::Key(key)) = event::read()
            && action(key).is_some_and(|action| action.apply(view, log.clone()))
        {
            return Found::Stop;
        }
    }
    Found::Nothing
}

/// Watches standard input. crossterm itself would read a terminal that is gone for ever.
#[cfg(unix)]
struct Watch {
    poll: mio::Poll,
    events: mio::Events,
}

#[cfg(unix)]
impl Watch {
    fn new() -> std::io::Result<Self> {
        use std::os::fd::AsRawFd;

        let poll = mio::Poll::new()?;
        let stdin = std::io::stdin().as_raw_fd();
        let source = &mut mio::unix::SourceFd(&stdin);
        let registry = poll.registry();
        registry.register(source, mio::Token(0), mio::Interest::READABLE)?;
        let events = mio::Events::with_capacity(4);
        Ok(Self { poll, events })
    }

    /// Waits a tick; true if a key waits to be read. An error says that none will come any more.
    fn waits(&mut self) -> std::io::Result<bool> {
        match self.poll.poll(&mut self.events, Some(TICK)) {
            // A signal, such as that of another size of the window.
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => return Ok(false),
            waited => waited?,
        }
        let mut found = false;
        for event in &self.events {
            if event.is_read_closed() || event.is_error() {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            found |= event.is_readable();
        }
        Ok(found)
    }
}

/// Waits for keys as crossterm does.
#[cfg(not(unix))]
struct Watch;

#[cfg(not(unix))]
impl Watch {
    fn new() -> std::io::Result<Self> {
        Ok(Self)
    }

    fn waits(&mut self) -> std::io::Result<bool> {
        event::poll(TICK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_that_only_prints_is_not_drawn_on() {
        assert!(draws(Some(OsStr::new("xterm-256color"))));
        assert!(!draws(Some(OsStr::new("dumb"))));
        assert!(!draws(Some(OsStr::new(""))));
        assert_eq!(draws(None), cfg!(windows));
    }
}
