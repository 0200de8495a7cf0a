//! The thread that owns the terminal: draws the state, reads keys, restores the screen whatever
//! happens.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use data::loader::LoaderState;
use ratatui::crossterm::event::{self, Event};

use super::draw::draw;
use super::keys::action;
use super::state::{DashboardState, Phase, resident_memory};
use super::view::View;

/// Time between two drawings.
const TICK: Duration = Duration::from_millis(150);

/// The dashboard while it is shown; dropping it restores the terminal.
pub struct Terminal {
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Whether both ends of the conversation are a terminal.
pub fn available() -> bool {
    std::io::stdout().is_terminal() && std::io::stdin().is_terminal()
}

/// Gives the terminal back as it was; does nothing where it was never taken.
pub fn restore() {
    if available() {
        ratatui::restore();
    }
}

impl Terminal {
    /// Takes the terminal over. `q` or Ctrl-C asks `stop` for an end.
    ///
    /// # Errors
    /// A terminal that cannot be set up.
    pub fn start(
        state: Arc<Mutex<DashboardState>>,
        stop: Arc<LoaderState>,
    ) -> std::io::Result<Self> {
        // Installs a panic hook that restores the screen before the message is printed.
        let mut terminal = ratatui::try_init()?;
        let end = Arc::new(AtomicBool::new(false));
        let watched = end.clone();
        let thread = std::thread::spawn(move || {
            let mut view = View {
                color: std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()),
                ..View::default()
            };
            let mut began = None;
            while !watched.load(Ordering::SeqCst) {
                {
                    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
                    state.memory = resident_memory();
                    state.stopping = stop.stop.load(Ordering::SeqCst);
                    if state.phase == Phase::Training {
                        let began = began.get_or_insert_with(Instant::now);
                        state.seconds = began.elapsed().as_secs_f64();
                    }
                    let snapshot = state.clone();
                    drop(state);
                    if terminal
                        .draw(|frame| draw(frame, &snapshot, &view))
                        .is_err()
                    {
                        break;
                    }
                }
                if keys(&mut view) {
                    stop.stop.store(true, Ordering::SeqCst);
                }
            }
            ratatui::restore();
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
            let _ = thread.join();
        }
        ratatui::restore();
    }
}

/// Waits a tick for keys; true if a stop was asked for.
fn keys(view: &mut View) -> bool {
    if !event::poll(TICK).unwrap_or(false) {
        return false;
    }
    let Ok(Event::Key(key)) = event::read() else {
        return false;
    };
    action(key).is_some_and(|action| action.apply(view))
}
