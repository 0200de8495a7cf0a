//! The drawing: a pure function of state and view, for any size of terminal.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Axis, Block, Chart, Dataset, Gauge, GraphType, Paragraph, Tabs};

use super::state::{DashboardState, FLU_BARS, HeldOutPoint, Phase, clock};

/// What the user looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// Index into [`PANELS`]: what a small terminal shows, and what a large one frames.
    pub panel: usize,
    /// Colours; off with `NO_COLOR`.
    pub color: bool,
}

/// The panels.
pub const PANELS: [&str; 5] = ["Loss", "Accuracy", "Reliability", "FLU", "Experts"];

/// From this width and height on, all panels are shown at once.
const LARGE: (u16, u16) = (120, 36);

impl Default for View {
    fn default() -> Self {
        Self {
            panel: 0,
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

    fn ink(&self, color: Color) -> Style {
        match self.color {
            true => Style::new().fg(color),
            false => Style::new(),
        }
    }

    fn block(&self, panel: usize) -> Block<'static> {
        let style = match self.panel == panel {
            true => self.ink(Color::Cyan).add_modifier(Modifier::BOLD),
            false => self.ink(Color::DarkGray),
        };
        Block::bordered()
            .title(format!(" {} {} ", panel + 1, PANELS[panel]))
            .border_style(style)
    }
}

/// Draws everything.
pub fn draw(frame: &mut Frame, state: &DashboardState, view: &View) {
    let area = frame.area();
    let large = area.width >= LARGE.0 && area.height >= LARGE.1;
    let log = if large { 6 } else { 3 };
    let [head, tabs, body, foot, help] = Layout::vertical([
        Constraint::Length(4),
        Constraint::Length(u16::from(!large)),
        Constraint::Fill(1),
        Constraint::Length(log),
        Constraint::Length(1),
    ])
    .areas(area);
    header(frame, head, state, view);
    if large {
        all_panels(frame, body, state, view);
    } else {
        let titles = PANELS
            .iter()
            .enumerate()
            .map(|(i, p)| format!("{} {p}", i + 1));
        let tab = Tabs::new(titles)
            .select(view.panel)
            .highlight_style(view.ink(Color::Cyan).add_modifier(Modifier::REVERSED));
        frame.render_widget(tab, tabs);
        panel(frame, body, state, view, view.panel);
    }
    events(frame, foot, state, view);
    let text = match state.stopping {
        true => " Stopping after this step: a checkpoint is written, --resume goes on. ",
        false => " q stop and save   Tab or 1-5 panel ",
    };
    frame.render_widget(Paragraph::new(text).style(view.ink(Color::DarkGray)), help);
}

fn all_panels(frame: &mut Frame, area: Rect, state: &DashboardState, view: &View) {
    let [top, bottom] = Layout::vertical([Constraint::Fill(1); 2]).areas(area);
    let top: [Rect; 2] = Layout::horizontal([Constraint::Fill(1); 2]).areas(top);
    // Wide enough for every expert of a usual mixture; the frame, the router's number, and five characters an expert.
    let experts = state.expert_load.first().map_or(0, Vec::len);
    let wide = (6 + 5 * experts as u16).clamp(area.width / 3, area.width / 2);
    let parts = [
        Constraint::Fill(1),
        Constraint::Fill(1),
        Constraint::Length(wide),
    ];
    let bottom: [Rect; 3] = Layout::horizontal(parts).areas(bottom);
    for (index, place) in top.into_iter().chain(bottom).enumerate() {
        panel(frame, place, state, view, index);
    }
}

fn panel(frame: &mut Frame, area: Rect, state: &DashboardState, view: &View, index: usize) {
    match index {
        0 => losses(frame, area, state, view),
        1 => accuracy(frame, area, state, view),
        2 => reliability(frame, area, state, view),
        3 => flu(frame, area, state, view),
        _ => experts(frame, area, state, view),
    }
}

fn header(frame: &mut Frame, area: Rect, state: &DashboardState, view: &View) {
    let [title, gauge, facts] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(2),
    ])
    .areas(area);
    let bold = view.ink(Color::White).add_modifier(Modifier::BOLD);
    frame.render_widget(
        Line::from(vec![
            Span::styled(format!(" {} ", state.title), bold),
            Span::styled(format!(" on {} ", state.device), view.ink(Color::DarkGray)),
        ]),
        title,
    );
    let bar = Gauge::default()
        .ratio(state.progress().clamp(0.0, 1.0))
        .label(progress_label(state))
        .use_unicode(true)
        .gauge_style(view.ink(Color::Cyan));
    frame.render_widget(bar, gauge);
    frame.render_widget(Paragraph::new(facts_lines(state)), facts);
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

fn facts_lines(state: &DashboardState) -> Vec<Line<'static>> {
    let mut first = vec![format!(
        " {:.0} tokens/s   {:.2} GiB   {}",
        state.tokens_per_second,
        state.memory as f64 / f64::from(1 << 30),
        clock(state.seconds)
    )];
    if let Some(point) = state.train.last() {
        first.push(format!(
            "useful tokens {:.0} %",
            point.useful_tokens * 100.0
        ));
    }
    let second = match state.train.last() {
        Some(point) => {
            let terms = point.terms.iter().map(|(name, v)| format!("{name} {v:.3}"));
            let flu = point.flu.map(|flu| format!("flu {flu:.3}"));
            let parts: Vec<String> = std::iter::once(format!("loss {:.3}", point.loss))
                .chain(terms)
                .chain(flu)
                .collect();
            format!(" {}", parts.join("   "))
        }
        None => String::new(),
    };
    vec![Line::from(first.join("   ")), Line::from(second)]
}

/// Points of a value over steps, thinned to what a chart can show.
fn series(points: impl Iterator<Item = (usize, f64)>) -> Vec<(f64, f64)> {
    let all: Vec<(f64, f64)> = points
        .filter(|(_, y)| y.is_finite())
        .map(|(x, y)| (x as f64, y))
        .collect();
    let keep = all.len().div_ceil(400).max(1);
    all.into_iter().step_by(keep).collect()
}

/// Exponential mean, so that single batches do not hide the trend.
fn smooth(points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    let mut mean = None;
    points
        .into_iter()
        .map(|(x, y)| {
            let next = mean.map_or(y, |m: f64| 0.9 * m + 0.1 * y);
            mean = Some(next);
            (x, next)
        })
        .collect()
}

type Curve<'a> = (String, Color, Marker, Vec<(f64, f64)>);

fn chart(
    frame: &mut Frame,
    area: Rect,
    block: Block,
    view: &View,
    curves: &[Curve],
    fixed: Option<[f64; 2]>,
) {
    let points = || curves.iter().flat_map(|c| &c.3);
    if points().next().is_none() {
        frame.render_widget(Paragraph::new(" no values yet").block(block), area);
        return;
    }
    let bounds = |f: fn(&(f64, f64)) -> f64| {
        points()
            .map(f)
            .fold([f64::MAX, f64::MIN], |[lo, hi], v| [lo.min(v), hi.max(v)])
    };
    let x = bounds(|p| p.0);
    let x = [x[0].min(x[1] - 1.0), x[1]];
    let y = fixed.unwrap_or_else(|| {
        let [lo, hi] = bounds(|p| p.1);
        [lo.min(0.0), hi.max(lo + 1e-6)]
    });
    let datasets = curves
        .iter()
        .map(|(name, color, marker, points)| {
            Dataset::default()
                .name(name.clone())
                .marker(*marker)
                .graph_type(GraphType::Line)
                .style(view.ink(*color))
                .data(points)
        })
        .collect();
    let axis = |bounds: [f64; 2], digits: usize| {
        Axis::default()
            .bounds(bounds)
            .labels([
                format!("{:.digits$}", bounds[0]),
                format!("{:.digits$}", bounds[1]),
            ])
            .style(view.ink(Color::DarkGray))
    };
    let chart = Chart::new(datasets)
        .block(block)
        .x_axis(axis(x, 0))
        .y_axis(axis(y, 2))
        .hidden_legend_constraints((Constraint::Percentage(80), Constraint::Percentage(60)));
    frame.render_widget(chart, area);
}

fn losses(frame: &mut Frame, area: Rect, state: &DashboardState, view: &View) {
    let colors = [Color::Yellow, Color::Magenta, Color::Green];
    let names: Vec<&'static str> = state
        .train
        .first()
        .map(|p| p.terms.iter().map(|t| t.0).collect())
        .unwrap_or_default();
    let mut curves: Vec<Curve> = names
        .iter()
        .enumerate()
        .map(|(t, name)| {
            let points = series(state.train.iter().map(|p| (p.step, p.terms[t].1)));
            let color = colors[t % colors.len()];
            ((*name).to_string(), color, Marker::Braille, smooth(points))
        })
        .collect();
    let held_out = series(state.held_out.iter().map(|p| (p.step, p.loss)));
    if !held_out.is_empty() {
        curves.push(("held-out loss".into(), Color::Cyan, Marker::Dot, held_out));
    }
    chart(frame, area, view.block(0), view, &curves, None);
}

fn accuracy(frame: &mut Frame, area: Rect, state: &DashboardState, view: &View) {
    let held_out =
        |f: fn(&HeldOutPoint) -> f64| series(state.held_out.iter().map(|p| (p.step, f(p))));
    let curves: Vec<Curve> = vec![
        (
            "accuracy".into(),
            Color::Green,
            Marker::Braille,
            smooth(series(state.train.iter().map(|p| (p.step, p.accuracy)))),
        ),
        (
            "held-out accuracy".into(),
            Color::Cyan,
            Marker::Dot,
            held_out(|p| p.accuracy),
        ),
        (
            "held-out ECE".into(),
            Color::Red,
            Marker::Dot,
            held_out(|p| p.ece),
        ),
        (
            "FLU".into(),
            Color::Magenta,
            Marker::Braille,
            smooth(series(
                state.train.iter().filter_map(|p| Some((p.step, p.flu?))),
            )),
        ),
    ];
    chart(frame, area, view.block(1), view, &curves, Some([0.0, 1.0]));
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

fn reliability(frame: &mut Frame, area: Rect, state: &DashboardState, view: &View) {
    let (what, rows) = state.shown();
    let block = view
        .block(2)
        .title_bottom(format!(" {what}, n = {} ", rows.len()));
    let inner = block.inner(area);
    let width = (inner.width as usize).saturating_sub(24).max(4);
    let bins = state.reliability();
    let lines: Vec<Line> =
        std::iter::once(Line::from(" confidence  accuracy      n  │ = calibrated"))
            .chain(
                bins.iter()
                    .filter(|bin| bin.count > 0)
                    .map(|bin| reliability_line(*bin, width, view)),
            )
            .collect();
    let empty = rows.is_empty();
    let text = if empty {
        vec![Line::from(" no values yet")]
    } else {
        lines
    };
    frame.render_widget(Paragraph::new(text).block(block), area);
}

fn reliability_line(bin: crate::metric::Bin, width: usize, view: &View) -> Line<'static> {
    let text = bar(bin.accuracy, width);
    let mut cells: Vec<char> = text.chars().collect();
    cells.resize(width + 1, ' ');
    let mark = ((bin.confidence * width as f64).round() as usize).min(width);
    cells[mark] = '│';
    let over = bin.accuracy < bin.confidence;
    let color = if over { Color::Red } else { Color::Green };
    Line::from(vec![
        Span::raw(format!(
            " {:>6.2} {:>9.2} {:>5} ",
            bin.confidence, bin.accuracy, bin.count
        )),
        Span::styled(cells.into_iter().collect::<String>(), view.ink(color)),
    ])
}

fn flu(frame: &mut Frame, area: Rect, state: &DashboardState, view: &View) {
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

fn experts(frame: &mut Frame, area: Rect, state: &DashboardState, view: &View) {
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

fn events(frame: &mut Frame, area: Rect, state: &DashboardState, view: &View) {
    let shown = area.height.saturating_sub(1) as usize;
    let skip = state.log.len().saturating_sub(shown);
    let lines: Vec<Line> = state
        .log
        .iter()
        .skip(skip)
        .map(|line| Line::from(format!(" {line}")))
        .collect();
    let block = Block::new()
        .borders(ratatui::widgets::Borders::TOP)
        .border_style(view.ink(Color::DarkGray));
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dashboard::state::TrainPoint;
    use crate::prediction::ScoredRow;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn training() -> DashboardState {
        let mut state = DashboardState::new("boolq · uq4ct · tiny".into(), "cpu".into());
        state.begin_training(0, 40, 20);
        let rows = |step: usize| -> Vec<ScoredRow> {
            (0..8)
                .map(|i| {
                    let p = 0.55 + 0.05 * i as f64;
                    ScoredRow::from_probabilities(
                        format!("{step}-{i}"),
                        usize::from((i + step).is_multiple_of(3)),
                        &[p, 1.0 - p],
                        Some(0.3 + 0.05 * i as f64),
                    )
                })
                .collect()
        };
        for step in 1..=12 {
            let point = TrainPoint {
                step,
                loss: 1.0 / step as f64,
                terms: vec![
                    ("cross_entropy", 0.9 / step as f64),
                    ("load_balancing_loss", 1.1),
                    ("calibration_loss", 0.2),
                ],
                accuracy: 0.5 + 0.02 * step as f64,
                flu: Some(0.4),
                tokens_per_second: 250.0,
                useful_tokens: 0.96,
            };
            state.on_train(
                point,
                &rows(step),
                vec![vec![0.25; 4], vec![0.7, 0.1, 0.1, 0.1]],
            );
        }
        let point = HeldOutPoint {
            step: 12,
            loss: 0.7,
            accuracy: 0.625,
            ece: 0.11,
            nll: 0.66,
            flu: Some(0.41),
        };
        state.on_held_out(point, &rows(0));
        state.seconds = 60.0;
        state.memory = 3 << 29;
        state
    }

    fn screen(state: &DashboardState, view: &View, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, state, view)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn small_screens_show_one_panel_at_a_time() {
        let state = training();
        for (panel, name) in PANELS.iter().enumerate() {
            let view = View {
                panel,
                color: false,
            };
            insta::assert_snapshot!(format!("small-{name}"), screen(&state, &view, 80, 24));
        }
    }

    #[test]
    fn a_large_screen_shows_all_panels() {
        insta::assert_snapshot!(
            "large",
            screen(
                &training(),
                &View {
                    panel: 2,
                    color: false
                },
                200,
                60
            )
        );
    }

    #[test]
    fn every_phase_and_size_can_be_drawn() {
        let mut state = training();
        for phase in [
            Phase::Preparing,
            Phase::Training,
            Phase::Evaluating {
                name: "test".into(),
                done: 3,
                total: 9,
            },
            Phase::Reporting,
            Phase::Done,
        ] {
            state.phase = phase;
            for (width, height) in [(1, 1), (20, 5), (80, 24), (119, 80), (300, 100)] {
                screen(&state, &View::default(), width, height);
                screen(&DashboardState::default(), &View::default(), width, height);
            }
        }
    }

    #[test]
    fn no_color_draws_without_color() {
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        let view = View {
            panel: 3,
            color: false,
        };
        terminal
            .draw(|frame| draw(frame, &training(), &view))
            .unwrap();
        let cells = terminal.backend().buffer().content();
        assert!(
            cells
                .iter()
                .all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset)
        );
    }
}
