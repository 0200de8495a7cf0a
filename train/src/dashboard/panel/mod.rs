//! The panels of the dashboard, one a file.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::widgets::{Block, Paragraph, Wrap};

use super::state::{DashboardState, Phase};
use super::view::View;

mod curves;
mod experts;
mod flu;
pub(super) mod log;
mod reliability;

/// Draws the panel of an index into [`super::view::PANELS`].
pub(super) fn panel(
    frame: &mut Frame,
    area: Rect,
    state: &DashboardState,
    view: &View,
    index: usize,
) {
    match index {
        0 => curves::losses(frame, area, state, view),
        1 => curves::accuracy(frame, area, state, view),
        2 => reliability::reliability(frame, area, state, view),
        3 => flu::flu(frame, area, state, view),
        4 => experts::experts(frame, area, state, view),
        _ => log::panel(frame, area, state, view),
    }
}

/// A sentence in place of what a panel will show, or shows for other methods.
fn instead(frame: &mut Frame, area: Rect, block: Block, text: &str) {
    let text = Paragraph::new(text.to_owned()).wrap(Wrap { trim: true });
    frame.render_widget(text.block(block), area);
}

/// Why there are no values yet; none once there could be some.
fn waiting(state: &DashboardState) -> Option<&'static str> {
    match state.phase {
        Phase::Preparing => Some("Model and questions are being read."),
        Phase::Training if state.last_step().is_none() => Some("The first step is being computed."),
        _ => None,
    }
}

/// A bar of eighths of a cell.
fn bar(share: f64, width: usize) -> String {
    let eighths = (share.clamp(0.0, 1.0) * width as f64 * 8.0).round() as usize;
    let partial = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];
    let mut text = "█".repeat(eighths / 8);
    if !eighths.is_multiple_of(8) {
        text.push(partial[eighths % 8]);
    }
    text
}
