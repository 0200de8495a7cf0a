//! A table as Markdown, CSV and LaTeX; `serde_json` writes the whole of it as JSON.

use std::fmt::Write;

use super::results::{Figure, ResultTable, Value};
use crate::metric::paired::Difference;
use crate::metric::{Bootstrap, Estimate};

/// A number as it is printed: shares in percent with a decimal, others with three.
fn number(figure: Figure, value: f64) -> String {
    match figure.is_share() {
        true => format!("{:.1}", value * 100.0),
        false => format!("{value:.3}"),
    }
}

/// A value's place in its column: best, second best, or neither.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Best,
    Second,
    Other,
}

/// Places of a figure's values in a column; equal printed numbers share a place. One row alone has none.
fn places(table: &ResultTable, column: &str, figure: Figure) -> Vec<Place> {
    let printed: Vec<Option<f64>> = table
        .rows
        .iter()
        .map(|row| {
            let value = table.value(row, column, figure)?;
            number(figure, value.over_seeds.mean).parse().ok()
        })
        .collect();
    let mut distinct: Vec<f64> = printed.iter().flatten().copied().collect();
    distinct.sort_by(f64::total_cmp);
    distinct.dedup();
    if figure.higher_is_better() {
        distinct.reverse();
    }
    let several = printed.iter().flatten().count() > 1;
    printed
        .iter()
        .map(|value| match value {
            Some(v) if several && Some(v) == distinct.first() => Place::Best,
            Some(v) if several && Some(v) == distinct.get(1) => Place::Second,
            _ => Place::Other,
        })
        .collect()
}

/// Places of a figure's values, column by column.
fn all_places(table: &ResultTable, figure: Figure) -> Vec<Vec<Place>> {
    let columns = table.columns.iter();
    columns
        .map(|column| places(table, column, figure))
        .collect()
}

/// Figures that at least one cell has.
fn figures(table: &ResultTable) -> Vec<Figure> {
    let known = |figure: &Figure| {
        table
            .cells
            .iter()
            .any(|cell| cell.values.iter().any(|v| v.figure == *figure))
    };
    Figure::ALL.into_iter().filter(known).collect()
}

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

/// What the paired tests print, with the row of the Differences and whether it is a share.
const TESTED: [(&str, usize, bool); 3] = [("ACC", 0, true), ("ECE", 1, true), ("NLL", 2, false)];

/// Every row less LoRA, and less MixLoRA, with 95 % intervals of the paired bootstrap; nothing where neither has been evaluated.
pub fn paired_tests(table: &ResultTable) -> Option<String> {
    let mut references: Vec<&str> = table.tests.iter().map(|t| t.reference.as_str()).collect();
    references.dedup();
    references.sort_unstable();
    references.dedup();
    let mut text = format!("# {}: paired differences\n", table.title);
    for reference in &references {
        let _ = writeln!(
            text,
            "\n| | less {reference} | {} |",
            table.columns.join(" | ")
        );
        let _ = writeln!(text, "|---|---|{}", "---:|".repeat(table.columns.len()));
        for (name, place, share) in TESTED {
            for row in table.rows.iter().filter(|row| row != reference) {
                let cells = table.columns.iter().map(|column| {
                    let found = table.tests.iter().find(|test| {
                        test.reference == *reference && test.row == *row && test.column == *column
                    });
                    found.map_or("–".into(), |test| {
                        difference(&test.differences[place], share)
                    })
                });
                let cells: Vec<String> = cells.collect();
                let _ = writeln!(text, "| {name} | {row} | {} |", cells.join(" | "));
            }
        }
    }
    let _ = writeln!(
        text,
        "\nIn brackets the 95 % interval of the paired bootstrap over questions ({} resamples; averaged over the seeds that both rows have); bold where it excludes zero, which one in twenty does by chance. An ECE is too large on few questions, the more so the better the calibration and the wider the confidences are spread: no interval mends that.",
        Bootstrap::default().resamples
    );
    (!references.is_empty()).then_some(text)
}

/// Zero has no sign.
fn signed(number: String) -> String {
    match number[1..].trim_matches(['0', '.']).is_empty() {
        true => number[1..].to_owned(),
        false => number,
    }
}

/// `+1.5 [-0.5, 3.5]`, bold where the interval excludes zero.
fn difference(found: &Difference, share: bool) -> String {
    let number = |value: Option<f64>| match (value, share) {
        (Some(v), true) => signed(format!("{:+.1}", v * 100.0)),
        (Some(v), false) => signed(format!("{v:+.3}")),
        (None, _) => "–".into(),
    };
    let Estimate { value, low, high } = found.estimate;
    let [value, low, high] = [value, low, high].map(number);
    let text = format!("{value} [{low}, {high}]");
    // By what is printed: zero has no sign.
    match low.starts_with('+') || high.starts_with('-') {
        true => format!("**{text}**"),
        false => text,
    }
}

/// One line a figure and cell.
pub fn csv(table: &ResultTable) -> String {
    let mut text = String::from("table,row,column,figure,mean,deviation,seeds,n,paper\n");
    // The last digits of a sum differ between machines.
    let short = |v: f64| format!("{v:.6}");
    let plain = |value: Option<f64>| value.map_or(String::new(), short);
    let quoted = |field: &str| match field.contains([',', '"']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field.to_owned(),
    };
    for cell in &table.cells {
        for value in &cell.values {
            let _ = writeln!(
                text,
                "{},{},{},{},{},{},{},{},{}",
                table.name,
                quoted(&cell.row),
                quoted(&cell.column),
                quoted(value.figure.name()),
                short(value.over_seeds.mean),
                plain(value.over_seeds.deviation),
                cell.seeds,
                cell.n,
                plain(value.paper)
            );
        }
    }
    text
}

fn escape(text: &str) -> String {
    text.replace('_', "\\_")
        .replace('%', "\\%")
        .replace('&', "\\&")
}

/// The paper's two figures in its layout, for `booktabs`.
pub fn latex(table: &ResultTable) -> String {
    let columns = table.columns.len();
    let mut text = format!(
        "\\begin{{table}}\n\\centering\n\\caption{{{}}}\n\\begin{{tabular}}{{ll{}}}\n\\toprule\n",
        escape(&[&*table.title, ". ", &table.caption.join(" ")].concat()),
        "r".repeat(columns)
    );
    let heads: Vec<String> = table.columns.iter().map(|c| escape(c)).collect();
    let first = table.sweep.as_deref().unwrap_or("Method");
    let _ = writeln!(text, "Metric & {first} & {} \\\\", heads.join(" & "));
    for figure in [Figure::Accuracy, Figure::Ece] {
        text += "\\midrule\n";
        let by_column = all_places(table, figure);
        for (r, row) in table.rows.iter().enumerate() {
            let arrow = if figure.higher_is_better() {
                "\\uparrow"
            } else {
                "\\downarrow"
            };
            let head = match r {
                0 => format!("{} ${arrow}$", figure.name()),
                _ => String::new(),
            };
            let cells: Vec<String> = table
                .columns
                .iter()
                .zip(&by_column)
                .map(|(column, places)| latex_cell(table.value(row, column, figure), places[r]))
                .collect();
            let _ = writeln!(
                text,
                "{head} & {} & {} \\\\",
                escape(row),
                cells.join(" & ")
            );
        }
    }
    text += "\\bottomrule\n\\end{tabular}\n\\end{table}\n";
    text
}

fn latex_cell(value: Option<&Value>, place: Place) -> String {
    let Some(value) = value else {
        return "--".into();
    };
    let mean = number(value.figure, value.over_seeds.mean);
    let mean = match place {
        Place::Best => format!("\\mathbf{{{mean}}}"),
        Place::Second => format!("\\underline{{{mean}}}"),
        Place::Other => mean,
    };
    let deviation = value.over_seeds.deviation;
    let below = deviation.map_or(String::new(), |deviation| {
        format!("_{{{}}}", number(value.figure, deviation))
    });
    let paper = value.paper.map_or(String::new(), |paper| {
        format!(" [{}]", number(value.figure, paper))
    });
    format!("${mean}{below}${paper}")
}

#[cfg(test)]
mod tests {
    use super::super::results::{Cell, OverSeeds, PairedTest, RowCost};
    use super::*;

    fn table() -> ResultTable {
        let value = |figure, seeds: &[f64], paper| Value {
            figure,
            seeds: seeds.to_vec(),
            over_seeds: OverSeeds::of(seeds).unwrap(),
            paper,
        };
        let cell = |row: &str, accuracy: &[f64], ece: &[f64]| Cell {
            row: row.into(),
            column: "OBQA".into(),
            n: 8,
            seeds: accuracy.len(),
            values: vec![
                value(Figure::Accuracy, accuracy, (row == "LoRA").then_some(0.721)),
                value(Figure::Ece, ece, None),
                value(Figure::Nll, ece, None),
            ],
        };
        ResultTable {
            name: "table1".into(),
            title: "Shift".into(),
            sweep: None,
            rows: vec!["LoRA".into(), "MC_Drop".into(), "UQ4CT".into()],
            columns: vec!["OBQA".into()],
            caption: vec!["100 % made up.".into()],
            cells: vec![
                cell("LoRA", &[0.5, 0.6], &[0.2, 0.1]),
                cell("MC_Drop", &[0.7, 0.7], &[0.3, 0.3]),
                cell("UQ4CT", &[0.55, 0.65], &[0.05, 0.06]),
            ],
            tests: vec![PairedTest {
                reference: "LoRA".into(),
                row: "UQ4CT".into(),
                column: "OBQA".into(),
                differences: [
                    [0.05, -0.01, 0.11],
                    [-0.1, -0.15, -0.05],
                    [0.0; 3],
                    [0.0; 3],
                ]
                .map(|[value, low, high]| Difference {
                    estimate: Estimate {
                        value: Some(value),
                        low: Some(low),
                        high: Some(high),
                    },
                    p_value: 0.5,
                }),
            }],
            costs: vec![RowCost {
                row: "LoRA".into(),
                trainable_parameters: 100,
                training_seconds: 90.0,
                forward_passes: 1,
                seconds_per_question: 0.25,
            }],
            answers: Vec::new(),
            bins: 15,
        }
    }

    #[test]
    fn paired_differences_are_bold_where_their_interval_excludes_zero() {
        let text = paired_tests(&table()).unwrap();
        assert!(text.contains("| | less LoRA | OBQA |"), "{text}");
        assert!(
            text.contains("| ACC | UQ4CT | +5.0 [-1.0, +11.0] |"),
            "{text}"
        );
        assert!(
            text.contains("| ECE | UQ4CT | **-10.0 [-15.0, -5.0]** |"),
            "{text}"
        );
        assert!(
            text.contains("| NLL | UQ4CT | 0.000 [0.000, 0.000] |"),
            "{text}"
        );
        assert!(text.contains("| ACC | MC_Drop | – |"), "{text}");
        let alone = ResultTable {
            tests: vec![],
            ..table()
        };
        assert!(paired_tests(&alone).is_none());
    }

    #[test]
    fn best_and_second_are_marked_by_what_is_printed() {
        let text = markdown(&table());
        assert!(
            text.contains("| ACC ↑ | LoRA | 55.0 ± 7.1 [72.1] |"),
            "{text}"
        );
        assert!(
            text.contains("| ACC ↑ | MC_Drop | **70.0** ± 0.0 |"),
            "{text}"
        );
        assert!(
            text.contains("| ECE ↓ | LoRA | <u>15.0</u> ± 7.1 |"),
            "{text}"
        );
        assert!(
            text.contains("| NLL ↓ | UQ4CT | **0.055** ± 0.007 |"),
            "{text}"
        );
        assert!(text.contains("| LoRA | 100 | 1.5 | 1 | 0.250 |"), "{text}");
        let latex = latex(&table());
        assert!(
            latex.contains("ACC $\\uparrow$ & LoRA & $55.0_{7.1}$"),
            "{latex}"
        );
        assert!(
            latex.contains(" & MC\\_Drop & $\\mathbf{70.0}_{0.0}$"),
            "{latex}"
        );
        assert!(latex.contains("100 \\% made up."));
        let csv = csv(&table());
        assert_eq!(csv.lines().count(), 10);
        assert!(
            csv.contains("table1,LoRA,OBQA,ACC,0.550000,0.070711,2,8,0.721000\n"),
            "{csv}"
        );
    }
}
