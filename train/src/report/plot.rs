//! The report's plots as SVG.

use plotters::prelude::*;

use super::chart::{
    self, Area, BLUE, Cartesian, GREEN, GREY, ORANGE, axes, draw_bins, fail, line, risk_curve,
    sized,
};
use crate::error::TrainError;
use crate::metric::calibration::{Bin, BinEdge, reliability};
use crate::metric::{Outcome, outcomes};
use crate::prediction::ScoredRow;
use crate::tracker::MetricsLine;

const SIZE: (u32, u32) = (440, 330);
/// Draws on a fresh SVG of the report's size and returns its text.
fn svg(draw: impl FnOnce(&Area) -> Result<(), TrainError>) -> Result<String, TrainError> {
    sized(SIZE, draw)
}

/// A legend of the report's size.
fn legend<'a, 'b: 'a>(
    chart: &mut Cartesian<'a, 'b>,
    position: SeriesLabelPosition,
) -> Result<(), TrainError> {
    chart::legend(chart, position, 11, GREY)
}

/// Accuracy by confidence with the number of questions over each bar; the gap to the diagonal is
/// the miscalibration.
pub(crate) fn reliability_diagram(
    title: &str,
    rows: &[ScoredRow],
    bins: usize,
) -> Result<String, TrainError> {
    let refs: Vec<&ScoredRow> = rows.iter().collect();
    let found = reliability(&outcomes(&refs), bins, BinEdge::Right);
    diagram(title, "confidence", &found)
}

/// Accuracy by FLU, taken as a confidence; none without routers.
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
