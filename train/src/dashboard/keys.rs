//! What the keys do. A key is bound in [`action`] and said in [`HELP`].

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::view::{PANELS, View};

/// The last line of the dashboard.
pub(super) const HELP: &str = " q stop and save   Tab or 1-5 panel ";

/// What a key asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Stop after this optimizer step and save.
    Stop,
    /// Show the next panel.
    NextPanel,
    /// Show the panel before.
    PreviousPanel,
    /// Show the panel of this index.
    Panel(usize),
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
        KeyCode::Char(digit) => {
            let number = digit.to_digit(10)? as usize;
            let panel = number.checked_sub(1)?;
            (panel < PANELS.len()).then_some(Action::Panel(panel))
        }
        _ => None,
    }
}

impl Action {
    /// Changes the view; true if a stop was asked for.
    pub(super) fn apply(self, view: &mut View) -> bool {
        match self {
            Self::Stop => return true,
            Self::NextPanel => view.next(),
            Self::PreviousPanel => view.previous(),
            Self::Panel(panel) => view.panel = panel,
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_turn_the_panels_and_stop() {
        let mut view = View::default();
        let mut press = |code, modifiers| {
            let stop = action(KeyEvent::new(code, modifiers)).map(|a| a.apply(&mut view));
            (stop, view.panel)
        };
        let plain = KeyModifiers::NONE;
        assert_eq!(press(KeyCode::Char('5'), plain), (Some(false), 4));
        assert_eq!(press(KeyCode::Tab, plain), (Some(false), 0));
        assert_eq!(press(KeyCode::Left, plain), (Some(false), 4));
        for unbound in ['0', '6', 'x', 'c'] {
            assert_eq!(press(KeyCode::Char(unbound), plain), (None, 4));
        }
        assert_eq!(press(KeyCode::Char('q'), plain).0, Some(true));
        assert_eq!(
            press(KeyCode::Char('c'), KeyModifiers::CONTROL).0,
            Some(true)
        );
    }
}
