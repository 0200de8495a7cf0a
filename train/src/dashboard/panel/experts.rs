//! How evenly each router spreads its tokens over the experts.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::Color;
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use crate::dashboard::state::DashboardState;
use crate::dashboard::view::View;

/// A line a router, or a group of neighbouring routers where there are more of them than lines.
pub(super) fn experts(frame: &mut Frame, area: Rect, state: &DashboardState, view: &View) {
    let block = view
        .block(4)
        .title_bottom(" share of tokens by router (row) and expert ");
    if state.expert_load.is_empty() {
        frame.render_widget(Paragraph::new(" no routers").block(block), area);
        return;
    }
    let inner = block.inner(area);
    // More routers than lines: each line is the mean of neighbours.
    let group = state
        .expert_load
        .len()
        .div_ceil(inner.height.max(1) as usize)
        .max(1);
    let lines: Vec<Line> = state
        .expert_load
        .chunks(group)
        .enumerate()
        .map(|(index, rows)| expert_line(index * group, rows, view))
        .collect();
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

fn expert_line(first: usize, rows: &[Vec<f64>], view: &View) -> Line<'static> {
    let experts = rows[0].len();
    let mut spans = vec![Span::raw(format!(" {first:>3} "))];
    for e in 0..experts {
        let load = rows.iter().map(|r| r[e]).sum::<f64>() / rows.len() as f64;
        let even = 1.0 / experts as f64;
        let color = match load / even {
            r if r > 2.0 => Color::Red,
            r if r < 0.25 => Color::Blue,
            _ => Color::Green,
        };
        spans.push(Span::styled(
            format!("{:>3.0}% ", load * 100.0),
            view.ink(color),
        ));
    }
    Line::from(spans)
}
