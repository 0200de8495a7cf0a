//! Tables as pictures: grouped bars with error bars, curves with bands; reliability and risk of the
//! rows that matter most; calibration in distribution beside that under shift.

use plotters::prelude::*;

use super::figure::Figure;
use super::results::{Answers, OverSeeds, ResultTable};
use crate::error::TrainError;
use crate::metric::calibration::{BinEdge, reliability as binned};
use crate::report::chart::{
    self, Area, Cartesian, GREY, axes, draw_bins, fail, line, risk_curve, sized,
};

const SIZE: (u32, u32) = (900, 620);
/// Pixels at the right of a chart, for the names of its series.
const MARGIN: u32 = 150;
const COLORS: [RGBColor; 8] = [
    RGBColor(46, 107, 158),
    RGBColor(208, 112, 44),
    RGBColor(62, 140, 92),
    RGBColor(150, 90, 160),
    RGBColor(120, 120, 120),
    RGBColor(200, 60, 70),
    RGBColor(180, 160, 50),
    RGBColor(70, 170, 180),
];

/// Accuracy above, ECE below, as SVG; curves for a sweep, grouped bars otherwise.
///
/// # Errors
/// A plot that cannot be drawn.
pub fn svg(table: &ResultTable) -> Result<String, TrainError> {
    let names = match table.sweep {
        Some(_) => table.columns.len(),
        None => table.rows.len(),
    };
    sized((SIZE.0, SIZE.1.max(2 * legend_height(names))), |area| {
        let panels = area.split_evenly((2, 1));
        for (panel, figure) in panels.iter().zip([Figure::Accuracy, Figure::Ece]) {
            match table.sweep.as_deref() {
                Some(quantity) => curves(panel, table, figure, quantity)?,
                None => bars(panel, table, figure)?,
            }
        }
        Ok(())
    })
}

/// The most rows that a diagram has.
const DRAWN: usize = 6;
/// Rows that are drawn of a table of methods; other tables draw their first rows.
const METHODS: [&str; DRAWN] = ["Base", "LoRA", "Ensemble", "LLLA", "MixLoRA", "UQ4CT"];

fn drawn(table: &ResultTable) -> Vec<&Answers> {
    let known = |name: &str| METHODS.contains(&name);
    let methods = table.answers.iter().filter(|a| known(&a.row)).count() > 2;
    let rows = table.answers.iter();
    rows.filter(|a| !methods || known(&a.row))
        .take(DRAWN)
        .collect()
}

/// Accuracy by confidence in the first column, all seeds together: as the methods say it above,
/// after temperature scaling below, if it was calibrated. None without answers, and for a sweep.
///
/// # Errors
/// A plot that cannot be drawn.
pub fn reliability(table: &ResultTable) -> Result<Option<String>, TrainError> {
    let rows = drawn(table);
    let none = rows.is_empty() || table.sweep.is_some();
    let (Some(column), false) = (table.columns.first(), none) else {
        return Ok(None);
    };
    let calibrated = rows.iter().any(|answers| !answers.temperature.is_empty());
    let lines = if calibrated { 2 } else { 1 };
    let size = (230 * rows.len() as u32, 230 * lines as u32);
    sized(size, |area| {
        let panels = area.split_evenly((lines, rows.len()));
        let (above, below) = panels.split_at(rows.len());
        let bins = |pairs| binned(pairs, table.bins, BinEdge::Right);
        for (place, answers) in rows.iter().enumerate() {
            let title = format!("{}, {column}", answers.row);
            draw_bins(&above[place], &title, "confidence", &bins(&answers.plain))?;
            if let Some(below) = below.get(place) {
                let x_name = "confidence after temperature";
                draw_bins(below, &title, x_name, &bins(&answers.temperature))?;
            }
        }
        Ok(())
    })
    .map(Some)
}

/// Error rate of the most confident share of the answers in the first column, all seeds together.
/// None without answers, and for a sweep.
///
/// # Errors
/// A plot that cannot be drawn.
pub fn risk_coverage(table: &ResultTable) -> Result<Option<String>, TrainError> {
    let rows = drawn(table);
    let none = rows.is_empty() || table.sweep.is_some();
    let (Some(column), false) = (table.columns.first(), none) else {
        return Ok(None);
    };
    let curves: Vec<_> = rows.iter().map(|a| risk_curve(&a.plain)).collect();
    let most = curves.iter().flatten().map(|p| p.1).fold(0.05, f64::max);
    sized((640, 420), |area| {
        let names = ["coverage (share answered)", "error rate among answered"];
        let title = format!("Risk and coverage, {column}");
        let mut chart = axes(area, &title, names, 0.0..1.0, 0.0..most * 1.1)?;
        for ((answers, curve), color) in rows.iter().zip(curves).zip(COLORS) {
            line(&mut chart, curve, color, &answers.row)?;
        }
        chart::legend(&mut chart, SeriesLabelPosition::LowerRight, 11, GREY)
    })
    .map(Some)
}

/// Mean ECE of the columns that ask questions of the training's dataset, beside that of the columns
/// that ask others: a point for each row that has both whole. None where the table lacks one of the
/// two kinds, and for a sweep.
///
/// # Errors
/// A plot that cannot be drawn.
pub fn shift(table: &ResultTable) -> Result<Option<String>, TrainError> {
    let mean = |row: &str, shifted: bool| -> Option<f64> {
        let columns = table.columns.iter().zip(&table.shifted);
        let wanted = columns.filter(|(_, is)| **is == shifted);
        let values = wanted.map(|(column, _)| percent(table, row, column, Figure::Ece));
        let values: Vec<f64> = values
            .map(|value| value.map(|(mean, _)| mean))
            .collect::<Option<_>>()?;
        OverSeeds::of(&values).map(|over| over.mean)
    };
    let points: Vec<(&str, [f64; 2])> = table
        .rows
        .iter()
        .filter_map(|row| Some((row.as_str(), [mean(row, false)?, mean(row, true)?])))
        .collect();
    if points.is_empty() || table.sweep.is_some() {
        return Ok(None);
    }
    let all = points.iter().flat_map(|(_, both)| both);
    let most = all.copied().fold(1.0, f64::max) * 1.1;
    sized((SIZE.0, legend_height(points.len()).max(460)), |area| {
        let title = "Calibration in distribution and under shift";
        let names = (
            "mean ECE in distribution, %",
            Some("mean ECE under shift, %"),
        );
        let [x, y] = [0.0..most, 0.0..most];
        let mut chart = beside_legend(area, title, names, x, y)?;
        let mut legend = Vec::new();
        let even = vec![(0.0, 0.0), (most, most)];
        let even = LineSeries::new(even, RGBColor(200, 200, 200).stroke_width(1));
        chart.draw_series(even).map_err(fail)?;
        for (place, (row, [inside, shifted])) in points.iter().enumerate() {
            let color = COLORS[place % COLORS.len()].filled();
            // Beyond the colours, triangles.
            let at = (*inside, *shifted);
            let (mark, drawn) = match place < COLORS.len() {
                true => (
                    Mark::Dot,
                    chart.draw_series([Circle::new(at, 5, color)]).map(drop),
                ),
                false => (
                    Mark::Triangle,
                    chart
                        .draw_series([TriangleMarker::new(at, 6, color)])
                        .map(drop),
                ),
            };
            drawn.map_err(fail)?;
            legend.push((*row, mark, color));
        }
        draw_legend(area, &legend)
    })
    .map(Some)
}

/// Mean and deviation in percent.
fn percent(table: &ResultTable, row: &str, column: &str, figure: Figure) -> Option<(f64, f64)> {
    let over = table.value(row, column, figure)?.over_seeds;
    Some((over.mean * 100.0, over.deviation.unwrap_or(0.0) * 100.0))
}

/// A little above the highest bar or band.
fn top(table: &ResultTable, figure: Figure) -> f64 {
    let cells = table.rows.iter().flat_map(|row| {
        let columns = table.columns.iter();
        columns.filter_map(move |column| percent(table, row, column, figure))
    });
    cells
        .map(|(mean, deviation)| mean + deviation)
        .fold(1.0, f64::max)
        * 1.1
}

fn bars(area: &Area, table: &ResultTable, figure: Figure) -> Result<(), TrainError> {
    let (rows, columns) = (table.rows.len(), table.columns.len());
    let mut chart = ChartBuilder::on(area)
        .caption(format!("{}, %", figure.name()), ("sans-serif", 16))
        .margin(8)
        .margin_right(MARGIN)
        .x_label_area_size(28)
        .y_label_area_size(44)
        .build_cartesian_2d(0.0..columns as f64, 0.0..top(table, figure))
        .map_err(fail)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .bold_line_style(RGBColor(232, 232, 232))
        .light_line_style(WHITE)
        .x_labels(0)
        .label_style(("sans-serif", 12))
        .draw()
        .map_err(fail)?;
    let mut legend = Vec::new();
    let width = 0.84 / rows.max(1) as f64;
    for (r, row) in table.rows.iter().enumerate() {
        // Paler each time that the colours are through.
        let paler = 1.0 / (1 + r / COLORS.len()) as f64;
        let style = COLORS[r % COLORS.len()].mix(paler).filled();
        let found: Vec<(usize, (f64, f64))> = table
            .columns
            .iter()
            .enumerate()
            .filter_map(|(c, column)| Some((c, percent(table, row, column, figure)?)))
            .collect();
        let left = |c: usize| c as f64 + 0.08 + r as f64 * width;
        chart
            .draw_series(found.iter().map(|(c, (mean, _))| {
                Rectangle::new([(left(*c), 0.0), (left(*c) + width * 0.92, *mean)], style)
            }))
            .map_err(fail)?;
        legend.push((row.as_str(), Mark::Bar, style));
        let whiskers = found.iter().filter(|(_, (_, deviation))| *deviation > 0.0);
        chart
            .draw_series(whiskers.map(|(c, (mean, deviation))| {
                let x = left(*c) + width * 0.46;
                PathElement::new(vec![(x, mean - deviation), (x, mean + deviation)], BLACK)
            }))
            .map_err(fail)?;
    }
    let font = ("sans-serif", 13).into_font();
    for (c, column) in table.columns.iter().enumerate() {
        let (x, y) = chart.backend_coord(&(c as f64 + 0.5, 0.0));
        let anchor = plotters::style::text_anchor::Pos::new(
            plotters::style::text_anchor::HPos::Center,
            plotters::style::text_anchor::VPos::Top,
        );
        let (left, upper) = area.get_base_pixel();
        area.draw(&Text::new(
            column.clone(),
            (x - left, y - upper + 6),
            font.clone().into_text_style(area).pos(anchor),
        ))
        .map_err(fail)?;
    }
    draw_legend(area, &legend)
}

fn curves(
    area: &Area,
    table: &ResultTable,
    figure: Figure,
    quantity: &str,
) -> Result<(), TrainError> {
    let places: Vec<(f64, &String)> = table
        .rows
        .iter()
        .filter_map(|row| Some((row.parse().ok()?, row)))
        .collect();
    let first = places.first().map_or(0.0, |(x, _)| *x);
    let last = places.last().map_or(1.0, |(x, _)| *x);
    let room = ((last - first) * 0.04).max(0.05);
    let title = format!("{}, %", figure.name());
    let [x, y] = [first - room..last + room, 0.0..top(table, figure)];
    let mut chart = beside_legend(area, &title, (quantity, None), x, y)?;
    let mut legend = Vec::new();
    for (c, column) in table.columns.iter().enumerate() {
        let color = COLORS[c % COLORS.len()];
        let points: Vec<(f64, f64, f64)> = places
            .iter()
            .filter_map(|(x, row)| {
                let (mean, deviation) = percent(table, row, column, figure)?;
                Some((*x, mean, deviation))
            })
            .collect();
        let upper = points
            .iter()
            .map(|(x, mean, deviation)| (*x, mean + deviation));
        let lower = points
            .iter()
            .rev()
            .map(|(x, mean, deviation)| (*x, mean - deviation));
        let band: Vec<(f64, f64)> = upper.chain(lower).collect();
        chart
            .draw_series(std::iter::once(Polygon::new(band, color.mix(0.2))))
            .map_err(fail)?;
        chart
            .draw_series(LineSeries::new(
                points.iter().map(|(x, mean, _)| (*x, *mean)),
                color.stroke_width(2),
            ))
            .map_err(fail)?;
        legend.push((column.as_str(), Mark::Line, color.stroke_width(2)));
        chart
            .draw_series(
                points
                    .iter()
                    .map(|(x, mean, _)| Circle::new((*x, *mean), 3, color.filled())),
            )
            .map_err(fail)?;
    }
    draw_legend(area, &legend)
}

/// A chart with named axes, y only where its name is given, that leaves room for [`draw_legend`].
fn beside_legend<'a, 'b>(
    area: &'a Area<'b>,
    title: &str,
    (x_name, y_name): (&str, Option<&str>),
    x: std::ops::Range<f64>,
    y: std::ops::Range<f64>,
) -> Result<Cartesian<'a, 'b>, TrainError> {
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 16))
        .margin(8)
        .margin_right(MARGIN)
        .x_label_area_size(34)
        .y_label_area_size(44)
        .build_cartesian_2d(x, y)
        .map_err(fail)?;
    let mut mesh = chart.configure_mesh();
    mesh.x_desc(x_name)
        .bold_line_style(RGBColor(232, 232, 232))
        .light_line_style(WHITE)
        .label_style(("sans-serif", 12));
    if let Some(name) = y_name {
        mesh.y_desc(name);
    }
    mesh.draw().map_err(fail)?;
    drop(mesh);
    Ok(chart)
}

/// Where a legend's first name stands, and how far the next is below it.
const LEGEND_TOP: u32 = 40;
const NAME_HEIGHT: u32 = 15;

/// What a panel needs so that the legend's last name is not cut off.
fn legend_height(names: usize) -> u32 {
    LEGEND_TOP + NAME_HEIGHT * names as u32
}

/// What a name in the legend stands beside.
#[derive(Clone, Copy)]
enum Mark {
    Bar,
    Line,
    Dot,
    Triangle,
}

/// The names in the margin at the right. Not plotters' own: that draws inside the axes alone, and
/// pushes what lies outside onto their edge.
fn draw_legend(area: &Area, names: &[(&str, Mark, ShapeStyle)]) -> Result<(), TrainError> {
    let left = area.dim_in_pixel().0 as i32 - MARGIN as i32 + 8;
    let font = ("sans-serif", 12).into_font();
    for (place, (name, mark, style)) in names.iter().enumerate() {
        let y = (LEGEND_TOP + NAME_HEIGHT * place as u32) as i32;
        let drawn = match mark {
            Mark::Bar => area.draw(&Rectangle::new([(left, y - 5), (left + 10, y + 5)], *style)),
            Mark::Line => area.draw(&PathElement::new(vec![(left, y), (left + 12, y)], *style)),
            Mark::Dot => area.draw(&Circle::new((left + 5, y), 5, *style)),
            Mark::Triangle => area.draw(&TriangleMarker::new((left + 5, y), 6, *style)),
        };
        drawn.map_err(fail)?;
        let name = Text::new((*name).to_owned(), (left + 18, y - 5), font.clone());
        area.draw(&name).map_err(fail)?;
    }
    Ok(())
}
