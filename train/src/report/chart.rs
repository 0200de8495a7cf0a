//! What every picture is drawn with: an SVG, axes, lines, legends, bins.

use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use crate::error::TrainError;
use crate::metric::Outcome;
use crate::metric::calibration::Bin;
use crate::metric::ranking::risk_coverage;

pub(super) const BLUE: RGBColor = RGBColor(46, 107, 158);
pub(super) const ORANGE: RGBColor = RGBColor(208, 112, 44);
pub(super) const GREEN: RGBColor = RGBColor(62, 140, 92);
pub(super) const VIOLET: RGBColor = RGBColor(150, 90, 160);
pub(super) const TEAL: RGBColor = RGBColor(29, 127, 138);
pub(crate) const GREY: RGBColor = RGBColor(140, 140, 140);

/// What is drawn on: an SVG, or a part of one.
pub(crate) type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
/// A chart of two linear axes.
pub(crate) type Cartesian<'a, 'b> =
    ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

pub(crate) fn fail(error: impl std::fmt::Display) -> TrainError {
    TrainError::Training(format!("a plot could not be drawn: {error}"))
}

/// Draws on a fresh white SVG of this size in pixels and returns its text.
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

/// A chart with a title, named axes and a light grid.
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

/// The names of the series, in letters of `size`, in a box with this border.
pub(crate) fn legend<'a, 'b: 'a>(
    chart: &mut Cartesian<'a, 'b>,
    position: SeriesLabelPosition,
    size: u32,
    border: impl Into<ShapeStyle>,
) -> Result<(), TrainError> {
    chart
        .configure_series_labels()
        .position(position)
        .background_style(WHITE.mix(0.8))
        .border_style(border)
        .label_font(("sans-serif", size))
        .draw()
        .map_err(fail)
}

/// A line with its name in the legend.
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
