//! How evenly each router spreads its tokens over the experts.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::Color;
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::{instead, waiting};
use crate::dashboard::state::DashboardState;
use crate::dashboard::view::View;

/// Columns of a router's number.
const NUMBER: usize = 5;
/// The shares of tokens in a cell of one column, from none to twice an even share and more.
const SHADES: [char; 5] = [' ', '░', '▒', '▓', '█'];

/// A line a router, or a group of neighbouring routers where there are more of them than lines.
pub(super) fn experts(frame: &mut Frame, area: Rect, state: &DashboardState, view: &View) {
    let block = view.block(4);
    let Some(experts) = state.expert_load.first().map(Vec::len) else {
        let none = "This method has no routers, so there are no experts to choose from.";
        let text = waiting(state).unwrap_or(none);
        return instead(frame, area, block, text);
    };
    let cell = Cell::of(usize::from(block.inner(area).width), experts);
    let block = block.title_bottom(cell.title());
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
        .map(|(index, rows)| expert_line(index * group, rows, cell, view))
        .collect();
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

/// How an expert's share is written: as widely as there is room for.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Cell {
    /// `25% `
    Percent,
    /// `25 `
    Number,
    /// `▓`
    Shade,
}

impl Cell {
    fn of(width: usize, experts: usize) -> Self {
        match width.saturating_sub(NUMBER) / experts.max(1) {
            5.. => Self::Percent,
            3..5 => Self::Number,
            _ => Self::Shade,
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Percent => " tokens by expert; ▲ over 2x, ▼ under 1/4 ",
            Self::Number => " % of tokens; ▲ 2x, ▼ 1/4 ",
            Self::Shade => " tokens by expert; █ 2x ",
        }
    }

    /// A share, with a sign where it is far from an even one.
    fn text(self, load: f64, ratio: f64) -> String {
        let sign = match ratio {
            r if r > 2.0 => '▲',
            r if r < 0.25 => '▼',
            _ => ' ',
        };
        match self {
            Self::Percent => format!("{:>3.0}%{sign}", load * 100.0),
            // 100 and a sign would be four columns.
            Self::Number => format!("{:>2.0}{sign}", (load * 100.0).min(99.0)),
            Self::Shade => {
                let shade = (ratio * 2.0).round().clamp(0.0, 4.0) as usize;
                SHADES[shade].to_string()
            }
        }
    }
}

fn expert_line(first: usize, rows: &[Vec<f64>], cell: Cell, view: &View) -> Line<'static> {
    let experts = rows[0].len();
    let mut spans = vec![Span::raw(format!(" {first:>3} "))];
    for e in 0..experts {
        let load = rows.iter().map(|r| r[e]).sum::<f64>() / rows.len() as f64;
        let ratio = load * experts as f64;
        let color = match ratio {
            r if r > 2.0 => Color::Red,
            r if r < 0.25 => Color::Blue,
            _ => Color::Green,
        };
        spans.push(Span::styled(cell.text(load, ratio), view.ink(color)));
    }
    Line::from(spans)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_written_as_widely_as_there_is_room_for() {
        assert_eq!(Cell::of(78, 8), Cell::Percent);
        assert_eq!(Cell::of(44, 8), Cell::Number);
        assert_eq!(Cell::of(37, 16), Cell::Shade);
        let even = [Cell::Percent, Cell::Number, Cell::Shade].map(|cell| cell.text(0.125, 1.0));
        assert_eq!(even, [" 12% ", "12 ", "▒"]);
        assert_eq!(Cell::Percent.text(0.5, 4.0), " 50%▲");
        assert_eq!(Cell::Number.text(1.0, 8.0), "99▲");
        assert_eq!(Cell::Percent.text(0.01, 0.08), "  1%▼");
    }
}
