//! The panels of curves over optimizer steps: the loss's terms; accuracy, ECE and FLU.
//!
//! Curves differ in their strokes, and held-out points in their marks, so that they can be told
//! apart without colours. The legend stands over the plot, never on it.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Color;
use ratatui::symbols::Marker;
use ratatui::text::Span;
use ratatui::widgets::{Axis, Chart, Dataset, GraphType, Paragraph};

use super::{instead, waiting};
use crate::dashboard::flow::flow;
use crate::dashboard::state::{DashboardState, HeldOutPoint, TrainPoint};
use crate::dashboard::view::View;

/// How a curve is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Stroke {
    /// A line of dots and gaps, by turns; how many columns of Braille dots each takes.
    Line(&'static [usize]),
    /// Single points of this sign.
    Mark(char),
}

/// The strokes of lines, with what they look like in a legend.
const LINES: [(Stroke, &str); 5] = [
    (Stroke::Line(&[1]), "⠤⠤⠤⠤"),
    (Stroke::Line(&[6, 4]), "⠤⠤ ⠤⠤"),
    (Stroke::Line(&[1, 3]), "⠄ ⠄ ⠄"),
    (Stroke::Line(&[8, 3, 1, 3]), "⠤⠤⠤ ⠄"),
    (Stroke::Line(&[12, 8]), "⠤⠤⠤   ⠤"),
];

/// A curve.
struct Curve {
    name: String,
    color: Color,
    stroke: Stroke,
    points: Vec<(f64, f64)>,
}

impl Curve {
    /// A curve of training, smoothed; `turn` chooses its stroke.
    fn line(
        name: &str,
        color: Color,
        turn: usize,
        points: impl Iterator<Item = (usize, f64)>,
    ) -> Self {
        Self {
            name: name.replace('_', " "),
            color,
            stroke: LINES[turn % LINES.len()].0,
            points: smooth(series(points)),
        }
    }

    /// Held-out points.
    fn marks<'a>(
        name: &str,
        color: Color,
        sign: char,
        state: &'a DashboardState,
        value: impl Fn(&'a HeldOutPoint) -> Option<f64>,
    ) -> Self {
        let points = state.scorings().filter_map(|p| Some((p.step, value(p)?)));
        Self {
            name: format!("held-out {name}"),
            color,
            stroke: Stroke::Mark(sign),
            points: series(points),
        }
    }

    /// What it looks like, and its name.
    fn legend(&self, view: &View) -> Vec<Span<'static>> {
        let sample = match self.stroke {
            Stroke::Mark(sign) => sign.to_string(),
            line => {
                let found = LINES.iter().find(|(stroke, _)| *stroke == line);
                found.map_or("", |(_, sample)| sample).to_owned()
            }
        };
        let ink = view.ink(self.color);
        vec![Span::styled(format!("{sample} {}", self.name), ink)]
    }
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

/// The height of a curve at `x`, between its points; none beside them.
fn height(points: &[(f64, f64)], x: f64) -> Option<f64> {
    let after = points.partition_point(|point| point.0 < x);
    let right = points.get(after)?;
    if right.0 == x {
        return Some(right.1);
    }
    let left = points.get(after.checked_sub(1)?)?;
    let share = (x - left.0) / (right.0 - left.0);
    Some(left.1 + share * (right.1 - left.1))
}

/// The dots of a line of this pattern on a grid of `dots` columns and rows.
fn dots(
    points: &[(f64, f64)],
    pattern: &[usize],
    [x, y]: [[f64; 2]; 2],
    [columns, rows]: [usize; 2],
) -> Vec<(f64, f64)> {
    if let [only] = points {
        return vec![*only];
    }
    let period: usize = pattern.iter().sum();
    let drawn = |column: usize| {
        let mut rest = column % period.max(1);
        let turn = pattern.iter().position(|length| {
            let within = rest < *length;
            rest = rest.saturating_sub(*length);
            within
        });
        turn.is_some_and(|turn| turn.is_multiple_of(2))
    };
    let dot = (y[1] - y[0]) / rows.max(1) as f64;
    let mut found = Vec::new();
    let mut last: Option<f64> = None;
    for column in 0..columns {
        let at = x[0] + (x[1] - x[0]) * column as f64 / columns.saturating_sub(1).max(1) as f64;
        let Some(height) = height(points, at) else {
            last = None;
            continue;
        };
        if drawn(column) {
            // A steep line has several dots in a column.
            let from = last.unwrap_or(height);
            let steps = ((height - from).abs() / dot)
                .ceil()
                .clamp(1.0, rows.max(1) as f64) as usize;
            let between = |step: usize| from + (height - from) * step as f64 / steps as f64;
            found.extend((1..=steps).map(|step| (at, between(step))));
        }
        last = Some(height);
    }
    found
}

/// Columns between two marks, so that a line below them is still seen.
const BETWEEN: f64 = 4.0;

/// The points that have room beside each other in so many columns, the last among them.
fn apart(points: &[(f64, f64)], x: [f64; 2], columns: u16) -> Vec<(f64, f64)> {
    let least = BETWEEN * (x[1] - x[0]) / f64::from(columns.max(1));
    let mut kept: Vec<(f64, f64)> = Vec::new();
    for point in points.iter().rev() {
        if kept.last().is_none_or(|after| after.0 - point.0 >= least) {
            kept.push(*point);
        }
    }
    kept.reverse();
    kept
}

/// Draws curves; without `fixed` the vertical axis begins at 0 or below.
fn chart(
    frame: &mut Frame,
    area: Rect,
    (state, view): (&DashboardState, &View),
    panel: usize,
    curves: &[Curve],
    fixed: Option<[f64; 2]>,
) {
    let curves: Vec<&Curve> = curves.iter().filter(|c| !c.points.is_empty()).collect();
    let points = || curves.iter().flat_map(|c| &c.points);
    let block = view.block(panel);
    if points().next().is_none() {
        let text = waiting(state).unwrap_or("No step of training was made.");
        return instead(frame, area, block, text);
    }
    let block = block.title_bottom(" by optimizer step ");
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let legend = flow(
        curves.iter().map(|curve| curve.legend(view)).collect(),
        inner.width.into(),
    );
    // A plot of two rows says more than a legend alone.
    let over = (legend.len() as u16).min(inner.height.saturating_sub(4));
    let [names, plot] =
        Layout::vertical([Constraint::Length(over), Constraint::Fill(1)]).areas(inner);
    frame.render_widget(Paragraph::new(legend), names);
    let bounds = |f: fn(&(f64, f64)) -> f64| {
        points()
            .map(f)
            .fold([f64::MAX, f64::MIN], |[lo, hi], v| [lo.min(v), hi.max(v)])
    };
    let x = bounds(|p| p.0);
    let x = [x[0].min(x[1] - 1.0), x[1]];
    let y = fixed.unwrap_or_else(|| {
        let [lo, hi] = bounds(|p| p.1);
        let lo = lo.min(0.0);
        [lo, (hi + 0.05 * (hi - lo)).max(lo + 1e-6)]
    });
    let labels = [y[0], f64::midpoint(y[0], y[1]), y[1]].map(|v| label(v, y[1]));
    let wide = labels.iter().map(String::len).max().unwrap_or(0) as u16 + 1;
    let grid = [
        2 * usize::from(plot.width.saturating_sub(wide)),
        4 * usize::from(plot.height.saturating_sub(2)),
    ];
    let drawn: Vec<Vec<(f64, f64)>> = curves
        .iter()
        .map(|curve| match curve.stroke {
            Stroke::Line(pattern) => dots(&curve.points, pattern, [x, y], grid),
            Stroke::Mark(_) => apart(&curve.points, x, plot.width.saturating_sub(wide)),
        })
        .collect();
    let datasets = curves.iter().zip(&drawn).map(|(curve, points)| {
        let marker = match curve.stroke {
            Stroke::Line(_) => Marker::Braille,
            Stroke::Mark(sign) => Marker::Custom(sign),
        };
        Dataset::default()
            .marker(marker)
            .graph_type(GraphType::Scatter)
            .style(view.ink(curve.color))
            .data(points)
    });
    let axis = |bounds: [f64; 2]| {
        Axis::default()
            .bounds(bounds)
            .style(view.ink(Color::DarkGray))
    };
    let steps = [x[0], f64::midpoint(x[0], x[1]).round(), x[1]].map(|v| format!("{v:.0}"));
    let chart = Chart::new(datasets.collect())
        .legend_position(None)
        .x_axis(axis(x).labels(steps))
        .y_axis(axis(y).labels(labels));
    frame.render_widget(chart, plot);
}

/// A number beside the vertical axis, whose highest is `most`.
fn label(value: f64, most: f64) -> String {
    match most.abs() {
        100.0.. => format!("{value:.0}"),
        0.1.. => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

/// Every term of the loss, smoothed, and the held-out loss.
pub(super) fn losses(frame: &mut Frame, area: Rect, state: &DashboardState, view: &View) {
    let colors = [Color::Yellow, Color::Magenta, Color::Green];
    let term = |point: &TrainPoint, name: &str| {
        let found = point.terms.iter().find(|term| term.0 == name);
        found.map(|term| (point.step, term.1))
    };
    let first = state.steps().next();
    let names = first.into_iter().flat_map(|point| &point.terms);
    let mut curves: Vec<Curve> = names
        .enumerate()
        .map(|(turn, (name, _))| {
            let points = state.steps().filter_map(|point| term(point, name));
            Curve::line(name, colors[turn % colors.len()], turn, points)
        })
        .collect();
    let held_out = Curve::marks("loss", Color::Cyan, '●', state, |p| Some(p.loss));
    curves.push(held_out);
    chart(frame, area, (state, view), 0, &curves, None);
}

/// Accuracy, calibration error and FLU, between 0 and 1.
pub(super) fn accuracy(frame: &mut Frame, area: Rect, state: &DashboardState, view: &View) {
    let accuracies = state.steps().map(|p| (p.step, p.accuracy));
    let flu = state.steps().filter_map(|p| Some((p.step, p.flu?)));
    let curves = [
        Curve::line("accuracy", Color::Green, 0, accuracies),
        Curve::line("FLU", Color::Magenta, 1, flu),
        Curve::marks("accuracy", Color::Cyan, '●', state, |p| Some(p.accuracy)),
        Curve::marks("ECE", Color::Red, '×', state, |p| Some(p.ece)),
        Curve::marks("FLU", Color::Yellow, '○', state, |p| p.flu),
    ];
    chart(frame, area, (state, view), 1, &curves, Some([0.0, 1.0]));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dashed_line_has_gaps_and_a_steep_one_none_in_its_columns() {
        let points = [(0.0, 0.0), (9.0, 0.0)];
        let columns = |pattern: &[usize]| -> Vec<usize> {
            let found = dots(&points, pattern, [[0.0, 9.0], [0.0, 1.0]], [10, 8]);
            found.iter().map(|point| point.0.round() as usize).collect()
        };
        assert_eq!(columns(&[1]), (0..10).collect::<Vec<_>>());
        assert_eq!(columns(&[2, 3]), [0, 1, 5, 6]);
        assert_eq!(columns(&[2, 1, 1, 1]), [0, 1, 3, 5, 6, 8]);
        let steep = dots(&[(0.0, 0.0), (1.0, 1.0)], &[1], [[0.0, 1.0]; 2], [2, 8]);
        assert_eq!(steep.len(), 1 + 8);
        assert_eq!(
            dots(&[(3.0, 0.5)], &[1], [[2.0, 3.0]; 2], [4, 4]),
            [(3.0, 0.5)]
        );
    }

    #[test]
    fn marks_leave_room_for_the_lines_below_them_and_the_last_stays() {
        let points: Vec<(f64, f64)> = (0..=100).map(|x| (f64::from(x), 0.5)).collect();
        let kept = apart(&points, [0.0, 100.0], 50);
        let at: Vec<f64> = kept.iter().map(|point| point.0).collect();
        assert_eq!(at.len(), 13);
        assert_eq!((at[0], at[12]), (4.0, 100.0));
        assert_eq!(apart(&points[..1], [0.0, 1.0], 50), &points[..1]);
    }

    #[test]
    fn a_curve_has_a_height_between_its_points_alone() {
        let points = [(1.0, 0.0), (3.0, 1.0)];
        assert_eq!(height(&points, 2.0), Some(0.5));
        assert_eq!(height(&points, 3.0), Some(1.0));
        assert_eq!(height(&points, 1.0), Some(0.0));
        assert_eq!(height(&points, 0.5), None);
        assert_eq!(height(&points, 3.5), None);
    }
}
