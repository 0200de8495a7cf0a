//! What the user looks at: which panel, how large, in which colours.

use std::ops::Range;

use ratatui::style::{Color, Modifier, Style};
use ratatui::widgets::Block;

/// What the user looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// Index into [`PANELS`]: what a small terminal shows, and what a large one frames.
    pub panel: usize,
    /// The panel has the whole screen.
    pub zoomed: bool,
    /// The keys are shown.
    pub help: bool,
    /// The number of the line after the last one that the log shows; none: it follows the log.
    pub log_end: Option<usize>,
    /// Colours; off with `NO_COLOR`.
    pub color: bool,
}

/// The panels; the log is the last.
pub const PANELS: [&str; 6] = ["Loss", "Accuracy", "Reliability", "FLU", "Experts", "Log"];

/// The log's index into [`PANELS`].
pub const LOG: usize = PANELS.len() - 1;

impl Default for View {
    fn default() -> Self {
        Self {
            panel: 0,
            zoomed: false,
            help: false,
            log_end: None,
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

    /// A panel on the whole screen; off again, if it is there already.
    pub fn zoom(&mut self, panel: usize) {
        self.zoomed = self.panel != panel || !self.zoomed;
        self.panel = panel;
    }

    /// Moves the log by lines, backwards if below 0; `log` numbers the lines that there are.
    pub fn scroll(&mut self, by: isize, log: Range<usize>) {
        let first = (log.start + 1).min(log.end);
        let end = self.log_end.unwrap_or(log.end).saturating_add_signed(by);
        // At the end it follows again.
        self.log_end = (end < log.end).then_some(end.max(first));
    }

    /// The style of a colour, plain without colours.
    pub(super) fn ink(&self, color: Color) -> Style {
        match self.color {
            true => Style::new().fg(color),
            false => Style::new(),
        }
    }

    /// The style of a panel's frame.
    pub(super) fn frame(&self, panel: usize) -> Style {
        match self.panel == panel {
            true => self.ink(Color::Cyan).add_modifier(Modifier::BOLD),
            false => self.ink(Color::DarkGray),
        }
    }

    /// The number and the name of a panel.
    pub(super) fn title(panel: usize) -> String {
        format!(" {} {} ", panel + 1, PANELS[panel])
    }

    /// The frame of a panel, its number and name on top.
    pub(super) fn block(&self, panel: usize) -> Block<'static> {
        Block::bordered()
            .title(Self::title(panel))
            .border_style(self.frame(panel))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_scrolls_between_its_ends_and_follows_at_the_last() {
        let mut view = View::default();
        let mut scroll = |by, log| {
            view.scroll(by, log);
            view.log_end
        };
        assert_eq!(scroll(-3, 10..30), Some(27));
        assert_eq!(scroll(-100, 10..30), Some(11));
        // What was said meanwhile does not move it, unless what it showed is forgotten.
        assert_eq!(scroll(1, 10..40), Some(12));
        assert_eq!(scroll(-1, 20..50), Some(21));
        assert_eq!(scroll(isize::MAX, 20..50), None);
        assert_eq!(scroll(-1, 0..0), None);
    }
}
