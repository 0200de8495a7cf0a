//! What stands over the panels: title, progress, numbers of the last step.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier};
use ratatui::text::{Line, Span};
use ratatui::widgets::{LineGauge, Paragraph};

use super::flow::{flow, shortened};
use super::state::{DashboardState, Phase, clock};
use super::view::View;

/// Rows that a title may have.
const TITLE_ROWS: usize = 2;

/// The header's rows at some width.
pub(super) struct Header {
    title: Vec<Line<'static>>,
    facts: Vec<Line<'static>>,
}

impl Header {
    /// Lays the header out in `width` columns.
    pub(super) fn of(state: &DashboardState, view: &View, width: u16) -> Self {
        let width = usize::from(width);
        let title = format!("{} on {}", state.title, state.device);
        let bold = view.ink(Color::White).add_modifier(Modifier::BOLD);
        let title = shortened(&title, width.saturating_sub(2), TITLE_ROWS);
        Self {
            title: title
                .into_iter()
                .map(|row| Line::from(Span::styled(format!(" {row}"), bold)))
                .collect(),
            facts: flow(facts(state, view), width),
        }
    }

    /// Rows of the whole header.
    pub(super) fn height(&self) -> u16 {
        (self.title.len() + 1 + self.facts.len()) as u16
    }

    pub(super) fn draw(self, frame: &mut Frame, area: Rect, state: &DashboardState, view: &View) {
        let [title, gauge, facts] = Layout::vertical([
            Constraint::Length(self.title.len() as u16),
            Constraint::Length(1),
            Constraint::Fill(1),
        ])
        .areas(area);
        frame.render_widget(Paragraph::new(self.title), title);
        progress(frame, gauge, state, view);
        frame.render_widget(Paragraph::new(self.facts), facts);
    }
}

/// How far the run is: in words, then as a bar.
pub(super) fn progress(frame: &mut Frame, area: Rect, state: &DashboardState, view: &View) {
    let ratio = state.progress().clamp(0.0, 1.0);
    let bar = LineGauge::default()
        .ratio(ratio)
        .label(format!(" {} ", progress_label(state)))
        .filled_symbol("█")
        .unfilled_symbol("─")
        .filled_style(view.ink(Color::Cyan))
        .unfilled_style(view.ink(Color::DarkGray));
    frame.render_widget(bar, area);
}

fn progress_label(state: &DashboardState) -> String {
    match &state.phase {
        Phase::Preparing => "preparing".into(),
        Phase::Training => {
            let epoch = state.step as f64 / state.steps_per_epoch.max(1) as f64;
            let left = state.seconds_left().map_or("?".into(), clock);
            format!(
                "step {}/{}  epoch {epoch:.2}  {left} left",
                state.step, state.total_steps
            )
        }
        Phase::Evaluating { name, done, total } => format!("{name}: {done}/{total}"),
        Phase::Reporting => "bootstrap and report".into(),
        Phase::Done => "done".into(),
    }
}

/// The numbers, those that matter most first.
fn facts(state: &DashboardState, view: &View) -> Vec<Vec<Span<'static>>> {
    let mut found: Vec<(String, String)> = Vec::new();
    let mut add = |name: &str, value: String| found.push((name.replace('_', " "), value));
    if let Some(point) = state.last_step() {
        add("loss", format!("{:.3}", point.loss));
        for (name, value) in &point.terms {
            add(name, format!("{value:.3}"));
        }
        if let Some(flu) = point.flu {
            add("FLU", format!("{flu:.3}"));
        }
        if let Some(rate) = point.learning_rate {
            add("learning rate", format!("{rate:.2e}"));
        }
        if let Some(norm) = point.gradient_norm {
            add("gradient norm", format!("{norm:.3}"));
        }
        add("tokens", tokens(state.tokens()));
        // Earlier releases did not write it down.
        if point.useful_tokens.is_finite() {
            add(
                "useful tokens",
                format!("{:.0} %", point.useful_tokens * 100.0),
            );
        }
    }
    if state.tokens_per_second > 0.0 {
        add("tokens/s", format!("{:.0}", state.tokens_per_second));
    }
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    add("memory", format!("{:.2} GiB", gib(state.memory)));
    if let Some(card) = state.card_memory {
        let (used, total) = (gib(card.used), gib(card.total));
        add("GPU", format!("{used:.1} of {total:.1} GiB"));
    }
    add("time", clock(state.seconds));
    let dim = view.ink(Color::DarkGray);
    found
        .into_iter()
        .map(|(name, value)| vec![Span::styled(name + " ", dim), Span::raw(value)])
        .collect()
}

/// `950`, `12.3k`, `4.56M`
fn tokens(n: usize) -> String {
    match n {
        0..1_000 => n.to_string(),
        1_000..1_000_000 => format!("{:.1}k", n as f64 / 1e3),
        _ => format!("{:.2}M", n as f64 / 1e6),
    }
}
