//! The reliability diagram: accuracy against confidence, bin by bin.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::Color;
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::{bar, instead, waiting};
use crate::dashboard::state::DashboardState;
use crate::dashboard::view::View;
use crate::metric::calibration::Bin;

/// Columns of the numbers before a bar.
const NUMBERS: usize = 18;

/// A line a bin: how confident, how often right, how many.
pub(super) fn reliability(frame: &mut Frame, area: Rect, state: &DashboardState, view: &View) {
    let (what, rows) = state.shown();
    let block = view.block(2);
    if rows.is_empty() {
        let text = waiting(state).unwrap_or("No questions yet.");
        return instead(frame, area, block, text);
    }
    let block = block.title_bottom(format!(" {what}, n = {} ", rows.len()));
    let inner = block.inner(area);
    let width = (inner.width as usize).saturating_sub(NUMBERS + 1).max(4);
    let bins = state.reliability();
    let head = Line::from(" said right     n  │ = calibrated");
    let bins = bins.iter().filter(|bin| bin.count > 0);
    let lines = bins.map(|bin| reliability_line(*bin, width, view));
    let lines: Vec<Line> = std::iter::once(head).chain(lines).collect();
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

fn reliability_line(bin: Bin, width: usize, view: &View) -> Line<'static> {
    let text = bar(bin.accuracy, width);
    let mut cells: Vec<char> = text.chars().collect();
    cells.resize(width + 1, ' ');
    let mark = ((bin.confidence * width as f64).round() as usize).min(width);
    cells[mark] = '│';
    let over = bin.accuracy < bin.confidence;
    let color = if over { Color::Red } else { Color::Green };
    Line::from(vec![
        Span::raw(format!(
            " {:>4.2}  {:>4.2} {:>5} ",
            bin.confidence, bin.accuracy, bin.count
        )),
        Span::styled(cells.into_iter().collect::<String>(), view.ink(color)),
    ])
}
