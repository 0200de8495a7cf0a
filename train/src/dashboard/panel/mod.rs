//! The panels of the dashboard, one a file.

use ratatui::Frame;
use ratatui::layout::Rect;

use super::state::DashboardState;
use super::view::View;

mod curves;
mod experts;
mod flu;
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
        _ => experts::experts(frame, area, state, view),
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
