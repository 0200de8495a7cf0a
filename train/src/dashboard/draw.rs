//! The drawing: a pure function of state and view, for any size of terminal.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Clear, Paragraph, Tabs};

use super::flow::shortened;
use super::header::{Header, progress};
use super::keys::{HELP, KEYS};
use super::panel::log::log;
use super::panel::panel;
use super::state::DashboardState;
use super::view::{LOG, PANELS, View};

/// From this width and height on, all panels are shown at once.
const LARGE: (u16, u16) = (120, 36);
/// The most rows that an alarm has.
const ALARM_ROWS: usize = 3;

/// Draws everything.
pub fn draw(frame: &mut Frame, state: &DashboardState, view: &View) {
    let area = frame.area();
    match view.zoomed {
        true => zoomed(frame, area, state, view),
        false => panels(frame, area, state, view),
    }
    if view.help {
        help(frame, area, view);
    }
}

/// One panel on the whole screen, between progress and keys.
fn zoomed(frame: &mut Frame, area: Rect, state: &DashboardState, view: &View) {
    let alarm = alarms(state, area.width);
    let [head, body, alarm_area, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Fill(1),
        Constraint::Length(alarm.len() as u16),
        Constraint::Length(1),
    ])
    .areas(area);
    progress(frame, head, state, view);
    panel(frame, body, state, view, view.panel);
    draw_alarms(frame, alarm_area, alarm, view);
    keys_line(frame, foot, state, view);
}

/// The header, one panel or all of them, and the log.
fn panels(frame: &mut Frame, area: Rect, state: &DashboardState, view: &View) {
    let large = area.width >= LARGE.0 && area.height >= LARGE.1;
    let header = Header::of(state, view, area.width);
    let alarm = alarms(state, area.width);
    let foot = match (large, view.panel) {
        (true, _) => 6,
        // It has the body.
        (false, LOG) => 0,
        (false, _) => 3,
    };
    let [head, tabs, body, alarm_area, foot, keys] = Layout::vertical([
        Constraint::Length(header.height()),
        Constraint::Length(u16::from(!large)),
        Constraint::Fill(1),
        Constraint::Length(alarm.len() as u16),
        Constraint::Length(foot),
        Constraint::Length(1),
    ])
    .areas(area);
    header.draw(frame, head, state, view);
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
    draw_alarms(frame, alarm_area, alarm, view);
    if foot.height > 0 {
        let block = Block::new()
            .borders(Borders::TOP)
            .title(View::title(LOG))
            .border_style(view.frame(LOG));
        log(frame, foot, state, view, block);
    }
    keys_line(frame, keys, state, view);
}

fn all_panels(frame: &mut Frame, area: Rect, state: &DashboardState, view: &View) {
    let [top, bottom] = Layout::vertical([Constraint::Fill(1); 2]).areas(area);
    let top: [Rect; 2] = Layout::horizontal([Constraint::Fill(1); 2]).areas(top);
    // Wide enough for every expert of a usual mixture: the frame, the router's number, and five
    // characters an expert.
    let experts = state.expert_load.first().map_or(0, Vec::len);
    let wide = (7 + 5 * experts as u16).clamp(area.width / 3, area.width * 2 / 5);
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

/// What the last line says: how to stop and look around, or that it is stopping.
fn keys_line(frame: &mut Frame, area: Rect, state: &DashboardState, view: &View) {
    let text = match state.stopping {
        true => " Stopping: what is done is saved, and the command that goes on is printed. ",
        false => HELP,
    };
    frame.render_widget(Paragraph::new(text).style(view.ink(Color::DarkGray)), area);
}

/// How many alarms there were, and what the last one said; no rows without one.
fn alarms(state: &DashboardState, width: u16) -> Vec<String> {
    let Some(last) = state.alarms.last() else {
        return Vec::new();
    };
    let text = match state.alarms.len() {
        1 => format!("! {last}"),
        n => format!("! {n} alarms, the last: {last}"),
    };
    shortened(&text, usize::from(width).saturating_sub(2), ALARM_ROWS)
}

fn draw_alarms(frame: &mut Frame, area: Rect, rows: Vec<String>, view: &View) {
    let style = view.ink(Color::Red).add_modifier(Modifier::BOLD);
    let rows: Vec<Line> = rows
        .into_iter()
        .map(|row| Line::from(format!(" {row}")))
        .collect();
    frame.render_widget(Paragraph::new(rows).style(style), area);
}

/// Every key, over the middle of the screen.
fn help(frame: &mut Frame, area: Rect, view: &View) {
    let wide = KEYS.iter().map(|(key, _)| Span::raw(*key).width()).max();
    let wide = wide.unwrap_or(0);
    let rows: Vec<Line> = KEYS
        .iter()
        .map(|(key, what)| {
            let pad = " ".repeat(wide - Span::raw(*key).width());
            let bold = view.ink(Color::Cyan).add_modifier(Modifier::BOLD);
            Line::from(vec![
                Span::styled(format!(" {key}{pad}  "), bold),
                Span::raw(format!("{what} ")),
            ])
        })
        .collect();
    let width = rows.iter().map(Line::width).max().unwrap_or(0) as u16 + 2;
    let middle = area.centered(
        Constraint::Length(width),
        Constraint::Length(rows.len() as u16 + 2),
    );
    let block = Block::bordered()
        .title(" Keys ")
        .border_style(view.ink(Color::Cyan));
    frame.render_widget(Clear, middle);
    frame.render_widget(Paragraph::new(rows).block(block), middle);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::card::CardMemory;
    use crate::dashboard::state::{Earlier, HeldOutPoint, Phase, TrainPoint};
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
                    ("cross_entropy".into(), 0.9 / step as f64),
                    ("load_balancing_loss".into(), 1.1),
                    ("calibration_loss".into(), 0.2),
                ],
                accuracy: 0.5 + 0.02 * step as f64,
                flu: Some(0.4),
                gradient_norm: Some(1.5),
                learning_rate: Some(2e-4),
                tokens: 1234,
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

    fn plain() -> View {
        View {
            color: false,
            ..View::default()
        }
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
            let view = View { panel, ..plain() };
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
                    ..plain()
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
            help: true,
            ..plain()
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

    #[test]
    fn a_usual_screen_shows_all_panels_with_whole_titles() {
        let mut state = training();
        // As the main job: 24 layers of two routers of eight experts.
        state.expert_load = vec![vec![0.125; 8]; 48];
        state.card_memory = Some(CardMemory {
            used: 5 << 30,
            total: 139 << 30,
        });
        let drawn = screen(&state, &plain(), 120, 40);
        insta::assert_snapshot!("usual", drawn);
        for whole in [
            "held-out questions, n = 8",
            "▲ over 2x, ▼ under 1/4",
            "right 0.52",
        ] {
            assert!(drawn.contains(whole), "{whole}: {drawn}");
        }
        assert!(drawn.contains("GPU 5.0 of 139.0 GiB"), "{drawn}");
    }

    #[test]
    fn a_panel_takes_the_whole_screen_and_keys_lie_over_it() {
        let state = training();
        let view = View {
            panel: 1,
            zoomed: true,
            ..plain()
        };
        insta::assert_snapshot!("zoomed", screen(&state, &view, 80, 24));
        let view = View { help: true, ..view };
        insta::assert_snapshot!("keys", screen(&state, &view, 80, 24));
    }

    #[test]
    fn before_the_first_step_every_panel_says_what_is_awaited() {
        let mut state = DashboardState::new("boolq · uq4ct · tiny".into(), "cpu".into());
        let every = |state: &DashboardState, said: &str| {
            for panel in 0..LOG {
                let view = View { panel, ..plain() };
                let drawn = screen(state, &view, 80, 24);
                assert!(drawn.contains(said), "{panel}: {drawn}");
            }
        };
        every(&state, "Model and questions are being read.");
        state.begin_training(0, 40, 20);
        every(&state, "The first step is being computed.");
        // Only a step without routers says that there are none.
        let point = TrainPoint {
            step: 1,
            ..TrainPoint::default()
        };
        let row = ScoredRow::from_probabilities("a", 0, &[0.6, 0.4], None);
        state.on_train(point, &[row], Vec::new());
        let view = View {
            panel: 4,
            ..plain()
        };
        assert!(screen(&state, &view, 80, 24).contains("no routers"));
    }

    #[test]
    fn nothing_is_cut_off_however_long_it_is() {
        let mut state = training();
        state.title =
            "custom · uq4ct · /a/directory/far/down/that/holds/a/model/of/ones/own".into();
        state.say("A checkpoint cannot be gone on from, the one before serves: it holds 12 bytes fewer than its list says".into());
        let drawn = screen(&state, &plain(), 80, 24);
        for end in ["of/ones/own on cpu", "its list says", "GiB", "1:00"] {
            assert!(drawn.contains(end), "{end}: {drawn}");
        }
    }

    #[test]
    fn the_log_is_scrolled_back_and_says_so() {
        let mut state = training();
        (0..100).for_each(|line| state.say(format!("line {line}")));
        let mut view = View {
            panel: LOG,
            ..plain()
        };
        assert!(screen(&state, &view, 80, 24).contains("line 99"));
        view.scroll(-50, state.log_numbers());
        let drawn = screen(&state, &view, 80, 24);
        assert!(
            drawn.contains("line 49 ") && !drawn.contains("line 50 "),
            "{drawn}"
        );
        assert!(drawn.contains("50 newer"), "{drawn}");
        view.scroll(isize::MIN, state.log_numbers());
        assert!(screen(&state, &view, 80, 24).contains("step 12: held-out"));
    }

    #[test]
    fn curves_begin_at_the_first_step_after_a_resume() {
        let before = training();
        let mut state = DashboardState::new("boolq · uq4ct · tiny".into(), "cpu".into());
        state.begin_training(12, 40, 20);
        state.recall(Earlier {
            train: before.train.clone(),
            held_out: before.held_out.clone(),
        });
        assert_eq!(state.steps().count(), 12);
        let view = View {
            panel: 1,
            ..plain()
        };
        let drawn = screen(&state, &view, 80, 24);
        for name in ["● held-out accuracy", "× held-out ECE", "○ held-out FLU"] {
            assert!(drawn.contains(name), "{drawn}");
        }
        assert_eq!(state.tokens(), 12 * 1234);
        // Another member begins anew.
        state.begin_training(0, 40, 20);
        assert_eq!(state.steps().count(), 0);
    }
}
