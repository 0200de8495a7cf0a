//! What the keys do. A key is bound in [`action`] and said in [`KEYS`].

use std::ops::Range;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::view::{PANELS, View};

/// The last line of the dashboard.
pub(super) const HELP: &str = " q stop and save   1-6 panel   ? keys ";

/// Every key, and what it does.
pub(super) const KEYS: [(&str, &str); 7] = [
    ("q, Ctrl-C", "save and stop; how to go on is printed"),
    ("1-6", "that panel on the whole screen, and back"),
    ("Tab, ← →, h l", "the next panel, the one before"),
    ("Enter", "this panel on the whole screen, and back"),
    ("↑ ↓, k j, PgUp PgDn", "move the log"),
    ("Home, End", "the log's beginning, its end"),
    ("?, Esc", "show these keys; back to all panels"),
];

/// Lines of the log that a page key moves by.
const PAGE: isize = 10;

/// What a key asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Stop after this optimizer step and save.
    Stop,
    /// Show the next panel.
    NextPanel,
    /// Show the panel before.
    PreviousPanel,
    /// Show the panel of this index on the whole screen, or all again.
    Panel(usize),
    /// Show this panel on the whole screen, or all again.
    Zoom,
    /// Show the keys, or no more.
    Help,
    /// Close what lies over the panels.
    Back,
    /// Move the log by lines, backwards if below 0.
    Scroll(isize),
}

/// What a key is bound to.
pub(super) fn action(key: KeyEvent) -> Option<Action> {
    if key.kind != KeyEventKind::Press {
        return None;
    }
    match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Some(Action::Stop),
        KeyCode::Char('q') => Some(Action::Stop),
        KeyCode::Tab | KeyCode::Right | KeyCode::Char('l') => Some(Action::NextPanel),
        KeyCode::BackTab | KeyCode::Left | KeyCode::Char('h') => Some(Action::PreviousPanel),
        KeyCode::Up | KeyCode::Char('k') => Some(Action::Scroll(-1)),
        KeyCode::Down | KeyCode::Char('j') => Some(Action::Scroll(1)),
        KeyCode::PageUp => Some(Action::Scroll(-PAGE)),
        KeyCode::PageDown => Some(Action::Scroll(PAGE)),
        KeyCode::Home => Some(Action::Scroll(isize::MIN)),
        KeyCode::End => Some(Action::Scroll(isize::MAX)),
        KeyCode::Enter => Some(Action::Zoom),
        KeyCode::Esc => Some(Action::Back),
        KeyCode::Char('?') => Some(Action::Help),
        KeyCode::Char(digit) => {
            let number = digit.to_digit(10)? as usize;
            let panel = number.checked_sub(1)?;
            (panel < PANELS.len()).then_some(Action::Panel(panel))
        }
        _ => None,
    }
}

impl Action {
    /// Changes the view; true if a stop was asked for. `log` numbers the lines of the log.
    pub(super) fn apply(self, view: &mut View, log: Range<usize>) -> bool {
        match self {
            Self::Stop => return true,
            Self::NextPanel => view.next(),
            Self::PreviousPanel => view.previous(),
            Self::Panel(panel) => view.zoom(panel),
            Self::Zoom => view.zoom(view.panel),
            Self::Help => view.help = !view.help,
            Self::Back if view.help => view.help = false,
            Self::Back => view.zoomed = false,
            Self::Scroll(by) => view.scroll(by, log),
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dashboard::view::LOG;

    #[test]
    fn keys_turn_the_panels_and_stop() {
        let mut view = View::default();
        let mut press = |code, modifiers| {
            let action = action(KeyEvent::new(code, modifiers));
            let stop = action.map(|a| a.apply(&mut view, 0..5));
            (stop, view.panel)
        };
        let plain = KeyModifiers::NONE;
        assert_eq!(press(KeyCode::Char('5'), plain), (Some(false), 4));
        assert_eq!(press(KeyCode::Tab, plain), (Some(false), LOG));
        assert_eq!(press(KeyCode::Tab, plain), (Some(false), 0));
        assert_eq!(press(KeyCode::Left, plain), (Some(false), LOG));
        for unbound in ['0', '7', 'x', 'c'] {
            assert_eq!(press(KeyCode::Char(unbound), plain), (None, LOG));
        }
        assert_eq!(press(KeyCode::Char('q'), plain).0, Some(true));
        assert_eq!(
            press(KeyCode::Char('c'), KeyModifiers::CONTROL).0,
            Some(true)
        );
    }

    #[test]
    fn a_panel_has_the_whole_screen_until_it_is_asked_for_again() {
        let mut view = View::default();
        let mut press = |code| {
            let action = action(KeyEvent::new(code, KeyModifiers::NONE));
            action.map(|a| a.apply(&mut view, 0..5));
            (view.panel, view.zoomed, view.help)
        };
        assert_eq!(press(KeyCode::Char('3')), (2, true, false));
        assert_eq!(press(KeyCode::Char('4')), (3, true, false));
        assert_eq!(press(KeyCode::Char('?')), (3, true, true));
        assert_eq!(press(KeyCode::Esc), (3, true, false));
        assert_eq!(press(KeyCode::Char('4')), (3, false, false));
        assert_eq!(press(KeyCode::Enter), (3, true, false));
        assert_eq!(press(KeyCode::Esc), (3, false, false));
        assert_eq!(press(KeyCode::Up), (3, false, false));
        assert_eq!(view.log_end, Some(4));
    }
}
