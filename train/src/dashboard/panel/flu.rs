//! The histogram of FLU, right and wrong answers apart.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::Color;
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::bar;
use crate::dashboard::state::{DashboardState, FLU_BARS};
use crate::dashboard::view::View;

/// A line a bar of FLU.
pub(super) fn flu(frame: &mut Frame, area: Rect, state: &DashboardState, view: &View) {
    let (what, _) = state.shown();
    let block = view.block(3).title_bottom(format!(" {what} "));
    let Some([right, wrong]) = state.flu_histogram() else {
        let text = " no routers, so no FLU";
        frame.render_widget(Paragraph::new(text).block(block), area);
        return;
    };
    let inner = block.inner(area);
    let most = right
        .iter()
        .chain(&wrong)
        .copied()
        .max()
        .unwrap_or(1)
        .max(1) as f64;
    let width = (inner.width as usize).saturating_sub(10) / 2;
    let mean = |counts: &[u64; FLU_BARS]| {
        let n: u64 = counts.iter().sum();
        let sum: f64 = counts
            .iter()
            .enumerate()
            .map(|(i, c)| (i as f64 + 0.5) / FLU_BARS as f64 * *c as f64)
            .sum();
        match n {
            0 => "–".to_string(),
            n => format!("{:.2}", sum / n as f64),
        }
    };
    let mut lines = vec![Line::from(vec![
        Span::raw("  FLU  "),
        Span::styled(
            format!("right (mean {})", mean(&right)),
            view.ink(Color::Green),
        ),
        Span::raw("  "),
        Span::styled(
            format!("wrong (mean {})", mean(&wrong)),
            view.ink(Color::Red),
        ),
    ])];
    for i in 0..FLU_BARS {
        if right[i] + wrong[i] == 0 {
            continue;
        }
        let cell = |count: u64| {
            let text = bar(count as f64 / most, width);
            let pad = width.saturating_sub(text.chars().count());
            text + &" ".repeat(pad)
        };
        lines.push(Line::from(vec![
            Span::raw(format!("  {:.2} ", i as f64 / FLU_BARS as f64)),
            Span::styled(cell(right[i]), view.ink(Color::Green)),
            Span::raw(" "),
            Span::styled(cell(wrong[i]), view.ink(Color::Red)),
        ]));
    }
    frame.render_widget(Paragraph::new(lines).block(block), area);
}
