//! A table as Markdown, CSV and LaTeX; `serde_json` writes the whole of it as JSON.

mod csv;
mod latex;
mod markdown;
mod paired_tests;

pub use csv::csv;
pub use latex::latex;
pub use markdown::markdown;
pub use paired_tests::paired_tests;

use super::figure::Figure;
use super::results::ResultTable;

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

/// Places of a figure's values in a column; equal printed numbers share a place. One row alone has
/// none.
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

#[cfg(test)]
mod tests {
    use super::super::paired_tests::PairedTest;
    use super::super::results::{Cell, OverSeeds, RowCost, Value};
    use super::*;
    use crate::metric::Estimate;
    use crate::metric::paired::Difference;

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
                    p_value: Some(0.5),
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
            resamples: 1000,
            shifted: vec![false],
        }
    }

    #[test]
    fn paired_differences_are_bold_where_their_interval_excludes_zero() {
        let text = paired_tests(&table()).unwrap();
        assert!(text.contains("| | minus LoRA | OBQA |"), "{text}");
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
        // What has no difference has no line.
        assert!(!text.contains("MC_Drop"), "{text}");
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
