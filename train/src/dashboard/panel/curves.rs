//! The panels of curves over optimizer steps: the loss's terms; accuracy, ECE and FLU.

use ratatui::Frame;
use ratatui::layout::{Constraint, Rect};
use ratatui::style::Color;
use ratatui::symbols::Marker;
use ratatui::widgets::{Axis, Block, Chart, Dataset, GraphType, Paragraph};

use crate::dashboard::state::{DashboardState, HeldOutPoint};
use crate::dashboard::view::View;

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

/// Name, colour, marker and points of a curve.
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

/// Every term of the loss, smoothed, and the held-out loss.
pub(super) fn losses(frame: &mut Frame, area: Rect, state: &DashboardState, view: &View) {
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

/// Accuracy, calibration error and FLU, between 0 and 1.
pub(super) fn accuracy(frame: &mut Frame, area: Rect, state: &DashboardState, view: &View) {
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
