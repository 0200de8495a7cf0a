//! What the user looks at: which panel, in which colours.

use ratatui::style::{Color, Modifier, Style};
use ratatui::widgets::Block;

/// What the user looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// Index into [`PANELS`]: what a small terminal shows, and what a large one frames.
    pub panel: usize,
    /// Colours; off with `NO_COLOR`.
    pub color: bool,
}

/// The panels.
pub const PANELS: [&str; 5] = ["Loss", "Accuracy", "Reliability", "FLU", "Experts"];

impl Default for View {
    fn default() -> Self {
        Self {
            panel: 0,
            color: true,
        }
    }
}

impl View {
    /// The next panel.
    pub fn next(&mut self) {
        self.panel = (self.panel + 1) % PANELS.len();
    }

    /// The panel before.
    pub fn previous(&mut self) {
        self.panel = (self.panel + PANELS.len() - 1) % PANELS.len();
    }

    /// The style of a colour, plain without colours.
    pub(super) fn ink(&self, color: Color) -> Style {
        match self.color {
            true => Style::new().fg(color),
            false => Style::new(),
        }
    }

    /// The frame of a panel, its number and name on top.
    pub(super) fn block(&self, panel: usize) -> Block<'static> {
        let style = match self.panel == panel {
            true => self.ink(Color::Cyan).add_modifier(Modifier::BOLD),
            false => self.ink(Color::DarkGray),
        };
        Block::bordered()
            .title(format!(" {} {} ", panel + 1, PANELS[panel]))
            .border_style(style)
    }
}
