//! The histogram of FLU, right and wrong answers apart.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::Color;
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::{bar, instead, waiting};
use crate::dashboard::state::{DashboardState, FLU_BARS};
use crate::dashboard::view::View;

/// A line a bar of FLU.
pub(super) fn flu(frame: &mut Frame, area: Rect, state: &DashboardState, view: &View) {
    let (what, rows) = state.shown();
    let block = view.block(3);
    let Some([right, wrong]) = state.flu_histogram() else {
        let none = "This method has no routers, so there is no FLU.";
        let none = Some(none).filter(|_| !rows.is_empty());
        let text = none.or(waiting(state)).unwrap_or("No questions yet.");
        return instead(frame, area, block, text);
    };
    let block = block.title_bottom(format!(" {what} "));
    let inner = block.inner(area);
    let most = right
        .iter()
        .chain(&wrong)
        .copied()
        .max()
        .unwrap_or(1)
        .max(1) as f64;
    let width = (inner.width as usize).saturating_sub(10) / 2;
    // As wide as the bars below it.
    let heading = |what: &str, counts, color| {
        let text = format!("{what}, mean {}", mean(counts));
        let text = match text.len() > width {
            true => format!("{what} {}", mean(counts)),
            false => text,
        };
        Span::styled(format!("{text:<width$}"), view.ink(color))
    };
    let mut lines = vec![Line::from(vec![
        Span::raw("  FLU  "),
        heading("right", &right, Color::Green),
        Span::raw(" "),
        heading("wrong", &wrong, Color::Red),
    ])];
    for i in (0..FLU_BARS).filter(|i| right[*i] + wrong[*i] > 0) {
        let cell = |count: u64, color| {
            let text = bar(count as f64 / most, width);
            let pad = width.saturating_sub(text.chars().count());
            Span::styled(text + &" ".repeat(pad), view.ink(color))
        };
        lines.push(Line::from(vec![
            Span::raw(format!("  {:.2} ", i as f64 / FLU_BARS as f64)),
            cell(right[i], Color::Green),
            Span::raw(" "),
            cell(wrong[i], Color::Red),
        ]));
    }
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

/// The mean FLU of counted bars, each at its middle.
fn mean(counts: &[u64; FLU_BARS]) -> String {
    let n: u64 = counts.iter().sum();
    let middle = |bar: usize| (bar as f64 + 0.5) / FLU_BARS as f64;
    let bars = counts.iter().enumerate();
    let sum: f64 = bars.map(|(bar, count)| middle(bar) * *count as f64).sum();
    match n {
        0 => "–".to_string(),
        n => format!("{:.2}", sum / n as f64),
    }
}
