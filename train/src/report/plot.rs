//! The report's plots as SVG.

use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use crate::error::TrainError;
use crate::metric::calibration::{Bin, BinEdge, reliability};
use crate::metric::ranking::risk_coverage;
use crate::metric::{Outcome, outcomes};
use crate::prediction::ScoredRow;
use crate::tracker::MetricsLine;

const SIZE: (u32, u32) = (440, 330);
const BLUE: RGBColor = RGBColor(46, 107, 158);
const ORANGE: RGBColor = RGBColor(208, 112, 44);
const GREEN: RGBColor = RGBColor(62, 140, 92);
const GREY: RGBColor = RGBColor(140, 140, 140);

pub(crate) type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
pub(crate) type Cartesian<'a, 'b> =
    ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

pub(crate) fn fail(error: impl std::fmt::Display) -> TrainError {
    TrainError::Training(format!("a plot could not be drawn: {error}"))
}

/// Draws on a fresh SVG of the report's size and returns its text.
fn svg(draw: impl FnOnce(&Area) -> Result<(), TrainError>) -> Result<String, TrainError> {
    sized(SIZE, draw)
}

/// The same of another size.
pub(crate) fn sized(
    size: (u32, u32),
    draw: impl FnOnce(&Area) -> Result<(), TrainError>,
) -> Result<String, TrainError> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        area.fill(&WHITE).map_err(fail)?;
        draw(&area)?;
        area.present().map_err(fail)?;
    }
    Ok(text)
}

pub(crate) fn axes<'a, 'b>(
    area: &'a Area<'b>,
    title: &str,
    [x_name, y_name]: [&str; 2],
    x: std::ops::Range<f64>,
    y: std::ops::Range<f64>,
) -> Result<Cartesian<'a, 'b>, TrainError> {
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 15))
        .margin(8)
        .x_label_area_size(34)
        .y_label_area_size(44)
        .build_cartesian_2d(x, y)
        .map_err(fail)?;
    chart
        .configure_mesh()
        .x_desc(x_name)
        .y_desc(y_name)
        .x_labels(6)
        .max_light_lines(0)
        .bold_line_style(RGBColor(232, 232, 232))
        .axis_desc_style(("sans-serif", 12))
        .label_style(("sans-serif", 11))
        .draw()
        .map_err(fail)?;
    Ok(chart)
}

pub(crate) fn legend<'a, 'b: 'a>(
    chart: &mut Cartesian<'a, 'b>,
    position: SeriesLabelPosition,
) -> Result<(), TrainError> {
    chart
        .configure_series_labels()
        .position(position)
        .background_style(WHITE.mix(0.8))
        .border_style(GREY)
        .label_font(("sans-serif", 11))
        .draw()
        .map_err(fail)
}

pub(crate) fn line(
    chart: &mut Cartesian,
    points: Vec<(f64, f64)>,
    color: RGBColor,
    name: &str,
) -> Result<(), TrainError> {
    chart
        .draw_series(LineSeries::new(points, color.stroke_width(2)))
        .map_err(fail)?
        .label(name)
        .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 14, y)], color.stroke_width(2)));
    Ok(())
}

/// Accuracy by confidence with the number of questions over each bar; the gap to the diagonal is the miscalibration.
pub(super) fn reliability_diagram(
    title: &str,
    rows: &[ScoredRow],
    bins: usize,
) -> Result<String, TrainError> {
    let refs: Vec<&ScoredRow> = rows.iter().collect();
    let found = reliability(&outcomes(&refs), bins, BinEdge::Right);
    diagram(title, "confidence", &found)
}

/// The same with FLU as the confidence; none without routers.
pub(super) fn flu_diagram(
    title: &str,
    rows: &[ScoredRow],
    bins: usize,
) -> Result<Option<String>, TrainError> {
    let pairs: Option<Vec<Outcome>> = rows.iter().map(|r| Some((r.flu?, r.correct()))).collect();
    match pairs {
        Some(pairs) if !pairs.is_empty() => {
            let found = reliability(&pairs, bins, BinEdge::Right);
            diagram(title, "FLU", &found).map(Some)
        }
        _ => Ok(None),
    }
}

fn diagram(title: &str, x_name: &str, bins: &[Bin]) -> Result<String, TrainError> {
    svg(|area| draw_bins(area, title, x_name, bins))
}

/// Accuracy by confidence, the number of questions over each bar.
pub(crate) fn draw_bins(
    area: &Area,
    title: &str,
    x_name: &str,
    bins: &[Bin],
) -> Result<(), TrainError> {
    let width = 1.0 / bins.len() as f64;
    let mut chart = axes(area, title, [x_name, "accuracy"], 0.0..1.0, 0.0..1.08)?;
    for (i, bin) in bins.iter().enumerate().filter(|(_, bin)| bin.count > 0) {
        let (left, right) = (i as f64 * width, (i + 1) as f64 * width);
        let bar = |from: f64, to: f64, style: ShapeStyle| {
            Rectangle::new([(left, from), (right, to)], style)
        };
        let gap = if bin.accuracy < bin.confidence {
            ORANGE
        } else {
            GREEN
        };
        chart
            .draw_series([
                bar(0.0, bin.accuracy, BLUE.mix(0.75).filled()),
                bar(bin.accuracy, bin.confidence, gap.mix(0.35).filled()),
                bar(0.0, bin.accuracy, BLUE.stroke_width(1)),
            ])
            .map_err(fail)?;
        let top = bin.accuracy.max(bin.confidence) + 0.05;
        chart
            .draw_series([Text::new(
                bin.count.to_string(),
                (left + width * 0.15, top),
                ("sans-serif", 10),
            )])
            .map_err(fail)?;
    }
    chart
        .draw_series(LineSeries::new(
            [(0.0, 0.0), (1.0, 1.0)],
            GREY.stroke_width(1),
        ))
        .map_err(fail)?;
    Ok(())
}

/// Error rate of the most confident share by that share, thinned to what a plot can show.
pub(crate) fn risk_curve(pairs: &[Outcome]) -> Vec<(f64, f64)> {
    let risks = risk_coverage(pairs);
    let n = risks.len() as f64;
    let step = risks.len().div_ceil(400).max(1);
    // The first few points are single questions: noise that would fill the plot.
    let from = (risks.len() / 50).max(1) - 1;
    risks
        .iter()
        .enumerate()
        .skip(from)
        .step_by(step)
        .map(|(k, risk)| ((k + 1) as f64 / n, *risk))
        .collect()
}

/// Error rate of the most confident share, by confidence of base and tuned model and by FLU.
pub(super) fn risk_coverage_curve(
    base: &[ScoredRow],
    tuned: &[ScoredRow],
) -> Result<String, TrainError> {
    let by_confidence = |rows: &[ScoredRow]| {
        let refs: Vec<&ScoredRow> = rows.iter().collect();
        risk_curve(&outcomes(&refs))
    };
    let (base, confidence) = (by_confidence(base), by_confidence(tuned));
    let pairs: Option<Vec<Outcome>> = tuned.iter().map(|r| Some((r.flu?, r.correct()))).collect();
    let flu = pairs.map(|pairs| risk_curve(&pairs)).unwrap_or_default();
    let most = base
        .iter()
        .chain(&confidence)
        .chain(&flu)
        .map(|p| p.1)
        .fold(0.05, f64::max);
    svg(|area| {
        let names = ["coverage (share answered)", "error rate among answered"];
        let mut chart = axes(area, "Risk and coverage", names, 0.0..1.0, 0.0..most * 1.1)?;
        line(&mut chart, base, GREY, "base, by confidence")?;
        line(&mut chart, confidence, BLUE, "tuned, by confidence")?;
        if !flu.is_empty() {
            line(&mut chart, flu, ORANGE, "tuned, by FLU")?;
        }
        legend(&mut chart, SeriesLabelPosition::LowerRight)
    })
}

/// FLU of right and wrong answers; none without routers.
pub(super) fn flu_histogram(rows: &[ScoredRow]) -> Result<Option<String>, TrainError> {
    let values = |right: bool| -> Option<Vec<f64>> {
        rows.iter()
            .filter(|r| r.correct() == right)
            .map(|r| r.flu)
            .collect()
    };
    let (Some(right), Some(wrong)) = (values(true), values(false)) else {
        return Ok(None);
    };
    let all = || right.iter().chain(&wrong).copied();
    if all().next().is_none() {
        return Ok(None);
    }
    let (lo, hi) = all().fold((f64::MAX, f64::MIN), |(lo, hi), v| (lo.min(v), hi.max(v)));
    let (lo, hi) = (lo - 1e-3, hi + 1e-3);
    let bars = 30usize;
    let width = (hi - lo) / bars as f64;
    let share = |values: &[f64]| -> Vec<f64> {
        let mut counts = vec![0.0; bars];
        for v in values {
            counts[(((v - lo) / width) as usize).min(bars - 1)] += 1.0 / values.len() as f64;
        }
        counts
    };
    let (right, wrong) = (share(&right), share(&wrong));
    let most = right.iter().chain(&wrong).copied().fold(0.0, f64::max);
    svg(|area| {
        let names = ["FLU", "share of answers"];
        let title = "FLU of right and wrong answers";
        let mut chart = axes(area, title, names, lo..hi, 0.0..most * 1.1)?;
        for (shares, color, name) in [(right, BLUE, "right"), (wrong, ORANGE, "wrong")] {
            let bars = shares.into_iter().enumerate().map(|(i, s)| {
                let left = lo + i as f64 * width;
                Rectangle::new([(left, 0.0), (left + width, s)], color.mix(0.5).filled())
            });
            chart
                .draw_series(bars)
                .map_err(fail)?
                .label(name)
                .legend(move |(x, y)| {
                    Rectangle::new([(x, y - 4), (x + 12, y + 4)], color.mix(0.5).filled())
                });
        }
        legend(&mut chart, SeriesLabelPosition::UpperRight)
    })
    .map(Some)
}

/// A value over optimizer steps: training smoothed, held-out as it is. None without training.
pub(super) fn history(
    title: &str,
    history: &[MetricsLine],
    curves: &[(&str, &str, &str)],
) -> Result<Option<String>, TrainError> {
    let colors = [BLUE, ORANGE, GREEN, GREY];
    let mut found: Vec<(&str, Vec<(f64, f64)>)> = Vec::new();
    for (split, key, name) in curves {
        let mut mean = None;
        let points: Vec<(f64, f64)> = history
            .iter()
            .filter(|l| l.split == *split)
            .filter_map(|l| Some((l.step as f64, l.values.get(*key)?.as_f64()?)))
            .map(|(x, y)| {
                let next = match (mean, *split) {
                    (Some(m), "train") => 0.9 * m + 0.1 * y,
                    _ => y,
                };
                mean = Some(next);
                (x, next)
            })
            .collect();
        if points.len() > 1 {
            found.push((name, points));
        }
    }
    let points = || found.iter().flat_map(|(_, p)| p);
    if found.is_empty() {
        return Ok(None);
    }
    let last = points().map(|p| p.0).fold(1.0, f64::max);
    let most = points().map(|p| p.1).fold(0.0, f64::max) * 1.1;
    svg(|area| {
        let names = ["optimizer step", ""];
        let mut chart = axes(area, title, names, 0.0..last, 0.0..most.max(1e-6))?;
        for (i, (name, points)) in found.iter().enumerate() {
            line(&mut chart, points.clone(), colors[i % colors.len()], name)?;
        }
        legend(&mut chart, SeriesLabelPosition::UpperRight)
    })
    .map(Some)
}
