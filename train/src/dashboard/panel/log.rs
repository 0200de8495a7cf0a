//! The log: what was said so far, the latest last.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::Line;
use ratatui::widgets::{Block, Paragraph};

use crate::dashboard::flow::wrap;
use crate::dashboard::state::DashboardState;
use crate::dashboard::view::{LOG, View};

/// The lines before the one that the view has scrolled to, as many as have room in the block.
pub(in crate::dashboard) fn log(
    frame: &mut Frame,
    area: Rect,
    state: &DashboardState,
    view: &View,
    block: Block<'static>,
) {
    let numbers = state.log_numbers();
    let end = match view.log_end {
        Some(end) => end.clamp((numbers.start + 1).min(numbers.end), numbers.end),
        None => numbers.end,
    };
    let block = match numbers.end - end {
        0 => block,
        newer => block.title_bottom(format!(" {newer} newer: ↓ or End ")),
    };
    let inner = block.inner(area);
    let (width, height) = (inner.width.into(), inner.height.into());
    let mut rows: Vec<Line> = Vec::new();
    // Backwards, until the room is taken.
    for line in state.log.iter().take(end - numbers.start).rev() {
        if rows.len() >= height {
            break;
        }
        let wrapped = wrap(line, usize::saturating_sub(width, 2));
        let lead = |row: usize| if row == 0 { " " } else { "   " };
        let wrapped = wrapped.iter().enumerate();
        let wrapped: Vec<Line> = wrapped
            .map(|(row, text)| Line::from(format!("{}{text}", lead(row))))
            .collect();
        rows.extend(wrapped.into_iter().rev());
    }
    rows.truncate(height);
    rows.reverse();
    if rows.is_empty() {
        rows.push(Line::from(" nothing yet"));
    }
    frame.render_widget(Paragraph::new(rows).block(block), area);
}

/// The log as a panel.
pub(super) fn panel(frame: &mut Frame, area: Rect, state: &DashboardState, view: &View) {
    log(frame, area, state, view, view.block(LOG));
}
