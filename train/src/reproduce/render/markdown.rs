//! A table as Markdown: every figure, the costs, the caption.

use std::fmt::Write;

use super::{Place, all_places, figures, number};
use crate::reproduce::figure::Figure;
use crate::reproduce::results::{ResultTable, Value};

fn arrow(figure: Figure) -> &'static str {
    match figure.higher_is_better() {
        true => "↑",
        false => "↓",
    }
}

fn markdown_cell(value: Option<&Value>, place: Place) -> String {
    let Some(value) = value else {
        return "–".into();
    };
    let mean = number(value.figure, value.over_seeds.mean);
    let mut text = match place {
        Place::Best => format!("**{mean}**"),
        Place::Second => format!("<u>{mean}</u>"),
        Place::Other => mean,
    };
    if let Some(deviation) = value.over_seeds.deviation {
        let _ = write!(text, " ± {}", number(value.figure, deviation));
    }
    if let Some(paper) = value.paper {
        let _ = write!(text, " [{}]", number(value.figure, paper));
    }
    text
}

/// The table with every figure, its costs and its caption.
pub fn markdown(table: &ResultTable) -> String {
    let mut text = format!("# {}\n\n", table.title);
    let first = table.sweep.as_deref().unwrap_or("Method");
    let _ = writeln!(text, "| | {first} | {} |", table.columns.join(" | "));
    let _ = writeln!(text, "|---|---|{}", "---:|".repeat(table.columns.len()));
    for figure in figures(table) {
        let by_column = all_places(table, figure);
        for (r, row) in table.rows.iter().enumerate() {
            let cells: Vec<String> = table
                .columns
                .iter()
                .zip(&by_column)
                .map(|(column, places)| markdown_cell(table.value(row, column, figure), places[r]))
                .collect();
            // FLU's figures belong to a few rows alone.
            if cells.iter().all(|cell| cell == "–") && figure != Figure::Accuracy {
                continue;
            }
            let head = format!("{} {}", figure.name(), arrow(figure));
            let _ = writeln!(text, "| {head} | {row} | {} |", cells.join(" | "));
        }
    }
    if !table.costs.is_empty() {
        text += "\n| Method | trained parameters | training, min | forward passes a question | s a question |\n|---|---:|---:|---:|---:|\n";
        for cost in &table.costs {
            let _ = writeln!(
                text,
                "| {} | {} | {:.1} | {} | {:.3} |",
                cost.row,
                cost.trainable_parameters,
                cost.training_seconds / 60.0,
                cost.forward_passes,
                cost.seconds_per_question
            );
        }
        text += "\nA backward pass counts as two forward passes. Training: of the first seed and dataset trained, all members together.\n";
    }
    text.push('\n');
    for sentence in &table.caption {
        let _ = writeln!(text, "{sentence}");
    }
    text
}
