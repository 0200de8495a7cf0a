//! The drawing: a pure function of state and view, for any size of terminal.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Gauge, Paragraph, Tabs, Wrap};

use super::keys;
use super::panel::panel;
use super::state::{DashboardState, Phase, clock};
use super::view::{PANELS, View};

/// From this width and height on, all panels are shown at once.
const LARGE: (u16, u16) = (120, 36);

/// Draws everything.
pub fn draw(frame: &mut Frame, state: &DashboardState, view: &View) {
    let area = frame.area();
    let large = area.width >= LARGE.0 && area.height >= LARGE.1;
    let log = if large { 6 } else { 3 };
    let [head, tabs, body, alarm, foot, help] = Layout::vertical([
        Constraint::Length(4),
        Constraint::Length(u16::from(!large)),
        Constraint::Fill(1),
        Constraint::Length(alarm_rows(state)),
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
    alarms(frame, alarm, state, view);
    events(frame, foot, state, view);
    let text = match state.stopping {
        true => " Stopping after this step: a checkpoint is written, --resume goes on. ",
        false => keys::HELP,
    };
    frame.render_widget(Paragraph::new(text).style(view.ink(Color::DarkGray)), help);
}

fn all_panels(frame: &mut Frame, area: Rect, state: &DashboardState, view: &View) {
    let [top, bottom] = Layout::vertical([Constraint::Fill(1); 2]).areas(area);
    let top: [Rect; 2] = Layout::horizontal([Constraint::Fill(1); 2]).areas(top);
    // Wide enough for every expert of a usual mixture; the frame, the router's number, and five
    // characters an expert.
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

/// Rows of the alarms: none without one.
fn alarm_rows(state: &DashboardState) -> u16 {
    if state.alarms.is_empty() { 0 } else { 2 }
}

/// How many alarms there were, and what the last one said.
fn alarms(frame: &mut Frame, area: Rect, state: &DashboardState, view: &View) {
    let Some(last) = state.alarms.last() else {
        return;
    };
    let text = match state.alarms.len() {
        1 => format!(" ! {last}"),
        n => format!(" ! {n} alarms, the last: {last}"),
    };
    let style = view.ink(Color::Red).add_modifier(Modifier::BOLD);
    let shown = Paragraph::new(text).style(style).wrap(Wrap { trim: false });
    frame.render_widget(shown, area);
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
        .borders(Borders::TOP)
        .border_style(view.ink(Color::DarkGray));
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dashboard::state::{HeldOutPoint, TrainPoint};
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
                gradient_norm: Some(1.5),
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
    fn alarms_have_a_row_on_every_size_of_screen() {
        let mut state = training();
        let quiet = screen(&state, &View::default(), 80, 24);
        state.raise(12, &["step 12: the loss is 2.1 and was 0.9".into()]);
        assert_eq!(
            state.log.back().unwrap(),
            "Alarm, step 12: the loss is 2.1 and was 0.9"
        );
        for (width, height) in [(80, 24), (120, 40), (200, 60)] {
            let drawn = screen(&state, &View::default(), width, height);
            assert!(
                drawn.contains(" ! step 12: the loss is 2.1 and was 0.9"),
                "{drawn}"
            );
        }
        assert!(!quiet.contains(" ! "), "{quiet}");
        state.raise(13, &["step 13: two experts are dead".into()]);
        let drawn = screen(&state, &View::default(), 80, 24);
        assert!(
            drawn.contains(" ! 2 alarms, the last: step 13: two experts"),
            "{drawn}"
        );
        // Training begins anew, for another member.
        state.begin_training(0, 40, 20);
        assert_eq!(
            screen(&state, &View::default(), 80, 24)
                .matches(" ! ")
                .count(),
            0
        );
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
    fn every_phase_says_where_it_stands_on_every_size_of_screen() {
        let scored = Phase::Evaluating {
            name: "test".into(),
            done: 3,
            total: 9,
        };
        let mut state = training();
        for (phase, label) in [
            (Phase::Preparing, "preparing"),
            (Phase::Training, "step 12/40  epoch 0.60  2:20 left"),
            (scored, "test: 3/9"),
            (Phase::Reporting, "bootstrap and report"),
            (Phase::Done, "done"),
        ] {
            state.phase = phase;
            for (width, height) in [(1, 1), (20, 5), (80, 24), (119, 80), (300, 100)] {
                let view = View::default();
                let drawn = screen(&state, &view, width, height);
                assert_eq!(drawn.lines().count(), usize::from(height), "{label}");
                if width >= 80 {
                    assert!(drawn.contains(label), "{label} on {width}: {drawn}");
                }
                let empty = screen(&DashboardState::default(), &view, width, height);
                assert_eq!(empty.lines().count(), usize::from(height));
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
