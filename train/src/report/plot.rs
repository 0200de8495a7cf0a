//! The report's plots: SVG as wide as a phone, with letters that can be read there. Titles and
//! legends are text of the page; colours and strokes are the style's.

use std::ops::Range;

use plotters::prelude::*;

use super::chart::{
    Area, BLUE, Cartesian, GREEN, GREY, ORANGE, TEAL, VIOLET, fail, risk_curve, sized,
};
use super::shell::{Figure, Key};
use crate::error::TrainError;
use crate::metric::calibration::{Bin, BinEdge, reliability};
use crate::metric::{Outcome, outcomes};
use crate::prediction::ScoredRow;
use crate::tracker::MetricsLine;

const SIZE: (u32, u32) = (344, 280);
/// Of the letters; plotters' sizes are 1.24 times those of CSS.
const LETTERS: u32 = 15;
/// Rows of pixels for the bars that count a bin's questions.
const COUNTS: u32 = 84;

/// Colours, each with its class in the style.
const SERIES: [(RGBColor, &str); 6] = [
    (BLUE, "blue"),
    (ORANGE, "orange"),
    (GREEN, "green"),
    (VIOLET, "violet"),
    (TEAL, "teal"),
    (GREY, "grey"),
];

fn key(class: &'static str, name: &str) -> Key {
    Key {
        class,
        name: name.to_owned(),
    }
}

/// Axes with a light grid.
fn axes<'a, 'b>(
    area: &'a Area<'b>,
    [x_name, y_name]: [&str; 2],
    x: Range<f64>,
    y: Range<f64>,
    y_labels: usize,
) -> Result<Cartesian<'a, 'b>, TrainError> {
    // No more digits than there are.
    let tick = |value: &f64| format!("{}", (value * 1e4).round() / 1e4);
    let mut builder = ChartBuilder::on(area);
    builder
        .margin(4)
        .margin_top(10)
        // Half of the last tick's letters.
        .margin_right(16)
        .x_label_area_size(if x_name.is_empty() { 8 } else { 40 })
        .y_label_area_size(58);
    let mut chart = builder.build_cartesian_2d(x, y).map_err(fail)?;
    let mut mesh = chart.configure_mesh();
    mesh.y_desc(y_name)
        .x_labels(if x_name.is_empty() { 0 } else { 5 })
        .y_labels(y_labels)
        .x_label_formatter(&tick)
        .y_label_formatter(&tick)
        .max_light_lines(0)
        .bold_line_style(RGBColor(232, 232, 232))
        .axis_desc_style(("sans-serif", LETTERS))
        .label_style(("sans-serif", LETTERS));
    if !x_name.is_empty() {
        mesh.x_desc(x_name);
    }
    mesh.draw().map_err(fail)?;
    Ok(chart)
}

/// A line.
fn curve(
    chart: &mut Cartesian,
    points: Vec<(f64, f64)>,
    color: RGBColor,
) -> Result<(), TrainError> {
    chart
        .draw_series(LineSeries::new(points, color.stroke_width(2)))
        .map_err(fail)?;
    Ok(())
}

/// Accuracy by confidence, and how many questions each bin has; the gap to the diagonal is the
/// miscalibration.
pub(crate) fn reliability_diagram(
    title: &str,
    rows: &[ScoredRow],
    bins: usize,
) -> Result<Figure, TrainError> {
    let refs: Vec<&ScoredRow> = rows.iter().collect();
    let found = reliability(&outcomes(&refs), bins, BinEdge::Right);
    diagram(title, "confidence", &found)
}

/// Accuracy by FLU, taken as a confidence; none without routers.
pub(super) fn flu_diagram(
    title: &str,
    rows: &[ScoredRow],
    bins: usize,
) -> Result<Option<Figure>, TrainError> {
    let pairs: Option<Vec<Outcome>> = rows.iter().map(|r| Some((r.flu?, r.correct()))).collect();
    match pairs {
        Some(pairs) if !pairs.is_empty() => {
            let found = reliability(&pairs, bins, BinEdge::Right);
            diagram(title, "FLU", &found).map(Some)
        }
        _ => Ok(None),
    }
}

fn diagram(title: &str, x_name: &str, bins: &[Bin]) -> Result<Figure, TrainError> {
    let filled: Vec<&Bin> = bins.iter().filter(|bin| bin.count > 0).collect();
    let said = |bin: &Bin| {
        let (accuracy, confidence) = (bin.accuracy * 100.0, bin.confidence * 100.0);
        format!(
            "{accuracy:.0} % of {} right at {x_name} {confidence:.0} %",
            bin.count
        )
    };
    let said: Vec<String> = filled.iter().map(|bin| said(bin)).collect();
    let svg = sized(SIZE, |area| {
        let (above, below) = area.split_vertically(SIZE.1 - COUNTS);
        draw_accuracy(&above, bins)?;
        draw_counts(&below, x_name, bins)
    })?;
    Ok(Figure {
        title: title.to_owned(),
        alt: format!("{title}: {}.", said.join(", ")),
        svg,
        keys: vec![
            key("block blue", "accuracy"),
            key("block orange", &format!("gap to the {x_name}")),
            key("grey", "calibrated"),
        ],
    })
}

/// The columns of a diagram's bins.
fn columns(bins: &[Bin]) -> impl Iterator<Item = (f64, f64, &Bin)> {
    let width = 1.0 / bins.len() as f64;
    let places = bins.iter().enumerate();
    places
        .map(move |(i, bin)| (i as f64 * width, (i + 1) as f64 * width, bin))
        .filter(|(_, _, bin)| bin.count > 0)
}

fn draw_accuracy(area: &Area, bins: &[Bin]) -> Result<(), TrainError> {
    let mut chart = axes(area, ["", "accuracy"], 0.0..1.0, 0.0..1.0, 5)?;
    for (left, right, bin) in columns(bins) {
        let bar = |from: f64, to: f64, style: ShapeStyle| {
            Rectangle::new([(left, from), (right, to)], style)
        };
        chart
            .draw_series([
                bar(0.0, bin.accuracy, BLUE.mix(0.75).filled()),
                bar(bin.accuracy, bin.confidence, ORANGE.mix(0.45).filled()),
                bar(0.0, bin.accuracy, BLUE.stroke_width(1)),
            ])
            .map_err(fail)?;
    }
    curve(&mut chart, vec![(0.0, 0.0), (1.0, 1.0)], GREY)
}

fn draw_counts(area: &Area, x_name: &str, bins: &[Bin]) -> Result<(), TrainError> {
    let most = bins.iter().map(|bin| bin.count).max().unwrap_or(0).max(1) as f64;
    let mut chart = axes(area, [x_name, "n"], 0.0..1.0, 0.0..most, 2)?;
    let bars = columns(bins).map(|(left, right, bin)| {
        Rectangle::new(
            [(left, 0.0), (right, bin.count as f64)],
            BLUE.mix(0.4).filled(),
        )
    });
    chart.draw_series(bars).map_err(fail)?;
    Ok(())
}

/// Error rate of the most confident share, by confidence of base and tuned model and by FLU.
pub(super) fn risk_coverage_curve(
    base: &[ScoredRow],
    tuned: &[ScoredRow],
) -> Result<Figure, TrainError> {
    let by_confidence = |rows: &[ScoredRow]| {
        let refs: Vec<&ScoredRow> = rows.iter().collect();
        risk_curve(&outcomes(&refs))
    };
    let mut curves = vec![
        ("base, by confidence".to_owned(), 5, by_confidence(base)),
        ("tuned, by confidence".to_owned(), 0, by_confidence(tuned)),
    ];
    let pairs: Option<Vec<Outcome>> = tuned.iter().map(|r| Some((r.flu?, r.correct()))).collect();
    if let Some(pairs) = pairs.filter(|pairs| !pairs.is_empty()) {
        curves.push(("tuned, by FLU".to_owned(), 1, risk_curve(&pairs)));
    }
    risks(&curves)
}

/// Error rate of the most confident share of several runs.
pub(crate) fn risks_of(runs: &[(&str, &[ScoredRow])]) -> Result<Figure, TrainError> {
    let curves: Vec<_> = runs
        .iter()
        .enumerate()
        .map(|(turn, (name, rows))| {
            let refs: Vec<&ScoredRow> = rows.iter().collect();
            let points = risk_curve(&outcomes(&refs));
            ((*name).to_owned(), turn % SERIES.len(), points)
        })
        .collect();
    risks(&curves)
}

/// Name, series and points of a curve of risk against coverage.
type Risks = (String, usize, Vec<(f64, f64)>);

fn risks(curves: &[Risks]) -> Result<Figure, TrainError> {
    let risks = curves.iter().flat_map(|(_, _, points)| points);
    let most = risks.map(|p| p.1).fold(0.05, f64::max) * 1.1;
    let said = curves.iter().filter_map(|(name, _, points)| {
        let half = points.iter().find(|point| point.0 >= 0.5)?;
        let all = points.last()?;
        let (half, all) = (half.1 * 100.0, all.1 * 100.0);
        Some(format!(
            "{name}, {half:.0} % of the surer half and {all:.0} % of all"
        ))
    });
    let said: Vec<String> = said.collect();
    let svg = sized(SIZE, |area| {
        let names = ["coverage (share answered)", "error rate"];
        let mut chart = axes(area, names, 0.0..1.0, 0.0..most, 5)?;
        for (_, series, points) in curves {
            curve(&mut chart, points.clone(), SERIES[*series].0)?;
        }
        Ok(())
    })?;
    let keys = curves.iter();
    Ok(Figure {
        title: "Risk and coverage: errors among the answers given".into(),
        alt: format!(
            "Errors among the most confident answers: {}.",
            said.join("; ")
        ),
        svg,
        keys: keys
            .map(|(name, series, _)| key(SERIES[*series].1, name))
            .collect(),
    })
}

/// FLU of right and wrong answers; none without routers.
pub(super) fn flu_histogram(rows: &[ScoredRow]) -> Result<Option<Figure>, TrainError> {
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
    let mean = |values: &[f64]| match values.len() {
        0 => "no mean".to_owned(),
        n => format!("mean {:.3}", values.iter().sum::<f64>() / n as f64),
    };
    let alt = format!(
        "FLU of {} right answers, {}, and of {} wrong ones, {}.",
        right.len(),
        mean(&right),
        wrong.len(),
        mean(&wrong)
    );
    let (right, wrong) = (share(&right), share(&wrong));
    let most = right.iter().chain(&wrong).copied().fold(0.0, f64::max);
    let svg = sized(SIZE, |area| {
        let names = ["FLU", "share of answers"];
        let mut chart = axes(area, names, lo..hi, 0.0..most * 1.1, 5)?;
        for (shares, color) in [(&right, BLUE), (&wrong, ORANGE)] {
            let bars = shares.iter().enumerate().map(|(i, s)| {
                let left = lo + i as f64 * width;
                Rectangle::new([(left, 0.0), (left + width, *s)], color.mix(0.5).filled())
            });
            chart.draw_series(bars).map_err(fail)?;
            // The outline tells them apart without colours, too.
            let outline = shares.iter().enumerate().flat_map(|(i, s)| {
                let left = lo + i as f64 * width;
                [(left, *s), (left + width, *s)]
            });
            curve(&mut chart, outline.collect(), color)?;
        }
        Ok(())
    })?;
    Ok(Some(Figure {
        title: "FLU of right and wrong answers".into(),
        alt,
        svg,
        keys: vec![key("blue", "right"), key("orange", "wrong")],
    }))
}

/// A value over optimizer steps: training smoothed, held-out as it is. None without training.
pub(super) fn history(
    title: &str,
    history: &[MetricsLine],
    curves: &[(&str, &str, &str)],
) -> Result<Option<Figure>, TrainError> {
    let mut found: Vec<(&str, Vec<(f64, f64)>)> = Vec::new();
    for (split, name, shown) in curves {
        let mut mean = None;
        let points: Vec<(f64, f64)> = history
            .iter()
            .filter(|l| l.split == *split)
            .filter_map(|l| Some((l.step as f64, l.values.get(*name)?.as_f64()?)))
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
            found.push((shown, points));
        }
    }
    let points = || found.iter().flat_map(|(_, p)| p);
    if found.is_empty() {
        return Ok(None);
    }
    let last = points().map(|p| p.0).fold(1.0, f64::max);
    let most = points().map(|p| p.1).fold(0.0, f64::max) * 1.1;
    let series = |turn: usize| SERIES[turn % SERIES.len()];
    let svg = sized(SIZE, |area| {
        let names = ["optimizer step", ""];
        let mut chart = axes(area, names, 0.0..last, 0.0..most.max(1e-6), 5)?;
        for (turn, (_, points)) in found.iter().enumerate() {
            curve(&mut chart, points.clone(), series(turn).0)?;
        }
        Ok(())
    })?;
    let said = found.iter().map(|(name, points)| {
        let (first, last) = (points[0], points[points.len() - 1]);
        format!(
            "{name} from {:.3} at step {} to {:.3} at step {}",
            first.1, first.0, last.1, last.0
        )
    });
    let said: Vec<String> = said.collect();
    let keys = found.iter().enumerate();
    Ok(Some(Figure {
        title: title.to_owned(),
        alt: format!("{title}: {}.", said.join("; ")),
        svg,
        keys: keys
            .map(|(turn, (name, _))| key(series(turn).1, name))
            .collect(),
    }))
}
